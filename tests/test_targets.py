"""Board targets: every one becomes Verilog, constraints and a script; options, tools, report. No place and route."""

import re
from dataclasses import replace
import json
import os
from pathlib import Path

import pytest

from litediffusion.cores.config import PRESETS
from litediffusion.targets import analyzer, board, ddr3, ecp5_tools, report, synthesis
from litediffusion.targets.colorlight_i9 import ColorlightI9SoC
from litediffusion.targets.ecpix5 import ECPIX5SoC
from litediffusion.targets.kc705 import KC705SoC
from litediffusion.targets.ulx3s import ULX3SSoC

# Each board's native DRAM word.
NATIVE_BITS = {"ecpix5": 128, "ulx3s": 32, "colorlight_i5": 32, "colorlight_i9": 32, "butterstick": 128, "orangecrab": 128,
               "versa_ecp5": 128, "arty": 128, "nexys_video": 128, "genesys2": 256, "kc705": 512}
BOARDS = {name: synthesis.soc_class(name) for name in NATIVE_BITS}
XILINX = ("arty", "nexys_video", "genesys2", "kc705")
WITHOUT_UART = ("ulx3s", "orangecrab", "butterstick")       # the console is a crossover UART
WITHOUT_ETHERNET = ("ulx3s", "orangecrab")
# The engine takes most of the time: once on a narrow word with the array's own clock and primitives, once on a wide word.
WITH_ENGINE = ("colorlight_i9", "kc705")
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


def test_every_target_is_here():
    files = {p.stem for p in Path(board.__file__).parent.glob("*.py") if "run_target(" in p.read_text()}
    assert files - {"board"} == set(BOARDS)


@pytest.mark.parametrize("name", BOARDS)
def test_elaborates(name, tmp_path):
    """Verilog, constraints and script; the analyzer's list where there is an engine."""
    with_engine = name in WITH_ENGINE
    soc = BOARDS[name](config=board.engine_config(BOARDS[name], BOARDS[name].PRESET), with_engine=with_engine, with_analyzer=with_engine)
    assert soc.sdram.crossbar.controller.data_width == NATIVE_BITS[name]
    builder = board.BoardBuilder(soc, tmp_path, compile_software=False)
    assert board.build(soc, builder, {}) is None
    files = tmp_path / "gateware" / soc.get_build_name()
    assert "VexRiscv VexRiscv" in files.with_suffix(".v").read_text()
    assert all(files.with_suffix(suffix).stat().st_size for suffix in ((".xdc", ".tcl") if name in XILINX else (".lpf", ".ys")))
    registers = json.loads((tmp_path / "csr.json").read_text())["csr_registers"]
    assert [r for r in REGISTERS if r not in registers] == []
    assert ("engine_start" in registers) == ("analyzer_trigger_enable" in registers) == with_engine
    if with_engine:     # litescope_cli finds its signals by these names
        signals = [line.split(",") for line in (tmp_path / analyzer.CSV).read_text().splitlines() if line.startswith("signal")]
        assert {group: sum(row[1] == group for row in signals) for group in "01"} == {"0": 4 * 10 + 3, "1": 3 + 4 * 3}
        assert ["signal", "0", "scope_gemm_busy", "1"] in signals and soc.analyzer.data_width <= 128
    assert hasattr(soc.uart, "timer") == (name in WITHOUT_UART)      # a console that nobody reads must not stop the CPU
    assert hasattr(soc, "etherbone") == (name not in WITHOUT_ETHERNET)
    # liblitedram trains a DDR3 PHY only when it finds its registers.
    assert ("ddrphy_rdly_dq_rst" in registers) == (NATIVE_BITS[name] >= 128)


def test_analyzer_needs_an_engine():
    with pytest.raises(ValueError, match="no engine"):
        ULX3SSoC(with_engine=False, with_analyzer=True)


def test_refresh_time_of_the_chips():
    """110 ns of the 1 Gbit chip are 9 cycles of 75 MHz, where LiteDRAM's own figure takes 64; 260 ns of the 4 Gbit chip."""
    assert ddr3.chip("MT41K64M16")(75e6, "1:2").timing_settings.tRFC == 9
    assert ddr3.chip("MT41K256M16")(100e6, "1:4").timing_settings.tRFC == 27


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


@pytest.mark.parametrize("name", BOARDS)
def test_boards_run_the_same_programs(name):
    """One .ldp serves simulation and boards."""
    preset = BOARDS[name].PRESET
    assert board.engine_config(BOARDS[name], preset).hash == PRESETS[preset].hash


