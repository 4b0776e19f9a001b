#include "console.h"

static void print(struct firmware *fw, const char *s)
{
	fw->engine.hw->puts(s);
}

static void print_dec(struct firmware *fw, const char *name, uint32_t value)
{
	struct text t;

	text_clear(&t);
	text_str(&t, name);
	text_dec(&t, value);
	print(fw, t.s);
}

void console_prompt(struct firmware *fw)
{
	print(fw, "litediffusion> ");
}

static void help(struct firmware *fw)
{
	print(fw, "status    job, progress, error\n"
	          "run       run the last job again\n"
	          "regs      engine registers\n"
	          "selftest  DRAM and engine\n"
	          "reboot    restart the SoC\n");
	if (fw->has_appliance)
		print(fw, "picture   as key 1: a picture of the program on the SD card\n"
		          "label     as key 2: the next label\n"
		          "card      as key 3: read the SD card again\n");
}

static void status(struct firmware *fw)
{
	print(fw, name_job_state(fw->job_state));
	print_dec(fw, " job ", fw->job.id);
	print(fw, " ");
	print(fw, name_command(fw->job.command));
	print_dec(fw, ": image ", fw->image);
	print_dec(fw, " of ", fw->job.batch);
	print_dec(fw, ", step ", fw->step);
	print_dec(fw, " of ", fw->job.steps);
	print_dec(fw, ", engine runs ", fw->engine.runs);
	print(fw, "\n");
	if (fw->boot.error || fw->fault.error) {
		print(fw, fw->boot.error ? fw->boot.text.s : fw->fault.text.s);
		print(fw, "\n");
	}
}

static void regs(struct firmware *fw)
{
	struct text t;

	/* START and RESET, the first two, cannot be read. */
	for (uint32_t i = LDI_REG_RESET + 1; i < LDI_REG_COUNT; i++) {
		text_clear(&t);
		text_hex(&t, fw->engine.hw->get_reg((enum ldi_reg)i));
		text_str(&t, " ");
		text_str(&t, name_reg(i));
		text_str(&t, "\n");
		print(fw, t.s);
	}
}

static void run_again(struct firmware *fw)
{
	if (!fw->have_job) {
		print(fw, "no job to repeat: the host has sent none that passed the checks\n");
		return;
	}
	firmware_job(fw);
	status(fw);
}

static void run_selftest(struct firmware *fw)
{
	struct ldi_job kept = fw->job;
	bool have_job = fw->have_job;

	fw->job.command = LDI_COMMAND_SELFTEST;
	fw->job.abi = LDI_ABI_VERSION;
	if (fw->job.id == 0)
		fw->job.id = 1;
	firmware_job(fw);
	status(fw);
	fw->job = kept;
	fw->have_job = have_job;
}

static bool same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static void obey(struct firmware *fw, const char *line)
{
	bool busy = fw->job_state == LDI_JOB_STATE_RUNNING;

	if (same(line, "help"))
		help(fw);
	else if (same(line, "status"))
		status(fw);
	else if (same(line, "regs"))
		regs(fw);
	else if (same(line, "reboot"))
		fw->engine.hw->reboot();
	else if (busy && (same(line, "run") || same(line, "selftest")))
		print(fw, "a job is running: wait for its end, or abort it from the host\n");
	else if (same(line, "run"))
		run_again(fw);
	else if (same(line, "selftest"))
		run_selftest(fw);
	else if (fw->has_appliance && same(line, "picture"))
		fw->asked_keys |= KEY_PICTURE;
	else if (fw->has_appliance && same(line, "label"))
		fw->asked_keys |= KEY_LABEL;
	else if (fw->has_appliance && same(line, "card"))
		fw->asked_keys |= KEY_CARD;
	else if (*line)
		print(fw, "unknown command: try help\n");
}

static void take(struct firmware *fw, char c)
{
	char echo[2] = { c, 0 };

	if (c == '\r' || c == '\n') {
		print(fw, "\n");
		fw->line[fw->line_length] = 0;
		fw->line_length = 0;
		obey(fw, fw->line);
		console_prompt(fw);
	} else if ((c == '\b' || c == 0x7f) && fw->line_length > 0) {
		fw->line_length--;
		print(fw, "\b \b");
	} else if (c >= ' ' && c < 0x7f && fw->line_length < CONSOLE_LINE - 1) {
		fw->line[fw->line_length++] = c;
		print(fw, echo);
	}
}

void console_poll(struct firmware *fw)
{
	int c;

	while ((c = fw->engine.hw->getchar()) >= 0)
		take(fw, (char)c);
}
