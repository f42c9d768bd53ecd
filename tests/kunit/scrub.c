// SPDX-License-Identifier: GPL-2.0-only
/*
 * scrub=1: what a scrub writes, and when it fails
 *
 * The threads are real. Pieces of a buffer stand in for the windows, so they need no stub.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <kunit/test-bug.h>
#include <linux/pci.h>
#include <linux/sched/signal.h>
#include <linux/vmalloc.h>

#include "../../nvgrace_gpu.h"
#include "gate.h"

#define BLOCK	SZ_2M
/*
 * usemem begins and ends within a block; resmem begins there, and ends at the end of one. A
 * piece of a thread ends with the first block.
 */
#define BASE	((60ULL << 40) + SZ_1G - 3 * PAGE_SIZE)
#define USEMEM	((size_t)(3 * PAGE_SIZE + BLOCK + 5 * PAGE_SIZE))
#define RESMEM	((size_t)(BLOCK - 5 * PAGE_SIZE))
#define ALL	(USEMEM + RESMEM)
#define DIRT	0xa5

struct fixture {
	struct nvgrace_gpu_device nvdev;
	struct pci_dev pdev;
	u8 *memory;		/* a page, ALL bytes, and a page */
	void *window[2][4];	/* of usemem and of resmem */
	unsigned int polls;	/* reads of the registers */
	unsigned int fail_at;	/* from this read on they say RESULT... */
	unsigned int fail_end;	/* ...before this one */
	int result;
	unsigned int reset_at;	/* before this read others reset the GPU... */
	unsigned int reset_end;	/* ...and before each one up to this */
};

static int fake_read_status(struct nvgrace_gpu_device *nvdev, struct nvgrace_gpu_status *status)
{
	struct fixture *f = container_of(nvdev, struct fixture, nvdev);
	unsigned int poll = ++f->polls;

	if (poll >= f->reset_at && poll < f->reset_end)
		nvdev->gate.revokes++;
	return poll >= f->fail_at && poll < f->fail_end ? f->result : 0;
}

static int fixture_init(struct kunit *test)
{
	struct fixture *f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	u8 *memory;

	KUNIT_ASSERT_NOT_NULL(test, f);
	test->priv = f;
	f->memory = vmalloc(ALL + 2 * PAGE_SIZE);
	KUNIT_ASSERT_NOT_NULL(test, f->memory);
	memset(f->memory, DIRT, ALL + 2 * PAGE_SIZE);
	memory = f->memory + PAGE_SIZE;

	f->pdev.dev.init_name = "gpu";
	f->nvdev.core.pdev = &f->pdev;
	f->nvdev.core.reset_works = true;
	f->nvdev.nr_regions = 2;
	f->nvdev.regions[0] = (struct nvgrace_gpu_region) {
		.name = "usemem", .cacheable = true, .base = BASE, .backed = USEMEM,
		.windows = f->window[0],
	};
	f->nvdev.regions[1] = (struct nvgrace_gpu_region) {
		.name = "resmem", .base = BASE + USEMEM, .backed = RESMEM,
		.windows = f->window[1],
	};
	/* A window is at most a GiB, and less with KASAN: but the next one begins with the GiB. */
	f->window[0][0] = memory;
	f->window[0][1] = memory + 3 * PAGE_SIZE;
	f->window[1][0] = memory + USEMEM;
	make_gate(test, &f->nvdev);
	nvgrace_gpu_gate_retrain(&f->nvdev);
	xa_init(&f->nvdev.poison.pages);
	kunit_activate_static_stub(test, nvgrace_gpu_read_status, fake_read_status);
	return 0;
}

static void fixture_exit(struct kunit *test)
{
	struct fixture *f = test->priv;

	if (!f)
		return;
	xa_destroy(&f->nvdev.poison.pages);
	vfree(f->memory);
}

/* The first byte of the regions that is not VALUE, ALL if there is none. */
static size_t first_other(const struct fixture *f, u8 value)
{
	size_t i = 0;

	while (i < ALL && f->memory[PAGE_SIZE + i] == value)
		i++;
	return i;
}

