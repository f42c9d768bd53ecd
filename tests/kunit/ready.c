// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state of the gate, and what the registers are judged to say, decide whether the memory can
 * be used
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <kunit/test-bug.h>
#include <linux/completion.h>
#include <linux/jiffies.h>
#include <linux/sched/signal.h>
#include <linux/workqueue.h>

#include "../../nvgrace_gpu.h"
#include "gate.h"

struct gate_gpu {
	struct nvgrace_gpu_device nvdev;
	struct pci_dev pdev;
	int result;		/* of reading the registers */
	unsigned int busy;	/* reads that find it not ready before that */
	unsigned int reads;
};

static int fake_read_status(struct nvgrace_gpu_device *nvdev,
			    struct nvgrace_gpu_status *status)
{
	struct gate_gpu *gpu = container_of(nvdev, struct gate_gpu, nvdev);
	struct kunit *test = kunit_get_current_test();

	/* PCI_COMMAND and the power state cannot change, no reset can begin... */
	KUNIT_EXPECT_FALSE(test, down_write_trylock(&nvdev->core.memory_lock));
	KUNIT_EXPECT_TRUE(test, mutex_is_locked(&nvdev->gate.ready_lock));
	/* ...but others have memory_lock for read, too. */
	if (down_read_trylock(&nvdev->core.memory_lock))
		up_read(&nvdev->core.memory_lock);
	else
		KUNIT_FAIL(test, "memory_lock is held for write");

	return gpu->reads++ < gpu->busy ? -EAGAIN : gpu->result;
}

static struct gate_gpu *new_gpu(struct kunit *test,
				enum nvgrace_gpu_ready_state state)
{
	struct gate_gpu *gpu = kunit_kzalloc(test, sizeof(*gpu), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, gpu);
	gpu->pdev.dev.init_name = "gpu";
	gpu->nvdev.core.pdev = &gpu->pdev;
	make_gate(test, &gpu->nvdev);
	nvgrace_gpu_gate_revoke(&gpu->nvdev, NVGRACE_GPU_TRAINING);
	gpu->nvdev.gate.ready = state;
	kunit_activate_static_stub(test, nvgrace_gpu_read_status, fake_read_status);
	return gpu;
}

/* Let time pass since the last revoke. */
static void pass_time(struct gate_gpu *gpu, unsigned int ms)
{
	gpu->nvdev.gate.since -= msecs_to_jiffies(ms);
	gpu->nvdev.gate.deadline -= msecs_to_jiffies(ms);
}

static void expect_unlocked(struct kunit *test, struct gate_gpu *gpu)
{
	KUNIT_EXPECT_FALSE(test, rwsem_is_locked(&gpu->nvdev.core.memory_lock));
	KUNIT_EXPECT_FALSE(test, mutex_is_locked(&gpu->nvdev.gate.ready_lock));
}

struct revoker {
	struct work_struct work;
	struct nvgrace_gpu_device *nvdev;
	struct completion started, done;
};

static void revoke(struct work_struct *work)
{
	struct revoker *revoker = container_of(work, struct revoker, work);

	complete(&revoker->started);
	nvgrace_gpu_gate_revoke(revoker->nvdev, NVGRACE_GPU_TRAINING);
	complete(&revoker->done);
}

/*
 * Enter and exit. memory_lock is held between if the GPU was not known to be ready. Returns
 * 0 or an error.
 */
static int pass_gate(struct kunit *test, struct gate_gpu *gpu, unsigned int flags)
{
	bool known = gpu->nvdev.gate.ready == NVGRACE_GPU_READY;
	int ret = nvgrace_gpu_gate_enter(&gpu->nvdev, flags);

	if (ret >= 0) {
		KUNIT_EXPECT_EQ(test, !known, rwsem_is_locked(&gpu->nvdev.core.memory_lock));
		KUNIT_EXPECT_FALSE(test, mutex_is_locked(&gpu->nvdev.gate.ready_lock));
		KUNIT_EXPECT_TRUE(test, srcu_read_lock_held(&gpu->nvdev.gate.users));
		nvgrace_gpu_gate_exit(&gpu->nvdev, ret);
		ret = 0;
	}
	expect_unlocked(test, gpu);
	return ret;
}

struct enter_case {
	const char *name;
	enum nvgrace_gpu_ready_state state;
	int result;
	bool late;
	int ret;
	enum nvgrace_gpu_ready_state after;
	unsigned int reads;
};

