"""demo: the packaged digits on the simulated SoC."""

from concurrent.futures import ProcessPoolExecutor
import hashlib
import json as jsonlib
from pathlib import Path
import time
from typing import Annotated

import typer

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


def register(app):
    app.command()(demo)
