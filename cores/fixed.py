"""Fixed-point primitives shared by every golden model (numpy only). The RTL twins are in ``arith.py``."""

import numpy as np


def rshift(x, n):
    """Round-half-up right shift: floor(x / 2**n + 1/2). ``x`` int64 array or Python int, ``n`` >= 0."""
    return x if n == 0 else (x + (1 << (n - 1))) >> n


def saturate(x, bits):
    """Clamp to the signed range of ``bits`` bits."""
    hi = (1 << (bits - 1)) - 1
    return np.clip(x, -hi - 1, hi) if isinstance(x, np.ndarray) else max(-hi - 1, min(hi, x))


def wrap32(x):
    """Two's complement wrap of an int64 array to 32 bits, as the accumulators do."""
    return ((x + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
