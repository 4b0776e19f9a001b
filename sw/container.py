"""The .ldp container: a compiled program in one file.

    header   magic "LDP1", version, configuration hash, number of sections, CRC-32 of header and section table
    table    for each section: name (16 bytes), offset, size, CRC-32
    JOB      what a device without a host needs of META, as 32-bit words (JOB_SECTION); not there if META has no programs
    META     JSON: shapes, programs, buffers, layers
    IMAGE    constants and programs, from META.image_base of the engine's window on
META ends with blanks, so that IMAGE starts at a multiple of ALIGN bytes: blocks of an SD card are read as they are.
Readers refuse a file that is truncated, corrupted or made for another configuration, and say which.
"""

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from litediffusion.soc.mailbox import WATCHDOG

MAGIC, VERSION = b"LDP1", 1
HEADER, ENTRY = struct.Struct("<4sIIII"), struct.Struct("<16sQQII")

ALIGN = 512                 # bytes of an SD card's block
NAME_WORDS = 8
GUIDANCE_ONE = 1 << 12      # guidance scales are Q19.12

# (name, words, meaning) of the section JOB; the firmware reads it as it is. Names of mailbox.JOB mean the same here.
JOB_SECTION = [
    ("name", NAME_WORDS, "the model's name, filled up with zeros"),
    ("image_base", 1, "window offset of the section IMAGE"),
    ("image_bytes", 1, "see mailbox.JOB"),
    ("init", 2, "see mailbox.JOB"),
    ("eval", 2, "see mailbox.JOB"),
    ("update", 2, "see mailbox.JOB"),
    ("finish", 2, "see mailbox.JOB"),
    ("steps", 1, "sampler steps of the compilation"),
    ("evals", 1, "see mailbox.JOB"),
    ("guidance", 1, "see mailbox.JOB"),
    ("null_label", 1, "see mailbox.JOB"),
    ("labels", 1, "number of labels that can be asked for"),
    ("watchdog", 1, "see mailbox.JOB"),
    ("pixels", 1, "window offset of image 0's pixels, 16 bytes each, channels first"),
    ("channels", 1, "channels of the picture"),
    ("height", 1, "pixels"),
    ("width", 1, "pixels"),
]


class ContainerError(ValueError):
    """A .ldp file cannot be used; the message says what is wrong with it."""


@dataclass
class Program:
    """A compiled model.

    ``image``: uint8 constants and programs, to be put at byte ``meta["image_base"]`` of the window (the buffers lie
    below it); the program uses ``meta["image_bytes"]`` bytes of the window in all.
    """
    image: np.ndarray
    meta: dict
    config_hash: int

    def save(self, path):
        sections = {"JOB": job_section(self.meta)} if "programs" in self.meta else {}
        kept = {name: value for name, value in self.meta.items() if name != "tensors"}      # of use beside the float network only
        meta, at, table = json.dumps(kept).encode(), HEADER.size + ENTRY.size * (len(sections) + 2), b""
        sections["META"] = meta + b" " * (-(at + sum(map(len, sections.values())) + len(meta)) % ALIGN)
        sections["IMAGE"] = memoryview(np.ascontiguousarray(self.image))
        for name, data in sections.items():
            table += ENTRY.pack(name.encode(), at, len(data), zlib.crc32(data), 0)
            at += len(data)
        head = HEADER.pack(MAGIC, VERSION, self.config_hash, len(sections), 0)[:-4]
        with open(path, "wb") as file:
            for data in (head, struct.pack("<I", zlib.crc32(head + table)), table, *sections.values()):
                file.write(data)


def job_section(meta):
    """Bytes of the section JOB."""
    c, h, w = meta["picture"]
    guidance = meta["guidance"]
    fields = {name: meta[name] for name in ("image_base", "image_bytes", "steps", "null_label", "labels")} | meta["programs"] | {
        "name": np.frombuffer(meta["name"].encode()[:4 * NAME_WORDS].ljust(4 * NAME_WORDS, b"\0"), "<u4"),
        "evals": evaluations(guidance), "guidance": fixed_guidance(guidance), "watchdog": WATCHDOG,
        "pixels": meta["buffers"]["pixels"], "channels": c, "height": h, "width": w}
    words = [int(v) & 0xFFFFFFFF for name, _, _ in JOB_SECTION for v in np.atleast_1d(np.asarray(fields[name], np.int64))]
    return struct.pack(f"<{sum(n for _, n, _ in JOB_SECTION)}I", *words)


def evaluations(guidance):
    """Network evaluations a step that a guidance scale asks for."""
    return 1 if guidance == 1.0 else 2


def fixed_guidance(guidance):
    """A guidance scale as the engine's register takes it."""
    return round(guidance * GUIDANCE_ONE)


def _header(data, path):
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise ContainerError(f"{path}: no .ldp file (starts with {bytes(data[:4])!r}, expected {MAGIC!r})")
    _, version, config_hash, count, crc = HEADER.unpack_from(data)
    if version != VERSION:
        raise ContainerError(f"{path}: container version {version}, this program reads {VERSION}; recompile the model")
    end = HEADER.size + ENTRY.size * count
    if len(data) < end:
        raise ContainerError(f"{path}: truncated: {len(data)} bytes, the section table ends at {end}")
    if zlib.crc32(data[:HEADER.size - 4] + data[HEADER.size:end]) != crc:
        raise ContainerError(f"{path}: header or section table is corrupted (CRC-32 differs); compile or copy the file again")
    return config_hash, [ENTRY.unpack_from(data, HEADER.size + i * ENTRY.size) for i in range(count)]


def load(path, config_hash=None):
    """Program from a file. Raises ContainerError; ``config_hash``: refuse a file made for another configuration."""
    data = Path(path).read_bytes()
    found, table = _header(data, path)
    sections = {}
    for name, at, size, crc, _ in table:
        name = name.rstrip(b"\0").decode()
        if at + size > len(data):
            raise ContainerError(f"{path}: truncated: section {name} ends at byte {at + size}, the file has {len(data)}")
        sections[name] = data[at:at + size]
        if zlib.crc32(sections[name]) != crc:
            raise ContainerError(f"{path}: section {name} is corrupted (CRC-32 differs); compile or copy the file again")
    for name in ("META", "IMAGE"):
        if name not in sections:
            raise ContainerError(f"{path}: section {name} is missing; compile the model again")
    check_config(found, config_hash, path)
    return Program(np.frombuffer(sections["IMAGE"], np.uint8).copy(), json.loads(sections["META"]), found)


def check_config(found, wanted, what):
    """Raise ContainerError if a program was compiled for another configuration than the device's."""
    if wanted is not None and found != wanted:
        raise ContainerError(f"{what}: compiled for configuration {found:08x}, the device has {wanted:08x}; recompile for it")
