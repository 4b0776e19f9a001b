"""The bulk transfer's gateware, verilated, against its model: every reply, every byte of memory, every kind of bad packet."""

import ctypes
from dataclasses import replace
from pathlib import Path
import random

from litedram.common import LiteDRAMNativePort
from litex.gen.fhdl.verilog import convert
from migen import ClockDomain, Module, Signal
import pytest

from litediffusion.soc import bulk_protocol as protocol
from litediffusion.soc.bulk import Bulk
from litediffusion.soc.bulk_model import BulkModel
from litediffusion.soc.bulk_protocol import OPS, Packet
from litediffusion.targets.verilator import build

HERE = Path(__file__).parent
BASE, SIZE, BEYOND = 0x4000, 0x2C000, 0x4000     # window, neither at 0 nor a power of two, and what follows it
SESSION = 0x5EED_1234
QUIET = 200                                      # cycles without a sign of life after which all is done
HOST = (0xC0A80164, 40001)


def bench_verilog(width):
    """Verilog of Bulk with a native port of ``width`` bits; streams and port as pins."""
    m = Module()
    m.clock_domains.cd_sys = ClockDomain("sys")
    port = LiteDRAMNativePort("both", 20, width)
    m.submodules.bulk = bulk = Bulk(port, BASE, SIZE)
    ios = {m.cd_sys.clk, m.cd_sys.rst}

    def pin(name, signal, output):
        outside = Signal(len(signal), name_override=name)
        m.comb += outside.eq(signal) if output else signal.eq(outside)
        ios.add(outside)

    pin("session", bulk.session, False)
    pin("busy", bulk.busy, True)
    ends = {"sink": (bulk.sink, "data last ip_address src_port length", False),
            "source": (bulk.source, "data last ip_address dst_port length", True),
            "cmd": (port.cmd, "addr we", True), "wdata": (port.wdata, "data", True), "rdata": (port.rdata, "data", False)}
    for name, (end, fields, output) in ends.items():
        for field in ["valid", *fields.split()]:
            pin(f"{name}_{field}", getattr(end, field), output)
        pin(f"{name}_ready", end.ready, not output)
    return str(convert(m, ios=ios, name="bulk_bench"))


@pytest.fixture(scope="session", params=[128, 32], ids=["native 128", "native 32"])
def library(request):
    folder = HERE.parent / "build" / "tests" / f"bulk{request.param}"       # kept: unchanged gateware is not built again
    folder.mkdir(parents=True, exist_ok=True)
    verilog, text = folder / "bulk_bench.v", bench_verilog(request.param)
    if not verilog.exists() or verilog.read_text() != text:
        verilog.write_text(text)
    lib = ctypes.CDLL(str(build([verilog], [HERE / "bulk_bench.cpp"], folder / "build", "bulk_bench", shared=True,
                                cflags=[f"-DBULK_NATIVE_BYTES={request.param // 8}"])))
    lib.bench_new.restype = lib.bench_memory.restype = ctypes.c_void_p
    lib.bench_cycles.restype = ctypes.c_uint64
    lib.native_bytes = request.param // 8
    return lib


