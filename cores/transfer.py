"""The address side of LOAD and STORE: one descriptor becomes a stream of checked word addresses.

    dram = base + i0*s0 + (i1+y0)*s1 + (i2+x0)      words in the window; y0 = x0 = 0 without ``pad``
    base = (dram + index[idx0]*idx0_stride + index[idx1]*idx1_stride) mod 2^32 bytes
    chip = addr + i0*d0 + i1*d1 + i2                words, modulo 2^16

Throughput one position a cycle. While one descriptor runs, the next one's base is made by a serial multiplier (one
bit of the index a cycle, it stops at the highest set bit), so consecutive descriptors follow with one idle cycle.
"""

from types import SimpleNamespace

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores import isa
from litediffusion.cores.ports import DescriptorSink, descriptor_fields

WINDOW_BITS = 28        # a window offset has 32 bits, counted in words of 16 bytes
POSITION_BITS = 40      # base + 2 * (2^12 * 2^24) and a sign: a sum never wraps before it is checked


def index_registers():
    """Index registers by name: inputs of whatever uses them."""
    return {name: Signal(16, name=f"index_{name.lower()}") for name in isa.INDEX if name != "none"}


class TransferBase(LiteXModule):
    """Make a descriptor's first position: base, index products and the padding's first row and column.

    Four to 50 cycles. ``ready`` while the result waits in ``desc``, ``index`` and ``position``; ``take`` frees it.
    """

    def __init__(self, op, indices, shift):
        self.sink = sink = DescriptorSink()
        self.flush = Signal()
        self.take = Signal()
        self.ready = Signal()
        self.busy = Signal()
        self.desc = desc = Signal(isa.DESC_BITS, reset_less=True)
        self.index = Signal(16, reset_less=True)
        self.position = position = Signal((POSITION_BITS, True), reset_less=True)

        # # #

        d = descriptor_fields(desc, op)
        multiplicand = Signal(POSITION_BITS, reset_less=True)
        multiplier = Signal(16, reset_less=True)
        negative = Signal(reset_less=True)
        choice = lambda select: Array([0] + [indices[name] for name in isa.INDEX if name != "none"])[select]
        product = lambda a, b, minus=0: [NextValue(multiplicand, a), NextValue(multiplier, b), NextValue(negative, minus)]
        step = [
            NextValue(multiplier, multiplier[1:]),
            NextValue(multiplicand, multiplicand << 1),
            If(multiplier[0], If(negative, NextValue(position, position - multiplicand))
                              .Else(NextValue(position, position + multiplicand))),
        ]
        x0, y0 = Signal((12, True)), Signal((12, True))
        if op == "LOAD":
            self.comb += If(d.pad, x0.eq(d.x0), y0.eq(d.y0))

        self.fsm = fsm = ResetInserter()(FSM(reset_state="IDLE"))
        self.comb += [fsm.reset.eq(self.flush), self.busy.eq(~fsm.ongoing("IDLE")), self.ready.eq(fsm.ongoing("READY"))]
        fsm.act("IDLE",
            sink.ready.eq(1),
            NextValue(desc, sink.desc),
            NextValue(self.index, sink.index),
            If(sink.valid, NextState("DRAM")),
        )
        fsm.act("DRAM",
            NextValue(position, d.dram[shift:]),
            *product(d.idx0_stride[shift:], choice(d.idx0)),
            NextState("INDEX0"),
        )
        fsm.act("INDEX0",
            If(multiplier == 0,
                *product(d.idx1_stride[shift:], choice(d.idx1)),
                NextState("INDEX1"),
            ).Else(*step),
        )
        # Bytes wrap at 2^32; from here on sums are exact.
        fsm.act("INDEX1",
            If(multiplier == 0,
                NextValue(position, Cat(position[:WINDOW_BITS], Replicate(0, POSITION_BITS - WINDOW_BITS)) + x0),
                *product(d.s1, Mux(y0 < 0, -y0, y0)[:12], y0 < 0),
                NextState("ROW"),
            ).Else(*step),
        )
        fsm.act("ROW", If(multiplier == 0, NextState("READY")).Else(*step))
        fsm.act("READY", If(self.take, NextState("IDLE")))


