// SPDX-License-Identifier: GPL-2.0-only
/*
 * A GPU whose CXL Device DVSEC says when its memory is ready, and how long that may take. What
 * such a GPU has in common with others is in life.c.
 */
#include "fault.h"
#include "fixture.h"
#include "knobs.h"
#include "task.h"

static const struct program program = {
	.what = "how long accesses wait for a GPU, by its CXL Device DVSEC",
	.vars = {
		VAR_STANDIN, VAR_REGIONS, VAR_RESET,
	},
	.args = "-r cxl.never_valid",
	.standin = true,
};

#define MAPPED		MIB(16)
#define VALUE		0x600df00d600df00dUL
#define IN_VAIN		"not ready after"
#define RESERVED	"reserved time-out"

/* Memory_Active_Timeout of 256 s, and of 64 s, which the stand-in has by default. */
#define CODE_256S	4
#define CODE_64S	3
/* Bits of the register. */
#define INFO_VALID	1
#define ACTIVE		2

FIXTURE(cxl)
{
	struct vfio v;
	int fd;
	uint64_t usemem;
	void *map;
};

FIXTURE_SETUP(cxl)
{
	uint64_t value = VALUE;

	ASSERT_TRUE(set_knob("ready_ms", 0));
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	self->usemem = self->v.regions[USEMEM].off;
	self->map = map_region(&self->v, USEMEM, NULL, 0, MAPPED);
	ASSERT_NE(MAP_FAILED, self->map);
	ASSERT_EQ(8, pwrite(self->fd, &value, 8, self->usemem));
}

FIXTURE_TEARDOWN(cxl)
{
	set_knob("valid_ms", 0);
	set_knob("cxl_timeout", CODE_64S);
	set_knob("cxl_range2", 0);
	set_knob("ready_ms", 0);
	set_knob("ready", 1);
	munmap(self->map, MAPPED);
	vfio_close(&self->v);
}

/* The time from a reset until a read of usemem fails. */
static long ms_in_vain(struct __test_metadata *_metadata, const FIXTURE_DATA(cxl) * self)
{
	long start = now_ms(), took;
	uint64_t value;

	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
	EXPECT_ERRNO(EIO, pread(self->fd, &value, 8, self->usemem));
	took = now_ms() - start;
	EXPECT_TRUE(state_is("failed")) TH_LOG("%s", driver_says("state"));
	return took;
}

/* The time-out is that of the register at the poll. Above those, KUnit's time is faster. */
TEST_F_TIMEOUT(cxl, never_active, 120)
{
	static const struct { int code, limit_ms; } limits[] = { { 0, 1000 }, { 1, 4000 } };
	unsigned int i;
	long took;

	ASSERT_TRUE(set_knob("ready_ms", -1));
	for (i = 0; i < 2; i++) {
		ASSERT_TRUE(set_knob("cxl_timeout", limits[i].code));
		took = ms_in_vain(_metadata, self);
		TH_LOG("time-out %d: %ld ms", limits[i].code, took);
		EXPECT_LE(limits[i].limit_ms, took);
		EXPECT_GT(16000, took);
	}
}

/* Without Memory_Info_Valid the time-out means nothing, and the limit is a second. */
TEST_F_TIMEOUT(cxl, never_valid, 60)
{
	int in_vain = log_says(IN_VAIN);
	long took;

	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_TRUE(set_knob("valid_ms", -1));
	ASSERT_TRUE(set_knob("cxl_timeout", CODE_256S));
	took = ms_in_vain(_metadata, self);
	TH_LOG("%ld ms", took);
	EXPECT_LE(1000, took);
	EXPECT_GT(16000, took);
	EXPECT_LT(in_vain, log_says(IN_VAIN));
}

/* A read waits for a register that gets valid, for ranges that get active, and for both. */
TEST_F_TIMEOUT(cxl, valid_and_active_later, 60)
{
	static const struct { int valid_ms, ready_ms; } delays[] = {
		{ 300, 0 }, { 0, 2000 }, { 300, 2000 },
	};
	unsigned int i;

	for (i = 0; i < 3; i++) {
		long start, want = delays[i].ready_ms ?: delays[i].valid_ms;
		uint64_t value = 0;

		ASSERT_TRUE(set_knob("valid_ms", delays[i].valid_ms));
		ASSERT_TRUE(set_knob("ready_ms", delays[i].ready_ms));
		start = now_ms();
		ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
		EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
		EXPECT_LE(want, now_ms() - start);
		TH_LOG("usable %ld ms after the reset began", now_ms() - start);
		EXPECT_EQ(VALUE, value);
	}
}

