"""What the lowering emits: instructions with the memory they touch, before addresses of weights and tokens are known."""

from dataclasses import dataclass, field

from litediffusion.cores import isa

WORD_BYTES = 16          # a word on chip and in DRAM: 16 int8 channels


def odd_plane(pixels):
    """Words between the channel blocks of a tensor in SPM. Odd, so that neighbouring blocks lie in different banks
    and an engine with ``gemm_words = 2`` multiplies two of them a cycle."""
    return pixels | 1


def spm_words(node):
    """Words that a node's output takes in SPM."""
    c, h, w = node.shape
    return -(-c // WORD_BYTES) * odd_plane(h * w)


class CompileError(ValueError):
    """The model cannot be compiled; the message names the layer, the value, the limit and the remedy."""

    def __init__(self, reason, remedy=""):
        super().__init__(f"{reason}: {remedy}" if remedy else reason)
        self.reason, self.remedy = reason, remedy


class TooLong(CompileError):
    """An evaluation takes more descriptors than may be."""


def check_length(name, count, most, at=""):
    """Raise TooLong unless ``count`` descriptors are at most ``most``; at : the layer at which so many were reached."""
    if count > most:
        raise TooLong(f"{name}: an evaluation takes {count:,} descriptors{f' by layer {at}' if at else ''}, the limit is {most:,}: make the picture "
                      "smaller (self-attention takes descriptors by the square of its pixels), or use a configuration with larger memories, "
                      "which cuts layers into fewer pieces; `litediffusion estimate` says what all of it would cost")


@dataclass(eq=False)
class Resource:
    """Data brought on chip ahead of their use: weight tiles (WBUF), activations (SPM) or parameter records (PARAM).

    ``data`` is uint8 [bytes], or [steps, bytes] for step-indexed data. ``addr`` is set by the prefetcher, which loads it
    not before item ``after`` of the program.
    """
    mem: str
    data: object
    layer: int
    addr: int = -1
    dram: int = -1
    stepped: bool = False
    after: int = 0
    spilled: bool = False

    @property
    def words(self):
        return self.data.shape[-1] // WORD_BYTES

    def transfer(self):
        """DRAM side of the LOAD's fields, and the intervals of DRAM that it must not read too early."""
        return dict(dram=self.dram, n0=1, n1=1, n2=self.words), []


@dataclass(eq=False)
class Operand(Resource):
    """A part of a tensor that an earlier layer made, brought on chip like constant data: ``rows`` pieces of ``length``
    words, ``pitch`` words apart in DRAM. ``spilled``: ``dram`` counts from the spill buffer."""
    rows: int = 1
    length: int = 0
    pitch: int = 0

    @property
    def words(self):
        return self.rows * self.length

    def transfer(self):
        start = self.dram // WORD_BYTES
        return (dict(dram=self.dram, n0=1, n1=self.rows, n2=self.length, s1=self.pitch, d1=self.length),
                [("DRAM", start + r * self.pitch, start + r * self.pitch + self.length) for r in range(self.rows)])


@dataclass(eq=False)
class Item:
    """One instruction. ``reads`` / ``writes``: (memory, first, end) intervals in the memory's own unit.

    ``needs``: {field: (Resource, offset)}; the field becomes resource address + offset. ``spilled``: the field ``dram``
    counts from the spill buffer, whose place is known last.
    """
    op: str
    fields: dict
    layer: int
    reads: list = field(default_factory=list)
    writes: list = field(default_factory=list)
    needs: dict = field(default_factory=dict)
    spilled: bool = False

    @property
    def queue(self):
        return isa.QUEUE_OF[self.op]


class Pool:
    """Next-fit allocator of [base, base + size); rotating, so that freed space rests before it is used again."""

    def __init__(self, size, base=0):
        self.base, self.size, self.used, self.next = base, size, {}, base

    def _free_at(self, start, words):
        end = start + words
        return end <= self.base + self.size and all(end <= a or a + n <= start for a, n in self.used.items())

    def find(self, words):
        """Where ``words`` free words start, or None."""
        ends = sorted({self.base, self.next, *(a + n for a, n in self.used.items())})
        for start in [s for s in ends if s >= self.next] + [s for s in ends if s < self.next]:
            if self._free_at(start, words):
                return start
        return None

    def fits(self, words):
        return self.find(words) is not None

    def alloc(self, words):
        """First address of ``words`` words, now used, or None."""
        start = self.find(words)
        if start is not None:
            self.used[start], self.next = words, start + words
        return start

    def free(self, addr):
        del self.used[addr]
