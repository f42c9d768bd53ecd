// SPDX-License-Identifier: GPL-2.0-only
/*
 * mmap() of a region: the checks, the VMA, the blocks that a fault maps, zaps, and poisoned
 * pages
 *
 * The mappings and the faults are real, in a file of the test's own. No test accesses the
 * mapped memory, so there need not be any.
 */
#include <kunit/resource.h>
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/slab.h>

#include "../../nvgrace_gpu.h"
#include "gate.h"

#define GIB(n)		((u64)(n) << 30)
/* No machine has anything there. It is aligned as firmware aligns it. */
#define BASE		(60ULL << 40)
#define BACKED		(GIB(1) + SZ_512M)
/* A user address that is aligned to every block. */
#define USER		BIT(40)

struct fixture {
	struct nvgrace_gpu_device nvdev;
	struct pci_dev pdev;
	struct file *file;
};

KUNIT_DEFINE_ACTION_WRAPPER(put_file, fput, struct file *);

static int test_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct fixture *f = file->private_data;
	const struct nvgrace_gpu_region *region;

	region = nvgrace_gpu_find_region(&f->nvdev, vma->vm_pgoff >>
					 (VFIO_PCI_OFFSET_SHIFT - PAGE_SHIFT));
	if (!region)
		return -ENXIO;

	return nvgrace_gpu_region_mmap(&f->nvdev, region, vma);
}

static const struct file_operations test_fops = {
	.owner = THIS_MODULE,
	.mmap = test_mmap,
};

static struct file *open_file(struct kunit *test, int flags)
{
	struct file *file;

	file = anon_inode_getfile("nvgrace_gpu", &test_fops, test->priv, flags);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, put_file, file), 0);
	return file;
}

static int fixture_init(struct kunit *test)
{
	struct fixture *f;

	f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f);
	test->priv = f;

	make_gate(test, &f->nvdev);
	xa_init(&f->nvdev.poison.pages);
	f->nvdev.gate.ready = NVGRACE_GPU_READY;
	f->pdev.dev.init_name = test->name;
	f->nvdev.core.pdev = &f->pdev;
	f->nvdev.nr_regions = 2;
	/* usemem has a hole of 512 MiB, resmem has none. */
	f->nvdev.regions[0] = (struct nvgrace_gpu_region) {
		.name = "usemem",
		.index = VFIO_PCI_BAR2_REGION_INDEX,
		.cacheable = true,
		.base = BASE,
		.backed = BACKED,
		.bar_size = GIB(2),
	};
	f->nvdev.regions[1] = (struct nvgrace_gpu_region) {
		.name = "resmem",
		.index = VFIO_PCI_BAR4_REGION_INDEX,
		.cacheable = false,
		.base = BASE + BACKED,
		.backed = GIB(1),
		.bar_size = GIB(1),
	};
	f->file = open_file(test, O_RDWR);
	f->nvdev.core.vdev.inode = file_inode(f->file);

	/* This gives the test a user address space. */
	KUNIT_ASSERT_NE(test, 0, kunit_vm_mmap(test, NULL, 0, PAGE_SIZE, PROT_READ,
					       MAP_ANONYMOUS | MAP_PRIVATE, 0));
	return 0;
}

static void fixture_exit(struct kunit *test)
{
	struct fixture *f = test->priv;

	if (f)
		xa_destroy(&f->nvdev.poison.pages);
}

/* ---- The checks ---- */

struct check_case {
	const char *name;
	u64 pos;
	u64 len;
	int ret;
};

static const struct check_case check_cases[] = {
	{ "first page", 0, PAGE_SIZE, 0 },
	{ "all of the memory", 0, BACKED, 0 },
	{ "last page", BACKED - PAGE_SIZE, PAGE_SIZE, 0 },
	{ "second page to the last", PAGE_SIZE, BACKED - PAGE_SIZE, 0 },
	{ "a page of the hole, too", 0, BACKED + PAGE_SIZE, -EINVAL },
	{ "a page of the hole, from the second", PAGE_SIZE, BACKED, -EINVAL },
	{ "the BAR", 0, GIB(2), -EINVAL },
	{ "first page of the hole", BACKED, PAGE_SIZE, -EINVAL },
	{ "last page of the BAR", GIB(2) - PAGE_SIZE, PAGE_SIZE, -EINVAL },
	{ "beyond the BAR", GIB(2), PAGE_SIZE, -EINVAL },
	{ "the last page there is", -(u64)PAGE_SIZE, PAGE_SIZE - 1, -EINVAL },
	{ "to 2^64", -(u64)PAGE_SIZE, PAGE_SIZE, -EOVERFLOW },
	{ "past 2^64", -(u64)PAGE_SIZE, 2 * PAGE_SIZE, -EOVERFLOW },
	{ "past 2^64 by the length", PAGE_SIZE, -(u64)PAGE_SIZE, -EOVERFLOW },
	{ "as far past 2^64 as can be", U64_MAX, U64_MAX, -EOVERFLOW },
};

