"""Activation functions by table and linear interpolation (golden model: ``tables.activation``).

    i = v >> 8, f = v & 255
    w = value[i] + ((slope[i] * f + 128) >> 8)          SILU, GELU, TANH, EXP
    w = max(v, 0)                                       RELU
    w = v                                               NONE
v is Q4.11 in 16 bits (-16 <= x < 16). Latency 4 cycles, one vector a cycle, all 65536 inputs exact.
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
    ce : list of four 1-bit signals
        Enables of the four stages: ``ce[0]`` while ``v`` is valid, the others one, two and three cycles later.
    lut : bool
        Interpolate with multipliers of logic cells.

    Attributes
    ----------
    act : in, function (isa.ACT), constant while values are inside
    v : in, list of n_lanes signed 16-bit signals
    w : out, list of n_lanes signed 16-bit registers, 4 cycles after ``v``
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

        stages = [[], [], [], []]
        for i in range(n_lanes):
            if i % 2 == 0:
                rom = Memory(VALUE_BITS + slope_bits, SEGMENTS * len(TABLE_ORDER), init=contents, name=f"act_rom_{i // 2}")
                self.specials += rom
            port = rom.get_port(has_re=True, mode=READ_FIRST)
            self.specials += port
            v = self.v[i]
            self.comb += [
                port.re.eq(ce[0] & table),
                port.adr.eq(Cat(v[8:15], ~v[15], select)),      # (v >> 8) + 128
            ]
            self.add_lane(i, port.dat_r, table, stages, lut)
        self.sync += [If(enable, *stage) for enable, stage in reversed([*zip(ce, stages)])]

    def add_lane(self, i, entry, table, stages, lut):
        """``entry``: the table's output in stage 1; it has a stage of its own, because block RAM is slow."""
        slope_bits = len(entry) - VALUE_BITS
        register = lambda bits, name: Signal(bits, name=f"act_{name}_{i}", reset_less=True)
        v1, f1, f2, s2 = register((16, True), "v1"), register(8, "f1"), register(8, "f2"), register((slope_bits, True), "s2")
        b2, b3, g3 = register((16, True), "b2"), register((16, True), "b3"), register((slope_bits + 8, True), "g3")
        step, total = Signal((slope_bits + 1, True), name=f"act_step_{i}"), Signal((18, True), name=f"act_total_{i}")
        base = Signal((17, True), name=f"act_base_{i}")
        self.comb += [
            # b + ((g + 128) >> 8) with one adder: g's bit 7 and the 1 beside it carry into the sum
            base.eq(Cat(C(1, 1), b3)), step.eq(g3[7:]), total.eq(base + step),
        ]
        stages[0] += [v1.eq(self.v[i]), f1.eq(self.v[i][:8])]
        stages[1] += [
            If(table, b2.eq(entry[:VALUE_BITS]), f2.eq(f1)
            ).Else(b2.eq(Mux((self.act == ACT["RELU"]) & v1[15], 0, v1)), f2.eq(0)),
            s2.eq(entry[VALUE_BITS:]),
        ]
        stages[2] += [g3.eq(multiplier(self, s2, f2, lut)), b3.eq(b2)]
        stages[3] += [self.w[i].eq(total[1:])]
