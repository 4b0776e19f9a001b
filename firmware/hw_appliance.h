/* Card, display and keys for hw_soc.c, as far as the SoC has them. */
#ifndef HW_APPLIANCE_H
#define HW_APPLIANCE_H

#include <stdbool.h>
#include <stdint.h>

void frame_put(uint32_t offset, const uint32_t *words, uint32_t count);
void frame_lines(uint32_t lines);
uint32_t keys(void);
bool card_start(void);

#endif
