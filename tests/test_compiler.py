"""Compiler and quantiser: integer results near float, tokens that order every conflict, refusals with names."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from litediffusion.cores import isa
from litediffusion.cores.machine import Machine
from litediffusion.sw.compiler.image import Image
from litediffusion.sw.compiler.items import CompileError, Item, Pool, Resource
from litediffusion.sw.compiler.layer_program import compile_layer
from litediffusion.sw.compiler.prefetch import Prefetcher
from litediffusion.sw.compiler.records import fixed, quantise_weights, weight_tiles
from litediffusion.sw.compiler.sync import assign_tokens
from litediffusion.sw.pipeline import compile_model, import_model
from litediffusion.sw.sources import ModelSource, load_model
from litediffusion.sw.latents import float_latents, pack_latents
from litediffusion.sw.reference import evaluate


def sqnr_db(want, got):
    return 10 * np.log10((want ** 2).mean() / ((want - got) ** 2).mean())


def run_eval(program, config, x, step, labels):
    """eps [B, 1, 16, 16] float of the integer program for latents x (float)."""
    b, meta = len(x), program.meta
    window = np.zeros((b, meta["image_bytes"]), np.uint8)
    window[:, meta["image_base"]:meta["image_base"] + len(program.image)] = program.image
    at, size = meta["buffers"]["latent"], 16 * 16 * 16
    window[:, at:at + size] = pack_latents(x)
    machine = Machine(config, window)
    machine.set_registers(step=step, label=labels)
    machine.run(*meta["programs"]["eval"])
    at = meta["buffers"]["eps"]
    return float_latents(machine.dram[:, at:at + size], (1, 16, 16))


# Float against integer. 8-bit activations through 60 layers give about 30 dB, 4-bit weights about 6 dB less a bit.
@pytest.mark.parametrize("options, limit", [({}, 26.0), ({"per_step": False}, 24.0), ({"bits": 4}, 12.0)])
def test_quantised_network_is_near_float(digits, ranges, config, options, limit):
    program = compile_model(digits, steps=4, ranges=ranges, **options)
    graph, _ = import_model(digits, 4)
    rng, labels = np.random.default_rng(0), np.array([2, 10])
    for step in (0, 2):
        x = rng.standard_normal((2, 1, 16, 16))
        want = evaluate(graph, x, step, labels).numpy()
        assert sqnr_db(want, run_eval(program, config, x, step, labels)) > limit


@pytest.mark.parametrize("outputs, inputs, kernel, size, part, bits, stride", [
    (64, 64, 3, 16, 16, 8, 1), (32, 48, 3, 8, 16, 4, 1), (24, 32, 3, 8, 32, 8, 2), (16, 16, 1, 24, 16, 8, 1),
    (64, 1024, 1, 8, 128, 8, 1), (8, 16, 5, 9, 16, 8, 1), (48, 16, 3, 4, 16, 4, 1)])
def test_single_layers(config, outputs, inputs, kernel, size, part, bits, stride):
    rng = np.random.default_rng(outputs + inputs)
    weight = rng.standard_normal((outputs, inputs, kernel, kernel)) / np.sqrt(inputs * kernel ** 2)
    pad = kernel // 2
    image, program, x_at, y_at, shape = compile_layer(config, weight, None, (inputs, size, size), bits=bits, part=part, pad=pad,
                                                      stride=stride, s_x=1 / 40, s_out=1 / 20)
    x = np.clip(np.round(rng.standard_normal((inputs, size, size)) * 40), -128, 127).astype(np.int8)
    image[x_at:x_at + x.size] = x.reshape(-1, 16, size * size).transpose(0, 2, 1).reshape(-1).view(np.uint8)
    machine = Machine(config, image)
    machine.run(*program)
    blocks = -(-outputs // 16)
    y = machine.dram[0, y_at:y_at + blocks * 16 * shape[1] * shape[2]].view(np.int8).reshape(blocks, -1, 16).transpose(0, 2, 1)
    y = y.reshape(blocks * 16, shape[1], shape[2])[:outputs] / 20
    q, scale = quantise_weights(weight, bits)
    want = F.conv2d(torch.tensor(x[None] / 40.0), torch.tensor(q * scale[:, None, None, None]), padding=pad, stride=stride)[0].numpy()
    assert np.abs(np.clip(want, -6.4, 6.35) - y).max() < 0.55 / 20          # half a unit and the multiplier's rounding


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-6, 3e4), min_size=8, max_size=8))
def test_fixed_multipliers(values):
    real = np.array(values)
    m, shift = fixed(real, "test")
    assert (np.abs(m) <= 32767).all() and np.abs(m * 2.0 ** -shift - real).max() <= max(real.max() * 2.0 ** -14, 2.0 ** -47)


@pytest.mark.parametrize("words, moves", [(4096, False), (2048, False), (1280, True), (1100, True)])
def test_small_scratchpads_give_the_same_result(digits, ranges, config, program, words, moves, monkeypatch):
    """With less room on chip, activations go to DRAM and back; the integers stay the same."""
    limited = lambda size, base=0: Pool(min(size, words) if size > 1000 and base == 0 else size, base)
    monkeypatch.setattr("litediffusion.sw.compiler.state.Pool", limited)
    other = compile_model(digits, steps=4, ranges=ranges)
    assert any(op == "STORE" and d["idx0"] == 0 for op, d in items_of(other)) == moves
    x, labels = np.random.default_rng(3).standard_normal((2, 1, 16, 16)), np.array([4, 10])
    assert (run_eval(other, config, x, 1, labels) == run_eval(program, config, x, 1, labels)).all()


def test_a_layer_that_does_not_fit_is_named(digits, ranges, config):
    with pytest.raises(CompileError, match=r"layer down0\.conv2: needs 257 words"):
        compile_model(digits, steps=4, ranges=ranges, config=replace(config, spm_words=1024), tiled=False)


def test_a_network_that_does_not_fit_is_compiled_for_dram(digits, ranges, config):
    """The same network with its activations in DRAM: near float as well."""
    small = replace(config, spm_words=1024)
    with pytest.raises(CompileError):
        compile_model(digits, steps=4, ranges=ranges, config=small, tiled=False)
    program = compile_model(digits, steps=4, ranges=ranges, config=small)
    graph, _ = import_model(digits, 4)
    x, labels = np.random.default_rng(0).standard_normal((2, 1, 16, 16)), np.array([2, 10])
    assert sqnr_db(evaluate(graph, x, 1, labels).numpy(), run_eval(program, small, x, 1, labels)) > 26.0


class Concats(torch.nn.Module):
    """Concats of odd widths that share a part."""

    def __init__(self):
        super().__init__()
        conv = lambda i, o: torch.nn.Conv2d(i, o, 3, padding=1)
        self.a, self.b, self.c = conv(1, 24), conv(1, 8), conv(1, 8)
        self.ab, self.bc, self.out = conv(32, 16), conv(16, 16), conv(32, 1)

    def forward(self, x, t, y):
        a, b, c = self.a(x), self.b(x), self.c(x)
        return self.out(torch.cat([self.ab(torch.cat([a, b], 1)), self.bc(torch.cat([b, c], 1))], 1))


def test_concats_of_odd_widths_that_share_parts(config):
    torch.manual_seed(3)
    model = Concats().eval()
    with torch.no_grad():
        model.a.weight *= 20                          # scales that differ widely unless they are joined
    source = ModelSource(model, (1, 16, 16), 1, 0, "concats")
    program = compile_model(source, steps=2, images=4)
    graph, table = import_model(source, 2)
    x = np.random.default_rng(0).standard_normal((2, 1, 16, 16))
    want = evaluate(graph, x, 0, [0, 0]).numpy()
    assert sqnr_db(np.clip(want, -8, 8), run_eval(program, config, x, 0, [0, 0])) > 15      # range of the latents: +-8


def test_programs_that_outgrow_the_window_are_refused(digits, config):
    graph, table = import_model(digits, 1000)
    assert compile_model(digits, steps=300, ranges={n: np.ones(300) for n in graph.nodes}).meta["batch"] < 16
    with pytest.raises(CompileError, match=r"needs [\d,]+ bytes of DRAM.*fewer steps"):
        compile_model(digits, steps=1000, ranges={n: np.linspace(1, 2, 1000) for n in graph.nodes})


def test_fixed_refuses_broken_scales():
    with pytest.raises(CompileError, match="NaN"):
        fixed(np.array([np.nan] * 8), "layer a")
    with pytest.raises(CompileError, match="limit 32767"):
        fixed(np.array([1e9] * 8), "layer a")


def test_four_bit_tiles_hold_both_halves():
    q = np.random.default_rng(0).integers(-7, 8, (32, 16, 1, 1)).astype(np.int8)
    tile = weight_tiles(q, 1, 1, range(0, 1), True).reshape(8, 16)
    assert ((tile << 4).astype(np.int8) >> 4 == q[16:24, :, 0, 0]).all() and (tile.view(np.int8) >> 4 == q[24:32, :, 0, 0]).all()


def items_of(program):
    """Decoded items of the digits network with their token fields, in program order."""
    at, length = program.meta["programs"]["eval"]
    code = program.image[at - program.meta["image_base"]:].tobytes()
    return [isa.decode(code[i * 64:i * 64 + 64]) for i in range(length)]


def test_tokens_balance(program):
    """Every token that is added is taken: a program leaves all counters at zero and never waits in vain in order."""
    count = [0] * isa.TOKENS
    for _, d in items_of(program):
        for i in range(3):
            if d[f"wait{i}_n"]:
                count[d[f"wait{i}"]] -= d[f"wait{i}_n"]
                assert count[d[f"wait{i}"]] >= 0
        for i in range(3):
            if d[f"add{i}_n"]:
                count[d[f"add{i}"]] += d[f"add{i}_n"]
    assert count == [0] * isa.TOKENS


def random_items(rng, n):
    queues = {"LOAD": "LOAD", "GEMM": "GEMM", "POST": "POST", "STORE": "STORE"}
    out = []
    for _ in range(n):
        span = lambda: [("SPM", int(a), int(a) + 2) for a in rng.integers(0, 12, rng.integers(0, 3))]
        out.append(Item(queues[rng.choice(list(queues))], {}, 0, span(), span()))
    return out


@pytest.mark.parametrize("seed", range(20))
def test_tokens_order_every_conflict(seed, conflict):
    """Whatever order the queues run in, conflicting instructions keep their order (checked by happens-before sets)."""
    items = random_items(np.random.default_rng(seed), 60)
    assign_tokens(items)
    before = [set() for _ in items]                 # indices that are surely complete when item i starts
    given = {}                                      # token -> producers in order
    last = {}
    for i, item in enumerate(items):
        if item.queue in last:
            before[i] |= before[last[item.queue]] | {last[item.queue]}
        for k in range(3):
            if item.fields.get(f"wait{k}_n"):
                producer = given[item.fields[f"wait{k}"]].pop(0)
                before[i] |= before[producer] | {producer}
        for k in range(3):
            if item.fields.get(f"add{k}_n"):
                given.setdefault(item.fields[f"add{k}"], []).append(i)
        last[item.queue] = i
    for i, item in enumerate(items):
        for j in range(i):
            if conflict(items[j], item):
                assert j in before[i], f"{j} {items[j]} is not ordered before {i} {item}"


def test_pool_never_overlaps():
    rng, pool, live = np.random.default_rng(1), Pool(64, 8), {}
    for _ in range(500):
        if live and rng.random() < 0.5:
            start = list(live)[rng.integers(len(live))]
            pool.free(start)
            del live[start]
        elif (start := pool.alloc(n := int(rng.integers(1, 20)))) is not None:
            assert 8 <= start and start + n <= 72 and all(start + n <= a or a + m <= start for a, m in live.items())
            live[start] = n


def test_constants_that_do_not_fit_name_the_layer():
    resource = Resource("WBUF", np.zeros(64 * 16, np.uint8), 0)
    image = Image(1)
    image.place([resource])
    item = Item("GEMM", {}, 0, needs={"wt": (resource, 0)})
    with pytest.raises(CompileError, match=r"layer big.*WBUF of 32"):
        Prefetcher([item], image, {"WBUF": (0, 32)}, ["big"]).run()


def test_tensors_that_do_not_fit_name_the_layer(config):
    weight = np.zeros((512, 16, 1, 1))
    with pytest.raises(CompileError, match="layer y: needs 8224 words"):
        compile_layer(config, weight, None, (16, 16, 16))


def test_bits_and_labels_are_checked(digits, ranges, program):
    from litediffusion.sw.pipeline import make_job
    with pytest.raises(CompileError, match="bits=5"):
        compile_model(digits, steps=4, ranges=ranges, bits=5)
    with pytest.raises(ValueError, match=r"label 11: the model knows 0\.\.9"):
        make_job(program, [11], [0])
    with pytest.raises(ValueError, match="seed"):
        make_job(program, [1], [1 << 64])
    with pytest.raises(ValueError, match="unknown"):
        load_model("nothing")
