"""Gaussian source: the gateware of ``gaussian_model``.

    bits   Threefry-2x32-20 of counter (element, step) and key (seed0, seed1), first output word
    z      sign, octave by leading zeros, 16 segments an octave with linear interpolation

Ref: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores.gaussian_model import PARITY, ROTATIONS, ROUNDS
from litediffusion.cores.tables import GAUSS_OCTAVES, GAUSS_STEPS, gauss_table

WORD_BITS = 32
TAIL_BITS = WORD_BITS - 1       # all but the sign
FRACTION_BITS = 8               # of the interpolation
VALUE_BITS = 15                 # largest |z| is 5.4 in Q3.12
SLOPE_BITS = 8                  # slopes are negative; their magnitude is stored


class Threefry(LiteXModule):
    """Threefry-2x32-20, two rounds a cycle and one cycle for each key injection.

    sink ``ctr0``, ``ctr1``; source ``bits`` (first output word), in order. The key must be stable. Latency 16 cycles,
    one word in 16 cycles; a word not taken holds the next one off.
    """

    def __init__(self):
        self.key0, self.key1 = Signal(WORD_BITS), Signal(WORD_BITS)
        self.sink   = sink   = stream.Endpoint([("ctr0", WORD_BITS), ("ctr1", WORD_BITS)])
        self.source = source = stream.Endpoint([("bits", WORD_BITS)])

        # # #

        groups = ROUNDS // 4                        # of four rounds and an injection
        x0, x1 = Signal(WORD_BITS, reset_less=True), Signal(WORD_BITS, reset_less=True)
        busy = Signal()
        group, phase = Signal(max=groups), Signal(2)    # phases 0, 1: two rounds each; 2: injection
        key = [self.key0, self.key1, Signal(WORD_BITS)]
        add0, add1 = Signal(WORD_BITS), Signal(WORD_BITS)
        self.comb += [
            key[2].eq(PARITY ^ self.key0 ^ self.key1),
            Case(group, {g: [add0.eq(key[(g + 1) % 3]), add1.eq(key[(g + 2) % 3] + (g + 1))] for g in range(groups)}),
        ]
        first, once = self.mix(x0, x1, ROTATIONS[0::2], Cat(phase[0], group[0]))
        second, twice = self.mix(first, once, ROTATIONS[1::2], Cat(phase[0], group[0]))
        self.comb += [
            sink.ready.eq(~busy),
            source.valid.eq(busy & (group == groups - 1) & (phase == 2)),
            source.bits.eq(x0 + add0),
        ]
        self.sync += If(~busy,
            x0.eq(sink.ctr0 + self.key0),
            x1.eq(sink.ctr1 + self.key1),
            group.eq(0), phase.eq(0), busy.eq(sink.valid),
        ).Elif(phase != 2,
            x0.eq(second), x1.eq(twice), phase.eq(phase + 1),
        ).Elif(group != groups - 1,
            x0.eq(x0 + add0), x1.eq(x1 + add1), phase.eq(0), group.eq(group + 1),
        ).Elif(source.ready, busy.eq(0))

    def mix(self, x0, x1, rotations, select):
        """(x0, x1) after one round, rotated by ``rotations[select]``."""
        total, rotated, mixed = (Signal(WORD_BITS) for _ in range(3))
        self.comb += [
            total.eq(x0 + x1),
            Case(select, {i: rotated.eq(Cat(x1[WORD_BITS - r:], x1[:WORD_BITS - r])) for i, r in enumerate(rotations)}),
            mixed.eq(rotated ^ total),
        ]
        return total, mixed


class InverseCdf(LiteXModule):
    """32 uniform bits -> N(0, 1) in Q3.12, bit-exact with ``gauss_from_bits``.

    sink ``bits``, source ``z`` (signed 16). Latency 11 cycles and one for each leading zero of bits[30:0] (one on
    average, 23 at most); not pipelined. The interpolation multiplies by shifts and additions: no multiplier.
    """

    def __init__(self):
        self.sink   = sink   = stream.Endpoint([("bits", WORD_BITS)])
        self.source = source = stream.Endpoint([("z", (16, True))])

        # # #

        tail     = Signal(TAIL_BITS, reset_less=True)
        negative = Signal(reset_less=True)
        octave   = Signal(max=GAUSS_OCTAVES, reset_less=True)
        total    = Signal(VALUE_BITS + FRACTION_BITS, reset_less=True)
        slope    = Signal(SLOPE_BITS + FRACTION_BITS, reset_less=True)
        fraction = Signal(FRACTION_BITS, reset_less=True)
        left     = Signal(max=FRACTION_BITS + 1, reset_less=True)
        step_bits = log2_int(GAUSS_STEPS)
        after     = TAIL_BITS - 1 - step_bits           # bits of the mantissa below the segment number

        value, slopes = gauss_table()
        entries = [int(v) << SLOPE_BITS | int(-s) for v, s in zip(value, slopes)]
        rom = Memory(VALUE_BITS + SLOPE_BITS, len(entries), init=entries)
        port = rom.get_port()
        self.specials += rom, port
        magnitude = Signal((16, True))
        self.comb += [
            port.adr.eq(Cat(tail[after:TAIL_BITS - 1], octave)),
            magnitude.eq(total[FRACTION_BITS:]),
            source.z.eq(Mux(negative, -magnitude, magnitude)),
        ]
        normal = Signal()
        self.comb += normal.eq(tail[-1] | (octave == GAUSS_OCTAVES - 1))
        self.fsm = fsm = FSM(reset_state="IDLE")
        fsm.act("IDLE", sink.ready.eq(1), If(sink.valid, NextState("NORMALISE")))
        fsm.act("NORMALISE", If(normal, NextState("LOOKUP")))
        fsm.act("LOOKUP", NextState("MULTIPLY"))
        fsm.act("MULTIPLY", If(left == 1, NextState("DONE")))
        fsm.act("DONE", source.valid.eq(1), If(source.ready, NextState("IDLE")))
        self.sync += [
            If(fsm.ongoing("IDLE"), tail.eq(sink.bits), negative.eq(sink.bits[-1]), octave.eq(0)),
            If(fsm.ongoing("NORMALISE") & ~normal, tail.eq(tail << 1), octave.eq(octave + 1)),
            If(fsm.ongoing("LOOKUP"),
                total.eq(Cat(C(1 << FRACTION_BITS - 1, FRACTION_BITS), port.dat_r[SLOPE_BITS:])),
                slope.eq(port.dat_r[:SLOPE_BITS]),
                fraction.eq(tail[after - FRACTION_BITS:after]),
                left.eq(FRACTION_BITS),
            ),
            If(fsm.ongoing("MULTIPLY"),
                If(fraction[0], total.eq(total - slope)),
                slope.eq(slope << 1), fraction.eq(fraction >> 1), left.eq(left - 1),
            ),
        ]


class GaussianSource(LiteXModule):
    """Noise by counter: z(seed0, seed1, element, step), bit-exact with ``gaussian_model.gaussian``.

    sink ``element``, ``step``; source ``z``: Q3.12 in 16 bits, in order. Seeds must be stable.
    One value in 16 cycles (more only after five leading zeros), first after about 28; a value not taken holds the
    next ones off.
    """

    def __init__(self):
        self.seed0, self.seed1 = Signal(WORD_BITS), Signal(WORD_BITS)
        self.sink   = sink   = stream.Endpoint([("element", WORD_BITS), ("step", WORD_BITS)])

        # # #

        self.threefry = threefry = Threefry()
        self.inverse = inverse = InverseCdf()
        self.source = inverse.source
        self.comb += [
            threefry.key0.eq(self.seed0), threefry.key1.eq(self.seed1),
            sink.ready.eq(threefry.sink.ready), threefry.sink.valid.eq(sink.valid),
            threefry.sink.ctr0.eq(sink.element), threefry.sink.ctr1.eq(sink.step),
            threefry.source.connect(inverse.sink),
        ]
