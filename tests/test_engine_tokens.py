"""The token counters against plain integers: random waits and adds of four queues with random gaps."""

import random

import pytest
from migen import Case, If, Module, Signal, passive, run_simulation

from litex.soc.interconnect import stream

from litediffusion.cores import isa
from litediffusion.cores.tokens import NO_TOKEN, SLOTS, Tokens, slots_layout

QUEUES = 4
LIMIT = 6000        # cycles
CLEARING = isa.TOKENS + 2


class Bench(Module):
    """Tokens with a stream of slots for the waits and one for the adds of each queue."""

    def __init__(self):
        self.submodules.dut = self.tokens = dut = Tokens(QUEUES)
        self.waits, self.adds = ([stream.Endpoint(slots_layout()) for _ in range(QUEUES)] for _ in range(2))
        for endpoints, offered, accepted, slots in ((self.waits, dut.wait, dut.granted, dut.waits),
                                                    (self.adds, dut.add, dut.added, dut.adds)):
            self.comb += Case(dut.choice, {q: slots.raw_bits().eq(e.payload.raw_bits()) for q, e in enumerate(endpoints)})
            for q, endpoint in enumerate(endpoints):
                over = Signal()         # accepted: no offer until the stimulus has noticed
                self.comb += [offered[q].eq(endpoint.valid & ~over), endpoint.ready.eq(accepted[q])]
                self.sync += If(~endpoint.valid, over.eq(0)).Elif(accepted[q], over.eq(1))

    def count(self, token):
        """To be yielded: the counter's value."""
        return self.tokens.copies[0][token]

    def put(self, token, value):
        """Generator: wait until the counters are clear, then set one."""
        for _ in range(CLEARING):
            yield
        for copy in self.tokens.copies:
            yield copy[token].eq(value)


class Reference:
    """Counters as integers: what was accepted so far."""

    def __init__(self):
        self.counters = [0] * isa.TOKENS
        self.granted = 0

    def take(self, slots):
        for token, amount in slots:
            self.counters[token] -= amount
        assert min(self.counters) >= 0, f"{slots} granted without tokens: {self.counters}"
        self.granted += 1

    def give(self, slots):
        for token, amount in slots:
            self.counters[token] += amount


def slots_of(rng, tokens):
    """Three (token, amount) pairs, often of the same counter, amounts 0 too."""
    return [(rng.choice(tokens), rng.choice([0, 1, 2, 3])) for _ in range(SLOTS)]


def offer(endpoint, work, act, rng):
    """Offer each entry of ``work`` until it is accepted; ``act`` when it is."""
    for slots in work:
        for _ in range(rng.choice([0, 0, 1, 7])):
            yield
        for i, (token, amount) in enumerate(slots):
            yield getattr(endpoint, f"token{i}").eq(token)
            yield getattr(endpoint, f"amount{i}").eq(amount)
        yield endpoint.valid.eq(1)
        yield
        while not (yield endpoint.ready):
            yield
        act(slots)
        yield endpoint.valid.eq(0)
        yield


@pytest.mark.parametrize("seed", range(6))
def test_waits_and_adds(seed):
    """Every wait is granted exactly when covered, and in the end the counters hold what is left."""
    rng = random.Random(seed)
    tokens = rng.sample(range(isa.TOKENS), 3 + seed)
    waits = [[slots_of(rng, tokens) for _ in range(12)] for _ in range(QUEUES)]
    # The same amounts are added, cut and dealt out anew, and a little more.
    pairs = [pair for queue in waits for slots in queue for pair in slots] + [(tokens[0], 3)] * 3
    rng.shuffle(pairs)
    groups = [pairs[i:i + SLOTS] for i in range(0, len(pairs), SLOTS)]
    adds = [groups[q::QUEUES] for q in range(QUEUES)]
    dut, reference = Bench(), Reference()
    result = []

    def finish():
        for _ in range(LIMIT):
            yield
            if reference.granted == QUEUES * 12:
                break
        else:
            raise TimeoutError(f"{reference.granted} of {QUEUES * 12} waits granted in {LIMIT} cycles; seed {seed}")
        for _ in range(400):
            yield
        for token in range(isa.TOKENS):
            result.append((yield dut.count(token)))

    run_simulation(dut, [finish(), *[offer(dut.waits[q], waits[q], reference.take, random.Random(seed + q)) for q in range(QUEUES)],
                         *[offer(dut.adds[q], adds[q], reference.give, random.Random(seed - q)) for q in range(QUEUES)]])
    assert result == reference.counters


@pytest.mark.parametrize("amounts,total,fits", [((15, 15, 15), 210, True), ((5, 5, 5), 240, True), ((6, 5, 5), 240, False),
                                                ((0, 0, 15), 241, False), ((0, 0, 0), 255, True)])
def test_limit(amounts, total, fits):
    """255 is the highest count; one more is an overflow that names queue and token."""
    dut, seen, token = Bench(), [], 9

    @passive
    def watch():
        while True:
            if (yield dut.tokens.overflow):
                seen.append(((yield dut.tokens.overflow_queue), (yield dut.tokens.overflow_token)))
            yield

    def drive():
        yield from dut.put(token, total)
        yield from offer(dut.adds[2], [[(token, n) for n in amounts]], lambda slots: None, random.Random(1))
        for _ in range(5):
            yield
        if fits:
            assert (yield dut.count(token)) == total + sum(amounts)

    run_simulation(dut, [drive(), watch()])
    assert seen == ([] if fits else [(2, token)])


def test_blocked_names_the_counter():
    dut = Bench()

    def drive():
        wait, tokens = dut.waits[1], dut.tokens
        yield from dut.put(4, 5)
        for i, (token, amount) in enumerate([(4, 5), (4, 0), (7, 2)]):
            yield getattr(wait, f"token{i}").eq(token)
            yield getattr(wait, f"amount{i}").eq(amount)
        yield wait.valid.eq(1)
        for _ in range(10):
            yield
        assert ((yield tokens.blocked), (yield tokens.blocked_token[1]), (yield tokens.blocked_token[0])) == (2, 7, NO_TOKEN)
        yield from dut.put(7, 2)
        for _ in range(10):
            yield
            if (yield wait.ready):
                break
        else:
            raise TimeoutError("not granted within 10 cycles")
        yield wait.valid.eq(0)
        for _ in range(4):
            yield
        assert ((yield tokens.blocked), (yield tokens.blocked_token[1]), (yield dut.count(4)), (yield dut.count(7))) == (0, NO_TOKEN, 0, 0)

    run_simulation(dut, drive())
