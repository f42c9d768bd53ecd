/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What debugfs has of the GPU BDF: the knobs of its stand-in, and the files of the
 * driver. Either can be missing: plain stand-ins have no knobs, and a kernel without
 * VFIO_DEBUGFS has no files of the driver's.
 */
#ifndef TESTS_KNOBS_H
#define TESTS_KNOBS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline FILE *open_debugfs(const char *dir, const char *file, const char *mode)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s/%s", dir, getenv("BDF"), file);
	return fopen(path, mode);
}

static inline bool in_debugfs(const char *dir, const char *file)
{
	FILE *f = open_debugfs(dir, file, "r");

	return f && !fclose(f);
}

/* NULL if the GPU has knobs, or why it has none. */
static inline const char *no_knobs(void)
{
	return in_debugfs("gpu_standin", "ready") ? NULL :
	       access("/sys/kernel/debug/gpu_standin", F_OK) ?
	       "no knobs: debugfs has no gpu_standin" :
	       "no knobs: this GPU is no stand-in of gpu_standin.ko";
}

/* NULL if debugfs has files of the driver's, or why it has none. */
static inline const char *driver_says_nothing(void)
{
	return in_debugfs("vfio", "nvgrace_gpu/resets") ? NULL :
	       access("/sys/kernel/debug/vfio", F_OK) ?
	       "no /sys/kernel/debug/vfio: the kernel has no VFIO_DEBUGFS" :
	       "debugfs has no files of the driver's for this GPU";
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

/* A thread: the GPU gets ready after so many milliseconds. */
static inline void *get_ready_late(void *ms)
{
	usleep((long)ms * 1000);
	set_knob("ready", 1);
	return NULL;
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

#endif /* TESTS_KNOBS_H */
