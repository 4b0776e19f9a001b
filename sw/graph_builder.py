"""Building a graph layer by layer; what the importers share."""

import numpy as np

from litediffusion.sw.graph import Graph, GraphError, Node, check_node, conv_shape


class UnsupportedLayer(GraphError):
    """A layer that the engine cannot run. The message names the layer, the reason, where it stands and what to do (``remedy``)."""

    def __init__(self, what, reason, path, remedy=""):
        super().__init__(f"unsupported layer {what} at {path or 'the top of the model'}: {reason}{remedy and '; ' + remedy}")
        self.what, self.reason, self.path, self.remedy = what, reason, path, remedy


def as_float(tensor):
    """numpy of a torch tensor: matrices and kernels float32, which holds narrower types exactly; vectors and float64 as float64."""
    wide = tensor.ndim < 2 or tensor.dtype.itemsize == 8
    return (tensor.double() if wide else tensor.float()).numpy()


class GraphBuilder:
    """A graph under construction. Every method adds one node and returns its name, which ``unique`` made.

    graph : the Graph so far; path : where in the torch model the next nodes stand.
    """

    def __init__(self):
        self.graph, self.path = Graph(), ""

    def unique(self, name):
        """``name``, or with a number behind it if it is taken."""
        base, count = name, 1
        while name in self.graph.nodes:
            name, count = f"{base}_{count}", count + 1
        return name

    def node(self, name, op, inputs, shape, **attrs):
        node = Node(self.unique(name), op, list(inputs), tuple(shape), attrs, self.path)
        check_node(self.graph, node)
        return self.graph.add(node)

    def stand_in(self, name, shape, steps):
        """A tensor in the place of what cannot run: a vector is a table by step, of zeros."""
        if tuple(shape[1:]) == (1, 1):
            return self.node(name, "step_table", [], shape, values=np.zeros((steps, shape[0])), stand_in=True)
        return self.node(name, "stand_in", [], shape)

    def shape(self, x):
        return self.graph.shape(x)

    def conv(self, name, x, weight, bias, stride=1, pad=0, **more):
        """weight [M, C, kh, kw], bias [M] or None."""
        attrs = dict(weight=weight, bias=bias, stride=stride, pad=pad, up=False, **more)
        return self.node(name, "conv", [x], conv_shape(self.shape(x), attrs), **attrs)

    def linear(self, name, x, weight, bias):
        """weight [M, C]: a convolution with one tap."""
        return self.conv(name, x, weight[:, :, None, None], bias)

    def norm(self, name, x, gamma, beta, groups, eps):
        return self.node(name, "norm", [x], self.shape(x), gamma=gamma, beta=beta, groups=groups, eps=eps)

    def layer_norm(self, name, x, gamma, beta, eps):
        """Over the channels of every pixel; gamma, beta [C] or None."""
        return self.node(name, "layer_norm", [x], self.shape(x), gamma=gamma, beta=beta, eps=eps)

    def act(self, name, x, function):
        return self.node(name, "act", [x], self.shape(x), function=function)

    def add(self, name, a, b):
        """a + b; one of them may be a vector."""
        if self.shape(a)[1:] == (1, 1) and self.shape(b)[1:] != (1, 1):
            a, b = b, a
        return self.node(name, "add", [a, b], self.shape(a))

    def mul(self, name, a, b):
        """a * b; b may be a vector."""
        return self.node(name, "mul", [a, b], self.shape(a))

    def cat(self, name, parts):
        shapes = [self.shape(p) for p in parts]
        return self.node(name, "cat", parts, (sum(s[0] for s in shapes),) + tuple(shapes[0][1:]))

    def attention(self, name, q, k, v, heads, keys=None, mask=None):
        """``keys``: tokens of k and v that count, None: all; ``mask``: a vector that is added to the scores, or None."""
        _, h, w = self.shape(k)
        return self.node(name, "attention", [q, k, v, *([mask] if mask else [])], self.shape(q), heads=heads, keys=keys or h * w)

    def upsample(self, name, x):
        """Nearest x2."""
        c, h, w = self.shape(x)
        return self.node(name, "upsample", [x], (c, 2 * h, 2 * w))

    def average(self, name, x):
        """2x2 average as a stride-2 conv with the identity / 4 as weights: exact, and it needs no unit of its own."""
        c = self.shape(x)[0]
        weight = np.broadcast_to(np.eye(c)[:, :, None, None] / 4, (c, c, 2, 2)).copy()
        return self.conv(name, x, weight, None, stride=2)

    def step_table(self, name, values):
        """Row of the current step of values [steps, C]."""
        return self.node(name, "step_table", [], (values.shape[1], 1, 1), values=values)

    def condition_table(self, name, values):
        """Row of the current step and the label of values [steps, labels, C]."""
        return self.node(name, "condition_table", [], (values.shape[2], 1, 1), values=values)

    def constant(self, name, values):
        """values [C, H, W]."""
        return self.node(name, "constant", [], values.shape, values=values)

    def label_table(self, name, values, runtime=False, **more):
        """Row of the label of values [labels, C] or [labels, C, tokens]; ``runtime``: the host may replace it later."""
        tokens = values.shape[2] if values.ndim == 3 else 1
        return self.node(name, "label_table", [], (values.shape[1], tokens, 1), values=values, **({"runtime": True} if runtime else {}), **more)
