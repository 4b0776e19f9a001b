"""The engine as Verilog and as a shared library. Needs Migen; kept apart so that only a build imports it."""

from contextlib import contextmanager
import fcntl
import hashlib
from importlib.metadata import version
import os
from pathlib import Path

from litediffusion.cores.regs import REGS, VIEWED
from litediffusion.targets import verilator

HERE = Path(__file__).parent
ADDRESS_BITS = 26       # words of 16 bytes: 1 GiB
# Functions cut in pieces compile in less memory, but run 15 % slower; this model is small enough to leave them whole.
FLAGS = ("--output-split-cfuncs", "0")


def build_dir():
    """build/rtl beside the checkout this file belongs to, else the user's cache."""
    root = HERE.parent.parent
    if (root / "pyproject.toml").exists():
        return root / "build" / "rtl"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "litediffusion" / "rtl"


def engine_top(config):
    """(module, ios): the engine with its ports and registers as pins."""
    from migen import ClockDomain, Module, Signal
    from litedram.common import LiteDRAMNativePort
    from litediffusion.cores.engine import Engine

    top = Module()
    ports = {name: LiteDRAMNativePort(mode, ADDRESS_BITS, config.word_bits)
             for name, mode in (("fetch", "read"), ("load", "read"), ("store", "write"))}
    top.submodules.engine = engine = Engine(config, *ports.values())
    ios = set()
    if config.array_clock == 2:
        top.clock_domains.cd_sys2x = ClockDomain("sys2x", reset_less=True)
        ios.add(top.cd_sys2x.clk)

    def pin(name, signal, output):
        outside = Signal(len(signal), name=name)
        top.comb += outside.eq(signal) if output else signal.eq(outside)
        ios.add(outside)

    for name, port in ports.items():
        pin(f"{name}_cmd_valid", port.cmd.valid, True)
        pin(f"{name}_cmd_addr", port.cmd.addr, True)
        pin(f"{name}_cmd_ready", port.cmd.ready, False)
        data = port.wdata if name == "store" else port.rdata
        kind, reads = ("wdata", False) if name == "store" else ("rdata", True)
        pin(f"{name}_{kind}", data.data, not reads)
        pin(f"{name}_{kind}_valid", data.valid, not reads)
        pin(f"{name}_{kind}_ready", data.ready, reads)
    pin("view_select", engine.view_select, False)
    pin("viewing", engine.viewing, False)
    pin("view", engine.view, True)
    for r in REGS:
        if r.name in VIEWED:
            continue
        # Two names for one thing would collide: the pins carry the registers' names.
        signal = getattr(engine.regs, r.name)
        signal.name_override = f"inner_{r.name}"
        pin(f"reg_{r.name}", signal, r.access == "ro")
    return top, ios


def write_verilog(config, folder):
    """Verilog of the engine with its tables; returns the file's path."""
    from migen.fhdl.verilog import convert

    top, ios = engine_top(config)
    result = convert(top, ios, name="engine_sim")
    text = result.main_source
    for name, content in result.data_files.items():
        (folder / name).write_text(content)
        # $readmemh opens the file when the simulation starts, wherever that is.
        text = text.replace(f'"{name}"', f'"{folder / name}"')
    path = folder / "engine_sim.v"
    path.write_text(text)
    return path


def write_header(folder):
    """Register numbers as X-macros for rtl_main.cpp."""
    lines = ["/* Generated from cores/regs.py. */"]
    for macro, outputs in (("ENGINE_INPUTS", False), ("ENGINE_OUTPUTS", True)):
        entries = [f"X({i}, {r.name})" for i, r in enumerate(REGS) if (r.access == "ro") == outputs and r.name not in VIEWED]
        lines.append(f"#define {macro}(X) " + " ".join(entries))
    lines.append("#define ENGINE_VIEWED(X) " + " ".join(f"X({i}, {VIEWED[r.name]})" for i, r in enumerate(REGS) if r.name in VIEWED))
    (folder / "engine_regs.h").write_text("\n".join(lines) + "\n")


def sources_key(config):
    """Identity of all that the library is made from."""
    h = hashlib.sha256(f"{config} {version('migen')} {version('litex')} {version('litedram')}".encode())
    cores = Path(verilator.__file__).parent.parent / "cores"
    for path in (*sorted(cores.glob("*.py")), Path(__file__), HERE / "rtl_main.cpp", Path(verilator.__file__)):
        h.update(path.name.encode() + path.read_bytes())
    return h.hexdigest()


@contextmanager
def locked(path):
    """Hold an advisory lock; parallel processes build once."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_library(config):
    """Path of the shared library of this configuration; builds it if its sources have changed (about 30 s)."""
    folder = build_dir() / f"{config.name}_{hashlib.sha256(repr(config).encode()).hexdigest()[:8]}"
    (folder / "include").mkdir(parents=True, exist_ok=True)
    library, stamp, key = folder / "libVengine_sim.so", folder / "sources.key", sources_key(config)
    with locked(folder / ".sources.lock"):
        if not (library.exists() and stamp.exists() and stamp.read_text() == key):
            write_header(folder / "include")
            verilator.build([write_verilog(config, folder)], [HERE / "rtl_main.cpp"], folder, "engine_sim", shared=True,
                            flags=FLAGS, cflags=["-DENGINE_SYS2X"] * (config.array_clock == 2), include=[folder / "include"])
            stamp.write_text(key)
    return library
