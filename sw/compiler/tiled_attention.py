"""Attention of tensors in DRAM: rows of the scores stay in the accumulators, keys and values pass by.

    V^T = Wv . tokens            the rows of Wv are the activations, the tokens the weights
    for rows of queries:  scores = Q K^T -> softmax (POST: row maximum, exponential and its sum) -> P V, 1 / sum in the drain

The scores of the next rows are made before the values of these, so that POST's softmax hides behind products.
"""

from dataclasses import replace

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import WORD_BYTES, CompileError, Operand, odd_plane
from litediffusion.sw.compiler.lower_attention import mix_records, score_records
from litediffusion.sw.compiler.lower_conv import CHUNK_WORDS
from litediffusion.sw.compiler.record_parts import RecordParts
from litediffusion.sw.compiler.records import quantise_weights
from litediffusion.sw.compiler.state import Tensor
from litediffusion.sw.compiler.tile_plan import balanced
from litediffusion.sw.compiler.tiled_conv import TiledConv, TokenWeights
from litediffusion.sw.compiler.tiles import DramTensor, move
from litediffusion.sw.graph import Node
from litediffusion.sw.hollow import hollow, is_hollow

GROUPS = 4               # groups of 8 keys or channels a product
BUFFERS = 2              # places on chip for queries, probabilities and results


def as_tokens(tensor):
    """The same tensor with a pixel a row: rows are then tokens."""
    return replace(tensor, shape=(tensor.shape[0], tensor.pixels, 1), stat=-1)


def value_rows(q):
    """uint8 [block][channel][16 bytes] of int8 weights [M, C]: the rows of Wv as activations."""
    m, c = q.shape
    if is_hollow(q):
        return hollow(m * (c + -c % 16), np.uint8)
    return np.pad(q, ((0, 0), (0, -c % 16))).reshape(m, -1, 16).transpose(1, 0, 2).copy().view(np.uint8)


def transposed_values(program, name, tokens, weight, scale):
    """V^T [token blocks][channels][16 tokens] of normalised tokens; weight [M, C], ``scale`` of V (the bias comes after PV)."""
    q, w_scale = quantise_weights(weight.reshape(1, -1), 8)
    (m, c), state = weight.shape, program.state
    state.begin(name)
    at = program.image.constant(value_rows(q.reshape(m, c)))
    rows = DramTensor(f"{name}.weight", (c, m, 1), at, w_scale * tokens.scale)
    out = program.tensor(name, (tokens.pixels, m, 1), scale)
    node = Node(name, "conv", [], out.shape, {"weight": weight[:, :, None, None], "bias": None, "stride": 1, "pad": 0})
    TiledConv(state, node, [rows], out, TokenWeights(state, tokens, 1.0)).run()
    return out


