/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Processes and threads that use a region while the test does something else.
 */
#ifndef TESTS_TASK_H
#define TESTS_TASK_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base.h"
#include "fault.h"

/* The exit status of the child is what FN returns. */
static inline pid_t start_child(int (*fn)(void *arg), void *arg)
{
	pid_t pid = fork();

	if (!pid)
		_exit(fn(arg));
	return pid;
}

static inline bool child_runs(pid_t pid)
{
	return waitpid(pid, NULL, WNOHANG) == 0;
}

/* Wait for its end: the exit status, or -N if signal N ended it. */
static inline int end_of_child(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return -ECHILD;
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static inline int kill_child(pid_t pid)
{
	kill(pid, SIGKILL);
	return end_of_child(pid);
}

/*
 * Does the task sleep because the GPU is not ready? /proc names the function that it sleeps in.
 */
static inline bool waits_for_gpu(pid_t tid)
{
	char path[32], where[64];

	snprintf(path, sizeof(path), "/proc/%d/wchan", tid);
	read_line(path, where, sizeof(where));
	return strstr(where, "sleep_before_poll");
}

/* One access of 8 bytes. ACCESS_READ and ACCESS_WRITE are system calls. */
enum access_how { ACCESS_READ, ACCESS_WRITE, ACCESS_LOAD, ACCESS_STORE, NR_ACCESSES };

struct access {
	enum access_how how;
	int fd;
	uint64_t off;		/* in FD */
	void *p;		/* the mapping of FD */
	uint64_t value;		/* to store, or what was loaded */
	int result;
	pthread_t thread;
	volatile pid_t tid;	/* of the thread */
};

/* 0, the errno of the system call, or the signal that the load or store takes. */
static inline int do_access(void *arg)
{
	struct access *a = arg;

	errno = 0;
	switch (a->how) {
	case ACCESS_READ:
		return pread(a->fd, &a->value, 8, a->off) == 8 ? 0 : errno ?: EIO;
	case ACCESS_WRITE:
		return pwrite(a->fd, &a->value, 8, a->off) == 8 ? 0 : errno ?: EIO;
	case ACCESS_LOAD:
		return fault_of(a->value = *(volatile uint64_t *)a->p).sig;
	default:
		return fault_of(*(volatile uint64_t *)a->p = a->value).sig;
	}
}

static inline void *access_thread(void *arg)
{
	struct access *a = arg;

	a->tid = gettid();
	a->result = do_access(a);
	return NULL;
}

/* 0 or an error; pthread_join(a->thread) before a->result is read. */
static inline int start_access_thread(struct access *a)
{
	return pthread_create(&a->thread, NULL, access_thread, a);
}

#endif /* TESTS_TASK_H */
