"""POST against Machine.post: random descriptors, saturation edges, softmax, LayerNorm and GroupNorm passes, stalls, errors.

The unit is verilated with the memories of post_bench.cpp around it; every memory is compared after every run.
"""

import ctypes
from dataclasses import replace
from pathlib import Path
import tempfile

from migen import *
from litex.gen.fhdl import verilog
import numpy as np
import pytest

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.cores.isa import ACT, DST, OUT, ROP, SRC
from litediffusion.cores.machine import EngineError, Machine, loop_index
from litediffusion.cores.post import Post
from litediffusion.cores.row import ROW_SQUARES_BITS, SQUARES_BITS, SUM_BITS, RowMemory, RowPort, StatMemory, StatPort
from litediffusion.targets import verilator

CONFIG = PRESETS["ecpix5"]
ROW_FIELDS = ("max", "m", "e", "o", "s", "q")
FREE = [0] * 6                                      # refusals of acc, src, opr, wr, wwr and halt, per mille
STALLS = [FREE, [300] * 5 + [0], [0, 700, 0, 0, 700, 0], [500, 0, 600, 0, 300, 50], [0, 0, 0, 850, 850, 0],
          [900, 900, 100, 500, 0, 100]]


class PostBench(Module):
    """The unit with its statistics and row memories; ``row`` and ``stat`` reach these while it is idle."""

    def __init__(self, config):
        self.clock_domains.cd_sys = ClockDomain()
        self.submodules.dut = dut = Post(config)
        self.submodules.rows, self.submodules.stats = rows, stats = RowMemory(config), StatMemory(config)
        row, stat = RowPort(config), StatPort(config)
        for memory, own, mine in ((rows, row, dut.row), (stats, stat, dut.stat)):
            memory.add_client(mine, dut.active)
            memory.add_client(own, ~dut.active)
        self.ios = {self.cd_sys.clk, self.cd_sys.rst}
        records = {"row": row, "stat": stat, "sink": dut.sink}
        records |= {n: getattr(dut, n) for n in ("acc", "src", "opr", "wr", "wwr")}
        named = {f"{k}_{f}": getattr(r, f) for k, r in records.items() for f in ("valid", "ready") if hasattr(r, f)}
        named |= {f"{k}_{f[0]}": getattr(r, f[0]) for k, r in records.items() if k != "sink" for f in r.layout}
        named |= {"sink_desc": dut.sink.desc}
        named |= {n: getattr(dut, n) for n in ("done", "error", "error_code", "halt", "stall", "param_adr", "param_dat")}
        for name, signal in named.items():
            signal.name_override = name
            self.ios.add(signal)


def build_bench(config, name):
    """The bench's C function."""
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(exist_ok=True)
    bench = PostBench(config)
    output = verilog.convert(bench, ios=bench.ios, name="PostBench")
    for name, content in output.data_files.items():
        (folder / name).write_text(content)
    lines = output.main_source.splitlines()
    main = "\n".join(line for line in lines if not line.startswith("//"))      # no date: builds are cached by content
    for name in output.data_files:                  # found from any working directory
        main = main.replace(f'"{name}"', f'"{folder / name}"')
    (folder / "PostBench.v").write_text(main)
    library = verilator.build([folder / "PostBench.v"], [Path(__file__).parent / "post_bench.cpp"], folder / "build",
                              "PostBench", shared=True, cflags=[f"-DPOST_LANES={config.post_lanes}"])
    return ctypes.CDLL(str(library)).post_run


@pytest.fixture(scope="session", params=[8, 4, 2, 1], ids="{} lanes".format)
def lanes(request):
    return request.param


@pytest.fixture(scope="session")
def post_run(lanes):
    """The bench's C function; with two lanes the multipliers are made of logic cells."""
    return build_bench(replace(CONFIG, post_lanes=lanes, lut_multipliers=lanes == 2), f"litediffusion-test-post-{lanes}")


def tree_levels(lanes):
    """Registered levels of a reduction over the lanes."""
    return max(1, lanes.bit_length() - 1)


class Memories(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("acc", "spm", "wbuf", "param", "row", "stat")] + \
               [("row_words", ctypes.c_uint32), ("stat_words", ctypes.c_uint32)]


