"""Graph passes. Each rewrites the graph in place; ``run_passes`` verifies it after every one.

After the passes a conv may have more inputs (see ``graph``) and a ``function``, a layer_norm two vectors; a norm may have a
``function``; upsample and stand-alone act / add nodes remain only where they could not be fused.
"""

import numpy as np
import torch

from litediffusion.sw.graph import verify
from litediffusion.sw.hollow import hollow, is_hollow
from litediffusion.sw.reference import ACT


SKEW_FUNCTIONS = ("SILU", "GELU", "GELU_TANH", "RELU")


def _drop(graph, name, replacement):
    """Remove a node whose users read ``replacement`` instead."""
    del graph.nodes[name]
    graph.replace_input(name, replacement)


def _rename(graph, old, new):
    """Give a node another name at its place."""
    graph.nodes[old].name = new
    graph.nodes = {node.name: node for node in graph.nodes.values()}
    graph.replace_input(old, new)


def _step_values(graph, node):
    """Values [steps, C] of a vector layer whose inputs are step tables."""
    x = [graph.nodes[i].attrs["values"] for i in node.inputs]
    if node.op == "conv":
        bias = node.attrs["bias"]
        return x[0] @ np.asarray(node.attrs["weight"], float)[:, :, 0, 0].T + (0 if bias is None else bias)
    if node.op == "act":
        return ACT[node.attrs["function"]](torch.as_tensor(x[0])).numpy()
    return np.concatenate(x, axis=1) if node.op == "cat" else x[0] + x[1]


def fold_steps(graph):
    """Layers of the timestep alone become step tables; a table added to a conv's output becomes its bias by step, and one that
    modulates a norm its gamma and beta. Exact: a sampler visits finitely many timesteps."""
    is_table = lambda name: graph.nodes[name].op == "step_table"
    # A vector that something else is added to stays a layer, whose second operand that is.
    mixed = lambda user: user.op == "add" and user.shape[1:] == (1, 1) and not all(map(is_table, user.inputs[1:]))
    for node in list(graph.nodes.values()):
        if node.op in ("conv", "act", "add", "cat") and all(map(is_table, node.inputs)) and not any(map(mixed, graph.users(node.name))):
            node.attrs = {"values": _step_values(graph, node)}
            node.op, node.inputs = "step_table", []
    for node in list(graph.nodes.values()):
        if node.op not in ("add", "modulate") or not is_table(node.inputs[1]):
            continue
        before, values = graph.nodes[node.inputs[0]], graph.nodes[node.inputs[1]].attrs["values"]
        if len(graph.users(before.name)) > 1:
            continue
        if node.op == "add" and before.op == "conv":
            before.attrs["bias"] = values + (0 if before.attrs["bias"] is None else before.attrs["bias"])
        elif node.op == "modulate" and before.op == "norm":
            scale, shift = np.split(values, 2, axis=1)
            gamma, beta = before.attrs["gamma"], before.attrs["beta"]
            before.attrs.update(gamma=gamma * (1 + scale), beta=beta * (1 + scale) + shift)
        else:
            continue
        _drop(graph, node.name, before.name)
    for node in list(graph.nodes.values()):
        if node.op == "step_table" and not graph.users(node.name):
            del graph.nodes[node.name]


def share_activations(graph):
    """Keep one of several equal activations of the same tensor (torch code often repeats silu(emb))."""
    first = {}
    for node in list(graph.nodes.values()):
        if node.op == "act":
            key = (node.inputs[0], node.attrs["function"])
            if key in first:
                _drop(graph, node.name, first[key])
            else:
                first[key] = node.name


def fold_upsample(graph):
    """nearest x2 followed only by stride-1 convolutions: the convolution reads each stored pixel twice."""
    for node in list(graph.nodes.values()):
        users = graph.users(node.name)
        if node.op == "upsample" and all(u.op == "conv" and u.attrs["stride"] == 1 for u in users):
            for user in users:
                user.attrs["up"] = True
            _drop(graph, node.name, node.inputs[0])


