"""Random legal programs over every instruction, to compare devices with each other bit for bit.

A program loads all memories, computes on small shared areas, so that instructions of different queues depend on each
other often, and at the end writes what it has to DRAM. Tokens come from the compiler's own synchronisation.
"""

from dataclasses import dataclass
import random

import numpy as np

from litediffusion.cores import isa
from litediffusion.cores.gemm_model import gemm_activation_index, gemm_tile_index
from litediffusion.cores.machine import loop_index
from litediffusion.sw.compiler.items import Item
from litediffusion.sw.compiler.sync import assign_tokens

WINDOW_SIZE = 1 << 20
# Areas of the window, in words: constants, scratch (written by STORE). The program lies before them.
CONSTANTS, SCRATCH, RESULT, END = 0x1000, 0x6000, 0xA000, 0xF000
SPM_AREA, WBUF_AREA, ACC_AREA, ROWS, STATS = 1024, 512, 256, 64, 16
SAMPLE_RECORDS, CONSTANT_RECORDS = 16, 128      # records 0..15: sampler coefficients; NORM writes from 128 on
REGISTERS = {"step": 3, "label": 5, "slot": 1, "image": 2, "guidance": 9000, "seed": 0x123456789ABCDEF}
INDEX_VALUES = {"none": 0, "STEP": 3, "LABEL": 5, "SLOT": 1, "IMAGE": 2}


@dataclass
class Exercise:
    """``data``: the window's content; a program of ``length`` descriptors lies at offset 0."""
    data: bytes
    length: int
    items: list


def make_exercise(config, seed, instructions=40, ops=("LOAD", "STORE", "GEMM", "POST", "NORM", "SAMPLE")):
    """An Exercise with ``instructions`` random instructions of ``ops`` between its first and last ones."""
    rng = random.Random(seed)
    window = np.random.default_rng(seed).integers(0, 256, WINDOW_SIZE).astype(np.uint8)
    records = b"".join(parameter_record(rng, k) for k in range(config.param_words))
    at = CONSTANTS * config.word_bytes
    window[at:at + len(records)] = np.frombuffer(records, np.uint8)
    items = prelude(config)
    makers = {"LOAD": load, "STORE": store, "GEMM": gemm, "POST": post, "NORM": norm, "SAMPLE": sample}
    items += [makers[rng.choice(ops)](config, rng) for _ in range(instructions)]
    items += epilogue(config)
    assign_tokens(items)
    program = b"".join(isa.encode(item.op, layer=k & 0xFFFF, **item.fields) for k, item in enumerate(items))
    if len(program) > CONSTANTS * config.word_bytes:
        raise ValueError(f"{len(items)} instructions do not fit before the constants: ask for fewer than {instructions}")
    window[:len(program)] = np.frombuffer(program, np.uint8)
    return Exercise(window.tobytes(), len(items), items)


def parameter_record(rng, k):
    """64 bytes; the sampler's records hold coefficients of a plausible size and a clip that is not negative."""
    draw = lambda bits: rng.randint(-(1 << bits - 1), (1 << bits - 1) - 1) >> rng.randrange(bits)
    offset = [draw(17) for _ in range(8)]
    if k < SAMPLE_RECORDS:
        offset[isa.SAMPLE_COEFS.index("clip")] = rng.randint(0, 40000)
        offset[isa.SAMPLE_COEFS.index("sigma")] = rng.choice([0, rng.randint(0, 1 << 15)])
    return isa.encode_param([draw(16) for _ in range(8)], offset, shift=rng.randrange(24), rshift=rng.randrange(16),
                            oshift=rng.randrange(20), gshift=rng.randrange(24), rmult=draw(16), omult=draw(16),
                            eps_m=rng.getrandbits(16), eps_s=rng.randrange(8))


