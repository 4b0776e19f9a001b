"""A convolution from DRAM to DRAM in tiles of rows, its input's norm and its output's residual on the way.

For each tile of output rows: LOAD of the input rows with their halo, in slices of blocks; GroupNorm + activation by a
POST pass over each slice; products; drain by POST with bias, residual or vector, and statistics; STORE. What follows is
emitted ahead (``tile_plan``, ``tiles.SliceStream``), so the queues overlap tiles. Rows outside the image are never
loaded: GEMM takes them as zero, after the norm.
"""

from dataclasses import replace

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import WORD_BYTES, CompileError, Operand, Pool, Resource
from litediffusion.sw.compiler.lower_conv import drain_fields, gemm_fields, input_rows, operand_fields, out_kind
from litediffusion.sw.compiler.records import PLAIN_FRACTION, conv_records, quantise_weights, rounding_record, times_records, weight_tiles
from litediffusion.sw.compiler.state import Tensor
from litediffusion.sw.compiler.tile_plan import OUT_SLOTS, Layer, plan_tiles
from litediffusion.sw.compiler.tiles import Prepared, Slice, SliceStream, move


class ConvWeights:
    """Constant weights of a conv, placed in the image once and loaded for every tile.

    ``scale`` [M] of the output channels; ``layout``: GEMM's strides (wts, wgs) for a slice of some blocks.
    """

    def __init__(self, state, image, node, w4):
        self.state, self.image, self.w4, self.placed = state, image, w4, {}
        self.q, self.scale = quantise_weights(node.attrs["weight"], 4 if w4 else 8)
        self.taps = node.attrs["weight"].shape[2] * node.attrs["weight"].shape[3]

    def layout(self, blocks, groups):
        return dict(wts=8, wgs=8 * blocks * self.taps)

    def resource(self, chunk, channels, blocks):
        """Weights of output groups ``chunk`` (first, count) for some blocks of the input channels ``channels`` (a slice)."""
        key = chunk, channels.start, blocks
        if key not in self.placed:
            data = weight_tiles(self.q[:, channels], *chunk, blocks, self.w4)
            self.placed[key] = self.image.constant(data), data
        dram, data = self.placed[key]
        return Resource("WBUF", data, self.state.layer, dram=dram)


class TokenWeights:
    """The right-hand operand is a tensor in DRAM whose pixels play the output channels, 8 a group."""

    def __init__(self, state, tensor, scale):
        self.state, self.tensor, self.after = state, tensor, len(state.items)
        self.scale = np.repeat(scale, tensor.pixels)

    def layout(self, blocks, groups):
        return dict(wts=8 * groups, wgs=8)

    def resource(self, chunk, channels, blocks):
        tensor, (first, groups) = self.tensor, chunk
        start = tensor.at // WORD_BYTES + (channels.start // 16 + blocks.start) * tensor.pixels + 8 * first
        return Operand("WBUF", None, self.state.layer, dram=WORD_BYTES * start, after=self.after, rows=len(blocks),
                       length=8 * groups, pitch=tensor.pixels, spilled=tensor.spilled)


