"""disasm."""

from pathlib import Path
from typing import Annotated

import typer

from litediffusion.cores import isa
from litediffusion.sw.cli.common import friendly_errors, load_program, print_json

HIDDEN = {"opcode", "layer"} | {f"{kind}{i}{suffix}" for kind in ("wait", "add") for i in range(3) for suffix in ("", "_n")}


def describe(index, op, d, layers):
    """One line of a descriptor: tokens taken, the non-zero fields, tokens given."""
    take = [f"{isa.TOKEN_NAMES[d[f'wait{i}']]}" for i in range(3) if d[f"wait{i}_n"]]
    give = [f"{isa.TOKEN_NAMES[d[f'add{i}']]}" for i in range(3) if d[f"add{i}_n"]]
    fields = " ".join(f"{k}={v}" for k, v in d.items() if v and k not in HIDDEN)
    layer = layers[d["layer"]] if d["layer"] < len(layers) else d["layer"]
    return f"{index:5d} {op:<6} [{layer}] {'<' + ','.join(take) + ' ' if take else ''}{fields}{' >' + ','.join(give) if give else ''}"


def descriptors(program, part):
    """[(op, fields)] of a program of a .ldp file."""
    at, length = program.meta["programs"][part]
    at -= program.meta["image_base"]
    code = program.image[at:at + length * isa.DESC_BYTES].tobytes()
    return [isa.decode(code[i:i + isa.DESC_BYTES]) for i in range(0, len(code), isa.DESC_BYTES)]


def disasm(program: Annotated[Path, typer.Argument(help=".ldp file")],
           part: Annotated[str, typer.Option(help="init, eval, update or finish")] = "eval",
           json: Annotated[bool, typer.Option("--json", help="print JSON")] = False):
    """Print the instructions of a compiled program, with tokens (<taken, >given) and layers."""
    with friendly_errors():
        loaded = load_program(program)
        if part not in loaded.meta["programs"]:
            raise ValueError(f"part {part!r} is unknown; the file has {sorted(loaded.meta['programs'])}")
        found = descriptors(loaded, part)
    layers = loaded.meta["layers"] if part == "eval" else [part]
    if json:
        return print_json([{"index": i, "op": op, **d} for i, (op, d) in enumerate(found)])
    for i, (op, d) in enumerate(found):
        typer.echo(describe(i, op, d, layers))


def register(app):
    app.command()(disasm)
