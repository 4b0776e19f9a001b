"""A small CNN that reads 16x16 digits: the judge of the generated images.

It never runs on the accelerator; it only turns "does this look like a 7?"
into a number.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

WEIGHTS = Path(__file__).with_name("digits_classifier.safetensors")


class DigitClassifier(nn.Module):
    """Four 3x3 convolutions with batch norm, two poolings, one linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 32, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 48, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(48)
        self.conv4 = nn.Conv2d(48, 64, 3, padding=1)
        self.bn4 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64 * 4 * 4, 10)

    def forward(self, x):
        """x [B, 1, 16, 16] in [-1, 1] -> logits [B, 10]."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.max_pool2d(F.relu(self.bn2(self.conv2(h))), 2)  # 8x8
        h = F.relu(self.bn3(self.conv3(h)))
        h = F.max_pool2d(F.relu(self.bn4(self.conv4(h))), 2)  # 4x4
        h = F.dropout(h.flatten(1), 0.3, self.training)
        return self.fc(h)


def load_classifier(path=None):
    """The trained classifier in eval mode (path None: the weights of this package)."""
    model = DigitClassifier()
    model.load_state_dict(load_file(str(path or WEIGHTS)))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(model, images, labels, batch=500):
    """Share of images [N, 1, 16, 16] that the model reads as labels [N]: 0..1."""
    hits = sum(
        (model(images[i : i + batch]).argmax(1) == labels[i : i + batch]).sum().item()
        for i in range(0, len(images), batch)
    )
    return hits / len(images)
