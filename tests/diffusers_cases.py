"""Models of diffusers with random weights, and their integer programs beside them; what the tests of the importers share."""

from diffusers import AutoencoderKL, AutoencoderTiny, DiTTransformer2DModel, PixArtTransformer2DModel, UNet2DConditionModel, UNet2DModel
import numpy as np
import torch

from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.devices.rtl import RtlDevice
from litediffusion.sw.diffusers.folder import StateDict
from litediffusion.sw.latents import float_latents, pack_latents
from litediffusion.sw.pipeline import compile_model, upload, write_texts
from litediffusion.sw.sources import DiTSource, FolderSource, source_class
from litediffusion.sw.texts import TextStates

STEPS = 3
LABELS = 4               # texts of a model that attends to them; as few labels has no other model here


class Loaded:
    """A model of diffusers in memory, as open_folder would give it."""

    def __init__(self, model, vae=None):
        self.config = dict(model.config, _class_name=type(model).__name__)
        self.weights, self.scheduler, self.name = StateDict(model.state_dict()), {}, "test"
        self.vae = Loaded(vae) if vae else None


def seeded(kind, config, seed=0):
    torch.manual_seed(seed)
    return kind(**config).eval()


def unet(config):
    """UNet2DModel."""
    return seeded(UNet2DModel, config)


def text_unet(config):
    """UNet2DConditionModel."""
    return seeded(UNet2DConditionModel, config)


