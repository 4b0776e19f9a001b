"""The address side of LOAD and STORE: one descriptor becomes a stream of checked word addresses.

    dram = base + i0*s0 + (i1+y0)*s1 + (i2+x0)      words in the window; y0 = x0 = 0 without ``pad``
    base = (dram + index[idx0]*idx0_stride + index[idx1]*idx1_stride) mod 2^32 bytes
    chip = addr + i0*d0 + i1*d1 + i2                words, modulo 2^16

Throughput one position a cycle. While one descriptor runs, the next one's base is made by a serial multiplier (one
bit of the index a cycle, it stops at the highest set bit), so consecutive descriptors follow with two idle cycles.

Positions have POSITION_BITS and may wrap: a position outside the image is never used, the first one inside is exact
(``far`` tells that it lies beyond all windows), and from one position inside to the next it is less than 2^24 words,
so the first that leaves the window is seen before a sum can wrap.
"""

from types import SimpleNamespace

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect import stream

from litediffusion.cores import isa
from litediffusion.cores.ports import DescriptorSink, descriptor_fields

WINDOW_BITS = 28        # a window offset has 32 bits, counted in words of 16 bytes
POSITION_BITS = 30      # 2^28 + 2^24 and a sign
COORD_BITS = 13         # rows and columns, signed


def index_registers():
    """Index registers by name: inputs of whatever uses them."""
    return {name: Signal(16, name=f"index_{name.lower()}") for name in isa.INDEX if name != "none"}


def extend(value, bits):
    """``value``, a slice that holds a signed number, in ``bits`` bits."""
    return Cat(value, Replicate(value[-1], bits - len(value)))