@pytest.mark.parametrize("option", ["--cpu-type=serv", "--bus-data-width=64", "--integrated-rom-size=0x40000", "--no-uart"])
def test_option_that_the_soc_fixes(option, capsys):
    with pytest.raises(SystemExit):
        arguments(ECPIX5SoC, option)
    assert f"{option.split('=')[0]}: DiffusionSoC fixes this" in capsys.readouterr().err


def test_preset_that_does_not_go_with_the_board(capsys):
    with pytest.raises(SystemExit):
        board.run_target(BOARDS["colorlight_i9"], ["--preset", "ecpix5"])
    assert "--preset ecpix5: gemm_cycles=2 must go with gemm_words=1" in capsys.readouterr().err


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


def test_options_of_a_build(python_folder, tmp_path, monkeypatch):
    native = executable(tmp_path / "native" / "nextpnr-ecp5", 'echo "  --parallel-refine   use it"; echo "  --seed arg   not --threads"')
    monkeypatch.setenv("PATH", f"{native.parent}:/bin")
    tools = ecp5_tools.Tools(tmp_path / "out")
    assert tools.knows("nextpnr-ecp5", board.PARALLEL) and not tools.knows("nextpnr-ecp5", "--parallel")
    assert not tools.knows("yosys", board.PARALLEL)


def test_missing_tool_and_hidden_folder(python_folder, tmp_path, monkeypatch):
    (python_folder / "yowasp-ecppack").unlink()
    with pytest.raises(ecp5_tools.ToolError, match="ecppack is not on PATH.*pip install"):
        ecp5_tools.Tools(tmp_path / "out")
    executable(python_folder / "yowasp-ecppack", "")
    monkeypatch.setattr(ecp5_tools, "HIDDEN_FOLDER", str(tmp_path))
    with pytest.raises(ecp5_tools.ToolError, match="do not see"):
        ecp5_tools.Tools(tmp_path / "out")


def write_report(tmp_path, idle=0):
    """report.json made from the excerpt of a nextpnr report and a netlist with so many idle cells."""
    class SoC:
        NAME, engine_config, sys_clk_freq = "ecpix5", replace(PRESETS["ecpix5"], gemm_words=2, array_clock=2, post_lanes=4), 75e6

        class platform:
            device = "LFE5UM5G-85F-8BG554I"

    (tmp_path / "gateware").mkdir(parents=True)
    (tmp_path / "gateware" / report.NEXTPNR_REPORT).write_text(json.dumps(NEXTPNR))
    if idle:
        (tmp_path / "gateware" / "top.json").write_text(json.dumps({f"idle_{k}_3_B.K1": {} for k in range(idle)}))
    return report.write(tmp_path, SoC, {"yosys": "Yosys 0.70"})


@pytest.fixture
def written(tmp_path):
    return write_report(tmp_path)


def test_report_leaves_idle_cells_out(tmp_path):
    lut = lambda path: json.loads(path.read_text())["resources"]["lut"]["used"]
    all_cells = lut(write_report(tmp_path / "a"))
    assert lut(write_report(tmp_path / "b", idle=5)) == all_cells - 5


def test_report(written):
    found = json.loads(written.read_text())
    assert found["resources"]["multipliers"] == {"available": 156, "used": 155}
    assert found["clocks"]["sys_clk"] == {"reached_mhz": 77.5, "asked_mhz": 75.0}
    assert found["clocks"]["eth_clocks_rx"]["reached_mhz"] == 124.9
    assert not found["timing_met"]
    assert found["critical_paths"] == [{"from": "sys_clk", "to": "sys_clk", "ns": 2.77, "wires_ns": 2.25,
                                        "cells": ["a_TRELLIS_FF_Q", "b_LUT4_Z"]}]
    assert found["limit"] == "sys_clk: 2.8 ns, 81 % of it wires, from a to b"
    assert (found["peak_gmacs_int8"], found["peak_gmacs_w4a8"]) == (19.2, 38.4)


def nextpnr_with_double_clock(ns, fast="$glbnet$array_clk", asked=150.0):
    """A report that meets its clocks, with a path of ``ns`` from the system clock to another one."""
    cell = {"cell": "c_TRELLIS_FF_Q", "loc": [1, 1], "port": "Q"}
    return NEXTPNR | {
        "fmax": {"$glbnet$sys_clk": {"achieved": 77.5, "constraint": 75.0}, fast: {"achieved": 187.0, "constraint": asked}},
        "critical_paths": NEXTPNR["critical_paths"] + [
            {"from": "posedge $glbnet$sys_clk", "to": f"posedge {fast}", "path": [{"delay": ns, "from": cell, "to": cell, "type": "logic"}]},
            {"from": "<async>", "to": "posedge $glbnet$sys_clk", "path": [{"delay": 90.0, "from": cell, "to": cell, "type": "routing"}]},
        ]}


