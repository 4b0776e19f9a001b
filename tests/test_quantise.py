"""Layers with 4-bit weights under an error budget, bias correction, noise layer by layer."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from litediffusion.cores.config import PRESETS
from litediffusion.sw.calibrate import calibrate
from litediffusion.sw.cli.main import app
from litediffusion.sw.compiler.compile import weight_bits
from litediffusion.sw.layer_noise import decibel, layer_noise
from litediffusion.sw.passes import run_passes
from litediffusion.sw.pipeline import compile_model, import_model
from litediffusion.sw.quantise import ChannelMeans, choose_bits, correct_biases, four_bit_candidates, rounded, sensitivities
from litediffusion.sw.reference import evaluate

STEPS = 3


@pytest.fixture(scope="module")
def imported(digits):
    """(graph, table, states, means) of the digits model over a few steps."""
    graph, table = import_model(digits, STEPS)
    states, means = [], ChannelMeans(STEPS)
    calibrate(graph, table, range(10), 10, 2.0, images=4, watch=means, states=states)
    return graph, table, states, means.values


def error_share(graph, changed, states, labels):
    """Share of the output's energy that changed weights make wrong."""
    wanted = evaluate(graph, states[2], 2, labels)
    cache = {name: torch.as_tensor(weight, dtype=torch.float32) for name, weight in changed.items()}
    return float((evaluate(graph, states[2], 2, labels, cache=cache) - wanted).square().mean() / wanted.square().mean())


def test_sensitivities_are_the_errors_of_single_layers(imported):
    graph, _, states, _ = imported
    names, labels = four_bit_candidates(graph)[:3], [0, 1, 2, 3]
    shares = sensitivities(graph, names, [(2, states[2])], labels)
    for name in names:
        alone = error_share(graph, {name: rounded(graph.nodes[name].attrs["weight"], 4)}, states, labels)
        assert shares[name] == pytest.approx(alone, rel=1e-3) and 0 < alone < 0.1


def test_the_budget_is_kept(imported):
    """Errors of all chosen layers together: near the sum of their shares."""
    graph, _, states, _ = imported
    names, labels = four_bit_candidates(graph), [0, 1, 2, 3]
    shares = sensitivities(graph, names, [(2, states[2])], labels)
    counts = []
    for budget in (45.0, 30.0, 0.0):
        bits = choose_bits(graph, shares, budget)
        counts.append(len(bits))
        together = error_share(graph, {name: rounded(graph.nodes[name].attrs["weight"], 4) for name in bits}, states, labels)
        assert together < 2 * 10 ** (-budget / 10)
    assert counts[0] < counts[1] < counts[2] == len(names)


def test_candidates_leave_out_ends_and_values(imported):
    graph = imported[0]
    names = four_bit_candidates(graph)
    values = [n.inputs[2] for n in graph.nodes.values() if n.op == "attention"]
    assert graph.output not in names and not set(values) & set(names) and len(names) > 10
    assert (weight_bits(graph, {}), weight_bits(graph, dict.fromkeys(names, 4)), weight_bits(graph, {names[0]: 4})) == (8, 4, "mixed")


def test_bias_correction_removes_the_mean_error(digits, imported):
    graph = import_model(digits, STEPS)[0]
    _, _, states, means = imported
    name, labels = four_bit_candidates(graph)[4], [0, 1, 2, 3]
    weight = graph.nodes[name].attrs["weight"]

    def mean_of_layer(cache):
        seen = {}
        evaluate(graph, states[2], 2, labels, lambda n, t: seen.update({n: t.mean((0, 2, 3)).numpy()}), cache)
        return seen[name]

    four = {name: torch.as_tensor(rounded(weight, 4), dtype=torch.float32)}
    wanted, before = mean_of_layer({}), mean_of_layer(dict(four))
    correct_biases(graph, [name], means)
    assert np.abs(mean_of_layer(dict(four)) - wanted).mean() < 0.5 * np.abs(before - wanted).mean()
    assert graph.nodes[name].attrs["bias"].shape == (STEPS, len(weight))


def test_noise_by_layer(digits, imported):
    graph, table, states, _ = imported
    program = compile_model(digits, steps=STEPS, images=4, tiled=True)
    rows = layer_noise(program, PRESETS["ecpix5"], run_passes(digits.graph(digits.sampler("ddim", STEPS, 0.0)[0])), [(0, states[0][0]), (2, states[2][0])])
    noise = {row["name"]: row["sqnr_db"] for row in rows}
    assert len(noise) > 20 and all(len(values) == 2 for values in noise.values())
    assert min(min(values) for values in noise.values()) > 20 and max(noise["output"]) > 25
    assert noise["sample" if "sample" in noise else rows[0]["name"]][0] > noise["output"][0]


def test_decibel():
    assert decibel(np.ones(4), np.full(4, 1.1)) == pytest.approx(20.0)
    assert decibel(np.zeros(4), np.ones(4)) is None and decibel(np.ones(4), np.ones(4)) == float("inf")


def test_commands(tmp_path):
    path = tmp_path / "mixed.ldp"
    run = CliRunner().invoke(app, ["compile", "digits", "-o", str(path), "--steps", "2", "--images", "2", "--budget", "40", "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["bits"] == "mixed"
    run = CliRunner().invoke(app, ["report", "digits", "--steps", "2", "--images", "2", "--json"])
    report = json.loads(run.stdout)
    assert report["steps"] == [0, 1] and report["layers"][-1]["name"] == "output" and report["layers"][-1]["sqnr_db"][0] > 20
