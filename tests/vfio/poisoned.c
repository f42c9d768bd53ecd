// SPDX-License-Identifier: GPL-2.0-only
/*
 * Poisoned pages of the coherent memory, by the kernel's own injector: which process
 * mm notifies, at which address, and what the page answers from then on. A page stays
 * poisoned while the driver is bound, so each test has pages of its own.
 *
 * The page stays mapped, and the hardware decides what a load of it returns. Here it returns
 * what was stored, because the injector poisons nothing.
 */
#include "fault.h"
#include "fixture.h"
#include "poison.h"

static const struct program program = {
	.what = "poisoned pages of usemem and resmem, with the kernel's injector",
	.vars = {
		VAR_BDF, VAR_REGIONS,
		{ "BASE", "physical address of usemem, with resmem after it", "0x70000000000" },
	},
};

#define VALUE	0x600df00d600df00dUL

FIXTURE(poisoned)
{
	struct vfio v;
	int fd;
	uint64_t base[NR_REGIONS];	/* physical address */
	uint64_t off[NR_REGIONS];	/* VFIO offset */
};

FIXTURE_SETUP(poisoned)
{
	int i;

	if (no_poison())
		SKIP(return, "%s", no_poison());
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	self->base[USEMEM] = strtoul(getenv("BASE"), NULL, 0);
	self->base[RESMEM] = self->base[USEMEM] + self->v.regions[USEMEM].backed;
	for (i = 0; i < NR_REGIONS; i++)
		self->off[i] = self->v.regions[i].off;
}

FIXTURE_TEARDOWN(poisoned)
{
	vfio_close(&self->v);
}

/* 0, or the si_code of the SIGBUS that a load takes. */
static int code_of_load(void *p)
{
	return fault_of((void)*(volatile uint64_t *)p).code;
}

static void *map(const FIXTURE_DATA(poisoned) * self, int region, uint64_t at, uint64_t len)
{
	return map_region(&self->v, region, NULL, at, len);
}

/* One mapping of all of it, and one that begins within the block. */
TEST_F(poisoned, page_in_two_mappings)
{
	const uint64_t at[NR_REGIONS] = { MIB(2) + 5 * PAGE, MIB(4) + 7 * PAGE };
	const uint64_t value = VALUE;
	uint64_t got;
	int i;

	fault_watch();
	for (i = 0; i < NR_REGIONS; i++) {
		uint64_t off = self->off[i] + at[i];
		void *all, *part, *other;

		ASSERT_EQ(8, pwrite(self->fd, &value, 8, off));
		ASSERT_EQ(8, pwrite(self->fd, &value, 8, off + PAGE));
		all = map(self, i, 0, MIB(8));
		part = map(self, i, at[i] - 2 * PAGE, MIB(1));
		other = map(self, i, at[i] + PAGE, MIB(1));
		ASSERT_NE(MAP_FAILED, all);
		ASSERT_NE(MAP_FAILED, part);
		ASSERT_NE(MAP_FAILED, other);
		ASSERT_EQ(0, code_of_load(all + at[i]));
		ASSERT_EQ(0, code_of_load(part + 2 * PAGE));
		ASSERT_EQ(0, code_of_load(other));

		fault_notices.times = 0;
		ASSERT_EQ(0, inject_poison(self->base[i] + at[i]));
		/* mm also takes the injecting process for the one that used the page. */
		EXPECT_LE(1, fault_notices.times);
		EXPECT_TRUE(fault_notices.addr == all + at[i] ||
			    fault_notices.addr == part + 2 * PAGE) {
			TH_LOG("notified of %p, mapped at %p and %p", fault_notices.addr,
			       all + at[i], part + 2 * PAGE);
		}

		EXPECT_EQ(BUS_MCEERR_AR, fault_notices.code);

		/* It is mapped still, and a new mapping shows it, too. */
		EXPECT_EQ(0, code_of_load(all + at[i]));
		EXPECT_EQ(0, code_of_load(part + 2 * PAGE));
		EXPECT_EQ(VALUE, *(volatile uint64_t *)(part + 2 * PAGE));
		munmap(part, MIB(1));
		part = map(self, i, at[i] - 2 * PAGE, MIB(1));
		ASSERT_NE(MAP_FAILED, part);
		EXPECT_EQ(0, code_of_load(part + 2 * PAGE));
		EXPECT_EQ(VALUE, *(volatile uint64_t *)(part + 2 * PAGE));

		/* So are its neighbours. */
		EXPECT_EQ(0, code_of_load(all + at[i] - 8));
		EXPECT_EQ(0, code_of_load(all + at[i] + PAGE));
		EXPECT_EQ(VALUE, *(volatile uint64_t *)other);

		/* read() and write(): of the page, over its edges, beside it. */
		EXPECT_EQ(-1, pread(self->fd, &got, 8, off));
		EXPECT_EQ(EHWPOISON, errno);
		EXPECT_EQ(-1, pread(self->fd, &got, 1, off + PAGE - 1));
		EXPECT_EQ(EHWPOISON, errno);
		EXPECT_EQ(-1, pread(self->fd, &got, 2, off - 1));
		EXPECT_EQ(EHWPOISON, errno);
		EXPECT_EQ(-1, pwrite(self->fd, &value, 8, off + PAGE - 4));
		EXPECT_EQ(EHWPOISON, errno);
		EXPECT_EQ(8, pread(self->fd, &got, 8, off - 8));
		EXPECT_EQ(8, pread(self->fd, &got, 8, off + PAGE));
		EXPECT_EQ(VALUE, got);

		munmap(all, MIB(8));
		munmap(part, MIB(1));
		munmap(other, MIB(1));
	}
}

