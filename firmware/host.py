"""The firmware's logic compiled for the host: the same C files, with the hardware played by a Python object.

``Firmware(hardware)`` calls ``hardware``'s methods wherever the C code calls ``struct hw`` (see hw.h). Used by the unit
tests; needs a C compiler (``CC``, gcc or clang).
"""

import ctypes as ct
import os
from pathlib import Path
import shutil
import subprocess

from litediffusion.cores.config import PRESETS
from litediffusion.firmware.header import generate
from litediffusion.soc import mailbox

SOURCES = ("text", "job", "engine", "loop", "selftest", "console")
FOLDER = Path(__file__).resolve().parent

# struct hw: member -> (result, arguments), in the order of hw.h
HW_CALLS = {
    "set_reg": (None, ct.c_uint32, ct.c_uint32), "get_reg": (ct.c_uint32, ct.c_uint32),
    "get_regs": (None, ct.c_uint32, ct.c_uint32, ct.POINTER(ct.c_uint32)), "cycles": (ct.c_uint32,),
    "mailbox_read": (ct.c_uint32, ct.c_uint32), "mailbox_write": (None, ct.c_uint32, ct.c_uint32),
    "doorbell_pending": (ct.c_bool,), "doorbell_clear": (None,),
    "window_read": (ct.c_uint32, ct.c_uint32), "window_write": (None, ct.c_uint32, ct.c_uint32),
    "sync_memory": (None,), "getchar": (ct.c_int,), "puts": (None, ct.c_char_p), "reboot": (None,),
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
    size = '#include "loop.h"\nconst unsigned firmware_bytes = sizeof(struct firmware);\n'
    (folder / "size.c").write_text(size, encoding="utf-8")
    library = folder / "firmware.so"
    command = [compiler, "-std=gnu99", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined",
               "-fsanitize-undefined-trap-on-error", "-fPIC", "-shared", f"-I{folder}", f"-I{FOLDER}",
               "-o", str(library), str(folder / "size.c"), *(str(FOLDER / f"{name}.c") for name in SOURCES)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return ct.CDLL(str(library))


def check(library, job, config_hash):
    """job_check() of a Job: (accepted, Fault)."""
    fault = Fault()
    library.job_check.restype = ct.c_bool
    return library.job_check(ct.byref(job), ct.c_uint32(config_hash), ct.byref(fault)), fault


class Firmware:
    """The firmware's logic on a ``hardware`` object that has the methods named in HW_CALLS.

    An exception in one of these methods is kept and raised by the call of the firmware under way when it returns.
    """

    def __init__(self, library, hardware):
        self.library, self.hardware, self.raised = library, hardware, []
        self.hw = Hw(**{name: call(self._guard(name, types[0])) for (name, types), (_, call)
                        in zip(HW_CALLS.items(), Hw._fields_)})
        # struct firmware, which only C looks into
        self.state = ct.create_string_buffer(ct.c_uint.in_dll(library, "firmware_bytes").value)

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
        getattr(self.library, name)(self.state, *args)
        if self.raised:
            raise self.raised.pop(0)

    def boot(self, dram_ok=True):
        self._call("firmware_boot", ct.byref(self.hw), ct.c_bool(dram_ok))

    def poll(self, rounds=1):
        for _ in range(rounds):
            self._call("firmware_poll")
