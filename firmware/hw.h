/* The hardware as the firmware's logic sees it. hw_soc.c implements it on LiteX's CSRs, host tests with a fake. */
#ifndef HW_H
#define HW_H

#include <stdbool.h>
#include <stdint.h>

#include "ldi_tables.h"

struct hw {
	/* Engine registers. Writing 1 to LDI_REG_START or LDI_REG_RESET pulses them. */
	void (*set_reg)(enum ldi_reg reg, uint32_t value);
	uint32_t (*get_reg)(enum ldi_reg reg);
	/* The registers first, first + 1, ... of the table: one call, because it stands between two programs. */
	void (*get_regs)(enum ldi_reg first, uint32_t count, uint32_t *values);

	/* System clock cycles, free-running, modulo 2^32. */
	uint32_t (*cycles)(void);

	/* Mailbox words at byte offsets, uncached. */
	uint32_t (*mailbox_read)(uint32_t offset);
	void (*mailbox_write)(uint32_t offset, uint32_t value);

	/* True while a ring of the doorbell waits to be answered; the second forgets it. */
	bool (*doorbell_pending)(void);
	void (*doorbell_clear)(void);

	/* Words of the engine's window at byte offsets, through the CPU's caches. */
	uint32_t (*window_read)(uint32_t offset);
	void (*window_write)(uint32_t offset, uint32_t value);

	void (*window_put)(uint32_t offset, const uint32_t *words, uint32_t count);

	/* Make CPU, bus and engine agree on the DRAM: writes back and forgets the L2 and data caches. */
	void (*sync_memory)(void);

	/* Console: next character or -1; a string; a restart of the whole SoC. */
	int (*getchar)(void);
	void (*puts)(const char *s);
	void (*reboot)(void);

	/* The appliance's parts; those that the SoC lacks do nothing. Words of the display's frame at a byte offset; the lines
	   that are shown; bits of the keys that are held down. */
	void (*frame_put)(uint32_t offset, const uint32_t *words, uint32_t count);
	void (*frame_lines)(uint32_t lines);
	uint32_t (*keys)(void);
	/* Start the SD card and point FatFs at it; false if no card answers. */
	bool (*card_start)(void);
	/* Nonce of the host that owns the device, 0 if none does. */
	uint32_t (*owner)(void);
};

#endif
