"""The engine's registers: one table from which CSRs, the RTL device's ports and the C header come.

``rw`` registers are plain inputs of the engine, ``ro`` outputs, ``pulse`` a one-cycle input on a write of 1.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reg:
    name: str
    access: str   # rw | ro | pulse
    bits: int
    doc: str


QUEUE_COUNTERS = ("busy", "wait_token", "wait_dram", "descriptors")

REGS = [
    Reg("start", "pulse", 1, "run the program at program_addr; clears the counters, status and error"),
    Reg("reset", "pulse", 1, "leave the error state: empty queues, tokens to 0; waits for DRAM accesses under way"),
    Reg("program_addr", "rw", 32, "byte offset of the program in the window"),
    Reg("program_len", "rw", 16, "descriptors in the program, END included"),
    Reg("window_base", "rw", 32, "byte address of the window from the start of the DRAM"),
    Reg("window_size", "rw", 32, "bytes of the window; the engine reads and writes nothing outside"),
    Reg("index_step", "rw", 16, "index register STEP"),
    Reg("index_label", "rw", 16, "index register LABEL"),
    Reg("index_slot", "rw", 16, "index register SLOT"),
    Reg("index_image", "rw", 16, "index register IMAGE"),
    Reg("guidance", "rw", 32, "guidance scale w, signed Q19.12"),
    Reg("seed0", "rw", 32, "low word of the noise key"),
    Reg("seed1", "rw", 32, "high word of the noise key"),
    Reg("watchdog", "rw", 32, "cycles without progress after which the engine stops with WATCHDOG; 0: off"),
    Reg("trace_enable", "rw", 1, "1: write a 16-byte record for every descriptor to the trace buffer"),
    Reg("trace_addr", "rw", 32, "byte offset of the trace buffer in the window"),
    Reg("trace_size", "rw", 32, "bytes of the trace buffer; later records are dropped and counted"),
    Reg("status", "ro", 4, "bit 0 busy, bit 1 done, bit 2 error, bit 3 halted (error and all DRAM accesses finished)"),
    Reg("config_hash", "ro", 32, "identity of the configuration (EngineConfig.hash)"),
    Reg("error_code", "ro", 8, "see isa.ERRORS"),
    Reg("error_queue", "ro", 3, "queue of the error (LOAD, GEMM, POST, STORE; 4: fetch)"),
    Reg("error_index", "ro", 16, "index of the failing descriptor in the program"),
    Reg("error_token", "ro", 5, "token counter waited for (WATCHDOG), 16: none"),
    *[Reg(f"{q}_index", "ro", 16, f"oldest descriptor of the {q.upper()} queue that has not completed") for q in ("load", "gemm", "post", "store")],
    *[Reg(f"{q}_state", "ro", 4, "bit 0 running, bit 1 waiting for a token, bit 2 stalled on memory, bit 3 queue not empty")
      for q in ("load", "gemm", "post", "store")],
    *[Reg(f"tokens{i}", "ro", 32, f"token counters {4*i}..{4*i+3}, 8 bits each") for i in range(4)],
    Reg("cycles", "ro", 32, "cycles of the last program, start to done"),
    Reg("mac_cycles", "ro", 32, "activation words that the array took (k_lanes x n_lanes MACs each, twice at w4), up to gemm_words a cycle"),
    Reg("mac_cycles_w4", "ro", 32, "those of them at w4"),
    Reg("dram_reads", "ro", 32, "DRAM words read, program included"),
    Reg("dram_writes", "ro", 32, "DRAM words written"),
    Reg("trace_count", "ro", 32, "trace records written"),
    Reg("trace_dropped", "ro", 32, "trace records dropped"),
    *[Reg(f"{q}_{c}", "ro", 32, f"{q.upper()} queue: {'descriptors done' if c == 'descriptors' else 'cycles ' + c}")
      for q in ("load", "gemm", "post", "store") for c in QUEUE_COUNTERS],
]

# Registers that lie in small memories of the engine and are read one at a time: {name: number}. The counters that the
# scanner of cores/counters.py keeps come first, the tokens follow from VIEW_TOKENS on.
COUNTED = ["mac_cycles", "mac_cycles_w4", "dram_reads", "dram_writes", "trace_count", "trace_dropped",
           *[f"{q}_{c}" for q in ("load", "gemm", "post", "store") for c in QUEUE_COUNTERS]]
VIEW_TOKENS = 32
VIEWED = {name: k for k, name in enumerate(COUNTED)} | {f"tokens{i}": VIEW_TOKENS + i for i in range(4)}

# Trace record, 128 bits, least significant first.
TRACE_FIELDS = [("index", 16), ("queue", 4), ("wait_token", 24), ("wait_dram", 20), ("start", 32), ("end", 32)]
