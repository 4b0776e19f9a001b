"""LOAD: DRAM -> SPM, WBUF or parameter memory.

Every position goes two ways: its address to the DRAM reader, and a tag (where the word belongs, or that it is a zero)
into a FIFO. Words come back in order and are written where the oldest tag says. Addresses run ahead of the data by
``dma_depth`` words, across descriptors, so a row of LOADs reads the DRAM without a gap.

Throughput: one word a cycle, or what the DRAM gives. ``done`` when the descriptor's last word is written.
"""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores import isa
from litediffusion.cores.fifo import BlockFifo
from litediffusion.cores.ports import MemoryPort
from litediffusion.cores.transfer import Transfer


class Load(LiteXModule):
    """LOAD unit on a LiteDRAM read port.

    sink, done, error, error_code, error_index, halt, active, stall
                unit interface; ``stall``: waiting for DRAM data or for an on-chip memory
    spm, wbuf, param
                memory clients, writes only (``param``: words, four a record)
    beat        a DRAM word was received
    Once ``halt`` is set no new address is made, words under way are received, and ``active`` falls.
    """

    def __init__(self, config, port):
        self.transfer = transfer = Transfer(config, "LOAD", port.address_width)
        self.sink = transfer.sink
        self.done = Signal()
        self.error, self.error_code, self.error_index = transfer.error, transfer.error_code, transfer.error_index
        self.halt = transfer.halt
        self.active = Signal()
        self.stall = Signal()
        self.beat = Signal()
        self.spm = MemoryPort(config.spm_words, config.word_bits)
        self.wbuf = MemoryPort(config.wbuf_words, config.word_bits)
        self.param = MemoryPort(config.param_words * isa.PARAM_BYTES // config.word_bytes, config.word_bits, we_bits=1)

        # # #

        # A tag for every word asked for, so data never come without room.
        self.words = words = BlockFifo([("data", config.word_bits)], config.dma_depth)
        self.tags = tags = BlockFifo([("chip", 16), ("mem", 2), ("inside", 1), ("end", 1)], config.dma_depth)
        place, tag, word = transfer.source, tags.source, words.source
        self.comb += [
            port.cmd.addr.eq(place.adr),
            port.cmd.valid.eq(place.valid & place.inside & tags.sink.ready),
            place.connect(tags.sink, keep={"chip", "mem", "inside", "end"}),
            tags.sink.valid.eq(place.valid & (port.cmd.ready | ~place.inside)),
            place.ready.eq(tags.sink.ready & (port.cmd.ready | ~place.inside)),
            words.sink.valid.eq(port.rdata.valid), words.sink.data.eq(port.rdata.data), port.rdata.ready.eq(1),
        ]
        # The memory that a word is written to follows registers: block RAM answers late, and so do the memories' arbiters.
        layout = [("data", config.word_bits), ("chip", 16), ("mem", 2), ("last_word", 1)]
        self.out = out = stream.Buffer(layout, pipe_valid=True, pipe_ready=True)
        valid, here, granted = out.source.valid, Signal(), Signal()
        clients = {isa.MEM["SPM"]: self.spm, isa.MEM["WBUF"]: self.wbuf, isa.MEM["PARAM"]: self.param}
        for number, client in clients.items():
            # Words of a halted LOAD are still written: its memory is free then, and the DRAM's words must go somewhere.
            self.comb += [
                client.valid.eq(valid & (out.source.mem == number)),
                client.adr.eq(out.source.chip), client.dat_w.eq(out.source.data), client.we.eq(2**len(client.we) - 1),
                If(client.valid & client.ready, granted.eq(1)),
            ]
        self.comb += [
            out.source.ready.eq(granted),
            out.sink.valid.eq(tag.valid & (~tag.inside | word.valid)), here.eq(out.sink.valid & out.sink.ready),
            out.sink.data.eq(Mux(tag.inside, word.data, 0)),
            out.sink.chip.eq(tag.chip), out.sink.mem.eq(tag.mem), out.sink.last_word.eq(tag.end),
            tag.ready.eq(here),
            word.ready.eq(here & tag.inside),
            self.done.eq(granted & out.source.last_word & ~self.halt),
            self.beat.eq(port.rdata.valid),
            self.active.eq(transfer.active | ~tags.empty | valid),
            self.stall.eq((~tags.empty | valid) & ~granted),
        ]
