// SPDX-License-Identifier: GPL-2.0-only
/*
 * Accesses to the coherent memory of a GPU that is not ready after a reset, sleeps in D3, or
 * is gone.
 */
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/time.h>

#include "fault.h"
#include "fixture.h"
#include "knobs.h"
#include "task.h"
#include "work.h"

static const struct program program = {
	.what = "accesses to a GPU that is not ready after a reset, sleeps in D3, or is gone",
	.vars = {
		VAR_STANDIN, VAR_REGIONS, VAR_RESET,
	},
	.args = "-r gpu.sysfs.never_ready",
	.standin = true,
};

#define MAPPED		MIB(4)
#define VALUE		0x600df00d600df00dUL

/*
 * After its reset a GPU has this long to get ready, or to answer. One with a CXL DVSEC has as
 * long as that says. Whatever waited in vain is in the log.
 */
#define LIMIT_MS	30000
#define CXL_LIMIT_MS	16000
#define CXL_LIMIT_CODE	2
#define IN_VAIN		"not ready after"

static bool has_cxl(void)
{
	return knob("cxl_timeout") != -1;
}

/* Load or store the first bytes of a page: SIGBUS or 0. */
static int touch(void *p, bool store)
{
	volatile uint64_t *value = p;

	return store ? fault_of(*value = VALUE).sig : fault_of((void)*value).sig;
}

FIXTURE(gpu)
{
	struct vfio v;
	int fd;
	uint64_t usemem;
	void *map;
};

static int reset_function(const struct vfio *v)
{
	return ioctl(v->device, VFIO_DEVICE_RESET);
}

static int reset_by_guest(const struct vfio *v)
{
	return guest_flr(v->device);
}

FIXTURE_VARIANT(gpu)
{
	int (*reset)(const struct vfio *v);
	bool of_the_bus;
};

FIXTURE_VARIANT_ADD(gpu, ioctl) { .reset = reset_function };
FIXTURE_VARIANT_ADD(gpu, guest_flr) { .reset = reset_by_guest };
FIXTURE_VARIANT_ADD(gpu, sysfs) { .reset = reset_by_sysfs };
FIXTURE_VARIANT_ADD(gpu, hot_reset) { .reset = hot_reset, .of_the_bus = true };

/* Open a GPU that is ready, and map its usemem. False if the test is skipped. */
static bool open_ready(struct __test_metadata *_metadata, struct vfio *v, int *fd,
		       uint64_t *usemem, void **map)
{
	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_TRUE(set_knob("gone", 0));
	if (!open_device(_metadata, v, fd, BEST_MODE))
		return false;
	ASSERT_EQ(0, enable_memory(*fd));
	*usemem = v->regions[USEMEM].off;
	*map = map_region(v, USEMEM, NULL, 0, MAPPED);
	ASSERT_NE(MAP_FAILED, *map);
	return true;
}

FIXTURE_SETUP(gpu)
{
	uint64_t value = VALUE;

	if (open_ready(_metadata, &self->v, &self->fd, &self->usemem, &self->map))
		ASSERT_EQ(8, pwrite(self->fd, &value, 8, self->usemem));
}

FIXTURE_TEARDOWN(gpu)
{
	if (has_cxl())
		set_knob("cxl_timeout", 3);
	set_knob("gone", 0);
	set_knob("ready_ms", 0);
	set_knob("ready", 1);
	munmap(self->map, MAPPED);
	vfio_close(&self->v);
}

/* False, and the test is skipped, if this GPU cannot be reset that way. */
static bool can_reset(struct __test_metadata *_metadata, const FIXTURE_VARIANT(gpu) * variant)
{
	if (variant->of_the_bus && reset_is("flr"))
		SKIP(return false, "the bus of this GPU is not reset");
	return true;
}

