"""The array's clock on a board: twice the system clock, from the same PLL."""

from migen import ClockDomain

# What an ECP5 board changes in a preset: MULT18X18D blocks at twice the system clock, with their registers; the narrowest POST and no
# trace unit (--with-trace builds it), because the router does not get through more.
ECP5_ENGINE = {"array_clock": 2, "primitives": "ecp5", "post_lanes": 1, "trace": False}


def add_array_clock(crg, sys_clk_freq):
    """Give a target's clock generator the domain ``array`` that EngineConfig.array_clock = 2 needs.

    crg : LiteX clock generator with its PLL as ``pll``, before it is finalised

    The domain has no reset: the array holds no state that outlives a word. Its edges may come before the system
    clock's by up to a quarter of a system period (a divider between PLL and system clock does that on DDR3 boards):
    the crossings in ``cores/array.py`` have three quarters of a system period into it, and half of one back (targets/report.py).
    """
    crg.cd_array = ClockDomain(reset_less=True)
    crg.pll.create_clkout(crg.cd_array, 2 * sys_clk_freq, with_reset=False)
