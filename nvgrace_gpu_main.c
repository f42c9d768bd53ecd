// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO PCI driver for the GPU of NVIDIA Grace Hopper and Grace Blackwell
 *
 * The GPU's coherent memory is on no PCI BAR. Firmware names it in ACPI; this
 * driver shows it as two emulated BARs: usemem, cacheable, and resmem,
 * write-combining. All else is vfio_pci_core's.
 *
 * This file is the front door: ids, probe and remove, open, and the dispatch of
 * what user space asks for to the part that answers it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <kunit/visibility.h>
#include <linux/file.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/uaccess.h>

#include "nvgrace_gpu.h"

static unsigned int usemem_bar = 2;

static int set_usemem_bar(const char *val, const struct kernel_param *kp)
{
	unsigned int bar;

	if (kstrtouint(val, 0, &bar) || (bar != 2 && bar != 4)) {
		pr_err("usemem_bar: '%s' is neither 2 nor 4\n", val);
		return -EINVAL;
	}
	usemem_bar = bar;
	return 0;
}

static const struct kernel_param_ops usemem_bar_ops = {
	.set = set_usemem_bar,
	.get = param_get_uint,
};
module_param_cb(usemem_bar, &usemem_bar_ops, &usemem_bar, 0444);
MODULE_PARM_DESC(usemem_bar,
		 "BAR that shows the cacheable memory: 2 (default), or 4 as NVIDIA's guest driver wants it");

static struct nvgrace_gpu_device *to_nvdev(struct vfio_device *core_vdev)
{
	return container_of(core_vdev, struct nvgrace_gpu_device, core.vdev);
}

static void reset_bars(struct nvgrace_gpu_device *nvdev)
{
	spin_lock(&nvdev->bar_lock);
	nvgrace_gpu_bar_reset(nvdev->regions, nvdev->nr_regions);
	spin_unlock(&nvdev->bar_lock);
}

static int nvgrace_gpu_init_dev(struct vfio_device *core_vdev)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(core_vdev);

	spin_lock_init(&nvdev->bar_lock);
	init_rwsem(&nvdev->ready_lock);
	xa_init(&nvdev->bad_pages);
	INIT_WORK(&nvdev->bad_page_work, nvgrace_gpu_zap_bad_pages);

	return vfio_pci_core_init_dev(core_vdev);
}

static void nvgrace_gpu_release_dev(struct vfio_device *core_vdev)
{
	xa_destroy(&to_nvdev(core_vdev)->bad_pages);
	vfio_pci_core_release_dev(core_vdev);
}

#ifdef NVGRACE_GPU_HAVE_DMABUF
static const struct vfio_pci_device_ops nvgrace_gpu_pci_ops = {
	.get_dmabuf_phys = nvgrace_gpu_get_dmabuf_phys,
};

/*
 * The core exports a BAR only if it could map it for itself, and for a region it
 * finds no BAR, mostly. The mapping of BAR0 stands in for that: nobody accesses
 * memory through it, as all that is done to a region comes to this driver first.
 */
static void lend_barmap(struct nvgrace_gpu_device *nvdev)
{
	unsigned int i;

	for (i = 0; i < nvdev->nr_regions; i++) {
		void __iomem **barmap = &nvdev->core.barmap[nvdev->regions[i].index];

		if (IS_ERR_OR_NULL(*barmap))
			*barmap = nvdev->core.barmap[0];
	}
}

static void return_barmap(struct nvgrace_gpu_device *nvdev)
{
	unsigned int i;

	for (i = 0; i < nvdev->nr_regions; i++) {
		void __iomem **barmap = &nvdev->core.barmap[nvdev->regions[i].index];

		if (*barmap == nvdev->core.barmap[0])
			*barmap = NULL;
	}
}

static void set_pci_ops(struct nvgrace_gpu_device *nvdev)
{
	nvdev->core.pci_ops = &nvgrace_gpu_pci_ops;
}
#else
static void lend_barmap(struct nvgrace_gpu_device *nvdev) {}
static void return_barmap(struct nvgrace_gpu_device *nvdev) {}
static void set_pci_ops(struct nvgrace_gpu_device *nvdev) {}
#endif

