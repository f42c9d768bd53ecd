// SPDX-License-Identifier: GPL-2.0-only
/*
 * Properties from firmware, with software nodes in place of ACPI's
 *
 * They differ in one point: a software node does not check types, so a read of a
 * string returns the pointer. That is odd, and no check accepts an odd value.
 */
#include <kunit/device.h>
#include <kunit/resource.h>
#include <kunit/test.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/property.h>

#include "../../nvgrace_gpu.h"

/* No machine has anything there, near the end of 46 bits. The size can be split. */
#define BASE		(60ULL << 40)
#define SIZE		(SZ_1G + SZ_512M)
/* The last page of the 64-bit space, after which addresses wrap around. */
#define LAST_PAGE	(U64_MAX & PAGE_MASK)

KUNIT_DEFINE_ACTION_WRAPPER(remove_node, device_remove_software_node,
			    struct device *);

/* Does anybody, the driver or the kernel itself, have a piece of the range? */
static int claimed(u64 base, u64 size)
{
	return region_intersects(base, size, IORESOURCE_MEM | IORESOURCE_BUSY,
				 IORES_DESC_NONE);
}

static struct device *add_device(struct kunit *test, const struct property_entry *props)
{
	struct software_node *node;
	struct device *dev;

	dev = kunit_device_register(test, "gpu");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dev);
	node = kunit_kzalloc(test, sizeof(*node), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, node);
	node->properties = props;
	KUNIT_ASSERT_EQ(test, device_add_software_node(dev, node), 0);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, remove_node, dev), 0);
	return dev;
}

static void remove_device(struct kunit *test, struct device *dev)
{
	kunit_release_action(test, remove_node, dev);
	kunit_device_unregister(test, dev);
}

/*
 * Call nvgrace_gpu_acpi_range() for a device with these properties. On failure it
 * must not touch the range, and it never claims anything.
 */
static int read_range(struct kunit *test, const struct property_entry *props,
		      struct nvgrace_gpu_range *range)
{
	const struct nvgrace_gpu_range untouched = { .base = 42, .size = 43 };
	int ret, was_claimed = claimed(BASE, SIZE);
	struct device *dev = add_device(test, props);

	*range = untouched;
	ret = nvgrace_gpu_acpi_range(dev, range);
	if (ret) {
		KUNIT_EXPECT_EQ(test, range->base, untouched.base);
		KUNIT_EXPECT_EQ(test, range->size, untouched.size);
	}
	KUNIT_EXPECT_EQ(test, claimed(BASE, SIZE), was_claimed);

	remove_device(test, dev);
	return ret;
}

static int read_values(struct kunit *test, u64 base, u64 size,
		       struct nvgrace_gpu_range *range)
{
	const struct property_entry props[] = {
		PROPERTY_ENTRY_U64(NVGRACE_GPU_PROP_BASE, base),
		PROPERTY_ENTRY_U64(NVGRACE_GPU_PROP_SIZE, size),
		{}
	};

	return read_range(test, props, range);
}

/* Each kind of base is tried with each kind of size. */
enum kind { ABSENT, ZERO, ONE, PAGE, GOOD, A_BYTE_OFF, LAST, MAX, U32, STRING, NR_KINDS };

static const char * const kind_names[] = {
	"absent", "0", "1", "a page", "good", "a byte off", "the last page",
	"the largest u64", "u32", "string",
};

struct base_case {
	const char *name;
	enum kind base;
	int ret[NR_KINDS];	/* by the kind of the size */
};

/*
 * The driver checks the types first, then whether a value is missing, size 0, the
 * alignment, and wrap-around. Without a size the link is down, as with size 0. Base 0
 * may overlap System RAM, and has a test below.
 */
#define NONE	(-ENOENT)
#define INV	(-EINVAL)
#define LINK	(-ENOLINK)
#define OVER	(-EOVERFLOW)
static const struct base_case base_cases[] = {
	/* size: absent, 0, 1, a page, good, a byte off, last page, largest, u32, string */
	{ "absent", ABSENT,
	  { NONE, INV, INV, INV, INV, INV, INV, INV, OVER, INV } },
	{ "1", ONE,
	  { LINK, LINK, INV, INV, INV, INV, INV, INV, OVER, INV } },
	{ "good", GOOD,
	  { LINK, LINK, INV, 0, 0, INV, OVER, INV, OVER, INV } },
	{ "a byte off", A_BYTE_OFF,
	  { LINK, LINK, INV, INV, INV, INV, INV, INV, OVER, INV } },
	{ "the last page", LAST,
	  { LINK, LINK, INV, OVER, OVER, INV, OVER, INV, OVER, INV } },
	{ "the largest u64", MAX,
	  { LINK, LINK, INV, INV, INV, INV, INV, INV, OVER, INV } },
	{ "u32", U32,
	  { OVER, OVER, OVER, OVER, OVER, OVER, OVER, OVER, OVER, OVER } },
	{ "string", STRING,
	  { LINK, LINK, INV, INV, INV, INV, INV, INV, OVER, INV } },
};

