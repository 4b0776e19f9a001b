"""Folders as diffusers saves them: config.json and safetensors, read without diffusers.

A pipeline's folder holds model_index.json and a folder for each part (unet or transformer, scheduler, ...); a model's folder holds
config.json and diffusion_pytorch_model.safetensors, whole or in shards with an index.
"""

from dataclasses import dataclass
import json
from pathlib import Path

from litediffusion.sw.graph_builder import as_float
from litediffusion.sw.hollow import hollow
from litediffusion.sw.problems import not_looked_at

WEIGHTS = "diffusion_pytorch_model"
VARIANTS = ("", ".fp16", ".non_ema")


class FolderError(ValueError):
    """A folder cannot be read as a diffusers model; the message says what is missing or wrong."""


def read_json(path):
    """The JSON object in a file. Raises FolderError."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise FolderError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FolderError(f"{path}: no JSON: {error}") from error
    if not isinstance(data, dict):
        raise FolderError(f"{path}: holds {type(data).__name__}, must be a JSON object")
    return data


def weight_files(folder):
    """The safetensors files of a model's folder. Raises FolderError."""
    for variant in VARIANTS:
        index = folder / f"{WEIGHTS}.safetensors.index{variant}.json"
        whole = folder / f"{WEIGHTS}{variant}.safetensors"
        if whole.exists():
            return [whole]
        if index.exists():
            return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    if (folder / f"{WEIGHTS}.bin").exists():
        raise FolderError(f"{folder}: holds {WEIGHTS}.bin, a pickle, which is not read: save the model again with "
                          "safe_serialization=True")
    raise FolderError(f"{folder}: no {WEIGHTS}.safetensors; save the model with diffusers' save_pretrained")


def declared_shapes(config):
    """{weight: shape} of a model by its config alone, as diffusers makes it on a device without memory. Raises FolderError."""
    try:
        import diffusers
        import torch
    except ImportError as error:
        raise FolderError(f"the shapes of a model without weights come from diffusers, which cannot be imported ({error}): install it "
                          "(pip install diffusers), or put the weights beside config.json") from error
    kind = config.get("_class_name", "UNet2DModel")
    if not hasattr(diffusers, kind):
        raise FolderError(f"config.json: diffusers knows no {kind}")
    try:
        with torch.device("meta"):
            model = getattr(diffusers, kind).from_config(config)
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise FolderError(f"config.json: diffusers makes no {kind} of it: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


class Weights:
    """Tensors of safetensors files by name, read when they are asked for: a large model is never in memory as a whole.

    ``get`` gives numpy (see ``as_float``); float32 of a file stays where the file is mapped. ``unread`` are the names that nobody
    asked for.
    """

    MISSING = ": the file belongs to another config.json"

    def __init__(self, files):
        from safetensors import safe_open

        self.handles, self.where = [], {}
        for path in files:
            try:
                handle = safe_open(str(path), framework="pt")
            except Exception as error:      # safetensors has exceptions of its own kind
                raise FolderError(f"{path}: cannot be read as safetensors: {error}") from error
            self.handles.append(handle)
            self.where |= dict.fromkeys(handle.keys(), handle)
        self.unread = set(self.where)

    def __contains__(self, name):
        return name in self.where

    def get(self, name):
        if name not in self.where:
            raise FolderError(f"weight {name} is missing{self.MISSING}")
        self.unread.discard(name)
        return self.read(name)

    def read(self, name):
        return as_float(self.where[name].get_tensor(name))

    def shapes(self):
        """{weight: shape}."""
        return {name: tuple(handle.get_slice(name).get_shape()) for name, handle in self.where.items()}


class StateDict(Weights):
    """The same of a torch state dict."""

    MISSING = " in the state dict"

    def __init__(self, tensors):
        self.where, self.unread = dict(tensors), set(tensors)

    def read(self, name):
        return as_float(self.where[name].detach().cpu())

    def shapes(self):
        return {name: tuple(tensor.shape) for name, tensor in self.where.items()}


class UnknownWeights(Weights):
    """Weights of which not even the shapes are known; ``get`` raises the reason."""

    def __init__(self, error):
        self.error, self.where, self.unread = error, {}, set()

    def get(self, name):
        raise self.error


class Shapes(Weights):
    """Hollow weights of given shapes: for a network that is only looked at."""

    def __init__(self, shapes):
        self.where, self.unread = dict(shapes), set(shapes)

    def read(self, name):
        return hollow(self.where[name])

    def shapes(self):
        return self.where


@dataclass
class DiffusersFolder:
    """A model's config and weights, its scheduler's config and the autoencoder of its pipeline (None: the folder has none)."""
    config: dict
    weights: object
    scheduler: dict | None
    name: str
    vae: object = None


def open_part(folder, look):
    """(config, weights) of a model's folder. look : only the shapes of the weights, which then need not be there."""
    config = read_json(folder / "config.json")
    if not look:
        return config, Weights(weight_files(folder))
    try:
        files = weight_files(folder)
    except FolderError:
        return config, declared_weights(config, folder.name)
    return config, Shapes(Weights(files).shapes())


def declared_weights(config, path):
    """Hollow weights by the config alone; where problems are collected, they may stay unknown. path : of the part that they belong to."""
    try:
        return Shapes(declared_shapes(config))
    except FolderError as error:
        not_looked_at(error, path)
        return UnknownWeights(error)


def open_folder(path, look=False):
    """DiffusersFolder of a pipeline's or of a model's folder; look : see open_part. Raises FolderError."""
    path = Path(path)
    if not path.is_dir():
        raise FolderError(f"{path}: no such folder")
    model = next((p for p in (path / "unet", path / "transformer", path) if (p / "config.json").exists()), None)
    if model is None:
        raise FolderError(f"{path}: no config.json, unet/config.json or transformer/config.json: no diffusers folder")
    scheduler = next((p for p in (path / "scheduler" / "scheduler_config.json", path / "scheduler_config.json") if p.exists()), None)
    name, vae = path.resolve().name, path / "vae"
    decoder = DiffusersFolder(*open_part(vae, look), None, name) if vae.is_dir() else None
    return DiffusersFolder(*open_part(model, look), scheduler and read_json(scheduler), name, decoder)
