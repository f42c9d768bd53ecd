// SPDX-License-Identifier: GPL-2.0-only
/*
 * Config space and BAR0 say whether the GPU needs a carve-out, whether it is ready, and how long
 * that may take
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <kunit/test-bug.h>
#include <linux/bitfield.h>
#include <linux/pci.h>
#include <linux/unaligned.h>

#include "../../nvgrace_gpu.h"
#include "gate.h"

#define FIRST		0x100
#define LAST		0xff4
#define NVIDIA_DVSEC	0x200
#define CXL_DVSEC	0x300

/* A device with config space in memory, and with no bus but these operations. */
struct fake_gpu {
	struct nvgrace_gpu_device nvdev;
	struct pci_dev pdev;
	struct pci_bus bus;
	bool gone;
	u32 ones_at;		/* what reads all ones, unless 0 */
	unsigned int busy;	/* reads of that which do */
	u8 config[PCI_CFG_SPACE_EXP_SIZE];
};

static int fake_read(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *value)
{
	struct fake_gpu *gpu = container_of(bus, struct fake_gpu, bus);

	*value = 0;
	memcpy(value, gpu->config + where, size);
	if (gpu->gone || (where == gpu->ones_at && where))
		*value = U32_MAX;
	if (where == gpu->ones_at && gpu->busy && !--gpu->busy)
		gpu->ones_at = 0;
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops fake_ops = { .read = fake_read };

static struct fake_gpu *new_gpu(struct kunit *test)
{
	struct fake_gpu *gpu = kunit_kzalloc(test, sizeof(*gpu), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, gpu);
	gpu->bus.ops = &fake_ops;
	gpu->pdev.bus = &gpu->bus;
	gpu->pdev.cfg_size = PCI_CFG_SPACE_EXP_SIZE;
	gpu->pdev.dev.init_name = "gpu";
	gpu->nvdev.core.pdev = &gpu->pdev;
	put_unaligned_le32(PCI_VENDOR_ID_NVIDIA | 0x2941 << 16, gpu->config);
	return gpu;
}

/* A DVSEC, after which the list of capabilities ends. */
static void put_dvsec(struct fake_gpu *gpu, u16 at, u16 vendor, u16 id, u16 len)
{
	static const u32 next_shift = 20;
	u16 pos = FIRST;
	u32 header;

	/* The first header may be one of AER, which is short. */
	if (at != FIRST && !gpu->config[FIRST])
		put_unaligned_le32(PCI_EXT_CAP_ID_ERR, gpu->config + FIRST);
	while (pos != at) {
		header = get_unaligned_le32(gpu->config + pos);
		if (!(header >> next_shift))
			put_unaligned_le32(header | at << next_shift, gpu->config + pos);
		pos = header >> next_shift ?: at;
	}
	put_unaligned_le32(PCI_EXT_CAP_ID_DVSEC, gpu->config + at);
	put_unaligned_le32(vendor | len << 20, gpu->config + at + 4);
	put_unaligned_le16(id, gpu->config + at + 8);
}

/* ---- The carve-out ---- */

struct carve_out_case {
	const char *name;
	u16 at, vendor, id, len, flags;
	int ret;
};

/* Bit 0 says "no defect"; the other bits are not ours to interpret. */
static const struct carve_out_case carve_out_cases[] = {
	{ "no DVSEC", 0, 0, 0, 0, 0, 1 },
	{ "defect", NVIDIA_DVSEC, PCI_VENDOR_ID_NVIDIA, 3, 12, 0x0000, 1 },
	{ "no defect", NVIDIA_DVSEC, PCI_VENDOR_ID_NVIDIA, 3, 12, 0x0001, 0 },
	{ "only the bit after it", NVIDIA_DVSEC, PCI_VENDOR_ID_NVIDIA, 3, 12, 0x0002, 1 },
	{ "all but the bit", NVIDIA_DVSEC, PCI_VENDOR_ID_NVIDIA, 3, 12, 0xfffe, 1 },
	{ "all but the last bit", NVIDIA_DVSEC, PCI_VENDOR_ID_NVIDIA, 3, 12, 0x7fff, 0 },
	{ "first place that a DVSEC can have", FIRST, PCI_VENDOR_ID_NVIDIA, 3, 12, 1, 0 },
	{ "last place that a DVSEC can have", LAST, PCI_VENDOR_ID_NVIDIA, 3, 12, 1, 0 },
	{ "ends beyond config space", LAST + 4, PCI_VENDOR_ID_NVIDIA, 3, 12, 1, -EINVAL },
	{ "too short", NVIDIA_DVSEC, PCI_VENDOR_ID_NVIDIA, 3, 11, 1, -EINVAL },
	{ "too long", LAST, PCI_VENDOR_ID_NVIDIA, 3, 13, 1, -EINVAL },
	{ "another vendor's", NVIDIA_DVSEC, 0x1e98, 3, 12, 1, 1 },
	{ "another id", NVIDIA_DVSEC, PCI_VENDOR_ID_NVIDIA, 2, 12, 1, 1 },
	/* A read that no device answers returns all ones. */
	{ "cannot be read", NVIDIA_DVSEC, PCI_VENDOR_ID_NVIDIA, 3, 12, 0xffff, -EIO },
};

KUNIT_ARRAY_PARAM_DESC(carve_out, carve_out_cases, name);

static void carve_out_by_dvsec(struct kunit *test)
{
	const struct carve_out_case *c = test->param_value;
	struct fake_gpu *gpu = new_gpu(test);

	if (c->at)
		put_dvsec(gpu, c->at, c->vendor, c->id, c->len);
	if (c->at + 12 <= PCI_CFG_SPACE_EXP_SIZE)
		put_unaligned_le16(c->flags, gpu->config + c->at + 10);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_needs_carve_out(&gpu->pdev), c->ret);

	gpu->gone = true;
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_needs_carve_out(&gpu->pdev), -EIO);
}

