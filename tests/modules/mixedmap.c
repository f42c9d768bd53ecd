// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test-only, for the host: /dev/mixedmap, mappings that VFIO does not make. Each is
 * 2 MiB long and at the offset of its place in kinds[], times 2 MiB.
 *
 * All but one are of memory at BASE that is not the kernel's. A fault on a
 * stalled one releases the mmap lock and waits for a write() to the device, so that
 * the mapping can be replaced meanwhile; read() waits for such a fault.
 */
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>

static unsigned long base;
module_param(base, ulong, 0444);
MODULE_PARM_DESC(base, "physical address of the memory; it has no struct pages");

enum behaviour { DEVICE, RAM, STALLED };

static const struct kind {
	unsigned long vm_flags;
	bool wc_vma;
	bool wc_entries;
	enum behaviour behaviour;
} kinds[] = {
	{ VM_MIXEDMAP, false, false, DEVICE },
	{ VM_MIXEDMAP, true, true, DEVICE },
	{ VM_MIXEDMAP, true, false, DEVICE },
	{ VM_MIXEDMAP, false, true, DEVICE },
	{ VM_PFNMAP, true, false, DEVICE },
	{ VM_PFNMAP, false, true, DEVICE },
	{ VM_PFNMAP, false, false, RAM },
	{ VM_PFNMAP, false, false, STALLED },
	{ VM_PFNMAP, true, true, STALLED },
};

#define KIND_SIZE	SZ_2M

/* Kernel memory for RAM: single pages, each with a reference of its own. */
static void *ram;

static DECLARE_WAIT_QUEUE_HEAD(stall);
static bool stalled, released;

static vm_fault_t stalled_fault(struct vm_fault *vmf)
{
	if (!(vmf->flags & FAULT_FLAG_ALLOW_RETRY) ||
	    vmf->flags & (FAULT_FLAG_RETRY_NOWAIT | FAULT_FLAG_TRIED))
		return VM_FAULT_SIGBUS;

	release_fault_lock(vmf);
	WRITE_ONCE(released, false);
	WRITE_ONCE(stalled, true);
	wake_up_all(&stall);
	wait_event_timeout(stall, READ_ONCE(released), 10 * HZ);
	return VM_FAULT_RETRY;
}

static vm_fault_t mixedmap_fault(struct vm_fault *vmf)
{
	const struct kind *kind = vmf->vma->vm_private_data;
	unsigned long offset = vmf->address - vmf->vma->vm_start;
	pgprot_t prot;
	unsigned long pfn = PHYS_PFN(base) + vmf->pgoff;

	switch (kind->behaviour) {
	case STALLED:
		return stalled_fault(vmf);
	case RAM:
		pfn = vmalloc_to_pfn(ram + (offset & PAGE_MASK));
		break;
	case DEVICE:
		break;
	}
	prot = vm_get_page_prot(vmf->vma->vm_flags);
	if (kind->wc_entries)
		prot = pgprot_writecombine(prot);
	return vmf_insert_pfn_prot(vmf->vma, vmf->address, pfn, prot);
}

static const struct vm_operations_struct mixedmap_vm_ops = {
	.fault = mixedmap_fault,
};

static int mixedmap_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long nr = vma->vm_pgoff / PHYS_PFN(KIND_SIZE);
	const struct kind *kind = &kinds[nr];

	if (vma->vm_end - vma->vm_start != KIND_SIZE ||
	    vma->vm_pgoff % PHYS_PFN(KIND_SIZE) || nr >= ARRAY_SIZE(kinds))
		return -EINVAL;
	if (!(vma->vm_flags & VM_SHARED) && kind->behaviour != STALLED)
		return -EINVAL;
	vm_flags_set(vma, kind->vm_flags | VM_IO | VM_DONTEXPAND | VM_DONTDUMP);
	if (kind->wc_vma)
		vma->vm_page_prot = pgprot_writecombine(vma->vm_page_prot);
	vma->vm_private_data = (void *)kind;
	vma->vm_ops = &mixedmap_vm_ops;
	return 0;
}

static ssize_t mixedmap_read(struct file *file, char __user *buf, size_t count,
			     loff_t *ppos)
{
	if (!wait_event_timeout(stall, READ_ONCE(stalled), 10 * HZ))
		return -ETIMEDOUT;
	WRITE_ONCE(stalled, false);
	return 0;
}

static ssize_t mixedmap_write(struct file *file, const char __user *buf,
			      size_t count, loff_t *ppos)
{
	WRITE_ONCE(released, true);
	wake_up_all(&stall);
	return count;
}

static const struct file_operations mixedmap_fops = {
	.owner = THIS_MODULE,
	.mmap = mixedmap_mmap,
	.read = mixedmap_read,
	.write = mixedmap_write,
};

static struct miscdevice mixedmap = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "mixedmap",
	.fops = &mixedmap_fops,
};

/* Refuse a mapping on which mm would BUG. */
static int __init mixedmap_init(void)
{
	unsigned long pfn, end = PHYS_PFN(base + ARRAY_SIZE(kinds) * KIND_SIZE);
	int ret;

	for (pfn = PHYS_PFN(base); pfn < end; pfn++) {
		if (pfn_valid(pfn)) {
			pr_err("mixedmap: base=%#lx has struct pages\n", base);
			return -EINVAL;
		}
	}
	ram = vmalloc_user(KIND_SIZE);
	if (!ram)
		return -ENOMEM;
	ret = misc_register(&mixedmap);
	if (ret)
		vfree(ram);
	return ret;
}
module_init(mixedmap_init);

static void __exit mixedmap_exit(void)
{
	misc_deregister(&mixedmap);
	vfree(ram);
}
module_exit(mixedmap_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test-only: mappings that VFIO does not make, for KVM to judge");
