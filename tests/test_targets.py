"""Board targets: every one becomes Verilog, constraints and a script; options, tools, report. No place and route."""

import json
import os
from pathlib import Path
import re

import pytest

from litediffusion.cores.config import PRESETS
from litediffusion.targets import board, ecp5_tools, report
from litediffusion.targets.arty import ArtySoC
from litediffusion.targets.colorlight_i9 import ColorlightI9SoC
from litediffusion.targets.ecpix5 import ECPIX5SoC
from litediffusion.targets.ulx3s import ULX3SSoC

NATIVE_BITS = {ECPIX5SoC: 128, ULX3SSoC: 32, ColorlightI9SoC: 32, ArtySoC: 128}
PROJECT = {ECPIX5SoC: ("lpf", "ys"), ULX3SSoC: ("lpf", "ys"), ColorlightI9SoC: ("lpf", "ys"), ArtySoC: ("xdc", "tcl")}
REGISTERS = ("mailbox_doorbell", "timer0_uptime_latch", "uart_rxtx", "sdram_dfii_control")

NEXTPNR = {
    "critical_paths": [{
        "from": "posedge $glbnet$sys_clk", "to": "posedge $glbnet$sys_clk", "path": [
            {"delay": 0.52, "from": {"cell": "a_TRELLIS_FF_Q", "loc": [1, 1], "port": "CLK"},
             "to": {"cell": "a_TRELLIS_FF_Q", "loc": [1, 1], "port": "Q"}, "type": "clk-to-q"},
            {"delay": 2.25, "from": {"cell": "a_TRELLIS_FF_Q", "loc": [1, 1], "port": "Q"}, "net": "a",
             "to": {"cell": "b_LUT4_Z", "loc": [9, 4], "port": "D"}, "type": "routing"},
        ]}],
    "fmax": {"$glbnet$sys_clk": {"achieved": 77.5, "constraint": 75.0},
             "$glbnet$eth_clocks_rx$TRELLIS_IO_IN": {"achieved": 124.9, "constraint": 125.0}},
    "utilization": {"TRELLIS_COMB": {"available": 83640, "used": 53059}, "TRELLIS_FF": {"available": 83640, "used": 36720},
                    "DP16KD": {"available": 208, "used": 162}, "MULT18X18D": {"available": 156, "used": 155}},
}


@pytest.mark.parametrize("soc_class,with_engine", [(c, c is ULX3SSoC) for c in NATIVE_BITS],
                         ids=[c.NAME for c in NATIVE_BITS])
def test_elaborates(soc_class, with_engine, tmp_path):
    """With the engine only where its ports differ from the simulated SoC's: it takes most of the time."""
    soc = soc_class(config=board.engine_config(soc_class, "ecpix5"), with_engine=with_engine)
    assert soc.sdram.crossbar.controller.data_width == NATIVE_BITS[soc_class]
    builder = board.BoardBuilder(soc, tmp_path, compile_software=False)
    assert board.build(soc, builder, {}) is None
    name = soc.get_build_name()
    assert "VexRiscv VexRiscv" in (tmp_path / "gateware" / f"{name}.v").read_text()
    assert all((tmp_path / "gateware" / f"{name}.{suffix}").stat().st_size for suffix in PROJECT[soc_class])
    registers = json.loads((tmp_path / "csr.json").read_text())["csr_registers"]
    assert [r for r in REGISTERS if r not in registers] == []
    assert ("engine_start" in registers) == with_engine
    assert hasattr(soc.uart, "timer") == (soc_class is ULX3SSoC)      # a console that nobody reads must not stop the CPU
    # liblitedram trains a DDR3 PHY only when it finds its registers.
    assert ("ddrphy_rdly_dq_rst" in registers) == (NATIVE_BITS[soc_class] == 128)


def test_window_must_fit():
    with pytest.raises(ValueError, match="does not fit in 0x800000 bytes"):
        class Large(ColorlightI9SoC):
            def _check_window(self):
                self.window_size = 8 << 20
                ColorlightI9SoC._check_window(self)
        Large()


def arguments(soc_class, *argv):
    """(options of the target, arguments of its SoC)"""
    parser = board.make_parser(soc_class)
    args = parser.parse_args(argv)
    return args, board.soc_arguments(parser, args)


def test_options():
    args, soc = arguments(ULX3SSoC, "--sdram-rate=1:1", "--sys-clk-freq=40e6", "--uart-baudrate=500000")
    assert (args.sdram_rate, args.device, args.sys_clk_freq, args.output_dir) == ("1:1", "LFE5U-85F", 40e6, "build/ulx3s")
    assert (soc["uart_baudrate"], soc["uart_name"]) == (500000, "crossover+uartbone")


