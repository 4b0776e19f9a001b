"""Import a torch U-Net into the graph IR by symbolic tracing (torch.fx).

Understood: Conv2d, Linear (on vectors), GroupNorm, SiLU / ReLU / GELU / Tanh, Embedding of the label,
``timestep_embedding(t)``, nearest x2 interpolation, 2x2 average, cat along channels, add, ``x[:, :, None, None]``, and attention
blocks (modules with norm, q, k, v, out and heads). Anything else is refused (problems.py) with an UnsupportedLayer, which names the
layer, the reason and its place in the model, before anything is built. Where problems are collected, a tensor of the shape that torch
finds stands in for the result; what reads a result that is no picture and no vector is not looked at.
"""

import operator

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from litediffusion.sw.graph import GraphError, verify
from litediffusion.sw.graph_builder import GraphBuilder, UnsupportedLayer, as_float
from litediffusion.sw.problems import any_problems, not_looked_at, refuse
from litediffusion.sw.reference import evaluate


ACTIVATIONS = {nn.SiLU: "SILU", nn.ReLU: "RELU", nn.GELU: "GELU", nn.Tanh: "TANH",
               F.silu: "SILU", F.relu: "RELU", F.gelu: "GELU", torch.relu: "RELU", torch.tanh: "TANH"}
FUNCTIONS = {operator.add: "add_function", torch.add: "add_function", torch.cat: "cat_function", F.interpolate: "interpolate_function",
             operator.getitem: "index_function"}
