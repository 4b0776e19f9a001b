"""A lane's weight tiles: the active one and the one being filled, in distributed RAM instead of registers.

    row address   bank, part, bank, part (4 bits of it);   part: of the step's two tiles, or of a tile's rows (tile_passes)

Distributed RAM has 16 rows on an ECP5, four or eight of which are used. The repeated bits take the place of constants, which
would be wires across the chip from one common driver.

Two flip-flops a weight bit would be 6,656 of them with gemm_words = 2; distributed RAM holds both tiles in the cells that
choose between them.
"""

from migen import *

from litediffusion.cores.gemm_address import STORED_BITS

GROUP = 4       # weights that share an address: with more, its bits have too far to go
ROWS = 16       # of a distributed RAM


class TileMemory(Module):
    """k_lanes / tile_passes stored operands (gemm_address.unstore) a row, in memories of GROUP operands.

    row : Record of TileFetcher: a row of one lane's tile, written at the end of a cycle
    bank : the one being filled

    ``read`` gives a row's operands in the same cycle; programs of the array read only the other bank.
    """

    def __init__(self, config, n, row, bank):
        bits = GROUP * STORED_BITS
        self.groups = [Memory(bits, ROWS, name=f"tile_{n}_{g}") for g in range(config.k_lanes // config.tile_passes // GROUP)]

        # # #

        self.specials += self.groups
        bits_of_part, half = len(row.part) // 2, 2 * n // config.n_lanes
        here, part = Signal(name=f"row_{n}"), row.part[bits_of_part * half:bits_of_part * (half + 1)]
        self.comb += here.eq(row.write & (row.lane == n))
        for g, memory in enumerate(self.groups):
            write = memory.get_port(write_capable=True, mode=NO_CHANGE)
            self.specials += write
            self.comb += [write.adr.eq(self.address(bank, part)), write.we.eq(here), write.dat_w.eq(row.data[bits * g:bits * (g + 1)])]

    def address(self, bank, part):
        return Cat(bank, part, bank, part)[:log2_int(ROWS)]

    def read(self, banks, parts):
        """Stored operands of a row. banks, parts : one for all groups, or a list with one each."""
        count = len(self.groups)
        banks, parts = [x if isinstance(x, list) else [x] * count for x in (banks, parts)]
        operands = []
        for memory, bank, part in zip(self.groups, banks, parts):
            port = memory.get_port(async_read=True)
            self.specials += port
            self.comb += port.adr.eq(self.address(bank, part))
            operands += [port.dat_r[at:at + STORED_BITS] for at in range(0, GROUP * STORED_BITS, STORED_BITS)]
        return operands