class TiledConv:
    """Emits one conv node.

    sources : DramTensor parts of the input (the weights are for the first one's scale); out : DramTensor; weights : ConvWeights or TokenWeights;
    norm : None or Prepared; operand : None or DramTensor, as
    large as ``out`` or a vector, that is added, or with ``times`` multiplies; s_own : None, or [steps]: scale of the convolution's own
    result, for ``times`` and for a wide operand; w4 : int4 weights; final : int16 output of up to 8 channels, v itself.
    """

    def __init__(self, state, node, sources, out, weights, norm=None, operand=None, w4=False, final=False, s_own=None, times=False):
        self.state, self.node, self.sources, self.out, self.norm, self.operand = state, node, sources, out, norm, operand
        self.s_own, self.times = s_own, times
        self.wide_sum = bool(operand and operand.fine)
        self.weights, self.w4, self.final = weights, w4, final
        self.vector = self.load_vector() if operand and operand.pixels == 1 else None
        self.spare = self.vector.words if self.vector else 0
        parts = tuple(s.blocks for s in sources)
        layer = Layer(node, parts, (16 * sum(parts),) + tuple(sources[0].shape[1:]), w4, norm is not None,
                      operand is not None and not self.vector, self.spare, any(s.fine for s in sources), out.fine > 0, self.wide_sum)
        self.plan = plan_tiles(state.config, layer)
        self.params = state.params(self.records())
        self.sum_params = state.params(self.sum_records()) if self.wide_sum else None
        self.slot = layer.place_words(self.plan.tiles[0][1])
        self.slots = state.config.spm_words - OUT_SLOTS * self.slot

    def records(self):
        node, s_x = self.node, self.norm.scale if self.norm else self.sources[0].scale
        s_r = self.operand.scale if self.operand else None
        if self.wide_sum:
            return conv_records(self.weights.scale, node.attrs["bias"], s_x, self.s_own, None, None, node.name)
        if self.times:
            return times_records(self.weights.scale, node.attrs["bias"], s_x, self.s_own, s_r, self.out.scale, node.name)
        record = conv_records(self.weights.scale, node.attrs["bias"], s_x, self.out.scale, s_r, node.attrs.get("function"), node.name)
        if self.final:
            record["oshift"] = 0             # v is the 16-bit output itself
        return self.widened(record)

    def widened(self, record):
        """Records for a wide output: of v's bits below a byte's unit some are kept."""
        if self.out.fine:
            record["oshift"] = PLAIN_FRACTION - self.out.fine
        return record

    def sum_records(self):
        """The record of the second pass: wide operand and the convolution's own result, as bytes."""
        return self.widened(conv_records(np.ones(8), None, self.operand.unit, self.out.scale, self.s_own, self.node.attrs.get("function"),
                                         self.node.name))

    def prepared(self):
        """What POST does to each part of the input: the norm, or rounding of a wide one."""
        if self.norm:
            return [self.norm] * len(self.sources)
        return [Prepared(self.state.params(rounding_record(s.fine)), None, s.scale, single=True) if s.fine else None for s in self.sources]

    def load_vector(self):
        """A vector operand stays on chip for the layer, at the start of the scratchpad."""
        vector = Tensor(self.operand.name, self.operand.shape, 0)
        move(self.state, "LOAD", self.operand, 0, 0, vector)
        return vector

    def steps(self):
        """[(tile, chunk, Slice)] of the products in order."""
        plan, steps = self.plan, []
        first_blocks = [sum(s.blocks for s in self.sources[:i]) for i in range(len(self.sources))]
        for tile in plan.tiles:
            row, rows = input_rows(self.node, self.sources[0].shape[1], *tile)
            for number, batch in enumerate(plan.batches()):
                turn = (tile[0], 0 if plan.resident else number)
                for part, block, blocks in plan.slices:
                    piece = Slice(turn, part, block, blocks, row, rows, first_blocks[part] + block)
                    steps += [(tile, chunk, piece) for chunk in batch]
        return steps

    def run(self):
        steps = self.steps()
        stream = SliceStream(self.state, self.sources, [piece for _, _, piece in steps], self.prepared(),
                             Pool(self.plan.ring, self.spare))
        drains, accumulators, done, products = Drains(self), {}, {}, len(self.plan.slices)
        for step, (tile, chunk, piece) in enumerate(steps):
            stream.prepare(step)
            count = done[tile, chunk] = done.get((tile, chunk), 0) + 1
            if count == 1:
                accumulators[tile, chunk] = self.state.accumulators(chunk[1] * tile[1] * self.node.shape[2], self.w4)
            if count == products:
                drains.prepare()
            self.product(stream.use(step, piece), piece, chunk, tile, accumulators[tile, chunk], count > 1)
            if count == products:
                drains.drain(accumulators.pop((tile, chunk)))

    def product(self, source, piece, chunk, tile, accumulators, accumulate):
        """One GEMM: a slice by the weights of a chunk."""
        acc, region = accumulators
        start = 16 * (piece.channel_block - piece.block)
        resource = self.weights.resource(chunk, slice(start, start + self.sources[piece.part].shape[0]),
                                         range(piece.block, piece.block + piece.blocks))
        fields = gemm_fields(self.node, source, range(piece.blocks), *tile)
        fields["y0"] -= piece.row << fields["up"]
        fields.update(self.weights.layout(piece.blocks, chunk[1]), ng=chunk[1], acc=acc, ags=tile[1] * self.node.shape[2],
                      accumulate=int(accumulate), w4=int(self.w4))
        self.state.emit("GEMM", fields, source.region() + (region if accumulate else []), region, {"wt": (resource, 0)})


