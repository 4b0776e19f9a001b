"""Greg Davill's ButterStick: ECP5UM5G, DDR3, gigabit Ethernet. ``python -m litediffusion.targets.butterstick --build``"""

from litedram.phy import ECP5DDRPHY
from liteeth.phy.ecp5rgmii import LiteEthPHYRGMII
from litex_boards.platforms import gsd_butterstick
from litex_boards.targets.gsd_butterstick import _CRG as CRG

from litediffusion.targets import ddr3
from litediffusion.targets.array_clock import ECP5_ENGINE, add_array_clock
from litediffusion.targets.board import BoardSoC, run_target


class ButterStickSoC(BoardSoC):
    """DDR3 with a native word of 128 bits, Etherbone over RGMII; the board has no UART, so its console is a crossover UART."""

    NAME = "butterstick"
    DESCRIPTION = "litediffusion on the ButterStick"
    PLATFORM = gsd_butterstick.Platform
    SYS_CLK_FREQ = 75e6
    OPTIONS = {
        "device": ("85F", ["25F", "45F", "85F"], "ECP5 device."),
        "sdram_device": ("MT41K64M16", ["MT41K64M16", "MT41K128M16", "MT41K256M16", "MT41K512M16"], "DDR3 chip."),
    }
    UART = {"uart_name": "crossover"}
    ENGINE = ECP5_ENGINE

    def __init__(self, device="85F", sdram_device="MT41K64M16", sys_clk_freq=SYS_CLK_FREQ, toolchain="trellis", **kwargs):
        platform = self.PLATFORM(device=device, toolchain=toolchain)
        self.crg = CRG(platform, sys_clk_freq)
        add_array_clock(self.crg, sys_clk_freq)
        phy = ECP5DDRPHY(platform.request("ddram"), sys_clk_freq=sys_clk_freq)
        self.comb += [self.crg.stop.eq(phy.init.stop), self.crg.reset.eq(phy.init.reset)]
        eth_phy = LiteEthPHYRGMII(platform.request("eth_clocks"), platform.request("eth"), rx_delay=0)
        BoardSoC.__init__(self, platform, sys_clk_freq, sdram_phy=phy, sdram_module=ddr3.chip(sdram_device)(sys_clk_freq, "1:2"),
                          eth_phy=eth_phy, **{**self.UART, **kwargs})


if __name__ == "__main__":
    run_target(ButterStickSoC)
