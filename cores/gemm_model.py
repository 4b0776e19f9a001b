"""Golden model of GEMM: implicit-im2col matrix products on int8 activations and int8 or int4 weights."""

from functools import lru_cache

import numpy as np

from litediffusion.cores.fixed import wrap32
from litediffusion.cores.isa import SKEW


@lru_cache(4096)
def _activation_index(key):
    """(index[T, P], inside[T, P]) of the activation words; T tiles in the order kb, ky, kx; P = noy * nox."""
    d = dict(key)
    kb, ky, kx, oy, ox = np.meshgrid(*[np.arange(d[n]) for n in ("nkb", "nky", "nkx", "noy", "nox")], indexing="ij")
    step = 2 if d["stride2"] else 1
    iy, ix = oy * step + ky + d["y0"], ox * step + kx + d["x0"]
    inside = (iy >= 0) & (iy < d["h"]) & (ix >= 0) & (ix < d["w"])
    index = d["x"] + kb * d["xk"] + (iy >> d["up"]) * d["xw"] + (ix >> d["up"])
    shape = (d["nkb"] * d["nky"] * d["nkx"], d["noy"] * d["nox"])
    return np.where(inside, index & 0xFFFF, -1).reshape(shape), inside.reshape(shape)


_KEYS = ("nkb", "nky", "nkx", "noy", "nox", "x", "xk", "xw", "h", "w", "stride2", "up", "y0", "x0")


def gemm_activation_index(d):
    """See _activation_index; ``d`` are the fields of a GEMM descriptor. Outside the image the index is -1."""
    return _activation_index(tuple((k, d[k]) for k in _KEYS))


def gemm_tile_index(d, n_lanes):
    """WBUF words [ng, T, n_lanes] that hold the weight tiles."""
    tiles = d["nkb"] * d["nky"] * d["nkx"]
    g, t, j = np.meshgrid(np.arange(d["ng"]), np.arange(tiles), np.arange(n_lanes), indexing="ij")
    return (d["wt"] + g * d["wgs"] + t * d["wts"] + j) & 0xFFFF


def unpack_w4(tiles):
    """int8 words [..., n_lanes, k] of two nibbles -> int8 [..., 2*n_lanes, k]: low nibbles first."""
    low = (tiles << 4).astype(np.int8) >> 4
    return np.concatenate([low, tiles >> 4], axis=-2)


def skewed(x):
    """Values int16 of skew bytes (isa.SKEW)."""
    byte = x.view(np.uint8).astype(np.int16)
    return np.where(byte > SKEW[1], byte - 256, byte)


def gemm(x, weights):
    """Exact integer product. x int8, or int16 values of skew bytes, [B, T, P, k], weights int8 [B, ng, T, n, k] -> int64 [B, ng, P, n].

    Computed in floating point with partial sums below the mantissa, hence exact.
    """
    b, t, p, k = x.shape
    ng, n = weights.shape[1], weights.shape[3]
    exact32 = t * k * 128 * max(-SKEW[0], SKEW[1]) < 1 << 24
    dtype = np.float32 if exact32 else np.float64
    left = x.transpose(0, 2, 1, 3).reshape(b, p, t * k).astype(dtype)
    right = weights.transpose(0, 2, 4, 1, 3).reshape(weights.shape[0], t * k, ng * n).astype(dtype)
    out = np.matmul(left, right).astype(np.int64)
    return out.reshape(b, p, ng, n).transpose(0, 2, 1, 3)


def accumulate(acc, d, product, acc_words):
    """Write or add a product [B, ng, P, n or 2n] into acc [B, 2*acc_words, n] as the descriptor says."""
    b, ng, p, lanes = product.shape
    n = acc.shape[-1]
    entry = (d["acc"] + np.arange(ng)[:, None] * d["ags"] + np.arange(p)[None, :]) & 0xFFF
    for half in range(lanes // n):
        at = entry + half * acc_words if lanes > n else entry
        part = product[..., half * n:(half + 1) * n]
        acc[:, at] = wrap32(acc[:, at] + part) if d["accumulate"] else wrap32(part)