/* ---- The registers ---- */

#define VALID		BIT(0)
#define ACTIVE		BIT(1)
#define TIMEOUT(code)	FIELD_PREP_CONST(GENMASK(15, 13), code)

struct status_case {
	const char *name;
	u16 cxl;
	u8 nr;
	u32 regs[2];
	bool present;
	int ret;
	unsigned int limit_s;
};

static const struct status_case status_cases[] = {
	{ "ready", 0, 2, { 0xff, 0xff }, true, 0 },
	{ "neither", 0, 2, { 0, 0 }, true, -EAGAIN, 30 },
	{ "link only", 0, 2, { 0xff, 0 }, true, -EAGAIN, 30 },
	{ "memory only", 0, 2, { 0, 0xff }, true, -EAGAIN, 30 },
	/* The memory has no failure codes. */
	{ "memory reads something else", 0, 2, { 0xff, 0x7f }, true, -EAGAIN, 30 },
	{ "link reads a failure code", 0, 2, { 0x1, 0 }, true, -ENOLINK },
	{ "link reads a failure code, memory ready", 0, 2, { 0x7f, 0xff }, true, -ENOLINK },
	{ "link reads more than 0xff", 0, 2, { 0x1ff, 0xff }, true, -ENOLINK },
	/* All ones may be a device that is just coming out of reset. */
	{ "all ones", 0, 2, { U32_MAX, U32_MAX }, true, -EAGAIN, 30 },
	{ "all ones, gone", 0, 2, { U32_MAX, U32_MAX }, false, -ENODEV },
	{ "link reads all ones, memory ready", 0, 2, { U32_MAX, 0xff }, true, -EAGAIN, 30 },

	{ "range is active", CXL_DVSEC, 1, { VALID | ACTIVE }, true, 0 },
	{ "range is active, its size", CXL_DVSEC, 1, { 0xf0000000 | VALID | ACTIVE }, true, 0 },
	{ "range is not valid", CXL_DVSEC, 1, { TIMEOUT(4) }, true, -EAGAIN, 1 },
	{ "active without valid", CXL_DVSEC, 1, { ACTIVE | TIMEOUT(4) }, true, -EAGAIN, 1 },
	{ "time-out 0", CXL_DVSEC, 1, { VALID | TIMEOUT(0) }, true, -EAGAIN, 1 },
	{ "time-out 1", CXL_DVSEC, 1, { VALID | TIMEOUT(1) }, true, -EAGAIN, 4 },
	{ "time-out 2", CXL_DVSEC, 1, { VALID | TIMEOUT(2) }, true, -EAGAIN, 16 },
	{ "time-out 3", CXL_DVSEC, 1, { VALID | TIMEOUT(3) }, true, -EAGAIN, 64 },
	{ "time-out 4", CXL_DVSEC, 1, { VALID | TIMEOUT(4) }, true, -EAGAIN, 256 },
	{ "time-out 5, reserved", CXL_DVSEC, 1, { VALID | TIMEOUT(5) }, true, -EAGAIN, 256 },
	{ "time-out 6, reserved", CXL_DVSEC, 1, { VALID | TIMEOUT(6) }, true, -EAGAIN, 256 },
	{ "time-out 7, reserved", CXL_DVSEC, 1, { VALID | TIMEOUT(7) }, true, -EAGAIN, 256 },
	{ "both ranges are active", CXL_DVSEC, 2, { VALID | ACTIVE, VALID | ACTIVE }, true, 0 },
	{ "second range is not active", CXL_DVSEC, 2, { VALID | ACTIVE, VALID | TIMEOUT(1) },
	  true, -EAGAIN, 4 },
	{ "first range is not active", CXL_DVSEC, 2, { VALID | TIMEOUT(2), VALID | ACTIVE },
	  true, -EAGAIN, 16 },
	{ "the shorter time of two", CXL_DVSEC, 2, { VALID | TIMEOUT(3), VALID | TIMEOUT(1) },
	  true, -EAGAIN, 4 },
	{ "second range is not valid", CXL_DVSEC, 2, { VALID | TIMEOUT(3), 0 }, true, -EAGAIN, 1 },
	{ "a second range that is not there", CXL_DVSEC, 1, { VALID | ACTIVE, 0 }, true, 0 },
	{ "range reads all ones", CXL_DVSEC, 1, { U32_MAX }, true, -EAGAIN, 30 },
	{ "range reads all ones, gone", CXL_DVSEC, 1, { U32_MAX }, false, -ENODEV },
	{ "second range reads all ones", CXL_DVSEC, 2, { VALID | ACTIVE, U32_MAX }, true,
	  -EAGAIN, 30 },
};

