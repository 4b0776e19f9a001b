"""LambdaConcept ECPIX-5: ECP5UM5G, DDR3, gigabit Ethernet. ``python -m litediffusion.targets.ecpix5 --build``"""

from litedram.phy import ECP5DDRPHY
from liteeth.phy.ecp5rgmii import LiteEthPHYRGMII
from litex_boards.platforms import lambdaconcept_ecpix5
from litex_boards.targets.lambdaconcept_ecpix5 import _CRG as CRG

from litediffusion.targets.board import BoardSoC, run_target
from litediffusion.targets.ecpix5_dram import MT41K256M16


class ECPIX5SoC(BoardSoC):
    """DDR3 with a native word of 128 bits, Etherbone over RGMII."""

    NAME = "ecpix5"
    DESCRIPTION = "litediffusion on LambdaConcept's ECPIX-5"
    PLATFORM = lambdaconcept_ecpix5.Platform
    SYS_CLK_FREQ = 75e6
    OPTIONS = {"device": ("85F", ["45F", "85F"], "ECP5 device.")}
    ENGINE = {"lut_multipliers": True}      # an 85F has 156 multipliers, the engine without this wants 179

    def __init__(self, device="85F", sys_clk_freq=SYS_CLK_FREQ, toolchain="trellis", **kwargs):
        platform = self.PLATFORM(device=device, toolchain=toolchain)
        self.crg = CRG(platform, sys_clk_freq)
        phy = ECP5DDRPHY(platform.request("ddram"), sys_clk_freq=sys_clk_freq)
        self.comb += [self.crg.stop.eq(phy.init.stop), self.crg.reset.eq(phy.init.reset)]
        eth_phy = LiteEthPHYRGMII(platform.request("eth_clocks"), platform.request("eth"), rx_delay=0)
        BoardSoC.__init__(self, platform, sys_clk_freq, sdram_phy=phy, sdram_module=MT41K256M16(sys_clk_freq, "1:2"),
                          eth_phy=eth_phy, eth_data_width=32, **kwargs)


if __name__ == "__main__":
    run_target(ECPIX5SoC)
