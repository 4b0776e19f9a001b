#include "crc.h"

#define POLYNOMIAL 0xedb88320u

/* LiteX's crc32() takes all data at once, and a ROM is as slow as the SRAM: so a table that is made at the start. */
static uint32_t table[256];

void crc_init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
		table[i] = crc;
	}
}

uint32_t crc_add(uint32_t crc, const uint8_t *data, uint32_t length)
{
	for (const uint8_t *end = data + length; data < end; data++)
		crc = crc >> 8 ^ table[(crc ^ *data) & 0xff];
	return crc;
}

uint32_t crc_end(uint32_t crc)
{
	return ~crc;
}
