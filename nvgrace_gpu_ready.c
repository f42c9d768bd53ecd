// SPDX-License-Identifier: GPL-2.0-only
/*
 * The gate: may the memory be used now? And does the GPU need a carve-out?
 *
 * After boot and after each reset the GPU trains the C2C link and its memory, which
 * takes seconds. Two registers in BAR0 say when both are ready. Until then nothing
 * should access the memory: that does no harm to the host, but reads give all ones,
 * writes are lost, and the platform logs corrected RAS events.
 *
 * Whatever accesses or maps the memory enters the gate first and exits it after.
 * What takes readiness away revokes it: when nvgrace_gpu_gate_revoke() returns, all
 * that had entered have exited. Mappings outlast that, so the caller zaps them.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/pci.h>
#include <linux/sched/signal.h>

#include "nvgrace_gpu.h"

/* NVIDIA's DVSEC that describes the coherent memory, and the word in it. */
#define DVSEC_ID_MEMORY		3
#define DVSEC_MEMORY_FLAGS	0xA
#define DVSEC_MEMORY_NO_DEFECT	BIT(0)
#define DVSEC_MEMORY_SIZE	(DVSEC_MEMORY_FLAGS + sizeof(u16))

/* An extended capability is a header and something in it: 8 bytes at least. */
#define MAX_EXT_CAPS		((PCI_CFG_SPACE_EXP_SIZE - PCI_CFG_SPACE_SIZE) / 8)

/*
 * Registers in BAR0, 32 bits each, and what both read when the GPU is ready. The link
 * reads 0 before it has started to train; any other value is a failure code.
 */
#define BAR0_C2C_LINK		0x1498
#define BAR0_HBM_TRAINING	0x200BC
#define BAR0_READY		0xFF
#define BAR0_NOT_STARTED	0

#define TRAINING_LIMIT_S	30
/* The PCI core waits up to 60 s for a device, after up to 20 s in ACPI's _RST. */
#define RESET_LIMIT_S		120
/* After an error that did not stop the device, the PCI core only asks each driver on the bus. */
#define RECOVERY_LIMIT_S	2
/* Between two polls. */
#define POLL_MAX_MS		128

/* ORed into the SRCU index, which is 0 or 1: memory_lock is held. */
#define GATE_MEMORY_LOCK	BIT(8)

/**
 * nvgrace_gpu_is_present() - does config space answer?
 * @pdev: the GPU
 *
 * Context: Process context.
 * Return: false if the GPU is off the bus.
 */
bool nvgrace_gpu_is_present(struct pci_dev *pdev)
{
	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_is_present, pdev);

	return pci_device_is_present(pdev);
}

/**
 * nvgrace_gpu_read_dvsec() - read the flags in the DVSEC of the coherent memory
 * @pdev: the GPU
 * @flags: the flags, all ones if they cannot be read; untouched without a DVSEC
 *
 * Context: Process context.
 * Return: where in config space the DVSEC is, 0 if there is none; -ELOOP, -EIO or -EINVAL if
 * config space cannot be right, which is logged.
 */
