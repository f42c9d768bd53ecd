// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long it takes, under the driver that the device is bound to. Each row is a line
 * "row NAME NS": nanoseconds for the operation once, or a plain count where the name ends
 * with _kib. Rows are compared between two drivers on one boot, never between machines.
 */
#include <pthread.h>

#include "program.h"

static const struct program program = {
	.what = "time reads, writes, mappings and faults of usemem and resmem",
	.vars = { VAR_BDF, VAR_REGIONS },
	.args = "all|growth",
};

/* Long enough to see past the clock, short enough for many rounds. */
#define ROW_NS		60000000ULL

#define NR_THREADS	4

static struct vfio v;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void report(const char *name, uint64_t value)
{
	printf("row %s %lu\n", name, value);
	fflush(stdout);
}

static void open_device_or_fail(void)
{
	int ret = vfio_open(&v, BEST_MODE) ?: enable_memory(v.device);

	if (ret)
		program_fail("%s: %s", v.bdf, strerror(ret < 0 ? -ret : errno));
}

/* ---- read() and write() */

static void rw(bool write, void *buf, size_t len, uint64_t off)
{
	ssize_t ret = write ? pwrite(v.device, buf, len, off) : pread(v.device, buf, len, off);

	if (ret != (ssize_t)len)
		program_fail("%s of %zu bytes at 0x%lx: %zd, %s", write ? "write" : "read", len,
			     off, ret, strerror(errno));
}

static void time_rw(const char *name, bool write, void *buf, size_t len, uint64_t off)
{
	uint64_t start, end, batch = 1, done = 0;
	unsigned int i;

	rw(write, buf, len, off);	/* what is made on first use is not this row's */
	start = now_ns();
	do {
		for (i = 0; i < batch; i++)
			rw(write, buf, len, off);
		done += batch;
		batch = len > KIB(64) ? 1 : 64;
		end = now_ns();
	} while (end - start < ROW_NS);
	report(name, (end - start) / done);
}

static void time_memcpy(void *buf, size_t len)
{
	void *p = map_region(&v, USEMEM, reserve(len + BLOCK, 0), 0, len);
	uint64_t start, end, done = 0;

	if (p == MAP_FAILED)
		program_fail("usemem cannot be mapped: %s", strerror(errno));
	memcpy(buf, p, len);
	start = now_ns();
	do {
		memcpy(buf, p, len);
		done++;
		end = now_ns();
	} while (end - start < ROW_NS);
	report("memcpy.usemem.64M", (end - start) / done);
	munmap(p, len);
}

static void reads_and_writes(void)
{
	static const struct { const char *name; size_t len; } sizes[] = {
		{ "1", 1 }, { "4", 4 }, { "8", 8 }, { "4K", KIB(4) }, { "64K", KIB(64) },
		{ "1M", MIB(1) }, { "64M", MIB(64) },
	};
	static const char * const regions[] = { "usemem", "resmem" };
	uint8_t *buf = aligned_alloc(MIB(2), MIB(64));
	unsigned int r, i;
	char name[64];

	memset(buf, 0x5a, MIB(64));
	for (r = 0; r < NR_REGIONS; r++) {
		for (i = 0; i < ARRAY_SIZE(sizes); i++) {
			snprintf(name, sizeof(name), "read.%s.%s", regions[r], sizes[i].name);
			time_rw(name, false, buf, sizes[i].len, v.regions[r].off);
			snprintf(name, sizeof(name), "write.%s.%s", regions[r], sizes[i].name);
			time_rw(name, true, buf, sizes[i].len, v.regions[r].off);
		}
	}
	time_memcpy(buf, MIB(64));
	if (v.regions[USEMEM].size - v.regions[USEMEM].backed >= MIB(64))
		time_rw("read.hole.64M", false, buf, MIB(64),
			v.regions[USEMEM].off + v.regions[USEMEM].backed);
	free(buf);
}

/* ---- mappings */

static long touch(volatile uint8_t *p, uint64_t len, uint64_t step)
{
	long before = minor_faults();
	uint64_t i;

	for (i = 0; i < len; i += step)
		(void)p[i];
	return minor_faults() - before;
}

/* 32 MiB at an address that no block fits at. */
static void time_small_blocks(void)
{
	const uint64_t len = MIB(32);
	uint64_t start, faults;
	void *p = map_region(&v, USEMEM, reserve(len + BLOCK, PAGE), 0, len);

	if (p == MAP_FAILED)
		program_fail("usemem cannot be mapped: %s", strerror(errno));
	start = now_ns();
	faults = touch(p, len, PAGE);
	report("touch.unaligned.32M", now_ns() - start);
	report("touch.unaligned.32M.faults", faults);
	munmap(p, len);
}

struct toucher {
	pthread_t thread;
	uint64_t at;
	uint64_t len;
};

static void *map_and_touch(void *arg)
{
	struct toucher *t = arg;
	void *p = map_region(&v, USEMEM, NULL, t->at, t->len);

	if (p != MAP_FAILED) {
		touch(p, t->len, BLOCK);
		munmap(p, t->len);
	}
	return NULL;
}

static void time_threads(void)
{
	uint64_t len = v.regions[USEMEM].backed / NR_THREADS & -BLOCK, start;
	struct toucher t[NR_THREADS];
	int i;

	start = now_ns();
	for (i = 0; i < NR_THREADS; i++) {
		t[i].at = i * len;
		t[i].len = len < GIB(4) ? len : GIB(4);
		if (pthread_create(&t[i].thread, NULL, map_and_touch, &t[i]))
			program_fail("no thread: %s", strerror(errno));
	}
	for (i = 0; i < NR_THREADS; i++)
		pthread_join(t[i].thread, NULL);
	report("touch.four_threads", now_ns() - start);
}

/* What may grow with the size of the memory. */
static void growth(void)
{
	uint64_t backed = v.regions[USEMEM].backed, start, mmap_ns, touch_ns, value;
	long tables;
	void *p;

	start = now_ns();
	rw(false, &value, sizeof(value), v.regions[USEMEM].off);
	report("first_read", now_ns() - start);

	tables = vm_pte_kib();
	p = reserve(backed + BLOCK, 0);
	start = now_ns();
	p = map_region(&v, USEMEM, p, 0, backed);
	mmap_ns = now_ns() - start;
	report("mmap", mmap_ns);
	if (p == MAP_FAILED)
		program_fail("usemem cannot be mapped: %s", strerror(errno));
	report("mmap.page_tables_kib", vm_pte_kib() - tables);

	start = now_ns();
	touch(p, backed, BLOCK);
	touch_ns = now_ns() - start;
	report("touch.each_block", touch_ns);
	/* A driver may map in mmap() or by fault: who uses the memory pays for both. */
	report("map_and_touch.each_block", mmap_ns + touch_ns);

	start = now_ns();
	if (ioctl(v.device, VFIO_DEVICE_RESET) && hot_reset(&v))
		program_fail("no reset: %s", strerror(errno));
	report("reset.mapped", now_ns() - start);

	start = now_ns();
	munmap(p, backed);
	report("munmap", now_ns() - start);
}

int main(int argc, char **argv)
{
	bool all = argc == 2 && !strcmp(argv[1], "all");
	uint64_t start;

	program_check(&program, argc, argv);
	if (!all && (argc != 2 || strcmp(argv[1], "growth")))
		program_skip(&program, "it takes all or growth");

	start = now_ns();
	open_device_or_fail();
	report("open", now_ns() - start);
	growth();
	if (all) {
		reads_and_writes();
		time_small_blocks();
		time_threads();
	}
	vfio_close(&v);
	return 0;
}
