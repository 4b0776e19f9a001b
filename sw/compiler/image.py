"""The window image: constants, step tables, programs and buffers at their DRAM offsets."""

import numpy as np

from litediffusion.sw.hollow import is_hollow

ALIGN = 64


def align(n):
    return -(-n // ALIGN) * ALIGN


class Image:
    """Collects constant data and hands out buffers; ``finish`` gives the bytes.

    Step-indexed data lie in one table: row s holds everything that step s needs, ``step_stride`` bytes apart.
    """

    def __init__(self, steps):
        self.steps, self.parts, self.size, self.placed = steps, [], 0, {}
        self.step_rows, self.step_stride, self.step_base = [], 0, None

    def constant(self, data):
        """Place uint8 data; returns its offset. Hollow data only take their place."""
        at = self.size
        if not is_hollow(data):
            self.parts.append((at, np.ascontiguousarray(data, dtype=np.uint8).reshape(-1)))
        self.size = align(at + data.size)
        return at

    def buffer(self, size):
        """Reserve ``size`` bytes that programs or the host write; returns the offset."""
        at = self.size
        self.size = align(at + size)
        return at

    def place(self, resources):
        """Give every resource its DRAM offset, those of the same array the same one; step-indexed ones get a column of the step table."""
        for r in resources:
            if r.dram >= 0:
                continue
            if id(r.data) not in self.placed:
                self.placed[id(r.data)] = r.data, self.column(r.data) if r.stepped else self.constant(r.data)
            r.dram = self.placed[id(r.data)][1]

    def column(self, data):
        """Offset of data [steps, bytes] in the rows of the step table."""
        at = self.step_stride
        self.step_rows.append(data)
        self.step_stride += data.shape[1]
        return at

    def place_steps(self, resources):
        """Put the step table; call once, after ``place`` of all resources."""
        self.step_base = self.constant(np.concatenate(self.step_rows, axis=1)) if self.step_rows else 0
        for r in resources:
            if r.stepped:
                r.dram += self.step_base

    def finish(self):
        """uint8 [bytes] of everything placed so far."""
        image = np.zeros(self.size, np.uint8)
        for at, data in self.parts:
            image[at:at + data.size] = data
        return image
