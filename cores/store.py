"""STORE: SPM -> DRAM.

Words are read from the SPM a few ahead of the DRAM writer and leave in order. Throughput one word a cycle, or what the
DRAM takes.

``done`` comes when the DRAM port has accepted the last word's command and its data lie in the writer's FIFO. A LOAD that
a token makes wait for it then reads the new word, although it uses another port: LiteDRAM's crossbar hands accepted
commands of all ports to one queue for each bank, which keeps their order, and an access to the same address goes to the same
bank; and the data are there when the bank asks, because they entered the FIFO together with the command. This holds for
ports of the controller's own width and clock domain only, and the engine takes no others.
"""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores.ports import MemoryPort
from litediffusion.cores.transfer import Transfer

AHEAD = 4       # words read from the SPM and not yet written: covers its one cycle of latency at full rate


class Store(LiteXModule):
    """STORE unit.

    sink, done, error, error_code, error_index, halt, active, stall
                unit interface; ``stall``: waiting for the SPM or for the DRAM to take a word
    spm         memory client, reads only
    source      (address, data) for a LiteDRAMDMAWriter
    Once ``halt`` is set only words already read still go to the DRAM, then ``active`` falls.
    """

    def __init__(self, config, address_width):
        self.transfer = transfer = Transfer(config, "STORE", address_width)
        self.sink = transfer.sink
        self.done = Signal()
        self.error, self.error_code, self.error_index = transfer.error, transfer.error_code, transfer.error_index
        self.halt = transfer.halt
        self.active = Signal()
        self.stall = Signal()
        self.spm = MemoryPort(config.spm_words, config.word_bits)
        self.source = stream.Endpoint([("address", address_width), ("data", config.word_bits)])

        # # #

        self.places = places = stream.SyncFIFO([("address", address_width), ("end", 1)], AHEAD)
        self.words = words = stream.SyncFIFO([("data", config.word_bits)], AHEAD)
        place, read, sent = transfer.source, Signal(), Signal()
        self.comb += [
            self.spm.valid.eq(place.valid & places.sink.ready & ~self.halt),
            self.spm.adr.eq(place.chip),
            read.eq(self.spm.valid & self.spm.ready),
            places.sink.valid.eq(read),
            places.sink.address.eq(place.adr),
            places.sink.end.eq(place.end),
            place.ready.eq(read | self.halt),
            # There is room: ``words`` never holds more than ``places``.
            words.sink.valid.eq(self.spm.rvalid),
            words.sink.data.eq(self.spm.dat_r),
            self.source.valid.eq(words.source.valid),
            self.source.address.eq(places.source.address),
            self.source.data.eq(words.source.data),
            sent.eq(self.source.valid & self.source.ready),
            words.source.ready.eq(sent),
            places.source.ready.eq(sent),
            self.done.eq(sent & places.source.end & ~self.halt),
            self.active.eq(transfer.active | places.source.valid),
            self.stall.eq((place.valid | places.source.valid) & ~read & ~sent),
        ]
