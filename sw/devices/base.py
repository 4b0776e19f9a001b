"""The device interface: one set of calls for the model, the engine in Verilator, and a SoC, simulated or real."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
import time

import numpy as np

from litediffusion.cores import isa
from litediffusion.soc.mailbox import MAX_BATCH, MAX_STEPS, WATCHDOG
from litediffusion.sw.devices.errors import AddressError, DeviceFault, WrongDevice


@dataclass
class Job:
    """What to generate: the mailbox's JOB with the images' output places. Programs are (byte offset, descriptors).

    labels, seeds    one an image (seeds: 64 bit); their length is the batch
    guidance         Q19.12
    out_addr, out_stride, out_bytes
                     image i's results are the ``out_bytes`` bytes at out_addr + i * out_stride
    """

    config_hash: int
    init: tuple
    eval: tuple
    update: tuple
    finish: tuple
    steps: int
    labels: list
    seeds: list
    out_addr: int
    out_stride: int
    out_bytes: int
    max_steps: int = MAX_STEPS
    evals: int = 1
    guidance: int = 1 << 12
    null_label: int = 0
    watchdog: int = WATCHDOG
    image_bytes: int = 0


@dataclass
class Results:
    """``outputs``: bytes of each image. ``counters``: sums of the engine's counters over all programs of the job."""

    outputs: list
    counters: dict = field(default_factory=dict)
    engine_runs: int = 0
    seconds: float = 0.0


class EngineStopped(DeviceFault):
    """The engine stopped with an error: ``code`` (isa.ERRORS), ``queue`` (name), ``index`` of the descriptor, ``token``."""

    def __init__(self, code, queue, index, token, where=""):
        self.queue, self.index, self.token = queue, index, token
        name, text = isa.ERRORS.get(code, (f"code {code}", "unknown error"))
        waits = f", waiting for token {isa.TOKEN_NAMES[token]}" if token < isa.TOKENS else ""
        super().__init__(f"engine: {name} in the {queue} queue at descriptor {index}{waits}: {text}{where}",
                         code, name, (code, queue, index, token))


class Device(ABC):
    """A device with one engine and its window of DRAM. Offsets count bytes from the window's start."""

    config_hash: int
    window_size: int

    @abstractmethod
    def write(self, offset, data, progress=None):
        """Write bytes into the window. ``progress(done, total)`` is called on slow links. Raises AddressError outside."""

    @abstractmethod
    def read(self, offset, length):
        """Bytes of the window. Raises AddressError outside."""

    @abstractmethod
    def run_program(self, address, length, *, step=0, label=0, slot=0, image=0, guidance=0, seed=0, trace=None,
                    watchdog=WATCHDOG):
        """Run one program to its end; {counter register: value}.

        address, length : byte offset (a multiple of 64) and descriptors
        trace : (byte offset, bytes) of a buffer for trace records, or None
        Raises EngineStopped.
        """

    def generate(self, job, progress=None):
        """Run a job: Results. ``progress(image, images, step, steps)`` is called after each step."""
        check_job(self, job)
        begin, results = time.monotonic(), Results([])
        images = len(job.labels)
        for image in range(images):
            self.generate_image(job, image, results, lambda step: progress and progress(image, images, step, job.steps))
        results.outputs = [self.read(job.out_addr + i * job.out_stride, job.out_bytes) for i in range(images)]
        results.seconds = time.monotonic() - begin
        return results

    def generate_image(self, job, image, results, progress):
        """The denoising loop of one image, in the firmware's order."""
        label, last = job.labels[image], job.steps - 1
        self.run_part(job, "init", image, results, step=job.steps, label=label)
        for step in range(job.steps):
            for slot in range(job.evals):
                self.run_part(job, "eval", image, results, step=step, label=job.null_label if slot else label, slot=slot)
            self.run_part(job, "update", image, results, step=step, label=label)
            progress(step + 1)
        self.run_part(job, "finish", image, results, step=last, label=label)

    def run_part(self, job, part, image, results, **indices):
        """Run one of the job's programs and add its counters to the results."""
        try:
            counters = self.run_program(*getattr(job, part), image=image, guidance=job.guidance, seed=job.seeds[image],
                                        watchdog=job.watchdog, **indices)
        except EngineStopped as error:
            where = f" (program {part}, image {image}, step {indices['step']})"
            raise EngineStopped(error.code, error.queue, error.index, error.token, where) from error
        results.engine_runs += 1
        for name, value in counters.items():
            results.counters[name] = results.counters.get(name, 0) + value

    def check_range(self, offset, length):
        """Raise AddressError if bytes lie outside the window."""
        if offset < 0 or length < 0 or offset + length > self.window_size:
            raise AddressError(f"{length} bytes at offset {offset:#x} lie outside the window of {self.window_size:#x} bytes")

    def check_program(self, address, length):
        """Raise AddressError if a program cannot be where it is said to be."""
        most = self.window_size // isa.DESC_BYTES
        if address % isa.DESC_BYTES or not 0 < length <= most:
            raise AddressError(f"a program of {length} descriptors at offset {address:#x}: the offset must be a multiple of "
                               f"{isa.DESC_BYTES}, the length 1..{most}")
        self.check_range(address, isa.DESC_BYTES)

    def pieces(self, address, length, trace=None):
        """The programs that one is run as, checked (see isa.pieces). Raises AddressError, ValueError."""
        self.check_program(address, length)
        if trace is not None and length > isa.MOST_DESCRIPTORS:
            raise ValueError(f"a trace of {length} descriptors: only programs of up to {isa.MOST_DESCRIPTORS} can be traced; trace a smaller "
                             "model, or single layers")
        return isa.pieces(address, length)


class MemoryDevice(Device):
    """A device whose window is an array of this process: ``memory`` uint8 [window_size]."""

    def write(self, offset, data, progress=None):
        data = np.frombuffer(bytes(data), np.uint8)
        self.check_range(offset, len(data))
        self.memory[offset:offset + len(data)] = data

    def read(self, offset, length):
        self.check_range(offset, length)
        return self.memory[offset:offset + length].tobytes()


def check_job(device, job):
    """Raise WrongDevice or ValueError where the firmware would refuse the job."""
    if job.config_hash != device.config_hash:
        raise WrongDevice(f"the program was compiled for configuration {job.config_hash:#010x}, this device is "
                          f"{device.config_hash:#010x}: recompile for it")
    for name, value, low, high in (("steps", job.steps, 1, min(job.max_steps, MAX_STEPS)), ("evals", job.evals, 1, 2),
                                   ("images", len(job.labels), 1, MAX_BATCH), ("seeds", len(job.seeds), *[len(job.labels)] * 2),
                                   ("watchdog", job.watchdog, 1, 2**32 - 1)):
        if not low <= value <= high:
            raise ValueError(f"job: {name}={value} is outside {low}..{high}")
    for label in [*job.labels, job.null_label]:
        if not 0 <= label < 1 << 16:
            raise ValueError(f"job: label {label} is outside 0..65535")
