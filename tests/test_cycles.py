"""The cycle model against the RTL: single layers of each kind, whole programs; costs made of it; check and estimate."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.sw.cli.main import app
from litediffusion.sw.cli.network import board_engine
from litediffusion.sw.compiler.tiled_program import TiledProgram
from litediffusion.sw.cycles import CycleModel
from litediffusion.sw.devices.rtl import RtlDevice
from litediffusion.sw.estimate import Events, instructions_of, picture_cost, target_of
from litediffusion.sw.pipeline import upload

SCALE = 1 / 32
ENGINES = {"preset": PRESETS["ecpix5"], "ecpix5": board_engine("ecpix5", "ecpix5"), "colorlight_i9": board_engine("colorlight_i9", "colorlight")}
NORM = {"gamma": np.ones(64), "beta": np.zeros(64), "groups": 8, "eps": 1e-6, "function": "SILU"}


def weight(outputs, channels, kernel):
    return {"weight": np.random.default_rng(0).standard_normal((outputs, channels, kernel, kernel)), "pad": kernel // 2}


def vector(program):
    return program.tensor("vector", (64, 1, 1), SCALE)


def normed(program, x):
    program.statistics(x, x.stat)
    return program.conv("y", [x], weight(64, 64, 3), SCALE, norm=(NORM, SCALE))


def attention(program, x):
    convs = {part: (np.random.default_rng(1).standard_normal((64, 64)), np.zeros(64)) for part in "qkvo"}
    program.statistics(x, x.stat)
    return program.attention("y", x, (NORM, SCALE), convs, dict.fromkeys(("q", "k", "v", "mix", "out"), SCALE), heads=4)


def two_parts(program, x):
    return program.conv("y", [x, program.tensor("z", x.shape, SCALE)], weight(64, 128, 3), SCALE)


# A layer of each kind for a tensor of 64 channels and 16x16 pixels.
LAYERS = {
    "conv": lambda p, x: p.conv("y", [x], weight(64, 64, 3), SCALE),
    "conv_w4": lambda p, x: p.conv("y", [x], weight(64, 64, 3), SCALE, bits=4),
    "linear": lambda p, x: p.conv("y", [x], weight(256, 64, 1), SCALE),
    "stride": lambda p, x: p.conv("y", [x], {**weight(64, 64, 3), "stride": 2}, SCALE),
    "upsampled": lambda p, x: p.conv("y", [x], {**weight(32, 64, 3), "up": True}, SCALE),
    "residual": lambda p, x: p.conv("y", [x], weight(64, 64, 3), SCALE, operand=x),
    "product": lambda p, x: p.conv("y", [x], {**weight(64, 64, 1), "times": True}, SCALE, operand=x, s_own=SCALE),
    "two_parts": two_parts,
    "norm_and_conv": normed,
    "norm": lambda p, x: (p.statistics(x, x.stat), p.normalise(x, (NORM, SCALE), "y")),
    "layer_norm": lambda p, x: p.layer_norm(x, 1e-5, SCALE, "y"),
    "modulated_norm": lambda p, x: p.layer_norm(x, 1e-5, SCALE, "y", [vector(p), vector(p)]),
    "gated": lambda p, x: p.conv("y", [x], {**weight(64, 64, 1), "times": True}, SCALE, operand=vector(p), s_own=SCALE, residual=x),
    "pixels_of_patches": lambda p, x: p.conv("y", [x], {**weight(32, 64, 1), "unpatch": 2}),
    "attention": attention,
    "copy": lambda p, x: p.copy(x, "y"),
}
TOLERANCE = 0.05


def difference(config, image, base, at, length, instructions, word_cycles=2, **registers):
    """Share by which the model is off."""
    device = RtlDevice(config, word_cycles=word_cycles)
    device.write(base, image.tobytes())
    measured = device.run_program(at, length, **registers)["cycles"]
    return CycleModel(config, word_cycles).run(instructions).cycles / measured - 1


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("config", ENGINES.values(), ids=ENGINES)
def test_single_layers(name, config):
    program = TiledProgram(config)
    LAYERS[name](program, program.tensor("x", (64, 16, 16), SCALE, stat=0))
    at, length = program.finish()
    image = program.image.finish()
    instructions = [isa.decode(image[at + 64 * i:at + 64 * (i + 1)].tobytes()) for i in range(length)]
    word_cycles = config.word_bytes // config.dram_bytes        # of the board's memory
    assert abs(difference(config, image, 0, at, length, instructions, word_cycles)) < TOLERANCE


@pytest.mark.parametrize("word_cycles", [2, 5])
def test_the_demo_model(program, word_cycles):
    config = PRESETS["ecpix5"]
    off = difference(config, program.image, program.meta["image_base"], *program.meta["programs"]["eval"], instructions_of(program, "eval"), word_cycles)
    assert abs(off) < TOLERANCE


@pytest.mark.parametrize("part", ["init", "finish"])
def test_small_programs(program, part):
    device, config = RtlDevice(), PRESETS["ecpix5"]
    upload(device, program)
    measured = device.run_program(*program.meta["programs"][part])["cycles"]
    assert abs(CycleModel(config, 2).run(instructions_of(program, part), noise=part == "init").cycles / measured - 1) < TOLERANCE


def test_a_program_that_waits_for_ever_ends():
    """A token that nobody adds: the model stops where the engine would."""
    post = dict(isa.decode(isa.encode("POST", n0=1, n1=1, n2=8, wait0=0, wait0_n=1))[1])
    assert CycleModel(PRESETS["ecpix5"]).run([("POST", post)]).cycles < 100


def test_events():
    events = Events()
    events.count(PRESETS["ecpix5"], "GEMM", dict(ng=2, nkb=3, nky=3, nkx=3, noy=4, nox=5, w4=0))
    assert events.macs == 2 * 3 * 9 * 20 * 128 and events.dram_words == 4
    events.count(PRESETS["ecpix5"], "LOAD", dict(n0=2, n1=3, n2=4))
    assert events.dram_words == 4 + 4 + 24


def test_picture_cost(program):
    target = target_of("ecpix5")
    report = picture_cost(program, target)
    layers = report["parts"]["eval"]["layers"]
    assert sum(layer["cycles"] for layer in layers) == pytest.approx(report["parts"]["eval"]["cycles"], rel=0.01)
    assert report["step"]["cycles"] == 2 * report["parts"]["eval"]["cycles"] + report["parts"]["update"]["cycles"]
    assert report["step"]["seconds"] == pytest.approx(report["step"]["cycles"] / 75e6)
    assert 0.3 < report["utilisation"] < 1 and report["fits"] and report["picture"]["millijoule"] > report["step"]["millijoule"] > 0


def test_commands():
    run = lambda *args: CliRunner().invoke(app, list(args))
    slow, fast = (json.loads(run("estimate", "digits", "--steps", "4", "--target", t, "--json").stdout) for t in ("colorlight_i9", "ecpix5"))
    assert slow["step"]["seconds"] > 1.5 * fast["step"]["seconds"]
    assert "mJ" in run("estimate", "digits", "--steps", "4").stdout
    checked = json.loads(run("check", "wardrobe", "--steps", "2", "--json").stdout)
    assert checked["fits"] and {"layer_norm", "attention"} <= {layer["op"] for layer in checked["layers"]}
    assert any(layer["name"].startswith("decoder.") and layer["cycles"] for layer in checked["layers"])
    wrong = run("check", "digits", "--target", "none")
    assert wrong.exit_code == 1 and "unknown; known: ecpix5" in " ".join(wrong.output.split())
