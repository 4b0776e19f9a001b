"""The simulated memory has the ECPIX-5's settings, and keeps what is written to it."""

import random

from litedram.core import LiteDRAMCore
from litedram.phy.ecp5ddrphy import ECP5DDRPHY
from litex_boards.platforms import lambdaconcept_ecpix5
from migen import Module, passive, run_simulation
import pytest

from litediffusion.targets.ecpix5_dram import NPHASES, DRAMModel, MT41K256M16, phy_settings
from litediffusion.targets.sdram import RegisteredPHY

CLOCK = 75e6
SIZE = 1 << 18
WORD = 16
TIMEOUT = 30000


def test_settings_are_the_boards():
    platform = lambdaconcept_ecpix5.Platform(device="85F")
    board = ECP5DDRPHY(platform.request("ddram"), sys_clk_freq=CLOCK).settings
    ours = phy_settings(CLOCK)
    for name in ("memtype", "databits", "dfi_databits", "nphases", "rdphase", "wrphase", "cl", "cwl", "read_latency",
                 "write_latency"):
        assert getattr(ours, name) == getattr(board, name), name


def test_refresh_takes_260_ns():
    assert MT41K256M16(CLOCK, f"1:{NPHASES}").timing_settings.tRFC == 20


@pytest.mark.parametrize("size", [SIZE - 1, 1 << 40])
def test_bad_size(size):
    with pytest.raises(ValueError):
        DRAMModel(MT41K256M16(CLOCK, f"1:{NPHASES}"), phy_settings(CLOCK), size)


class Bench(Module):
    """Controller and model with hardware control of the DFI from the start; registered: with registers between them."""

    def __init__(self, registered):
        module = MT41K256M16(CLOCK, f"1:{NPHASES}")
        phy = DRAMModel(module, phy_settings(CLOCK), SIZE)
        self.submodules.phy = phy = RegisteredPHY(phy) if registered else phy
        self.submodules.core = LiteDRAMCore(phy, module.geom_settings, module.timing_settings, CLOCK)
        self.write = self.core.crossbar.get_port(mode="write")
        self.read = self.core.crossbar.get_port(mode="read")


def access(port, accesses, we, rng):
    """Commands and data of one port, with random pauses between commands."""
    for address, data, mask in accesses:
        for _ in range(rng.choice([0, 0, 0, 1, 7])):
            yield
        yield port.cmd.addr.eq(address)
        yield port.cmd.we.eq(we)
        yield port.cmd.valid.eq(1)
        yield
        while not (yield port.cmd.ready):
            yield
        yield port.cmd.valid.eq(0)
        if we:
            yield port.wdata.data.eq(data)
            yield port.wdata.we.eq(mask)
            yield port.wdata.valid.eq(1)
            yield
            while not (yield port.wdata.ready):
                yield
            yield port.wdata.valid.eq(0)


@passive
def collect(port, words):
    yield port.rdata.ready.eq(1)
    while True:
        if (yield port.rdata.valid):
            words.append((yield port.rdata.data))
        yield


@pytest.mark.parametrize("registered", [False, True])
def test_random_words_with_masks(registered):
    rng = random.Random(1)
    addresses = [rng.randrange(SIZE // WORD) for _ in range(8)] + list(range(100, 108))
    writes = [(a, rng.getrandbits(8 * WORD), rng.choice([0xFFFF, 0xFFFF, rng.getrandbits(16)]))
              for a in addresses for _ in range(2)]
    expected = {}
    for address, data, mask in writes:
        keep = sum(0xFF << 8 * i for i in range(WORD) if not mask >> i & 1)
        expected[address] = expected.get(address, 0) & keep | data & ~keep
    reads = [(a, 0, 0) for a in rng.sample(addresses, len(addresses))]
    bench, words = Bench(registered), []

    def stimulus():
        yield from bench.core.dfii._control.write(0x1)     # hardware control, as the firmware leaves it
        yield from access(bench.write, writes, 1, rng)
        yield from access(bench.read, reads, 0, rng)
        for _ in range(TIMEOUT):
            if len(words) == len(reads):
                return
            yield
        pytest.fail(f"{len(words)} of {len(reads)} words came back within {TIMEOUT} cycles")

    run_simulation(bench, [stimulus(), collect(bench.read, words)])
    assert words == [expected[a] for a, _, _ in reads]
