"""From items to a program: LOADs of what they need, tokens, code."""

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import Item
from litediffusion.sw.compiler.prefetch import Prefetcher
from litediffusion.sw.compiler.sync import assign_tokens

MOST_PIECES = 16         # programs that an evaluation is run as at most; the compiler's memory is the limit
LIMIT = MOST_PIECES * isa.MOST_DESCRIPTORS


def resources_of(items):
    """Resources in order of first use."""
    return list(dict.fromkeys(r for item in items for r, _ in item.needs.values()))


def schedule(items, image, areas, layer_names):
    """Items with the LOADs of what they need and with tokens, up to END; with an END in between where isa.pieces cuts."""
    loaded, size, full = Prefetcher(items, image, areas, layer_names).run(), isa.MOST_DESCRIPTORS - 1, []
    for at in range(0, max(1, len(loaded)), size):
        piece = [*loaded[at:at + size], Item("END", {}, 0)]
        assign_tokens(piece)                # at an END all before it is complete
        full += piece
    return full


def encode(full, image, spill=0):
    """Scheduled items -> (byte offset, descriptors) of the program placed in the image; ``spill``: the spill buffer's place."""
    for item in full:
        if item.spilled:
            item.fields["dram"] += spill
    code = b"".join(isa.encode(i.op, layer=i.layer, **i.fields) for i in full)
    return image.constant(np.frombuffer(code, np.uint8)), len(full)


def assemble(items, image, areas, layer_names):
    """Items -> (byte offset, descriptors) of the program placed in the image."""
    return encode(schedule(items, image, areas, layer_names), image)
