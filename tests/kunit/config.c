// SPDX-License-Identifier: GPL-2.0-only
/*
 * read() and write() of config space against a byte-wise model of it
 *
 * The model knows of each byte whether it belongs to an emulated register, and
 * which of its bits hold what is written. It is made from the numbers that a
 * region reports, and shares no code with the driver. An array stands in for the
 * registers that vfio_pci_core answers for.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/jiffies.h>
#include <linux/mman.h>
#include <linux/prandom.h>
#include <linux/uaccess.h>

#include "../../nvgrace_gpu.h"
#include "gate.h"

#define GIB(n)		((u64)(n) << 30)
#define MIB(n)		((u64)(n) << 20)

/* The header of a function: all BARs, and registers on both sides. */
#define CONFIG_SIZE	0x40
/* 64-bit, prefetchable memory */
#define FLAGS		0xc

struct layout {
	const char *name;
	unsigned int nr_regions;
	struct {
		unsigned int bar;
		u64 size;
	} regions[NVGRACE_GPU_MAX_REGIONS];
};

static const struct layout layouts[] = {
	{ "128 GiB in BAR2, 1 GiB in BAR4", 2, { { 2, GIB(128) }, { 4, GIB(1) } } },
	{ "128 GiB in BAR4, 1 GiB in BAR2", 2, { { 4, GIB(128) }, { 2, GIB(1) } } },
	/* The size bit is the highest of the lower half, or lowest of the upper. */
	{ "512 MiB in BAR2, 2 GiB in BAR4", 2, { { 2, MIB(512) }, { 4, GIB(2) } } },
	{ "4 GiB in BAR4, 2 GiB in BAR2", 2, { { 4, GIB(4) }, { 2, GIB(2) } } },
	{ "1 TiB in BAR2, 2 GiB in BAR4", 2, { { 2, GIB(1024) }, { 4, GIB(2) } } },
	{ "256 GiB in BAR4, no carve-out", 1, { { 4, GIB(256) } } },
	{ "a page in BAR4, no carve-out", 1, { { 4, SZ_4K } } },
	{ "none", 0 },
};

KUNIT_ARRAY_PARAM_DESC(layout, layouts, name);

struct config {
	/* The driver's side: the device, and the registers that are its own. */
	struct nvgrace_gpu_device nvdev;
	struct pci_dev pdev;
	u8 own[CONFIG_SIZE];
	u8 __user *user;
	/* The state that the last write to OWN found. */
	enum nvgrace_gpu_ready_state ready;
	unsigned int held;

	/* The model */
	u8 bytes[CONFIG_SIZE];
	u8 writable[CONFIG_SIZE];
};

static ssize_t fake_core_read(struct nvgrace_gpu_device *nvdev, char __user *buf,
			      size_t count, loff_t *ppos)
{
	struct config *config = container_of(nvdev, struct config, nvdev);
	u64 pos = *ppos & VFIO_PCI_OFFSET_MASK;

	if (count > CONFIG_SIZE || pos > CONFIG_SIZE - count ||
	    copy_to_user(buf, config->own + pos, count))
		return -EFAULT;
	*ppos += count;
	return count;
}

static ssize_t fake_core_write(struct nvgrace_gpu_device *nvdev,
			       const char __user *buf, size_t count, loff_t *ppos)
{
	struct config *config = container_of(nvdev, struct config, nvdev);
	u64 pos = *ppos & VFIO_PCI_OFFSET_MASK;

	config->held = nvdev->gate.held;
	config->ready = nvdev->gate.ready;
	/* Another thread finds the registers ready now, before it moves to D3. */
	nvdev->gate.ready = NVGRACE_GPU_READY;

	if (count > CONFIG_SIZE || pos > CONFIG_SIZE - count ||
	    copy_from_user(config->own + pos, buf, count))
		return -EFAULT;
	*ppos += count;
	return count;
}

/* Errors leave the position alone; else it moves by what is returned. */
static ssize_t config_access(struct kunit *test, struct config *config, u64 pos,
			     size_t count, bool iswrite)
{
	const loff_t start = VFIO_PCI_INDEX_TO_OFFSET(VFIO_PCI_CONFIG_REGION_INDEX) + pos;
	loff_t ppos = start;
	ssize_t ret;

	ret = iswrite ?
	      nvgrace_gpu_config_write(&config->nvdev, config->user, count, &ppos) :
	      nvgrace_gpu_config_read(&config->nvdev, config->user, count, &ppos);
	KUNIT_EXPECT_EQ(test, ppos, start + max(ret, 0));
	return ret;
}

