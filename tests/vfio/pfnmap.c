// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA maps of a mapping of usemem with VFIO's type1: which pfns the IOMMU gets, and how often the
 * kernel has to look for them.
 */
#include <sys/resource.h>

#include "fixture.h"

static const struct program program = {
	.what = "DMA maps of usemem with VFIO's type1",
	.vars = {
		VAR_BDF, VAR_REGIONS,
		{ "BASE", "physical address of usemem", "0x70000000000" },
		{ "DMA", "how this kernel finds the pfns: by block, or by page as 6.12", "block" },
	},
};

#define IOVA	0x800000000UL
#define TRACING	"/sys/kernel/tracing/"
#define DISABLE_HUGEPAGES "/sys/module/vfio_iommu_type1/parameters/disable_hugepages"

FIXTURE(pfnmap)
{
	struct vfio v;
	int fd;
	uint64_t phys;
	void *area;
};

static void put(struct __test_metadata *_metadata, const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_TRUNC);

	ASSERT_LE(0, fd) TH_LOG("%s: %s", file, strerror(errno));
	ASSERT_EQ(strlen(text), write(fd, text, strlen(text))) TH_LOG("%s", file);
	close(fd);
}

FIXTURE_SETUP(pfnmap)
{
	void *p;

	self->phys = strtoul(getenv("BASE"), NULL, 0);
	if (!open_device(_metadata, &self->v, &self->fd, TYPE1))
		return;

	/* Room for a few blocks, aligned. */
	p = mmap(NULL, 16 * BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	self->area = (void *)(((uintptr_t)p + BLOCK - 1) & ~(BLOCK - 1));

	put(_metadata, TRACING "kprobe_events", "p:follow follow_pfnmap_start\n");
	put(_metadata, TRACING "events/kprobes/follow/enable", "1");
	put(_metadata, TRACING "events/iommu/map/enable", "1");
	put(_metadata, TRACING "trace", "\n");
}

FIXTURE_TEARDOWN(pfnmap)
{
	put(_metadata, DISABLE_HUGEPAGES, "N");
	put(_metadata, TRACING "events/iommu/map/enable", "0");
	put(_metadata, TRACING "events/kprobes/follow/enable", "0");
	put(_metadata, TRACING "kprobe_events", "\n");
	vfio_close(&self->v);
}

static int dma_map_at(FIXTURE_DATA(pfnmap) * self, void *va, uint64_t size, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = flags,
		.vaddr = (uintptr_t)va,
		.iova = IOVA,
		.size = size,
	};

	return ioctl(self->v.container, VFIO_IOMMU_MAP_DMA, &map) ? -errno : 0;
}

/* The size that was unmapped. */
static int64_t dma_unmap(FIXTURE_DATA(pfnmap) * self, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = IOVA,
		.size = size,
	};

	return ioctl(self->v.container, VFIO_IOMMU_UNMAP_DMA, &unmap) ? -errno : unmap.size;
}

#define RW	(VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)

static void *map_usemem(FIXTURE_DATA(pfnmap) * self, void *at, uint64_t off, uint64_t size,
			int prot)
{
	return mmap(at, size, prot, MAP_SHARED | (at ? MAP_FIXED : 0), self->v.device,
		    self->v.regions[USEMEM].off + off);
}

/* How often follow_pfnmap_start() was called. Missed probes count, too. */
static unsigned long follows(void)
{
	unsigned long hits, missed, sum = 0;
	char line[256];
	FILE *f = fopen(TRACING "kprobe_profile", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " follow %lu %lu", &hits, &missed) == 2)
			sum = hits + missed;
	if (f)
		fclose(f);
	return sum;
}

static double kernel_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_stime.tv_sec + u.ru_stime.tv_usec / 1e6;
}

