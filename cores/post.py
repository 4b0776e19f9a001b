"""POST: drains accumulators or activations through requantise, second operand, activation and output quantisation.

The instruction is defined by ``isa.OPS["POST"]`` and ``Machine.post``; the arithmetic is in ``post_lanes``. An element
(n_lanes values) goes through the post_lanes lanes in ``beats`` = n_lanes / post_lanes cycles.

    issue             addresses of an element are checked and its reads granted; its further beats follow
    stage 0           addresses are in the memories' registers
    stage 1           source, operand, parameter record and row record arrive
    stages 2, 3       BeatSources: words held, the beat's values picked
    stages 1..21      PostLanes, no stalls
    stage 21          out enters the output queue; statistics leave it for RowSums, RowReciprocal and ChannelSums
    write             out and its address leave the queues when the memory grants

Throughput one element in ``beats`` cycles, less when a memory does not grant or the ends of two rows with ``rowsum`` are
closer than a RowReciprocal takes. A descriptor of n elements without refusals takes from ``sink.ready`` to ``done``
n * beats + 25 cycles; with channel sums + 26, row sums + 26 + log2(post_lanes), at least 1, their reciprocals 18 more (10 if beats is
1), row maxima + 8 + log2(post_lanes). The next descriptor can be taken in the following cycle. Nothing stalls the lanes:
an element is issued only if the output queue has room for it.

Within a descriptor reads run up to OUTPUT_DEPTH + 2 elements ahead of writes: a destination may be an element's own
source or operand or that of an earlier element, not that of a later one.
"""

from migen import *
from migen.genlib.fifo import SyncFIFO

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.arith import outside, vector
from litediffusion.cores.isa import DST, OUT, ROP, SRC
from litediffusion.cores.multiply import square
from litediffusion.cores.ports import DescriptorSink, MemoryPort, descriptor_fields
from litediffusion.cores.post_address import AffineAddress, Loops
from litediffusion.cores.post_lanes import OUT_BITS, OUT_STAGE, PostLanes
from litediffusion.cores.post_source import BeatCoefficients, BeatSources
from litediffusion.cores.post_stat import ChannelSums, RowMaximum, RowReciprocal, RowSums
from litediffusion.cores.row import RowPort, StatPort

MAX_STAGE = 4           # where the row maximum takes the source
OUTPUT_DEPTH = 32       # beats; above the pipeline's length, so that a free memory is written every cycle
ADDRESS_BITS = 18


