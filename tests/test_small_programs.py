"""The programs around the network on a scratchpad that holds a picture only in pieces: same latents, trajectory and pixels."""

from dataclasses import replace

import numpy as np
import pytest

from litediffusion.cores.config import PRESETS, EngineConfig
from litediffusion.cores.machine import Machine
from litediffusion.sw.compiler.assemble import assemble, resources_of
from litediffusion.sw.compiler.image import Image
from litediffusion.sw.compiler.sampler import finish_items, init_items, pieces, update_items
from litediffusion.sw.schedule import sampler_table

WORDS, CHANNELS, STEPS = 100, 3, 2


def run(config):
    """The window after init, an update with noise of each step, and finish."""
    image = Image(STEPS)
    latent = image.buffer(16 * WORDS)
    buffers = {"latent": latent, "result": latent, "eps": image.buffer(32 * WORDS), "trajectory": image.buffer(16 * WORDS * STEPS),
               "pixels": image.buffer(16 * WORDS), "image_stride": 16 * WORDS * (STEPS + 1)}
    table = sampler_table("ddpm", STEPS)[1]
    parts = [init_items(config, buffers, WORDS, CHANNELS, table), update_items(config, buffers, WORDS, CHANNELS, table),
             finish_items(config, buffers, WORDS)]
    resources = [r for part in parts for r in resources_of(part)]
    image.place(resources)
    image.place_steps(resources)
    init, update, finish = (assemble(part, image, {"PARAM": (0, config.param_words)}, ["layer"]) for part in parts)
    memory = image.finish()
    eps = np.random.default_rng(1).integers(-4000, 4000, 16 * WORDS, dtype=np.int16)
    memory[buffers["eps"]:buffers["eps"] + 32 * WORDS] = eps.view(np.uint8)
    machine = Machine(config, memory)
    for step, program in enumerate([init, update, update, finish]):
        machine.set_registers(min(max(0, step - 1), STEPS - 1), 0, 0, 0, 4096, 0x1234567_89ABCDEF)
        machine.run(*program)
    latent, trajectory, pixels = (memory[buffers[name]:buffers[name] + 16 * WORDS * count].copy()
                                  for name, count in (("latent", 1), ("trajectory", STEPS), ("pixels", 1)))
    return latent, trajectory, pixels.reshape(-1, 16)[:, :8]        # a word's other half holds what was there


def test_pieces_cover_the_picture():
    assert pieces(EngineConfig(spm_words=128), WORDS) == [(0, 32), (32, 32), (64, 32), (96, 4)]
    assert pieces(EngineConfig(), WORDS) == [(0, WORDS)]


@pytest.mark.parametrize("spm_words", [128, 256])
def test_a_picture_in_pieces(spm_words):
    whole, cut = run(EngineConfig()), run(replace(EngineConfig(), spm_words=spm_words))
    assert all(np.array_equal(a, b) for a, b in zip(whole, cut))
    assert [len(np.unique(a)) > limit for a, limit in zip(whole, (5, 50, 2))] == [True] * 3


def test_presets_draw_the_same_picture():
    """The small preset moves more through DRAM; integers are the same."""
    from litediffusion.sw.devices.model import ModelDevice
    from litediffusion.sw.pipeline import compile_model, generate, upload
    from litediffusion.sw.sources import load_model

    pictures = []
    for config in PRESETS.values():
        program = compile_model(load_model("digits"), steps=2, images=2, config=config)
        device = ModelDevice(config)
        upload(device, program)
        pictures.append(generate(device, program, [3], [5]).pixels)
    assert all(np.array_equal(pictures[0], p) for p in pictures[1:]) and pictures[0].std() > 10
