// SPDX-License-Identifier: GPL-2.0-only
/*
 * The id table: which GPUs, and how they are offered to user space
 */
#include <kunit/test.h>
#include <linux/mod_devicetable.h>
#include <linux/pci.h>

#include "../../nvgrace_gpu.h"

struct sku {
	const char *name;
	u32 device;
};

#define NVGRACE_GPU_ID(device, product)	{ product " 10de:" #device, device },
static const struct sku skus[] = {
#include "../../nvgrace_gpu_ids.h"
};

KUNIT_ARRAY_PARAM_DESC(sku, skus, name);

static void every_sku_is_there_once(struct kunit *test)
{
	const struct sku *sku = test->param_value;
	const struct pci_device_id *id;
	unsigned int found = 0;

	for (id = nvgrace_gpu_ids; id->vendor; id++)
		found += id->device == sku->device;

	KUNIT_EXPECT_EQ(test, found, 1);
}

static void there_is_nothing_else(struct kunit *test)
{
	const struct pci_device_id *id = nvgrace_gpu_ids;

	while (id->vendor)
		id++;

	KUNIT_EXPECT_EQ(test, id - nvgrace_gpu_ids, ARRAY_SIZE(skus));
}

/* A driver that binds by itself would take GPUs from the host. */
static void none_binds_by_itself(struct kunit *test)
{
	const struct pci_device_id *id;

	for (id = nvgrace_gpu_ids; id->vendor; id++) {
		KUNIT_EXPECT_EQ(test, id->vendor, PCI_VENDOR_ID_NVIDIA);
		KUNIT_EXPECT_EQ(test, id->subvendor, PCI_ANY_ID);
		KUNIT_EXPECT_EQ(test, id->subdevice, PCI_ANY_ID);
		KUNIT_EXPECT_EQ(test, id->class_mask, 0);
		KUNIT_EXPECT_EQ(test, id->override_only,
				PCI_ID_F_VFIO_DRIVER_OVERRIDE);
	}
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(every_sku_is_there_once, sku_gen_params),
	KUNIT_CASE(there_is_nothing_else),
	KUNIT_CASE(none_binds_by_itself),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_ids",
	.test_cases = cases,
};

kunit_test_suite(suite);
