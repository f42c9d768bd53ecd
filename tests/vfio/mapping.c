// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings of a region that two threads touch first at once, that are cut, moved and mapped over,
 * and that a type1 container maps for DMA. A test that does what a program of awilliam/tests does
 * names that program.
 */
#include <stdatomic.h>
#include <sys/prctl.h>

#include "fault.h"
#include "fixture.h"
#include "pattern.h"
#include "task.h"

static const struct program program = {
	.what = "mappings that threads race for, that are cut and moved, and DMA maps of them",
	.vars = {
		VAR_BDF, VAR_REGIONS, VAR_RESET,
		{ "ROUNDS", "how often two threads race for a block", "2000", true },
	},
	.args = "-r mapping.usemem.unmap_in_the_middle",
};

/* So many blocks of each region have a value in each page: its seed and offset say which. */
#define NR_BLOCKS	3

FIXTURE(mapping)
{
	struct vfio v;
	int fd;
	unsigned int nr, other;
};

FIXTURE_VARIANT(mapping)
{
	unsigned int nr;
};

FIXTURE_VARIANT_ADD(mapping, usemem) { .nr = USEMEM };
FIXTURE_VARIANT_ADD(mapping, resmem) { .nr = RESMEM };

static uint64_t value_at(unsigned int region, uint64_t pos)
{
	return pattern(100 + region, pos);
}

static void fill_blocks(struct __test_metadata *_metadata, const struct vfio *v)
{
	unsigned int r;
	uint64_t pos;

	for (r = 0; r < NR_REGIONS; r++) {
		volatile uint64_t *p = map_region(v, r, reserve(NR_BLOCKS * BLOCK, 0), 0,
						  NR_BLOCKS * BLOCK);

		ASSERT_NE(MAP_FAILED, (void *)p);
		for (pos = 0; pos < NR_BLOCKS * BLOCK; pos += PAGE)
			p[pos / 8] = value_at(r, pos);
		munmap((void *)p, NR_BLOCKS * BLOCK);
	}
}

FIXTURE_SETUP(mapping)
{
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	self->nr = variant->nr;
	self->other = !variant->nr;
	ASSERT_EQ(0, enable_memory(self->fd));
	fill_blocks(_metadata, &self->v);
}

FIXTURE_TEARDOWN(mapping)
{
	vfio_close(&self->v);
}

/*
 * Does each page of LEN bytes at P show what REGION has at POS? Returns the last that does not, or
 * -1. Backward, so that a fault that maps a page table has pages below it to map.
 */
static long last_wrong(const void *p, unsigned int region, uint64_t pos, size_t len)
{
	size_t off = len;

	while (off) {
		off -= PAGE;
		if (*(volatile const uint64_t *)(p + off) != value_at(region, pos + off))
			return off;
	}
	return -1;
}

static int signal_at(void *p)
{
	return fault_of((void)*(volatile uint64_t *)p).sig;
}

/* ------------------------------------------------------------------------ */

/*
 * Two threads are the first to touch a block, at the same time: one on its first page, the other
 * on its last or on a page between. vfio-pci-huge-fault-race.c of awilliam/tests does that 100,000
 * times for a BAR, with two new threads each time, and wants no VM_FAULT_OOM in the log.
 */
struct race {
	volatile uint64_t *block;
	unsigned int nr;		/* of the region */
	atomic_uint go, done;		/* the round that began, and that the racer ended */
	unsigned int rounds;
	uint64_t wrong;			/* loads of the racer that saw another value */
};

/* The racer touches this page in the round: it loads a word, and may store the next one. */
static size_t raced_page(unsigned int round)
{
	size_t last = BLOCK / PAGE - 1;

	return round % 3 ? last : 1 + round % last;
}

static void wait_for_round(atomic_uint *at, unsigned int round)
{
	unsigned int spins = 0;

	while (atomic_load(at) != round)
		if (!(++spins % 2000))
			sched_yield();
}

static void *racer(void *arg)
{
	struct race *r = arg;
	unsigned int round;

	for (round = 1; round <= r->rounds; round++) {
		size_t pos = raced_page(round) * PAGE;

		wait_for_round(&r->go, round);
		if (round % 2)
			r->block[pos / 8 + 1] = round;
		r->wrong += r->block[pos / 8] != value_at(r->nr, pos);
		atomic_store(&r->done, round);
	}
	return NULL;
}

static unsigned int race_rounds(void)
{
	return atoi(getenv("ROUNDS") ?: "2000");
}

