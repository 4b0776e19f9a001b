"""Models as diffusers saves them: import equal to diffusers, integer programs near float, bit-exact RTL, samplers, refusals."""

import json

from diffusers import (DDIMPipeline, DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                       FlowMatchEulerDiscreteScheduler)
from hypothesis import HealthCheck, given, settings, strategies as st
import numpy as np
import pytest
import torch

from diffusers_cases import Loaded, compiled, evaluate_program, float_output, mean_sqnr, on_both_devices, unet
from litediffusion.cores.sampler_model import COEF_FRACTION
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.diffusers.folder import FolderError, StateDict, open_folder
from litediffusion.sw.diffusers.scheduler import SchedulerError, scheduler_table
from litediffusion.sw.diffusers.unet2d import import_unet2d
from litediffusion.sw.graph_builder import UnsupportedLayer
from litediffusion.sw.passes import run_passes
from litediffusion.sw.pipeline import compile_model, generate, import_model, upload
from litediffusion.sw.sources import FolderSource, load_model
from litediffusion.sw.reference import evaluate

SMALL = dict(sample_size=16, in_channels=3, out_channels=3, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
             down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
ATTENTION = dict(down_block_types=("AttnDownBlock2D",) * 2, up_block_types=("AttnUpBlock2D",) * 2)
PLAIN = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
# The fields that matter to the compiler, each in a configuration of its own.
CONFIGS = {
    "default": {},
    "heads_of_8": dict(attention_head_dim=8),
    "heads_of_16": dict(ATTENTION, attention_head_dim=16),
    "heads_of_32": dict(ATTENTION, attention_head_dim=32, sample_size=8),
    "one_head": dict(ATTENTION, attention_head_dim=None),
    "resnet_resampling": dict(ATTENTION, downsample_type="resnet", upsample_type="resnet"),
    "scale_shift": dict(PLAIN, resnet_time_scale_shift="scale_shift", attn_norm_num_groups=8),
    "scale_shift_attention": dict(ATTENTION, resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4),
    "asymmetric_padding": dict(PLAIN, downsample_padding=0),
    "sines_first": dict(PLAIN, flip_sin_to_cos=False, freq_shift=1),
    "learned_time": dict(PLAIN, time_embedding_type="learned", num_train_timesteps=1000),
    "wide_time": dict(PLAIN, time_embedding_dim=48),
    "labels": dict(PLAIN, num_class_embeds=10),
    "labels_attention": dict(ATTENTION, num_class_embeds=3),
    "no_mid_block": dict(PLAIN, mid_block_type=None),
    "mid_without_attention": dict(PLAIN, add_attention=False),
    "relu": dict(PLAIN, act_fn="relu"),
    "gelu": dict(PLAIN, act_fn="gelu"),
    "wide_picture": dict(sample_size=(8, 32)),
    "tall_picture": dict(PLAIN, sample_size=(24, 8)),
    "one_channel": dict(in_channels=1, out_channels=1),
    "four_channels": dict(in_channels=4, out_channels=4, sample_size=8),
    "odd_widths": dict(PLAIN, block_out_channels=(24, 40), norm_num_groups=4),
    "odd_parts": dict(PLAIN, block_out_channels=(40, 24)),
    "odd_heads": dict(ATTENTION, block_out_channels=(24, 48), attention_head_dim=24),
    "one_level": dict(block_out_channels=(32,), down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",), sample_size=8),
    "three_levels": dict(block_out_channels=(32, 32, 64), down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3),
    "two_layers": dict(PLAIN, layers_per_block=2, sample_size=8),
    "small_eps": dict(PLAIN, norm_eps=1e-6, norm_num_groups=16),
    "as_ddpm_cifar10": dict(norm_eps=1e-6, downsample_padding=0, freq_shift=1, flip_sin_to_cos=False, attention_head_dim=None,
                            block_out_channels=(32, 64, 64), down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
                            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), sample_size=16, norm_num_groups=32),
}


def make_model(config):
    return unet({**SMALL, **config})


@pytest.mark.parametrize("name", CONFIGS)
def test_import_is_equal_to_diffusers(name):
    model, timesteps = make_model(CONFIGS[name]), [999, 421, 3]
    graph = run_passes(import_unet2d(dict(model.config), StateDict(model.state_dict()), timesteps))
    labels = [0, 2]
    for step, t in enumerate(timesteps):
        x = np.random.default_rng(step).standard_normal((2,) + tuple(graph.shape("sample")))
        want = float_output(model, x, t, labels)
        assert np.abs(evaluate(graph, x, step, labels).numpy() - want).max() < 1e-4 * np.abs(want).max()


# What products read has 8 bits, after each of some 30 to 60 layers of random weights. A wrong scale costs 6 dB.
@pytest.mark.parametrize("name", CONFIGS)
def test_program_is_near_float(name):
    assert mean_sqnr(make_model(CONFIGS[name])) >= 25.0


@st.composite
def configurations(draw):
    """Any UNet2DModel that can be compiled, small ones."""
    groups, levels = draw(st.sampled_from([4, 8])), draw(st.integers(1, 3))
    widths = [groups * draw(st.integers(2, 8)) for _ in range(levels)]
    scale = 2 ** (levels - 1)
    size = (4 * scale, 4 * scale * draw(st.integers(1, 2 if levels < 3 else 1)))         # at most 256 tokens
    channels = draw(st.integers(1, 4))
    blocks = st.lists(st.sampled_from(["", "Attn"]), min_size=levels, max_size=levels)
    return dict(
        sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=tuple(widths), norm_num_groups=groups,
        attn_norm_num_groups=groups, layers_per_block=draw(st.integers(1, 2)), attention_head_dim=draw(st.sampled_from([None, groups])) if levels < 3 else None,
        down_block_types=tuple(f"{a}DownBlock2D" for a in draw(blocks)), up_block_types=tuple(f"{a}UpBlock2D" for a in draw(blocks)),
        downsample_padding=draw(st.integers(0, 1)), act_fn=draw(st.sampled_from(["silu", "relu", "gelu"])),
        resnet_time_scale_shift=draw(st.sampled_from(["default", "scale_shift"])),
        downsample_type=draw(st.sampled_from(["conv", "resnet"])), upsample_type=draw(st.sampled_from(["conv", "resnet"])))


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(configurations())
def test_any_configuration_is_near_float(config):
    assert mean_sqnr(make_model(config)) >= 25.0


@pytest.mark.parametrize("name", ["default", "odd_parts", "labels_attention", "resnet_resampling"])
def test_rtl_is_equal_to_the_model_device(name):
    source, program, _ = compiled(make_model(CONFIGS[name]))
    x = np.random.default_rng(1).standard_normal(source.shape)
    outputs = on_both_devices(program, lambda device: evaluate_program(device, program, x, 1))
    assert (outputs[0] == outputs[1]).all() and outputs[0].any()


# --- folders ---------------------------------------------------------------------------------------------------------


def test_pipeline_folder(tmp_path):
    """The way from a saved pipeline to pictures."""
    model = make_model({})
    DDIMPipeline(model, DDIMScheduler()).save_pretrained(tmp_path / "net")
    source = load_model(str(tmp_path / "net"))
    assert (source.name, source.shape, source.guidance) == ("net", (3, 16, 16), 1.0)
    program = compile_model(source, steps=2, images=2)
    device = ModelDevice()
    upload(device, program)
    pictures = generate(device, program, [0, 0], [1, 2])
    assert pictures.pixels.shape == (2, 3, 16, 16) and pictures.pixels.std() > 10
    assert (pictures.pixels[0] != pictures.pixels[1]).any()


def test_picture_size_can_be_chosen(tmp_path):
    make_model(PLAIN).save_pretrained(tmp_path)
    assert load_model(str(tmp_path), size=24).shape == (3, 24, 24)
    with pytest.raises(UnsupportedLayer, match="multiples of 2"):
        load_model(str(tmp_path), size=9)


def test_sharded_weights(tmp_path):
    model = make_model({})
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    graph, _ = import_model(load_model(str(tmp_path)), 2, "ddim")
    weight = model.state_dict()["conv_in.weight"].double().numpy()
    assert (graph.nodes["conv_in"].attrs["weight"] == weight).all()


def spoil(folder, name, change):
    path = folder / name
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("break_it, error, message", [
    (lambda f: (f / "config.json").write_text("{"), FolderError, "config.json: no JSON"),
    (lambda f: (f / "config.json").unlink(), FolderError, "no diffusers folder"),
    (lambda f: (f / "diffusion_pytorch_model.safetensors").unlink(), FolderError, "no diffusion_pytorch_model.safetensors"),
    (lambda f: (f / "diffusion_pytorch_model.safetensors").rename(f / "diffusion_pytorch_model.bin"), FolderError, "a pickle"),
    (lambda f: (f / "diffusion_pytorch_model.safetensors").write_bytes(b"rubbish"), FolderError, "cannot be read as safetensors"),
    (lambda f: spoil(f, "config.json", lambda c: c.update(_class_name="UNet3DConditionModel")), ValueError, "UNet3DConditionModel"),
    (lambda f: spoil(f, "config.json", lambda c: c.update(layers_per_block=2)), FolderError, r"weight down_blocks\.0\.resnets\.1.* is missing"),
    (lambda f: spoil(f, "config.json", lambda c: c.update(add_attention=False)), UnsupportedLayer, r"mid_block\.attentions\.0.*does not ask for"),
    (lambda f: spoil(f, "config.json", lambda c: c.update(act_fn="mish")), UnsupportedLayer, "act_fn='mish', only 'silu'"),
    (lambda f: spoil(f, "config.json", lambda c: c.update(down_block_types=["SkipDownBlock2D"] * 2)), UnsupportedLayer, "SkipDownBlock2D"),
    (lambda f: spoil(f, "config.json", lambda c: c.update(sample_size=None)), UnsupportedLayer, "give the size"),
])
def test_folders_that_cannot_be_used(tmp_path, break_it, error, message):
    make_model({}).save_pretrained(tmp_path)
    break_it(tmp_path)
    with pytest.raises(error, match=message):
        import_model(load_model(str(tmp_path)), 2)


def test_layers_that_do_not_fit_are_named():
    source = FolderSource(Loaded(make_model(dict(PLAIN, sample_size=12, mid_block_type="UNetMidBlock2D"))))      # 36 tokens
    with pytest.raises(CompileError, match=r"mid_block\.attentions\.0.*36 tokens.*multiples of 16"):
        compile_model(source, steps=2, sampler="ddim", images=1, tiled=True)


# --- samplers --------------------------------------------------------------------------------------------------------


def float_steps(table, x, outputs, noise):
    """The states of a table of coefficients for given network outputs and noise."""
    states, before = [], 0.0
    for coefs, out, z in zip(table, outputs, noise):
        c = {k: v / (1 << COEF_FRACTION) for k, v in coefs.items()}
        x0 = np.clip(c["c1"] * x + c["c2"] * out, -coefs["clip"] / 4096, coefs["clip"] / 4096)
        x = c["a"] * x0 + c["b"] * out + c["c"] * x + c["d"] * before + c["sigma"] * z
        before = x0
        states.append(x)
    return states


@pytest.mark.parametrize("scheduler, options", [
    (DDIMScheduler, {}), (DDIMScheduler, dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1, beta_schedule="scaled_linear",
                                              beta_start=0.00085, beta_end=0.012)),
    (DDIMScheduler, dict(prediction_type="v_prediction", timestep_spacing="trailing")),
    (DDIMScheduler, dict(prediction_type="sample", beta_schedule="squaredcos_cap_v2")),
    (DDPMScheduler, {}), (DDPMScheduler, dict(timestep_spacing="trailing", prediction_type="v_prediction", clip_sample_range=2.0)),
    (DDPMScheduler, dict(variance_type="fixed_large", beta_schedule="squaredcos_cap_v2"))])
