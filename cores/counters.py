"""Counters by cause, and the watchdog that turns silence into an error."""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.tokens import NO_TOKEN

FETCH = len(isa.QUEUES)     # number of the fetcher where a queue is named
SCAN_BITS = 5
SCAN = 2**SCAN_BITS         # counters, and cycles in which the scanner goes round


class Counters(LiteXModule):
    """32-bit counters in a small memory: ``causes`` maps a register's name to the signal that is added in each cycle.

    Every cause has a few bits of its own, which a scanner adds to the memory in turn: a count arrives there SCAN cycles
    late at most, or twice as much while the host reads all the time. Causes are of one bit, or of two.

    clear       all counters to 0; what is counted from the next cycle on is kept
    enable      signals are counted, a cycle late
    settled     nothing has been counted for long enough that the memory is exact
    select, value
                the counter with this number in ``causes``, for the host; while ``reading`` the scanner waits
    """

    def __init__(self, causes):
        self.clear, self.enable, self.settled = Signal(), Signal(), Signal()
        self.select, self.reading, self.value = Signal(max=SCAN), Signal(), Signal(32)

        # # #

        if len(causes) > SCAN:
            raise ValueError(f"{len(causes)} counters, the limit is {SCAN}: make SCAN larger")
        turn, fresh, step = Signal(max=SCAN), Signal(SCAN_BITS + 1), Signal()
        idle = Signal(SCAN_BITS + 1)
        enabled, few, amount = Signal(), [], Signal(max=4 * SCAN)
        self.comb += step.eq(~self.reading)
        for k, (name, cause) in enumerate(causes.items()):
            late, mine = Signal(len(cause), name=f"{name}_late", reset_less=True), Signal()
            # Two scans long at the most, and one of their cycles is in ``late``.
            count = Signal(SCAN_BITS + len(cause), name=f"{name}_few")
            self.comb += mine.eq(step & (turn == k))
            self.sync += [
                late.eq(Mux(enabled, cause, 0)),
                If(mine | self.clear, count.eq(late)).Else(count.eq(count + late)),
            ]
            few.append(count)
        memory = Memory(32, SCAN, name="counters")
        write, read = memory.get_port(write_capable=True), memory.get_port(async_read=True)
        self.specials += memory, write, read
        self.comb += [
            Case(turn, {k: amount.eq(count) for k, count in enumerate(few)}),
            read.adr.eq(Mux(self.reading, self.select, turn)), self.value.eq(read.dat_r),
            write.adr.eq(turn), write.we.eq(step), write.dat_w.eq(Mux(fresh[-1], 0, read.dat_r) + amount),
            self.settled.eq(idle[-1]),
        ]
        self.sync += [
            enabled.eq(self.enable),
            If(step, turn.eq(turn + 1)),
            # The first scan after a clear begins with zeros.
            If(self.clear, fresh.eq(SCAN)).Elif(step & fresh[-1], fresh.eq(fresh + 1)),
            If(self.enable, idle.eq(0)).Elif(step & ~idle[-1], idle.eq(idle + 1)),
        ]


class Watchdog(LiteXModule):
    """Raises ``error`` after ``limit`` cycles without ``progress`` (0: never), and finds who waits.

    Each queue offers the descriptor that it is stuck with: the oldest in a unit, else the head that waits for a token.
    The oldest of all is the cause of the others' waiting, so that one is reported: ``queue``, ``index``, ``token``
    (NO_TOKEN when it waits for something else). With all queues free it is the fetcher's (``position``).
    """

    def __init__(self, queues, tokens, position):
        self.limit, self.enable, self.progress = Signal(32), Signal(), Signal()
        self.error = Signal()
        self.queue, self.index, self.token = Signal(3), Signal(16), Signal(5)

        # # #

        silence = Signal(32)
        turn = Signal(max=len(queues))
        found = Signal()
        stuck, index, token = Signal(), Signal(16), Signal(5)
        moved = Signal()        # a cycle late: every unit's state is in ``progress``
        self.sync += moved.eq(self.progress)
        self.sync += If(~self.enable | moved, silence.eq(0)).Elif(silence != self.limit, silence.eq(silence + 1))
        self.comb += Case(turn, {q: [
            stuck.eq(queue.head.oldest | (queue.wait & queue.blocked)),
            index.eq(queue.head.index),
            token.eq(Mux(queue.head.oldest, NO_TOKEN, tokens.blocked_token[q])),
        ] for q, queue in enumerate(queues)})
        self.fsm = fsm = FSM(reset_state="WATCH")
        fsm.act("WATCH",
            NextValue(turn, 0), NextValue(found, 0),
            NextValue(self.queue, FETCH), NextValue(self.index, position), NextValue(self.token, NO_TOKEN),
            If(self.enable & (self.limit != 0) & (silence == self.limit), NextState("FIND")),
        )
        fsm.act("FIND",
            If(stuck & (~found | (index < self.index)),
                NextValue(found, 1),
                NextValue(self.queue, turn), NextValue(self.index, index), NextValue(self.token, token),
            ),
            NextValue(turn, turn + 1),
            If(turn == len(queues) - 1, NextState("REPORT")),
        )
        fsm.act("REPORT", self.error.eq(self.enable), If(~self.enable, NextState("WATCH")))