VISIBLE_IF_KUNIT int nvgrace_gpu_read_dvsec(struct pci_dev *pdev, u16 *flags)
{
	unsigned int left = MAX_EXT_CAPS;
	u32 header1, header2;
	u16 pos = 0;

	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_read_dvsec, pdev, flags);

	do {
		pos = pci_find_next_ext_capability(pdev, pos, PCI_EXT_CAP_ID_DVSEC);
		if (!pos && !nvgrace_gpu_is_present(pdev))
			return dev_err_probe(&pdev->dev, -EIO,
					     "extended capabilities: cannot be read\n");
		if (!pos)
			return 0;
		if (!left--)
			return dev_err_probe(&pdev->dev, -ELOOP,
					     "extended capabilities: their list in config space has no end\n");
		if (pos + DVSEC_MEMORY_SIZE > pdev->cfg_size)
			return dev_err_probe(&pdev->dev, -EINVAL,
					     "DVSEC at config offset 0x%x: ends beyond config space\n",
					     pos);
		pci_read_config_dword(pdev, pos + PCI_DVSEC_HEADER1, &header1);
		pci_read_config_dword(pdev, pos + PCI_DVSEC_HEADER2, &header2);
		if (PCI_POSSIBLE_ERROR(header1) || PCI_POSSIBLE_ERROR(header2))
			return dev_err_probe(&pdev->dev, -EIO,
					     "DVSEC at config offset 0x%x: cannot be read\n", pos);
	} while (PCI_DVSEC_HEADER1_VID(header1) != PCI_VENDOR_ID_NVIDIA ||
		 PCI_DVSEC_HEADER2_ID(header2) != DVSEC_ID_MEMORY);

	if (PCI_DVSEC_HEADER1_LEN(header1) < DVSEC_MEMORY_SIZE ||
	    pos + PCI_DVSEC_HEADER1_LEN(header1) > pdev->cfg_size)
		return dev_err_probe(&pdev->dev, -EINVAL,
				     "DVSEC at config offset 0x%x: is 0x%x bytes long, which the flags at 0x%x or config space do not fit\n",
				     pos, PCI_DVSEC_HEADER1_LEN(header1), DVSEC_MEMORY_FLAGS);

	pci_read_config_word(pdev, pos + DVSEC_MEMORY_FLAGS, flags);
	return pos;
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
 * Return: 0 if the DVSEC says that no carve-out is needed, else 1; an error if it cannot be
 * read or config space cannot be right, which is logged.
 */
int nvgrace_gpu_needs_carve_out(struct pci_dev *pdev)
{
	int dvsec;
	u16 flags;

	dvsec = nvgrace_gpu_read_dvsec(pdev, &flags);
	if (dvsec < 0)
		return dvsec;
	if (!dvsec)
		return 1;

	/* A guess would give the guest another layout: fail instead. */
	if (PCI_POSSIBLE_ERROR(flags))
		return dev_err_probe(&pdev->dev, -EIO,
				     "DVSEC at config offset 0x%x: cannot be read\n",
				     dvsec);

	return !(flags & DVSEC_MEMORY_NO_DEFECT);
}

/**
 * nvgrace_gpu_judge() - what the registers say of readiness
 * @pdev: the GPU
 * @status: what they read
 *
 * Context: Process context.
 * Return: 0 if the memory is ready; -EAGAIN if not yet; -ENOLINK if the link failed, where
 * waiting does not help; -ENODEV if the GPU is gone.
 */
VISIBLE_IF_KUNIT int nvgrace_gpu_judge(struct pci_dev *pdev,
				       const struct nvgrace_gpu_status *status)
{
	if (status->link == BAR0_READY && status->memory == BAR0_READY)
		return 0;

	if (PCI_POSSIBLE_ERROR(status->link) || PCI_POSSIBLE_ERROR(status->memory))
		return nvgrace_gpu_is_present(pdev) ? -EAGAIN : -ENODEV;

	if (status->link != BAR0_READY && status->link != BAR0_NOT_STARTED)
		return -ENOLINK;

	return -EAGAIN;
}

static int read_registers(struct pci_dev *pdev, void __iomem *bar0,
			  struct nvgrace_gpu_status *status)
{
	WRITE_ONCE(status->link, ioread32(bar0 + BAR0_C2C_LINK));
	WRITE_ONCE(status->memory, ioread32(bar0 + BAR0_HBM_TRAINING));

	return nvgrace_gpu_judge(pdev, status);
}

