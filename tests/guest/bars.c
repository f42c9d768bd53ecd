// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest uses the emulated BARs: it finds them, writes a pattern through each across
 * its whole length, reads it back, and uses usemem as memory.
 *
 * The pattern's accesses are naturally aligned, so that they work on a host whose
 * KVM maps the BARs as Device memory too. OPS are operations that Device memory refuses.
 * User space in the guest maps the BAR Normal-NC; guest_probe.ko tries it cacheable.
 */
#include <dirent.h>

#include "fault.h"
#include "pattern.h"
#include "program.h"

/* The kernel's flag for a BAR that takes two registers, as sysfs prints it. */
#define IORESOURCE_MEM		0x200UL
#define IORESOURCE_PREFETCH	0x2000UL
#define IORESOURCE_MEM_64	0x100000UL

struct bar {
	const char *name;
	unsigned int bar;
	unsigned long backed, size;
	unsigned long start, flags, len;	/* as the guest's kernel sees it */
};

static char gpu[300];	/* its directory in sysfs */

static const char *human(unsigned long n)
{
	static char buf[32];
	unsigned int unit = 0;

	while (unit < 4 && !(n & 0x1ff) && n >= 1024) {
		if (n & 0x3ff) {
			snprintf(buf, sizeof(buf), "%.1f%c", n / 1024.0, "BKMGT"[unit + 1]);
			return buf;
		}
		n >>= 10;
		unit++;
	}
	snprintf(buf, sizeof(buf), "%lu%c", n, "BKMGT"[unit]);
	return buf;
}

static bool read_resource(const char *dir, struct bar *r)
{
	unsigned long start, end, flags;
	char path[400], line[128];
	unsigned int i;
	FILE *f;

	snprintf(path, sizeof(path), "%s/resource", dir);
	f = fopen(path, "r");
	for (i = 0; f && fgets(line, sizeof(line), f); i++) {
		if (i != r->bar ||
		    sscanf(line, "%lx %lx %lx", &start, &end, &flags) != 3)
			continue;
		r->start = start;
		r->len = end ? end - start + 1 : 0;
		r->flags = flags;
	}
	if (f)
		fclose(f);
	return f && r->len;
}

/* The GPU is the function that has a BAR of usemem's size. */
static bool find_gpu(struct bar *regions)
{
	DIR *dir = opendir("/sys/bus/pci/devices");
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		snprintf(gpu, sizeof(gpu), "/sys/bus/pci/devices/%s", e->d_name);
		if (e->d_name[0] != '.' && read_resource(gpu, &regions[0]) &&
		    regions[0].len == regions[0].size)
			return read_resource(gpu, &regions[1]);
	}
	return false;
}

static void print_gpu(const struct bar *regions)
{
	char path[400], id[2][16] = { "", "" };
	static const char * const name[] = { "vendor", "device" };
	unsigned int i;

	for (i = 0; i < 2; i++) {
		FILE *f;

		snprintf(path, sizeof(path), "%s/%s", gpu, name[i]);
		f = fopen(path, "r");
		if (f && fscanf(f, "%15s", id[i]) != 1)
			id[i][0] = 0;
		if (f)
			fclose(f);
	}
	ktap_note("%s %s:%s", gpu + strlen("/sys/bus/pci/devices/"), id[0], id[1]);
	for (i = 0; i < 2; i++)
		ktap_note("  Region %u: Memory at %lx (64-bit, prefetchable) [size=%s]  %s",
			  regions[i].bar, regions[i].start, human(regions[i].len),
			  regions[i].name);
}

/* One page of the BAR at a time: the guest may have little memory of its own. */
static volatile uint64_t *map_page(int fd, unsigned long off)
{
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off & -PAGE);

	return p == MAP_FAILED ? NULL : p;
}

