/* A compiled program from a .ldp file on the SD card, as sw/container.py describes it. */
#ifndef MODEL_H
#define MODEL_H

#include "hw.h"
#include "text.h"

#define MODEL_FILE_NAME 64

struct model {
	struct ldi_model job;                   /* the file's section JOB */
	uint32_t config_hash;
	char file[MODEL_FILE_NAME];             /* name of the file */
};

/* Called now and then while a file is read; false: give up. */
struct model_watch {
	bool (*progress)(void *context, uint32_t done, uint32_t total);
	void *context;
};

/*
 * Find the first .ldp file in the card's root folder, check all of it, and put its program into the window. False and
 * `why` (what is wrong, the value, the limit, what to do) if that cannot be done; then the window is not to be used.
 */
bool model_load(struct model *m, const struct hw *hw, const struct model_watch *watch, struct text *why);

#endif