KUNIT_ARRAY_PARAM_DESC(check, check_cases, name);

static void mmap_bounds(struct kunit *test)
{
	const struct check_case *c = test->param_value;
	struct fixture *f = test->priv;

	KUNIT_EXPECT_EQ(test, c->ret, nvgrace_gpu_mmap_check(&f->nvdev.regions[0],
							     c->pos, c->len));
}

/* ---- The VMA ---- */

/* Map at USER + SKEW. Returns the address or an errno. */
static long map(struct kunit *test, unsigned int bar, u64 pos,
		unsigned long skew, unsigned long len)
{
	struct fixture *f = test->priv;

	return vm_mmap(f->file, USER + skew, len, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_FIXED_NOREPLACE,
		       VFIO_PCI_INDEX_TO_OFFSET(bar) + pos);
}

struct vma_case {
	const char *name;
	int open_flags;
	unsigned long prot;
	unsigned long map_flags;
	int ret;
};

static const struct vma_case vma_cases[] = {
	{ "shared", O_RDWR, PROT_READ | PROT_WRITE, MAP_SHARED, 0 },
	{ "shared, to read", O_RDWR, PROT_READ, MAP_SHARED, 0 },
	{ "shared, to write", O_RDWR, PROT_WRITE, MAP_SHARED, 0 },
	{ "shared, for later", O_RDWR, PROT_NONE, MAP_SHARED, 0 },
	{ "shared, with all flags known", O_RDWR, PROT_READ | PROT_WRITE,
	  MAP_SHARED_VALIDATE | MAP_NORESERVE, 0 },
	{ "private", O_RDWR, PROT_READ | PROT_WRITE, MAP_PRIVATE, -EINVAL },
	{ "private, to read", O_RDWR, PROT_READ, MAP_PRIVATE, -EINVAL },
	{ "private, for later", O_RDWR, PROT_NONE, MAP_PRIVATE, -EINVAL },
	/* VM_MAYSHARE without VM_SHARED: mm takes it for one that is never written. */
	{ "shared, of a file open to read", O_RDONLY, PROT_READ, MAP_SHARED, -EINVAL },
	{ "private, of a file open to read", O_RDONLY, PROT_READ, MAP_PRIVATE, -EINVAL },
};

KUNIT_ARRAY_PARAM_DESC(vma, vma_cases, name);

static bool is_write_combining(pgprot_t prot)
{
	return pgprot_val(pgprot_writecombine(prot)) == pgprot_val(prot);
}

static void check_vma(struct kunit *test, unsigned long addr,
		      const struct nvgrace_gpu_region *region, u64 pos)
{
	const vm_flags_t flags = VM_IO | VM_PFNMAP | VM_DONTEXPAND |
				 VM_DONTDUMP | VM_HUGEPAGE;
	struct vm_area_struct *vma;

	mmap_read_lock(current->mm);
	vma = vma_lookup(current->mm, addr);
	KUNIT_EXPECT_NOT_NULL(test, vma);
	if (vma) {
		KUNIT_EXPECT_EQ(test, flags, vma->vm_flags & flags);
		KUNIT_EXPECT_EQ(test, 0, vma->vm_flags & VM_MIXEDMAP);
		/* resmem, and only that, is neither cacheable nor Device. */
		KUNIT_EXPECT_EQ(test, !region->cacheable,
				!!(vma->vm_flags & VM_ALLOW_ANY_UNCACHED));
		KUNIT_EXPECT_EQ(test, !region->cacheable,
				is_write_combining(vma->vm_page_prot));
		/* VFIO zaps by file offset, so the driver must not change it. */
		KUNIT_EXPECT_EQ(test, vma->vm_pgoff,
				(VFIO_PCI_INDEX_TO_OFFSET(region->index) + pos) >>
				PAGE_SHIFT);
	}
	mmap_read_unlock(current->mm);
}