KUNIT_ARRAY_PARAM_DESC(base, base_cases, name);

/* Appends a property unless it is to be absent. */
static struct property_entry *add(struct property_entry *prop, const char *name,
				  enum kind kind, u64 good)
{
	static const char text[] __aligned(2) = "_0x3c0000000000";
	const u64 values[] = {
		[ZERO] = 0, [ONE] = 1, [PAGE] = PAGE_SIZE, [GOOD] = good,
		[A_BYTE_OFF] = good + 1, [LAST] = LAST_PAGE, [MAX] = U64_MAX,
	};

	switch (kind) {
	case ABSENT:
		return prop;
	case U32:
		*prop = PROPERTY_ENTRY_U32(name, 0x10000);
		break;
	case STRING:
		*prop = PROPERTY_ENTRY_STRING(name, text + 1);
		break;
	default:
		*prop = PROPERTY_ENTRY_U64(name, values[kind]);
	}
	return prop + 1;
}

static void base_with_every_size(struct kunit *test)
{
	const struct base_case *c = test->param_value;
	enum kind size;

	for (size = 0; size < NR_KINDS; size++) {
		struct property_entry props[3] = {}, *prop = props;
		struct nvgrace_gpu_range range;

		prop = add(prop, NVGRACE_GPU_PROP_BASE, c->base, BASE);
		prop = add(prop, NVGRACE_GPU_PROP_SIZE, size, SIZE);
		KUNIT_EXPECT_EQ_MSG(test, read_range(test, props, &range),
				    c->ret[size], "size: %s", kind_names[size]);
	}
}

static void good_range_is_read(struct kunit *test)
{
	struct nvgrace_gpu_range range;

	KUNIT_ASSERT_EQ(test, read_values(test, BASE, SIZE, &range), 0);
	KUNIT_EXPECT_EQ(test, range.base, BASE);
	KUNIT_EXPECT_EQ(test, range.size, SIZE);
}

/* Half a page is not aligned, and a page is, whatever the kernel's page size. */
static void alignment_is_to_pages(struct kunit *test)
{
	struct nvgrace_gpu_range range;
	u64 half = PAGE_SIZE / 2;

	KUNIT_EXPECT_EQ(test, -EINVAL, read_values(test, BASE + half, SIZE, &range));
	KUNIT_EXPECT_EQ(test, -EINVAL, read_values(test, BASE, SIZE + half, &range));
	KUNIT_EXPECT_EQ(test, -EINVAL, read_values(test, BASE - 1, SIZE, &range));
	KUNIT_EXPECT_EQ(test, -EINVAL, read_values(test, BASE, SIZE - 1, &range));
	KUNIT_EXPECT_EQ(test, 0, read_values(test, BASE + PAGE_SIZE, SIZE, &range));
	KUNIT_EXPECT_EQ(test, 0, read_values(test, BASE, SIZE + PAGE_SIZE, &range));
}

static void range_wraps_around(struct kunit *test)
{
	struct nvgrace_gpu_range range;

	/* To 0 exactly, to a page, and as far as it goes. */
	KUNIT_EXPECT_EQ(test, -EOVERFLOW,
			read_values(test, -(u64)SIZE, SIZE, &range));
	KUNIT_EXPECT_EQ(test, -EOVERFLOW,
			read_values(test, PAGE_SIZE - (u64)SIZE, SIZE, &range));
	KUNIT_EXPECT_EQ(test, -EOVERFLOW,
			read_values(test, LAST_PAGE, LAST_PAGE, &range));
}

