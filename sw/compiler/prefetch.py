"""Prefetch: places constant data (weights, records) in rings and puts its LOADs as far ahead of the use as space allows."""

from collections import deque

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import WORD_BYTES, CompileError, Item, Pool

LOOKAHEAD = 40           # items; further ahead nothing is gained, and the LOAD queue would delay urgent loads
RECORD_WORDS = isa.PARAM_BYTES // WORD_BYTES


def load_item(resource, image):
    """The LOAD of a resource."""
    fields, reads = resource.transfer()
    unit = RECORD_WORDS if resource.mem == "PARAM" else 1
    fields.update(mem=isa.MEM[resource.mem], addr=resource.addr * unit)
    if resource.stepped:
        fields.update(idx0=isa.INDEX["STEP"], idx0_stride=image.step_stride)
    return Item("LOAD", fields, resource.layer, reads, [(resource.mem, resource.addr, resource.addr + resource.words // unit)],
                spilled=resource.spilled)


def _spans(items):
    """Resources in order of first use, and {resource: (first, last) item}."""
    spans = {}
    for i, item in enumerate(items):
        for resource, _ in item.needs.values():
            first, _ = spans.get(resource, (i, i))
            spans[resource] = (first, i)
    return sorted(spans, key=lambda r: spans[r][0]), spans


class Prefetcher:
    """Weaves LOADs of resources into a list of items. ``areas``: {memory: (base, units)} for resources."""

    def __init__(self, items, image, areas, layer_names):
        self.items, self.image, self.names = items, image, layer_names
        self.pools = {mem: Pool(size, base) for mem, (base, size) in areas.items()}
        pending, self.spans = _spans(items)
        self.pending, self.out = deque(pending), []

    def _try_load(self, resource):
        words = resource.words
        addr = self.pools[resource.mem].alloc(words // RECORD_WORDS if resource.mem == "PARAM" else words)
        if addr is None:
            return False
        resource.addr = addr
        self.out.append(load_item(resource, self.image))
        return True

    def _issue(self, now, urgent):
        ahead = min(LOOKAHEAD, 4 + 2 * now)
        while self.pending:
            resource = self.pending[0]
            needed = self.spans[resource][0] <= now
            if not needed and (urgent or self.spans[resource][0] > now + ahead or resource.after > now):
                return
            if not self._try_load(resource):
                if needed:
                    pool = self.pools[resource.mem]
                    raise CompileError(f"layer {self.names[resource.layer]}: {WORD_BYTES * resource.words} bytes of constants do "
                                       f"not fit the {resource.mem} of {pool.size} units; use a larger configuration")
                return
            self.pending.popleft()

    def run(self):
        """The items with LOADs woven in and resource addresses filled in."""
        for i, item in enumerate(self.items):
            self._issue(i, urgent=item.op == "LOAD")
            for name, (resource, offset) in item.needs.items():
                item.fields[name] = resource.addr + offset
                unit = RECORD_WORDS if resource.mem == "PARAM" else 1
                item.reads.append((resource.mem, resource.addr, resource.addr + resource.words // unit))
            self.out.append(item)
            for resource in {r for r, _ in item.needs.values()}:
                if self.spans[resource][1] == i:
                    self.pools[resource.mem].free(resource.addr)
        return self.out
