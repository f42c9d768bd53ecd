/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sizes, time, the environment and small files. A program runs on kernels with pages of 4, 16 and
 * 64 KiB, so PAGE and BLOCK ask the running kernel.
 */
#ifndef TESTS_BASE_H
#define TESTS_BASE_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#endif

#define KIB(n)	((uint64_t)(n) << 10)
#define MIB(n)	((uint64_t)(n) << 20)
#define GIB(n)	((uint64_t)(n) << 30)

/* A block is what one PMD maps: 2, 32 or 512 MiB. */
#define PAGE	page_size()
#define BLOCK	block_size()

static inline unsigned long page_size(void)
{
	return sysconf(_SC_PAGESIZE);
}

static inline unsigned long block_size(void)
{
	return page_size() * page_size() / 8;
}

static inline long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Poll until COND holds, LIMIT milliseconds at most; true if it did. */
#define wait_until(cond, limit)						\
({									\
	long __end = now_ms() + (limit);				\
	bool __held;							\
									\
	while (!(__held = (cond)) && now_ms() < __end)			\
		usleep(5000);						\
	__held;								\
})

static inline long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

/* Faults that it takes to load from each page of a mapping. */
static inline long faults_to_touch(volatile uint8_t *p, size_t len)
{
	const size_t page = PAGE;
	long before = minor_faults();
	size_t i;

	for (i = 0; i < len; i += page)
		(void)p[i];
	return minor_faults() - before;
}

/* The KiB that the page tables of this process take, or -1. */
static inline long vm_pte_kib(void)
{
	char line[128];
	long kib = -1;
	FILE *f = fopen("/proc/self/status", "r");

	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "VmPTE: %ld", &kib);
	fclose(f);
	return kib;
}

/*
 * Page tables that it takes to load from each page of a mapping. Pages take one for each block
 * of addresses; a block takes none. Call it once the block's neighbour is mapped, or it counts
 * the page tables above them, too.
 */
static inline long tables_to_touch(volatile uint8_t *p, size_t len)
{
	long before = vm_pte_kib();

	faults_to_touch(p, len);
	return (vm_pte_kib() - before) / (long)(PAGE >> 10);
}

static inline bool env_is(const char *name, const char *value)
{
	const char *s = getenv(name);

	return s && !strcmp(s, value);
}

/*
 * Does the kernel have NAME? The job says so in HAS, which the rig reads from the kernel's
 * configuration and symbols. So a test is skipped where the kernel lacks something, and fails
 * where the driver does. A program that is run by hand, without HAS, expects all of it.
 */
static inline bool kernel_has(const char *name)
{
	const char *p = getenv("HAS");
	size_t len = strlen(name);

	if (!p)
		return true;
	for (; *p; p += strcspn(p, " "), p += strspn(p, " "))
		if (strcspn(p, " ") == len && !strncmp(p, name, len))
			return true;
	return false;
}

/* 0 if all of the string was written, or -errno. */
static inline int write_file(const char *path, const char *s)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, s, strlen(s)) == (ssize_t)strlen(s) ? 0 : -errno;
	close(fd);
	return ret;
}

/* The first line of a file without its newline; "" if it cannot be read. */
static inline void read_line(const char *path, char *line, int len)
{
	FILE *f = fopen(path, "re");

	if (!f || !fgets(line, len, f))
		line[0] = 0;
	line[strcspn(line, "\n")] = 0;
	if (f)
		fclose(f);
}

/* How often the kernel log says this since the job has emptied it. */
static inline int log_says(const char *what)
{
	static char log[1 << 20];
	int len = klogctl(3 /* read all */, log, sizeof(log) - 1), n = 0;
	const char *p = log;

	log[len < 0 ? 0 : len] = 0;
	while ((p = strstr(p, what))) {
		p += strlen(what);
		n++;
	}
	return n;
}

/* All of /proc/iomem, into MAX_IOMEM bytes. */
#define MAX_IOMEM	65536

static inline void read_iomem(char *iomem)
{
	int fd = open("/proc/iomem", O_RDONLY | O_CLOEXEC);
	ssize_t n, len = 0;

	while ((n = read(fd, iomem + len, MAX_IOMEM - 1 - len)) > 0)
		len += n;
	iomem[len] = 0;
	close(fd);
}

/* The number of address ranges that the driver has claimed. */
static inline int claims(void)
{
	static char iomem[MAX_IOMEM];
	const char *p = iomem;
	int n = 0;

	read_iomem(iomem);
	while ((p = strstr(p, " : nvgrace_gpu\n"))) {
		p++;
		n++;
	}
	return n;
}

/* A path below the directory that sysfs has of the device BDF. */
static inline const char *device_path(char *path, size_t len, const char *below)
{
	snprintf(path, len, "/sys/bus/pci/devices/%s/%s", getenv("BDF") ?: "", below);
	return path;
}

#endif /* TESTS_BASE_H */
