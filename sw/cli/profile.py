"""profile."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from litediffusion.cores.config import PRESETS
from litediffusion.sw.cli.common import console, friendly_errors, load_program, make_folder, opened, print_json
from litediffusion.sw.cli.generate import Csr, DeviceName
from litediffusion.sw.cli.inspect_program import descriptors

TABLE_WIDTH = 150


def measure(device, program, step=0, label=0, seed=0):
    """(layers, records, instructions, totals, counters) of one network evaluation of an uploaded program."""
    from litediffusion.sw import profiling

    meta = program.meta
    instructions = descriptors(program, "eval")
    device.run_program(*meta["programs"]["init"], step=meta["steps"], seed=seed)
    counters, records = profiling.run_traced(device, instructions, *meta["programs"]["eval"], meta["image_bytes"], step=step, label=label)
    config = PRESETS[meta["config"]]
    layers = profiling.profile_layers(instructions, records, meta["layers"], meta["macs"], config)
    return layers, records, instructions, profiling.summary(layers, counters["cycles"]), counters


def show(layers, totals):
    wide = Console(stderr=True, width=max(console.width, TABLE_WIDTH))
    table = Table(title=f"{totals['cycles']:,} cycles, {100 * totals['utilisation']:.1f} % of peak, "
                        f"{100 * totals['roofline_share']:.1f} % of the roofline")
    for name in ("layer", "cycles", "MACs", "array", "roofline", "DRAM bytes", "GEMM waits", "POST waits", "LOAD waits", "STORE waits"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for s in layers:
        waits = [f"{s.wait_token[q]:,} / {s.wait_dram[q]:,}" for q in ("GEMM", "POST", "LOAD", "STORE")]
        table.add_row(s.name, f"{s.cycles:,}", f"{s.macs:,}", f"{100 * s.utilisation:.0f} %", f"{100 * s.roofline_share:.0f} %",
                      f"{s.dram_bytes:,}", *waits)
    wide.print(table)
    console.print("cycles: by how much the layer moved the end of the program (more than 100 % of a roofline: hidden behind its "
                  "neighbours); waits: cycles waiting for a token / stalled on memory")


def profile(program: Annotated[Path, typer.Argument(help=".ldp file")], device: DeviceName = "rtl",
            step: Annotated[int, typer.Option(min=0, help="sampler step to profile")] = 0,
            output: Annotated[Path, typer.Option("-o", "--output", help="PNG picture")] = Path("profile.png"),
            csr: Csr = None, json: Annotated[bool, typer.Option("--json", help="print JSON")] = False):
    """Measure one network evaluation layer by layer with the hardware's counters, and draw it."""
    from litediffusion.sw import profiling
    from litediffusion.sw.pipeline import upload

    with friendly_errors():
        if device == "model":
            raise ValueError("the model device has no cycles; profile on rtl or litex://HOST:PORT")
        loaded = load_program(program)
    with friendly_errors(), opened(device, csr, loaded) as dev:
        if step >= loaded.meta["steps"]:
            raise ValueError(f"step {step}: the program has steps 0..{loaded.meta['steps'] - 1}")
        make_folder(output)
        upload(dev, loaded)
        layers, records, instructions, totals, counters = measure(dev, loaded, step)
        profiling.draw(layers, records, instructions, totals, output, loaded.meta["name"])
    if json:
        return print_json({"totals": totals, "counters": counters, "picture": str(output),
                           "layers": [profiling.as_json(s) for s in layers]})
    show(layers, totals)
    console.print(f"picture: {output}")


def register(app):
    app.command()(profile)
