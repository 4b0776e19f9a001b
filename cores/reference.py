"""The reference of the instruction set, registers and errors as Markdown, generated from the tables.

``python -m litediffusion.cores.reference`` rewrites the part of cores/README.md between the markers.
"""

from pathlib import Path

from litediffusion.cores import isa
from litediffusion.cores.regs import REGS, TRACE_FIELDS

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- generated: python -m litediffusion.cores.reference -->", "<!-- end of the generated part -->"


def _table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]) + "\n"


def _bits(first, width):
    return str(first) if width == 1 else f"{first + width - 1}:{first}"


def _fields(fields, first=0):
    rows = []
    for f in fields:
        rows.append((f"`{f.name}`", _bits(first, f.bits) + (" signed" if f.signed else ""), f.doc))
        first += f.bits
    return _table(("field", "bits", "meaning"), rows)


def markdown():
    """The whole generated part."""
    header_bits = sum(f.bits for f in isa.HEADER)
    out = ["### Header of every descriptor\n", _fields(isa.HEADER)]
    for name, (code, queue, doc, fields) in isa.OPS.items():
        out.append(f"### {name} (opcode {code}, queue {queue})\n\n{doc}\n")
        if fields:
            out.append(_fields(fields, header_bits))
    out.append("### Selectors\n")
    out.append(_table(("field", "values"), [(k, ", ".join(f"{v} {n}" for n, v in d.items())) for k, d in (
        ("MEM", isa.MEM), ("INDEX", isa.INDEX), ("src", isa.SRC), ("dst", isa.DST), ("out", isa.OUT), ("rop", isa.ROP), ("ACT", isa.ACT))]))
    out.append(f"### Parameter record ({isa.PARAM_BYTES} bytes)\n\nmult int16 x 8 at byte 0, offset int32 x 8 at byte 16, "
               f"scalars from byte 48 on. SAMPLE reads the offsets as {', '.join(isa.SAMPLE_COEFS)}.\n")
    out.append(_fields(isa.PARAM_SCALARS, 8 * 48))
    out.append("### Token counters\n\n" + ", ".join(f"{i} {n}" for i, n in enumerate(isa.TOKEN_NAMES)) + "\n")
    out.append("### Errors\n")
    out.append(_table(("code", "name", "meaning"), [(c, n, t) for c, (n, t) in isa.ERRORS.items()]))
    out.append("### Registers\n")
    out.append(_table(("register", "access", "bits", "meaning"), [(f"`{r.name}`", r.access, r.bits, r.doc) for r in REGS]))
    out.append("### Trace record (16 bytes)\n\n" + ", ".join(f"{n} {b}" for n, b in TRACE_FIELDS) + " (field, bits)\n")
    return "\n".join(out)


def updated(text):
    """README text with the generated part renewed. Raises ValueError without the markers."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{markdown()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text()))