METHODS = {"relu": "torch.relu(x)", "tanh": "torch.tanh(x)", "add": "x + y"}      # of tensors, and what is known instead
OWN_FORM = "write it with the layers that are known (see sw/importer.py), or leave it out"
REMEDIES = {nn.BatchNorm2d: "fold it into the convolution before it (torch.nn.utils.fusion.fuse_conv_bn_eval)",
            nn.LayerNorm: "use GroupNorm with one group", nn.ConvTranspose2d: "use nearest x2 and a convolution",
            nn.MaxPool2d: "use AvgPool2d(2) or a convolution with stride 2"}


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
        self.torch_shapes = None

    def linear_module(self, name, x, module):
        return self.linear(name, x, array(module.weight), optional_array(module.bias))

    def norm_module(self, name, x, module):
        c = self.shape(x)[0]
        gamma, beta = (np.ones(c), np.zeros(c)) if module.weight is None else (array(module.weight), array(module.bias))
        return self.norm(name, x, gamma, beta, module.num_groups, module.eps)

    def attention_block(self, name, x, module):
        width = module.q.out_features
        if module.heads < 1 or width % module.heads:
            raise UnsupportedLayer("attention", f"{width} channels are no multiple of {module.heads} heads", self.path,
                                   "choose a number of heads that divides the channels, and train again")
        n = self.norm_module(f"{name}.norm", x, module.norm)
        q, k, v = (self.linear_module(f"{name}.{part}", n, getattr(module, part)) for part in "qkv")
        mixed = self.attention(f"{name}.mix", q, k, v, module.heads)
        return self.add(f"{name}.sum", self.linear_module(f"{name}.out", mixed, module.out), x)

    def module(self, path):
        """What imports a module: f(name, x, module). Raises UnsupportedLayer."""
        module = self.model.get_submodule(path)
        if is_attention(module):
            return self.attention_block
        if type(module) in ACTIVATIONS:
            return lambda name, x, module: self.act(name, x, ACTIVATIONS[type(module)])
        for kinds, build in ((nn.Conv2d, self.conv2d), (nn.Linear, self.vector_linear), (nn.GroupNorm, self.norm_module),
                             (nn.Upsample, lambda name, x, module: self.interpolate(name, x, module.scale_factor, module.mode)),
                             (nn.AvgPool2d, self.average_pool), ((nn.Identity, nn.Dropout), lambda name, x, module: x)):
            if isinstance(module, kinds):
                return build
        remedy = next((text for kind, text in REMEDIES.items() if isinstance(module, kind)), OWN_FORM)
        raise UnsupportedLayer(type(module).__name__, "there is no instruction sequence for it", path, remedy)

    def vector_linear(self, name, x, module):
        if self.graph.shape(x)[1:] != (1, 1):
            raise UnsupportedLayer("Linear", f"input {self.graph.shape(x)} is no vector", self.path, "for pixels use Conv2d with a 1x1 kernel")
        return self.linear_module(name, x, module)

    def conv2d(self, name, x, module):
        kh, kw = module.kernel_size
        even = isinstance(module.padding, tuple) and module.padding[0] == module.padding[1]
        for ok, reason, remedy in (
                (module.groups == 1, f"groups={module.groups}, only 1", "write its weights as those of one group, with zeros between the groups"),
                (module.dilation == (1, 1), f"dilation={module.dilation}, only 1", "write its kernel larger, with zeros between the taps"),
                (module.stride in ((1, 1), (2, 2)), f"stride={module.stride}, only 1 or 2", "use one of these, alike on both axes"),
                (module.padding_mode == "zeros", f"padding_mode={module.padding_mode!r}, only 'zeros'", "train with zeros"),
                (kh <= 15 and kw <= 15, f"kernel {kh}x{kw}, the limit is 15", "use several smaller ones"),
                (even, f"padding={module.padding}, only equal on both axes", "write it as two equal numbers")):
            if not ok:
                raise UnsupportedLayer("Conv2d", reason, self.path, remedy)
        return self.conv(name, x, array(module.weight), optional_array(module.bias), module.stride[0], module.padding[0])

    def average_pool(self, name, x, module):
        if (module.kernel_size, module.stride, module.padding) not in ((2, 2, 0), ((2, 2), (2, 2), (0, 0)), ((2, 2), (2, 2), 0)):
            raise UnsupportedLayer("AvgPool2d", f"kernel {module.kernel_size}, stride {module.stride}, padding {module.padding}; "
                                   "only 2x2 with stride 2", self.path, OWN_FORM)
        return self.average(name, x)

    def interpolate(self, name, x, factor, mode):
        if mode != "nearest" or factor not in (2, 2.0, (2, 2), (2.0, 2.0)):
            raise UnsupportedLayer("interpolate", f"mode={mode!r}, scale_factor={factor}, only nearest x2", self.path, "train with nearest x2")
        return self.upsample(name, x)

    # --- functions: f(fx node, arguments with the names of tensors for nodes) --------------------------------------------

    def add_function(self, node, args):
        a, b = args
        if node.kwargs or not (isinstance(a, str) and isinstance(b, str)):
            raise UnsupportedLayer("add", f"of {a!r} and {b!r} {node.kwargs or ''}; only two tensors", self.path,
                                   "put factors into the weights and constants into the bias of the layer before it")
        return self.add(node.name, a, b)

    def cat_function(self, node, args):
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if dim != 1:
            raise UnsupportedLayer("cat", f"dim={dim}, only 1 (channels)", self.path, OWN_FORM)
        return self.cat(node.name, args[0])

    def interpolate_function(self, node, args):
        return self.interpolate(node.name, args[0], node.kwargs.get("scale_factor"), node.kwargs.get("mode", "nearest"))

    def act_function(self, node, args):
        if node.kwargs.get("approximate", "none") != "none":
            raise UnsupportedLayer("gelu", f"approximate={node.kwargs['approximate']!r}, only the exact one", self.path, "leave approximate out")
        return self.act(node.name, args[0], ACTIVATIONS[node.target])

    def index_function(self, node, args):
        if node.args[1] == (slice(None), slice(None), None, None):
            return args[0]
        raise UnsupportedLayer("indexing", f"[{node.args[1]}], only x[:, :, None, None]", self.path, OWN_FORM)

    def timestep_function(self, node, args):
        if args != ("t",) or node.kwargs:
            raise UnsupportedLayer("timestep_embedding", f"called with {args} {node.kwargs}; only with the timestep t", self.path,
                                   "do the rest inside of timestep_embedding")
        return self.step_table(node.name, array(node.target(torch.as_tensor(self.timesteps))))

    def function(self, node):
        """What imports a function's node: f(node, args). Raises UnsupportedLayer."""
        if node.target in FUNCTIONS:
            return getattr(self, FUNCTIONS[node.target])
        if node.target in ACTIVATIONS:
            return self.act_function
        if getattr(node.target, "__name__", "") == "timestep_embedding":
            return self.timestep_function
        raise UnsupportedLayer(operator_of(node), "the engine has no such operation", self.path, OWN_FORM)

    # --- nodes: their tensor's name, or None: nothing stands in for what makes it -------------------------------------------

    def lookup(self, arguments):
        return fx.node.map_arg(arguments, self.names.get)

    def visit_placeholder(self, node):
        index = sum(n.op == "placeholder" for n in self.names)
        if index > 2:
            raise UnsupportedLayer("forward", f"a fourth input {node.name!r}; it must be forward(x, t, y)", "", "leave it out")
        if index == 0:
            self.node("x", "input", [], self.input_shape)
        return ("x", "t", "y")[index]

    def visit_call_module(self, node):
        module, self.path = self.model.get_submodule(node.target), node.target
        if isinstance(module, nn.Embedding):
            if self.lookup(node.args[0]) != "y":
                raise UnsupportedLayer("Embedding", "its index is not the label y", self.path, "what depends on t goes through timestep_embedding")
            return self.label_table(node.target, array(module.weight))
        build = self.module(node.target)
        return self.of_known(node, lambda: build(node.target, self.lookup(node.args[0]), module))

    def visit_call_function(self, node):
        build = self.function(node)
        return self.of_known(node, lambda: build(node, self.lookup(node.args)))

    def visit_output(self, node):
        found = self.lookup(node.args[0])
        if isinstance(node.args[0], fx.Node) and found is None:
            not_looked_at(GraphError("its input is not known"), "output")
        elif not isinstance(found, str):
            refuse(UnsupportedLayer("output", f"the model returns {found!r}, must be one tensor", "", "return the predicted tensor alone"))
        self.graph.output = found if isinstance(found, str) else self.stand_in("output", self.input_shape, len(self.timesteps))

    def visit_other(self, node):
        remedy = f"write {METHODS[node.target]}" if node.target in METHODS else OWN_FORM
        raise UnsupportedLayer(f"{node.op} {node.target}", "only modules and functions can be traced", self.path, remedy)

    def of_known(self, node, build):
        """``build()``, if all tensors are known that a node reads and are pictures or vectors of the network's own making."""
        names = [self.names[n] for n in node.all_input_nodes]
        if None in names:
            not_looked_at(GraphError("its input is that of a layer that cannot run, and no picture"), self.path or node.name)
            return self.torch_stand_in(node)
        direct = [n for n in names if n not in self.graph.nodes]
        if direct and getattr(node.target, "__name__", "") != "timestep_embedding":
            raise UnsupportedLayer(operator_of(node), f"reads {direct[0]} itself; the timestep t may only go through timestep_embedding, the "
                                   "label y through an Embedding", self.path)
        return build()

    def visit(self, node):
        """Import an fx node."""
        stack = node.meta.get("nn_module_stack") or {}
        self.path = list(stack.values())[-1][0] if stack else ""
        try:
            self.names[node] = getattr(self, f"visit_{node.op}", self.visit_other)(node)
        except GraphError as error:
            if node.op != "call_module" and node.name not in getattr(error, "what", "").split():
                error.what = f"{getattr(error, 'what', operator_of(node))} ({node.name})"         # which one of several
            refuse(error, self.path, operator_of(node), OWN_FORM)
            self.names[node] = self.torch_stand_in(node)

    def torch_stand_in(self, node):
        """Name of a tensor in the place of a node's, of the shape that torch finds for it; None if it is no picture and no vector."""
        if self.torch_shapes is None:
            self.torch_shapes = shapes_by_torch(self.model, node.graph, self.input_shape, self.timesteps)
        shape = self.torch_shapes.get(node.name, ())
        if len(shape) not in (2, 4):
            return None
        return self.stand_in(node.name, (*shape[1:], 1, 1)[:3], len(self.timesteps))


