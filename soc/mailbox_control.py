"""CSRs beside the mailbox memory: a test-and-set claim with a lease, and the doorbell."""

from migen import *

from litex.gen import LiteXModule
from litex.soc.interconnect.csr import CSRStatus, CSRStorage
from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourcePulse


class MailboxControl(LiteXModule):
    """One owner at a time, and a bell for the CPU.

    A host writes its nonce (not 0) to ``claim`` and reads ``owner``: it owns the device if it reads its nonce back.
    Claiming again renews the lease; without renewal it lapses after ``lease_cycles`` cycles of the system clock, so
    a host that vanished blocks nobody for long. A claim by another host meanwhile has no effect. ``release`` frees
    the device if the value written is the owner's. Each write takes effect two cycles after it is acknowledged at
    the latest, so a read that follows on the bus sees it.

    ``doorbell`` raises the event ``ev.doorbell`` (pending until the CPU clears it, an interrupt if enabled).
    """

    def __init__(self, lease_cycles):
        if not 1 <= lease_cycles < 1 << 32:
            raise ValueError(f"lease_cycles={lease_cycles} must be in 1..2^32-1")
        self._claim = CSRStorage(32, description="Nonce of the host that wants the device; renews its lease.")
        self._release = CSRStorage(32, description="Nonce of the host that gives the device back.")
        self._owner = CSRStatus(32, description="Nonce of the host that owns the device, 0: free.")
        self._lease = CSRStatus(32, description="Cycles until the owner's claim lapses.")
        self._doorbell = CSRStorage(1, description="Any write rings the CPU: a job lies in the mailbox.")
        self.ev = EventManager()
        self.ev.doorbell = EventSourcePulse(description="A host rang the doorbell.")
        self.ev.finalize()

        # # #

        owner, lease = self._owner.status, self._lease.status
        nonce = self._claim.storage
        self.comb += self.ev.doorbell.trigger.eq(self._doorbell.re)
        self.sync += [
            If(lease == 0, owner.eq(0)).Else(lease.eq(lease - 1)),
            If(self._release.re & (self._release.storage == owner), owner.eq(0), lease.eq(0)),
            If(self._claim.re & (nonce != 0) & ((owner == 0) | (owner == nonce) | (lease == 0)),
                owner.eq(nonce), lease.eq(lease_cycles)),
        ]
