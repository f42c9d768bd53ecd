// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure the cost of operations under the driver that the device is bound to. Each row is a line
 * "row NAME COST": nanoseconds for the operation once, or instructions if COUNT asks for those, or
 * a plain count where the name ends with _kib or .faults. "profile" prints lines "profile NAME COST
 * FUNCTION": the instructions of the operation once, for each kernel function. Compare rows of two
 * drivers on one boot, never of two machines.
 */
#include <pthread.h>
#include <sys/syscall.h>

#include <linux/perf_event.h>

#include "guest_code.h"
#include "knobs.h"
#include "kvm.h"
#include "program.h"

static const struct program program = {
	.what = "measure reads, writes, mappings and faults of usemem and resmem",
	.vars = {
		VAR_BDF, VAR_REGIONS,
		{ "COUNT", "what is measured", "instructions, else nanoseconds", true },
	},
	.args = "all|growth|profile|zeroes|egm|egm-memset",
};

/* Long enough to see past the clock, short enough for many rounds. */
#define ROW_COST	60000000ULL

#define NR_THREADS	4

static struct vfio v;

/* Counts the instructions of this process and its kernel; -1 if time is measured. */
static int counter = -1;

static int open_event(struct perf_event_attr *attr)
{
	int fd;

	attr->size = sizeof(*attr);
	fd = syscall(SYS_perf_event_open, attr, 0, -1, -1, 0);
	if (fd < 0)
		program_fail("perf_event_open: %s", strerror(errno));
	return fd;
}

static int open_counter(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.config = PERF_COUNT_HW_INSTRUCTIONS,
		.inherit = 1,
	};

	return open_event(&attr);
}

