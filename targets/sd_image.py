"""SD card images with a FAT file system, in pure Python: for the simulated card and the tests.

``python -m litediffusion.targets.sd_image MODEL.LDP -o card.img``; such an image can be written to a real card as well.
"""

import argparse
from pathlib import Path
import struct

SECTOR = 512
FIRST_SECTOR = 64                   # of the partition; the sectors before it hold the partition table
ROOT_ENTRIES = 512                  # FAT16's root folder has a fixed size
END = 0x0FFFFFFF
# Clusters that make a volume FAT16 or FAT32: readers decide by their number alone, and differ by a few at the limits.
FAT16_CLUSTERS, FAT32_CLUSTERS = (4096, 65500), (65600, 1 << 20)


class ImageError(ValueError):
    """The files cannot be put on a card image; the message says why."""


def short_name(name):
    """A name as 11 bytes of a folder entry. Raises ImageError if it is no 8.3 name."""
    stem, _, suffix = name.upper().rpartition(".")
    plain = all(c.isascii() and (c.isalnum() or c in "_-~") for c in stem + suffix)
    if not (plain and 1 <= len(stem) <= 8 and 1 <= len(suffix) <= 3):
        raise ImageError(f"{name}: a file needs a name of at most 8 letters and a suffix of at most 3; rename it")
    return f"{stem:8}{suffix:3}".encode()


def card_image(path, files, fat=16, cluster_sectors=4, partition=True):
    """Write an image with ``files`` ({name: bytes}) in the root folder.

    fat              16 or 32
    cluster_sectors  sectors a cluster, a power of two up to 64
    partition        with a partition table, as cards come; without, the volume starts at sector 0
    Files lie one after the other. The image is a sparse file. Raises ImageError.
    """
    sizes = [-(-len(data) // (SECTOR * cluster_sectors)) for data in files.values()]
    least, most = FAT16_CLUSTERS if fat == 16 else FAT32_CLUSTERS
    clusters = max(least, sum(sizes) + 16)
    if clusters > most:
        raise ImageError(f"{sum(sizes)} clusters of files are too many for FAT{fat}, which has {most}: take larger clusters")
    table, entries = allocate(files, sizes, fat)
    fat_sectors = -(-(clusters + 2) * (fat // 8) // SECTOR)
    reserved, root_sectors = (32, 0) if fat == 32 else (1, ROOT_ENTRIES * 32 // SECTOR)
    start = FIRST_SECTOR if partition else 0
    fat_at = start + reserved
    root_at = fat_at + 2 * fat_sectors
    data_at = root_at + (cluster_sectors if fat == 32 else root_sectors)
    total = reserved + 2 * fat_sectors + root_sectors + clusters * cluster_sectors
    with open(path, "wb") as image:
        def put(sector, data):
            image.seek(SECTOR * sector)
            image.write(data)

        if partition:
            entry = struct.pack("<B3xB3xII", 0, 0x0C if fat == 32 else 0x0E, start, total)
            put(0, bytes(446) + entry + bytes(48) + b"\x55\xaa")
        put(start, boot_sector(fat, cluster_sectors, reserved, root_sectors, fat_sectors, total, start))
        numbers = struct.pack(f"<{len(table)}{'I' if fat == 32 else 'H'}", *(n & (END if fat == 32 else 0xFFFF) for n in table))
        for copy in (0, 1):
            put(fat_at + copy * fat_sectors, numbers)
        put(root_at, entries)
        at = data_at
        for data, size in zip(files.values(), sizes):
            put(at, data)
            at += size * cluster_sectors
        image.truncate(SECTOR * (start + total))


def allocate(files, sizes, fat):
    """(FAT as a list of entries, bytes of the root folder) for files of ``sizes`` clusters, one after the other."""
    table, entries = [END & ~7, END] + ([END] if fat == 32 else []), b""         # FAT32's cluster 2 is the root folder
    for (name, data), size in zip(files.items(), sizes):
        first = len(table) if size else 0
        table += [*range(first + 1, first + size), END] if size else []
        entries += struct.pack("<11sB8xH4xHI", short_name(name), 0x20, first >> 16, first & 0xFFFF, len(data))
    return table, entries


def boot_sector(fat, cluster_sectors, reserved, root_sectors, fat_sectors, total, start):
    """The volume's first sector."""
    root_entries = root_sectors * SECTOR // 32
    common = struct.pack("<3s8sHBHBHHBHHHII", b"\xeb\x58\x90", b"LDI     ", SECTOR, cluster_sectors, reserved, 2, root_entries,
                         0, 0xF8, 0 if fat == 32 else fat_sectors, 63, 255, start, total)
    if fat == 32:
        common += struct.pack("<IHHIHH12x", fat_sectors, 0, 0, 2, 0, 6)
    tail = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 0, b"LITEDIFFUSI", b"FAT32   " if fat == 32 else b"FAT16   ")
    return (common + tail).ljust(510, b"\0") + b"\x55\xaa"


def main(argv=None):
    parser = argparse.ArgumentParser(description="An SD card's image with files in its root folder.")
    parser.add_argument("files", nargs="+", type=Path, help="the first .ldp file is the one that the firmware takes")
    parser.add_argument("-o", "--output", type=Path, required=True, help="image file")
    parser.add_argument("--fat", type=int, choices=(16, 32), default=32, help="file system")
    args = parser.parse_args(argv)
    try:
        card_image(args.output, {path.name: path.read_bytes() for path in args.files}, args.fat)
    except (ImageError, OSError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
