/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The pattern that one side writes to a region and another verifies: every
 * offset has a value of its own, so that memory which is aliased, shifted or
 * swapped between the regions shows.
 */
#ifndef TESTS_PATTERN_H
#define TESTS_PATTERN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline uint64_t pattern(unsigned int seed, uint64_t offset)
{
	uint64_t x = offset + ((uint64_t)seed << 56) + 0x9e3779b97f4a7c15;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

/* The seed of the pattern in a BAR; GPUs that are used together have a SEED each. */
static inline unsigned int pattern_seed(unsigned int bar)
{
	const char *s = getenv("SEED");

	return bar + 16 * (s ? atoi(s) : 0);
}

/* The offsets that are visited: every stride, then the last 8 bytes. */
#define for_each_stride(off, len, stride)				\
	for ((off) = 0; (off) < (len);					\
	     (off) = (off) == (len) - 8 ? (len) :			\
		     (off) + (stride) < (len) - 8 ? (off) + (stride) : (len) - 8)

static inline void fill_random(uint8_t *buf, size_t len, unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i += sizeof(uint64_t)) {
		uint64_t word = pattern(seed, i);

		memcpy(buf + i, &word, len - i < sizeof(word) ? len - i : sizeof(word));
	}
}

static inline bool all_ones(const uint8_t *buf, size_t len)
{
	while (len--)
		if (*buf++ != 0xff)
			return false;
	return true;
}

#endif /* TESTS_PATTERN_H */
