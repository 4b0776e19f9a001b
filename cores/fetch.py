"""Fetch: reads the program from DRAM, checks each descriptor and puts it into the queues' memory, in program order."""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.check import OPCODE_BITS, WORD, WORDS, DescriptorCheck
from litediffusion.cores.heads import WritePort

PREFETCH = 8                    # DRAM words asked for and not yet received


class Fetch(LiteXModule):
    """Fetcher on a LiteDRAM read port.

    start, halt, idle   ``start``: begin at ``program_addr`` (bytes in the window, a multiple of 16), only while idle;
                        ``idle`` also means that no word is under way from the DRAM
    write               WritePort of the descriptor memory
    full                input: a queue cannot take what PREFETCH words hold
    quiet               input: every queue and unit is idle and all is written; END waits for it
    done                pulse: END was reached
    error, error_code, position
                        pulse, code, index of the descriptor at hand
    Words are read ahead, never past ``program_len`` or the window, and go into the memory as they come, one a cycle;
    a descriptor counts when its last word has been checked, three cycles later. A full queue holds the fetcher back.
    """

    def __init__(self, config, port):
        self.start, self.halt, self.idle = Signal(), Signal(), Signal()
        self.program_addr, self.program_len = Signal(32), Signal(16)
        self.window_base, self.window_size = Signal(32), Signal(32)
        self.write, self.full = WritePort(config), Signal()
        self.quiet = Signal()
        self.done, self.error, self.error_code = Signal(), Signal(), Signal(8)
        self.position = Signal(16)
        self.beat = Signal()

        # # #

        self.port = port
        self.comb += [self.beat.eq(port.rdata.valid), port.rdata.ready.eq(1)]
        self.reading, self.stop = Signal(), Signal()
        self.left = Signal(16 + log2_int(WORDS))     # words that may still be asked for
        self.ahead = Signal(max=PREFETCH + 1)        # words asked for and not yet received
        self.collecting = Signal()
        self.add_address(config)
        self.add_words(config)
        self.add_control()

    def add_address(self, config):
        """Ask for the program's words one after the other while they lie in the window."""
        port, shift = self.port, log2_int(config.word_bytes)
        word, limit, address = Signal(32 - shift), Signal(32 - shift), Signal(len(port.cmd.addr), reset_less=True)
        offering, issue, following = Signal(), Signal(), Signal(32 - shift + 1)
        self.comb += [
            limit.eq(self.window_size[shift:]),
            # An address once offered stays until it is accepted, as a stream must; hence no halt here.
            port.cmd.valid.eq(offering), port.cmd.addr.eq(address),
            issue.eq(self.reading & ~self.full & ~self.ahead[-1] & (~offering | port.cmd.ready)),
            following.eq(word + 1),
        ]
        self.sync += [
            self.ahead.eq(self.ahead + issue - self.beat),
            If(port.cmd.ready, offering.eq(0)),
            If(issue,
                offering.eq(1), address.eq(self.window_base[shift:] + word), word.eq(following), self.left.eq(self.left - 1),
                self.reading.eq((following != limit) & (self.left != 1)),
            ),
            If(self.stop | self.halt, self.reading.eq(0)),
            If(self.start,
                word.eq(self.program_addr[shift:]),
                self.left.eq(Cat(C(0, log2_int(WORDS)), self.program_len)),
                self.reading.eq((self.program_addr[shift:] < limit) & (self.program_len != 0)),
            ),
        ]

    def add_words(self, config):
        """Words -> memory and check. ``full`` leaves room for all that is under way, so nothing is ever held back."""
        port, write = self.port, self.write
        self.check = check = DescriptorCheck(config)
        valid, word, count = Signal(), Signal(WORD, reset_less=True), Signal(max=WORDS)
        queue, arrived = Signal(max=len(isa.QUEUES), reset_less=True), Signal(16)
        ends = [Signal(len(write.slot), name=f"{name.lower()}_end") for name in isa.QUEUES]
        self.pipeline = Signal(3)       # a word is in it
        self.comb += [
            check.valid.eq(valid), check.word.eq(word), check.count.eq(count),
            write.data.eq(word), write.index.eq(arrived), write.word.eq(count), write.we.eq(valid),
            write.queue.eq(queue),
            If(count == 0, Case(word[:OPCODE_BITS], {
                isa.OPCODE[op]: write.queue.eq(isa.QUEUES.index(name)) for op, name in isa.QUEUE_OF.items() if name in isa.QUEUES})),
            Case(write.queue, {q: write.slot.eq(end) for q, end in enumerate(ends)}),
        ]
        self.sync += [
            valid.eq(self.beat & self.collecting), word.eq(port.rdata.data), self.pipeline.eq(Cat(valid, self.pipeline)),
            queue.eq(write.queue),
            If(valid,
                count.eq(count + 1),
                If(count == WORDS - 1, arrived.eq(arrived + 1), Case(queue, {q: end.eq(end + 1) for q, end in enumerate(ends)})),
            ),
            If(self.start, count.eq(0), arrived.eq(0), *[end.eq(0) for end in ends]),
        ]

    def add_control(self):
        """The verdicts, the end of the program, errors."""
        check, dry, fail = self.check, Signal(), Signal()
        self.fsm = fsm = FSM(reset_state="IDLE")
        self.comb += [
            dry.eq(~self.reading & (self.ahead == 0)),
            self.stop.eq(~fsm.ongoing("COLLECT")),
            self.collecting.eq(fsm.ongoing("COLLECT")),
            self.error.eq(fail & ~self.halt),
        ]
        error = lambda code: [fail.eq(1), self.error_code.eq(isa.ERROR_CODE[code])]
        queued = {name: [check.op[op] for op, queue in isa.QUEUE_OF.items() if queue == name] for name in isa.QUEUES}
        fsm.act("IDLE",
            self.idle.eq(1),
            If(self.start, NextValue(self.position, 0), NextState("COLLECT")),
        )
        fsm.act("COLLECT",
            If(check.done,
                If(~check.known, *error("BAD_OPCODE"))
                .Elif(check.bad, *error("BAD_FIELD"))
                .Elif(check.op["END"], NextState("END"))
                .Else(
                    NextValue(self.position, self.position + 1),
                    *[If(Cat(*ops) != 0, self.write.commit[q].eq(1)) for q, ops in enumerate(queued.values())],
                ),
            ).Elif(dry & (self.pipeline == 0) & ~self.write.we,     # nothing will come: the program or the window has ended
                If(self.left == 0, *error("PROGRAM_END")).Else(*error("DRAM_WINDOW")),
            ),
            If(fail | self.halt, NextState("FLUSH")),
        )
        fsm.act("END", If(self.quiet, NextState("LAST")), If(self.halt, NextState("FLUSH")))
        # Words read ahead of END, or of an error, are received and dropped.
        fsm.act("LAST", If(dry, self.done.eq(~self.halt), NextState("IDLE")))
        fsm.act("FLUSH", If(dry, NextState("IDLE")))
