"""The counters in memory against plain integers: random pulses, a host that reads all the time, clears, and the end."""

import random

import pytest
from migen import Signal, run_simulation

from litediffusion.cores.counters import SCAN, Counters

NAMES = [f"c{i}" for i in range(SCAN - 3)]


class Bench:
    """Counters with a random pattern on every cause; one in three has two bits."""

    def __init__(self, seed, density, reads):
        self.rng, self.density, self.reads = random.Random(seed), density, reads
        self.causes = {name: Signal(2 if i % 3 == 0 else 1, name=name) for i, name in enumerate(NAMES)}
        self.dut = Counters(self.causes)

    def run(self, cycles):
        """Clear, count for ``cycles``, wait until settled; the sums that were offered."""
        dut, sums = self.dut, {name: 0 for name in NAMES}
        yield dut.clear.eq(1)
        yield dut.enable.eq(1)
        yield
        yield dut.clear.eq(0)
        yield                       # ``enable`` counts from its second cycle on
        for _ in range(cycles):
            for name, cause in self.causes.items():
                value = self.rng.randint(1, 2 ** len(cause) - 1) if self.rng.random() < self.density else 0
                value = min(value, 2)
                sums[name] += value
                yield cause.eq(value)
            yield dut.reading.eq(self.rng.random() < self.reads)
            yield dut.select.eq(self.rng.randrange(SCAN))
            yield
        for cause in self.causes.values():
            yield cause.eq(0)
        yield dut.enable.eq(0)
        yield dut.reading.eq(0)
        for _ in range(4 * SCAN):
            yield
            if (yield dut.settled):
                return sums
        raise TimeoutError(f"not settled within {4 * SCAN} cycles")

    def read(self):
        values = {}
        for k, name in enumerate(NAMES):
            yield self.dut.select.eq(k)
            yield self.dut.reading.eq(1)
            yield
            yield
            values[name] = yield self.dut.value
        yield self.dut.reading.eq(0)
        return values


@pytest.mark.parametrize("density,reads", [(1.0, 0), (1.0, 0.25), (0.3, 0.2), (0.01, 0)])
def test_sums(density, reads):
    """Every pulse is counted once, also those next to a clear; a second run starts from zero."""
    bench, results = Bench(round(100 * density), density, reads), []

    def drive():
        for cycles in (300, 7, SCAN, 90):
            expected = yield from bench.run(cycles)
            results.append((expected, (yield from bench.read())))

    run_simulation(bench.dut, drive())
    assert len(results) == 4
    for expected, found in results:
        assert found == expected


def test_too_many_causes():
    with pytest.raises(ValueError, match="counters, the limit is"):
        Counters({f"c{i}": Signal() for i in range(SCAN + 1)})
