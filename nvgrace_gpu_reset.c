// SPDX-License-Identifier: GPL-2.0-only
/*
 * Resets, PCI errors and power: what takes the memory away, and gives it back
 *
 * The gate is closed and the mappings are zapped. After a reset what the guest wrote
 * to the BAR registers is gone, too.
 */
#include <kunit/visibility.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>

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

/* vfio_pci_core's, which handle runtime PM only. It does not export them. */
static const struct dev_pm_ops *core_pm_ops;

/*
 * vfio_pci_core lets an open device suspend only after its VFIO user has allowed that. It
 * has zapped the mappings and set pm_runtime_engaged by then, so the gate refuses faults.
 * One that had entered before may have mapped a page after that zap.
 */
static int runtime_suspend(struct device *dev)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(dev));
	const struct dev_pm_ops *core = READ_ONCE(core_pm_ops);

	nvgrace_gpu_gate_retrain(nvdev);
	nvgrace_gpu_zap_regions(nvdev);
	return core && core->runtime_suspend ? core->runtime_suspend(dev) : 0;
}

/*
 * The GPU is back in D0 and may have to train. The driver revokes the gate before it calls
 * vfio_pci_core, because vfio_pci_core may clear pm_runtime_engaged and so admit faults.
 */
static int runtime_resume(struct device *dev)
{
	const struct dev_pm_ops *core = READ_ONCE(core_pm_ops);

	nvgrace_gpu_gate_retrain(to_nvdev(dev_get_drvdata(dev)));
	return core && core->runtime_resume ? core->runtime_resume(dev) : 0;
}

/* The host suspends: afterwards no task may find the memory mapped before it is trained. */
static int system_suspend(struct device *dev)
{
	begin_reset(to_nvdev(dev_get_drvdata(dev)));
	return 0;
}

static int system_resume(struct device *dev)
{
	begin_training(to_nvdev(dev_get_drvdata(dev)));
	return 0;
}

VISIBLE_IF_KUNIT const struct dev_pm_ops nvgrace_gpu_pm_ops = {
	SYSTEM_SLEEP_PM_OPS(system_suspend, system_resume)
	RUNTIME_PM_OPS(runtime_suspend, runtime_resume, NULL)
};

/**
 * nvgrace_gpu_wrap_pm() - see the power management of a device before vfio_pci_core
 * @dev: the GPU, just registered with vfio_pci_core
 *
 * vfio_pci_core sets the PM ops of the driver whenever it registers a device. Until
 * this function has set them back, the driver does not see another GPU suspend or
 * resume. Either is enough to revoke, so that no GPU stays ready unless it did both.
 *
 * Context: Process context.
 */
void nvgrace_gpu_wrap_pm(struct device *dev)
{
	const struct dev_pm_ops *pm = READ_ONCE(dev->driver->pm);

	if (pm == &nvgrace_gpu_pm_ops)
		return;
	WRITE_ONCE(core_pm_ops, pm);
	WRITE_ONCE(dev->driver->pm, pm_ptr(&nvgrace_gpu_pm_ops));
}
