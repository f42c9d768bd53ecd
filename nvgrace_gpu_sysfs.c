// SPDX-License-Identifier: GPL-2.0-only
/*
 * Files in sysfs say where the memory of a GPU is, for VMMs and tools, which would find the
 * physical BARs in the PCI device's resource file. The other files report its health.
 * Documentation/ABI/testing/sysfs-bus-pci-devices-nvgrace_gpu describes the files.
 *
 * Reading a file wakes no GPU, and takes no lock that a reset holds.
 */
#include <linux/device.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "nvgrace_gpu.h"

#define GROUP	"nvgrace_gpu"

/* No line of poisoned_pages is longer. */
#define MAX_LINE	32

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

static const char *state_name(struct nvgrace_gpu_device *nvdev)
{
	struct pci_dev *pdev = nvdev->core.pdev;
	int verdict = READ_ONCE(nvdev->gate.verdict);
	/* No lock is held: the value may be the old or the new one. */
	pci_power_t power = data_race(pdev->current_state);

	if (verdict == -ENODEV || READ_ONCE(pdev->error_state) == pci_channel_io_perm_failure)
		return "gone";

	switch (READ_ONCE(nvdev->gate.ready)) {
	case NVGRACE_GPU_RECOVERING:
	case NVGRACE_GPU_RESETTING:
		return "resetting";
	default:
		break;
	}

	if (pm_runtime_status_suspended(&pdev->dev) || power == PCI_D3hot || power == PCI_D3cold)
		return "asleep";
	if (READ_ONCE(nvdev->gate.ready) == NVGRACE_GPU_READY)
		return "ready";
	return verdict == -ENOLINK || verdict == -ETIME ? "failed" : "training";
}

static ssize_t state_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	static const char * const names[][NVGRACE_GPU_STATUS_REGS] = {
		{ "c2c_link", "hbm_training" }, { "cxl_range1", "cxl_range2" },
	};
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(dev));
	const struct nvgrace_gpu_status *status = &nvdev->gate.status;
	unsigned int i;
	int len;

	len = sysfs_emit(buf, "%s", state_name(nvdev));
	for (i = 0; i < status->nr; i++)
		len += sysfs_emit_at(buf, len, " %s=%#x", names[!!status->cxl][i],
				     READ_ONCE(status->regs[i]));
	return len + sysfs_emit_at(buf, len, "\n");
}
static DEVICE_ATTR_RO(state);

static ssize_t resets_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(dev));

	return sysfs_emit(buf, "%ld\n", atomic_long_read(&nvdev->resets));
}
static DEVICE_ATTR_RO(resets);

/* How many there are, and as many offsets as a page of text holds. */
static ssize_t poisoned_pages_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(dev));
	unsigned long pfn, pages = 0;
	unsigned int i;
	void *entry;
	int len;

	xa_for_each(&nvdev->poison.pages, pfn, entry)
		pages++;
	len = sysfs_emit(buf, "%lu\n", pages);

	for (i = 0; i < nvdev->nr_regions; i++) {
		const struct nvgrace_gpu_region *region = &nvdev->regions[i];

		xa_for_each_range(&nvdev->poison.pages, pfn, entry, PHYS_PFN(region->base),
				  PHYS_PFN(region->base + region->backed - 1)) {
			if (len > PAGE_SIZE - MAX_LINE)
				return len;
			len += sysfs_emit_at(buf, len, "%s %#llx\n", region->name,
					     (u64)(PFN_PHYS(pfn) - region->base));
		}
	}
	return len;
}
static DEVICE_ATTR_RO(poisoned_pages);

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
	&dev_attr_state.attr,
	&dev_attr_poisoned_pages.attr,
	&dev_attr_resets.attr,
	&dev_attr_handover.attr,
	NULL
};

/* A GPU without coherent memory has nothing that could be ready or poisoned. */
static umode_t attr_is_visible(struct kobject *kobj, struct attribute *attr, int n)
{
	struct device_attribute *dev_attr = container_of(attr, struct device_attribute, attr);
	struct device *dev = kobj_to_dev(kobj);

	if (dev_attr == &dev_attr_resets || dev_attr == &dev_attr_handover)
		return attr->mode;
	if (dev_attr == &dev_attr_state || dev_attr == &dev_attr_poisoned_pages)
		return to_nvdev(dev_get_drvdata(dev))->nr_regions ? attr->mode : 0;
	return attr_region(dev, dev_attr) ? attr->mode : 0;
}

static const struct attribute_group nvgrace_gpu_group = {
	.name = GROUP,
	.attrs = nvgrace_gpu_attrs,
	.is_visible = attr_is_visible,
};

/* The driver core makes the files when probe is over, and removes them before .remove. */
const struct attribute_group *nvgrace_gpu_dev_groups[] = {
	&nvgrace_gpu_group,
	NULL
};

/**
 * nvgrace_gpu_notify() - wake those who poll a file that may have changed
 * @work: @notify of struct nvgrace_gpu_device, scheduled at each change, with any locks held
 *
 * Context: Process context, may sleep.
 */
void nvgrace_gpu_notify(struct work_struct *work)
{
	struct nvgrace_gpu_device *nvdev = container_of(work, struct nvgrace_gpu_device, notify);
	struct kobject *kobj = &nvdev->core.pdev->dev.kobj;

	sysfs_notify(kobj, GROUP, dev_attr_state.attr.name);
	sysfs_notify(kobj, GROUP, dev_attr_poisoned_pages.attr.name);
}
