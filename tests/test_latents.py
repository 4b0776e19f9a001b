"""Latents as words: the layout, rounding, limits, and the way back."""

import numpy as np
import pytest

from litediffusion.sw.latents import float_latents, pack_latents, unpack_latents


@pytest.mark.parametrize("shape", [(1, 3, 5), (8, 4, 4), (2, 3, 4, 6), (2, 5, 1, 2, 2)])
def test_there_and_back(shape):
    values = np.random.default_rng(0).integers(-32768, 32768, shape)
    raw = pack_latents(values / 4096)
    assert raw.dtype == np.uint8 and raw.shape == (*shape[:-3], 16 * shape[-2] * shape[-1])
    assert (unpack_latents(raw, shape[-3:]) == values).all() and (float_latents(raw, shape[-3:]) == values / 4096).all()


def test_a_word_holds_the_channels_of_a_pixel():
    x = np.zeros((3, 2, 2))
    x[:, 1, 0] = 1.0, -1 / 4096, 9.0
    words = pack_latents(x).view(np.int16).reshape(4, 8)
    assert words[2].tolist() == [4096, -1, 32767, 0, 0, 0, 0, 0] and not words[[0, 1, 3]].any()


@pytest.mark.parametrize("value, count", [(7.9997, 32767), (8.0, 32767), (100.0, 32767), (-8.0, -32768), (-8.1, -32768), (0.4 / 4096, 0), (0.6 / 4096, 1),
                                          (0.5 / 4096, 0), (1.5 / 4096, 2)])
def test_values_are_rounded_and_clipped(value, count):
    assert unpack_latents(pack_latents(np.full((1, 1, 1), value)), (1, 1, 1)).item() == count


def test_too_many_channels_are_refused():
    with pytest.raises(ValueError, match="latents of 9 channels: a word holds 8"):
        pack_latents(np.zeros((9, 2, 2)))
