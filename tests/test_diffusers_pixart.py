"""Transformers over patches that attend to texts (PixArt): import equal to diffusers, programs near float, bit-exact RTL, folders, refusals."""

from dataclasses import replace
import json

from diffusers import DDIMScheduler, Transformer2DModel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from diffusers_cases import (LABELS, Loaded, autoencoder, compiled, evaluate_program, float_output, mean_sqnr, outputs_with_replaced_text,
                             picture_size, pixart, seeded, sqnr, steps_on_both_devices, texts_for)
from litediffusion.sw.cli.main import app
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.diffusers.folder import StateDict
from litediffusion.sw.diffusers.pixart import import_pixart
from litediffusion.sw.graph_builder import UnsupportedLayer
from litediffusion.sw.passes import run_passes
from litediffusion.sw.pipeline import compile_model, generate, upload, write_texts
from litediffusion.sw.reference import evaluate
from litediffusion.sw.sources import ModelError, PixArtSource, load_model
from litediffusion.sw.texts import TextError

SMALL = dict(num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=8, num_layers=2, sample_size=16, patch_size=2,
             cross_attention_dim=64, caption_channels=48)
CONFIGS = {
    "default": {},
    "without_variance": dict(out_channels=None, sample_size=8),
    "sizes": dict(num_attention_heads=3, attention_head_dim=24, cross_attention_dim=72, use_additional_conditions=True),
    "heads_of_20": dict(attention_head_dim=20, cross_attention_dim=40),     # 40 channels: an odd number of groups of 8
    "heads_of_72": dict(num_attention_heads=1, attention_head_dim=72, num_layers=1, cross_attention_dim=72),
    "wide": dict(num_attention_heads=3, attention_head_dim=96, num_layers=1, sample_size=8, cross_attention_dim=288, caption_channels=100),
    "deep": dict(num_layers=6, sample_size=8),
    "pixels": dict(patch_size=1, sample_size=8),
    "patches_of_4": dict(patch_size=4),
    "three_channels": dict(in_channels=3, out_channels=6),
    "norm_weights": dict(norm_elementwise_affine=True, norm_eps=1e-3, attention_bias=False),
    "no_projection": dict(caption_channels=None, cross_attention_dim=40),
    "finer_positions": dict(interpolation_scale=2),
    "geglu": dict(activation_fn="geglu"),
    "wide_picture": dict(use_additional_conditions=True, num_attention_heads=3, cross_attention_dim=96),
}
SIZES = {"wide_picture": (8, 32)}
TOKENS = {"default": 77, "heads_of_20": 1, "pixels": 16, "deep": 120}           # else 20
COUNTS = {"sizes": (1, 20, 7, 12), "deep": (1, 30, 120, 60), "pixels": (1, 16, 9, 3), "patches_of_4": (2, 17, 5, 20)}   # else no mask
VAE = dict(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8,
           down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)


def make(name):
    """(model, texts) of a configuration."""
    model = pixart({**SMALL, **CONFIGS[name]})
    return model, texts_for(model, TOKENS.get(name, 20), COUNTS.get(name))


def graph_of(model, timesteps, texts, size=None):
    return run_passes(import_pixart(dict(model.config, _class_name=type(model).__name__), StateDict(model.state_dict()), timesteps, texts, size))


def noise(graph, count=2, seed=0):
    return np.random.default_rng(seed).standard_normal((count,) + tuple(graph.shape("sample")))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [None, (8, 24)])
def test_import_is_equal_to_diffusers(name, size):
    (model, texts), timesteps, labels = make(name), [999, 421, 3], [0, 2]
    graph = graph_of(model, timesteps, texts, size or SIZES.get(name))
    for step, t in enumerate(timesteps):
        x = noise(graph, seed=step)
        want = float_output(model, x, t, labels, texts)
        assert np.abs(evaluate(graph, x, step, labels).numpy() - want).max() < 1e-4 * np.abs(want).max()


def test_texts_and_steps_matter():
    graph = graph_of(make("default")[0], [999, 3], make("default")[1])
    x = noise(graph, 1)
    outputs = [evaluate(graph, x, *place).numpy() for place in ((0, [1]), (0, [2]), (1, [1]))]
    assert all(np.abs(outputs[0] - other).max() > 0.1 for other in outputs[1:])


def test_every_condition_is_part_of_another_layer():
    model, texts = make("default")
    assert {node.op for node in graph_of(model, [999, 3], texts).nodes.values()} == {
        "input", "constant", "step_table", "label_table", "conv", "layer_norm", "attention"}


