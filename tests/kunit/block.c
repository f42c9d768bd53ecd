// SPDX-License-Identifier: GPL-2.0-only
/*
 * Can one huge entry map a block?
 *
 * mm asks for the largest block first, and for the next smaller one when that
 * does not fit, so the rule decides on the order.
 */
#include <kunit/test.h>
#include <linux/log2.h>
#include <linux/mm.h>

#include "../../nvgrace_gpu.h"

/* Far from 0 and aligned to every block there is. */
#define START	BIT(44)
#define PHYS	(7 * BIT(44))

struct block_size {
	const char *name;
	unsigned int order;
};

static const struct block_size block_sizes[] = {
	{ "8 pages", 3 },
	{ "PMD", PMD_ORDER },
	{ "PUD", PUD_ORDER },
};

KUNIT_ARRAY_PARAM_DESC(block, block_sizes, name);

/* Does a fault at ADDR map a block? */
static bool block_at(unsigned long start, unsigned long end, unsigned long addr,
		     phys_addr_t phys_of_start, unsigned long size)
{
	unsigned long block = ALIGN_DOWN(addr, size);
	struct vm_area_struct vma = { .vm_start = start, .vm_end = end };

	return nvgrace_gpu_block_fits(&vma, block, PHYS_PFN(phys_of_start + block - start),
				    ilog2(size) - PAGE_SHIFT);
}

/* If one block fills the VMA, a fault on each of its pages maps the block. */
static void vma_of_one_block(struct kunit *test)
{
	const struct block_size *s = test->param_value;
	unsigned long b = PAGE_SIZE << s->order, end = START + b;
	unsigned long at[] = {
		START, START + 1, START + PAGE_SIZE, START + b / 2,
		end - PAGE_SIZE, end - 1,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(at); i++)
		KUNIT_EXPECT_TRUE(test, block_at(START, end, at[i], PHYS, b));
}

static void vma_ends_within_the_block(struct kunit *test)
{
	const struct block_size *s = test->param_value;
	unsigned long b = PAGE_SIZE << s->order, p = PAGE_SIZE;

	/* A page short at the end, half a block, one page. */
	KUNIT_EXPECT_FALSE(test, block_at(START, START + b - p, START, PHYS, b));
	KUNIT_EXPECT_FALSE(test, block_at(START, START + b / 2, START, PHYS, b));
	KUNIT_EXPECT_FALSE(test, block_at(START, START + p, START, PHYS, b));

	/* Two blocks less a page: the first fits, the second does not. */
	KUNIT_EXPECT_TRUE(test, block_at(START, START + 2 * b - p, START + b - p,
					 PHYS, b));
	KUNIT_EXPECT_FALSE(test, block_at(START, START + 2 * b - p, START + b,
					  PHYS, b));
}

static void vma_begins_within_the_block(struct kunit *test)
{
	const struct block_size *s = test->param_value;
	unsigned long b = PAGE_SIZE << s->order, p = PAGE_SIZE, end = START + 2 * b;

	/* The memory begins as far into its block as the VMA does. */
	KUNIT_EXPECT_FALSE(test, block_at(START + p, end, START + p, PHYS + p, b));
	KUNIT_EXPECT_FALSE(test, block_at(START + b - p, end, START + b - p,
					  PHYS + b - p, b));

	KUNIT_EXPECT_TRUE(test, block_at(START + p, end, START + b, PHYS + p, b));
	KUNIT_EXPECT_TRUE(test, block_at(START + b - p, end, START + b,
					 PHYS + b - p, b));
}

/* With any skew between address and memory no block fits anywhere. */
static void memory_is_skewed(struct kunit *test)
{
	const struct block_size *s = test->param_value;
	unsigned long b = PAGE_SIZE << s->order, p = PAGE_SIZE, end = START + 4 * b;
	unsigned long skew[] = { p, 2 * p, b / 2, b - p };
	int i;

	for (i = 0; i < ARRAY_SIZE(skew); i++) {
		KUNIT_EXPECT_FALSE(test, block_at(START, end, START + b,
						  PHYS + skew[i], b));
		KUNIT_EXPECT_FALSE(test, block_at(START + skew[i], end,
						  START + b, PHYS, b));
	}

	/* A whole block is not a skew. */
	KUNIT_EXPECT_TRUE(test, block_at(START, end, START + b, PHYS + b, b));
	KUNIT_EXPECT_TRUE(test, block_at(START + b, end, START + b, PHYS, b));
}

/* A block of the exhaustive test has eight pages. */
#define PAGES	8

/*
 * A VMA of the pages FIRST to LAST, its memory beginning at page SKEW of a block,
 * and a fault on each page. The reference goes page by page: each one of the
 * block has to be in the VMA, and the first has to have the first of a block of
 * memory.
 */
static void check_every_page(struct kunit *test, unsigned int first,
			     unsigned int last, unsigned int skew)
{
	const unsigned long page = PAGE_SIZE;
	unsigned int at, i;

	for (at = first; at <= last; at++) {
		unsigned int block = at / PAGES * PAGES;
		bool fits = (skew + block) % PAGES == first % PAGES;

		for (i = block; i < block + PAGES; i++)
			fits &= i >= first && i <= last;

		KUNIT_ASSERT_EQ_MSG(test, fits,
				    block_at(START + first * page,
					     START + (last + 1) * page,
					     START + at * page,
					     PHYS + skew * page, PAGES * page),
				    "VMA of pages %u to %u, memory from page %u, fault at %u",
				    first, last, skew, at);
	}
}

/* Put both ends of a VMA of up to three blocks, and its memory, at every alignment. */
static void every_alignment(struct kunit *test)
{
	unsigned int first, last, skew;

	for (first = 0; first < PAGES; first++)
		for (last = first; last < 3 * PAGES; last++)
			for (skew = 0; skew < PAGES; skew++)
				check_every_page(test, first, last, skew);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(vma_of_one_block, block_gen_params),
	KUNIT_CASE_PARAM(vma_ends_within_the_block, block_gen_params),
	KUNIT_CASE_PARAM(vma_begins_within_the_block, block_gen_params),
	KUNIT_CASE_PARAM(memory_is_skewed, block_gen_params),
	KUNIT_CASE(every_alignment),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_block",
	.test_cases = cases,
};

kunit_test_suite(suite);
