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
import re
import socket
import subprocess
import sys
import tempfile
import time

from litediffusion.cores.config import PRESETS
from litediffusion.soc import mailbox, memory_map
from litediffusion.targets import verilator
from litediffusion.targets.etherbone_server import PARENT_VARIABLE

PACKAGE = Path(__file__).resolve().parent.parent
SIM_SOURCES = PACKAGE / "soc" / "sim"
DEFAULT_BUILD_DIR = "build/sim"
UDP_PORT = 1234


class SimError(RuntimeError):
    """The simulation or its litex_server did not come up; the message holds the end of the log."""


@dataclass(frozen=True)
class SimFiles:
    """What a simulation needs: the executable, the firmware, the register map and the memories' first contents."""

    executable: Path
    firmware: Path
    csr_csv: Path
    contents: Path         # folder of the *.init files that the executable reads from its working directory


def build_sim(build_dir=DEFAULT_BUILD_DIR, preset="ecpix5", cpu_variant="lite"):
    """Generate, verilate and compile what changed since the last call; returns SimFiles.

    The first call takes one to two minutes, one without changes well under a second. Raises VerilatorError,
    SoftwareError, or what the gateware raises.
    """
    from litediffusion.soc.software import build_firmware

    build_dir = Path(build_dir).resolve()
    build_dir.mkdir(parents=True, exist_ok=True)
    with verilator.locked(build_dir / ".sim.lock"):
        verilog = _generate(build_dir, preset, cpu_variant)
        firmware = build_firmware(build_dir, preset)
        executable = verilator.build(verilog, sorted(SIM_SOURCES.glob("*.cpp")), build_dir / "verilator", "sim",
                                     include=[SIM_SOURCES])
    return SimFiles(executable, firmware, build_dir / "csr.csv", build_dir / "gateware")


def _generate(build_dir, preset, cpu_variant):
    """Verilog, headers and libraries of the SoC; returns the Verilog files. Cached by the gateware's sources."""
    stamp = build_dir / "gateware.json"
    key = _gateware_key(preset, cpu_variant)
    if stamp.exists() and (saved := json.loads(stamp.read_text()))["key"] == key:
        return saved["verilog"]
    from litediffusion.soc.software import SoCBuilder, quiet
    from litediffusion.targets.sim_soc import SimSoC

    with quiet(build_dir / "gateware.log"):
        soc = SimSoC(config=PRESETS[preset], cpu_variant=cpu_variant)
    SoCBuilder(soc, build_dir).build()
    verilog = soc.platform.verilog_files
    stamp.write_text(json.dumps({"key": key, "verilog": verilog}))
    return verilog


def _gateware_key(*options):
    """Identity of everything that the generated SoC depends on. Golden models are no part of it."""
    h = hashlib.sha256(f"{options} {PACKAGE} {[version(p) for p in ('migen', 'litex', 'litedram', 'liteeth')]}".encode())
    folders = ("cores", "soc", "targets")
    sources = (p for folder in folders for p in (PACKAGE / folder).glob("*.py") if not p.stem.endswith("_model"))
    for path in sorted(sources):
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