def test_masks_matter():
    """Tokens that do not count change nothing, with a mask, and the output without one."""
    model, texts = make("patches_of_4")
    other = replace(texts, states=np.where(texts.mask[:, :, None] > 0, texts.states, 100.0))
    graphs = [graph_of(model, [500], each) for each in (texts, other, replace(texts, mask=None))]
    x = noise(graphs[0], 1)
    masked, same, without = (evaluate(graph, x, 0, [2]).numpy() for graph in graphs)
    assert (masked == same).all() and np.abs(masked - without).max() > 0.01 * np.abs(masked).max()


# As for the networks without texts (test_diffusers.py).
@pytest.mark.parametrize("name", CONFIGS)
def test_program_is_near_float(name):
    assert mean_sqnr(*make(name), inputs=1, size=SIZES.get(name)) >= 25.0


@pytest.mark.parametrize("name", ["heads_of_20", "patches_of_4", "wide_picture"])
def test_a_step_on_the_rtl_is_the_model_devices(name):
    x, outputs = steps_on_both_devices(*make(name), size=SIZES.get(name))
    assert (outputs[0] == outputs[1]).all() and (outputs[0].std((1, 2, 3)) > 0.01).all() and (outputs[0][1] != x).any()


def test_texts_can_be_replaced():
    """Label 1 with label 2's text is label 2."""
    first, second, replaced = outputs_with_replaced_text(*make("without_variance"))
    assert (first != second).any()
    assert (replaced == second).all()


def test_masks_can_be_replaced():
    """A program takes texts with other numbers of tokens: tokens that the first mask left out, and fewer."""
    (model, texts), device = make("patches_of_4"), ModelDevice()
    source, program, timesteps = compiled(model, texts)
    x = np.random.default_rng(1).standard_normal(source.shape)
    later = texts_for(model, 20, (20, 3, 20, 11)).picked([1, 2])
    upload(device, program)
    write_texts(device, program, later)
    pairs = [(float_output(model, x[None], timesteps[0], [label], later)[0], evaluate_program(device, program, x, 0, label)) for label in (0, 1)]
    assert sqnr(pairs) >= 25.0
    with pytest.raises(TextError, match="encoder_attention_mask of the texts is None"):
        write_texts(device, program, replace(later, mask=None))
    _, plain, _ = compiled(model, replace(texts, mask=None))
    with pytest.raises(TextError, match="those that the program was compiled with had none"):
        write_texts(device, plain, later)


# --- folders ---------------------------------------------------------------------------------------------------------


OLD = dict({k: v for k, v in SMALL.items() if k != "sample_size"}, norm_type="ada_norm_single", activation_fn="gelu-approximate", attention_bias=True,
           num_attention_heads=3, cross_attention_dim=96, sample_size=128, patch_size=8, num_layers=1)


