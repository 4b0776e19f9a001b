"""Colorlight i5: ECP5 25F, 32-bit SDRAM, gigabit Ethernet. ``python -m litediffusion.targets.colorlight_i5 --build``"""

from litediffusion.targets.board import run_target
from litediffusion.targets.colorlight_i9 import ColorlightI9SoC


class ColorlightI5SoC(ColorlightI9SoC):
    """The i9's smaller sister."""

    NAME = "colorlight_i5"
    DESCRIPTION = "litediffusion on Colorlight's i5"
    MODEL = "i5"
    OPTIONS = {**ColorlightI9SoC.OPTIONS, "revision": ("7.0", ["7.0"], "Board revision.")}


if __name__ == "__main__":
    run_target(ColorlightI5SoC)
