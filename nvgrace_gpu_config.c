// SPDX-License-Identifier: GPL-2.0-only
/*
 * Config space: the BAR registers of the regions, and the way around them
 *
 * Each region is a 64-bit prefetchable memory BAR, thus 8 bytes of config space
 * in little-endian order: the low bits are the flags and never change, the bits
 * below the size read as 0, and the rest is what the guest wrote last. Nothing
 * decodes the address: the VMM maps the region where the guest asks.
 *
 * vfio_pci_core answers for all other registers.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/pci.h>
#include <linux/uaccess.h>

#include "nvgrace_gpu.h"

#define BAR_REGISTER_SIZE	sizeof(u64)
#define BAR_FLAGS \
	(PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH)

static unsigned int bar_offset(const struct nvgrace_gpu_region *region)
{
	return PCI_BASE_ADDRESS_0 +
	       sizeof(u32) * (region->index - VFIO_PCI_BAR0_REGION_INDEX);
}

/* Read COUNT bytes of the register, from OFFSET on; their sum is 8 at most. */
static void read_bar(const struct nvgrace_gpu_region *region,
		     unsigned int offset, size_t count, u8 *bytes)
{
	__le64 raw = cpu_to_le64(region->bar_value | BAR_FLAGS);

	memcpy(bytes, (u8 *)&raw + offset, count);
}

/* The bytes around keep their value, so that a guest can set one half. */
static void write_bar(struct nvgrace_gpu_region *region, unsigned int offset,
		      size_t count, const u8 *bytes)
{
	__le64 raw = cpu_to_le64(region->bar_value);

	memcpy((u8 *)&raw + offset, bytes, count);
	region->bar_value = le64_to_cpu(raw) & ~(region->bar_size - 1);
}

/*
 * Cut an access at the edges of the BAR registers. Returns the bytes from POS on
 * that lie wholly in the register of the region HIT, or, if that is NULL, in none.
 */
static size_t next_piece(struct nvgrace_gpu_device *nvdev, u64 pos, size_t count,
			 struct nvgrace_gpu_region **hit)
{
	unsigned int i;

	*hit = NULL;
	for (i = 0; i < nvdev->nr_regions; i++) {
		u64 start = bar_offset(&nvdev->regions[i]);
		u64 end = start + BAR_REGISTER_SIZE;

		if (pos >= start && pos < end) {
			*hit = &nvdev->regions[i];
			return min_t(u64, count, end - pos);
		}
		if (pos < start)
			count = min_t(u64, count, start - pos);
	}
	return count;
}

/**
 * nvgrace_gpu_config_reset() - the BAR registers as a reset leaves them
 * @nvdev: the device
 *
 * Context: Any; takes bar_lock.
 */
void nvgrace_gpu_config_reset(struct nvgrace_gpu_device *nvdev)
{
	unsigned int i;

	spin_lock(&nvdev->bar_lock);
	for (i = 0; i < nvdev->nr_regions; i++)
		nvdev->regions[i].bar_value = 0;
	spin_unlock(&nvdev->bar_lock);
}

/**
 * nvgrace_gpu_core_read() - read config space as vfio_pci_core has it
 * @nvdev: the device
 * @buf: the user's buffer
 * @count: bytes asked for
 * @ppos: VFIO offset
 *
 * Context: Process context, no locks held.
 * Return: as vfio_pci_core_read().
 */
VISIBLE_IF_KUNIT ssize_t nvgrace_gpu_core_read(struct nvgrace_gpu_device *nvdev,
					       char __user *buf, size_t count,
					       loff_t *ppos)
{
	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_core_read, nvdev, buf, count, ppos);

	return vfio_pci_core_read(&nvdev->core.vdev, buf, count, ppos);
}

/**
 * nvgrace_gpu_core_write() - write config space as vfio_pci_core has it
 * @nvdev: the device
 * @buf: the user's buffer
 * @count: bytes to write
 * @ppos: VFIO offset
 *
 * Context: Process context, no locks held.
 * Return: as vfio_pci_core_write().
 */
VISIBLE_IF_KUNIT ssize_t nvgrace_gpu_core_write(struct nvgrace_gpu_device *nvdev,
						const char __user *buf,
						size_t count, loff_t *ppos)
{
	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_core_write, nvdev, buf, count, ppos);

	return vfio_pci_core_write(&nvdev->core.vdev, buf, count, ppos);
}

