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
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>

#include "nvgrace_gpu.h"

#ifdef NVGRACE_GPU_DROPIN
static unsigned int usemem_bar = 4;
#else
static unsigned int usemem_bar = 2;
#endif

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
		 "BAR that shows the cacheable memory: 2 (default, but 4 if built with DROPIN=1), or 4 as NVIDIA's guest driver wants it");

static bool enable_sriov;
module_param(enable_sriov, bool, 0644);
MODULE_PARM_DESC(enable_sriov, "let sysfs enable virtual functions, as vfio-pci's parameter does");

static bool disable_idle_d3;
module_param(disable_idle_d3, bool, 0444);
MODULE_PARM_DESC(disable_idle_d3,
		 "keep GPUs that are not open out of D3, as vfio-pci's parameter does");

static bool scrub;
module_param(scrub, bool, 0444);
MODULE_PARM_DESC(scrub,
		 "write zeroes to the memory at each open, before the open returns");

static struct nvgrace_gpu_device *vfio_to_nvdev(struct vfio_device *core_vdev)
{
	return to_nvdev(container_of(core_vdev, struct vfio_pci_core_device, vdev));
}

static int nvgrace_gpu_init_dev(struct vfio_device *core_vdev)
{
	struct nvgrace_gpu_device *nvdev = vfio_to_nvdev(core_vdev);
	int ret;

	spin_lock_init(&nvdev->bar_lock);
	xa_init(&nvdev->poison.pages);
	INIT_WORK(&nvdev->notify, nvgrace_gpu_notify);

	ret = nvgrace_gpu_gate_init(nvdev);
	if (ret)
		return ret;

	ret = vfio_pci_core_init_dev(core_vdev);
	if (ret)
		nvgrace_gpu_gate_destroy(nvdev);
	return ret;
}

static void nvgrace_gpu_release_dev(struct vfio_device *core_vdev)
{
	struct nvgrace_gpu_device *nvdev = vfio_to_nvdev(core_vdev);

	xa_destroy(&nvdev->poison.pages);
	kfree(nvdev->saved_config);
	nvgrace_gpu_gate_destroy(nvdev);
	vfio_pci_core_release_dev(core_vdev);
}

/*
 * disable_idle_d3 is a runtime PM reference, held while the device is bound and not
 * open. vfio_pci_core has a switch for that, too, but some kernels let vfio-pci alone
 * set it. An open device has vfio_pci_core's reference, which the VFIO user may give
 * up.
 */
static void get_idle(struct device *dev)
{
	if (disable_idle_d3)
		pm_runtime_get_noresume(dev);
}

static void put_idle(struct device *dev)
{
	if (disable_idle_d3)
		pm_runtime_put_noidle(dev);
}

static int open_regions(struct nvgrace_gpu_device *nvdev)
{
	int ret;

	/* vfio_pci_core_enable() may not have been able to reset the device. */
	nvgrace_gpu_config_reset(nvdev);
	nvgrace_gpu_gate_retrain(nvdev);
	WRITE_ONCE(nvdev->handover, nvdev->core.reset_works ? NVGRACE_GPU_RESET :
							      NVGRACE_GPU_NOT_RESET);

	if (!nvdev->nr_regions)
		return 0;

	if (!nvdev->gate.status.cxl) {
		ret = nvgrace_gpu_map_bar0(&nvdev->core);
		if (ret)
			return ret;
	}

	if (scrub) {
		WRITE_ONCE(nvdev->handover, NVGRACE_GPU_ZEROING);
		ret = nvgrace_gpu_scrub(nvdev);
		if (ret)
			return ret;
		WRITE_ONCE(nvdev->handover, NVGRACE_GPU_ZEROED);
	}

	ret = nvgrace_gpu_watch_poison(nvdev);
	if (ret)
		return ret;

	nvgrace_gpu_dmabuf_open(nvdev);
	return 0;
}

/*
 * Trylock only: unbind holds the lock while it waits for the close. If a reset holds it,
 * vfio_pci_core_enable() fails with -EAGAIN, and a close keeps the copy saved before.
 */
static void with_device_lock(struct nvgrace_gpu_device *nvdev,
			     void (*function)(struct nvgrace_gpu_device *nvdev))
{
	struct device *dev = &nvdev->core.pdev->dev;

	if (device_trylock(dev)) {
		function(nvdev);
		device_unlock(dev);
	}
}