static const struct enter_case enter_cases[] = {
	{ "ready", NVGRACE_GPU_READY, -ENODEV, false, 0, NVGRACE_GPU_READY, 0 },
	{ "ready long since", NVGRACE_GPU_READY, -ENODEV, true, 0, NVGRACE_GPU_READY, 0 },
	{ "gets ready", NVGRACE_GPU_TRAINING, 0, false, 0, NVGRACE_GPU_READY, 1 },
	{ "gets ready after the deadline", NVGRACE_GPU_TRAINING, 0, true, 0,
	  NVGRACE_GPU_READY, 1 },
	{ "not yet", NVGRACE_GPU_TRAINING, -EAGAIN, false, -EAGAIN,
	  NVGRACE_GPU_TRAINING, 1 },
	{ "never", NVGRACE_GPU_TRAINING, -EAGAIN, true, -EIO, NVGRACE_GPU_TRAINING, 1 },
	{ "BAR0 cannot be read", NVGRACE_GPU_TRAINING, -EIO, false, -EIO,
	  NVGRACE_GPU_TRAINING, 1 },
	/* A device that comes out of a reset may not answer at first. */
	{ "does not answer yet", NVGRACE_GPU_TRAINING, -ENODEV, false, -EAGAIN,
	  NVGRACE_GPU_TRAINING, 1 },
	{ "gone", NVGRACE_GPU_TRAINING, -ENODEV, true, -EIO, NVGRACE_GPU_TRAINING, 1 },
	{ "link failed", NVGRACE_GPU_TRAINING, -ENOLINK, false, -EIO, NVGRACE_GPU_TRAINING, 1 },
	/* The registers may still read as before the reset. */
	{ "in reset", NVGRACE_GPU_RESETTING, 0, false, -EAGAIN, NVGRACE_GPU_RESETTING, 0 },
	{ "in reset, without end", NVGRACE_GPU_RESETTING, -EAGAIN, true, -EAGAIN,
	  NVGRACE_GPU_TRAINING, 1 },
	{ "in reset, without end, does not answer", NVGRACE_GPU_RESETTING, -ENODEV, true,
	  -EAGAIN, NVGRACE_GPU_TRAINING, 1 },
	{ "in recovery", NVGRACE_GPU_RECOVERING, 0, false, -EAGAIN, NVGRACE_GPU_RECOVERING, 0 },
	{ "recovery was not seen to end", NVGRACE_GPU_RECOVERING, 0, true, 0,
	  NVGRACE_GPU_READY, 1 },
	{ "reset was not seen to end", NVGRACE_GPU_RESETTING, 0, true, 0,
	  NVGRACE_GPU_READY, 1 },
};

KUNIT_ARRAY_PARAM_DESC(enter, enter_cases, name);

static void enter_by_state(struct kunit *test)
{
	const struct enter_case *c = test->param_value;
	struct gate_gpu *gpu = new_gpu(test, c->state);

	gpu->result = c->result;
	if (c->late)
		pass_time(gpu, 300 * MSEC_PER_SEC);
	KUNIT_EXPECT_EQ(test, pass_gate(test, gpu, 0), c->ret);
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.ready, c->after);
	KUNIT_EXPECT_EQ(test, gpu->reads, c->reads);
}

struct limit_case {
	const char *name;
	int results[4];		/* of the polls, one after each step of the time */
	unsigned int limit_s, step_ms;
	int rets[4];
};

static const struct limit_case limit_cases[] = {
	{ "1 s", { -EAGAIN, -EAGAIN, -EAGAIN, 0 }, 1, 400, { -EAGAIN, -EAGAIN, -EIO, 0 } },
	{ "4 s", { -EAGAIN, -EAGAIN, -EAGAIN, 0 }, 4, 1500, { -EAGAIN, -EAGAIN, -EIO, 0 } },
	{ "256 s", { -EAGAIN, -EAGAIN, -EAGAIN, 0 }, 256, 100000, { -EAGAIN, -EAGAIN, -EIO, 0 } },
	/* The time to get ready begins when the device answers. */
	{ "answers late", { -ENODEV, -ENODEV, -EAGAIN, -EAGAIN }, 1, 600,
	  { -EAGAIN, -EAGAIN, -EAGAIN, -EIO } },
	{ "answers never", { -ENODEV, -ENODEV, -ENODEV, -ENODEV }, 1, 9000,
	  { -EAGAIN, -EAGAIN, -EAGAIN, -EIO } },
};

