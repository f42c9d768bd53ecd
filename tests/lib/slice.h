/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model of the bytes in a slice of memory that one task alone uses. A byte is known; or,
 * after a write that may or may not have reached it, it is one of two; or, after several of
 * those, it can be anything.
 *
 * A task can be killed at any moment. Before it writes it puts the write on record, and
 * another task can settle what is on record. For that, all of it lies in shared memory.
 */
#ifndef TESTS_SLICE_H
#define TESTS_SLICE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base.h"

enum { BYTE_KNOWN, BYTE_EITHER, BYTE_ANY };

struct slice {
	uint64_t pos;		/* where it begins, in its region */
	size_t len;
	uint8_t *value;
	uint8_t *other;		/* the other value that the byte may have, if its state is EITHER */
	uint8_t *state;
	/* The write on record. */
	bool writing;
	size_t at, count;
	const uint8_t *data;
};

#define for_each_byte_written(s, i)	for ((i) = (s)->at; (i) < (s)->at + (s)->count; (i)++)

/* COUNT bytes of DATA, which stay there as long as the write is on record, go to AT. */
static inline void slice_begin(struct slice *s, size_t at, const uint8_t *data, size_t count)
{
	s->at = at;
	s->count = count;
	s->data = data;
	__atomic_store_n(&s->writing, true, __ATOMIC_SEQ_CST);
}

/* All of it has been written. */
static inline void slice_written(struct slice *s)
{
	size_t i;

	for_each_byte_written(s, i) {
		s->value[i] = s->data[i - s->at];
		__atomic_store_n(&s->state[i], BYTE_KNOWN, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&s->writing, false, __ATOMIC_SEQ_CST);
}

/* None of it has been written. */
static inline void slice_not_written(struct slice *s)
{
	__atomic_store_n(&s->writing, false, __ATOMIC_SEQ_CST);
}

/* Some of it, or all, or none. */
static inline void slice_perhaps_written(struct slice *s)
{
	size_t i;

	for_each_byte_written(s, i) {
		uint8_t new = s->data[i - s->at];

		if (s->state[i] == BYTE_ANY || new == s->value[i] ||
		    (s->state[i] == BYTE_EITHER && new == s->other[i]))
			continue;
		if (s->state[i] == BYTE_EITHER) {
			s->state[i] = BYTE_ANY;
			continue;
		}
		s->other[i] = new;
		__atomic_store_n(&s->state[i], BYTE_EITHER, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&s->writing, false, __ATOMIC_SEQ_CST);
}

/* The slice was lost, or not written yet: it can hold anything. */
static inline void slice_forget(struct slice *s)
{
	__atomic_store_n(&s->writing, false, __ATOMIC_SEQ_CST);
	memset(s->state, BYTE_ANY, s->len);
}

/*
 * COUNT bytes at AT were read as GOT. Returns -1, and knows them from now on; or, if a byte
 * cannot be, its offset in the slice.
 */
static inline ssize_t slice_read(struct slice *s, size_t at, const uint8_t *got, size_t count)
{
	size_t i;

	for (i = at; i < at + count; i++, got++) {
		if (s->state[i] == BYTE_KNOWN && s->value[i] == *got)
			continue;
		if (s->state[i] == BYTE_KNOWN ||
		    (s->state[i] == BYTE_EITHER && s->value[i] != *got && s->other[i] != *got))
			return i;
		s->value[i] = *got;
		__atomic_store_n(&s->state[i], BYTE_KNOWN, __ATOMIC_RELEASE);
	}
	return -1;
}

/* The task that was writing is dead. */
static inline void slice_settle(struct slice *s)
{
	if (s->writing)
		slice_perhaps_written(s);
}

#endif /* TESTS_SLICE_H */
