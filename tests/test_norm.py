"""NORM's gateware against the golden machine, and its arithmetic blocks against Python integers."""

from math import isqrt
import random

import numpy as np
import pytest
from migen import Module, passive, run_simulation

from litediffusion.cores import isa
from litediffusion.cores.config import EngineConfig
from litediffusion.cores.fixed import wrap32
from litediffusion.cores.iterative import NUMERATOR_SHIFT, Divider, RootDivider
from litediffusion.cores.machine import EngineError, Machine
from litediffusion.cores.norm import Norm
from litediffusion.cores.scalar import ScalarUnit

CONFIG = EngineConfig(param_words=16, stat_words=16, row_words=128)
LANES = CONFIG.n_lanes


class Bench(Module):
    """A NORM unit with its multiplier; memories are Python arrays served by ``memories``."""

    def __init__(self):
        self.submodules.scalar = ScalarUnit(CONFIG)
        self.submodules.norm = Norm(CONFIG, self.scalar.get_port())

    @passive
    def memories(self, machine, stall, prng):
        """Generator: parameter, statistics and row memory, one cycle a step."""
        norm, words, shown = self.norm, machine.param[0], None
        while True:
            record = words.reshape(CONFIG.param_words, -1)[(yield norm.param_adr)]
            yield self.scalar.record.eq(int.from_bytes(bytes(record), "little"))
            if (yield norm.param_wr.valid) and (yield norm.param_wr.ready):
                data = np.frombuffer((yield norm.param_wr.dat_w).to_bytes(CONFIG.word_bytes, "little"), np.uint16)
                strobes = (yield norm.param_wr.we) >> np.arange(len(data)) & 1 == 1
                words[(yield norm.param_wr.adr)].view(np.uint16)[strobes] = data[strobes]
            yield norm.param_wr.ready.eq(prng.random() >= stall)
            at = yield norm.stat.r_adr
            if at != shown:
                shown = at
                for i in range(CONFIG.post_lanes):
                    for name, values in (("s", machine.stat_s[0]), ("q", machine.stat_q[0])):
                        yield getattr(norm.stat, f"r_{name}{i}").eq(int(values.reshape(-1)[at * CONFIG.post_lanes + i]))
            yield from self.rows(machine.row)
            yield

    def rows(self, row):
        port = self.norm.row
        at = yield port.r_adr
        for name in ("s", "q"):
            yield getattr(port, f"r_{name}").eq(int(row[name][0, at]))
        at = yield port.w_adr
        for group, names in (("me", ("m", "e")), ("o", ("o",))):
            if (yield getattr(port, f"we_{group}")):
                for name in names:
                    row[name][0, at] = yield getattr(port, f"w_{name}")


def execute(machine, descriptors, stall=0.0, seed=0):
    """Run NORM descriptors on the gateware with ``machine``'s memories; [(outcome, cycles)] of each."""
    bench, outcomes = Bench(), []

    def drive():
        norm = bench.norm
        for fields in descriptors:
            yield norm.sink.desc.eq(int.from_bytes(isa.encode("NORM", **fields), "little"))
            yield norm.sink.valid.eq(1)
            yield
            while not (yield norm.sink.ready):
                yield
            yield norm.sink.valid.eq(0)
            for cycle in range(20000):
                yield
                if (yield norm.done):
                    outcomes.append(("done", cycle))
                    break
                if (yield norm.error):
                    outcomes.append(((yield norm.error_code), cycle))
                    return
            else:
                raise TimeoutError(f"NORM {fields}: neither done nor error after {cycle} cycles")

    run_simulation(bench, [drive(), bench.memories(machine, stall, random.Random(seed))])
    return outcomes


