// SPDX-License-Identifier: GPL-2.0-only
/*
 * Extended GPU memory (EGM): a part of a socket's DRAM as the RAM of a guest
 *
 * Firmware sets it apart for a socket, and names it in the _DSD of each GPU there, which
 * reach it over NVLink-C2C. The kernel does not use it. A VMM maps /dev/egm<pxm>: the first
 * mmap() makes its file the owner, until that file's last mapping and descriptor are gone.
 * Then threads write zeroes for the next owner, whose first mmap() waits for what they have
 * not written yet.
 *
 * A reset of a GPU does not change this memory, so neither the gate nor a zap concerns it. But
 * a GPU that is open may still write to it, so the threads begin when the region's GPUs are
 * closed, and reset, too.
 */
#include <linux/bitmap.h>
#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/ioport.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/property.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "nvgrace_gpu.h"
#include "nvgrace_gpu_egm.h"

/* Firmware retires so much at a time, whatever the size of the kernel's pages is. */
#define RETIRED_BLOCK	((u64)SZ_64K)

/* The list has room for so many, after their count. NVIDIA's firmware defines both. */
#define RETIRED_MAX	4096

/* Zeroes written before a thread looks whether it has to end. */
#define ZERO_BLOCK	((size_t)SZ_2M)

#define EGM_MINORS	(MINORMASK + 1)

/**
 * struct nvgrace_gpu_egm - an EGM region, and its node
 * @dev: of class egm
 * @cdev: the node
 * @list: entry in egm_regions
 * @users: GPUs that name the region, and open files; egm_lock guards it
 * @pxm: its proximity domain in ACPI
 * @region: the memory
 * @gpus_lock: guards @gpus
 * @gpus: the GPUs that name the region
 * @owner: the file that may map the memory, or NULL; set by cmpxchg
 * @own_lock: serializes the mmaps of @owner
 * @in_use: @owner may have mapped and changed the memory; changed by @owner only
 * @needs_zeroes: an owner has gone, and @zeroing was not started since; the task that clears this
 *	by xchg starts it
 * @zeroing: writes zeroes when the node is made, and after each owner
 * @dirty: windows that may hold something else than zeroes, a bit each: a fault sets it, and
 *	@zeroing clears it
 * @zeroed: bytes that @zeroing is done with, for sysfs
 * @bad_pages: pages that firmware has retired, and those that mm has notified the driver of, by
 *	pfn; has its own lock
 * @space: the memory as mm's memory failure code knows it, while @in_use
 * @is_watched: @space is registered
 */
struct nvgrace_gpu_egm {
	struct device dev;
	struct cdev cdev;
	struct list_head list;
	unsigned int users;
	u32 pxm;
	struct nvgrace_gpu_region region;
	spinlock_t gpus_lock;	/* guards gpus */
	struct list_head gpus;
	struct file *owner;
	struct mutex own_lock;	/* serializes the mmaps of owner */
	bool in_use;
	bool needs_zeroes;
	struct nvgrace_gpu_zeroing zeroing;
	unsigned long *dirty;
	atomic64_t zeroed;
	struct xarray bad_pages;
	struct pfn_address_space space;
	bool is_watched;
};

/* Guards the list and the regions' users, from before a region is found until it is gone. */
static DEFINE_MUTEX(egm_lock);
static LIST_HEAD(egm_regions);
static DEFINE_IDA(egm_minors);
static dev_t egm_devt;

static size_t nr_windows(const struct nvgrace_gpu_egm *egm)
{
	return DIV_ROUND_UP(egm->region.backed, NVGRACE_GPU_WINDOW);
}

