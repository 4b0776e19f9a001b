"""NORM's part by groups: sums S and Q of a group -> r and mean, see ``norm_model``."""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.arith import choose
from litediffusion.cores.iterative import NUMERATOR_SHIFT, RADICAND_BITS, Divider, RootDivider
from litediffusion.cores.row import ROW_SQUARES_BITS
from litediffusion.cores.scalar import A_BITS, ADD, B_BITS, LIMB_BITS, START, UP

TOTAL_BITS = 32         # S
MEAN_SHIFT = 8          # fraction of the mean
MEAN_BITS  = TOTAL_BITS + MEAN_SHIFT
TOP_LEVEL  = 5          # digits of 16 bits of D on the way: eps << 79
SQUARE_LEVEL = 2        # highest digit of Q


class Sums(LiteXModule):
    """S and Q of a group: a channel a cycle of the statistics memory, or a row's.

    ``clear``; ``scan`` adds the channel at ``index``, two cycles later; ``take`` takes the row whose address was shown in
    the cycle before.
    """

    def __init__(self, config, stat, row, index):
        self.clear, self.scan, self.take = Signal(), Signal(), Signal()
        self.total = total = Signal((TOTAL_BITS, True), reset_less=True)
        self.squares = squares = Signal(ROW_SQUARES_BITS, reset_less=True)

        # # #

        lanes = log2_int(config.post_lanes)
        read, add, lane = Signal(), Signal(), Signal(max(1, lanes), reset_less=True)
        s, q = Signal((24, True), reset_less=True), Signal((32, True), reset_less=True)
        self.comb += stat.r_adr.eq(index[lanes:])
        self.sync += [
            read.eq(self.scan), add.eq(read), lane.eq(index),
            *[field.eq(choose(lane, [getattr(stat, f"r_{name}{i}") for i in range(config.post_lanes)]))
              for name, field in (("s", s), ("q", q))],
            If(self.clear, total.eq(0), squares.eq(0)
            ).Elif(self.take, total.eq(row.r_s), squares.eq(row.r_q)
            ).Elif(add, total.eq(total + s), squares.eq(squares + q)),
        ]


