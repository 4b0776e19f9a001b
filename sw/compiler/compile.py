"""The compiler's driver: graph + ranges -> Program (image, four programs, meta data)."""

import numpy as np

from litediffusion.cores import isa
from litediffusion.soc.mailbox import MAX_BATCH
from litediffusion.soc.memory_map import SELFTEST_BYTES, WINDOW_SIZE
from litediffusion.sw.compiler.image import Image
from litediffusion.sw.compiler.items import CompileError, Item
from litediffusion.sw.compiler.lower_graph import GraphLowering
from litediffusion.sw.compiler.prefetch import Prefetcher
from litediffusion.sw.compiler.sampler import finish_items, init_items, update_items
from litediffusion.sw.compiler.scales import choose_scales
from litediffusion.sw.compiler.sync import assign_tokens
from litediffusion.sw.container import Program
from litediffusion.sw.graph import macs

NAMES = ("init", "eval", "update", "finish")


def resources_of(items):
    """Resources in order of first use."""
    return list(dict.fromkeys(r for item in items for r, _ in item.needs.values()))


def assemble(items, image, areas, layer_names):
    """Items -> (byte offset, descriptors) of the program placed in the image."""
    full = Prefetcher(items, image, areas, layer_names).run()
    full.append(Item("END", {}, 0))
    assign_tokens(full)
    code = b"".join(isa.encode(i.op, layer=i.layer, **i.fields) for i in full)
    return image.constant(np.frombuffer(code, np.uint8)), len(full), full


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


def buffers_of(image, words, steps, batch, spill_words):
    """DRAM buffers: latents, eps of two slots, evicted activations, and for each image its trajectory and pixels."""
    stride = 16 * words * (steps + 1)
    latent, eps = image.buffer(16 * words), image.buffer(32 * words)
    spill, output = image.buffer(16 * spill_words), image.buffer(stride * batch)
    return {"latent": latent, "eps": eps, "spill": spill, "trajectory": output, "pixels": output + 16 * words * steps, "image_stride": stride,
            "end": image.size}


def compile_graph(graph, config, table, ranges, *, bits=8, per_step=True, null_label=0, labels=1, guidance=1.0, name="model",
                  batch=MAX_BATCH):
    """Compile a graph (after the passes) into a Program.

    Parameters
    ----------
    table : sampler coefficients of each step; ranges : {tensor: [steps]} of the calibration.
    bits : 8 or 4, weights of the inner layers; per_step : scales by step, or static.
    null_label, labels : label of the unconditional evaluation, number of labels that a user may ask for.
    """
    check_bits(bits)
    steps = len(table)
    low = GraphLowering(config, graph, choose_scales(graph, ranges, per_step), four_bit_layers(graph, bits), steps).run()
    shape = next(n.shape for n in graph.nodes.values() if n.op == "input")
    words = shape[1] * shape[2]
    batch = max(1, min(batch, WINDOW_SIZE // 2 // (16 * words * (steps + 1))))     # half the window for results
    image = Image(steps)
    buffers = buffers_of(image, words, steps, batch, low.spill_words)
    for item in low.spills:
        item.fields["dram"] += buffers["spill"]
    low.latent_load.fields["dram"] = buffers["latent"]
    low.eps_store.fields.update(dram=buffers["eps"], idx0_stride=16 * words)
    for load, data in getattr(low, "tables", []):
        load.fields["dram"] = image.constant(data)
    items = {"init": init_items(config, buffers, words, shape[0]), "eval": low.items,
             "update": update_items(config, buffers, words, shape[0], table), "finish": finish_items(config, buffers, words)}
    resources = [r for part in items.values() for r in resources_of(part)]
    image.place(resources)
    image.place_steps(resources)
    meta = {"name": name, "shape": list(shape), "steps": steps, "null_label": null_label, "labels": labels, "guidance": guidance,
            "bits": bits, "per_step": per_step, "batch": batch, "buffers": buffers, "config": config.name,
            "layers": low.layers, "macs": layer_macs(graph), "programs": {}}
    for part in NAMES:
        at, length, _ = assemble(items[part], image, low.areas, low.layers if part == "eval" else [part])
        meta["programs"][part] = [at, length]
    if image.size > WINDOW_SIZE - SELFTEST_BYTES:
        raise CompileError(f"{name}: the program needs {image.size:,} bytes of DRAM, the engine's window has "
                           f"{WINDOW_SIZE - SELFTEST_BYTES:,}: compile for fewer steps ({steps}) or a smaller batch ({batch})")
    meta.update(image_base=buffers["end"], image_bytes=image.size)
    return Program(image.finish()[buffers["end"]:], meta, config.hash)