class SimServer:
    """A running simulation with litex_server in front of it; a context manager.

    build_dir, preset, cpu_variant   as in build_sim, which is called first
    port                TCP port of litex_server (0: any free one)
    start_timeout_s     longest wait until the firmware answers through litex_server

    Attributes: ``host``, ``port``, ``csr_csv`` (what LitexLink and RemoteClient need), ``url`` (what open_device needs
    beside them), ``udp_port`` (Etherbone) and ``bulk_port``, the simulation's. Both processes
    end with ``stop``, or with this process. Raises SimError, with the end of the log, if one does not come up.
    """

    host = "127.0.0.1"

    def __init__(self, build_dir=DEFAULT_BUILD_DIR, preset="ecpix5", port=0, start_timeout_s=60, cpu_variant="lite"):
        self._files = build_sim(build_dir, preset, cpu_variant)
        self.csr_csv, self.port, self.udp_port = self._files.csr_csv, port, None
        self.bulk_port = None
        self._timeout = start_timeout_s
        self._folder = self._sim = self._server = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start both and wait until the firmware is up; returns self."""
        self._folder = tempfile.TemporaryDirectory(prefix="litediffusion-sim-")
        prepare_run_dir(self._files, self._folder.name)
        try:
            deadline = time.monotonic() + self._timeout
            self._sim = self._spawn("sim", [str(self._files.executable), "0", str(os.getpid())])
            self.udp_port = int(self._wait_for("sim", r"etherbone on udp 127\.0\.0\.1:(\d+)", deadline))
            self.bulk_port = int(self._wait_for("sim", r"bulk transfer on udp 127\.0\.0\.1:(\d+)", deadline))
            self.port = self.port or _free_tcp_port()
            self._server = self._spawn("server", [
                sys.executable, "-u", "-m", "litediffusion.targets.etherbone_server", "--udp", "--udp-ip", "127.0.0.1",
                "--udp-port", str(self.udp_port), "--bind-ip", self.host, "--bind-port", str(self.port)])
            self._wait_for_firmware(deadline)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        """End both processes and remove their folder."""
        for process in (self._server, self._sim):
            if process is not None:
                process.terminate()
                process.wait()
        self._server = self._sim = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def link(self, **kwargs):
        """A new LitexLink to the simulation."""
        from litediffusion.sw.devices.litex_link import LitexLink

        return LitexLink(self.host, self.port, self.csr_csv, **kwargs)

    @property
    def url(self):
        """The device's name for open_device."""
        return f"litex://{self.host}:{self.port}?udp=127.0.0.1:{self.bulk_port}"

    @property
    def sim_pid(self):
        return self._sim.pid

    @property
    def server_pid(self):
        return self._server.pid

    def log(self, name="sim"):
        """Text that the process ``sim`` (console of the firmware included) or ``server`` has written."""
        return Path(self._folder.name, f"{name}.log").read_text(errors="replace")

    def _spawn(self, name, command):
        with open(Path(self._folder.name, f"{name}.log"), "w") as log:
            return subprocess.Popen(command, cwd=self._folder.name, stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=subprocess.STDOUT,
                                    env={**os.environ, PARENT_VARIABLE: str(os.getpid())})

    def _check(self, deadline, what):
        for name, process in (("sim", self._sim), ("server", self._server)):
            if process is not None and process.poll() is not None:
                raise SimError(f"the process {name!r} ended with status {process.returncode}; its log:\n"
                               + self.log(name)[-2000:])
        if time.monotonic() > deadline:
            raise SimError(f"{what} within {self._timeout} s; console:\n{self.log()[-2000:]}")
        time.sleep(0.05)

    def _wait_for(self, name, pattern, deadline):
        while not (match := re.search(pattern, self.log(name))):
            self._check(deadline, f"{name} did not print {pattern!r}")
        return match[1]

    def _wait_for_firmware(self, deadline):
        from litediffusion.sw.devices.errors import ConnectionLost

        self._wait_for("server", r"tcp port: (\d+)", deadline)
        while True:
            try:
                with self.link(timeout_s=2) as link:
                    while link.read_words(memory_map.MAILBOX_BASE, 1) != [mailbox.MAGIC]:
                        self._check(deadline, "the firmware did not come up")
                return
            except ConnectionLost:
                self._check(deadline, "litex_server did not answer")


def _free_tcp_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    from litediffusion.soc.diffusion_soc import CPU_VARIANTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=UDP_PORT, help="UDP port of Etherbone; the bulk transfer takes the next (0: any free ones)")
    parser.add_argument("--build-dir", default=DEFAULT_BUILD_DIR, help="folder of the generated files")
    parser.add_argument("--preset", default="ecpix5", choices=sorted(PRESETS), help="engine configuration")
    parser.add_argument("--cpu-variant", default="lite", choices=CPU_VARIANTS, help="VexRiscv's; the Colorlight boards have the minimal one")
    parser.add_argument("--no-run", action="store_true", help="only build")
    args = parser.parse_args()
    try:
        files = build_sim(args.build_dir, args.preset, args.cpu_variant)
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    if args.no_run:
        print(files.executable)
        return
    with tempfile.TemporaryDirectory(prefix="litediffusion-sim-") as run_dir:
        prepare_run_dir(files, run_dir)
        sim = subprocess.Popen([files.executable, str(args.port), str(os.getpid())], cwd=run_dir)
        try:
            sys.exit(sim.wait())
        except KeyboardInterrupt:
            sim.wait()


if __name__ == "__main__":
    main()
