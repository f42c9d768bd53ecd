// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM and the mapping under a memslot, without QEMU: the memslot is made or moved, its flags
 * change, or the VMM swaps the mapping under it.
 *
 * The GPU has a BAR0 of its own. PFNMAP says how KVM on this host has to treat cacheable
 * device memory: "map" it, "refuse" it, or "device", as an unpatched 6.12 does. With "mte"
 * the VM has MTE, and the tests to run begin with mte_.
 *
 * The variable KVM names the kernel: "6.12" as packaged, 6.12 with the "series", or the
 * "newest". Only the series refuses copy-on-write device memory and checks the entry of a
 * mapping, where the newest checks the VMA.
 */
#include <linux/udmabuf.h>
#include <pthread.h>
#include <signal.h>

#include "fixture.h"
#include "kvm.h"

static const struct program program = {
	.what = "KVM and the mapping under a memslot",
	.vars = {
		VAR_BDF, VAR_REGIONS,
		{ "PFNMAP", "cacheable device memory: map, refuse, device; or mte", "map" },
		{ "KVM", "whose KVM it is: 6.12, series or newest", "newest" },
	},
};

/* The size of a memslot, and of each kind in mixedmap.ko: a block where pages are of 4 KiB. */
#define SLOT		MIB(2)

#define CODE_GPA	0x40000000UL	/* memslot 0: code for the vCPU */
#define DATA_GPA	0x80000000UL	/* memslot 1: the mapping under test */
#define MOVED_GPA	0xc0000000UL
#define DONE_GPA	0x10000000UL	/* not there: a store ends the run */

#define LOAD		0x000		/* offsets of the routines in the code */
#define STORE		0x040
#define CALL		0x080
#define SPIN		0x0c0
#define VECTORS		0x800

#define ABORTED		0xabadUL

/* From MIXED_WB on they are those of mixedmap.ko, and from STALLED on they map nothing. */
enum mapping {
	ANON, USEMEM_WB, RESMEM_WC, BAR0, COW, MIXED_WB, MIXED_WC, MIXED_WB_ENTRIES,
	MIXED_WC_ENTRIES, PFNMAP_WB_ENTRIES, PFNMAP_WC_ENTRIES, PFNMAP_RAM,
	NR_MAPPINGS, STALLED = NR_MAPPINGS, STALLED_WC, STALLED_COW,
};

static const char * const mapping_names[] = {
	"anonymous", "usemem", "resmem", "BAR0", "copy-on-write PFNMAP",
	"cacheable MIXEDMAP", "write-combining MIXEDMAP",
	"write-combining MIXEDMAP with cacheable entries",
	"cacheable MIXEDMAP with write-combining entries",
	"write-combining PFNMAP with cacheable entries",
	"cacheable PFNMAP with write-combining entries",
	"cacheable PFNMAP of the kernel's memory",
	"stalled PFNMAP", "stalled write-combining PFNMAP", "stalled copy-on-write PFNMAP",
};

static bool pfnmap_is(const char *what)
{
	return env_is("PFNMAP", what);
}

FIXTURE(vma)
{
	struct vfio v;
	int fd;
	struct vm vm;
	void *code, *data;
};

/* A routine uses [x1], and stores its result, x0, to DONE_GPA in x2. */
static void put(void *code, unsigned int at, uint32_t a, uint32_t b)
{
	const uint32_t text[] = { a, b, 0xf9000040 /* str x0, [x2] */, 0x14000000 };

	memcpy(code + at, text, sizeof(text));
}

/* The guest spins for a value, and then writes that to DONE_GPA. */
static void put_spin(void *code)
{
	const uint32_t text[] = {
		0xf9400023 /* ldr x3, [x1] */, 0xeb00007f /* cmp x3, x0 */,
		0x54ffffc1 /* b.ne -8 */, 0xf9000040 /* str x0, [x2] */, 0x14000000,
	};

	memcpy(code + SPIN, text, sizeof(text));
}

static int set_slot(const struct vm *vm, unsigned int slot, uint64_t gpa, void *hva, uint32_t flags)
{
	return vm_set_slot(vm, slot, gpa, hva, hva ? SLOT : 0, flags);
}

