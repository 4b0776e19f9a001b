"""Validation of jobs in the firmware's C code, against the tables and against a reference in Python integers."""

import random

import pytest

from litediffusion.cores.config import PRESETS
from litediffusion.cores.isa import DESC_BYTES
from litediffusion.firmware import host
from litediffusion.soc import mailbox
from litediffusion.soc.memory_map import SELFTEST_BYTES, WINDOW_SIZE

HASH = PRESETS["ecpix5"].hash
CODE = {name: code for code, (name, _) in mailbox.ERRORS.items()}
PARTS = ("init", "eval", "update", "finish", "trace", "image")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return host.build(tmp_path_factory.mktemp("firmware"))


def good_job(name="GENERATE", **changes):
    fields = dict(command=mailbox.COMMANDS[name], id=7, config_hash=HASH, abi=mailbox.ABI_VERSION,
                  image_bytes=0x10000, init=(0, 3), eval=(0x1000, 300), update=(0x8000, 4), finish=(0x9000, 5),
                  steps=20, max_steps=50, evals=2, guidance=3 << 12, batch=4, null_label=10, watchdog=100_000,
                  labels=(1, 2, 3, 4) + (0,) * 12)
    job = host.Job()
    for field, value in {**fields, **changes}.items():
        words = dict((n, w) for n, w, _ in mailbox.JOB)[field]
        setattr(job, field, (host.ct.c_uint32 * words)(*value) if words > 1 else value)
    return job


@pytest.mark.parametrize("command", ["GENERATE", "RUN", "SELFTEST"])
def test_a_good_job_is_accepted(library, command):
    accepted, fault = host.check(library, good_job(command), HASH)
    assert accepted and fault.error == 0 and fault.text.s == b""


LIMIT, MOST = mailbox.MAX_STEPS, WINDOW_SIZE // DESC_BYTES
BAD = [   # error, value, limit, part, changes
    ("BAD_COMMAND", 0, 4, 0, dict(command=0)),
    ("BAD_COMMAND", mailbox.COMMANDS["ABORT"], 4, 0, dict(command=mailbox.COMMANDS["ABORT"])),
    ("BAD_COMMAND", 5, 4, 0, dict(command=5)),
    ("BAD_COMMAND", 0xFFFFFFFF, 4, 0, dict(command=0xFFFFFFFF)),
    ("BAD_ABI", 2, 1, 0, dict(abi=2)),
    ("WRONG_CONFIG", HASH ^ 1, HASH, 0, dict(config_hash=HASH ^ 1)),
    ("BAD_ID", 0, 0xFFFFFFFF, 0, dict(id=0)),
    ("BAD_STEPS", 0, 50, 0, dict(steps=0)),
    ("BAD_STEPS", 51, 50, 0, dict(steps=51)),
    ("BAD_STEPS", 1, 0, 0, dict(steps=1, max_steps=0)),
    ("BAD_STEPS", LIMIT + 1, LIMIT, 0, dict(steps=LIMIT + 1, max_steps=LIMIT + 1)),
    ("BAD_STEPS", 0xFFFFFFFF, LIMIT, 0, dict(steps=0xFFFFFFFF, max_steps=0xFFFFFFFF)),
    ("BAD_BATCH", 0, mailbox.MAX_BATCH, 0, dict(batch=0)),
    ("BAD_BATCH", mailbox.MAX_BATCH + 1, mailbox.MAX_BATCH, 0, dict(batch=mailbox.MAX_BATCH + 1)),
    ("BAD_EVALS", 0, 2, 0, dict(evals=0)),
    ("BAD_EVALS", 3, 2, 0, dict(evals=3)),
    ("BAD_WATCHDOG", 0, 0xFFFFFFFF, 0, dict(watchdog=0)),
    ("BAD_INDEX", 0x10000, 0xFFFF, 0, dict(labels=(0, 0x10000) + (0,) * 14)),
    ("BAD_INDEX", 0x10000, 0xFFFF, 0, dict(null_label=0x10000)),
    ("BAD_INDEX", 1 << 31, 0xFFFF, 0, dict(command=mailbox.COMMANDS["RUN"], index=(0, 0, 1 << 31, 0))),
    ("BAD_ADDRESS", WINDOW_SIZE + 1, WINDOW_SIZE, 5, dict(image_bytes=WINDOW_SIZE + 1)),
    ("BAD_ADDRESS", WINDOW_SIZE, WINDOW_SIZE - SELFTEST_BYTES, 5,
     dict(command=mailbox.COMMANDS["SELFTEST"], image_bytes=WINDOW_SIZE)),
    ("BAD_ADDRESS", 8, WINDOW_SIZE, 4, dict(command=mailbox.COMMANDS["RUN"], trace=(1, 8, 64))),
    ("BAD_ADDRESS", WINDOW_SIZE - 48, WINDOW_SIZE, 4,
     dict(command=mailbox.COMMANDS["RUN"], trace=(1, WINDOW_SIZE - 48, 64))),
    ("BAD_ADDRESS", 64, WINDOW_SIZE, 4, dict(command=mailbox.COMMANDS["RUN"], trace=(1, 64, 0xFFFFFFC0))),
    ("BAD_LENGTH", 0x10000, 0xFFFF, 4, dict(command=mailbox.COMMANDS["RUN"], init=(0, 0x10000), trace=(1, 64, 64))),
]
for part, name in enumerate(PARTS[:4]):
    BAD += [
        ("BAD_LENGTH", 0, MOST, part, {name: (0, 0)}),
        ("BAD_LENGTH", MOST + 1, MOST, part, {name: (0, MOST + 1)}),
        ("BAD_ADDRESS", 64, WINDOW_SIZE, part, {name: (64, MOST)}),
        ("BAD_LENGTH", 1 << 26, MOST, part, {name: (64, 1 << 26)}),          # times 64 is 0 modulo 2^32
        ("BAD_ADDRESS", 32, WINDOW_SIZE, part, {name: (32, 1)}),
        ("BAD_ADDRESS", WINDOW_SIZE, WINDOW_SIZE, part, {name: (WINDOW_SIZE, 1)}),
        ("BAD_ADDRESS", WINDOW_SIZE - 64, WINDOW_SIZE, part, {name: (WINDOW_SIZE - 64, 2)}),
        ("BAD_ADDRESS", 0xFFFFFFC0, WINDOW_SIZE, part, {name: (0xFFFFFFC0, 1)}),  # its end is 0 modulo 2^32
    ]