KUNIT_ARRAY_PARAM_DESC(limit, limit_cases, name);

static void limit_counts_from_the_reset(struct kunit *test)
{
	const struct limit_case *c = test->param_value;
	struct gate_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);
	int i;

	gpu->nvdev.gate.status.limit_s = c->limit_s;
	for (i = 0; i < ARRAY_SIZE(c->rets); i++) {
		gpu->result = c->results[i];
		pass_time(gpu, c->step_ms);
		KUNIT_EXPECT_EQ_MSG(test, pass_gate(test, gpu, 0), c->rets[i], "poll %d", i);
	}
}

/* The PCI core knows that the device is gone, so the driver does not wait for it. */
static void disconnected_device_is_not_waited_for(struct kunit *test)
{
	struct gate_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);

	gpu->result = -ENODEV;
	gpu->pdev.error_state = pci_channel_io_perm_failure;
	KUNIT_EXPECT_EQ(test, pass_gate(test, gpu, 0), -EIO);
}

struct power_case {
	const char *name;
	pci_power_t state;
	bool runtime_suspended;
	unsigned int flags;
	int ret;
};

static const struct power_case power_cases[] = {
	{ "D0", PCI_D0, false, 0, 0 },
	{ "D1", PCI_D1, false, 0, 0 },
	{ "D2", PCI_D2, false, 0, 0 },
	{ "D3hot", PCI_D3hot, false, 0, -EIO },
	{ "D3hot by the guest, awake for runtime PM", PCI_D3hot, false,
	  NVGRACE_GPU_GATE_AWAKE, -EIO },
	{ "D3cold", PCI_D3cold, false, 0, -EIO },
	{ "unknown", PCI_UNKNOWN, false, 0, 0 },
	/* It may suspend at any moment, unless the caller holds a reference. */
	{ "may suspend", PCI_D0, true, 0, -EIO },
	{ "may suspend, awake", PCI_D0, true, NVGRACE_GPU_GATE_AWAKE, 0 },
	{ "suspended", PCI_D3cold, true, 0, -EIO },
};

KUNIT_ARRAY_PARAM_DESC(power, power_cases, name);

/* BAR0 is not read in D3, whether or not the memory was ready before. */
static void enter_by_power_state(struct kunit *test)
{
	const struct power_case *c = test->param_value;
	struct gate_gpu *gpu = new_gpu(test, NVGRACE_GPU_READY);

	gpu->pdev.current_state = c->state;
	gpu->nvdev.core.pm_runtime_engaged = c->runtime_suspended;
	KUNIT_EXPECT_EQ(test, pass_gate(test, gpu, c->flags), c->ret);
	KUNIT_EXPECT_EQ(test, gpu->reads, 0);

	nvgrace_gpu_gate_revoke(&gpu->nvdev, NVGRACE_GPU_TRAINING);
	KUNIT_EXPECT_EQ(test, pass_gate(test, gpu, c->flags), c->ret);
	KUNIT_EXPECT_EQ(test, gpu->reads, c->ret ? 0 : 1);
}

struct retrain_case {
	const char *name;
	enum nvgrace_gpu_ready_state before, after;
	bool again;
};

static const struct retrain_case retrain_cases[] = {
	{ "ready", NVGRACE_GPU_READY, NVGRACE_GPU_TRAINING, true },
	{ "training", NVGRACE_GPU_TRAINING, NVGRACE_GPU_TRAINING, true },
	{ "in reset", NVGRACE_GPU_RESETTING, NVGRACE_GPU_RESETTING, false },
	{ "in recovery", NVGRACE_GPU_RECOVERING, NVGRACE_GPU_RECOVERING, false },
};

KUNIT_ARRAY_PARAM_DESC(retrain, retrain_cases, name);

/* D3 starts the time to train again, and does not end a reset. */
static void retrain_after_d3(struct kunit *test)
{
	const struct retrain_case *c = test->param_value;
	struct gate_gpu *gpu = new_gpu(test, c->before);
	unsigned long deadline = jiffies - 1;

	gpu->nvdev.gate.deadline = deadline;
	nvgrace_gpu_gate_retrain(&gpu->nvdev);
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.ready, c->after);
	KUNIT_EXPECT_EQ(test, c->again, gpu->nvdev.gate.deadline != deadline);
	expect_unlocked(test, gpu);
}

