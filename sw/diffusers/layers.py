"""Layers and blocks that diffusers' models share, under their torch names."""

import numpy as np

from litediffusion.sw.diffusers.folder import FolderError
from litediffusion.sw.graph import GraphError
from litediffusion.sw.graph_builder import GraphBuilder, UnsupportedLayer
from litediffusion.sw.problems import any_problems, refuse, refuse_failing, refuse_or_skip
from litediffusion.sw.texts import MASKED

ACTIVATIONS = {"silu": "SILU", "swish": "SILU", "relu": "RELU", "gelu": "GELU"}
TRAIN_AGAIN = "take or train a network that has one of these"
OTHER_CONFIG = "give the config.json that the weights were saved with"
FEED_FORWARD = {"gelu": "GELU", "gelu-approximate": "GELU_TANH", "geglu": None}       # None: a gate, with GELU


def check_fields(what, config, defaults, supported):
    """The config with all defaults. Refuses a value that is not among those ``supported``: [(field, values)]; the first of these stands in."""
    full = defaults | {k: v for k, v in config.items() if k in defaults}
    for name, values in supported:
        if full[name] not in values:
            refuse(UnsupportedLayer(what, f"{name}={full[name]!r}, only {' or '.join(map(repr, values))}", "", TRAIN_AGAIN))
            full[name] = values[0]
    return full


def chosen_size(what, config, size):
    """(height, width): ``size``, one number or two, else the config's sample_size. Raises UnsupportedLayer."""
    size = size or config["sample_size"]
    if size is None:
        raise UnsupportedLayer(what, "the config has no sample_size", "", "give the size of the picture (--size)")
    return (size, size) if isinstance(size, int) else size


def known_block(name, known, path):
    """A block's name, if it is among those ``known``. Raises UnsupportedLayer."""
    if name not in known:
        raise UnsupportedLayer(name, f"known blocks are {', '.join(known)}", path, TRAIN_AGAIN)
    return name


def check_blocks(names, known, path):
    """Refuse the blocks that are not among those ``known``; path : of their list."""
    for number, name in enumerate(names):
        refuse_failing(known_block, name, known, f"{path}.{number}")


def check_texts(what, text, channels, pooled=0):
    """Raise UnsupportedLayer if TextStates have other channels than a model takes; pooled : of their pooled embeddings, 0 for none."""
    given = 0 if text.pooled is None else text.pooled.shape[1]
    for value, wanted, name in ((text.states.shape[2], channels, "states"), (given, pooled, "pooled embeddings")):
        if value != wanted:
            raise UnsupportedLayer(what, f"the texts' {name} have {value} channels, the model takes {wanted}", "")


