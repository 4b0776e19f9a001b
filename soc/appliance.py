"""What makes the SoC an appliance that needs no host: SD card, display, keys. A target adds what its board has."""

from migen import *
from migen.genlib.cdc import MultiReg

from litex.gen import LiteXModule
from litex.soc.interconnect.csr import CSRStatus

from litediffusion.soc import memory_map
from litediffusion.soc.display import Display


class Keys(LiteXModule):
    """Keys as a CSR, one bit each, 1 while it is held down. The firmware debounces. ``pads``: any phase, active high."""

    def __init__(self, pads):
        self._pressed = CSRStatus(len(pads), description="Keys that are held down.")

        # # #

        self.specials += MultiReg(pads, self._pressed.status)


class HeldSelect(LiteXModule):
    """LiteX's SPIMaster lifts the chip select between two bytes unless its driver sets a bit that the driver of SD cards
    leaves alone; a card may take that as the end of a command. Add this after the master: the later assignment wins."""

    def __init__(self, master):
        self.comb += master.cs_mode.eq(1)


class Appliance:
    """Methods of DiffusionSoC. The firmware finds out from the CSRs which of the three the SoC has; it loads programs
    from the card if there is one, and needs neither display nor keys for that."""

    def add_card(self):
        """The SD card on SPI, pads ``spisdcard`` of the platform: a shift register that the CPU drives byte by byte.

        About 180 LUTs on an ECP5, where LiteSDCard and its DMA take about 1,400 and a block RAM. Four bits at once would be
        faster, but a program is read once, and an 85F has more use for the LUTs in the engine.
        """
        self.add_spi_sdcard()
        self.spisdcard_select = HeldSelect(self.spisdcard)

    def add_display(self, phy, clock_domain):
        """The frame of the memory map on ``phy``, a LiteX video PHY or its sink, in its clock domain.

        About 390 LUTs and one block RAM on an ECP5, and 640 LUTs for three TMDS lines (VideoHDMIPHY).
        """
        self.display = Display(self.sdram.crossbar.get_port(mode="read"), memory_map.FRAME_OFFSET, memory_map.FRAME_WIDTH,
                               memory_map.FRAME_HEIGHT, clock_domain)
        self.display.add_csr()
        self.comb += self.display.source.connect(getattr(phy, "sink", phy))

    def add_keys(self, pads):
        """Keys in the order of firmware/loop.h."""
        self.keys = Keys(pads)
