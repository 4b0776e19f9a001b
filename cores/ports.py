"""Ports between the units of the engine and its memories.

On-chip memories answer a granted access READ_LATENCY cycles later and cannot be held off: whoever asks takes the data.
"""

from types import SimpleNamespace

from migen import *

from litex.soc.interconnect import stream

from litediffusion.cores.isa import DESC_BITS, layout

READ_LATENCY = 2        # a register lies between arbiter and block RAMs, which are all over the chip


class MemoryPort(Record):
    """A client's access to an arbitrated memory: ``valid & ready`` is one access of the word ``adr``.

    ``we`` has one bit a half word (0: read). ``dat_r`` is valid while ``rvalid``, READ_LATENCY cycles after a granted read.
    """

    def __init__(self, words, data_bits, we_bits=2, name=None):
        Record.__init__(self, [
            ("valid", 1, DIR_M_TO_S), ("ready", 1, DIR_S_TO_M),
            ("adr", bits_for(words - 1), DIR_M_TO_S), ("we", we_bits, DIR_M_TO_S), ("dat_w", data_bits, DIR_M_TO_S),
            ("rvalid", 1, DIR_S_TO_M), ("dat_r", data_bits, DIR_S_TO_M),
        ], name=name)


class DescriptorSink(stream.Endpoint):
    """Descriptors handed to a unit, tokens already taken: ``desc`` as encoded, ``index`` in the program."""

    def __init__(self):
        stream.Endpoint.__init__(self, [("desc", DESC_BITS), ("index", 16)])


def descriptor_fields(desc, op):
    """The fields of instruction ``op`` in a descriptor signal, as slices by name (unsigned, also signed fields)."""
    return SimpleNamespace(**{f.name: desc[bit:bit + f.bits] for f, bit in layout(op)})