static bool visit(const struct bar *r, unsigned long stride, bool write,
		  unsigned long *count)
{
	char path[400];
	unsigned long off;
	bool good = true;
	int fd;

	snprintf(path, sizeof(path), "%s/resource%u_wc", gpu, r->bar);
	fd = open(path, O_RDWR);
	*count = 0;
	for_each_stride(off, r->backed, stride) {
		volatile uint64_t *page = map_page(fd, off), *p;

		if (!page) {
			ktap_note("%s: cannot be mapped at 0x%lx", path, off);
			good = false;
			break;
		}
		p = page + (off & (PAGE - 1)) / 8;
		if (write) {
			*p = pattern(pattern_seed(r->bar), off);
		} else if (*p != pattern(pattern_seed(r->bar), off)) {
			ktap_note("%s+0x%lx: 0x%016lx, not 0x%016lx", r->name, off, *p,
				  pattern(pattern_seed(r->bar), off));
			good = false;
			break;
		}
		munmap((void *)page, PAGE);
		++*count;
	}
	close(fd);
	return good && *count;
}

static bool hole_reads_ones(const struct bar *r)
{
	const unsigned long at[] = { r->backed, r->size - 8 };
	char path[400];
	bool good = true;
	unsigned int i;
	int fd;

	snprintf(path, sizeof(path), "%s/resource%u_wc", gpu, r->bar);
	fd = open(path, O_RDWR);
	for (i = 0; i < 2; i++) {
		volatile uint64_t *p = map_page(fd, at[i]);

		p += (at[i] & (PAGE - 1)) / 8;
		*p = 0;
		if (*p != ~0UL) {
			ktap_note("%s+0x%lx: 0x%lx", r->name, at[i], *p);
			good = false;
		}
	}
	close(fd);
	return good;
}

/* Every size at every offset within 16 bytes, and over the end of a page. */
static bool unaligned(uint8_t *start)
{
	uint8_t *const where[] = { start, start + PAGE - 8 };
	unsigned int i, at;

	for (i = 0; i < 2; i++) {
		for (at = 1; at < 16; at++) {
			uint8_t *p = where[i] + at;
			uint64_t low, high;

			asm volatile("strh %w1, [%0]" :: "r" (p), "r" (0x1234) : "memory");
			asm volatile("ldrh %w0, [%1]" : "=r" (low) : "r" (p) : "memory");
			if (low != 0x1234)
				return false;
			asm volatile("str %w1, [%0]" :: "r" (p), "r" (0x12345678) : "memory");
			asm volatile("ldr %w0, [%1]" : "=r" (low) : "r" (p) : "memory");
			if (low != 0x12345678)
				return false;
			asm volatile("stp %1, %2, [%0]"
				     :: "r" (p), "r" (1UL), "r" (2UL) : "memory");
			asm volatile("ldp %0, %1, [%2]"
				     : "=&r" (low), "=&r" (high) : "r" (p) : "memory");
			if (low != 1 || high != 2)
				return false;
		}
	}
	return true;
}

/* memset() and the kernel's clear_page() use it. */
static bool zero_block(uint8_t *p)
{
	uint64_t dczid;
	unsigned int block, i;

	asm("mrs %0, dczid_el0" : "=r" (dczid));
	block = 4 << (dczid & 0xf);
	for (i = 0; i < 2 * block; i++)
		((volatile uint8_t *)p)[i] = 0xff;
	asm volatile("dc zva, %0" :: "r" (p + block) : "memory");
	for (i = 0; i < block; i++)
		if (((volatile uint8_t *)p)[i] != 0xff || ((volatile uint8_t *)p)[block + i])
			return false;
	return true;
}

static bool atomic_add(uint8_t *p)
{
	volatile uint64_t *value = (uint64_t *)p;
	uint64_t old;

	*value = 5;
	asm volatile(".arch_extension lse\n\tldaddal %1, %0, [%2]"
		     : "=r" (old) : "r" (7UL), "r" (p) : "memory");
	return old == 5 && *value == 12;
}

static const struct {
	const char *name;
	bool (*fn)(uint8_t *p);
	const char *what;
} ops[] = {
	{ "unaligned", unaligned, "unaligned access" },
	{ "zva", zero_block, "dc zva" },
	{ "lse", atomic_add, "an atomic (LSE)" },
};

static bool op_is_wanted(unsigned int i)
{
	return strstr(getenv("OPS") ?: "", ops[i].name);
}

