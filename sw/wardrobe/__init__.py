"""The packaged model from prompt to picture: latent diffusion at 32x32 with captions of Fashion-MNIST, trained by ``train.py``.

    prompt -> text.TextEncoder (host) -> UNet2DConditionModel on 8x8x4 latents -> AutoencoderKL's decoder -> picture
"""

from pathlib import Path

MODEL = Path(__file__).with_name("model")       # a pipeline's folder as diffusers saves it: unet, vae, scheduler
