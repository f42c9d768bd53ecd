/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The files of the GPU BDF: the knobs of its stand-in in debugfs, and the driver's own. A GPU that
 * is not a stand-in of gpu_standin.ko has no knobs. The driver has some of its files in debugfs,
 * where kernel_has("VFIO_DEBUGFS"), and the others in sysfs.
 */
#ifndef TESTS_KNOBS_H
#define TESTS_KNOBS_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "task.h"

static inline FILE *open_debugfs(const char *dir, const char *file, const char *mode)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s/%s", dir, getenv("BDF"), file);
	return fopen(path, mode);
}

/* A knob's value, or -1. */
static inline long knob(const char *name)
{
	FILE *f = open_debugfs("gpu_standin", name, "r");
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
	FILE *f = open_debugfs("gpu_standin", name, "w");

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

/*
 * The number after "key: " in a file of the driver's, or alone in it. -ENODATA if the file has
 * none, -ENOENT if the driver has no such file.
 */
static inline long debugfs_says(const char *file, const char *key)
{
	char path[64], line[128], format[32];
	long value = -ENODATA;
	FILE *f;

	snprintf(path, sizeof(path), "nvgrace_gpu/%s", file);
	f = open_debugfs("vfio", path, "r");
	if (!f)
		return -ENOENT;
	snprintf(format, sizeof(format), key ? "%s: %%li" : "%s%%li", key ? key : "");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, format, &value) == 1)
			break;
	}
	fclose(f);
	return value;
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

#endif /* TESTS_KNOBS_H */
