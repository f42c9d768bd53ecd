// SPDX-License-Identifier: GPL-2.0-only
/*
 * The GPU's coherent memory and its socket's EGM, as firmware describes them
 *
 * The _DSD of the device's ACPI companion names each in properties, all of them
 * unsigned 64-bit integers. Firmware is input like any other: coherent memory that is not
 * exactly right fails the probe, and EGM is not served then, with a line that names the property.
 */
#include <linux/acpi.h>
#include <linux/efi.h>
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

/**
 * struct range_rule - what a range of memory in firmware is called
 * @base: property of the base
 * @size: property of the size
 * @no_size: what a size of 0 means
 * @ram: what it means if the range is System RAM
 */
struct range_rule {
	const char *base;
	const char *size;
	const char *no_size;
	const char *ram;
};

static const struct range_rule gpu_rule = {
	.base = NVGRACE_GPU_PROP_BASE,
	.size = NVGRACE_GPU_PROP_SIZE,
	.no_size = "means that the C2C link to the GPU did not come up",
	.ram = "overlaps System RAM",
};

static const struct range_rule egm_rule = {
	.base = NVGRACE_GPU_PROP_EGM_BASE,
	.size = NVGRACE_GPU_PROP_EGM_SIZE,
	.no_size = "is not the size of an EGM region",
	.ram = "overlaps System RAM: firmware has EGM on, but not its hypervisor mode",
};

static int bad_value(struct device *dev, int err, const char *name, u64 value,
		     const char *why)
{
	return dev_err_probe(dev, err, "%s: 0x%llx %s\n", name, value, why);
}

static int bad_range(struct device *dev, int err, const struct range_rule *rule, u64 base,
		     u64 size, const char *why)
{
	return dev_err_probe(dev, err, "%s: 0x%llx + %s 0x%llx %s\n",
			     rule->base, base, rule->size, size, why);
}

/*
 * Does EFI or ACPI use a part of the range at run time? /proc/iomem cannot tell: it calls EFI's
 * memory "reserved", like EGM, and does not list EFI's devices.
 */
static bool firmware_uses(u64 base, u64 size)
{
	const efi_memory_desc_t *md;

	if (!efi_enabled(EFI_MEMMAP))
		return false;
	for_each_efi_memory_desc(md) {
		if (!(md->attribute & EFI_MEMORY_RUNTIME) && md->type != EFI_ACPI_MEMORY_NVS)
			continue;
		if (md->phys_addr < base + size &&
		    base < md->phys_addr + (md->num_pages << EFI_PAGE_SHIFT))
			return true;
	}
	return false;
}

static int check_range(struct device *dev, const struct range_rule *rule, u64 base, u64 size)
{
	u64 end;
	int ret;

	if (!size)
		return bad_value(dev, -ENOLINK, rule->size, size, rule->no_size);
	if (base > type_max(phys_addr_t))
		return bad_value(dev, -EOVERFLOW, rule->base, base, "is beyond phys_addr_t");
	if (size > type_max(size_t))
		return bad_value(dev, -EOVERFLOW, rule->size, size, "is beyond size_t");

	ret = check_page_aligned(dev, rule->base, base);
	if (ret)
		return ret;
	ret = check_page_aligned(dev, rule->size, size);
	if (ret)
		return ret;

	if (check_add_overflow(base, size, &end))
		return bad_range(dev, -EOVERFLOW, rule, base, size, "wraps around");
	if (end > BIT_ULL(MAX_PHYSMEM_BITS))
		return bad_range(dev, -EOVERFLOW, rule, base, size,
				 "ends beyond what this kernel can address");

	/*
	 * Handing out the kernel's own memory, or mapping it with a second set
	 * of attributes, would be worse than having no GPU.
	 */
	if (region_intersects(base, size, IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT)
		return bad_range(dev, -EBUSY, rule, base, size, rule->ram);
	if (firmware_uses(base, size))
		return bad_range(dev, -EBUSY, rule, base, size,
				 "overlaps memory that EFI or ACPI uses at run time");

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
 * can be addressed; -EBUSY if it overlaps System RAM, or memory of EFI or ACPI; -EPROTO if a
 * property is a list; or what device_property_read_u64() says of a value that is not a u64.
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

	ret = check_range(dev, &gpu_rule, base, size);
	if (ret)
		return ret;

	range->base = base;
	range->size = size;
	return 0;
}

/**
 * nvgrace_gpu_acpi_egm() - read and check what firmware says of the socket's EGM
 * @dev: the GPU, with its firmware node
 * @info: filled in on success, else untouched
 *
 * Every failure but -ENOENT is logged, with the property and what was read.
 *
 * Context: Process context, may sleep.
 * Return: 0; -ENOENT if none of the three properties is there; -EINVAL if one of the three is
 * missing, a value is not page-aligned, or the proximity domain is not one; otherwise as
 * nvgrace_gpu_acpi_range().
 */
int nvgrace_gpu_acpi_egm(struct device *dev, struct nvgrace_gpu_egm_info *info)
{
	static const char * const names[] = {
		NVGRACE_GPU_PROP_EGM_BASE, NVGRACE_GPU_PROP_EGM_SIZE, NVGRACE_GPU_PROP_EGM_PXM,
		NVGRACE_GPU_PROP_EGM_RETIRED,
	};
	u64 values[ARRAY_SIZE(names)] = {};
	unsigned int present = 0;
	int i, ret;

	for (i = 0; i < ARRAY_SIZE(names); i++) {
		if (!device_property_present(dev, names[i]))
			continue;
		present |= BIT(i);
		ret = read_property(dev, names[i], &values[i]);
		if (ret)
			return ret;
	}
	if (!(present & 7))
		return -ENOENT;
	if ((present & 7) != 7)
		return dev_err_probe(dev, -EINVAL,
				     "%s: missing, though firmware has others of EGM\n",
				     names[ffz(present)]);

	ret = check_range(dev, &egm_rule, values[0], values[1]);
	if (ret)
		return ret;
	if (values[2] > type_max(u32))
		return bad_value(dev, -EINVAL, names[2], values[2],
				 "is not a proximity domain, which has 32 bits");

	*info = (struct nvgrace_gpu_egm_info) {
		.range = { .base = values[0], .size = values[1] },
		.pxm = values[2],
		.retired = values[3],
	};
	return 0;
}
