"""PortMerge behind LiteDRAM's width converter: data, order between ports, stalls."""

import random

from litedram.common import LiteDRAMNativePort
from litedram.frontend.adapter import LiteDRAMNativePortConverter
from migen import *
import pytest

from litediffusion.soc.port_merge import PortMerge

WIDE, NARROW = 64, 16
RATIO = WIDE // NARROW
WORDS = 64
CYCLES = 5000       # more than any test here needs


class Bench(Module):
    """PortMerge on a narrow port; ``memory`` is what the controller holds, ``trace`` the narrow commands."""

    def __init__(self):
        self.narrow = LiteDRAMNativePort("both", address_width=8, data_width=NARROW)
        wide = LiteDRAMNativePort("both", address_width=6, data_width=WIDE)
        self.submodules.merge = PortMerge(wide)
        self.submodules.converter = LiteDRAMNativePortConverter(wide, self.narrow)
        self.memory = [0] * (WORDS * RATIO)

    @passive
    def controller(self, rng):
        """Executes commands in order; data follow their command some cycles later, as in LiteDRAM."""
        port, pending = self.narrow, []
        for _ in range(CYCLES):
            yield port.cmd.ready.eq(rng.random() < 0.7)
            head = pending[0] if pending and pending[0][2] == 0 else None
            yield port.wdata.ready.eq(head is not None and head[0])
            yield port.rdata.valid.eq(head is not None and not head[0])
            if head is not None and not head[0]:
                yield port.rdata.data.eq(self.memory[head[1]])
            yield
            if head is not None:
                if head[0]:
                    assert (yield port.wdata.valid), "a write command without data"
                    self.memory[head[1]] = yield port.wdata.data
                pending.pop(0)
            pending = [(we, at, max(0, left - 1)) for we, at, left in pending]
            if (yield port.cmd.valid) and (yield port.cmd.ready):
                pending.append(((yield port.cmd.we), (yield port.cmd.addr), rng.randrange(6)))
        raise TimeoutError(f"not done after {CYCLES} cycles")


def command(port, address):
    yield port.cmd.addr.eq(address)
    yield port.cmd.valid.eq(1)
    yield
    while not (yield port.cmd.ready):
        yield
    yield port.cmd.valid.eq(0)


def write(port, address, data):
    """One word; the data are there with the command, as LiteDRAMDMAWriter has them. Returns when the command is taken."""
    yield port.wdata.data.eq(data)
    yield port.wdata.we.eq(2**(WIDE // 8) - 1)
    yield port.wdata.valid.eq(1)
    yield from command(port, address)


def finish_write(port):
    while not (yield port.wdata.ready):
        yield
    yield port.wdata.valid.eq(0)
    yield


def read(port, address):
    yield port.rdata.ready.eq(1)
    yield from command(port, address)
    while not (yield port.rdata.valid):
        yield
    return (yield port.rdata.data)


def run(bench, *processes, seed=1):
    run_simulation(bench, [bench.controller(random.Random(seed)), *processes])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("reader", range(2))
def test_read_after_the_accepted_write_sees_it(seed, reader):
    """The engine's rule: a LOAD may start once STORE's last command has been taken."""
    bench, rng = Bench(), random.Random(seed)

    def host():
        for _ in range(20):
            at, data = rng.randrange(WORDS), rng.getrandbits(WIDE)
            yield from write(bench.merge.writer, at, data)
            found = yield from read(bench.merge.readers[reader], at)
            assert found == data
            yield bench.merge.writer.wdata.valid.eq(0)
    run(bench, host(), seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_all_ports_at_once(seed):
    bench = Bench()
    bench.memory[:] = [random.Random(seed).getrandbits(NARROW) for _ in bench.memory]
    start = list(bench.memory)
    written = {}

    def word(at):
        return sum(start[at * RATIO + i] << NARROW * i for i in range(RATIO))

    def reader(port, rng):      # lower half, which nobody writes
        for _ in range(30):
            at = rng.randrange(WORDS // 2)
            assert (yield from read(port, at)) == word(at)
            for _ in range(rng.randrange(4)):
                yield

    def writer(port, rng):
        for _ in range(30):
            at, data = rng.randrange(WORDS // 2, WORDS), rng.getrandbits(WIDE)
            yield from write(port, at, data)
            yield from finish_write(port)
            written[at] = data
        for _ in range(100):
            yield
    ports = bench.merge
    run(bench, reader(ports.readers[0], random.Random(seed + 10)), reader(ports.readers[1], random.Random(seed + 20)),
        writer(ports.writer, random.Random(seed + 30)), seed=seed)
    for at, data in written.items():
        assert [data >> NARROW * i & 0xFFFF for i in range(RATIO)] == bench.memory[at * RATIO:at * RATIO + RATIO]


def test_readers_take_turns():
    bench, served = Bench(), []

    def reader(index):
        yield bench.merge.readers[index].rdata.ready.eq(1)
        for at in range(20):
            yield from command(bench.merge.readers[index], at)
            served.append(index)
            yield bench.merge.readers[index].cmd.valid.eq(1)      # the next one follows at once
    run(bench, reader(0), reader(1))
    assert 8 <= sum(served[:20]) <= 12


def test_only_a_port_for_both_directions():
    with pytest.raises(ValueError, match="mode read"):
        PortMerge(LiteDRAMNativePort("read", address_width=6, data_width=WIDE))
