"""LambdaConcept ECPIX-5: ECP5UM5G, DDR3, gigabit Ethernet."""

from litedram.phy import ECP5DDRPHY
from liteeth.phy.ecp5rgmii import LiteEthPHYRGMII
from litex_boards.platforms import lambdaconcept_ecpix5
from litex_boards.targets.lambdaconcept_ecpix5 import _CRG as CRG

from litediffusion.cores.config import PRESETS
from litediffusion.soc.diffusion_soc import DiffusionSoC
from litediffusion.targets.ecpix5_dram import MT41K256M16


class ECPIX5SoC(DiffusionSoC):
    """DiffusionSoC with the board's DDR3 (128-bit native word) and RGMII PHY."""

    def __init__(self, device="85F", sys_clk_freq=75e6, config=PRESETS["ecpix5"], toolchain="trellis", **kwargs):
        platform = lambdaconcept_ecpix5.Platform(device=device, toolchain=toolchain)
        self.crg = CRG(platform, sys_clk_freq)
        phy = ECP5DDRPHY(platform.request("ddram"), sys_clk_freq=sys_clk_freq)
        self.comb += [self.crg.stop.eq(phy.init.stop), self.crg.reset.eq(phy.init.reset)]
        eth_phy = LiteEthPHYRGMII(platform.request("eth_clocks"), platform.request("eth"), rx_delay=0e-9)
        DiffusionSoC.__init__(self, platform, sys_clk_freq, config=config, sdram_phy=phy,
                              sdram_module=MT41K256M16(sys_clk_freq, "1:2"), eth_phy=eth_phy, eth_data_width=32, **kwargs)