static void zeroes_all(struct kunit *test)
{
	struct fixture *f = test->priv;

	/* A poisoned page is written, too. */
	xa_store(&f->nvdev.poison.pages, PHYS_PFN(BASE) + 20, xa_mk_value(1), GFP_KERNEL);
	KUNIT_EXPECT_EQ(test, 0, nvgrace_gpu_scrub(&f->nvdev));
	KUNIT_EXPECT_EQ(test, ALL, first_other(f, 0));
	/* Each byte once, and none beside the regions. */
	KUNIT_EXPECT_EQ(test, ALL, atomic64_read(&f->nvdev.zeroed));
	KUNIT_EXPECT_EQ(test, f->memory[PAGE_SIZE - 1], DIRT);
	KUNIT_EXPECT_EQ(test, f->memory[PAGE_SIZE + ALL], DIRT);
	/* The driver polls the registers before the first byte and after the last one. */
	KUNIT_EXPECT_EQ(test, 2, f->polls);
	KUNIT_EXPECT_NOT_NULL(test, xa_load(&f->nvdev.poison.pages, PHYS_PFN(BASE) + 20));
}

struct failure {
	const char *name;
	unsigned int reset_at, reset_end;
	unsigned int fail_at, fail_end;
	int result;
	int ret;
	unsigned int polls;
};

static const struct failure failures[] = {
	{ "reset before the end", 2, 3, 0, 0, 0, 0, 3 },
	{ "a reset in each try", 1, UINT_MAX, 0, 0, 0, -EIO, 3 },
	{ "link failed at the end", 0, 0, 2, UINT_MAX, -ENOLINK, -EIO, 3 },
	{ "link failed, and is back", 0, 0, 2, 3, -ENOLINK, 0, 4 },
	/* As far as the PCI core knows; a GPU that only does not answer may come back. */
	{ "gone at the end", 0, 0, 2, UINT_MAX, -ENODEV, -EIO, 3 },
	{ "does not answer for a while", 0, 0, 2, 5, -ENODEV, 0, 6 },
	{ "trains again at the end", 0, 0, 2, 4, -EAGAIN, 0, 5 },
	{ "never ready", 0, 0, 1, UINT_MAX, -ENOLINK, -EIO, 2 },
};

KUNIT_ARRAY_PARAM_DESC(failure, failures, name);

/* Zeroes that may be lost are written again, once. */
static void second_try(struct kunit *test)
{
	const struct failure *c = test->param_value;
	struct fixture *f = test->priv;

	f->reset_at = c->reset_at;
	f->reset_end = c->reset_end;
	f->fail_at = c->fail_at;
	f->fail_end = c->fail_end;
	f->result = c->result;
	if (c->result == -ENODEV && c->ret)
		f->pdev.error_state = pci_channel_io_perm_failure;
	KUNIT_EXPECT_EQ(test, c->ret, nvgrace_gpu_scrub(&f->nvdev));
	KUNIT_EXPECT_EQ(test, c->polls, f->polls);
	if (!c->ret) {
		KUNIT_EXPECT_EQ(test, ALL, first_other(f, 0));
		KUNIT_EXPECT_EQ(test, ALL, atomic64_read(&f->nvdev.zeroed));
	}
}

/* The engines of a GPU that was not reset may write behind the zeroes. */
static void gpu_was_not_reset(struct kunit *test)
{
	struct fixture *f = test->priv;

	f->nvdev.core.reset_works = false;
	KUNIT_EXPECT_EQ(test, -EIO, nvgrace_gpu_scrub(&f->nvdev));
	KUNIT_EXPECT_EQ(test, 0, f->polls);
	KUNIT_EXPECT_EQ(test, ALL, first_other(f, DIRT));
}

static void opener_is_killed(struct kunit *test)
{
	struct fixture *f = test->priv;

	f->fail_at = 1;
	f->fail_end = UINT_MAX;
	f->result = -EAGAIN;
	sigaddset(&current->pending.signal, SIGKILL);
	set_tsk_thread_flag(current, TIF_SIGPENDING);
	KUNIT_EXPECT_EQ(test, -EINTR, nvgrace_gpu_scrub(&f->nvdev));
	flush_signals(current);
	KUNIT_EXPECT_EQ(test, ALL, first_other(f, DIRT));
}

static struct kunit_case cases[] = {
	KUNIT_CASE(zeroes_all),
	KUNIT_CASE_PARAM(second_try, failure_gen_params),
	KUNIT_CASE(gpu_was_not_reset),
	KUNIT_CASE(opener_is_killed),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_scrub",
	.init = fixture_init,
	.exit = fixture_exit,
	.test_cases = cases,
};

kunit_test_suite(suite);
