"""The display's gateware: pixels on its pins against the frame in the DRAM, for every width of the DRAM's word."""

from litedram.common import LiteDRAMNativePort
from migen import ClockDomain, Module, passive, run_simulation
import numpy as np
import pytest

from litediffusion.soc.display import Display
from litediffusion.targets.sim_appliance import expand565

WIDTH, HEIGHT, BASE = 16, 4, 0x400
TIMING = dict(h_active=2 * WIDTH, h_blanking=20, h_sync_offset=4, h_sync_width=8, v_active=2 * HEIGHT, v_blanking=4,
              v_sync_offset=1, v_sync_width=2)
H_SCAN, V_SCAN = 2 * WIDTH + 20, 2 * HEIGHT + 4


class Bench(Module):
    def __init__(self, data_width):
        self.port = LiteDRAMNativePort("read", address_width=16, data_width=data_width)
        self.submodules.display = Display(self.port, BASE, WIDTH, HEIGHT, timing=TIMING)
        self.clock_domains.cd_video = ClockDomain(reset_less=True)


@passive
def memory(port, frame, rng):
    """Answers reads in order, with waits at random."""
    data, waiting = frame.astype("<u2").tobytes(), []
    size = port.data_width // 8
    while True:
        yield port.cmd.ready.eq(int(rng.random() < 0.7))
        yield
        if (yield port.cmd.valid) and (yield port.cmd.ready):
            at = (yield port.cmd.addr) * size - BASE
            assert 0 <= at < len(data), "a read outside the frame"
            waiting.append(int.from_bytes(data[at:at + size], "little"))
        if waiting and rng.random() < 0.7:
            yield port.rdata.data.eq(waiting.pop(0))
            yield port.rdata.valid.eq(1)
        else:
            yield port.rdata.valid.eq(0)


def watch(display, seen, frames):
    for _ in range(frames * H_SCAN * V_SCAN):
        pins = []
        for name in ("de", "hsync", "vsync", "r", "g", "b"):
            pins.append((yield getattr(display.source, name)))
        seen.append(pins)
        yield


def show(data_width, lines, sys_period, frames=2, seed=1):
    """(frame in the DRAM, pins [frames, V_SCAN, H_SCAN, 6])"""
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 1 << 16, (HEIGHT, WIDTH), dtype=np.uint16)
    bench, seen = Bench(data_width), []

    def start():
        yield bench.display.lines.eq(lines)
    run_simulation(bench, {"sys": [start(), memory(bench.port, frame, rng)], "video": [watch(bench.display, seen, frames)]},
                   clocks={"sys": sys_period, "video": 14})
    return frame, np.array(seen).reshape(frames, V_SCAN, H_SCAN, 6)


@pytest.mark.parametrize("data_width, sys_period", [(16, 4), (32, 6), (64, 14), (128, 30)])
def test_pixels_are_the_frames(data_width, sys_period):
    frame, pins = show(data_width, HEIGHT, sys_period)
    first = np.argwhere(pins[1, :, :, 0])[0]
    last = pins[1].reshape(-1, 6)
    at = first[0] * H_SCAN + first[1]
    shown = np.roll(last, -at, 0).reshape(V_SCAN, H_SCAN, 6)
    assert shown[:2 * HEIGHT, :2 * WIDTH, 0].all() and shown[..., 0].sum() == 4 * WIDTH * HEIGHT
    want = expand565(frame).repeat(2, 0).repeat(2, 1)
    assert (shown[:2 * HEIGHT, :2 * WIDTH, 3:] == want).all()
    assert (shown[..., 3:][shown[..., 0] == 0] == 0).all()


def test_sync_pulses():
    _, pins = show(32, HEIGHT, 6)
    shown = pins[1]
    de, hsync, vsync = (shown[..., i].reshape(-1) for i in range(3))
    edges = lambda s: (np.diff(np.concatenate([s[-1:], s])) == 1).nonzero()[0]
    assert len(edges(hsync)) == V_SCAN and (np.diff(edges(hsync)) == H_SCAN).all() and hsync.sum() == 8 * V_SCAN
    assert len(edges(vsync)) == 1 and vsync.sum() == 2 * H_SCAN
    line_end = edges(1 - de)[0]
    assert all((edge - line_end) % H_SCAN == 4 for edge in edges(hsync))


@pytest.mark.parametrize("lines", [0, 3])
def test_lines_below_the_last_one_are_black_and_not_read(lines):
    frame, pins = show(32, lines, 6)
    visible = pins[1][pins[1][..., 0] == 1][:, 3:].reshape(2 * HEIGHT, 2 * WIDTH, 3)
    assert (visible[:2 * lines] == expand565(frame[:lines]).repeat(2, 0).repeat(2, 1)).all() and not visible[2 * lines:].any()


def test_what_does_not_fit_is_refused():
    port = LiteDRAMNativePort("read", address_width=16, data_width=128)
    with pytest.raises(ValueError, match="half of the display's"):
        Display(port, 0, WIDTH + 1, HEIGHT, timing=TIMING)
    with pytest.raises(ValueError, match="multiples of the DRAM port's 16 bytes"):
        Display(port, 8, WIDTH, HEIGHT, timing=TIMING)
