"""The Verilator build: cached by content, clear errors, executables and shared libraries."""

import ctypes
import subprocess

import pytest

from litediffusion.targets.verilator import VerilatorError, build

VERILOG = "module adder(input clk, input [31:0] a, output reg [31:0] sum);\nalways @(posedge clk) sum <= sum + a;\nendmodule\n"
MAIN = r"""
#include "Vadder.h"
#include <cstdio>
extern "C" unsigned run(int n)
{
    Vadder dut;
    dut.a = 3;
    for (int i = 0; i < n; i++) { dut.clk = 0; dut.eval(); dut.clk = 1; dut.eval(); }
    return dut.sum;
}
int main() { printf("%u\n", run(10)); }
"""


class Project:
    """Sources and build folder, shared by the tests: the runtime is compiled once."""

    def __init__(self, folder):
        self.verilog, self.cpp, self.out = folder / "adder.v", folder / "main.cpp", folder / "build"

    def build(self, verilog=VERILOG, cpp=MAIN, **kwargs):
        self.verilog.write_text(verilog)
        self.cpp.write_text(cpp)
        return build([self.verilog], [self.cpp], self.out, "adder", cflags=["-O0"], **kwargs)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("adder"))


def stamp(path):
    return path.stat().st_mtime_ns


def output(exe):
    return subprocess.run([exe], capture_output=True, text=True, check=True).stdout


def test_executable_and_cache(project):
    exe = project.build()
    assert output(exe) == "30\n"
    first, model, runtime = stamp(exe), project.out / "obj" / "Vadder.o", project.out / "runtime" / "verilated.o"
    old_model, old_runtime = stamp(model), stamp(runtime)
    assert stamp(project.build()) == first, "nothing changed"
    assert output(project.build(cpp=MAIN.replace("run(10)", "run(5)"))) == "15\n"
    assert stamp(model) == old_model, "a new main must not compile the model again"
    assert output(project.build(verilog=VERILOG.replace("sum + a", "sum - a"))) == f"{2**32 - 30}\n"
    assert stamp(model) != old_model and stamp(runtime) == old_runtime


def test_verilog_error(project):
    with pytest.raises(VerilatorError, match="'b'"):
        project.build(verilog=VERILOG.replace("sum + a", "sum + b"))
    assert output(project.build()) == "30\n", "the next good build works"


def test_cpp_error(project):
    with pytest.raises(VerilatorError, match="nothing"):
        project.build(cpp=MAIN.replace("dut.a", "dut.nothing"))


def test_shared_library(project):
    library = ctypes.CDLL(str(project.build(shared=True)))
    assert library.run(4) == 12


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(VerilatorError, match="no C\\+\\+ compiler"):
        build([], [], ".", "adder")
