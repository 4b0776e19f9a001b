"""Residency of activations: on chip between layers while they fit, otherwise in DRAM until their next use."""

from litediffusion.sw.compiler.items import WORD_BYTES, CompileError, spm_words


class Residency:
    """Part of the lowering's state that moves tensors between SPM and DRAM.

    Tensors of the layer under way are ``pinned``. When space is missing, the unpinned tensor whose next use is furthest
    is stored (once: tensors do not change after their layer) and loaded again before that use. DRAM offsets count from
    the spill buffer.
    """

    def start_residency(self):
        self.pinned, self.spill_words, self.position = set(), 0, 0
        self.order = {name: i for i, name in enumerate(self.graph.nodes)}

    def begin_layer(self, node):
        """Pin and bring in what a node reads."""
        self.position = self.order[node.name]
        names = [s for i in node.inputs for s in self.sources(i) if s in self.tensors]
        self.pinned = set(names)
        for name in names:
            self.ensure(name)
        self.make_room(spm_words(node))

    def make_room(self, n):
        """Evict, then compact, until ``n`` words lie free in one piece, if that can be had. Only between layers."""
        while not self.spm.fits(n) and (victim := self.victim()):
            self.evict(victim)
        if not self.spm.fits(n):
            here = [name for name in sorted(self.pinned) if self.tensors[name].mem == "SPM"]
            for name in here:
                self.evict(name)
            self.spm.next = self.spm.base
            for name in here:
                self.ensure(name)

    def words(self, n, name, mem="SPM"):
        """First of ``n`` free words; evicts unpinned tensors from SPM. Raises CompileError."""
        pool = self.spm if mem == "SPM" else self.wbuf
        addr = pool.alloc(n)
        while addr is None and mem == "SPM" and (victim := self.victim()):
            self.evict(victim)
            addr = pool.alloc(n)
        if addr is None:
            raise CompileError(f"layer {name}: needs {n} words of {mem}, {pool.size - sum(pool.used.values())} of {pool.size} "
                               f"are free; use a configuration with a larger {mem.lower()}_words")
        return addr

    def next_use(self, name):
        """Position of the next layer that reads a tensor."""
        later = [self.order[u.name] for u in self.graph.nodes.values()
                 if u.op != "cat" and self.order[u.name] > self.position and name in (s for i in u.inputs for s in self.sources(i))]
        return min(later, default=len(self.order))

    def victim(self):
        """The resident, unpinned tensor with the furthest next use, or None."""
        resident = [n for n, t in self.tensors.items()
                    if t.mem == "SPM" and t.addr >= 0 and self.uses.get(n, 0) > 0 and n not in self.pinned]
        return max(resident, key=self.next_use, default=None)

    def evict(self, name):
        t = self.tensors[name]
        if t.dram < 0:
            t.dram, self.spill_words = self.spill_words, self.spill_words + t.blocks * t.pixels
            self.move("STORE", t)
        self.spm.free(t.addr)
        t.addr = -1

    def ensure(self, name):
        """Bring a tensor back on chip if it was evicted."""
        t = self.tensors[name]
        if t.addr < 0:
            t.addr = self.words(t.words, name)
            self.move("LOAD", t)

    def move(self, op, t):
        fields = dict(dram=WORD_BYTES * t.dram, n0=1, n1=t.blocks, n2=t.pixels, s1=t.pixels, addr=t.addr, d1=t.plane)
        here, there = t.region(), [("DRAM", t.dram, t.dram + t.blocks * t.pixels)]
        reads, writes = (here, there) if op == "STORE" else (there, here)
        self.emit(op, fields, reads, writes, spilled=True)
