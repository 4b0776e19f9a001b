#include "engine.h"

/*
 * The engine's own watchdog stops it after `watchdog` cycles without progress. The firmware looks at counters of its own
 * when twice that and a margin have passed, and gives up when none of them moved: so a wait ends even if the engine's
 * watchdog does not work, and a long program that goes on is never cut off.
 */
#define MARGIN_CYCLES 65536u
#define MOST_CYCLES 0xf0000000u
#define BEAT_POLLS 256u

_Static_assert(COUNTER(STORE_DESCRIPTORS) - COUNTER(LOAD_BUSY) + 1 == QUEUE_COUNTERS, "queue counters are not consecutive");

void engine_clear(struct engine *e)
{
	e->last_cycles = e->hw->cycles();
	e->total_cycles = 0;
	e->runs = 0;
	for (uint32_t i = 0; i < COUNTERS; i++) {
		e->sums[i] = 0;
		e->last[i] = 0;
	}
}

uint32_t engine_tick(struct engine *e)
{
	uint32_t now = e->hw->cycles();

	e->total_cycles += now - e->last_cycles;
	e->last_cycles = now;
	return now;
}

static void publish64(const struct hw *hw, uint32_t offset, uint64_t value)
{
	hw->mailbox_write(offset, (uint32_t)value);
	hw->mailbox_write(offset + 4, (uint32_t)(value >> 32));
}

void engine_publish(struct engine *e)
{
	const struct hw *hw = e->hw;

	for (uint32_t i = 0; i < COUNTERS; i++) {
		e->sums[i] += e->last[i];
		e->last[i] = 0;
	}
	hw->mailbox_write(LDI_STATE_HEARTBEAT, ++e->heartbeat);
	hw->mailbox_write(LDI_STATE_ENGINE_RUNS, e->runs);
	publish64(hw, LDI_STATE_ENGINE_CYCLES, e->sums[COUNTER(CYCLES)]);
	publish64(hw, LDI_STATE_MAC_CYCLES, e->sums[COUNTER(MAC_CYCLES)]);
	publish64(hw, LDI_STATE_DRAM_READS, e->sums[COUNTER(DRAM_READS)]);
	publish64(hw, LDI_STATE_DRAM_WRITES, e->sums[COUNTER(DRAM_WRITES)]);
	for (uint32_t i = 0; i < QUEUE_COUNTERS; i++)
		publish64(hw, LDI_STATE_QUEUE_COUNTERS + 8 * i, e->sums[COUNTER(LOAD_BUSY) + i]);
	publish64(hw, LDI_STATE_TOTAL_CYCLES, e->total_cycles);
}

/* A number that changes while descriptors finish, the array works or words move. */
static uint32_t signs_of_life(const struct hw *hw)
{
	return hw->get_reg(LDI_REG_LOAD_DESCRIPTORS) + hw->get_reg(LDI_REG_GEMM_DESCRIPTORS) +
	       hw->get_reg(LDI_REG_POST_DESCRIPTORS) + hw->get_reg(LDI_REG_STORE_DESCRIPTORS) +
	       hw->get_reg(LDI_REG_MAC_CYCLES) + hw->get_reg(LDI_REG_DRAM_READS) + hw->get_reg(LDI_REG_DRAM_WRITES);
}

/* Cycles of silence after which the firmware gives up. */
static uint32_t silence(const struct engine *e)
{
	return e->watchdog < (MOST_CYCLES - MARGIN_CYCLES) / 2 ? 2 * e->watchdog + MARGIN_CYCLES : MOST_CYCLES;
}

/* Poll until any bit (set) or no bit (not set) of mask is up; false after `silence` cycles without a sign of life. */
static bool wait_status(struct engine *e, uint32_t mask, bool set)
{
	const struct hw *hw = e->hw;
	uint32_t since = engine_tick(e), limit = silence(e), life = 0, polls = 0;

	for (;;) {
		if (((hw->get_reg(LDI_REG_STATUS) & mask) != 0) == set)
			return true;
		uint32_t now = engine_tick(e);
		if (now - since > limit) {
			uint32_t sign = signs_of_life(hw);
			if (sign == life)
				return false;
			life = sign;
			since = now;
		}
		if (e->watcher_idle)
			e->watcher_idle(e->watcher_context);
		if (++polls % BEAT_POLLS == 0)
			hw->mailbox_write(LDI_STATE_HEARTBEAT, ++e->heartbeat);
	}
}

