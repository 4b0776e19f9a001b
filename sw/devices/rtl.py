"""The rtl device: the engine alone in Verilator, with a model of the DRAM, no CPU (see rtl_main.cpp)."""

import ctypes
from functools import cache

import numpy as np

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.cores.regs import REGS
from litediffusion.soc.memory_map import WINDOW_SIZE
from litediffusion.sw.devices.base import WATCHDOG, EngineStopped, MemoryDevice
from litediffusion.sw.devices.errors import DeviceError

GUARD_BYTES = 1 << 16           # DRAM before and after the window, which the engine must never touch
STATUS = {"busy": 1, "done": 2, "error": 4, "halted": 8}
CHUNK = 1 << 16                 # cycles between looks at the signals of the Python process
COUNTERS = [r.name for r in REGS if r.access == "ro" and r.bits == 32 and r.name != "config_hash"
            and not r.name.startswith("tokens")]
REG_NUMBER = {r.name: i for i, r in enumerate(REGS)}


@cache
def library(config):
    """The shared library of a configuration, built if need be."""
    from litediffusion.sw.devices.rtl_build import build_library

    lib = ctypes.CDLL(str(build_library(config)))
    lib.sim_new.restype = ctypes.c_void_p
    lib.sim_new.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32]
    lib.sim_free.argtypes = [ctypes.c_void_p]
    lib.sim_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    lib.sim_get.argtypes, lib.sim_get.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_uint32
    lib.sim_run.argtypes, lib.sim_run.restype = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32], ctypes.c_uint64
    lib.sim_set_burst.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    lib.sim_set_dead.argtypes = [ctypes.c_void_p, ctypes.c_int]
    lib.sim_errors.argtypes, lib.sim_errors.restype = [ctypes.c_void_p], ctypes.c_uint64
    return lib


class RtlDevice(MemoryDevice):
    """Cycle-accurate engine; cycles counted are those of the board but for the DRAM model's simplifications.

    config, window_size
    stall, seed    probability (0..1) that the DRAM holds back a command, its service or its data in a cycle, and the
                   seed of that; for tests
    word_cycles    cycles of the DRAM for a word: 2 on the ECPIX-5, more on boards with narrower memories
    ``dram`` is the whole memory as an array (guard, window, guard), ``memory`` the window.
    """

    def __init__(self, config=PRESETS["ecpix5"], window_size=WINDOW_SIZE, stall=0.0, seed=1, word_cycles=2):
        self.config, self.config_hash, self.window_size = config, config.hash, window_size
        self.dram = np.zeros(window_size + 2 * GUARD_BYTES, np.uint8)
        self.memory = self.dram[GUARD_BYTES:GUARD_BYTES + window_size]
        self.lib = library(config)
        self.sim = self.lib.sim_new(self.dram.ctypes.data, self.dram.size, seed, round(256 * stall))
        self.lib.sim_set_burst(self.sim, word_cycles)
        self.set("window_base", GUARD_BYTES)
        self.set("window_size", window_size)

    def close(self):
        """Free the simulation; the device is of no use afterwards."""
        if self.sim:
            self.lib.sim_free(self.sim)
            self.sim = None

    def __del__(self):
        if getattr(self, "sim", None):
            self.close()

    def set(self, name, value):
        """Set an input register by its name in regs.REGS."""
        self.lib.sim_set(self.sim, REG_NUMBER[name], value & 0xFFFFFFFF)

    def get(self, name):
        """Value of a register by its name in regs.REGS."""
        return self.lib.sim_get(self.sim, REG_NUMBER[name])

    def run_cycles(self, cycles, *status):
        """Run until one of the named status bits is set, at most ``cycles`` cycles; True if one is set."""
        mask = sum(STATUS[name] for name in status)
        while cycles > 0:
            cycles -= self.lib.sim_run(self.sim, min(cycles, CHUNK), mask)
            if self.get("status") & mask:
                return True
        return False

    def start(self, address, length, *, step=0, label=0, slot=0, image=0, guidance=0, seed=0, trace=None, watchdog=WATCHDOG):
        """Set the registers and pulse ``start``."""
        values = {"program_addr": address, "program_len": length, "index_step": step, "index_label": label,
                  "index_slot": slot, "index_image": image, "guidance": guidance, "seed0": seed, "seed1": seed >> 32,
                  "watchdog": watchdog, "trace_enable": trace is not None}
        if trace is not None:
            values["trace_addr"], values["trace_size"] = trace
        for name, value in values.items():
            self.set(name, int(value))
        self.set("start", 1)

    def run_program(self, address, length, **registers):
        counters = {}
        for number, piece in enumerate(self.pieces(address, length, registers.get("trace"))):
            for name, value in self.run_piece(*piece, number * isa.MOST_DESCRIPTORS, **registers).items():
                counters[name] = counters.get(name, 0) + value
        return counters

    def run_piece(self, address, length, before, **registers):
        """Counters of one program; before : descriptors of those before it."""
        self.start(address, length, **registers)
        watchdog = registers.get("watchdog", WATCHDOG)
        last = None
        while not self.run_cycles(2 * watchdog + CHUNK, "done", "error"):
            life = [self.get(name) for name in COUNTERS if name != "cycles"]
            if life == last:
                raise DeviceError(f"the engine neither ended nor stopped within {2 * watchdog + CHUNK} cycles without progress")
            last = life
        if self.get("status") & STATUS["error"]:
            raise self.stopped(before)
        self.check_protocol()
        return {name: self.get(name) for name in COUNTERS}

    def stopped(self, before=0):
        """EngineStopped of the present error; the engine is reset for the next program."""
        code, queue, index, token = (self.get(f"error_{n}") for n in ("code", "queue", "index", "token"))
        self.reset()
        return EngineStopped(code, [*isa.QUEUES, "FETCH"][queue], index + before, token)

    def reset(self):
        """Wait for DRAM accesses under way, then make the engine idle."""
        self.run_cycles(CHUNK, "halted")
        self.set("reset", 1)
        self.lib.sim_run(self.sim, 4, 0)
        if self.get("status") & (STATUS["busy"] | STATUS["error"]):
            raise DeviceError(f"the engine does not become idle after a reset: status {self.get('status'):#x}")

    def check_protocol(self):
        """Raise DeviceError if the engine broke the DRAM ports' protocol or left the memory."""
        errors = self.lib.sim_errors(self.sim)
        if errors:
            raise DeviceError(f"{errors} breaches of the DRAM port's protocol: data not offered or taken in time, "
                              "or an access outside the memory")