/* The GPU has been reset, and is not ready until a knob says so. False as for can_reset(). */
static bool reset_not_ready(struct __test_metadata *_metadata, const FIXTURE_DATA(gpu) * self,
			    const FIXTURE_VARIANT(gpu) * variant)
{
	if (!can_reset(_metadata, variant))
		return false;
	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, variant->reset(&self->v));
	EXPECT_EQ(0, knob("ready"));
	return true;
}

/* Each access comes after a reset of its own. */
TEST_F_TIMEOUT(gpu, accesses_wait, 60)
{
	struct access a = { .fd = self->fd, .off = self->usemem, .p = self->map };
	struct training training;

	ASSERT_EQ(0, touch(self->map, false));
	for (a.how = 0; a.how < NR_ACCESSES; a.how++) {
		long resets = driver_counts("resets");

		if (!reset_not_ready(_metadata, self, variant))
			return;
		EXPECT_EQ(resets + 1, driver_counts("resets"));
		EXPECT_TRUE(state_is("training"));
		a.value = VALUE;
		ASSERT_EQ(0, start_training(&training));
		EXPECT_EQ(0, do_access(&a));
		EXPECT_TRUE(end_training(&training)) TH_LOG("access %d did not wait", a.how);
		EXPECT_EQ(VALUE, a.value);
		EXPECT_EQ(VALUE, *(volatile uint64_t *)self->map);
		EXPECT_EQ(1, knob("ready"));
		EXPECT_STREQ(has_cxl() ? "ready cxl_range1=0xf0006003" :
			     "ready c2c_link=0xff hbm_training=0xff", driver_says("state"));
	}
}

/*
 * While the guest has memory off, the driver cannot find out whether the GPU is ready. So an
 * access fails without a wait, and PCI_COMMAND stays as it is. With memory on again the access
 * waits. The driver reads a CXL DVSEC with memory off, too.
 */
TEST_F(gpu, memory_off_after_reset)
{
	int in_vain = log_says(IN_VAIN);
	struct training training;
	uint64_t value = 0;
	uint16_t command;

	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, PCI_COMMAND_MEMORY, 0));
	if (!reset_not_ready(_metadata, self, variant))
		return;
	if (!has_cxl()) {
		EXPECT_EQ(-1, pread(self->fd, &value, 8, self->usemem));
		EXPECT_EQ(EIO, errno);
		EXPECT_EQ(-1, pwrite(self->fd, &value, 8, self->usemem));
		EXPECT_EQ(EIO, errno);
		EXPECT_EQ(SIGBUS, touch(self->map, false));
		EXPECT_EQ(in_vain, log_says(IN_VAIN));
	}
	ASSERT_EQ(2, pread(self->fd, &command, 2, CONFIG + PCI_COMMAND));
	EXPECT_EQ(0, command & PCI_COMMAND_MEMORY);

	if (!has_cxl())
		ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY));
	ASSERT_EQ(0, start_training(&training));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_TRUE(end_training(&training));
	EXPECT_EQ(VALUE, value);
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_EQ(1, knob("ready"));
}