/* Try it on two pages in the middle. If the memory refuses it, it ends in a signal. */
static bool works(const struct bar *r, bool (*fn)(uint8_t *p))
{
	char path[400];
	struct fault f;
	bool good = false;
	uint8_t *p;
	int fd;

	snprintf(path, sizeof(path), "%s/resource%u_wc", gpu, r->bar);
	fd = open(path, O_RDWR);
	p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, r->backed / 2 & -PAGE);
	close(fd);
	if (p == MAP_FAILED)
		return false;
	f = fault_of(good = fn(p));
	if (f.sig)
		ktap_note("%s: signal %d, code %d at %p", r->name, f.sig, f.code, f.addr);
	munmap(p, 2 * PAGE);
	return good && !f.sig;
}

static const struct program program = {
	.what = "in a guest: find the BARs, write a pattern over all of each and verify it",
	.vars = {
		VAR_REGIONS,
		{ "OTHER", "name of the second region", "BAR2", true },
		{ "STRIDE", "bytes from one place of the pattern to the next", "67108864", true },
		{ "SEED", "seed of the pattern, for GPUs that are used together", "1", true },
		{ "OPS", "of unaligned, zva and lse what to try on usemem", "unaligned,zva", true },
	},
};

int main(int argc, char **argv)
{
	struct bar r[2] = { { .name = "usemem" }, { .name = "resmem" } };
	const char *s = getenv("STRIDE");
	unsigned long stride = s ? strtoul(s, NULL, 0) : MIB(64);
	struct region regions[NR_REGIONS];
	unsigned long count;
	char path[400];
	unsigned int i, plan;
	long start, mapped;
	bool good;
	int fd;

	program_check(&program, argc, argv);
	expected_regions(regions);
	if (getenv("OTHER"))
		r[1].name = getenv("OTHER");
	plan = 8;
	for (i = 0; i < 2; i++) {
		r[i].bar = regions[i].bar;
		r[i].backed = regions[i].backed;
		r[i].size = regions[i].size;
		plan += r[i].size > r[i].backed;
	}
	for (i = 0; i < ARRAY_SIZE(ops); i++)
		plan += op_is_wanted(i);
	ktap_plan(plan);

	if (!find_gpu(r))
		program_fail("no function has a BAR%u of 0x%lx bytes", r[0].bar, r[0].size);
	print_gpu(r);
	ktap_result(true, "the guest finds the GPU");

	/* The first enable makes the VMM map the BARs for DMA. */
	start = now_ms();
	snprintf(path, sizeof(path), "%s/enable", gpu);
	fd = open(path, O_WRONLY);
	ktap_result(write(fd, "1", 1) == 1, "the guest enables it");
	mapped = now_ms();

	for (i = 0; i < 2; i++) {
		const unsigned long want = IORESOURCE_MEM | IORESOURCE_PREFETCH |
					   IORESOURCE_MEM_64;

		ktap_result(r[i].len == r[i].size && (r[i].flags & want) == want,
			    "%s is a 64-bit prefetchable BAR of the right size", r[i].name);
	}

	/* Both are written before either is read: they must not be one memory. */
	for (i = 0; i < 2; i++) {
		good = visit(&r[i], stride, true, &count);
		ktap_result(good, "%s: a pattern written", r[i].name);
	}
	for (i = 0; i < 2; i++) {
		good = visit(&r[i], stride, false, &count);
		ktap_note("%s: %lu places from the first to the last byte of %s",
			  r[i].name, count, human(r[i].backed));
		ktap_result(good, "%s: the pattern verified", r[i].name);
	}

	for (i = 0; i < 2; i++) {
		if (r[i].size > r[i].backed)
			ktap_result(hole_reads_ones(&r[i]), "%s: beyond the memory all ones",
				    r[i].name);
	}

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		if (op_is_wanted(i))
			ktap_result(works(&r[0], ops[i].fn), "%s: %s works", r[0].name,
				    ops[i].what);
	}
	ktap_note("took: mapping %ld ms", mapped - start);
	ktap_note("took: verify %ld ms", now_ms() - mapped);

	return ktap_verdict();
}