def run_rtl(post_run, machine, descs, seed=1, permille=FREE, limit=400000):
    """Run descriptors on the RTL with a copy of the machine's memories; (result, memories, cycles, stalls)."""
    c, m = CONFIG, machine
    state = {
        "acc": m.acc[0].astype(np.int32), "spm": m.spm[0].copy(), "wbuf": m.wbuf[0].copy(), "param": m.param[0].copy(),
        "row": np.stack([m.row[k][0] for k in ROW_FIELDS]).astype(np.int64),
        "stat": np.stack([m.stat_s[0], m.stat_q[0]]).astype(np.int64),
    }
    memories = Memories(*[a.ctypes.data for a in state.values()], c.row_words, c.stat_words)
    data = b"".join(isa.encode("POST", **d) for d in descs)
    cycles, stalls = np.zeros(len(descs), np.uint32), np.zeros(len(descs), np.uint32)
    result = post_run(data, len(descs), ctypes.byref(memories), ctypes.c_uint64(seed), (ctypes.c_uint32 * 6)(*permille),
                      limit, cycles.ctypes.data_as(ctypes.c_void_p), stalls.ctypes.data_as(ctypes.c_void_p))
    return result, state, cycles, stalls


def run_model(machine, descs):
    for d in descs:
        machine.post(isa.decode(isa.encode("POST", **d))[1])
    m, wrap = machine, lambda x, bits: ((x + (1 << bits - 1)) & ((1 << bits) - 1)) - (1 << bits - 1)
    row = np.stack([m.row[k][0] for k in ROW_FIELDS])
    row[-1] &= (1 << ROW_SQUARES_BITS) - 1              # sums past their domain (many 16-bit squares) wrap
    return {
        "acc": m.acc[0], "spm": m.spm[0], "wbuf": m.wbuf[0], "param": m.param[0], "row": row,
        "stat": np.stack([wrap(m.stat_s[0], SUM_BITS), wrap(m.stat_q[0], SQUARES_BITS)]),
    }


def compare(post_run, machine, descs, seed=1, permille=FREE):
    """Run both and compare every memory; returns (cycles, stalls) of the RTL."""
    result, state, cycles, stalls = run_rtl(post_run, machine, descs, seed, permille)
    assert result == 0, f"RTL returned {result} (seed {seed}, refusals {permille})"
    for name, expected in run_model(machine, descs).items():
        wrong = np.argwhere(state[name] != expected)
        first = tuple(wrong[0]) if len(wrong) else ()
        assert not len(wrong), (f"{name} differs in {len(wrong)} places, first {first}: RTL {state[name][first]}, model "
                                f"{expected[first]}; seed {seed}, refusals {permille}, descriptors {descs}")
    return cycles, stalls


def random_machine(rng):
    """A machine with random memories; magnitudes spread over all sizes, so that few results saturate."""
    m = Machine(CONFIG, np.zeros(64, np.uint8))
    spread = lambda shape, bits: rng.integers(-(1 << 62), 1 << 62, shape) >> rng.integers(63 - bits, 63, shape)
    m.acc[:] = spread(m.acc.shape, 32)
    m.spm[:] = rng.integers(-128, 128, m.spm.shape)
    m.wbuf[:] = rng.integers(-128, 128, m.wbuf.shape)
    for record in range(CONFIG.param_words):
        write_param(m, record, rng)
    for k, bits in (("max", 32), ("m", 16), ("o", 20), ("s", 32)):
        m.row[k][:] = spread(m.row[k].shape, bits)
    m.row["e"][:] = rng.integers(0, 32, m.row["e"].shape)
    m.row["q"][:] = rng.integers(0, 1 << 36, m.row["q"].shape)
    m.stat_s[:] = spread(m.stat_s.shape, 20)
    m.stat_q[:] = rng.integers(0, 1 << 30, m.stat_q.shape)
    return m


def write_param(machine, record, rng=None, **values):
    """Write a parameter record: given values, or random ones where ``rng`` is given."""
    if rng is not None:
        wild = rng.random() < 0.1
        draw = lambda bits: int(rng.integers(-(1 << 40), 1 << 40) >> int(rng.integers(41 - bits, 41)))
        values = {"mult": [draw(16) for _ in range(8)], "offset": [draw(32 if wild else 17) for _ in range(8)],
                  "shift": int(rng.integers(0, 80 if wild else 32)), "rshift": int(rng.integers(0, 80 if wild else 16)),
                  "oshift": int(rng.integers(0, 80 if wild else 24)), "rmult": draw(16), "omult": draw(16), "gshift": 255,
                  "eps_m": 0xFFFFFFFF, **values}
    data = np.frombuffer(isa.encode_param(**values), np.uint8)
    machine.param[0].reshape(-1, isa.PARAM_BYTES)[record] = data


