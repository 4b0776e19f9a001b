"""The multiplier array of GEMM: n_lanes dot products of k_lanes, weights stationary.

W8:  low[n] = high[n] = sum_k a[k] * w[n][k]
W4:  low[n] = sum_k a[k] * lo[n][k],  high[n] = sum_k a[k] * hi[n][k]

At W4 a weight operand is hi * 2^13 + lo, so one multiplication makes both products: |a * lo| <= 255 * 8 < 2^12, so
the low 13 bits of a product are a * lo with its sign. With S the sum of the products and L the sum of those low
parts, S = 2^13 * sum(a * hi) + L, hence high = (S - L) >> 13: the sign correction is one subtraction a lane.
"""

from functools import reduce
from operator import add

from migen import *

from litediffusion.cores.gemm_address import LOW_BITS, WEIGHT_BITS

LATENCY = 5             # cycles from the SPM word to ``low`` and ``high``
PRODUCT_BITS = 25       # |a * w| <= 255 * 8 * (2^13 + 1) < 2^24, and a sign
SUM_BITS = PRODUCT_BITS + 4
OUT_BITS = 20           # k_lanes * 255 * 128 and a sign


class DotArray(Module):
    """One activation word a cycle; results LATENCY cycles later; never stalls.

    word, inside, xu : the activation word; zero unless ``inside``; ``xu``: unsigned bytes
    swap, shadow : at ``swap`` the shadow tile becomes the active one, for this word and the following ones
    macs : control (mac_layout) by stage, from the word's cycle on
    low, high : signed sums by lane

    Stages: operands | products | sums of four | sums | W4 correction. Registers change only for valid words, and
    those of the second adder trees only at W4.
    """

    def __init__(self, config, shadow, macs):
        self.word   = Signal(config.word_bits)
        self.inside = Signal()
        self.xu     = Signal()
        self.swap   = Signal()
        self.low    = [Signal((OUT_BITS, True), name=f"low_{n}", reset_less=True) for n in range(config.n_lanes)]
        self.high   = [Signal((OUT_BITS, True), name=f"high_{n}", reset_less=True) for n in range(config.n_lanes)]

        # # #

        self.valids, self.w4s = [m.valid for m in macs], [m.w4 for m in macs]
        activations = self.add_activations(config)
        for n, weights in enumerate(shadow):
            self.add_lane(n, weights, activations)

    def add_activations(self, config):
        """Bytes -> signed 9-bit operands."""
        operands = [Signal((9, True), name=f"a_{k}", reset_less=True) for k in range(config.k_lanes)]
        for k, a in enumerate(operands):
            byte = self.word[8 * k:8 * k + 8]
            self.sync += If(self.valids[0], a.eq(Mux(self.inside, Cat(byte, byte[7] & ~self.xu), 0)))
        return operands

    def add_lane(self, n, shadow, activations):
        """One dot product: active weights, multipliers and the two adder trees."""
        k_lanes = len(activations)
        signed  = lambda bits, name: Signal((bits, True), name=f"{name}_{n}", reset_less=True)
        weights  = [signed(WEIGHT_BITS, f"w_{k}") for k in range(k_lanes)]
        products = [signed(PRODUCT_BITS, f"p_{k}") for k in range(k_lanes)]
        lows     = [signed(LOW_BITS, f"lo_{k}") for k in range(k_lanes)]
        sums4    = [signed(PRODUCT_BITS + 2, f"s4_{q}") for q in range(k_lanes // 4)]
        lows4    = [signed(LOW_BITS + 2, f"l4_{q}") for q in range(k_lanes // 4)]
        total, low, difference = signed(SUM_BITS, "sum"), signed(LOW_BITS + 4, "lowsum"), signed(SUM_BITS, "difference")
        fours = lambda terms: [reduce(add, terms[i:i + 4]) for i in range(0, k_lanes, 4)]
        self.comb += [lo.eq(p[:LOW_BITS]) for lo, p in zip(lows, products)]
        self.comb += difference.eq(total - low)
        self.sync += [
            If(self.swap, *[w.eq(s) for w, s in zip(weights, shadow)]),
            If(self.valids[1], *[p.eq(a * w) for p, a, w in zip(products, activations, weights)]),
            If(self.valids[2], *[s.eq(t) for s, t in zip(sums4, fours(products))]),
            If(self.valids[2] & self.w4s[2], *[s.eq(t) for s, t in zip(lows4, fours(lows))]),
            If(self.valids[3], total.eq(reduce(add, sums4))),
            If(self.valids[3] & self.w4s[3], low.eq(reduce(add, lows4))),
            If(self.valids[4],
                If(self.w4s[4], self.low[n].eq(low), self.high[n].eq(difference >> LOW_BITS))
                .Else(self.low[n].eq(total), self.high[n].eq(total))),
        ]
