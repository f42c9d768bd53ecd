// SPDX-License-Identifier: GPL-2.0-only
/*
 * A GPU that is not ready after a reset, sleeps in D3, or goes: what accesses to its
 * coherent memory do meanwhile.
 */
#include <stdatomic.h>
#include <sys/time.h>

#include "fault.h"
#include "fixture.h"
#include "knobs.h"
#include "task.h"

static const struct program program = {
	.what = "accesses to a GPU that is not ready after a reset, sleeps in D3, or is gone",
	.vars = {
		{ "BDF", "PCI address of a stand-in of gpu_standin.ko", "0001:01:00.0" },
		VAR_REGIONS, VAR_RESET,
	},
	.args = "-r gpu.sysfs.never_ready",
};

#define MAPPED		MIB(4)
#define VALUE		0x600df00d600df00dUL

/* A wait is seen to be one, and what is not to wait is not taken for one. */
#define TRAINING_MS	800L
#define AT_ONCE_MS	5000
#define LIMIT_MS	30000

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

static int reset_by_sysfs(const struct vfio *v)
{
	char path[PATH_MAX];

	return write_file(device_path(path, sizeof(path), "reset"), "1") ? -1 : 0;
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
	if (no_knobs())
		SKIP(return false, "%s", no_knobs());
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
	set_knob("gone", 0);
	set_knob("ready_ms", 0);
	set_knob("ready", 1);
	munmap(self->map, MAPPED);
	vfio_close(&self->v);
}

static bool can_reset(const FIXTURE_VARIANT(gpu) * variant)
{
	return !variant->of_the_bus || !reset_is("flr");
}

static int start_training(pthread_t *thread)
{
	return pthread_create(thread, NULL, get_ready_late, (void *)TRAINING_MS);
}

/* One after the other, each after a reset of its own. */
TEST_F_TIMEOUT(gpu, accesses_wait, 60)
{
	struct access a = { .fd = self->fd, .off = self->usemem, .p = self->map };
	bool counted = !driver_says_nothing();
	pthread_t thread;
	long start, ms;

	if (!can_reset(variant))
		SKIP(return, "the bus of this GPU is not reset");

	ASSERT_EQ(0, touch(self->map, false));
	ASSERT_TRUE(set_knob("ready_ms", -1));
	for (a.how = 0; a.how < NR_ACCESSES; a.how++) {
		long resets = driver_says("resets", NULL);

		ASSERT_EQ(0, variant->reset(&self->v));
		if (counted)
			EXPECT_EQ(resets + 1, driver_says("resets", NULL));
		EXPECT_EQ(0, knob("ready"));
		a.value = VALUE;
		start = now_ms();
		ASSERT_EQ(0, start_training(&thread));
		EXPECT_EQ(0, do_access(&a));
		ms = now_ms() - start;
		TH_LOG("%d: waited %ld ms", a.how, ms);
		EXPECT_EQ(VALUE, a.value);
		EXPECT_EQ(VALUE, *(volatile uint64_t *)self->map);
		EXPECT_EQ(1, knob("ready"));
		EXPECT_LE(TRAINING_MS / 2, ms);
		pthread_join(thread, NULL);
	}
}

/*
 * The guest has memory off: whether the GPU is ready cannot be found out, so that
 * there is an error at once, and PCI_COMMAND stays as it is. With memory on again
 * the access waits.
 */
TEST_F(gpu, memory_off_after_reset)
{
	uint64_t value = 0;
	uint16_t command;
	pthread_t thread;
	long start;

	if (!can_reset(variant))
		SKIP(return, "the bus of this GPU is not reset");

	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, PCI_COMMAND_MEMORY, 0));
	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, variant->reset(&self->v));
	start = now_ms();
	EXPECT_EQ(-1, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, pwrite(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(SIGBUS, touch(self->map, false));
	EXPECT_GT(AT_ONCE_MS, now_ms() - start);
	ASSERT_EQ(2, pread(self->fd, &command, 2, CONFIG + PCI_COMMAND));
	EXPECT_EQ(0, command & PCI_COMMAND_MEMORY);

	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY));
	ASSERT_EQ(0, start_training(&thread));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(VALUE, value);
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_EQ(1, knob("ready"));
	pthread_join(thread, NULL);
}

