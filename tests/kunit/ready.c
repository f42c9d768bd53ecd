// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whether the GPU needs a carve-out, by what its DVSEC says, and whether its memory
 * can be used, by what is known of it and what its registers say
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <kunit/test-bug.h>
#include <linux/jiffies.h>

#include "../../nvgrace_gpu.h"

/*
 * What stands in for the GPU: the pci_dev comes first, so that the stub finds
 * the rest by it.
 */
struct fake_gpu {
	struct pci_dev pdev;
	u16 dvsec;
	u16 flags;
};

static u16 fake_read_dvsec(struct pci_dev *pdev, u16 *flags)
{
	struct fake_gpu *gpu = container_of(pdev, struct fake_gpu, pdev);

	/* As the driver has it, the flags mean nothing without a DVSEC. */
	if (gpu->dvsec)
		*flags = gpu->flags;
	return gpu->dvsec;
}

struct dvsec_case {
	const char *name;
	u16 dvsec;
	u16 flags;
	int ret;
};

/* Bit 0 says "no defect"; the other bits are not ours to interpret. */
static const struct dvsec_case dvsec_cases[] = {
	{ "no DVSEC", 0, 0, 1 },
	{ "defect", 0x400, 0x0000, 1 },
	{ "no defect", 0x400, 0x0001, 0 },
	{ "only the bit after it", 0x400, 0x0002, 1 },
	{ "all but the bit", 0x400, 0xfffe, 1 },
	{ "all but the last bit", 0x400, 0x7fff, 0 },
	{ "first place that a DVSEC can have", 0x100, 0x0001, 0 },
	{ "last place that a DVSEC can have", 0xff4, 0x0001, 0 },
	/* All ones is what a read gives that nobody answered. */
	{ "cannot be read", 0x400, 0xffff, -EIO },
};

KUNIT_ARRAY_PARAM_DESC(dvsec, dvsec_cases, name);

static void carve_out_by_dvsec(struct kunit *test)
{
	const struct dvsec_case *c = test->param_value;
	struct fake_gpu *gpu;

	gpu = kunit_kzalloc(test, sizeof(*gpu), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, gpu);
	gpu->pdev.dev.init_name = "gpu";
	gpu->dvsec = c->dvsec;
	gpu->flags = c->flags;

	kunit_activate_static_stub(test, nvgrace_gpu_read_dvsec,
				   fake_read_dvsec);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_needs_carve_out(&gpu->pdev), c->ret);
}

/* ---- Can the memory be used? ---- */

struct waiting_gpu {
	struct nvgrace_gpu_device nvdev;
	struct pci_dev pdev;
	int result;		/* of a look at the registers */
	unsigned int busy;	/* looks that find it not ready before that */
	unsigned int looks;
};

static int fake_look(struct nvgrace_gpu_device *nvdev,
		     struct nvgrace_gpu_status *status)
{
	struct waiting_gpu *gpu = container_of(nvdev, struct waiting_gpu, nvdev);

	/* The user is kept from BAR0 and config space, resets are kept out. */
	KUNIT_EXPECT_TRUE(kunit_get_current_test(),
			  rwsem_is_locked(&nvdev->core.memory_lock));
	KUNIT_EXPECT_FALSE(kunit_get_current_test(),
			   down_read_trylock(&nvdev->core.memory_lock));
	KUNIT_EXPECT_FALSE(kunit_get_current_test(),
			   down_write_trylock(&nvdev->gate.ready_lock));

	return gpu->looks++ < gpu->busy ? -EAGAIN : gpu->result;
}

static struct waiting_gpu *new_gpu(struct kunit *test,
				   enum nvgrace_gpu_ready_state state)
{
	struct waiting_gpu *gpu = kunit_kzalloc(test, sizeof(*gpu), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, gpu);
	init_rwsem(&gpu->nvdev.core.memory_lock);
	init_rwsem(&gpu->nvdev.gate.ready_lock);
	gpu->pdev.dev.init_name = "gpu";
	gpu->nvdev.core.pdev = &gpu->pdev;
	nvgrace_gpu_ready_lost(&gpu->nvdev, NVGRACE_GPU_TRAINING);
	gpu->nvdev.gate.ready = state;
	kunit_activate_static_stub(test, nvgrace_gpu_read_status, fake_look);
	return gpu;
}

struct poll_case {
	const char *name;
	enum nvgrace_gpu_ready_state state;
	int look;
	bool late;
	int ret;
	enum nvgrace_gpu_ready_state after;
	unsigned int looks;
};

static const struct poll_case poll_cases[] = {
	{ "ready", NVGRACE_GPU_READY, -ENODEV, false, 0, NVGRACE_GPU_READY, 0 },
	{ "ready long since", NVGRACE_GPU_READY, -ENODEV, true, 0, NVGRACE_GPU_READY, 0 },
	{ "gets ready", NVGRACE_GPU_TRAINING, 0, false, 0, NVGRACE_GPU_READY, 1 },
	{ "gets ready after the limit", NVGRACE_GPU_TRAINING, 0, true, 0,
	  NVGRACE_GPU_READY, 1 },
	{ "not yet", NVGRACE_GPU_TRAINING, -EAGAIN, false, -EAGAIN,
	  NVGRACE_GPU_TRAINING, 1 },
	{ "never", NVGRACE_GPU_TRAINING, -EAGAIN, true, -EIO, NVGRACE_GPU_TRAINING, 1 },
	{ "in D3", NVGRACE_GPU_TRAINING, -EIO, false, -EIO, NVGRACE_GPU_TRAINING, 1 },
	{ "gone", NVGRACE_GPU_TRAINING, -ENODEV, false, -EIO, NVGRACE_GPU_TRAINING, 1 },
	/* What the registers say before the reset means nothing after it. */
	{ "in reset", NVGRACE_GPU_RESETTING, 0, false, -EAGAIN, NVGRACE_GPU_RESETTING, 0 },
	{ "in reset for ever", NVGRACE_GPU_RESETTING, -EAGAIN, true, -EIO,
	  NVGRACE_GPU_RESETTING, 1 },
	{ "reset was not seen to end", NVGRACE_GPU_RESETTING, 0, true, 0,
	  NVGRACE_GPU_READY, 1 },
};

