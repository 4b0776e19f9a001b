#include "selftest.h"

#define BASE (LDI_WINDOW_SIZE - LDI_SELFTEST_BYTES)
#define COPY_BYTES (LDI_SELFTEST_WORDS * LDI_WORD_BYTES)

static const uint32_t program[] = LDI_SELFTEST_PROGRAM;

/* Odd multiplier: no two offsets of the region share a pattern, so a stuck address line shows. */
static uint32_t pattern(uint32_t offset, uint32_t invert)
{
	return (offset * 0x9e3779b1u) ^ invert;
}

static bool expect(const struct hw *hw, uint32_t offset, uint32_t expected, const char *what, struct fault *f)
{
	uint32_t found = hw->window_read(BASE + offset);

	if (found == expected)
		return true;
	fault_set(f, LDI_ERROR_SELFTEST, found, expected);
	f->info[2] = BASE + offset;
	text_str(&f->text, " (");
	text_str(&f->text, what);
	text_str(&f->text, " at window offset ");
	text_hex(&f->text, BASE + offset);
	text_str(&f->text, ")");
	return false;
}

static bool test_dram(const struct hw *hw, uint32_t invert, struct fault *f)
{
	for (uint32_t at = 0; at < LDI_SELFTEST_BYTES; at += 4)
		hw->window_write(BASE + at, pattern(at, invert));
	hw->sync_memory();
	for (uint32_t at = 0; at < LDI_SELFTEST_BYTES; at += 4)
		if (!expect(hw, at, pattern(at, invert), "DRAM", f))
			return false;
	return true;
}

static bool test_engine(struct engine *e, struct fault *f)
{
	static const uint32_t where[2] = { BASE, LDI_SELFTEST_DESCRIPTORS }, index[4];
	const struct hw *hw = e->hw;

	if (!engine_begin(e, LDI_SELFTEST_WATCHDOG, f))
		return false;
	for (uint32_t i = 0; i < sizeof(program) / 4; i++)
		hw->window_write(BASE + 4 * i, program[i]);
	for (uint32_t at = 0; at < COPY_BYTES; at += 4)
		hw->window_write(BASE + LDI_SELFTEST_SOURCE + at, pattern(at, 0x5a5a5a5a));
	hw->sync_memory();
	if (!engine_run(e, where, index, f))
		return false;
	hw->sync_memory();
	for (uint32_t at = 0; at < COPY_BYTES; at += 4)
		if (!expect(hw, LDI_SELFTEST_TARGET + at, pattern(at, 0x5a5a5a5a), "engine copy", f))
			return false;
	return true;
}

bool selftest(struct engine *e, struct fault *f)
{
	return test_dram(e->hw, 0, f) && test_dram(e->hw, 0xffffffff, f) && test_engine(e, f);
}
