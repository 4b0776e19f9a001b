"""The .ldp container: a compiled program in one file.

    header   magic "LDP1", version, configuration hash, number of sections, CRC-32 of header and section table
    table    for each section: name (16 bytes), offset, size, CRC-32
    META     JSON: shapes, programs, buffers, layers
    IMAGE    constants and programs, from META.image_base of the engine's window on
Readers refuse a file that is truncated, corrupted or made for another configuration, and say which.
"""

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAGIC, VERSION = b"LDP1", 1
HEADER, ENTRY = struct.Struct("<4sIIII"), struct.Struct("<16sQQII")


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
        sections = {"META": json.dumps(self.meta).encode(), "IMAGE": self.image.tobytes()}
        at, table = HEADER.size + ENTRY.size * len(sections), b""
        for name, data in sections.items():
            table += ENTRY.pack(name.encode(), at, len(data), zlib.crc32(data), 0)
            at += len(data)
        head = HEADER.pack(MAGIC, VERSION, self.config_hash, len(sections), 0)[:-4]
        Path(path).write_bytes(head + struct.pack("<I", zlib.crc32(head + table)) + table + b"".join(sections.values()))


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
