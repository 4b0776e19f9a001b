"""Between Yosys and nextpnr-ecp5: a netlist that is easier to route, with the router's settings in it.

``python -m litediffusion.targets.netlist --json NAME.json ...`` rewrites the file; other arguments, which are nextpnr's, are ignored.

- Unused address bits of distributed RAM are constants after synthesis, and nextpnr brings each one by wire from a common
  driver. With bit 0 in their place, on both sides, the same words are kept at other addresses.
- nextpnr has router settings without a command line option, but reads them from the netlist. By default a net may leave
  its bounding box by three tiles only, and where many nets meet the router never finds the way around.
"""

import argparse
import json
from pathlib import Path

RAM = "TRELLIS_DPR16X4"
CONSTANTS = ("0", "1", "x")
SETTINGS = {"router2/bbMargin/x": "12", "router2/bbMargin/y": "12"}      # tiles that a net may leave its bounding box by


def share_address(cell):
    """Put bit 0 in place of address bits that are constant on both sides of a distributed RAM; True if one was."""
    read, write = cell["connections"]["RAD"], cell["connections"]["WAD"]
    constant = [r in CONSTANTS and w in CONSTANTS for r, w in zip(read, write)]
    if constant[0] or not any(constant):
        return False
    for bits in (read, write):
        bits[:] = [bits[0] if fixed else bit for bit, fixed in zip(bits, constant)]
    return True


def top_module(netlist):
    """The top module of a netlist. Raises ValueError."""
    tops = [m for m in netlist["modules"].values() if int(str(m.get("attributes", {}).get("top", "0")), 2)]
    if len(tops) != 1:
        raise ValueError(f"the netlist has {len(tops)} top modules, must have 1: it is no result of Yosys' synth_ecp5")
    return tops[0]


def prepare(netlist, settings=SETTINGS):
    """Change a netlist as described above; returns the number of distributed RAMs that changed."""
    top = top_module(netlist)
    top.setdefault("settings", {}).update(settings)
    return sum(share_address(cell) for cell in top["cells"].values() if cell["type"] == RAM)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Prepare Yosys' netlist for nextpnr-ecp5.", allow_abbrev=False)
    parser.add_argument("--json", type=Path, required=True, help="netlist, rewritten in place")
    path = parser.parse_known_args(argv)[0].json
    netlist = json.loads(path.read_text())
    changed = prepare(netlist)
    path.write_text(json.dumps(netlist))
    print(f"{path}: addresses of {changed} distributed RAMs, {len(SETTINGS)} settings")


if __name__ == "__main__":
    main()