/* Sleep, with back-off. Returns an error if a signal that STATE allows is pending. */
static int sleep_before_poll(unsigned int state, unsigned int *ms)
{
	if (!signal_pending_state(state, current)) {
		set_current_state(state);
		schedule_timeout(msecs_to_jiffies(*ms));
		*ms = min(2 * *ms, POLL_MAX_MS);
	}
	if (!signal_pending_state(state, current))
		return 0;
	return state & TASK_INTERRUPTIBLE ? -ERESTARTSYS : -EINTR;
}

/*
 * The freezer does not freeze this task here: it holds the device lock, and the host's suspend
 * waits for all probes once user tasks are frozen.
 */
static int poll_at_probe(struct pci_dev *pdev, void __iomem *bar0,
			 struct nvgrace_gpu_status *status)
{
	unsigned long limit = jiffies + TRAINING_LIMIT_S * HZ;
	unsigned int ms = 1;
	bool last;
	int ret;

	do {
		last = time_after_eq(jiffies, limit);
		ret = read_registers(pdev, bar0, status);
		if (ret == -ENODEV)
			return dev_err_probe(&pdev->dev, ret,
					     "BAR0 and config space read all ones: the GPU is gone\n");
		if (ret == -ENOLINK)
			return dev_err_probe(&pdev->dev, ret,
					     "BAR0+0x%x (C2C link) reads 0x%x, a failure code: the link did not come up\n",
					     BAR0_C2C_LINK, status->link);
		if (ret != -EAGAIN)
			return ret;
		ret = sleep_before_poll(TASK_KILLABLE, &ms);
		if (ret)
			return ret;
	} while (!last);

	return dev_err_probe(&pdev->dev, -ETIME,
			     "not ready after %u s: BAR0+0x%x (C2C link) reads 0x%x, BAR0+0x%x (HBM training) reads 0x%x, both should be 0x%x\n",
			     TRAINING_LIMIT_S,
			     BAR0_C2C_LINK, status->link,
			     BAR0_HBM_TRAINING, status->memory, BAR0_READY);
}

/**
 * nvgrace_gpu_wait_at_probe() - wait until the GPU's memory can be used
 * @nvdev: the device, in D0 and not yet enabled
 *
 * A GPU that is ready costs two register reads.
 *
 * Context: Process context, sleeps for 30 s at most; ends early if the task is
 * killed. The PCI core may probe in a worker, and does for a device of a NUMA node
 * with CPUs: then killing the task that binds the device does not end the wait.
 * Return: 0; -ETIME if it does not get ready; -ENOLINK if its link failed; -ENODEV if
 * it does not answer, or has no BAR0 with the registers; -EINTR if the task was killed;
 * or what the PCI core says when it enables the device. All but -EINTR are logged.
 */
int nvgrace_gpu_wait_at_probe(struct nvgrace_gpu_device *nvdev)
{
	struct pci_dev *pdev = nvdev->core.pdev;
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
		ret = poll_at_probe(pdev, bar0, &nvdev->gate.status);
		pci_iounmap(pdev, bar0);
	} else {
		ret = dev_err_probe(&pdev->dev, -ENOMEM, "BAR0: cannot be mapped\n");
	}
	pci_release_selected_regions(pdev, BIT(0));
out_disable:
	pci_disable_device(pdev);
	return ret;
}

static unsigned int limit_s(enum nvgrace_gpu_ready_state state)
{
	switch (state) {
	case NVGRACE_GPU_RECOVERING:
		return RECOVERY_LIMIT_S;
	case NVGRACE_GPU_RESETTING:
		return RESET_LIMIT_S;
	default:
		return TRAINING_LIMIT_S;
	}
}

static bool in_reset(enum nvgrace_gpu_ready_state state)
{
	return state == NVGRACE_GPU_RESETTING || state == NVGRACE_GPU_RECOVERING;
}

static void gate_set_state(struct nvgrace_gpu_device *nvdev,
			   enum nvgrace_gpu_ready_state state)
{
	struct nvgrace_gpu_gate *gate = &nvdev->gate;

	lockdep_assert_held(&gate->ready_lock);

