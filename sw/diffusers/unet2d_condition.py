"""diffusers' UNet2DConditionModel -> graph IR: a U-Net that attends to tokens of a text, from its config and weights.

    conv_in -> down blocks (ResNet, transformer, stride-2 conv; each output is a skip) -> mid block
            -> up blocks (skip by concat, ResNet, transformer, nearest x2 and conv) -> GroupNorm, SiLU, conv_out
    transformer: GroupNorm, linear, blocks, linear, residual
    block: x += attention(LN x); x += attention(LN x to the text); x += W2 (h * GELU(g)) with (h, g) = W1 LN x

What the text brings are tables by label that the host fills later (``runtime``): label 0 is that of no text.
Ref: Rombach et al. 2022; Podell et al. 2023 (text_time).
"""

import numpy as np

from litediffusion.sw.diffusers.layers import check_blocks, check_fields, check_texts, finish_import
from litediffusion.sw.diffusers.unet2d import DEFAULTS as UNET2D_DEFAULTS
from litediffusion.sw.diffusers.unet2d import UNet2DImport, image_size, sinusoids
from litediffusion.sw.graph_builder import UnsupportedLayer
from litediffusion.sw.problems import refuse

TRANSFORMER_NORM_EPS, LAYER_NORM_EPS = 1e-6, 1e-5        # fixed in diffusers' Transformer2DModel
CROSS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False, "CrossAttnUpBlock2D": True, "UpBlock2D": False}
MID_BLOCKS = (None, "UNetMidBlock2DCrossAttn", "UNetMidBlock2D")
TIME_IDS = 6            # sizes and crop that SDXL's text_time embeds

# Defaults of UNet2DConditionModel's arguments where they differ from UNet2DModel's.
DEFAULTS = UNET2D_DEFAULTS | dict(
    in_channels=4, out_channels=4, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), mid_block_type="UNetMidBlock2DCrossAttn",
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, block_out_channels=(320, 640, 1280, 1280), only_cross_attention=False,
    cross_attention_dim=1280, transformer_layers_per_block=1, reverse_transformer_layers_per_block=None, encoder_hid_dim=None,
    encoder_hid_dim_type=None, num_attention_heads=None, dual_cross_attention=False, use_linear_projection=False, addition_embed_type=None,
    addition_time_embed_dim=None, projection_class_embeddings_input_dim=None, resnet_skip_time_act=False, resnet_out_scale_factor=1.0,
    time_embedding_act_fn=None, timestep_post_act=None, time_cond_proj_dim=None, conv_in_kernel=3, conv_out_kernel=3, attention_type="default",
    class_embeddings_concat=False, mid_block_only_cross_attention=None, cross_attention_norm=None)

SUPPORTED = (
    ("center_input_sample", (False,)), ("time_embedding_type", ("positional",)), ("mid_block_type", MID_BLOCKS), ("mid_block_scale_factor", (1,)),
    ("downsample_padding", (0, 1)), ("resnet_time_scale_shift", ("default", "scale_shift")), ("class_embed_type", (None,)),
    ("act_fn", ("silu", "swish", "relu", "gelu")), ("only_cross_attention", (False,)), ("encoder_hid_dim", (None,)), ("encoder_hid_dim_type", (None,)),
    ("dual_cross_attention", (False,)), ("addition_embed_type", (None, "text_time")), ("resnet_skip_time_act", (False,)),
    ("resnet_out_scale_factor", (1.0,)), ("time_embedding_act_fn", (None,)), ("timestep_post_act", (None,)), ("time_cond_proj_dim", (None,)),
    ("conv_in_kernel", (3,)), ("conv_out_kernel", (3,)), ("attention_type", ("default",)), ("cross_attention_norm", (None,)),
    ("reverse_transformer_layers_per_block", (None,)), ("mid_block_only_cross_attention", (None, False)), ("num_class_embeds", (None,)))
PER_BLOCK = ("layers_per_block", "transformer_layers_per_block", "attention_head_dim", "num_attention_heads", "cross_attention_dim")


def checked_config(config):
    """The config with all defaults, one value a block where it may be so. Raises UnsupportedLayer for a value that cannot be compiled."""
    full = check_fields("UNet2DConditionModel", config, DEFAULTS, SUPPORTED)
    if full["addition_embed_type"] and full["resnet_time_scale_shift"] == "scale_shift":
        refuse(UnsupportedLayer("UNet2DConditionModel", "addition_embed_type with resnet_time_scale_shift='scale_shift': the scale of a norm may "
                                "depend on the timestep, not on the text", "", "train with resnet_time_scale_shift='default'"))
        full["addition_embed_type"] = None
    check_blocks(full["down_block_types"], CROSS, "down_blocks")
    check_blocks(full["up_block_types"], CROSS, "up_blocks")
    for name in PER_BLOCK:
        if not isinstance(full[name], (list, tuple)):
            full[name] = (full[name],) * len(full["down_block_types"])
    if full["num_attention_heads"][0] is None:        # diffusers calls the number of heads attention_head_dim
        full["num_attention_heads"] = full["attention_head_dim"]
    return full


def pooled_width(config):
    """Channels of the text's pooled embedding, 0 if there is none."""
    if not config["addition_embed_type"]:
        return 0
    return config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"]