/* Nanoseconds or instructions since some moment. */
static uint64_t now(void)
{
	struct timespec ts;
	uint64_t count;

	if (counter >= 0) {
		if (read(counter, &count, sizeof(count)) != sizeof(count))
			program_fail("the counter cannot be read: %s", strerror(errno));
		return count;
	}
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void report(const char *name, uint64_t value)
{
	printf("row %s %lu\n", name, value);
	fflush(stdout);
}

static void open_device_or_fail(void)
{
	int ret = vfio_open(&v, BEST_MODE) ?: enable_memory(v.device);

	if (ret)
		program_fail("%s: %s", v.bdf, strerror(ret < 0 ? -ret : errno));
}

/* ---- read() and write() */

static void rw(bool write, void *buf, size_t len, uint64_t off)
{
	ssize_t ret = write ? pwrite(v.device, buf, len, off) : pread(v.device, buf, len, off);

	if (ret != (ssize_t)len)
		program_fail("%s of %zu bytes at 0x%lx: %zd, %s", write ? "write" : "read", len,
			     off, ret, strerror(errno));
}

static void time_rw(const char *name, bool write, void *buf, size_t len, uint64_t off)
{
	uint64_t start, end, batch = 1, done = 0;
	unsigned int i;

	rw(write, buf, len, off);	/* this row does not count the first use */
	start = now();
	do {
		for (i = 0; i < batch; i++)
			rw(write, buf, len, off);
		done += batch;
		batch = len > KIB(64) ? 1 : 64;
		end = now();
	} while (end - start < ROW_COST);
	report(name, (end - start) / done);
}

static void time_memcpy(void *buf, size_t len)
{
	void *p = map_region(&v, USEMEM, reserve(len + BLOCK, 0), 0, len);
	uint64_t start, end, done = 0;

	if (p == MAP_FAILED)
		program_fail("usemem cannot be mapped: %s", strerror(errno));
	memcpy(buf, p, len);
	start = now();
	do {
		memcpy(buf, p, len);
		done++;
		end = now();
	} while (end - start < ROW_COST);
	report("memcpy.usemem.64M", (end - start) / done);
	munmap(p, len);
}

static void reads_and_writes(void)
{
	static const struct { const char *name; size_t len; } sizes[] = {
		{ "1", 1 }, { "4", 4 }, { "8", 8 }, { "4K", KIB(4) }, { "64K", KIB(64) },
		{ "1M", MIB(1) }, { "64M", MIB(64) },
	};
	static const char * const regions[] = { "usemem", "resmem" };
	uint8_t *buf = aligned_alloc(MIB(2), MIB(64));
	unsigned int r, i;
	char name[64];

	memset(buf, 0x5a, MIB(64));
	for (r = 0; r < NR_REGIONS; r++) {
		for (i = 0; i < ARRAY_SIZE(sizes); i++) {
			snprintf(name, sizeof(name), "read.%s.%s", regions[r], sizes[i].name);
			time_rw(name, false, buf, sizes[i].len, v.regions[r].off);
			snprintf(name, sizeof(name), "write.%s.%s", regions[r], sizes[i].name);
			time_rw(name, true, buf, sizes[i].len, v.regions[r].off);
		}
	}
	time_memcpy(buf, MIB(64));
	if (v.regions[USEMEM].size - v.regions[USEMEM].backed >= MIB(64))
		time_rw("read.hole.64M", false, buf, MIB(64),
			v.regions[USEMEM].off + v.regions[USEMEM].backed);
	free(buf);
}

/* ---- mappings */

static long touch(volatile uint8_t *p, uint64_t len, uint64_t step)
{
	long before = minor_faults();
	uint64_t i;

	for (i = 0; i < len; i += step)
		(void)p[i];
	return minor_faults() - before;
}

/* 32 MiB at an address that no block fits at. */
static void time_small_blocks(void)
{
	const uint64_t len = MIB(32);
	uint64_t start, faults;
	void *p = map_region(&v, USEMEM, reserve(len + BLOCK, PAGE), 0, len);

	if (p == MAP_FAILED)
		program_fail("usemem cannot be mapped: %s", strerror(errno));
	start = now();
	faults = touch(p, len, PAGE);
	report("touch.unaligned.32M", now() - start);
	report("touch.unaligned.32M.faults", faults);
	munmap(p, len);
}

struct toucher {
	pthread_t thread;
	uint64_t at;
	uint64_t len;
};

static void *map_and_touch(void *arg)
{
	struct toucher *t = arg;
	void *p = map_region(&v, USEMEM, NULL, t->at, t->len);

	if (p != MAP_FAILED) {
		touch(p, t->len, BLOCK);
		munmap(p, t->len);
	}
	return NULL;
}

static void time_threads(void)
{
	uint64_t len = v.regions[USEMEM].backed / NR_THREADS & -BLOCK, start;
	struct toucher t[NR_THREADS];
	int i;

	start = now();
	for (i = 0; i < NR_THREADS; i++) {
		t[i].at = i * len;
		t[i].len = len < GIB(4) ? len : GIB(4);
		if (pthread_create(&t[i].thread, NULL, map_and_touch, &t[i]))
			program_fail("no thread: %s", strerror(errno));
	}
	for (i = 0; i < NR_THREADS; i++)
		pthread_join(t[i].thread, NULL);
	report("touch.four_threads", now() - start);
}

/* Costs that may grow with the size of the memory. */
static void growth(void)
{
	uint64_t backed = v.regions[USEMEM].backed, start, mmap_cost, touch_cost, value;
	long tables;
	void *p;

	start = now();
	rw(false, &value, sizeof(value), v.regions[USEMEM].off);
	report("first_read", now() - start);

	tables = vm_pte_kib();
	p = reserve(backed + BLOCK, 0);
	start = now();
	p = map_region(&v, USEMEM, p, 0, backed);
	mmap_cost = now() - start;
	report("mmap", mmap_cost);
	if (p == MAP_FAILED)
		program_fail("usemem cannot be mapped: %s", strerror(errno));
	report("mmap.page_tables_kib", vm_pte_kib() - tables);

	start = now();
	touch(p, backed, BLOCK);
	touch_cost = now() - start;
	report("touch.each_block", touch_cost);
	/* A driver may map in mmap() or in faults. The user of the memory pays for both. */
	report("map_and_touch.each_block", mmap_cost + touch_cost);

	start = now();
	if (ioctl(v.device, VFIO_DEVICE_RESET) && hot_reset(&v))
		program_fail("no reset: %s", strerror(errno));
	report("reset.mapped", now() - start);

	start = now();
	munmap(p, backed);
	report("munmap", now() - start);
}

/* ---- a VMM */

/*
 * The start of a guest costs type1's DMA map of usemem. 4 GiB stand for all, since the cost is for
 * each page or block.
 */
static void time_dma_map(void)
{
	const uint64_t len = GIB(4), iova = GIB(32);
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap), .iova = iova, .size = len,
	};
	void *p = map_region(&v, USEMEM, reserve(len + BLOCK, 0), 0, len);
	uint64_t start;
	int ret;

	if (v.mode != TYPE1)
		return;
	if (p == MAP_FAILED)
		program_fail("usemem cannot be mapped: %s", strerror(errno));
	start = now();
	ret = dma_map(&v, p, len, iova);
	report("dma_map.4G", now() - start);
	if (ret || ioctl(v.container, VFIO_IOMMU_UNMAP_DMA, &unmap))
		program_fail("no DMA map of usemem: %s", strerror(ret ? -ret : errno));
	munmap(p, len);
}

