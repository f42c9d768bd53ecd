// SPDX-License-Identifier: GPL-2.0-only
/*
 * Is the GPU there? What it needs, and whether its memory can be used yet
 *
 * After boot and after each reset the link to the GPU and its memory are trained,
 * which takes seconds. Two registers in BAR0 say that it is over. Until then
 * nobody should access the memory: it does no harm to the host, but all ones
 * are read, writes are lost, and corrected RAS events are logged.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/sched/signal.h>

#include "nvgrace_gpu.h"

/* NVIDIA's DVSEC that describes the coherent memory, and the word in it. */
#define DVSEC_ID_MEMORY		3
#define DVSEC_MEMORY_FLAGS	0xA
#define DVSEC_MEMORY_NO_DEFECT	BIT(0)

/* Registers in BAR0, 32 bits each, and what both read when the GPU is ready. */
#define BAR0_C2C_LINK		0x1498
#define BAR0_HBM_TRAINING	0x200BC
#define BAR0_READY		0xFF

/* How long training may take, and how long to sleep between two looks at it. */
#define READY_LIMIT_MS		(30 * MSEC_PER_SEC)
#define POLL_MAX_MS		128

/**
 * nvgrace_gpu_read_dvsec() - read the flags in the DVSEC of the coherent memory
 * @pdev: the GPU
 * @flags: the flags, all ones if they cannot be read; untouched without a DVSEC
 *
 * Context: Process context.
 * Return: where in config space the DVSEC is, 0 if there is none.
 */
VISIBLE_IF_KUNIT u16 nvgrace_gpu_read_dvsec(struct pci_dev *pdev, u16 *flags)
{
	u16 dvsec;

	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_read_dvsec, pdev, flags);

	dvsec = pci_find_dvsec_capability(pdev, PCI_VENDOR_ID_NVIDIA,
					  DVSEC_ID_MEMORY);
	if (dvsec)
		pci_read_config_word(pdev, dvsec + DVSEC_MEMORY_FLAGS, flags);
	return dvsec;
}

/**
 * nvgrace_gpu_needs_carve_out() - must a part of the memory be mapped uncached?
 * @pdev: the GPU
 *
 * Multi-Instance GPU on Grace Hopper has a defect that asks for a piece of
 * uncached memory, resmem. A GPU without the defect says so in a DVSEC; one
 * without the DVSEC is taken to have it.
 *
 * Context: Process context.
 * Return: 0 if the DVSEC says that no carve-out is needed, else 1; -EIO if it is
 * there and cannot be read, which is logged.
 */
int nvgrace_gpu_needs_carve_out(struct pci_dev *pdev)
{
	u16 dvsec, flags;

	dvsec = nvgrace_gpu_read_dvsec(pdev, &flags);
	if (!dvsec)
		return 1;

	/* A guess would give the guest another layout: fail instead. */
	if (PCI_POSSIBLE_ERROR(flags))
		return dev_err_probe(&pdev->dev, -EIO,
				     "DVSEC at config offset 0x%x: cannot be read\n",
				     dvsec);

	return !(flags & DVSEC_MEMORY_NO_DEFECT);
}

/* 0: ready. -EAGAIN: not yet. -ENODEV: nothing answers, and nothing will. */
static int read_registers(struct pci_dev *pdev, void __iomem *bar0,
			 struct nvgrace_gpu_status *status)
{
	status->link = ioread32(bar0 + BAR0_C2C_LINK);
	status->memory = ioread32(bar0 + BAR0_HBM_TRAINING);

	if (status->link == BAR0_READY && status->memory == BAR0_READY)
		return 0;

	if ((PCI_POSSIBLE_ERROR(status->link) ||
	     PCI_POSSIBLE_ERROR(status->memory)) &&
	    !pci_device_is_present(pdev))
		return -ENODEV;

	return -EAGAIN;
}

/* Sleep between two looks, ever longer. -EINTR if the task is killed. */
static int sleep_before_poll(unsigned int *ms)
{
	schedule_timeout_killable(msecs_to_jiffies(*ms));
	*ms = min(2 * *ms, POLL_MAX_MS);

	return fatal_signal_pending(current) ? -EINTR : 0;
}

static int poll_at_probe(struct pci_dev *pdev, void __iomem *bar0)
{
	unsigned long limit = jiffies + msecs_to_jiffies(READY_LIMIT_MS);
	struct nvgrace_gpu_status status;
	unsigned int ms = 1;
	bool last;
	int ret;

	do {
		last = time_after_eq(jiffies, limit);
		ret = read_registers(pdev, bar0, &status);
		if (ret == -ENODEV)
			return dev_err_probe(&pdev->dev, ret,
					     "BAR0 and config space read all ones: the GPU is gone\n");
		if (ret != -EAGAIN)
			return ret;
		ret = sleep_before_poll(&ms);
		if (ret)
			return ret;
	} while (!last);

	return dev_err_probe(&pdev->dev, -ETIME,
			     "not ready after %lu s: BAR0+0x%x (C2C link) reads 0x%x, BAR0+0x%x (HBM training) reads 0x%x, both should be 0x%x\n",
			     READY_LIMIT_MS / MSEC_PER_SEC,
			     BAR0_C2C_LINK, status.link,
			     BAR0_HBM_TRAINING, status.memory, BAR0_READY);
}