static int nvgrace_gpu_open_device(struct vfio_device *core_vdev)
{
	struct nvgrace_gpu_device *nvdev = vfio_to_nvdev(core_vdev);
	struct device *dev = &nvdev->core.pdev->dev;
	int ret;

	ret = pm_runtime_resume_and_get(dev);
	if (ret)
		return ret;
	with_device_lock(nvdev, nvgrace_gpu_restore_config);

	ret = vfio_pci_core_enable(&nvdev->core);
	if (ret)
		goto out_put;

	ret = open_regions(nvdev);
	if (ret) {
		/* This resets the device, without calling .reset_prepare or .reset_done. */
		vfio_pci_core_disable(&nvdev->core);
		nvgrace_gpu_unmap_windows(nvdev);
		nvgrace_gpu_gate_retrain(nvdev);
		goto out_put;
	}

	WRITE_ONCE(nvdev->is_open, true);
	vfio_pci_core_finish_enable(&nvdev->core);
	put_idle(dev);
out_put:
	if (ret)
		WRITE_ONCE(nvdev->handover, NVGRACE_GPU_NO_OWNER);
	/* vfio_pci_core holds a reference of its own while the device is open. */
	pm_runtime_put(dev);
	return ret;
}

static void nvgrace_gpu_close_device(struct vfio_device *core_vdev)
{
	struct nvgrace_gpu_device *nvdev = vfio_to_nvdev(core_vdev);
	struct device *dev = &nvdev->core.pdev->dev;

	nvgrace_gpu_unwatch_poison(nvdev);
	nvgrace_gpu_dmabuf_close(nvdev);
	get_idle(dev);
	pm_runtime_get_noresume(dev);
	vfio_pci_core_close_device(core_vdev);
	nvgrace_gpu_unmap_windows(nvdev);
	/* The core has reset the device, without calling .reset_prepare or .reset_done. */
	nvgrace_gpu_gate_retrain(nvdev);
	with_device_lock(nvdev, nvgrace_gpu_save_config);
	WRITE_ONCE(nvdev->is_open, false);
	nvgrace_gpu_egm_gpu_closed(nvdev);
	pm_runtime_put(dev);
}

static int nvgrace_gpu_get_region_info(struct vfio_device *core_vdev,
				       struct vfio_region_info *info,
				       struct vfio_info_cap *caps)
{
	const struct nvgrace_gpu_region *region;

	region = nvgrace_gpu_find_region(vfio_to_nvdev(core_vdev), info->index);
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
		 * The regions have no registers, and ioeventfds on other BARs
		 * cannot be let through safely. The core reads the offset from
		 * user memory again. A VMM that changes the offset in between
		 * would reach the physical BAR below a region.
		 */
		if (vfio_to_nvdev(core_vdev)->nr_regions)
			return -ENOTTY;
		fallthrough;
	default:
		return vfio_pci_core_ioctl(core_vdev, cmd, arg);
	}
}

static ssize_t nvgrace_gpu_read(struct vfio_device *core_vdev, char __user *buf,
				size_t count, loff_t *ppos)
{
	struct nvgrace_gpu_device *nvdev = vfio_to_nvdev(core_vdev);
	unsigned int index = VFIO_PCI_OFFSET_TO_INDEX(*ppos);
	const struct nvgrace_gpu_region *region;

	region = nvgrace_gpu_find_region(nvdev, index);
	if (region)
		return nvgrace_gpu_region_rw(nvdev, region, buf, count, ppos, false);

	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		return nvgrace_gpu_config_read(nvdev, buf, count, ppos);

	return vfio_pci_core_read(core_vdev, buf, count, ppos);
}

static ssize_t nvgrace_gpu_write(struct vfio_device *core_vdev,
				 const char __user *buf, size_t count,
				 loff_t *ppos)
{
	struct nvgrace_gpu_device *nvdev = vfio_to_nvdev(core_vdev);
	unsigned int index = VFIO_PCI_OFFSET_TO_INDEX(*ppos);
	const struct nvgrace_gpu_region *region;

	region = nvgrace_gpu_find_region(nvdev, index);
	if (region)
		return nvgrace_gpu_region_rw(nvdev, region, (char __user *)buf, count,
					     ppos, true);

	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		return nvgrace_gpu_config_write(nvdev, buf, count, ppos);

	return vfio_pci_core_write(core_vdev, buf, count, ppos);
}

static int nvgrace_gpu_mmap(struct vfio_device *core_vdev,
			    struct vm_area_struct *vma)
{
	struct nvgrace_gpu_device *nvdev = vfio_to_nvdev(core_vdev);
	unsigned int index =
		vma->vm_pgoff >> (VFIO_PCI_OFFSET_SHIFT - PAGE_SHIFT);
	const struct nvgrace_gpu_region *region;

	region = nvgrace_gpu_find_region(nvdev, index);
	if (!region)
		return vfio_pci_core_mmap(core_vdev, vma);

	return nvgrace_gpu_region_mmap(nvdev, region, vma);
}

