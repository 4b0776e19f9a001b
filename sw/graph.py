"""The graph IR: what the importer makes and the passes rewrite.

A graph is an ordered list of nodes; each node makes one tensor, which bears its name. Shapes are (C, H, W);
a vector is (C, 1, 1); tokens [N, C] are (C, H, W) with N = H * W.

op            inputs          attributes
input         -               -                                       the noisy image (Q3.12 at run time)
step_table    -               values [T, C]                           row of the current step
label_table   -               values [labels, C] or [labels, C, N]    of the label: a vector or N tokens;
                              runtime                                 True: rows that the host replaces (texts), these are for calibration
                              range                                   largest absolute value, where it is known before
condition_table -             values [T, labels, C]                   row of the current step and the label, a vector
constant      -               values [C, H, W]
conv          x (, r)         weight [M, C, kh, kw], bias [M] or [T, M] (by step) or None, stride, pad, pad_end (after the last row and
                              column, else pad), up (nearest x2 first), unpatch (p: the M = p*p*C channels of a
                              pixel are those of p*p pixels, row by row);
              (, s)           after fusion: r is added (or a vector broadcast) or, with ``times``, multiplies, and s is added;
                              then function
norm          x               gamma, beta [C] or [T, C] (by step), groups, eps, (function after fusion)   GroupNorm
layer_norm    x (, m, v)      gamma, beta [C] or None after folding, eps          over the channels of each pixel;
                              after fusion: times m plus v, vectors
modulate      x, v            -                                       x * (1 + v[:C]) + v[C:], v a vector of 2C channels
act           x               function (see isa.ACT)
add           a, b            -                                       b may be a vector
mul           a, b            -                                       a * b; b may be a vector
cat           a, b, ...       -                                       along C
attention     q, k, v (, m)   heads, keys                             softmax(q k^T / sqrt(d) + m) v over the first ``keys`` tokens of k and v;
                                                                      m a vector with a value for each token
upsample      x               -                                       nearest x2
stand_in      -               -                                       in the place of what cannot run, for ``check``; cannot be executed

What has a ``function`` may have ``skew``: its int8 values are skew bytes (isa.SKEW), as products alone read them.
"""

from dataclasses import dataclass, field

import numpy as np

from litediffusion.sw.hollow import is_hollow

OPS = ("input", "step_table", "label_table", "condition_table", "constant", "conv", "norm", "layer_norm", "modulate", "act", "add", "mul", "cat",
       "attention", "upsample", "stand_in")


class GraphError(ValueError):
    """The graph breaks a rule; the message names the node, the rule and the values."""


@dataclass
class Node:
    name: str
    op: str
    inputs: list
    shape: tuple
    attrs: dict = field(default_factory=dict)
    path: str = ""          # where it stands in the torch model


@dataclass
class Graph:
    nodes: dict = field(default_factory=dict)     # name -> Node, in execution order
    output: str = ""

    def add(self, node):
        if node.name in self.nodes:
            raise GraphError(f"node {node.name} exists twice; names must be unique")
        self.nodes[node.name] = node
        return node.name

    def users(self, name):
        """Nodes that read a tensor."""
        return [n for n in self.nodes.values() if name in n.inputs]

    def readers(self, name):
        """[(node, input)] that read a tensor, through concats."""
        found = []
        for user in self.users(name):
            found += self.readers(user.name) if user.op == "cat" else [(user, i) for i, read in enumerate(user.inputs) if read == name]
        return found

    def shape(self, name):
        return self.nodes[name].shape

    def sources(self, name):
        """The tensors behind a name: several for a concat."""
        node = self.nodes[name]
        return [s for i in node.inputs for s in self.sources(i)] if node.op == "cat" else [name]

    def replace_input(self, old, new):
        for node in self.nodes.values():
            node.inputs = [new if i == old else i for i in node.inputs]
        if self.output == old:
            self.output = new


def conv_shape(shape, attrs):
    """Output shape of a conv node."""
    _, h, w = shape
    m, _, kh, kw = attrs["weight"].shape
    if attrs.get("up"):
        h, w = 2 * h, 2 * w
    pad, stride = attrs["pad"] + attrs.get("pad_end", attrs["pad"]), attrs["stride"]
    patch = attrs.get("unpatch", 1)
    return m // patch ** 2, patch * ((h + pad - kh) // stride + 1), patch * ((w + pad - kw) // stride + 1)