#define CODE_GPA	GIB(1)
#define DATA_GPA	GIB(16)
#define DONE_GPA	0x10000000UL	/* not there: a store ends the run */

GUEST static uint64_t touch_in_guest(uint64_t base, uint64_t len, uint64_t step)
{
	uint64_t i;

	for (i = 0; i < len; i += step)
		(void)*(volatile uint64_t *)(base + i);
	return 0;
}

/* Counts the faults that KVM takes from now on for this thread's vCPU. */
static int open_guest_faults(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_TRACEPOINT };
	char id[16];

	read_line("/sys/kernel/tracing/events/kvm/kvm_guest_fault/id", id, sizeof(id));
	attr.config = strtoul(id, NULL, 0);
	return open_event(&attr);
}

/* A guest touches each 64 KiB of 8 GiB: one fault for each block, if KVM maps blocks. */
static void time_guest(void)
{
	const uint64_t len = GIB(8);
	const uint64_t regs[] = { DATA_GPA, len, KIB(64),
		CODE_GPA + ((const char *)touch_in_guest - __start_guest_text) };
	uint64_t start, faults;
	struct vm vm;
	void *code, *p;
	unsigned int i;
	int ret, fd;

	if (access("/dev/kvm", F_OK))
		return;
	code = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	p = map_region(&v, USEMEM, reserve(len + BLOCK, 0), 0, len);
	if (code == MAP_FAILED || p == MAP_FAILED)
		program_fail("usemem cannot be mapped: %s", strerror(errno));
	memcpy(code, __start_guest_text, __stop_guest_text - __start_guest_text);
	__builtin___clear_cache(code, code + BLOCK);

	ret = vm_open(&vm, false) ?: vm_set_slot(&vm, 0, CODE_GPA, code, BLOCK, 0) ?:
	      vm_set_slot(&vm, 1, DATA_GPA, p, len, 0) ?:
	      vm_set_reg(&vm, CORE_REG(regs.pc),
			 CODE_GPA + (guest_entry - __start_guest_text)) ?:
	      vm_set_reg(&vm, CORE_REG(regs.pstate), PSTATE_EL1H) ?:
	      vm_set_reg(&vm, CORE_REG(regs.regs[19]), DONE_GPA);
	for (i = 0; i < ARRAY_SIZE(regs) && !ret; i++)
		ret = vm_set_reg(&vm, CORE_REG(regs.regs[i]), regs[i]);
	if (ret)
		program_fail("no VM: %s", strerror(-ret));

	fd = open_guest_faults();
	start = now();
	ret = vm_run(&vm);
	report("guest.touch.8G", now() - start);
	if (ret || vm.run->exit_reason != KVM_EXIT_MMIO || vm.run->mmio.phys_addr != DONE_GPA)
		program_fail("the vCPU stops: %s, exit %u", strerror(-ret), vm.run->exit_reason);
	if (read(fd, &faults, sizeof(faults)) != sizeof(faults))
		program_fail("the faults were not counted: %s", strerror(errno));
	report("guest.touch.8G.faults", faults);
	close(fd);
	vm_close(&vm);
	munmap(p, len);
	munmap(code, BLOCK);
}

