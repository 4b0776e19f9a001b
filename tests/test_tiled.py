"""Layers from DRAM to DRAM in tiles of rows: near float, whatever the cut; plans; order of loads and uses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from litediffusion.cores.config import PRESETS, EngineConfig
from litediffusion.cores.machine import Machine
from litediffusion.sw.compiler.items import CompileError, Item, Operand, Resource
from litediffusion.sw.compiler.prefetch import Prefetcher
from litediffusion.sw.compiler.records import quantise_weights
from litediffusion.sw.compiler.sync import assign_tokens
from litediffusion.sw.compiler.tile_plan import Layer, balanced, plan_tiles
from litediffusion.sw.compiler.tiled_program import TiledProgram
from litediffusion.sw.devices.rtl import RtlDevice
from litediffusion.sw.graph import Graph, Node, conv_shape, verify
from litediffusion.sw.reference import evaluate

SCALE = 1 / 32
OWN_SCALE = 2 * SCALE    # of a convolution's own result before a wide operand
SMALL = EngineConfig(spm_words=512, wbuf_words=1024, acc_words=128, name="small")
TINY = EngineConfig(spm_words=256, wbuf_words=512, acc_words=64, name="tiny")


def kind_of(tensor):
    """(type of a value, channels side by side)."""
    return (np.int16, 8) if tensor.fine else (np.int8, 16)


def put(image, tensor, values):
    """Values [C, H, W] to their blocks in the image."""
    kind, lanes = kind_of(tensor)
    padded = np.zeros((16 * tensor.blocks,) + tuple(tensor.shape[1:]), kind)
    padded[:len(values)] = values
    image[tensor.at:tensor.at + tensor.bytes] = padded.reshape(-1, lanes, tensor.pixels).transpose(0, 2, 1).reshape(-1).view(np.uint8)


def get(memory, tensor):
    """Values [C, H, W] of a tensor in memory."""
    kind, lanes = kind_of(tensor)
    blocks = memory[tensor.at:tensor.at + tensor.bytes].view(kind).reshape(-1, tensor.pixels, lanes).transpose(0, 2, 1)
    return blocks.reshape((-1,) + tuple(tensor.shape[1:]))[:tensor.shape[0]]


def noise(rng, shape, fine=0):
    return np.clip(np.round(rng.standard_normal(shape) / SCALE * 2 ** fine), -128 << fine, (128 << fine) - 1).astype(np.int16 if fine else np.int8)


def norm_of(rng, channels, groups, function="SILU"):
    return {"gamma": 1 + 0.2 * rng.standard_normal(channels), "beta": 0.2 * rng.standard_normal(channels), "groups": groups,
            "eps": 1e-6, "function": function}


def float_norm(x, attrs):
    """Float norm and activation of [C, H, W]."""
    gamma, beta = torch.tensor(attrs["gamma"]), torch.tensor(attrs["beta"])
    y = F.group_norm(torch.tensor(x)[None], attrs["groups"], gamma, beta, attrs["eps"])[0]
    return (F.silu(y) if attrs["function"] else y).numpy()


def sqnr_db(want, got):
    return 10 * np.log10((want ** 2).mean() / ((want - got) ** 2).mean())


class Case:
    """One conv in a program of its own, its float result and what the golden machine makes of it.

    wide : bits below a byte's unit of the input, the output and the operand.
    """

    def __init__(self, config, parts, outputs, size, kernel=3, bits=8, groups=0, operand="", stride=1, wide=(0, 0, 0), **attrs):
        self.rng, channels = np.random.default_rng(outputs + sum(parts)), sum(parts)
        self.program, self.values, record = TiledProgram(config), {}, 0
        sources = []
        for i, c in enumerate(parts):
            sources.append(self.tensor(f"x{i}", (c, size, size), record, wide[0]))
            record += -(-c // 8)
        weight = self.rng.standard_normal((outputs, channels, kernel, kernel)) / np.sqrt(channels * kernel ** 2)
        bias = self.rng.standard_normal(outputs)
        self.attrs = dict({"weight": weight, "bias": bias, "stride": stride, "pad": kernel // 2}, **attrs)
        self.norm = norm_of(self.rng, channels, groups) if groups else None
        shape = conv_shape((channels, size, size), self.attrs)
        self.operand = self.tensor("r", shape if operand == "residual" else (outputs, 1, 1), fine=wide[2]) if operand else None
        for source in sources if groups else []:
            self.program.statistics(source, source.stat)
        self.sources, self.bits = sources, bits
        self.out = self.program.conv("y", sources, self.attrs, SCALE, norm=(self.norm, SCALE) if groups else None,
                                     operand=self.operand, bits=bits, stat=record, s_own=OWN_SCALE, fine=wide[1])

    def tensor(self, name, shape, stat=-1, fine=0):
        tensor = self.program.tensor(name, shape, SCALE, stat, fine=fine)
        self.values[tensor] = noise(self.rng, shape, fine)
        return tensor

    def run(self):
        """The output in real numbers; the machine is kept."""
        code = self.program.finish()
        image = self.program.image.finish()
        for tensor, values in self.values.items():
            put(image, tensor, values)
        self.machine = Machine(self.program.config, image)
        self.machine.run(*code)
        return get(self.machine.dram[0], self.out) * self.out.unit[0]

    def expected(self):
        """Float result with the quantised weights, within the output's range."""
        x = np.concatenate([self.values[s] * s.unit[0] for s in self.sources])
        x = torch.tensor(float_norm(x, self.norm) if self.norm else np.clip(np.floor(x / SCALE + 0.5), -128, 127) * SCALE)[None]
        if self.attrs.get("up"):
            x = F.interpolate(x, scale_factor=2.0)
        begin = self.attrs["pad"]
        end = self.attrs.get("pad_end", begin)
        q, scale = quantise_weights(self.attrs["weight"], self.bits)
        weight, bias = torch.tensor(q * scale[:, None, None, None]), torch.tensor(self.attrs["bias"])
        y = F.conv2d(F.pad(x, (begin, end, begin, end)), weight, bias, stride=self.attrs["stride"])[0].numpy()
        y = y + self.values[self.operand] * self.operand.unit[0] if self.operand else y
        return y if self.out.fine else np.clip(y, -128 * SCALE, 127 * SCALE)


