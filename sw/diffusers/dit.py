"""diffusers' DiTTransformer2DModel -> graph IR: a transformer over patches of the latents, from its config and weights.

    patches (conv with stride) + position -> blocks -> LayerNorm, modulated -> linear -> pixels of the patches
    block: x += g1 * attention(m1 * LN x + v1); x += g2 * MLP(m2 * LN x + v2)

The vectors m, v, g follow from the timestep and the label alone. If there are few pairs of these, they are tables that the
engine reads; otherwise it computes them from the two embeddings, one pixel layers, once an evaluation.
Ref: Peebles and Xie 2023 (adaLN-Zero).
"""

import numpy as np

from litediffusion.sw.diffusers.layers import FEED_FORWARD, TRAIN_AGAIN, DiffusersImport, check_fields, chosen_size, finish_import
from litediffusion.sw.diffusers.unet2d import sinusoids
from litediffusion.sw.graph import verify
from litediffusion.sw.graph_builder import UnsupportedLayer
from litediffusion.sw.problems import refuse, refuse_failing

EPS = 1e-6               # of norm1 and norm_out, fixed in diffusers
TIME_CHANNELS = 256      # sines and cosines of the timestep, fixed in diffusers
TABLE_ROWS = 1024        # pairs of timestep and label up to which there are tables: about as large as the weights that they replace

DEFAULTS = dict(num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=None, num_layers=28, attention_bias=True,
                sample_size=32, patch_size=2, activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_zero",
                norm_elementwise_affine=False, norm_eps=1e-5)
# Transformer2DModel is what older folders call the same network.
OLD_DEFAULTS = dict(DEFAULTS, attention_head_dim=88, in_channels=None, num_layers=1, attention_bias=False, sample_size=None, patch_size=None,
                    activation_fn="geglu", num_embeds_ada_norm=None, norm_type="layer_norm", norm_elementwise_affine=True)
CLASSES = {"DiTTransformer2DModel": DEFAULTS, "Transformer2DModel": OLD_DEFAULTS}
SUPPORTED = (("norm_type", ("ada_norm_zero",)), ("activation_fn", tuple(FEED_FORWARD)))
PATCHES = (1, 2, 4, 8)
NUMBERS = ("in_channels", "patch_size", "num_embeds_ada_norm")       # without one of these it is another kind of network


def check_patch(patch):
    """Raise UnsupportedLayer unless patches can have so many pixels a side."""
    if patch not in PATCHES:
        raise UnsupportedLayer("PatchEmbed", f"patch_size={patch}, only {' or '.join(map(repr, PATCHES))}", "pos_embed", TRAIN_AGAIN)


def checked_config(config):
    """The config with all defaults. Raises UnsupportedLayer for a value that cannot be compiled."""
    kind = config.get("_class_name", "DiTTransformer2DModel")
    full = check_fields(kind, config, CLASSES[kind], SUPPORTED)
    for name in NUMBERS:
        if not isinstance(full[name], int):
            raise UnsupportedLayer(kind, f"{name}={full[name]!r}, must be a number", "", TRAIN_AGAIN)
    refuse_failing(check_patch, full["patch_size"])
    channels = full["in_channels"]
    full["out_channels"] = full["out_channels"] or channels
    if full["out_channels"] not in (channels, 2 * channels):
        refuse(UnsupportedLayer(kind, f"out_channels={full['out_channels']}, only {channels} or, with a variance that is left out, {2 * channels}", "",
                                TRAIN_AGAIN))
    return full


def latent_size(config, size=None):
    """(height, width) of the latents: ``size``, else the config's sample_size. Raises UnsupportedLayer."""
    (height, width), patch = chosen_size("DiTTransformer2DModel", config, size), config["patch_size"]
    if height % patch or width % patch:
        refuse(UnsupportedLayer("PatchEmbed", f"latents of {height}x{width}: both must be multiples of the patch, {patch}", "pos_embed",
                                "choose another size (--size)"))
        height, width = (max(4 * patch, side - side % (4 * patch)) for side in (height, width))     # 4: attention takes 16 tokens at a time
    return height, width


def silu(x):
    return x / (1 + np.exp(-x))


