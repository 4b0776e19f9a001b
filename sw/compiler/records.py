"""Real numbers -> parameter records (multiplier, offset, shifts) and integer weights."""

import numpy as np

from litediffusion.cores import isa
from litediffusion.cores.tables import ACT_ONE
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.hollow import hollow, is_hollow

RECORD = np.dtype([("mult", "<i2", 8), ("offset", "<i4", 8), ("shift", "u1"), ("rshift", "u1"), ("oshift", "u1"),
                   ("gshift", "u1"), ("rmult", "<i2"), ("omult", "<i2"), ("eps_m", "<u4"), ("eps_s", "u1"), ("pad", "u1", 3)])
MAX_SHIFT = 47
PLAIN_FRACTION = 7       # bits below the output's unit in v when there is no activation table
# The engine has one table for both forms of GELU: they differ by less than 0.0005, the table's segments by up to 0.002 from either.
TABLES = {"GELU_TANH": "GELU"}


def activation_code(function):
    """POST's ``act`` of a function's name, or of None."""
    return isa.ACT[TABLES.get(function, function)] if function else 0


def fixed(real, what):
    """real [..., lanes] -> (int16 [..., lanes], shift [...]): real ~ int * 2^-shift, one shift for the last axis."""
    top = np.abs(real).max(axis=-1)
    if not np.isfinite(top).all():
        raise CompileError(f"{what}: a scale is NaN or infinite; check the weights and the calibration")
    shift = np.clip(14 - np.floor(np.log2(np.maximum(top, 1e-30))), 0, MAX_SHIFT).astype(np.int64)
    value = np.round(real * 2.0 ** shift[..., None])
    if np.abs(value).max(initial=0) > 32768:
        raise CompileError(f"{what}: scale {top.max():.3g} is above the limit 32767; the tensor's range is broken")
    return np.clip(value, -32768, 32767).astype(np.int64), shift


def fixed1(real, what):
    """``fixed`` for single values [...]."""
    value, shift = fixed(np.asarray(real, dtype=float)[..., None], what)
    return value[..., 0], shift


def lanes(values, groups):
    """[..., C] -> [..., groups, 8], padded with zeros."""
    values = np.asarray(values, dtype=float)
    pad = [(0, 0)] * (values.ndim - 1) + [(0, groups * 8 - values.shape[-1])]
    return np.pad(values, pad).reshape(values.shape[:-1] + (groups, 8))


def offset32(real, what):
    value = np.round(real)
    if np.abs(value).max(initial=0) >= 2 ** 31:
        raise CompileError(f"{what}: offset {np.abs(value).max():.3g} does not fit 32 bits; the bias or scale is broken")
    return value.astype(np.int64)


def output_scalars(record, function, s_out):
    """omult, oshift: v -> int8. Without a function v has PLAIN_FRACTION bits below s_out; with one it is Q4.11."""
    if function:
        record["omult"], record["oshift"] = (x[:, None] for x in fixed1(1.0 / (ACT_ONE * s_out), "output"))
    else:
        record["omult"], record["oshift"] = 1, PLAIN_FRACTION


def v_unit(function, s_out):
    """v counts of one real unit [steps]: Q4.11 for functions, else 2^PLAIN_FRACTION of the output's unit."""
    return np.full_like(s_out, ACT_ONE) if function else 2.0 ** PLAIN_FRACTION / s_out


def rounding_record(fine):
    """POST's record for out = source without its ``fine`` bits below the unit, rounded."""
    record = np.zeros((1, 1), RECORD)
    record["mult"], record["omult"], record["oshift"] = 1, 1, fine
    return record


STATE_UNIT = 1.0 / 4096      # real value of one count of a latent (Q3.12)


def latent_records(s_out, what):
    """Records [steps, 1] that turn latents into int8 of scale ``s_out`` [steps]."""
    record = np.zeros((len(s_out), 1), RECORD)
    m, shift = fixed1(STATE_UNIT * v_unit(None, s_out), what)
    record["mult"], record["shift"] = m[:, None, None], shift[:, None]
    output_scalars(record, None, s_out)
    return record


