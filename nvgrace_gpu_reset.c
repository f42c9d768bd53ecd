// SPDX-License-Identifier: GPL-2.0-only
/*
 * Resets, PCI errors and power: what takes the memory away, and gives it back
 *
 * The driver closes the gate and zaps the mappings. A reset also clears what the guest wrote
 * to the BAR registers.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/pci.h>
#include <linux/pm_domain.h>

#include "nvgrace_gpu.h"

/* How long to wait for config space after the PCI core has called a reset complete. */
#define LATE_LIMIT_S	10
#define LATE_POLL_MS	10

/* Does config space answer, or will it soon? Not if the PCI core knows that the GPU is gone. */
static bool will_answer(struct pci_dev *pdev)
{
	unsigned long limit = jiffies + LATE_LIMIT_S * HZ;

	while (!nvgrace_gpu_is_present(pdev)) {
		if (pdev->error_state == pci_channel_io_perm_failure || time_after(jiffies, limit))
			return false;
		msleep(LATE_POLL_MS);
	}
	return true;
}

static void begin_reset(struct nvgrace_gpu_device *nvdev, enum nvgrace_gpu_ready_state state)
{
	nvgrace_gpu_gate_revoke(nvdev, state);
	nvgrace_gpu_zap_regions(nvdev);
}

static void begin_training(struct nvgrace_gpu_device *nvdev)
{
	nvgrace_gpu_gate_revoke(nvdev, NVGRACE_GPU_TRAINING);
	/* Pages are mapped if nothing announced the reset, or if it outlasted its deadline. */
	nvgrace_gpu_zap_regions(nvdev);
}

/**
 * nvgrace_gpu_save_config() - remember the config space of a GPU that is not open
 * @nvdev: the device, in D0, and its config space as the PCI core or VFIO left it
 *
 * If BAR0 has lost its address, or memory is short, the driver keeps what it has remembered.
 *
 * Context: Process context; the device lock is held, because resets save and restore config
 * space, too.
 */
void nvgrace_gpu_save_config(struct nvgrace_gpu_device *nvdev)
{
	struct pci_dev *pdev = nvdev->core.pdev;
	struct pci_saved_state *state = NULL;

	if (nvgrace_gpu_has_bar0(pdev) && !pci_save_state(pdev))
		state = pci_store_saved_state(pdev);
	/* The PCI core must not take this for a state to restore when the device resumes. */
	pci_load_saved_state(pdev, NULL);
	if (!state)
		return;
	kfree(nvdev->saved_config);
	nvdev->saved_config = state;
}

/**
 * nvgrace_gpu_restore_config() - restore the config space of a GPU that is not open
 * @nvdev: the device, in D0
 *
 * AER resets a link without restoring config space. A later reset saves and restores what it
 * finds, so the BARs would stay lost for each later VFIO user and driver. While the GPU is
 * open, the VMM gets an error event and has to reset it.
 *
 * Context: Process context, sleeps for 10 s at most if the GPU does not answer; the device lock is
 * held, because resets save and restore config space, too.
 */
void nvgrace_gpu_restore_config(struct nvgrace_gpu_device *nvdev)
{
	struct pci_dev *pdev = nvdev->core.pdev;

	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_restore_config, nvdev);

	if (nvgrace_gpu_has_bar0(pdev) || !nvdev->saved_config || !will_answer(pdev))
		return;
	/* The reset of a close may end as late as others: see wait_for_late_end(). */
	if (nvgrace_gpu_has_bar0(pdev))
		return;
	pci_info(pdev, "a reset cost its config space, which the driver restores\n");
	if (!pci_load_saved_state(pdev, nvdev->saved_config))
		pci_restore_state(pdev);
}

static void end_reset(struct nvgrace_gpu_device *nvdev)
{
	if (!READ_ONCE(nvdev->is_open))
		nvgrace_gpu_restore_config(nvdev);
	nvgrace_gpu_config_reset(nvdev);
	atomic_long_inc(&nvdev->resets);
	begin_training(nvdev);
}

/*
 * Firmware's _RST polls for the end of the reset. At its time limit it returns as if the reset had
 * worked, and the PCI core restores config space at once. Until the GPU answers, those writes are
 * lost. So wait as the PCI core does after other resets, and restore config space again.
 */
static void wait_for_late_end(struct pci_dev *pdev)
{
	unsigned long start = jiffies;

	if (nvgrace_gpu_is_present(pdev) || !will_answer(pdev))
		return;

	pci_info(pdev, "config space read all ones for %u ms after a reset, and is restored now\n",
		 jiffies_to_msecs(jiffies - start));
	/* The PCI core saved it before the reset, and has marked that as used up. */
	pdev->state_saved = true;
	pci_restore_state(pdev);
}