def fold_layer_norm(graph):
    """gamma and beta of a LayerNorm go into the weights and biases of the linear layers that read it."""
    linear = lambda user: user.op == "conv" and user.attrs["weight"].shape[2:] == (1, 1)
    for node in graph.nodes.values():
        users = graph.users(node.name)
        if node.op != "layer_norm" or not all(map(linear, users)):
            continue
        gamma, beta = node.attrs["gamma"], node.attrs["beta"]
        for user in users:
            weight, bias = user.attrs["weight"], user.attrs["bias"]
            if is_hollow(weight):
                user.attrs["bias"] = hollow(len(weight))
                continue
            if beta is not None:
                user.attrs["bias"] = weight[:, :, 0, 0] @ beta + (0 if bias is None else bias)
            if gamma is not None:
                user.attrs["weight"] = weight * gamma[None, :, None, None]
        node.attrs.update(gamma=None, beta=None)


def fuse_modulation(graph):
    """layer_norm, times a vector, plus a vector -> layer_norm with both, at the place of the latter."""
    is_vector = lambda name: graph.shape(name)[1:] == (1, 1)
    alone = lambda name: len(graph.users(name)) == 1
    for node in list(graph.nodes.values()):
        scaled = graph.nodes[node.inputs[0]] if node.op == "add" else None
        if scaled is None or scaled.op != "mul" or not alone(scaled.name) or not is_vector(node.inputs[1]):
            continue
        norm = graph.nodes[scaled.inputs[0]]
        if norm.op == "layer_norm" and len(norm.inputs) == 1 and alone(norm.name) and is_vector(scaled.inputs[1]):
            node.op, node.attrs, node.path = "layer_norm", norm.attrs, norm.path
            node.inputs = [norm.inputs[0], scaled.inputs[1], node.inputs[1]]
            del graph.nodes[scaled.name], graph.nodes[norm.name]
            _rename(graph, node.name, norm.name)


def _takes_operand(graph, conv, node):
    """True if an add or mul can become an operand of a conv that it reads: its second one or, added to a product with a vector, its third."""
    if conv.op != "conv" or len(graph.users(conv.name)) != 1 or conv.attrs.get("unpatch"):
        return False
    gated = conv.attrs.get("times") and len(conv.inputs) == 2 and graph.shape(conv.inputs[1])[1:] == (1, 1)
    return len(conv.inputs) == 1 or bool(gated) and node.op == "add"


def fuse_operand(graph):
    """conv + add or mul -> conv with an operand more, at the place of the latter (all operands are computed there)."""
    for node in list(graph.nodes.values()):
        if node.op not in ("add", "mul"):
            continue
        for at, other in ((0, 1), (1, 0)):
            conv = graph.nodes[node.inputs[at]]
            same = node.inputs[0] != node.inputs[1] and graph.shape(node.inputs[at]) == node.shape
            if same and _takes_operand(graph, conv, node):
                node.attrs = dict(conv.attrs, times=True) if node.op == "mul" else conv.attrs
                node.op, node.path = "conv", conv.path or node.path
                node.inputs = [*conv.inputs, node.inputs[other]]
                del graph.nodes[conv.name]
                _rename(graph, node.name, conv.name)
                break


def fuse_act(graph):
    """conv or norm followed only by one activation -> a function of the node."""
    for node in list(graph.nodes.values()):
        if node.op != "act":
            continue
        producer = graph.nodes[node.inputs[0]]
        taken = producer.attrs.get("function") or producer.attrs.get("times")
        if producer.op in ("conv", "norm") and len(graph.users(producer.name)) == 1 and not taken:
            producer.attrs["function"] = node.attrs["function"]
            _drop(graph, node.name, producer.name)


def mark_skew(graph):
    """``skew`` for the results of functions that are hardly negative and that nothing but products' activations are made of."""
    values = {node.inputs[2] for node in graph.nodes.values() if node.op == "attention"}
    product = lambda user, i: user.op == "conv" and i == 0 and user.name not in values
    for node in graph.nodes.values():
        if node.attrs.get("function") in SKEW_FUNCTIONS and node.name != graph.output:
            readers = graph.readers(node.name)
            node.attrs["skew"] = bool(readers) and all(product(*reader) for reader in readers)


PASSES = (fold_steps, share_activations, fold_upsample, fold_layer_norm, fuse_modulation, fuse_operand, fuse_act, mark_skew)


def run_passes(graph):
    """All passes, with the verifier after each. Returns the graph."""
    for rewrite in PASSES:
        rewrite(graph)
        verify(graph)
    return graph
