"""Time of a picture on each board: cycles of the network's layers in the simulated engine, at the clock that the board reached.

``python -m litediffusion.sw.picture_time build/cifar10.json build/*/report.json`` prints the table;
``--readme README.md`` also puts it between the file's two markers.
"""

import argparse
from dataclasses import dataclass
import json
from pathlib import Path

from litediffusion.soc.memory_map import WINDOW_OFFSET
from litediffusion.targets.report import put_table

@dataclass(frozen=True)
class Memory:
    """word_cycles : of the system clock for 16 bytes; mib : size."""
    word_cycles: int
    mib: int


# DDR3 of 16 bits at 1:2 gives a word every two cycles; behind a native word of 32 bits LiteDRAM's converter takes ratio + 1.
BOARD_MEMORY = {"ecpix5": Memory(2, 512), "orangecrab": Memory(2, 128), "butterstick": Memory(2, 128), "versa_ecp5": Memory(2, 128),
                "ulx3s": Memory(5, 32), "colorlight_i9": Memory(5, 8), "colorlight_i5": Memory(5, 8)}
STEPS = 50
DIFFUSER_SECONDS = 63    # "Diffuser" on a Zynq, its own figure for a 50-step DDIM picture of this network
MARKERS = ("<!-- picture times: made by sw/picture_time.py -->\n", "<!-- end of picture times -->\n")
HEAD = ["board", "int8 MACs a cycle", "DRAM, cycles a word", "clock, MHz", "weights", "MB (memory)", "cycles an evaluation", "of peak",
        "picture, s"]


def usable_mhz(report):
    """(system clock that the timing allows, True if it is the one asked for)."""
    short = min((c["reached_mhz"] / c["asked_mhz"] for c in report["clocks"].values()), default=1.0)
    return (report["sys_clk_mhz"], True) if report["timing_met"] else (report["sys_clk_mhz"] * min(short, 1.0), False)


def picture_seconds(run, mhz):
    """Seconds of a picture: evaluations without guidance, and sampler updates."""
    return STEPS * (run["cycles"] + run["update_cycles"]) / (mhz * 1e6)


def row(report, run):
    """Cells of one board at one width of weights."""
    mhz, met = usable_mhz(report)
    clock = f"{mhz:.1f}" if met else f"{mhz:.1f} ({report['sys_clk_mhz']:.1f} not met)"
    memory = BOARD_MEMORY[report["board"]].mib
    seconds = f"{picture_seconds(run, mhz):.1f}"
    if run["weight_bytes"] > (memory << 20) - WINDOW_OFFSET:        # what the engine may use
        seconds += " (weights do not fit the memory)"
    return [report["board"], f"{run['macs_a_cycle']}", f"{run['word_cycles']}", clock, f"W{run['bits']}A8",
            f"{run['weight_bytes'] / 1e6:.1f} ({memory})", f"{run['cycles']:,}", f"{100 * run['utilisation']:.1f} %", seconds]


def cells(network, reports):
    """The whole table: head, a row for every board and width of weights that was measured, Diffuser's figure."""
    other = ["Diffuser (Zynq), as published", *[""] * (len(HEAD) - 2), f"{DIFFUSER_SECONDS}"]
    boards = [row(report, run) for report in sorted(reports, key=lambda r: r["board"]) for run in network["runs"]
              if report["board"] in run["boards"]]
    return [HEAD, *boards, other]


def main(argv=None):
    parser = argparse.ArgumentParser(description="Times of a picture on the boards, computed from cycles and clocks.")
    parser.add_argument("network", type=Path, help="JSON of `litediffusion network`")
    parser.add_argument("reports", nargs="+", type=Path, help="report.json of boards")
    parser.add_argument("--readme", type=Path, help="file whose table is replaced")
    args = parser.parse_args(argv)
    network = json.loads(args.network.read_text())
    put_table(cells(network, [json.loads(p.read_text()) for p in args.reports]), args.readme, MARKERS)


if __name__ == "__main__":
    main()