def loops(rng, size, sizes, modulus=1 << 18, base=0):
    """(base, strides) of an affine address inside base..base+size, strides positive, negative or 0."""
    while True:
        strides = [int(rng.choice([0, 1, 2, rng.integers(0, 60), -1, -int(rng.integers(1, 60))])) for _ in range(3)]
        first = int(rng.integers(base, base + size))
        index = loop_index(first, sizes, strides, 18)
        if index.min() >= base and index.max() < base + size:
            return first, [s % modulus for s in strides]


def random_descriptor(rng):
    """Fields of a valid POST descriptor; sources in the lower half of the SPM, destinations in the upper half."""
    sizes = [int(n) for n in rng.integers(1, [4, 6, 12])]
    d = dict(zip(("n0", "n1", "n2"), sizes))
    pick = lambda k: int(rng.integers(0, k))

    def address(key, size, names, modulus=1 << 18, base=0, even=False):
        first, strides = loops(rng, size >> even, sizes, modulus, base >> even)
        d.update({key: first << even, **{n: (s << even) % modulus for n, s in zip(names, strides)}})

    half = CONFIG.spm_words
    d["src"], d["dst"], d["out"], d["rop"], d["act"] = pick(3), pick(3), pick(4), pick(3), pick(6)
    source = 2 * CONFIG.acc_words if d["src"] == SRC["ACC"] else half
    address("a", source, ("as0", "as1", "as2"), even=d["src"] == SRC["INT16"])
    base, size = (0, 2 * CONFIG.wbuf_words) if d["dst"] == DST["WBUF"] else (half, half)
    address("d", size, ("ds0", "ds1", "ds2"), base=base, even=d["out"] == OUT["INT16"])
    address("r", half, ("rs0", "rs1", "rs2"))
    d["p"], d["ps0"], d["ps1"], d["ps2"] = pick(200), pick(8), pick(4), pick(2)
    d["row"], d["row_loop"] = pick(CONFIG.row_words - 24), pick(3)
    for flag in ("submax", "row_m", "row_o", "stat", "stat_acc"):
        d[flag] = int(rng.random() < 0.4)
    if d["row_loop"]:
        d["rowmax"] = int(rng.random() < 0.15)
        d["rowsum"], d["rowstat"] = int(rng.random() < 0.4), int(rng.random() < 0.4)
    d["stat_rec"] = pick(CONFIG.stat_words - 24)
    return d


@pytest.mark.parametrize("seed", range(12))
def test_random_descriptors(post_run, seed):
    rng = np.random.default_rng(seed)
    for _ in range(6):
        machine = random_machine(rng)
        compare(post_run, machine, [random_descriptor(rng) for _ in range(12)], seed + 1, STALLS[seed % len(STALLS)])


# --- saturation edges --------------------------------------------------------------------------------------------------

IDENTITY = {"mult": [1] * 8, "omult": 1, "rmult": 1}


