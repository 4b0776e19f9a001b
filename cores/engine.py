"""The engine: fetcher, four queues, units, memories, registers. Works with or without a CPU (``add_csr``)."""

from types import SimpleNamespace

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect.csr import CSRField, CSRStatus, CSRStorage
from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourcePulse

from litediffusion.cores import isa
from litediffusion.cores.core import Core
from litediffusion.cores.counters import FETCH, Counters, Watchdog
from litediffusion.cores.regs import COUNTED, QUEUE_COUNTERS, REGS, VIEW_TOKENS, VIEWED
from litediffusion.cores.tokens import NO_TOKEN


class Engine(LiteXModule):
    """One engine on three LiteDRAM native ports of ``config.word_bits``, in the controller's clock domain.

    Parameters
    ----------
    config : EngineConfig
    fetch_port, load_port : read ports for the program and for data
    store_port : write port for data and the trace

    Attributes
    ----------
    regs : namespace with a signal for every entry of regs.REGS that is not in regs.VIEWED
    view_select, viewing, view : number in regs.VIEWED, in; 1 while it is wanted, in; the register's value in the same cycle
    irq : out, pulse when a program ends, with ``done`` or, after an error, when all DRAM accesses have finished

    A program runs from a pulse of ``start`` to status ``done``. The first error stops everything: queues and units
    take nothing new, DRAM accesses under way finish, then ``halted`` is set and ``reset`` makes the engine idle again.
    Registers must not change while the engine is busy.
    """

    def __init__(self, config, fetch_port, load_port, store_port):
        for port in (fetch_port, load_port, store_port):
            if port.data_width != config.word_bits or port.clock_domain != "sys":
                raise ValueError(f"a DRAM port of {port.data_width} bits in domain {port.clock_domain} does not fit: the "
                                 f"engine needs {config.word_bits} bits in domain sys, the controller's own")
        self.regs = regs = SimpleNamespace(**{r.name: Signal(r.bits, name=f"reg_{r.name}") for r in REGS if r.name not in VIEWED})
        self.view_select, self.viewing, self.view = Signal(max=2 * VIEW_TOKENS), Signal(), Signal(32)
        self.irq = Signal()

        # # #

        self.running, self.halt, self.clear = Signal(), Signal(), Signal()
        # The core has a reset of its own, a register: the system's comes from far away.
        self.core_reset = Signal()
        self.cd_core = ClockDomain()
        resetting = Signal(reset=1, reset_less=True)
        self.comb += [self.cd_core.clk.eq(ClockSignal()), self.cd_core.rst.eq(resetting)]
        self.sync += resetting.eq(self.core_reset | ResetSignal())
        self.core = core = ClockDomainsRenamer({"sys": "core"})(Core(config, regs, fetch_port, load_port, store_port))
        self.comb += [core.halt.eq(self.halt), core.clear.eq(self.clear), regs.config_hash.eq(config.hash)]
        self.watchdog = ResetInserter()(Watchdog(core.queues, core.tokens, core.fetch.position))
        self.comb += [
            self.watchdog.limit.eq(regs.watchdog), self.watchdog.enable.eq(self.running),
            self.watchdog.progress.eq(core.progress),
        ]
        self.add_errors()
        self.add_counters()
        self.add_control()

    def add_errors(self):
        """The first error while running is kept until the next start."""
        core, watchdog, tokens = self.core, self.watchdog, self.core.tokens
        regs = self.regs
        sources = [(q.error, q.error_code, k, q.error_index, NO_TOKEN) for k, q in enumerate(core.queues)]
        sources += [
            (core.fetch.error, core.fetch.error_code, FETCH, core.fetch.position, NO_TOKEN),
            (tokens.overflow, isa.ERROR_CODE["TOKEN_OVERFLOW"], tokens.overflow_queue, core.added_index,
             tokens.overflow_token),
            (watchdog.error, isa.ERROR_CODE["WATCHDOG"], watchdog.queue, watchdog.index, watchdog.token),
        ]
        self.failed = failed = Signal()
        chain = None
        for pulse, code, queue, index, token in sources:
            latch = [regs.error_code.eq(code), regs.error_queue.eq(queue), regs.error_index.eq(index),
                     regs.error_token.eq(token)]
            chain = chain.Elif(pulse, *latch) if chain is not None else If(pulse, *latch)
            self.comb += If(pulse & self.running, failed.eq(1))
        self.sync += [
            If(self.running, chain),
            If(self.clear, regs.error_code.eq(0), regs.error_queue.eq(0), regs.error_index.eq(0),
               regs.error_token.eq(NO_TOKEN)),
        ]

    def add_control(self):
        """Start, end, error, reset."""
        regs, core = self.regs, self.core
        done, error = Signal(), Signal()
        wanted = Signal()       # a reset was asked for
        # ``running``, ``halt`` and ``reset`` are 1 in RUN, in HALT and HALTED, in RESET: registers, because they go far.
        reset = Signal()
        enter_halt = [NextValue(self.running, 0), NextValue(self.halt, 1), NextState("HALT")]
        enter_reset = [NextValue(self.halt, 0), NextValue(reset, 1), NextState("RESET")]
        self.fsm = fsm = FSM(reset_state="IDLE")
        self.comb += [
            self.core_reset.eq(reset), self.watchdog.reset.eq(reset),
            regs.status.eq(Cat(~(fsm.ongoing("IDLE") | fsm.ongoing("HALTED")), done, error, fsm.ongoing("HALTED"))),
        ]
        fsm.act("IDLE",
            NextValue(wanted, 0),
            If(regs.start,
                self.clear.eq(1), core.start.eq(1), NextValue(done, 0), NextValue(self.running, 1), NextState("RUN"),
            ),
        )
        fsm.act("RUN",
            If(self.failed, NextValue(error, 1), *enter_halt)
            .Elif(regs.reset, NextValue(wanted, 1), *enter_halt)
            .Elif(core.fetch.done, NextValue(self.running, 0), NextState("SETTLE")),
        )
        fsm.act("SETTLE",
            If(regs.reset, *enter_reset).Elif(self.counters.settled, NextValue(done, 1), self.irq.eq(1), NextState("IDLE")),
        )
        fsm.act("HALT",
            If(regs.reset, NextValue(wanted, 1)),
            If(core.drained & self.counters.settled, If(wanted | regs.reset, *enter_reset).Else(self.irq.eq(1), NextState("HALTED"))),
        )
        fsm.act("HALTED", If(regs.reset, *enter_reset))
        fsm.act("RESET", NextValue(error, 0), NextValue(reset, 0), NextState("RELEASE"))
        fsm.act("RELEASE", NextState("IDLE"))       # the core's reset is a cycle behind

    def add_counters(self):
        """Counters by cause, and the registers that show the queues' states."""
        regs, core = self.regs, self.core
        causes = {"dram_reads": core.reads, "dram_writes": core.write,
                  "mac_cycles": core.gemm.mac_words, "mac_cycles_w4": Mux(core.gemm.mac_w4, core.gemm.mac_words, 0),
                  "trace_count": core.trace.counted if core.trace else C(0), "trace_dropped": core.trace.dropped if core.trace else C(0)}
        for name, queue in zip(isa.QUEUES, core.queues):
            sources = (queue.busy, queue.waiting, queue.stalled, queue.done)
            causes |= {f"{name.lower()}_{c}": source for c, source in zip(QUEUE_COUNTERS, sources)}
            self.comb += [
                getattr(regs, f"{name.lower()}_index").eq(queue.head.index),
                getattr(regs, f"{name.lower()}_state").eq(Cat(
                    queue.busy, queue.wait & queue.blocked, queue.stalled, queue.head.source.valid)),
            ]
        self.counters = counters = Counters({name: causes[name] for name in COUNTED})
        self.sync += If(self.clear, regs.cycles.eq(0)).Elif(self.running, regs.cycles.eq(regs.cycles + 1))
        self.comb += [
            counters.clear.eq(self.clear), counters.enable.eq(self.running), core.time.eq(regs.cycles),
            counters.select.eq(self.view_select), counters.reading.eq(self.viewing), core.tokens.view_select.eq(self.view_select),
            self.view.eq(Mux(self.view_select[-1], core.tokens.view, counters.value)),
        ]

    def add_csr(self):
        """A CSR for every register, named as in regs.REGS, and the interrupt ``ev.done``."""
        for r in REGS:
            signal = getattr(self.regs, r.name, None)
            if r.name in VIEWED:
                csr = CSRStatus(r.bits, name=r.name, description=r.doc)
                self.comb += [csr.status.eq(self.view), If(csr.we, self.viewing.eq(1), self.view_select.eq(VIEWED[r.name]))]
            elif r.access == "ro":
                csr = CSRStatus(r.bits, name=r.name, description=r.doc)
                self.comb += csr.status.eq(signal)
            elif r.access == "pulse":
                csr = CSRStorage(fields=[CSRField("value", size=1, pulse=True)], name=r.name, description=r.doc)
                self.comb += signal.eq(csr.fields.value)
            else:
                csr = CSRStorage(r.bits, name=r.name, description=r.doc)
                self.comb += signal.eq(csr.storage)
            setattr(self, f"_{r.name}", csr)
        self.ev = EventManager()
        self.ev.done = EventSourcePulse(description="The program ended or failed.")
        self.ev.finalize()
        self.comb += self.ev.done.trigger.eq(self.irq)
