// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test-only, for the host: /dev/mixedmap, a VM_MIXEDMAP mapping of memory that is
 * not the kernel's, which VFIO does not make. At offset 0 there are 2 MiB mapped
 * cacheable, then 2 MiB mapped write-combining.
 */
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>

static unsigned long base;
module_param(base, ulong, 0444);
MODULE_PARM_DESC(base, "physical address of the memory; it has no struct pages");

static vm_fault_t mixedmap_fault(struct vm_fault *vmf)
{
	return vmf_insert_pfn(vmf->vma, vmf->address, PHYS_PFN(base) + vmf->pgoff);
}

static const struct vm_operations_struct mixedmap_vm_ops = {
	.fault = mixedmap_fault,
};

static int mixedmap_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long size = vma->vm_end - vma->vm_start;

	if (size != SZ_2M || vma->vm_pgoff & ~PHYS_PFN(SZ_2M) ||
	    !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	vm_flags_set(vma, VM_MIXEDMAP | VM_IO | VM_DONTEXPAND | VM_DONTDUMP);
	if (vma->vm_pgoff)
		vma->vm_page_prot = pgprot_writecombine(vma->vm_page_prot);
	vma->vm_ops = &mixedmap_vm_ops;
	return 0;
}

static const struct file_operations mixedmap_fops = {
	.owner = THIS_MODULE,
	.mmap = mixedmap_mmap,
};

static struct miscdevice mixedmap = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "mixedmap",
	.fops = &mixedmap_fops,
};

/* What mm would BUG on is refused here. */
static int __init mixedmap_init(void)
{
	unsigned long pfn;

	for (pfn = PHYS_PFN(base); pfn < PHYS_PFN(base + SZ_4M); pfn++) {
		if (pfn_valid(pfn)) {
			pr_err("mixedmap: base=%#lx has struct pages\n", base);
			return -EINVAL;
		}
	}
	return misc_register(&mixedmap);
}
module_init(mixedmap_init);

static void __exit mixedmap_exit(void)
{
	misc_deregister(&mixedmap);
}
module_exit(mixedmap_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test-only: a VM_MIXEDMAP mapping of memory without struct pages");
