"""Between Yosys and nextpnr: addresses of distributed RAM, the router's settings, free rows; places of the array."""

import json
import re

import pytest

from litediffusion.targets import ecp5_tools, netlist
from litediffusion.targets.floorplan import FLOORPLANS
from litediffusion.targets.ulx3s import ULX3SSoC


def ram(read, write):
    return {"type": netlist.RAM, "connections": {"RAD": list(read), "WAD": list(write), "DO": [9]}}


def design(**cells):
    return {"modules": {"top": {"attributes": {"top": "00000000000000000000000000000001"}, "cells": cells}, "RAM": {"attributes": {}, "cells": {}}}}


def test_constant_address_bits_become_bit_0():
    cell = ram([5, 6, "0", "0"], [7, 8, "0", "0"])
    made = design(a=cell)
    assert netlist.prepare(made) == (1, 0, 0)
    assert cell["connections"] == {"RAD": [5, 6, 5, 5], "WAD": [7, 8, 7, 7], "DO": [9]}
    assert made["modules"]["top"]["settings"] == netlist.SETTINGS


@pytest.mark.parametrize("read, write", [
    ([5, 6, 7, 8], [1, 2, 3, 4]),            # nothing is constant
    ([5, 6, "0", "0"], [7, 8, 9, 10]),       # a read that sees less than is written must stay there
    (["0", 5, 6, 7], ["0", 8, 9, 10])])      # bit 0 is no place for the others
def test_other_addresses_stay(read, write):
    cell = ram(read, write)
    assert netlist.prepare(design(a=cell)) == (0, 0, 0)
    assert (cell["connections"]["RAD"], cell["connections"]["WAD"]) == (read, write)


def flip_flop(reset):
    return {"type": netlist.FLIP_FLOP, "connections": {"LSR": [reset] if reset is not None else [], "D": [reset or 1], "Q": [2]}}


def test_large_resets_get_a_clock_buffer():
    """Only the reset inputs move behind it; small resets, constant and open ones stay."""
    many = {f"many{k}": flip_flop(7) for k in range(netlist.GLOBAL_RESET)}
    few = {"few": flip_flop(8), "constant": flip_flop("0"), "open": flip_flop(None)}
    before = json.loads(json.dumps(few))
    made = design(**many, **few)
    assert netlist.prepare(made) == (0, 1, 0)
    cells = made["modules"]["top"]["cells"]
    buffer, = [cell for cell in cells.values() if cell["type"] == netlist.CLOCK_BUFFER]
    reset, = buffer["connections"]["CLKO"]
    assert buffer["connections"]["CLKI"] == [7] and reset > 8
    assert {tuple(cells[name]["connections"]["LSR"]) for name in many} == {(reset,)} and cells["many0"]["connections"]["D"] == [7]
    assert {name: cells[name] for name in few} == before
    assert netlist.prepare(made) == (0, 0, 0), "prepared again it stays as it is"


@pytest.mark.parametrize("luts, rows", [(10, 35), (35000, 21), (60000, 0)])
def test_free_rows(luts, rows):
    """Idle cells take whole rows of the 85F, unless the design needs them; other devices stay as they are."""
    cells = {f"lut{k}": {"type": "LUT4", "connections": {"Z": [2 + k]}} for k in range(luts)}
    made = design(**cells)
    assert netlist.prepare(made, "45k") == (0, 0, 0)
    assert netlist.prepare(made, "85k") == (0, 0, rows)
    idle = [cell for cell in made["modules"]["top"]["cells"].values() if cell["type"] == netlist.LOGIC_CELL]
    places = {cell["attributes"]["BEL"] for cell in idle}
    assert len(idle) == len(places) == rows * 123 * 8 == netlist.count_idle(json.dumps(made))
    assert not any(re.match(r"X\d+/Y(10|22|34|46|58|70|82)/", place) for place in places), "no logic cells there"


def test_no_top_module():
    with pytest.raises(ValueError, match="0 top modules"):
        netlist.prepare({"modules": {}})


def test_nextpnr_gets_the_prepared_netlist(tmp_path, monkeypatch):
    """The look-alike prepares the file and calls the tool with the same arguments."""
    native = tmp_path / "bin" / "nextpnr-ecp5"
    native.parent.mkdir()
    native.write_text("#!/bin/sh\necho called \"$@\"\n")
    native.chmod(0o755)
    monkeypatch.setenv("PATH", f"{native.parent}:/bin:/usr/bin")
    tools = ecp5_tools.Tools(tmp_path / "out", ("nextpnr-ecp5",))
    file = tmp_path / "top.json"
    file.write_text(json.dumps(design(a=ram([5, "0"], [7, "0"]))))
    out = ecp5_tools.subprocess.run([tools.folder / "nextpnr-ecp5", "--json", str(file), "--85k"], capture_output=True, text=True, check=True).stdout
    assert f"called --json {file} --85k" in out
    assert json.loads(file.read_text())["modules"]["top"]["cells"]["a"]["connections"]["RAD"] == [5, 5]


@pytest.mark.parametrize("lanes", [*(plan.lanes for plan in FLOORPLANS.values()), ULX3SSoC.LANES], ids=[*FLOORPLANS, "ulx3s"])
def test_lanes_have_places_of_their_own(lanes):
    plan = next(plan for plan in FLOORPLANS.values() if {row for row, _ in plan.lanes} == {row for row, _ in lanes})
    places = [plan.bel(row, first + k) for row, first in lanes for k in range(plan.room)]
    assert len(set(places)) == len(places) == 8 * plan.room
