// SPDX-License-Identifier: GPL-2.0-only
/*
 * The next VFIO user finds zeroes in the memory with scrub=1, however the user before ended and
 * whatever happened in between. Without it they find what that user left.
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

/* After its reset a GPU has this long to get ready. Whatever waited in vain is in the log. */
#define LIMIT_MS	30000
#define IN_VAIN		"not ready after"
#define STOPPED		"scrub stopped at offset"

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

/* Close a device whose memory is dirty. Its last reset leaves the GPU not ready as MS says. */
static void close_dirty(struct __test_metadata *_metadata, FIXTURE_DATA(memory) * self, long ms)
{
	leave_dirt(self);
	ASSERT_TRUE(set_knob("ready_ms", ms));
	close_all(self);
}

/* Has the last scrub come to its end, as far as the kernel lets the driver say so? */
static bool is_scrubbed(const FIXTURE_DATA(memory) * self)
{
	const struct region *r = self->v.regions;

	return !kernel_has("VFIO_DEBUGFS") ||
	       (uint64_t)driver_says("scrub", "done") == r[USEMEM].backed + r[RESMEM].backed;
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
	if (self->scrub && kernel_has("VFIO_DEBUGFS")) {
		TH_LOG("the scrub alone %ld ms", driver_says("scrub", "ms"));
		EXPECT_TRUE(is_scrubbed(self));
	}
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

/* Twice, because the GPU may fall asleep before the scrub begins, too. */
static bool sleeps_for_good(void)
{
	return runtime_status_is("suspended") && !usleep(500000) && runtime_status_is("suspended");
}

/*
 * The scrub needs no open: the GPU sleeps after it, and the next open begins none. A scrub of
 * its own would fail, because the GPU is not ready.
 */
TEST_F_TIMEOUT(memory, scrubbed_in_background, 180)
{
	if (!self->scrub)
		SKIP(return, "scrub=0");
	close_dirty(_metadata, self, 0);
	EXPECT_TRUE(wait_until(is_scrubbed(self) && sleeps_for_good(), 60000));
	ASSERT_TRUE(set_knob("ready", 0));
	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, open_all(self));
	ASSERT_TRUE(set_knob("ready", 1));
	EXPECT_ZEROES(self);
}

TEST_F_TIMEOUT(memory, open_waits, 180)
{
	int stopped = log_says(STOPPED);
	struct training training;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	close_dirty(_metadata, self, -1);
	/* The reset by open leaves the GPU ready. */
	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_EQ(0, start_training(&training));
	ASSERT_EQ(0, open_all(self));
	EXPECT_TRUE(end_training(&training));
	/* Nor did the close wait for the scrub, until that gave up. */
	EXPECT_EQ(stopped, log_says(STOPPED));
	EXPECT_ZEROES(self);
}

/* The scrub goes on without the opener. */
TEST_F_TIMEOUT(memory, opener_is_killed, 180)
{
	int stopped = log_says(STOPPED);
	pid_t opener;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	close_dirty(_metadata, self, -1);
	opener = start_child(try_open, NULL);
	ASSERT_TRUE(wait_until(waits_for_gpu(opener), LIMIT_MS));
	EXPECT_EQ(-SIGKILL, kill_child(opener));
	EXPECT_EQ(stopped, log_says(STOPPED));
	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_TRUE(set_knob("ready", 1));
	ASSERT_EQ(0, open_all(self));
	EXPECT_ZEROES(self);
}

static int reset_for_ever(void *unused)
{
	char path[PATH_MAX];

	device_path(path, sizeof(path), "reset");
	while (!write_file(path, "1"))
		;
	return 1;
}