/* Take the block out of the page tables, in one of three ways. */
static void take_away(struct __test_metadata *_metadata, const FIXTURE_DATA(mapping) * self,
		      void *block, unsigned int round)
{
	if (round % 512 == 511 && !reset_is("none")) {
		ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
		return;
	}
	if (round % 2)
		ASSERT_EQ(0, munmap(block, BLOCK));
	ASSERT_EQ(block, map_region(&self->v, self->nr, block, 0, BLOCK));
}

static void *toggle_huge_pages(void *arg)
{
	atomic_bool *stop = arg;

	while (!atomic_load(stop)) {
		prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
		prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
	}
	return NULL;
}

/*
 * Race for all rounds. THP: a third thread turns huge pages off and on meanwhile, so that one of
 * the two maps a block and the other one a page table.
 */
static void race(struct __test_metadata *_metadata, const FIXTURE_DATA(mapping) * self, bool thp)
{
	struct race r = {
		.block = reserve(BLOCK, 0),
		.nr = self->nr,
		.rounds = race_rounds(),
	};
	long faults = minor_faults(), start = now_ms();
	unsigned int round, i;
	uint64_t value, wrong = 0, lost = 0;
	pthread_t thread, toggler;
	atomic_bool stop = false;
	size_t pos;

	ASSERT_EQ(r.block, map_region(&self->v, self->nr, (void *)r.block, 0, BLOCK));
	ASSERT_EQ(0, pthread_create(&thread, NULL, racer, &r));
	if (thp)
		ASSERT_EQ(0, pthread_create(&toggler, NULL, toggle_huge_pages, &stop));
	for (round = 1; round <= r.rounds; round++) {
		take_away(_metadata, self, (void *)r.block, round);
		atomic_store(&r.go, round);
		/* Neither thread always comes first. */
		for (i = 0; i < round % 64; i++)
			atomic_load(&r.done);
		if (round % 4 < 2)
			r.block[1] = round;
		wrong += r.block[0] != value_at(self->nr, 0);
		wait_for_round(&r.done, round);

		/* The racer's store is in the memory. */
		pos = raced_page(round) * PAGE;
		lost += round % 2 && r.block[pos / 8 + 1] != round;
		if (round % 64)
			continue;
		EXPECT_EQ(8, pread(self->fd, &value, 8, self->v.regions[self->nr].off + pos));
		EXPECT_EQ(value_at(self->nr, pos), value);
		EXPECT_EQ(-1, last_wrong((void *)r.block, self->nr, 0, BLOCK));
	}
	pthread_join(thread, NULL);
	atomic_store(&stop, true);
	if (thp)
		pthread_join(toggler, NULL);
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(0, r.wrong);
	EXPECT_EQ(0, lost);
	/* Each round took the block away. */
	EXPECT_LE(r.rounds, minor_faults() - faults);
	TH_LOG("%u rounds, %ld faults, %ld ms", r.rounds, minor_faults() - faults,
	       now_ms() - start);
	munmap((void *)r.block, BLOCK);
}

TEST_F_TIMEOUT(mapping, first_touch_by_two_threads, 14400)
{
	race(_metadata, self, false);
}

TEST_F_TIMEOUT(mapping, first_touch_while_huge_pages_go, 14400)
{
	race(_metadata, self, true);
}

/* ------------------------------------------------------------------------ */

/*
 * Any range of pages, at any address: vfio-pci-device-map-alignment.c maps a BAR from random
 * offsets on, and in random sizes, where mmap() likes. Here half of them are at a fixed address.
 */
TEST_F(mapping, ranges_at_any_address)
{
	const size_t pages = NR_BLOCKS * BLOCK / PAGE;
	void *area = reserve((NR_BLOCKS + 1) * BLOCK, 0);
	unsigned int i;

	srandom(1);
	for (i = 0; i < 300; i++) {
		size_t first = random() % pages;
		size_t nr = 1 + random() % (pages - first);
		void *at = i % 2 ? NULL : area + random() % (BLOCK / PAGE) * PAGE;
		void *p = map_region(&self->v, self->nr, at, first * PAGE, nr * PAGE);

		ASSERT_NE(MAP_FAILED, p);
		EXPECT_EQ(0, (uintptr_t)p % PAGE);
		EXPECT_EQ(-1, last_wrong(p, self->nr, first * PAGE, PAGE));
		EXPECT_EQ(-1, last_wrong(p + (nr - 1) * PAGE, self->nr,
					 (first + nr - 1) * PAGE, PAGE));
		EXPECT_EQ(-1, last_wrong(p, self->nr, first * PAGE, nr * PAGE)) {
			TH_LOG("%zu pages from page %zu on, at %p", nr, first, p);
		}
		ASSERT_EQ(0, munmap(p, nr * PAGE));
	}
}

