"""The firmware's denoising loop, counters, errors and aborts, on fake hardware."""

import pytest

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.cores.regs import QUEUE_COUNTERS, REGS
from litediffusion.firmware import host
from litediffusion.firmware.fake import STATUS, FakeHardware
from litediffusion.soc import mailbox, memory_map

PROGRAMS = {"init": (0, 3), "eval": (0x1000, 300), "update": (0x8000, 4), "finish": (0x9000, 5)}
NAMES = {offset: name for name, (offset, _) in PROGRAMS.items()}
STATES = {v: k for k, v in mailbox.JOB_STATES.items()}
ERRORS = {code: name for code, (name, _) in mailbox.ERRORS.items()}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return host.build(tmp_path_factory.mktemp("firmware"))


def job(name="GENERATE", **changes):
    fields = dict(command=mailbox.COMMANDS[name], id=7, config_hash=PRESETS["ecpix5"].hash,
                  abi=mailbox.ABI_VERSION, image_bytes=0x10000, steps=3, max_steps=50, evals=2, guidance=-3 << 12,
                  batch=1, null_label=10, watchdog=100_000, labels=[4, 3, 2, 1] + [0] * 12, trace=[0, 0, 0],
                  seed0=list(range(100, 116)), seed1=list(range(200, 216)), index=[0] * 4, **PROGRAMS)
    return {**fields, **changes}


def booted(library, engine=None, **kwargs):
    hardware = FakeHardware(engine)
    firmware = host.Firmware(library, hardware)
    firmware.boot(**kwargs)
    return firmware, hardware


def run(library, engine=None, **fields):
    firmware, hardware = booted(library, engine)
    hardware.ring(**job(**fields))
    firmware.poll()
    return hardware


def state(hardware):
    return STATES[hardware.state("job_state")], ERRORS[hardware.state("error")]


def expected_runs(batch, evals, steps, labels=(4, 3, 2, 1)):
    """(program, STEP, LABEL, SLOT, IMAGE) in order."""
    out = []
    for image in range(batch):
        label = labels[image]
        out.append(("init", steps, label, 0, image))
        for step in range(steps):
            out += [("eval", step, label if v == 0 else 10, v, image) for v in range(evals)]
            out.append(("update", step, label, 0, image))
        out.append(("finish", steps - 1, label, 0, image))
    return out


def test_boot_publishes_identity(library):
    seen = []
    hardware = FakeHardware()
    hardware.mailbox[:] = b"\xa5" * mailbox.SIZE
    hardware.pending = True
    hardware.on_state = lambda name, value: seen.append((name, value))
    host.Firmware(library, hardware).boot()
    assert seen[-1] == ("magic", mailbox.MAGIC) and ("magic", 0) in seen
    assert [hardware.state(n) for n in ("abi_version", "config_hash", "window_base", "window_size")] == [
        mailbox.ABI_VERSION, PRESETS["ecpix5"].hash, memory_map.WINDOW_BASE, memory_map.WINDOW_SIZE]
    assert state(hardware) == ("IDLE", "OK") and hardware.state("text") == "" and not hardware.pending


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("evals", [1, 2])
def test_order_of_programs_and_their_registers(library, batch, evals):
    hardware = run(library, batch=batch, evals=evals)
    assert state(hardware) == ("DONE", "OK") and hardware.state("job_id") == 7
    seen = [(NAMES[r["program_addr"]], *(r[f"index_{i}"] for i in ("step", "label", "slot", "image")))
            for r in hardware.starts]
    assert seen == expected_runs(batch, evals, 3)
    for r in hardware.starts:
        assert r["program_len"] == PROGRAMS[NAMES[r["program_addr"]]][1]
        assert (r["seed0"], r["seed1"]) == (100 + r["index_image"], 200 + r["index_image"])
        assert r["guidance"] == (-3 << 12) & 0xFFFFFFFF and r["watchdog"] == 100_000 and r["trace_enable"] == 0
        assert (r["window_base"], r["window_size"]) == (memory_map.WINDOW_OFFSET, memory_map.WINDOW_SIZE)
    assert (hardware.state("image"), hardware.state("step")) == (batch, 0)
    assert hardware.state("engine_runs") == len(seen)
    assert hardware.syncs == 2 and hardware.resets == 0


