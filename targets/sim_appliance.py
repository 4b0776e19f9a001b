"""The simulated SoC as an appliance: an SD card, keys and a display instead of a host.

``python -m litediffusion.targets.sim_appliance MODEL.LDP --label 3 -o frames`` makes a card with the file on it, presses the
keys and writes what the display shows: ``step.png`` while the picture is made, ``done.png`` at its end.
"""

import argparse
import os
from pathlib import Path
import re
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np

from litediffusion.soc import memory_map
from litediffusion.targets.sd_image import ImageError, card_image
from litediffusion.targets.sim import DEFAULT_BUILD_DIR, SimError, build_sim, prepare_run_dir

KEYS = {"picture": 1, "label": 2, "card": 4}     # as in firmware/loop.h


class ApplianceSim:
    """A running simulation; a context manager.

    card        path of the SD card's image, or None for an empty slot
    build_dir   as in build_sim, which is called first
    timeout_s   longest wait for the console or a frame

    Raises SimError with the end of the console when something does not come in time.
    """

    def __init__(self, card=None, build_dir=DEFAULT_BUILD_DIR, timeout_s=120):
        self._files, self._timeout = build_sim(build_dir), timeout_s
        self._card, self._seen = "" if card is None else str(Path(card).resolve()), 0

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="litediffusion-sim-")
        self._path = Path(self._folder.name)
        prepare_run_dir(self._files, self._path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path / "front"))
        self._socket.settimeout(self._timeout)
        command = [str(self._files.executable), "0", str(os.getpid()), self._card, "panel"]
        with open(self._path / "console", "w") as log:
            self._process = subprocess.Popen(command, cwd=self._path, stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        self._socket.close()
        self._folder.cleanup()

    def console(self):
        """All that the firmware has printed."""
        return (self._path / "console").read_bytes().decode(errors="replace").replace("\r", "")

    def wait(self, pattern):
        """Wait until the console shows the pattern behind the last one waited for; returns the match."""
        deadline = time.monotonic() + self._timeout
        while not (match := re.compile(pattern).search(self.console(), self._seen)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SimError(f"{pattern!r} is not on the console after {self._timeout} s; it ends with\n"
                               f"{self.console()[-2000:]}")
            time.sleep(0.02)
        self._seen = match.end()
        return match

    def press(self, key):
        """Press a key of KEYS and let it go, each for longer than the firmware takes a key to bounce (about 1 s)."""
        self._ask(f"keys {KEYS[key]}")
        self._ask("keys 0")

    def frame(self):
        """What the display shows: uint8 [height, width, 3] of the frame in the DRAM."""
        self._ask("frame frame.ppm")
        from PIL import Image
        shown = np.asarray(Image.open(self._path / "frame.ppm"))
        if shown.shape != (2 * memory_map.FRAME_HEIGHT, 2 * memory_map.FRAME_WIDTH, 3):
            raise SimError(f"the display shows {shown.shape[1]} x {shown.shape[0]} pixels, not twice the frame's")
        if not all((shown[y::2, x::2] == shown[::2, ::2]).all() for y in (0, 1) for x in (0, 1)):
            raise SimError("the display does not show each pixel of the frame as 2 x 2 equal ones")
        return shown[::2, ::2]

    def _ask(self, message):
        try:
            self._socket.sendto(message.encode(), str(self._path / "panel"))
            answer = self._socket.recv(4096).decode()
        except OSError as error:
            raise SimError(f"the simulation does not answer {message!r} ({error}); its console ends with\n"
                           f"{self.console()[-2000:]}") from error
        if answer != "ok":
            raise SimError(f"the simulation answers {message!r} with {answer}")


def expand565(frame):
    """uint16 RGB565 -> uint8 [..., 3], as the display's gateware does it."""
    frame = np.asarray(frame, np.uint16)
    channels = [(frame >> 11 & 31, 5), (frame >> 5 & 63, 6), (frame & 31, 5)]
    return np.stack([(c << 8 - n | c >> 2 * n - 8).astype(np.uint8) for c, n in channels], -1)


def picture_area(pixels, top):
    """What the display shows of uint8 pixels [C, H, W] below line ``top``: (rows, columns, uint8 [h, w, 3])."""
    c, h, w = pixels.shape
    scale = min(memory_map.FRAME_WIDTH // w, (memory_map.FRAME_HEIGHT - top) // h)
    r, g, b = (pixels[i if c >= 3 else 0].astype(np.uint16) for i in range(3))
    shown = expand565(r >> 3 << 11 | g >> 2 << 5 | b >> 3).repeat(scale, 0).repeat(scale, 1)
    left = (memory_map.FRAME_WIDTH - w * scale) // 2 & ~1
    return slice(top, top + h * scale), slice(left, left + w * scale), shown


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="a .ldp file, or a card's image (.img); none: an empty slot")
    parser.add_argument("--label", type=int, default=0, help="how often the label key is pressed first")
    parser.add_argument("--pictures", type=int, default=1, help="pictures to make, one key press each")
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the PNG files")
    parser.add_argument("--build-dir", default=DEFAULT_BUILD_DIR, help="folder of the generated files")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds to wait for a step")
    args = parser.parse_args(argv)
    try:
        run(args)
    except (SimError, ImageError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def run(args):
    """The command line's session: card, label, pictures."""
    from PIL import Image

    args.output.mkdir(parents=True, exist_ok=True)
    save = lambda sim, name: Image.fromarray(sim.frame()).resize((640, 480), 0).save(args.output / name)
    with tempfile.TemporaryDirectory() as folder:
        card = args.file
        if card is not None and card.suffix.lower() == ".ldp":
            card = Path(folder) / "card.img"
            card_image(card, {"MODEL.LDP": args.file.read_bytes()})
        with ApplianceSim(card, args.build_dir, args.timeout) as sim:
            state = sim.wait(r"ready\. key 1|key 1: read the card again\n(.*)")
            if state[1] is not None:
                save(sim, "error.png")
                raise SimError(state[1])
            for _ in range(args.label):
                sim.press("label")
                sim.wait("next: label")
            for _ in range(args.pictures):
                sim.press("picture")
                sim.wait("noise")
                save(sim, "step.png")
                print(sim.wait(r"done|stopped|failed[^\n]*\n.*")[0])
                save(sim, "done.png")


if __name__ == "__main__":
    main()
