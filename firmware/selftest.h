/* A test of DRAM and engine that leaves programs and data of the host alone. */
#ifndef SELFTEST_H
#define SELFTEST_H

#include "engine.h"

/*
 * In the last LDI_SELFTEST_BYTES of the window: write and read back two patterns that differ in every word and bit, then
 * let the engine copy a block through its scratchpad. False and f (SELFTEST: word found, word expected) on a difference.
 */
bool selftest(struct engine *e, struct fault *f);

#endif