/* mmap() where it likes, over and over, and nothing is left of it. */
TEST_F(mapping, all_of_it_again_and_again)
{
	const uint64_t backed = self->v.regions[self->nr].backed;
	long before = 0;
	unsigned int i;

	for (i = 0; i < 1000; i++) {
		void *p = map_region(&self->v, self->nr, NULL, 0, backed);

		ASSERT_NE(MAP_FAILED, p);
		EXPECT_EQ(-1, last_wrong(p + BLOCK, self->nr, BLOCK, PAGE));
		ASSERT_EQ(0, munmap(p, backed));
		if (i == 10)
			before = vm_pte_kib();
	}
	EXPECT_GE(before + 8 * (long)(PAGE >> 10), vm_pte_kib());
}

/* One page less and more than the middle block, so that each side of a boundary is cut. */
static const struct {
	long from, to;		/* pages off the middle block's ends */
} cuts[] = { { 0, 0 }, { 1, -1 }, { -1, 1 }, { 1, 1 }, { -1, -1 }, { 3, 0 }, { 0, -5 } };

struct cut {
	void *p;
	size_t from, to;
};

/* Map all blocks and touch them. */
static struct cut mapped_blocks(struct __test_metadata *_metadata,
				const FIXTURE_DATA(mapping) * self, unsigned int i)
{
	struct cut c = {
		.p = reserve(NR_BLOCKS * BLOCK, 0),
		.from = BLOCK + cuts[i].from * PAGE,
		.to = 2 * BLOCK + cuts[i].to * PAGE,
	};

	ASSERT_EQ(c.p, map_region(&self->v, self->nr, c.p, 0, NR_BLOCKS * BLOCK));
	EXPECT_EQ(-1, last_wrong(c.p, self->nr, 0, NR_BLOCKS * BLOCK));
	return c;
}

/* Both sides of the cut are as they were. */
static void expect_sides(struct __test_metadata *_metadata, const FIXTURE_DATA(mapping) * self,
			 const struct cut *c)
{
	EXPECT_EQ(-1, last_wrong(c->p, self->nr, 0, c->from));
	EXPECT_EQ(-1, last_wrong(c->p + c->to, self->nr, c->to, NR_BLOCKS * BLOCK - c->to));
}

TEST_F(mapping, unmap_in_the_middle)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cuts); i++) {
		struct cut c = mapped_blocks(_metadata, self, i);
		size_t len = c.to - c.from;

		ASSERT_EQ(0, munmap(c.p + c.from, len));
		EXPECT_EQ(SIGSEGV, signal_at(c.p + c.from));
		EXPECT_EQ(SIGSEGV, signal_at(c.p + c.to - PAGE));
		expect_sides(_metadata, self, &c);

		/* Mapped again, it is one mapping again. */
		ASSERT_EQ(c.p + c.from, map_region(&self->v, self->nr, c.p + c.from, c.from, len));
		EXPECT_EQ(-1, last_wrong(c.p, self->nr, 0, NR_BLOCKS * BLOCK));
		munmap(c.p, NR_BLOCKS * BLOCK);
	}
}

/* MAP_FIXED over a touched mapping: the other region, another part of this one, plain memory. */
TEST_F(mapping, map_fixed_over)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cuts); i++) {
		struct cut c = mapped_blocks(_metadata, self, i);
		void *middle = c.p + c.from;
		size_t len = c.to - c.from;

		ASSERT_EQ(middle, map_region(&self->v, self->other, middle, c.from, len));
		EXPECT_EQ(-1, last_wrong(middle, self->other, c.from, len));
		expect_sides(_metadata, self, &c);

		ASSERT_EQ(middle, map_region(&self->v, self->nr, middle, 3 * PAGE, len));
		EXPECT_EQ(-1, last_wrong(middle, self->nr, 3 * PAGE, len));
		expect_sides(_metadata, self, &c);

		ASSERT_EQ(middle, mmap(middle, len, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		EXPECT_EQ(0, *(volatile uint64_t *)middle);
		memset(middle, 0xee, len);
		expect_sides(_metadata, self, &c);

		/* The stores to plain memory did not reach the region. */
		ASSERT_EQ(middle, map_region(&self->v, self->nr, middle, c.from, len));
		EXPECT_EQ(-1, last_wrong(c.p, self->nr, 0, NR_BLOCKS * BLOCK));
		munmap(c.p, NR_BLOCKS * BLOCK);
	}
}

/* A part of a touched mapping moves, to an address that is aligned otherwise, and back. */
TEST_F(mapping, mremap_moves_a_part)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cuts); i++) {
		struct cut c = mapped_blocks(_metadata, self, i);
		void *middle = c.p + c.from, *to = reserve(2 * BLOCK, 5 * PAGE);
		size_t len = c.to - c.from;

		ASSERT_EQ(to, mremap(middle, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to));
		EXPECT_EQ(SIGSEGV, signal_at(middle));
		EXPECT_EQ(-1, last_wrong(to, self->nr, c.from, len));
		expect_sides(_metadata, self, &c);

		ASSERT_EQ(middle, mremap(to, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, middle));
		EXPECT_EQ(SIGSEGV, signal_at(to));
		EXPECT_EQ(-1, last_wrong(c.p, self->nr, 0, NR_BLOCKS * BLOCK));
		munmap(c.p, NR_BLOCKS * BLOCK);
	}
}

