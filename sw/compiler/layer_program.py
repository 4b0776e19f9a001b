"""Programs of a single layer, DRAM to DRAM: benchmarks, and layers whose input is too large to stay on chip.

The input lies in DRAM in parts of some channel blocks; parts are loaded just ahead of their use and, when they do not
all fit, given up after it (the products of all parts then accumulate in one pass over the output groups).
"""

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.assemble import assemble, resources_of
from litediffusion.sw.compiler.image import Image
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.compiler.lower_conv import ConvLowering
from litediffusion.sw.compiler.state import State, Tensor
from litediffusion.sw.graph import Graph, Node, conv_shape, verify

AHEAD = 2                # parts loaded before the one in use


def layer_graph(weight, bias, shape, part, **attrs):
    """Graph of one conv on a concat of inputs of ``part`` channels each."""
    graph, names = Graph(), []
    for i in range(0, shape[0], part):
        names.append(graph.add(Node(f"x{i // part}", "input", [], (min(part, shape[0] - i),) + tuple(shape[1:]))))
    source = graph.add(Node("x", "cat", names, tuple(shape))) if len(names) > 1 else names[0]
    attrs = dict({"weight": np.asarray(weight, float), "bias": bias, "stride": 1, "pad": 0, "up": False}, **attrs)
    graph.output = graph.add(Node("y", "conv", [source], conv_shape(shape, attrs), attrs))
    return verify(graph)


class StreamedConv(ConvLowering):
    """A conv whose sources are in DRAM at ``dram`` (byte of the first block) and whose output goes there too."""

    def __init__(self, state, node, out, dram, out_dram):
        self.dram, self.out_dram, self.loaded = dram, out_dram, {}
        for name in state.sources(node.inputs[0]):
            state.tensors[name] = Tensor(name, state.graph.shape(name), -1)
        super().__init__(state, node, out, self.store)
        words = sum(s.words for s in self.sources)
        self.keep = words <= state.config.spm_words - out.words
        if not self.keep:
            self.one_pass()

    def one_pass(self):
        """All output groups in one chunk, so that each part of the input is needed once."""
        groups, limit = -(-self.node.shape[0] // self.plan.lanes), self.state.config.acc_words
        if groups * self.out.pixels > limit or len(self.plan.tiles) > 1:
            raise CompileError(f"layer {self.node.name}: input of {sum(s.words for s in self.sources)} words does not fit "
                               f"on chip and {groups * self.out.pixels} accumulators exceed {limit}: cut the layer into tiles")
        self.plan.chunks = [(0, groups)]

    def load(self, index):
        """Bring in part ``index`` unless it is there."""
        if index >= len(self.sources) or index in self.loaded:
            return
        source = self.sources[index]
        source.addr = self.state.words(source.words, source.name)
        self.loaded[index] = source.addr
        before = sum(s.blocks * s.pixels for s in self.sources[:index])
        for block in range(source.blocks):
            self.state.emit("LOAD", dict(dram=self.dram + 16 * (before + block * source.pixels), n0=1, n1=1, n2=source.pixels,
                                         addr=source.addr + block * source.plane), writes=source.region(block, 1))

    def gemm(self, source, *args):
        index = self.sources.index(source)
        for i in range(index, index + AHEAD):
            self.load(i)
        super().gemm(source, *args)
        if not self.keep and source is not self.sources[-1]:
            self.state.spm.free(self.loaded.pop(index))

    def store(self, out, block):
        self.state.emit("STORE", dict(dram=self.out_dram + 16 * block * out.pixels, n0=1, n1=1, n2=out.pixels,
                                      addr=out.addr + block * out.plane), reads=out.region(block, 1))


def compile_layer(config, weight, bias, shape, *, bits=8, part=16, s_x=1.0, s_out=1.0, **attrs):
    """(image uint8, (address, descriptors), input offset, output offset, output shape) of one conv, DRAM to DRAM.

    weight [M, C, kh, kw], shape (C, H, W); tensors lie as [block][pixel][16 channels] int8.
    """
    graph = layer_graph(weight, bias, shape, part, **attrs)
    scales = {name: np.array([s_out if name == graph.output else s_x]) for name in graph.nodes}
    state, image = State(config, graph, scales, {graph.output: bits}, 1), Image(1)
    node = graph.nodes[graph.output]
    x_at = image.buffer(16 * -(-shape[0] // 16) * shape[1] * shape[2])
    y_at = image.buffer(16 * -(-node.shape[0] // 16) * node.shape[1] * node.shape[2])
    state.begin(node.name)
    StreamedConv(state, node, state.alloc(node.name, node.shape), x_at, y_at).run()
    resources = resources_of(state.items)
    image.place(resources)
    image.place_steps(resources)
    at, length = assemble(state.items, image, state.areas, state.layers)
    return image.finish(), (at, length), x_at, y_at, node.shape
