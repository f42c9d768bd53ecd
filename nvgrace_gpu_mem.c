// SPDX-License-Identifier: GPL-2.0-only
/*
 * The regions of coherent memory: split, read, write, mmap and faults
 *
 * PCI_COMMAND's memory enable is not honoured here, on purpose: nothing decodes
 * an address, there is no use for it, and the platform is safe without. While
 * the GPU has it off, or is in reset, a read of its memory gives all ones and a
 * write is dropped; nothing faults.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/file.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/overflow.h>
#include <linux/pm_runtime.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "nvgrace_gpu.h"

/* VFIO keeps the region index in the bits above this of an mmap offset. */
#define REGION_PGOFF_SHIFT	(VFIO_PCI_OFFSET_SHIFT - PAGE_SHIFT)

/* Bytes moved at a time within the gate: resets and fatal signals wait that long. */
#define RW_PIECE	SZ_1M

/* Accesses of up to so many bytes use a buffer on the stack. */
#define RW_STACK	64

static void fill_region(struct nvgrace_gpu_region *region, const char *name,
			unsigned int bar, bool cacheable, phys_addr_t base,
			size_t backed)
{
	*region = (struct nvgrace_gpu_region) {
		.name = name,
		.index = VFIO_PCI_BAR0_REGION_INDEX + bar,
		.cacheable = cacheable,
		.base = base,
		.backed = backed,
		.bar_size = roundup_pow_of_two(backed),
	};
}

/**
 * nvgrace_gpu_split() - split the coherent memory into regions
 * @range: the memory, page-aligned
 * @carve_out: does the GPU need a part of it uncached?
 * @usemem_bar: 2 or 4, the BAR of usemem; resmem gets the other one. Without
 *	@carve_out usemem is BAR4 whatever this says, since the GPU's own BAR2
 *	stays visible then.
 * @regions: filled in, %NVGRACE_GPU_MAX_REGIONS entries
 *
 * With @carve_out, resmem is the last 1 GiB and what it takes to leave usemem a
 * multiple of 512 MiB. Without, usemem is everything.
 *
 * Context: Any.
 * Return: the number of regions; -EINVAL if @range is too small to split;
 * -EOVERFLOW if a region is larger than VFIO can show (1 TiB).
 */
int nvgrace_gpu_split(const struct nvgrace_gpu_range *range, bool carve_out,
		      unsigned int usemem_bar,
		      struct nvgrace_gpu_region *regions)
{
	size_t usemem = range->size;

	if (carve_out) {
		if (usemem < NVGRACE_GPU_RESMEM_MIN + NVGRACE_GPU_USEMEM_ALIGN)
			return -EINVAL;
		usemem = round_down(usemem - NVGRACE_GPU_RESMEM_MIN,
				    NVGRACE_GPU_USEMEM_ALIGN);
	}

	/* A VFIO region can't be larger than the offsets within one. */
	if (usemem > BIT_ULL(VFIO_PCI_OFFSET_SHIFT))
		return -EOVERFLOW;

	fill_region(&regions[0], "usemem", carve_out ? usemem_bar : 4, true,
		    range->base, usemem);
	if (!carve_out)
		return 1;

	fill_region(&regions[1], "resmem", 6 - usemem_bar, false,
		    range->base + usemem, range->size - usemem);
	return 2;
}

/* Windows start at multiples of their size, but the first one, which starts with the region. */
static size_t window_number(const struct nvgrace_gpu_region *region, phys_addr_t phys)
{
	return phys / NVGRACE_GPU_WINDOW - region->base / NVGRACE_GPU_WINDOW;
}

static size_t nr_windows(const struct nvgrace_gpu_region *region)
{
	return window_number(region, region->base + region->backed - 1) + 1;
}

/*
 * A claim is nested in a resource that nobody calls busy. The window of a host bridge may be
 * around the memory of a GPU, and firmware may have told the kernel not to use DRAM. Anything
 * else, such as EFI's runtime memory or the BAR of a device, is something that a VFIO user must
 * not get.
 */
static bool belongs_to_another(const struct resource *claim, bool is_dram)
{
	const struct resource *parent = claim->parent;
	const char *name = parent->name ?: "";

	if (parent == &iomem_resource)
		return false;
	if (is_dram)
		return strcmp(name, "reserved");
	return !(parent->flags & IORESOURCE_WINDOW) && !strstarts(name, "CXL Window ");
}

/**
 * nvgrace_gpu_check_claim() - may the driver have memory that it requested?
 * @dev: the device that firmware names the memory for
 * @property: by which firmware does that
 * @region: the memory
 * @claim: what the request returned
 * @is_dram: is it a part of the host's DRAM, which firmware may have told the kernel not to use?
 *
 * If the driver may not, that is logged; the caller ends the claim.
 *
 * Context: Process context, may sleep.
 * Return: 0; -EBUSY if a part of the memory is claimed already, or belongs to something else.
 */
