"""Multipliers of logic cells against Python's products: all values of small widths, edges and random values of POST's."""

import itertools
import random

from migen import *
from migen.sim import run_simulation
import pytest

from litediffusion.cores.multiply import Product, Square


def limits(bits, signed):
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def edges(bits, signed):
    low, high = limits(bits, signed)
    return sorted({v for v in (low, low + 1, low + 2, -2, -1, 0, 1, 2, high - 2, high - 1, high) if low <= v <= high})


def check(dut, inputs, golden, cases):
    def drive():
        for case in cases:
            for signal, value in zip(inputs, case):
                yield signal.eq(value)
            yield
            yield
            p = yield dut.p
            assert p == golden(*case), f"{case}: {p}, expected {golden(*case)}"

    run_simulation(dut, drive())


@pytest.mark.parametrize("n, m, signed", [(2, 2, True), (4, 4, True), (5, 3, True), (3, 5, True), (4, 4, False), (3, 5, False)])
def test_all_products_of_small_operands(n, m, signed):
    a, b = Signal((n, True)), Signal((m, signed))
    values = [range(low, high + 1) for low, high in (limits(n, True), limits(m, signed))]
    check(Product(a, b), [a, b], lambda x, y: x * y, itertools.product(*values))


@pytest.mark.parametrize("n, m, signed", [(16, 8, True), (12, 8, False), (16, 16, True), (13, 12, False)])
def test_products_of_the_lanes_widths(n, m, signed):
    a, b = Signal((n, True)), Signal((m, signed))
    rng = random.Random(n * m)
    cases = list(itertools.product(edges(n, True), edges(m, signed)))
    cases += [(rng.randint(*limits(n, True)), rng.randint(*limits(m, signed))) for _ in range(60)]
    check(Product(a, b), [a, b], lambda x, y: x * y, cases)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_all_squares_of_small_operands(n):
    x = Signal((n, True))
    low, high = limits(n, True)
    check(Square(x), [x], lambda v: v * v, [(v,) for v in range(low, high + 1)])


def test_squares_of_16_bits():
    x, rng = Signal((16, True)), random.Random(16)
    values = edges(16, True) + [rng.randint(*limits(16, True)) for _ in range(150)]
    check(Square(x), [x], lambda v: v * v, [(v,) for v in values])


def test_one_bit_is_refused():
    with pytest.raises(ValueError, match="16 x 1 bits"):
        Product(Signal((16, True)), Signal())