/* ---- for each kernel function */

#define PERIOD		10007	/* a prime, so that it does not keep step with an operation */
#define RING_PAGES	64
#define MAX_SYMBOLS	400000
#define LEAST_PERCENT	2

struct symbol {
	uint64_t address;
	char name[64];
	unsigned long samples;
};

static struct symbol *symbols;
static unsigned int nr_symbols;

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static int by_samples(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->samples > y->samples ? -1 : x->samples < y->samples;
}

/* The first one is everything below the kernel. */
static void read_symbols(void)
{
	FILE *f = fopen("/proc/kallsyms", "re");
	char line[256], type;

	symbols = calloc(MAX_SYMBOLS, sizeof(*symbols));
	snprintf(symbols[nr_symbols++].name, sizeof(symbols->name), "user_space");
	while (f && nr_symbols < MAX_SYMBOLS && fgets(line, sizeof(line), f)) {
		struct symbol *s = &symbols[nr_symbols];

		if (sscanf(line, "%lx %c %63s", &s->address, &type, s->name) == 3 &&
		    strchr("tTwW", type) && s->name[0] != '$')
			nr_symbols++;
	}
	if (f)
		fclose(f);
}

static void take_sample(uint64_t ip)
{
	unsigned int low = 0, high = nr_symbols, middle;

	while (high - low > 1) {
		middle = (low + high) / 2;
		if (symbols[middle].address <= ip)
			low = middle;
		else
			high = middle;
	}
	symbols[low].samples++;
}

/* A record is a header and, of a sample, the address; both are multiples of 8 bytes. */
static void drain(struct perf_event_mmap_page *ring)
{
	const uint64_t size = RING_PAGES * PAGE;
	uint64_t head = __atomic_load_n(&ring->data_head, __ATOMIC_ACQUIRE);
	uint64_t tail = ring->data_tail;
	uint8_t *data = (uint8_t *)ring + PAGE;

	while (tail < head) {
		struct perf_event_header *h = (void *)(data + tail % size);

		if (h->type == PERF_RECORD_SAMPLE)
			take_sample(*(uint64_t *)(data + (tail + sizeof(*h)) % size));
		else if (h->type == PERF_RECORD_LOST)
			program_fail("samples were lost");
		tail += h->size;
	}
	__atomic_store_n(&ring->data_tail, tail, __ATOMIC_RELEASE);
}

/* An operation to profile, the one that it needs first, and how often to do both. */
struct operation {
	const char *name;
	void (*prepare)(void);
	void (*run)(unsigned int i);
	unsigned int times;
};

#define NR_FAULTS	1000

static uint8_t *profile_buf, *profile_map;

static void read_usemem_8(unsigned int i)
{
	rw(false, profile_buf, 8, v.regions[USEMEM].off);
}

static void read_resmem_8(unsigned int i)
{
	rw(false, profile_buf, 8, v.regions[RESMEM].off);
}

static void read_usemem_64k(unsigned int i)
{
	rw(false, profile_buf, KIB(64), v.regions[USEMEM].off);
}

