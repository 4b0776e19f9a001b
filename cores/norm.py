"""NORM: statistics -> multiplier and offset of a normalisation, the gateware of ``norm_model``.

    groups mode   statistics records -> parameter records pd.. (n_lanes channels each), gamma and beta from records p..
    rows mode     row records (s, q) -> (m, e = 0, o), gamma and beta from lane 0 of parameter record p

Records are done one after the other: source read, its lanes replaced by (m, o) in channel order, written as a whole; so
p = pd and overlaps behave as in the golden model. Lanes past the last channel keep the destination's old content.

Cycles: group 47 + gsize; record 4 and, for each group in it, 12 + 2 * channels; row 56 (4 more where |mean| >= 512).
"""

from migen import *

from litex.gen import LiteXModule

from litediffusion.cores import isa
from litediffusion.cores.arith import SHIFT_BITS, clamp_shift, outside, saturate, shift_stage
from litediffusion.cores.iterative import LIMB_BITS, Divider, SquareRoot
from litediffusion.cores.ports import DescriptorSink
from litediffusion.cores.row import ROW_SQUARES_BITS, RowPort, StatPort
from litediffusion.cores.transfer import fields

TOTAL_BITS   = 32       # S
SQUARES_BITS = ROW_SQUARES_BITS
COUNT_BITS   = 24       # N
D_BITS       = 56       # N^2 * variance, clamped
R_BITS       = 24
MEAN_BITS    = 41       # mu = floor(S * 2^8 / N), signed
SUM_BITS     = 65       # D before it is clamped: |S^2|, N*Q < 2^62, eps < 2^63


def record_fields(record):
    """(mult, offset, scalars by name): the named slices of a parameter record."""
    lanes = [f.bits for f in isa.PARAM_LANES]
    mult = [record[i * lanes[0]:(i + 1) * lanes[0]] for i in range(8)]
    base = 8 * lanes[0]
    offset = [record[base + i * lanes[1]:base + (i + 1) * lanes[1]] for i in range(8)]
    scalars, bit = {}, base + 8 * lanes[1]
    for f in isa.PARAM_SCALARS:
        scalars[f.name] = record[bit:bit + f.bits]
        bit += f.bits
    return mult, offset, scalars


class ParamWritePort(Record):
    """Write client of the parameter memory: one whole record ``dat`` at ``adr`` when ``valid & ready``."""

    def __init__(self, config, name=None):
        Record.__init__(self, [
            ("valid", 1, DIR_M_TO_S), ("ready", 1, DIR_S_TO_M),
            ("adr", bits_for(config.param_words - 1), DIR_M_TO_S), ("dat", 8 * isa.PARAM_BYTES, DIR_M_TO_S),
        ], name=name)
