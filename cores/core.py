"""The engine's datapath: everything that an engine reset puts back."""

from functools import reduce
from operator import or_

from migen import *

from litex.gen import LiteXModule

from litedram.frontend.dma import LiteDRAMDMAWriter

from litediffusion.cores import isa
from litediffusion.cores.fetch import Fetch
from litediffusion.cores.gemm import Gemm
from litediffusion.cores.iterative import SharedMultiplier
from litediffusion.cores.load import Load
from litediffusion.cores.memory import SharedMemory
from litediffusion.cores.norm import Norm
from litediffusion.cores.param import ParamMemory
from litediffusion.cores.post import Post
from litediffusion.cores.queue import Queue
from litediffusion.cores.row import RowMemory, StatMemory
from litediffusion.cores.sampler import Sampler
from litediffusion.cores.store import Store
from litediffusion.cores.tokens import Tokens
from litediffusion.cores.trace import Trace

WRITE_DEPTH = 16        # words between STORE and the DRAM


class Core(LiteXModule):
    """Fetcher, queues, tokens, units and memories.

    start, clear    begin a program; put counts and tokens to 0
    halt            stop; ``drained`` when no DRAM access is under way
    progress        something moved in this cycle (for the watchdog)
    reads, write    DRAM words received and written in this cycle
    completed       record of the last completed descriptor
    added_index     index of the one whose tokens were counted a cycle ago
    """

    def __init__(self, config, regs, fetch_port, load_port, store_port):
        self.start, self.clear, self.halt = Signal(), Signal(), Signal()
        self.time = Signal(32)
        self.drained, self.progress = Signal(), Signal()
        self.reads, self.write = Signal(2), Signal()

        # # #

        width = store_port.address_width
        self.fetch = Fetch(config, fetch_port)
        self.load, self.store = Load(config, load_port), Store(config, width)
        self.multiplier = SharedMultiplier()
        self.post = Post(config)
        self.norm, self.sampler = Norm(config, self.multiplier.get_port()), Sampler(config, self.multiplier.get_port())
        self.add_memories(config)
        self.tokens = Tokens(len(isa.QUEUES))
        units = {"LOAD": {"LOAD": self.load}, "GEMM": {"GEMM": self.gemm}, "STORE": {"STORE": self.store},
                 "POST": {"POST": self.post, "NORM": self.norm, "SAMPLE": self.sampler}}
        self.queues = [Queue(config.queue_depth, units[name]) for name in isa.QUEUES]
        self.submodules += self.queues
        self.trace = Trace(config, width)
        self.writer = LiteDRAMDMAWriter(store_port, fifo_depth=WRITE_DEPTH)
        self.add_registers(regs)
        self.add_queues()
        self.add_writes(store_port)
        self.add_progress()

    def add_memories(self, config):
        """SPM, WBUF and accumulators with their clients in order of priority; parameters, statistics, rows."""
        load, store, post, norm, sampler = self.load, self.store, self.post, self.norm, self.sampler
        # The consumers of a pipeline come first, so that it empties; DRAM data can wait in their FIFOs.
        self.spm = SharedMemory(config.spm_words, config.word_bits, [
            post.wr, post.src, post.opr, sampler.wr, sampler.rd, load.spm, store.spm])
        self.wbuf = SharedMemory(config.wbuf_words, config.word_bits, [post.wwr, load.wbuf])
        self.gemm = Gemm(config, self.spm, self.wbuf, post.acc)
        self.param = ParamMemory(config, [norm.param_wr, load.param])
        self.stat, self.row = StatMemory(config), RowMemory(config)
        for unit in (post, norm):
            self.stat.add_client(unit.stat, unit.active)
            self.row.add_client(unit.row, unit.active)
        for unit in (post, norm, sampler):
            self.comb += [If(unit.active, self.param.adr.eq(unit.param_adr)), unit.param_dat.eq(self.param.dat_r)]

    def add_registers(self, regs):
        """Registers to the units that use them."""
        for unit in (self.fetch, self.load.transfer, self.store.transfer, self.trace):
            self.comb += [unit.window_base.eq(regs.window_base), unit.window_size.eq(regs.window_size)]
        for transfer in (self.load.transfer, self.store.transfer):
            self.comb += [signal.eq(getattr(regs, f"index_{name.lower()}")) for name, signal in transfer.indices.items()]
        self.comb += [
            self.fetch.program_addr.eq(regs.program_addr), self.fetch.program_len.eq(regs.program_len),
            self.trace.enable.eq(regs.trace_enable), self.trace.addr.eq(regs.trace_addr), self.trace.size.eq(regs.trace_size),
            self.sampler.step.eq(regs.index_step), self.sampler.guidance.eq(regs.guidance),
            self.sampler.seed0.eq(regs.seed0), self.sampler.seed1.eq(regs.seed1),
        ]

    def add_queues(self):
        """Descriptors to the queues, tokens, and the completed descriptors to the trace."""
        tokens, trace = self.tokens, self.trace
        self.completed = Record(self.queues[0].record.layout)
        self.added_index = Signal(16)
        self.sync += self.added_index.eq(self.completed.index)
        self.comb += [tokens.clear.eq(self.clear), tokens.halt.eq(self.halt), trace.clear.eq(self.clear),
                      trace.time.eq(self.time), self.fetch.start.eq(self.start), self.fetch.halt.eq(self.halt)]
        for q, (queue, source) in enumerate(zip(self.queues, self.fetch.sources)):
            counted = queue.adds.valid & queue.adds.ready
            self.comb += [
                source.connect(queue.sink), queue.waits.connect(tokens.waits[q]), queue.adds.connect(tokens.adds[q]),
                queue.blocked.eq(tokens.blocked[q]), queue.halt.eq(self.halt), queue.time.eq(self.time),
                If(counted, trace.sink.valid.eq(1), trace.sink.queue.eq(q),
                   *[getattr(trace.sink, name).eq(getattr(queue.record, name)) for name, _ in queue.record.layout]),
            ]
            self.sync += If(counted, self.completed.eq(queue.record))

    def add_writes(self, port):
        """STORE and trace share the writer; ``pending`` counts words whose data the DRAM has not taken."""
        pending, sink = Signal(max=2 * WRITE_DEPTH), self.writer.sink
        stored, traced = self.store.source, self.trace.source
        self.comb += [
            If(stored.valid, stored.connect(sink)).Else(traced.connect(sink)),
            self.write.eq(port.wdata.valid & port.wdata.ready),
            self.reads.eq(self.fetch.beat + self.load.beat),
        ]
        self.sync += pending.eq(pending + (sink.valid & sink.ready) - self.write)
        idle = ~self.load.active & ~self.store.active & ~self.trace.active & (pending == 0)
        self.comb += [
            self.fetch.quiet.eq(reduce(lambda a, b: a & b, [q.empty for q in self.queues]) & idle),
            self.drained.eq(self.fetch.idle & idle),
        ]

    def add_progress(self):
        """A finished descriptor, a DRAM word, an activation word, or a step of a unit that works by itself."""
        steps = [unit.active & ~unit.stall for unit in (self.post, self.norm, self.sampler)]
        done = [queue.done for queue in self.queues]
        self.comb += self.progress.eq(reduce(or_, [*done, *steps, self.gemm.mac_valid, self.write, self.reads != 0]))
