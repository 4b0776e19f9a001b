"""A small CNN that reads 32x32 clothes: the judge of the pictures. It never runs on the accelerator."""

from pathlib import Path

import torch
from torch import nn

WEIGHTS = Path(__file__).with_name("classifier.safetensors")


class ClothesClassifier(nn.Sequential):
    """x [B, 1, 32, 32] in [-1, 1] -> logits [B, 10]."""

    def __init__(self, widths=(24, 48, 96)):
        layers, before = [], 1
        for width in widths:
            for channels in (before, width):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            before = width
        super().__init__(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(16 * before, 10))


def load_classifier(path=WEIGHTS):
    """The trained classifier in eval mode, float32."""
    from safetensors.torch import load_file

    model = ClothesClassifier()
    model.load_state_dict({name: value if value.dtype == torch.int64 else value.float() for name, value in load_file(str(path)).items()})
    return model.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(model, pictures, labels, batch=500):
    """Share of pictures [N, 1, 32, 32] that the model reads as labels [N]: 0..1."""
    hits = [(model(x).argmax(1) == y).float() for x, y in zip(pictures.split(batch), labels.split(batch))]
    return torch.cat(hits).mean().item()