@pytest.mark.parametrize("error, value, limit, part, changes", BAD)
def test_each_bad_job_is_refused_with_value_limit_and_text(library, error, value, limit, part, changes):
    accepted, fault = host.check(library, good_job(**changes), HASH)
    assert not accepted
    assert (fault.error, list(fault.info)) == (CODE[error], [value, limit, part, 0])
    text = fault.text.s.decode()
    shown = [f"{n:#010x}" if n >= 0x10000 else str(n) for n in (value, limit)]
    assert text.startswith(f"{error}: {mailbox.ERRORS[CODE[error]][1]}: got {shown[0]}, ")
    assert shown[1] in text and len(text) == fault.text.length < mailbox.TEXT_BYTES
    if error in ("BAD_LENGTH", "BAD_ADDRESS"):
        assert text.endswith(f"({PARTS[part]})")


@pytest.mark.parametrize("name", PARTS[:4])
def test_the_last_word_of_the_window_may_be_used(library, name):
    assert host.check(library, good_job(**{name: (WINDOW_SIZE - 64, 1)}), HASH)[0]
    assert host.check(library, good_job(**{name: (0, MOST)}), HASH)[0]


def test_what_a_command_does_not_use_is_not_checked(library):
    assert host.check(library, good_job("RUN", steps=0, batch=99, evals=0, eval=(1, 0), labels=(1 << 20,) * 16), HASH)[0]
    assert host.check(library, good_job("RUN", trace=(0, 7, 0xFFFFFFFF)), HASH)[0]
    assert host.check(library, good_job("SELFTEST", watchdog=0, config_hash=0, init=(1, 0)), HASH)[0]
    unused = (1, 2, 3, 4) + (1 << 20,) * 12   # labels past the batch
    assert host.check(library, good_job(labels=unused), HASH)[0]
    assert host.check(library, good_job(evals=1, null_label=1 << 20), HASH)[0]


def reference(f):
    """The verdict in Python integers, which do not overflow: the name of the error, or None."""
    inside = lambda offset, size: offset + size <= WINDOW_SIZE
    if f["image_bytes"] > WINDOW_SIZE:
        return "BAD_ADDRESS"
    if not 1 <= f["steps"] <= min(f["max_steps"], mailbox.MAX_STEPS):
        return "BAD_STEPS"
    if not 1 <= f["batch"] <= mailbox.MAX_BATCH:
        return "BAD_BATCH"
    for name in PARTS[:4]:
        offset, count = f[name]
        if not 1 <= count <= MOST:
            return "BAD_LENGTH"
        if offset % DESC_BYTES or not inside(offset, count * DESC_BYTES):
            return "BAD_ADDRESS"
    return None


def test_random_jobs_near_the_limits_agree_with_the_reference(library):
    rng = random.Random(20)
    near = lambda *points: max(0, min(0xFFFFFFFF, rng.choice(points) + rng.choice((-64, -2, -1, 0, 0, 0, 1, 2, 64))))
    program = lambda: (near(0, WINDOW_SIZE - 64, WINDOW_SIZE, 1 << 31, 0xFFFFFFC0) if rng.random() < 0.3 else 0x4000,
                       near(1, MOST, 1 << 26, 0xFFFFFFFF) if rng.random() < 0.3 else 9)
    verdicts = set()
    for _ in range(3000):
        fields = {name: program() for name in PARTS[:4]}
        fields.update(steps=near(1, 50) if rng.random() < 0.2 else 20, max_steps=50,
                      batch=near(1, 16) if rng.random() < 0.2 else 4,
                      image_bytes=near(WINDOW_SIZE) if rng.random() < 0.1 else 99)
        expected = reference(fields)
        accepted, fault = host.check(library, good_job(labels=(0,) * 16, **fields), HASH)
        assert accepted == (expected is None) and mailbox.ERRORS[fault.error][0] == (expected or "OK"), fields
        verdicts.add(expected)
    assert verdicts == {None, "BAD_ADDRESS", "BAD_LENGTH", "BAD_STEPS", "BAD_BATCH"}
