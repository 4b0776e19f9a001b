"""How much may be on its way to the device, and how long to wait for it. No sockets, no clock: callers pass the time."""

START, SMALLEST, LARGEST = 4.0, 2.0, 64.0     # packets
GROWTH = 1 / 32           # a reply, once the device's buffer has been found: a drop costs more than a slow approach
KEPT = 3 / 4              # of the window after a drop (a half while it still grows fast, as then it is far off)
FIRST_TIMEOUT_S, SHORTEST_S, LONGEST_S = 0.25, 0.02, 5.0
SOON, DOUBLINGS = 3, 4    # a packet is repeated SOON times before its time-out doubles with each time, so often


class Window:
    """Packets in flight and their time-out.

    The device says in each reply how many packets found its buffer full, so a loss need not be taken for congestion: the
    window is cut only when that count has grown (once a round trip), or when a packet's time has run out with no
    answer to any; a link that merely loses packets keeps its window. It grows by one a reply up to ``threshold``, slowly above.
    A packet's time-out doubles when it is sent again and again, so a device that is merely slow is not buried in repeats.
    Ref: RFC 5681 (two phases of growth), RFC 6298 (time-out).

    largest   packets
    """

    def __init__(self, largest=LARGEST):
        self.size, self.threshold, self.largest = START, largest, largest
        self.smoothed = self.deviation = None
        self.timeout = FIRST_TIMEOUT_S
        self.full = None                   # last count of the device, modulo 256
        self.reduced = 0                   # packets sent when the window was last cut

    def acknowledged(self, trip_s):
        """A packet was answered ``trip_s`` after it was sent."""
        if self.smoothed is None:
            self.smoothed, self.deviation = trip_s, trip_s / 2
        else:
            self.deviation += (abs(self.smoothed - trip_s) - self.deviation) / 4
            self.smoothed += (trip_s - self.smoothed) / 8
        self.timeout = min(max(self.smoothed + 4 * self.deviation, SHORTEST_S), LONGEST_S)
        self.size = min(self.size + (1 if self.size < self.threshold else GROWTH), self.largest)

    def counted(self, full, order, sent):
        """The device's count of packets dropped for a full buffer, in the answer to the ``order``-th of ``sent`` packets.
        Returns how many it has dropped since the last answer."""
        dropped, self.full = 0 if self.full is None else (full - self.full) % 256, full
        if dropped and order >= self.reduced:
            self.reduce(sent)
        return dropped

    def patience(self, tries):
        """Seconds to wait for the answer to a packet sent for the ``tries``-th time."""
        return min(self.timeout * 2 ** min(max(0, tries - SOON), DOUBLINGS), LONGEST_S)

    def expired(self, sent):
        """A packet got no answer in time, nor did any other. The way back to ``threshold`` is fast."""
        self.size, self.reduced = max(self.size / 2, SMALLEST), sent
        self.timeout = min(2 * self.timeout, LONGEST_S)

    def reduce(self, sent):
        self.size = max(self.size * (1 / 2 if self.size < self.threshold else KEPT), SMALLEST)
        self.threshold = self.size
        self.reduced = sent