@pytest.mark.parametrize("soc_class", NATIVE_BITS, ids=lambda c: c.NAME)
def test_boards_run_the_same_programs(soc_class):
    """One .ldp serves simulation and boards."""
    assert board.engine_config(soc_class, "ecpix5").hash == PRESETS["ecpix5"].hash


@pytest.mark.parametrize("option", ["--cpu-type=serv", "--bus-data-width=64", "--integrated-rom-size=0x40000", "--no-uart"])
def test_option_that_the_soc_fixes(option, capsys):
    with pytest.raises(SystemExit):
        arguments(ECPIX5SoC, option)
    assert f"{option.split('=')[0]}: DiffusionSoC fixes this" in capsys.readouterr().err


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def python_folder(tmp_path, monkeypatch):
    """A Python whose folder holds the yowasp programs, and a PATH without tools."""
    folder = tmp_path / "python"
    for tool in ecp5_tools.TOOLS:
        executable(folder / f"yowasp-{tool}", f'echo "{tool} stand-in $1"')
    monkeypatch.setattr("sys.executable", str(folder / "python3"))
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setattr(ecp5_tools, "HIDDEN_FOLDER", "/hidden")
    return folder


def test_stand_ins(python_folder, tmp_path):
    tools = ecp5_tools.Tools(tmp_path / "out")
    found = os.popen(f"PATH={tools.path('/bin')} yosys -V").read()
    assert found == "yosys stand-in -V\n"
    assert tools.versions()["ecppack"] == "ecppack stand-in --version"


def test_native_tool_goes_first(python_folder, tmp_path, monkeypatch):
    native = executable(tmp_path / "native" / "yosys", 'echo native')
    monkeypatch.setenv("PATH", f"{native.parent}:/bin")
    tools = ecp5_tools.Tools(tmp_path / "out")
    assert tools.found["yosys"] == str(native)
    assert not (tools.folder / "yosys").exists() and (tools.folder / "ecppack").exists()


def test_missing_tool_and_hidden_folder(python_folder, tmp_path, monkeypatch):
    (python_folder / "yowasp-ecppack").unlink()
    with pytest.raises(ecp5_tools.ToolError, match="ecppack is not on PATH.*pip install"):
        ecp5_tools.Tools(tmp_path / "out")
    executable(python_folder / "yowasp-ecppack", "")
    monkeypatch.setattr(ecp5_tools, "HIDDEN_FOLDER", str(tmp_path))
    with pytest.raises(ecp5_tools.ToolError, match="do not see"):
        ecp5_tools.Tools(tmp_path / "out")


@pytest.fixture
def written(tmp_path):
    """report.json made from the excerpt of a nextpnr report."""
    class SoC:
        NAME, engine_config, sys_clk_freq = "ecpix5", PRESETS["ecpix5"], 75e6

        class platform:
            device = "LFE5UM5G-85F-8BG554I"

    (tmp_path / "gateware").mkdir()
    (tmp_path / "gateware" / report.NEXTPNR_REPORT).write_text(json.dumps(NEXTPNR))
    return report.write(tmp_path, SoC, {"yosys": "Yosys 0.70"})


def test_report(written):
    found = json.loads(written.read_text())
    assert found["resources"]["multipliers"] == {"available": 156, "used": 155}
    assert found["clocks"]["sys_clk"] == {"reached_mhz": 77.5, "asked_mhz": 75.0}
    assert found["clocks"]["eth_clocks_rx"]["reached_mhz"] == 124.9
    assert not found["timing_met"]
    assert found["critical_paths"] == [{"from": "sys_clk", "to": "sys_clk", "ns": 2.77, "wires_ns": 2.25,
                                        "cells": ["a_TRELLIS_FF_Q", "b_LUT4_Z"]}]
    assert (found["peak_gmacs_int8"], found["peak_gmacs_w4a8"]) == (9.6, 19.2)


def test_table(written, tmp_path):
    text = report.table([written])
    assert text.count("\n") == 3 and "| 53059 of 83640 |" in text and "| not met |" in text and "| 9.6 / 19.2 |" in text
    readme = tmp_path / "README.md"
    readme.write_text("before\n" + "old\n".join(report.MARKERS) + "after\n")
    report.main([str(written), "--readme", str(readme)])
    begin, end = report.MARKERS
    assert readme.read_text() == f"before\n{begin}{text}{end}after\n"
    readme.write_text("no table\n")
    with pytest.raises(ValueError, match="add them"):
        report.main([str(written), "--readme", str(readme)])


def test_readme_has_the_table_and_every_board():
    readme = (Path(board.__file__).parent / "README.md").read_text()
    assert all(marker in readme for marker in report.MARKERS)
    assert all(re.search(rf"`{c.NAME}.py`", readme) for c in NATIVE_BITS)
