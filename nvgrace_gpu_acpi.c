// SPDX-License-Identifier: GPL-2.0-only
/*
 * The GPU's coherent memory, as firmware describes it
 *
 * The _DSD of the device's ACPI companion names it in two properties, both
 * unsigned 64-bit integers. Firmware is input like any other: whatever is not
 * exactly right fails the probe, with a line that names the property.
 */
#include <linux/acpi.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/overflow.h>
#include <linux/property.h>

#include "nvgrace_gpu.h"

static int read_property(struct device *dev, const char *name, u64 *value)
{
	int ret = device_property_read_u64(dev, name, value);

	/* device_property_read_u64() reads the first value of a list. */
	if (!ret && device_property_count_u64(dev, name) != 1)
		ret = -EPROTO;
	if (ret)
		return dev_err_probe(dev, ret,
				     "%s: not an unsigned 64-bit integer\n",
				     name);
	return 0;
}

static int check_page_aligned(struct device *dev, const char *name, u64 value)
{
	if (PAGE_ALIGNED(value))
		return 0;
	return dev_err_probe(dev, -EINVAL,
			     "%s: 0x%llx is not a multiple of the page size, 0x%lx\n",
			     name, value, PAGE_SIZE);
}

static int bad_value(struct device *dev, int err, const char *name, u64 value,
		     const char *why)
{
	return dev_err_probe(dev, err, "%s: 0x%llx %s\n", name, value, why);
}

static int bad_range(struct device *dev, int err, u64 base, u64 size,
		     const char *why)
{
	return dev_err_probe(dev, err, "%s: 0x%llx + %s 0x%llx %s\n",
			     NVGRACE_GPU_PROP_BASE, base, NVGRACE_GPU_PROP_SIZE,
			     size, why);
}

static int check_range(struct device *dev, u64 base, u64 size)
{
	u64 end;
	int ret;

	if (!size)
		return bad_value(dev, -ENOLINK, NVGRACE_GPU_PROP_SIZE, size,
				 "means that the C2C link to the GPU did not come up");
	if (base > type_max(phys_addr_t))
		return bad_value(dev, -EOVERFLOW, NVGRACE_GPU_PROP_BASE, base,
				 "is beyond phys_addr_t");
	if (size > type_max(size_t))
		return bad_value(dev, -EOVERFLOW, NVGRACE_GPU_PROP_SIZE, size,
				 "is beyond size_t");

	ret = check_page_aligned(dev, NVGRACE_GPU_PROP_BASE, base);
	if (ret)
		return ret;
	ret = check_page_aligned(dev, NVGRACE_GPU_PROP_SIZE, size);
	if (ret)
		return ret;

	if (check_add_overflow(base, size, &end))
		return bad_range(dev, -EOVERFLOW, base, size, "wraps around");
	if (end > BIT_ULL(MAX_PHYSMEM_BITS))
		return bad_range(dev, -EOVERFLOW, base, size,
				 "ends beyond what this kernel can address");

	/*
	 * Handing out the kernel's own memory, or mapping it with a second set
	 * of attributes, would be worse than having no GPU.
	 */
	if (region_intersects(base, size, IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT)
		return bad_range(dev, -EBUSY, base, size, "overlaps System RAM");

	return 0;
}

/**
 * nvgrace_gpu_acpi_range() - read and check the range that firmware names
 * @dev: the GPU, with its firmware node
 * @range: filled in on success, else untouched
 *
 * Every failure but -ENOENT is logged, with the property and what was read.
 *
 * Context: Process context, may sleep.
 * Return: 0; -ENOENT if neither property is there (the bare-metal presentation,
 * no error); -EINVAL if the base is missing, or a value is not page-aligned;
 * -ENOLINK if the size is missing or 0; -EOVERFLOW if the range wraps or lies beyond what
 * can be addressed; -EBUSY if it overlaps System RAM; -EPROTO if a property is a list; or
 * what device_property_read_u64() says of a value that is not a u64.
 */
int nvgrace_gpu_acpi_range(struct device *dev, struct nvgrace_gpu_range *range)
{
	bool has_base = device_property_present(dev, NVGRACE_GPU_PROP_BASE);
	bool has_size = device_property_present(dev, NVGRACE_GPU_PROP_SIZE);
	u64 base = 0, size = 0;
	int ret;

	if (!has_base && !has_size) {
		/* The kernel drops all properties of a package for one that is malformed. */
		if (has_acpi_companion(dev) && acpi_has_method(ACPI_HANDLE(dev), "_DSD"))
			dev_warn(dev, "_DSD: the kernel finds neither %s nor %s in it: the GPU has no coherent memory, or the package is malformed\n",
				 NVGRACE_GPU_PROP_BASE, NVGRACE_GPU_PROP_SIZE);
		return -ENOENT;
	}

	if (has_base) {
		ret = read_property(dev, NVGRACE_GPU_PROP_BASE, &base);
		if (ret)
			return ret;
	}
	if (has_size) {
		ret = read_property(dev, NVGRACE_GPU_PROP_SIZE, &size);
		if (ret)
			return ret;
	}

	/* Firmware leaves the size out, or says 0, if the link did not come up. */
	if (!has_size)
		return bad_value(dev, -ENOLINK, NVGRACE_GPU_PROP_BASE, base,
				 "without " NVGRACE_GPU_PROP_SIZE
				 " means that the C2C link to the GPU did not come up");
	if (!has_base)
		return bad_value(dev, -EINVAL, NVGRACE_GPU_PROP_SIZE, size,
				 "without " NVGRACE_GPU_PROP_BASE);

	ret = check_range(dev, base, size);
	if (ret)
		return ret;

	range->base = base;
	range->size = size;
	return 0;
}
