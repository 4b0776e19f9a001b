"""From a torch model to pictures: the steps that the command line and the tests share.

    model -> import -> passes -> calibrate -> compile -> Program -> Device.generate -> latents, pixels
"""

from dataclasses import dataclass
import importlib
from pathlib import Path

import numpy as np

from litediffusion.cores.config import PRESETS
from litediffusion.soc.mailbox import MAX_BATCH
from litediffusion.soc.memory_map import WINDOW_SIZE
from litediffusion.sw.compiler.compile import check_bits, compile_graph
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.container import check_config, evaluations, fixed_guidance
from litediffusion.sw.devices.base import Job
from litediffusion.sw.schedule import sampler_table


class ModelError(ValueError):
    """The model to compile cannot be found or is not described well enough."""


@dataclass
class ModelSource:
    """A torch model with what the compiler must know.

    model : nn.Module, forward(x, t, y); shape : (C, H, W); labels : number of labels a user may ask for;
    null_label : label of the unconditional evaluation; guidance : scale to be used unless another one is asked for.
    """
    model: object
    shape: tuple
    labels: int
    null_label: int
    name: str
    guidance: float = 2.0

    def graph(self, timesteps):
        """Graph as imported, for the sampler's timesteps."""
        from litediffusion.sw.importer import import_unet

        return import_unet(self.model, self.shape, timesteps)

    def sampler(self, name, steps, eta):
        """(timesteps, coefficients of each step)."""
        return sampler_table(name or "ddim", steps, eta)


@dataclass
class FolderSource:
    """A UNet2DModel in a folder as diffusers saves it.

    size : of the picture, None: as its config says; null_label : the label of no class, for a model trained with guidance.
    """
    folder: object
    size: object = None
    null_label: int | None = None

    def __post_init__(self):
        from litediffusion.sw.diffusers.unet2d import checked_config, image_size

        config = checked_config(self.folder.config)
        self.name, self.labels = self.folder.name, config["num_class_embeds"] or 1
        self.shape = (config["in_channels"], *image_size(config, self.size))
        if self.null_label is not None and not 0 <= self.null_label < self.labels:
            raise ModelError(f"null label {self.null_label}: the model knows 0..{self.labels - 1}")
        self.guidance = 1.0 if self.null_label is None else 2.0
        self.null_label = self.null_label or 0

    def graph(self, timesteps):
        from litediffusion.sw.diffusers.unet2d import import_unet2d

        return import_unet2d(self.folder.config, self.folder.weights, timesteps, self.size)

    def sampler(self, name, steps, eta):
        from litediffusion.sw.diffusers.scheduler import scheduler_table

        return scheduler_table(self.folder.scheduler or {}, steps, name, eta)


def load_folder(path, size=None, null_label=None):
    """FolderSource of a diffusers model's or pipeline's folder. Raises ModelError, FolderError, UnsupportedLayer."""
    from litediffusion.sw.diffusers.folder import open_folder

    folder = open_folder(path)
    kind = folder.config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise ModelError(f"{path}: holds a {kind}; UNet2DModel is what can be compiled so far")
    return FolderSource(folder, size, null_label)


def load_model(name, weights=None, size=None, null_label=None):
    """The model by its name. Raises ModelError.

    name : ``digits`` or ``fashion`` (packaged), a folder as diffusers saves it, or ``package.module:function`` that returns a
    ModelSource; weights : of digits; size, null_label : of a folder (see FolderSource).
    """
    if name == "fashion":
        from litediffusion.sw.fashion import MODEL, NULL_CLASS
        source = load_folder(MODEL, size, NULL_CLASS)
        source.name = "fashion"
        return source
    if Path(name).is_dir():
        return load_folder(name, size, null_label)
    if name == "digits":
        from litediffusion.sw.digits.unet import IMAGE_SIZE, NULL_CLASS, NUM_CLASSES, load_unet
        try:
            model = load_unet(weights)
        except Exception as error:       # safetensors and torch have exceptions of their own kinds
            raise ModelError(f"the weights {weights or 'of the package'} cannot be loaded: {error}") from error
        return ModelSource(model, (1, IMAGE_SIZE, IMAGE_SIZE), NUM_CLASSES, NULL_CLASS, "digits")
    module, _, function = name.partition(":")
    if not function:
        raise ModelError(f"model {name!r} is unknown; use 'digits', 'fashion', a folder of a diffusers model, or 'package.module:function' "
                         "returning a ModelSource")
    try:
        source = getattr(importlib.import_module(module), function)()
    except Exception as error:           # the user's code may raise anything
        raise ModelError(f"model {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(source, ModelSource):
        raise ModelError(f"model {name!r} returned {type(source).__name__}, must be a litediffusion.sw.pipeline.ModelSource")
    return source


def import_model(source, steps, sampler=None, eta=0.0):
    """(graph after the passes, sampler table). ``sampler``: None is the model's own."""
    from litediffusion.sw.passes import run_passes

    timesteps, table = source.sampler(sampler, steps, eta)
    return run_passes(source.graph(timesteps)), table


def compile_model(source, *, steps=20, sampler=None, eta=0.0, guidance=None, bits=8, per_step=True, config=PRESETS["ecpix5"],
                  images=16, seed=1, progress=None, ranges=None, batch=MAX_BATCH, window_size=WINDOW_SIZE, tiled=None):
    """ModelSource or FolderSource -> Program.

    guidance : None is the source's; images, seed : of the calibration; ranges : a calibration made before; batch : pictures of
    a job at most; tiled : activations in DRAM, None: if the layers do not fit on chip.
    """
    check_bits(bits)
    guidance = source.guidance if guidance is None else guidance
    graph, table = import_model(source, steps, sampler, eta)
    if ranges is None:
        from litediffusion.sw.calibrate import calibrate
        ranges = calibrate(graph, table, range(source.labels), source.null_label, guidance, images, seed, progress)
    options = dict(bits=bits, per_step=per_step, null_label=source.null_label, labels=source.labels, guidance=guidance, name=source.name,
                   batch=batch, window_size=window_size)
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


@dataclass
class Pictures:
    """pixels uint8 [B, C, H, W]; latents int16 [B, steps, C, H, W], Q3.12, after every step; counters of the device."""
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
    latents = raw[:, :split].copy().view(np.int16).reshape(len(raw), meta["steps"], h, w, 8)[..., :c]
    pixels = raw[:, split:].reshape(len(raw), h, w, 16)[..., :c]
    return Pictures(pixels.transpose(0, 3, 1, 2), latents.transpose(0, 1, 4, 2, 3), results.counters, results.seconds)


def generate(device, program, labels, seeds, guidance=None, progress=None):
    """Pictures of an uploaded program, in as many jobs as needed."""
    size, parts = program.meta["batch"], []
    for first in range(0, len(labels), size):
        part = slice(first, first + size)
        job = make_job(program, labels[part], seeds[part], guidance)
        step = progress and (lambda image, images, step, steps, first=first: progress(first + image, len(labels), step, steps))
        parts.append(unpack(program, device.generate(job, step)))
    counters = {k: sum(p.counters[k] for p in parts) for k in parts[0].counters}
    return Pictures(np.concatenate([p.pixels for p in parts]), np.concatenate([p.latents for p in parts]), counters,
                    sum(p.seconds for p in parts))