static int zero_piece(struct nvgrace_gpu_zeroing *zeroing, unsigned long nr)
{
	struct nvgrace_gpu_egm *egm = container_of(zeroing, struct nvgrace_gpu_egm, zeroing);
	size_t start, len, done;
	void *window;

	if (nr >= nr_windows(egm))
		return -ENODATA;

	start = nr * NVGRACE_GPU_WINDOW;
	len = min_t(size_t, NVGRACE_GPU_WINDOW, egm->region.backed - start);
	if (!test_bit(nr, egm->dirty)) {
		atomic64_add(len, &egm->zeroed);
		return 0;
	}
	window = nvgrace_gpu_map_window(egm->region.base + start, len, true);
	if (!window)
		return -ENOMEM;

	/* Bad pages are written like all others, because writing does not consume poison. */
	for (done = 0; done < len && !READ_ONCE(zeroing->error); done += ZERO_BLOCK) {
		size_t block = min(ZERO_BLOCK, len - done);

		memset(window + done, 0, block);
		atomic64_add(block, &egm->zeroed);
		cond_resched();
	}
	memunmap(window);
	if (done >= len)
		clear_bit(nr, egm->dirty);
	return 0;
}

/* From now on the memory does not count as zeroes, though the threads may begin later. */
static void need_zeroes(struct nvgrace_gpu_egm *egm)
{
	atomic64_set(&egm->zeroed, 0);
	WRITE_ONCE(egm->zeroing.result, -EINPROGRESS);
	WRITE_ONCE(egm->needs_zeroes, true);
}

static void start_zeroing(struct nvgrace_gpu_egm *egm)
{
	atomic64_set(&egm->zeroed, 0);
	nvgrace_gpu_zeroing_start(&egm->zeroing, dev_to_node(&egm->dev));
}

/* Whatever the fault maps can be written from now on, by its task and by devices. */
static void mark_dirty(struct nvgrace_gpu_egm *egm, unsigned long pfn, unsigned int order)
{
	const u64 size = max(PAGE_SIZE << order, PMD_SIZE);
	u64 start = PFN_PHYS(pfn) - egm->region.base;
	size_t window = (start > size ? start - size : 0) / NVGRACE_GPU_WINDOW;

	for (; window < nr_windows(egm) && window * NVGRACE_GPU_WINDOW < start + size; window++) {
		if (!test_bit(window, egm->dirty))
			set_bit(window, egm->dirty);
	}
}

static vm_fault_t egm_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	struct vm_area_struct *vma = vmf->vma;
	struct nvgrace_gpu_egm *egm = vma->vm_private_data;
	unsigned long addr = ALIGN_DOWN(vmf->address, PAGE_SIZE << order);
	unsigned long pfn = PHYS_PFN(egm->region.base) + vma->vm_pgoff +
			    ((addr - vma->vm_start) >> PAGE_SHIFT);

	if (!nvgrace_gpu_block_fits(vma, addr, pfn, order))
		return VM_FAULT_FALLBACK;
	mark_dirty(egm, pfn, order);
	return nvgrace_gpu_insert(&egm->bad_pages, vmf, pfn, order);
}

static vm_fault_t egm_fault(struct vm_fault *vmf)
{
	return egm_huge_fault(vmf, 0);
}

static const struct vm_operations_struct egm_vm_ops = {
	.fault = egm_fault,
#ifdef CONFIG_ARCH_SUPPORTS_HUGE_PFNMAP
	.huge_fault = egm_huge_fault,
#endif
};

/*
 * mm calls this for the mappings of each process that it is about to kill, in atomic context. As
 * with usemem, the page stays mapped: a guest gets its SEA from the hardware.
 */
static int poison_to_pgoff(struct vm_area_struct *vma, unsigned long pfn, pgoff_t *pgoff)
{
	struct nvgrace_gpu_egm *egm = vma->vm_private_data;
	unsigned long first;

	if (vma->vm_ops != &egm_vm_ops)
		return -EFAULT;
	first = PHYS_PFN(egm->region.base) + vma->vm_pgoff;
	if (pfn < first || pfn - first >= vma_pages(vma))
		return -EFAULT;

	*pgoff = pfn - PHYS_PFN(egm->region.base);
	if (!xa_store(&egm->bad_pages, pfn, xa_mk_value(1), GFP_ATOMIC))
		dev_err_ratelimited(&egm->dev, "page at offset %#llx is poisoned\n",
				    (u64)*pgoff << PAGE_SHIFT);
	return 0;
}

