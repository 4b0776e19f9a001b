"""PortSlice: slices of wide words under random stalls; on LiteDRAM's own controller the order between ports, and a last
word that nothing follows."""

import random

from litedram.common import LiteDRAMNativePort
from litedram.core import LiteDRAMCore
from litedram.frontend.dma import LiteDRAMDMAReader, LiteDRAMDMAWriter
from migen import *
import pytest

from litediffusion.soc.port_slice import PortSlice
from litediffusion.targets.ecpix5_dram import NPHASES, DRAMModel, MT41K256M16, phy_settings

CLOCK = 75e6
NATIVE, SLICE = 128, 32
RATIO = NATIVE // SLICE
TIMEOUT = 3000
QUIET = 40          # cycles after which LiteDRAM has surely written what it accepted
MODES = ("read", "read", "write")


class Engine(Module):
    """Two readers and a writer, as the engine has them, on slices of native ports."""

    def __init__(self, native):
        slices = [PortSlice(port, SLICE) for port in native]
        self.submodules += slices
        self.submodules.first = LiteDRAMDMAReader(slices[0].port)
        self.submodules.second = LiteDRAMDMAReader(slices[1].port)
        self.submodules.writer = LiteDRAMDMAWriter(slices[2].port)


def accepted(sink, **values):
    """Offer one item until it is taken."""
    for name, value in values.items():
        yield getattr(sink, name).eq(value)
    yield sink.valid.eq(1)
    yield
    for _ in range(TIMEOUT):
        if (yield sink.ready):
            yield sink.valid.eq(0)
            return
        yield
    pytest.fail(f"{values} was not accepted within {TIMEOUT} cycles")


def answer(source):
    yield source.ready.eq(1)
    yield
    for _ in range(TIMEOUT):
        if (yield source.valid):
            data = yield source.data
            yield source.ready.eq(0)
            return data
        yield
    pytest.fail(f"no word came back within {TIMEOUT} cycles")


def wait(cycles):
    for _ in range(cycles):
        yield


def test_on_the_real_controller():
    """The engine's rule: a LOAD may start once STORE's last command has been taken. And the host's port sees the end of a
    program that does not fill a native word, without anything that pushes it out."""
    class Bench(Module):
        def __init__(self):
            module = MT41K256M16(CLOCK, f"1:{NPHASES}")
            self.submodules.phy = phy = DRAMModel(module, phy_settings(CLOCK), 1 << 15)
            self.submodules.core = core = LiteDRAMCore(phy, module.geom_settings, module.timing_settings, CLOCK)
            self.submodules.engine = Engine([core.crossbar.get_port(mode=mode) for mode in MODES])
            self.submodules.host = LiteDRAMDMAReader(core.crossbar.get_port(mode="read"))

    bench, rng = Bench(), random.Random(1)
    engine, host, tail = bench.engine, bench.host, [0x1001, 0x1002, 0x1003, 0x1004, 0x1005]

    def process():
        yield from bench.core.dfii._control.write(0x1)     # hardware control, as the firmware leaves it
        for reader in (engine.first, engine.second) * 3:
            at, data = rng.randrange(64), rng.getrandbits(SLICE)
            yield from accepted(engine.writer.sink, address=at, data=data)
            yield from accepted(reader.sink, address=at)
            assert (yield from answer(reader.source)) == data
        for i, value in enumerate(tail):
            yield from accepted(engine.writer.sink, address=64 + i, data=value)
        yield from wait(QUIET)
        found = 0
        for i in range(2):
            yield from accepted(host.sink, address=64 // RATIO + i)
            found |= (yield from answer(host.source)) << NATIVE * i
        assert [found >> SLICE * i & 0xFFFFFFFF for i in range(2 * RATIO)] == tail + [0] * (2 * RATIO - len(tail))

    run_simulation(bench, process())


class Controller:
    """Executes the ports' commands in the order of acceptance; data follow some cycles later, in order for each port."""

    def __init__(self, ports, rng, words):
        self.ports, self.rng, self.memory = ports, rng, [0] * words

    @passive
    def run(self):
        pending = []                                      # (port, address, cycles left)
        for _ in range(TIMEOUT):
            for port in self.ports:
                yield port.cmd.ready.eq(self.rng.random() < 0.7)
                for stream in (port.wdata.ready, port.rdata.valid):
                    yield stream.eq(0)
            head = pending.pop(0) if pending and pending[0][2] == 0 else None
            if head is not None:
                port, at, _ = head
                if port.mode == "read":
                    yield port.rdata.data.eq(self.memory[at])
                yield (port.rdata.valid if port.mode == "read" else port.wdata.ready).eq(1)
            yield
            if head is not None and port.mode == "write":
                assert (yield port.wdata.valid), "a write command without data"
                enables = yield port.wdata.we
                mask = sum(0xFF << 8 * i for i in range(NATIVE // 8) if enables >> i & 1)
                self.memory[at] = self.memory[at] & ~mask | (yield port.wdata.data) & mask
            pending = [(p, a, max(0, left - 1)) for p, a, left in pending]
            for port in self.ports:
                if (yield port.cmd.valid) and (yield port.cmd.ready):
                    pending.append((port, (yield port.cmd.addr), self.rng.randrange(6)))
        raise TimeoutError(f"not done after {TIMEOUT} cycles")


@pytest.mark.parametrize("seed", range(3))
def test_all_ports_at_once(seed):
    """Streams on the three ports with stalls on both sides: every word once, in order, in its place, its neighbours untouched."""
    rng, native = random.Random(seed), [LiteDRAMNativePort(mode, 6, NATIVE) for mode in MODES]
    engine, controller = Engine(native), Controller(native, random.Random(seed + 100), 64)
    words = [rng.getrandbits(SLICE) for _ in range(64 * RATIO)]
    controller.memory[:] = [sum(words[RATIO * i + k] << SLICE * k for k in range(RATIO)) for i in range(64)]
    new = {at: rng.getrandbits(SLICE) for at in rng.sample(range(128, 256), 60)}
    places = {name: [rng.randrange(128) for _ in range(80)] for name in ("first", "second")}
    found = {name: [] for name in places}

    def writer():
        for at, data in new.items():
            yield from wait(rng.choice([0, 0, 3]))
            yield from accepted(engine.writer.sink, address=at, data=data)
        yield from wait(100)

    def ask(name):
        for at in places[name]:
            yield from wait(rng.choice([0, 0, 2]))
            yield from accepted(getattr(engine, name).sink, address=at)

    def take(name):
        for _ in places[name]:
            yield from wait(rng.choice([0, 0, 9]))
            found[name].append((yield from answer(getattr(engine, name).source)))

    run_simulation(engine, [controller.run(), writer(), *[f(name) for f in (ask, take) for name in places]])
    assert found == {name: [words[at] for at in ats] for name, ats in places.items()}
    for at, data in new.items():
        words[at] = data
    assert controller.memory == [sum(words[RATIO * i + k] << SLICE * k for k in range(RATIO)) for i in range(64)]


@pytest.mark.parametrize("native, width", [(64, 64), (64, 128), (96, 32), (128, 48)])
def test_widths_that_do_not_fit(native, width):
    with pytest.raises(ValueError, match="wider by a power of two"):
        PortSlice(LiteDRAMNativePort("read", 10, native), width)
