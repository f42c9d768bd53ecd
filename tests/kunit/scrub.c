// SPDX-License-Identifier: GPL-2.0-only
/*
 * scrub=1: which blocks are written, which pages are not, and what makes a scrub fail
 *
 * A piece of ordinary memory plays the GPU's memory here.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <kunit/test-bug.h>
#include <linux/sched/signal.h>
#include <linux/vmalloc.h>

#include "../../nvgrace_gpu.h"
#include "gate.h"

#define BLOCK	SZ_2M
/*
 * usemem begins and ends within a block; resmem begins there, and ends at the end of one. The
 * driver maps a GiB at a time: one ends with the first block.
 */
#define BASE	((60ULL << 40) + SZ_1G - 3 * PAGE_SIZE)
#define USEMEM	((size_t)(3 * PAGE_SIZE + BLOCK + 5 * PAGE_SIZE))
#define RESMEM	((size_t)(BLOCK - 5 * PAGE_SIZE))
#define ALL	(USEMEM + RESMEM)
#define DIRT	0xa5

enum reset { NO_RESET, BEFORE, DURING, HELD, AFTER };

struct fixture {
	struct nvgrace_gpu_device nvdev;
	struct pci_dev pdev;
	u8 *memory;		/* of ALL bytes */
	void *window[2][4];	/* of usemem and of resmem */
	unsigned int windows;	/* how many were mapped */
	enum reset reset;	/* when the GPU is reset */
	bool no_window;		/* nothing can be mapped */
	unsigned int gone_at;	/* the GPU answers that often */
	unsigned int polls;	/* how often the driver asked whether it does */
	int status;		/* of the registers */
};

static void reset_gpu(struct fixture *f, bool done)
{
	nvgrace_gpu_gate_revoke(&f->nvdev, NVGRACE_GPU_RESETTING);
	if (done)
		nvgrace_gpu_gate_revoke(&f->nvdev, NVGRACE_GPU_TRAINING);
}

static void *fake_map_window(phys_addr_t phys, size_t len, bool cacheable)
{
	struct kunit *test = kunit_get_current_test();
	struct fixture *f = test->priv;

	KUNIT_EXPECT_EQ(test, cacheable, phys < BASE + USEMEM);
	KUNIT_EXPECT_LE(test, phys - BASE + len, ALL);
	f->windows++;
	if (f->windows == 2 && (f->reset == DURING || f->reset == HELD))
		reset_gpu(f, f->reset == DURING);
	return f->no_window ? NULL : f->memory + (phys - BASE);
}

static bool fake_is_present(struct pci_dev *pdev)
{
	struct fixture *f = container_of(pdev, struct fixture, pdev);
	struct kunit *test = kunit_get_current_test();

	/* No reset can come between the writes and this. */
	KUNIT_EXPECT_TRUE(test, srcu_read_lock_held(&f->nvdev.gate.users));
	return f->polls++ != f->gone_at;
}

static int fake_read_status(struct nvgrace_gpu_device *nvdev,
			    struct nvgrace_gpu_status *status)
{
	return container_of(nvdev, struct fixture, nvdev)->status;
}

static int fixture_init(struct kunit *test)
{
	struct fixture *f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, f);
	test->priv = f;
	f->memory = vmalloc(ALL);
	KUNIT_ASSERT_NOT_NULL(test, f->memory);
	memset(f->memory, DIRT, ALL);
	f->gone_at = UINT_MAX;

	f->pdev.dev.init_name = "gpu";
	f->nvdev.core.pdev = &f->pdev;
	f->nvdev.nr_regions = 2;
	f->nvdev.regions[0] = (struct nvgrace_gpu_region) {
		.name = "usemem", .cacheable = true, .base = BASE, .backed = USEMEM,
		.windows = f->window[0],
	};
	f->nvdev.regions[1] = (struct nvgrace_gpu_region) {
		.name = "resmem", .base = BASE + USEMEM, .backed = RESMEM,
		.windows = f->window[1],
	};
	make_gate(test, &f->nvdev);
	xa_init(&f->nvdev.poison.pages);
	kunit_activate_static_stub(test, nvgrace_gpu_map_window, fake_map_window);
	kunit_activate_static_stub(test, nvgrace_gpu_is_present, fake_is_present);
	kunit_activate_static_stub(test, nvgrace_gpu_read_status, fake_read_status);
	return 0;
}

static void fixture_exit(struct kunit *test)
{
	struct fixture *f = test->priv;

	if (!f)
		return;
	/* The windows are pieces of the memory. memunmap() ignores those, which it did not map. */
	xa_destroy(&f->nvdev.poison.pages);
	nvgrace_gpu_scrub_exit(&f->nvdev);
	vfree(f->memory);
}

