"""Xilinx KC705: Kintex-7 325T, 64-bit DDR3 module, gigabit Ethernet. ``python -m litediffusion.targets.kc705 --build``

Needs Vivado; ``--no-compile-gateware`` stops after Verilog, constraints and project script.
"""

from litedram.modules import MT8JTF12864
from litedram.phy import s7ddrphy
from liteeth.phy import LiteEthPHY
from litex.gen import LiteXModule
from litex.soc.cores.clock import S7IDELAYCTRL, S7MMCM
from litex_boards.platforms import xilinx_kc705
from migen import *

from litediffusion.targets.board import BoardSoC, run_target


class CRG(LiteXModule):
    """System clock, four times it for the DRAM, 200 MHz for the delays. (litex-boards' own needs LitePCIe to be imported.)"""

    def __init__(self, platform, sys_clk_freq):
        self.rst = Signal()
        self.cd_sys = ClockDomain()
        self.cd_sys4x = ClockDomain()
        self.cd_idelay = ClockDomain()

        # # #

        self.pll = pll = S7MMCM(speedgrade=-2)
        self.comb += pll.reset.eq(platform.request("cpu_reset") | self.rst)
        pll.register_clkin(platform.request("clk200"), 200e6)
        pll.create_clkout(self.cd_sys, sys_clk_freq)
        pll.create_clkout(self.cd_sys4x, 4 * sys_clk_freq)
        pll.create_clkout(self.cd_idelay, 200e6)
        platform.add_false_path_constraints(self.cd_sys.clk, pll.clkin)     # the SoC's reset of the PLL
        self.idelayctrl = S7IDELAYCTRL(self.cd_idelay)


class KC705SoC(BoardSoC):
    """DDR3 with a native word of 512 bits, of which each engine access uses a quarter; Etherbone over GMII or MII."""

    NAME = "kc705"
    DESCRIPTION = "litediffusion on Xilinx' KC705"
    PLATFORM = xilinx_kc705.Platform
    SYS_CLK_FREQ = 125e6
    ENGINE = {"dram_bytes": 16}

    def __init__(self, sys_clk_freq=SYS_CLK_FREQ, toolchain="vivado", **kwargs):
        platform = self.PLATFORM(toolchain=toolchain)
        self.crg = CRG(platform, sys_clk_freq)
        phy = s7ddrphy.K7DDRPHY(platform.request("ddram"), memtype="DDR3", nphases=4, sys_clk_freq=sys_clk_freq)
        eth_phy = LiteEthPHY(platform.request("eth_clocks"), platform.request("eth"), clk_freq=sys_clk_freq)
        BoardSoC.__init__(self, platform, sys_clk_freq, sdram_phy=phy, sdram_module=MT8JTF12864(sys_clk_freq, "1:4"),
                          eth_phy=eth_phy, **kwargs)


if __name__ == "__main__":
    run_target(KC705SoC)
