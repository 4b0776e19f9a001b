/* Bounded text building without printf: always zero terminated, cut off at the end of the buffer. */
#ifndef TEXT_H
#define TEXT_H

#include <stdint.h>

#include "ldi_tables.h"

struct text {
	uint32_t length;
	char s[LDI_TEXT_BYTES];
};

void text_clear(struct text *t);
void text_str(struct text *t, const char *s);
void text_dec(struct text *t, uint32_t value);
void text_hex(struct text *t, uint32_t value);

/* Names of the tables' numbers; "?" for a number that no table has. */
const char *name_command(uint32_t value);
const char *name_job_state(uint32_t value);
const char *name_error(uint32_t value);
const char *name_engine_error(uint32_t value);
const char *name_queue(uint32_t value);
const char *name_token(uint32_t value);
const char *name_reg(uint32_t value);
const char *explain_error(uint32_t value);
const char *explain_engine_error(uint32_t value);

#endif
