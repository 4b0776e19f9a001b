"""The host's side of the bulk transfer, against the device's model behind a network that loses, repeats, reorders and damages."""

import random
import socket
import threading
import time

import pytest

from litediffusion.soc import bulk_protocol as protocol
from litediffusion.soc.bulk_model import BulkModel
from litediffusion.soc.bulk_protocol import OPS, Packet
from litediffusion.sw.devices.bulk import BLOCK, BulkLink, bulk_address
from litediffusion.sw.devices.bulk_window import LARGEST, LONGEST_S, SMALLEST, START, Window
from litediffusion.sw.devices.errors import AddressError, ConnectionLost, DeviceFault, WrongDevice
from litediffusion.targets.lossy_link import FAULTS, LossyLink

GRAIN, WINDOW = 16, 1 << 19
BUFFER = 3                  # packets that wait while the device is at one


class FakeDevice:
    """The model behind a UDP socket, as slow as ``packet_s`` a packet, with room for BUFFER waiting ones."""

    def __init__(self, packet_s=0.0):
        self.model, self.packet_s = BulkModel(bytearray(WINDOW), GRAIN), packet_s
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.05)
        self.requests, self.dead, self.running = [], False, True
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while self.running:
            try:
                data, host = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            queue = [(data, host)] + self.waiting()
            for data, host in queue:
                time.sleep(self.packet_s)
                request = protocol.unpack(data)
                if request and not self.dead:
                    self.requests.append(request)
                reply = None if self.dead else self.model.handle(data)
                if reply:
                    self.socket.sendto(reply, host)

    def waiting(self):
        """What came meanwhile: BUFFER packets; the rest is dropped, as the ring does."""
        if not self.packet_s:
            return []
        time.sleep(self.packet_s)
        found = []
        self.socket.setblocking(False)
        try:
            while True:
                found.append(self.socket.recvfrom(2048))
        except BlockingIOError:
            pass
        self.socket.settimeout(0.05)
        self.model.full = (self.model.full + max(0, len(found) - BUFFER)) % 256
        return found[:BUFFER]

    def count(self, op):
        return sum(request.op == OPS[op] for request in self.requests)

    def link(self, address=None, **kwargs):
        def set_session(number):
            self.model.session = number
        return BulkLink(address or self.socket.getsockname(), GRAIN, set_session, **kwargs)

    def close(self):
        self.running = False
        self.thread.join()
        self.socket.close()


@pytest.fixture
def device():
    device = FakeDevice()
    yield device
    device.close()


@pytest.mark.parametrize("length", [GRAIN, 1024, 1040, BLOCK, 5 * BLOCK + 1008])
def test_write_and_read(device, length):
    data, link = random.Random(length).randbytes(length), device.link()
    seen = []
    link.write(48, data, lambda done, total: seen.append((done, total)))
    assert device.model.window[48:48 + length] == data and not any(device.model.window[:48]) and not any(device.model.window[48 + length:])
    assert seen == sorted(seen) and seen[-1] == (length, length)
    assert link.read(48, length) == data
    assert device.model.session == protocol.NO_SESSION


@pytest.mark.parametrize("rate", [0.01, 0.1])
@pytest.mark.parametrize("seed", range(2))
def test_bad_network(device, rate, seed):
    data = random.Random(seed).randbytes(200 * 1024)
    with LossyLink(device.socket.getsockname(), dict.fromkeys(FAULTS, rate), seed) as network:
        link = device.link(network.address)
        link.write(0, data)
        assert device.model.window[:len(data)] == data
        assert link.read(0, len(data)) == data
    assert all(network.counts[fault] for fault in FAULTS)
    assert network.counts["drop"] <= link.figures.repeats < 8 * sum(network.counts[f] for f in FAULTS)


def test_slow_device_sets_the_window():
    """A device that drops what it has no room for: nothing is lost, and few packets are sent for nothing."""
    device = FakeDevice(packet_s=0.001)
    try:
        data, link = random.Random(1).randbytes(300 * 1024), device.link()
        link.write(0, data)
        assert device.model.window[:len(data)] == data
        assert link.windows[OPS["WRITE"]].size < LARGEST / 2
        assert link.figures.repeats < link.figures.packets
    finally:
        device.close()


def test_only_what_differs_is_sent(device):
    data, link = bytearray(random.Random(2).randbytes(10 * BLOCK)), device.link()
    link.write(0, data)
    device.requests.clear()
    link.write(0, data)
    assert device.count("WRITE") == 0 and link.figures.skipped == len(data)
    data[3 * BLOCK + 5] ^= 1
    link.write(0, data)
    assert device.count("WRITE") == BLOCK // 1024 and device.model.window[:len(data)] == data


