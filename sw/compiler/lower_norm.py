"""Lowering of GroupNorm (+ activation): NORM and one POST pass for every channel block, as soon as it is complete."""

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.compiler.lower_conv import out_kind
from litediffusion.sw.compiler.records import activation_code, norm_records


class NormLowering:
    """Emits one norm node block by block.

    ``outs``: destination tensors (SPM for a following GEMM's activations, WBUF for its weights side).
    """

    def __init__(self, state, node, outs):
        self.state, self.node, self.outs = state, node, outs
        self.layer = state.layer
        self.gsize = node.shape[0] // node.attrs["groups"]
        self.parts, offset = [], 0                       # (source tensor, first channel, records)
        for name in state.sources(node.inputs[0]):
            source = state.tensors[name]
            if source.stat < 0:
                raise CompileError(f"layer {node.name}: input {name} keeps no statistics")
            records = norm_records(node, offset, source.shape[0], state.scale(name), state.scale(node.name), source.pixels, node.name)
            self.check(name, source, offset)
            self.parts.append((source, offset, state.params(records)))
            offset += source.shape[0]

    def check(self, name, source, offset):
        if offset % self.gsize or source.shape[0] % self.gsize:
            raise CompileError(f"layer {self.node.name}: a group of {self.gsize} channels crosses the concat border at channel "
                               f"{offset + source.shape[0]}; choose a group size that divides {source.shape[0]}")
        if source.shape[0] % 16 and len(self.parts) + 1 < len(self.state.sources(self.node.inputs[0])):
            raise CompileError(f"layer {self.node.name}: concat part {name} has {source.shape[0]} channels; all but the last "
                               "must be multiples of 16")

    @property
    def whole_groups_in_blocks(self):
        return 16 % self.gsize == 0

    def source_done(self, source):
        """All blocks of a source."""
        for block in range(source.blocks):
            self.block(source, block)

    def block(self, source, block):
        """Normalise one block of one source (or, where groups are larger than blocks, all at the last one)."""
        part = next(p for p in self.parts if p[0] is source)
        state, saved = self.state, self.state.layer
        state.layer = self.layer
        if self.whole_groups_in_blocks:
            self.emit(part, block, 1)
        elif block == source.blocks - 1:
            self.emit(part, 0, source.blocks)
        state.layer = saved

    def emit(self, part, first_block, blocks):
        source, offset, params = part
        channels = min(16 * blocks, source.shape[0] - 16 * first_block)
        group = 2 * first_block
        records = -(-channels // 8)
        self.state.emit("NORM", dict(ngroups=channels // self.gsize, gsize=self.gsize, count=self.gsize * source.pixels,
                                     stat_rec=source.stat + group),
                        needs={"p": (params, group), "pd": (params, group)})
        for out in self.outs:
            self.apply(out, part, first_block, channels, records)

    def apply(self, out, part, first_block, channels, records):
        source, offset, params = part
        block = first_block + offset // 16
        n0, n1 = (records // 2, 2) if records % 2 == 0 else (records, 1)
        step0, step1 = (2, 1) if records % 2 == 0 else (1, 0)
        stride = lambda t: dict(s0=2 * t.plane, s1=1) if records % 2 == 0 else dict(s0=1, s1=0)
        a, d = stride(source), stride(out)
        if records % 2 and records > 1:
            raise CompileError(f"layer {self.node.name}: {channels} channels in one piece; make it a multiple of 16")
        fields = dict(n0=n0, n1=n1, n2=source.pixels, src=isa.SRC["INT8"], a=source.hword(2 * first_block), as0=a["s0"], as1=a["s1"],
                      as2=2, dst=isa.DST[out.mem], d=out.hword(2 * block), ds0=d["s0"], ds1=d["s1"], ds2=2, ps0=step0, ps1=step1,
                      out=out_kind(out), act=activation_code(self.node.attrs.get("function")))
        blocks = -(-channels // 16)
        self.state.emit("POST", fields, source.region(first_block, blocks), out.region(block, blocks), {"p": (params, 2 * first_block)})
