"""The address side of GEMM: TileFetcher walks the weight tiles, PixelWalker the output pixels of each tile.

    tile     for g, kb, ky, kx:  WBUF words wt + g*wgs + t*wts + j, j = 0 .. n_lanes-1
    pixel    for oy, ox:         iy = oy*stride + ky + y0, ix = ox*stride + kx + x0
                                 SPM word x + kb*xk + (iy >> up)*xw + (ix >> up), zero outside 0..h-1, 0..w-1
                                 accumulator entry acc + g*ags + oy*nox + ox

With two activation words a cycle the tiles of channel blocks kb and kb + 1 go together: for g, kb by twos, ky, kx.
The partner's tile is nky*nkx tiles further, its SPM word xk further, so that the two words lie in different banks
if xk is odd. With an even xk, and for an odd last block, a tile goes alone.

The fetcher runs one step (a tile or a pair) ahead, into the next descriptor too, so that a step of P pixels takes
max(P, n_lanes * tile_passes a tile) cycles and steps follow each other without a gap.
"""

from functools import reduce
from operator import or_
from types import SimpleNamespace

from migen import *

from litediffusion.cores.arith import choose
from litediffusion.cores.isa import FIELDS
from litediffusion.cores.multiply import multiplier
from litediffusion.cores.ports import DescriptorSink, descriptor_fields

WEIGHT_BITS = 18        # a multiplier's operand: an int8, or two int4 as hi * 2^LOW_BITS + lo
LOW_BITS    = 13        # |activation * int4| < 2^12: the low product and its sign
STORED_BITS = 13        # those of an operand that are not always equal: bits 7 to 12 are one sign
COORD_BITS  = 15        # y0 + ky + 2*oy: -2048 .. 2047 + 15 + 2*4095, signed
ENTRY_BITS  = 13        # acc + ags: an entry past the memory is seen before it can wrap
START_LEAD  = 7         # cycles from PixelWalker's taking a tile to the swap: six stages to the word, one in the array
MIN_REUSE   = 4         # cycles from the read of an accumulator entry to a read that sees its new value

# Fields that every tile of a descriptor carries to PixelWalker, and those that only the tile walk needs.
PIXEL_FIELDS = ("noy", "nox", "xk", "xw", "h", "w", "stride2", "up", "w4", "xs")
WALK_FIELDS  = ("ng", "nkb", "nky", "nkx", "x", "y0", "x0", "wts", "wgs", "ags", "accumulate")
LOOPS = ("nkx", "nky", "nkb", "ng")
BITS = {f.name: f.bits for f in FIELDS["GEMM"]}


def tile_layout():
    """What PixelWalker needs to know of a tile."""
    return [
        ("x", 16),                      # SPM word of the tile's channel block, pixel (0, 0)
        ("iy", (COORD_BITS, True)),     # input row of the first output pixel
        ("ix", (COORD_BITS, True)),     # input column of the first output pixel
        ("entry", ENTRY_BITS),          # accumulator entry of the first output pixel
        ("overwrite", 1),               # first tile of a group, without ``accumulate``
        ("last", 1),                    # last tile of the descriptor
        ("error", 1),                   # a weight address is outside WBUF
        ("double", 1),                  # with the tile of the next channel block
    ] + [(name, BITS[name]) for name in PIXEL_FIELDS]


def mac_layout(config):
    """What travels with an activation word through the array."""
    return [
        ("valid", 1),
        ("double", 1),                  # two words
        ("entry", log2_int(config.acc_words) + 1),
        ("overwrite", 1), ("w4", 1),
        ("last", 1),                    # last word of the descriptor
        ("error", 1),                   # an address of this word is outside its memory
    ]


def registers(names):
    """A reset-less register for each named descriptor field."""
    return SimpleNamespace(**{name: Signal(BITS[name], name=name, reset_less=True) for name in names})


def sign_extend(value, bits):
    return Cat(value, Replicate(value[-1], bits - len(value)))


class TileStride(Module):
    """product = nky * nkx * wts modulo 2^16, 7 cycles after ``start``, by shift and add; the operands as at ``start``."""

    def __init__(self, nky, nkx, wts):
        self.start   = Signal()
        self.product = product = Signal(16, reset_less=True)

        # # #

        count, factor = Signal(3), Signal(16, reset_less=True)
        bits = Signal(7, reset_less=True)       # of nkx and nky to come, the highest ones first
        gated = lambda value: value & Replicate(bits[-1], 16)
        self.sync += [
            If(count != 0,
                count.eq(count - 1), bits.eq(bits << 1),
                If(count == 4, factor.eq(product), product.eq(gated(product)))
                .Else(product.eq((product << 1) + gated(factor))),
            ),
            If(self.start,
                count.eq(7), bits.eq(Cat(nky, nkx[:3])), factor.eq(wts), product.eq(wts & Replicate(nkx[3], 16))),
        ]


