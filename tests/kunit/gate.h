/* SPDX-License-Identifier: GPL-2.0-only */
/* The gate of a device that a test made up. */
#ifndef TESTS_KUNIT_GATE_H
#define TESTS_KUNIT_GATE_H

#include <kunit/resource.h>
#include <kunit/test.h>
#include <linux/workqueue.h>

#include "../../nvgrace_gpu.h"

/* There are no files in sysfs. */
static inline void ignore_notify(struct work_struct *work)
{
}

static inline void destroy_gate(void *nvdev)
{
	struct nvgrace_gpu_device *device = nvdev;

	flush_work(&device->notify);
	nvgrace_gpu_gate_destroy(device);
}

/* Make a gate, with the locks that it takes, until the test ends. It is closed, as after open. */
static inline void make_gate(struct kunit *test, struct nvgrace_gpu_device *nvdev)
{
	init_rwsem(&nvdev->core.memory_lock);
	INIT_WORK(&nvdev->notify, ignore_notify);
	KUNIT_ASSERT_EQ(test, 0, nvgrace_gpu_gate_init(nvdev));
	nvdev->gate.status.limit_s = 30;
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, destroy_gate, nvdev));
}

#endif /* TESTS_KUNIT_GATE_H */
