// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test-only, for the guest: what works on the memory behind a BAR. Each op is
 * something that software does to memory and that Device memory refuses, or a
 * plain access as the control. The memory is mapped by memremap(), Normal
 * Write-Back or, with wc=1, Normal-NC; stage 2 has the last word.
 *
 * One line says that the op works. Loading fails with EILSEQ, and a line says what is
 * wrong, if an access gave a wrong result. What the hardware refuses ends in an abort,
 * in the guest or of the whole vCPU.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/io.h>
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/module.h>

static unsigned long base;
module_param(base, ulong, 0444);
MODULE_PARM_DESC(base, "physical address of the memory to try");

static unsigned long size = SZ_2M;
module_param(size, ulong, 0444);
MODULE_PARM_DESC(size, "bytes of it");

static int node;
module_param(node, int, 0444);
MODULE_PARM_DESC(node, "the NUMA node that op=online adds the memory to");

static bool wc;
module_param(wc, bool, 0444);
MODULE_PARM_DESC(wc, "map it Normal-NC rather than Normal Write-Back");

static char *op = "plain";
module_param(op, charp, 0444);
MODULE_PARM_DESC(op, "plain, unaligned, zva, lse, exclusive or online");

#define check(cond)							\
	do {								\
		if (!(cond)) {						\
			pr_err("%s: %s is false\n", op, #cond);		\
			return -EILSEQ;					\
		}							\
	} while (0)

static int plain(u8 *p)
{
	WRITE_ONCE(*(u8 *)p, 0x11);
	WRITE_ONCE(*(u16 *)(p + 2), 0x2222);
	WRITE_ONCE(*(u32 *)(p + 4), 0x44444444);
	WRITE_ONCE(*(u64 *)(p + 8), 0x8888888888888888);
	check(READ_ONCE(*(u8 *)p) == 0x11);
	check(READ_ONCE(*(u16 *)(p + 2)) == 0x2222);
	check(READ_ONCE(*(u32 *)(p + 4)) == 0x44444444);
	check(READ_ONCE(*(u64 *)(p + 8)) == 0x8888888888888888);
	return 0;
}

/* Every size at every offset within 16 bytes, and over a page boundary. */
static int unaligned(u8 *start)
{
	u8 *const where[] = { start, start + PAGE_SIZE - 8 };
	const u64 pattern = 0x123456789abcdef0;
	u64 low, high;
	int i, at;

	for (i = 0; i < ARRAY_SIZE(where); i++) {
		for (at = 1; at < 16; at++) {
			u8 *p = where[i] + at;

			asm volatile("strh %w1, [%0]" :: "r" (p), "r" (0x1234) : "memory");
			asm volatile("ldrh %w0, [%1]" : "=r" (low) : "r" (p) : "memory");
			check(low == 0x1234);
			asm volatile("str %w1, [%0]" :: "r" (p), "r" (0x12345678) : "memory");
			asm volatile("ldr %w0, [%1]" : "=r" (low) : "r" (p) : "memory");
			check(low == 0x12345678);
			asm volatile("str %1, [%0]" :: "r" (p), "r" (pattern) : "memory");
			asm volatile("ldr %0, [%1]" : "=r" (low) : "r" (p) : "memory");
			check(low == pattern);
			asm volatile("stp %1, %2, [%0]"
				     :: "r" (p), "r" (1UL), "r" (2UL) : "memory");
			asm volatile("ldp %0, %1, [%2]"
				     : "=&r" (low), "=&r" (high) : "r" (p) : "memory");
			check(low == 1 && high == 2);
		}
	}
	return 0;
}

static int try_zva(u8 *p)
{
	unsigned int block = 4 << (read_sysreg(dczid_el0) & 0xf), i;

	for (i = 0; i < 2 * block; i++)
		WRITE_ONCE(p[i], 0xff);
	asm volatile("dc zva, %0" :: "r" (p + block) : "memory");
	for (i = 0; i < block; i++) {
		check(READ_ONCE(p[i]) == 0xff);
		check(READ_ONCE(p[block + i]) == 0);
	}
	return 0;
}

static int try_lse(u8 *start)
{
	u64 *p = (u64 *)start, old, want = 12;

	WRITE_ONCE(*p, 5);
	asm volatile(".arch_extension lse\n\tldaddal %1, %0, [%2]"
		     : "=r" (old) : "r" (7UL), "r" (p) : "memory");
	check(old == 5 && READ_ONCE(*p) == 12);
	asm volatile(".arch_extension lse\n\tcasal %0, %1, [%2]"
		     : "+r" (want) : "r" (20UL), "r" (p) : "memory");
	check(want == 12 && READ_ONCE(*p) == 20);
	asm volatile(".arch_extension lse\n\tswpal %1, %0, [%2]"
		     : "=r" (old) : "r" (30UL), "r" (p) : "memory");
	check(old == 20 && READ_ONCE(*p) == 30);

	/* FEAT_LSE2: not aligned, but within 16 bytes. Write-Back memory only. */
	if (wc)
		return 0;
	WRITE_ONCE(p[0], 0);
	WRITE_ONCE(p[1], 0);
	asm volatile(".arch_extension lse\n\tldaddal %1, %0, [%2]"
		     : "=r" (old) : "r" (7UL), "r" (start + 4) : "memory");
	check(old == 0 && READ_ONCE(p[0]) == 7UL << 32);
	return 0;
}

static int exclusive(u8 *start)
{
	u64 *p = (u64 *)start, old, tmp;
	u32 failed;

	WRITE_ONCE(*p, 40);
	asm volatile("1: ldaxr %0, [%3]\n\tadd %1, %0, #2\n\tstlxr %w2, %1, [%3]\n\tcbnz %w2, 1b"
		     : "=&r" (old), "=&r" (tmp), "=&r" (failed) : "r" (p) : "memory");
	check(old == 40 && READ_ONCE(*p) == 42);
	return 0;
}

static int __init guest_probe_init(void)
{
	static const struct {
		const char *name;
		int (*fn)(u8 *p);
	} ops[] = {
		{ "plain", plain }, { "unaligned", unaligned }, { "zva", try_zva },
		{ "lse", try_lse }, { "exclusive", exclusive },
	};
	const char *type = wc ? "Normal-NC" : "Normal Write-Back";
	int ret = -EINVAL, i;
	u8 *p;

	/* As the GPU's driver does it. The memory stays until the guest ends. */
	if (!strcmp(op, "online")) {
		ret = add_memory_driver_managed(node, base, size,
						"System RAM (guest_probe)",
						MHP_NONE);
		if (ret)
			pr_err("online: [mem %#lx-%#lx] cannot be added in blocks of %#lx: %pe\n",
			       base, base + size - 1,
			       memory_block_size_bytes(), ERR_PTR(ret));
		return ret;
	}

	if (size < 2 * PAGE_SIZE) {
		pr_err("size=%lu: two pages of %lu are needed\n", size, PAGE_SIZE);
		return -EINVAL;
	}
	p = memremap(base, size, wc ? MEMREMAP_WC : MEMREMAP_WB);
	if (!p) {
		pr_err("%#lx cannot be mapped %s\n", base, type);
		return -ENOMEM;
	}

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		if (!strcmp(op, ops[i].name))
			ret = ops[i].fn(p);
	}
	memunmap(p);
	if (!ret)
		pr_info("%s works on memory mapped %s at %#lx, pages of %lu KiB\n",
			op, type, base, PAGE_SIZE / SZ_1K);
	else if (ret == -EINVAL)
		pr_err("op=%s is not known\n", op);
	return ret;
}
module_init(guest_probe_init);

static void __exit guest_probe_exit(void)
{
}
module_exit(guest_probe_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test-only: what works on the memory behind a BAR");
