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

    Private port: one word a bank and cycle. ``dat_r[b]`` is the word of bank b at the address of ``adr`` that lies in
    that bank, one cycle later; all are held while ``re`` is 0. With two banks (even and odd words) the two addresses
    must differ in bit 0, else the second one's word is undefined; ``swapped`` comes with the data: the word at
    ``adr[0]`` is ``dat_r[1]`` and the one at ``adr[1]`` is ``dat_r[0]``. With ``distant`` a register of its own for each half
    lies between address and block RAMs: the words come two cycles after ``adr``, and ``re`` must stay 1.
    Shared port: one access a cycle, of the first client of the list that is ``valid`` (fixed priority: the first
    client is never held off, later ones only while an earlier one asks; ``ready`` may depend on ``valid``).
    A register follows the arbiter: a write (``we`` not 0) changes the half words whose bit of ``we`` is set in the cycle
    after the grant, a read is answered READ_LATENCY cycles after it with ``rvalid`` and ``dat_r``. Reading a word on one port in
    the cycle in which the other writes it gives undefined data in block RAM; programs never do so, because tokens order the units.

    Each half of a bank is a Memory of its own (no write granularity), in no-change mode: what every FPGA family infers.

    Parameters
    ----------
    words, bits : depth and width; bits is even
    clients : list of MemoryPort(words, bits), highest priority first
    banks : words that the private port reads a cycle, 1 or 2
    distant : the private port has registers, because the block RAMs are many
    """

    def __init__(self, words, bits, clients, banks=1, distant=False):
        if bits % 2:
            raise ValueError(f"SharedMemory: {bits} bits cannot be split into two half words; use an even width")
        if banks not in (1, 2):
            raise ValueError(f"SharedMemory: {banks} banks; words lie in 1 bank or in 2, even and odd")
        self.adr     = [Signal(max=words, name=f"adr{bank}") for bank in range(banks)]
        self.re      = Signal(reset=1)
        self.dat_r   = [Signal(bits, name=f"dat_r{bank}") for bank in range(banks)]
        self.swapped = Signal()

        # # #

        self.distant = distant
        adr, we, dat_w, dat_r = Signal(max=words), Signal(2), Signal(bits, reset_less=True), Signal(bits)
        self._arbitrate(clients, adr, we, dat_w, dat_r)
        if banks == 1:
            self._add_bank("", words, bits, self.adr[0], self.dat_r[0], (adr, we, dat_w, dat_r))
            return
        odd_first = Signal()
        if distant:
            self.sync += odd_first.eq(self.adr[0][0])
        else:
            self.comb += odd_first.eq(self.adr[0][0])
        self.sync += If(self.re, self.swapped.eq(odd_first))
        answers, answered = [Signal(bits, name=f"answer{bank}") for bank in range(2)], Signal()
        self.sync += answered.eq(adr[0])
        self.comb += dat_r.eq(Mux(answered, answers[1], answers[0]))
        for bank in range(2):
            private = Mux(self.adr[0][0], self.adr[1 - bank][1:], self.adr[bank][1:])
            writes = we & Replicate(adr[0] == bank, 2)
            self._add_bank(f"bank{bank}_", words // 2, bits, private, self.dat_r[bank],
                           (adr[1:], writes, dat_w, answers[bank]))

    def _add_bank(self, name, words, bits, private_adr, private_dat_r, shared_port):
        """The two halves of a bank."""
        adr, we, dat_w, dat_r = shared_port
        for half in range(2):
            part   = slice(half * bits // 2, (half + 1) * bits // 2)
            memory = block_ram(bits // 2, words, name=f"{name}half{half}")
            private = memory.get_port(has_re=True, mode=READ_FIRST)
            shared  = memory.get_port(write_capable=True, mode=NO_CHANGE)
            self.specials += memory, private, shared
            self._connect_private(private, private_adr, half)
            self.comb += [
                private.re.eq(self.re), private_dat_r[part].eq(private.dat_r),
                shared.adr.eq(adr), shared.we.eq(we[half]), shared.dat_w.eq(dat_w[part]),
                dat_r[part].eq(shared.dat_r),
            ]

    def _connect_private(self, port, adr, half):
        """A half's private address. Synthesis would merge equal registers, but not those that start differently."""
        if self.distant:
            register = Signal(len(port.adr), reset=half, reset_less=True)
            self.sync += register.eq(adr)
            adr = register
        self.comb += port.adr.eq(adr)

    def _arbitrate(self, clients, adr, we, dat_w, dat_r):
        """Fixed priority; address and data of the granted client go to the shared port's registers."""
        choice = None
        for client in reversed(clients):
            select = [adr.eq(client.adr), dat_w.eq(client.dat_w)]
            choice = If(client.valid, *select).Else(choice) if choice is not None else select
        self.sync += choice
        taken, writes = 0, []
        for client in clients:
            granted, read = Signal(), Signal()
            self.comb += [
                client.ready.eq(~taken if len(writes) else 1), granted.eq(client.valid & client.ready),
                client.dat_r.eq(dat_r),
            ]
            self.sync += [read.eq(granted & (client.we == 0)), client.rvalid.eq(read)]
            writes.append(Mux(granted, client.we, 0))
            busy = Signal()
            self.comb += busy.eq(taken | client.valid)
            taken = busy
        self.sync += we.eq(reduce(or_, writes))
