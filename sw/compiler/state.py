"""State of a lowering: tensors on chip, accumulator and statistics space, emitted items."""

from dataclasses import dataclass
import math

import numpy as np

from litediffusion.sw.compiler.items import CompileError, Item, Pool, Resource, check_length, odd_plane
from litediffusion.sw.compiler.residency import Residency


@dataclass(eq=False)
class Tensor:
    """An int8 (or, ``wide``, int16) tensor in SPM (or WBUF): channel blocks of 16, ``plane`` words apart, each ``pixels`` = H*W words.
    hword = 2 * word + half."""
    name: str
    shape: tuple
    addr: int
    mem: str = "SPM"
    stat: int = -1           # first statistics record, -1: none kept
    dram: int = -1           # word in the spill buffer, -1: never evicted
    skew: bool = False       # of skew bytes (isa.SKEW)
    wide: bool = False       # of int16: a plane for each group of 8 channels

    @property
    def pixels(self):
        return self.shape[1] * self.shape[2]

    @property
    def plane(self):
        return odd_plane(self.pixels) if self.mem == "SPM" else self.pixels

    @property
    def words(self):
        """On-chip words of the whole tensor."""
        return self.planes * self.plane

    @property
    def planes(self):
        return self.blocks * (2 if self.wide else 1)

    @property
    def blocks(self):
        return -(-self.shape[0] // 16)

    @property
    def groups(self):
        return -(-self.shape[0] // 8)

    def hword(self, group):
        """hword of pixel 0 of an output group of 8 channels."""
        if self.wide:
            return 2 * (self.addr + group * self.plane)
        return 2 * (self.addr + (group >> 1) * self.plane) + (group & 1)

    @property
    def strides(self):
        """hwords between blocks and between the halves of a block."""
        return (4 * self.plane, 2 * self.plane) if self.wide else (2 * self.plane, 1)

    def region(self, first_block=0, blocks=None, first=0, pixels=None):
        """Intervals of the pixels [first, first + pixels) of some blocks."""
        blocks = self.blocks - first_block if blocks is None else blocks
        pixels = self.pixels - first if pixels is None else pixels
        step = 2 if self.wide else 1
        if pixels == self.pixels:
            start = self.addr + first_block * step * self.plane
            return [(self.mem, start, start + blocks * step * self.plane)]
        starts = [self.addr + b * self.plane + first for b in range(first_block * step, (first_block + blocks) * step)]
        return [(self.mem, s, s + pixels) for s in starts]


def _operand_words(node):
    """WBUF words of an attention's right-hand operands: normalised tokens, keys, transposed values."""
    c, h, w = node.shape
    blocks, tokens = -(-c // 16), h * w
    return blocks * tokens, blocks * tokens, -(-tokens // 16) * c


class State(Residency):
    """What lowering functions share. ``scales``: {tensor: [steps]}, ``bits``: {conv: 4 or 8}; ``most``: items, more raise TooLong."""

    most = math.inf

    def __init__(self, config, graph, scales, bits, steps):
        self.config, self.graph, self.scales, self.bits, self.steps = config, graph, scales, bits, steps
        self.items, self.tensors = [], {}
        attention = [n for n in graph.nodes.values() if n.op == "attention"]
        constants = max((-(-n.shape[0] // 16) * odd_plane(n.shape[0]) for n in attention), default=0)
        operands = sum(max((_operand_words(n) for n in attention), default=(0, 0, 0)))
        self.areas = {"WBUF": (0, config.wbuf_words - operands), "PARAM": (0, config.param_words),
                      "SPM": (config.spm_words - constants, constants)}
        self.spm = Pool(config.spm_words - constants)
        self.wbuf = Pool(operands, config.wbuf_words - operands)
        self.stats = Pool(config.stat_words)
        self.acc_next, self.row_next, self.layer = 0, 0, 0
        self.layers = []                     # names, indexed by Item.layer
        self.uses = {}
        self.start_residency()

    def begin(self, name):
        self.layer = len(self.layers)
        self.layers.append(name)

    def emit(self, op, fields, reads=(), writes=(), needs=None, spilled=False):
        item = Item(op, fields, self.layer, list(reads), list(writes), needs or {}, spilled)
        self.items.append(item)
        if len(self.items) > self.most:
            check_length("the network", len(self.items), self.most, self.layers[self.layer])
        return item

    # --- constants -------------------------------------------------------------------------------------------------

    def params(self, record):
        """Resource of records [steps, groups] (kept once if all steps are equal)."""
        data = np.ascontiguousarray(record).view(np.uint8).reshape(len(record), -1)
        stepped = bool((data != data[:1]).any())
        return Resource("PARAM", data if stepped else data[0], self.layer, stepped=stepped)

    def weights(self, data, mem="WBUF"):
        return Resource(mem, data, self.layer)

    # --- space -------------------------------------------------------------------------------------------------------

    def alloc(self, name, shape, stat=False, mem="SPM", skew=False):
        """A new int8 tensor on chip. Raises CompileError when it does not fit."""
        t = Tensor(name, tuple(shape), -1, mem, skew=skew)
        t.addr = self.words(t.words, name, mem)
        if stat:
            t.stat = self.stats.alloc(t.groups)
            if t.stat is None:
                raise CompileError(f"layer {name}: statistics of {shape[0]} channels do not fit {self.config.stat_words} records")
        self.tensors[name] = t
        self.pinned.add(name)
        return t

    def release(self, name):
        """One use of a tensor is over; frees it after the last."""
        self.uses[name] -= 1
        if self.uses[name] == 0:
            t = self.tensors[name]
            if t.addr >= 0:
                (self.spm if t.mem == "SPM" else self.wbuf).free(t.addr)
                t.addr = -1
            if t.stat >= 0:
                self.stats.free(t.stat)

    def accumulators(self, entries, w4):
        """(first entry, intervals) of accumulator space; a ring, so that draining overlaps the next product."""
        size = self.config.acc_words if w4 else 2 * self.config.acc_words
        half = self.config.acc_words
        if entries > half:
            raise CompileError(f"layer {self.layers[self.layer]}: {entries} accumulators at once, the limit is {half}")
        start = self.acc_next % size
        if start + entries > size or start // half != (start + entries - 1) // half:
            start = (start // half + 1) * half % size
        self.acc_next = start + entries
        spans = [("ACC", start, start + entries)]
        return start, spans + ([("ACC", start + half, start + half + entries)] if w4 else [])

    def rows(self, n):
        """First of ``n`` row records; a ring."""
        if self.row_next + n > self.config.row_words:
            self.row_next = 0
        start, self.row_next = self.row_next, self.row_next + n
        return start

    # --- tensors -----------------------------------------------------------------------------------------------------

    def sources(self, name):
        return self.graph.sources(name)

    def scale(self, name):
        return self.scales[name]
