"""The appliance's firmware on the host: card, keys, display, and every way in which a card can be bad."""

import struct
import zlib

import numpy as np
import pytest

from litediffusion.cores import isa
from litediffusion.firmware import host
from litediffusion.firmware.fake import STATUS, FakeHardware, GoldenHardware
from litediffusion.soc import mailbox, memory_map
from litediffusion.sw import container
from litediffusion.sw.devices.model import ModelDevice
from litediffusion.sw.pipeline import generate, upload
from litediffusion.targets.sd_image import ImageError, card_image
from litediffusion.targets.sim_appliance import KEYS, expand565, picture_area

PICTURE_TOP = 80             # first line of the display's picture
BOUNCE = 0x80000


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return host.build(tmp_path_factory.mktemp("firmware"))


@pytest.fixture(scope="module")
def ldp(small_program, tmp_path_factory):
    path = tmp_path_factory.mktemp("ldp") / "small.ldp"
    small_program.save(path)
    return path.read_bytes()


def golden(program, label, seed):
    """Pixels uint8 [C, H, W] of the numpy device."""
    device = ModelDevice()
    upload(device, program)
    return generate(device, program, [label], [seed]).pixels[0]


class Unit:
    """The appliance with a card. ``files``: what is on it, None: no card; more arguments: of card_image."""

    def __init__(self, library, tmp_path, files, hardware=None, broken=(), **kwargs):
        self.hardware = hardware or FakeHardware()
        if files is not None:
            data = files
            if isinstance(files, dict):
                card_image(tmp_path / "card.img", files, **kwargs)
                data = (tmp_path / "card.img").read_bytes()
            self.card = host.Card(library, data, broken)
            self.hardware.card = True
        self.firmware = host.Firmware(library, self.hardware)
        self.firmware.boot()
        self.firmware.boot_appliance()

    def poll(self, rounds=400):
        for _ in range(rounds):
            self.firmware.poll()
            self.firmware.poll_appliance()

    def press(self, key):
        """A key goes down and up again; what has been printed since."""
        before = len(self.hardware.printed)
        for value in (KEYS[key], 0):
            self.hardware.pressed = value
            self.hardware.now += BOUNCE
            self.poll()
        return self.hardware.printed[before:]

    @property
    def printed(self):
        return self.hardware.printed


@pytest.fixture
def unit(library, tmp_path):
    return lambda files, **kwargs: Unit(library, tmp_path, files, **kwargs)


def check_shown(hardware, pixels):
    """The frame's lower part is the picture, and nothing else."""
    want = np.zeros((memory_map.FRAME_HEIGHT, memory_map.FRAME_WIDTH, 3), np.uint8)
    rows, columns, shown = picture_area(pixels, PICTURE_TOP)
    want[rows, columns] = shown
    assert (expand565(hardware.frame)[PICTURE_TOP:] == want[PICTURE_TOP:]).all()
    assert hardware.shown_lines == memory_map.FRAME_HEIGHT


def test_pictures_from_the_card_are_the_numpy_devices(unit, ldp, small_program):
    u = unit({"SMALL.LDP": ldp}, hardware=GoldenHardware())
    assert "SMALL.LDP\nsmall: 8 x 8 pixels, 3 steps, 3 labels\n" in u.printed and "ready" in u.printed
    assert "next: label 1, seed 0" in u.press("label")
    for seed in (0, 1):
        text = u.press("picture")
        assert f"\nlabel 1, seed {seed}\n" in "\n" + text and "done" in text
        check_shown(u.hardware, golden(small_program, 1, seed))
    assert u.hardware.state("job_state") == mailbox.JOB_STATES["DONE"]