def test_steps_and_batch_at_their_limits(library):
    hardware = run(library, steps=mailbox.MAX_STEPS, max_steps=mailbox.MAX_STEPS, evals=1)
    assert state(hardware) == ("DONE", "OK") and hardware.state("engine_runs") == 2 * mailbox.MAX_STEPS + 2
    hardware = run(library, steps=1, batch=mailbox.MAX_BATCH, labels=[0xFFFF] * 16)
    assert state(hardware) == ("DONE", "OK") and hardware.starts[-1]["index_label"] == 0xFFFF


def test_progress_is_published_while_the_job_runs(library):
    seen = []
    firmware, hardware = booted(library)
    hardware.on_state = lambda name, value: seen.append((name, value))
    hardware.ring(**job(batch=2))
    firmware.poll()
    of = lambda name: [v for n, v in seen if n == name]
    assert of("image")[1:] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2] and of("step")[1:] == [0, 1, 2, 3, 0, 0, 1, 2, 3, 0]
    assert of("engine_runs")[-1] == 22 and sorted(of("engine_runs")) == of("engine_runs")
    assert seen[1] == ("job_state", 1) and seen[-1][0] != "job_id"
    assert [n for n, _ in seen].index("job_id") > [n for n, _ in seen].index("image")   # stale figures are gone first
    assert of("job_state") == [mailbox.JOB_STATES["RUNNING"], mailbox.JOB_STATES["DONE"]]


def test_counters_are_summed_in_64_bits(library):
    big = 0xFFFFFFF0
    queues = {f"{q}_{c}": big - 16 * i - j for i, q in enumerate(("load", "gemm", "post", "store"))
              for j, c in enumerate(QUEUE_COUNTERS)}
    counters = dict(cycles=big, mac_cycles=big - 100, dram_reads=big - 200, dram_writes=3, **queues)
    hardware = run(library, lambda r: (100, counters), evals=1, steps=2)
    runs = 1 + 2 * 2 + 1
    assert hardware.state("engine_runs") == runs
    assert hardware.state("engine_cycles") == runs * big
    assert hardware.state("mac_cycles") == runs * (big - 100)
    assert hardware.state("dram_reads") == runs * (big - 200) and hardware.state("dram_writes") == runs * 3
    assert hardware.state("queue_counters") == [runs * v for v in queues.values()]


def test_total_cycles_pass_32_bits_and_a_second_job_starts_from_zero(library):
    firmware, hardware = booted(library, lambda r: (3_000_000_000, {"dram_reads": 5}))
    hardware.now = 0xFFFFFF00
    step = lambda: setattr(hardware, "now", hardware.now + 1_000_000_000) or hardware.now & 0xFFFFFFFF
    hardware.cycles = step                          # every look at the clock is a billion cycles later
    hardware.ring(**job(steps=1, evals=1, watchdog=0xFFFFFFFF))
    firmware.poll()
    assert state(hardware) == ("DONE", "OK")
    assert 4 * 3_000_000_000 <= hardware.state("total_cycles") <= hardware.now - 0xFFFFFF00
    del hardware.cycles
    hardware.engine = lambda r: (100, {"dram_reads": 2})
    hardware.ring(**job(id=8, steps=1, evals=1))
    firmware.poll()
    assert hardware.state("dram_reads") == 4 * 2 and hardware.state("total_cycles") < 10_000


def engine_error(code, queue, index, token, halted=True, at=5):
    """Fails at the ``at``-th program (from 0)."""
    count = iter(range(1000))
    bits = STATUS["error"] | (STATUS["halted"] if halted else 0)
    error = dict(status=bits, error_code=isa.ERROR_CODE[code], error_queue=queue, error_index=index, error_token=token)
    return lambda r: (100, error if next(count) == at else {})