static void expect_read(struct kunit *test, struct config *config, u64 pos,
			size_t count)
{
	u8 buf[CONFIG_SIZE];

	KUNIT_ASSERT_EQ(test, count, config_access(test, config, pos, count, false));
	KUNIT_ASSERT_EQ(test, 0, copy_from_user(buf, config->user,
						min(count, sizeof(buf))));
	KUNIT_ASSERT_MEMEQ_MSG(test, buf, config->bytes + pos, count,
			       "read of %zu bytes at 0x%llx", count, pos);
}

static void do_write(struct kunit *test, struct config *config, u64 pos,
		     size_t count, const u8 *bytes)
{
	size_t i;

	KUNIT_ASSERT_EQ(test, 0, copy_to_user(config->user, bytes, count));
	KUNIT_ASSERT_EQ(test, count, config_access(test, config, pos, count, true));

	for (i = 0; i < count; i++) {
		u8 writable = config->writable[pos + i];

		config->bytes[pos + i] = (config->bytes[pos + i] & ~writable) |
					 (bytes[i] & writable);
	}
}

static u64 read_bar(struct kunit *test, struct config *config, unsigned int bar)
{
	__le64 value;

	KUNIT_ASSERT_EQ(test, 8, config_access(test, config, 0x10 + 4 * bar, 8, false));
	KUNIT_ASSERT_EQ(test, 0, copy_from_user(&value, config->user, 8));
	return le64_to_cpu(value);
}

static void write_bar(struct kunit *test, struct config *config,
		      unsigned int bar, u64 value)
{
	__le64 raw = cpu_to_le64(value);

	do_write(test, config, 0x10 + 4 * bar, 8, (u8 *)&raw);
}

/* As after a reset: the emulated registers hold flags only. */
static struct config *new_config(struct kunit *test)
{
	const struct layout *layout = test->param_value;
	struct config *config;
	unsigned int r, i;

	config = kunit_kzalloc(test, sizeof(*config), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, config);
	config->user = (u8 __user *)kunit_vm_mmap(test, NULL, 0, PAGE_SIZE,
						  PROT_READ | PROT_WRITE,
						  MAP_ANONYMOUS | MAP_PRIVATE, 0);
	KUNIT_ASSERT_NE(test, 0, (unsigned long)config->user);
	spin_lock_init(&config->nvdev.bar_lock);
	make_gate(test, &config->nvdev);
	config->pdev.cfg_size = CONFIG_SIZE;
	config->nvdev.core.pdev = &config->pdev;
	kunit_activate_static_stub(test, nvgrace_gpu_core_read, fake_core_read);
	kunit_activate_static_stub(test, nvgrace_gpu_core_write, fake_core_write);

	for (i = 0; i < CONFIG_SIZE; i++) {
		config->own[i] = 0xa0 ^ i;
		config->bytes[i] = config->own[i];
		config->writable[i] = 0xff;
	}

	config->nvdev.nr_regions = layout->nr_regions;
	for (r = 0; r < layout->nr_regions; r++) {
		unsigned int bar = layout->regions[r].bar, at = 0x10 + 4 * bar;
		u64 size = layout->regions[r].size;

		config->nvdev.regions[r].index = VFIO_PCI_BAR0_REGION_INDEX + bar;
		config->nvdev.regions[r].bar_size = size;
		for (i = 0; i < 8; i++) {
			config->bytes[at + i] = i ? 0 : FLAGS;
			config->writable[at + i] = -size >> (8 * i);
		}
	}
	return config;
}

/* Each read and write that there can be in the header, one by one. */
static void every_offset_and_length(struct kunit *test)
{
	struct config *config = new_config(test);
	u8 bytes[CONFIG_SIZE];
	u64 pos;
	size_t count;
	u8 seed = 0;

	for (pos = 0; pos < CONFIG_SIZE; pos++) {
		for (count = 1; count <= CONFIG_SIZE - pos; count++) {
			/* A new value that is not 0 shows each write. */
			memset(bytes, ++seed | 0x10, sizeof(bytes));
			do_write(test, config, pos, count, bytes);
			expect_read(test, config, 0, CONFIG_SIZE);
			expect_read(test, config, pos, count);
		}
	}
}

