/* The firmware's main loop: doorbell, jobs, the denoising loop, console. */
#ifndef LOOP_H
#define LOOP_H

#include "engine.h"

#define CONSOLE_LINE 64

struct firmware {
	struct engine engine;
	struct ldi_job job;             /* copy of the last job: the host may write the mailbox while it runs */
	struct fault fault;             /* of the last job */
	struct fault boot;              /* what makes every job impossible; LDI_ERROR_OK if nothing does */
	uint32_t config_hash;
	uint32_t job_state;
	uint32_t image, step;           /* progress */
	bool have_job;                  /* job holds a job that passed the checks */
	char line[CONSOLE_LINE];        /* console input so far */
	uint32_t line_length;
};

/* Publish identity and readiness; the magic number comes last. dram_ok: the DRAM controller came up. */
void firmware_boot(struct firmware *fw, const struct hw *hw, bool dram_ok);

/* One round of the main loop: heartbeat, doorbell, console. */
void firmware_poll(struct firmware *fw);

/* Check and run fw->job, and publish how it ended. */
void firmware_job(struct firmware *fw);

#endif