	WRITE_ONCE(gate->ready, state);
	WRITE_ONCE(gate->verdict, -EAGAIN);
	gate->deadline = jiffies + limit_s(state) * HZ;
	if (gate->entered)
		synchronize_srcu_expedited(&gate->users);
	gate->entered = false;
	/* After the wait: readers that are still inside must see the old count. */
	gate->revokes++;
	schedule_work(&nvdev->notify);
}

/* A reset that is going on stays so until its own end. */
static void gate_retrain_locked(struct nvgrace_gpu_device *nvdev)
{
	if (!in_reset(nvdev->gate.ready))
		gate_set_state(nvdev, NVGRACE_GPU_TRAINING);
}

/**
 * nvgrace_gpu_gate_init() - a gate that is closed until the registers are read
 * @nvdev: the device
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENOMEM.
 */
int nvgrace_gpu_gate_init(struct nvgrace_gpu_device *nvdev)
{
	mutex_init(&nvdev->gate.ready_lock);
	nvdev->gate.ready = NVGRACE_GPU_TRAINING;
	nvdev->gate.verdict = -EAGAIN;
	nvdev->gate.deadline = jiffies;
	return init_srcu_struct(&nvdev->gate.users);
}

/**
 * nvgrace_gpu_gate_destroy() - undo nvgrace_gpu_gate_init()
 * @nvdev: the device
 *
 * Context: Process context, may sleep.
 */
void nvgrace_gpu_gate_destroy(struct nvgrace_gpu_device *nvdev)
{
	cleanup_srcu_struct(&nvdev->gate.users);
}

/**
 * nvgrace_gpu_gate_revoke() - the memory can be used no more
 * @nvdev: the device
 * @state: %NVGRACE_GPU_RESETTING or %NVGRACE_GPU_RECOVERING if a reset begins, or may, so
 *	that what the registers read until its end means nothing; %NVGRACE_GPU_TRAINING if
 *	the GPU may have to train from now on
 *
 * All that had entered the gate have exited when this returns. The time that the
 * reset has to end, or the GPU to get ready, starts.
 *
 * Context: Process context, may sleep; memory_lock may be held, or not.
 */
void nvgrace_gpu_gate_revoke(struct nvgrace_gpu_device *nvdev,
			     enum nvgrace_gpu_ready_state state)
{
	mutex_lock(&nvdev->gate.ready_lock);
	gate_set_state(nvdev, state);
	mutex_unlock(&nvdev->gate.ready_lock);
}

/**
 * nvgrace_gpu_gate_retrain() - the GPU may have to train, as after D3
 * @nvdev: the device
 *
 * As nvgrace_gpu_gate_revoke() with %NVGRACE_GPU_TRAINING, but a reset that is going
 * on stays so until its own end.
 *
 * Context: Process context, may sleep; memory_lock may be held, or not.
 */
void nvgrace_gpu_gate_retrain(struct nvgrace_gpu_device *nvdev)
{
	mutex_lock(&nvdev->gate.ready_lock);
	gate_retrain_locked(nvdev);
	mutex_unlock(&nvdev->gate.ready_lock);
}

/**
 * nvgrace_gpu_gate_hold() - a task is about to change the power state
 * @nvdev: the device
 *
 * Until nvgrace_gpu_gate_release() the gate does not become READY, so each access holds
 * memory_lock. VFIO holds memory_lock for write when it moves the device to D3.
 *
 * Context: Process context, may sleep; memory_lock must not be held.
 */
void nvgrace_gpu_gate_hold(struct nvgrace_gpu_device *nvdev)
{
	mutex_lock(&nvdev->gate.ready_lock);
	nvdev->gate.held++;
	gate_retrain_locked(nvdev);
	mutex_unlock(&nvdev->gate.ready_lock);
}

