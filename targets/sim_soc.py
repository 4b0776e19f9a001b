"""DiffusionSoC on the simulated ECPIX-5: platform, clock and PHYs."""

from pathlib import Path

from migen import *

from litex.build.generic_platform import GenericPlatform, Pins, Subsignal
from litex.gen import LiteXModule
from litex.soc.interconnect import stream
from liteeth.common import eth_phy_description
from migen.genlib.io import CRG

from litediffusion.cores.config import PRESETS
from litediffusion.soc import memory_map
from litediffusion.soc.diffusion_soc import DiffusionSoC
from litediffusion.targets.ecpix5_dram import NPHASES, DRAMModel, MT41K256M16, phy_settings

SYS_CLK_FREQ = 75e6
MAIN_RAM_BYTES = 1 << (memory_map.WINDOW_OFFSET + memory_map.WINDOW_SIZE - 1).bit_length()
ETH_WIDTH = 32
MEMTEST_BYTES = 4096


def _stream_pins(width, extra=()):
    return [Subsignal(f"{side}_{name}", Pins(bits)) for side in ("source", "sink")
            for name, bits in (("valid", 1), ("ready", 1), ("data", width), *extra)]


_io = [
    ("sys_clk", 0, Pins(1)),
    ("serial", 0, *_stream_pins(8)),
    ("eth", 0, *_stream_pins(ETH_WIDTH, [("last", 1), ("last_be", ETH_WIDTH // 8)])),
]


class Platform(GenericPlatform):
    """Writes Verilog and stops there: Verilator takes over."""

    def __init__(self):
        GenericPlatform.__init__(self, "SIM", _io, name="sim")
        self.verilog_files = []

    def build(self, fragment, build_dir, build_name="sim", run=True, **kwargs):
        """``build_dir/sim.v``, its memory contents beside it, and the list ``verilog_files``. Returns the name space."""
        self.finalize(fragment)
        output = self.get_verilog(fragment, name="sim")
        for name, text in {"sim.v": output.main_source, **output.data_files}.items():
            Path(build_dir, name).write_text(text)
        self.verilog_files = [f"{build_dir}/sim.v", *(source[0] for source in self.sources)]
        return output.ns


class EthPHY(LiteXModule):
    """Simulated Ethernet PHY: whole frames without preamble, CRC and gap, ``dw`` bits a system cycle.

    Unlike a real one it can hold the sender off (``sink_ready``), so frames are never lost in front of the MAC.
    """

    dw = ETH_WIDTH
    model = True
    with_preamble_crc = False
    with_padding = False
    integrated_ifg_inserter = True

    def __init__(self, pads):
        self.sink = sink = stream.Endpoint(eth_phy_description(self.dw))
        self.fifo = fifo = stream.SyncFIFO(eth_phy_description(self.dw), 4)   # a ready that depends on no input
        self.source = fifo.source
        self.cd_eth_rx = ClockDomain()
        self.cd_eth_tx = ClockDomain()

        # # #

        self.comb += [
            self.cd_eth_rx.clk.eq(ClockSignal("sys")), self.cd_eth_rx.rst.eq(ResetSignal("sys")),
            self.cd_eth_tx.clk.eq(ClockSignal("sys")), self.cd_eth_tx.rst.eq(ResetSignal("sys")),
        ]
        for name in ("valid", "data", "last", "last_be"):
            self.comb += [
                getattr(fifo.sink, name).eq(getattr(pads, f"sink_{name}")),
                getattr(pads, f"source_{name}").eq(getattr(sink, name)),
            ]
        self.comb += [pads.sink_ready.eq(fifo.sink.ready), sink.ready.eq(pads.source_ready)]


class SimSoC(DiffusionSoC):
    """The default target: the ECPIX-5's clock ratio, memory width, memory timings and engine preset."""

    def __init__(self, config=PRESETS["ecpix5"], **kwargs):
        platform = Platform()
        self.crg = CRG(platform.request("sys_clk"))
        module = MT41K256M16(SYS_CLK_FREQ, f"1:{NPHASES}")
        settings = phy_settings(SYS_CLK_FREQ)
        eth_phy = EthPHY(platform.request("eth"))
        DiffusionSoC.__init__(
            self, platform, SYS_CLK_FREQ, config=config, sdram_phy=DRAMModel(module, settings, MAIN_RAM_BYTES),
            sdram_module=module, eth_phy=eth_phy, main_ram_size=MAIN_RAM_BYTES,
            eth_data_width=ETH_WIDTH, uart_name="sim", **kwargs)
        # The DRAM's self-test at start-up covers 2 MiB on boards: minutes of simulation.
        for name in ("MEMTEST_DATA_SIZE", "MEMTEST_ADDR_SIZE"):
            self.add_constant(name, MEMTEST_BYTES)