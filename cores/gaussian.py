"""Gaussian source: the gateware of ``gaussian_model``, up to the interpolation, which SAMPLE's multiplier does.

    bits   Threefry-2x32-20 of counter (element, step) and key (seed0, seed1), first output word
    z      sign, octave by leading zeros, 16 segments an octave with linear interpolation:
           |z| = (value * 256 - slope * fraction + 128) >> 8

Ref: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores.arith import choose
from litediffusion.cores.gaussian_model import PARITY, ROTATIONS, ROUNDS
from litediffusion.cores.tables import GAUSS_OCTAVES, GAUSS_STEPS, gauss_table

WORD_BITS = 32
TAIL_BITS = WORD_BITS - 1       # all but the sign
FRACTION_BITS = 8               # of the interpolation
VALUE_BITS = 15                 # largest |z| is 5.4 in Q3.12
SLOPE_BITS = 8                  # slopes are negative; their magnitude is stored
GROUP_ROUNDS = 4                # rounds between two injections of the key
INJECTIONS = ROUNDS // GROUP_ROUNDS + 1


class Words(LiteXModule):
    """Threefry's words x0 and x1 with one adder: x0 or x1 + (x1, a key word, ``small`` or their sum).

    total = (from1 ? x1 : x0) + with1 * x1 + key + small;   key: 0, seed0, seed1 or PARITY ^ seed0 ^ seed1 (bits of ``keys``)
    set0: x0 <- total;   set1: x1 <- total, or total ^ (x1 rotated by ROTATIONS[rotation]) with ``mix``;   clear: both <- 0
    """

    def __init__(self):
        self.seeds = [Signal(WORD_BITS, name=f"seed{i}") for i in range(2)]
        self.from1, self.with1, self.keys, self.small = Signal(), Signal(), Signal(2), Signal(WORD_BITS)
        self.set0, self.set1, self.mix, self.clear = Signal(), Signal(), Signal(), Signal()
        self.rotation = Signal(3)
        self.x0 = x0 = Signal(WORD_BITS, reset_less=True)

        # # #

        x1 = Signal(WORD_BITS, reset_less=True)
        key, addend, total, rotated = (Signal(WORD_BITS, name=name) for name in ("key", "addend", "total", "rotated"))
        part = [Replicate(bit, WORD_BITS) for bit in self.keys]
        self.comb += [
            key.eq((self.seeds[0] & part[0]) ^ (self.seeds[1] & part[1]) ^ (PARITY & part[0] & part[1])),
            addend.eq(key ^ (x1 & Replicate(self.with1, WORD_BITS)) ^ self.small),      # at most one is not 0
            total.eq(Mux(self.from1, x1, x0) + addend),
            rotated.eq(choose(self.rotation, [Cat(x1[WORD_BITS - r:], x1[:WORD_BITS - r]) for r in ROTATIONS])),
        ]
        self.sync += [
            If(self.set0, x0.eq(total)), If(self.set1, x1.eq(total ^ (rotated & Replicate(self.mix, WORD_BITS)))),
            If(self.clear, x0.eq(0), x1.eq(0)),
        ]


class GaussianSource(LiteXModule):
    """Noise by counter: the magnitude's segment and sign of z(seed0, seed1, element, step).

    sink ``element``, ``step`` (held until taken); source ``value``, ``slope``, ``fraction``, ``negative``, held until taken.
    Seeds must be stable. The sink's word is taken with the source's. 43 cycles a word and two for each leading zero of
    bits[30:0] (one on average, 23 at most).
    """

    def __init__(self):
        self.seed0, self.seed1 = Signal(WORD_BITS), Signal(WORD_BITS)
        self.sink   = sink   = stream.Endpoint([("element", WORD_BITS), ("step", WORD_BITS)])
        self.source = source = stream.Endpoint([("value", VALUE_BITS), ("slope", SLOPE_BITS), ("fraction", FRACTION_BITS),
                                                ("negative", 1)])

        # # #

        self.words = words = Words()
        self.fsm = FSM(reset_state="IDLE")
        self.octave, self.negative = Signal(max=GAUSS_OCTAVES, reset_less=True), Signal(reset_less=True)
        self.comb += [words.seeds[0].eq(self.seed0), words.seeds[1].eq(self.seed1)]
        self.add_bits()
        self.add_segment()

    def add_bits(self):
        """Threefry: the counter, then six injections with four rounds between: states IDLE to ROUND."""
        fsm, words, sink = self.fsm, self.words, self.sink
        number, turn = Signal(max=INJECTIONS, reset_less=True), Signal(2, reset_less=True)
        key_words = [1, 2, 3]       # ``keys`` of the key's words
        keys = lambda first: Case(number, {s: words.keys.eq(key_words[(s + first) % 3]) for s in range(INJECTIONS)})
        self.comb += words.rotation.eq(Cat(turn, ~number[0]))      # rounds after injections 0, 2, 4 begin with the first
        fsm.act("IDLE", words.clear.eq(1), NextValue(number, 0), NextValue(turn, 0), If(sink.valid, NextState("ELEMENT")))
        fsm.act("ELEMENT", words.small.eq(sink.element), words.set0.eq(1), NextState("STEP"))
        fsm.act("STEP", words.from1.eq(1), words.small.eq(sink.step), words.set1.eq(1), NextState("INJECT0"))
        fsm.act("INJECT0",
            keys(0), words.set0.eq(1),
            If(number == INJECTIONS - 1, NextState("SIGN")).Else(NextState("INJECT1")),
        )
        fsm.act("INJECT1", keys(1), words.from1.eq(1), words.set1.eq(1), NextState("COUNT"))
        fsm.act("COUNT",
            words.from1.eq(1), words.small.eq(number), words.set1.eq(1), NextValue(number, number + 1), NextState("ROUND"))
        fsm.act("ROUND",
            words.with1.eq(1), words.mix.eq(1), words.set0.eq(1), words.set1.eq(1),
            NextValue(turn, turn + 1),
            If(turn == GROUP_ROUNDS - 1, NextState("INJECT0")),
        )

    def add_segment(self):
        """Sign, octave, then the table: states SIGN to READY."""
        fsm, words, source, octave = self.fsm, self.words, self.source, self.octave
        tail = words.x0
        after = TAIL_BITS - 1 - log2_int(GAUSS_STEPS)       # bits of the mantissa below the segment number
        value, slopes = gauss_table()
        entries = [int(v) << SLOPE_BITS | int(-s) for v, s in zip(value, slopes)]
        rom = Memory(VALUE_BITS + SLOPE_BITS, len(entries), init=entries)
        port = rom.get_port()
        self.specials += rom, port
        self.comb += [
            port.adr.eq(Cat(tail[after:TAIL_BITS - 1], octave)),
            source.value.eq(port.dat_r[SLOPE_BITS:]), source.slope.eq(port.dat_r[:SLOPE_BITS]),
            source.fraction.eq(tail[after - FRACTION_BITS:after]), source.negative.eq(self.negative),
        ]
        fsm.act("SIGN", NextValue(self.negative, tail[-1]), NextValue(octave, 0), NextState("OCTAVE"))
        # Doubled by way of x1.
        fsm.act("OCTAVE",
            words.set1.eq(1),
            If(tail[TAIL_BITS - 1] | (octave == GAUSS_OCTAVES - 1), NextState("LOOKUP")).Else(NextState("DOUBLE")),
        )
        fsm.act("DOUBLE", words.with1.eq(1), words.set0.eq(1), NextValue(octave, octave + 1), NextState("OCTAVE"))
        fsm.act("LOOKUP", NextState("READY"))
        fsm.act("READY",
            source.valid.eq(1), self.sink.ready.eq(source.ready),
            If(source.ready, NextState("IDLE")),
        )