/*
 * The PCI core calls these two around every function, slot and bus reset that the
 * reset ioctls, a guest's FLR, sysfs or a neighbour initiate. VFIO holds memory_lock
 * for those that it initiates.
 */
static void nvgrace_gpu_reset_prepare(struct pci_dev *pdev)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(&pdev->dev));

	begin_reset(nvdev, NVGRACE_GPU_RESETTING);
	nvdev->was_present = nvgrace_gpu_is_present(pdev);
}

static void nvgrace_gpu_reset_done(struct pci_dev *pdev)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(&pdev->dev));

	/* The PCI core has saved nothing of a GPU that was gone before. */
	if (nvdev->was_present)
		wait_for_late_end(pdev);
	end_reset(nvdev);
}

/*
 * Error recovery may reset the link without calling .reset_prepare, or reset nothing, and
 * .slot_reset does not tell which. BAR0 does: a reset clears its address.
 */
static void end_recovery(struct nvgrace_gpu_device *nvdev)
{
	struct pci_dev *pdev = nvdev->core.pdev;

	if (nvgrace_gpu_has_bar0(pdev) || !nvgrace_gpu_is_present(pdev))
		begin_training(nvdev);
	else
		end_reset(nvdev);
}

/*
 * If a recovery fails, the PCI core does not call .resume. Newer kernels call .error_detected
 * with pci_channel_io_perm_failure; 6.12 calls nothing, and the gate polls the registers after
 * its deadline.
 */
static pci_ers_result_t nvgrace_gpu_error_detected(struct pci_dev *pdev,
						   pci_channel_state_t state)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(&pdev->dev));

	if (state == pci_channel_io_perm_failure)
		end_recovery(nvdev);
	else
		begin_reset(nvdev, state == pci_channel_io_frozen ? NVGRACE_GPU_RESETTING :
								    NVGRACE_GPU_RECOVERING);

	return vfio_pci_core_aer_err_detected(pdev, state);
}

static void nvgrace_gpu_error_resume(struct pci_dev *pdev)
{
	end_recovery(to_nvdev(dev_get_drvdata(&pdev->dev)));
}

const struct pci_error_handlers nvgrace_gpu_err_handlers = {
	.error_detected	= nvgrace_gpu_error_detected,
	.resume		= nvgrace_gpu_error_resume,
	.reset_prepare	= nvgrace_gpu_reset_prepare,
	.reset_done	= nvgrace_gpu_reset_done,
};

/*
 * vfio_pci_core lets an open device suspend only after its VFIO user has allowed that. It
 * has zapped the mappings and set pm_runtime_engaged by then, so the gate refuses faults.
 * A fault that entered before may have mapped a page since, which this zap catches.
 */
static int nvgrace_gpu_runtime_suspend(struct device *dev)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(dev));
	int ret;

	nvgrace_gpu_gate_retrain(nvdev);
	nvgrace_gpu_zap_regions(nvdev);
	ret = dev->bus->pm->runtime_suspend(dev);
	schedule_work(&nvdev->notify);
	return ret;
}

/*
 * The GPU returns to D0 and may have to train. The driver revokes the gate before
 * vfio_pci_core clears pm_runtime_engaged, which admits faults.
 */
static int nvgrace_gpu_runtime_resume(struct device *dev)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(dev_get_drvdata(dev));
	int ret;

	nvgrace_gpu_gate_retrain(nvdev);
	ret = dev->bus->pm->runtime_resume(dev);
	/* A return from D3cold takes long. The time to train begins at its end. */
	nvgrace_gpu_gate_retrain(nvdev);
	return ret;
}

/* The host suspends: unmap now, so that no task uses the memory on resume before it is trained. */
static int nvgrace_gpu_pm_prepare(struct device *dev)
{
	int ret = dev->bus->pm->prepare(dev);

	if (ret >= 0)
		begin_reset(to_nvdev(dev_get_drvdata(dev)), NVGRACE_GPU_RESETTING);
	return ret;
}

static void nvgrace_gpu_pm_complete(struct device *dev)
{
	dev->bus->pm->complete(dev);
	begin_training(to_nvdev(dev_get_drvdata(dev)));
}

/**
 * nvgrace_gpu_pm_init() - hook suspend and resume, ahead of vfio_pci_core's callbacks
 * @nvdev: the device, which is being bound
 *
 * vfio_pci_core overwrites the driver's PM ops whenever it registers a device, so the hooks are in
 * a PM domain of the device, which calls the PCI bus's operations.
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
