/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The knobs of the stand-in BDF in debugfs, and the driver's files of a GPU in sysfs. A GPU that
 * is not a stand-in of gpu_standin.ko has no knobs.
 */
#ifndef TESTS_KNOBS_H
#define TESTS_KNOBS_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "task.h"

static inline FILE *open_knob(const char *name, const char *mode)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/debug/gpu_standin/%s/%s", getenv("BDF"), name);
	return fopen(path, mode);
}

/* A knob's value, or -1. */
static inline long knob(const char *name)
{
	FILE *f = open_knob(name, "r");
	long value = -1;

	if (f && fscanf(f, "%li", &value) != 1)
		value = -1;
	if (f)
		fclose(f);
	return value;
}

static inline bool has_knobs(void)
{
	return knob("ready") != -1;
}

static inline bool set_knob(const char *name, long value)
{
	FILE *f = open_knob(name, "w");

	return f && fprintf(f, "%ld\n", value) > 0 && !fclose(f);
}

/* A GPU that gets ready when a task waits for it: start_training() in that task. */
struct training {
	pid_t waiter;
	bool waited;
	pthread_t thread;
};

static inline void *train(void *arg)
{
	struct training *t = arg;

	t->waited = wait_until(waits_for_gpu(t->waiter), 20000);
	set_knob("ready", 1);
	return NULL;
}

static inline int start_training(struct training *t)
{
	t->waiter = gettid();
	return pthread_create(&t->thread, NULL, train, t);
}

/* Did the task wait? */
static inline bool end_training(struct training *t)
{
	pthread_join(t->thread, NULL);
	return t->waited;
}

/* The first line of a file of the driver's, without its newline; "" if there is no such file. */
static inline const char *driver_says(const char *file)
{
	static char line[128];
	char below[64], path[PATH_MAX];

	snprintf(below, sizeof(below), "nvgrace_gpu/%s", file);
	read_line(device_path(path, sizeof(path), below), line, sizeof(line));
	return line;
}

static inline long driver_counts(const char *file)
{
	return strtol(driver_says(file), NULL, 0);
}

/* Is the state in the file "state" this one? The values of the registers follow there. */
static inline bool state_is(const char *state)
{
	size_t len = strlen(state);
	const char *line = driver_says("state");

	return !strncmp(line, state, len) && line[len] == ' ';
}

#endif /* TESTS_KNOBS_H */
