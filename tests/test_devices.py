"""End to end on the model and rtl devices: one seed, one picture, byte for byte; batches equal single runs."""

from dataclasses import replace

import numpy as np
import pytest

from litediffusion.cores.config import PRESETS
from litediffusion.sw.cli.bench import LAYERS, run_layer
from litediffusion.sw.container import ContainerError, Program
from litediffusion.sw.devices.errors import DeviceError
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.devices.open import open_device
from litediffusion.sw.devices.rtl import RtlDevice
from litediffusion.sw.pipeline import compile_model, generate, upload


def pictures(device, program, labels, seeds, **kwargs):
    upload(device, program)
    return generate(device, program, labels, seeds, **kwargs)


def same(a, b):
    return a.latents.tobytes() == b.latents.tobytes() and a.pixels.tobytes() == b.pixels.tobytes()


@pytest.fixture(scope="module")
def golden(program):
    return pictures(ModelDevice(), program, [3, 1, 4, 9], [10, 11, 12, 13])


def test_batch_equals_single_runs(program, golden):
    for i, (label, seed) in enumerate(zip([3, 1, 4, 9], [10, 11, 12, 13])):
        one = pictures(ModelDevice(), program, [label], [seed])
        assert one.latents[0].tobytes() == golden.latents[i].tobytes() and one.pixels[0].tobytes() == golden.pixels[i].tobytes()


def test_seeds_and_labels_matter(program, golden):
    assert not same(pictures(ModelDevice(), program, [3], [11]), pictures(ModelDevice(), program, [3], [10]))
    assert not same(pictures(ModelDevice(), program, [5], [10]), pictures(ModelDevice(), program, [3], [10]))
    assert not same(pictures(ModelDevice(), program, [3], [10 + (1 << 32)]), pictures(ModelDevice(), program, [3], [10]))


def test_rtl_equals_model(program, golden):
    assert same(pictures(RtlDevice(), program, [3, 1, 4, 9], [10, 11, 12, 13]), golden)


def test_rtl_with_a_stalling_memory_equals_model(program):
    want = pictures(ModelDevice(), program, [7], [99], guidance=1.0)
    assert same(pictures(RtlDevice(stall=0.2, seed=5), program, [7], [99], guidance=1.0), want)


@pytest.mark.parametrize("options", [{"bits": 4}, {"sampler": "ddpm"}, {"eta": 0.7}])
def test_rtl_equals_model_with_other_options(digits, ranges, options):
    program = compile_model(digits, steps=4, ranges=ranges, **options)
    assert same(pictures(RtlDevice(), program, [2], [5]), pictures(ModelDevice(), program, [2], [5]))


def test_rtl_with_multipliers_of_logic_cells_equals_model(program):
    cells, blocks = RtlDevice(replace(PRESETS["ecpix5"], name="cells", lut_multipliers=True)), RtlDevice()
    want = pictures(ModelDevice(), program, [4], [21])
    assert same(pictures(cells, program, [4], [21]), want) and same(pictures(blocks, program, [4], [21]), want)
    assert cells.get("cycles") == blocks.get("cycles")


def test_rtl_keeps_to_its_window(program):
    device = RtlDevice()
    rng = np.random.default_rng(0)
    guard = rng.integers(0, 256, device.dram.size, dtype=np.uint8)
    device.dram[:] = guard
    generate_one = pictures(device, program, [6], [1])
    end = program.meta["image_bytes"]
    first = device.dram.size - device.memory.size >> 1
    assert generate_one.pixels.any()
    assert (device.dram[:first] == guard[:first]).all() and (device.dram[first + end:] == guard[first + end:]).all()


def test_wrong_configuration_is_refused(program):
    other = Program(program.image, program.meta, program.config_hash ^ 1)
    for device in (ModelDevice(), RtlDevice()):
        with pytest.raises(ContainerError, match="recompile"):
            upload(device, other)


def test_unknown_device():
    with pytest.raises(DeviceError, match="use model, rtl or litex"):
        open_device("gpu")


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_layers_reach_their_share_of_peak(layer, config):
    """DRAM to DRAM, bit-exact (run_layer compares); the SoC's own figures are those of `make bench`."""
    assert run_layer(RtlDevice(), layer, config)["utilisation"] >= layer.target
