"""Parameter records of a layer whose output groups are drained one after the other."""

from dataclasses import replace

PART = 32                # records of a wide layer on chip together


class RecordParts:
    """Parameter records by output group. Those of a wide layer come and go with its groups, in parts.

    records : [steps, groups]; unit : groups whose records one instruction takes.
    """

    def __init__(self, state, records, unit=2):
        groups = records.shape[1]
        self.size = groups if groups <= state.config.param_words // 4 else max(PART // unit, 1) * unit
        self.parts = [state.params(records[:, i:i + self.size]) for i in range(0, groups, self.size)]
        self.latest = 0, self.parts[0]

    def need(self, group):
        """What an item needs for the records from an output group on: (Resource, offset). Called in the order of the program."""
        part = group // self.size
        if part != self.latest[0]:
            self.latest = part, replace(self.parts[part], addr=-1)
        return self.latest[1], group % self.size