def test_the_picture_is_shown_while_it_is_made(unit, ldp, small_program):
    """After each step but the last FINISH runs once more, and its pixels are on the display."""
    u = unit({"SMALL.LDP": ldp}, hardware=GoldenHardware())
    run, meta, at, ahead = u.hardware.engine, small_program.meta, small_program.meta["buffers"]["pixels"], []

    def execute(registers):
        ahead.append((expand565(u.hardware.frame), u.hardware.window[at:at + 1024].copy()))
        return 10_000, run(registers)[1]              # long enough to draw all lines meanwhile
    u.hardware.engine = execute
    u.press("picture")
    for frame, window in (ahead[7], ahead[11]):       # two programs after a FINISH
        pixels = window.reshape(8, 8, 16)[..., :3].transpose(2, 0, 1)
        rows, columns, shown = picture_area(pixels, PICTURE_TOP)
        assert (frame[rows, columns] == shown).all()
    assert (ahead[7][1] != ahead[11][1]).any()
    programs = [r["program_addr"] for r in u.hardware.starts]
    parts = {meta["programs"][p][0]: p for p in ("init", "eval", "update", "finish")}
    step = ["eval", "eval", "update", "finish"]
    assert [parts[p] for p in programs] == ["init", *step, *step, *step]
    check_shown(u.hardware, golden(small_program, 0, 0))


def test_display_that_is_slower_than_the_engine_skips_steps(unit, ldp, small_program):
    u = unit({"SMALL.LDP": ldp}, hardware=GoldenHardware())
    u.press("picture")                       # programs of 100 cycles: a few lines are drawn in each
    finish = small_program.meta["programs"]["finish"][0]
    assert sum(r["program_addr"] == finish for r in u.hardware.starts) == 2
    check_shown(u.hardware, golden(small_program, 0, 0))


@pytest.mark.parametrize("options", [
    dict(fat=16), dict(fat=32, cluster_sectors=1), dict(partition=False), dict(cluster_sectors=1)])
def test_kinds_of_cards(unit, ldp, options, small_program):
    u = unit({"README.TXT": b"no program", "__A.LDP": ldp}, **options)
    assert "ready" in u.printed and "__A.LDP" in u.printed
    base = small_program.meta["image_base"]
    assert (u.hardware.window[base:base + len(small_program.image)] == small_program.image).all()


def rebuilt(ldp, change=lambda sections: None, config_hash=None, version=1, order=None, gap=0):
    """The file with other sections: a dictionary that ``change`` may alter."""
    found, table = container._header(ldp, "test")
    sections = {name.rstrip(b"\0"): ldp[at:at + size] for name, at, size, _, _ in table}
    change(sections)
    entries, body, at = b"", b"", 20 + 40 * len(sections)
    for name, data in sections.items():
        body += bytes(gap)
        entries += container.ENTRY.pack(name, at + len(body), len(data), zlib.crc32(data), 0)
        body += data
    head = struct.pack("<4sIII", b"LDP1", version, found if config_hash is None else config_hash, len(sections))
    return head + struct.pack("<I", zlib.crc32(head + entries)) + entries + body


@pytest.mark.parametrize("gap", [0, 1, 2, 3, 509])
def test_sections_at_any_offset(unit, ldp, gap, small_program):
    u = unit({"A.LDP": rebuilt(ldp, gap=gap)})
    assert "ready" in u.printed
    base = small_program.meta["image_base"]
    assert (u.hardware.window[base:base + len(small_program.image)] == small_program.image).all()


def flip(ldp, at):
    return ldp[:at] + bytes([ldp[at] ^ 1]) + ldp[at + 1:]


def job_with(**fields):
    """A change of the section JOB's first words of fields."""
    def change(sections):
        data, at = bytearray(sections[b"JOB"]), 0
        for name, words, _ in container.JOB_SECTION:
            if name in fields:
                data[at:at + 4] = struct.pack("<I", fields[name])
            at += 4 * words
        sections[b"JOB"] = bytes(data)
    return change