static const struct vfio_device_ops nvgrace_gpu_ops = {
	.name		= "nvgrace_gpu",
	.init		= nvgrace_gpu_init_dev,
	.release	= nvgrace_gpu_release_dev,
	.open_device	= nvgrace_gpu_open_device,
	.close_device	= nvgrace_gpu_close_device,
	.ioctl		= nvgrace_gpu_ioctl,
	.device_feature	= vfio_pci_core_ioctl_feature,
	.read		= nvgrace_gpu_read,
	.write		= nvgrace_gpu_write,
	.mmap		= nvgrace_gpu_mmap,
	.request	= vfio_pci_core_request,
	.match		= vfio_pci_core_match,
	.bind_iommufd	= vfio_iommufd_physical_bind,
	.unbind_iommufd	= vfio_iommufd_physical_unbind,
	.attach_ioas	= vfio_iommufd_physical_attach_ioas,
	.detach_ioas	= vfio_iommufd_physical_detach_ioas,
	NVGRACE_GPU_PASID_IOAS
	NVGRACE_GPU_GET_REGION_INFO(nvgrace_gpu_get_region_info)
	NVGRACE_GPU_MATCH_TOKEN_UUID
};

#define NVGRACE_GPU_ID(device, product)	\
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_VENDOR_ID_NVIDIA, device) },
VISIBLE_IF_KUNIT const struct pci_device_id nvgrace_gpu_ids[] = {
#include "nvgrace_gpu_ids.h"
	{}
};
MODULE_DEVICE_TABLE(pci, nvgrace_gpu_ids);

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

	ret = nvgrace_gpu_wait_at_probe(nvdev);
	if (ret)
		return ret;

	carve_out = nvgrace_gpu_needs_carve_out(pdev);
	if (carve_out < 0)
		return carve_out;
	if (carve_out && nvdev->gate.status.cxl)
		pci_info(pdev, "a CXL DVSEC, but no DVSEC of NVIDIA's: carving out resmem, probably without need\n");

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

	return nvgrace_gpu_claim_regions(nvdev);
}

static int nvgrace_gpu_probe(struct pci_dev *pdev,
			     const struct pci_device_id *id)
{
	struct nvgrace_gpu_device *nvdev;
	int ret;

	/* driver_override binds any device, and new_id adds ids. */
	if (!pci_match_id(nvgrace_gpu_ids, pdev))
		pci_info(pdev, "not an id that the driver knows: ACPI says whether it has coherent memory\n");

	nvdev = vfio_alloc_device(nvgrace_gpu_device, core.vdev, &pdev->dev,
				  &nvgrace_gpu_ops);
	if (IS_ERR(nvdev))
		return PTR_ERR(nvdev);

	dev_set_drvdata(&pdev->dev, &nvdev->core);
	nvgrace_gpu_dmabuf_init(nvdev);

	ret = init_regions(nvdev, pdev);
	if (ret)
		goto out_put;

	nvgrace_gpu_save_config(nvdev);
	nvgrace_gpu_pm_init(nvdev);
	get_idle(&pdev->dev);
	ret = vfio_pci_core_register_device(&nvdev->core);
	if (ret) {
		/* VFIO needs a group, unless its no-IOMMU mode is on. */
		if (!device_iommu_mapped(&pdev->dev))
			dev_err_probe(&pdev->dev, ret,
				      "no IOMMU: switch the SMMU on in the firmware's setup, and have CONFIG_ARM_SMMU_V3\n");
		goto out_idle;
	}

	nvgrace_gpu_log_regions(nvdev);
	nvgrace_gpu_egm_attach(nvdev);
	return 0;

out_idle:
	put_idle(&pdev->dev);
	nvgrace_gpu_pm_exit(nvdev);
out_put:
	disable_work_sync(&nvdev->notify);
	vfio_put_device(&nvdev->core.vdev);
	return ret;
}

static void nvgrace_gpu_remove(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);

	vfio_pci_core_unregister_device(core);
	nvgrace_gpu_egm_detach(to_nvdev(core));
	nvgrace_gpu_restore_config(to_nvdev(core));
	nvgrace_gpu_pm_exit(to_nvdev(core));
	put_idle(&pdev->dev);
	disable_work_sync(&to_nvdev(core)->notify);
	vfio_put_device(&core->vdev);
}

static int nvgrace_gpu_sriov_configure(struct pci_dev *pdev, int nr_virtfn)
{
	if (!enable_sriov)
		return -ENOENT;
	return vfio_pci_core_sriov_configure(dev_get_drvdata(&pdev->dev), nr_virtfn);
}

static struct pci_driver nvgrace_gpu_driver = {
	.name			= KBUILD_MODNAME,
	.id_table		= nvgrace_gpu_ids,
	.probe			= nvgrace_gpu_probe,
	.remove			= nvgrace_gpu_remove,
	.sriov_configure	= nvgrace_gpu_sriov_configure,
	.err_handler		= &nvgrace_gpu_err_handlers,
	.dev_groups		= nvgrace_gpu_dev_groups,
	.driver_managed_dma	= true,
	/* Each probe may wait for a GPU to train. */
	.driver.probe_type	= PROBE_PREFER_ASYNCHRONOUS,
};
module_pci_driver(nvgrace_gpu_driver);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("VFIO PCI driver for the GPU of NVIDIA Grace Hopper and Grace Blackwell");
