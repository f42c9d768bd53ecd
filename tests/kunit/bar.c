// SPDX-License-Identifier: GPL-2.0-only
/*
 * The BAR registers against a byte-wise model of config space
 *
 * The model knows of each byte whether it belongs to an emulated register, and
 * which of its bits hold what is written. It is made from the numbers that a
 * region reports, and shares no code with the driver.
 */
#include <kunit/test.h>
#include <linux/prandom.h>

#include "../../nvgrace_gpu.h"

#define GIB(n)		((u64)(n) << 30)
#define MIB(n)		((u64)(n) << 20)

/* The header of a function: all BARs, and registers on both sides. */
#define CONFIG_SIZE	0x40
/* 64-bit, prefetchable memory */
#define FLAGS		0xc

struct layout {
	const char *name;
	unsigned int nr_regions;
	struct {
		unsigned int bar;
		u64 size;
	} regions[NVGRACE_GPU_MAX_REGIONS];
};

static const struct layout layouts[] = {
	{ "128 GiB in BAR2, 1 GiB in BAR4", 2, { { 2, GIB(128) }, { 4, GIB(1) } } },
	{ "128 GiB in BAR4, 1 GiB in BAR2", 2, { { 4, GIB(128) }, { 2, GIB(1) } } },
	/* The size bit is the highest of the lower half, or lowest of the upper. */
	{ "512 MiB in BAR2, 2 GiB in BAR4", 2, { { 2, MIB(512) }, { 4, GIB(2) } } },
	{ "4 GiB in BAR4, 2 GiB in BAR2", 2, { { 4, GIB(4) }, { 2, GIB(2) } } },
	{ "1 TiB in BAR2, 2 GiB in BAR4", 2, { { 2, GIB(1024) }, { 4, GIB(2) } } },
	{ "256 GiB in BAR4, no carve-out", 1, { { 4, GIB(256) } } },
	{ "a page in BAR4, no carve-out", 1, { { 4, SZ_4K } } },
	{ "none", 0 },
};

KUNIT_ARRAY_PARAM_DESC(layout, layouts, name);

struct config {
	/* The driver's side: the regions, and what is the device's own. */
	struct nvgrace_gpu_region regions[NVGRACE_GPU_MAX_REGIONS];
	unsigned int nr_regions;
	u8 own[CONFIG_SIZE];

	/* The model */
	u8 bytes[CONFIG_SIZE];
	u8 writable[CONFIG_SIZE];
};

/* What main.c does of a read or write, with its own pieces going to OWN. */
static void config_access(struct kunit *test, struct config *config, u64 pos,
			  size_t count, u8 *buf, bool iswrite)
{
	size_t done, piece;

	for (done = 0; done < count; done += piece) {
		const struct nvgrace_gpu_region *hit;
		struct nvgrace_gpu_region *region;
		unsigned int offset;

		piece = nvgrace_gpu_bar_next(config->regions, config->nr_regions,
					     pos + done, count - done, &hit);
		KUNIT_ASSERT_GT(test, piece, 0);
		KUNIT_ASSERT_LE(test, piece, count - done);

		if (!hit) {
			if (iswrite)
				memcpy(config->own + pos + done, buf + done, piece);
			else
				memcpy(buf + done, config->own + pos + done, piece);
			continue;
		}

		region = &config->regions[hit - config->regions];
		offset = pos + done - nvgrace_gpu_bar_offset(region);
		KUNIT_ASSERT_LE(test, offset + piece, 8);
		if (iswrite)
			nvgrace_gpu_bar_write(region, offset, piece, buf + done);
		else
			nvgrace_gpu_bar_read(region, offset, piece, buf + done);
	}
}

static void expect_read(struct kunit *test, struct config *config, u64 pos,
			size_t count)
{
	u8 buf[CONFIG_SIZE];

	config_access(test, config, pos, count, buf, false);
	KUNIT_ASSERT_MEMEQ_MSG(test, buf, config->bytes + pos, count,
			       "read of %zu bytes at 0x%llx", count, pos);
}

