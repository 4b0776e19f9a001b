"""Static rules of a descriptor: what the dispatcher refuses with BAD_FIELD before anything acts."""

from litediffusion.cores import isa

# Loop counts that must not be zero.
NONZERO = {
    "LOAD": ("n0", "n1", "n2"), "STORE": ("n0", "n1", "n2"),
    "GEMM": ("ng", "nkb", "nky", "nkx", "noy", "nox"),
    "POST": ("n0", "n1", "n2"), "NORM": ("ngroups", "count"), "SAMPLE": ("n", "nch"), "END": (),
}
# Highest legal value of selector fields that have unused codes.
MAXIMUM = {
    "LOAD": {"mem": 2, "idx0": 4, "idx1": 4}, "STORE": {"mem": 0, "idx0": 4, "idx1": 4},
    "GEMM": {}, "POST": {"src": 2, "dst": 2, "out": 3, "rop": 2, "act": 5, "row_loop": 2},
    "NORM": {}, "SAMPLE": {"nch": 8},
    # END waits for everything, so tokens would mean nothing.
    "END": {f"{kind}{i}_n": 0 for kind in ("wait", "add") for i in range(3)},
}
# DRAM byte fields that must be multiples of the word.
ALIGNED = {"LOAD": ("dram", "idx0_stride", "idx1_stride"), "STORE": ("dram", "idx0_stride", "idx1_stride")}

# Flags that are refused unless another field is not zero.
REQUIRES = {"POST": {flag: "row_loop" for flag in ("rowmax", "rowsum", "rowstat")}}


def check_descriptor(config, op, d):
    """Text of the first broken rule, or None. ``d``: decoded fields."""
    for name in NONZERO[op]:
        if d[name] == 0:
            return f"{op}: {name} is 0, must be at least 1"
    for name, limit in MAXIMUM[op].items():
        if d[name] > limit:
            return f"{op}: {name}={d[name]}, the limit is {limit}"
    for name in ALIGNED.get(op, ()):
        if d[name] % config.word_bytes:
            return f"{op}: {name}={d[name]} is no multiple of {config.word_bytes} bytes"
    for flag, name in REQUIRES.get(op, {}).items():
        if d[flag] and not d[name]:
            return f"{op}: {flag} is set, but {name} is 0: say which loops make a row"
    return None
