"""The static rules of cores/validate.py as logic: one descriptor in, error code out, no clock."""

from functools import reduce
from operator import or_

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.validate import ALIGNED, MAXIMUM, NONZERO, REQUIRES


class DescriptorCheck(LiteXModule):
    """``code`` (isa.ERRORS; 0: legal) of ``desc``. Combinational; every rule is taken from the tables."""

    def __init__(self, config):
        self.desc = desc = Signal(isa.DESC_BITS)
        self.code = code = Signal(8)

        # # #

        cases = {"default": code.eq(isa.ERROR_CODE["BAD_OPCODE"])}
        for op, opcode in isa.OPCODE.items():
            bad = Signal(name=f"bad_{op.lower()}")
            self.comb += bad.eq(reduce(or_, self.rules(config, op)))
            cases[opcode] = If(bad, code.eq(isa.ERROR_CODE["BAD_FIELD"]))
        self.comb += Case(desc[:8], cases)

    def rules(self, config, op):
        """Signals that are 1 when a rule of ``op`` is broken."""
        places = {f.name: self.desc[bit:bit + f.bits] for f, bit in isa.layout(op)}
        used = sum(f.bits for f in isa.FIELDS[op])
        rules = [self.desc[used:] != 0] if used < isa.DESC_BITS else []
        rules += [places[name] == 0 for name in NONZERO[op]]
        rules += [places[name] > limit for name, limit in MAXIMUM[op].items() if limit < 2**len(places[name]) - 1]
        rules += [places[name][:log2_int(config.word_bytes)] != 0 for name in ALIGNED.get(op, ())]
        rules += [places[flag] & (places[name] == 0) for flag, name in REQUIRES.get(op, {}).items()]
        return rules
