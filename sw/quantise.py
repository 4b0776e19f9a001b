"""Which layers may have 4-bit weights, and what their biases should be then.

A layer's sensitivity is the error at the network's output when its weights alone are quantised, on states of the model's own
trajectory. Errors of different layers add up, as they are hardly correlated. Bias correction takes away the mean of a layer's own error.
Ref: Dong et al. 2019 (mixed precision by sensitivity); Nagel et al. 2019, section 4.2 (bias correction).
"""

import numpy as np
import torch

from litediffusion.sw.compiler.records import quantise_weights
from litediffusion.sw.graph import macs
from litediffusion.sw.reference import evaluate


def four_bit_candidates(graph):
    """Convs of at least 16 channels on both sides; the ends of the network stay at 8 bits, and so do the values of an attention, whose
    weights are multiplied as activations."""
    values = {n.inputs[2] for n in graph.nodes.values() if n.op == "attention"}
    convs = [n for n in graph.nodes.values() if n.op == "conv" and n.shape[1] > 1 and n.name not in values]
    return [n.name for n in convs if n.name != graph.output and graph.shape(n.inputs[0])[0] >= 16 and n.shape[0] >= 16]


def rounded(weight, bits):
    """The weights as the engine has them, float."""
    q, scale = quantise_weights(weight, bits)
    return q * scale[:, None, None, None]


def sensitivities(graph, names, states, labels, progress=None):
    """{conv: share of the output's energy that its weights at 4 bits make wrong}.

    states : [(step, latents [B, C, H, W])]; labels [B].
    """
    cache, shares = {}, {}
    wanted = [evaluate(graph, x, step, labels, cache=cache) for step, x in states]
    for number, name in enumerate(names):
        kept, weight = cache[name], torch.as_tensor(rounded(graph.nodes[name].attrs["weight"], 4), dtype=torch.float32)
        cache[name] = weight
        errors = [(evaluate(graph, x, step, labels, cache=cache) - want).square().mean() / want.square().mean()
                  for (step, x), want in zip(states, wanted)]
        cache[name], shares[name] = kept, float(max(errors))
        if progress:
            progress(number + 1, len(names))
    return shares


def choose_bits(graph, shares, budget):
    """{conv: 4} for the layers that are cheapest in error for their multiplications, while all errors leave ``budget`` dB."""
    work, left, bits = macs(graph), 10 ** (-budget / 10), {}
    for name in sorted(shares, key=lambda name: shares[name] / work[name]):
        if shares[name] <= left:
            left -= shares[name]
            bits[name] = 4
    return bits


class ChannelMeans:
    """Mean of every channel of every tensor at every step, as ``calibrate`` sees them."""

    def __init__(self, steps):
        self.steps, self.values = steps, {}

    def __call__(self, step, name, tensor):
        mean = tensor.double().mean((0, 2, 3)).numpy()
        self.values.setdefault(name, np.zeros((self.steps, len(mean))))[step] = mean


def correct_biases(graph, bits, means):
    """Take the mean error of 4-bit weights out of the layers' outputs; biases become ones by step. means : {tensor: [steps, C]}."""
    for name in bits:
        node = graph.nodes[name]
        weight, bias = node.attrs["weight"], node.attrs["bias"]
        lost = means[node.inputs[0]] @ (weight - rounded(weight, 4)).sum((2, 3)).T
        node.attrs["bias"] = lost + (0 if bias is None else bias)
