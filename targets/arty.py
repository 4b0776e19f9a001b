"""Digilent Arty A7: Artix-7, DDR3, 100 Mbit/s Ethernet. ``python -m litediffusion.targets.arty --build``

Needs Vivado; ``--no-compile-gateware`` stops after Verilog, constraints and project script.
"""

from litedram.phy import s7ddrphy
from liteeth.phy.mii import LiteEthPHYMII
from litex_boards.platforms import digilent_arty
from litex_boards.targets.digilent_arty import _CRG as CRG

from litediffusion.targets import ddr3
from litediffusion.targets.array_clock import add_array_clock
from litediffusion.targets.board import BoardSoC, run_target


class ArtySoC(BoardSoC):
    """DDR3 with a native word of 128 bits, Etherbone over MII."""

    NAME = "arty"
    DESCRIPTION = "litediffusion on Digilent's Arty A7"
    PLATFORM = digilent_arty.Platform
    SYS_CLK_FREQ = 100e6
    OPTIONS = {"variant": ("a7-100", ["a7-35", "a7-100"], "FPGA.")}
    ENGINE = {"dram_bytes": 16, "array_clock": 2}      # an A7-100T has 240 multipliers

    def __init__(self, variant="a7-100", sys_clk_freq=SYS_CLK_FREQ, toolchain="vivado", **kwargs):
        platform = self.PLATFORM(variant=variant, toolchain=toolchain)
        self.crg = CRG(platform, sys_clk_freq)
        add_array_clock(self.crg, sys_clk_freq)
        phy = s7ddrphy.A7DDRPHY(platform.request("ddram"), memtype="DDR3", nphases=4, sys_clk_freq=sys_clk_freq)
        eth_phy = LiteEthPHYMII(platform.request("eth_clocks"), platform.request("eth"))
        BoardSoC.__init__(self, platform, sys_clk_freq, sdram_phy=phy, sdram_module=ddr3.chip("MT41K128M16")(sys_clk_freq, "1:4"),
                          eth_phy=eth_phy, **kwargs)


if __name__ == "__main__":
    run_target(ArtySoC)
