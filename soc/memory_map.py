"""The memory map: the only place where addresses are written."""

MAIN_RAM_BASE = 0x4000_0000        # LiteX convention
MAILBOX_BASE = 0x9000_0000         # uncached I/O region of VexRiscv
WINDOW_OFFSET = 0x0010_0000        # engine window, from the start of the DRAM
WINDOW_SIZE = 0x0100_0000          # 16 MiB
SELFTEST_BYTES = 0x1000            # at the window's end, for the firmware's self-test
FRAME_OFFSET = 0                   # the display's frame, from the start of the DRAM: RGB565, FRAME_WIDTH pixels a line
FRAME_WIDTH, FRAME_HEIGHT = 320, 240
FRAME_BYTES = 2 * FRAME_WIDTH * FRAME_HEIGHT
WINDOW_BASE = MAIN_RAM_BASE + WINDOW_OFFSET
