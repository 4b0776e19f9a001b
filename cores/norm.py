"""NORM: statistics -> multiplier and offset of a normalisation, the gateware of ``norm_model``.

    groups mode   statistics records -> parameter records pd.. (n_lanes channels each), gamma and beta from records p..
    rows mode     row records (s, q) -> (m, e = 0, o), gamma and beta from lane 0 of parameter record p

Parameter records are done one after the other: source read, lanes replaced by (m, o), written as a whole. So p = pd and
overlaps behave as in the golden model, and lanes past the last channel keep the destination's old content.

Cycles: 5 a descriptor, 41 + gsize a group, 6 a record and 7 + 2 * channels for each group in it (12 + 2 * channels below
five channels); 56 a row. |mean| >= 512 takes two cycles a channel more, eps_s above 7 a few cycles a group.
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.arith import clamp_shift, outside, saturate, vector
from litediffusion.cores.iterative import B_BITS, LIMB_BITS, Divider, MultiplyShift, SquareRoot
from litediffusion.cores.ports import DescriptorSink, MemoryPort, descriptor_fields
from litediffusion.cores.row import ROW_SQUARES_BITS, RowPort, StatPort

TOTAL_BITS   = 32       # S
SQUARES_BITS = ROW_SQUARES_BITS
COUNT_BITS   = 24       # N
D_BITS       = 56       # N^2 * variance, clamped
EPS_BITS     = 63       # eps that is not already too large for D
R_BITS       = 24
MEAN_BITS    = 41       # mu = floor(S * 2^8 / N), signed
MEAN_SHIFT   = 8        # fraction of mu
KIND_M, KIND_O = 1, 2   # products that leave the multiplier's pipeline as m and as o


class Spread(LiteXModule):
    """d = clamp(N*Q - S^2 + (eps_m << eps_s)) to 0..2^56 - 1 with the multiplier: 9 cycles from ``start`` to ``done``.

    ``load`` takes eps_m, eps_s; ``eps_ready`` when it is shifted (eps_s // 8 + eps_s % 8 cycles), ``start`` only then.
    """

    def __init__(self, mac, count, total, squares):
        self.load, self.eps_m, self.eps_s = Signal(), Signal(32), Signal(8)
        self.start, self.eps_ready, self.done = Signal(), Signal(), Signal()
        self.d = Signal(D_BITS)

        # # #

        exact = Signal((EPS_BITS + 2, True), reset_less=True)
        left, too_large = Signal(8), Signal(reset_less=True)
        beat = Signal(9)
        self.comb += [
            self.eps_ready.eq(left == 0),
            self.done.eq(beat[8]),
            If(too_large | (~exact[-1] & (exact[D_BITS:] != 0)), self.d.eq(2**D_BITS - 1)
            ).Elif(~exact[-1], self.d.eq(exact[:D_BITS])),
        ]
        self.sync += [
            beat.eq(Cat(self.start, beat)),
            If(self.load,
                exact.eq(self.eps_m), left.eq(self.eps_s), too_large.eq(0),
            ).Elif(left[3:] != 0,
                exact.eq(Cat(C(0, 8), exact[:EPS_BITS - 8])), left.eq(left - 8),
                If(exact[EPS_BITS - 8:EPS_BITS] != 0, too_large.eq(1)),
            ).Elif(left != 0,
                exact.eq(Cat(C(0, 1), exact[:EPS_BITS - 1])), left.eq(left - 1),
                If(exact[EPS_BITS - 1], too_large.eq(1)),
            ).Elif(beat[4], exact.eq(exact - mac.acc)           # S^2
            ).Elif(beat[7], exact.eq(exact + mac.acc)),         # N*Q
        ]
        # The upper part of the signed S is a signed digit, all others are unsigned.
        top = Signal((TOTAL_BITS - LIMB_BITS, True))
        digits = [(total, top, 1), (total, total[:LIMB_BITS], 0), (count, squares[2 * LIMB_BITS:], 1),
                  (count, squares[LIMB_BITS:2 * LIMB_BITS], 0), (count, squares[:LIMB_BITS], 0)]
        self.comb += top.eq(total[LIMB_BITS:])
        self.comb += [If(beat[i], mac.valid.eq(1), mac.a.eq(a), mac.b.eq(b), mac.first.eq(first))
                      for i, (a, b, first) in enumerate(digits)]


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
    param_adr, param_dat : record memory, data one cycle after the address
    param_wr : MemoryPort of words (four a record), writes only
    stat, row : StatPort, RowPort; selected for this unit while ``active``
    mul : MultiplierPort of a SharedMultiplier
    """

    def __init__(self, config, mul):
        self.config = c = config
        self.sink = DescriptorSink()
        self.done, self.error, self.error_code = Signal(), Signal(), Signal(8)
        self.halt, self.active, self.stall = Signal(), Signal(), Signal()
        self.quarters = 8 * isa.PARAM_BYTES // c.word_bits
        self.param_adr, self.param_dat = Signal(max=c.param_words), Signal(8 * isa.PARAM_BYTES)
        self.param_wr = MemoryPort(self.quarters * c.param_words, c.word_bits, we_bits=1, name="norm_param_wr")
        self.stat, self.row = StatPort(c, name="norm_stat"), RowPort(c, name="norm_row")

        # # #

        self.fsm = ResetInserter()(FSM(reset_state="IDLE"))
        self.mac = MultiplyShift(mul)
        self.comb += [
            self.fsm.reset.eq(self.halt), self.mac.clear.eq(self.halt),
            self.error_code.eq(isa.ERROR_CODE["BUFFER_RANGE"]),
        ]
        self.add_record()
        self.add_sums()
        self.add_group()
        self.add_channels()
        self.add_start()
        self.add_record_control()
        self.add_write()

    def add_record(self):
        """The record at hand by lanes; ``take`` loads it, ``merge`` only the lanes past ``run_last``."""
        desc = Signal(isa.DESC_BITS, reset_less=True)
        self.desc, self.d = desc, descriptor_fields(desc, "NORM")
        self.groups_left = Signal(len(self.d.ngroups), reset_less=True)
        self.group_left = Signal(len(self.d.gsize), reset_less=True)       # channels of the group at hand without an o
        n = self.config.n_lanes
        widths = [f.bits for f in isa.PARAM_LANES]
        self.mult, self.offset = vector((widths[0], True), n, "mult"), vector((widths[1], True), n, "offset")
        scalars = Signal(sum(f.bits for f in isa.PARAM_SCALARS), reset_less=True)
        self.record = Cat(*self.mult, *self.offset, scalars)
        bits, at = {}, 0
        for f in isa.PARAM_SCALARS:
            bits[f.name] = scalars[at:at + f.bits]
            at += f.bits
        self.eps_m, self.eps_s = bits["eps_m"], bits["eps_s"]
        self.take, self.merge, self.run_last = Signal(), Signal(), Signal(3, reset_less=True)
        for lane in range(n):
            m = self.param_dat[lane * widths[0]:(lane + 1) * widths[0]]
            o = self.param_dat[n * widths[0] + lane * widths[1]:n * widths[0] + (lane + 1) * widths[1]]
            load = self.take | (self.merge & (lane > self.run_last))
            self.sync += If(load, self.mult[lane].eq(m), self.offset[lane].eq(o))
        self.sync += If(self.take, scalars.eq(self.param_dat[n * sum(widths):]))
        shift = Signal(9)
        self.comb += [
            shift.eq(bits["shift"] + MEAN_SHIFT),
            clamp_shift(self.mac.shifts[0], bits["gshift"]), clamp_shift(self.mac.shifts[1], shift),
        ]

    def add_sums(self):
        """S and Q: lane after lane of the statistics records, one a cycle while ``scan``, or a row's."""
        stat, n = self.stat, self.config.n_lanes
        self.total = total = Signal((TOTAL_BITS, True), reset_less=True)
        self.squares = squares = Signal(SQUARES_BITS, reset_less=True)
        self.scan, self.clear_sums, self.take_row = Signal(), Signal(), Signal()
        self.first_stat = Signal()
        record, following = Signal(len(self.d.stat_rec), reset_less=True), Signal(len(self.d.stat_rec))
        lane = Signal(log2_int(n), reset_less=True)
        lane_s, lane_q = Signal((24, True)), Signal((32, True))
        self.comb += [
            Case(lane, {i: [lane_s.eq(getattr(stat, f"r_s{i}")), lane_q.eq(getattr(stat, f"r_q{i}"))] for i in range(n)}),
            following.eq(Mux(self.scan & (lane == n - 1), record + 1, record)),
            stat.r_adr.eq(following),
        ]
        self.sync += [
            record.eq(following),
            If(self.first_stat, record.eq(self.d.stat_rec), lane.eq(0)),
            If(self.clear_sums, total.eq(0), squares.eq(0)),
            If(self.scan, total.eq(total + lane_s), squares.eq(squares + lane_q), lane.eq(lane + 1)),
            If(self.take_row, total.eq(self.row.r_s), squares.eq(self.row.r_q)),
        ]

    def add_group(self):
        """(r, mu) of S and Q: states EPS to RECIPROCAL, 41 cycles."""
        fsm, count, total = self.fsm, self.d.count, self.total
        self.spread = spread = Spread(self.mac, count, total, self.squares)
        self.root = root = SquareRoot(D_BITS + 8)
        self.divider = divider = Divider(TOTAL_BITS + MEAN_SHIFT, (D_BITS + 8) // 2)
        negative, clamped = Signal(), Signal(reset_less=True)
        self.r = Signal((R_BITS + 1, True))
        self.mean = mean = Signal((MEAN_BITS, True), reset_less=True)
        reciprocal = Signal()
        self.comb += [
            negative.eq(total[-1]),
            If(reciprocal,
                # N < root, so N * 2^24 // root is 24 more digits of a division that starts with remainder N.
                divider.remainder.eq(count), divider.divisor.eq(root.root), divider.steps.eq(R_BITS),
            ).Else(
                # floor(x / N) is not((not x) // N) for negative x.
                divider.dividend.eq(Cat(C(0, MEAN_SHIFT), total) ^ Replicate(negative, TOTAL_BITS + MEAN_SHIFT)),
                divider.divisor.eq(count), divider.steps.eq(TOTAL_BITS + MEAN_SHIFT),
            ),
            root.radicand.eq(Cat(C(0, 8), spread.d)), root.start.eq(spread.done),
            spread.eps_m.eq(self.eps_m), spread.eps_s.eq(self.eps_s),
            self.r.eq(Mux(clamped, 2**R_BITS - 1, divider.quotient[:R_BITS])),
        ]
        fsm.act("EPS", If(spread.eps_ready, spread.start.eq(1), divider.start.eq(1), NextState("SPREAD")))
        fsm.act("SPREAD", If(spread.done, NextState("ROOT")))
        fsm.act("ROOT",
            reciprocal.eq(1),
            If(~root.busy,
                NextValue(mean, Cat(divider.quotient, C(0, 1)) ^ Replicate(negative, MEAN_BITS)),
                NextValue(clamped, count >= root.root),     # also if the root is 0
                divider.start.eq(1),
                NextState("RECIPROCAL"),
            ),
        )
        fsm.act("RECIPROCAL", If(~divider.busy, NextState("RUN")))

    def add_channels(self):
        """Two passes over the lanes run_first..run_last: m of all, then o of all; the last state is CHANNELS_DONE."""
        fsm, mac, rows = self.fsm, self.mac, self.d.rows
        self.run_first = run_first = Signal(3, reset_less=True)
        lane, digit = Signal(3, reset_less=True), Signal(2, reset_less=True)
        gamma, m, beta, o = (Signal((bits, True), name=f"channel_{name}") for name, bits in
                             (("gamma", 16), ("m", 16), ("beta", 32), ("o", 32)))
        low, top, narrow = Signal((B_BITS, True)), Signal((MEAN_BITS - 2 * LIMB_BITS, True)), Signal()
        beyond = self.mean[B_BITS - 1:]
        # A row's m goes to lane 1: lane 0 keeps gamma for the next row.
        place = lane | rows
        self.comb += [
            Case(lane, {i: gamma.eq(x) for i, x in enumerate(self.mult)}),
            Case(place, {i: m.eq(x) for i, x in enumerate(self.mult)}),
            Case(mac.out_lane, {i: beta.eq(x) for i, x in enumerate(self.offset)}),
            o.eq(beta - mac.rounded),
            narrow.eq((beyond == 0) | (beyond == 2**len(beyond) - 1)),
            low.eq(self.mean), top.eq(self.mean[2 * LIMB_BITS:]),
        ]
        digits = NextValue(digit, Mux(narrow, 0, 2))
        fsm.act("RUN", NextValue(lane, run_first), NextValue(self.run_last, self.last_lane()), NextState("PASS_M"))
        fsm.act("PASS_M",
            mac.valid.eq(1), mac.a.eq(self.r), mac.b.eq(gamma), mac.first.eq(1), mac.kind.eq(KIND_M), mac.lane.eq(lane),
            NextValue(lane, lane + 1), digits,
            # After five lanes the first one's m is there.
            If(lane == self.run_last,
                NextValue(lane, run_first),
                If(self.run_last - run_first >= 4, NextState("PASS_O")).Else(NextState("WAIT_M")),
            ),
        )
        fsm.act("WAIT_M", If(~mac.busy, NextState("PASS_O")))
        fsm.act("PASS_O",
            mac.valid.eq(1), mac.a.eq(m), mac.lane.eq(lane), mac.first.eq(narrow | (digit == 2)),
            If(narrow, mac.b.eq(low)
            ).Else(Case(digit, {
                2: mac.b.eq(top), 1: mac.b.eq(self.mean[LIMB_BITS:2 * LIMB_BITS]), "default": mac.b.eq(self.mean[:LIMB_BITS]),
            })),
            If(digit != 0, NextValue(digit, digit - 1)).Else(
                mac.kind.eq(KIND_O), NextValue(lane, lane + 1), digits,
                If(lane == self.run_last, NextState("WAIT_O")),
            ),
        )
        fsm.act("WAIT_O", If(~mac.busy, NextState("CHANNELS_DONE")))
        for i in range(self.config.n_lanes):
            self.sync += [
                If((mac.out_kind == KIND_M) & ((mac.out_lane | rows) == i), saturate(self.mult[i], mac.rounded, 16)),
                If((mac.out_kind == KIND_O) & (mac.out_lane == i) & ~rows, self.offset[i].eq(o)),
            ]
        self.comb += [
            self.row.w_m.eq(self.mult[1]), self.row.w_o.eq(o),
            self.row.we_me.eq(rows & (mac.out_kind == KIND_O) & ~self.halt), self.row.we_o.eq(self.row.we_me),
        ]

    def last_lane(self):
        """Expression: last lane of the group's channels in the record at hand."""
        left, n = self.group_left, self.config.n_lanes
        end = Signal(len(left) + 1)
        self.comb += end.eq(self.run_first + left - 1)
        return Mux(self.d.rows, 0, Mux(end >= n, n - 1, end[:log2_int(n)]))

    def add_start(self):
        """Accept, count the channels, check what can be checked at once; the ends of a descriptor."""
        fsm, c, d, mac = self.fsm, self.config, self.d, self.mac
        self.p, self.pd = (Signal(len(d.p) + 1, name=f"record_{k}", reset_less=True) for k in ("p", "pd"))
        self.row_record = Signal(len(d.row), reset_less=True)
        product = len(d.ngroups) + len(d.gsize)
        last_row, channels = Signal(len(d.ngroups) + 1), Signal(product)
        last_channel, last_stat = Signal((product + 1, True)), Signal((product + 1, True))      # -1: no channels
        self.comb += [
            last_row.eq(d.row + d.ngroups - 1),
            channels.eq(mac.acc),
            last_channel.eq(channels - 1),
            last_stat.eq((last_channel >> log2_int(c.n_lanes)) + d.stat_rec),
            self.active.eq(~fsm.ongoing("IDLE")),
            self.row.r_adr.eq(self.row_record), self.row.w_adr.eq(self.row_record),
        ]
        fsm.act("IDLE",
            self.sink.ready.eq(~self.halt),
            NextValue(self.desc, self.sink.desc),
            If(self.sink.valid, NextState("START")),
        )
        fsm.act("START",
            mac.valid.eq(1), mac.first.eq(1), mac.a.eq(d.ngroups), mac.b.eq(d.gsize),
            self.first_stat.eq(1),
            NextValue(self.p, d.p), NextValue(self.pd, d.pd), NextValue(self.row_record, d.row),
            NextValue(self.groups_left, d.ngroups), NextValue(self.group_left, 0),
            NextState("COUNT"),
        )
        fsm.delayed_enter("COUNT", "CHECK", 2)
        fsm.act("CHECK",
            If(d.rows,
                If(outside(last_row, c.row_words), NextState("FAIL")).Else(NextState("READ")),
            ).Elif(~last_stat[-1] & outside(last_stat, c.stat_words), NextState("FAIL")
            ).Elif(channels == 0, NextState("DONE")
            ).Else(NextState("READ")),
        )
        fsm.act("DONE", self.done.eq(1), NextState("IDLE"))
        fsm.act("FAIL", self.error.eq(1), NextState("STOPPED"))
        fsm.act("STOPPED")

    def add_record_control(self):
        """Record after record, group after group, row after row."""
        fsm, c, d = self.fsm, self.config, self.d
        done, left, scan_left = Signal(len(d.gsize)), Signal(len(d.gsize)), Signal(len(d.gsize), reset_less=True)
        full = self.run_last == c.n_lanes - 1
        self.comb += [
            done.eq(self.run_last - self.run_first + 1),
            left.eq(self.group_left - done),
            self.param_adr.eq(self.p),
        ]
        fsm.act("READ",
            If(outside(self.p, c.param_words) | (~d.rows & outside(self.pd, c.param_words)), NextState("FAIL")
            ).Else(NextState("TAKE")),
        )
        fsm.act("TAKE",
            self.take.eq(1), NextValue(self.run_first, 0),
            If(d.rows, NextState("ROW")).Elif(self.group_left == 0, NextState("GROUP")).Else(NextState("RUN")),
        )
        fsm.act("GROUP",
            self.spread.load.eq(1), self.clear_sums.eq(1),
            NextValue(self.group_left, d.gsize), NextValue(scan_left, d.gsize),
            NextState("SCAN"),
        )
        fsm.act("SCAN", self.scan.eq(1), NextValue(scan_left, scan_left - 1), If(scan_left == 1, NextState("EPS")))
        fsm.act("CHANNELS_DONE",
            NextValue(self.group_left, left),
            If(d.rows,
                NextValue(self.groups_left, self.groups_left - 1), NextValue(self.row_record, self.row_record + 1),
                If(self.groups_left == 1, NextState("DONE")).Else(NextState("ROW")),
            ).Elif(left != 0, NextState("WRITE")        # the group goes on in the next record
            ).Else(
                NextValue(self.groups_left, self.groups_left - 1), NextValue(self.run_first, self.run_last + 1),
                If(full, NextState("WRITE")).Elif(self.groups_left == 1, NextState("OLD")).Else(NextState("GROUP")),
            ),
        )
        fsm.act("ROW", NextState("TAKE_ROW"))
        fsm.act("TAKE_ROW", self.take_row.eq(1), self.spread.load.eq(1), NextState("EPS"))

    def add_write(self):
        """Write the record a word at a time; a record that is not full is completed with the destination's lanes."""
        fsm, wr = self.fsm, self.param_wr
        quarter = Signal(log2_int(self.quarters))        # back at 0 after every record; the FSM's reset clears it
        record = Signal(8 * isa.PARAM_BYTES)
        bits = self.config.word_bits
        self.comb += [
            record.eq(self.record),
            wr.adr.eq(Cat(quarter, self.pd)), wr.we.eq(1),
            Case(quarter, {i: wr.dat_w.eq(record[i * bits:(i + 1) * bits]) for i in range(self.quarters)}),
            self.stall.eq(wr.valid & ~wr.ready),
        ]
        fsm.act("OLD", self.param_adr.eq(self.pd), NextState("MERGE"))
        fsm.act("MERGE", self.merge.eq(1), NextState("WRITE"))
        fsm.act("WRITE",
            wr.valid.eq(~self.halt),
            If(wr.valid & wr.ready,
                NextValue(quarter, quarter + 1),
                If(quarter == self.quarters - 1,
                    NextValue(self.p, self.p + 1), NextValue(self.pd, self.pd + 1),
                    If(self.groups_left == 0, NextState("DONE")).Else(NextState("READ")),
                ),
            ),
        )
