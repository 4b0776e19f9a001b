"""The instruction set: the only place where descriptors are defined.

A descriptor is 512 bits (64 bytes, little endian, fields packed from bit 0 upwards). All start with the
same header. Addresses of on-chip memories count words of ``k_lanes`` bytes ("word") or of ``n_lanes``
bytes ("hword"; hword address = 2 * word address + half). Strides are two's complement, modulo their width.
"""

from dataclasses import dataclass

DESC_BITS = 512
DESC_BYTES = DESC_BITS // 8
MOST_DESCRIPTORS = (1 << 16) - 1        # of a program: the register program_len
TOKENS = 16
TOKEN_MAX = 15          # most that one wait or add may ask for
TOKEN_LIMIT = 255       # highest value of a counter


@dataclass(frozen=True)
class Field:
    name: str
    bits: int
    doc: str
    signed: bool = False


def _f(name, bits, doc, signed=False):
    return Field(name, bits, doc, signed)


HEADER = [
    _f("opcode", 8, "instruction"),
    _f("layer", 16, "index of the layer in the program's layer table (profiles and error reports)"),
    _f("wait0", 4, "token counter to wait for"), _f("wait0_n", 4, "wait until counter >= n, then take n; 0: no wait"),
    _f("wait1", 4, "second wait"), _f("wait1_n", 4, ""),
    _f("wait2", 4, "third wait"), _f("wait2_n", 4, ""),
    _f("add0", 4, "token counter to add to on completion"), _f("add0_n", 4, "amount; 0: none"),
    _f("add1", 4, "second add"), _f("add1_n", 4, ""),
    _f("add2", 4, "third add"), _f("add2_n", 4, ""),
]

_DRAM = [
    _f("dram", 32, "byte offset in the DRAM window, multiple of the word"),
    _f("idx0", 3, "index register added first (see INDEX)"), _f("idx0_stride", 28, "bytes an index, multiple of the word"),
    _f("idx1", 3, "index register added second"), _f("idx1_stride", 28, "bytes an index, multiple of the word"),
    _f("n0", 12, "outer loop"), _f("n1", 12, "middle loop"), _f("n2", 12, "inner loop: contiguous words on both sides"),
    _f("s0", 24, "DRAM words an outer step"), _f("s1", 24, "DRAM words a middle step"),
    _f("mem", 2, "on-chip memory (see MEM)"), _f("addr", 16, "on-chip word address"),
    _f("d0", 16, "on-chip words an outer step"), _f("d1", 16, "on-chip words a middle step"),
]