TEST_F(mapping, mremap_shrinks_and_copies_nothing)
{
	struct cut c = mapped_blocks(_metadata, self, 0);

	/* From 0 bytes it would be a second mapping of the same: VM_DONTEXPAND rules that out. */
	EXPECT_ERRNO(EFAULT, (long)mremap(c.p, 0, BLOCK, MREMAP_MAYMOVE));
	EXPECT_ERRNO(EINVAL, (long)mremap(c.p, BLOCK, BLOCK,
					  MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0));
	EXPECT_EQ(-1, last_wrong(c.p, self->nr, 0, NR_BLOCKS * BLOCK));

	ASSERT_EQ(c.p, mremap(c.p, NR_BLOCKS * BLOCK, BLOCK + PAGE, 0));
	EXPECT_EQ(-1, last_wrong(c.p, self->nr, 0, BLOCK + PAGE));
	EXPECT_EQ(SIGSEGV, signal_at(c.p + BLOCK + PAGE));
	munmap(c.p, BLOCK + PAGE);
}

/* ------------------------------------------------------------------------ */

#define IOVA	0x800000000UL

FIXTURE(dma)
{
	struct vfio v;
	int fd;
	void *p;
};

FIXTURE_VARIANT(dma)
{
	unsigned int nr;
};

FIXTURE_VARIANT_ADD(dma, usemem) { .nr = USEMEM };
FIXTURE_VARIANT_ADD(dma, resmem) { .nr = RESMEM };

FIXTURE_SETUP(dma)
{
	if (!open_device(_metadata, &self->v, &self->fd, TYPE1))
		return;
	ASSERT_EQ(0, enable_memory(self->fd));
	fill_blocks(_metadata, &self->v);
	self->p = map_region(&self->v, variant->nr, reserve(NR_BLOCKS * BLOCK, 0), 0,
			     NR_BLOCKS * BLOCK);
	ASSERT_NE(MAP_FAILED, self->p);
}

FIXTURE_TEARDOWN(dma)
{
	vfio_close(&self->v);
}

/* The bytes that were unmapped, or -errno. */
static int64_t dma_unmap(const struct vfio *v, uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = iova,
		.size = size,
	};

	return ioctl(v->container, VFIO_IOMMU_UNMAP_DMA, &unmap) ? -errno : (int64_t)unmap.size;
}

/* As vfio-pci-mem-dma-map.c does with memory: map and unmap all of it, ten times. */
TEST_F_TIMEOUT(dma, map_and_unmap_blocks, 120)
{
	const uint64_t size = NR_BLOCKS * BLOCK;
	int i;

	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, dma_map(&self->v, self->p, size, IOVA));
		EXPECT_EQ(-EEXIST, dma_map(&self->v, self->p, size, IOVA));
		EXPECT_EQ(-EEXIST, dma_map(&self->v, self->p, PAGE, IOVA + size - PAGE));
		/* Of a map as a whole, no part goes. */
		EXPECT_EQ(-EINVAL, dma_unmap(&self->v, IOVA, BLOCK));
		EXPECT_EQ(-EINVAL, dma_unmap(&self->v, IOVA + size - PAGE, PAGE));
		EXPECT_EQ(size, dma_unmap(&self->v, IOVA, size));
		EXPECT_EQ(0, dma_unmap(&self->v, IOVA, size));
		/* The process takes its mapping away, and maps it again, between two rounds. */
		ASSERT_EQ(self->p, map_region(&self->v, variant->nr, self->p, 0, size));
	}
	EXPECT_EQ(-1, last_wrong(self->p, variant->nr, 0, size));
}

#define NR_PAGES	64U