def test_older_folder(tmp_path):
    """The same network under its former class, with what older files hold besides; sample_size 128: the picture's size is a condition,
    positions are half as far apart."""
    model = seeded(Transformer2DModel, OLD)
    texts = texts_for(model, 20)
    more = {"pos_embed.pos_embed": model.pos_embed.pos_embed, "caption_projection.y_embedding": torch.zeros(120, 48)}
    source = PixArtSource(Loaded(model), texts, slots=LABELS)
    source.folder.weights = StateDict(model.state_dict() | more)
    graph, x = run_passes(source.graph([421])), noise(run_passes(source.graph([421])), 1)
    with torch.no_grad():
        want = model(torch.tensor(x, dtype=torch.float32), torch.tensor(texts.states[[1]], dtype=torch.float32), torch.tensor([421]),
                     picture_size(x)).sample[:, :4].numpy()
    assert np.abs(evaluate(graph, x, 0, [1]).numpy() - want).max() < 1e-4 * np.abs(want).max()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A saved pipeline with an autoencoder, and a file of texts."""
    folder = tmp_path_factory.mktemp("pixart") / "net"
    model = pixart({**SMALL, "sample_size": 8, "num_attention_heads": 3, "cross_attention_dim": 96, "use_additional_conditions": True})
    for name, part in (("transformer", model), ("vae", autoencoder(VAE))):
        part.save_pretrained(folder / name)
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    texts = texts_for(model, 20, (1, 5, 20, 12))
    np.savez(folder.parent / "texts.npz", states=texts.states, mask=texts.mask)
    return folder


def test_pipeline_folder(pipeline):
    """The way from a saved pipeline to decoded pictures, with guidance."""
    with pytest.raises(ModelError, match="give some for the calibration"):
        load_model(str(pipeline))
    source = load_model(str(pipeline), texts=pipeline.parent / "texts.npz")
    assert (source.name, source.shape, source.null_label, source.guidance) == ("net", (4, 8, 8), 0, 4.5)
    program = compile_model(source, steps=2, images=2)
    device = ModelDevice()
    upload(device, program)
    pictures = generate(device, program, [], [1, 1, 1], texts=source.texts)
    assert pictures.pixels.shape == (3, 3, 16, 16) and pictures.latents.shape == (3, 2, 4, 8, 8)
    assert (pictures.latents[0] != pictures.latents[1]).any()


def test_size_of_the_picture_is_the_autoencoders(pipeline):
    """Two pixels a side to one of the latents, not eight."""
    source = load_model(str(pipeline), texts=pipeline.parent / "texts.npz")
    tables = lambda graph: graph.nodes["transformer_blocks.0.norm1.scale"].attrs["values"]
    by_scale = [tables(import_pixart(source.folder.config, source.folder.weights, [5], source.texts, scale=scale)) for scale in (2, 8)]
    assert (tables(source.graph([5])) == by_scale[0]).all() and (by_scale[0] != by_scale[1]).any()


def test_commands(pipeline, tmp_path):
    run = lambda *args: CliRunner().invoke(app, list(map(str, args)))
    texts = pipeline.parent / "texts.npz"
    for more in ([], ["--texts", texts]):
        checked = run("check", pipeline, "--steps", 2, "--json", *more)
        assert checked.exit_code == 0 and json.loads(checked.stdout)["runs"], checked.output
    made = run("compile", pipeline, "-o", tmp_path / "net.ldp", "--steps", 2, "--images", 2, "--texts", texts)
    assert made.exit_code == 0, made.output
    drawn = run("generate", tmp_path / "net.ldp", "--texts", texts, "-o", tmp_path / "out.png")
    assert drawn.exit_code == 0 and np.load(tmp_path / "out.npy").shape == (LABELS - 1, 4, 8, 8), drawn.output


def test_config_alone_can_be_checked(tmp_path):
    """Shapes without weights and texts."""
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "PixArtTransformer2DModel", **SMALL}))
    checked = CliRunner().invoke(app, ["check", str(tmp_path), "--steps", "2", "--json"])
    assert checked.exit_code == 0 and json.loads(checked.stdout)["runs"], checked.output


@pytest.mark.parametrize("change, message", [
    (dict(norm_type="ada_norm_zero"), "norm_type='ada_norm_zero', only 'ada_norm_single'"),
    (dict(attention_type="gated"), "attention_type='gated', only 'default'"),
    (dict(patch_size=3), "patch_size=3, only 1 or 2 or 4 or 8"),
    (dict(out_channels=6), "out_channels=6, only 4 or"),
    (dict(sample_size=9), "PatchEmbed at pos_embed: latents of 9x9"),
    (dict(cross_attention_dim=None), "transformer_blocks.0.attn2: cross_attention_dim=None"),
    (dict(cross_attention_dim=48), "transformer_blocks.0.attn2: cross_attention_dim=48, but caption_projection makes tokens of 64"),
    (dict(use_additional_conditions=True), "adaln_single.emb: use_additional_conditions with 64 channels: must be a multiple of 3"),
    (dict(caption_channels=32), "the texts' states have 48 channels, the model takes 32"),
    (dict(num_layers=1), r"transformer_blocks\.1.*does not ask for this weight")])
def test_what_cannot_be_compiled(change, message):
    model, texts = make("default")
    loaded = Loaded(model)
    loaded.config.update(change)
    with pytest.raises(UnsupportedLayer, match=message):
        import_pixart(loaded.config, loaded.weights, [999], texts)


def test_old_configs_that_cannot_be_compiled():
    model = seeded(Transformer2DModel, OLD)
    for change, size, message in ((dict(double_self_attention=True), 16, "double_self_attention=True"), (dict(sample_size=None), None, "no sample_size")):
        loaded = Loaded(model)
        loaded.config.update(change)
        with pytest.raises(UnsupportedLayer, match=message):
            import_pixart(loaded.config, loaded.weights, [999], texts_for(model, 20), size)


def test_layers_that_do_not_fit_are_named():
    model, texts = make("default")
    source = PixArtSource(Loaded(model), texts, size=12, slots=LABELS)         # 36 tokens
    with pytest.raises(CompileError, match=r"transformer_blocks\.0\.attn1.*36 tokens.*multiples of 16"):
        compile_model(source, steps=2, sampler="ddim", images=1)
