"""A folder with a known architecture and random weights, for where no checkpoint is at hand; needs diffusers.

``python -m litediffusion.sw.diffusers.random_model FOLDER`` makes google/ddpm-cifar10-32's, as its config.json has it.
"""

import argparse
from pathlib import Path

DDPM_CIFAR10 = dict(
    sample_size=32, in_channels=3, out_channels=3, block_out_channels=(128, 256, 256, 256), layers_per_block=2, norm_num_groups=32,
    norm_eps=1e-6, downsample_padding=0, freq_shift=1, flip_sin_to_cos=False, attention_head_dim=None,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"))


def save(folder, config=DDPM_CIFAR10, seed=0):
    """A UNet2DModel with diffusers' initial weights of a seed, and a DDIM scheduler."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    import torch

    torch.manual_seed(seed)
    DDIMPipeline(UNet2DModel(**config), DDIMScheduler()).save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description="A folder of ddpm-cifar10-32's architecture with random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    save(args.folder, seed=args.seed)


if __name__ == "__main__":
    main()
