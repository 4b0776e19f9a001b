"""The decoder of diffusers' AutoencoderKL -> graph IR: latents as a sampler leaves them -> picture.

    1 / scaling_factor and post_quant_conv -> conv_in -> mid block (ResNet, attention, ResNet)
        -> up blocks (ResNets, nearest x2 and conv) -> GroupNorm, activation, conv_out

Ref: Rombach et al. 2022, section 3.1.
"""

import numpy as np

from litediffusion.sw.diffusers.layers import ACTIVATIONS, DiffusersImport, check_blocks, check_fields, finish_import
from litediffusion.sw.graph import verify

EPS = 1e-6               # of all norms, fixed in diffusers
USED = ("decoder.", "post_quant_conv.")

DEFAULTS = dict(out_channels=3, up_block_types=("UpDecoderBlock2D",), block_out_channels=(64,), layers_per_block=1, act_fn="silu",
                latent_channels=4, norm_num_groups=32, scaling_factor=0.18215, shift_factor=None, latents_mean=None, latents_std=None,
                use_post_quant_conv=True, mid_block_add_attention=True)
SUPPORTED = (("act_fn", tuple(ACTIVATIONS)), ("latents_mean", (None,)), ("latents_std", (None,)))


def checked_config(config):
    """The config with all defaults. Raises UnsupportedLayer for a value that cannot be compiled."""
    full = check_fields("AutoencoderKL", config, DEFAULTS, SUPPORTED)
    check_blocks(full["up_block_types"], ("UpDecoderBlock2D",))
    return full


class DecoderImport(DiffusersImport):
    """State of one import; latents [C, H, W]."""

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
            weight, bias = self.get("post_quant_conv.weight").reshape(channels, channels), self.get("post_quant_conv.bias")
        return self.linear("post_quant_conv", self.latents, weight / c["scaling_factor"], bias + weight.sum(1) * (c["shift_factor"] or 0.0))

    def norm2(self, path, h):
        return self.torch_norm(f"{path}.norm2", h)

    def run(self):
        """The verified graph."""
        c = self.config
        x = self.torch_conv("decoder.conv_in", self.rescaled())
        x = self.resnet("decoder.mid_block.resnets.0", x, self.norm2)
        if c["mid_block_add_attention"]:
            x = self.attention_block("decoder.mid_block.attentions.0", x, self.groups, None)
        x = self.resnet("decoder.mid_block.resnets.1", x, self.norm2)
        for i in range(len(c["up_block_types"])):
            path = f"decoder.up_blocks.{i}"
            for j in range(c["layers_per_block"] + 1):
                x = self.resnet(f"{path}.resnets.{j}", x, self.norm2)
            if i + 1 < len(c["up_block_types"]):
                x = self.upsampled_conv(f"{path}.upsamplers.0", x)
        x = self.act("decoder.conv_act", self.torch_norm("decoder.conv_norm_out", x), self.function)
        self.graph.output = self.torch_conv("decoder.conv_out", x)
        return verify(self.graph)


def import_decoder(config, weights, size):
    """Verified Graph of an AutoencoderKL's decoder for latents of ``size`` (height, width).

    config : dict of config.json; weights : folder.Weights or StateDict. Raises UnsupportedLayer, FolderError.
    """
    config = checked_config(config)
    return finish_import(DecoderImport(config, weights, (config["latent_channels"], *size)))
