"""The firmware's generated header says what the Python tables say, as a C compiler reads it."""

import subprocess

import pytest

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS, EngineConfig
from litediffusion.cores.regs import REGS
from litediffusion.firmware import header, host
from litediffusion.soc import mailbox

CONFIG = PRESETS["ecpix5"]


def values(folder, expressions, config=CONFIG):
    """Values of C expressions, printed by a compiled program."""
    (folder / "ldi_tables.h").write_text(header.generate(config))
    lines = "".join(f'printf("%lu\\n", (unsigned long)({e}));' for e in expressions)
    (folder / "t.c").write_text('#include <stdio.h>\n#include <stddef.h>\n#include "ldi_tables.h"\n'
                                f"const uint32_t program[] = LDI_SELFTEST_PROGRAM;\nint main(void) {{ {lines} }}\n")
    subprocess.run([host.os.environ.get("CC", "gcc"), "-Wall", "-Werror", f"-I{folder}", "-o", folder / "t", folder / "t.c"],
                   check=True)
    return [int(line) for line in subprocess.run([folder / "t"], check=True, capture_output=True).stdout.split()]


def test_offsets_enums_and_registers_agree_with_the_tables(tmp_path):
    expected = {f"LDI_STATE_{n.upper()}": at for n, (at, _) in mailbox.STATE_AT.items()}
    expected |= {f"LDI_JOB_BASE + offsetof(struct ldi_job, {n})": at for n, (at, _) in mailbox.JOB_AT.items()}
    expected |= {f"LDI_COMMAND_{n}": v for n, v in mailbox.COMMANDS.items()}
    expected |= {f"LDI_JOB_STATE_{n}": v for n, v in mailbox.JOB_STATES.items()}
    expected |= {f"LDI_ERROR_{n}": v for v, (n, _) in mailbox.ERRORS.items()}
    expected |= {f"LDI_REG_{r.name.upper()}": i for i, r in enumerate(REGS)}
    expected |= {"LDI_CONFIG_HASH": CONFIG.hash, "LDI_MAGIC": mailbox.MAGIC, "LDI_REG_COUNT": len(REGS)}
    assert dict(zip(expected, values(tmp_path, expected))) == expected


def test_state_and_job_fit_the_mailbox():
    ends = [max(at + 4 * words for at, words in t.values()) for t in (mailbox.STATE_AT, mailbox.JOB_AT)]
    assert ends[0] <= mailbox.JOB_BASE and ends[1] <= mailbox.SIZE


def test_the_selftest_program_is_the_encoders(tmp_path):
    data = header.selftest_program(CONFIG)
    words = values(tmp_path, [f"program[{i}]" for i in range(len(data) // 4)] + ["sizeof(program)"])
    assert b"".join(w.to_bytes(4, "little") for w in words[:-1]) == data and words[-1] == len(data)
    ops = [isa.decode(data[i:i + 64])[0] for i in range(0, len(data), 64)]
    assert ops == ["LOAD", "STORE", "END"]
    assert len(data) <= header.SELFTEST_SOURCE


def test_the_header_follows_the_configuration(tmp_path):
    small = EngineConfig(spm_words=64)
    assert values(tmp_path, ["LDI_CONFIG_HASH"], small) == [small.hash] != [CONFIG.hash]
    assert header.selftest_program(small) != header.selftest_program(CONFIG)


def test_an_unchanged_header_is_not_written_again(tmp_path):
    path = tmp_path / "h.h"
    header.main(["-o", str(path)])
    first = path.stat().st_mtime_ns
    header.main(["-o", str(path)])
    assert path.stat().st_mtime_ns == first and path.read_text() == header.generate(CONFIG)
    path.write_text("old")
    header.main(["--preset", "ecpix5", "-o", str(path)])
    assert path.read_text() == header.generate(CONFIG)


def test_an_unknown_preset_is_refused(capsys):
    with pytest.raises(SystemExit):
        header.main(["--preset", "nonsense"])
    assert "ecpix5" in capsys.readouterr().err
