"""scheduler_config.json -> timesteps and coefficients of the sampler.

DDPM and DDIM as diffusers runs them (its defaults where the file leaves a field out). Any other scheduler's file gives betas
and timesteps for one of the two when it is asked for by name: they are the same for all samplers of a model.
Ref: Ho et al. 2020; Song et al. 2020; Nichol and Dhariwal 2021 (cosine schedule); Lin et al. 2023 (spacings).
"""

import math

import numpy as np

from litediffusion.sw.schedule import ddim_coefs, ddpm_coefs

SAMPLERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}
DEFAULTS = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", trained_betas=None, clip_sample=True,
                clip_sample_range=1.0, set_alpha_to_one=True, steps_offset=0, prediction_type="epsilon", thresholding=False,
                timestep_spacing="leading", rescale_betas_zero_snr=False, variance_type="fixed_small")
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")
LATENT_CLASSES = ("PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")     # no clip_sample in their files


class SchedulerError(ValueError):
    """A scheduler's configuration that the engine's sampler cannot follow."""


def betas(config):
    """[num_train_timesteps] of a checked config."""
    total, first, last = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
    if config["trained_betas"] is not None:
        return np.asarray(config["trained_betas"], float)
    if config["beta_schedule"] == "linear":
        return np.linspace(first, last, total)
    if config["beta_schedule"] == "scaled_linear":
        return np.linspace(first ** 0.5, last ** 0.5, total) ** 2
    if config["beta_schedule"] == "squaredcos_cap_v2":
        bar = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.array([min(1 - bar((i + 1) / total) / bar(i / total), 0.999) for i in range(total)])
    raise SchedulerError(f"beta_schedule={config['beta_schedule']!r}; known: linear, scaled_linear, squaredcos_cap_v2")


def timesteps_of(config, steps):
    """Timesteps visited, noisiest first. Raises SchedulerError."""
    total = config["num_train_timesteps"]
    if not 1 <= steps <= total:
        raise SchedulerError(f"steps={steps}: must be in 1..{total}, the timesteps of the schedule")
    if config["timestep_spacing"] == "leading":
        return np.arange(steps)[::-1] * (total // steps) + config["steps_offset"]
    if config["timestep_spacing"] == "linspace":
        return np.linspace(0, total - 1, steps).round()[::-1].astype(np.int64)
    if config["timestep_spacing"] == "trailing":
        return np.round(np.arange(total, 0, -total / steps)).astype(np.int64) - 1
    raise SchedulerError(f"timestep_spacing={config['timestep_spacing']!r}; known: leading, linspace, trailing")


def checked_config(config, sampler):
    """(config with defaults, sampler). Raises SchedulerError."""
    name = config.get("_class_name", "DDPMScheduler")
    if sampler is None and name not in SAMPLERS:
        raise SchedulerError(f"{name} is not supported; choose a sampler for its betas: {' or '.join(SAMPLERS.values())}")
    full = DEFAULTS | {k: v for k, v in config.items() if k in DEFAULTS}
    if name in LATENT_CLASSES and "clip_sample" not in config:
        full["clip_sample"] = False
    for field, only in (("thresholding", False), ("rescale_betas_zero_snr", False)):
        if full[field] != only:
            raise SchedulerError(f"{field}={full[field]!r}, only {only!r}")
    sampler = sampler or SAMPLERS[name]
    if sampler not in SAMPLERS.values():
        raise SchedulerError(f"sampler {sampler!r} is unknown; known: {', '.join(SAMPLERS.values())}")
    if sampler == "ddpm" and full["variance_type"] not in VARIANCES:
        raise SchedulerError(f"variance_type={full['variance_type']!r}; known: {', '.join(VARIANCES)}")
    return full, sampler


def scheduler_table(config, steps, sampler=None, eta=0.0):
    """(timesteps [steps], [coefficients of each step]) of a scheduler_config.json.

    sampler : "ddpm", "ddim" or None, the file's own; eta : of DDIM. Raises SchedulerError.
    """
    config, sampler = checked_config(config, sampler)
    bars, times = np.cumprod(1 - betas(config)), timesteps_of(config, steps)
    if times.max() >= len(bars) or times.min() < 0:
        raise SchedulerError(f"steps_offset={config['steps_offset']}: timesteps {times.min()}..{times.max()} leave 0..{len(bars) - 1}")
    clip, prediction = config["clip_sample_range"] if config["clip_sample"] else None, config["prediction_type"]
    ratio, table = config["num_train_timesteps"] // steps, []
    for t in times:
        before = t - ratio
        if sampler == "ddim":
            final = 1.0 if config["set_alpha_to_one"] else bars[0]
            table.append(ddim_coefs(bars[t], bars[before] if before >= 0 else final, eta, clip, False, prediction))
        else:
            large = config["variance_type"] == "fixed_large"
            table.append(ddpm_coefs(bars[t], bars[before] if before >= 0 else 1.0, clip, prediction, large))
    return times, table
