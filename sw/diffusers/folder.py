"""Folders as diffusers saves them: config.json and safetensors, read without diffusers.

A pipeline's folder holds model_index.json and a folder for each part (unet or transformer, scheduler, ...); a model's folder holds
config.json and diffusion_pytorch_model.safetensors, whole or in shards with an index.
"""

from dataclasses import dataclass
import json
from pathlib import Path

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


class Weights:
    """Tensors of safetensors files by name, read when they are asked for: a large model is never in memory as a whole.

    ``get`` gives float64 numpy. ``unread`` are the names that nobody asked for.
    """

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
            raise FolderError(f"weight {name} is missing: the file belongs to another config.json")
        self.unread.discard(name)
        return self.where[name].get_tensor(name).double().numpy()


class StateDict(Weights):
    """The same of a torch state dict."""

    def __init__(self, tensors):
        self.where, self.unread = dict(tensors), set(tensors)

    def get(self, name):
        if name not in self.where:
            raise FolderError(f"weight {name} is missing in the state dict")
        self.unread.discard(name)
        return self.where[name].detach().cpu().double().numpy()


@dataclass
class DiffusersFolder:
    """A model's config and weights, its scheduler's config and the autoencoder of its pipeline (None: the folder has none)."""
    config: dict
    weights: object
    scheduler: dict | None
    name: str
    vae: object = None


def open_folder(path):
    """DiffusersFolder of a pipeline's or of a model's folder. Raises FolderError."""
    path = Path(path)
    if not path.is_dir():
        raise FolderError(f"{path}: no such folder")
    model = next((p for p in (path / "unet", path / "transformer", path) if (p / "config.json").exists()), None)
    if model is None:
        raise FolderError(f"{path}: no config.json, unet/config.json or transformer/config.json: no diffusers folder")
    scheduler = next((p for p in (path / "scheduler" / "scheduler_config.json", path / "scheduler_config.json") if p.exists()), None)
    name, vae = path.resolve().name, path / "vae"
    if vae.is_dir():
        vae = DiffusersFolder(read_json(vae / "config.json"), Weights(weight_files(vae)), None, name)
    else:
        vae = None
    return DiffusersFolder(read_json(model / "config.json"), Weights(weight_files(model)), scheduler and read_json(scheduler), name, vae)
