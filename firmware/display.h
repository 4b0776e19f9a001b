/* The display: rows of text above a picture, drawn into the frame in small pieces so that the engine never waits for it. */
#ifndef DISPLAY_H
#define DISPLAY_H

#include "hw.h"

/* A character's cell; so the frame has 53 columns, and DISPLAY_ROWS rows of text above the picture. */
#define DISPLAY_CELL_WIDTH 6
#define DISPLAY_CELL_HEIGHT 8
#define DISPLAY_COLUMNS (LDI_FRAME_WIDTH / DISPLAY_CELL_WIDTH)
#define DISPLAY_ROWS 10
#define DISPLAY_TOP (DISPLAY_ROWS * DISPLAY_CELL_HEIGHT)        /* first line of the picture's part */

struct picture {
	uint32_t pixels;                /* window offset: height x width cells of 16 bytes, channels first */
	uint32_t width, height;
	uint32_t channels;              /* from 3 on red, green, blue; otherwise grey */
};

struct display {
	const struct hw *hw;
	char text[DISPLAY_ROWS][DISPLAY_COLUMNS];
	uint16_t colour[DISPLAY_ROWS];
	uint16_t dirty;                 /* rows of text to be drawn */
	struct picture picture;
	uint32_t text_line;             /* next line of the first dirty row */
	uint32_t next_line, last_line;  /* of the picture's part, being drawn */
	uint32_t x, scale;              /* of the picture: left edge; a pixel becomes scale x scale, 0: every skip-th pixel */
	uint32_t skip;
	bool cleared;                   /* the lines beside the picture are black */
	uint32_t shown;                 /* lines that the hardware shows */
	union {
		uint16_t pixels[LDI_FRAME_WIDTH];
		uint32_t words[LDI_FRAME_WIDTH / 2];
	} line;                         /* of the frame, as made last */
};

#define DISPLAY_WHITE 0xffff
#define DISPLAY_GREY 0xbdf7
#define DISPLAY_GREEN 0x87f0
#define DISPLAY_RED 0xfb8c

void display_init(struct display *d, const struct hw *hw);

/* Text from row `first` on, broken into lines of at most `rows` rows, which are filled up with blanks. */
void display_text(struct display *d, uint32_t first, uint32_t rows, uint16_t colour, const char *text);

/* Draw a picture from the window, in the middle and as large as fits by a whole factor. Only when display_idle(). */
void display_picture(struct display *d, const struct picture *picture);

/* True if nothing is left to be drawn of the picture. */
bool display_idle(const struct display *d);

/* Draw one line of what is left (at most about 6,000 cycles); false if nothing is. */
bool display_work(struct display *d);

#endif
