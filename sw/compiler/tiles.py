"""Tensors in DRAM, and the slices of them that are on chip for a while."""

from dataclasses import dataclass, field, replace

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import WORD_BYTES
from litediffusion.sw.compiler.lower_conv import out_kind, src_kind
from litediffusion.sw.compiler.records import activation_code
from litediffusion.sw.compiler.state import Tensor

NORM_AHEAD = 3           # products between a slice's normalisation and its first use: POST need not wait for the LOAD
LOAD_AHEAD = 40          # products between a slice's LOAD and its first use, at most


@dataclass(eq=False)
class DramTensor:
    """An int8 or int16 tensor in DRAM: [block][pixel][16 channels] from byte ``at`` of the window.

    scale : [steps], real value of one count; stat : first statistics record of its channels, -1: none kept;
    index : a LOAD's or STORE's index fields, for a tensor of which every step, label or slot has its own;
    spilled : ``at`` counts from the spill buffer, whose place is not known yet;
    skew : of skew bytes (isa.SKEW); fine : above 0: int16 values with so many bits below a byte's unit, [group][pixel][8 channels].
    """
    name: str
    shape: tuple
    at: int
    scale: np.ndarray
    stat: int = -1
    index: dict = field(default_factory=dict)
    spilled: bool = False
    skew: bool = False
    fine: int = 0

    @property
    def pixels(self):
        return self.shape[1] * self.shape[2]

    @property
    def blocks(self):
        return -(-self.shape[0] // 16)

    @property
    def bytes(self):
        return WORD_BYTES * self.blocks * self.pixels * self.words

    @property
    def words(self):
        """Words of a pixel of a block."""
        return 2 if self.fine else 1

    @property
    def unit(self):
        """[steps], real value of one count."""
        return self.scale / (1 << self.fine)

    def piece(self, blocks, rows, addr=-1):
        """Some rows of some blocks on chip."""
        return Tensor(self.name, (16 * blocks, rows, self.shape[2]), addr, skew=self.skew, wide=self.fine > 0)

    def transfer(self, block, blocks, row, rows):
        """(DRAM fields, DRAM interval) of some rows of some blocks."""
        width = self.shape[2]
        first, planes = self.at // WORD_BYTES + block * self.words * self.pixels + row * width, blocks * self.words
        fields = dict(self.index, dram=WORD_BYTES * first, n0=1, n1=planes, n2=rows * width, s1=self.pixels)
        return fields, [("DRAM", first + p * self.pixels, first + p * self.pixels + rows * width) for p in range(planes)]


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


@dataclass(frozen=True)
class Prepared:
    """What POST does to an input on its way: records, activation or None, scale [steps] of the result, skew bytes or not;
    ``single``: one record for all channels."""
    params: object
    function: str
    scale: np.ndarray
    skew: bool = False
    single: bool = False


class SliceStream:
    """Brings slices on chip in the order of their use, as early as there is room, and prepares them by POST.

    uses : the Slice of every product, in order; prepared : of each part, a Prepared or None; ring : Pool of SPM words.
    """

    def __init__(self, state, parts, uses, prepared, ring):
        self.state, self.parts, self.prepared, self.ring = state, parts, prepared, ring
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
        tensor = part.piece(piece.blocks, piece.rows)
        addr = self.ring.alloc(tensor.words)
        if addr is None:
            return False
        tensor.addr = addr
        self.here[piece] = tensor
        move(self.state, "LOAD", part, piece.block, piece.row, tensor)
        return True

    def normalise(self, piece):
        """GroupNorm and activation, or rounding to bytes, in place; only real pixels, so that what lies outside the image counts as zero."""
        prepared = self.prepared[piece.part]
        if prepared is None:
            return
        function, t = prepared.function, self.here[piece]
        self.here[piece] = out = replace(t, skew=prepared.skew, wide=False)
        loops, record = dict(n0=t.blocks, n1=2, n2=t.pixels), 0 if prepared.single else 2 * piece.channel_block
        if not prepared.single:
            loops.update(ps0=2, ps1=1)
        for name, tensor in (("a", t), ("d", out)):
            block, half = tensor.strides
            loops.update({name: tensor.hword(0), f"{name}s0": block, f"{name}s1": half, f"{name}s2": 2})
        self.state.emit("POST", dict(loops, src=src_kind(t), dst=isa.DST["SPM"], act=activation_code(function),
                                     out=out_kind(out)), t.region(), t.region(), {"p": (prepared.params, record)})

    def use(self, step, piece):
        """The slice on chip for product ``step``; given up after its last product (call once the product is emitted)."""
        tensor = self.here[piece]
        if self.last[piece] == step:
            self.ring.free(self.here.pop(piece).addr)
        return tensor
