// SPDX-License-Identifier: GPL-2.0-only
/*
 * Resets, PCI errors and power: what takes the memory away, and gives it back
 *
 * The gate is closed and the mappings are zapped. After a reset what the guest wrote
 * to the BAR registers is gone, too.
 */
#include <kunit/visibility.h>
#include <linux/pci.h>
#include <linux/pm_domain.h>

#include "nvgrace_gpu.h"

/* From here until the reset is over there is no memory. */
static void begin_reset(struct nvgrace_gpu_device *nvdev)
{
	nvgrace_gpu_gate_revoke(nvdev, NVGRACE_GPU_RESETTING);
	nvgrace_gpu_zap_regions(nvdev);
}

/* There is memory again, as soon as it is trained. */
static void begin_training(struct nvgrace_gpu_device *nvdev)
{
	/* Something is mapped if the reset was not announced, or if the gate gave it up. */
	if (nvgrace_gpu_gate_revoke(nvdev, NVGRACE_GPU_TRAINING))
		nvgrace_gpu_zap_regions(nvdev);
}

static void end_reset(struct nvgrace_gpu_device *nvdev)
{
	nvgrace_gpu_config_reset(nvdev);
	atomic_long_inc(&nvdev->stats.resets);
	begin_training(nvdev);
}

/*
 * The PCI core calls these two around every function, slot and bus reset that the
 * reset ioctls, a guest's FLR, sysfs or a neighbour initiate. VFIO holds memory_lock
 * for those that it initiates.
 */
static void nvgrace_gpu_reset_prepare(struct pci_dev *pdev)
{
	begin_reset(to_nvdev(dev_get_drvdata(&pdev->dev)));
}

static void nvgrace_gpu_reset_done(struct pci_dev *pdev)
{
	end_reset(to_nvdev(dev_get_drvdata(&pdev->dev)));
}

static void end_recovery(struct nvgrace_gpu_device *nvdev)
{
	if (nvdev->link_reset)
		end_reset(nvdev);
	else
		begin_training(nvdev);
	nvdev->link_reset = false;
}

/*
 * AER resets the link without calling .reset_prepare; .error_detected is the only
 * notice. For a frozen channel the reset is certain. For a non-fatal error it depends
 * on the neighbours' drivers. A recovery that fails ends without .resume: newer kernels
 * report pci_channel_io_perm_failure then. 6.12 reports nothing, and the gate stays
 * RESETTING until its deadline.
 */
static pci_ers_result_t nvgrace_gpu_error_detected(struct pci_dev *pdev,
						   pci_channel_state_t state)
{
	struct nvgrace_gpu_device *nvdev =
		to_nvdev(dev_get_drvdata(&pdev->dev));

	if (state == pci_channel_io_perm_failure) {
		end_recovery(nvdev);
	} else {
		nvdev->link_reset = state == pci_channel_io_frozen;
		begin_reset(nvdev);
	}

	return vfio_pci_core_aer_err_detected(pdev, state);
}

static pci_ers_result_t nvgrace_gpu_slot_reset(struct pci_dev *pdev)
{
	to_nvdev(dev_get_drvdata(&pdev->dev))->link_reset = true;
	return PCI_ERS_RESULT_NONE;
}

static void nvgrace_gpu_error_resume(struct pci_dev *pdev)
{
	end_recovery(to_nvdev(dev_get_drvdata(&pdev->dev)));
}

const struct pci_error_handlers nvgrace_gpu_err_handlers = {
	.error_detected	= nvgrace_gpu_error_detected,
	.slot_reset	= nvgrace_gpu_slot_reset,
	.resume		= nvgrace_gpu_error_resume,
	.reset_prepare	= nvgrace_gpu_reset_prepare,
	.reset_done	= nvgrace_gpu_reset_done,
};

/*
 * vfio_pci_core lets an open device suspend only after its VFIO user has allowed that. It
 * has zapped the mappings and set pm_runtime_engaged by then, so the gate refuses faults.
 * One that had entered before may have mapped a page after that zap.
 */
static int nvgrace_gpu_runtime_suspend(struct device *dev)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(dev));

	nvgrace_gpu_gate_retrain(nvdev);
	nvgrace_gpu_zap_regions(nvdev);
	return dev->bus->pm->runtime_suspend(dev);
}

/*
 * The GPU returns to D0 and may have to train. The driver revokes the gate before
 * vfio_pci_core clears pm_runtime_engaged, which admits faults.
 */
static int nvgrace_gpu_runtime_resume(struct device *dev)
{
	nvgrace_gpu_gate_retrain(to_nvdev(dev_get_drvdata(dev)));
	return dev->bus->pm->runtime_resume(dev);
}

/* The host suspends: afterwards no task may find the memory mapped before it is trained. */
static int nvgrace_gpu_pm_prepare(struct device *dev)
{
	int ret = dev->bus->pm->prepare(dev);

	if (ret >= 0)
		begin_reset(to_nvdev(dev_get_drvdata(dev)));
	return ret;
}

static void nvgrace_gpu_pm_complete(struct device *dev)
{
	dev->bus->pm->complete(dev);
	begin_training(to_nvdev(dev_get_drvdata(dev)));
}

/**
 * nvgrace_gpu_pm_init() - see a device suspend and resume, before vfio_pci_core does
 * @nvdev: the device, which is being bound
 *
 * vfio_pci_core stores PM ops of its own in the driver whenever it registers a device. Thus the
 * driver gives each device a PM domain, which calls the PCI bus's operations.
 *
 * Context: Process context. nvgrace_gpu_pm_exit() undoes this.
 */
void nvgrace_gpu_pm_init(struct nvgrace_gpu_device *nvdev)
{
	struct device *dev = &nvdev->core.pdev->dev;

	if (!dev->bus->pm)
		return;

	nvdev->pm_domain.ops = *dev->bus->pm;
	nvdev->pm_domain.ops.prepare = nvgrace_gpu_pm_prepare;
	nvdev->pm_domain.ops.complete = nvgrace_gpu_pm_complete;
	nvdev->pm_domain.ops.runtime_suspend = nvgrace_gpu_runtime_suspend;
	nvdev->pm_domain.ops.runtime_resume = nvgrace_gpu_runtime_resume;
	dev_pm_domain_set(dev, &nvdev->pm_domain);
}

/**
 * nvgrace_gpu_pm_exit() - undo nvgrace_gpu_pm_init()
 * @nvdev: the device
 *
 * Context: Process context.
 */
void nvgrace_gpu_pm_exit(struct nvgrace_gpu_device *nvdev)
{
	dev_pm_domain_set(&nvdev->core.pdev->dev, NULL);
}
