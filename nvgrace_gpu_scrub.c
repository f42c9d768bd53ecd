// SPDX-License-Identifier: GPL-2.0-only
/*
 * scrub=1: the regions read as zeroes to the VFIO user who opens the device next
 *
 * Threads near the memory write zeroes in the background, once the device is bound and
 * after each close. Open waits for them, and so does unbind. They enter the gate for each
 * block. Thus a reset waits for one block at most, and a scrub that a reset came into
 * notices: it has failed, and the next open starts another one.
 *
 * The GPU itself is quiet, because vfio_pci_core has reset it. If it could not, because the
 * GPU is being unbound for example, the GPU may write to its memory even now.
 */
#include <kunit/visibility.h>
#include <linux/bitfield.h>
#include <linux/cpumask.h>
#include <linux/ktime.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#ifdef CONFIG_ARM64
#include <asm/cpufeature.h>
#include <asm/sysreg.h>
#endif

#include "nvgrace_gpu.h"

/* Bytes written at a time within the gate. No block reaches into another window. */
#define SCRUB_BLOCK	((phys_addr_t)SZ_2M)

/* CTR_EL0.DminLine: log2 of the words in the smallest cache line. */
#define CTR_SMALLEST_LINE	GENMASK(19, 16)

/*
 * Write what the caches hold of the memory to the memory, and drop it from the caches. The
 * kernel exports nothing to modules that does so up to the point of coherency: what is for
 * persistent memory depends on the kernel's configuration.
 */
static void clean_caches(void *start, size_t len)
{
#ifdef CONFIG_ARM64
	u64 ctr = read_sanitised_ftr_reg(SYS_CTR_EL0);
	size_t line = sizeof(u32) << FIELD_GET(CTR_SMALLEST_LINE, ctr);
	void *p;

	for (p = start; p < start + len; p += line)
		asm volatile("dc civac, %0" : : "r" (p) : "memory");
#endif
	mb(); /* the caches are clean before anything that follows */
}

/*
 * Zeroes that stayed in a cache would be lost with a reset, and the memory would show again
 * what it held before. Of an uncached region no zeroes are in a cache; but a line that an
 * earlier owner wrote through a cacheable mapping may be, and goes first.
 */
static void zero(const struct nvgrace_gpu_region *region, void *p, size_t len)
{
	if (!region->cacheable)
		clean_caches(p, len);
	memset(p, 0, len);
	if (region->cacheable)
		clean_caches(p, len);
	else
		wmb(); /* empty the merge buffer within the gate */
}

/* All of a block but its poisoned pages. */
static void zero_block(struct nvgrace_gpu_device *nvdev,
		       const struct nvgrace_gpu_region *region,
		       phys_addr_t phys, void *window, size_t len)
{
	unsigned long first = PHYS_PFN(phys);
	unsigned long end = first + PHYS_PFN(len);
	unsigned long pfn = first;

	while (pfn < end) {
		unsigned long bad = pfn;

		if (xa_find(&nvdev->poison.pages, &bad, end - 1, XA_PRESENT))
			atomic_long_inc(&nvdev->scrub.skipped);
		else
			bad = end;
		if (bad > pfn)
			zero(region, window + PFN_PHYS(pfn - first), PFN_PHYS(bad - pfn));
		pfn = bad + 1;
	}
}

/**
 * nvgrace_gpu_scrub_block() - a block of the regions, by its number
 * @nvdev: the device
 * @nr: counts the blocks of usemem, then those of resmem
 * @region: set to the region
 * @phys: set to the host physical address of the first byte
 *
 * A block ends where its region does, and at multiples of its full size.
 *
 * Context: Any.
 * Return: bytes; 0 if there are not so many blocks.
 */
