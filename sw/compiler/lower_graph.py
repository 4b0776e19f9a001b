"""Lowering of the whole graph: one program that evaluates the network once, activations resident on chip."""

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import CompileError, spm_words
from litediffusion.sw.compiler.lower_attention import AttentionLowering
from litediffusion.sw.compiler.lower_conv import ConvLowering
from litediffusion.sw.compiler.lower_norm import NormLowering
from litediffusion.sw.compiler.records import latent_records
from litediffusion.sw.compiler.state import State, Tensor


class GraphLowering(State):
    """Emits the items of one evaluation: latents in, eps (int16 words) out.

    After ``run``: ``items``, ``layers`` and ``areas``, and ``spill_words`` of DRAM for activations.
    """

    def __init__(self, config, graph, scales, bits, steps, image, buffers):
        super().__init__(config, graph, scales, bits, steps)
        self.image, self.buffers = image, buffers
        self.kinds, self.norms, self.done = self.classify(), {}, set()
        for node in graph.nodes.values():
            for name in node.inputs:
                for source in self.sources(name) if node.op != "cat" else []:
                    self.uses[source] = self.uses.get(source, 0) + 1

    def classify(self):
        """Roles that attention gives to its inputs: {conv name: "key" | "value"}, {norm name: "tokens"}."""
        kinds = {}
        for node in self.graph.nodes.values():
            if node.op == "attention":
                q, k, v = node.inputs
                for name, kind in ((k, "key"), (v, "value")):
                    conv = self.graph.nodes[name]
                    if conv.op != "conv" or len(self.graph.users(name)) != 1 or len(conv.inputs) != 1 or conv.attrs.get("function"):
                        raise CompileError(f"layer {node.name}: its {kind} must be a plain linear layer used once")
                    kinds[name] = kind
                kinds[self.graph.nodes[v].inputs[0]] = "tokens"
        return kinds

    def run(self):
        for node in self.graph.nodes.values():
            emitted = node.name in self.done or self.kinds.get(node.name) == "value"     # with an earlier or later layer
            if node.op not in ("input", "step_table", "label_table", "cat") and not emitted:
                for name in node.inputs:
                    self.ready(name)
                self.begin(node.name)
                self.begin_layer(node)
                getattr(self, node.op)(node)
        return self

    def ready(self, name):
        """Bring in the inputs and tables behind a tensor when they are first used."""
        for source in self.sources(name):
            node = self.graph.nodes[source]
            if source not in self.tensors and node.op in ("input", "step_table", "label_table"):
                self.begin(source)
                getattr(self, node.op)(node)

    def needs_stats(self, name):
        """True if a norm reads this tensor, alone or through a concat."""
        users = self.graph.users(name)
        return any(u.op == "norm" or (u.op == "cat" and self.needs_stats(u.name)) for u in users)

    def finish_inputs(self, node):
        for name in node.inputs:
            for source in self.sources(name):
                self.release(source)

    # --- inputs ------------------------------------------------------------------------------------------------------

    def input(self, node):
        """Latents (int16 words) -> int8 tensor. Only channels up to 8 (one group)."""
        c, h, w = node.shape
        if c > 8:
            raise CompileError(f"layer {node.name}: {c} input channels, the limit is 8")
        latent = self.words(h * w, node.name)
        region = [("SPM", latent, latent + h * w)]
        self.emit("LOAD", dict(dram=self.buffers["latent"], n0=1, n1=1, n2=h * w, addr=latent), writes=region)
        out = self.alloc(node.name, node.shape, self.needs_stats(node.name))
        record = latent_records(self.scale(node.name), node.name)
        self.emit("POST", dict(n0=1, n1=1, n2=h * w, src=isa.SRC["INT16"], a=2 * latent, as2=2, dst=isa.DST["SPM"], d=out.hword(0),
                               ds2=2, **self.stat_fields(out)), region, out.region(), {"p": (self.params(record), 0)})
        self.spm.free(latent)

    def stat_fields(self, out):
        return dict(stat=1, stat_rec=out.stat) if out.stat >= 0 else {}

    def table(self, node, quantised, index):
        """A row of a table [rows, C] int8, picked by an index register, as a vector on chip."""
        rows, c = quantised.shape
        padded = np.zeros((rows, -(-c // 16) * 16), np.int8)
        padded[:, :c] = quantised
        out = self.alloc(node.name, node.shape)
        self.emit("LOAD", dict(dram=self.image.constant(padded.view(np.uint8)), n0=1, n1=1, n2=out.blocks, addr=out.addr,
                               idx0=isa.INDEX[index], idx0_stride=padded.shape[1]), writes=out.region())

    def step_table(self, node):
        scale = self.scale(node.name)[:, None]
        self.table(node, np.clip(np.round(node.attrs["values"] / scale), -128, 127).astype(np.int8), "STEP")

    def label_table(self, node):
        scale = self.scale(node.name)
        if np.ptp(scale):
            raise CompileError(f"layer {node.name}: a label table needs one scale for all steps")
        self.table(node, np.clip(np.round(node.attrs["values"] / scale[0]), -128, 127).astype(np.int8), "LABEL")

    # --- layers ------------------------------------------------------------------------------------------------------

    def conv(self, node):
        kind = self.kinds.get(node.name)
        final = node.name == self.graph.output
        if final:
            if node.shape[0] > 8:
                raise CompileError(f"layer {node.name}: {node.shape[0]} output channels, the limit is 8")
            out = Tensor(node.name, (8,) + node.shape[1:], self.words(node.shape[1] * node.shape[2], node.name))
        else:
            out = self.alloc(node.name, node.shape, self.needs_stats(node.name), "WBUF" if kind == "key" else "SPM",
                             bool(node.attrs.get("skew")))
        norm = None if final else self.following_norm(node.name)
        on_block = (lambda t, block: self.norms[norm].block(t, block)) if norm else (lambda t, block: None)
        ConvLowering(self, node, out, on_block, final).run()
        if norm:
            self.norm_finished(self.graph.nodes[norm])
        if final:
            self.emit("STORE", dict(dram=self.buffers["eps"], n0=1, n1=1, n2=out.pixels, addr=out.addr, idx0=isa.INDEX["SLOT"],
                                    idx0_stride=self.buffers["eps_stride"]), reads=out.region())
        self.finish_inputs(node)

    def following_norm(self, name):
        """The norm node, if any, whose last missing source is this tensor: it is then done block by block with it."""
        candidates = [u for u in self.graph.nodes.values() if u.op == "norm" and name in self.sources(u.inputs[0])]
        order = list(self.graph.nodes)
        for norm in candidates:
            others = [s for s in self.sources(norm.inputs[0]) if s != name]
            if all(s in self.tensors for s in others) and self.adjacent(order, name, norm.name) and self.room_for(norm, others):
                self.start_norm(norm)
                for source in others:
                    self.norms[norm.name].source_done(self.tensors[source])
                return norm.name
        return None

    def room_for(self, norm, others):
        """True if a norm's output fits beside what is on chip, and its other sources are there: nothing has to move."""
        self.pinned.update(others)
        return self.spm.fits(spm_words(norm)) and \
            all(self.tensors[s].addr >= 0 for s in others)

    def adjacent(self, order, name, norm):
        """True if nothing but concats, tables and vector layers lies between a tensor and its norm."""
        between = order[order.index(name) + 1:order.index(norm)]
        return all(self.graph.nodes[n].op in ("cat", "step_table", "label_table") or self.graph.nodes[n].shape[1:] == (1, 1)
                   for n in between)

    def start_norm(self, norm, layer=None):
        """Allocate what a norm makes. ``layer``: its index, if the norm is lowered by itself."""
        saved = self.layer
        if layer is None:
            self.begin(norm.name)
        outs = [self.alloc(norm.name, norm.shape, skew=bool(norm.attrs.get("skew")))]
        if self.kinds.get(norm.name) == "tokens":
            name = f"{norm.name}.tokens"
            outs.append(self.alloc(name, norm.shape, mem="WBUF"))
            self.uses[name] = 1
        self.norms[norm.name] = NormLowering(self, norm, outs)
        self.layer = saved

    def norm_finished(self, norm):
        self.done.add(norm.name)
        self.finish_inputs(norm)

    def norm(self, node):
        self.start_norm(node, self.layer)
        for source in self.sources(node.inputs[0]):
            self.norms[node.name].source_done(self.tensors[source])
        self.norm_finished(node)

    def attention(self, node):
        q, k, v = node.inputs
        value = self.graph.nodes[v]
        tokens = f"{value.inputs[0]}.tokens"
        out = self.alloc(node.name, node.shape)
        AttentionLowering(self, node, self.tensors[tokens], self.tensors[q], self.tensors[k], value, out).run()
        self.release(tokens)
        self.release(value.inputs[0])
        self.release(q)
        self.release(k)

    def act(self, node):
        raise CompileError(f"layer {node.name} ({node.path}): an activation that follows neither a conv nor a norm alone")

    def add(self, node):
        raise CompileError(f"layer {node.name} ({node.path}): an add that follows no conv used once")

    def upsample(self, node):
        raise CompileError(f"layer {node.name} ({node.path}): nearest x2 that is not followed by stride-1 convolutions only")
