"""The command line as a newcomer meets it: every command, its JSON, and errors as one clear line."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from litediffusion.cores.config import PRESETS
from litediffusion.cores.machine import Machine
from litediffusion.sw.cli.bench import LAYERS, compile_bench
from litediffusion.sw.cli.main import app
from litediffusion.sw.cli.selftest import performance_layers


@pytest.fixture(scope="module")
def ldp(tmp_path_factory, program):
    path = tmp_path_factory.mktemp("cli") / "digits.ldp"
    program.save(path)
    return path


def run(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


def run_json(*args):
    return json.loads(run(*args, "--json").stdout)


@pytest.mark.parametrize("command", ["check", "compile", "generate", "profile", "compare", "disasm", "devices", "selftest", "bench", "demo", "quality"])
def test_help(command):
    assert len(run(command, "--help").stdout) > 300
    assert command in run("--help").stdout


def test_check():
    report = run_json("check", "digits", "--steps", 3)
    assert report["runs"] and report["macs"] == 17_674_240 and any(layer["path"] == "mid_attn" for layer in report["layers"])
    assert "every layer runs" in run("check", "digits", "--steps", 3).stdout


def test_compile(tmp_path):
    report = run_json("compile", "digits", "-o", tmp_path / "a.ldp", "--steps", 1, "--images", 1, "--bits", 4)
    assert report["bits"] == 4 and (tmp_path / "a.ldp").stat().st_size == report["bytes"]


def test_generate_writes_picture_and_latents(ldp, tmp_path):
    report = run_json("generate", ldp, 3, 7, "-o", tmp_path / "a.png", "--seed", 5)
    assert report["labels"] == [3, 7] and Image.open(tmp_path / "a.png").size == (33 * 6, 16 * 6)
    assert np.load(tmp_path / "a.npy").shape == (2, 1, 16, 16)


def test_compare(ldp):
    report = run_json("compare", ldp, 2)
    assert report["equal"] and report["latents"] == 4 * 256 and report["pixels"] == 256


def test_profile_accounts_for_every_cycle(ldp, tmp_path):
    report = run_json("profile", ldp, "-o", tmp_path / "p.png")
    layers, totals = report["layers"], report["totals"]
    assert Image.open(tmp_path / "p.png").size[0] > 1000
    assert 0.97 < sum(layer["cycles"] for layer in layers) / totals["cycles"] <= 1.0
    assert sum(layer["macs"] for layer in layers) == totals["macs"] == 17_674_240
    assert totals["roofline_share"] > 0.6 and {"GEMM", "POST", "LOAD", "STORE"} == set(layers[0]["wait_token"])
    moved = 16 * (report["counters"]["dram_reads"] + report["counters"]["dram_writes"])
    assert abs(totals["dram_bytes"] - moved) < 0.05 * moved          # the trace itself is written too


def test_disasm(ldp):
    listing = run("disasm", ldp).stdout
    assert "GEMM" in listing and "[mid_attn.mix]" in listing and listing.rstrip().splitlines()[-1].split()[1] == "END"
    assert [d["op"] for d in run_json("disasm", ldp, "--part", "init")][-1] == "END"


def test_devices():
    report = {d["device"]: d for d in run_json("devices", "--litex", "litex://127.0.0.1:1")}
    assert report["model"]["usable"] and report["rtl"]["usable"]
    assert not report["litex://127.0.0.1:1"]["usable"] and len(report["litex://127.0.0.1:1"]["reason"]) > 20


def test_selftest():
    report = run_json("selftest", "--device", "rtl", "--programs", 2)
    assert report["passed"] and all(p["bytes_compared"] > 100_000 for p in report["programs"])


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_selftest_has_layers_for_every_preset(config):
    """compile_bench raises ValueError for a layer that the engine has no room for."""
    sizes = {layer.size for layer in performance_layers(config) if compile_bench(layer, config)}
    assert sizes == {16 if config.acc_words > 512 else 8}


@pytest.mark.parametrize("args, text", [
    (("generate", "LDP", 12), "label 12"), (("generate", "LDP", 1, "--device", "gpu"), "use model, rtl or litex"),
    (("generate", "nothing.ldp", 1), "nothing.ldp"), (("profile", "LDP", "--device", "model"), "no cycles"),
    (("profile", "LDP", "--step", 9), "steps 0..3"), (("disasm", "LDP", "--part", "x"), "unknown"),
    (("compile", "unknown"), "unknown"), (("check", "no.module:f"), "cannot be loaded"), (("demo", "--digits", "12x"), "only 0..9"),
])
def test_errors_are_one_clear_line(ldp, args, text):
    result = run(*[ldp if a == "LDP" else a for a in args], code=1)
    assert text in result.output.replace("\n", " ") and "Traceback" not in result.output


def test_truncated_program_is_refused(ldp, tmp_path):
    bad = tmp_path / "bad.ldp"
    bad.write_bytes(ldp.read_bytes()[:-1000])
    assert "truncated" in run("generate", bad, 1, code=1).output


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_bench_layers_run_on_the_model(layer, config):
    image, program, y_at, size = compile_bench(layer, config)
    machine = Machine(config, image)
    machine.run(*program)
    out = machine.dram[0, y_at:y_at + size].view(np.int8)
    assert 15 < out.std() < 60 and len(np.unique(out)) > 150
