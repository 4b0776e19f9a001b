"""scheduler_config.json -> timesteps and coefficients of the sampler.

As diffusers runs them, with its defaults where the file leaves a field out. Any scheduler's file gives betas for another sampler
when that is asked for by name: they belong to the model.
Ref: Ho et al. 2020 (DDPM); Song et al. 2020 (DDIM); Nichol and Dhariwal 2021 (cosine schedule); Lin et al. 2023 (spacings);
``sigma_schedulers.py`` for the others.
"""

import math

import numpy as np

from litediffusion.sw.diffusers.sigma_schedulers import dpm_table, euler_table, flow_sigmas, flow_table, ladder
from litediffusion.sw.schedule import ddim_coefs, ddpm_coefs

SAMPLERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim", "EulerDiscreteScheduler": "euler", "DPMSolverMultistepScheduler": "dpm++",
            "FlowMatchEulerDiscreteScheduler": "flow"}
DEFAULTS = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", trained_betas=None, clip_sample=True,
                clip_sample_range=1.0, set_alpha_to_one=True, steps_offset=0, prediction_type="epsilon", thresholding=False,
                timestep_spacing="leading", rescale_betas_zero_snr=False, variance_type="fixed_small", use_karras_sigmas=False,
                use_exponential_sigmas=False, use_beta_sigmas=False, use_lu_lambdas=False, use_flow_sigmas=False, final_sigmas_type="zero",
                interpolation_type="linear", timestep_type="discrete", sigma_min=None, sigma_max=None, solver_order=2, solver_type="midpoint",
                algorithm_type="dpmsolver++", lower_order_final=True, euler_at_final=False, lambda_min_clipped=-float("inf"), shift=1.0,
                use_dynamic_shifting=False, shift_terminal=None, invert_sigmas=False, stochastic_sampling=False)
SPACING = {"euler": "linspace", "dpm++": "linspace"}        # default timestep_spacing, where it is not DEFAULTS'
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")
# (field, values that can be followed) by sampler; "": all
RESTRICTED = {
    "": (("thresholding", (False,)), ("rescale_betas_zero_snr", (False,)), ("use_exponential_sigmas", (False,)), ("use_beta_sigmas", (False,)),
         ("use_lu_lambdas", (False,)), ("use_flow_sigmas", (False,)), ("final_sigmas_type", ("zero",))),
    "ddpm": (("variance_type", VARIANCES),),
    "ddim": (),
    "euler": (("interpolation_type", ("linear",)), ("timestep_type", ("discrete",)), ("sigma_min", (None,)), ("sigma_max", (None,))),
    "dpm++": (("algorithm_type", ("dpmsolver++",)), ("solver_order", (1, 2)), ("solver_type", ("midpoint", "heun"))),
    "flow": (("use_dynamic_shifting", (False,)), ("shift_terminal", (None, 0)), ("invert_sigmas", (False,)), ("stochastic_sampling", (False,)),
             ("use_karras_sigmas", (False,))),
}
LATENT_CLASSES = ("PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")     # no clip_sample in their files
SHORT = 15               # below so many steps DPM-Solver++'s last one is of order 1


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


def timesteps_of(config, steps, total=None):
    """Timesteps visited, noisiest first; ``total``: of them to choose from, None: the schedule's. Raises SchedulerError."""
    total = total or config["num_train_timesteps"]
    if config["timestep_spacing"] == "leading":
        return np.arange(steps)[::-1] * (total // steps) + config["steps_offset"]
    if config["timestep_spacing"] == "linspace":
        return np.linspace(0, total - 1, steps)[::-1]
    if config["timestep_spacing"] == "trailing":
        return np.round(np.arange(total, 0, -config["num_train_timesteps"] / steps)) - 1
    raise SchedulerError(f"timestep_spacing={config['timestep_spacing']!r}; known: leading, linspace, trailing")


def dpm_timesteps(config, bars, steps):
    """Those of DPM-Solver: where the spacing includes the last timestep, it is left out; log(alpha / sigma) may be cut below."""
    total = len(bars) - int(np.searchsorted(np.log(bars / (1 - bars))[::-1] / 2, config["lambda_min_clipped"]))
    if config["timestep_spacing"] == "trailing":
        return timesteps_of(config, steps, total)[:steps]
    return timesteps_of(config, steps + 1, total).round()[:-1]


def checked_config(config, sampler):
    """(config with defaults, sampler). Raises SchedulerError."""
    name = config.get("_class_name", "DDPMScheduler")
    if sampler is None and name not in SAMPLERS:
        raise SchedulerError(f"{name} is not supported; choose a sampler for its betas: {', '.join(SAMPLERS.values())}")
    sampler = sampler or SAMPLERS[name]
    if sampler not in RESTRICTED:
        raise SchedulerError(f"sampler {sampler!r} is unknown; known: {', '.join(SAMPLERS.values())}")
    full = DEFAULTS | {"timestep_spacing": SPACING.get(sampler, "leading")} | {k: v for k, v in config.items() if k in DEFAULTS}
    if name in LATENT_CLASSES and "clip_sample" not in config:
        full["clip_sample"] = False
    for field, values in RESTRICTED[""] + RESTRICTED[sampler]:
        if full[field] not in values:
            raise SchedulerError(f"{field}={full[field]!r}, only {' or '.join(map(repr, values))}")
    return full, sampler


def ancestral_table(config, sampler, bars, times, eta):
    """Steps of DDIM and DDPM."""
    clip, prediction = config["clip_sample_range"] if config["clip_sample"] else None, config["prediction_type"]
    ratio, table = config["num_train_timesteps"] // len(times), []
    for t in times:
        before = t - ratio
        if sampler == "ddim":
            final = 1.0 if config["set_alpha_to_one"] else bars[0]
            table.append(ddim_coefs(bars[t], bars[before] if before >= 0 else final, eta, clip, False, prediction))
        else:
            large = config["variance_type"] == "fixed_large"
            table.append(ddpm_coefs(bars[t], bars[before] if before >= 0 else 1.0, clip, prediction, large))
    return table


def scheduler_table(config, steps, sampler=None, eta=0.0):
    """(timesteps [steps], [coefficients of each step]) of a scheduler_config.json.

    sampler : of SAMPLERS, or None, the file's own; eta : of DDIM. Raises SchedulerError.
    """
    config, sampler = checked_config(config, sampler)
    total = config["num_train_timesteps"]
    if not 1 <= steps <= total:
        raise SchedulerError(f"steps={steps}: must be in 1..{total}, the timesteps of the schedule")
    if sampler == "flow":
        sigmas = flow_sigmas(total, steps, config["shift"])
        return total * sigmas, flow_table(sigmas)
    bars, prediction = np.cumprod(1 - betas(config)), config["prediction_type"]
    times = dpm_timesteps(config, bars, steps) if sampler == "dpm++" else timesteps_of(config, steps)
    if times.max() >= len(bars) or times.min() < 0:
        raise SchedulerError(f"steps_offset={config['steps_offset']}: timesteps {times.min()}..{times.max()} leave 0..{len(bars) - 1}")
    if sampler in ("ddim", "ddpm"):
        times = times.round().astype(np.int64)
        return times, ancestral_table(config, sampler, bars, times, eta)
    times, sigmas = ladder(config, bars, times, sampler)
    if sampler == "euler":
        return times, euler_table(sigmas, prediction, config["timestep_spacing"] == "leading")
    short = config["euler_at_final"] or config["lower_order_final"] and steps < SHORT
    return times, dpm_table(sigmas, prediction, config["solver_order"], config["solver_type"] == "heun", short)
