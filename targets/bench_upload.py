"""Figures of the bulk transfer in the simulated SoC, beside Etherbone's: ``make bench-upload``.

Cycles are those of the system clock from the call to its return, checksums of the whole content included. The host's program
runs in real time beside a simulation a hundred times slower than a board, so the waits after a loss (its
time-outs are 20 ms and more) weigh differently on a board.
"""

import argparse
from dataclasses import dataclass
import json
from pathlib import Path
import random

from litediffusion.targets.lossy_link import FAULTS, LossyLink
from litediffusion.targets.sim import SimServer
from litediffusion.targets.sim_soc import SYS_CLK_FREQ

RATES = (0.0, 0.01, 0.1)
BULK_BYTES, ETHERBONE_BYTES = 512 * 1024, 32 * 1024
PLACE = 0x100000            # window offset


@dataclass
class Row:
    """One transfer. ``cycles`` of the system clock; ``again``: packets sent more than once."""

    way: str
    action: str
    rate: float
    bytes: int
    cycles: int
    again: int

    def as_dict(self):
        each = self.cycles / (self.bytes / 1024)
        return vars(self) | {"cycles_per_kib": round(each), "mb_per_s": round(1024 / each * SYS_CLK_FREQ / 1e6, 1)}


def cycles(device):
    device.link.csr_write("timer0_uptime_latch", 1)
    return device.link.csr_read("timer0_uptime_cycles")


def measure(device, way, rate, size, seed):
    """Rows of writing fresh content and of reading it back. Raises RuntimeError if it came back different."""
    data, rows = random.Random(seed).randbytes(size), []
    device.write(PLACE, bytes(1024))                    # whatever comes first pays for finding the device
    for action in ("write", "read"):
        repeats = device.bulk.figures.repeats if device.bulk else 0
        begin = cycles(device)
        if action == "write":
            device.write(PLACE, data)
        elif device.read(PLACE, size) != data:
            raise RuntimeError(f"{way}, fault rate {rate:g}: what was read is not what was written")
        rows.append(Row(way, action, rate, size, cycles(device) - begin, device.bulk.figures.repeats - repeats if device.bulk else 0))
    return rows


def bench(server, seed=1):
    """All rows."""
    from litediffusion.sw.devices.litex import LitexDevice

    rows = []
    for i, rate in enumerate(RATES):          # other content each time: what is there already is not sent
        with LossyLink(("127.0.0.1", server.bulk_port), dict.fromkeys(FAULTS, rate), seed) as network:
            device = LitexDevice(server.host, server.port, server.csr_csv, f"127.0.0.1:{network.address[1]}")
            rows += measure(device, "bulk", rate, BULK_BYTES, seed + i)
            device.close()
    device = LitexDevice(server.host, server.port, server.csr_csv, "none")
    rows += measure(device, "Etherbone", 0.0, ETHERBONE_BYTES, seed + len(RATES))
    device.close()
    return rows


def table(rows):
    """Markdown."""
    lines = ["| way | | bytes | dropped, repeated, reordered, damaged: each | cycles a KiB | MB/s at 75 MHz | sent again |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        d = row.as_dict()
        lines.append(f"| {row.way} | {row.action} | {row.bytes:,} | {row.rate:.0%} | {d['cycles_per_kib']:,} | {d['mb_per_s']} "
                     f"| {row.again} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with SimServer() as server:
        rows = bench(server, args.seed)
    print(table(rows))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