@pytest.mark.parametrize("config, parts, outputs, size, options", [
    (SMALL, [32], 32, 16, {}), (SMALL, [32], 32, 16, {"kernel": 1}), (SMALL, [48], 24, 9, {"operand": "residual"}),
    (SMALL, [32], 32, 16, {"stride": 2}), (SMALL, [32], 32, 16, {"stride": 2, "pad": 0, "pad_end": 1}),
    (SMALL, [32], 32, 8, {"up": True, "operand": "vector"}), (SMALL, [32, 16], 48, 16, {"bits": 4, "operand": "residual"}),
    (TINY, [96, 32], 64, 8, {}), (TINY, [128], 64, 16, {"bits": 4}), (SMALL, [3], 16, 16, {})])
def test_conv_without_norm_is_exact(config, parts, outputs, size, options):
    case = Case(config, parts, outputs, size, **options)
    assert np.abs(case.run() - case.expected()).max() < 0.55 * SCALE          # half a unit and the multipliers' rounding


@pytest.mark.parametrize("config, parts, outputs, size, options", [
    (SMALL, [32], 32, 16, {"wide": (3, 3, 0)}), (SMALL, [32], 24, 9, {"wide": (4, 0, 0)}), (SMALL, [48], 40, 8, {"wide": (0, 4, 0), "operand": "residual"}),
    (SMALL, [48], 24, 9, {"operand": "residual", "wide": (3, 4, 2)}), (SMALL, [32], 32, 8, {"wide": (4, 4, 0), "operand": "vector", "stride": 2}),
    (SMALL, [32], 32, 8, {"up": True, "wide": (3, 1, 0)}), (SMALL, [32, 16], 48, 16, {"bits": 4, "operand": "residual", "wide": (2, 2, 2)}),
    (SMALL, [32], 40, 16, {"operand": "residual", "wide": (0, 0, 3), "kernel": 1})])
def test_wide_tensors(config, parts, outputs, size, options):
    """Half a unit of the output, half of that of the convolution's own result where that is rounded, and the multipliers' rounding."""
    case = Case(config, parts, outputs, size, **options)
    own = 0.5 * OWN_SCALE if options["wide"][2] else 0.0
    assert np.abs(case.run() - case.expected()).max() < 0.52 * case.out.unit[0] + 1.02 * own + 0.03 * SCALE


