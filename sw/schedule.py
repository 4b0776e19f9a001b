"""Samplers as tables of fixed-point coefficients for the SAMPLE instruction (one record a step).

Notation: ab -> alpha-bar(t), ab_next -> alpha-bar of the following timestep (1 after the last), sigma -> the standard
deviation of the fresh noise. Ref: Ho et al. 2020 (DDPM); Song et al. 2020 (DDIM), eq. 12.
"""

import numpy as np

from litediffusion.cores.sampler_model import COEF_FRACTION

ONE = 1 << COEF_FRACTION
STATE_ONE = 1 << 12          # states are Q3.12
NO_CLIP = (1 << 31) - 1


def trailing_timesteps(steps, total=1000):
    """Timesteps visited, noisiest first [steps] int64. Raises ValueError unless 1 <= steps <= total."""
    if not 1 <= steps <= total:
        raise ValueError(f"steps={steps}: must be in 1..{total}, the timesteps of the schedule")
    return np.round(total - np.arange(steps) * (total / steps)).astype(np.int64) - 1


def alphas_cumprod(total=1000, first=1e-4, last=0.02):
    """alpha-bar of the linear beta schedule [total] float64."""
    return np.cumprod(1.0 - np.linspace(first, last, total))


def _fixed(**coefs):
    """Coefficients as integers Q17.14; clip stays as given."""
    out = {k: (v if k == "clip" else int(round(v * ONE))) for k, v in coefs.items()}
    bad = {k: v for k, v in out.items() if not -(1 << 31) <= v < 1 << 31}
    if bad:
        raise ValueError(f"sampler coefficients out of 32 bits: {bad}; use fewer timesteps at the noisy end")
    return out


def ddim_coefs(ab, ab_next, eta=0.0, clip=1.0, recompute_eps=True):
    """DDIM: x' = sqrt(ab') x0 + k eps + sigma z with k = sqrt(1 - ab' - sigma^2) and x0 clipped.

    ``recompute_eps``: eps is derived again from the clipped x0 (diffusers: use_clipped_model_output), which keeps guided
    pictures from growing bold; then x' = (sqrt(ab') - k' sqrt(ab)) x0 + k' x + sigma z with k' = k / sqrt(1 - ab).
    """
    sigma = eta * np.sqrt((1 - ab_next) / (1 - ab)) * np.sqrt(1 - ab / ab_next)
    k = np.sqrt(max(1 - ab_next - sigma ** 2, 0.0))
    a, b, c = np.sqrt(ab_next), k, 0.0
    if recompute_eps:
        c = k / np.sqrt(1 - ab)
        a, b = a - c * np.sqrt(ab), 0.0
    return _fixed(c1=1 / np.sqrt(ab), c2=-np.sqrt((1 - ab) / ab), clip=int(round(clip * STATE_ONE)) if clip else NO_CLIP,
                  a=a, b=b, c=c, d=0.0, sigma=sigma)


def ddpm_coefs(ab, ab_next, clip=1.0):
    """DDPM with the clipped x0: posterior mean and variance of x' given x and x0 (alpha = ab / ab')."""
    alpha, beta = ab / ab_next, 1 - ab / ab_next
    return _fixed(c1=1 / np.sqrt(ab), c2=-np.sqrt((1 - ab) / ab), clip=int(round(clip * STATE_ONE)) if clip else NO_CLIP,
                  a=np.sqrt(ab_next) * beta / (1 - ab), b=0.0, c=np.sqrt(alpha) * (1 - ab_next) / (1 - ab), d=0.0,
                  sigma=np.sqrt(beta * (1 - ab_next) / (1 - ab)))


def noise_coefs():
    """x' = z: the starting noise."""
    return _fixed(c1=0.0, c2=0.0, clip=NO_CLIP, a=0.0, b=0.0, c=0.0, d=0.0, sigma=1.0)


def sampler_table(sampler, steps, eta=0.0, clip=1.0):
    """(timesteps [steps], [coefficients of each step]). ``sampler``: "ddim" or "ddpm"."""
    timesteps, ab = trailing_timesteps(steps), alphas_cumprod()
    table = []
    for i, t in enumerate(timesteps):
        ab_next = ab[timesteps[i + 1]] if i + 1 < steps else 1.0
        if sampler == "ddim":
            table.append(ddim_coefs(ab[t], ab_next, eta, clip))
        elif sampler == "ddpm":
            table.append(ddpm_coefs(ab[t], ab_next, clip))
        else:
            raise ValueError(f"sampler={sampler!r}; known: ddim, ddpm")
    return timesteps, table
