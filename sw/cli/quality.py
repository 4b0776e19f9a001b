"""quality: how well generated pictures are recognised, in float and on the integer device, from the same starting noise."""

from dataclasses import dataclass
import json as jsonlib
from pathlib import Path
from typing import Annotated, Callable

import numpy as np
import typer
from rich.table import Table

from litediffusion.sw.cli.common import console, friendly_errors, make_folder, progress_bar

STEPS, GUIDANCE = 20, 2.0
STATIC, BY_STEP, W4 = dict(bits=8, per_step=False), dict(bits=8, per_step=True), dict(bits=4, per_step=True)


@dataclass
class Subject:
    """A packaged model with its judge.

    ask : count -> (classes [count], TextStates or None); judge : () -> torch classifier of pictures in [-1, 1]; recognised : least
    share of pictures recognised; loss : most of it that quantisation may cost; variants : {name: options of the compilation}.
    """
    ask: Callable
    judge: Callable
    recognised: float
    loss: float
    variants: dict


def ask_digits(count):
    return np.arange(count) % 10, None


def ask_wardrobe(count):
    from litediffusion.sw.texts import encode
    from litediffusion.sw.wardrobe.captions import CLASSES, all_captions

    prompts = [all_captions()[i % len(all_captions())] for i in range(count)]
    return np.arange(count) % len(CLASSES), encode("wardrobe", ["", *prompts])


def digits_judge():
    from litediffusion.sw.digits.classifier import load_classifier

    return load_classifier()


def wardrobe_judge():
    from litediffusion.sw.wardrobe.classifier import load_classifier

    return load_classifier()


SUBJECTS = {
    "digits": Subject(ask_digits, digits_judge, 0.90, 0.02, {"W8A8 static scales": STATIC, "W8A8 per-step scales": BY_STEP, "W4A8 per-step scales": W4}),
    "wardrobe": Subject(ask_wardrobe, wardrobe_judge, 0.85, 0.03, {"W8A8 per-step scales": BY_STEP, "W4A8 per-step scales": W4}),
}


def psnr(a, b):
    """dB between pictures in [-1, 1], over all of them."""
    error = np.mean((a - b) ** 2)
    return float(10 * np.log10(4.0 / error)) if error else float("inf")


def starting_noise(seeds, shape):
    """[B, C, H, W] float: the noise that the engine draws for these seeds."""
    from litediffusion.cores.sampler_model import noise

    c, h, w = shape
    z = np.stack([noise(s & 0xFFFFFFFF, s >> 32, 0, h * w, 8, c, STEPS) for s in seeds])[..., :c]
    return z.reshape(len(seeds), h, w, c).transpose(0, 3, 1, 2) / 4096.0


def float_pictures(graph, table, decoder, labels, null_label, x):
    """Pictures [B, C, H, W] in [-1, 1] of the float networks, from starting noise x."""
    from litediffusion.sw.calibrate import float_step
    from litediffusion.sw.reference import evaluate

    n, cache, before, both = len(labels), {}, 0.0, np.concatenate([labels, np.full(len(labels), null_label)])
    for step, coefs in enumerate(table):
        out = evaluate(graph, np.concatenate([x, x]), step, both, cache=cache).numpy()
        x, before = float_step(x, out[n:] + GUIDANCE * (out[:n] - out[n:]), coefs, before)
    return np.clip(evaluate(decoder, x, 0, labels).numpy() if decoder else x, -1, 1)


def float_reference(name, labels, texts, seeds):
    """Pictures of the float model."""
    from litediffusion.sw.pipeline import import_decoder, import_model
    from litediffusion.sw.sources import load_model

    source = load_model(name)
    if texts:
        source.texts, source.slots = texts, len(texts)
        labels = np.arange(1, len(texts))
    graph, table = import_model(source, STEPS)
    return float_pictures(graph, table, import_decoder(source), labels, source.null_label, starting_noise(seeds, source.shape))


def integer_pictures(name, options, labels, texts, seeds, bar):
    """Pictures of the model device."""
    from litediffusion.sw.devices.model import ModelDevice
    from litediffusion.sw.pipeline import compile_model, generate, upload
    from litediffusion.sw.sources import load_model

    program, device = compile_model(load_model(name), steps=STEPS, guidance=GUIDANCE, progress=bar, **options), ModelDevice()
    upload(device, program)
    done = lambda image, images, step, steps: bar(min(image * steps + step * program.meta["batch"], images * steps), images * steps)
    return generate(device, program, list(labels), seeds, progress=done, texts=texts).pixels / 127.5 - 1.0


def recognised(judge, pictures, labels):
    """Share of pictures that a classifier reads as their label."""
    import torch

    with torch.no_grad():
        scores = judge(torch.as_tensor(pictures, dtype=torch.float32))
    return float((scores.argmax(1).numpy() == labels).mean())


def quality(model: Annotated[str, typer.Argument(help=" or ".join(SUBJECTS))] = "digits",
            count: Annotated[int, typer.Option("--count", min=10, help="pictures for each row")] = 200,
            output: Annotated[Path, typer.Option("-o", "--output", help="JSON file")] = Path("quality.json"),
            json: Annotated[bool, typer.Option("--json", help="print JSON")] = False):
    """Recognition and PSNR of generated pictures: float, and several quantisations on the integer device, same seeds."""
    with friendly_errors(), progress_bar("float") as bar:
        if model not in SUBJECTS:
            raise ValueError(f"model {model!r}: only {' and '.join(SUBJECTS)} have a judge")
        make_folder(output)
        subject, seeds = SUBJECTS[model], list(range(count))
        (labels, texts), judge = subject.ask(count), subject.judge()
        reference = float_reference(model, labels, texts, seeds)
        rows = [{"name": "float torch", "recognised": recognised(judge, reference, labels), "psnr_db": None}]
        for name, options in subject.variants.items():
            pictures = integer_pictures(model, options, labels, texts, seeds, lambda done, total, name=name: bar(done, total, name))
            rows.append({"name": name, "recognised": recognised(judge, pictures, labels), "psnr_db": psnr(pictures, reference)})
    output.write_text(jsonlib.dumps({"model": model, "pictures": count, "steps": STEPS, "guidance": GUIDANCE, "rows": rows}, indent=2))
    show_quality(rows, f"{count} pictures of {model}, {STEPS} DDIM steps, guidance {GUIDANCE}", output if json else None)
    worst = min(row["recognised"] for row in rows)
    if worst < subject.recognised or worst < rows[0]["recognised"] - subject.loss:
        console.print(f"[bold red]missed:[/] at least {subject.recognised:.0%} recognised, at most {subject.loss:.0%} under float")
        raise typer.Exit(1)


def show_quality(rows, title, json_file):
    """The table, or the JSON file's text."""
    if json_file:
        return typer.echo(json_file.read_text())
    out = Table("", "recognised", "PSNR against float", title=title)
    for row in rows:
        out.add_row(row["name"], f"{100 * row['recognised']:.1f} %", f"{row['psnr_db']:.1f} dB" if row["psnr_db"] else "-")
    console.print(out)


def register(app):
    app.command()(quality)
