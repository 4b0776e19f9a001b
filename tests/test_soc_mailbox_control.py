"""Claim, lease, release and doorbell of the mailbox, at the registers."""

from migen import run_simulation
import pytest

from litediffusion.soc.mailbox_control import MailboxControl

LEASE = 20
HOST_A, HOST_B = 0xA1, 0xB2


def write(csr, value):
    yield from csr.write(value)
    yield
    yield


def owner_after(*steps, lease=LEASE):
    """Owner at the end of ``steps``: (register, value) or a number of cycles to wait."""
    dut, seen = MailboxControl(lease), []

    def stimulus():
        for step in steps:
            if isinstance(step, int):
                for _ in range(step):
                    yield
            else:
                yield from write(getattr(dut, f"_{step[0]}"), step[1])
        seen.append((yield dut._owner.status))

    run_simulation(dut, stimulus())
    return seen[0]


def test_free_device_is_claimed():
    assert owner_after() == 0
    assert owner_after(("claim", HOST_A)) == HOST_A


def test_second_host_is_refused():
    assert owner_after(("claim", HOST_A), ("claim", HOST_B)) == HOST_A


def test_zero_is_no_nonce():
    assert owner_after(("claim", 0)) == 0


def test_release_only_by_owner():
    assert owner_after(("claim", HOST_A), ("release", HOST_B)) == HOST_A
    assert owner_after(("claim", HOST_A), ("release", HOST_A)) == 0
    assert owner_after(("claim", HOST_A), ("release", HOST_A), ("claim", HOST_B)) == HOST_B


@pytest.mark.parametrize("wait, owner", [(LEASE - 3, HOST_A), (LEASE + 3, 0)])
def test_lease_lapses(wait, owner):
    assert owner_after(("claim", HOST_A), wait) == owner


def test_claim_renews():
    steps = [("claim", HOST_A), LEASE - 6] * 2
    assert owner_after(*steps, ("claim", HOST_B)) == HOST_A
    assert owner_after(steps[0], LEASE - 6, 8, ("claim", HOST_B)) == HOST_B, "without the renewals it lapses"


def test_claim_after_lapse():
    assert owner_after(("claim", HOST_A), LEASE + 3, ("claim", HOST_B)) == HOST_B


def test_doorbell_is_pending_until_cleared():
    dut, seen = MailboxControl(LEASE), []

    def stimulus():
        seen.append((yield dut.ev.doorbell.pending))
        yield from write(dut._doorbell, 1)
        seen.append((yield dut.ev.doorbell.pending))
        yield dut.ev.pending.r.eq(1)
        yield dut.ev.pending.re.eq(1)
        yield
        yield dut.ev.pending.re.eq(0)
        yield
        yield
        seen.append((yield dut.ev.doorbell.pending))

    run_simulation(dut, stimulus())
    assert seen == [0, 1, 0]


def test_lease_out_of_range():
    with pytest.raises(ValueError, match="lease_cycles=0"):
        MailboxControl(0)
