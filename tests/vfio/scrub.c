// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VFIO user finds zeroes in the memory with scrub=1, however the user before ended and whatever
 * happened in between. Without it they find what that user left.
 */
#include "fault.h"
#include "fixture.h"
#include "knobs.h"
#include "poison.h"
#include "task.h"

static const struct program program = {
	.what = "the memory that the next VFIO user finds, without and with scrub=1",
	.vars = {
		VAR_STANDIN, VAR_REGIONS,
		{ "SCRUB", "1 if the module was loaded with scrub=1, else 0", "1" },
		{ "BASE", "physical address of usemem", "0x70000000000" },
	},
	.standin = true,
};

#define DIRT		0x5a
#define WORD		0x5a5a5a5a5a5a5a5aUL
#define STRIDE		KIB(64)

/* After its reset a GPU has this long to get ready. */
#define LIMIT_MS	30000
#define FAILED		"scrub=1: writing zeroes failed twice"

FIXTURE(memory)
{
	struct vfio v;
	int fd;
	bool scrub;
	char *map[NR_REGIONS];
};

static bool map_all(FIXTURE_DATA(memory) * self)
{
	int i;

	for (i = 0; i < NR_REGIONS; i++) {
		self->map[i] = map_region(&self->v, i, NULL, 0, self->v.regions[i].backed);
		if (self->map[i] == MAP_FAILED)
			return false;
	}
	return true;
}

static void close_all(FIXTURE_DATA(memory) * self)
{
	int i;

	for (i = 0; i < NR_REGIONS; i++)
		if (self->map[i] && self->map[i] != MAP_FAILED)
			munmap(self->map[i], self->v.regions[i].backed);
	memset(self->map, 0, sizeof(self->map));
	vfio_close(&self->v);
}

/* 0, or why the device cannot be opened. */
static int open_all(FIXTURE_DATA(memory) * self)
{
	int ret = vfio_open(&self->v, BEST_MODE);

	if (ret) {
		close_all(self);
		return ret;
	}
	self->fd = self->v.device;
	return map_all(self) ? 0 : -ENOMEM;
}

static int try_open(void *unused)
{
	FIXTURE_DATA(memory) other = {};
	int ret = open_all(&other);

	close_all(&other);
	return -ret;
}

FIXTURE_SETUP(memory)
{
	self->scrub = env_is("SCRUB", "1");
	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_TRUE(set_knob("gone", 0));
	ASSERT_EQ(0, open_all(self));
}

FIXTURE_TEARDOWN(memory)
{
	set_knob("gone", 0);
	set_knob("ready_ms", 0);
	set_knob("ready", 1);
	close_all(self);
}

/* A word every STRIDE bytes, and the last one of each region. */
static void leave_dirt(FIXTURE_DATA(memory) * self)
{
	uint64_t off, backed;
	int i;

	for (i = 0; i < NR_REGIONS; i++) {
		backed = self->v.regions[i].backed;
		for (off = 0; off < backed; off += STRIDE)
			*(volatile uint64_t *)(self->map[i] + off) = WORD;
		*(volatile uint64_t *)(self->map[i] + backed - 8) = WORD;
	}
}

/* The offset of the first word of a region that is not 0, or its length. */
static uint64_t first_dirt(const FIXTURE_DATA(memory) * self, int region)
{
	uint64_t backed = self->v.regions[region].backed, off, seen;
	const volatile uint64_t *p = (void *)self->map[region];
	int i;

	for (off = 0; off < backed; off += 64, p += 8) {
		for (seen = 0, i = 0; i < 8; i++)
			seen |= p[i];
		if (seen)
			return off;
	}
	return backed;
}

#define EXPECT_ZEROES(self)							\
	do {									\
		int __i;							\
										\
		for (__i = 0; __i < NR_REGIONS; __i++)				\
			EXPECT_EQ((self)->v.regions[__i].backed,		\
				  first_dirt(self, __i)) {			\
				TH_LOG("region %d is not zero there", __i);	\
			}							\
	} while (0)

#define EXPECT_DIRT(self)							\
	do {									\
		int __i;							\
										\
		for (__i = 0; __i < NR_REGIONS; __i++) {			\
			uint64_t __last = (self)->v.regions[__i].backed - 8;	\
										\
			EXPECT_EQ(WORD, *(uint64_t *)(self)->map[__i]);		\
			EXPECT_EQ(WORD, *(uint64_t *)((self)->map[__i] + __last)); \
		}								\
	} while (0)

#define EXPECT_SCRUBBED(self)							\
	do {									\
		if ((self)->scrub)						\
			EXPECT_ZEROES(self);					\
		else								\
			EXPECT_DIRT(self);					\
	} while (0)

