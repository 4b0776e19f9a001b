"""SharedMemory: every access of every client checked against an array, under random contention."""

import random

from migen import *
from migen.sim import run_simulation
import pytest

from litediffusion.cores.memory import SharedMemory
from litediffusion.cores.ports import MemoryPort

WORDS, BITS, CLIENTS = 32, 16, 3


class Bench(Module):
    def __init__(self):
        self.ports = [MemoryPort(WORDS, BITS) for _ in range(CLIENTS)]
        self.submodules.dut = SharedMemory(WORDS, BITS, self.ports)


def write_halves(old, new, we):
    mask = (0xFF if we & 1 else 0) | (0xFF00 if we & 2 else 0)
    return (old & ~mask) | (new & mask)


def drive(bench, seed, cycles, log):
    """One generator plays all clients and the private reader, so that the order of accesses is known."""
    rng = random.Random(seed)
    model = [0] * WORDS
    requests = [None] * CLIENTS
    reads, private = [None] * CLIENTS, None
    for _ in range(cycles):
        for i, port in enumerate(bench.ports):
            if requests[i] is None and rng.random() < 0.6:
                requests[i] = (rng.randrange(WORDS), rng.randrange(4), rng.getrandbits(BITS))
            adr, we, data = requests[i] or (rng.randrange(WORDS), rng.randrange(4), rng.getrandbits(BITS))
            yield port.valid.eq(requests[i] is not None)
            yield port.adr.eq(adr)
            yield port.we.eq(we)
            yield port.dat_w.eq(data)
        want = rng.randrange(WORDS)
        first = next((i for i, r in enumerate(requests) if r), None)
        if first is not None and requests[first][1] and requests[first][0] == want:
            want = (want + 1) % WORDS               # collisions of the two ports are outside the domain
        enable = rng.random() < 0.7
        yield bench.dut.adr.eq(want)
        yield bench.dut.re.eq(enable)
        yield                                       # the requests are on the wires after this edge
        for i, port in enumerate(bench.ports):      # answers to the requests of the edge before
            assert (yield port.rvalid) == (reads[i] is not None), f"client {i}: rvalid"
            if reads[i] is not None:
                assert (yield port.dat_r) == reads[i], f"client {i}: read data"
        if private is not None:
            assert (yield bench.dut.dat_r) == private, "private port"
        ready = []
        for port in bench.ports:
            ready.append((yield port.ready))
        reads = [None] * CLIENTS
        if enable:
            private = model[want]
        if first is not None:
            assert ready[first], "the first client that asks was held off"
            adr, we, data = requests[first]
            if we:
                model[adr] = write_halves(model[adr], data, we)
            else:
                reads[first] = model[adr]
            log.append((first, bool(we)))
            requests[first] = None
        assert not any(r and q for r, q in zip(ready, requests)), "two clients were granted"


@pytest.mark.parametrize("seed", [1, 2])
def test_random_access(seed):
    bench, log = Bench(), []
    run_simulation(bench, drive(bench, seed, 1500, log))
    assert {kind for kind in log} == {(i, w) for i in range(CLIENTS) for w in (False, True)}


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="even width"):
        SharedMemory(8, 15, [])
