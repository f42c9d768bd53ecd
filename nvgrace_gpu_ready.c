// SPDX-License-Identifier: GPL-2.0-only
/*
 * The gate: may the memory be used now?
 *
 * Until the GPU has trained, nothing should access its memory: that does no harm to the
 * host, but reads give all ones, writes are lost, and the platform logs corrected RAS
 * events.
 *
 * Whatever accesses or maps the memory enters the gate first and exits it after.
 * What takes readiness away revokes it: when nvgrace_gpu_gate_revoke() returns, all
 * that had entered have exited. Mappings outlast that, so the caller zaps them.
 */
#include <linux/jiffies.h>
#include <linux/pci.h>
#include <linux/sched/signal.h>

#include "nvgrace_gpu.h"

/* The PCI core waits up to 60 s for a device, after up to 20 s in ACPI's _RST. */
#define RESET_LIMIT_S		120
/* After an error that did not stop the device, the PCI core only asks each driver on the bus. */
#define RECOVERY_LIMIT_S	2
/* After a reset that ACPI's _RST called done too early, config space may not answer yet. */
#define ANSWER_LIMIT_S		30

/* ORed into the SRCU index, which is 0 or 1: memory_lock is held. */
#define GATE_MEMORY_LOCK	BIT(8)

static unsigned int limit_s(enum nvgrace_gpu_ready_state state)
{
	switch (state) {
	case NVGRACE_GPU_RECOVERING:
		return RECOVERY_LIMIT_S;
	case NVGRACE_GPU_RESETTING:
		return RESET_LIMIT_S;
	default:
		return ANSWER_LIMIT_S;
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
	gate->since = jiffies;
	gate->deadline = gate->since + limit_s(state) * HZ;
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
	nvdev->gate.since = jiffies;
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

/*
 * Judge what a poll at NOW returned. A GPU that trains has time; one that does not answer may
 * still be coming out of a reset, and its time to train has not begun. Returns -EAGAIN as long
 * as it is worth polling again.
 */
static int judge_poll(struct nvgrace_gpu_device *nvdev, unsigned long now, int err)
{
	struct nvgrace_gpu_gate *gate = &nvdev->gate;

	if (err == -EAGAIN)
		return time_before(now, gate->since + gate->status.limit_s * HZ) ? err : -ETIME;

	if (err == -ENODEV) {
		gate->since = now;
		if (time_before(now, gate->deadline) &&
		    nvdev->core.pdev->error_state != pci_channel_io_perm_failure)
			return -EAGAIN;
	}
	return err;
}

/* Returns 0 if the caller may enter; memory_lock and ready_lock are held. */
static int gate_poll(struct nvgrace_gpu_device *nvdev)
{
	struct nvgrace_gpu_gate *gate = &nvdev->gate;
	unsigned long now = jiffies;
	bool changed;
	int ret;

	if (in_reset(gate->ready)) {
		if (time_before(now, gate->deadline))
			return -EAGAIN;
		/* The deadline passed, and nothing reported an end: ask the registers. */
		gate_set_state(nvdev, NVGRACE_GPU_TRAINING);
	}

	ret = nvgrace_gpu_read_status(nvdev, &gate->status);
	ret = judge_poll(nvdev, now, ret);
	changed = gate->verdict != ret;
	WRITE_ONCE(gate->verdict, ret);
	if (!ret && !gate->held) {
		/* Pairs with nvgrace_gpu_gate_enter(): the poll comes before each access. */
		smp_store_release(&gate->ready, NVGRACE_GPU_READY);
	}
	if (changed)
		schedule_work(&nvdev->notify);
	if (!ret || ret == -EAGAIN)
		return ret;

	nvgrace_gpu_log_status(nvdev->core.pdev, &gate->status, ret);
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
		ret = nvgrace_gpu_sleep_before_poll(state, &ms);
		if (ret)
			return ret;
	}
}