VISIBLE_IF_KUNIT size_t nvgrace_gpu_scrub_block(const struct nvgrace_gpu_device *nvdev,
						unsigned long nr,
						const struct nvgrace_gpu_region **region,
						phys_addr_t *phys)
{
	unsigned int i;

	for (i = 0; i < nvdev->nr_regions; i++) {
		const struct nvgrace_gpu_region *r = &nvdev->regions[i];
		phys_addr_t end = r->base + r->backed;
		phys_addr_t start = ALIGN_DOWN(r->base, SCRUB_BLOCK);
		unsigned long blocks = DIV_ROUND_UP(end - start, SCRUB_BLOCK);

		if (nr < blocks) {
			start += nr * SCRUB_BLOCK;
			*region = r;
			*phys = max(start, r->base);
			return min(start + SCRUB_BLOCK, end) - *phys;
		}
		nr -= blocks;
	}
	return 0;
}

/* Where the scrub is, for the log: what it stops at if it stops now. */
static void stop_at(struct nvgrace_gpu_device *nvdev,
		    const struct nvgrace_gpu_region *region, u64 offset)
{
	nvdev->scrub.region = region;
	nvdev->scrub.offset = offset;
}

static int scrub_block(struct nvgrace_gpu_device *nvdev,
		       const struct nvgrace_gpu_region *region, phys_addr_t phys, size_t len)
{
	int entry, ret = 0;
	size_t mapped;
	void *window;

	window = nvgrace_gpu_find_window(region, phys, &mapped);
	if (!window)
		return -ENOMEM;

	entry = nvgrace_gpu_gate_enter(nvdev, NVGRACE_GPU_GATE_AWAKE);
	if (entry < 0)
		return entry;
	if (nvdev->gate.revokes != nvdev->scrub.revokes) {
		ret = -EAGAIN;
	} else {
		zero_block(nvdev, region, phys, window, len);
		/* The gate has not looked since the GPU was ready: were the zeroes dropped? */
		if (!nvgrace_gpu_is_present(nvdev->core.pdev))
			ret = -ENODEV;
	}
	nvgrace_gpu_gate_exit(nvdev, entry);
	return ret;
}

/**
 * nvgrace_gpu_scrub_blocks() - write zeroes until no block is left
 * @nvdev: the device, which is not open
 *
 * Several threads do so at once. The first error ends all of them.
 *
 * Context: Process context; enters the gate for each block.
 */
VISIBLE_IF_KUNIT void nvgrace_gpu_scrub_blocks(struct nvgrace_gpu_device *nvdev)
{
	struct nvgrace_gpu_scrub *scrub = &nvdev->scrub;
	const struct nvgrace_gpu_region *region;
	phys_addr_t phys;
	size_t len;
	int ret;

	while (!READ_ONCE(scrub->error)) {
		len = nvgrace_gpu_scrub_block(nvdev, atomic_long_fetch_inc(&scrub->next),
					      &region, &phys);
		if (!len)
			return;
		ret = scrub_block(nvdev, region, phys, len);
		if (!ret)
			atomic64_add(len, &scrub->done);
		else if (!cmpxchg(&scrub->error, 0, ret))
			stop_at(nvdev, region, phys - region->base);
		cond_resched();
	}
}

static void scrub_thread(struct work_struct *work)
{
	nvgrace_gpu_scrub_blocks(container_of(work, struct nvgrace_gpu_scrub_thread,
					      work)->nvdev);
}

/**
 * nvgrace_gpu_scrub_begin() - a scrub begins when the GPU is ready
 * @nvdev: the device, awake, and its BAR0 mapped
 *
 * Context: Process context; waits for the GPU.
 * Return: 0; -EIO if the GPU does not get ready.
 */
VISIBLE_IF_KUNIT int nvgrace_gpu_scrub_begin(struct nvgrace_gpu_device *nvdev)
{
	int entry;

	do {
		entry = nvgrace_gpu_gate_wait(nvdev, NVGRACE_GPU_GATE_AWAKE);
		if (!entry)
			entry = nvgrace_gpu_gate_enter(nvdev, NVGRACE_GPU_GATE_AWAKE);
	} while (entry == -EAGAIN);
	if (entry < 0)
		return entry;

	nvdev->scrub.revokes = nvdev->gate.revokes;
	nvgrace_gpu_gate_exit(nvdev, entry);
	return 0;
}

