#include "appliance.h"

#include <stddef.h>

/* Rows of the display. */
enum row { ROW_TITLE, ROW_FILE, ROW_MODEL, ROW_ASKED, ROW_STATE, ROW_ERROR };
#define ERROR_ROWS (DISPLAY_ROWS - ROW_ERROR)

/* A key that bounces does so for less than this after it moved: 10 ms at 50 MHz. */
#define BOUNCE_CYCLES 0x80000u
#define JOB_IDS 0x80000000u             /* hosts' ids are below */

static void say(struct appliance *a, enum row row, uint32_t rows, uint16_t colour, const struct text *t)
{
	const struct hw *hw = a->fw->engine.hw;

	display_text(&a->display, row, rows, colour, t->s);
	hw->puts(t->s);
	hw->puts("\n");
}

static void show_state(struct appliance *a, const char *state)
{
	struct text t;

	text_clear(&t);
	text_str(&t, state);
	say(a, ROW_STATE, 1, DISPLAY_GREEN, &t);
	display_text(&a->display, ROW_ERROR, ERROR_ROWS, DISPLAY_RED, "");
}

static void show_error(struct appliance *a, const char *state, const struct text *why)
{
	show_state(a, state);
	say(a, ROW_ERROR, ERROR_ROWS, DISPLAY_RED, why);
}

static void show_model(struct appliance *a)
{
	const struct ldi_model *job = &a->model.job;
	struct text t;

	text_clear(&t);
	for (uint32_t i = 0; i < sizeof(job->name); i++) {
		char c[2] = { (char)(job->name[i / 4] >> 8 * (i % 4)), 0 };
		text_str(&t, c);
	}
	text_str(&t, ": ");
	text_dec(&t, job->width);
	text_str(&t, " x ");
	text_dec(&t, job->height);
	text_str(&t, " pixels, ");
	text_dec(&t, job->steps);
	text_str(&t, " steps, ");
	text_dec(&t, job->labels);
	text_str(&t, " labels");
	say(a, ROW_MODEL, 1, DISPLAY_WHITE, &t);
}

static void show_asked(struct appliance *a, const char *before, uint32_t seed)
{
	struct text t;

	text_clear(&t);
	text_str(&t, before);
	text_str(&t, "label ");
	text_dec(&t, a->label);
	text_str(&t, ", seed ");
	text_dec(&t, seed);
	say(a, ROW_ASKED, 1, DISPLAY_WHITE, &t);
}

/*
 * Keys that have been pressed, or asked for at the console, since the last call. A key's change counts at once, and no
 * other one for BOUNCE_CYCLES.
 */
static uint32_t pressed(struct appliance *a)
{
	const struct hw *hw = a->fw->engine.hw;
	uint32_t now = hw->keys(), down = a->fw->asked_keys;

	a->fw->asked_keys = 0;
	if (now == a->held || hw->cycles() - a->changed < BOUNCE_CYCLES)
		return down;
	down |= now & ~a->held;
	a->held = now;
	a->changed = hw->cycles();
	return down;
}

static bool loading(void *context, uint32_t done, uint32_t total)
{
	struct appliance *a = context;
	uint32_t percent = total < 20 ? 100 : done / (total / 20) * 5;
	struct text t;

	if (percent != a->percent) {
		a->percent = percent;
		text_clear(&t);
		text_str(&t, "reading the card: ");
		text_dec(&t, percent < 100 ? percent : 100);
		text_str(&t, " %");
		display_text(&a->display, ROW_STATE, 1, DISPLAY_GREEN, t.s);
		while (display_work(&a->display))
			;
	}
	return a->fw->engine.hw->owner() == 0;
}

static bool load(struct appliance *a)
{
	struct model_watch watch = { loading, a };
	struct text why;

	a->loaded = false;
	show_state(a, "reading the card");
	display_text(&a->display, ROW_FILE, ROW_STATE - ROW_FILE, DISPLAY_WHITE, "");
	text_clear(&why);
	a->percent = 0;
	if (!model_load(&a->model, a->fw->engine.hw, &watch, &why)) {
		show_error(a, "key 1: read the card again", &why);
		return false;
	}
	a->loaded = true;
	a->label %= a->model.job.labels;
	text_clear(&why);
	text_str(&why, a->model.file);
	say(a, ROW_FILE, 1, DISPLAY_GREY, &why);
	show_model(a);
	show_asked(a, "next: ", a->seed);
	show_state(a, "ready. key 1: make a picture, key 2: next label");
	return true;
}

