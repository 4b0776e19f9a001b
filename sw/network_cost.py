"""Cycles of a whole network from its distinct layers: each runs alone on a device, DRAM to DRAM, with random weights and data.

Layers are bit-exact with the golden machine or an error names the one that is not. A layer's statistics for the next norm
are kept while it drains, as in a network; those of a skip connection take a pass of their own, which is counted. The
embedding layers depend on the step only: the compiler folds them into biases, they take no cycles. The host of each
layer is a program of its own, so that filling and emptying the queues is counted once a layer, more than a network pays.
"""

import numpy as np

from litediffusion.cores.machine import Machine
from litediffusion.sw.compiler.assemble import assemble, resources_of
from litediffusion.sw.compiler.image import Image
from litediffusion.sw.compiler.sampler import update_items
from litediffusion.sw.compiler.tiled_program import TiledProgram
from litediffusion.sw.schedule import sampler_table

SCALE = 1 / 32           # of all random tensors
GROUPS, EPS = 32, 1e-6   # of the norms


def random_norm(rng, channels, function):
    """(attributes of a GroupNorm, scale of its output)."""
    return {"gamma": 1 + 0.2 * rng.standard_normal(channels), "beta": 0.2 * rng.standard_normal(channels), "groups": GROUPS,
            "eps": EPS, "function": function}, SCALE


def weight_bits(layer, bits):
    """Bits of a layer's weights: 4-bit networks keep 8 bits at their ends and in attention."""
    inner = layer.kind == "conv" and min(layer.outputs, *layer.inputs) >= 16
    return bits if inner else 8


class LayerRun:
    """Programs of one layer: ``prelude`` makes what earlier layers would have left, ``program`` is the layer itself."""

    def __init__(self, config, layer, bits, seed=0):
        self.config, self.layer, self.rng = config, layer, np.random.default_rng(seed)
        self.main, self.inputs = TiledProgram(config, Image(1)), []
        size = {"up": layer.size // 2, "down": layer.size * 2}.get(layer.resample, layer.size)
        record, parts = 0, []
        for i, channels in enumerate(layer.inputs):
            parts.append(self.tensor(f"x{i}", (channels, size, size), record))
            record += -(-channels // 8)
        before = TiledProgram(config, self.main.image)
        if layer.norm or layer.kind == "attention":
            before.statistics(parts[0], 0)
            for skip in parts[1:]:
                self.main.statistics(skip, skip.stat)
        attention = layer.kind == "attention"
        self.output = self.attention(parts[0], record) if attention else self.conv(parts, record, weight_bits(layer, bits))
        self.prelude = before.finish() if before.state.items else None
        self.program = self.main.finish()
        self.image = self.main.image.finish()
        for tensor in self.inputs:
            values = np.clip(np.round(self.rng.standard_normal(tensor.bytes) / SCALE), -128, 127)
            self.image[tensor.at:tensor.at + tensor.bytes] = values.astype(np.int8).view(np.uint8)

    def tensor(self, name, shape, stat=-1):
        """A DramTensor of random values."""
        self.inputs.append(self.main.tensor(name, shape, SCALE, stat))
        return self.inputs[-1]

    def conv(self, parts, stat, bits):
        layer, channels = self.layer, sum(self.layer.inputs)
        shape = layer.outputs, channels, layer.kernel, layer.kernel
        attrs = {"weight": self.rng.standard_normal(shape) / np.sqrt(channels * layer.kernel ** 2),
                 "bias": 0.1 * self.rng.standard_normal(layer.outputs), "pad": layer.kernel // 2}
        attrs.update({"down": {"stride": 2, "pad": 0, "pad_end": 1}, "up": {"up": True}}.get(layer.resample, {}))
        residual = self.tensor("residual", (layer.outputs, layer.size, layer.size)) if layer.residual else None
        return self.main.conv("layer", parts, attrs, None if layer.final else SCALE, operand=residual, bits=bits,
                              norm=random_norm(self.rng, channels, "SILU") if layer.norm else None, stat=-1 if layer.final else stat)

    def attention(self, x, stat):
        c = self.layer.outputs
        convs = {part: (self.rng.standard_normal((c, c)) / np.sqrt(c), 0.1 * self.rng.standard_normal(c)) for part in "qkvo"}
        scales = dict.fromkeys(["q", "k", "v", "mix", "out"], SCALE)
        return self.main.attention("layer", x, random_norm(self.rng, c, None), convs, scales, stat=stat)

    def run(self, device):
        """Counters of the layer's program. Raises ValueError if its output differs from the golden machine's."""
        golden = Machine(self.config, self.image.copy())
        device.write(0, self.image.tobytes())
        for program in filter(None, (self.prelude, self.program)):
            golden.run(*program)
            counters = device.run_program(*program)
        at, size = self.output.at, self.output.bytes
        if device.read(at, size) != golden.dram[0, at:at + size].tobytes():
            raise ValueError(f"{self.layer.name}: the output differs from the numpy model's")
        return counters


def layer_figures(device, config, layer, count, bits):
    """Figures of one layer; all but ``count`` for one execution."""
    width = weight_bits(layer, bits)
    figures = {"name": layer.name, "kind": layer.kind, "count": count, "macs": layer.macs, "bits": width}
    if layer.kind == "embedding":
        return dict(figures, cycles=0, ideal_cycles=0, dram_bytes=0, weight_bytes=0)
    counters = LayerRun(config, layer, bits).run(device)
    ideal = layer.macs / (config.peak_macs * (2 if width == 4 else 1))
    return dict(figures, cycles=counters["cycles"], ideal_cycles=ideal, utilisation=ideal / counters["cycles"],
                dram_bytes=config.word_bytes * (counters["dram_reads"] + counters["dram_writes"]),
                weight_bytes=layer.weights * width // 8)


def update_cycles(device, config, size, channels):
    """Cycles of one sampler update of a picture."""
    image, words = Image(1), size ** 2
    stride = config.word_bytes * words
    buffers = {"latent": image.buffer(stride), "eps": image.buffer(2 * stride), "trajectory": image.buffer(stride),
               "image_stride": stride}
    items = update_items(config, buffers, words, channels, sampler_table("ddim", 2)[1][:1])
    resources = resources_of(items)
    image.place(resources)
    image.place_steps(resources)
    at, length = assemble(items, image, {"PARAM": (0, config.param_words)}, ["update"])
    device.write(0, image.finish().tobytes())
    return device.run_program(at, length)["cycles"]


def network_figures(device, config, table, size, bits, progress=lambda done, total, text: None):
    """Figures of one evaluation of a network (a Counter of LayerShape), from those of its layers."""
    rows = []
    for i, (layer, count) in enumerate(table.items()):
        progress(i, len(table), layer.name)
        rows.append(layer_figures(device, config, layer, count, bits))
    total = lambda name: sum(row[name] * row["count"] for row in rows)
    sums = {name: total(name) for name in ("macs", "cycles", "dram_bytes", "weight_bytes")}
    return {"bits": bits, "layers": rows, **sums, "parameters": sum(layer.parameters * n for layer, n in table.items()),
            "utilisation": total("ideal_cycles") / total("cycles"),
            "update_cycles": update_cycles(device, config, size, channels=3)}
