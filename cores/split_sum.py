"""Sums of the array's products with two results in one: low and high part of int4 pairs, or one sum of int8 products.

|a * lo| <= 255 * 8 < 2^11, so the low 13 bits of a sum of two products are the sum of its two a * lo, with its sign.
Sums of two are therefore split, and the parts summed apart:

    s = P1 + P2 = 2^13 * (s[13:] + s[12]) + signed(s[:13]),    low = sum of signed(s[:13]),    high = sum of (s[13:] + s[12])

The total of the products is 2^13 * high + low. The bits s[12] are carried into the adders of ``high``, so the split
costs no adder: n terms have n carries, n - 1 of which go into the n - 1 adders; the last one is an output.
"""

from migen import *

from litediffusion.cores.gemm_address import LOW_BITS

PRODUCT_BITS = 25       # |a * w| <= 255 * 8 * (2^13 + 1) < 2^24, and a sign


def sign_extended(value, bits):
    return Cat(value, Replicate(value[-1], bits - len(value)))


class Part:
    """Signals of one term: ``low`` and ``high`` (signed), and ``carry`` that is still to be added to ``high``."""

    def __init__(self, bits, name):
        self.low   = Signal((bits, True), name=f"low_{name}", reset_less=True)
        self.high  = Signal((bits, True), name=f"high_{name}", reset_less=True)
        self.carry = Signal(name=f"carry_{name}", reset_less=True)

    def assign(self, other):
        """Statements that copy another term, sign-extended or without its highest bits."""
        return [self.low.eq(other.low), self.high.eq(other.high), self.carry.eq(other.carry)]


def add_parts(module, x, y, name):
    """A combinational term x + y, one bit longer. x.carry goes in below the lowest bit: one carry chain."""
    bits = len(x.low) + 1
    total, carried = Part(bits, name), Signal(bits + 1, name=f"carried_{name}")
    module.comb += [
        carried.eq(Cat(C(1, 1), sign_extended(x.high, bits)) + Cat(x.carry, sign_extended(y.high, bits))),
        total.low.eq(x.low + y.low), total.high.eq(carried[1:]), total.carry.eq(y.carry),
    ]
    return total


class SplitSum(Module):
    """``total`` (Part) of ``products`` (an even number, a power of two), one register stage for each of ``enables``.

    The first stage is the sums of two; the levels of the tree are spread over the others.
    """

    def __init__(self, products, enables):
        pairs = [Signal((PRODUCT_BITS + 1, True), name=f"pair{i}", reset_less=True) for i in range(len(products) // 2)]
        self.sync += If(enables[0], *[pair.eq(x + y) for pair, x, y in zip(pairs, products[::2], products[1::2])])
        terms = [Part(LOW_BITS, f"pair{i}") for i in range(len(pairs))]
        for term, pair in zip(terms, pairs):
            self.comb += [term.low.eq(pair[:LOW_BITS]), term.high.eq(pair[LOW_BITS:]), term.carry.eq(pair[LOW_BITS - 1])]
        for stage in range(1, len(enables)):
            levels = -(-log2_int(len(terms)) // (len(enables) - stage))
            for level in range(levels):
                terms = [add_parts(self, x, y, f"{stage}_{level}_{i}")
                         for i, (x, y) in enumerate(zip(terms[::2], terms[1::2]))]
            registers = [Part(len(term.low), f"{stage}_{i}") for i, term in enumerate(terms)]
            self.sync += If(enables[stage], *[r.assign(term) for r, term in zip(registers, terms)])
            terms = registers
        self.total = terms[0]
