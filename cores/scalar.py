"""The arithmetic that NORM and SAMPLE share: one multiplier with an accumulator, and a lane of the parameter record.

    acc = start + a * b         32 x 18 bits signed, 65-bit sums, start: acc, acc * 2^16, 0 or 2^13

Units of one queue: at most one is at work. Operand, product and accumulator registers: a product issued in cycle t
is in ``acc`` from cycle t + 3 on, one product a cycle, no stalls. Two 18 x 18 multipliers.
"""

from functools import reduce
from operator import or_

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.arith import choose

A_BITS = 32
B_BITS = 18
LIMB_BITS = 16          # unsigned digits of a long operand on the b side
ACC_BITS = 65
HALF_BIT = 13           # of a coefficient's fraction: START_HALF rounds what is then shifted by 14

ADD, UP, START, START_HALF = range(4)       # p is added to acc, acc << LIMB_BITS, 0, 1 << HALF_BIT


class ScalarPort(Record):
    """A client's side.

    What goes to the unit must be 0 unless the client is at work.

    valid, mode, a, b : issue a product; with ``by_offset`` its a is ``offset``
    mult_lane, offset_lane : lanes of the record that are shown a cycle later as ``mult`` and ``offset``
    record : parameter record as read; its data stay while the address does
    acc, busy : accumulator; a product is under way, the last one is in ``acc`` when it falls
    """

    def __init__(self, name=None):
        mult, offset = ((f"{f.name}", (f.bits, True), DIR_S_TO_M) for f in isa.PARAM_LANES)
        Record.__init__(self, [
            ("valid", 1, DIR_M_TO_S), ("mode", 2, DIR_M_TO_S), ("by_offset", 1, DIR_M_TO_S),
            ("a", (A_BITS, True), DIR_M_TO_S), ("b", (B_BITS, True), DIR_M_TO_S),
            ("mult_lane", 3, DIR_M_TO_S), ("offset_lane", 3, DIR_M_TO_S),
            ("record", 8 * isa.PARAM_BYTES, DIR_S_TO_M), mult, offset,
            ("acc", (ACC_BITS, True), DIR_S_TO_M), ("busy", 1, DIR_S_TO_M),
        ], name=name)

    def scalars(self, n_lanes):
        """The record's scalars by name, as slices."""
        at, fields = sum(f.bits for f in isa.PARAM_LANES) * n_lanes, {}
        for f in isa.PARAM_SCALARS:
            fields[f.name] = self.record[at:at + f.bits]
            at += f.bits
        return fields


class ScalarUnit(LiteXModule):
    """Multiplier, accumulator and lane selection. ``record``: in, the parameter memory's data."""

    def __init__(self, config):
        self.n_lanes = config.n_lanes
        self.ports = []
        self.record = Signal(8 * isa.PARAM_BYTES)

    def get_port(self, name=None):
        """A new client's ScalarPort; ask before the module is finalised."""
        port = ScalarPort(name)
        self.ports.append(port)
        return port

    def do_finalize(self):
        port = ScalarPort("scalar")
        names = {kind: [f[0] for f in port.layout if f[2] == kind] for kind in (DIR_M_TO_S, DIR_S_TO_M)}
        for name in names[DIR_M_TO_S]:
            self.comb += getattr(port, name).eq(reduce(or_, [getattr(client, name) for client in self.ports]))
        for client in self.ports:
            self.comb += [getattr(client, name).eq(getattr(port, name)) for name in names[DIR_S_TO_M]]
        self.comb += port.record.eq(self.record)
        self.add_lanes(port)
        self.add_sum(port)

    def add_lanes(self, port):
        at = 0
        for f, lane in zip(isa.PARAM_LANES, (port.mult_lane, port.offset_lane)):
            selected = Signal((f.bits, True), name=f"lane_{f.name}", reset_less=True)
            lanes = [self.record[at + i * f.bits:at + (i + 1) * f.bits] for i in range(self.n_lanes)]
            self.sync += selected.eq(choose(lane, lanes))
            self.comb += getattr(port, f.name).eq(selected)
            at += self.n_lanes * f.bits

    def add_sum(self, port):
        a, b = Signal((A_BITS, True), reset_less=True), Signal((B_BITS, True), reset_less=True)
        p = Signal((A_BITS + B_BITS, True), reset_less=True)
        acc = Signal((ACC_BITS, True), reset_less=True)
        valid = Signal(2)
        mode = [port.mode] + [Signal(2, name=f"mode{i}", reset_less=True) for i in range(2)]
        start = Signal((ACC_BITS, True))
        self.comb += [
            port.acc.eq(acc), port.busy.eq(valid != 0),
            Case(mode[2], {ADD: start.eq(acc), UP: start.eq(acc << LIMB_BITS), START_HALF: start.eq(1 << HALF_BIT),
                           "default": start.eq(0)}),
        ]
        self.sync += [
            If(port.by_offset, a.eq(port.offset)).Else(a.eq(port.a)), b.eq(port.b), p.eq(a * b),
            valid.eq(Cat(port.valid, valid)), *[following.eq(m) for following, m in zip(mode[1:], mode)],
            If(valid[1], acc.eq(start + p)),
        ]