/* Once the driver has found the GPU ready, accesses succeed whatever PCI_COMMAND says. */
TEST_F(gpu, memory_off_when_ready)
{
	uint64_t value = 0;

	EXPECT_EQ(0, touch(self->map, true));
	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, PCI_COMMAND_MEMORY, 0));
	EXPECT_EQ(8, pwrite(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(0, touch(self->map, false));
}

/* Start an access in a process of its own, which can be killed and can get SIGBUS. */
static pid_t start_access(const FIXTURE_DATA(gpu) * self, enum access_how how)
{
	struct access a = {
		.how = how,
		.fd = self->fd,
		.off = self->usemem,
		.p = self->map + (how == ACCESS_STORE ? PAGE : 0),
		.value = VALUE,
	};

	return start_child(do_access, &a);
}

/*
 * While the GPU is never ready, all else goes on, waiters can be killed, and at the limit each
 * access fails. Later the memory is back.
 */
TEST_F_TIMEOUT(gpu, never_ready, 120)
{
	const int wants[] = { EIO, EIO, SIGBUS, SIGBUS };
	const long limit_ms = has_cxl() ? CXL_LIMIT_MS : LIMIT_MS;
	pid_t waiting[4], killed[4];
	uint32_t value32;
	uint64_t value;
	long start;
	void *p;
	int i;

	/* Half a minute long. */
	if (variant->reset != reset_function && variant->reset != reset_by_sysfs)
		SKIP(return, "the same as with the ioctl");

	if (has_cxl())
		ASSERT_TRUE(set_knob("cxl_timeout", CXL_LIMIT_CODE));
	ASSERT_EQ(0, touch(self->map, false));
	start = now_ms();
	if (!reset_not_ready(_metadata, self, variant))
		return;
	for (i = 0; i < 4; i++) {
		waiting[i] = start_access(self, i);
		killed[i] = start_access(self, i);
	}
	for (i = 0; i < 4; i++) {
		ASSERT_TRUE(wait_until(waits_for_gpu(waiting[i]), LIMIT_MS)) TH_LOG("%d", i);
		ASSERT_TRUE(wait_until(waits_for_gpu(killed[i]), LIMIT_MS)) TH_LOG("%d", i);
	}

	/* All of this ends while they wait. */
	EXPECT_EQ(4, pread(self->fd, &value32, 4, CONFIG));
	EXPECT_EQ(4, pread(self->fd, &value32, 4, 0));
	EXPECT_EQ(0, config_modify(self->fd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY));
	p = mmap(NULL, MAPPED, PROT_READ, MAP_SHARED, self->fd, self->usemem);
	EXPECT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, munmap(p, MAPPED));
	for (i = 0; i < 4; i++) {
		ASSERT_TRUE(child_runs(killed[i]));
		EXPECT_EQ(-SIGKILL, kill_child(killed[i]));
	}
	for (i = 0; i < 4; i++)
		EXPECT_TRUE(child_runs(waiting[i])) TH_LOG("access %d ended before", i);

	for (i = 0; i < 4; i++) {
		EXPECT_EQ(wants[i], end_of_child(waiting[i]));
		EXPECT_LE(limit_ms, now_ms() - start);
	}
	EXPECT_GT(2 * limit_ms, now_ms() - start);

	/* Each access polls again, and does not wait, which would be as long as before. */
	start = now_ms();
	EXPECT_EQ(-1, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(SIGBUS, touch(self->map, false));
	EXPECT_GT(limit_ms, now_ms() - start);

	ASSERT_TRUE(set_knob("ready", 1));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(VALUE, value);
}

/* A thread of the same process waits, and does not lock the address space for that. */
TEST_F(gpu, address_space_is_not_locked)
{
	struct access t = { .how = ACCESS_LOAD, .p = self->map + PAGE };
	void *p;

	if (!reset_not_ready(_metadata, self, variant))
		return;
	ASSERT_EQ(0, start_access_thread(&t));
	ASSERT_TRUE(wait_until(t.tid && waits_for_gpu(t.tid), LIMIT_MS));

	p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	EXPECT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, munmap(p, PAGE));
	/* The very mapping, too. */
	EXPECT_EQ(0, mprotect(self->map, MAPPED, PROT_READ));
	EXPECT_EQ(EBUSY, pthread_tryjoin_np(t.thread, NULL));

	ASSERT_TRUE(set_knob("ready", 1));
	ASSERT_EQ(0, pthread_join(t.thread, NULL));
	EXPECT_EQ(0, t.result);
}

