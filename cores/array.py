"""The multiplier array of GEMM: n_lanes dot products, weights stationary.

    W8:  low[n] = high[n] = sum_k a[k] * w[n][k]
    W4:  low[n] = sum_k a[k] * lo[n][k],  high[n] = sum_k a[k] * hi[n][k]

with k over the bytes of the gemm_words activation words of a system cycle. At W4 a weight operand is hi * 2^13 + lo,
so one multiplication makes both products; SplitSum keeps them apart.

The words of the cycle t become results at t + latency(config):

    cycle   array_clock = 1                     array_clock = 2 (domain sys2x; first half of the bytes, second half)
    t + 1   words (registers at the memory)     words
    t + 2   operands, weights                   weights of a half  t + 2.5, t + 3;  operands  t + 1.5 ... t + 3
    t + 3   products                            multiplier's input, pipeline and output registers  t + 3 ... t + 4.5
    t + 4   sums of two                         sums of two  t + 4.5, t + 5
    t + 5   tree                                tree  t + 5 ... t + 6.5
    t + 6   tree                                one more register  t + 6.5, t + 7
    t + 7   tree                                both halves  t + 7.5
    t + 8   sums                                sums
    t + 9   W4 or W8                            W4 or W8

With gemm_cycles = 2 (and array_clock = 2) a lane has half the multipliers. The words stay for the cycles t and t + 1, whose
four quarters are summed one by one: the first at t + 7, the last at t + 8.5, in the place of both halves.

The multipliers lie where the FPGA has them, so nothing but wire is between them and the registers on both sides.

Crossings of the clock domains go from register or memory to register. Into sys2x: at the edge that the clocks share, a
system cycle after the launch, so sys2x may lead by part of a cycle, but must not lag; ``Phase.seen`` alone looks at every edge of
sys2x, half a cycle after the launch. Back: half a system cycle.
"""

from migen import *

from litediffusion.cores.arith import choose
from litediffusion.cores.gemm_address import LOW_BITS, STORED_BITS, WEIGHT_BITS, unstore
from litediffusion.cores.registered_multiplier import RegisteredMultiplier
from litediffusion.cores.split_sum import PRODUCT_BITS, Part, SplitSum, add_parts
from litediffusion.cores.tile_memory import TileMemory

OPERAND_BITS = 9        # a signed or skew byte
COPIES = 4              # registers of an operand that share the lanes: one for all would be half a chip away from some
SUM_STAGES = {1: 5, 2: 3}       # by gemm_cycles: of the sums of half a cycle's products, at least one more than the tree has levels
FAST = "sys2x"          # clock domain of the multipliers with array_clock = 2: twice the system clock, edges aligned


def latency(config):
    """System cycles from the SPM words (of the last of their gemm_cycles) to ``low`` and ``high``."""
    return 9 if config.gemm_cycles == 1 else 8


def bytes_of(words):
    """The bytes of words, in order."""
    return [word[at:at + 8] for word in words for at in range(0, len(word), 8)]


class Phase(Module):
    """Which half of a system cycle it is, as registers of sys2x.

    ``copy()``: a new register that is 0 in the first half and 1 in the second. Each one follows the one before it, so
    that synthesis, which would merge equal registers, keeps them, and none has a large fanout.
    """

    def __init__(self):
        toggle, seen, before = [Signal(name=name, reset_less=True) for name in ("toggle", "seen", "before")]
        self.last = Signal(name="phase", reset_less=True)
        self.sync += toggle.eq(~toggle)
        self.sync.sys2x += [seen.eq(toggle), before.eq(seen), self.last.eq(seen == before)]

    def copy(self):
        phase = Signal(name="phase", reset_less=True)
        self.sync.sys2x += phase.eq(~self.last)
        self.last = phase
        return phase