/**
 * nvgrace_gpu_config_read() - read() of config space
 * @nvdev: the device
 * @buf: the user's buffer
 * @count: bytes asked for
 * @ppos: VFIO offset; advanced by what is returned, untouched on error
 *
 * vfio_pci_core reads all of it; then the emulated registers go over that.
 *
 * Context: Process context, no locks held; takes bar_lock.
 * Return: bytes read, or as vfio_pci_core_read().
 */
ssize_t nvgrace_gpu_config_read(struct nvgrace_gpu_device *nvdev,
				char __user *buf, size_t count, loff_t *ppos)
{
	u64 pos = *ppos & VFIO_PCI_OFFSET_MASK;
	loff_t new_pos = *ppos;
	size_t done, piece;
	ssize_t ret;

	ret = nvgrace_gpu_core_read(nvdev, buf, count, &new_pos);
	if (ret <= 0)
		return ret;

	for (done = 0; done < ret; done += piece) {
		struct nvgrace_gpu_region *region;
		u8 bytes[BAR_REGISTER_SIZE];

		piece = next_piece(nvdev, pos + done, ret - done, &region);
		if (!region)
			continue;

		spin_lock(&nvdev->bar_lock);
		read_bar(region, pos + done - bar_offset(region), piece, bytes);
		spin_unlock(&nvdev->bar_lock);

		if (copy_to_user(buf + done, bytes, piece))
			return -EFAULT;
	}

	*ppos = new_pos;
	return ret;
}

static int write_piece(struct nvgrace_gpu_device *nvdev,
		       struct nvgrace_gpu_region *region, const char __user *buf,
		       u64 pos, size_t count)
{
	u8 bytes[BAR_REGISTER_SIZE];

	if (copy_from_user(bytes, buf, count))
		return -EFAULT;

	spin_lock(&nvdev->bar_lock);
	write_bar(region, pos - bar_offset(region), count, bytes);
	spin_unlock(&nvdev->bar_lock);
	return 0;
}

/* Does the access touch the register that moves the device to D3 and back? */
static bool touches_power_state(const struct pci_dev *pdev, u64 pos, size_t count)
{
	unsigned int pmcsr = pdev->pm_cap + PCI_PM_CTRL;

	return pdev->pm_cap && pos < pmcsr + sizeof(u16) && pos + count > pmcsr;
}

static ssize_t write_core(struct nvgrace_gpu_device *nvdev,
			  const char __user *buf, size_t count, loff_t *ppos)
{
	u64 pos = *ppos & VFIO_PCI_OFFSET_MASK;
	ssize_t ret;

	if (!touches_power_state(nvdev->core.pdev, pos, count))
		return nvgrace_gpu_core_write(nvdev, buf, count, ppos);

	/*
	 * A GPU that returns from D3 may have to train, so each move revokes the gate before and
	 * after. The hold between the two keeps an access that polls meanwhile from leaving the
	 * gate open while VFIO moves the device to D3.
	 */
	nvgrace_gpu_gate_hold(nvdev);
	ret = nvgrace_gpu_core_write(nvdev, buf, count, ppos);
	nvgrace_gpu_gate_release(nvdev);
	return ret;
}

/**
 * nvgrace_gpu_config_write() - write() of config space
 * @nvdev: the device
 * @buf: the user's buffer
 * @count: bytes to write
 * @ppos: VFIO offset; advanced by what is returned, untouched on error
 *
 * Each emulated register takes the bytes that are its own, vfio_pci_core the rest.
 *
 * Context: Process context, no locks held; takes bar_lock, ready_lock.
 * Return: bytes written; -EFAULT if @buf is bad or a part of the access is beyond
 * config space; or as vfio_pci_core_write().
 */
ssize_t nvgrace_gpu_config_write(struct nvgrace_gpu_device *nvdev,
				 const char __user *buf, size_t count,
				 loff_t *ppos)
{
	u64 pos = *ppos & VFIO_PCI_OFFSET_MASK;
	loff_t new_pos = *ppos;
	size_t done, piece;

	if (!count)
		return 0;

	/* As the core has it: all of a request lies in config space or none. */
	if (count > nvdev->core.pdev->cfg_size ||
	    pos > nvdev->core.pdev->cfg_size - count)
		return -EFAULT;

	for (done = 0; done < count; done += piece) {
		struct nvgrace_gpu_region *region;
		ssize_t ret;

		piece = next_piece(nvdev, pos + done, count - done, &region);
		if (region) {
			ret = write_piece(nvdev, region, buf + done, pos + done, piece);
			new_pos += piece;
		} else {
			ret = write_core(nvdev, buf + done, piece, &new_pos);
		}
		if (ret < 0)
			return ret;
	}

	*ppos = new_pos;
	return count;
}
