"""RegisteredMultiplier: the ECP5's primitive (a model of it) gives the portable one's products in the same cycle."""

import ctypes
from pathlib import Path
import random

from litex.gen.fhdl.verilog import convert
from migen import ClockDomain, Module, Signal

from litediffusion.cores.array import OPERAND_BITS
from litediffusion.cores.gemm_address import WEIGHT_BITS
from litediffusion.cores.registered_multiplier import RegisteredMultiplier
from litediffusion.cores.split_sum import PRODUCT_BITS
from litediffusion.targets.verilator import build

HERE = Path(__file__).parent
LATENCY = 3
MAIN = """
#include <cstdint>
#include "Vmultipliers.h"
static Vmultipliers top;
extern "C" void step(uint32_t a, uint32_t b, uint32_t *p) {
    top.a = a; top.b = b;
    top.sys_clk = 0; top.eval();
    p[0] = top.portable; p[1] = top.ecp5;
    top.sys_clk = 1; top.eval();
}
"""


def make_library(folder):
    m = Module()
    m.clock_domains.cd_sys = ClockDomain("sys", reset_less=True)
    a, b = [Signal((bits, True), name_override=name) for bits, name in ((OPERAND_BITS, "a"), (WEIGHT_BITS, "b"))]
    ios = {m.cd_sys.clk, a, b}
    for name, primitives in (("portable", ""), ("ecp5", "ecp5")):
        multiplier, out = RegisteredMultiplier(a, b, PRODUCT_BITS, primitives), Signal(PRODUCT_BITS, name_override=name)
        m.submodules += multiplier
        m.comb += out.eq(multiplier.p)
        ios.add(out)
    (folder / "multipliers.v").write_text(str(convert(m, ios=ios, name="multipliers")))
    (folder / "main.cpp").write_text(MAIN)
    return ctypes.CDLL(str(build([folder / "multipliers.v", HERE / "mult18x18d.v"], [folder / "main.cpp"], folder / "build",
                                 "multipliers", shared=True)))


def test_products(tmp_path):
    library, rng = make_library(tmp_path), random.Random(1)
    edges = [(a, b) for a in (-128, -1, 0, 1, 255) for b in (-65544, -1, 0, 1, 57351)]
    operands = edges + [(rng.randrange(-256, 256), rng.randrange(-1 << 17, 1 << 17)) for _ in range(500)]
    out, seen = (ctypes.c_uint32 * 2)(), []
    for a, b in operands + [(0, 0)] * LATENCY:
        library.step(a & (1 << OPERAND_BITS) - 1, b & (1 << WEIGHT_BITS) - 1, out)
        seen.append(tuple(out))
    mask = (1 << PRODUCT_BITS) - 1
    assert seen[LATENCY:] == [(a * b & mask,) * 2 for a, b in operands]
