"""report: signal to quantisation noise of a compiled model, layer by layer and at its output."""

from typing import Annotated, Optional

import typer
from rich.table import Table

from litediffusion.sw.cli.build import WINDOW, Bits, Json, Model, NullLabel, Size, Steps, Texts, Weights, Window
from litediffusion.sw.cli.common import console, friendly_errors, print_json, progress_bar


def measure(source, steps, bits, budget, images, window, bar):
    """(rows of layer_noise, steps looked at, Program): first, middle and last step, on a picture of the calibration."""
    from litediffusion.cores.config import PRESETS
    from litediffusion.sw.calibrate import calibrate
    from litediffusion.sw.layer_noise import layer_noise
    from litediffusion.sw.pipeline import compile_model, import_decoder, import_model

    imported = (*import_model(source, steps), import_decoder(source))
    program = compile_model(source, steps=steps, bits=bits, budget=budget, images=images, progress=bar, tiled=True, window_size=window << 20,
                            imported=imported)
    # Labels as the calibration draws them, so that the first picture's is 0; fresh noise.
    states, looked = [], sorted({0, steps // 2, steps - 1})
    calibrate(imported[0], imported[1], range(source.labels), source.null_label, 1.0, 1, 2, states=states)
    return layer_noise(program, PRESETS["ecpix5"], imported[0], [(step, states[step][0]) for step in looked]), looked, program


def report(model: Model = "digits", steps: Steps = 20, bits: Bits = 8,
           budget: Annotated[Optional[float], typer.Option(help="as for compile")] = None,
           images: Annotated[int, typer.Option(min=1, help="pictures of the calibration")] = 16, weights: Weights = None, size: Size = None,
           null_label: NullLabel = None, texts: Texts = None, window: Window = WINDOW, json: Json = False):
    """Signal to quantisation noise in dB, layer by layer and end to end, at the first, middle and last step."""
    with friendly_errors(), progress_bar("calibrate") as bar:
        from litediffusion.sw.sources import load_model

        rows, looked, program = measure(load_model(model, weights, size, null_label, texts), steps, bits, budget, images, window, bar)
    if json:
        return print_json({"model": program.meta["name"], "bits": program.meta["bits"], "steps": looked, "layers": rows})
    table = Table("layer", "kind", *(f"step {step}" for step in looked), title=f"{program.meta['name']}, W{program.meta['bits']}A8, dB")
    for row in rows:
        table.add_row(row["path"] or row["name"], row["op"], *("-" if v is None else f"{v:.1f}" for v in row["sqnr_db"]),
                      style="bold" if row["name"] == "output" else None)
    console.print(table)


def register(app):
    app.command()(report)
