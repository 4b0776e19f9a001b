"""network: cycles of a whole network's evaluation, from its layers on the simulated engine of each board."""

from dataclasses import replace
import json as jsonlib
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.table import Table

from litediffusion.sw.cli.common import console, friendly_errors, make_folder, preset_config, progress_bar
from litediffusion.sw.picture_time import BOARD_MEMORY

DEFAULT_BOARDS = ["ecpix5", "ulx3s", "colorlight_i9"]


def board_engine(board, preset):
    """EngineConfig whose simulation takes the cycles of the board's engine: same sizes, portable multipliers."""
    from litediffusion.targets.synthesis import soc_class       # brings LiteX: not when the command line starts

    if board not in BOARD_MEMORY:
        raise ValueError(f"board {board!r}: its memory is not known here; known: {sorted(BOARD_MEMORY)}")
    config = replace(preset_config(preset), **soc_class(board).ENGINE)
    # One fast array or two slow ones, where a lane takes whole rows of a tile, and whichever multipliers: the same cycles. The
    # name keeps the builds apart.
    return replace(config, array_clock=1 if config.tile_passes == 1 else 2, primitives="", lut_multipliers=False,
                   name=f"{config.name}_{config.gemm_words}w{config.gemm_cycles}c{config.post_lanes}p", dram_bytes=config.word_bytes // BOARD_MEMORY[board].word_cycles)


def engines(boards):
    """{(EngineConfig, cycles a word): [boards]} of {board: preset}: boards that are alike are measured once."""
    out = {}
    for board, preset in boards.items():
        out.setdefault((board_engine(board, preset), BOARD_MEMORY[board].word_cycles), []).append(board)
    return out


def boards_of(reports):
    """{board: preset} of report.json files; without any, the boards that are usual."""
    from litediffusion.targets.synthesis import soc_class       # brings LiteX: not when the command line starts

    if not reports:
        return {board: soc_class(board).PRESET for board in DEFAULT_BOARDS}
    data = [jsonlib.loads(path.read_text()) for path in reports]
    return {report["board"]: report["engine"] for report in data}


def measure(name, boards, widths, progress, keep):
    """Run all; ``keep(report)`` after each run, so that those done are not lost when a later one is interrupted."""
    from litediffusion.sw.ddpm_unet import NETWORKS, layer_table
    from litediffusion.sw.devices.rtl import RtlDevice
    from litediffusion.sw.network_cost import network_figures

    table, runs = layer_table(name), []
    title, size, _ = NETWORKS[name]
    for (config, word_cycles), here in engines(boards).items():
        device = RtlDevice(config, word_cycles=word_cycles)
        for bits in widths:
            figures = network_figures(device, config, table, size, bits,
                                      lambda done, total, text: progress(done, total, f"{here[0]} W{bits}A8: {text}"))
            runs.append({"boards": here, "word_cycles": word_cycles, "macs_a_cycle": config.peak_macs,
                         "post_lanes": config.post_lanes, **figures})
            keep({"network": title, "runs": runs})
        device.close()
    return {"network": title, "runs": runs}


def show(report):
    figures = lambda row: (f"{row['cycles']:,}", f"{100 * row['utilisation']:.1f} %", f"{row['dram_bytes']:,}")
    for run in report["runs"]:
        table = Table(title=f"{report['network']} W{run['bits']}A8 on {', '.join(run['boards'])}: {run['macs_a_cycle']} MACs a cycle "
                            f"at 8 bits, a DRAM word in {run['word_cycles']} cycles")
        for name in ("layer", "times", "cycles", "of peak", "DRAM bytes"):
            table.add_column(name, justify="left" if name == "layer" else "right")
        for row in run["layers"]:
            if row["cycles"]:
                table.add_row(row["name"], str(row["count"]), *figures(row))
        table.add_row("one evaluation", "", *figures(run), style="bold")
        console.print(table)


def network(name: Annotated[str, typer.Argument(help="cifar10")] = "cifar10",
            reports: Annotated[Optional[list[Path]], typer.Argument(help="report.json of boards; none: the usual boards")] = None,
            output: Annotated[Path, typer.Option("-o", "--output", help="JSON file")] = Path("network.json"),
            bits: Annotated[Optional[list[int]], typer.Option(help="bits of the inner layers' weights; may be repeated")] = None,
            json: Annotated[bool, typer.Option("--json", help="print JSON")] = False):
    """Cycles of a network's evaluation: every distinct layer in Verilator with each board's engine and DRAM speed."""
    from litediffusion.sw.compiler.compile import check_bits

    with friendly_errors(), progress_bar("build") as bar:
        make_folder(output)
        widths = bits or [8, 4]
        for width in widths:
            check_bits(width)
        report = measure(name, boards_of(reports), widths, bar,
                         lambda report: output.write_text(jsonlib.dumps(report, indent=1) + "\n"))
    if json:
        typer.echo(output.read_text())
    else:
        show(report)


def register(app):
    app.command()(network)
