"""The engine's datapath: everything that an engine reset puts back."""

from functools import reduce
from operator import and_, or_

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.fetch import Fetch
from litediffusion.cores.gemm import Gemm
from litediffusion.cores.heads import Heads
from litediffusion.cores.load import Load
from litediffusion.cores.memory import SharedMemory
from litediffusion.cores.norm import Norm
from litediffusion.cores.param import ParamMemory
from litediffusion.cores.post import Post
from litediffusion.cores.queue import Queue
from litediffusion.cores.row import RowMemory, StatMemory
from litediffusion.cores.sampler import Sampler
from litediffusion.cores.scalar import ScalarUnit
from litediffusion.cores.store import Store
from litediffusion.cores.tokens import Tokens
from litediffusion.cores.trace import Trace


class Core(LiteXModule):
    """Fetcher, queues, tokens, units and memories.

    start, clear    begin a program; put counts and tokens to 0
    halt            stop; ``drained`` when no DRAM access is under way
    progress        something moved in the cycle before (for the watchdog)
    reads, write    DRAM words received and written in this cycle
    added_index     index of the descriptor whose tokens were counted last
    """

    def __init__(self, config, regs, fetch_port, load_port, store_port):
        self.start, self.clear, self.halt = Signal(), Signal(), Signal()
        self.time = Signal(32)
        self.drained, self.progress = Signal(), Signal()
        self.reads, self.write = Signal(2), Signal()

        # # #

        self.fetch, self.heads = Fetch(config, fetch_port), Heads(config)
        self.load, self.store = Load(config, load_port), Store(config, store_port)
        self.scalar = ScalarUnit(config)
        self.post = Post(config)
        self.norm, self.sampler = Norm(config, self.scalar.get_port("norm")), Sampler(config, self.scalar.get_port("sampler"))
        self.add_memories(config)
        self.tokens = Tokens(len(isa.QUEUES))
        units = {"LOAD": {"LOAD": self.load}, "GEMM": {"GEMM": self.gemm}, "STORE": {"STORE": self.store},
                 "POST": {"POST": self.post, "NORM": self.norm, "SAMPLE": self.sampler}}
        self.queues = [Queue(head, units[name], config.trace, late_halt=name in ("GEMM", "POST"))
                       for head, name in zip(self.heads.heads, isa.QUEUES)]
        self.submodules += self.queues
        self.trace = Trace(config, store_port.address_width) if config.trace else None
        self.add_registers(regs)
        self.add_queues()
        self.add_end()
        self.add_progress()

    def add_memories(self, config):
        """SPM, WBUF and accumulators with their clients in order of priority; parameters, statistics, rows."""
        load, store, post, norm, sampler = self.load, self.store, self.post, self.norm, self.sampler
        # The consumers of a pipeline come first, so that it empties; DRAM data can wait in their FIFOs.
        self.spm = SharedMemory(config.spm_words, config.word_bits, [
            post.wr, post.src, post.opr, sampler.spm, load.spm, store.spm], banks=config.gemm_words, distant=True)
        self.wbuf = SharedMemory(config.wbuf_words, config.word_bits, [post.wwr, load.wbuf])
        self.gemm = Gemm(config, self.spm, self.wbuf, post.acc)
        self.param = ParamMemory(config, [norm.param_wr, load.param])
        self.stat, self.row = StatMemory(config), RowMemory(config)
        for unit in (post, norm):
            self.stat.add_client(unit.stat, unit.active)
            self.row.add_client(unit.row, unit.active)
        reader = Signal(2)      # the unit that was active last: a cycle late, which is before any of them reads
        for k, unit in enumerate((post, norm, sampler)):
            self.sync += If(unit.active, reader.eq(k))
            self.comb += If(reader == k, self.param.adr.eq(unit.param_adr))
        self.comb += [post.param_dat.eq(self.param.dat_r), self.scalar.record.eq(self.param.dat_r)]

    def add_registers(self, regs):
        """Registers to the units that use them."""
        windowed = [self.fetch, self.load.transfer, self.store.transfer]
        if self.trace:
            windowed.append(self.trace)
            self.comb += [self.trace.enable.eq(regs.trace_enable), self.trace.addr.eq(regs.trace_addr),
                          self.trace.size.eq(regs.trace_size)]
        for unit in windowed:
            self.comb += [unit.window_base.eq(regs.window_base), unit.window_size.eq(regs.window_size)]
        for transfer in (self.load.transfer, self.store.transfer):
            self.comb += [signal.eq(getattr(regs, f"index_{name.lower()}")) for name, signal in transfer.indices.items()]
        self.comb += [
            self.fetch.program_addr.eq(regs.program_addr), self.fetch.program_len.eq(regs.program_len),
            self.sampler.step.eq(regs.index_step), self.sampler.guidance.eq(regs.guidance),
            self.sampler.seed0.eq(regs.seed0), self.sampler.seed1.eq(regs.seed1),
        ]

    def add_queues(self):
        """Descriptors to the queues, tokens, and the completed descriptors to the trace."""
        tokens, heads, fetch = self.tokens, self.heads, self.fetch
        self.added_index, read_index = Signal(16, reset_less=True), Signal(16, reset_less=True)
        self.sync += [read_index.eq(heads.added_index), If(tokens.taking, self.added_index.eq(read_index))]
        self.comb += [
            tokens.clear.eq(self.clear), tokens.halt.eq(self.halt), fetch.start.eq(self.start), fetch.halt.eq(self.halt),
            heads.write.raw_bits().eq(fetch.write.raw_bits()), fetch.full.eq(heads.full), heads.start.eq(self.start),
            heads.choice.eq(tokens.choice), tokens.waits.raw_bits().eq(heads.waits.raw_bits()),
            tokens.adds.raw_bits().eq(heads.adds.raw_bits()),
        ]
        for q, queue in enumerate(self.queues):
            self.comb += [
                tokens.wait[q].eq(queue.wait), queue.granted.eq(tokens.granted[q]), queue.blocked.eq(tokens.blocked[q]),
                tokens.add[q].eq(queue.add), queue.counted.eq(tokens.added[q]),
                queue.halt.eq(self.halt), queue.time.eq(self.time),
            ]
        if self.trace:
            self.add_trace()

    def add_trace(self):
        """A record for every descriptor whose tokens are added; while one waits for the writer no other follows."""
        trace = self.trace
        self.comb += [
            trace.clear.eq(self.clear), trace.time.eq(self.time), self.tokens.hold.eq(~trace.sink.ready),
            trace.sink.valid.eq(self.tokens.added != 0), trace.sink.index.eq(self.added_index),
            trace.source.connect(self.store.traced),
        ]
        for q, queue in enumerate(self.queues):
            self.comb += If(queue.counted, trace.sink.queue.eq(q), *[
                getattr(trace.sink, name).eq(getattr(queue.record, name)) for name, *_ in queue.record.layout])

    def add_end(self):
        """``drained`` when the DRAM has all words, ``quiet`` when the queues are empty as well."""
        busy = [self.load.active, self.store.active, ~self.store.drained] + ([self.trace.active] if self.trace else [])
        idle = Signal()
        self.comb += [
            idle.eq(~reduce(or_, busy)),
            self.fetch.quiet.eq(reduce(and_, [head.empty for head in self.heads.heads]) & idle),
            self.drained.eq(self.fetch.idle & idle),
            self.write.eq(self.store.beat), self.reads.eq(self.fetch.beat + self.load.beat),
        ]

    def add_progress(self):
        """A finished descriptor, a DRAM word, an activation word, or a step of a unit that works by itself."""
        steps = [unit.active & ~unit.stall for unit in (self.post, self.norm, self.sampler)]
        done = [queue.done for queue in self.queues]
        self.sync += self.progress.eq(reduce(or_, [*done, *steps, self.gemm.mac_words != 0, self.write, self.reads != 0]))
