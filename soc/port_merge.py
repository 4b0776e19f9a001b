"""The engine's three DRAM ports on one port, for memories whose native word is narrower than the engine's."""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream
from litedram.common import LiteDRAMNativePort

READS_IN_FLIGHT = 16      # reads accepted and not yet answered; a power of two


class PortMerge(LiteXModule):
    """Ports of the engine (two readers, one writer) on one LiteDRAM port for both directions, in its width.

    Commands leave in the order in which they are accepted. So a read accepted after a write's command sees the
    written word, which separate ports behind LiteDRAM's width converters do not promise: each converter keeps accepted
    commands for a while. The writer must have a command's data ready, as LiteDRAMDMAWriter has.

    The writer goes first, then ``readers[0]`` and ``readers[1]`` in turns. One command a cycle at most; no latency.
    ``rdata`` is not held off: the readers must have reserved room, as LiteDRAMDMAReader does.

    Parameters
    ----------
    port : LiteDRAM port of mode "both", in domain sys

    Attributes
    ----------
    readers : two ports of mode "read"
    writer : port of mode "write"
    """

    def __init__(self, port):
        if port.mode != "both" or port.clock_domain != "sys":
            raise ValueError(f"PortMerge: a port of mode {port.mode} in domain {port.clock_domain} does not fit: "
                             "take one of mode both in domain sys")

        def side(mode):
            return LiteDRAMNativePort(mode, address_width=port.address_width, data_width=port.data_width)

        self.readers = readers = [side("read") for _ in range(2)]
        self.writer = writer = side("write")

        # # #

        self.owners = owners = stream.SyncFIFO([("reader", 1)], READS_IN_FLIGHT)
        last, chosen = Signal(), Signal()
        self.comb += [
            chosen.eq(Mux(last, ~readers[0].cmd.valid, readers[1].cmd.valid)),
            If(writer.cmd.valid,
                writer.cmd.connect(port.cmd, omit={"we"}), port.cmd.we.eq(1),
            ).Elif(owners.sink.ready,
                Case(chosen, {i: reader.cmd.connect(port.cmd, omit={"we"}) for i, reader in enumerate(readers)}),
            ),
            owners.sink.reader.eq(chosen),
            owners.sink.valid.eq(~writer.cmd.valid & port.cmd.valid & port.cmd.ready),
            writer.wdata.connect(port.wdata),
            Case(owners.source.reader, {i: port.rdata.connect(reader.rdata) for i, reader in enumerate(readers)}),
            owners.source.ready.eq(port.rdata.valid & port.rdata.ready),
        ]
        self.sync += If(owners.sink.valid, last.eq(chosen))
