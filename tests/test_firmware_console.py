"""UART console and self-test of the firmware; the engine is the golden machine."""

import pytest

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.cores.regs import REGS
from litediffusion.firmware import header, host
from litediffusion.firmware.fake import FakeHardware, GoldenHardware
from litediffusion.soc import mailbox
from litediffusion.soc.memory_map import SELFTEST_BYTES, WINDOW_SIZE

STATES = {v: k for k, v in mailbox.JOB_STATES.items()}
ERRORS = {code: name for code, (name, _) in mailbox.ERRORS.items()}
PROMPT = "litediffusion> "
SELFTEST = dict(command=mailbox.COMMANDS["SELFTEST"], id=3, abi=mailbox.ABI_VERSION, image_bytes=0x100000)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return host.build(tmp_path_factory.mktemp("firmware"))


@pytest.fixture
def golden(library):
    hardware = GoldenHardware()
    firmware = host.Firmware(library, hardware)
    firmware.boot()
    return firmware, hardware


def say(firmware, hardware, line):
    """The console's answer to a line, without echo and prompt."""
    hardware.printed, hardware.typed = "", line.encode() + b"\r"
    firmware.poll()
    assert hardware.printed.startswith(line + "\n") and hardware.printed.endswith(PROMPT)
    return hardware.printed[len(line) + 1:-len(PROMPT)]


def state(hardware):
    return STATES[hardware.state("job_state")], ERRORS[hardware.state("error")]


def put(hardware, offset, data):
    hardware.window[offset:offset + len(data)] = list(data)


def test_selftest_copies_through_the_engine_and_leaves_the_image_alone(golden):
    firmware, hardware = golden
    hardware.window[:WINDOW_SIZE - SELFTEST_BYTES] = 0x77
    hardware.ring(**SELFTEST)
    firmware.poll()
    assert state(hardware) == ("DONE", "OK") and hardware.state("engine_runs") == 1
    assert (hardware.window[:WINDOW_SIZE - SELFTEST_BYTES] == 0x77).all()
    at = WINDOW_SIZE - SELFTEST_BYTES
    size = 16 * header.SELFTEST_WORDS
    source, target = (hardware.window[at + o:at + o + size] for o in (header.SELFTEST_SOURCE, header.SELFTEST_TARGET))
    assert (source == target).all() and len(set(source.tolist())) > 50


@pytest.mark.parametrize("bit", [0, 31])
def test_selftest_finds_a_stuck_bit(golden, bit):
    firmware, hardware = golden
    write = hardware.window_write
    hardware.window_write = lambda offset, value: write(offset, value & ~(1 << bit))
    hardware.ring(**SELFTEST)
    firmware.poll()
    assert state(hardware) == ("FAILED", "SELFTEST") and hardware.starts == []
    found, expected, offset, _ = hardware.state("error_info")
    assert found ^ expected == 1 << bit and offset >= WINDOW_SIZE - SELFTEST_BYTES
    assert f"(DRAM at window offset {offset:#010x})" in hardware.state("text")


@pytest.mark.parametrize("line", [4, 1 << 10])
def test_selftest_finds_a_stuck_address_line(golden, line):
    firmware, hardware = golden
    write = hardware.window_write
    hardware.window_write = lambda offset, value: write(offset & ~line, value)
    hardware.ring(**SELFTEST)
    firmware.poll()
    assert state(hardware) == ("FAILED", "SELFTEST")


def test_selftest_finds_an_engine_that_does_not_store(library):
    hardware = FakeHardware()       # ends each program, and does nothing
    firmware = host.Firmware(library, hardware)
    firmware.boot()
    hardware.ring(**SELFTEST)
    firmware.poll()
    assert state(hardware) == ("FAILED", "SELFTEST") and "engine copy" in hardware.state("text")


def test_a_run_of_a_bad_program_reports_what_the_machine_found(golden):
    firmware, hardware = golden
    put(hardware, 0x400, isa.encode("LOAD", dram=WINDOW_SIZE, n0=1, n1=1, n2=1) + isa.encode("END"))
    hardware.ring(command=mailbox.COMMANDS["RUN"], id=5, abi=1, config_hash=PRESETS["ecpix5"].hash, init=(0x400, 2),
                  watchdog=10_000)
    firmware.poll()
    assert state(hardware) == ("FAILED", "ENGINE")
    assert hardware.state("text").startswith("engine: DRAM_WINDOW in LOAD queue at descriptor 0: ")
    put(hardware, 0x400, isa.encode("LOAD", dram=0, n0=1, n1=1, n2=1, addr=9) + isa.encode("END"))
    hardware.ring(id=6)
    firmware.poll()
    assert state(hardware) == ("DONE", "OK") and hardware.resets == 1