/* One thread's work, from begin to end. */
static int scrub(struct fixture *f)
{
	int ret;

	if (f->reset == BEFORE)
		reset_gpu(f, true);
	ret = nvgrace_gpu_scrub_begin(&f->nvdev);
	if (ret)
		return ret;
	nvgrace_gpu_scrub_blocks(&f->nvdev);
	if (f->reset == AFTER)
		reset_gpu(f, true);
	return nvgrace_gpu_scrub_end(&f->nvdev);
}

/* The first byte from FROM on that is not VALUE, ALL if there is none. */
static size_t first_other(const struct fixture *f, size_t from, u8 value)
{
	while (from < ALL && f->memory[from] == value)
		from++;
	return from;
}

/* Each byte of the regions is in one block, and no block is in two. */
static void blocks_cover_regions(struct kunit *test)
{
	struct fixture *f = test->priv;
	const struct nvgrace_gpu_region *region = NULL;
	phys_addr_t phys, next = BASE;
	unsigned long nr = 0;
	size_t len;

	while ((len = nvgrace_gpu_scrub_block(&f->nvdev, nr, &region, &phys))) {
		KUNIT_EXPECT_EQ(test, phys, next);
		KUNIT_EXPECT_GE(test, phys, region->base);
		KUNIT_EXPECT_LE(test, phys + len, region->base + region->backed);
		KUNIT_EXPECT_EQ(test, phys / BLOCK, (phys + len - 1) / BLOCK);
		next = phys + len;
		KUNIT_ASSERT_LT(test, nr++, 10);
	}
	KUNIT_EXPECT_EQ(test, next, BASE + ALL);
	KUNIT_EXPECT_EQ(test, nr, 4);

	/* The same without a carve-out, and aligned as firmware aligns it. */
	f->nvdev.nr_regions = 1;
	f->nvdev.regions[0].base = 60ULL << 40;
	f->nvdev.regions[0].backed = 2 * BLOCK;
	KUNIT_EXPECT_EQ(test, BLOCK, nvgrace_gpu_scrub_block(&f->nvdev, 1, &region, &phys));
	KUNIT_EXPECT_EQ(test, phys, (60ULL << 40) + BLOCK);
	KUNIT_EXPECT_EQ(test, 0, nvgrace_gpu_scrub_block(&f->nvdev, 2, &region, &phys));
	KUNIT_EXPECT_EQ(test, 0, nvgrace_gpu_scrub_block(&f->nvdev, ULONG_MAX, &region, &phys));
}

static void zeroes_all(struct kunit *test)
{
	struct fixture *f = test->priv;

	KUNIT_EXPECT_EQ(test, 0, scrub(f));
	KUNIT_EXPECT_EQ(test, ALL, first_other(f, 0, 0));
	KUNIT_EXPECT_EQ(test, ALL, atomic64_read(&f->nvdev.scrub.done));
	KUNIT_EXPECT_EQ(test, 0, atomic_long_read(&f->nvdev.scrub.skipped));
	/* The driver polls the GPU after each block. */
	KUNIT_EXPECT_EQ(test, 4, f->polls);
}

struct poison_case {
	const char *name;
	unsigned int pages[3];	/* counted from the first one; 0 ends the list */
};

/* Pages of the region, the first of which are at the end of a block. */
static const struct poison_case poison_cases[] = {
	{ "one", { 20 } },
	{ "last of a block", { 2 } },
	{ "first of a block", { 3 } },
	{ "neighbours", { 30, 31, 32 } },
	{ "neighbours in two blocks", { 2, 3 } },
	{ "one in each region", { 7, USEMEM / PAGE_SIZE } },
	{ "last", { ALL / PAGE_SIZE - 1 } },
};

KUNIT_ARRAY_PARAM_DESC(poison, poison_cases, name);

/* A poisoned page keeps each byte, and no other page keeps one. */
static void skips_poisoned_pages(struct kunit *test)
{
	const struct poison_case *c = test->param_value;
	struct fixture *f = test->priv;
	unsigned int i, nr;

	for (nr = 0; nr < ARRAY_SIZE(c->pages) && c->pages[nr]; nr++)
		xa_store(&f->nvdev.poison.pages, PHYS_PFN(BASE) + c->pages[nr],
			 xa_mk_value(1), GFP_KERNEL);
	KUNIT_EXPECT_EQ(test, 0, scrub(f));
	KUNIT_EXPECT_EQ(test, nr, atomic_long_read(&f->nvdev.scrub.skipped));

	for (i = 0; i < nr; i++) {
		size_t page = c->pages[i] * PAGE_SIZE;

		KUNIT_EXPECT_GE(test, first_other(f, page, DIRT), page + PAGE_SIZE);
		memset(f->memory + page, 0, PAGE_SIZE);
	}
	KUNIT_EXPECT_EQ(test, ALL, first_other(f, 0, 0));
}

struct reset_case {
	const char *name;
	enum reset reset;
	int ret;
};

static const struct reset_case reset_cases[] = {
	{ "none", NO_RESET, 0 },
	{ "before it", BEFORE, 0 },
	{ "between two blocks", DURING, -EAGAIN },
	{ "going on since", HELD, -EAGAIN },
	{ "after the last block", AFTER, -EAGAIN },
};

