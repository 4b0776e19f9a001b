"""Samplers on a ladder of noise levels: Euler, DPM-Solver++(2M), flow matching. Their steps as coefficients of SAMPLE.

States are kept at variance 1: y = x / sqrt(sigma^2 + 1) = alpha x, as the network wants them; flow matching keeps x itself.
Ref: Karras et al. 2022 (Euler, its sigmas); Lu et al. 2022, algorithm 2 (DPM-Solver++(2M)); Esser et al. 2024 (shift).
"""

import numpy as np

from litediffusion.sw.schedule import NO_CLIP, fixed_coefs, prediction_coefs

KARRAS_RHO = 7.0


def ladder(config, bars, timesteps, sampler):
    """(timesteps, sigmas) of the steps, noisiest first; timesteps may come out as fractions. sampler : "euler" or "dpm++"."""
    known = np.sqrt((1 - bars) / bars)
    sigmas = np.interp(timesteps, np.arange(len(known)), known)
    if not config["use_karras_sigmas"]:
        return timesteps, sigmas
    first, last = (sigmas[0], sigmas[-1]) if sampler == "euler" else (known[-1], known[0])
    ends = np.array([first, last]) ** (1 / KARRAS_RHO)
    sigmas = (ends[0] + np.linspace(0, 1, len(timesteps)) * (ends[1] - ends[0])) ** KARRAS_RHO
    times = np.interp(np.log(sigmas), np.log(known), np.arange(len(known)))
    # diffusers rounds them for DPM-Solver, except with the cosine schedule
    rounds = sampler == "dpm++" and config["beta_schedule"] != "squaredcos_cap_v2"
    return (times.round() if rounds else times), sigmas


def signal(sigma):
    """alpha, the share of the picture at a noise level."""
    return 1 / np.sqrt(sigma ** 2 + 1)


def euler_table(sigmas, prediction, leading):
    """x' = x + (sigma' - sigma) eps. ``leading``: the starting noise has variance 1 with the picture's, else sigma^2 alone."""
    table = []
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0]):
        e1, e2 = prediction_coefs(signal(sigma) ** 2, prediction)[1]
        step = (following - sigma) * signal(following)
        table.append(fixed_coefs(c1=0.0, c2=0.0, clip=NO_CLIP, a=0.0, b=step * e2, c=signal(following) / signal(sigma) + step * e1, d=0.0, sigma=0.0))
    table[0]["start"] = 1.0 if leading else float(sigmas[0] * signal(sigmas[0]))
    return table


def dpm_table(sigmas, prediction, order, heun, short):
    """x' = (s'/s) y - alpha'(e^-h - 1) D with D of this prediction of the picture and the one before, h = log(alpha'/s') - log(alpha/s).

    order : 1 or 2; heun : solver_type; short : the last step is of order 1.
    """
    table, before = [], None
    for i, sigma in enumerate(sigmas):
        following = sigmas[i + 1] if i + 1 < len(sigmas) else 0.0
        c1, c2 = prediction_coefs(signal(sigma) ** 2, prediction)[0]
        h = np.log(sigma / following) if following else np.inf
        first, second = signal(following) * (1 - np.exp(-h)), 0.0
        if order == 2 and before is not None and following and not (short and i + 1 == len(sigmas)):
            r0 = np.log(before / sigma) / h
            second = (signal(following) * (1 - (1 - np.exp(-h)) / h) if heun else first / 2) / r0
        kept = following * signal(following) / (sigma * signal(sigma))
        table.append(fixed_coefs(c1=c1, c2=c2, clip=NO_CLIP, a=first + second, b=0.0, c=kept, d=-second, sigma=0.0))
        before = sigma
    return table


def flow_sigmas(total, steps, shift):
    """Noise levels of flow matching, 1 at the start."""
    shifted = lambda s: shift * s / (1 + (shift - 1) * s)
    return shifted(np.linspace(shifted(1.0), shifted(1.0 / total), steps))


def flow_table(sigmas):
    """x' = x + (sigma' - sigma) v."""
    steps = np.diff([*sigmas, 0.0])
    return [fixed_coefs(c1=0.0, c2=0.0, clip=NO_CLIP, a=0.0, b=step, c=1.0, d=0.0, sigma=0.0) for step in steps]
