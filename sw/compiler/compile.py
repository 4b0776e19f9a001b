"""The compiler's driver: graph + ranges -> Program (image, four programs, meta data)."""

from functools import partial

from litediffusion.cores import isa
from litediffusion.soc.mailbox import MAX_BATCH
from litediffusion.soc.memory_map import SELFTEST_BYTES, WINDOW_SIZE
from litediffusion.sw.compiler.assemble import LIMIT, encode, resources_of, schedule
from litediffusion.sw.compiler.image import Image, align
from litediffusion.sw.compiler.items import WORD_BYTES, CompileError, check_length
from litediffusion.sw.compiler.lower_graph import GraphLowering
from litediffusion.sw.compiler.sampler import finish_items, init_items, update_items
from litediffusion.sw.compiler.scales import choose_scales
from litediffusion.sw.compiler.tiled_graph import TiledGraph
from litediffusion.sw.container import Program
from litediffusion.sw.graph import macs
from litediffusion.sw.quantise import four_bit_candidates
from litediffusion.sw.reference import OWN

NAMES = ("init", "eval", "update", "finish")


def check_bits(bits):
    """Raise CompileError unless weights can have so many bits."""
    if bits not in (4, 8):
        raise CompileError(f"bits={bits}: weights are 8 or 4 bits")


def weight_bits(graph, bits):
    """8 or 4 if all layers that can have 4 bits do or do not, else "mixed"."""
    able = set(four_bit_candidates(graph))
    return 8 if not able & set(bits) else 4 if able <= set(bits) else "mixed"


def place_of(tensor, spill=0):
    """A DramTensor as Program.meta["tensors"] has it; spill : first byte of the tensors that several evaluations share."""
    return {"at": tensor.at + (spill if tensor.spilled else 0), "shape": list(tensor.shape), "scale": [float(s) for s in tensor.scale],
            "skew": tensor.skew, "fine": tensor.fine}


def tensor_places(low, spill):
    """{layer: where its tensor is after it, its shape, scales and format} of a lowering with tensors in DRAM."""
    return {name: place_of(tensor, spill) for name, tensor in getattr(low, "places", {}).items()}


def layer_macs(graph):
    """MACs by layer; the value projection of an attention runs as part of it."""
    work = macs(graph)
    for node in graph.nodes.values():
        if node.op == "attention":
            work[node.name] += work.pop(node.inputs[2])
    return work


def buffers_of(image, words, pixels, steps, batch, decoded):
    """DRAM buffers: latents, eps of two slots, the last prediction, what a decoder makes, and for each image its trajectory and pixels."""
    stride = 16 * (words * steps + pixels)
    latent, eps = image.buffer(16 * words), image.buffer(32 * words)
    previous = image.buffer(16 * words)
    result = image.buffer(16 * pixels) if decoded else latent
    output = image.buffer(stride * batch)
    return {"latent": latent, "eps": eps, "eps_stride": 16 * words, "previous": previous, "result": result, "trajectory": output,
            "pixels": output + 16 * words * steps, "image_stride": stride, "end": image.size}


def check_resident(graph):
    """Raise CompileError for what only layers from DRAM to DRAM can do."""
    for node in graph.nodes.values():
        if node.op in ("layer_norm", "mul", "condition_table", "constant") or node.attrs.get("times") or node.attrs.get("runtime"):
            raise CompileError(f"layer {node.name} ({node.path}): compiled only with activations in DRAM")


def ranges_of(graph, ranges):
    """Those of a calibration's ranges that belong to a graph."""
    return {name: r for name, r in ranges.items() if name.removesuffix(OWN) in graph.nodes}


def lower_resident(config, graph, ranges, per_step, bits, steps, image, buffers, most=LIMIT):
    """The evaluation with activations on chip while they fit."""
    check_resident(graph)
    low = GraphLowering(config, graph, choose_scales(graph, ranges_of(graph, ranges), per_step), bits, steps, image, buffers)
    low.most = most
    return low.run()


def run_tiled(low, most):
    """A TiledGraph after its run of at most so many items."""
    low.state.most = most
    return low.run()


def tiled_scales(graph, ranges, per_step):
    """{tensor: scale [steps]} of a graph whose activations lie in DRAM; ranges : a calibration's, of other graphs too."""
    return choose_scales(graph, ranges_of(graph, ranges), per_step, split=True)


def decoder_scales(decoder, ranges):
    """The same of what runs once, after the last step."""
    return tiled_scales(decoder, ranges, per_step=False)


def lower_tiled(config, graph, ranges, per_step, bits, steps, image, buffers, most=LIMIT, wide=True):
    """The evaluation with activations in DRAM."""
    return run_tiled(TiledGraph(config, graph, tiled_scales(graph, ranges, per_step), bits, steps, image, buffers, wide), most)


