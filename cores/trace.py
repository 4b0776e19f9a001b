"""Trace: a 16-byte record of every completed descriptor, written to a buffer in the engine's window."""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores.regs import TRACE_FIELDS


def record_layout():
    """A completed descriptor, in the order of regs.TRACE_FIELDS but for its end, which is now."""
    return [(name, bits) for name, bits in TRACE_FIELDS if name != "end"]


class Trace(LiteXModule):
    """Records -> (address, data) for STORE's writer.

    sink        records; the next one is held back until the writer has taken the last, some cycles
    time        the current cycle, the record's ``end``
    clear       start at the buffer's begin
    counted, dropped
                pulses: a record was accepted, one was lost because the buffer or the window has ended
    """

    def __init__(self, config, address_width):
        self.enable, self.addr, self.size = Signal(), Signal(32), Signal(32)
        self.window_base, self.window_size = Signal(32), Signal(32)
        self.time, self.clear = Signal(32), Signal()
        self.sink = sink = stream.Endpoint(record_layout())
        self.source = source = stream.Endpoint([("address", address_width), ("data", config.word_bits)])
        self.counted, self.dropped = Signal(), Signal()
        self.active = Signal()

        # # #

        shift = log2_int(config.word_bytes)
        count, word = Signal(32 - shift), Signal(32 - shift + 1, reset_less=True)
        room, known, new = Signal(reset_less=True), Signal(), Signal()
        waiting, record = Signal(), Signal(128, reset_less=True)
        # The place follows from the count in one cycle, whether there is room in the next: a record waits for both.
        self.comb += [
            sink.ready.eq(~waiting),
            new.eq(sink.valid & ~waiting & self.enable),
            source.valid.eq(waiting & known & room), source.data.eq(record),
            self.counted.eq(source.valid & source.ready),
            self.dropped.eq(waiting & known & ~room),
            self.active.eq(waiting),
        ]
        self.sync += [
            word.eq(self.addr[shift:] + count),
            room.eq((count < self.size[shift:]) & (word < self.window_size[shift:])),
            source.address.eq(self.window_base[shift:] + word),
            known.eq(waiting & ~self.counted & ~self.dropped),
            If(new, waiting.eq(1),
                record.eq(Cat(*[self.time if name == "end" else getattr(sink, name) for name, _ in TRACE_FIELDS]))),
            If(self.counted, count.eq(count + 1)),
            If(self.counted | self.dropped | self.clear, waiting.eq(0)),
            If(self.clear, count.eq(0)),
        ]
