"""Digilent Genesys 2: Kintex-7 325T, 32-bit DDR3, gigabit Ethernet. ``python -m litediffusion.targets.genesys2 --build``

Needs Vivado; ``--no-compile-gateware`` stops after Verilog, constraints and project script.
"""

from litedram.phy import s7ddrphy
from liteeth.phy.s7rgmii import LiteEthPHYRGMII
from litex_boards.platforms import digilent_genesys2
from litex_boards.targets.digilent_genesys2 import _CRG as CRG

from litediffusion.targets import ddr3
from litediffusion.targets.board import BoardSoC, run_target


class Genesys2SoC(BoardSoC):
    """DDR3 with a native word of 256 bits, of which each engine access uses a half; Etherbone over RGMII."""

    NAME = "genesys2"
    DESCRIPTION = "litediffusion on Digilent's Genesys 2"
    PLATFORM = digilent_genesys2.Platform
    SYS_CLK_FREQ = 100e6
    ENGINE = {"dram_bytes": 16}

    def __init__(self, sys_clk_freq=SYS_CLK_FREQ, toolchain="vivado", **kwargs):
        platform = self.PLATFORM(toolchain=toolchain)
        self.crg = CRG(platform, sys_clk_freq)
        phy = s7ddrphy.K7DDRPHY(platform.request("ddram"), memtype="DDR3", nphases=4, sys_clk_freq=sys_clk_freq)
        eth_phy = LiteEthPHYRGMII(platform.request("eth_clocks"), platform.request("eth"))
        BoardSoC.__init__(self, platform, sys_clk_freq, sdram_phy=phy, sdram_module=ddr3.chip("MT41J256M16")(sys_clk_freq, "1:4"),
                          eth_phy=eth_phy, **kwargs)


if __name__ == "__main__":
    run_target(Genesys2SoC)
