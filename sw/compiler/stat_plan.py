"""Where statistics of tensors are kept on chip between the layer that makes a tensor and the norm that reads it."""

from litediffusion.sw.compiler.items import CompileError

LANES = 8


class StatPlan:
    """Statistics records for the norms of a graph, by Pool ``pool``.

    A layer keeps its output's statistics on the way if the next norm in order reads it; what a norm needs else is made by
    passes over its sources. The records of a norm are one piece, its sources' one after the other.
    """

    def __init__(self, graph, pool):
        self.graph, self.pool = graph, pool
        self.order = {name: i for i, name in enumerate(graph.nodes)}
        self.norms = [n for n in graph.nodes.values() if n.op == "norm"]
        self.first, self.have = {}, {}          # norm: first record; names whose statistics are there

    def _records(self, name):
        return -(-self.graph.shape(name)[0] // LANES)

    def _begin(self, norm):
        """True if there is room for a norm's records."""
        if norm.name not in self.first:
            at = self.pool.alloc(sum(map(self._records, self.graph.sources(norm.inputs[0]))))
            if at is None:
                return False
            self.first[norm.name], self.have[norm.name] = at, set()
        return True

    def records(self, name):
        """[(source, first record)] of a norm."""
        at, out = self.first[name], []
        for source in self.graph.sources(self.graph.nodes[name].inputs[0]):
            out.append((source, at))
            at += self._records(source)
        return out

    def kept(self, name):
        """First record for the statistics of a tensor that is about to be made, or -1: not to be kept."""
        following = next((n for n in self.norms if self.order[n.name] > self.order[name]), None)
        if following is None or name not in self.graph.sources(following.inputs[0]) or not self._begin(following):
            return -1
        self.have[following.name].add(name)
        return dict(self.records(following.name))[name]

    def missing(self, name):
        """[(source, first record)] of a norm about to be done whose statistics are not there. Raises CompileError."""
        norm = self.graph.nodes[name]
        if not self._begin(norm):
            raise CompileError(f"layer {name} ({norm.path}): statistics of {norm.shape[0]} channels do not fit "
                               f"{self.pool.size} records of {LANES}", "use a configuration with more stat_words")
        return [(source, at) for source, at in self.records(name) if source not in self.have[name]]

    def done(self, name):
        """The norm was done; its records are free."""
        self.pool.free(self.first.pop(name))
        del self.have[name]