/* From ready to usable, after a wait so long that the driver polls rarely. */
TEST_F_TIMEOUT(cxl, ready_to_usable, 120)
{
	struct access a = { .how = ACCESS_READ, .fd = self->fd, .off = self->usemem };
	long took, worst = 0, all = 0;
	int round;

	for (round = 0; round < 20; round++) {
		ASSERT_TRUE(set_knob("ready_ms", -1));
		ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
		a.tid = 0;
		ASSERT_EQ(0, start_access_thread(&a));
		ASSERT_TRUE(wait_until(a.tid && waits_for_gpu(a.tid), 20000));
		usleep(500000 + round * 7000);
		took = -now_ms();
		ASSERT_TRUE(set_knob("ready", 1));
		ASSERT_EQ(0, pthread_join(a.thread, NULL));
		took += now_ms();
		EXPECT_EQ(0, a.result);
		EXPECT_EQ(VALUE, a.value);
		all += took;
		if (took > worst)
			worst = took;
	}
	TH_LOG("usable %ld ms after ready, %ld ms at most", all / round, worst);
}

static void expect_waits(struct __test_metadata *_metadata, const FIXTURE_DATA(cxl) * self,
			 long ms)
{
	struct access a = { .how = ACCESS_READ, .fd = self->fd, .off = self->usemem };
	pid_t waiting;

	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
	waiting = start_child(do_access, &a);
	ASSERT_TRUE(wait_until(waits_for_gpu(waiting), 20000));
	usleep(ms * 1000);
	EXPECT_TRUE(child_runs(waiting)) TH_LOG("the read ended");
	ASSERT_TRUE(set_knob("ready", 1));
	EXPECT_EQ(0, end_of_child(waiting));
}

/* Reserved time-outs are taken for 256 s, and the driver warns once. */
TEST_F_TIMEOUT(cxl, reserved_time_outs, 120)
{
	int warned = log_says(RESERVED), code;

	for (code = CODE_256S; code < 8; code++) {
		ASSERT_TRUE(set_knob("cxl_timeout", code));
		expect_waits(_metadata, self, 2000);
		EXPECT_EQ(warned + (code > CODE_256S), log_says(RESERVED)) {
			TH_LOG("time-out %d", code);
		}
	}
}

/* Each range counts. */
TEST_F_TIMEOUT(cxl, second_range, 60)
{
	uint64_t value = 0;
	long took;

	if (!strstr(driver_says("state"), "cxl_range2"))
		SKIP(return, "there is one range");

	ASSERT_TRUE(set_knob("cxl_timeout", 0));
	ASSERT_TRUE(set_knob("cxl_range2", ACTIVE));
	took = ms_in_vain(_metadata, self);
	EXPECT_LE(1000, took);

	/* A later access polls again. */
	ASSERT_TRUE(set_knob("cxl_range2", 0));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(VALUE, value);

	ASSERT_TRUE(set_knob("cxl_timeout", CODE_256S));
	ASSERT_TRUE(set_knob("cxl_range2", ACTIVE | INFO_VALID));
	took = ms_in_vain(_metadata, self);
	EXPECT_LE(1000, took);
	EXPECT_GT(16000, took);
}

/* Memory off and BARs at 0 do not matter: the register is in config space. */
TEST_F(cxl, without_bar0)
{
	uint16_t memory = PCI_COMMAND_MEMORY;
	uint64_t value = 0;

	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, memory, 0));
	expect_waits(_metadata, self, 100);
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(VALUE, value);
	ASSERT_EQ(2, pread(self->fd, &memory, 2, CONFIG + PCI_COMMAND));
	EXPECT_EQ(0, memory & PCI_COMMAND_MEMORY);
	EXPECT_EQ(0, fault_of((void)*(volatile uint64_t *)self->map).sig);
}

#define NR_THREADS	100

static int waiting_threads(const struct access *threads)
{
	int i, n = 0;

	for (i = 0; i < NR_THREADS; i++)
		n += threads[i].tid && waits_for_gpu(threads[i].tid);
	return n;
}

/* Many threads fault, and the address space is not locked meanwhile. */
TEST_F_TIMEOUT(cxl, hundred_faults_and_munmap, 120)
{
	static struct access threads[NR_THREADS];
	long start, worst = 0;
	int i, n;
	void *p;

	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_TRUE(set_knob("cxl_timeout", CODE_256S));
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
	for (i = 0; i < NR_THREADS; i++) {
		threads[i] = (struct access) { .how = ACCESS_STORE, .p = self->map + i * PAGE,
					       .value = VALUE + i };
		ASSERT_EQ(0, start_access_thread(&threads[i]));
	}
	ASSERT_TRUE(wait_until(waiting_threads(threads) > NR_THREADS / 2, 60000));
	for (n = 0; n < 100; n++) {
		start = now_ms();
		p = mmap(NULL, MAPPED, PROT_READ, MAP_SHARED, self->fd, self->usemem);
		ASSERT_NE(MAP_FAILED, p);
		ASSERT_EQ(0, munmap(p, MAPPED));
		if (now_ms() - start > worst)
			worst = now_ms() - start;
	}
	TH_LOG("mmap() and munmap() took %ld ms at most", worst);

	ASSERT_TRUE(set_knob("ready", 1));
	for (i = 0; i < NR_THREADS; i++) {
		ASSERT_EQ(0, pthread_join(threads[i].thread, NULL));
		EXPECT_EQ(0, threads[i].result);
		EXPECT_EQ(VALUE + i, *(volatile uint64_t *)threads[i].p);
	}
}

TEST_PROGRAM_MAIN(program)