/* Close a device whose memory is dirty. Resets leave the GPU not ready as MS says. */
static void close_dirty(struct __test_metadata *_metadata, FIXTURE_DATA(memory) * self, long ms)
{
	leave_dirt(self);
	ASSERT_TRUE(set_knob("ready_ms", ms));
	close_all(self);
}

/* sysfs says what the owner got. */
static void expect_handover(struct __test_metadata *_metadata, FIXTURE_DATA(memory) * self)
{
	const struct region *r = self->v.regions;
	char zeroed[64];

	snprintf(zeroed, sizeof(zeroed), "zeroed %llu",
		 (unsigned long long)(r[USEMEM].backed + r[RESMEM].backed));
	EXPECT_STREQ(self->scrub ? zeroed : "reset", driver_says("handover"));
}

/* Bytes that the scrub of an open that is going on has written, or 0. */
static long zeroing(void)
{
	long bytes;

	return sscanf(driver_says("handover"), "zeroing %ld", &bytes) == 1 ? bytes : 0;
}

/*
 * Start an open, and wait until it is writing zeroes. Returns its process, or -1 if it was over
 * before this task saw it.
 */
static pid_t start_scrub(void)
{
	pid_t opener;
	int i;

	for (i = 0; i < 10; i++) {
		opener = start_child(try_open, NULL);
		while (!zeroing() && child_runs(opener))
			usleep(200);
		if (child_runs(opener))
			return opener;
		end_of_child(opener);
	}
	return -1;
}

/* The host had the memory before the driver was bound: it is an owner, too. */
TEST_F_TIMEOUT(memory, bound, 180)
{
	EXPECT_SCRUBBED(self);
	/* For the next time that the driver is bound. */
	leave_dirt(self);
}

/* Each byte; how fast, beside a process that does the same. */
TEST_F_TIMEOUT(memory, closed, 180)
{
	double gib = 0;
	long start, ms;
	int i;

	start = now_ms();
	for (i = 0; i < NR_REGIONS; i++) {
		memset(self->map[i], DIRT, self->v.regions[i].backed);
		gib += (double)self->v.regions[i].backed / GIB(1);
	}
	ms = now_ms() - start;
	close_all(self);

	start = now_ms();
	ASSERT_EQ(0, open_all(self));
	if (self->scrub)
		TH_LOG("scrub and open %ld ms: %.2f GiB/s; memset here %ld ms: %.2f GiB/s",
		       now_ms() - start, gib * 1000 / (now_ms() - start + 1),
		       ms, gib * 1000 / (ms + 1));
	EXPECT_SCRUBBED(self);
	expect_handover(_metadata, self);
}

static int use_until_killed(void *ready)
{
	FIXTURE_DATA(memory) vmm = {};

	if (open_all(&vmm))
		return 1;
	leave_dirt(&vmm);
	if (write(*(int *)ready, "", 1) != 1)
		return 1;
	for (;;)
		pause();
}

TEST_F_TIMEOUT(memory, vmm_is_killed, 180)
{
	int ready[2];
	pid_t vmm;
	char c;

	close_all(self);
	ASSERT_EQ(0, pipe(ready));
	vmm = start_child(use_until_killed, &ready[1]);
	close(ready[1]);
	ASSERT_EQ(1, read(ready[0], &c, 1));
	ASSERT_EQ(-SIGKILL, kill_child(vmm));
	ASSERT_EQ(0, open_all(self));
	EXPECT_SCRUBBED(self);
}

/* After its reset the GPU trains: open waits for that, and then writes. */
TEST_F_TIMEOUT(memory, open_waits, 180)
{
	struct training training;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	close_dirty(_metadata, self, -1);
	ASSERT_EQ(0, start_training(&training));
	ASSERT_EQ(0, open_all(self));
	EXPECT_TRUE(end_training(&training));
	EXPECT_ZEROES(self);
}

/* A fatal signal ends an open that waits for the GPU. */
TEST_F_TIMEOUT(memory, opener_is_killed, 180)
{
	pid_t opener;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	close_dirty(_metadata, self, -1);
	opener = start_child(try_open, NULL);
	ASSERT_TRUE(wait_until(waits_for_gpu(opener), LIMIT_MS));
	EXPECT_EQ(-SIGKILL, kill_child(opener));
	EXPECT_STREQ("none", driver_says("handover"));
	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_EQ(0, open_all(self));
	EXPECT_ZEROES(self);
}

/* So it does while the threads write. */
TEST_F_TIMEOUT(memory, opener_is_killed_while_writing, 180)
{
	pid_t opener;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	close_dirty(_metadata, self, 0);
	opener = start_scrub();
	ASSERT_NE(-1, opener);
	EXPECT_EQ(-SIGKILL, kill_child(opener));
	ASSERT_EQ(0, open_all(self));
	expect_handover(_metadata, self);
	EXPECT_ZEROES(self);
}

