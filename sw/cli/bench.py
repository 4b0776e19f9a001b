"""bench: the speed figures, by the hardware's cycle counters on the simulated SoC."""

from dataclasses import dataclass, replace
import json as jsonlib
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from litediffusion.sw.cli.common import console, friendly_errors, make_folder, preset_config, progress_bar


@dataclass(frozen=True)
class LayerBench:
    """A layer, DRAM to DRAM, and the share of peak that it must reach (the matrix product moves more bytes than
    it multiplies words: DRAM limits it to 93 % at best)."""
    name: str
    outputs: int
    inputs: int
    kernel: int
    size: int
    part: int
    bits: int
    target: float

    def on(self, size):
        """The same layer on another number of pixels."""
        return replace(self, size=size, name=self.name.replace(f"@{self.size}x{self.size}", f"@{size}x{size}"))

    @property
    def macs(self):
        return self.outputs * self.inputs * self.kernel ** 2 * self.size ** 2


LAYERS = [
    LayerBench("conv 3x3 64->64 @16x16 W8A8", 64, 64, 3, 16, 32, 8, 0.85),
    LayerBench("conv 3x3 64->64 @16x16 W4A8", 64, 64, 3, 16, 32, 4, 0.75),
    LayerBench("matmul 64x1024 . 1024x64 W8A8", 64, 1024, 1, 8, 128, 8, 0.65),
]
STEP_TARGET, CPU_LIMIT = 0.60, 0.02


def compile_bench(bench, config, seed=0):
    """(image with a random input, program, output offset and bytes)."""
    from litediffusion.sw.compiler.layer_program import compile_layer

    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((bench.outputs, bench.inputs, bench.kernel, bench.kernel)) / np.sqrt(bench.inputs * bench.kernel ** 2)
    image, program, x_at, y_at, shape = compile_layer(config, weight, None, (bench.inputs, bench.size, bench.size), bits=bench.bits,
                                                      part=bench.part, pad=bench.kernel // 2, s_x=1 / 40, s_out=1 / 30)
    count = bench.inputs * bench.size ** 2
    image[x_at:x_at + count] = np.clip(np.round(rng.standard_normal(count) * 40), -128, 127).astype(np.int8).view(np.uint8)
    return image, program, y_at, int(np.prod(shape))


def run_layer(device, bench, config):
    """Figures of one layer; raises ValueError if its output differs from the model's."""
    from litediffusion.cores.machine import Machine

    image, program, y_at, size = compile_bench(bench, config)
    golden = Machine(config, image.copy())
    golden.run(*program)
    device.write(0, image.tobytes())
    counters = device.run_program(*program)
    if device.read(y_at, size) != golden.dram[0, y_at:y_at + size].tobytes():
        raise ValueError(f"{bench.name}: the output differs from the numpy model's")
    peak = config.peak_macs * (2 if bench.bits == 4 else 1)
    return {"name": bench.name, "cycles": counters["cycles"], "macs": bench.macs, "peak_macs_a_cycle": peak,
            "utilisation": bench.macs / peak / counters["cycles"], "target": bench.target,
            "dram_bytes": 16 * (counters["dram_reads"] + counters["dram_writes"])}


def run_step(device, program, rtl_program_step=0):
    """Share of the roofline of one network evaluation, on a device with traces."""
    from litediffusion.sw.cli.profile import measure

    totals = measure(device, program, rtl_program_step)[3]
    return dict(totals, name=f"network evaluation, {program.meta['name']} W{program.meta['bits']}A8", target=STEP_TARGET)


def run_image(device, program):
    """Cycles of one picture with the firmware's loop, and the CPU's share of them."""
    from litediffusion.sw.pipeline import generate

    counters = generate(device, program, [3], [1]).counters
    return {"name": f"picture, {program.meta['steps']} steps with guidance", "total_cycles": counters["total_cycles"],
            "engine_cycles": counters["engine_cycles"], "cpu_share": 1 - counters["engine_cycles"] / counters["total_cycles"],
            "limit": CPU_LIMIT}


def misses(report):
    """Names of the rows that do not reach what is asked."""
    out = [row["name"] for row in report["layers"] if row["utilisation"] < row["target"]]
    out += [row["name"] for row in report["steps"] if row["roofline_share"] < row["target"]]
    return out + ([report["image"]["name"]] if report["image"]["cpu_share"] > report["image"]["limit"] else [])


def show(report):
    table = Table(title="cycles on the simulated SoC (ECPIX-5 memory and engine)")
    for name in ("what", "cycles", "reached", "asked"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for row in report["layers"]:
        table.add_row(row["name"], f"{row['cycles']:,}", f"{100 * row['utilisation']:.1f} % of peak", f"{100 * row['target']:.0f} %")
    for row in report["steps"]:
        table.add_row(row["name"], f"{row['cycles']:,}", f"{100 * row['roofline_share']:.1f} % of roofline, "
                      f"{100 * row['utilisation']:.1f} % of peak", f"{100 * row['target']:.0f} %")
    image = report["image"]
    table.add_row(image["name"], f"{image['total_cycles']:,}", f"CPU {100 * image['cpu_share']:.2f} %", f"< {100 * image['limit']:.0f} %")
    console.print(table)


def bench(output: Annotated[Path, typer.Option("-o", "--output", help="JSON file")] = Path("bench.json"),
          preset: Annotated[str, typer.Option(help="engine configuration")] = "ecpix5",
          steps: Annotated[int, typer.Option(min=1, help="sampler steps of the picture")] = 20,
          json: Annotated[bool, typer.Option("--json", help="print JSON")] = False):
    """Measure layers, one network evaluation and the CPU's share on the SoC in Verilator."""
    from litediffusion.sw.devices.open import open_device
    from litediffusion.sw.pipeline import compile_model, upload
    from litediffusion.sw.sources import load_model
    from litediffusion.targets.sim import SimServer

    with friendly_errors(), progress_bar("calibrate") as bar:
        make_folder(output)
        config = preset_config(preset)
        source = load_model("digits")
        program = compile_model(source, steps=steps, images=4, config=config, progress=bar)
        bar(0, 1, "start the simulation")
        with SimServer(preset=preset) as server:
            device = open_device(server.url, csr_csv=server.csr_csv)
            layers = []
            for i, layer in enumerate(LAYERS):
                bar(i, len(LAYERS), layer.name)
                layers.append(run_layer(device, layer, config))
            upload(device, program, lambda done, total: bar(done, total, "upload"))
            report = {"layers": layers, "steps": [run_step(device, program)], "image": run_image(device, program)}
            device.close()
    output.write_text(jsonlib.dumps(report, indent=2))
    if json:
        typer.echo(output.read_text())
    else:
        show(report)
    missed = misses(report)
    if missed:
        console.print(f"[bold red]missed:[/] {', '.join(missed)}")
        raise typer.Exit(1)


def register(app):
    app.command()(bench)
