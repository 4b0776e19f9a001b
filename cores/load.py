"""LOAD: DRAM -> SPM, WBUF or parameter memory.

Every position goes two ways: its address to the DRAM reader, and a tag (where the word belongs, or that it is a zero)
into a FIFO. Words come back in order and are written where the oldest tag says. Addresses run ahead of the data by
``dma_depth`` words, across descriptors, so a row of LOADs reads the DRAM without a gap.

Throughput: one word a cycle, or what the DRAM gives. ``done`` when the descriptor's last word is written.
"""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litedram.frontend.dma import LiteDRAMDMAReader

from litediffusion.cores import isa
from litediffusion.cores.ports import MemoryPort
from litediffusion.cores.transfer import Transfer


class Load(LiteXModule):
    """LOAD unit on a LiteDRAM read port.

    sink, done, error, error_code, error_index, halt, active, stall
                unit interface; ``stall``: waiting for DRAM data or for an on-chip memory
    spm, wbuf, param
                memory clients, writes only (``param``: words, four a record)
    beat        a DRAM word was received
    Once ``halt`` is set no new address is made, words under way are received and dropped, and ``active`` falls.
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

        self.reader = reader = LiteDRAMDMAReader(port, fifo_depth=config.dma_depth, fifo_buffered=True)
        self.tags = tags = stream.SyncFIFO([("chip", 16), ("mem", 2), ("inside", 1), ("end", 1)], config.dma_depth)
        place, tag = transfer.source, tags.source
        self.comb += [
            reader.sink.address.eq(place.adr),
            place.connect(tags.sink, keep={"chip", "mem", "inside", "end"}),
            reader.sink.valid.eq(place.valid & place.inside & tags.sink.ready),
            tags.sink.valid.eq(place.valid & (reader.sink.ready | ~place.inside)),
            place.ready.eq(tags.sink.ready & (reader.sink.ready | ~place.inside)),
        ]
        here, granted = Signal(), Signal()
        clients = {isa.MEM["SPM"]: self.spm, isa.MEM["WBUF"]: self.wbuf, isa.MEM["PARAM"]: self.param}
        for mem, client in clients.items():
            self.comb += [
                client.valid.eq(here & (tag.mem == mem) & ~self.halt),
                client.adr.eq(tag.chip),
                client.we.eq(2**len(client.we) - 1),
                client.dat_w.eq(Mux(tag.inside, reader.source.data, 0)),
                If(client.valid & client.ready, granted.eq(1)),
            ]
        self.comb += [
            here.eq(tag.valid & (~tag.inside | reader.source.valid)),
            If(self.halt, granted.eq(here)),        # nothing may keep the DRAM's words from being received
            tag.ready.eq(granted),
            reader.source.ready.eq(granted & tag.inside),
            self.done.eq(granted & tag.end & ~self.halt),
            self.beat.eq(port.rdata.valid & port.rdata.ready),
            self.active.eq(transfer.active | tag.valid),
            self.stall.eq(tag.valid & ~granted),
        ]