static void unmap_blocks(void)
{
	if (profile_map)
		munmap(profile_map, (NR_FAULTS + 1) * BLOCK);
	profile_map = NULL;
}

static void map_blocks(size_t skew)
{
	const size_t len = (NR_FAULTS + 1) * BLOCK;

	unmap_blocks();
	profile_map = map_region(&v, USEMEM, reserve(len, skew), 0, len);
	if (profile_map == MAP_FAILED)
		program_fail("usemem cannot be mapped: %s", strerror(errno));
}

static void map_aligned(void)
{
	map_blocks(0);
}

static void map_unaligned(void)
{
	map_blocks(PAGE);
}

static void touch_block(unsigned int i)
{
	*(volatile uint8_t *)(profile_map + i * BLOCK);
}

static void reset_gpu(unsigned int i)
{
	if (ioctl(v.device, VFIO_DEVICE_RESET) && hot_reset(&v))
		program_fail("no reset: %s", strerror(errno));
}

static void close_and_open(unsigned int i)
{
	vfio_close(&v);
	open_device_or_fail();
}

static const struct operation operations[] = {
	{ "read.usemem.8", NULL, read_usemem_8, 50000 },
	{ "read.resmem.8", NULL, read_resmem_8, 50000 },
	{ "read.usemem.64K", NULL, read_usemem_64k, 5000 },
	{ "fault.block", map_aligned, touch_block, NR_FAULTS },
	{ "fault.table", map_unaligned, touch_block, NR_FAULTS },
	{ "reset", unmap_blocks, reset_gpu, 20 },
	{ "close_and_open", NULL, close_and_open, 20 },
};

/* Instructions of one; with samples taken if there is a RING for them. */
static uint64_t run(const struct operation *op, int sampler, struct perf_event_mmap_page *ring)
{
	uint64_t start, cost;
	unsigned int i;

	if (op->prepare)
		op->prepare();
	if (ring)
		ioctl(sampler, PERF_EVENT_IOC_ENABLE);
	start = now();
	for (i = 0; i < op->times; i++) {
		op->run(i);
		if (ring)
			drain(ring);
	}
	cost = now() - start;
	if (ring)
		ioctl(sampler, PERF_EVENT_IOC_DISABLE);
	return cost / op->times;
}

/* Samples say how the instructions are shared out, and not how many there are. */
static void sample(const struct operation *op)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = PERIOD,
		.sample_type = PERF_SAMPLE_IP,
		.disabled = 1,
	};
	int sampler = open_event(&attr);
	struct perf_event_mmap_page *ring = mmap(NULL, (1 + RING_PAGES) * PAGE,
						 PROT_READ | PROT_WRITE, MAP_SHARED, sampler, 0);
	uint64_t cost, samples = 0;
	unsigned int i;

	if (ring == MAP_FAILED)
		program_fail("no samples: %s", strerror(errno));
	for (i = 0; i < nr_symbols; i++)
		symbols[i].samples = 0;
	qsort(symbols, nr_symbols, sizeof(*symbols), by_address);
	cost = run(op, -1, NULL);
	run(op, sampler, ring);
	munmap(ring, (1 + RING_PAGES) * PAGE);
	close(sampler);

	for (i = 0; i < nr_symbols; i++)
		samples += symbols[i].samples;
	printf("profile %s %lu all\n", op->name, cost);
	qsort(symbols, nr_symbols, sizeof(*symbols), by_samples);
	for (i = 0; symbols[i].samples * 100 > samples * LEAST_PERCENT; i++)
		printf("profile %s %lu %s\n", op->name, cost * symbols[i].samples / samples,
		       symbols[i].name);
}