def operator_of(node):
    """What an fx node does, in the user's terms."""
    return getattr(node.target, "__name__", str(node.target))


class _ShapeRun(fx.Interpreter):
    """Runs a trace and keeps the shapes; a node that fails has none, nor what reads it."""

    shapes = None

    def run_node(self, node):
        try:
            result = super().run_node(node)
        except Exception:               # the user's layers may raise anything
            return None
        if isinstance(result, torch.Tensor):
            self.shapes[node.name] = tuple(result.shape)
        return result


@torch.no_grad()
def shapes_by_torch(model, graph, shape, timesteps):
    """{fx node: shape of its tensor, with a batch of 1}, of a run on zeros."""
    run = _ShapeRun(model, graph=graph)
    run.shapes = {}
    run.run(torch.zeros((1, *shape)), torch.tensor([int(timesteps[0])]), torch.tensor([0]))
    return run.shapes


def _trace(model):
    autowrap = [f for f in vars(__import__(type(model).__module__, fromlist=["_"])).values()
                if getattr(f, "__name__", "") == "timestep_embedding"]
    try:
        return _Tracer(autowrap_functions=tuple(autowrap)).trace(model)
    except Exception as error:
        raise UnsupportedLayer(type(model).__name__, f"its forward() cannot be traced: {error}", "",
                               "let the path through forward() not depend on values of tensors") from error


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
    verify(state.graph)
    if not any_problems():
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
