"""Lowering of self-attention: QK^T, softmax and PV on the same array, V made transposed by swapping its operands.

Right-hand operands live in WBUF: the normalised tokens (for V^T = Wv . tokens), the keys, and V^T. A head is a range of
channel blocks. The value's bias is added after PV, because the rows of the softmax sum to one.
"""

import numpy as np

from litediffusion.cores import isa
from litediffusion.cores.tables import ACT_ONE
from litediffusion.sw.compiler.items import CompileError, odd_plane
from litediffusion.sw.compiler.records import RECORD, conv_records, fixed1, lanes, offset32, quantise_weights, weight_tiles

P_FRACTION = 8           # PV: v has so many bits below the unit of V


def check(node):
    c, h, w = node.shape
    d = c // node.attrs["heads"]
    if c % node.attrs["heads"] or d % 16:
        raise CompileError(f"layer {node.name} ({node.path}): heads of {d} channels; must be a multiple of 16")
    if h * w % 16:
        raise CompileError(f"layer {node.name} ({node.path}): {h * w} tokens; must be a multiple of 16")


NEVER = -(1 << 16)       # offset that leaves nothing of an exponential


def score_records(s_q, s_k, d, keys=0, s_mask=None):
    """Records [steps, groups] with v = (score - max) in Q4.11, out = 223 * exp(v), of skew bytes the largest.

    ``keys``: 0 for one record of all keys; else the number of keys that count, and there are records for all groups of 8 of
    a multiple of 16 keys, in which the others get no weight. ``s_mask`` [steps]: scale of what is added to the scores, or None.
    """
    groups = -(-keys // 16) * 2 if keys else 1
    record = np.zeros((len(s_q), groups), RECORD)
    m, shift = fixed1(s_q * s_k / np.sqrt(d) * ACT_ONE, "softmax")
    record["mult"], record["shift"] = m[:, None, None], shift[:, None]
    if keys:
        record["offset"] = np.where(np.arange(8 * groups) < keys, 0, NEVER).reshape(groups, 8)
    if s_mask is not None:
        record["rmult"], record["rshift"] = (x[:, None] for x in fixed1(s_mask * ACT_ONE, "mask"))
    record["omult"], record["oshift"] = isa.SKEW[1], 14
    return record


def mix_records(s_v, s_out, bias):
    """bias [C] or [steps, C]; v = (sum p v / sum p + bias / s_v) * 2^P_FRACTION; the row record brings 2^-(14 + e) with its multiplier."""
    groups = -(-bias.shape[-1] // 8)
    record = np.zeros((len(s_v), groups), RECORD)
    record["offset"] = offset32(lanes(bias * 2.0 ** P_FRACTION / s_v[:, None], groups), "attention")
    record["shift"] = 14 - P_FRACTION
    record["omult"], record["oshift"] = (x[:, None] for x in fixed1(s_v / s_out / 2.0 ** P_FRACTION, "attention"))
    return record


class AttentionLowering:
    """Emits the value projection and the attention of one node.

    tokens: normalised tokens in WBUF; q: queries in SPM; k: keys in WBUF; value: the conv node of V; out: the mix.
    """

    def __init__(self, state, node, tokens, q, k, value, out):
        check(node)
        self.state, self.node, self.tokens, self.q, self.k, self.value, self.out = state, node, tokens, q, k, value, out
        self.c, self.n = node.shape[0], node.shape[1] * node.shape[2]
        self.heads, self.d = node.attrs["heads"], node.shape[0] // node.attrs["heads"]
        names = node.inputs
        s_q, s_k, self.s_v = (state.scale(i) for i in names)
        self.score_params = state.params(score_records(s_q, s_k, self.d))
        bias = value.attrs["bias"] if value.attrs["bias"] is not None else np.zeros(self.c)
        self.mix_params = state.params(mix_records(self.s_v, state.scale(node.name), bias))

    def run(self):
        vt = self.transposed_values()
        p, rows = self.probabilities()
        for head in range(self.heads):
            for first in range(0, self.n, rows):
                self.head(head, first, min(rows, self.n - first), p, vt)
        self.state.release(p.name)
        self.state.release(vt.name)

    def probabilities(self):
        """(tensor of the softmax's output, rows at a time): as many rows as accumulators and scratchpad take."""
        rows = min(self.n, self.state.config.acc_words // (2 * (self.n // 8)) or 1)
        while True:
            try:
                p = self.state.alloc(f"{self.node.name}.p", (self.n, 1, rows))
                break
            except CompileError:
                if rows == 1:
                    raise
                rows //= 2
        self.state.uses[p.name] = 1
        return p, rows

    def transposed_values(self):
        """V^T [d][tokens] in WBUF: activations are the rows of Wv, weights the tokens. One scale for all of Wv."""
        state, weight = self.state, self.value.attrs["weight"]
        q, scale = quantise_weights(weight.reshape(1, -1), 8)
        plane = odd_plane(self.c)
        data = np.zeros((-(-self.c // 16), plane, 16), np.int8)
        w = q.reshape(self.c, self.c)
        data[:, :self.c] = w.reshape(self.c, -1, 16).transpose(1, 0, 2)
        resource = state.weights(data.view(np.uint8).reshape(-1), "SPM")
        s_x = state.scale(self.value.inputs[0])
        params = state.params(conv_records(np.repeat(scale, 8), None, s_x, self.s_v, None, None, self.value.name))
        vt = state.alloc(f"{self.node.name}.vt", (self.n, 1, self.c), mem="WBUF")
        state.uses[vt.name] = 1
        step = max(2, min(self.n // 8, state.config.acc_words // 2 // self.c // 2 * 2))
        for g in range(0, self.n // 8, step):
            count = min(step, self.n // 8 - g)
            acc, region = state.accumulators(count * self.c, False)
            state.emit("GEMM", dict(ng=count, nkb=self.c // 16, nky=1, nkx=1, noy=1, nox=self.c, xk=plane, xw=self.c, h=1, w=self.c,
                                    wt=self.tokens.addr + 8 * g, wts=self.n, wgs=8, acc=acc, ags=self.c),
                       self.tokens.region(), region, {"x": (resource, 0)})
            state.emit("POST", dict(n0=count // 2, n1=2, n2=self.c, src=isa.SRC["ACC"], a=acc, as0=2 * self.c, as1=self.c, as2=1,
                                    dst=isa.DST["WBUF"], d=vt.hword(g), ds0=2 * vt.plane, ds1=1, ds2=2),
                       region, vt.region(g // 2, count // 2), {"p": (params, 0)})
        return vt

    def head(self, head, first, rows, p, vt):
        """Softmax rows [first, first + rows) of one head."""
        acc, region = self.scores(head, first, rows)
        row = self.state.rows(rows)
        row_region = [("ROW", row, row + rows)]
        groups = self.n // 8
        base = dict(src=isa.SRC["ACC"], a=acc, as0=1, row=row)
        self.state.emit("POST", dict(base, n0=rows, n1=1, n2=groups, as2=rows, row_loop=1, rowmax=1), region, row_region)
        self.state.emit("POST", dict(base, n0=rows, n1=groups // 2, n2=2, as1=2 * rows, as2=rows, row_loop=2, submax=1, rowsum=1,
                                     act=isa.ACT["EXP"], out=isa.OUT["SKEW8"], dst=isa.DST["SPM"], d=p.hword(0), ds0=2,
                                     ds1=2 * p.plane, ds2=1),
                        region + row_region, p.region() + row_region, {"p": (self.score_params, 0)})
        self.mix(head, first, rows, p, vt, row)

    def scores(self, head, first, rows):
        state, groups, blocks = self.state, self.n // 8, self.d // 16
        acc, region = state.accumulators(groups * rows, False)
        state.emit("GEMM", dict(ng=groups, nkb=blocks, nky=1, nkx=1, noy=1, nox=rows, x=self.q.addr + head * blocks * self.q.plane + first,
                                xk=self.q.plane, xw=self.n, h=1, w=self.n, wt=self.k.addr + head * blocks * self.n, wts=self.n, wgs=8,
                                acc=acc, ags=rows),
                   self.q.region(head * blocks, blocks) + self.k.region(head * blocks, blocks), region)
        return acc, region

    def mix(self, head, first, rows, p, vt, row):
        state, groups = self.state, self.d // 8
        acc, region = state.accumulators(groups * rows, False)
        state.emit("GEMM", dict(ng=groups, nkb=self.n // 16, nky=1, nkx=1, noy=1, nox=rows, x=p.addr, xk=p.plane, xw=rows, h=1,
                                w=rows, wt=vt.addr + head * self.d, wts=self.c, wgs=8, acc=acc, ags=rows, xs=1),
                   p.region() + vt.region(), region)
        out, g0 = self.out, head * groups
        state.emit("POST", dict(n0=rows, n1=groups // 2, n2=2, src=isa.SRC["ACC"], a=acc, as0=1, as1=2 * rows, as2=rows, row=row,
                                row_loop=2, row_m=1, dst=isa.DST["SPM"], d=out.hword(g0) + 2 * first, ds0=2, ds1=2 * out.plane, ds2=1,
                                ps1=2, ps2=1),
                   region + [("ROW", row, row + rows)], out.region(g0 // 2, groups // 2), {"p": (self.mix_params, g0)})