static int open_regions(struct nvgrace_gpu_device *nvdev)
{
	int ret;

	/* Whether or not that could reset the device, the last user is gone. */
	reset_bars(nvdev);
	nvgrace_gpu_ready_unknown(nvdev);

	if (!nvdev->nr_regions)
		return 0;

	ret = nvgrace_gpu_map_bar0(&nvdev->core);
	if (ret)
		return ret;

	ret = nvgrace_gpu_watch_bad_pages(nvdev);
	if (ret)
		return ret;

	lend_barmap(nvdev);
	return 0;
}

static int nvgrace_gpu_open_device(struct vfio_device *core_vdev)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(core_vdev);
	int ret;

	ret = vfio_pci_core_enable(&nvdev->core);
	if (ret)
		return ret;

	ret = open_regions(nvdev);
	if (ret) {
		vfio_pci_core_disable(&nvdev->core);
		return ret;
	}

	vfio_pci_core_finish_enable(&nvdev->core);
	return 0;
}

static void nvgrace_gpu_close_device(struct vfio_device *core_vdev)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(core_vdev);

	nvgrace_gpu_unwatch_bad_pages(nvdev);
	return_barmap(nvdev);
	vfio_pci_core_close_device(core_vdev);
	/* That resets the device, and announces it to nobody. */
	nvgrace_gpu_ready_unknown(nvdev);
}

static int nvgrace_gpu_get_region_info(struct vfio_device *core_vdev,
				       struct vfio_region_info *info,
				       struct vfio_info_cap *caps)
{
	const struct nvgrace_gpu_region *region;

	region = nvgrace_gpu_find_region(to_nvdev(core_vdev), info->index);
	if (!region)
		return vfio_pci_ioctl_get_region_info(core_vdev, info, caps);

	return nvgrace_gpu_region_info(region, info, caps);
}

static long nvgrace_gpu_ioctl(struct vfio_device *core_vdev, unsigned int cmd,
			      unsigned long arg)
{
	switch (cmd) {
	case VFIO_DEVICE_GET_REGION_INFO:
		return nvgrace_gpu_compat_region_info(core_vdev, arg,
						      nvgrace_gpu_get_region_info);
	case VFIO_DEVICE_IOEVENTFD:
		/*
		 * There are no registers in memory. Nor can those of other
		 * BARs be told apart safely: the core would read the offset
		 * from user memory again, and take it for the GPU's own BAR
		 * underneath.
		 */
		if (to_nvdev(core_vdev)->nr_regions)
			return -ENOTTY;
		fallthrough;
	default:
		return vfio_pci_core_ioctl(core_vdev, cmd, arg);
	}
}

/* The core reads it all; then the emulated registers go over what it read. */
static ssize_t read_config(struct nvgrace_gpu_device *nvdev, char __user *buf,
			   size_t count, loff_t *ppos)
{
	u64 pos = *ppos & VFIO_PCI_OFFSET_MASK;
	loff_t new_pos = *ppos;
	size_t done, piece;
	ssize_t ret;

	ret = vfio_pci_core_read(&nvdev->core.vdev, buf, count, &new_pos);
	if (ret <= 0)
		return ret;

	for (done = 0; done < ret; done += piece) {
		const struct nvgrace_gpu_region *region;
		u8 bytes[sizeof(u64)];

		piece = nvgrace_gpu_bar_next(nvdev->regions, nvdev->nr_regions,
					     pos + done, ret - done, &region);
		if (!region)
			continue;

		spin_lock(&nvdev->bar_lock);
		nvgrace_gpu_bar_read(region, pos + done -
				     nvgrace_gpu_bar_offset(region),
				     piece, bytes);
		spin_unlock(&nvdev->bar_lock);

		if (copy_to_user(buf + done, bytes, piece))
			return -EFAULT;
	}

	*ppos = new_pos;
	return ret;
}

static int write_bar(struct nvgrace_gpu_device *nvdev,
		     struct nvgrace_gpu_region *region, const char __user *buf,
		     u64 pos, size_t count)
{
	u8 bytes[sizeof(u64)];

	if (copy_from_user(bytes, buf, count))
		return -EFAULT;

	spin_lock(&nvdev->bar_lock);
	nvgrace_gpu_bar_write(region, pos - nvgrace_gpu_bar_offset(region),
			      count, bytes);
	spin_unlock(&nvdev->bar_lock);
	return 0;
}

/*
 * A GPU that comes out of D3 may have to train its link and memory again. That is
 * noted on the way in, too: on the way out there would be a moment without.
 */
