"""The firmware's logic compiled for the host: the same C files, with the hardware played by a Python object.

``Firmware(hardware)`` calls ``hardware``'s methods wherever the C code calls ``struct hw`` (see hw.h). Used by the unit
tests; needs a C compiler (``CC``, gcc or clang).
"""

import ctypes as ct
import os
from pathlib import Path
import shutil
import subprocess

import litex

from litediffusion.cores.config import PRESETS
from litediffusion.firmware.header import generate
from litediffusion.soc import mailbox

SOURCES = ("text", "job", "engine", "loop", "selftest", "console", "crc", "model", "display", "appliance")
FATFS = ("ff.c", "ffunicode.c")          # of LiteX: the firmware's own
FOLDER = Path(__file__).resolve().parent
LITEX_SOFTWARE = Path(litex.__file__).parent / "soc" / "software"
STRUCTS = ("firmware", "appliance")

# struct hw: member -> (result, arguments), in the order of hw.h
HW_CALLS = {
    "set_reg": (None, ct.c_uint32, ct.c_uint32), "get_reg": (ct.c_uint32, ct.c_uint32),
    "get_regs": (None, ct.c_uint32, ct.c_uint32, ct.POINTER(ct.c_uint32)), "cycles": (ct.c_uint32,),
    "mailbox_read": (ct.c_uint32, ct.c_uint32), "mailbox_write": (None, ct.c_uint32, ct.c_uint32),
    "doorbell_pending": (ct.c_bool,), "doorbell_clear": (None,),
    "window_read": (ct.c_uint32, ct.c_uint32), "window_write": (None, ct.c_uint32, ct.c_uint32),
    "window_put": (None, ct.c_uint32, ct.POINTER(ct.c_uint32), ct.c_uint32),
    "sync_memory": (None,), "getchar": (ct.c_int,), "puts": (None, ct.c_char_p), "reboot": (None,),
    "frame_put": (None, ct.c_uint32, ct.POINTER(ct.c_uint32), ct.c_uint32), "frame_lines": (None, ct.c_uint32),
    "keys": (ct.c_uint32,), "card_start": (ct.c_bool,), "owner": (ct.c_uint32,),
}


class Hw(ct.Structure):
    _fields_ = [(name, ct.CFUNCTYPE(*types)) for name, types in HW_CALLS.items()]


class Job(ct.Structure):
    """struct ldi_job."""

    _fields_ = [(name, ct.c_uint32 * words if words > 1 else ct.c_uint32) for name, words, _ in mailbox.JOB]


class Text(ct.Structure):
    _fields_ = [("length", ct.c_uint32), ("s", ct.c_char * mailbox.TEXT_BYTES)]


class Fault(ct.Structure):
    _fields_ = [("error", ct.c_uint32), ("info", ct.c_uint32 * 4), ("text", Text)]


def build(folder, config=PRESETS["ecpix5"]):
    """Compile the logic into a shared library in ``folder``; returns its ctypes.CDLL. Raises RuntimeError."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RuntimeError("no C compiler: install gcc or clang, or name one in CC")
    folder = Path(folder)
    (folder / "ldi_tables.h").write_text(generate(config), encoding="utf-8")
    size = '#include "appliance.h"\n' + "".join(f"const unsigned {s}_bytes = sizeof(struct {s});\n" for s in STRUCTS)
    (folder / "size.c").write_text(size, encoding="utf-8")
    library, fatfs = folder / "firmware.so", folder / "fatfs.o"
    include = [f"-I{folder}", f"-I{FOLDER}", f"-I{LITEX_SOFTWARE}"]
    _run([compiler, "-std=gnu99", "-O1", "-w", "-fPIC", "-r", "-nostdlib", *include, "-o", str(fatfs),
          *(str(LITEX_SOFTWARE / "libfatfs" / name) for name in FATFS)])
    _run([compiler, "-std=gnu99", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined",
          "-fsanitize-undefined-trap-on-error", "-fPIC", "-shared", *include, "-o", str(library), str(fatfs),
          str(folder / "size.c"), *(str(FOLDER / f"{name}.c") for name in SOURCES)])
    return ct.CDLL(str(library))


def _run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")


def check(library, job, config_hash):
    """job_check() of a Job: (accepted, Fault)."""
    fault = Fault()
    library.job_check.restype = ct.c_bool
    return library.job_check(ct.byref(job), ct.c_uint32(config_hash), ct.byref(fault)), fault


class Card:
    """An SD card for FatFs: ``data``, the bytes of its image. ``broken``: blocks that cannot be read."""

    BLOCK = 512

    def __init__(self, library, data, broken=()):
        self.data, self.broken, self.reads = data, set(broken), 0
        status = ct.CFUNCTYPE(ct.c_ubyte, ct.c_ubyte)
        read = ct.CFUNCTYPE(ct.c_int, ct.c_ubyte, ct.POINTER(ct.c_ubyte), ct.c_uint32, ct.c_uint)
        self.calls = (status(lambda drive: 0), status(lambda drive: 0), read(self._read))
        # DISKOPS of libfatfs/diskio.h: initialize, status, read, and two that a reader never calls
        self.operations = (ct.c_void_p * 5)(*(ct.cast(call, ct.c_void_p) for call in self.calls), None, None)
        ct.c_void_p.in_dll(library, "FfDiskOps").value = ct.addressof(self.operations)

    def _read(self, drive, buffer, block, count):
        self.reads += 1
        part = self.data[self.BLOCK * block:self.BLOCK * (block + count)]
        if len(part) < self.BLOCK * count or self.broken & set(range(block, block + count)):
            return 1                             # RES_ERROR
        ct.memmove(buffer, part, len(part))
        return 0


class Firmware:
    """The firmware's logic on a ``hardware`` object that has the methods named in HW_CALLS.

    An exception in one of these methods is kept and raised by the call of the firmware under way when it returns.
    """

    def __init__(self, library, hardware):
        self.library, self.hardware, self.raised = library, hardware, []
        self.hw = Hw(**{name: call(self._guard(name, types[0])) for (name, types), (_, call)
                        in zip(HW_CALLS.items(), Hw._fields_)})
        # struct firmware and struct appliance, which only C looks into
        self.state, self.appliance = (ct.create_string_buffer(ct.c_uint.in_dll(library, f"{s}_bytes").value) for s in STRUCTS)

    def _guard(self, name, result):
        def call(*args):
            try:
                value = getattr(self.hardware, name)(*args)
            except BaseException as error:   # ctypes would print it and go on
                self.raised.append(error)
                value = None
            return value if result is None else value or 0
        return call

    def _call(self, name, *args):
        getattr(self.library, name)(*args)
        if self.raised:
            raise self.raised.pop(0)

    def boot(self, dram_ok=True):
        self._call("firmware_boot", self.state, ct.byref(self.hw), ct.c_bool(dram_ok))

    def poll(self, rounds=1):
        for _ in range(rounds):
            self._call("firmware_poll", self.state)

    def boot_appliance(self):
        self._call("appliance_boot", self.appliance, self.state)

    def poll_appliance(self, rounds=1):
        for _ in range(rounds):
            self._call("appliance_poll", self.appliance)