class Transfer(LiteXModule):
    """Descriptors of LOAD or STORE -> positions, in order.

    sink        descriptors; the next one is accepted while one runs
    source      ``adr`` DRAM word (window base added), ``chip`` word of memory ``mem``, ``inside`` 0: a zero word
                without DRAM access, ``end`` last position of its descriptor
    error       one pulse, with ``error_code`` and ``error_index``, in place of the position that broke the rule
    halt        stop: what is not yet offered at ``source`` is forgotten
    """

    def __init__(self, config, op, address_width):
        self.sink = DescriptorSink()
        self.source = source = stream.Endpoint([("adr", address_width), ("chip", 16), ("mem", 2), ("inside", 1), ("end", 1)])
        self.indices = index_registers()
        self.window_base = Signal(32)
        self.window_size = Signal(32)
        self.halt = Signal()
        self.active = Signal()
        self.error = Signal()
        self.error_code = Signal(8)
        self.error_index = Signal(16)

        # # #

        self.shift = log2_int(config.word_bytes)
        self.base = base = TransferBase(op, self.indices, self.shift)
        self.comb += [self.sink.connect(base.sink), base.flush.eq(self.halt)]
        self.checked = checked = stream.Endpoint(source.description)
        self.failed = failed = Signal()
        self.run, self.valid = Signal(), Signal()
        self.add_loops(op)
        self.add_check(config)
        # Registered both ways: the DRAM crossbar's ready comes late and would enable every counter.
        self.buffer = buffer = stream.Buffer(source.description, pipe_valid=True, pipe_ready=True)
        self.comb += [
            checked.connect(buffer.sink),
            buffer.source.connect(source),
            self.active.eq(base.busy | self.run | self.valid | source.valid),
        ]

    def add_loops(self, op):
        """Three nested counters with the partial sums of each level, one position a cycle into the check stage."""
        run, valid, base = self.run, self.valid, self.base
        desc = Signal(isa.DESC_BITS, reset_less=True)
        d, b = descriptor_fields(desc, op), descriptor_fields(base.desc, op)
        index = Signal(16, reset_less=True)
        # Iterations after this one; that there are none is a register too, because much depends on it.
        left = [Signal(12, reset_less=True) for _ in range(3)]
        last = [Signal(reset_less=True) for _ in range(3)]
        position = [Signal((POSITION_BITS, True), reset_less=True) for _ in range(3)]
        chip = [Signal(16, reset_less=True) for _ in range(3)]
        step, done, inside = Signal(), Signal(), Signal(reset=1)
        self.stage = SimpleNamespace(index=Signal(16, reset_less=True), position=Signal(POSITION_BITS, reset_less=True))
        row, column = Signal((13, True), reset_less=True), Signal((13, True), reset_less=True)
        first_row, first_column, base_row, base_column = (Signal((12, True)) for _ in range(4))
        if op == "LOAD":
            self.comb += [
                first_row.eq(d.y0), first_column.eq(d.x0), base_row.eq(b.y0), base_column.eq(b.x0),
                inside.eq(~d.pad | ((row >= 0) & (row < d.h) & (column >= 0) & (column < d.w))),
            ]
        first = lambda k, counts: [left[k].eq(getattr(counts, f"n{k}") - 1), last[k].eq(getattr(counts, f"n{k}") == 1)]
        following = lambda k: [left[k].eq(left[k] - 1), last[k].eq(left[k] == 1)]
        self.comb += [
            step.eq(run & (~valid | self.checked.ready)),
            done.eq(step & last[0] & last[1] & last[2]),
            base.take.eq(base.ready & (~run | done)),
        ]
        new_plane, new_row = position[0] + d.s0, position[1] + d.s1
        chip_plane, chip_row = chip[0] + d.d0, chip[1] + d.d1
        self.sync += [
            If(self.checked.ready, valid.eq(0)),
            If(step,
                valid.eq(1),
                self.checked.chip.eq(chip[2]), self.checked.mem.eq(d.mem), self.checked.inside.eq(inside),
                self.checked.end.eq(done), self.stage.index.eq(index), self.stage.position.eq(position[2]),
                If(~last[2],
                    *following(2), position[2].eq(position[2] + 1), chip[2].eq(chip[2] + 1), column.eq(column + 1),
                ).Elif(~last[1],
                    *first(2, d), *following(1), row.eq(row + 1), column.eq(first_column),
                    position[1].eq(new_row), position[2].eq(new_row), chip[1].eq(chip_row), chip[2].eq(chip_row),
                ).Elif(~last[0],
                    *first(2, d), *first(1, d), *following(0), row.eq(first_row), column.eq(first_column),
                    *[p.eq(new_plane) for p in position], *[c.eq(chip_plane) for c in chip],
                ).Else(run.eq(0)),
            ),
            If(base.take,
                run.eq(1), desc.eq(base.desc), index.eq(base.index), row.eq(base_row), column.eq(base_column),
                *first(0, b), *first(1, b), *first(2, b), *[p.eq(base.position) for p in position], *[c.eq(b.addr) for c in chip],
            ),
            If(self.halt | self.failed, run.eq(0), valid.eq(0)),
        ]

    def add_check(self, config):
        """Window and buffer of the position in the check stage; an error lasts until the unit is reset."""
        sizes = [config.spm_words, config.wbuf_words, config.param_words * isa.PARAM_BYTES // config.word_bytes, 0]
        position, checked = self.stage.position, self.checked
        outside, beyond, bad = Signal(), Signal(), Signal()
        self.comb += [
            outside.eq(checked.inside & (position >= self.window_size[self.shift:])),
            beyond.eq(checked.chip >= Array(sizes)[checked.mem]),
            bad.eq(outside | beyond),
            checked.adr.eq(self.window_base[self.shift:] + position),
            checked.valid.eq(self.valid & ~bad & ~self.halt & ~self.failed),
            self.error.eq(self.valid & bad & ~self.halt & ~self.failed),
            self.error_code.eq(Mux(beyond, isa.ERROR_CODE["BUFFER_RANGE"], isa.ERROR_CODE["DRAM_WINDOW"])),
            self.error_index.eq(self.stage.index),
        ]
        self.sync += If(self.error, self.failed.eq(1))
