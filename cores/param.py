"""The parameter memory: records of 64 bytes, read whole by the POST queue's units, written by words."""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.memory import block_ram

STROBE_BITS = 16


class ParamMemory(LiteXModule):
    """``param_words`` records of 512 bits in four block memories of one word each.

    adr, dat_r  record read port, data one cycle after the address
    clients     MemoryPorts of words (four a record), write only, highest priority first; one write a cycle, registered. ``we`` has one
                bit for each 16 bits of the word, equal for those of one lane or of the scalars, or one for all of it
    A word read in the cycle in which it is written is undefined: tokens order LOAD and POST, and NORM, which writes to the
    record that it reads, uses no word in the three cycles after writing it.
    """

    def __init__(self, config, clients):
        self.adr, self.dat_r = Signal(max=config.param_words), Signal(8 * isa.PARAM_BYTES)

        # # #

        quarters = isa.PARAM_BYTES // config.word_bytes
        adr, data = Signal(max=quarters * config.param_words, reset_less=True), Signal(config.word_bits, reset_less=True)
        we = Signal(config.word_bits // STROBE_BITS)
        chain, ready = [], []
        for client in clients:
            strobes = client.we if len(client.we) > 1 else Replicate(client.we, len(we))
            grant = [adr.eq(client.adr), data.eq(client.dat_w), we.eq(strobes)]
            ready = ready.Elif(client.valid, client.ready.eq(1)) if ready else If(client.valid, client.ready.eq(1))
            chain = chain.Elif(client.valid, *grant) if chain else If(client.valid, *grant)
        self.comb += ready
        self.sync += [we.eq(0), chain]
        select = log2_int(quarters)
        for quarter in range(quarters):
            memory = block_ram(config.word_bits, config.param_words, name=f"param{quarter}")
            granularity = self.lane_bits(config, quarter)
            read = memory.get_port(mode=READ_FIRST)
            write = memory.get_port(write_capable=True, we_granularity=granularity, mode=READ_FIRST)
            self.specials += memory, read, write
            part = slice(quarter * config.word_bits, (quarter + 1) * config.word_bits)
            strobes, here = we[::granularity // STROBE_BITS], Signal(name=f"write{quarter}")
            self.comb += [
                read.adr.eq(self.adr), self.dat_r[part].eq(read.dat_r), here.eq(adr[:select] == quarter),
                write.adr.eq(adr[select:]), write.dat_w.eq(data), write.we.eq(strobes & Replicate(here, len(strobes))),
            ]

    def lane_bits(self, config, quarter):
        """Bits of a lane in a word of the record; all of them where it holds the scalars."""
        end = 0
        for f in isa.PARAM_LANES:
            end += f.bits * config.n_lanes
            if (quarter + 1) * config.word_bits <= end:
                return f.bits
        return config.word_bits
