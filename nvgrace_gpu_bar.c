// SPDX-License-Identifier: GPL-2.0-only
/*
 * The BAR registers of the regions, as the guest sees them in config space
 *
 * Each region is a 64-bit prefetchable memory BAR, thus 8 bytes of config space
 * in little-endian order: the low bits are the flags and never change, the bits
 * below the size read as 0, and the rest is what the guest wrote last. Nothing
 * decodes the address: the VMM maps the region where the guest asks.
 */
#include <linux/pci.h>

#include "nvgrace_gpu.h"

#define BAR_REGISTER_SIZE	sizeof(u64)
#define BAR_FLAGS \
	(PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH)

/**
 * nvgrace_gpu_bar_offset() - where in config space the BAR register begins
 * @region: the region
 *
 * Context: Any.
 * Return: offset in bytes of the 8-byte register.
 */
unsigned int nvgrace_gpu_bar_offset(const struct nvgrace_gpu_region *region)
{
	return PCI_BASE_ADDRESS_0 +
	       sizeof(u32) * (region->index - VFIO_PCI_BAR0_REGION_INDEX);
}

/**
 * nvgrace_gpu_bar_reset() - after a reset the BARs hold no address
 * @regions: the regions
 * @nr_regions: how many
 *
 * Context: Any; the caller holds &struct nvgrace_gpu_device.bar_lock.
 */
void nvgrace_gpu_bar_reset(struct nvgrace_gpu_region *regions,
			   unsigned int nr_regions)
{
	unsigned int i;

	for (i = 0; i < nr_regions; i++)
		regions[i].bar_value = 0;
}

/**
 * nvgrace_gpu_bar_read() - read some bytes of the 64-bit BAR register
 * @region: the region
 * @offset: first byte to read, counted from the start of the register
 * @count: bytes to read; @offset + @count is 8 at most
 * @bytes: filled in, as it lies in config space
 *
 * Context: Any; the caller holds &struct nvgrace_gpu_device.bar_lock.
 */
void nvgrace_gpu_bar_read(const struct nvgrace_gpu_region *region,
			  unsigned int offset, size_t count, u8 *bytes)
{
	__le64 raw = cpu_to_le64(region->bar_value | BAR_FLAGS);

	memcpy(bytes, (u8 *)&raw + offset, count);
}

/**
 * nvgrace_gpu_bar_write() - write some bytes of the 64-bit BAR register
 * @region: the region
 * @offset: first byte to write, counted from the start of the register
 * @count: bytes to write; @offset + @count is 8 at most
 * @bytes: what to write, as it lies in config space
 *
 * The bytes around keep their value, so that a guest can set one half.
 *
 * Context: Any; the caller holds &struct nvgrace_gpu_device.bar_lock.
 */
void nvgrace_gpu_bar_write(struct nvgrace_gpu_region *region,
			   unsigned int offset, size_t count, const u8 *bytes)
{
	__le64 raw = cpu_to_le64(region->bar_value);

	memcpy((u8 *)&raw + offset, bytes, count);
	region->bar_value = le64_to_cpu(raw) & ~(region->bar_size - 1);
}

/**
 * nvgrace_gpu_bar_next() - cut a config space access at the BAR registers' edges
 * @regions: the regions
 * @nr_regions: how many
 * @pos: offset in config space where the access begins
 * @count: its length in bytes, not 0
 * @hit: set to the region whose register holds @pos, or NULL if none does
 *
 * Context: Any.
 * Return: bytes from @pos on that lie wholly in that register, or in none.
 */
size_t nvgrace_gpu_bar_next(const struct nvgrace_gpu_region *regions,
			    unsigned int nr_regions, u64 pos, size_t count,
			    const struct nvgrace_gpu_region **hit)
{
	unsigned int i;

	*hit = NULL;
	for (i = 0; i < nr_regions; i++) {
		u64 start = nvgrace_gpu_bar_offset(&regions[i]);
		u64 end = start + BAR_REGISTER_SIZE;

		if (pos >= start && pos < end) {
			*hit = &regions[i];
			return min_t(u64, count, end - pos);
		}
		if (pos < start)
			count = min_t(u64, count, start - pos);
	}
	return count;
}
