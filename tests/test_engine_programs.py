"""Whole programs on the rtl device against the golden machine: every instruction, all queues at once."""

import numpy as np
import pytest

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.cores.regs import TRACE_FIELDS
from litediffusion.sw.cli.network import board_engine
from litediffusion.sw.devices.exercise import REGISTERS, WINDOW_SIZE, make_exercise
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.devices.rtl import GUARD_BYTES, RtlDevice

CONFIG = PRESETS["ecpix5"]
TRACE = 0xF0000


NARROW = board_engine("ecpix5", "ecpix5")               # POST on one lane, no trace
SMALL = board_engine("colorlight_i9", "colorlight")     # the same, half an array, accumulators in one bank


def devices(stall=0.0, seed=1, config=CONFIG):
    return RtlDevice(config, WINDOW_SIZE, stall=stall, seed=seed), ModelDevice(config, WINDOW_SIZE)


def run_both(rtl, model, exercise, **more):
    """Run an exercise on both and compare the windows; the rtl's counters."""
    for device in (rtl, model):
        device.write(0, exercise.data)
    model.run_program(0, exercise.length, **REGISTERS)
    counters = rtl.run_program(0, exercise.length, **REGISTERS, **more)
    wrong = np.flatnonzero(rtl.memory[:TRACE] != model.memory[:TRACE])
    assert not len(wrong), f"{len(wrong)} bytes differ, first at {wrong[0]:#x}"
    assert not rtl.dram[:GUARD_BYTES].any() and not rtl.dram[-GUARD_BYTES:].any(), "written outside the window"
    return counters


@pytest.mark.parametrize("seed", range(100, 112))
def test_random_programs(seed):
    rtl, model = devices(stall=(0, 0.05, 0.4)[seed % 3], seed=seed)
    run_both(rtl, model, make_exercise(CONFIG, seed, instructions=200))


@pytest.mark.parametrize("config", [NARROW, SMALL], ids=["narrow", "small"])
@pytest.mark.parametrize("seed", range(120, 123))
def test_random_programs_on_the_boards_engines(seed, config):
    """One lane of POST, no trace unit."""
    rtl, model = devices(stall=(0, 0.05, 0.4)[seed % 3], seed=seed, config=config)
    assert run_both(rtl, model, make_exercise(config, seed, instructions=200), trace=(TRACE, 1024))["trace_count"] == 0


@pytest.mark.parametrize("ops", [("POST", "NORM", "SAMPLE"), ("GEMM", "POST"), ("GEMM",), ("NORM", "POST", "LOAD"), ("SAMPLE", "STORE")])
def test_few_kinds_of_instructions(ops):
    """Long runs within one queue and between two of them."""
    run_both(*devices(), make_exercise(CONFIG, len(ops) + len(ops[0]), instructions=200, ops=ops))


def test_programs_back_to_back():
    """The second program finds no tokens, errors or counts of the first one; the memories stay."""
    rtl, model = devices()
    alone = run_both(*devices(), make_exercise(CONFIG, 7))
    run_both(rtl, model, make_exercise(CONFIG, 6))
    after = run_both(rtl, model, make_exercise(CONFIG, 7))
    same = [name for name in alone if name.endswith("_descriptors") or name in ("mac_cycles", "mac_cycles_w4", "dram_reads", "dram_writes")]
    assert {n: alone[n] for n in same} == {n: after[n] for n in same}


def test_counters():
    exercise = make_exercise(CONFIG, 11, instructions=100)
    counters = run_both(*devices(), exercise)
    gemms = [i.fields for i in exercise.items if i.op == "GEMM"]
    macs = lambda d: d["ng"] * d["nkb"] * d["nky"] * d["nkx"] * d["noy"] * d["nox"]
    assert counters["mac_cycles"] == sum(map(macs, gemms))
    assert counters["mac_cycles_w4"] == sum(macs(d) for d in gemms if d.get("w4"))
    for queue in isa.QUEUES:
        name = queue.lower()
        assert counters[f"{name}_descriptors"] == sum(i.queue == queue for i in exercise.items)
        assert counters[f"{name}_wait_dram"] <= counters[f"{name}_busy"]
        assert counters[f"{name}_busy"] + counters[f"{name}_wait_token"] <= counters["cycles"]
    transferred = lambda op: sum(i.fields["n0"] * i.fields["n1"] * i.fields["n2"] for i in exercise.items
                                 if i.op == op and not i.fields.get("pad"))
    assert counters["dram_writes"] == transferred("STORE")
    assert counters["dram_reads"] >= transferred("LOAD") + 4 * exercise.length


def records(rtl, count):
    """The trace as a list of dicts."""
    out = []
    for k in range(count):
        word = int.from_bytes(rtl.read(TRACE + 16 * k, 16), "little")
        record = {}
        for name, bits in TRACE_FIELDS:
            record[name], word = word & ((1 << bits) - 1), word >> bits
        out.append(record)
    return out


@pytest.mark.parametrize("size", [0x10000, 64])
def test_trace(size):
    """A record for every descriptor but END, in the order of each queue; a full buffer drops and counts the rest."""
    exercise = make_exercise(CONFIG, 12, instructions=60)
    rtl, model = devices()
    counters = run_both(rtl, model, exercise, trace=(TRACE, size))
    total = exercise.length - 1
    kept = min(total, size // 16)
    assert (counters["trace_count"], counters["trace_dropped"]) == (kept, total - kept)
    trace = records(rtl, kept)
    for k, queue in enumerate(isa.QUEUES):
        mine = [r for r in trace if r["queue"] == k]
        assert [r["index"] for r in mine] == [i for i, item in enumerate(exercise.items) if item.queue == queue][:len(mine)]
        assert all(r["start"] <= r["end"] <= counters["cycles"] for r in mine)
        assert all(a["end"] <= b["end"] for a, b in zip(mine, mine[1:]))
    if kept == total:
        assert sorted(r["index"] for r in trace) == list(range(total))
        assert max(r["end"] for r in trace) > 0.9 * counters["cycles"]
        assert any(r["wait_token"] for r in trace) and any(r["wait_dram"] for r in trace)
    after = TRACE + 16 * kept
    assert rtl.read(after, 64) == exercise.data[after:after + 64], "written past the records"