KUNIT_ARRAY_PARAM_DESC(poll, poll_cases, name);

static void look_once(struct kunit *test)
{
	const struct poll_case *c = test->param_value;
	struct waiting_gpu *gpu = new_gpu(test, c->state);

	gpu->result = c->look;
	if (c->late)
		gpu->nvdev.gate.deadline = jiffies;
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_poll_ready(&gpu->nvdev), c->ret);
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.ready, c->after);
	KUNIT_EXPECT_EQ(test, gpu->looks, c->looks);
	KUNIT_EXPECT_FALSE(test, rwsem_is_locked(&gpu->nvdev.core.memory_lock));
	KUNIT_EXPECT_FALSE(test, rwsem_is_locked(&gpu->nvdev.gate.ready_lock));
}

struct unknown_case {
	const char *name;
	enum nvgrace_gpu_ready_state before, after;
	bool anew;
};

static const struct unknown_case unknown_cases[] = {
	{ "ready", NVGRACE_GPU_READY, NVGRACE_GPU_TRAINING, true },
	{ "not ready", NVGRACE_GPU_TRAINING, NVGRACE_GPU_TRAINING, true },
	{ "in reset", NVGRACE_GPU_RESETTING, NVGRACE_GPU_RESETTING, false },
};

KUNIT_ARRAY_PARAM_DESC(unknown, unknown_cases, name);

/* D3 makes the time that it has begin anew, and does not end a reset. */
static void unknown_after_d3(struct kunit *test)
{
	const struct unknown_case *c = test->param_value;
	struct waiting_gpu *gpu = new_gpu(test, c->before);
	unsigned long limit = jiffies - 1;

	gpu->nvdev.gate.deadline = limit;
	nvgrace_gpu_ready_unknown(&gpu->nvdev);
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.ready, c->after);
	KUNIT_EXPECT_EQ(test, c->anew, gpu->nvdev.gate.deadline != limit);
	KUNIT_EXPECT_FALSE(test, rwsem_is_locked(&gpu->nvdev.gate.ready_lock));
}

/* A reset holds the lock for seconds; nobody queues up behind it. */
static void lock_is_not_waited_for(struct kunit *test)
{
	struct waiting_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);

	down_write(&gpu->nvdev.core.memory_lock);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_poll_ready(&gpu->nvdev), -EBUSY);
	up_write(&gpu->nvdev.core.memory_lock);
	KUNIT_EXPECT_EQ(test, gpu->looks, 0);
}

static void wait_for_it(struct kunit *test)
{
	struct waiting_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);

	gpu->busy = 4;
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_wait_ready(&gpu->nvdev), 0);
	KUNIT_EXPECT_EQ(test, gpu->looks, 5);
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.ready, NVGRACE_GPU_READY);

	/* No need to look again, until it is lost again. */
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_wait_ready(&gpu->nvdev), 0);
	KUNIT_EXPECT_EQ(test, gpu->looks, 5);
	nvgrace_gpu_ready_lost(&gpu->nvdev, NVGRACE_GPU_TRAINING);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_wait_ready(&gpu->nvdev), 0);
	KUNIT_EXPECT_EQ(test, gpu->looks, 6);
}

/* The limit counts from the reset, and there is a last look after it. */
static void wait_has_a_limit(struct kunit *test)
{
	struct waiting_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);
	unsigned long start = jiffies;

	KUNIT_EXPECT_LE(test, gpu->nvdev.gate.deadline - jiffies,
			msecs_to_jiffies(30000));
	KUNIT_EXPECT_GT(test, gpu->nvdev.gate.deadline - jiffies,
			msecs_to_jiffies(20000));

	gpu->busy = UINT_MAX;
	gpu->nvdev.gate.deadline = jiffies + msecs_to_jiffies(50);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_wait_ready(&gpu->nvdev), -EIO);
	KUNIT_EXPECT_TRUE(test, time_after_eq(jiffies, start + msecs_to_jiffies(50)));
	/* 1, 2, 4, 8, 16 and 32 ms between them, more or less. */
	KUNIT_EXPECT_GE(test, gpu->looks, 3);
	KUNIT_EXPECT_LE(test, gpu->looks, 8);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_wait_ready(&gpu->nvdev), -EIO);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(carve_out_by_dvsec, dvsec_gen_params),
	KUNIT_CASE_PARAM(look_once, poll_gen_params),
	KUNIT_CASE_PARAM(unknown_after_d3, unknown_gen_params),
	KUNIT_CASE(lock_is_not_waited_for),
	KUNIT_CASE(wait_for_it),
	KUNIT_CASE(wait_has_a_limit),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_ready",
	.test_cases = cases,
};

kunit_test_suite(suite);