class DotArray(Module):
    """One step of gemm_words activation words in gemm_cycles system cycles; results ``latency`` cycles later; never stalls.

    words, swapped : words as SharedMemory's private port gives them (by bank)
    inside, xs : the first, the second word counts (as zero otherwise); skew bytes
    late : the second cycle of the words
    first : at the end of ``swap``, a cycle after it, the tile that was filled becomes the active one, for the words that
        came with ``first`` and the following ones
    row : rows of the tile to be filled (TileFetcher.row)
    macs : control (mac_layout) by stage, from the words' cycle on
    low, high : signed sums by lane

    Registers of the system domain change only for valid words.
    """

    def __init__(self, config, row, macs):
        self.words   = [Signal(config.word_bits, name=f"word{i}") for i in range(config.gemm_words)]
        self.inside  = [Signal(name=f"inside{i}") for i in range(config.gemm_words)]
        self.swapped = Signal()
        self.xs      = Signal()
        self.late    = Signal()
        self.first   = Signal()
        self.swap    = Signal()
        count = config.gemm_words * config.k_lanes
        self.out_bits = 15 + log2_int(count) + 1    # 223 * 128 < 2^15, and a sign
        self.low  = [Signal((self.out_bits, True), name=f"low_{n}", reset_less=True) for n in range(config.n_lanes)]
        self.high = [Signal((self.out_bits, True), name=f"high_{n}", reset_less=True) for n in range(config.n_lanes)]

        # # #

        self.config, self.valids, self.w4s, self.latency = config, [m.valid for m in macs], [m.w4 for m in macs], latency(config)
        # The active tile's bank and the one being filled, one cycle ahead, in ``swap``, of what the multipliers see. Each has a
        # register of its own, for half of the lanes.
        active, filled = Signal(name="active_bank"), Signal(name="filled_bank", reset=1)
        self.sync += [self.swap.eq(self.first), If(self.first, active.eq(~active), filled.eq(~filled))]
        self.banks = [(active, ~active) if n < config.n_lanes // 2 else (~filled, filled) for n in range(config.n_lanes)]
        self.held  = [Signal(config.word_bits, name=f"held{i}", reset_less=True) for i in range(config.gemm_words)]
        self.signs = [Signal(config.k_lanes, name=f"signs{i}", reset_less=True) for i in range(config.gemm_words)]
        self.take_words = [[held.eq(word), signs.eq(self.signs_of(word))] for held, signs, word in zip(self.held, self.signs, self.words)]
        # ``late`` in the following cycles.
        self.lates = [self.late] + [Signal(name=f"late{k}", reset_less=True) for k in range(1, self.latency - 3)]
        self.sync += [after.eq(before) for before, after in zip(self.lates, self.lates[1:])]
        self.multipliers = []       # RegisteredMultiplier by lane, with array_clock = 2
        self.tiles = [TileMemory(config, n, row, self.banks[n][1]) for n in range(config.n_lanes)]
        self.submodules += self.tiles
        add_lanes = self.add_lanes if config.array_clock == 1 else self.add_fast_lanes
        for n, total in enumerate(add_lanes(count)):
            self.add_output(n, total)

    def signs_of(self, word):
        """Expression: signs of a word's bytes."""
        return Cat(*[byte[7] & (~self.xs | (byte[6] & byte[5])) for byte in bytes_of([word])])

    def operands_of(self, swap):
        """The operands held, straight or (``swap``) with the words' order changed."""
        step = -1 if swap else 1
        return [Cat(byte, sign) for byte, sign in zip(bytes_of(self.held[::step]), Cat(*self.signs[::step]))]

    def add_lanes(self, count):
        """The array in the system domain; its sums (Part) by lane."""
        swapped = Signal(reset_less=True)
        inside = [Signal(name=f"held_inside{i}", reset_less=True) for i in range(len(self.inside))]
        self.sync += If(self.valids[0], *self.take_words)
        self.sync += [swapped.eq(self.swapped), *[h.eq(i) for h, i in zip(inside, self.inside)]]
        operands = [Signal((OPERAND_BITS, True), name=f"a_{k}", reset_less=True) for k in range(count)]
        for k, (a, straight, crossed) in enumerate(zip(operands, self.operands_of(False), self.operands_of(True))):
            self.sync += If(self.valids[1], a.eq(Mux(inside[k // self.config.k_lanes], Mux(swapped, crossed, straight), 0)))
        totals = []
        for n, tile in enumerate(self.tiles):
            weights = [Signal(STORED_BITS, name=f"w_{n}_{k}", reset_less=True) for k in range(count)]
            rows = [stored for word in range(self.config.gemm_words) for stored in tile.read(self.banks[n][0], word)]
            self.sync += If(self.swap, *[w.eq(stored) for w, stored in zip(weights, rows)])
            products = [Signal((PRODUCT_BITS, True), name=f"p_{n}_{k}", reset_less=True) for k in range(len(operands))]
            self.sync += If(self.valids[2], *[p.eq(a * w) for p, a, w in zip(products, operands, self.multiplicands(n, weights))])
            lane = SplitSum(products, self.valids[3:8])
            self.submodules += lane
            totals.append(lane.total)
        return totals

    def multiplicands(self, n, stored):
        """The multipliers' signed operands."""
        weights = [Signal((WEIGHT_BITS, True), name=f"weight_{n}_{k}") for k in range(len(stored))]
        self.comb += [w.eq(unstore(s)) for w, s in zip(weights, stored)]
        return weights

    def add_fast_lanes(self, count):
        """The array in sys2x, a part of the bytes in each half of a system cycle; its sums (Part) by lane."""
        phase = self.submodules.phase = Phase()
        copies = self.add_fast_operands(phase)
        totals = []
        for n, tile in enumerate(self.tiles):
            chosen = self.add_fast_weights(n, tile, count // self.config.array_parts, phase)
            multipliers = [RegisteredMultiplier(a, w, PRODUCT_BITS, self.config.primitives)
                           for a, w in zip(copies[n * COPIES // self.config.n_lanes], self.multiplicands(n, chosen))]
            lane = SplitSum([m.p for m in multipliers], [1] * SUM_STAGES[self.config.gemm_cycles])
            self.submodules += ClockDomainsRenamer(FAST)(lane)
            self.submodules += [ClockDomainsRenamer(FAST)(m) for m in multipliers]
            self.multipliers.append(multipliers)
            add = self.add_halves if self.config.gemm_cycles == 1 else self.add_quarters
            totals.append(add(n, lane.total, phase.copy()))
        return totals

    def add_fast_weights(self, n, tile, count, phase):
        """A lane's ``count`` weights of the half cycle. Each group of its memory has copies of the bits that choose among them."""
        turns = [phase.copy() for _ in range(len(tile.groups))]
        banks = [Signal(name=f"bank_{n}_{g}", reset_less=True) for g in range(len(turns))]
        # At the edge of a system cycle: in the cycle of ``swap`` the new tile's bank is there already.
        self.sync.sys2x += [If(turn, bank.eq(self.banks[n][0])) for turn, bank in zip(turns, banks)]
        parts = turns
        if self.config.gemm_cycles == 2:
            lates = [Signal(name=f"late_{n}_{g}", reset_less=True) for g in range(len(turns))]
            self.sync.sys2x += [If(turn, late.eq(self.lates[1])) for turn, late in zip(turns, lates)]
            parts = [Cat(turn, late) for turn, late in zip(turns, lates)]
        chosen = [Signal(STORED_BITS, name=f"chosen_{n}_{k}", reset_less=True) for k in range(count)]
        self.sync.sys2x += [c.eq(stored) for c, stored in zip(chosen, tile.read(banks, parts))]
        return chosen

    def add_fast_operands(self, phase):
        """The operands of the half cycle, three times registered on their way to the lanes; a list for each of COPIES groups of them."""
        available = self.operands_of(False)
        share = len(available) // self.config.array_parts
        turn, other, counts, late = phase.copy(), *[Signal(reset_less=True, name=name) for name in ("other", "counts", "late_held")]
        inside = Signal(reset_less=True)        # of the second half
        # At the edge of a system cycle the next word and its control are taken, half a cycle later that of its second half.
        self.sync.sys2x += [
            *[If(phase.copy(), *taken) for taken in self.take_words], If(turn, inside.eq(self.inside[-1]), late.eq(self.late)),
            other.eq(Mux(turn, self.swapped, ~other)),
            counts.eq(Mux(turn, self.inside[0], inside)),
        ]
        copies = [[] for _ in range(COPIES)]
        part = Cat(other, late) if self.config.gemm_cycles == 2 else other
        for k in range(share):
            near = Signal((OPERAND_BITS, True), name=f"near_{k}", reset_less=True)
            self.sync.sys2x += near.eq(choose(part, available[k::share]) & Replicate(counts, OPERAND_BITS))
            for copy, (way, far) in zip(copies, self.fan_out(near, k)):
                self.sync.sys2x += far.eq(way)
                copy.append(far)
        return copies

    def fan_out(self, near, k):
        """(second, third register) of an operand by copy. Synthesis would merge equal registers, but not those that start differently."""
        register = lambda name, start: Signal((OPERAND_BITS, True), name=name, reset=-start, reset_less=True)
        ways = [register(f"way_{k}_{i}", i) for i in range(2)]
        self.sync.sys2x += [way.eq(near) for way in ways]
        return [(ways[i // 2], register(f"far_{k}_{i}", i % 2)) for i in range(COPIES)]

    def add_halves(self, n, half, turn):
        """Sums of the two halves of a system cycle, kept for a system cycle, then in the system domain."""
        first, both = Part(len(half.low), f"first_{n}"), Part(len(half.low) + 1, f"both_{n}")
        total = Part(len(half.low) + 1, f"total_{n}")
        self.sync.sys2x += [*first.assign(half), If(~turn, *both.assign(add_parts(self, first, half, f"halves_{n}")))]
        self.sync += If(self.valids[self.latency - 2], *total.assign(both))
        return total

    def add_quarters(self, n, quarter, turn):
        """The same for the four quarters of a word, added to a sum that begins anew with the first of them."""
        bits = len(quarter.low) + 2
        so_far, whole, total = [Part(bits, f"{name}_{n}") for name in ("so_far", "whole", "total")]
        begins, anew = Signal(name=f"begins_{n}", reset_less=True), Signal(name=f"anew_{n}", reset_less=True)
        before, term = Part(bits, f"before_{n}"), Part(bits, f"term_{n}")
        self.comb += [*term.assign(quarter), If(~anew, *before.assign(so_far))]
        joined = add_parts(self, before, term, f"quarters_{n}")
        # In the half cycle before the first quarter.
        self.sync.sys2x += [If(turn, begins.eq(~self.lates[-1])), anew.eq(begins & ~turn)]
        self.sync.sys2x += [*so_far.assign(joined), If(~turn, *whole.assign(joined))]
        self.sync += If(self.valids[self.latency - 2], *total.assign(whole))
        return total

    def add_output(self, n, total):
        """W4: the two parts; W8: 2^13 * high + low in both outputs."""
        w4 = self.w4s[self.latency - 1]
        bits = max(len(total.high), self.out_bits - LOW_BITS)
        high, whole = Signal(bits + 1, name=f"joined_{n}"), Signal(self.out_bits, name=f"whole_{n}")
        upper = Signal((bits, True), name=f"upper_{n}")
        self.comb += [
            If(~w4, upper.eq(total.low >> LOW_BITS)),
            high.eq(Cat(C(1, 1), total.high, Replicate(total.high[-1], bits - len(total.high))) + Cat(total.carry, upper)),
            whole.eq(Cat(total.low[:LOW_BITS], high[1:])),
        ]
        signed_high = Signal((bits, True), name=f"high_part_{n}")
        self.comb += signed_high.eq(high[1:])
        self.sync += If(self.valids[self.latency - 1],
            If(w4, self.low[n].eq(total.low), self.high[n].eq(signed_high)).Else(self.low[n].eq(whole), self.high[n].eq(whole)))