int nvgrace_gpu_check_claim(struct device *dev, const char *property,
			    const struct nvgrace_gpu_region *region,
			    const struct resource *claim, bool is_dram)
{
	const u64 base = region->base, last = base + region->backed - 1;

	if (!claim)
		return dev_err_probe(dev, -EBUSY,
				     "%s: %s [mem %#llx-%#llx] is in use, see /proc/iomem\n",
				     property, region->name, base, last);
	if (belongs_to_another(claim, is_dram))
		return dev_err_probe(dev, -EBUSY,
				     "%s: %s [mem %#llx-%#llx] lies in %s, see /proc/iomem\n",
				     property, region->name, base, last,
				     claim->parent->name ?: "?");
	return 0;
}

/**
 * nvgrace_gpu_claim_regions() - request the memory, so that no other driver uses it
 * @nvdev: the device, which is being bound
 *
 * The claim ends when the device is unbound. If it fails, that is logged. This also makes
 * room for the windows.
 *
 * Context: Process context, may sleep.
 * Return: 0; -ENOMEM; or as nvgrace_gpu_check_claim().
 */
int nvgrace_gpu_claim_regions(struct nvgrace_gpu_device *nvdev)
{
	struct device *dev = &nvdev->core.pdev->dev;
	const struct nvgrace_gpu_region *end = nvdev->regions + nvdev->nr_regions;
	struct nvgrace_gpu_region *region;
	int ret;

	for (region = nvdev->regions; region < end; region++) {
		region->windows = devm_kcalloc(dev, nr_windows(region),
					       sizeof(*region->windows), GFP_KERNEL);
		if (!region->windows)
			return -ENOMEM;

		ret = nvgrace_gpu_check_claim(dev, NVGRACE_GPU_PROP_BASE, region,
					      devm_request_mem_region(dev, region->base,
								      region->backed,
								      KBUILD_MODNAME), false);
		if (ret)
			return ret;
	}
	return 0;
}

/**
 * nvgrace_gpu_log_regions() - log where the regions are and which BARs show them
 * @nvdev: the device, bound
 *
 * Context: Any.
 */
void nvgrace_gpu_log_regions(const struct nvgrace_gpu_device *nvdev)
{
	const struct nvgrace_gpu_region *end = nvdev->regions + nvdev->nr_regions;
	const struct nvgrace_gpu_region *region;

	for (region = nvdev->regions; region < end; region++) {
		bool default_bar = region->cacheable &&
				   region->index == VFIO_PCI_BAR2_REGION_INDEX;

		pci_info(nvdev->core.pdev,
			 "%s [mem %#llx-%#llx] is BAR%u, backed %#llx bar_size %#llx%s\n",
			 region->name, (u64)region->base,
			 (u64)region->base + region->backed - 1, region->index,
			 (u64)region->backed, region->bar_size,
			 default_bar ? "; NVIDIA's guest driver needs usemem_bar=4" : "");
	}
}

/**
 * nvgrace_gpu_find_region() - the region at a VFIO region index
 * @nvdev: the device
 * @index: VFIO region index
 *
 * Context: Any; the regions do not come and go while the device is bound.
 * Return: the region, or NULL if the index is vfio_pci_core's.
 */
struct nvgrace_gpu_region *
nvgrace_gpu_find_region(struct nvgrace_gpu_device *nvdev, unsigned int index)
{
	unsigned int i;

	for (i = 0; i < nvdev->nr_regions; i++) {
		if (nvdev->regions[i].index == index)
			return &nvdev->regions[i];
	}
	return NULL;
}

/**
 * nvgrace_gpu_clip() - cut an access at the end of the BAR and of the memory
 * @region: the region
 * @pos: offset in the region where the access begins
 * @count: bytes asked for; on return, those that lie within the BAR
 * @backed: on return, those of them that lie in real memory: the first ones
 *
 * Context: Any.
 * Return: false, with nothing changed, if @pos is at or beyond the BAR's end.
 */
bool nvgrace_gpu_clip(const struct nvgrace_gpu_region *region, u64 pos,
		      size_t *count, size_t *backed)
{
	if (pos >= region->bar_size)
		return false;

	*count = min_t(u64, *count, region->bar_size - pos);
	*backed = pos < region->backed ?
		  min_t(u64, *count, region->backed - pos) : 0;
	return true;
}

/**
 * nvgrace_gpu_mmap_check() - does a mapping follow the sparse area?
 * @region: the region
 * @pos: offset in the region where the mapping begins, in bytes
 * @len: its length in bytes
 *
 * Context: Any.
 * Return: 0; -EOVERFLOW if @pos + @len wraps; -EINVAL if the mapping does not
 * lie wholly in real memory.
 */
int nvgrace_gpu_mmap_check(const struct nvgrace_gpu_region *region, u64 pos,
			   u64 len)
{
	u64 end;

	if (check_add_overflow(pos, len, &end))
		return -EOVERFLOW;
	return end > region->backed ? -EINVAL : 0;
}

