"""Models that attend to texts, and decoders of latents: import equal to diffusers, integer programs near float, bit-exact RTL."""

from diffusers import DDIMScheduler
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from diffusers_cases import (LABELS, Loaded, autoencoder, compiled, decode_program, float_output, mean_sqnr, on_both_devices,
                             outputs_with_replaced_text, sqnr, steps_on_both_devices, text_unet, texts_for)
from litediffusion.cores.config import PRESETS
from litediffusion.sw.cli.main import app
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.diffusers.folder import StateDict
from litediffusion.sw.diffusers.unet2d_condition import import_unet2d_condition
from litediffusion.sw.diffusers.vae import import_decoder
from litediffusion.sw.graph_builder import UnsupportedLayer
from litediffusion.sw.layer_noise import layer_noise
from litediffusion.sw.passes import run_passes
from litediffusion.sw.pipeline import compile_model, generate, import_model, upload
from litediffusion.sw.reference import evaluate
from litediffusion.sw.sources import ModelError, load_model
from litediffusion.sw.texts import TextError, TextStates, encode

SMALL = dict(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32, attention_head_dim=2,
             down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
# echarlaix/tiny-random-stable-diffusion-xl's U-Net
TINY_SDXL = dict(sample_size=32, block_out_channels=(32, 64), layers_per_block=2, attention_head_dim=(2, 4), use_linear_projection=True,
                 down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                 norm_num_groups=32, cross_attention_dim=64, transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
                 addition_time_embed_dim=8, projection_class_embeddings_input_dim=80)
CONFIGS = {
    "default": {},
    "linear_projection": dict(use_linear_projection=True),
    "everywhere": dict(down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2),
    "heads_by_block": dict(attention_head_dim=(2, 4)),
    "heads_of_8": dict(attention_head_dim=(4, 8)),
    "two_transformers": dict(transformer_layers_per_block=2, sample_size=8),
    "plain_mid_block": dict(mid_block_type="UNetMidBlock2D"),
    "no_mid_block": dict(mid_block_type=None),
    "text_time": dict(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80),
    "wide_picture": dict(sample_size=(8, 32)),
    "odd_widths": dict(block_out_channels=(40, 56), attention_head_dim=2),
    "scale_shift": dict(resnet_time_scale_shift="scale_shift"),
    "gelu": dict(act_fn="gelu"),
    "as_sd15": dict(block_out_channels=(32, 64, 64), down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
                    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2, norm_num_groups=32, attention_head_dim=8, layers_per_block=2),
    "tiny_sdxl": TINY_SDXL,
}
TOKENS = {"linear_projection": 1, "heads_by_block": 16, "everywhere": 8}        # else 77

VAE = dict(in_channels=1, out_channels=1, latent_channels=4, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
           down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
DECODERS = {
    "default": {},
    "colour": dict(in_channels=3, out_channels=3, layers_per_block=2),
    "no_attention": dict(mid_block_add_attention=False),
    "shifted": dict(scaling_factor=0.4, shift_factor=0.1, use_post_quant_conv=False, use_quant_conv=False),
    "three_levels": dict(block_out_channels=(32, 64, 64), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3),
}


# The smallest network, where the decoder matters.
TINY = dict(sample_size=8, block_out_channels=(16,), down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
            attention_head_dim=1, mid_block_type=None)


def tiny():
    model = text_unet({**SMALL, **TINY})
    return model, texts_for(model, 16)
TAESD = dict(in_channels=3, out_channels=3, encoder_block_out_channels=(32,) * 3, decoder_block_out_channels=(32,) * 3,
             num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(2, 1, 1))


def make_vae(name):
    return autoencoder(TAESD if name == "taesd" else {**VAE, **DECODERS[name]})


def make(name):
    """(model, texts) of a configuration."""
    model = text_unet({**SMALL, **CONFIGS[name]})
    return model, texts_for(model, TOKENS.get(name, 77))


@pytest.mark.parametrize("name", CONFIGS)
def test_import_is_equal_to_diffusers(name):
    (model, texts), timesteps, labels = make(name), [999, 421, 3], [0, 2]
    graph = run_passes(import_unet2d_condition(dict(model.config), StateDict(model.state_dict()), timesteps, texts))
    for step, t in enumerate(timesteps):
        x = np.random.default_rng(step).standard_normal((2,) + tuple(graph.shape("sample")))
        want = float_output(model, x, t, labels, texts)
        assert np.abs(evaluate(graph, x, step, labels).numpy() - want).max() < 1e-4 * np.abs(want).max()


# As for the networks without texts (test_diffusers.py).
@pytest.mark.parametrize("name", CONFIGS)
def test_program_is_near_float(name):
    assert mean_sqnr(*make(name), inputs=1) >= 25.0


def test_layer_norm_of_half_a_block():
    """56 channels are three blocks and a half: what lies in the other half is no part of a row's sums."""
    source, program, _ = compiled(*make("odd_widths"))
    graph, x = import_model(source, 3, "ddim")[0], np.random.default_rng(0).standard_normal(source.shape)
    noise = {row["name"]: row["sqnr_db"][0] for row in layer_noise(program, PRESETS["ecpix5"], graph, [(0, x)], 1)}
    assert noise["mid_block.attentions.0.transformer_blocks.0.norm1"] > noise["mid_block.attentions.0.proj_in"] - 1.5


@pytest.mark.parametrize("name", ["default", "linear_projection", "odd_widths", "tiny_sdxl"])
def test_a_step_on_the_rtl_is_the_model_devices(name):
    x, outputs = steps_on_both_devices(*make(name))
    assert (outputs[0] == outputs[1]).all() and (outputs[0].std((1, 2, 3)) > 0.01).all() and (outputs[0][1] != x).any()


def test_masked_tokens():
    """Texts of different lengths, in float and as a program."""
    model = make("default")[0]
    texts = texts_for(model, 20, (1, 20, 7, 12))
    graph = run_passes(import_unet2d_condition(dict(model.config), StateDict(model.state_dict()), [500], texts))
    x = np.random.default_rng(0).standard_normal((2,) + tuple(graph.shape("sample")))
    want = float_output(model, x, 500, [0, 2], texts)
    assert np.abs(evaluate(graph, x, 0, [0, 2]).numpy() - want).max() < 1e-4 * np.abs(want).max()
    assert mean_sqnr(model, texts, inputs=1) >= 25.0


def test_texts_can_be_replaced():
    """Label 1 with label 2's text is label 2."""
    first, second, replaced = outputs_with_replaced_text(*make("text_time"))
    assert (first != second).any()
    assert (replaced == second).all()


# --- decoders --------------------------------------------------------------------------------------------------------


def float_picture(vae, z):
    """Float [C, H, W] of latents as a sampler leaves them."""
    z = torch.tensor(z[None], dtype=torch.float32) / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    with torch.no_grad():
        return vae.decode(z).sample[0].numpy()


def clipped_latents(shape, seed):
    """Normal, within the sampler's clip."""
    return np.clip(np.random.default_rng(seed).standard_normal(shape), -1, 1)


@pytest.mark.parametrize("name", [*DECODERS, "taesd"])
def test_decoder_is_equal_to_diffusers(name):
    vae, z = make_vae(name), np.random.default_rng(0).standard_normal((4, 8, 16))
    graph = run_passes(import_decoder(Loaded(vae).config, StateDict(vae.state_dict()), (8, 16)))
    want = float_picture(vae, z)
    assert np.abs(evaluate(graph, z[None], 0, [0])[0].numpy() - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("name", [*DECODERS, "taesd"])
def test_decoded_picture_is_near_float(name):
    vae, device = make_vae(name), ModelDevice()
    source, program, _ = compiled(*tiny(), vae)
    upload(device, program)
    latents = [clipped_latents(source.shape, seed) for seed in range(2)]
    assert sqnr([(float_picture(vae, z), decode_program(device, program, z)) for z in latents]) >= 25.0


def test_decoder_on_the_rtl():
    model, texts = tiny()
    program = compiled(model, texts, autoencoder(VAE))[1]
    results = on_both_devices(program, lambda device: generate(device, program, [], [1], texts=texts.picked([0, 1])))
    assert (results[0].latents == results[1].latents).all()
    assert (results[0].pixels == results[1].pixels).all() and results[0].pixels.std() > 5


# --- from prompt to picture ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wardrobe(tmp_path_factory):
    """A program of the packaged model, as the command compiles it."""
    path = tmp_path_factory.mktemp("wardrobe") / "wardrobe.ldp"
    run = CliRunner().invoke(app, ["compile", "wardrobe", "-o", str(path), "--steps", "3", "--images", "4"])
    assert run.exit_code == 0, run.output
    return path


def test_prompts_on_the_command_line(wardrobe, tmp_path):
    picture = tmp_path / "out.png"
    run = CliRunner().invoke(app, ["generate", str(wardrobe), "--prompt", "a dark ankle boot", "--prompt", "A light dress.", "-o", str(picture)])
    assert run.exit_code == 0, run.output
    assert picture.exists() and np.load(picture.with_suffix(".npy")).shape == (2, 4, 8, 8)


@pytest.mark.parametrize("arguments, message", [
    (["--prompt", "a green dress"], "'green' is unknown; known: a, an, dark"),
    (["3"], "the program takes prompts, not labels"),
    ([], "say what the pictures show"),
    (["--prompt", "a a a a a a a a a"], "9 words, the limit is 8")])
def test_prompts_that_cannot_be_used(wardrobe, arguments, message):
    run = CliRunner().invoke(app, ["generate", str(wardrobe), *arguments])
    assert run.exit_code == 1 and message in " ".join(run.output.split())


def test_texts_of_another_shape(wardrobe):
    from litediffusion.sw.container import load

    program, device = load(wardrobe), ModelDevice()
    upload(device, program)
    with pytest.raises(TextError, match=r"the program takes up to \d+ of \[64, 16\]"):
        generate(device, program, [], [1], texts=TextStates(np.zeros((2, 40, 64))))


def test_pipeline_folder_with_texts(tmp_path):
    """A saved pipeline's folder and a file of texts; the program then takes such files."""
    model = tiny()[0]
    for name, part in (("unet", model), ("vae", autoencoder(VAE))):
        part.save_pretrained(tmp_path / "net" / name)
    DDIMScheduler(clip_sample=False).save_pretrained(tmp_path / "net" / "scheduler")
    np.savez(tmp_path / "texts.npz", states=texts_for(model).states)
    with pytest.raises(ModelError, match="give some for the calibration"):
        load_model(str(tmp_path / "net"))
    source = load_model(str(tmp_path / "net"), texts=tmp_path / "texts.npz")
    program = compile_model(source, steps=2, images=2)
    program.save(tmp_path / "net.ldp")
    run = CliRunner().invoke(app, ["generate", str(tmp_path / "net.ldp"), "--texts", str(tmp_path / "texts.npz"), "-o", str(tmp_path / "out.png")])
    assert run.exit_code == 0, run.output
    assert np.load(tmp_path / "out.npy").shape == (LABELS - 1, 4, 8, 8) and program.meta["picture"] == [1, 16, 16]


@pytest.mark.parametrize("change, message", [
    (dict(only_cross_attention=True), "only_cross_attention=True, only False"),
    (dict(down_block_types=("SimpleCrossAttnDownBlock2D",) * 2), "SimpleCrossAttnDownBlock2D"),
    (dict(cross_attention_dim=48), "32 channels, the model takes 48"),
    (dict(attention_head_dim=(3, 4)), "no multiple of 3 heads")])
def test_what_cannot_be_compiled(change, message):
    model, texts = make("default")
    loaded = Loaded(model)
    loaded.config.update(change)
    with pytest.raises(UnsupportedLayer, match=message):
        import_unet2d_condition(loaded.config, loaded.weights, [999], texts)


def test_bad_files_of_texts(tmp_path):
    from litediffusion.sw.texts import load_texts

    for arrays, message in (({"other": np.zeros(3)}, "other"), ({"states": np.zeros((2, 3))}, "must be states"),
                            ({"states": np.zeros((2, 3, 4)), "pooled": np.zeros((3, 4))}, "2 states, 3 pooled"),
                            ({"states": np.zeros((2, 3, 4)), "mask": np.zeros((2, 4))}, r"mask \(2, 4\) of states"),
                            ({"states": np.zeros((2, 3, 4)), "mask": np.array([[1, 0, 0], [0, 0, 0]])}, "no token of text 1 counts")):
        np.savez(tmp_path / "t.npz", **arrays)
        with pytest.raises(TextError, match=message):
            load_texts(tmp_path / "t.npz")
    with pytest.raises(TextError, match="cannot be read"):
        load_texts(tmp_path / "none.npz")
    with pytest.raises(TextError, match="no encoder of prompts"):
        encode("", ["a"])