class Post(LiteXModule):
    """The POST unit.

    Attributes
    ----------
    sink : DescriptorSink, in. Taken when the unit is idle; fields must have passed ``validate.check_descriptor``.
    done : out, pulse: the descriptor has completed, its last word and record are written
    error, error_code : out, pulse with isa.ERROR_CODE["BUFFER_RANGE"]: an address lies outside its memory. The access
        is not made and the unit stays stopped until it is reset.
    halt : in, no write is made while 1, and no read in the cycle after
    active : out, a descriptor is being executed
    stall : out, active, but no element issued in this cycle
    acc : MemoryPort, accumulator entries of n_lanes x int32 (read)
    src, opr, wr : MemoryPort of the SPM: source, second operand (read), destination (write)
    wwr : MemoryPort of the WBUF: destination (write)
    param_adr, param_dat : record memory, its address a register, data one cycle after it
    stat, row : StatPort, RowPort; selected for this unit while ``active``
    """

    def __init__(self, config):
        self.config = c = config
        self.beats = c.post_beats
        self.sink = DescriptorSink()
        self.done = Signal()
        self.error = Signal()
        self.error_code = Signal(8)
        self.halt = Signal()
        self.active = Signal()
        self.stall = Signal()
        self.acc = MemoryPort(2 * c.acc_words, 32 * c.n_lanes, name="post_acc")
        self.src, self.opr, self.wr = (MemoryPort(c.spm_words, c.word_bits, name=f"post_{n}") for n in ("src", "opr", "wr"))
        self.wwr = MemoryPort(c.wbuf_words, c.word_bits, name="post_wwr")
        self.param_adr = Signal(max=c.param_words)
        self.param_dat = Signal(8 * isa.PARAM_BYTES)
        self.stat, self.row = StatPort(c, name="post_stat"), RowPort(c, name="post_row")

        # # #

        self.add_descriptor()
        self.add_addresses()
        self.add_issue()
        self.add_lanes()
        self.add_sources()
        self.add_statistics()
        self.add_rows()
        self.add_output()
        self.add_control()

    def add_descriptor(self):
        """The descriptor's register and what follows from it for all its elements."""
        desc = Signal(isa.DESC_BITS, reset_less=True)
        self.d = d = descriptor_fields(desc, "POST")
        self.load = load = Signal()         # the cycle after the descriptor was taken
        self.reads_acc = Signal()
        self.reads_operand = Signal()
        self.writes = Signal()
        self.sync += [
            load.eq(self.sink.valid & self.sink.ready),
            If(self.sink.valid & self.sink.ready, desc.eq(self.sink.desc)),
        ]
        self.comb += [
            self.reads_acc.eq(d.src == SRC["ACC"]),
            self.reads_operand.eq((d.rop != ROP["NONE"]) & ~d.rowmax),
            self.writes.eq((d.dst != DST["NONE"]) & ~d.rowmax),
        ]

    def add_addresses(self):
        """Addresses of the element to be issued, and ``bad``: one of them is out of its memory."""
        c, d = self.config, self.d
        self.loops = loops = Loops()
        early = self.beats > 1
        self.bad = Signal()
        self.row_end = Signal()
        self.comb += [
            loops.n0.eq(d.n0), loops.n1.eq(d.n1), loops.n2.eq(d.n2), loops.load.eq(self.load),
            self.row_end.eq(Mux(d.row_loop == 2, loops.end1, (d.row_loop == 1) & loops.end2)),
        ]
        self.a = AffineAddress(loops, d.a, (d.as0, d.as1, d.as2), "a", early)
        self.r = AffineAddress(loops, d.r, (d.rs0, d.rs1, d.rs2), "r", early)
        self.out = AffineAddress(loops, d.d, (d.ds0, d.ds1, d.ds2), "d", early)
        self.p = AffineAddress(loops, d.p, (d.ps0, d.ps1, d.ps2), "p", early)
        self.row_record, next_row = self.add_record("row", d.row, c.row_words, self.row_end)
        _, next_stat = self.add_record("stat", d.stat_rec, c.stat_words, loops.end2)
        # Known when the addresses are: a register too, because every grant depends on it.
        self.sync += If(self.load, self.bad.eq(self.beyond(d.a, d.r, d.d, d.p, d.row, d.stat_rec))
        ).Elif(loops.step, self.bad.eq(self.beyond(self.a.following, self.r.following, self.out.following,
                                                   self.p.following, next_row, next_stat)))

    def beyond(self, a, r, out, p, row, stat):
        """Expression: an element with these addresses and records lies outside a memory that it uses."""
        c, d = self.config, self.d
        return (
            Mux(self.reads_acc, outside(a, 2 * c.acc_words), outside(a, 2 * c.spm_words))
            | (self.reads_operand & outside(r, 2 * c.spm_words))
            | (self.writes & Mux(d.dst == DST["WBUF"], outside(out, 2 * c.wbuf_words), outside(out, 2 * c.spm_words)))
            | (~d.rowmax & outside(p, c.param_words))
            | outside(row, c.row_words)
            | (d.stat & ~d.rowmax & outside(stat, c.stat_words)))

    def add_record(self, name, first, words, end):
        """Number of a record that moves on at every ``end``, and the next one; one bit more than needed, so that
        leaving is seen."""
        bits = max(len(first), log2_int(words)) + 1
        record, following = Signal(bits, name=f"{name}_record"), Signal(bits, name=f"{name}_following")
        self.comb += following.eq(record + end)
        self.sync += If(self.load, record.eq(first)).Elif(self.loops.step, record.eq(following))
        return record, following

    def add_issue(self):
        """Grant bookkeeping: the first beat of an element is issued in the cycle in which its last read is granted.

        The loops step with the last beat, so with more than one they do not depend on the grants of that cycle.
        """
        d, loops, beats = self.d, self.loops, self.beats
        self.running = Signal()
        self.room = Signal()
        self.beat = beat = Signal(max=max(2, beats))
        self.issued = issued = Signal()
        go, open_, granted, src_done, opr_done, src_granted, opr_granted = (
            Signal(name=f"issue_{n}") for n in ("go", "open", "granted", "src_done", "opr_done", "src_granted", "opr_granted"))
        first, waits = Signal(reset=1, name="first_beat"), Signal(name="row_waits")
        self.row_reciprocal = RowReciprocal(digits=2 if beats == 1 else 1)
        row_wait = Signal(max=self.row_reciprocal.cycles)
        self.comb += [
            # All of it registers, because the memories' addresses wait for it; room is known a cycle late, and kept for that.
            go.eq(self.running & ~self.bad & open_ & first & ~(d.rowsum & self.row_end & waits)),
            self.acc.valid.eq(go & self.reads_acc & ~src_done), self.acc.adr.eq(self.a.address),
            self.src.valid.eq(go & ~self.reads_acc & ~src_done), self.src.adr.eq(self.a.address[1:]),
            self.opr.valid.eq(go & self.reads_operand & ~opr_done), self.opr.adr.eq(self.r.address[1:]),
            src_granted.eq((self.acc.valid & self.acc.ready) | (self.src.valid & self.src.ready)),
            opr_granted.eq(self.opr.valid & self.opr.ready),
            granted.eq(go & (src_done | src_granted) & (~self.reads_operand | opr_done | opr_granted)),
            issued.eq(granted | (beat != 0)),
            loops.step.eq(granted if beats == 1 else beat == beats - 1),
            self.stall.eq(self.active & ~issued),
        ]
        self.sync += [
            src_done.eq((src_done | src_granted) & ~granted),
            opr_done.eq((opr_done | opr_granted) & ~granted),
            open_.eq(~self.halt & (self.room | ~self.writes)),
            If(loops.step & self.row_end, row_wait.eq(self.row_reciprocal.cycles - beats), waits.eq(1)
            ).Elif(row_wait != 0, row_wait.eq(row_wait - 1), waits.eq(row_wait != 1)),
        ]
        if beats > 1:
            self.sync += If(issued, beat.eq(beat + 1), first.eq(beat == beats - 1))

    def add_lanes(self):
        """The lanes with the valid bits, beat numbers and flags of their stages. ``self.stage[k]``: a beat is in stage k."""
        d, loops, beat = self.d, self.loops, self.beat
        pipe = Signal(OUT_STAGE + 1)
        self.stage = [pipe[k] for k in range(OUT_STAGE + 1)]
        # Beats of a rowmax descriptor leave the pipeline where the maximum takes them.
        leave = Cat(*[C(int(k == MAX_STAGE + 1), 1) for k in range(OUT_STAGE + 1)])
        self.sync += pipe.eq(Cat(self.issued, pipe) & ~(leave & Replicate(d.rowmax, OUT_STAGE + 1)))
        inner_first, row_first = Signal(), Signal()
        self.sync += [
            If(self.load, inner_first.eq(1), row_first.eq(1)
            ).Elif(loops.step, inner_first.eq(loops.end2), row_first.eq(self.row_end)),
        ]
        # Rows are reduced over all beats of their elements.
        self.flag = {name: self.delayed(name, value) for name, value in {
            "beat": beat, "inner_first": inner_first, "inner_last": loops.end2,
            "row_first": row_first & (beat == 0), "row_last": self.row_end & (beat == self.beats - 1)}.items()}
        self.pipe = pipe
        self.lanes = lanes = PostLanes(self.config.post_lanes, self.stage, self.config.post_lut_multipliers)
        self.comb += [
            lanes.scalars.adds.eq(d.rop == ROP["ADD"]), lanes.mul.eq(d.rop == ROP["MUL"]),
            lanes.act.eq(d.act), lanes.out_type.eq(d.out),
        ]

    def delayed(self, name, value):
        """``value`` of the issue in stages 0..OUT_STAGE + 1."""
        stages = [Signal(len(value), name=f"pipe_{name}{k}") for k in range(OUT_STAGE + 2)]
        self.sync += [after.eq(before) for before, after in zip([value, *stages], stages)]
        return stages

    def add_sources(self):
        """Words and records to the lanes."""
        c, d, lanes, row = self.config, self.d, self.lanes, self.row
        self.sources = sources = BeatSources(c, self.acc, self.src, self.opr)
        self.coefficients = coefficients = BeatCoefficients(c, lanes, d, self.param_dat, row)
        self.comb += [
            coefficients.beat.eq(self.flag["beat"][1]),
            sources.src_half.eq(self.a.address[0]), sources.opr_half.eq(self.r.address[0]), sources.kind.eq(d.src),
            sources.valid.eq(self.stage[2]), sources.beat.eq(self.flag["beat"][2]),
            *[own.eq(value) for own, value in zip(lanes.a + lanes.r, sources.a + sources.r)],
        ]
        self.sync += [self.param_adr.eq(self.p.address), row.r_adr.eq(self.row_record)]

    def add_statistics(self):
        """Stage 21: squares; then sums by channel and by row."""
        d, out, last = self.d, self.lanes.out, OUT_STAGE + 1
        values, squares = vector((OUT_BITS, True), len(out), f"o{last}"), vector((32, True), len(out), f"q{last}")
        narrow = [Signal((16, True), name=f"o{OUT_STAGE}_{i}") for i in range(len(out))]     # int16 and uint8 fit
        self.comb += [n.eq(o) for n, o in zip(narrow, out)]
        products = [square(self, n, self.config.post_lut_multipliers) for n in narrow]
        valid = self.summed = Signal()
        take = Signal()
        self.comb += take.eq(self.stage[OUT_STAGE] & (d.stat | d.rowsum | d.rowstat))
        self.sync += [
            valid.eq(take),
            If(take, *[v.eq(o) for v, o in zip(values, out)], *[q.eq(p) for q, p in zip(squares, products)]),
        ]
        self.channel_sums = sums = ChannelSums(values, squares, self.stat, self.beats)
        ahead, at = last - sums.AHEAD, lambda name: self.flag[name][last - sums.AHEAD]
        self.comb += [
            sums.valid.eq(valid & d.stat),
            sums.first.eq(self.flag["inner_first"][last]), sums.last.eq(self.flag["inner_last"][last]),
            sums.ahead_beat.eq(at("beat")),
            sums.ahead_end.eq(self.stage[ahead] & at("inner_last") & (at("beat") == self.beats - 1)),
            sums.load.eq(self.load), sums.record.eq(d.stat_rec), sums.accumulate.eq(d.stat_acc),
        ]
        self.row_sums = RowSums(values, squares)
        self.comb += [
            self.row_sums.valid.eq(valid & (d.rowsum | d.rowstat)),
            self.row_sums.first.eq(self.flag["row_first"][last]), self.row_sums.last.eq(self.flag["row_last"][last]),
        ]

    def add_rows(self):
        """Results of a row, written to consecutive row records."""
        d, row, sums, reciprocal = self.d, self.row, self.row_sums, self.row_reciprocal
        self.row_maximum = maximum = RowMaximum(self.lanes.a4)
        self.comb += [
            maximum.valid.eq(self.stage[MAX_STAGE] & d.rowmax),
            maximum.first.eq(self.flag["row_first"][MAX_STAGE]), maximum.last.eq(self.flag["row_last"][MAX_STAGE]),
            reciprocal.start.eq(sums.done & d.rowsum), reciprocal.total.eq(sums.s),
            row.we_max.eq(maximum.done), row.w_max.eq(maximum.value),
            row.we_me.eq(reciprocal.done), row.w_m.eq(reciprocal.m), row.w_e.eq(reciprocal.e),
            row.we_sq.eq(sums.done & d.rowstat & ~d.rowsum), row.w_s.eq(sums.s), row.w_q.eq(sums.q),
        ]
        written = row.we_max | row.we_me | row.we_sq
        self.sync += If(self.load, row.w_adr.eq(d.row)).Elif(written, row.w_adr.eq(row.w_adr + 1))

    def add_output(self):
        """Queues of addresses (from the issue) and results (an element's beats side by side), and the writes."""
        c, d, beats = self.config, self.d, self.beats
        depth = max(16, OUTPUT_DEPTH // beats)
        self.addresses = addresses = SyncFIFO(ADDRESS_BITS, depth)
        self.results = results = SyncFIFO(c.word_bits, depth)
        wide, word, element = d.out == OUT["INT16"], Signal(c.word_bits), Signal(c.word_bits)
        narrow = Cat(*[results.dout[16 * i:16 * i + 8] for i in range(c.n_lanes)])
        values = Cat(*[o[:16] for o in self.lanes.out])
        if beats == 1:
            self.comb += element.eq(values)
        else:
            before = Signal(c.word_bits - len(values), reset_less=True)
            self.comb += element.eq(Cat(before, values))
            self.sync += If(self.stage[OUT_STAGE], before.eq(element[len(values):]))
        self.comb += [
            self.room.eq(addresses.level < depth - 1),
            addresses.din.eq(self.out.address), addresses.we.eq(self.loops.step & self.writes),
            results.din.eq(element),
            results.we.eq(self.stage[OUT_STAGE] & self.writes & (self.flag["beat"][OUT_STAGE] == beats - 1)),
            word.eq(Mux(wide, results.dout, Cat(narrow, narrow))),
            addresses.re.eq((self.wr.valid & self.wr.ready) | (self.wwr.valid & self.wwr.ready)),
            results.re.eq(addresses.re),
        ]
        for port, dst in ((self.wr, DST["SPM"]), (self.wwr, DST["WBUF"])):
            self.comb += [
                port.valid.eq(results.readable & (d.dst == dst) & ~self.halt),
                port.adr.eq(addresses.dout[1:]), port.dat_w.eq(word),
                port.we.eq(Mux(wide, 3, Mux(addresses.dout[0], 2, 1))),
            ]

    def add_control(self):
        """From a descriptor to ``done`` or ``error``."""
        loops, busy = self.loops, Signal()
        self.comb += [
            busy.eq((self.pipe != 0) | self.results.readable | self.summed | self.channel_sums.busy | self.row_sums.busy
                    | self.row_maximum.busy | self.row_reciprocal.busy),
            self.error_code.eq(isa.ERROR_CODE["BUFFER_RANGE"]),
        ]
        self.fsm = fsm = FSM(reset_state="IDLE")
        fsm.act("IDLE",
            self.sink.ready.eq(1),
            If(self.sink.valid, NextState("LOAD")),
        )
        fsm.act("LOAD",
            self.active.eq(1),
            NextState("RUN"),
        )
        fsm.act("RUN",
            self.active.eq(1),
            self.running.eq(1),
            If(self.bad & ~self.halt,
                self.error.eq(1),
                NextState("STOPPED"),
            ).Elif(loops.step & loops.end0,
                NextState("DRAIN"),
            ),
        )
        fsm.act("DRAIN",
            self.active.eq(1),
            If(~busy,
                self.done.eq(1),
                NextState("IDLE"),
            ),
        )
        # Elements issued before the error may still be written; only a reset leads out. (A state without a
        # statement would be dropped from the case and act as IDLE.)
        fsm.act("STOPPED",
            NextState("STOPPED"),
        )