KUNIT_ARRAY_PARAM_DESC(status, status_cases, name);

static bool is_present(struct pci_dev *pdev)
{
	const struct status_case *c = kunit_get_current_test()->param_value;

	return c->present;
}

static void status_by_registers(struct kunit *test)
{
	const struct status_case *c = test->param_value;
	struct nvgrace_gpu_status status = { .cxl = c->cxl, .nr = c->nr };
	struct fake_gpu *gpu = new_gpu(test);

	memcpy(status.regs, c->regs, sizeof(status.regs));
	kunit_activate_static_stub(test, nvgrace_gpu_is_present, is_present);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_judge(&gpu->pdev, &status), c->ret);
	if (c->limit_s)
		KUNIT_EXPECT_EQ(test, status.limit_s, c->limit_s);
	KUNIT_EXPECT_EQ(test, status.warned, c->cxl && (c->regs[0] & VALID) &&
			c->limit_s == 256 && c->regs[0] >= TIMEOUT(5));
}

/* ---- Config space ---- */

struct source_case {
	const char *name;
	u16 vendor, id, len, capability;
	u32 ranges[2];
	u32 ones_at;
	unsigned int busy;
	int ret;
	unsigned int nr;
};

/* There is no BAR0: without the right DVSEC, that is the error. */
static const struct source_case source_cases[] = {
	{ "one range", 0x1e98, 0, 0x38, 0x14, { VALID | ACTIVE }, 0, 0, 0, 1 },
	{ "two ranges", 0x1e98, 0, 0x38, 0x24, { VALID | ACTIVE, VALID | ACTIVE }, 0, 0, 0, 2 },
	{ "no count of ranges", 0x1e98, 0, 0x38, 0x04, { VALID | ACTIVE }, 0, 0, 0, 1 },
	{ "reserved count of ranges", 0x1e98, 0, 0x38, 0x34, { VALID | ACTIVE }, 0, 0, 0, 1 },
	{ "no longer than it must be", 0x1e98, 0, 0x30, 0x24, { VALID | ACTIVE, VALID | ACTIVE },
	  0, 0, 0, 2 },
	{ "too short", 0x1e98, 0, 0x2f, 0x14, { VALID | ACTIVE }, 0, 0, -EINVAL },
	{ "capability cannot be read", 0x1e98, 0, 0x38, 0xffff, { VALID | ACTIVE }, 0, 0, -EIO },
	/* A port has DVSECs with other ids of CXL's. */
	{ "another id", 0x1e98, 3, 0x38, 0x14, { VALID | ACTIVE }, 0, 0, -ENODEV },
	{ "another vendor", PCI_VENDOR_ID_NVIDIA, 0, 0x38, 0x14, { VALID | ACTIVE }, 0, 0,
	  -ENODEV },
	{ "not ready at first", 0x1e98, 0, 0x38, 0x14, { VALID | ACTIVE }, CXL_DVSEC + 0x1c, 3,
	  0, 1 },
	{ "never valid", 0x1e98, 0, 0x38, 0x14, { TIMEOUT(4) }, 0, 0, -ETIME, 1 },
	{ "never active", 0x1e98, 0, 0x38, 0x14, { VALID }, 0, 0, -ETIME, 1 },
	{ "second range is never active", 0x1e98, 0, 0x38, 0x24, { VALID | ACTIVE, VALID }, 0, 0,
	  -ETIME, 2 },
};

