#include "job.h"

void fault_clear(struct fault *f)
{
	f->error = LDI_ERROR_OK;
	for (int i = 0; i < 4; i++)
		f->info[i] = 0;
	text_clear(&f->text);
}

static void text_number(struct text *t, uint32_t value)
{
	/* Addresses, hashes and negative numbers read better in hexadecimal. */
	if (value >= 0x10000)
		text_hex(t, value);
	else
		text_dec(t, value);
}

bool fault_set(struct fault *f, uint32_t error, uint32_t value, uint32_t limit)
{
	bool exact = error == LDI_ERROR_BAD_ABI || error == LDI_ERROR_WRONG_CONFIG || error == LDI_ERROR_SELFTEST;

	fault_clear(f);
	f->error = error;
	f->info[0] = value;
	f->info[1] = limit;
	text_str(&f->text, name_error(error));
	text_str(&f->text, ": ");
	text_str(&f->text, explain_error(error));
	text_str(&f->text, ": got ");
	text_number(&f->text, value);
	text_str(&f->text, exact ? ", expected " : ", limit ");
	text_number(&f->text, limit);
	return false;
}

const char *name_part(uint32_t part)
{
	static const char *const names[] = { "init", "eval", "update", "finish", "trace", "image" };

	return part < sizeof(names) / sizeof(names[0]) ? names[part] : "?";
}

const uint32_t *job_program(const struct ldi_job *job, enum job_part part)
{
	switch (part) {
	case PART_EVAL: return job->eval;
	case PART_UPDATE: return job->update;
	case PART_FINISH: return job->finish;
	default: return job->init;
	}
}

static bool part_fault(struct fault *f, uint32_t error, uint32_t value, uint32_t limit, enum job_part part)
{
	fault_set(f, error, value, limit);
	f->info[2] = part;
	text_str(&f->text, " (");
	text_str(&f->text, name_part(part));
	text_str(&f->text, ")");
	return false;
}

/* True if bytes at offset lie inside the window; no sum that could overflow is formed. */
static bool inside_window(uint32_t offset, uint32_t bytes)
{
	return bytes <= LDI_WINDOW_SIZE && offset <= LDI_WINDOW_SIZE - bytes;
}

static bool check_program(const struct ldi_job *job, enum job_part part, struct fault *f)
{
	const uint32_t *program = job_program(job, part);
	uint32_t offset = program[0], descriptors = program[1];

	/* Longer ones than the engine's run in pieces (loop.c); what fits into the window is the limit. */
	if (descriptors == 0 || descriptors > LDI_WINDOW_SIZE / LDI_DESC_BYTES)
		return part_fault(f, LDI_ERROR_BAD_LENGTH, descriptors, LDI_WINDOW_SIZE / LDI_DESC_BYTES, part);
	if (offset % LDI_DESC_BYTES || !inside_window(offset, descriptors * LDI_DESC_BYTES))
		return part_fault(f, LDI_ERROR_BAD_ADDRESS, offset, LDI_WINDOW_SIZE, part);
	return true;
}

static bool check_index(uint32_t value, struct fault *f)
{
	return value <= LDI_MAX_INDEX || fault_set(f, LDI_ERROR_BAD_INDEX, value, LDI_MAX_INDEX);
}

static bool check_generate(const struct ldi_job *job, struct fault *f)
{
	uint32_t most = job->max_steps < LDI_MAX_STEPS ? job->max_steps : LDI_MAX_STEPS;

	if (job->steps == 0 || job->steps > most)
		return fault_set(f, LDI_ERROR_BAD_STEPS, job->steps, most);
	if (job->batch == 0 || job->batch > LDI_MAX_BATCH)
		return fault_set(f, LDI_ERROR_BAD_BATCH, job->batch, LDI_MAX_BATCH);
	if (job->evals == 0 || job->evals > 2)
		return fault_set(f, LDI_ERROR_BAD_EVALS, job->evals, 2);
	for (uint32_t i = 0; i < job->batch; i++)
		if (!check_index(job->labels[i], f))
			return false;
	if (job->evals == 2 && !check_index(job->null_label, f))
		return false;
	return check_program(job, PART_INIT, f) && check_program(job, PART_EVAL, f) &&
	       check_program(job, PART_UPDATE, f) && check_program(job, PART_FINISH, f);
}

static bool check_run(const struct ldi_job *job, struct fault *f)
{
	for (int i = 0; i < 4; i++)
		if (!check_index(job->index[i], f))
			return false;
	if (job->trace[0] && (job->trace[1] % LDI_WORD_BYTES || !inside_window(job->trace[1], job->trace[2])))
		return part_fault(f, LDI_ERROR_BAD_ADDRESS, job->trace[1], LDI_WINDOW_SIZE, PART_TRACE);
	/* Every piece would begin the trace again. */
	if (job->trace[0] && job->init[1] > LDI_MAX_DESCRIPTORS)
		return part_fault(f, LDI_ERROR_BAD_LENGTH, job->init[1], LDI_MAX_DESCRIPTORS, PART_TRACE);
	return check_program(job, PART_INIT, f);
}

bool job_check(const struct ldi_job *job, uint32_t config_hash, struct fault *f)
{
	/* The self-test brings its own program and watchdog, and needs the end of the window free. */
	bool selftest = job->command == LDI_COMMAND_SELFTEST;
	uint32_t room = LDI_WINDOW_SIZE - (selftest ? LDI_SELFTEST_BYTES : 0);

	fault_clear(f);
	if (job->abi != LDI_ABI_VERSION)
		return fault_set(f, LDI_ERROR_BAD_ABI, job->abi, LDI_ABI_VERSION);
	if (job->id == 0)
		return fault_set(f, LDI_ERROR_BAD_ID, job->id, 0xffffffff);
	if (job->command != LDI_COMMAND_GENERATE && job->command != LDI_COMMAND_RUN && !selftest)
		return fault_set(f, LDI_ERROR_BAD_COMMAND, job->command, LDI_COMMAND_SELFTEST);
	if (job->image_bytes > room)
		return part_fault(f, LDI_ERROR_BAD_ADDRESS, job->image_bytes, room, PART_IMAGE);
	if (selftest)
		return true;
	if (job->config_hash != config_hash)
		return fault_set(f, LDI_ERROR_WRONG_CONFIG, job->config_hash, config_hash);
	if (job->watchdog == 0)
		return fault_set(f, LDI_ERROR_BAD_WATCHDOG, job->watchdog, 0xffffffff);
	return job->command == LDI_COMMAND_GENERATE ? check_generate(job, f) : check_run(job, f);
}