/* A failed link is not waited for: the register holds a failure code, and only a reset helps. */
TEST_F(gpu, link_failed)
{
	int in_vain = log_says(IN_VAIN);
	uint64_t value;

	if (has_cxl())
		SKIP(return, "a CXL DVSEC has no failure codes");
	if (!reset_not_ready(_metadata, self, variant))
		return;
	ASSERT_TRUE(set_knob("c2c_link", 0x13));
	EXPECT_EQ(-1, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(SIGBUS, touch(self->map, false));
	EXPECT_EQ(in_vain, log_says(IN_VAIN));

	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_EQ(0, variant->reset(&self->v));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(0, touch(self->map, false));
}

/* Config space may not answer for a while after a reset: an access waits for that, too. */
TEST_F(gpu, gone_for_a_while)
{
	pid_t waiting;

	if (!reset_not_ready(_metadata, self, variant))
		return;
	ASSERT_TRUE(set_knob("gone", 1));
	waiting = start_access(self, ACCESS_STORE);
	ASSERT_TRUE(wait_until(waits_for_gpu(waiting), LIMIT_MS));
	usleep(500000);
	EXPECT_TRUE(child_runs(waiting));
	ASSERT_TRUE(set_knob("ready", 1));
	usleep(500000);
	EXPECT_TRUE(child_runs(waiting));
	ASSERT_TRUE(set_knob("gone", 0));
	EXPECT_EQ(0, end_of_child(waiting));
}

/* A wait for a GPU that stays off the bus ends at the limit, and later accesses do not wait. */
TEST_F_TIMEOUT(gpu, gone_while_waiting, 90)
{
	int in_vain = log_says(IN_VAIN);
	long start = now_ms();
	pid_t waiting;
	uint64_t value;

	if (variant->reset != reset_function)
		SKIP(return, "the same as with the ioctl");
	if (!reset_not_ready(_metadata, self, variant))
		return;
	waiting = start_access(self, ACCESS_READ);
	ASSERT_TRUE(wait_until(waits_for_gpu(waiting), LIMIT_MS));
	ASSERT_TRUE(set_knob("gone", 1));
	EXPECT_EQ(EIO, end_of_child(waiting));
	EXPECT_LE(LIMIT_MS, now_ms() - start);
	EXPECT_TRUE(state_is("gone"));
	start = now_ms();
	EXPECT_ERRNO(EIO, pread(self->fd, &value, 8, self->usemem));
	EXPECT_GT(LIMIT_MS, now_ms() - start);
	EXPECT_EQ(in_vain, log_says(IN_VAIN));
}

/* Four threads use the memory while the GPU is reset over and over. */
TEST_F_TIMEOUT(gpu, storm, 60)
{
	struct worker *w;
	struct work work;
	int resets = 0;
	long end;

	if (!can_reset(_metadata, variant))
		return;
	ASSERT_TRUE(set_knob("ready_ms", 3));
	ASSERT_EQ(0, start_work(&work, self->fd, self->usemem + MIB(1), self->map + MIB(1)));
	end = now_ms() + 1000 * atoi(getenv("STORM_S") ?: "6");
	while (now_ms() < end) {
		/* The core does not wait for its locks to reset a bus. */
		if (!variant->reset(&self->v))
			resets++;
		else if (!variant->of_the_bus || errno != EBUSY)
			break;
		usleep((1 + resets % 7) * 2000);
	}
	EXPECT_LE(end, now_ms());
	end_work(&work);
	for_each_worker(w, &work) {
		TH_LOG("a thread: %lu accesses", w->done);
		EXPECT_EQ(0, w->wrong + w->refused);
		EXPECT_LT(0, w->done);
	}
	TH_LOG("%d resets", resets);
	EXPECT_LT(3, resets);
}

/* The tests that need no reset run once. */
FIXTURE(power)
{
	struct vfio v;
	int fd;
	uint64_t usemem;
	void *map;
	unsigned int pmcsr;
};

FIXTURE_SETUP(power)
{
	if (open_ready(_metadata, &self->v, &self->fd, &self->usemem, &self->map))
		self->pmcsr = config_find_cap(self->fd, PCI_CAP_ID_PM) + PCI_PM_CTRL;
}

FIXTURE_TEARDOWN(power)
{
	set_knob("ready_ms", 0);
	set_knob("ready", 1);
	munmap(self->map, MAPPED);
	vfio_close(&self->v);
}

/* In D3 an access takes SIGBUS, also where a page was mapped; in D0 it is mapped again. */
TEST_F(power, d3_with_a_mapping)
{
	uint64_t value;

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_EQ(0, config_modify(self->fd, self->pmcsr, 0, 3));
	ASSERT_EQ(3, knob("power_state"));
	EXPECT_EQ(SIGBUS, touch(self->map, false));
	EXPECT_EQ(-1, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(EIO, errno);
	ASSERT_EQ(0, config_modify(self->fd, self->pmcsr, 3, 0));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_EQ(VALUE, *(volatile uint64_t *)self->map);
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(VALUE, value);
}

/* A GPU that returns from D3 may have to train again. */
TEST_F(power, training_after_d3)
{
	struct training training;

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_EQ(0, config_modify(self->fd, self->pmcsr, 0, 3));
	ASSERT_TRUE(set_knob("ready", 0));
	ASSERT_EQ(0, config_modify(self->fd, self->pmcsr, 3, 0));
	ASSERT_EQ(0, start_training(&training));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_TRUE(end_training(&training));
}

/* The user lets the kernel suspend it: a read wakes it, a fault does not. */
TEST_F(power, runtime_suspend)
{
	struct training training;
	uint64_t value = 0;

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_EQ(0, allow_low_power(self->fd, true));
	ASSERT_TRUE(wait_until(knob("power_state") == 3, 20000));
	EXPECT_EQ(SIGBUS, touch(self->map, false));

	/* Awake, it trains, each time again. */
	ASSERT_TRUE(set_knob("ready", 0));
	ASSERT_EQ(0, start_training(&training));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_TRUE(end_training(&training));
	EXPECT_EQ(VALUE, value);

	/* It has to be asleep again before it has to train again. */
	ASSERT_TRUE(wait_until(knob("power_state") == 3, 20000));
	ASSERT_TRUE(set_knob("ready", 0));
	ASSERT_EQ(0, allow_low_power(self->fd, false));
	ASSERT_EQ(0, start_training(&training));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_TRUE(end_training(&training));
}

static int low_power_with_wakeup(int fd, int event)
{
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_low_power_entry_with_wakeup entry;
	} arg = {
		.feature.argsz = sizeof(arg),
		.feature.flags = VFIO_DEVICE_FEATURE_SET |
				 VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
		.entry.wakeup_eventfd = event,
	};

	return ioctl(fd, VFIO_DEVICE_FEATURE, &arg);
}

/*
 * The host wakes a GPU whose user has asked for an event: low power is over then, and the GPU
 * trains. Reading its state does not wake it.
 */
TEST_F(power, low_power_with_wakeup)
{
	int event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct training training;
	uint64_t count;

	ASSERT_LE(0, event);
	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_EQ(0, low_power_with_wakeup(self->fd, event));
	ASSERT_TRUE(wait_until(knob("power_state") == 3, 20000));
	EXPECT_TRUE(wait_until(state_is("asleep"), 5000)) TH_LOG("%s", driver_says("state"));
	EXPECT_EQ(SIGBUS, touch(self->map, false));
	EXPECT_ERRNO(EAGAIN, read(event, &count, sizeof(count)));
	EXPECT_EQ(3, knob("power_state"));

	ASSERT_TRUE(set_knob("ready", 0));
	ASSERT_TRUE(stay_awake(true));
	EXPECT_EQ(sizeof(count), read(event, &count, sizeof(count)));
	EXPECT_TRUE(state_is("training")) TH_LOG("%s", driver_says("state"));
	ASSERT_EQ(0, start_training(&training));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_TRUE(end_training(&training));
	EXPECT_EQ(VALUE, *(volatile uint64_t *)self->map);
	ASSERT_TRUE(stay_awake(false));

	/* A close in low power leaves a GPU that can be opened. */
	ASSERT_EQ(0, low_power_with_wakeup(self->fd, event));
	ASSERT_TRUE(wait_until(knob("power_state") == 3, 20000));
	munmap(self->map, MAPPED);
	reopen_device(_metadata, &self->v, &self->fd);
	EXPECT_ERRNO(EAGAIN, read(event, &count, sizeof(count)));
	self->map = map_region(&self->v, USEMEM, NULL, 0, MAPPED);
	ASSERT_NE(MAP_FAILED, self->map);
	EXPECT_EQ(0, touch(self->map, false));
	close(event);
}

/* The time to train counts from the return to D0, however long the GPU slept. */
TEST_F_TIMEOUT(power, training_after_long_sleep, 90)
{
	struct training training;
	uint64_t value = 0;

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_EQ(0, allow_low_power(self->fd, true));
	usleep((LIMIT_MS + 1000) * 1000);
	ASSERT_EQ(3, knob("power_state"));

	ASSERT_TRUE(set_knob("ready", 0));
	ASSERT_EQ(0, start_training(&training));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_TRUE(end_training(&training));
	EXPECT_EQ(VALUE, value);
}

/* A monitor waits for a change, and reads the state while a reset holds the device lock. */
TEST_F(power, state_in_sysfs)
{
	char path[PATH_MAX], line[64];
	struct pollfd p = { .events = POLLPRI };
	pid_t resets;

	ASSERT_EQ(0, touch(self->map, true));
	p.fd = open(device_path(path, sizeof(path), "nvgrace_gpu/state"), O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, p.fd);
	/* The notification of the fault above may be on its way. */
	usleep(100000);
	EXPECT_LT(0, pread(p.fd, line, sizeof(line), 0));
	EXPECT_EQ(0, poll(&p, 1, 100));

	resets = start_child(reset_for_ever, NULL);
	EXPECT_EQ(1, poll(&p, 1, 20000));
	EXPECT_TRUE(wait_until(state_is("resetting"), 20000));
	EXPECT_EQ(-SIGKILL, kill_child(resets));
	EXPECT_TRUE(wait_until(state_is("training"), 20000)) TH_LOG("%s", driver_says("state"));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_TRUE(state_is("ready"));
	close(p.fd);
}

static int write_to_file(void *map)
{
	int fd = open("/tmp/suspend", O_RDWR | O_CREAT, 0600);

	return write(fd, map, 8) == 8 ? 0 : errno;
}

/*
 * The host suspends its devices, for 5 s. That does not wait for tasks that wait for the GPU,
 * and they wait on afterwards. A GPU that was ready trains again.
 */
TEST_F_TIMEOUT(power, host_suspend, 90)
{
	struct access read = { .how = ACCESS_READ, .fd = self->fd, .off = self->usemem };
	struct training training;
	pid_t waiting[2];
	int i;

	if (!kernel_has("SUSPEND"))
		SKIP(return, "the kernel has no SUSPEND");
	ASSERT_EQ(0, write_file("/sys/power/pm_test", "devices"));

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_TRUE(set_knob("ready", 0));
	/* The driver does not read the registers again. */
	ASSERT_EQ(0, touch(self->map, false));
	ASSERT_EQ(0, write_file("/sys/power/state", "freeze"));
	ASSERT_EQ(0, start_training(&training));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_TRUE(end_training(&training));

	/* A read of the region is interruptible; a write to a file from it is not. */
	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, reset_function(&self->v));
	for (i = 0; i < 2; i++)
		waiting[i] = start_child(i ? write_to_file : do_access, i ? self->map : &read);
	for (i = 0; i < 2; i++)
		ASSERT_TRUE(wait_until(waits_for_gpu(waiting[i]), LIMIT_MS));
	EXPECT_EQ(0, write_file("/sys/power/state", "freeze"));
	for (i = 0; i < 2; i++)
		EXPECT_TRUE(child_runs(waiting[i]));
	ASSERT_TRUE(set_knob("ready", 1));
	for (i = 0; i < 2; i++)
		EXPECT_EQ(0, end_of_child(waiting[i]));
	write_file("/sys/power/pm_test", "none");
}

