"""The sixteen token counters.

Events, one at a time, in four pipeline stages (choose, read, add up, apply): the adds of a completed descriptor, or else the waits
of one queue's head. A head is granted when all its waits are satisfied at once. Adds go first; heads are looked at in turn.
The counters lie in a small memory, so the tokens of an event are taken or added one slot a cycle, and meanwhile no other
event is looked at.
"""

from functools import reduce
from operator import add

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa

SLOTS = 3
NO_TOKEN = isa.TOKENS
COUNTER_BITS = bits_for(isa.TOKEN_LIMIT)
TOGETHER = 4         # counters in a register of regs.REGS


def slots_layout():
    """Three (token, amount) pairs."""
    return [(f"{k}{i}", 4) for i in range(SLOTS) for k in ("token", "amount")]


def slots_of(descriptor, kind):
    """Value of a slots_layout() record: the waits or adds (``kind``) of a decoded descriptor signal."""
    return Cat(*[getattr(descriptor, f"{kind}{i}{n}") for i in range(SLOTS) for n in ("", "_n")])


class Tokens(LiteXModule):
    """Counters of isa.TOKENS with ``queues`` (a power of two) clients.

    clear       all counters to 0: isa.TOKENS cycles, as after a reset; no event is looked at
    wait[q], granted[q]
                the head of queue q waits; pulse: its tokens are taken
    add[q], added[q]
                queue q has a completed descriptor; pulse: its tokens are counted
    choice      out: the queue whose slots must be at ``waits`` and ``adds``
    waits, adds in: slots of the head and of the oldest completed descriptor of queue ``choice``
    taking      out: what was at ``choice`` a cycle before enters the last stage
    hold        no adds in this cycle
    blocked[q], blocked_token[q]
                the head was looked at and waits for this counter (NO_TOKEN: none)
    overflow, overflow_queue, overflow_token
                pulse, a few cycles after the add: a counter exceeded isa.TOKEN_LIMIT
    halt        no more grants and adds
    moved, moved_token, moved_value
                a counter gets a new value
    view, view_select
                TOGETHER counters from TOGETHER * view_select on, for the host
    Latency: an add counts 4 cycles after it is offered; a head that can go is granted within 4 to 8 cycles, and one to three
    more for each other event in between.
    """

    def __init__(self, queues):
        self.clear, self.halt, self.hold = Signal(), Signal(), Signal()
        self.wait, self.granted, self.add, self.added = (Signal(queues) for _ in range(4))
        self.choice, self.taking = Signal(max=queues), Signal()
        self.waits, self.adds = Record(slots_layout()), Record(slots_layout())
        self.blocked = Signal(queues)
        self.blocked_token = [Signal(5, reset=NO_TOKEN) for _ in range(queues)]
        self.overflow, self.overflow_queue, self.overflow_token = Signal(), Signal(max=queues), Signal(5)
        self.moved, self.moved_token, self.moved_value = Signal(), Signal(max=isa.TOKENS), Signal(COUNTER_BITS)
        self.view, self.view_select = Signal(TOGETHER * COUNTER_BITS), Signal(max=isa.TOKENS // TOGETHER)

        # # #

        self.valid, self.adding, self.queue = Signal(), Signal(), Signal(max=queues)
        self.slots = Record(slots_layout(), reset_less=True)
        self.tokens = [getattr(self.slots, f"token{i}") for i in range(SLOTS)]
        self.amounts = [getattr(self.slots, f"amount{i}") for i in range(SLOTS)]
        self.go = Signal()              # the event in the last stage acts
        self.applying = Signal()        # its later slots do
        self.clearing, self.cleared = Signal(reset=1), Signal(max=isa.TOKENS)
        self.add_choose(queues)
        self.add_counters()
        self.add_waits(queues)

    def add_choose(self, queues):
        """First three stages: the event into ``valid``, ``adding``, ``queue``, ``slots``. One that acts undoes those behind it."""
        turn = Signal(max=queues)
        free = self.taking & ~self.clearing & ~self.halt
        waits = Array([self.wait[q] for q in range(queues)])
        valid, adding, queue = Signal(2), Signal(2), Signal(max=queues)     # of the first stage, of the second
        read = Record(slots_layout(), reset_less=True)
        self.needs = [Signal(bits_for((i + 1) * isa.TOKEN_MAX), name=f"need{i}", reset_less=True) for i in range(SLOTS)]
        choose = [self.choice.eq(turn), valid[0].eq(waits[turn]), turn.eq(turn + 1)]
        for q in reversed(range(queues)):
            choose.append(If(self.add[q] & ~self.hold, self.choice.eq(q), valid[0].eq(1), turn.eq(turn)))
        following = [getattr(self.slots, f"{name}{i}").eq(getattr(self.slots, f"{name}{i + 1}"))
                     for i in range(SLOTS - 1) for name in ("token", "amount")]
        self.sync += [
            *choose, adding[0].eq((self.add != 0) & ~self.hold),
            valid[1].eq(valid[0]), adding[1].eq(adding[0]), queue.eq(self.choice),
            If(adding[0], read.raw_bits().eq(self.adds.raw_bits())).Else(read.raw_bits().eq(self.waits.raw_bits())),
            If(self.taking,
                self.adding.eq(adding[1]), self.queue.eq(queue), self.slots.raw_bits().eq(read.raw_bits()),
            ).Else(*following, self.amounts[-1].eq(0)),
            # Slots that name the same counter need the sum of their amounts.
            *[need.eq(reduce(add, [Mux(getattr(read, f"token{j}") == getattr(read, f"token{i}"), getattr(read, f"amount{j}"), 0)
                                   for j in range(i)] + [getattr(read, f"amount{i}")])) for i, need in enumerate(self.needs)],
            self.valid.eq(valid[1] & free),
            If(~free, valid.eq(0)),
            self.applying.eq(~self.taking & (Cat(*self.amounts[1:]) != 0)),
        ]
        self.comb += self.taking.eq(~self.go & ~self.applying)
        self.comb += [self.added[q].eq(self.go & self.adding & (self.queue == q)) for q in range(queues)]

    def add_counters(self):
        """Copies of the counters, one for each slot; the first slot's counter moves."""
        self.values = [Signal(COUNTER_BITS, name=f"value{i}") for i in range(SLOTS)]
        total, adr, we, data = Signal(COUNTER_BITS + 1), self.moved_token, self.moved, self.moved_value
        writing = self.go | self.applying
        over = writing & self.adding & total[-1]
        self.comb += [
            If(self.adding, total.eq(self.values[0] + self.amounts[0])).Else(total.eq(self.values[0] - self.amounts[0])),
            we.eq(writing | self.clearing),
            If(self.clearing, adr.eq(self.cleared)).Else(adr.eq(self.tokens[0]), data.eq(total)),
        ]
        self.copies = [self.add_memory(adr, we, data, token, value) for token, value in zip(self.tokens, self.values)]
        for k in range(TOGETHER):
            self.add_memory(adr[2:], we & (adr[:2] == k), data, self.view_select, self.view[k * COUNTER_BITS:(k + 1) * COUNTER_BITS])
        self.sync += [
            self.overflow.eq(over), self.overflow_queue.eq(self.queue), self.overflow_token.eq(self.tokens[0]),
            If(self.clearing, self.cleared.eq(self.cleared + 1), If(self.cleared == isa.TOKENS - 1, self.clearing.eq(0))),
            If(self.clear, self.clearing.eq(1)),
        ]

    def add_memory(self, adr, we, data, read_adr, value):
        """A small memory of counters that answers at once."""
        memory = Memory(COUNTER_BITS, 2**len(read_adr))
        write, read = memory.get_port(write_capable=True), memory.get_port(async_read=True)
        self.specials += memory, write, read
        self.comb += [write.adr.eq(adr), write.we.eq(we), write.dat_w.eq(data), read.adr.eq(read_adr), value.eq(read.dat_r)]
        return memory

    def add_waits(self, queues):
        """Last stage of a head: compare, grant or note what it waits for."""
        short, missing = Signal(SLOTS), Signal(5)
        self.comb += [
            *[short[i].eq(value < need) for i, (value, need) in enumerate(zip(self.values, self.needs))],
            missing.eq(self.tokens[2]), If(short[1], missing.eq(self.tokens[1])), If(short[0], missing.eq(self.tokens[0])),
            self.go.eq(self.valid & ~self.halt & (self.adding | (short == 0))),
        ]
        for q in range(queues):
            here = self.valid & ~self.adding & (self.queue == q)
            self.comb += self.granted[q].eq(self.go & ~self.adding & (self.queue == q))
            self.sync += If(here & ~self.halt,
                            self.blocked[q].eq(short != 0), self.blocked_token[q].eq(Mux(short == 0, NO_TOKEN, missing)))
