"""A convolution from DRAM to DRAM in tiles of rows, its input's norm and its output's residual on the way.

For each tile of output rows: LOAD of the input rows with their halo, in slices of blocks; GroupNorm + activation by a
POST pass over each slice; products; drain by POST with bias, residual or vector, and statistics; STORE. What follows is
emitted ahead (``tile_plan``, ``tiles.SliceStream``), so the queues overlap tiles. Rows outside the image are never
loaded: GEMM takes them as zero, after the norm.
"""

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import WORD_BYTES, CompileError, Operand, Pool, Resource
from litediffusion.sw.compiler.lower_conv import drain_fields, gemm_fields, input_rows, operand_fields
from litediffusion.sw.compiler.record_parts import RecordParts
from litediffusion.sw.compiler.records import activation_code, conv_records, gated_records, quantise_weights, times_records, weight_tiles
from litediffusion.sw.compiler.state import Tensor
from litediffusion.sw.compiler.tile_plan import OUT_SLOTS, Layer, plan_tiles
from litediffusion.sw.compiler.tiles import Slice, SliceStream, move

INT16_WORDS = 2          # SPM words of a pixel of an output block whose 16 channels are int16


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
    norm : None or (params resource, function, scale [steps] of the normalised input); operand : None or DramTensor, as
    large as ``out`` or a vector, that is added; s_factor : None, or [steps]: then the operand multiplies, and this is the
    scale of what it multiplies; residual : None or DramTensor, as large as ``out``, that is added to a product with a vector;
    w4 : int4 weights; final : int16 output, v itself, of up to 8 channels or (``patch``) of 8 for each of the patch x patch
    pixels of ``out`` that a pixel of the node becomes.
    """

    def __init__(self, state, node, sources, out, weights, norm=None, operand=None, w4=False, final=False, s_factor=None, residual=None,
                 patch=1):
        self.state, self.node, self.sources, self.out, self.norm, self.operand = state, node, sources, out, norm, operand
        self.s_factor, self.residual, self.patch = s_factor, residual, patch
        self.weights, self.w4, self.final = weights, w4, final
        self.vector = self.load_vector() if operand and operand.pixels == 1 else None
        self.spare = self.vector.words if self.vector else 0
        self.brought = residual or (None if self.vector else operand)       # comes by with the output's blocks
        parts = tuple(s.blocks for s in sources)
        self.place_words = 2 if patch > 1 else 1                             # of a pixel of an output block: int16 of two groups, or int8
        out_words = OUT_SLOTS * self.place_words + (INT16_WORDS if residual else 0)
        self.plan = plan_tiles(state.config, Layer(node, parts, (16 * sum(parts),) + tuple(sources[0].shape[1:]), w4,
                                                   norm is not None, self.brought is not None, self.spare, out_words))
        self.params, self.sums = self.all_params()
        self.tile_pixels = self.plan.tiles[0][1] * node.shape[2]
        self.slots = state.config.spm_words - out_words * self.tile_pixels

    def all_params(self):
        """Records of the drain, and the resource of the record of the residual's pass behind a product with a vector or None."""
        if not self.residual:
            return RecordParts(self.state, self.records()), None
        s_x = self.norm[2] if self.norm else self.sources[0].scale
        first, second = gated_records(self.weights.scale, self.node.attrs["bias"], s_x, self.s_factor, self.operand.scale, self.residual.scale,
                                      self.out.scale, self.node.name)
        return RecordParts(self.state, first), self.state.params(second)

    def records(self):
        node, s_x = self.node, self.norm[2] if self.norm else self.sources[0].scale
        s_r = self.operand.scale if self.operand else None
        if self.s_factor is not None:
            return times_records(self.weights.scale, node.attrs["bias"], s_x, self.s_factor, s_r, self.out.scale, node.name)
        record = conv_records(self.weights.scale, node.attrs["bias"], s_x, self.out.scale, s_r, node.attrs.get("function"), node.name)
        if self.final:
            record["oshift"] = 0             # v is the 16-bit output itself
        return record

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
        stream = SliceStream(self.state, self.sources, [piece for _, _, piece in steps], self.norm and self.norm[:2],
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
        (_, rows), (first, _) = self.order[number]
        words = self.conv.tile_pixels * self.conv.place_words
        return Tensor(self.conv.out.name, (16, rows, self.conv.node.shape[2] * self.conv.place_words), self.conv.slots + number % OUT_SLOTS * words)

    def block(self, chunk):
        return chunk[0] if self.conv.w4 else chunk[0] // 2

    def prepare(self):
        """LOAD residuals of the next drains."""
        conv = self.conv
        while conv.brought and self.loaded < min(self.done + OUT_SLOTS // 2, len(self.order)):
            tile, chunk = self.order[self.loaded]
            move(self.state, "LOAD", conv.brought, self.block(chunk), tile[0], self.place(self.loaded))
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
        """One pass: operand, activation, statistics."""
        conv, block, (acc, region) = self.conv, self.block(chunk), accumulators
        fields, reads = self.fields(out, acc, tile, chunk), list(region)
        if conv.operand:
            operand = conv.vector or out
            fields.update(operand_fields(operand, 2 * block if conv.vector else 0, 0, "ADD" if conv.s_factor is None else "MUL"))
            reads += operand.region()
        fields["act"] = activation_code(conv.node.attrs.get("function"))
        if conv.final:
            fields.update(out=isa.OUT["INT16"], d=2 * out.addr, ds2=2)
        fields.update(self.statistics(tile, block))
        self.state.emit("POST", fields, reads, out.region(), {"p": conv.params.need(2 * block)})

    def drain_gated(self, accumulators, tile, chunk, out):
        """Two passes: times the vector to int16, plus the residual to int8."""
        conv, block, (acc, region) = self.conv, self.block(chunk), accumulators
        at, pixels = conv.slots + OUT_SLOTS * conv.tile_pixels, tile[1] * conv.node.shape[2]
        between = [("SPM", at, at + INT16_WORDS * pixels)]
        fields = self.fields(out, acc, tile, chunk) | operand_fields(conv.vector, 2 * block, 0, "MUL")
        self.state.emit("POST", fields | dict(out=isa.OUT["INT16"], d=2 * at, ds1=2 * pixels, ds2=2), region + conv.vector.region(), between,
                        {"p": conv.params.need(2 * block)})
        fields = self.fields(out, acc, tile, chunk) | operand_fields(out, 0, 0) | self.statistics(tile, block)
        self.state.emit("POST", fields | dict(src=isa.SRC["INT16"], a=2 * at, as1=2 * pixels, as2=2, ps0=0, ps1=0), between + out.region(),
                        out.region(), {"p": (conv.sums, 0)})

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