OPS = {
    "LOAD": (1, "LOAD", "DRAM -> on-chip memory, zero outside the image when ``pad`` is set", _DRAM + [
        _f("pad", 1, "1: word (i1, i2) is read only if 0 <= i1+y0 < h and 0 <= i2+x0 < w, from "
                     "dram + i0*s0 + (i1+y0)*s1 + (i2+x0); zero otherwise"),
        _f("y0", 12, "first row", True), _f("x0", 12, "first column", True),
        _f("h", 12, "rows of the image"), _f("w", 12, "columns of the image"),
    ]),
    "STORE": (2, "STORE", "on-chip memory -> DRAM", list(_DRAM)),
    "GEMM": (3, "GEMM", "acc[g][oy,ox] += sum over kb, ky, kx of tile(g, t) . x[kb][oy*stride+ky+y0, ox*stride+kx+x0]", [
        _f("ng", 8, "output groups (n_lanes channels; 2*n_lanes at w4)"),
        _f("nkb", 12, "input channel blocks"), _f("nky", 4, "kernel rows"), _f("nkx", 4, "kernel columns"),
        _f("noy", 12, "output rows"), _f("nox", 12, "output columns"),
        _f("x", 16, "SPM word of block 0, pixel (0, 0)"), _f("xk", 16, "words between channel blocks"),
        _f("xw", 12, "words between stored rows"),
        _f("h", 12, "rows of the input as the kernel sees it (after ``up``)"),
        _f("w", 12, "columns of the input as the kernel sees it"),
        _f("stride2", 1, "1: stride 2"), _f("up", 1, "1: nearest x2: stored pixel is (iy>>1, ix>>1)"),
        _f("y0", 12, "row of the first output's tap 0 (minus the padding)", True),
        _f("x0", 12, "column of the first output's tap 0", True),
        _f("wt", 16, "WBUF word of the first tile (n_lanes consecutive words)"),
        _f("wts", 16, "words between tiles; a group's tiles are walked in the order kb, ky, kx"),
        _f("wgs", 16, "words between groups"),
        _f("acc", 12, "first accumulator entry (half = bit log2(acc_words)); a group's entries are consecutive"),
        _f("ags", 12, "entries between groups"),
        _f("accumulate", 1, "0: the first tile overwrites the accumulators"),
        _f("w4", 1, "1: int4 weights, two a byte; output lane j in the low nibble -> half 0, "
                    "lane n_lanes+j in the high nibble -> half 1 of the same entry"),
        _f("xs", 1, "1: activations are skew bytes: those above 223 are negative, -32..223 in all"),
    ]),
    "POST": (4, "POST", "for i0, i1, i2: out = quantise(act(requantise(source) op R)) on n_lanes lanes", [
        _f("n0", 12, "outer loop"), _f("n1", 12, "middle loop"), _f("n2", 12, "inner loop"),
        _f("src", 2, "0 accumulators (entries), 1 SPM int8 (hwords), 2 SPM int16 (hwords, even: a whole word)"),
        _f("a", 18, "source address"), _f("as0", 18, "stride"), _f("as1", 18, "stride"), _f("as2", 18, "stride"),
        _f("dst", 2, "0 none, 1 SPM, 2 WBUF"),
        _f("out", 2, "0 int8, 1 uint8, 2 int16 (d even: a whole word), 3 skew bytes (-32..223)"),
        _f("d", 18, "destination hword"), _f("ds0", 18, "stride"), _f("ds1", 18, "stride"), _f("ds2", 18, "stride"),
        _f("rop", 2, "0 no second operand, 1 add, 2 multiply"),
        _f("r", 18, "SPM hword of the second operand (int8)"),
        _f("rs0", 18, "stride"), _f("rs1", 18, "stride"), _f("rs2", 18, "stride"),
        _f("p", 10, "parameter record"), _f("ps0", 4, "stride"), _f("ps1", 4, "stride"), _f("ps2", 4, "stride"),
        _f("act", 3, "activation (see ACT)"),
        _f("row", 10, "first row record"),
        _f("row_loop", 2, "a row ends when this many inner loops end: 0 no rows, 1 (i2), 2 (i1, i2)"),
        _f("rowmax", 1, "1: only keep the maximum of the source in the row record (no output)"),
        _f("submax", 1, "1: subtract the row maximum from the source first"),
        _f("rowsum", 1, "1: at a row's end write 1/sum(out) to the row record (softmax)"),
        _f("rowstat", 1, "1: at a row's end write sum and sum of squares of out to the row record (LayerNorm)"),
        _f("row_m", 1, "1: multiplier and extra shift from the row record"),
        _f("row_o", 1, "1: offset from the row record"),
        _f("stat", 1, "1: keep sum and sum of squares of out by channel; record stat + i0*n1 + i1 at the end of each inner loop"),
        _f("stat_acc", 1, "1: add to the statistics record instead of overwriting it"),
        _f("stat_rec", 10, "first statistics record"),
    ]),
    "NORM": (5, "POST", "statistics -> multiplier and offset, by channel group (GroupNorm) or by row (LayerNorm)", [
        _f("rows", 1, "0: channel groups, 1: rows"),
        _f("ngroups", 12, "groups, or rows"), _f("gsize", 12, "channels in a group (groups mode)"),
        _f("count", 24, "elements behind each sum (of a whole group, or of a row)"),
        _f("stat_rec", 10, "first statistics record (groups mode)"),
        _f("p", 10, "source parameter record: gamma in mult, beta in offset"),
        _f("pd", 10, "destination parameter record (groups mode)"),
        _f("row", 10, "first row record (rows mode)"),
    ]),
    "SAMPLE": (6, "POST", "one sampler update of n words of int16 latents; d and md may be a source's own words, "
                          "and must not overlap a source otherwise", [
        _f("n", 12, "words (pixels x groups of n_lanes channels)"), _f("nch", 4, "lanes that hold channels, 1..n_lanes"),
        _f("x", 16, "SPM word: state"), _f("e", 16, "SPM word: eps, conditional"), _f("u", 16, "SPM word: eps, unconditional"),
        _f("m", 16, "SPM word: previous prediction"), _f("d", 16, "SPM word: new state"), _f("md", 16, "SPM word: this prediction"),
        _f("p", 10, "parameter record whose offset slots hold the eight coefficients (see SAMPLE_COEFS)"),
        _f("z", 16, "first element counter of the noise"),
    ]),
    "END": (7, "FETCH", "wait until every queue is idle, then the program is done", []),
}

