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
#include <linux/slab.h>
#include <linux/string.h>

#include "nvgrace_gpu.h"

/* A name is 3 deep in a _DSD that is right. Firmware does not choose how deep this recurses. */
#define DSD_DEPTH	8

static bool is_named_in(const union acpi_object *obj, const char *name, unsigned int depth)
{
	u32 i;

	if (obj->type == ACPI_TYPE_STRING)
		return !strcmp(obj->string.pointer, name);
	if (obj->type != ACPI_TYPE_PACKAGE || depth == DSD_DEPTH)
		return false;
	for (i = 0; i < obj->package.count; i++) {
		if (is_named_in(&obj->package.elements[i], name, depth + 1))
			return true;
	}
	return false;
}

/*
 * The kernel drops a whole package of properties for one that is malformed. Then the GPU
 * would look like one without coherent memory, so look for the name in _DSD itself.
 *
 * Returns 0 if it is not there, or an error, which is logged but for -ENOMEM.
 */
static int check_not_rejected(struct device *dev, const char *name)
{
	struct acpi_buffer dsd = { ACPI_ALLOCATE_BUFFER };
	acpi_status status;
	bool found;

	if (!ACPI_HANDLE(dev))
		return 0;
	status = acpi_evaluate_object(ACPI_HANDLE(dev), "_DSD", NULL, &dsd);
	if (status == AE_NOT_FOUND)
		return 0;
	if (status == AE_NO_MEMORY)
		return -ENOMEM;
	if (ACPI_FAILURE(status))
		return dev_err_probe(dev, -EPROTO, "_DSD: cannot be evaluated: %s\n",
				     acpi_format_exception(status));

	found = dsd.pointer && is_named_in(dsd.pointer, name, 0);
	kfree(dsd.pointer);
	if (!found)
		return 0;
	return dev_err_probe(dev, -EPROTO,
			     "%s: is in _DSD, but the kernel takes it for no device property: the package is malformed, or its UUID is another\n",
			     name);
}

static int read_property(struct device *dev, const char *name, u64 *value)
{
	int ret = device_property_read_u64(dev, name, value);

	/* Of a list device_property_read_u64() reads the first value. */
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
 * Every failure but -ENOENT and -ENOMEM is logged, with the property and what was read.
 *
 * Context: Process context, may sleep.
 * Return: 0; -ENOENT if neither property is there (the bare-metal presentation,
 * no error); -EINVAL if the base is missing, or a value is not page-aligned;
 * -ENOLINK if the size is missing or 0; -EOVERFLOW if the range wraps or lies beyond what
 * can be addressed; -EBUSY if it overlaps System RAM; -EPROTO if a property is in _DSD in a
 * form that the kernel rejects, or is a list, or if _DSD cannot be evaluated; -ENOMEM; or what
 * device_property_read_u64() says of a value that is not a u64.
 */
int nvgrace_gpu_acpi_range(struct device *dev, struct nvgrace_gpu_range *range)
{
	bool has_base = device_property_present(dev, NVGRACE_GPU_PROP_BASE);
	bool has_size = device_property_present(dev, NVGRACE_GPU_PROP_SIZE);
	u64 base = 0, size = 0;
	int ret;

	if (!has_base) {
		ret = check_not_rejected(dev, NVGRACE_GPU_PROP_BASE);
		if (ret)
			return ret;
	}
	if (!has_size) {
		ret = check_not_rejected(dev, NVGRACE_GPU_PROP_SIZE);
		if (ret)
			return ret;
	}
	if (!has_base && !has_size)
		return -ENOENT;

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
