"""Lowering of a whole graph with its tensors in DRAM: networks of any size, a layer after the other.

Every node that makes a tensor becomes a layer of a TiledProgram. A norm that one convolution reads is done on the way
into it; one with several readers is a pass of its own. Tensors share an arena of DRAM by their life time.
"""

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.arena import Arena
from litediffusion.sw.compiler.items import CompileError, Pool
from litediffusion.sw.compiler.scales import EPS_SCALE
from litediffusion.sw.compiler.stat_plan import StatPlan
from litediffusion.sw.compiler.tables import BLOCK, quantise_rows, table_rows
from litediffusion.sw.compiler.tiled_attention import TiledAttention, transposed_values
from litediffusion.sw.compiler.tiled_program import TiledProgram
from litediffusion.sw.compiler.tiles import DramTensor
from litediffusion.sw.compiler.wide import wide_tensors
from litediffusion.sw.hollow import hollow, is_hollow
from litediffusion.sw.reference import OWN


def fill_heads(array, heads, axis, multiple=BLOCK):
    """Zeros behind every head's channels along an axis, up to a multiple of some channels."""
    shape = list(array.shape)
    width = shape[axis] // heads
    if is_hollow(array):
        return hollow(shape[:axis] + [heads * (width + -width % multiple)] + shape[axis + 1:])
    split = array.reshape(shape[:axis] + [heads, width] + shape[axis + 1:])
    fill = [(0, 0)] * split.ndim
    fill[axis + 1] = (0, -width % multiple)
    padded = np.pad(split, fill)
    return padded.reshape(shape[:axis] + [-1] + shape[axis + 1:])


def fill_parts(weight, channels):
    """weight [M, C, kh, kw] with zeros behind the input channels of every part, up to a multiple of BLOCK."""
    if is_hollow(weight):
        return hollow((len(weight), sum(c + -c % BLOCK for c in channels)) + weight.shape[2:])
    parts = np.split(weight, np.cumsum(channels)[:-1], axis=1)
    return np.concatenate([np.pad(p, ((0, 0), (0, -p.shape[1] % BLOCK), (0, 0), (0, 0))) for p in parts], axis=1)


