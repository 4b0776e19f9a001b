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
OLD_BASE = 64            # sample_size up to which the interpolation scale is 1 where the config names none, fixed in diffusers
TABLE_ROWS = 1024        # pairs of timestep and label up to which there are tables: about as large as the weights that they replace

DEFAULTS = dict(num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=None, num_layers=28, attention_bias=True,
                sample_size=32, patch_size=2, activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_zero",
                norm_elementwise_affine=False, norm_eps=1e-5, interpolation_scale=1)
# Transformer2DModel is what older folders call the same network.
OLD_DEFAULTS = dict(DEFAULTS, attention_head_dim=88, in_channels=None, num_layers=1, attention_bias=False, sample_size=None, patch_size=None,
                    activation_fn="geglu", num_embeds_ada_norm=None, norm_type="layer_norm", norm_elementwise_affine=True, interpolation_scale=None)
CLASSES = {"DiTTransformer2DModel": DEFAULTS, "Transformer2DModel": OLD_DEFAULTS}
SUPPORTED = (("norm_type", ("ada_norm_zero",)), ("activation_fn", tuple(FEED_FORWARD)))
PATCHES = (1, 2, 4, 8)
NUMBERS = ("in_channels", "patch_size", "num_embeds_ada_norm")       # without one of these it is another kind of network


def check_patch(patch):
    """Raise UnsupportedLayer unless patches can have so many pixels a side."""
    if patch not in PATCHES:
        raise UnsupportedLayer("PatchEmbed", f"patch_size={patch}, only {' or '.join(map(repr, PATCHES))}", "pos_embed", TRAIN_AGAIN)


def checked_config(config, classes=CLASSES, supported=SUPPORTED, numbers=NUMBERS):
    """The config with all defaults. Raises UnsupportedLayer for a value that cannot be compiled.

    classes : {class: defaults}, the first one's where the config names none; supported : [(field, values)]; numbers : fields that must be one.
    """
    kind = config.get("_class_name", next(iter(classes)))
    full = check_fields(kind, config, classes[kind], supported)
    for name in numbers:
        if not isinstance(full[name], int):
            raise UnsupportedLayer(kind, f"{name}={full[name]!r}, must be a number", "", TRAIN_AGAIN)
    refuse_failing(check_patch, full["patch_size"])
    channels = full["in_channels"]
    full["out_channels"] = full["out_channels"] or channels
    if full["out_channels"] not in (channels, 2 * channels):
        refuse(UnsupportedLayer(kind, f"out_channels={full['out_channels']}, only {channels} or, with a variance that is left out, {2 * channels}", "",
                                TRAIN_AGAIN))
    return full


def latent_size(config, size=None, kind="DiTTransformer2DModel"):
    """(height, width) of the latents: ``size``, else the config's sample_size. Raises UnsupportedLayer."""
    (height, width), patch = chosen_size(kind, config, size), config["patch_size"]
    if height % patch or width % patch:
        refuse(UnsupportedLayer("PatchEmbed", f"latents of {height}x{width}: both must be multiples of the patch, {patch}", "pos_embed",
                                "choose another size (--size)"))
        height, width = (max(4 * patch, side - side % (4 * patch)) for side in (height, width))     # 4: attention takes 16 tokens at a time
    return height, width


