"""``check`` names all that cannot run, with its torch path, the reason and what to do, and predicts no time of the rest."""

import json

import pytest
import torch
from torch import nn
import torch.nn.functional as F
from typer.testing import CliRunner

from diffusers_cases import dit, unet
from litediffusion.sw.cli.main import app
from litediffusion.sw.graph import GraphError
from litediffusion.sw.graph_builder import UnsupportedLayer
from litediffusion.sw.problems import Problem, collecting, not_looked_at, refuse, refuse_or_skip
from litediffusion.sw.sources import ModelSource, load_model

PLAIN = dict(_class_name="UNet2DModel", sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
             down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
TEXT = dict(_class_name="UNet2DConditionModel", sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
            cross_attention_dim=32, attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
PATCHES = dict(_class_name="DiTTransformer2DModel", num_attention_heads=2, attention_head_dim=32, in_channels=4, num_layers=2, sample_size=16,
               patch_size=2, num_embeds_ada_norm=9)
VAE = dict(_class_name="AutoencoderKL", in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 64), layers_per_block=1,
           norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)


def save_config(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def check(model, *args, code=1):
    """(report, text) of a model."""
    runs = [CliRunner().invoke(app, ["check", str(model), "--steps", "2", *map(str, args), *more]) for more in (["--json"], [])]
    for run in runs:
        assert run.exit_code == code and "error" not in run.stderr, run.output + str(run.exception)
    return json.loads(runs[0].stdout), runs[1].stdout


def reasons(report):
    """[(torch path, "operator: reason")]."""
    return [(p["path"], f"{p['operator']}: {p['reason']}") for p in report["unsupported"]]


def compare(report, text, wanted):
    """The report holds the wanted problems and no others, the text too, and neither has figures of time."""
    found = reasons(report)
    assert [path for path, _ in found] == [path for path, _ in wanted], found
    for (path, reason), (_, part) in zip(found, wanted):
        assert part in reason and reason in text and (path or "the top of the model") in text
    assert not report["runs"] and all(p["remedy"] for p in report["unsupported"])
    assert "cycles" not in text and not {"step_seconds", "picture_seconds", "descriptors", "image_bytes"} & set(report)
    assert "cycles" not in json.dumps(report["layers"])


# --- folders ---------------------------------------------------------------------------------------------------------

HEADS = "Attention: 64 channels are no multiple of attention_head_dim=24"


@pytest.mark.parametrize("config, wanted", [
    (dict(PLAIN, act_fn="mish", down_block_types=("SkipDownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "SkipUpBlock2D")),
     [("", "act_fn='mish', only 'silu'"), ("down_blocks.0", "SkipDownBlock2D: known blocks are"), ("up_blocks.1", "SkipUpBlock2D: known blocks are")]),
    (dict(PLAIN, attention_head_dim=24, center_input_sample=True),
     [("", "center_input_sample=True, only False"), ("down_blocks.1.attentions.0", HEADS), ("mid_block.attentions.0", HEADS),
      ("up_blocks.0.attentions.0", HEADS), ("up_blocks.0.attentions.1", HEADS)]),
    (dict(PLAIN, sample_size=9, num_class_embeds=3, resnet_time_scale_shift="scale_shift"),
     [("", "num_class_embeds with resnet_time_scale_shift"), ("", "pictures of 9x9: both must be multiples of 2")]),
    (dict(PLAIN, in_channels=9, attention_head_dim=24, add_attention=False, down_block_types=("DownBlock2D",) * 2, out_channels=12),
     [("up_blocks.0.attentions.0", HEADS), ("up_blocks.0.attentions.1", HEADS), ("sample", "9 input channels, the limit is 8"),
      ("conv_out", "12 output channels, the limit is 8")]),
    (dict(TEXT, attention_head_dim=(3, 2), conv_out_kernel=5),
     [("", "conv_out_kernel=5, only 3"), ("down_blocks.0.attentions.0", "no multiple of 3 heads"), ("up_blocks.1.attentions.0", "no multiple of 3"),
      ("up_blocks.1.attentions.1", "no multiple of 3")]),
    (dict(TEXT, sample_size=12, mid_block_type="UNetMidBlock2DSimpleCrossAttn", time_cond_proj_dim=32, down_block_types=("CrossAttnDownBlock2D",) * 2),
     [("", "mid_block_type='UNetMidBlock2DSimpleCrossAttn'"), ("", "time_cond_proj_dim=32"),
      ("down_blocks.1.attentions.0.transformer_blocks.0.attn1", "attention: 36 tokens, heads of 32 channels; both must be multiples of 16")]),
    (dict(PATCHES, patch_size=3, activation_fn="linear-silu", out_channels=6),
     [("", "activation_fn='linear-silu'"), ("pos_embed", "patch_size=3, only 1 or 2 or 4 or 8"), ("", "out_channels=6, only 4 or"),
      ("pos_embed", "latents of 16x16")]),
    (dict(PATCHES, sample_size=12, in_channels=12),
     [("sample", "12 input channels"), ("transformer_blocks.0.attn1", "36 tokens"), ("transformer_blocks.1.attn1", "36 tokens"),
      ("proj_out_2", "12 output channels")]),
])
def test_all_that_cannot_run_is_named(config, wanted, tmp_path):
    save_config(tmp_path, config)
    report, text = check(tmp_path)
    compare(report, text, wanted)
    assert report["layers"] and not {layer["name"] for layer in report["layers"]} & {path for path, _ in wanted}


def test_attention_of_too_many_tokens_is_named_wherever_it_is(tmp_path):
    config = dict(PATCHES, sample_size=512)             # 65,536 tokens
    save_config(tmp_path, config)
    report, text = check(tmp_path, "--target", "ulx3s")
    compare(report, text, [(f"transformer_blocks.{i}.attn1", "65536 tokens with heads of 32 channels exceed") for i in range(2)])
    assert any(layer["path"] == "transformer_blocks.1.ff.net.2" for layer in report["layers"])


def test_what_does_not_fit_a_stand_in_is_not_looked_at(tmp_path):
    """Sines of another kind are twice as wide: the layer behind them cannot be looked at, nor is it blamed."""
    save_config(tmp_path, dict(PLAIN, time_embedding_type="fourier"))
    report, text = check(tmp_path)
    compare(report, text, [("", "time_embedding_type='fourier'")])
    assert [entry["path"] for entry in report["not_looked_at"]] == ["time_embedding"] and "not looked at: time_embedding: " in text
    assert any(layer["path"] == "conv_out" for layer in report["layers"])


def test_weights_whose_shapes_are_not_known(tmp_path):
    """A block that diffusers does not know either, without weights: its name is all that can be said."""
    save_config(tmp_path, dict(PLAIN, down_block_types=("OddBlock", "DownBlock2D"), act_fn="mish"))
    report, text = check(tmp_path)
    compare(report, text, [("", "act_fn='mish'"), ("down_blocks.0", "OddBlock: known blocks are")])
    assert len(report["not_looked_at"]) > 5 and "more: config.json: diffusers makes no UNet2DModel of it" in text


def test_weights_of_a_block_that_is_not_known(tmp_path):
    """With the weights there, all the rest is looked at."""
    unet({k: v for k, v in PLAIN.items() if k != "_class_name"}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"down_block_types": ["OddBlock", "AttnDownBlock2D"], "attention_head_dim": 24}))
    report, text = check(tmp_path)
    compare(report, text, [("down_blocks.0", "OddBlock"), ("down_blocks.1.attentions.0", HEADS), ("mid_block.attentions.0", HEADS),
                           ("up_blocks.0.attentions.0", HEADS), ("up_blocks.0.attentions.1", HEADS)])
    assert not report["not_looked_at"]


def test_weights_that_are_left_over(tmp_path):
    dit({k: v for k, v in PATCHES.items() if k != "_class_name"}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_layers": 1}))
    report, text = check(tmp_path)
    compare(report, text, [("transformer_blocks.1.attn1.to_k.bias", "the config does not ask for this weight")])


def test_a_size_that_is_not_known_is_named_with_the_rest(tmp_path):
    save_config(tmp_path, dict(PLAIN, sample_size=None, act_fn="mish", mid_block_scale_factor=2))
    report, text = check(tmp_path)
    compare(report, text, [("", "mid_block_scale_factor=2"), ("", "act_fn='mish'"), ("", "the config has no sample_size")])
    assert [entry["path"] for entry in report["not_looked_at"]] == ["network"]


def test_all_parts_of_a_pipeline_are_looked_at(tmp_path):
    save_config(tmp_path / "unet", dict(TEXT, time_cond_proj_dim=32))
    save_config(tmp_path / "vae", dict(VAE, up_block_types=("UpDecoderBlock2D", "AttnUpDecoderBlock2D"), latents_mean=[0.0] * 4))
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler", "thresholding": True}))
    report, text = check(tmp_path)
    compare(report, text, [("", "time_cond_proj_dim=32"), ("scheduler", "thresholding=True"), ("", "latents_mean=[0.0, 0.0, 0.0, 0.0]"),
                           ("decoder.up_blocks.1", "AttnUpDecoderBlock2D")])
    assert any(layer["name"].startswith("decoder.up_blocks.0.resnets.0") for layer in report["layers"])


def test_compile_refuses_with_the_first(tmp_path):
    save_config(tmp_path, dict(PLAIN, act_fn="mish", down_block_types=("SkipDownBlock2D", "AttnDownBlock2D")))
    with pytest.raises(UnsupportedLayer, match="act_fn='mish', only 'silu'"):
        load_model(str(tmp_path), look=True)


def test_limits_of_the_whole_program_stay_errors():
    run = CliRunner().invoke(app, ["check", "digits", "--steps", "200", "--window", "1"])
    assert run.exit_code == 1 and "the engine's window has" in " ".join(run.output.split())


# --- torch modules ---------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Many things that cannot run, some behind others."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.SiLU())
        self.tokens, self.time = nn.Linear(16, 16), nn.Embedding(1000, 16)

    def forward(self, x, t, y):
        h = self.block(self.first(x)) + self.time(t)[:, :, None, None]
        h = F.softplus(torch.cumsum(F.softplus(h), 1))
        h = self.tokens(h.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(-1, 16, 16, 16)
        return self.last(F.silu(h))


class Plain(nn.Module):
    """A model of two convolutions and a function of what is between them."""

    def __init__(self, between):
        super().__init__()
        self.first, self.last, self.between = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1), between

    def forward(self, x, t, y):
        return self.last(self.between(self.first(x)))


def odd():
    return ModelSource(Odd().eval(), (1, 16, 16), 1, 0, "odd")


def two_functions():
    return ModelSource(Plain(lambda h: torch.cumsum(F.softplus(h), 1)).eval(), (1, 16, 16), 1, 0, "two")


class Heads(nn.Module):
    """Attention of 16 channels."""

    def __init__(self, heads):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(2, 16)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        return x


def heads():
    return ModelSource(Plain(nn.Sequential(Heads(3), nn.ReLU(), Heads(5), nn.LSTM(16, 16))).eval(), (1, 16, 16), 1, 0, "heads")


def late():
    """A sum whose shapes do not fit, after what the import refuses."""
    return ModelSource(Plain(lambda h: F.softplus(h) + F.interpolate(h, scale_factor=2)).eval(), (1, 16, 16), 1, 0, "late")


def untraceable():
    return ModelSource(Plain(lambda h: h if h.sum() > 0 else -h).eval(), (1, 16, 16), 1, 0, "untraceable")


def test_two_functions():
    report, text = check(f"{__name__}:two_functions")
    compare(report, text, [("", "softplus: the engine has no such operation"), ("", "cumsum: the engine has no such operation")])
    assert [layer["name"] for layer in report["layers"]] == ["x", "first", "last"]


def test_modules_and_functions_are_all_named():
    report, text = check(f"{__name__}:odd")
    compare(report, text, [
        ("block.0", "Conv2d: groups=16, only 1"), ("block.1", "BatchNorm2d: there is no instruction sequence"), ("time", "its index is not the label"),
        ("", "softplus: "), ("", "cumsum: "), ("", "softplus (softplus_1): "), ("", "call_method flatten"), ("", "call_method transpose"),
        ("", "call_method transpose (transpose_1)"), ("", "call_method reshape")])
    assert [entry["path"] for entry in report["not_looked_at"]] == ["tokens"]          # its input is no picture
    assert {"first", "block.2", "silu", "last"} <= {layer["name"] for layer in report["layers"]}


def test_shapes_that_do_not_fit_are_named_after_others():
    report, text = check(f"{__name__}:late")
    compare(report, text, [("", "softplus: "), ("", "add of (16, 16, 16) and (16, 32, 32)")])


def test_heads_that_do_not_divide_the_channels():
    report, text = check(f"{__name__}:heads")
    compare(report, text, [("between.0", "attention: 16 channels are no multiple of 3 heads"), ("between.2", "16 channels are no multiple of 5 heads"),
                           ("between.3", "LSTM: there is no instruction sequence")])
    assert [entry["path"] for entry in report["not_looked_at"]] == ["last", "output"]       # nobody knows what the LSTM gives


def test_layers_that_are_alike_are_lowered_once(tmp_path):
    """What stands in for a layer that is like one before has its shape, heads filled up."""
    save_config(tmp_path, dict(PATCHES, attention_head_dim=24, num_layers=3, norm_type="odd"))
    report, text = check(tmp_path)
    compare(report, text, [("", "norm_type='odd'")])


def test_untraceable():
    report, text = check(f"{__name__}:untraceable")
    compare(report, text, [("", "Plain: its forward() cannot be traced")])
    assert [entry["path"] for entry in report["not_looked_at"]] == ["network"]


# --- the collector ---------------------------------------------------------------------------------------------------


def test_refusals_raise_outside_and_are_kept_inside():
    layer, other = UnsupportedLayer("Odd", "it is odd", "a.b", "make it even"), GraphError("does not fit")
    for act, error in ((lambda: refuse(layer), UnsupportedLayer), (lambda: refuse_or_skip(other, "c"), GraphError),
                       (lambda: not_looked_at(other, "c"), GraphError)):
        with pytest.raises(error):
            act()
    with collecting() as problems:
        assert not problems
        refuse_or_skip(other, "c", "conv")
        refuse(layer)
        refuse(layer)
        refuse_or_skip(other, "d")
    assert problems.found == [Problem("c", "conv", "does not fit"), Problem("a.b", "Odd", "it is odd", "make it even")]
    assert problems.unseen == {"d": "does not fit"}
    with pytest.raises(UnsupportedLayer, match="layer Odd at a.b: it is odd; make it even"):
        refuse(layer)
