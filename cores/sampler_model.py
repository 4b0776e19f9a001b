"""Golden model of SAMPLE: one update of the latents for DDPM, DDIM (eta), DPM-Solver++(2M), Euler, flow matching.

    eps = sat16(eps_u + rshift(w * (eps_c - eps_u), 12))                 (classifier-free guidance)
    h   = clamp(rshift(c1*x + c2*eps, 14), -clip, clip)                  (x0 with clipping, or any prediction)
    x'  = sat16(rshift(a*h + b*eps + c*x + d*m_prev + sigma*z, 14))
    m   = sat16(h)
States, eps and z are Q3.12, coefficients Q17.14, w Q19.12. z is drawn only if sigma != 0.
"""

import numpy as np

from litediffusion.cores.fixed import rshift, saturate
from litediffusion.cores.gaussian_model import gaussian

COEF_FRACTION = 14
GUIDANCE_FRACTION = 12


def sample(x, eps_c, eps_u, m_prev, coefs, guidance, z):
    """(x', m): int64 arrays shaped as ``x``. coefs: dict of SAMPLE_COEFS integers; z: Q3.12 or 0."""
    eps = saturate(eps_u + rshift(guidance * (eps_c - eps_u), GUIDANCE_FRACTION), 16)
    h = np.clip(rshift(coefs["c1"] * x + coefs["c2"] * eps, COEF_FRACTION), -coefs["clip"], coefs["clip"])
    total = coefs["a"] * h + coefs["b"] * eps + coefs["c"] * x + coefs["d"] * m_prev + coefs["sigma"] * z
    return saturate(rshift(total, COEF_FRACTION), 16), saturate(h, 16)


def noise(seed0, seed1, first, words, lanes, channels, step):
    """z [words, lanes] Q3.12: element counter first + word*lanes + lane; zero on lanes >= channels."""
    element = first + np.arange(words)[:, None] * lanes + np.arange(lanes)[None, :]
    z = gaussian(seed0, seed1, element, step)
    return np.where(np.arange(lanes) < channels, z, 0)
