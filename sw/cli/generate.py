"""generate, compare and devices."""

from pathlib import Path
import time
from typing import Annotated, List, Optional

import numpy as np
import typer

from litediffusion.sw.cli.common import console, friendly_errors, load_program, make_folder, opened, print_json, progress_bar, transfer_progress

ProgramFile = Annotated[Path, typer.Argument(help=".ldp file made by 'compile'")]
Labels = Annotated[Optional[List[int]], typer.Argument(help="labels of the pictures, one each (digits: 0..9)")]
Prompts = Annotated[Optional[List[str]], typer.Option("--prompt", help="text of a picture instead of a label; once for each picture")]
Texts = Annotated[Optional[Path], typer.Option(help=".npz of encoded texts instead of prompts (sw/README.md)")]
DeviceName = Annotated[str, typer.Option(help="model, rtl or litex://HOST:PORT[?udp=ADDRESS]")]
Csr = Annotated[Optional[Path], typer.Option(help="csr.csv of the SoC's build (litex devices)")]
Seed = Annotated[int, typer.Option(min=0, help="seed of the first picture; picture i takes seed + i")]
Guidance = Annotated[Optional[float], typer.Option(help="guidance scale (default: that of the compilation)")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def save_grid(pixels, path, zoom=6, columns=10):
    """PNG of pictures uint8 [B, C, H, W] side by side, enlarged; the first one (grey) or three channels are shown."""
    from PIL import Image

    b, c, h, w = pixels.shape
    columns = min(columns, b)
    rows = -(-b // columns)
    shown = 3 if c >= 3 else 1
    grid = np.zeros((rows * (h + 1) - 1, columns * (w + 1) - 1, shown), np.uint8)
    for i in range(b):
        y, x = (i // columns) * (h + 1), (i % columns) * (w + 1)
        grid[y:y + h, x:x + w] = pixels[i, :shown].transpose(1, 2, 0)
    big = grid.repeat(zoom, 0).repeat(zoom, 1)
    Image.fromarray(big if shown == 3 else big[..., 0]).save(path)


def asked_for(program, labels, prompts, texts):
    """(labels, TextStates or None) of the pictures asked for. Raises ValueError."""
    from litediffusion.sw.pipeline import check_asked
    from litediffusion.sw.texts import encode_prompts, load_texts

    if sum(map(bool, (labels, prompts, texts))) != 1:
        raise ValueError("say what the pictures show: labels, or --prompt, or --texts")
    states = encode_prompts(program, prompts) if prompts else load_texts(texts) if texts else None
    check_asked(program, states)
    return (range(1, len(states)) if states else labels), states


def run(device, program, labels, seed, guidance, bar, texts=None):
    """Upload and generate with a progress bar, picture i from seed + i; Pictures."""
    from litediffusion.sw.pipeline import generate as run_program, upload

    upload(device, program, transfer_progress(bar, "upload"))

    def step(image, images, step, steps):
        if image >= images:
            bar(images * steps, images * steps, f"picture {images}/{images}")
        else:
            bar(image * steps + step, images * steps, f"picture {image + 1}/{images} step {step}/{steps}")
    return run_program(device, program, labels, [seed + i for i in range(len(labels))], guidance, step, texts)


def figures(pictures, labels, seed, device, seconds):
    """JSON-able summary of a run."""
    return {"device": device, "labels": list(labels), "seed": seed, "seconds": round(seconds, 3), "counters": pictures.counters}


def generate(program: ProgramFile, labels: Labels = None, prompt: Prompts = None, texts: Texts = None, device: DeviceName = "model", seed: Seed = 0, guidance: Guidance = None,
             output: Annotated[Path, typer.Option("-o", "--output", help="PNG grid; latents go beside it as .npy")] = Path("out.png"),
             csr: Csr = None, json: Json = False):
    """Generate pictures on a device."""
    begin = time.monotonic()
    with friendly_errors():
        make_folder(output)
        loaded = load_program(program)
        labels, states = asked_for(loaded, labels, prompt, texts)
    with friendly_errors(), opened(device, csr, loaded) as dev, progress_bar("start") as bar:
        pictures = run(dev, loaded, labels, seed, guidance, bar, states)
        save_grid(pictures.pixels, output)
        np.save(output.with_suffix(".npy"), pictures.latents[:, -1])
    report = dict(figures(pictures, labels, seed, device, time.monotonic() - begin), output=str(output))
    if json:
        return print_json(report)
    cycles = pictures.counters.get("cycles")
    console.print(f"{output}: {len(labels)} pictures on {device} in {report['seconds']:.1f} s"
                  + (f", {cycles:,} engine cycles" if cycles else ""))


def compare(program: ProgramFile, labels: Labels = None, prompt: Prompts = None, texts: Texts = None, device: DeviceName = "rtl",
            reference: Annotated[str, typer.Option(help="device to compare with")] = "model", seed: Seed = 0,
            guidance: Guidance = None, csr: Csr = None, json: Json = False):
    """Run the same pictures on two devices and compare every latent of every step and every pixel."""
    results = []
    with friendly_errors():
        loaded = load_program(program)
        labels, states = asked_for(loaded, labels, prompt, texts)
        for name in (device, reference):
            with opened(name, csr, loaded) as dev, progress_bar(name) as bar:
                results.append(run(dev, loaded, labels, seed, guidance, bar, states))
    a, b = results
    wrong = [int((x != y).sum()) for x, y in ((a.latents, b.latents), (a.pixels, b.pixels))]
    report = {"device": device, "reference": reference, "latents": int(a.latents.size), "latents_different": wrong[0],
              "pixels": int(a.pixels.size), "pixels_different": wrong[1], "equal": not any(wrong)}
    if json:
        print_json(report)
    else:
        console.print(f"{device} against {reference}: {wrong[0]} of {report['latents']} latents and {wrong[1]} of "
                      f"{report['pixels']} pixels differ: {'equal' if report['equal'] else 'DIFFERENT'}")
    raise typer.Exit(0 if report["equal"] else 1)


def devices(csr: Csr = None, json: Json = False,
            litex: Annotated[Optional[str], typer.Option(help="litex://HOST:PORT to look at as well")] = None):
    """List the devices and say whether each can be used."""
    report = []
    for name in ["model", "rtl"] + ([litex] if litex else []):
        try:
            with opened(name, csr) as dev:
                report.append({"device": name, "usable": True, "configuration": f"{dev.config_hash:08x}", "window_bytes": dev.window_size})
        except Exception as error:          # the point of this command is to show why
            report.append({"device": name, "usable": False, "reason": str(error) or type(error).__name__})
    if json:
        return print_json(report)
    for entry in report:
        typer.echo(f"{entry['device']:<28} " + (f"ready, configuration {entry['configuration']}, window {entry['window_bytes']:,} bytes"
                                                if entry["usable"] else f"not usable: {entry['reason']}"))


def register(app):
    app.command()(generate)
    app.command()(compare)
    app.command()(devices)
