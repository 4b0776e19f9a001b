#include "loop.h"

#include <stddef.h>

#include "console.h"
#include "selftest.h"

static void publish_text(const struct hw *hw, const struct text *t)
{
	for (uint32_t i = 0; i <= t->length && i < LDI_TEXT_BYTES; i += 4) {
		uint32_t word = 0;
		for (uint32_t j = 0; j < 4 && i + j < t->length; j++)
			word |= (uint32_t)(uint8_t)t->s[i + j] << (8 * j);
		hw->mailbox_write(LDI_STATE_TEXT + i, word);
	}
}

static void publish_fault(const struct hw *hw, const struct fault *f)
{
	hw->mailbox_write(LDI_STATE_ERROR, f->error);
	for (int i = 0; i < 4; i++)
		hw->mailbox_write(LDI_STATE_ERROR_INFO + 4 * i, f->info[i]);
	publish_text(hw, &f->text);
}

/* The step first: a reader between the two writes sees less than is done, never more. */
static void publish_progress(struct firmware *fw, uint32_t image, uint32_t step)
{
	fw->image = image;
	fw->step = step;
	fw->engine.hw->mailbox_write(LDI_STATE_STEP, step);
	fw->engine.hw->mailbox_write(LDI_STATE_IMAGE, image);
	if (fw->watcher)
		fw->watcher->progress(fw->watcher->context);
}

/* The job's state is written first when a job starts and last when it ends, so that no reader sees a mixture. */
static void publish_state(struct firmware *fw, uint32_t state)
{
	fw->job_state = state;
	fw->engine.hw->mailbox_write(LDI_STATE_JOB_STATE, state);
}

static bool abort_asked(struct firmware *fw)
{
	const struct hw *hw = fw->engine.hw;

	/* Any other command stays pending until this job has ended. */
	if (hw->doorbell_pending() && hw->mailbox_read(LDI_JOB_BASE + offsetof(struct ldi_job, command)) == LDI_COMMAND_ABORT)
		hw->doorbell_clear();
	else if (!fw->watcher || !fw->watcher->stop(fw->watcher->context))
		return false;
	fault_set(&fw->fault, LDI_ERROR_ABORTED, fw->image, fw->job.batch);
	return true;
}

/*
 * A program of a job in pieces of LDI_MAX_DESCRIPTORS, each of which ends with END, unless the host asked to stop. Between two
 * pieces the CPU does only this. `done`: descriptors of the pieces that have run.
 */
static bool run_pieces(struct firmware *fw, const uint32_t *program, const uint32_t index[4], uint32_t *done)
{
	for (*done = 0; *done < program[1]; *done += LDI_MAX_DESCRIPTORS) {
		uint32_t left = program[1] - *done;
		uint32_t piece[2] = { program[0] + *done * LDI_DESC_BYTES, left < LDI_MAX_DESCRIPTORS ? left : LDI_MAX_DESCRIPTORS };

		if (abort_asked(fw) || !engine_run(&fw->engine, piece, index, &fw->fault))
			return false;
	}
	return true;
}

/* One program of a job. */
static bool run(struct firmware *fw, enum job_part part, uint32_t step, uint32_t label, uint32_t slot, uint32_t image)
{
	uint32_t index[4] = { step, label, slot, image }, done;

	if (run_pieces(fw, job_program(&fw->job, part), index, &done))
		return true;
	if (fw->fault.error == LDI_ERROR_ABORTED)
		return false;
	text_str(&fw->fault.text, " (program ");
	text_str(&fw->fault.text, name_part(part));
	if (done) {
		if (fw->fault.error == LDI_ERROR_ENGINE)
			fw->fault.info[2] += done;
		text_str(&fw->fault.text, " from descriptor ");
		text_dec(&fw->fault.text, done);
	}
	text_str(&fw->fault.text, ", image ");
	text_dec(&fw->fault.text, image);
	text_str(&fw->fault.text, ", step ");
	text_dec(&fw->fault.text, step);
	text_str(&fw->fault.text, ")");
	return false;
}

/* The pixels of the latents as they are now. FINISH only reads these, so the result is the same with and without. */
static bool show(struct firmware *fw, uint32_t label, uint32_t image)
{
	const struct watcher *w = fw->watcher;

	if (!w || !w->wants_picture(w->context))
		return true;
	if (!run(fw, PART_FINISH, fw->job.steps - 1, label, 0, image))
		return false;
	w->picture(w->context);
	return true;
}

static bool generate_image(struct firmware *fw, uint32_t image)
{
	const struct ldi_job *job = &fw->job;
	const struct hw *hw = fw->engine.hw;
	uint32_t label = job->labels[image];

	hw->set_reg(LDI_REG_SEED0, job->seed0[image]);
	hw->set_reg(LDI_REG_SEED1, job->seed1[image]);
	publish_progress(fw, image, 0);
	if (!run(fw, PART_INIT, job->steps, label, 0, image))
		return false;
	for (uint32_t step = 0; step < job->steps; step++) {
		for (uint32_t v = 0; v < job->evals; v++)
			if (!run(fw, PART_EVAL, step, v ? job->null_label : label, v, image))
				return false;
		if (!run(fw, PART_UPDATE, step, label, 0, image))
			return false;
		publish_progress(fw, image, step + 1);
		console_poll(fw);
		if (step + 1 < job->steps && !show(fw, label, image))
			return false;
	}
	return run(fw, PART_FINISH, job->steps - 1, label, 0, image);
}