/* Resets follow each other so fast that hardly a scrub ends between two of them. */
TEST_F_TIMEOUT(memory, reset_during_scrub, 180)
{
	int failed = log_says(FAILED);
	pid_t resets;
	long before;
	int ret;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	close_dirty(_metadata, self, 0);
	before = knob("resets_flr");
	/* Not before: the child would hold the device open. */
	resets = start_child(reset_for_ever, NULL);
	ASSERT_TRUE(wait_until(knob("resets_flr") > before, 20000));
	/* EAGAIN: a reset has the device lock when VFIO wants to reset the GPU. */
	EXPECT_TRUE(wait_until((ret = try_open(NULL)) && ret != EAGAIN, 60000));
	EXPECT_EQ(EIO, ret);
	EXPECT_LE(failed + 1, log_says(FAILED));
	EXPECT_TRUE(child_runs(resets));
	EXPECT_EQ(-SIGKILL, kill_child(resets));

	ASSERT_EQ(0, open_all(self));
	EXPECT_ZEROES(self);
}

/* Only a reset repairs the link, and open does one. */
TEST_F_TIMEOUT(memory, open_mends_the_link, 180)
{
	close_dirty(_metadata, self, 0);
	ASSERT_TRUE(set_knob("c2c_link", 0x13));
	ASSERT_EQ(0, open_all(self));
	if (self->scrub)
		EXPECT_ZEROES(self);
	expect_handover(_metadata, self);
}

/* The zeroes after that may be lost. */
TEST_F_TIMEOUT(memory, link_fails_during_scrub, 180)
{
	pid_t opener;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	close_dirty(_metadata, self, 0);
	opener = start_scrub();
	ASSERT_NE(-1, opener);
	ASSERT_TRUE(set_knob("c2c_link", 0x13));
	EXPECT_EQ(EIO, end_of_child(opener));
	EXPECT_STREQ("none", driver_says("handover"));

	ASSERT_EQ(0, open_all(self));
	EXPECT_ZEROES(self);
}

/* The engines of a GPU that was not reset may write behind the zeroes. */
TEST_F_TIMEOUT(memory, gpu_cannot_be_reset, 180)
{
	char path[PATH_MAX];

	device_path(path, sizeof(path), "reset_method");
	close_dirty(_metadata, self, 0);
	ASSERT_EQ(0, write_file(path, "\n"));
	if (self->scrub) {
		EXPECT_EQ(EIO, try_open(NULL));
		EXPECT_LE(1, log_says("scrub=1: VFIO cannot reset the GPU"));
		EXPECT_STREQ("none", driver_says("handover"));
	} else {
		EXPECT_EQ(0, open_all(self));
		EXPECT_STREQ("not reset", driver_says("handover"));
		EXPECT_DIRT(self);
		close_all(self);
	}
	ASSERT_EQ(0, write_file(path, "default"));
	ASSERT_EQ(0, open_all(self));
	expect_handover(_metadata, self);
	EXPECT_SCRUBBED(self);
}

/* Writes to a GPU that is off the bus are dropped. */
TEST_F_TIMEOUT(memory, gone_during_scrub, 600)
{
	pid_t opener;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	/* Suspend would save the ~0 that a missing GPU returns, and resume would write it back. */
	ASSERT_TRUE(stay_awake(true));
	close_dirty(_metadata, self, 0);
	opener = start_scrub();
	ASSERT_NE(-1, opener);
	ASSERT_TRUE(set_knob("gone", 1));
	EXPECT_EQ(EIO, end_of_child(opener));
	EXPECT_STREQ("none", driver_says("handover"));
	ASSERT_TRUE(set_knob("gone", 0));
	ASSERT_EQ(0, open_all(self));
	ASSERT_TRUE(stay_awake(false));
	EXPECT_ZEROES(self);
}

/*
 * A poisoned page is written like all others, and stays poisoned for read(). The injector poisons
 * nothing, so a mapping shows what the scrub left. The last test, for that reason.
 */
TEST_F_TIMEOUT(memory, poisoned_page, 180)
{
	const uint64_t at = MIB(6) + 5 * PAGE, off = self->v.regions[USEMEM].off + at;
	uint64_t value;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	if (no_poison())
		SKIP(return, "%s", no_poison());
	fault_watch();
	memset(self->map[USEMEM] + at - PAGE, DIRT, 3 * PAGE);
	ASSERT_EQ(0, inject_poison(strtoul(getenv("BASE"), NULL, 0) + at));
	EXPECT_ERRNO(EHWPOISON, pread(self->fd, &value, 8, off));
	close_all(self);

	ASSERT_EQ(0, open_all(self));
	EXPECT_ERRNO(EHWPOISON, pread(self->fd, &value, 8, off));
	EXPECT_ZEROES(self);
	EXPECT_EQ(1, driver_counts("poisoned_pages"));
}

TEST_PROGRAM_MAIN(program)
