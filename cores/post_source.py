"""What an element of POST is made from: held source and operand words and coefficients, a beat at a time.

    stage 1   memories answer: words granted go to registers, the row and parameter records stay for all beats
    stage 2   source and operand words are in their registers; the coefficients in those of the lanes
    stage 3   the beat's values of the source's kind, zero in the other kinds' places; the beat's operands
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.arith import vector
from litediffusion.cores.isa import SRC
from litediffusion.cores.ports import READ_LATENCY


class BeatSources(LiteXModule):
    """Registers for the words that were granted, and the lanes' source and operand (stage 3).

    acc, src, opr           MemoryPorts; their words are kept from the answer on
    src_half, opr_half      in, half word of the access that asks
    kind                    in, isa.SRC; constant while elements are inside
    valid, beat             in, a beat and its number in stage 2
    a, r                    out, lists of signed 32 and 8-bit signals
    """

    def __init__(self, config, acc, src, opr):
        self.src_half, self.opr_half = Signal(), Signal()
        self.kind = Signal(2)
        self.valid, self.beat = Signal(), Signal(max=max(2, config.post_beats))
        self.a = [Signal((32, True), name=f"source_{i}") for i in range(config.post_lanes)]
        self.r = vector((8, True), config.post_lanes, "operand")

        # # #

        self.config = config
        entry, _ = self.hold(acc, "acc")
        word, src_half = self.hold(src, "src", self.src_half)
        operand, opr_half = self.hold(opr, "opr", self.opr_half)
        self.add_source(entry, word, src_half)
        bytes_ = self.choose(operand, 8, opr_half)
        self.sync += If(self.valid, *[r.eq(b) for r, b in zip(self.r, bytes_)])

    def hold(self, port, name, half=0):
        """(register with the last word granted, its half)."""
        word, held = Signal(len(port.dat_r), reset_less=True, name=f"{name}_word"), Signal(reset_less=True, name=f"{name}_half")
        asked = [half] + [Signal(reset_less=True, name=f"{name}_asked{k}") for k in range(READ_LATENCY)]
        self.sync += [after.eq(before) for before, after in zip(asked, asked[1:])]
        self.sync += If(port.rvalid, word.eq(port.dat_r), held.eq(asked[-1]))
        return word, held

    def choose(self, word, bits, half=None):
        """The beat's values of ``bits`` bits; with ``half`` out of that half of the word."""
        lanes, values = self.config.post_lanes, []
        index = self.beat if self.config.post_beats > 1 else None
        parts = self.config.n_lanes // lanes
        if half is not None:
            index, parts = (half if index is None else Cat(index, half)), 2 * parts
        for i in range(lanes):
            value = Signal(bits)
            at = lambda part: word[bits * (lanes * part + i):bits * (lanes * part + i + 1)]
            self.comb += Case(index, {k: value.eq(at(k)) for k in range(parts)}) if parts > 1 else value.eq(at(0))
            values.append(value)
        return values

    def add_source(self, entry, word, half):
        """Each kind has registers that are 0 for other kinds, so that a plain OR joins them."""
        lanes = self.config.post_lanes
        accs, wides, bytes_ = (vector(bits, lanes, f"from_{n}") for n, bits in (("acc", 32), ("int16", 16), ("int8", 8)))
        for registers, kind, values in ((accs, "ACC", self.choose(entry, 32)), (wides, "INT16", self.choose(word, 16)),
                                        (bytes_, "INT8", self.choose(word, 8, half))):
            mine = self.kind == SRC[kind]
            self.sync += If(self.valid, *[r.eq(v & Replicate(mine, len(v))) for r, v in zip(registers, values)])
        for i, a in enumerate(self.a):
            extend = lambda x: Cat(x, Replicate(x[-1], 32 - len(x)))
            self.comb += a.eq(accs[i] | extend(wides[i]) | extend(bytes_[i]))


class BeatCoefficients(LiteXModule):
    """Stage 1: the fields of the parameter record and of the row record to the inputs of PostLanes.

    param_dat, row      the parameter record and RowPort as read, the same for all beats of an element
    d                   the descriptor's fields
    beat                in, number of the beat in stage 1
    """

    def __init__(self, config, lanes, d, param_dat, row):
        self.beat = Signal(max=max(2, config.post_beats))

        # # #

        s, n = lanes.scalars, config.post_lanes
        fields = self.param_fields(param_dat, config.n_lanes)
        scalars = dict(zip((f.name for f in isa.PARAM_SCALARS), fields[2]))
        self.comb += [
            *[getattr(s, name).eq(scalars[name]) for name in ("shift", "rshift", "oshift", "rmult", "omult")],
            If(d.submax, s.max.eq(row.r_max)), If(d.row_m, s.extra.eq(row.r_e)),
        ]
        for signals, values, of_row, row_value in ((lanes.m, fields[0], d.row_m, row.r_m),
                                                   (lanes.o, fields[1], d.row_o, row.r_o)):
            for i, signal in enumerate(signals):
                own = Signal(len(signal))
                self.comb += [
                    Case(self.beat, {k: own.eq(values[n * k + i]) for k in range(config.post_beats)}),
                    If(of_row, signal.eq(row_value)).Else(signal.eq(own)),
                ]

    def param_fields(self, record, n):
        """(mult by lane, offset by lane, scalars): slices of a parameter record."""
        bit, groups = 0, []
        for fields in ([isa.PARAM_LANES[0]] * n, [isa.PARAM_LANES[1]] * n, isa.PARAM_SCALARS):
            groups.append([])
            for f in fields:
                groups[-1].append(record[bit:bit + f.bits])
                bit += f.bits
        return groups
