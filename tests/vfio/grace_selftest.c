// SPDX-License-Identifier: GPL-2.0-only
/*
 * Check a machine: what memory type does a guest of this host get for the GPU's memory?
 *
 * This is for people with a Grace machine, so it needs only the PCI address of a GPU that is
 * bound to a VFIO driver. It finds the regions through VFIO, makes a VM with one vCPU, and has
 * that try the operations of software on memory. The guest's own page table maps usemem Normal
 * Write-Back, and resmem Normal Non-Cacheable, so a failure comes from KVM's page table.
 *
 * Opening the device resets the GPU. The guest writes to the first 2 MiB of each region.
 */
#include <signal.h>
#include <sys/auxv.h>
#include <sys/utsname.h>

#include "fault.h"
#include "guest_code.h"
#include "kvm.h"
#include "vfio.h"

/* Exit statuses; 0 is for a machine on which all is well. */
#define NOT_WELL	1
#define NOT_TESTED	2

#define SLOT		MIB(2)

/* The guest's memory. Its page table has an entry for each GiB. */
#define DONE_GPA	0x10000000UL	/* not there: a store ends the run */
#define ABORT_GPA	(DONE_GPA + GUEST_ESR)
#define CODE_GPA	0x40000000UL
#define USEMEM_GPA	0x80000000UL
#define RESMEM_GPA	0xc0000000UL

#define TABLE		KIB(64)		/* offsets in the code's memslot */
#define STACK_END	KIB(256)

/* ---- the guest's code */

enum { WORKS, WRONG_DATA, NEVER_STORES };

static GUEST uint64_t aligned(uint8_t *p)
{
	uint64_t one, two, four, eight;

	asm volatile("strb %w1, [%0]" :: "r" (p), "r" (0x11) : "memory");
	asm volatile("strh %w1, [%0]" :: "r" (p + 2), "r" (0x2222) : "memory");
	asm volatile("str %w1, [%0]" :: "r" (p + 4), "r" (0x44444444) : "memory");
	asm volatile("str %1, [%0]" :: "r" (p + 8), "r" (0x8888888888888888) : "memory");
	asm volatile("ldrb %w0, [%1]" : "=r" (one) : "r" (p) : "memory");
	asm volatile("ldrh %w0, [%1]" : "=r" (two) : "r" (p + 2) : "memory");
	asm volatile("ldr %w0, [%1]" : "=r" (four) : "r" (p + 4) : "memory");
	asm volatile("ldr %0, [%1]" : "=r" (eight) : "r" (p + 8) : "memory");
	return one == 0x11 && two == 0x2222 && four == 0x44444444 &&
	       eight == 0x8888888888888888 ? WORKS : WRONG_DATA;
}

/* At each offset within 16 bytes, and over the boundary of a page. */
static GUEST uint64_t unaligned(uint8_t *p)
{
	const uint64_t pattern = 0x123456789abcdef0;
	uint64_t two, four, eight;
	unsigned int i;

	for (i = 0; i < 32; i++) {
		uint8_t *at = i < 16 ? p + i : p + 4096 - 24 + i;

		asm volatile("strh %w1, [%0]" :: "r" (at), "r" (0x1234) : "memory");
		asm volatile("ldrh %w0, [%1]" : "=r" (two) : "r" (at) : "memory");
		asm volatile("str %w1, [%0]" :: "r" (at), "r" (0x12345678) : "memory");
		asm volatile("ldr %w0, [%1]" : "=r" (four) : "r" (at) : "memory");
		asm volatile("str %1, [%0]" :: "r" (at), "r" (pattern) : "memory");
		asm volatile("ldr %0, [%1]" : "=r" (eight) : "r" (at) : "memory");
		if (two != 0x1234 || four != 0x12345678 || eight != pattern)
			return WRONG_DATA;
	}
	return WORKS;
}

static GUEST uint64_t dc_zva(uint8_t *start)
{
	volatile uint8_t *p = start;
	uint64_t dczid;
	unsigned int block, i;

	asm volatile("mrs %0, dczid_el0" : "=r" (dczid));
	block = 4 << (dczid & 0xf);
	for (i = 0; i < 2 * block; i++)
		p[i] = 0xff;
	asm volatile("dc zva, %0" :: "r" (p + block) : "memory");
	for (i = 0; i < block; i++)
		if (p[i] != 0xff || p[block + i])
			return WRONG_DATA;
	return WORKS;
}