class Bench:
    """The gateware and its model, with the same memory."""

    def __init__(self, lib, stall=0, seed=1):
        self.lib, self.handle, self.rng = lib, ctypes.c_void_p(lib.bench_new(BASE + SIZE + BEYOND)), random.Random(seed)
        total = BASE + SIZE + BEYOND
        self.memory = (ctypes.c_uint8 * total).from_address(lib.bench_memory(self.handle))
        self.memory[:] = self.rng.randbytes(total)
        self.around = bytes(self.memory[:BASE]), bytes(self.memory[BASE + SIZE:])
        self.model = BulkModel(bytearray(self.memory[BASE:BASE + SIZE]), lib.native_bytes)
        self.grain = lib.native_bytes
        self.open(SESSION)
        lib.bench_stall(self.handle, stall, seed)

    def open(self, session):
        self.model.session = session
        self.lib.bench_session(self.handle, ctypes.c_uint32(session))

    def send(self, data, length=None, host=HOST):
        """Queue a datagram; ``length``: what UDP's header says, where that is not the truth."""
        padded = data + bytes(-len(data) % 4)
        words = (ctypes.c_uint32 * (len(padded) // 4)).from_buffer_copy(padded)
        self.lib.bench_send(self.handle, words, len(words), len(data) if length is None else length, *host)

    def run(self, limit=500_000):
        assert self.lib.bench_run(self.handle, QUIET, limit), f"still busy after {limit} cycles"
        assert self.lib.bench_errors(self.handle) == 0

    def replies(self):
        """[(bytes, host)] of the replies so far."""
        found, words = [], (ctypes.c_uint32 * 512)()
        length, ip, port = ctypes.c_uint32(), ctypes.c_uint32(), ctypes.c_uint32()
        while n := self.lib.bench_reply(self.handle, words, *map(ctypes.byref, (length, ip, port))):
            assert length.value == 4 * n
            found.append((bytes(words)[:4 * n], (ip.value, port.value)))
        return found

    def exchange(self, data, **kwargs):
        """One datagram through both; returns the reply. Raises AssertionError unless they agree."""
        expected = self.model.handle(data)
        self.send(data, **kwargs)
        self.run()
        got = [reply for reply, _ in self.replies()]
        assert got == ([] if expected is None else [expected])
        return expected and protocol.unpack(expected)

    def check_memory(self):
        assert bytes(self.memory[BASE:BASE + SIZE]) == bytes(self.model.window)
        assert (bytes(self.memory[:BASE]), bytes(self.memory[BASE + SIZE:])) == self.around

    def good(self, op, offset=None, length=None, session=SESSION):
        """A random good packet."""
        longest = protocol.MAX_SUM if op == "SUM" else protocol.MAX_PAYLOAD
        length = length or self.grain * self.rng.randint(1, min(longest, 0x3000) // self.grain)
        if offset is None:
            offset = self.grain * self.rng.randint(0, (SIZE - length) // self.grain)
        payload = self.rng.randbytes(length) if op == "WRITE" else b""
        return Packet(OPS[op], session, self.rng.getrandbits(32), offset, length, payload)


@pytest.mark.parametrize("stall", [0, 30, 80])
def test_random_packets(library, stall):
    bench = Bench(library, stall, seed=stall)
    for _ in range(60):
        reply = bench.exchange(bench.good(bench.rng.choice(list(OPS))).pack())
        assert reply.status == protocol.OK
    bench.check_memory()


@pytest.mark.parametrize("op", OPS)
def test_edges_of_the_window(library, op):
    bench = Bench(library, 20)
    g = bench.grain
    for offset, length in [(0, g), (0, 1024), (SIZE - g, g), (SIZE - 1024, 1024)]:
        assert bench.exchange(bench.good(op, offset, length).pack()).status == protocol.OK
    for offset, length in [(SIZE, g), (SIZE - g, 2 * g), (SIZE - 1024 + g, 1024), (2**32 - g, g), (2**32 - 1024, 1024), (2**31, g)]:
        assert bench.exchange(bench.good(op, offset, length).pack()).status == protocol.BAD_RANGE
    bench.check_memory()


def test_longest_sum(library):
    bench, longest = Bench(library), protocol.MAX_SUM
    for offset, length, status in [(0, longest, protocol.OK), (SIZE - longest, longest, protocol.OK),
                                   (SIZE - longest + bench.grain, longest, protocol.BAD_RANGE),
                                   (0, longest + bench.grain, protocol.BAD_LENGTH), (0, 2 * longest, protocol.BAD_LENGTH)]:
        assert bench.exchange(bench.good("SUM", offset, length).pack()).status == status


def bad_requests(bench):
    """{name: (packet, status)}"""
    g, write, read = bench.grain, bench.good("WRITE", 256, 512), bench.good("READ", 256, 512)
    return {
        "operation 0": (replace(write, op=0), protocol.BAD_OP),
        "operation 4": (replace(read, op=4), protocol.BAD_OP),
        "a reply": (replace(read, op=OPS["READ"] | protocol.REPLY), protocol.BAD_OP),
        "other session": (replace(write, session=SESSION ^ 1), protocol.BAD_SESSION),
        "no session": (replace(write, session=0), protocol.BAD_SESSION),
        "length above the payload": (replace(write, length=512 + g), protocol.BAD_LENGTH),
        "length below the payload": (replace(write, length=512 - g), protocol.BAD_LENGTH),
        "length with high bits": (replace(write, length=512 + 2**31), protocol.BAD_LENGTH),
        "length 0": (replace(read, length=0), protocol.BAD_LENGTH),
        "length 0, write": (replace(write, length=0, payload=b""), protocol.BAD_LENGTH),
        "offset 2": (replace(write, offset=258), protocol.BAD_LENGTH),
        "length 2": (replace(read, length=258), protocol.BAD_LENGTH),
        "half a word": (replace(read, offset=g // 2), protocol.BAD_LENGTH),
        "read too long": (replace(read, length=1024 + g), protocol.BAD_LENGTH),
        "read with payload": (replace(read, payload=bytes(512)), protocol.BAD_LENGTH),
        "sum with payload": (replace(read, op=OPS["SUM"], payload=bytes(4)), protocol.BAD_LENGTH),
    }


def test_bad_requests(library):
    bench = Bench(library, 20)
    for name, (packet, status) in bad_requests(bench).items():
        reply = bench.exchange(packet.pack())
        assert reply.status == status, name
        assert bench.exchange(bench.good("SUM", 0, 1024).pack()).status == protocol.OK
    bench.check_memory()


def test_session_0_accepts_nothing(library):
    bench = Bench(library)
    bench.open(protocol.NO_SESSION)
    for session in (0, SESSION):
        assert bench.exchange(bench.good("WRITE", session=session).pack()).status == protocol.BAD_SESSION
    bench.check_memory()


def test_packets_of_an_ended_session(library):
    """What the network kept from an earlier session must not overwrite what came after it."""
    bench = Bench(library)
    late = bench.good("WRITE", 0, 1024)
    assert bench.exchange(late.pack()).status == protocol.OK
    bench.open(SESSION + 1)
    assert bench.exchange(bench.good("WRITE", 0, 1024, SESSION + 1).pack()).status == protocol.OK
    assert bench.exchange(late.pack()).status == protocol.BAD_SESSION
    bench.check_memory()


def test_every_flipped_bit_is_seen(library):
    bench = Bench(library)
    data = bench.good("WRITE", 512, 2 * bench.grain).pack()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert bench.exchange(bytes(damaged)) is None
    bench.check_memory()


def test_lengths_that_are_no_packet(library):
    """Truncated, too long, odd, empty; also frames shorter or longer than UDP's header claims."""
    bench = Bench(library, 10)
    whole = bench.good("WRITE", 0, 1024).pack()
    for size in [1, 3, 4, 8, 24, 26, 27, 500, 1024, len(whole) - 4, len(whole) - 1]:
        assert bench.exchange(whole[:size]) is None
    assert bench.exchange(whole + bytes(4)) is None
    assert bench.exchange(whole + bench.rng.randbytes(420)) is None
    good = bench.good("SUM", 0, 1024).pack()
    part = bench.good("WRITE", 0, 512).pack()
    for packet, claimed in [(packet, claimed) for packet in (whole, part)
                            for claimed in (0, 4, len(packet) - 4, len(packet) + 4, 1472, 0xFFFC, 0xFFFF)]:
        bench.send(packet, length=claimed)
        bench.model.damaged += 1
        assert bench.exchange(good).status == protocol.OK
    bench.check_memory()


def test_wrong_magic_with_a_right_crc(library):
    bench = Bench(library)
    body = bytearray(bench.good("WRITE").pack()[:-4])
    body[3] ^= 2
    assert bench.exchange(bytes(body) + protocol.zlib.crc32(body).to_bytes(4, "little")) is None
    bench.check_memory()


def test_answers_go_to_the_sender(library):
    bench = Bench(library)
    for host in [(0xC0A80164, 1), (0x0A000001, 65535)]:
        bench.send(bench.good("READ").pack(), host=host)
        bench.run()
        assert [to for _, to in bench.replies()] == [host]


@pytest.mark.parametrize("stall", [0, 40])
def test_packets_in_close_succession(library, stall):
    """Whatever the device has no room for is dropped as a whole, counted, and everything answered is done."""
    bench = Bench(library, stall, seed=7)
    packets = {p.sequence: p for p in (bench.good("WRITE", 1024 * i, 1024) for i in range(60))}
    rounds = dropped = 0
    left = dict(packets)
    while left:
        rounds += 1
        assert rounds < 60
        for packet in left.values():
            bench.send(packet.pack())
        bench.run()
        replies = [protocol.unpack(data) for data, _ in bench.replies()]
        assert replies and all(r.status == protocol.OK and r.damaged == 0 for r in replies)
        dropped += len(left) - len(replies)
        for reply in replies:
            assert reply.sequence in left
            bench.model.window[reply.offset:reply.offset + 1024] = left.pop(reply.sequence).payload
    bench.check_memory()
    assert dropped > 0 and protocol.unpack(bench_probe(bench)).full == dropped % 256


def bench_probe(bench):
    bench.send(bench.good("SUM", 0, 1024).pack())
    bench.run()
    return bench.replies()[-1][0]


def test_cycles_of_a_packet(library):
    """What sets the rate: two passes over the packet and some 50 cycles, with a DRAM of a native word every two cycles."""
    bench, n = Bench(library), 3
    begin = library.bench_cycles(bench.handle)
    for i in range(n):
        bench.send(bench.good("WRITE", 1024 * i, 1024).pack())
    bench.run()
    each = (library.bench_cycles(bench.handle) - begin - QUIET - 264) / n
    assert len(bench.replies()) == n
    assert each < (600 if bench.grain == 16 else 900)
