"""The layers of a DDPM U-Net (diffusers' UNet2DModel with ResNet blocks), from its architecture: shapes, no weights.

    block     x -> norm, SiLU, conv 3x3, + time embedding -> norm, SiLU, conv 3x3, + x (or a 1x1 conv of it)
    level     blocks (with attention at chosen levels), then a conv 3x3 at stride 2; upwards one block more, each fed with a
              skip connection by concat, then nearest x2 and a conv 3x3
Ref: Ho et al. 2020; the weights of google/ddpm-cifar10-32 have these shapes.
"""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerShape:
    """One layer. ``inputs``: channels of the parts of a concat; ``size``: height and width of the output.

    kind      conv, attention (norm, q, k, v, softmax, output, residual) or embedding (a linear layer of the time embedding)
    resample  "", "down" (stride 2, padded after the last row and column) or "up" (nearest x2 first)
    norm      GroupNorm and SiLU on the input; residual: a tensor is added; final: the network's int16 output
    """
    kind: str
    outputs: int
    inputs: tuple
    size: int = 1
    kernel: int = 1
    resample: str = ""
    norm: bool = False
    residual: bool = False
    final: bool = False

    @property
    def name(self):
        shape = f"{'+'.join(map(str, self.inputs))} -> {self.outputs} @{self.size}x{self.size}"
        if self.kind != "conv":
            return f"{self.kind} {self.outputs} @{self.size}x{self.size}" if self.kind == "attention" else \
                f"embedding {self.inputs[0]} -> {self.outputs}"
        extras = [self.resample, "norm" * self.norm, "residual" * self.residual]
        return " ".join([f"conv {self.kernel}x{self.kernel} {shape}", *(e for e in extras if e)])

    @property
    def macs(self):
        """Multiply-accumulates of one evaluation."""
        c, pixels = sum(self.inputs), self.size ** 2
        if self.kind == "attention":
            return 4 * c * c * pixels + 2 * c * pixels * pixels
        return self.outputs * c * self.kernel ** 2 * pixels

    @property
    def weights(self):
        """Weights, without biases and norm."""
        c = sum(self.inputs)
        return 4 * c * c if self.kind == "attention" else self.outputs * c * self.kernel ** 2

    @property
    def parameters(self):
        """Weights, biases, and gamma and beta of the norm."""
        attention, c = self.kind == "attention", sum(self.inputs)
        return self.weights + (4 * c if attention else self.outputs) + 2 * c * (self.norm or attention)


def _block(inputs, outputs, size, embedding):
    """Layers of a ResNet block."""
    layers = [LayerShape("conv", outputs, inputs, size, 3, norm=True), LayerShape("embedding", outputs, (embedding,))]
    if sum(inputs) != outputs:
        layers.append(LayerShape("conv", outputs, inputs, size))
    return layers + [LayerShape("conv", outputs, (outputs,), size, 3, norm=True, residual=True)]


def unet_layers(channels, blocks, attention, size, image_channels=3):
    """All layers in order. channels : of each level; blocks : of a level; attention : sizes that have it."""
    embedding = 4 * channels[0]
    extra = lambda c: [LayerShape("attention", c, (c,), size)] if size in attention else []
    layers = [LayerShape("embedding", embedding, (channels[0],)), LayerShape("embedding", embedding, (embedding,)),
              LayerShape("conv", channels[0], (image_channels,), size, 3)]
    c, skips = channels[0], [channels[0]]
    for level, width in enumerate(channels):
        for _ in range(blocks):
            layers += _block((c,), width, size, embedding) + extra(width)
            c = width
            skips.append(c)
        if level + 1 < len(channels):
            size //= 2
            layers.append(LayerShape("conv", c, (c,), size, 3, "down"))
            skips.append(c)
    layers += [*_block((c,), c, size, embedding), LayerShape("attention", c, (c,), size), *_block((c,), c, size, embedding)]
    for level, width in reversed(list(enumerate(channels))):
        for _ in range(blocks + 1):
            layers += _block((c, skips.pop()), width, size, embedding) + extra(width)
            c = width
        if level:
            size *= 2
            layers.append(LayerShape("conv", c, (c,), size, 3, "up"))
    return layers + [LayerShape("conv", image_channels, (c,), size, 3, norm=True, final=True)]


NETWORKS = {"cifar10": ("ddpm-cifar10-32", 32, dict(channels=(128, 256, 256, 256), blocks=2, attention=(16,), size=32))}


def layer_table(network):
    """Counter {LayerShape: times in one evaluation}. Raises ValueError for a name that is not in NETWORKS."""
    if network not in NETWORKS:
        raise ValueError(f"network {network!r} is unknown; known: {sorted(NETWORKS)}")
    return Counter(unet_layers(**NETWORKS[network][2]))
