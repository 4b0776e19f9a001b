"""The digit U-Net: predicts the noise (eps) in a noisy 16x16 digit.

Shape of the network (channels @ resolution)::

    conv_in        1 -> 16 @16
    down0          ResBlock 16 -> 16 @16 ---------------- skip s0 ----+
    downsample0    conv stride 2, 16 -> 32 @8                         |
    down1, attn1   ResBlock 32 -> 48, attention (1 head) @8 - skip s1 |
    downsample1    conv stride 2, 48 -> 64 @4                      |  |
    mid            ResBlock, attention (2 heads), ResBlock, 64 @4  |  |
    upsample1      nearest x2, conv 64 -> 48 @8                    |  |
    up1            cat([h, s1]), ResBlock 96 -> 48 @8 -------------+  |
    upsample0      nearest x2, conv 48 -> 16 @16                      |
    up0            cat([h, s0]), ResBlock 32 -> 16 @16 ---------------+
    out            GroupNorm, SiLU, conv 16 -> 1 @16

Only a few kinds of operation appear (Conv2d, Linear, GroupNorm, SiLU,
nearest x2, cat, add, softmax attention), because each of them is an operation
that the accelerator has to provide.

The structure is that of Ho et al., "Denoising Diffusion Probabilistic Models"
(2020), scaled down.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

IMAGE_SIZE = 16  # pixels per side
EMB_DIM = 64  # width of the time + class embedding
NUM_CLASSES = 10  # digits 0..9
NULL_CLASS = 10  # the "no class" label of classifier-free guidance
GROUP_SIZE = 8  # channels per GroupNorm group

WEIGHTS = Path(__file__).with_name("digits_unet.safetensors")


def group_norm(channels):
    """GroupNorm with groups of 8 channels."""
    return nn.GroupNorm(channels // GROUP_SIZE, channels, eps=1e-5)


def timestep_embedding(t, dim=EMB_DIM, max_period=10000.0):
    """Sinusoidal embedding of the timestep: t [B] (0..999) -> [B, dim].

    First half cosines, second half sines, frequencies from 1 down to
    1/max_period (as in the "Attention Is All You Need" encoding).
    """
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=t.device) / half
    freqs = torch.exp(-math.log(max_period) * exponent)
    angles = t.float()[:, None] * freqs[None, :]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a residual path; the embedding is added between."""

    def __init__(self, cin, cout):
        super().__init__()
        self.norm1 = group_norm(cin)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.emb_proj = nn.Linear(EMB_DIM, cout)
        self.norm2 = group_norm(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else None

    def forward(self, x, emb):
        """x [B, cin, H, W], emb [B, EMB_DIM] -> [B, cout, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.emb_proj(F.silu(emb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.shortcut(x) if self.shortcut is not None else x)


class AttnBlock(nn.Module):
    """Self-attention between all pixels of a feature map, with a residual path."""

    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.v = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def split_heads(self, x):
        """[B, N, C] -> [B, heads, N, C / heads]."""
        b, n, c = x.shape
        return x.view(b, n, self.heads, c // self.heads).transpose(1, 2)

    def forward(self, x):
        """x [B, C, H, W] -> same shape. Tokens are pixels in row-major order."""
        b, c, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, N, C]
        q = self.split_heads(self.q(tokens))
        k = self.split_heads(self.k(tokens))
        v = self.split_heads(self.v(tokens))
        scores = q @ k.transpose(2, 3) / math.sqrt(c // self.heads)  # [B, heads, N, N]
        mixed = torch.softmax(scores, dim=-1) @ v  # [B, heads, N, C / heads]
        mixed = mixed.transpose(1, 2).reshape(b, height * width, c)
        return x + self.out(mixed).transpose(1, 2).reshape(b, c, height, width)


def upsample(x):
    """Nearest-neighbour x2: [B, C, H, W] -> [B, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class DigitUNet(nn.Module):
    """The whole U-Net; see the drawing at the top of this file."""

    def __init__(self):
        super().__init__()
        self.time_fc1 = nn.Linear(EMB_DIM, EMB_DIM)
        self.time_fc2 = nn.Linear(EMB_DIM, EMB_DIM)
        self.class_emb = nn.Embedding(NUM_CLASSES + 1, EMB_DIM)

        self.conv_in = nn.Conv2d(1, 16, 3, padding=1)
        self.down0 = ResBlock(16, 16)
        self.downsample0 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.down1 = ResBlock(32, 48)
        self.attn1 = AttnBlock(48, heads=1)
        self.downsample1 = nn.Conv2d(48, 64, 3, stride=2, padding=1)

        self.mid_res1 = ResBlock(64, 64)
        self.mid_attn = AttnBlock(64, heads=2)
        self.mid_res2 = ResBlock(64, 64)

        self.upsample1 = nn.Conv2d(64, 48, 3, padding=1)
        self.up1 = ResBlock(96, 48)
        self.upsample0 = nn.Conv2d(48, 16, 3, padding=1)
        self.up0 = ResBlock(32, 16)
        self.norm_out = group_norm(16)
        self.conv_out = nn.Conv2d(16, 1, 3, padding=1)

    def embed(self, t, y):
        """Timestep t [B] and label y [B] -> embedding [B, EMB_DIM]."""
        time = self.time_fc2(F.silu(self.time_fc1(timestep_embedding(t))))
        return time + self.class_emb(y)

    def forward(self, x, t, y):
        """Noise in x.

        x [B, 1, 16, 16] noisy image, t [B] long timestep 0..999,
        y [B] long label 0..9 (10: no label) -> eps [B, 1, 16, 16].
        """
        emb = self.embed(t, y)
        s0 = self.down0(self.conv_in(x), emb)
        s1 = self.attn1(self.down1(self.downsample0(s0), emb))
        h = self.mid_res1(self.downsample1(s1), emb)
        h = self.mid_res2(self.mid_attn(h), emb)
        h = self.up1(torch.cat([self.upsample1(upsample(h)), s1], dim=1), emb)
        h = self.up0(torch.cat([self.upsample0(upsample(h)), s0], dim=1), emb)
        return self.conv_out(F.silu(self.norm_out(h)))


def load_unet(path=None):
    """The trained U-Net in eval mode (path None: the weights of this package)."""
    model = DigitUNet()
    model.load_state_dict(load_file(str(path or WEIGHTS)))
    return model.eval().requires_grad_(False)
