// SPDX-License-Identifier: GPL-2.0-only
/*
 * scrub=1: the regions read as zeroes to the VFIO user who opens the device
 *
 * Open writes them, after vfio_pci_core has reset the GPU: its engines are idle, and what the
 * last owner left is overwritten. Several threads near the memory write, and enter the gate
 * for each block. Thus a reset waits for one block at most, and a scrub notices a reset.
 */
#include <kunit/visibility.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "nvgrace_gpu.h"

/* Bytes written at a time within the gate. No block reaches into another window. */
#define SCRUB_BLOCK	((phys_addr_t)SZ_2M)

/* A thread claims so much at a time. No two threads map the same window. */
#define SCRUB_PIECE	((phys_addr_t)SZ_1G)

/**
 * struct nvgrace_gpu_scrub - a scrub
 * @zeroing: its threads
 * @nvdev: the device
 * @revokes: of the gate, when the scrub began
 */
struct nvgrace_gpu_scrub {
	struct nvgrace_gpu_zeroing zeroing;
	struct nvgrace_gpu_device *nvdev;
	unsigned long revokes;
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

static int zero_piece(struct nvgrace_gpu_zeroing *zeroing, unsigned long nr)
{
	struct nvgrace_gpu_scrub *scrub = container_of(zeroing, struct nvgrace_gpu_scrub, zeroing);
	const struct nvgrace_gpu_region *region;
	phys_addr_t phys, end;
	int ret;

	region = find_piece(scrub->nvdev, nr, &phys, &end);
	if (!region)
		return -ENODATA;

	while (phys < end) {
		size_t len = min(ALIGN(phys + 1, SCRUB_BLOCK), end) - phys;

		ret = READ_ONCE(zeroing->error) ?: zero_block(scrub, region, phys, len);
		if (ret)
			return ret;
		phys += len;
		cond_resched();
	}
	return 0;
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

	atomic64_set(&nvdev->zeroed, 0);
	return 0;
}

/* Poll the registers again. Returns 0 if the link is up and no revoke came since begin_scrub(). */
static int end_scrub(struct nvgrace_gpu_scrub *scrub)
{
	struct nvgrace_gpu_device *nvdev = scrub->nvdev;
	int entry, ret;

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
	int ret;

	ret = begin_scrub(scrub);
	if (ret)
		return ret;

	nvgrace_gpu_zeroing_start(&scrub->zeroing, dev_to_node(&scrub->nvdev->core.pdev->dev));
	/* A frozen opener keeps VFIO's locks. No suspend callback takes them. */
	ret = nvgrace_gpu_zeroing_wait(&scrub->zeroing, TASK_KILLABLE | TASK_FREEZABLE_UNSAFE);
	nvgrace_gpu_zeroing_stop(&scrub->zeroing);
	if (ret == -ERESTARTSYS)
		return -EINTR;
	return ret ?: end_scrub(scrub);
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
	int ret;

	if (!nvdev->core.reset_works) {
		pci_err(pdev, "scrub=1: VFIO cannot reset the GPU, so it may write to its memory: see reset_method in sysfs\n");
		return -EIO;
	}

	scrub = kzalloc(sizeof(*scrub), GFP_KERNEL);
	if (!scrub)
		return -ENOMEM;
	scrub->nvdev = nvdev;
	scrub->zeroing.zero_piece = zero_piece;
	ret = nvgrace_gpu_zeroing_init(&scrub->zeroing);
	if (ret)
		goto out;

	ret = write_zeroes(scrub);
	if (ret && ret != -EINTR)
		ret = write_zeroes(scrub);
	if (ret && ret != -EINTR) {
		pci_err(pdev, "scrub=1: writing zeroes failed twice, now after %lld of %llu bytes: %d\n",
			(s64)atomic64_read(&nvdev->zeroed), all_bytes(nvdev), ret);
		ret = -EIO;
	}
	nvgrace_gpu_zeroing_destroy(&scrub->zeroing);
out:
	kfree(scrub);
	return ret;
}
