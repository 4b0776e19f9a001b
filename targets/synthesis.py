"""Area by Yosys alone, as JSON: the whole SoC of an ECP5 board, the engine of a Xilinx board (whose tools are not open).

``python -m litediffusion.targets.synthesis ecpix5`` writes ``build/ecpix5/area.json``; it fails when the part is too small.
``python -m litediffusion.targets.synthesis --table build/*/area.json --readme targets/README.md`` makes the README's table.
"""

import argparse
from importlib import import_module
import json
from pathlib import Path
import re
import subprocess
import sys

from litediffusion.cores.config import PRESETS
from litediffusion.targets import board, ecp5_tools, report

AREA = "area.json"
STAT = "stat.json"
RESOURCES = ("lut", "ff", "block_ram", "multipliers")
# What one cell takes: {resource: {cell: amount}}. nextpnr counts about 8 % more LUTs, because carry chains get ends.
ECP5_CELLS = {
    "lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4},
    "ff": {"TRELLIS_FF": 1},
    "block_ram": {"DP16KD": 1, "PDPW16KD": 1},
    "multipliers": {"MULT18X18D": 1},
}
XC7_CELLS = {
    "lut": {**{f"LUT{n}": 1 for n in range(1, 7)}, "SRL16E": 1, "SRLC32E": 1, "RAM32X1D": 2, "RAM64X1D": 2, "RAM32X1S": 1,
            "RAM64X1S": 1, "RAM128X1D": 4, "RAM32M": 4, "RAM64M": 4},
    "ff": {"FDRE": 1, "FDSE": 1, "FDCE": 1, "FDPE": 1},
    "block_ram": {"RAMB36E1": 1, "RAMB18E1": 0.5},
    "multipliers": {"DSP48E1": 1},
}
# LUTs, flip-flops, block RAMs (18 kbit; Xilinx 36), multipliers of each part, by the device's name in the platform.
PARTS = {
    r"LFE5U.*-25F": (24288, 24288, 56, 28), r"LFE5U.*-45F": (43848, 43848, 108, 72), r"LFE5U.*-85F": (83640, 83640, 208, 156),
    r"xc7a35": (20800, 41600, 50, 90), r"xc7a100": (63400, 126800, 135, 240), r"xc7a200": (134600, 269200, 365, 740),
    r"xc7k325": (203800, 407600, 445, 840),
}
MARKERS = ("<!-- area: made by targets/synthesis.py -->\n", "<!-- end of area -->\n")
HEAD = ["board", "part", "synthesised", "LUT", "FF", "block RAM", "multipliers", "fits"]


def soc_class(name):
    """The SoC class of targets/<name>.py."""
    module = import_module(f"litediffusion.targets.{name}")
    classes = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, board.BoardSoC) and v.NAME == name]
    if not classes:
        raise ValueError(f"targets/{name}.py holds no board")
    return classes[0]


def part(device):
    """{resource: amount} of a device. Raises ValueError with the known ones."""
    for pattern, amounts in PARTS.items():
        if re.match(pattern, device):
            return dict(zip(RESOURCES, amounts))
    raise ValueError(f"the size of {device} is not known; add it to PARTS ({', '.join(PARTS)})")


def resources(stat, cells, available):
    """{resource: {"used": n, "available": n}} of Yosys's ``stat -json``."""
    counts = stat["design"]["num_cells_by_type"]
    used = {name: sum(counts.get(cell, 0) * amount for cell, amount in table.items()) for name, table in cells.items()}
    return {name: {"used": used[name], "available": available[name]} for name in RESOURCES}


def yosys(script, folder):
    """Run commands in ``folder``; Yosys's statistics of what they made. Raises ToolError with the log's end."""
    tools = ecp5_tools.Tools(folder, ["yosys"])
    command = [tools.found["yosys"], "-q", "-l", "yosys.log", "-p", f"{script}; tee -q -o {STAT} stat -json"]
    run = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        raise ecp5_tools.ToolError("Yosys failed: " + "\n".join(run.stdout.splitlines()[-20:]))
    return json.loads((Path(folder) / STAT).read_text()), tools.versions()


def synthesise_soc(soc, output_dir):
    """Verilog of the SoC as the board builds it (with an empty ROM), then LiteX's own Yosys script."""
    builder = board.BoardBuilder(soc, output_dir, compile_software=False)
    board.build(soc, builder, {})
    gateware = Path(output_dir).resolve() / "gateware"
    return yosys(f"script {soc.get_build_name()}.ys", gateware)


def synthesise_engine(config, output_dir):
    """The engine alone for a 7-series part."""
    from litediffusion.sw.devices.rtl_build import write_verilog

    folder = Path(output_dir).resolve() / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    verilog = write_verilog(config, folder)
    return yosys(f"read_verilog {verilog}; synth_xilinx -family xc7 -noiopad -flatten -top engine_sim", folder)


def synthesise(name, preset, output_dir):
    """``output_dir/area.json`` of a board; returns its contents. Minutes of work. preset : None for the board's own"""
    target = soc_class(name)
    config = board.engine_config(target, preset or target.PRESET)
    soc = target(config=config)
    device, open_flow = soc.platform.device, hasattr(soc.platform.toolchain, "_pnr_opts")
    if open_flow:
        (stat, tools), cells = synthesise_soc(soc, output_dir), ECP5_CELLS
    else:
        (stat, tools), cells = synthesise_engine(config, output_dir), XC7_CELLS
    used = resources(stat, cells, part(device))
    made = {
        "board": name, "device": device, "engine": config.name, "configuration": f"{config.hash:08x}",
        "what": "SoC" if open_flow else "engine alone", "macs_a_cycle": config.peak_macs, "resources": used,
        "fits": all(r["used"] <= r["available"] for r in used.values()), "tools": tools,
    }
    (Path(output_dir) / AREA).write_text(json.dumps(made, indent=1) + "\n")
    return made


def row(area):
    """The table's row of one area.json."""
    share = [f"{r['used']:,.10g} of {r['available']:,} ({100 * r['used'] / r['available']:.0f} %)" for r in area["resources"].values()]
    return [area["board"], area["device"], f"{area['what']}, {area['macs_a_cycle']} MACs a cycle", *share, "yes" if area["fits"] else "no"]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", nargs="?", help="a target's name")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="engine configuration; default: the board's")
    parser.add_argument("--output-dir", help="default: build/<board>")
    parser.add_argument("--table", nargs="+", help="area.json files whose table is printed")
    parser.add_argument("--readme", type=Path, help="file whose table is replaced")
    args = parser.parse_args(argv)
    if args.table:
        report.put_table([HEAD, *(row(json.loads(Path(p).read_text())) for p in sorted(args.table))], args.readme, MARKERS)
        return
    if not args.board:
        parser.error("name a board or --table")
    made = synthesise(args.board, args.preset, args.output_dir or f"build/{args.board}")
    print("\n".join(f"{name}: {value}" for name, value in zip(HEAD, row(made))))
    if not made["fits"]:
        sys.exit(f"error: {args.board}: more than {made['device']} has")


if __name__ == "__main__":
    main()