def position_base(config):
    """Patches a side at which positions count one by one; larger pictures have as many in finer steps."""
    scale = config["interpolation_scale"] or max(config["sample_size"] // OLD_BASE, 1)
    return config["sample_size"] // config["patch_size"] / scale


def silu(x):
    return x / (1 + np.exp(-x))


def positions(channels, height, width, base):
    """Sines and cosines [channels, height, width] of a patch's column (first half of the channels) and row, as if there were ``base`` of each."""
    frequencies = 10000.0 ** -(np.arange(channels // 4) / (channels / 4))
    waves = lambda count: np.concatenate([f(np.outer(frequencies, np.arange(count) * base / count)) for f in (np.sin, np.cos)])
    columns, rows = waves(width)[:, None, :], waves(height)[:, :, None]
    return np.concatenate([np.broadcast_to(part, (channels // 2, height, width)) for part in (columns, rows)])


class DiTImport(DiffusersImport):
    """State of one import.

    Conditions, which shift and scale a norm's result and gate a branch, are linear layers (embedding, weight, bias) of an ``embedding``.
    """

    UNUSED = {"pos_embed.pos_embed"}        # the positions, which some files hold, are computed

    def __init__(self, config, weights, size, timesteps):
        DiffusersImport.__init__(self, weights, None, EPS, "silu")
        # diffusers counts positions by the height.
        self.config = config | {"sample_size": config["sample_size"] or size[0]}
        self.timesteps, self.patch, self.embeddings = timesteps, config["patch_size"], []
        self.x = self.node("sample", "input", [], (config["in_channels"], *size))

    def unread(self):
        """Weights that nobody asked for, without those that have no use here."""
        return sorted(self.weights.unread - self.UNUSED)

    # --- conditions ----------------------------------------------------------------------------------------------------

    def dense(self, path, x):
        """A linear layer of float [..., C]."""
        return x @ self.get(f"{path}.weight").T + self.get(f"{path}.bias")

    def embedded_sinusoids(self, path, values, shift):
        """TimestepEmbedding of sines and cosines of values [N]: float [N, C]."""
        return self.dense(f"{path}.linear_2", silu(self.dense(f"{path}.linear_1", sinusoids(values, TIME_CHANNELS, True, shift))))

    def embedding(self, path):
        """SiLU of the embeddings of timestep and label together: float [steps, labels, C], or a vector's name if these are many."""
        time = self.embedded_sinusoids(f"{path}.timestep_embedder", self.timesteps, 1)
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

    def conditions(self, path, count, embedding):
        """The parts of a linear layer of an ``embedding``: [(embedding, weight, bias)]."""
        self.path = path
        return [(embedding, *part) for part in zip(np.split(self.get(f"{path}.weight"), count), np.split(self.get(f"{path}.bias"), count))]

    def vector(self, name, condition):
        """A condition as a vector."""
        embedding, weight, bias = condition
        if isinstance(embedding, str):
            return self.linear(name, embedding, weight, bias)
        return self.condition_table(name, embedding @ weight.T + bias)

    def norm_conditions(self, shift, scale, affine):
        """(beta * (1 + scale) + shift, gamma * (1 + scale)) as conditions; affine : (gamma, beta) or None."""
        (embedding, weight, bias), (_, shift_weight, shift_bias) = scale, shift
        bias = bias + 1
        if affine:
            gamma, beta = affine
            shift_weight, shift_bias = shift_weight + beta[:, None] * weight, shift_bias + beta * bias
            weight, bias = gamma[:, None] * weight, gamma * bias
        return (embedding, shift_weight, shift_bias), (embedding, weight, bias)

    def affine(self, path):
        """gamma and beta of a norm if the config gives it some, else None."""
        self.path = path
        return [self.get(f"{path}.{name}") for name in ("weight", "bias")] if self.config["norm_elementwise_affine"] else None

    def modulated(self, path, x, shift, scale, eps=EPS, affine=None):
        """(1 + scale) * norm + shift, where shift and scale are conditions.

        affine : gamma and beta of the norm, which go into these, or None.
        """
        shift, scale = self.norm_conditions(shift, scale, affine)
        plus, times = self.vector(f"{path}.shift", shift), self.vector(f"{path}.scale", scale)
        normed = self.layer_norm(path, x, None, None, eps)
        return self.add(f"{path}.shifted", self.mul(f"{path}.scaled", normed, times), plus)

    def gated(self, path, branch, gate, x):
        """x + gate * branch; gate : a condition."""
        self.path = path
        product = self.mul(f"{path}.gated", branch, self.vector(f"{path}.gate", gate))
        return self.add(f"{path}.sum", product, x)

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
        return self.add("pos_embed.sum", x, self.constant("pos_embed.positions", positions(c, h, w, position_base(self.config))))

    def block(self, path, x):
        """BasicTransformerBlock with norm_type ada_norm_zero."""
        c = self.config
        shift1, scale1, gate1, shift2, scale2, gate2 = self.conditions(f"{path}.norm1.linear", 6, self.embedding(f"{path}.norm1.emb"))
        normed = self.modulated(f"{path}.norm1", x, shift1, scale1)
        mixed = self.mixed_tokens(f"{path}.attn1", normed, normed, c["num_attention_heads"], bias=c["attention_bias"])
        x = self.gated(f"{path}.attn1", mixed, gate1, x)
        normed = self.modulated(f"{path}.norm3", x, shift2, scale2, c["norm_eps"], self.affine(f"{path}.norm3"))
        return self.gated(f"{path}.ff", self.feed_forward(f"{path}.ff", normed, c["activation_fn"]), gate2, x)

    def pixels(self, path, x):
        """The pixels of the patches, without the variances that a sampler here has no use for."""
        check_patch(self.patch)
        c, self.path = self.config, path
        weight, bias = (a.reshape(self.patch ** 2, c["out_channels"], -1)[:, :c["in_channels"]]
                        for a in (self.get(f"{path}.weight"), self.get(f"{path}.bias")))
        more = {"unpatch": self.patch} if self.patch > 1 else {}
        return self.conv(path, x, weight.reshape(-1, weight.shape[2], 1, 1), bias.reshape(-1), **more)

    def run(self):
        """The verified graph."""
        c, shape = self.config, self.token_shape()
        x = self.part("pos_embed", shape, self.patches)
        for i in range(c["num_layers"]):
            x = self.part(f"transformer_blocks.{i}", shape, self.block, f"transformer_blocks.{i}", x)
        self.graph.output = self.part("proj_out_2", self.shape(self.x), self.last_layers, x)
        return verify(self.graph)

    def token_shape(self):
        """Shape of the tokens within the network."""
        c, (_, h, w) = self.config, self.shape(self.x)
        return c["num_attention_heads"] * c["attention_head_dim"], h // self.patch, w // self.patch

    def last_layers(self, x):
        shift, scale = self.conditions("proj_out_1", 2, self.embedding("transformer_blocks.0.norm1.emb"))
        return self.pixels("proj_out_2", self.modulated("norm_out", x, shift, scale))


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
    return finish_import(DiTImport(config, weights, size, timesteps))