/* All mappings are those of the owner's file. */
static int watch_poison(struct nvgrace_gpu_egm *egm, struct file *file)
{
	int ret;

	egm->space = (struct pfn_address_space) {
		.node.start = PHYS_PFN(egm->region.base),
		.node.last = PHYS_PFN(egm->region.base + egm->region.backed) - 1,
		.mapping = file->f_mapping,
		.pfn_to_vma_pgoff = poison_to_pgoff,
	};
	ret = register_pfn_address_space(&egm->space);
	egm->is_watched = !ret;
	if (ret == -EOPNOTSUPP)
		return 0;
	if (ret)
		dev_err_ratelimited(&egm->dev,
				    "the memory is registered for memory failures already: %d\n",
				    ret);
	return ret;
}

/*
 * Wait for the zeroes, with the mmap lock held. If they could not be written, write them once more.
 * The task does not freeze here: others that wait for the lock could not, either.
 */
static int wait_for_zeroes(struct nvgrace_gpu_egm *egm)
{
	int ret;

	if (xchg(&egm->needs_zeroes, false))
		start_zeroing(egm);
	ret = nvgrace_gpu_zeroing_wait(&egm->zeroing, TASK_KILLABLE);
	if (!ret || ret == -ERESTARTSYS)
		return ret;
	start_zeroing(egm);
	return nvgrace_gpu_zeroing_wait(&egm->zeroing, TASK_KILLABLE);
}

/* Make FILE the owner, unless another one is. */
static int own(struct nvgrace_gpu_egm *egm, struct file *file)
{
	struct file *owner = cmpxchg(&egm->owner, NULL, file);
	int ret = 0;

	if (owner && owner != file)
		return -EBUSY;
	if (mutex_lock_killable(&egm->own_lock))
		return -EINTR;
	if (!egm->in_use) {
		ret = wait_for_zeroes(egm);
		if (!ret)
			ret = watch_poison(egm, file);
		if (!ret)
			WRITE_ONCE(egm->in_use, true);
	}
	mutex_unlock(&egm->own_lock);
	return ret;
}

static int egm_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct nvgrace_gpu_egm *egm = file->private_data;
	int ret;

	ret = nvgrace_gpu_prepare_vma(&egm->region, PFN_PHYS(vma->vm_pgoff), vma);
	if (!ret)
		ret = own(egm, file);
	if (ret)
		return ret;

	vma->vm_private_data = egm;
	vma->vm_ops = &egm_vm_ops;
	return 0;
}

static loff_t egm_llseek(struct file *file, loff_t offset, int whence)
{
	struct nvgrace_gpu_egm *egm = file->private_data;

	return fixed_size_llseek(file, offset, whence, egm->region.backed);
}

static unsigned long count_bad_pages(struct nvgrace_gpu_egm *egm)
{
	unsigned long pfn, count = 0;
	void *page;

	xa_for_each(&egm->bad_pages, pfn, page)
		count++;
	return count;
}

/* Returns 0, and then HEAD says how many entries there are, or how much room they need. */
static int list_bad_pages(struct nvgrace_gpu_egm *egm, struct egm_bad_pages_list *head,
			  struct egm_bad_pages_list __user *list)
{
	u64 size = sizeof(*head) + count_bad_pages(egm) * sizeof(*head->entries);
	unsigned long pfn;
	u32 count = 0;
	void *page;

	head->count = 0;
	if (size > U32_MAX)
		return -EOVERFLOW;
	if (size > head->argsz)
		goto out_size;

	xa_for_each(&egm->bad_pages, pfn, page) {
		struct egm_bad_pages_entry entry = {
			.offset = PFN_PHYS(pfn) - egm->region.base,
			.size = PAGE_SIZE,
		};

		/* One may have been poisoned meanwhile. */
		size = struct_size(head, entries, count + 1);
		if (size > head->argsz)
			goto out_size;
		if (copy_to_user(&list->entries[count++], &entry, sizeof(entry)))
			return -EFAULT;
	}
	head->count = count;
	return 0;

out_size:
	head->argsz = size;
	return 0;
}

