"""Train the packaged model of clothes by prompts, all parts in turn: autoencoder, U-Net with text encoder, and the judge.

    python -m litediffusion.sw.wardrobe.train --data fashion_mnist.npz

Pictures of 28x28 get a border of black. The autoencoder makes 8x8x4 latents of them, scaled to a deviation of 1. The U-Net predicts v
on them; captions are drawn anew in every batch, attributes left out at random, and a share of them empty, for classifier-free
guidance. Saved are moving averages, float16.
Ref: Rombach et al. 2022; Salimans and Ho 2022; Ho and Salimans 2022.
"""

import argparse
import itertools
import math
from pathlib import Path
import time

import numpy as np
import torch
import torch.nn.functional as F

from litediffusion.sw.wardrobe import MODEL, captions, classifier, text

VAE = dict(sample_size=32, in_channels=1, out_channels=1, latent_channels=4, block_out_channels=(32, 64, 64), layers_per_block=1,
           norm_num_groups=16, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
UNET = dict(sample_size=8, in_channels=4, out_channels=4, block_out_channels=(64, 96), layers_per_block=1, norm_num_groups=16,
            attention_head_dim=(2, 3), cross_attention_dim=text.WIDTH, down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2)
KL_WEIGHT = 1e-3
EMPTY, SAID = 0.12, 0.7          # probabilities of an empty caption, of an attribute that is said
STEPS, GUIDANCE = 20, 2.0        # of the pictures that are judged at the end


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help=".npz of Fashion-MNIST with train_x, train_y, test_x, test_y")
    parser.add_argument("--out", type=Path, default=MODEL.parent, help="folder of the results (default: the package's)")
    parser.add_argument("--minutes", type=float, nargs=3, default=(1.8, 5.0, 0.5), help="of autoencoder, U-Net and judge")
    parser.add_argument("--batch", type=int, default=1024, help="of the U-Net; the others take a quarter")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Average:
    """Moving average of a module's parameters."""

    def __init__(self, module):
        self.parameters = [p.detach() for p in module.parameters()]
        self.values, self.module = [p.clone() for p in self.parameters], module

    def update(self, step):
        torch._foreach_lerp_(self.values, self.parameters, 1 - min(0.999, (step + 1) / (step + 10)))

    def apply(self):
        """The module with the averaged parameters."""
        torch._foreach_copy_(self.parameters, self.values)
        return self.module


def optimise(name, modules, loss_of, minutes, lr):
    """Train modules for a time with a cosine schedule; they keep their averages."""
    averages = [Average(m) for m in modules]
    optimiser = torch.optim.AdamW(itertools.chain(*(m.parameters() for m in modules)), lr=lr, weight_decay=0.01)
    begin, step = time.monotonic(), 0
    while (progress := (time.monotonic() - begin) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 300) * 0.5 * (1 + math.cos(math.pi * progress))
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
        optimiser.step()
        for average in averages:
            average.update(step)
        step += 1
        if step % 500 == 0:
            print(f"{name} step {step} {100 * progress:.0f} % loss {loss.item():.4f}", flush=True)
    for average in averages:
        average.apply()
    print(f"{name}: {step} steps, {sum(p.numel() for m in modules for p in m.parameters()):,} parameters", flush=True)


def pictures_of(x, device):
    """float [N, 1, 32, 32] in -1..1 of uint8 [N, 28, 28]."""
    x = torch.as_tensor(x.reshape(-1, 1, 28, 28), device=device).float() / 127.5 - 1
    return F.pad(x, (2, 2, 2, 2), value=-1.0)


