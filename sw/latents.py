"""Latents as the engine has them in DRAM: a word of 8 int16 (Q3.12) a pixel, channels beyond C are zero."""

import numpy as np

from litediffusion.sw.compiler.records import STATE_UNIT

WORD_CHANNELS = 8
LIMITS = -32768, 32767


def pack_latents(x):
    """uint8 [..., 16 * H * W] of float latents [..., C, H, W], rounded and clipped; C is at most 8."""
    *batch, c, h, w = x.shape
    if c > WORD_CHANNELS:
        raise ValueError(f"latents of {c} channels: a word holds {WORD_CHANNELS}")
    words = np.zeros((*batch, h * w, WORD_CHANNELS), np.int16)
    words[..., :c] = np.moveaxis(np.clip(np.round(x / STATE_UNIT), *LIMITS).reshape(*batch, c, h * w), -2, -1)
    return words.view(np.uint8).reshape(*batch, -1)


def unpack_latents(raw, shape):
    """int16 [..., C, H, W] of bytes, uint8 [..., 16 * H * W]; times STATE_UNIT they are the latents."""
    c, h, w = shape
    words = np.ascontiguousarray(raw).view(np.int16).reshape(*raw.shape[:-1], h, w, WORD_CHANNELS)
    return np.moveaxis(words[..., :c], -1, -3)


def float_latents(raw, shape):
    """Float [..., C, H, W] of bytes, as unpack_latents takes them."""
    return unpack_latents(raw, shape) * STATE_UNIT