/* User space that knows other drivers of EGM gets -EFAULT before the command is checked. */
static long egm_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct egm_bad_pages_list __user *list = (void __user *)arg;
	struct egm_bad_pages_list head;
	int ret;

	if (copy_from_user(&head, list, sizeof(head)))
		return -EFAULT;
	if (cmd != EGM_BAD_PAGES_LIST || head.argsz < sizeof(head))
		return -EINVAL;

	ret = list_bad_pages(file->private_data, &head, list);
	if (!ret && copy_to_user(list, &head, sizeof(head)))
		ret = -EFAULT;
	return ret;
}

static void release_memory(const struct nvgrace_gpu_region *region)
{
	release_mem_region(region->base, region->backed);
}

/* Request memory. A failure is logged. */
static int claim_memory(struct device *dev, const char *property,
			const struct nvgrace_gpu_region *region)
{
	const struct resource *claim;
	int ret;

	claim = request_mem_region(region->base, region->backed, KBUILD_MODNAME);
	ret = nvgrace_gpu_check_claim(dev, property, region, claim, true);
	if (ret && claim)
		release_memory(region);
	return ret;
}

static struct nvgrace_gpu_egm *to_egm(struct device *dev)
{
	return container_of(dev, struct nvgrace_gpu_egm, dev);
}

static ssize_t egm_size_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "0x%zx\n", to_egm(dev)->region.backed);
}
static DEVICE_ATTR_RO(egm_size);

static ssize_t gpu_devices_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct nvgrace_gpu_egm *egm = to_egm(dev);
	struct nvgrace_gpu_device *nvdev;
	int len = 0;

	spin_lock(&egm->gpus_lock);
	list_for_each_entry(nvdev, &egm->gpus, egm_gpu)
		len += sysfs_emit_at(buf, len, "%s\n", pci_name(nvdev->core.pdev));
	spin_unlock(&egm->gpus_lock);
	return len;
}
static DEVICE_ATTR_RO(gpu_devices);

static ssize_t state_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct nvgrace_gpu_egm *egm = to_egm(dev);
	int result;

	/* Pairs with that of egm_release(). */
	if (smp_load_acquire(&egm->in_use))
		return sysfs_emit(buf, "in use\n");
	result = READ_ONCE(egm->zeroing.result);
	if (result == -EINPROGRESS)
		return sysfs_emit(buf, "zeroing %lld of %zu\n", (s64)atomic64_read(&egm->zeroed),
				  egm->region.backed);
	return result ? sysfs_emit(buf, "failed %d\n", result) : sysfs_emit(buf, "zeroed\n");
}
static DEVICE_ATTR_RO(state);

static struct attribute *egm_attrs[] = {
	&dev_attr_egm_size.attr,
	&dev_attr_gpu_devices.attr,
	&dev_attr_state.attr,
	NULL
};
ATTRIBUTE_GROUPS(egm);

static void egm_release_dev(struct device *dev)
{
	struct nvgrace_gpu_egm *egm = to_egm(dev);

	nvgrace_gpu_zeroing_destroy(&egm->zeroing);
	bitmap_free(egm->dirty);
	xa_destroy(&egm->bad_pages);
	if (dev->devt)
		ida_free(&egm_minors, MINOR(dev->devt));
	kfree(egm->region.name);
	kfree(egm);
}

static const struct class egm_class = {
	.name = "egm",
	.dev_groups = egm_groups,
	.dev_release = egm_release_dev,
};

/* The class and the minors of the nodes are there while there is a region. */
static int add_class(struct device *dev)
{
	int ret = alloc_chrdev_region(&egm_devt, 0, EGM_MINORS, "egm");

	if (!ret) {
		ret = class_register(&egm_class);
		if (ret)
			unregister_chrdev_region(egm_devt, EGM_MINORS);
	}
	if (ret)
		dev_err(dev, "cannot make the class egm, which another driver may have: %d\n", ret);
	return ret;
}

static void del_class(void)
{
	class_unregister(&egm_class);
	unregister_chrdev_region(egm_devt, EGM_MINORS);
}