class TileFetcher(Module):
    """Reads the weight tiles from WBUF into the shadow tile and describes each step to PixelWalker.

    Three stages (address, WBUF word, operand) advance together and wait while the shadow tile is full. A tile takes
    n_lanes cycles, or a multiple if it is read in passes, the first parts of all its rows, then the next ones
    (EngineConfig.tile_passes); a descriptor is taken in the cycle of the last address of the one before.

    ``tile_ready``: ``tile`` describes the next step, and its last row will be in ``shadow`` START_LEAD cycles from
    now; it falls with ``take``. ``swap``: the array copies ``shadow`` at the end of this cycle.
    ``row``: a row of the shadow tile, or part of one (of its ``lane``; ``part``: which of the step's tiles or passes, a
    register for each half of the lanes), stored operands (``unstore``).
    """

    def __init__(self, config):
        self.sink  = sink = DescriptorSink()
        self.adr   = Signal(max=config.wbuf_words)
        self.re    = Signal()
        self.dat_r = Signal(config.word_bits)
        self.tile  = Record(tile_layout(), reset_less=True)
        self.tile_ready = Signal()
        self.take  = Signal()
        self.swap  = Signal()
        self.part_bits = bits_for(max(1, config.tile_passes - 1))
        self.row = Record([("write", 1), ("lane", bits_for(config.n_lanes - 1)), ("part", 2 * self.part_bits),
                           ("data", config.k_lanes // config.tile_passes * STORED_BITS)], name="row")

        # # #

        self.config  = config
        self.busy    = Signal()
        self.lane    = Signal(max=config.n_lanes)
        self.part    = Signal(self.part_bits)       # 1: the partner's tile; or the number of the pass
        self.is_last = Signal()         # no other tile or pass follows in the step
        self.advance = Signal()
        self.walk    = registers(WALK_FIELDS)
        # Iterations after this one; that there are none is a register too, because much depends on it.
        self.left    = {name: Signal(BITS[name], name=f"left_{name}", reset_less=True) for name in LOOPS}
        self.end     = {name: Signal(name=f"end_{name}", reset_less=True) for name in LOOPS}
        self.current = Record(tile_layout(), name="current", reset_less=True)   # the step of the address stage
        self.word    = Signal(16, reset_less=True)      # first WBUF word of its tile
        self.group   = Signal(16, reset_less=True)      # first WBUF word of its group
        lane_end, step_end = Signal(), Signal()
        self.comb += [
            self.is_last.eq(self.part == config.tile_passes - 1 if config.tile_passes > 1 else self.part[0] | ~self.current.double),
            lane_end.eq(self.lane == config.n_lanes - 1), step_end.eq(lane_end & self.is_last),
            sink.ready.eq(self.advance & (~self.busy | (step_end & self.current.last))),
            self.adr.eq(self.word + self.lane),
            self.re.eq(self.advance),
        ]
        desc = descriptor_fields(sink.desc, "GEMM")
        self.add_stride(desc)
        self.sync += If(self.advance,
            If(self.busy, self.lane.eq(self.lane + 1), If(lane_end, self.lane.eq(0), *self.next_tile())),
            If(sink.ready, self.busy.eq(sink.valid)),
            If(sink.ready & sink.valid, *self.start(desc)),
        )
        self.add_limits()
        self.add_operands()

    def add_stride(self, desc):
        """Words from a tile to its partner (``ahead``) and from the partner to the next step's tile (``back``)."""
        self.ahead, self.back = Signal(16), Signal(16, reset_less=True)
        if self.config.gemm_words == 1:
            return
        self.submodules.stride = TileStride(desc.nky, desc.nkx, desc.wts)
        self.comb += [self.stride.start.eq(self.sink.valid & self.sink.ready), self.ahead.eq(self.stride.product)]
        self.sync += self.back.eq(self.walk.wts - self.ahead)

    def start(self, d):
        """Statements that load descriptor ``d`` and its first tile."""
        t = self.current
        return [
            *[getattr(self.walk, name).eq(getattr(d, name)) for name in WALK_FIELDS],
            *[getattr(t, name).eq(getattr(d, name)) for name in PIXEL_FIELDS],
            *[self.first(name, d) for name in LOOPS if name != "nkb"], *self.first_block(d.nkb, d.xk),
            t.x.eq(d.x), t.iy.eq(sign_extend(d.y0, COORD_BITS)), t.ix.eq(sign_extend(d.x0, COORD_BITS)),
            t.entry.eq(d.acc), t.overwrite.eq(~d.accumulate),
            self.word.eq(d.wt), self.group.eq(d.wt),
        ]

    def first(self, name, counts):
        """Statements that put a loop at its first iteration."""
        count = getattr(counts, name)
        return [self.left[name].eq(count - 1), self.end[name].eq(count == 1)]

    def first_block(self, nkb, xk):
        """The same for the loop over channel blocks, which goes by twos where tiles go in pairs."""
        paired = xk[0] if self.config.gemm_words == 2 else 0
        return [self.left["nkb"].eq(nkb - 1), self.end["nkb"].eq((nkb == 1) | (paired & (nkb == 2))),
                self.current.double.eq(paired & (nkb != 1))]

    def next_blocks(self):
        """Statements that move on to the next channel block or pair of blocks."""
        t, left, end = self.current, self.left["nkb"], self.end["nkb"]
        one = [left.eq(left - 1), end.eq(left == 1), t.x.eq(t.x + t.xk)]
        if self.config.gemm_words == 1:
            return one
        two = [left.eq(left - 2), end.eq(left[1:] == 1), t.double.eq(left != 2), t.x.eq(t.x + (t.xk << 1))]
        return [If(t.double, *two).Else(*one)]

    def next_tile(self):
        """Statements that move on to the partner, or to the next step: kx fastest, then ky, kb, g."""
        w, t, end, double = self.walk, self.current, self.end, self.current.double
        advance = {name: [left.eq(left - 1), end[name].eq(left == 1)] for name, left in self.left.items()}
        restart = {name: self.first(name, w) for name in LOOPS}
        group = [
            *advance["ng"], *self.first_block(w.nkb, t.xk), t.x.eq(w.x), t.entry.eq(t.entry + w.ags),
            t.overwrite.eq(~w.accumulate), self.word.eq(self.group + w.wgs), self.group.eq(self.group + w.wgs),
        ]
        block = [
            *restart["nky"], t.iy.eq(sign_extend(w.y0, COORD_BITS)), self.word.eq(self.word + w.wts),
            If(end["nkb"], *group).Else(*self.next_blocks()),
        ]
        row = [
            *restart["nkx"], t.ix.eq(sign_extend(w.x0, COORD_BITS)),
            If(end["nky"], *block).Else(*advance["nky"], t.iy.eq(t.iy + 1)),
        ]
        step = [
            self.part.eq(0), t.overwrite.eq(0), self.word.eq(self.word + Mux(double, self.back, w.wts)),
            If(end["nkx"], *row).Else(*advance["nkx"], t.ix.eq(t.ix + 1)),
        ]
        return [If(~self.is_last, self.part.eq(self.part + 1), self.word.eq(self.word + self.ahead)).Else(*step)]

    def add_limits(self):
        """Ends of the loops; a tile with a word outside WBUF is an error."""
        last_word = Signal(17)
        self.comb += [
            self.current.last.eq(self.end["nkx"] & self.end["nky"] & self.end["nkb"] & self.end["ng"]),
            last_word.eq(self.word + (self.config.n_lanes - 1)),
            self.current.error.eq(last_word >= self.config.wbuf_words),
        ]

    def add_operands(self):
        """WBUF word -> operands -> shadow tile."""
        config, n = self.config, self.config.n_lanes
        place    = [("lane", bits_for(n - 1)), ("part", self.part_bits)]
        fetched  = Record([("valid", 1), ("w4", 1), ("last", 1), *place], name="fetched")     # last: of the step's tiles
        operand  = Record([("valid", 1), ("first", 1), ("ready", 1), *place], name="operand")
        operands = [Signal(STORED_BITS, name=f"operand_{k}", reset_less=True) for k in range(config.k_lanes // config.tile_passes)]
        # ``first``: the first row of a step; ``ready``: the one that is START_LEAD rows from its tile's end. Registers, because
        # all of the fetcher waits for them.
        full, write = Signal(), Signal()
        again = Signal(self.part_bits, reset=1)     # operand.part, which synthesis would merge with an equal one
        bytes_ = [self.dat_r[at:at + 8] for at in range(0, config.word_bits, 8)]
        bytes_ = [choose(fetched.part, bytes_[k::len(operands)]) for k in range(len(operands))]
        self.comb += [
            self.advance.eq(~(operand.first & full & ~self.swap)),
            write.eq(operand.valid & self.advance),
        ]
        self.sync += [
            If(self.advance,
                fetched.valid.eq(self.busy), fetched.w4.eq(self.current.w4),
                fetched.lane.eq(self.lane), fetched.part.eq(self.part), fetched.last.eq(self.is_last),
                operand.valid.eq(fetched.valid), operand.lane.eq(fetched.lane), operand.part.eq(fetched.part),
                again.eq(fetched.part),
                operand.first.eq(fetched.valid & (fetched.lane == 0) & (fetched.part == 0)),
                operand.ready.eq(fetched.valid & fetched.last & (fetched.lane == n - 1 - START_LEAD)),
            ),
            If(self.advance & fetched.valid,
                *[o.eq(pack(byte, fetched.w4)) for o, byte in zip(operands, bytes_)]),
            If(self.swap, full.eq(0)),
            If(self.take, self.tile_ready.eq(0)),
            If(operand.first & self.advance, full.eq(1), self.tile.eq(self.current)),
            # The partner's address comes when ``tile`` describes its pair already.
            If(self.advance & self.busy & (self.part != 0) & self.current.error, self.tile.error.eq(1)),
            If(operand.ready & self.advance, self.tile_ready.eq(1)),
        ]
        self.comb += [self.row.write.eq(write), self.row.lane.eq(operand.lane), self.row.part.eq(Cat(operand.part, again)),
                      self.row.data.eq(Cat(*operands))]


def pack(weights, w4):
    """A byte of WBUF as stored operand: int8, or its two int4 as hi * 2^LOW_BITS + lo."""
    low, high = weights[:4], weights[4:]
    carry = (sign_extend(high, WEIGHT_BITS - LOW_BITS) - low[3])[:WEIGHT_BITS - LOW_BITS]   # lo < 0 borrows from hi
    return Mux(w4, Cat(sign_extend(low, 8), carry), sign_extend(weights, STORED_BITS))


def unstore(stored):
    """A stored operand's WEIGHT_BITS bits."""
    return Cat(stored[:8], Replicate(stored[7], LOW_BITS - 8), stored[8:])


class PixelWalker(Module):
    """Walks the output pixels of the steps: one pixel in gemm_cycles cycles, consecutive steps without a gap.

    ``adr`` goes to SPM three cycles after the pixel's coordinates; the words are there two cycles later, together with
    ``mac`` and the signals below, and stay for gemm_cycles cycles; ``mac`` is valid in the last one. A step waits MIN_REUSE cycles
    if it would read an accumulator entry too early.
    """

    def __init__(self, config):
        self.tile  = Record(tile_layout())
        self.tile_ready = Signal()
        self.take  = Signal()
        self.adr   = [Signal(max=config.spm_words, name=f"adr{word}") for word in range(config.gemm_words)]
        self.mac   = Record(mac_layout(config))
        self.first = Signal()       # the words are the first of their step, in their first cycle
        self.late  = Signal()       # the second cycle of the words
        self.inside = [Signal(name=f"inside_word{word}") for word in range(config.gemm_words)]  # 0: counts as zero
        self.xs    = Signal()
        self.busy  = Signal()       # words on their way to SPM

        # # #

        self.config = config
        self.valid  = Signal()
        self.second = Signal()      # cycle of the pixel
        self.move   = Signal()      # the pixel's last cycle
        self.start  = Signal(reset_less=True)
        self.pixel  = Record(tile_layout(), name="pixel", reset_less=True)      # iy, ix and entry move
        self.ix0    = Signal((COORD_BITS, True), reset_less=True)
        left_x, left_y = Signal(12, reset_less=True), Signal(12, reset_less=True)   # after this column, this row
        self.end_x, self.end_y = Signal(reset_less=True), Signal(reset_less=True)   # none: registers, much depends on them
        p, step = self.pixel, Mux(self.pixel.stride2, 2, 1)
        row = lambda tile: [left_x.eq(tile.nox - 1), self.end_x.eq(tile.nox == 1)]
        next_row = [*row(p), p.ix.eq(self.ix0), left_y.eq(left_y - 1), self.end_y.eq(left_y == 1), p.iy.eq(p.iy + step)]
        self.comb += [
            self.take.eq(self.tile_ready & ~self.reuse() & (~self.valid | (self.move & self.end_x & self.end_y))),
            self.move.eq(self.second if config.gemm_cycles == 2 else 1),
        ]
        self.sync += [
            self.second.eq(self.valid & ~self.second),
            If(self.move,
                self.start.eq(0), p.entry.eq(p.entry + 1),
                If(self.end_x, *next_row).Else(left_x.eq(left_x - 1), self.end_x.eq(left_x == 1), p.ix.eq(p.ix + step)),
                If(self.end_x & self.end_y, self.valid.eq(0)),
            ),
            If(self.take, self.valid.eq(1), self.start.eq(1), *row(self.tile), left_y.eq(self.tile.noy - 1),
                self.end_y.eq(self.tile.noy == 1), self.ix0.eq(self.tile.ix), p.eq(self.tile)),
        ]
        self.add_address()

    def reuse(self):
        """1 when the next tile would read an entry whose new value is still on its way (MIN_REUSE).

        Entries of a tile are consecutive, so only those that lie less than MIN_REUSE before the last one matter.
        """
        bits = log2_int(self.config.acc_words)
        last, distance, reuse = Signal(bits, reset_less=True), Signal(bits), Signal()
        recent = Signal(MIN_REUSE - 2)
        self.comb += [
            distance.eq(Mux(self.valid, self.pixel.entry, last) - self.tile.entry),
            reuse.eq((self.valid | (recent != 0)) & ~self.tile.overwrite & (distance < MIN_REUSE - 1)),
        ]
        self.sync += [recent.eq(Cat(self.valid, recent)), If(self.valid, last.eq(self.pixel.entry))]
        return reuse

    def add_address(self):
        """Five stages: coordinates checked, multiplied, address, the SPM's register, SPM word."""
        config, p = self.config, self.pixel
        half = log2_int(config.acc_words)
        row, column, xk = [Signal(16, reset_less=True, name=name) for name in ("row", "column", "xk")]
        first, addresses = Signal(16), [Signal(16, reset_less=True, name=f"address{word}") for word in range(config.gemm_words)]
        macs   = [Record(mac_layout(config), name=f"mac{i}") for i in range(4)] + [self.mac]
        starts = [Signal(name=f"start{i}") for i in range(4)] + [self.first]
        inside = [Signal(name=f"inside{i}", reset_less=True) for i in range(4)]
        xss    = [Signal(name=f"xs{i}", reset_less=True) for i in range(4)] + [self.xs]
        lates  = [Signal(name=f"late{i}", reset_less=True) for i in range(4)] + [self.late]
        spm_error, line = Signal(), Signal((13, True), reset_less=True)
        width, place, ahead = [Signal(bits, reset_less=True, name=n) for bits, n in ((len(p.xw), "width"), (16, "place"), (16, "ahead"))]
        outside = [address >= config.spm_words for address in addresses]
        late = self.second if config.gemm_cycles == 2 else 0
        self.comb += [
            first.eq(row + column), *[a.eq(b) for a, b in zip(self.adr, addresses)],
            spm_error.eq(inside[2] & reduce(or_, [outside[0], *[macs[2].double & o for o in outside[1:]]])),
        ]
        self.sync += [
            line.eq((p.iy >> p.up)[:12]), width.eq(p.xw), place.eq(p.x + (p.ix >> p.up)), ahead.eq(p.xk),
            row.eq(multiplier(self, line, width, config.lut_multipliers)), column.eq(place), xk.eq(ahead),
            *[address.eq(value) for address, value in zip(addresses, (first, first + xk))],
            inside[0].eq((p.iy >= 0) & (p.iy < p.h) & (p.ix >= 0) & (p.ix < p.w)),
            macs[0].valid.eq(self.valid & self.move), starts[0].eq(self.valid & self.start & ~late), xss[0].eq(p.xs), lates[0].eq(late),
            macs[0].double.eq(p.double),
            macs[0].entry.eq(p.entry), macs[0].overwrite.eq(p.overwrite), macs[0].w4.eq(p.w4),
            macs[0].last.eq(p.last & self.end_x & self.end_y),
            macs[0].error.eq(p.error | Mux(p.w4, p.entry[half:] != 0, p.entry[half + 1:] != 0)),
            *[word.eq(inside[3] & counts) for word, counts in zip(self.inside, (1, macs[3].double))],
        ]
        self.comb += self.busy.eq(reduce(or_, (mac.valid for mac in macs[:-1]), self.valid))
        for chain in (macs, starts, inside, xss, lates):
            self.sync += [after.eq(before) for before, after in zip(chain, chain[1:])]
        self.sync += If(spm_error, macs[3].error.eq(1))