static GUEST uint64_t atomics(uint8_t *start)
{
	volatile uint64_t *p = (void *)start;
	uint64_t add, swap, compare = 12;

	*p = 5;
	asm volatile(".arch_extension lse\n\tldaddal %1, %0, [%2]"
		     : "=r" (add) : "r" (7UL), "r" (p) : "memory");
	asm volatile(".arch_extension lse\n\tcasal %0, %1, [%2]"
		     : "+r" (compare) : "r" (20UL), "r" (p) : "memory");
	asm volatile(".arch_extension lse\n\tswpal %1, %0, [%2]"
		     : "=r" (swap) : "r" (30UL), "r" (p) : "memory");
	return add == 5 && compare == 12 && swap == 20 && *p == 30 ? WORKS : WRONG_DATA;
}

/* FEAT_LSE2: not aligned, but within 16 bytes. It is for Write-Back memory only. */
static GUEST uint64_t unaligned_atomics(uint8_t *start)
{
	volatile uint64_t *p = (void *)start;
	uint64_t old;

	p[0] = 0;
	p[1] = 0;
	asm volatile(".arch_extension lse\n\tldaddal %1, %0, [%2]"
		     : "=r" (old) : "r" (7UL), "r" (start + 4) : "memory");
	return !old && p[0] == 7UL << 32 ? WORKS : WRONG_DATA;
}

/* Without a monitor for this memory the store may fail forever. */
static GUEST uint64_t exclusives(uint8_t *start)
{
	volatile uint64_t *p = (void *)start;
	unsigned int i, failed = 1;
	uint64_t old, new;

	*p = 40;
	for (i = 0; i < 100000 && failed; i++)
		asm volatile("ldaxr %0, [%3]\n\tadd %1, %0, #2\n\tstlxr %w2, %1, [%3]"
			     : "=&r" (old), "=&r" (new), "=&r" (failed)
			     : "r" (p) : "memory");
	if (failed)
		return NEVER_STORES;
	return old == 40 && *p == 42 ? WORKS : WRONG_DATA;
}

/* Read bytes that the host has in its caches. A guest with another type bypasses those. */
#define SHARED_WORDS	8192
#define SHARED_WORD(i)	(0x9e3779b97f4a7c15 * ((i) + 1))

static GUEST uint64_t shared(uint8_t *start)
{
	volatile uint64_t *p = (void *)start;
	unsigned int i;

	for (i = 0; i < SHARED_WORDS; i++) {
		if (p[i] != SHARED_WORD(i))
			return WRONG_DATA;
		p[i] = ~p[i];
	}
	return WORKS;
}

/* ---- the host, before and after */

static void fill_shared(void *start)
{
	volatile uint64_t *p = start;
	unsigned int i;

	for (i = 0; i < SHARED_WORDS; i++)
		p[i] = SHARED_WORD(i);
}

static bool verify_shared(void *start)
{
	volatile uint64_t *p = start;
	unsigned int i;

	for (i = 0; i < SHARED_WORDS; i++)
		if (p[i] != ~SHARED_WORD(i))
			return false;
	return true;
}

/* mov x0, #0; ret */
static void put_code(void *start)
{
	volatile uint32_t *p = start;

	p[0] = 0xd2800000;
	p[1] = 0xd65f03c0;
	__builtin___clear_cache(start, start + 8);
}

static const struct probe {
	const char *name;
	uint64_t (*in_guest)(uint8_t *p);	/* NULL: call the function in the memory */
	void (*before)(void *p);
	bool (*after)(void *p);
	unsigned long hwcap;			/* that it takes */
	bool write_back;			/* not to be relied on in other memory */
} probes[] = {
	{ "aligned access", aligned },
	{ "unaligned access", unaligned },
	{ "dc zva", dc_zva },
	{ "LSE atomics", atomics, .hwcap = HWCAP_ATOMICS, .write_back = true },
	{ "unaligned LSE atomics", unaligned_atomics, .hwcap = HWCAP_ATOMICS | HWCAP_USCAT,
	  .write_back = true },
	{ "exclusives", exclusives, .write_back = true },
	{ "data shared with host", shared, fill_shared, verify_shared },
	{ "execution", NULL, put_code, .write_back = true },
};

#define NR_PROBES	ARRAY_SIZE(probes)

enum { ALIGNED, UNALIGNED };

struct machine {
	struct vfio v;
	struct vm vm;
	void *code;
	int refused;		/* errno of the memslot for usemem */
	bool reported;		/* does KVM report the capability? */
	bool fwb, dic;
};

