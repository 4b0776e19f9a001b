"""The static rules of cores/validate.py as logic: a descriptor's words in, one after the other, a verdict out."""

from functools import reduce
from operator import or_

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.validate import ALIGNED, MAXIMUM, NONZERO, REQUIRES

WORD = 128                      # bits a DRAM word
WORDS = isa.DESC_BITS // WORD   # a descriptor
OPCODE_BITS = 8
LATENCY = 2                     # cycles from the last word to the verdict


class DescriptorCheck(LiteXModule):
    """Checks descriptors of WORDS words; every rule is taken from the tables.

    valid, word, count  in: word ``count`` of a descriptor; words come in order, with gaps or without
    done                out, LATENCY cycles after a last word: the verdict is valid in this cycle
    known, bad          the opcode is an instruction; a rule is broken
    op                  {instruction: 1 when the descriptor is one}

    A rule is looked at in the word that holds its fields, so none may be about fields of two words; bits after the last
    field are looked at in every word. Stage 1 finds what is wrong with the word for each instruction, stage 2 picks.
    """

    def __init__(self, config):
        self.valid, self.word, self.count = Signal(), Signal(WORD), Signal(max=WORDS)
        self.done, self.known, self.bad = Signal(), Signal(), Signal()
        self.op = {op: Signal(name=f"is_{op.lower()}") for op in isa.OPS}

        # # #

        self.config = config
        kind = {op: Signal(name=f"kind_{op.lower()}", reset_less=True) for op in isa.OPS}
        broken = {op: Signal(name=f"broken_{op.lower()}", reset_less=True) for op in isa.OPS}
        valid, first, last, bad = Signal(), Signal(reset_less=True), Signal(reset_less=True), Signal()
        rest = self.rest()
        for op in isa.OPS:
            cases = {k: broken[op].eq(reduce(or_, self.rules(op, k, rest), 0)) for k in range(WORDS)}
            self.sync += [
                If(self.count == 0, kind[op].eq(self.word[:OPCODE_BITS] == isa.OPCODE[op])),
                Case(self.count, cases),
                self.op[op].eq(kind[op]),
            ]
        self.comb += bad.eq(reduce(or_, [kind[op] & broken[op] for op in isa.OPS]))
        self.sync += [
            valid.eq(self.valid), first.eq(self.count == 0), last.eq(self.count == WORDS - 1),
            If(valid, self.bad.eq(bad | (self.bad & ~first))),
            self.known.eq(reduce(or_, kind.values())),
            self.done.eq(valid & last),
        ]

    def rest(self):
        """{bit: 1 when the word is not zero from there on} for every place in a word where an instruction's fields end."""
        ends = {0} | {sum(f.bits for f in isa.FIELDS[op]) % WORD for op in isa.OPS}
        flags, above = {}, None
        for start, end in reversed(list(zip(sorted(ends), [*sorted(ends)[1:], WORD]))):
            here = Signal(name=f"rest{start}")
            self.comb += here.eq((self.word[start:end] != 0) | (above if above is not None else 0))
            flags[start] = above = here
        return flags

    def rules(self, op, k, rest):
        """Signals that are 1 when a rule of ``op`` about word ``k`` is broken."""
        used = sum(f.bits for f in isa.FIELDS[op]) - k * WORD
        places = {f.name: (bit - k * WORD, f.bits) for f, bit in isa.layout(op)}
        rules = [rest[max(used, 0)]] if used < WORD else []

        def field(name, bits=None):
            """The first ``bits`` of a field if they lie in this word, else None."""
            start, width = places[name][0], bits or places[name][1]
            if not 0 <= start < WORD:
                return None
            if start + width > WORD:
                raise ValueError(f"{op}: {name} lies in two DRAM words, so its rule cannot be checked: put another field before it")
            return self.word[start:start + width]

        rules += [f == 0 for name in NONZERO[op] if (f := field(name)) is not None]
        rules += [f > limit for name, limit in MAXIMUM[op].items() if (f := field(name)) is not None and limit < 2**len(f) - 1]
        rules += [f != 0 for name in ALIGNED.get(op, ()) if (f := field(name, log2_int(self.config.word_bytes))) is not None]
        for flag, name in REQUIRES.get(op, {}).items():
            if (field(flag) is None) != (field(name) is None):
                raise ValueError(f"{op}: {flag} and {name} lie in two DRAM words, so their rule cannot be checked: put them together")
            if field(flag) is not None:
                rules.append(field(flag) & (field(name) == 0))
        return rules