class TiledGraph(TiledProgram):
    """Emits the items of one evaluation: latents in, eps (int16 words) out.

    After ``run``: ``items``, ``layers`` and ``areas``, ``spill_words`` of DRAM for activations, and ``conditions``: where the
    tables that the host fills lie, their shape and scale; ``places``: tensors by the name of their layer. ``wide``: what norms and sums
    read is kept in 16 bits (wide.py).
    """

    def __init__(self, config, graph, scales, bits, steps, image, buffers, wide=True):
        TiledProgram.__init__(self, config, image, steps)
        self.buffers = buffers
        self.graph, self.scales, self.bits = graph, scales, bits
        self.arena, self.tensors, self.uses, self.conditions = Arena(), {}, {}, {}
        self.places, self.fine = {}, wide_tensors(graph) if wide else {}
        self.stats = StatPlan(graph, Pool(config.stat_words))
        self.projections = {}           # conv: (attention node, its part: "q", "k" or "v")
        for node in graph.nodes.values():
            if node.op == "attention":
                self.check_attention(node)
                self.projections |= {name: (node, part) for part, name in zip("qkv", node.inputs)}
        for node in graph.nodes.values():
            for name in self.read_by(node):
                self.uses[name] = self.uses.get(name, 0) + 1

    def check_attention(self, node):
        for part, name in zip("qkv", node.inputs):
            conv = self.graph.nodes[name]
            if conv.op != "conv" or conv.attrs["weight"].shape[2:] != (1, 1) or len(self.graph.users(name)) != 1 \
                    or len(conv.inputs) != 1 or conv.attrs.get("function"):
                raise CompileError(f"layer {node.name} ({node.path}): its {part} must be a plain linear layer used once")

    # --- tensors -------------------------------------------------------------------------------------------------------

    def space(self, tensor):
        tensor.spilled = True
        return self.arena.alloc(tensor.bytes)

    def final_tensor(self, name, shape):
        return DramTensor(name, shape, self.buffers["eps"], self.by_step(EPS_SCALE),
                          index=dict(idx0=isa.INDEX["SLOT"], idx0_stride=self.buffers["eps_stride"]))

    def fused_norm(self, node):
        """The norm node that a conv brings about itself, or None."""
        before = self.graph.nodes[node.inputs[0]] if node.op == "conv" else None
        return before if before and before.op == "norm" and len(self.graph.users(before.name)) == 1 else None

    def is_fused(self, node):
        users = self.graph.users(node.name)
        return node.op == "norm" and len(users) == 1 and self.fused_norm(users[0]) is node

    def is_layer(self, node):
        """False for what is done within the layers that read it."""
        return node.op != "cat" and not self.is_fused(node) and self.projections.get(node.name, ("", ""))[1] != "v"

    def read_by(self, node):
        """Names of the tensors that a node's layer reads."""
        if not self.is_layer(node):
            return []
        inputs = list(node.inputs)
        if norm := self.fused_norm(node):
            inputs[0] = norm.inputs[0]
        if node.op == "attention":
            inputs[2] = self.graph.nodes[inputs[2]].inputs[0]       # the values' tokens
        return [s for i in inputs for s in self.graph.sources(i)]

    def release(self, name):
        """One use of a tensor is over; its place is free after the last."""
        self.uses[name] -= 1
        if self.uses[name] == 0:
            self.discard(self.tensors[name])

    def discard(self, tensor):
        if tensor.spilled:
            self.arena.free(tensor.at)

    def keep(self, name, tensor):
        self.tensors[name] = tensor
        if tuple(tensor.shape) == tuple(self.graph.shape(name)):        # not where heads were filled up
            self.places[name] = tensor
        if not self.uses.get(name):
            self.discard(tensor)

    # --- the graph -----------------------------------------------------------------------------------------------------

    def run(self):
        for node in filter(self.is_layer, self.graph.nodes.values()):
            self.lower(node)
            for name in self.read_by(node):
                self.release(name)
            self.done_with(node)
        self.items, self.layers, self.areas = self.state.items, self.state.layers, self.state.areas
        self.spill_words = self.arena.size // BLOCK
        return self

    def lower(self, node):
        """Emit a node's layer."""
        getattr(self, f"lower_{node.op}")(node)

    def done_with(self, node):
        """A node's layers have been emitted, and its inputs released."""

    def lower_input(self, node):
        c, h, w = node.shape
        if c > 8:
            raise CompileError(f"layer {node.name} ({node.path}): {c} input channels, the limit is 8",
                               "take a network of up to 8 channels of latents")
        self.keep(node.name, self.latents(node.name, node.shape, self.scales[node.name], self.buffers["latent"], self.stats.kept(node.name)))

    def table(self, node, quantised, index):
        """A DramTensor of which every value of an index register has a row."""
        rows = table_rows(quantised)
        at = self.image.constant(rows)
        self.tensors[node.name] = DramTensor(node.name, node.shape, at, self.by_step(self.scales[node.name]),
                                             index=dict(idx0=isa.INDEX[index], idx0_stride=rows.shape[1]))
        return at

    def lower_step_table(self, node):
        scale = self.scales[node.name][:, None]
        self.table(node, quantise_rows(node.attrs["values"], scale), "STEP")

    def lower_label_table(self, node):
        scale = self.scales[node.name]
        if np.ptp(scale):
            raise CompileError(f"layer {node.name}: a label table needs one scale for all steps")
        at = self.table(node, quantise_rows(node.attrs["values"], scale[0]), "LABEL")
        if node.attrs.get("runtime"):
            self.conditions[node.name] = {"at": at, "shape": list(node.attrs["values"].shape[1:]), "scale": float(scale[0]),
                                          "labels": len(node.attrs["values"])}
        if node.attrs["values"].ndim == 3:      # products take their weights from a place that no index moves
            self.keep(node.name, self.copy(self.tensors[node.name], f"{node.name}.copy"))

    def lower_condition_table(self, node):
        steps, labels, c = node.attrs["values"].shape
        rows = table_rows(quantise_rows(node.attrs["values"], self.scales[node.name][:, None, None]).reshape(steps * labels, c))
        index = dict(idx0=isa.INDEX["STEP"], idx0_stride=labels * rows.shape[1], idx1=isa.INDEX["LABEL"], idx1_stride=rows.shape[1])
        self.tensors[node.name] = DramTensor(node.name, node.shape, self.image.constant(rows), self.by_step(self.scales[node.name]), index=index)

    def lower_constant(self, node):
        values, (scale, *_) = node.attrs["values"], self.scales[node.name]
        rows = table_rows(quantise_rows(values.reshape(1, len(values), -1), scale))
        self.tensors[node.name] = DramTensor(node.name, node.shape, self.image.constant(rows), self.by_step(self.scales[node.name]))

    def lower_conv(self, node):
        norm = self.fused_norm(node)
        names = self.graph.sources((norm or node).inputs[0])
        sources = [self.tensors[n] for n in names]
        channels = [self.graph.shape(n)[0] for n in names]
        attrs = self.whole_words(dict(node.attrs, weight=self.conv_weight(node, channels)))
        final = node.name == self.graph.output
        if final and node.shape[0] > 8:
            raise CompileError(f"layer {node.name} ({node.path}): {node.shape[0]} output channels, the limit is 8",
                               "take a network of up to 8 channels of latents")
        if node.name in self.projections:
            attention = self.projections[node.name][0]
            attrs["weight"] = fill_heads(attrs["weight"], attention.attrs["heads"], 0)
            if attrs["bias"] is not None:
                attrs["bias"] = fill_heads(attrs["bias"], attention.attrs["heads"], attrs["bias"].ndim - 1)
        norm_of, joined = None, None
        wide = norm and self.is_wide(channels)
        if wide:
            sources = self.lower_wide_norm(norm, sources)
        elif norm:
            norm_of = (norm.attrs, self.scales[norm.name])
            if self.must_join(norm, channels):
                joined = self.join(norm, sources, channels)
                sources, attrs["weight"] = [joined], fill_parts(node.attrs["weight"], [sum(channels)])
            else:
                self.bring_statistics(norm, names)
        operand, residual = ([self.tensors[name] for name in node.inputs[1:]] + [None, None])[:2]
        bits = self.bits.get(node.name, 8)
        out = self.conv(node.name, sources, attrs, None if final else self.scales[node.name], norm=norm_of, operand=operand, residual=residual,
                        bits=bits, s_own=self.scales.get(node.name + OWN, self.scales[node.name]), stat=-1 if final else self.stats.kept(node.name),
                        fine=self.fine.get(node.name, 0))
        if norm and not wide:
            self.stats.done(norm.name)
        for tensor in sources if wide else [joined] if joined else []:
            self.discard(tensor)
        if final:
            self.tensors[node.name] = out
        else:
            self.keep(node.name, out)

    def whole_words(self, attrs):
        """Attributes of a conv whose channels are patches: 8 channels for every pixel, a word of int16 each."""
        bias, pixels = attrs["bias"], attrs.get("unpatch", 1) ** 2
        if pixels == 1:
            return attrs
        bias = None if bias is None else fill_heads(bias, pixels, bias.ndim - 1, 8)
        return dict(attrs, weight=fill_heads(attrs["weight"], pixels, 0, 8), bias=bias)

    def conv_weight(self, node, channels):
        """The weights as the products take them: channels of parts and of heads filled up."""
        before = self.graph.nodes[node.inputs[0]]
        if before.op == "attention":
            return fill_heads(node.attrs["weight"], before.attrs["heads"], 1)
        return fill_parts(node.attrs["weight"], channels)

    def must_join(self, norm, channels):
        """True if groups of a norm cross the borders of parts that do not lie side by side in the blocks."""
        size = norm.shape[0] // norm.attrs["groups"]
        return any(c % size for c in channels) and any(c % BLOCK for c in channels[:-1])

    def join(self, norm, sources, channels):
        """One tensor of all parts, by a convolution with the identity, with its statistics."""
        attrs = {"weight": fill_parts(np.eye(norm.shape[0])[:, :, None, None], channels)}
        self.stats.missing(norm.name)
        return self.conv(f"{norm.name}.joined", sources, attrs, sources[0].scale, stat=self.stats.first[norm.name])

    def bring_statistics(self, norm, names):
        """A pass over each source of a norm whose producer did not keep its statistics."""
        for name, record in self.stats.missing(norm.name):
            self.statistics(self.tensors[name], record)
        for name, record in self.stats.records(norm.name):
            self.tensors[name].stat = record

    def lower_wide_norm(self, norm, sources):
        """The normalised tensors of a norm whose statistics do not fit on chip together."""
        if self.stats.pool.used:
            raise CompileError(f"layer {norm.name} ({norm.path}): a norm of {norm.shape[0]} channels takes all statistics records, and some are in use",
                               "use a configuration with more stat_words")
        return self.normalise_wide(sources, (norm.attrs, self.scales[norm.name]), norm.name)

    def lower_norm(self, node):
        """A norm that several layers read."""
        names = self.graph.sources(node.inputs[0])
        if len(names) == 1 and self.is_wide([node.shape[0]]):
            return self.keep(node.name, self.lower_wide_norm(node, [self.tensors[names[0]]])[0])
        if len(names) > 1:
            raise CompileError(f"layer {node.name} ({node.path}): a norm of a concat with several readers",
                               "let each of them have a norm of its own")
        self.bring_statistics(node, names)
        self.keep(node.name, self.normalise(self.tensors[names[0]], (node.attrs, self.scales[node.name]), node.name))
        self.stats.done(node.name)

    def lower_attention(self, node):
        q, k, v, *mask = node.inputs
        value = self.graph.nodes[v]
        heads, tokens = node.attrs["heads"], self.tensors[value.inputs[0]]
        weight = fill_heads(value.attrs["weight"][:, :, 0, 0], heads, 0)
        bias = value.attrs["bias"] if value.attrs["bias"] is not None else np.zeros(node.shape[0])
        values = transposed_values(self, v, tokens, weight, self.scales[v])
        self.state.begin(node.name)
        out = self.tensor(node.name, (len(weight),) + tuple(node.shape[1:]), self.scales[node.name])
        self.attend(TiledAttention(self.state, node.name, self.tensors[q], self.tensors[k], values, fill_heads(bias, heads, bias.ndim - 1), out,
                                   heads, node.shape[0] // heads, node.attrs["keys"], self.tensors[mask[0]] if mask else None))
        self.discard(values)
        self.keep(node.name, out)

    def attend(self, attention):
        """Emit a TiledAttention."""
        attention.run()

    def identity(self, node, operand=None, **attrs):
        """A node by itself: a convolution with the identity, which ``attrs`` and a second operand make what it is."""
        attrs["weight"] = np.eye(node.shape[0])[:, :, None, None]
        self.keep(node.name, self.conv(node.name, [self.tensors[node.inputs[0]]], attrs, self.scales[node.name], operand=operand,
                                       stat=self.stats.kept(node.name), s_own=self.scales[node.inputs[0]], fine=self.fine.get(node.name, 0)))

    def lower_upsample(self, node):
        self.identity(node, up=True)

    def lower_add(self, node):
        self.identity(node, self.tensors[node.inputs[1]])

    def lower_act(self, node):
        self.identity(node, function=node.attrs["function"], skew=node.attrs.get("skew"))

    def lower_layer_norm(self, node):
        if node.attrs["gamma"] is not None or node.attrs["beta"] is not None:
            raise CompileError(f"layer {node.name} ({node.path}): gamma and beta of a LayerNorm that not only linear layers read",
                               "let only linear layers read it, or leave out its gamma and beta")
        tensor, *vectors = (self.tensors[name] for name in node.inputs)
        self.keep(node.name, self.layer_norm(tensor, node.attrs["eps"], self.scales[node.name], node.name, vectors))

    def lower_mul(self, node):
        raise CompileError(f"layer {node.name} ({node.path}): a product of two tensors, neither of which is a linear layer's result used once",
                               "make one of them a linear layer's result that nothing else reads")

    def lower_modulate(self, node):
        raise CompileError(f"layer {node.name} ({node.path}): scale and shift of a norm that depend on more than the timestep",
                           "let them depend on the timestep alone, and train again")
