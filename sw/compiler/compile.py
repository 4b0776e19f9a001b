"""The compiler's driver: graph + ranges -> Program (image, four programs, meta data)."""

from litediffusion.cores import isa
from litediffusion.soc.mailbox import MAX_BATCH
from litediffusion.soc.memory_map import SELFTEST_BYTES, WINDOW_SIZE
from litediffusion.sw.compiler.assemble import check_length, encode, resources_of, schedule
from litediffusion.sw.compiler.image import Image, align
from litediffusion.sw.compiler.items import WORD_BYTES, CompileError
from litediffusion.sw.compiler.lower_graph import GraphLowering
from litediffusion.sw.compiler.sampler import finish_items, init_items, update_items
from litediffusion.sw.compiler.scales import choose_scales
from litediffusion.sw.compiler.tiled_graph import TiledGraph
from litediffusion.sw.container import Program
from litediffusion.sw.graph import macs

NAMES = ("init", "eval", "update", "finish")


def check_bits(bits):
    """Raise CompileError unless weights can have so many bits."""
    if bits not in (4, 8):
        raise CompileError(f"bits={bits}: weights are 8 or 4 bits")


def four_bit_layers(graph, bits):
    """{conv: bits}: at 4 bits all convs of at least 16 channels on both sides; the ends of the network stay at 8."""
    if bits == 8:
        return {}
    convs = [n for n in graph.nodes.values() if n.op == "conv" and n.shape[1] > 1]
    inner = [n for n in convs if n.name != graph.output and graph.shape(n.inputs[0])[0] >= 16 and n.shape[0] >= 16]
    return {n.name: 4 for n in inner}


def layer_macs(graph):
    """MACs by layer; the value projection of an attention runs as part of it."""
    work = macs(graph)
    for node in graph.nodes.values():
        if node.op == "attention":
            work[node.name] += work.pop(node.inputs[2])
    return work


def buffers_of(image, words, steps, batch):
    """DRAM buffers: latents, eps of two slots, and for each image its trajectory and pixels."""
    stride = 16 * words * (steps + 1)
    latent, eps, output = image.buffer(16 * words), image.buffer(32 * words), image.buffer(stride * batch)
    return {"latent": latent, "eps": eps, "eps_stride": 16 * words, "trajectory": output, "pixels": output + 16 * words * steps,
            "image_stride": stride, "end": image.size}


def lower_resident(config, graph, ranges, per_step, bits, steps, image, buffers):
    """The evaluation with activations on chip while they fit."""
    return GraphLowering(config, graph, choose_scales(graph, ranges, per_step), bits, steps, image, buffers).run()


def lower_tiled(config, graph, ranges, per_step, bits, steps, image, buffers):
    """The evaluation with activations in DRAM."""
    return TiledGraph(config, graph, choose_scales(graph, ranges, per_step, split=True), bits, steps, image, buffers).run()


def compile_graph(graph, config, table, ranges, *, bits=8, per_step=True, null_label=0, labels=1, guidance=1.0, name="model",
                  batch=MAX_BATCH, tiled=False, window_size=WINDOW_SIZE):
    """Compile a graph (after the passes) into a Program.

    Parameters
    ----------
    table : sampler coefficients of each step; ranges : {tensor: [steps]} of the calibration.
    bits : 8 or 4, weights of the inner layers; per_step : scales by step, or static.
    null_label, labels : label of the unconditional evaluation, number of labels that a user may ask for.
    tiled : activations lie in DRAM and pass by in tiles, instead of on chip while they fit: for larger networks.
    window_size : bytes of DRAM that the engine may use.
    """
    check_bits(bits)
    steps = len(table)
    shape = next(n.shape for n in graph.nodes.values() if n.op == "input")
    words = shape[1] * shape[2]
    batch = max(1, min(batch, window_size // 2 // (16 * words * (steps + 1))))     # half the window for results
    image = Image(steps)
    buffers = buffers_of(image, words, steps, batch)
    lowering = lower_tiled if tiled else lower_resident
    low = lowering(config, graph, ranges, per_step, four_bit_layers(graph, bits), steps, image, buffers)
    items = {"init": init_items(config, buffers, words, shape[0]), "eval": low.items,
             "update": update_items(config, buffers, words, shape[0], table), "finish": finish_items(config, buffers, words)}
    resources = [r for part in items.values() for r in resources_of(part)]
    image.place(resources)
    image.place_steps(resources)
    meta = {"name": name, "shape": list(shape), "steps": steps, "null_label": null_label, "labels": labels, "guidance": guidance,
            "bits": bits, "per_step": per_step, "batch": batch, "buffers": buffers, "config": config.name,
            "layers": low.layers, "macs": layer_macs(graph)}
    full = {part: schedule(items[part], image, low.areas, low.layers if part == "eval" else [part]) for part in NAMES}
    check_length(name, full["eval"])
    spill = image.size + sum(align(isa.DESC_BYTES * len(f)) for f in full.values())
    meta["programs"] = {part: list(encode(f, image, spill)) for part, f in full.items()}
    meta.update(image_base=buffers["end"], image_bytes=spill + align(WORD_BYTES * low.spill_words))
    if meta["image_bytes"] > window_size - SELFTEST_BYTES:
        raise CompileError(f"{name}: the program needs {meta['image_bytes']:,} bytes of DRAM, the engine's window has "
                           f"{window_size - SELFTEST_BYTES:,}: compile for fewer steps ({steps}) or a smaller batch ({batch})")
    return Program(image.finish()[buffers["end"]:], meta, config.hash)