/* Is a page of these known to be poisoned? */
static bool has_poisoned_page(struct xarray *poisoned, phys_addr_t phys, size_t count)
{
	unsigned long pfn = PHYS_PFN(phys);

	return !xa_empty(poisoned) &&
	       xa_find(poisoned, &pfn, PHYS_PFN(phys + count - 1), XA_PRESENT);
}

/**
 * nvgrace_gpu_map_window() - map memory that firmware names into the kernel
 * @phys: host physical address
 * @len: bytes
 * @cacheable: Normal Write-Back if true, else write-combining
 *
 * Context: Process context, may sleep.
 * Return: what to memunmap(), or NULL.
 */
void *nvgrace_gpu_map_window(phys_addr_t phys, size_t len, bool cacheable)
{
	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_map_window, phys, len, cacheable);

	return memremap(phys, len, cacheable ? MEMREMAP_WB : MEMREMAP_WC);
}

/**
 * nvgrace_gpu_find_window() - where the kernel has mapped some of the memory
 * @region: the region
 * @phys: host physical address in @region
 * @len: set to the bytes from there on, at least up to the next multiple of 2 MiB or to the
 *	end of the region
 *
 * Maps a window if there is none. A window never reaches into another region, which has
 * another memory type.
 *
 * Context: Process context, may sleep. nvgrace_gpu_unmap_windows() removes all of them.
 * Return: the address, or NULL if the memory cannot be mapped.
 */
void *nvgrace_gpu_find_window(const struct nvgrace_gpu_region *region, phys_addr_t phys,
			      size_t *len)
{
	phys_addr_t block = ALIGN_DOWN(phys, NVGRACE_GPU_WINDOW);
	phys_addr_t start = max(block, region->base);
	phys_addr_t last = min(block + (NVGRACE_GPU_WINDOW - 1),
			       region->base + (region->backed - 1));
	void **slot = &region->windows[window_number(region, phys)];
	void *window = READ_ONCE(*slot), *other;

	*len = last - phys + 1;
	if (window)
		return window + (phys - start);

	window = nvgrace_gpu_map_window(start, last - start + 1, region->cacheable);
	if (!window)
		return NULL;

	/* Another reader may have been faster. */
	other = cmpxchg(slot, NULL, window);
	if (other) {
		memunmap(window);
		window = other;
	}
	return window + (phys - start);
}

/**
 * nvgrace_gpu_unmap_windows() - undo what reads and writes have mapped into the kernel
 * @nvdev: the device, which nobody reads or writes any more
 *
 * Context: Process context, may sleep.
 */
void nvgrace_gpu_unmap_windows(struct nvgrace_gpu_device *nvdev)
{
	const struct nvgrace_gpu_region *end = nvdev->regions + nvdev->nr_regions;
	const struct nvgrace_gpu_region *region;
	size_t i;

	for (region = nvdev->regions; region < end; region++) {
		for (i = 0; i < nr_windows(region); i++) {
			if (region->windows[i])
				memunmap(region->windows[i]);
			region->windows[i] = NULL;
		}
	}
}

/* A read() or write() of real memory. */
struct region_access {
	struct nvgrace_gpu_device *nvdev;
	const struct nvgrace_gpu_region *region;
	bool iswrite;
	unsigned int gate;		/* flags to enter it with */
	int entry;			/* of the gate, while within */
	bool begun;			/* something has been moved */
	unsigned long revokes;		/* of the gate, when that was */
};

/* Some accesses have to be one load or store, as those to a register are. */
static void load_once(void *to, const void *from, size_t count)
{
	if (count == 8 && IS_ALIGNED((unsigned long)from, 8))
		*(u64 *)to = READ_ONCE(*(const u64 *)from);
	else if (count == 4 && IS_ALIGNED((unsigned long)from, 4))
		*(u32 *)to = READ_ONCE(*(const u32 *)from);
	else if (count == 2 && IS_ALIGNED((unsigned long)from, 2))
		*(u16 *)to = READ_ONCE(*(const u16 *)from);
	else
		memcpy(to, from, count);
}

static void store_once(void *to, const void *from, size_t count)
{
	if (count == 8 && IS_ALIGNED((unsigned long)to, 8))
		WRITE_ONCE(*(u64 *)to, *(const u64 *)from);
	else if (count == 4 && IS_ALIGNED((unsigned long)to, 4))
		WRITE_ONCE(*(u32 *)to, *(const u32 *)from);
	else if (count == 2 && IS_ALIGNED((unsigned long)to, 2))
		WRITE_ONCE(*(u16 *)to, *(const u16 *)from);
	else
		memcpy(to, from, count);
}

