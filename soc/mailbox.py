"""The job mailbox: what host and firmware say to each other, as tables (no gateware in this file).

The mailbox is 4 KiB of uncached on-chip memory, seen by CPU and host. The host claims the device (``claim``
CSR), fills JOB, rings the ``doorbell`` CSR; the firmware answers in STATE. All words are 32 bit, little endian.
"""

MAGIC = 0x4C444931          # "LDI1": written by the firmware when it is ready
ABI_VERSION = 1
MAX_BATCH = 16
MAX_STEPS = 1000
TEXT_BYTES = 256
WATCHDOG = 1 << 20          # cycles: a job's watchdog unless it asks for another
LEASE_SECONDS = 15          # a claim that is not renewed for so long lapses (the host is gone)
LEASE_CYCLES_SIM = 30_000_000   # the same in the simulation, about a minute

COMMANDS = {"NONE": 0, "GENERATE": 1, "RUN": 2, "ABORT": 3, "SELFTEST": 4}

# (name, words, meaning). Offsets follow from the order.
STATE = [
    ("magic", 1, "MAGIC once the firmware is up"),
    ("abi_version", 1, "ABI_VERSION"),
    ("config_hash", 1, "identity of the engine's configuration"),
    ("window_base", 1, "byte address of the engine's window on the bus"),
    ("window_size", 1, "bytes of the window"),
    ("heartbeat", 1, "counts up while the firmware's main loop is alive"),
    ("job_id", 1, "the job that the fields below speak of"),
    ("job_state", 1, "see JOB_STATES"),
    ("error", 1, "see ERRORS"),
    ("error_info", 4, "engine errors: code, queue, descriptor index, token; otherwise value and limit"),
    ("image", 1, "images done"),
    ("step", 1, "steps done of the image under way (0 after the last one)"),
    ("engine_runs", 1, "engine programs finished in this job"),
    ("engine_cycles", 2, "sum of the engine's cycles (64 bit)"),
    ("total_cycles", 2, "cycles from doorbell to done (64 bit)"),
    ("mac_cycles", 2, "sum of the engine's mac_cycles (64 bit)"),
    ("dram_reads", 2, "sum of DRAM words read by the engine (64 bit)"),
    ("dram_writes", 2, "sum of DRAM words written by the engine (64 bit)"),
    ("queue_counters", 32, "4 queues x (busy, wait_token, wait_dram, descriptors), 64 bit sums"),
    ("text", TEXT_BYTES // 4, "the error as text, zero terminated"),
]
JOB = [
    ("command", 1, "see COMMANDS"),
    ("id", 1, "chosen by the host, not 0; echoed in STATE.job_id"),
    ("config_hash", 1, "configuration that the program was compiled for"),
    ("abi", 1, "ABI_VERSION"),
    ("image_bytes", 1, "bytes of the window that the program uses"),
    ("init", 2, "program that makes the starting noise: byte offset, descriptors (also the program of RUN)"),
    ("eval", 2, "program of one network evaluation: byte offset, descriptors"),
    ("update", 2, "program of one sampler update: byte offset, descriptors"),
    ("finish", 2, "program that writes latents and pixels of the image: byte offset, descriptors"),
    ("steps", 1, "sampler steps, 1..MAX_STEPS and at most max_steps"),
    ("max_steps", 1, "steps that the program's tables hold"),
    ("evals", 1, "network evaluations a step: 1 without guidance, 2 with"),
    ("guidance", 1, "guidance scale, signed Q19.12"),
    ("batch", 1, "images, 1..MAX_BATCH"),
    ("null_label", 1, "label of the unconditional evaluation"),
    ("trace", 3, "1: trace the RUN program; byte offset and bytes of the trace buffer"),
    ("watchdog", 1, "engine watchdog in cycles, not 0"),
    ("index", 4, "RUN: index registers STEP, LABEL, SLOT, IMAGE"),
    ("labels", MAX_BATCH, "label of each image"),
    ("seed0", MAX_BATCH, "low seed word of each image"),
    ("seed1", MAX_BATCH, "high seed word of each image"),
]

JOB_STATES = {"IDLE": 0, "RUNNING": 1, "DONE": 2, "FAILED": 3, "ABORTED": 4}

ERRORS = {
    0: ("OK", "no error"),
    1: ("BAD_COMMAND", "unknown command"),
    2: ("BAD_ABI", "host and firmware speak different mailbox versions: update one of them"),
    3: ("WRONG_CONFIG", "the program was compiled for another engine configuration: recompile for this device"),
    4: ("BAD_STEPS", "the number of steps is zero or above the limit"),
    5: ("BAD_BATCH", "the number of images is zero or above the limit"),
    6: ("BAD_ADDRESS", "a program lies outside the engine's window or is not aligned to 64 bytes"),
    7: ("BAD_LENGTH", "a program has no descriptors or more than the limit"),
    8: ("BAD_EVALS", "evaluations a step must be 1 or 2"),
    9: ("ENGINE", "the engine stopped with an error"),
    10: ("NO_ANSWER", "the engine did not finish within the watchdog's time"),
    11: ("SELFTEST", "the self-test found a difference"),
    12: ("ABORTED", "the host asked to stop"),
    13: ("BAD_ID", "the job id is zero"),
    14: ("BAD_WATCHDOG", "the watchdog is zero: a hang would never end"),
    15: ("DRAM_INIT", "the DRAM controller did not come up"),
    16: ("BAD_INDEX", "a label or an index does not fit in the engine's 16-bit index registers"),
}

STATE_BASE = 0x000
JOB_BASE = 0x400
SIZE = 0x1000


def offsets(table, base):
    """{name: (byte offset, words)} of a table."""
    out, at = {}, base
    for name, words, _ in table:
        out[name] = (at, words)
        at += 4 * words
    return out


STATE_AT = offsets(STATE, STATE_BASE)
JOB_AT = offsets(JOB, JOB_BASE)
