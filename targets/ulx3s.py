"""Radiona ULX3S: ECP5, 16-bit SDRAM, SD card, display and keys; a host comes through the FTDI's UART.

``python -m litediffusion.targets.ulx3s``
"""

from migen import Cat

from litedram import modules
from litex.soc.cores.video import VideoHDMIPHY
from litex_boards.platforms import radiona_ulx3s
from litex_boards.targets.radiona_ulx3s import _CRG as CRG

from litediffusion.targets.array_clock import ECP5_ENGINE, add_array_clock
from litediffusion.targets.board import BoardSoC, run_target
from litediffusion.targets.sdram import sdr_phy


class ULX3SSoC(BoardSoC):
    """SDRAM at twice the system clock (a native word of 32 bits), console and bus on one UART; the appliance's parts."""

    NAME = "ulx3s"
    DESCRIPTION = "litediffusion on Radiona's ULX3S"
    PLATFORM = radiona_ulx3s.Platform
    SYS_CLK_FREQ = 50e6
    OPTIONS = {
        "device": ("LFE5U-85F", ["LFE5U-45F", "LFE5U-85F"], "ECP5 device."),
        "revision": ("2.0", ["1.7", "2.0"], "Board revision."),
        "sdram_module": ("MT48LC16M16", ["MT48LC16M16", "AS4C32M16", "AS4C16M16"], "SDRAM chip."),
        "sdram_rate": ("1:2", ["1:1", "1:2"], "SDRAM clock: the system clock's (1:1) or twice it (1:2)."),
        "appliance": ("yes", ["yes", "no"], "SD card, display on GPDI, and keys."),
    }
    UART = {"uart_name": "crossover+uartbone", "uart_baudrate": 1_000_000}
    ENGINE = ECP5_ENGINE
    LANES = ((58, 2), (58, 18), (58, 34), (34, 34), (34, 2), (34, 18), (10, 2), (10, 18))

    # F2 makes a picture, RIGHT takes the next label, UP reads the card again. F1 is the board's reset.
    KEYS = (2, 6, 3)

    def __init__(self, device="LFE5U-85F", revision="2.0", sdram_module="MT48LC16M16", sdram_rate="1:2", appliance="yes",
                 sys_clk_freq=SYS_CLK_FREQ, toolchain="trellis", **kwargs):
        platform = self.PLATFORM(device=device, revision=revision, toolchain=toolchain)
        self.crg = CRG(platform, sys_clk_freq, with_video_pll=appliance == "yes", sdram_rate=sdram_rate)
        add_array_clock(self.crg, sys_clk_freq)
        phy = sdr_phy(platform.request("sdram"), sys_clk_freq, sdram_rate)
        BoardSoC.__init__(self, platform, sys_clk_freq, sdram_phy=phy,
                          sdram_module=getattr(modules, sdram_module)(sys_clk_freq, sdram_rate),
                          **{**self.UART, **kwargs})
        if appliance == "yes":
            self.add_card()
            self.videophy = VideoHDMIPHY(platform.request("gpdi"), clock_domain="hdmi")
            self.add_display(self.videophy, "hdmi")
            self.add_keys(Cat(platform.request("user_btn", key) for key in self.KEYS))


if __name__ == "__main__":
    run_target(ULX3SSoC)
