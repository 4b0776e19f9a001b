"""The cycle model: how long a program runs, from its descriptors alone.

The four queues work in order, each beside the others. A descriptor begins when it has been fetched, its queue is free and its tokens
are there; a unit takes the next one while the last results are still on their way (LATENCY), and tokens come with the last of
them. LOAD, STORE and the fetcher share the DRAM, PIECE words at a time, in the order of their requests. Refresh and row misses are a
share of the DRAM's time. Constants are the units' own (the texts of ``cores/gemm.py``, ``post.py``, ``norm.py``, ``sampler.py``);
``tests/test_cycles.py`` holds the model against the RTL.
"""

from collections import deque
from dataclasses import dataclass, field

from litediffusion.cores import isa

PIECE = 32                      # DRAM words that one of its users takes at a time
DRAM_LOSS = 1.08                # refresh and row misses
DRAM_TURN = 20                  # cycles of the DRAM to go to the program's row and back
DRAM_LATENCY = 24               # cycles from a request to its first word
DESC_WORDS = isa.DESC_BYTES // 16
LOAD_GAP = 40                   # from a LOAD's last word to the next one's first, while nothing else is done
PORT_STEAL = 1.5                # cycles that a word of LOAD or STORE costs a POST that fills the scratchpad's port
START = {"LOAD": 8, "GEMM": 2, "POST": 2, "STORE": 8}           # from a descriptor's turn to its first access
LATENCY = {"GEMM": 26, "POST": 27, "STORE": 20}                 # from a unit's last step to the end of its result
ROWS_LATENCY = 22               # more, where a row's sum or reciprocal is the last result
NORM_CHANNEL, NORM_GROUP, NORM_ROW = 9, 30, 14                 # more than root and quotient: a channel, a group, a row
SAMPLE_LANE, SAMPLE_NOISE = 38, 61                              # cycles a value, without and with noise


def gemm_cycles(config, d):
    """Cycles in which GEMM multiplies: pairs of channel blocks, and single ones, at least as long as their tiles take to load."""
    cycles, taps = d["noy"] * d["nox"] * config.gemm_cycles, d["nky"] * d["nkx"]
    pairs = d["nkb"] // 2 if config.gemm_words == 2 and d["xk"] % 2 else 0
    return d["ng"] * taps * (pairs * max(cycles, 2 * config.n_lanes) + (d["nkb"] - 2 * pairs) * max(cycles, config.tile_passes * config.n_lanes))


def post_element(config, d):
    """(cycles of an element of POST, True if it takes all of them at the scratchpad's port, which LOAD and STORE share): one cycle
    more if source and operand are both read from the scratchpad."""
    read, operand = d["src"] != isa.SRC["ACC"], d["rop"] != isa.ROP["NONE"]
    cycles = config.post_beats + (read and operand)
    return cycles, read + operand + (d["dst"] == isa.DST["SPM"]) >= cycles


def post_cycles(config, d):
    """Cycles in which POST takes elements."""
    return d["n0"] * d["n1"] * d["n2"] * post_element(config, d)[0]


def norm_cycles(config, d):
    """Cycles of NORM: root and quotient of every group or row, and its channels."""
    narrow = config.post_lanes < config.n_lanes
    each = 80 if narrow else 51
    return d["ngroups"] * (each + (NORM_ROW if d["rows"] else NORM_GROUP + d["gsize"] * NORM_CHANNEL))


def sample_cycles(config, d, noise=False):
    """Cycles of SAMPLE; whether noise is drawn is not in the descriptor but in the sampler's coefficients."""
    return d["n"] * d["nch"] * (SAMPLE_NOISE if noise else SAMPLE_LANE)


UNIT_CYCLES = {"GEMM": gemm_cycles, "POST": post_cycles, "NORM": norm_cycles, "SAMPLE": sample_cycles}


@dataclass
class Estimate:
    """Cycles of a program; those in which each queue works; DRAM words of data and of descriptors; end of every layer."""
    cycles: float = 0.0
    busy: dict = field(default_factory=lambda: dict.fromkeys(isa.QUEUES, 0.0))
    data_words: int = 0
    fetched_words: int = 0
    layer_ends: dict = field(default_factory=dict)


class _Queue:
    """One queue's descriptors and where it is in them."""

    def __init__(self, name):
        self.name, self.waiting, self.free, self.begun = name, deque(), 0.0, deque()


