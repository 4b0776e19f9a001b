"""Software of a SoC: LiteX's libraries for its CPU, and the firmware."""

from contextlib import contextmanager
import os
from pathlib import Path
import subprocess
import sys

from litex.soc.integration.builder import Builder

from litediffusion.soc import memory_map
from litediffusion.soc.diffusion_soc import ROM_BYTES

FIRMWARE = Path(__file__).resolve().parent.parent / "firmware"
# What the firmware links: the C library, the compiler's helpers, UART and interrupts, the DRAM's start-up, FAT on SD cards.
LIBRARIES = ("libc", "libcompiler_rt", "libbase", "liblitedram", "libfatfs", "liblitesdcard")


class SoftwareError(RuntimeError):
    """Libraries or firmware could not be built; the message holds the last lines of the tool."""


@contextmanager
def quiet(log):
    """What this process and its children print goes to the file ``log``. Raises SoftwareError with its end on a failure."""
    sys.stdout.flush()
    saved = [os.dup(fd) for fd in (1, 2)]
    with open(log, "w") as file:
        for fd in (1, 2):
            os.dup2(file.fileno(), fd)
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        tail = "\n".join(Path(log).read_text(errors="replace").splitlines()[-30:])
        raise SoftwareError(f"building the SoC failed ({error}); the end of {log}:\n{tail}") from error
    finally:
        sys.stdout.flush()
        for fd, copy in zip((1, 2), saved):
            os.dup2(copy, fd)
            os.close(copy)


class SoCBuilder(Builder):
    """LiteX's Builder without the BIOS: our firmware takes its place in the ROM."""

    def __init__(self, soc, output_dir, compile_software=True, compile_gateware=False, **kwargs):
        Builder.__init__(self, soc, output_dir=str(output_dir), compile_software=compile_software,
                         compile_gateware=compile_gateware, **kwargs)
        self.software_packages = [p for p in self.software_packages if p[0] in LIBRARIES]
        self.software_libraries = list(LIBRARIES)

    def build(self, **kwargs):
        """Headers, libraries, csr.csv and gateware; meson and ninja come from this Python's folder."""
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
        Path(self.output_dir).mkdir(parents=True, exist_ok=True)
        try:
            with quiet(Path(self.output_dir) / "build.log"):
                return Builder.build(self, **kwargs)
        finally:
            os.environ["PATH"] = path


def build_firmware(build_dir, preset="ecpix5", window_size=memory_map.WINDOW_SIZE):
    """Compile the firmware for the SoC built in ``build_dir`` and an engine window of ``window_size`` bytes.

    Returns the Path of firmware.bin.

    Raises SoftwareError when the compiler fails or the result does not fit the ROM.
    """
    build_dir = Path(build_dir).resolve()
    out = build_dir / "software" / "firmware"
    command = ["make", "-C", str(FIRMWARE), f"BUILD_DIR={build_dir}", f"OUT={out}", f"PRESET={preset}",
               f"WINDOW_SIZE={window_size}", f"PYTHON={sys.executable}"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        tail = "\n".join(result.stdout.splitlines()[-30:])
        raise SoftwareError(f"the firmware did not build ({' '.join(command)}):\n{tail}")
    binary = out / "firmware.bin"
    if binary.stat().st_size > ROM_BYTES:
        raise SoftwareError(f"the firmware has {binary.stat().st_size} bytes, the ROM {ROM_BYTES}: "
                            "make it smaller or raise ROM_BYTES in soc/diffusion_soc.py")
    return binary