def machine_of(seed):
    """A machine with random gamma, beta, scalars and rows; statistics are left to the test."""
    prng = random.Random(seed)
    machine = Machine(CONFIG, np.zeros(64, np.uint8))
    records = b"".join(isa.encode_param(
        [prng.choice([prng.randint(-32768, 32767), 32767, -32768, prng.randint(-300, 300)]) for _ in range(8)],
        [prng.randint(-2**31, 2**31 - 1) >> prng.randrange(20) for _ in range(8)],
        shift=prng.choice([0, 7, 14, 20]), rshift=prng.getrandbits(8), oshift=prng.getrandbits(8), gshift=prng.choice([0, 8, 12, 20]),
        rmult=prng.randint(-9, 9), eps_m=prng.getrandbits(prng.choice([0, 8, 32])), eps_s=prng.choice([0, 1, 7, 8, 13]))
        for _ in range(CONFIG.param_words))
    machine.param[0] = np.frombuffer(records, np.uint8).reshape(machine.param[0].shape)
    return machine


def fill_statistics(machine, count, seed, kind="data"):
    """Sums that int8 data of ``count`` elements could have, or anything that fits the memory."""
    rng = np.random.default_rng(seed)
    shape = machine.stat_s[0].shape
    if kind == "data":
        mean, spread = rng.uniform(-128, 127, shape), rng.uniform(0, 40, shape)
        machine.stat_s[0] = (mean * count).astype(np.int64)
        machine.stat_q[0] = -(-machine.stat_s[0]**2 // count) + (spread**2 * count).astype(np.int64)
    else:
        machine.stat_s[0] = rng.integers(-2**23, 2**23, shape)
        machine.stat_q[0] = rng.integers(0, 2**31, shape) >> rng.integers(0, 31, shape)


def same(a, b):
    """Compare every memory NORM may write; o has 32 bits, which the golden machine's rows exceed outside the domain."""
    np.testing.assert_array_equal(a.param[0], b.param[0])
    for name in a.row:
        np.testing.assert_array_equal(wrap32(a.row[name]), wrap32(b.row[name]), err_msg=name)


def check(make, descriptors, **options):
    """Golden machine and gateware from the same start; returns the outcomes."""
    golden, built = make(), make()
    for fields in descriptors:
        golden.norm(isa.decode(isa.encode("NORM", **fields))[1])
    outcomes = execute(built, descriptors, **options)
    assert [o for o, _ in outcomes] == ["done"] * len(descriptors)
    same(built, golden)
    return outcomes


@pytest.mark.parametrize("gsize, ngroups", [(1, 9), (4, 3), (8, 2), (12, 2), (16, 2), (5, 4), (1, 1)])
@pytest.mark.parametrize("kind", ["data", "any"])
def test_groups(gsize, ngroups, kind):
    def make():
        machine = machine_of(gsize)
        fill_statistics(machine, 1024, ngroups, kind)
        return machine

    count = 1024 * gsize if kind == "data" else [1, 7, 65536, 2**24 - 1][gsize % 4]
    fields = dict(ngroups=ngroups, gsize=gsize, count=count, stat_rec=1, p=2)
    in_place, moved, overlap = (dict(fields, pd=pd) for pd in (2, 9, 3))
    if kind == "data":
        check(make, [moved, in_place], stall=0.3, seed=gsize)
    else:
        check(make, [overlap])


def test_cycles():
    """The promise in the module's docstring."""
    def make():
        machine = machine_of(1)
        fill_statistics(machine, 256, 1)
        return machine

    for gsize, ngroups in ((8, 4), (4, 4), (32, 1)):
        (_, cycles), = check(make, [dict(ngroups=ngroups, gsize=gsize, count=256 * gsize, p=0, pd=0)])
        records = -(-ngroups * gsize // LANES)
        promised = 9 + (57 + gsize) * ngroups + 3 * records + 4 * max(records, ngroups) + 8 * ngroups * gsize
        assert cycles <= promised, f"{ngroups} groups of {gsize}: {cycles} cycles, {promised} promised"


def row_machine(rows, records):
    """A machine with rows [(s, q)] and records of the given scalars, gamma and beta."""
    machine = machine_of(7)
    for i, record in enumerate(records):
        gamma, beta = record.pop("gamma", 300), record.pop("beta", -5000)
        data = isa.encode_param([gamma] + [1] * 7, [beta] + [2] * 7, **record)
        machine.param[0].reshape(CONFIG.param_words, -1)[i] = np.frombuffer(data, np.uint8)
    for i, (s, q) in enumerate(rows):
        machine.row["s"][0, i], machine.row["q"][0, i] = s, q
    for name in ("m", "e", "o"):
        machine.row[name][0] = 9
    return machine


def check_rows(cases, **options):
    """``cases``: [(rows, count, record)], each a descriptor of its own with its own rows; at most 16 different records."""
    records = [dict(pairs) for pairs in {tuple(sorted(record.items())): None for _, _, record in cases}]
    rows = [row for case in cases for row in case[0]]
    descriptors, at = [], 0
    for some, count, record in cases:
        descriptors.append(dict(rows=1, ngroups=len(some), count=count, p=records.index(record), row=at))
        at += len(some)
    assert at <= CONFIG.row_words and len(records) <= CONFIG.param_words
    return check(lambda: row_machine(rows, [dict(r) for r in records]), descriptors, **options)


ROWS = [(0, 0), (0, 1), (1, 1), (-1, 1), (-1000, 10000), (127 * 64, 127 * 127 * 64), (-128 * 64, 128 * 128 * 64), (5, 3),
        (2**31 - 1, 2**36 - 1), (-2**31 + 1, 0), (-2**31 + 1, 2**36 - 1), (255 * 64, 255 * 255 * 64), (-7, 2**30), (12345, 4000000)]
EPS = [(0, 0), (1, 0), (2**32 - 1, 24), (2**32 - 1, 31), (2**32 - 1, 32), (1, 55), (1, 56), (3, 62), (5, 255)]


def test_rows():
    """All rows at count 1, where r is clamped and the mean is large, and a few at every eps and count."""
    outcomes = check_rows([(ROWS, count, dict(gshift=shift, shift=11)) for count, shift in ((1, 1), (64, 8))])
    assert outcomes[1][1] <= 12 + 68 * len(ROWS)
    prng = random.Random(1)
    check_rows([(prng.sample(ROWS, 3), prng.choice([1, 2, 64, 2**24 - 1]), dict(gshift=5, shift=11, eps_m=m, eps_s=s))
                for m, s in EPS])


def test_saturation():
    """Two steps to both sides: m at both its limits, r at its clamp."""
    deltas = range(-2, 3)
    # r is 2^20 at a variance of 1, so m = gamma << 1.
    check_rows([([(0, 64)], 64, dict(gamma=gamma + delta, gshift=19, shift=4))
                for gamma in (16384, -16384) for delta in deltas] +
               [([(0, 64)], 64, dict(gamma=gamma, gshift=gshift, shift=4)) for gamma in (32767, -32768) for gshift in (19, 20)])
    # N * 2^24 / root around 2^24 at N = 100 is a root around 100, and D * 2^8 around 10000.
    check_rows([([(0, 0)], 100, dict(gshift=9, shift=4, eps_m=d)) for d in (0, 1, 37, 38, 39, 40, 41, 2**31)])


def test_extreme_shifts():
    rows = [(-2**31 + 1, 2**36 - 1), (2**31 - 1, 2**36 - 1), (-3, 9), (3, 9)]
    check_rows([(rows, 1, dict(gamma=gamma, gshift=gshift, shift=shift)) for gamma in (-32768, 32767)
                for gshift, shift in ((0, 0), (39, 40), (41, 47), (63, 54), (12, 55), (64, 56), (12, 255))])


@pytest.mark.parametrize("fields", [
    dict(ngroups=2, gsize=8, stat_rec=15), dict(ngroups=1, gsize=4095, stat_rec=0), dict(ngroups=4095, gsize=4095, stat_rec=0),
    dict(ngroups=1, gsize=8, stat_rec=16), dict(ngroups=1, gsize=8, p=16), dict(ngroups=1, gsize=8, pd=16),
    dict(ngroups=2, gsize=8, p=15), dict(ngroups=3, gsize=5, p=0, pd=15), dict(rows=1, ngroups=1, row=128),
    dict(rows=1, ngroups=100, row=29), dict(rows=1, ngroups=1, p=16), dict(rows=1, ngroups=4095, row=1023),
    dict(ngroups=5, gsize=0, stat_rec=17)])
def test_range_errors(fields):
    fields = dict(fields, count=64)
    golden, built = machine_of(3), machine_of(3)
    with pytest.raises(EngineError):
        golden.norm(isa.decode(isa.encode("NORM", **fields))[1])
    (outcome, _), = execute(built, [fields])
    assert outcome == isa.ERROR_CODE["BUFFER_RANGE"]
    same(built, golden)


def test_last_records_and_nothing():
    """The last record of every memory is legal, and so is a group of no channels."""
    check(lambda: machine_of(4), [dict(ngroups=1, gsize=8, count=64, stat_rec=15, p=15, pd=14),
                                  dict(ngroups=3, gsize=0, count=64, stat_rec=16), dict(ngroups=3, gsize=0, count=64),
                                  dict(rows=1, ngroups=1, count=64, row=127, p=15)])


def test_halt():
    """A halted unit forgets its descriptor, writes nothing more and works again afterwards."""
    bench, machine = Bench(), machine_of(5)
    golden = machine_of(5)
    fields = dict(ngroups=2, gsize=8, count=64, p=0, pd=4)
    golden.norm(isa.decode(isa.encode("NORM", **fields))[1])

    def drive():
        norm = bench.norm
        yield norm.sink.desc.eq(int.from_bytes(isa.encode("NORM", **fields), "little"))
        yield norm.sink.valid.eq(1)
        for _ in range(70):
            yield
        yield norm.sink.valid.eq(0)
        yield norm.halt.eq(1)
        yield
        yield
        before = machine.param.copy()
        for _ in range(200):
            yield
            assert not (yield norm.done)
        assert not (yield norm.active)
        np.testing.assert_array_equal(machine.param, before)
        yield norm.halt.eq(0)
        yield norm.sink.valid.eq(1)
        yield
        yield
        yield norm.sink.valid.eq(0)
        for _ in range(400):
            yield
            if (yield norm.done):
                return
        raise TimeoutError("no done after halt")

    run_simulation(bench, [drive(), bench.memories(machine, 0.0, random.Random(0))])
    same(machine, golden)


def test_divider():
    prng, cases = random.Random(6), []
    for bits in range(1, 17):
        cases += [(prng.getrandbits(bits), prng.randint(1, 2**prng.randrange(1, 9) - 1)), ((1 << bits) - 1, 1),
                  ((1 << bits) - 1, (1 << min(bits, 8)) - 1)]
    divider = Divider(16, 8)

    def drive():
        for x, d in cases:
            yield divider.dividend.eq(x)
            yield divider.divisor.eq(d)
            yield from pulse(divider.start)
            while (yield divider.busy):
                yield
            assert (yield divider.quotient) == x // d, (x, d)

    run_simulation(divider, drive())


def pulse(signal):
    yield signal.eq(1)
    yield
    yield signal.eq(0)
    yield


@pytest.mark.parametrize("digits", [1, 2])
def test_root_and_quotient(digits):
    prng, unit = random.Random(digits), RootDivider(digits)
    roots = [0, 1, 2, 15, 16, 255, 256, 2**31, 2**32 - 1] + [prng.getrandbits(32) >> prng.randrange(32) for _ in range(12)]
    cases = [(min(max(0, (root * root >> 8) + delta), 2**56 - 1), n) for root in roots for delta in (0, 1)
             for n in (1, 2**24 - 1, min(max(1, root + prng.randint(-1, 1)), 2**24 - 1))]

    def drive():
        for d, n in cases:
            root = isqrt(d << 8)
            yield unit.value.eq(d)
            yield from pulse(unit.find_root)
            while (yield unit.busy):
                yield
            assert (yield unit.root) == root, d
            yield unit.value.eq(n << NUMERATOR_SHIFT)
            yield from pulse(unit.divide)
            while (yield unit.busy):
                yield
            yield unit.clamp.eq((yield unit.above))
            yield
            yield unit.clamp.eq(0)
            yield
            assert (yield unit.quotient) == min(2**24 - 1, (n << 24) // max(1, root)), (d, n)

    run_simulation(unit, drive())
