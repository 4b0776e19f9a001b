"""SAMPLE's gateware against the golden machine."""

import random

import numpy as np
import pytest
from migen import Module, passive, run_simulation

from litediffusion.cores import isa
from litediffusion.cores.config import EngineConfig
from litediffusion.cores.machine import EngineError, Machine
from litediffusion.cores.sampler import Sampler
from litediffusion.cores.scalar import ScalarUnit

CONFIG = EngineConfig(spm_words=512, param_words=16)
ONE = 1 << 14       # of a coefficient
SEED = 0x0123456789ABCDEF
# Coefficients as floats by sampler; alpha_bar = 0.5 -> 0.7, clip in units of the state.
COEFS = {
    "ddpm": dict(c1=1.4142, c2=-1.0, clip=1.0, a=0.41, c=0.55, sigma=0.3),
    "ddim": dict(c1=1.4142, c2=-1.0, clip=7.9, a=0.8367, b=0.5477),
    "ddim_eta": dict(c1=1.4142, c2=-1.0, clip=7.9, a=0.8367, b=0.45, sigma=0.31),
    "clipped": dict(c1=3.2, c2=-3.04, clip=1.0, a=0.9, b=0.4),
    "dpm_solver": dict(c1=1.4142, c2=-1.0, clip=7.9, a=0.91, c=0.65, d=-0.37),
    "flow": dict(c1=0.0, c2=1.0, clip=31.0, b=-0.02, c=1.0),
}


class Bench(Module):
    """A SAMPLE unit with its multiplier; memories are the arrays of a golden machine."""

    def __init__(self):
        self.submodules.scalar = ScalarUnit(CONFIG)
        self.submodules.sampler = Sampler(CONFIG, self.scalar.get_port())
        self.reads = self.writes = 0

    @passive
    def memories(self, machine, stall, prng):
        s = self.sampler
        port, spm = s.spm, machine.spm[0]
        record, granted, pending = None, False, None        # pending: the word that the SPM answers with in the next cycle
        while True:
            at = yield s.param_adr
            if at != record:
                record = at
                data = bytes(machine.param[0].reshape(CONFIG.param_words, -1)[record])
                yield self.scalar.record.eq(int.from_bytes(data, "little"))
            taken, writes = (yield port.valid) and (yield port.ready), (yield port.we)
            if pending is not None:
                yield port.dat_r.eq(int.from_bytes(pending, "little"))
            elif granted:
                yield port.dat_r.eq(prng.getrandbits(128))     # not held: whoever asks takes the data
            yield port.rvalid.eq(pending is not None)
            granted = pending is not None
            pending = None
            if taken and not writes:
                self.reads += 1
                pending = bytes(spm[(yield port.adr)].view(np.uint8))
            if taken and writes:
                assert writes == 3, "results are written by whole words"
                self.writes += 1
                spm[(yield port.adr)] = np.frombuffer((yield port.dat_w).to_bytes(CONFIG.word_bytes, "little"), np.int8)
            yield port.ready.eq(prng.random() >= stall)
            yield


def machine_of(coefs, guidance=4096, seed=0, step=3, extreme=False):
    """A machine with random states (small ones, or the whole range) and integer ``coefs`` in record 5."""
    rng = np.random.default_rng(seed)
    machine = Machine(CONFIG, np.zeros(64, np.uint8))
    states = rng.integers(-32768, 32768, (CONFIG.spm_words, 8)) if extreme else rng.normal(0, 4096, (CONFIG.spm_words, 8))
    if extreme:
        edges = rng.random(states.shape) < 0.3
        states[edges] = rng.choice([-32768, -32767, -1, 0, 1, 32767], states.shape)[edges]
    machine.spm[0] = np.clip(states, -32768, 32767).astype(np.int16).view(np.int8)
    record = isa.encode_param(rng.integers(-9, 9, 8), [coefs.get(name, 0) for name in isa.SAMPLE_COEFS])
    machine.param[0].reshape(CONFIG.param_words, -1)[5] = np.frombuffer(record, np.uint8)
    machine.set_registers(step=step, guidance=guidance, seeds=SEED)
    return machine


