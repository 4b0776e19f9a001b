"""From a torch model to pictures: the steps that the command line and the tests share.

    model -> import -> passes -> calibrate -> compile -> Program -> Device.generate -> latents, pixels
"""

from dataclasses import dataclass

import numpy as np

from litediffusion.cores.config import PRESETS
from litediffusion.soc.mailbox import MAX_BATCH
from litediffusion.soc.memory_map import WINDOW_SIZE
from litediffusion.sw.compiler.assemble import LIMIT
from litediffusion.sw.compiler.compile import check_bits, compile_graph
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.compiler.tables import quantise_rows, table_rows
from litediffusion.sw.container import check_config, evaluations, fixed_guidance
from litediffusion.sw.devices.base import Job
from litediffusion.sw.latents import unpack_latents
from litediffusion.sw.texts import TextError


SENSITIVITY_IMAGES = 2       # pictures on which the error of 4-bit weights is looked at


def import_model(source, steps, sampler=None, eta=0.0):
    """(graph after the passes, sampler table). ``sampler``: None is the model's own."""
    from litediffusion.sw.passes import run_passes

    timesteps, table = source.sampler(sampler, steps, eta)
    return run_passes(source.graph(timesteps)), table


def import_decoder(source):
    """Graph after the passes of what makes a picture of latents, or None."""
    from litediffusion.sw.passes import run_passes

    graph = source.decoder()
    return graph and run_passes(graph)


