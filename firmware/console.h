/* The UART console: one line at a time, never waiting for input. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include "loop.h"

/* Take the characters that have arrived; obey a line when it is complete. */
void console_poll(struct firmware *fw);
void console_prompt(struct firmware *fw);

#endif