def prelude(config):
    """Load all of SPM, WBUF and PARAM; write the areas of accumulators, statistics and rows."""
    row_words, half = 64, config.acc_words
    items = []
    for mem, words, at in (("SPM", config.spm_words, CONSTANTS), ("WBUF", config.wbuf_words, CONSTANTS + 0x1800),
                           ("PARAM", 4 * config.param_words, CONSTANTS)):
        items.append(Item("LOAD", {"dram": at * config.word_bytes, "n0": 1, "n1": words // row_words, "n2": row_words,
                                   "s1": row_words, "mem": isa.MEM[mem], "d1": row_words}, 0,
                          [("DRAM", at, at + words)], [(mem, 0, words)]))
    fill = {"ng": 1, "nkb": 1, "nky": 1, "nkx": 1, "noy": 16, "nox": 16, "xw": 16, "h": 16, "w": 16, "xk": 256, "wts": 8}
    for h in range(2):
        items.append(Item("GEMM", dict(fill, acc=h * half), 0, [("SPM", 0, ACC_AREA), ("WBUF", 0, 8)],
                          [(f"ACC{h}", 0, ACC_AREA)]))
    rows = {"n0": ROWS, "n1": 1, "n2": 3, "src": isa.SRC["INT8"], "as0": 3, "as2": 1, "p": 20, "row_loop": 1}
    reads, writes = [("SPM", 0, 2 * ROWS), ("PARAM", 20, 21)], [("ROW", 0, ROWS)]
    for flag in ("rowmax", "rowsum", "rowstat"):
        items.append(Item("POST", dict(rows, **{flag: 1}), 0, list(reads), list(writes)))
    items.append(Item("NORM", {"rows": 1, "ngroups": ROWS, "gsize": 1, "count": 24, "p": 20}, 0,
                      [("ROW", 0, ROWS), ("PARAM", 20, 21)], list(writes)))
    statistics = {"n0": STATS, "n1": 1, "n2": 4, "src": isa.SRC["INT8"], "as0": 4, "as2": 1, "p": 21, "stat": 1}
    items.append(Item("POST", statistics, 0, [("SPM", 0, 2 * STATS), ("PARAM", 21, 22)], [("STAT", 0, STATS)]))
    return items


