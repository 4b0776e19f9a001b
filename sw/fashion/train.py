"""Train the packaged model of clothes: a UNet2DModel of diffusers for Fashion-MNIST at 32x32, by class.

    python -m litediffusion.sw.fashion.train --data fashion_mnist.npz --minutes 7.5

The packaged weights took 7.5 minutes (7,168 steps of 512 pictures) on one H100.

Pictures of 28x28 get a border of black. The saved weights are the moving average of the trained ones, float16. A share of the
labels is replaced by NULL_CLASS, for classifier-free guidance. The loss is that of the noise, weighted to that of v.
Ref: Ho et al. 2020; Ho and Salimans 2022; Salimans and Ho 2022.
"""

import argparse
import math
from pathlib import Path
import time

import numpy as np
import torch
import torch.nn.functional as F

from litediffusion.sw.fashion import MODEL, NULL_CLASS

CONFIG = dict(
    sample_size=32, in_channels=1, out_channels=1, block_out_channels=(32, 64, 96), layers_per_block=2, norm_num_groups=8,
    attention_head_dim=32, num_class_embeds=NULL_CLASS + 1, down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"))
MAX_LOSS_WEIGHT = 100.0
CLASS_DROPOUT = 0.15


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help=".npz of Fashion-MNIST with train_x [N, 28, 28] and train_y [N]")
    parser.add_argument("--out", type=Path, default=MODEL, help="folder of the model (default: the package's)")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load(path, device):
    """(pictures [N, 1, 32, 32] in -1..1, labels [N])."""
    with np.load(path) as data:
        x, y = data["train_x"], data["train_y"]
    x = torch.as_tensor(x.reshape(-1, 1, 28, 28), device=device).float() / 127.5 - 1
    return F.pad(x, (2, 2, 2, 2), value=-1.0), torch.as_tensor(y.astype(np.int64), device=device)


def loss_of(model, x, labels, alphas):
    """Weighted squared error of the predicted noise at random timesteps."""
    t = torch.randint(len(alphas), (len(x),), device=x.device)
    ab = alphas[t][:, None, None, None]
    noise = torch.randn_like(x)
    labels = torch.where(torch.rand(len(x), device=x.device) < CLASS_DROPOUT, NULL_CLASS, labels)
    with torch.autocast(x.device.type, torch.bfloat16):
        out = model(ab.sqrt() * x + (1 - ab).sqrt() * noise, t, class_labels=labels, return_dict=False)[0]
    return ((1 / ab).clamp(max=MAX_LOSS_WEIGHT) * (out.float() - noise).square()).mean()


def save(model, average, scheduler, folder):
    """The averaged weights as float16, with config and scheduler."""
    from diffusers import UNet2DModel

    copy = UNet2DModel(**CONFIG)
    copy.load_state_dict({name: average.get(name, value) for name, value in model.state_dict().items()})
    copy.half().save_pretrained(folder)
    scheduler.save_config(folder)


def main():
    from diffusers import DDIMScheduler, UNet2DModel

    args = parse_args()
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, labels = load(args.data, device)
    model, scheduler = UNet2DModel(**CONFIG).to(device), DDIMScheduler(timestep_spacing="trailing")
    alphas = scheduler.alphas_cumprod.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    values, parameters = list(average.values()), [p.detach() for p in model.parameters()]
    begin, step = time.monotonic(), 0
    while (progress := (time.monotonic() - begin) / (60 * args.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 300) * 0.5 * (1 + math.cos(math.pi * progress))
        pick = torch.randint(len(x), (args.batch,), device=device)
        loss = loss_of(model, x[pick], labels[pick], alphas)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        torch._foreach_lerp_(values, parameters, 1 - min(0.999, (step + 1) / (step + 10)))
        step += 1
        if step % 250 == 0:
            print(f"step {step} {100 * progress:.0f} % loss {loss.item():.4f}", flush=True)
    save(model, average, scheduler, args.out)
    print(f"{step} steps, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)


if __name__ == "__main__":
    main()
