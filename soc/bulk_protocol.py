"""The bulk transfer's packets: gateware, host and model take them from here (no gateware in this file).

A UDP datagram holds one packet: HEADER (32-bit words, little endian), the payload, and the CRC-32 (zlib's) of all of it.
WRITE carries its payload to the device, READ back to the host. A reply repeats the request's header but for ``kind`` and,
in the reply to SUM, ``offset``, which then holds the CRC-32 of the range.
"""

from dataclasses import dataclass
import struct
import zlib

MAGIC = 0x3142_444C           # "LDB1": the last byte is the version
UDP_PORT = 1235               # beside Etherbone's
MAX_PAYLOAD = 1024            # bytes; the packet fits Ethernet's 1500
MAX_SUM = 1 << 16             # bytes of one SUM: the device looks at no other packet meanwhile
WORD = 4

HEADER = ["magic", "kind", "session", "sequence", "offset", "length"]
HEADER_WORDS = len(HEADER)
CRC_WORDS = 1
PACKET = struct.Struct(f"<{HEADER_WORDS}I")

OPS = {"WRITE": 1, "READ": 2, "SUM": 3}
REPLY = 0x80                  # set in the operation of a reply

# ``kind``: operation in bits 0-7; in replies also the status in bits 8-15 and two counts of packets that got no reply
# since power-up, modulo 256: damaged ones (16-23) and those that found the device's buffer full (24-31).
STATUSES = {
    0: ("OK", "done"),
    1: ("BAD_OP", "unknown operation"),
    2: ("BAD_SESSION", "the packet belongs to another session than the register bulk_session names"),
    3: ("BAD_LENGTH", "offset or length is no multiple of the DRAM's word, or the length is 0, too large, or not the packet's"),
    4: ("BAD_RANGE", "the range leaves the engine's window"),
}
OK, BAD_OP, BAD_SESSION, BAD_LENGTH, BAD_RANGE = STATUSES
NO_SESSION = 0                # value of bulk_session while nothing is accepted


@dataclass(frozen=True)
class Packet:
    """A packet with a right CRC. In requests ``status``, ``damaged`` and ``full`` are 0."""

    op: int
    session: int
    sequence: int
    offset: int
    length: int
    payload: bytes = b""
    status: int = OK
    damaged: int = 0
    full: int = 0

    def pack(self):
        kind = self.op | self.status << 8 | self.damaged << 16 | self.full << 24
        body = PACKET.pack(MAGIC, kind, self.session, self.sequence, self.offset, self.length) + self.payload
        return body + zlib.crc32(body).to_bytes(4, "little")


def unpack(data):
    """Packet, or None if the bytes are none: too short, no whole words, wrong magic, wrong CRC."""
    end = len(data) - WORD * CRC_WORDS
    if end < PACKET.size or len(data) % WORD or zlib.crc32(data[:end]) != int.from_bytes(data[end:], "little"):
        return None
    magic, kind, session, sequence, offset, length = PACKET.unpack_from(data)
    if magic != MAGIC:
        return None
    return Packet(kind & 0xFF, session, sequence, offset, length, bytes(data[PACKET.size:end]), kind >> 8 & 0xFF,
                  kind >> 16 & 0xFF, kind >> 24)