class CycleModel:
    """Runs descriptors in time.

    config : EngineConfig; word_cycles : cycles of the DRAM for a word, None: that of the configuration's dram_bytes.
    """

    def __init__(self, config, word_cycles=None):
        self.config = config
        self.word_cycles = (word_cycles or config.word_bytes / config.dram_bytes) * DRAM_LOSS

    def run(self, instructions, noise=False):
        """Estimate of [(op, fields)], a program without its END or with it; ``noise``: its SAMPLEs draw noise."""
        self.noise = noise
        self.result, self.dram, self.fetched = Estimate(), 0.0, 0.0
        self.port_words = self.seen_words = 0       # that LOAD and STORE moved in the scratchpad: so far, and before POST's last piece
        self.tokens = [deque() for _ in range(isa.TOKENS)]
        self.queues = {name: _Queue(name) for name in isa.QUEUES}
        source = iter(instructions)
        following = next(source, None)
        while True:
            while following and following[0] != "END" and self.fetch(*following):
                following = next(source, None)
            step = self.next_step()
            if step is None:
                break
            self.advance(*step)
        self.result.cycles = max([self.fetched, *(q.free for q in self.queues.values()), *self.result.layer_ends.values()])
        return self.result

    # --- fetcher -----------------------------------------------------------------------------------------------------

    def fetch(self, op, d):
        """Read a descriptor into its queue; False if that is full for now."""
        queue = self.queues[isa.QUEUE_OF[op]]
        if len(queue.waiting) >= self.config.queue_depth:
            return False
        # A place is free from the time at which the descriptor queue_depth earlier began.
        place = queue.begun.popleft() if len(queue.begun) + len(queue.waiting) >= self.config.queue_depth and queue.begun else 0.0
        self.fetched = self.transfer(max(self.fetched, place), DESC_WORDS) + DRAM_TURN
        self.dram += DRAM_TURN
        self.result.fetched_words += DESC_WORDS
        queue.waiting.append([op, d, self.fetched, None])
        return True

    def transfer(self, time, words):
        """Time at which the DRAM has moved some words that are asked for at ``time``."""
        self.dram = max(self.dram, time) + words * self.word_cycles
        return self.dram

    # --- queues --------------------------------------------------------------------------------------------------------

    def next_step(self):
        """(time, queue) of the earliest thing that can happen, or None."""
        best = None
        for queue in self.queues.values():
            time = self.ready(queue)
            if time is not None and (best is None or time < best[0]):
                best = time, queue
        return best

    def ready(self, queue):
        """When a queue can begin, or go on with, its next descriptor; None if a token has not been promised yet."""
        if not queue.waiting:
            return None
        op, d, there, rest = queue.waiting[0]
        if rest is not None:
            return queue.free
        time = max(queue.free, there)
        for i in range(3):
            n, tokens = d[f"wait{i}_n"], self.tokens[d[f"wait{i}"]]
            if n:
                if len(tokens) < n:
                    return None
                time = max(time, tokens[n - 1])
        return time

    def advance(self, time, queue):
        """Begin a descriptor; finish it, or for a transfer move a piece."""
        entry = queue.waiting[0]
        op, d, _, rest = entry
        if rest is None:
            for i in range(3):
                for _ in range(d[f"wait{i}_n"]):
                    self.tokens[d[f"wait{i}"]].popleft()
            queue.begun.append(time)
            shared = op == "POST" and post_element(self.config, d)[1]
            if op in UNIT_CYCLES and not shared:
                return self.finish_unit(queue, time, START[queue.name] + self.unit_cycles(op, d))
            entry[3] = rest = d["n0"] * d["n1"] * d["n2"]
            time += START[op]
            if shared:
                self.seen_words = self.port_words
            else:
                self.result.data_words += rest
        piece = min(PIECE, rest)
        if op == "POST":
            return self.move_post(queue, time, piece)
        queue.free = self.transfer(time, piece)
        self.result.busy[queue.name] += piece * self.word_cycles
        self.port_words += piece if d["mem"] == isa.MEM["SPM"] else 0
        entry[3] = rest - piece
        if entry[3] == 0:
            done = queue.free + (DRAM_LATENCY if op == "LOAD" else LATENCY["STORE"])
            queue.free += LOAD_GAP if op == "LOAD" else 0
            self.end(queue, done)

    def move_post(self, queue, time, elements):
        """Some elements of a POST that fills the scratchpad's port: the words that LOAD and STORE moved meanwhile go first."""
        entry = queue.waiting[0]
        work = elements * post_element(self.config, entry[1])[0]
        stolen, self.seen_words = PORT_STEAL * (self.port_words - self.seen_words), self.port_words
        entry[3] -= elements
        if entry[3] == 0:
            return self.finish_unit(queue, time, work + stolen)
        self.result.busy["POST"] += work
        queue.free = time + work + stolen

    def unit_cycles(self, op, d):
        return sample_cycles(self.config, d, self.noise) if op == "SAMPLE" else UNIT_CYCLES[op](self.config, d)

    def finish_unit(self, queue, time, work):
        """The rest of a unit's descriptor, ``work`` cycles."""
        op, d = queue.waiting[0][:2]
        self.result.busy[queue.name] += work
        queue.free = time + work
        if op in ("NORM", "SAMPLE"):
            return self.end(queue, queue.free)
        rows = ROWS_LATENCY if op == "POST" and (d["rowmax"] or d["rowsum"] or d["rowstat"]) else 0
        return self.end(queue, queue.free + LATENCY[queue.name] + rows)

    def end(self, queue, time):
        """A descriptor's results are all there."""
        op, d = queue.waiting.popleft()[:2]
        for i in range(3):
            self.tokens[d[f"add{i}"]].extend([time] * d[f"add{i}_n"])
        self.result.layer_ends[d["layer"]] = max(self.result.layer_ends.get(d["layer"], 0.0), time)
