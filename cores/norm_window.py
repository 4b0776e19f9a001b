"""Rounding shifts of the accumulator for NORM, 16 bits of the result at a time."""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.arith import SHIFT_BITS, choose

WINDOW_BITS = 16
PRODUCT_BITS = 40       # of gamma * r


class Window(LiteXModule):
    """result = rshift(acc, shift), or base - rshift(acc, shift), by halves of 16 bits.

        cycle 0    load      the low half's part of ``acc``
        cycle 1    step      low half; the part of ``acc`` for the high half
        cycle 2    step      high half (``high``): ``result`` is complete in cycle 3
        or         saturate  with ``high`` instead: both halves of ``result`` <- result clamped to 16 bits, for |acc| < 2^39

    ``shift`` 0..63 and ``ahead``, 1 for the high half, belong to the next cycle that takes a part of ``acc``; ``acc`` is stable
    until it is taken, or with ``saturate`` for all cycles. ``base``, the half at hand, and ``subtract`` are 0 if nothing is
    subtracted. A shift by n takes two bits each in steps of 16, 4 and 1: the 17 bits from n - 1 on, the lowest for rounding.
    """

    def __init__(self, acc):
        self.shift = Signal(SHIFT_BITS)
        self.base = Signal(WINDOW_BITS)
        self.ahead, self.load, self.high, self.subtract, self.step, self.saturate = (Signal() for _ in range(6))
        self.result = [Signal(WINDOW_BITS, name=f"result{i}", reset_less=True) for i in range(2)]

        # # #

        amount, fine = Signal(SHIFT_BITS, reset_less=True), Signal(4, reset_less=True)
        part, small = Signal(WINDOW_BITS + 16, reset_less=True), Signal(reset_less=True)
        first = [C(0, 1)] + [acc[i] for i in range(len(acc) - 1)]       # acc << 1
        self.sync += [
            small.eq(self.shift[3:] == 0),
            # The high half is 16 bits further up; above the accumulator's end there are copies of its sign.
            If(~self.ahead, amount.eq(self.shift)
            ).Elif(self.shift[4:] == 3, amount.eq(63)
            ).Else(amount.eq(Cat(self.shift[:4], self.shift[4:] + 1))),
            If(self.load | self.step, part.eq(self.shifted(first, acc[-1], amount[4:], 16, len(part))), fine.eq(amount[:4])),
        ]
        self.add_halves(acc, self.select(part, fine), small)

    def add_halves(self, acc, bits, small):
        """``result`` from the 17 bits at hand; ``small``: the shift is below 8."""
        carry, carry_in = Signal(reset_less=True), Signal()
        term, total = Signal(WINDOW_BITS), Signal(WINDOW_BITS + 2)
        low, high, limit = self.result[0], Signal(WINDOW_BITS), Signal(WINDOW_BITS)
        fits, top = Signal(), acc[PRODUCT_BITS - 9:PRODUCT_BITS]
        self.comb += [
            term.eq(bits[1:] ^ Replicate(self.subtract, WINDOW_BITS)),      # -x = ~x + 1
            If(self.high, carry_in.eq(carry)).Else(carry_in.eq(bits[0] ^ self.subtract)),
            total.eq(Cat(C(1, 1), self.base) + Cat(carry_in, term)),
            high.eq(total[1:]),
            # Above the two halves there are bits only if the shift is below 8, and then a product that has them is too large.
            fits.eq((high == Replicate(low[-1], WINDOW_BITS)) & (~small | (top == 0) | (top == 2**len(top) - 1))),
            limit.eq(Cat(Replicate(~acc[-1], WINDOW_BITS - 1), acc[-1])),
        ]
        self.sync += [
            If(self.step & ~self.high, low.eq(total[1:]), carry.eq(total[-1])),
            If(self.step & self.high, self.result[1].eq(total[1:])),
            If(self.saturate, *[half.eq(Mux(fits, low, limit)) for half in self.result]),
        ]

    def shifted(self, source, sign, amount, step, bits):
        """Expression: ``bits`` bits of a list of bits, from step * amount on; ``sign`` past its end."""
        at = lambda i: source[i] if i < len(source) else sign
        return choose(amount, [Cat(*[at(i + k * step) for i in range(bits)]) for k in range(4)])

    def select(self, part, fine):
        """Signal of 17 bits: part >> fine."""
        middle, bits = Signal(WINDOW_BITS + 4), Signal(WINDOW_BITS + 1)
        self.comb += [
            middle.eq(self.shifted(list(part), C(0, 1), fine[2:], 4, len(middle))),
            bits.eq(self.shifted(list(middle), C(0, 1), fine[:2], 1, len(bits))),
        ]
        return bits
