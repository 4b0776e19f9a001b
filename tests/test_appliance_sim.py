"""The appliance in the simulated SoC: from a card's image, read bit by bit, to the picture on the display's pins."""

from pathlib import Path

import numpy as np
import pytest

from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.pipeline import generate, upload
from litediffusion.targets.sd_image import card_image
from litediffusion.targets.sim import SimError
from litediffusion.targets.sim_appliance import ApplianceSim, expand565, picture_area

BUILD_DIR = Path(__file__).resolve().parent.parent / "build" / "sim"
PICTURE_TOP = 80
RED = expand565(0xFB8C)


def shows(sim, want):
    """True once the picture's part of the display is ``want``: its last lines are drawn after the message."""
    return any((sim.frame()[PICTURE_TOP:] == want[PICTURE_TOP:]).all() for _ in range(4))


def test_from_the_card_to_the_display(small_program, tmp_path):
    """Two pictures of one press each; each is the numpy device's, bit for bit, and nothing else is below the text."""
    small_program.save(tmp_path / "small.ldp")
    card_image(tmp_path / "card.img", {"SMALL.LDP": (tmp_path / "small.ldp").read_bytes()}, fat=32)
    device = ModelDevice()
    upload(device, small_program)
    with ApplianceSim(tmp_path / "card.img", BUILD_DIR) as sim:
        sim.wait(r"SMALL\.LDP\nsmall: 8 x 8 pixels, 3 steps, 3 labels\n.*\nready")
        first = sim.frame()
        assert first[:PICTURE_TOP].any() and not first[PICTURE_TOP:].any()
        for seed in (0, 1):
            sim.press("picture")
            sim.wait(f"label 0, seed {seed}\n")
            sim.wait("done")
            want = np.zeros_like(first)
            rows, columns, shown = picture_area(generate(device, small_program, [0], [seed]).pixels[0], PICTURE_TOP)
            want[rows, columns] = shown
            assert shows(sim, want)


def test_bad_files_are_shown(small_program, tmp_path):
    """A corrupted file: its reason on the console, red text on the display."""
    small_program.save(tmp_path / "small.ldp")
    data = bytearray((tmp_path / "small.ldp").read_bytes())
    data[-1] ^= 1
    card_image(tmp_path / "card.img", {"BAD.LDP": bytes(data)})
    with ApplianceSim(tmp_path / "card.img", BUILD_DIR) as sim:
        sim.wait(r"BAD\.LDP: section IMAGE is corrupted \(CRC-32 differs\): copy the file again")
        red = ((sim.frame() == RED).all(-1).sum() for _ in range(4))       # the text is drawn after the message
        assert any(pixels > 100 for pixels in red)


def test_empty_slot():
    with ApplianceSim(None, BUILD_DIR) as sim:
        sim.wait("no SD card answers")


def test_missing_image_is_an_error(tmp_path):
    with ApplianceSim(tmp_path / "none.img", BUILD_DIR, timeout_s=5) as sim:
        with pytest.raises(SimError, match="none.img cannot be read"):
            sim.wait("ready")
