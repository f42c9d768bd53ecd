// SPDX-License-Identifier: GPL-2.0-only
/*
 * How the memory is split into regions, and where they show
 */
#include <kunit/test.h>
#include <linux/log2.h>
#include <linux/prandom.h>

#include "../../nvgrace_gpu.h"

#define GIB(n)	((u64)(n) << 30)
#define MIB(n)	((u64)(n) << 20)
/* The most that a VFIO region can show. */
#define TIB_1	GIB(1024)

#define BASE	GIB(448)

/* Check what any split has to satisfy, whatever its numbers. */
static void check_split(struct kunit *test, u64 size, bool carve_out,
			unsigned int usemem_bar,
			const struct nvgrace_gpu_region *regions, int nr)
{
	const struct nvgrace_gpu_region *usemem = &regions[0];
	phys_addr_t next = BASE;
	int i;

	KUNIT_ASSERT_EQ(test, nr, carve_out ? 2 : 1);

	/* The regions tile the memory: nothing is lost, nothing is shared. */
	for (i = 0; i < nr; i++) {
		const struct nvgrace_gpu_region *region = &regions[i];

		KUNIT_EXPECT_EQ(test, region->base, next);
		next += region->backed;

		KUNIT_EXPECT_GT(test, region->backed, 0);
		KUNIT_EXPECT_TRUE(test, is_power_of_2(region->bar_size));
		KUNIT_EXPECT_GE(test, region->bar_size, region->backed);
		KUNIT_EXPECT_LT(test, region->bar_size, 2 * region->backed);
		KUNIT_EXPECT_LE(test, region->bar_size, TIB_1);
		KUNIT_EXPECT_EQ(test, region->bar_value, 0);
	}
	KUNIT_EXPECT_EQ(test, next, BASE + size);

	KUNIT_EXPECT_STREQ(test, usemem->name, "usemem");
	KUNIT_EXPECT_TRUE(test, usemem->cacheable);
	KUNIT_EXPECT_EQ(test, usemem->index, carve_out ? usemem_bar : 4);

	if (carve_out) {
		const struct nvgrace_gpu_region *resmem = &regions[1];

		KUNIT_EXPECT_EQ(test, usemem->backed % SZ_512M, 0);
		KUNIT_EXPECT_STREQ(test, resmem->name, "resmem");
		KUNIT_EXPECT_FALSE(test, resmem->cacheable);
		KUNIT_EXPECT_EQ(test, resmem->index, usemem_bar == 2 ? 4 : 2);
		/* At least 1 GiB, and not more than the rounding asks for. */
		KUNIT_EXPECT_GE(test, resmem->backed, SZ_1G);
		KUNIT_EXPECT_LT(test, resmem->backed, SZ_1G + SZ_512M);
	}
}

static int split(u64 size, bool carve_out, unsigned int usemem_bar,
		 struct nvgrace_gpu_region *regions)
{
	const struct nvgrace_gpu_range range = { .base = BASE, .size = size };

	return nvgrace_gpu_split(&range, carve_out, usemem_bar, regions);
}

struct split_case {
	const char *name;
	u64 size;
	bool carve_out;
	/* -errno, or 0 and the sizes of each region */
	int ret;
	u64 usemem, usemem_bar_size;
	u64 resmem, resmem_bar_size;
};

