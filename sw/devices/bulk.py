"""Bulk transfers over UDP to a SoC's window: acknowledged, repeated when lost, checked, continued after a break."""

from contextlib import contextmanager
from dataclasses import asdict, dataclass
import secrets
import select
import socket
import time
import zlib

from litediffusion.soc import bulk_protocol as protocol
from litediffusion.soc.bulk_protocol import MAX_PAYLOAD, OPS, REPLY, Packet
from litediffusion.sw.devices.bulk_window import Window
from litediffusion.sw.devices.errors import AddressError, ConnectionLost, DeviceError, DeviceFault, WrongDevice

BLOCK = 16 * MAX_PAYLOAD   # bytes whose CRC-32 is compared at once
WINDOWS = {"WRITE": 64, "READ": 32, "SUM": 4}     # most packets in flight; the device takes 4,100 cycles for a SUM of a BLOCK
REORDERED = 3              # a packet is lost when one sent so many after it has been answered
TRIES = 64                 # of one packet while others are answered
SILENCE_S = 10.0           # without any answer
REFUSALS, REFUSED_S = 8, 0.01   # answers of the host at the address that nobody listens there, and the pause after each
NUMBER_BITS = 26           # of the packet's sequence word; above it: which sending of the packet this is
RECEIVE_BYTES = 1 << 20    # the socket's buffer
AGAIN = "the same call again sends only what is missing"


def bulk_address(constants, where=None):
    """(host, UDP port) of the bulk transfer of a SoC with these constants, or None where it has none.

    where : None (what the SoC was built for; a simulation: this host), "none", or HOST or HOST:PORT
    Raises WrongDevice when an address is given for a SoC without bulk transfer, AddressError for a bad one.
    """
    if where == "none" or (where is None and "bulk_port" not in constants):
        return None
    if "bulk_port" not in constants:
        raise WrongDevice(f"udp={where}: this SoC has no bulk transfer; leave the address out")
    if where is None:
        simulated = constants.get("config_platform_name") == "sim"
        return "127.0.0.1" if simulated else socket.inet_ntoa(constants["bulk_ip"].to_bytes(4, "big")), constants["bulk_port"]
    host, _, port = where.partition(":")
    if not host or (port and not (port.isdecimal() and 0 < int(port) < 1 << 16)):
        raise AddressError(f"udp={where}: give HOST, HOST:PORT or none")
    return host, int(port or constants["bulk_port"])


@dataclass
class Figures:
    """What a link has done so far."""

    packets: int = 0        # answered requests
    repeats: int = 0        # packets sent again
    bytes: int = 0          # payload, each byte once
    skipped: int = 0        # bytes of writes that were there already
    seconds: float = 0.0

    def as_dict(self):
        return asdict(self) | {"bytes_per_second": round(self.bytes / self.seconds) if self.seconds else 0}