/* Enter the gate to move COUNT bytes. */
static int begin_move(struct region_access *a, phys_addr_t phys, size_t count)
{
	struct nvgrace_gpu_device *nvdev = a->nvdev;
	int ret = 0;

	a->entry = nvgrace_gpu_gate_enter(nvdev, a->gate);
	if (a->entry < 0)
		return a->entry;

	if (!a->begun) {
		a->begun = true;
		a->revokes = nvdev->gate.revokes;
	}

	/* After a reset what was moved before it is of no use. */
	if (a->revokes != nvdev->gate.revokes)
		ret = -EAGAIN;
	else if (has_poisoned_page(&nvdev->poison.pages, phys, count))
		ret = -EHWPOISON;

	if (ret)
		nvgrace_gpu_gate_exit(nvdev, a->entry);
	return ret;
}

static void end_move(struct region_access *a)
{
	if (a->iswrite && !a->region->cacheable)
		wmb(); /* empty the merge buffer within the gate */
	nvgrace_gpu_gate_exit(a->nvdev, a->entry);
}

/*
 * Copy between the memory and the caller's buffer. Within the gate a fault on the buffer
 * would take the mmap lock, and the fault handler nests the two the other way round; the
 * buffer may even be a mapping of this region. So page faults are off, and the copy ends
 * before the first page that is not there.
 *
 * Returns the number of bytes moved, or an error.
 */
static ssize_t move_directly(struct region_access *a, phys_addr_t phys, void *window,
			     char __user *buf, size_t count)
{
	size_t left;
	int ret;

	ret = begin_move(a, phys, count);
	if (ret)
		return ret;

	pagefault_disable();
	if (a->iswrite)
		left = __copy_from_user_inatomic(window, buf, count);
	else
		left = __copy_to_user_inatomic(buf, window, count);
	pagefault_enable();

	end_move(a);
	return count - left;
}

/*
 * Move a few bytes by way of the stack. This also brings in the page that a direct copy
 * did not find. Returns COUNT, or an error.
 */
static ssize_t move_by_stack(struct region_access *a, phys_addr_t phys, void *window,
			     char __user *buf, size_t count)
{
	u64 data[RW_STACK / sizeof(u64)];
	int ret;

	if (a->iswrite && copy_from_user(data, buf, count))
		return -EFAULT;

	ret = begin_move(a, phys, count);
	if (ret)
		return ret;
	if (a->iswrite)
		store_once(window, data, count);
	else
		load_once(data, window, count);
	end_move(a);

	if (!a->iswrite && copy_to_user(buf, data, count))
		return -EFAULT;
	return count;
}

/* Enter the gate once, and move up to COUNT bytes. Returns how many, or an error. */
static ssize_t move_piece(struct region_access *a, u64 pos, char __user *buf, size_t count)
{
	phys_addr_t phys = a->region->base + pos;
	void *window;
	ssize_t ret;
	size_t len;

	window = nvgrace_gpu_find_window(a->region, phys, &len);
	if (!window)
		return -ENOMEM;
	count = min(count, len);

	if (count > RW_STACK) {
		ret = move_directly(a, phys, window, buf, min_t(size_t, count, RW_PIECE));
		if (ret)
			return ret;
	}
	return move_by_stack(a, phys, window, buf, min_t(size_t, count, RW_STACK));
}

/* The part of an access that lies in real memory. */
static int rw_backed(struct region_access *a, u64 pos, char __user *buf, size_t count)
{
	for (;;) {
		ssize_t moved = move_piece(a, pos, buf, count);

		if (moved < 0)
			return moved;
		if (moved == count)
			return 0;
		pos += moved;
		buf += moved;
		count -= moved;

		cond_resched();
		if (fatal_signal_pending(current))
			return -EINTR;
	}
}