OPCODE = {name: op[0] for name, op in OPS.items()}
QUEUE_OF = {name: op[1] for name, op in OPS.items()}
QUEUES = ["LOAD", "GEMM", "POST", "STORE"]
FIELDS = {name: HEADER + op[3] for name, op in OPS.items()}

MEM = {"SPM": 0, "WBUF": 1, "PARAM": 2}
INDEX = {"none": 0, "STEP": 1, "LABEL": 2, "SLOT": 3, "IMAGE": 4}
SRC = {"ACC": 0, "INT8": 1, "INT16": 2}
DST = {"NONE": 0, "SPM": 1, "WBUF": 2}
OUT = {"INT8": 0, "UINT8": 1, "INT16": 2, "SKEW8": 3}
SKEW = (-32, 223)       # values of a skew byte: the upper three bits are 1 in the negative ones alone
ROP = {"NONE": 0, "ADD": 1, "MUL": 2}
ACT = {"NONE": 0, "RELU": 1, "SILU": 2, "GELU": 3, "TANH": 4, "EXP": 5}

# Parameter record: 64 bytes = 4 words, written by LOAD (its on-chip address counts words: 4 * record + quarter).
PARAM_BYTES = 64
PARAM_LANES = [_f("mult", 16, "multiplier by lane (x8)", True), _f("offset", 32, "offset by lane (x8)", True)]
PARAM_SCALARS = [
    _f("shift", 8, "right shift after the multiplier"), _f("rshift", 8, "right shift of the second operand's product"),
    _f("oshift", 8, "right shift of the output multiplier"), _f("gshift", 8, "NORM: right shift of gamma * rstd"),
    _f("rmult", 16, "multiplier of the second operand", True), _f("omult", 16, "output multiplier", True),
    _f("eps_m", 32, "NORM: eps * count^2 / scale^2 = eps_m << eps_s"), _f("eps_s", 8, "NORM: see eps_m"),
    _f("reserved", 24, "0"),
]
SAMPLE_COEFS = ["c1", "c2", "clip", "a", "b", "c", "d", "sigma"]

# Token counters; the compiler uses one for each ordered pair of queues. The last four are free.
TOKEN_NAMES = [f"{p}2{c}" for p in ("L", "G", "P", "S") for c in ("L", "G", "P", "S") if p != c] + \
              [f"USER{i}" for i in range(4)]

ERRORS = {
    0: ("OK", "no error"),
    1: ("BAD_OPCODE", "the opcode is not an instruction"),
    2: ("BAD_FIELD", "a field of the descriptor is out of range (zero loop, misaligned address, unknown selector)"),
    3: ("DRAM_WINDOW", "a DRAM address is outside the engine's window"),
    4: ("BUFFER_RANGE", "an on-chip address is outside its memory"),
    5: ("WATCHDOG", "no progress within the watchdog's cycles: a token never came, or the DRAM does not answer"),
    6: ("TOKEN_OVERFLOW", "a token counter went over its limit"),
    7: ("PROGRAM_END", "the program ran past its length without END"),
}
ERROR_CODE = {v[0]: k for k, v in ERRORS.items()}


