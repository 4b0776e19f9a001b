"""The window image: constants, step tables, programs and buffers at their DRAM offsets."""

import numpy as np

ALIGN = 64


def align(n):
    return -(-n // ALIGN) * ALIGN


class Image:
    """Collects constant data and hands out buffers; ``finish`` gives the bytes.

    Step-indexed data lie in one table: row s holds everything that step s needs, ``step_stride`` bytes apart.
    """

    def __init__(self, steps):
        self.steps, self.parts, self.size = steps, [], 0
        self.step_rows, self.step_stride, self.step_base = [], 0, None

    def constant(self, data):
        """Place uint8 data; returns its offset."""
        at = self.size
        self.parts.append((at, np.ascontiguousarray(data, dtype=np.uint8).reshape(-1)))
        self.size = align(at + data.size)
        return at

    def buffer(self, size):
        """Reserve ``size`` bytes that programs or the host write; returns the offset."""
        at = self.size
        self.size = align(at + size)
        return at

    def place(self, resources):
        """Give every resource its DRAM offset; step-indexed ones get a column of the step table."""
        for r in resources:
            if r.dram >= 0:
                continue
            if r.stepped:
                r.dram = self.step_stride
                self.step_rows.append(r.data)
                self.step_stride += r.data.shape[1]
            else:
                r.dram = self.constant(r.data)

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
