"""A port of the engine's width on a memory whose native word is wider."""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream
from litedram.common import LiteDRAMNativePort

IN_FLIGHT = 32      # commands accepted whose data are still to come; LiteDRAM keeps about 20 for a port; a power of two


class PortSlice(LiteXModule):
    """``port``, ``data_width`` bits wide, on the wider LiteDRAM port ``native`` of the same mode and domain.

    Every command passes at once and becomes one native command: a read takes its slice of the native word, a write
    enables its slice's bytes only. Nothing is held back or combined, so three such ports keep the promise of three
    native ones: a read accepted after a write's command sees the written word. (LiteDRAM's own up-converter waits for
    the next command before it sends a write or answers a read: the last word of a program would stay in it.)

    Throughput: one command a cycle, so data_width bits a cycle of the memory's rate. Latency: none added. It stalls a
    command while IN_FLIGHT of them wait for data. ``rdata`` is not held off, as on a native port.

    Raises ValueError when the widths do not fit.
    """

    def __init__(self, native, data_width):
        ratio = native.data_width // data_width
        if ratio < 2 or native.data_width % data_width or ratio & (ratio - 1):
            raise ValueError(f"PortSlice: a port of {data_width} bits on one of {native.data_width}: the native one must be wider "
                             "by a power of two")
        bits = log2_int(ratio)
        self.port = port = LiteDRAMNativePort(native.mode, native.address_width + bits, data_width, native.clock_domain)

        # # #

        self.slices = slices = stream.SyncFIFO([("slice", bits)], IN_FLIGHT)
        here = slices.source.slice
        self.comb += [
            native.cmd.valid.eq(port.cmd.valid & slices.sink.ready),
            native.cmd.addr.eq(port.cmd.addr[bits:]),
            native.cmd.we.eq(port.cmd.we),
            port.cmd.ready.eq(native.cmd.ready & slices.sink.ready),
            slices.sink.valid.eq(port.cmd.valid & native.cmd.ready),
            slices.sink.slice.eq(port.cmd.addr[:bits]),
        ]
        if native.mode == "read":
            parts = [native.rdata.data[i * data_width:(i + 1) * data_width] for i in range(ratio)]
            self.comb += [
                port.rdata.valid.eq(native.rdata.valid), native.rdata.ready.eq(port.rdata.ready),
                port.rdata.data.eq(Array(parts)[here]),
                slices.source.ready.eq(native.rdata.valid & native.rdata.ready),
            ]
        else:
            self.comb += [
                native.wdata.valid.eq(port.wdata.valid), port.wdata.ready.eq(native.wdata.ready),
                native.wdata.data.eq(Replicate(port.wdata.data, ratio)),
                Case(here, {i: native.wdata.we[i * data_width // 8:(i + 1) * data_width // 8].eq(port.wdata.we)
                            for i in range(ratio)}),
                slices.source.ready.eq(native.wdata.ready),
            ]
