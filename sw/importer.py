"""Import a torch U-Net into the graph IR by symbolic tracing (torch.fx).

Understood: Conv2d, Linear (on vectors), GroupNorm, SiLU / ReLU / GELU / Tanh, Embedding of the label,
``timestep_embedding(t)``, nearest x2 interpolation, 2x2 average, cat along channels, add, ``x[:, :, None, None]``, and attention
blocks (modules with norm, q, k, v, out and heads). Anything else raises UnsupportedLayer, which names the layer, the
reason and its place in the model, before anything is built.
"""

import operator

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from litediffusion.sw.graph import GraphError, verify
from litediffusion.sw.graph_builder import GraphBuilder, UnsupportedLayer, as_float
from litediffusion.sw.reference import evaluate


ACTIVATIONS = {nn.SiLU: "SILU", nn.ReLU: "RELU", nn.GELU: "GELU", nn.Tanh: "TANH",
               F.silu: "SILU", F.relu: "RELU", F.gelu: "GELU", torch.relu: "RELU", torch.tanh: "TANH"}


def is_attention(module):
    """A self-attention block: GroupNorm ``norm``, Linear ``q``, ``k``, ``v``, ``out``, integer ``heads``."""
    return isinstance(getattr(module, "norm", None), nn.GroupNorm) and isinstance(getattr(module, "heads", None), int) \
        and all(isinstance(getattr(module, n, None), nn.Linear) for n in ("q", "k", "v", "out"))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, path):
        return is_attention(module) or super().is_leaf_module(module, path)


def array(tensor):
    return as_float(tensor.detach().cpu())


def optional_array(tensor):
    return None if tensor is None else array(tensor)


class _Import(GraphBuilder):
    """State of one import: the graph so far and the IR name of every fx node."""

    def __init__(self, model, shape, timesteps):
        GraphBuilder.__init__(self)
        self.model, self.input_shape, self.timesteps, self.names = model, shape, np.asarray(timesteps), {}

    def linear_module(self, name, x, module):
        return self.linear(name, x, array(module.weight), optional_array(module.bias))

    def norm_module(self, name, x, module):
        c = self.shape(x)[0]
        gamma, beta = (np.ones(c), np.zeros(c)) if module.weight is None else (array(module.weight), array(module.bias))
        return self.norm(name, x, gamma, beta, module.num_groups, module.eps)

    def attention_block(self, name, x, module):
        n = self.norm_module(f"{name}.norm", x, module.norm)
        q, k, v = (self.linear_module(f"{name}.{part}", n, getattr(module, part)) for part in "qkv")
        mixed = self.attention(f"{name}.mix", q, k, v, module.heads)
        return self.add(f"{name}.sum", self.linear_module(f"{name}.out", mixed, module.out), x)

    def module(self, path, x):
        module, name = self.model.get_submodule(path), path
        if isinstance(module, nn.Conv2d):
            return self.conv2d(name, x, module)
        if isinstance(module, nn.Linear):
            if self.graph.shape(x)[1:] != (1, 1):
                raise UnsupportedLayer("Linear", f"input {self.graph.shape(x)} is no vector", path)
            return self.linear_module(name, x, module)
        if isinstance(module, nn.GroupNorm):
            return self.norm_module(name, x, module)
        if is_attention(module):
            return self.attention_block(name, x, module)
        if type(module) in ACTIVATIONS:
            return self.act(name, x, ACTIVATIONS[type(module)])
        if isinstance(module, nn.Upsample):
            return self.interpolate(name, x, module.scale_factor, module.mode)
        if isinstance(module, nn.AvgPool2d):
            return self.average_pool(name, x, module)
        if isinstance(module, (nn.Identity, nn.Dropout)):
            return x
        raise UnsupportedLayer(type(module).__name__, "there is no instruction sequence for it", path)

    def conv2d(self, name, x, module):
        kh, kw = module.kernel_size
        for ok, reason in ((module.groups == 1, f"groups={module.groups}, only 1"),
                           (module.dilation == (1, 1), f"dilation={module.dilation}, only 1"),
                           (module.stride in ((1, 1), (2, 2)), f"stride={module.stride}, only 1 or 2"),
                           (module.padding_mode == "zeros", f"padding_mode={module.padding_mode!r}, only 'zeros'"),
                           (kh <= 15 and kw <= 15, f"kernel {kh}x{kw}, the limit is 15"),
                           (isinstance(module.padding, tuple) and module.padding[0] == module.padding[1],
                            f"padding={module.padding}, only equal on both axes")):
            if not ok:
                raise UnsupportedLayer("Conv2d", reason, self.path)
        return self.conv(name, x, array(module.weight), optional_array(module.bias), module.stride[0], module.padding[0])

    def average_pool(self, name, x, module):
        if (module.kernel_size, module.stride, module.padding) not in ((2, 2, 0), ((2, 2), (2, 2), (0, 0)), ((2, 2), (2, 2), 0)):
            raise UnsupportedLayer("AvgPool2d", f"kernel {module.kernel_size}, stride {module.stride}, padding {module.padding}; "
                                   "only 2x2 with stride 2", self.path)
        return self.average(name, x)

    def interpolate(self, name, x, factor, mode):
        if mode != "nearest" or factor not in (2, 2.0, (2, 2), (2.0, 2.0)):
            raise UnsupportedLayer("interpolate", f"mode={mode!r}, scale_factor={factor}, only nearest x2", self.path)
        return self.upsample(name, x)

    def function(self, node, args):
        target, name = node.target, node.name
        if target in (operator.add, torch.add):
            a, b = args
            if node.kwargs or not (isinstance(a, str) and isinstance(b, str)):
                raise UnsupportedLayer("add", f"of {a!r} and {b!r} {node.kwargs or ''}; only two tensors", self.path)
            return self.add(name, a, b)
        if target is torch.cat:
            dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
            if dim != 1:
                raise UnsupportedLayer("cat", f"dim={dim}, only 1 (channels)", self.path)
            return self.cat(name, args[0])
        if target is F.interpolate:
            return self.interpolate(name, args[0], node.kwargs.get("scale_factor"), node.kwargs.get("mode", "nearest"))
        if target in ACTIVATIONS:
            if node.kwargs.get("approximate", "none") != "none":
                raise UnsupportedLayer("gelu", f"approximate={node.kwargs['approximate']!r}, only the exact one", self.path)
            return self.act(name, args[0], ACTIVATIONS[target])
        if target is operator.getitem:
            if node.args[1] == (slice(None), slice(None), None, None):
                return args[0]
            raise UnsupportedLayer("indexing", f"[{node.args[1]}], only x[:, :, None, None]", self.path)
        if getattr(target, "__name__", "") == "timestep_embedding":
            if args != ("t",) or node.kwargs:
                raise UnsupportedLayer("timestep_embedding", f"called with {args} {node.kwargs}; only with the timestep t", self.path)
            values = array(target(torch.as_tensor(self.timesteps)))
            return self.step_table(name, values)
        raise UnsupportedLayer(getattr(target, "__name__", str(target)), "the engine has no such operation", self.path)

    def visit(self, node):
        stack = node.meta.get("nn_module_stack") or {}
        self.path = list(stack.values())[-1][0] if stack else ""
        lookup = lambda a: fx.node.map_arg(a, lambda n: self.names.get(n))
        if node.op == "placeholder":
            index = sum(n.op == "placeholder" for n in self.names)
            if index > 2:
                raise UnsupportedLayer("forward", f"a fourth input {node.name!r}; it must be forward(x, t, y)", "")
            self.names[node] = ("x", "t", "y")[index]
            if index == 0:
                self.node("x", "input", [], self.input_shape)
        elif node.op == "call_module":
            self.path = node.target
            module = self.model.get_submodule(node.target)
            if isinstance(module, nn.Embedding):
                if lookup(node.args[0]) != "y":
                    raise UnsupportedLayer("Embedding", "its index is not the label y", self.path)
                values = array(module.weight)
                self.names[node] = self.label_table(node.target, values)
            else:
                self.names[node] = self.module(node.target, lookup(node.args[0]))
        elif node.op == "call_function":
            self.names[node] = self.function(node, lookup(node.args))
        elif node.op == "output":
            self.graph.output = lookup(node.args[0])
        else:
            raise UnsupportedLayer(f"{node.op} {node.target}", "only modules and functions can be traced", self.path)


