"""The golden machine: executes a program of descriptors exactly as the engine does, in program order.

It is the living definition of the instruction set. All memories carry a leading axis of B images, so that many
images with one program (other seeds, labels) run at once; the RTL is a machine of B = 1.
"""

import numpy as np

from litediffusion.cores import isa
from litediffusion.cores.gemm_model import accumulate, gemm, gemm_activation_index, gemm_tile_index, skewed, unpack_w4
from litediffusion.cores.norm_model import norm_channel, norm_stats
from litediffusion.cores.post_model import post_output, post_value, row_reciprocal
from litediffusion.cores.sampler_model import noise, sample
from litediffusion.cores.validate import check_descriptor


class EngineError(Exception):
    """The engine stopped. Attributes: code (isa.ERRORS), queue, index (descriptor), token."""

    def __init__(self, code, queue="FETCH", index=0, detail="", token=16):
        self.code, self.queue, self.index, self.token = isa.ERROR_CODE[code], queue, index, token
        super().__init__(f"engine error {code} in the {queue} queue at descriptor {index}: "
                         f"{isa.ERRORS[self.code][1]}{'; ' + detail if detail else ''}")


def loop_index(base, sizes, strides, bits):
    """Affine addresses base + sum(i * stride), modulo 2**bits, shaped ``sizes``."""
    index = np.int64(base)
    for axis, (n, s) in enumerate(zip(sizes, strides)):
        shape = [1] * len(sizes)
        shape[axis] = n
        index = index + (np.arange(n) * s).reshape(shape)
    return index & ((1 << bits) - 1)


