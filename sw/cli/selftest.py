"""selftest: a device against the model, and the report that a user of a board can send."""

from datetime import datetime, timezone
import json as jsonlib
from pathlib import Path
import platform
from importlib.metadata import version
from typing import Annotated, Optional

import typer

from litediffusion.cores.config import PRESETS
from litediffusion.soc import mailbox
from litediffusion.sw.cli.common import console, friendly_errors, make_folder, opened, print_json, progress_bar
from litediffusion.sw.cli.generate import Csr, DeviceName
from litediffusion.sw.devices.errors import DeviceFault

REPORTED_PACKAGES = ("litediffusion", "litex", "litedram", "liteeth", "migen", "numpy")
MEMORY_BYTES = 1 << 20
PERFORMANCE_LAYERS = 2      # of the benchmark's: a convolution in W8A8 and W4A8
FEW_PIXELS = 8              # width of their pictures where the accumulators are too few for more


def attempt(part, **row):
    """``row`` with what ``part()`` adds, or with its error: the other parts of a report are still wanted then."""
    try:
        return row | part()
    except (DeviceFault, ValueError) as error:
        return row | {"passed": False, "error": str(error)}


def firmware_selftest(device):
    """DRAM patterns and a copy through the engine, by the firmware. Raises DeviceFault."""
    device.wait(device.submit(command=mailbox.COMMANDS["SELFTEST"], config_hash=device.config_hash, watchdog=1 << 20))
    return {"passed": True}


def run_exercise(device, config, seed):
    """One random program over all instructions against the model's result."""
    from litediffusion.sw.devices.exercise import END, REGISTERS, SCRATCH, make_exercise
    from litediffusion.sw.devices.model import ModelDevice

    exercise, model = make_exercise(config, seed, instructions=150), ModelDevice(config)
    for each in (device, model):
        each.write(0, exercise.data)
        each.run_program(0, exercise.length, **REGISTERS)
    first, size = SCRATCH * config.word_bytes, (END - SCRATCH) * config.word_bytes
    got, want = device.read(first, size), model.read(first, size)
    wrong = sum(a != b for a, b in zip(got, want))
    return {"passed": not wrong, "bytes_compared": size, "bytes_different": wrong}


def performance_layers(config):
    """The benchmark's layers that a device with this configuration runs."""
    from litediffusion.sw.cli.bench import LAYERS

    layers = LAYERS[:PERFORMANCE_LAYERS]
    return [layer.on(FEW_PIXELS) if layer.size ** 2 * layer.part > config.acc_words * config.n_lanes else layer for layer in layers]


def run_performance(device, config, layer, clock_hz):
    """One layer of the benchmark, its output compared with the model's: cycles, and GMAC/s at the SoC's clock."""
    from litediffusion.sw.cli.bench import run_layer

    found = run_layer(device, layer, config)
    row = {"passed": True, **{name: found[name] for name in ("cycles", "macs", "utilisation")}}
    if clock_hz:
        row |= {"microseconds": found["cycles"] / clock_hz * 1e6, "gmacs": found["macs"] * clock_hz / found["cycles"] / 1e9}
    return row


def examine(device, config, programs, seed, memory, bar):
    """The report's part that comes from the device. Raises ConnectionLost; any other failure is part of the report."""
    from litediffusion.sw.devices.examine import MemoryTest, identity, measured_clock

    report, soc = {}, hasattr(device, "submit")
    if soc:
        bar(0, 1, "identity")
        report["soc"] = identity(device)
        report["soc"]["measured_clock_hz"] = round(measured_clock(device))
        if memory:
            report["memory"] = MemoryTest(device, memory, seed).run(lambda done, total: bar(done, total, "memory"))
        report["firmware"] = attempt(lambda: firmware_selftest(device))
    report["programs"] = []
    for i in range(programs):
        bar(i, programs, "programs")
        report["programs"].append(attempt(lambda: run_exercise(device, config, seed + i), seed=seed + i))
    clock = report["soc"]["clock_hz"] if soc else None
    bar(0, 1, "performance")
    report["performance"] = [attempt(lambda: run_performance(device, config, layer, clock), name=layer.name)
                             for layer in performance_layers(config)]
    bar(1, 1, "done")
    return report


def passed(report):
    """Whether no part of a report failed."""
    parts = [report[name] for name in ("memory", "firmware") if name in report] + report["programs"] + report["performance"]
    return all(part["passed"] for part in parts)


def show(report):
    """The report in a few lines."""
    lines = [f"{report['device']}, configuration {report['configuration']}"]
    if "soc" in report:
        soc = report["soc"]
        lines.append(f"SoC '{soc['identifier']}' on {soc['platform']}, {soc['clock_hz'] / 1e6:.0f} MHz "
                     f"(measured {soc['measured_clock_hz'] / 1e6:.2f}), {soc['dram_bytes'] >> 20} MiB")
    if "memory" in report:
        memory = report["memory"]
        lines.append(f"memory: {memory['words_wrong']} of {memory['words_tested']} words wrong {memory['first_errors'] or ''}")
    if "firmware" in report:
        lines.append("firmware's test: " + ("passed" if report["firmware"]["passed"] else report["firmware"]["error"]))
    wrong = [row for row in report["programs"] if not row["passed"]]
    if report["programs"]:
        lines.append(f"{len(report['programs'])} random programs: " + (f"wrong: {wrong}" if wrong else "all results equal the model's"))
    for row in report["performance"]:
        rate = f", {row['gmacs']:.2f} GMAC/s" if "gmacs" in row else ""
        lines.append(row["name"] + ": " + (f"{row['cycles']:,} cycles, {100 * row['utilisation']:.1f} % of peak{rate}"
                                           if row["passed"] else row["error"]))
    console.print("\n".join(lines), markup=False, highlight=False)
    console.print("[bold green]passed[/]" if report["passed"] else "[bold red]failed[/]")


def selftest(device: DeviceName = "rtl", programs: Annotated[int, typer.Option(min=0, help="random programs to compare")] = 2,
             seed: Annotated[int, typer.Option(help="seed of the first one")] = 1,
             memory: Annotated[int, typer.Option(min=0, help="bytes of the memory test through the link (litex only)")] = MEMORY_BYTES,
             output: Annotated[Optional[Path], typer.Option("-o", "--output", help="also write the JSON report to this file")] = None,
             csr: Csr = None, json: Annotated[bool, typer.Option("--json", help="print the JSON report")] = False):
    """Test a device: memory, the firmware's own test, random programs against the model, speed; a report to send."""
    with friendly_errors(), opened(device, csr) as dev, progress_bar("selftest") as bar:
        if output is not None:
            make_folder(output)
        if device == "model":
            raise ValueError("the model device is what devices are compared with; test rtl or litex://HOST:PORT")
        config = next((c for c in PRESETS.values() if c.hash == dev.config_hash), None)
        if config is None:
            raise ValueError(f"the device has configuration {dev.config_hash:08x}, which is no preset of this version: "
                             f"{ {name: f'{c.hash:08x}' for name, c in PRESETS.items()} }")
        found = examine(dev, config, programs, seed, memory, bar)
    report = {"device": device, "passed": passed(found), "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
              "configuration": config.name, "configuration_hash": f"{config.hash:08x}", **found,
              "host": {"system": platform.platform(), "python": platform.python_version(),
                       "versions": {p: version(p) for p in REPORTED_PACKAGES}}}
    if output is not None:
        output.write_text(jsonlib.dumps(report, indent=2) + "\n")
    if json:
        print_json(report)
    else:
        show(report)
    raise typer.Exit(0 if report["passed"] else 1)


def register(app):
    app.command()(selftest)
