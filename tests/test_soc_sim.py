"""The whole SoC in Verilator behind litex_server: boot, map, mailbox claim, bulk transfers, two hosts, its end."""

import errno
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

from litex.tools.litex_client import RemoteClient
from litex.tools.remote.comm_udp import CommUDP
import pytest

from litediffusion.cores.config import PRESETS
from litediffusion.cores.regs import REGS
from litediffusion.soc import mailbox, memory_map
from litediffusion.sw.devices.errors import AddressError, ConnectionLost
from litediffusion.sw.devices.litex_link import BURST_WORDS
from litediffusion.targets.sim import SimServer

BUILD_DIR = Path(__file__).resolve().parent.parent / "build" / "sim"
HOST_A, HOST_B = 0x1234, 0x5678


@pytest.fixture(scope="module")
def server():
    with SimServer(BUILD_DIR) as running:
        yield running


@pytest.fixture
def link(server):
    with server.link() as connected:
        yield connected


def test_identifier_and_stock_client(server, link):
    assert link.identifier() == "litediffusion ecpix5"
    client = RemoteClient("127.0.0.1", server.port, csr_csv=str(server.csr_csv))
    client.open()
    assert chr(client.read(client.bases.identifier_mem)) == "l"
    client.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_stock_udp_cannot_share_the_host(server, address):
    """Why targets/etherbone_server exists: LiteX's CommUDP binds the device's port on all addresses of this host."""
    with pytest.raises(OSError) as error:
        CommUDP(address, server.udp_port).open(probe=False)
    assert error.value.errno == errno.EADDRINUSE


def test_map(link):
    assert link.regions["mailbox_ram"] == (memory_map.MAILBOX_BASE, mailbox.SIZE)
    base, size = link.regions["main_ram"]
    assert base == memory_map.MAIN_RAM_BASE
    assert memory_map.WINDOW_OFFSET + memory_map.WINDOW_SIZE <= size


def test_engine_registers(link):
    for r in REGS:
        assert link.has_csr(f"engine_{r.name}"), r.name
    assert link.csr_read("engine_config_hash") == PRESETS["ecpix5"].hash
    link.csr_write("engine_seed0", 0xDEADBEEF)
    assert link.csr_read("engine_seed0") == 0xDEADBEEF


def test_firmware_is_alive(link):
    at, _ = mailbox.STATE_AT["heartbeat"]
    first = link.read_words(memory_map.MAILBOX_BASE + at, 1)
    deadline = time.monotonic() + 10
    while link.read_words(memory_map.MAILBOX_BASE + at, 1) == first:
        assert time.monotonic() < deadline, "the heartbeat stands still"


@pytest.mark.parametrize("n", [1, 2, BURST_WORDS - 1, BURST_WORDS, BURST_WORDS + 1, 40 * BURST_WORDS + 7])
def test_write_and_read_back(link, n):
    rng = random.Random(n)
    addr = memory_map.WINDOW_BASE + 4 * rng.randrange(1000)
    words = [rng.getrandbits(32) for _ in range(n)]
    link.write_words(addr - 4, [1] + [0] * n + [2])
    link.write_words(addr, words)
    assert link.read_words(addr - 4, n + 2) == [1] + words + [2]


def test_ends_of_the_window_are_different_memory(link):
    ends = [memory_map.WINDOW_BASE + i * memory_map.WINDOW_SIZE // 8 for i in range(8)]
    ends.append(memory_map.WINDOW_BASE + memory_map.WINDOW_SIZE - 4)
    for i, addr in enumerate(ends):
        link.write_words(addr, [i + 1])
    assert [link.read_words(addr, 1)[0] for addr in ends] == [i + 1 for i in range(len(ends))]


def test_two_hosts_claim(server, link):
    with server.link() as other:
        link.csr_write("mailbox_claim", HOST_A)
        other.csr_write("mailbox_claim", HOST_B)
        assert link.csr_read("mailbox_owner") == other.csr_read("mailbox_owner") == HOST_A
        other.csr_write("mailbox_release", HOST_B)
        assert link.csr_read("mailbox_owner") == HOST_A
        link.csr_write("mailbox_release", HOST_A)
        other.csr_write("mailbox_claim", HOST_B)
        assert link.csr_read("mailbox_owner") == HOST_B
        other.csr_write("mailbox_release", HOST_B)


def test_read_outside_the_map(server, link):
    with pytest.raises(AddressError, match="0x60000000"):
        link.read_words(0x60000000, 1)
    errors = link.csr_read("ctrl_bus_errors")
    client = RemoteClient("127.0.0.1", server.port, csr_csv=str(server.csr_csv))
    client.open()
    assert client.read(0x60000000) == 0xFFFFFFFF, "the bus itself answers, and soon"
    client.close()
    assert link.csr_read("ctrl_bus_errors") == errors + 1


def test_device_that_stops_is_noticed(server):
    """The simulation stands still: an error in bounded time; it goes on: the next access works."""
    pid = server.sim_pid
    with server.link(timeout_s=1) as link:
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionLost):
                link.read_words(memory_map.MAILBOX_BASE, 1)
        finally:
            os.kill(pid, signal.SIGCONT)
    with server.link() as link:
        assert link.read_words(memory_map.MAILBOX_BASE, 1) == [mailbox.MAGIC]


CHILD = """
import sys, time
from litediffusion.targets.sim import SimServer
server = SimServer(sys.argv[1]).start()
print(server.sim_pid, server.server_pid, flush=True)
time.sleep(60)
"""


def test_nothing_is_left_when_the_host_is_killed():
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(BUILD_DIR)], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in child.stdout.readline().split()]
    child.kill()
    child.wait()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"processes {pids} outlive their parent"
        time.sleep(0.1)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