/* The part of a read that lies beyond real memory: all ones. */
static int read_hole(char __user *buf, size_t count)
{
	static const u8 ones[SZ_4K] = { [0 ... SZ_4K - 1] = 0xff };

	while (count) {
		size_t piece = min(count, sizeof(ones));

		if (copy_to_user(buf, ones, piece))
			return -EFAULT;
		buf += piece;
		count -= piece;

		cond_resched();
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	return 0;
}

/*
 * Do a region's read() or write(). If a reset cuts it short, do it again from the beginning:
 * this is memory, and a second read or write of it has no side effect.
 */
static int rw_until_done(struct region_access *a, u64 pos, char __user *buf, size_t count)
{
	int ret;

	do {
		a->begun = false;
		ret = rw_backed(a, pos, buf, count);
		if (ret != -EAGAIN)
			return ret;
		ret = nvgrace_gpu_gate_wait(a->nvdev, a->gate);
	} while (!ret);

	return ret;
}

/*
 * As long as VFIO's own runtime PM reference is there, as it is unless the VFIO user gave
 * it up, none has to be taken.
 */
static int rw_awake(struct region_access *a, u64 pos, char __user *buf, size_t count)
{
	struct device *dev = &a->nvdev->core.pdev->dev;
	int ret;

	a->gate = NVGRACE_GPU_GATE_INTERRUPTIBLE;
	ret = rw_until_done(a, pos, buf, count);
	if (ret != -EIO)
		return ret;

	if (pm_runtime_resume_and_get(dev))
		return -EIO;
	a->gate |= NVGRACE_GPU_GATE_AWAKE;
	ret = rw_until_done(a, pos, buf, count);
	pm_runtime_put(dev);
	return ret;
}

/**
 * nvgrace_gpu_region_rw() - read() or write() on a region
 * @nvdev: the device
 * @region: the region that *@ppos is in
 * @buf: the user's buffer; only read from if @iswrite
 * @count: bytes asked for
 * @ppos: VFIO offset; advanced by what is returned, untouched on error
 * @iswrite: direction
 *
 * Up to the end of real memory data is moved; from there to the end of the BAR
 * a read gives all ones and a write is dropped; an access that crosses the end
 * of the BAR is cut there.
 *
 * Resumes the GPU from runtime suspend, and waits for it if it is not ready, with no
 * lock held. If a reset cuts an access short, all of it is done again.
 *
 * Context: Process context, no locks held; enters the gate.
 * Return: bytes read or written; -EINVAL at or beyond the end of the BAR; -EFAULT if
 * @buf is bad; -EIO if the GPU is in D3 and stays there, or the gate cannot be
 * entered; -EHWPOISON if a page of the access is poisoned; -ENOMEM; -ERESTARTSYS if a
 * signal ended a wait; -EINTR if the task was killed.
 */
ssize_t nvgrace_gpu_region_rw(struct nvgrace_gpu_device *nvdev,
			      const struct nvgrace_gpu_region *region,
			      char __user *buf, size_t count, loff_t *ppos,
			      bool iswrite)
{
	struct region_access a = { .nvdev = nvdev, .region = region, .iswrite = iswrite };
	u64 pos = *ppos & VFIO_PCI_OFFSET_MASK;
	size_t backed;
	int ret = 0;

	if (!count)
		return 0;
	if (!nvgrace_gpu_clip(region, pos, &count, &backed))
		return -EINVAL;
	if (!access_ok(buf, count))
		return -EFAULT;

	if (backed)
		ret = rw_awake(&a, pos, buf, backed);
	if (!ret && !iswrite)
		ret = read_hole(buf + backed, count - backed);
	if (ret)
		return ret;

	*ppos += count;
	return count;
}

/**
 * nvgrace_gpu_block_fits() - can one entry map a block?
 * @vma: the mapping
 * @addr: user address of the block, aligned to its size
 * @pfn: the pfn to map there
 * @order: log2 of the pages in the block, 0 for a page
 *
 * Context: Any; @vma does not change.
 * Return: true if @vma covers the block, and @pfn is aligned as @addr is.
 */
bool nvgrace_gpu_block_fits(const struct vm_area_struct *vma, unsigned long addr,
			    unsigned long pfn, unsigned int order)
{
	return !order || (addr >= vma->vm_start && addr + (PAGE_SIZE << order) <= vma->vm_end &&
			  IS_ALIGNED(pfn, BIT(order)));
}

/*
 * vfio_pci_core has such a function on newer kernels, which refuses while the guest has
 * memory turned off in PCI_COMMAND. This memory does not need it on.
 */
static vm_fault_t insert_block(struct vm_fault *vmf, unsigned long pfn,
			       unsigned int order)
{
	/*
	 * Inserted clean even for a write: asked to dirty an entry, mm WARNs
	 * if it finds a page table there, and another thread can put one there
	 * just now by turning huge pages off.
	 */
	if (IS_ENABLED(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP) && order == PMD_ORDER)
		return vmf_insert_pfn_pmd(vmf, nvgrace_gpu_pfn(pfn), false);

#ifdef CONFIG_ARCH_SUPPORTS_PUD_PFNMAP
	if (order == PUD_ORDER)
		return vmf_insert_pfn_pud(vmf, nvgrace_gpu_pfn(pfn), false);
#endif

	return VM_FAULT_FALLBACK;
}

/*
 * No block fits at the fault: map the page, and with it all that the same page table can
 * map. Its neighbours would fault next, one by one. Poisoned ones among them are left out:
 * a fault on such a page itself maps it.
 */
static vm_fault_t fill_table(struct xarray *poisoned, struct vm_fault *vmf, unsigned long pfn)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long table = ALIGN_DOWN(vmf->address, PMD_SIZE);
	unsigned long addr = max(table, vma->vm_start);
	unsigned long last = min(table + (PMD_SIZE - 1), vma->vm_end - 1);
	vm_fault_t ret;

	ret = vmf_insert_pfn(vma, vmf->address, pfn);
	if (ret != VM_FAULT_NOPAGE)
		return ret;

	pfn -= (vmf->address - addr) >> PAGE_SHIFT;
	for (; addr < last; addr += PAGE_SIZE, pfn++) {
		if (has_poisoned_page(poisoned, PFN_PHYS(pfn), PAGE_SIZE))
			continue;
		if (vmf_insert_pfn(vma, addr, pfn) != VM_FAULT_NOPAGE)
			break;
	}
	return ret;
}

