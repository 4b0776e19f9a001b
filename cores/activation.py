"""Activation functions by table and linear interpolation (golden model: ``tables.activation``).

    i = v >> 8, f = v & 255
    w = value[i] + ((slope[i] * f + 128) >> 8)          SILU, GELU, TANH, EXP
    w = max(v, 0)                                       RELU
    w = v                                               NONE
v is Q4.11 in 16 bits (-16 <= x < 16). Latency 3 cycles, one vector a cycle, all 65536 inputs exact.
Two lanes share the two ports of one ROM that holds every table.
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.arith import vector
from litediffusion.cores.isa import ACT
from litediffusion.cores.multiply import multiplier
from litediffusion.cores.tables import TABLE_ORDER, activation_table

SEGMENTS = 256
VALUE_BITS = 16


def _tables():
    """(ROM contents, slope bits): slope above value, tables in TABLE_ORDER."""
    pairs = [(int(v), int(s)) for name in TABLE_ORDER for v, s in zip(*activation_table(name))]
    slope_bits = max(bits_for(s, True) for _, s in pairs)
    word = lambda v, s: (v & ((1 << VALUE_BITS) - 1)) | (s & ((1 << slope_bits) - 1)) << VALUE_BITS
    return [word(v, s) for v, s in pairs], slope_bits


class Activation(LiteXModule):
    """Activation of ``n_lanes`` values at once.

    Parameters
    ----------
    ce : list of three 1-bit signals
        Enables of the three stages: ``ce[0]`` while ``v`` is valid, ``ce[1]`` and ``ce[2]`` one and two cycles later.
    lut : bool
        Interpolate with multipliers of logic cells.

    Attributes
    ----------
    act : in, function (isa.ACT), constant while values are inside
    v : in, list of n_lanes signed 16-bit signals
    w : out, list of n_lanes signed 16-bit registers, 3 cycles after ``v``
    """

    def __init__(self, n_lanes, ce, lut=False):
        self.act = Signal(3)
        self.v = [Signal((16, True), name=f"act_v_{i}") for i in range(n_lanes)]
        self.w = vector((16, True), n_lanes, "act_w")

        # # #

        contents, slope_bits = _tables()
        first = ACT[TABLE_ORDER[0]]
        assert [ACT[name] - first for name in TABLE_ORDER] == list(range(len(TABLE_ORDER)))
        table = Signal()
        select = Signal(bits_for(len(TABLE_ORDER) - 1))
        self.comb += [table.eq(self.act >= first), select.eq(self.act - first)]

        v1, f1 = vector((16, True), n_lanes, "act_v1"), vector(8, n_lanes, "act_f1")
        b2, g2 = vector((16, True), n_lanes, "act_b2"), vector((slope_bits + 8, True), n_lanes, "act_g2")
        stages = [[], [], []]
        for i in range(n_lanes):
            if i % 2 == 0:
                rom = Memory(VALUE_BITS + slope_bits, SEGMENTS * len(TABLE_ORDER), init=contents, name=f"act_rom_{i // 2}")
                self.specials += rom
            port = rom.get_port(has_re=True, mode=READ_FIRST)
            self.specials += port
            v = self.v[i]
            value = Signal((VALUE_BITS, True), name=f"act_value_{i}")
            slope = Signal((slope_bits, True), name=f"act_slope_{i}")
            self.comb += [
                port.re.eq(ce[0] & table),
                port.adr.eq(Cat(v[8:15], ~v[15], select)),      # (v >> 8) + 128
                Cat(value, slope).eq(port.dat_r),
            ]
            stages[0] += [v1[i].eq(v), f1[i].eq(v[:8])]
            stages[1] += [If(table, b2[i].eq(value), g2[i].eq(multiplier(self, slope, f1[i], lut))).Else(
                b2[i].eq(Mux((self.act == ACT["RELU"]) & v1[i][15], 0, v1[i])), g2[i].eq(0))]
            stages[2] += [self.w[i].eq(b2[i] + ((g2[i] + 128) >> 8))]
        self.sync += [If(enable, *stage) for enable, stage in reversed([*zip(ce, stages)])]
