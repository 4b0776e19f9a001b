"""The accumulator memory: 2 halves of acc_words entries of n_lanes int32, shared by GEMM and POST.

    entry e of half h:  acc[h][e][n] = (overwrite ? 0 : acc[h][e][n]) + value[h][n]    modulo 2^32

Each half is two block RAMs with one read and one write port, for even and odd entries. GEMM walks consecutive
entries, so it uses one of them a cycle, and POST reads the other one without any rule for the compiler: two
sequential walks fall into step after one cycle. Where a half fits one block RAM it is one: POST then reads the half that
GEMM does not use, or waits for a word that begins a sum.
"""

from migen import *

from litediffusion.cores.gemm_address import mac_layout
from litediffusion.cores.memory import block_ram

ACC_BITS = 32
BLOCK_WORDS = 512       # of a block RAM as wide as that


class Accumulator(Module):
    """Read-modify-write of one entry a cycle for GEMM, which is never held off; reads for POST in the gaps.

    coming : control of the word whose sums come in three cycles; POST's reads give way to the entry that GEMM reads next
    ask    : the same a cycle later; GEMM reads the entry now
    mac    : the same a cycle later; the entry is there, and is registered
    values : (low, high) sums by lane, valid one cycle after ``mac``; low goes to the addressed half, and at W4 low
             to half 0 and high to half 1
    commit : control of the word written in this cycle; ``we`` lets it (two cycles after ``mac``)
    post   : MemoryPort of entries (half = top bit), read only; its address is registered

    An entry asked for in cycle t is written so that reads from cycle t + MIN_REUSE on see it.
    """

    def __init__(self, config, low, high, post):
        self.coming = Record(mac_layout(config), name="coming")
        self.ask    = Record(mac_layout(config), name="ask")
        self.mac    = Record(mac_layout(config))
        self.commit = Record(mac_layout(config))
        self.we     = Signal()

        # # #

        self.banks = banks = range(1 if config.acc_words <= BLOCK_WORDS else 2)
        self.bank_bits = len(banks) - 1
        self.summed = Record(mac_layout(config), name="summed")
        self.sync += [self.summed.eq(self.mac), self.commit.eq(self.summed)]
        next_reads = [[Signal(name=f"next_reads_{half}{bank}") for bank in banks] for half in range(2)]
        reads = [[Signal(name=f"reads_{half}{bank}") for bank in banks] for half in range(2)]
        for half in range(2):
            for bank in banks:
                coming = self.coming.valid & ~self.coming.overwrite & self.uses(self.coming, half, bank)
                self.comb += next_reads[half][bank].eq(coming)
                self.sync += reads[half][bank].eq(coming)
        busy = Array(Array(row) for row in next_reads)[post.adr[-1]][post.adr[0] if self.bank_bits else 0]
        self.post_read, self.post_entry = Signal(), Signal(len(post.adr), reset_less=True)
        self.comb += post.ready.eq(~busy)
        self.sync += [self.post_read.eq(post.valid & ~busy), self.post_entry.eq(post.adr), post.rvalid.eq(self.post_read)]
        rams = [[self.add_ram(config, half, bank, reads[half][bank]) for bank in banks] for half in range(2)]
        selected = Signal(1 + self.bank_bits)
        self.sync += selected.eq(Cat(*[self.post_entry[0]] * self.bank_bits, self.post_entry[-1]))
        self.comb += post.dat_r.eq(Array(Cat(*data_read) for row in rams for data_read, _ in row)[selected])
        for half, values in enumerate((low, high)):
            self.add_sums(half, values, rams[half])

    def in_bank(self, entry, bank):
        """1 when an entry is in this RAM of its half."""
        return (entry[0] == bank) if self.bank_bits else C(1, 1)

    def uses(self, mac, half, bank):
        """1 when the word's entry is in this RAM."""
        return self.in_bank(mac.entry, bank) & (mac.w4 | (mac.entry[-1] == half))

    def add_ram(self, config, half, bank, gemm_reads):
        """One RAM, a memory for each lane, so that it can lie where the lane is; returns (data read, data to write) by lane."""
        words = config.acc_words // len(self.banks)
        adr, re, we, post = Signal(max=words), Signal(), Signal(), self.post_entry
        self.comb += [
            adr.eq(Mux(gemm_reads, self.ask.entry[self.bank_bits:-1], post[self.bank_bits:-1])),
            re.eq(gemm_reads | (self.post_read & self.in_bank(post, bank) & (post[-1] == half))),
            we.eq(self.we & self.uses(self.commit, half, bank)),
        ]
        data_read, data_written = [], []
        for n in range(config.n_lanes):
            memory = block_ram(ACC_BITS, words, name=f"acc_{half}{bank}_{n}")
            read   = memory.get_port(has_re=True, mode=READ_FIRST)
            write  = memory.get_port(write_capable=True, mode=NO_CHANGE)
            self.specials += memory, read, write
            self.comb += [read.adr.eq(adr), read.re.eq(re), write.adr.eq(self.commit.entry[self.bank_bits:-1]), write.we.eq(we)]
            data_read.append(read.dat_r)
            data_written.append(write.dat_w)
        return data_read, data_written

    def add_sums(self, half, values, rams):
        """old + value by lane, and the write data of this half's RAMs."""
        mac, summed = self.mac, self.summed
        for n, value in enumerate(values):
            stored = [data_read[n] for data_read, _ in rams]
            stored = Mux(mac.entry[0], stored[1], stored[0]) if self.bank_bits else stored[0]
            old   = Signal((ACC_BITS, True), name=f"old_{half}_{n}", reset_less=True)
            total = Signal((ACC_BITS, True), name=f"total_{half}_{n}", reset_less=True)
            self.sync += [
                If(mac.overwrite, old.eq(0)).Else(old.eq(stored)),
                If(summed.valid & (summed.w4 | (summed.entry[-1] == half)), total.eq(old + value)),
            ]
            self.comb += [data_written[n].eq(total) for _, data_written in rams]