/* Known to be ready, the memory is there whatever PCI_COMMAND says. */
TEST_F(gpu, memory_off_when_ready)
{
	uint64_t value = 0;

	EXPECT_EQ(0, touch(self->map, true));
	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, PCI_COMMAND_MEMORY, 0));
	EXPECT_EQ(8, pwrite(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(0, touch(self->map, false));
}

/* In a process of its own, so that it can be killed and can get SIGBUS. */
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
 * Never ready: everything else goes on, who waits can be killed, and at the limit
 * there is an error; later the memory is back.
 */
TEST_F_TIMEOUT(gpu, never_ready, 120)
{
	const int wants[] = { EIO, EIO, SIGBUS, SIGBUS };
	pid_t waiting[4], killed[4];
	long start, ms, limit;
	uint32_t value32;
	uint64_t value;
	void *p;
	int i;

	/* Half a minute long. */
	if (variant->reset != reset_function && variant->reset != reset_by_sysfs)
		SKIP(return, "the same as by the ioctl");

	ASSERT_EQ(0, touch(self->map, false));
	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, variant->reset(&self->v));
	limit = now_ms() + LIMIT_MS;
	for (i = 0; i < 4; i++) {
		waiting[i] = start_access(self, i);
		killed[i] = start_access(self, i);
	}
	usleep(500000);

	start = now_ms();
	EXPECT_EQ(4, pread(self->fd, &value32, 4, CONFIG));
	EXPECT_EQ(4, pread(self->fd, &value32, 4, 0));
	EXPECT_EQ(0, config_modify(self->fd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY));
	p = mmap(NULL, MAPPED, PROT_READ, MAP_SHARED, self->fd, self->usemem);
	EXPECT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, munmap(p, MAPPED));
	ms = now_ms() - start;
	TH_LOG("the rest took %ld ms", ms);
	EXPECT_GT(AT_ONCE_MS, ms);

	for (i = 0; i < 4; i++) {
		start = now_ms();
		ASSERT_TRUE(child_runs(killed[i]));
		EXPECT_EQ(-SIGKILL, kill_child(killed[i]));
		ms = now_ms() - start;
		TH_LOG("%d: killed in %ld ms", i, ms);
		EXPECT_GT(AT_ONCE_MS, ms);
	}

	for (i = 0; i < 4; i++) {
		EXPECT_EQ(wants[i], end_of_child(waiting[i]));
		EXPECT_LE(limit - AT_ONCE_MS, now_ms());
		EXPECT_GT(limit + LIMIT_MS / 2, now_ms());
	}

	/* Each access checks again, and does not wait. */
	start = now_ms();
	EXPECT_EQ(-1, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(SIGBUS, touch(self->map, false));
	EXPECT_GT(AT_ONCE_MS, now_ms() - start);

	ASSERT_TRUE(set_knob("ready", 1));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(VALUE, value);
}

/* A thread of the same process waits, and its address space is not locked for that. */
TEST_F(gpu, address_space_is_not_locked)
{
	struct access t = { .how = ACCESS_LOAD, .p = self->map + PAGE };
	long start;
	void *p;

	if (!can_reset(variant))
		SKIP(return, "the bus of this GPU is not reset");

	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, variant->reset(&self->v));
	ASSERT_EQ(0, start_access_thread(&t));
	usleep(300000);

	start = now_ms();
	p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	EXPECT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, munmap(p, PAGE));
	/* The very mapping, too. */
	EXPECT_EQ(0, mprotect(self->map, MAPPED, PROT_READ));
	EXPECT_GT(AT_ONCE_MS, now_ms() - start);
	EXPECT_EQ(EBUSY, pthread_tryjoin_np(t.thread, NULL));

	ASSERT_TRUE(set_knob("ready", 1));
	ASSERT_EQ(0, pthread_join(t.thread, NULL));
	EXPECT_EQ(0, t.result);
}

/* Nor is a link that failed: the register holds the code, and only a reset helps. */
TEST_F(gpu, link_failed)
{
	uint64_t value;
	long start;

	if (!can_reset(variant))
		SKIP(return, "the bus of this GPU is not reset");

	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, variant->reset(&self->v));
	ASSERT_TRUE(set_knob("c2c_link", 0x13));
	start = now_ms();
	EXPECT_EQ(-1, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(SIGBUS, touch(self->map, false));
	EXPECT_GT(AT_ONCE_MS, now_ms() - start);

	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_EQ(0, variant->reset(&self->v));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(0, touch(self->map, false));
}

