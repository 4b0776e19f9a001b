"""Token synchronisation: instructions of different queues that touch the same memory are put in order.

For each ordered pair of queues there is one counter. An instruction waits for the latest conflicting instruction of
each other queue, unless a wait before it already covers that one; waits and adds of a pair then match one to one and
in order, and since every queue is in order, program order satisfies every wait: no program made here can dead-lock.
"""

from litediffusion.cores import isa

_LETTER = {"LOAD": "L", "GEMM": "G", "POST": "P", "STORE": "S"}


def _overlap(a, b):
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)


def conflict(first, second):
    """True if ``second`` must not start before ``first`` is complete."""
    return _overlap(first.writes, second.reads) or _overlap(first.writes, second.writes) or _overlap(first.reads, second.writes)


def token(producer, consumer):
    return isa.TOKEN_NAMES.index(_LETTER[producer] + "2" + _LETTER[consumer])


def assign_tokens(items):
    """Fill wait and add fields of all items (a list in program order)."""
    done = {q: [] for q in isa.QUEUES}
    covered = {(a, b): -1 for a in isa.QUEUES for b in isa.QUEUES}
    for item in items:
        if item.op == "END":
            continue
        waits = 0
        for queue in isa.QUEUES:
            if queue == item.queue:
                continue
            for at in range(len(done[queue]) - 1, covered[queue, item.queue], -1):
                producer = done[queue][at]
                if conflict(producer, item):
                    adds = producer.fields.setdefault("adds", 0)
                    number = token(queue, item.queue)
                    producer.fields.update({f"add{adds}": number, f"add{adds}_n": 1, "adds": adds + 1})
                    item.fields.update({f"wait{waits}": number, f"wait{waits}_n": 1})
                    waits += 1
                    covered[queue, item.queue] = at
                    break
        done[item.queue].append(item)
    for item in items:
        item.fields.pop("adds", None)
