"""Statistics of POST: sums by channel, sums and maxima by row, and the reciprocal of a row's sum.

Beats come as vectors of lanes with ``valid`` and the flags ``first`` and ``last`` of the run to be reduced; one
beat a cycle, no stalls. ``busy`` lasts until the last result is out.
"""

from functools import reduce
from operator import or_

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.arith import vector
from litediffusion.cores.row import ROW_SQUARES_BITS, SQUARES_BITS, SUM_BITS

QUOTIENT_BITS = 16


class RowReciprocal(LiteXModule):
    """(m, e) with 1/total ~ m * 2^-(e + 14), see ``post_model.row_reciprocal``; ``digits`` quotient bits a cycle.

        e = bit length of total;  m = min(32767, 2^(e+14) // total);  total = 0: (32767, 0), < 0: (16384, 0)

    ``done`` comes ``cycles`` = 2 + 16 / digits after ``start`` (1 cycle if total <= 0), with ``m`` and ``e`` valid in that
    cycle, in which the next ``start`` may come. The remainder starts at 2^(e-1); the quotient's first bit is 1 only for
    powers of two.
    """

    def __init__(self, digits):
        self.cycles = 2 + QUOTIENT_BITS // digits
        self.start = Signal()
        self.total = Signal((32, True))
        self.busy = Signal()
        self.done = Signal()
        self.m = Signal(16)
        self.e = Signal(5, reset_less=True)

        # # #

        divisor = Signal(31, reset_less=True)
        remainder = Signal(32, reset_less=True)
        quotient = Signal(QUOTIENT_BITS, reset_less=True)
        left = Signal(max=self.cycles)
        normalise, first, positive = Signal(), Signal(), Signal()
        reverse, lowest, length = Signal(31), Signal(31), Signal(5)
        following, bits = self.divide(remainder, divisor, digits)
        self.comb += [
            positive.eq(~self.total[31] & (self.total != 0)),
            # The highest 1 of a number is the lowest one of its mirror image.
            reverse.eq(Cat(*[divisor[30 - i] for i in range(31)])), lowest.eq(reverse & (~reverse + 1)),
            length.eq(Cat(*[reduce(or_, [remainder[i] for i in range(31) if (i + 1) >> k & 1]) for k in range(5)])),
            self.m.eq(Mux(quotient[15], 32767, quotient)),
            self.busy.eq(normalise | (left != 0) | self.done),
        ]
        self.sync += [
            self.done.eq((left == 1) | (self.start & ~positive)),
            normalise.eq(self.start & positive), first.eq(normalise),
            If(self.start,
                divisor.eq(self.total), self.e.eq(0), quotient.eq(Mux(self.total[31], 16384, 32767)),
            ),
            If(normalise, remainder.eq(Cat(*[lowest[30 - i] for i in range(31)])), left.eq(QUOTIENT_BITS // digits)),
            If(first, self.e.eq(length)),
            If(left != 0, remainder.eq(following), quotient.eq(Cat(bits, quotient)), left.eq(left - 1)),
        ]

    def divide(self, remainder, divisor, digits):
        """(remainder after ``digits`` steps of a restoring division, their quotient bits, last one first)."""
        bits = []
        for _ in range(digits):
            difference, following = Signal(33), Signal(32)
            self.comb += [
                difference.eq(remainder - divisor),     # bit 32: the divisor is larger
                following.eq(Mux(difference[-1], remainder, difference) << 1),
            ]
            bits.insert(0, ~difference[-1])
            remainder = following
        return remainder, Cat(*bits)


class _Tree(LiteXModule):
    """Common part of row reductions: log2(lanes) registered levels, one at least, then an accumulator; ``done`` with the result."""

    def __init__(self, lanes):
        self.valid = Signal()
        self.first = Signal()
        self.last = Signal()
        self.done = Signal()
        self.busy = Signal()

        # # #

        self.levels = levels = max(1, log2_int(lanes))
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
            pairs = [values[i:i + 2] for i in range(0, len(values), 2)]
            following = vector(bits(k), len(pairs), f"{name}{k}")
            self.sync += If(self.enable[k], *[f.eq(combine(*pair) if len(pair) == 2 else pair[0]) for f, pair in zip(following, pairs)])
            values = following
        return values[0]


class RowMaximum(_Tree):
    """Maximum of signed 32-bit values over lanes and a row, in ``value`` with ``done``, log2(lanes) + 1 cycles after ``last``."""

    def __init__(self, values):
        _Tree.__init__(self, len(values))
        self.value = Signal((32, True), reset_less=True)

        # # #

        best = self.reduce(values, lambda k: (32, True), "max", lambda x, y: Mux(x > y, x, y))
        self.sync += If(self.enable[-1], If(self.at_first | (best > self.value), self.value.eq(best)))


class RowSums(_Tree):
    """Sum ``s`` and sum of squares ``q`` over lanes and a row, with ``done``, log2(lanes) + 1 cycles after ``last``."""

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
    """Sum and sum of squares of each channel over the inner loop, written to consecutive records of StatMemory.

    A sum starts from the record's old content or from 0. The record is read AHEAD cycles before its first beat comes.

    Parameters
    ----------
    values, squares : lists of signed signals
    port : StatPort
    beats : beats of an element, each with channels of its own

    Attributes
    ----------
    valid, first, last : in, a beat, of the first or last element of the inner loop
    ahead_beat, ahead_end : in, AHEAD cycles before ``valid``: number of the beat; it is the last one of an inner loop
    load, record : in, go to the first record
    accumulate : in, add to the records instead of overwriting them
    """

    AHEAD = 2

    def __init__(self, values, squares, port, beats):
        index = log2_int(beats)
        self.valid = Signal()
        self.first = Signal()
        self.last = Signal()
        self.ahead_beat = Signal(max(1, index))
        self.ahead_end = Signal()
        self.load = Signal()
        self.record = Signal(len(port.r_adr) - index)
        self.accumulate = Signal()
        self.busy = Signal()

        # # #

        write = Signal()
        record = Signal(len(self.record), reset_less=True)
        self.sync += [
            write.eq(self.valid & self.last),
            If(self.load, record.eq(self.record)).Elif(self.ahead_end, record.eq(record + 1)),
            If(self.load, port.w_adr.eq(Cat(C(0, index), self.record) if index else self.record)
            ).Elif(write, port.w_adr.eq(port.w_adr + 1)),
        ]
        self.comb += [
            port.r_adr.eq(Cat(self.ahead_beat[:index], record) if index else record),
            port.we.eq(write), self.busy.eq(write),
        ]
        for kind, bits, inputs in (("s", SUM_BITS, values), ("q", SQUARES_BITS, squares)):
            for i, x in enumerate(inputs):
                old = Signal((bits, True), name=f"stat_old_{kind}{i}", reset_less=True)
                before = Signal((bits, True), name=f"stat_before_{kind}{i}")
                totals = vector((bits, True), beats, f"stat_{kind}{i}")      # of the beats, the last one first
                self.comb += [
                    If(~self.first, before.eq(totals[-1])).Elif(self.accumulate, before.eq(old)),
                    getattr(port, f"w_{kind}{i}").eq(totals[0]),
                ]
                self.sync += [
                    old.eq(getattr(port, f"r_{kind}{i}")),
                    If(self.valid, totals[0].eq(before + x), *[t.eq(u) for t, u in zip(totals[1:], totals)]),
                ]
