/* SPDX-License-Identifier: GPL-2.0-only */
/* KTAP for programs that do without the kernel's own harness, and so without its source. */
#ifndef TESTS_KTAP_H
#define TESTS_KTAP_H

#include "base.h"

#ifndef __noreturn
#define __noreturn	__attribute__((noreturn))
#define __printf(a, b)	__attribute__((format(printf, a, b)))
#endif

#define KTAP_FAIL	1
#define KTAP_SKIP	4

static unsigned int ktap_planned, ktap_nr, ktap_failed;

static inline void ktap_plan(unsigned int nr)
{
	/* A hung program has printed what it has done. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	ktap_planned = nr;
	printf("KTAP version 1\n1..%u\n", nr);
}

#define ktap_note(fmt, ...)	printf("# " fmt "\n", ##__VA_ARGS__)

#define ktap_result(good, fmt, ...)					\
do {									\
	bool __good = (good);						\
									\
	ktap_failed += !__good;						\
	printf("%s %u " fmt "\n", __good ? "ok" : "not ok", ++ktap_nr, ##__VA_ARGS__);	\
} while (0)

/* ktap_verdict - what the program exits with */
static inline int ktap_verdict(void)
{
	return ktap_failed || ktap_nr != ktap_planned ? KTAP_FAIL : 0;
}

#endif /* TESTS_KTAP_H */
