"""WishboneSlice: every access once, answers to whom they belong, nothing of an access that was given up. TimeoutRegister: LiteX's time-out."""

import random

from litex.soc.interconnect import wishbone
from migen import Module, passive, run_simulation

from litediffusion.soc.pipeline import TimeoutRegister, WishboneSlice

WORDS = 16


class Bench(Module):
    def __init__(self):
        self.master, self.slave = wishbone.Interface(), wishbone.Interface()
        self.submodules.slice = WishboneSlice(self.master, self.slave)


@passive
def memory(slave, words, delays, log):
    """A slave that answers after some cycles, with an error beyond its words."""
    while True:
        if (yield slave.cyc) and (yield slave.stb):
            for _ in range(delays.randrange(4)):
                yield
            adr, we = (yield slave.adr), (yield slave.we)
            log.append((adr, we))
            if adr >= WORDS:
                yield slave.err.eq(1)
            else:
                yield slave.dat_r.eq(words[adr])
                yield slave.ack.eq(1)
                if we:
                    words[adr] = (yield slave.dat_w)
            yield
            yield slave.ack.eq(0)
            yield slave.err.eq(0)
        yield


def access(master, adr, value=None, patience=None):
    """("ack" | "err" | None when given up after ``patience`` cycles, data, cycles)."""
    yield master.adr.eq(adr)
    yield master.we.eq(value is not None)
    yield master.dat_w.eq(value or 0)
    yield master.sel.eq(15)
    yield master.cyc.eq(1)
    yield master.stb.eq(1)
    yield
    answer, cycles = None, 0
    while answer is None and cycles != patience:
        yield
        cycles += 1
        answer = "ack" if (yield master.ack) else "err" if (yield master.err) else None
    data = (yield master.dat_r)
    yield master.cyc.eq(0)
    yield master.stb.eq(0)
    yield
    return answer, data, cycles


def simulate(host, seed=0, slow=True):
    bench, words, log = Bench(), [10 * i for i in range(WORDS)], []
    delays = random.Random(seed)
    if not slow:
        delays.randrange = lambda n: 0

    run_simulation(bench, [host(bench.master, words), memory(bench.slave, words, delays, log)])
    return log


def test_reads_writes_and_errors():
    rng, sent = random.Random(1), []

    def host(master, words):
        for _ in range(200):
            adr, value = rng.randrange(WORDS + 2), rng.choice([None, rng.getrandbits(32)])
            before = words[adr] if adr < WORDS else None
            answer, data, _ = yield from access(master, adr, value)
            sent.append((adr, int(value is not None)))
            assert answer == ("ack" if adr < WORDS else "err")
            if adr < WORDS:
                assert words[adr] == value if value is not None else data == before

    assert simulate(host) == sent       # each access once, in order


def test_an_abandoned_access_answers_nobody():
    rng = random.Random(2)

    def host(master, words):
        for _ in range(100):
            yield from access(master, rng.randrange(WORDS), patience=rng.randrange(3))
            adr = rng.randrange(WORDS)
            assert (yield from access(master, adr))[:2] == ("ack", words[adr])

    simulate(host)


def test_two_cycles_longer():
    def host(master, words):
        assert (yield from access(master, 3))[2] == 3       # the slave here answers after 1

    simulate(host, slow=False)


class Unanswered(Module):
    """A bus of one master with a time-out, and a slave that the test drives. ``register``: the time-out's end comes from a register."""

    CYCLES = 20

    def __init__(self, register):
        self.master, self.slave = wishbone.Interface(), wishbone.Interface()
        self.submodules.bus = bus = wishbone.InterconnectShared([self.master], [(lambda adr: 1, self.slave)], True, self.CYCLES)
        if register:
            self.submodules.register = TimeoutRegister(bus, self.CYCLES)


def timeout_trace(register, answers):
    """(ack, error) of each cycle of accesses, one after another, that the slave answers after so many cycles (None: never)."""
    bench, seen = Unanswered(register), []

    def accesses():
        for after in answers:
            yield bench.master.cyc.eq(1)
            yield bench.master.stb.eq(1)
            for cycle in range(3 * bench.CYCLES):
                yield bench.slave.ack.eq(cycle == after)
                yield
                seen.append(((yield bench.master.ack), (yield bench.bus.timeout.error)))
                if seen[-1][0]:
                    break
            yield bench.master.cyc.eq(0)
            yield bench.slave.ack.eq(0)
            yield
    run_simulation(bench, accesses())
    return seen


def test_the_timeout_from_a_register_is_litex_own():
    answers = [None, 3, 17, 18, 19, 20, 21, None, None, 2]
    registered = timeout_trace(True, answers)
    assert registered == timeout_trace(False, answers)
    assert sum(ack for ack, _ in registered) == len(answers) and 3 <= sum(error for _, error in registered) < len(answers)
