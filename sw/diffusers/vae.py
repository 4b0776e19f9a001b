"""Decoders of diffusers' AutoencoderKL and AutoencoderTiny -> graph IR: latents as a sampler leaves them -> picture.

AutoencoderKL:   1 / scaling_factor and post_quant_conv -> conv_in -> mid block (ResNet, attention, ResNet)
                 -> up blocks (ResNets, nearest x2 and conv) -> GroupNorm, activation, conv_out
AutoencoderTiny: 3 tanh(x / 3) -> conv, activation -> blocks (three convs and residual, ReLU), nearest x2, conv ... -> 2 x - 1
Ref: Rombach et al. 2022, section 3.1; madebyollin/taesd.
"""

import numpy as np

from litediffusion.sw.diffusers.layers import ACTIVATIONS, DiffusersImport, check_blocks, check_fields, finish_import, known_block
from litediffusion.sw.graph import verify
from litediffusion.sw.graph_builder import UnsupportedLayer

EPS = 1e-6               # of all norms, fixed in diffusers
BLOCKS = ("UpDecoderBlock2D",)
USED = ("decoder.", "post_quant_conv.")

DEFAULTS = dict(out_channels=3, up_block_types=("UpDecoderBlock2D",), block_out_channels=(64,), layers_per_block=1, act_fn="silu",
                latent_channels=4, norm_num_groups=32, scaling_factor=0.18215, shift_factor=None, latents_mean=None, latents_std=None,
                use_post_quant_conv=True, mid_block_add_attention=True)
SUPPORTED = (("act_fn", tuple(ACTIVATIONS)), ("latents_mean", (None,)), ("latents_std", (None,)))


def checked_config(config):
    """The config with all defaults. Raises UnsupportedLayer for a value that cannot be compiled."""
    full = check_fields("AutoencoderKL", config, DEFAULTS, SUPPORTED)
    check_blocks(full["up_block_types"], BLOCKS, "decoder.up_blocks")
    return full


class DecoderImport(DiffusersImport):
    """State of one import; latents [C, H, W]."""

    timesteps = (0,)         # a decoder has one evaluation

    def __init__(self, config, weights, shape):
        DiffusersImport.__init__(self, weights, config["norm_num_groups"], EPS, config["act_fn"])
        self.config = config
        self.latents = self.node("latents", "input", [], shape)

    def unread(self):
        """Weights of the decoder that nobody asked for; the encoder's have no use here."""
        return sorted(name for name in self.weights.unread if name.startswith(USED))

    def rescaled(self):
        """post_quant_conv of latents / scaling_factor + shift_factor, as one layer."""
        c, channels = self.config, self.config["latent_channels"]
        weight, bias, self.path = np.eye(channels), np.zeros(channels), "post_quant_conv"
        if c["use_post_quant_conv"]:
            weight, bias = self.double("post_quant_conv.weight").reshape(channels, channels), self.get("post_quant_conv.bias")
        return self.linear("post_quant_conv", self.latents, weight / c["scaling_factor"], bias + weight.sum(1) * (c["shift_factor"] or 0.0))

    def norm2(self, path, h):
        return self.torch_norm(f"{path}.norm2", h)

    def mid_block(self, x):
        x = self.resnet("decoder.mid_block.resnets.0", x, self.norm2)
        if self.config["mid_block_add_attention"]:
            x = self.attention_block("decoder.mid_block.attentions.0", x, self.groups, None)
        return self.resnet("decoder.mid_block.resnets.1", x, self.norm2)

    def last_layers(self, x):
        x = self.act("decoder.conv_act", self.torch_norm("decoder.conv_norm_out", x), self.function)
        return self.torch_conv("decoder.conv_out", x)

    def up_block(self, path, kind, x, upsample):
        known_block(kind, BLOCKS, path)
        for j in range(self.config["layers_per_block"] + 1):
            x = self.resnet(f"{path}.resnets.{j}", x, self.norm2)
        return self.upsampled_conv(f"{path}.upsamplers.0", x) if upsample else x

    def run(self):
        """The verified graph."""
        c = self.config
        x = self.part("post_quant_conv", self.shape(self.latents), self.rescaled)
        x = self.part("decoder.conv_in", (c["block_out_channels"][-1], *self.shape(x)[1:]), self.torch_conv, "decoder.conv_in", x)
        x = self.part("decoder.mid_block", self.shape(x), self.mid_block, x)
        last = len(c["up_block_types"]) - 1
        for i, kind in enumerate(c["up_block_types"]):
            path, (_, h, w) = f"decoder.up_blocks.{i}", self.shape(x)
            scale = 2 if i < last else 1
            x = self.part(path, (c["block_out_channels"][last - i], scale * h, scale * w), self.up_block, path, kind, x, i < last)
        self.graph.output = self.part("decoder.conv_out", (c["out_channels"], *self.shape(x)[1:]), self.last_layers, x)
        return verify(self.graph)


