"""The GEMM unit, verilated, against the golden machine: every accumulator after every run, cycles, errors, POST reads."""

import ctypes
from dataclasses import replace
from functools import cache
import hashlib
from itertools import product
from pathlib import Path
import random

from litex.gen.fhdl.verilog import convert
from migen import ClockDomain, Module, Signal
import numpy as np
import pytest

from litediffusion.cores import config, isa
from litediffusion.cores.config import EngineConfig
from litediffusion.cores.gemm import Gemm
from litediffusion.cores.machine import EngineError, Machine
from litediffusion.cores.memory import SharedMemory
from litediffusion.cores.ports import MemoryPort
from litediffusion.targets.verilator import build

CONFIG = EngineConfig()
# (gemm_words, array_clock, gemm_cycles)
VARIANTS = [(1, 1, 1), (2, 1, 1), (2, 2, 1), (1, 2, 1), (1, 2, 2)]
HERE = Path(__file__).parent
CYCLES = 500_000        # more than any run here takes
ENTRIES = 2 * CONFIG.acc_words
FIELDS = ("count", "gap_percent", "read_percent", "seed", "max_cycles", "halt_at", "stable_first", "stable_count",
          "cycles", "done", "errors", "error_code", "words", "words_w4", "stalls",
          "reads", "read_waits", "read_mismatches", "late")


class Run(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in FIELDS]


def bench_verilog(c):
    """Verilog of the unit with its memories, everything at ports."""
    m = Module()
    m.clock_domains.cd_sys = ClockDomain("sys")
    spm_port, wbuf_port = MemoryPort(c.spm_words, c.word_bits), MemoryPort(c.wbuf_words, c.word_bits)
    post = MemoryPort(ENTRIES, 32 * c.n_lanes, we_bits=1)
    m.submodules.spm  = SharedMemory(c.spm_words, c.word_bits, [spm_port], banks=c.gemm_words, distant=True)
    m.submodules.wbuf = SharedMemory(c.wbuf_words, c.word_bits, [wbuf_port])
    m.submodules.gemm = gemm = Gemm(c, m.spm, m.wbuf, post)
    ios = {"sys_clk": m.cd_sys.clk, "sys_rst": m.cd_sys.rst}
    if c.array_clock == 2:
        m.clock_domains.cd_sys2x = ClockDomain("sys2x", reset_less=True)
        ios["sys2x_clk"] = m.cd_sys2x.clk

    def port(name, signal, output=False):
        ios[name] = pin = Signal(len(signal), name_override=name)
        m.comb += pin.eq(signal) if output else signal.eq(pin)

    port("halt", gemm.halt)
    for name in ("done", "error", "error_code", "active", "stall", "mac_words", "mac_w4"):
        port(name, getattr(gemm, name), output=True)
    for name, signal in (("sink_valid", gemm.sink.valid), ("sink_desc", gemm.sink.desc),
                         ("post_valid", post.valid), ("post_adr", post.adr)):
        port(name, signal)
    for name, signal in (("sink_ready", gemm.sink.ready), ("post_ready", post.ready), ("post_rvalid", post.rvalid),
                         ("post_data", post.dat_r)):
        port(name, signal, output=True)
    write = {name: Signal(bits, name_override=name) for name, bits in
             (("write_spm", 1), ("write_wbuf", 1), ("write_adr", 16), ("write_data", c.word_bits))}
    ios.update(write)
    for memory, enable in ((spm_port, write["write_spm"]), (wbuf_port, write["write_wbuf"])):
        m.comb += [memory.valid.eq(enable), memory.we.eq(3), memory.adr.eq(write["write_adr"]),
                   memory.dat_w.eq(write["write_data"])]
    return str(convert(m, ios=set(ios.values()), name="gemm_bench"))


