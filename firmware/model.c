#include "model.h"

#include <string.h>

#include <libfatfs/ff.h>

#include "crc.h"

#define CHUNK_BYTES 2048                /* a read of the card: four blocks at once */
#define HEADER_BYTES 20
#define CRC_AT 16                       /* of the header, the CRC of its other bytes and the table */
#define ENTRY_BYTES 40
#define NAME_BYTES 16
#define MAX_SECTIONS 8
#define PIXEL_BYTES 16

struct section {
	char name[NAME_BYTES];
	uint32_t offset_low, offset_high, size_low, size_high, crc, unused;
};

_Static_assert(sizeof(struct section) == ENTRY_BYTES, "the section table's entries are read as they are");

struct loader {
	const struct hw *hw;
	struct model *model;
	const struct model_watch *watch;
	struct text *why;
	uint32_t file_size, done, total;        /* bytes */
	uint32_t sections;
	struct section table[MAX_SECTIONS];
	FIL file;
};

static FATFS volume;
static uint32_t chunk[CHUNK_BYTES / 4];
static struct loader loader;

static bool fail(struct loader *l, const char *what)
{
	text_clear(l->why);
	if (l->model->file[0]) {
		text_str(l->why, l->model->file);
		text_str(l->why, ": ");
	}
	text_str(l->why, what);
	return false;
}

static bool fail_number(struct loader *l, const char *before, uint32_t value, const char *between, uint32_t limit,
			const char *after)
{
	fail(l, before);
	text_dec(l->why, value);
	text_str(l->why, between);
	text_dec(l->why, limit);
	text_str(l->why, after);
	return false;
}

static bool fail_section(struct loader *l, const char *before, const char *name, const char *after)
{
	char copy[NAME_BYTES + 1] = { 0 };

	memcpy(copy, name, strnlen(name, NAME_BYTES));
	fail(l, before);
	text_str(l->why, copy);
	text_str(l->why, after);
	return false;
}

static bool read_failed(struct loader *l, FRESULT result)
{
	if (result == FR_NOT_READY)
		return fail(l, "the SD card does not start; it must be of SDHC kind (4 to 32 GB)");
	if (result == FR_NO_FILESYSTEM)
		return fail(l, "the SD card has no FAT file system (exFAT is not read): format it as FAT32");
	fail(l, "the SD card cannot be read (FatFs error ");
	text_dec(l->why, result);
	text_str(l->why, "): take it out, put it in again, press a key");
	return false;
}

static bool is_program(const FILINFO *info)
{
	const char *name = info->fname, *end = name + strlen(name);

	/* Dots begin the names of files that another system keeps about the real ones. */
	return !(info->fattrib & (AM_DIR | AM_HID)) && name[0] != '.' && end - name > 4 && end[-4] == '.' &&
	       (end[-3] | 0x20) == 'l' && (end[-2] | 0x20) == 'd' && (end[-1] | 0x20) == 'p';
}

static bool find_file(struct loader *l)
{
	static FILINFO info;
	DIR folder;
	FRESULT result = f_mount(&volume, "", 1);

	if (result == FR_OK)
		result = f_opendir(&folder, "/");
	do {
		if (result == FR_OK)
			result = f_readdir(&folder, &info);
		if (result != FR_OK)
			return read_failed(l, result);
		if (!info.fname[0])
			return fail(l, "the SD card has no .ldp file in its root folder: copy one there (litediffusion compile)");
	} while (!is_program(&info));
	strncpy(l->model->file, info.fname, MODEL_FILE_NAME - 1);
	result = f_open(&l->file, info.fname, FA_READ);
	return result == FR_OK || read_failed(l, result);
}

/* The next bytes of the file into the chunk, up to a multiple of CHUNK_BYTES if that is less than `most`. */
static bool read_chunk(struct loader *l, uint32_t most, uint32_t *length)
{
	UINT found;
	uint32_t room = CHUNK_BYTES - f_tell(&l->file) % CHUNK_BYTES;
	FRESULT result;

	*length = most < room ? most : room;
	result = f_read(&l->file, chunk, *length, &found);
	if (result != FR_OK)
		return read_failed(l, result);
	if (found != *length)
		return fail(l, "the file ends before its size: the card's file system is damaged");
	l->done += *length;
	return l->watch->progress(l->watch->context, l->done, l->total) || fail(l, "loading was broken off");
}

static bool read_table(struct loader *l)
{
	uint32_t length, crc, expected;
	UINT found;

	if (l->file_size >= HEADER_BYTES && !read_chunk(l, HEADER_BYTES, &length))
		return false;
	if (l->file_size < HEADER_BYTES || chunk[0] != LDI_CONTAINER_MAGIC)
		return fail(l, "no .ldp file: it does not start with LDP1; compile the model again");
	if (chunk[1] != LDI_CONTAINER_VERSION)
		return fail_number(l, "container version ", chunk[1], ", this firmware reads ", LDI_CONTAINER_VERSION,
				   ": compile the model again");
	l->model->config_hash = chunk[2];
	l->sections = chunk[3];
	if (l->sections > MAX_SECTIONS)
		return fail_number(l, "", l->sections, " sections, this firmware takes ", MAX_SECTIONS, ": update the firmware");
	if (l->file_size < HEADER_BYTES + ENTRY_BYTES * l->sections)
		return fail_number(l, "truncated: ", l->file_size, " bytes, the section table ends at ",
				   HEADER_BYTES + ENTRY_BYTES * l->sections, ": copy the file again");
	crc = crc_add(CRC_START, (const uint8_t *)chunk, CRC_AT);
	expected = chunk[CRC_AT / 4];
	if (f_read(&l->file, l->table, ENTRY_BYTES * l->sections, &found) != FR_OK)
		return read_failed(l, FR_DISK_ERR);
	if (crc_end(crc_add(crc, (const uint8_t *)l->table, ENTRY_BYTES * l->sections)) != expected)
		return fail(l, "header or section table is corrupted (CRC-32 differs): copy the file again");
	return true;
}