/* A GPU that is off the bus is not waited for. */
TEST_F(gpu, gone_while_waiting)
{
	pid_t waiting;
	long start;

	if (!can_reset(variant))
		SKIP(return, "the bus of this GPU is not reset");

	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, variant->reset(&self->v));
	waiting = start_access(self, 0);
	usleep(300000);
	ASSERT_TRUE(child_runs(waiting));
	start = now_ms();
	ASSERT_TRUE(set_knob("gone", 1));
	EXPECT_EQ(EIO, end_of_child(waiting));
	EXPECT_GT(AT_ONCE_MS, now_ms() - start);
}

/* Four threads at the memory while it is reset over and over. */
struct storm {
	const FIXTURE_DATA(gpu) * self;
	int how;
	atomic_bool *stop;
	unsigned long done, failed;
};

static void *storm_thread(void *arg)
{
	struct storm *storm = arg;
	uint64_t off = storm->self->usemem + MIB(1) + storm->how * PAGE;
	volatile uint64_t *p = storm->self->map + MIB(1) + storm->how * PAGE;
	uint64_t value;

	while (!atomic_load(storm->stop)) {
		uint64_t want = storm->done << 8 | storm->how, got = 0;

		switch (storm->how) {
		case 0:		/* what is written is read, each way */
		case 1:
			value = want;
			if (pwrite(storm->self->fd, &value, 8, off) != 8 ||
			    pread(storm->self->fd, &got, 8, off) != 8)
				storm->failed++;
			break;
		case 2:
			*p = want;
			got = *p;
			break;
		default:
			*p = want;
			if (pread(storm->self->fd, &got, 8, off) != 8)
				storm->failed++;
			break;
		}
		storm->failed += got != want;
		storm->done++;
	}
	return NULL;
}

TEST_F_TIMEOUT(gpu, storm, 60)
{
	struct storm storms[4];
	pthread_t threads[4];
	atomic_bool stop = false;
	long end;
	int i, resets = 0;

	if (!can_reset(variant))
		SKIP(return, "the bus of this GPU is not reset");

	ASSERT_TRUE(set_knob("ready_ms", 3));
	for (i = 0; i < 4; i++) {
		storms[i] = (struct storm) { .self = self, .how = i, .stop = &stop };
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, storm_thread, &storms[i]));
	}
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
	atomic_store(&stop, true);
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
		TH_LOG("thread %d: %lu accesses", i, storms[i].done);
		EXPECT_EQ(0, storms[i].failed);
		EXPECT_LT(0, storms[i].done);
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

/* In D3 there is SIGBUS, also for what was mapped; in D0 it is mapped again. */
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

/* What comes out of D3 may have to train again. */
TEST_F(power, training_after_d3)
{
	pthread_t thread;
	long start;

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_EQ(0, config_modify(self->fd, self->pmcsr, 0, 3));
	ASSERT_TRUE(set_knob("ready", 0));
	ASSERT_EQ(0, config_modify(self->fd, self->pmcsr, 3, 0));
	start = now_ms();
	ASSERT_EQ(0, start_training(&thread));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_LE(TRAINING_MS / 2, now_ms() - start);
	pthread_join(thread, NULL);
}

/* The user lets the kernel suspend it: a read wakes it, a fault does not. */
TEST_F(power, runtime_suspend)
{
	uint64_t value = 0;
	pthread_t thread;
	long start;

	ASSERT_EQ(0, touch(self->map, true));
	if (allow_low_power(self->fd, true))
		SKIP(return, "no low power entry: %s", strerror(errno));
	ASSERT_TRUE(wait_until(knob("power_state") == 3, 20000));
	EXPECT_EQ(SIGBUS, touch(self->map, false));

	/* Awake, it trains, each time again. */
	ASSERT_TRUE(set_knob("ready", 0));
	start = now_ms();
	ASSERT_EQ(0, start_training(&thread));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_LE(TRAINING_MS / 2, now_ms() - start);
	EXPECT_EQ(VALUE, value);
	pthread_join(thread, NULL);

	/* Asleep again, or it does not have to. */
	ASSERT_TRUE(wait_until(knob("power_state") == 3, 20000));
	ASSERT_TRUE(set_knob("ready", 0));
	ASSERT_EQ(0, allow_low_power(self->fd, false));
	start = now_ms();
	ASSERT_EQ(0, start_training(&thread));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_LE(TRAINING_MS / 2, now_ms() - start);
	pthread_join(thread, NULL);
}