/**
 * nvgrace_gpu_scrub_end() - are all zeroes in the memory?
 * @nvdev: the device
 *
 * A reset since nvgrace_gpu_scrub_begin() may have cost some, the last block's too.
 *
 * Context: Process context; enters the gate.
 * Return: 0, or what stopped the scrub: -EAGAIN for a reset.
 */
VISIBLE_IF_KUNIT int nvgrace_gpu_scrub_end(struct nvgrace_gpu_device *nvdev)
{
	const struct nvgrace_gpu_region *last = &nvdev->regions[nvdev->nr_regions - 1];
	int entry, ret;

	if (nvdev->scrub.error)
		return nvdev->scrub.error;

	stop_at(nvdev, last, last->backed);
	entry = nvgrace_gpu_gate_enter(nvdev, NVGRACE_GPU_GATE_AWAKE);
	if (entry < 0)
		return entry;
	ret = nvdev->scrub.revokes == nvdev->gate.revokes ? 0 : -EAGAIN;
	nvgrace_gpu_gate_exit(nvdev, entry);
	return ret;
}

static void write_by_threads(struct nvgrace_gpu_device *nvdev)
{
	struct nvgrace_gpu_scrub *scrub = &nvdev->scrub;
	unsigned int nr = min(num_online_cpus(), NVGRACE_GPU_SCRUB_THREADS);
	unsigned int i;

	for (i = 0; i < nr; i++)
		queue_work_node(dev_to_node(&nvdev->core.pdev->dev), scrub->wq,
				&scrub->threads[i].work);
	for (i = 0; i < nr; i++)
		flush_work(&scrub->threads[i].work);
	nvgrace_gpu_unmap_windows(nvdev);
}

/* With the GPU awake and its registers mapped, as while it is open. */
static int scrub_awake(struct nvgrace_gpu_device *nvdev)
{
	struct device *dev = &nvdev->core.pdev->dev;
	int ret;

	ret = pm_runtime_resume_and_get(dev);
	if (ret)
		return ret;

	ret = nvgrace_gpu_map_registers(nvdev);
	if (!ret) {
		ret = nvgrace_gpu_scrub_begin(nvdev);
		if (!ret) {
			write_by_threads(nvdev);
			ret = nvgrace_gpu_scrub_end(nvdev);
		}
		nvgrace_gpu_unmap_registers(nvdev);
	}

	pm_runtime_put(dev);
	return ret;
}

static void scrub_work(struct work_struct *work)
{
	struct nvgrace_gpu_scrub *scrub = container_of(work, struct nvgrace_gpu_scrub, work);
	struct nvgrace_gpu_device *nvdev = container_of(scrub, struct nvgrace_gpu_device, scrub);
	ktime_t start = ktime_get();
	int ret;

	ret = scrub_awake(nvdev);
	if (ret)
		dev_err_ratelimited(&nvdev->core.pdev->dev,
				    "%s: scrub stopped at offset %#llx: %d\n",
				    scrub->region->name, scrub->offset, ret);
	scrub->ms = ktime_ms_delta(ktime_get(), start);

	/* From here on an open may use the device. */
	atomic_set_release(&scrub->state, ret ? NVGRACE_GPU_SCRUB_DIRTY : NVGRACE_GPU_SCRUB_CLEAN);
	wake_up_all(&scrub->wait);
}

/**
 * nvgrace_gpu_scrub_init() - prepare a device for scrub=1
 * @nvdev: the device, which is being bound and has regions
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENOMEM.
 */