/* mm does not notify a process that has mapped another part. */
TEST_F(poisoned, page_beside_the_mapping)
{
	const uint64_t at = MIB(16) + 3 * PAGE;
	void *before, *after, *all;

	fault_watch();
	before = map(self, USEMEM, at - PAGE, PAGE);
	after = map(self, USEMEM, at + PAGE, PAGE);
	ASSERT_EQ(0, code_of_load(before));
	ASSERT_EQ(0, code_of_load(after));
	ASSERT_EQ(0, inject_poison(self->base[USEMEM] + at));
	EXPECT_EQ(0, fault_notices.times);
	EXPECT_EQ(0, code_of_load(before));
	EXPECT_EQ(0, code_of_load(after));
	munmap(before, PAGE);
	munmap(after, PAGE);

	/* With a mapping of the page mm has a process to notify. */
	all = map(self, USEMEM, MIB(16), BLOCK);
	ASSERT_EQ(0, inject_poison(self->base[USEMEM] + at));
	EXPECT_EQ(1, fault_notices.times);
	EXPECT_EQ(all + 3 * PAGE, fault_notices.addr);
	EXPECT_EQ(BUS_MCEERR_AR, fault_notices.code);
	EXPECT_EQ(0, code_of_load(all + 3 * PAGE));
	munmap(all, BLOCK);
}

/* Poisoned for the next VMM too. The driver answers for its memory while it is open. */
TEST_F(poisoned, next_user)
{
	const uint64_t at = MIB(32);
	uint64_t got;
	void *p;

	fault_watch();
	p = map(self, USEMEM, at, BLOCK);
	ASSERT_EQ(0, code_of_load(p));
	ASSERT_EQ(0, inject_poison(self->base[USEMEM] + at));
	ASSERT_EQ(BUS_MCEERR_AR, fault_notices.code);
	munmap(p, BLOCK);

	vfio_close(&self->v);
	EXPECT_NE(0, inject_poison(self->base[USEMEM] + at + MIB(2)));
	EXPECT_NE(0, inject_poison(self->base[RESMEM]));

	reopen_device(_metadata, &self->v, &self->fd);
	EXPECT_EQ(-1, pread(self->fd, &got, 8, self->off[USEMEM] + at));
	EXPECT_EQ(EHWPOISON, errno);
	p = map(self, USEMEM, at, BLOCK);
	EXPECT_EQ(0, code_of_load(p));
	EXPECT_EQ(0, code_of_load(p + PAGE));
	munmap(p, BLOCK);
	EXPECT_EQ(0, inject_poison(self->base[USEMEM] + at + MIB(2)));
	EXPECT_EQ(0, inject_poison(self->base[RESMEM]));
	/* The page after the GPU's memory is not the driver's. */
	EXPECT_NE(0, inject_poison(self->base[RESMEM] + self->v.regions[RESMEM].backed));
}

TEST_PROGRAM_MAIN(program)
