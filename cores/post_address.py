"""Loops and addresses of POST: three nested loops with one affine address for each operand."""

from migen import *

from litex.gen import LiteXModule


class Loops(LiteXModule):
    """Counters of the loops i0 (outer), i1, i2 (inner); one iteration a ``step``.

    Attributes
    ----------
    n0, n1, n2 : in, loop counts, at least 1
    load : in, start with the first iteration
    step : in, go to the next iteration
    end2 : out, the current iteration is the last of the inner loop
    end1 : out, ... and of the middle loop
    end0 : out, ... and of all
    """

    def __init__(self, bits=12):
        self.n0 = Signal(bits)
        self.n1 = Signal(bits)
        self.n2 = Signal(bits)
        self.load = Signal()
        self.step = Signal()
        self.end2 = Signal()
        self.end1 = Signal()
        self.end0 = Signal()

        # # #

        left0 = Signal(bits)
        left1 = Signal(bits)
        left2 = Signal(bits)
        last0 = Signal()        # left0 == 0, and so on: registers, because much depends on them
        last1 = Signal()
        last2 = Signal()
        self.comb += [
            self.end2.eq(last2),
            self.end1.eq(last2 & last1),
            self.end0.eq(last2 & last1 & last0),
        ]
        self.sync += [
            If(self.load,
                left0.eq(self.n0 - 1), left1.eq(self.n1 - 1), left2.eq(self.n2 - 1),
                last0.eq(self.n0 == 1), last1.eq(self.n1 == 1), last2.eq(self.n2 == 1),
            ).Elif(self.step,
                left2.eq(left2 - 1), last2.eq(left2 == 1),
                If(self.end2, left2.eq(self.n2 - 1), last2.eq(self.n2 == 1), left1.eq(left1 - 1), last1.eq(left1 == 1)),
                If(self.end1, left1.eq(self.n1 - 1), last1.eq(self.n1 == 1), left0.eq(left0 - 1), last0.eq(left0 == 1)),
            )
        ]


class AffineAddress(LiteXModule):
    """address = base + i0*stride0 + i1*stride1 + i2*stride2 modulo 2^bits, with one adder.

    ``loops`` (Loops) moves it. ``address`` is a register, ``following`` its value after the next step; with ``early`` a
    register too, computed in the cycle before the step: two steps are then at least two cycles apart.
    """

    def __init__(self, loops, base, strides, name, early):
        bits = len(base)
        self.address = Signal(bits, name=f"{name}_address")
        self.following = following = Signal(bits, name=f"{name}_following")

        # # #

        stride0, stride1, stride2 = strides
        start0 = Signal(bits, name=f"{name}_start0")
        start1 = Signal(bits, name=f"{name}_start1")
        here, stride = Signal(bits, name=f"{name}_here"), Signal(bits, name=f"{name}_stride")
        self.comb += [
            here.eq(self.address), stride.eq(stride2),
            If(loops.end2, here.eq(start1), stride.eq(stride1)),
            If(loops.end1, here.eq(start0), stride.eq(stride0)),
        ]
        if early:
            self.sync += following.eq(here + stride)
        else:
            self.comb += following.eq(here + stride)
        self.sync += [
            If(loops.load,
                self.address.eq(base), start1.eq(base), start0.eq(base),
            ).Elif(loops.step,
                self.address.eq(following),
                If(loops.end2, start1.eq(following)),
                If(loops.end1, start0.eq(following)),
            )
        ]