int nvgrace_gpu_scrub_init(struct nvgrace_gpu_device *nvdev)
{
	struct nvgrace_gpu_scrub *scrub = &nvdev->scrub;
	unsigned int i;

	scrub->wq = alloc_workqueue("nvgrace_gpu_scrub", WQ_UNBOUND, 0);
	if (!scrub->wq)
		return -ENOMEM;

	init_waitqueue_head(&scrub->wait);
	INIT_WORK(&scrub->work, scrub_work);
	for (i = 0; i < NVGRACE_GPU_SCRUB_THREADS; i++) {
		scrub->threads[i].nvdev = nvdev;
		INIT_WORK(&scrub->threads[i].work, scrub_thread);
	}
	return 0;
}

/**
 * nvgrace_gpu_scrub_exit() - undo nvgrace_gpu_scrub_init(), after the scrub that is going on
 * @nvdev: the device, which nobody can open any more; without scrub=1 this does nothing
 *
 * Context: Process context, may sleep; the device lock may be held.
 */
void nvgrace_gpu_scrub_exit(struct nvgrace_gpu_device *nvdev)
{
	if (nvdev->scrub.wq)
		destroy_workqueue(nvdev->scrub.wq);
	nvdev->scrub.wq = NULL;
}

/**
 * nvgrace_gpu_scrub_start() - begin a scrub, if the memory needs one
 * @nvdev: the device; without scrub=1 this does nothing
 *
 * Context: Any that may queue work.
 * Return: true if this call began it.
 */
bool nvgrace_gpu_scrub_start(struct nvgrace_gpu_device *nvdev)
{
	struct nvgrace_gpu_scrub *scrub = &nvdev->scrub;

	if (!scrub->wq || atomic_cmpxchg(&scrub->state, NVGRACE_GPU_SCRUB_DIRTY,
					 NVGRACE_GPU_SCRUB_BUSY) != NVGRACE_GPU_SCRUB_DIRTY)
		return false;

	atomic_long_set(&scrub->next, 0);
	atomic_long_set(&scrub->skipped, 0);
	atomic64_set(&scrub->done, 0);
	scrub->error = 0;
	stop_at(nvdev, &nvdev->regions[0], 0);
	queue_work(scrub->wq, &scrub->work);
	return true;
}

/**
 * nvgrace_gpu_scrub_get() - wait until the memory is zero, and take it
 * @nvdev: the device, which is being opened; without scrub=1 this does nothing
 *
 * If the scrub that is going on fails, one more is begun: a reset may have cut that short
 * long before this open.
 *
 * Context: Process context; VFIO holds the lock of the device set.
 * Return: 0; -EIO if the memory could not be scrubbed, which is logged; -EINTR if the task
 * was killed.
 */
int nvgrace_gpu_scrub_get(struct nvgrace_gpu_device *nvdev)
{
	struct nvgrace_gpu_scrub *scrub = &nvdev->scrub;
	bool mine;

	if (!scrub->wq)
		return 0;

	do {
		mine = nvgrace_gpu_scrub_start(nvdev);
		/* Frozen here the task keeps VFIO's locks, which no suspend callback takes. */
		if (wait_event_state(scrub->wait,
				     atomic_read_acquire(&scrub->state) != NVGRACE_GPU_SCRUB_BUSY,
				     (TASK_KILLABLE | TASK_FREEZABLE_UNSAFE)))
			return -EINTR;
		if (atomic_cmpxchg(&scrub->state, NVGRACE_GPU_SCRUB_CLEAN,
				   NVGRACE_GPU_SCRUB_IN_USE) == NVGRACE_GPU_SCRUB_CLEAN)
			return 0;
	} while (!mine);

	return -EIO;
}

/**
 * nvgrace_gpu_scrub_put() - the device is not open any more: begin a scrub
 * @nvdev: the device; without scrub=1 this does nothing
 *
 * Context: Any that may queue work.
 */
void nvgrace_gpu_scrub_put(struct nvgrace_gpu_device *nvdev)
{
	atomic_set(&nvdev->scrub.state, NVGRACE_GPU_SCRUB_DIRTY);
	nvgrace_gpu_scrub_start(nvdev);
}
