"""DDR3 chips for LiteDRAM with the data sheets' refresh time."""

from litedram import modules
from litedram.modules import _SpeedgradeTimings

# tRFC in ns of a chip of so many rows (8 banks, 1024 columns, 16 bits): 1, 2, 4 and 8 Gbit.
TRFC_NS = {8192: 110, 16384: 160, 32768: 260, 65536: 350}


def chip(name):
    """LiteDRAM's module class of a x16 chip. LiteDRAM gives tRFC in clocks of the chip's highest speed, which at the
    slow clocks of an FPGA wastes up to 15 % of the bandwidth."""
    stock = getattr(modules, name)
    timings = {grade: _SpeedgradeTimings(tRP=t.tRP, tRCD=t.tRCD, tWR=t.tWR, tRFC=(None, TRFC_NS[stock.nrows]), tFAW=t.tFAW,
                                         tRAS=t.tRAS)
               for grade, t in stock.speedgrade_timings.items()}
    return type(name, (stock,), {"speedgrade_timings": timings})