static void vma_of_each_kind(struct kunit *test)
{
	const struct vma_case *c = test->param_value;
	struct file *file = open_file(test, c->open_flags);
	struct fixture *f = test->priv;
	int i;

	for (i = 0; i < 2; i++) {
		const struct nvgrace_gpu_region *region = &f->nvdev.regions[i];
		long ret;

		ret = vm_mmap(file, 0, SZ_2M, c->prot, c->map_flags,
			      VFIO_PCI_INDEX_TO_OFFSET(region->index) + SZ_512M);
		if (c->ret) {
			KUNIT_EXPECT_EQ(test, ret, c->ret);
			continue;
		}
		KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(ret));
		check_vma(test, ret, region, SZ_512M);
	}
}

/* mm would retry a fetch from an uncached page without end. */
static void resmem_is_not_executable(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct vm_area_struct *vma;

	KUNIT_EXPECT_EQ(test, -EPERM,
			vm_mmap(f->file, 0, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED,
				VFIO_PCI_INDEX_TO_OFFSET(4)));
	KUNIT_ASSERT_EQ(test, USER, map(test, 4, 0, 0, PAGE_SIZE));
	KUNIT_ASSERT_EQ(test, USER + PAGE_SIZE, map(test, 2, 0, PAGE_SIZE, PAGE_SIZE));

	mmap_read_lock(current->mm);
	vma = vma_lookup(current->mm, USER);
	KUNIT_EXPECT_TRUE(test, vma && !(vma->vm_flags & VM_MAYEXEC));
	vma = vma_lookup(current->mm, USER + PAGE_SIZE);
	/* Newer kernels forbid it for all anonymous inodes. */
	if (!(file_inode(f->file)->i_sb->s_iflags & SB_I_NOEXEC))
		KUNIT_EXPECT_TRUE(test, vma && (vma->vm_flags & VM_MAYEXEC));
	mmap_read_unlock(current->mm);
}

