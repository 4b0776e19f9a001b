/* A job as the host wrote it, and what can be wrong with it. */
#ifndef JOB_H
#define JOB_H

#include <stdbool.h>

#include "ldi_tables.h"
#include "text.h"

/* Number of a part of the job in error_info[2] of BAD_ADDRESS and BAD_LENGTH. */
enum job_part { PART_INIT, PART_EVAL, PART_UPDATE, PART_FINISH, PART_TRACE, PART_IMAGE };

struct fault {
	uint32_t error;         /* enum ldi_error */
	uint32_t info[4];       /* value, limit, part; engine: code, queue, descriptor, token */
	struct text text;
};

void fault_clear(struct fault *f);

/* Set error, value and limit, and the text "NAME: explanation: got VALUE, limit LIMIT". Always returns false. */
bool fault_set(struct fault *f, uint32_t error, uint32_t value, uint32_t limit);

const char *name_part(uint32_t part);
const uint32_t *job_program(const struct ldi_job *job, enum job_part part);

/* True if the firmware may run the job on an engine whose configuration is config_hash; else false and f says why. */
bool job_check(const struct ldi_job *job, uint32_t config_hash, struct fault *f);

#endif