def test_sampler_is_that_of_diffusers(tmp_path, scheduler, options, monkeypatch):
    steps, rng = 10, np.random.default_rng(0)
    reference = scheduler(**options)
    reference.save_pretrained(tmp_path)
    timesteps, table = scheduler_table(json.loads((tmp_path / "scheduler_config.json").read_text()), steps)
    reference.set_timesteps(steps)
    assert list(timesteps) == reference.timesteps.tolist()
    x, outputs, noise = rng.standard_normal((3, 4)), 0.5 * rng.standard_normal((steps, 3, 4)), rng.standard_normal((steps, 3, 4))
    drawn = iter(noise)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: torch.tensor(next(drawn)))
    state = torch.tensor(x)
    for got, t, out in zip(float_steps(table, x, outputs, noise), reference.timesteps, outputs):
        state = reference.step(torch.tensor(out), t, state).prev_sample
        assert np.abs(got - state.numpy()).max() < 2e-2 * max(1.0, np.abs(state.numpy()).max())      # coefficients have 14 fraction bits


def of_unit_variance(scheduler, x, t):
    """A state as the network sees it."""
    return scheduler.scale_model_input(torch.tensor(x), t).numpy() if hasattr(scheduler, "scale_model_input") else x


@pytest.mark.parametrize("scheduler, options", [
    (EulerDiscreteScheduler, {}), (EulerDiscreteScheduler, dict(timestep_spacing="leading", steps_offset=1, beta_schedule="scaled_linear",
                                                                beta_start=0.00085, beta_end=0.012)),
    (EulerDiscreteScheduler, dict(timestep_spacing="trailing", prediction_type="v_prediction")),
    (EulerDiscreteScheduler, dict(use_karras_sigmas=True, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)),
    (DPMSolverMultistepScheduler, {}), (DPMSolverMultistepScheduler, dict(timestep_spacing="trailing", prediction_type="v_prediction")),
    (DPMSolverMultistepScheduler, dict(timestep_spacing="leading", steps_offset=1, solver_type="heun", beta_schedule="scaled_linear",
                                       beta_start=0.00085, beta_end=0.012)),
    (DPMSolverMultistepScheduler, dict(use_karras_sigmas=True)), (DPMSolverMultistepScheduler, dict(solver_order=1)),
    (DPMSolverMultistepScheduler, dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)),
    (FlowMatchEulerDiscreteScheduler, {}), (FlowMatchEulerDiscreteScheduler, dict(shift=3.0))])