/* Set where the vCPU begins, and its first registers. */
static void set_regs(struct __test_metadata *_metadata, const struct vm *vm,
		     unsigned int routine, uint64_t x0, uint64_t x1)
{
	ASSERT_EQ(0, vm_set_reg(vm, CORE_REG(regs.pc), CODE_GPA + routine));
	ASSERT_EQ(0, vm_set_reg(vm, CORE_REG(regs.pstate), PSTATE_EL1H));
	ASSERT_EQ(0, vm_set_reg(vm, CORE_REG(regs.regs[0]), x0));
	ASSERT_EQ(0, vm_set_reg(vm, CORE_REG(regs.regs[1]), x1));
	ASSERT_EQ(0, vm_set_reg(vm, CORE_REG(regs.regs[2]), DONE_GPA));
	/* VBAR_EL1 */
	ASSERT_EQ(0, vm_set_reg(vm, ARM64_SYS_REG(3, 0, 12, 0, 0), CODE_GPA + VECTORS));
}

FIXTURE_SETUP(vma)
{
	uint16_t command = PCI_COMMAND_MEMORY;
	void *p;

	ASSERT_EQ(0, access("/dev/kvm", F_OK))
		TH_LOG("no /dev/kvm: the kernel has no KVM, or the CPU no EL2");
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	ASSERT_EQ(2, pwrite(self->fd, &command, 2, CONFIG + PCI_COMMAND));

	ASSERT_EQ(0, vm_open(&self->vm, pfnmap_is("mte")));
	p = mmap(NULL, 4 * SLOT, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	self->code = (void *)(((uintptr_t)p + SLOT - 1) & ~(SLOT - 1));
	self->data = self->code + SLOT;

	put(self->code, LOAD, 0xf9400020 /* ldr x0, [x1] */, 0xd503201f);
	put(self->code, STORE, 0xf9000020 /* str x0, [x1] */, 0xd503201f);
	put(self->code, CALL, 0xd63f0020 /* blr x1 */, 0xd503201f);
	put_spin(self->code);
	put(self->code, VECTORS + 0x200, 0xd2800000 | (ABORTED << 5) /* mov x0, #ABORTED */,
	    0xd503201f);
	__builtin___clear_cache(self->code, self->code + SLOT);
	ASSERT_EQ(0, set_slot(&self->vm, 0, CODE_GPA, self->code, 0));
}

FIXTURE_TEARDOWN(vma)
{
	vm_close(&self->vm);
	munmap(self->data, SLOT);
	vfio_close(&self->v);
}

/* Memory in a mapping that KVM takes for a device's, as graphics drivers make it; or -1. */
static int open_udmabuf(struct __test_metadata *_metadata)
{
	struct udmabuf_create create = { .size = SLOT };
	int memfd, device, fd;

	device = open("/dev/udmabuf", O_RDWR);
	if (device < 0)
		return -1;
	memfd = memfd_create("udmabuf", MFD_ALLOW_SEALING);
	ASSERT_LE(0, memfd);
	ASSERT_EQ(0, ftruncate(memfd, SLOT));
	ASSERT_EQ(0, fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
	create.memfd = memfd;
	fd = ioctl(device, UDMABUF_CREATE, &create);
	ASSERT_LE(0, fd) TH_LOG("udmabuf: %s", strerror(errno));
	close(memfd);
	close(device);
	return fd;
}

/* Put a mapping of this kind in place of the data. */
static void map_as(struct __test_metadata *_metadata, FIXTURE_DATA(vma) * self,
		   enum mapping kind)
{
	const int prot = PROT_READ | PROT_WRITE;
	int fd = self->fd;
	uint64_t off = 0;
	int flags = MAP_FIXED | MAP_SHARED;
	void *p;

	switch (kind) {
	case ANON:
		flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
		fd = -1;
		break;
	case USEMEM_WB:
		off = self->v.regions[USEMEM].off;
		break;
	case RESMEM_WC:
		off = self->v.regions[RESMEM].off;
		break;
	case BAR0:
		break;
	case COW:
		/* VFIO has none to offer; /dev/mem has. Beyond the GPU's memory. */
		fd = open("/dev/mem", O_RDWR);
		ASSERT_LE(0, fd);
		off = 0x80000000000;
		flags = MAP_FIXED | MAP_PRIVATE;
		break;
	case PFNMAP_RAM:
		/* From udmabuf where the kernel has it. */
		fd = open_udmabuf(_metadata);
		if (fd >= 0)
			break;
		__attribute__((__fallthrough__));
	default:
		if (kind == STALLED_COW) {
			flags = MAP_FIXED | MAP_PRIVATE;
			kind = STALLED;
		}
		fd = open("/dev/mixedmap", O_RDWR);
		ASSERT_LE(0, fd);
		off = (kind - MIXED_WB) * SLOT;
		break;
	}
	p = mmap(self->data, SLOT, prot, flags, fd, off);
	ASSERT_EQ(self->data, p) TH_LOG("%s: %s", mapping_names[kind], strerror(errno));
	if (fd >= 0 && fd != self->fd)
		close(fd);
}

/* 0 and the result of the routine, or what KVM_RUN failed with. */
static int run(struct __test_metadata *_metadata, FIXTURE_DATA(vma) * self,
	       unsigned int routine, uint64_t gpa, uint64_t *x0)
{
	int ret;

	set_regs(_metadata, &self->vm, routine, *x0, gpa);
	ret = vm_run(&self->vm);
	if (ret)
		return ret;
	EXPECT_EQ(KVM_EXIT_MMIO, self->vm.run->exit_reason);
	EXPECT_EQ(DONE_GPA, self->vm.run->mmio.phys_addr);
	*x0 = vm_complete_store(&self->vm);
	return 0;
}

/* Is a mapping of this kind refused for memslots? */
static bool refused(enum mapping kind)
{
	switch (kind) {
	case COW:
		return env_is("KVM", "series");
	case USEMEM_WB:
		return pfnmap_is("refuse");
	case PFNMAP_WC_ENTRIES:
	case PFNMAP_RAM:
		return env_is("KVM", "newest") && pfnmap_is("refuse");
	default:
		return false;
	}
}

/* Is it refused when the guest accesses it? The kernel's own memory never is. */
static bool faults(enum mapping kind)
{
	switch (kind) {
	case PFNMAP_RAM:
		return false;
	case MIXED_WB:
		return pfnmap_is("refuse");
	case MIXED_WC_ENTRIES:
		return env_is("KVM", "newest") && pfnmap_is("refuse");
	default:
		return refused(kind);
	}
}

/* Does the guest cache this memory, and may it execute from it? */
static bool executes(enum mapping kind)
{
	switch (kind) {
	case ANON:
	case PFNMAP_RAM:
		return true;
	case USEMEM_WB:
	case MIXED_WB:
		return pfnmap_is("map");
	case MIXED_WC_ENTRIES:
	case PFNMAP_WC_ENTRIES:
		return env_is("KVM", "newest") && pfnmap_is("map");
	default:
		return false;
	}
}

static bool is_pfnmap(enum mapping kind)
{
	return kind != ANON && (kind < MIXED_WB || kind > MIXED_WC_ENTRIES);
}

TEST_F(vma, capability)
{
	const int cap = KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED;

	EXPECT_EQ(pfnmap_is("map"), ioctl(self->vm.fd, KVM_CHECK_EXTENSION, cap));
	EXPECT_EQ(env_is("KVM", "6.12") ? 0 : -1,
		  ioctl(self->vm.kvm, KVM_CHECK_EXTENSION, cap));
}

TEST_F(vma, memslot_creation)
{
	enum mapping kind;

	for (kind = ANON; kind < NR_MAPPINGS; kind++) {
		map_as(_metadata, self, kind);
		EXPECT_EQ(refused(kind) ? -EINVAL : 0,
			  set_slot(&self->vm, 1, DATA_GPA, self->data, 0)) {
			TH_LOG("%s", mapping_names[kind]);
		}
		set_slot(&self->vm, 1, DATA_GPA, NULL, 0);
	}
}

/* KVM finds the kind of a mapping in a present entry, too. */
TEST_F(vma, memslot_creation_over_touched_mapping)
{
	enum mapping kind;

	for (kind = ANON; kind < NR_MAPPINGS; kind++) {
		/* No memory answers below the private mapping. */
		if (kind == COW)
			continue;
		map_as(_metadata, self, kind);
		(void)*(volatile char *)self->data;
		EXPECT_EQ(refused(kind) ? -EINVAL : 0,
			  set_slot(&self->vm, 1, DATA_GPA, self->data, 0)) {
			TH_LOG("%s", mapping_names[kind]);
		}
		set_slot(&self->vm, 1, DATA_GPA, NULL, 0);
	}
}

/* If a mapping has no entry, KVM leaves it to the guest's fault. */
TEST_F(vma, memslot_over_inaccessible_mapping)
{
	const bool by_vma = env_is("KVM", "newest") && pfnmap_is("refuse");
	uint64_t x0 = 0;

	map_as(_metadata, self, USEMEM_WB);
	ASSERT_EQ(0, mprotect(self->data, SLOT, PROT_NONE));
	EXPECT_EQ(by_vma ? -EINVAL : 0, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
	if (by_vma)
		return;
	EXPECT_EQ(-EFAULT, run(_metadata, self, LOAD, DATA_GPA, &x0));
	ASSERT_EQ(0, mprotect(self->data, SLOT, PROT_READ | PROT_WRITE));
	EXPECT_EQ(faults(USEMEM_WB) ? -EFAULT : 0,
		  run(_metadata, self, LOAD, DATA_GPA, &x0));
}

static void on_alarm(int sig)
{
}

/*
 * The guest loads from a page that the VMM has used and can no longer access. If KVM lets the guest
 * fault on it again and again, KVM_RUN ends with EINTR, by the alarm.
 */
TEST_F(vma, touched_mapping_becomes_inaccessible)
{
	const struct sigaction action = { .sa_handler = on_alarm };
	const enum mapping kinds[] = { USEMEM_WB, RESMEM_WC };
	unsigned int i;
	uint64_t x0;

	if (!env_is("KVM", "series"))
		SKIP(return, "only the series checks that the VMM can access the page");
	ASSERT_EQ(0, sigaction(SIGALRM, &action, NULL));
	map_as(_metadata, self, ANON);
	ASSERT_EQ(0, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		map_as(_metadata, self, kinds[i]);
		(void)*(volatile char *)self->data;
		ASSERT_EQ(0, mprotect(self->data, SLOT, PROT_NONE));
		x0 = 0;
		alarm(5);
		EXPECT_EQ(-EFAULT, run(_metadata, self, LOAD, DATA_GPA, &x0)) {
			TH_LOG("%s", mapping_names[kinds[i]]);
		}
		alarm(0);
	}
}

/* Map DATA and show it to the guest, either of which may be for reading only: loads work. */
static void map_to_load(struct __test_metadata *_metadata, FIXTURE_DATA(vma) * self,
			enum mapping kind, int prot, unsigned int slot_flags)
{
	uint64_t x0 = 0;

	map_as(_metadata, self, kind);
	*(volatile uint64_t *)self->data = 4711;
	ASSERT_EQ(0, mprotect(self->data, SLOT, prot));
	ASSERT_EQ(0, set_slot(&self->vm, 1, DATA_GPA, self->data, slot_flags));
	EXPECT_EQ(0, run(_metadata, self, LOAD, DATA_GPA, &x0));
	EXPECT_EQ(4711, x0) TH_LOG("%s", mapping_names[kind]);
}

/* A mapping that the VMM may only read: the guest's loads work, and its store is -EFAULT. */
TEST_F(vma, read_only_mapping)
{
	const enum mapping kinds[] = { ANON, USEMEM_WB, RESMEM_WC };
	unsigned int i;
	uint64_t x0;

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (refused(kinds[i]))
			continue;
		map_to_load(_metadata, self, kinds[i], PROT_READ, 0);
		x0 = 1;
		EXPECT_EQ(-EFAULT, run(_metadata, self, STORE, DATA_GPA, &x0)) {
			TH_LOG("%s", mapping_names[kinds[i]]);
		}
		EXPECT_EQ(4711, *(volatile uint64_t *)self->data);

		/* The VMM may write again, and so may the guest. */
		ASSERT_EQ(0, mprotect(self->data, SLOT, PROT_READ | PROT_WRITE));
		EXPECT_EQ(0, run(_metadata, self, STORE, DATA_GPA, &x0));
		EXPECT_EQ(1, *(volatile uint64_t *)self->data);
		set_slot(&self->vm, 1, DATA_GPA, NULL, 0);
	}
}

/* A memslot that the guest may only read: its store is an exit for the VMM to emulate. */
TEST_F(vma, read_only_memslot)
{
	const enum mapping kinds[] = { ANON, USEMEM_WB, RESMEM_WC };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (refused(kinds[i]))
			continue;
		map_to_load(_metadata, self, kinds[i], PROT_READ | PROT_WRITE, KVM_MEM_READONLY);
		set_regs(_metadata, &self->vm, STORE, 1, DATA_GPA);
		ASSERT_EQ(0, vm_run(&self->vm));
		EXPECT_EQ(KVM_EXIT_MMIO, self->vm.run->exit_reason);
		EXPECT_EQ(DATA_GPA, self->vm.run->mmio.phys_addr) {
			TH_LOG("%s", mapping_names[kinds[i]]);
		}
		EXPECT_EQ(1, vm_complete_store(&self->vm));
		EXPECT_EQ(4711, *(volatile uint64_t *)self->data);
		set_slot(&self->vm, 1, DATA_GPA, NULL, 0);
	}
}

/* KVM checks all mappings under a memslot. */
TEST_F(vma, memslot_over_two_mappings)
{
	map_as(_metadata, self, USEMEM_WB);
	ASSERT_NE(MAP_FAILED, mmap(self->data, PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(refused(USEMEM_WB) ? -EINVAL : 0,
		  set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
}

/* KVM checks the mapping behind a hole, too. */
TEST_F(vma, memslot_with_a_hole)
{
	const int want = refused(USEMEM_WB) ? -EINVAL : 0;

	map_as(_metadata, self, USEMEM_WB);
	ASSERT_EQ(0, munmap(self->data, 16 * PAGE));
	EXPECT_EQ(want, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
	set_slot(&self->vm, 1, DATA_GPA, NULL, 0);

	/* The hole between two mappings */
	ASSERT_NE(MAP_FAILED, mmap(self->data, PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(want, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
}

TEST_F_TIMEOUT(vma, memslot_move_and_flags, 90)
{
	enum mapping kind;

	for (kind = ANON; kind < NR_MAPPINGS; kind++) {
		map_as(_metadata, self, ANON);
		ASSERT_EQ(0, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
		map_as(_metadata, self, kind);
		EXPECT_EQ(refused(kind) ? -EINVAL : 0,
			  set_slot(&self->vm, 1, MOVED_GPA, self->data, 0)) {
			TH_LOG("move: %s", mapping_names[kind]);
		}
		/* Dirty logging of VM_PFNMAP memory was always refused. */
		EXPECT_EQ(is_pfnmap(kind) ? -EINVAL : 0,
			  set_slot(&self->vm, 1, refused(kind) ? DATA_GPA : MOVED_GPA,
				   self->data, KVM_MEM_LOG_DIRTY_PAGES)) {
			TH_LOG("flags: %s", mapping_names[kind]);
		}
		set_slot(&self->vm, 1, DATA_GPA, NULL, 0);

		/* This change of flags is allowed by itself. */
		map_as(_metadata, self, ANON);
		ASSERT_EQ(0, set_slot(&self->vm, 1, DATA_GPA, self->data,
				      KVM_MEM_LOG_DIRTY_PAGES));
		map_as(_metadata, self, kind);
		EXPECT_EQ(refused(kind) ? -EINVAL : 0,
			  set_slot(&self->vm, 1, DATA_GPA, self->data, 0)) {
			TH_LOG("clear flags: %s", mapping_names[kind]);
		}
		set_slot(&self->vm, 1, DATA_GPA, NULL, 0);
	}
}

/* KVM gives a VM with MTE no device memory that the guest could tag. */
TEST_F(vma, mte_vm)
{
	uint64_t x0 = 0;

	if (!pfnmap_is("mte"))
		SKIP(return, "this VM has no MTE");
	map_as(_metadata, self, ANON);
	ASSERT_EQ(0, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
	EXPECT_EQ(0, run(_metadata, self, LOAD, DATA_GPA, &x0));

	map_as(_metadata, self, USEMEM_WB);
	EXPECT_EQ(-EINVAL, set_slot(&self->vm, 1, MOVED_GPA, self->data, 0));
	EXPECT_EQ(-EFAULT, run(_metadata, self, LOAD, DATA_GPA, &x0));
	EXPECT_EQ(-EFAULT, run(_metadata, self, STORE, DATA_GPA, &x0));
}

/* mprotect() to PROT_MTE changes the memory type of a present entry: the memory keeps tags. */
TEST_F(vma, mte_mprotect)
{
	const uint64_t tag = 5UL << 56;
	uint64_t p;

	if (!pfnmap_is("mte"))
		SKIP(return, "this VM has no MTE");
	map_as(_metadata, self, ANON);
	*(volatile char *)self->data = 1;
	ASSERT_EQ(0, mprotect(self->data, SLOT, PROT_READ | PROT_WRITE | PROT_MTE));
	p = (uintptr_t)self->data;
	asm volatile(".arch armv8.5-a+memtag\n"
		     "stg %1, [%0]\n"
		     "ldg %0, [%0]" : "+r"(p) : "r"(p | tag) : "memory");
	EXPECT_EQ((uintptr_t)self->data | tag, p);
}

/* Store and load what the memslot shows now, and see it through the mapping. */
static void try_access(struct __test_metadata *_metadata, FIXTURE_DATA(vma) * self,
		       enum mapping from, enum mapping to)
{
	const uint64_t value = 0x1122334455667788 + (from << 16) + to;
	uint64_t x0 = value;

	/* Where the control maps a copy-on-write page nothing answers. */
	if (to == COW && !faults(to))
		return;
	EXPECT_EQ(faults(to) ? -EFAULT : 0,
		  run(_metadata, self, STORE, DATA_GPA + 0x100, &x0)) {
		TH_LOG("store: %s, was %s", mapping_names[to], mapping_names[from]);
	}
	x0 = 0;
	EXPECT_EQ(faults(to) ? -EFAULT : 0,
		  run(_metadata, self, LOAD, DATA_GPA + 0x100, &x0)) {
		TH_LOG("load: %s, was %s", mapping_names[to], mapping_names[from]);
	}
	if (!faults(to)) {
		EXPECT_EQ(value, x0);
		EXPECT_EQ(value, *(volatile uint64_t *)(self->data + 0x100));
	}
}

/* Each kind takes the place of each other one, when the guest has used that. */
TEST_F_TIMEOUT(vma, swapped_under_a_memslot, 150)
{
	enum mapping from, to;

	map_as(_metadata, self, ANON);
	ASSERT_EQ(0, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
	for (from = ANON; from < NR_MAPPINGS; from++) {
		for (to = ANON; to < NR_MAPPINGS; to++) {
			map_as(_metadata, self, from);
			try_access(_metadata, self, from, from);
			map_as(_metadata, self, to);
			try_access(_metadata, self, from, to);
		}
	}
}

static void *make_slot(void *arg)
{
	const FIXTURE_DATA(vma) * self = arg;

	return (void *)(intptr_t)set_slot(&self->vm, 1, DATA_GPA, self->data, 0);
}

/* KVM faults in a page of the mapping to find its kind. The VMM replaces the mapping meanwhile. */
TEST_F(vma, swapped_during_memslot_creation)
{
	const enum mapping to[] = { USEMEM_WB, ANON };
	pthread_t thread;
	unsigned int i;
	void *ret;
	char byte;
	int fd;

	if (!pfnmap_is("refuse") || !env_is("KVM", "series"))
		SKIP(return, "KVM faults nothing in here");
	fd = open("/dev/mixedmap", O_RDWR);
	ASSERT_LE(0, fd);
	for (i = 0; i < 2; i++) {
		map_as(_metadata, self, STALLED);
		ASSERT_EQ(0, pthread_create(&thread, NULL, make_slot, self));
		ASSERT_EQ(0, read(fd, &byte, 1));
		map_as(_metadata, self, to[i]);
		/* The old VMA is freed by now, and KASAN reports any use of it. */
		usleep(200000);
		ASSERT_EQ(1, write(fd, "", 1));
		ASSERT_EQ(0, pthread_join(thread, &ret));
		EXPECT_EQ(refused(to[i]) ? -EINVAL : 0, (intptr_t)ret) {
			TH_LOG("%s", mapping_names[to[i]]);
		}
	}
	close(fd);
}

/*
 * KVM waits for the page that it faults in, and the second try fails. KVM must then leave the
 * mapping to the guest's fault, and must not begin again.
 */
TEST_F(vma, memslot_creation_over_page_that_never_comes)
{
	bool ended = false;
	pthread_t thread;
	void *ret = NULL;
	unsigned int i;
	char byte;
	int fd;

	if (!pfnmap_is("refuse") || !env_is("KVM", "series"))
		SKIP(return, "KVM faults nothing in here");
	fd = open("/dev/mixedmap", O_RDWR);
	ASSERT_LE(0, fd);
	map_as(_metadata, self, STALLED);
	ASSERT_EQ(0, pthread_create(&thread, NULL, make_slot, self));
	for (i = 0; i < 3 && !ended; i++) {
		EXPECT_EQ(0, read(fd, &byte, 1));
		ASSERT_EQ(1, write(fd, "", 1));
		ended = wait_until(!pthread_tryjoin_np(thread, &ret), 5000);
	}
	EXPECT_TRUE(ended) TH_LOG("KVM_SET_USER_MEMORY_REGION waits for the page again and again");
	if (!ended) {
		/* Another mapping in its place ends that. */
		map_as(_metadata, self, ANON);
		write(fd, "", 1);
		pthread_join(thread, &ret);
	}
	EXPECT_EQ(0, (intptr_t)ret);
	close(fd);
}

struct vcpu_thread {
	pthread_t thread;
	const struct vm *vm;
	int error;
};

static void *run_vcpu(void *arg)
{
	struct vcpu_thread *t = arg;

	t->error = vm_run(t->vm);
	return NULL;
}

/* Start a routine in a thread of its own. */
static void start(struct __test_metadata *_metadata, FIXTURE_DATA(vma) * self,
		  struct vcpu_thread *t, unsigned int routine, uint64_t x0)
{
	t->vm = &self->vm;
	set_regs(_metadata, &self->vm, routine, x0, DATA_GPA);
	ASSERT_EQ(0, pthread_create(&t->thread, NULL, run_vcpu, t));
}

/*
 * The guest loads from a memslot while the VMM swaps the mapping; nothing stops it. Only
 * the series manages a swap of device memory for ordinary memory.
 */
TEST_F_TIMEOUT(vma, swapped_while_a_vcpu_spins, 90)
{
	const enum mapping first = env_is("KVM", "series") ? ANON : RESMEM_WC;
	const uint64_t end = 0x5ca1ab1e;
	struct vcpu_thread t;
	enum mapping kind;
	int i;

	map_as(_metadata, self, first);
	*(volatile uint64_t *)self->data = 0;
	ASSERT_EQ(0, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
	start(_metadata, self, &t, SPIN, end);
	for (i = 0; i < 20; i++) {
		for (kind = first; kind < NR_MAPPINGS; kind++) {
			if (kind == COW || faults(kind))
				continue;
			map_as(_metadata, self, kind);
			(void)*(volatile char *)self->data;
		}
	}
	map_as(_metadata, self, first);
	*(volatile uint64_t *)self->data = end;
	ASSERT_EQ(0, pthread_join(t.thread, NULL));
	EXPECT_EQ(0, t.error);
	EXPECT_EQ(KVM_EXIT_MMIO, self->vm.run->exit_reason);
	EXPECT_EQ(DONE_GPA, self->vm.run->mmio.phys_addr);
}

/*
 * KVM has checked a mapping that it refuses, and waits for its page, when the VMM replaces it with
 * one that KVM accepts. The guest must go on with that. (If the new one is ordinary memory, only
 * the series manages that.)
 */
TEST_F(vma, swapped_during_a_fault)
{
	const struct { enum mapping from, to; } swaps[] = {
		{ STALLED, ANON }, { STALLED, RESMEM_WC }, { STALLED, MIXED_WC },
		{ STALLED_COW, ANON }, { STALLED_COW, RESMEM_WC }, { STALLED_COW, MIXED_WC },
	};
	const unsigned int n = ARRAY_SIZE(swaps);
	struct vcpu_thread t;
	unsigned int i;
	char byte;
	int fd;

	fd = open("/dev/mixedmap", O_RDWR);
	ASSERT_LE(0, fd);
	map_as(_metadata, self, ANON);
	ASSERT_EQ(0, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
	for (i = 0; i < n; i++) {
		if (swaps[i].to == ANON && !env_is("KVM", "series"))
			continue;
		map_as(_metadata, self, swaps[i].from);
		start(_metadata, self, &t, LOAD, 0);
		ASSERT_EQ(0, read(fd, &byte, 1));
		map_as(_metadata, self, swaps[i].to);
		*(volatile uint64_t *)self->data = 0x900d + i;
		ASSERT_EQ(1, write(fd, "", 1));
		ASSERT_EQ(0, pthread_join(t.thread, NULL));
		EXPECT_EQ(0, t.error) {
			TH_LOG("%s, was %s", mapping_names[swaps[i].to],
			       mapping_names[swaps[i].from]);
		}
		EXPECT_EQ(0x900d + i, vm_complete_store(&self->vm));
	}
	close(fd);
}

/* mov x0, #77; ret */
static void put_function(void *at)
{
	const uint32_t text[] = { 0xd2800000 | (77 << 5), 0xd65f03c0 };

	memcpy(at, text, sizeof(text));
	__builtin___clear_cache(at, at + sizeof(text));
}

/*
 * The same for an instruction fetch: the VMM puts an executable mapping in place of one that is
 * not.
 */
TEST_F(vma, swapped_during_an_instruction_fetch)
{
	struct vcpu_thread t;
	char byte;
	int fd;

	if (!env_is("KVM", "series") || !executes(USEMEM_WB))
		SKIP(return, "only the series looks again, where usemem is executable");
	fd = open("/dev/mixedmap", O_RDWR);
	ASSERT_LE(0, fd);
	map_as(_metadata, self, STALLED_WC);
	ASSERT_EQ(0, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
	start(_metadata, self, &t, CALL, 0);
	ASSERT_EQ(0, read(fd, &byte, 1));
	map_as(_metadata, self, USEMEM_WB);
	put_function(self->data);
	ASSERT_EQ(1, write(fd, "", 1));
	ASSERT_EQ(0, pthread_join(t.thread, NULL));
	EXPECT_EQ(0, t.error);
	EXPECT_EQ(77, vm_complete_store(&self->vm));
	close(fd);
}

/*
 * A function that the VMM writes and the guest calls. Meanwhile, the VMM may make the mapping
 * read-only and writable again, for which mm changes the entries that are there.
 */
static void call_function(struct __test_metadata *_metadata, FIXTURE_DATA(vma) * self,
			  enum mapping kind, bool change_entries)
{
	uint64_t x0 = 0;

	if (kind == COW || faults(kind) || refused(kind))
		return;
	map_as(_metadata, self, kind);
	put_function(self->data + 0x200);
	if (change_entries) {
		ASSERT_EQ(0, mprotect(self->data, SLOT, PROT_READ));
		ASSERT_EQ(0, mprotect(self->data, SLOT, PROT_READ | PROT_WRITE));
	}
	ASSERT_EQ(0, set_slot(&self->vm, 1, DATA_GPA, self->data, 0));
	EXPECT_EQ(0, run(_metadata, self, CALL, DATA_GPA + 0x200, &x0));
	EXPECT_EQ(executes(kind) ? 77 : ABORTED, x0) TH_LOG("%s", mapping_names[kind]);
	set_slot(&self->vm, 1, DATA_GPA, NULL, 0);
}

TEST_F(vma, execution)
{
	enum mapping kind;

	for (kind = ANON; kind < NR_MAPPINGS; kind++)
		call_function(_metadata, self, kind, false);
}

/* mprotect() leaves the memory type of the entries as it was. The newest KVM goes by the VMA. */
TEST_F(vma, execution_after_mprotect)
{
	enum mapping kind;

	for (kind = ANON; kind < NR_MAPPINGS; kind++)
		call_function(_metadata, self, kind, true);
}

TEST_PROGRAM_MAIN(program)
