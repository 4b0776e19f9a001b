"""The model device: the golden machine of cores/machine.py, all images of a job at once."""

from dataclasses import replace
import time

import numpy as np

from litediffusion.cores import isa
from litediffusion.cores.config import PRESETS
from litediffusion.cores.machine import EngineError, Machine
from litediffusion.soc.memory_map import WINDOW_SIZE
from litediffusion.sw.devices.base import EngineStopped, MemoryDevice, Results, check_job


class ModelDevice(MemoryDevice):
    """Executes programs in numpy, bit for bit as the engine. Its counters count descriptors only, not cycles."""

    def __init__(self, config=PRESETS["ecpix5"], window_size=WINDOW_SIZE):
        self.config, self.config_hash, self.window_size = config, config.hash, window_size
        self.memory = np.zeros(window_size, np.uint8)
        self.machine = Machine(config, self.memory)

    def run_program(self, address, length, *, step=0, label=0, slot=0, image=0, guidance=0, seed=0, trace=None, watchdog=0):
        """As Device.run_program, without trace and watchdog. In ``generate`` labels and seeds have one value an image."""
        pieces = self.pieces(address, length)
        guidance = (int(guidance) + 2**31) % 2**32 - 2**31
        if self.machine.batch > 1:
            image = np.arange(self.machine.batch)
        self.machine.set_registers(step, label, slot, image, guidance, seed)
        for number, piece in enumerate(pieces):
            try:
                self.machine.run(*piece)
            except EngineError as error:
                raise EngineStopped(error.code, error.queue, error.index + number * isa.MOST_DESCRIPTORS, error.token) from error
        return {}

    def generate(self, job, progress=None):
        """All images at once, each in its own copy of the window; the outputs come back into the common window."""
        check_job(self, job)
        begin, results, images = time.monotonic(), Results([]), len(job.labels)
        self.machine = Machine(self.config, np.repeat(self.memory[None], images, axis=0))
        try:
            together = replace(job, labels=[job.labels], seeds=[job.seeds])
            self.generate_image(together, 0, results, lambda step: progress and progress(
                step * images // job.steps, images, step * images % job.steps, job.steps))
            for i in range(images):
                at = job.out_addr + i * job.out_stride
                self.check_range(at, job.out_bytes)
                self.memory[at:at + job.out_bytes] = self.machine.dram[i, at:at + job.out_bytes]
        finally:
            self.machine = Machine(self.config, self.memory)
        results.outputs = [self.read(job.out_addr + i * job.out_stride, job.out_bytes) for i in range(images)]
        results.seconds = time.monotonic() - begin
        return results
