"""check and compile."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from litediffusion.sw.cli.common import console, friendly_errors, make_folder, print_json, progress_bar

Model = Annotated[str, typer.Argument(help="'digits' (packaged) or 'package.module:function' that returns a ModelSource")]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="sampler steps; the program's tables are made for them")]
STEPS = 20
Bits = Annotated[int, typer.Option(help="weights of the inner layers: 8 or 4")]
Weights = Annotated[Optional[Path], typer.Option(help="safetensors file instead of the packaged weights")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def check(model: Model = "digits", steps: Steps = STEPS, bits: Bits = 8, weights: Weights = None, json: Json = False):
    """Say what would run: layers, MACs, weights; name what cannot. Builds nothing."""
    with friendly_errors():
        from litediffusion.cores.config import PRESETS
        from litediffusion.sw.compiler.compile import compile_graph
        from litediffusion.sw.graph import macs
        from litediffusion.sw.pipeline import import_model, load_model

        source = load_model(model, weights)
        graph, table = import_model(source, steps)
        program = compile_graph(graph, PRESETS["ecpix5"], table, {name: [1.0] * steps for name in graph.nodes}, bits=bits,
                                null_label=source.null_label, labels=source.labels)
        work = macs(graph)
        report = {"model": source.name, "runs": True, "shape": list(source.shape), "macs": sum(work.values()),
                  "parameters": sum(n.attrs["weight"].size for n in graph.nodes.values() if n.op == "conv"),
                  "image_bytes": program.meta["image_bytes"], "descriptors": program.meta["programs"]["eval"][1],
                  "layers": [{"name": n.name, "op": n.op, "path": n.path, "shape": list(n.shape), "macs": work.get(n.name, 0)}
                             for n in graph.nodes.values()]}
    if json:
        return print_json(report)
    for layer in report["layers"]:
        typer.echo(f"{layer['name']:<22} {layer['op']:<12} {str(tuple(layer['shape'])):<16} {layer['macs']:>10,} MACs")
    typer.echo(f"{source.name}: every layer runs; {report['macs']:,} MACs an evaluation, {report['parameters']:,} weights, "
               f"{report['image_bytes']:,} bytes of DRAM")


def compile(model: Model = "digits", output: Annotated[Path, typer.Option("-o", "--output", help=".ldp file")] = Path("model.ldp"),
            steps: Steps = STEPS, sampler: Annotated[str, typer.Option(help="ddim or ddpm")] = "ddim",
            eta: Annotated[float, typer.Option(min=0.0, max=1.0, help="DDIM's eta: 0 deterministic, 1 as noisy as DDPM")] = 0.0,
            guidance: Annotated[float, typer.Option(help="guidance scale of the calibration, and the default of generate")] = 2.0,
            bits: Bits = 8, static: Annotated[bool, typer.Option(help="one scale for all steps instead of one a step")] = False,
            images: Annotated[int, typer.Option(min=1, help="pictures of the calibration")] = 16,
            seed: Annotated[int, typer.Option(help="seed of the calibration")] = 1, weights: Weights = None, json: Json = False):
    """Quantise and compile a model into a .ldp file."""
    with friendly_errors(), progress_bar("calibrate") as update:
        from litediffusion.sw.pipeline import check_guidance, compile_model, load_model

        make_folder(output)
        check_guidance(guidance)

        program = compile_model(load_model(model, weights), steps=steps, sampler=sampler, eta=eta, guidance=guidance, bits=bits,
                                per_step=not static, images=images, seed=seed, progress=update)
        program.save(output)
    if json:
        return print_json({"output": str(output), "bytes": output.stat().st_size, **{k: v for k, v in program.meta.items()}})
    console.print(f"{output}: {output.stat().st_size:,} bytes, {steps} steps of {sampler}, W{bits}A8, "
                  f"{program.meta['programs']['eval'][1]} instructions an evaluation")


def register(app):
    app.command()(check)
    app.command()(compile)