static void destroy_egm(struct nvgrace_gpu_egm *egm)
{
	if (device_is_registered(&egm->dev))
		cdev_device_del(&egm->cdev, &egm->dev);
	nvgrace_gpu_zeroing_stop(&egm->zeroing);
	release_memory(&egm->region);
	list_del(&egm->list);
	put_device(&egm->dev);
	if (list_empty(&egm_regions))
		del_class();
}

static void put_egm(struct nvgrace_gpu_egm *egm)
{
	lockdep_assert_held(&egm_lock);
	if (!--egm->users)
		destroy_egm(egm);
}

static int egm_open(struct inode *inode, struct file *file)
{
	struct nvgrace_gpu_egm *egm = container_of(inode->i_cdev, struct nvgrace_gpu_egm, cdev);
	int ret = -ENXIO;

	if (mutex_lock_killable(&egm_lock))
		return -EINTR;
	/* The last user may just have gone. */
	if (egm->users) {
		egm->users++;
		file->private_data = egm;
		ret = 0;
	}
	mutex_unlock(&egm_lock);
	return ret;
}

/* Start it if it is needed, nobody owns the memory, and no GPU may still write to it. */
static void start_when_idle(struct nvgrace_gpu_egm *egm)
{
	struct nvgrace_gpu_device *nvdev;

	lockdep_assert_held(&egm_lock);
	if (READ_ONCE(egm->owner))
		return;
	list_for_each_entry(nvdev, &egm->gpus, egm_gpu) {
		if (READ_ONCE(nvdev->is_open))
			return;
	}
	if (xchg(&egm->needs_zeroes, false))
		start_zeroing(egm);
}

static int egm_release(struct inode *inode, struct file *file)
{
	struct nvgrace_gpu_egm *egm = file->private_data;

	if (READ_ONCE(egm->owner) == file) {
		if (egm->is_watched)
			unregister_pfn_address_space(&egm->space);
		egm->is_watched = false;
		if (egm->in_use)
			need_zeroes(egm);
		/* Pairs with that of state_show(). */
		smp_store_release(&egm->in_use, false);
		/* Pairs with cmpxchg() in own(). */
		smp_store_release(&egm->owner, NULL);
	}
	mutex_lock(&egm_lock);
	start_when_idle(egm);
	put_egm(egm);
	mutex_unlock(&egm_lock);
	return 0;
}