static bool no_answer(struct engine *e, struct fault *f, const char *when)
{
	fault_set(f, LDI_ERROR_NO_ANSWER, e->hw->get_reg(LDI_REG_STATUS), silence(e));
	text_clear(&f->text);
	text_str(&f->text, "NO_ANSWER: engine: ");
	text_str(&f->text, when);
	text_str(&f->text, ", status ");
	text_hex(&f->text, f->info[0]);
	text_str(&f->text, ", waited cycles ");
	text_dec(&f->text, f->info[1]);
	text_str(&f->text, "; if the next job fails too, restart the device");
	return false;
}

static bool recover(struct engine *e)
{
	uint32_t active = LDI_STATUS_BUSY | LDI_STATUS_ERROR;

	if (!(e->hw->get_reg(LDI_REG_STATUS) & active))
		return true;
	e->hw->set_reg(LDI_REG_RESET, 1);
	return wait_status(e, active, false);
}

bool engine_begin(struct engine *e, uint32_t watchdog, struct fault *f)
{
	e->watchdog = watchdog;
	if (!recover(e))
		return no_answer(e, f, "did not become idle after a reset");
	e->hw->set_reg(LDI_REG_WINDOW_BASE, LDI_WINDOW_OFFSET);
	e->hw->set_reg(LDI_REG_WINDOW_SIZE, LDI_WINDOW_SIZE);
	e->hw->set_reg(LDI_REG_WATCHDOG, watchdog);
	e->hw->set_reg(LDI_REG_TRACE_ENABLE, 0);
	return true;
}

/* "engine: WATCHDOG in GEMM queue at descriptor 12, waiting for token L2G: explanation". */
static void engine_fault(struct engine *e, struct fault *f)
{
	const struct hw *hw = e->hw;

	fault_clear(f);
	f->error = LDI_ERROR_ENGINE;
	f->info[0] = hw->get_reg(LDI_REG_ERROR_CODE);
	f->info[1] = hw->get_reg(LDI_REG_ERROR_QUEUE);
	f->info[2] = hw->get_reg(LDI_REG_ERROR_INDEX);
	f->info[3] = hw->get_reg(LDI_REG_ERROR_TOKEN);
	text_str(&f->text, "engine: ");
	text_str(&f->text, name_engine_error(f->info[0]));
	text_str(&f->text, " in ");
	text_str(&f->text, name_queue(f->info[1]));
	text_str(&f->text, " queue at descriptor ");
	text_dec(&f->text, f->info[2]);
	if (f->info[3] < LDI_TOKENS) {
		text_str(&f->text, ", waiting for token ");
		text_str(&f->text, name_token(f->info[3]));
	}
	text_str(&f->text, ": ");
	text_str(&f->text, explain_engine_error(f->info[0]));
}

/* The error is complete when the DRAM accesses under way have ended; only then may the engine be reset. */
static void engine_failed(struct engine *e, struct fault *f)
{
	engine_fault(e, f);
	if (!wait_status(e, LDI_STATUS_HALTED, true))
		text_str(&f->text, "; it did not halt");
	if (!recover(e))
		text_str(&f->text, "; it did not become idle after a reset");
}

bool engine_run(struct engine *e, const uint32_t program[2], const uint32_t index[4], struct fault *f)
{
	const struct hw *hw = e->hw;

	hw->set_reg(LDI_REG_PROGRAM_ADDR, program[0]);
	hw->set_reg(LDI_REG_PROGRAM_LEN, program[1]);
	hw->set_reg(LDI_REG_INDEX_STEP, index[0]);
	hw->set_reg(LDI_REG_INDEX_LABEL, index[1]);
	hw->set_reg(LDI_REG_INDEX_SLOT, index[2]);
	hw->set_reg(LDI_REG_INDEX_IMAGE, index[3]);
	hw->set_reg(LDI_REG_START, 1);
	engine_publish(e);      /* what the programs before this one counted: hidden behind this one's work */
	if (!wait_status(e, LDI_STATUS_DONE | LDI_STATUS_ERROR, true)) {
		no_answer(e, f, "no sign of life");
		recover(e);
		return false;
	}
	if (hw->get_reg(LDI_REG_STATUS) & LDI_STATUS_ERROR) {
		engine_failed(e, f);
		return false;
	}
	hw->get_regs(LDI_REG_CYCLES, COUNTERS, e->last);
	e->runs++;
	return true;
}
