"""POST: drains accumulators or activations through requantise, second operand, activation and output quantisation.

The instruction is defined by ``isa.OPS["POST"]`` and ``Machine.post``; the arithmetic is in ``post_lanes``.

    issue (stage 0)   addresses of one element (n_lanes values) are checked and its reads granted
    stage 1           source, operand, parameter record and row record arrive
    stages 1..18      PostLanes, no stalls
    stage 18          out enters the output queue; statistics leave it for RowSums, RowReciprocal and ChannelSums
    write             out and its address leave the queues when the memory grants

Throughput one element a cycle, less when a memory does not grant or the ends of two rows with ``rowsum`` are closer
than RECIPROCAL_CYCLES. A descriptor of n elements without refusals takes from ``sink.ready`` to ``done`` n + 21 cycles;
with channel sums n + 22, row sums n + 25, row sums and reciprocals n + 35, row maxima n + 8. The next descriptor can be
taken in the following cycle. Nothing stalls the lanes: an element is issued only if the output queue has room for it.

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
from litediffusion.cores.ports import DescriptorSink, MemoryPort
from litediffusion.cores.post_address import AffineAddress, Loops
from litediffusion.cores.post_lanes import OUT_BITS, OUT_STAGE, PostLanes
from litediffusion.cores.post_stat import RECIPROCAL_CYCLES, ChannelSums, RowMaximum, RowReciprocal, RowSums
from litediffusion.cores.row import RowPort, StatPort
from litediffusion.cores.ports import descriptor_fields

OUTPUT_DEPTH = 32       # above the pipeline's length, so that a free memory is written every cycle
ADDRESS_BITS = 18


class Post(LiteXModule):
    """The POST unit.

    Attributes
    ----------
    sink : DescriptorSink, in. Taken when the unit is idle; fields must have passed ``validate.check_descriptor``.
    done : out, pulse: the descriptor has completed, its last word and record are written
    error, error_code : out, pulse with isa.ERROR_CODE["BUFFER_RANGE"]: an address lies outside its memory. The access
        is not made and the unit stays stopped until it is reset.
    halt : in, no memory access is started while 1
    active : out, a descriptor is being executed
    stall : out, active, but no element issued in this cycle
    acc : MemoryPort, accumulator entries of n_lanes x int32 (read)
    src, opr, wr : MemoryPort of the SPM: source, second operand (read), destination (write)
    wwr : MemoryPort of the WBUF: destination (write)
    param_adr, param_dat : record memory, data one cycle after the address
    stat, row : StatPort, RowPort; selected for this unit while ``active``
    """

    def __init__(self, config):
        self.config = c = config
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
        self.add_coefficients()
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
        self.bad = Signal()
        self.row_end = Signal()
        self.comb += [
            loops.n0.eq(d.n0), loops.n1.eq(d.n1), loops.n2.eq(d.n2), loops.load.eq(self.load),
            self.row_end.eq(Mux(d.row_loop == 2, loops.end1, (d.row_loop == 1) & loops.end2)),
        ]
        self.a = AffineAddress(loops, d.a, (d.as0, d.as1, d.as2), "a")
        self.r = AffineAddress(loops, d.r, (d.rs0, d.rs1, d.rs2), "r")
        self.out = AffineAddress(loops, d.d, (d.ds0, d.ds1, d.ds2), "d")
        self.p = AffineAddress(loops, d.p, (d.ps0, d.ps1, d.ps2), "p")
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
        """Grant bookkeeping: an element is issued in the cycle in which its last read is granted."""
        c, d, loops = self.config, self.d, self.loops
        self.running = Signal()
        self.room = Signal()
        go, src_done, opr_done, src_granted, opr_granted = (Signal(name=f"issue_{n}") for n in
                                                            ("go", "src_done", "opr_done", "src_granted", "opr_granted"))
        row_wait = Signal(max=RECIPROCAL_CYCLES)
        self.comb += [
            go.eq(self.running & ~self.bad & ~self.halt & (self.room | ~self.writes)
                  & ~(d.rowsum & self.row_end & (row_wait != 0))),
            self.acc.valid.eq(go & self.reads_acc & ~src_done), self.acc.adr.eq(self.a.address),
            self.src.valid.eq(go & ~self.reads_acc & ~src_done), self.src.adr.eq(self.a.address[1:]),
            self.opr.valid.eq(go & self.reads_operand & ~opr_done), self.opr.adr.eq(self.r.address[1:]),
            src_granted.eq((self.acc.valid & self.acc.ready) | (self.src.valid & self.src.ready)),
            opr_granted.eq(self.opr.valid & self.opr.ready),
            loops.step.eq(go & (src_done | src_granted) & (~self.reads_operand | opr_done | opr_granted)),
            self.stall.eq(self.active & ~loops.step),
        ]
        self.sync += [
            src_done.eq((src_done | src_granted) & ~loops.step),
            opr_done.eq((opr_done | opr_granted) & ~loops.step),
            If(loops.step & self.row_end, row_wait.eq(RECIPROCAL_CYCLES - 1)
            ).Elif(row_wait != 0, row_wait.eq(row_wait - 1)),
        ]
        inner_first = Signal()
        row_first = Signal()
        self.sync += [
            If(self.load, inner_first.eq(1), row_first.eq(1)
            ).Elif(loops.step, inner_first.eq(loops.end2), row_first.eq(self.row_end)),
        ]
        self.flags = {"inner_first": inner_first, "inner_last": loops.end2, "row_first": row_first, "row_last": self.row_end}

    def add_lanes(self):
        """The lanes with the valid bits and flags of their stages. ``self.stage[k]``: an element is in stage k."""
        d, step = self.d, self.loops.step
        pipe = Signal(OUT_STAGE)
        self.stage = [step] + [pipe[k] for k in range(OUT_STAGE)]
        # Elements of a rowmax descriptor leave the pipeline after stage 2, where the maximum takes them.
        self.sync += pipe.eq(Cat(step, pipe[0], pipe[1] & ~d.rowmax, pipe[2:]))
        self.flag = {}
        for name, value in self.flags.items():
            delayed = Signal(OUT_STAGE + 1, name=f"pipe_{name}")
            self.sync += delayed.eq(Cat(value, delayed))
            self.flag[name] = [value] + [delayed[k] for k in range(OUT_STAGE + 1)]
        self.pipe = pipe
        self.lanes = lanes = PostLanes(self.config.n_lanes, self.stage, self.config.lut_multipliers)
        self.comb += [
            lanes.operand.eq(d.rop != ROP["NONE"]), lanes.mul.eq(d.rop == ROP["MUL"]),
            lanes.act.eq(d.act), lanes.out_type.eq(d.out),
        ]

    def add_sources(self):
        """Stage 1: pick the lanes of source and operand; data granted before the issue wait in a register."""
        c, d = self.config, self.d
        src_fresh = Signal()
        opr_fresh = Signal()
        src_half = Signal()
        opr_half = Signal()
        self.sync += [
            src_fresh.eq((self.acc.valid & self.acc.ready) | (self.src.valid & self.src.ready)),
            opr_fresh.eq(self.opr.valid & self.opr.ready),
            src_half.eq(self.a.address[0]), opr_half.eq(self.r.address[0]),
        ]
        a_held, r_held = vector((32, True), c.n_lanes, "a_held"), vector((8, True), c.n_lanes, "r_held")
        for i in range(c.n_lanes):
            a, low, high, wide = (Signal((bits, True), name=f"src_{n}_{i}") for n, bits in
                                  (("a", 32), ("low", 8), ("high", 8), ("wide", 16)))
            r = Signal((8, True), name=f"opr_r_{i}")
            byte = lambda word, half: word[c.half_bits * half + 8 * i:c.half_bits * half + 8 * i + 8]
            self.comb += [
                low.eq(byte(self.src.dat_r, 0)), high.eq(byte(self.src.dat_r, 1)),
                wide.eq(self.src.dat_r[16 * i:16 * i + 16]),
                If(self.reads_acc, a.eq(self.acc.dat_r[32 * i:32 * i + 32])
                ).Elif(d.src == SRC["INT16"], a.eq(wide)
                ).Elif(src_half, a.eq(high)
                ).Else(a.eq(low)),
                If(opr_half, r.eq(byte(self.opr.dat_r, 1))).Else(r.eq(byte(self.opr.dat_r, 0))),
                If(src_fresh, self.lanes.a[i].eq(a)).Else(self.lanes.a[i].eq(a_held[i])),
                If(opr_fresh, self.lanes.r[i].eq(r)).Else(self.lanes.r[i].eq(r_held[i])),
            ]
            # Without a second operand no element waits after its source was granted.
            self.sync += If(self.reads_operand, If(src_fresh, a_held[i].eq(a)), If(opr_fresh, r_held[i].eq(r)))

    def add_coefficients(self):
        """Stage 1: the parameter record's and the row record's fields."""
        d, lanes, row = self.d, self.lanes, self.row
        self.comb += [
            self.param_adr.eq(self.p.address), row.r_adr.eq(self.row_record),
            If(d.submax, lanes.row_max.eq(row.r_max)), If(d.row_m, lanes.scalars.extra.eq(row.r_e)),
        ]
        fields_of = iter(self.param_fields())
        for signals, of_row, row_value in ((lanes.m, d.row_m, row.r_m), (lanes.o, d.row_o, row.r_o)):
            for signal in signals:
                self.comb += If(of_row, signal.eq(row_value)).Else(signal.eq(next(fields_of)))
        scalars = dict(zip((f.name for f in isa.PARAM_SCALARS), fields_of))
        self.comb += [getattr(lanes.scalars, n).eq(scalars[n]) for n in ("shift", "rshift", "oshift", "rmult", "omult")]

    def param_fields(self):
        """Slices of ``param_dat`` in the order of the record: mult by lane, offset by lane, scalars."""
        bit, slices = 0, []
        for f in [isa.PARAM_LANES[0]] * 8 + [isa.PARAM_LANES[1]] * 8 + isa.PARAM_SCALARS:
            slices.append(self.param_dat[bit:bit + f.bits])
            bit += f.bits
        return slices

    def add_statistics(self):
        """Stage 18: squares; then sums by channel and by row."""
        d, out, last = self.d, self.lanes.out, OUT_STAGE + 1
        values, squares = vector((OUT_BITS, True), len(out), "o19"), vector((32, True), len(out), "q19")
        narrow = [Signal((16, True), name=f"o18_{i}") for i in range(len(out))]     # int16 and uint8 fit
        self.comb += [n.eq(o) for n, o in zip(narrow, out)]
        products = [square(self, n, self.config.lut_multipliers) for n in narrow]
        valid = self.summed = Signal()
        take = Signal()
        self.comb += take.eq(self.stage[OUT_STAGE] & (d.stat | d.rowsum | d.rowstat))
        self.sync += [
            valid.eq(take),
            If(take, *[v.eq(o) for v, o in zip(values, out)], *[q.eq(p) for q, p in zip(squares, products)]),
        ]
        self.channel_sums = sums = ChannelSums(values, squares, self.stat)
        self.comb += [
            sums.valid.eq(valid & d.stat),
            sums.first.eq(self.flag["inner_first"][last]), sums.last.eq(self.flag["inner_last"][last]),
            sums.load.eq(self.load), sums.record.eq(d.stat_rec), sums.accumulate.eq(d.stat_acc),
        ]
        self.row_sums = RowSums(values, squares)
        self.comb += [
            self.row_sums.valid.eq(valid & (d.rowsum | d.rowstat)),
            self.row_sums.first.eq(self.flag["row_first"][last]), self.row_sums.last.eq(self.flag["row_last"][last]),
        ]

    def add_rows(self):
        """Results of a row, written to consecutive row records."""
        d, row, sums = self.d, self.row, self.row_sums
        self.row_maximum = maximum = RowMaximum(self.lanes.a2)
        self.row_reciprocal = reciprocal = RowReciprocal()
        self.comb += [
            maximum.valid.eq(self.stage[2] & d.rowmax),
            maximum.first.eq(self.flag["row_first"][2]), maximum.last.eq(self.flag["row_last"][2]),
            reciprocal.start.eq(sums.done & d.rowsum), reciprocal.total.eq(sums.s),
            row.we_max.eq(maximum.done), row.w_max.eq(maximum.value),
            row.we_me.eq(reciprocal.done), row.w_m.eq(reciprocal.m), row.w_e.eq(reciprocal.e),
            row.we_sq.eq(sums.done & d.rowstat & ~d.rowsum), row.w_s.eq(sums.s), row.w_q.eq(sums.q),
        ]
        written = row.we_max | row.we_me | row.we_sq
        self.sync += If(self.load, row.w_adr.eq(d.row)).Elif(written, row.w_adr.eq(row.w_adr + 1))

    def add_output(self):
        """Queues of addresses (from the issue) and results (from stage 18), and the writes."""
        c, d = self.config, self.d
        self.addresses = addresses = SyncFIFO(ADDRESS_BITS, OUTPUT_DEPTH)
        self.results = results = SyncFIFO(c.word_bits, OUTPUT_DEPTH)
        wide, word = d.out == OUT["INT16"], Signal(c.word_bits)
        narrow = Cat(*[results.dout[16 * i:16 * i + 8] for i in range(c.n_lanes)])
        self.comb += [
            self.room.eq(addresses.writable),
            addresses.din.eq(self.out.address), addresses.we.eq(self.loops.step & self.writes),
            results.din.eq(Cat(*[o[:16] for o in self.lanes.out])), results.we.eq(self.stage[OUT_STAGE] & self.writes),
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