@pytest.mark.parametrize("config, parts, outputs, size, options", [
    (SMALL, [32], 32, 16, {"groups": 8, "wide": (3, 3, 0)}), (SMALL, [64, 32], 32, 16, {"groups": 8, "wide": (2, 0, 0)}),
    (SMALL, [128], 32, 16, {"groups": 32, "wide": (3, 3, 3), "operand": "residual"}),
    (SMALL, [32], 32, 16, {"groups": 8}), (SMALL, [32], 32, 16, {"groups": 8, "bits": 4, "operand": "residual"}),
    (SMALL, [64, 32], 32, 16, {"groups": 8}),                                 # a group of 12 channels crosses the concat's border
    (TINY, [128], 32, 16, {"groups": 32, "operand": "vector"}), (SMALL, [32], 32, 8, {"groups": 4, "up": True}),
    (SMALL, [32], 32, 16, {"groups": 4, "stride": 2})])
def test_conv_with_norm_is_near_float(config, parts, outputs, size, options):
    case = Case(config, parts, outputs, size, **options)
    assert sqnr_db(case.expected(), case.run()) > 33.0


def test_outside_of_the_picture_is_zero_after_the_norm():
    """With a large beta the border shows whether what lies outside was normalised."""
    case = Case(SMALL, [32], 32, 16, groups=4)
    case.norm["beta"][:] = 3.0
    case.out = case.program.conv("z", case.sources, case.attrs, 4 * SCALE, norm=(case.norm, 2 * SCALE), stat=8)
    x = torch.tensor(float_norm(case.values[case.sources[0]] * SCALE, case.norm))[None]
    want = F.conv2d(x, torch.tensor(case.attrs["weight"]), torch.tensor(case.attrs["bias"]), padding=1)[0].numpy()
    border = np.ones((16, 16), bool)
    border[1:-1, 1:-1] = False
    assert sqnr_db(want[:, border], case.run()[:, border]) > 28.0


@pytest.mark.parametrize("wide", [(0, 0, 0), (2, 2, 2), (0, 2, 0), (2, 0, 2)])
def test_rtl_is_equal_to_the_model(wide):
    case = Case(PRESETS["ecpix5"], [64, 32], 32, 32, groups=8, operand="residual", wide=wide)
    code = case.program.finish()
    image = case.program.image.finish()
    for tensor, values in case.values.items():
        put(image, tensor, values)
    device, machine = RtlDevice(PRESETS["ecpix5"]), Machine(PRESETS["ecpix5"], image.copy())
    device.write(0, image.tobytes())
    device.run_program(*code)
    machine.run(*code)
    assert device.read(0, image.size) == machine.dram[0].tobytes()


@pytest.mark.parametrize("wide", [(0, 0, 0), (0, 3, 0), (3, 3, 3)])
def test_statistics_over_tiles(wide):
    case = Case(SMALL, [32], 32, 16, operand="residual" if wide[2] else "", wide=wide)
    case.run()
    out = get(case.machine.dram[0], case.out).astype(np.int64)
    assert len([i for i in case.program.state.items if i.op == "STORE"]) > out.shape[0] // 16          # there are tiles
    assert (case.machine.stat_s[0, 4:8].reshape(-1) == out.sum(axis=(1, 2))).all()
    assert (case.machine.stat_q[0, 4:8].reshape(-1) == (out ** 2).sum(axis=(1, 2))).all()


