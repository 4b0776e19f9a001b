"""diffusers' UNet2DModel -> graph IR, from its config and weights; diffusers itself is not needed.

    conv_in -> down blocks (ResNet, attention, stride-2 conv; each output is a skip) -> mid block
            -> up blocks (skip by concat, ResNet, attention, nearest x2 and conv) -> GroupNorm, SiLU, conv_out

Names in the graph are the torch paths. What depends on the timestep alone is left to the pass ``fold_steps``.
Ref: Ho et al. 2020; Song et al. 2021 (ResNet-type resampling); Dhariwal and Nichol 2021 (scale_shift).
"""

import math

import numpy as np

from litediffusion.sw.diffusers.layers import ACTIVATIONS, DiffusersImport, check_blocks, check_fields, chosen_size, finish_import, known_block
from litediffusion.sw.graph import verify
from litediffusion.sw.graph_builder import UnsupportedLayer
from litediffusion.sw.problems import refuse

BLOCKS = {"DownBlock2D": False, "AttnDownBlock2D": True, "UpBlock2D": False, "AttnUpBlock2D": True}    # with attention

# Defaults of UNet2DModel's arguments, for the fields that a config.json leaves out.
DEFAULTS = dict(
    sample_size=None, in_channels=3, out_channels=3, center_input_sample=False, time_embedding_type="positional",
    time_embedding_dim=None, freq_shift=0, flip_sin_to_cos=True, down_block_types=("DownBlock2D",) + ("AttnDownBlock2D",) * 3,
    mid_block_type="UNetMidBlock2D", up_block_types=("AttnUpBlock2D",) * 3 + ("UpBlock2D",), block_out_channels=(224, 448, 672, 896),
    layers_per_block=2, mid_block_scale_factor=1, downsample_padding=1, downsample_type="conv", upsample_type="conv", dropout=0.0,
    act_fn="silu", attention_head_dim=8, norm_num_groups=32, attn_norm_num_groups=None, norm_eps=1e-5,
    resnet_time_scale_shift="default", add_attention=True, class_embed_type=None, num_class_embeds=None, num_train_timesteps=None)

# (field, values that can be compiled) of what the engine or this importer restricts.
SUPPORTED = (
    ("center_input_sample", (False,)), ("time_embedding_type", ("positional", "learned")), ("mid_block_type", (None, "UNetMidBlock2D")),
    ("mid_block_scale_factor", (1,)), ("downsample_padding", (0, 1)), ("downsample_type", ("conv", "resnet", None)),
    ("upsample_type", ("conv", "resnet", None)), ("resnet_time_scale_shift", ("default", "scale_shift")), ("class_embed_type", (None,)),
    ("act_fn", tuple(ACTIVATIONS)))


def checked_config(config):
    """The config with all defaults. Raises UnsupportedLayer for a value that cannot be compiled."""
    full = check_fields("UNet2DModel", config, DEFAULTS, SUPPORTED)
    check_blocks(full["down_block_types"], BLOCKS, "down_blocks")
    check_blocks(full["up_block_types"], BLOCKS, "up_blocks")
    if full["num_class_embeds"] and full["resnet_time_scale_shift"] == "scale_shift":
        refuse(UnsupportedLayer("UNet2DModel", "num_class_embeds with resnet_time_scale_shift='scale_shift': the scale of a norm may depend "
                                "on the timestep, not on the label", "", "train with resnet_time_scale_shift='default', or without classes"))
        full["num_class_embeds"] = None
    return full


def image_size(config, size=None):
    """(height, width) of the picture: ``size``, else the config's sample_size. Raises UnsupportedLayer."""
    height, width = chosen_size("UNet2DModel", config, size)
    step = 2 ** (len(config["block_out_channels"]) - 1)
    if height % step or width % step:
        refuse(UnsupportedLayer("UNet2DModel", f"pictures of {height}x{width}: both must be multiples of {step}, or a skip does not fit", "",
                                "choose another size (--size)"))
        height, width = (max(4 * step, side - side % (4 * step)) for side in (height, width))       # 4: attention takes 16 pixels at a time
    return height, width


