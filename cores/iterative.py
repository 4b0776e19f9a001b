"""Iterative arithmetic shared by NORM and SAMPLE: one multiplier for all, square root and division by digits.

| block            | result                       | cycles from start to done               |
|------------------|------------------------------|-----------------------------------------|
| SharedMultiplier | a * b, 32 x 18 bits signed   | 2, one product a cycle                  |
| MultiplyShift    | sum of a * b, then rshift    | 3, then 4; one product a cycle          |
| SquareRoot       | floor(sqrt(x))               | width / 4 (two result bits a cycle)     |
| Divider          | (r * 2^n + x) // d, n bits   | n / 2 (two quotient bits a cycle)       |
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.arith import SHIFT_BITS, shift_stage, vector

A_BITS = 32
B_BITS = 18
LIMB_BITS = B_BITS - 1      # unsigned digits of a long operand on the b side
MAC_BITS = 64
SHIFTED_BITS = 58


class MultiplierPort(Record):
    """A client's side: ``a`` and ``b`` signed, taken while ``valid``; ``p`` = a * b two cycles later."""

    def __init__(self, name=None):
        Record.__init__(self, [
            ("valid", 1, DIR_M_TO_S), ("a", (A_BITS, True), DIR_M_TO_S), ("b", (B_BITS, True), DIR_M_TO_S),
            ("p", (A_BITS + B_BITS, True), DIR_S_TO_M),
        ], name=name)


class SharedMultiplier(LiteXModule):
    """p = a * b for clients of which at most one is ``valid`` at a time (units of one queue).

    Operand and product registers: latency 2 cycles, throughput 1 a cycle, no stalls. Two 18 x 18 multipliers.
    """

    def __init__(self):
        self.ports = []

    def get_port(self):
        """A new client's MultiplierPort; ask before the module is finalised."""
        port = MultiplierPort()
        self.ports.append(port)
        return port

    def do_finalize(self):
        a = Signal((A_BITS, True), reset_less=True)
        b = Signal((B_BITS, True), reset_less=True)
        p = Signal((A_BITS + B_BITS, True), reset_less=True)
        self.sync += [If(port.valid, a.eq(port.a), b.eq(port.b)) for port in self.ports]
        self.sync += p.eq(a * b)
        self.comb += [port.p.eq(p) for port in self.ports]


class MultiplyShift(LiteXModule):
    """acc = a * b, or acc * 2^17 + a * b unless ``first``; then rshift(acc, n) for products with a ``kind``.

    Input ``valid``, ``a``, ``b``, ``first``, ``kind``, ``lane``; ``acc`` shows the result three cycles later, ``rounded``
    four cycles later, with ``out_kind`` (0: nothing) and ``out_lane``. One product a cycle, no stalls. ``shifts`` (0..63) are
    those of kinds 1 and 2; ``clear`` forgets what is under way. Domain: |acc| < 2^63, < 2^57 where it is shifted.
    """

    def __init__(self, mul):
        self.valid, self.first, self.clear = Signal(), Signal(), Signal()
        self.a, self.b = Signal((A_BITS, True)), Signal((B_BITS, True))
        self.kind, self.lane = Signal(2), Signal(3)
        self.shifts = [Signal(SHIFT_BITS, name=f"shift{k}") for k in (1, 2)]
        self.busy = Signal()
        self.acc = acc = Signal((MAC_BITS, True), reset_less=True)
        self.rounded = Signal((SHIFTED_BITS + 1, True))
        self.out_kind, self.out_lane = Signal(2), Signal(3)

        # # #

        self.comb += [mul.valid.eq(self.valid), mul.a.eq(self.a), mul.b.eq(self.b)]
        valid, first = Signal(2), Signal(2)
        kinds = [self.kind & Replicate(self.valid, 2)] + [Signal(2, name=f"kind{i}") for i in range(4)]
        lanes = [self.lane] + vector(3, 4, "lane")
        self.sync += [
            valid.eq(Cat(self.valid, valid)), first.eq(Cat(self.first, first)),
            *[k.eq(before) for k, before in zip(kinds[1:], kinds)],
            *[l.eq(before) for l, before in zip(lanes[1:], lanes)],
            If(self.clear, valid.eq(0), *[k.eq(0) for k in kinds[1:]]),
        ]
        carried, scaled = Signal((MAC_BITS, True)), Signal((SHIFTED_BITS, True))
        shifted = Signal((SHIFTED_BITS + 1, True), reset_less=True)
        amount = Signal(SHIFT_BITS)
        self.comb += [
            If(~first[1], carried.eq(acc << LIMB_BITS)),
            scaled.eq(acc),
            amount.eq(Mux(kinds[3] == 1, *self.shifts)),
            self.rounded.eq((shifted + 1) >> 1),
            self.out_kind.eq(kinds[4]), self.out_lane.eq(lanes[4]),
            self.busy.eq((kinds[1] | kinds[2] | kinds[3] | kinds[4]) != 0),
        ]
        self.sync += [
            If(valid[1], acc.eq(carried + mul.p)),
            shifted.eq(shift_stage(scaled, amount)),
        ]


