/* The firmware's main loop: doorbell, jobs, the denoising loop, console. */
#ifndef LOOP_H
#define LOOP_H

#include "engine.h"

#define CONSOLE_LINE 64

/* Bits of hw->keys(), and of asked_keys. While a picture is made, each of them stops it. */
#define KEY_PICTURE 1           /* make a picture with the next seed; loads the card first if nothing is loaded */
#define KEY_LABEL 2             /* the next label */
#define KEY_CARD 4              /* read the card again */

/* What the appliance wants of the jobs that it starts. */
struct watcher {
	void *context;
	void (*idle)(void *context);            /* while an engine program runs; short, because it delays the next one */
	bool (*stop)(void *context);            /* between two programs: end the job as aborted? */
	bool (*wants_picture)(void *context);   /* after a step: is FINISH to run, so that the pixels can be seen? */
	void (*picture)(void *context);         /* the pixels are in the window */
	void (*progress)(void *context);        /* image and step have changed */
};

struct firmware {
	struct engine engine;
	struct ldi_job job;             /* copy of the last job: the host may write the mailbox while it runs */
	const struct watcher *watcher;  /* of the job under way, or NULL */
	bool has_appliance;
	uint32_t asked_keys;            /* keys that were "pressed" at the console, until the appliance takes them */
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
