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
from litediffusion.sw.compiler.record_parts import RecordParts
from litediffusion.sw.compiler.records import (PLAIN_FRACTION, activation_code, conv_records, gated_records, quantise_weights, rounding_record,
                                               times_records, weight_tiles)
from litediffusion.sw.compiler.state import Tensor
from litediffusion.sw.compiler.tile_plan import OUT_SLOTS, Layer, plan_tiles
from litediffusion.sw.compiler.tiles import Prepared, Slice, SliceStream, move

INT16_WORDS = 2          # SPM words of a pixel of an output block whose 16 channels are int16
PATCH_WORDS = 2          # SPM words of a pixel of an output block of patches: int16 of two groups


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
    norm : None or Prepared; operand : None or DramTensor, as large as ``out`` or a vector, that is added, or with ``times`` multiplies;
    s_own : None, or [steps]: scale of the convolution's own result, for ``times`` and for a wide operand; residual : None or DramTensor
    of bytes, as large as ``out``, that is added to a product with a vector; w4 : int4 weights; final : int16 output, v itself, of up to
    8 channels or (``patch``) of 8 for each of the patch x patch pixels of ``out`` that a pixel of the node becomes.
    """

    def __init__(self, state, node, sources, out, weights, norm=None, operand=None, w4=False, final=False, s_own=None, times=False,
                 residual=None, patch=1):
        self.state, self.node, self.sources, self.out, self.norm, self.operand = state, node, sources, out, norm, operand
        self.s_own, self.times, self.residual, self.patch = s_own, times, residual, patch
        self.wide_sum = bool(operand and operand.fine)
        if residual and (residual.fine or out.fine):
            raise CompileError(f"layer {node.name}: a product with a vector and a sum, whose operand or result is wide")
        self.weights, self.w4, self.final = weights, w4, final
        self.vector = self.load_vector() if operand and operand.pixels == 1 else None
        self.spare = self.vector.words if self.vector else 0
        self.brought = residual or (None if self.vector else operand)       # comes by with the output's blocks
        parts = tuple(s.blocks for s in sources)
        self.between = INT16_WORDS if residual else int(self.wide_sum)      # words a pixel of what lies between two passes
        layer = Layer(node, parts, (16 * sum(parts),) + tuple(sources[0].shape[1:]), w4, norm is not None, self.brought is not None,
                      self.spare, any(s.fine for s in sources), out.fine > 0, self.wide_sum, PATCH_WORDS if patch > 1 else 1, self.between)
        self.plan = plan_tiles(state.config, layer)
        self.params, self.second = self.all_params()
        self.slot = layer.place_words(self.plan.tiles[0][1])
        self.slots = state.config.spm_words - OUT_SLOTS * self.slot
        self.between_at = self.slots - self.between * self.plan.tiles[0][1] * node.shape[2]

    def all_params(self):
        """Records of the drain, and the resource of the record of its second pass, which adds what is brought, or None."""
        if not self.residual:
            return RecordParts(self.state, self.records()), self.state.params(self.sum_records()) if self.wide_sum else None
        s_x = self.norm.scale if self.norm else self.sources[0].scale
        first, second = gated_records(self.weights.scale, self.node.attrs["bias"], s_x, self.s_own, self.operand.scale, self.residual.scale,
                                      self.out.scale, self.node.name)
        return RecordParts(self.state, first), self.state.params(second)

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
        at = self.conv.slots + number % OUT_SLOTS * self.conv.slot
        if self.conv.patch > 1:
            return Tensor(self.conv.out.name, (16, rows, self.conv.node.shape[2] * PATCH_WORDS), at)
        return self.conv.out.piece(1, rows, at)

    def residual(self, number):
        """The residual's block in the same place. A byte residual of a wide output lies in its second plane: POST writes the first half
        of the channels before it reads the residual's second."""
        out = self.place(number)
        first = out.addr + (out.plane if out.wide and not self.conv.wide_sum else 0)
        return replace(out, addr=first, skew=False, wide=self.conv.wide_sum)

    def own(self, number):
        """A place for the convolution's own result as bytes, to be added to a wide residual; POST alone uses it."""
        return replace(self.place(number), addr=self.conv.between_at, skew=False, wide=False)

    def block(self, chunk):
        return chunk[0] if self.conv.w4 else chunk[0] // 2

    def prepare(self):
        """LOAD residuals of the next drains."""
        conv = self.conv
        while conv.brought and self.loaded < min(self.done + OUT_SLOTS // 2, len(self.order)):
            tile, chunk = self.order[self.loaded]
            move(self.state, "LOAD", conv.brought, self.block(chunk), tile[0], self.residual(self.loaded))
            self.loaded += 1

    def drain(self, accumulators):
        """POST and STORE of the next output block; the residual is replaced in place."""
        conv, (tile, chunk), out = self.conv, self.order[self.done], self.place(self.done)
        if conv.patch > 1:
            self.drain_patches(accumulators, tile, chunk[0], out)
        elif conv.residual:
            self.drain_gated(accumulators, tile, chunk, out)
            move(self.state, "STORE", conv.out, self.block(chunk), tile[0], out)
        else:
            self.drain_block(accumulators, tile, chunk, out)
            move(self.state, "STORE", conv.out, self.block(chunk), tile[0], out)
        self.done += 1

    def fields(self, out, acc, tile, chunk):
        """Address fields of an output block's drain to the place ``out``."""
        conv, block, pixels = self.conv, self.block(chunk), tile[1] * self.conv.node.shape[2]
        groups = min(2, -(-conv.node.shape[0] // 8) - 2 * block)
        return drain_fields(out, 0, groups, acc, conv.state.config.acc_words if conv.w4 else pixels, 0, pixels)

    def statistics(self, tile, block):
        conv = self.conv
        return dict(stat=1, stat_acc=int(tile[0] > 0), stat_rec=conv.out.stat + 2 * block) if conv.out.stat >= 0 else {}

    def drain_block(self, accumulators, tile, chunk, out):
        """Operand, activation, statistics: one pass, or with a wide residual two."""
        conv, block, (acc, region) = self.conv, self.block(chunk), accumulators
        if conv.wide_sum:
            fields, reads, params = self.sum(accumulators, tile, chunk, out)
        else:
            fields, reads, params = self.fields(out, acc, tile, chunk), list(region), conv.params.need(2 * block)
        if conv.operand and not conv.wide_sum:
            operand = conv.vector or self.residual(self.done)
            fields.update(operand_fields(operand, 2 * block if conv.vector else 0, 0, "MUL" if conv.times else "ADD"))
            reads += operand.region()
        fields["act"] = activation_code(conv.node.attrs.get("function"))
        if conv.final:
            fields.update(out=isa.OUT["INT16"], d=2 * out.addr, ds2=2)
        fields.update(self.statistics(tile, block))
        self.state.emit("POST", fields, reads, out.region(), {"p": params})

    def sum(self, accumulators, tile, chunk, out):
        """Emit the drain of the convolution's own result; (fields, reads, records) of the pass that adds it to the wide residual."""
        conv, block, (acc, region) = self.conv, self.block(chunk), accumulators
        own, wide = self.own(self.done), self.residual(self.done)
        first = self.fields(own, acc, tile, chunk)
        self.state.emit("POST", first, region, own.region(), {"p": conv.params.need(2 * block)})
        fields = dict(n0=1, n1=first["n0"] * first["n1"], n2=first["n2"], src=isa.SRC["INT16"], a=wide.hword(0), as1=wide.strides[1], as2=2,
                      dst=isa.DST["SPM"], d=out.hword(0), ds1=out.strides[1], ds2=2, out=out_kind(out), rop=isa.ROP["ADD"], r=own.hword(0),
                      rs1=1, rs2=2)
        return fields, own.region() + wide.region(), (conv.second, 0)

    def drain_gated(self, accumulators, tile, chunk, out):
        """Two passes: times the vector to int16, plus the residual to int8."""
        conv, block, (acc, region) = self.conv, self.block(chunk), accumulators
        at, pixels = conv.between_at, tile[1] * conv.node.shape[2]
        between = [("SPM", at, at + INT16_WORDS * pixels)]
        fields = self.fields(out, acc, tile, chunk) | operand_fields(conv.vector, 2 * block, 0, "MUL")
        self.state.emit("POST", fields | dict(out=isa.OUT["INT16"], d=2 * at, ds1=2 * pixels, ds2=2), region + conv.vector.region(), between,
                        {"p": conv.params.need(2 * block)})
        fields = self.fields(out, acc, tile, chunk) | operand_fields(self.residual(self.done), 0, 0) | self.statistics(tile, block)
        self.state.emit("POST", fields | dict(src=isa.SRC["INT16"], a=2 * at, as1=2 * pixels, as2=2, ps0=0, ps1=0), between + out.region(),
                        out.region(), {"p": (conv.second, 0)})

    def drain_patches(self, accumulators, tile, group, out):
        """Two neighbours of every patch, int16: POST puts them side by side, STORE between those of the other chunks."""
        conv, patch, (acc, region) = self.conv, self.conv.patch, accumulators
        (first, rows), width = tile, conv.node.shape[2]
        self.state.emit("POST", dict(n0=2, n1=rows, n2=width, src=isa.SRC["ACC"], a=acc, as0=rows * width, as1=width, as2=1, dst=isa.DST["SPM"],
                                     out=isa.OUT["INT16"], d=2 * out.addr, ds0=2, ds1=4 * width, ds2=4, ps0=1),
                        region, out.region(), {"p": conv.params.need(group)})
        row, column = divmod(group, patch)
        start = conv.out.at // WORD_BYTES + (patch * first + row) * patch * width + column
        end = start + (patch * (rows - 1) + 1) * patch * width
        loops = dict(n0=1, n1=rows, n2=2 * width, s1=patch * patch * width, d1=2 * width) if patch == 2 else \
            dict(n0=rows, n1=width, n2=2, s0=patch * patch * width, s1=patch, d0=2 * width, d1=2)
        self.state.emit("STORE", dict(conv.out.index, dram=WORD_BYTES * start, addr=out.addr, **loops), out.region(), [("DRAM", start, end)],
                        spilled=conv.out.spilled)