def sources_key():
    """Identity of what the Verilog is made from; the Verilog itself holds the time at which it was made."""
    names = ("accumulator", "array", "config", "gemm", "gemm_address", "isa", "memory", "multiply", "ports",
             "registered_multiplier", "split_sum", "tile_memory")
    sources = [Path(config.__file__).with_name(f"{name}.py") for name in names] + [Path(__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


@cache
def make_library(words, clock, cycles):
    """The unit as a library, in a folder that is kept: an unchanged unit is not built again."""
    folder, config = HERE.parent / "build" / "tests" / f"gemm_{words}{clock}{cycles}", replace(CONFIG, gemm_words=words, array_clock=clock, gemm_cycles=cycles)
    folder.mkdir(parents=True, exist_ok=True)
    verilog, stamp, key = folder / "gemm_bench.v", folder / "sources.key", sources_key()
    if not stamp.exists() or stamp.read_text() != key:
        verilog.write_text(bench_verilog(config))
        stamp.write_text(key)
    library = ctypes.CDLL(str(build([verilog], [HERE / "gemm_bench.cpp"], folder / "build", "gemm_bench", shared=True,
                                    cflags=["-DFAST"] if clock == 2 else [])))
    library.bench_new.restype = ctypes.c_void_p
    library.gemm_words, library.cycles = words, cycles
    library.fill = config.n_lanes * config.tile_passes      # cycles that a tile takes to load
    return library


@pytest.fixture(scope="session", params=VARIANTS, ids=lambda variant: "x".join(map(str, variant)))
def library(request):
    return make_library(*request.param)


@pytest.mark.parametrize("sizes", [{"gemm_words": 3}, {"array_clock": 0}, {"primitives": "other"}])
def test_impossible_configurations_are_refused(sizes):
    name, value = next(iter(sizes.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r} must be"):
        EngineConfig(**sizes)


@pytest.mark.parametrize("words, clock", [(1, 1), (2, 2)])
def test_half_an_array_goes_with_one_word_at_twice_the_clock(words, clock):
    with pytest.raises(ValueError, match=f"gemm_cycles=2 must go with gemm_words=1 and array_clock=2, not {words} and {clock}"):
        EngineConfig(gemm_words=words, array_clock=clock, gemm_cycles=2)
    assert EngineConfig(array_clock=2, gemm_cycles=2).peak_macs == CONFIG.peak_macs // 2


def test_programs_do_not_see_the_array():
    two = EngineConfig(gemm_words=2, array_clock=2, primitives="ecp5")
    assert two.hash == CONFIG.hash and two.peak_macs == 2 * CONFIG.peak_macs == 256


class Bench:
    """The unit and a golden machine with the same memories."""

    def __init__(self, library, seed):
        self.lib, self.handle = library, ctypes.c_void_p(library.bench_new())
        self.rng = np.random.default_rng(seed)
        self.machine = Machine(CONFIG, np.zeros(64, np.uint8))
        self.fill(lambda shape: self.rng.integers(-128, 128, shape))

    def fill(self, make):
        """New contents of SPM and WBUF."""
        m = self.machine
        for wbuf, memory in enumerate((m.spm, m.wbuf)):
            memory[0] = make(memory[0].shape)
            self.lib.bench_write(self.handle, wbuf, 0, memory[0].tobytes(), memory.shape[1])

    def run(self, descriptors, expect_error=False, **options):
        """Run descriptors (dicts) on both; compares accumulators and POST reads; returns (Run, done cycles)."""
        r = Run(count=len(descriptors), max_cycles=options.pop("max_cycles", CYCLES), **options)
        stable = np.ascontiguousarray(self.machine.acc[0, r.stable_first:r.stable_first + r.stable_count].astype(np.int32))
        encoded = b"".join(isa.encode("GEMM", **d) for d in descriptors)
        done_at = (ctypes.c_uint32 * len(descriptors))()
        self.lib.bench_run(self.handle, ctypes.byref(r), encoded, stable.ctypes.data_as(ctypes.c_void_p), done_at)
        assert r.cycles < CYCLES, f"no end: {r.done} of {r.count} descriptors done"
        assert r.read_mismatches == 0 and r.late == 0
        if not expect_error and not r.halt_at:
            assert r.errors == 0 and r.done == len(descriptors)
            for d in descriptors:
                self.machine.gemm(full(d))
            self.compare()
        return r, list(done_at)

    def accumulators(self):
        data = np.zeros((ENTRIES, CONFIG.n_lanes), np.int32)
        self.lib.bench_read(self.handle, 0, ENTRIES, data.ctypes.data_as(ctypes.c_void_p))
        return data

    def compare(self):
        data = self.accumulators()
        wrong = np.argwhere(data != self.machine.acc[0])
        assert not len(wrong), (f"{len(wrong)} accumulators differ, first entry {wrong[0][0]} lane {wrong[0][1]}: "
                                f"{data[tuple(wrong[0])]}, expected {self.machine.acc[0][tuple(wrong[0])]}")

    def close(self):
        self.lib.bench_free(self.handle)


def full(d):
    """All fields of a descriptor."""
    return isa.decode(isa.encode("GEMM", **d))[1]


@pytest.fixture
def bench(library, request):
    bench = Bench(library, seed=len(request.node.name))
    yield bench
    bench.close()


def conv(**d):
    """A 3x3 convolution of one block on 8x8 pixels, padded by one."""
    base = dict(ng=1, nkb=1, nky=3, nkx=3, noy=8, nox=8, xk=64, xw=8, h=8, w=8, y0=-1, x0=-1, wts=8, wgs=72, ags=64)
    return {**base, **d}


CASES = {
    "conv3x3": conv(),
    "asymmetric": conv(y0=0, x0=-2, noy=7, nox=9, ags=63),
    "far_negative": conv(y0=-5, x0=-9),
    "far_positive": conv(y0=6, x0=7),
    "stride2": conv(stride2=1, noy=4, nox=4, ags=16),
    "stride2_asymmetric": conv(stride2=1, noy=4, nox=4, y0=0, x0=0),
    "up": conv(up=1, h=16, w=16, noy=16, nox=16, ags=256),
    "up_stride2": conv(up=1, stride2=1, h=16, w=16),
    "conv1x1": conv(nky=1, nkx=1, y0=0, x0=0, nkb=4, ng=2, wgs=32),
    "groups": conv(ng=3, nkb=2, wgs=144),
    "matmul": dict(ng=4, nkb=4, nky=1, nkx=1, noy=1, nox=16, x=100, xk=32, h=1, w=16, wt=40, wts=64, wgs=8, ags=16),
    "tall_kernel": conv(nky=15, nkx=1, y0=-7, x0=0),
    "short_tile": dict(ng=2, nkb=3, nky=1, nkx=1, noy=1, nox=5, xk=7, h=1, w=5, wts=8, wgs=24, ags=5),
    "one_pixel": dict(ng=5, nkb=3, nky=1, nkx=1, noy=1, nox=1, xk=1, h=1, w=1, wts=8, wgs=24, ags=1, acc=77),
    "one_row": dict(ng=1, nkb=2, nky=1, nkx=1, noy=1, nox=256, xk=256, h=1, w=256, wts=8, acc=1000),
    "wrapped_stride": dict(ng=2, nkb=3, nky=1, nkx=1, noy=2, nox=4, x=40, xk=0xFFF0, xw=4, h=2, w=4,
                           wt=100, wts=0xFFF8, wgs=30, ags=8),
    # An odd xk: channel blocks in pairs where the unit takes two words a cycle.
    "pair": conv(nkb=2, xk=65),
    "pairs": conv(nkb=4, xk=65, ng=2, wgs=288),
    "pairs_and_one": conv(nkb=3, xk=65, ng=3, wgs=216),
    "pairs_many_and_one": conv(nkb=7, xk=67, nky=2, nkx=1, ng=2, wgs=112),
    "pairs_1x1": conv(nky=1, nkx=1, y0=0, x0=0, nkb=5, xk=65, ng=2, wgs=40),
    "pairs_stride2": conv(stride2=1, noy=4, nox=4, nkb=4, xk=65, ng=2, wgs=288, ags=16),
    "pairs_up": conv(up=1, h=16, w=16, noy=16, nox=16, nkb=3, xk=65, ags=256),
    "pairs_far_tiles": conv(nkb=4, xk=65, nky=2, nkx=3, wts=40, wt=9),
    "pairs_near_tiles": conv(nkb=4, xk=65, nky=3, nkx=2, wts=0, wt=9),
    "pairs_back": conv(nkb=5, xk=0xFFBF, x=400, nky=2, nkx=2, wts=0xFFF8, wt=300),
    "pairs_tall": conv(nky=15, nkx=1, y0=-7, x0=0, nkb=4, xk=65),
    "pairs_wide": conv(nky=1, nkx=15, y0=0, x0=-7, nkb=4, xk=65),
    "pairs_big_kernel": conv(nky=11, nkx=13, y0=-5, x0=-6, nkb=2, xk=65, wts=2),
    "pairs_one_pixel": dict(ng=5, nkb=3, nky=1, nkx=1, noy=1, nox=1, xk=1, h=1, w=1, wts=8, wgs=24, ags=1, acc=77),
    "pairs_short": dict(ng=2, nkb=6, nky=1, nkx=1, noy=1, nox=12, xk=15, h=1, w=12, wts=8, wgs=48, ags=12),
    "second_half": conv(acc=CONFIG.acc_words + 5),
    "across_halves": conv(acc=CONFIG.acc_words - 20),
}


@pytest.mark.parametrize("w4", [0, 1])
@pytest.mark.parametrize("xs", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_shapes(bench, name, w4, xs):
    d = {**CASES[name], "w4": w4, "xs": xs}
    if w4:
        d["acc"] = d.get("acc", 0) % 512
    r, _ = bench.run([d, {**d, "accumulate": 1}])
    assert r.words == 2 * full(d)["ng"] * d["nkb"] * d["nky"] * d["nkx"] * d["noy"] * d["nox"]
    assert r.words_w4 == r.words * w4


@pytest.mark.parametrize("w4", [0, 1])
@pytest.mark.parametrize("xs", [0, 1])
def test_extremes(bench, xs, w4):
    """Constant operands; as nibbles the weights are -8/0, -8/8, 7/-1, 7/7, -8/7, 0/0, 0/-8, 0/-1, -1/-1."""
    m = bench.machine
    for x, w in product((-128, -127, -33, -32, -1, 0, 1, 127), (-128, -120, 127, 119, -121, 0, 8, 15, -1)):
        m.spm[0, :129], m.wbuf[0, :144] = x, w
        for wbuf, memory in enumerate((m.spm[0, :129], m.wbuf[0, :144])):
            bench.lib.bench_write(bench.handle, wbuf, 0, memory.tobytes(), len(memory))
        bench.run([conv(xs=xs, w4=w4, nkb=2, xk=65)])


def test_wraps_at_32_bits(bench):
    """Enough large products to pass 2^31 in one accumulator."""
    bench.fill(lambda shape: np.full(shape, -128))
    d = dict(ng=1, nkb=4095, nky=1, nkx=1, noy=1, nox=8, xk=0, h=1, w=8, wts=0)
    bench.run([d] + [{**d, "accumulate": 1}] * 2)
    assert bench.machine.acc[0, 0, 0] < 0       # -128 * -128 summed without a wrap is positive


def random_descriptor(rng):
    """A legal descriptor: random shape, then addresses that fit."""
    w4, up = int(rng.random() < 0.4), int(rng.random() < 0.2)
    d = dict(ng=rng.randint(1, 3), nkb=rng.randint(1, 4), nky=rng.randint(1, 4), nkx=rng.randint(1, 3),
             noy=rng.randint(1, 6), nox=rng.choice([1, 2, 3, 7, 8, 9, 12]), stride2=rng.randint(0, 1), up=up,
             h=rng.randint(1, 14), w=rng.randint(1, 14), y0=rng.randint(-4, 4), x0=rng.randint(-4, 4),
             accumulate=rng.randint(0, 1), w4=w4, xs=rng.randint(0, 1))
    d["xw"] = (d["w"] + up >> up) + rng.randint(0, 2)
    d["xk"] = d["xw"] * (d["h"] + up >> up) + rng.randint(0, 9)
    d["x"] = rng.randint(0, CONFIG.spm_words - d["xk"] * d["nkb"])
    pixels, tiles = d["noy"] * d["nox"], d["nkb"] * d["nky"] * d["nkx"]
    d["wts"], d["wgs"] = rng.choice([(8, 8 * tiles), (8 * d["ng"], 8), (11, 11 * tiles)])
    d["wt"] = rng.randint(0, CONFIG.wbuf_words - d["wts"] * (tiles - 1) - d["wgs"] * (d["ng"] - 1) - 8)
    d["ags"] = pixels + rng.randint(0, 3)
    # Few places, so that descriptors meet in the same entries, at any distance.
    d["acc"] = rng.choice([0, 64, CONFIG.acc_words * (1 - w4)]) + rng.randint(0, 12)
    return d


@pytest.mark.parametrize("seed", range(6))
def test_random_programs(library, seed):
    rng, bench = random.Random(seed), Bench(library, seed)
    for round_ in range(8):
        descriptors = [random_descriptor(rng) for _ in range(12)]
        bench.run(descriptors, gap_percent=rng.choice([0, 0, 50, 98]), read_percent=rng.choice([0, 50, 100]), seed=round_,
                  stable_first=CONFIG.acc_words - 300 - 100 * (seed % 2), stable_count=100)
    bench.close()


def test_entries_written_just_before(bench):
    """A descriptor that accumulates into the last entries of the one before, at every distance and length."""
    for pixels in (1, 2, 3, 8, 9, 20):
        for back in range(1, 5):
            first = dict(ng=1, nkb=1, nky=1, nkx=1, noy=1, nox=pixels, h=1, w=pixels, wts=8, acc=40)
            second = {**first, "acc": 40 + pixels - back, "wt": 8, "accumulate": 1, "nox": 9, "w": 9}
            bench.run([first, second, {**second, "acc": second["acc"] + 8}])


@pytest.mark.parametrize("w4", [0, 1])
def test_utilisation(bench, w4):
    """A chain of K = 64 convolutions on 16x16 pixels keeps the array busy without a gap."""
    d = dict(ng=2, nkb=4, nky=3, nkx=3, noy=16, nox=16, xk=256, xw=16, h=16, w=16, y0=-1, x0=-1, wts=8, wgs=288, ags=256,
             w4=w4)
    r, done = bench.run([d, {**d, "accumulate": 1}, d, {**d, "accumulate": 1}])
    words = 2 * 36 * 256        # of a descriptor
    per_descriptor = words * bench.lib.cycles
    assert [b - a for a, b in zip(done, done[1:])] == [per_descriptor] * 3
    assert done[0] - per_descriptor <= 17 + bench.lib.fill and r.words == 4 * words
    assert r.stalls <= 24 + bench.lib.fill


@pytest.mark.parametrize("nkb", [4, 5])
def test_utilisation_of_pairs(bench, nkb):
    """The same with an odd stride between channel blocks: an array of two words a cycle takes half the cycles."""
    steps = (nkb + 1) // 2 if bench.lib.gemm_words == 2 else nkb
    d = dict(ng=2, nkb=nkb, nky=3, nkx=3, noy=16, nox=16, xk=257, xw=16, h=16, w=16, y0=-1, x0=-1, wts=8, wgs=72 * nkb,
             ags=256)
    r, done = bench.run([d, {**d, "accumulate": 1}, d, {**d, "accumulate": 1}])
    per_descriptor = 2 * 9 * steps * 256 * bench.lib.cycles
    assert [b - a for a, b in zip(done, done[1:])] == [per_descriptor] * 3
    assert done[0] - per_descriptor <= 17 + max(15, bench.lib.fill) and r.words == 4 * 2 * 9 * nkb * 256
    assert r.stalls <= 24 + max(16, bench.lib.fill)


@pytest.mark.parametrize("odd", [0, 1])
def test_small_tiles_follow_without_a_gap(bench, odd):
    """As many pixels for a tile as it takes to load: weights are fetched as fast as they are used, across descriptors too."""
    tiles = 2 if odd and bench.lib.gemm_words == 2 else 1       # of a step
    pixels = bench.lib.fill // bench.lib.cycles * tiles
    d = dict(ng=2, nkb=8, nky=1, nkx=1, noy=1, nox=pixels, xk=16 + odd, h=1, w=pixels, wts=8, wgs=64, ags=16)
    _, done = bench.run([d] * 5)
    assert [b - a for a, b in zip(done, done[1:])] == [16 // tiles * pixels * bench.lib.cycles] * 4


def test_both_clocks_take_the_same_cycles():
    """The sys2x multipliers change neither results nor the cycle of any done."""
    descriptors = [random_descriptor(random.Random(seed)) for seed in range(40)]
    runs = []
    for clock in (1, 2):
        bench = Bench(make_library(2, clock, 1), seed=9)
        r, done = bench.run(descriptors, gap_percent=30, seed=3)
        runs.append((r.cycles, r.words, r.stalls, done, bench.accumulators().tolist()))
        bench.close()
    assert runs[0] == runs[1]


def test_post_reads_beside_gemm(bench):
    """Sequential POST reads get an entry nearly every cycle while GEMM reads and writes others."""
    bench.run([conv(acc=0), conv(acc=512)])
    d = conv(acc=100, nkb=4, ng=2, accumulate=1, wgs=288)
    r, _ = bench.run([d] * 2, read_percent=100, stable_first=300, stable_count=600, seed=5)
    assert r.reads > 0.6 * r.cycles         # half of the addresses are random and meet GEMM's bank every other time


def error_cases():
    c = CONFIG
    return {
        "spm": conv(x=c.spm_words - 63), "spm_block": conv(nkb=2, xk=c.spm_words - 10), "spm_wrap": conv(x=0xFFFF),
        "wbuf": conv(wt=c.wbuf_words - 71), "wbuf_tile": conv(wt=c.wbuf_words - 7, nky=1, nkx=1),
        "wbuf_wrap": conv(wt=0xFFFC),
        # Only the second block of the second pair is outside.
        "spm_pair": conv(x=c.spm_words - 3 * 65 - 63, nkb=4, xk=65),
        "wbuf_pair": conv(wt=c.wbuf_words - 4 * 72 + 1, nkb=4, xk=65),
        "wbuf_small_pair": conv(wt=c.wbuf_words - 31, nky=1, nkx=1, nkb=4, xk=65, noy=1, nox=1), "acc": conv(acc=2 * c.acc_words - 63), "acc_w4": conv(acc=c.acc_words - 63, w4=1),
        "acc_group": conv(acc=2000, ags=4095, ng=2), "acc_high": conv(acc=4095),
    }


@pytest.mark.parametrize("name", error_cases())
def test_range_errors(bench, name):
    """The unit reports what the machine refuses, after the descriptors before it, writes no later one, restarts."""
    good, bad = conv(acc=600, ng=1), error_cases()[name]
    with pytest.raises(EngineError, match="BUFFER_RANGE"):
        bench.machine.gemm(full(bad))
    r, _ = bench.run([good, bad, conv(acc=700)], expect_error=True)
    assert (r.done, r.errors, r.error_code) == (1, 1, isa.ERROR_CODE["BUFFER_RANGE"])
    bench.machine.gemm(full(good))
    assert np.array_equal(bench.accumulators()[600:764], bench.machine.acc[0, 600:764])
    refused, _ = bench.run([good], expect_error=True, max_cycles=100)
    assert refused.done == 0
    bench.run([], halt_at=1)
    bench.machine.acc[0] = bench.accumulators()     # the failing descriptor's words before the bad one are written
    bench.run([conv(acc=3), good])


@pytest.mark.parametrize("name", ["spm", "wbuf", "pair", "acc"])
def test_last_legal_addresses(bench, name):
    d = {"spm": conv(x=CONFIG.spm_words - 64), "wbuf": conv(wt=CONFIG.wbuf_words - 72),
         "pair": conv(x=CONFIG.spm_words - 129, wt=CONFIG.wbuf_words - 144, nkb=2, xk=65),
         "acc": conv(acc=2 * CONFIG.acc_words - 64)}[name]
    bench.run([d])
    bench.run([{**d, "w4": 1, "acc": CONFIG.acc_words - 64}])


@pytest.mark.parametrize("halt_at", [1, 5, 12, 20, 30, 100, 500, 577, 1000])
def test_halt(bench, halt_at):
    """After a halt nothing is written or reported, and new descriptors run as if nothing had been."""
    r, _ = bench.run([conv()] * 4, halt_at=halt_at)
    assert r.done <= halt_at // 576 and r.cycles < halt_at + 30
    bench.machine.acc[0] = bench.accumulators()
    bench.run([conv(ng=2, acc=256), conv(accumulate=1, acc=300)])
