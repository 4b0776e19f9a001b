"""SAMPLE: one sampler update of int16 latents, the gateware of ``sampler_model``.

Lanes are done one after the other, from the last one with a channel to lane 0, each by a sequence of SPM reads and products
with the accumulator of ``ScalarUnit``, whose sums are all rounded and shifted by 14:

    eps   w * 4e, and with guidance - w * 4u + 2^14 * u
    h     c2 * eps + c1 * x, then h - clip or h + clip by its sign; beyond it, clip or -clip instead
    z     2^14 * value - slope * 64 * fraction
    x'    a * h (two digits) + c * x + b * eps + d * m + sigma * z

33 cycles a lane, 7 more with guidance, 4 with d, 4 if clipped; 63 with noise, which is drawn meanwhile (two more for each of its
leading zeros); about 10 a descriptor, when the SPM is free. Reads of u with w = 1 and of m with d = 0 are left out: they
cannot change the result. A word's results are written while the next word is computed.
A destination may be any of the sources, word by word; it must not overlap later words of a source.
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.arith import choose, outside, saturate
from litediffusion.cores.gaussian import GaussianSource
from litediffusion.cores.ports import DescriptorSink, MemoryPort, descriptor_fields
from litediffusion.cores.sampler_model import COEF_FRACTION, GUIDANCE_FRACTION
from litediffusion.cores.scalar import A_BITS, ADD, B_BITS, LIMB_BITS, START, START_HALF, UP

STATE_BITS = 16         # x, eps, m, z
SOURCES    = ["x", "e", "u", "m"]
RESULTS    = ["d", "md"]
ONE        = 1 << COEF_FRACTION
MINUS_ONE  = (1 << B_BITS) - ONE
COEF       = {name: i for i, name in enumerate(isa.SAMPLE_COEFS)}


class Results(LiteXModule):
    """A word's results, lane by lane from the last one, then written: the new state to d, the prediction to md.

    push : in, take ``state`` and ``prediction`` as lane 0, the others move up; ``last``: write them (``idle`` must be 1)
    port_valid, port_second, taken : out, out, in: write ``word``, to md if second; it is taken
    idle : out, nothing is written; pushing is allowed
    """

    def __init__(self, lanes):
        self.push, self.last = Signal(), Signal()
        self.state, self.prediction = (Signal((STATE_BITS, True), name=name) for name in ("state", "prediction"))
        self.valid, self.second, self.taken = Signal(), Signal(), Signal()
        self.word = word = Signal(STATE_BITS * lanes, reset_less=True)
        self.idle = Signal()
        self.clear = Signal()

        # # #

        other = Signal(STATE_BITS * lanes, reset_less=True)
        top = slice(STATE_BITS * (lanes - 1), STATE_BITS * lanes)
        following, left = Signal(STATE_BITS), Signal(max=lanes, reset_less=True)
        self.fsm = fsm = ResetInserter()(FSM(reset_state="IDLE"))
        shift, empty = Signal(), Signal()
        self.comb += [
            fsm.reset.eq(self.clear),
            If(self.idle, following.eq(self.state)).Else(following.eq(other[top])),
            empty.eq(self.clear | (self.valid & self.second & self.taken)),
        ]
        self.sync += [
            If(empty, word.eq(0), other.eq(0)
            ).Elif(shift, word.eq(Cat(following, word)), other.eq(Cat(self.prediction, other))),
        ]
        fsm.act("IDLE", self.idle.eq(1), shift.eq(self.push), If(self.push & self.last, NextState("STATES")))
        fsm.act("STATES", self.valid.eq(1), NextValue(left, lanes - 1), If(self.taken, NextState("MOVE")))
        fsm.act("MOVE", shift.eq(1), NextValue(left, left - 1), If(left == 0, NextState("PREDICTIONS")))
        fsm.act("PREDICTIONS", self.valid.eq(1), self.second.eq(1), If(self.taken, NextState("IDLE")))


class Sampler(LiteXModule):
    """The SAMPLE unit.

    Attributes
    ----------
    sink : DescriptorSink, in. Taken when the unit is idle; fields must have passed ``validate.check_descriptor``.
    done : out, pulse: the descriptor has completed, its last word is written
    error, error_code : out, pulse with isa.ERROR_CODE["BUFFER_RANGE"]: the record or an SPM word lies outside its memory.
        Nothing is accessed and the unit stays stopped until ``halt`` or a reset.
    halt : in, forget the descriptor; nothing is accessed while 1
    active : out, a descriptor is being executed
    stall : out, waiting for the SPM
    spm : MemoryPort of the SPM, reads and writes
    param_adr : address of the record memory, held while ``active``; the data go to the arithmetic unit
    port : ScalarPort of this unit
    guidance, step, seed0, seed1 : in, registers; stable while ``active``
    """

    def __init__(self, config, port):
        self.config = c = config
        self.sink = DescriptorSink()
        self.done, self.error, self.error_code = Signal(), Signal(), Signal(8)
        self.halt, self.active, self.stall = Signal(), Signal(), Signal()
        self.spm = MemoryPort(c.spm_words, c.word_bits, name="sampler_spm")
        self.param_adr = Signal(max=c.param_words)
        self.port = port
        self.guidance = Signal((A_BITS, True))
        self.step, self.seed0, self.seed1 = Signal(16), Signal(32), Signal(32)

        # # #

        desc = Signal(isa.DESC_BITS, reset_less=True)
        self.desc, self.d = desc, descriptor_fields(desc, "SAMPLE")
        self.fsm = ResetInserter()(FSM(reset_state="IDLE"))
        self.comb += [
            self.fsm.reset.eq(self.halt), self.active.eq(~self.fsm.ongoing("IDLE")), self.param_adr.eq(self.d.p),
            self.error_code.eq(isa.ERROR_CODE["BUFFER_RANGE"]),
            self.stall.eq(self.spm.valid & ~self.spm.ready),
        ]
        self.add_memory()
        self.add_products()
        self.add_noise()
        self.add_start()
        self.add_eps()
        self.add_prediction()
        self.add_state()

    def add_memory(self):
        """SPM accesses: the word of a source, from which ``value`` takes a lane, or results, which come first.

        The address is registered on its way: sums and arbiter would be a long path together.
        """
        c, d, spm = self.config, self.d, self.spm
        names = SOURCES + RESULTS
        self.results = results = Results(c.n_lanes)
        self.source, self.word = Signal(max=len(names)), Signal(len(d.n) + 1, reset_less=True)
        self.lane, self.value = Signal(log2_int(c.n_lanes), reset_less=True), Signal((STATE_BITS, True), reset_less=True)
        self.read, self.was_read, self.write_word = Signal(), Signal(), Signal(len(d.n), reset_less=True)
        region, base, offset = Signal(max=len(names)), Signal(16), Signal(len(d.n) + 1)
        self.end = Signal(17)
        pending, writing, granted = Signal(), Signal(reset_less=True), Signal()
        self.comb += [
            results.clear.eq(~self.active | self.halt), granted.eq(spm.valid & spm.ready),
            results.taken.eq(granted & writing), self.was_read.eq(granted & ~writing),
            If(results.valid,
                region.eq(Mux(results.second, names.index("md"), names.index("d"))), offset.eq(self.write_word),
            ).Else(region.eq(self.source), offset.eq(self.word)),
            base.eq(choose(region, [getattr(d, name) for name in names])),
            self.end.eq(base + offset),
            spm.valid.eq(pending & ~self.halt), spm.we.eq(Replicate(writing, len(spm.we))), spm.dat_w.eq(results.word),
        ]
        at = lambda i: spm.dat_r[i * STATE_BITS:(i + 1) * STATE_BITS]
        self.sync += [
            If(~pending, spm.adr.eq(self.end), writing.eq(results.valid)),
            pending.eq(~self.halt & ~granted & (pending | results.valid | self.read)),
            If(spm.rvalid, self.value.eq(choose(self.lane, [at(i) for i in range(c.n_lanes)]))),
            If(results.idle, self.write_word.eq(self.word)),
        ]

    def add_products(self):
        """Products go to the port a cycle after their state, together with the coefficient that was in ``coef``."""
        port = self.port
        self.issue, self.by_coef, self.coef = Signal(), Signal(), Signal(max=len(COEF), reset_less=True)
        self.mode, self.a, self.b = Signal(2), Signal((A_BITS, True)), Signal((B_BITS, True))
        self.settled = Signal()
        issued = Signal()
        self.limited = Signal((STATE_BITS, True))
        shifted = Signal((len(port.acc) - COEF_FRACTION, True))
        self.comb += [
            port.valid.eq(issued), port.offset_lane.eq(self.coef),
            self.settled.eq(~issued & ~port.busy),
            shifted.eq(port.acc >> COEF_FRACTION), saturate(self.limited, shifted, STATE_BITS),
        ]
        a = Signal((A_BITS, True), reset_less=True)
        self.sync += [
            issued.eq(self.issue), port.by_offset.eq(self.by_coef), port.mode.eq(self.mode), port.b.eq(self.b), a.eq(self.a),
        ]
        self.comb += port.a.eq(a)

    def multiply(self, mode, b, a=None):
        """Statements that issue a product; without ``a`` it is the selected coefficient."""
        return [self.issue.eq(1), self.mode.eq(mode), self.b.eq(b), self.by_coef.eq(1) if a is None else self.a.eq(a)]

    def select(self, name):
        """Statement: the coefficient of the states that follow."""
        return NextValue(self.coef, COEF[name])

    def add_noise(self):
        """Noise of the lane at hand, drawn as soon as the lane is begun."""
        d = self.d
        self.noisy = Signal(reset_less=True)
        self.noise = noise = ResetInserter()(GaussianSource())
        self.comb += [
            noise.reset.eq(~self.active | self.halt), noise.seed0.eq(self.seed0), noise.seed1.eq(self.seed1),
            noise.sink.element.eq(d.z + Cat(self.lane, self.word[:len(d.n)])), noise.sink.step.eq(self.step),
        ]

    def add_start(self):
        """Accept; check the six regions, one a cycle; see what need not be read or drawn."""
        fsm, c, d, port = self.fsm, self.config, self.d, self.port
        self.use = {name: Signal(name=f"use_{name}", reset_less=True) for name in ("u", "m")}
        number, size = Signal(max=len(SOURCES + RESULTS), reset_less=True), log2_int(c.spm_words)
        # Not before the last lane's result is out, and the next lane selected.
        self.comb += self.noise.sink.valid.eq(self.noisy & ~fsm.ongoing("RESULT"))
        fsm.act("IDLE",
            self.sink.ready.eq(~self.halt),
            NextValue(self.desc, self.sink.desc), NextValue(number, 0), NextValue(self.noisy, 0), NextValue(self.coef, 0),
            If(self.sink.valid, NextState("COUNT")),
        )
        fsm.act("COUNT", NextValue(self.word, d.n), NextState("CHECK"))
        # d and sigma are selected in checks 2 and 3 and there in checks 4 and 5; the region's end is base + n.
        fsm.act("CHECK",
            self.source.eq(number), NextValue(self.coef, number + COEF["d"] - 2), NextValue(number, number + 1),
            If(number == 4, NextValue(self.use["m"], port.offset != 0)),
            If(number == 5,
                NextValue(self.noisy, port.offset != 0), NextValue(self.use["u"], self.guidance != 1 << GUIDANCE_FRACTION),
                NextValue(self.word, 0), NextValue(self.lane, d.nch - 1), NextState("LANE"),
            ),
            If(outside(d.p, c.param_words) | (outside(self.end, c.spm_words) &
                ((self.end[size + 1:] != 0) | (self.end[:size] != 0))), NextState("FAIL")),
        )
        fsm.act("DONE", self.done.eq(1), NextState("IDLE"))
        fsm.act("FAIL", self.error.eq(1), NextState("STOPPED"))
        fsm.act("STOPPED")

    def read_source(self, state, name, following):
        """States ``state``, in which the lane's value of a source is read, and the one in which it arrives."""
        self.fsm.act(state, self.source.eq(SOURCES.index(name)), self.read.eq(1), If(self.was_read, NextState(f"{state}_DATA")))
        self.fsm.act(f"{state}_DATA", If(self.spm.rvalid, NextState(following)))

    def add_eps(self):
        """eps = sat16(rshift(4w*(e - u) + 2^14*u, 14)), states LANE to EPS."""
        fsm, value, w = self.fsm, self.value, self.guidance
        self.eps = Signal((STATE_BITS, True), reset_less=True)
        scaled, inverse = Signal((B_BITS, True)), Signal((B_BITS, True))
        self.comb += [scaled.eq(value << COEF_FRACTION - GUIDANCE_FRACTION), inverse.eq(~scaled)]
        fsm.act("LANE", If(self.use["u"], NextState("READ_U")).Else(NextState("READ_E")))
        self.read_source("READ_U", "u", "MINUS_U")
        fsm.act("MINUS_U", *self.multiply(START_HALF, inverse, w), NextState("MINUS_1"))      # -4u = ~4u + 1
        fsm.act("MINUS_1", *self.multiply(ADD, 1, w), NextState("PLUS_U"))
        fsm.act("PLUS_U", *self.multiply(ADD, value, ONE), NextState("READ_E"))
        self.read_source("READ_E", "e", "PLUS_E")
        fsm.act("PLUS_E", *self.multiply(Mux(self.use["u"], ADD, START_HALF), scaled, w), NextState("READ_X"))
        self.read_source("READ_X", "x", "EPS")
        fsm.act("EPS", If(self.settled, NextValue(self.eps, self.limited), self.select("c2"), NextState("H_EPS")))

    def add_prediction(self):
        """h = clip(rshift(c1*x + c2*eps, 14)), states H_EPS to CLIPPED; ``prediction`` is its limited form."""
        fsm, port, acc, clip = self.fsm, self.port, self.port.acc, self.port.offset
        self.h, negative = Signal(A_BITS, reset_less=True), Signal(reset_less=True)
        self.prediction = Signal((STATE_BITS, True), reset_less=True)
        beyond = Signal()
        take = [NextValue(self.h, acc[COEF_FRACTION:COEF_FRACTION + A_BITS]), NextValue(self.prediction, self.limited)]
        fsm.act("H_EPS", *self.multiply(START_HALF, self.eps), self.select("c1"), NextState("H_X"))
        fsm.act("H_X", *self.multiply(ADD, self.value), self.select("clip"), NextState("H"))
        fsm.act("H", If(self.settled, *take, NextValue(negative, acc[-1]), NextState("LIMIT")))
        fsm.act("LIMIT", *self.multiply(ADD, Mux(negative, ONE, MINUS_ONE)), NextState("COMPARE"))
        # A negative clip wins over everything, as in numpy.clip.
        self.comb += beyond.eq(clip[-1] | Mux(negative, acc[-1], ~acc[-1] & (acc[COEF_FRACTION:] != 0)))
        drawn = [self.select("a"), If(self.noisy, NextState("NOISE")).Else(NextState("A_HIGH"))]
        fsm.act("COMPARE", If(self.settled, If(beyond, NextState("CLIP")).Else(*drawn)))
        fsm.act("CLIP", *self.multiply(START, Mux(negative & ~clip[-1], MINUS_ONE, ONE)), NextState("CLIPPED"))
        fsm.act("CLIPPED", If(self.settled, *take, *drawn))

    def add_state(self):
        """z, then x' = sat16(rshift(a*h + c*x + b*eps + d*m + sigma*z, 14)), states NOISE to RESULT."""
        fsm, d, noise, results = self.fsm, self.d, self.noise.source, self.results
        z, half = Signal((STATE_BITS, True), reset_less=True), Signal(reset_less=True)
        high, flipped = Signal((LIMB_BITS, True)), Signal((STATE_BITS, True))
        fraction = Signal(B_BITS)
        self.comb += [high.eq(self.h[LIMB_BITS:]), fraction.eq(Cat(C(0, 6), noise.fraction)),
                      flipped.eq(z ^ Replicate(noise.negative, STATE_BITS))]
        fsm.act("NOISE", If(noise.valid, *self.multiply(START_HALF, ONE, noise.value), NextState("SLOPE")))
        fsm.act("SLOPE", *self.multiply(ADD, -fraction, noise.slope), NextState("Z"))
        fsm.act("Z", If(self.settled, NextValue(z, self.limited), NextState("A_HIGH")))
        fsm.act("A_HIGH", *self.multiply(START, high), NextState("A_LOW"))
        fsm.act("A_LOW", *self.multiply(UP, self.h[:LIMB_BITS]), NextState("HALF"))
        fsm.act("HALF", *self.multiply(ADD, 1, ONE // 2), self.select("c"), NextState("C_X"))
        fsm.act("C_X", *self.multiply(ADD, self.value), self.select("b"), NextState("B_EPS"))
        sigma = [self.select("sigma"), If(self.noisy, NextState("SIGMA_Z")).Else(NextState("RESULT"))]
        fsm.act("B_EPS", *self.multiply(ADD, self.eps), If(self.use["m"], self.select("d"), NextState("READ_M")).Else(*sigma))
        self.read_source("READ_M", "m", "D_M")
        fsm.act("D_M", *self.multiply(ADD, self.value), *sigma)
        # -z = ~z + 1
        fsm.act("SIGMA_Z", *self.multiply(ADD, flipped), NextState("SIGMA_1"))
        fsm.act("SIGMA_1", *self.multiply(ADD, noise.negative), noise.ready.eq(1), NextState("RESULT"))
        self.comb += [results.state.eq(self.limited), results.prediction.eq(self.prediction), results.last.eq(self.lane == 0)]
        fsm.act("RESULT",
            If(self.settled & results.idle,
                results.push.eq(1), NextValue(self.lane, self.lane - 1), NextState("LANE"),
                If(self.lane == 0,
                    NextValue(self.lane, d.nch - 1), NextValue(self.word, self.word + 1),
                    If(self.word == d.n - 1, NextState("LAST")),
                ),
            ),
        )
        fsm.act("LAST", If(results.idle, NextState("DONE")))