/* Each reason names a remedy. */
#define cannot(fmt, ...)						\
	do {								\
		fprintf(stderr, "grace_selftest: " fmt "\nnot tested\n",	\
			##__VA_ARGS__);					\
		exit(NOT_TESTED);					\
	} while (0)

/* ---- the device */

static void find_device(const char *arg)
{
	char bdf[32], path[PATH_MAX], driver[PATH_MAX] = "";

	snprintf(bdf, sizeof(bdf), "%s%s", strlen(arg) == 7 ? "0000:" : "", arg);
	setenv("BDF", bdf, 1);
	if (access(device_path(path, sizeof(path), "vendor"), F_OK))
		cannot("there is no PCI device %s; for NVIDIA's: lspci -D -d 10de:", bdf);
	if (readlink(device_path(path, sizeof(path), "driver"), driver, sizeof(driver) - 1) < 0)
		cannot("%s is bound to no driver; bind it to nvgrace_gpu", bdf);
	if (access(device_path(path, sizeof(path), "vfio-dev"), F_OK))
		cannot("%s is bound to %s, which is not a VFIO driver; bind it to nvgrace_gpu",
		       bdf, basename(driver));
	printf("%s, bound to %s\n", bdf, basename(driver));
}

static void check_kvm(void)
{
	if (!access("/dev/kvm", R_OK | W_OK))
		return;
	if (errno == ENOENT)
		cannot("there is no /dev/kvm: this kernel has no KVM, or began below EL2");
	cannot("/dev/kvm: %s; run this as root, or in the group of /dev/kvm", strerror(errno));
}

/* The group says EBUSY also if a process has opened the device by its own node. */
static void check_free(const char *bdf)
{
	char node[PATH_MAX];
	int fd;

	if (vfio_node(TYPE1, node, sizeof(node)))
		cannot("%s has no IOMMU group: is there an IOMMU that is on?", bdf);
	fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd < 0 && errno == EBUSY)
		cannot("%s is in use: another process, such as a VMM, has it open", bdf);
	if (fd >= 0)
		close(fd);
}

static void open_device(struct vfio *v)
{
	const enum vfio_mode mode = vfio_best_mode();
	const char *missing = vfio_mode_missing(mode);
	const char *bdf = getenv("BDF");
	char node[PATH_MAX];
	int ret;

	if (missing)
		cannot("%s, or its module is not loaded", missing);
	check_free(bdf);
	if (vfio_node(mode, node, sizeof(node)))
		cannot("%s has no node in /dev/vfio/devices", bdf);
	if (access(node, R_OK | W_OK))
		cannot("%s: %s; run this as root, or as the owner of that file", node,
		       strerror(errno));
	ret = vfio_open(v, mode);
	if (ret)
		cannot("%s: %s: %s; VFIO drivers must have all devices of its IOMMU group",
		       bdf, node, strerror(-ret));
	/* The driver reads in BAR0 whether the GPU is ready. */
	if (enable_memory(v->device))
		cannot("%s: PCI_COMMAND cannot be written", bdf);
}

/* The bytes of memory in a BAR that VFIO emulates: the sparse area is one, from 0. */
static uint64_t sparse_area(const struct vfio *v, struct region *r, unsigned int bar)
{
	union {
		struct vfio_region_info info;
		uint8_t bytes[1024];
	} buf = { .info = { .argsz = sizeof(buf), .index = bar } };
	const struct vfio_region_info_cap_sparse_mmap *sparse;
	const struct vfio_info_cap_header *cap;
	uint32_t at;

	if (ioctl(v->device, VFIO_DEVICE_GET_REGION_INFO, &buf.info) ||
	    !(buf.info.flags & VFIO_REGION_INFO_FLAG_MMAP) ||
	    !(buf.info.flags & VFIO_REGION_INFO_FLAG_CAPS) || buf.info.argsz > sizeof(buf))
		return 0;
	for (at = buf.info.cap_offset; at; at = cap->next) {
		cap = (void *)(buf.bytes + at);
		sparse = (void *)cap;
		if (cap->id != VFIO_REGION_INFO_CAP_SPARSE_MMAP ||
		    sparse->nr_areas != 1 || sparse->areas[0].offset)
			continue;
		*r = (struct region) {
			.bar = bar, .backed = sparse->areas[0].size,
			.size = buf.info.size, .off = buf.info.offset,
		};
		return r->backed;
	}
	return 0;
}

