// SPDX-License-Identifier: GPL-2.0-only
/*
 * User space in the guest uses memory that is the BAR's: it allocates MIB, writes and verifies it,
 * and runs code in it. With NODE all of it has to be memory of this NUMA node.
 */
#include <linux/mempolicy.h>
#include <sys/syscall.h>

#include "pattern.h"
#include "program.h"

/* mov w0, #NUMBER; ret */
static int run_code(void *p, unsigned int number)
{
	uint32_t code[] = { 0x52800000 | (number << 5), 0xd65f03c0 };

	memcpy(p, code, sizeof(code));
	__builtin___clear_cache(p, p + sizeof(code));
	return ((int (*)(void))p)();
}

static int failed(const char *what)
{
	ktap_note("memory: %s: %s", what, strerror(errno));
	return KTAP_FAIL;
}

static int bind_to(unsigned long node)
{
	unsigned long mask[2] = { };

	if (node >= 128) {
		ktap_note("memory: node %lu", node);
		return KTAP_FAIL;
	}
	mask[node / 64] = 1UL << node % 64;
	return syscall(SYS_set_mempolicy, MPOL_BIND, mask, 129UL) ? failed("set_mempolicy") : 0;
}

/* Is every MiB on the node? */
static int is_on(char *p, unsigned long mib, int node)
{
	unsigned long i;
	int on;

	for (i = 0; i < mib; i++) {
		if (syscall(SYS_get_mempolicy, &on, NULL, 0UL, p + MIB(i),
			    (unsigned long)(MPOL_F_NODE | MPOL_F_ADDR)))
			return failed("get_mempolicy");
		if (on != node) {
			ktap_note("memory: MiB %lu is on node %d, and not %d", i, on, node);
			return KTAP_FAIL;
		}
	}
	return 0;
}

static int stress(unsigned long mib, int node)
{
	const unsigned long n = (mib << 20) / 8;
	uint64_t *p = mmap(NULL, n * 8, PROT_READ | PROT_WRITE | PROT_EXEC,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned long i;

	if (p == MAP_FAILED)
		return failed("mmap");
	/* Most of it in huge pages, which saves hundreds of faults in each. */
	if (madvise(p, n / 8 * 7 * 8, MADV_HUGEPAGE))
		return failed("madvise");
	for (i = 0; i < n; i += 64)
		p[i] = pattern(9, i);
	for (i = 0; i < n; i += 64)
		if (p[i] != pattern(9, i))
			return failed("the pattern");
	/* A function in every MiB: some of them lie in the BAR. */
	for (i = 0; i < mib; i++)
		if (run_code(p + (i << 17), i & 0xfff) != (int)(i & 0xfff))
			return failed("code");
	/* Unaligned, as compilers and memcpy() do it. */
	for (i = 1; i < n * 8 - KIB(4); i += 1048583) {
		char *at = (char *)p + i;

		memset(at, 0x5a, 333);
		at[299] = 0x11;
		memmove(at + 7, at, 300);
		if (at[306] != 0x11 || at[305] != 0x5a)
			return failed("an unaligned copy");
	}
	return node < 0 ? 0 : is_on((char *)p, mib, node);
}

static const struct program program = {
	.what = "in a guest: use MIB of memory, of a NUMA node, and run code in it",
	.args = "1000 [NODE]",
};

/* Part of memory_types, which prints the result. */
int main(int argc, char **argv)
{
	unsigned long mib = argc > 1 ? strtoul(argv[1], NULL, 0) : 0;
	int node = argc > 2 ? atoi(argv[2]) : -1;

	program_check(&program, argc, argv);
	if (!mib)
		program_skip(&program, "it takes a number of MiB");
	if (node >= 0 && bind_to(node))
		return KTAP_FAIL;
	return stress(mib, node);
}