@pytest.mark.parametrize("channels, size, heads, config", [(32, 8, 1, SMALL), (32, 8, 2, SMALL), (64, 4, 1, SMALL), (64, 12, 2, None), (32, 16, 2, None), (32, 16, 1, None)])
def test_attention_is_near_float(channels, size, heads, config):
    rng = np.random.default_rng(channels + heads)
    program = TiledProgram(replace(config, wbuf_words=2048) if config else EngineConfig())
    x = program.tensor("x", (channels, size, size), SCALE, 0)
    norm = norm_of(rng, channels, 8, None)
    matrix = lambda: rng.standard_normal((channels, channels)) / np.sqrt(channels)
    convs = {k: (matrix(), 0.3 * rng.standard_normal(channels)) for k in "qkvo"}
    program.statistics(x, 0)
    scales = {"q": SCALE, "k": SCALE, "v": SCALE, "mix": SCALE / 2, "out": SCALE}
    out = program.attention("a", x, (norm, SCALE), convs, scales, heads=heads)
    code, values = program.finish(), noise(rng, x.shape)
    image = program.image.finish()
    put(image, x, values)
    machine = Machine(program.config, image)
    machine.run(*code)
    tokens = float_norm(values * SCALE, norm).reshape(channels, -1)
    q, k, v = ((convs[n][0] @ tokens + convs[n][1][:, None]).reshape(heads, channels // heads, -1) for n in "qkv")
    scores = np.exp(q.transpose(0, 2, 1) @ k / np.sqrt(channels // heads))
    mix = (v @ (scores / scores.sum(2, keepdims=True)).transpose(0, 2, 1)).reshape(channels, -1)
    branch = convs["o"][0] @ mix + convs["o"][1][:, None]
    want = np.clip((values * SCALE).reshape(channels, -1) + branch, -128 * SCALE, 127 * SCALE)
    got = get(machine.dram[0], out).reshape(channels, -1) * SCALE
    assert 10 * np.log10((branch ** 2).mean() / ((want - got) ** 2).mean()) > 24.0


def ordered_before(items):
    """For every item a set (bits) of those that are complete before it starts: queues are in order, tokens join them."""
    last, adds, waits, before = {}, {}, {}, []
    for at, item in enumerate(items):
        done = last.get(item.queue, 0)
        for i in range(3):
            if item.fields.get(f"wait{i}_n"):
                token = item.fields[f"wait{i}"]
                waits[token] = waits.get(token, -1) + 1
                done |= adds[token][waits[token]]
        before.append(done)
        last[item.queue] = done | 1 << at
        for i in range(3):
            if item.fields.get(f"add{i}_n"):
                adds.setdefault(item.fields[f"add{i}"], []).append(last[item.queue])
    return before


def dram_words(item):
    """DRAM words that a LOAD or STORE touches, from its fields."""
    f = item.fields
    return {f["dram"] // 16 + i * f.get("s1", 0) + j for i in range(f["n1"]) for j in range(f["n2"])}


@pytest.mark.parametrize("size, wide", [(16, (0, 0, 0)), (4, (0, 0, 0)), (16, (3, 3, 3))])
def test_every_conflict_is_ordered(size, wide, conflict):
    """Tokens order all instructions of a layer with norm and residual that touch the same memory, on chip or DRAM."""
    case = Case(SMALL, [32], 32, size, groups=8, operand="residual", wide=wide)
    case.program.conv("next", [case.out], case.attrs, SCALE)
    state = case.program.state
    prefetcher = Prefetcher(state.items, case.program.image, state.areas, state.layers)
    case.program.image.place(list(prefetcher.spans))
    items = prefetcher.run()
    assign_tokens(items)
    conflicts = [(i, j) for j, item in enumerate(items) for i in range(j) if items[i].queue != item.queue and conflict(items[i], item)]
    before = ordered_before(items)
    assert len(conflicts) > 4 * size and all(before[j] >> i & 1 for i, j in conflicts)
    moves = {op: [(i, dram_words(item)) for i, item in enumerate(items) if item.op == op] for op in ("STORE", "LOAD")}
    through_dram = [(i, j) for i, stored in moves["STORE"] for j, loaded in moves["LOAD"] if i < j and stored & loaded]
    assert len(through_dram) > 1 and all(before[j] >> i & 1 for i, j in through_dram)


def test_operands_are_not_loaded_before_they_exist(conflict):
    late = Operand("WBUF", None, 0, dram=64, rows=2, length=8, pitch=32, after=2)
    early = Resource("WBUF", np.zeros(128, np.uint8), 0, dram=0)
    items = [Item("POST", {}, 0), Item("STORE", {}, 0, writes=[("DRAM", 0, 100)]), Item("GEMM", {}, 0, needs={"wt": (late, 0)}),
             Item("GEMM", {}, 0, needs={"wt": (early, 0)})]
    out = Prefetcher(items, None, {"WBUF": (0, 64)}, ["layer"]).run()
    assert [i.op for i in out] == ["POST", "STORE", "LOAD", "LOAD", "GEMM", "GEMM"]
    load = out[2]
    assert load.reads == [("DRAM", 4, 12), ("DRAM", 36, 44)] and load.fields["n1"] == 2 and load.fields["s1"] == 32
    assert conflict(out[1], load)


def test_padding_after_the_last_row():
    """diffusers' downsampling: nothing before the first row, one row of zeros after the last."""
    rng, graph = np.random.default_rng(5), Graph()
    weight, x = rng.standard_normal((4, 3, 3, 3)), rng.standard_normal((1, 3, 8, 8))
    attrs = {"weight": weight, "bias": None, "stride": 2, "pad": 0, "pad_end": 1}
    graph.output = graph.add(Node("y", "conv", [graph.add(Node("x", "input", [], (3, 8, 8)))], (4, 4, 4), attrs))
    want = F.conv2d(F.pad(torch.tensor(x), (0, 1, 0, 1)), torch.tensor(weight), stride=2)
    assert np.abs(evaluate(verify(graph), x, 0, [0]).numpy() - want.numpy()).max() < 1e-5


@pytest.mark.parametrize("fine", [0, 3])
def test_layer_norm_takes_its_own_channels_alone(fine):
    """40 channels are two and a half blocks; the other half of the third one is not theirs, and not zero."""
    program, rng = TiledProgram(SMALL), np.random.default_rng(fine)
    x = program.tensor("x", (40, 4, 4), SCALE, fine=fine)
    out = program.layer_norm(x, 1e-6, SCALE, "n")
    code, values = program.finish(), noise(rng, (48, 4, 4), fine)
    image = program.image.finish()
    values[40:] += 50
    put(image, x, values)
    machine = Machine(program.config, image)
    machine.run(*code)
    real = torch.tensor(values[:40] * x.unit[0])
    want = F.layer_norm(real.movedim(0, -1), (40,), eps=1e-6).movedim(-1, 0).numpy()
    assert sqnr_db(want, get(machine.dram[0], out) * SCALE) > 38.0


def test_pieces_are_balanced():
    assert balanced(16, 7) == [(0, 6), (6, 6), (12, 4)] and balanced(8, 8) == [(0, 8)] and balanced(5, 1)[-1] == (4, 1)


def test_plan_keeps_within_the_memories():
    attrs = {"weight": np.zeros((256, 384, 3, 3)), "bias": None, "stride": 1, "pad": 1}
    for size in (4, 8, 16, 32, 64, 128):
        node = Node("n", "conv", [], (256, size, size), attrs)
        plan = plan_tiles(EngineConfig(), Layer(node, (16, 8), (384, size, size), False, True, True))
        rows = plan.tiles[0][1]
        assert sum(n for _, n in plan.tiles) == size and plan.ring + 4 * rows * size <= 4096
        assert plan.at_once * 2 * rows * size <= 2048
        assert sum(blocks for _, _, blocks in plan.slices) == 24


def test_refusals():
    attrs = {"weight": np.zeros((16, 16, 3, 3)), "bias": None, "stride": 1, "pad": 1}
    node = Node("wide", "conv", [], (16, 4, 128), attrs)
    with pytest.raises(CompileError, match="wide.*128 pixels"):
        plan_tiles(TINY, Layer(node, (1,), (16, 4, 128), False, False, False))
    program = TiledProgram(SMALL)
    x = program.tensor("x", (16, 4, 4), SCALE)
    with pytest.raises(CompileError, match="no statistics"):
        program.conv("c", [x], attrs, SCALE, norm=(norm_of(np.random.default_rng(0), 16, 4), SCALE))
    with pytest.raises(CompileError, match="5 groups"):
        program.conv("c", [program.tensor("s", (16, 4, 4), SCALE, 0)], attrs, SCALE, norm=(norm_of(np.random.default_rng(0), 16, 5), SCALE))
    with pytest.raises(CompileError, match="not in the same ratio at all steps"):
        steps = TiledProgram(SMALL, steps=2)
        parts = [steps.tensor("x", (16, 4, 4), SCALE), steps.tensor("y", (16, 4, 4), [SCALE, 2 * SCALE])]
        steps.conv("c", parts, dict(attrs, weight=np.zeros((16, 32, 3, 3))), SCALE)
    with pytest.raises(CompileError, match="16 output channels"):
        program.conv("c", [x], attrs, None)
    with pytest.raises(CompileError, match="multiples of 16"):
        z, norm = program.tensor("z", (16, 3, 3), SCALE, 0), norm_of(np.random.default_rng(0), 16, 4, None)
        scales = dict.fromkeys(["q", "k", "v", "mix", "out"], SCALE)
        program.attention("a", z, (norm, SCALE), {k: (np.zeros((16, 16)), np.zeros(16)) for k in "qkvo"}, scales)