/**
 * nvgrace_gpu_insert() - map what a fault is about
 * @poisoned: pages that are poisoned, by pfn
 * @vmf: the fault
 * @pfn: the pfn of the page, or of the block's first page
 * @order: log2 of the pages in the block, which fits; 0 for a page, and then all of its page
 *	table is mapped
 *
 * Context: Process context, in a fault.
 * Return: as .huge_fault.
 */
vm_fault_t nvgrace_gpu_insert(struct xarray *poisoned, struct vm_fault *vmf,
			      unsigned long pfn, unsigned int order)
{
	return order ? insert_block(vmf, pfn, order) : fill_table(poisoned, vmf, pfn);
}

/*
 * Map what a fault is about, within the gate. A page table that mm allocates for it must not
 * wait for a disk: AER's recovery of a bus stops the disk's driver and then revokes the gate.
 */
static vm_fault_t map_fault(struct nvgrace_gpu_device *nvdev,
			    struct vm_fault *vmf, unsigned long pfn, unsigned int order)
{
	unsigned int noio = memalloc_noio_save();
	vm_fault_t ret;

	lockdep_assert(srcu_read_lock_held(&nvdev->gate.users));

	ret = nvgrace_gpu_insert(&nvdev->poison.pages, vmf, pfn, order);
	memalloc_noio_restore(noio);
	return ret;
}

/*
 * Wait for the GPU with the fault's lock released, and have the fault tried again.
 * If the GPU does not get ready, the next try finds that out.
 */
static vm_fault_t wait_and_retry(struct nvgrace_gpu_device *nvdev,
				 struct vm_fault *vmf)
{
	/*
	 * Any signal ends the fault of a task in user mode, which takes the signal
	 * then. In kernel mode mm would have the fault tried again at once: only
	 * a fatal signal ends that.
	 */
	bool interruptible = (vmf->flags & FAULT_FLAG_INTERRUPTIBLE) &&
			     (vmf->flags & FAULT_FLAG_USER);
	unsigned int flags = interruptible ? NVGRACE_GPU_GATE_INTERRUPTIBLE : 0;
	struct file *file;

	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;

	/* The mapping can go meanwhile, and then the device after fput(). */
	file = get_file(vmf->vma->vm_file);
	release_fault_lock(vmf);
	nvgrace_gpu_gate_wait(nvdev, flags);
	fput(file);
	return VM_FAULT_RETRY;
}

/*
 * Whatever code revokes the gate zaps the mappings next, with this driver's zap or with that of
 * vfio_pci_core, which holds memory_lock for write. Within the gate no page comes back
 * before the GPU is ready.
 *
 * A reset takes seconds, and no fault waits for it with the mmap lock held, unless
 * the fault is of the rare kind that cannot be tried again.
 */
static vm_fault_t try_fault(struct nvgrace_gpu_device *nvdev,
			    struct vm_fault *vmf, unsigned long pfn, unsigned int order)
{
	bool may_retry = vmf->flags & FAULT_FLAG_ALLOW_RETRY;
	vm_fault_t ret;
	int err;

	do {
		err = nvgrace_gpu_gate_enter(nvdev,
					     may_retry ? NVGRACE_GPU_GATE_NOWAIT : 0);
		if (err >= 0) {
			ret = map_fault(nvdev, vmf, pfn, order);
			nvgrace_gpu_gate_exit(nvdev, err);
			return ret;
		}
		if (err == -EAGAIN && may_retry)
			return wait_and_retry(nvdev, vmf);
		if (err == -EAGAIN)
			err = nvgrace_gpu_gate_wait(nvdev, 0);
	} while (!err);

	return VM_FAULT_SIGBUS;
}

/* mm asks for the largest block first; one that does not fit costs no lock. */
static vm_fault_t region_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct vm_area_struct *vma = vmf->vma;
	struct nvgrace_gpu_device *nvdev = to_nvdev(vma->vm_private_data);
	unsigned long addr = ALIGN_DOWN(vmf->address, PAGE_SIZE << order);
	const struct nvgrace_gpu_region *region;
	unsigned long pfn;

	region = nvgrace_gpu_find_region(nvdev, vma->vm_pgoff >> REGION_PGOFF_SHIFT);
	if (!region)
		return VM_FAULT_SIGBUS;

	pfn = PHYS_PFN(region->base) +
	      (vma->vm_pgoff & (BIT(REGION_PGOFF_SHIFT) - 1)) +
	      ((addr - vma->vm_start) >> PAGE_SHIFT);

	if (!nvgrace_gpu_block_fits(vma, addr, pfn, order))
		return VM_FAULT_FALLBACK;
	return try_fault(nvdev, vmf, pfn, order);
}