@pytest.mark.parametrize("steps", [8, 20])
def test_sampler_on_noise_levels_is_that_of_diffusers(tmp_path, scheduler, options, steps):
    reference, rng = scheduler(**options), np.random.default_rng(0)
    reference.save_pretrained(tmp_path)
    times, table = scheduler_table(json.loads((tmp_path / "scheduler_config.json").read_text()), steps)
    reference.set_timesteps(steps)
    assert np.abs(times - reference.timesteps.numpy()).max() < 2e-2
    x, outputs = rng.standard_normal((3, 4)), 0.3 * rng.standard_normal((steps, 3, 4))
    state = torch.tensor(x * float(getattr(reference, "init_noise_sigma", 1.0)))
    start = table[0].get("start", 1.0)
    assert np.abs(start * x - of_unit_variance(reference, state.numpy(), reference.timesteps[0])).max() < 1e-3
    for i, (got, out) in enumerate(zip(float_steps(table, start * x, outputs, np.zeros_like(outputs)), outputs)):
        state = reference.step(torch.tensor(out), reference.timesteps[i], state, return_dict=False)[0]
        last = i + 1 == steps
        want = state.numpy() if last else of_unit_variance(reference, state.numpy(), reference.timesteps[i + 1])
        assert np.abs(got - want).max() < 2e-2 * max(1.0, np.abs(want).max()), i