/**
 * nvgrace_gpu_wait_at_probe() - wait until the GPU's memory can be used
 * @pdev: the GPU, in D0 and not yet enabled
 *
 * A GPU that is ready costs two register reads.
 *
 * Context: Process context, sleeps for 30 s at most; ends early if the task is
 * killed. The PCI core may probe in a worker, and does for a device of a NUMA node
 * with CPUs: then whoever binds the device can't be seen to be killed, and waits.
 * Return: 0; -ETIME if it does not get ready; -ENODEV if it does not answer, or has
 * no BAR0 with the registers; -EINTR if the task was killed; or what the PCI core
 * says when it enables the device. All but -EINTR are logged.
 */
int nvgrace_gpu_wait_at_probe(struct pci_dev *pdev)
{
	void __iomem *bar0;
	int ret;

	if (!(pci_resource_flags(pdev, 0) & IORESOURCE_MEM) ||
	    pci_resource_len(pdev, 0) < BAR0_HBM_TRAINING + sizeof(u32))
		return dev_err_probe(&pdev->dev, -ENODEV,
				     "BAR0: %pr does not hold the register at 0x%x that says when the GPU is ready\n",
				     pci_resource_n(pdev, 0), BAR0_HBM_TRAINING);

	ret = pci_enable_device_mem(pdev);
	if (ret)
		return dev_err_probe(&pdev->dev, ret, "cannot be enabled\n");

	ret = pci_request_selected_regions(pdev, BIT(0), KBUILD_MODNAME);
	if (ret) {
		dev_err_probe(&pdev->dev, ret, "BAR0: %pr is in use, see /proc/iomem\n",
			      pci_resource_n(pdev, 0));
		goto out_disable;
	}

	bar0 = pci_iomap(pdev, 0, BAR0_HBM_TRAINING + sizeof(u32));
	if (bar0) {
		ret = poll_at_probe(pdev, bar0);
		pci_iounmap(pdev, bar0);
	} else {
		ret = dev_err_probe(&pdev->dev, -ENOMEM, "BAR0: cannot be mapped\n");
	}

	pci_release_selected_regions(pdev, BIT(0));
out_disable:
	pci_disable_device(pdev);
	return ret;
}

static void set_not_ready(struct nvgrace_gpu_device *nvdev,
			  enum nvgrace_gpu_ready_state state)
{
	lockdep_assert_held_write(&nvdev->gate.ready_lock);

	nvdev->gate.ready = state;
	nvdev->gate.deadline = jiffies + msecs_to_jiffies(READY_LIMIT_MS);
}

/**
 * nvgrace_gpu_ready_lost() - a reset begins or ends
 * @nvdev: the device
 * @state: %NVGRACE_GPU_RESETTING if a reset is about to begin, so that what the
 *	registers say until it is over means nothing; %NVGRACE_GPU_TRAINING if it is
 *	over
 *
 * When this returns nobody uses the memory any more on the strength of what was
 * known, but for mappings, which the caller zaps. The time that the GPU has to get
 * ready begins anew.
 *
 * Context: Process context, may sleep; memory_lock may be held, or not.
 */
void nvgrace_gpu_ready_lost(struct nvgrace_gpu_device *nvdev,
			    enum nvgrace_gpu_ready_state state)
{
	down_write(&nvdev->gate.ready_lock);
	set_not_ready(nvdev, state);
	up_write(&nvdev->gate.ready_lock);
}

/**
 * nvgrace_gpu_ready_unknown() - the GPU may have lost its training, as in D3
 * @nvdev: the device
 *
 * As nvgrace_gpu_ready_lost(), but while a reset is going on it has the last word.
 *
 * Context: Process context, may sleep; memory_lock may be held, or not.
 */
void nvgrace_gpu_ready_unknown(struct nvgrace_gpu_device *nvdev)
{
	down_write(&nvdev->gate.ready_lock);
	if (nvdev->gate.ready != NVGRACE_GPU_RESETTING)
		set_not_ready(nvdev, NVGRACE_GPU_TRAINING);
	up_write(&nvdev->gate.ready_lock);
}

static int read_in_d0(struct nvgrace_gpu_device *nvdev,
		      struct nvgrace_gpu_status *status)
{
	struct pci_dev *pdev = nvdev->core.pdev;
	u32 low, high;
	u16 command;

	pci_read_config_word(pdev, PCI_COMMAND, &command);
	if (PCI_POSSIBLE_ERROR(command))
		return -ENODEV;

	/* PCI_COMMAND is the guest's: memory is not turned on to find this out. */
	if (!(command & PCI_COMMAND_MEMORY))
		return -EIO;

	/*
	 * AER leaves config space as the reset left it, and only the VMM can
	 * restore it. Until then BAR0 may decode addresses of another device.
	 */
	pci_read_config_dword(pdev, PCI_BASE_ADDRESS_0, &low);
	pci_read_config_dword(pdev, PCI_BASE_ADDRESS_1, &high);
	if (low != nvdev->core.rbar[0] || high != nvdev->core.rbar[1])
		return -EIO;

