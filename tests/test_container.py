"""The .ldp container: round trip, and every way in which a file can be bad."""

import numpy as np
import pytest

from litediffusion.sw.container import ContainerError, Program, load


@pytest.fixture
def path(tmp_path):
    program = Program(np.arange(1000, dtype=np.uint16).view(np.uint8), {"name": "test"}, 0x1234)
    program.save(tmp_path / "a.ldp")
    return tmp_path / "a.ldp"


def test_round_trip(path):
    program = load(path, 0x1234)
    assert program.meta == {"name": "test"} and (program.image.view(np.uint16) == np.arange(1000)).all()


def test_every_truncation_is_refused(path):
    data = path.read_bytes()
    for length in list(range(0, 200)) + [len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ContainerError):
            load(path)


def test_every_flipped_byte_is_refused(path):
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:])
        with pytest.raises(ContainerError):
            load(path)


def test_wrong_configuration_is_refused(path):
    with pytest.raises(ContainerError, match="00001234.*00005678.*recompile"):
        load(path, 0x5678)
