// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a guest does with the emulated BARs: find them, write a pattern through
 * each across its whole length, and read it back.
 *
 * REGIONS says what to expect, as bar:backed:size of usemem, then of resmem or
 * what else OTHER names.
 * All access is naturally aligned, so that it works on a host whose KVM maps
 * the BARs as Device memory too.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/pci_regs.h>

#include "kselftest.h"
#include "pattern.h"

#define PAGE	4096UL

/* The kernel's flag for a BAR that takes two registers, as sysfs prints it. */
#define IORESOURCE_MEM		0x200UL
#define IORESOURCE_PREFETCH	0x2000UL
#define IORESOURCE_MEM_64	0x100000UL

struct region {
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

static bool read_resource(const char *dir, struct region *r)
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

/* The GPU is the function whose BAR is as large as usemem has to be. */
static bool find_gpu(struct region *regions)
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

static void print_gpu(const struct region *regions)
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
	ksft_print_msg("%s %s:%s\n", gpu + strlen("/sys/bus/pci/devices/"), id[0], id[1]);
	for (i = 0; i < 2; i++)
		ksft_print_msg("  Region %u: Memory at %lx (64-bit, prefetchable) [size=%s]  %s\n",
			       regions[i].bar, regions[i].start,
			       human(regions[i].len), regions[i].name);
}

/* One page of the BAR at a time: the guest may have little memory of its own. */
static volatile uint64_t *map_page(int fd, unsigned long off)
{
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off & -PAGE);

	return p == MAP_FAILED ? NULL : p;
}

static bool visit(const struct region *r, unsigned long stride, bool write,
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
			ksft_print_msg("%s: cannot be mapped at 0x%lx\n", path, off);
			good = false;
			break;
		}
		p = page + (off & (PAGE - 1)) / 8;
		if (write) {
			*p = pattern(pattern_seed(r->bar), off);
		} else if (*p != pattern(pattern_seed(r->bar), off)) {
			ksft_print_msg("%s+0x%lx: 0x%016lx, not 0x%016lx\n", r->name,
				       off, *p, pattern(pattern_seed(r->bar), off));
			good = false;
			break;
		}
		munmap((void *)page, PAGE);
		++*count;
	}
	close(fd);
	return good && *count;
}

static bool hole_reads_ones(const struct region *r)
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
			ksft_print_msg("%s+0x%lx: 0x%lx\n", r->name, at[i], *p);
			good = false;
		}
	}
	close(fd);
	return good;
}

int main(void)
{
	struct region r[2] = { { .name = "usemem" }, { .name = "resmem" } };
	const char *expect = getenv("REGIONS"), *s = getenv("STRIDE");
	unsigned long stride = s ? strtoul(s, NULL, 0) : 64UL << 20;
	unsigned long count;
	char path[400];
	unsigned int i;
	bool good;
	int fd;

	ksft_print_header();
	if (getenv("OTHER"))
		r[1].name = getenv("OTHER");
	if (!expect ||
	    sscanf(expect, "%u:%li:%li,%u:%li:%li", &r[0].bar, (long *)&r[0].backed,
		   (long *)&r[0].size, &r[1].bar, (long *)&r[1].backed,
		   (long *)&r[1].size) != 6)
		ksft_exit_fail_msg("REGIONS: '%s'\n", expect);
	ksft_set_plan(8 + (r[0].size > r[0].backed) + (r[1].size > r[1].backed));

	if (!find_gpu(r))
		ksft_exit_fail_msg("no function has a BAR%u of 0x%lx bytes\n",
				   r[0].bar, r[0].size);
	print_gpu(r);
	ksft_test_result_pass("the guest finds the GPU\n");

	snprintf(path, sizeof(path), "%s/enable", gpu);
	fd = open(path, O_WRONLY);
	ksft_test_result(write(fd, "1", 1) == 1, "the guest enables it\n");

	for (i = 0; i < 2; i++) {
		const unsigned long want = IORESOURCE_MEM | IORESOURCE_PREFETCH |
					   IORESOURCE_MEM_64;

		ksft_test_result(r[i].len == r[i].size &&
				 (r[i].flags & want) == want,
				 "%s is a 64-bit prefetchable BAR of the right size\n",
				 r[i].name);
	}

	/* Both are written before either is read: they must not be one memory. */
	for (i = 0; i < 2; i++) {
		good = visit(&r[i], stride, true, &count);
		ksft_test_result(good, "%s: a pattern written\n", r[i].name);
	}
	for (i = 0; i < 2; i++) {
		good = visit(&r[i], stride, false, &count);
		ksft_print_msg("%s: %lu places from the first to the last byte of %s\n",
			       r[i].name, count, human(r[i].backed));
		ksft_test_result(good, "%s: the pattern verified\n", r[i].name);
	}

	for (i = 0; i < 2; i++) {
		if (r[i].size > r[i].backed)
			ksft_test_result(hole_reads_ones(&r[i]),
					 "%s: beyond the memory all ones\n", r[i].name);
	}

	ksft_finished();
}
