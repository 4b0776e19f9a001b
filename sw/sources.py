"""Where models come from: packaged ones, folders as diffusers saves them, functions of the user's. What the compiler must know of them."""

from dataclasses import dataclass, field
import importlib
from pathlib import Path

from litediffusion.soc.mailbox import MAX_BATCH
from litediffusion.sw.schedule import sampler_table


class ModelError(ValueError):
    """The model to compile cannot be found or is not described well enough."""


class Source:
    """What all sources share: pictures are the latents themselves and show labels, unless a source says otherwise."""

    def decoder(self):
        """Graph of what makes a picture of the last latents, None: they are the picture."""
        return None

    def text(self):
        """What a program's meta data say of prompts, None: the model knows labels."""
        return None


class DiffusersSource(Source):
    """A source with a DiffusersFolder as ``folder``."""

    def sampler(self, name, steps, eta):
        """(timesteps, coefficients of each step)."""
        from litediffusion.sw.diffusers.scheduler import scheduler_table

        return scheduler_table(self.folder.scheduler or {}, steps, name, eta)

    def vae_decoder(self):
        """Graph of the decoder of the pipeline's autoencoder, None if there is none."""
        from litediffusion.sw.diffusers.vae import import_decoder

        vae = self.folder.vae
        return vae and import_decoder(vae.config, vae.weights, self.shape[1:])


@dataclass
class ModelSource(Source):
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


def checked_label(label, labels):
    """The label of no class, if the model knows it. Raises ModelError."""
    if not 0 <= label < labels:
        raise ModelError(f"null label {label}: the model knows 0..{labels - 1}")
    return label


@dataclass
class FolderSource(DiffusersSource):
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
        self.guidance = 1.0 if self.null_label is None else 2.0
        self.null_label = checked_label(self.null_label or 0, self.labels)

    def graph(self, timesteps):
        from litediffusion.sw.diffusers.unet2d import import_unet2d

        return import_unet2d(self.folder.config, self.folder.weights, timesteps, self.size)


@dataclass
class DiTSource(DiffusersSource):
    """A DiTTransformer2DModel in a folder as diffusers saves it, with the decoder of its pipeline's AutoencoderKL if there is one.

    size : of the latents, None: as its config says; null_label : the label of no class, None: the one after the classes.
    """
    folder: object
    size: object = None
    null_label: int | None = None
    guidance: float = 4.0           # DiTPipeline's

    def __post_init__(self):
        from litediffusion.sw.diffusers.dit import checked_config, latent_size

        config = checked_config(self.folder.config)
        self.name, self.labels = self.folder.name, config["num_embeds_ada_norm"] + 1
        self.shape = (config["in_channels"], *latent_size(config, self.size))
        self.null_label = checked_label(config["num_embeds_ada_norm"] if self.null_label is None else self.null_label, self.labels)

    def graph(self, timesteps):
        from litediffusion.sw.diffusers.dit import import_dit

        return import_dit(self.folder.config, self.folder.weights, timesteps, self.size)

    def decoder(self):
        return self.vae_decoder()


@dataclass
class TextSource(DiffusersSource):
    """A UNet2DConditionModel in a folder as diffusers saves it, with the decoder of its pipeline's AutoencoderKL if there is one.

    texts : TextStates for the calibration, the first of no text; encoder : the name of what encodes prompts later (texts.py);
    size : of the latents, None: as its config says; slots : labels of a program, one for no text and one a picture of a job.
    """
    folder: object
    texts: object
    encoder: str = ""
    size: object = None
    slots: int = MAX_BATCH + 1
    null_label: int = field(default=0, init=False)
    guidance: float = 2.0

    def __post_init__(self):
        from litediffusion.sw.diffusers.unet2d import image_size
        from litediffusion.sw.diffusers.unet2d_condition import checked_config

        config = checked_config(self.folder.config)
        self.name, self.labels = self.folder.name, self.slots
        self.shape = (config["in_channels"], *image_size(config, self.size))

    def graph(self, timesteps):
        from litediffusion.sw.diffusers.unet2d_condition import import_unet2d_condition

        return import_unet2d_condition(self.folder.config, self.folder.weights, timesteps, self.texts.repeated(self.slots), self.size)

    def decoder(self):
        return self.vae_decoder()

    def text(self):
        return {"encoder": self.encoder, "tokens": self.texts.states.shape[1]}

    @staticmethod
    def hollow_texts(config):
        """Hollow TextStates for a model's config."""
        from litediffusion.sw.diffusers.unet2d_condition import TIME_IDS, checked_config, pooled_width
        from litediffusion.sw.hollow import hollow
        from litediffusion.sw.texts import USUAL_TOKENS, TextStates

        config = checked_config(config)
        states, width = hollow((1, USUAL_TOKENS, config["cross_attention_dim"][0])), pooled_width(config)
        return TextStates(states, hollow((1, width)), hollow((TIME_IDS,))) if width else TextStates(states)