/* The time to train counts from the return to D0, however long the GPU slept. */
TEST_F_TIMEOUT(power, training_after_long_sleep, 90)
{
	uint64_t value = 0;
	pthread_t thread;
	long start;

	ASSERT_EQ(0, touch(self->map, true));
	if (allow_low_power(self->fd, true))
		SKIP(return, "no low power entry: %s", strerror(errno));
	usleep((LIMIT_MS + 1000) * 1000);
	ASSERT_EQ(3, knob("power_state"));

	ASSERT_TRUE(set_knob("ready", 0));
	start = now_ms();
	ASSERT_EQ(0, start_training(&thread));
	EXPECT_EQ(8, pread(self->fd, &value, 8, self->usemem));
	EXPECT_LE(TRAINING_MS / 2, now_ms() - start);
	EXPECT_EQ(VALUE, value);
	pthread_join(thread, NULL);
}

static int write_to_file(void *map)
{
	int fd = open("/tmp/suspend", O_RDWR | O_CREAT, 0600);

	return write(fd, map, 8) == 8 ? 0 : errno;
}

/*
 * As far as the suspend of devices, which takes 5 s: the host does not wait for those
 * who wait for the GPU, who go on to wait afterwards. What was ready trains again.
 */
TEST_F_TIMEOUT(power, host_suspend, 90)
{
	struct access read = { .how = ACCESS_READ, .fd = self->fd, .off = self->usemem };
	pid_t waiting[2];
	pthread_t thread;
	long start;
	int i;

	if (getenv("NO_SUSPEND"))
		SKIP(return, "%s", getenv("NO_SUSPEND"));
	if (write_file("/sys/power/pm_test", "devices"))
		SKIP(return, "this kernel cannot test suspend");

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_TRUE(set_knob("ready", 0));
	/* The driver does not read the registers again. */
	ASSERT_EQ(0, touch(self->map, false));
	ASSERT_EQ(0, write_file("/sys/power/state", "freeze"));
	start = now_ms();
	ASSERT_EQ(0, start_training(&thread));
	EXPECT_EQ(0, touch(self->map, false));
	EXPECT_LE(TRAINING_MS / 2, now_ms() - start);
	pthread_join(thread, NULL);

	/* A read of the region is interruptible; a write to a file from it is not. */
	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, reset_function(&self->v));
	for (i = 0; i < 2; i++)
		waiting[i] = start_child(i ? write_to_file : do_access, i ? self->map : &read);
	usleep(500000);
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

/* A VMM that stops its vCPUs by a signal gets them, ready GPU or not. */
TEST_F(power, signal_ends_a_wait)
{
	/* Again and again, because the first signal may come before the wait. */
	const struct itimerval soon = { { .tv_usec = 300000 }, { .tv_usec = 300000 } };
	const struct itimerval never = {};
	struct sigaction sa = { .sa_handler = alarmed };
	uint64_t value;
	long start;

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, reset_function(&self->v));
	ASSERT_EQ(0, sigaction(SIGALRM, &sa, NULL));

	start = now_ms();
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
	EXPECT_GT(AT_ONCE_MS, now_ms() - start);
}

/*
 * AER resets the bus and leaves config space as the reset left it: the memory
 * can't be used until the VMM has restored the BARs.
 */
TEST_F(power, aer_recovery)
{
	long resets = driver_says("resets", NULL), bus = knob("resets_bus"), start;
	uint64_t value = 0;

	if (reset_is("flr"))
		SKIP(return, "the kernel does not reset the bus of this GPU");

	ASSERT_EQ(0, touch(self->map, true));
	ASSERT_TRUE(set_knob("aer_uncorrectable", PCI_ERR_UNC_MALF_TLP));
	EXPECT_TRUE(wait_until(knob("resets_bus") != bus, 20000));
	EXPECT_EQ(bus + 1, knob("resets_bus"));
	/* The driver counts it a moment later, after the link is up again. */
	if (!driver_says_nothing()) {
		EXPECT_TRUE(wait_until(driver_says("resets", NULL) != resets, 20000));
		EXPECT_EQ(resets + 1, driver_says("resets", NULL));
	}

	/* Only the VMM can restore the BARs, so nothing waits for them. */
	start = now_ms();
	EXPECT_EQ(SIGBUS, touch(self->map, false));
	EXPECT_EQ(-1, pread(self->fd, &value, 8, self->usemem));
	EXPECT_EQ(EIO, errno);
	EXPECT_GT(AT_ONCE_MS, now_ms() - start);

	/* It does so by turning memory on. */
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