class TransferBase(LiteXModule):
    """Make a descriptor's first position: base, index products and the padding's first row and column.

    Four to 50 cycles. ``ready`` while the result waits in ``desc``, ``index``, ``position`` and ``far``; ``take`` frees it,
    and the result stays for one more cycle. ``far``: every position inside the image is beyond 2^WINDOW_BITS words.
    """

    def __init__(self, op, indices, shift):
        self.sink = sink = DescriptorSink()
        self.flush = Signal()
        self.take = Signal()
        self.ready = Signal()
        self.busy = Signal()
        self.desc = desc = Signal(isa.DESC_BITS, reset_less=True)
        self.index = Signal(16, reset_less=True)
        self.position = position = Signal(POSITION_BITS, reset_less=True)
        self.far = far = Signal(reset_less=True)

        # # #

        d = descriptor_fields(desc, op)
        multiplicand, lost = Signal(POSITION_BITS, reset_less=True), Signal(reset_less=True)
        # An index with a sign in front; sums of a signed factor end with the subtraction that its sign stands for.
        multiplier = Signal(17, reset_less=True)
        second, minus, zero = Signal(), Signal(), Signal()
        index, choice, total = Signal(16), Signal(3), Signal(POSITION_BITS + 1)
        self.comb += [
            choice.eq(Mux(second, d.idx1, d.idx0)),
            Case(choice, {isa.INDEX[name]: index.eq(value) for name, value in indices.items()}),
            minus.eq(multiplier == 2**len(multiplier) - 1), zero.eq(multiplier == 0),
            total.eq(position + Mux(multiplier[0], multiplicand ^ Replicate(minus, POSITION_BITS), 0) + minus),
        ]
        product = lambda a, b: [NextValue(multiplicand, a), NextValue(multiplier, b), NextValue(lost, 0)]
        step = [
            NextValue(position, total),
            NextValue(multiplier, Mux(minus, 0, Cat(multiplier[1:], multiplier[-1]))),
            NextValue(multiplicand, multiplicand << 1), NextValue(lost, lost | multiplicand[-1]),
        ]
        padded = op == "LOAD"
        self.fsm = fsm = ResetInserter()(FSM(reset_state="IDLE"))
        self.comb += [fsm.reset.eq(self.flush), self.busy.eq(~fsm.ongoing("IDLE")), self.ready.eq(fsm.ongoing("READY"))]
        fsm.act("IDLE",
            sink.ready.eq(1),
            NextValue(desc, sink.desc),
            NextValue(self.index, sink.index),
            If(sink.valid, NextState("DRAM")),
        )
        fsm.act("DRAM",
            NextValue(position, d.dram[shift:]), NextValue(far, 0),
            *product(d.idx0_stride[shift:], index),
            NextState("INDEX0"),
        )
        fsm.act("INDEX0",
            second.eq(1),
            If(zero, *product(d.idx1_stride[shift:], index), NextState("INDEX1")).Else(*step),
        )
        # Bytes wrap at 2^32: the sum of the indices is cut to WINDOW_BITS.
        begin_row = [*product(d.s1, extend(d.y0, len(multiplier))), If(d.pad, NextState("ROW")).Else(NextState("READY"))] \
            if padded else [NextState("READY")]
        fsm.act("INDEX1",
            If(zero, NextValue(position, position[:WINDOW_BITS]), *begin_row).Else(*step),
        )
        if padded:
            fsm.act("ROW",
                If(zero,
                    *product(extend(d.x0, POSITION_BITS), 1),
                    NextState("COLUMN"),
                ).Else(
                    *step,
                    If(~multiplier[-1] & multiplier[0] & (lost | (total[WINDOW_BITS:] != 0)), NextValue(far, 1)),
                ),
            )
            fsm.act("COLUMN", *step, NextState("READY"))
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
        layout = [("adr", address_width), ("chip", 16), ("mem", 2), ("inside", 1), ("end", 1)]
        self.source = source = stream.Endpoint(layout)
        self.indices = index_registers()
        self.window_base = Signal(32)
        self.window_size = Signal(32)
        self.halt = Signal()
        self.active = Signal()
        self.error = Signal()
        self.error_code = Signal(8)
        self.error_index = Signal(16)

        # # #

        self.op, self.shift = op, log2_int(config.word_bytes)
        self.base = base = TransferBase(op, self.indices, self.shift)
        self.comb += [self.sink.connect(base.sink), base.flush.eq(self.halt)]
        # Three stages: loops, position, check. The last one ends in a buffer whose ready is a register: the DRAM
        # crossbar's comes late and would enable every counter.
        self.loading, self.run = Signal(), Signal()
        self.stage = SimpleNamespace(
            valid=Signal(), advance=Signal(), index=Signal(16, reset_less=True), far=Signal(reset_less=True),
            position=Signal(POSITION_BITS, reset_less=True), chip=Signal(16, reset_less=True), mem=Signal(2, reset_less=True),
            inside=Signal(reset_less=True), end=Signal(reset_less=True))
        self.checked = checked = Record([("index", 16), ("outside", 1), ("beyond", 1)] + layout, reset_less=True)
        checked.valid = Signal()
        self.failed = Signal()
        self.buffer = buffer = stream.Buffer(source.description, pipe_valid=False, pipe_ready=True)
        self.add_loops()
        self.add_check(config)
        self.comb += [
            *[getattr(buffer.sink, name).eq(getattr(checked, name)) for name, _ in layout],
            buffer.sink.valid.eq(checked.valid & ~self.bad),
            buffer.source.connect(source),
            self.active.eq(base.busy | self.loading | self.run | self.stage.valid | checked.valid | source.valid),
        ]

    def add_loops(self):
        """Three nested counters with the partial sums of each level, one position a cycle into the position stage."""
        run, loading, base, stage = self.run, self.loading, self.base, self.stage
        desc = Signal(isa.DESC_BITS, reset_less=True)
        d, b = descriptor_fields(desc, self.op), descriptor_fields(base.desc, self.op)
        index, far = Signal(16, reset_less=True), Signal(reset_less=True)
        # Iterations with this one; that it is the last is a register too, because much depends on it.
        left = [Signal(12, reset_less=True) for _ in range(3)]
        last = [Signal(reset_less=True) for _ in range(3)]
        step, move, done = Signal(), Signal(), Signal()
        ends = [Signal() for _ in range(3)]     # a new plane, a new row, a new word begins
        self.comb += [
            step.eq(run & (~stage.valid | stage.advance)), move.eq(step | loading),
            done.eq(last[0] & last[1] & last[2]),
            base.take.eq(base.ready & ~loading & (~run | (step & done))),
            ends[0].eq(loading | (last[1] & last[2])), ends[1].eq(loading | last[2]), ends[2].eq(1),
        ]
        for k, begin in enumerate((loading, ends[0], ends[1])):
            count = getattr(d, f"n{k}")
            self.sync += If(move & ends[k], If(begin, left[k].eq(count), last[k].eq(count == 1))
                                            .Else(left[k].eq(left[k] - 1), last[k].eq(left[k] == 2)))
        position = self.add_sum(POSITION_BITS, base.position, d.s0, d.s1, last, move, ends)
        chip = self.add_sum(16, d.addr, d.d0, d.d1, last, move, ends)
        self.sync += [
            If(stage.advance, stage.valid.eq(0)),
            If(step,
                stage.valid.eq(1), stage.position.eq(position), stage.chip.eq(chip), stage.mem.eq(d.mem), stage.end.eq(done),
                stage.index.eq(index), stage.far.eq(far), stage.inside.eq(self.inside(d, move, ends)),
            ),
            If(step & done, run.eq(0)), If(loading, run.eq(1)),
            loading.eq(base.take),
            If(base.take, desc.eq(base.desc), index.eq(base.index), far.eq(base.far)),
            If(self.halt | self.failed, run.eq(0), loading.eq(0), stage.valid.eq(0)),
        ]

    def add_sum(self, bits, base, stride0, stride1, last, move, ends):
        """base + i0*stride0 + i1*stride1 + i2 with one adder: a register that the loops move."""
        plane, row, word = (Signal(bits, reset_less=True) for _ in range(3))
        here, stride, following = Signal(bits), Signal(bits), Signal(bits)
        cases = {0: [here.eq(word), stride.eq(1)], 1: [here.eq(row), stride.eq(stride1)], 2: [here.eq(plane), stride.eq(stride0)],
                 "default": here.eq(base)}
        self.comb += [
            Case(Cat(self.loading | (last[2] & ~last[1]), self.loading | (last[2] & last[1])), cases),
            following.eq(here + stride),
        ]
        self.sync += [If(move & end, signal.eq(following)) for signal, end in zip((plane, row, word), ends)]
        return word

    def inside(self, d, move, ends):
        """Whether the present word lies in the image; its row and column follow the loops."""
        if self.op != "LOAD":
            return 1
        row, column = Signal(COORD_BITS, reset_less=True), Signal(COORD_BITS, reset_less=True)
        self.sync += If(move,
            If(ends[0], row.eq(extend(d.y0, COORD_BITS))).Elif(ends[1], row.eq(row + 1)),
            If(ends[1], column.eq(extend(d.x0, COORD_BITS))).Else(column.eq(column + 1)),
        )
        # As unsigned numbers the negative ones are the largest.
        return ~d.pad | ((row < d.h) & (column < d.w))

    def add_check(self, config):
        """Window and buffer of the position in the check stage; an error lasts until the unit is reset."""
        sizes = {"SPM": config.spm_words, "WBUF": config.wbuf_words, "PARAM": config.param_words * isa.PARAM_BYTES // config.word_bytes}
        stage, checked = self.stage, self.checked
        outside, beyond = Signal(), Signal()
        self.bad = bad = Signal()
        self.comb += [
            outside.eq(stage.inside & (stage.far | (stage.position >= self.window_size[self.shift:]))),
            Case(stage.mem, {isa.MEM[name]: beyond.eq(stage.chip[log2_int(size):] != 0) for name, size in sizes.items()}),
            stage.advance.eq(~checked.valid | self.buffer.sink.ready),
            bad.eq(checked.outside | checked.beyond),
            self.error.eq(checked.valid & bad),
            self.error_code.eq(Mux(checked.beyond, isa.ERROR_CODE["BUFFER_RANGE"], isa.ERROR_CODE["DRAM_WINDOW"])),
            self.error_index.eq(checked.index),
        ]
        self.sync += [
            If(stage.advance,
                checked.valid.eq(stage.valid), checked.outside.eq(outside), checked.beyond.eq(beyond),
                checked.adr.eq(self.window_base[self.shift:] + stage.position),
                *[getattr(checked, name).eq(getattr(stage, name)) for name in ("chip", "mem", "inside", "end", "index")],
            ),
            If(self.error, self.failed.eq(1)),
            If(self.halt | self.failed | self.error, checked.valid.eq(0)),
        ]