/**
 * nvgrace_gpu_gate_release() - end what nvgrace_gpu_gate_hold() began
 * @nvdev: the device, which may have to train from now on
 *
 * Context: Process context, may sleep; memory_lock must not be held.
 */
void nvgrace_gpu_gate_release(struct nvgrace_gpu_device *nvdev)
{
	mutex_lock(&nvdev->gate.ready_lock);
	nvdev->gate.held--;
	gate_retrain_locked(nvdev);
	mutex_unlock(&nvdev->gate.ready_lock);
}

/**
 * nvgrace_gpu_has_bar0() - is BAR0 at the address that the PCI core gave it?
 * @pdev: the GPU, in D0
 *
 * A reset clears the address. AER leaves it so.
 *
 * Context: Process context.
 * Return: true if it is, or if the device has no memory in BAR0.
 */
bool nvgrace_gpu_has_bar0(struct pci_dev *pdev)
{
	u32 low, high;
	u64 address;

	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_has_bar0, pdev);

	/* The BARs of a virtual function always read 0. */
	if (!(pci_resource_flags(pdev, 0) & IORESOURCE_MEM) || pdev->is_virtfn)
		return true;

	address = pci_bus_address(pdev, 0);
	high = upper_32_bits(address);
	pci_read_config_dword(pdev, PCI_BASE_ADDRESS_0, &low);
	if (pci_resource_flags(pdev, 0) & IORESOURCE_MEM_64)
		pci_read_config_dword(pdev, PCI_BASE_ADDRESS_1, &high);
	return (low & PCI_BASE_ADDRESS_MEM_MASK) == lower_32_bits(address) &&
	       high == upper_32_bits(address);
}

/**
 * nvgrace_gpu_read_status() - do the registers say that the GPU is ready?
 * @nvdev: the device, in D0
 * @status: what the registers read, untouched if BAR0 cannot be read
 *
 * BAR0 answers with memory enabled, and at the address that vfio_pci_core set.
 *
 * Context: Process context; memory_lock keeps PCI_COMMAND and the power state from
 * being changed, ready_lock keeps resets out.
 * Return: 0 if they do; -EAGAIN if not yet; -EIO if BAR0 cannot be read now, because
 * of PCI_COMMAND or a reset after which only the VMM can restore the BARs; -ENOLINK if
 * the C2C link holds a failure code; -ENODEV if the GPU is gone.
 */
VISIBLE_IF_KUNIT int nvgrace_gpu_read_status(struct nvgrace_gpu_device *nvdev,
					     struct nvgrace_gpu_status *status)
{
	struct pci_dev *pdev = nvdev->core.pdev;
	u16 command;

	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_read_status, nvdev, status);

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
	if (!nvgrace_gpu_has_bar0(pdev))
		return -EIO;

	return read_registers(pdev, nvdev->core.barmap[0], status);
}

/* Returns 0 if the caller may enter; memory_lock and ready_lock are held. */
static int gate_poll(struct nvgrace_gpu_device *nvdev)
{
	struct nvgrace_gpu_gate *gate = &nvdev->gate;
	bool late = time_after_eq(jiffies, gate->deadline);
	bool changed;
	int ret;

	if (in_reset(gate->ready)) {
		if (!late)
			return -EAGAIN;
		/* The deadline passed, and nothing reported an end: ask the registers. */
		gate_set_state(nvdev, NVGRACE_GPU_TRAINING);
		late = false;
	}

	ret = nvgrace_gpu_read_status(nvdev, &gate->status);
	if (ret == -EAGAIN && !late)
		return ret;
	if (ret == -EAGAIN)
		ret = -ETIME;
	changed = gate->verdict != ret;
	WRITE_ONCE(gate->verdict, ret);
	if (!ret && !gate->held) {
		/* Pairs with nvgrace_gpu_gate_enter(): the poll comes before each access. */
		smp_store_release(&gate->ready, NVGRACE_GPU_READY);
	}
	if (changed)
		schedule_work(&nvdev->notify);

	switch (ret) {
	case 0:
		return 0;
	case -ENOLINK:
		dev_err_ratelimited(&nvdev->core.pdev->dev,
				    "BAR0+0x%x (C2C link) reads 0x%x, a failure code: only a reset can mend that\n",
				    BAR0_C2C_LINK, gate->status.link);
		break;
	case -ETIME:
		dev_err_ratelimited(&nvdev->core.pdev->dev,
				    "not ready after %u s: BAR0+0x%x (C2C link) reads 0x%x, BAR0+0x%x (HBM training) reads 0x%x\n",
				    TRAINING_LIMIT_S, BAR0_C2C_LINK, gate->status.link,
				    BAR0_HBM_TRAINING, gate->status.memory);
		break;
	}
	return -EIO;
}

