"""Noise schedule and DDIM sampler (float reference).

Notation: ``ab`` is alphas_cumprod, so a noisy image at timestep t is
``sqrt(ab[t]) * x0 + sqrt(1 - ab[t]) * noise``. Schedule: Ho et al. 2020
(linear betas); sampler: Song et al., "Denoising Diffusion Implicit Models"
(2020); step spacing: Lin et al. 2023 ("trailing").
"""

import numpy as np
import torch

from .unet import NULL_CLASS

NUM_TIMESTEPS = 1000


def make_betas(num=NUM_TIMESTEPS, first=1e-4, last=0.02):
    """Noise variance added at each timestep: [num] float64."""
    return np.linspace(first, last, num, dtype=np.float64)


def make_alphas_cumprod(num=NUM_TIMESTEPS):
    """Share of signal power left at each timestep: [num] float64, falling."""
    return np.cumprod(1.0 - make_betas(num))


def ddim_timesteps(steps, num=NUM_TIMESTEPS):
    """Timesteps visited by the sampler, first (noisiest) to last: [steps] int64.

    "Trailing" spacing: always starts at num - 1, the pure noise.
    """
    return np.round(num - np.arange(steps) * (num / steps)).astype(np.int64) - 1


def ddim_sigma(ab, ab_next, eta):
    """Standard deviation of the fresh noise of one step (0 when eta is 0)."""
    return eta * np.sqrt((1.0 - ab_next) / (1.0 - ab) * (1.0 - ab / ab_next))


def guided_eps(model, x, t, labels, guidance):
    """Classifier-free guidance: eu + w (ec - eu). x [B, 1, 16, 16] -> same."""
    ts = torch.full((x.shape[0],), int(t), dtype=torch.long)
    cond = model(x, ts, labels)
    if guidance == 1.0:
        return cond
    uncond = model(x, ts, torch.full_like(labels, NULL_CLASS))
    return uncond + guidance * (cond - uncond)


def ddim_step(x, eps, ab, ab_next, sigma=0.0, noise=None, clip=1.0, recompute_eps=False):
    """One DDIM update from signal level ab to ab_next (ab_next = 1: the end).

    The estimate x0 of the clean image is clipped to [-clip, clip]. With
    recompute_eps the noise is then derived anew from x and the clipped x0,
    which keeps the two consistent; without it eps stays what the model said.
    """
    x0 = (x - np.sqrt(1.0 - ab) * eps) / np.sqrt(ab)
    x0 = x0.clamp(-clip, clip)
    if recompute_eps:
        eps = (x - np.sqrt(ab) * x0) / np.sqrt(1.0 - ab)
    x = np.sqrt(ab_next) * x0 + np.sqrt(max(1.0 - ab_next - sigma**2, 0.0)) * eps
    return x if noise is None else x + sigma * noise


@torch.no_grad()
def ddim_sample(
    model,
    x_T,
    labels,
    steps,
    guidance,
    eta=0.0,
    clip=1.0,
    generator=None,
    recompute_eps=False,
):
    """Draw images: x_T [B, 1, 16, 16] unit noise, labels [B] -> [B, 1, 16, 16].

    guidance is the weight w (1: no guidance); generator supplies the fresh
    noise, used only when eta > 0. Guidance pushes x0 far out of range, so
    w >= 1.5 with eta 0 wants recompute_eps (see the README).
    """
    alphas = make_alphas_cumprod()
    timesteps = ddim_timesteps(steps)
    x = x_T
    for i, t in enumerate(timesteps):
        ab = alphas[t]
        ab_next = alphas[timesteps[i + 1]] if i + 1 < len(timesteps) else 1.0
        sigma = ddim_sigma(ab, ab_next, eta)
        noise = torch.randn(x.shape, generator=generator) if sigma > 0 else None
        eps = guided_eps(model, x, t, labels, guidance)
        x = ddim_step(x, eps, ab, ab_next, sigma, noise, clip, recompute_eps)
    return x
