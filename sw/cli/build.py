"""compile; and what it shares with check and estimate."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from litediffusion.soc.mailbox import MAX_BATCH
from litediffusion.soc.memory_map import WINDOW_SIZE
from litediffusion.sw.cli.common import console, friendly_errors, make_folder, print_json, progress_bar

Model = Annotated[str, typer.Argument(help="'digits', 'fashion' or 'wardrobe' (packaged), a folder of a diffusers model or pipeline, or "
                                      "'package.module:function' that returns a ModelSource")]
Texts = Annotated[Optional[Path], typer.Option(help=".npz of encoded texts for the calibration (folders of models that attend to texts)")]
Size = Annotated[Optional[int], typer.Option(min=8, help="height and width of the picture (folders; default: sample_size)")]
NullLabel = Annotated[Optional[int], typer.Option(min=0, help="label of no class, for folders of models trained with guidance")]
Window = Annotated[int, typer.Option(min=1, help="MiB of DRAM that the engine may use")]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="sampler steps; the program's tables are made for them")]
Sampler = Annotated[Optional[str], typer.Option(help="ddim, ddpm, euler, dpm++ or flow (default: that of the folder's scheduler, else ddim)")]
STEPS = 20
WINDOW = WINDOW_SIZE >> 20
Bits = Annotated[int, typer.Option(help="weights of the inner layers: 8 or 4")]
Weights = Annotated[Optional[Path], typer.Option(help="safetensors file instead of the packaged weights")]
Narrow = Annotated[bool, typer.Option("--narrow", help="8 bits also for what norms and sums read: faster, some dB more noise (networks with "
                                      "activations in DRAM)")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def compile(model: Model = "digits", output: Annotated[Path, typer.Option("-o", "--output", help=".ldp file")] = Path("model.ldp"),
            steps: Steps = STEPS,
            sampler: Sampler = None,
            eta: Annotated[float, typer.Option(min=0.0, max=1.0, help="DDIM's eta: 0 deterministic, 1 as noisy as DDPM")] = 0.0,
            guidance: Annotated[Optional[float], typer.Option(help="guidance scale of the calibration, and the default of generate "
                                                              "(default: 2, without a label of no class 1)")] = None,
            bits: Bits = 8, budget: Annotated[Optional[float], typer.Option(help="dB of signal over the error of 4-bit weights: as many layers get "
                                                                            "them as that allows (instead of --bits 4)")] = None, static: Annotated[bool, typer.Option(help="one scale for all steps instead of one a step")] = False,
            images: Annotated[int, typer.Option(min=1, help="pictures of the calibration")] = 16,
            seed: Annotated[int, typer.Option(help="seed of the calibration")] = 1, weights: Weights = None, size: Size = None,
            null_label: NullLabel = None, texts: Texts = None, window: Window = WINDOW, narrow: Narrow = False, batch: Annotated[int, typer.Option(min=1, help="pictures of a job at most")] = MAX_BATCH,
            json: Json = False):
    """Quantise and compile a model into a .ldp file."""
    with friendly_errors(), progress_bar("calibrate") as update:
        from litediffusion.sw.pipeline import check_guidance, compile_model
        from litediffusion.sw.sources import load_model

        make_folder(output)
        if guidance is not None:
            check_guidance(guidance)
        program = compile_model(load_model(model, weights, size, null_label, texts), steps=steps, sampler=sampler, eta=eta, guidance=guidance, bits=bits, budget=budget,
                                per_step=not static, images=images, seed=seed, progress=update, batch=batch, window_size=window << 20,
                                wide=not narrow)
        program.save(output)
    if json:
        return print_json({"output": str(output), "bytes": output.stat().st_size, **{k: v for k, v in program.meta.items()}})
    console.print(f"{output}: {output.stat().st_size:,} bytes, {steps} steps, W{program.meta['bits']}A8, "
                  f"{program.meta['programs']['eval'][1]} instructions an evaluation")


def register(app):
    app.command()(compile)