static const struct split_case split_cases[] = {
	/* The GPUs sold, by their memory; GH200 has the defect, the others not. */
	{ "GH200 96 GB", GIB(96), true, 0, GIB(95), GIB(128), GIB(1), GIB(1) },
	{ "GH200 96 GB, 94.5 GiB of it", GIB(94) + MIB(512), true,
	  0, GIB(93) + MIB(512), GIB(128), GIB(1), GIB(1) },
	{ "GH200 96 GB, less 16 MiB", GIB(96) - MIB(16), true,
	  0, GIB(94) + MIB(512), GIB(128), GIB(1) + MIB(496), GIB(2) },
	{ "GH200 144 GB", GIB(144), true, 0, GIB(143), GIB(256), GIB(1), GIB(1) },
	{ "GH200 144 GB, 141 GB of it", GIB(131) + MIB(320), true,
	  0, GIB(130), GIB(256), GIB(1) + MIB(320), GIB(2) },
	{ "GB200 192 GB", GIB(192), false, 0, GIB(192), GIB(256) },
	{ "GB200 192 GB, 186 GB of it", GIB(186), false, 0, GIB(186), GIB(256) },
	{ "GB300 288 GB", GIB(288), false, 0, GIB(288), GIB(512) },
	{ "GB300 288 GB, 279 GB of it", GIB(279), false, 0, GIB(279), GIB(512) },

	/* The least that can be split is 512 MiB of usemem, 1 GiB of resmem. */
	{ "smallest", MIB(1536), true, 0, MIB(512), MIB(512), GIB(1), GIB(1) },
	{ "a byte more", MIB(1536) + 1, true,
	  0, MIB(512), MIB(512), GIB(1) + 1, GIB(2) },
	{ "a byte too small", MIB(1536) - 1, true, -EINVAL },
	{ "a page too small", MIB(1536) - PAGE_SIZE, true, -EINVAL },
	{ "resmem only", GIB(1), true, -EINVAL },
	{ "a page", PAGE_SIZE, true, -EINVAL },
	{ "nothing", 0, true, -EINVAL },

	/* The next step of usemem. */
	{ "a byte before the next step", GIB(2) - 1, true,
	  0, MIB(512), MIB(512), MIB(1536) - 1, GIB(2) },
	{ "the next step", GIB(2), true, 0, GIB(1), GIB(1), GIB(1), GIB(1) },
	{ "a byte after the next step", GIB(2) + 1, true,
	  0, GIB(1), GIB(1), GIB(1) + 1, GIB(2) },

	/* A power of two is its own BAR; a byte more takes the next. */
	{ "usemem of 64 GiB", GIB(65), true, 0, GIB(64), GIB(64), GIB(1), GIB(1) },
	{ "usemem of 64.5 GiB", GIB(65) + MIB(512), true,
	  0, GIB(64) + MIB(512), GIB(128), GIB(1), GIB(1) },

	/* The largest that VFIO can show. */
	{ "largest", TIB_1 + MIB(1536) - 1, true,
	  0, TIB_1, TIB_1, MIB(1536) - 1, GIB(2) },
	{ "a byte too large", TIB_1 + MIB(1536), true, -EOVERFLOW },
	{ "the largest size_t", SIZE_MAX, true, -EOVERFLOW },

	/* Without a carve-out any size will do, and usemem has all of it. */
	{ "whole: a page", PAGE_SIZE, false, 0, PAGE_SIZE, PAGE_SIZE },
	{ "whole: 1.5 GiB", MIB(1536), false, 0, MIB(1536), GIB(2) },
	{ "whole: 2 GiB and a byte", GIB(2) + 1, false, 0, GIB(2) + 1, GIB(4) },
	{ "whole: a byte less than the largest", TIB_1 - 1, false, 0, TIB_1 - 1, TIB_1 },
	{ "whole: largest", TIB_1, false, 0, TIB_1, TIB_1 },
	{ "whole: a byte too large", TIB_1 + 1, false, -EOVERFLOW },
	{ "whole: the largest size_t", SIZE_MAX, false, -EOVERFLOW },
};

KUNIT_ARRAY_PARAM_DESC(split, split_cases, name);

static void memory_is_split(struct kunit *test)
{
	const struct split_case *c = test->param_value;
	unsigned int usemem_bar;

	for (usemem_bar = 2; usemem_bar <= 4; usemem_bar += 2) {
		struct nvgrace_gpu_region regions[NVGRACE_GPU_MAX_REGIONS];
		int ret = split(c->size, c->carve_out, usemem_bar, regions);

		if (c->ret) {
			KUNIT_EXPECT_EQ(test, ret, c->ret);
			continue;
		}

		check_split(test, c->size, c->carve_out, usemem_bar, regions, ret);
		KUNIT_EXPECT_EQ(test, regions[0].backed, c->usemem);
		KUNIT_EXPECT_EQ(test, regions[0].bar_size, c->usemem_bar_size);
		if (c->carve_out) {
			KUNIT_EXPECT_EQ(test, regions[1].backed, c->resmem);
			KUNIT_EXPECT_EQ(test, regions[1].bar_size,
					c->resmem_bar_size);
		}
	}
}

