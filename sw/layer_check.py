"""Single layers of Stable Diffusion 1.5's shapes on the numpy device, against float: random weights and inputs, one kind at a time.

    python -m litediffusion.sw.layer_check [NAME ...]

The network does not fit a board as a whole; this is what its layers leave of their signal. Each is lowered from DRAM to DRAM as in a
network, its tensors quantised by their own ranges. Without names all are run, which takes some minutes.
"""

import argparse
from dataclasses import dataclass
import time

import numpy as np

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.cores.machine import Machine
from litediffusion.sw.calibrate import best_range, limits_of
from litediffusion.sw.compiler.assemble import assemble, resources_of
from litediffusion.sw.compiler.compile import place_of
from litediffusion.sw.compiler.image import Image
from litediffusion.sw.compiler.scales import choose_scales
from litediffusion.sw.compiler.tables import quantise_rows, table_rows
from litediffusion.sw.compiler.tiled_graph import TiledGraph
from litediffusion.sw.compiler.tiled_program import TiledProgram
from litediffusion.sw.graph import macs, verify
from litediffusion.sw.graph_builder import GraphBuilder
from litediffusion.sw.layer_noise import decibel, read_tensor
from litediffusion.sw.passes import run_passes
from litediffusion.sw.reference import evaluate_with

GROUPS, NORM_EPS, LAYER_NORM_EPS = 32, 1e-5, 1e-5
TOKENS, FILLED = 77, 80          # of a text; up to a multiple of 16


class LayerGraph(TiledGraph):
    """A graph whose inputs and result are int8 tensors in DRAM, all tensors in places of their own."""

    def lower_input(self, node):
        self.keep(node.name, self.tensor(node.name, node.shape, self.scales[node.name]))

    def space(self, tensor):
        return TiledProgram.space(self, tensor)

    def discard(self, tensor):
        """Nothing takes the place of another."""


