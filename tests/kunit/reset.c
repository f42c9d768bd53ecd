// SPDX-License-Identifier: GPL-2.0-only
/*
 * Resets, PCI errors and power changes revoke the gate and clear the BAR registers. The tests
 * make the callbacks that the PCI core and runtime PM make
 */
#include <kunit/test.h>
#include <linux/jiffies.h>
#include <linux/pci.h>
#include <linux/pm.h>

#include "../../nvgrace_gpu.h"
#include "gate.h"

#define BAR_VALUE	SZ_2G

enum step {
	END,
	RESET_PREPARE,
	RESET_DONE,
	NON_FATAL,
	FATAL,
	FAILED,
	SLOT_RESET,
	RESUME,
	RUNTIME_RESUME,
	HOST_SUSPEND,
	HOST_RESUME,
};

struct fixture {
	struct nvgrace_gpu_device nvdev;
	struct pci_dev pdev;
};

static int fixture_init(struct kunit *test)
{
	struct fixture *f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, f);
	test->priv = f;
	spin_lock_init(&f->nvdev.bar_lock);
	make_gate(test, &f->nvdev);
	f->nvdev.core.vdev.inode = kunit_kzalloc(test, sizeof(struct inode), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f->nvdev.core.vdev.inode);
	address_space_init_once(&f->nvdev.core.vdev.inode->i_data);
	f->nvdev.core.vdev.inode->i_mapping = &f->nvdev.core.vdev.inode->i_data;
	f->nvdev.nr_regions = 1;
	f->nvdev.regions[0].index = VFIO_PCI_BAR4_REGION_INDEX;
	f->nvdev.regions[0].backed = SZ_1G;
	f->nvdev.regions[0].bar_value = BAR_VALUE;
	f->nvdev.core.pdev = &f->pdev;
	dev_set_drvdata(&f->pdev.dev, &f->nvdev.core);
	return 0;
}

static void do_step(struct fixture *f, enum step step)
{
	const struct pci_error_handlers *err = &nvgrace_gpu_err_handlers;
	const struct dev_pm_ops *pm = &nvgrace_gpu_pm_ops;
	struct pci_dev *pdev = &f->pdev;

	switch (step) {
	case END:
		break;
	case RESET_PREPARE:
		err->reset_prepare(pdev);
		break;
	case RESET_DONE:
		err->reset_done(pdev);
		break;
	case NON_FATAL:
		err->error_detected(pdev, pci_channel_io_normal);
		break;
	case FATAL:
		err->error_detected(pdev, pci_channel_io_frozen);
		break;
	case FAILED:
		err->error_detected(pdev, pci_channel_io_perm_failure);
		break;
	case SLOT_RESET:
		err->slot_reset(pdev);
		break;
	case RESUME:
		err->resume(pdev);
		break;
	case RUNTIME_RESUME:
		pm->runtime_resume(&pdev->dev);
		break;
	case HOST_SUSPEND:
		pm->suspend(&pdev->dev);
		break;
	case HOST_RESUME:
		pm->resume(&pdev->dev);
		break;
	}
}

struct sequence {
	const char *name;
	enum step steps[4];
	/* Before the last step, and after it. */
	enum nvgrace_gpu_ready_state before, after;
	bool resets;
};