static void profiles(void)
{
	unsigned int i;

	/* Each sample is wanted, however long they take. */
	write_file("/proc/sys/kernel/perf_cpu_time_max_percent", "0");
	write_file("/proc/sys/kernel/perf_event_max_sample_rate", "10000000");
	read_symbols();
	profile_buf = aligned_alloc(MIB(2), MIB(2));
	memset(profile_buf, 0x5a, MIB(2));
	for (i = 0; i < ARRAY_SIZE(operations); i++) {
		if (operations[i].run != touch_block)
			operations[i].run(0);	/* its cost does not include the first use */
		sample(&operations[i]);
	}
}

struct zeroer {
	pthread_t thread;
	void *p;
	uint64_t len;
};

static void *write_zeroes(void *arg)
{
	struct zeroer *z = arg;

	memset(z->p, 0, z->len);
	return NULL;
}

/* Write zeroes by a thread on each CPU. */
static void write_zeroes_by_threads(char *p, uint64_t size)
{
	int t, nr = sysconf(_SC_NPROCESSORS_ONLN);
	struct zeroer z[nr];

	for (t = 0; t < nr; t++) {
		z[t].p = p + t * (size / nr);
		z[t].len = size / nr;
		if (pthread_create(&z[t].thread, NULL, write_zeroes, &z[t]))
			program_fail("no thread: %s", strerror(errno));
	}
	for (t = 0; t < nr; t++)
		pthread_join(z[t].thread, NULL);
}

/* EGM: an owner writes zeroes itself, then the driver does for the next one. */
static void time_egm(bool by_driver)
{
	int fd = open("/dev/egm4", O_RDWR | O_CLOEXEC);
	uint64_t size = lseek(fd, 0, SEEK_END), start;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char state[64] = "";

	if (p == MAP_FAILED)
		program_fail("/dev/egm4 cannot be mapped: %s", strerror(errno));
	start = now();
	write_zeroes_by_threads(p, size);
	if (!by_driver)
		report("egm.zeroes", now() - start);
	munmap(p, size);
	start = now();
	close(fd);
	while (strcmp(state, "zeroed")) {
		usleep(1000);
		read_line("/sys/class/egm/egm4/state", state, sizeof(state));
	}
	if (by_driver)
		report("egm.zeroes", now() - start);
}

/* An owner who wants zeroes. With scrub=1 open writes them, else the owner does, on each CPU. */
static void time_zeroes(void)
{
	uint64_t start = now();
	bool zeroed;
	int i;

	open_device_or_fail();
	zeroed = !strncmp(driver_says("handover"), "zeroed", 6);
	for (i = 0; !zeroed && i < NR_REGIONS; i++) {
		char *p = map_region(&v, i, NULL, 0, v.regions[i].backed);

		if (p == MAP_FAILED)
			program_fail("region %d cannot be mapped: %s", i, strerror(errno));
		write_zeroes_by_threads(p, v.regions[i].backed);
	}
	report("open.zeroes", now() - start);
}

int main(int argc, char **argv)
{
	const char *rows = argc == 2 ? argv[1] : "";
	bool all = !strcmp(rows, "all");
	uint64_t start;

	program_check(&program, argc, argv);
	if (!strcmp(rows, "zeroes")) {
		time_zeroes();
		vfio_close(&v);
		return 0;
	}
	if (!strncmp(rows, "egm", 3)) {
		time_egm(!strcmp(rows, "egm"));
		return 0;
	}
	if (!all && strcmp(rows, "growth") && strcmp(rows, "profile"))
		program_skip(&program, "it takes all, growth, profile, zeroes, egm or egm-memset");
	if (env_is("COUNT", "instructions") || !strcmp(rows, "profile"))
		counter = open_counter();

	start = now();
	open_device_or_fail();
	if (!strcmp(rows, "profile")) {
		profiles();
		vfio_close(&v);
		return 0;
	}
	report("open", now() - start);
	growth();
	if (all) {
		reads_and_writes();
		time_small_blocks();
		time_threads();
		time_dma_map();
		time_guest();
	}
	vfio_close(&v);
	return 0;
}