def edge_machine(values, **param):
    """Accumulators ``values`` in lane order from entry 0, parameter record 0 as given; entries used."""
    m = Machine(CONFIG, np.zeros(64, np.uint8))
    values = np.asarray(values, np.int64)
    entries = -(-len(values) // 8)
    m.acc[0, :entries] = np.resize(values, entries * 8).reshape(entries, 8)
    write_param(m, 0, **{**IDENTITY, **param})
    return m, entries


def around(*limits, step=1):
    return [limit * step + k for limit in limits for k in range(-2, 3)]


@pytest.mark.parametrize("out, limits", [("INT8", (-128, 127, 0)), ("UINT8", (0, 255, 127)), ("SKEW8", (-32, 223, 0)), ("INT16", (-32768, 32767, 0))])
@pytest.mark.parametrize("oshift", [0, 1, 7, 63, 64])
def test_output_limits(post_run, out, limits, oshift):
    """omult * v rounded and clamped, two steps on either side of each limit and of each rounding boundary."""
    scale = min(oshift, 8)
    scaled = [limit << scale for limit in limits]
    values = [v >> s for s in (0, 1) for v in around(*scaled, *[limit + (1 << scale >> 1) for limit in scaled])]
    m, n = edge_machine(values, oshift=oshift)
    compare(post_run, m, [{"n0": 1, "n1": 1, "n2": n, "as2": 1, "dst": 1, "ds2": 2, "out": OUT[out]}])


@pytest.mark.parametrize("shift", [0, 1, 11, 12, 13, 14, 15, 31, 47, 63, 64, 79, 255])
@pytest.mark.parametrize("mult", [1, -1, 32767, -32768])
def test_requantise_limits(post_run, shift, mult):
    """Extremes of the product and rounding at every shift, into the 16-bit clamp."""
    limits = [k << min(shift, 30) for k in (-32769, -32768, 32767, 32768, 0, 1)] + [1 << max(shift - 1, 0)]
    values = [max(-(1 << 31), min((1 << 31) - 1, v)) for v in around(*limits) + around(-(1 << 31), (1 << 31) - 1)]
    m, n = edge_machine(values, shift=shift, mult=[mult] * 8, offset=[0, 1, -1, 32767, -32768, (1 << 31) - 1, -(1 << 31), 5])
    d = {"n0": 1, "n1": 1, "n2": n, "as2": 1, "dst": 1, "ds2": 2, "out": OUT["INT16"]}
    m.row["max"][0, :4] = [-(1 << 31), (1 << 31) - 1, 0, 1]
    compare(post_run, m, [d] + [{**d, "submax": 1, "row": r, "d": 2 * n * (r + 1)} for r in range(4)])


@pytest.mark.parametrize("rop", ["ADD", "MUL"])
@pytest.mark.parametrize("rmult, rshift", [(1, 0), (32767, 0), (-32768, 7), (-32768, 0), (25000, 23), (1, 63), (3, 64)])
def test_operand_limits(post_run, rop, rmult, rshift):
    """Both clamps around the second operand; v1 far outside 16 bits must not come back by adding."""
    far = 128 * 32768
    values = around(-32768, 32767, 32767 + 128, 32767 - 128, far, -far, far + 32768, -far - 32768, 8388607, -8388608,
                    1 << 31 - 3)
    m, n = edge_machine(values, rmult=rmult, rshift=rshift)
    m.spm[0, :n] = np.resize(np.array([-128, -127, -2, -1, 0, 1, 2, 126, 127, 64, -64], np.int8), (n, 16))
    d = {"n0": 1, "n1": 1, "n2": n, "as2": 1, "dst": 1, "ds2": 2, "out": OUT["INT16"], "rop": ROP[rop]}
    compare(post_run, m, [{**d, "rs2": 1, "d": 1024}, {**d, "r": 1, "d": 2048}])


@pytest.mark.parametrize("act", sorted(ACT))
def test_activation_over_input_range(post_run, act):
    """All 65536 inputs through the whole unit, and some beyond that the clamp brings back."""
    values = np.concatenate([np.arange(-32768, 32768), np.arange(32768, 32770), np.arange(-32770, -32768)])
    for part in np.array_split(values, 5):
        m, n = edge_machine(part)
        compare(post_run, m, [{"n0": 1, "n1": 1, "n2": n, "as2": 1, "dst": 1, "ds2": 2, "out": OUT["INT16"], "act": ACT[act]}])


# --- whole operations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permille", STALLS)
def test_softmax_rows(post_run, permille):
    """Row maximum, exponentials with their reciprocal sum, and a drain with multiplier and shift from the row."""
    rng = np.random.default_rng(7)
    rows, groups = 21, 3                            # a row of 3 groups is shorter than the division: it has to wait
    m, _ = edge_machine([0])
    m.acc[0, :rows * groups] = rng.integers(-3000, 3000, (rows * groups, 8))
    m.acc[0, :groups] = m.acc[0, 0, 0]              # uniform: the sum is a multiple of a power of two
    m.acc[0, groups] = 1 << 20                      # one group takes all
    write_param(m, 1, mult=[4] * 8, shift=1, omult=255, oshift=14)
    write_param(m, 2, mult=[0] * 8, shift=3, omult=1, oshift=0)
    scores = {"n0": 1, "n1": rows, "n2": groups, "as1": groups, "as2": 1, "row": 5, "row_loop": 1}
    exp = {**scores, "submax": 1, "act": ACT["EXP"], "rowsum": 1, "p": 1,
           "dst": 1, "out": OUT["UINT8"], "d": 100, "ds1": groups, "ds2": 1}
    drain = {**scores, "a": 64, "row_m": 1, "row_o": 1, "p": 2, "dst": 1, "d": 1000, "ds1": groups, "ds2": 1}
    compare(post_run, m, [{**scores, "rowmax": 1}, exp, drain], 3, permille)
    assert (m.row["m"][0, 5:5 + rows] > 0).all()


@pytest.mark.parametrize("total", [0, 1, 2, 3, 255, 256, 257, 4080, 65535, 65536, 1 << 20, -5])
def test_row_reciprocal(post_run, total):
    """Row sums of chosen values: powers of two, their neighbours, zero, negative."""
    n = 64
    values = np.zeros(n * 8, np.int64)
    for i in range(len(values)):
        values[i] = np.clip(total - values.sum(), -32768, 32767)
    m, _ = edge_machine(values)
    d = {"n0": 1, "n1": 1, "n2": n, "as2": 1, "dst": 0, "out": OUT["INT16"], "row_loop": 2, "rowsum": 1, "row": 9}
    compare(post_run, m, [d])
    assert m.row["m"][0, 9] > 0


@pytest.mark.parametrize("permille", STALLS)
def test_layernorm_rows(post_run, permille):
    """Sums of rows in both row loops, then a drain with multiplier and offset of the row from SPM int16."""
    rng = np.random.default_rng(8)
    m = random_machine(rng)
    m.row["e"][:] = 0
    write_param(m, 0, mult=[1000] * 8, shift=9, omult=1)
    rows = {"n0": 4, "n1": 3, "n2": 5, "src": 1, "as0": 40, "as1": 5, "as2": 1, "rowstat": 1, "row": 3,
            "dst": 2, "ds0": 40, "ds1": 5, "ds2": 1}
    drain = {"n0": 12, "n1": 1, "n2": 5, "src": 2, "a": 64, "as0": 10, "as2": 2, "row": 3, "row_loop": 1, "row_m": 1,
             "row_o": 1, "dst": 1, "d": 4096, "ds0": 5, "ds2": 1}
    compare(post_run, m, [{**rows, "row_loop": 1}, {**rows, "row_loop": 2, "row": 30}, drain], 4, permille)


@pytest.mark.parametrize("permille", STALLS)
def test_groupnorm_statistics(post_run, permille):
    """Sums by channel: overwritten, added to, and with inner loops of one: a record is read and written each cycle."""
    m = random_machine(np.random.default_rng(9))
    d = {"n0": 2, "n1": 3, "n2": 20, "src": 1, "as0": 60, "as1": 20, "as2": 1, "stat": 1, "stat_rec": 11,
         "dst": 1, "d": 4096, "ds0": 60, "ds1": 20, "ds2": 1}
    write_param(m, 0, **IDENTITY)
    one = {"n0": 5, "n1": 7, "n2": 1, "src": 1, "as0": 7, "as1": 1, "stat": 1, "stat_acc": 1, "stat_rec": 11}
    compare(post_run, m, [d, {**d, "a": 400, "stat_acc": 1}, one, one], 5, permille)


def test_in_place_and_broadcast(post_run):
    """A residual add onto its own operand, and a multiplication by one broadcast word (stride 0)."""
    m = random_machine(np.random.default_rng(10))
    write_param(m, 0, mult=[3] * 8, shift=20, omult=3, oshift=2, rmult=5, rshift=2)
    d = {"n0": 1, "n1": 8, "n2": 30, "as1": 30, "as2": 1, "dst": 1, "ds1": 30, "ds2": 1,
         "rop": ROP["ADD"], "r": 0, "rs1": 30, "rs2": 1}
    compare(post_run, m, [d, {**d, "rop": ROP["MUL"], "r": 5000, "rs1": 1, "rs2": 0}], 6, STALLS[3])


# --- speed and errors --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("latency, d", [
    (25, {"as2": 1}), (25, {"src": 1, "as2": 1, "rop": 1, "rs2": 1, "d": 4096}), (25, {"ps2": 1, "p": 3}),
    (26, {"stat": 1}), ("sums", {"row_loop": 1, "rowstat": 1, "row_m": 1}),
    ("reciprocal", {"row_loop": 1, "rowsum": 1, "as2": 1, "out": 1}), ("maximum", {"row_loop": 1, "rowmax": 1}),
], ids=["drain", "residual", "record each element", "channel sums", "row sums", "reciprocal", "maximum"])
def test_one_beat_a_cycle(post_run, lanes, latency, d):
    """Without refusals n elements take n * beats + latency cycles and stall only while the lanes drain."""
    m = random_machine(np.random.default_rng(11))
    write_param(m, 0, **IDENTITY)
    d = {"n0": 1, "n1": 1, "n2": 200, "dst": 1, "ds2": 1, **d}
    levels = tree_levels(lanes)
    rows = {"sums": 26 + levels, "reciprocal": 26 + levels + (10 if lanes == 8 else 18), "maximum": 8 + levels}
    latency = rows.get(latency, latency)
    cycles, stalls = compare(post_run, m, [d, d])
    assert cycles.tolist() == [200 * 8 // lanes + latency] * 2, f"cycles {cycles}"
    assert stalls.max() <= latency


@pytest.mark.parametrize("groups", [1, 3, 5, 9])
def test_reciprocals_of_short_rows(post_run, lanes, groups):
    """The ends of rows come as close as the divisions allow."""
    m, _ = edge_machine(range(1, 2000))
    rows, division = 20, 10 if lanes == 8 else 18
    d = {"n0": 1, "n1": rows, "n2": groups, "as1": groups, "as2": 1, "out": 1, "row_loop": 1, "rowsum": 1}
    cycles, _ = compare(post_run, m, [d])
    beats = groups * 8 // lanes
    assert cycles[0] == beats + (rows - 1) * max(beats, division) + 26 + tree_levels(lanes) + division


BASE = {"n0": 2, "n1": 2, "n2": 3, "dst": 1}


@pytest.mark.parametrize("bad", [
    {"a": 2048 - 2, "as2": 1}, {"a": 5, "as0": (1 << 18) - 6}, {"src": 1, "a": 8191, "as1": 1}, {"src": 2, "a": 8190, "as2": 2},
    {"rop": 1, "r": 8190, "rs2": 1}, {"rop": 2, "r": 8192}, {"d": 8190, "ds2": 1}, {"dst": 2, "d": 4095, "ds0": 1},
    {"p": 255, "ps0": 1}, {"p": 256}, {"row": 1023, "row_loop": 2}, {"row": 1021, "row_loop": 1, "rowmax": 1},
    {"stat": 1, "stat_rec": 125}, {"stat": 1, "stat_rec": 128},
], ids=str)
@pytest.mark.parametrize("permille", STALLS[:2])
def test_buffer_range(post_run, bad, permille):
    """One step beyond each memory stops the unit with BUFFER_RANGE; the last element inside runs."""
    m = random_machine(np.random.default_rng(12))
    with pytest.raises(EngineError) as error:
        run_model(m, [{**BASE, **bad}])
    assert error.value.code == isa.ERROR_CODE["BUFFER_RANGE"]
    m = random_machine(np.random.default_rng(12))
    result, state, _, _ = run_rtl(post_run, m, [{**BASE, **bad}], 1, permille)
    assert result == isa.ERROR_CODE["BUFFER_RANGE"]
    if bad.get("dst") == DST["WBUF"]:
        assert (state["spm"] == m.spm[0]).all()


@pytest.mark.parametrize("last", [
    {"a": 2048 - 3, "as2": 1}, {"src": 1, "a": 8190, "as1": 1}, {"src": 2, "a": 8187, "as2": 2, "d": 100},
    {"rop": 1, "r": 8189, "rs2": 1},
    {"d": 8189, "ds2": 1}, {"dst": 2, "d": 4094, "ds0": 1}, {"p": 254, "ps0": 1}, {"row": 1022, "row_loop": 2, "rowmax": 1},
    {"row": 1020, "row_loop": 1, "rowsum": 1}, {"stat": 1, "stat_rec": 124},
    {"rowmax": 1, "row_loop": 2, "p": 300, "d": 9000, "rop": 1, "r": 9000},
], ids=str)
def test_last_address_is_legal(post_run, last):
    compare(post_run, random_machine(np.random.default_rng(13)), [{**BASE, **last}])
