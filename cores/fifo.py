"""A first-in first-out buffer in block RAM."""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores.memory import block_ram


class BlockFifo(LiteXModule):
    """``depth`` (a power of two) words of ``layout`` in block RAM, and one more in its output register.

    sink, source    streams; a word appears at ``source`` two cycles after it was accepted. One word a cycle
    empty           nothing waits, in the output register neither
    A word is read at the earliest in the cycle after it was written, so the memory needs no bypass, which costs a
    multiplexer and two registers a bit where a stream.SyncFIFO of LiteX has one.
    """

    def __init__(self, layout, depth):
        self.sink, self.source = sink, source = stream.Endpoint(layout), stream.Endpoint(layout)
        self.empty = Signal()

        # # #

        memory = block_ram(len(sink.payload.raw_bits()), depth, name="fifo")
        write, read = memory.get_port(write_capable=True, mode=READ_FIRST), memory.get_port(has_re=True, mode=READ_FIRST)
        self.specials += memory, write, read
        level, readable, full, taken = Signal(max=depth + 1), Signal(), Signal(), Signal()
        accepted = Signal()
        self.comb += [
            full.eq(level[-1]), self.empty.eq(~readable & ~source.valid), sink.ready.eq(~full), accepted.eq(sink.valid & ~full),
            write.we.eq(accepted), write.dat_w.eq(sink.payload.raw_bits()),
            source.payload.raw_bits().eq(read.dat_r),
            taken.eq(readable & (~source.valid | source.ready)), read.re.eq(taken),
        ]
        self.sync += [
            If(accepted, write.adr.eq(write.adr + 1)),
            If(taken, read.adr.eq(read.adr + 1), source.valid.eq(1)).Elif(source.ready, source.valid.eq(0)),
            If(accepted & ~taken, level.eq(level + 1), readable.eq(1))
            .Elif(taken & ~accepted, level.eq(level - 1), readable.eq(level != 1)),
        ]