	return read_registers(pdev, nvdev->core.barmap[0], status);
}

/**
 * nvgrace_gpu_read_status() - do the registers say that the GPU is ready?
 * @nvdev: the device
 * @status: what the registers read, untouched if they could not be read
 *
 * BAR0 answers in D0 with memory enabled, and at the address that the core set.
 *
 * Context: Process context, memory_lock held for write.
 * Return: 0 if it is; -EAGAIN if not yet; -EIO if BAR0 cannot be read now, because of
 * D3, PCI_COMMAND, or a reset after which only the VMM can restore the BARs; -ENODEV
 * if the GPU is gone.
 */
VISIBLE_IF_KUNIT int nvgrace_gpu_read_status(struct nvgrace_gpu_device *nvdev,
				      struct nvgrace_gpu_status *status)
{
	struct device *dev = &nvdev->core.pdev->dev;
	int active, ret;

	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_read_status, nvdev, status);

	lockdep_assert_held_write(&nvdev->core.memory_lock);

	/* Runtime suspend does without memory_lock: keep it out, or leave it alone. */
	active = pm_runtime_get_if_active(dev);
	if (!active)
		return nvdev->core.pm_runtime_engaged ? -EIO : -EAGAIN;

	if (nvgrace_gpu_in_d3(&nvdev->core))
		ret = -EIO;
	else
		ret = read_in_d0(nvdev, status);

	/* An error means that there is no runtime PM for the device. */
	if (active > 0)
		pm_runtime_put(dev);
	return ret;
}

/**
 * nvgrace_gpu_poll_ready() - can the GPU's memory be used now?
 * @nvdev: the device, which somebody has opened
 *
 * Context: Process context, memory_lock not held; does not wait for it.
 * Return: 0 if it can; -EBUSY if somebody holds memory_lock, for a reset perhaps,
 * and -EAGAIN if the GPU is not ready but has time left: look again in a while;
 * -EIO if its time is over, or it sleeps, or is gone.
 */
int nvgrace_gpu_poll_ready(struct nvgrace_gpu_device *nvdev)
{
	struct nvgrace_gpu_status status = {
		.link = (u32)PCI_ERROR_RESPONSE,
		.memory = (u32)PCI_ERROR_RESPONSE,
	};
	int ret = -EAGAIN;
	bool last;

	/* Whoever goes on from here looks again, with the lock held. */
	if (READ_ONCE(nvdev->gate.ready) == NVGRACE_GPU_READY)
		return 0;

	if (!down_write_trylock(&nvdev->core.memory_lock))
		return -EBUSY;
	down_read(&nvdev->gate.ready_lock);

	/* A reset that was not seen to end in that time has failed. */
	last = time_after_eq(jiffies, nvdev->gate.deadline);
	if (nvdev->gate.ready == NVGRACE_GPU_READY) {
		ret = 0;
	} else if (nvdev->gate.ready == NVGRACE_GPU_TRAINING || last) {
		ret = nvgrace_gpu_read_status(nvdev, &status);
		if (!ret)
			WRITE_ONCE(nvdev->gate.ready, NVGRACE_GPU_READY);
	}

	up_read(&nvdev->gate.ready_lock);
	up_write(&nvdev->core.memory_lock);

	if (!ret || (ret == -EAGAIN && !last))
		return ret;
	if (ret == -EAGAIN)
		dev_err_ratelimited(&nvdev->core.pdev->dev,
				    "not ready %lu s after a reset: BAR0+0x%x (C2C link) reads 0x%x, BAR0+0x%x (HBM training) reads 0x%x\n",
				    READY_LIMIT_MS / MSEC_PER_SEC,
				    BAR0_C2C_LINK, status.link,
				    BAR0_HBM_TRAINING, status.memory);
	return -EIO;
}

/**
 * nvgrace_gpu_wait_ready() - wait until the GPU's memory can be used
 * @nvdev: the device, which somebody has opened
 *
 * Context: Process context, no locks held: it sleeps until 30 s after the last
 * reset at most, and as long as a reset takes.
 * Return: 0 if it can be used, which the next reset may have changed when the
 * caller looks; -EIO as for nvgrace_gpu_poll_ready(); -EINTR if the task was killed.
 */
int nvgrace_gpu_wait_ready(struct nvgrace_gpu_device *nvdev)
{
	unsigned int ms = 1;
	int ret;

	for (;;) {
		/*
		 * Sleep as long as somebody holds the lock: a fault that merely
		 * tried again would take the CPU from who is to release it.
		 */
		if (down_read_killable(&nvdev->core.memory_lock))
			return -EINTR;
		up_read(&nvdev->core.memory_lock);

		ret = nvgrace_gpu_poll_ready(nvdev);
		if (ret != -EBUSY && ret != -EAGAIN)
			return ret;
		ret = sleep_before_poll(&ms);
		if (ret)
			return ret;
	}
}
