"""Greg Davill's OrangeCrab: ECP5, DDR3. ``python -m litediffusion.targets.orangecrab --build``"""

from litedram.phy import ECP5DDRPHY
from litex_boards.platforms import gsd_orangecrab
from litex_boards.targets.gsd_orangecrab import _CRGSDRAM as CRG

from litediffusion.targets import ddr3
from litediffusion.targets.array_clock import ECP5_ENGINE, add_array_clock
from litediffusion.targets.board import BoardSoC, run_target


class OrangeCrabSoC(BoardSoC):
    """DDR3 with a native word of 128 bits; console and bus on one UART at the feather's pins 0 (RX) and 1 (TX)."""

    NAME = "orangecrab"
    DESCRIPTION = "litediffusion on the OrangeCrab"
    PLATFORM = gsd_orangecrab.Platform
    SYS_CLK_FREQ = 64e6
    OPTIONS = {
        "device": ("85F", ["25F", "45F", "85F"], "ECP5 device."),
        "revision": ("0.2", ["0.1", "0.2"], "Board revision."),
        "sdram_device": ("MT41K64M16", ["MT41K64M16", "MT41K128M16", "MT41K256M16", "MT41K512M16"], "DDR3 chip."),
    }
    UART = {"uart_name": "crossover+uartbone", "uart_baudrate": 1_000_000}
    ENGINE = ECP5_ENGINE

    def __init__(self, device="85F", revision="0.2", sdram_device="MT41K64M16", sys_clk_freq=SYS_CLK_FREQ, toolchain="trellis",
                 **kwargs):
        platform = self.PLATFORM(revision=revision, device=device, toolchain=toolchain)
        platform.add_extension(gsd_orangecrab.feather_serial)
        self.crg = CRG(platform, sys_clk_freq)
        add_array_clock(self.crg, sys_clk_freq)
        pads = platform.request("ddram")
        phy = ECP5DDRPHY(pads, sys_clk_freq=sys_clk_freq, dm_remapping={0: 1, 1: 0}, cmd_delay=0 if sys_clk_freq > 64e6 else 100)
        phy.settings.rtt_nom = "disabled"
        # Pins that stand in for supplies.
        self.comb += [getattr(pads, name).eq(level) for name, level in (("vccio", 0b111111), ("gnd", 0)) if hasattr(pads, name)]
        self.comb += [self.crg.stop.eq(phy.init.stop), self.crg.reset.eq(phy.init.reset)]
        BoardSoC.__init__(self, platform, sys_clk_freq, sdram_phy=phy, sdram_module=ddr3.chip(sdram_device)(sys_clk_freq, "1:2"),
                          **{**self.UART, **kwargs})


if __name__ == "__main__":
    run_target(OrangeCrabSoC)