static vm_fault_t region_fault(struct vm_fault *vmf)
{
	return region_huge_fault(vmf, 0);
}

static const struct vm_operations_struct region_vm_ops = {
	.fault = region_fault,
#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
	.huge_fault = region_huge_fault,
#endif
};

/**
 * nvgrace_gpu_prepare_vma() - check a mapping, and set its flags
 * @region: the region
 * @pos: offset in the region where the mapping begins, in bytes
 * @vma: the mapping
 *
 * Context: Process context, mmap lock held for write.
 * Return: 0; -EINVAL if the mapping is private or goes past real memory;
 * -EOVERFLOW if offset and length wrap.
 */
int nvgrace_gpu_prepare_vma(const struct nvgrace_gpu_region *region, u64 pos,
			    struct vm_area_struct *vma)
{
	int ret;

	/* mm BUGs on a pfn that is inserted in a copy-on-write mapping. */
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;

	ret = nvgrace_gpu_mmap_check(region, pos, vma->vm_end - vma->vm_start);
	if (ret)
		return ret;

	/*
	 * VM_HUGEPAGE, since there are no pages to waste: the older 6.12.y
	 * (.107 does) hold this mapping too to what sysfs says of transparent
	 * huge pages, and under "madvise" would fault page by page.
	 */
	vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP |
		     VM_HUGEPAGE);
	return 0;
}

/**
 * nvgrace_gpu_region_mmap() - mmap() of a region
 * @nvdev: the device
 * @region: the region that @vma->vm_pgoff is in
 * @vma: the mapping
 *
 * Nothing is mapped here: pages come by fault, in the largest blocks that the
 * alignment of address and memory allows.
 *
 * Context: Process context, mmap lock held for write.
 * Return: 0; -EPERM if an uncached region is to be executable; or as
 * nvgrace_gpu_prepare_vma().
 */
int nvgrace_gpu_region_mmap(struct nvgrace_gpu_device *nvdev,
			    const struct nvgrace_gpu_region *region,
			    struct vm_area_struct *vma)
{
	/* vm_pgoff stays VFIO's: by it the core finds the mappings to zap. */
	u64 pos = PFN_PHYS(vma->vm_pgoff & (BIT(REGION_PGOFF_SHIFT) - 1));
	int ret;

	ret = nvgrace_gpu_prepare_vma(region, pos, vma);
	if (ret)
		return ret;

	if (!region->cacheable) {
		/*
		 * arm64 never executes from an uncached page. mm would handle such a fault by
		 * marking the page accessed, without end.
		 */
		if (vma->vm_flags & VM_EXEC)
			return -EPERM;
		vm_flags_clear(vma, VM_MAYEXEC);

		/*
		 * VM_ALLOW_ANY_UNCACHED lets KVM map this Normal-NC for a guest
		 * rather than Device-nGnRE, so that unaligned access and
		 * write-combining work there. It asks for a platform on which
		 * nothing that is done to the mapping can end in an uncontained
		 * failure, and this is one: the memory behind it is ordinary
		 * memory, and while the GPU is in reset or its memory is off,
		 * reads give all ones and writes are dropped. KVM looks at flags
		 * and pgprot when it maps a page: both are set before any is.
		 */
		vm_flags_set(vma, VM_ALLOW_ANY_UNCACHED);
		vma->vm_page_prot = pgprot_writecombine(vma->vm_page_prot);
	}

	/* The core's own mappings have the same: mm finds all of them through one inode. */
	vma->vm_private_data = &nvdev->core;
	vma->vm_ops = &region_vm_ops;
	return 0;
}

/**
 * nvgrace_gpu_zap_regions() - take the regions out of all mappings
 * @nvdev: the device
 *
 * Context: Process context, may sleep. The caller has revoked the gate, or faults would map the
 * regions again at once.
 */
void nvgrace_gpu_zap_regions(struct nvgrace_gpu_device *nvdev)
{
	unsigned int i;

	for (i = 0; i < nvdev->nr_regions; i++)
		unmap_mapping_range(nvdev->core.vdev.inode->i_mapping,
				    VFIO_PCI_INDEX_TO_OFFSET(nvdev->regions[i].index),
				    nvdev->regions[i].backed, true);
}

/**
 * nvgrace_gpu_region_info() - answer VFIO_DEVICE_GET_REGION_INFO for a region
 * @region: the region
 * @info: size, offset and flags are filled in
 * @caps: gets a sparse area of the bytes that are real memory, and so can be
 *	mapped; the VMM learns @region->backed from it
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENOMEM.
 */
int nvgrace_gpu_region_info(const struct nvgrace_gpu_region *region,
			    struct vfio_region_info *info,
			    struct vfio_info_cap *caps)
{
	struct vfio_region_info_cap_sparse_mmap *sparse;
	size_t size = struct_size(sparse, areas, 1);
	int ret;

	sparse = kzalloc(size, GFP_KERNEL);
	if (!sparse)
		return -ENOMEM;

