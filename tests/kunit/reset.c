// SPDX-License-Identifier: GPL-2.0-only
/*
 * Resets, PCI errors and power changes revoke the gate and clear the BAR registers. The tests
 * make the callbacks that the PCI core and runtime PM make
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <kunit/test-bug.h>
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
	LINK_RESET,		/* of which no callback tells */
	PULLED,			/* config space reads all ones */
	RESUME,
	RUNTIME_SUSPEND,
	RUNTIME_RESUME,
	HOST_SUSPEND,
	HOST_RESUME,
};

struct fixture {
	struct nvgrace_gpu_device nvdev;
	struct pci_dev pdev;
	bool lost_bar0;
	bool gone;
	unsigned int restores;
	unsigned int bus_calls;
	enum nvgrace_gpu_ready_state at_bus_call;
	int bus_ret;
};

static bool fake_has_bar0(struct pci_dev *pdev)
{
	return !container_of(pdev, struct fixture, pdev)->lost_bar0;
}

static bool fake_is_present(struct pci_dev *pdev)
{
	return !container_of(pdev, struct fixture, pdev)->gone;
}

static void fake_restore_config(struct nvgrace_gpu_device *nvdev)
{
	container_of(nvdev, struct fixture, nvdev)->restores++;
}

static int bus_call(struct device *dev)
{
	struct fixture *f = container_of(to_pci_dev(dev), struct fixture, pdev);

	f->bus_calls++;
	f->at_bus_call = f->nvdev.gate.ready;
	return f->bus_ret;
}

static void bus_complete(struct device *dev)
{
	bus_call(dev);
}

static const struct dev_pm_ops bus_pm = {
	.prepare = bus_call,
	.complete = bus_complete,
	.suspend_noirq = bus_call,
	.runtime_suspend = bus_call,
	.runtime_resume = bus_call,
};

static const struct bus_type bus = {
	.pm = &bus_pm,
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

	f->pdev.dev.bus = &bus;
	spin_lock_init(&f->pdev.dev.power.lock);
	nvgrace_gpu_pm_init(&f->nvdev);

	kunit_activate_static_stub(test, nvgrace_gpu_has_bar0, fake_has_bar0);
	kunit_activate_static_stub(test, nvgrace_gpu_is_present, fake_is_present);
	kunit_activate_static_stub(test, nvgrace_gpu_restore_config, fake_restore_config);
	return 0;
}

static void do_step(struct fixture *f, enum step step)
{
	const struct pci_error_handlers *err = &nvgrace_gpu_err_handlers;
	const struct dev_pm_ops *pm = &f->nvdev.pm_domain.ops;
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
	case LINK_RESET:
		f->lost_bar0 = true;
		break;
	case PULLED:
		f->lost_bar0 = true;
		f->gone = true;
		break;
	case RESUME:
		err->resume(pdev);
		break;
	case RUNTIME_SUSPEND:
		pm->runtime_suspend(&pdev->dev);
		break;
	case RUNTIME_RESUME:
		pm->runtime_resume(&pdev->dev);
		break;
	case HOST_SUSPEND:
		pm->prepare(&pdev->dev);
		break;
	case HOST_RESUME:
		pm->complete(&pdev->dev);
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

#define READY		NVGRACE_GPU_READY
#define TRAINING	NVGRACE_GPU_TRAINING
#define RESETTING	NVGRACE_GPU_RESETTING
#define RECOVERING	NVGRACE_GPU_RECOVERING

static const struct sequence sequences[] = {
	{ "reset", { RESET_PREPARE, RESET_DONE }, RESETTING, TRAINING, true },
	{ "reset that was not announced", { RESET_DONE }, READY, TRAINING, true },
	/* The recovery resets the link, and makes callbacks only before and after that. */
	{ "fatal error", { FATAL, LINK_RESET, RESUME }, RESETTING, TRAINING, true },
	{ "fatal error, failed", { FATAL, FAILED }, RESETTING, TRAINING, false },
	{ "fatal error, failed after the reset", { FATAL, LINK_RESET, FAILED },
	  RESETTING, TRAINING, true },
	{ "fatal error, the GPU is gone", { FATAL, PULLED, FAILED }, RESETTING, TRAINING, false },
	/* 6.12 calls .slot_reset without a reset. Newer kernels reset for a neighbour. */
	{ "non-fatal error", { NON_FATAL, RESUME }, RECOVERING, TRAINING, false },
	{ "non-fatal error, bus reset", { NON_FATAL, LINK_RESET, RESUME },
	  RECOVERING, TRAINING, true },
	{ "non-fatal error, failed", { NON_FATAL, FAILED }, RECOVERING, TRAINING, false },
	{ "non-fatal error, then a fatal one", { NON_FATAL, FATAL, LINK_RESET, RESUME },
	  RESETTING, TRAINING, true },
	/* The VFIO user resets the GPU first, and the PCI core does not. */
	{ "user's reset in a recovery", { FATAL, RESET_PREPARE, RESET_DONE, RESUME },
	  TRAINING, TRAINING, true },
	{ "runtime suspend", { RUNTIME_SUSPEND }, READY, TRAINING, false },
	{ "runtime resume", { RUNTIME_RESUME }, READY, TRAINING, false },
	/* Runtime PM does not end a reset. */
	{ "runtime suspend in a reset", { RESET_PREPARE, RUNTIME_SUSPEND },
	  RESETTING, RESETTING, false },
	{ "runtime resume in a reset", { RESET_PREPARE, RUNTIME_RESUME },
	  RESETTING, RESETTING, false },
	{ "host suspend", { HOST_SUSPEND, HOST_RESUME }, RESETTING, TRAINING, false },
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

	gate = &f->nvdev.gate;
	while (last < ARRAY_SIZE(s->steps) - 1 && s->steps[last + 1] != END)
		last++;

	gate->ready = READY;
	for (i = 0; i < last; i++)
		do_step(f, s->steps[i]);
	KUNIT_EXPECT_EQ(test, gate->ready, s->before);
	/* The PCI core waits 60 s for a device that comes out of reset. */
	if (gate->ready == RESETTING)
		KUNIT_EXPECT_GT(test, gate->deadline, jiffies + 80 * HZ);
	/* No kernel takes that long for an error after which the GPU works. */
	if (gate->ready == RECOVERING)
		KUNIT_EXPECT_LE(test, gate->deadline, jiffies + 5 * HZ);

	if (s->after == TRAINING)
		gate->deadline = jiffies - 1;
	do_step(f, s->steps[last]);
	KUNIT_EXPECT_EQ(test, gate->ready, s->after);
	left = gate->deadline - jiffies;
	KUNIT_EXPECT_GT(test, left, 25L * HZ);
	if (s->after == TRAINING)
		KUNIT_EXPECT_LE(test, left, 30L * HZ);

	KUNIT_EXPECT_EQ(test, s->resets, !!atomic_long_read(&f->nvdev.resets));
	KUNIT_EXPECT_EQ(test, f->nvdev.regions[0].bar_value, s->resets ? 0 : BAR_VALUE);
	KUNIT_EXPECT_EQ(test, f->restores, s->resets);
}

/* The VMM restores an open GPU, and learns from the BARs that it has to. */
static void open_gpu_is_not_restored(struct kunit *test)
{
	struct fixture *f = test->priv;

	f->nvdev.is_open = true;
	do_step(f, FATAL);
	do_step(f, LINK_RESET);
	do_step(f, RESUME);
	do_step(f, RESET_PREPARE);
	do_step(f, RESET_DONE);
	KUNIT_EXPECT_EQ(test, f->restores, 0);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&f->nvdev.resets), 2);
}

