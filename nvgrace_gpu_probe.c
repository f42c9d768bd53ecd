// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probes of the kernel's headers: compiled by Kbuild for its errors, never linked
 *
 * Each #line below begins a probe, which ends at the next one. A probe that compiles
 * defines a macro: "pfn" defines NVGRACE_GPU_HAVE_PFN, for nvgrace_gpu_compat.h. Only
 * the headers tell what a kernel has, because vendors backport API.
 *
 * A probe checks that an op exists, not all that the driver needs to set the op. The
 * build then fails where something is missing, instead of leaving the op unset. It is
 * also faster: gcc spends 50 ms on each undeclared name, to suggest another.
 */
#include <linux/mm.h>
#include <linux/version.h>
#include <linux/vfio_pci_core.h>
#if __has_include("linux/memory-failure.h")
#include <linux/memory-failure.h>
#endif

/* If one of these does not compile, Kbuild stops and prints its name. */
#line 1 "needs Linux 6.12 or newer"
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
#error
#endif

#line 1 "needs a kernel with CONFIG_VFIO_PCI_CORE"
#if !IS_ENABLED(CONFIG_VFIO_PCI_CORE)
#error
#endif

#line 1 "needs VM_ALLOW_ANY_UNCACHED, with which KVM maps resmem Normal-NC"
static inline unsigned long uncached(void)
{
	return VM_ALLOW_ANY_UNCACHED;
}

#line 1 "needs memory_lock in struct vfio_pci_core_device"
static inline void memory_lock(struct vfio_pci_core_device *core)
{
	down_read(&core->memory_lock);
}

#line 1 "needs inode in struct vfio_device"
static inline struct inode *inode(struct vfio_device *core_vdev)
{
	return core_vdev->inode;
}

/* Kbuild checks that there is at least one of these two. */
#line 1 "setup_barmap"
static inline int setup_barmap(struct vfio_pci_core_device *core)
{
	return vfio_pci_core_setup_barmap(core, 0);
}

#line 1 "get_iomap"
static inline void __iomem *get_iomap(struct vfio_pci_core_device *core)
{
	return vfio_pci_core_get_iomap(core, 0);
}

/* Huge entries take a plain pfn, not a pfn_t. */
#line 1 "pfn"
static inline vm_fault_t insert_pfn(struct vm_fault *vmf, unsigned long pfn)
{
	return vmf_insert_pfn_pmd(vmf, pfn, false);
}

/* The core calls this op without a NULL test. */
#line 1 "match_token_uuid"
static const struct vfio_device_ops token_ops = {
	.match_token_uuid = NULL,
};

/* A core that has this op answers -EINVAL for a driver without it. */
#line 1 "get_region_info_caps"
static const struct vfio_device_ops region_info_ops = {
	.get_region_info_caps = NULL,
};

#line 1 "pasid_ioas"
static const struct vfio_device_ops pasid_ops = {
	.pasid_attach_ioas = NULL,
	.pasid_detach_ioas = NULL,
};

#line 1 "pfn_address_space"
static inline void poison(struct pfn_address_space *space,
			  int (*to_pgoff)(struct vm_area_struct *vma, unsigned long pfn,
					  pgoff_t *pgoff))
{
	space->pfn_to_vma_pgoff = to_pgoff;
}

/*
 * Before 7.3 the core's own export frees a dma-buf twice. The headers do not show which kernels
 * have the mends, so the number decides.
 */
#line 1 "dmabuf"
#if IS_ENABLED(CONFIG_VFIO_PCI_DMABUF) && LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
static inline int get_phys(struct vfio_pci_core_device *core,
			   struct p2pdma_provider **provider, unsigned int index,
			   struct phys_vec *vec, struct vfio_region_dma_range *ranges,
			   size_t nr_ranges)
{
	static const struct vfio_pci_device_ops ops = { .get_dmabuf_phys = get_phys };

	core->pci_ops = &ops;
	return 0;
}
#else
#error
#endif

/* This error proves that the compiler read all probes, and how it reports errors. */
#line 1 "end"
static inline int end(struct vfio_pci_core_device *core)
{
	return core->no_such_member;
}
