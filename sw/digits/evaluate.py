"""Draw digits with the float model and let the classifier read them.

    python -m litediffusion.sw.digits.evaluate --per-class 20 --png digits.png
"""

import argparse

import numpy as np
import torch
from PIL import Image

from .classifier import accuracy, load_classifier
from .schedule import ddim_sample
from .unet import IMAGE_SIZE, NUM_CLASSES, load_unet


def generate(model, per_class, steps, guidance, eta=0.0, seed=0, recompute_eps=False):
    """per_class images of every digit: ([10 * per_class, 1, 16, 16], labels)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(NUM_CLASSES).repeat(per_class)
    shape = (len(labels), 1, IMAGE_SIZE, IMAGE_SIZE)
    noise = torch.randn(shape, generator=generator)
    images = ddim_sample(
        model,
        noise,
        labels,
        steps,
        guidance,
        eta,
        generator=generator,
        recompute_eps=recompute_eps,
    )
    return images, labels


def to_grid(images, columns=NUM_CLASSES):
    """Images [N, 1, H, W] in [-1, 1] -> one uint8 picture, `columns` per row."""
    pixels = ((images[:, 0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    rows = [np.hstack(pixels[i : i + columns]) for i in range(0, len(pixels), columns)]
    return np.vstack(rows)


def save_png(images, path, zoom=3):
    """Write the images as a PNG grid, one column per digit, enlarged."""
    picture = to_grid(images).repeat(zoom, axis=0).repeat(zoom, axis=1)
    Image.fromarray(picture).save(path)


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unet", help="weights (default: those of the package)")
    parser.add_argument("--classifier", help="weights (default: those of the package)")
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0])
    parser.add_argument("--eta", type=float, default=0.0)
    parser.add_argument("--recompute-eps", action="store_true", help="see ddim_step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", help="write the digits of the last guidance as a grid")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, judge = load_unet(args.unet), load_classifier(args.classifier)
    for guidance in args.guidance:
        images, labels = generate(
            model,
            args.per_class,
            args.steps,
            guidance,
            args.eta,
            args.seed,
            args.recompute_eps,
        )
        share = accuracy(judge, images, labels)
        print(f"guidance {guidance:g}: {share:.1%} of {len(images)} digits recognised", flush=True)
    if args.png:
        save_png(images, args.png)


if __name__ == "__main__":
    main()
