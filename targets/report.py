"""What place and route made of a SoC, as JSON in its build folder, and the table of targets/README.md from such files.

``python -m litediffusion.targets.report build/*/report.json`` prints the table;
``--readme targets/README.md`` also puts it between the file's two markers.
"""

import argparse
import json
from pathlib import Path
import re

from litediffusion.targets.netlist import count_idle

NEXTPNR_REPORT = "nextpnr.json"
REPORT = "report.json"
RESOURCES = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "block_ram": "DP16KD", "multipliers": "MULT18X18D"}
MARKERS = ("<!-- boards: made by targets/report.py -->\n", "<!-- end of boards -->\n")
HEAD = ["board", "engine", "LUT", "FF", "block RAM", "multipliers", "clocks reached (asked), MHz", "timing",
        "int8 / W4A8 peak, GMAC/s", "limit"]
PIN = "$TRELLIS_IO_IN"      # nextpnr's mark of a clock from a pin
ARRAY_CLOCK = "array_clk"   # of targets/array_clock.py
PHASE = re.compile(r"_array_seen_TRELLIS_FF_Q$")        # cores/array.py: the register that looks at the system clock's phase


def clock_name(net):
    """nextpnr's name of a clock's net without its decorations: ``$glbnet$main_crg_clkout0`` is ``main_crg_clkout0``."""
    return re.sub(rf"^\$glbnet\$|{re.escape(PIN)}$", "", net)


def clock_of(event):
    """The clock of one of nextpnr's events: ``posedge $glbnet$sys_clk`` is at sys_clk."""
    return clock_name(str(event).split(" ", 1)[-1])


def short(cell):
    """A cell's name without what Yosys adds: ``engine_gemm_sum_TRELLIS_FF_Q_3`` is ``engine_gemm_sum``."""
    return re.sub(r"(_(TRELLIS|LUT4|CCU2C|MULT18X18D|DP16KD|PFUMX|L6MUX21).*|\.[0-9.]+)$", "", cell)


def critical_path(entry):
    """One of nextpnr's critical paths: its clocks, delay in ns split into logic and wires, the cells on the way."""
    steps = entry["path"]
    wires = sum(s["delay"] for s in steps if s["type"] == "routing")
    total = sum(s["delay"] for s in steps)
    return {"from": clock_of(entry["from"]), "to": clock_of(entry["to"]),
            "ns": round(total, 2), "wires_ns": round(wires, 2), "cells": [s["to"]["cell"] for s in steps]}


def arrivals(data, launch, capture):
    """[(register of one clock, ns after which it has a signal of another clock)], from nextpnr's --detailed-timing-report."""
    return [(e["cell"], e["delay"][1]) for net in data.get("detailed_net_timings", ()) if clock_of(net["event"]) == launch
            for e in net["endpoints"] if clock_of(e["event"]) == capture]


def array_crossings(found, path, period):
    """Paths from the system clock into the array's, whose registers but one change at the edges that the clocks share: they have a
    system period, less the quarter by which those edges may lead (targets/array_clock.py). The one that finds out which edges
    these are has half a system period.

    found : arrivals of the two clocks; path : the longest; period : ns of the array's clock
    """
    phase = [ns for cell, ns in found if PHASE.search(cell)]
    if not phase:       # nothing is known of the single registers
        return [path | {"limit_ns": period}]
    return [path | {"ns": round(max(phase), 2), "limit_ns": period}, path | {"limit_ns": 1.5 * period}]


def crossings(data, paths, clocks, pins, sys_clk_mhz):
    """Paths between the system clock and one at twice its rate, with the ns that they have: a period of the faster one, into the
    array's clock as ``array_crossings`` says.

    nextpnr checks no path between clocks. Both of such a pair come from the board's PLL; a clock from a pin (``pins``: names)
    may have twice the frequency and no relation.
    """
    def is_at(clock, mhz):
        return clock in clocks and clock not in pins and abs(clocks[clock]["asked_mhz"] / mhz - 1) < 0.005
    found, period = [], 500 / sys_clk_mhz
    for p in paths:
        path = {name: p[name] for name in ("from", "to", "ns")}
        if is_at(p["from"], sys_clk_mhz) and is_at(p["to"], 2 * sys_clk_mhz):
            into_array = p["to"] == ARRAY_CLOCK
            found += array_crossings(arrivals(data, p["from"], p["to"]), path, period) if into_array else [path | {"limit_ns": period}]
        elif is_at(p["from"], 2 * sys_clk_mhz) and is_at(p["to"], sys_clk_mhz):
            found.append(path | {"limit_ns": period})
    return [c | {"limit_ns": round(c["limit_ns"], 2), "met": c["ns"] <= c["limit_ns"]} for c in found]


