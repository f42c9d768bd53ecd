/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Four threads that use a region in each way while the test resets the GPU. Each knows what its
 * page must hold.
 */
#ifndef TESTS_WORK_H
#define TESTS_WORK_H

#include <stdatomic.h>

#include "task.h"

#define NR_WORKERS	4

struct worker {
	struct access put, get;
	atomic_bool *stop;
	atomic_ulong done, refused;
	unsigned long wrong, mark;
	pthread_t thread;
};

struct work {
	atomic_bool stop;
	struct worker workers[NR_WORKERS];
};

#define for_each_worker(w, work)						\
	for ((w) = (work)->workers; (w) < (work)->workers + NR_WORKERS; (w)++)

/* A store or load that is refused takes a signal, a read or write an errno. */
static inline void *work_thread(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(w->stop)) {
		w->put.value++;
		if (do_access(&w->put) || do_access(&w->get)) {
			atomic_fetch_add(&w->refused, 1);
			continue;
		}
		w->wrong += w->get.value != w->put.value;
		atomic_fetch_add(&w->done, 1);
	}
	return NULL;
}

/* Start with the page OFF of the fd, which is mapped at P. 0 or an error. */
static inline int start_work(struct work *work, int fd, uint64_t off, void *p)
{
	const enum access_how puts[] = { ACCESS_WRITE, ACCESS_WRITE, ACCESS_STORE, ACCESS_STORE };
	const enum access_how gets[] = { ACCESS_READ, ACCESS_LOAD, ACCESS_LOAD, ACCESS_READ };
	int i, ret = 0;

	memset(work, 0, sizeof(*work));
	for (i = 0; i < NR_WORKERS && !ret; i++) {
		struct worker *w = &work->workers[i];

		w->put = (struct access) {
			.how = puts[i],
			.fd = fd,
			.off = off + i * PAGE,
			.p = p + i * PAGE,
			.value = (uint64_t)i << 56,
		};
		w->get = w->put;
		w->get.how = gets[i];
		w->stop = &work->stop;
		ret = pthread_create(&w->thread, NULL, work_thread, w);
	}
	return ret;
}

static inline void end_work(struct work *work)
{
	struct worker *w;

	atomic_store(&work->stop, true);
	for_each_worker(w, work)
		pthread_join(w->thread, NULL);
}

/* How many accesses were refused. */
static inline unsigned long work_refused(struct work *work)
{
	unsigned long refused = 0;
	struct worker *w;

	for_each_worker(w, work)
		refused += atomic_load(&w->refused);
	return refused;
}

static inline void work_mark(struct work *work)
{
	struct worker *w;

	for_each_worker(w, work)
		w->mark = atomic_load(&w->done);
}

/* Has each thread begun and ended something since the mark? */
static inline bool work_goes_on(struct work *work)
{
	struct worker *w;

	for_each_worker(w, work)
		if (atomic_load(&w->done) < w->mark + 2)
			return false;
	return true;
}

#endif /* TESTS_WORK_H */
