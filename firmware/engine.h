/* Running one engine program: start, bounded wait, counters, errors. */
#ifndef ENGINE_H
#define ENGINE_H

#include "hw.h"
#include "job.h"

/* The engine's counters are the registers from CYCLES to the table's end; COUNTER(NAME) is the place of one of them. */
#define COUNTERS (LDI_REG_COUNT - LDI_REG_CYCLES)
#define COUNTER(name) (LDI_REG_##name - LDI_REG_CYCLES)
#define QUEUE_COUNTERS (LDI_QUEUES * LDI_QUEUE_COUNTERS)

struct engine {
	const struct hw *hw;
	uint32_t watchdog;              /* cycles, of the job under way */
	uint32_t last_cycles;           /* hw->cycles() at the last tick */
	uint64_t total_cycles;          /* since engine_clear */
	uint64_t sums[COUNTERS];
	uint32_t last[COUNTERS];        /* the last program's counters, not yet in sums */
	uint32_t runs;
	uint32_t heartbeat;
	void (*watcher_idle)(void *context);    /* to be called while a program runs, or NULL */
	void *watcher_context;
};

/* Forget sums and clock. */
void engine_clear(struct engine *e);

/* Advance total_cycles; to be called at least once in 2^32 cycles. Returns hw->cycles(). */
uint32_t engine_tick(struct engine *e);

/* Write heartbeat, runs, clock and sums to the mailbox. */
void engine_publish(struct engine *e);

/*
 * Bring the engine back to idle if it is busy or in error, then give it its window and a watchdog. False and f if it does
 * not come back in time.
 */
bool engine_begin(struct engine *e, uint32_t watchdog, struct fault *f);

/*
 * Run a program (byte offset, descriptors) with the index registers STEP, LABEL, SLOT, IMAGE. False and f if the engine
 * stopped with an error, or showed no sign of life for twice its watchdog and a margin; the engine is reset then.
 */
bool engine_run(struct engine *e, const uint32_t program[2], const uint32_t index[4], struct fault *f);

#endif
