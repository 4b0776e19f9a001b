"""Statistics of POST: sums by channel, sums and maxima by row, and the reciprocal of a row's sum.

Elements come as vectors of lanes with ``valid`` and the flags ``first`` and ``last`` of the run to be reduced; one
vector a cycle, no stalls. ``busy`` lasts until the last result is out.
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.arith import vector
from litediffusion.cores.row import ROW_SQUARES_BITS, SQUARES_BITS, SUM_BITS

RECIPROCAL_CYCLES = 10      # least distance of two starts of RowReciprocal


class RowReciprocal(LiteXModule):
    """(m, e) with 1/total ~ m * 2^-(e + 14), see ``post_model.row_reciprocal``; two quotient bits a cycle.

        e = bit length of total;  m = min(32767, 2^(e+14) // total);  total = 0: (32767, 0), < 0: (16384, 0)

    ``done`` 10 cycles after ``start`` (1 cycle if total <= 0), with ``m`` and ``e`` valid in that cycle, in which the
    next ``start`` may come. The remainder starts at 2^(e-1); the quotient's first bit is 1 only for powers of two.
    """

    def __init__(self):
        self.start = Signal()
        self.total = Signal((32, True))
        self.busy = Signal()
        self.done = Signal()
        self.m = Signal(16)
        self.e = Signal(5, reset_less=True)

        # # #

        divisor = Signal(31, reset_less=True)
        remainder = Signal(32, reset_less=True)
        quotient = Signal(16, reset_less=True)
        left = Signal(4)
        normalise = Signal()
        length = Signal(5)
        leading = Signal(31)
        reduced = Signal(32)
        doubled = Signal(32)
        following = Signal(32)
        bits = Signal(2)
        self.comb += [
            *[If(divisor[i], length.eq(i + 1), leading.eq(1 << i)) for i in range(31)],
            bits[1].eq(remainder >= divisor),
            reduced.eq(Mux(bits[1], remainder - divisor, remainder)),
            doubled.eq(reduced << 1),
            bits[0].eq(doubled >= divisor),
            following.eq(Mux(bits[0], doubled - divisor, doubled) << 1),
            self.m.eq(Mux(quotient[15], 32767, quotient)),
            self.busy.eq(normalise | (left != 0) | self.done),
        ]
        self.sync += [
            self.done.eq((left == 1) | (self.start & (self.total[31] | (self.total == 0)))),
            normalise.eq(self.start & ~self.total[31] & (self.total != 0)),
            If(self.start,
                divisor.eq(self.total), self.e.eq(0), quotient.eq(Mux(self.total[31], 16384, 32767)),
            ),
            If(normalise, self.e.eq(length), remainder.eq(leading), left.eq(8)),
            If(left != 0, remainder.eq(following), quotient.eq(Cat(bits, quotient[:14])), left.eq(left - 1)),
        ]


class _Tree(LiteXModule):
    """Common part of row reductions: log2(lanes) registered levels, then an accumulator; ``done`` with the result."""

    def __init__(self, lanes):
        self.valid = Signal()
        self.first = Signal()
        self.last = Signal()
        self.done = Signal()
        self.busy = Signal()

        # # #

        self.levels = levels = log2_int(lanes)
        valid, first, last = (Signal(levels, name=f"tree_{n}") for n in ("valid", "first", "last"))
        self.enable = [self.valid] + [valid[k] for k in range(levels)]
        self.at_first = first[levels - 1]
        self.sync += [
            valid.eq(Cat(self.valid, valid)), first.eq(Cat(self.first, first)), last.eq(Cat(self.last, last)),
            self.done.eq(valid[levels - 1] & last[levels - 1]),
        ]
        self.comb += self.busy.eq((valid != 0) | self.done)

    def reduce(self, values, bits, name, combine):
        """Add the tree over ``values``; level k's results have ``bits(k)`` bits. Returns its registered output."""
        for k in range(self.levels):
            following = vector(bits(k), len(values) // 2, f"{name}{k}")
            pairs = zip(following, values[::2], values[1::2])
            self.sync += If(self.enable[k], *[f.eq(combine(x, y)) for f, x, y in pairs])
            values = following
        return values[0]


class RowMaximum(_Tree):
    """Maximum of signed 32-bit values over lanes and a row: ``value`` in the cycle of ``done``, 4 after ``last``."""

    def __init__(self, values):
        _Tree.__init__(self, len(values))
        self.value = Signal((32, True), reset_less=True)

        # # #

        best = self.reduce(values, lambda k: (32, True), "max", lambda x, y: Mux(x > y, x, y))
        self.sync += If(self.enable[-1], If(self.at_first | (best > self.value), self.value.eq(best)))


class RowSums(_Tree):
    """Sum ``s`` and sum of squares ``q`` over lanes and a row, in the cycle of ``done``, 4 after ``last``."""

    def __init__(self, values, squares):
        _Tree.__init__(self, len(values))
        self.s = Signal((32, True), reset_less=True)
        self.q = Signal(ROW_SQUARES_BITS, reset_less=True)

        # # #

        total = lambda v, name: self.reduce(v, lambda k: (len(v[0]) + k + 1, True), name, lambda x, y: x + y)
        s, q = total(values, "sum"), total(squares, "squares")
        self.sync += If(self.enable[-1],
            If(self.at_first, self.s.eq(s), self.q.eq(q)).Else(self.s.eq(self.s + s), self.q.eq(self.q + q)))


class ChannelSums(LiteXModule):
    """Sum and sum of squares of each lane over the inner loop, written to consecutive records of StatMemory.

    Parameters
    ----------
    values, squares : lists of signed signals
    port : StatPort

    Attributes
    ----------
    valid, first, last : in, an element and its place in the inner loop
    load, record : in, go to the first record
    accumulate : in, add to the records instead of overwriting them
    """

    def __init__(self, values, squares, port):
        self.valid = Signal()
        self.first = Signal()
        self.last = Signal()
        self.load = Signal()
        self.record = Signal(len(port.r_adr))
        self.accumulate = Signal()
        self.busy = Signal()

        # # #

        write = Signal()
        s, q = vector((SUM_BITS, True), len(values), "stat_s"), vector((SQUARES_BITS, True), len(values), "stat_q")
        self.sync += [
            write.eq(self.valid & self.last),
            port.w_adr.eq(port.r_adr),
            If(self.load, port.r_adr.eq(self.record)).Elif(self.valid & self.last, port.r_adr.eq(port.r_adr + 1)),
            If(self.valid, *[t.eq(Mux(self.first, 0, t) + x) for t, x in zip(s + q, values + squares)]),
        ]
        self.comb += [port.we.eq(write), self.busy.eq(write)]
        for i in range(len(values)):
            for kind, total in (("s", s[i]), ("q", q[i])):
                old, new = getattr(port, f"r_{kind}{i}"), getattr(port, f"w_{kind}{i}")
                self.comb += new.eq(total + Mux(self.accumulate, old, 0))
