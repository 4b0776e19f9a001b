"""Golden model of soc/bulk.py: what the device does with one packet, byte for byte."""

import zlib

from litediffusion.soc import bulk_protocol as protocol
from litediffusion.soc.bulk_protocol import OPS, REPLY, WORD, Packet

LONGEST = WORD * (protocol.HEADER_WORDS + protocol.CRC_WORDS) + protocol.MAX_PAYLOAD


class BulkModel:
    """A device with a window of memory.

    window : bytearray
    grain : bytes of the DRAM's native word
    session : the session whose packets are accepted
    """

    def __init__(self, window, grain=16, session=protocol.NO_SESSION):
        self.window, self.grain, self.session = window, grain, session
        self.damaged = self.full = 0

    def status(self, request):
        """Status of a request, before it is done."""
        payload = request.length if request.op == OPS["WRITE"] else 0
        if request.op not in OPS.values():
            return protocol.BAD_OP
        if request.session != self.session or self.session == protocol.NO_SESSION:
            return protocol.BAD_SESSION
        if request.offset % self.grain or request.length % self.grain or not 0 < request.length <= protocol.MAX_SUM:
            return protocol.BAD_LENGTH
        if request.offset + request.length > len(self.window):
            return protocol.BAD_RANGE
        if len(request.payload) != payload or request.op == OPS["READ"] and request.length > protocol.MAX_PAYLOAD:
            return protocol.BAD_LENGTH
        return protocol.OK

    def handle(self, data):
        """The reply's bytes to a datagram's bytes, or None."""
        request = protocol.unpack(data) if len(data) <= LONGEST else None
        if request is None:
            self.damaged = (self.damaged + 1) % 256
            return None
        status, offset, payload = self.status(request), request.offset, b""
        if status == protocol.OK:
            part = slice(offset, offset + request.length)
            if request.op == OPS["WRITE"]:
                self.window[part] = request.payload
            elif request.op == OPS["READ"]:
                payload = bytes(self.window[part])
        if request.op == OPS["SUM"]:
            offset = zlib.crc32(self.window[part]) if status == protocol.OK else 0
        return Packet(request.op | REPLY, request.session, request.sequence, offset, request.length, payload, status,
                      self.damaged, self.full).pack()
