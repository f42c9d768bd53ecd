// SPDX-License-Identifier: GPL-2.0-only
/*
 * scrub=1: the regions read as zeroes to the VFIO user who opens the device
 *
 * Open writes them, after vfio_pci_core has reset the GPU: its engines are idle, and what the
 * last owner left is overwritten. Several threads near the memory write, and enter the gate
 * for each block. Thus a reset waits for one block at most, and a scrub notices a reset.
 */
#include <kunit/visibility.h>
#include <linux/cpumask.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "nvgrace_gpu.h"

/* Bytes written at a time within the gate. No block reaches into another window. */
#define SCRUB_BLOCK	((phys_addr_t)SZ_2M)

/* A thread claims so much at a time. No two threads map the same window. */
#define SCRUB_PIECE	((phys_addr_t)SZ_1G)

/* The C2C link moves 450 GB/s each way, and a CPU writes a fraction of that. */
#define SCRUB_THREADS	16U

/**
 * struct nvgrace_gpu_scrubber - one of the threads that write zeroes
 * @work: runs it
 * @scrub: what it is a part of
 */
struct nvgrace_gpu_scrubber {
	struct work_struct work;
	struct nvgrace_gpu_scrub *scrub;
};

/**
 * struct nvgrace_gpu_scrub - a scrub
 * @nvdev: the device
 * @wq: runs @threads
 * @wait: for @running to become 0
 * @running: threads that have not ended
 * @revokes: of the gate, when the scrub began
 * @next: number of the piece that no thread has taken yet
 * @error: first error of any thread, or -EINTR if the opener was killed
 * @threads: the threads
 */
struct nvgrace_gpu_scrub {
	struct nvgrace_gpu_device *nvdev;
	struct workqueue_struct *wq;
	wait_queue_head_t wait;
	atomic_t running;
	unsigned long revokes;
	atomic_long_t next;
	int error;
	struct nvgrace_gpu_scrubber threads[SCRUB_THREADS];
};

static u64 all_bytes(const struct nvgrace_gpu_device *nvdev)
{
	u64 bytes = 0;
	unsigned int i;

	for (i = 0; i < nvdev->nr_regions; i++)
		bytes += nvdev->regions[i].backed;
	return bytes;
}

/* Returns the region of piece NR and the piece's first byte and end, or NULL if NR is too large. */
static const struct nvgrace_gpu_region *
find_piece(const struct nvgrace_gpu_device *nvdev, unsigned long nr,
	   phys_addr_t *start, phys_addr_t *end)
{
	const struct nvgrace_gpu_region *last = nvdev->regions + nvdev->nr_regions;
	const struct nvgrace_gpu_region *region;

	for (region = nvdev->regions; region < last; region++) {
		phys_addr_t first = ALIGN_DOWN(region->base, SCRUB_PIECE);
		phys_addr_t region_end = region->base + region->backed;
		unsigned long pieces = DIV_ROUND_UP(region_end - first, SCRUB_PIECE);

		if (nr < pieces) {
			*start = max(first + nr * SCRUB_PIECE, region->base);
			*end = min(first + (nr + 1) * SCRUB_PIECE, region_end);
			return region;
		}
		nr -= pieces;
	}
	return NULL;
}

/* Poisoned pages are written like all others, because writing does not consume poison. */
static int zero_block(struct nvgrace_gpu_scrub *scrub, const struct nvgrace_gpu_region *region,
		      phys_addr_t phys, size_t len)
{
	struct nvgrace_gpu_device *nvdev = scrub->nvdev;
	size_t mapped;
	void *window;
	int entry;

	window = nvgrace_gpu_find_window(region, phys, &mapped);
	if (!window)
		return -ENOMEM;

	entry = nvgrace_gpu_gate_enter(nvdev, 0);
	if (entry < 0)
		return entry;
	if (nvdev->gate.revokes != scrub->revokes) {
		nvgrace_gpu_gate_exit(nvdev, entry);
		return -EAGAIN;
	}
	memset(window, 0, len);
	if (!region->cacheable)
		wmb(); /* empty the merge buffer within the gate */
	nvgrace_gpu_gate_exit(nvdev, entry);
	atomic64_add(len, &nvdev->zeroed);
	return 0;
}

/* The first error ends all threads. */
static void zero_pieces(struct nvgrace_gpu_scrub *scrub)
{
	const struct nvgrace_gpu_region *region;
	phys_addr_t phys, end;
	int ret;

	while ((region = find_piece(scrub->nvdev, atomic_long_fetch_inc(&scrub->next),
				    &phys, &end))) {
		while (phys < end) {
			size_t len = min(ALIGN(phys + 1, SCRUB_BLOCK), end) - phys;

			if (READ_ONCE(scrub->error))
				return;
			ret = zero_block(scrub, region, phys, len);
			if (ret)
				cmpxchg(&scrub->error, 0, ret);
			phys += len;
			cond_resched();
		}
	}
}

