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


class _History:
    """For each memory of a queue: the number of the last instruction that read or wrote each address."""

    def __init__(self):
        self.last = {}

    def _array(self, kind, memory, end):
        array = self.last.get((kind, memory), np.full(0, -1, np.int32))
        if len(array) < end:
            array = np.concatenate([array, np.full(max(end, 2 * len(array)) - len(array), -1, np.int32)])
            self.last[kind, memory] = array
        return array

    def note(self, number, item):
        for kind, intervals in (("reads", item.reads), ("writes", item.writes)):
            for memory, first, end in intervals:
                self._array(kind, memory, end)[first:end] = number

    def latest(self, item):
        """Number of the last instruction that ``item`` conflicts with, or -1."""
        asked = [("writes", interval) for interval in item.reads] + \
                [(kind, interval) for kind in ("reads", "writes") for interval in item.writes]
        return max((int(self._array(kind, memory, end)[first:end].max(initial=-1)) for kind, (memory, first, end) in asked), default=-1)


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
