"""Scales of all tensors from calibrated ranges: static, or one for each sampler step."""

import numpy as np

from litediffusion.sw.compiler.records import PLAIN_FRACTION

EPS_SCALE = 2.0 ** PLAIN_FRACTION / 4096      # makes v of the output conv the Q3.12 latent itself


def _sources(graph, name):
    node = graph.nodes[name]
    return [s for i in node.inputs for s in _sources(graph, i)] if node.op == "cat" else [name]


def _shared(graph):
    """Sets of tensors that must have one scale: parts of the same concat, joined where concats share a part."""
    groups = []
    for node in graph.nodes.values():
        if node.op == "conv" and graph.nodes[node.inputs[0]].op == "cat":
            group = set(_sources(graph, node.inputs[0]))
            touching = [g for g in groups if g & group]
            groups = [g for g in groups if not g & group] + [group.union(*touching)]
    return groups


def choose_scales(graph, ranges, per_step):
    """{tensor: scale [steps]}.

    The parts of a concat that a conv reads share one scale, because one product mixes their channels.
    """
    scales = {}
    for name, r in ranges.items():
        r = np.asarray(r, dtype=float) / 127.0
        fixed = not per_step or graph.nodes[name].op == "label_table"
        scales[name] = np.full_like(r, r.max()) if fixed else r
    for group in _shared(graph):
        shared = np.max([scales[p] for p in group], axis=0)
        scales.update(dict.fromkeys(group, shared))
    scales[graph.output] = np.full(len(scales[graph.output]), EPS_SCALE)
    return scales