/* Bytes of [IOVA + off, + size) that the IOMMU was given as memory at phys. */
static uint64_t iommu_has(uint64_t off, uint64_t phys, uint64_t size)
{
	uint64_t first, last, p, sum = 0;
	char line[512], *s;
	FILE *f = fopen(TRACING "trace", "r");

	while (f && fgets(line, sizeof(line), f)) {
		s = strstr(line, "iova=");
		if (!s || sscanf(s, "iova=%lx - %lx paddr=%lx", &first, &last, &p) != 3)
			continue;
		if (first < IOVA + off) {
			p += IOVA + off - first;
			first = IOVA + off;
		}
		if (last > IOVA + off + size)
			last = IOVA + off + size;
		if (first < last && p - phys == first - IOVA - off)
			sum += last - first;
	}
	if (f)
		fclose(f);
	return sum;
}

/* The number of maps that the IOMMU was asked for in this range. */
static unsigned int iommu_maps(uint64_t size)
{
	uint64_t first, last;
	unsigned int n = 0;
	char line[512], *s;
	FILE *f = fopen(TRACING "trace", "r");

	while (f && fgets(line, sizeof(line), f)) {
		s = strstr(line, "iova=");
		if (s && sscanf(s, "iova=%lx - %lx", &first, &last) == 2)
			n += first >= IOVA && last <= IOVA + size;
	}
	if (f)
		fclose(f);
	return n;
}

/* Map all of usemem, as a VMM does at its guest's start, and say how long that takes. */
TEST_F_TIMEOUT(pfnmap, dma_map_of_usemem, 300)
{
	const uint64_t size = self->v.regions[USEMEM].backed;
	const bool by_block = env_is("DMA", "block");
	unsigned long before;
	double start;
	void *p;

	p = map_usemem(self, NULL, 0, size, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p);
	before = follows();
	start = kernel_seconds();
	ASSERT_EQ(0, dma_map_at(self, p, size, RW));
	printf("# DMA map of %lu MiB: %.2f s in the kernel, %lu entries followed\n",
	       size >> 20, kernel_seconds() - start, follows() - before);
	/* The kernel looks once more after the fault, if the entry is not there yet. */
	EXPECT_LE(by_block ? 1 : size / PAGE, follows() - before);
	EXPECT_GE(by_block ? 2 * (size / BLOCK) : ~0UL, follows() - before);
	EXPECT_EQ(size, iommu_has(0, self->phys, size));

	start = kernel_seconds();
	EXPECT_EQ(size, dma_unmap(self, size));
	printf("# unmap: %.2f s in the kernel\n", kernel_seconds() - start);
	munmap(p, size);
}

