"""A UDP proxy that loses, repeats, delays and damages packets: a bad network between host and device, for tests and figures.

``python -m litediffusion.targets.lossy_link --to 127.0.0.1:1235 --port 1300 --rate 0.1``
"""

import argparse
from collections import Counter
import heapq
import random
import select
import socket
import threading
import time

FAULTS = ("drop", "repeat", "reorder", "damage")
DELAY_S = 0.02            # of a packet that others overtake


class LossyLink:
    """Between 127.0.0.1:``port`` (0: any free one) and ``target``; a context manager.

    rates   {fault: probability a packet}, both directions; faults as in FAULTS
    seed    of the only random generator

    ``counts``: packets and faults so far. Setting ``cut`` loses everything.
    """

    def __init__(self, target, rates, seed=1, port=0):
        unknown = set(rates) - set(FAULTS)
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}; known: {FAULTS}")
        self.target, self.rates, self.rng = target, rates, random.Random(seed)
        self.counts, self.cut = Counter(), False
        self.front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.front.bind(("127.0.0.1", port))
        self.back.connect(target)
        self.address = self.front.getsockname()
        self.host, self.late, self.number = None, [], 0
        self.running, self.thread = True, threading.Thread(target=self.serve, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.running = False
        self.thread.join()
        self.front.close()
        self.back.close()

    def serve(self):
        while self.running:
            wait = min(0.1, max(0.0, self.late[0][0] - time.monotonic())) if self.late else 0.1
            for ready in select.select([self.front, self.back], [], [], wait)[0]:
                try:
                    data, sender = ready.recvfrom(2048)
                except OSError:
                    continue                 # nobody listens at the other end
                if ready is self.front:
                    self.host = sender
                self.spoil(ready is self.front, data)
            while self.late and self.late[0][0] <= time.monotonic():
                _, _, inwards, data = heapq.heappop(self.late)
                self.forward(inwards, data)

    def spoil(self, inwards, data):
        """Send a packet on, or do to it what the dice say."""
        self.counts["packets"] += 1
        happens = {fault: self.rng.random() < self.rates.get(fault, 0) for fault in FAULTS}
        self.counts.update(fault for fault, yes in happens.items() if yes)
        if self.cut or happens["drop"]:
            return
        if happens["damage"] and data:
            data = bytearray(data)
            for _ in range(self.rng.randint(1, 4)):
                data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
            if self.rng.random() < 0.2:
                data = data[:self.rng.randrange(len(data))]
        if happens["repeat"]:
            self.delay(inwards, data, self.rng.random() * DELAY_S)
        if happens["reorder"]:
            self.delay(inwards, data, DELAY_S)
        else:
            self.forward(inwards, data)

    def delay(self, inwards, data, seconds):
        self.number += 1
        heapq.heappush(self.late, (time.monotonic() + seconds, self.number, inwards, data))

    def forward(self, inwards, data):
        try:
            if inwards:
                self.back.send(data)
            elif self.host is not None:
                self.front.sendto(data, self.host)
        except OSError:
            self.counts["refused"] += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True, help="HOST:PORT of the device")
    parser.add_argument("--port", type=int, default=1300, help="UDP port to listen at")
    parser.add_argument("--rate", type=float, default=0.01, help="probability of each kind of fault")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    host, _, port = args.to.rpartition(":")
    with LossyLink((host, int(port)), dict.fromkeys(FAULTS, args.rate), args.seed, args.port) as link:
        print(f"{link.address[0]}:{link.address[1]} -> {args.to}, each fault with {args.rate:g}; Ctrl-C ends it")
        try:
            link.thread.join()
        except KeyboardInterrupt:
            print(dict(link.counts))


if __name__ == "__main__":
    main()