class Drains:
    """Output blocks of a TiledConv in their order: residual in, POST, STORE; a few places on chip in turn."""

    def __init__(self, conv):
        self.conv, self.state = conv, conv.state
        self.order = [(tile, chunk) for tile in conv.plan.tiles for batch in conv.plan.batches() for chunk in batch]
        self.loaded = self.done = 0

    def place(self, number):
        """The output block of drain ``number`` on chip."""
        (_, rows), _ = self.order[number]
        return self.conv.out.piece(1, rows, self.conv.slots + number % OUT_SLOTS * self.conv.slot)

    def residual(self, number):
        """The residual's block in the same place. A byte residual of a wide output lies in its second plane: POST writes the first half
        of the channels before it reads the residual's second."""
        out = self.place(number)
        first = out.addr + (out.plane if out.wide and not self.conv.wide_sum else 0)
        return replace(out, addr=first, skew=False, wide=self.conv.wide_sum)

    def own(self, number):
        """A place for the convolution's own result as bytes, to be added to a wide residual; POST alone uses it."""
        out = self.place(number)
        return replace(out, addr=self.conv.slots - out.pixels, skew=False, wide=False)

    def block(self, chunk):
        return chunk[0] if self.conv.w4 else chunk[0] // 2

    def prepare(self):
        """LOAD residuals of the next drains."""
        conv = self.conv
        while conv.operand and not conv.vector and self.loaded < min(self.done + OUT_SLOTS // 2, len(self.order)):
            tile, chunk = self.order[self.loaded]
            move(self.state, "LOAD", conv.operand, self.block(chunk), tile[0], self.residual(self.loaded))
            self.loaded += 1

    def drain(self, accumulators):
        """POST and STORE of the next output block; the residual is replaced in place."""
        conv, (tile, chunk), out = self.conv, self.order[self.done], self.place(self.done)
        block, pixels = self.block(chunk), tile[1] * conv.node.shape[2]
        groups = min(2, -(-conv.node.shape[0] // 8) - 2 * block)
        acc, region = accumulators
        entries = conv.state.config.acc_words if conv.w4 else pixels
        if conv.wide_sum:
            fields, reads, params = self.sum(block, groups, acc, entries, region, pixels)
        else:
            fields, reads, params = drain_fields(out, 0, groups, acc, entries, 0, pixels), list(region), (conv.params, 2 * block)
        if conv.operand and not conv.wide_sum:
            operand = conv.vector or self.residual(self.done)
            fields.update(operand_fields(operand, 2 * block if conv.vector else 0, 0, "MUL" if conv.times else "ADD"))
            reads += operand.region()
        function = conv.node.attrs.get("function")
        fields["act"] = isa.ACT[function] if function else 0
        if conv.final:
            fields.update(out=isa.OUT["INT16"], d=2 * out.addr, ds2=2)
        if conv.out.stat >= 0:
            fields.update(stat=1, stat_acc=int(tile[0] > 0), stat_rec=conv.out.stat + 2 * block)
        self.state.emit("POST", fields, reads, out.region(), {"p": params})
        move(self.state, "STORE", conv.out, block, tile[0], out)
        self.done += 1

    def sum(self, block, groups, acc, entries, region, pixels):
        """Emit the drain of the convolution's own result; (fields, reads, records) of the pass that adds it to the wide residual."""
        own, wide, out, conv = self.own(self.done), self.residual(self.done), self.place(self.done), self.conv
        self.state.emit("POST", drain_fields(own, 0, groups, acc, entries, 0, pixels), region, own.region(), {"p": (conv.params, 2 * block)})
        fields = dict(n0=1, n1=groups, n2=pixels, src=isa.SRC["INT16"], a=wide.hword(0), as1=wide.strides[1], as2=2, dst=isa.DST["SPM"],
                      d=out.hword(0), ds1=out.strides[1], ds2=2, out=out_kind(out), rop=isa.ROP["ADD"], r=own.hword(0), rs1=1, rs2=2)
        return fields, own.region() + wide.region(), (conv.sum_params, 0)
