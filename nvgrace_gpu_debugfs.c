// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state of a GPU in debugfs, for debugging. The files are in the device's directory
 * below vfio/. Documentation/ABI/testing/debugfs-vfio-nvgrace_gpu describes them.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "nvgrace_gpu.h"

static int regions_show(struct seq_file *seq, void *unused)
{
	const struct nvgrace_gpu_device *nvdev = seq->private;
	unsigned int i;

	for (i = 0; i < nvdev->nr_regions; i++) {
		const struct nvgrace_gpu_region *region = &nvdev->regions[i];

		seq_printf(seq, "%s: BAR%u base %#llx backed %#llx bar_size %#llx\n",
			   region->name, region->index, (u64)region->base,
			   (u64)region->backed, region->bar_size);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(regions);

static int ready_show(struct seq_file *seq, void *unused)
{
	static const char * const names[] = {
		[NVGRACE_GPU_TRAINING] = "training",
		[NVGRACE_GPU_RECOVERING] = "resetting",
		[NVGRACE_GPU_RESETTING] = "resetting",
		[NVGRACE_GPU_READY] = "ready",
	};
	const struct nvgrace_gpu_device *nvdev = seq->private;

	seq_printf(seq, "%s\n", names[READ_ONCE(nvdev->gate.ready)]);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(ready);

static int resets_show(struct seq_file *seq, void *unused)
{
	struct nvgrace_gpu_device *nvdev = seq->private;

	seq_printf(seq, "%ld\n", atomic_long_read(&nvdev->stats.resets));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(resets);

static int faults_show(struct seq_file *seq, void *unused)
{
	static const char * const names[] = {
		[NVGRACE_GPU_FAULT_TABLE] = "table",
		[NVGRACE_GPU_FAULT_PMD] = "pmd",
		[NVGRACE_GPU_FAULT_PUD] = "pud",
		[NVGRACE_GPU_FAULT_WAITED] = "waited",
		[NVGRACE_GPU_FAULT_REFUSED] = "refused",
	};
	struct nvgrace_gpu_device *nvdev = seq->private;
	unsigned int i;

	for (i = 0; i < NVGRACE_GPU_NR_FAULTS; i++)
		seq_printf(seq, "%s: %ld\n", names[i],
			   atomic_long_read(&nvdev->stats.faults[i]));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(faults);

static int poisoned_pages_show(struct seq_file *seq, void *unused)
{
	struct nvgrace_gpu_device *nvdev = seq->private;
	unsigned long pfn;
	void *entry;

	xa_for_each(&nvdev->poison.pages, pfn, entry)
		seq_printf(seq, "%#llx\n", (u64)PFN_PHYS(pfn));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(poisoned_pages);

/**
 * nvgrace_gpu_debugfs_init() - make the files of a device
 * @nvdev: the device, registered with VFIO, which removes the files
 *
 * Context: Process context, may sleep.
 */
void nvgrace_gpu_debugfs_init(struct nvgrace_gpu_device *nvdev)
{
	struct dentry *dir;

	/* A NULL parent would put the directory at the top of debugfs. */
	if (IS_ERR_OR_NULL(nvdev->core.vdev.debug_root))
		return;

	dir = debugfs_create_dir("nvgrace_gpu", nvdev->core.vdev.debug_root);
	debugfs_create_file("regions", 0444, dir, nvdev, &regions_fops);
	debugfs_create_file("ready", 0444, dir, nvdev, &ready_fops);
	debugfs_create_file("resets", 0444, dir, nvdev, &resets_fops);
	debugfs_create_file("faults", 0444, dir, nvdev, &faults_fops);
	debugfs_create_file("poisoned_pages", 0444, dir, nvdev, &poisoned_pages_fops);
}
