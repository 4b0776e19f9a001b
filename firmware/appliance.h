/* The device without a host: a program from the SD card, keys, pictures on the display. */
#ifndef APPLIANCE_H
#define APPLIANCE_H

#include "display.h"
#include "loop.h"
#include "model.h"

struct appliance {
	struct firmware *fw;
	struct watcher watcher;
	struct display display;
	struct model model;
	bool loaded;                    /* the window holds the model's program */
	uint32_t label, seed;           /* of the next picture */
	uint32_t jobs;
	uint32_t held, changed;         /* keys as they count, and the cycle when they changed */
	uint32_t percent;               /* of the file, as shown last */
};

/* After firmware_boot: show the greeting, read the card. */
void appliance_boot(struct appliance *a, struct firmware *fw);

/* One round of the main loop, beside firmware_poll: a line of the display, keys. */
void appliance_poll(struct appliance *a);

#endif