KUNIT_ARRAY_PARAM_DESC(source, source_cases, name);

static void ready_by_cxl_dvsec(struct kunit *test)
{
	const struct source_case *c = test->param_value;
	struct fake_gpu *gpu = new_gpu(test);
	const struct nvgrace_gpu_status *status = &gpu->nvdev.gate.status;
	unsigned long start = jiffies;
	int i;

	put_dvsec(gpu, NVIDIA_DVSEC, PCI_VENDOR_ID_NVIDIA, 3, 12);
	put_dvsec(gpu, CXL_DVSEC, c->vendor, c->id, c->len);
	put_unaligned_le16(c->capability, gpu->config + CXL_DVSEC + 0xa);
	for (i = 0; i < 2; i++)
		put_unaligned_le32(c->ranges[i], gpu->config + CXL_DVSEC + 0x1c + 0x10 * i);
	gpu->ones_at = c->ones_at;
	gpu->busy = c->busy;

	KUNIT_EXPECT_EQ(test, nvgrace_gpu_wait_at_probe(&gpu->nvdev), c->ret);
	if (c->nr) {
		KUNIT_EXPECT_EQ(test, status->cxl, CXL_DVSEC);
		KUNIT_EXPECT_EQ(test, status->nr, c->nr);
		for (i = 0; i < c->nr; i++)
			KUNIT_EXPECT_EQ(test, status->regs[i], c->ranges[i]);
	}
	/* A range that is not active has time-out 0, which is a second. */
	if (c->ret == -ETIME)
		KUNIT_EXPECT_TRUE(test, time_after_eq(jiffies, start + HZ));
}

/* The driver reads the DVSEC each time, with memory off and BAR0 anywhere. */
static void cxl_dvsec_needs_no_bar0(struct kunit *test)
{
	struct fake_gpu *gpu = new_gpu(test);
	struct nvgrace_gpu_status *status = &gpu->nvdev.gate.status;
	u8 *range = gpu->config + CXL_DVSEC + 0x1c;

	gpu->pdev.resource[0].flags = IORESOURCE_MEM;
	gpu->pdev.resource[0].start = 0x10000000;
	status->cxl = CXL_DVSEC;
	status->nr = 1;
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_read_status(&gpu->nvdev, status), -EAGAIN);
	put_unaligned_le32(VALID | ACTIVE, range);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_read_status(&gpu->nvdev, status), 0);
	put_unaligned_le32(VALID, range);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_read_status(&gpu->nvdev, status), -EAGAIN);
	gpu->gone = true;
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_read_status(&gpu->nvdev, status), -ENODEV);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(carve_out_by_dvsec, carve_out_gen_params),
	KUNIT_CASE_PARAM(status_by_registers, status_gen_params),
	KUNIT_CASE_PARAM(ready_by_cxl_dvsec, source_gen_params),
	KUNIT_CASE(cxl_dvsec_needs_no_bar0),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_status",
	.test_cases = cases,
};

kunit_test_suite(suite);
