"""Lowering of convolutions and linear layers: GEMM chunks of output groups and row tiles, each drained by POST."""

from litediffusion.cores import isa
from litediffusion.sw.compiler.items import CompileError
from litediffusion.sw.compiler.records import activation_code, conv_records, quantise_weights, weight_tiles

TILE_CYCLES = 600        # a GEMM of at least so many cycles hides its POST and the fetch of its descriptors
CHUNK_WORDS = 512        # most weight words of one GEMM (a quarter of the buffer: prefetch stays ahead)


class Plan:
    """How a conv is cut: ``chunks`` of (first group, groups), ``tiles`` of (first row, rows), ``splits`` of blocks."""

    def __init__(self, state, node, w4, sources):
        m, _, self.kh, self.kw = node.attrs["weight"].shape
        _, self.oh, self.ow = node.shape
        self.state, self.w4, self.lanes = state, w4, 16 if w4 else 8
        limit = state.config.acc_words // 2
        rows = max(1, min(self.oh, limit // self.ow))
        if self.ow > state.config.acc_words:
            raise CompileError(f"layer {node.name}: rows of {self.ow} pixels, the limit is {state.config.acc_words}")
        self.tiles = [(r, min(rows, self.oh - r)) for r in range(0, self.oh, rows)]
        blocks = sum(s.blocks for s in sources)
        groups = -(-m // self.lanes)
        self.chunks = self._chunks(groups, blocks * self.kh * self.kw, rows * self.ow, limit)

    def _chunks(self, groups, tiles, pixels, limit):
        size = 1
        words = self.state.config.gemm_words
        cycles = -(-tiles // words) * max(pixels, 8 * words)
        while size < groups and size * cycles < TILE_CYCLES and 2 * size * tiles * 8 <= CHUNK_WORDS and 2 * size * pixels <= limit:
            size *= 2
        chunks, first = [], 0
        while first < groups:
            n = size
            while first + n > groups:          # the tail: powers of two, so that POST's (block, half) loops fit
                n //= 2
            chunks.append((first, n))
            first += n
        return chunks


def block_splits(source, kernel):
    """Ranges of input blocks whose weights for one group fit CHUNK_WORDS."""
    size = max(1, CHUNK_WORDS // (16 * kernel) * 2)         # even: blocks are multiplied in pairs
    return [range(b, min(b + size, source.blocks)) for b in range(0, source.blocks, size)]


def gemm_fields(node, source, blocks, y, rows):
    """Input side of a GEMM for output rows [y, y + rows)."""
    attrs = node.attrs
    up, stride = int(bool(attrs.get("up"))), attrs["stride"]
    _, h, w = source.shape
    kh, kw = attrs["weight"].shape[2:]
    return dict(nkb=len(blocks), nky=kh, nkx=kw, noy=rows, nox=node.shape[2], x=source.addr + blocks.start * source.plane,
                xk=source.plane, xw=w, h=h << up, w=w << up, stride2=int(stride == 2), up=up,
                y0=y * stride - attrs["pad"], x0=-attrs["pad"], xs=int(source.skew))


def input_rows(node, height, y, rows):
    """(first, count) of the stored input rows, of ``height``, that output rows [y, y + rows) need."""
    attrs = node.attrs
    up, kh = int(bool(attrs.get("up"))), attrs["weight"].shape[2]
    first = max(0, y * attrs["stride"] - attrs["pad"]) >> up
    last = min((height << up) - 1, (y + rows - 1) * attrs["stride"] - attrs["pad"] + kh - 1) >> up
    return first, last - first + 1


def input_region(node, source, blocks, y, rows):
    """SPM intervals that a GEMM for output rows [y, y + rows) reads."""
    _, h, w = source.shape
    first, count = input_rows(node, h, y, rows)
    return source.region(blocks.start, len(blocks), first * w, count * w)


def out_kind(tensor):
    """POST's output for a tensor."""
    return isa.OUT["INT16" if tensor.wide else "SKEW8" if tensor.skew else "INT8"]


def src_kind(tensor):
    """POST's source for a tensor."""
    return isa.SRC["INT16" if tensor.wide else "INT8"]


def split_groups(first, count):
    """Loop counts (n0, n1) of POST over output groups: blocks and halves."""
    if count == 1:
        return 1, 1
    if first % 2 or count % 2:
        raise AssertionError(f"groups {first}+{count} are not whole blocks")
    return count // 2, 2


def drain_fields(out, first, count, acc, group_entries, pixel, pixels):
    """Address fields of the POST that drains groups [first, first + count) into ``out`` at ``pixel``."""
    n0, n1 = split_groups(first, count)
    return dict(n0=n0, n1=n1, n2=pixels, src=isa.SRC["ACC"], a=acc, as0=2 * group_entries, as1=group_entries, as2=1,
                dst=isa.DST[out.mem], d=out.hword(first) + 2 * pixel, ds0=out.strides[0], ds1=out.strides[1], ds2=2,
                ps0=2, ps1=1, out=out_kind(out))


def operand_fields(operand, first, pixel, rop="ADD"):
    """Second operand of a drain: a tensor of the same shape, or a vector broadcast over the pixels."""
    vector = operand.pixels == 1
    return dict(rop=isa.ROP[rop], r=operand.hword(first) + (0 if vector else 2 * pixel), rs0=2 * operand.plane, rs1=1,
                rs2=0 if vector else 2)


class ConvLowering:
    """Emits one conv node. ``on_block(out, block)`` is called when a channel block of the output is complete."""

    def __init__(self, state, node, out, on_block=lambda out, block: None, final=False):
        self.state, self.node, self.out, self.on_block, self.final = state, node, out, on_block, final
        self.sources = [state.tensors[s] for s in state.sources(node.inputs[0])]
        self.operand = state.tensors[node.inputs[1]] if len(node.inputs) > 1 else None
        self.w4 = state.bits.get(node.name, 8) == 4
        self.q, scale = quantise_weights(node.attrs["weight"], 4 if self.w4 else 8)
        self.plan = Plan(state, node, self.w4, self.sources)
        self.params = state.params(self.records(scale))

    def records(self, scale):
        state, node = self.state, self.node
        s_r = state.scale(node.inputs[1]) if self.operand else None
        s_x, *others = [state.scale(s) for s in state.sources(node.inputs[0])]
        if any((s != s_x).any() for s in others):
            raise CompileError(f"layer {node.name}: the parts of its concat have different scales; they must share one")
        record = conv_records(scale, node.attrs["bias"], s_x, state.scale(node.name), s_r, node.attrs.get("function"), node.name)
        if self.final:
            record["oshift"] = 0             # v is the 16-bit output itself
        return record

    def weights(self, first, count):
        """[(source, blocks, resource)] of a chunk; the channel offset of each source in the concat is accounted for."""
        out, channel = [], 0
        for source in self.sources:
            q = self.q[:, channel:channel + source.shape[0]]
            for blocks in block_splits(source, self.plan.kh * self.plan.kw * count):
                out.append((source, blocks, self.state.weights(weight_tiles(q, first, count, blocks, self.w4))))
            channel += source.shape[0]
        return out

    def run(self):
        per_group = 2 if self.w4 else 1
        done = 0
        for first, count in self.plan.chunks:
            parts = self.weights(first, count)
            for y, rows in self.plan.tiles:
                self.tile(parts, first, count, y, rows)
            complete = (first + count) * per_group // 2 if first + count < self.out.groups // per_group else self.out.blocks
            for block in range(done, complete):
                self.on_block(self.out, block)
            done = max(done, complete)

    def tile(self, parts, first, count, y, rows):
        pixels = rows * self.plan.ow
        acc, acc_region = self.state.accumulators(count * pixels, self.w4)
        *before, last = parts
        for i, part in enumerate(before):
            self.gemm(*part, (y, rows), dict(ng=count, acc=acc, ags=pixels, accumulate=int(i > 0)), acc_region)
        # The last part is multiplied a block at a time: POST drains one while the next is completed.
        step = 2 if before and count % 2 == 0 and not self.w4 else count
        for g in range(0, count, step):
            at = acc + g * pixels
            region = acc_region if step == count else [("ACC", at, at + step * pixels)]
            self.gemm(*last, (y, rows), dict(ng=step, acc=at, ags=pixels, accumulate=int(bool(before))), region, g)
            self.drain(first + g, step, at, region, y * self.plan.ow, pixels)

    def gemm(self, source, blocks, resource, tile, fields, acc_region, group=0):
        """One GEMM: some blocks of one source, added to what the earlier ones made; ``group``: first one in the resource."""
        tiles = len(blocks) * self.plan.kh * self.plan.kw
        fields.update(gemm_fields(self.node, source, blocks, *tile), wts=8, wgs=8 * tiles, w4=int(self.w4))
        reads = input_region(self.node, source, blocks, *tile) + (acc_region if fields["accumulate"] else [])
        self.state.emit("GEMM", fields, reads, acc_region, {"wt": (resource, 8 * tiles * group)})

    def drain(self, first, count, acc, acc_region, pixel, pixels):
        if not self.w4:
            return self.post(first, count, acc, pixels, acc_region, pixel, pixels)
        for g in range(count):
            lanes8 = min(2, self.out.groups - 2 * (first + g))
            self.post(2 * (first + g), lanes8, acc + g * pixels, self.state.config.acc_words, acc_region, pixel, pixels)

    def post(self, first, count, acc, group_entries, acc_region, pixel, pixels):
        out = self.out
        fields = drain_fields(out, first, count, acc, group_entries, pixel, pixels)
        reads = list(acc_region)
        if self.operand:
            fields.update(operand_fields(self.operand, first, pixel))
            reads += self.operand.region()
        function = self.node.attrs.get("function")
        fields["act"] = activation_code(function)
        if self.final:
            fields.update(out=isa.OUT["INT16"], d=2 * (out.addr + pixel), ds2=2)
        if out.stat >= 0:
            fields.update(stat=1, stat_acc=int(pixel > 0), stat_rec=out.stat + first)
        blocks = range(first // 2, (first + count + 1) // 2)
        self.state.emit("POST", fields, reads, out.region(blocks.start, len(blocks), pixel, pixels), {"p": (self.params, first)})
