"""diffusers' PixArtTransformer2DModel -> graph IR: a transformer over patches that attends to a text, from its config and weights.

    patches (conv with stride) + position -> blocks -> LayerNorm, modulated -> linear -> pixels of the patches
    block: x += g1 * attention(m1 * LN x + v1); x += attention(x to the text, no norm); x += g2 * MLP(m2 * LN x + v2)
    text: W2 GELU(W1 tokens)

The vectors m, v, g follow from the timestep: one linear layer for all blocks, to which each adds a table of its own. So they are
tables by step. The text's tokens are a table by label that the host fills later; label 0 is that of no text.
Ref: Chen et al. 2023 (PixArt-alpha, adaLN-single); Chen et al. 2024 (PixArt-sigma).
"""

import numpy as np

from litediffusion.sw.diffusers.dit import DEFAULTS as DIT_DEFAULTS
from litediffusion.sw.diffusers.dit import OLD_DEFAULTS as DIT_OLD_DEFAULTS
from litediffusion.sw.diffusers.dit import SUPPORTED as DIT_SUPPORTED
from litediffusion.sw.diffusers.dit import DiTImport, latent_size, silu
from litediffusion.sw.diffusers.dit import checked_config as checked_dit_config
from litediffusion.sw.diffusers.layers import FEED_FORWARD, check_texts, finish_import
from litediffusion.sw.graph import verify
from litediffusion.sw.graph_builder import UnsupportedLayer

NAME = "PixArtTransformer2DModel"
USUAL_TOKENS = 120      # of a text in PixArtAlphaPipeline; 300 in PixArtSigmaPipeline
USUAL_SCALE = 8         # pixels a side of the picture to one of the latents, where no autoencoder says it
SIZED_SAMPLE = 128      # sample_size of models that know the picture's size, if the config does not say whether they do

MORE_DEFAULTS = dict(cross_attention_dim=None, caption_channels=None, use_additional_conditions=None, attention_type="default")
DEFAULTS = DIT_DEFAULTS | MORE_DEFAULTS | dict(out_channels=8, cross_attention_dim=1152, sample_size=128, norm_type="ada_norm_single", norm_eps=1e-6,
                                               interpolation_scale=None)
# Transformer2DModel is what older folders call the same network.
OLD_DEFAULTS = DIT_OLD_DEFAULTS | MORE_DEFAULTS | dict(only_cross_attention=False, double_self_attention=False)
CLASSES = {NAME: DEFAULTS, "Transformer2DModel": OLD_DEFAULTS}
SUPPORTED = (("norm_type", ("ada_norm_single",)), *DIT_SUPPORTED[1:], ("attention_type", ("default",)))
OLD_SUPPORTED = (*SUPPORTED, ("only_cross_attention", (False,)), ("double_self_attention", (False,)))


def is_pixart(config):
    """True for the config.json of a PixArt, under either class."""
    kind = config.get("_class_name")
    return kind == NAME or kind == "Transformer2DModel" and config.get("norm_type") == "ada_norm_single"


def inner_channels(config):
    """Channels of a token within the network."""
    return config["num_attention_heads"] * config["attention_head_dim"]


def checked_config(config):
    """The config with all defaults. Raises UnsupportedLayer for a value that cannot be compiled."""
    supported = OLD_SUPPORTED if config.get("_class_name") == "Transformer2DModel" else SUPPORTED
    full = checked_dit_config(config, CLASSES, supported, ("in_channels", "patch_size"))
    if full["use_additional_conditions"] is None:
        full["use_additional_conditions"] = full["sample_size"] == SIZED_SAMPLE
    width, cross = inner_channels(full), full["cross_attention_dim"]
    if cross is None:
        raise UnsupportedLayer(NAME, "cross_attention_dim=None: a model without texts cannot be compiled; give the channels of the text's tokens",
                               "transformer_blocks.0.attn2")
    if full["caption_channels"] and cross != width:
        raise UnsupportedLayer(NAME, f"cross_attention_dim={cross}, but caption_projection makes tokens of {width} channels: set it to {width}",
                               "transformer_blocks.0.attn2")
    if full["use_additional_conditions"] and width % 3:
        raise UnsupportedLayer(NAME, f"use_additional_conditions with {width} channels: must be a multiple of 3, for the embeddings of height, width "
                               "and their ratio; set use_additional_conditions to false if the model has none", "adaln_single.emb")
    return full


def text_channels(config):
    """Channels of the texts' tokens, as the text encoder gives them."""
    return config["caption_channels"] or config["cross_attention_dim"]