static sigjmp_buf on_alarm;
static volatile bool jump;

static void alarmed(int sig)
{
	if (jump)
		siglongjmp(on_alarm, sig);
}

/* A VMM that stops its vCPUs with a signal gets them, ready GPU or not. */
TEST_F(power, signal_ends_a_wait)
{
	/* Again and again, because the first signal may come before the wait. */
	const struct itimerval soon = { { .tv_usec = 300000 }, { .tv_usec = 300000 } };
	const struct itimerval never = {};
	struct sigaction sa = { .sa_handler = alarmed };
	long start = now_ms();
	uint64_t value;

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, reset_function(&self->v));
	ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));

	jump = false;
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &soon, NULL));
	EXPECT_EQ(-1, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(EINTR, errno);
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &soon, NULL));
	EXPECT_EQ(-1, pwrite(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(EINTR, errno);

	ASSERT_EQ(0, setitimer(ITIMER_REAL, &never, NULL));
	if (!sigsetjmp(on_alarm, 1)) {
		jump = true;
		ASSERT_EQ(0, setitimer(ITIMER_REAL, &soon, NULL));
		(void)*(volatile uint64_t *)self->map;
		EXPECT_TRUE(false) {
			TH_LOG("the load came back");
		}
	}
	jump = false;
	ASSERT_EQ(0, setitimer(ITIMER_REAL, &never, NULL));
	EXPECT_LE(900, now_ms() - start);
	EXPECT_GT(LIMIT_MS, now_ms() - start);
}

/*
 * AER resets the bus and leaves config space as the reset left it, so the memory cannot be used
 * until the VMM has restored the BARs.
 */
TEST_F(power, aer_recovery)
{
	long resets = driver_counts("resets"), bus = knob("resets_bus");
	int in_vain = log_says(IN_VAIN);
	uint64_t value = 0;

	if (reset_is("flr"))
		SKIP(return, "the kernel does not reset the bus of this GPU");

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_TRUE(set_knob("aer_uncorrectable", PCI_ERR_UNC_MALF_TLP));
	EXPECT_TRUE(wait_until(knob("resets_bus") != bus, 20000));
	EXPECT_EQ(bus + 1, knob("resets_bus"));
	/* The driver counts it a moment later, after the link is up again. */
	EXPECT_TRUE(wait_until(driver_counts("resets") != resets, 20000));
	EXPECT_EQ(resets + 1, driver_counts("resets"));

	/* Only the VMM can restore the BARs, so nothing waits for them. CXL does not need them. */
	if (has_cxl()) {
		EXPECT_EQ(0, touch(self->map, false));
		EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	} else {
		EXPECT_EQ(SIGBUS, touch(self->map, false));
		EXPECT_ERRNO(EIO, pread(self->fd, &value, 8, self->usemem));
	}
	EXPECT_EQ(in_vain, log_says(IN_VAIN));

	/* It does so when it turns memory on. */
	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(VALUE, value);
	EXPECT_EQ(0, touch(self->map, false));

	/* So does the next open. */
	munmap(self->map, MAPPED);
	reopen_device(_metadata, &self->v, &self->fd);
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(VALUE, value);
	self->map = map_region(&self->v, USEMEM, NULL, 0, MAPPED);
	ASSERT_NE(MAP_FAILED, self->map);
	EXPECT_EQ(0, touch(self->map, false));
}

TEST_PROGRAM_MAIN(program)
