"""What a compiled program costs on a target, from its descriptors: cycles, DRAM bytes, time and energy, layer by layer."""

from dataclasses import asdict, dataclass

import numpy as np

from litediffusion.cores import isa
from litediffusion.sw.cycles import CycleModel, Estimate

# Energy of an operation in 45 nm at 0.9 V, pJ: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014,
# figure 1.1.9. An FPGA takes more for the same events: the figure compares programs, it is no board's consumption.
MAC_PJ = 0.2 + 0.1              # 8-bit multiplication, 32-bit addition
SRAM_WORD_PJ = 2 * 20.0         # 16 bytes from a memory of 32 KB: two accesses of 64 bits
DRAM_WORD_PJ = 2 * 1300.0       # 16 bytes from DRAM: two accesses of 64 bits, the lower figure


@dataclass
class Events:
    """Counted events of descriptors: multiply-accumulates (of filled-up lanes too), words of on-chip memories, words of DRAM."""
    macs: int = 0
    sram_words: int = 0
    dram_words: int = 0

    @property
    def picojoule(self):
        return self.macs * MAC_PJ + self.sram_words * SRAM_WORD_PJ + self.dram_words * DRAM_WORD_PJ

    def count(self, config, op, d):
        """Add a descriptor's."""
        self.dram_words += isa.DESC_BYTES // config.word_bytes
        if op in ("LOAD", "STORE"):
            words = d["n0"] * d["n1"] * d["n2"]
            self.dram_words += words
            self.sram_words += words
        elif op == "GEMM":
            pixels, tiles = d["noy"] * d["nox"], d["ng"] * d["nkb"] * d["nky"] * d["nkx"]
            self.macs += tiles * pixels * config.k_lanes * config.n_lanes * (2 if d["w4"] else 1)
            # An activation word, and the accumulators of n_lanes channels (two words) read and written; the tile.
            self.sram_words += tiles * (5 * pixels + config.tile_passes * config.n_lanes)
        elif op == "POST":
            self.sram_words += 2 * d["n0"] * d["n1"] * d["n2"]


@dataclass
class LayerCost:
    """One layer: the time by which it moves the end of the program; DRAM bytes with its descriptors'."""
    name: str
    cycles: int
    macs: int
    dram_bytes: int
    millijoule: float


@dataclass
class ProgramCost:
    """One program. cycles and all bytes; busy: share of the cycles in which each queue works; layers in their order."""
    cycles: int
    dram_bytes: int
    millijoule: float
    busy: dict
    layers: list


def instructions_of(program, part):
    """[(op, fields)] of one of a Program's four programs."""
    at, length = program.meta["programs"][part]
    data = program.image[at - program.meta["image_base"]:].tobytes()
    return [isa.decode(data[isa.DESC_BYTES * i:isa.DESC_BYTES * (i + 1)]) for i in range(length)]


def run_pieces(config, instructions, word_cycles, noise):
    """Estimate of a program, of a long one's pieces (isa.pieces) one after the other."""
    total = Estimate()
    for at, count in isa.pieces(0, len(instructions)):
        first = at // isa.DESC_BYTES
        piece = CycleModel(config, word_cycles).run(instructions[first:first + count], noise)
        total.layer_ends |= {layer: total.cycles + end for layer, end in piece.layer_ends.items()}
        total.cycles += piece.cycles
        total.busy = {queue: busy + piece.busy[queue] for queue, busy in total.busy.items()}
    return total


def program_cost(config, instructions, names, macs, word_cycles=None, noise=False):
    """ProgramCost of [(op, fields)]. names : of layers; macs : {layer: multiply-accumulates}; word_cycles, noise : see CycleModel."""
    estimate = run_pieces(config, instructions, word_cycles, noise)
    events = [Events() for _ in names]
    for op, d in instructions:
        events[d["layer"]].count(config, op, d)
    ends, reached, cycles = estimate.layer_ends, 0.0, np.zeros(len(names))
    for layer in sorted(ends, key=ends.get):
        cycles[layer], reached = ends[layer] - reached, ends[layer]
    layers = [LayerCost(name, round(c), macs.get(name, 0), config.word_bytes * e.dram_words, e.picojoule * 1e-9)
              for name, c, e in zip(names, cycles, events)]
    return ProgramCost(round(estimate.cycles), sum(layer.dram_bytes for layer in layers), sum(layer.millijoule for layer in layers),
                       {name: value / estimate.cycles for name, value in estimate.busy.items()}, layers)


@dataclass
class Target:
    """A board: its engine, cycles of its DRAM for a word, system clock, bytes of its memory."""
    name: str
    config: object
    word_cycles: float
    clock: float
    memory: int


def target_of(board, preset=None):
    """Target of a board by its name. Raises ValueError with the known ones."""
    from litediffusion.sw.cli.network import board_engine
    from litediffusion.sw.picture_time import BOARD_MEMORY
    from litediffusion.targets.synthesis import soc_class

    if board not in BOARD_MEMORY:
        raise ValueError(f"target {board!r} is unknown; known: {', '.join(BOARD_MEMORY)}")
    soc, memory = soc_class(board), BOARD_MEMORY[board]
    return Target(board, board_engine(board, preset or soc.PRESET), memory.word_cycles, soc.SYS_CLK_FREQ, memory.mib << 20)


def picture_cost(program, target):
    """Report of a Program on a Target (see picture_report)."""
    meta = program.meta
    names = {part: meta["layers"] if part == "eval" else meta["finish_layers"] if part == "finish" else [part] for part in meta["programs"]}
    parts = {part: program_cost(target.config, instructions_of(program, part), names[part], meta["macs"], target.word_cycles,
                                part == "init" or part == "update" and meta["noise"]) for part in meta["programs"]}
    return picture_report(target, parts, meta["image_bytes"], meta["steps"], meta["guidance"], meta["programs"]["eval"][1])


def picture_report(target, parts, needs_bytes, steps, guidance, descriptors):
    """A dict: {part: ProgramCost}, cycles, DRAM bytes, seconds and energy of a step and of a picture.

    needs_bytes : of DRAM; descriptors : of an evaluation, which is run as so many ``programs``.
    """
    from litediffusion.sw.container import evaluations

    runs = evaluations(guidance)
    total = lambda field, counts: sum(n * getattr(parts[part], field) for part, n in counts.items())
    step = {"eval": runs, "update": 1}
    picture = {"init": 1, "eval": steps * runs, "update": steps, "finish": 1}
    report = {"target": target.name, "clock_mhz": target.clock / 1e6, "memory_bytes": target.memory, "needs_bytes": needs_bytes,
              "fits": needs_bytes <= target.memory, "evaluations_a_step": runs, "steps": steps,
              "descriptors": descriptors, "programs": len(isa.pieces(0, descriptors))}
    for name, counts in (("step", step), ("picture", picture)):
        report[name] = {field: total(field, counts) for field in ("cycles", "dram_bytes", "millijoule")}
        report[name]["seconds"] = report[name]["cycles"] / target.clock
    report["utilisation"] = sum(layer.macs for layer in parts["eval"].layers) / target.config.peak_macs / parts["eval"].cycles
    report["parts"] = {part: asdict(cost) for part, cost in parts.items()}
    return report