def test_an_engine_error_is_reported_and_the_next_job_runs(library):
    firmware, hardware = booted(library, engine_error("WATCHDOG", 1, 12, isa.TOKEN_NAMES.index("L2G")))
    hardware.ring(**job())
    firmware.poll()
    assert state(hardware) == ("FAILED", "ENGINE")
    assert hardware.state("error_info") == [isa.ERROR_CODE["WATCHDOG"], 1, 12, 0]
    assert hardware.state("text") == (
        "engine: WATCHDOG in GEMM queue at descriptor 12, waiting for token L2G: "
        f"{isa.ERRORS[5][1]} (program eval, image 0, step 1)")
    assert hardware.state("engine_runs") == 5 and len(hardware.starts) == 6 and hardware.resets == 1
    hardware.ring(**job(id=8))
    firmware.poll()
    assert state(hardware) == ("DONE", "OK") and hardware.state("text") == "" and hardware.state("job_id") == 8
    assert hardware.state("error_info") == [0, 0, 0, 0]


@pytest.mark.parametrize("code", list(isa.ERRORS)[1:])
@pytest.mark.parametrize("queue, name", list(enumerate(isa.QUEUES + ["FETCH"])))
def test_every_engine_error_has_a_text(library, code, queue, name):
    hardware = run(library, engine_error(isa.ERRORS[code][0], queue, 0xFFFF, 16, at=0), steps=1)
    assert hardware.state("text") == (f"engine: {isa.ERRORS[code][0]} in {name} queue at descriptor 65535: "
                                      f"{isa.ERRORS[code][1]} (program init, image 0, step 1)")


def test_an_unknown_engine_error_is_still_reported(library):
    hardware = run(library, lambda r: (9, dict(status=12, error_code=200, error_queue=7, error_index=1, error_token=31)))
    assert hardware.state("text").startswith("engine: ? in ? queue at descriptor 1: ?")


def test_an_engine_that_does_not_halt_is_reset_all_the_same(library):
    hardware = run(library, engine_error("BAD_OPCODE", 4, 0, 16, halted=False, at=0))
    assert state(hardware) == ("FAILED", "ENGINE") and hardware.resets == 1
    assert "it did not halt" in hardware.state("text")


def test_an_engine_that_never_answers(library):
    firmware, hardware = booted(library, lambda r: (None, {}))
    hardware.ring(**job(watchdog=50_000))
    firmware.poll()
    assert state(hardware) == ("FAILED", "NO_ANSWER") and hardware.resets == 1
    assert 2 * 50_000 < hardware.state("total_cycles") < 2 * 50_000 + 100_000
    assert hardware.state("text").startswith("NO_ANSWER: engine: no sign of life, status 0x00000001")
    assert hardware.state("text").endswith("(program init, image 0, step 3)")
    hardware.engine = lambda r: (100, {})
    hardware.ring(**job(id=8))
    firmware.poll()
    assert state(hardware) == ("DONE", "OK")


def test_a_broken_engine_is_never_started_again(library):
    firmware, hardware = booted(library, lambda r: (None, {}))
    hardware.reset_works = False
    for id in (1, 2):
        hardware.ring(**job(id=id, watchdog=1000))
        firmware.poll()
        assert state(hardware) == ("FAILED", "NO_ANSWER") and hardware.state("job_id") == id
    assert len(hardware.starts) == 1 and "after a reset" in hardware.state("text")


def test_a_long_program_that_goes_on_is_not_cut_off(library):
    firmware, hardware = booted(library, lambda r: (2_000_000, {}))
    get = hardware.get_reg
    reads = [r.name for r in REGS].index("dram_reads")
    hardware.get_reg = lambda reg: hardware.now >> 10 if reg == reads else get(reg)
    hardware.ring(**job("RUN", watchdog=1000))
    firmware.poll()
    assert state(hardware) == ("DONE", "OK") and hardware.state("total_cycles") > 2_000_000


