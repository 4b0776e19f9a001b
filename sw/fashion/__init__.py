"""The packaged model of clothes: a UNet2DModel of diffusers at 32x32, trained on Fashion-MNIST by ``train.py``."""

from pathlib import Path

MODEL = Path(__file__).with_name("model")       # a folder as diffusers saves it
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NULL_CLASS = len(CLASSES)                       # the label of no class
