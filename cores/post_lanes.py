"""The arithmetic of POST on post_lanes lanes: source and coefficients in, quantised output out (golden: post_model.py).

Register names carry the stage that they feed; ``ce[k]`` enables the step from stage k to k + 1 (the beat is in stage k).
Widths of signed values:

    4 -> 5    a - max (33), m (16)
    5 -> 6    the products of m with the two parts of a - max (34, 32)
    6 -> 7    a*m (48)                                  |a| < 2^32 and |m| <= 2^15
    7 -> 8    z = (a*m << 1) >> (shift but its last two bits); more than 37 bits are only marked as such
    8 -> 9    v1 = ((z >> last two bits) + o') >> 1     o' = 2*o + 1 (33); y beyond 34 bits saturates whatever o is
    9 -> 10   multiply: x = 0, f = sat16(v1); else x = sat24(v1), f = rmult
                                                        24 bits: |R*rmult| <= 2^22 cannot bring back a larger v1
    10 -> 11  f*R << k, k in 0..7 so that the right shift left to do is a multiple of 8 (31)
    11 -> 12  ((... >> 8*j) + x') >> 1                  x' = 2*x + 1
    12 -> 13  v = sat16
    13 -> 17  w = activation(v)
    17 -> 18  w*omult << 0 or 1, so that an even shift is left to do (33)
    18 -> 19  (... >> 2*h), in 17 bits: one that needs more saturates
    19 -> 20  (... + 1) >> 1
    20 -> 21  out = saturated to int8, uint8, int16 or skew byte (17, signed)

One beat a cycle, no stalls. All products are at most 18 x 18 bits: five multiplier blocks a lane (two with ``lut``).
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.activation import Activation
from litediffusion.cores.arith import clamped, fits, shift_narrow, vector
from litediffusion.cores.isa import OUT, SKEW
from litediffusion.cores.multiply import multiplier
from litediffusion.cores.post_scalars import PostScalars

OUT_STAGE = 21
OUT_BITS = 17       # int16 and uint8 as one signed type
LOW_BITS = 17       # of a - max in the first multiplier
Y_BITS = 34         # a*m >> shift with one fraction bit, as far as it matters
Q_BITS = 17         # w*omult >> oshift with one fraction bit, as far as it matters


class PostLanes(LiteXModule):
    """See the module's text.

    Parameters
    ----------
    lanes : int, values of a beat
    ce : 1-bit signal for each stage; ce[k]: a beat is in stage k
    lut : bool, only a*m uses multiplier blocks, the other products are made of logic cells

    Attributes
    ----------
    a : in, source, list of signed 32-bit signals (stage 3)
    r : in, second operand, list of signed 8-bit signals (stage 3)
    m, o : in, multiplier and offset, lists of signed 16 and 32-bit signals (stage 1)
    scalars : PostScalars, its inputs to be driven
    mul, act, out_type : in, constant while beats are inside: second operand multiplies instead of being added,
        activation (isa.ACT), output type (isa.OUT)
    a4 : out, registered source (stage 4)
    out : out, list of signed 17-bit registers (stage 21)
    """

    def __init__(self, lanes, ce, lut=False):
        inputs = lambda bits, name: [Signal((bits, True), name=f"{name}_{i}") for i in range(lanes)]
        self.a, self.r, self.m, self.o = inputs(32, "a3"), inputs(8, "r3"), inputs(16, "m1"), inputs(32, "o1")
        self.mul = Signal()
        self.act = Signal(3)
        self.out_type = Signal(2)
        self.a4 = vector((32, True), lanes, "a4")
        self.out = vector((OUT_BITS, True), lanes, f"out{OUT_STAGE}")

        # # #

        self.lut = lut
        self.stages = {k: [] for k in range(1, OUT_STAGE)}
        self.scalars = PostScalars(ce)
        self.activation = Activation(lanes, ce[13:17], lut)
        self.comb += self.activation.act.eq(self.act)
        for i in range(lanes):
            v9, beyond9, negative9 = self.add_requantise(i)
            self.add_operand(i, v9, beyond9, negative9)
            self.add_output(i)
        # Last stage first: then no register is read after it is assigned, and Verilator needs no copies of them.
        self.sync += [If(ce[k], *statements) for k, statements in reversed(self.stages.items())]

    def register(self, bits, name, i, stage):
        """A register of lane ``i`` that feeds ``stage``."""
        return Signal(bits, name=f"{name}{stage}_{i}", reset_less=True)

    def delay(self, signal, name, i, first, last):
        """``signal`` of stage ``first``, in stage ``last``."""
        for k in range(first, last):
            following = self.register((len(signal), signal.signed), name, i, k + 1)
            self.stages[k] += [following.eq(signal)]
            signal = following
        return signal

    def add_requantise(self, i):
        """Stages 1 to 8; returns (v1, beyond 34 bits, sign) of stage 9."""
        s, stages = self.scalars, self.stages
        reg = lambda bits, name, stage: self.register((bits, True), name, i, stage)
        m5 = self.delay(self.m[i], "m", i, 1, 5)
        o8 = self.delay(self.o[i], "o", i, 1, 8)
        a5, low6, high6, p7 = reg(33, "a", 5), reg(LOW_BITS + 17, "low", 6), reg(49 - LOW_BITS, "high", 6), reg(48, "p", 7)
        stages[3] += [self.a4[i].eq(self.a[i])]
        stages[4] += [a5.eq(self.a4[i] - s.max4)]
        low, high = Signal((LOW_BITS + 1, True)), Signal((33 - LOW_BITS, True))
        upper = Signal((17, True))
        self.comb += [low.eq(a5[:LOW_BITS]), high.eq(a5[LOW_BITS:]), upper.eq(low6[LOW_BITS:])]
        stages[5] += [low6.eq(low * m5), high6.eq(high * m5)]
        top = Signal((48 - LOW_BITS, True))
        self.comb += top.eq(high6 + upper)
        stages[6] += [p7.eq(Cat(low6[:LOW_BITS], top))]
        doubled = Signal((49, True))
        z8, v9 = reg(Y_BITS + 3, "z", 8), reg(Y_BITS, "v", 9)
        beyond8, negative8, beyond9, negative9 = (self.register(1, n, i, k) for k in (8, 9) for n in ("beyond", "negative"))
        self.comb += doubled.eq(Cat(C(0, 1), p7))
        z, beyond = shift_narrow(self, doubled, s.shift7[2:], 4, Y_BITS + 3)
        stages[7] += [z8.eq(z), beyond8.eq(beyond), negative8.eq(p7[-1])]
        y, beyond = shift_narrow(self, z8, s.shift8, 1, Y_BITS)
        rounded, total = Signal((33, True)), Signal((Y_BITS + 1, True))
        self.comb += [rounded.eq(Cat(C(1, 1), o8)), total.eq(y + rounded)]
        stages[8] += [v9.eq(total[1:]), beyond9.eq(beyond8 | beyond), negative9.eq(negative8)]
        return v9, beyond9, negative9

    def add_operand(self, i, v9, beyond9, negative9):
        """Stages 9 to 12, up to the input of the activation."""
        s, stages = self.scalars, self.stages
        reg = lambda bits, name, stage: self.register((bits, True), name, i, stage)
        x10, f10, r10 = reg(24, "x", 10), reg(16, "f", 10), reg(15, "r", 10)
        p11, u12, v13 = reg(31, "p", 11), reg(25, "u", 12), reg(16, "v", 13)
        r9 = self.delay(self.r[i], "r", i, 3, 9)
        negative, fit24, fit16 = Signal(), Signal(), Signal()
        self.comb += [
            negative.eq(Mux(beyond9, negative9, v9[-1])),
            fit24.eq(fits(v9, 24) & ~beyond9), fit16.eq(fits(v9, 16) & ~beyond9),
        ]
        f9 = Signal((16, True))     # one of it and rmult is 0
        self.comb += If(self.mul, f9.eq(clamped(self, v9, 16, fit16, negative)))
        stages[9] += [
            If(self.mul, x10.eq(0)).Else(x10.eq(clamped(self, v9, 24, fit24, negative))),
            f10.eq(f9 | s.rmult9),
            r10.eq(r9 << s.rleft9),
        ]
        stages[10] += [p11.eq(multiplier(self, f10, r10, self.lut))]
        x11 = self.delay(x10, "x", i, 10, 11)
        y, _ = shift_narrow(self, p11, s.rshift11, 8, 25)
        rounded, total = Signal((25, True)), Signal((26, True))
        self.comb += [rounded.eq(Cat(C(1, 1), x11)), total.eq(y + rounded)]
        stages[11] += [u12.eq(total[1:])]
        stages[12] += [v13.eq(clamped(self, u12, 16, fits(u12, 16), u12[-1]))]
        self.comb += self.activation.v[i].eq(v13)

    def add_output(self, i):
        """Stages 17 to 20."""
        s, stages, w17 = self.scalars, self.stages, self.activation.w[i]
        reg = lambda bits, name, stage: self.register((bits, True), name, i, stage)
        p18, z19, q20 = reg(33, "p", 18), reg(Q_BITS, "z", 19), reg(Q_BITS, "q", 20)
        beyond19, negative19, beyond20, negative20 = (self.register(1, n, i, k) for k in (19, 20) for n in ("beyond", "negative"))
        stages[17] += [p18.eq(multiplier(self, w17, s.omult17, self.lut))]
        z, beyond = shift_narrow(self, p18, s.oshift18, 2, Q_BITS)
        stages[18] += [z19.eq(z), beyond19.eq(beyond), negative19.eq(p18[-1])]
        total = Signal((Q_BITS + 1, True))
        self.comb += total.eq(z19 + 1)
        # A value that fits keeps its sign; 2^16 - 1 becomes 2^15, which the 17 bits of q hold.
        stages[19] += [q20.eq(total[1:]), beyond20.eq(beyond19), negative20.eq(negative19)]
        negative, inside = Signal(), Signal()
        self.comb += [
            negative.eq(Mux(beyond20, negative20, q20[-1])),
            Case(self.out_type, {
                OUT["INT8"]: inside.eq(fits(q20, 8)),
                OUT["UINT8"]: inside.eq(q20[8:] == 0),
                OUT["SKEW8"]: inside.eq(fits(q20, 6) | ((q20[8:] == 0) & (q20[5:8] != 7))),
                "default": inside.eq(fits(q20, 16)),
            }),
        ]
        fit = Signal()
        self.comb += fit.eq(inside & ~beyond20)
        unsigned, skew = Signal(OUT_BITS), Signal(OUT_BITS)
        self.comb += [
            If(fit, unsigned.eq(q20)).Elif(negative, unsigned.eq(0)).Else(unsigned.eq(255)),
            If(fit, skew.eq(q20)).Elif(negative, skew.eq((1 << OUT_BITS) + SKEW[0])).Else(skew.eq(SKEW[1])),
        ]
        stages[20] += [Case(self.out_type, {
            OUT["INT8"]: self.out[i].eq(clamped(self, q20, 8, fit, negative)),
            OUT["UINT8"]: self.out[i].eq(unsigned),
            OUT["SKEW8"]: self.out[i].eq(skew),
            "default": self.out[i].eq(clamped(self, q20, 16, fit, negative)),
        })]
