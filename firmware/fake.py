"""Hardware for the firmware's logic on the host: a mailbox, a window, and an engine that does as it is told."""

import numpy as np

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.cores.machine import EngineError, Machine
from litediffusion.cores.regs import REGS
from litediffusion.firmware.header import STATUS_BITS
from litediffusion.soc import mailbox, memory_map

STATUS = {name: 1 << bit for bit, name in enumerate(STATUS_BITS)}
CPU_CYCLES = 20   # that a look at the clock takes


class FakeHardware:
    """Implements host.HW_CALLS. ``engine(run)`` is called at each start with the registers then set, as a dict.

    It returns (cycles until it ends, registers that it then has); cycles None: it never ends. The default ends each
    program after 100 cycles with counters that are all 1. ``starts`` keeps the registers of every start.
    """

    def __init__(self, engine=None, config=PRESETS["ecpix5"]):
        self.regs = {r.name: 0 for r in REGS}
        self.regs["config_hash"] = config.hash
        self.engine = engine or (lambda run: (100, {}))
        self.now, self.ends, self.result = 0, None, {}
        self.starts, self.resets, self.syncs, self.reboots = [], 0, 0, 0
        self.reset_works = True
        self.mailbox = bytearray(mailbox.SIZE)
        self.window = np.zeros(memory_map.WINDOW_SIZE, np.uint8)
        self.pending = False
        self.on_state = None      # called with (name, value) when the firmware writes a one-word STATE field
        self.typed, self.printed = b"", ""
        self.frame = np.zeros((memory_map.FRAME_HEIGHT, memory_map.FRAME_WIDTH), np.uint16)
        self.shown_lines = 0
        self.pressed = 0                       # keys that are held down
        self.host = 0                          # owner of the device
        self.card = False                      # is a card in its slot? Its blocks come from host.Card

    # --- engine ----------------------------------------------------------------------------------------------------

    def set_reg(self, reg, value):
        name = REGS[reg].name
        if REGS[reg].access == "ro" or value >> REGS[reg].bits:
            raise ValueError(f"the firmware wrote {value:#x} to {name} ({REGS[reg].access}, {REGS[reg].bits} bits)")
        if name == "start":
            self._start()
        elif name == "reset":
            self.resets += 1
            if self.reset_works:
                self.regs["status"], self.ends = 0, None
        elif self.regs["status"] & STATUS["busy"]:
            raise ValueError(f"the firmware wrote {name} while the engine was busy")
        else:
            self.regs[name] = value

    def _start(self):
        if self.regs["status"] & (STATUS["busy"] | STATUS["error"]):
            raise ValueError(f"the firmware started an engine with status {self.regs['status']:#x}")
        self.starts.append(dict(self.regs))
        latency, self.result = self.engine(self.starts[-1])
        self.regs["status"] = STATUS["busy"]
        self.ends = None if latency is None else self.now + latency

    def get_reg(self, reg):
        if self.ends is not None and self.now >= self.ends:
            ones = {r.name: 1 for r in REGS[[r.name for r in REGS].index("cycles"):]}
            self.regs.update({**ones, "status": STATUS["done"], **self.result})
            self.ends = None
        return self.regs[REGS[reg].name]

    def get_regs(self, first, count, values):
        for i in range(count):
            values[i] = self.get_reg(first + i)

    def cycles(self):
        self.now += CPU_CYCLES
        return self.now & 0xFFFFFFFF

    # --- mailbox and window ------------------------------------------------------------------------------------------

    def mailbox_read(self, offset):
        return int.from_bytes(self.mailbox[offset:offset + 4], "little")

    def mailbox_write(self, offset, value):
        self.mailbox[offset:offset + 4] = value.to_bytes(4, "little")
        if self.on_state:
            names = {at: name for name, (at, words) in mailbox.STATE_AT.items() if words == 1}
            if offset in names:
                self.on_state(names[offset], value)

    def doorbell_pending(self):
        return self.pending

    def doorbell_clear(self):
        self.pending = False

    def window_read(self, offset):
        return int.from_bytes(self.window[offset:offset + 4].tobytes(), "little")

    def window_write(self, offset, value):
        self.window[offset:offset + 4] = np.frombuffer(value.to_bytes(4, "little"), np.uint8)

    def window_put(self, offset, words, count):
        self.window[offset:offset + 4 * count] = np.ctypeslib.as_array(words, (count,)).view(np.uint8)

    def sync_memory(self):
        self.syncs += 1

    # --- console -----------------------------------------------------------------------------------------------------

    def getchar(self):
        if not self.typed:
            return -1
        c, self.typed = self.typed[0], self.typed[1:]
        return c

    def puts(self, text):
        self.printed += text.decode("ascii")

    def reboot(self):
        self.reboots += 1

    # --- the appliance -----------------------------------------------------------------------------------------------

    def frame_put(self, offset, words, count):
        self.frame.reshape(-1)[offset // 2:offset // 2 + 2 * count] = np.ctypeslib.as_array(words, (count,)).view(np.uint16)

    def frame_lines(self, lines):
        self.shown_lines = lines

    def keys(self):
        return self.pressed

    def card_start(self):
        return self.card

    def owner(self):
        return self.host

    # --- the host's side ---------------------------------------------------------------------------------------------

    def ring(self, **fields):
        """Write JOB fields (numbers or lists) and ring the doorbell."""
        for name, value in fields.items():
            at, words = mailbox.JOB_AT[name]
            values = list(value) if words > 1 else [value]
            for i, v in enumerate(values):
                self.mailbox[at + 4 * i:at + 4 * i + 4] = (v & 0xFFFFFFFF).to_bytes(4, "little")
        self.pending = True

    def state(self, name):
        """A STATE field: a number, a list of 32-bit words (error_info) or of 64-bit sums, or the text."""
        at, words = mailbox.STATE_AT[name]
        data = bytes(self.mailbox[at:at + 4 * words])
        if name == "text":
            return data[:data.index(0)].decode("ascii")
        if words == 1 or words == 2:
            return int.from_bytes(data, "little")
        size = 8 if name == "queue_counters" else 4
        return [int.from_bytes(data[i:i + size], "little") for i in range(0, len(data), size)]


class GoldenHardware(FakeHardware):
    """The engine is the golden machine: programs in the window are executed bit for bit."""

    def __init__(self, config=PRESETS["ecpix5"]):
        FakeHardware.__init__(self, self._execute, config)
        self.machine = Machine(config, self.window)

    def _execute(self, run):
        self.machine.set_registers(
            step=run["index_step"], label=run["index_label"], slot=run["index_slot"], image=run["index_image"],
            guidance=run["guidance"] - (run["guidance"] >> 31 << 32), seeds=run["seed0"] | run["seed1"] << 32)
        try:
            self.machine.run(run["program_addr"], run["program_len"])
        except EngineError as error:
            queue = (isa.QUEUES + ["FETCH"]).index(error.queue)
            return 100, {"status": STATUS["error"] | STATUS["halted"], "error_code": error.code, "error_queue": queue,
                         "error_index": error.index, "error_token": error.token}
        return 100, {}
