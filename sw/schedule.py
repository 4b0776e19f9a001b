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


def fixed_coefs(**coefs):
    """Coefficients as integers Q17.14; clip stays as given."""
    out = {k: (v if k == "clip" else int(round(v * ONE))) for k, v in coefs.items()}
    bad = {k: v for k, v in out.items() if not -(1 << 31) <= v < 1 << 31}
    if bad:
        raise ValueError(f"sampler coefficients out of 32 bits: {bad}; use fewer timesteps at the noisy end")
    return out


def prediction_coefs(ab, prediction="epsilon"):
    """((c1, c2), (e1, e2)) with x0 = c1 x + c2 out and eps = e1 x + e2 out for what a network predicts.

    prediction : "epsilon" (the noise), "sample" (x0) or "v_prediction" (Salimans and Ho 2022). Raises ValueError.
    """
    signal, noise = np.sqrt(ab), np.sqrt(1 - ab)
    known = {"epsilon": ((1 / signal, -noise / signal), (0.0, 1.0)),
             "sample": ((0.0, 1.0), (1 / noise, -signal / noise)),
             "v_prediction": ((signal, -noise), (noise, signal))}
    if prediction not in known:
        raise ValueError(f"prediction_type={prediction!r}; known: {', '.join(known)}")
    return known[prediction]


def _clip(clip):
    return int(round(clip * STATE_ONE)) if clip else NO_CLIP


def ddim_coefs(ab, ab_next, eta=0.0, clip=1.0, recompute_eps=True, prediction="epsilon"):
    """DDIM: x' = sqrt(ab') x0 + k eps + sigma z with k = sqrt(1 - ab' - sigma^2) and x0 clipped.

    ``recompute_eps``: eps is derived again from the clipped x0 (diffusers: use_clipped_model_output), which keeps guided
    pictures from growing bold; then x' = (sqrt(ab') - k' sqrt(ab)) x0 + k' x + sigma z with k' = k / sqrt(1 - ab).
    """
    sigma = eta * np.sqrt((1 - ab_next) / (1 - ab)) * np.sqrt(1 - ab / ab_next)
    k = np.sqrt(max(1 - ab_next - sigma ** 2, 0.0))
    (c1, c2), (e1, e2) = prediction_coefs(ab, prediction)
    a, b, c = np.sqrt(ab_next), k * e2, k * e1
    if recompute_eps:
        c = k / np.sqrt(1 - ab)
        a, b = a - c * np.sqrt(ab), 0.0
    return fixed_coefs(c1=c1, c2=c2, clip=_clip(clip), a=a, b=b, c=c, d=0.0, sigma=sigma)


def ddpm_coefs(ab, ab_next, clip=1.0, prediction="epsilon", large=False):
    """DDPM with the clipped x0: posterior mean and variance of x' given x and x0 (alpha = ab / ab').

    ``large``: the variance is beta instead (Ho et al. 2020, section 3.2; diffusers: fixed_large), and 0 in the last step.
    """
    alpha, beta = ab / ab_next, 1 - ab / ab_next
    (c1, c2), _ = prediction_coefs(ab, prediction)
    return fixed_coefs(c1=c1, c2=c2, clip=_clip(clip), a=np.sqrt(ab_next) * beta / (1 - ab), b=0.0,
                  c=np.sqrt(alpha) * (1 - ab_next) / (1 - ab), d=0.0,
                  sigma=np.sqrt(beta * (ab_next < 1) if large else beta * (1 - ab_next) / (1 - ab)))


def noise_coefs(table):
    """x' = z: the starting noise, of the deviation that a table's first step names ("start"), else 1."""
    return fixed_coefs(c1=0.0, c2=0.0, clip=NO_CLIP, a=0.0, b=0.0, c=0.0, d=0.0, sigma=table[0].get("start", 1.0))


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