	sparse->header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
	sparse->header.version = 1;
	sparse->nr_areas = 1;
	sparse->areas[0].size = region->backed;

	ret = vfio_info_add_capability(caps, &sparse->header, size);
	kfree(sparse);
	if (ret)
		return ret;

	info->offset = VFIO_PCI_INDEX_TO_OFFSET(region->index);
	info->size = region->bar_size;
	info->flags = VFIO_REGION_INFO_FLAG_READ |
		      VFIO_REGION_INFO_FLAG_WRITE |
		      VFIO_REGION_INFO_FLAG_MMAP;
	return 0;
}

/**
 * nvgrace_gpu_poison_to_pgoff() - where does a mapping show a poisoned page?
 * @vma: a mapping of the device
 * @pfn: the page
 * @pgoff: set to the page in the offsets of the mapped file, as @vma->vm_pgoff is
 *
 * mm calls this for the mappings of each process that it is about to kill, to send the
 * address along: of the process that used the page, and of those that asked to be
 * killed early. The driver remembers the page, for read() and write().
 *
 * The page stays mapped. A guest that uses it gets its SEA from the hardware and can
 * live on without the page; a fault that failed would stop the whole VM.
 *
 * Context: Atomic; mm holds i_mmap_rwsem and RCU's read lock.
 * Return: 0; -EFAULT if @vma does not cover the page.
 */
VISIBLE_IF_KUNIT int nvgrace_gpu_poison_to_pgoff(struct vm_area_struct *vma,
						 unsigned long pfn,
						 pgoff_t *pgoff)
{
	struct nvgrace_gpu_device *nvdev = to_nvdev(vma->vm_private_data);
	const struct nvgrace_gpu_region *region;
	unsigned long page;

	region = nvgrace_gpu_find_region(nvdev,
					 vma->vm_pgoff >> REGION_PGOFF_SHIFT);
	if (!region || pfn < PHYS_PFN(region->base))
		return -EFAULT;

	page = pfn - PHYS_PFN(region->base);
	if (page >= PHYS_PFN(region->backed))
		return -EFAULT;

	*pgoff = page + ((pgoff_t)region->index << REGION_PGOFF_SHIFT);
	if (*pgoff < vma->vm_pgoff || *pgoff >= vma->vm_pgoff + vma_pages(vma))
		return -EFAULT;

	/* If xa_store() finds no memory, read() and write() do not refuse the page. */
	if (!xa_store(&nvdev->poison.pages, pfn, xa_mk_value(1), GFP_ATOMIC)) {
		dev_err_ratelimited(&nvdev->core.pdev->dev,
				    "%s: page at offset %#llx is poisoned\n",
				    region->name, (u64)page << PAGE_SHIFT);
		schedule_work(&nvdev->notify);
	}
	return 0;
}

/**
 * nvgrace_gpu_watch_poison() - have mm notify the driver of poisoned pages
 * @nvdev: the device, which is being opened
 *
 * Context: Process context, may sleep.
 * Return: 0, also where the kernel cannot do that; -EBUSY if another driver has
 * registered a part of the memory, which is logged.
 */
int nvgrace_gpu_watch_poison(struct nvgrace_gpu_device *nvdev)
{
	while (nvdev->poison.nr_spaces < nvdev->nr_regions) {
		const struct nvgrace_gpu_region *region = &nvdev->regions[nvdev->poison.nr_spaces];
		struct pfn_address_space *space = &nvdev->poison.spaces[nvdev->poison.nr_spaces];
		int ret;

		*space = (struct pfn_address_space) {
			.node.start = PHYS_PFN(region->base),
			.node.last = PHYS_PFN(region->base + region->backed) - 1,
			.mapping = nvdev->core.vdev.inode->i_mapping,
			.pfn_to_vma_pgoff = nvgrace_gpu_poison_to_pgoff,
		};
		ret = register_pfn_address_space(space);
		if (ret == -EOPNOTSUPP)
			return 0;
		if (ret) {
			pci_err(nvdev->core.pdev,
				"%s: the memory is registered for memory failures already: %d\n",
				region->name, ret);
			nvgrace_gpu_unwatch_poison(nvdev);
			return ret;
		}
		nvdev->poison.nr_spaces++;
	}
	return 0;
}

/**
 * nvgrace_gpu_unwatch_poison() - undo nvgrace_gpu_watch_poison()
 * @nvdev: the device
 *
 * The driver remembers the poisoned pages that it knows, because they stay poisoned for
 * the next VFIO user.
 *
 * Context: Process context, may sleep.
 */
void nvgrace_gpu_unwatch_poison(struct nvgrace_gpu_device *nvdev)
{
	/* Only what was registered: mm does not check whose range it removes. */
	while (nvdev->poison.nr_spaces)
		unregister_pfn_address_space(&nvdev->poison.spaces[--nvdev->poison.nr_spaces]);
}
