"""Fixed-point arithmetic as gateware: the twins of ``fixed.py``.

rshift(x, n) = floor(x / 2^n + 1/2) is done with one barrel shifter and no special case:
    y = (x << 1) >> n           x with one fraction bit left
    (y + 1) >> 1                the adder takes 1 (or 2*offset + 1, which adds the offset for nothing)
Operands must be named signed signals: LiteX writes a slice of a signed signal as if it were signed, but Verilog
takes it as unsigned; it writes negative constants unsigned too, so limits are tested by bits, not by comparison.
"""

from functools import reduce
from operator import or_

from migen import *

SHIFT_BITS = 6      # of a shifter; longer shifts give 0, as 63 does


def shift_stage(x, n):
    """First stage of rshift: signed ``x`` of b bits -> expression of b + 1 bits with one fraction bit."""
    return (x << 1) >> n


def shift_narrow(module, x, n, step, bits):
    """(y, beyond): the low ``bits`` bits of the signed signal ``x`` >> (step * n), and whether the result needs more.

    Both are combinational signals; ``y`` is signed, its sign is wrong where ``beyond`` is 1. The large shifts come first:
    what they bring in from above the bits needed is never made.
    """
    differ = lambda k: x[k] ^ x[-1]
    first, beyond = bits - 1, Signal()          # the lowest bit that must equal the sign if nothing is shifted
    ends = [first + step * (k + 1) for k in range((1 << len(n)) - 1)] + [len(x) - 1]
    groups = [range(first + step * k, min(end, len(x) - 1)) for k, end in enumerate(ends)]
    wide = [reduce(or_, [differ(i) for i in group]) & (n <= k) for k, group in enumerate(groups) if len(group)]
    y = x
    for k in reversed(range(len(n))):
        before, y = y, Signal((min(len(x), bits + step * ((1 << k) - 1)), True))
        module.comb += If(n[k], y.eq(before >> (step << k))).Else(y.eq(before))
    module.comb += beyond.eq(reduce(or_, wide))
    return y, beyond


def saturate(dst, x, bits):
    """Statement: ``dst`` <- signed signal ``x`` clamped to the signed range of ``bits`` bits (fewer than x has)."""
    top = x[bits - 1:]
    hi = (1 << (bits - 1)) - 1
    return If((top == 0) | (top == (1 << len(top)) - 1), dst.eq(x)).Elif(x[-1], dst.eq(-hi - 1)).Else(dst.eq(hi))


def fits(x, bits):
    """Expression: the signed signal ``x`` lies in the signed range of ``bits`` bits (fewer than x has)."""
    top = x[bits - 1:]
    return (top == 0) | (top == (1 << len(top)) - 1)


def clamped(module, x, bits, fit, negative):
    """Signal of ``bits`` bits: ``x`` if ``fit``, else the limit on the side of ``negative``, the value's sign."""
    plain, result = Signal(len(x)), Signal((bits, True))        # bits of signed signals would be extended in a Cat
    inside, limit = Signal(), Signal()
    module.comb += [plain.eq(x), inside.eq(fit), limit.eq(~negative),
                    result.eq(Cat(*[Mux(inside, plain[i], limit) for i in range(bits - 1)], ~limit))]
    return result


def clamp_shift(dst, n):
    """Statement: ``dst`` (SHIFT_BITS) <- min(n, 63)."""
    return If(n[SHIFT_BITS:] != 0, dst.eq((1 << SHIFT_BITS) - 1)).Else(dst.eq(n))


def outside(address, size):
    """Expression: ``address`` is not below ``size`` (a power of two)."""
    bits = log2_int(size)
    return address[bits:] != 0 if len(address) > bits else Constant(0)


def vector(bits, count, name):
    """``count`` reset-less data registers of ``bits`` bits, or (bits, True) for signed ones."""
    return [Signal(bits, name=f"{name}_{i}", reset_less=True) for i in range(count)]


def choose(index, values):
    """Expression: values[index] as a tree of multiplexers of two (Yosys makes more cells of a Case); any value past the last."""
    values, bits = list(values), [index[i] for i in range(len(index))]
    for bit in bits:
        if len(values) > 1:
            pairs = [Mux(bit, high, low) for low, high in zip(values[::2], values[1::2])]
            values = pairs + values[2 * len(pairs):]
    return values[0]
