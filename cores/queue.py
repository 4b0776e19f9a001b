"""One of the engine's queues: the descriptor at its head waits here for its tokens, then for its unit.

    head -> tokens -> unit(s) -> done -> adds, trace record
"""

from functools import reduce
from operator import or_

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores import isa
from litediffusion.cores.heads import SLOTS
from litediffusion.cores.ports import descriptor_fields
from litediffusion.cores.regs import TRACE_FIELDS

# ``done`` of earlier descriptors is counted, and the head's index follows, before an error is reported.
ERROR_DELAY = 8
TRACE_BITS = dict(TRACE_FIELDS)


class Queue(LiteXModule):
    """A queue with the unit or units that it serves.

    head            its Head
    units           {instruction: unit}; with several, a unit gets a descriptor only when the others have completed theirs
    trace           True: keep the times for the trace
    halt            nothing is handed over any more
    late_halt       True: the units see it a cycle later, which is early enough for those without DRAM accesses
    wait, granted   the head waits for tokens; pulse: it has them
    add, counted    tokens of the oldest completed descriptor wait to be added; pulse: they are, and ``record`` holds its
                    ``start``, ``wait_token`` and ``wait_dram`` for the trace
    blocked         input: the head waits for a token that it lacks
    busy, waiting, stalled
                    a unit runs; the head waits for a token while no unit runs; the running unit was stalled one cycle ago
    error, error_code, error_index
                    a unit's error, ERROR_DELAY cycles later
    Every unit has sink, done, error, error_code, halt, active, stall, and error_index where the failing descriptor need not
    be the oldest.
    """

    def __init__(self, head, units, trace, late_halt):
        self.time, self.halt = Signal(TRACE_BITS["start"]), Signal()
        self.wait, self.granted, self.add, self.counted, self.blocked = (Signal() for _ in range(5))
        self.busy, self.waiting, self.stalled = Signal(), Signal(), Signal()
        self.record = Record([(name, TRACE_BITS[name]) for name in ("start", "wait_token", "wait_dram")])
        self.error, self.error_code, self.error_index = Signal(), Signal(8), Signal(16)
        self.done = Signal()

        # # #

        self.head, self.units, self.units_halt = head, list(units.values()), self.halt
        if late_halt:
            self.units_halt = Signal()
            self.sync += self.units_halt.eq(self.halt)
        self.taken = Signal()
        self.comb += [
            self.done.eq(reduce(or_, [u.done for u in self.units])),
            self.busy.eq(reduce(or_, [u.active for u in self.units])),
            head.done.eq(self.done), head.counted.eq(self.counted), self.add.eq(head.completed),
        ]
        # A register: whether a unit stalls is known late in a cycle, and only counters want to know.
        self.sync += self.stalled.eq(self.busy & reduce(or_, [u.stall for u in self.units]))
        self.add_hand_over(units)
        self.add_errors()
        if trace:
            self.add_record()

    def add_hand_over(self, units):
        """Tokens first, then the unit."""
        head, halt, source = self.head, self.halt, self.head.source
        opcode = descriptor_fields(source.desc, "END").opcode
        ready = Signal()                            # the head has its tokens
        has_tokens = Signal()
        turn = Signal(max=max(2, len(units)))       # unit of the last hand-over
        self.comb += [
            self.wait.eq(head.header & ~has_tokens),
            self.waiting.eq(self.wait & self.blocked & ~self.busy),
            ready.eq(has_tokens & source.valid & ~self.taken),
            source.ready.eq(self.taken),
        ]
        for k, (op, unit) in enumerate(units.items()):
            mine, offer, taken = 1, Signal(), Signal()
            if len(units) > 1:
                mine = (opcode == isa.OPCODE[op]) & ((turn == k) | ~head.oldest)
            self.comb += [
                unit.sink.valid.eq(offer & ~halt), unit.sink.desc.eq(source.desc), unit.sink.index.eq(source.index),
                unit.halt.eq(self.units_halt), taken.eq(unit.sink.valid & unit.sink.ready),
                If(taken, self.taken.eq(1)),
            ]
            # A register: who may have the descriptor takes long to find out.
            self.sync += [offer.eq(ready & mine), If(taken, turn.eq(k))]
        self.sync += [If(self.granted, has_tokens.eq(1)), If(self.taken, has_tokens.eq(0))]

    def add_record(self):
        """The times of the descriptors in units, and the cycles spent in waiting."""
        layout = [(name, TRACE_BITS[name]) for name in ("start", "wait_token")]
        times = self.times = stream.SyncFIFO(layout, SLOTS)
        wait_token, wait_dram = Signal(TRACE_BITS["wait_token"]), Signal(TRACE_BITS["wait_dram"])
        full = lambda counter: counter == 2**len(counter) - 1
        self.comb += [
            times.sink.valid.eq(self.taken), times.sink.start.eq(self.time), times.sink.wait_token.eq(wait_token),
            times.source.ready.eq(self.counted),
            self.record.start.eq(times.source.start), self.record.wait_token.eq(times.source.wait_token),
            self.record.wait_dram.eq(wait_dram),
        ]
        self.sync += [
            If(self.taken, wait_token.eq(0)).Elif(self.waiting & ~full(wait_token), wait_token.eq(wait_token + 1)),
            If(self.counted, wait_dram.eq(self.stalled)).Elif(self.stalled & ~full(wait_dram), wait_dram.eq(wait_dram + 1)),
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
            self.error.eq(delay[-1]), self.error_code.eq(code), self.error_index.eq(Mux(known, index, self.head.index)),
        ]
