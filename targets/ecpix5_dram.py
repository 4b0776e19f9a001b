"""The ECPIX-5's memory for simulation: the board's controller settings and timings over a fast DRAM model."""

from migen import *

from litedram.common import PhySettings, get_default_cl_cwl, get_sys_latency, get_sys_phase
from litedram.modules import MT41K256M16 as StockMT41K256M16
from litedram.modules import _SpeedgradeTimings
from litedram.phy.dfi import Interface
from litex.gen import LiteXModule

NPHASES = 2
DATABITS = 16
DFI_DATABITS = 4 * DATABITS       # ECP5DDRPHY moves a burst of 8 in one system cycle: 4 beats a phase
BURST = 8


class MT41K256M16(StockMT41K256M16):
    """The board's DDR3 chip. LiteDRAM gives tRFC in clocks of 1.25 ns, which wastes 15 % of the bandwidth at slow
    clocks (104 cycles of 75 MHz instead of 20); the data sheet says 260 ns."""

    speedgrade_timings = {grade: _SpeedgradeTimings(tRP=t.tRP, tRCD=t.tRCD, tWR=t.tWR, tRFC=(None, 260), tFAW=t.tFAW,
                                                    tRAS=t.tRAS)
                          for grade, t in StockMT41K256M16.speedgrade_timings.items()}


def phy_settings(sys_clk_freq):
    """PhySettings equal to ECP5DDRPHY's at this clock, without the hardware's read leveling."""
    tck = 2 / (2 * NPHASES * sys_clk_freq)
    cl, cwl = get_default_cl_cwl("DDR3", tck)
    cl_sys, cwl_sys = get_sys_latency(NPHASES, cl), get_sys_latency(NPHASES, cwl)
    return PhySettings(
        phytype="SDRAMPHYModel", memtype="DDR3", databits=DATABITS, dfi_databits=DFI_DATABITS, nphases=NPHASES,
        rdphase=get_sys_phase(NPHASES, cl_sys, cl), wrphase=get_sys_phase(NPHASES, cwl_sys, cwl), cl=cl, cwl=cwl,
        read_latency=cl_sys + 10, write_latency=cwl_sys)


class DRAMModel(LiteXModule):
    """A DRAM behind DFI, one command and one word of 128 bits a system cycle at most.

    Reads answer ``read_latency`` cycles after their command and writes take the data ``write_latency`` cycles after
    theirs, like LiteDRAM's SDRAMPHYModel; the controller in front enforces the timings. Built for speed: one array
    for all banks, and delay lines that carry addresses instead of data. Only the first ``size`` bytes (a power of
    two) exist; higher rows alias them, so the bus must not show more.
    """

    def __init__(self, module, settings, size):
        geometry = module.geom_settings
        self.module, self.settings = module, settings
        self.dfi = dfi = Interface(geometry.addressbits, geometry.bankbits, settings.nranks, settings.dfi_databits,
                                   settings.nphases)

        # # #

        width = settings.dfi_databits * settings.nphases
        columnbits = geometry.colbits - log2_int(BURST)
        rowbits = log2_int(size // (width // 8)) - geometry.bankbits - columnbits
        if not 1 <= rowbits <= geometry.rowbits:
            raise ValueError(f"size={size} bytes needs {rowbits} row bits, the chip has {geometry.rowbits}: "
                             "choose another power of two")
        memory = Memory(width, size // (width // 8))
        self.specials += memory
        rows = [Signal(rowbits) for _ in range(1 << geometry.bankbits)]
        read, read_bank, read_column = self._command(dfi, lambda p: ~p.cas_n & p.ras_n & p.we_n)
        write, write_bank, write_column = self._command(dfi, lambda p: ~p.cas_n & p.ras_n & ~p.we_n)
        activate, activate_bank, activate_row = self._command(dfi, lambda p: p.cas_n & ~p.ras_n & p.we_n)
        self.sync += If(activate, Case(activate_bank, {i: row.eq(activate_row) for i, row in enumerate(rows)}))

        def address(bank, column):
            return Cat(column[log2_int(BURST):log2_int(BURST) + columnbits], bank, Array(rows)[bank])

        self._add_reads(memory, read, address(read_bank, read_column))
        self._add_writes(memory, write, address(write_bank, write_column))

    def _command(self, dfi, is_command):
        """(strobe, bank, address) of the phase that carries this command; the controller uses one phase at a time."""
        strobe, bank, address = Signal(), Signal(len(dfi.p0.bank)), Signal(len(dfi.p0.address))
        for phase in dfi.phases:
            self.comb += If(~phase.cs_n & is_command(phase),
                            strobe.eq(1), bank.eq(phase.bank), address.eq(phase.address))
        return strobe, bank, address

    def _add_reads(self, memory, read, address):
        """The array is read at the command, the data waits in a ring until its cycle comes."""
        depth = 1 << log2_int(self.settings.read_latency, need_pow2=False)
        ring = Memory(memory.width, depth)
        port = memory.get_port(async_read=True)
        fill, drain = ring.get_port(write_capable=True), ring.get_port(async_read=True)
        self.specials += ring, port, fill, drain
        valid = Signal(self.settings.read_latency)
        self.comb += [
            port.adr.eq(address), fill.dat_w.eq(port.dat_r), fill.we.eq(read),
            Cat(*[p.rddata for p in self.dfi.phases]).eq(drain.dat_r),
            Cat(*[p.rddata_valid for p in self.dfi.phases]).eq(Replicate(valid[-1], self.settings.nphases)),
        ]
        self.sync += [
            valid.eq(Cat(read, valid[:-1])),
            If(read, fill.adr.eq(fill.adr + 1)),
            If(valid[-1], drain.adr.eq(drain.adr + 1)),
        ]

    def _add_writes(self, memory, write, address):
        """The address waits for the data, which comes ``write_latency`` cycles after the command."""
        port = memory.get_port(write_capable=True, we_granularity=8)
        self.specials += port
        for _ in range(self.settings.write_latency):
            write_next, address_next = Signal(), Signal(len(port.adr))
            self.sync += [write_next.eq(write), address_next.eq(address)]
            write, address = write_next, address_next
        mask = Cat(*[p.wrdata_mask for p in self.dfi.phases])
        self.comb += [
            port.adr.eq(address), port.dat_w.eq(Cat(*[p.wrdata for p in self.dfi.phases])),
            If(write, port.we.eq(~mask)),
        ]