struct power_change {
	const char *name;
	enum step step;
	enum nvgrace_gpu_ready_state at_bus_call;
};

/* The memory must not be used from before the device sleeps until after it is awake. */
static const struct power_change power_changes[] = {
	{ "runtime suspend", RUNTIME_SUSPEND, TRAINING },
	{ "runtime resume", RUNTIME_RESUME, TRAINING },
	{ "host suspend", HOST_SUSPEND, READY },
	{ "host resume", HOST_RESUME, READY },
};

KUNIT_ARRAY_PARAM_DESC(power_change, power_changes, name);

/* The PCI bus's operations run as without the driver's, once each. */
static void bus_operations_are_called(struct kunit *test)
{
	const struct power_change *c = test->param_value;
	struct fixture *f = test->priv;

	KUNIT_EXPECT_PTR_EQ(test, f->pdev.dev.pm_domain, &f->nvdev.pm_domain);
	KUNIT_EXPECT_TRUE(test, f->nvdev.pm_domain.ops.suspend_noirq == bus_call);
	f->nvdev.gate.ready = READY;
	do_step(f, c->step);
	KUNIT_EXPECT_EQ(test, f->bus_calls, 1);
	KUNIT_EXPECT_EQ(test, f->at_bus_call, c->at_bus_call);
	KUNIT_EXPECT_NE(test, f->nvdev.gate.ready, READY);

	nvgrace_gpu_pm_exit(&f->nvdev);
	KUNIT_EXPECT_NULL(test, f->pdev.dev.pm_domain);
}

/* The PM core does not call .complete of a device whose .prepare failed. */
static void prepare_fails(struct kunit *test)
{
	const struct dev_pm_ops *pm;
	struct fixture *f = test->priv;

	pm = &f->nvdev.pm_domain.ops;
	f->nvdev.gate.ready = READY;
	f->bus_ret = -EBUSY;
	KUNIT_EXPECT_EQ(test, pm->prepare(&f->pdev.dev), -EBUSY);
	KUNIT_EXPECT_EQ(test, f->nvdev.gate.ready, READY);
	KUNIT_EXPECT_EQ(test, pm->runtime_suspend(&f->pdev.dev), -EBUSY);
	f->nvdev.gate.ready = READY;
	KUNIT_EXPECT_EQ(test, pm->runtime_resume(&f->pdev.dev), -EBUSY);

	/* Above 0: the PM core may leave the device asleep. */
	f->bus_ret = 1;
	KUNIT_EXPECT_EQ(test, pm->prepare(&f->pdev.dev), 1);
	KUNIT_EXPECT_EQ(test, f->nvdev.gate.ready, RESETTING);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(callbacks, sequence_gen_params),
	KUNIT_CASE(open_gpu_is_not_restored),
	KUNIT_CASE_PARAM(bus_operations_are_called, power_change_gen_params),
	KUNIT_CASE(prepare_fails),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_reset",
	.init = fixture_init,
	.test_cases = cases,
};

kunit_test_suite(suite);