/* The host's GENERATE of one picture, from the file's section JOB. */
static void fill_job(struct appliance *a)
{
	static const struct ldi_job empty;
	const struct ldi_model *m = &a->model.job;
	struct ldi_job *job = &a->fw->job;

	*job = empty;
	job->command = LDI_COMMAND_GENERATE;
	job->id = JOB_IDS | ++a->jobs;
	job->config_hash = a->model.config_hash;
	job->abi = LDI_ABI_VERSION;
	job->image_bytes = m->image_bytes;
	for (int i = 0; i < 2; i++) {
		job->init[i] = m->init[i];
		job->eval[i] = m->eval[i];
		job->update[i] = m->update[i];
		job->finish[i] = m->finish[i];
	}
	job->steps = job->max_steps = m->steps;
	job->evals = m->evals;
	job->guidance = m->guidance;
	job->batch = 1;
	job->null_label = m->null_label;
	job->watchdog = m->watchdog;
	job->labels[0] = a->label;
	job->seed0[0] = a->seed;
}

static void begin_picture(void *context)
{
	struct appliance *a = context;
	const struct ldi_model *m = &a->model.job;
	struct picture picture = { m->pixels, m->width, m->height, m->channels };

	display_picture(&a->display, &picture);
}

static void generate(struct appliance *a)
{
	struct firmware *fw = a->fw;

	fill_job(a);
	show_asked(a, "", a->seed++);
	show_state(a, "noise");
	fw->watcher = &a->watcher;
	firmware_job(fw);
	fw->watcher = NULL;
	if (fw->job_state == LDI_JOB_STATE_DONE) {
		/* The last preview may still be drawn, from pixels that are final by now. */
		begin_picture(a);
		show_state(a, "done. key 1: next seed, key 2: next label");
	} else if (fw->job_state == LDI_JOB_STATE_ABORTED) {
		show_state(a, "stopped. key 1: next seed, key 2: next label");
	} else {
		show_error(a, "failed. key 1: try the next seed, key 3: read the card", &fw->fault.text);
	}
}

/* --- what the appliance wants of its jobs ---------------------------------------------------------------------------- */

static void idle(void *context)
{
	display_work(&((struct appliance *)context)->display);
}

static bool stop(void *context)
{
	return pressed(context) != 0;
}

static bool wants_picture(void *context)
{
	/* The pixels must stay while they are drawn; a display slower than the engine shows fewer steps. */
	return display_idle(&((struct appliance *)context)->display);
}

static void progress(void *context)
{
	struct appliance *a = context;
	struct text t;

	if (a->fw->step == 0)
		return;
	text_clear(&t);
	text_str(&t, "step ");
	text_dec(&t, a->fw->step);
	text_str(&t, " of ");
	text_dec(&t, a->fw->job.steps);
	text_str(&t, ", any key stops");
	display_text(&a->display, ROW_STATE, 1, DISPLAY_GREEN, t.s);
}

/* --- the main loop's part -------------------------------------------------------------------------------------------- */

static void obey(struct appliance *a, uint32_t keys)
{
	struct text t;

	if (a->fw->engine.hw->owner()) {
		text_clear(&t);
		text_str(&t, "a host uses the device: try again when it has ended");
		show_error(a, "busy", &t);
		return;
	}
	if (keys & KEY_CARD || !a->loaded) {
		if (!load(a) || !(keys & KEY_PICTURE))
			return;
	}
	if (keys & KEY_LABEL) {
		a->label = (a->label + 1) % a->model.job.labels;
		show_asked(a, "next: ", a->seed);
	}
	if (keys & KEY_PICTURE)
		generate(a);
}

void appliance_poll(struct appliance *a)
{
	uint32_t keys = pressed(a);

	/* What a host did to the window is not known: the card is read again before the next picture. */
	if (a->fw->engine.hw->owner())
		a->loaded = false;
	if (keys)
		obey(a, keys);
	display_work(&a->display);
}

void appliance_boot(struct appliance *a, struct firmware *fw)
{
	struct text t;

	a->fw = fw;
	fw->has_appliance = true;
	fw->asked_keys = 0;
	a->watcher = (struct watcher){ a, idle, stop, wants_picture, begin_picture, progress };
	a->loaded = false;
	a->label = a->seed = a->jobs = a->held = 0;
	a->changed = fw->engine.hw->cycles() - BOUNCE_CYCLES;
	display_init(&a->display, fw->engine.hw);
	text_clear(&t);
	text_str(&t, "litediffusion");
	say(a, ROW_TITLE, 1, DISPLAY_WHITE, &t);
	if (fw->boot.error)
		show_error(a, "the device does not work", &fw->boot.text);
	else
		load(a);
}
