"""Golden model of the Gaussian source: Threefry-2x32-20 bits through a piecewise linear inverse CDF.

Ref: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11 (Threefry, 20 rounds).
"""

import numpy as np

from litediffusion.cores.tables import GAUSS_OCTAVES, GAUSS_STEPS, gauss_table

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA
ROUNDS = 20


def threefry2x32(key0, key1, ctr0, ctr1):
    """First output word of Threefry-2x32-20. Arguments: uint32 values or arrays; returns a uint32 array."""
    k = [np.uint32(key0), np.uint32(key1)]
    k.append(np.uint32(PARITY) ^ k[0] ^ k[1])
    with np.errstate(over="ignore"):
        x0 = np.asarray(ctr0, dtype=np.uint32) + k[0]
        x1 = np.asarray(ctr1, dtype=np.uint32) + k[1]
        for i in range(ROUNDS):
            r = ROTATIONS[i % 8]
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(r)) | (x1 >> np.uint32(32 - r))) ^ x0
            if i % 4 == 3:
                s = i // 4 + 1
                x0 = x0 + k[s % 3]
                x1 = x1 + k[(s + 1) % 3] + np.uint32(s)
    return x0


def gauss_from_bits(u):
    """uint32 bits -> N(0, 1) in Q3.12 (int64). Bit 31 is the sign, the rest the tail probability."""
    value, slope = gauss_table()
    f = np.asarray(u, dtype=np.int64) & 0x7FFFFFFF
    octave = np.zeros_like(f)
    for bit in range(30, 30 - GAUSS_OCTAVES, -1):        # leading zeros of 31 bits, capped
        octave = np.where((f >> bit == 0) & (octave == 30 - bit), octave + 1, octave)
    octave = np.minimum(octave, GAUSS_OCTAVES - 1)
    mantissa = (f << octave) & 0x3FFFFFFF                # the 30 bits below the leading one
    i = octave * GAUSS_STEPS + (mantissa >> 26)
    z = value[i] + ((slope[i] * ((mantissa >> 18) & 255) + 128) >> 8)
    return np.where(np.asarray(u, dtype=np.int64) >> 31, -z, z)


def gaussian(seed0, seed1, element, step):
    """Noise of one element at one step: Q3.12 int64. The counter is (element, step), the key the seed."""
    return gauss_from_bits(threefry2x32(seed0, seed1, element, step))
