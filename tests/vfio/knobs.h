/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What debugfs has of a GPU: the knobs of its stand-in, by which a test drives it,
 * and the files of the driver. BDF names the GPU.
 */
#ifndef TESTS_KNOBS_H
#define TESTS_KNOBS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

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

static inline bool set_knob(const char *name, long value)
{
	FILE *f = open_debugfs("gpu_standin", name, "w");

	return f && fprintf(f, "%ld\n", value) > 0 && !fclose(f);
}

/* The number behind "key: " in a file of the driver's, or alone in it; or -1. */
static inline long driver_says(const char *file, const char *key)
{
	char path[64], line[128], format[32];
	long value = -1;
	FILE *f;

	snprintf(path, sizeof(path), "nvgrace_gpu/%s", file);
	f = open_debugfs("vfio", path, "r");
	snprintf(format, sizeof(format), key ? "%s: %%li" : "%s%%li", key ? key : "");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, format, &value) == 1)
			break;
	}
	if (f)
		fclose(f);
	return value;
}

static inline long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

#endif /* TESTS_KNOBS_H */
