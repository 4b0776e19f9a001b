"""MNIST digits as 16x16 images in [-1, 1].

The data file is an ``.npz`` with ``train_x`` [60000, 28, 28] uint8,
``train_y`` [60000], ``test_x`` [10000, 28, 28] and ``test_y`` [10000].
"""

import numpy as np
import torch

from .unet import IMAGE_SIZE


def area_matrix(src, dst):
    """Matrix [dst, src] that area-averages a line of src pixels down to dst.

    Output pixel i covers the input interval [i, i+1) * src/dst; each row holds
    the share of that interval which lies in each input pixel, and sums to 1.
    The result is symmetric, so a centred digit stays centred.
    """
    edges = np.arange(dst + 1) * (src / dst)
    pixels = np.arange(src)
    low = np.maximum(edges[:-1, None], pixels[None, :])
    high = np.minimum(edges[1:, None], pixels[None, :] + 1)
    return np.maximum(high - low, 0.0) * (dst / src)


def resize(images, size=IMAGE_SIZE):
    """Area-average square images [N, H, H] uint8 -> [N, size, size] float32 0..255."""
    matrix = area_matrix(images.shape[1], size).astype(np.float32)
    return matrix @ images.astype(np.float32) @ matrix.T


def to_tensor(images):
    """uint8 images [N, 28, 28] -> tensor [N, 1, 16, 16], black -1, white +1."""
    return torch.from_numpy(resize(images) / 127.5 - 1.0)[:, None].contiguous()


def load_split(path, split):
    """Images [N, 1, 16, 16] and labels [N] of one split ("train" or "test")."""
    with np.load(path) as data:
        images = to_tensor(data[f"{split}_x"])
        labels = torch.from_numpy(data[f"{split}_y"].astype(np.int64))
    return images, labels