static void do_write(struct kunit *test, struct config *config, u64 pos,
		     size_t count, const u8 *bytes)
{
	u8 buf[CONFIG_SIZE];
	size_t i;

	memcpy(buf, bytes, count);
	config_access(test, config, pos, count, buf, true);

	for (i = 0; i < count; i++) {
		u8 writable = config->writable[pos + i];

		config->bytes[pos + i] = (config->bytes[pos + i] & ~writable) |
					 (bytes[i] & writable);
	}
}

static u64 read_bar(struct kunit *test, struct config *config, unsigned int bar)
{
	__le64 value;

	config_access(test, config, 0x10 + 4 * bar, 8, (u8 *)&value, false);
	return le64_to_cpu(value);
}

static void write_bar(struct kunit *test, struct config *config,
		      unsigned int bar, u64 value)
{
	__le64 raw = cpu_to_le64(value);

	do_write(test, config, 0x10 + 4 * bar, 8, (u8 *)&raw);
}

/* As after a reset: the emulated registers hold flags only. */
static struct config *new_config(struct kunit *test)
{
	const struct layout *layout = test->param_value;
	struct config *config;
	unsigned int r, i;

	config = kunit_kzalloc(test, sizeof(*config), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, config);

	for (i = 0; i < CONFIG_SIZE; i++) {
		config->own[i] = 0xa0 ^ i;
		config->bytes[i] = config->own[i];
		config->writable[i] = 0xff;
	}

	config->nr_regions = layout->nr_regions;
	for (r = 0; r < layout->nr_regions; r++) {
		unsigned int bar = layout->regions[r].bar, at = 0x10 + 4 * bar;
		u64 size = layout->regions[r].size;

		config->regions[r].index = VFIO_PCI_BAR0_REGION_INDEX + bar;
		config->regions[r].bar_size = size;
		for (i = 0; i < 8; i++) {
			config->bytes[at + i] = i ? 0 : FLAGS;
			config->writable[at + i] = -size >> (8 * i);
		}
	}
	return config;
}

/* Each read and write that there can be in the header, one by one. */
static void every_offset_and_length(struct kunit *test)
{
	struct config *config = new_config(test);
	u8 bytes[CONFIG_SIZE];
	u64 pos;
	size_t count;
	u8 seed = 0;

	for (pos = 0; pos < CONFIG_SIZE; pos++) {
		for (count = 1; count <= CONFIG_SIZE - pos; count++) {
			/* Never 0 and ever new, so that no write is lost on us. */
			memset(bytes, ++seed | 0x10, sizeof(bytes));
			do_write(test, config, pos, count, bytes);
			expect_read(test, config, 0, CONFIG_SIZE);
			expect_read(test, config, pos, count);
		}
	}
}

static void random_accesses(struct kunit *test)
{
	struct config *config = new_config(test);
	u8 bytes[CONFIG_SIZE];
	struct rnd_state rnd;
	int i;

	prandom_seed_state(&rnd, 0x2345);
	for (i = 0; i < 20000; i++) {
		u32 r = prandom_u32_state(&rnd);
		u64 pos = r % CONFIG_SIZE;
		size_t count = 1 + (r >> 8) % (CONFIG_SIZE - pos);

		if (r >> 31) {
			prandom_bytes_state(&rnd, bytes, count);
			do_write(test, config, pos, count, bytes);
		} else {
			expect_read(test, config, pos, count);
		}
	}
	expect_read(test, config, 0, CONFIG_SIZE);
}

/* As a guest sizes a BAR: all ones to it, and the lowest bit that sticks. */
static void sizing(struct kunit *test)
{
	const struct layout *layout = test->param_value;
	struct config *config = new_config(test);
	unsigned int r;

	for (r = 0; r < layout->nr_regions; r++) {
		unsigned int bar = layout->regions[r].bar;

		write_bar(test, config, bar, U64_MAX);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar),
				-layout->regions[r].size | FLAGS);

		/* Nothing sticks of what is below the size. */
		write_bar(test, config, bar, layout->regions[r].size - 1);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar), FLAGS);

		write_bar(test, config, bar, 0);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar), FLAGS);
	}
}