static bool generate(struct firmware *fw)
{
	for (uint32_t image = 0; image < fw->job.batch; image++) {
		if (!generate_image(fw, image))
			return false;
		publish_progress(fw, image + 1, 0);
	}
	return true;
}

static bool run_once(struct firmware *fw)
{
	const struct ldi_job *job = &fw->job;
	const struct hw *hw = fw->engine.hw;

	hw->set_reg(LDI_REG_SEED0, job->seed0[0]);
	hw->set_reg(LDI_REG_SEED1, job->seed1[0]);
	hw->set_reg(LDI_REG_TRACE_ADDR, job->trace[1]);
	hw->set_reg(LDI_REG_TRACE_SIZE, job->trace[2]);
	hw->set_reg(LDI_REG_TRACE_ENABLE, job->trace[0] != 0);
	return run(fw, PART_INIT, job->index[0], job->index[1], job->index[2], job->index[3]);
}

static bool execute(struct firmware *fw)
{
	const struct hw *hw = fw->engine.hw;

	if (fw->boot.error != LDI_ERROR_OK) {
		fw->fault = fw->boot;
		return false;
	}
	if (!job_check(&fw->job, fw->config_hash, &fw->fault))
		return false;
	fw->have_job = true;
	if (fw->job.command == LDI_COMMAND_SELFTEST)
		return selftest(&fw->engine, &fw->fault);
	if (!engine_begin(&fw->engine, fw->job.watchdog, &fw->fault))
		return false;
	hw->set_reg(LDI_REG_GUIDANCE, fw->job.guidance);
	return fw->job.command == LDI_COMMAND_RUN ? run_once(fw) : generate(fw);
}

void firmware_job(struct firmware *fw)
{
	const struct hw *hw = fw->engine.hw;
	bool ok;

	fw->have_job = false;
	fault_clear(&fw->fault);
	engine_clear(&fw->engine);
	publish_state(fw, LDI_JOB_STATE_RUNNING);
	publish_progress(fw, 0, 0);
	publish_fault(hw, &fw->fault);
	engine_publish(&fw->engine);
	hw->mailbox_write(LDI_STATE_JOB_ID, fw->job.id);
	hw->sync_memory();
	fw->engine.watcher_idle = fw->watcher ? fw->watcher->idle : NULL;
	fw->engine.watcher_context = fw->watcher ? fw->watcher->context : NULL;
	ok = execute(fw);
	hw->sync_memory();
	engine_tick(&fw->engine);
	engine_publish(&fw->engine);
	publish_fault(hw, &fw->fault);
	publish_state(fw, ok ? LDI_JOB_STATE_DONE :
		fw->fault.error == LDI_ERROR_ABORTED ? LDI_JOB_STATE_ABORTED : LDI_JOB_STATE_FAILED);
}

static void answer_doorbell(struct firmware *fw)
{
	const struct hw *hw = fw->engine.hw;
	uint32_t *words = (uint32_t *)&fw->job;

	/* Forgotten before the job is read: a ring during the reading is answered by reading again. */
	hw->doorbell_clear();
	if (hw->mailbox_read(LDI_JOB_BASE + offsetof(struct ldi_job, command)) == LDI_COMMAND_ABORT)
		return;         /* the job had ended already; its state stands */
	for (uint32_t i = 0; i < sizeof(fw->job) / 4; i++)
		words[i] = hw->mailbox_read(LDI_JOB_BASE + 4 * i);
	firmware_job(fw);
}

void firmware_poll(struct firmware *fw)
{
	const struct hw *hw = fw->engine.hw;

	hw->mailbox_write(LDI_STATE_HEARTBEAT, ++fw->engine.heartbeat);
	if (hw->doorbell_pending())
		answer_doorbell(fw);
	console_poll(fw);
}

void firmware_boot(struct firmware *fw, const struct hw *hw, bool dram_ok)
{
	fw->engine.hw = hw;
	fw->config_hash = hw->get_reg(LDI_REG_CONFIG_HASH);
	for (uint32_t i = 0; i < LDI_MAILBOX_SIZE; i += 4)
		hw->mailbox_write(i, 0);
	hw->doorbell_clear();
	fault_clear(&fw->boot);
	if (!dram_ok)
		fault_set(&fw->boot, LDI_ERROR_DRAM_INIT, 0, 1);
	else if (fw->config_hash != LDI_CONFIG_HASH)
		fault_set(&fw->boot, LDI_ERROR_WRONG_CONFIG, fw->config_hash, LDI_CONFIG_HASH);
	hw->mailbox_write(LDI_STATE_ABI_VERSION, LDI_ABI_VERSION);
	hw->mailbox_write(LDI_STATE_CONFIG_HASH, fw->config_hash);
	hw->mailbox_write(LDI_STATE_WINDOW_BASE, LDI_WINDOW_ADDRESS);
	hw->mailbox_write(LDI_STATE_WINDOW_SIZE, LDI_WINDOW_SIZE);
	publish_fault(hw, &fw->boot);
	publish_state(fw, fw->boot.error == LDI_ERROR_OK ? LDI_JOB_STATE_IDLE : LDI_JOB_STATE_FAILED);
	hw->mailbox_write(LDI_STATE_MAGIC, LDI_MAGIC);
}
