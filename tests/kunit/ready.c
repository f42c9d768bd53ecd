// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whether the GPU needs a carve-out, by what its DVSEC says
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>

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

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(carve_out_by_dvsec, dvsec_gen_params),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_ready",
	.test_cases = cases,
};

kunit_test_suite(suite);
