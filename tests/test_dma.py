"""LOAD and STORE on the rtl device against the golden machine: random and edge transfers, stalls, order, rate, window."""

import numpy as np
import pytest

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.sw.devices.base import EngineStopped
from litediffusion.sw.devices.exercise import REGISTERS, WINDOW_SIZE, make_exercise
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.devices.rtl import GUARD_BYTES, RtlDevice

CONFIG = PRESETS["ecpix5"]
L2S, S2L = isa.TOKEN_NAMES.index("L2S"), isa.TOKEN_NAMES.index("S2L")
DATA, OUT = 0x10000, 0x80000
DUMP = {"dram": OUT, "n0": 1, "n1": 2, "n2": 2048, "s1": 2048, "d1": 2048, "wait0": L2S, "wait0_n": 1}


def window(seed, program):
    """Random window with a program at its start."""
    data = np.random.default_rng(seed).integers(0, 256, WINDOW_SIZE).astype(np.uint8)
    encoded = b"".join(isa.encode(op, **fields) for op, fields in program)
    data[:len(encoded)] = np.frombuffer(encoded, np.uint8)
    return data.tobytes(), len(program)


def compare(program, seed=1, stall=0.0, **registers):
    """Run on both devices and compare the window; the rtl's counters."""
    data, length = window(seed, program)
    rtl, model = RtlDevice(CONFIG, WINDOW_SIZE, stall=stall, seed=seed), ModelDevice(CONFIG, WINDOW_SIZE)
    for device in (rtl, model):
        device.write(0, data)
    model.run_program(0, length, **registers)
    counters = rtl.run_program(0, length, **registers)
    wrong = np.flatnonzero(rtl.memory != model.memory)
    assert not len(wrong), f"{len(wrong)} bytes differ, first at {wrong[0]:#x}; seed {seed}, stall {stall}"
    assert not rtl.dram[:GUARD_BYTES].any() and not rtl.dram[-GUARD_BYTES:].any(), "written outside the window"
    return counters


def load(**fields):
    return "LOAD", {"dram": DATA, "n0": 1, "n1": 1, "n2": 1, "add0": L2S, "add0_n": 1, **fields}


END = ("END", {})


@pytest.mark.parametrize("seed", range(8))
def test_random_transfers(seed):
    exercise = make_exercise(CONFIG, seed, instructions=120, ops=("LOAD", "STORE"))
    rtl, model = RtlDevice(CONFIG, WINDOW_SIZE, stall=(0, 0.1, 0.5, 0.9)[seed % 4], seed=seed + 1), ModelDevice(CONFIG, WINDOW_SIZE)
    for device in (rtl, model):
        device.write(0, exercise.data)
        device.run_program(0, exercise.length, **REGISTERS)
    assert np.array_equal(rtl.memory, model.memory)


@pytest.mark.parametrize("y0,x0,h,w", [(0, 0, 4, 5), (-1, -1, 4, 5), (1, 1, 6, 7), (-4, 0, 4, 5), (-2048, 0, 4, 5), (0, -2048, 4, 5),
                                       (2047, 2047, 4095, 4095), (0, 0, 0, 5), (0, 0, 4, 0), (-3, -4, 1, 1)])
def test_padding(y0, x0, h, w):
    """Corners of the image, images of no size, and offsets at the ends of their fields."""
    stride = 0 if y0 > 1000 else 9
    compare([load(n0=2, n1=4, n2=5, s0=100, s1=stride, d0=24, d1=6, addr=7, pad=1, y0=y0, x0=x0, h=h, w=w), ("STORE", DUMP), END],
            stall=0.2)


def test_index_registers_wrap_at_32_bits():
    """Bytes are added modulo 2^32; every register, also at its highest value."""
    stride = (1 << 28) - 16
    for name, register in (("STEP", "step"), ("LABEL", "label"), ("SLOT", "slot"), ("IMAGE", "image")):
        for value in (0, 1, 5, 65535):
            base = (DATA - stride * value - 32 * 3) % 2**32
            compare([load(dram=base, idx0=isa.INDEX[name], idx0_stride=stride, idx1=isa.INDEX["LABEL" if name != "LABEL" else "STEP"],
                          idx1_stride=32, n2=40), ("STORE", DUMP), END],
                    **{register: value, ("label" if name != "LABEL" else "step"): 3})


def test_chip_addresses_wrap_at_16_bits():
    compare([load(n0=3, n1=2, n2=10, addr=100, d0=0xFFF0, d1=16, s1=10), ("STORE", DUMP), END])