def integers(coefs):
    return {name: round(value * (4096 if name == "clip" else ONE)) for name, value in coefs.items()}


def set_registers(sampler, machine):
    for signal, value in ((sampler.guidance, machine.guidance), (sampler.step, int(machine.index["STEP"][0])),
                          (sampler.seed0, int(machine.seeds[0, 0])), (sampler.seed1, int(machine.seeds[0, 1]))):
        yield signal.eq(value)


def execute(machine, descriptors, stall=0.0, seed=0, bench=None):
    """Run SAMPLE descriptors on the gateware with ``machine``'s memories; [(outcome, cycles)] of each."""
    bench, outcomes = bench or Bench(), []

    def drive():
        sampler = bench.sampler
        yield from set_registers(sampler, machine)
        for fields in descriptors:
            yield sampler.sink.desc.eq(int.from_bytes(isa.encode("SAMPLE", **fields), "little"))
            yield sampler.sink.valid.eq(1)
            yield
            while not (yield sampler.sink.ready):
                yield
            yield sampler.sink.valid.eq(0)
            for cycle in range(20000):
                yield
                if (yield sampler.done):
                    outcomes.append(("done", cycle))
                    break
                if (yield sampler.error):
                    outcomes.append(((yield sampler.error_code), cycle))
                    return
            else:
                raise TimeoutError(f"SAMPLE {fields}: neither done nor error after {cycle} cycles")

    run_simulation(bench, [drive(), bench.memories(machine, stall, random.Random(seed))])
    return outcomes


def check(make, descriptors, **options):
    """Golden machine and gateware from the same start; returns the outcomes."""
    golden, built = make(), make()
    for fields in descriptors:
        golden.sample(isa.decode(isa.encode("SAMPLE", **fields))[1])
    outcomes = execute(built, descriptors, **options)
    assert [o for o, _ in outcomes] == ["done"] * len(descriptors)
    np.testing.assert_array_equal(built.spm[0].view(np.int16), golden.spm[0].view(np.int16))
    return outcomes


def regions(n, nch, in_place=False, **more):
    """A descriptor with its six regions one after the other, or new state and prediction in place of x and m."""
    at = {name: i * 64 for i, name in enumerate(("x", "e", "u", "m", "d", "md"))}
    if in_place:
        at["d"], at["md"] = at["x"], at["m"]
    return dict(at, n=n, nch=nch, p=5, **more)


@pytest.mark.parametrize("name", list(COEFS))
@pytest.mark.parametrize("guidance", [4096, 4096 * 3, 0])
def test_samplers(name, guidance):
    nch = 1 + len(name) % 4
    check(lambda: machine_of(integers(COEFS[name]), guidance, seed=nch),
          [regions(2, 8, in_place=True, z=7), regions(5, nch, z=65535)], stall=0.4 * (guidance == 0), seed=nch)


@pytest.mark.parametrize("seed", range(8))
def test_extreme_coefficients(seed):
    """Any coefficients: saturation of every stage, 64-bit sums, h beyond 18 bits, clip of either sign."""
    prng = random.Random(seed)
    edges = [-2**31, 2**31 - 1, 0, 1, -1]
    coefs = {name: prng.choice(edges + [prng.randint(-2**31, 2**31 - 1) >> prng.randrange(32)]) for name in isa.SAMPLE_COEFS}
    coefs["clip"] = [2**31 - 1, -2**31, 131071, 131072, 0, 32768, -5, prng.getrandbits(31)][seed]
    if seed < 4:        # so that a*h does not saturate everything
        coefs.update(a=prng.randint(-8, 8), c1=prng.randint(-2**18, 2**18), c2=ONE, b=0, c=0, d=0, sigma=0)
    guidance = prng.choice(edges + [prng.randint(-2**31, 2**31 - 1)])
    check(lambda: machine_of(coefs, guidance, seed, extreme=True), [regions(8, 3), regions(1, 8)], seed=seed)


