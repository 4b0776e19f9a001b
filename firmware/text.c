#include "text.h"

void text_clear(struct text *t)
{
	t->length = 0;
	t->s[0] = 0;
}

void text_str(struct text *t, const char *s)
{
	while (*s && t->length < sizeof(t->s) - 1)
		t->s[t->length++] = *s++;
	t->s[t->length] = 0;
}

void text_dec(struct text *t, uint32_t value)
{
	char digits[11], *d = &digits[10];

	*d = 0;
	do {
		*--d = '0' + value % 10;
		value /= 10;
	} while (value);
	text_str(t, d);
}

void text_hex(struct text *t, uint32_t value)
{
	char digits[11] = "0x";

	for (int i = 0; i < 8; i++)
		digits[2 + i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
	digits[10] = 0;
	text_str(t, digits);
}

#define NAME(value, name, text) [value] = #name,
#define TEXT(value, name, text) [value] = text,

#define LOOKUP(function, TABLE, COLUMN) \
	const char *function(uint32_t value) \
	{ \
		static const char *const strings[] = { TABLE(COLUMN) }; \
		\
		return value < sizeof(strings) / sizeof(strings[0]) && strings[value] ? strings[value] : "?"; \
	}

LOOKUP(name_command, LDI_COMMANDS, NAME)
LOOKUP(name_job_state, LDI_JOB_STATES, NAME)
LOOKUP(name_error, LDI_ERRORS, NAME)
LOOKUP(name_engine_error, LDI_ENGINE_ERRORS, NAME)
LOOKUP(name_queue, LDI_QUEUE_NAMES, NAME)
LOOKUP(name_token, LDI_TOKEN_NAMES, NAME)
LOOKUP(name_reg, LDI_REGS, TEXT)
LOOKUP(explain_error, LDI_ERRORS, TEXT)
LOOKUP(explain_engine_error, LDI_ENGINE_ERRORS, TEXT)
