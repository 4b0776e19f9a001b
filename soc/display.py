"""A picture of the DRAM on a display: a small frame, every pixel shown as 2 x 2."""

from migen import *
from migen.genlib.cdc import MultiReg

from litedram.frontend.dma import LiteDRAMDMAReader
from litex.gen import LiteXModule
from litex.soc.cores.video import video_data_layout, video_timings
from litex.soc.interconnect import stream
from litex.soc.interconnect.csr import CSRStorage

READS_IN_FLIGHT = 16
LATENCY = 2                # pixel clocks from the counters to ``source``: line memory, pixel select


def expand(bits):
    """A colour of 5 or 6 bits in 8: its top bits again below it, so that full scale becomes 255."""
    return Cat(bits[2 * len(bits) - 8:], bits)


class Display(LiteXModule):
    """Reads a frame of ``width`` x ``height`` RGB565 pixels (little endian, line after line from byte ``base`` of the
    DRAM) and shows it with each pixel and each line doubled.

    A line is read while the one before it is shown, into the other half of a line memory (one block RAM behind a 32-bit
    port); so 640x480@60Hz costs the DRAM 9.2 MB/s. Addresses start anew with every frame: a line that came too late
    disturbs at most this frame.

    Parameters
    ----------
    port : LiteDRAM port of mode "read", at least 16 bits, in domain sys
    clock_domain : of the pixels, any phase and ratio to sys; a clock that stands still stops the reads
    timing : one of LiteX's video_timings, of twice the frame's width and height

    Attributes
    ----------
    source : video_data_layout, as LiteX's video PHYs take it; never waits for ``ready``
    lines : lines that are read and shown, the others are black; CSR ``lines`` after add_csr, 0 at reset
    """

    def __init__(self, port, base, width, height, clock_domain="video", timing=video_timings["640x480@60Hz"]):
        active = timing["h_active"], timing["v_active"]
        if (2 * width, 2 * height) != active:
            raise ValueError(f"a frame of {width}x{height} pixels: must be half of the display's {active[0]}x{active[1]}")
        word_bytes = port.data_width // 8
        if base % word_bytes or 2 * width % word_bytes:
            raise ValueError(f"a frame at {base:#x} with lines of {2 * width} bytes: both must be multiples of the "
                             f"DRAM port's {word_bytes} bytes")
        self.source = stream.Endpoint(video_data_layout)
        self.lines = Signal(max=height + 1)

        # # #

        words = 2 * width // word_bytes
        index_bits = bits_for(words - 1)
        # Not an attribute: LiteX would map it into the CSRs, through a third port that block RAM does not have.
        memory = Memory(port.data_width, 2 << index_bits)
        self.specials += memory
        request, first = Signal(), Signal()          # in the pixels' domain: a change asks for a line; is it line 0?
        self._add_fetch(port, memory, base // word_bytes, words, height, request, first)
        video = ClockDomainsRenamer(clock_domain)(Scan(memory, port.data_width, timing, request, first, self.source))
        self.scan = video
        self.specials += MultiReg(self.lines, video.lines, clock_domain)

    def _add_fetch(self, port, memory, base, words, height, request, first):
        """At each change of ``request`` one line from the DRAM into the half of the memory that its number says."""
        self.reader = reader = LiteDRAMDMAReader(port, fifo_depth=READS_IN_FLIGHT)
        write = memory.get_port(write_capable=True, mode=NO_CHANGE)
        self.specials += write
        asked, answered, is_first, wanted = Signal(), Signal(), Signal(), Signal()
        line, address = Signal(max=height), Signal(port.address_width, reset=base)
        sent, received = Signal(max=words), Signal(max=words)
        self.specials += MultiReg(request, asked), MultiReg(first, is_first)
        self.comb += [
            reader.sink.address.eq(address + sent),
            reader.source.ready.eq(1),
            write.we.eq(reader.source.valid), write.dat_w.eq(reader.source.data),
            write.adr.eq(Cat(received, line[0])),
        ]
        self.fsm = fsm = FSM(reset_state="IDLE")
        fsm.act("IDLE", If(asked != answered, NextValue(answered, asked), NextState("SETTLE")))
        # ``first`` has changed with ``request``, but may arrive a cycle later.
        fsm.act("SETTLE",
            If(is_first, NextValue(line, 0), NextValue(address, base))
            .Else(NextValue(line, line + 1), NextValue(address, address + words)),
            NextValue(sent, 0), NextValue(received, 0), NextValue(wanted, 1), NextState("CHECK"))
        fsm.act("CHECK", If(line < self.lines, NextState("FETCH")).Else(NextState("IDLE")))
        fsm.act("FETCH",
            reader.sink.valid.eq(wanted),
            If(reader.sink.valid & reader.sink.ready, NextValue(sent, sent + 1), If(sent == words - 1, NextValue(wanted, 0))),
            If(reader.source.valid, NextValue(received, received + 1), If(received == words - 1, NextState("IDLE"))))

    def add_csr(self):
        self._lines = CSRStorage(len(self.lines), description="Lines of the frame that are read and shown; 0: display black.")
        self.comb += self.lines.eq(self._lines.storage)


class Scan(LiteXModule):
    """The pixels' side: counters, sync, and pixels out of the line memory. In domain sys, to be renamed."""

    def __init__(self, memory, word_bits, timing, request, first, source):
        h_active, v_active = timing["h_active"], timing["v_active"]
        h_scan, v_scan = h_active + timing["h_blanking"], v_active + timing["v_blanking"]
        self.lines = Signal(max=v_active // 2 + 1)

        # # #

        h, v = Signal(max=h_scan), Signal(max=v_scan)
        self.sync += [
            h.eq(h + 1),
            If(h == h_scan - 1, h.eq(0), v.eq(v + 1), If(v == v_scan - 1, v.eq(0))),
            # Line 0 is asked for in the vertical blanking, the next one when a line is shown for the first time.
            If((h == 0) & ((v == v_active) | ((v < v_active - 2) & ~v[0])), request.eq(~request), first.eq(v == v_active)),
        ]
        per_word = word_bits // 16
        select_bits = log2_int(per_word)
        # A line is read after it was written, so the port need not show what is written: block RAM with two clocks cannot.
        self.read = read = memory.get_port(mode=READ_FIRST)
        self.specials += read
        x = h[1:]
        self.comb += read.adr.eq(Cat(x[select_bits:select_bits + len(read.adr) - 1], v[1]))

        de, shown = Signal(), Signal()
        h_start, v_start = h_active + timing["h_sync_offset"], v_active + timing["v_sync_offset"]
        self.comb += [de.eq((h < h_active) & (v < v_active)), shown.eq(v[1:] < self.lines)]
        flags = [("de", de), ("hsync", (h >= h_start) & (h < h_start + timing["h_sync_width"])),
                 ("vsync", (v >= v_start) & (v < v_start + timing["v_sync_width"]))]
        for name, value in flags:
            for _ in range(LATENCY):
                delayed = Signal()
                self.sync += delayed.eq(value)
                value = delayed
            self.comb += getattr(source, name).eq(value)

        visible, pixel = Signal(), Signal(16)
        pixels = [read.dat_r[16 * i:16 * i + 16] for i in range(per_word)]
        choice = Signal(max=max(2, per_word))
        self.sync += [
            choice.eq(x[:select_bits] if select_bits else 0), visible.eq(de & shown),
            pixel.eq(0), If(visible, pixel.eq(Array(pixels)[choice])),
        ]
        self.comb += [source.valid.eq(1), source.r.eq(expand(pixel[11:16])), source.g.eq(expand(pixel[5:11])),
                      source.b.eq(expand(pixel[0:5]))]
