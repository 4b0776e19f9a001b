"""Errors of the engine: code, queue, descriptor and token, then a reset and a good program."""

import numpy as np
import pytest

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.sw.devices.base import EngineStopped
from litediffusion.sw.devices.errors import AddressError
from litediffusion.sw.devices.exercise import REGISTERS, WINDOW_SIZE, make_exercise
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.devices.rtl import GUARD_BYTES, STATUS, RtlDevice

CONFIG = PRESETS["ecpix5"]
GOOD = make_exercise(CONFIG, 3, instructions=20)
NONE = isa.TOKENS

LOAD = {"dram": 0x10000, "n0": 1, "n1": 2, "n2": 60, "s1": 60, "d1": 60}
STORE = {"dram": 0x80000, "n0": 1, "n1": 1, "n2": 60}
GEMM = {"ng": 1, "nkb": 1, "nky": 1, "nkx": 1, "noy": 4, "nox": 4, "xw": 4, "h": 4, "w": 4, "wts": 8}
POST = {"n0": 1, "n1": 1, "n2": 8, "as2": 1, "dst": 1, "d": 100, "ds2": 1}
NORM = {"rows": 1, "ngroups": 2, "count": 4}
SAMPLE = {"n": 4, "nch": 8, "x": 0, "e": 10, "u": 20, "m": 30, "d": 40, "md": 50}
FIELDS = {"LOAD": LOAD, "STORE": STORE, "GEMM": GEMM, "POST": POST, "NORM": NORM, "SAMPLE": SAMPLE, "END": {}}


@pytest.fixture
def rtl():
    return RtlDevice(CONFIG, WINDOW_SIZE)


def run(device, program, length=None, **registers):
    data = b"".join(d if isinstance(d, bytes) else isa.encode(d[0], **d[1]) for d in program)
    device.write(0, data)
    return device.run_program(0, length or len(program), **{"watchdog": 5000, **registers})


def stopped(device, program, **more):
    """(code name, queue, index, token) with which a program stops."""
    with pytest.raises(EngineStopped) as caught:
        run(device, program, **more)
    return caught.value.name, caught.value.queue, caught.value.index, caught.value.token


def recovers(rtl):
    """A good program runs as on a fresh model, and nothing was written outside the window."""
    model = ModelDevice(CONFIG, WINDOW_SIZE)
    for device in (rtl, model):
        device.write(0, GOOD.data)
        device.run_program(0, GOOD.length, **REGISTERS)
    assert np.array_equal(rtl.memory, model.memory)
    assert not rtl.dram[:GUARD_BYTES].any() and not rtl.dram[-GUARD_BYTES:].any()


def both(rtl, program, **more):
    """The error, the same on rtl and model; then the rtl recovers."""
    error = stopped(rtl, program, **more)
    model = ModelDevice(CONFIG, WINDOW_SIZE)
    assert error == stopped(model, program, **more)
    recovers(rtl)
    return error


def legal(op):
    return (op, FIELDS[op])


@pytest.mark.parametrize("opcode", [0, 8, 255])
def test_bad_opcode(rtl, opcode):
    program = [legal("LOAD"), bytes([opcode]) + bytes(63), legal("END")]
    assert both(rtl, program) == ("BAD_OPCODE", "FETCH", 1, NONE)


@pytest.mark.parametrize("op,broken", [
    ("LOAD", {"n0": 0}), ("LOAD", {"n1": 0}), ("LOAD", {"n2": 0}), ("LOAD", {"mem": 3}), ("LOAD", {"idx0": 5}), ("LOAD", {"idx1": 7}),
    ("LOAD", {"dram": 8}), ("LOAD", {"idx0_stride": 1}), ("LOAD", {"idx1_stride": 24}), ("STORE", {"mem": 1}), ("STORE", {"n2": 0}),
    ("GEMM", {"ng": 0}), ("GEMM", {"nkb": 0}), ("GEMM", {"nky": 0}), ("GEMM", {"nkx": 0}), ("GEMM", {"noy": 0}), ("GEMM", {"nox": 0}),
    ("POST", {"n0": 0}), ("POST", {"src": 3}), ("POST", {"dst": 3}), ("POST", {"rop": 3}), ("POST", {"act": 6}),
    ("POST", {"row_loop": 3}), ("NORM", {"ngroups": 0}), ("NORM", {"count": 0}), ("SAMPLE", {"n": 0}), ("SAMPLE", {"nch": 0}),
    ("SAMPLE", {"nch": 9}), ("END", {"wait0_n": 1}), ("END", {"add2_n": 1}),
])
def test_bad_field(rtl, op, broken):
    assert both(rtl, [legal("LOAD"), (op, {**FIELDS[op], **broken}), legal("END")]) == ("BAD_FIELD", "FETCH", 1, NONE)