class TiledAttention:
    """softmax(q k^T / sqrt(d)) v. query, key, out : DramTensor [C, H, W]; value : V^T; bias : of V [C];
    width : d of the scale 1 / sqrt(d), if heads were filled up with zeros to C / heads channels; keys : tokens of key and
    value that count, the others get no weight; mask : DramTensor of a vector that is added to the scores, or None."""

    def __init__(self, state, name, query, key, value, bias, out, heads=1, width=None, keys=None, mask=None):
        self.c, self.n, self.heads = query.shape[0], key.pixels, heads
        self.d, self.name, self.state = self.c // heads, name, state
        if self.c % heads or self.d % 16 or self.n % 16:
            raise CompileError(f"layer {name}: {self.n} tokens, heads of {self.d} channels; both must be multiples of 16",
                               "choose a picture size (--size) of which the pixels at this layer are a multiple of 16")
        self.some = keys is not None and keys < self.n
        self.query, self.key, self.value, self.out = as_tokens(query), key, value, as_tokens(out)
        self.mask, self.masked = mask, mask and Tensor(mask.name, mask.shape, state.config.spm_words - self.n // 16)
        self.score_params = state.params(score_records(query.scale, key.scale, width or self.d, keys if self.some else 0, mask and mask.scale))
        self.mix_params = RecordParts(state, mix_records(value.scale, out.scale, bias), self.d // 8)
        self.tiles = balanced(query.pixels, self.rows())
        self.plane = odd_plane(self.tiles[0][1])

    def rows(self):
        """Queries at a time: their scores take one half of the accumulators."""
        c = self.state.config
        words = BUFFERS * (2 * self.d + self.n) // 16
        space = c.spm_words - (self.masked.words if self.masked else 0)
        rows = min(c.acc_words // (max(self.n, self.d) // 8), space // words - 1, c.row_words // 4)
        if rows < 1:
            raise CompileError(f"layer {self.name}: {self.n} tokens with heads of {self.d} channels exceed {c.acc_words} "
                               f"accumulators or {c.spm_words} words of scratchpad", "use a larger configuration")
        return rows

    def pieces(self):
        """[(head, first query, queries)] in their order."""
        return [(head, *tile) for head in range(self.heads) for tile in self.tiles]

    def run(self, most=None):
        """Emit all; most : only so many pieces, for a look at the cost of one."""
        self.after, waiting = len(self.state.items), None
        if self.masked:
            move(self.state, "LOAD", self.mask, 0, 0, self.masked)
        for number, piece in enumerate(self.pieces()[:most]):
            row = self.softmax(number, piece)
            if waiting:
                self.mix(*waiting)
            waiting = number, piece, row
        self.mix(*waiting)

    def place(self, kind, number, channels, rows):
        """A buffer of queries (0), results (1) or probabilities (2)."""
        size = (self.d // 16, self.d // 16, self.n // 16)
        start = BUFFERS * sum(size[:kind]) + number % BUFFERS * size[kind]
        return Tensor(self.name, (channels, rows, 1), start * self.plane)

    def products(self, source, tensor, first, count, column, skew):
        """``source`` by ``count`` groups of pixels of ``tensor``, from pixel ``column`` and block ``first`` on.

        Returns (first accumulator, region).
        """
        state, rows = self.state, source.shape[1]
        acc, region = state.accumulators(count * rows, False)
        step = CHUNK_WORDS // (8 * GROUPS)
        for group in range(0, count, GROUPS):
            groups = min(GROUPS, count - group)
            for block in range(0, source.blocks, step):
                blocks = min(step, source.blocks - block)
                start = tensor.at // WORD_BYTES + (first + block) * tensor.pixels + column + 8 * group
                weights = Operand("WBUF", None, state.layer, dram=WORD_BYTES * start, after=self.after, rows=blocks,
                                  length=8 * groups, pitch=tensor.pixels, spilled=tensor.spilled)
                state.emit("GEMM", dict(ng=groups, nkb=blocks, nky=1, nkx=1, noy=1, nox=rows, x=source.addr + block * source.plane,
                                        xk=source.plane, xw=rows, h=1, w=rows, wts=8 * groups, wgs=8, acc=acc + group * rows,
                                        ags=rows, accumulate=int(block > 0), xs=int(skew)),
                           source.region(block, blocks) + (region if block else []), region, {"wt": (weights, 0)})
        return acc, region

    def softmax(self, number, piece):
        """Scores and probabilities of one piece; its first row record."""
        head, first, rows = piece
        state, groups, block = self.state, self.n // 8, head * self.d // 16
        q, p = self.place(0, number, self.d, rows), self.place(2, number, self.n, rows)
        move(state, "LOAD", self.query, block, first, q)
        acc, region = self.products(q, self.key, block, groups, 0, False)
        row = state.rows(rows)
        records = [("ROW", row, row + rows)]
        base = dict(src=isa.SRC["ACC"], a=acc, as0=1, row=row, n0=rows)
        added = dict(rop=isa.ROP["ADD"], r=self.masked.hword(0), rs1=2 * self.masked.plane, rs2=1) if self.masked else {}
        state.emit("POST", dict(base, n1=1, n2=groups, as2=rows, row_loop=1, rowmax=1), region, records)
        state.emit("POST", dict(base, n1=groups // 2, n2=2, as1=2 * rows, as2=rows, row_loop=2, submax=1, rowsum=1,
                                act=isa.ACT["EXP"], out=isa.OUT["SKEW8"], dst=isa.DST["SPM"], d=p.hword(0), ds0=2, ds1=2 * p.plane, ds2=1,
                                ps1=2 * self.some, ps2=int(self.some), **added),
                   region + records + (self.masked.region() if self.masked else []), p.region() + records, {"p": (self.score_params, 0)})
        return row

    def mix(self, number, piece, row):
        """Probabilities by values, divided by the sums of the rows."""
        head, first, rows = piece
        block, groups = head * self.d // 16, self.d // 8
        p, out = self.place(2, number, self.n, rows), self.place(1, number, self.d, rows)
        acc, region = self.products(p, self.value, 0, groups, head * self.d, True)
        self.state.emit("POST", dict(n0=rows, n1=groups // 2, n2=2, src=isa.SRC["ACC"], a=acc, as0=1, as1=2 * rows, as2=rows,
                                     row=row, row_loop=2, row_m=1, dst=isa.DST["SPM"], d=out.hword(0), ds0=2, ds1=2 * out.plane, ds2=1,
                                     ps1=2, ps2=1),
                        region + [("ROW", row, row + rows)], out.region(), {"p": self.mix_params.need(2 * block)})
        move(self.state, "STORE", self.out, block, first, out)