/* The Nth page of four orders: forward, backward, and both with each second page first. */
static unsigned int nth_page(unsigned int order, unsigned int n)
{
	unsigned int page = order < 2 ? n : n < NR_PAGES / 2 ? 2 * n : 2 * n - NR_PAGES + 1;

	return order % 2 ? NR_PAGES - 1 - page : page;
}

/* Page by page, across the boundary of two blocks, as vfio-correctness-tests.c does with memory. */
TEST_F_TIMEOUT(dma, map_and_unmap_pages, 120)
{
	void *p = self->p + BLOCK - NR_PAGES / 2 * PAGE;
	unsigned int order, n;

	for (order = 0; order < 4; order++) {
		for (n = 0; n < NR_PAGES; n++) {
			uint64_t off = nth_page(order, n) * PAGE;

			ASSERT_EQ(0, dma_map(&self->v, p + off, PAGE, IOVA + off));
			EXPECT_EQ(-EEXIST, dma_map(&self->v, p, PAGE, IOVA + off));
		}
		for (n = 0; n < NR_PAGES; n++) {
			uint64_t off = nth_page(order, n) * PAGE;

			EXPECT_EQ(PAGE, dma_unmap(&self->v, IOVA + off, PAGE));
			EXPECT_EQ(0, dma_unmap(&self->v, IOVA + off, PAGE));
		}
		EXPECT_EQ(0, dma_unmap(&self->v, IOVA, NR_PAGES * PAGE));
	}
}

/* A hole, or a mapping that ends too early, is an error, and nothing stays mapped. */
TEST_F(dma, map_past_the_mapping)
{
	const uint64_t size = NR_BLOCKS * BLOCK;

	ASSERT_EQ(0, munmap(self->p + BLOCK + PAGE, PAGE));
	EXPECT_EQ(-EFAULT, dma_map(&self->v, self->p, size, IOVA));
	EXPECT_EQ(0, dma_unmap(&self->v, IOVA, size));
	EXPECT_EQ(0, dma_map(&self->v, self->p, BLOCK + PAGE, IOVA));
	EXPECT_EQ(0, dma_map(&self->v, self->p + BLOCK + 2 * PAGE, size - BLOCK - 2 * PAGE,
			     IOVA + BLOCK + 2 * PAGE));
	EXPECT_EQ(size - PAGE, dma_unmap(&self->v, IOVA, size));
}

static long locked_kib(void)
{
	char line[128];
	long kib = -1;
	FILE *f = fopen("/proc/self/status", "r");

	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "VmLck: %ld", &kib);
	fclose(f);
	return kib;
}

static void *lock_and_unlock(void *arg)
{
	atomic_bool *stop = arg;
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long failed = 0;

	while (!atomic_load(stop))
		failed += mlock(page, PAGE) || munlock(page, PAGE);
	munmap(page, PAGE);
	return (void *)failed;
}

/*
 * A DMA map of plain memory counts as locked memory, and one of a BAR does not. Both are mapped
 * while another thread locks pages: accounting-stress.c.
 */
TEST_F_TIMEOUT(dma, locked_memory_is_counted, 120)
{
	void *ram = mmap(NULL, MIB(1), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	atomic_bool stop = false;
	pthread_t thread;
	void *failed;
	long end;

	ASSERT_EQ(0, locked_kib());
	ASSERT_EQ(0, dma_map(&self->v, self->p, BLOCK, IOVA));
	EXPECT_EQ(0, locked_kib());
	ASSERT_EQ(0, dma_map(&self->v, ram, MIB(1), IOVA + BLOCK));
	EXPECT_EQ(1024, locked_kib());
	ASSERT_EQ(BLOCK + MIB(1), dma_unmap(&self->v, IOVA, BLOCK + MIB(1)));

	ASSERT_EQ(0, pthread_create(&thread, NULL, lock_and_unlock, &stop));
	for (end = now_ms() + 2000; now_ms() < end;) {
		ASSERT_EQ(0, dma_map(&self->v, self->p, PAGE, IOVA));
		ASSERT_EQ(0, dma_map(&self->v, ram, KIB(64), IOVA + BLOCK));
		ASSERT_EQ(PAGE, dma_unmap(&self->v, IOVA, PAGE));
		ASSERT_EQ(KIB(64), dma_unmap(&self->v, IOVA + BLOCK, KIB(64)));
	}
	atomic_store(&stop, true);
	ASSERT_EQ(0, pthread_join(thread, &failed));
	EXPECT_EQ(NULL, failed);
	EXPECT_EQ(0, locked_kib());
}

TEST_PROGRAM_MAIN(program)
