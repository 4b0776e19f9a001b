"""What the commands share: errors as one line, JSON output, progress bars."""

from contextlib import contextmanager
import json
import time

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)


@contextmanager
def friendly_errors():
    """Failures that carry a message become that message and exit code 1.

    That is ValueError (compiler, container, arguments), OSError (files), RuntimeError (devices, builds) and their kinds.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        console.print(f"[bold red]error:[/] {type(error).__name__}: {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def make_folder(path):
    """Create the folder that a file will be written to, before the work starts."""
    path.parent.mkdir(parents=True, exist_ok=True)


def preset_config(name):
    """EngineConfig of a preset. Raises ValueError with the known names."""
    from litediffusion.cores.config import PRESETS

    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown; known: {sorted(PRESETS)}")
    return PRESETS[name]


def print_json(data):
    typer.echo(json.dumps(data, indent=2))


@contextmanager
def progress_bar(text):
    """``update(done, total, text)`` of a bar on stderr with the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
               TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(text, total=1)
        yield lambda done, total, text=text: bar.update(task, completed=done, total=total, description=text)


def transfer_progress(bar, text):
    """``update(done, total)`` in bytes for a transfer: a bar of progress_bar with the rate."""
    begin = time.monotonic()

    def update(done, total):
        rate = done / max(time.monotonic() - begin, 1e-3)
        bar(done, total, f"{text} {rate / 1e6:.2f} MB/s")
    return update


@contextmanager
def opened(name, csr_csv=None, program=None):
    """A device that is closed at the end; a simulated one has room for ``program``."""
    from litediffusion.soc.memory_map import SELFTEST_BYTES, WINDOW_SIZE
    from litediffusion.sw.devices.open import open_device

    needed = program.meta["image_bytes"] + SELFTEST_BYTES if program else 0
    device = open_device(name, csr_csv=csr_csv, window_size=max(WINDOW_SIZE, needed))
    try:
        yield device
    finally:
        if hasattr(device, "close"):
            device.close()


def load_program(path):
    """Program of a .ldp file."""
    from litediffusion.sw.container import load

    return load(path)
