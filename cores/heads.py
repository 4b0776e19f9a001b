"""The queues' memory: descriptors from the fetcher to the heads of their queues, in block RAM shared by all queues.

    fetch -> memory (a ring for each queue) -> loader -> heads -> units
                                                 \\-> slots: index, waits, adds of a queue's last descriptors -> tokens
"""

from functools import reduce
from operator import or_

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.check import WORD, WORDS
from litediffusion.cores.memory import block_ram
from litediffusion.cores.ports import DescriptorSink, descriptor_fields
from litediffusion.cores.tokens import slots_layout, slots_of

QUEUES = len(isa.QUEUES)
INDEX_BITS = 16
SLOTS = 8               # descriptors of a queue at its head, in a unit, or with tokens left to add; one is kept free
MARGIN = 4              # descriptors that may still come when a queue says that it is full: fetch.PREFETCH words and two more


class WritePort(Record):
    """The fetcher's side: word ``word`` of the descriptor ``index`` into entry ``slot`` of ``queue``; ``commit``: it is whole."""

    def __init__(self, config):
        Record.__init__(self, [
            ("we", 1), ("queue", bits_for(QUEUES - 1)), ("slot", bits_for(config.queue_depth - 1)), ("word", bits_for(WORDS - 1)),
            ("data", WORD), ("index", INDEX_BITS), ("commit", QUEUES),
        ])


class Head(LiteXModule):
    """A queue's head and its pointers into the queue's slots.

    source          the descriptor; ``ready`` takes it, the next one follows eight cycles later
    header          its waits are known, some cycles before it is valid
    done, counted   pulses from the queue: the oldest descriptor in a unit has completed, its tokens have been added
    oldest          a descriptor is in a unit
    completed       a descriptor has completed and its tokens have not been added
    index           of the oldest descriptor that has not completed, the head included; a few cycles late
    empty           no descriptor waits, runs or has tokens left to add
    """

    def __init__(self, depth):
        self.source = source = DescriptorSink()
        self.header, self.done, self.counted = Signal(), Signal(), Signal()
        self.oldest, self.completed, self.empty = Signal(), Signal(), Signal()
        self.index = Signal(INDEX_BITS, reset_less=True)
        self.start, self.commit, self.full = Signal(), Signal(), Signal()
        # To the loader: ``begin`` answers ``wanted``, ``arrived`` is a word.
        self.wanted, self.begin, self.ending, self.arrived = Signal(), Signal(), Signal(), Signal(WORDS)
        self.first = Signal(max=depth)
        self.slot, self.undone, self.uncounted = (Signal(max=SLOTS) for _ in range(3))
        self.data, self.data_index = Signal(WORD), Signal(INDEX_BITS)

        # # #

        level, occupied, handed = Signal(max=depth + 1), Signal(), Signal(max=SLOTS)
        desc, index = Signal(isa.DESC_BITS, reset_less=True), Signal(INDEX_BITS, reset_less=True)
        room, taken = Signal(), Signal()
        self.comb += [
            self.wanted.eq((level != 0) & ~occupied & room),
            source.desc.eq(desc), source.index.eq(index), taken.eq(source.valid & source.ready),
            self.oldest.eq(self.undone != handed), self.completed.eq(self.uncounted != self.undone),
            self.empty.eq((level == 0) & ~occupied & (self.slot == self.uncounted)),
        ]
        self.sync += [
            self.full.eq(level >= depth - MARGIN),
            level.eq(level + self.commit - self.ending),
            If(self.ending, self.first.eq(self.first + 1)), If(self.start, self.first.eq(0)),
            room.eq((self.slot + 1)[:len(self.slot)] != self.uncounted),
            If(self.begin, occupied.eq(1)),
            *[If(self.arrived[k], desc[k * WORD:(k + 1) * WORD].eq(self.data)) for k in range(WORDS)],
            If(self.arrived[0], self.header.eq(1), index.eq(self.data_index), self.slot.eq(self.slot + 1)),
            If(self.arrived[WORDS - 1], source.valid.eq(1)),
            If(taken, occupied.eq(0), self.header.eq(0), source.valid.eq(0), handed.eq(handed + 1)),
            If(self.done, self.undone.eq(self.undone + 1)),
            If(self.counted, self.uncounted.eq(self.uncounted + 1)),
        ]