BAD = {
    "no .ldp file in its root": lambda ldp: {"README.TXT": b"hello"},
    "does not start with LDP1": lambda ldp: {"A.LDP": b"nonsense" * 100},
    "A.LDP: no .ldp file": lambda ldp: {"A.LDP": b""},
    "container version 2, this firmware reads 1": lambda ldp: {"A.LDP": rebuilt(ldp, version=2)},
    "header or section table is corrupted": lambda ldp: {"A.LDP": flip(ldp, 30)},
    "truncated: 60 bytes, the section table ends at 140": lambda ldp: {"A.LDP": ldp[:60]},
    "section IMAGE ends behind the file's end": lambda ldp: {"A.LDP": ldp[:-1]},
    "section JOB is corrupted": lambda ldp: {"A.LDP": flip(ldp, 150)},
    "section META is corrupted": lambda ldp: {"A.LDP": flip(ldp, 400)},
    "section IMAGE is corrupted": lambda ldp: {"A.LDP": flip(ldp, len(ldp) - 1)},
    "section JOB is missing": lambda ldp: {"A.LDP": rebuilt(ldp, lambda s: s.pop(b"JOB"))},
    "section IMAGE is missing": lambda ldp: {"A.LDP": rebuilt(ldp, lambda s: s.pop(b"IMAGE"))},
    "section JOB has 8 bytes": lambda ldp: {"A.LDP": rebuilt(ldp, lambda s: s.update({b"JOB": bytes(8)}))},
    "9 sections, this firmware takes 8": lambda ldp: {
        "A.LDP": rebuilt(ldp, lambda s: s.update({bytes([65 + i]): b"" for i in range(6)}))},
    "configuration 0x00000001, the device has": lambda ldp: {"A.LDP": rebuilt(ldp, config_hash=1)},
    "of the engine's window and ends behind byte": lambda ldp: {
        "A.LDP": rebuilt(ldp, job_with(image_base=memory_map.WINDOW_SIZE - 6000))},
    "starts at byte 4294967232": lambda ldp: {"A.LDP": rebuilt(ldp, job_with(image_base=(1 << 32) - 64))},
    "lies outside the window": lambda ldp: {"A.LDP": rebuilt(ldp, job_with(pixels=memory_map.WINDOW_SIZE - 64))},
    "picture of 65536 x 65536": lambda ldp: {"A.LDP": rebuilt(ldp, job_with(width=65536, height=65536))},
    "section JOB makes no sense": lambda ldp: {"A.LDP": rebuilt(ldp, job_with(labels=0))},
    "no FAT file system (exFAT is not read)": lambda ldp: bytes(1 << 16),
}


@pytest.mark.parametrize("text", BAD)
def test_bad_cards_are_refused_with_a_reason(unit, ldp, text):
    u = unit(BAD[text](ldp))
    assert text in u.printed
    assert "key 1: read the card again" in u.printed and "ready" not in u.printed and not u.hardware.starts
    u.poll()
    red = expand565(u.hardware.frame[40:PICTURE_TOP]) == expand565(0xFB8C)
    assert red.all(-1).sum() > 100 and u.hardware.shown_lines == PICTURE_TOP


def test_no_card_then_a_card(unit, ldp, library, tmp_path):
    u = unit(None)
    assert "no SD card answers" in u.printed
    card_image(tmp_path / "card.img", {"A.LDP": ldp})
    u.card, u.hardware.card = host.Card(library, (tmp_path / "card.img").read_bytes()), True
    text = u.press("picture")
    assert "ready" in text and "done" in text


