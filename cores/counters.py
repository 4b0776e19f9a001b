"""Counters by cause, and the watchdog that turns silence into an error."""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.tokens import NO_TOKEN

FETCH = len(isa.QUEUES)     # number of the fetcher where a queue is named


class Counters(LiteXModule):
    """32-bit counters: ``causes`` maps a register name to the signal that is added each cycle while ``enable``.

    Signals are counted a cycle late, the constant 1 at once: ``done`` comes from deep inside the units.
    """

    def __init__(self, causes):
        self.clear, self.enable = Signal(), Signal()
        self.values = {name: Signal(32, name=name) for name in causes}

        # # #

        enabled = Signal()
        self.sync += enabled.eq(self.enable)
        for name, cause in causes.items():
            value, enable, late = self.values[name], self.enable, cause
            if not isinstance(cause, int):
                enable, late = enabled, Signal(2, name=f"{name}_late", reset_less=True)
                self.sync += late.eq(cause)
            self.sync += If(self.clear, value.eq(0)).Elif(enable, value.eq(value + late))


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
            stuck.eq(queue.oldest | (queue.waits.valid & queue.blocked)),
            index.eq(Mux(queue.oldest, queue.oldest_index, queue.source.index)),
            token.eq(Mux(queue.oldest, NO_TOKEN, tokens.blocked_token[q])),
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