static void random_accesses(struct kunit *test)
{
	struct config *config = new_config(test);
	u8 bytes[CONFIG_SIZE];
	struct rnd_state rnd;
	int i;

	prandom_seed_state(&rnd, 0x2345);
	for (i = 0; i < 20000; i++) {
		u32 r = prandom_u32_state(&rnd);
		u64 pos = r % CONFIG_SIZE;
		size_t count = 1 + (r >> 8) % (CONFIG_SIZE - pos);

		if (r >> 31) {
			prandom_bytes_state(&rnd, bytes, count);
			do_write(test, config, pos, count, bytes);
		} else {
			expect_read(test, config, pos, count);
		}
	}
	expect_read(test, config, 0, CONFIG_SIZE);
}

/* A guest sizes a BAR so: it writes all ones, and reads the lowest bit that sticks. */
static void sizing(struct kunit *test)
{
	const struct layout *layout = test->param_value;
	struct config *config = new_config(test);
	unsigned int r;

	for (r = 0; r < layout->nr_regions; r++) {
		unsigned int bar = layout->regions[r].bar;

		write_bar(test, config, bar, U64_MAX);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar),
				-layout->regions[r].size | FLAGS);

		/* No bit below the size sticks. */
		write_bar(test, config, bar, layout->regions[r].size - 1);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar), FLAGS);

		write_bar(test, config, bar, 0);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar), FLAGS);
	}
}

/* Each half keeps its value when the other one is written. */
static void halves(struct kunit *test)
{
	const struct layout *layout = test->param_value;
	struct config *config = new_config(test);
	const u8 ones[4] = { 0xff, 0xff, 0xff, 0xff }, zeroes[4] = {};
	unsigned int r;

	for (r = 0; r < layout->nr_regions; r++) {
		unsigned int bar = layout->regions[r].bar, at = 0x10 + 4 * bar;
		u64 all = -layout->regions[r].size | FLAGS;

		do_write(test, config, at, 4, ones);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar), (u32)all);
		do_write(test, config, at + 4, 4, ones);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar), all);
		do_write(test, config, at, 4, zeroes);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar),
				(all & ~(u64)U32_MAX) | FLAGS);
	}
}

static void reset(struct kunit *test)
{
	const struct layout *layout = test->param_value;
	struct config *config = new_config(test);
	unsigned int r;

	for (r = 0; r < layout->nr_regions; r++)
		write_bar(test, config, layout->regions[r].bar, U64_MAX);

	nvgrace_gpu_config_reset(&config->nvdev);

	for (r = 0; r < layout->nr_regions; r++)
		KUNIT_EXPECT_EQ(test, read_bar(test, config,
					       layout->regions[r].bar), FLAGS);
}

struct bad_access {
	const char *name;
	u64 pos;
	size_t count;
};

/* All of a request lies in config space or none, a register of ours or not. */
static const struct bad_access bad_accesses[] = {
	{ "a byte too long", 0, CONFIG_SIZE + 1 },
	{ "all that can be asked for", 0, SIZE_MAX },
	{ "the first byte beyond", CONFIG_SIZE, 1 },
	{ "over the end", CONFIG_SIZE - 1, 2 },
	{ "from an emulated register over the end", 0x20, CONFIG_SIZE },
	{ "at the last offset of the region", VFIO_PCI_OFFSET_MASK, 1 },
	{ "that wraps", VFIO_PCI_OFFSET_MASK, SIZE_MAX },
};

static void beyond_config_space(struct kunit *test)
{
	struct config *config = new_config(test);
	int i;

	for (i = 0; i < ARRAY_SIZE(bad_accesses); i++) {
		const struct bad_access *a = &bad_accesses[i];

		KUNIT_EXPECT_EQ_MSG(test, -EFAULT,
				    config_access(test, config, a->pos, a->count, true),
				    "write %s", a->name);
		KUNIT_EXPECT_EQ_MSG(test, -EFAULT,
				    config_access(test, config, a->pos, a->count, false),
				    "read %s", a->name);
	}
	KUNIT_EXPECT_EQ(test, 0, config_access(test, config, 0x20, 0, true));
	KUNIT_EXPECT_EQ(test, 0, config_access(test, config, 0x20, 0, false));
	expect_read(test, config, 0, CONFIG_SIZE);
}

/* The tests of the power state have its capability here, beside the BARs. */
#define PM_CAP		0x30
#define PMCSR		(PM_CAP + PCI_PM_CTRL)

struct power_write {
	const char *name;
	u64 pos;
	size_t count;
	bool touches;
};