/* A reset holds memory_lock for seconds: a fault does not wait for it in the gate. */
static void enter_does_not_wait_for_the_locks(struct kunit *test)
{
	struct gate_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);

	down_write(&gpu->nvdev.core.memory_lock);
	KUNIT_EXPECT_EQ(test, -EAGAIN, nvgrace_gpu_gate_enter(&gpu->nvdev,
							      NVGRACE_GPU_GATE_NOWAIT));
	up_write(&gpu->nvdev.core.memory_lock);

	mutex_lock(&gpu->nvdev.gate.ready_lock);
	KUNIT_EXPECT_EQ(test, -EAGAIN, nvgrace_gpu_gate_enter(&gpu->nvdev,
							      NVGRACE_GPU_GATE_NOWAIT));
	mutex_unlock(&gpu->nvdev.gate.ready_lock);
	KUNIT_EXPECT_EQ(test, 0, pass_gate(test, gpu, NVGRACE_GPU_GATE_NOWAIT));
}

/* Once the GPU is known to be ready, an access takes no lock that a VFIO user may hold. */
static void enter_without_memory_lock(struct kunit *test)
{
	struct gate_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);

	KUNIT_EXPECT_EQ(test, 0, pass_gate(test, gpu, 0));
	down_write(&gpu->nvdev.core.memory_lock);
	mutex_lock(&gpu->nvdev.gate.ready_lock);
	KUNIT_EXPECT_EQ(test, 0, nvgrace_gpu_gate_wait(&gpu->nvdev, 0));
	mutex_unlock(&gpu->nvdev.gate.ready_lock);
	up_write(&gpu->nvdev.core.memory_lock);
}

/* A write of the power state may move the device to D3 as soon as it has memory_lock. */
static void memory_lock_during_a_power_write(struct kunit *test)
{
	struct gate_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);

	nvgrace_gpu_gate_hold(&gpu->nvdev);
	/* Two tasks may write it at once. */
	nvgrace_gpu_gate_hold(&gpu->nvdev);
	nvgrace_gpu_gate_release(&gpu->nvdev);
	KUNIT_EXPECT_EQ(test, 0, pass_gate(test, gpu, 0));
	KUNIT_EXPECT_EQ(test, 0, pass_gate(test, gpu, 0));
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.ready, NVGRACE_GPU_TRAINING);
	KUNIT_EXPECT_EQ(test, gpu->reads, 2);

	nvgrace_gpu_gate_release(&gpu->nvdev);
	KUNIT_EXPECT_EQ(test, 0, pass_gate(test, gpu, 0));
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.ready, NVGRACE_GPU_READY);
	KUNIT_EXPECT_EQ(test, gpu->reads, 3);
}

struct inside_case {
	const char *name;
	enum nvgrace_gpu_ready_state state;
	bool power_write;
};

static const struct inside_case inside_cases[] = {
	{ "ready", NVGRACE_GPU_READY, false },
	{ "gets ready", NVGRACE_GPU_TRAINING, false },
	{ "during a write of the power state", NVGRACE_GPU_TRAINING, true },
};

KUNIT_ARRAY_PARAM_DESC(inside, inside_cases, name);

/* However an access entered, a revoke waits for its exit, and until then is not counted. */
static void revoke_waits_for_the_exit(struct kunit *test)
{
	const struct inside_case *c = test->param_value;
	struct gate_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);
	struct revoker revoker = { .nvdev = &gpu->nvdev };
	unsigned long revokes;
	int entry;

	if (c->state == NVGRACE_GPU_READY)
		KUNIT_EXPECT_EQ(test, 0, pass_gate(test, gpu, 0));
	if (c->power_write)
		nvgrace_gpu_gate_hold(&gpu->nvdev);
	revokes = gpu->nvdev.gate.revokes;
	entry = nvgrace_gpu_gate_enter(&gpu->nvdev, 0);
	KUNIT_ASSERT_GE(test, entry, 0);

	init_completion(&revoker.started);
	init_completion(&revoker.done);
	INIT_WORK_ONSTACK(&revoker.work, revoke);
	schedule_work(&revoker.work);
	wait_for_completion(&revoker.started);
	KUNIT_EXPECT_EQ(test, 0, wait_for_completion_timeout(&revoker.done, HZ / 5));
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.ready, NVGRACE_GPU_TRAINING);
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.revokes, revokes);

	nvgrace_gpu_gate_exit(&gpu->nvdev, entry);
	flush_work(&revoker.work);
	destroy_work_on_stack(&revoker.work);
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.revokes, revokes + 1);
	expect_unlocked(test, gpu);
}

