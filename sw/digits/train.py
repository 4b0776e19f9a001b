"""Train the digit U-Net on MNIST.

    python -m litediffusion.sw.digits.train --data mnist.npz --minutes 31 --bf16

The exported weights are the exponential moving average (EMA) of the trained
ones, float32. Learning rate: short warm-up, then cosine decay to zero over the
run, whose length is given in epochs or in minutes. With --checkpoint the full
training state is saved as well, and picked up again if the file exists.
"""

import argparse
import math
import os
import time

import torch
from safetensors.torch import save_file

from litediffusion.sw.schedule import alphas_cumprod

from .data import load_split
from .unet import NULL_CLASS, WEIGHTS, DigitUNet

NUM_TIMESTEPS = 1000
MAX_LOSS_WEIGHT = 100.0


def parse_args():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="MNIST .npz file")
    parser.add_argument("--out", default=str(WEIGHTS), help="EMA weights (.safetensors; default: the package's)")
    parser.add_argument("--checkpoint", help="training state, resumed if it exists")
    parser.add_argument("--epochs", type=float, default=30.0)
    parser.add_argument("--minutes", type=float, help="length in time, instead of --epochs")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--class-dropout", type=float, default=0.15)
    parser.add_argument("--save-minutes", type=float, default=3.0)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 arithmetic (AMX CPUs)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def write_atomically(path, write):
    """Call write(temporary path), then rename, so that readers see whole files."""
    temporary = f"{path}.tmp"
    write(temporary)
    os.replace(temporary, path)


def learning_rate_factor(step, progress, warmup=200):
    """Warm-up over the first steps, cosine decay over progress 0..1."""
    return min(1.0, (step + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * progress))


def diffusion_loss(model, x0, labels, alphas, class_dropout):
    """Weighted squared error of the predicted noise at random timesteps.

    x0 [B, 1, 16, 16], labels [B]; a random share of the labels is dropped, so
    that the model also learns the unconditional noise that guidance needs.

    The weight 1/ab makes this the "v-prediction" loss (Salimans & Ho 2022). It
    matters at high noise, where the sampler divides an error in eps by sqrt(ab)
    and guidance amplifies it again; the cap keeps pure noise from dominating.
    """
    batch = len(x0)
    t = torch.randint(NUM_TIMESTEPS, (batch,))
    ab = alphas[t][:, None, None, None]
    noise = torch.randn_like(x0)
    dropped = torch.rand(batch) < class_dropout
    labels = torch.where(dropped, NULL_CLASS, labels)
    eps = model(ab.sqrt() * x0 + (1.0 - ab).sqrt() * noise, t, labels).float()
    return ((1.0 / ab).clamp(max=MAX_LOSS_WEIGHT) * (eps - noise).square()).mean()


@torch.no_grad()
def update_ema(ema, model, step, decay=0.999):
    """Move the EMA weights towards the model's, faster during the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for averaged, current in zip(ema.parameters(), model.parameters(), strict=True):
        averaged.lerp_(current, 1.0 - decay)


class Trainer:
    """The whole state of a run: model, EMA, optimizer, step and progress."""

    def __init__(self, args):
        torch.manual_seed(args.seed)
        torch.set_num_threads(args.threads)
        self.args = args
        self.images, self.labels = load_split(args.data, "train")
        self.alphas = torch.from_numpy(alphas_cumprod(NUM_TIMESTEPS)).float()
        self.model, self.ema = DigitUNet(), DigitUNet()
        self.ema.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=args.lr, weight_decay=args.weight_decay
        )
        self.step = 0
        self.seconds = 0.0  # training time, restarts included
        if args.checkpoint and os.path.exists(args.checkpoint):
            self.load()

    def load(self):
        """Continue from the checkpoint."""
        state = torch.load(self.args.checkpoint)
        for name in ("model", "ema", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self):
        """Export the EMA weights, and the checkpoint if one was asked for."""
        write_atomically(self.args.out, lambda path: save_file(self.ema.state_dict(), path))
        if self.args.checkpoint:
            state = {n: getattr(self, n).state_dict() for n in ("model", "ema", "optimizer")}
            state |= {"step": self.step, "seconds": self.seconds}
            write_atomically(self.args.checkpoint, lambda path: torch.save(state, path))

    def progress(self):
        """Share of the run that is done: 0..1."""
        if self.args.minutes:
            return min(1.0, self.seconds / (60.0 * self.args.minutes))
        return min(1.0, self.step * self.args.batch / (len(self.images) * self.args.epochs))

    def train_step(self):
        """One optimizer step on a random batch; returns the loss."""
        factor = learning_rate_factor(self.step, self.progress())
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * factor
        picked = torch.randint(len(self.images), (self.args.batch,))
        images, labels = self.images[picked], self.labels[picked]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16):
            loss = diffusion_loss(
                self.model, images, labels, self.alphas, self.args.class_dropout
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        update_ema(self.ema, self.model, self.step)
        self.step += 1
        return loss.item()

    def run(self, report_every=100):
        """Train to the end, printing the mean loss and saving now and then."""
        losses, saved = [], self.seconds
        while self.progress() < 1.0:
            start = time.monotonic()
            losses.append(self.train_step())
            self.seconds += time.monotonic() - start
            if self.step % report_every == 0:
                mean = sum(losses) / len(losses)
                losses.clear()
                print(f"step {self.step} {self.seconds / 60:.1f} min loss {mean:.4f}", flush=True)
            if self.seconds - saved > 60.0 * self.args.save_minutes:
                self.save()
                saved = self.seconds
        self.save()


def main():
    """Entry point."""
    Trainer(parse_args()).run()


if __name__ == "__main__":
    main()
