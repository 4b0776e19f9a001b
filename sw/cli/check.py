"""check and estimate: what a model would need on a board, from its program, without building or running anything."""

from typing import Annotated, Optional

import typer

from litediffusion.sw.cli.build import STEPS, WINDOW, Bits, Json, Model, Narrow, NullLabel, Sampler, Size, Steps, Texts, Weights, Window
from litediffusion.sw.cli.common import friendly_errors, load_program, print_json

TargetName = Annotated[str, typer.Option(help="board, by the name of its target")]
MOST_PATHS = 4           # of what was not looked at for one reason, in the text
Guided = Annotated[Optional[float], typer.Option(help="guidance scale; not 1: two evaluations a step (default: the model's)")]


def looked_at(source, steps, sampler, bits, guidance, window, target, narrow=False, imported=None):
    """(report of picture_cost, graph, decoder) of a source on a Target, with all ranges 1; imported : (graph, sampler table, decoder), if that
    has been done."""
    from litediffusion.cores import isa
    from litediffusion.sw.calibrate import unit_ranges
    from litediffusion.sw.compiler.items import TooLong
    from litediffusion.sw.estimate import picture_cost
    from litediffusion.sw.outline import outline
    from litediffusion.sw.pipeline import chosen_bits, compile_model, import_decoder, import_model

    graph, table, decoder = imported or (*import_model(source, steps, sampler), import_decoder(source))
    ranges = unit_ranges(graph, steps) | (unit_ranges(decoder, 1) if decoder else {})
    try:
        program = compile_model(source, steps=steps, bits=bits, guidance=guidance, ranges=ranges, window_size=window << 20, config=target.config,
                                imported=(graph, table, decoder), most=isa.MOST_DESCRIPTORS, wide=not narrow)
        report = picture_cost(program, target)
    except TooLong:
        four = chosen_bits(graph, decoder, bits, None, [], [], None)
        report = outline(graph, table, target, ranges, bits=four, guidance=source.guidance if guidance is None else guidance, decoder=decoder,
                         wide=not narrow)
    return report, graph, decoder


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


def cost_or_problems(found, problems, steps, bits, window, target, narrow):
    """(report of picture_cost, layers that cannot be lowered) of a survey.Imported; one of the two is empty. Adds to Problems."""
    from litediffusion.sw.compiler.compile import check_bits
    from litediffusion.sw.compiler.items import CompileError
    from litediffusion.sw.survey import lowering_problems

    check_bits(bits)
    failure = None
    if not problems:
        try:
            imported = found.graph, found.table, found.decoder
            return looked_at(found.source, steps, None, bits, None, window, target, narrow, imported)[0], set()
        except CompileError as error:
            failure = error
    reasons, broken = lowering_problems(found, target, bits, not narrow)
    for problem in reasons:
        problems.add(problem)
    if not problems:
        raise failure           # of the program as a whole
    return None, broken


def runnable_rows(found, broken):
    """A dict for every node that can run: what it is, its MACs and weights."""
    from litediffusion.sw.graph import macs

    rows = []
    for graph in filter(None, (found.graph, found.decoder)):
        work = macs(graph)
        rows += [{"name": node.name, "op": node.op, "path": node.path, "shape": list(node.shape), "macs": work.get(node.name, 0),
                  "weights": node.attrs["weight"].size if node.op == "conv" else 0}
                 for node in graph.nodes.values() if node.op != "stand_in" and not node.attrs.get("stand_in") and node.name not in broken]
    return rows


def unseen_text(unseen):
    """Lines of what was not looked at, a line a reason."""
    reasons = {}
    for path, reason in unseen.items():
        reasons.setdefault(reason, []).append(path)
    for reason, paths in reasons.items():
        more = f" and {len(paths) - MOST_PATHS} more" if len(paths) > MOST_PATHS else ""
        yield f"not looked at: {', '.join(path or 'the top of the model' for path in paths[:MOST_PATHS])}{more}: {reason}"


def refused(name, found, problems, broken, target, json):
    """Print all that cannot run, after what can, and end with status 1: no time is predicted of a part of a network."""
    layers = runnable_rows(found, broken)
    if json:
        print_json({"model": name, "runs": False, "target": target, "unsupported": [vars(p) for p in problems.found],
                    "not_looked_at": [{"path": path, "reason": reason} for path, reason in problems.unseen.items()], "layers": layers})
        raise typer.Exit(1)
    for layer in layers:
        typer.echo(f"{layer['name']:<44} {layer['op']:<12} {str(tuple(layer['shape'])):<16} {layer['macs']:>14,} MACs")
    for problem in problems.found:
        remedy = f"; to do: {problem.remedy}" if problem.remedy else ""
        typer.echo(f"cannot run: {problem.path or 'the top of the model'}: {problem.operator}: {problem.reason}{remedy}")
    for line in unseen_text(problems.unseen):
        typer.echo(line)
    typer.echo(f"{name}: on {target} {len(layers)} layers can run; cannot run: {len(problems.found)}, not looked at: {len(problems.unseen)}. "
               "Memory and time are predicted only of a network that runs as a whole")
    raise typer.Exit(1)


