"""Scales of all tensors from calibrated ranges: static, or one for each sampler step."""

import numpy as np

from litediffusion.sw.compiler.records import PLAIN_FRACTION

EPS_SCALE = 2.0 ** PLAIN_FRACTION / 4096      # makes v of the output conv the Q3.12 latent itself
MIN_RANGE = 1e-6         # of a table of zeros


def crosses(graph, node):
    """True if a norm's groups cross the borders of its input's parts."""
    size = node.shape[0] // node.attrs["groups"]
    return any(graph.shape(s)[0] % size for s in graph.sources(node.inputs[0]))


def _shared(graph):
    """[(names, equal)]: tensors whose scales belong together, because one product mixes their channels.

    They are the parts of a concat that a conv reads, joined where concats share a part. ``equal``: a group of channels of
    a norm mixes them as well.
    """
    groups = []
    for node in graph.nodes.values():
        crossing = node.op == "norm" and crosses(graph, node)
        if (node.op == "conv" and graph.nodes[node.inputs[0]].op == "cat") or crossing:
            names, equal = set(graph.sources(node.inputs[0])), crossing
            touching = [g for g in groups if g[0] & names]
            groups = [g for g in groups if g not in touching]
            groups.append((names.union(*(g[0] for g in touching)), equal or any(g[1] for g in touching)))
    return groups


def choose_scales(graph, ranges, per_step, split=False):
    """{tensor: scale [steps]}.

    ``split``: parts of a concat keep scales of their own, in a ratio that is the same at all steps, for the weights to take
    up; otherwise, and where a norm mixes them, they share one scale.
    """
    scales = {}
    for name, r in ranges.items():
        node = graph.nodes.get(name)
        op = node.op if node else None
        if op == "condition_table":         # the calibration may not have seen all labels
            r = np.maximum(np.abs(node.attrs["values"]).max((1, 2)), MIN_RANGE)
        if node and "range" in node.attrs:
            r = np.full_like(r, node.attrs["range"], dtype=float)
        r = np.asarray(r, dtype=float) / 127.0
        fixed = not per_step or op in ("label_table", "constant")
        scales[name] = np.full_like(r, r.max()) if fixed else r
    for names, equal in _shared(graph):
        top = {name: 1.0 if equal or not split else scales[name].max() for name in names}
        common = np.max([scales[name] / top[name] for name in names], axis=0)
        scales.update({name: common * top[name] for name in names})
    scales[graph.output] = np.full(len(scales[graph.output]), EPS_SCALE)
    return scales
