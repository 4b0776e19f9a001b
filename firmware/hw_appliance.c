#include "hw_appliance.h"

#include <generated/csr.h>
#include <generated/soc.h>

#include "ldi_tables.h"

#ifdef CSR_DISPLAY_BASE
void frame_put(uint32_t offset, const uint32_t *words, uint32_t count)
{
	for (volatile uint32_t *to = (volatile uint32_t *)(LDI_FRAME_ADDRESS + offset); count; count--)
		*to++ = *words++;
}

void frame_lines(uint32_t lines)
{
	display_lines_write(lines);
}
#else
void frame_put(uint32_t offset, const uint32_t *words, uint32_t count)
{
	(void)offset;
	(void)words;
	(void)count;
}

void frame_lines(uint32_t lines)
{
	(void)lines;
}
#endif

uint32_t keys(void)
{
#ifdef CSR_KEYS_BASE
	return keys_pressed_read();
#else
	return 0;
#endif
}

#ifdef CSR_SPISDCARD_BASE
#include <liblitesdcard/spisdcard.h>

#define PROBE_TRIES 4
#define SLOW_HZ 400000          /* the fastest clock that a card need take before it is started */
#define MOST_DIVIDER 256

#ifndef SPISDCARD_CLK_FREQ_INIT
#define SPISDCARD_CLK_FREQ_INIT SLOW_HZ
#endif

static uint8_t exchange(uint8_t byte)
{
	spisdcard_mosi_write(byte);
	spisdcard_control_write(8 * SPI_LENGTH | SPI_START);
	while (!(spisdcard_status_read() & SPI_DONE))
		;
	return spisdcard_miso_read();
}

/*
 * True if anything answers CMD0. LiteX's spisdcard_init() asks an empty slot a thousand times, a third of a second in
 * which nobody serves the mailbox.
 */
static bool card_there(void)
{
	static const uint8_t go_idle[] = { 0x40, 0, 0, 0, 0, 0x95 };
	uint32_t divider = CONFIG_CLOCK_FREQUENCY / SPISDCARD_CLK_FREQ_INIT + 1;

	spisdcard_clk_divider_write(divider < MOST_DIVIDER ? divider : MOST_DIVIDER);
	for (int try = 0; try < PROBE_TRIES; try++) {
		spisdcard_cs_write(SPI_CS_HIGH);
		for (int i = 0; i < 10; i++)
			exchange(0xff);
		spisdcard_cs_write(SPI_CS_LOW);
		for (unsigned i = 0; i < sizeof(go_idle); i++)
			exchange(go_idle[i]);
		for (int i = 0; i < 10; i++)
			if (exchange(0xff) != 0xff)
				return true;
	}
	spisdcard_cs_write(SPI_CS_HIGH);
	return false;
}

bool card_start(void)
{
	/* FatFs starts a card once only: another one that was put in since is started here. */
	if (!card_there() || !spisdcard_init())
		return false;
	fatfs_set_ops_spisdcard();
	return true;
}
#else
bool card_start(void)
{
	return false;
}
#endif
