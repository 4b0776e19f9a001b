"""Lattice Versa ECP5: ECP5 45F, DDR3, gigabit Ethernet. ``python -m litediffusion.targets.versa_ecp5 --build``"""

from litedram.phy import ECP5DDRPHY
from liteeth.phy.ecp5rgmii import LiteEthPHYRGMII
from litex_boards.platforms import lattice_versa_ecp5
from litex_boards.targets.lattice_versa_ecp5 import _CRG as CRG

from litediffusion.targets import ddr3
from litediffusion.targets.array_clock import ECP5_ENGINE, add_array_clock
from litediffusion.targets.board import BoardSoC, run_target


class VersaECP5SoC(BoardSoC):
    """DDR3 with a native word of 128 bits, Etherbone over the first or second RGMII port."""

    NAME = "versa_ecp5"
    DESCRIPTION = "litediffusion on Lattice's Versa ECP5"
    PLATFORM = lattice_versa_ecp5.Platform
    SYS_CLK_FREQ = 75e6
    OPTIONS = {
        "device": ("LFE5UM5G", ["LFE5UM5G", "LFE5UM"], "ECP5 family of the 45F."),
        "eth_port": ("0", ["0", "1"], "Ethernet port."),
    }
    PRESET = "colorlight"
    ENGINE = {**ECP5_ENGINE, "lut_multipliers": True, "dram_bytes": 8}      # a 45F has 72 multipliers

    def __init__(self, device="LFE5UM5G", eth_port="0", sys_clk_freq=SYS_CLK_FREQ, toolchain="trellis", **kwargs):
        platform = self.PLATFORM(device=device, toolchain=toolchain)
        self.crg = CRG(platform, sys_clk_freq)
        add_array_clock(self.crg, sys_clk_freq)
        phy = ECP5DDRPHY(platform.request("ddram"), sys_clk_freq=sys_clk_freq)
        self.comb += [self.crg.stop.eq(phy.init.stop), self.crg.reset.eq(phy.init.reset)]
        port = int(eth_port)
        eth_phy = LiteEthPHYRGMII(platform.request("eth_clocks", port), platform.request("eth", port), tx_delay=0, rx_delay=0)
        BoardSoC.__init__(self, platform, sys_clk_freq, sdram_phy=phy, sdram_module=ddr3.chip("MT41K64M16")(sys_clk_freq, "1:2"),
                          eth_phy=eth_phy, **kwargs)


if __name__ == "__main__":
    run_target(VersaECP5SoC)
