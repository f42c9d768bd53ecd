/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The driver is written to the newest kernel's API. What an older kernel lacks
 * is made up for here, one feature macro a difference; no other file tests a
 * version. Built and run on 6.12 and 7.3.
 */
#ifndef NVGRACE_GPU_COMPAT_H
#define NVGRACE_GPU_COMPAT_H

#include <linux/huge_mm.h>
#include <linux/mm.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vfio_pci_core.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
#error "nvgrace_gpu needs Linux 6.12 or newer"
#endif

/* 6.17: pfn_t is gone, and huge entries are inserted by plain pfn. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
#include <linux/pfn_t.h>
#define nvgrace_gpu_pfn(pfn)	__pfn_to_pfn_t(pfn, PFN_DEV)
#else
#define nvgrace_gpu_pfn(pfn)	(pfn)
#endif

/* 6.19: mm is told of memory without struct pages, to handle failures of it. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 19, 0)
#include <linux/interval_tree.h>

struct pfn_address_space {
	struct interval_tree_node node;
	struct address_space *mapping;
	int (*pfn_to_vma_pgoff)(struct vm_area_struct *vma, unsigned long pfn,
				pgoff_t *pgoff);
};

static inline int register_pfn_address_space(struct pfn_address_space *space)
{
	return -EOPNOTSUPP;
}

static inline void unregister_pfn_address_space(struct pfn_address_space *space)
{
}
#else
#include <linux/memory-failure.h>
#endif

/* 6.19: a BAR can be exported as a dma-buf. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
#include <linux/pci-p2pdma.h>
#define NVGRACE_GPU_HAVE_DMABUF
#endif

/* 7.0: the core maps BARs for itself when it enables the device. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0)
static inline int nvgrace_gpu_map_bar0(struct vfio_pci_core_device *core)
{
	return vfio_pci_core_setup_barmap(core, 0);
}
#else
static inline int nvgrace_gpu_map_bar0(struct vfio_pci_core_device *core)
{
	return IS_ERR_OR_NULL(core->barmap[0]) ? -ENODEV : 0;
}
#endif

/* 6.17: the VF token is matched by an op of its own. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
#define NVGRACE_GPU_MATCH_TOKEN_UUID
#else
#define NVGRACE_GPU_MATCH_TOKEN_UUID \
	.match_token_uuid = vfio_pci_core_match_token_uuid,
#endif

/*
 * 6.19: region info comes through an op that deals with kernel memory only.
 * Before, the driver's .ioctl gets VFIO_DEVICE_GET_REGION_INFO and does the
 * copying itself, and vfio_pci_core answers for its own regions the same way.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 19, 0)
#define NVGRACE_GPU_GET_REGION_INFO(op)

/* "Not an emulated BAR": vfio_pci_core has to read the user's struct itself. */
static inline int
vfio_pci_ioctl_get_region_info(struct vfio_device *core_vdev,
			       struct vfio_region_info *info,
			       struct vfio_info_cap *caps)
{
	return -ENOIOCTLCMD;
}

static inline long
nvgrace_gpu_compat_region_info(struct vfio_device *core_vdev, unsigned long arg,
			       int (*op)(struct vfio_device *core_vdev,
					 struct vfio_region_info *info,
					 struct vfio_info_cap *caps))
{
	const size_t minsz = offsetofend(struct vfio_region_info, offset);
	void __user *uarg = (void __user *)arg;
	struct vfio_region_info info = {};
	struct vfio_info_cap caps = {};
	long ret;

	if (copy_from_user(&info, uarg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;

	ret = op(core_vdev, &info, &caps);
	if (ret == -ENOIOCTLCMD)
		return vfio_pci_core_ioctl(core_vdev,
					   VFIO_DEVICE_GET_REGION_INFO, arg);
	if (ret)
		return ret;

	info.cap_offset = 0;
	if (caps.size) {
		info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
		if (info.argsz < sizeof(info) + caps.size) {
			info.argsz = sizeof(info) + caps.size;
		} else {
			vfio_info_cap_shift(&caps, sizeof(info));
			info.cap_offset = sizeof(info);
			if (copy_to_user(uarg + sizeof(info), caps.buf,
					 caps.size))
				ret = -EFAULT;
		}
		kfree(caps.buf);
	}
	if (!ret && copy_to_user(uarg, &info, minsz))
		ret = -EFAULT;
	return ret;
}
#else
#define NVGRACE_GPU_GET_REGION_INFO(op)	.get_region_info_caps = (op),

static inline long
nvgrace_gpu_compat_region_info(struct vfio_device *core_vdev, unsigned long arg,
			       int (*op)(struct vfio_device *core_vdev,
					 struct vfio_region_info *info,
					 struct vfio_info_cap *caps))
{
	return -ENOTTY;
}
#endif

#endif /* NVGRACE_GPU_COMPAT_H */
