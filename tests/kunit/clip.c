// SPDX-License-Identifier: GPL-2.0-only
/*
 * A read or write is cut at the end of real memory, and at the end of the BAR
 */
#include <kunit/test.h>

#include "../../nvgrace_gpu.h"

#define BACKED	(SZ_1G + SZ_512M)
#define BAR	SZ_2G

struct clip_case {
	const char *name;
	u64 pos;
	size_t count;
	bool inside;
	size_t clipped;
	size_t backed;
};

static const struct clip_case clip_cases[] = {
	/* name, pos, count -> inside, count, backed */
	{ "first byte", 0, 1, true, 1, 1 },
	{ "nothing, at the start", 0, 0, true, 0, 0 },
	{ "all of the memory", 0, BACKED, true, BACKED, BACKED },
	{ "memory and a byte of the hole", 0, BACKED + 1, true, BACKED + 1, BACKED },
	{ "a byte less than the BAR", 0, BAR - 1, true, BAR - 1, BACKED },
	{ "the BAR", 0, BAR, true, BAR, BACKED },
	{ "a byte more than the BAR", 0, BAR + 1ULL, true, BAR, BACKED },
	{ "all that can be asked for", 0, SIZE_MAX, true, BAR, BACKED },
	{ "all of that from the second byte", 1, SIZE_MAX, true, BAR - 1, BACKED - 1 },

	{ "last byte of memory", BACKED - 1, 1, true, 1, 1 },
	{ "nothing, at the last byte of memory", BACKED - 1, 0, true, 0, 0 },
	{ "across the end of memory", BACKED - 1, 2, true, 2, 1 },
	{ "eight bytes across the end of memory", BACKED - 3, 8, true, 8, 3 },
	{ "up to the end of memory", BACKED - 8, 8, true, 8, 8 },

	{ "first byte of the hole", BACKED, 1, true, 1, 0 },
	{ "nothing, in the hole", BACKED, 0, true, 0, 0 },
	{ "second byte of the hole", BACKED + 1, 1, true, 1, 0 },
	{ "all of the hole", BACKED, BAR - BACKED, true, BAR - BACKED, 0 },
	{ "the hole and a byte", BACKED, BAR - BACKED + 1, true, BAR - BACKED, 0 },
	{ "last byte of the BAR", BAR - 1, 1, true, 1, 0 },
	{ "across the end of the BAR", BAR - 1, 2, true, 1, 0 },
	{ "offset + count wraps, in the BAR", BAR - 1, SIZE_MAX, true, 1, 0 },

	{ "at the end of the BAR", BAR, 1, false, 0, 0 },
	{ "nothing, at the end of the BAR", BAR, 0, false, 0, 0 },
	{ "a byte further", BAR + 1ULL, 1, false, 0, 0 },
	{ "last offset that VFIO has for a region", VFIO_PCI_OFFSET_MASK, 1, false, 0, 0 },
	{ "last offset there is", U64_MAX, 1, false, 0, 0 },
	{ "offset + count wraps to 0", U64_MAX, 1, false, 0, 0 },
	{ "offset + count wraps", U64_MAX, SIZE_MAX, false, 0, 0 },
};

KUNIT_ARRAY_PARAM_DESC(clip, clip_cases, name);

static void access_is_clipped(struct kunit *test)
{
	const struct nvgrace_gpu_region region = {
		.backed = BACKED,
		.bar_size = BAR,
	};
	const struct clip_case *c = test->param_value;
	size_t count = c->count, backed = 42;

	KUNIT_ASSERT_EQ(test, nvgrace_gpu_clip(&region, c->pos, &count, &backed),
			c->inside);

	/* Outside, nothing is changed. */
	KUNIT_EXPECT_EQ(test, count, c->inside ? c->clipped : c->count);
	KUNIT_EXPECT_EQ(test, backed, c->inside ? c->backed : 42);
}

/* Memory that fills its BAR leaves no hole. */
static void without_a_hole(struct kunit *test)
{
	const struct nvgrace_gpu_region region = {
		.backed = SZ_1G,
		.bar_size = SZ_1G,
	};
	size_t count = 2, backed;

	KUNIT_EXPECT_TRUE(test, nvgrace_gpu_clip(&region, SZ_1G - 2, &count, &backed));
	KUNIT_EXPECT_EQ(test, count, 2);
	KUNIT_EXPECT_EQ(test, backed, 2);

	KUNIT_EXPECT_TRUE(test, nvgrace_gpu_clip(&region, SZ_1G - 1, &count, &backed));
	KUNIT_EXPECT_EQ(test, count, 1);
	KUNIT_EXPECT_EQ(test, backed, 1);

	KUNIT_EXPECT_FALSE(test, nvgrace_gpu_clip(&region, SZ_1G, &count, &backed));
}

/* A region as large as VFIO can show: no sum comes near what u64 holds. */
static void in_the_largest_region(struct kunit *test)
{
	const struct nvgrace_gpu_region region = {
		.backed = BIT_ULL(VFIO_PCI_OFFSET_SHIFT) - SZ_512M,
		.bar_size = BIT_ULL(VFIO_PCI_OFFSET_SHIFT),
	};
	size_t count = SIZE_MAX, backed;

	KUNIT_EXPECT_TRUE(test, nvgrace_gpu_clip(&region, SZ_512M, &count, &backed));
	KUNIT_EXPECT_EQ(test, count, region.bar_size - SZ_512M);
	KUNIT_EXPECT_EQ(test, backed, region.backed - SZ_512M);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(access_is_clipped, clip_gen_params),
	KUNIT_CASE(without_a_hole),
	KUNIT_CASE(in_the_largest_region),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_clip",
	.test_cases = cases,
};

kunit_test_suite(suite);
