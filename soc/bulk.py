"""Bulk transfer over UDP: packets of up to 1 KiB straight to and from the engine's window in DRAM.

    UDP -> BulkReceiver -> ring (block RAM) -> BulkEngine <-> BulkMemory <-> DRAM
    UDP <- reply buffer (block RAM) <------------'

Packets are those of soc/bulk_protocol.py. A packet acts only when its CRC-32, length, session and range are right, so nothing
damaged is ever written; it is answered after its data are in DRAM, so what follows the answer sees them. Repeated and
reordered packets do no harm, because each carries its address and a session writes each byte with one value only;
packets of an ended session are refused. The receiver never holds the network off: a packet that finds the ring
full is dropped and counted, and the host sends it again.
"""

from types import SimpleNamespace

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream
from litex.soc.interconnect.csr import CSRField, CSRStorage
from liteeth.common import eth_udp_user_description
from liteeth.mac.crc import LiteEthMACCRCEngine

from litediffusion.cores.memory import block_ram
from litediffusion.soc import bulk_protocol as protocol
from litediffusion.soc.bulk_memory import WORD_BITS, BulkMemory

RING_WORDS = 1024             # three packets of the largest size
REPLY_WORDS = 512
LONGEST = protocol.HEADER_WORDS + protocol.MAX_PAYLOAD // protocol.WORD + protocol.CRC_WORDS
SHORTEST = protocol.HEADER_WORDS + protocol.CRC_WORDS
COUNTER_BITS = 8
ROOM_BELOW = 640              # words in use up to which another packet is taken: two of the largest size, and it fits
CRC_POLYNOMIAL = 0x04C11DB7
CRC_RESIDUE = 0xC704DD7B      # state after a packet and its CRC

if (SHORTEST, LONGEST, RING_WORDS) != (7, 263, 1024) or ROOM_BELOW + LONGEST >= RING_WORDS:
    raise ValueError("BulkReceiver's comparisons are written for packets of 7 to 263 words and a ring of 1024: adapt them")


class BulkReceiver(LiteXModule):
    """UDP datagrams into a ring of 33-bit words (data, last); a datagram is there as a whole or not at all. One word a cycle.

    write : write port of the ring
    tail : in, first word still in use by the reader; head : out, first word behind the last whole datagram

    sink : stream of eth_udp_user_description(32), always ready
    ip, port : out, the last sender
    damaged, full : out, strobes: a datagram was dropped for its length, or for want of room
    """

    def __init__(self, write, tail):
        self.sink = sink = stream.Endpoint(eth_udp_user_description(WORD_BITS))
        self.head = head = Signal.like(tail)
        self.ip, self.port = Signal(32, reset_less=True), Signal(16, reset_less=True)
        self.damaged, self.full = Signal(), Signal()

        # # #

        at, left = Signal.like(tail), Signal(max=LONGEST + 1)
        used, room = Signal.like(tail), Signal(reset=1)
        words, good = sink.length[2:], Signal()
        self.sync += [used.eq(head - tail), room.eq(~used[9] | ~(used[8] | used[7]))]      # used < ROOM_BELOW
        self.comb += [
            # Spelled out, SHORTEST <= words <= LONGEST and whole words take a fifth of two comparators' cells.
            good.eq((sink.length[:2] == 0) & (words[9:] == 0)
                    & Mux(words[8], words[3:8] == 0, (words[3:8] != 0) | (words[:3] == SHORTEST))),
            sink.ready.eq(1), write.adr.eq(at), write.dat_w.eq(Cat(sink.data, sink.last)),
        ]
        self.fsm = fsm = FSM(reset_state="FIRST")
        fsm.act("FIRST",
            write.we.eq(1),
            NextValue(left, words),
            If(sink.valid,
                NextValue(self.ip, sink.ip_address), NextValue(self.port, sink.src_port),
                self.damaged.eq(~good | sink.last), self.full.eq(good & ~room),
                If(~sink.last,
                    If(good & room, NextValue(at, at + 1), NextState("REST")).Else(NextState("DROP"))),
            ))
        fsm.act("REST",
            write.we.eq(1),
            If(sink.valid,
                NextValue(at, at + 1), NextValue(left, left - 1),
                If(sink.last & (left == 2),
                    NextValue(head, at + 1), NextState("SETTLE"),
                ).Elif(sink.last | (left == 2),
                    self.damaged.eq(1), NextValue(at, head),
                    If(sink.last, NextState("FIRST")).Else(NextState("DROP")),
                )))
        # ``room`` follows ``head`` two cycles later; LiteEth needs more between two datagrams.
        fsm.act("SETTLE", sink.ready.eq(0), NextState("SETTLE-END"))
        fsm.act("SETTLE-END", sink.ready.eq(0), NextState("FIRST"))
        fsm.act("DROP", If(sink.valid & sink.last, NextState("FIRST")))


