"""From items to a program: LOADs of what they need, tokens, code."""

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import CompileError, Item
from litediffusion.sw.compiler.prefetch import Prefetcher
from litediffusion.sw.compiler.sync import assign_tokens

MOST_DESCRIPTORS = (1 << 16) - 1        # of the engine's register program_len


def resources_of(items):
    """Resources that need a place in DRAM, in order of first use."""
    return list(dict.fromkeys(r.whole for item in items for r, _ in item.needs.values()))


def schedule(items, image, areas, layer_names):
    """Items with the LOADs of what they need and with tokens, up to END."""
    full = Prefetcher(items, image, areas, layer_names).run()
    full.append(Item("END", {}, 0))
    assign_tokens(full)
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


class TooLong(CompileError):
    """More descriptors than the engine can run."""


def check_length(name, program):
    """Raise TooLong unless the engine can run so many descriptors."""
    if len(program) > MOST_DESCRIPTORS:
        raise TooLong(f"{name}: an evaluation takes {len(program):,} descriptors, the limit is {MOST_DESCRIPTORS:,}: use a "
                           "configuration with larger memories, which cuts layers into fewer pieces")
