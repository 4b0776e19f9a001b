"""Square root and division by digits, for NORM.

| block       | result                                          | cycles from start to done |
|-------------|-------------------------------------------------|---------------------------|
| Divider     | dividend // divisor                             | width                     |
| RootDivider | floor(sqrt(x)), then N * 2^24 // root, clamped  | 32 / digits, 26 / digits  |
"""

from migen import *

from litex.gen import LiteXModule

ROOT_BITS = 32
QUOTIENT_BITS = 24
RADICAND_BITS = 2 * ROOT_BITS - 8       # the lower eight are 0
NUMERATOR_SHIFT = ROOT_BITS - 9         # of the numerator in the value that is loaded


class Divider(LiteXModule):
    """quotient = dividend // divisor, restoring, a bit a cycle; all unsigned.

    ``start`` takes ``dividend`` and takes ``busy`` high for ``width`` cycles, in which ``divisor`` must be stable;
    ``quotient`` is valid from then until the next ``start``.
    """

    def __init__(self, width, divisor_bits):
        self.start    = Signal()
        self.dividend = Signal(width)
        self.divisor  = Signal(divisor_bits)
        self.busy     = Signal()
        self.quotient = digits = Signal(width, reset_less=True)

        # # #

        left      = Signal(max=width + 1)
        remainder = Signal(divisor_bits, reset_less=True)
        grown, difference = Signal(divisor_bits + 1), Signal(divisor_bits + 2)
        self.comb += [
            self.busy.eq(left != 0),
            grown.eq(Cat(digits[-1], remainder)),
            difference.eq(grown - self.divisor),        # top bit: it did not fit
        ]
        self.sync += [
            If(self.start,
                digits.eq(self.dividend), remainder.eq(0), left.eq(width),
            ).Elif(self.busy,
                digits.eq(Cat(~difference[-1], digits)), left.eq(left - 1),
                If(difference[-1], remainder.eq(grown)).Else(remainder.eq(difference)),
            ),
        ]


class RootDivider(LiteXModule):
    """root = floor(sqrt(D * 2^8)), then quotient = min(N * 2^24 // root, 2^24 - 1); ``digits`` (1 or 2) bits a cycle.

    Both subtract from the top of one register and shift it: with Q the root so far and 2^i the digit to be found,
        W = (x - Q^2) / 2^i,    W >= 2Q + 2^i sets the digit;    W = 2 * (what is left)
    and with the digit's mark gone, 2Q is the divisor of N. Two digits above the quotient's tell N >= root.

    ``find_root`` takes D from ``value``, or 0 (``zero``), or the largest one (``ones``); ``busy`` for 32 / digits cycles.
    ``divide`` takes ``value`` = N << NUMERATOR_SHIFT; ``busy`` for 26 / digits cycles. If ``above`` is 1 then, the quotient
    is beyond its limit and ``clamp`` sets it a cycle later.
    """

    def __init__(self, digits=2):
        self.find_root, self.divide, self.clamp = Signal(), Signal(), Signal()
        self.value = Signal(RADICAND_BITS)
        self.zero, self.ones = Signal(), Signal()
        self.busy, self.above = Signal(), Signal()
        self.root     = root = Signal(ROOT_BITS, reset_less=True)
        self.quotient = Signal(QUOTIENT_BITS)

        # # #

        work  = Signal(2 * ROOT_BITS + 1, reset_less=True)      # ROOT_BITS + 2 bits of W and its fraction
        mark  = Signal(ROOT_BITS)
        left  = Signal(max=ROOT_BITS // digits + 1)
        fills = Signal(2)       # what the register takes: its next value, zeros, ones, ``value``
        now_work, now_root = work, root
        for digit in range(digits):
            now_work, now_root = self.digit(now_work, now_root, mark[digit:])
        shifted = Cat(C(0, 8), self.value)
        self.comb += [
            self.busy.eq(left != 0),
            self.quotient.eq(work), self.above.eq(work[QUOTIENT_BITS:QUOTIENT_BITS + 2] != 0),
            If((self.find_root & self.ones) | self.clamp, fills.eq(2)
            ).Elif(self.find_root & self.zero, fills.eq(1)
            ).Elif(self.find_root | self.divide, fills.eq(3)),
        ]
        self.sync += [
            If(self.find_root | self.divide | self.clamp | self.busy,
                Case(fills, {0: work.eq(now_work), 1: work.eq(0), 2: work.eq(2**len(work) - 1), 3: work.eq(shifted)})),
            mark.eq(Cat(mark[digits:], *[C(0, 1)] * (digits - 1), self.find_root)),
            If(self.find_root, root.eq(0)).Elif(self.busy, root.eq(now_root)),
            If(self.find_root, left.eq(ROOT_BITS // digits)
            ).Elif(self.divide, left.eq((QUOTIENT_BITS + 2) // digits)
            ).Elif(self.busy, left.eq(left - 1)),
        ]

    def digit(self, work, root, mark):
        """(work, root) after one more digit."""
        low, bits = ROOT_BITS - 1, ROOT_BITS + 2
        top, difference, subtrahend = Signal(bits), Signal(bits + 1), Signal(ROOT_BITS + 1)
        fits, rest, next_work, next_root = Signal(), Signal(bits), Signal(len(work)), Signal(ROOT_BITS)
        self.comb += [
            top.eq(work[low:]), subtrahend.eq(Cat(C(0, 1), root) | mark),
            difference.eq(top - subtrahend),
            fits.eq(~difference[-1]),
            rest.eq(Mux(fits, difference, top)),
            next_work.eq(Cat(fits, work[:low], rest)),
            next_root.eq(root | (mark & Replicate(fits, len(mark)))),
        ]
        return next_work, next_root
