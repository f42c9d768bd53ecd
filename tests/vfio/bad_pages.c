// SPDX-License-Identifier: GPL-2.0-only
/*
 * Poisoned pages of the coherent memory, by the kernel's own injector: which process
 * gets SIGBUS, for which address, and what the page answers from then on. The driver
 * remembers a page as long as it is bound, so each test has pages of its own.
 *
 * The page stays mapped: what a load of it gives is the hardware's business. Here it
 * gives what is stored, because the injector poisons nothing.
 *
 * BDF names the GPU, REGIONS its regions, and BASE where its memory begins: usemem,
 * and resmem behind it.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "kselftest_harness.h"
#include "knobs.h"
#include "vfio.h"

#ifndef EHWPOISON
#define EHWPOISON 133
#endif

#define MIB(n)	((uint64_t)(n) << 20)
#define PAGE	4096UL
#define BLOCK	MIB(2)
#define VALUE	0x600df00d600df00dUL

FIXTURE(bad)
{
	struct vfio v;
	int fd;
	struct region regions[NR_REGIONS];
	uint64_t base[NR_REGIONS];	/* physical address */
	uint64_t off[NR_REGIONS];	/* VFIO offset */
};

FIXTURE_SETUP(bad)
{
	int i;

	ASSERT_EQ(0, expected_regions(self->regions));
	ASSERT_NE(NULL, getenv("BASE"));
	self->base[USEMEM] = strtoul(getenv("BASE"), NULL, 0);
	self->base[RESMEM] = self->base[USEMEM] + self->regions[USEMEM].backed;
	ASSERT_EQ(0, vfio_open(&self->v, true));
	self->fd = self->v.device;
	for (i = 0; i < NR_REGIONS; i++)
		self->off[i] = (uint64_t)self->regions[i].bar << 40;
}

FIXTURE_TEARDOWN(bad)
{
	vfio_close(&self->v);
}

/* What mm does when hardware reports the page; 0 or the error. */
static int inject(uint64_t phys)
{
	int fd = open("/sys/devices/system/memory/hard_offline_page", O_WRONLY);
	char text[32];
	int ret;

	snprintf(text, sizeof(text), "0x%lx", phys);
	ret = write(fd, text, strlen(text)) > 0 ? 0 : errno;
	close(fd);
	return ret;
}

static sigjmp_buf jmp;
static void *volatile told;
static volatile int told_code, told_times;
static volatile bool loading;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	told = info->si_addr;
	told_code = info->si_code;
	told_times++;
	/* mm also takes who injects it for who used the page. */
	if (loading)
		siglongjmp(jmp, sig);
}

static void handle_sigbus(void)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &sa, NULL);
	told = NULL;
	told_code = 0;
	told_times = 0;
}

/* 0, or the si_code of the SIGBUS that a load takes. */
static int code_of_load(void *p)
{
	told_code = 0;
	loading = true;
	if (!sigsetjmp(jmp, 1))
		(void)*(volatile uint64_t *)p;
	loading = false;
	return told_code;
}

static void *map(const FIXTURE_DATA(bad) * self, int region, uint64_t at, uint64_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd,
		    self->off[region] + at);
}

/* One mapping of all of it, and one that begins within the block. */
TEST_F(bad, page_in_two_mappings)
{
	const uint64_t at[NR_REGIONS] = { MIB(2) + 5 * PAGE, MIB(4) + 7 * PAGE };
	const uint64_t value = VALUE;
	uint64_t got;
	int i;

	handle_sigbus();
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

		told_times = 0;
		ASSERT_EQ(0, inject(self->base[i] + at[i]));
		EXPECT_LE(1, told_times);
		EXPECT_TRUE(told == all + at[i] || told == part + 2 * PAGE) {
			TH_LOG("told %p, mapped at %p and %p", told, all + at[i], part + 2 * PAGE);
		}

		EXPECT_EQ(BUS_MCEERR_AR, told_code);

		/* Still mapped, and by a new mapping, too. */
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

/* Who has mapped another part is not told, and goes on. */
TEST_F(bad, page_beside_the_mapping)
{
	const uint64_t at = MIB(16) + 3 * PAGE;
	void *before, *after, *all;

	handle_sigbus();
	before = map(self, USEMEM, at - PAGE, PAGE);
	after = map(self, USEMEM, at + PAGE, PAGE);
	ASSERT_EQ(0, code_of_load(before));
	ASSERT_EQ(0, code_of_load(after));
	ASSERT_EQ(0, inject(self->base[USEMEM] + at));
	EXPECT_EQ(0, told_times);
	EXPECT_EQ(0, code_of_load(before));
	EXPECT_EQ(0, code_of_load(after));
	munmap(before, PAGE);
	munmap(after, PAGE);

	/* With a mapping of the page mm has somebody to tell. */
	all = map(self, USEMEM, MIB(16), BLOCK);
	ASSERT_EQ(0, inject(self->base[USEMEM] + at));
	EXPECT_EQ(1, told_times);
	EXPECT_EQ(all + 3 * PAGE, told);
	EXPECT_EQ(BUS_MCEERR_AR, told_code);
	EXPECT_EQ(0, code_of_load(all + 3 * PAGE));
	munmap(all, BLOCK);
}

/* The next user gets -EHWPOISON too; and what is not open is not the driver's to answer. */
TEST_F(bad, next_user)
{
	const uint64_t at = MIB(32);
	uint64_t got;
	void *p;

	handle_sigbus();
	p = map(self, USEMEM, at, BLOCK);
	ASSERT_EQ(0, code_of_load(p));
	ASSERT_EQ(0, inject(self->base[USEMEM] + at));
	ASSERT_EQ(BUS_MCEERR_AR, told_code);
	munmap(p, BLOCK);

	vfio_close(&self->v);
	EXPECT_NE(0, inject(self->base[USEMEM] + at + MIB(2)));
	EXPECT_NE(0, inject(self->base[RESMEM]));

	ASSERT_EQ(0, vfio_open(&self->v, true));
	self->fd = self->v.device;
	EXPECT_EQ(-1, pread(self->fd, &got, 8, self->off[USEMEM] + at));
	EXPECT_EQ(EHWPOISON, errno);
	p = map(self, USEMEM, at, BLOCK);
	EXPECT_EQ(0, code_of_load(p));
	EXPECT_EQ(0, code_of_load(p + PAGE));
	munmap(p, BLOCK);
	EXPECT_EQ(0, inject(self->base[USEMEM] + at + MIB(2)));
	EXPECT_EQ(0, inject(self->base[RESMEM]));
	/* Behind the GPU's memory. */
	EXPECT_NE(0, inject(self->base[RESMEM] + self->regions[RESMEM].backed));
}

TEST_HARNESS_MAIN