@pytest.mark.parametrize("ns, met", [(6.66, True), (6.7, False)])
def test_paths_between_the_clocks_count(ns, met):
    """The array at twice the system clock: its neighbours have one of its periods, 6.67 ns, which nextpnr does not check."""
    found = report.read_nextpnr(json.dumps(nextpnr_with_double_clock(ns)), 75.0)
    assert found["crossings"] == [{"from": "sys_clk", "to": "array_clk", "ns": ns, "limit_ns": 6.67, "met": met}]
    assert found["timing_met"] == met and found["limit"].startswith(f"sys_clk to array_clk: {ns:.1f} ns")


@pytest.mark.parametrize("phase_ns, ns, met", [(6.6, 9.9, True), (6.7, 9.9, False), (6.6, 10.1, False)])
def test_registers_of_shared_edges_have_more_time(phase_ns, ns, met):
    """With nextpnr's detailed report: three quarters of a system period, but the phase's own register has half of it."""
    sys, array = "posedge $glbnet$sys_clk", "posedge $glbnet$array_clk"
    endpoint = lambda cell, delay, event: {"cell": cell, "delay": [0.1, delay], "event": event, "port": "DI"}
    data = nextpnr_with_double_clock(ns) | {"detailed_net_timings": [
        {"event": sys, "net": "a", "endpoints": [endpoint("core_array_seen_TRELLIS_FF_Q", phase_ns, array), endpoint("b", 13.0, sys)]},
        {"event": sys, "net": "b", "endpoints": [endpoint("core_array_held0_TRELLIS_FF_Q", ns, array)]},
        {"event": array, "net": "c", "endpoints": [endpoint("core_array_seen_TRELLIS_FF_Q", 99.0, array)]}]}
    found = report.read_nextpnr(json.dumps(data), 75.0)
    assert [(c["ns"], c["limit_ns"]) for c in found["crossings"]] == [(phase_ns, 6.67), (ns, 10.0)]
    assert found["timing_met"] == met and found["limit"].startswith(f"sys_clk to array_clk: {ns:.1f} ns")


@pytest.mark.parametrize("change", [{"fast": "$glbnet$eth_clocks_rx$TRELLIS_IO_IN"}, {"asked": 125.0}])
def test_unrelated_clocks_do_not_count(change):
    found = report.read_nextpnr(json.dumps(nextpnr_with_double_clock(50.0, **change)), 75.0)
    assert found["crossings"] == [] and found["timing_met"]


def test_table(written, tmp_path):
    text = report.markdown(report.rows([written]))
    cells = ("256 MACs a cycle, array at 150 MHz, 4 lanes of POST", "53059 of 83640", "not met", "19.2 / 38.4")
    assert text.count("\n") == 3 and [cell for cell in cells if f"| {cell} |" not in text] == []
    readme = tmp_path / "README.md"
    readme.write_text("before\n" + "old\n".join(report.MARKERS) + "after\n")
    report.main([str(written), "--readme", str(readme)])
    begin, end = report.MARKERS
    assert readme.read_text() == f"before\n{begin}{text}{end}after\n"
    readme.write_text("no table\n")
    with pytest.raises(ValueError, match="add them"):
        report.main([str(written), "--readme", str(readme)])


def test_readme_has_the_tables_and_every_board():
    readme = (Path(board.__file__).parent / "README.md").read_text()
    assert all(marker in readme for marker in report.MARKERS + synthesis.MARKERS)
    assert [name for name in BOARDS if f"`{name}.py`" not in readme] == []


def test_array_has_places_of_its_own():
    """Every multiplier of an 85F's array lies in a row of multiplier blocks, a lane's side by side, none in another's place."""
    soc = ECPIX5SoC(config=board.engine_config(ECPIX5SoC, "ecpix5"))
    lanes = [[dict(m.primitive.attr)["BEL"] for m in lane] for lane in soc.engine.core.gemm.array.multipliers]
    assert [len(lane) for lane in lanes] == [16] * 8 and len({bel for lane in lanes for bel in lane}) == 128
    for lane in lanes:
        x, y, block = zip(*(re.fullmatch(r"X(\d+)/Y(\d+)/MULT18_([0145])", bel).groups() for bel in lane))
        assert set(y) in ({"10"}, {"34"}, {"58"}) and sorted(map(int, x)) == list(map(int, x)) and int(x[-1]) - int(x[0]) < 40
        assert all((int(a) - 4 - (2 if int(a) > 66 else 0)) % 9 == int(b) for a, b in zip(x, block))