@pytest.mark.parametrize("limit", [32767, -32768])
def test_saturation_edges(limit):
    """eps, h and x' two steps to both sides of each limit."""
    def make():
        machine = machine_of(coefs, guidance=2 * 4096)
        spm = machine.spm[0].view(np.int16)
        for i, delta in enumerate(range(-2, 3)):        # e + (e - u) = limit + delta for eps, x for the others
            e = limit // 2 + delta
            spm[0 + i], spm[64 + i] = np.clip(limit + delta, -32768, 32767), e
            spm[128 + i] = np.clip(2 * e - (limit + delta), -32768, 32767)
        return machine

    for coefs in (dict(c=ONE), dict(b=ONE), dict(b=ONE + 1), dict(c1=ONE, clip=abs(limit) + 1, a=ONE),
                  dict(c1=ONE, c=ONE, clip=1, a=ONE), dict(c=ONE, c1=-ONE, clip=2, a=ONE)):
        check(make, [regions(5, 1)])


def test_long_stalls():
    """Results of one-channel words wait for the SPM longer than the next element takes."""
    check(lambda: machine_of(integers(COEFS["dpm_solver"])), [regions(20, 1)], stall=0.9, seed=5)


def test_cycles_and_traffic():
    """The promise in the module's docstring; u and m are not read when they cannot matter."""
    bench = Bench()
    make = lambda: machine_of(integers(COEFS["ddim"]))
    fields = dict(x=0, e=256, u=0, m=0, d=0, md=256, n=64, nch=1, p=5)
    (_, cycles), = check(make, [fields], bench=bench)
    assert cycles <= 33 * 64 + 20
    assert (bench.reads, bench.writes) == (2 * 64, 2 * 64)
    (_, cycles), = check(lambda: machine_of(integers(COEFS["ddpm"]), guidance=9000), [dict(fields, n=40, x=1, u=100, d=1)])
    assert cycles <= 66 * 40 + 50, f"{cycles} cycles: noise must be drawn while the rest of the lane is computed"


@pytest.mark.parametrize("fields", [
    dict(p=16), *[{name: 510} for name in ("x", "e", "u", "m", "d", "md")], dict(x=65535), dict(n=4095), dict(md=512, n=1)])
def test_range_errors(fields):
    fields = dict(regions(3, 2), **fields)
    make = lambda: machine_of(integers(COEFS["ddim"]))
    with pytest.raises(EngineError):
        make().sample(isa.decode(isa.encode("SAMPLE", **fields))[1])
    built = make()
    (outcome, _), = execute(built, [fields])
    assert outcome == isa.ERROR_CODE["BUFFER_RANGE"]
    np.testing.assert_array_equal(built.spm, make().spm)


def test_last_words_are_legal():
    check(lambda: machine_of(integers(COEFS["ddim"])), [dict(regions(3, 2), d=509, md=506, x=509)])


def test_halt():
    """A halted unit stops writing and starts afresh with the next descriptor, also in the middle of its noise."""
    bench, built, golden = Bench(), machine_of(integers(COEFS["ddpm"])), machine_of(integers(COEFS["ddpm"]))
    fields = regions(6, 3, z=11)
    golden.sample(isa.decode(isa.encode("SAMPLE", **fields))[1])

    def drive():
        sampler = bench.sampler
        yield from set_registers(sampler, built)
        yield sampler.sink.desc.eq(int.from_bytes(isa.encode("SAMPLE", **fields), "little"))
        yield sampler.sink.valid.eq(1)
        for _ in range(120):
            yield
        yield sampler.halt.eq(1)
        yield
        yield
        written = bench.writes
        for _ in range(100):
            yield
            assert not (yield sampler.done)
        assert bench.writes == written and not (yield sampler.active)
        yield sampler.halt.eq(0)
        yield
        yield
        yield sampler.sink.valid.eq(0)
        for _ in range(3000):
            yield
            if (yield sampler.done):
                return
        raise TimeoutError("no done after halt")

    run_simulation(bench, [drive(), bench.memories(built, 0.0, random.Random(0))])
    np.testing.assert_array_equal(built.spm, golden.spm)
