"""A range of DRAM as a stream of 32-bit words, to or from one native port."""

from math import log2

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

WORD_BITS = 32
DEPTH = 16                 # native words on the way, in each direction


class BulkMemory(LiteXModule):
    """Writes ``sink`` to a range, or reads a range to ``source``; one 32-bit word a cycle where the DRAM keeps up.

    Ranges are whole native words. Data are in the FIFO before their command, as LiteDRAM asks, and reads are reserved in
    the FIFO before theirs.

    Parameters
    ----------
    port : LiteDRAM port of mode "both", at least 32 bits wide, in domain sys
    count_bits : bits of a count of native words

    Attributes
    ----------
    start : in, a strobe with ``we``, ``address`` and ``count`` (native words, not 0), while ``idle``
    idle : out, nothing is under way; words written before are seen by every later read
    sink, source : streams of 32-bit words; ``source.last`` marks the range's last one
    """

    def __init__(self, port, count_bits):
        lanes = port.data_width // WORD_BITS
        self.start = Signal()
        self.we = Signal()
        self.address = Signal(port.address_width)
        self.count = Signal(count_bits)
        self.idle = Signal()
        self.sink = stream.Endpoint([("data", WORD_BITS)])
        self.source = stream.Endpoint([("data", WORD_BITS)])

        # # #

        # left: native words still to pass at the stream's side; ahead: those still to be asked for, or queued without command.
        self.left, self.ahead = Signal(count_bits), Signal(count_bits)
        self.lane, self.native_end = Signal(max(int(log2(lanes)), 1)), Signal()
        self.move, self.native_done = Signal(), Signal()
        self.writing = Signal()
        native, command = Signal(port.address_width, reset_less=True), Signal()
        self.add_writer(port, lanes)
        self.add_reader(port, lanes)
        self.comb += [
            self.native_end.eq(self.lane == lanes - 1),
            self.native_done.eq(self.move & self.native_end),
            self.move.eq((self.sink.valid & self.sink.ready) | (self.source.valid & self.source.ready)),
            port.cmd.addr.eq(native), port.cmd.we.eq(self.writing),
            port.cmd.valid.eq(Mux(self.writing, self.queued != 0, (self.ahead != 0) & (self.asked != DEPTH))),
            command.eq(port.cmd.valid & port.cmd.ready),
            self.idle.eq((self.left == 0) & self.written),
        ]
        self.sync += [
            If(self.move, self.lane.eq(self.lane + 1)),
            If(self.native_done, self.left.eq(self.left - 1), self.lane.eq(0)),
            If(command, native.eq(native + 1), self.ahead.eq(self.ahead - 1)),
            If(self.start, self.left.eq(self.count), self.ahead.eq(self.count), native.eq(self.address), self.writing.eq(self.we)),
            self.queued.eq(self.queued + self.taken - (command & self.writing)),
            self.asked.eq(self.asked + (command & ~self.writing) - self.used),
        ]

    def add_writer(self, port, lanes):
        """Gather words and queue them; each queued native word may have its command."""
        data, full = Signal(port.data_width, reset_less=True), Signal()
        self.write_fifo = fifo = stream.SyncFIFO([("data", port.data_width)], DEPTH)
        self.queued, self.taken, self.written = Signal(max=DEPTH + 1), Signal(), Signal()
        self.comb += [
            self.sink.ready.eq(self.writing & (self.left != 0) & (~full | fifo.sink.ready)),
            fifo.sink.valid.eq(full), fifo.sink.data.eq(data), self.taken.eq(full & fifo.sink.ready),
            port.wdata.valid.eq(fifo.source.valid), fifo.source.ready.eq(port.wdata.ready),
            port.wdata.data.eq(fifo.source.data), port.wdata.we.eq(2**len(port.wdata.we) - 1),
            self.written.eq(~full & (self.queued == 0) & ~fifo.source.valid),
        ]
        self.sync += [
            If(self.taken, full.eq(0)),
            If(self.sink.valid & self.sink.ready,
                full.eq(self.native_end), data.eq(Cat(data, self.sink.data)[WORD_BITS:])),
        ]

    def add_reader(self, port, lanes):
        """Cut the native words that come into words; ``asked``: those in the FIFO or on the way to it."""
        self.read_fifo = fifo = stream.SyncFIFO([("data", port.data_width)], DEPTH)
        self.asked, self.used = Signal(max=DEPTH + 1), Signal()
        self.comb += [
            port.rdata.ready.eq(1), fifo.sink.valid.eq(port.rdata.valid), fifo.sink.data.eq(port.rdata.data),
            self.source.valid.eq(fifo.source.valid), self.source.last.eq((self.left == 1) & self.native_end),
            Case(self.lane, {i: self.source.data.eq(fifo.source.data[WORD_BITS * i:WORD_BITS * (i + 1)]) for i in range(lanes)}),
            fifo.source.ready.eq(self.source.ready & self.native_end),
            self.used.eq(fifo.source.valid & fifo.source.ready),
        ]