class BulkCRC(LiteXModule):
    """CRC-32 of 32-bit words, zlib's. One word a cycle; ``value`` and ``good`` follow two cycles after ``ce``.

    reset : in, start again with the next word
    good : out, the words end with the CRC-32 (little endian) of those before
    """

    def __init__(self):
        self.reset, self.ce, self.data = Signal(), Signal(), Signal(WORD_BITS)
        self.value, self.good = Signal(32), Signal()

        # # #

        self.engine = engine = LiteEthMACCRCEngine(WORD_BITS, 32, CRC_POLYNOMIAL)
        state, ce = Signal(32, reset=2**32 - 1), Signal()
        data = Signal(WORD_BITS, reset_less=True)
        self.comb += [
            # A word as wide as the state: next(state, data) = next(0, data ^ state), with half the gates.
            engine.data.eq(data ^ state[::-1]), engine.crc_prev.eq(0),
            self.value.eq(~state[::-1]), self.good.eq(state == CRC_RESIDUE),
        ]
        self.sync += [
            ce.eq(self.ce), data.eq(self.data),
            If(ce, state.eq(engine.crc_next)),
            If(self.reset, state.eq(state.reset)),
        ]


class BulkEngine(LiteXModule):
    """Takes packets from the ring one after the other: check, act, answer.

    Cycles a packet: its words (check), then for WRITE the payload's words again, for READ twice, and about 45.

    memory : BulkMemory
    ring : read port of the ring; head : in, first word behind the last packet
    reply_write, reply_read : ports of a memory of REPLY_WORDS words
    session : in, the session whose packets are accepted
    dropped : in, the counters of the reply's ``kind`` (16 bits)
    base, size : the window in the DRAM, and grain, the native word, in bytes

    tail : out, first word still in use
    damaged : out, a strobe: wrong CRC or magic
    source : stream of eth_udp_user_description(32) without addresses
    """

    def __init__(self, memory, ring, reply_write, reply_read, head, session, dropped, base, size, grain):
        self.tail = Signal.like(head)
        self.damaged = Signal()
        self.idle = Signal()
        self.source = stream.Endpoint(eth_udp_user_description(WORD_BITS))

        # # #

        self.memory, self.ring = memory, ring
        # A write to the reply goes through registers: from one memory to the other would be a long path.
        self.reply = reply = SimpleNamespace(adr=Signal(len(reply_write.adr)), dat_w=Signal(WORD_BITS), we=Signal())
        self.sync += [reply_write.adr.eq(reply.adr), reply_write.dat_w.eq(reply.dat_w), reply_write.we.eq(reply.we)]
        self.word = ring.dat_r[:WORD_BITS]
        self.at, self.step = Signal.like(head), Signal()
        self.index = Signal(max=REPLY_WORDS)          # word of the packet, in each pass
        self.end, self.last_index = Signal.like(head), Signal(max=REPLY_WORDS)
        self.sum = Signal(32)
        for signal in (self.end, self.last_index, self.sum):
            signal.reset_less = True
        self.crc = BulkCRC()
        self.add_fields(session, size, grain)
        # ring.dat_r is the word ``at``, but in the cycle after a jump.
        self.comb += ring.adr.eq(Mux(self.step, self.at + 1, self.at))
        self.sync += If(self.step, self.at.eq(self.at + 1))
        self.comb += [
            self.crc.data.eq(reply.dat_w), reply.adr.eq(self.index), reply.dat_w.eq(self.word),
            memory.we.eq(self.op == protocol.OPS["WRITE"]), memory.count.eq(self.length),
            memory.address.eq(base // grain + self.offset), memory.sink.data.eq(self.word),
        ]
        self.fsm = FSM(reset_state="IDLE")
        self.add_check(head)
        self.add_action()
        self.add_answer(dropped)
        self.add_sender(reply_read)

    def add_fields(self, session, size, grain):
        """What the header asks for, taken while the words pass, and whether it may be done."""
        word, low, n = self.word, log2_int(grain), bits_for(size // grain)
        longest = log2_int(protocol.MAX_SUM)
        self.take = Signal()
        self.op, self.offset, self.length = Signal(8), Signal(n), Signal(longest - low + 1)
        for signal in (self.op, self.offset, self.length):
            signal.reset_less = True
        self.magic, self.same_session, self.aligned, self.near, self.fits, self.whole = [Signal() for _ in range(6)]
        self.verdict, self.status = Signal(3), Signal(3, reset_less=True)
        aligned = word[:low] == 0
        fair = (word != 0) & (word[longest + 1:] == 0) & (~word[longest] | (word[:longest] == 0))      # 1 .. MAX_SUM
        self.sync += [
            self.fits.eq(self.offset + self.length <= size // grain),
            If(self.take, Case(self.index, {
                0: self.magic.eq(word == protocol.MAGIC),
                1: self.op.eq(word[:8]),
                2: self.same_session.eq((word == session) & (session != protocol.NO_SESSION)),
                4: [self.offset.eq(word[low:]), self.aligned.eq(aligned), self.near.eq(word[low + n:] == 0)],
                5: [self.length.eq(word[low:]), self.aligned.eq(self.aligned & aligned & fair)],
            })),
        ]
        ops = protocol.OPS
        payload = Mux(self.op == ops["WRITE"], self.length, 0)
        self.sync += self.whole.eq(self.index == (payload << low - 2) + protocol.HEADER_WORDS)
        self.comb += [
            self.verdict.eq(protocol.OK),
            If((self.op == 0) | (self.op > max(ops.values())), self.verdict.eq(protocol.BAD_OP),
            ).Elif(~self.same_session, self.verdict.eq(protocol.BAD_SESSION),
            ).Elif(~self.aligned, self.verdict.eq(protocol.BAD_LENGTH),
            ).Elif(~self.near | ~self.fits, self.verdict.eq(protocol.BAD_RANGE),
            ).Elif(~self.whole | ((self.op == ops["READ"]) & (self.length > protocol.MAX_PAYLOAD // grain)),
                self.verdict.eq(protocol.BAD_LENGTH)),
        ]

    def add_check(self, head):
        """First pass over the packet: header and CRC."""
        fsm, ops = self.fsm, protocol.OPS
        fsm.act("IDLE",
            self.idle.eq(self.tail == head),
            self.crc.reset.eq(1), NextValue(self.index, 0),
            If(self.tail != head, NextState("CHECK")))
        fsm.act("CHECK",
            self.step.eq(1), self.take.eq(1), self.crc.ce.eq(1),
            If(self.ring.dat_r[WORD_BITS], NextValue(self.end, self.at + 1), NextState("CHECK-END"),
            ).Else(NextValue(self.index, self.index + 1)))
        fsm.act("CHECK-END", NextState("DECIDE"))
        fsm.act("DECIDE",
            self.crc.reset.eq(1), NextValue(self.at, self.tail + protocol.HEADER_WORDS), NextValue(self.status, self.verdict),
            If(~self.crc.good | ~self.magic, self.damaged.eq(1), NextState("FREE"),
            ).Elif((self.verdict == protocol.OK) & (self.op != ops["READ"]), self.memory.start.eq(1), NextState("PRIME"),
            ).Else(NextState("ANSWER")))
        fsm.act("FREE", NextValue(self.tail, self.end), NextValue(self.at, self.end), NextState("FREE-END"))
        fsm.act("FREE-END", NextState("IDLE"))         # the ring's memory follows ``at`` a cycle later

    def add_action(self):
        """Second pass: the payload to the DRAM, or the range through the CRC."""
        fsm, memory = self.fsm, self.memory
        fsm.act("PRIME", If(memory.we, NextState("WRITE")).Else(NextState("SUM")))
        fsm.act("WRITE",
            memory.sink.valid.eq(1), self.step.eq(memory.sink.ready),
            If(memory.idle, NextState("ANSWER")))
        fsm.act("SUM",
            memory.source.ready.eq(1), self.reply.dat_w.eq(memory.source.data), self.crc.ce.eq(memory.source.valid),
            If(memory.source.valid & memory.source.last, NextState("SUM-END")))
        fsm.act("SUM-END", NextState("ANSWER"))

    def add_answer(self, dropped):
        """The reply into its buffer: header, for READ the data, CRC."""
        fsm, memory, reply = self.fsm, self.memory, self.reply
        reading = (self.status == protocol.OK) & (self.op == protocol.OPS["READ"])
        put = [reply.we.eq(1), self.crc.ce.eq(1), NextValue(self.index, self.index + 1)]
        fsm.act("ANSWER",
            NextValue(self.at, self.tail), self.crc.reset.eq(1), NextValue(self.sum, self.crc.value), NextValue(self.index, 0),
            NextState("ANSWER-PRIME"))
        fsm.act("ANSWER-PRIME", NextState("HEADER"))
        fsm.act("HEADER",
            *put, self.step.eq(1),
            If(self.index == protocol.HEADER.index("kind"),
                reply.dat_w.eq(Cat(self.op | protocol.REPLY, self.status, C(0, 8 - len(self.status)), dropped))),
            If((self.index == protocol.HEADER.index("offset")) & (self.op == protocol.OPS["SUM"]), reply.dat_w.eq(self.sum)),
            If(self.index == protocol.HEADER_WORDS - 1,
                memory.start.eq(reading), If(reading, NextState("DATA")).Else(NextState("CRC"))))
        fsm.act("DATA",
            memory.source.ready.eq(1), reply.dat_w.eq(memory.source.data),
            If(memory.source.valid, *put, If(memory.source.last, NextState("CRC"))))
        fsm.act("CRC", NextState("CRC-PUT"))
        fsm.act("CRC-PUT",
            reply.dat_w.eq(self.crc.value), reply.we.eq(1),
            NextValue(self.last_index, self.index), NextValue(self.index, 0), NextState("SEND-PRIME"))

    def add_sender(self, read):
        """The reply's words to its receiver, without a gap: the MAC sends what comes as it comes."""
        fsm, source, step = self.fsm, self.source, Signal()
        self.comb += [
            read.adr.eq(Mux(step, self.index + 1, self.index)),
            source.data.eq(read.dat_r), source.last.eq(self.index == self.last_index),
            source.last_be.eq(Mux(source.last, 0b1000, 0)),
            source.length.eq(Cat(C(0, 2), self.last_index + 1)),
        ]
        fsm.act("SEND-PRIME", NextState("SEND"))
        fsm.act("SEND",
            source.valid.eq(1),
            If(source.ready,
                step.eq(1), NextValue(self.index, self.index + 1),
                If(source.last, NextState("FREE"))))


class Bulk(LiteXModule):
    """The bulk transfer behind one UDP port. Answers go to the last sender.

    memory_port : LiteDRAM port of mode "both", at least 32 bits wide; ranges are multiples of its width
    base, size : the window that packets may touch, bytes from the DRAM's start

    sink, source : streams of eth_udp_user_description(32), in domain sys
    busy : out, a packet is in here
    session : in, the session whose packets are accepted (``add_csr`` makes it a register)
    grain : bytes of the memory's native word
    """

    def __init__(self, memory_port, base, size, udp_port=protocol.UDP_PORT):
        self.grain = grain = memory_port.data_width // 8
        if memory_port.mode != "both" or grain < protocol.WORD or base % grain or size % grain:
            raise ValueError(f"Bulk: a port of mode {memory_port.mode}, {grain} bytes wide, and a window of {size:#x} bytes from "
                             f"{base:#x} do not fit: mode both, at least {protocol.WORD} bytes, window in whole words")
        self.session, self.busy = Signal(32), Signal()

        # # #

        ring, reply = block_ram(WORD_BITS + 1, RING_WORDS, "bulk_ring"), block_ram(WORD_BITS, REPLY_WORDS, "bulk_reply")
        ring_write, ring_read = ring.get_port(write_capable=True), ring.get_port(mode=READ_FIRST)
        reply_write, reply_read = reply.get_port(write_capable=True), reply.get_port(mode=READ_FIRST)
        self.specials += ring, reply, ring_write, ring_read, reply_write, reply_read
        tail, damaged, full = Signal(max=RING_WORDS), Signal(COUNTER_BITS), Signal(COUNTER_BITS)
        self.receiver = receiver = BulkReceiver(ring_write, tail)
        self.memory = BulkMemory(memory_port, bits_for(protocol.MAX_SUM // grain))
        self.engine = engine = BulkEngine(self.memory, ring_read, reply_write, reply_read, receiver.head, self.session,
                                          Cat(damaged, full), base, size, grain)
        self.sink, self.source = receiver.sink, engine.source
        self.comb += [
            tail.eq(engine.tail), self.busy.eq(~engine.idle | ~receiver.fsm.ongoing("FIRST")),
            self.source.ip_address.eq(receiver.ip), self.source.dst_port.eq(receiver.port), self.source.src_port.eq(udp_port),
        ]
        self.sync += [
            damaged.eq(damaged + (receiver.damaged | engine.damaged)),
            full.eq(full + receiver.full),
        ]

    def add_csr(self):
        """The session as a register: only who reaches the SoC's bus can open one."""
        self._session = CSRStorage(fields=[CSRField("number", 32, description=(
            "Bulk packets with this session number are accepted; 0: none. Take a new random one for each transfer."))])
        self.comb += self.session.eq(self._session.fields.number)
