"""STORE: SPM -> DRAM, and the writer that puts its words and the trace's into the DRAM.

Words are read from the SPM a few ahead of the DRAM and leave in order. Throughput one word a cycle, or what the DRAM takes.

``done`` comes when the DRAM port has accepted the last word's command and its data lie in the writer's FIFO. A LOAD that
a token makes wait for it then reads the new word, although it uses another port: LiteDRAM's crossbar hands accepted
commands of all ports to one queue for each bank, which keeps their order, and an access to the same address goes to the same
bank; and the data are there when the bank asks, because they entered the FIFO before the command left. This holds for
ports of the controller's own width and clock domain only, and the engine takes no others.
"""

from functools import reduce
from operator import or_

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores.ports import READ_LATENCY, MemoryPort
from litediffusion.cores.transfer import Transfer

AHEAD = 16      # words between the SPM and the DRAM, a power of two


class Store(LiteXModule):
    """STORE unit on a LiteDRAM write port.

    sink, done, error, error_code, error_index, halt, active, stall
                unit interface; ``stall``: waiting for the SPM or for the DRAM to take a word
    spm         memory client, reads only
    traced      stream of (address, data) from the trace, which goes before the STORE's words
    beat        the DRAM took a word
    drained     no word is on its way to the DRAM
    Once ``halt`` is set only words already read still go to the DRAM, then ``active`` falls.
    """

    def __init__(self, config, port):
        self.transfer = transfer = Transfer(config, "STORE", port.address_width)
        self.sink = transfer.sink
        self.done = Signal()
        self.error, self.error_code, self.error_index = transfer.error, transfer.error_code, transfer.error_index
        self.halt = transfer.halt
        self.active, self.stall = Signal(), Signal()
        self.beat, self.drained = Signal(), Signal()
        self.spm = MemoryPort(config.spm_words, config.word_bits)
        self.traced = traced = stream.Endpoint([("address", port.address_width), ("data", config.word_bits)])

        # # #

        self.places = places = stream.SyncFIFO([("address", port.address_width), ("end", 1)], AHEAD)
        self.words = words = stream.SyncFIFO([("data", config.word_bits)], AHEAD)
        place, read, sent = transfer.source, Signal(), Signal()
        # Words from the SPM's grant, or the trace's, until the DRAM takes their data: never more than the FIFOs hold.
        taken, pending, room = Signal(), Signal(max=AHEAD + 1), Signal(reset=1)
        # The SPM answers, and a trace record enters, READ_LATENCY cycles later.
        travels = [("valid", 1), ("record", 1), ("address", port.address_width), ("end", 1)]
        asked = [Record(travels, name=f"asked{k}") for k in range(READ_LATENCY + 1)]
        arrived, record = asked[-1].valid, asked[-1].record
        under_way = lambda what: reduce(or_, [getattr(word, what) for word in asked[1:]])
        self.comb += [
            self.spm.valid.eq(place.valid & room & ~traced.valid & ~self.halt),
            self.spm.adr.eq(place.chip),
            read.eq(self.spm.valid & self.spm.ready),
            asked[0].valid.eq(taken), asked[0].record.eq(taken & ~read),
            asked[0].address.eq(Mux(read, place.adr, traced.address)), asked[0].end.eq(read & place.end),
            taken.eq(read | (traced.valid & room & ~under_way("record"))),
            place.ready.eq(read | self.halt),
            traced.ready.eq(record),
            places.sink.valid.eq(arrived), places.sink.address.eq(asked[-1].address),
            places.sink.end.eq(asked[-1].end),
            words.sink.valid.eq(arrived), words.sink.data.eq(Mux(record, traced.data, self.spm.dat_r)),
            port.cmd.valid.eq(places.source.valid), port.cmd.addr.eq(places.source.address), port.cmd.we.eq(1),
            places.source.ready.eq(port.cmd.ready),
            sent.eq(places.source.valid & port.cmd.ready),
            port.wdata.valid.eq(words.source.valid), port.wdata.data.eq(words.source.data),
            port.wdata.we.eq(2**config.word_bytes - 1),
            words.source.ready.eq(port.wdata.ready),
            self.beat.eq(port.wdata.valid & port.wdata.ready),
            self.done.eq(sent & places.source.end & ~self.halt),
            self.drained.eq(pending == 0),
            self.active.eq(transfer.active | under_way("valid") | places.source.valid),
            self.stall.eq((place.valid | places.source.valid) & ~read & ~sent),
        ]
        self.sync += [
            *[after.eq(before) for before, after in zip(asked, asked[1:])],
            pending.eq(pending + taken - self.beat),
            room.eq(pending + taken - self.beat < AHEAD),
        ]
