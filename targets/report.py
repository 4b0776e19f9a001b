"""What place and route made of a SoC, as JSON in its build folder, and the table of targets/README.md from such files.

``python -m litediffusion.targets.report build/*/report.json`` prints the table;
``--readme targets/README.md`` also puts it between the file's two markers.
"""

import argparse
import json
from pathlib import Path
import re

NEXTPNR_REPORT = "nextpnr.json"
REPORT = "report.json"
RESOURCES = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "block_ram": "DP16KD", "multipliers": "MULT18X18D"}
MARKERS = ("<!-- boards: made by targets/report.py -->\n", "<!-- end of boards -->\n")
HEAD = ["board", "engine", "LUT", "FF", "block RAM", "multipliers", "clocks reached (asked), MHz", "timing",
        "int8 / W4A8 peak, GMAC/s"]


def clock_name(net):
    """nextpnr's name of a clock's net without its decorations: ``$glbnet$main_crg_clkout0`` is ``main_crg_clkout0``."""
    return re.sub(r"^\$glbnet\$|\$TRELLIS_IO_IN$", "", net)


def critical_path(entry):
    """One of nextpnr's critical paths: ends, delay in ns split into logic and wires, and the cells on the way."""
    steps = entry["path"]
    wires = sum(s["delay"] for s in steps if s["type"] == "routing")
    total = sum(s["delay"] for s in steps)
    return {"from": clock_name(entry["from"].split(" ", 1)[-1]), "to": clock_name(entry["to"].split(" ", 1)[-1]),
            "ns": round(total, 2), "wires_ns": round(wires, 2), "cells": [s["to"]["cell"] for s in steps]}


def read_nextpnr(text):
    """Resources, clocks and critical paths of nextpnr's --report file."""
    data = json.loads(text)
    used = {name: data["utilization"].get(cell, {"used": 0, "available": 0}) for name, cell in RESOURCES.items()}
    clocks = {clock_name(net): {"reached_mhz": round(f["achieved"], 2), "asked_mhz": round(f["constraint"], 2)}
              for net, f in data["fmax"].items()}
    return {
        "resources": used, "clocks": clocks,
        "timing_met": all(c["reached_mhz"] >= c["asked_mhz"] for c in clocks.values()),
        "critical_paths": [critical_path(entry) for entry in data["critical_paths"]],
    }


def write(output_dir, soc, versions):
    """``output_dir/report.json``; returns its Path."""
    config, clock = soc.engine_config, soc.sys_clk_freq
    peak = config.peak_macs * clock / 1e9
    gateware = Path(output_dir) / "gateware" / NEXTPNR_REPORT
    report = {
        "board": soc.NAME, "device": soc.platform.device, "engine": config.name, "configuration": f"{config.hash:08x}",
        "sys_clk_mhz": clock / 1e6, **read_nextpnr(gateware.read_text()),
        "peak_gmacs_int8": round(peak, 2), "peak_gmacs_w4a8": round(2 * peak, 2), "tools": versions,
    }
    path = Path(output_dir) / REPORT
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def _row(report):
    share = [f"{r['used']} of {r['available']}" for r in (report["resources"][name] for name in RESOURCES)]
    clocks = ", ".join(f"{name} {c['reached_mhz']:.1f} ({c['asked_mhz']:.0f})" for name, c in report["clocks"].items())
    verdict = "met" if report["timing_met"] else "not met"
    return [report["board"], report["engine"], *share, clocks, verdict,
            f"{report['peak_gmacs_int8']:.1f} / {report['peak_gmacs_w4a8']:.1f}"]


def table(paths):
    """The table in Markdown."""
    rows = [HEAD, ["---"] * len(HEAD), *(_row(json.loads(Path(p).read_text())) for p in sorted(paths))]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def row_text(path):
    """The table's row of one report, for the terminal."""
    return "\n".join(f"{name}: {value}" for name, value in zip(HEAD, _row(json.loads(Path(path).read_text()))))


def insert(readme, text):
    """The README's text with ``text`` between its markers. Raises ValueError when it has none."""
    begin, end = MARKERS
    if begin not in readme or end not in readme:
        raise ValueError(f"the file has no lines {begin.strip()!r} and {end.strip()!r}: add them where the table belongs")
    return readme[:readme.index(begin) + len(begin)] + text + readme[readme.index(end):]


def main(argv=None):
    parser = argparse.ArgumentParser(description="The table of boards from their reports.")
    parser.add_argument("reports", nargs="+", help="report.json files")
    parser.add_argument("--readme", type=Path, help="file whose table is replaced")
    args = parser.parse_args(argv)
    text = table(args.reports)
    print(text, end="")
    if args.readme is not None:
        args.readme.write_text(insert(args.readme.read_text(), text))


if __name__ == "__main__":
    main()
