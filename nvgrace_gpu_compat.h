/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The driver is written to the newest kernel's API. This header supplies what an older
 * kernel lacks, with one feature macro for each difference. Kbuild defines the macros
 * NVGRACE_GPU_HAVE_*: it compiles nvgrace_gpu_probe.c against the kernel's headers.
 */
#ifndef NVGRACE_GPU_COMPAT_H
#define NVGRACE_GPU_COMPAT_H

#include <linux/mm.h>
#include <linux/uaccess.h>
#include <linux/vfio_pci_core.h>

/* vmf_insert_pfn_pmd() and _pud() take a plain pfn; on older kernels, a pfn_t. */
#ifdef NVGRACE_GPU_HAVE_PFN
#define nvgrace_gpu_pfn(pfn)	(pfn)
#else
#include <linux/pfn_t.h>
#define nvgrace_gpu_pfn(pfn)	__pfn_to_pfn_t(pfn, PFN_DEV)
#endif

/* mm handles poisoned pages without a struct page if their range is registered. */
#ifdef NVGRACE_GPU_HAVE_PFN_ADDRESS_SPACE
#include <linux/memory-failure.h>
#else
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
#endif

/* vfio_pci_core exports BARs as dma-bufs. */
#ifdef NVGRACE_GPU_HAVE_DMABUF
#include <linux/pci-p2pdma.h>
#endif

/*
 * vfio_pci_core_enable() maps the BARs where vfio_pci_core_setup_barmap() is gone.
 * If a kernel has both functions, only setup_barmap is sure to find or make a mapping.
 */
static inline int nvgrace_gpu_map_bar0(struct vfio_pci_core_device *core)
{
#ifdef NVGRACE_GPU_HAVE_SETUP_BARMAP
	return vfio_pci_core_setup_barmap(core, 0);
#else
	return PTR_ERR_OR_ZERO((void __force *)vfio_pci_core_get_iomap(core, 0));
#endif
}

/* The core matches VF tokens by an op, which it calls without a NULL test. */
#ifdef NVGRACE_GPU_HAVE_MATCH_TOKEN_UUID
#define NVGRACE_GPU_MATCH_TOKEN_UUID \
	.match_token_uuid = vfio_pci_core_match_token_uuid,
#else
#define NVGRACE_GPU_MATCH_TOKEN_UUID
#endif

/* iommufd attaches address spaces to PASIDs of the device. */
#ifdef NVGRACE_GPU_HAVE_PASID_IOAS
#define NVGRACE_GPU_PASID_IOAS \
	.pasid_attach_ioas = vfio_iommufd_physical_pasid_attach_ioas, \
	.pasid_detach_ioas = vfio_iommufd_physical_pasid_detach_ioas,
#else
#define NVGRACE_GPU_PASID_IOAS
#endif

/*
 * Region info comes through an op that handles kernel memory only. Without the op,
 * the driver's .ioctl gets VFIO_DEVICE_GET_REGION_INFO and does the copying itself,
 * and vfio_pci_core answers for its own regions the same way.
 */
#ifdef NVGRACE_GPU_HAVE_GET_REGION_INFO_CAPS
#define NVGRACE_GPU_GET_REGION_INFO(op)	.get_region_info_caps = (op),

static inline long
nvgrace_gpu_compat_region_info(struct vfio_device *core_vdev, unsigned long arg,
			       int (*op)(struct vfio_device *core_vdev,
					 struct vfio_region_info *info,
					 struct vfio_info_cap *caps))
{
	return -ENOTTY;
}
#else
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
#endif

#endif /* NVGRACE_GPU_COMPAT_H */
