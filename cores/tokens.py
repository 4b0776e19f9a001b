"""The sixteen token counters.

One event a cycle, in two pipeline stages (choose, apply): the adds of a finished descriptor, or else the waits of one
queue's head. A head is granted when all its waits are satisfied at once; its tokens are taken in the same cycle. Adds go
first; heads are looked at in turn.
"""

from functools import reduce
from operator import add, and_

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores import isa

SLOTS = 3
NO_TOKEN = isa.TOKENS


def slots_layout():
    """Three (token, amount) pairs."""
    return [(f"{k}{i}", 4) for i in range(SLOTS) for k in ("token", "amount")]


def slots_of(descriptor, kind):
    """Value of a slots_layout() record: the waits or adds (``kind``) of a decoded descriptor signal."""
    return Cat(*[getattr(descriptor, f"{kind}{i}{n}") for i in range(SLOTS) for n in ("", "_n")])


class Tokens(LiteXModule):
    """Counters of isa.TOKENS with ``queues`` (a power of two) clients.

    counters    8 bits each; ``clear`` sets them to 0
    waits[q]    endpoint: the head of queue q. It must stay until ``ready``: its tokens are taken in that cycle
    adds[q]     endpoint: tokens of a completed descriptor
    blocked[q], blocked_token[q]
                the head was looked at and waits for this counter (NO_TOKEN: none)
    overflow, overflow_queue, overflow_token
                pulse, in the cycle after the add: a counter exceeded isa.TOKEN_LIMIT
    halt        no more grants and adds
    Latency: an add counts after 2 cycles; a head that can go is granted within 2 to 6 cycles and one more for each add.
    """

    def __init__(self, queues):
        self.clear, self.halt = Signal(), Signal()
        self.counters = [Signal(8, name=f"token{i}") for i in range(isa.TOKENS)]
        self.waits = [stream.Endpoint(slots_layout()) for _ in range(queues)]
        self.adds = [stream.Endpoint(slots_layout()) for _ in range(queues)]
        self.blocked = Signal(queues)
        self.blocked_token = [Signal(5, reset=NO_TOKEN) for _ in range(queues)]
        self.overflow, self.overflow_queue, self.overflow_token = Signal(), Signal(max=queues), Signal(5)

        # # #

        self.valid, self.adding, self.queue = Signal(), Signal(), Signal(max=queues)
        self.slots = Record(slots_layout())
        self.tokens = [getattr(self.slots, f"token{i}") for i in range(SLOTS)]
        self.amounts = [getattr(self.slots, f"amount{i}") for i in range(SLOTS)]
        self.add_choose(queues)
        self.add_waits(queues)
        self.add_counters()

    def add_choose(self, queues):
        """First stage: the event into ``valid``, ``adding``, ``queue``, ``slots``."""
        turn, adding, queue = Signal(max=queues), Signal(), Signal(max=queues)
        self.comb += queue.eq(turn)
        for q in reversed(range(queues)):
            self.comb += [
                If(self.adds[q].valid, adding.eq(1), queue.eq(q)),
                self.adds[q].ready.eq(self.adds[q].valid & adding & (queue == q) & ~self.halt),
            ]
        cases = {q: self.slots.raw_bits().eq(self.waits[q].payload.raw_bits()) for q in range(queues)}
        cases |= {queues + q: self.slots.raw_bits().eq(self.adds[q].payload.raw_bits()) for q in range(queues)}
        self.sync += [
            self.valid.eq((adding | Array([w.valid for w in self.waits])[queue]) & ~self.halt),
            self.adding.eq(adding),
            self.queue.eq(queue),
            Case(Cat(queue, adding), cases),
            If(~adding, turn.eq(turn + 1)),
        ]

    def add_waits(self, queues):
        """Second stage of a head: compare, grant or note what it waits for."""
        values = Array(self.counters)
        short, grant, missing = [Signal() for _ in range(SLOTS)], Signal(), Signal(5)
        for i in range(SLOTS):
            # Slots that name the same counter need the sum of their amounts.
            same = [Mux(self.tokens[j] == self.tokens[i], self.amounts[j], 0) for j in range(i)]
            self.comb += short[i].eq(values[self.tokens[i]] < reduce(add, same + [self.amounts[i]]))
        self.comb += missing.eq(self.tokens[2])
        for i in (1, 0):
            self.comb += If(short[i], missing.eq(self.tokens[i]))
        self.grant = grant
        self.comb += grant.eq(self.valid & ~self.adding & ~self.halt & reduce(and_, [~s for s in short]))
        for q in range(queues):
            here = self.queue == q
            self.comb += self.waits[q].ready.eq(grant & here)
            self.sync += If(self.valid & ~self.adding & here & ~self.halt,
                            self.blocked[q].eq(~grant), self.blocked_token[q].eq(Mux(grant, NO_TOKEN, missing)))

    def add_counters(self):
        """Second stage of all: every counter plus or minus the amounts of the slots that name it."""
        overflows = []
        for t, counter in enumerate(self.counters):
            change = reduce(add, [Mux(self.tokens[i] == t, self.amounts[i], 0) for i in range(SLOTS)])
            amount, delta, total, over = Signal(6), Signal((8, True)), Signal(9), Signal()
            self.comb += [amount.eq(change), delta.eq(Mux(self.adding, amount, -amount)), total.eq(counter + amount),
                          over.eq(self.valid & self.adding & (total > isa.TOKEN_LIMIT))]
            self.sync += [
                If((self.valid & self.adding) | self.grant, counter.eq(counter + delta)),
                If(self.clear, counter.eq(0)),
            ]
            overflows.append(If(over, self.overflow.eq(1), self.overflow_token.eq(t)))
        self.sync += [self.overflow.eq(0), *reversed(overflows), self.overflow_queue.eq(self.queue)]