/* Each half keeps its value when the other one is written. */
static void halves(struct kunit *test)
{
	const struct layout *layout = test->param_value;
	struct config *config = new_config(test);
	const u8 ones[4] = { 0xff, 0xff, 0xff, 0xff }, zeroes[4] = {};
	unsigned int r;

	for (r = 0; r < layout->nr_regions; r++) {
		unsigned int bar = layout->regions[r].bar, at = 0x10 + 4 * bar;
		u64 all = -layout->regions[r].size | FLAGS;

		do_write(test, config, at, 4, ones);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar), (u32)all);
		do_write(test, config, at + 4, 4, ones);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar), all);
		do_write(test, config, at, 4, zeroes);
		KUNIT_EXPECT_EQ(test, read_bar(test, config, bar),
				(all & ~(u64)U32_MAX) | FLAGS);
	}
}

static void reset(struct kunit *test)
{
	const struct layout *layout = test->param_value;
	struct config *config = new_config(test);
	unsigned int r;

	for (r = 0; r < layout->nr_regions; r++)
		write_bar(test, config, layout->regions[r].bar, U64_MAX);

	nvgrace_gpu_bar_reset(config->regions, config->nr_regions);

	for (r = 0; r < layout->nr_regions; r++)
		KUNIT_EXPECT_EQ(test, read_bar(test, config,
					       layout->regions[r].bar), FLAGS);
}

/* A region past the number given is not touched. */
static void reset_of_the_first(struct kunit *test)
{
	struct nvgrace_gpu_region regions[] = {
		{ .bar_value = GIB(128) }, { .bar_value = GIB(256) },
	};

	nvgrace_gpu_bar_reset(regions, 1);
	KUNIT_EXPECT_EQ(test, regions[0].bar_value, 0);
	KUNIT_EXPECT_EQ(test, regions[1].bar_value, GIB(256));
}

/* The two registers side by side: BAR2 at 0x18, BAR4 at 0x20, up to 0x28. */
struct cut {
	const char *name;
	u64 pos;
	size_t count;
	size_t piece;
	int hit;	/* BAR, or -1 for none */
};

static const struct cut cuts[] = {
	{ "up to the first", 0x10, 8, 8, -1 },
	{ "into the first", 0x10, 9, 8, -1 },
	{ "over both", 0, 0x100, 0x18, -1 },
	{ "the byte before", 0x17, 1, 1, -1 },
	{ "from the byte before", 0x17, 2, 1, -1 },
	{ "first byte", 0x18, 1, 1, 2 },
	{ "the first", 0x18, 8, 8, 2 },
	{ "the first and a byte", 0x18, 9, 8, 2 },
	{ "upper half of the first", 0x1c, 4, 4, 2 },
	{ "last byte of the first", 0x1f, 2, 1, 2 },
	{ "first byte of the second", 0x20, 1, 1, 4 },
	{ "the second and a byte", 0x20, 9, 8, 4 },
	{ "last byte of the second", 0x27, 2, 1, 4 },
	{ "the byte after", 0x28, 1, 1, -1 },
	{ "all after", 0x28, 0xfd8, 0xfd8, -1 },
	{ "offset and count that no config space has", U64_MAX, SIZE_MAX, SIZE_MAX, -1 },
};

KUNIT_ARRAY_PARAM_DESC(cut, cuts, name);

static void access_is_cut(struct kunit *test)
{
	const struct cut *c = test->param_value;
	int first;

	/* In the array either BAR may come first. */
	for (first = 2; first <= 4; first += 2) {
		const struct nvgrace_gpu_region regions[] = {
			{ .index = first }, { .index = 6 - first },
		};
		const struct nvgrace_gpu_region *hit;

		KUNIT_EXPECT_EQ(test, c->piece,
				nvgrace_gpu_bar_next(regions, 2, c->pos,
						     c->count, &hit));
		KUNIT_EXPECT_EQ(test, c->hit, hit ? (int)hit->index : -1);
	}
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(every_offset_and_length, layout_gen_params),
	KUNIT_CASE_PARAM(random_accesses, layout_gen_params),
	KUNIT_CASE_PARAM(sizing, layout_gen_params),
	KUNIT_CASE_PARAM(halves, layout_gen_params),
	KUNIT_CASE_PARAM(reset, layout_gen_params),
	KUNIT_CASE(reset_of_the_first),
	KUNIT_CASE_PARAM(access_is_cut, cut_gen_params),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_bar",
	.test_cases = cases,
};

kunit_test_suite(suite);