static ssize_t write_core_config(struct nvgrace_gpu_device *nvdev,
				 const char __user *buf, size_t count,
				 loff_t *ppos)
{
	const pci_power_t *state = &nvdev->core.pdev->current_state;
	pci_power_t before = READ_ONCE(*state);
	ssize_t ret;

	ret = vfio_pci_core_write(&nvdev->core.vdev, buf, count, ppos);
	if (before != PCI_D0 || READ_ONCE(*state) != PCI_D0)
		nvgrace_gpu_ready_unknown(nvdev);
	return ret;
}

/* The same for the D3 that the kernel may put it in, with its user's leave. */
static int nvgrace_gpu_device_feature(struct vfio_device *core_vdev, u32 flags,
				      void __user *arg, size_t argsz)
{
	int ret;

	ret = vfio_pci_core_ioctl_feature(core_vdev, flags, arg, argsz);

	switch (flags & VFIO_DEVICE_FEATURE_MASK) {
	case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
	case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP:
		nvgrace_gpu_ready_unknown(to_nvdev(core_vdev));
	}
	return ret;
}

/* Each emulated register takes the bytes that are its own, the core the rest. */
static ssize_t write_config(struct nvgrace_gpu_device *nvdev,
			    const char __user *buf, size_t count, loff_t *ppos)
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
		const struct nvgrace_gpu_region *hit;
		ssize_t ret;

		piece = nvgrace_gpu_bar_next(nvdev->regions, nvdev->nr_regions,
					     pos + done, count - done, &hit);
		if (hit) {
			ret = write_bar(nvdev,
					nvgrace_gpu_find_region(nvdev, hit->index),
					buf + done, pos + done, piece);
			new_pos += piece;
		} else {
			ret = write_core_config(nvdev, buf + done, piece, &new_pos);
		}
		if (ret < 0)
			return ret;
	}

	*ppos = new_pos;
	return count;
}

/*
 * The wait for a GPU that is not ready is here, with no lock held. If a reset cuts
 * an access short then all of it is done again, as it is to memory.
 */
static ssize_t region_rw(struct nvgrace_gpu_device *nvdev,
			 const struct nvgrace_gpu_region *region,
			 char __user *buf, size_t count, loff_t *ppos,
			 bool iswrite)
{
	struct device *dev = &nvdev->core.pdev->dev;
	ssize_t ret;

	if (pm_runtime_resume_and_get(dev))
		return -EIO;

	do {
		ret = nvgrace_gpu_region_rw(nvdev, region, buf, count, ppos, iswrite);
		if (ret != -EAGAIN)
			break;
		ret = nvgrace_gpu_wait_ready(nvdev);
	} while (!ret);

	/* Back to sleep, if that is where it was. */
	if (READ_ONCE(nvdev->core.pm_runtime_engaged))
		nvgrace_gpu_ready_unknown(nvdev);
	pm_runtime_put(dev);
	return ret;
}

static ssize_t nvgrace_gpu_read(struct vfio_device *core_vdev, char __user *buf,
				size_t count, loff_t *ppos)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(core_vdev);
	unsigned int index = VFIO_PCI_OFFSET_TO_INDEX(*ppos);
	const struct nvgrace_gpu_region *region;

	region = nvgrace_gpu_find_region(nvdev, index);
	if (region)
		return region_rw(nvdev, region, buf, count, ppos, false);

	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		return read_config(nvdev, buf, count, ppos);

	return vfio_pci_core_read(core_vdev, buf, count, ppos);
}

static ssize_t nvgrace_gpu_write(struct vfio_device *core_vdev,
				 const char __user *buf, size_t count,
				 loff_t *ppos)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(core_vdev);
	unsigned int index = VFIO_PCI_OFFSET_TO_INDEX(*ppos);
	const struct nvgrace_gpu_region *region;

	region = nvgrace_gpu_find_region(nvdev, index);
	if (region)
		return region_rw(nvdev, region, (char __user *)buf, count, ppos,
				 true);

	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		return write_config(nvdev, buf, count, ppos);

	return vfio_pci_core_write(core_vdev, buf, count, ppos);
}

static void count_fault(struct nvgrace_gpu_device *nvdev, unsigned int order,
			vm_fault_t ret)
{
	enum nvgrace_gpu_fault what;

	if (ret == VM_FAULT_NOPAGE)
		what = !order ? NVGRACE_GPU_FAULT_PAGE :
		       order == PMD_ORDER ? NVGRACE_GPU_FAULT_PMD :
					    NVGRACE_GPU_FAULT_PUD;
	else if (ret != VM_FAULT_FALLBACK)
		what = NVGRACE_GPU_FAULT_REFUSED;
	else
		return;

	atomic_long_inc(&nvdev->faults[what]);
}

