"""Float (PyTorch) reference model: a small U-Net that draws 16x16 digits.

This package is the *model* side of litediffusion: what is trained here in
float32 is what the compiler quantizes and the accelerator runs. Nothing in
here knows about integers or hardware.
"""

from .classifier import DigitClassifier, load_classifier
from .unet import DigitUNet, load_unet

__all__ = [
    "DigitClassifier",
    "DigitUNet",
    "load_classifier",
    "load_unet",
]