class BulkLink:
    """Bulk access to a device's window. Offsets and lengths are multiples of ``grain``.

    address       (host, UDP port) of the device
    grain         bytes of the device's DRAM word
    set_session   callable that puts a number into the device's register bulk_session, by another way than this
    silence_s     longest time without any answer
    keep_alive    called now and then during a transfer

    Each call is a session of its own: packets that the network kept from an earlier one are refused by the device.
    Raises ConnectionLost (no answer; says how much had arrived), WrongDevice (who answers is not the device whose register was
    set), AddressError (outside the window), DeviceFault (checksums differ).
    """

    def __init__(self, address, grain, set_session, silence_s=SILENCE_S, keep_alive=lambda: None):
        self.address, self.grain, self.set_session = address, grain, set_session
        self.silence_s, self.keep_alive = silence_s, keep_alive
        self.windows, self.figures = {OPS[name]: Window(size) for name, size in WINDOWS.items()}, Figures()
        self.session, self.sequence, self.sent = protocol.NO_SESSION, 0, 0
        try:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            self.socket.setblocking(False)
            self.socket.connect(address)
        except OSError as error:
            self.socket.close()
            raise ConnectionLost(f"no way to {self.name} ({error}): check the address and the network") from error

    @property
    def name(self):
        return f"the device's bulk port {self.address[0]}:{self.address[1]}"

    def close(self):
        self.socket.close()

    # --- transfers ---------------------------------------------------------------------------------------------------

    def probe(self):
        """Return if the device answers and is the one whose register is set."""
        with self.opened():
            self.exchange([(OPS["SUM"], 0, self.grain, b"")])

    def write(self, offset, data, progress=None):
        """Write ``data``; what the device holds already is not sent. ``progress(bytes there, bytes)``."""
        self.check_grain(offset, len(data))
        data = memoryview(data).cast("B")
        blocks = [(at, data[at:at + BLOCK]) for at in range(0, len(data), BLOCK)]
        with self.opened():
            missing = self.differing(offset, blocks)
            there = len(data) - sum(len(block) for _, block in missing)
            self.figures.skipped += there
            requests = [(OPS["WRITE"], offset + at + i, len(block[i:i + MAX_PAYLOAD]), block[i:i + MAX_PAYLOAD])
                        for at, block in missing for i in range(0, len(block), MAX_PAYLOAD)]
            self.exchange(requests, there, len(data), progress)
            wrong = self.differing(offset, missing, sample=False)
        if wrong:
            raise DeviceFault(f"{len(wrong)} of {len(missing)} blocks written to window offset {offset:#x} have a wrong checksum, the "
                              f"first at {offset + wrong[0][0]:#x}, though every packet was acknowledged: something else writes "
                              "there, or the DRAM is faulty (run selftest)")

    def read(self, offset, length, progress=None):
        """Bytes of the window."""
        self.check_grain(offset, length)
        with self.opened():
            replies = self.exchange([(OPS["READ"], offset + at, min(MAX_PAYLOAD, length - at), b"")
                                     for at in range(0, length, MAX_PAYLOAD)], 0, length, progress)
        return b"".join(reply.payload for reply in replies)

    def differing(self, offset, blocks, sample=True):
        """The blocks [(place, bytes)] whose CRC-32 in the device is another. With ``sample`` a look at three of them comes
        first: if none is right, they are taken for new, and the device need not go through all of them."""
        if sample and len(blocks) > 3:
            probes = [blocks[0], blocks[len(blocks) // 2], blocks[-1]]
            if len(self.differing(offset, probes, sample=False)) == len(probes):
                return blocks
        replies = self.exchange([(OPS["SUM"], offset + at, len(block), b"") for at, block in blocks])
        return [block for block, reply in zip(blocks, replies) if reply.offset != zlib.crc32(block[1])]

    def check_grain(self, offset, length):
        if offset % self.grain or length % self.grain:
            raise AddressError(f"{length} bytes at {offset:#x}: bulk transfers take multiples of {self.grain} bytes")

    @contextmanager
    def opened(self):
        """A new session; ended afterwards, so that nothing that is still on its way counts any more."""
        self.session = secrets.randbits(32) or 1
        self.set_session(self.session)
        try:
            yield
        except BaseException:
            try:
                self.set_session(protocol.NO_SESSION)
            except DeviceError:
                pass                          # the first failure says more
            raise
        self.set_session(protocol.NO_SESSION)

    # --- packets -----------------------------------------------------------------------------------------------------

    def exchange(self, requests, done=0, total=0, progress=None):
        """Replies to requests [(operation, offset, length, payload)], in their order. ``done`` of ``total`` bytes are counted already."""
        run, begin = _Exchange(self, requests, done, total), time.monotonic()
        try:
            while run.left:
                run.send()
                run.receive()
                run.look_for_losses()
                self.keep_alive()
                if progress:
                    progress(run.done, total)
        finally:
            self.figures.seconds += time.monotonic() - begin
        return run.replies


class _Exchange:
    """One list of requests under way.

    flight     {request: order of its last sending}, oldest first
    sendings   for each request its sendings so far: (order, time)
    """

    def __init__(self, link, requests, done, total):
        self.link, self.requests, self.done, self.total = link, requests, done, total
        self.window = link.windows[requests[0][0]] if requests else None
        self.replies, self.left = [None] * len(requests), len(requests)
        self.first = link.sequence
        link.sequence = (link.sequence + len(requests)) % (1 << NUMBER_BITS)
        self.waiting = list(range(len(requests) - 1, -1, -1))      # a stack: the next one is the last
        self.flight, self.sendings = {}, [[] for _ in requests]
        self.newest = -1                                           # latest order of sending that was answered
        self.heard, self.refusals = time.monotonic(), 0

    def send(self):
        link, now = self.link, time.monotonic()
        while self.waiting and len(self.flight) < int(self.window.size):
            index = self.waiting.pop()
            op, offset, length, payload = self.requests[index]
            number = (self.first + index) % (1 << NUMBER_BITS) | len(self.sendings[index]) % (1 << 32 - NUMBER_BITS) << NUMBER_BITS
            packet = Packet(op, link.session, number, offset, length, bytes(payload))
            try:
                link.socket.send(packet.pack())
            except BlockingIOError:
                self.waiting.append(index)
                return
            except ConnectionRefusedError:
                self.not_there()
            except OSError as error:
                raise self.lost(f"cannot send to {link.name} ({error})") from error
            self.sendings[index].append((link.sent, now))
            self.flight[index] = link.sent
            link.sent += 1

    def receive(self):
        """Wait until an answer or a time-out is due, and take all answers that are there."""
        link = self.link
        wait = max(0.0, min((self.due(index) for index in self.flight), default=0) - time.monotonic())
        if not select.select([link.socket], [], [], wait)[0]:
            return
        while True:
            try:
                data = link.socket.recv(2048)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                return self.not_there()
            reply = protocol.unpack(data)
            if reply is not None:
                self.take(reply)

    def take(self, reply):
        index, link = (reply.sequence - self.first) % (1 << NUMBER_BITS), self.link
        if reply.session != link.session or index >= len(self.requests):
            return                                                 # of an earlier session or exchange
        op, offset, length, payload = self.requests[index]
        sending = reply.sequence >> NUMBER_BITS
        if reply.op != op | REPLY or reply.length != length or sending >= len(self.sendings[index]):
            return
        self.heard, self.refusals = time.monotonic(), 0
        if reply.status != protocol.OK:
            raise self.refused(reply, offset, length)
        order, at = self.sendings[index][sending]
        self.newest = max(self.newest, order)
        self.dropped(self.window.counted(reply.full, order, link.sent), order)
        if self.replies[index] is not None:
            return                                                 # answered twice
        self.window.acknowledged(self.heard - at)
        if self.flight.pop(index, None) is None:
            self.waiting.remove(index)                             # given up too early
        self.replies[index] = reply
        self.left -= 1
        link.figures.packets += 1
        moved = length if op != OPS["SUM"] else 0
        link.figures.bytes += moved
        self.done += moved

    def dropped(self, count, order):
        """The device says that it dropped ``count`` packets: the oldest of those sent before the ``order``-th."""
        for index in [i for i, sent in self.flight.items() if sent < order][:count]:
            self.again(index)

    def again(self, index):
        """Put a packet in front of those that wait."""
        if len(self.sendings[index]) >= TRIES:
            raise self.lost(f"{self.link.name} answers, but not to a packet sent {TRIES} times")
        del self.flight[index]
        self.waiting.append(index)
        self.link.figures.repeats += 1

    def due(self, index):
        """When the answer to a packet in flight is late."""
        return self.sendings[index][-1][1] + self.window.patience(len(self.sendings[index]))

    def look_for_losses(self):
        """Put what is lost or too late back in front of the rest."""
        link, now = self.link, time.monotonic()
        if self.left and now - self.heard > link.silence_s:
            raise self.lost(f"{link.name} has not answered for {link.silence_s:g} s")
        late = [i for i in self.flight if now > self.due(i)]
        overtaken = min(REORDERED, max(1, len(self.flight) - 1))       # few in flight: no more answers than these can come
        lost = [i for i, order in self.flight.items() if order + overtaken <= self.newest and i not in late]
        if any(self.sendings[i][-1][1] > self.heard for i in late):     # nothing at all came since it was sent
            self.window.expired(link.sent)
        for index in sorted(late + lost, reverse=True):
            self.again(index)

    def not_there(self):
        """The host at the address refuses packets: try again a few times, as the device may be about to start."""
        self.refusals += 1
        if self.refusals >= REFUSALS:
            raise self.lost(f"nobody listens at {self.link.name}")
        time.sleep(REFUSED_S)
        for index in list(self.flight):
            self.again(index)

    def lost(self, why):
        arrived = f"; {self.done} of {self.total} bytes had arrived, {AGAIN}" if self.total else ""
        return ConnectionLost(f"{why}: check power, cable and address{arrived}")

    def refused(self, reply, offset, length):
        name, text = protocol.STATUSES.get(reply.status, (f"status {reply.status}", "unknown"))
        if reply.status == protocol.BAD_SESSION:
            return WrongDevice(f"{self.link.name} refuses the transfer after {self.done} of {self.total} bytes: the address belongs to "
                               f"another device, or it was reset, or another host took it over; {AGAIN}")
        return AddressError(f"the device refuses {length} bytes at window offset {offset:#x}: {name}, {text}")