def decoder_ends(buffers):
    """What a decoder's lowering takes for its buffers."""
    return {"latent": buffers["latent"], "eps": buffers["result"], "eps_stride": 0}


def lower_decoder(config, decoder, ranges, bits, image, buffers, most=LIMIT, wide=True):
    """What makes a picture of the latents after the last step, with activations in DRAM."""
    return run_tiled(TiledGraph(config, decoder, decoder_scales(decoder, ranges), bits, 1, image, decoder_ends(buffers), wide), most)


def finish_program(config, buffers, pixels, decoder):
    """(items, names of their layers) of the program after the last step; decoder : a lowering, or None."""
    items, layers = finish_items(config, buffers, pixels), decoder.layers if decoder else []
    for item in items:
        item.layer = len(layers)
    return (decoder.items if decoder else []) + items, [*layers, "finish"]


def compile_graph(graph, config, table, ranges, *, bits=None, per_step=True, null_label=0, labels=1, guidance=1.0, name="model",
                  batch=MAX_BATCH, tiled=False, window_size=WINDOW_SIZE, decoder=None, text=None, most=LIMIT, wide=True):
    """Compile a graph (after the passes) into a Program.

    Parameters
    ----------
    table : sampler coefficients of each step; ranges : {tensor: [steps]} of the calibration.
    bits : {conv: 4} for the layers whose weights have 4 bits, of the decoder too; per_step : scales by step, or static.
    null_label, labels : label of the unconditional evaluation, number of labels that a user may ask for.
    tiled : activations lie in DRAM and pass by in tiles, instead of on chip while they fit: for larger networks.
    window_size : bytes of DRAM that the engine may use.
    decoder : Graph of what makes a picture of the last latents, or None; text : meta data of a model that takes prompts;
    most : descriptors of an evaluation, and of the decoder; more raise TooLong; wide : with activations in DRAM, what norms and sums
    read has 16 bits (wide.py).
    """
    bits, steps = bits or {}, len(table)
    shape = next(n.shape for n in graph.nodes.values() if n.op == "input")
    picture = decoder.shape(decoder.output) if decoder else shape
    words, pixels = shape[1] * shape[2], picture[1] * picture[2]
    batch = max(1, min(batch, window_size // 2 // (16 * (words * steps + pixels))))     # half the window for results
    batch = min(batch, labels - 1) if text else batch
    image = Image(steps)
    buffers = buffers_of(image, words, pixels, steps, batch, decoder is not None)
    lowering = partial(lower_tiled, wide=wide) if tiled else lower_resident
    low = lowering(config, graph, ranges, per_step, bits, steps, image, buffers, most)
    decoding = decoder and lower_decoder(config, decoder, ranges, bits, image, buffers, most, wide)
    finish, finish_layers = finish_program(config, buffers, pixels, decoding)
    items = {"init": init_items(config, buffers, words, shape[0], table), "eval": low.items,
             "update": update_items(config, buffers, words, shape[0], table), "finish": finish}
    resources = [r for part in items.values() for r in resources_of(part)]
    image.place(resources)
    image.place_steps(resources)
    meta = {"name": name, "shape": list(shape), "steps": steps, "null_label": null_label, "labels": labels, "guidance": guidance,
            "bits": weight_bits(graph, bits), "per_step": per_step, "batch": batch, "buffers": buffers, "config": config.name,
            "picture": list(picture), "text": text, "conditions": getattr(low, "conditions", {}), "layers": low.layers,
            "finish_layers": finish_layers, "macs": layer_macs(graph) | (layer_macs(decoder) if decoder else {}),
            "noise": any(coefs["sigma"] for coefs in table)}
    names = {"init": ["init"], "eval": low.layers, "update": ["update"], "finish": finish_layers}
    full = {part: schedule(items[part], image, low.areas, names[part]) for part in NAMES}
    for part in ("eval", "finish"):
        check_length(name, len(full[part]), most)
    spill_words = max(low.spill_words, decoding.spill_words if decoding else 0)
    spill = image.size + sum(align(isa.DESC_BYTES * len(f)) for f in full.values())
    meta["tensors"] = tensor_places(low, spill)
    meta["programs"] = {part: list(encode(f, image, spill)) for part, f in full.items()}
    meta.update(image_base=buffers["end"], image_bytes=spill + align(WORD_BYTES * spill_words))
    if meta["image_bytes"] > window_size - SELFTEST_BYTES:
        raise CompileError(f"{name}: the program needs {meta['image_bytes']:,} bytes of DRAM, the engine's window has "
                           f"{window_size - SELFTEST_BYTES:,}: compile for fewer steps ({steps}) or a smaller batch ({batch})")
    return Program(image.finish()[buffers["end"]:], meta, config.hash)
