// SPDX-License-Identifier: GPL-2.0-only
/*
 * A file or disk, written and read with O_DIRECT from buffers whose pages lie in a given range
 * of physical addresses: in usemem, once the guest has onlined it.
 */
#include "pattern.h"
#include "program.h"

#define BUFFER	MIB(1)
#define BUFFERS	8

static const struct program program = {
	.what = "in a guest, as root: O_DIRECT from and to memory at [BASE, BASE + SIZE)",
	.args = "/dev/vda 0x8000000000 0x40000000",
};

static int failed(const char *what)
{
	ktap_note("direct_io: %s: %s", what, strerror(errno));
	return KTAP_FAIL;
}

/* Are all pages of a buffer in the range? Root reads the pfns of its own pages. */
static bool lies_in(int pagemap, const char *buf, uint64_t base, uint64_t size)
{
	const uint64_t page = PAGE;
	uint64_t off, entry, phys;

	for (off = 0; off < BUFFER; off += page) {
		if (pread(pagemap, &entry, 8, ((uintptr_t)buf + off) / page * 8) != 8)
			return false;
		phys = (entry & ((1ULL << 55) - 1)) * page;
		if (!(entry >> 63) || phys < base || phys - base >= size)
			return false;
	}
	return true;
}

/* Every other buffer is written, and read back into the next one. */
static int copy_by_disk(int fd, char *buf[])
{
	unsigned int i;
	uint64_t off;

	for (i = 0; i < BUFFERS; i += 2) {
		for (off = 0; off < BUFFER; off += 8)
			*(uint64_t *)(buf[i] + off) = pattern(i, off);
		memset(buf[i + 1], 0, BUFFER);
		if (pwrite(fd, buf[i], BUFFER, i * BUFFER) != BUFFER)
			return failed("pwrite");
		if (pread(fd, buf[i + 1], BUFFER, i * BUFFER) != BUFFER)
			return failed("pread");
		if (memcmp(buf[i], buf[i + 1], BUFFER)) {
			ktap_note("direct_io: buffer %u differs", i);
			return KTAP_FAIL;
		}
	}
	return 0;
}

static int run(const char *path, uint64_t base, uint64_t size)
{
	/* This is more memory than the guest has otherwise, so most of it is in the range. */
	const size_t len = MIB(700);
	char *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	int fd = open(path, O_RDWR | O_DIRECT);
	char *buf[BUFFERS];
	unsigned int nr = 0;
	size_t off;

	if (mem == MAP_FAILED || pagemap < 0)
		return failed("the buffers");
	if (fd < 0)
		return failed(path);
	madvise(mem, len, MADV_HUGEPAGE);
	memset(mem, 1, len);
	for (off = 0; off < len && nr < BUFFERS; off += BUFFER)
		if (lies_in(pagemap, mem + off, base, size))
			buf[nr++] = mem + off;
	if (nr < BUFFERS) {
		ktap_note("direct_io: %u of %u buffers lie in the range", nr, BUFFERS);
		return KTAP_FAIL;
	}
	return copy_by_disk(fd, buf);
}

/* Part of memory_types, which prints the result. */
int main(int argc, char **argv)
{
	program_check(&program, argc, argv);
	if (argc != 4)
		program_skip(&program, "it takes a disk, BASE and SIZE");
	return run(argv[1], strtoull(argv[2], NULL, 0), strtoull(argv[3], NULL, 0));
}