class UNet2DConditionImport(UNet2DImport):
    """State of one import. text : TextStates."""

    KNOWN = CROSS
    TIME_FUNCTION = None

    def __init__(self, config, weights, size, timesteps, text):
        UNet2DImport.__init__(self, config, weights, size, timesteps)
        self.text = text
        self.take_text(text)

    def time_embedding(self):
        """SiLU of the time embedding, with that of the text and the sizes added, a vector."""
        if not self.config["addition_embed_type"]:
            return UNet2DImport.time_embedding(self)
        x, self.path = self.time_vector(), "add_embedding"
        sizes = sinusoids(self.text.time_ids, self.config["addition_time_embed_dim"], self.config["flip_sin_to_cos"], self.config["freq_shift"])
        constant = self.step_table("time_ids", np.tile(sizes.reshape(1, -1), (len(self.timesteps), 1)))
        pooled = self.label_table("text_embeds", self.text.pooled, runtime=True)
        hidden = self.torch_linear("add_embedding.linear_1", self.cat("add_embeds", [pooled, constant]))
        added = self.torch_linear("add_embedding.linear_2", self.act("add_embedding.act", hidden, "SILU"))
        return self.act("emb_act", self.add("emb", x, added), self.function)

    # --- transformers ------------------------------------------------------------------------------------------------

    def torch_layer_norm(self, path, x):
        self.path = path
        return self.layer_norm(path, x, self.get(f"{path}.weight"), self.get(f"{path}.bias"), LAYER_NORM_EPS)

    def transformer_block(self, path, x, heads):
        """BasicTransformerBlock."""
        normed = self.torch_layer_norm(f"{path}.norm1", x)
        x = self.attend(f"{path}.attn1", normed, normed, x, heads)
        x = self.attend(f"{path}.attn2", self.torch_layer_norm(f"{path}.norm2", x), self.context, x, heads, **self.text_keys)
        return self.add(f"{path}.ff.sum", self.feed_forward(f"{path}.ff", self.torch_layer_norm(f"{path}.norm3", x), "geglu"), x)

    def transformer(self, path, x, heads, count):
        """Transformer2DModel."""
        if self.shape(x)[0] % heads:
            raise UnsupportedLayer("Transformer2DModel", f"{self.shape(x)[0]} channels are no multiple of {heads} heads", path,
                                   "choose a number of heads (attention_head_dim) that divides the channels, and train again")
        h = self.torch_linear(f"{path}.proj_in", self.torch_norm(f"{path}.norm", x, eps=TRANSFORMER_NORM_EPS))
        for i in range(count):
            h = self.transformer_block(f"{path}.transformer_blocks.{i}", h, heads)
        return self.add(f"{path}.sum", self.torch_linear(f"{path}.proj_out", h), x)

    # --- the network -------------------------------------------------------------------------------------------------

    def level(self, path, kind, x, number, count, skips=None):
        """ResNets (and transformers) of block ``number`` of the way down; each one's output."""
        heads, depth = self.config["num_attention_heads"][number], self.config["transformer_layers_per_block"][number]
        for j in range(count):
            x = self.layer_resnet(path, kind, x, number, j, skips)
            if CROSS.get(kind):
                per_layer = depth[j] if isinstance(depth, (list, tuple)) else depth
                x = self.transformed(f"{path}.attentions.{j}", x, heads, per_layer)
            yield x

    def transformed(self, path, x, heads, count):
        return self.part(path, self.shape(x), self.transformer, path, x, heads, count)

    def mid(self, x):
        c = self.config
        x = self.mid_resnet(x, 0)
        if c["mid_block_type"] == "UNetMidBlock2D":
            return x
        depth = c["transformer_layers_per_block"][-1]
        x = self.transformed("mid_block.attentions.0", x, c["num_attention_heads"][-1], depth if isinstance(depth, int) else depth[0])
        return self.mid_resnet(x, 1)

    def run(self):
        """The verified graph."""
        c, x = self.config, self.begin()
        skips, last = [x], len(c["down_block_types"]) - 1
        for i, kind in enumerate(c["down_block_types"]):
            for x in self.level(f"down_blocks.{i}", kind, x, i, c["layers_per_block"][i]):
                skips.append(x)
            if i < last:
                x = self.down_end(f"down_blocks.{i}", kind, x)
                skips.append(x)
        x = self.mid(x) if c["mid_block_type"] else x
        for i, kind in enumerate(c["up_block_types"]):
            *_, x = self.level(f"up_blocks.{i}", kind, x, last - i, c["layers_per_block"][last - i] + 1, skips)
            if i < last:
                x = self.up_end(f"up_blocks.{i}", kind, x)
        return self.end(x, self.function)


def import_unet2d_condition(config, weights, timesteps, text, size=None):
    """Verified Graph of a UNet2DConditionModel.

    Parameters
    ----------
    config : dict of config.json; weights : folder.Weights or StateDict; timesteps : the sampler's, first to last.
    text : TextStates for the calibration; size : latents' height and width, one number or two; None: the config's sample_size.
    Raises UnsupportedLayer, FolderError (weights that are missing or left over).
    """
    config = checked_config(config)
    check_texts("UNet2DConditionModel", text, config["cross_attention_dim"][0], pooled_width(config))
    return finish_import(UNet2DConditionImport(config, weights, image_size(config, size), timesteps, text))
