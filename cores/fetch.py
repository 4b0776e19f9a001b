"""Fetch: reads the program from DRAM, checks each descriptor and deals it out to the queues in program order."""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litedram.frontend.dma import LiteDRAMDMAReader

from litediffusion.cores import isa
from litediffusion.cores.check import DescriptorCheck

WORDS = isa.DESC_BITS // 128    # DRAM words a descriptor
PREFETCH = 16                   # DRAM words


def queue_layout():
    """A quarter of a descriptor on its way into a queue."""
    return [("data", 128), ("index", 16)]


class Fetch(LiteXModule):
    """Fetcher on a LiteDRAM read port.

    start, halt, idle   ``start``: begin at ``program_addr`` (bytes in the window, a multiple of 16), only while idle;
                        ``idle`` also means that no word is under way from the DRAM
    sources             one stream for each of isa.QUEUES: four words a descriptor
    quiet               input: every queue and unit is idle and all is written; END waits for it
    done                pulse: END was reached
    error, error_code, position
                        pulse, code, index of the descriptor at hand
    Words are read ahead, never past ``program_len`` or the window; a descriptor takes about 14 cycles. A full queue holds
    the fetcher back.
    """

    def __init__(self, config, port):
        self.start, self.halt, self.idle = Signal(), Signal(), Signal()
        self.program_addr, self.program_len = Signal(32), Signal(16)
        self.window_base, self.window_size = Signal(32), Signal(32)
        self.sources = [stream.Endpoint(queue_layout()) for _ in isa.QUEUES]
        self.quiet = Signal()
        self.done, self.error, self.error_code = Signal(), Signal(), Signal(8)
        self.position = Signal(16)
        self.beat = Signal()

        # # #

        self.reader = LiteDRAMDMAReader(port, fifo_depth=PREFETCH)
        self.comb += self.beat.eq(port.rdata.valid & port.rdata.ready)
        self.reading, self.stop = Signal(), Signal()
        self.left = Signal(16 + log2_int(WORDS))     # words that may still be asked for
        self.ahead = Signal(max=2 * PREFETCH)        # words asked for and not yet taken
        self.add_address(config)
        self.add_deal(config)

    def add_address(self, config):
        """Ask for the program's words one after the other while they lie in the window."""
        reader, shift = self.reader, log2_int(config.word_bytes)
        word, limit = Signal(32 - shift), Signal(32 - shift)
        asked, taken = Signal(), Signal()
        self.comb += [
            limit.eq(self.window_size[shift:]),
            # An address once offered stays until it is accepted, as a stream must; hence no halt here.
            reader.sink.valid.eq(self.reading),
            reader.sink.address.eq(self.window_base[shift:] + word),
            asked.eq(reader.sink.valid & reader.sink.ready),
            taken.eq(reader.source.valid & reader.source.ready),
        ]
        following = Signal(32 - shift + 1)
        self.comb += following.eq(word + 1)
        self.sync += [
            self.ahead.eq(self.ahead + asked - taken),
            If(self.start,
                word.eq(self.program_addr[shift:]),
                self.left.eq(Cat(C(0, log2_int(WORDS)), self.program_len)),
                self.reading.eq((self.program_addr[shift:] < limit) & (self.program_len != 0)),
            ).Elif(asked,
                word.eq(following),
                self.left.eq(self.left - 1),
                self.reading.eq((following < limit) & (self.left != 1) & ~self.stop & ~self.halt),
            ),
        ]

    def add_deal(self, config):
        """Collect four words, check them, hand them to the queue of the opcode."""
        reader, position = self.reader, self.position
        self.check = check = DescriptorCheck(config)
        desc = Signal(isa.DESC_BITS, reset_less=True)
        code = Signal(8, reset_less=True)
        count = Signal(max=WORDS)
        dry = Signal()
        self.fsm = fsm = FSM(reset_state="IDLE")
        self.comb += [
            check.desc.eq(desc),
            dry.eq(~self.reading & (self.ahead == 0)),
            self.stop.eq(fsm.ongoing("END") | fsm.ongoing("LAST") | fsm.ongoing("FLUSH")),
        ]
        shift_in = [NextValue(desc, Cat(desc[128:], reader.source.data)), NextValue(count, count + 1)]
        fail = lambda code: [self.error.eq(~self.halt), self.error_code.eq(code), NextState("FLUSH")]
        flush = If(self.halt, NextState("FLUSH"))
        fsm.act("IDLE",
            self.idle.eq(1),
            NextValue(count, 0),
            If(self.start, NextValue(position, 0), NextState("COLLECT")),
        )
        fsm.act("COLLECT",
            reader.source.ready.eq(1),
            If(reader.source.valid,
                *shift_in,
                If(count == WORDS - 1, NextState("CHECK")),
            ).Elif(dry,     # nothing is asked for and nothing will come: the program or the window has ended
                *fail(Mux(position == self.program_len, isa.ERROR_CODE["PROGRAM_END"], isa.ERROR_CODE["DRAM_WINDOW"])),
            ),
            flush,
        )
        fsm.act("CHECK", NextValue(code, check.code), NextState("DECIDE"), flush)
        fsm.act("DECIDE",
            If(code != 0, *fail(code))
            .Elif(desc[:8] == isa.OPCODE["END"], NextState("END"))
            .Else(NextState("DEAL")),
            flush,
        )
        fsm.act("DEAL",
            *self.deal(desc, count),
            flush,
        )
        fsm.act("END", If(self.quiet, NextState("LAST")), flush)
        # Words read ahead of END, or of an error, are received and dropped.
        fsm.act("LAST", reader.source.ready.eq(1), If(dry, self.done.eq(~self.halt), NextState("IDLE")))
        fsm.act("FLUSH", reader.source.ready.eq(1), If(dry, NextState("IDLE")))

    def deal(self, desc, count):
        """Statements of the state in which the four words leave for their queue."""
        opcode, sent = Signal(8, reset_less=True), Signal()
        self.sync += If(self.fsm.ongoing("DECIDE"), opcode.eq(desc[:8]))
        targets = {}
        for op, queue in isa.QUEUE_OF.items():
            if queue in isa.QUEUES:
                source = self.sources[isa.QUEUES.index(queue)]
                targets[isa.OPCODE[op]] = [source.valid.eq(~self.halt), sent.eq(source.ready)]
        self.comb += [[source.data.eq(desc[:128]), source.index.eq(self.position)] for source in self.sources]
        return [
            Case(opcode, targets),
            If(sent,
                NextValue(desc, desc[128:]),
                NextValue(count, count + 1),
                If(count == WORDS - 1, NextValue(self.position, self.position + 1), NextState("COLLECT")),
            ),
        ]