def test_every_block_that_cannot_be_read_is_an_error(unit, ldp, library, tmp_path):
    """Blocks of the volume's head, FAT, folder and file: the message comes, nothing hangs, no job runs."""
    card_image(tmp_path / "card.img", {"A.LDP": ldp})
    data = (tmp_path / "card.img").read_bytes()
    used = [i for i in range(len(data) // 512) if any(data[512 * i:512 * i + 512])]
    refused = 0
    for block in used:
        u = Unit(library, tmp_path, data, broken=[block])
        bad = "cannot be read" in u.printed or "no FAT file system" in u.printed
        assert bad != ("ready" in u.printed)
        refused += bad
    assert refused >= len(used) - 2            # the second FAT is not read


def test_damaged_file_systems_end(unit, ldp, library, tmp_path):
    """Random bytes in the volume's head and FAT: an answer, never a hang or a wild access."""
    card_image(tmp_path / "card.img", {"A.LDP": ldp})
    data, rng = (tmp_path / "card.img").read_bytes(), np.random.default_rng(5)
    for _ in range(60):
        bad = bytearray(data)
        for at in rng.integers(64 * 512, 64 * 512 + 1200, 3):
            bad[at] = rng.integers(256)
        u = Unit(library, tmp_path, bytes(bad))
        assert "ready" in u.printed or "read the card again" in u.printed


def test_key_stops_a_picture(unit, ldp):
    hardware = FakeHardware()
    u = unit({"A.LDP": ldp}, hardware=hardware)

    def press_in_the_fourth(run):
        hardware.pressed = KEYS["label"] if len(hardware.starts) == 4 else 0
        return BOUNCE, {}
    hardware.engine = press_in_the_fourth
    text = u.press("picture")
    assert "stopped" in text and "done" not in text and len(hardware.starts) == 4
    hardware.engine = lambda run: (100, {})
    hardware.pressed = 0
    u.poll()
    assert "label 0, seed 1" in u.press("picture")     # the key that stopped has not changed the label


def test_the_console_stands_for_the_keys(unit, ldp):
    u = unit({"A.LDP": ldp})
    u.hardware.typed = b"help\rlabel\rpicture\r"
    u.poll()
    assert all(text in u.printed for text in ("picture   as key 1", "next: label 1", "label 1, seed 0\n", "done"))


def test_no_such_commands_without_a_card_slot(library):
    hardware = FakeHardware()
    firmware = host.Firmware(library, hardware)
    firmware.boot()
    hardware.typed = b"help\rpicture\r"
    firmware.poll()
    assert "as key 1" not in hardware.printed and "unknown command" in hardware.printed


def test_bouncing_key_counts_once(unit, ldp):
    u = unit({"A.LDP": ldp})
    for _ in range(50):
        for value in (KEYS["label"], 0):
            u.hardware.pressed = value
            u.hardware.now += 1000
            u.poll(1)
    u.poll()
    assert u.printed.count("next: label 1") == 1 and "next: label 2" not in u.printed


def test_engine_error_is_shown(unit, ldp):
    u = unit({"A.LDP": ldp})
    u.hardware.engine = lambda run: (100, {"status": STATUS["error"] | STATUS["halted"], "error_code": isa.ERROR_CODE["WATCHDOG"],
                                           "error_queue": 1, "error_index": 7, "error_token": 255})
    text = u.press("picture")
    assert "failed. key 1" in text and "engine: WATCHDOG in GEMM queue at descriptor 7" in text
    u.hardware.engine = lambda run: (100, {})
    assert "done" in u.press("picture")


def test_host_goes_first(unit, ldp, small_program):
    """While a host owns the device nothing starts; afterwards the card is read again, because the window may be another's."""
    u = unit({"A.LDP": ldp})
    u.hardware.host = 0x1234
    assert "a host uses the device" in u.press("picture") and not u.hardware.starts
    u.hardware.window[:] = 0
    u.hardware.host = 0
    text = u.press("picture")
    assert "ready" in text and "done" in text
    base = small_program.meta["image_base"]
    assert (u.hardware.window[base:base + len(small_program.image)] == small_program.image).all()


def test_host_that_comes_while_the_card_is_read(unit, ldp, library, tmp_path):
    hardware = FakeHardware()
    hardware.host = 5
    assert "loading was broken off" in unit({"A.LDP": ldp}, hardware=hardware).printed


def test_boot_error_is_shown(library, tmp_path):
    hardware = FakeHardware()
    hardware.regs["config_hash"] = 1
    u = Unit(library, tmp_path, None, hardware=hardware)
    assert "the device does not work\nWRONG_CONFIG" in u.printed
    assert "read the card" in u.press("picture") or not hardware.starts


def test_job_section_is_the_hosts_job(small_program):
    """Names and order of the section against the job that the host would have made."""
    from litediffusion.sw.devices.litex import generate_fields
    from litediffusion.sw.pipeline import make_job
    fields, at = {}, 0
    words = np.frombuffer(container.job_section(small_program.meta), "<u4")
    for name, n, _ in container.JOB_SECTION:
        fields[name] = tuple(int(w) for w in words[at:at + n]) if n > 1 else int(words[at])
        at += n
    job = generate_fields(make_job(small_program, [0], [0]))
    same = [name for name in fields if name in job and name != "labels"]
    assert set(same) == {"init", "eval", "update", "finish", "steps", "evals", "guidance", "null_label", "watchdog",
                         "image_bytes"}
    assert {n: fields[n] for n in same} == {n: tuple(job[n]) if isinstance(job[n], (list, tuple)) else job[n] for n in same}
    assert fields["name"][0] == int.from_bytes(b"smal", "little") and fields["pixels"] == small_program.meta["buffers"]["pixels"]


@pytest.mark.parametrize("name", ["toolongname.ldp", "a.ldpx", "noext", "a b.ldp"])
def test_names_that_need_more_than_fat(tmp_path, name):
    with pytest.raises(ImageError, match="rename"):
        card_image(tmp_path / "card.img", {name: b""})