class Group(LiteXModule):
    """r = min(2^24 - 1, (N << 24) // max(1, isqrt(D << 8))) and mean = floor(S * 2^8 / N).

    51 cycles with two ``digits`` of root and quotient a cycle, 80 with one.

    D = clamp(N*Q - S^2 + (eps_m << eps_s)) by digits of 16 bits, the highest one first: its products at each level are
        N * digit of Q,  S * digit of ~S,  2^k * high and low half of eps_m     (eps_s = 16 j + k), and S once at the end
    eps beyond 2^63 is seen at level 3, before it could leave the accumulator; D is then its upper limit.

    Parameters
    ----------
    port : ScalarPort, only read
    count, total, squares, eps_m, eps_s : N, S, Q and eps; stable from ``start`` to ``done``, eps_s one cycle before

    Attributes
    ----------
    start, done : in, out
    valid, mode, a, b, invert, top : out, a product for the unit: digit ``b``, or its complement with ``invert``, of
        16 bits or, if it is the ``top`` one of its number, with its sign
    r, quotient, negative : out. The mean is quotient, or ~quotient if ``negative``
    """

    def __init__(self, port, count, total, squares, eps_m, eps_s, digits):
        self.start, self.done = Signal(), Signal()
        self.valid, self.mode, self.invert, self.top = Signal(), Signal(2), Signal(), Signal()
        self.a, self.b = Signal((A_BITS, True)), Signal(B_BITS)
        self.r, self.negative = Signal(24), Signal()

        # # #

        self.fsm = FSM(reset_state="IDLE")
        self.port, self.count, self.total = port, count, total
        self.mean = mean = Divider(MEAN_BITS, len(count))
        self.quotient = mean.quotient
        self.root = root = RootDivider(digits)
        self.too_large = Signal(reset_less=True)
        self.comb += [
            self.negative.eq(total[-1]),
            # floor(x / N) is ~(~x // N) for negative x.
            mean.dividend.eq(Cat(C(0, MEAN_SHIFT), total) ^ Replicate(self.negative, MEAN_BITS)),
            mean.divisor.eq(count), mean.start.eq(self.start),
            self.r.eq(root.quotient),
        ]
        self.add_spread(squares, eps_m, eps_s)
        self.add_root()

    def add_spread(self, squares, eps_m, eps_s):
        """D in the accumulator: states IDLE to LAST."""
        fsm, total, far = self.fsm, self.total, Signal()
        level, slot = Signal(3, reset_less=True), Signal(2, reset_less=True)
        place, power = Signal(3, reset_less=True), Signal(LIMB_BITS, reset_less=True)
        square = Signal(LIMB_BITS)
        self.comb += [
            far.eq(place[1:] != 0),
            Case(level, {i: square.eq(squares[i * LIMB_BITS:(i + 1) * LIMB_BITS]) for i in range(SQUARE_LEVEL + 1)}),
        ]
        self.sync += [
            If(eps_s[6:] != 0, place.eq(4)).Else(place.eq(eps_s[4:6])),
            power.eq(1 << eps_s[:4]),
            # Everything of level 3 has arrived, and nothing of level 2.
            If((level == SQUARE_LEVEL) & (slot == 2), self.too_large.eq(far & (self.port.acc[LIMB_BITS - 1:] != 0))),
        ]
        fsm.act("IDLE",
            NextValue(slot, 0), NextValue(level, Mux(far, TOP_LEVEL, SQUARE_LEVEL)),
            If(self.start, NextState("LEVELS")),
        )
        fsm.act("LEVELS",
            self.valid.eq(1), NextValue(slot, slot + 1),
            If(slot == 3, NextValue(level, level - 1), If(level == 0, NextState("LAST"))),
            If(slot[1], self.a.eq(power)).Elif(slot[0], self.a.eq(total)).Else(self.a.eq(self.count)),
            self.mode.eq(Mux(slot == 0, Mux(level == Mux(far, TOP_LEVEL, SQUARE_LEVEL), START, UP), ADD)),
            self.invert.eq((slot == 1) & (level[1:] == 0)), self.top.eq(level[0]),
            Case(slot, {
                0: self.b.eq(square),
                1: Case(level, {
                    0: self.b.eq(total[:LIMB_BITS]),
                    1: self.b.eq(Cat(total[LIMB_BITS:], Replicate(total[-1], B_BITS - LIMB_BITS))),
                }),
                2: If(level == place + 1, self.b.eq(eps_m[LIMB_BITS:])),
                3: If(level == place, self.b.eq(eps_m[:LIMB_BITS])),
            }),
        )
        fsm.act("LAST", self.valid.eq(1), self.a.eq(total), self.b.eq(1), NextState("WAIT_D"))       # -S = ~S + 1

    def add_root(self):
        """D, N << 23 -> r: states WAIT_D to DIVIDE."""
        fsm, root, port = self.fsm, self.root, self.port
        acc, low = port.acc, NUMERATOR_SHIFT - LIMB_BITS
        large, negative = Signal(), acc[-1]
        self.comb += [
            large.eq(~negative & (acc[RADICAND_BITS:] != 0)),
            root.value.eq(acc[:RADICAND_BITS]), root.zero.eq(negative), root.ones.eq(self.too_large | large),
        ]
        fsm.act("WAIT_D", If(~port.busy, root.find_root.eq(1), NextState("NUMERATOR")))
        fsm.act("NUMERATOR",
            self.valid.eq(1), self.mode.eq(START), self.a.eq(self.count), self.b.eq(1 << low), NextState("RAISE"))
        fsm.act("RAISE", self.valid.eq(1), self.mode.eq(UP), NextState("ROOT"))
        fsm.act("ROOT", If(~root.busy, root.divide.eq(1), NextState("DIVIDE")))
        fsm.act("DIVIDE",
            If(~root.busy & ~self.mean.busy, root.clamp.eq(root.above), self.done.eq(1), NextState("IDLE")))