def _expected_shape(graph, node):
    shapes = [graph.shape(i) for i in node.inputs]
    if node.op == "conv":
        return conv_shape(shapes[0], node.attrs)
    if node.op in ("norm", "layer_norm", "act"):
        return shapes[0]
    if node.op in ("add", "mul"):
        a, b = shapes[:2]
        if b != a and b != (a[0], 1, 1):
            raise GraphError(f"{node.name} ({node.path}): {node.op} of {a} and {b}; shapes must be equal or the second a vector")
        return a
    if node.op == "cat":
        if len({s[1:] for s in shapes}) != 1:
            raise GraphError(f"{node.name} ({node.path}): concat of different sizes {shapes}")
        return (sum(s[0] for s in shapes),) + shapes[0][1:]
    if node.op == "modulate":
        if shapes[1] != (2 * shapes[0][0], 1, 1):
            raise GraphError(f"{node.name} ({node.path}): {shapes[0]} modulated by {shapes[1]}; must be a vector of twice the channels")
        return shapes[0]
    if node.op == "attention":
        if shapes[1] != shapes[2] or shapes[1][0] != shapes[0][0] or not 1 <= node.attrs["keys"] <= shapes[1][1] * shapes[1][2]:
            raise GraphError(f"{node.name} ({node.path}): attention of {shapes[0]} to {node.attrs['keys']} keys of {shapes[1]} and values {shapes[2]}")
        if len(shapes) == 4 and shapes[3] != (shapes[1][1] * shapes[1][2], 1, 1):
            raise GraphError(f"{node.name} ({node.path}): mask {shapes[3]} of keys {shapes[1]}; must be a vector with a value for each token")
        return shapes[0]
    if node.op == "upsample":
        c, h, w = shapes[0]
        return c, 2 * h, 2 * w
    return node.shape


def check_node(graph, node):
    """Check a node whose inputs are in the graph. Raises GraphError."""
    if tuple(node.shape) != tuple(_expected_shape(graph, node)):
        raise GraphError(f"{node.name} ({node.path}): shape {node.shape}, expected {_expected_shape(graph, node)}")
    for key, value in node.attrs.items():
        if isinstance(value, np.ndarray) and not is_hollow(value) and not np.isfinite(value).all():
            raise GraphError(f"{node.name} ({node.path}): {key} has {int((~np.isfinite(value)).sum())} NaN or infinite "
                             "values; the weights are broken, load good ones")
    if node.op == "conv" and node.attrs["weight"].shape[1] != graph.shape(node.inputs[0])[0]:
        raise GraphError(f"{node.name} ({node.path}): weight {node.attrs['weight'].shape} does not fit input "
                         f"{graph.shape(node.inputs[0])}")


def verify(graph):
    """Check the whole graph; run after the import and after every pass. Raises GraphError."""
    seen = set()
    for node in graph.nodes.values():
        if node.op not in OPS:
            raise GraphError(f"{node.name} ({node.path}): unknown operation {node.op}; known: {OPS}")
        missing = [i for i in node.inputs if i not in seen]
        if missing:
            raise GraphError(f"{node.name} ({node.path}): inputs {missing} are not computed before it")
        check_node(graph, node)
        seen.add(node.name)
    if graph.output not in seen:
        raise GraphError(f"output {graph.output!r} is not computed by the graph")
    return graph


def macs(graph):
    """Multiply-accumulates of one evaluation, by node name."""
    out = {}
    for node in graph.nodes.values():
        if node.op == "conv":
            m, c, kh, kw = node.attrs["weight"].shape
            out[node.name] = m * c * kh * kw * node.shape[1] * node.shape[2] // node.attrs.get("unpatch", 1) ** 2
        elif node.op == "attention":
            c, h, w = node.shape
            keys = graph.shape(node.inputs[1])
            out[node.name] = 2 * c * h * w * keys[1] * keys[2]
    return out