/*
 * VFIO moves the device to D3 and back with memory_lock held for write. Runtime suspend
 * does not take memory_lock, so the caller must hold a runtime PM reference, or else
 * pm_runtime_engaged says that VFIO does. Both revoke READY before the device loses its
 * power, so an access that found READY does not need memory_lock.
 */
static bool is_powered(struct nvgrace_gpu_device *nvdev, unsigned int flags)
{
	const struct vfio_pci_core_device *core = &nvdev->core;
	pci_power_t state;

	/* A bit-field in some kernels, which READ_ONCE() does not take. */
	if (data_race(!!core->pm_runtime_engaged) && !(flags & NVGRACE_GPU_GATE_AWAKE))
		return false;
	/* Changes only under memory_lock, or in runtime PM, which the test above covers. */
	state = data_race(core->pdev->current_state);
	return state != PCI_D3hot && state != PCI_D3cold;
}

static int gate_lock_memory(struct vfio_pci_core_device *core, unsigned int flags)
{
	if (down_read_trylock(&core->memory_lock))
		return 0;
	if (flags & NVGRACE_GPU_GATE_NOWAIT)
		return -EAGAIN;
	if (!(flags & NVGRACE_GPU_GATE_INTERRUPTIBLE))
		return down_read_killable(&core->memory_lock);
	return down_read_interruptible(&core->memory_lock) ? -ERESTARTSYS : 0;
}

static int gate_lock_ready(struct nvgrace_gpu_gate *gate, unsigned int flags)
{
	if (!(flags & NVGRACE_GPU_GATE_NOWAIT))
		mutex_lock(&gate->ready_lock);
	else if (!mutex_trylock(&gate->ready_lock))
		return -EAGAIN;
	return 0;
}

/* The GPU is not known to be ready: find out. memory_lock is held then until the exit. */
static int gate_enter_slowly(struct nvgrace_gpu_device *nvdev, unsigned int flags)
{
	struct nvgrace_gpu_gate *gate = &nvdev->gate;
	int ret;

	ret = gate_lock_memory(&nvdev->core, flags);
	if (ret)
		return ret;
	ret = gate_lock_ready(gate, flags);
	if (ret)
		goto out;

	if (!is_powered(nvdev, flags))
		ret = -EIO;
	else if (gate->ready != NVGRACE_GPU_READY)
		ret = gate_poll(nvdev);
	if (!ret) {
		gate->entered = true;
		ret = srcu_read_lock(&gate->users) | GATE_MEMORY_LOCK;
		__release(&gate->users); /* for sparse, as below */
	}
	mutex_unlock(&gate->ready_lock);
out:
	if (ret < 0)
		up_read(&nvdev->core.memory_lock);
	return ret;
}

