"""The Gaussian source against its golden model, and the golden model against published vectors and statistics."""

import random

import numpy as np
import pytest
from migen import run_simulation

from litediffusion.cores.gaussian import GaussianSource
from litediffusion.cores.gaussian_model import gauss_from_bits, gaussian, threefry2x32

# Ref: kat_vectors of the Random123 distribution, threefry2x32 with 20 rounds: counter, key, result.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def draw(items, seeds, start=None, seed=0, stall=0.0):
    """Feed (element, step) pairs, return (list of z, cycles of each); ``start`` replaces Threefry's bits."""
    dut, prng, results, times = GaussianSource(), random.Random(seed), [], []
    dut.seed0.reset, dut.seed1.reset = seeds

    def feed():
        for element, step in items:
            while prng.random() < stall:
                yield
            yield dut.sink.element.eq(element)
            yield dut.sink.step.eq(step)
            yield dut.sink.valid.eq(1)
            yield
            while not (yield dut.sink.ready):
                yield
            yield dut.sink.valid.eq(0)

    def collect():
        s = dut.source
        for cycle in range(300 + 150 * len(items)):
            if start is not None and (yield dut.fsm.state) == dut.fsm.encoding["SIGN"]:
                yield dut.words.x0.eq(start[len(results)])
                yield dut.negative.eq(start[len(results)] >> 31)
            yield s.ready.eq(prng.random() >= stall)
            yield
            if (yield s.valid) and (yield s.ready):
                magnitude = ((yield s.value) * 256 - (yield s.slope) * (yield s.fraction) + 128) >> 8
                results.append(-magnitude if (yield s.negative) else magnitude)
                times.append(cycle)
                if len(results) == len(items):
                    return
        raise TimeoutError(f"{len(results)} of {len(items)} results after {cycle} cycles")

    run_simulation(dut, [feed(), collect()])
    return results, [after - before for before, after in zip(times, times[1:])]


@pytest.mark.parametrize("counter, key, expected", KNOWN)
def test_threefry_known_answers(counter, key, expected):
    assert int(threefry2x32(*key, *counter)) == expected[0]
    assert draw([counter], key)[0] == [int(gauss_from_bits(expected[0]))]


def test_segments():
    """The edges of every octave and segment in place of Threefry's bits."""
    prng = random.Random(1)
    tails = [0, 1, 2, 63, 64, 127, 128, 255, 256, 0x7FFFFFFF, 0x7FFFFFFE]
    tails += [(1 << bit) + d for bit in range(5, 31) for d in (-1, 0, 1, (1 << bit) - 1)]
    tails += [prng.getrandbits(31) >> prng.randrange(31) for _ in range(20)]
    bits = [t | (i & 1) << 31 for i, t in enumerate(tails)] + [1 << 31, 0xFFFFFFFF]
    z, _ = draw([(0, 0)] * len(bits), (0, 0), start=bits, stall=0.1)
    assert z == gauss_from_bits(np.array(bits)).tolist()


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_source(stall):
    seeds = (0x89ABCDEF, 0xFEDCBA98)
    items = list(zip([0, 1, 2, 65535, 98303, 0xFFFFFFFF] + list(range(24)), [0, 65535] * 15))
    z, cycles = draw(items, seeds, seed=3, stall=stall)
    assert z == [int(gaussian(*seeds, element, step)) for element, step in items]
    if not stall:
        zeros = [min(23, 31 - (int(threefry2x32(*seeds, *item)) & 0x7FFFFFFF).bit_length()) for item in items]
        assert [c - 2 * n for c, n in zip(cycles, zeros[1:])] == [43] * (len(items) - 1), "43 cycles and two for each zero"


def test_statistics():
    """Moments of n = 2^18 values within four standard errors of N(0, 1)."""
    n = 1 << 18
    z = gaussian(1234, 5678, np.arange(n), 7) / 4096.0
    assert abs(z.mean()) < 4 / n**0.5
    assert abs(z.std() - 1) < 4 * (0.5 / n)**0.5
    assert abs((z**3).mean()) < 4 * (15 / n)**0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / n)**0.5
    for tail, p in ((1.0, 0.317311), (2.0, 0.0455003), (3.0, 0.0026998), (4.0, 6.334e-5)):
        assert abs((abs(z) > tail).mean() - p) < 4 * (p / n)**0.5 + 1e-6, f"tail beyond {tail}"


def test_streams_are_independent():
    """Neighbouring elements, steps and seeds are uncorrelated."""
    n = 1 << 16
    element = np.arange(n)
    base = gaussian(1, 0, element, 0) / 4096.0
    for other in (gaussian(1, 0, element, 1), gaussian(2, 0, element, 0), gaussian(1, 1, element, 0),
                  gaussian(1, 0, element + 1, 0)):
        assert abs((base * other / 4096.0).mean()) < 4 / n**0.5
