"""The engine's configuration: one frozen object from which every width and depth comes."""

from dataclasses import asdict, dataclass
import hashlib
import json

from litediffusion.cores import isa


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of one engine. Units are in the field comments; lane counts are int8 lanes.

    Raises ValueError with the value, the limit and the remedy when the sizes do not fit together.
    """

    k_lanes: int = 16          # input channels of a memory word, which is k_lanes bytes
    n_lanes: int = 8           # output channels a cycle at W8A8 (twice that at W4A8)
    spm_words: int = 4096      # scratchpad (activations), words of k_lanes bytes
    wbuf_words: int = 2048     # weight buffer, words of k_lanes bytes
    acc_words: int = 1024      # accumulator entries of n_lanes x int32 in each of the two halves
    param_words: int = 256     # parameter records of n_lanes output channels
    stat_words: int = 128      # per-channel statistics, records of n_lanes channels
    row_words: int = 1024      # per-row coefficients (softmax, LayerNorm)
    queue_depth: int = 8       # descriptors waiting in each queue
    dma_depth: int = 64        # DRAM words in flight in LOAD
    dram_bytes: int = 8        # peak of the board's DRAM, bytes a system clock (for rooflines only)
    gemm_words: int = 1        # activation words that GEMM multiplies a cycle, 1 or 2
    gemm_cycles: int = 1       # cycles of an activation word in GEMM, 1 or 2; 2 with half the multipliers, for gemm_words = 1, array_clock = 2
    array_clock: int = 1       # cycles of the array's multipliers in a system cycle, 1 or 2 (clock domain sys2x)
    primitives: str = ""       # "ecp5": the sys2x multipliers are MULT18X18D with their registers; same results
    post_lanes: int = 8        # lanes of POST, 1, 2, 4 or 8: an element of n_lanes values takes n_lanes / post_lanes cycles
    trace: bool = True         # with the unit that records when every descriptor ran
    lut_multipliers: bool = False   # for a 45F's 72 multipliers: logic cells make products outside the array; same results
    name: str = "ecpix5"       # preset

    def __post_init__(self):
        if self.k_lanes != 2 * self.n_lanes:
            raise ValueError(f"k_lanes={self.k_lanes} must be twice n_lanes={self.n_lanes}: "
                             "a memory word holds two output groups; change one of them")
        for name in ("k_lanes", "spm_words", "wbuf_words", "acc_words", "param_words", "stat_words", "row_words"):
            value = getattr(self, name)
            if value & (value - 1) or not 2 <= value <= 1 << 15:
                raise ValueError(f"{name}={value} must be a power of two in 2..32768")
        if self.n_lanes != 8:
            raise ValueError(f"n_lanes={self.n_lanes}: only 8 is supported, because a parameter record "
                             "holds 8 lanes")
        for name in ("gemm_words", "gemm_cycles", "array_clock"):
            if getattr(self, name) not in (1, 2):
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or 2")
        if self.gemm_cycles == 2 and (self.gemm_words, self.array_clock) != (1, 2):
            raise ValueError(f"gemm_cycles=2 must go with gemm_words=1 and array_clock=2, not {self.gemm_words} and {self.array_clock}: "
                             "it halves the array that these make")
        if self.post_lanes not in (1, 2, 4, 8):
            raise ValueError(f"post_lanes={self.post_lanes} must be 1, 2, 4 or 8: POST takes its lanes in turns of equal size")
        if self.primitives not in ("", "ecp5"):
            raise ValueError(f"primitives={self.primitives!r} must be 'ecp5' or '' (any FPGA, simulation)")

    @property
    def word_bytes(self):
        """Bytes of a memory word and of a DRAM word."""
        return self.k_lanes

    @property
    def word_bits(self):
        return 8 * self.k_lanes

    @property
    def half_bits(self):
        """Bits of a half word: one group of n_lanes int8 values."""
        return 8 * self.n_lanes

    @property
    def array_parts(self):
        """Turns that the array takes on its activation words, each with its share of their bytes."""
        return self.array_clock * self.gemm_cycles

    @property
    def tile_passes(self):
        """Times that GEMM reads a weight tile to load it: more than 1 where a lane's multipliers take part of a row at a time, whose
        weight memory then is as narrow."""
        return self.array_parts if self.gemm_words == 1 else 1

    @property
    def post_beats(self):
        """Cycles of POST for an element of n_lanes values."""
        return self.n_lanes // self.post_lanes

    @property
    def post_lut_multipliers(self):
        """True if logic cells make POST's products but the requantisation's; one lane finds multipliers enough beside the array's."""
        return self.lut_multipliers and self.post_lanes > 1

    @property
    def peak_macs(self):
        """int8 x int8 multiply-accumulates a system cycle (twice that at W4A8)."""
        return self.k_lanes * self.n_lanes * self.gemm_words // self.gemm_cycles

    @property
    def hash(self):
        """32-bit identity of what a program depends on, instruction set included; stored in .ldp files and in a CSR."""
        unseen = ("name", "queue_depth", "dma_depth", "dram_bytes", "gemm_words", "gemm_cycles", "array_clock", "primitives",
                  "post_lanes", "trace", "lut_multipliers")
        facts = {"isa": isa.identity()} | {k: v for k, v in asdict(self).items() if k not in unseen}
        return int.from_bytes(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()[:4], "little")


PRESETS = {
    "ecpix5": EngineConfig(gemm_words=2, post_lanes=4),
    # An ECP5 45F with 32-bit SDRAM: 72 multipliers, 108 block RAMs.
    "colorlight": EngineConfig(spm_words=2048, wbuf_words=1024, acc_words=512, row_words=512, dma_depth=16, post_lanes=2, dram_bytes=4, name="colorlight"),
}
