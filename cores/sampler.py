"""SAMPLE: one sampler update of int16 latents, the gateware of ``sampler_model``.

Elements are done one after the other with one multiplier, a product a cycle:

    slot   0            1      2       3        4      5       6          7      8
           w*(ec - eu)  c1*x   d*m     c2*eps   c*x    b*eps   sigma*z    a*h    a*h, upper part
    then   eps          h              h        x'     x'      x'         x'     x' (only if h is beyond 18 bits)

Words are read while the last element of the word before is computed, and written while the next one's first is.
8 cycles an element (9 with a large h), 17 with noise, and about 20 a descriptor, when the SPM is free. Reads of eu with
w = 1 and of m with d = 0 are left out: they cannot change the result.
A destination may be any of the sources, word by word; it must not overlap later words of a source.
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.arith import outside, saturate, vector
from litediffusion.cores.gaussian import GaussianSource
from litediffusion.cores.iterative import A_BITS, B_BITS, LIMB_BITS
from litediffusion.cores.ports import DescriptorSink, MemoryPort, descriptor_fields
from litediffusion.cores.sampler_model import COEF_FRACTION, GUIDANCE_FRACTION

STATE_BITS = 16         # x, eps, m, z
SOURCES    = ["x", "e", "u", "m"]
RESULTS    = ["d", "md"]
SLOTS      = 9
NOISE_SLOT, LOW_SLOT, HIGH_SLOT = 6, 7, 8
PRODUCT_BITS = A_BITS + B_BITS
TOTAL_BITS   = 64       # a*h and four products
HALF         = 1 << COEF_FRACTION - 1


class Update(LiteXModule):
    """The arithmetic of one element: slots in, (x', m) out three cycles after the last slot.

    ``valid`` issues product ``slot`` of the element (``x``, ``e``, ``u``, ``m``, ``z``), which must be stable from its first
    slot to two cycles after it at least; slots in order, gaps allowed; ``wide`` (valid at LOW_SLOT) asks for HIGH_SLOT.
    ``out`` is 1 when ``next_x`` and ``prediction`` are valid.
    """

    def __init__(self, mul):
        self.valid, self.slot, self.last = Signal(), Signal(max=SLOTS), Signal()
        self.values = {name: Signal((STATE_BITS, True), name=f"value_{name}") for name in SOURCES + ["z"]}
        self.guidance = Signal((A_BITS, True))
        self.coefs = {name: Signal((A_BITS, True), name=f"coef_{name}", reset_less=True) for name in isa.SAMPLE_COEFS}
        self.wide, self.out = Signal(), Signal()
        self.next_x, self.prediction = Signal((STATE_BITS, True)), Signal((STATE_BITS, True))

        # # #

        self.eps = Signal((STATE_BITS, True), reset_less=True)
        self.h = Signal((A_BITS, True), reset_less=True)
        self.add_operands(mul)
        self.add_results(mul.p)

    def add_operands(self, mul):
        v, k, h = self.values, self.coefs, self.h
        difference, low, high = Signal((STATE_BITS + 1, True)), Signal((B_BITS, True)), Signal((A_BITS - LIMB_BITS, True))
        beyond = h[B_BITS - 1:]
        self.comb += [
            difference.eq(v["e"] - v["u"]), high.eq(h[LIMB_BITS:]),
            self.wide.eq((beyond != 0) & (beyond != 2**len(beyond) - 1)),
            If(self.wide, low.eq(h[:LIMB_BITS])).Else(low.eq(h)),
            mul.valid.eq(self.valid),
        ]
        pairs = [(self.guidance, difference), (k["c1"], v["x"]), (k["d"], v["m"]), (k["c2"], self.eps), (k["c"], v["x"]),
                 (k["b"], self.eps), (k["sigma"], v["z"]), (k["a"], low), (k["a"], high)]
        self.comb += Case(self.slot, {i: [mul.a.eq(a), mul.b.eq(b)] for i, (a, b) in enumerate(pairs)})

    def add_results(self, p):
        """What becomes of the product of each slot: two cycles after its issue, and one more for sums."""
        valid, last = Signal(3), Signal(3)
        slots = [self.slot] + vector(len(self.slot), 3, "slot")
        self.sync += [valid.eq(Cat(self.valid, valid)), last.eq(Cat(self.last, last))]
        self.sync += [slot.eq(before) for slot, before in zip(slots[1:], slots)]
        guided, eps = Signal((PRODUCT_BITS + 1, True)), Signal((PRODUCT_BITS + 1, True))
        h_sum, total = Signal((PRODUCT_BITS, True), reset_less=True), Signal((TOTAL_BITS, True), reset_less=True)
        high, h, scaled = Signal((TOTAL_BITS, True)), Signal((PRODUCT_BITS, True)), Signal((TOTAL_BITS, True))
        negative_clip = Signal((A_BITS + 1, True))
        clip = self.coefs["clip"]
        self.comb += [
            guided.eq(p + (self.values["u"] << GUIDANCE_FRACTION) + (1 << GUIDANCE_FRACTION - 1)),
            eps.eq(guided >> GUIDANCE_FRACTION),
            high.eq(p << LIMB_BITS),
            h.eq(h_sum >> COEF_FRACTION), negative_clip.eq(-clip),
            scaled.eq(total >> COEF_FRACTION),
            saturate(self.next_x, scaled, STATE_BITS),
            saturate(self.prediction, self.h, STATE_BITS),
            self.out.eq(valid[2] & last[2]),
        ]
        self.sync += [
            If(valid[1], Case(slots[2], {
                0: saturate(self.eps, eps, STATE_BITS),
                1: h_sum.eq(p + HALF),
                2: total.eq(p + HALF),
                3: h_sum.eq(h_sum + p),
                HIGH_SLOT: total.eq(total + high),
                "default": total.eq(total + p),
            })),
            If(valid[2] & (slots[3] == 3),
                # A negative clip wins over everything, as in numpy.clip.
                If(clip[-1] | (h > clip), self.h.eq(clip)
                ).Elif(h < negative_clip, self.h.eq(negative_clip)
                ).Else(self.h.eq(h)),
            ),
        ]


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
    rd, wr : MemoryPort of the SPM, reads and writes
    param_adr, param_dat : record memory, data one cycle after the address; the address is held while ``active``
    guidance, step, seed0, seed1 : in, registers; stable while ``active``
    """

    def __init__(self, config, mul):
        self.config = c = config
        self.sink = DescriptorSink()
        self.done, self.error, self.error_code = Signal(), Signal(), Signal(8)
        self.halt, self.active, self.stall = Signal(), Signal(), Signal()
        self.rd, self.wr = (MemoryPort(c.spm_words, c.word_bits, name=f"sampler_{n}") for n in ("rd", "wr"))
        self.param_adr, self.param_dat = Signal(max=c.param_words), Signal(8 * isa.PARAM_BYTES)
        self.guidance = Signal((A_BITS, True))
        self.step, self.seed0, self.seed1 = Signal(16), Signal(32), Signal(32)

        # # #

        desc = Signal(isa.DESC_BITS, reset_less=True)
        self.desc, self.d = desc, descriptor_fields(desc, "SAMPLE")
        self.last_lane = self.d.nch - 1
        self.update = Update(mul)
        self.add_control()
        self.add_coefficients()
        self.add_reader()
        self.add_noise()
        self.add_elements()
        self.add_writer()
        self.comb += self.stall.eq((self.rd.valid & ~self.rd.ready) | (self.wr.valid & ~self.wr.ready))

    def add_control(self):
        """Accept, check the six regions one a cycle, run."""
        c, d = self.config, self.d
        names = SOURCES + RESULTS
        region, base, end = Signal(max=len(names)), Signal(16), Signal(17)
        self.run, self.prepare, self.finished = Signal(), Signal(), Signal()
        self.comb += [
            Case(region, {i: base.eq(getattr(d, name)) for i, name in enumerate(names)}),
            end.eq(base + d.n - 1),
            self.error_code.eq(isa.ERROR_CODE["BUFFER_RANGE"]),
        ]
        self.fsm = fsm = ResetInserter()(FSM(reset_state="IDLE"))
        self.comb += [fsm.reset.eq(self.halt), self.active.eq(~fsm.ongoing("IDLE"))]
        fsm.act("IDLE",
            self.sink.ready.eq(~self.halt),
            NextValue(self.desc, self.sink.desc), NextValue(region, 0),
            If(self.sink.valid, NextState("CHECK")),
        )
        fsm.act("CHECK",
            self.prepare.eq(1),
            NextValue(region, region + 1),
            If(outside(end, c.spm_words) | outside(d.p, c.param_words), NextState("FAIL")
            ).Elif(region == len(names) - 1, NextState("RUN")),
        )
        fsm.act("RUN", self.run.eq(~self.halt), If(self.finished, NextState("DONE")))
        fsm.act("DONE", self.done.eq(1), NextState("IDLE"))
        fsm.act("FAIL", self.error.eq(1), NextState("STOPPED"))
        fsm.act("STOPPED")

    def add_coefficients(self):
        """Coefficients from the record memory through a register; what need not be read or drawn."""
        update, n = self.update, self.config.n_lanes
        mult, offset = (f.bits for f in isa.PARAM_LANES)
        self.use, self.noisy = Signal(len(SOURCES)), Signal()
        self.comb += [self.param_adr.eq(self.d.p), update.guidance.eq(self.guidance)]
        for i, name in enumerate(isa.SAMPLE_COEFS):     # there since the third of the six cycles of CHECK
            self.sync += update.coefs[name].eq(self.param_dat[n * mult + i * offset:n * mult + (i + 1) * offset])
        used = {"u": self.guidance != 1 << GUIDANCE_FRACTION, "m": update.coefs["d"] != 0}
        self.sync += If(self.prepare,
            self.use.eq(Cat(*[used.get(name, C(1, 1)) for name in SOURCES])),
            self.noisy.eq(update.coefs["sigma"] != 0),
        )

    def add_reader(self):
        """Read the four source words of the next word while ``loaded`` is 0."""
        d, rd = self.d, self.rd
        self.words = vector(self.config.word_bits, len(SOURCES), "word")
        self.loaded, self.consume = Signal(), Signal()
        source, answered = Signal(max=len(SOURCES) + 1), Signal(max=len(SOURCES) + 1)
        word, base, used = Signal(len(d.n) + 1, reset_less=True), Signal(16), Signal()
        self.comb += [
            Case(source, {i: [base.eq(getattr(d, name)), used.eq(self.use[i])] for i, name in enumerate(SOURCES)}),
            rd.valid.eq(self.run & ~self.loaded & (word != d.n) & used),
            rd.adr.eq(base + word),
        ]
        self.sync += [
            answered.eq(source),
            If(rd.rvalid, Case(answered, {i: w.eq(rd.dat_r) for i, w in enumerate(self.words)})),
            If(~self.run,
                word.eq(0), source.eq(0), self.loaded.eq(0),
            ).Elif(source == len(SOURCES),
                self.loaded.eq(1), source.eq(0), word.eq(word + 1),
            ).Elif(~self.loaded & (word != d.n) & (~used | rd.ready),
                source.eq(source + 1),
            ),
            If(self.consume, self.loaded.eq(0)),
        ]

    def add_noise(self):
        """Ask for one value an element, in order, as long as there are elements."""
        d, n = self.d, self.config.n_lanes
        # A value left over by a halted descriptor must not meet the next one.
        self.noise = noise = ResetInserter()(GaussianSource())
        element, word, lane = (Signal(bits, reset_less=True) for bits in (18, len(d.n) + 1, log2_int(n)))
        self.comb += [
            noise.reset.eq(~self.run),
            noise.seed0.eq(self.seed0), noise.seed1.eq(self.seed1),
            noise.sink.valid.eq(self.run & self.noisy & (word != d.n)),
            noise.sink.element.eq(element), noise.sink.step.eq(self.step),
            self.update.values["z"].eq(noise.source.z),
        ]
        self.sync += If(~self.run,
            element.eq(d.z), word.eq(0), lane.eq(0),
        ).Elif(noise.sink.valid & noise.sink.ready,
            If(lane == self.last_lane,
                lane.eq(0), word.eq(word + 1), element.eq(element + n + 1 - d.nch),
            ).Else(lane.eq(lane + 1), element.eq(element + 1)),
        )

    def add_elements(self):
        """Lane after lane, slot after slot."""
        update = self.update
        n = self.config.n_lanes
        busy, slot, lane = Signal(), Signal(max=SLOTS, reset_less=True), Signal(log2_int(n), reset_less=True)
        held = {name: Signal((STATE_BITS, True), name=f"held_{name}", reset_less=True) for name in SOURCES}
        self.comb += [update.values[name].eq(held[name]) for name in SOURCES]
        wait, issue, finish, load = Signal(), Signal(), Signal(), Signal()
        self.full = Signal()        # the last word's results wait to be written
        self.comb += [
            wait.eq(((slot == NOISE_SLOT) & self.noisy & ~self.noise.source.valid) | ((slot == LOW_SLOT) & self.full)),
            self.noise.source.ready.eq(busy & (slot == NOISE_SLOT)),
            issue.eq(busy & ~wait),
            finish.eq(issue & (((slot == LOW_SLOT) & ~update.wide) | (slot == HIGH_SLOT))),
            load.eq(self.run & self.loaded & (~busy | finish)),
            self.consume.eq(load & (lane == self.last_lane)),
            update.valid.eq(issue), update.slot.eq(slot), update.last.eq(finish),
        ]
        at = lambda word, i: word[i * STATE_BITS:(i + 1) * STATE_BITS]
        self.sync += [
            If(issue, slot.eq(slot + 1)),
            If(finish, busy.eq(0)),
            If(load,
                busy.eq(1), slot.eq(0),
                lane.eq(Mux(lane == self.last_lane, 0, lane + 1)),
                Case(lane, {i: [held[name].eq(at(word, i)) for name, word in zip(SOURCES, self.words)]
                            for i in range(n)}),
            ),
            If(~self.run, busy.eq(0), lane.eq(0)),
        ]

    def add_writer(self):
        """Collect a word's results, write d, then md."""
        d, wr, update, n = self.d, self.wr, self.update, self.config.n_lanes
        results = {name: vector(STATE_BITS, n, f"result_{name}") for name in RESULTS}
        lane, second, word = Signal(log2_int(n), reset_less=True), Signal(), Signal(len(d.n), reset_less=True)
        self.comb += [
            wr.valid.eq(self.run & self.full), wr.we.eq(2**len(wr.we) - 1),
            wr.adr.eq(Mux(second, d.md, d.d) + word),
            wr.dat_w.eq(Mux(second, Cat(*results["md"]), Cat(*results["d"]))),
            self.finished.eq(wr.valid & wr.ready & second & (word == d.n - 1)),
        ]
        self.sync += [
            If(update.out,
                Case(lane, {i: [results["d"][i].eq(update.next_x), results["md"][i].eq(update.prediction)]
                            for i in range(n)}),
                If(lane == self.last_lane, lane.eq(0), self.full.eq(1)).Else(lane.eq(lane + 1)),
            ),
            If(wr.valid & wr.ready,
                second.eq(~second),
                If(second, self.full.eq(0), word.eq(word + 1)),
            ),
            # Lanes without a channel are never collected and stay 0.
            If(self.prepare, *[r.eq(0) for name in RESULTS for r in results[name]], lane.eq(0), word.eq(0)),
            If(~self.run, second.eq(0), self.full.eq(0)),
        ]