/* usemem is nearly all of the memory, whichever BAR it is; a GPU may have no resmem. */
static void find_regions(struct vfio *v)
{
	struct region found[NR_REGIONS] = {};
	unsigned int first;

	sparse_area(v, &found[0], VFIO_PCI_BAR2_REGION_INDEX);
	sparse_area(v, &found[1], VFIO_PCI_BAR4_REGION_INDEX);
	first = found[0].backed < found[1].backed;
	v->regions[USEMEM] = found[first];
	v->regions[RESMEM] = found[!first];
	if (v->regions[USEMEM].backed < SLOT)
		cannot("%s shows no coherent memory, in BAR2 or BAR4; dmesg says why", v->bdf);
}

static void *map_for_guest(const struct vfio *v, unsigned int region)
{
	const char *name = region == USEMEM ? "usemem" : "resmem";
	volatile uint64_t *p = map_region(v, region, reserve(SLOT, 0), 0, SLOT);
	struct fault fault;

	if (p == MAP_FAILED)
		cannot("%s cannot be mapped: %s", name, strerror(errno));
	fault = fault_of(*p = 0);
	if (fault.sig)
		cannot("%s: the host's store is a SIGBUS: the GPU is not ready; dmesg says why",
		       name);
	return (void *)p;
}

/* ---- the VM */

#define TTBR0_EL1		ARM64_SYS_REG(3, 0, 2, 0, 0)
#define TCR_EL1			ARM64_SYS_REG(3, 0, 2, 0, 2)
#define MAIR_EL1		ARM64_SYS_REG(3, 0, 10, 2, 0)
#define SCTLR_EL1		ARM64_SYS_REG(3, 0, 1, 0, 0)
#define VBAR_EL1		ARM64_SYS_REG(3, 0, 12, 0, 0)
#define ID_AA64MMFR2_EL1	ARM64_SYS_REG(3, 0, 0, 7, 2)

/* Indexes in MAIR_EL1: Normal Write-Back, Normal Non-Cacheable, Device-nGnRE. */
enum { WB, NC, DEVICE };
#define MAIR		(0xffUL << 8 * WB | 0x44UL << 8 * NC | 0x04UL << 8 * DEVICE)

/* 39 bits, pages of 4 KiB, walks inner shareable and Write-Back, TTBR0 only, a PA of 40 bits. */
#define TCR		(25UL | 1UL << 8 | 1UL << 10 | 3UL << 12 | 1UL << 23 | 2UL << 32)

/* The RES1 bits; the MMU and caches on; alignment is not checked. */
#define SCTLR		(0x30d00800UL | 1UL << 12 | 1UL << 2 | 1UL << 0)

/* A block of 1 GiB: inner shareable, accessed, EL1 may do all. */
#define BLOCK_OF(gpa, type)	((gpa) | 1UL << 10 | 3UL << 8 | (type) << 2 | 1UL)

static uint64_t gpa_of(const void *in_guest_text)
{
	return CODE_GPA + ((const char *)in_guest_text - __start_guest_text);
}

static void set_reg(const struct machine *m, uint64_t id, uint64_t value)
{
	int ret = vm_set_reg(&m->vm, id, value);

	if (ret)
		cannot("KVM does not set register 0x%lx: %s", id, strerror(-ret));
}

static void open_vm(struct machine *m)
{
	uint64_t *table, mmfr2, ctr;
	int ret;

	ret = vm_open(&m->vm, false);
	if (ret)
		cannot("KVM makes no VM with a vCPU: %s", strerror(-ret));

	m->code = mmap(NULL, SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m->code == MAP_FAILED)
		cannot("no memory for a guest: %s", strerror(errno));
	memcpy(m->code, __start_guest_text, __stop_guest_text - __start_guest_text);
	__builtin___clear_cache(m->code, m->code + TABLE);
	table = m->code + TABLE;
	table[0] = BLOCK_OF(0UL, DEVICE);
	table[CODE_GPA >> 30] = BLOCK_OF(CODE_GPA, WB);
	table[USEMEM_GPA >> 30] = BLOCK_OF(USEMEM_GPA, WB);
	table[RESMEM_GPA >> 30] = BLOCK_OF(RESMEM_GPA, NC);
	ret = vm_set_slot(&m->vm, 0, CODE_GPA, m->code, SLOT, 0);
	if (ret)
		cannot("KVM refuses a memslot of ordinary memory: %s", strerror(-ret));

	set_reg(m, TTBR0_EL1, CODE_GPA + TABLE);
	set_reg(m, TCR_EL1, TCR);
	set_reg(m, MAIR_EL1, MAIR);
	set_reg(m, SCTLR_EL1, SCTLR);
	set_reg(m, VBAR_EL1, CODE_GPA);

	ret = vm_get_reg(&m->vm, ID_AA64MMFR2_EL1, &mmfr2);
	if (ret)
		cannot("KVM does not read ID_AA64MMFR2_EL1, which has FEAT_S2FWB: %s",
		       strerror(-ret));
	m->fwb = mmfr2 >> 40 & 0xf;
	asm volatile("mrs %0, ctr_el0" : "=r" (ctr));
	m->dic = ctr >> 29 & 1;
	m->reported = ioctl(m->vm.fd, KVM_CHECK_EXTENSION,
			    KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED) == 1;
}