def train_autoencoder(x, args):
    """AutoencoderKL with the scaling factor of its latents, and the latents [N, 4, 8, 8] of x."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(**VAE).to(x.device)

    def loss_of():
        picked = x[torch.randint(len(x), (args.batch // 4,), device=x.device)]
        with torch.autocast(x.device.type, torch.bfloat16):
            posterior = vae.encode(picked).latent_dist
            out = vae.decode(posterior.sample()).sample
        return F.mse_loss(out.float(), picked) + 0.5 * F.l1_loss(out.float(), picked) + KL_WEIGHT * posterior.kl().float().mean() / 64

    optimise("autoencoder", [vae], loss_of, args.minutes[0], 1.5e-3)
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(2000)])
        error = F.mse_loss(vae.decode(latents[:2000]).sample, x[:2000]).item()
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    print(f"autoencoder: PSNR {10 * math.log10(4 / error):.1f} dB, scaling factor {vae.config.scaling_factor:.4f}", flush=True)
    return vae, latents * vae.config.scaling_factor


def caption_table(device):
    """Tokens [classes, 3, 3, TOKENS] of all captions, by class, tone and width."""
    grid = itertools.product(range(len(captions.CLASSES)), (-1, 0, 1), (-1, 0, 1))
    table = np.stack([captions.tokens(captions.caption(*point)) for point in grid])
    return torch.as_tensor(table, device=device).reshape(len(captions.CLASSES), 3, 3, -1)


def train_unet(latents, x, labels, scheduler, args):
    """(UNet2DConditionModel, TextEncoder); x uint8 [N, 28, 28]."""
    from diffusers import UNet2DConditionModel

    device = latents.device
    grades = [torch.as_tensor(captions.grade(m, labels, captions.thresholds(m, labels)), device=device) for m in captions.measures(x)]
    labels, table = torch.as_tensor(labels.astype(np.int64), device=device), caption_table(device)
    unet, encoder = UNet2DConditionModel(**UNET).to(device), text.TextEncoder().to(device)
    alphas = scheduler.alphas_cumprod.to(device)

    def loss_of():
        pick = torch.randint(len(latents), (args.batch,), device=device)
        tone, width = (g[pick] * (torch.rand(args.batch, device=device) < SAID) for g in grades)
        ids = table[labels[pick], tone + 1, width + 1] * (torch.rand(args.batch, 1, device=device) >= EMPTY)
        t = torch.randint(len(alphas), (args.batch,), device=device)
        signal, noise_part = (v.sqrt()[:, None, None, None] for v in (alphas[t], 1 - alphas[t]))
        clean, noise = latents[pick], torch.randn_like(latents[pick])
        with torch.autocast(device.type, torch.bfloat16):
            out = unet(signal * clean + noise_part * noise, t, encoder(ids), return_dict=False)[0]
        return F.mse_loss(out.float(), signal * noise - noise_part * clean)

    optimise("unet", [unet, encoder], loss_of, args.minutes[1], 1.2e-3)
    return unet, encoder


def train_judge(x, labels, test_x, test_labels, args):
    """ClothesClassifier; prints its accuracy on the test pictures."""
    judge = classifier.ClothesClassifier().to(x.device).train()

    def loss_of():
        pick = torch.randint(len(x), (args.batch // 4,), device=x.device)
        dy, dx = torch.randint(-2, 3, (2,)).tolist()
        return F.cross_entropy(judge(x[pick].roll((dy, dx), (2, 3))), labels[pick])

    optimise("judge", [judge], loss_of, args.minutes[2], 2e-3)
    judge.eval()
    print(f"judge: accuracy {classifier.accuracy(judge, test_x, test_labels):.4f} on the test pictures", flush=True)
    return judge


@torch.no_grad()
def sample(vae, unet, encoder, scheduler, prompts, seed):
    """Pictures [B, 1, 32, 32] of prompts with the float networks."""
    device = next(unet.parameters()).device
    ids = torch.as_tensor(np.stack([captions.tokens(p) for p in prompts]), device=device)
    states = encoder(torch.cat([ids, torch.zeros_like(ids)]))
    x = torch.randn((len(ids), 4, 8, 8), generator=torch.Generator().manual_seed(seed)).to(device)
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        told, untold = unet(torch.cat([x, x]), t, states, return_dict=False)[0].chunk(2)
        x = scheduler.step(untold + GUIDANCE * (told - untold), t, x).prev_sample
    return vae.decode(x / vae.config.scaling_factor).sample


def save(args, vae, unet, encoder, judge, scheduler):
    """All weights as float16 under ``args.out``."""
    from safetensors.torch import save_file

    folder = args.out / MODEL.name
    for name, part in (("vae", vae), ("unet", unet)):
        part.half().save_pretrained(folder / name)
    scheduler.save_config(folder / "scheduler")
    for name, part in (("text", encoder), ("classifier", judge)):
        save_file({k: v.half() if v.is_floating_point() else v for k, v in part.state_dict().items()}, str(args.out / f"{name}.safetensors"))


def main():
    from diffusers import DDIMScheduler

    args = parse_args()
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with np.load(args.data) as data:
        raw, labels, test_raw, test_labels = (data[k] for k in ("train_x", "train_y", "test_x", "test_y"))
    x, test_x = pictures_of(raw, device), pictures_of(test_raw, device)
    kinds, test_kinds = (torch.as_tensor(y.astype(np.int64), device=device) for y in (labels, test_labels))
    scheduler = DDIMScheduler(timestep_spacing="trailing", prediction_type="v_prediction", clip_sample=False)
    judge = train_judge(x, kinds, test_x, test_kinds, args)
    vae, latents = train_autoencoder(x, args)
    unet, encoder = train_unet(latents, raw, labels, scheduler, args)
    asked = torch.arange(500) % 10
    made = sample(vae, unet, encoder, scheduler, [captions.caption(int(k)) for k in asked], args.seed)
    print(f"judge agrees with {classifier.accuracy(judge, made, asked.to(device)):.3f} of 500 prompts, float", flush=True)
    save(args, vae, unet, encoder, judge, scheduler)


if __name__ == "__main__":
    main()
