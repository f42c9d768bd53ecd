/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Catch the SIGBUS or SIGSEGV that an access to memory takes.
 *
 *	struct fault f = fault_of(*p = 5);
 *
 * f.sig is the signal or 0, f.code its si_code, f.addr its si_addr. Each thread
 * catches its own. A signal outside of fault_of() ends the process, as it does
 * without a catcher, unless fault_watch() was called: fault_notices then counts such
 * signals and holds the last one.
 */
#ifndef TESTS_FAULT_H
#define TESTS_FAULT_H

#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct fault {
	int sig;
	int code;
	void *addr;
};

static __thread sigjmp_buf fault_jmp;
static __thread volatile bool fault_armed;
static __thread struct fault fault_taken;

static volatile bool fault_watched;
static struct {
	volatile int times;
	volatile int code;
	void *volatile addr;
} fault_notices;

static inline void fault_handler(int sig, siginfo_t *info, void *context)
{
	if (fault_armed) {
		fault_taken = (struct fault) { sig, info->si_code, info->si_addr };
		siglongjmp(fault_jmp, 1);
	}
	if (fault_watched) {
		fault_notices.addr = info->si_addr;
		fault_notices.code = info->si_code;
		fault_notices.times++;
		return;
	}
	/* The access is tried again, and ends the process. */
	signal(sig, SIG_DFL);
}

static inline void fault_install(void)
{
	struct sigaction sa = { .sa_sigaction = fault_handler, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
}

/* From now on signals outside of fault_of() are counted. */
static inline void fault_watch(void)
{
	memset((void *)&fault_notices, 0, sizeof(fault_notices));
	fault_watched = true;
	fault_install();
}

#define fault_of(access)						\
({									\
	fault_install();						\
	fault_taken = (struct fault) {};				\
	fault_armed = true;						\
	if (!sigsetjmp(fault_jmp, 1)) {					\
		access;							\
	}								\
	fault_armed = false;						\
	fault_taken;							\
})

#endif /* TESTS_FAULT_H */