TINY_DEFAULTS = dict(out_channels=3, latent_channels=4, decoder_block_out_channels=(64,) * 4, num_decoder_blocks=(3, 3, 3, 1), act_fn="relu",
                     upsampling_scaling_factor=2, upsample_fn="nearest", scaling_factor=1.0, shift_factor=None)
TINY_SUPPORTED = (("act_fn", tuple(ACTIVATIONS)), ("upsampling_scaling_factor", (2,)), ("upsample_fn", ("nearest",)),
                  ("shift_factor", (None, 0, 0.0)))
TANH_RANGE = 3.0         # latents are limited to this


class TinyDecoderImport(DiffusersImport):
    """State of one import of an AutoencoderTiny; latents [C, H, W]."""

    def __init__(self, config, weights, shape):
        DiffusersImport.__init__(self, weights, None, None, config["act_fn"])
        self.config, self.layer = config, 0
        self.latents = self.node("latents", "input", [], shape)

    def unread(self):
        """Weights of the decoder that nobody asked for."""
        return sorted(name for name in self.weights.unread if name.startswith("decoder."))

    def next_path(self):
        """Path of the next entry of the decoder's list of layers."""
        self.layer += 1
        return f"decoder.layers.{self.layer - 1}"

    def scaled_conv(self, x, scale, offset=None):
        """A convolution whose result is multiplied, and shifted (with a bias then)."""
        path = self.path = self.next_path()
        weight, bias = self.double(f"{path}.weight"), None
        if offset is not None:
            bias = scale * self.get(f"{path}.bias") + offset
        return self.conv(path, x, scale * weight, bias, 1, 1)

    def limited(self):
        """tanh(latents / scaling_factor / 3); the next layer multiplies by 3."""
        channels = self.config["latent_channels"]
        x = self.linear("limit", self.latents, np.eye(channels) / (self.config["scaling_factor"] * TANH_RANGE), None)
        return self.act("limit.tanh", x, "TANH")

    def first(self):
        path = self.path = self.next_path()
        x = self.conv(path, self.limited(), TANH_RANGE * self.double(f"{path}.weight"), self.get(f"{path}.bias"), 1, 1)
        return self.act(self.next_path(), x, self.function)

    def block(self, x):
        """AutoencoderTinyBlock."""
        path, h = self.next_path(), x
        for number in (0, 2, 4):
            h = self.torch_conv(f"{path}.conv.{number}", h)
            h = self.act(f"{path}.act{number}", h, self.function) if number < 4 else h
        if f"{path}.skip.weight" in self.weights:
            x = self.torch_linear(f"{path}.skip", x, bias=False)
        self.path = path
        return self.act(f"{path}.fuse", self.add(f"{path}.sum", h, x), "RELU")

    def run(self):
        """The verified graph."""
        x, counts = self.first(), self.config["num_decoder_blocks"]
        for i, count in enumerate(counts):
            for _ in range(count):
                x = self.block(x)
            if i + 1 < len(counts):
                x = self.scaled_conv(self.upsample(self.next_path(), x), 1.0)
        self.graph.output = self.scaled_conv(x, 2.0, -1.0)
        return verify(self.graph)


def picture_scale(config):
    """Pixels a side of the picture to one of the latents, by an autoencoder's config."""
    tiny = config.get("_class_name") == "AutoencoderTiny"
    name = "decoder_block_out_channels" if tiny else "block_out_channels"
    return 2 ** (len(config.get(name, (TINY_DEFAULTS if tiny else DEFAULTS)[name])) - 1)


def import_decoder(config, weights, size):
    """Verified Graph of a decoder for latents of ``size`` (height, width).

    config : dict of config.json of an AutoencoderKL or AutoencoderTiny; weights : folder.Weights or StateDict.
    Raises UnsupportedLayer, FolderError.
    """
    kind = config.get("_class_name", "AutoencoderKL")
    if kind == "AutoencoderTiny":
        config = check_fields(kind, config, TINY_DEFAULTS, TINY_SUPPORTED)
        return finish_import(TinyDecoderImport(config, weights, (config["latent_channels"], *size)))
    if kind != "AutoencoderKL":
        raise UnsupportedLayer(kind, "known decoders are those of AutoencoderKL and AutoencoderTiny", "vae")
    config = checked_config(config)
    return finish_import(DecoderImport(config, weights, (config["latent_channels"], *size)))