def test_heartbeat_goes_on_while_the_engine_works(library):
    beats = []
    firmware, hardware = booted(library, lambda r: (1_000_000, {}))
    hardware.on_state = lambda name, value: beats.append(value) if name == "heartbeat" else None
    hardware.ring(**job("RUN", watchdog=1_000_000))
    firmware.poll()
    assert len(beats) > 100 and beats == sorted(set(beats))


@pytest.mark.parametrize("after", [0, 1, 6, 21])
def test_abort_is_honoured_between_programs(library, after):
    firmware, hardware = booted(library)

    def engine(r):
        if len(hardware.starts) == after + 1:
            hardware.ring(command=mailbox.COMMANDS["ABORT"])
        return 100, {}
    hardware.engine = engine
    hardware.ring(**job(batch=2))
    firmware.poll()
    total = len(expected_runs(2, 2, 3))
    if after + 1 == total:      # rung during the last program: the job was finished before
        assert state(hardware) == ("DONE", "OK")
    else:
        assert state(hardware) == ("ABORTED", "ABORTED") and len(hardware.starts) == after + 1 and not hardware.pending
        assert hardware.state("error_info")[:2] == [after // 11, 2]
        assert hardware.state("text").startswith("ABORTED: the host asked to stop")
    firmware.poll()             # a late abort changes nothing
    assert not hardware.pending and state(hardware)[0] in ("DONE", "ABORTED")
    hardware.ring(**job(id=9))
    firmware.poll()
    assert state(hardware) == ("DONE", "OK") and hardware.state("job_id") == 9


def test_a_job_rung_while_another_runs_is_run_after_it(library):
    firmware, hardware = booted(library)
    hardware.engine = lambda r: (hardware.ring(**job(id=8, labels=[9] * 16)) if len(hardware.starts) == 3 else None,
                                 (100, {}))[1]
    hardware.ring(**job())
    firmware.poll()
    assert hardware.state("job_id") == 7 and state(hardware) == ("DONE", "OK")
    assert {r["index_label"] for r in hardware.starts} == {4, 10}      # the copy of the first job was used to its end
    firmware.poll()
    assert hardware.state("job_id") == 8 and hardware.starts[-1]["index_label"] == 9


def test_run_uses_the_given_registers_and_traces(library):
    hardware = run(library, command=mailbox.COMMANDS["RUN"], index=[5, 6, 7, 8], trace=[1, 0x20000, 0x1000],
                   init=(0x40, 77))
    assert state(hardware) == ("DONE", "OK") and len(hardware.starts) == 1
    r = hardware.starts[0]
    assert [r[f"index_{i}"] for i in ("step", "label", "slot", "image")] == [5, 6, 7, 8]
    assert (r["trace_enable"], r["trace_addr"], r["trace_size"]) == (1, 0x20000, 0x1000)
    assert (r["program_addr"], r["program_len"], r["seed0"], r["seed1"]) == (0x40, 77, 100, 200)
    assert hardware.state("engine_runs") == 1


def test_a_job_after_a_traced_run_is_not_traced(library):
    firmware, hardware = booted(library)
    hardware.ring(**job("RUN", trace=[1, 0x20000, 0x1000]))
    firmware.poll()
    hardware.ring(**job(id=8))
    firmware.poll()
    assert [r["trace_enable"] for r in hardware.starts] == [1] + [0] * 11


@pytest.mark.parametrize("error, changes", [
    ("BAD_COMMAND", dict(command=9)), ("BAD_ABI", dict(abi=0)), ("WRONG_CONFIG", dict(config_hash=1)),
    ("BAD_STEPS", dict(steps=51)), ("BAD_BATCH", dict(batch=17)), ("BAD_ADDRESS", dict(eval=(memory_map.WINDOW_SIZE, 1))),
    ("BAD_LENGTH", dict(update=(0, 0))), ("BAD_EVALS", dict(evals=3)), ("BAD_ID", dict(id=0)),
    ("BAD_WATCHDOG", dict(watchdog=0)), ("BAD_INDEX", dict(labels=[1 << 16] * 16)),
])
def test_a_bad_job_never_touches_the_engine(library, error, changes):
    firmware, hardware = booted(library)
    before = dict(hardware.regs)
    hardware.ring(**job(**changes))
    firmware.poll()
    assert state(hardware) == ("FAILED", error) and hardware.starts == [] and hardware.regs == before
    assert hardware.state("text").startswith(error) and not hardware.pending
    hardware.ring(**job(id=8))
    firmware.poll()
    assert state(hardware) == ("DONE", "OK")


def test_a_shorter_text_replaces_a_longer_one(library):
    firmware, hardware = booted(library, engine_error("BAD_FIELD", 0, 1, 16, at=0))
    hardware.ring(**job())
    firmware.poll()
    longer = hardware.state("text")
    hardware.ring(**job(id=0))
    firmware.poll()
    assert hardware.state("text").startswith("BAD_ID") and len(hardware.state("text")) < len(longer)


def test_without_dram_every_job_is_refused(library):
    firmware, hardware = booted(library, dram_ok=False)
    assert state(hardware) == ("FAILED", "DRAM_INIT") and hardware.state("magic") == mailbox.MAGIC
    hardware.ring(**job())
    firmware.poll()
    assert state(hardware) == ("FAILED", "DRAM_INIT") and hardware.state("job_id") == 7 and hardware.starts == []


def test_an_engine_of_another_configuration_is_reported_at_boot(library):
    hardware = FakeHardware()
    hardware.regs["config_hash"] ^= 4
    firmware = host.Firmware(library, hardware)
    firmware.boot()
    assert state(hardware) == ("FAILED", "WRONG_CONFIG")
    hardware.ring(**job(config_hash=hardware.regs["config_hash"]))
    firmware.poll()
    assert state(hardware) == ("FAILED", "WRONG_CONFIG") and hardware.starts == []


def test_a_long_program_runs_in_pieces(library):
    most = isa.MOST_DESCRIPTORS
    hardware = run(library, evals=1, steps=1, eval=(0x1000, 2 * most + 7), image_bytes=0)
    assert state(hardware) == ("DONE", "OK")
    seen = [(r["program_addr"], r["program_len"]) for r in hardware.starts]
    assert seen[1:4] == [(0x1000, most), (0x1000 + 64 * most, most), (0x1000 + 128 * most, 7)] == isa.pieces(0x1000, 2 * most + 7)
    assert {tuple(r[f"index_{i}"] for i in ("step", "label", "slot", "image")) for r in hardware.starts[1:4]} == {(0, 4, 0, 0)}


def test_an_error_in_a_later_piece_names_the_descriptor_of_the_whole_program(library):
    broken = {"status": STATUS["error"] | STATUS["halted"], "error_code": 5, "error_queue": 1, "error_index": 12, "error_token": 16}
    hardware = run(library, lambda r: (100, broken if r["program_len"] == 7 else {}), eval=(0x1000, isa.MOST_DESCRIPTORS + 7))
    assert state(hardware) == ("FAILED", "ENGINE") and hardware.state("error_info")[2] == isa.MOST_DESCRIPTORS + 12
    assert "program eval from descriptor 65535, image 0, step 0" in hardware.state("text")


def test_abort_between_pieces(library):
    """The host asks to stop while the first of two pieces runs."""
    firmware, hardware = booted(library)

    def engine(registers):
        if registers["program_len"] == isa.MOST_DESCRIPTORS:
            hardware.ring(command=mailbox.COMMANDS["ABORT"])
        return 100, {}

    hardware.engine = engine
    hardware.ring(**job(eval=(0x1000, isa.MOST_DESCRIPTORS + 7)))
    firmware.poll()
    assert state(hardware) == ("ABORTED", "ABORTED") and hardware.starts[-1]["program_len"] == isa.MOST_DESCRIPTORS
