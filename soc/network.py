"""Ethernet: LiteEth's core and Etherbone, the host's way to the bus. 32 bits wide, in the system clock domain up to the PHY."""

from litex.gen import LiteXModule
from liteeth.common import ethernet_type_ip, icmp_protocol
from liteeth.core import LiteEthUDPIPCore
from liteeth.frontend.etherbone import LiteEthEtherbone

from litediffusion.soc.pipeline import PortBuffer, slice_master

ETHERNET_BITS = 32
ETHERBONE_WORDS = 256    # a record of the longest packet; LiteX's default of 16 hangs on longer bursts
UDP_PORT = 1234
CLOCK_FIFO_WORDS = 16    # one distributed RAM deep: LiteEth's default of 32 puts a multiplexer into the PHY's 125 MHz


class PacketFIFOFix(LiteXModule):
    """LiteX's PacketFIFO takes a packet's parameters again in every cycle that its last word waits for a full FIFO,
    and hangs. Only packets in close succession get so far. Add this after the module that holds the ``fifos``: the
    later assignment wins."""

    def __init__(self, fifos):
        self.comb += [fifo.param_fifo.sink.valid.eq(fifo.sink.valid & fifo.sink.last & fifo.payload_fifo.sink.ready)
                      for fifo in fifos]


def add_network(soc, phy, ip_address, mac_address, with_ping=True):
    """Add core and Etherbone to a SoC, named as LiteX's add_etherbone names them, which has no arguments for FIFOs and ping.

    phy        : LiteEth PHY, a submodule of the SoC
    with_ping  : answer ICMP echo requests
    """
    soc.ethcore_etherbone = core = LiteEthUDPIPCore(
        phy, mac_address, ip_address, soc.clk_freq, dw=ETHERNET_BITS, with_icmp=with_ping, with_sys_datapath=True,
        tx_cdc_depth=CLOCK_FIFO_WORDS, rx_cdc_depth=CLOCK_FIFO_WORDS)
    soc.etherbone = etherbone = LiteEthEtherbone(core.udp, UDP_PORT, buffer_depth=ETHERBONE_WORDS)
    soc.bus.add_master(name="etherbone", master=etherbone.wishbone.bus)
    slice_master(soc, "etherbone")
    soc.etherbone_fix = PacketFIFOFix([etherbone.record.receiver.fifo, etherbone.record.sender.fifo])
    soc.ip_buffer = PortBuffer(core.mac.crossbar, ethernet_type_ip, receive=("valid", "ready"), send=("ready",))
    if with_ping:
        soc.icmp_buffer = PortBuffer(core.ip.crossbar, icmp_protocol, receive=("valid", "ready"), send=("valid", "ready"))
    soc.etherbone_buffer = PortBuffer(core.udp.crossbar, UDP_PORT, receive=("ready",), send=("valid", "ready"))
    if not getattr(phy, "model", False):
        constrain_clocks(soc, phy)


def constrain_clocks(soc, phy):
    """Periods of the PHY's clocks, which have no relation to the system clock."""
    clocks = getattr(phy, "crg", phy)
    receive, transmit = clocks.cd_eth_rx.clk, clocks.cd_eth_tx.clk
    soc.platform.add_period_constraint(receive, 1e9 / phy.rx_clk_freq)
    soc.platform.add_false_path_constraints(soc.crg.cd_sys.clk, receive)
    if transmit is not receive:
        soc.platform.add_period_constraint(transmit, 1e9 / phy.tx_clk_freq)
        soc.platform.add_false_path_constraints(receive, transmit)
        soc.platform.add_false_path_constraints(soc.crg.cd_sys.clk, transmit)
