// SPDX-License-Identifier: GPL-2.0-only
/*
 * The regions as dma-bufs, for peer devices and for iommufd
 *
 * Built only where vfio_pci_core exports BARs as dma-bufs.
 */
#include <linux/pci-p2pdma.h>

#include "nvgrace_gpu.h"

static int get_dmabuf_phys(struct vfio_pci_core_device *core,
			   struct p2pdma_provider **provider,
			   unsigned int index, struct phys_vec *phys_vec,
			   struct vfio_region_dma_range *ranges, size_t nr_ranges)
{
	const struct nvgrace_gpu_region *region;

	region = nvgrace_gpu_find_region(to_nvdev(core), index);
	if (!region)
		return vfio_pci_core_get_dmabuf_phys(core, provider, index,
						     phys_vec, ranges, nr_ranges);

	/* Peers reach the coherent memory as they reach BAR0: through the host bridge. */
	*provider = pcim_p2pdma_provider(core->pdev, 0);
	if (!*provider)
		return -EINVAL;

	return vfio_pci_core_fill_phys_vec(phys_vec, ranges, nr_ranges,
					   region->base, region->backed);
}

static const struct vfio_pci_device_ops nvgrace_gpu_pci_ops = {
	.get_dmabuf_phys = get_dmabuf_phys,
};

/**
 * nvgrace_gpu_dmabuf_init() - let vfio_pci_core export the regions
 * @nvdev: the device, not yet registered
 *
 * Context: Process context.
 */
void nvgrace_gpu_dmabuf_init(struct nvgrace_gpu_device *nvdev)
{
	nvdev->core.pci_ops = &nvgrace_gpu_pci_ops;
}

/**
 * nvgrace_gpu_dmabuf_open() - make the regions look mapped to vfio_pci_core
 * @nvdev: the device, which is being opened, BAR0 mapped
 *
 * vfio_pci_core exports a BAR only if it has mapped the BAR itself, and for most
 * regions it finds no BAR to map. An alias of BAR0's mapping stands in for that.
 * Nothing accesses memory through the alias, because this driver answers all
 * accesses to a region before vfio_pci_core.
 *
 * Context: Process context.
 */
void nvgrace_gpu_dmabuf_open(struct nvgrace_gpu_device *nvdev)
{
	unsigned int i;

	for (i = 0; i < nvdev->nr_regions; i++) {
		void __iomem **barmap = &nvdev->core.barmap[nvdev->regions[i].index];

		if (IS_ERR_OR_NULL(*barmap))
			*barmap = nvdev->core.barmap[0];
	}
}

/**
 * nvgrace_gpu_dmabuf_close() - undo nvgrace_gpu_dmabuf_open()
 * @nvdev: the device, which is being closed
 *
 * Context: Process context.
 */
void nvgrace_gpu_dmabuf_close(struct nvgrace_gpu_device *nvdev)
{
	unsigned int i;

	for (i = 0; i < nvdev->nr_regions; i++) {
		void __iomem **barmap = &nvdev->core.barmap[nvdev->regions[i].index];

		if (*barmap == nvdev->core.barmap[0])
			*barmap = NULL;
	}
}