@dataclass
class PixArtSource(TextSource):
    """A PixArtTransformer2DModel in a folder as diffusers saves it; what it takes is a TextSource's."""
    guidance: float = 4.5           # PixArtAlphaPipeline's

    def __post_init__(self):
        from litediffusion.sw.diffusers.dit import latent_size
        from litediffusion.sw.diffusers.pixart import NAME, checked_config

        config = checked_config(self.folder.config)
        self.name, self.labels = self.folder.name, self.slots
        self.shape = (config["in_channels"], *latent_size(config, self.size, NAME))

    def graph(self, timesteps):
        from litediffusion.sw.diffusers.pixart import USUAL_SCALE, import_pixart
        from litediffusion.sw.diffusers.vae import picture_scale

        scale = picture_scale(self.folder.vae.config) if self.folder.vae else USUAL_SCALE
        return import_pixart(self.folder.config, self.folder.weights, timesteps, self.texts.repeated(self.slots), self.size, scale)

    @staticmethod
    def hollow_texts(config):
        from litediffusion.sw.diffusers.pixart import USUAL_TOKENS, checked_config, text_channels
        from litediffusion.sw.hollow import hollow
        from litediffusion.sw.texts import TextStates

        return TextStates(hollow((1, USUAL_TOKENS, text_channels(checked_config(config)))))


def source_class(config):
    """The source of a diffusers model by its config, None for a class that cannot be compiled."""
    from litediffusion.sw.diffusers.pixart import is_pixart

    if is_pixart(config):
        return PixArtSource
    return {"UNet2DModel": FolderSource, "UNet2DConditionModel": TextSource, "DiTTransformer2DModel": DiTSource,
            "Transformer2DModel": DiTSource}.get(config.get("_class_name", "UNet2DModel"))


def load_folder(path, size=None, null_label=None, texts=None, look=False):
    """The source of a diffusers model's or pipeline's folder. Raises ModelError, FolderError, UnsupportedLayer.

    texts : .npz file with texts for a model that attends to them (texts.py); look : only the shapes are of interest: neither weights
    nor texts need be there.
    """
    from litediffusion.sw.diffusers.folder import open_folder
    from litediffusion.sw.texts import load_texts

    folder = open_folder(path, look)
    source = source_class(folder.config)
    if source is None:
        raise ModelError(f"{path}: holds a {folder.config['_class_name']}; UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel and "
                         "PixArtTransformer2DModel are what can be compiled so far")
    if not issubclass(source, TextSource):
        return source(folder, size, null_label)
    if texts is None and look:
        return source(folder, source.hollow_texts(folder.config), size=size)
    if texts is None:
        raise ModelError(f"{path}: the model attends to texts: give some for the calibration, as a file (--texts, see sw/README.md)")
    return source(folder, load_texts(texts), size=size)


def load_wardrobe(size=None):
    """The packaged model of clothes by prompts."""
    from litediffusion.sw.diffusers.folder import open_folder
    from litediffusion.sw.texts import encode
    from litediffusion.sw.wardrobe import MODEL
    from litediffusion.sw.wardrobe.captions import all_captions

    folder = open_folder(MODEL)
    folder.name = "wardrobe"
    return TextSource(folder, encode("wardrobe", ["", *all_captions()]), "wardrobe", size)


def load_digits(weights=None):
    """The packaged model of digits. Raises ModelError."""
    from litediffusion.sw.digits.unet import IMAGE_SIZE, NULL_CLASS, NUM_CLASSES, load_unet
    try:
        model = load_unet(weights)
    except Exception as error:       # safetensors and torch have exceptions of their own kinds
        raise ModelError(f"the weights {weights or 'of the package'} cannot be loaded: {error}") from error
    return ModelSource(model, (1, IMAGE_SIZE, IMAGE_SIZE), NUM_CLASSES, NULL_CLASS, "digits")


def load_fashion(size=None):
    """The packaged model of clothes by class."""
    from litediffusion.sw.fashion import MODEL, NULL_CLASS

    source = load_folder(MODEL, size, NULL_CLASS)
    source.name = "fashion"
    return source


def load_model(name, weights=None, size=None, null_label=None, texts=None, look=False):
    """The model by its name. Raises ModelError.

    name : ``digits``, ``fashion`` or ``wardrobe`` (packaged), a folder as diffusers saves it, or ``package.module:function`` that
    returns a ModelSource; weights : of digits; size, null_label, texts, look : of a folder (see load_folder).
    """
    if name == "fashion":
        return load_fashion(size)
    if name == "wardrobe":
        return load_wardrobe(size)
    if Path(name).is_dir():
        return load_folder(name, size, null_label, texts, look)
    if name == "digits":
        return load_digits(weights)
    module, _, function = name.partition(":")
    if not function:
        raise ModelError(f"model {name!r} is unknown; use 'digits', 'fashion', 'wardrobe', a folder of a diffusers model, or "
                         "'package.module:function' returning a ModelSource")
    try:
        source = getattr(importlib.import_module(module), function)()
    except Exception as error:           # the user's code may raise anything
        raise ModelError(f"model {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(source, ModelSource):
        raise ModelError(f"model {name!r} returned {type(source).__name__}, must be a litediffusion.sw.sources.ModelSource")
    return source