/* Explain an exception of the guest to people. */
static void describe_abort(char *what, size_t len, uint64_t esr)
{
	static const struct {
		uint64_t ec, fsc;
		const char *what;
	} known[] = {
		{ 0x25, 0x21, "alignment fault" },
		{ 0x25, 0x35, "unsupported atomic or exclusive" },
		{ 0x25, 0x10, "external abort" },
		{ 0x21, 0x10, "external abort on instruction fetch" },
	};
	const uint64_t ec = esr >> 26 & 0x3f, fsc = esr & 0x3f;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(known); i++) {
		if (ec == known[i].ec && fsc == known[i].fsc)
			break;
	}
	snprintf(what, len, "%s in the guest, ESR_EL1 0x%lx",
		 i < ARRAY_SIZE(known) ? known[i].what :
		 ec == 0x2f ? "SError" : "exception", esr);
}

static void on_alarm(int sig)
{
}

/* True if it works, else WHAT says what happened. */
static bool run_probe(struct machine *m, const struct probe *probe, void *hva, uint64_t gpa,
		      char *what, size_t len)
{
	const struct kvm_run *run = m->vm.run;
	uint64_t result;
	int ret;

	if (probe->before)
		probe->before(hva);
	set_reg(m, CORE_REG(regs.pc), gpa_of(guest_entry));
	set_reg(m, CORE_REG(regs.pstate), PSTATE_EL1H & ~0x100);	/* SErrors, too */
	set_reg(m, CORE_REG(sp_el1), CODE_GPA + STACK_END);
	set_reg(m, CORE_REG(regs.regs[0]), gpa);
	set_reg(m, CORE_REG(regs.regs[3]), probe->in_guest ? gpa_of(probe->in_guest) : gpa);
	set_reg(m, CORE_REG(regs.regs[19]), DONE_GPA);

	alarm(30);
	ret = vm_run(&m->vm);
	alarm(0);
	if (ret == -EINTR) {
		snprintf(what, len, "the guest hangs");
		return false;
	}
	if (ret) {
		snprintf(what, len, "KVM stops the vCPU: %s", strerror(-ret));
		return false;
	}
	if (run->exit_reason != KVM_EXIT_MMIO ||
	    (run->mmio.phys_addr != DONE_GPA && run->mmio.phys_addr != ABORT_GPA)) {
		snprintf(what, len, "unexpected exit %u of the vCPU", run->exit_reason);
		return false;
	}
	ret = run->mmio.phys_addr == ABORT_GPA;
	result = vm_complete_store(&m->vm);
	if (ret) {
		describe_abort(what, len, result);
		return false;
	}
	if (result == WORKS && (!probe->after || probe->after(hva)))
		return true;
	snprintf(what, len, result == NEVER_STORES ? "the store never succeeds" : "wrong data");
	return false;
}

/* Run the probes that this type of memory must pass; a bit for each that fails. */
static unsigned int run_probes(struct machine *m, void *hva, uint64_t gpa, bool write_back)
{
	const unsigned long hwcap = getauxval(AT_HWCAP);
	unsigned int i, failed = 0;
	char what[128];

	for (i = 0; i < NR_PROBES; i++) {
		const struct probe *probe = &probes[i];

		if (probe->write_back && !write_back)
			continue;
		if ((hwcap & probe->hwcap) != probe->hwcap) {
			printf("  %-22s not tried: the CPU has none\n", probe->name);
			continue;
		}
		if (run_probe(m, probe, hva, gpa, what, sizeof(what))) {
			printf("  %-22s works\n", probe->name);
		} else {
			printf("  %-22s FAILS: %s\n", probe->name, what);
			failed |= 1 << i;
		}
	}
	return failed;
}