def test_help_status_and_unknown_commands(golden):
    firmware, hardware = golden
    assert [line.split()[0] for line in say(firmware, hardware, "help").splitlines()] == [
        "status", "run", "regs", "selftest", "reboot"]
    assert say(firmware, hardware, "status").startswith("IDLE job 0 NONE: image 0 of 0, step 0 of 0")
    assert say(firmware, hardware, "frobnicate") == "unknown command: try help\n"
    assert say(firmware, hardware, "") == ""
    assert say(firmware, hardware, "hel") == "unknown command: try help\n"


def test_status_shows_the_error(golden):
    firmware, hardware = golden
    hardware.ring(**{**SELFTEST, "abi": 9})
    firmware.poll()
    answer = say(firmware, hardware, "status").splitlines()
    assert answer[0].startswith("FAILED job 3 SELFTEST") and answer[1] == hardware.state("text")


def test_run_repeats_the_last_good_job(golden):
    firmware, hardware = golden
    assert say(firmware, hardware, "run").startswith("no job to repeat")
    hardware.ring(**SELFTEST)
    firmware.poll()
    starts = len(hardware.starts)
    assert say(firmware, hardware, "run").startswith("DONE job 3 SELFTEST")
    assert len(hardware.starts) == starts + 1 and state(hardware) == ("DONE", "OK")


def test_selftest_from_the_console_keeps_the_last_job(golden):
    firmware, hardware = golden
    put(hardware, 0, isa.encode("END"))
    hardware.ring(command=mailbox.COMMANDS["RUN"], id=5, abi=1, config_hash=PRESETS["ecpix5"].hash, init=(0, 1),
                  watchdog=10_000)
    firmware.poll()
    assert say(firmware, hardware, "selftest").startswith("DONE job 5 SELFTEST")
    assert say(firmware, hardware, "run").startswith("DONE job 5 RUN") and hardware.starts[-1]["program_addr"] == 0


def test_commands_that_need_the_engine_wait_for_the_job_under_way(golden):
    firmware, hardware = golden
    put(hardware, 0, isa.encode("END"))

    def engine(registers):
        if len(hardware.starts) == 2:
            hardware.typed = b"run\rselftest\rstatus\r"
        return 100, {}
    hardware.engine = engine
    one = (0, 1)
    hardware.ring(command=mailbox.COMMANDS["GENERATE"], id=5, abi=1, config_hash=PRESETS["ecpix5"].hash, init=one,
                  eval=one, update=one, finish=one, steps=1, max_steps=1, evals=1, batch=1, watchdog=1000)
    firmware.poll()
    assert state(hardware) == ("DONE", "OK") and len(hardware.starts) == 4
    assert "a job is running" in hardware.printed and "RUNNING job 5 GENERATE: image 0 of 1, step 1 of 1" in hardware.printed


def test_regs_shows_every_readable_register(golden):
    firmware, hardware = golden
    hardware.regs["tokens2"] = 0xDEADBEEF
    lines = say(firmware, hardware, "regs").splitlines()
    assert [line.split()[1] for line in lines] == [r.name for r in REGS if r.access != "pulse"]
    assert "0xdeadbeef tokens2" in lines and f"{PRESETS['ecpix5'].hash:#010x} config_hash" in lines


def test_reboot_and_line_editing(golden):
    firmware, hardware = golden
    hardware.typed = b"\x7frebx\x7fooq\b\x01t\n"
    firmware.poll()
    assert hardware.reboots == 1
    hardware.printed, hardware.typed = "", b"h" * 1000 + b"\r"
    firmware.poll()
    assert "unknown command" in hardware.printed and hardware.printed.count("h") < 80
    hardware.typed = b"sta"                 # a line may arrive in pieces
    firmware.poll()
    hardware.printed, hardware.typed = "", b"tus\r"
    firmware.poll()
    assert "IDLE" in hardware.printed
