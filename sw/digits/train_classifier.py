"""Train the digit classifier on MNIST and print its test accuracy.

    python -m litediffusion.sw.digits.train_classifier --data mnist.npz --out classifier.safetensors
"""

import argparse
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from .classifier import DigitClassifier, accuracy
from .data import load_split


def parse_args():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="MNIST .npz file")
    parser.add_argument("--out", required=True, help="weights (.safetensors)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def random_shift(images, most=1):
    """Shift a batch [B, 1, H, W] by up to `most` pixels, filling with black (-1)."""
    height, width = images.shape[2:]
    padded = F.pad(images, (most,) * 4, value=-1.0)
    dy, dx = torch.randint(2 * most + 1, (2,)).tolist()
    return padded[:, :, dy : dy + height, dx : dx + width]


def train_epoch(model, optimizer, scheduler, images, labels, batch):
    """One pass over the data in random order; returns the mean loss."""
    model.train()
    total = 0.0
    batches = torch.randperm(len(images)).split(batch)
    for picked in batches:
        logits = model(random_shift(images[picked]))
        loss = F.cross_entropy(logits, labels[picked])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item()
    return total / len(batches)


def main():
    """Entry point."""
    args = parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    images, labels = load_split(args.data, "train")
    test_images, test_labels = load_split(args.data, "test")
    model = DigitClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    total_steps = args.epochs * math.ceil(len(images) / args.batch)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps)
    for epoch in range(args.epochs):
        loss = train_epoch(model, optimizer, scheduler, images, labels, args.batch)
        test = accuracy(model.eval(), test_images, test_labels)
        print(f"epoch {epoch + 1} loss {loss:.4f} test accuracy {test:.4f}", flush=True)
        save_file(model.state_dict(), args.out)


if __name__ == "__main__":
    main()