def dit(config):
    """DiTTransformer2DModel whose conditions matter: those of diffusers' initial weights hardly move anything."""
    model = seeded(DiTTransformer2DModel, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm1.linear" in name or "proj_out_1" in name:
                parameter.mul_(4.0)
    return model


def pixart(config):
    """PixArtTransformer2DModel whose timestep and text matter: diffusers' initial weights make small gates and even attention."""
    model = seeded(PixArtTransformer2DModel, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adaln_single.linear" in name or "scale_shift_table" in name or "attn2.to_out" in name:
                parameter.mul_(4.0)
            elif ".norm" in name:               # of norms with weights, else all alike
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def autoencoder(config):
    """AutoencoderKL, or AutoencoderTiny if the config is one's."""
    return seeded(AutoencoderTiny if "decoder_block_out_channels" in config else AutoencoderKL, config)


def texts_for(model, tokens=77, counts=None):
    """Random TextStates that a UNet2DConditionModel or a PixArtTransformer2DModel takes; counts : of tokens of each text, the others are masked."""
    rng, c = np.random.default_rng(5), model.config
    states = rng.standard_normal((LABELS, tokens, c.get("caption_channels") or c.cross_attention_dim))
    if c.get("addition_embed_type") is None:
        return TextStates(states, mask=counts and (np.arange(tokens) < np.array(counts)[:, None]).astype(float))
    width = c.projection_class_embeddings_input_dim - 6 * c.addition_time_embed_dim
    return TextStates(states, rng.standard_normal((LABELS, width)), np.array([256.0, 192.0, 0.0, 8.0, 256.0, 192.0]))


def picture_size(x):
    """PixArt's conditions of the picture that latents [B, C, H, W] stand for, 8 pixels a side to one of these, as its pipeline gives them."""
    height, width = (torch.full((len(x), 1), 8.0 * side) for side in x.shape[2:])
    return {"resolution": torch.cat([height, width], 1), "aspect_ratio": height / width}


def float_output(model, x, t, labels, texts=None):
    """Output of a model of diffusers, float [B, C, H, W]."""
    tensor = lambda values: torch.tensor(values, dtype=torch.float32)
    more, mask = {}, None if texts is None or texts.mask is None else tensor(texts.mask[labels])
    if isinstance(model, PixArtTransformer2DModel):
        states, time = tensor(texts.states[labels]), torch.full((len(x),), int(t))
        with torch.no_grad():
            out = model(tensor(x), states, time, picture_size(x), encoder_attention_mask=mask).sample
        return out[:, :x.shape[1]].numpy()
    if isinstance(model, DiTTransformer2DModel):
        with torch.no_grad():
            out = model(tensor(x), torch.full((len(x),), int(t)), torch.tensor(labels)).sample
        return out[:, :x.shape[1]].numpy()          # without variances
    if texts is not None:
        more.update(encoder_hidden_states=tensor(texts.states[labels]), encoder_attention_mask=mask)
        if texts.pooled is not None:
            more["added_cond_kwargs"] = {"text_embeds": tensor(texts.pooled[labels]), "time_ids": tensor(np.tile(texts.time_ids, (len(labels), 1)))}
    elif model.config.num_class_embeds:
        more["class_labels"] = torch.tensor(labels)
    with torch.no_grad():
        return model(tensor(x), int(t), **more).sample.numpy()


def source_of(model, texts=None, vae=None, size=None):
    """The source of a model; size : of a model that attends to texts."""
    if isinstance(model, DiTTransformer2DModel):
        return DiTSource(Loaded(model, vae), guidance=1.0)
    if texts is None:
        return FolderSource(Loaded(model))
    loaded = Loaded(model, vae)
    return source_class(loaded.config)(loaded, texts, size=size, slots=LABELS)


def compiled(model, texts=None, vae=None, size=None):
    """(source, program, timesteps)."""
    source = source_of(model, texts, vae, size)
    timesteps, _ = source.sampler("ddim", STEPS, 0.0)
    return source, compile_model(source, steps=STEPS, sampler="ddim", images=16, batch=1, tiled=True, guidance=1.0), timesteps


def put_words(device, at, x):
    """Latents [C, H, W] float to int16 words at a byte of the window."""
    device.write(at, pack_latents(x).tobytes())


def get_words(device, at, shape):
    """The other way round."""
    _, h, w = shape
    return float_latents(np.frombuffer(device.read(at, 16 * h * w), np.uint8), shape)


def evaluate_program(device, program, x, step, label=0):
    """Output [C, H, W] float of a program on a device, for latents x."""
    meta = program.meta
    put_words(device, meta["buffers"]["latent"], x)
    device.run_program(*meta["programs"]["eval"], step=step, label=label)
    return get_words(device, meta["buffers"]["eps"], x.shape)


def on_both_devices(program, run):
    """[run(device)] of the model device and of the RTL, the program uploaded."""
    outputs = []
    for device in (ModelDevice(), RtlDevice()):
        upload(device, program)
        outputs.append(run(device))
    return outputs


def step_program(device, program, x, step, label=0):
    """Output and latents after the sampler's update of a whole step, float [2, C, H, W]."""
    out, meta = evaluate_program(device, program, x, step, label), program.meta
    device.run_program(*meta["programs"]["update"], step=step)
    return np.stack([out, get_words(device, meta["buffers"]["latent"], x.shape)])


def steps_on_both_devices(model, texts=None, size=None):
    """(latents x, [step_program of the model device, of the RTL]) of a whole step."""
    source, program, _ = compiled(model, texts, size=size)
    x = np.random.default_rng(1).standard_normal(source.shape)
    return x, on_both_devices(program, lambda device: step_program(device, program, x, 1, 2))


def outputs_with_replaced_text(model, texts):
    """Outputs for label 1, for label 2, and for label 1 after its text has been replaced by label 2's."""
    (source, program, _), device = compiled(model, texts), ModelDevice()
    x = np.random.default_rng(1).standard_normal(source.shape)
    upload(device, program)
    before = [evaluate_program(device, program, x, 0, label) for label in (1, 2)]
    write_texts(device, program, texts.picked([0, 2]))
    return *before, evaluate_program(device, program, x, 0, 1)


def decode_program(device, program, x):
    """What a program's decoder makes of latents, float [C, H, W]."""
    meta = program.meta
    put_words(device, meta["buffers"]["latent"], x)
    device.run_program(*meta["programs"]["finish"])
    return get_words(device, meta["buffers"]["result"], meta["picture"])


def sqnr(pairs):
    """Signal-to-noise ratio in dB over pairs (wanted, got)."""
    signal, noise = (sum(values) for values in zip(*(((want ** 2).mean(), ((want - got) ** 2).mean()) for want, got in pairs)))
    return 10 * np.log10(signal / noise)


def mean_sqnr(model, texts=None, inputs=3, size=None):
    """SQNR of the integer program against diffusers, for some normal inputs at the first step."""
    source, program, timesteps = compiled(model, texts, size=size)
    device, pairs = ModelDevice(), []
    upload(device, program)
    for seed in range(inputs):
        x, label = np.random.default_rng(seed).standard_normal(source.shape), seed + 1 if texts or isinstance(model, DiTTransformer2DModel) else 0
        pairs.append((float_output(model, x[None], timesteps[0], [label], texts)[0], evaluate_program(device, program, x, 0, label)))
    return sqnr(pairs)
