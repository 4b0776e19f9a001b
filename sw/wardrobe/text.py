"""The text encoder: runs on the host, once a prompt. Words and positions through two transformer layers."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from litediffusion.sw.wardrobe.captions import TOKENS, WORDS, tokens

WEIGHTS = Path(__file__).with_name("text.safetensors")
WIDTH, LAYERS, HEADS = 64, 2, 4


class TextEncoder(nn.Module):
    """int64 tokens [B, TOKENS] -> states [B, TOKENS, WIDTH]."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(len(WORDS), WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)

    def forward(self, ids):
        return self.layers(self.words(ids) + self.positions)


def load_encoder(path=WEIGHTS):
    """The trained encoder in eval mode, float32."""
    from safetensors.torch import load_file

    encoder = TextEncoder()
    encoder.load_state_dict({name: value.float() for name, value in load_file(str(path)).items()})
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode(prompts, encoder=None):
    """States float32 [B, TOKENS, WIDTH] of prompts. Raises PromptError."""
    ids = np.stack([tokens(prompt) for prompt in prompts])
    return (encoder or load_encoder())(torch.as_tensor(ids)).numpy()
