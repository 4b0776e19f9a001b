"""NORM: statistics -> multiplier and offset of a normalisation, the gateware of ``norm_model``.

    groups mode   statistics records -> parameter records pd.. (n_lanes channels each), gamma and beta from records p..
    rows mode     row records (s, q) -> (m, e = 0, o), gamma and beta from lane 0 of parameter record p

Channels are done one after the other: source read, m and o written. So p = pd and overlaps behave as in the golden model,
and lanes past the last channel keep the destination's old content.

Cycles: 9 a descriptor, 57 + gsize a group, 3 a record (4 if p != pd) and 4 + 8 * channels for each group in it; 68 a row.
A group or row takes 29 more in an engine whose POST has fewer than n_lanes. A mean beyond 2^17 / 2^8 takes two cycles a
channel more, eps_s above 31 twelve a group.
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.arith import clamp_shift, outside
from litediffusion.cores.norm_group import MEAN_BITS, MEAN_SHIFT, Group, Sums
from litediffusion.cores.norm_window import WINDOW_BITS, Window
from litediffusion.cores.param import STROBE_BITS
from litediffusion.cores.ports import DescriptorSink, MemoryPort, descriptor_fields
from litediffusion.cores.row import RowPort, StatPort
from litediffusion.cores.scalar import ADD, B_BITS, LIMB_BITS, START, UP


class Norm(LiteXModule):
    """The NORM unit.

    Attributes
    ----------
    sink : DescriptorSink, in. Taken when the unit is idle; fields must have passed ``validate.check_descriptor``.
    done : out, pulse: the descriptor has completed, its last record is written
    error, error_code : out, pulse with isa.ERROR_CODE["BUFFER_RANGE"]: a record lies outside its memory. It is not
        accessed and the unit stays stopped until ``halt`` or a reset.
    halt : in, forget the descriptor; nothing is accessed while 1
    active : out, a descriptor is being executed
    stall : out, waiting for the parameter memory to take a word
    param_adr : address of the record memory, whose data go to the arithmetic unit a cycle later
    param_wr : MemoryPort of words (four a record) with an enable for each 16 bits, writes only
    stat, row : StatPort, RowPort; selected for this unit while ``active``
    port : ScalarPort of this unit
    """

    def __init__(self, config, port):
        self.config = c = config
        self.port = port
        self.sink = DescriptorSink()
        self.done, self.error, self.error_code = Signal(), Signal(), Signal(8)
        self.halt, self.active, self.stall = Signal(), Signal(), Signal()
        self.quarters = 8 * isa.PARAM_BYTES // c.word_bits
        self.param_adr = Signal(max=c.param_words)
        self.param_wr = MemoryPort(self.quarters * c.param_words, c.word_bits, we_bits=c.word_bits // STROBE_BITS,
                                   name="norm_param_wr")
        self.stat, self.row = StatPort(c, name="norm_stat"), RowPort(c, name="norm_row")

        # # #

        desc = Signal(isa.DESC_BITS, reset_less=True)
        self.desc, self.d = desc, descriptor_fields(desc, "NORM")
        self.fsm = ResetInserter()(FSM(reset_state="IDLE"))
        self.comb += [
            self.fsm.reset.eq(self.halt), self.active.eq(~self.fsm.ongoing("IDLE")),
            self.error_code.eq(isa.ERROR_CODE["BUFFER_RANGE"]),
        ]
        self.add_counters()
        self.add_products()
        self.add_start()
        self.add_record()
        self.add_group()
        self.add_channel()
        self.add_advance()
        self.add_writes()

    def add_counters(self):
        """Where we are: record, row or channel of the statistics, group, channel of the group, lane."""
        d, n = self.d, self.config.n_lanes
        self.p, self.pd = (Signal(len(d.p) + 1, name=f"record_{k}", reset_less=True) for k in ("p", "pd"))
        self.index = Signal(max(len(d.row), len(d.stat_rec) + log2_int(n)), reset_less=True)
        self.groups_left = Signal(len(d.ngroups), reset_less=True)
        self.group_left = Signal(len(d.gsize), reset_less=True)
        self.lane, self.mult_lane = Signal(log2_int(n), reset_less=True), Signal(log2_int(n), reset_less=True)
        self.comb += [
            self.param_adr.eq(self.p),
            self.row.r_adr.eq(self.index), self.row.w_adr.eq(self.index),
        ]

    def add_products(self):
        """Products for the port: ``digit``, complemented with ``invert``, its sign included if it is the ``top`` one."""
        port = self.port
        self.digit, self.invert, self.top = Signal(B_BITS), Signal(), Signal()
        self.scalars = port.scalars(self.config.n_lanes)
        full = Replicate(self.invert & self.top, B_BITS - LIMB_BITS)
        self.comb += [
            port.mult_lane.eq(self.mult_lane), port.offset_lane.eq(self.lane),
            port.b.eq(self.digit ^ Cat(Replicate(self.invert, LIMB_BITS), full)),
        ]

    def multiply(self, mode, a, digit, *more):
        """Statements that issue a product."""
        return [self.port.valid.eq(1), self.port.mode.eq(mode), self.port.a.eq(a), self.digit.eq(digit), *more]

    def add_start(self):
        """Accept; check the end of the rows or of the statistics, in channels; the ends of a descriptor."""
        fsm, c, d, port = self.fsm, self.config, self.d, self.port
        lanes = log2_int(c.n_lanes)
        end, log = Signal(26), log2_int
        beyond = lambda words: outside(end, words) & ((end[log(words) + 1:] != 0) | (end[:log(words)] != 0))
        self.comb += end.eq(port.acc)
        fsm.act("IDLE",
            self.sink.ready.eq(~self.halt),
            NextValue(self.desc, self.sink.desc), NextValue(self.lane, 0), NextValue(self.mult_lane, 0),
            If(self.sink.valid, NextState("COUNT")),
        )
        fsm.act("COUNT",
            NextValue(self.p, d.p), NextValue(self.pd, d.pd), NextValue(self.groups_left, d.ngroups),
            NextValue(self.group_left, 0),
            If(d.rows, NextValue(self.index, d.row)).Else(NextValue(self.index, Cat(C(0, lanes), d.stat_rec))),
            *self.multiply(START, d.ngroups, Mux(d.rows, 1, d.gsize)),
            NextState("ADD_FIRST"),
        )
        fsm.act("ADD_FIRST", *self.multiply(ADD, self.index, 1), NextState("CHECK"))
        fsm.act("CHECK",
            If(~port.busy,
                If(Mux(d.rows, beyond(c.row_words), beyond(c.stat_words * c.n_lanes)), NextState("FAIL")
                ).Elif(~d.rows & (d.gsize == 0), NextState("DONE")
                ).Else(NextState("READ")),
            ),
        )
        fsm.act("DONE", self.done.eq(1), NextState("IDLE"))
        fsm.act("FAIL", self.error.eq(1), NextState("STOPPED"))
        fsm.act("STOPPED")

    def add_record(self):
        """Read the record, copy its scalars if the destination is another one."""
        fsm, c, d, s = self.fsm, self.config, self.d, self.scalars
        self.shifts = [Signal(6, name=f"shift_{k}", reset_less=True) for k in ("m", "o")]
        self.copying = Signal()
        sum_shift = Signal(9)
        self.comb += sum_shift.eq(s["shift"] + MEAN_SHIFT)
        self.sync += If(fsm.ongoing("TAKE"), clamp_shift(self.shifts[0], s["gshift"]), clamp_shift(self.shifts[1], sum_shift))
        fsm.act("READ",
            NextValue(self.mult_lane, 0),
            If(outside(self.p, c.param_words) | (~d.rows & outside(self.pd, c.param_words)), NextState("FAIL")
            ).Else(NextState("TAKE")),
        )
        begin = If(self.group_left == 0, NextState("GROUP")).Else(NextState("RUN"))
        fsm.act("TAKE", If(d.rows, NextState("ROW")).Elif(self.p != self.pd, NextState("COPY")).Else(begin))
        fsm.act("COPY", self.copying.eq(1), If(self.param_wr.ready, begin))

    def add_group(self):
        """Sums of a group or a row, then r and the mean."""
        fsm, d = self.fsm, self.d
        self.sums = sums = Sums(self.config, self.stat, self.row, self.index)
        digits = 2 if self.config.post_lanes == self.config.n_lanes else 1      # an engine with a narrow POST saves here too
        self.group = group = ResetInserter()(Group(
            self.port, d.count, sums.total, sums.squares, self.scalars["eps_m"], self.scalars["eps_s"], digits))
        self.comb += group.reset.eq(self.halt)
        fsm.act("GROUP", sums.clear.eq(1), NextValue(self.group_left, d.gsize), NextState("SCAN"))
        fsm.act("SCAN",
            sums.scan.eq(1), NextValue(self.index, self.index + 1), NextValue(self.group_left, self.group_left - 1),
            If(self.group_left == 1, NextState("SCANNED")),
        )
        fsm.act("SCANNED", NextValue(self.group_left, d.gsize), NextState("ADDED"))
        fsm.act("ADDED", NextState("SUMS"))
        fsm.act("ROW", NextValue(self.mult_lane, 0), NextState("TAKE_ROW"))
        fsm.act("TAKE_ROW", sums.take.eq(1), NextState("SUMS"))
        fsm.act("SUMS", group.start.eq(1), NextState("RECIPROCAL"))
        fsm.act("RECIPROCAL",
            self.port.valid.eq(group.valid), self.port.mode.eq(group.mode), self.port.a.eq(group.a), self.digit.eq(group.b),
            self.invert.eq(group.invert), self.top.eq(group.top),
            If(group.done, NextState("RUN")),
        )

    def add_channel(self):
        """m and o of a channel, the next one's first product while o is made: eight cycles in a loop."""
        fsm, d, port, group, wr = self.fsm, self.d, self.port, self.group, self.param_wr
        self.window = window = Window(port.acc)
        self.m_ready, self.o_ready, self.taken = Signal(), Signal(), Signal()
        pending, more, o_ahead, rows = Signal(), Signal(), Signal(), d.rows
        mean, limb = group.quotient, Signal(2, reset_less=True)
        narrow, m = Signal(), Signal((WINDOW_BITS, True))
        self.comb += [
            narrow.eq(mean[B_BITS - 1:] == 0), m.eq(window.result[0]),
            self.taken.eq(wr.ready | rows),
            more.eq((self.lane != self.config.n_lanes - 1) & (self.group_left != 1) & ~rows),
            window.shift.eq(Mux(o_ahead, self.shifts[1], self.shifts[0])),
        ]
        first = self.multiply(START, group.r, Cat(port.mult, Replicate(port.mult[-1], B_BITS - 16))) + [
            NextValue(self.mult_lane, self.mult_lane + 1)]
        fsm.act("RUN", *first, NextState("M_LOAD"))
        fsm.act("M_LOAD", window.load.eq(1), If(~port.busy, window.ahead.eq(1), NextState("M_LOW")))
        fsm.act("M_LOW",        # and write the o of the channel before
            self.o_ready.eq(pending),
            window.ahead.eq(1),
            If(~pending | self.taken,
                window.step.eq(1), NextValue(pending, 0), NextValue(limb, Mux(narrow, 3, 2)), NextState("M_HIGH")),
        )
        fsm.act("M_HIGH", window.high.eq(1), window.saturate.eq(1), NextState("PRODUCT"))
        top, lower = Cat(mean[2 * LIMB_BITS:], C(0, B_BITS + 2 * LIMB_BITS - MEAN_BITS)), mean[LIMB_BITS:2 * LIMB_BITS]
        fsm.act("PRODUCT",
            *self.multiply(Mux(limb[1], START, UP), m, 0),
            Case(limb, {3: self.digit.eq(mean[:B_BITS - 1]), 2: self.digit.eq(top), 1: self.digit.eq(lower),
                        0: self.digit.eq(mean[:LIMB_BITS])}),
            self.invert.eq(group.negative), self.top.eq(limb[1]),
            NextValue(limb, limb - 1),
            If((limb == 3) | (limb == 0), NextState("M_WRITE")),
        )
        fsm.act("M_WRITE", self.m_ready.eq(1), If(self.taken, NextState("NEXT")))
        fsm.act("NEXT", If(more, *first), o_ahead.eq(1), NextState("O_LOAD"))
        fsm.act("O_LOAD", window.load.eq(1), o_ahead.eq(1), window.ahead.eq(1), NextState("O_LOW"))
        fsm.act("O_LOW",
            window.subtract.eq(1), window.step.eq(1), window.base.eq(port.offset[:WINDOW_BITS]), NextState("O_HIGH"),
        )
        fsm.act("O_HIGH",
            window.subtract.eq(1), window.high.eq(1), window.step.eq(1), window.base.eq(port.offset[WINDOW_BITS:]),
            window.ahead.eq(1),     # the part of the next channel's product is taken now
            NextValue(pending, more),
            If(more, NextState("M_LOW")).Else(NextState("O_WRITE")),
        )
        fsm.act("O_WRITE", self.o_ready.eq(1), If(self.taken, NextState("ADVANCE")))
        self.sync += [
            If(self.o_ready & self.taken, self.group_left.eq(self.group_left - 1), If(~rows, self.lane.eq(self.lane + 1))),
            If(self.halt, pending.eq(0)),
        ]

    def add_advance(self):
        """After the last channel of a group in this record, or a row."""
        fsm, d = self.fsm, self.d
        group_done = d.rows | (self.group_left == 0)
        following = [NextValue(self.p, self.p + 1), NextValue(self.pd, self.pd + 1), NextState("READ")]
        fsm.act("ADVANCE",
            If(group_done, NextValue(self.groups_left, self.groups_left - 1)),
            If(group_done & (self.groups_left == 1), NextState("DONE")
            ).Elif(d.rows, NextValue(self.index, self.index + 1), NextState("ROW")
            ).Elif(self.lane == 0, *following           # the group ends, or goes on, in the next record
            ).Else(NextState("GROUP")),
        )

    def add_writes(self):
        """m, o or the scalars to their place in the record; m and o of a row to the row memory."""
        wr, rows, copies = self.param_wr, self.d.rows, self.config.word_bits // (2 * WINDOW_BITS)
        result, scalars, word = Cat(*self.window.result), Cat(*self.scalars.values()), log2_int(self.quarters)
        quarter, m_we, o_we = Signal(word), Signal(len(wr.we)), Signal(len(wr.we))
        self.comb += [
            wr.valid.eq((self.m_ready | self.o_ready | self.copying) & ~rows & ~self.halt),
            self.stall.eq(wr.valid & ~wr.ready),
            # Word 0 holds m, words 1 and 2 hold o, word 3 the scalars; both halves of the result are m when it is m.
            If(self.m_ready, quarter.eq(0)).Elif(self.copying, quarter.eq(3)).Else(quarter.eq(1 + self.lane[-1])),
            wr.adr.eq(Cat(quarter, self.pd)),
            wr.dat_w.eq(Mux(self.copying, scalars, Replicate(result, copies))),
            m_we.eq(1 << self.lane), o_we.eq(3 << Cat(C(0, 1), self.lane[:2])),
            wr.we.eq(Mux(self.m_ready, m_we, o_we) | Replicate(self.copying, len(wr.we))),
            self.row.w_m.eq(self.window.result[0]), self.row.w_o.eq(result),
            self.row.we_me.eq(self.m_ready & rows & ~self.halt), self.row.we_o.eq(self.o_ready & rows & ~self.halt),
        ]
