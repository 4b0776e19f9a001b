"""SharedMemory: every access of every client checked against an array, under random contention."""

import random

from migen import *
from migen.sim import run_simulation
import pytest

from litediffusion.cores.memory import SharedMemory
from litediffusion.cores.ports import READ_LATENCY, MemoryPort

WORDS, BITS, CLIENTS = 32, 16, 3


class Bench(Module):
    def __init__(self, banks, distant=False):
        self.ports = [MemoryPort(WORDS, BITS) for _ in range(CLIENTS)]
        self.submodules.dut = SharedMemory(WORDS, BITS, self.ports, banks, distant)


def different_word(rng, busy):
    """A random word that is not in ``busy``: collisions of the two ports are outside the domain."""
    return rng.choice([word for word in range(WORDS) if word not in busy])


def write_halves(old, new, we):
    mask = (0xFF if we & 1 else 0) | (0xFF00 if we & 2 else 0)
    return (old & ~mask) | (new & mask)


def drive(bench, seed, cycles, log):
    """One generator plays all clients and the private reader, so that the order of accesses is known."""
    rng = random.Random(seed)
    model = [0] * WORDS
    requests = [None] * CLIENTS
    history, written = [[None] * CLIENTS] * READ_LATENCY, None      # answers to come, and the word being written
    distant, banks = bench.dut.distant, len(bench.dut.adr)
    privates = [None] * (1 + distant)                               # words of the private port to come
    for _ in range(cycles):
        for i, port in enumerate(bench.ports):
            if requests[i] is None and rng.random() < 0.6:
                requests[i] = (rng.randrange(WORDS), rng.randrange(4), rng.getrandbits(BITS))
            adr, we, data = requests[i] or (rng.randrange(WORDS), rng.randrange(4), rng.getrandbits(BITS))
            yield port.valid.eq(requests[i] is not None)
            yield port.adr.eq(adr)
            yield port.we.eq(we)
            yield port.dat_w.eq(data)
        first = next((i for i, r in enumerate(requests) if r), None)
        writes = first is not None and requests[first][1]
        busy = (requests[first][0] if distant and writes else written,)
        want = [different_word(rng, busy)]
        while len(want) < banks:                    # one even and one odd
            other = different_word(rng, busy)
            want += [other] if (other ^ want[0]) & 1 else []
        enable = distant or rng.random() < 0.7
        for adr, word in zip(bench.dut.adr, want):
            yield adr.eq(word)
        yield bench.dut.re.eq(enable)
        yield                                       # the requests are on the wires after this edge
        answers = history.pop(0)
        for i, port in enumerate(bench.ports):      # answers to the requests of READ_LATENCY edges before
            assert (yield port.rvalid) == (answers[i] is not None), f"client {i}: rvalid"
            if answers[i] is not None:
                assert (yield port.dat_r) == answers[i], f"client {i}: read data"
        private = privates.pop(0)
        if private is not None:
            swapped = yield bench.dut.swapped
            for word, data in enumerate(private):
                assert (yield bench.dut.dat_r[word ^ swapped]) == data, f"private port, word {word}"
        ready = []
        for port in bench.ports:
            ready.append((yield port.ready))
        reads, written = [None] * CLIENTS, None
        history.append(reads)
        privates.append([model[word] for word in want] if enable else private)
        if first is not None:
            assert ready[first], "the first client that asks was held off"
            adr, we, data = requests[first]
            if we:
                model[adr] = write_halves(model[adr], data, we)
                written = adr
            else:
                reads[first] = model[adr]
            log.append((first, bool(we)))
            requests[first] = None
        assert not any(r and q for r, q in zip(ready, requests)), "two clients were granted"


@pytest.mark.parametrize("banks", [1, 2])
@pytest.mark.parametrize("distant", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_random_access(seed, distant, banks):
    bench, log = Bench(banks, distant), []
    run_simulation(bench, drive(bench, seed, 1500, log))
    assert {kind for kind in log} == {(i, w) for i in range(CLIENTS) for w in (False, True)}


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="even width"):
        SharedMemory(8, 15, [])


def test_three_banks_are_refused():
    with pytest.raises(ValueError, match="3 banks"):
        SharedMemory(8, 16, [], banks=3)