/* Resets follow each other so fast that hardly a scrub ends between two of them. */
TEST_F_TIMEOUT(memory, reset_during_scrub, 180)
{
	int stopped = log_says(STOPPED);
	pid_t resets;
	long before;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	/* The scrub cannot begin before the first reset. */
	close_dirty(_metadata, self, -1);
	ASSERT_TRUE(set_knob("ready_ms", 0));
	before = knob("resets_flr");
	/* Not before: the child would hold the device open. */
	resets = start_child(reset_for_ever, NULL);
	ASSERT_TRUE(wait_until(knob("resets_flr") > before, 20000));
	EXPECT_TRUE(wait_until(try_open(NULL) == EIO, 60000));
	EXPECT_LE(stopped + 1, log_says(STOPPED));
	EXPECT_TRUE(child_runs(resets));
	EXPECT_EQ(-SIGKILL, kill_child(resets));

	/* A reset may have cost zeroes, so the next scrub writes all of the memory again. */
	ASSERT_EQ(0, open_all(self));
	EXPECT_ZEROES(self);
}

/* Only a reset repairs the link; a second close must not count as an open. */
TEST_F_TIMEOUT(memory, link_failed, 180)
{
	int in_vain = log_says(IN_VAIN);

	if (!self->scrub)
		SKIP(return, "scrub=0");
	close_dirty(_metadata, self, -1);
	ASSERT_TRUE(set_knob("c2c_link", 0x13));
	EXPECT_EQ(EIO, try_open(NULL));
	EXPECT_EQ(EIO, try_open(NULL));
	EXPECT_EQ(in_vain, log_says(IN_VAIN));
	ASSERT_TRUE(set_knob("ready", 1));
	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_EQ(0, open_all(self));
	EXPECT_ZEROES(self);
}

/* Suspend would save the ~0 that a missing GPU returns, and resume would write it back. */
static bool stay_awake(bool awake)
{
	char path[PATH_MAX];

	device_path(path, sizeof(path), "power/control");
	return !write_file(path, awake ? "on" : "auto");
}

static void expect_eio_until_back(struct __test_metadata *_metadata, FIXTURE_DATA(memory) * self)
{
	int in_vain = log_says(IN_VAIN);

	EXPECT_EQ(EIO, try_open(NULL));
	EXPECT_EQ(EIO, try_open(NULL));
	EXPECT_EQ(in_vain, log_says(IN_VAIN));
	ASSERT_TRUE(set_knob("gone", 0));
	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_TRUE(set_knob("ready", 1));
	ASSERT_EQ(0, open_all(self));
	ASSERT_TRUE(stay_awake(false));
	EXPECT_ZEROES(self);
}

TEST_F_TIMEOUT(memory, gone_before_scrub, 180)
{
	if (!self->scrub)
		SKIP(return, "scrub=0");
	ASSERT_TRUE(stay_awake(true));
	close_dirty(_metadata, self, -1);
	ASSERT_TRUE(set_knob("gone", 1));
	expect_eio_until_back(_metadata, self);
}

TEST_F_TIMEOUT(memory, gone_during_scrub, 180)
{
	int i;

	if (!self->scrub)
		SKIP(return, "scrub=0");
	if (!kernel_has("VFIO_DEBUGFS"))
		SKIP(return, "the kernel has no VFIO_DEBUGFS");
	ASSERT_TRUE(stay_awake(true));
	/* This task may sleep until the scrub is over. */
	for (i = 0; i < 10; i++) {
		close_dirty(_metadata, self, 0);
		ASSERT_TRUE(wait_until(driver_says("scrub", "done") > 0, 20000));
		ASSERT_TRUE(set_knob("gone", 1));
		if (driver_says("scrub", "of") > driver_says("scrub", "done"))
			break;
		ASSERT_TRUE(set_knob("gone", 0));
		ASSERT_EQ(0, open_all(self));
	}
	ASSERT_GT(10, i);
	expect_eio_until_back(_metadata, self);
	EXPECT_TRUE(is_scrubbed(self));
}

/*
 * The injector poisons nothing, so that a mapping shows what the scrub left in the page. The
 * last test: the page stays poisoned.
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
	EXPECT_EQ(at, first_dirt(self, USEMEM));
	memset(self->map[USEMEM] + at, 0, PAGE);
	EXPECT_ZEROES(self);
	if (kernel_has("VFIO_DEBUGFS"))
		EXPECT_EQ(1, driver_says("scrub", "skipped"));
}

TEST_PROGRAM_MAIN(program)