class Machine:
    """State and execution of B engines that run one program.

    Parameters
    ----------
    config : EngineConfig
    dram : uint8 array [B, bytes] (or [bytes], then B = 1)
        The engine's window. Read and written in place.
    """

    def __init__(self, config, dram):
        self.config = config
        self.dram = dram if dram.ndim == 2 else dram[None]
        self.batch = b = self.dram.shape[0]
        n = config.n_lanes
        self.spm = np.zeros((b, config.spm_words, config.k_lanes), np.int8)
        self.wbuf = np.zeros((b, config.wbuf_words, config.k_lanes), np.int8)
        self.param = np.zeros((b, config.param_words * isa.PARAM_BYTES // config.word_bytes, config.word_bytes), np.uint8)
        self.acc = np.zeros((b, 2 * config.acc_words, n), np.int64)
        self.stat_s = np.zeros((b, config.stat_words, n), np.int64)
        self.stat_q = np.zeros((b, config.stat_words, n), np.int64)
        self.row = {k: np.zeros((b, config.row_words), np.int64) for k in ("max", "m", "e", "o", "s", "q")}
        self.tokens = [0] * isa.TOKENS
        self.index = {name: np.zeros(b, np.int64) for name in isa.INDEX}
        self.guidance, self.seeds = 0, np.zeros((b, 2), np.int64)
        self.queue, self.position = "FETCH", 0

    # --- programs ------------------------------------------------------------------------------------------------

    def set_registers(self, step=0, label=0, slot=0, image=0, guidance=0, seeds=0):
        """Index registers, guidance (Q19.12) and seeds (64 bit); scalars or one value an image."""
        for name, value in (("STEP", step), ("LABEL", label), ("SLOT", slot), ("IMAGE", image)):
            self.index[name] = np.broadcast_to(np.asarray(value, np.int64), (self.batch,))
        self.guidance = int(guidance)
        seeds = [int(s) for s in np.broadcast_to(np.asarray(seeds, dtype=object), (self.batch,))]
        self.seeds = np.array([[s & 0xFFFFFFFF, s >> 32] for s in seeds], np.int64)

    def run(self, address, length):
        """Run the program of ``length`` descriptors at byte ``address``. Raises EngineError."""
        self.tokens = [0] * isa.TOKENS
        for self.position in range(length):
            at = address + self.position * isa.DESC_BYTES
            if at + isa.DESC_BYTES > self.dram.shape[1]:
                self.queue = "FETCH"
                self.fail("DRAM_WINDOW")
            if self.execute(bytes(self.dram[0, at:at + isa.DESC_BYTES])):
                return
        self.queue, self.position = "FETCH", length
        self.fail("PROGRAM_END", f"{length} descriptors without END")

    def execute(self, data):
        """Execute one descriptor of 64 bytes; True for END."""
        self.queue = "FETCH"
        try:
            op, d = isa.decode(data)
        except ValueError as error:
            self.fail("BAD_OPCODE" if data[0] not in isa.OPCODE.values() else "BAD_FIELD", str(error))
        problem = check_descriptor(self.config, op, d)
        if problem:
            self.fail("BAD_FIELD", problem)
        self.queue = isa.QUEUE_OF[op] if op != "END" else "FETCH"
        self.wait_tokens(d)
        if op != "END":
            getattr(self, op.lower())(d)
        self.add_tokens(d)
        return op == "END"

    def fail(self, code, detail="", token=16):
        raise EngineError(code, self.queue, self.position, detail, token)

    def wait_tokens(self, d):
        for i in range(3):
            t, n = d[f"wait{i}"], d[f"wait{i}_n"]
            if n and self.tokens[t] < n:
                # In program order nothing that comes later can add it in time for an in-order fetcher.
                self.fail("WATCHDOG", f"token {isa.TOKEN_NAMES[t]} is {self.tokens[t]}, needs {n}", t)
            self.tokens[t] -= n

    def add_tokens(self, d):
        for i in range(3):
            t, n = d[f"add{i}"], d[f"add{i}_n"]
            self.tokens[t] += n
            if self.tokens[t] > isa.TOKEN_LIMIT:
                self.fail("TOKEN_OVERFLOW", f"token {isa.TOKEN_NAMES[t]}", t)

    def check(self, index, size, what):
        """Raise BUFFER_RANGE if an address lies outside a memory of ``size``."""
        if index.size and int(index.max()) >= size:
            self.fail("BUFFER_RANGE", f"{what} address {int(index.max())}, size {size}")
        return index

    # --- LOAD and STORE --------------------------------------------------------------------------------------------

    def memory(self, mem):
        return {isa.MEM["SPM"]: self.spm, isa.MEM["WBUF"]: self.wbuf, isa.MEM["PARAM"]: self.param}[mem]

    def dram_base(self, d):
        """First byte of each image's transfer [B]."""
        names = {v: k for k, v in isa.INDEX.items()}
        base = d["dram"] + self.index[names[d["idx0"]]] * d["idx0_stride"] + self.index[names[d["idx1"]]] * d["idx1_stride"]
        return base & 0xFFFFFFFF

    def transfer(self, d, pad):
        """(word offsets [n0, n1, n2], inside mask, on-chip index) of a transfer."""
        i0, i1, i2 = np.meshgrid(*[np.arange(d[n]) for n in ("n0", "n1", "n2")], indexing="ij")
        inside = np.ones(i0.shape, bool)
        if pad:
            i1, i2 = i1 + d["y0"], i2 + d["x0"]
            inside = (i1 >= 0) & (i1 < d["h"]) & (i2 >= 0) & (i2 < d["w"])
        chip = loop_index(d["addr"], (d["n0"], d["n1"], d["n2"]), (d["d0"], d["d1"], 1), 16)
        self.check(chip, self.memory(d["mem"]).shape[1], "on-chip")
        return i0 * d["s0"] + i1 * d["s1"] + i2, inside, chip

    def dram_words(self, d, offsets, inside):
        """Word index [B, words] of the words inside; checks the window."""
        wb = self.config.word_bytes
        at = self.dram_base(d)[:, None] // wb + offsets[inside][None, :]
        if at.size and (int(at.min()) < 0 or (int(at.max()) + 1) * wb > self.dram.shape[1]):
            self.fail("DRAM_WINDOW", f"byte {int(at.max()) * wb}, window {self.dram.shape[1]}")
        return at

    def load(self, d):
        offsets, inside, chip = self.transfer(d, d["pad"])
        at = self.dram_words(d, offsets, inside)
        words = self.dram.reshape(self.batch, -1, self.config.word_bytes)
        data = np.zeros((self.batch,) + inside.shape + (self.config.word_bytes,), np.uint8)
        data[:, inside] = np.take_along_axis(words, at[..., None], axis=1)
        memory = self.memory(d["mem"])
        memory[:, chip] = data.view(memory.dtype)

    def store(self, d):
        offsets, inside, chip = self.transfer(d, False)
        at = self.dram_words(d, offsets, inside)
        words = self.dram.reshape(self.batch, -1, self.config.word_bytes)
        data = self.memory(d["mem"])[:, chip].view(np.uint8).reshape(self.batch, -1, self.config.word_bytes)
        np.put_along_axis(words, np.broadcast_to(at[..., None], data.shape), data, axis=1)

    # --- GEMM ------------------------------------------------------------------------------------------------------

    def gemm(self, d):
        c = self.config
        index, inside = gemm_activation_index(d)
        self.check(index, c.spm_words, "activation")
        x = np.where(inside[None, :, :, None], self.spm[:, np.maximum(index, 0)], np.int8(0))
        tiles = self.wbuf[:, self.check(gemm_tile_index(d, c.n_lanes), c.wbuf_words, "weight")]
        product = gemm(skewed(x) if d["xs"] else x, unpack_w4(tiles) if d["w4"] else tiles)
        last = d["acc"] + (d["ng"] - 1) * d["ags"] + d["noy"] * d["nox"] - 1
        self.check(np.array(last), c.acc_words * (1 if d["w4"] else 2), "accumulator")
        accumulate(self.acc, d, product, c.acc_words)

    # --- POST ------------------------------------------------------------------------------------------------------

    def post(self, d):
        sizes = (d["n0"], d["n1"], d["n2"])
        strides = lambda k: (d[k + "0"], d[k + "1"], d[k + "2"])
        a = self.source(d, loop_index(d["a"], sizes, strides("as"), 18))
        rows = self.rows_of(d, sizes)
        if d["rowmax"]:
            axes = tuple(range(4 - d["row_loop"], 5))
            self.row["max"][:, np.unique(rows)] = a.max(axis=axes).reshape(self.batch, -1)
            return
        w = self.value(d, a, sizes, rows, strides)
        s = self.scalars(loop_index(d["p"], sizes, strides("ps"), 10))
        out = post_output(w, s, d["out"])
        self.write(d, out, loop_index(d["d"], sizes, strides("ds"), 18))
        self.statistics(d, out, sizes, rows)

    def halves(self, memory):
        """A memory of words seen as hwords [B, 2*words, n_lanes]."""
        return memory.reshape(self.batch, -1, self.config.n_lanes)

    def source(self, d, index):
        """Source values [B, n0, n1, n2, n_lanes] int64."""
        if d["src"] == isa.SRC["ACC"]:
            return self.acc[:, self.check(index, 2 * self.config.acc_words, "accumulator")]
        self.check(index, 2 * self.config.spm_words, "source")
        if d["src"] == isa.SRC["INT8"]:
            return self.halves(self.spm)[:, index].astype(np.int64)
        return self.spm[:, index >> 1].view(np.int16).astype(np.int64)

    def rows_of(self, d, sizes):
        """Row record of every iteration [n0, n1, n2]."""
        i0, i1, i2 = np.meshgrid(*[np.arange(n) for n in sizes], indexing="ij")
        row = {0: i0 * 0, 1: i0 * sizes[1] + i1, 2: i0}[d["row_loop"]]
        return self.check(d["row"] + row, self.config.row_words, "row record")

    def param_lanes(self, record):
        """(mult, offset) int64 [B, ..., n_lanes] of parameter records."""
        self.check(record, self.config.param_words, "parameter record")
        raw = self.param.reshape(self.batch, self.config.param_words, isa.PARAM_BYTES)[:, record]
        return (np.ascontiguousarray(raw[..., :16]).view(np.int16).astype(np.int64),
                np.ascontiguousarray(raw[..., 16:48]).view(np.int32).astype(np.int64))

    def scalars(self, record):
        """Scalars of parameter records, each [..., 1], of image 0 (a program loads the same ones for all)."""
        raw = self.param[0].reshape(self.config.param_words, isa.PARAM_BYTES)[record]
        field = lambda at, dtype: np.ascontiguousarray(raw[..., at:at + np.dtype(dtype).itemsize]).view(dtype).astype(np.int64)
        return {"shift": field(48, np.uint8), "rshift": field(49, np.uint8), "oshift": field(50, np.uint8),
                "rmult": field(52, np.int16), "omult": field(54, np.int16)}

    def value(self, d, a, sizes, rows, strides):
        """The activated value w [B, n0, n1, n2, n_lanes]."""
        record = loop_index(d["p"], sizes, strides("ps"), 10)
        m, o = self.param_lanes(record)
        e = 0
        if d["submax"]:
            a = a - self.row["max"][:, rows][..., None]
        if d["row_m"]:
            m, e = self.row["m"][:, rows][..., None], self.row["e"][:, rows][..., None]
        if d["row_o"]:
            o = self.row["o"][:, rows][..., None]
        r = 0
        if d["rop"]:
            index = loop_index(d["r"], sizes, strides("rs"), 18)
            r = self.halves(self.spm)[:, self.check(index, 2 * self.config.spm_words, "operand")].astype(np.int64)
        return post_value(a, m, e, o, self.scalars(record), d["rop"], r, d["act"])

    def write(self, d, out, index):
        if d["dst"] == isa.DST["NONE"]:
            return
        memory = self.spm if d["dst"] == isa.DST["SPM"] else self.wbuf
        self.check(index, 2 * memory.shape[1], "destination")
        if d["out"] == isa.OUT["INT16"]:
            memory[:, index >> 1] = out.astype(np.int16).view(np.int8)
        else:
            self.halves(memory)[:, index] = out.astype(np.uint8).view(np.int8)

    def statistics(self, d, out, sizes, rows):
        if d["stat"]:
            n = sizes[0] * sizes[1]
            record = d["stat_rec"] + np.arange(n)
            self.check(record, self.config.stat_words, "statistics record")
            s = out.sum(axis=3).reshape(self.batch, n, -1)
            q = (out * out).sum(axis=3).reshape(self.batch, n, -1)
            old = d["stat_acc"]
            self.stat_s[:, record] = self.stat_s[:, record] * old + s
            self.stat_q[:, record] = self.stat_q[:, record] * old + q
        if d["rowsum"] or d["rowstat"]:
            axes = tuple(range(4 - d["row_loop"], 5))
            where = np.unique(rows)
            s, q = (t.sum(axis=axes).reshape(self.batch, -1) for t in (out, out * out))
            if d["rowsum"]:
                self.row["m"][:, where], self.row["e"][:, where] = row_reciprocal(s)
            else:
                self.row["s"][:, where], self.row["q"][:, where] = s, q

    # --- NORM ------------------------------------------------------------------------------------------------------

    def norm(self, d):
        for b in range(self.batch):
            (self.norm_rows if d["rows"] else self.norm_groups)(d, b)

    def record(self, b, index):
        self.check(np.array(index), self.config.param_words, "parameter record")
        return self.param[b].reshape(self.config.param_words, isa.PARAM_BYTES)[index]

    def norm_rows(self, d, b):
        source = self.record(b, d["p"])
        s = isa.decode_scalars(bytes(source))
        gamma, beta = int(source[:2].view(np.int16)[0]), int(source[16:20].view(np.int32)[0])
        self.check(np.array(d["row"] + d["ngroups"] - 1), self.config.row_words, "row record")
        for i in range(d["row"], d["row"] + d["ngroups"]):
            r, mu = norm_stats(d["count"], int(self.row["s"][b, i]), int(self.row["q"][b, i]), s["eps_m"], s["eps_s"])
            self.row["m"][b, i], self.row["o"][b, i] = norm_channel(r, mu, gamma, beta, s["gshift"], s["shift"])
            self.row["e"][b, i] = 0

    def norm_groups(self, d, b):
        n = self.config.n_lanes
        channels = d["ngroups"] * d["gsize"]
        self.check(np.array(d["stat_rec"] + (channels - 1) // n), self.config.stat_words, "statistics record")
        total, squares = self.stat_s[b, d["stat_rec"]:].reshape(-1), self.stat_q[b, d["stat_rec"]:].reshape(-1)
        for c in range(channels):
            source, target = self.record(b, d["p"] + c // n), self.record(b, d["pd"] + c // n)
            s = isa.decode_scalars(bytes(source))
            if c % d["gsize"] == 0:
                group = slice(c, c + d["gsize"])
                r, mu = norm_stats(d["count"], int(total[group].sum()), int(squares[group].sum()), s["eps_m"], s["eps_s"])
            lane = c % n
            gamma, beta = int(source[:16].view(np.int16)[lane]), int(source[16:48].view(np.int32)[lane])
            m, o = norm_channel(r, mu, gamma, beta, s["gshift"], s["shift"])
            target[:16].view(np.int16)[lane] = m
            target[16:48].view(np.int32)[lane] = np.int64(o).astype(np.int32)
            target[48:64] = source[48:64]

    # --- SAMPLE ----------------------------------------------------------------------------------------------------

    def sample(self, d):
        c = self.config
        words = lambda at: self.check(d[at] + np.arange(d["n"]), c.spm_words, at)
        read = lambda at: self.spm[:, words(at)].view(np.int16).astype(np.int64)
        offsets = self.param_lanes(np.array(d["p"]))[1][0]
        coefs = {name: int(v) for name, v in zip(isa.SAMPLE_COEFS, offsets)}
        z = np.zeros((self.batch, d["n"], c.n_lanes), np.int64)
        if coefs["sigma"]:
            for b in range(self.batch):
                z[b] = noise(*self.seeds[b], d["z"], d["n"], c.n_lanes, d["nch"], self.index["STEP"][b])
        x, m = sample(read("x"), read("e"), read("u"), read("m"), coefs, self.guidance, z)
        live = np.arange(c.n_lanes) < d["nch"]
        for at, value in (("d", x), ("md", m)):
            self.spm[:, words(at)] = np.where(live, value, 0).astype(np.int16).view(np.int8)
