"""Memories of the POST queue that POST and NORM share: statistics by channel and coefficients by row.

Both units work through a client port (``StatPort``, ``RowPort``); the memory's ``add_client(port, select)`` connects
it while ``select`` is 1. At most one client is selected at a time (one unit of the POST queue is active).

    read    r_adr in cycle t, the record's fields in cycle t + 1
    write   w_adr with an enable in cycle t, visible to a read of cycle t + 1 (a read of the record in cycle t is undefined:
            neither unit uses it)

One read and one write a cycle, no stalls.
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores.memory import block_ram

SUM_BITS = 24       # sum of up to 65536 int8 values
SQUARES_BITS = 32   # sum of their squares
ROW_SQUARES_BITS = 36


class StatPort(Record):
    """Client port of StatMemory: post_lanes channels at a time, at ``record * post_beats + beat``.

    The fields of the beat's channel i are ``r_s<i>``, ``r_q<i>``, ``w_s<i>``, ``w_q<i>`` (signed).
    """

    def __init__(self, config, name=None):
        adr = bits_for(config.stat_words * config.post_beats - 1)
        layout = [("r_adr", adr, DIR_M_TO_S), ("we", 1, DIR_M_TO_S), ("w_adr", adr, DIR_M_TO_S)]
        for i in range(config.post_lanes):
            layout += [(f"r_s{i}", (SUM_BITS, True), DIR_S_TO_M), (f"r_q{i}", (SQUARES_BITS, True), DIR_S_TO_M),
                       (f"w_s{i}", (SUM_BITS, True), DIR_M_TO_S), (f"w_q{i}", (SQUARES_BITS, True), DIR_M_TO_S)]
        Record.__init__(self, layout, name=name)


class RowPort(Record):
    """Client port of RowMemory. ``we_*`` enable the writes of (max), (m, e), (o) and (s, q) separately."""

    FIELDS = [("max", (32, True)), ("m", (16, True)), ("e", 5), ("o", (32, True)), ("s", (32, True)),
              ("q", ROW_SQUARES_BITS)]
    GROUPS = {"max": ("max",), "me": ("m", "e"), "o": ("o",), "sq": ("s", "q")}

    def __init__(self, config, name=None):
        adr = bits_for(config.row_words - 1)
        layout = [("r_adr", adr, DIR_M_TO_S), ("w_adr", adr, DIR_M_TO_S)]
        layout += [(f"we_{group}", 1, DIR_M_TO_S) for group in self.GROUPS]
        for field, bits in self.FIELDS:
            layout += [(f"r_{field}", bits, DIR_S_TO_M), (f"w_{field}", bits, DIR_M_TO_S)]
        Record.__init__(self, layout, name=name)


class _SharedMemory(LiteXModule):
    """A port's master side multiplexed between clients; the read data go to all of them."""

    def __init__(self, port):
        self.port = port

    def add_client(self, client, select):
        names = [f[0] for f in self.port.layout]
        self.comb += If(select, *[getattr(self.port, n).eq(getattr(client, n)) for n in names if n[:2] != "r_"],
                        self.port.r_adr.eq(client.r_adr))
        self.comb += [getattr(client, n).eq(getattr(self.port, n)) for n in names if n[:2] == "r_" and n != "r_adr"]

    def _add_memory(self, name, depth, fields, we):
        """One block of memory that holds ``fields`` side by side, written together."""
        written = [getattr(self.port, f"w_{f}") for f in fields]
        memory = block_ram(sum(len(s) for s in written), depth, name=name)
        read, write = memory.get_port(mode=READ_FIRST), memory.get_port(write_capable=True, mode=READ_FIRST)
        self.specials += memory, read, write
        self.comb += [read.adr.eq(self.port.r_adr), Cat(*[getattr(self.port, f"r_{f}") for f in fields]).eq(read.dat_r),
                      write.adr.eq(self.port.w_adr), write.dat_w.eq(Cat(*written)), write.we.eq(we)]


class StatMemory(_SharedMemory):
    """Sum and sum of squares by channel: stat_words records of n_lanes channels, post_lanes in a word."""

    def __init__(self, config):
        _SharedMemory.__init__(self, StatPort(config))

        # # #

        fields = [f"{k}{i}" for i in range(config.post_lanes) for k in ("s", "q")]
        self._add_memory("stat_memory", config.stat_words * config.post_beats, fields, self.port.we)


class RowMemory(_SharedMemory):
    """Maximum, multiplier and extra shift, offset, sum and sum of squares by row: row_words records."""

    def __init__(self, config):
        _SharedMemory.__init__(self, RowPort(config))

        # # #

        for group, fields in RowPort.GROUPS.items():
            self._add_memory(f"row_{group}_memory", config.row_words, fields, getattr(self.port, f"we_{group}"))