def identity():
    """Every fact that the meaning of a program's bits rests on: fields, selectors, record layout, tokens."""
    fields = {name: [(f.name, f.bits, f.signed) for f in FIELDS[name]] for name in OPS}
    return repr((OPCODE, fields, MEM, INDEX, SRC, DST, OUT, ROP, ACT, PARAM_LANES, PARAM_SCALARS, SAMPLE_COEFS, TOKENS))


def pieces(address, length):
    """[(byte address, descriptors)] of the programs that a long one of ``length`` descriptors is run as, one after the other.

    All but the last have MOST_DESCRIPTORS, the last of them END.
    """
    return [(address + DESC_BYTES * i, min(MOST_DESCRIPTORS, length - i)) for i in range(0, length, MOST_DESCRIPTORS)]


def layout(op):
    """[(field, first bit)] of an instruction. Raises KeyError for an unknown name."""
    out, bit = [], 0
    for f in FIELDS[op]:
        out.append((f, bit))
        bit += f.bits
    if bit > DESC_BITS:
        raise ValueError(f"{op}: {bit} bits of fields, the limit is {DESC_BITS}: make fields narrower")
    return out


def _pack(fields, values, what):
    word, bit = 0, 0
    for f in fields:
        v = int(values.pop(f.name, 0))
        lo, hi = (-(1 << f.bits - 1), (1 << f.bits - 1) - 1) if f.signed else (0, (1 << f.bits) - 1)
        if not lo <= v <= hi:
            raise ValueError(f"{what}: {f.name}={v} is outside {lo}..{hi} ({f.doc})")
        word |= (v & ((1 << f.bits) - 1)) << bit
        bit += f.bits
    if values:
        raise ValueError(f"{what}: unknown fields {sorted(values)}; known: {[f.name for f in fields]}")
    return word


def _unpack(fields, word):
    values = {}
    for f in fields:
        v = word & ((1 << f.bits) - 1)
        word >>= f.bits
        values[f.name] = v - (1 << f.bits) if f.signed and v >> (f.bits - 1) else v
    return values


def encode(op, **fields):
    """64 bytes of a descriptor. Fields left out are 0. Raises ValueError naming the field, value and range."""
    fields.setdefault("opcode", OPCODE[op])
    return _pack(FIELDS[op], fields, op).to_bytes(DESC_BYTES, "little")


def decode(data):
    """(name, fields) of 64 bytes. Raises ValueError on an unknown opcode or non-zero bits past the last field."""
    word = int.from_bytes(data, "little")
    names = {code: name for name, code in OPCODE.items()}
    opcode = word & 0xFF
    if opcode not in names:
        raise ValueError(f"opcode {opcode} is not an instruction; known: {OPCODE}")
    name = names[opcode]
    used = sum(f.bits for f in FIELDS[name])
    if word >> used:
        raise ValueError(f"{name}: bits above {used} are not zero; the descriptor is corrupt")
    return name, _unpack(FIELDS[name], word)


def encode_param(mult=(0,) * 8, offset=(0,) * 8, **scalars):
    """64 bytes of a parameter record: mult int16 x8, offset int32 x8, scalars."""
    lane_m, lane_o = PARAM_LANES
    data = b"".join(_pack([lane_m], {"mult": m}, "param").to_bytes(2, "little") for m in mult)
    data += b"".join(_pack([lane_o], {"offset": o}, "param").to_bytes(4, "little") for o in offset)
    return data + _pack(PARAM_SCALARS, scalars, "param").to_bytes(16, "little")


def decode_scalars(data):
    """The scalars of a 64-byte parameter record."""
    return _unpack(PARAM_SCALARS, int.from_bytes(data[48:64], "little"))
