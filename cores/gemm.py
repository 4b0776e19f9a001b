"""GEMM: implicit-im2col matrix products, bit-exact with gemm_model.py.

    TileFetcher --tile--> PixelWalker --adr--> SPM --word--> DotArray --sums--> Accumulator <-- POST
         ^ WBUF words          (shadow tile) ------------------^

Throughput: one pixel a cycle: one activation word (k_lanes x n_lanes int8 MACs, twice that at W4), or with gemm_words = 2
the words of two channel blocks where ``xk`` is odd; with gemm_cycles = 2 one pixel in two cycles. A step (one tile, or those of
two blocks) of P output pixels takes max(P * gemm_cycles, n_lanes * tile_passes * tiles) cycles, and consecutive steps and descriptors follow without a gap. Latency: about 25 cycles
from an idle unit's descriptor to its first accumulator. The unit never stalls once a word is on its way.
"""

from functools import reduce
from operator import or_

from migen import *

from litediffusion.cores.accumulator import Accumulator
from litediffusion.cores.array import DotArray, latency
from litediffusion.cores.gemm_address import PixelWalker, TileFetcher, mac_layout
from litediffusion.cores.isa import ERROR_CODE
from litediffusion.cores.ports import DescriptorSink

IN_FLIGHT_BITS = 4      # descriptors taken and not done: two waiting, one streaming, the rest in the pipeline


class Gemm(Module):
    """The GEMM unit.

    sink : DescriptorSink; a descriptor is taken when its first weight tile can be fetched, before the earlier ones
        are done.
    spm, wbuf : SharedMemory whose private ports this unit owns; the SPM has gemm_words banks.
    post : MemoryPort of accumulator entries, read only (see Accumulator).
    done : one pulse a descriptor, in order, in the cycle after its last accumulator was written.
    error, error_code : one pulse (isa.ERROR_CODE) instead of ``done`` when a word's SPM, WBUF or accumulator
        address is outside its memory. Words before it are written, it and later ones are not. Then the unit is
        idle and takes nothing until ``halt``.
    halt : drop all work; nothing is written and no ``done`` comes from the next cycle on. A descriptor is taken
        again when the pipeline has drained (14 cycles).
    active : work in flight. stall : active, but the array has no word in this cycle.
    mac_words, mac_w4 : activation words that the array takes in this cycle, and their weights are int4.
    """

    def __init__(self, config, spm, wbuf, post):
        self.halt       = Signal()
        self.done       = Signal()
        self.error      = Signal()
        self.error_code = Signal(8, reset=ERROR_CODE["BUFFER_RANGE"])
        self.active     = Signal()
        self.stall      = Signal()
        self.mac_words  = Signal(max=config.gemm_words + 1)
        self.mac_w4     = Signal()

        # # #

        self.gemm_cycles = config.gemm_cycles
        self.sink    = DescriptorSink()
        self.flush   = Signal()
        self.stopped = Signal()     # by an error, until halt
        self.halted  = Signal()     # by halt, until the pipeline is empty
        fetcher = self.submodules.fetcher = ResetInserter()(TileFetcher(config))
        walker  = self.submodules.walker  = ResetInserter()(PixelWalker(config))
        self.macs = [walker.mac] + [Record(mac_layout(config), name=f"array_mac{i}") for i in range(1, latency(config))]
        self.sync += [after.eq(before) for before, after in zip(self.macs, self.macs[1:])]
        array = self.submodules.array = DotArray(config, fetcher.row, self.macs)
        self.submodules.accumulator = Accumulator(config, array.low, array.high, post)
        self.comb += [
            self.sink.connect(fetcher.sink, omit={"valid", "ready"}),
            fetcher.sink.valid.eq(self.sink.valid & ~self.flush), self.sink.ready.eq(fetcher.sink.ready & ~self.flush),
            fetcher.reset.eq(self.flush), walker.reset.eq(self.flush),
            wbuf.adr[0].eq(fetcher.adr), wbuf.re.eq(fetcher.re), fetcher.dat_r.eq(wbuf.dat_r[0]),
            walker.tile.eq(fetcher.tile), walker.tile_ready.eq(fetcher.tile_ready),
            fetcher.take.eq(walker.take), fetcher.swap.eq(array.swap),
            *[to.eq(adr) for to, adr in zip(spm.adr, walker.adr)],
            *[word.eq(dat_r) for word, dat_r in zip(array.words, spm.dat_r)], array.swapped.eq(spm.swapped),
            *[to.eq(inside) for to, inside in zip(array.inside, walker.inside)],
            array.xs.eq(walker.xs), array.first.eq(walker.first), array.late.eq(walker.late),
            *[word.eq(mac) for word, mac in zip((self.accumulator.coming, self.accumulator.ask, self.accumulator.mac), self.macs[-3:])],
        ]
        self.add_completion()
        self.add_activity()

    def add_completion(self):
        """Commit, done and error: in the order of the words."""
        commit, failed = self.accumulator.commit, Signal()
        self.comb += [
            failed.eq(commit.valid & commit.error & ~self.flush),
            self.accumulator.we.eq(commit.valid & ~commit.error & ~self.flush),
            self.flush.eq(self.halt | self.halted | self.stopped),
        ]
        self.sync += [
            self.done.eq(self.accumulator.we & commit.last), self.error.eq(failed),
            If(failed, self.stopped.eq(1)), If(self.halt, self.stopped.eq(0)),
        ]

    def add_activity(self):
        """Descriptors in flight, and whether the array works."""
        waiting, draining = Signal(IN_FLIGHT_BITS), Signal()
        words = [*self.macs, self.accumulator.summed, self.accumulator.commit]
        self.comb += [
            draining.eq(reduce(or_, (m.valid for m in words), self.walker.busy)),
            self.active.eq((waiting != 0) | draining),
            self.mac_words.eq(Mux(self.macs[1].valid, 1 + self.macs[1].double, 0)), self.mac_w4.eq(self.macs[1].w4),
            self.stall.eq(self.active & ~reduce(or_, [mac.valid for mac in self.macs[2 - self.gemm_cycles:2]])),
        ]
        self.sync += [
            waiting.eq(waiting + (self.sink.valid & self.sink.ready) - self.done),
            If(self.flush, waiting.eq(0)),
            If(self.halt, self.halted.eq(1)).Elif(~draining, self.halted.eq(0)),
        ]
