"""Transformers over patches (DiT): import equal to diffusers, integer programs near float, bit-exact RTL, folders, refusals."""

import json

from diffusers import DDIMScheduler, DiTPipeline, Transformer2DModel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from diffusers_cases import (Loaded, autoencoder, compiled, dit, evaluate_program, float_output, mean_sqnr, seeded, sqnr,
                             steps_on_both_devices)
from litediffusion.sw.cli.main import app
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.diffusers.dit import import_dit
from litediffusion.sw.diffusers.folder import StateDict
from litediffusion.sw.graph_builder import UnsupportedLayer
from litediffusion.sw.passes import run_passes
from litediffusion.sw.pipeline import compile_model, generate, import_model, upload
from litediffusion.sw.reference import evaluate
from litediffusion.sw.sources import DiTSource, ModelError, load_model

SMALL = dict(num_attention_heads=2, attention_head_dim=32, in_channels=4, num_layers=2, sample_size=16, patch_size=2, num_embeds_ada_norm=9)
CONFIGS = {
    "default": {},
    "with_variance": dict(out_channels=8, sample_size=8),
    "heads_of_24": dict(num_attention_heads=3, attention_head_dim=24),
    "heads_of_20": dict(attention_head_dim=20),                     # 40 channels: an odd number of groups of 8
    "heads_of_72": dict(num_attention_heads=1, attention_head_dim=72, num_layers=1),
    "wide": dict(num_attention_heads=3, attention_head_dim=96, num_layers=1, sample_size=8),     # records in pieces
    "deep": dict(num_layers=6, sample_size=8),
    "pixels": dict(patch_size=1, sample_size=8),
    "patches_of_4": dict(patch_size=4),
    "patches_of_8": dict(patch_size=8, sample_size=32),
    "many_tokens": dict(sample_size=64, num_layers=1),              # several tiles of every layer
    "three_channels": dict(in_channels=3),
    "norm_weights": dict(norm_elementwise_affine=True, norm_eps=1e-3, attention_bias=False),
    "geglu": dict(activation_fn="geglu"),
    "gelu": dict(activation_fn="gelu"),
    "many_labels": dict(num_embeds_ada_norm=1000, sample_size=8),   # no tables: the engine computes the conditions
}
VAE = dict(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32,), layers_per_block=1, norm_num_groups=8,
           down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",))


def make_model(name):
    return dit({**SMALL, **CONFIGS[name]})


def graph_of(model, timesteps, size=None):
    return run_passes(import_dit(dict(model.config), StateDict(model.state_dict()), timesteps, size))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [None, 24])
def test_import_is_equal_to_diffusers(name, size):
    model, timesteps, labels = make_model(name), [999, 421, 3], [0, 2]
    graph = graph_of(model, timesteps, size)
    for step, t in enumerate(timesteps):
        x = np.random.default_rng(step).standard_normal((2,) + tuple(graph.shape("sample")))
        want = float_output(model, x, t, labels)
        assert np.abs(evaluate(graph, x, step, labels).numpy() - want).max() < 1e-4 * np.abs(want).max()


def test_labels_and_steps_matter():
    graph = graph_of(make_model("default"), [999, 3])
    x = np.random.default_rng(0).standard_normal((1,) + tuple(graph.shape("sample")))
    outputs = [evaluate(graph, x, *place).numpy() for place in ((0, [1]), (0, [2]), (1, [1]))]
    assert all(np.abs(outputs[0] - other).max() > 0.1 for other in outputs[1:])


def test_every_condition_is_part_of_another_layer():
    graph = graph_of(make_model("default"), [999, 3])
    assert {node.op for node in graph.nodes.values()} == {"input", "constant", "condition_table", "conv", "layer_norm", "attention"}


# As for the U-Nets (test_diffusers.py).
@pytest.mark.parametrize("name", CONFIGS)
def test_program_is_near_float(name):
    assert mean_sqnr(make_model(name), inputs=1) >= 22.0


def test_both_forms_of_the_conditions_give_the_same(monkeypatch):
    """Tables by step and label against layers on the engine, within what 8 bits leave."""
    outputs = []
    for rows in (1024, 1):
        monkeypatch.setattr("litediffusion.sw.diffusers.dit.TABLE_ROWS", rows)
        source, program, _ = compiled(make_model("with_variance"))
        device = ModelDevice()
        upload(device, program)
        x = np.random.default_rng(1).standard_normal(source.shape)
        outputs.append([evaluate_program(device, program, x, 0, label) for label in (1, 9)])
    assert sqnr(list(zip(*outputs))) >= 22.0 and sqnr([outputs[0]]) < 20.0


def test_blocks_with_one_embedding_share_it():
    """As in models that were trained with one embedding for all blocks."""
    model = make_model("many_labels")
    first, second = (block.norm1.emb for block in model.transformer_blocks)
    second.load_state_dict(first.state_dict())
    tables = [node for node in graph_of(model, [999, 3]).nodes.values() if node.op == "label_table"]
    assert len(tables) == 1 and len(tables[0].attrs["values"]) == 1001


@pytest.mark.parametrize("name", ["heads_of_20", "patches_of_4", "many_labels", "geglu", "wide"])
def test_a_step_on_the_rtl_is_the_model_devices(name):
    x, outputs = steps_on_both_devices(make_model(name))
    assert (outputs[0] == outputs[1]).all() and (outputs[0].std((1, 2, 3)) > 0.01).all() and (outputs[0][1] != x).any()