static const struct file_operations egm_fops = {
	.owner = THIS_MODULE,
	.open = egm_open,
	.release = egm_release,
	.mmap = egm_mmap,
	.llseek = egm_llseek,
	.unlocked_ioctl = egm_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/* Firmware names all blocks of the socket: some lie outside the region, or cross its end. */
static int retire_block(struct nvgrace_gpu_egm *egm, u64 addr)
{
	const u64 base = egm->region.base, end = base + egm->region.backed;
	unsigned long pfn, last;
	u64 first;

	/* The region ends far below the largest u64, and so do the sums. */
	if (addr >= end)
		return 0;
	first = max(ALIGN_DOWN(addr, RETIRED_BLOCK), base);
	last = PHYS_PFN(min(ALIGN(addr + RETIRED_BLOCK, RETIRED_BLOCK), end) - 1);
	for (pfn = PHYS_PFN(first); pfn <= last; pfn++) {
		int ret = xa_err(xa_store(&egm->bad_pages, pfn, xa_mk_value(1), GFP_KERNEL));

		if (ret)
			return ret;
	}
	return 0;
}

/*
 * Read NR entries of the list, after their count. The claim holds while they are read: the list
 * must not be memory that something else uses, such as the region itself.
 */
static int read_list(struct nvgrace_gpu_egm *egm, struct device *dev, u64 list, u64 nr,
		     u64 *count)
{
	const struct nvgrace_gpu_region region = {
		.name = "the list of retired blocks", .base = list, .backed = 8 * (1 + nr),
	};
	const __le64 *words;
	u64 i;
	int ret;

	if (region_intersects(list, region.backed, IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT)
		return dev_err_probe(dev, -EBUSY, "%s: 0x%llx lies in System RAM\n",
				     NVGRACE_GPU_PROP_EGM_RETIRED, list);
	ret = claim_memory(dev, NVGRACE_GPU_PROP_EGM_RETIRED, &region);
	if (ret)
		return ret;

	ret = -ENOMEM;
	words = nvgrace_gpu_map_window(list, region.backed, true);
	if (words) {
		*count = le64_to_cpu(words[0]);
		for (ret = 0, i = 1; i <= nr && !ret; i++)
			ret = retire_block(egm, le64_to_cpu(words[i]));
		memunmap((void *)words);
	}
	release_memory(&region);
	return ret;
}

/*
 * Each GPU of a socket has a copy of the list. Where no block is retired firmware may have
 * reserved less than the whole list takes, so the count is read first.
 */
static int read_retired(struct nvgrace_gpu_egm *egm, struct device *dev, u64 list)
{
	u64 count = 0;
	int ret;

	if (!list)
		return 0;
	if (!IS_ALIGNED(list, 8) || list > BIT_ULL(MAX_PHYSMEM_BITS) - 8 * (1 + RETIRED_MAX))
		return dev_err_probe(dev, -EINVAL,
				     "%s: 0x%llx is not an address that a list can have\n",
				     NVGRACE_GPU_PROP_EGM_RETIRED, list);
	ret = read_list(egm, dev, list, 0, &count);
	if (ret || !count)
		return ret;
	if (count > RETIRED_MAX)
		return dev_err_probe(dev, -EINVAL,
				     "%s: 0x%llx: the list has 0x%llx blocks, the most is 0x%x\n",
				     NVGRACE_GPU_PROP_EGM_RETIRED, list, count, RETIRED_MAX);
	return read_list(egm, dev, list, count, &count);
}

static bool overlap(u64 base, u64 size, const struct nvgrace_gpu_range *range)
{
	if (!size)
		return false;
	return base < range->base ? range->base - base < size : base - range->base < range->size;
}

static bool read_three(struct device *dev, u64 *base, u64 *size, u64 *pxm)
{
	return !device_property_read_u64(dev, NVGRACE_GPU_PROP_EGM_BASE, base) &&
	       !device_property_read_u64(dev, NVGRACE_GPU_PROP_EGM_SIZE, size) &&
	       !device_property_read_u64(dev, NVGRACE_GPU_PROP_EGM_PXM, pxm);
}

/* Does firmware say something of OTHER that contradicts INFO? */
static int check_against(struct device *dev, const struct nvgrace_gpu_egm_info *info,
			 struct device *other)
{
	const struct nvgrace_gpu_range *range = &info->range;
	u64 base, size, pxm;

	if (!device_property_read_u64(other, NVGRACE_GPU_PROP_BASE, &base) &&
	    !device_property_read_u64(other, NVGRACE_GPU_PROP_SIZE, &size) &&
	    overlap(base, size, range))
		return dev_err_probe(dev, -EBUSY,
				     "%s: 0x%llx + %s 0x%zx overlaps the memory of %s\n",
				     NVGRACE_GPU_PROP_EGM_BASE, (u64)range->base,
				     NVGRACE_GPU_PROP_EGM_SIZE, range->size, dev_name(other));

	if (!read_three(other, &base, &size, &pxm))
		return 0;
	if (pxm != info->pxm && overlap(base, size, range))
		return dev_err_probe(dev, -EINVAL, "%s: %u, but %s says %llu for the same memory\n",
				     NVGRACE_GPU_PROP_EGM_PXM, info->pxm, dev_name(other), pxm);
	if (pxm == info->pxm && base != range->base)
		return dev_err_probe(dev, -EINVAL, "%s: 0x%llx, but %s says 0x%llx for %s %u\n",
				     NVGRACE_GPU_PROP_EGM_BASE, (u64)range->base, dev_name(other),
				     base, NVGRACE_GPU_PROP_EGM_PXM, info->pxm);
	if (pxm == info->pxm && size != range->size)
		return dev_err_probe(dev, -EINVAL, "%s: 0x%zx, but %s says 0x%llx for %s %u\n",
				     NVGRACE_GPU_PROP_EGM_SIZE, range->size, dev_name(other), size,
				     NVGRACE_GPU_PROP_EGM_PXM, info->pxm);
	return 0;
}

/*
 * If two GPUs contradict each other, the driver cannot know which one is right. So it compares with
 * every PCI device, bound or not, and refuses the region.
 */
static int check_against_all(struct device *dev, const struct nvgrace_gpu_egm_info *info)
{
	struct pci_dev *pdev = NULL;
	int ret;

	for_each_pci_dev(pdev) {
		ret = check_against(dev, info, &pdev->dev);
		if (ret) {
			pci_dev_put(pdev);
			return ret;
		}
	}
	return 0;
}

static struct nvgrace_gpu_egm *create_egm(struct device *dev,
					  const struct nvgrace_gpu_egm_info *info)
{
	struct nvgrace_gpu_egm *egm;
	int ret;

	if (list_empty(&egm_regions)) {
		ret = add_class(dev);
		if (ret)
			return ERR_PTR(ret);
	}
	ret = -ENOMEM;
	egm = kzalloc(sizeof(*egm), GFP_KERNEL);
	if (!egm)
		goto out_class;
	device_initialize(&egm->dev);
	egm->dev.class = &egm_class;
	set_dev_node(&egm->dev, dev_to_node(dev));
	spin_lock_init(&egm->gpus_lock);
	INIT_LIST_HEAD(&egm->gpus);
	mutex_init(&egm->own_lock);
	xa_init(&egm->bad_pages);
	egm->zeroing.zero_piece = zero_piece;
	egm->pxm = info->pxm;
	egm->region.cacheable = true;
	egm->region.base = info->range.base;
	egm->region.backed = info->range.size;

	/* Nobody knows what it holds. */
	egm->dirty = bitmap_alloc(nr_windows(egm), GFP_KERNEL);
	egm->region.name = kasprintf(GFP_KERNEL, "egm%u", info->pxm);
	if (!egm->dirty || !egm->region.name || nvgrace_gpu_zeroing_init(&egm->zeroing))
		goto out_put;
	bitmap_fill(egm->dirty, nr_windows(egm));
	ret = dev_set_name(&egm->dev, "%s", egm->region.name);
	if (ret)
		goto out_put;
	ret = ida_alloc_max(&egm_minors, EGM_MINORS - 1, GFP_KERNEL);
	if (ret < 0)
		goto out_put;
	egm->dev.devt = MKDEV(MAJOR(egm_devt), ret);
	ret = claim_memory(dev, NVGRACE_GPU_PROP_EGM_BASE, &egm->region);
	if (ret)
		goto out_put;

	cdev_init(&egm->cdev, &egm_fops);
	egm->cdev.owner = THIS_MODULE;
	egm->users = 1;
	list_add(&egm->list, &egm_regions);
	return egm;

out_put:
	put_device(&egm->dev);
out_class:
	if (list_empty(&egm_regions))
		del_class();
	return ERR_PTR(ret);
}

/* The region of this proximity domain, with one more user. */
static struct nvgrace_gpu_egm *get_egm(struct device *dev,
				       const struct nvgrace_gpu_egm_info *info)
{
	struct nvgrace_gpu_egm *egm;
	int ret;

	ret = check_against_all(dev, info);
	if (ret)
		return ERR_PTR(ret);

	list_for_each_entry(egm, &egm_regions, list) {
		if (egm->pxm != info->pxm)
			continue;
		/* A node in use keeps its region after its GPUs have left the bus. */
		if (egm->region.base != info->range.base ||
		    egm->region.backed != info->range.size) {
			dev_err_probe(dev, -EBUSY,
				      "%s: /dev/%s is still in use, with the values of a GPU that is off the bus\n",
				      NVGRACE_GPU_PROP_EGM_PXM, egm->region.name);
			return ERR_PTR(-EBUSY);
		}
		egm->users++;
		return egm;
	}
	return create_egm(dev, info);
}

/* Make the node, complete, when its first GPU comes. */
static int add_node(struct nvgrace_gpu_egm *egm, struct device *dev)
{
	int ret;

	if (device_is_registered(&egm->dev))
		return 0;
	start_zeroing(egm);
	ret = cdev_device_add(&egm->cdev, &egm->dev);
	if (ret)
		return dev_err_probe(dev, ret, "%s: cannot make the node\n", egm->region.name);
	dev_info(dev, "%s [mem %#llx-%#llx] is /dev/%s, firmware has retired %#lx bytes of it\n",
		 egm->region.name, (u64)egm->region.base,
		 (u64)egm->region.base + egm->region.backed - 1, egm->region.name,
		 count_bad_pages(egm) << PAGE_SHIFT);
	return 0;
}

static void del_gpu(struct nvgrace_gpu_egm *egm, struct nvgrace_gpu_device *nvdev)
{
	spin_lock(&egm->gpus_lock);
	list_del(&nvdev->egm_gpu);
	spin_unlock(&egm->gpus_lock);
}

static int add_gpu(struct nvgrace_gpu_egm *egm, struct nvgrace_gpu_device *nvdev)
{
	struct pci_dev *pdev = nvdev->core.pdev;
	int ret;

	spin_lock(&egm->gpus_lock);
	list_add_tail(&nvdev->egm_gpu, &egm->gpus);
	spin_unlock(&egm->gpus_lock);

	ret = add_node(egm, &pdev->dev);
	if (!ret)
		ret = sysfs_create_link(&egm->dev.kobj, &pdev->dev.kobj, pci_name(pdev));
	if (ret) {
		del_gpu(egm, nvdev);
		return ret;
	}
	kobject_uevent(&egm->dev.kobj, KOBJ_CHANGE);
	return 0;
}

/**
 * nvgrace_gpu_egm_attach() - serve the EGM region that firmware names for a GPU
 * @nvdev: the GPU, bound
 *
 * If firmware says something wrong of it, that is logged, and the GPU stays bound without it.
 *
 * Context: Process context, may sleep.
 */
void nvgrace_gpu_egm_attach(struct nvgrace_gpu_device *nvdev)
{
	struct device *dev = &nvdev->core.pdev->dev;
	struct nvgrace_gpu_egm_info info;
	struct nvgrace_gpu_egm *egm;
	int ret;

	if (nvgrace_gpu_acpi_egm(dev, &info))
		return;

	mutex_lock(&egm_lock);
	egm = get_egm(dev, &info);
	ret = PTR_ERR_OR_ZERO(egm);
	if (!ret) {
		ret = read_retired(egm, dev, info.retired);
		if (!ret)
			ret = add_gpu(egm, nvdev);
		if (ret)
			put_egm(egm);
		else
			nvdev->egm = egm;
	}
	mutex_unlock(&egm_lock);
	if (ret == -ENOMEM)
		dev_err(dev, "no memory for the EGM region of this GPU\n");
}

/**
 * nvgrace_gpu_egm_detach() - undo nvgrace_gpu_egm_attach()
 * @nvdev: the GPU, which is being unbound
 *
 * The region stays while other GPUs name it, or its node is open or mapped.
 *
 * Context: Process context, may sleep.
 */
void nvgrace_gpu_egm_detach(struct nvgrace_gpu_device *nvdev)
{
	struct nvgrace_gpu_egm *egm = nvdev->egm;

	if (!egm)
		return;
	mutex_lock(&egm_lock);
	nvdev->egm = NULL;
	del_gpu(egm, nvdev);
	sysfs_remove_link(&egm->dev.kobj, pci_name(nvdev->core.pdev));
	kobject_uevent(&egm->dev.kobj, KOBJ_CHANGE);
	put_egm(egm);
	mutex_unlock(&egm_lock);
}

/**
 * nvgrace_gpu_egm_gpu_closed() - write zeroes that had to wait for a GPU
 * @nvdev: the GPU, which VFIO has closed and reset
 *
 * Context: Process context, may sleep.
 */
void nvgrace_gpu_egm_gpu_closed(struct nvgrace_gpu_device *nvdev)
{
	mutex_lock(&egm_lock);
	if (nvdev->egm)
		start_when_idle(nvdev->egm);
	mutex_unlock(&egm_lock);
}
