"""SDRAM PHYs of LiteDRAM on boards whose engine fills the chip."""

from copy import copy

from litedram.phy import GENSDRPHY, HalfRateGENSDRPHY
from litedram.phy.dfi import Interface
from litex.gen import LiteXModule
from migen import *


class RegisteredPHY(LiteXModule):
    """A PHY behind registers: commands and write data reach its pins a cycle later, and so do the answers.

    Without them a path leads from the last FIFO of a write, over LiteDRAM's converter and multiplexer, to the pins; with an SDRAM at
    twice the system clock it has half a cycle, and nextpnr does not look at paths between clocks.

    phy : LiteDRAM PHY whose DFI lies in the system clock domain

    ``dfi`` and ``settings`` are what a LiteDRAMCore takes of a PHY.
    """

    def __init__(self, phy):
        self.phy, self.settings = phy, copy(phy.settings)
        self.settings.read_latency += 1
        address, bank = (len(getattr(phy.dfi.phases[0], name)) for name in ("address", "bank"))
        self.dfi = Interface(address, bank, self.settings.nranks, self.settings.dfi_databits, self.settings.nphases)

        # # #

        for outer, inner in zip(self.dfi.phases, phy.dfi.phases):
            for name, _, direction in outer.layout:
                ours, theirs = getattr(outer, name), getattr(inner, name)
                if direction == DIR_M_TO_S:
                    self.sync += theirs.eq(ours)
                else:
                    self.comb += ours.eq(theirs)


def sdr_phy(pads, sys_clk_freq, rate):
    """PHY of an SDRAM at the system clock (rate "1:1") or at twice it ("1:2")."""
    return GENSDRPHY(pads, sys_clk_freq) if rate == "1:1" else RegisteredPHY(HalfRateGENSDRPHY(pads, sys_clk_freq))
