"""The tables: instruction encoding, registers, generated documentation, packaging."""

from pathlib import Path
import tomllib

import pytest
from hypothesis import given, settings, strategies as st

from litediffusion.cores import isa, reference
from litediffusion.cores.config import PRESETS, EngineConfig
from litediffusion.cores.regs import REGS, TRACE_FIELDS
from litediffusion.cores.validate import ALIGNED, MAXIMUM, NONZERO

ROOT = Path(__file__).resolve().parent.parent


def field_values(op):
    """Strategy of legal values for every field of an instruction but the opcode."""
    out = {}
    for f in isa.FIELDS[op]:
        if f.name != "opcode":
            lo, hi = (-(1 << f.bits - 1), (1 << f.bits - 1) - 1) if f.signed else (0, (1 << f.bits) - 1)
            out[f.name] = st.integers(lo, hi)
    return st.fixed_dictionaries(out)


@pytest.mark.parametrize("op", isa.OPS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_encode_decode(op, data):
    values = data.draw(field_values(op))
    name, decoded = isa.decode(isa.encode(op, **values))
    assert name == op and decoded == dict(values, opcode=isa.OPCODE[op])


def test_encode_names_field_value_and_range():
    with pytest.raises(ValueError, match=r"GEMM: nky=16 is outside 0\.\.15"):
        isa.encode("GEMM", nky=16)
    with pytest.raises(ValueError, match="unknown fields"):
        isa.encode("LOAD", nosuch=1)


def test_decode_refuses_bad_bits():
    with pytest.raises(ValueError, match="opcode 99"):
        isa.decode(bytes([99]) + bytes(63))
    with pytest.raises(ValueError, match="corrupt"):
        isa.decode(isa.encode("END")[:-1] + b"\x80")


def test_rules_speak_of_existing_fields():
    for table in (NONZERO, MAXIMUM, ALIGNED):
        for op, names in table.items():
            assert set(names) <= {f.name for f in isa.FIELDS[op]}
    assert all(layout[-1][1] + layout[-1][0].bits <= isa.DESC_BITS for layout in map(isa.layout, isa.OPS))


def test_registers_and_trace():
    assert len({r.name for r in REGS}) == len(REGS)
    assert sum(bits for _, bits in TRACE_FIELDS) == 128
    assert len(isa.TOKEN_NAMES) == isa.TOKENS


def test_parameter_record():
    data = isa.encode_param([1, -2] + [0] * 6, [-5] + [0] * 7, shift=7, omult=-3, eps_m=0xFFFFFFFF)
    assert len(data) == isa.PARAM_BYTES
    assert isa.decode_scalars(data) | {"shift": 7, "omult": -3, "eps_m": 0xFFFFFFFF} == isa.decode_scalars(data)
    with pytest.raises(ValueError, match="mult"):
        isa.encode_param([40000] + [0] * 7)


def test_config_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="power of two"):
        EngineConfig(spm_words=3000)
    with pytest.raises(ValueError, match="twice"):
        EngineConfig(k_lanes=8)
    with pytest.raises(ValueError, match="post_lanes=3 must be 1, 2, 4 or 8"):
        EngineConfig(post_lanes=3)
    assert EngineConfig(spm_words=8192).hash != PRESETS["ecpix5"].hash == EngineConfig(name="other", queue_depth=16, trace=False,
                                                                                              lut_multipliers=True).hash


def test_reference_in_readme_is_current():
    text = reference.README.read_text()
    assert reference.updated(text) == text, "run: python -m litediffusion.cores.reference"


def test_packages_match_the_tree():
    """A package that is not listed works when editable and is missing from the wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent.relative_to(ROOT) for top in ("soc", "cores", "firmware", "targets", "sw") for p in (ROOT / top).rglob("__init__.py")}
    assert {f"litediffusion.{'.'.join(f.parts)}" for f in folders} == set(listed["packages"]) == set(listed["package-dir"])
