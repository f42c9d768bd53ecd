// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads that write zeroes to memory which changes its owner
 *
 * They take pieces, one after the other. The caller maps and writes a piece.
 */
#include <linux/cpumask.h>
#include <linux/sched.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "nvgrace_gpu.h"

/* The first error ends all threads. */
static void zeroing_thread(struct work_struct *work)
{
	struct nvgrace_gpu_zeroing *zeroing =
		container_of(work, struct nvgrace_gpu_zeroing_thread, work)->zeroing;
	int ret;

	do {
		ret = READ_ONCE(zeroing->error);
		if (!ret)
			ret = zeroing->zero_piece(zeroing, atomic_long_fetch_inc(&zeroing->next));
	} while (!ret);
	if (ret != -ENODATA)
		cmpxchg(&zeroing->error, 0, ret);

	if (atomic_dec_and_test(&zeroing->running)) {
		/* Pairs with the acquire in has_ended(). */
		smp_store_release(&zeroing->result, READ_ONCE(zeroing->error));
		wake_up(&zeroing->wait);
	}
}

/**
 * nvgrace_gpu_zeroing_init() - prepare to write zeroes
 * @zeroing: zeroed, but for @zeroing->zero_piece
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENOMEM. nvgrace_gpu_zeroing_destroy() undoes it.
 */
int nvgrace_gpu_zeroing_init(struct nvgrace_gpu_zeroing *zeroing)
{
	unsigned int i;

	init_waitqueue_head(&zeroing->wait);
	for (i = 0; i < NVGRACE_GPU_ZEROING_THREADS; i++) {
		INIT_WORK(&zeroing->threads[i].work, zeroing_thread);
		zeroing->threads[i].zeroing = zeroing;
	}
	zeroing->wq = alloc_workqueue("nvgrace_gpu_zeroing", WQ_UNBOUND, 0);
	return zeroing->wq ? 0 : -ENOMEM;
}

/**
 * nvgrace_gpu_zeroing_destroy() - undo nvgrace_gpu_zeroing_init()
 * @zeroing: its threads have ended, see nvgrace_gpu_zeroing_stop()
 *
 * Context: Process context, may sleep.
 */
void nvgrace_gpu_zeroing_destroy(struct nvgrace_gpu_zeroing *zeroing)
{
	if (zeroing->wq)
		destroy_workqueue(zeroing->wq);
}

/**
 * nvgrace_gpu_zeroing_start() - start the threads
 * @zeroing: whose threads have ended, or never began
 * @node: NUMA node that is near the memory
 *
 * Context: Any that can queue work; the caller serializes starts.
 */
void nvgrace_gpu_zeroing_start(struct nvgrace_gpu_zeroing *zeroing, int node)
{
	unsigned int nr = min(num_online_cpus(), NVGRACE_GPU_ZEROING_THREADS);
	unsigned int i;

	WRITE_ONCE(zeroing->result, -EINPROGRESS);
	WRITE_ONCE(zeroing->error, 0);
	atomic_long_set(&zeroing->next, 0);
	atomic_set(&zeroing->running, nr);
	for (i = 0; i < nr; i++)
		queue_work_node(node, zeroing->wq, &zeroing->threads[i].work);
}

static bool has_ended(struct nvgrace_gpu_zeroing *zeroing, int *result)
{
	/* Pairs with the release in zeroing_thread(). */
	*result = smp_load_acquire(&zeroing->result);
	return *result != -EINPROGRESS;
}

/**
 * nvgrace_gpu_zeroing_wait() - wait until the threads have ended
 * @zeroing: has been started
 * @state: in which the task waits, such as TASK_KILLABLE
 *
 * Context: Process context, may sleep.
 * Return: 0 if all pieces are zeroes; the first error of a thread; -ERESTARTSYS if a signal
 * ended the wait, and then the threads go on.
 */
int nvgrace_gpu_zeroing_wait(struct nvgrace_gpu_zeroing *zeroing, unsigned int state)
{
	int result, ret;

	ret = wait_event_state(zeroing->wait, has_ended(zeroing, &result), state);
	return ret ?: result;
}

/**
 * nvgrace_gpu_zeroing_stop() - have the threads end, each after its current block at the latest
 * @zeroing: prepared by nvgrace_gpu_zeroing_init()
 *
 * Context: Process context, may sleep.
 */
void nvgrace_gpu_zeroing_stop(struct nvgrace_gpu_zeroing *zeroing)
{
	cmpxchg(&zeroing->error, 0, -EINTR);
	flush_workqueue(zeroing->wq);
}