def limit(report):
    """What limits the board, as text: the path with the least of its time left."""
    asked = {(name, name): 1000 / c["asked_mhz"] for name, c in report["clocks"].items()}
    asked |= {(c["from"], c["to"]): c["limit_ns"] for c in report["crossings"]}
    paths = [(p["ns"] / asked[p["from"], p["to"]], p) for p in report["critical_paths"] if (p["from"], p["to"]) in asked]
    if not paths:
        return ""
    path = max(paths, key=lambda pair: pair[0])[1]
    clock = path["from"] if path["from"] == path["to"] else f"{path['from']} to {path['to']}"
    return (f"{clock}: {path['ns']:.1f} ns, {100 * path['wires_ns'] / path['ns']:.0f} % of it wires, "
            f"from {short(path['cells'][0])} to {short(path['cells'][-1])}")


def read_nextpnr(text, sys_clk_mhz):
    """Resources, clocks and critical paths of nextpnr's --report file."""
    data = json.loads(text)
    used = {name: data["utilization"].get(cell, {"used": 0, "available": 0}) for name, cell in RESOURCES.items()}
    clocks = {clock_name(net): {"reached_mhz": round(f["achieved"], 2), "asked_mhz": round(f["constraint"], 2)}
              for net, f in data["fmax"].items()}
    pins = {clock_name(net) for net in data["fmax"] if net.endswith(PIN)}
    paths = [critical_path(entry) for entry in data["critical_paths"]]
    found = {"resources": used, "clocks": clocks, "crossings": crossings(data, paths, clocks, pins, sys_clk_mhz), "critical_paths": paths}
    met = all(c["reached_mhz"] >= c["asked_mhz"] for c in clocks.values()) and all(c["met"] for c in found["crossings"])
    return {"timing_met": met, "limit": limit(found), **found}


def write(output_dir, soc, versions):
    """``output_dir/report.json``; returns its Path."""
    config, clock = soc.engine_config, soc.sys_clk_freq
    peak = config.peak_macs * clock / 1e9
    gateware = Path(output_dir) / "gateware"
    found = read_nextpnr((gateware / NEXTPNR_REPORT).read_text(), clock / 1e6)
    netlists = [path for path in gateware.glob("*.json") if path.name != NEXTPNR_REPORT]
    found["resources"]["lut"]["used"] -= sum(count_idle(path.read_text()) for path in netlists)     # free rows are not the design's
    report = {
        "board": soc.NAME, "device": soc.platform.device, "engine": config.name, "configuration": f"{config.hash:08x}",
        "macs_a_cycle": config.peak_macs, "array_clock_mhz": config.array_clock * clock / 1e6, "post_lanes": config.post_lanes,
        "sys_clk_mhz": clock / 1e6, **found,
        "peak_gmacs_int8": round(peak, 2), "peak_gmacs_w4a8": round(2 * peak, 2), "tools": versions,
    }
    path = Path(output_dir) / REPORT
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def _row(report):
    share = [f"{r['used']} of {r['available']}" for r in (report["resources"][name] for name in RESOURCES)]
    clocks = ", ".join(f"{name} {c['reached_mhz']:.1f} ({c['asked_mhz']:.0f})" for name, c in report["clocks"].items())
    verdict = "met" if report["timing_met"] else "not met"
    engine = f"{report['macs_a_cycle']} MACs a cycle, array at {report['array_clock_mhz']:.0f} MHz, {report['post_lanes']} lanes of POST"
    return [report["board"], engine, *share, clocks, verdict,
            f"{report['peak_gmacs_int8']:.1f} / {report['peak_gmacs_w4a8']:.1f}", report["limit"]]


def rows(paths):
    """The table's cells."""
    return [HEAD, *(_row(json.loads(Path(p).read_text())) for p in sorted(paths))]


def row_text(path):
    """The table's row of one report, for the terminal."""
    return "\n".join(f"{name}: {value}" for name, value in zip(HEAD, _row(json.loads(Path(path).read_text()))))


def markdown(cells):
    """A table in Markdown; the first row is its head."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [cells[0], ["---"] * len(cells[0]), *cells[1:]])


def insert(readme, text, markers=MARKERS):
    """The README's text with ``text`` between its markers. Raises ValueError when it has none."""
    begin, end = markers
    if begin not in readme or end not in readme:
        raise ValueError(f"the file has no lines {begin.strip()!r} and {end.strip()!r}: add them where the table belongs")
    return readme[:readme.index(begin) + len(begin)] + text + readme[readme.index(end):]


def put_table(cells, readme, markers=MARKERS):
    """Print a table; put it between the markers of the file ``readme`` (None: only print)."""
    text = markdown(cells)
    print(text, end="")
    if readme is not None:
        readme.write_text(insert(readme.read_text(), text, markers))


def main(argv=None):
    parser = argparse.ArgumentParser(description="The table of boards from their reports.")
    parser.add_argument("reports", nargs="+", help="report.json files")
    parser.add_argument("--readme", type=Path, help="file whose table is replaced")
    args = parser.parse_args(argv)
    put_table(rows(args.reports), args.readme)


if __name__ == "__main__":
    main()