def positions(channels, height, width, base):
    """Sines and cosines [channels, height, width] of a patch's column (first half of the channels) and row, as if there were ``base`` of each."""
    frequencies = 10000.0 ** -(np.arange(channels // 4) / (channels / 4))
    waves = lambda count: np.concatenate([f(np.outer(frequencies, np.arange(count) * base / count)) for f in (np.sin, np.cos)])
    columns, rows = waves(width)[:, None, :], waves(height)[:, :, None]
    return np.concatenate([np.broadcast_to(part, (channels // 2, height, width)) for part in (columns, rows)])


class DiTImport(DiffusersImport):
    """State of one import."""

    def __init__(self, config, weights, size, timesteps):
        DiffusersImport.__init__(self, weights, None, EPS, "silu")
        self.config, self.timesteps, self.patch, self.embeddings = config, timesteps, config["patch_size"], []
        self.x = self.node("sample", "input", [], (config["in_channels"], *size))

    def unread(self):
        """Weights that nobody asked for; the positions, which some files hold, are computed."""
        return sorted(self.weights.unread - {"pos_embed.pos_embed"})

    # --- conditions ----------------------------------------------------------------------------------------------------

    def dense(self, path, x):
        """A linear layer of float [..., C]."""
        return x @ self.get(f"{path}.weight").T + self.get(f"{path}.bias")

    def embedding(self, path):
        """SiLU of the embeddings of timestep and label together: float [steps, labels, C], or a vector's name if these are many."""
        hidden = silu(self.dense(f"{path}.timestep_embedder.linear_1", sinusoids(self.timesteps, TIME_CHANNELS, True, 1)))
        time = self.dense(f"{path}.timestep_embedder.linear_2", hidden)
        labels, self.path = self.get(f"{path}.class_embedder.embedding_table.weight"), path
        for known_time, known_labels, result in self.embeddings:      # many models have one for all blocks
            if np.array_equal(time, known_time) and np.array_equal(labels, known_labels):
                return result
        self.embeddings.append((time, labels, self.embedded(path, time, labels)))
        return self.embeddings[-1][2]

    def embedded(self, path, time, labels):
        """``embedding`` of the two's tables [steps, C], [labels, C]."""
        if len(time) * len(labels) <= TABLE_ROWS:
            return silu(time[:, None] + labels)
        x = self.add(f"{path}.sum", self.step_table(f"{path}.time", time), self.label_table(f"{path}.label", labels))
        return self.act(f"{path}.silu", x, "SILU")

    def vector(self, name, embedding, weight, bias):
        """A linear layer of an ``embedding``."""
        if isinstance(embedding, str):
            return self.linear(name, embedding, weight, bias)
        return self.condition_table(name, embedding @ weight.T + bias)

    def modulated(self, path, x, embedding, shift, scale, eps=EPS, affine=None):
        """(1 + scale) * norm + shift, where shift and scale are linear layers (weight, bias) of the embedding.

        affine : gamma and beta of the norm, which go into these, or None.
        """
        (weight, bias), (shift_weight, shift_bias) = (scale[0], scale[1] + 1), shift
        if affine:
            gamma, beta = affine
            shift_weight, shift_bias = shift_weight + beta[:, None] * weight, shift_bias + beta * bias
            weight, bias = gamma[:, None] * weight, gamma * bias
        plus = self.vector(f"{path}.shift", embedding, shift_weight, shift_bias)
        times = self.vector(f"{path}.scale", embedding, weight, bias)
        normed = self.layer_norm(path, x, None, None, eps)
        return self.add(f"{path}.shifted", self.mul(f"{path}.scaled", normed, times), plus)

    def gated(self, path, branch, embedding, gate, x):
        """x + gate * branch."""
        self.path = path
        product = self.mul(f"{path}.gated", branch, self.vector(f"{path}.gate", embedding, *gate))
        return self.add(f"{path}.sum", product, x)

    def conditions(self, path, count):
        """[(weight, bias)] of the parts of a linear layer."""
        self.path = path
        return list(zip(np.split(self.get(f"{path}.weight"), count), np.split(self.get(f"{path}.bias"), count)))

    # --- layers --------------------------------------------------------------------------------------------------------

    def halved(self, x, weight):
        """Pixels of 2x2 squares as channels, and the patches' weights for them: GEMM knows the strides 1 and 2."""
        c, (d, _, patch, _) = self.shape(x)[0], weight.shape
        moves = np.eye(4 * c).reshape(2, 2, c, 2, 2, c).transpose(0, 1, 2, 5, 3, 4).reshape(4 * c, c, 2, 2)
        parts = weight.reshape(d, c, patch // 2, 2, patch // 2, 2).transpose(0, 3, 5, 1, 2, 4)
        return self.conv("pos_embed.squares", x, moves, None, 2), parts.reshape(d, 4 * c, patch // 2, patch // 2)

    def patches(self):
        """Embedded patches with their positions."""
        check_patch(self.patch)
        x, weight, self.path = self.x, self.get("pos_embed.proj.weight"), "pos_embed"
        while weight.shape[2] > 2:
            x, weight = self.halved(x, weight)
        x = self.conv("pos_embed.proj", x, weight, self.get("pos_embed.proj.bias"), weight.shape[2])
        c, h, w = self.shape(x)
        return self.add("pos_embed.sum", x, self.constant("pos_embed.positions", positions(c, h, w, self.config["sample_size"] // self.patch)))

    def block(self, path, x):
        """BasicTransformerBlock with norm_type ada_norm_zero."""
        c = self.config
        embedding = self.embedding(f"{path}.norm1.emb")
        shift1, scale1, gate1, shift2, scale2, gate2 = self.conditions(f"{path}.norm1.linear", 6)
        normed = self.modulated(f"{path}.norm1", x, embedding, shift1, scale1)
        mixed = self.mixed_tokens(f"{path}.attn1", normed, normed, c["num_attention_heads"], bias=c["attention_bias"])
        x = self.gated(f"{path}.attn1", mixed, embedding, gate1, x)
        self.path = f"{path}.norm3"
        affine = [self.get(f"{path}.norm3.{name}") for name in ("weight", "bias")] if c["norm_elementwise_affine"] else None
        normed = self.modulated(f"{path}.norm3", x, embedding, shift2, scale2, c["norm_eps"], affine)
        return self.gated(f"{path}.ff", self.feed_forward(f"{path}.ff", normed, c["activation_fn"]), embedding, gate2, x)

    def pixels(self, x):
        """The pixels of the patches, without the variances that a sampler here has no use for."""
        check_patch(self.patch)
        c, self.path = self.config, "proj_out_2"
        weight, bias = (a.reshape(self.patch ** 2, c["out_channels"], -1)[:, :c["in_channels"]]
                        for a in (self.get("proj_out_2.weight"), self.get("proj_out_2.bias")))
        more = {"unpatch": self.patch} if self.patch > 1 else {}
        return self.conv("proj_out_2", x, weight.reshape(-1, weight.shape[2], 1, 1), bias.reshape(-1), **more)

    def run(self):
        """The verified graph."""
        c, (_, h, w) = self.config, self.shape(self.x)
        shape = (c["num_attention_heads"] * c["attention_head_dim"], h // self.patch, w // self.patch)
        x = self.part("pos_embed", shape, self.patches)
        for i in range(c["num_layers"]):
            x = self.part(f"transformer_blocks.{i}", shape, self.block, f"transformer_blocks.{i}", x)
        self.graph.output = self.part("proj_out_2", (c["in_channels"], h, w), self.last_layers, x)
        return verify(self.graph)

    def last_layers(self, x):
        embedding = self.embedding("transformer_blocks.0.norm1.emb")
        shift, scale = self.conditions("proj_out_1", 2)
        return self.pixels(self.modulated("norm_out", x, embedding, shift, scale))


def import_dit(config, weights, timesteps, size=None):
    """Verified Graph of a DiTTransformer2DModel.

    Parameters
    ----------
    config : dict of config.json; weights : folder.Weights or StateDict; timesteps : the sampler's, first to last.
    size : latents' height and width, one number or two; None: the config's sample_size.
    Raises UnsupportedLayer, FolderError (weights that are missing or left over).
    """
    config = checked_config(config)
    size = latent_size(config, size)
    config["sample_size"] = config["sample_size"] or size[0]        # diffusers counts positions by the height
    return finish_import(DiTImport(config, weights, size, timesteps))
