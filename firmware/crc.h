/* CRC-32 as zlib's, piece by piece. */
#ifndef CRC_H
#define CRC_H

#include <stdint.h>

#define CRC_START 0xffffffffu

/* Make the table; before the first crc_add. */
void crc_init(void);
uint32_t crc_add(uint32_t crc, const uint8_t *data, uint32_t length);
uint32_t crc_end(uint32_t crc);

#endif