def times_records(scale, bias, s_x, s_factor, s_r, s_out, what):
    """Records [steps, groups] of a conv that multiplies: v = (acc * scale * s_x + bias) * r * s_r.

    s_factor [steps]: scale at which the conv's own result fits int8; it goes into the product with PLAIN_FRACTION bits more.
    """
    groups, unit = -(-len(scale) // 8), 2.0 ** PLAIN_FRACTION / s_factor
    record = np.zeros((len(s_x), groups), RECORD)
    record["mult"], record["shift"] = fixed(lanes((s_x * unit)[:, None] * scale, groups), what)
    if bias is not None:
        record["offset"] = offset32(lanes(unit[:, None] * bias, groups), what)
    record["rshift"] = PLAIN_FRACTION
    record["omult"], record["oshift"] = (x[:, None] for x in fixed1(s_factor * s_r / s_out, what))
    return record


def between_records(unit, s_r, s_out, what):
    """Records [steps, 1] that turn int16 values of ``unit`` [steps] into int8 of s_out, an operand of scale s_r added."""
    record = np.zeros((len(s_out), 1), RECORD)
    m, shift = fixed1(unit * v_unit(None, s_out), what)
    record["mult"], record["shift"] = m[:, None, None], shift[:, None]
    record["rmult"], record["rshift"] = (x[:, None] for x in fixed1(s_r * v_unit(None, s_out), what))
    output_scalars(record, None, s_out)
    return record


def gated_records(scale, bias, s_x, s_factor, s_gate, s_r, s_out, what):
    """Two passes' records [steps, groups], [steps, 1] of out = (acc * scale * s_x + bias) * gate + r, with int16 between them.

    s_factor [steps]: scale at which the conv's own result fits int8; a count between the passes is s_factor * s_gate.
    """
    first = times_records(scale, bias, s_x, s_factor, s_gate, s_out, what)
    first["omult"], first["oshift"] = 1, 0
    return first, between_records(s_factor * s_gate, s_r, s_out, what)


def conv_records(scale, bias, s_x, s_out, s_r, function, what):
    """Records [steps, groups] of a conv: v = acc * scale * s_x + bias (+ r * s_r), then the function.

    scale [M] weight scales, bias [M], [steps, M] or None, s_x, s_out, s_r (or None) [steps].
    """
    groups = -(-len(scale) // 8)
    unit = v_unit(function, s_out)
    record = np.zeros((len(s_x), groups), RECORD)
    record["mult"], record["shift"] = fixed(lanes((s_x * unit)[:, None] * scale, groups), what)
    if bias is not None:
        record["offset"] = offset32(lanes(unit[:, None] * bias, groups), what)
    if s_r is not None:
        record["rmult"], record["rshift"] = (x[:, None] for x in fixed1(s_r * unit, what))
    output_scalars(record, function, s_out)
    return record


NORM_SHIFT = 6           # POST's shift after a norm's multiplier: sigma down to 4 * gamma (in units of q) does not saturate
LAYER_NORM_FRACTION = 14 # of the 1 that stands for gamma, which the next layers' weights have taken up


def _norm_eps(record, eps, count, s_x):
    """eps of a norm over ``count`` elements of scale s_x [steps], as NORM takes it."""
    e = eps * float(count) ** 2 / s_x ** 2
    eps_s = np.clip(np.ceil(np.log2(np.maximum(e, 1.0))) - 31, 0, 40)
    record["eps_m"], record["eps_s"] = np.round(e / 2.0 ** eps_s)[:, None], eps_s[:, None]


def layer_norm_records(eps, channels, s_x, s_out, fine=0):
    """Records [steps, 1] of (q - mean) / sigma over the channels of a pixel, in the scale s_out [steps]; v is Q4.11.

    s_x [steps]: scale of q; fine: bits of q below a byte's unit.
    """
    record = np.zeros((len(s_x), 1), RECORD)
    record["mult"] = 1 << LAYER_NORM_FRACTION
    record["shift"], record["gshift"] = NORM_SHIFT + fine, LAYER_NORM_FRACTION + 9 - NORM_SHIFT - fine
    _norm_eps(record, eps, channels, s_x)
    output_scalars(record, True, s_out)
    return record


def modulated_norm_records(eps, channels, s_x, s_m, s_v, s_out, what, fine=0):
    """Two passes' records [steps, 1] of m * (q - mean) / sigma + v with vectors m and v of scales s_m, s_v, and int16 between them."""
    first = layer_norm_records(eps, channels, s_x, s_out, fine)
    first["rshift"], first["omult"], first["oshift"] = PLAIN_FRACTION, 1, 0
    return first, between_records(s_m * 2.0 ** PLAIN_FRACTION / ACT_ONE, s_v, s_out, what)


def norm_records(node, first, channels, s_x, s_out, pixels, what, fine=0):
    """Records [steps, groups] that NORM turns into the multiplier and offset of a GroupNorm part.

    v is Q4.11: gamma * (q - mean) / sigma * 2^11. ``channels`` from ``first`` on, of one source with scale s_x, whose
    values have ``fine`` bits below a byte's unit.
    """
    gamma, beta = (node.attrs[k][..., first:first + channels] for k in ("gamma", "beta"))      # [C] or [steps, C]
    groups = -(-channels // 8)
    gsize = node.shape[0] // node.attrs["groups"]
    fraction = int(np.clip(14 - np.ceil(np.log2(max(np.abs(gamma).max(), 1e-6))), fine, 20))
    record = np.zeros((len(s_x), groups), RECORD)
    record["mult"] = np.clip(np.round(lanes(gamma * 2.0 ** fraction, groups)), -32768, 32767)
    record["offset"] = offset32(lanes(beta * ACT_ONE, groups), what)
    record["shift"], record["gshift"] = NORM_SHIFT + fine, fraction + 9 - NORM_SHIFT - fine
    _norm_eps(record, node.attrs["eps"], gsize * pixels, s_x)
    output_scalars(record, True, s_out)
    return record


def quantise_weights(weight, bits):
    """(int8 array, scale [M]): symmetric, one scale an output channel; at 4 bits the clip with the least squared error."""
    if is_hollow(weight):
        return hollow(weight.shape, np.int8), np.ones(len(weight))
    weight = np.asarray(weight, float)
    top = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1), 1e-12)
    limit = 2 ** (bits - 1) - 1
    fractions = [1.0] if bits == 8 else np.arange(1.0, 0.45, -0.05)
    best, scale = np.full(len(weight), np.inf), top / limit
    flat = weight.reshape(len(weight), -1)
    for f in fractions:
        s = (top * f / limit)[:, None]
        error = ((np.clip(np.round(flat / s), -limit, limit) * s - flat) ** 2).sum(1)
        scale, best = np.where(error < best, s[:, 0], scale), np.minimum(error, best)
    q = np.clip(np.round(flat / scale[:, None]), -limit, limit)
    return q.astype(np.int8).reshape(weight.shape), scale


def weight_tiles(q, first_group, groups, blocks, w4):
    """Tiles of output groups as bytes, in the order group, channel block, ky, kx, lane, input channel.

    q int8 [M, C, kh, kw]; ``blocks`` is a range of 16-channel blocks; w4 packs lanes j and 8 + j in one byte.
    """
    m, c, kh, kw = q.shape
    lanes_out = 16 if w4 else 8
    lo, hi = first_group * lanes_out, (first_group + groups) * lanes_out
    if is_hollow(q):
        return hollow(groups * 8 * len(blocks) * 16 * kh * kw, np.uint8)
    padded = np.zeros((max(hi, m), -(-c // 16) * 16, kh, kw), np.int8)
    padded[:m, :c] = q
    part = padded[lo:hi, blocks.start * 16:blocks.stop * 16].reshape(groups, lanes_out, len(blocks), 16, kh, kw)
    tiles = part.transpose(0, 2, 4, 5, 1, 3)                           # g, kb, ky, kx, lane, channel
    if w4:
        tiles = (tiles[..., :8, :] & 15) | (tiles[..., 8:, :] << 4)
    return np.ascontiguousarray(tiles).view(np.uint8).reshape(-1)
