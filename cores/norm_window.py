"""Rounding shifts of the accumulator for NORM, 16 bits of the result at a time."""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.arith import SHIFT_BITS, choose

WINDOW_BITS = 16
PRODUCT_BITS = 40       # of gamma * r


class Window(LiteXModule):
    """result = rshift(acc, shift), or base - rshift(acc, shift), by halves of 16 bits.

        cycle 0    step      low half
        cycle 1    step      high half: ``result`` is complete in cycle 2
        or         saturate  instead of the second ``step``: both halves of ``result`` <- result clamped to 16 bits, for |acc| < 2^39

    ``shift`` 0..63 and ``ahead``, 1 if the high half comes, belong to the next cycle; ``subtract`` and ``acc`` are stable for both
    cycles; ``base`` is the half at hand and 0 if nothing is subtracted. A shift by n takes four bits in steps of 16, 4 and 1:
    the 17 bits from n - 1 on, the lowest one for rounding.
    """

    def __init__(self, acc):
        self.shift = Signal(SHIFT_BITS)
        self.base = Signal(WINDOW_BITS)
        self.ahead, self.subtract, self.step, self.saturate = Signal(), Signal(), Signal(), Signal()
        self.result = [Signal(WINDOW_BITS, name=f"result{i}", reset_less=True) for i in range(2)]

        # # #

        carry, second = Signal(reset_less=True), Signal(reset_less=True)
        amount, small = Signal(SHIFT_BITS, reset_less=True), Signal(reset_less=True)
        bits, total = Signal(WINDOW_BITS + 1), Signal(WINDOW_BITS + 2)
        term, carry_in = Signal(WINDOW_BITS), Signal()
        self.comb += [
            bits.eq(self.select(acc, amount)),
            term.eq(bits[1:] ^ Replicate(self.subtract, WINDOW_BITS)),      # -x = ~x + 1
            If(second, carry_in.eq(carry)).Else(carry_in.eq(bits[0] ^ self.subtract)),
            total.eq(Cat(C(1, 1), self.base) + Cat(carry_in, term)),
        ]
        low, high, limit = self.result[0], Signal(WINDOW_BITS), Signal(WINDOW_BITS)
        fits = Signal()
        top = acc[PRODUCT_BITS - 9:PRODUCT_BITS]
        self.comb += [
            high.eq(total[1:]),
            # Above the two halves there are bits only if the shift is below 8, and then a product that has them is too large.
            fits.eq((high == Replicate(low[-1], WINDOW_BITS))
                    & (~small | (top == 0) | (top == 2**len(top) - 1))),
            limit.eq(Cat(Replicate(~acc[-1], WINDOW_BITS - 1), acc[-1])),
        ]
        clamped = Mux(fits, low, limit)
        self.sync += [
            second.eq(self.ahead), small.eq(self.shift[3:] == 0),
            # The high half is 16 bits further up; above the accumulator's end there are copies of its sign.
            If(~self.ahead, amount.eq(self.shift)
            ).Elif(self.shift[4:] == 3, amount.eq(63)
            ).Else(amount.eq(Cat(self.shift[:4], self.shift[4:] + 1))),
            If(self.step & ~second, self.result[0].eq(total[1:]), carry.eq(total[-1])),
            If(self.step & second, self.result[1].eq(total[1:])),
            If(self.saturate, *[half.eq(clamped) for half in self.result]),
        ]

    def select(self, acc, amount):
        """Signal of 17 bits: (acc << 1) >> amount."""
        sign = acc[-1]
        source = [C(0, 1)] + [acc[i] for i in range(len(acc) - 1)]
        for stage, step in ((4, 16), (2, 4), (0, 1)):
            bits = WINDOW_BITS + 1 + 3 * sum(s for s in (1, 4) if s < step)
            at = lambda i: source[i] if i < len(source) else sign
            shifted = Signal(bits, name=f"shifted{step}")
            self.comb += shifted.eq(choose(amount[stage:stage + 2], [Cat(*[at(i + k * step) for i in range(bits)]) for k in range(4)]))
            source = [shifted[i] for i in range(bits)]
        return shifted
