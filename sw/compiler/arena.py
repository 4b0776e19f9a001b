"""Buffers in DRAM that live for a while: the lowest place that is free."""

from litediffusion.sw.compiler.image import align


class Arena:
    """Byte offsets from 0 on; ``size``: the most that was ever in use."""

    def __init__(self):
        self.used, self.size = {}, 0

    def alloc(self, size):
        """Offset of ``size`` free bytes, now used."""
        at, size = 0, align(size)
        for start in sorted(self.used):
            if at + size <= start:
                break
            at = start + self.used[start]
        self.used[at] = size
        self.size = max(self.size, at + size)
        return at

    def free(self, at):
        del self.used[at]