@pytest.mark.parametrize("mem,size", [("SPM", CONFIG.spm_words), ("WBUF", CONFIG.wbuf_words), ("PARAM", 4 * CONFIG.param_words)])
def test_last_word_of_each_memory(mem, size):
    compare([load(n2=3, addr=size - 3, mem=isa.MEM[mem]), ("STORE", DUMP), END])
    with pytest.raises(EngineStopped, match="BUFFER_RANGE"):
        compare([load(n2=3, addr=size - 2, mem=isa.MEM[mem]), END])


@pytest.mark.parametrize("stall", [0, 0.3, 0.8])
def test_load_after_store_reads_what_was_written(stall):
    """The token makes a LOAD on one DRAM port wait for a STORE on another: 30 words go round and round."""
    program = [load(n2=30)]
    for k in range(6):
        program.append(("STORE", {"dram": OUT + 0x100 * k, "n0": 1, "n1": 1, "n2": 30, "addr": 40 * k, "wait0": L2S, "wait0_n": 1,
                                  "add0": S2L, "add0_n": 1}))
        program.append(load(dram=OUT + 0x100 * k, n2=30, addr=40 * (k + 1), wait0=S2L, wait0_n=1))
    compare([*program, ("STORE", DUMP), END], stall=stall, seed=5)


@pytest.mark.parametrize("seed", range(1, 9))
def test_load_of_the_last_stored_word(seed):
    """The word whose command the DRAM accepted last is read at once by the other port."""
    program = []
    for k in range(8):
        program.append(("STORE", {"dram": OUT, "n0": 1, "n1": 1, "n2": 6, "addr": 6 * k, "wait0": L2S, "wait0_n": 1,
                                  "add0": S2L, "add0_n": 1}))
        program.append(load(dram=OUT + 5 * 16, addr=100 + k, wait0=S2L, wait0_n=1))
    compare([load(n2=100), *program, ("STORE", DUMP), END], stall=0.95, seed=seed)


def test_rate_of_long_loads():
    """Sixteen LOADs of 256 consecutive words take at most 6 % more than one of 4096: what the DRAM gives.

    The difference is the program's own words: they lie in the bank of the data, so every one costs changes of row."""
    dump = dict(DUMP, wait0_n=1)
    one = compare([load(n1=2, n2=2048, s1=2048, d1=2048), ("STORE", dump), END])
    loads = [load(dram=DATA + 4096 * k, n2=256, addr=256 * k, add0_n=int(k == 15)) for k in range(16)]
    many = compare([*loads, ("STORE", dump), END])
    assert one["load_busy"] < 2.3 * 4096
    assert many["load_busy"] < 1.06 * one["load_busy"]
    assert one["dram_reads"] == 4096 + 3 * 4 and one["dram_writes"] == 4096


@pytest.mark.parametrize("op", ["LOAD", "STORE"])
@pytest.mark.parametrize("fields", [
    {"dram": WINDOW_SIZE - 32, "n2": 3}, {"dram": 0xFFFFFFF0, "n2": 1}, {"dram": WINDOW_SIZE, "n2": 1},
    {"dram": 0xFFFFFFF0, "n2": 2}, {"dram": DATA, "n0": 4095, "s0": 0xFFFFFF, "n2": 1},
    {"dram": 0, "n0": 2, "n1": 17, "s0": 0xFFFFFF, "s1": 0xFFFFFF, "n2": 1},
    {"dram": DATA, "idx0": isa.INDEX["STEP"], "idx0_stride": 1 << 20, "n2": 1},
])
def test_nothing_outside_the_window(op, fields):
    """Addresses past the window stop the engine with DRAM_WINDOW, also where a 32-bit sum would come back inside."""
    data, length = window(3, [(op, {"n0": 1, "n1": 1, **fields}), END])
    for device in (ModelDevice(CONFIG, WINDOW_SIZE), RtlDevice(CONFIG, WINDOW_SIZE)):
        device.write(0, data)
        with pytest.raises(EngineStopped) as caught:
            device.run_program(0, length, step=1)
        error = caught.value
        assert (error.name, error.queue, error.index) == ("DRAM_WINDOW", op, 0)
    assert not device.dram[:GUARD_BYTES].any() and not device.dram[-GUARD_BYTES:].any()
    device.check_protocol()


def test_last_words_of_the_window():
    dump = dict(DUMP, n1=1, n2=2, dram=WINDOW_SIZE - 32)
    compare([load(dram=WINDOW_SIZE - 48, n2=3), ("STORE", dump), END])
