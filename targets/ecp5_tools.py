"""The open ECP5 tools for LiteX's trellis tool chain: native ones from PATH, or the yowasp packages in their place.

nextpnr-ecp5 gets its netlist through ``netlist.py``.
"""

import os
from pathlib import Path
import shutil
import subprocess
import sys

TOOLS = ("yosys", "nextpnr-ecp5", "ecppack")
HIDDEN_FOLDER = "/tmp"      # yowasp's programs see a /tmp of their own
# Programs that go before a tool, with its arguments.
BEFORE = {"nextpnr-ecp5": f'"{sys.executable}" -m litediffusion.targets.netlist'}


class ToolError(RuntimeError):
    """A tool is missing, or cannot work in this folder."""


class Tools:
    """Where each tool is. The yowasp package's program stands in for a tool that is not on PATH.

    build_dir : a folder for the look-alikes ``build_dir/tools/<tool>``, which LiteX's script calls by the tools' names (those of
        yowasp's tools, and of tools with a program in BEFORE)
    tools : those wanted

    Raises ToolError when a tool and its package are missing, or when build_dir lies in HIDDEN_FOLDER and a
    yowasp program has to work there.
    """

    def __init__(self, build_dir, tools=TOOLS):
        self.folder = Path(build_dir).resolve() / "tools"
        self.found = {tool: self._find(tool) for tool in tools}
        stand_ins = {tool: path for tool, path in self.found.items() if Path(path).name.startswith("yowasp-")}
        if stand_ins and self.folder.is_relative_to(HIDDEN_FOLDER):
            raise ToolError(f"yowasp's tools do not see {build_dir}: choose an --output-dir outside {HIDDEN_FOLDER}")
        for tool, path in self.found.items():
            if tool in stand_ins or tool in BEFORE:
                self._look_alike(tool, path)

    def _look_alike(self, tool, path):
        self.folder.mkdir(parents=True, exist_ok=True)
        script = self.folder / tool
        before = f'{BEFORE[tool]} "$@" &&\n' if tool in BEFORE else ""
        script.write_text(f'#!/bin/sh\n{before}exec "{path}" "$@"\n')
        script.chmod(0o755)

    def _find(self, tool):
        native = shutil.which(tool)
        stand_in = Path(sys.executable).parent / f"yowasp-{tool}"
        if native is None and not stand_in.exists():
            raise ToolError(f"{tool} is not on PATH and {stand_in} is missing: install Yosys, nextpnr-ecp5 and prjtrellis, "
                            "or pip install 'litediffusion[bitstream]'")
        return native or str(stand_in)

    def path(self, path):
        """PATH with the look-alikes before it; each calls the tool that was found."""
        return f"{self.folder}{os.pathsep}{path}"

    def ask(self, tool, option):
        """Lines that a tool prints for ``--version`` or ``--help``."""
        run = subprocess.run([self.found[tool], option], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return [line for line in run.stdout.splitlines() if line.strip() and not line.startswith("Preparing")]

    def knows(self, tool, option):
        """True if a tool's help names an option: builds differ."""
        return any(option in line.split() for line in self.ask(tool, "--help"))

    def versions(self):
        """{tool: version line}."""
        out = {}
        for tool in self.found:
            lines = self.ask(tool, "--version")
            out[tool] = lines[0].strip() if lines else "unknown"
        return out