static void wait_until_ready(struct kunit *test)
{
	struct gate_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);

	gpu->busy = 4;
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_gate_wait(&gpu->nvdev, 0), 0);
	KUNIT_EXPECT_EQ(test, gpu->reads, 5);
	KUNIT_EXPECT_EQ(test, gpu->nvdev.gate.ready, NVGRACE_GPU_READY);
	expect_unlocked(test, gpu);

	/* No need to read the registers again, until readiness is revoked. */
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_gate_wait(&gpu->nvdev, 0), 0);
	KUNIT_EXPECT_EQ(test, gpu->reads, 5);
	nvgrace_gpu_gate_revoke(&gpu->nvdev, NVGRACE_GPU_TRAINING);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_gate_wait(&gpu->nvdev, 0), 0);
	KUNIT_EXPECT_EQ(test, gpu->reads, 6);
}

/* The deadline counts from the reset, and there is a last poll after it. */
static void wait_has_a_deadline(struct kunit *test)
{
	struct gate_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);
	unsigned long start = jiffies;

	gpu->busy = UINT_MAX;
	pass_time(gpu, 29500);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_gate_wait(&gpu->nvdev, 0), -EIO);
	KUNIT_EXPECT_TRUE(test, time_after_eq(jiffies, start + msecs_to_jiffies(500)));
	/* The driver sleeps 1, 2, 4 ms and so on up to 128 between them, or more if it is slow. */
	KUNIT_EXPECT_GE(test, gpu->reads, 3);
	KUNIT_EXPECT_LE(test, gpu->reads, 12);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_gate_wait(&gpu->nvdev, 0), -EIO);
}

struct signal_case {
	const char *name;
	int sig;
	unsigned int flags;
	int ret;
};

static const struct signal_case signal_cases[] = {
	{ "killed", SIGKILL, 0, -EINTR },
	{ "killed, interruptible", SIGKILL, NVGRACE_GPU_GATE_INTERRUPTIBLE, -ERESTARTSYS },
	{ "signal", SIGUSR1, 0, -EIO },
	{ "signal, interruptible", SIGUSR1, NVGRACE_GPU_GATE_INTERRUPTIBLE, -ERESTARTSYS },
};

KUNIT_ARRAY_PARAM_DESC(signal, signal_cases, name);

/* Only a fatal signal ends a wait, or any does. Where it does not, the deadline does. */
static void wait_ends_with_a_signal(struct kunit *test)
{
	const struct signal_case *c = test->param_value;
	struct gate_gpu *gpu = new_gpu(test, NVGRACE_GPU_TRAINING);
	int ret;

	gpu->busy = UINT_MAX;
	if (c->ret == -EIO)
		pass_time(gpu, 29700);
	sigaddset(&current->pending.signal, c->sig);
	set_tsk_thread_flag(current, TIF_SIGPENDING);
	ret = nvgrace_gpu_gate_wait(&gpu->nvdev, c->flags);
	flush_signals(current);
	KUNIT_EXPECT_EQ(test, ret, c->ret);
	if (c->ret == -EIO)
		KUNIT_EXPECT_TRUE(test, time_after_eq(jiffies, gpu->nvdev.gate.since + 30 * HZ));
	expect_unlocked(test, gpu);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(enter_by_state, enter_gen_params),
	KUNIT_CASE_PARAM(limit_counts_from_the_reset, limit_gen_params),
	KUNIT_CASE(disconnected_device_is_not_waited_for),
	KUNIT_CASE_PARAM(enter_by_power_state, power_gen_params),
	KUNIT_CASE_PARAM(retrain_after_d3, retrain_gen_params),
	KUNIT_CASE(enter_does_not_wait_for_the_locks),
	KUNIT_CASE(enter_without_memory_lock),
	KUNIT_CASE(memory_lock_during_a_power_write),
	KUNIT_CASE_PARAM(revoke_waits_for_the_exit, inside_gen_params),
	KUNIT_CASE(wait_until_ready),
	KUNIT_CASE(wait_has_a_deadline),
	KUNIT_CASE_PARAM(wait_ends_with_a_signal, signal_gen_params),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_ready",
	.test_cases = cases,
};

kunit_test_suite(suite);