KUNIT_ARRAY_PARAM_DESC(reset, reset_cases, name);

static void fails_by_reset(struct kunit *test)
{
	const struct reset_case *c = test->param_value;
	struct fixture *f = test->priv;

	f->reset = c->reset;
	KUNIT_EXPECT_EQ(test, c->ret, scrub(f));
	/* The reset comes at usemem's second block, and nothing is written after it. */
	if (c->reset == DURING || c->reset == HELD) {
		KUNIT_EXPECT_STREQ(test, "usemem", f->nvdev.scrub.region->name);
		KUNIT_EXPECT_EQ(test, 3 * PAGE_SIZE, f->nvdev.scrub.offset);
		KUNIT_EXPECT_EQ(test, ALL, first_other(f, 3 * PAGE_SIZE, DIRT));
	}

	/* The next one can succeed. */
	f->reset = NO_RESET;
	f->nvdev.scrub.error = 0;
	atomic_long_set(&f->nvdev.scrub.next, 0);
	nvgrace_gpu_gate_revoke(&f->nvdev, NVGRACE_GPU_TRAINING);
	KUNIT_EXPECT_EQ(test, 0, scrub(f));
	KUNIT_EXPECT_EQ(test, ALL, first_other(f, 0, 0));
}

/* Writes to a GPU that is off the bus are dropped. */
static void fails_if_gpu_is_gone(struct kunit *test)
{
	struct fixture *f = test->priv;

	f->gone_at = 3;
	KUNIT_EXPECT_EQ(test, -ENODEV, scrub(f));
	KUNIT_EXPECT_STREQ(test, "resmem", f->nvdev.scrub.region->name);
	KUNIT_EXPECT_EQ(test, 0, f->nvdev.scrub.offset);
}

static void fails_without_window(struct kunit *test)
{
	struct fixture *f = test->priv;

	f->no_window = true;
	KUNIT_EXPECT_EQ(test, -ENOMEM, scrub(f));
	KUNIT_EXPECT_EQ(test, ALL, first_other(f, 0, DIRT));
}

static void fails_if_gpu_is_not_ready(struct kunit *test)
{
	struct fixture *f = test->priv;

	f->status = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO, scrub(f));
	KUNIT_EXPECT_EQ(test, ALL, first_other(f, 0, DIRT));
}

/* Only a clean device can be opened, and only a dirty one is scrubbed. */
static void open_takes_clean_memory(struct kunit *test)
{
	struct fixture *f = test->priv;
	atomic_t *state = &f->nvdev.scrub.state;

	/* scrub=0 */
	KUNIT_EXPECT_EQ(test, 0, nvgrace_gpu_scrub_get(&f->nvdev));
	KUNIT_EXPECT_FALSE(test, nvgrace_gpu_scrub_start(&f->nvdev));

	KUNIT_ASSERT_EQ(test, 0, nvgrace_gpu_scrub_init(&f->nvdev));
	atomic_set(state, NVGRACE_GPU_SCRUB_CLEAN);
	KUNIT_EXPECT_FALSE(test, nvgrace_gpu_scrub_start(&f->nvdev));
	KUNIT_EXPECT_EQ(test, 0, nvgrace_gpu_scrub_get(&f->nvdev));
	KUNIT_EXPECT_EQ(test, NVGRACE_GPU_SCRUB_IN_USE, atomic_read(state));
	KUNIT_EXPECT_FALSE(test, nvgrace_gpu_scrub_start(&f->nvdev));

	/* A scrub is going on, and the task that waits for it is killed. */
	atomic_set(state, NVGRACE_GPU_SCRUB_BUSY);
	KUNIT_EXPECT_FALSE(test, nvgrace_gpu_scrub_start(&f->nvdev));
	sigaddset(&current->pending.signal, SIGKILL);
	set_tsk_thread_flag(current, TIF_SIGPENDING);
	KUNIT_EXPECT_EQ(test, -EINTR, nvgrace_gpu_scrub_get(&f->nvdev));
	flush_signals(current);
	KUNIT_EXPECT_EQ(test, NVGRACE_GPU_SCRUB_BUSY, atomic_read(state));
}

static struct kunit_case cases[] = {
	KUNIT_CASE(blocks_cover_regions),
	KUNIT_CASE(zeroes_all),
	KUNIT_CASE_PARAM(skips_poisoned_pages, poison_gen_params),
	KUNIT_CASE_PARAM(fails_by_reset, reset_gen_params),
	KUNIT_CASE(fails_if_gpu_is_gone),
	KUNIT_CASE(fails_without_window),
	KUNIT_CASE(fails_if_gpu_is_not_ready),
	KUNIT_CASE(open_takes_clean_memory),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_scrub",
	.init = fixture_init,
	.exit = fixture_exit,
	.test_cases = cases,
};

kunit_test_suite(suite);