static bool check_sections(struct loader *l)
{
	l->total = l->done = 0;
	for (const struct section *s = l->table; s < l->table + l->sections; s++) {
		if (s->offset_high || s->size_high || s->offset_low > l->file_size || s->size_low > l->file_size - s->offset_low) {
			fail_section(l, "truncated: section ", s->name, " ends behind the file's end at byte ");
			text_dec(l->why, l->file_size);
			text_str(l->why, ": copy the file again");
			return false;
		}
		l->total += s->size_low;
	}
	return true;
}

/* Read a section and check it. target: where in the window it goes, or LDI_WINDOW_SIZE: nowhere; keep: its first bytes. */
static bool read_section(struct loader *l, const struct section *s, uint32_t target, void *keep, uint32_t keep_bytes)
{
	uint32_t crc = CRC_START, length;

	if (f_lseek(&l->file, s->offset_low) != FR_OK)
		return read_failed(l, FR_DISK_ERR);
	for (uint32_t at = 0; at < s->size_low; at += length) {
		uint32_t left = s->size_low - at;
		/* Chunks begin and end at words of the section, so that words go to words of the window. */
		if (!read_chunk(l, left, &length))
			return false;
		if (length < left && length % 4) {
			UINT found;
			uint32_t more = 4 - length % 4 < left - length ? 4 - length % 4 : left - length;
			if (f_read(&l->file, (uint8_t *)chunk + length, more, &found) != FR_OK || found != more)
				return read_failed(l, FR_DISK_ERR);
			length += more;
		}
		crc = crc_add(crc, (const uint8_t *)chunk, length);
		if (at < keep_bytes)
			memcpy((uint8_t *)keep + at, chunk, length < keep_bytes - at ? length : keep_bytes - at);
		if (target < LDI_WINDOW_SIZE) {
			memset((uint8_t *)chunk + length, 0, -length & 3);
			l->hw->window_put(target + at, chunk, (length + 3) / 4);
		}
	}
	return crc_end(crc) == s->crc || fail_section(l, "section ", s->name, " is corrupted (CRC-32 differs): copy the file again");
}

static const struct section *find(struct loader *l, const char *name)
{
	for (const struct section *s = l->table; s < l->table + l->sections; s++)
		if (strncmp(s->name, name, NAME_BYTES) == 0)
			return s;
	fail_section(l, "section ", name, " is missing: compile the model again");
	return NULL;
}

/* Sizes that this firmware relies on; the programs themselves are checked with every job. */
static bool check_job(struct loader *l, const struct section *image)
{
	const struct ldi_model *job = &l->model->job;
	uint32_t room = LDI_WINDOW_SIZE - LDI_SELFTEST_BYTES;

	if (job->image_base > room || image->size_low > room - job->image_base || job->image_bytes > room)
		return fail_number(l, "the program starts at byte ", job->image_base, " of the engine's window and ends behind byte ", room,
				   ": compile for fewer steps");
	if (job->width == 0 || job->height == 0 || job->width > room || job->height > room / PIXEL_BYTES / job->width ||
	    job->pixels % 4 || job->pixels > room - PIXEL_BYTES * job->width * job->height)
		return fail_number(l, "the picture of ", job->width, " x ", job->height, " pixels lies outside the window: compile again");
	if (job->image_base % 4 || job->channels == 0 || job->channels > PIXEL_BYTES || job->labels == 0)
		return fail(l, "section JOB makes no sense: compile the model again");
	return true;
}

static bool load(struct loader *l)
{
	const struct section *job, *image;

	if (!find_file(l))
		return false;
	l->file_size = f_size(&l->file);
	l->total = l->file_size;
	if (!read_table(l) || !check_sections(l) || !(job = find(l, "JOB")) || !(image = find(l, "IMAGE")))
		return false;
	if (job->size_low != sizeof(l->model->job))
		return fail_number(l, "section JOB has ", job->size_low, " bytes, this firmware reads ", sizeof(l->model->job),
				   ": compile the model again");
	if (l->model->config_hash != l->hw->get_reg(LDI_REG_CONFIG_HASH)) {
		fail(l, "compiled for configuration ");
		text_hex(l->why, l->model->config_hash);
		text_str(l->why, ", the device has ");
		text_hex(l->why, l->hw->get_reg(LDI_REG_CONFIG_HASH));
		text_str(l->why, ": compile for this device");
		return false;
	}
	if (!read_section(l, job, LDI_WINDOW_SIZE, &l->model->job, sizeof(l->model->job)) || !check_job(l, image))
		return false;
	for (const struct section *s = l->table; s < l->table + l->sections; s++)
		if (s != job && !read_section(l, s, s == image ? l->model->job.image_base : LDI_WINDOW_SIZE, NULL, 0))
			return false;
	return true;
}

bool model_load(struct model *m, const struct hw *hw, const struct model_watch *watch, struct text *why)
{
	memset(m, 0, sizeof(*m));
	memset(&loader, 0, sizeof(loader));
	loader.hw = hw;
	loader.model = m;
	loader.watch = watch;
	loader.why = why;
	if (!hw->card_start())
		return fail(&loader, "no SD card answers: put one in, with a .ldp file in its root folder, and press a key");
	crc_init();
	return load(&loader);
}