@pytest.mark.parametrize("op", isa.OPS)
def test_bits_after_the_last_field(rtl, op):
    """The first and the last bit that no field uses."""
    used = sum(f.bits for f in isa.FIELDS[op])
    for bit in {used, isa.DESC_BITS - 1}:
        word = int.from_bytes(isa.encode(op, **FIELDS[op]), "little") | 1 << bit
        assert both(rtl, [word.to_bytes(64, "little"), legal("END")]) == ("BAD_FIELD", "FETCH", 0, NONE)


@pytest.mark.parametrize("op,broken", [
    ("LOAD", {"addr": CONFIG.spm_words - 119}), ("LOAD", {"mem": isa.MEM["WBUF"], "addr": CONFIG.wbuf_words - 119}),
    ("LOAD", {"mem": isa.MEM["PARAM"], "addr": 4 * CONFIG.param_words - 119}), ("STORE", {"addr": CONFIG.spm_words - 59}),
    ("GEMM", {"x": CONFIG.spm_words - 15}), ("GEMM", {"wt": CONFIG.wbuf_words - 7}), ("GEMM", {"acc": 2 * CONFIG.acc_words - 15}),
    ("POST", {"a": 2 * CONFIG.acc_words - 7}), ("POST", {"d": 2 * CONFIG.spm_words - 7}), ("POST", {"p": CONFIG.param_words}),
    ("POST", {"src": 1, "a": 2 * CONFIG.spm_words - 7}), ("POST", {"rop": 1, "r": 2 * CONFIG.spm_words}),
    ("POST", {"stat": 1, "stat_rec": CONFIG.stat_words}), ("NORM", {"row": CONFIG.row_words - 1}), ("NORM", {"p": CONFIG.param_words}),
    ("SAMPLE", {"x": CONFIG.spm_words - 3}), ("SAMPLE", {"md": CONFIG.spm_words - 3}), ("SAMPLE", {"p": CONFIG.param_words}),
])
def test_buffer_range(rtl, op, broken):
    """An address one past its memory, after a descriptor of the same kind that is legal."""
    program = [legal(op), (op, {**FIELDS[op], **broken}), legal("END")]
    assert both(rtl, program) == ("BUFFER_RANGE", isa.QUEUE_OF[op], 1, NONE)


def test_program_without_end(rtl):
    assert both(rtl, [legal("LOAD"), legal("STORE")]) == ("PROGRAM_END", "FETCH", 2, NONE)


def test_program_past_the_window(rtl):
    at = WINDOW_SIZE - 128
    for device in (rtl, ModelDevice(CONFIG, WINDOW_SIZE)):
        device.write(at, isa.encode("LOAD", **LOAD) * 2)
        with pytest.raises(EngineStopped) as caught:
            device.run_program(at, 3)
        assert (caught.value.name, caught.value.queue, caught.value.index) == ("DRAM_WINDOW", "FETCH", 2)
    recovers(rtl)


def test_prefetch_past_the_end_is_no_error(rtl):
    """END in the window's last descriptor, with a length that goes beyond it."""
    at = WINDOW_SIZE - 64
    rtl.write(at, isa.encode("END"))
    rtl.run_program(at, 100)


@pytest.mark.parametrize("op", ["LOAD", "GEMM", "POST", "STORE", "NORM", "SAMPLE"])
def test_token_that_never_comes(rtl, op):
    """WATCHDOG names queue, descriptor and token; queues that run on are finished first."""
    token = isa.TOKEN_NAMES.index("USER2")
    waits = {"wait0": 0, "wait0_n": 1, "wait1": token, "wait1_n": 3}
    program = [("LOAD", {**LOAD, "add0": 0, "add0_n": 1, "add1": token, "add1_n": 2}), legal("GEMM"), (op, {**FIELDS[op], **waits}),
               legal("STORE"), legal("END")]
    assert both(rtl, program) == ("WATCHDOG", isa.QUEUE_OF[op], 2, token)


def test_watchdog_reports_the_cause_not_its_victims(rtl):
    """STORE waits for POST, POST for GEMM, GEMM for a token that nobody adds: GEMM is named."""
    t = isa.TOKEN_NAMES.index
    program = [legal("LOAD"), ("GEMM", {**GEMM, "wait2": t("USER0"), "wait2_n": 1, "add0": t("G2P"), "add0_n": 1}),
               ("POST", {**POST, "wait0": t("G2P"), "wait0_n": 1, "add0": t("P2S"), "add0_n": 1}),
               ("STORE", {**STORE, "wait0": t("P2S"), "wait0_n": 1}), legal("END")]
    assert both(rtl, program) == ("WATCHDOG", "GEMM", 1, t("USER0"))


