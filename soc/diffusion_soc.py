"""The system on chip: CPU, DRAM, Ethernet, mailbox and engine. The same class serves simulation and boards."""

from migen import *

from litex.gen import LiteXModule
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCCore
from litex.soc.interconnect import wishbone
from liteeth.common import convert_ip

from litediffusion.cores.config import PRESETS
from litediffusion.soc import mailbox, memory_map
from litediffusion.soc.appliance import Appliance
from litediffusion.soc.bulk import Bulk
from litediffusion.soc.bulk_protocol import UDP_PORT as BULK_PORT
from litediffusion.soc.mailbox_control import MailboxControl
from litediffusion.soc.network import add_network
from litediffusion.soc.pipeline import TimeoutRegister, slice_slave
from litediffusion.soc.port_merge import PortMerge
from litediffusion.soc.port_slice import PortSlice

CPU_VARIANTS = ("lite", "minimal")
ROM_BYTES = 0x10000
SRAM_BYTES = 0x4000
BUS_TIMEOUT = 4096       # cycles; an access outside the map answers with an error instead of stalling a million cycles
DEVICE_IP = "192.168.1.50"
DEVICE_MAC = 0x10E2D5000000


class DiffusionSoC(Appliance, SoCCore):
    """SoC around one engine. A target supplies platform, clocks (``self.crg``) and PHYs.

    platform, sys_clk_freq   as in LiteX
    sdram_phy, sdram_module  LiteDRAM PHY and module; a native word narrower than ``config.word_bits`` is slower, of a wider
                             one each engine access uses a part
    eth_phy                  LiteEth PHY (None: the host comes through the UART)
    config                   EngineConfig
    main_ram_size            bytes of DRAM on the bus (None: all of it)
    window_size              bytes of DRAM that the engine may use
    cpu_variant              VexRiscv's: "lite", or "minimal" (no instruction cache, no multiplier) where cells are scarce
    with_ping                the Ethernet core answers ICMP echo requests
    with_bulk                the bulk transfer beside Etherbone (soc/bulk.py); None: where there is Ethernet
    lease_cycles             cycles after which an unrenewed claim lapses (None: mailbox.LEASE_SECONDS)

    The CPU is a VexRiscv without data cache, and no L2 cache follows it, so CPU, host and engine always see the
    same DRAM without a flush. The firmware needs neither: it never touches tensors. It is run from ROM and SRAM.
    """

    def __init__(self, platform, sys_clk_freq, *, sdram_phy, sdram_module, eth_phy=None,
                 config=PRESETS["ecpix5"], main_ram_size=None, window_size=memory_map.WINDOW_SIZE, cpu_variant="lite",
                 device_ip=DEVICE_IP, device_mac=DEVICE_MAC, lease_cycles=None, with_ping=True, with_bulk=None, with_engine=True, ident="litediffusion", **kwargs):
        SoCCore.__init__(self, platform, sys_clk_freq, ident=f"{ident} {config.name}", cpu_type="vexriscv",
                         cpu_variant=cpu_variant, integrated_rom_size=ROM_BYTES, integrated_rom_init=[0x6F],
                         integrated_sram_size=SRAM_BYTES, bus_timeout=BUS_TIMEOUT, timer_uptime=True, **kwargs)
        self.engine_config, self.window_size = config, window_size
        # liblitedram looks for the CSRs of a PHY to be trained under this name.
        setattr(self, "ddrphy" if sdram_phy.settings.memtype.startswith("DDR") else "sdrphy", sdram_phy)
        self.add_sdram("sdram", phy=sdram_phy, module=sdram_module, size=main_ram_size, l2_cache_size=0)
        slice_slave(self, "main_ram")
        self._check_window()
        if eth_phy is not None:
            self.ethphy = eth_phy
            add_network(self, eth_phy, device_ip, device_mac, with_ping)
            if with_bulk is not False:
                self.add_bulk(device_ip)
        elif with_bulk:
            raise ValueError("the bulk transfer needs Ethernet: give the SoC an eth_phy, or leave with_bulk out")
        self.add_mailbox(lease_cycles or int(mailbox.LEASE_SECONDS * sys_clk_freq))
        if with_engine:
            self.add_engine(config)

    def _check_window(self):
        size = self.bus.regions["main_ram"].size
        if memory_map.WINDOW_OFFSET + self.window_size > size:
            raise ValueError(f"a window of {self.window_size:#x} bytes from {memory_map.WINDOW_OFFSET:#x} does not fit in "
                             f"{size:#x} bytes of DRAM: choose a smaller window_size")

    def add_bulk(self, ip_address):
        """The bulk transfer on a DRAM port of its own. The host finds it by the register and the constants."""
        crossbar = self.sdram.crossbar
        # A narrower native word goes through LiteDRAM's converter; the engine of the bulk transfer wants 32 bits at least.
        memory = crossbar.get_port(mode="both", data_width=max(32, crossbar.controller.data_width))
        self.bulk = Bulk(memory, memory_map.WINDOW_OFFSET, self.window_size)
        self.bulk.add_csr()
        udp = self.ethcore_etherbone.udp.crossbar.get_port(BULK_PORT, dw=32)
        self.comb += [udp.source.connect(self.bulk.sink), self.bulk.source.connect(udp.sink)]
        self.add_constant("BULK_IP", convert_ip(ip_address))
        self.add_constant("BULK_PORT", BULK_PORT)
        self.add_constant("BULK_GRAIN", self.bulk.grain)

    def add_mailbox(self, lease_cycles):
        """Mailbox memory (uncached), claim and doorbell."""
        self.mailbox_ram = wishbone.SRAM(mailbox.SIZE)
        region = SoCRegion(origin=memory_map.MAILBOX_BASE, size=mailbox.SIZE, mode="rw", cached=False)
        self.bus.add_slave("mailbox_ram", self.mailbox_ram.bus, region)
        self.mailbox = MailboxControl(lease_cycles)
        self.irq.add("mailbox")

    def add_engine(self, config):
        """The engine on three native DRAM ports (slices of them where they are wider, one through a converter where they
        are narrower), its registers and its interrupt."""
        from litediffusion.cores.array import FAST
        from litediffusion.cores.engine import Engine

        crossbar = self.sdram.crossbar
        native = crossbar.controller.data_width
        if native < config.word_bits:
            self.engine_ports = merge = PortMerge(crossbar.get_port(mode="both", data_width=config.word_bits))
            ports = [*merge.readers, merge.writer]
        else:
            ports = [crossbar.get_port(mode=mode) for mode in ("read", "read", "write")]
            if native > config.word_bits:
                slices = [PortSlice(port, config.word_bits) for port in ports]
                self.submodules += slices
                ports = [one.port for one in slices]
        # A DDR3 PHY's sys2x is an edge clock, which reaches no logic.
        self.engine = ClockDomainsRenamer({FAST: "array"})(Engine(config, *ports))
        self.engine.add_csr()
        self.irq.add("engine")

    def do_finalize(self):
        super().do_finalize()
        self.timeout_register = TimeoutRegister(self.bus._interconnect, BUS_TIMEOUT)