def test_a_sampler_that_remembers_runs_on_the_rtl():
    """DPM-Solver++: the last prediction goes through DRAM, also for pictures one after the other."""
    source = FolderSource(Loaded(make_model(dict(PLAIN, sample_size=8))))
    program = compile_model(source, steps=4, sampler="dpm++", images=2, tiled=True)
    results = on_both_devices(program, lambda device: generate(device, program, [0, 0], [1, 2]))
    assert (results[0].latents == results[1].latents).all() and results[0].pixels.std() > 5


@pytest.mark.parametrize("config, options, message", [
    ({"_class_name": "PNDMScheduler"}, {}, "PNDMScheduler is not supported; choose a sampler"),
    ({"thresholding": True}, {}, "thresholding=True"), ({"beta_schedule": "laplace"}, {}, "beta_schedule='laplace'"),
    ({"prediction_type": "flow"}, {}, "prediction_type='flow'"), ({"variance_type": "learned"}, {}, "variance_type='learned'"),
    ({"timestep_spacing": "odd"}, {}, "timestep_spacing='odd'"), ({}, {"steps": 1001}, "steps=1001: must be in 1..1000"),
    ({}, {"sampler": "heun"}, "sampler 'heun' is unknown"),
    ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, {}, "solver_order=3, only 1 or 2"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, {}, "use_dynamic_shifting=True")])
def test_schedulers_that_cannot_be_followed(config, options, message):
    with pytest.raises((SchedulerError, ValueError), match=message):
        scheduler_table(config, **{"steps": 10, **options})


def test_other_schedulers_give_their_betas():
    config = dict(_class_name="PNDMScheduler", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1,
                  set_alpha_to_one=False)
    reference = DDIMScheduler(**{k: v for k, v in config.items() if k != "_class_name"}, clip_sample=False)
    assert scheduler_table(config, 20, "ddim")[1] == scheduler_table(dict(reference.config), 20, "ddim")[1]


def test_open_folder_finds_the_parts(tmp_path):
    DDIMPipeline(make_model({}), DDPMScheduler(beta_end=0.03)).save_pretrained(tmp_path)
    folder = open_folder(tmp_path)
    assert folder.config["_class_name"] == "UNet2DModel" and folder.scheduler["beta_end"] == 0.03