def chosen_bits(graph, decoder, bits, budget, states, labels, progress):
    """{conv: 4} of the layers with 4-bit weights."""
    from litediffusion.sw.quantise import choose_bits, four_bit_candidates, sensitivities

    if bits == 8 and budget is None:
        return {}
    names = four_bit_candidates(graph)
    if budget is not None:
        looked = sorted({0, len(states) // 2, len(states) - 1})
        pairs = [(step, states[step][:SENSITIVITY_IMAGES]) for step in looked]
        return choose_bits(graph, sensitivities(graph, names, pairs, labels[:SENSITIVITY_IMAGES], progress), budget)
    return {name: 4 for name in names + (four_bit_candidates(decoder) if decoder else [])}


def compile_model(source, *, steps=20, sampler=None, eta=0.0, guidance=None, bits=8, budget=None, per_step=True, config=PRESETS["ecpix5"],
                  images=16, seed=1, progress=None, ranges=None, batch=MAX_BATCH, window_size=WINDOW_SIZE, tiled=None, imported=None, most=LIMIT,
                  wide=True):
    """A source (sources.py) -> Program.

    guidance : None is the source's; bits : 8 or 4, weights of the inner layers; budget : instead of bits 4, in dB: as many of them have 4
    bits as leave so much signal over their own error; images, seed : of the calibration; ranges : a calibration made before; batch : pictures of
    a job at most; tiled : activations in DRAM, None: if the layers do not fit on chip; imported : (graph, table, decoder), if that
    has been done; most : see compile_graph; wide : with activations in DRAM, what norms and sums read has 16 bits (compiler/wide.py).
    """
    check_bits(bits)
    guidance = source.guidance if guidance is None else guidance
    graph, table, decoder = imported or (*import_model(source, steps, sampler, eta), import_decoder(source))
    states = []
    if ranges is None:
        from litediffusion.sw.calibrate import calibrate
        from litediffusion.sw.quantise import ChannelMeans, correct_biases
        means = None if bits == 8 and budget is None else ChannelMeans(len(table))
        ranges = calibrate(graph, table, range(source.labels), source.null_label, guidance, images, seed, progress, decoder, means, states)
        four = chosen_bits(graph, decoder, bits, budget, states, np.arange(images) % source.labels, progress)
        if means:
            correct_biases(graph, [name for name in four if name in graph.nodes], means.values)
    else:
        four = chosen_bits(graph, decoder, bits, None, states, [], progress)
    options = dict(bits=four, per_step=per_step, null_label=source.null_label, labels=source.labels, guidance=guidance, name=source.name,
                   batch=batch, window_size=window_size, decoder=decoder, text=source.text(), most=most, wide=wide)
    if tiled is None:
        try:
            return compile_graph(graph, config, table, ranges, **options)
        except CompileError:
            tiled = True
    return compile_graph(graph, config, table, ranges, tiled=tiled, **options)


def check_guidance(guidance):
    """The guidance scale, if it is in range. Raises ValueError."""
    if not -1000.0 <= guidance <= 1000.0:
        raise ValueError(f"guidance {guidance}: must be in -1000..1000")
    return guidance


def make_job(program, labels, seeds, guidance=None):
    """Job for a program: one label and one 64-bit seed an image. Raises ValueError on a label that the model lacks."""
    meta = program.meta
    bad = [label for label in labels if not 0 <= label < meta["labels"]]
    if bad:
        raise ValueError(f"label {bad[0]}: the model knows 0..{meta['labels'] - 1}")
    bad = [seed for seed in seeds if not 0 <= seed < 1 << 64]
    if bad:
        raise ValueError(f"seed {bad[0]}: must be in 0..2^64-1")
    if len(labels) > meta["batch"]:
        raise ValueError(f"{len(labels)} images, the program holds {meta['batch']} a job; make several jobs")
    guidance = check_guidance(meta["guidance"] if guidance is None else guidance)
    buffers, parts = meta["buffers"], meta["programs"]
    return Job(program.config_hash, *(tuple(parts[p]) for p in ("init", "eval", "update", "finish")), steps=meta["steps"],
               labels=list(labels), seeds=list(seeds), out_addr=buffers["trajectory"], out_stride=buffers["image_stride"],
               out_bytes=buffers["image_stride"], max_steps=meta["steps"], evals=evaluations(guidance),
               guidance=fixed_guidance(guidance), null_label=meta["null_label"], image_bytes=meta["image_bytes"])


def upload(device, program, progress=None):
    """Put a program into a device's window. Raises ContainerError if it was made for another configuration."""
    check_config(program.config_hash, device.config_hash, program.meta["name"])
    device.write(program.meta["image_base"], program.image.tobytes(), progress)


def write_texts(device, program, texts):
    """Put TextStates into an uploaded program's tables: the first one is label 0. Raises TextError if they do not fit it."""
    tables = texts.tables()
    if "encoder_attention_mask" in tables and "encoder_attention_mask" not in program.meta["conditions"]:
        raise TextError(f"{program.meta['name']}: the texts have a mask, those that the program was compiled with had none; compile it with such texts")
    for name, place in program.meta["conditions"].items():
        values = tables.get(name)
        shape = None if values is None else list(values.shape[1:])
        if shape != place["shape"] or len(values) > place["labels"]:
            raise TextError(f"{program.meta['name']}: {name} of the texts is {values if values is None else values.shape}, the program takes up to "
                            f"{place['labels']} of {place['shape']}")
        device.write(place["at"], table_rows(quantise_rows(values, place["scale"])).tobytes())


@dataclass
class Pictures:
    """pixels uint8 [B, C', H', W']; latents int16 [B, steps, C, H, W], Q3.12, after every step; counters of the device."""
    pixels: np.ndarray
    latents: np.ndarray
    counters: dict
    seconds: float


def unpack(program, results):
    """Device results -> Pictures."""
    meta = program.meta
    c, h, w = meta["shape"]
    raw = np.stack([np.frombuffer(o, np.uint8) for o in results.outputs])
    split = 16 * h * w * meta["steps"]
    latents = unpack_latents(raw[:, :split].reshape(len(raw), meta["steps"], -1), (c, h, w))
    channels, height, width = meta["picture"]
    pixels = raw[:, split:].reshape(len(raw), height, width, 16)[..., :channels]
    return Pictures(pixels.transpose(0, 3, 1, 2), latents, results.counters, results.seconds)


def check_asked(program, texts):
    """Raise TextError if a program that takes texts is asked for labels, or the other way round."""
    wants = bool(program.meta.get("text"))
    if wants != (texts is not None):
        raise TextError(f"{program.meta['name']}: the program takes {'prompts, not labels' if wants else 'labels, not prompts'}")


def generate(device, program, labels, seeds, guidance=None, progress=None, texts=None):
    """Pictures of an uploaded program, in as many jobs as needed.

    texts : TextStates, of no text and of every picture, for a program that takes prompts; ``labels`` are then not used.
    """
    check_asked(program, texts)
    size, parts = program.meta["batch"], []
    labels = range(1, len(texts)) if texts else labels
    for first in range(0, len(labels), size):
        part = slice(first, first + size)
        asked = labels[part]
        if texts:
            write_texts(device, program, texts.picked([0, *asked]))
            asked = range(1, len(asked) + 1)
        job = make_job(program, asked, seeds[part], guidance)
        step = progress and (lambda image, images, step, steps, first=first: progress(first + image, len(labels), step, steps))
        parts.append(unpack(program, device.generate(job, step)))
    counters = {k: sum(p.counters[k] for p in parts) for k in parts[0].counters}
    return Pictures(np.concatenate([p.pixels for p in parts]), np.concatenate([p.latents for p in parts]), counters,
                    sum(p.seconds for p in parts))