static void scrub_thread(struct work_struct *work)
{
	struct nvgrace_gpu_scrub *scrub =
		container_of(work, struct nvgrace_gpu_scrubber, work)->scrub;

	zero_pieces(scrub);
	if (atomic_dec_and_test(&scrub->running))
		wake_up(&scrub->wait);
}

/* Wait for the GPU, and record the count of revokes: a later one may cost zeroes. */
static int begin_scrub(struct nvgrace_gpu_scrub *scrub)
{
	struct nvgrace_gpu_device *nvdev = scrub->nvdev;
	int entry;

	do {
		entry = nvgrace_gpu_gate_wait(nvdev, 0);
		if (!entry)
			entry = nvgrace_gpu_gate_enter(nvdev, 0);
	} while (entry == -EAGAIN);
	if (entry < 0)
		return entry;
	scrub->revokes = nvdev->gate.revokes;
	nvgrace_gpu_gate_exit(nvdev, entry);

	scrub->error = 0;
	atomic_long_set(&scrub->next, 0);
	atomic64_set(&nvdev->zeroed, 0);
	return 0;
}

/* Poll the registers again. Returns 0 if the link is up and no revoke came since begin_scrub(). */
static int end_scrub(struct nvgrace_gpu_scrub *scrub)
{
	struct nvgrace_gpu_device *nvdev = scrub->nvdev;
	int entry, ret;

	if (scrub->error)
		return scrub->error;

	nvgrace_gpu_gate_retrain(nvdev);
	entry = nvgrace_gpu_gate_enter(nvdev, 0);
	if (entry < 0)
		return entry;
	/* One revoke is that of the retrain above. */
	ret = nvdev->gate.revokes == scrub->revokes + 1 ? 0 : -EAGAIN;
	nvgrace_gpu_gate_exit(nvdev, entry);
	return ret;
}

static int write_zeroes(struct nvgrace_gpu_scrub *scrub)
{
	unsigned int nr = min(num_online_cpus(), SCRUB_THREADS);
	unsigned int i;
	int ret;

	ret = begin_scrub(scrub);
	if (ret)
		return ret;

	atomic_set(&scrub->running, nr);
	for (i = 0; i < nr; i++) {
		INIT_WORK(&scrub->threads[i].work, scrub_thread);
		scrub->threads[i].scrub = scrub;
		queue_work_node(dev_to_node(&scrub->nvdev->core.pdev->dev), scrub->wq,
				&scrub->threads[i].work);
	}
	/* A frozen opener keeps VFIO's locks. No suspend callback takes them. */
	if (wait_event_state(scrub->wait, !atomic_read(&scrub->running),
			     (TASK_KILLABLE | TASK_FREEZABLE_UNSAFE)))
		cmpxchg(&scrub->error, 0, -EINTR);
	flush_workqueue(scrub->wq);
	return end_scrub(scrub);
}

/**
 * nvgrace_gpu_scrub() - write zeroes to the regions
 * @nvdev: the device, which is being opened; vfio_pci_core has enabled it
 *
 * If a reset by others, or a link that fails, may have cost zeroes, all is written once more.
 * Progress is in @nvdev->zeroed. The windows stay mapped.
 *
 * Context: Process context; waits for the GPU, and as long as the writes take. VFIO holds the
 * lock of the device set.
 * Return: 0; -EIO if vfio_pci_core could not reset the GPU, whose engines may still write, or
 * if the second try failed, too, both of which are logged; -EINTR if the task was killed;
 * -ENOMEM if the scrub could not be set up.
 */
int nvgrace_gpu_scrub(struct nvgrace_gpu_device *nvdev)
{
	struct pci_dev *pdev = nvdev->core.pdev;
	struct nvgrace_gpu_scrub *scrub;
	int ret = -ENOMEM;

	if (!nvdev->core.reset_works) {
		pci_err(pdev, "scrub=1: VFIO cannot reset the GPU, so it may write to its memory: see reset_method in sysfs\n");
		return -EIO;
	}

	scrub = kzalloc(sizeof(*scrub), GFP_KERNEL);
	if (!scrub)
		return -ENOMEM;
	scrub->nvdev = nvdev;
	init_waitqueue_head(&scrub->wait);
	scrub->wq = alloc_workqueue("nvgrace_gpu_scrub", WQ_UNBOUND, 0);
	if (!scrub->wq)
		goto out;

	ret = write_zeroes(scrub);
	if (ret && ret != -EINTR)
		ret = write_zeroes(scrub);
	if (ret && ret != -EINTR) {
		pci_err(pdev, "scrub=1: writing zeroes failed twice, now after %lld of %llu bytes: %d\n",
			(s64)atomic64_read(&nvdev->zeroed), all_bytes(nvdev), ret);
		ret = -EIO;
	}
	destroy_workqueue(scrub->wq);
out:
	kfree(scrub);
	return ret;
}
