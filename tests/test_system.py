"""The whole system: SoC in Verilator, firmware, litex_server, host; pictures and faults."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from litediffusion.cores import isa
from litediffusion.soc import mailbox
from litediffusion.sw.devices.base import EngineStopped
from litediffusion.sw.devices.errors import ConnectionLost, DeviceBusy, DeviceFault
from litediffusion.sw.devices.litex import LitexDevice, generate_fields
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.pipeline import compile_model, generate, make_job, upload
from litediffusion.targets.sim import SimServer

SCRATCH = 0x600000          # window offset that no program of these tests uses
WATCHDOG = 20_000


@pytest.fixture(scope="module")
def server():
    with SimServer() as server:
        yield server


@pytest.fixture
def device(server):
    device = LitexDevice(server.host, server.port, server.csr_csv)
    yield device
    device.close()


@pytest.fixture(scope="module")
def uploaded(server, program):
    """The digits program, already in the SoC's window."""
    device = LitexDevice(server.host, server.port, server.csr_csv)
    upload(device, program)
    device.close()
    return program


def golden(program, labels, seeds):
    model = ModelDevice()
    upload(model, program)
    return generate(model, program, labels, seeds)


def check_good_job(device, program, label=8, seed=3):
    """The device does a good job now, whatever happened before."""
    got, want = generate(device, program, [label], [seed], guidance=1.0), None
    model = ModelDevice()
    upload(model, program)
    want = generate(model, program, [label], [seed], guidance=1.0)
    assert got.latents.tobytes() == want.latents.tobytes() and got.pixels.tobytes() == want.pixels.tobytes()


def test_pictures_equal_the_model(device, uploaded):
    seen = []
    got = generate(device, uploaded, [3, 7], [21, 22], progress=lambda image, images, step, steps: seen.append((image, step)))
    want = golden(uploaded, [3, 7], [21, 22])
    assert got.latents.tobytes() == want.latents.tobytes() and got.pixels.tobytes() == want.pixels.tobytes()
    assert seen == sorted(seen) and len(seen) > 2
    counters = got.counters
    assert 1 - counters["engine_cycles"] / counters["total_cycles"] < 0.02      # the CPU's part
    assert counters["mac_cycles"] > 0.6 * counters["engine_cycles"]


def run_bad(device, program_bytes, length, at=SCRATCH):
    device.write(at, program_bytes)
    begin = time.monotonic()
    with pytest.raises(EngineStopped) as error:
        device.run_program(at, length, watchdog=WATCHDOG)
    assert time.monotonic() - begin < 30
    return error.value


LOAD = dict(n0=1, n1=1, n2=4)


@pytest.mark.parametrize("code, index, text, descriptors", [
    ("BAD_OPCODE", 1, "descriptor 1", [isa.encode("LOAD", **LOAD), bytes([77]) + bytes(63), isa.encode("END")]),
    ("BAD_FIELD", 0, "descriptor 0", [isa.encode("LOAD", n0=0, n1=1, n2=1), isa.encode("END")]),
    ("DRAM_WINDOW", 0, "LOAD", [isa.encode("LOAD", dram=0xFFFFFFF0, **LOAD), isa.encode("END")]),
    ("DRAM_WINDOW", 0, "STORE", [isa.encode("STORE", dram=0x01000000, **LOAD), isa.encode("END")]),
    ("BUFFER_RANGE", 0, "LOAD", [isa.encode("LOAD", addr=4094, **LOAD), isa.encode("END")]),
    ("WATCHDOG", 1, "P2G", [isa.encode("LOAD", **LOAD), isa.encode("GEMM", ng=1, nkb=1, nky=1, nkx=1, noy=1, nox=1, h=1, w=1,
                                                                   wait0=isa.TOKEN_NAMES.index("P2G"), wait0_n=1), isa.encode("END")]),
    ("PROGRAM_END", None, "END", [isa.encode("LOAD", **LOAD)]),
])
def test_bad_programs_stop_with_a_report(device, uploaded, code, index, text, descriptors):
    error = run_bad(device, b"".join(descriptors), len(descriptors))
    assert error.code == isa.ERROR_CODE[code] and text in str(error) and code in str(error)
    assert index is None or error.index == index


def test_good_job_after_engine_errors(device, uploaded):
    check_good_job(device, uploaded)


@pytest.mark.parametrize("change, name", [
    ({"steps": 0}, "BAD_STEPS"), ({"steps": 5}, "BAD_STEPS"), ({"batch": 0}, "BAD_BATCH"), ({"batch": 17}, "BAD_BATCH"),
    ({"evals": 3}, "BAD_EVALS"), ({"eval": (0x01000000, 10)}, "BAD_ADDRESS"), ({"update": (0xFFFFFFC0, 10)}, "BAD_ADDRESS"),
    ({"init": (17, 10)}, "BAD_ADDRESS"), ({"finish": (0, 0)}, "BAD_LENGTH"), ({"config_hash": 1}, "WRONG_CONFIG"),
    ({"watchdog": 0}, "BAD_WATCHDOG"), ({"command": 99}, "BAD_COMMAND"),
])
def test_bad_jobs_are_refused(device, uploaded, change, name):
    number = device.submit(**dict(generate_fields(make_job(uploaded, [1], [1])), **change))
    with pytest.raises(DeviceFault) as error:
        device.wait(number)
    assert error.value.name == name and len(str(error.value)) > 20


