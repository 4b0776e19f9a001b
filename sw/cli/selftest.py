"""selftest."""

import platform
from importlib.metadata import version
from typing import Annotated

import typer

from litediffusion.cores.config import PRESETS
from litediffusion.soc import mailbox
from litediffusion.sw.cli.common import console, friendly_errors, opened, print_json, progress_bar
from litediffusion.sw.cli.generate import Csr, DeviceName

REPORTED_PACKAGES = ("litediffusion", "litex", "litedram", "liteeth", "migen", "numpy")


def firmware_selftest(device):
    """DRAM patterns and a copy through the engine, by the firmware. Raises DeviceFault."""
    job = device.submit(command=mailbox.COMMANDS["SELFTEST"], config_hash=device.config_hash, watchdog=1 << 20)
    device.wait(job)


def run_exercise(device, config, seed):
    """One random program over all instructions: (bytes compared, bytes that differ from the model)."""
    from litediffusion.sw.devices.exercise import END, REGISTERS, SCRATCH, make_exercise
    from litediffusion.sw.devices.model import ModelDevice

    exercise, model = make_exercise(config, seed, instructions=150), ModelDevice(config)
    for each in (device, model):
        each.write(0, exercise.data)
        each.run_program(0, exercise.length, **REGISTERS)
    first, size = SCRATCH * config.word_bytes, (END - SCRATCH) * config.word_bytes
    got, want = device.read(first, size), model.read(first, size)
    return size, sum(a != b for a, b in zip(got, want))


def selftest(device: DeviceName = "rtl", programs: Annotated[int, typer.Option(min=0, help="random programs to compare")] = 2,
             seed: Annotated[int, typer.Option(help="seed of the first one")] = 1, csr: Csr = None,
             json: Annotated[bool, typer.Option("--json", help="print JSON")] = False):
    """Test a device: the firmware's own test, then random programs over all instructions, compared with the model."""
    with friendly_errors(), opened(device, csr) as dev, progress_bar("selftest") as bar:
        if device == "model":
            raise ValueError("the model device is what devices are compared with; test rtl or litex://HOST:PORT")
        config = next((c for c in PRESETS.values() if c.hash == dev.config_hash), None)
        if config is None:
            raise ValueError(f"the device has configuration {dev.config_hash:08x}, which is no preset of this version: "
                             f"{ {name: f'{c.hash:08x}' for name, c in PRESETS.items()} }")
        if hasattr(dev, "submit"):
            firmware_selftest(dev)
        results = []
        for i in range(programs):
            bar(i, programs)
            compared, wrong = run_exercise(dev, config, seed + i)
            results.append({"seed": seed + i, "bytes_compared": compared, "bytes_different": wrong})
        bar(1, 1)
    good = not any(r["bytes_different"] for r in results)
    report = {"device": device, "passed": good, "configuration": config.name, "firmware_test": hasattr(dev, "submit"),
              "programs": results, "python": platform.python_version(), "versions": {p: version(p) for p in REPORTED_PACKAGES}}
    if json:
        print_json(report)
    else:
        console.print(f"{device}, configuration {config.name}: {programs} random programs, "
                      + ("all results equal the model's" if good else f"[bold red]results differ[/]: {results}"))
    raise typer.Exit(0 if good else 1)


def register(app):
    app.command()(selftest)
