"""Scalars of POST's parameter record on their way to the stages that use them."""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.arith import SHIFT_BITS, clamp_shift


class PostScalars(LiteXModule):
    """Inputs belong to stage 1; outputs carry their stage in the name; ``ce`` as in PostLanes.

        shift7, shift8      min(shift + extra, 63), all of it and its last two bits
        rleft9, rshift11    left shift k of R and j: (p << 1) >> rshift = (p << k) >> 8*j, for |p| <= 2^22
        omult17, oshift18   omult << 0 or 1 and h: (p << 1) >> oshift = (p << 0 or 1) >> 2*h;
                            a shift of more than 31 gives 0 for |p| <= 2^30, as omult = 0 does

    ``adds`` is 1 if the second operand is added: without it ``rmult9`` is 0, so that nothing is.
    """

    def __init__(self, ce):
        self.shift = Signal(8)
        self.rshift = Signal(8)
        self.oshift = Signal(8)
        self.extra = Signal(5)
        self.rmult = Signal((16, True))
        self.omult = Signal((16, True))
        self.max = Signal((32, True))
        self.adds = Signal()

        # # #

        inputs = {n: getattr(self, n) for n in ("shift", "rshift", "oshift", "extra", "rmult", "omult", "max")}
        at2 = {n: Signal((len(s), s.signed), name=f"{n}2", reset_less=True) for n, s in inputs.items()}
        total3 = Signal(9, reset_less=True)
        shift4 = Signal(SHIFT_BITS, reset_less=True)
        steps3 = Signal(5, reset_less=True)
        rmult3 = Signal((16, True), reset_less=True)
        omult3 = Signal((17, True), reset_less=True)
        left3 = Signal(3)
        self.sync += [
            If(ce[1], *[at2[n].eq(s) for n, s in inputs.items()]),
            If(ce[2],
                total3.eq(at2["shift"] + at2["extra"]),
                # (p << 1) >> s = (p << ~steps % 8) >> steps / 8 * 8 with steps = s + 6; from s = 25 on it is p's sign.
                If(at2["rshift"] >= 25, steps3.eq(31)).Else(steps3.eq(at2["rshift"] + 6)),
                If(self.adds, rmult3.eq(at2["rmult"])).Else(rmult3.eq(0)),
                If(at2["oshift"][5:] != 0, omult3.eq(0)
                ).Elif(at2["oshift"][0], omult3.eq(at2["omult"])
                ).Else(omult3.eq(at2["omult"] << 1)),
            ),
            If(ce[3], clamp_shift(shift4, total3)),
        ]
        self.comb += left3.eq(~steps3)
        self.max4 = self._delay("max", at2["max"], 2, 4, ce)
        self.shift7 = self._delay("shift", shift4, 4, 7, ce)
        self.shift8 = self._delay("fine", self.shift7[:2], 7, 8, ce)
        self.rmult9 = self._delay("rmult", rmult3, 3, 9, ce)
        self.rleft9 = self._delay("rleft", left3, 3, 9, ce)
        self.rshift11 = self._delay("rsteps", steps3[3:], 3, 11, ce)
        self.omult17 = self._delay("omult", omult3, 3, 17, ce)
        self.oshift18 = self._delay("osteps", at2["oshift"][1:5], 2, 18, ce)

    def _delay(self, name, value, first, last, ce):
        """``value`` of stage ``first``, in stage ``last``."""
        for k in range(first, last):
            signed = isinstance(value, Signal) and value.signed
            following = Signal((len(value), signed), name=f"{name}{k + 1}", reset_less=True)
            self.sync += If(ce[k], following.eq(value))
            value = following
        return value
