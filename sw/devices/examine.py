"""What a SoC behind litex_server says about itself: identity, clock, memory, link. For the self-test's report."""

import random
import time

BLOCK_WORDS = 1024          # the tested memory is cut into blocks spread over the window
WALK_WORDS = 64
FIRST_ERRORS = 8            # differences that are listed; all are counted


def identity(device):
    """Name, platform, CPU, clock, DRAM and network of the SoC, from its register map and its identifier."""
    constants, regions = device.link.constants, device.link.regions
    said, built = device.link.identifier(), constants.get("config_identifier")
    return {
        "identifier": said, "matches_register_map": built is None or str(built).startswith(said),
        "platform": constants.get("config_platform_name"), "cpu": constants.get("config_cpu_human_name"),
        "clock_hz": constants.get("config_clock_frequency"), "dram_bytes": regions["main_ram"][1],
        "window": {"base": device.window_base, "bytes": device.window_size},
        "analyzer": device.link.has_csr("analyzer_trigger_enable"),
    }


def measured_clock(device, seconds=1.0):
    """Cycles a second of this host's clock: a board's frequency to about 1 %, a simulation's speed."""
    def uptime():
        device.link.csr_write("timer0_uptime_latch", 1)
        return device.link.csr_read("timer0_uptime_cycles"), time.monotonic()
    (first, begin), _ = uptime(), time.sleep(seconds)
    last, end = uptime()
    return (last - first) / (end - begin)


class MemoryTest:
    """Patterns in the window, written through the link and read back later, by another order than they were written in.

    size : bytes of random content, rounded to blocks of 4 KiB spread evenly over the window (at most all of it)

    ``run`` returns the figures: walking ones in one word, one word at every power of two (a stuck address line shows),
    random blocks and their complement. Nothing outside the window is touched.
    """

    def __init__(self, device, size, seed=1):
        self.device, self.rng = device, random.Random(seed)
        self.tested, self.wrong, self.errors = 0, 0, []
        room, wanted = device.window_size // (4 * BLOCK_WORDS), max(1, size // (4 * BLOCK_WORDS))
        blocks = min(room, wanted)
        self.offsets = [4 * BLOCK_WORDS * (k * room // blocks) for k in range(blocks)]

    def run(self, progress=None):
        begin = time.monotonic()
        self.walking_ones()
        self.address_lines()
        speeds = self.contents(progress)
        return {"passed": not self.wrong, "words_tested": self.tested, "words_wrong": self.wrong, "first_errors": self.errors,
                "seconds": round(time.monotonic() - begin, 2), **speeds}

    def write(self, offset, words):
        self.device.claim()
        self.device.link.write_words(self.device.window_base + offset, words)

    def check(self, offset, words):
        self.device.claim()
        found = self.device.link.read_words(self.device.window_base + offset, len(words))
        self.tested += len(words)
        for i, (want, got) in enumerate(zip(words, found)):
            if want != got:
                self.wrong += 1
                if len(self.errors) < FIRST_ERRORS:
                    self.errors.append({"offset": offset + 4 * i, "written": f"{want:#010x}", "read": f"{got:#010x}"})

    def walking_ones(self):
        words = [1 << i % 32 if i < 32 else ~(1 << i % 32) & 0xFFFFFFFF for i in range(WALK_WORDS)]
        self.write(0, words)
        self.check(0, words)

    def address_lines(self):
        offsets = [0] + [4 << k for k in range(30) if 4 << k < self.device.window_size]
        for k, offset in enumerate(offsets):
            self.write(offset, [0xA5A50000 + k])
        for k, offset in enumerate(offsets):
            self.check(offset, [0xA5A50000 + k])

    def contents(self, progress):
        """Random blocks, then their complement, so that no bit can be stuck. All are written before any is read, so that
        refresh has to keep them. Bytes a second of both ways."""
        blocks = [(offset, [self.rng.getrandbits(32) for _ in range(BLOCK_WORDS)]) for offset in self.offsets]
        inverse = [(offset, [word ^ 0xFFFFFFFF for word in words]) for offset, words in blocks]
        steps = [(access, block) for turn in (blocks, inverse)
                 for access, part in ((self.write, turn), (self.check, turn[::-1])) for block in part]
        seconds = dict.fromkeys((self.write, self.check), 1e-9)
        for k, (access, block) in enumerate(steps):
            begin = time.monotonic()
            access(*block)
            seconds[access] += time.monotonic() - begin
            if progress:
                progress(k + 1, len(steps))
        size = 2 * 4 * BLOCK_WORDS * len(blocks)
        return {"bytes_written_a_second": round(size / seconds[self.write]), "bytes_read_a_second": round(size / seconds[self.check])}