class Heads(LiteXModule):
    """Memory, loader and heads of all queues.

    write           WritePort
    start           in: a program begins, all queues are empty
    full            a queue has room for MARGIN descriptors only
    heads           a Head for each queue
    choice          in: a queue, a cycle before
    waits, adds     out: slots of its head; slots of its oldest completed descriptor
    added_index     index of the latter
    One word a cycle; a head is full six cycles after the loader turned to it.
    """

    def __init__(self, config):
        if config.queue_depth & (config.queue_depth - 1) or not 2 * MARGIN <= config.queue_depth <= 64:
            raise ValueError(f"queue_depth={config.queue_depth} must be a power of two in {2 * MARGIN}..64")
        self.write = write = WritePort(config)
        self.start, self.full = Signal(), Signal()
        self.heads = [Head(config.queue_depth) for _ in range(QUEUES)]
        self.submodules += self.heads
        self.choice = Signal(max=QUEUES)
        self.waits, self.adds = Record(slots_layout()), Record(slots_layout())
        self.added_index = Signal(INDEX_BITS)

        # # #

        memory = block_ram(WORD + INDEX_BITS, QUEUES * config.queue_depth * WORDS, name="descriptors")
        port, self.read = memory.get_port(write_capable=True, mode=READ_FIRST), memory.get_port(mode=READ_FIRST)
        self.specials += memory, port, self.read
        self.comb += [
            port.adr.eq(Cat(write.word, write.slot, write.queue)), port.we.eq(write.we), port.dat_w.eq(Cat(write.data, write.index)),
            self.full.eq(reduce(or_, [head.full for head in self.heads])),
            *[part for q, head in enumerate(self.heads) for part in (head.commit.eq(write.commit[q]), head.start.eq(self.start))],
        ]
        self.add_loader()
        self.add_slots()

    def add_loader(self):
        """One head after the other, the first that wants a descriptor."""
        busy, queue, word = Signal(), Signal(max=QUEUES), Signal(max=WORDS)
        chosen, wanted, first = Signal(max=QUEUES), Signal(), Signal(len(self.heads[0].first))
        self.arrives, self.arriving, self.arriving_word = Signal(), Signal(max=QUEUES, reset_less=True), Signal(max=WORDS, reset_less=True)
        ending = busy & (word == WORDS - 1)
        for q, head in reversed(list(enumerate(self.heads))):
            self.comb += If(head.wanted, chosen.eq(q), wanted.eq(1))
        for q, head in enumerate(self.heads):
            self.comb += [
                head.begin.eq(~busy & wanted & (chosen == q)),
                head.ending.eq(ending & (queue == q)),
                head.data.eq(self.read.dat_r[:WORD]), head.data_index.eq(self.read.dat_r[WORD:]),
                *[head.arrived[k].eq(self.arrives & (self.arriving == q) & (self.arriving_word == k)) for k in range(WORDS)],
            ]
        self.comb += [
            Case(queue, {q: first.eq(head.first) for q, head in enumerate(self.heads)}),
            self.read.adr.eq(Cat(word, first, queue)),
        ]
        self.sync += [
            If(~busy, busy.eq(wanted), queue.eq(chosen)).Elif(ending, busy.eq(0)),
            If(busy, word.eq(word + 1)),
            self.arrives.eq(busy), self.arriving.eq(queue), self.arriving_word.eq(word),
        ]

    def add_slots(self):
        """What is kept of a descriptor while it is in a unit, written when its header arrives."""
        header = descriptor_fields(self.read.dat_r, "END")
        slot, uncounted, undone = (Signal(max=SLOTS) for _ in range(3))
        turn, oldest = Signal(max=QUEUES), Signal(INDEX_BITS)
        pick = lambda queue, signal, name: Case(queue, {q: signal.eq(getattr(head, name)) for q, head in enumerate(self.heads)})
        we = self.arrives & (self.arriving_word == 0)
        index = self.read.dat_r[WORD:]
        self.comb += [
            pick(self.arriving, slot, "slot"), pick(self.choice, uncounted, "uncounted"), pick(turn, undone, "undone"),
            self.memory(slots_of(header, "wait"), self.arriving, we, self.waits.raw_bits(), self.choice),
            self.memory(Cat(slots_of(header, "add"), index), Cat(slot, self.arriving), we,
                        Cat(self.adds.raw_bits(), self.added_index), Cat(uncounted, self.choice)),
            self.memory(index, Cat(slot, self.arriving), we, oldest, Cat(undone, turn)),
        ]
        self.sync += [turn.eq(turn + 1), Case(turn, {q: head.index.eq(oldest) for q, head in enumerate(self.heads)})]

    def memory(self, dat_w, write_adr, we, dat_r, read_adr):
        """A small memory that answers at once; the statements that connect it."""
        memory = Memory(len(dat_w), 2**len(write_adr))
        write, read = memory.get_port(write_capable=True), memory.get_port(async_read=True)
        self.specials += memory, write, read
        return [write.adr.eq(write_adr), write.we.eq(we), write.dat_w.eq(dat_w), read.adr.eq(read_adr), dat_r.eq(read.dat_r)]