/*
 * Every step of 512 MiB up to 1 TiB of usemem, and a byte either side. On a step
 * resmem is 1 GiB exactly; a byte more goes to resmem, for a byte less usemem
 * gives up a step.
 */
static void every_step(struct kunit *test)
{
	struct nvgrace_gpu_region regions[NVGRACE_GPU_MAX_REGIONS];
	u64 usemem;

	for (usemem = SZ_512M; usemem <= TIB_1; usemem += SZ_512M) {
		u64 size = usemem + SZ_1G;

		check_split(test, size, true, 2, regions,
			    split(size, true, 2, regions));
		KUNIT_EXPECT_EQ(test, regions[0].backed, usemem);

		check_split(test, size + 1, true, 2, regions,
			    split(size + 1, true, 2, regions));
		KUNIT_EXPECT_EQ(test, regions[0].backed, usemem);

		if (usemem == SZ_512M)
			continue;
		check_split(test, size - 1, true, 2, regions,
			    split(size - 1, true, 2, regions));
		KUNIT_EXPECT_EQ(test, regions[0].backed, usemem - SZ_512M);
	}
}

/* Sizes of every magnitude, always the same ones. */
static void random_sizes(struct kunit *test)
{
	struct nvgrace_gpu_region regions[NVGRACE_GPU_MAX_REGIONS];
	struct rnd_state rnd;
	int i;

	prandom_seed_state(&rnd, 0x2342);
	for (i = 0; i < 20000; i++) {
		u64 size = (u64)prandom_u32_state(&rnd) << 32 |
			   prandom_u32_state(&rnd);
		u32 r = prandom_u32_state(&rnd);
		unsigned int usemem_bar = r & 1 ? 2 : 4;
		bool carve_out = r & 2;
		u64 usemem;

		/* 1 byte to 2 TiB */
		size = (size >> (23 + (r >> 2) % 41)) ?: 1;
		usemem = carve_out ? (size - GIB(1)) / SZ_512M * SZ_512M : size;

		if (carve_out && size < MIB(1536))
			KUNIT_EXPECT_EQ(test, split(size, carve_out, usemem_bar,
						    regions), -EINVAL);
		else if (usemem > TIB_1)
			KUNIT_EXPECT_EQ(test, split(size, carve_out, usemem_bar,
						    regions), -EOVERFLOW);
		else
			check_split(test, size, carve_out, usemem_bar, regions,
				    split(size, carve_out, usemem_bar, regions));
	}
}

static void region_is_found_by_its_index(struct kunit *test)
{
	struct nvgrace_gpu_device *nvdev;
	unsigned int i;

	nvdev = kunit_kzalloc(test, sizeof(*nvdev), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, nvdev);
	nvdev->nr_regions = split(GIB(96), true, 4, nvdev->regions);
	KUNIT_ASSERT_EQ(test, nvdev->nr_regions, 2);

	for (i = 0; i < 16; i++)
		KUNIT_EXPECT_PTR_EQ(test, nvgrace_gpu_find_region(nvdev, i),
				    i == 4 ? &nvdev->regions[0] :
				    i == 2 ? &nvdev->regions[1] : NULL);
	KUNIT_EXPECT_NULL(test, nvgrace_gpu_find_region(nvdev, UINT_MAX));
}

/* Without memory in ACPI all indices are vfio_pci_core's, 0 among them. */
static void without_regions_none_is_found(struct kunit *test)
{
	struct nvgrace_gpu_device *nvdev;
	unsigned int i;

	nvdev = kunit_kzalloc(test, sizeof(*nvdev), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, nvdev);

	for (i = 0; i < 16; i++)
		KUNIT_EXPECT_NULL(test, nvgrace_gpu_find_region(nvdev, i));
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(memory_is_split, split_gen_params),
	KUNIT_CASE(every_step),
	KUNIT_CASE(random_sizes),
	KUNIT_CASE(region_is_found_by_its_index),
	KUNIT_CASE(without_regions_none_is_found),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_split",
	.test_cases = cases,
};

kunit_test_suite(suite);
