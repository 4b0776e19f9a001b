"""Calibration on the model's own trajectories: the range of every tensor at every sampler step.

The float graph generates ``images`` pictures with guidance; at each step the absolute range that minimises the squared
error of symmetric int8 is kept for every tensor (of skew bytes where the graph says so).
"""

import numpy as np
import torch

from litediffusion.cores.isa import SKEW
from litediffusion.sw.reference import OWN, evaluate

FRACTIONS = np.array([1.0, 0.95, 0.9, 0.85, 0.8, 0.72, 0.64, 0.56, 0.48])   # candidate clips, of the largest value
SAMPLES = 40_000                                                             # values looked at for the choice


def best_range(values, limits=(-128, 127)):
    """Clip (positive float) with the least squared error of bytes of a scale clip / 127, for a flat tensor of values.

    limits : smallest and largest value of a byte.
    """
    low, high = (float(values.min()) / limits[0], float(values.max()) / limits[1])
    top = 127.0 * max(low, high)
    if top <= 0.0:
        return 1e-3
    values = values[:: max(1, values.numel() // SAMPLES)]
    scales = torch.as_tensor(top * FRACTIONS / 127.0, dtype=torch.float32)[:, None]
    error = (torch.clamp(torch.round(values / scales), *limits) * scales - values).square().sum(1)
    return top * float(FRACTIONS[int(error.argmin())])


def float_step(x, eps, coefs, before):
    """(x', prediction): float twin of the sampler's update, on the same (rounded) coefficients; before : the last prediction."""
    c = {k: v / (1 << 14) for k, v in coefs.items()}
    x0 = np.clip(c["c1"] * x + c["c2"] * eps, -coefs["clip"] / 4096, coefs["clip"] / 4096)
    return c["a"] * x0 + c["b"] * eps + c["c"] * x + c["d"] * before, x0


def limits_of(graph, name):
    """Limits of the bytes of a tensor of a graph, by its name or as evaluate calls it."""
    return SKEW if name in graph.nodes and graph.nodes[name].attrs.get("skew") else (-128, 127)


def unit_ranges(graph, steps):
    """Ranges of 1 for every tensor: for programs that are only looked at."""
    names = [*graph.nodes, *(n.name + OWN for n in graph.nodes.values() if n.op == "conv" and len(n.inputs) > 1)]
    return {name: np.ones(steps) for name in names}


def calibrate(graph, table, labels, null_label, guidance, images=32, seed=1, progress=None, decoder=None, watch=None,
              states=None):
    """{tensor: ranges [steps] float64}; of the decoder's tensors [1].

    Parameters
    ----------
    graph : Graph after the passes; table : coefficients of each step (see sampler_table).
    labels : labels to draw from; null_label : label of the unconditional evaluation; decoder : Graph of what makes pictures of the
    last latents, or None; watch(step, name, tensor) sees every tensor too; states : a list that gets the latents before every step.
    """
    rng = np.random.default_rng(seed)
    shape = next(n.shape for n in graph.nodes.values() if n.op == "input")
    x, before = table[0].get("start", 1.0) * rng.standard_normal((images,) + tuple(shape)), 0.0
    y = np.asarray(labels)[np.arange(images) % len(labels)]
    guided = guidance != 1.0
    both = np.concatenate([y, np.full(images, null_label)]) if guided else y
    ranges, cache = {}, {}
    for step, coefs in enumerate(table):
        def see(name, tensor, step=step):
            ranges.setdefault(name, np.zeros(len(table)))[step] = best_range(tensor.flatten(), limits_of(graph, name))
            if watch:
                watch(step, name, tensor)

        if states is not None:
            states.append(x)
        eps = evaluate(graph, np.concatenate([x, x]) if guided else x, step, both, see, cache).numpy()
        if guided:
            eps = eps[images:] + guidance * (eps[:images] - eps[images:])
        x, before = float_step(x, eps, coefs, before)
        x = x + coefs["sigma"] / (1 << 14) * rng.standard_normal(x.shape)
        if progress:
            progress(step + 1, len(table))
    if decoder:
        see = lambda name, tensor: ranges.update({name: np.array([best_range(tensor.flatten(), limits_of(decoder, name))])})
        evaluate(decoder, x, 0, y, see)
    return ranges