/* Map a range that begins three pages into a block, and nothing beyond it. */
static void map_part(struct __test_metadata *_metadata, FIXTURE_DATA(pfnmap) * self, uint64_t size)
{
	ASSERT_EQ(self->area, map_usemem(self, self->area, 0, 4 * BLOCK, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, dma_map_at(self, self->area + 3 * PAGE, size, RW));
	EXPECT_EQ(size, iommu_has(0, self->phys + 3 * PAGE, size));
	EXPECT_EQ(0, iommu_has(size, self->phys + 3 * PAGE + size, BLOCK));
	EXPECT_EQ(size, dma_unmap(self, size));
}

TEST_F(pfnmap, dma_map_of_parts_of_blocks)
{
	map_part(_metadata, self, 2 * BLOCK - 5 * PAGE);
}

TEST_F(pfnmap, dma_map_within_a_block)
{
	map_part(_metadata, self, 5 * PAGE);
}

/* The administrator has turned huge pages off: type1 maps each page by itself. */
TEST_F(pfnmap, dma_map_without_huge_pages)
{
	const uint64_t size = 2 * BLOCK - 5 * PAGE;

	put(_metadata, DISABLE_HUGEPAGES, "Y");
	map_part(_metadata, self, size);
	EXPECT_EQ(size / PAGE, iommu_maps(size));
}

/* Blocks that follow each other in the address space and not in memory, less a few pages. */
TEST_F(pfnmap, dma_map_of_blocks_out_of_order)
{
	const uint64_t skip = 3 * PAGE, size = 4 * BLOCK - skip;
	unsigned int i;

	for (i = 0; i < 4; i++)
		ASSERT_EQ(self->area + i * BLOCK,
			  map_usemem(self, self->area + i * BLOCK, (3 - i) * BLOCK, BLOCK,
				     PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, dma_map_at(self, self->area + skip, size, RW));
	EXPECT_EQ(BLOCK - skip, iommu_has(0, self->phys + 3 * BLOCK + skip, BLOCK - skip));
	for (i = 1; i < 4; i++)
		EXPECT_EQ(BLOCK, iommu_has(i * BLOCK - skip, self->phys + (3 - i) * BLOCK, BLOCK));
	EXPECT_EQ(size, dma_unmap(self, size));
}

/*
 * Ordinary memory and the GPU's take turns, with borders that are not those of blocks. Their pfns
 * are never neighbours, so no test can have a run that ends between the two kinds.
 */
TEST_F(pfnmap, dma_map_of_mixed_memory)
{
	const uint64_t size = 2 * BLOCK;
	const uint64_t step = BLOCK / 2 + 7 * PAGE;
	uint64_t off, len;
	unsigned int i;

	for (i = 0, off = 0; off < size; i++, off += len) {
		len = size - off < step ? size - off : step;
		if (i % 2) {
			ASSERT_EQ(self->area + off,
				  map_usemem(self, self->area + off, off, len,
					     PROT_READ | PROT_WRITE));
		} else {
			ASSERT_EQ(self->area + off,
				  mmap(self->area + off, len, PROT_READ | PROT_WRITE,
				       MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		}
	}
	ASSERT_EQ(0, dma_map_at(self, self->area, size, RW));
	for (i = 0, off = 0; off < size; i++, off += len) {
		len = size - off < step ? size - off : step;
		EXPECT_EQ(i % 2 ? len : 0, iommu_has(off, self->phys + off, len));
	}
	EXPECT_EQ(size, dma_unmap(self, size));
}

TEST_F(pfnmap, dma_map_that_may_only_read)
{
	ASSERT_EQ(self->area, map_usemem(self, self->area, 0, BLOCK, PROT_READ));
	(void)*(volatile char *)self->area;
	EXPECT_EQ(-EFAULT, dma_map_at(self, self->area, BLOCK, RW));
	EXPECT_EQ(0, dma_map_at(self, self->area, BLOCK, VFIO_DMA_MAP_FLAG_READ));
	EXPECT_EQ(BLOCK, dma_unmap(self, BLOCK));
}

/* type1 refuses the kernel's own memory in a PFNMAP mapping, which nothing pins. */
TEST_F(pfnmap, dma_map_of_kernel_memory)
{
	int fd = open("/dev/mixedmap", O_RDWR);
	void *p;

	ASSERT_LE(0, fd) TH_LOG("/dev/mixedmap: is mixedmap.ko loaded?");
	/* The GPU's memory first, so that the refusal comes in the middle. */
	ASSERT_EQ(self->area, map_usemem(self, self->area, 0, BLOCK, PROT_READ | PROT_WRITE));
	p = mmap(self->area + BLOCK, BLOCK, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED, fd,
		 6 * BLOCK);
	ASSERT_EQ(self->area + BLOCK, p);
	EXPECT_EQ(-EFAULT, dma_map_at(self, self->area, 2 * BLOCK, RW));
	EXPECT_EQ(-EFAULT, dma_map_at(self, p, BLOCK, RW));
	/* Nothing is left of it. */
	EXPECT_EQ(0, dma_map_at(self, self->area, BLOCK, RW));
	EXPECT_EQ(BLOCK, dma_unmap(self, BLOCK));
	close(fd);
}

TEST_PROGRAM_MAIN(program)