class LayerBuilder(GraphBuilder):
    """A graph with random weights of a seed."""

    def __init__(self, seed=0):
        GraphBuilder.__init__(self)
        self.rng = np.random.default_rng(seed)

    def input(self, name, *shape):
        return self.node(name, "input", [], shape)

    def normal(self, *shape):
        return self.rng.standard_normal(shape)

    def random_conv(self, name, x, outputs, kernel=3):
        """A convolution, or with a kernel of 1 a linear layer, that keeps the variance."""
        c = self.shape(x)[0]
        return self.conv(name, x, self.normal(outputs, c, kernel, kernel) / np.sqrt(c * kernel ** 2), 0.1 * self.normal(outputs), pad=kernel // 2)

    def random_norm(self, name, x):
        c = self.shape(x)[0]
        return self.act(f"{name}.act", self.norm(name, x, 1 + 0.2 * self.normal(c), 0.2 * self.normal(c), GROUPS, NORM_EPS), "SILU")

    def random_layer_norm(self, name, x):
        c = self.shape(x)[0]
        return self.layer_norm(name, x, 1 + 0.2 * self.normal(c), 0.2 * self.normal(c), LAYER_NORM_EPS)

    def done(self, output):
        """The graph after the passes."""
        self.graph.output = output
        return run_passes(verify(self.graph))


def conv_layer(channels, outputs, size):
    """3x3 convolution."""
    b = LayerBuilder()
    return b.done(b.random_conv("conv", b.input("x", channels, size, size), outputs))


def resnet_layer(channels, outputs, size, skip=0):
    """ResNet; skip : channels that a concat brings, the shortcut is a convolution then."""
    b = LayerBuilder()
    x = b.input("x", channels, size, size)
    x = b.cat("cat", [x, b.input("skip", skip, size, size)]) if skip else x
    h = b.random_conv("conv1", b.random_norm("norm1", x), outputs)
    h = b.random_conv("conv2", b.random_norm("norm2", h), outputs)
    return b.done(b.add("sum", h, x if channels + skip == outputs else b.random_conv("shortcut", x, outputs, 1)))


def attention_layer(channels, heads, queries, keys=None, context=0):
    """x + attention of LayerNorm(x) [channels, queries, 1] to ``keys`` tokens: [context, FILLED, 1] of a text, or without context
    [channels, keys, 1], of which x would be a part."""
    b = LayerBuilder()
    x = b.input("x", channels, queries, 1)
    normed = b.random_layer_norm("norm", x)
    other = b.input("tokens", context, FILLED, 1) if context else b.random_layer_norm("key_norm", b.input("tokens", channels, keys, 1))
    q, k, v = (b.random_conv(part, source, channels, 1) for part, source in (("q", normed), ("k", other), ("v", other)))
    mixed = b.attention("mix", q, k, v, heads, keys)
    return b.done(b.add("sum", b.random_conv("out", mixed, channels, 1), x))


def geglu_layer(channels, hidden, tokens):
    """h * GELU(g) of LayerNorm(x) [channels, tokens, 1], (h, g) of ``hidden`` channels each."""
    b = LayerBuilder()
    x = b.random_layer_norm("norm", b.input("x", channels, tokens, 1))
    gate = b.act("gelu", b.random_conv("gate", x, hidden, 1), "GELU")
    return b.done(b.mul("product", b.random_conv("hidden", x, hidden, 1), gate))


# name: (what it is, how it is made); of the attention over 4096 pixels 16 of its queries, which are all alike.
LAYERS = {
    "conv": ("3x3 convolution, 320 -> 320 at 64x64", lambda: conv_layer(320, 320, 64)),
    "resnet": ("ResNet, 1280 channels at 8x8", lambda: resnet_layer(1280, 1280, 8)),
    "wide_resnet": ("ResNet, 1280 and 1280 -> 1280 at 8x8", lambda: resnet_layer(1280, 1280, 8, 1280)),
    "crossing_resnet": ("ResNet, 1280 and 640 -> 1280 at 16x16", lambda: resnet_layer(1280, 1280, 16, 640)),
    "self_attention": ("self-attention, 8 heads of 40, 16 of 4096 queries to 4096 keys", lambda: attention_layer(320, 8, 16, 4096)),
    "deep_attention": ("self-attention, 8 heads of 160, 64 keys", lambda: attention_layer(1280, 8, 64, 64)),
    "cross_attention": ("cross-attention, 8 heads of 40, 4096 queries to 77 keys", lambda: attention_layer(320, 8, 4096, TOKENS, 768)),
    "geglu": ("GEGLU, 320 -> 2 x 1280 at 64x64", lambda: geglu_layer(320, 1280, 4096)),
    "deep_geglu": ("GEGLU, 1280 -> 2 x 5120 at 8x8", lambda: geglu_layer(1280, 5120, 64)),
}


@dataclass
class LayerResult:
    """SQNR of the result in dB; MACs; descriptors and programs that they take; seconds of lowering and of the numpy device."""
    sqnr_db: float
    macs: int
    descriptors: int
    programs: int
    seconds: float


def float_tensors(graph, inputs):
    """({tensor: float [C, H, W]} of a graph, {tensor: scale [1]}) for inputs {name: [C, H, W]}."""
    tensors, ranges = {}, {}

    def see(name, tensor):
        tensors[name], ranges[name] = tensor[0].numpy(), np.array([best_range(tensor.flatten(), limits_of(graph, name))])
    evaluate_with(graph, inputs, see)
    # The result is an int8 tensor too, not the 16-bit one of a network.
    return tensors, choose_scales(graph, ranges, True, split=True) | {graph.output: ranges[graph.output] / 127}


def put(memory, tensor, values):
    """A float [C, H, W] at a DramTensor's place."""
    rows = table_rows(quantise_rows(values.reshape(1, len(values), -1), tensor.scale[0]))
    memory[tensor.at:tensor.at + tensor.bytes] = rows.reshape(-1)


def check_layer(graph, config=PRESETS["ecpix5"], seed=1):
    """LayerResult of a graph of one layer for normal inputs."""
    begin, rng, output = time.monotonic(), np.random.default_rng(seed), graph.output
    inputs = {n.name: rng.standard_normal(n.shape) for n in graph.nodes.values() if n.op == "input"}
    tensors, scales = float_tensors(graph, inputs)
    graph.output = ""                   # or it would be lowered as a network's
    image = Image(1)
    low = LayerGraph(config, graph, scales, {}, 1, image, {}).run()
    resources = resources_of(low.items)
    image.place(resources)
    image.place_steps(resources)
    at, length = assemble(low.items, image, low.areas, low.layers)
    memory = image.finish()
    for name, values in inputs.items():
        put(memory, low.tensors[name], values)
    machine = Machine(config, memory)
    for piece in isa.pieces(at, length):
        machine.run(*piece)
    graph.output = output
    got = read_tensor(memory, place_of(low.places[output]), 0)
    return LayerResult(decibel(tensors[output], got), sum(macs(graph).values()), length, len(isa.pieces(at, length)), time.monotonic() - begin)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Layers of Stable Diffusion 1.5's shapes on the numpy device, against float.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of the layers {', '.join(LAYERS)}; none: all")
    names = parser.parse_args(argv).names or list(LAYERS)
    unknown = [name for name in names if name not in LAYERS]
    if unknown:
        parser.error(f"layer {unknown[0]!r} is unknown; known: {', '.join(LAYERS)}")
    for name in names:
        title, make = LAYERS[name]
        result = check_layer(make())
        print(f"{name:<16} {title:<66} {result.sqnr_db:5.1f} dB {result.macs:>14,} MACs {result.descriptors:>9,} descriptors {result.seconds:7.1f} s",
              flush=True)


if __name__ == "__main__":
    main()
