"""Activation against tables.activation with enables withheld (test_post.py has all 65536 inputs)."""

from migen import *
from migen.sim import run_simulation
import numpy as np
import pytest

from litediffusion.cores.activation import Activation
from litediffusion.cores.isa import ACT
from litediffusion.cores.tables import activation


class Bench(Module):
    def __init__(self, lanes):
        self.valid = Signal()
        self.ce = [self.valid, Signal(), Signal(), Signal()]
        self.out_valid = Signal()
        self.submodules.dut = Activation(lanes, self.ce)
        self.sync += [after.eq(before) for before, after in zip(self.ce, self.ce[1:] + [self.out_valid])]


def golden(name, v):
    if name == "RELU":
        return np.maximum(v, 0)
    return v if name == "NONE" else activation(name, v)


def run(name, values, gap=lambda cycle: False):
    """Feed rows of ``values`` [cycles, lanes]; returns the rows that come out."""
    bench, out = Bench(values.shape[1]), []

    def drive():
        yield bench.dut.act.eq(ACT[name])
        rows, cycle = iter(values.tolist()), 0
        row = next(rows)
        while len(out) < len(values):
            valid = row is not None and not gap(cycle)
            yield bench.valid.eq(valid)
            for signal, value in zip(bench.dut.v, row if valid else [0x55] * values.shape[1]):
                yield signal.eq(value)
            yield
            if valid:
                row = next(rows, None)
            if (yield bench.out_valid):
                out.append([])
                for w in bench.dut.w:
                    out[-1].append((yield w))
            cycle += 1
            assert cycle < 20 * len(values) + 20, f"{len(out)} of {len(values)} results after {cycle} cycles"

    run_simulation(bench, drive())
    return np.array(out)


@pytest.mark.parametrize("name", sorted(ACT))
def test_segment_edges(name):
    """All inputs around every segment's ends and middle, with gaps between the vectors."""
    starts = np.arange(-32768, 32768, 256)
    offsets = np.array([0, 1, 2, 127, 128, 129, 254, 255])
    values = (starts[:, None] + offsets[None, :])
    rng = np.random.default_rng(1)
    gaps = rng.random(20 * len(values) + 20) < 0.3
    assert (run(name, values, lambda cycle: gaps[cycle]) == golden(name, values)).all()


@pytest.mark.parametrize("name", ["SILU", "GELU", "TANH", "EXP"])
def test_tables_stay_in_16_bits(name):
    """The golden values of all 65536 inputs fit the 16-bit output."""
    w = activation(name, np.arange(-32768, 32768))
    assert w.min() >= -32768 and w.max() <= 32767