/* Wait for the GPU with the fault's lock released, and have the fault tried again. */
static vm_fault_t wait_and_retry(struct nvgrace_gpu_device *nvdev,
				 struct vm_fault *vmf)
{
	struct file *file;

	atomic_long_inc(&nvdev->faults[NVGRACE_GPU_FAULT_WAITED]);
	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;

	/* The mapping can go meanwhile, and then the device after fput(). */
	file = get_file(vmf->vma->vm_file);
	release_fault_lock(vmf);
	/* If it can't be used, the next try finds out. */
	nvgrace_gpu_wait_ready(nvdev);
	fput(file);
	return VM_FAULT_RETRY;
}

/*
 * The core zaps the mappings of every BAR with memory_lock held for write when
 * it resets the device, moves it to D3 or turns its memory off. Holding the lock
 * for read keeps a page from coming back before that is over. Resets that others
 * ask for go without, and are told by ready_lock.
 *
 * A reset takes its time: nobody waits for it with the mmap lock held, unless the
 * fault is of the rare kind that can't be tried again.
 */
static vm_fault_t try_fault(struct nvgrace_gpu_device *nvdev,
			    struct vm_fault *vmf, unsigned int order)
{
	bool may_retry = vmf->flags & FAULT_FLAG_ALLOW_RETRY;
	int err;

	do {
		vm_fault_t ret = VM_FAULT_SIGBUS;
		bool ready = true;

		if (!down_read_trylock(&nvdev->core.memory_lock)) {
			if (may_retry)
				return wait_and_retry(nvdev, vmf);
			down_read(&nvdev->core.memory_lock);
		}
		down_read(&nvdev->ready_lock);

		if (!nvdev->core.pm_runtime_engaged &&
		    !nvgrace_gpu_in_d3(&nvdev->core)) {
			ready = nvdev->ready == NVGRACE_GPU_READY;
			if (ready)
				ret = nvgrace_gpu_region_fault(nvdev, vmf, order);
		}

		up_read(&nvdev->ready_lock);
		up_read(&nvdev->core.memory_lock);
		if (ready)
			return ret;

		/* It may have got ready since somebody looked last. */
		err = nvgrace_gpu_poll_ready(nvdev);
		if (may_retry && (err == -EBUSY || err == -EAGAIN))
			return wait_and_retry(nvdev, vmf);
		cond_resched();
	} while (!err || err == -EBUSY);

	return VM_FAULT_SIGBUS;
}

static vm_fault_t region_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct nvgrace_gpu_device *nvdev =
		to_nvgrace_gpu(vmf->vma->vm_private_data);
	vm_fault_t ret;

	ret = try_fault(nvdev, vmf, order);
	/* With the fault's lock released there may be no device any more. */
	if (ret != VM_FAULT_RETRY)
		count_fault(nvdev, order, ret);
	return ret;
}

static vm_fault_t region_fault(struct vm_fault *vmf)
{
	return region_huge_fault(vmf, 0);
}

VISIBLE_IF_KUNIT const struct vm_operations_struct nvgrace_gpu_region_vm_ops = {
	.fault = region_fault,
#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
	.huge_fault = region_huge_fault,
#endif
};

static int nvgrace_gpu_mmap(struct vfio_device *core_vdev,
			    struct vm_area_struct *vma)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(core_vdev);
	unsigned int index =
		vma->vm_pgoff >> (VFIO_PCI_OFFSET_SHIFT - PAGE_SHIFT);
	const struct nvgrace_gpu_region *region;
	int ret;

	region = nvgrace_gpu_find_region(nvdev, index);
	if (!region)
		return vfio_pci_core_mmap(core_vdev, vma);

	ret = nvgrace_gpu_region_mmap(region, vma);
	if (ret)
		return ret;

	/* The same as for the core's own mappings: all are found by one inode. */
	vma->vm_private_data = &nvdev->core;
	vma->vm_ops = &nvgrace_gpu_region_vm_ops;
	return 0;
}

