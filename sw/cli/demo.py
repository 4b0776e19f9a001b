"""demo and quality: the packaged digits on the simulated SoC, and how well they are recognised."""

from concurrent.futures import ProcessPoolExecutor
import hashlib
import json as jsonlib
from pathlib import Path
import time
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from litediffusion.sw.cli.common import console, friendly_errors, make_folder, progress_bar
from litediffusion.sw.cli.generate import save_grid

DIGITS = (3, 1, 4, 1, 5, 9, 2, 6)
STEPS, GUIDANCE = 20, 2.0


def model_device_pictures(path, labels, seeds):
    """Pictures of a .ldp file on the numpy device (in a process of its own, beside the simulation)."""
    from litediffusion.sw.container import load
    from litediffusion.sw.devices.model import ModelDevice
    from litediffusion.sw.pipeline import generate, upload

    program, device = load(path), ModelDevice()
    upload(device, program)
    return generate(device, program, labels, seeds)


def source_key():
    """Identity of everything that a compiled digits model depends on: host sources, tables and weights."""
    import litediffusion.cores.isa
    import litediffusion.sw.container

    digest = hashlib.sha256()
    for module in (litediffusion.cores.isa, litediffusion.sw.container):
        for path in sorted(Path(module.__file__).parent.rglob("*")):
            if path.suffix in (".py", ".safetensors"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def demo_program(path, bar):
    """The compiled digits model, made again when something that it depends on has changed."""
    from litediffusion.sw.container import load
    from litediffusion.sw.pipeline import compile_model
    from litediffusion.sw.sources import load_model

    stamp, key = path.with_suffix(".key"), source_key()
    if not (path.exists() and stamp.exists() and stamp.read_text() == key):
        compile_model(load_model("digits"), steps=STEPS, guidance=GUIDANCE, progress=bar).save(path)
        stamp.write_text(key)
    return load(path)


def simulate(program, labels, seeds, bar):
    """(Pictures, seconds to the first picture) of the SoC in Verilator, through litex_server."""
    from litediffusion.sw.devices.open import open_device
    from litediffusion.sw.pipeline import generate, upload
    from litediffusion.targets.sim import SimServer

    bar(0, 1, "build and boot the SoC")
    with SimServer() as server:
        device = open_device(server.url, csr_csv=server.csr_csv)
        upload(device, program, lambda done, total: bar(done, total, "upload"))
        begin, first = time.monotonic(), []

        def step(image, images, step, steps):
            if image > 0 and not first:
                first.append(time.monotonic() - begin)
            done = min(image * steps + step, images * steps)
            bar(done, images * steps, f"digit {min(image + 1, images)}/{images}")
        pictures = generate(device, program, labels, seeds, progress=step)
        bar(1, 1, f"{len(labels)} digits")
        device.close()
    return pictures, first[0] if first else pictures.seconds


def demo(digits: Annotated[str, typer.Option(help="digits to draw")] = "".join(map(str, DIGITS)),
         seed: Annotated[int, typer.Option(min=0, help="seed of the first digit")] = 0,
         output: Annotated[Path, typer.Option("-o", "--output", help="folder for digits.png and figures.json")] = Path("build/demo")):
    """Draw digits on the simulated SoC with the firmware's loop and compare every latent and pixel with the numpy device."""
    with friendly_errors():
        if not digits.isdigit():
            raise ValueError(f"digits {digits!r}: only 0..9")
        labels = [int(d) for d in digits]
        seeds = [seed + i for i in range(len(labels))]
        output.mkdir(parents=True, exist_ok=True)
        with progress_bar("calibrate") as bar, ProcessPoolExecutor(1) as pool:
            program = demo_program(output / "digits.ldp", bar)
            reference = pool.submit(model_device_pictures, output / "digits.ldp", labels, seeds)
            pictures, first = simulate(program, labels, seeds, bar)
            golden = reference.result()
        save_grid(pictures.pixels, output / "digits.png", zoom=8)
    same = {"latents": bool((pictures.latents == golden.latents).all()), "pixels": bool((pictures.pixels == golden.pixels).all())}
    report = {"digits": labels, "seed": seed, "steps": program.meta["steps"], "guidance": program.meta["guidance"],
              "seconds": pictures.seconds, "seconds_to_first": first, "latents_compared": int(golden.latents.size),
              "equal": same, "counters": pictures.counters}
    (output / "figures.json").write_text(jsonlib.dumps(report, indent=2))
    cycles, total = pictures.counters["engine_cycles"], pictures.counters["total_cycles"]
    console.print(f"{len(labels)} digits, {program.meta['steps']} DDIM steps with guidance {program.meta['guidance']}: "
                  f"{pictures.seconds:.0f} s, the first after {first:.0f} s; {total:,} cycles, CPU {100 * (1 - cycles / total):.2f} %")
    verdict = "every latent and pixel equals the numpy device's" if all(same.values()) else f"[bold red]DIFFERENT[/] from the numpy device: {same}"
    console.print(f"{golden.latents.size:,} latents and {golden.pixels.size:,} pixels compared: {verdict}")
    console.print(f"{output / 'digits.png'}  {output / 'figures.json'}")
    raise typer.Exit(0 if all(same.values()) else 1)


# --- quality ---------------------------------------------------------------------------------------------------------

RECOGNISED, LOSS = 0.90, 0.02        # least share recognised, most that quantisation may lose
VARIANTS = {"W8A8 static scales": dict(bits=8, per_step=False), "W8A8 per-step scales": dict(bits=8, per_step=True),
            "W4A8 per-step scales": dict(bits=4, per_step=True)}


def psnr(a, b):
    """dB between images in [-1, 1], over all of them."""
    error = np.mean((np.clip(a, -1, 1) - np.clip(b, -1, 1)) ** 2)
    return float(10 * np.log10(4.0 / error)) if error else float("inf")


def float_pictures(source, labels, guidance, noise):
    """Pictures [B, C, H, W] of the torch model itself, from the same starting noise."""
    import torch

    from litediffusion.sw.calibrate import float_step
    from litediffusion.sw.schedule import sampler_table

    x, n = noise, len(labels)
    both = torch.as_tensor(np.concatenate([labels, np.full(n, source.null_label)]))
    with torch.no_grad():
        for t, coefs in zip(*sampler_table("ddim", STEPS)):
            twice = torch.as_tensor(np.concatenate([x, x]), dtype=torch.float32)
            eps = source.model(twice, torch.full((2 * n,), int(t)), both).numpy()
            x = float_step(x, eps[n:] + guidance * (eps[:n] - eps[n:]), coefs)
    return x


def starting_noise(seeds, shape):
    """[B, C, H, W] float: the noise that the engine draws for these seeds."""
    from litediffusion.cores.sampler_model import noise
    c, h, w = shape
    z = np.stack([noise(s & 0xFFFFFFFF, s >> 32, 0, h * w, 8, c, STEPS) for s in seeds])[..., :c]
    return z.reshape(len(seeds), h, w, c).transpose(0, 3, 1, 2) / 4096.0


def recognised(pictures, labels):
    """Share of pictures that the classifier reads as their label."""
    import torch

    from litediffusion.sw.digits.classifier import load_classifier
    with torch.no_grad():
        scores = load_classifier()(torch.as_tensor(np.clip(pictures, -1, 1), dtype=torch.float32))
    return float((scores.argmax(1).numpy() == labels).mean())


def quality(count: Annotated[int, typer.Option("--count", min=10, help="digits for each row")] = 200,
            output: Annotated[Path, typer.Option("-o", "--output", help="JSON file")] = Path("quality.json"),
            json: Annotated[bool, typer.Option("--json", help="print JSON")] = False):
    """Recognition and PSNR of generated digits: float, and three quantisations on the integer device, same seeds."""
    from litediffusion.sw.calibrate import calibrate
    from litediffusion.sw.devices.model import ModelDevice
    from litediffusion.sw.pipeline import compile_model, generate, import_model, upload
    from litediffusion.sw.sources import load_model

    labels, seeds = np.arange(count) % 10, list(range(count))
    with friendly_errors(), progress_bar("calibrate") as bar:
        make_folder(output)
        source = load_model("digits")
        graph, table = import_model(source, STEPS)
        ranges = calibrate(graph, table, range(source.labels), source.null_label, GUIDANCE, 16, 1, bar)
        bar(0, 1, "float")
        reference = float_pictures(source, labels, GUIDANCE, starting_noise(seeds, source.shape))
        rows = [{"name": "float torch", "recognised": recognised(reference, labels), "psnr_db": None}]
        for name, options in VARIANTS.items():
            program, device = compile_model(source, steps=STEPS, guidance=GUIDANCE, ranges=ranges, **options), ModelDevice()
            upload(device, program)
            pictures = generate(device, program, list(labels), seeds,
                                progress=lambda i, n, s, t, name=name: bar(min(i * t + s * program.meta["batch"], n * t), n * t, name))
            images = pictures.latents[:, -1] / 4096.0
            rows.append({"name": name, "recognised": recognised(images, labels), "psnr_db": psnr(images, reference)})
    output.write_text(jsonlib.dumps({"digits": count, "steps": STEPS, "guidance": GUIDANCE, "rows": rows}, indent=2))
    show_quality(rows, count, output if json else None)
    worst = min(row["recognised"] for row in rows)
    if worst < RECOGNISED or worst < rows[0]["recognised"] - LOSS:
        console.print(f"[bold red]missed:[/] at least {RECOGNISED:.0%} recognised, at most {LOSS:.0%} under float")
        raise typer.Exit(1)


def show_quality(rows, count, json_file):
    """The table, or the JSON file's text."""
    if json_file:
        return typer.echo(json_file.read_text())
    out = Table("", "recognised", "PSNR against float", title=f"{count} digits, {STEPS} DDIM steps, guidance {GUIDANCE}")
    for row in rows:
        out.add_row(row["name"], f"{100 * row['recognised']:.1f} %", f"{row['psnr_db']:.1f} dB" if row["psnr_db"] else "-")
    console.print(out)


def register(app):
    app.command()(demo)
    app.command()(quality)