/* A mapping is checked against the memory of its own region. */
static void mapping_ends_with_the_memory(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, USER, map(test, 2, 0, 0, BACKED));
	vm_munmap(USER, BACKED);
	KUNIT_EXPECT_EQ(test, USER, map(test, 4, 0, 0, GIB(1)));
	vm_munmap(USER, GIB(1));
	KUNIT_EXPECT_EQ(test, USER, map(test, 2, BACKED - PAGE_SIZE, 0, PAGE_SIZE));
	vm_munmap(USER, PAGE_SIZE);

	KUNIT_EXPECT_EQ(test, -EINVAL, map(test, 2, 0, 0, BACKED + PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, -EINVAL, map(test, 4, 0, 0, GIB(1) + PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, -EINVAL, map(test, 2, BACKED, 0, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, -EINVAL, map(test, 4, PAGE_SIZE, 0, GIB(1)));
	/* The offset's last page: with the next one it would be another region. */
	KUNIT_EXPECT_EQ(test, -EINVAL,
			map(test, 2, BIT_ULL(VFIO_PCI_OFFSET_SHIFT) - PAGE_SIZE,
			    0, 2 * PAGE_SIZE));
}

/* ---- Faults ---- */

static int fault(unsigned long addr)
{
	int ret;

	mmap_read_lock(current->mm);
	ret = fixup_user_fault(current->mm, addr, FAULT_FLAG_WRITE, NULL);
	mmap_read_unlock(current->mm);
	return ret;
}

/* The physical address of the page that is mapped at an address, or 0. */
static phys_addr_t mapped(struct kunit *test, unsigned long addr)
{
	struct follow_pfnmap_args args = { .address = addr };
	phys_addr_t phys = 0;

	mmap_read_lock(current->mm);
	args.vma = vma_lookup(current->mm, addr);
	if (args.vma && !follow_pfnmap_start(&args)) {
		phys = PFN_PHYS(args.pfn);
		KUNIT_EXPECT_TRUE(test, args.writable);
		/* x86 has its own table of memory types. */
		if (IS_ENABLED(CONFIG_ARM64))
			KUNIT_EXPECT_EQ(test, is_write_combining(args.pgprot),
					is_write_combining(args.vma->vm_page_prot));
		follow_pfnmap_end(&args);
	}
	mmap_read_unlock(current->mm);
	return phys;
}

/* The first and last page of [start, end) are mapped, those around it not. */
static void expect_mapped(struct kunit *test, unsigned long start,
			  unsigned long end, phys_addr_t phys)
{
	KUNIT_EXPECT_EQ(test, mapped(test, start), phys);
	KUNIT_EXPECT_EQ(test, mapped(test, end - PAGE_SIZE),
			phys + (end - PAGE_SIZE - start));
	KUNIT_EXPECT_EQ(test, mapped(test, start - PAGE_SIZE), 0);
	KUNIT_EXPECT_EQ(test, mapped(test, end), 0);
}

static void need_huge_entries(struct kunit *test)
{
	if (!IS_ENABLED(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP))
		kunit_skip(test, "this kernel has no huge entries for PFN maps");
}

static void fault_maps_a_block(struct kunit *test)
{
	unsigned long block = USER + PMD_SIZE;

	need_huge_entries(test);
	KUNIT_ASSERT_EQ(test, USER, map(test, 2, 0, 0, 3 * PMD_SIZE));
	KUNIT_EXPECT_EQ(test, fault(block + 5 * PAGE_SIZE), 0);
	expect_mapped(test, block, block + PMD_SIZE, BASE + PMD_SIZE);
}

static void fault_maps_a_block_of_resmem(struct kunit *test)
{
	need_huge_entries(test);
	KUNIT_ASSERT_EQ(test, USER, map(test, 4, PMD_SIZE, 0, PMD_SIZE));
	KUNIT_EXPECT_EQ(test, fault(USER + PMD_SIZE - 1), 0);
	expect_mapped(test, USER, USER + PMD_SIZE, BASE + BACKED + PMD_SIZE);
}

/* The address is a page off from the memory, so no block fits. */
static void fault_fills_its_table_where_alignment_differs(struct kunit *test)
{
	unsigned long addr = USER + PMD_SIZE;

	KUNIT_ASSERT_EQ(test, USER + PAGE_SIZE,
			map(test, 2, 0, PAGE_SIZE, 3 * PMD_SIZE - PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, fault(addr), 0);
	expect_mapped(test, addr, addr + PMD_SIZE, BASE + PMD_SIZE - PAGE_SIZE);
}

/* Address and memory are aligned alike, but the VMA begins and ends within a block. */
static void fault_fills_its_table_at_the_edges(struct kunit *test)
{
	unsigned long last = USER + 3 * PMD_SIZE - 2 * PAGE_SIZE;

	KUNIT_ASSERT_EQ(test, USER + PAGE_SIZE,
			map(test, 2, PAGE_SIZE, PAGE_SIZE,
			    3 * PMD_SIZE - 2 * PAGE_SIZE));

	KUNIT_EXPECT_EQ(test, fault(USER + 5 * PAGE_SIZE), 0);
	expect_mapped(test, USER + PAGE_SIZE, USER + PMD_SIZE, BASE + PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, fault(USER + 2 * PMD_SIZE + 5 * PAGE_SIZE), 0);
	expect_mapped(test, USER + 2 * PMD_SIZE, last + PAGE_SIZE, BASE + 2 * PMD_SIZE);
}

/* A fault does not map a poisoned neighbour, which a fault of its own maps. */
static void fault_leaves_poisoned_neighbours(struct kunit *test)
{
	struct fixture *f = test->priv;
	unsigned long addr = USER + PMD_SIZE;
	phys_addr_t phys = BASE + PMD_SIZE - PAGE_SIZE;
	struct xarray *bad = &f->nvdev.poison.pages;

	KUNIT_ASSERT_EQ(test, USER + PAGE_SIZE,
			map(test, 2, 0, PAGE_SIZE, 3 * PMD_SIZE - PAGE_SIZE));
	KUNIT_ASSERT_FALSE(test, xa_is_err(xa_store(bad, PHYS_PFN(phys) + 3, xa_mk_value(1),
						    GFP_KERNEL)));
	KUNIT_EXPECT_EQ(test, fault(addr + 5 * PAGE_SIZE), 0);
	KUNIT_EXPECT_EQ(test, mapped(test, addr + 2 * PAGE_SIZE), phys + 2 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, mapped(test, addr + 3 * PAGE_SIZE), 0);
	KUNIT_EXPECT_EQ(test, mapped(test, addr + 4 * PAGE_SIZE), phys + 4 * PAGE_SIZE);

	KUNIT_EXPECT_EQ(test, fault(addr + 3 * PAGE_SIZE), 0);
	KUNIT_EXPECT_EQ(test, mapped(test, addr + 3 * PAGE_SIZE), phys + 3 * PAGE_SIZE);
	xa_destroy(bad);
}

static void block_between_the_edges(struct kunit *test)
{
	unsigned long block = USER + PMD_SIZE;

	need_huge_entries(test);
	KUNIT_ASSERT_EQ(test, USER + PAGE_SIZE,
			map(test, 2, PAGE_SIZE, PAGE_SIZE,
			    3 * PMD_SIZE - 2 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, fault(block), 0);
	expect_mapped(test, block, block + PMD_SIZE, BASE + PMD_SIZE);
}

/* The last page of memory, with nothing after it. */
static void fault_maps_the_last_page(struct kunit *test)
{
	KUNIT_ASSERT_EQ(test, USER,
			map(test, 4, GIB(1) - PAGE_SIZE, 0, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, fault(USER), 0);
	expect_mapped(test, USER, USER + PAGE_SIZE,
		      BASE + BACKED + GIB(1) - PAGE_SIZE);
}

struct awake_case {
	const char *name;
	pci_power_t state;
	bool runtime_suspended;
	int ret;
};

static const struct awake_case awake_cases[] = {
	{ "D0", PCI_D0, false, 0 },
	{ "D2", PCI_D2, false, 0 },
	{ "D3hot", PCI_D3hot, false, -EFAULT },
	{ "D3cold", PCI_D3cold, false, -EFAULT },
	{ "runtime suspend", PCI_D0, true, -EFAULT },
	{ "runtime suspend in D3cold", PCI_D3cold, true, -EFAULT },
};

KUNIT_ARRAY_PARAM_DESC(awake, awake_cases, name);

/* A fault is SIGBUS while the device sleeps, and then works. */
static void fault_by_power_state(struct kunit *test)
{
	const struct awake_case *c = test->param_value;
	struct fixture *f = test->priv;

	KUNIT_ASSERT_EQ(test, USER, map(test, 2, 0, 0, PAGE_SIZE));

	f->pdev.current_state = c->state;
	f->nvdev.core.pm_runtime_engaged = c->runtime_suspended;
	KUNIT_EXPECT_EQ(test, fault(USER), c->ret);
	KUNIT_EXPECT_EQ(test, mapped(test, USER), c->ret ? 0 : BASE);

	f->pdev.current_state = PCI_D0;
	f->nvdev.core.pm_runtime_engaged = false;
	KUNIT_EXPECT_EQ(test, fault(USER), 0);
	KUNIT_EXPECT_EQ(test, mapped(test, USER), BASE);
}

static void fault_without_a_region(struct kunit *test)
{
	struct fixture *f = test->priv;

	KUNIT_ASSERT_EQ(test, USER, map(test, 2, 0, 0, PAGE_SIZE));
	f->nvdev.nr_regions = 0;
	KUNIT_EXPECT_EQ(test, fault(USER), -EFAULT);
}

/* ---- Zapping ---- */

static void fault_after_zap(struct kunit *test)
{
	const unsigned long usemem = USER, resmem = USER + GIB(2);
	struct fixture *f = test->priv;

	KUNIT_ASSERT_EQ(test, usemem, map(test, 2, BACKED - PAGE_SIZE, 0, PAGE_SIZE));
	KUNIT_ASSERT_EQ(test, resmem, map(test, 4, 0, GIB(2), PAGE_SIZE));
	KUNIT_ASSERT_EQ(test, fault(usemem), 0);
	KUNIT_ASSERT_EQ(test, fault(resmem), 0);

	nvgrace_gpu_zap_regions(&f->nvdev);
	KUNIT_EXPECT_EQ(test, mapped(test, usemem), 0);
	KUNIT_EXPECT_EQ(test, mapped(test, resmem), 0);

	KUNIT_EXPECT_EQ(test, fault(usemem), 0);
	KUNIT_EXPECT_EQ(test, fault(resmem), 0);
	KUNIT_EXPECT_EQ(test, mapped(test, usemem), BASE + BACKED - PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, mapped(test, resmem), BASE + BACKED);

	/* Without a carve-out the other BAR is the device's own. */
	f->nvdev.nr_regions = 1;
	nvgrace_gpu_zap_regions(&f->nvdev);
	KUNIT_EXPECT_EQ(test, mapped(test, usemem), 0);
	KUNIT_EXPECT_EQ(test, mapped(test, resmem), BASE + BACKED);
}

static int fake_read_status(struct nvgrace_gpu_device *nvdev, struct nvgrace_gpu_status *status)
{
	return 0;
}

static bool fake_is_present(struct pci_dev *pdev)
{
	return true;
}

struct zap_case {
	const char *name;
	bool announced;
	bool late;	/* the gate gives up the reset, and a fault maps the memory */
};

static const struct zap_case zap_cases[] = {
	{ "reset", true, false },
	{ "reset that was not announced", false, false },
	{ "reset that takes too long", true, true },
};

KUNIT_ARRAY_PARAM_DESC(zap, zap_cases, name);

/* However a reset comes, nothing that was mapped before its end stays mapped. */
static void reset_zaps(struct kunit *test)
{
	const struct zap_case *c = test->param_value;
	struct fixture *f = test->priv;

	dev_set_drvdata(&f->pdev.dev, &f->nvdev.core);
	spin_lock_init(&f->nvdev.bar_lock);
	f->nvdev.is_open = true;
	kunit_activate_static_stub(test, nvgrace_gpu_read_status, fake_read_status);
	kunit_activate_static_stub(test, nvgrace_gpu_is_present, fake_is_present);
	f->nvdev.gate.ready = NVGRACE_GPU_TRAINING;

	KUNIT_ASSERT_EQ(test, USER, map(test, 2, 0, 0, PAGE_SIZE));
	KUNIT_ASSERT_EQ(test, fault(USER), 0);
	if (c->announced) {
		nvgrace_gpu_err_handlers.reset_prepare(&f->pdev);
		KUNIT_EXPECT_EQ(test, mapped(test, USER), 0);
	}
	if (c->late) {
		f->nvdev.gate.deadline = jiffies;
		KUNIT_ASSERT_EQ(test, fault(USER), 0);
		KUNIT_EXPECT_EQ(test, mapped(test, USER), BASE);
	}
	nvgrace_gpu_err_handlers.reset_done(&f->pdev);
	KUNIT_EXPECT_EQ(test, mapped(test, USER), 0);
	KUNIT_EXPECT_EQ(test, fault(USER), 0);
	KUNIT_EXPECT_EQ(test, mapped(test, USER), BASE);
}

/* ---- Poisoned pages ---- */

/* Do as mm does with a poisoned page, for the mapping at an address. */
static int notify(struct kunit *test, unsigned long addr, phys_addr_t phys,
		  pgoff_t *pgoff)
{
	struct vm_area_struct *vma;
	int ret = -ENOENT;

	mmap_read_lock(current->mm);
	vma = vma_lookup(current->mm, addr);
	KUNIT_EXPECT_NOT_NULL(test, vma);
	if (vma)
		ret = nvgrace_gpu_poison_to_pgoff(vma, PHYS_PFN(phys), pgoff);
	mmap_read_unlock(current->mm);
	return ret;
}

struct pgoff_case {
	const char *name;
	unsigned int bar;
	phys_addr_t phys;
	int ret;
	u64 offset;
};

/* Two pages of a BAR are mapped, and the last page of its memory follows. */
#define MAPPED(backed)	((backed) - 3 * PAGE_SIZE)

static const struct pgoff_case pgoff_cases[] = {
	{ "first page", 2, BASE + MAPPED(BACKED), 0, MAPPED(BACKED) },
	{ "last page", 2, BASE + MAPPED(BACKED) + PAGE_SIZE, 0, MAPPED(BACKED) + PAGE_SIZE },
	{ "the page before", 2, BASE + MAPPED(BACKED) - PAGE_SIZE, -EFAULT },
	{ "the page after", 2, BASE + BACKED - PAGE_SIZE, -EFAULT },
	{ "the other region's first page", 2, BASE + BACKED, -EFAULT },
	{ "the region's first page", 2, BASE, -EFAULT },
	{ "the page before the region", 2, BASE - PAGE_SIZE, -EFAULT },
	{ "the first page there is", 2, 0, -EFAULT },
	{ "first page of resmem", 4, BASE + BACKED + MAPPED(GIB(1)), 0, MAPPED(GIB(1)) },
	{ "last page of resmem", 4, BASE + BACKED + MAPPED(GIB(1)) + PAGE_SIZE, 0,
	  MAPPED(GIB(1)) + PAGE_SIZE },
	{ "the page after all memory", 4, BASE + BACKED + GIB(1), -EFAULT },
	{ "the page before resmem", 4, BASE + BACKED - PAGE_SIZE, -EFAULT },
};

KUNIT_ARRAY_PARAM_DESC(pgoff, pgoff_cases, name);

static void poison_to_pgoff(struct kunit *test)
{
	const struct pgoff_case *c = test->param_value;
	u64 backed = c->bar == 2 ? BACKED : GIB(1);
	struct fixture *f = test->priv;
	pgoff_t pgoff = 0;

	KUNIT_ASSERT_EQ(test, USER,
			map(test, c->bar, MAPPED(backed), 0, 2 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, notify(test, USER, c->phys, &pgoff), c->ret);
	if (!c->ret)
		KUNIT_EXPECT_EQ(test, (u64)pgoff << PAGE_SHIFT,
				VFIO_PCI_INDEX_TO_OFFSET(c->bar) + c->offset);
	/* The driver remembers a page of the mapping, and no other. */
	KUNIT_EXPECT_EQ(test, !c->ret, !xa_empty(&f->nvdev.poison.pages));
	KUNIT_EXPECT_EQ(test, !c->ret,
			!!xa_load(&f->nvdev.poison.pages, PHYS_PFN(c->phys)));
}

static void poison_in_foreign_vma(struct kunit *test)
{
	struct fixture *f = test->priv;
	pgoff_t pgoff;

	KUNIT_ASSERT_EQ(test, USER, map(test, 2, 0, 0, PAGE_SIZE));
	f->nvdev.nr_regions = 0;
	KUNIT_EXPECT_EQ(test, notify(test, USER, BASE, &pgoff), -EFAULT);
	KUNIT_EXPECT_TRUE(test, xa_empty(&f->nvdev.poison.pages));
}

/* A block and a page map it. Both stay, and after a zap faults map it again. */
static void poisoned_page_stays_mapped(struct kunit *test)
{
	const unsigned long maps[] = { USER, USER + GIB(2) };
	const unsigned long at = 3 * PAGE_SIZE;
	struct fixture *f = test->priv;
	pgoff_t pgoff;
	int i;

	KUNIT_ASSERT_EQ(test, maps[0], map(test, 2, 0, 0, PMD_SIZE));
	KUNIT_ASSERT_EQ(test, maps[1], map(test, 2, at, GIB(2), PAGE_SIZE));
	KUNIT_ASSERT_EQ(test, fault(maps[0] + at), 0);
	KUNIT_ASSERT_EQ(test, fault(maps[1]), 0);

	/* mm may notify for each process that has it mapped. */
	KUNIT_ASSERT_EQ(test, notify(test, maps[0], BASE + at, &pgoff), 0);
	KUNIT_ASSERT_EQ(test, notify(test, maps[1], BASE + at, &pgoff), 0);
	KUNIT_EXPECT_EQ(test, mapped(test, maps[0] + at), BASE + at);
	KUNIT_EXPECT_EQ(test, mapped(test, maps[1]), BASE + at);

	for (i = 0; i < 2; i++) {
		nvgrace_gpu_zap_regions(&f->nvdev);
		KUNIT_ASSERT_EQ(test, mapped(test, maps[0] + at), 0);
		KUNIT_EXPECT_EQ(test, fault(maps[0] + at), 0);
		KUNIT_EXPECT_EQ(test, fault(maps[1]), 0);
		KUNIT_EXPECT_EQ(test, mapped(test, maps[0] + at), BASE + at);
		KUNIT_EXPECT_EQ(test, mapped(test, maps[1]), BASE + at);
	}

	/* A block maps it as before, so its neighbours lose nothing. */
	need_huge_entries(test);
	expect_mapped(test, USER, USER + PMD_SIZE, BASE);
}

/* mm takes n regions, or none if the kernel does not notify drivers of poisoned pages. */
#if defined(NVGRACE_GPU_HAVE_PFN_ADDRESS_SPACE) && IS_ENABLED(CONFIG_MEMORY_FAILURE)
#define TAKES(n)	(n)
#else
#define TAKES(n)	0
#endif

/* The driver registers both regions with mm, and takes both back. */
static void register_unregister_pfns(struct kunit *test)
{
	struct fixture *f = test->priv;
	int again;

	for (again = 0; again < 2; again++) {
		KUNIT_EXPECT_EQ(test, nvgrace_gpu_watch_poison(&f->nvdev), 0);
		KUNIT_EXPECT_EQ(test, f->nvdev.poison.nr_spaces, TAKES(2));
		nvgrace_gpu_unwatch_poison(&f->nvdev);
		KUNIT_EXPECT_EQ(test, f->nvdev.poison.nr_spaces, 0);
	}
}

/* Only its second region conflicts, and the first one must not stay registered. */
static void register_pfns_conflict(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct nvgrace_gpu_device *other;

	other = kunit_kzalloc(test, sizeof(*other), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, other);
	other->core.pdev = &f->pdev;
	other->core.vdev.inode = f->nvdev.core.vdev.inode;
	memcpy(other->regions, f->nvdev.regions, sizeof(other->regions));
	other->nr_regions = 2;
	other->regions[0].base = BASE + GIB(16);

	KUNIT_ASSERT_EQ(test, nvgrace_gpu_watch_poison(&f->nvdev), 0);
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_watch_poison(other), TAKES(1) ? -EBUSY : 0);
	KUNIT_EXPECT_EQ(test, other->poison.nr_spaces, 0);

	other->nr_regions = 1;
	KUNIT_EXPECT_EQ(test, nvgrace_gpu_watch_poison(other), 0);
	KUNIT_EXPECT_EQ(test, other->poison.nr_spaces, TAKES(1));
	nvgrace_gpu_unwatch_poison(other);

	KUNIT_EXPECT_EQ(test, f->nvdev.poison.nr_spaces, TAKES(2));
	nvgrace_gpu_unwatch_poison(&f->nvdev);
}

/* ---- Region info ---- */

KUNIT_DEFINE_ACTION_WRAPPER(free_caps, kfree, const void *);

static void region_info_sparse_mmap(struct kunit *test)
{
	struct vfio_region_info_cap_sparse_mmap *sparse;
	struct fixture *f = test->priv;
	int i;

	for (i = 0; i < 2; i++) {
		const struct nvgrace_gpu_region *region = &f->nvdev.regions[i];
		struct vfio_region_info info = {};
		struct vfio_info_cap caps = {};

		KUNIT_ASSERT_EQ(test, nvgrace_gpu_region_info(region, &info, &caps), 0);
		KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, free_caps,
								caps.buf), 0);
		KUNIT_EXPECT_EQ(test, info.size, region->bar_size);
		KUNIT_EXPECT_EQ(test, info.offset,
				VFIO_PCI_INDEX_TO_OFFSET(region->index));
		KUNIT_EXPECT_EQ(test, info.flags, VFIO_REGION_INFO_FLAG_READ |
				VFIO_REGION_INFO_FLAG_WRITE |
				VFIO_REGION_INFO_FLAG_MMAP);

		sparse = (void *)caps.buf;
		KUNIT_ASSERT_EQ(test, caps.size, struct_size(sparse, areas, 1));
		KUNIT_EXPECT_EQ(test, sparse->header.id,
				VFIO_REGION_INFO_CAP_SPARSE_MMAP);
		KUNIT_EXPECT_EQ(test, sparse->header.version, 1);
		KUNIT_EXPECT_EQ(test, sparse->header.next, 0);
		KUNIT_EXPECT_EQ(test, sparse->nr_areas, 1);
		KUNIT_EXPECT_EQ(test, sparse->areas[0].offset, 0);
		KUNIT_EXPECT_EQ(test, sparse->areas[0].size, region->backed);
	}
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(mmap_bounds, check_gen_params),
	KUNIT_CASE_PARAM(vma_of_each_kind, vma_gen_params),
	KUNIT_CASE(resmem_is_not_executable),
	KUNIT_CASE(mapping_ends_with_the_memory),
	KUNIT_CASE(fault_maps_a_block),
	KUNIT_CASE(fault_maps_a_block_of_resmem),
	KUNIT_CASE(fault_fills_its_table_where_alignment_differs),
	KUNIT_CASE(fault_fills_its_table_at_the_edges),
	KUNIT_CASE(fault_leaves_poisoned_neighbours),
	KUNIT_CASE(block_between_the_edges),
	KUNIT_CASE(fault_maps_the_last_page),
	KUNIT_CASE_PARAM(fault_by_power_state, awake_gen_params),
	KUNIT_CASE(fault_without_a_region),
	KUNIT_CASE(fault_after_zap),
	KUNIT_CASE_PARAM(reset_zaps, zap_gen_params),
	KUNIT_CASE_PARAM(poison_to_pgoff, pgoff_gen_params),
	KUNIT_CASE(poison_in_foreign_vma),
	KUNIT_CASE(poisoned_page_stays_mapped),
	KUNIT_CASE(register_unregister_pfns),
	KUNIT_CASE(register_pfns_conflict),
	KUNIT_CASE(region_info_sparse_mmap),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_mmap",
	.init = fixture_init,
	.exit = fixture_exit,
	.test_cases = cases,
};

kunit_test_suite(suite);
