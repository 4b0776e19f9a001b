"""How a layer whose tensors lie in DRAM is cut: tiles of rows, slices of input blocks, chunks of output groups.

For each tile, and for each batch of ``at_once`` chunks, the slices of the input pass by; every slice is multiplied into
the accumulators of all chunks of the batch. With one batch a slice is needed once and a tile need not fit on chip; with
several, slices stay on chip for the whole tile (``resident``) or are loaded again for each batch.
"""

from dataclasses import dataclass

from litediffusion.sw.compiler.items import WORD_BYTES, CompileError, odd_plane
from litediffusion.sw.compiler.lower_conv import CHUNK_WORDS, input_rows

OUT_SLOTS = 4            # output blocks on chip: one awaits its residual, one is drained, one is stored, one to spare
SLICE_BLOCKS = 8         # most blocks of a slice: finer slices come and go sooner
SLICES_AHEAD = 3         # slices on chip at least, when they do not stay
DRAM_SHARE = 0.85        # of the DRAM's peak that long transfers reach
DESCRIPTOR_WORDS = 40    # that a product costs beside its weights: GEMM and LOAD are fetched, and a LOAD waits for the one before
OVERLAP_LOSS = 0.05      # of the work that hides behind the longest: tie-breaker between plans


def balanced(total, most):
    """[(first, count)]: the fewest pieces of at most ``most``, as equal as can be."""
    size = -(-total // -(-total // most))
    return [(at, min(size, total - at)) for at in range(0, total, size)]


@dataclass(frozen=True)
class Layer:
    """What the plan needs to know of a layer.

    node : conv Node; parts : blocks of each input tensor; shape : (C, H, W) of the input; w4 : int4 weights;
    normed : the input is normalised on chip; residual : an equally large tensor is added; spare : SPM words taken;
    wide_in, wide_out, wide_residual : these are of int16, two words a pixel and block; out_words : words of a pixel of an output block
    whose places are not wide; between : words a pixel of what lies between two passes of a drain.
    """
    node: object
    parts: tuple
    shape: tuple
    w4: bool
    normed: bool
    residual: bool
    spare: int = 0
    wide_in: bool = False
    wide_out: bool = False
    wide_residual: bool = False
    out_words: int = 1
    between: int = 0

    @property
    def taps(self):
        kh, kw = self.node.attrs["weight"].shape[2:]
        return kh * kw

    @property
    def lanes(self):
        """Output channels of a GEMM group."""
        return 16 if self.w4 else 8

    @property
    def in_words(self):
        """Words of a pixel of an input block."""
        return 1 + self.wide_in

    def place_words(self, rows):
        """Words of the place of an output block of so many rows."""
        pixels = rows * self.node.shape[2]
        return 2 * odd_plane(pixels) if self.wide_out or self.wide_residual else self.out_words * pixels

    def drain_words(self, rows):
        """Words of all places of output blocks, and of what lies between the passes of a drain."""
        return OUT_SLOTS * self.place_words(rows) + self.between * rows * self.node.shape[2]

    def chunks(self):
        """[(first group, groups)] of an output block each."""
        groups, size = -(-self.node.shape[0] // self.lanes), 16 // self.lanes
        return [(g, min(size, groups - g)) for g in range(0, groups, size)]


@dataclass(frozen=True)
class TilePlan:
    """tiles [(first output row, rows)], chunks [(first group, groups)], slices [(part, first block, blocks)],
    at_once, resident as above; ``ring``: SPM words for slices; ``cycles``: the estimate by which it was chosen."""
    tiles: list
    chunks: list
    slices: list
    at_once: int
    resident: bool
    ring: int
    cycles: float

    def batches(self):
        """The chunks, ``at_once`` at a time."""
        return [self.chunks[i:i + self.at_once] for i in range(0, len(self.chunks), self.at_once)]


def _slices(parts, blocks):
    return [(part, first, min(blocks, count - first)) for part, count in enumerate(parts) for first in range(0, count, blocks)]


def _cycles(config, layer, plan, in_words):
    """Estimated cycles: the longest of array, DRAM and POST, and a little of the rest. ``in_words`` by tile and block."""
    ow, words = layer.node.shape[2], config.gemm_words
    blocks, out_blocks = sum(layer.parts), len(plan.chunks)
    groups = sum(count for _, count in plan.chunks)
    loads = 1 if plan.resident else len(plan.batches())
    array = sum(groups * layer.taps * sum(-(-n // words) for _, _, n in plan.slices) * max(rows * ow, 8 * words)
                for _, rows in plan.tiles)
    inputs = sum(in_words) * blocks * loads * layer.in_words
    outputs = out_blocks * layer.node.shape[1] * ow
    steps = len(plan.tiles) * len(plan.chunks) * len(plan.slices)
    weights = len(plan.tiles) * groups * blocks * layer.taps * 8
    dram = weights + inputs + outputs * (1 + layer.wide_out + layer.residual * (1 + layer.wide_residual)) + steps * DESCRIPTOR_WORDS
    passes = sum(in_words) * blocks * loads * (layer.normed or layer.wide_in) + outputs * (1 + layer.wide_residual)
    post = 2 * passes * config.post_beats
    work = array, dram * WORD_BYTES / config.dram_bytes / DRAM_SHARE, post
    return max(work) + OVERLAP_LOSS * sum(work)


def _candidates(config, layer):
    """All plans that fit on chip."""
    oh, ow = layer.node.shape[1:]
    chunks = layer.chunks()
    size = chunks[0][1]
    spm = config.spm_words - layer.spare
    widest = min(SLICE_BLOCKS, max(1, CHUNK_WORDS // (16 * layer.taps * size) * 2))
    for rows in sorted({-(-oh // n) for n in range(1, oh + 1)}):
        if size * rows * ow > config.acc_words:
            break
        tiles = balanced(oh, rows)
        in_words = [count * layer.shape[2] for _, count in (input_rows(layer.node, layer.shape[1], y, n) for y, n in tiles)]
        plane, ring = odd_plane(max(in_words)), spm - layer.drain_words(rows)
        # A batch in half of the accumulators leaves the other half to the next: drains overlap its products.
        limit = config.acc_words // (size * rows * ow) * (1 if layer.w4 else 2)
        for at_once in dict.fromkeys((max(1, limit // 2), 1, min(limit, len(chunks)))):      # of equal plans the first is taken
            for blocks in range(1, widest + 1):
                slices = _slices(layer.parts, blocks)
                for resident in (True, False):
                    if (sum(layer.parts) + blocks if resident else SLICES_AHEAD * blocks) * plane * layer.in_words <= ring:
                        plan = TilePlan(tiles, chunks, slices, at_once, resident, ring, 0.0)
                        yield TilePlan(tiles, chunks, slices, at_once, resident, ring, _cycles(config, layer, plan, in_words))


def plan_tiles(config, layer):
    """The fastest plan by the estimate. Raises CompileError when not even one row fits."""
    best = min(_candidates(config, layer), key=lambda plan: plan.cycles, default=None)
    if best is None:
        raise CompileError(f"layer {layer.node.name}: one output row of {layer.node.shape[2]} pixels with its input rows does not "
                           f"fit {config.spm_words} words of scratchpad and {config.acc_words} accumulators", "use a larger configuration")
    return best
