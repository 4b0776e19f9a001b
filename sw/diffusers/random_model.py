"""A folder with a known architecture, with random weights or without any, for where no checkpoint is at hand.

    python -m litediffusion.sw.diffusers.random_model FOLDER                             google/ddpm-cifar10-32; needs diffusers
    python -m litediffusion.sw.diffusers.random_model FOLDER --network sd15 --config-only

Configurations as their config.json has them. A folder of the configuration alone is enough for ``check`` and ``estimate``.
"""

import argparse
import json
from pathlib import Path

DDPM_CIFAR10 = dict(
    sample_size=32, in_channels=3, out_channels=3, block_out_channels=(128, 256, 256, 256), layers_per_block=2, norm_num_groups=32,
    norm_eps=1e-6, downsample_padding=0, freq_shift=1, flip_sin_to_cos=False, attention_head_dim=None,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"))
SD15 = dict(
    sample_size=64, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, norm_num_groups=32,
    norm_eps=1e-5, downsample_padding=1, freq_shift=0, flip_sin_to_cos=True, attention_head_dim=8, cross_attention_dim=768, act_fn="silu",
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
# name: (diffusers' class, its arguments)
NETWORKS = {"ddpm-cifar10-32": ("UNet2DModel", DDPM_CIFAR10), "sd15": ("UNet2DConditionModel", SD15)}


def save(folder, config=DDPM_CIFAR10, seed=0):
    """A UNet2DModel with diffusers' initial weights of a seed, and a DDIM scheduler."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    import torch

    torch.manual_seed(seed)
    DDIMPipeline(UNet2DModel(**config), DDIMScheduler()).save_pretrained(folder)


def save_config(folder, network):
    """The config.json of one of NETWORKS."""
    kind, config = NETWORKS[network]
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "config.json").write_text(json.dumps({"_class_name": kind} | config, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description="A folder of a known architecture, with random weights or without any.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", choices=NETWORKS, default="ddpm-cifar10-32")
    parser.add_argument("--config-only", action="store_true", help="config.json alone")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.config_only:
        return save_config(args.folder, args.network)
    if args.network != "ddpm-cifar10-32":
        parser.error(f"--network {args.network}: with weights it is several GB; only its --config-only is made here")
    save(args.folder, seed=args.seed)


if __name__ == "__main__":
    main()