def pieces_text(report):
    """How many descriptors an evaluation takes, and what follows from it."""
    from litediffusion.sw.compiler.assemble import LIMIT

    if report["descriptors"] > LIMIT:
        return f"{report['descriptors']:,} descriptors (it cannot be compiled: the compiler's limit is {LIMIT:,})"
    return f"{report['descriptors']:,} descriptors" + (f" in {report['programs']} programs" if report["programs"] > 1 else "")


def check(model: Model = "digits", steps: Steps = STEPS, sampler: Sampler = None, bits: Bits = 8, weights: Weights = None, size: Size = None, texts: Texts = None,
          null_label: NullLabel = None, target: TargetName = "ecpix5", window: Window = WINDOW, narrow: Narrow = False, json: Json = False):
    """Say what would run on a board: layers, MACs, weights, memory and predicted time; name what cannot. Builds nothing."""
    with friendly_errors():
        from litediffusion.sw.compiler.assemble import LIMIT
        from litediffusion.sw.estimate import target_of
        from litediffusion.sw.sources import load_model
        from litediffusion.sw.survey import import_all

        board = target_of(target)
        found, problems = import_all(lambda: load_model(model, weights, size, null_label, texts, look=True), steps, sampler)
        cost, broken = cost_or_problems(found, problems, steps, bits, window, board, narrow)
    if problems:
        return refused(found.source.name if found.source else model, found, problems, broken, target, json)
    source, graph, decoder = found.source, found.graph, found.decoder
    layers = layer_rows(graph, decoder, cost)
    report = {"model": source.name, "runs": cost["descriptors"] <= LIMIT, "shape": list(source.shape), "macs": sum(cost_of["macs"] for cost_of in layers),
              "parameters": sum(layer["weights"] for layer in layers), "image_bytes": cost["needs_bytes"],
              "descriptors": cost["descriptors"], "programs": cost["programs"], "target": target, "fits": cost["fits"],
              "step_seconds": cost["step"]["seconds"], "picture_seconds": cost["picture"]["seconds"], "layers": layers}
    if json:
        return print_json(report)
    for layer in layers:
        typer.echo(f"{layer['name']:<44} {layer['op']:<12} {str(tuple(layer['shape'])):<16} {layer['macs']:>14,} MACs {layer['cycles']:>12,} cycles")
    typer.echo(f"{source.name}: {'every layer runs' if report['runs'] else 'every layer can be run, but not all of them as a program'}; {report['macs']:,} MACs an evaluation, {report['parameters']:,} weights, "
               f"{report['image_bytes']:,} bytes of DRAM{'' if cost['fits'] else ' (more than the board has)'}, {pieces_text(cost)} an evaluation; on {target} at {board.clock / 1e6:g} MHz "
               f"{report['step_seconds']:.3g} s a step, {report['picture_seconds']:.3g} s a picture of {steps} steps")


def estimate(model: Model = "digits", target: TargetName = "ecpix5", steps: Steps = STEPS, sampler: Sampler = None, bits: Bits = 8, guidance: Guided = None,
             weights: Weights = None, size: Size = None, texts: Texts = None, null_label: NullLabel = None, window: Window = WINDOW,
             narrow: Narrow = False, json: Json = False):
    """Predict cycles, DRAM bytes, time and energy of a step and a picture on a board, from the program alone. MODEL may be a .ldp file."""
    with friendly_errors():
        from litediffusion.sw.estimate import picture_cost, target_of
        from litediffusion.sw.sources import load_model

        board = target_of(target)
        if model.endswith(".ldp"):
            program = load_program(model)
            name, report = program.meta["name"], picture_cost(program, board)
        else:
            source = load_model(model, weights, size, null_label, texts, look=True)
            name, report = source.name, looked_at(source, steps, sampler, bits, guidance, window, board, narrow)[0]
    if json:
        return print_json(report)
    typer.echo(f"{name} on {target}, {board.config.peak_macs} MACs a cycle at {report['clock_mhz']:g} MHz, "
               f"{report['needs_bytes']:,} of {report['memory_bytes']:,} bytes of DRAM{'' if report['fits'] else ': it does not fit'}")
    for name in ("step", "picture"):
        row = report[name]
        typer.echo(f"{name + ('' if name == 'step' else ' of ' + str(report['steps']) + ' steps'):<22} {row['cycles']:>16,} cycles {row['seconds']:>10.4g} s "
                   f"{row['dram_bytes']:>16,} DRAM bytes {row['millijoule']:>10.4g} mJ (45 nm, see sw/estimate.py)")
    busy = report["parts"]["eval"]["busy"]
    typer.echo(f"evaluation: {pieces_text(report)}; {100 * report['utilisation']:.1f} % of the array's peak; "
               + ", ".join(f"{queue} works {100 * share:.0f} %" for queue, share in busy.items()))


def register(app):
    app.command()(check)
    app.command()(estimate)