class SquareRoot(LiteXModule):
    """root = floor(sqrt(radicand)), restoring, two digits a cycle.

    Domain: ``radicand`` unsigned of ``width`` bits, a multiple of 4. ``start`` loads it and takes ``busy`` high for
    width / 4 cycles; ``root`` is valid from then until the next ``start``.
    """

    def __init__(self, width):
        if width % 4:
            raise ValueError(f"SquareRoot: width={width} must be a multiple of 4 (two digits of two bits a cycle)")
        self.start    = Signal()
        self.radicand = Signal(width)
        self.busy     = Signal()
        self.root     = root = Signal(width // 2, reset_less=True)

        # # #

        left      = Signal(max=width // 4 + 1)
        digits    = Signal(width, reset_less=True)
        remainder = Signal(width // 2 + 1, reset_less=True)
        self.comb += self.busy.eq(left != 0)
        now_root, now_remainder = root, remainder
        for step in range(2):
            now_root, now_remainder = self.digit(now_root, now_remainder, digits[width - 2 * step - 2:width - 2 * step])
        self.sync += [
            If(self.start,
                digits.eq(self.radicand), root.eq(0), remainder.eq(0), left.eq(width // 4),
            ).Elif(self.busy,
                digits.eq(digits << 4), root.eq(now_root), remainder.eq(now_remainder), left.eq(left - 1),
            ),
        ]

    def digit(self, root, remainder, bits):
        """(root, remainder) after one more digit: subtract 4*root + 1 from 4*remainder + bits if it fits."""
        n = len(root)
        grown, difference = Signal(n + 3), Signal(n + 4)
        next_root, next_remainder = Signal(n), Signal(n + 1)
        self.comb += [
            grown.eq(Cat(bits, remainder)),
            difference.eq(grown - Cat(C(1, 2), root)),      # top bit: it did not fit
            next_root.eq(Cat(~difference[-1], root)),
            next_remainder.eq(Mux(difference[-1], grown, difference)),
        ]
        return next_root, next_remainder


class Divider(LiteXModule):
    """quotient = (remainder * 2^steps + dividend) // divisor, restoring, two bits a cycle.

    ``dividend`` is taken from its top bit downwards, ``steps`` bits of it (even, at most ``width``): a shorter dividend
    lies at the top. Domain: remainder < divisor, so that the quotient has ``steps`` bits; all unsigned.
    ``start`` takes ``busy`` high for steps / 2 cycles; the low ``steps`` bits of ``quotient`` are then valid until the
    next ``start``.
    """

    def __init__(self, width, divisor_bits):
        self.start     = Signal()
        self.steps     = Signal(max=width + 1)
        self.remainder = Signal(divisor_bits)
        self.dividend  = Signal(width)
        self.divisor   = Signal(divisor_bits)
        self.busy      = Signal()
        self.quotient  = digits = Signal(width, reset_less=True)

        # # #

        left      = Signal(max=width // 2 + 1)
        divisor   = Signal(divisor_bits, reset_less=True)
        remainder = Signal(divisor_bits, reset_less=True)
        self.comb += self.busy.eq(left != 0)
        first, half = self.digit(remainder, digits[width - 1], divisor)
        second, full = self.digit(half, digits[width - 2], divisor)
        self.sync += [
            If(self.start,
                digits.eq(self.dividend), remainder.eq(self.remainder), divisor.eq(self.divisor),
                left.eq(self.steps[1:]),
            ).Elif(self.busy,
                digits.eq(Cat(second, first, digits)), remainder.eq(full), left.eq(left - 1),
            ),
        ]

    def digit(self, remainder, bit, divisor):
        """(quotient bit, remainder) after one more bit of the dividend."""
        n = len(divisor)
        grown, difference = Signal(n + 1), Signal(n + 2)
        fits, next_remainder = Signal(), Signal(n)
        self.comb += [
            grown.eq(Cat(bit, remainder)),
            difference.eq(grown - divisor),
            fits.eq(~difference[-1]),
            next_remainder.eq(Mux(fits, difference, grown)),
        ]
        return fits, next_remainder