static const struct sequence sequences[] = {
	{ "reset", { RESET_PREPARE, RESET_DONE },
	  NVGRACE_GPU_RESETTING, NVGRACE_GPU_TRAINING, true },
	{ "reset that was not announced", { RESET_DONE },
	  NVGRACE_GPU_READY, NVGRACE_GPU_TRAINING, true },
	/* AER resets the link, and makes callbacks only before and after that. */
	{ "fatal error", { FATAL, RESUME },
	  NVGRACE_GPU_RESETTING, NVGRACE_GPU_TRAINING, true },
	{ "fatal error, slot reset", { FATAL, SLOT_RESET, RESUME },
	  NVGRACE_GPU_RESETTING, NVGRACE_GPU_TRAINING, true },
	{ "fatal error, failed", { FATAL, FAILED },
	  NVGRACE_GPU_RESETTING, NVGRACE_GPU_TRAINING, true },
	/* Whether the bus is reset depends on the neighbours. */
	{ "non-fatal error", { NON_FATAL, RESUME },
	  NVGRACE_GPU_RESETTING, NVGRACE_GPU_TRAINING, false },
	{ "non-fatal error, bus reset", { NON_FATAL, SLOT_RESET, RESUME },
	  NVGRACE_GPU_RESETTING, NVGRACE_GPU_TRAINING, true },
	{ "non-fatal error, failed", { NON_FATAL, FAILED },
	  NVGRACE_GPU_RESETTING, NVGRACE_GPU_TRAINING, false },
	{ "non-fatal error after a fatal one", { FATAL, NON_FATAL, RESUME },
	  NVGRACE_GPU_RESETTING, NVGRACE_GPU_TRAINING, false },
	/* The user resets the GPU first, and AER does later. */
	{ "user's reset before AER's", { FATAL, RESET_PREPARE, RESET_DONE, RESUME },
	  NVGRACE_GPU_TRAINING, NVGRACE_GPU_TRAINING, true },
	{ "runtime resume", { RUNTIME_RESUME },
	  NVGRACE_GPU_READY, NVGRACE_GPU_TRAINING, false },
	/* Runtime PM does not end a reset. */
	{ "runtime resume in a reset", { RESET_PREPARE, RUNTIME_RESUME },
	  NVGRACE_GPU_RESETTING, NVGRACE_GPU_RESETTING, false },
	{ "host suspend", { HOST_SUSPEND, HOST_RESUME },
	  NVGRACE_GPU_RESETTING, NVGRACE_GPU_TRAINING, false },
};

KUNIT_ARRAY_PARAM_DESC(sequence, sequences, name);

/* The gate is READY at first. A state that begins has all of its time. */
static void callbacks(struct kunit *test)
{
	const struct sequence *s = test->param_value;
	struct nvgrace_gpu_gate *gate;
	struct fixture *f = test->priv;
	int i, last = 0;
	long left;

	if (s->steps[0] == HOST_SUSPEND && !IS_ENABLED(CONFIG_PM_SLEEP))
		kunit_skip(test, "the kernel has no SUSPEND");

	gate = &f->nvdev.gate;
	while (last < ARRAY_SIZE(s->steps) - 1 && s->steps[last + 1] != END)
		last++;

	gate->ready = NVGRACE_GPU_READY;
	for (i = 0; i < last; i++)
		do_step(f, s->steps[i]);
	KUNIT_EXPECT_EQ(test, gate->ready, s->before);
	/* The PCI core waits 60 s for a device that comes out of reset. */
	if (gate->ready == NVGRACE_GPU_RESETTING)
		KUNIT_EXPECT_GT(test, gate->deadline, jiffies + 80 * HZ);

	if (s->after == NVGRACE_GPU_TRAINING)
		gate->deadline = jiffies - 1;
	do_step(f, s->steps[last]);
	KUNIT_EXPECT_EQ(test, gate->ready, s->after);
	left = gate->deadline - jiffies;
	KUNIT_EXPECT_GT(test, left, 25L * HZ);
	if (s->after == NVGRACE_GPU_TRAINING)
		KUNIT_EXPECT_LE(test, left, 30L * HZ);

	KUNIT_EXPECT_EQ(test, s->resets, !!atomic_long_read(&f->nvdev.stats.resets));
	KUNIT_EXPECT_EQ(test, f->nvdev.regions[0].bar_value, s->resets ? 0 : BAR_VALUE);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(callbacks, sequence_gen_params),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_reset",
	.init = fixture_init,
	.test_cases = cases,
};

kunit_test_suite(suite);
