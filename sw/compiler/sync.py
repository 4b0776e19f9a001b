"""Token synchronisation: instructions of different queues that touch the same memory are put in order.

For each ordered pair of queues there is one counter. An instruction waits for the latest conflicting instruction of
each other queue, unless a wait before it already covers that one; waits and adds of a pair then match one to one and
in order, and since every queue is in order, program order satisfies every wait: no program made here can dead-lock.
"""

import numpy as np

from litediffusion.cores import isa

_LETTER = {"LOAD": "L", "GEMM": "G", "POST": "P", "STORE": "S"}


def token(producer, consumer):
    return isa.TOKEN_NAMES.index(_LETTER[producer] + "2" + _LETTER[consumer])


PAGE = 1 << 12           # addresses kept together: of a large DRAM only what is used takes memory


class _History:
    """For each memory of a queue: the number of the last instruction that read or wrote each address."""

    def __init__(self):
        self.last = {}

    def _pieces(self, kind, memory, first, end):
        """(page's key, slice in it) of addresses [first, end)."""
        for page in range(first // PAGE, -(-end // PAGE)):
            start = page * PAGE
            yield (kind, memory, page), slice(max(first - start, 0), min(end - start, PAGE))

    def note(self, number, item):
        for kind, intervals in (("reads", item.reads), ("writes", item.writes)):
            for memory, first, end in intervals:
                for key, part in self._pieces(kind, memory, first, end):
                    if key not in self.last:
                        self.last[key] = np.full(PAGE, -1, np.int32)
                    self.last[key][part] = number

    def latest(self, item):
        """Number of the last instruction that ``item`` conflicts with, or -1."""
        asked = [("writes", interval) for interval in item.reads] + \
                [(kind, interval) for kind in ("reads", "writes") for interval in item.writes]
        pieces = (piece for kind, interval in asked for piece in self._pieces(kind, *interval))
        return max((int(self.last[key][part].max(initial=-1)) for key, part in pieces if key in self.last), default=-1)


def assign_tokens(items):
    """Fill wait and add fields of all items (a list in program order)."""
    done, history = {q: [] for q in isa.QUEUES}, {q: _History() for q in isa.QUEUES}
    covered = {(a, b): -1 for a in isa.QUEUES for b in isa.QUEUES}
    for item in items:
        if item.op == "END":
            continue
        waits = 0
        for queue in isa.QUEUES:
            at = history[queue].latest(item) if queue != item.queue else -1
            if at > covered[queue, item.queue]:
                producer, number = done[queue][at], token(queue, item.queue)
                adds = producer.fields.setdefault("adds", 0)
                producer.fields.update({f"add{adds}": number, f"add{adds}_n": 1, "adds": adds + 1})
                item.fields.update({f"wait{waits}": number, f"wait{waits}_n": 1})
                waits += 1
                covered[queue, item.queue] = at
        history[item.queue].note(len(done[item.queue]), item)
        done[item.queue].append(item)
    for item in items:
        item.fields.pop("adds", None)
