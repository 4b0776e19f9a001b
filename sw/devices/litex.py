"""The litex device: any SoC, simulated or on a board, behind litex_server. The firmware runs the denoising loop."""

import secrets
import time

from litediffusion.soc import mailbox
from litediffusion.soc.memory_map import MAILBOX_BASE
from litediffusion.sw.devices.base import WATCHDOG, Device, EngineStopped, Results, check_job
from litediffusion.sw.devices.bulk import BulkLink, bulk_address
from litediffusion.sw.devices.errors import AddressError, ConnectionLost, DeviceBusy, DeviceFault, WrongDevice
from litediffusion.sw.devices.litex_link import LitexLink
from litediffusion.cores import isa

POLL_S = 0.1
SILENCE_S = 60.0           # longest time without any sign of progress before the host gives up
TAKE_S = 5.0               # for the firmware to take a job
RENEW_S = 3.0              # between two renewals of the claim during a bulk transfer
PROBE_S = 3.0              # longest wait for the first answer of the bulk transfer
BULK_BYTES = 1024          # shorter transfers go through litex_server alone
STATES = {v: k for k, v in mailbox.JOB_STATES.items()}
SUMS = ("engine_cycles", "total_cycles", "mac_cycles", "dram_reads", "dram_writes")
QUEUE_SUMS = ("busy", "wait_token", "wait_dram", "descriptors")


def generate_fields(job):
    """Fields of mailbox.JOB that ask for the pictures of a Job."""
    same = ("config_hash", "image_bytes", "init", "eval", "update", "finish", "steps", "max_steps", "evals", "guidance",
            "null_label", "watchdog", "labels")
    return {name: getattr(job, name) for name in same} | {
        "command": mailbox.COMMANDS["GENERATE"], "batch": len(job.labels), "seed0": job.seeds, "seed1": [s >> 32 for s in job.seeds]}


