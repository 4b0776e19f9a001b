"""Registers in LiteX's buses and streams, where its paths are too long for an ECP5 at 75 MHz.

Without them one path goes from Etherbone's packet buffer over the bus, its decoders and LiteDRAM's bridge into the CPU's
pipeline, and another from the end of a UDP datagram through every protocol back to the PHY's buffer.
"""

from litex.gen import LiteXModule
from litex.gen.genlib.misc import WaitTimer
from litex.soc.interconnect import stream, wishbone
from migen import *


class WishboneSlice(LiteXModule):
    """Registers both ways between ``master`` and ``slave``: an access takes two cycles longer, no path leads through.

    master : wishbone.Interface that the slice answers
    slave  : wishbone.Interface that the slice drives; its address and data are as wide

    An access that the master gives up goes on at the slave, and its answer is dropped.
    """

    def __init__(self, master, slave):
        busy, wanted = Signal(), Signal()
        answered = Signal()
        self.comb += [
            wanted.eq(master.cyc & master.stb & ~master.ack & ~master.err & ~busy),
            slave.cyc.eq(busy), slave.stb.eq(busy), answered.eq(busy & (slave.ack | slave.err)),
        ]
        given_up = Signal()
        self.sync += [
            master.ack.eq(slave.ack & answered & master.cyc & ~given_up),
            master.err.eq(slave.err & answered & master.cyc & ~given_up),
            If(answered, busy.eq(0), master.dat_r.eq(slave.dat_r)),
            If(busy & ~master.cyc, given_up.eq(1)),
            If(wanted, busy.eq(1), given_up.eq(0),
               *[getattr(slave, name).eq(getattr(master, name)) for name in ("adr", "dat_w", "sel", "we")]),
        ]


def slice_slave(soc, name):
    """Put a WishboneSlice before the slave ``name`` of a SoC's bus."""
    slave = soc.bus.slaves[name]
    master = wishbone.Interface(data_width=slave.data_width, address_width=slave.address_width, addressing=slave.addressing)
    soc.bus.slaves[name] = master
    soc.add_module(f"{name}_slice", WishboneSlice(master, slave))


def slice_master(soc, name):
    """Put a WishboneSlice behind the master ``name`` of a SoC's bus."""
    master = soc.bus.masters[name]
    slave = wishbone.Interface(data_width=master.data_width, address_width=master.address_width, addressing=master.addressing)
    soc.bus.masters[name] = slave
    soc.add_module(f"{name}_slice", WishboneSlice(master, slave))


class TimeoutRegister(LiteXModule):
    """The end of a bus's time-out from a register. LiteX compares its counter with 0 in front of every acknowledge, which puts
    13 bits before the CPU's pipeline. Add this after the interconnect is finalised: the later assignment wins.

    interconnect : wishbone.InterconnectShared with a time-out
    cycles       : of that time-out, 2 or more
    """

    def __init__(self, interconnect, cycles):
        (_, timer), = interconnect.timeout._submodules
        self.ahead = ahead = WaitTimer(cycles - 1)
        done = Signal()
        self.comb += [ahead.wait.eq(timer.wait), timer.done.eq(done)]
        self.sync += done.eq(ahead.done & timer.wait)


class PortBuffer(LiteXModule):
    """Registers between a LiteEth crossbar and one of its users. With the ready paths cut no path leads from one user to
    another (an echo's answer waits for the PHY, and its question for the answer).

    crossbar      : LiteEthCrossbar, before it is finalised
    user          : key of the user, for instance an Ethernet type
    receive, send : paths that are cut in each direction, of "valid" (and data) and "ready"
    """

    def __init__(self, crossbar, user, receive=(), send=()):
        inner = crossbar.users[user]
        crossbar.users[user] = outer = type(inner)(len(inner.source.data))
        cut = lambda endpoint, paths: stream.Buffer(endpoint.description, pipe_valid="valid" in paths, pipe_ready="ready" in paths)
        self.receive, self.send = cut(inner.source, receive), cut(inner.sink, send)
        self.comb += [
            outer.source.connect(self.receive.sink), self.receive.source.connect(inner.source),
            inner.sink.connect(self.send.sink), self.send.source.connect(outer.sink),
        ]