def test_broken_link_and_continuation(device):
    """The error says how much arrived; the same call sends the rest only."""
    data, seen = random.Random(3).randbytes(20 * BLOCK), []
    with LossyLink(device.socket.getsockname(), {}) as network:
        link = device.link(network.address, silence_s=0.5)

        def progress(done, total):
            seen.append(done)
            network.cut = done > total // 2
        with pytest.raises(ConnectionLost, match=rf"has not answered for 0.5 s.*of {len(data)} bytes had arrived.*same call again"):
            link.write(0, data, progress)
        network.cut = False
        first = device.count("WRITE")
        link.write(0, data)
    assert device.model.window[:len(data)] == data
    assert device.count("WRITE") - first <= (len(data) - seen[-1]) // 1024 + 16 + 64      # a block and a window at most twice


def test_silent_device(device):
    device.dead = True
    begin = time.monotonic()
    with pytest.raises(ConnectionLost, match="check power, cable and address"):
        device.link(silence_s=0.3).probe()
    assert time.monotonic() - begin < 3


def test_nobody_listens():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    with pytest.raises(ConnectionLost, match="nobody listens"):
        BulkLink(address, GRAIN, lambda number: None).probe()


SOC = {"bulk_port": 1235, "bulk_ip": 0xC0A80132, "config_platform_name": "lambdaconcept_ecpix5"}


@pytest.mark.parametrize("constants,where,address", [
    (SOC, None, ("192.168.1.50", 1235)),
    (SOC | {"config_platform_name": "sim"}, None, ("127.0.0.1", 1235)),
    (SOC, "10.0.0.7", ("10.0.0.7", 1235)),
    (SOC, "board.local:99", ("board.local", 99)),
    (SOC, "none", None),
    ({}, None, None),
    ({}, "none", None),
])
def test_address(constants, where, address):
    assert bulk_address(constants, where) == address


@pytest.mark.parametrize("constants,where,error", [
    ({}, "10.0.0.7", WrongDevice), (SOC, "", AddressError), (SOC, "host:0", AddressError), (SOC, "host:65536", AddressError),
    (SOC, "host:x", AddressError), (SOC, ":1", AddressError)])
def test_bad_address(constants, where, error):
    with pytest.raises(error, match="udp="):
        bulk_address(constants, where)


def test_other_device_answers(device):
    """The session was opened on another device than the one at the address: nothing is written there."""
    link = BulkLink(device.socket.getsockname(), GRAIN, lambda number: None, silence_s=1)
    with pytest.raises(WrongDevice, match="another device"):
        link.write(0, bytes(range(256)) * 4)
    assert not any(device.model.window)


def test_late_packets_of_an_ended_call(device):
    link = device.link()
    link.write(0, b"old!" * 256)
    late = device.requests[-2] if device.requests[-1].op == OPS["SUM"] else device.requests[-1]
    assert late.op == OPS["WRITE"]
    link.write(0, b"new!" * 256)
    device.model.handle(late.pack())
    assert device.model.window[:1024] == b"new!" * 256


def test_outside_the_window(device):
    with pytest.raises(AddressError, match="BAD_RANGE"):
        device.link().write(WINDOW - 512, bytes(1024))
    with pytest.raises(AddressError, match="multiples of 16"):
        device.link().write(8, bytes(16))


def test_memory_that_does_not_keep(device):
    """Acknowledged and still wrong: an error, not silence."""
    handle = device.model.handle

    def faulty(data):
        reply = handle(data)
        device.model.window[100] = 0x55
        return reply
    device.model.handle = faulty
    with pytest.raises(DeviceFault, match="wrong checksum"):
        device.link().write(0, bytes([1]) * 1024)


def test_window_grows_and_yields():
    window = Window()
    for i in range(20):
        window.counted(5, i, i + 10)
        window.acknowledged(0.01)
    assert window.size == START + 20 and 0.02 <= window.timeout < 0.03
    window.counted(6, 20, 40)
    window.counted(7, 21, 41)                         # of the same round trip
    assert window.size == (START + 20) / 2
    window.counted(7, 45, 60)                         # none was dropped
    window.acknowledged(0.01)
    assert (START + 20) / 2 < window.size < (START + 20) / 2 + 0.1
    size, timeout = window.size, window.timeout
    window.counted(8, 61, 70)
    assert window.size == 0.75 * size
    window.expired(300)
    assert window.size < 0.6 * size and window.timeout == 2 * timeout
    for i in range(300, 400):
        window.counted(i % 256, i * 100, i * 100 + 1)
        window.expired(i)
    assert window.size == SMALLEST and window.timeout == LONGEST_S
    for i in range(10_000):
        window.acknowledged(0.01)
    assert window.size == LARGEST


def test_packets_pack_and_unpack():
    packet = Packet(OPS["WRITE"], 1, 2, 3, 4, b"data", 5, 6, 7)
    assert protocol.unpack(packet.pack()) == packet
    assert protocol.unpack(packet.pack()[:-4]) is None and protocol.unpack(b"") is None