/* ---- the verdict */

#define NEWER_KERNEL	"Run Linux 6.17 or newer, or 6.12 with patches/linux-6.12."

static int judge_usemem(const struct machine *m, unsigned int failed)
{
	if (m->refused) {
		printf("KVM refuses usemem as a guest's memory: %s.\n", strerror(m->refused));
		if (!m->fwb || !m->dic)
			printf("This CPU lacks %s%s%s, which KVM needs. Grace's CPU has both.\n",
			       m->fwb ? "" : "FEAT_S2FWB",
			       m->fwb || m->dic ? "" : " and ", m->dic ? "" : "CTR_EL0.DIC");
		else
			printf("The CPU has what it needs. %s\n", NEWER_KERNEL);
		return NOT_WELL;
	}
	if (failed & 1 << ALIGNED) {
		printf("A guest cannot use usemem at all.\n");
		return NOT_WELL;
	}
	if (failed & 1 << UNALIGNED) {
		printf("usemem is Device memory in a guest: guests cannot rely on it.\n%s\n",
		       NEWER_KERNEL);
		return NOT_WELL;
	}
	if (failed) {
		printf("usemem is Normal memory in a guest, but not Write-Back.\n%s\n",
		       NEWER_KERNEL);
		return NOT_WELL;
	}
	if (!m->reported) {
		printf("usemem behaves as Normal Write-Back in a guest.\n");
		printf("KVM does not report that it is: ask the vendor of this kernel.\n");
		return 0;
	}
	printf("usemem is Normal Write-Back in a guest\n");
	return 0;
}

static void print_region(const char *name, const struct region *r)
{
	printf("%s: BAR%u, 0x%lx bytes\n", name, r->bar, r->backed);
}

static const char usage[] =
	"usage: grace_selftest BDF\n"
	"Which memory type has the GPU's memory in a guest of this host?\n"
	"BDF is the PCI address of a GPU that no VMM uses, bound to a VFIO driver, such as\n"
	"0009:01:00.0 from lspci -D -d 10de:. The GPU is reset, and usemem written to.\n"
	"Exit status: 0 if all is well, 1 if not, 2 if nothing could be tested.\n";

int main(int argc, char **argv)
{
	const struct sigaction action = { .sa_handler = on_alarm };
	struct machine m = {};
	struct utsname host;
	unsigned int failed = 0, resmem_failed = 0;
	void *usemem, *resmem;
	int ret;

	if (argc != 2 || argv[1][0] == '-') {
		fputs(usage, stderr);
		return NOT_TESTED;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGALRM, &action, NULL);
	uname(&host);
	printf("Linux %s, pages of %lu KiB\n", host.release, PAGE / 1024);
	find_device(argv[1]);
	check_kvm();
	open_device(&m.v);
	find_regions(&m.v);
	open_vm(&m);
	printf("CPU: FEAT_S2FWB %s, CTR_EL0.DIC %s\n", m.fwb ? "yes" : "no",
	       m.dic ? "yes" : "no");
	printf("KVM: capability 243, cacheable PFNMAP: %d\n", m.reported);

	print_region("usemem", &m.v.regions[USEMEM]);
	usemem = map_for_guest(&m.v, USEMEM);
	m.refused = -vm_set_slot(&m.vm, 1, USEMEM_GPA, usemem, SLOT, 0);
	if (m.refused)
		printf("  %-22s FAILS: %s\n", "memslot", strerror(m.refused));
	else
		failed = run_probes(&m, usemem, USEMEM_GPA, true);

	if (m.v.regions[RESMEM].backed >= SLOT) {
		print_region("resmem", &m.v.regions[RESMEM]);
		resmem = map_for_guest(&m.v, RESMEM);
		ret = vm_set_slot(&m.vm, 2, RESMEM_GPA, resmem, SLOT, 0);
		if (ret)
			cannot("KVM refuses resmem: %s", strerror(-ret));
		resmem_failed = run_probes(&m, resmem, RESMEM_GPA, false);
		printf("resmem is %s memory in a guest\n", !resmem_failed ? "Normal" :
		       resmem_failed & 1 << ALIGNED ? "no usable" :
		       resmem_failed & 1 << UNALIGNED ? "Device" : "no Normal");
	}

	ret = judge_usemem(&m, failed);
	vm_close(&m.vm);
	vfio_close(&m.v);
	return ret ?: resmem_failed ? NOT_WELL : 0;
}
