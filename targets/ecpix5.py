"""LambdaConcept ECPIX-5: ECP5UM5G, DDR3, gigabit Ethernet. ``python -m litediffusion.targets.ecpix5 --build``"""

from litex.build.generic_platform import IOStandard, Misc, Pins, Subsignal
from litedram.phy import ECP5DDRPHY
from liteeth.phy.ecp5rgmii import LiteEthPHYRGMII
from litex_boards.platforms import lambdaconcept_ecpix5
from litex_boards.targets.lambdaconcept_ecpix5 import _CRG as CRG

from litediffusion.targets.array_clock import ECP5_ENGINE, add_array_clock
from litediffusion.targets.board import BoardSoC, run_target
from litediffusion.targets.ecpix5_dram import MT41K256M16

# The platform's "sdcard" as SPI, and its level shifters: pin, 1 for out. DAT1 and DAT2 share DAT3's.
CARD_PINS = {"clk": "P24", "mosi": "M24", "cs_n": "N21", "miso": "N26"}
CARD_DIRECTIONS = {"cmd": ("M23", 1), "dat0": ("N24", 0), "dat13": ("P26", 1)}


class ECPIX5SoC(BoardSoC):
    """DDR3 with a native word of 128 bits, Etherbone over RGMII."""

    NAME = "ecpix5"
    DESCRIPTION = "litediffusion on LambdaConcept's ECPIX-5"
    PLATFORM = lambdaconcept_ecpix5.Platform
    SYS_CLK_FREQ = 75e6
    SEED = 3
    OPTIONS = {
        "device": ("85F", ["45F", "85F"], "ECP5 device."),
        "card": ("no", ["no", "yes"], "SD card; the console's commands picture, label and card take the place of keys."),
    }
    ENGINE = ECP5_ENGINE

    def __init__(self, device="85F", card="no", sys_clk_freq=SYS_CLK_FREQ, toolchain="trellis", **kwargs):
        platform = self.PLATFORM(device=device, toolchain=toolchain)
        self.crg = CRG(platform, sys_clk_freq)
        add_array_clock(self.crg, sys_clk_freq)
        phy = ECP5DDRPHY(platform.request("ddram"), sys_clk_freq=sys_clk_freq)
        self.comb += [self.crg.stop.eq(phy.init.stop), self.crg.reset.eq(phy.init.reset)]
        eth_phy = LiteEthPHYRGMII(platform.request("eth_clocks"), platform.request("eth"), rx_delay=0)
        BoardSoC.__init__(self, platform, sys_clk_freq, sdram_phy=phy, sdram_module=MT41K256M16(sys_clk_freq, "1:2"),
                          eth_phy=eth_phy, **kwargs)
        if card == "yes":
            self.add_card_pins()
            self.add_card()

    def add_card_pins(self):
        """The card's SPI pins behind the board's level shifters: command and DAT3 (the chip select) go out, DAT0 comes in."""
        pins = {"spisdcard": CARD_PINS, "card_directions": {name: pin for name, (pin, _) in CARD_DIRECTIONS.items()}}
        self.platform.add_extension([(name, 0, *(Subsignal(n, Pins(pin), Misc("PULLMODE=UP")) for n, pin in group.items()),
                                      IOStandard("LVCMOS33")) for name, group in pins.items()])
        pads = self.platform.request("card_directions")
        self.comb += [getattr(pads, name).eq(out) for name, (_, out) in CARD_DIRECTIONS.items()]


if __name__ == "__main__":
    run_target(ECPIX5SoC)