/**
 * nvgrace_gpu_gate_enter() - begin to use the memory, if the GPU is ready
 * @nvdev: the device, which is open
 * @flags: %NVGRACE_GPU_GATE_AWAKE if the caller holds a runtime PM reference;
 *	%NVGRACE_GPU_GATE_NOWAIT if it must not wait for memory_lock, which a reset
 *	holds for seconds; %NVGRACE_GPU_GATE_INTERRUPTIBLE if any signal may end
 *	that wait, not only a fatal one
 *
 * Between this and nvgrace_gpu_gate_exit() no reset of the device begins, and VFIO
 * does not change its power state.
 *
 * Context: Process context, may sleep, but not for the GPU. On success the caller is within
 * gate.users, and memory_lock may be held for read, so nothing that takes mmap_lock may be
 * called.
 * Return: what nvgrace_gpu_gate_exit() is to be given, 0 or more; -EAGAIN if the caller
 * should nvgrace_gpu_gate_wait(); -EIO if the GPU is asleep, gone, or not ready in time, or
 * if its registers cannot be read; -ERESTARTSYS if any signal may end the wait and one came;
 * else -EINTR if the task was killed.
 */
int nvgrace_gpu_gate_enter(struct nvgrace_gpu_device *nvdev, unsigned int flags)
{
	struct nvgrace_gpu_gate *gate = &nvdev->gate;
	int entry = srcu_read_lock(&gate->users);

	__release(&gate->users);
	/* Pairs with gate_poll(). */
	if (likely(smp_load_acquire(&gate->ready) == NVGRACE_GPU_READY &&
		   is_powered(nvdev, flags)))
		return entry;

	__acquire(&gate->users);
	srcu_read_unlock(&gate->users, entry);
	return gate_enter_slowly(nvdev, flags);
}

/**
 * nvgrace_gpu_gate_exit() - end what nvgrace_gpu_gate_enter() began
 * @nvdev: the device
 * @entry: what nvgrace_gpu_gate_enter() returned
 *
 * Context: Process context; leaves gate.users, and releases memory_lock if that is held.
 */
void nvgrace_gpu_gate_exit(struct nvgrace_gpu_device *nvdev, int entry)
{
	__acquire(&nvdev->gate.users);
	srcu_read_unlock(&nvdev->gate.users, entry & ~GATE_MEMORY_LOCK);
	if (entry & GATE_MEMORY_LOCK)
		up_read(&nvdev->core.memory_lock);
}

/**
 * nvgrace_gpu_gate_wait() - wait until the gate can be entered
 * @nvdev: the device, which is open
 * @flags: as for nvgrace_gpu_gate_enter(); %NVGRACE_GPU_GATE_NOWAIT has no effect
 *
 * Context: Process context; sleeps until the deadline at most, and as long as others
 * hold memory_lock. Faults release the mmap lock before, if they can.
 * Return: 0 if it can be entered, which the next reset may have changed when the
 * caller tries; -EIO, -ERESTARTSYS and -EINTR as for nvgrace_gpu_gate_enter().
 */
int nvgrace_gpu_gate_wait(struct nvgrace_gpu_device *nvdev, unsigned int flags)
{
	unsigned int state = TASK_INTERRUPTIBLE;
	unsigned int ms = 1;
	int ret;

	/*
	 * The freezer ends an interruptible sleep as a signal does. It freezes a killable
	 * task where the task sleeps: a fault in KVM_RUN or in copy_from_user() cannot be
	 * given up halfway, and the host must be able to suspend while the GPU trains.
	 * "Unsafe" means the locks of the callers, such as a vCPU's mutex. No suspend
	 * callback takes those of KVM and VFIO.
	 */
	if (!(flags & NVGRACE_GPU_GATE_INTERRUPTIBLE))
		state = TASK_KILLABLE | TASK_FREEZABLE_UNSAFE;

	for (;;) {
		ret = nvgrace_gpu_gate_enter(nvdev, flags & ~NVGRACE_GPU_GATE_NOWAIT);
		if (ret >= 0) {
			nvgrace_gpu_gate_exit(nvdev, ret);
			return 0;
		}
		if (ret != -EAGAIN)
			return ret;
		ret = sleep_before_poll(state, &ms);
		if (ret)
			return ret;
	}
}
