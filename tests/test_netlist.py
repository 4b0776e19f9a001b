"""What is changed in a netlist between Yosys and nextpnr: addresses of distributed RAM, the router's settings."""

import json

import pytest

from litediffusion.targets import ecp5_tools, netlist


def ram(read, write):
    return {"type": netlist.RAM, "connections": {"RAD": list(read), "WAD": list(write), "DO": [9]}}


def design(**cells):
    return {"modules": {"top": {"attributes": {"top": "00000000000000000000000000000001"}, "cells": cells}, "RAM": {"attributes": {}, "cells": {}}}}


def test_constant_address_bits_become_bit_0():
    cell = ram([5, 6, "0", "0"], [7, 8, "0", "0"])
    made = design(a=cell)
    assert netlist.prepare(made) == 1
    assert cell["connections"] == {"RAD": [5, 6, 5, 5], "WAD": [7, 8, 7, 7], "DO": [9]}
    assert made["modules"]["top"]["settings"] == netlist.SETTINGS


@pytest.mark.parametrize("read, write", [
    ([5, 6, 7, 8], [1, 2, 3, 4]),            # nothing is constant
    ([5, 6, "0", "0"], [7, 8, 9, 10]),       # a read that sees less than is written must stay there
    (["0", 5, 6, 7], ["0", 8, 9, 10])])      # bit 0 is no place for the others
def test_other_addresses_stay(read, write):
    cell = ram(read, write)
    assert netlist.prepare(design(a=cell)) == 0
    assert (cell["connections"]["RAD"], cell["connections"]["WAD"]) == (read, write)


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
