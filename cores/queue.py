"""One of the engine's queues: descriptors wait here for their tokens, then for their unit.

    fetch -> words FIFO -> head -> tokens -> unit(s) -> done -> adds, trace record
                              \\-> in-flight FIFO ------/
"""

from functools import reduce
from operator import or_

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores import isa
from litediffusion.cores.fetch import WORDS, queue_layout
from litediffusion.cores.ports import DescriptorSink, descriptor_fields
from litediffusion.cores.tokens import slots_layout, slots_of

IN_FLIGHT = 4           # descriptors a unit may have accepted and not completed
ERROR_DELAY = 2
WAIT_BITS = 24          # as in regs.TRACE_FIELDS
STALL_BITS = 20


class Head(LiteXModule):
    """Four words from the FIFO -> one descriptor at ``source``; five cycles between descriptors."""

    def __init__(self, depth):
        self.sink = stream.Endpoint(queue_layout())
        self.source = DescriptorSink()

        # # #

        self.fifo = fifo = stream.SyncFIFO(queue_layout(), WORDS * depth)
        desc = Signal(isa.DESC_BITS, reset_less=True)
        index = Signal(16, reset_less=True)
        self.count = count = Signal(max=WORDS + 1)
        self.comb += [
            self.sink.connect(fifo.sink),
            fifo.source.ready.eq(count != WORDS),
            self.source.valid.eq(count == WORDS),
            self.source.desc.eq(desc),
            self.source.index.eq(index),
        ]
        self.sync += [
            If(fifo.source.valid & fifo.source.ready,
                desc.eq(Cat(desc[128:], fifo.source.data)), index.eq(fifo.source.index), count.eq(count + 1)),
            If(self.source.valid & self.source.ready, count.eq(0)),
        ]


