"""LiteScope on the engine's queues: what ``--with-analyzer`` adds to a board."""

from migen import *

from litex.gen import LiteXModule
from litescope import LiteScopeAnalyzer

from litediffusion.cores import isa

DEPTH = 512         # cycles kept; 128 bits of probes take four block RAMs
CSV = "analyzer.csv"


class QueueProbes(LiteXModule):
    """Copies of the engine's signals under names for LiteScope's list.

    queues   group 0: of each queue ``<queue>_`` arrived (a descriptor from the fetcher), full, valid and ready of its head,
             wait (for tokens), blocked (the head lacks one), busy, stalled, done, index (of the oldest descriptor that has
             not completed); ``engine_`` running, halt; ``fetch_position``
    tokens   group 1: every change of a token counter, ``token_`` moved, number (in isa.TOKEN_NAMES), value; of each queue
             granted (its head has its tokens), added (those of a completed descriptor), missing (what its head waits for)
    """

    def __init__(self, engine):
        self.queues, self.tokens = [], []

        # # #

        core, tokens = engine.core, engine.core.tokens
        moves = {"moved": tokens.moved, "number": tokens.moved_token, "value": tokens.moved_value}
        self.tokens += [self.probe(f"token_{what}", signal) for what, signal in moves.items()]
        for q, (name, queue) in enumerate(zip(isa.QUEUES, core.queues)):
            head, name = queue.head, name.lower()
            states = {"arrived": head.commit, "full": head.full, "valid": head.source.valid, "ready": head.source.ready,
                      "wait": queue.wait, "blocked": queue.blocked, "busy": queue.busy, "stalled": queue.stalled,
                      "done": queue.done, "index": getattr(engine.regs, f"{name}_index")}
            events = {"granted": tokens.granted[q], "added": tokens.added[q], "missing": tokens.blocked_token[q]}
            self.queues += [self.probe(f"{name}_{what}", signal) for what, signal in states.items()]
            self.tokens += [self.probe(f"{name}_{what}", signal) for what, signal in events.items()]
        self.queues += [self.probe("engine_running", engine.running), self.probe("engine_halt", engine.halt),
                        self.probe("fetch_position", core.fetch.position)]

    def probe(self, name, signal):
        copy = Signal(len(signal), name_override=f"scope_{name}")
        self.comb += copy.eq(signal)
        return copy


def add_analyzer(soc, depth=DEPTH):
    """LiteScope as ``soc.analyzer``. Raises ValueError for a SoC without an engine."""
    if not hasattr(soc, "engine"):
        raise ValueError("the analyzer looks at the engine's queues, and this SoC has no engine: leave one of the two options out")
    soc.analyzer_probes = probes = QueueProbes(soc.engine)
    soc.analyzer = LiteScopeAnalyzer({0: probes.queues, 1: probes.tokens}, depth, samplerate=soc.sys_clk_freq, register=True,
                                     csr_csv=None)
