"""Tensors in DRAM, and the slices of them that are on chip for a while."""

from dataclasses import dataclass, field

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import WORD_BYTES
from litediffusion.sw.compiler.records import activation_code
from litediffusion.sw.compiler.state import Tensor

NORM_AHEAD = 3           # products between a slice's normalisation and its first use: POST need not wait for the LOAD
LOAD_AHEAD = 40          # products between a slice's LOAD and its first use, at most


@dataclass(eq=False)
class DramTensor:
    """An int8 tensor in DRAM: [block][pixel][16 channels] from byte ``at`` of the window.

    scale : [steps], real value of one count; stat : first statistics record of its channels, -1: none kept;
    index : a LOAD's or STORE's index fields, for a tensor of which every step, label or slot has its own;
    spilled : ``at`` counts from the spill buffer, whose place is not known yet.
    """
    name: str
    shape: tuple
    at: int
    scale: np.ndarray
    stat: int = -1
    index: dict = field(default_factory=dict)
    spilled: bool = False

    @property
    def pixels(self):
        return self.shape[1] * self.shape[2]

    @property
    def blocks(self):
        return -(-self.shape[0] // 16)

    @property
    def bytes(self):
        return WORD_BYTES * self.blocks * self.pixels

    def transfer(self, block, blocks, row, rows):
        """(DRAM fields, DRAM interval) of some rows of some blocks."""
        width = self.shape[2]
        first = self.at // WORD_BYTES + block * self.pixels + row * width
        fields = dict(self.index, dram=WORD_BYTES * first, n0=1, n1=blocks, n2=rows * width, s1=self.pixels)
        return fields, [("DRAM", first + b * self.pixels, first + b * self.pixels + rows * width) for b in range(blocks)]


def move(state, op, tensor, block, row, on_chip):
    """LOAD or STORE of ``on_chip`` (a Tensor of some rows of some blocks) at its place in a DramTensor."""
    fields, there = tensor.transfer(block, on_chip.blocks, row, on_chip.shape[1])
    here = on_chip.region()
    reads, writes = (there, here) if op == "LOAD" else (here, there)
    state.emit(op, dict(fields, addr=on_chip.addr, d1=on_chip.plane), reads, writes, spilled=tensor.spilled)


@dataclass(frozen=True)
class Slice:
    """Rows [row, row + rows) of some blocks of input ``part``; ``channel_block``: of its first block in the whole input.
    ``turn`` tells apart what is loaded again."""
    turn: tuple
    part: int
    block: int
    blocks: int
    row: int
    rows: int
    channel_block: int


class SliceStream:
    """Brings slices on chip in the order of their use, as early as there is room, and prepares them by POST.

    uses : the Slice of every product, in order; norm : (params resource, function) or None; ring : Pool of SPM words.
    """

    def __init__(self, state, parts, uses, norm, ring):
        self.state, self.parts, self.norm, self.ring = state, parts, norm, ring
        self.first, self.last = {}, {}
        for step, use in enumerate(uses):
            self.first.setdefault(use, step)
            self.last[use] = step
        self.waiting, self.loaded, self.here = list(self.first), [], {}

    def prepare(self, step):
        """Emit the LOADs and normalisations that product ``step`` needs and those that may run ahead. Call before it."""
        while self.waiting and self.first[self.waiting[0]] <= step + LOAD_AHEAD and self.load(self.waiting[0]):
            self.loaded.append(self.waiting.pop(0))
        while self.loaded and self.first[self.loaded[0]] <= step + NORM_AHEAD:
            self.normalise(self.loaded.pop(0))

    def load(self, piece):
        """True if there was room."""
        part = self.parts[piece.part]
        tensor = Tensor(part.name, (16 * piece.blocks, piece.rows, part.shape[2]), -1)
        addr = self.ring.alloc(tensor.words)
        if addr is None:
            return False
        tensor.addr = addr
        self.here[piece] = tensor
        move(self.state, "LOAD", part, piece.block, piece.row, tensor)
        return True

    def normalise(self, piece):
        """GroupNorm and activation in place; only real pixels, so that what lies outside the image counts as zero."""
        if self.norm is None:
            return
        params, function = self.norm
        t = self.here[piece]
        loops = dict(n0=t.blocks, n1=2, n2=t.pixels, ps0=2, ps1=1)
        for source in ("a", "d"):
            loops.update({source: t.hword(0), f"{source}s0": 2 * t.plane, f"{source}s1": 1, f"{source}s2": 2})
        self.state.emit("POST", dict(loops, src=isa.SRC["INT8"], dst=isa.DST["SPM"], act=activation_code(function)),
                        t.region(), t.region(), {"p": (params, 2 * piece.channel_block)})

    def use(self, step, piece):
        """The slice on chip for product ``step``; given up after its last product (call once the product is emitted)."""
        tensor = self.here[piece]
        if self.last[piece] == step:
            self.ring.free(self.here.pop(piece).addr)
        return tensor
