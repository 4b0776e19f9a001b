"""Large networks: looked at without weights, costed in sections, run in pieces; layers wider than the small memories; host memory."""

from dataclasses import replace
import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from diffusers_cases import Loaded, dit, text_unet, unet
from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.sw.calibrate import unit_ranges
from litediffusion.sw.cli.main import app
from litediffusion.sw.compiler.items import CompileError, TooLong
from litediffusion.sw.compiler.records import quantise_weights
from litediffusion.sw.compiler.tiled_program import TiledProgram
from litediffusion.sw.devices.base import EngineStopped
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.devices.rtl import RtlDevice
from litediffusion.sw.diffusers.folder import FolderError, declared_shapes, open_folder
from litediffusion.sw.diffusers.random_model import NETWORKS, save_config
from litediffusion.sw.estimate import picture_cost, target_of
from litediffusion.sw.graph import macs
from litediffusion.sw.hollow import hollow, is_hollow
from litediffusion.sw import layer_check, outline
from litediffusion.sw.pipeline import compile_model, generate, import_model, upload
from litediffusion.sw.sources import FolderSource, load_model

PLAIN = dict(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
             up_block_types=("AttnUpBlock2D", "UpBlock2D"))
TEXT = dict(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
PATCHES = dict(num_attention_heads=2, attention_head_dim=32, in_channels=4, num_layers=1, sample_size=16, patch_size=2, num_embeds_ada_norm=9)


# --- hollow weights --------------------------------------------------------------------------------------------------


def test_hollow_arrays():
    array = hollow((3000, 4000, 3, 3))
    assert is_hollow(array) and is_hollow(array[5:, :, 0, 0]) and is_hollow(array.reshape(3000, -1)) and array.base.nbytes == 4
    assert not is_hollow(np.zeros((2, 2))) and not is_hollow(np.zeros(1))
    q, scale = quantise_weights(array, 8)
    assert is_hollow(q) and q.dtype == np.int8 and scale.shape == (3000,)


@pytest.mark.parametrize("make, config", [(unet, PLAIN), (text_unet, TEXT), (dit, PATCHES)])
def test_shapes_by_the_config_are_the_models(make, config):
    model = make(config)
    shapes = declared_shapes(dict(model.config, _class_name=type(model).__name__))
    assert shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("make, config", [(text_unet, TEXT), (dit, PATCHES)])
def test_a_folder_without_weights_costs_the_same(make, config, tmp_path):
    run = lambda: json.loads(CliRunner().invoke(app, ["estimate", str(tmp_path), "--steps", "2", "--json"]).stdout)
    make(config).save_pretrained(tmp_path)
    whole = run()
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    assert run() == whole and whole["programs"] == 1
    with pytest.raises(FolderError, match="no diffusion_pytorch_model.safetensors"):
        open_folder(tmp_path)


def test_config_that_diffusers_cannot_build(tmp_path):
    save_config(tmp_path, "sd15")
    data = json.loads((tmp_path / "config.json").read_text()) | {"block_out_channels": [320]}
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(FolderError, match="diffusers makes no UNet2DConditionModel of it"):
        open_folder(tmp_path, look=True)


def test_stable_diffusion_is_imported_without_memory(tmp_path):
    save_config(tmp_path, "sd15")
    graph, _ = import_model(load_model(str(tmp_path), look=True), 2)
    weights = [n.attrs["weight"] for n in graph.nodes.values() if n.op == "conv"]
    assert all(map(is_hollow, weights)) and 830e6 < sum(w.size for w in weights) < 835e6
    assert abs(sum(macs(graph).values()) / 1e9 - 401.7) < 0.1           # diffusers' 401.6, with the text's tokens up to 80
    assert set(NETWORKS) == {"ddpm-cifar10-32", "sd15"}


# --- costs in sections -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config, section, sample", [(PLAIN, 2000, 8), (PLAIN, 300, 1), (dict(PLAIN, sample_size=32), 2000, 1)])
def test_outline_is_near_the_program(config, section, sample, monkeypatch):
    monkeypatch.setattr(outline, "SECTION", section)
    monkeypatch.setattr(outline, "SAMPLE", sample)
    source, target = FolderSource(Loaded(unet(config))), target_of("ecpix5")
    graph, table = import_model(source, 2, "ddim")
    ranges = unit_ranges(graph, 2)
    program = compile_model(source, steps=2, ranges=ranges, tiled=True, config=target.config, imported=(graph, table, None), guidance=1.0)
    whole, rough = picture_cost(program, target), outline.outline(graph, table, target, ranges)
    for name, limit in (("cycles", 0.05), ("dram_bytes", 0.02), ("millijoule", 0.02)):
        assert rough["step"][name] == pytest.approx(whole["step"][name], rel=limit), name
    assert rough["descriptors"] == pytest.approx(whole["descriptors"], rel=0.05)
    work = lambda report: {layer["name"]: layer["macs"] for layer in report["parts"]["eval"]["layers"] if layer["macs"]}
    assert work(rough) == work(whole)


@pytest.mark.parametrize("bits", ["8", "4"])
def test_commands_on_a_network_too_large_for_one_program(bits, monkeypatch):
    run = lambda *args: CliRunner().invoke(app, [*args, "digits", "--steps", "2", "--bits", bits])
    whole = json.loads(run("estimate", "--json").stdout)
    monkeypatch.setattr(isa, "MOST_DESCRIPTORS", 200)
    rough = json.loads(run("estimate", "--json").stdout)
    assert whole["programs"] == 1 < rough["programs"] and rough["descriptors"] > 200
    assert 1 < rough["step"]["cycles"] / whole["step"]["cycles"] < 6            # all tensors in DRAM, instead of on chip
    assert f"{rough['descriptors']:,} descriptors in {rough['programs']} programs" in run("check").stdout.replace("\n", " ")


def test_a_field_that_overflows_is_refused():
    with pytest.raises(CompileError, match="GEMM: nkb=5000 is outside 0..4095"):
        outline.check_fields({("GEMM", "nkb"): (0, 5000)})


def test_too_long_says_where_and_what_to_do(digits, ranges):
    with pytest.raises(TooLong, match=r"301 descriptors by layer [\w.]+, the limit is 300: make the picture smaller.*estimate"):
        compile_model(digits, steps=4, ranges=ranges, most=300)


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_pieces():
    most = isa.MOST_DESCRIPTORS
    assert isa.pieces(64, 5) == [(64, 5)] and isa.pieces(0, most) == [(0, most)]
    assert isa.pieces(0, 2 * most + 1) == [(0, most), (64 * most, most), (128 * most, 1)]


def test_a_program_in_pieces_makes_the_same_picture(digits, ranges, program, monkeypatch):
    device = ModelDevice()
    upload(device, program)
    whole, cost = generate(device, program, [3], [7]), picture_cost(program, target_of("ecpix5"))
    monkeypatch.setattr(isa, "MOST_DESCRIPTORS", 100)
    pieces = compile_model(digits, steps=4, ranges=ranges)
    assert pieces.meta["programs"]["eval"][1] > program.meta["programs"]["eval"][1] > 400
    for device in (ModelDevice(), RtlDevice()):
        upload(device, pieces)
        found = generate(device, pieces, [3], [7])
        assert (found.latents == whole.latents).all() and (found.pixels == whole.pixels).all()
    assert found.counters["cycles"] > 0
    pieces_cost = picture_cost(pieces, target_of("ecpix5"))
    assert cost["programs"] == 1 and pieces_cost["programs"] > 4 and cost["step"]["cycles"] < pieces_cost["step"]["cycles"] < 1.3 * cost["step"]["cycles"]


def test_errors_and_traces_of_pieces(program, monkeypatch):
    monkeypatch.setattr(isa, "MOST_DESCRIPTORS", 3)
    end = isa.encode("END")
    load = isa.encode("LOAD", n0=1, n1=1, n2=1)
    for device in (ModelDevice(), RtlDevice()):
        device.write(0, load + load + end + load + load + end + load + isa.encode("LOAD", n0=1, n1=1))
        with pytest.raises(EngineStopped) as error:
            device.run_program(0, 8)
        assert error.value.index == 7
    with pytest.raises(ValueError, match="a trace of 4 descriptors: only programs of up to 3"):
        device.run_program(0, 4, trace=(4096, 4096))


# --- wide layers -----------------------------------------------------------------------------------------------------

FEW = replace(PRESETS["ecpix5"], stat_words=8, param_words=64, name="few")       # statistics of 64 channels, 16 records a layer


def wide_case(parts, groups, outputs=16, size=8):
    """(wanted, found) of the convolution of a wide norm."""
    from test_tiled import SCALE, float_norm, get, noise, norm_of, put

    rng, program = np.random.default_rng(sum(parts)), TiledProgram(FEW)
    norm = norm_of(rng, sum(parts), groups)
    sources = [program.tensor(f"x{i}", (c, size, size), SCALE) for i, c in enumerate(parts)]
    values = [noise(rng, s.shape) for s in sources]
    assert program.is_wide(parts)
    normed = program.normalise_wide(sources, (norm, SCALE), "norm")
    weight = rng.standard_normal((outputs, sum(parts), 1, 1)) / np.sqrt(sum(parts))
    out = program.conv("y", normed, {"weight": weight}, SCALE)
    code, image = program.finish(), program.image.finish()
    for source, value in zip(sources, values):
        put(image, source, value)
    device = ModelDevice(FEW, len(image))
    device.write(0, image.tobytes())
    device.run_program(*code)
    x = float_norm(np.concatenate(values) * SCALE, norm)
    want = np.einsum("mc,chw->mhw", weight[:, :, 0, 0], np.clip(x, -128 * SCALE, 127 * SCALE))
    return want, get(np.frombuffer(device.read(0, len(image)), np.uint8), out) * SCALE


@pytest.mark.parametrize("parts, groups, outputs", [
    ([128], 8, 16), ([80], 5, 16), ([96, 32], 8, 16), ([96, 64], 20, 16),
    ([64, 32], 8, 16),                                  # groups of 12 channels: one crosses the border between the parts
    ([128], 8, 272)])                                   # 34 records of the convolution, in parts
def test_wide_norms_are_near_float(parts, groups, outputs):
    from test_tiled import sqnr_db

    assert sqnr_db(*wide_case(parts, groups, outputs)) > 32.0


def test_groups_too_wide_are_refused():
    program = TiledProgram(FEW)
    x = program.tensor("x", (160, 4, 4), 1 / 32)
    with pytest.raises(CompileError, match="pieces of 80 channels.*exceed 64.*more stat_words"):
        program.normalise_wide([x], ({"gamma": np.ones(160), "beta": np.zeros(160), "groups": 2, "eps": 1e-6}, 1 / 32), "norm")


@pytest.mark.parametrize("make", [lambda: layer_check.resnet_layer(128, 128, 8, 64), lambda: layer_check.attention_layer(64, 4, 16, 128),
                                  lambda: layer_check.attention_layer(64, 4, 32, 13, 48), lambda: layer_check.geglu_layer(64, 256, 64)],
                         ids=["resnet", "self_attention", "cross_attention", "geglu"])
def test_layers_of_a_transformer_are_near_float(make, monkeypatch):
    monkeypatch.setattr(layer_check, "FILLED", 16)
    assert layer_check.check_layer(make()).sqnr_db > 28.0


@pytest.mark.parametrize("name", ["deep_attention"])
def test_layers_of_stable_diffusion_are_near_float(name):
    """The others take longer: make layers-sd15."""
    assert layer_check.check_layer(layer_check.LAYERS[name][1]()).sqnr_db > 33.0


# --- memory of the host ----------------------------------------------------------------------------------------------

LARGE = dict(sample_size=8, block_out_channels=(128, 512), layers_per_block=2, norm_num_groups=32, down_block_types=("DownBlock2D",) * 2,
             up_block_types=("UpBlock2D",) * 2)
MEASURE = """
import resource, sys
import torch
from litediffusion.sw import calibrate, passes, pipeline, quantise
from litediffusion.sw.diffusers import scheduler, unet2d
from litediffusion.sw.sources import load_model

peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = peak()
pipeline.compile_model(load_model(sys.argv[1]), steps=2, sampler="ddim", images=2, batch=1, window_size=64 << 20).save(sys.argv[2])
print(peak() - begin)
"""


def test_memory_is_at_most_three_times_the_weights(tmp_path):
    """Measured with ddpm-cifar10-32 (140 MB of weights, 4 pictures): 2.4 times the weights."""
    unet(LARGE).save_pretrained(tmp_path)
    weights = (tmp_path / "diffusion_pytorch_model.safetensors").stat().st_size
    out = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path), str(tmp_path / "a.ldp")], capture_output=True, text=True, check=True).stdout
    assert 50e6 < weights and int(out) < 3 * weights
