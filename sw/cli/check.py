"""check and estimate: what a model would need on a board, from its program, without building or running anything."""

from typing import Annotated, Optional

import typer

from litediffusion.sw.cli.build import STEPS, WINDOW, Bits, Json, Model, Narrow, NullLabel, Size, Steps, Texts, Weights, Window
from litediffusion.sw.cli.common import friendly_errors, load_program, print_json

TargetName = Annotated[str, typer.Option(help="board, by the name of its target")]
Guided = Annotated[Optional[float], typer.Option(help="guidance scale; not 1: two evaluations a step (default: the model's)")]


def looked_at(source, steps, bits, guidance, window, config, narrow=False):
    """(Program, graph, decoder) of a source with all ranges 1."""
    from litediffusion.sw.calibrate import unit_ranges
    from litediffusion.sw.pipeline import compile_model, import_decoder, import_model

    graph, table = import_model(source, steps)
    decoder = import_decoder(source)
    ranges = unit_ranges(graph, steps) | (unit_ranges(decoder, 1) if decoder else {})
    program = compile_model(source, steps=steps, bits=bits, guidance=guidance, ranges=ranges, window_size=window << 20, config=config,
                            imported=(graph, table, decoder), wide=not narrow)
    return program, graph, decoder


def layer_rows(graph, decoder, report):
    """A dict for every node of the network and its decoder: what it is, its MACs, weights, cycles and DRAM bytes on the target."""
    costs = {layer["name"]: layer for part in ("eval", "finish") for layer in report["parts"][part]["layers"]}
    rows = []
    for node in [*graph.nodes.values(), *(decoder.nodes.values() if decoder else ())]:
        cost = costs.get(node.name, {})
        weights = node.attrs["weight"].size if node.op == "conv" else 0
        rows.append({"name": node.name, "op": node.op, "path": node.path, "shape": list(node.shape), "weights": weights,
                     "macs": cost.get("macs", 0), "cycles": cost.get("cycles", 0), "dram_bytes": cost.get("dram_bytes", 0)})
    return rows


def check(model: Model = "digits", steps: Steps = STEPS, bits: Bits = 8, weights: Weights = None, size: Size = None, texts: Texts = None,
          null_label: NullLabel = None, target: TargetName = "ecpix5", window: Window = WINDOW, narrow: Narrow = False, json: Json = False):
    """Say what would run on a board: layers, MACs, weights, memory and predicted time; name what cannot. Builds nothing."""
    with friendly_errors():
        from litediffusion.sw.estimate import picture_cost, target_of
        from litediffusion.sw.sources import load_model

        source, board = load_model(model, weights, size, null_label, texts), target_of(target)
        program, graph, decoder = looked_at(source, steps, bits, None, window, board.config, narrow)
        cost = picture_cost(program, board)
        layers = layer_rows(graph, decoder, cost)
        report = {"model": source.name, "runs": True, "shape": list(source.shape), "macs": sum(cost_of["macs"] for cost_of in layers),
                  "parameters": sum(layer["weights"] for layer in layers), "image_bytes": program.meta["image_bytes"],
                  "descriptors": program.meta["programs"]["eval"][1], "target": target, "fits": cost["fits"],
                  "step_seconds": cost["step"]["seconds"], "picture_seconds": cost["picture"]["seconds"], "layers": layers}
    if json:
        return print_json(report)
    for layer in layers:
        typer.echo(f"{layer['name']:<44} {layer['op']:<12} {str(tuple(layer['shape'])):<16} {layer['macs']:>14,} MACs {layer['cycles']:>12,} cycles")
    typer.echo(f"{source.name}: every layer runs; {report['macs']:,} MACs an evaluation, {report['parameters']:,} weights, "
               f"{report['image_bytes']:,} bytes of DRAM{'' if cost['fits'] else ' (more than the board has)'}; on {target} at {board.clock / 1e6:g} MHz "
               f"{report['step_seconds']:.3g} s a step, {report['picture_seconds']:.3g} s a picture of {steps} steps")


def estimate(model: Model = "digits", target: TargetName = "ecpix5", steps: Steps = STEPS, bits: Bits = 8, guidance: Guided = None,
             weights: Weights = None, size: Size = None, texts: Texts = None, null_label: NullLabel = None, window: Window = WINDOW,
             narrow: Narrow = False, json: Json = False):
    """Predict cycles, DRAM bytes, time and energy of a step and a picture on a board, from the program alone. MODEL may be a .ldp file."""
    with friendly_errors():
        from litediffusion.sw.estimate import picture_cost, target_of
        from litediffusion.sw.sources import load_model

        board = target_of(target)
        if model.endswith(".ldp"):
            program = load_program(model)
        else:
            program = looked_at(load_model(model, weights, size, null_label, texts), steps, bits, guidance, window, board.config, narrow)[0]
        report = picture_cost(program, board)
    if json:
        return print_json(report)
    typer.echo(f"{program.meta['name']} on {target}, {board.config.peak_macs} MACs a cycle at {report['clock_mhz']:g} MHz, "
               f"{report['needs_bytes']:,} of {report['memory_bytes']:,} bytes of DRAM{'' if report['fits'] else ': it does not fit'}")
    for name in ("step", "picture"):
        row = report[name]
        typer.echo(f"{name + ('' if name == 'step' else ' of ' + str(report['steps']) + ' steps'):<22} {row['cycles']:>16,} cycles {row['seconds']:>10.4g} s "
                   f"{row['dram_bytes']:>16,} DRAM bytes {row['millijoule']:>10.4g} mJ (45 nm, see sw/estimate.py)")
    busy = report["parts"]["eval"]["busy"]
    typer.echo(f"evaluation: {100 * report['utilisation']:.1f} % of the array's peak; "
               + ", ".join(f"{queue} works {100 * share:.0f} %" for queue, share in busy.items()))


def register(app):
    app.command()(check)
    app.command()(estimate)
