"""Fixed-point arithmetic as gateware: the twins of ``fixed.py``.

rshift(x, n) = floor(x / 2^n + 1/2) is done in two pipeline stages with one barrel shifter and no special case:
    y = (x << 1) >> n           shift_stage: x with one fraction bit left
    (y + 1) >> 1                the caller adds 1 (or 2*offset + 1, which adds the offset for nothing)
Operands must be named signed signals: LiteX writes a slice of a signed signal as if it were signed, but Verilog
takes it as unsigned; it writes negative constants unsigned too, so limits are tested by bits, not by comparison.
"""

from migen import *

SHIFT_BITS = 6      # of a shifter; longer shifts give 0, as 63 does


def shift_stage(x, n):
    """First stage of rshift: signed ``x`` of b bits -> expression of b + 1 bits with one fraction bit."""
    return (x << 1) >> n


def saturate(dst, x, bits):
    """Statement: ``dst`` <- signed signal ``x`` clamped to the signed range of ``bits`` bits (fewer than x has)."""
    top = x[bits - 1:]
    hi = (1 << (bits - 1)) - 1
    return If((top == 0) | (top == (1 << len(top)) - 1), dst.eq(x)).Elif(x[-1], dst.eq(-hi - 1)).Else(dst.eq(hi))


def saturate_unsigned(dst, x, bits):
    """Statement: ``dst`` <- signed signal ``x`` clamped to 0..2^bits - 1."""
    return If(x[-1], dst.eq(0)).Elif(x[bits:] != 0, dst.eq((1 << bits) - 1)).Else(dst.eq(x))


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
