"""Golden model of POST: requantise, second operand, activation, output quantisation, statistics, softmax rows.

For every lane:   v1  = rshift(A * m, shift + e) + o
    no operand:   v   = sat16(v1)
    add:          v   = sat16(v1 + rshift(R * rmult, rshift))
    multiply:     v   = sat16(rshift(sat16(v1) * R, rshift))
                  w   = activation(v)                        (tables.py; RELU is max(v, 0))
                  out = sat(rshift(w * omult, oshift))       int8, uint8, int16 or skew byte
A is the accumulator, int8 or int16 source, minus the row maximum when ``submax``; (m, e, o) come from the
parameter record (e = 0) or the row record.
"""

import numpy as np

from litediffusion.cores.fixed import rshift, saturate
from litediffusion.cores.isa import ACT, OUT, ROP, SKEW
from litediffusion.cores.tables import activation

_ACT_NAMES = {v: k for k, v in ACT.items()}


def rshift_by(x, n):
    """rshift with an array of shifts >= 0, broadcast; |x| < 2^61."""
    n = np.minimum(np.asarray(n, dtype=np.int64), 62)       # int64 cannot shift further; the result is 0 from here on
    return np.where(n == 0, x, (x + (np.int64(1) << np.maximum(n - 1, 0))) >> n)


def post_value(a, m, e, o, s, rop, r, act):
    """Requantised, combined and activated value w (int64). ``s``: scalars of the parameter record (dict of arrays)."""
    v = rshift_by(a * m, s["shift"] + e) + o
    if rop == ROP["ADD"]:
        v = v + rshift_by(r * s["rmult"], s["rshift"])
    elif rop == ROP["MUL"]:
        v = rshift_by(saturate(v, 16) * r, s["rshift"])
    v = saturate(v, 16)
    name = _ACT_NAMES.get(act)
    if name == "NONE":
        return v
    return np.maximum(v, 0) if name == "RELU" else activation(name, v)


def post_output(w, s, out):
    """w -> out integers in the range of the output type."""
    q = rshift_by(w * s["omult"], s["oshift"])
    if out == OUT["UINT8"]:
        return np.clip(q, 0, 255)
    if out == OUT["SKEW8"]:
        return np.clip(q, *SKEW)
    return saturate(q, 16 if out == OUT["INT16"] else 8)


def row_reciprocal(total):
    """(m, e) with 1/total ~ m * 2^-(e + 14): e = bit length of total, m = min(32767, 2^(e+14) // total). total 0: (32767, 0)."""
    total = np.asarray(total, dtype=np.int64)
    e = np.zeros_like(total)
    for bit in range(31):
        e = np.where(total >> bit > 0, bit + 1, e)
    m = np.minimum((np.int64(1) << (e + 14)) // np.maximum(total, 1), 32767)
    return np.where(total == 0, 32767, m), np.where(total == 0, 0, e)
