"""Bulk transfers to the whole simulated SoC, over a network that loses, repeats, reorders and damages packets."""

import random
import socket

import pytest

from litediffusion.soc import bulk_protocol as protocol
from litediffusion.soc import memory_map
from litediffusion.sw.devices.bulk import BulkLink
from litediffusion.sw.devices.errors import AddressError, ConnectionLost, WrongDevice
from litediffusion.sw.devices.litex import LitexDevice
from litediffusion.sw.devices.open import open_device
from litediffusion.targets.lossy_link import FAULTS, LossyLink
from litediffusion.targets.sim import SimServer

PLACE = 0x200000            # window offset


@pytest.fixture(scope="module")
def server():
    with SimServer() as running:
        yield running


@pytest.fixture
def device(server):
    device = open_device(server.url, csr_csv=server.csr_csv)
    yield device
    device.close()


def at(server, network):
    """A device whose bulk transfer goes through a network."""
    return LitexDevice(server.host, server.port, server.csr_csv, f"{network.address[0]}:{network.address[1]}")


def seen_by_the_bus(device, offset, length):
    """Bytes of the window as Etherbone reads them."""
    words = device.link.read_words(device.window_base + offset, length // 4)
    return b"".join(word.to_bytes(4, "little") for word in words)


@pytest.mark.parametrize("offset,length", [(0, 1024), (4, 1024), (12, 2056), (0, 16384), (8, 40_004)])
def test_write_then_read(device, offset, length):
    """Any multiple of 4; what lies around stays."""
    data, around = random.Random(length).randbytes(length), bytes(range(64))
    device.write(PLACE, around * (length // 64 + 2))
    device.write(PLACE + offset, data)
    assert device.bulk is not None and device.bulk.figures.bytes > 0
    whole = (around * (length // 64 + 2))
    whole = whole[:offset] + data + whole[offset + length:]
    assert seen_by_the_bus(device, PLACE, len(whole)) == whole
    assert device.read(PLACE + offset + 1, length - 2) == data[1:-1]


def test_end_of_the_window(device):
    data = random.Random(1).randbytes(2048)
    device.write(memory_map.WINDOW_SIZE - 2048, data)
    assert device.read(memory_map.WINDOW_SIZE - 2048, 2048) == data
    with pytest.raises(AddressError, match="outside the window"):
        device.write(memory_map.WINDOW_SIZE - 1024, data)
    with pytest.raises(AddressError, match="BAD_RANGE"):
        device.bulk.write(memory_map.WINDOW_SIZE - 1024, data)


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_bad_network(server, rate):
    """The content arrives whole; Etherbone looks at it."""
    data = random.Random(rate).randbytes(96 * 1024)
    with LossyLink(("127.0.0.1", server.bulk_port), dict.fromkeys(FAULTS, rate), seed=4) as network:
        device = at(server, network)
        device.write(PLACE, data)
        assert device.bulk.figures.bytes == len(data) and device.bulk.figures.repeats >= network.counts["drop"] // 2
        part = random.Random(2).randrange(0, len(data) - 8192, 4)
        assert seen_by_the_bus(device, PLACE + part, 8192) == data[part:part + 8192]
        assert device.read(PLACE, len(data)) == data
        device.close()
    assert network.counts["drop"] and network.counts["damage"]


def test_broken_link_then_continuation(server):
    data = random.Random(5).randbytes(128 * 1024)
    with LossyLink(("127.0.0.1", server.bulk_port), {}) as network:
        device = at(server, network)
        device.bulk_link().silence_s = 1.0

        def progress(done, total):
            network.cut = done > total // 2
        with pytest.raises(ConnectionLost, match=r"of 131072 bytes had arrived"):
            device.write(PLACE, data, progress)
        network.cut, device.bulk.figures.skipped = False, 0
        device.write(PLACE, data)
        assert device.bulk.figures.skipped >= len(data) // 4
        assert device.read(PLACE, len(data)) == data
        device.close()


def test_other_device_at_the_address(server):
    """Another simulation answers at the address: it refuses, and the device says so."""
    with SimServer() as other:
        device = LitexDevice(server.host, server.port, server.csr_csv, f"127.0.0.1:{other.bulk_port}")
        with pytest.raises(WrongDevice, match="another device"):
            device.write(PLACE, bytes(2048))
        device.close()


def test_without_the_bulk_transfer(server):
    """Nothing answers at the default address, or it is switched off: Etherbone does it all."""
    data = random.Random(6).randbytes(2048)
    device = LitexDevice(server.host, server.port, server.csr_csv, "none")
    device.write(PLACE, data)
    assert device.bulk is None and device.read(PLACE, len(data)) == data
    device.close()


def test_two_links_do_not_mix(server, device):
    """A second session ends the first one, which says so."""
    device.write(PLACE, bytes(1024))

    def steal(done, total):
        device.link.csr_write("bulk_session", 77)
    with pytest.raises(WrongDevice, match="another host took it over"):
        device.bulk.write(PLACE, random.Random(7).randbytes(64 * 1024), steal)
    assert device.link.csr_read("bulk_session") == protocol.NO_SESSION


def test_explicit_address_must_answer(server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    device = LitexDevice(server.host, server.port, server.csr_csv, f"127.0.0.1:{port}")
    with pytest.raises(ConnectionLost, match="nobody listens"):
        device.write(PLACE, bytes(1024))
    device.close()


def test_rate(server, device):
    """Cycles a KiB with their checksums, from host to DRAM."""
    def cycles():
        device.link.csr_write("timer0_uptime_latch", 1)
        return device.link.csr_read("timer0_uptime_cycles")
    data = random.Random(8).randbytes(256 * 1024)
    device.bulk_link()
    begin = cycles()
    device.bulk.write(PLACE, data)
    each = (cycles() - begin) / 256
    assert isinstance(device.bulk, BulkLink) and each < 4000
