"""Colorlight i9: ECP5 45F, 32-bit SDRAM, gigabit Ethernet. ``python -m litediffusion.targets.colorlight_i9 --build``"""

from litedram.modules import M12L64322A
from liteeth.phy.ecp5rgmii import LiteEthPHYRGMII
from litex_boards.platforms import colorlight_i5
from litex_boards.targets.colorlight_i5 import _CRG as CRG

from litediffusion.soc import memory_map
from litediffusion.targets.array_clock import ECP5_ENGINE, add_array_clock
from litediffusion.targets.board import BoardSoC, run_target
from litediffusion.targets.sdram import sdr_phy

DRAM_BYTES = 8 << 20


class ColorlightI9SoC(BoardSoC):
    """8 MiB of SDRAM (a native word of 32 bits, or 64 at half rate), Etherbone over the first RGMII port."""

    NAME = "colorlight_i9"
    DESCRIPTION = "litediffusion on Colorlight's i9"
    MODEL = "i9"
    PLATFORM = colorlight_i5.Platform
    SYS_CLK_FREQ = 50e6
    OPTIONS = {
        "revision": ("7.2", ["7.2"], "Board revision."),
        "sdram_rate": ("1:1", ["1:1", "1:2"], "SDRAM clock: the system clock's (1:1) or twice it (1:2)."),
    }
    PRESET = "colorlight"
    ENGINE = {**ECP5_ENGINE, "gemm_cycles": 2}      # half an array: a whole one takes the wires that the rest needs

    def __init__(self, revision=None, sdram_rate="1:1", sys_clk_freq=SYS_CLK_FREQ, toolchain="trellis", **kwargs):
        platform = self.PLATFORM(board=self.MODEL, revision=revision or self.OPTIONS["revision"][0], toolchain=toolchain)
        self.crg = CRG(platform, sys_clk_freq, sdram_rate=sdram_rate)
        add_array_clock(self.crg, sys_clk_freq)
        phy = sdr_phy(platform.request("sdram"), sys_clk_freq, sdram_rate)
        eth_phy = LiteEthPHYRGMII(platform.request("eth_clocks", 0), platform.request("eth", 0), tx_delay=0)
        BoardSoC.__init__(self, platform, sys_clk_freq, sdram_phy=phy, sdram_module=M12L64322A(sys_clk_freq, sdram_rate),
                          window_size=DRAM_BYTES - memory_map.WINDOW_OFFSET, eth_phy=eth_phy,
                          **{"cpu_variant": "minimal", "with_ping": False, "with_bulk": False, **kwargs})     # the 45F is full


if __name__ == "__main__":
    run_target(ColorlightI9SoC)