/* phys_addr_t and size_t hold any u64 here; the kernel can map less. */
static void range_is_beyond_what_can_be_addressed(struct kunit *test)
{
	const u64 limit = BIT_ULL(MAX_PHYSMEM_BITS);
	struct nvgrace_gpu_range range;

	/* Ends with the last byte, and a page later. */
	KUNIT_EXPECT_EQ(test, 0, read_values(test, limit - SIZE, SIZE, &range));
	KUNIT_EXPECT_EQ(test, -EOVERFLOW,
			read_values(test, limit - SIZE + PAGE_SIZE, SIZE, &range));
	KUNIT_EXPECT_EQ(test, -EOVERFLOW,
			read_values(test, limit - SIZE, SIZE + PAGE_SIZE, &range));

	KUNIT_EXPECT_EQ(test, -EOVERFLOW, read_values(test, limit, SIZE, &range));
	KUNIT_EXPECT_EQ(test, -EOVERFLOW,
			read_values(test, 0, limit + PAGE_SIZE, &range));
	/* Short of wrapping by a page. */
	KUNIT_EXPECT_EQ(test, -EOVERFLOW,
			read_values(test, LAST_PAGE - SIZE, SIZE, &range));
}

static void range_overlaps_system_ram(struct kunit *test)
{
	void *p = kunit_kzalloc(test, 1, GFP_KERNEL);
	struct nvgrace_gpu_range range;
	u64 ram;

	KUNIT_ASSERT_NOT_NULL(test, p);
	ram = virt_to_phys(p) & PAGE_MASK;

	/* In it, at either end, and somewhere inside. */
	KUNIT_EXPECT_EQ(test, -EBUSY, read_values(test, ram, PAGE_SIZE, &range));
	KUNIT_EXPECT_EQ(test, -EBUSY, read_values(test, ram, SIZE, &range));
	KUNIT_EXPECT_EQ(test, -EBUSY,
			read_values(test, 0, ram + PAGE_SIZE, &range));
	KUNIT_EXPECT_EQ(test, -EBUSY,
			read_values(test, 0, BIT_ULL(MAX_PHYSMEM_BITS), &range));
}

/* A flag without a value is a property that is present, and not a u64. */
static void flag_instead_of_a_value(struct kunit *test)
{
	const struct property_entry props[] = {
		PROPERTY_ENTRY_U64(NVGRACE_GPU_PROP_BASE, BASE),
		PROPERTY_ENTRY_BOOL(NVGRACE_GPU_PROP_SIZE),
		{}
	};
	struct nvgrace_gpu_range range;

	KUNIT_EXPECT_EQ(test, read_range(test, props, &range), -ENODATA);
}

/* A list of one value is that value; in a longer list no value is more right than another. */
static void list_instead_of_a_value(struct kunit *test)
{
	static const u64 bases[] = { BASE, BASE }, sizes[] = { SIZE, SIZE, SIZE };
	const struct property_entry one[] = {
		PROPERTY_ENTRY_U64_ARRAY_LEN(NVGRACE_GPU_PROP_BASE, bases, 1),
		PROPERTY_ENTRY_U64_ARRAY_LEN(NVGRACE_GPU_PROP_SIZE, sizes, 1),
		{}
	};
	const struct property_entry two_bases[] = {
		PROPERTY_ENTRY_U64_ARRAY(NVGRACE_GPU_PROP_BASE, bases),
		PROPERTY_ENTRY_U64(NVGRACE_GPU_PROP_SIZE, SIZE),
		{}
	};
	const struct property_entry three_sizes[] = {
		PROPERTY_ENTRY_U64(NVGRACE_GPU_PROP_BASE, BASE),
		PROPERTY_ENTRY_U64_ARRAY(NVGRACE_GPU_PROP_SIZE, sizes),
		{}
	};
	struct nvgrace_gpu_range range;

	KUNIT_EXPECT_EQ(test, read_range(test, one, &range), 0);
	KUNIT_EXPECT_EQ(test, read_range(test, two_bases, &range), -EPROTO);
	KUNIT_EXPECT_EQ(test, read_range(test, three_sizes, &range), -EPROTO);
}

/* A machine without ACPI has no firmware node at all. */
static void device_without_properties(struct kunit *test)
{
	struct nvgrace_gpu_range range;
	struct device *dev;

	dev = kunit_device_register(test, "gpu");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dev);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_acpi_range(dev, &range), -ENOENT);
}

struct egm_case {
	const char *name;
	u64 base, size, pxm;
	unsigned int absent;	/* bits of base, size, pxm and the list */
	int ret;
};