def _trace(model):
    autowrap = [f for f in vars(__import__(type(model).__module__, fromlist=["_"])).values()
                if getattr(f, "__name__", "") == "timestep_embedding"]
    try:
        return _Tracer(autowrap_functions=tuple(autowrap)).trace(model)
    except Exception as error:
        raise UnsupportedLayer(type(model).__name__, f"its forward() cannot be traced: {error}", "") from error


def import_unet(model, shape, timesteps):
    """torch module with forward(x, t, y) -> verified Graph.

    Parameters
    ----------
    model : nn.Module in eval mode; ``t`` may only go through ``timestep_embedding``, ``y`` only through an Embedding.
    shape : (C, H, W) of x.
    timesteps : the sampler's timesteps, first to last; the step tables follow them.
    """
    state = _Import(model, shape, timesteps)
    for node in _trace(model).nodes:
        state.visit(node)
    if not isinstance(state.graph.output, str):
        raise UnsupportedLayer("output", f"the model returns {state.graph.output!r}, must be one tensor", "")
    verify(state.graph)
    compare_with_model(state.graph, model, shape, state.timesteps)
    return state.graph


@torch.no_grad()
def compare_with_model(graph, model, shape, timesteps):
    """Raise GraphError unless graph and model agree on random inputs at the first and last timestep.

    Tracing can lose what it does not see (a default argument, a formula inside a block): this finds it.
    """
    if graph.shape(graph.output) != tuple(shape):
        raise GraphError(f"output {graph.shape(graph.output)}, input {tuple(shape)}: the network must predict a tensor like its input")
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1])
    for step in {0, len(timesteps) - 1}:
        x = torch.randn((2, *shape), generator=generator)
        want = model(x, torch.full((2,), int(timesteps[step])), labels)
        difference = float((evaluate(graph, x, step, labels) - want).abs().max())
        if difference > 1e-3 * float(want.abs().max()) + 1e-4:
            raise GraphError(f"the imported graph differs from the model by {difference:.3g} (step {step}, largest output "
                             f"{float(want.abs().max()):.3g}): a layer does more than its kind says; write it with plain layers")
