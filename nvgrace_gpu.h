/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VFIO PCI driver for the GPU of NVIDIA Grace Hopper and Grace Blackwell
 *
 * The one internal header. The arrows run down: main.c calls acpi, ready, mem
 * and bar, and passes results on; those four do not call each other.
 */
#ifndef NVGRACE_GPU_H
#define NVGRACE_GPU_H

#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/vfio_pci_core.h>

#include "nvgrace_gpu_compat.h"

#define NVGRACE_GPU_PROP_BASE	"nvidia,gpu-mem-base-pa"
#define NVGRACE_GPU_PROP_SIZE	"nvidia,gpu-mem-size"

/* usemem is a multiple of this: an ABI between GPU firmware and guest driver. */
#define NVGRACE_GPU_USEMEM_ALIGN	SZ_512M
/* The least that is carved off the end as resmem where the GPU needs it. */
#define NVGRACE_GPU_RESMEM_MIN		SZ_1G

#define NVGRACE_GPU_MAX_REGIONS	2

/**
 * struct nvgrace_gpu_range - the GPU's coherent memory as firmware names it
 * @base: host physical address of the first byte; page-aligned
 * @size: length in bytes; page-aligned, not 0
 */
struct nvgrace_gpu_range {
	phys_addr_t base;
	size_t size;
};

/**
 * struct nvgrace_gpu_region - a part of the coherent memory, shown as a BAR
 * @name: "usemem" or "resmem"
 * @index: the BAR, and thus the VFIO region index; the 64-bit BAR also takes
 *	the register of the BAR after it
 * @cacheable: mapped Normal Write-Back if true, else write-combining
 * @base: host physical address of the first byte; page-aligned
 * @backed: bytes of real memory behind the BAR; page-aligned
 * @bar_size: bytes that the BAR reports: @backed rounded up to a power of two
 * @bar_value: the address bits that the guest wrote to the 64-bit BAR; guarded
 *	by &struct nvgrace_gpu_device.bar_lock. The rest is fixed after probe.
 */
struct nvgrace_gpu_region {
	const char *name;
	unsigned int index;
	bool cacheable;
	phys_addr_t base;
	size_t backed;
	u64 bar_size;
	u64 bar_value;
};

/**
 * struct nvgrace_gpu_device - a bound GPU
 * @core: what vfio_pci_core keeps of the device
 * @bar_lock: guards @regions[].bar_value; innermost, never held over a user copy
 * @regions: the emulated BARs, fixed after probe but for @regions[].bar_value
 * @nr_regions: entries in @regions; 0 where firmware names no memory, and then
 *	the device behaves as it does under vfio-pci
 */
struct nvgrace_gpu_device {
	struct vfio_pci_core_device core;
	spinlock_t bar_lock;	/* guards regions[].bar_value */
	struct nvgrace_gpu_region regions[NVGRACE_GPU_MAX_REGIONS];
	unsigned int nr_regions;
};

/* nvgrace_gpu_acpi.c */
int nvgrace_gpu_acpi_range(struct device *dev, struct nvgrace_gpu_range *range);

/* nvgrace_gpu_ready.c */
int nvgrace_gpu_needs_carve_out(struct pci_dev *pdev);

/* nvgrace_gpu_mem.c */
int nvgrace_gpu_split(const struct nvgrace_gpu_range *range, bool carve_out,
		      unsigned int usemem_bar,
		      struct nvgrace_gpu_region *regions);
struct nvgrace_gpu_region *
nvgrace_gpu_find_region(struct nvgrace_gpu_device *nvdev, unsigned int index);
bool nvgrace_gpu_clip(const struct nvgrace_gpu_region *region, u64 pos,
		      size_t *count, size_t *backed);
int nvgrace_gpu_mmap_check(const struct nvgrace_gpu_region *region, u64 pos,
			   u64 len);
ssize_t nvgrace_gpu_region_rw(struct vfio_pci_core_device *core,
			      const struct nvgrace_gpu_region *region,
			      char __user *buf, size_t count, loff_t *ppos,
			      bool iswrite);
int nvgrace_gpu_region_mmap(struct nvgrace_gpu_device *nvdev,
			    const struct nvgrace_gpu_region *region,
			    struct vm_area_struct *vma);
int nvgrace_gpu_region_info(const struct nvgrace_gpu_region *region,
			    struct vfio_region_info *info,
			    struct vfio_info_cap *caps);

/* nvgrace_gpu_bar.c */
unsigned int nvgrace_gpu_bar_offset(const struct nvgrace_gpu_region *region);
void nvgrace_gpu_bar_reset(struct nvgrace_gpu_region *regions,
			   unsigned int nr_regions);
void nvgrace_gpu_bar_read(const struct nvgrace_gpu_region *region,
			  unsigned int offset, size_t count, u8 *bytes);
void nvgrace_gpu_bar_write(struct nvgrace_gpu_region *region,
			   unsigned int offset, size_t count, const u8 *bytes);
size_t nvgrace_gpu_bar_next(const struct nvgrace_gpu_region *regions,
			    unsigned int nr_regions, u64 pos, size_t count,
			    const struct nvgrace_gpu_region **hit);

#if IS_ENABLED(CONFIG_KUNIT)
extern const struct pci_device_id nvgrace_gpu_ids[];
u16 nvgrace_gpu_read_dvsec(struct pci_dev *pdev, u16 *flags);
void *nvgrace_gpu_map_window(phys_addr_t phys, size_t len, bool cacheable);
bool nvgrace_gpu_block_fits(unsigned long start, unsigned long end,
			    unsigned long block, phys_addr_t phys,
			    unsigned long size);
#endif

#endif /* NVGRACE_GPU_H */
