"""Remote control as people do it, on the simulated SoC: targets/README.md's notebook cell, litex_cli, the self-test's report."""

import json
from pathlib import Path
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from litediffusion.cores.config import PRESETS
from litediffusion.sw.cli.main import app
from litediffusion.sw.devices.examine import MemoryTest
from litediffusion.targets import sim
from litediffusion.targets.sim import SimServer

ROOT = Path(__file__).resolve().parent.parent
CONFIG = PRESETS["ecpix5"]


@pytest.fixture(scope="module")
def server():
    with SimServer(ROOT / "build" / "sim") as running:
        yield running


def test_notebook_cell_of_the_readme(server):
    """The code as it stands, with the place of the simulation instead of the board's."""
    readme = (Path(sim.__file__).parent / "README.md").read_text()
    (cell,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    place = re.search(r"^HOST, PORT, CSR = .*$", cell, re.M)[0]
    code = cell.replace(place, f"HOST, PORT, CSR = {server.host!r}, {server.port}, {str(server.csr_csv)!r}")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].rstrip("\0") == f"litediffusion {CONFIG.name}"
    assert lines[1].startswith(f"configuration {CONFIG.hash:08x}, status 0b")
    assert [line.split()[0] for line in lines[2:6]] == ["load", "gemm", "post", "store"]
    assert lines[6] == "['0x11111111', '0x22222222', '0x33333333']"


def test_litex_cli_lists_the_registers(server):
    command = [Path(sys.executable).parent / "litex_cli", "--csr-csv", server.csr_csv, "--host", server.host,
               "--port", str(server.port), "--regs", "--filter", "engine_config_hash"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and f"0x{CONFIG.hash:08x}" in run.stdout and "engine_config_hash" in run.stdout


def selftest(server, *arguments):
    result = CliRunner().invoke(app, ["selftest", "--device", f"litex://{server.host}:{server.port}", "--csr", str(server.csr_csv),
                                      *arguments])
    return result, json.loads(result.stdout) if "--json" in arguments else None


def test_report_of_a_device(server, tmp_path):
    """All that a user with a board would send, in one file. (Random programs: test_cli.py, on the faster rtl device.)"""
    output = tmp_path / "new" / "report.json"
    result, report = selftest(server, "--programs", "0", "--memory", "16384", "--json", "-o", str(output))
    assert result.exit_code == 0 and report == json.loads(output.read_text())
    assert report["passed"] and report["configuration_hash"] == f"{CONFIG.hash:08x}"
    soc = report["soc"]
    assert soc["identifier"] == f"litediffusion {CONFIG.name}" and soc["matches_register_map"]
    assert (soc["platform"], soc["clock_hz"]) == ("sim", 75_000_000) and soc["measured_clock_hz"] > 10_000
    assert report["memory"]["passed"] and report["memory"]["words_tested"] >= 4096 and report["memory"]["bytes_read_a_second"] > 0
    assert report["firmware"] == {"passed": True}
    assert len(report["performance"]) == 2
    for row in report["performance"]:
        assert row["passed"] and 0.3 < row["utilisation"] <= 1
        assert row["gmacs"] == pytest.approx(row["macs"] / row["cycles"] * 75e6 / 1e9)
    assert {"litex", "litediffusion", "numpy"} <= report["host"]["versions"].keys()


class Memory:
    """A device of 64 KiB whose memory forgets bit 5 of the word at 0x2004, or mirrors its halves."""

    window_base, window_size = 0x40100000, 1 << 16

    def __init__(self, fault):
        self.fault, self.words, self.link = fault, {}, self

    def claim(self):
        pass

    def place(self, addr):
        offset = addr - self.window_base
        assert 0 <= offset < self.window_size
        return offset % 0x8000 if self.fault == "mirror" else offset

    def write_words(self, addr, words):
        for i, word in enumerate(words):
            self.words[self.place(addr + 4 * i)] = word

    def read_words(self, addr, n):
        found = [self.words.get(self.place(addr + 4 * i), 0) for i in range(n)]
        return [word & ~0x20 if self.fault == "bit" and addr + 4 * i == self.window_base + 0x2004 else word
                for i, word in enumerate(found)]


@pytest.mark.parametrize("size", [0x1000, 0x4000, 0x10000, 1 << 30])
def test_memory_test_passes_good_memory(size):
    found = MemoryTest(Memory(None), size).run()
    assert found["passed"] and found["words_tested"] == 64 + 15 + 2 * min(size, 0x10000) // 4


def test_memory_test_finds_faults():
    bit = MemoryTest(Memory("bit"), 0x10000).run()
    assert not bit["passed"] and {e["offset"] for e in bit["first_errors"]} == {0x2004}
    mirror = MemoryTest(Memory("mirror"), 0x1000).run()
    assert not mirror["passed"] and mirror["first_errors"][0]["offset"] == 0
    assert MemoryTest(Memory("mirror"), 0x10000).run()["words_wrong"] > 8000


def test_a_failed_part_does_not_hide_the_others(server, monkeypatch):
    """A report with an error in it is what a user would most of all send."""
    from litediffusion.sw.cli import selftest as command
    from litediffusion.sw.devices.errors import DeviceFault

    def broken(device, config, seed):
        raise DeviceFault("engine: WATCHDOG")
    monkeypatch.setattr(command, "run_exercise", broken)
    monkeypatch.setattr(command, "PERFORMANCE_LAYERS", 0)
    result, report = selftest(server, "--programs", "1", "--memory", "4096", "--json")
    assert result.exit_code == 1 and not report["passed"]
    assert report["programs"] == [{"seed": 1, "passed": False, "error": "engine: WATCHDOG"}]
    assert report["memory"]["passed"] and report["firmware"]["passed"]
