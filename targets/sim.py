"""The SoC simulated in Verilator: build it, run it, serve it.

``python -m litediffusion.targets.sim`` builds (once) and runs the simulation; its Etherbone answers on a UDP port of
the loopback, its console is the terminal. See targets/README.md for litex_server on top.
"""

import argparse
from dataclasses import dataclass
import hashlib
from importlib.metadata import version
import json
import os
from pathlib import Path
import sys
import tempfile

from litediffusion.cores.config import PRESETS
from litediffusion.targets import verilator

PACKAGE = Path(__file__).resolve().parent.parent
SIM_SOURCES = PACKAGE / "soc" / "sim"
DEFAULT_BUILD_DIR = "build/sim"
UDP_PORT = 1234


@dataclass(frozen=True)
class SimFiles:
    """What a simulation needs: the executable, the firmware, the register map and the memories' first contents."""

    executable: Path
    firmware: Path
    csr_csv: Path
    contents: Path         # folder of the *.init files that the executable reads from its working directory


def build_sim(build_dir=DEFAULT_BUILD_DIR, preset="ecpix5"):
    """Generate, verilate and compile what changed since the last call; returns SimFiles.

    The first call takes one to two minutes, one without changes well under a second. Raises VerilatorError,
    SoftwareError, or what the gateware raises.
    """
    from litediffusion.soc.software import build_firmware

    build_dir = Path(build_dir).resolve()
    build_dir.mkdir(parents=True, exist_ok=True)
    with verilator.locked(build_dir / ".sim.lock"):
        verilog = _generate(build_dir, preset)
        firmware = build_firmware(build_dir, preset)
        executable = verilator.build(verilog, sorted(SIM_SOURCES.glob("*.cpp")), build_dir / "verilator", "sim",
                                     include=[SIM_SOURCES])
    return SimFiles(executable, firmware, build_dir / "csr.csv", build_dir / "gateware")


def _generate(build_dir, preset):
    """Verilog, headers and libraries of the SoC; returns the Verilog files. Cached by the gateware's sources."""
    stamp = build_dir / "gateware.json"
    key = _gateware_key(preset)
    if stamp.exists() and (saved := json.loads(stamp.read_text()))["key"] == key:
        return saved["verilog"]
    from litediffusion.soc.software import SoCBuilder
    from litediffusion.targets.sim_soc import SimSoC

    soc = SimSoC(config=PRESETS[preset])
    SoCBuilder(soc, build_dir).build()
    verilog = soc.platform.verilog_files
    stamp.write_text(json.dumps({"key": key, "verilog": verilog}))
    return verilog


def _gateware_key(preset):
    """Identity of everything that the generated SoC depends on."""
    h = hashlib.sha256(f"{preset} {PACKAGE} {[version(p) for p in ('migen', 'litex', 'litedram', 'liteeth')]}".encode())
    folders = ("cores", "soc", "targets")
    for path in sorted(p for folder in folders for p in (PACKAGE / folder).glob("*.py")):
        h.update(path.name.encode() + path.read_bytes())
    return h.hexdigest()


def prepare_run_dir(files, run_dir):
    """Fill the folder that the executable runs in: the memories' contents, with the firmware in the ROM."""
    from litediffusion.soc.diffusion_soc import ROM_BYTES

    for source in files.contents.glob("*.init"):
        (Path(run_dir) / source.name).write_bytes(source.read_bytes())
    data = files.firmware.read_bytes().ljust(ROM_BYTES, b"\0")
    words = (int.from_bytes(data[i:i + 4], "little") for i in range(0, len(data), 4))
    (Path(run_dir) / "sim_rom.init").write_text("".join(f"{word:08x}\n" for word in words))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=UDP_PORT, help="UDP port of Etherbone (0: any free one)")
    parser.add_argument("--build-dir", default=DEFAULT_BUILD_DIR, help="folder of the generated files")
    parser.add_argument("--preset", default="ecpix5", choices=sorted(PRESETS), help="engine configuration")
    parser.add_argument("--no-run", action="store_true", help="only build")
    args = parser.parse_args()
    try:
        files = build_sim(args.build_dir, args.preset)
    except (verilator.VerilatorError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    if args.no_run:
        print(files.executable)
        return
    with tempfile.TemporaryDirectory(prefix="litediffusion-sim-") as run_dir:
        prepare_run_dir(files, run_dir)
        os.chdir(run_dir)
        pid = os.spawnv(os.P_NOWAIT, files.executable, [files.executable.name, str(args.port)])
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
