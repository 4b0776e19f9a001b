"""The arithmetic of POST on n_lanes lanes: source and coefficients in, quantised output out (golden: post_model.py).

Register names carry the stage that they feed; ``ce[k]`` enables the step from stage k to k + 1 (the element
is in stage k). Widths of signed values:

    1 -> 2    a (32), r (8), m (16), o' = 2*o + 1 (33), shift, extra shift, row maximum
    2 -> 3    a - max (33), shift + extra
    3 -> 4    a*m (48)                                  |a| < 2^32 and |m| <= 2^15
    4 -> 5    (a*m << 1) >> shift (49)
    5 -> 6    v1 = (... + o') >> 1 (50 in the sum)
    6 -> 7    multiply: x = 0, f = sat16(v1); else x = sat24(v1), f = rmult
                                                        24 bits: |R*rmult| <= 2^22 cannot bring back a larger v1
    7 -> 8    f*R (24)
    8 -> 9    (f*R << 1) >> rshift (25), x' = 2*x + 1
    9 -> 10   (... + x') >> 1
    10 -> 11  v = sat16
    11 -> 14  w = activation(v)
    14 -> 15  w*omult (32)
    15 -> 16  (... << 1) >> oshift (33)
    16 -> 17  (... + 1) >> 1
    17 -> 18  out = saturated to int8, uint8 or int16 (17, signed)

One vector a cycle, no stalls; an element that enters stage 1 in cycle t is in ``out`` in cycle t + 17.
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.activation import Activation
from litediffusion.cores.arith import SHIFT_BITS, clamp_shift, saturate, saturate_unsigned, shift_stage, vector
from litediffusion.cores.isa import OUT
from litediffusion.cores.multiply import multiplier

OUT_STAGE = 18
OUT_BITS = 17       # int16 and uint8 as one signed type


class PostScalars(LiteXModule):
    """Carries the scalars of the parameter record along with the lanes, each to the stage that uses it.

    Inputs belong to stage 1, except ``extra`` (the row record's shift). Outputs carry their stage in the name.
    """

    def __init__(self, ce):
        self.shift = Signal(8)
        self.rshift = Signal(8)
        self.oshift = Signal(8)
        self.extra = Signal(5)
        self.rmult = Signal((16, True))
        self.omult = Signal((16, True))

        # # #

        shift2, rshift2, oshift2 = (Signal(8, name=f"{n}2", reset_less=True) for n in ("shift", "rshift", "oshift"))
        extra2 = Signal(5, reset_less=True)
        total3 = Signal(9, reset_less=True)
        rmult2 = Signal((16, True), reset_less=True)
        omult2 = Signal((16, True), reset_less=True)
        rshift3 = Signal(SHIFT_BITS, reset_less=True)
        oshift3 = Signal(SHIFT_BITS, reset_less=True)
        self.shift4 = Signal(SHIFT_BITS, reset_less=True)
        self.sync += [
            If(ce[1],
                shift2.eq(self.shift), rshift2.eq(self.rshift), oshift2.eq(self.oshift), extra2.eq(self.extra),
                rmult2.eq(self.rmult), omult2.eq(self.omult)),
            If(ce[2], total3.eq(shift2 + extra2), clamp_shift(rshift3, rshift2), clamp_shift(oshift3, oshift2)),
            If(ce[3], clamp_shift(self.shift4, total3)),
        ]
        self.rmult6 = self._delay("rmult", rmult2, 2, 6, ce)
        self.rshift8 = self._delay("rshift", rshift3, 3, 8, ce)
        self.omult14 = self._delay("omult", omult2, 2, 14, ce)
        self.oshift15 = self._delay("oshift", oshift3, 3, 15, ce)

    def _delay(self, name, signal, first, last, ce):
        """``signal`` of stage ``first``, in stage ``last``."""
        shape = (len(signal), signal.signed)
        chain = [signal] + [Signal(shape, name=f"{name}{k + 1}", reset_less=True) for k in range(first, last)]
        self.sync += [If(ce[k], chain[k - first + 1].eq(chain[k - first])) for k in reversed(range(first, last))]
        return chain[-1]


class PostLanes(LiteXModule):
    """See the module's text.

    Parameters
    ----------
    n_lanes : int
    ce : 1-bit signal for each stage; ce[k]: an element is in stage k
    lut : bool, only a*m uses multiplier blocks, the other products are made of logic cells

    Attributes
    ----------
    a : in, source, list of signed 32-bit signals (stage 1)
    r : in, second operand, list of signed 8-bit signals (stage 1), ignored unless ``operand``
    m, o : in, multiplier and offset, lists of signed 16 and 32-bit signals (stage 1)
    row_max : in, signed 32-bit signal subtracted from the source (stage 1)
    scalars : PostScalars, its inputs to be driven
    operand, mul, act, out_type : in, constant while elements are inside: second operand used, multiplied instead of
        added, activation (isa.ACT), output type (isa.OUT)
    a2 : out, registered source (stage 2)
    out : out, list of signed 17-bit registers (stage 18)
    """

    def __init__(self, n_lanes, ce, lut=False):
        self.a = [Signal((32, True), name=f"a1_{i}") for i in range(n_lanes)]
        self.r = [Signal((8, True), name=f"r1_{i}") for i in range(n_lanes)]
        self.m = [Signal((16, True), name=f"m1_{i}") for i in range(n_lanes)]
        self.o = [Signal((32, True), name=f"o1_{i}") for i in range(n_lanes)]
        self.row_max = Signal((32, True))
        self.operand = Signal()
        self.mul = Signal()
        self.act = Signal(3)
        self.out_type = Signal(2)
        self.out = vector((OUT_BITS, True), n_lanes, "out18")

        # # #

        self.n_lanes = n_lanes
        self.lut = lut
        self.stages = {k: [] for k in range(1, OUT_STAGE)}
        self.scalars = PostScalars(ce)
        self.activation = Activation(n_lanes, ce[11:14], lut)
        self.comb += self.activation.act.eq(self.act)
        x7, f7, r7 = self.add_requantise()
        self.add_operand(x7, f7, r7)
        self.add_output(self.activation.w)
        # Last stage first: then no register is read after it is assigned, and Verilator needs no copies of them.
        self.sync += [If(ce[k], *statements) for k, statements in reversed(self.stages.items())]

    def add_requantise(self):
        """Stages 1 to 6; returns (x7, f7, r7)."""
        n, s = self.n_lanes, self.scalars
        self.a2 = a2 = vector((32, True), n, "a2")
        a3, p4, y5 = vector((33, True), n, "a3"), vector((48, True), n, "p4"), vector((49, True), n, "y5")
        v6 = vector((50, True), n, "v6")
        x7, f7 = vector((24, True), n, "x7"), vector((16, True), n, "f7")
        m = {k: vector((16, True), n, f"m{k}") for k in (2, 3)}
        o = {k: vector((33, True), n, f"o{k}") for k in (2, 3, 4, 5)}
        r = {k: vector((8, True), n, f"r{k}") for k in range(2, 8)}
        max2 = Signal((32, True), reset_less=True)
        self.stages[1] += [max2.eq(self.row_max)]
        for i in range(n):
            self.stages[1] += [a2[i].eq(self.a[i]), m[2][i].eq(self.m[i]), o[2][i].eq(Cat(1, self.o[i])),
                               If(self.operand, r[2][i].eq(self.r[i])).Else(r[2][i].eq(0))]
            self.stages[2] += [a3[i].eq(a2[i] - max2), m[3][i].eq(m[2][i]), o[3][i].eq(o[2][i])]
            self.stages[3] += [p4[i].eq(a3[i] * m[3][i]), o[4][i].eq(o[3][i])]
            self.stages[4] += [y5[i].eq(shift_stage(p4[i], s.shift4)), o[5][i].eq(o[4][i])]
            self.stages[5] += [v6[i].eq((y5[i] + o[5][i]) >> 1)]
            self.stages[6] += [If(self.mul, x7[i].eq(0), saturate(f7[i], v6[i], 16)).Else(
                saturate(x7[i], v6[i], 24), f7[i].eq(s.rmult6))]
            for k in range(2, 7):
                self.stages[k] += [r[k + 1][i].eq(r[k][i])]
        return x7, f7, r[7]

    def add_operand(self, x7, f7, r7):
        """Stages 7 to 10, up to the input of the activation."""
        n, s = self.n_lanes, self.scalars
        p8, x8 = vector((24, True), n, "p8"), vector((24, True), n, "x8")
        y9, x9 = vector((25, True), n, "y9"), vector((25, True), n, "x9")
        u10, v11 = vector((26, True), n, "u10"), vector((16, True), n, "v11")
        for i in range(n):
            self.stages[7] += [p8[i].eq(multiplier(self, f7[i], r7[i], self.lut)), x8[i].eq(x7[i])]
            self.stages[8] += [y9[i].eq(shift_stage(p8[i], s.rshift8)), x9[i].eq(Cat(1, x8[i]))]
            self.stages[9] += [u10[i].eq((y9[i] + x9[i]) >> 1)]
            self.stages[10] += [saturate(v11[i], u10[i], 16)]
            self.comb += self.activation.v[i].eq(v11[i])

    def add_output(self, w14):
        """Stages 14 to 17."""
        n, s = self.n_lanes, self.scalars
        p15, y16, q17 = vector((32, True), n, "p15"), vector((33, True), n, "y16"), vector((33, True), n, "q17")
        for i in range(n):
            self.stages[14] += [p15[i].eq(multiplier(self, w14[i], s.omult14, self.lut))]
            self.stages[15] += [y16[i].eq(shift_stage(p15[i], s.oshift15))]
            self.stages[16] += [q17[i].eq((y16[i] + 1) >> 1)]
            self.stages[17] += [Case(self.out_type, {
                OUT["INT8"]: saturate(self.out[i], q17[i], 8),
                OUT["UINT8"]: saturate_unsigned(self.out[i], q17[i], 8),
                "default": saturate(self.out[i], q17[i], 16),
            })]
