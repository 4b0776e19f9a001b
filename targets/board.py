"""The skeleton of a board's target: options, software, firmware in the ROM, the open ECP5 tools, the report."""

import os
from pathlib import Path
import shutil
import sys

from litex.build.parser import LiteXArgumentParser
from litex.soc.integration.soc_core import get_mem_data

from litediffusion.cores.config import PRESETS
from litediffusion.soc.software import SoCBuilder, build_firmware

# LiteX's options that DiffusionSoC does not fix; the others are refused when they differ from their default.
SOC_OPTIONS = ("uart_name", "uart_baudrate", "uart_fifo_depth", "with_uartbone", "with_jtagbone", "jtagbone_chain",
               "ident", "ident_version")
ECP5_TOOLS = ("yosys", "nextpnr-ecp5", "ecppack")


class BoardBuilder(SoCBuilder):
    """SoCBuilder that compiles the firmware between LiteX's libraries and the gateware, and puts it into the ROM."""

    def _generate_rom_software(self, compile_bios=True):
        SoCBuilder._generate_rom_software(self, compile_bios)
        if self.compile_software:
            firmware = build_firmware(self.output_dir, self.soc.config.name)
            self.soc.init_rom("rom", get_mem_data(str(firmware), data_width=32, endianness="little"))


def add_tools(folder):
    """Look-alikes of the missing ECP5 tools in ``folder``, in front of PATH; they call the yowasp packages.

    Returns {tool: path of what runs}. Raises FileNotFoundError when neither the tool nor its package is there.
    """
    found = {}
    for tool in ECP5_TOOLS:
        native = shutil.which(tool)
        package = Path(sys.executable).parent / f"yowasp-{tool}"
        if native is None and not package.exists():
            raise FileNotFoundError(f"{tool} is neither on PATH nor installed as {package}: install prjtrellis' tools, or "
                                    "pip install 'litediffusion[bitstream]'")
        if native is None:
            folder.mkdir(parents=True, exist_ok=True)
            script = folder / tool
            script.write_text(f'#!/bin/sh\nexec "{package}" "$@"\n')
            script.chmod(0o755)
        found[tool] = native or str(package)
    if folder.exists():
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return found
