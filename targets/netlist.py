"""Between Yosys and nextpnr-ecp5: a netlist that is easier to route, with the router's settings in it.

``python -m litediffusion.targets.netlist --json NAME.json ...`` rewrites the file. The arguments are nextpnr's: of them the size of the
device counts as well, the others are ignored.

- Unused address bits of distributed RAM are constants after synthesis, and nextpnr brings each one by wire from a common
  driver. With bit 0 in their place, on both sides, the same words are kept at other addresses.
- The resets of whole subsystems go to thousands of flip-flops. nextpnr gives global wires to clocks only, though those reach the
  flip-flops' resets as well; with a clock buffer in its way a reset takes one.
- nextpnr's placer fills the tiles that it uses, to the last cell, and leaves others empty: 40 % of an 85F while the middle could not
  be routed. Idle cells with places of their own keep every fourth row free, through which nets get around, or every second one.
- nextpnr has router settings without a command line option, but reads them from the netlist. By default a net may leave
  its bounding box by three tiles only, and where many nets meet the router never finds the way around: on the 45F not with
  12 tiles either.
"""

import argparse
from collections import defaultdict
import json
from pathlib import Path
import re

RAM = "TRELLIS_DPR16X4"
FLIP_FLOP, CLOCK_BUFFER = "TRELLIS_FF", "DCCA"
GLOBAL_RESET = 1000         # flip-flops, from which on a reset is worth one of the 16 global wires
CONSTANTS = ("0", "1", "x")
LOGIC_CELL = "TRELLIS_COMB"
INPUTS, OUTPUTS = ("A", "B", "C", "D", "M", "F1", "FCI", "FXA", "FXB", "DI0", "DI1", "WD", "WAD0", "WAD1", "WAD2", "WAD3", "WRE", "WCK"), ("F", "FCO", "OFX")
LOGIC_CELLS_OF = {"LUT4": 1, "CCU2C": 2, RAM: 6}        # a RAM's write side takes a slice as well
CELLS_OF_TILE, FIRST, PERIOD = 8, 10, 12
# A device's columns and rows of logic; every PERIODth row, from FIRST on, has block RAMs and multipliers instead.
LOGIC = {"85k": (range(2, 125), [row for row in range(2, 94) if row not in range(FIRST, 94, PERIOD)])}
FREE_ROWS = ((2, 4, 6, 8, 10), (3, 6, 9))       # after each of those; the first choice that leaves enough of the others
FULL = 0.66                 # share of the cells in the other rows that the design may take
SETTINGS = {"router2/bbMargin/x": "40", "router2/bbMargin/y": "40"}      # tiles that a net may leave its bounding box by


def share_address(cell):
    """Put bit 0 in place of address bits that are constant on both sides of a distributed RAM; True if one was."""
    read, write = cell["connections"]["RAD"], cell["connections"]["WAD"]
    constant = [r in CONSTANTS and w in CONSTANTS for r, w in zip(read, write)]
    if constant[0] or not any(constant):
        return False
    for bits in (read, write):
        bits[:] = [bits[0] if fixed else bit for bit, fixed in zip(bits, constant)]
    return True


def buffer_resets(top):
    """Put a clock buffer before the reset inputs of GLOBAL_RESET or more flip-flops; returns the number of buffers."""
    cells, users = top["cells"], defaultdict(list)
    for cell in cells.values():
        if cell["type"] == FLIP_FLOP:
            for bit in cell["connections"].get("LSR", ()):
                users[bit].append(cell)
    done = {bit for cell in cells.values() if cell["type"] == CLOCK_BUFFER for bit in cell["connections"]["CLKO"]}
    resets = [bit for bit, flip_flops in users.items() if bit not in (*CONSTANTS, *done) and len(flip_flops) >= GLOBAL_RESET]
    free = 1 + max(bit for cell in cells.values() for bits in cell["connections"].values() for bit in bits if bit not in CONSTANTS)
    for number, bit in enumerate(resets):
        cells[f"reset_buffer{number}"] = {
            "hide_name": 0, "type": CLOCK_BUFFER, "parameters": {}, "attributes": {},
            "port_directions": {"CLKI": "input", "CLKO": "output"}, "connections": {"CLKI": [bit], "CLKO": [free + number]}}
        for flip_flop in users[bit]:
            flip_flop["connections"]["LSR"] = [free + number]
    return len(resets)


def logic_cells(top):
    """Logic cells that a netlist takes, without the ends of carry chains."""
    return sum(LOGIC_CELLS_OF.get(cell["type"], 0) for cell in top["cells"].values())


def free_rows(top, device):
    """Fill the rows that shall stay without logic with idle cells; returns the number of rows, 0 for other devices and full designs."""
    if device not in LOGIC:
        return 0
    columns, rows = LOGIC[device]
    needed = logic_cells(top) / (FULL * CELLS_OF_TILE * len(columns))      # rows with logic
    choices = [[row for row in rows if row > FIRST and (row - FIRST) % PERIOD in chosen] for chosen in FREE_ROWS]
    free = next((choice for choice in choices if len(rows) - len(choice) >= needed), [])
    directions = {**{port: "input" for port in INPUTS}, **{port: "output" for port in OUTPUTS}}
    for row in free:
        for column in columns:
            for half in (f"{s}.K{k}" for s in "ABCD" for k in (0, 1)):
                top["cells"][f"idle_{column}_{row}_{half}"] = {
                    "hide_name": 0, "type": LOGIC_CELL, "parameters": {"MODE": "LOGIC", "INITVAL": "0" * 16},
                    "attributes": {"BEL": f"X{column}/Y{row}/SLICE{half}"},
                    "port_directions": directions, "connections": {port: [] for port in directions}}
    return len(free)


def count_idle(text):
    """Idle cells of free_rows in a netlist's text."""
    return len(re.findall(r'"idle_\d+_\d+_[A-D]\.K[01]": *\{', text))


def top_module(netlist):
    """The top module of a netlist. Raises ValueError."""
    tops = [m for m in netlist["modules"].values() if int(str(m.get("attributes", {}).get("top", "0")), 2)]
    if len(tops) != 1:
        raise ValueError(f"the netlist has {len(tops)} top modules, must have 1: it is no result of Yosys' synth_ecp5")
    return tops[0]


def prepare(netlist, device="", settings=SETTINGS):
    """Change a netlist as described above; returns the numbers of distributed RAMs that changed, of buffered resets and of free rows."""
    top = top_module(netlist)
    top.setdefault("settings", {}).update(settings)
    return sum(share_address(cell) for cell in top["cells"].values() if cell["type"] == RAM), buffer_resets(top), free_rows(top, device)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Prepare Yosys' netlist for nextpnr-ecp5.", allow_abbrev=False)
    parser.add_argument("--json", type=Path, required=True, help="netlist, rewritten in place")
    path, others = parser.parse_known_args(argv)
    path = path.json
    device = next((size for option in others for size in LOGIC if option.startswith("--") and option.endswith(size)), "")
    netlist = json.loads(path.read_text())
    changed, resets, rows = prepare(netlist, device)
    path.write_text(json.dumps(netlist))
    print(f"{path}: addresses of {changed} distributed RAMs, {resets} global resets, {rows} free rows, {len(SETTINGS)} settings")


if __name__ == "__main__":
    main()