class LitexDevice(Device):
    """A SoC with the litediffusion firmware.

    host, port   where litex_server listens
    csr_csv      register map of the SoC's build
    udp          address of the SoC's bulk transfer, as in bulk_address

    Contents go over the bulk transfer where the SoC has one and it answers, else through litex_server; an address that was
    given must answer. ``bulk`` is its BulkLink from the first use on, or None.
    Raises ConnectionLost, WrongDevice (other firmware), DeviceBusy (another host owns it), DeviceFault (failed job).
    A job is claimed for this host; the claim is renewed while it runs and given back at its end.
    """

    def __init__(self, host, port, csr_csv, udp=None):
        self.link = LitexLink(host, port, csr_csv)
        self.nonce, self.owned, self.claimed_at = secrets.randbits(31) | 1, False, 0.0
        self.bulk, self.bulk_given = None, udp is not None
        self.bulk_at = bulk_address(self.link.constants, udp)
        magic, abi, self.config_hash, self.window_base, self.window_size = self.link.read_words(MAILBOX_BASE, 5)
        if magic != mailbox.MAGIC:
            raise WrongDevice(f"no litediffusion firmware: the mailbox starts with {magic:#010x}, expected {mailbox.MAGIC:#010x}")
        if abi != mailbox.ABI_VERSION:
            raise WrongDevice(f"the firmware speaks mailbox version {abi}, this host {mailbox.ABI_VERSION}: update one of them")

    def close(self):
        """Give the device back and close the connection."""
        try:
            self.link.csr_write("mailbox_release", self.nonce)
        except ConnectionLost:
            pass                               # nobody to tell; the lease lapses by itself
        self.link.close()
        if self.bulk is not None:
            self.bulk.close()

    # --- memory ------------------------------------------------------------------------------------------------------

    def write(self, offset, data, progress=None):
        """Write bytes (offset and length multiples of 4) and compare what the device has then. ``progress(bytes, bytes)``."""
        self.check_range(offset, len(data))
        if offset % 4 or len(data) % 4:
            raise AddressError(f"{len(data)} bytes at {offset:#x}: offset and length must be multiples of 4")
        self.claim()
        bulk, first, last = self.split(offset, len(data))
        if bulk is None:
            return self.write_words(offset, data, progress)
        self.write_words(offset, data[:first])
        bulk.write(offset + first, data[first:last], progress and (lambda done, _: progress(first + done, len(data))))
        self.write_words(offset + last, data[last:])

    def write_words(self, offset, data, progress=None):
        """Write through litex_server and read back. Raises DeviceFault on a difference."""
        words = [int.from_bytes(data[i:i + 4], "little") for i in range(0, len(data), 4)]
        # Written and read back: each way is half of the progress.
        step = lambda n: self._step(progress, 2 * n, len(data))
        self.link.write_words(self.window_base + offset, words, progress and step)
        for at in range(0, len(words), 4080):
            if self.link.read_words(self.window_base + offset + 4 * at, len(words[at:at + 4080])) != words[at:at + 4080]:
                raise DeviceFault(f"data written at window offset {offset + 4 * at:#x} read back different: a packet was lost; "
                                  "try again on a quieter network")
            step(len(words) + at)

    def _step(self, progress, done, total):
        """Report progress of a long transfer and keep the claim alive."""
        self.claim()
        if progress:
            progress(done, total)

    def read(self, offset, length):
        self.check_range(offset, length)
        if self.owned and length >= BULK_BYTES and (bulk := self.bulk_link()) is not None:
            first = offset - offset % bulk.grain
            data = bulk.read(first, -(-(offset + length) // bulk.grain) * bulk.grain - first)
            return data[offset - first:][:length]
        first, last = offset // 4, -(-(offset + length) // 4)
        words = self.link.read_words(self.window_base + 4 * first, last - first)
        data = b"".join(w.to_bytes(4, "little") for w in words)
        return data[offset - 4 * first:][:length]

    def split(self, offset, length):
        """(BulkLink, first, last): the part of ``length`` bytes at ``offset`` that goes over the bulk transfer; None: nothing does."""
        if length < BULK_BYTES or (bulk := self.bulk_link()) is None:
            return None, 0, 0
        return bulk, -offset % bulk.grain, length - (offset + length) % bulk.grain

    def bulk_link(self):
        """The bulk transfer, looked for at the first call; None: there is none, or it does not answer at an address that
        nobody gave. Raises ConnectionLost or WrongDevice for one that was given."""
        if self.bulk is None and self.bulk_at is not None:
            try:
                bulk = BulkLink(self.bulk_at, self.link.constants["bulk_grain"],
                                lambda number: self.link.csr_write("bulk_session", number), PROBE_S, self.renew)
                bulk.probe()
                bulk.silence_s, self.bulk = SILENCE_S, bulk
            except (ConnectionLost, WrongDevice):
                self.bulk_at = None
                if self.bulk_given:
                    raise
        return self.bulk

    def renew(self):
        """Keep the claim alive during a long transfer."""
        if time.monotonic() - self.claimed_at > RENEW_S:
            self.claim()

    # --- ownership ---------------------------------------------------------------------------------------------------

    def claim(self):
        """Take or renew the ownership; on taking it, end what a former owner left running. Raises DeviceBusy."""
        self.claimed_at = time.monotonic()
        self.link.csr_write("mailbox_claim", self.nonce)
        owner = self.link.csr_read("mailbox_owner")
        if owner == self.nonce:
            if not self.owned:
                self.owned = True
                self.settle()
        else:
            self.owned = False
            state = self.state()
            raise DeviceBusy(f"the device is owned by another host ({owner:#010x}), job {state['job_id']} is "
                             f"{STATES.get(state['job_state'], '?')}: try again when it is done; a host that vanished loses the "
                             f"device after {self.link.csr_read('mailbox_lease')} more cycles")

    def settle(self):
        """Abort a job that still runs, so that nobody but this host's jobs writes the window. Raises DeviceFault."""
        running = lambda: self.state()["job_state"] == mailbox.JOB_STATES["RUNNING"]
        if running():
            self.abort()
        deadline = time.monotonic() + SILENCE_S
        while running():
            if time.monotonic() > deadline:
                raise DeviceFault(f"a job of another host still runs {SILENCE_S:.0f} s after it was told to stop; reset the device")
            self.link.csr_write("mailbox_claim", self.nonce)
            time.sleep(POLL_S)

    # --- jobs --------------------------------------------------------------------------------------------------------

    def state(self):
        """The mailbox's STATE: integers, or lists of words."""
        words = self.link.read_words(MAILBOX_BASE, mailbox.STATE_AT["text"][0] // 4)
        out = {}
        for name, (at, n) in mailbox.STATE_AT.items():
            if name != "text":
                part = words[at // 4:at // 4 + n]
                out[name] = part[0] if n == 1 else part
        return out

    def submit(self, **fields):
        """Write a job and ring the doorbell; returns its id. Fields as in mailbox.JOB (integers or lists)."""
        self.claim()
        job_id = secrets.randbits(31) | 1
        fields = dict(fields, id=job_id, abi=mailbox.ABI_VERSION)
        words = [0] * sum(n for _, n, _ in mailbox.JOB)
        for name, value in fields.items():
            at, n = mailbox.JOB_AT[name]
            values = list(value) if isinstance(value, (list, tuple)) else [value]
            for i, v in enumerate(values[:n]):
                words[(at - mailbox.JOB_BASE) // 4 + i] = int(v) & 0xFFFFFFFF
        self.link.write_words(MAILBOX_BASE + mailbox.JOB_BASE, words)
        self.link.csr_write("mailbox_doorbell", 1)
        return job_id

    def wait(self, job_id, progress=None, silence_s=SILENCE_S):
        """Wait for a job: its final STATE. Raises EngineStopped, DeviceFault, ConnectionLost (no sign of life).

        If the wait is broken off (Ctrl-C), the job is aborted.
        """
        try:
            return self.poll(job_id, progress, silence_s)
        except (KeyboardInterrupt, SystemExit):
            self.abort()
            raise

    def poll(self, job_id, progress, silence_s):
        last, since, furthest = None, time.monotonic(), (0, -1)
        while True:
            self.claim()
            state = self.state()
            if state["job_id"] == job_id and state["job_state"] != mailbox.JOB_STATES["RUNNING"]:
                break
            life = (state["job_id"], state["image"], state["step"], state["engine_runs"], state["heartbeat"])
            if life != last:
                last, since = life, time.monotonic()
                here = (state["image"], state["step"])
                if progress and state["job_id"] == job_id and here > furthest:
                    furthest = here
                    progress(*here)
            if time.monotonic() - since > silence_s:
                raise ConnectionLost(f"job {job_id}: no progress for {silence_s:.0f} s at image {state['image']}, step "
                                     f"{state['step']}; look at the device's console, or reset it")
            time.sleep(POLL_S)
        if state["job_state"] != mailbox.JOB_STATES["DONE"]:
            raise self.failure(state)
        return state

    def failure(self, state):
        """The exception of a failed job."""
        at, n = mailbox.STATE_AT["text"]
        text = b"".join(w.to_bytes(4, "little") for w in self.link.read_words(MAILBOX_BASE + at, n)).split(b"\0")[0].decode()
        name = mailbox.ERRORS.get(state["error"], (f"error {state['error']}", ""))[0]
        if name == "ENGINE":
            code, queue, index, token = state["error_info"]
            error = EngineStopped(code, [*isa.QUEUES, "FETCH"][min(queue, 4)], index, token)
            error.args = (text or error.args[0],)
            return error
        return DeviceFault(text or mailbox.ERRORS.get(state["error"], ("", "unknown error"))[1], state["error"], name,
                           state["error_info"])

    def abort(self):
        """Ask the firmware to stop the job under way. One that it has not taken yet is waited for: the command would take its place."""
        until = time.monotonic() + TAKE_S
        while self.link.csr_read("mailbox_ev_pending") & 1 and time.monotonic() < until:
            time.sleep(POLL_S)
        self.link.write_words(MAILBOX_BASE + mailbox.JOB_AT["command"][0], [mailbox.COMMANDS["ABORT"]])
        self.link.csr_write("mailbox_doorbell", 1)

    def run_program(self, address, length, *, step=0, label=0, slot=0, image=0, guidance=0, seed=0, trace=None, watchdog=WATCHDOG):
        self.pieces(address, length, trace)        # the firmware cuts it
        job = self.submit(command=mailbox.COMMANDS["RUN"], config_hash=self.config_hash, image_bytes=0, init=(address, length),
                          index=(step, label, slot, image), guidance=guidance, seed0=[seed], seed1=[seed >> 32],
                          trace=(1, *trace) if trace else (0, 0, 0), watchdog=watchdog, batch=1, steps=1, max_steps=1, evals=1)
        counters = self.counters(self.wait(job))
        counters["cycles"] = counters["engine_cycles"]
        counters["trace_count"] = self.link.csr_read("engine_trace_count")
        return counters

    def generate(self, job, progress=None):
        check_job(self, job)
        begin, images = time.monotonic(), len(job.labels)
        number = self.submit(**generate_fields(job))
        state = self.wait(number, progress and (lambda image, step: progress(image, images, step, job.steps)))
        outputs = []
        for i in range(images):
            self.claim()
            outputs.append(self.read(job.out_addr + i * job.out_stride, job.out_bytes))
        return Results(outputs, self.counters(state), state["engine_runs"], time.monotonic() - begin)

    def counters(self, state):
        """Sums of the counters over the job, {name: value}."""
        wide = lambda words: words[0] | words[1] << 32
        out = {name: wide(state[name]) for name in SUMS}
        for q, queue in enumerate(isa.QUEUES):
            for c, counter in enumerate(QUEUE_SUMS):
                at = 2 * (4 * q + c)
                out[f"{queue.lower()}_{counter}"] = wide(state["queue_counters"][at:at + 2])
        out["cycles"] = out["engine_cycles"]
        return out
