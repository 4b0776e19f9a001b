"""The system on chip: CPU, DRAM, Ethernet, mailbox and engine. The same class serves simulation and boards."""

from migen import *

from litex.gen import LiteXModule
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCCore
from litex.soc.interconnect import wishbone
from liteeth.common import convert_ip, ethernet_type_ip, icmp_protocol

from litediffusion.cores.config import PRESETS
from litediffusion.soc import mailbox, memory_map
from litediffusion.soc.appliance import Appliance
from litediffusion.soc.bulk import Bulk
from litediffusion.soc.bulk_protocol import UDP_PORT as BULK_PORT
from litediffusion.soc.mailbox_control import MailboxControl
from litediffusion.soc.pipeline import PortBuffer, TimeoutRegister, slice_master, slice_slave
from litediffusion.soc.port_merge import PortMerge
from litediffusion.soc.port_slice import PortSlice

ROM_BYTES = 0x10000
SRAM_BYTES = 0x4000
BUS_TIMEOUT = 4096       # cycles; an access outside the map answers with an error instead of stalling a million cycles
ETHERBONE_WORDS = 256    # a record of the longest packet; LiteX's default of 16 hangs on longer bursts
UDP_PORT = 1234
DEVICE_IP = "192.168.1.50"
DEVICE_MAC = 0x10E2D5000000


class PacketFIFOFix(LiteXModule):
    """LiteX's PacketFIFO takes a packet's parameters again in every cycle that its last word waits for a full FIFO,
    and hangs. Only packets in close succession get so far. Add this after the module that holds the ``fifos``: the
    later assignment wins."""

    def __init__(self, fifos):
        self.comb += [fifo.param_fifo.sink.valid.eq(fifo.sink.valid & fifo.sink.last & fifo.payload_fifo.sink.ready)
                      for fifo in fifos]


class DiffusionSoC(Appliance, SoCCore):
    """SoC around one engine. A target supplies platform, clocks (``self.crg``) and PHYs.

    platform, sys_clk_freq   as in LiteX
    sdram_phy, sdram_module  LiteDRAM PHY and module; a native word narrower than ``config.word_bits`` is slower, of a wider
                             one each engine access uses a part
    eth_phy                  LiteEth PHY (None: the host comes through the UART)
    config                   EngineConfig
    main_ram_size            bytes of DRAM on the bus (None: all of it)
    window_size              bytes of DRAM that the engine may use
    eth_data_width           width of the Ethernet core's data path: 8, or 32 (in the system clock domain)
    with_bulk                the bulk transfer beside Etherbone (soc/bulk.py); None: where there is Ethernet, 32 bits wide
    lease_cycles             cycles after which an unrenewed claim lapses (None: mailbox.LEASE_SECONDS)

    The CPU is the ``lite`` VexRiscv: no data cache, and no L2 cache follows it, so CPU, host and engine always see the
    same DRAM without a flush. The firmware needs neither: it never touches tensors. It is run from ROM and SRAM.
    """

    def __init__(self, platform, sys_clk_freq, *, sdram_phy, sdram_module, eth_phy=None,
                 config=PRESETS["ecpix5"], main_ram_size=None, window_size=memory_map.WINDOW_SIZE, eth_data_width=8,
                 device_ip=DEVICE_IP, device_mac=DEVICE_MAC, lease_cycles=None, with_bulk=None, with_engine=True, ident="litediffusion", **kwargs):
        SoCCore.__init__(self, platform, sys_clk_freq, ident=f"{ident} {config.name}", cpu_type="vexriscv",
                         cpu_variant="lite", integrated_rom_size=ROM_BYTES, integrated_rom_init=[0x6F],
                         integrated_sram_size=SRAM_BYTES, bus_timeout=BUS_TIMEOUT, timer_uptime=True, **kwargs)
        self.engine_config, self.window_size = config, window_size
        # liblitedram looks for the CSRs of a PHY to be trained under this name.
        setattr(self, "ddrphy" if sdram_phy.settings.memtype.startswith("DDR") else "sdrphy", sdram_phy)
        self.add_sdram("sdram", phy=sdram_phy, module=sdram_module, size=main_ram_size, l2_cache_size=0)
        slice_slave(self, "main_ram")
        self._check_window()
        if eth_phy is not None:
            self.ethphy = eth_phy
            self.add_network(eth_phy, device_ip, device_mac, eth_data_width)
        bulk_fits = eth_phy is not None and eth_data_width == 32
        if with_bulk and not bulk_fits:
            raise ValueError(f"the bulk transfer needs Ethernet with a data path of 32 bits, not {eth_data_width if eth_phy else 'none'}")
        if bulk_fits and with_bulk is not False:
            self.add_bulk(device_ip)
        self.add_mailbox(lease_cycles or int(mailbox.LEASE_SECONDS * sys_clk_freq))
        if with_engine:
            self.add_engine(config)

    def _check_window(self):
        size = self.bus.regions["main_ram"].size
        if memory_map.WINDOW_OFFSET + self.window_size > size:
            raise ValueError(f"a window of {self.window_size:#x} bytes from {memory_map.WINDOW_OFFSET:#x} does not fit in "
                             f"{size:#x} bytes of DRAM: choose a smaller window_size")

    def add_network(self, phy, ip_address, mac_address, data_width):
        """Etherbone: the host's way to the bus."""
        self.add_etherbone(phy=phy, ip_address=ip_address, mac_address=mac_address, udp_port=UDP_PORT,
                           buffer_depth=ETHERBONE_WORDS, data_width=data_width)
        record = self.etherbone.record
        self.etherbone_fix = PacketFIFOFix([record.receiver.fifo, record.sender.fifo])
        slice_master(self, "etherbone")
        core = self.ethcore_etherbone
        self.ip_buffer = PortBuffer(core.mac.crossbar, ethernet_type_ip, receive=("valid", "ready"), send=("ready",))
        self.icmp_buffer = PortBuffer(core.ip.crossbar, icmp_protocol, receive=("valid", "ready"), send=("valid", "ready"))
        self.etherbone_buffer = PortBuffer(core.udp.crossbar, UDP_PORT, receive=("ready",), send=("valid", "ready"))

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