class DiffusersImport(GraphBuilder):
    """A graph under construction from weights by torch name. eps : of norms that name no other."""

    def __init__(self, weights, groups, eps, act_fn):
        GraphBuilder.__init__(self)
        self.weights, self.groups, self.eps = weights, groups, eps
        self.get, self.function = weights.get, ACTIVATIONS[act_fn]

    def part(self, path, shape, build, *args):
        """``build(*args)``, of the layers below ``path``; where problems are collected, a tensor of ``shape`` stands in for what cannot run."""
        try:
            made = build(*args)
            if self.shape(made) != tuple(shape):
                raise GraphError(f"{path} gives {self.shape(made)}, by the config it is {tuple(shape)}: the weights belong to another config.json")
            return made
        except (GraphError, FolderError) as error:
            refuse_or_skip(error, path, path.rpartition(".")[2], OTHER_CONFIG)
        self.path = path
        self.weights.unread -= {name for name in self.weights.unread if name.startswith(f"{path}.")}
        return self.stand_in(path, shape, len(self.timesteps))

    def double(self, name):
        """A weight as float64, for what is computed of it."""
        return np.asarray(self.get(name), float)

    def torch_conv(self, path, x, stride=1, pad=1, **more):
        self.path = path
        return self.conv(path, x, self.get(f"{path}.weight"), self.get(f"{path}.bias"), stride, pad, **more)

    def torch_linear(self, path, x, bias=True):
        """A linear layer or a convolution with one tap."""
        self.path = path
        weight = self.get(f"{path}.weight")
        return self.linear(path, x, weight.reshape(weight.shape[:2]), self.get(f"{path}.bias") if bias else None)

    def torch_norm(self, path, x, groups=None, eps=None):
        self.path = path
        return self.norm(path, x, self.get(f"{path}.weight"), self.get(f"{path}.bias"), groups or self.groups, eps or self.eps)

    def resnet(self, path, x, second_norm, resample=None):
        """ResnetBlock2D. ``second_norm(path, h)``: the norm before the second convolution; ``resample(path, x)``: of both ways."""
        h = self.act(f"{path}.act1", self.torch_norm(f"{path}.norm1", x), self.function)
        if resample:
            x, h = (resample(f"{path}.{name}", way) for name, way in (("resample_x", x), ("resample_h", h)))
        h = second_norm(path, self.torch_conv(f"{path}.conv1", h))
        h = self.torch_conv(f"{path}.conv2", self.act(f"{path}.act2", h, self.function))
        if f"{path}.conv_shortcut.weight" in self.weights:
            x = self.torch_conv(f"{path}.conv_shortcut", x, pad=0)
        self.path = path
        return self.add(f"{path}.sum", h, x)

    def attention_block(self, path, x, groups, head):
        """Attention over pixels with its own norm and residual; ``head``: channels of one, None for one head."""
        new = f"{path}.to_q.weight" in self.weights
        names = ("to_q", "to_k", "to_v", "to_out.0") if new else ("query", "key", "value", "proj_attn")
        width = self.shape(x)[0]
        head = head or width
        if width % head:
            raise UnsupportedLayer("Attention", f"{width} channels are no multiple of attention_head_dim={head}", path,
                                   "choose an attention_head_dim that divides the channels, and train again")
        normed = self.torch_norm(f"{path}.group_norm", x, groups)
        q, k, v = (self.torch_linear(f"{path}.{name}", normed) for name in names[:3])
        self.path = path
        mixed = self.attention(f"{path}.mix", q, k, v, width // head)
        return self.add(f"{path}.sum", self.torch_linear(f"{path}.{names[3]}", mixed), x)

    def geglu(self, path, x):
        """h * GELU(g): the two halves of one linear layer, each a layer of its own here."""
        self.path = path
        (w, v), (b, c) = np.split(self.get(f"{path}.weight"), 2), np.split(self.get(f"{path}.bias"), 2)
        gate = self.act(f"{path}.gelu", self.linear(f"{path}.gate", x, v, c), "GELU")
        return self.mul(f"{path}.product", self.linear(f"{path}.hidden", x, w, b), gate)

    def feed_forward(self, path, x, function):
        """FeedForward without its residual; function : of FEED_FORWARD."""
        name = f"{path}.net.0.proj"
        hidden = self.act(f"{path}.gelu", self.torch_linear(name, x), FEED_FORWARD[function]) if FEED_FORWARD[function] else self.geglu(name, x)
        return self.torch_linear(f"{path}.net.2", hidden)

    def mixed_tokens(self, path, normed, context, heads, bias=False, **keys):
        """Wo attention(normed, context); ``bias``: of the projections of queries, keys and values; ``keys``: which count (GraphBuilder.attention)."""
        q, k, v = (self.torch_linear(f"{path}.to_{part}", source, bias=bias) for part, source in zip("qkv", (normed, context, context)))
        self.path = path
        return self.torch_linear(f"{path}.to_out.0", self.attention(f"{path}.mix", q, k, v, heads, **keys))

    def attend(self, path, normed, context, x, heads, bias=False, **keys):
        """x + Wo attention(normed, context)."""
        return self.add(f"{path}.sum", self.mixed_tokens(path, normed, context, heads, bias, **keys), x)

    def take_text(self, text):
        """TextStates as tables by label that the host fills later, label 0 of no text.

        context : the table of tokens; text_keys : which of them count, as GraphBuilder.attention takes it.
        """
        tables, self.path = text.tables(), "encoder_hidden_states"
        self.context, self.text_keys = self.label_table(self.path, tables[self.path], runtime=True), {"keys": text.states.shape[1]}
        if text.mask is not None:
            mask = self.label_table("encoder_attention_mask", tables["encoder_attention_mask"], runtime=True, range=-MASKED)
            self.text_keys = {"mask": mask}

    def upsampled_conv(self, path, x):
        """Upsample2D with its convolution."""
        return self.torch_conv(f"{path}.conv", self.upsample(f"{path}.nearest", x))


def finish_import(importer):
    """Run an import; its graph. Refuses weights that are left over."""
    graph, unread = importer.run(), importer.unread()
    if unread and not any_problems():           # else they may be those of what could not run
        refuse(UnsupportedLayer(unread[0], f"the config does not ask for this weight, nor for {len(unread) - 1} others", unread[0],
                                OTHER_CONFIG))
    return graph