def test_watchdog_off(rtl):
    """With watchdog 0 a deadlock lasts; the queues' state can be read, and a reset ends it."""
    rtl.write(0, isa.encode("POST", **{**POST, "wait0": 14, "wait0_n": 2}) + isa.encode("END"))
    rtl.start(0, 2, watchdog=0)
    assert not rtl.run_cycles(20000, "done", "error")
    assert (rtl.get("post_index"), rtl.get("post_state"), rtl.get("load_state")) == (0, 0b1010, 0)
    assert rtl.get("status") == STATUS["busy"]
    rtl.set("reset", 1)
    rtl.run_cycles(100, "error", "done")
    assert rtl.get("status") == 0
    recovers(rtl)


@pytest.mark.parametrize("add", [15, 1])
def test_token_overflow(rtl, add):
    token = isa.TOKEN_NAMES.index("USER3")
    count = isa.TOKEN_LIMIT // add + 1
    program = [("STORE", {**STORE, "n2": 1, "add1": token, "add1_n": add})] * count + [legal("END")]
    assert both(rtl, program) == ("TOKEN_OVERFLOW", "STORE", count - 1, token)
    recovers(rtl)


def test_token_limit_is_no_overflow(rtl):
    token = isa.TOKEN_NAMES.index("USER3")
    run(rtl, [("STORE", {**STORE, "n2": 1, "add1": token, "add1_n": 15})] * 17 + [legal("END")])
    assert rtl.get("tokens3") >> 24 == 255


def test_waits_that_name_one_counter_twice(rtl):
    """Amounts add up: 2 + 3 of a counter that holds 5 is granted, of one that holds 4 not."""
    t = isa.TOKEN_NAMES.index("USER1")
    waits = {"wait0": t, "wait0_n": 2, "wait2": t, "wait2_n": 3}
    give = lambda n: ("LOAD", {**LOAD, "add0": t, "add0_n": n})
    run(rtl, [give(5), ("STORE", {**STORE, **waits}), legal("END")])
    assert rtl.get("tokens3") == 0
    assert stopped(rtl, [give(4), ("STORE", {**STORE, **waits}), legal("END")]) == ("WATCHDOG", "STORE", 1, t)


def test_dram_that_does_not_answer(rtl):
    """The watchdog names the queue that waits for the DRAM; ``halted`` comes only when the accesses have ended."""
    rtl.write(0, isa.encode("LOAD", **{**LOAD, "n2": 2000, "d1": 2000}) + isa.encode("END"))
    rtl.start(0, 2, watchdog=1000)
    rtl.run_cycles(300, "done")
    rtl.lib.sim_set_dead(rtl.sim, 1)
    assert rtl.run_cycles(20000, "error")
    assert (rtl.get("error_code"), rtl.get("error_queue"), rtl.get("error_index"), rtl.get("error_token")) == (5, 0, 0, NONE)
    assert not rtl.run_cycles(2000, "halted")
    rtl.lib.sim_set_dead(rtl.sim, 0)
    assert rtl.run_cycles(2000, "halted")
    rtl.reset()
    recovers(rtl)


@pytest.mark.parametrize("cycles", [1, 10, 100, 500, 1000, 3000, 10000])
def test_reset_at_any_time(rtl, cycles):
    """A reset in the middle of a program lets DRAM accesses end and leaves an idle engine."""
    rtl.write(0, GOOD.data)
    rtl.start(0, GOOD.length, **REGISTERS)
    rtl.run_cycles(cycles, "done")
    rtl.set("reset", 1)
    rtl.run_cycles(1000, "error", "done")
    assert rtl.get("status") == 0
    rtl.check_protocol()
    recovers(rtl)


def test_error_while_everything_runs(rtl):
    """A bad descriptor behind a busy program: all queues stop, DRAM accesses end, the next program is right."""
    rtl.write(0, GOOD.data)
    rtl.write(64 * (GOOD.length - 1), bytes(64))
    with pytest.raises(EngineStopped, match="BAD_OPCODE"):
        rtl.run_program(0, GOOD.length, **REGISTERS)
    rtl.check_protocol()
    recovers(rtl)


@pytest.mark.parametrize("index", [0, 1, 2, 5])
@pytest.mark.parametrize("stall", [0, 0.7])
def test_error_while_the_program_is_read(index, stall):
    """Words of the program are still on their way when a descriptor is refused; none of them reaches the next program."""
    rtl = RtlDevice(CONFIG, WINDOW_SIZE, stall=stall, seed=index + 1)
    rtl.write(0, GOOD.data)
    rtl.write(64 * index, bytes(64))
    rtl.start(0, GOOD.length, **REGISTERS)
    assert rtl.run_cycles(5000, "error")
    error = rtl.stopped()
    assert (error.name, error.queue, error.index) == ("BAD_OPCODE", "FETCH", index)
    rtl.check_protocol()
    recovers(rtl)


@pytest.mark.parametrize("address,length", [(32, 1), (0, 0), (0, 1 << 16), (WINDOW_SIZE, 1), (-64, 1)])
def test_program_that_cannot_be(rtl, address, length):
    for device in (rtl, ModelDevice(CONFIG, WINDOW_SIZE)):
        with pytest.raises(AddressError):
            device.run_program(address, length)
