#include "display.h"

#include "font.h"

#define LINE_WORDS (LDI_FRAME_WIDTH / 2)
#define AREA_LINES (LDI_FRAME_HEIGHT - DISPLAY_TOP)
#define PIXEL_BYTES 16                  /* of the window, a pixel */

void display_init(struct display *d, const struct hw *hw)
{
	d->hw = hw;
	d->next_line = d->last_line = 0;
	d->picture.width = d->picture.height = 0;
	d->cleared = false;
	d->shown = 0;
	d->text_line = 0;
	d->dirty = (1u << DISPLAY_ROWS) - 1;
	for (uint32_t row = 0; row < DISPLAY_ROWS; row++)
		for (uint32_t i = 0; i < DISPLAY_COLUMNS; i++)
			d->text[row][i] = ' ';
}

static bool same_row(const struct display *d, uint32_t row, uint16_t colour, const char *text, uint32_t length)
{
	for (uint32_t i = 0; i < DISPLAY_COLUMNS; i++)
		if (d->text[row][i] != (i < length ? text[i] : ' '))
			return false;
	return d->colour[row] == colour;
}

/* Characters of the text that go into one row: up to its end, or to the last blank that lets the rest go below. */
static uint32_t fitting(const char *text)
{
	uint32_t length = 0, blank = 0;

	while (text[length] && length < DISPLAY_COLUMNS)
		if (text[length++] == ' ')
			blank = length;
	return text[length] && text[length] != ' ' && blank ? blank : length;
}

void display_text(struct display *d, uint32_t first, uint32_t rows, uint16_t colour, const char *text)
{
	for (uint32_t row = first; row < first + rows && row < DISPLAY_ROWS; row++) {
		uint32_t length = fitting(text);
		if (!same_row(d, row, colour, text, length)) {
			for (uint32_t i = 0; i < DISPLAY_COLUMNS; i++)
				d->text[row][i] = i < length ? text[i] : ' ';
			d->colour[row] = colour;
			/* A row that is half drawn is begun again. */
			d->text_line = 0;
			d->dirty |= 1u << row;
		}
		for (text += length; *text == ' '; text++)
			;
	}
}

void display_picture(struct display *d, const struct picture *picture)
{
	const struct picture *old = &d->picture;
	uint32_t wide, high, width;

	if (picture->width != old->width || picture->height != old->height)
		d->cleared = false;
	d->picture = *picture;
	wide = LDI_FRAME_WIDTH / picture->width;
	high = AREA_LINES / picture->height;
	d->scale = wide < high ? wide : high;
	d->skip = 1;
	while (picture->width / d->skip > LDI_FRAME_WIDTH || picture->height / d->skip > AREA_LINES)
		d->skip++;
	width = d->scale ? picture->width * d->scale : picture->width / d->skip;
	d->x = (LDI_FRAME_WIDTH - width) / 2 & ~1u;
	d->next_line = 0;
	d->last_line = d->cleared ? picture->height * d->scale : AREA_LINES;
	if (!d->scale)
		d->last_line = AREA_LINES;
}

bool display_idle(const struct display *d)
{
	return d->next_line == d->last_line;
}

static uint16_t colour_of(uint32_t pixel, uint32_t channels)
{
	uint32_t r = pixel & 0xff, g = channels >= 3 ? pixel >> 8 & 0xff : r, b = channels >= 3 ? pixel >> 16 & 0xff : r;

	return (uint16_t)(r >> 3 << 11 | g >> 2 << 5 | b >> 3);
}

/* One row of the picture, as wide as it is shown, between black margins. */
static void make_picture_line(struct display *d, uint32_t row)
{
	const struct picture *p = &d->picture;
	uint32_t at = p->pixels + PIXEL_BYTES * row * p->width, repeat = d->scale ? d->scale : 1, x = d->x;

	for (uint32_t i = 0; i < LINE_WORDS; i++)
		d->line.words[i] = 0;
	for (uint32_t i = 0; i + d->skip <= p->width; i += d->skip, at += PIXEL_BYTES * d->skip) {
		uint16_t colour = colour_of(d->hw->window_read(at), p->channels);
		for (uint32_t n = 0; n < repeat && x < LDI_FRAME_WIDTH; n++)
			d->line.pixels[x++] = colour;
	}
}

static void draw_picture_line(struct display *d)
{
	const struct picture *p = &d->picture;
	uint32_t line = d->next_line, repeat = d->scale ? d->scale : 1, row = line / repeat * d->skip;
	bool inside = row + d->skip <= p->height;

	if (line % repeat == 0 || !inside) {
		if (inside) {
			make_picture_line(d, row);
		} else {
			for (uint32_t i = 0; i < LINE_WORDS; i++)
				d->line.words[i] = 0;
		}
	}
	d->hw->frame_put(2 * LDI_FRAME_WIDTH * (DISPLAY_TOP + line), d->line.words, LINE_WORDS);
	if (++d->next_line < d->last_line)
		return;
	d->cleared = true;
	if (d->shown < LDI_FRAME_HEIGHT) {
		d->shown = LDI_FRAME_HEIGHT;
		d->hw->frame_lines(d->shown);
	}
}

static void draw_text_line(struct display *d)
{
	uint32_t row = 0, line = d->text_line;
	uint16_t *pixel = d->line.pixels;

	while (!(d->dirty >> row & 1))
		row++;
	for (uint32_t i = 0; i < LINE_WORDS; i++)
		d->line.words[i] = 0;
	for (uint32_t i = 0; i < DISPLAY_COLUMNS && line < FONT_HEIGHT; i++, pixel += DISPLAY_CELL_WIDTH) {
		char c = d->text[row][i];
		uint32_t bits = font[(c < FONT_FIRST || c > FONT_LAST ? '?' : c) - FONT_FIRST][line];
		for (uint32_t x = 0; bits; x++, bits >>= 1)
			if (bits & 1)
				pixel[x] = d->colour[row];
	}
	d->hw->frame_put(2 * LDI_FRAME_WIDTH * (DISPLAY_CELL_HEIGHT * row + line), d->line.words, LINE_WORDS);
	if (++d->text_line == DISPLAY_CELL_HEIGHT) {
		d->text_line = 0;
		d->dirty &= ~(1u << row);
		if (!d->dirty && d->shown < DISPLAY_TOP) {
			d->shown = DISPLAY_TOP;
			d->hw->frame_lines(d->shown);
		}
	}
}

bool display_work(struct display *d)
{
	/* A row of the picture is made once for several lines: text must not come between them. */
	if (d->dirty && (display_idle(d) || d->next_line % (d->scale ? d->scale : 1) == 0))
		draw_text_line(d);
	else if (!display_idle(d))
		draw_picture_line(d);
	else
		return false;
	return true;
}