def epilogue(config):
    """Accumulators through POST into the SPM, the SPM to DRAM, END."""
    items, upper = [], config.spm_words // 2
    for h in range(2):
        fields = {"n0": 1, "n1": 1, "n2": ACC_AREA, "a": h * config.acc_words, "as2": 1, "dst": isa.DST["SPM"],
                  "out": isa.OUT["INT16"], "d": 2 * (upper + h * ACC_AREA), "ds2": 2, "p": 30 + h}
        items.append(Item("POST", fields, 0, [(f"ACC{h}", 0, ACC_AREA), ("PARAM", 30 + h, 31 + h)],
                          [("SPM", upper + h * ACC_AREA, upper + (h + 1) * ACC_AREA)]))
    items.append(Item("STORE", {"dram": RESULT * config.word_bytes, "n0": 1, "n1": 4, "n2": config.spm_words // 4,
                                "s1": config.spm_words // 4, "d1": config.spm_words // 4}, 0,
                      [("SPM", 0, config.spm_words)], [("DRAM", RESULT, RESULT + config.spm_words)]))
    items.append(Item("END", {}, 0))
    return items


def transfer(config, rng, mem, size, region):
    """(fields, chip interval, DRAM interval) of a LOAD or STORE between ``mem`` of ``size`` words and a DRAM region."""
    d = {"n0": rng.randint(1, 3), "n1": rng.randint(1, 6), "n2": rng.choice([1, 2, rng.randint(1, 40)])}
    d["d1"] = d["n2"] + rng.choice([0, 0, 3])
    d["d0"] = d["n1"] * d["d1"] + rng.choice([0, 5])
    span = (d["n0"] - 1) * d["d0"] + (d["n1"] - 1) * d["d1"] + d["n2"]
    if span > size:
        return transfer(config, rng, mem, size, region)
    d["addr"], d["mem"] = rng.randint(0, size - span), isa.MEM[mem]
    d["s1"] = d["n2"] + rng.choice([0, 0, 7])
    d["s0"] = rng.choice([0, d["s1"] * d["n1"], d["s1"] * d["n1"] + 11])
    reach = 4096
    first = rng.randint(region[0], region[1] - reach)
    byte = first * config.word_bytes
    for k in range(2):
        name = rng.choice(list(isa.INDEX))
        stride = config.word_bytes * rng.randint(0, 20)
        d |= {f"idx{k}": isa.INDEX[name], f"idx{k}_stride": stride}
        byte -= INDEX_VALUES[name] * stride
    return {**d, "dram": byte}, (mem, d["addr"], d["addr"] + span), ("DRAM", first, first + reach)


def load(config, rng):
    mem, size = rng.choice([("SPM", SPM_AREA), ("SPM", SPM_AREA), ("WBUF", WBUF_AREA), ("PARAM", 0)])
    if mem == "PARAM":
        record, count = rng.randint(SAMPLE_RECORDS, 100), rng.randint(1, 20)
        first = CONSTANTS + 4 * rng.randint(SAMPLE_RECORDS, config.param_words - count)
        fields = {"dram": first * config.word_bytes, "n0": 1, "n1": 1, "n2": 4 * count, "mem": isa.MEM[mem], "addr": 4 * record}
        # Parameter intervals count records; the prelude's larger one orders it before everything all the same.
        return Item("LOAD", fields, 0, [("DRAM", first, first + 4 * count)], [(mem, record, record + count)])
    fields, chip, dram = transfer(config, rng, mem, size, rng.choice([(CONSTANTS, SCRATCH), (SCRATCH, RESULT)]))
    if rng.random() < 0.4:
        fields |= {"pad": 1, "y0": rng.randint(-2, 2), "x0": rng.randint(-2, 2), "h": rng.randint(0, 8), "w": rng.randint(0, 42)}
    return Item("LOAD", fields, 0, [dram], [chip])


def store(config, rng):
    fields, chip, dram = transfer(config, rng, "SPM", SPM_AREA, (SCRATCH, RESULT))
    return Item("STORE", fields, 0, [chip], [dram])


def gemm(config, rng):
    """A small convolution of any kind that stays inside the areas."""
    w4, up = int(rng.random() < 0.4), int(rng.random() < 0.2)
    d = dict(ng=rng.randint(1, 3), nkb=rng.randint(1, 3), nky=rng.randint(1, 3), nkx=rng.randint(1, 3), noy=rng.randint(1, 6),
             nox=rng.randint(1, 10), stride2=rng.randint(0, 1), up=up, h=rng.randint(1, 12), w=rng.randint(1, 12),
             y0=rng.randint(-3, 3), x0=rng.randint(-3, 3), accumulate=rng.randint(0, 1), w4=w4, xs=rng.randint(0, 1), x=0, wt=0)
    d["xw"] = d["w"] + rng.randint(0, 2)
    d["xk"] = d["xw"] * d["h"] + rng.randint(0, 5)
    tiles, pixels = d["nkb"] * d["nky"] * d["nkx"], d["noy"] * d["nox"]
    d["wts"], d["wgs"] = rng.choice([(8, 8 * tiles), (8, 0), (0, 8)])
    d["ags"] = pixels + rng.randint(0, 3)
    x_span = int(gemm_activation_index(d)[0].max()) + 1
    w_span = int(gemm_tile_index(d, config.n_lanes).max()) + 1
    a_span = (d["ng"] - 1) * d["ags"] + pixels
    if x_span > SPM_AREA or w_span > WBUF_AREA or a_span > ACC_AREA:
        return gemm(config, rng)
    half, entry = rng.randint(0, 1 - w4), rng.randint(0, ACC_AREA - a_span)
    d.update(x=rng.randint(0, SPM_AREA - max(x_span, 0)), wt=rng.randint(0, WBUF_AREA - w_span), acc=half * config.acc_words + entry)
    halves = [0, 1] if w4 else [half]
    areas = [(f"ACC{h}", entry, entry + a_span) for h in halves]
    reads = [("SPM", d["x"], d["x"] + x_span), ("WBUF", d["wt"], d["wt"] + w_span)] + (areas if d["accumulate"] else [])
    return Item("GEMM", d, 0, reads, areas)


def affine(rng, sizes, size, even=False, negative=True):
    """(base, strides, interval in hwords or entries) of addresses inside 0..size."""
    while True:
        strides = [rng.choice([0, 1, 2, rng.randint(0, 40), -1 if negative else 1]) << even for _ in range(3)]
        base = rng.randrange(0, size, 1 + even)
        index = loop_index(base, sizes, strides, 18)
        if index.max() < size:
            return base, [s % (1 << 18) for s in strides], (int(index.min()), int(index.max()) + 1)


def words(interval):
    """hwords -> the SPM or WBUF words that hold them; an int16 access takes the whole word."""
    return interval[0] // 2, interval[1] // 2 + 1


def post(config, rng):
    sizes = rng.randint(1, 3), rng.randint(1, 4), rng.randint(1, 12)
    d = dict(zip(("n0", "n1", "n2"), sizes))
    d |= {k: rng.randrange(n) for k, n in (("src", 3), ("dst", 3), ("out", 3), ("rop", 3), ("act", 6), ("row_loop", 3))}
    reads, writes = post_operands(config, rng, d, sizes)
    d |= {"p": rng.randint(SAMPLE_RECORDS, 200), "ps0": rng.randrange(8), "ps1": rng.randrange(4), "ps2": rng.randrange(2)}
    reads.append(("PARAM", d["p"], d["p"] + 56))
    d["row"] = rng.randint(0, ROWS - 12)
    for flag in ("submax", "row_m", "row_o", "stat", "stat_acc"):
        d[flag] = int(rng.random() < 0.3)
    if d["row_loop"]:
        d["rowmax"] = int(rng.random() < 0.15)
        d["rowsum"], d["rowstat"] = rng.choice([(0, 0), (0, 1), (1, 0)])
    if d["out"] == isa.OUT["INT16"]:    # squares of 16-bit values overflow the statistics
        d |= {"stat": 0, "rowstat": 0}
    d["stat_rec"] = rng.randint(0, STATS - 12)
    reads += [("ROW", 0, ROWS), ("STAT", 0, STATS)]
    return Item("POST", d, 0, reads, writes + [("ROW", 0, ROWS), ("STAT", 0, STATS)])


def post_operands(config, rng, d, sizes):
    """Source, second operand and destination into ``d``; (reads, writes). The destination is apart from what is read."""
    reads, writes = [], []
    if d["src"] == isa.SRC["ACC"]:
        half = rng.randint(0, 1)
        base, strides, interval = affine(rng, sizes, ACC_AREA)
        base += half * config.acc_words
        reads.append((f"ACC{half}", *interval))
    else:
        base, strides, interval = affine(rng, sizes, SPM_AREA, d["src"] == isa.SRC["INT16"])
        reads.append(("SPM", *words(interval)))
    d |= {"a": base, **dict(zip(("as0", "as1", "as2"), strides))}
    base, strides, interval = affine(rng, sizes, SPM_AREA)
    d |= {"r": base, **dict(zip(("rs0", "rs1", "rs2"), strides))}
    reads.append(("SPM", *words(interval)))
    wide = d["out"] == isa.OUT["INT16"]
    if d["dst"]:
        mem, size, first = ("SPM", SPM_AREA, SPM_AREA) if d["dst"] == isa.DST["SPM"] else ("WBUF", 2 * WBUF_AREA, 0)
        base, strides, interval = affine(rng, sizes, size, wide)
        d |= {"d": base + first, **dict(zip(("ds0", "ds1", "ds2"), strides))}
        writes.append((mem, *[w + first // 2 for w in words(interval)]))
    return reads, writes


def norm(config, rng):
    if rng.random() < 0.4:
        rows = rng.randint(1, 6)
        d = {"rows": 1, "ngroups": rows, "gsize": 1, "count": rng.randint(1, 500), "p": rng.randint(SAMPLE_RECORDS, 255),
             "row": rng.randint(0, ROWS - rows)}
        return Item("NORM", d, 0, [("ROW", 0, ROWS), ("PARAM", d["p"], d["p"] + 1)], [("ROW", 0, ROWS)])
    groups, size = rng.randint(1, 4), rng.choice([1, 2, 4, 8, 12])
    records = -(-groups * size // config.n_lanes)
    d = {"ngroups": groups, "gsize": size, "count": rng.randint(1, 5000), "stat_rec": rng.randint(0, STATS - records),
         "p": rng.randint(SAMPLE_RECORDS, config.param_words - records),
         "pd": rng.randint(CONSTANT_RECORDS, config.param_words - records)}
    return Item("NORM", d, 0, [("STAT", 0, STATS), ("PARAM", d["p"], d["p"] + records)], [("PARAM", d["pd"], d["pd"] + records)])


def sample(config, rng):
    """Six arrays of n words in different parts of the area."""
    n = rng.randint(1, 24)
    places = rng.sample(range(0, SPM_AREA - n, 32), 6)
    d = {"n": n, "nch": rng.randint(1, config.n_lanes), "p": rng.randrange(SAMPLE_RECORDS), "z": rng.randrange(1 << 16),
         **dict(zip(("x", "e", "u", "m", "d", "md"), places))}
    interval = lambda k: ("SPM", d[k], d[k] + n)
    return Item("SAMPLE", d, 0, [*map(interval, ("x", "e", "u", "m")), ("PARAM", d["p"], d["p"] + 1)],
                [interval("d"), interval("md")])
