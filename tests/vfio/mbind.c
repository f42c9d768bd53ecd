// SPDX-License-Identifier: GPL-2.0-only
/*
 * NUMA policy and migration of memory that has no struct pages, mapped in huge blocks. The kernel
 * can move nothing, and must say so without harm. An unpatched Linux 6.12 oopses in
 * queue_folios_pte_range(), so a host of its own runs this program there.
 */
#include <linux/mempolicy.h>
#include <sys/syscall.h>

#include "fixture.h"
#include "pattern.h"

static const struct program program = {
	.what = "NUMA policy and migration of usemem and resmem mapped in huge blocks",
	.vars = { VAR_BDF, VAR_REGIONS },
	.args = "-v usemem",
};

FIXTURE(mbind)
{
	struct vfio v;
	int fd;
	void *p;
	size_t len;
};

FIXTURE_VARIANT(mbind)
{
	unsigned int nr;
};

FIXTURE_VARIANT_ADD(mbind, usemem) { .nr = USEMEM };
FIXTURE_VARIANT_ADD(mbind, resmem) { .nr = RESMEM };

/* Touch every page, which maps blocks where the region is large enough for one. */
FIXTURE_SETUP(mbind)
{
	const size_t page = PAGE;
	size_t off;

	if (!kernel_has("NUMA"))
		SKIP(return, "the kernel has no NUMA");
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	SKIP_UNLESS_BLOCKS(&self->v.regions[variant->nr], 1);
	self->len = self->v.regions[variant->nr].backed >= 2 * BLOCK ? 2 * BLOCK : BLOCK;
	self->p = map_region(&self->v, variant->nr, reserve(self->len, 0), 0, self->len);
	ASSERT_NE(MAP_FAILED, self->p);
	faults_to_touch(self->p, BLOCK);
	EXPECT_EQ(0, tables_to_touch(self->p + BLOCK, self->len - BLOCK))
		TH_LOG("not mapped in huge blocks");
	for (off = 0; off < self->len; off += page)
		*(volatile uint64_t *)(self->p + off) = pattern(7, off);
}

FIXTURE_TEARDOWN(mbind)
{
	vfio_close(&self->v);
}

static int set_policy(const FIXTURE_DATA(mbind) * self, int mode, unsigned int flags)
{
	unsigned long node0 = 1;
	bool bind = mode == MPOL_BIND;

	return syscall(SYS_mbind, self->p, self->len, mode, bind ? &node0 : NULL,
		       bind ? 2UL : 0UL, flags) ? -errno : 0;
}

/* The mapping is as it was, and after a zap faults map it again. */
static void expect_intact(struct __test_metadata *_metadata, FIXTURE_DATA(mbind) * self)
{
	const size_t page = PAGE;
	size_t off;

	for (off = 0; off < self->len; off += page)
		ASSERT_EQ(pattern(7, off), *(volatile uint64_t *)(self->p + off));
	EXPECT_EQ(0, munmap(self->p, self->len));
}

TEST_F(mbind, bind_strict)
{
	EXPECT_EQ(0, set_policy(self, MPOL_BIND, MPOL_MF_STRICT));
	expect_intact(_metadata, self);
}

TEST_F(mbind, bind_strict_move)
{
	EXPECT_EQ(0, set_policy(self, MPOL_BIND, MPOL_MF_STRICT | MPOL_MF_MOVE));
	expect_intact(_metadata, self);
}

TEST_F(mbind, bind_strict_move_all)
{
	EXPECT_EQ(0, set_policy(self, MPOL_BIND, MPOL_MF_STRICT | MPOL_MF_MOVE_ALL));
	expect_intact(_metadata, self);
}

TEST_F(mbind, default_strict)
{
	EXPECT_EQ(0, set_policy(self, MPOL_DEFAULT, MPOL_MF_STRICT));
	expect_intact(_metadata, self);
}

TEST_F(mbind, default_strict_move)
{
	EXPECT_EQ(0, set_policy(self, MPOL_DEFAULT, MPOL_MF_STRICT | MPOL_MF_MOVE));
	expect_intact(_metadata, self);
}

/* A VMM does this with the options -numa and -object memory-backend. */
TEST_F(mbind, bind_before_touch)
{
	ASSERT_EQ(0, munmap(self->p, self->len));
	self->p = map_region(&self->v, variant->nr, reserve(self->len, 0), 0, self->len);
	ASSERT_NE(MAP_FAILED, self->p);
	EXPECT_EQ(0, set_policy(self, MPOL_BIND, MPOL_MF_STRICT | MPOL_MF_MOVE));
	expect_intact(_metadata, self);
}

TEST_F(mbind, migrate_pages)
{
	unsigned long node0 = 1;

	EXPECT_EQ(0, syscall(SYS_migrate_pages, 0, 2UL, &node0, &node0));
	expect_intact(_metadata, self);
}

/* Such a page is on no node. */
TEST_F(mbind, move_pages)
{
	void *pages[] = { self->p, self->p + self->len / 2 + PAGE };
	int nodes[] = { 0, 0 }, status[] = { 77, 77 };
	unsigned int i;

	EXPECT_EQ(0, syscall(SYS_move_pages, 0, 2UL, pages, NULL, status, 0));
	for (i = 0; i < ARRAY_SIZE(status); i++)
		EXPECT_GT(0, status[i]);
	EXPECT_LE(0, syscall(SYS_move_pages, 0, 2UL, pages, nodes, status, MPOL_MF_MOVE));
	for (i = 0; i < ARRAY_SIZE(status); i++)
		EXPECT_GT(0, status[i]);
	expect_intact(_metadata, self);
}

TEST_F(mbind, numa_maps)
{
	char line[4096], want[32];
	bool found = false;
	FILE *f;

	snprintf(want, sizeof(want), "%lx ", (unsigned long)self->p);
	f = fopen("/proc/self/numa_maps", "r");
	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f))
		found |= !strncmp(line, want, strlen(want));
	fclose(f);
	EXPECT_TRUE(found);
	expect_intact(_metadata, self);
}

TEST_PROGRAM_MAIN(program)
