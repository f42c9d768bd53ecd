// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where the coherent memory is, in sysfs: for VMMs and tools, which would take it from the PCI
 * device's resource file and find the physical BARs there.
 * Documentation/ABI/testing/sysfs-bus-pci-devices-nvgrace_gpu describes the files.
 */
#include <linux/device.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "nvgrace_gpu.h"

/* The region that a file is about, or NULL if this GPU has none of that name. */
static const struct nvgrace_gpu_region *attr_region(struct device *dev,
						    struct device_attribute *attr)
{
	const char *name = container_of(attr, struct dev_ext_attribute, attr)->var;
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(dev));
	unsigned int i;

	for (i = 0; i < nvdev->nr_regions; i++) {
		if (!strcmp(nvdev->regions[i].name, name))
			return &nvdev->regions[i];
	}
	return NULL;
}

static ssize_t base_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%#llx\n", (u64)attr_region(dev, attr)->base);
}

static ssize_t backed_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%zu\n", attr_region(dev, attr)->backed);
}

static ssize_t bar_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", attr_region(dev, attr)->index);
}

static ssize_t bar_size_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", attr_region(dev, attr)->bar_size);
}

#define REGION_ATTR(region, file, mode)						\
	static struct dev_ext_attribute region##_##file = {			\
		.attr = __ATTR(region##_##file, mode, file##_show, NULL),	\
		.var = #region,							\
	}

/* Physical addresses are for root only, as in /proc/iomem. */
REGION_ATTR(usemem, base, 0400);
REGION_ATTR(usemem, backed, 0444);
REGION_ATTR(usemem, bar, 0444);
REGION_ATTR(usemem, bar_size, 0444);
REGION_ATTR(resmem, base, 0400);
REGION_ATTR(resmem, backed, 0444);
REGION_ATTR(resmem, bar, 0444);
REGION_ATTR(resmem, bar_size, 0444);

static ssize_t handover_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	static const char * const names[] = {
		[NVGRACE_GPU_NO_OWNER] = "none",
		[NVGRACE_GPU_NOT_RESET] = "not reset",
		[NVGRACE_GPU_RESET] = "reset",
		[NVGRACE_GPU_ZEROING] = "zeroing",
		[NVGRACE_GPU_ZEROED] = "zeroed",
	};
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(dev));
	enum nvgrace_gpu_handover handover = READ_ONCE(nvdev->handover);

	if (handover < NVGRACE_GPU_ZEROING)
		return sysfs_emit(buf, "%s\n", names[handover]);
	return sysfs_emit(buf, "%s %lld\n", names[handover],
			  (s64)atomic64_read(&nvdev->zeroed));
}
static DEVICE_ATTR_RO(handover);

static struct attribute *nvgrace_gpu_attrs[] = {
	&usemem_base.attr.attr,
	&usemem_backed.attr.attr,
	&usemem_bar.attr.attr,
	&usemem_bar_size.attr.attr,
	&resmem_base.attr.attr,
	&resmem_backed.attr.attr,
	&resmem_bar.attr.attr,
	&resmem_bar_size.attr.attr,
	&dev_attr_handover.attr,
	NULL
};

static umode_t attr_is_visible(struct kobject *kobj, struct attribute *attr, int n)
{
	struct device_attribute *dev_attr = container_of(attr, struct device_attribute, attr);

	if (dev_attr == &dev_attr_handover)
		return attr->mode;
	return attr_region(kobj_to_dev(kobj), dev_attr) ? attr->mode : 0;
}

static const struct attribute_group nvgrace_gpu_group = {
	.name = "nvgrace_gpu",
	.attrs = nvgrace_gpu_attrs,
	.is_visible = attr_is_visible,
};

/* The driver core makes the files when probe is over, and removes them before .remove. */
const struct attribute_group *nvgrace_gpu_dev_groups[] = {
	&nvgrace_gpu_group,
	NULL
};