def sinusoids(timesteps, width, flip, shift):
    """diffusers' Timesteps [T, width]: sines, then cosines; ``flip``: the other way round; ``shift``: of the frequencies' number."""
    half = width // 2
    frequencies = np.exp(-math.log(10000) * np.arange(half) / (half - shift))
    angles = np.asarray(timesteps, float)[:, None] * frequencies
    parts = [np.sin(angles), np.cos(angles)]
    return np.pad(np.concatenate(parts[::-1] if flip else parts, axis=1), ((0, 0), (0, width % 2)))


class UNet2DImport(DiffusersImport):
    """State of one import."""

    KNOWN = BLOCKS
    TIME_FUNCTION = "SILU"      # of the time embedding's hidden layer; None: the config's

    def __init__(self, config, weights, size, timesteps):
        DiffusersImport.__init__(self, weights, config["norm_num_groups"], config["norm_eps"], config["act_fn"])
        self.config, self.timesteps = config, timesteps
        self.x = self.node("sample", "input", [], (config["in_channels"], *size))

    def unread(self):
        """Weights that nobody asked for."""
        return sorted(self.weights.unread)

    # --- embeddings ----------------------------------------------------------------------------------------------------

    def time_embedding(self):
        """SiLU of the time (and class) embedding, a vector."""
        x = self.time_vector()
        if self.config["num_class_embeds"]:
            self.path = "class_embedding"
            x = self.add("emb", x, self.label_table("class_embedding", self.get("class_embedding.weight")))
        return self.act("emb_act", x, self.function)

    def time_vector(self):
        """The time embedding."""
        c, self.path = self.config, "time_proj"
        if c["time_embedding_type"] == "learned":
            values = self.get("time_proj.weight")[np.asarray(self.timesteps)]
        else:
            values = sinusoids(self.timesteps, c["block_out_channels"][0], c["flip_sin_to_cos"], c["freq_shift"])
        hidden = self.torch_linear("time_embedding.linear_1", self.step_table("time_proj", values))
        return self.torch_linear("time_embedding.linear_2", self.act("time_embedding.act", hidden, self.TIME_FUNCTION or self.function))

    # --- blocks --------------------------------------------------------------------------------------------------------

    def embedded_norm(self, path, h):
        """The second norm of a ResNet, the time embedding before it (added) or after it (scale and shift)."""
        embedded = self.torch_linear(f"{path}.time_emb_proj", self.embedding)
        if self.config["resnet_time_scale_shift"] == "default":
            return self.torch_norm(f"{path}.norm2", self.add(f"{path}.temb", h, embedded))
        h = self.torch_norm(f"{path}.norm2", h)
        return self.node(f"{path}.modulate", "modulate", [h, embedded], self.shape(h))

    def time_resnet(self, path, x, resample=None):
        return self.resnet(path, x, self.embedded_norm, resample)

    def block_resnet(self, path, kind, x, j):
        """ResNet ``j`` of a block."""
        known_block(kind, self.KNOWN, path)
        return self.time_resnet(f"{path}.resnets.{j}", x)

    def downsample(self, path, kind, x):
        """The end of a down block. Blocks without attention know only the convolution."""
        known_block(kind, self.KNOWN, path)
        if BLOCKS.get(kind) and self.config["downsample_type"] == "resnet":
            return self.time_resnet(f"{path}.downsamplers.0", x, self.average)
        pad = self.config["downsample_padding"]
        return self.torch_conv(f"{path}.downsamplers.0.conv", x, 2, pad, **({} if pad else {"pad_end": 1}))

    def upsampled(self, path, kind, x):
        """The end of an up block."""
        known_block(kind, self.KNOWN, path)
        if BLOCKS.get(kind) and self.config["upsample_type"] == "resnet":
            return self.time_resnet(f"{path}.upsamplers.0", x, self.upsample)
        return self.upsampled_conv(f"{path}.upsamplers.0", x)

    # --- the network ---------------------------------------------------------------------------------------------------

    def begin(self):
        """The time embedding, and the first convolution's output."""
        c, width = self.config, self.config["block_out_channels"][0]
        self.embedding = self.part("time_embedding", (c["time_embedding_dim"] or 4 * width, 1, 1), self.time_embedding)
        return self.part("conv_in", (width, *self.shape(self.x)[1:]), self.torch_conv, "conv_in", self.x)

    def end(self, x, function):
        """The last norm and convolution; the verified graph."""
        x = self.act("conv_act", self.part("conv_norm_out", self.shape(x), self.torch_norm, "conv_norm_out", x), function)
        self.graph.output = self.part("conv_out", (self.config["out_channels"], *self.shape(x)[1:]), self.torch_conv, "conv_out", x)
        return verify(self.graph)

    def layer_resnet(self, path, kind, x, number, j, skips=None):
        """ResNet ``j`` of a block of the width of block ``number`` of the way down, of x and the skip that an up block takes."""
        x = x if skips is None else self.cat(f"{path}.cat{j}", [x, skips.pop()])
        shape = (self.config["block_out_channels"][number], *self.shape(x)[1:])
        return self.part(f"{path}.resnets.{j}", shape, self.block_resnet, path, kind, x, j)

    def down_end(self, path, kind, x):
        c, h, w = self.shape(x)
        return self.part(f"{path}.downsamplers.0", (c, h // 2, w // 2), self.downsample, path, kind, x)

    def up_end(self, path, kind, x):
        c, h, w = self.shape(x)
        return self.part(f"{path}.upsamplers.0", (c, 2 * h, 2 * w), self.upsampled, path, kind, x)

    def layers(self, path, kind, x, number, count, skips=None):
        """ResNets (and attentions) of a block; each one's output."""
        for j in range(count):
            x = self.layer_resnet(path, kind, x, number, j, skips)
            if BLOCKS.get(kind):
                x = self.attended(f"{path}.attentions.{j}", x, self.groups)
            yield x

    def attended(self, path, x, groups):
        return self.part(path, self.shape(x), self.attention_block, path, x, groups, self.config["attention_head_dim"])

    def run(self):
        """The verified graph."""
        c, x = self.config, self.begin()
        skips, last = [x], len(c["down_block_types"]) - 1
        for i, kind in enumerate(c["down_block_types"]):
            for x in self.layers(f"down_blocks.{i}", kind, x, i, c["layers_per_block"]):
                skips.append(x)
            if i < last:
                x = self.down_end(f"down_blocks.{i}", kind, x)
                skips.append(x)
        x = self.mid(x) if c["mid_block_type"] else x
        for i, kind in enumerate(c["up_block_types"]):
            *_, x = self.layers(f"up_blocks.{i}", kind, x, last - i, c["layers_per_block"] + 1, skips)
            if i < last:
                x = self.up_end(f"up_blocks.{i}", kind, x)
        return self.end(x, "SILU")

    def mid_resnet(self, x, j):
        path = f"mid_block.resnets.{j}"
        return self.part(path, self.shape(x), self.time_resnet, path, x)

    def mid(self, x):
        c = self.config
        x = self.mid_resnet(x, 0)
        if c["add_attention"]:
            x = self.attended("mid_block.attentions.0", x, c["attn_norm_num_groups"] or self.groups)
        return self.mid_resnet(x, 1)


def import_unet2d(config, weights, timesteps, size=None):
    """Verified Graph of a UNet2DModel.

    Parameters
    ----------
    config : dict of config.json; weights : folder.Weights or StateDict; timesteps : the sampler's, first to last.
    size : picture's height and width, one number or two; None: the config's sample_size.
    Raises UnsupportedLayer, FolderError (weights that are missing or left over).
    """
    config = checked_config(config)
    return finish_import(UNet2DImport(config, weights, image_size(config, size), timesteps))