class Queue(LiteXModule):
    """A queue with the unit or units that it serves.

    sink            descriptors from the fetcher, four words each
    waits, adds     to Tokens
    units           {instruction: unit}; with several, a unit gets a descriptor only when the others have completed theirs
    halt            nothing is handed over any more
    empty           no descriptor waits, runs or has tokens left to add
    completed       adds.valid & adds.ready is a completed descriptor, with ``index``, ``start``, ``wait_token``,
                    ``wait_dram`` for the trace (fields of ``record``)
    busy, waiting, stalled
                    a unit runs; the head waits for a token while no unit runs; the running unit is stalled
    oldest, oldest_index
                    something is in a unit, and the index of the first such descriptor
    error, error_code, error_index
                    a unit's error, ERROR_DELAY cycles later, when its ``done`` of earlier descriptors have been counted
    Every unit has sink, done, error, error_code, halt, active, stall, and error_index where the failing descriptor need not
    be the oldest.
    """

    def __init__(self, depth, units):
        self.time = Signal(32)
        self.halt = Signal()
        self.waits, self.adds = stream.Endpoint(slots_layout()), stream.Endpoint(slots_layout())
        self.blocked = Signal()
        self.busy, self.waiting, self.stalled, self.empty = Signal(), Signal(), Signal(), Signal()
        self.record = Record([("index", 16), ("start", 32), ("wait_token", WAIT_BITS), ("wait_dram", STALL_BITS)])

        # # #

        self.head = Head(depth)
        self.sink, self.source = self.head.sink, self.head.source
        self.units = list(units.values())
        self.flying = stream.SyncFIFO([("index", 16), ("start", 32), ("wait_token", WAIT_BITS)] + slots_layout(), IN_FLIGHT)
        self.running = stream.SyncFIFO([("index", 16)], IN_FLIGHT)
        self.oldest, self.oldest_index = self.running.source.valid, self.running.source.index
        self.error, self.error_code, self.error_index = Signal(), Signal(8), Signal(16)
        self.done = Signal()
        self.comb += [
            self.done.eq(reduce(or_, [u.done for u in self.units])),
            self.busy.eq(reduce(or_, [u.active for u in self.units])),
            self.stalled.eq(reduce(or_, [u.stall for u in self.units])),
        ]
        self.add_hand_over(units)
        self.add_completion()
        self.add_errors()

    def add_hand_over(self, units):
        """Tokens first, then the unit."""
        head, flying, halt = self.source, self.flying.sink, self.halt
        d = descriptor_fields(head.desc, "END")
        granted, taken = Signal(), Signal()
        wait_token = Signal(WAIT_BITS)
        turn = Signal(max=max(2, len(units)))       # unit of the last hand-over
        self.comb += [
            self.waits.valid.eq(head.valid & ~granted),
            self.waits.payload.raw_bits().eq(slots_of(d, "wait")),
            self.waiting.eq(self.waits.valid & self.blocked & ~self.busy),
            flying.index.eq(head.index), flying.start.eq(self.time), flying.wait_token.eq(wait_token),
            Cat(*[getattr(flying, n) for n, _ in slots_layout()]).eq(slots_of(d, "add")),
        ]
        for k, (op, unit) in enumerate(units.items()):
            free = 1 if len(units) == 1 else (turn == k) | ~self.flying.source.valid
            offer = Signal()
            self.comb += [
                offer.eq(granted & ~halt & flying.ready & free & (d.opcode == isa.OPCODE[op])),
                unit.sink.valid.eq(offer),
                unit.sink.desc.eq(head.desc),
                unit.sink.index.eq(head.index),
                unit.halt.eq(halt),
                If(offer & unit.sink.ready, taken.eq(1)),
            ]
            self.sync += If(offer & unit.sink.ready, turn.eq(k))
        self.comb += [
            head.ready.eq(taken), flying.valid.eq(taken),
            self.running.sink.valid.eq(taken), self.running.sink.index.eq(head.index), self.running.source.ready.eq(self.done),
        ]
        self.sync += [
            If(self.waits.ready, granted.eq(1)),
            If(self.waiting & (wait_token != 2**WAIT_BITS - 1), wait_token.eq(wait_token + 1)),
            If(taken, granted.eq(0), wait_token.eq(0)),
        ]

    def add_completion(self):
        """Done pulses -> adds and record, one after the other."""
        flying, pending = self.flying.source, Signal(max=IN_FLIGHT + 1)
        wait_dram, counted = Signal(STALL_BITS), Signal()
        self.comb += [
            self.adds.valid.eq((pending != 0) & flying.valid),
            Cat(*[getattr(self.adds, n) for n, _ in slots_layout()]).eq(Cat(*[getattr(flying, n) for n, _ in slots_layout()])),
            counted.eq(self.adds.valid & self.adds.ready),
            flying.ready.eq(counted),
            self.record.index.eq(flying.index), self.record.start.eq(flying.start),
            self.record.wait_token.eq(flying.wait_token), self.record.wait_dram.eq(wait_dram),
            self.empty.eq(~self.head.fifo.source.valid & (self.head.count == 0) & ~flying.valid),
        ]
        self.sync += [
            pending.eq(pending + self.done - counted),
            If(counted, wait_dram.eq(self.stalled))
            .Elif(self.stalled & (wait_dram != 2**STALL_BITS - 1), wait_dram.eq(wait_dram + 1)),
        ]

    def add_errors(self):
        """Error pulses with the descriptor's index."""
        delay, code, known, index = Signal(ERROR_DELAY), Signal(8), Signal(), Signal(16)
        self.sync += delay.eq(delay << 1)
        for unit in self.units:
            self.sync += If(unit.error,
                delay[0].eq(1), code.eq(unit.error_code),
                *([known.eq(1), index.eq(unit.error_index)] if hasattr(unit, "error_index") else [known.eq(0)]),
            )
        self.comb += [
            self.error.eq(delay[-1]), self.error_code.eq(code), self.error_index.eq(Mux(known, index, self.oldest_index)),
        ]
