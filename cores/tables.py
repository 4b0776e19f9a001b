"""Function tables of POST and of the Gaussian source: one definition for the golden models and the ROMs."""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from litediffusion.cores.isa import ACT

FRACTION = 11            # activations: input Q4.11 in 16 bits, -16 <= x < 16
ACT_ONE = 1 << FRACTION
EXP_ONE = 1 << 14        # exp of x <= 0 comes out as Q1.14
Z_FRACTION = 12          # Gaussian values are Q3.12
GAUSS_OCTAVES = 24       # tail probabilities down to 2^-25
GAUSS_STEPS = 16         # linear segments an octave


def _silu(x):
    return x / (1.0 + math.exp(-x))


def _gelu(x):
    return 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0)))


# name -> (function, fixed-point one of the output)
FUNCTIONS = {
    "SILU": (_silu, ACT_ONE),
    "GELU": (_gelu, ACT_ONE),
    "TANH": (math.tanh, ACT_ONE),
    "EXP": (lambda x: math.exp(min(x, 0.0)), EXP_ONE),
}
TABLE_ORDER = [name for name in ACT if name in FUNCTIONS]   # position in the ROM


@lru_cache(None)
def activation_table(name):
    """(value[256], slope[256]) int arrays: f(x) ~ value[i] + slope[i] * frac / 256 on segments of 1/8, i = (x + 16) * 8."""
    f, one = FUNCTIONS[name]
    points = np.array([round(f((i - 128) / 8.0) * one) for i in range(257)], dtype=np.int64)
    points = np.clip(points, -32768, 32767)
    return points[:256], np.diff(points)


def activation(name, v):
    """Table look-up with linear interpolation. ``v`` int64 array in -32768..32767 (Q4.11); see FUNCTIONS for the output."""
    value, slope = activation_table(name)
    i = (v >> 8) + 128
    return value[i] + ((slope[i] * (v & 255) + 128) >> 8)


@lru_cache(None)
def gauss_table():
    """(value, slope) of |z| in Q3.12 over octaves of the two-sided tail probability p, GAUSS_STEPS segments each.

    Entry 16*o + s starts at p = 2^-(o+1) * (1 + s/16), so |z| falls along an octave.
    """
    normal = NormalDist()

    def z(p):
        return round(-normal.inv_cdf(p / 2.0) * (1 << Z_FRACTION)) if p < 1.0 else 0

    starts, slopes = [], []
    for octave in range(GAUSS_OCTAVES):
        base = 2.0 ** -(octave + 1)
        points = [z(base * (1 + s / GAUSS_STEPS)) for s in range(GAUSS_STEPS + 1)]
        starts += points[:-1]
        slopes += [b - a for a, b in zip(points, points[1:])]
    return np.array(starts, dtype=np.int64), np.array(slopes, dtype=np.int64)