def test_four_bits():
    """Weights of the inner layers at 4 bits, the gated ones too; random weights suffer most."""
    model = make_model("default")
    source = DiTSource(Loaded(model), guidance=1.0)
    timesteps, _ = source.sampler("ddim", 3, 0.0)
    program = compile_model(source, steps=3, sampler="ddim", images=8, batch=1, bits=4)
    device, x = ModelDevice(), np.random.default_rng(0).standard_normal(source.shape)
    upload(device, program)
    assert program.meta["bits"] == 4
    assert sqnr([(float_output(model, x[None], timesteps[0], [1])[0], evaluate_program(device, program, x, 0, 1))]) >= 12.0


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A saved pipeline with an autoencoder."""
    folder = tmp_path_factory.mktemp("dit") / "net"
    DiTPipeline(dit({**SMALL, "sample_size": 8}), autoencoder(VAE), DDIMScheduler(clip_sample=False)).save_pretrained(folder)
    return folder


def test_pipeline_folder(pipeline):
    """The way from a saved pipeline to decoded pictures, with guidance."""
    source = load_model(str(pipeline))
    assert (source.name, source.shape, source.labels, source.null_label, source.guidance) == ("net", (4, 8, 8), 10, 9, 4.0)
    program = compile_model(source, steps=2, images=2)
    device = ModelDevice()
    upload(device, program)
    pictures = generate(device, program, [3, 5], [1, 1])
    assert pictures.pixels.shape == (2, 3, 8, 8) and pictures.latents.shape == (2, 2, 4, 8, 8)
    assert (pictures.latents[0] != pictures.latents[1]).any()


def test_commands(pipeline, tmp_path):
    run = lambda *args: CliRunner().invoke(app, list(map(str, args)))
    checked = run("check", pipeline, "--steps", 2, "--json")
    assert checked.exit_code == 0 and json.loads(checked.stdout)["runs"], checked.output
    assert run("compile", pipeline, "-o", tmp_path / "net.ldp", "--steps", 2, "--images", 2).exit_code == 0
    drawn = run("generate", tmp_path / "net.ldp", 3, 5, "-o", tmp_path / "out.png")
    assert drawn.exit_code == 0 and np.load(tmp_path / "out.npy").shape == (2, 4, 8, 8), drawn.output


def test_positions_of_a_given_size():
    """A config without sample_size takes the given one's place, for the positions too."""
    model = make_model("default")
    config, weights = dict(model.config), StateDict(model.state_dict())
    want, got = (import_dit(c, weights, [999], size).nodes["pos_embed.positions"].attrs["values"]
                 for c, size in ((config, None), (config | {"sample_size": None}, 16)))
    assert np.array_equal(want, got)
    wide = import_dit(config | {"sample_size": None}, weights, [999], (16, 24)).nodes["pos_embed.positions"].attrs["values"]
    assert np.array_equal(wide, import_dit(config, weights, [999], (16, 24)).nodes["pos_embed.positions"].attrs["values"])


def test_model_folder(tmp_path):
    dit(SMALL).save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).shape == (4, 16, 16)
    assert load_model(str(tmp_path), size=32, null_label=0).shape == (4, 32, 32)
    with pytest.raises(ModelError, match=r"null label 10: the model knows 0\.\.9"):
        load_model(str(tmp_path), null_label=10)


def test_older_folder(tmp_path):
    """The same network under its former class, with the positions in the file."""
    model = make_model("default")
    loaded = Loaded(model)
    loaded.config.update(_class_name="Transformer2DModel", out_channels=None)
    loaded.weights = StateDict(model.state_dict() | {"pos_embed.pos_embed": model.pos_embed.pos_embed})
    graph, _ = import_model(DiTSource(loaded), 2, "ddim")
    assert graph.shape(graph.output) == (4, 16, 16)


def test_positions_of_a_large_older_model():
    """From sample_size 128 on the former class puts positions closer."""
    model = seeded(Transformer2DModel, dict(SMALL, norm_type="ada_norm_zero", sample_size=128, patch_size=8, num_layers=1,
                                            activation_fn="gelu-approximate", attention_bias=True))
    loaded = Loaded(model)
    graph = run_passes(import_dit(loaded.config, loaded.weights, [421]))
    x = np.random.default_rng(0).standard_normal((1,) + tuple(graph.shape("sample")))
    with torch.no_grad():
        want = model(torch.tensor(x, dtype=torch.float32), timestep=torch.tensor([421]), class_labels=torch.tensor([3])).sample.numpy()
    assert np.abs(evaluate(graph, x, 0, [3]).numpy() - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("change, message", [
    (dict(norm_type="ada_norm_single"), "norm_type='ada_norm_single', only 'ada_norm_zero'"),
    (dict(patch_size=3), "patch_size=3, only 1 or 2 or 4 or 8"),
    (dict(activation_fn="linear-silu"), "activation_fn='linear-silu'"),
    (dict(out_channels=6), "out_channels=6, only 4 or"),
    (dict(sample_size=9), "PatchEmbed at pos_embed: latents of 9x9"),
    (dict(num_layers=1), r"transformer_blocks\.1.*does not ask for this weight")])
def test_what_cannot_be_compiled(change, message):
    loaded = Loaded(make_model("default"))
    loaded.config.update(change)
    with pytest.raises(UnsupportedLayer, match=message):
        import_dit(loaded.config, loaded.weights, [999])


def test_layers_that_do_not_fit_are_named():
    source = DiTSource(Loaded(make_model("default")), size=12)      # 36 tokens
    with pytest.raises(CompileError, match=r"transformer_blocks\.0\.attn1.*36 tokens.*multiples of 16"):
        compile_model(source, steps=2, sampler="ddim", images=1)