def start_long_job(device, program, images=4):
    """Ring for a job of several images and return while it runs."""
    return device.submit(**generate_fields(make_job(program, [1] * images, [5] * images)))


def test_host_disconnects_and_comes_back(server, device, uploaded):
    """A host that vanishes in mid-run keeps the device until its lease lapses; when it is back, it can use it at once."""
    gone = LitexDevice(server.host, server.port, server.csr_csv)
    start_long_job(gone, uploaded)
    gone.link.close()                        # no release: as if the cable was pulled
    with pytest.raises(DeviceBusy, match="owned by another host"):
        device.claim()
    device.nonce = gone.nonce                # the same host, back again: what it had left running is ended
    device.claim()
    assert device.state()["job_state"] != mailbox.JOB_STATES["RUNNING"]
    check_good_job(device, uploaded)


def test_a_new_owner_is_safe_from_the_job_of_the_former_one(server, uploaded, digits, ranges):
    """The former owner's job must not write over the new one's program, which lies elsewhere."""
    other = compile_model(digits, steps=4, ranges=ranges, bits=4)
    first = LitexDevice(server.host, server.port, server.csr_csv)
    start_long_job(first, uploaded)
    first.close()                            # gives the device back while its job runs
    second = LitexDevice(server.host, server.port, server.csr_csv)
    upload(second, other)
    check_good_job(second, other, 6, 41)
    upload(second, uploaded)
    second.close()


def test_interrupted_wait_aborts_the_job(device, uploaded):
    def interrupt(image, step):
        raise KeyboardInterrupt
    number = start_long_job(device, uploaded)
    with pytest.raises(KeyboardInterrupt):
        device.wait(number, interrupt)
    device.settle()
    assert device.state()["job_state"] == mailbox.JOB_STATES["ABORTED"]
    check_good_job(device, uploaded)


def test_two_hosts_at_once(server, device, uploaded):
    """The second host gets a clear refusal, writes nothing, and the first one's pictures are right."""
    second, refusals = LitexDevice(server.host, server.port, server.csr_csv), []

    def disturb():
        time.sleep(0.5)
        for attempt in (lambda: second.write(uploaded.meta["image_base"], bytes(64)), lambda: second.submit(command=1)):
            try:
                attempt()
            except DeviceBusy as error:
                refusals.append(str(error))
    thread = threading.Thread(target=disturb)
    device.claim()
    thread.start()
    check_good_job(device, uploaded, 4, 77)
    thread.join()
    assert len(refusals) == 2 and all("try again" in r for r in refusals)
    second.close()
    device.link.csr_write("mailbox_release", device.nonce)
    third = LitexDevice(server.host, server.port, server.csr_csv)
    check_good_job(third, uploaded, 5, 78)
    third.close()


def test_nothing_is_written_outside_the_window(device, uploaded):
    base = device.window_base
    places = [base - 4096, base + device.window_size]
    rng = np.random.default_rng(0)
    guard = [[int(v) for v in rng.integers(0, 1 << 32, 64)] for _ in places]
    for at, words in zip(places, guard):
        device.link.write_words(at, words)
    run_bad(device, isa.encode("STORE", dram=device.window_size - 16, n0=1, n1=1, n2=2) + isa.encode("END"), 2)
    check_good_job(device, uploaded)
    assert [device.link.read_words(at, 64) for at in places] == guard


def test_abort(device, uploaded):
    number = start_long_job(device, uploaded)
    device.abort()
    with pytest.raises(DeviceFault, match="ABORTED") as error:
        device.wait(number)
    assert error.value.name == "ABORTED"
    check_good_job(device, uploaded)


def test_selftest(device):
    number = device.submit(command=mailbox.COMMANDS["SELFTEST"], config_hash=device.config_hash, watchdog=WATCHDOG)
    assert device.wait(number)["job_state"] == mailbox.JOB_STATES["DONE"]


def test_server_that_dies_is_a_clear_error():
    with SimServer() as own:
        device = LitexDevice(own.host, own.port, own.csr_csv)
        os.kill(own.server_pid, signal.SIGKILL)
        with pytest.raises(ConnectionLost, match="no litex_server answers|no answer"):
            device.state()
        device.close()


def test_from_prompt_to_picture(device):
    """Latent diffusion on the SoC: texts, network with guidance, sampler and decoder."""
    from litediffusion.sw.sources import load_model
    from litediffusion.sw.texts import encode_prompts

    program = compile_model(load_model("wardrobe"), steps=2, images=2)
    texts = encode_prompts(program, ["a dark ankle boot"])
    upload(device, program)
    model = ModelDevice()
    upload(model, program)
    got, want = (generate(d, program, [], [7], texts=texts) for d in (device, model))
    assert got.latents.tobytes() == want.latents.tobytes() and got.pixels.tobytes() == want.pixels.tobytes()
    assert got.pixels.shape == (1, 1, 32, 32) and got.pixels.std() > 20