/* Missing properties come first, then what is wrong with the range, then the domain. */
static const struct egm_case egm_cases[] = {
	{ "good", BASE, SIZE, 4, 0, 0 },
	{ "no list", BASE, SIZE, 4, 8, 0 },
	{ "one page", BASE, PAGE_SIZE, 0, 0, 0 },
	{ "last domain", BASE, SIZE, U32_MAX, 0, 0 },
	{ "nothing", BASE, SIZE, 4, 15, -ENOENT },
	{ "the list alone", BASE, SIZE, 4, 7, -ENOENT },
	{ "no base", BASE, SIZE, 4, 1, -EINVAL },
	{ "no size", BASE, SIZE, 4, 2, -EINVAL },
	{ "no domain", BASE, SIZE, 4, 4, -EINVAL },
	{ "base alone", BASE, SIZE, 4, 6, -EINVAL },
	{ "size alone", BASE, SIZE, 4, 5, -EINVAL },
	{ "domain alone", BASE, SIZE, 4, 3, -EINVAL },
	{ "no base, no size that is right", BASE, 1, 4, 1, -EINVAL },
	{ "size 0", BASE, 0, 4, 0, -ENOLINK },
	{ "base a byte off", BASE + 1, SIZE, 4, 0, -EINVAL },
	{ "size half a page off", BASE, SIZE + PAGE_SIZE / 2, 4, 0, -EINVAL },
	{ "wraps to 0", -(u64)SIZE, SIZE, 4, 0, -EOVERFLOW },
	{ "wraps, domain too large", LAST_PAGE, SIZE, U64_MAX, 0, -EOVERFLOW },
	{ "up to the last byte", BIT_ULL(MAX_PHYSMEM_BITS) - SIZE, SIZE, 4, 0, 0 },
	{ "a page more", BIT_ULL(MAX_PHYSMEM_BITS) - SIZE, SIZE + PAGE_SIZE, 4, 0, -EOVERFLOW },
	{ "around System RAM", 0, BIT_ULL(MAX_PHYSMEM_BITS), 4, 0, -EBUSY },
	{ "domain of 33 bits", BASE, SIZE, 1ULL << 32, 0, -EINVAL },
};

KUNIT_ARRAY_PARAM_DESC(egm, egm_cases, name);

static void egm(struct kunit *test)
{
	static const u64 list = BASE + SIZE;
	const struct egm_case *c = test->param_value;
	const struct property_entry all[] = {
		PROPERTY_ENTRY_U64(NVGRACE_GPU_PROP_EGM_BASE, c->base),
		PROPERTY_ENTRY_U64(NVGRACE_GPU_PROP_EGM_SIZE, c->size),
		PROPERTY_ENTRY_U64(NVGRACE_GPU_PROP_EGM_PXM, c->pxm),
		PROPERTY_ENTRY_U64(NVGRACE_GPU_PROP_EGM_RETIRED, list),
	};
	struct property_entry props[ARRAY_SIZE(all) + 1] = {}, *prop = props;
	struct nvgrace_gpu_egm_info info;
	struct device *dev;
	int i;

	for (i = 0; i < ARRAY_SIZE(all); i++) {
		if (!(c->absent & BIT(i)))
			*prop++ = all[i];
	}
	dev = add_device(test, props);
	KUNIT_EXPECT_EQ(test, c->ret, nvgrace_gpu_acpi_egm(dev, &info));
	if (!c->ret) {
		KUNIT_EXPECT_EQ(test, c->base, info.range.base);
		KUNIT_EXPECT_EQ(test, c->size, info.range.size);
		KUNIT_EXPECT_EQ(test, c->pxm, info.pxm);
		KUNIT_EXPECT_EQ(test, c->absent & BIT(3) ? 0 : list, info.retired);
	}
	remove_device(test, dev);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(base_with_every_size, base_gen_params),
	KUNIT_CASE(good_range_is_read),
	KUNIT_CASE(alignment_is_to_pages),
	KUNIT_CASE(range_wraps_around),
	KUNIT_CASE(range_is_beyond_what_can_be_addressed),
	KUNIT_CASE(range_overlaps_system_ram),
	KUNIT_CASE(flag_instead_of_a_value),
	KUNIT_CASE(list_instead_of_a_value),
	KUNIT_CASE(device_without_properties),
	KUNIT_CASE_PARAM(egm, egm_gen_params),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_acpi",
	.test_cases = cases,
};

kunit_test_suite(suite);