static const struct vfio_device_ops nvgrace_gpu_ops = {
	.name		= "nvgrace_gpu",
	.init		= nvgrace_gpu_init_dev,
	.release	= nvgrace_gpu_release_dev,
	.open_device	= nvgrace_gpu_open_device,
	.close_device	= nvgrace_gpu_close_device,
	.ioctl		= nvgrace_gpu_ioctl,
	.device_feature	= nvgrace_gpu_device_feature,
	.read		= nvgrace_gpu_read,
	.write		= nvgrace_gpu_write,
	.mmap		= nvgrace_gpu_mmap,
	.request	= vfio_pci_core_request,
	.match		= vfio_pci_core_match,
	.bind_iommufd	= vfio_iommufd_physical_bind,
	.unbind_iommufd	= vfio_iommufd_physical_unbind,
	.attach_ioas	= vfio_iommufd_physical_attach_ioas,
	.detach_ioas	= vfio_iommufd_physical_detach_ioas,
	NVGRACE_GPU_GET_REGION_INFO(nvgrace_gpu_get_region_info)
	NVGRACE_GPU_MATCH_TOKEN_UUID
};

/* Keep everybody else off the memory while the device is bound. */
static int claim_regions(struct nvgrace_gpu_device *nvdev, struct pci_dev *pdev)
{
	const struct nvgrace_gpu_region *end = nvdev->regions + nvdev->nr_regions;
	const struct nvgrace_gpu_region *region;

	for (region = nvdev->regions; region < end; region++) {
		if (!devm_request_mem_region(&pdev->dev, region->base,
					     region->backed, KBUILD_MODNAME))
			return dev_err_probe(&pdev->dev, -EBUSY,
					     "%s: %s [mem %#llx-%#llx] is in use, see /proc/iomem\n",
					     NVGRACE_GPU_PROP_BASE,
					     region->name, (u64)region->base,
					     (u64)region->base + region->backed - 1);
	}

	for (region = nvdev->regions; region < end; region++)
		pci_info(pdev,
			 "%s [mem %#llx-%#llx] is BAR%u, %#llx bytes backed of %#llx\n",
			 region->name, (u64)region->base,
			 (u64)region->base + region->backed - 1, region->index,
			 (u64)region->backed, region->bar_size);
	return 0;
}

static int init_regions(struct nvgrace_gpu_device *nvdev, struct pci_dev *pdev)
{
	struct nvgrace_gpu_range range;
	int carve_out, ret;

	ret = nvgrace_gpu_acpi_range(&pdev->dev, &range);
	if (ret == -ENOENT) {
		pci_info(pdev, "no %s and %s in ACPI: serving the device as vfio-pci does\n",
			 NVGRACE_GPU_PROP_BASE, NVGRACE_GPU_PROP_SIZE);
		return 0;
	}
	if (ret)
		return ret;

	ret = nvgrace_gpu_wait_at_probe(pdev);
	if (ret)
		return ret;

	carve_out = nvgrace_gpu_needs_carve_out(pdev);
	if (carve_out < 0)
		return carve_out;

	ret = nvgrace_gpu_split(&range, carve_out, usemem_bar, nvdev->regions);
	if (ret == -EINVAL)
		return dev_err_probe(&pdev->dev, ret,
				     "%s: 0x%zx is too small to split, the least is 0x%x\n",
				     NVGRACE_GPU_PROP_SIZE, range.size,
				     NVGRACE_GPU_RESMEM_MIN + NVGRACE_GPU_USEMEM_ALIGN);
	if (ret < 0)
		return dev_err_probe(&pdev->dev, ret,
				     "%s: 0x%zx is too large, a VFIO region has 0x%llx at most\n",
				     NVGRACE_GPU_PROP_SIZE, range.size,
				     BIT_ULL(VFIO_PCI_OFFSET_SHIFT));
	nvdev->nr_regions = ret;

	return claim_regions(nvdev, pdev);
}

static int nvgrace_gpu_probe(struct pci_dev *pdev,
			     const struct pci_device_id *id)
{
	struct nvgrace_gpu_device *nvdev;
	int ret;

	nvdev = vfio_alloc_device(nvgrace_gpu_device, core.vdev, &pdev->dev,
				  &nvgrace_gpu_ops);
	if (IS_ERR(nvdev))
		return PTR_ERR(nvdev);

	dev_set_drvdata(&pdev->dev, &nvdev->core);
	set_pci_ops(nvdev);

	ret = init_regions(nvdev, pdev);
	if (ret)
		goto out_put;

	ret = vfio_pci_core_register_device(&nvdev->core);
	if (ret)
		goto out_put;

	nvgrace_gpu_debugfs_init(nvdev);
	return 0;

out_put:
	vfio_put_device(&nvdev->core.vdev);
	return ret;
}