static const struct power_write power_writes[] = {
	{ "low byte", PMCSR, 1, true },
	{ "high byte", PMCSR + 1, 1, true },
	{ "word", PMCSR, 2, true },
	{ "capability", PM_CAP, 8, true },
	{ "all of config space", 0, CONFIG_SIZE, true },
	{ "byte before", PMCSR - 1, 1, false },
	{ "byte after", PMCSR + 2, 1, false },
	{ "up to it", 0, PMCSR, false },
	{ "from the byte after it", PMCSR + 2, CONFIG_SIZE - PMCSR - 2, false },
};

/* A write of the power state revokes the gate before and after, one write at a time. */
static void power_state_is_written(struct kunit *test)
{
	struct config *config = new_config(test);
	struct nvgrace_gpu_gate *gate = &config->nvdev.gate;
	int i;

	config->pdev.pm_cap = PM_CAP;
	for (i = 0; i < ARRAY_SIZE(power_writes); i++) {
		const struct power_write *w = &power_writes[i];
		enum nvgrace_gpu_ready_state want = w->touches ? NVGRACE_GPU_TRAINING :
								 NVGRACE_GPU_READY;

		gate->ready = NVGRACE_GPU_READY;
		gate->deadline = jiffies - 1;
		KUNIT_EXPECT_EQ_MSG(test, w->count,
				    config_access(test, config, w->pos, w->count, true),
				    "%s", w->name);
		KUNIT_EXPECT_EQ_MSG(test, config->held, w->touches, "%s", w->name);
		KUNIT_EXPECT_EQ_MSG(test, config->ready, want, "%s", w->name);
		KUNIT_EXPECT_EQ_MSG(test, gate->ready, want, "%s", w->name);
		KUNIT_EXPECT_EQ_MSG(test, time_after(gate->deadline, jiffies), w->touches,
				    "%s", w->name);
		KUNIT_EXPECT_EQ(test, 0, config->nvdev.gate.held);
	}

	/* Without the capability there is no such register. */
	config->pdev.pm_cap = 0;
	gate->ready = NVGRACE_GPU_READY;
	KUNIT_EXPECT_EQ(test, 8, config_access(test, config, 0, 8, true));
	KUNIT_EXPECT_EQ(test, gate->ready, NVGRACE_GPU_READY);
}

/* A bad buffer is -EFAULT, in the emulated registers and beside them. */
static void bad_buffer(struct kunit *test)
{
	struct config *config = new_config(test);
	u64 pos;

	vm_munmap((unsigned long)config->user, PAGE_SIZE);
	for (pos = 0; pos < CONFIG_SIZE; pos += 4) {
		KUNIT_EXPECT_EQ(test, -EFAULT, config_access(test, config, pos, 4, true));
		KUNIT_EXPECT_EQ(test, -EFAULT, config_access(test, config, pos, 4, false));
	}
}

/* Only the first half of the buffer is mapped: what was done before moves no position. */
static void buffer_ends_within_the_access(struct kunit *test)
{
	struct config *config = new_config(test);
	unsigned long user;
	u64 pos;

	user = kunit_vm_mmap(test, NULL, 0, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_ANONYMOUS | MAP_PRIVATE, 0);
	KUNIT_ASSERT_NE(test, 0, user);
	vm_munmap(user + PAGE_SIZE, PAGE_SIZE);
	config->user = (u8 __user *)(user + PAGE_SIZE - 4);

	for (pos = 0; pos < CONFIG_SIZE - 4; pos += 4) {
		KUNIT_EXPECT_EQ(test, -EFAULT, config_access(test, config, pos, 8, true));
		KUNIT_EXPECT_EQ(test, -EFAULT, config_access(test, config, pos, 8, false));
	}
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(every_offset_and_length, layout_gen_params),
	KUNIT_CASE_PARAM(random_accesses, layout_gen_params),
	KUNIT_CASE_PARAM(sizing, layout_gen_params),
	KUNIT_CASE_PARAM(halves, layout_gen_params),
	KUNIT_CASE_PARAM(reset, layout_gen_params),
	KUNIT_CASE_PARAM(beyond_config_space, layout_gen_params),
	KUNIT_CASE_PARAM(bad_buffer, layout_gen_params),
	KUNIT_CASE_PARAM(buffer_ends_within_the_access, layout_gen_params),
	KUNIT_CASE_PARAM(power_state_is_written, layout_gen_params),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_config",
	.test_cases = cases,
};

kunit_test_suite(suite);
