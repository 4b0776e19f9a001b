"""Trace: a 16-byte record of every completed descriptor, written to a buffer in the engine's window."""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores.queue import STALL_BITS, WAIT_BITS
from litediffusion.cores.regs import TRACE_FIELDS

DEPTH = 16      # records that wait for the DRAM


def record_layout():
    """A completed descriptor, in the order of regs.TRACE_FIELDS but for its end, which is now."""
    widths = {"wait_token": WAIT_BITS, "wait_dram": STALL_BITS}
    return [(name, widths.get(name, bits)) for name, bits in TRACE_FIELDS if name != "end"]


class Trace(LiteXModule):
    """Records -> (address, data) for a LiteDRAMDMAWriter.

    sink        one record a cycle, never held back
    time        the current cycle, the record's ``end``
    clear       forget the counts and start at the buffer's begin
    count, dropped
                records accepted and records lost, because the buffer or the window ended or the DRAM was too slow
    """

    def __init__(self, config, address_width):
        self.enable, self.addr, self.size = Signal(), Signal(32), Signal(32)
        self.window_base, self.window_size = Signal(32), Signal(32)
        self.time, self.clear = Signal(32), Signal()
        self.sink = sink = stream.Endpoint(record_layout())
        self.source = source = stream.Endpoint([("address", address_width), ("data", config.word_bits)])
        self.count, self.dropped = Signal(32), Signal(32)
        self.active = Signal()

        # # #

        shift = log2_int(config.word_bytes)
        self.fifo = fifo = stream.SyncFIFO([("data", 128)], DEPTH)
        room, written = Signal(), Signal(32 - shift)
        word = Signal(32 - shift + 1)
        waiting, record = Signal(), Signal(128, reset_less=True)     # a cycle between the queues and the FIFO
        self.comb += [
            word.eq(self.addr[shift:] + written),
            room.eq((self.count < self.size[shift:]) & (self.addr[shift:] + self.count < self.window_size[shift:])),
            fifo.sink.valid.eq(waiting & room),
            fifo.sink.data.eq(record),
            sink.ready.eq(1),
            source.valid.eq(fifo.source.valid),
            source.address.eq(self.window_base[shift:] + word),
            source.data.eq(fifo.source.data),
            fifo.source.ready.eq(source.ready),
            self.active.eq(waiting | fifo.source.valid),
        ]
        self.sync += [
            waiting.eq(sink.valid & self.enable & ~self.clear),
            record.eq(Cat(*[self.time if name == "end" else getattr(sink, name) for name, _ in TRACE_FIELDS])),
            If(waiting,
                If(fifo.sink.ready & room, self.count.eq(self.count + 1)).Else(self.dropped.eq(self.dropped + 1))),
            If(source.valid & source.ready, written.eq(written + 1)),
            If(self.clear, self.count.eq(0), self.dropped.eq(0), written.eq(0)),
        ]