class PixArtImport(DiTImport):
    """State of one import. text : TextStates; picture : (height, width) in pixels. Conditions are float [steps, C]."""

    # A buffer of older files, the text of no caption: pipelines encode it.
    UNUSED = DiTImport.UNUSED | {"caption_projection.y_embedding"}

    def __init__(self, config, weights, size, timesteps, text, picture):
        DiTImport.__init__(self, config, weights, size, timesteps)
        self.picture = picture
        self.take_text(text)

    # --- conditions ----------------------------------------------------------------------------------------------------

    def time_embedding(self):
        """Embedding of the timestep, and of the picture's size where the model knows it: float [steps, C]."""
        path, (height, width) = "adaln_single.emb", self.picture
        time = self.embedded_sinusoids(f"{path}.timestep_embedder", self.timesteps, 0)
        if not self.config["use_additional_conditions"]:
            return time
        sizes = self.embedded_sinusoids(f"{path}.resolution_embedder", [height, width], 0)
        ratio = self.embedded_sinusoids(f"{path}.aspect_ratio_embedder", [height / width], 0)
        return time + np.concatenate([sizes.reshape(-1), ratio.reshape(-1)])

    def vector(self, name, condition):
        return self.step_table(name, condition)

    def norm_conditions(self, shift, scale, affine):
        gamma, beta = affine or (1.0, 0.0)
        return beta * (1 + scale) + shift, gamma * (1 + scale)

    # --- layers --------------------------------------------------------------------------------------------------------

    def projected_text(self):
        """The text's tokens as the blocks attend to them."""
        if not self.config["caption_channels"]:
            return self.context
        path = "caption_projection"
        hidden = self.act(f"{path}.act_1", self.torch_linear(f"{path}.linear_1", self.context), FEED_FORWARD["gelu-approximate"])
        return self.torch_linear(f"{path}.linear_2", hidden)

    def block(self, path, x, shared, context):
        """BasicTransformerBlock with norm_type ada_norm_single; shared : the conditions of all blocks, to which each adds its own."""
        c, bias, eps = self.config, self.config["attention_bias"], self.config["norm_eps"]
        own = self.get(f"{path}.scale_shift_table")
        shift1, scale1, gate1, shift2, scale2, gate2 = (values + row for values, row in zip(shared, own))
        normed = self.modulated(f"{path}.norm1", x, shift1, scale1, eps, self.affine(f"{path}.norm1"))
        x = self.gated(f"{path}.attn1", self.mixed_tokens(f"{path}.attn1", normed, normed, c["num_attention_heads"], bias=bias), gate1, x)
        x = self.attend(f"{path}.attn2", x, context, x, c["num_attention_heads"], bias, **self.text_keys)
        normed = self.modulated(f"{path}.norm2", x, shift2, scale2, eps, self.affine(f"{path}.norm2"))
        return self.gated(f"{path}.ff", self.feed_forward(f"{path}.ff", normed, c["activation_fn"]), gate2, x)

    def run(self):
        """The verified graph."""
        shape, (_, tokens, _) = self.token_shape(), self.shape(self.context)
        x = self.part("pos_embed", shape, self.patches)
        context = self.part("caption_projection", (self.config["cross_attention_dim"], tokens, 1), self.projected_text)
        embedding = self.time_embedding()
        shared = np.split(self.dense("adaln_single.linear", silu(embedding)), 6, axis=1)
        for i in range(self.config["num_layers"]):
            x = self.part(f"transformer_blocks.{i}", shape, self.block, f"transformer_blocks.{i}", x, shared, context)
        self.graph.output = self.part("proj_out", self.shape(self.x), self.last_layers, x, embedding)
        return verify(self.graph)

    def last_layers(self, x, embedding):
        self.path = "norm_out"
        shift, scale = (embedding + row for row in self.get("scale_shift_table"))
        return self.pixels("proj_out", self.modulated("norm_out", x, shift, scale))


def import_pixart(config, weights, timesteps, text, size=None, scale=USUAL_SCALE):
    """Verified Graph of a PixArtTransformer2DModel.

    Parameters
    ----------
    config : dict of config.json; weights : folder.Weights or StateDict; timesteps : the sampler's, first to last.
    text : TextStates for the calibration, masked or all of whose tokens count; size : latents' height and width, one number or two; None: the
    config's sample_size; scale : pixels a side of the picture to one of the latents, for models that know the picture's size.
    Raises UnsupportedLayer, FolderError (weights that are missing or left over).
    """
    config = checked_config(config)
    check_texts(NAME, text, text_channels(config))
    height, width = latent_size(config, size, NAME)
    return finish_import(PixArtImport(config, weights, (height, width), timesteps, text, (scale * height, scale * width)))