static void nvgrace_gpu_remove(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);

	vfio_pci_core_unregister_device(core);
	vfio_put_device(&core->vdev);
}

/* From here until the reset is over there is no memory. */
static void begin_reset(struct nvgrace_gpu_device *nvdev)
{
	nvgrace_gpu_ready_lost(nvdev, NVGRACE_GPU_RESETTING);
	nvgrace_gpu_zap_regions(nvdev);
}

/* What came in between, because the reset was not announced or took too long, goes. */
static void end_reset(struct nvgrace_gpu_device *nvdev)
{
	reset_bars(nvdev);
	atomic_long_inc(&nvdev->resets);
	nvgrace_gpu_ready_lost(nvdev, NVGRACE_GPU_TRAINING);
	nvgrace_gpu_zap_regions(nvdev);
}

/*
 * The PCI core calls these two around every function, slot and bus reset that it
 * is asked for: by the reset ioctls, a guest's FLR, sysfs, or a neighbour. If VFIO
 * asked then memory_lock is held.
 */
static void nvgrace_gpu_reset_prepare(struct pci_dev *pdev)
{
	begin_reset(to_nvgrace_gpu(dev_get_drvdata(&pdev->dev)));
}

static void nvgrace_gpu_reset_done(struct pci_dev *pdev)
{
	end_reset(to_nvgrace_gpu(dev_get_drvdata(&pdev->dev)));
}

/* AER's reset of a link is not announced, but by the error that it is to mend. */
static pci_ers_result_t nvgrace_gpu_error_detected(struct pci_dev *pdev,
						   pci_channel_state_t state)
{
	if (state != pci_channel_io_normal)
		begin_reset(to_nvgrace_gpu(dev_get_drvdata(&pdev->dev)));

	return vfio_pci_core_aer_err_detected(pdev, state);
}

/* An error that was not fatal to this device may have been to its neighbour. */
static pci_ers_result_t nvgrace_gpu_slot_reset(struct pci_dev *pdev)
{
	end_reset(to_nvgrace_gpu(dev_get_drvdata(&pdev->dev)));
	return PCI_ERS_RESULT_NONE;
}

static void nvgrace_gpu_error_resume(struct pci_dev *pdev)
{
	struct nvgrace_gpu_device *nvdev =
		to_nvgrace_gpu(dev_get_drvdata(&pdev->dev));

	if (READ_ONCE(nvdev->ready) == NVGRACE_GPU_RESETTING) {
		end_reset(nvdev);
		return;
	}

	/* The user may have reset it himself before AER did. */
	nvgrace_gpu_ready_unknown(nvdev);
	nvgrace_gpu_zap_regions(nvdev);
}

static const struct pci_error_handlers nvgrace_gpu_err_handlers = {
	.error_detected	= nvgrace_gpu_error_detected,
	.slot_reset	= nvgrace_gpu_slot_reset,
	.resume		= nvgrace_gpu_error_resume,
	.reset_prepare	= nvgrace_gpu_reset_prepare,
	.reset_done	= nvgrace_gpu_reset_done,
};

VISIBLE_IF_KUNIT const struct pci_device_id nvgrace_gpu_ids[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_VENDOR_ID_NVIDIA, 0x2342) }, /* GH200 */
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_VENDOR_ID_NVIDIA, 0x2345) }, /* GH200 */
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_VENDOR_ID_NVIDIA, 0x2348) }, /* GH200 */
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_VENDOR_ID_NVIDIA, 0x2941) }, /* GB200 */
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_VENDOR_ID_NVIDIA, 0x31c2) }, /* GB300 */
	{}
};
MODULE_DEVICE_TABLE(pci, nvgrace_gpu_ids);

static struct pci_driver nvgrace_gpu_driver = {
	.name			= KBUILD_MODNAME,
	.id_table		= nvgrace_gpu_ids,
	.probe			= nvgrace_gpu_probe,
	.remove			= nvgrace_gpu_remove,
	.err_handler		= &nvgrace_gpu_err_handlers,
	.driver_managed_dma	= true,
};
module_pci_driver(nvgrace_gpu_driver);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("VFIO PCI driver for the GPU of NVIDIA Grace Hopper and Grace Blackwell");
