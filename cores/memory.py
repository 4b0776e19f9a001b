"""On-chip memories shared between units: true dual-port block RAM with one private and one arbitrated port."""

from functools import reduce
from operator import or_

from migen import *

# Read and write of one word in one cycle never happens (tokens order the units), so no logic need guard against it;
# without this Yosys doubles the block RAMs.
NO_COLLISIONS = {("no_rw_check", 1)}


def block_ram(bits, words, name):
    """A Memory for ports of one clock that never read the word being written by another."""
    memory = Memory(bits, words, name=name)
    memory.attr = NO_COLLISIONS
    return memory


class SharedMemory(Module):
    """A memory of ``words`` x ``bits`` (two half words) with a private read port and one port shared by clients.

    Private port: ``dat_r`` is the word at ``adr`` one cycle later; it is held while ``re`` is 0.
    Shared port: one access a cycle, of the first client of the list that is ``valid`` (fixed priority: the first
    client is never held off, later ones only while an earlier one asks; ``ready`` may depend on ``valid``).
    A write (``we`` not 0) changes the half words whose bit of ``we`` is set. A read is answered in the next cycle
    with ``rvalid`` and ``dat_r``. Reading a word on one port in the cycle in which the other writes it gives
    undefined data in block RAM; programs never do so, because tokens order the units.

    Each half is a Memory of its own (no write granularity), in no-change mode: what every FPGA family infers.

    Parameters
    ----------
    words, bits : depth and width; bits is even
    clients : list of MemoryPort(words, bits), highest priority first
    """

    def __init__(self, words, bits, clients):
        if bits % 2:
            raise ValueError(f"SharedMemory: {bits} bits cannot be split into two half words; use an even width")
        self.adr   = Signal(max=words)
        self.re    = Signal(reset=1)
        self.dat_r = Signal(bits)

        # # #

        adr, we, dat_w, dat_r = Signal(max=words), Signal(2), Signal(bits), Signal(bits)
        self._arbitrate(clients, adr, we, dat_w, dat_r)
        for half in range(2):
            part   = slice(half * bits // 2, (half + 1) * bits // 2)
            memory = block_ram(bits // 2, words, name=f"half{half}")
            private = memory.get_port(has_re=True, mode=READ_FIRST)
            shared  = memory.get_port(write_capable=True, mode=NO_CHANGE)
            self.specials += memory, private, shared
            self.comb += [
                private.adr.eq(self.adr), private.re.eq(self.re), self.dat_r[part].eq(private.dat_r),
                shared.adr.eq(adr), shared.we.eq(we[half]), shared.dat_w.eq(dat_w[part]),
                dat_r[part].eq(shared.dat_r),
            ]

    def _arbitrate(self, clients, adr, we, dat_w, dat_r):
        """Fixed priority; the address and data of the granted client reach the shared port."""
        choice = None
        for client in reversed(clients):
            select = [adr.eq(client.adr), dat_w.eq(client.dat_w)]
            choice = If(client.valid, *select).Else(choice) if choice is not None else select
        self.comb += choice
        taken, writes = 0, []
        for client in clients:
            granted = Signal()
            self.comb += [
                client.ready.eq(~taken if len(writes) else 1), granted.eq(client.valid & client.ready),
                client.dat_r.eq(dat_r),
            ]
            self.sync += client.rvalid.eq(granted & (client.we == 0))
            writes.append(Mux(granted, client.we, 0))
            busy = Signal()
            self.comb += busy.eq(taken | client.valid)
            taken = busy
        self.comb += we.eq(reduce(or_, writes))
