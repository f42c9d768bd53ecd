// SPDX-License-Identifier: GPL-2.0-only
/*
 * Each way that a GPU is reset, or that its memory goes away and comes back, while a mapping of
 * usemem is held and four threads use it. Afterwards all accesses come back by themselves, and
 * the memory holds what was written. What is printed as "way" is the table of access.rst.
 */
#include "fault.h"
#include "fixture.h"
#include "knobs.h"
#include "pattern.h"
#include "work.h"

static const struct program program = {
	.what = "each way that a GPU is reset, with a mapping held and four threads at work",
	.vars = {
		VAR_STANDIN, VAR_REGIONS,
		{ "RST_MS", "how long a slow _RST takes", "1000", true },
		{ "EDR", "1 if the kernel has EDR", "1", true },
		{ "ATTACH_FAILS", "1 if the kernel attaches no GPU with ATS during a reset", "1",
		  true },
	},
	.args = "-r way.sysfs_flr.comes_back",
	.standin = true,
};

#define MAPPED		MIB(4)
#define WORKED_AT	MIB(1)
#define SEED		77

/* The GPU trains for so long after each reset. */
#define READY_MS	200
#define LIMIT_MS	60000

/* Load from a page that nobody else uses: SIGBUS or 0. */
static int touch(void *p)
{
	return fault_of((void)*(volatile uint64_t *)p).sig;
}

static int write_below(const char *below, const char *s)
{
	char path[PATH_MAX];

	return write_file(device_path(path, sizeof(path), below), s);
}

/* The ways: 0 or -errno. Each returns when the GPU should be usable again. */
static int by_ioctl(const struct vfio *v)
{
	return ioctl(v->device, VFIO_DEVICE_RESET) ? -errno : 0;
}

static int by_sysfs(const struct vfio *v)
{
	return write_below("reset", "1");
}

static int by_guest_flr(const struct vfio *v)
{
	return guest_flr(v->device) ? -errno : 0;
}

/* The core does not wait for its locks to reset a bus. */
static int by_hot_reset(const struct vfio *v)
{
	return wait_until(!hot_reset(v) || errno != EBUSY, LIMIT_MS) ? 0 : -errno;
}

static int by_port(const struct vfio *v)
{
	return write_below("../reset_subordinate", "1");
}

/* Behind the back of the PCI core and of the driver. */
static int by_bridge_control(const struct vfio *v)
{
	char path[PATH_MAX];
	uint16_t control, reset;
	int fd;

	fd = open(device_path(path, sizeof(path), "../config"), O_RDWR | O_CLOEXEC);
	if (pread(fd, &control, 2, PCI_BRIDGE_CONTROL) != 2)
		return -EIO;
	reset = control | PCI_BRIDGE_CTL_BUS_RESET;
	if (pwrite(fd, &reset, 2, PCI_BRIDGE_CONTROL) != 2)
		return -EIO;
	usleep(10000);
	if (pwrite(fd, &control, 2, PCI_BRIDGE_CONTROL) != 2)
		return -EIO;
	close(fd);
	return 0;
}

static int by_error(uint32_t error)
{
	int recovered = log_says("device recovery successful");

	if (!set_knob("aer_uncorrectable", error))
		return -EIO;
	return wait_until(log_says("device recovery successful") > recovered, LIMIT_MS) ?
	       0 : -ETIME;
}

static int by_nonfatal_error(const struct vfio *v)
{
	return by_error(PCI_ERR_UNC_COMP_TIME);
}

static int by_fatal_error(const struct vfio *v)
{
	return by_error(PCI_ERR_UNC_MALF_TLP);
}

/*
 * The root port contains the error and takes the GPU off the bus, firmware notifies the kernel, and
 * the kernel evaluates _OST with the port's address and a status: 0x80 means success.
 */
static int by_edr(const struct vfio *v)
{
	int recovered = log_says("device recovery successful");

	if (!set_knob("edr_status", 0) || !set_knob("edr", 1))
		return -errno;
	if (!wait_until(knob("edr_status") & 0xffff, LIMIT_MS))
		return -ETIME;
	if ((knob("edr_status") & 0xffff) != 0x80 || knob("edr") ||
	    log_says("device recovery successful") != recovered + 1)
		return -EIO;
	return 0;
}

static int by_d3hot(const struct vfio *v)
{
	unsigned int pmcsr = config_find_cap(v->device, PCI_CAP_ID_PM) + PCI_PM_CTRL;

	if (config_modify(v->device, pmcsr, 0, 3) || knob("power_state") != 3)
		return -EIO;
	usleep(100000);
	return config_modify(v->device, pmcsr, 3, 0) ? -EIO : 0;
}

/* The reads of the threads wake it again and again. */
static int by_low_power(const struct vfio *v)
{
	if (allow_low_power(v->device, true))
		return -errno;
	if (!wait_until(knob("power_state") == 3, LIMIT_MS))
		return -ETIME;
	return allow_low_power(v->device, false) ? -errno : 0;
}

static int by_d3cold(const struct vfio *v)
{
	long seen = knob("d3colds");

	if (allow_low_power(v->device, true))
		return -errno;
	if (!wait_until(knob("d3colds") != seen, LIMIT_MS))
		return -ETIME;
	return allow_low_power(v->device, false) ? -errno : 0;
}

/*
 * The kernel ends it a second after its devices are suspended. By default that is 5 s, in a loop,
 * which RCU takes for a stall if the machine under QEMU is busy.
 */
static int by_host_suspend(const struct vfio *v)
{
	int ret = write_file("/sys/power/pm_test", "devices");

	ret = ret ?: write_file("/sys/module/suspend/parameters/pm_test_delay", "1");
	ret = ret ?: write_file("/sys/power/state", "freeze");
	write_file("/sys/power/pm_test", "none");
	return ret;
}

struct user {
	struct vfio v;
	int fd;
	uint64_t usemem;
	void *map;
};

FIXTURE(way)
{
	struct user user;
};

FIXTURE_VARIANT(way)
{
	int (*reset)(const struct vfio *v);
	int error;		/* what that returns */
	const char *method;	/* in reset_method, if it is not the default */
	const char *counter;	/* of the stand-in: what it saw, and nothing else */
	bool unannounced;	/* the driver does not count it */
	bool refuses;		/* accesses may fail meanwhile */
	bool vmm_restores;	/* the VMM has to turn memory on again */
	bool d3cold;		/* is allowed */
	long rst_ms, rst_limit_ms, rst_fails;
};

/*
 * ACPI's _RST, which the PCI core tries first. One that takes its time; one that gives up, and
 * returns as if the reset had worked, half a second before the GPU answers; one that fails.
 */
FIXTURE_VARIANT_ADD(way, ioctl_acpi) { .reset = by_ioctl, .counter = "resets_rst" };
FIXTURE_VARIANT_ADD(way, sysfs_acpi) { .reset = by_sysfs, .counter = "resets_rst" };
FIXTURE_VARIANT_ADD(way, acpi_takes_long)
	{ .reset = by_sysfs, .counter = "resets_rst", .rst_ms = 1000 };
FIXTURE_VARIANT_ADD(way, acpi_times_out)
	{ .reset = by_sysfs, .counter = "resets_rst", .rst_ms = 800, .rst_limit_ms = 300 };
FIXTURE_VARIANT_ADD(way, acpi_times_out_ioctl)
	{ .reset = by_ioctl, .counter = "resets_rst", .rst_ms = 800, .rst_limit_ms = 300 };
FIXTURE_VARIANT_ADD(way, acpi_fails)
	{ .reset = by_sysfs, .counter = "resets_flr", .rst_fails = 1 };
FIXTURE_VARIANT_ADD(way, ioctl_flr)
	{ .reset = by_ioctl, .counter = "resets_flr", .method = "flr" };
FIXTURE_VARIANT_ADD(way, sysfs_flr)
	{ .reset = by_sysfs, .counter = "resets_flr", .method = "flr" };
FIXTURE_VARIANT_ADD(way, guest_flr)
	{ .reset = by_guest_flr, .counter = "resets_flr", .method = "flr" };
/* The PCI core resets the slot where the port is one. */
FIXTURE_VARIANT_ADD(way, ioctl_bus)
	{ .reset = by_ioctl, .counter = "resets_bus", .method = "bus" };
FIXTURE_VARIANT_ADD(way, sysfs_bus)
	{ .reset = by_sysfs, .counter = "resets_bus", .method = "bus" };
FIXTURE_VARIANT_ADD(way, hot_reset) { .reset = by_hot_reset, .counter = "resets_bus" };
FIXTURE_VARIANT_ADD(way, reset_subordinate) { .reset = by_port, .counter = "resets_bus" };
/* The PCI core finds no method, and announces nothing. */
FIXTURE_VARIANT_ADD(way, ioctl_no_method)
	{ .reset = by_ioctl, .error = -ENOTTY, .method = "\n", .unannounced = true };
FIXTURE_VARIANT_ADD(way, sysfs_no_method)
	{ .reset = by_sysfs, .error = -ENOTTY, .method = "\n", .unannounced = true };
FIXTURE_VARIANT_ADD(way, nonfatal_error) { .reset = by_nonfatal_error, .unannounced = true };
FIXTURE_VARIANT_ADD(way, fatal_error)
	{ .reset = by_fatal_error, .counter = "resets_bus", .refuses = true, .vmm_restores = true };
FIXTURE_VARIANT_ADD(way, edr)
	{ .reset = by_edr, .counter = "resets_dpc", .refuses = true, .vmm_restores = true };
FIXTURE_VARIANT_ADD(way, bridge_control)
	{ .reset = by_bridge_control, .counter = "resets_bus", .unannounced = true,
	  .vmm_restores = true };
FIXTURE_VARIANT_ADD(way, d3hot) { .reset = by_d3hot, .unannounced = true, .refuses = true };
FIXTURE_VARIANT_ADD(way, low_power)
	{ .reset = by_low_power, .unannounced = true, .refuses = true };
FIXTURE_VARIANT_ADD(way, d3cold)
	{ .reset = by_d3cold, .d3cold = true, .unannounced = true, .refuses = true };
FIXTURE_VARIANT_ADD(way, host_suspend) { .reset = by_host_suspend, .unannounced = true };

static const char * const counters[] = { "resets_rst", "resets_flr", "resets_bus", "resets_dpc" };

/* Open, map and fill usemem, but for the pages of the threads. */
static void open_and_fill(struct __test_metadata *_metadata, struct user *user)
{
	size_t pos;

	if (!open_device(_metadata, &user->v, &user->fd, BEST_MODE))
		return;
	ASSERT_EQ(0, enable_memory(user->fd));
	user->usemem = user->v.regions[USEMEM].off;
	user->map = map_region(&user->v, USEMEM, NULL, 0, MAPPED);
	ASSERT_NE(MAP_FAILED, user->map);
	for (pos = 0; pos < MAPPED; pos += PAGE)
		*(volatile uint64_t *)(user->map + pos) = pattern(SEED, pos);
}

/* The values are there still, for read() and for a load. */
static void expect_filled(struct __test_metadata *_metadata, struct user *user)
{
	uint64_t value;
	size_t pos;

	for (pos = 0; pos < MAPPED; pos += PAGE) {
		if (pos >= WORKED_AT && pos < WORKED_AT + NR_WORKERS * PAGE)
			continue;
		ASSERT_EQ(8, pread(user->fd, &value, 8, user->usemem + pos));
		ASSERT_EQ(pattern(SEED, pos), value);
		ASSERT_EQ(pattern(SEED, pos), *(volatile uint64_t *)(user->map + pos));
	}
}

static void expect_right(struct __test_metadata *_metadata, struct work *work)
{
	struct worker *w;

	for_each_worker(w, work) {
		EXPECT_EQ(0, w->wrong);
		EXPECT_EQ(0, do_access(&w->get));
		EXPECT_EQ(w->put.value, w->get.value);
	}
}

FIXTURE_SETUP(way)
{
	if (variant->reset == by_edr && !env_is("EDR", "1"))
		SKIP(return, "the kernel has no EDR");
	ASSERT_EQ(0, write_below("d3cold_allowed", variant->d3cold ? "1" : "0"));
	ASSERT_TRUE(set_knob("gone", 0));
	ASSERT_TRUE(set_knob("ready_ms", 0));
	open_and_fill(_metadata, &self->user);
	ASSERT_TRUE(set_knob("ready_ms", READY_MS));
	ASSERT_TRUE(set_knob("rst_ms", variant->rst_ms));
	if (variant->rst_ms && !variant->rst_limit_ms && getenv("RST_MS"))
		ASSERT_TRUE(set_knob("rst_ms", atol(getenv("RST_MS"))));
	ASSERT_TRUE(set_knob("rst_limit_ms", variant->rst_limit_ms ?: LIMIT_MS));
	ASSERT_TRUE(set_knob("rst_fails", variant->rst_fails));
	if (variant->method)
		ASSERT_EQ(0, write_below("reset_method", variant->method));
}

FIXTURE_TEARDOWN(way)
{
	write_below("reset_method", "default");
	set_knob("rst_fails", 0);
	set_knob("rst_ms", 0);
	set_knob("ready_ms", 0);
	munmap(self->user.map, MAPPED);
	vfio_close(&self->user.v);
}

TEST_F_TIMEOUT(way, comes_back, 180)
{
	long resets = driver_counts("resets"), seen[ARRAY_SIZE(counters)], start, took, usable;
	struct user *user = &self->user;
	unsigned long refused;
	struct work work;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(counters); i++)
		seen[i] = knob(counters[i]);
	ASSERT_EQ(0, start_work(&work, user->fd, user->usemem + WORKED_AT,
				user->map + WORKED_AT));
	ASSERT_TRUE(wait_until(work_goes_on(&work), LIMIT_MS));

	start = now_ms();
	EXPECT_EQ(variant->error, variant->reset(&user->v));
	took = now_ms() - start;
	if (variant->vmm_restores)
		ASSERT_EQ(0, enable_memory(user->fd));
	/* One load is enough: it waits. */
	EXPECT_EQ(0, touch(user->map));
	if (!variant->unannounced || variant->d3cold)
		EXPECT_EQ(1, knob("ready"));
	usable = now_ms() - start;
	EXPECT_GT(took + LIMIT_MS, usable);

	work_mark(&work);
	EXPECT_TRUE(wait_until(work_goes_on(&work), LIMIT_MS));
	refused = work_refused(&work);
	if (!variant->refuses)
		EXPECT_EQ(0, refused);
	work_mark(&work);
	EXPECT_TRUE(wait_until(work_goes_on(&work), LIMIT_MS));
	EXPECT_EQ(refused, work_refused(&work));
	end_work(&work);
	expect_right(_metadata, &work);
	expect_filled(_metadata, user);

	EXPECT_EQ(resets + !variant->unannounced, driver_counts("resets"));
	for (i = 0; i < ARRAY_SIZE(counters); i++)
		EXPECT_EQ(seen[i] + (variant->counter && !strcmp(variant->counter, counters[i])),
			  knob(counters[i])) TH_LOG("counter %zu", i);
	TH_LOG("way: the reset takes %ld ms, usable after %ld ms, %lu accesses refused",
	       took, usable, refused);
}

/* The GPU leaves its bus, and comes back as a new device. */
FIXTURE(owner)
{
	struct user user;
	char off[PATH_MAX], on[PATH_MAX];	/* files in sysfs */
	int go[2];
	pid_t taker;
};

FIXTURE_VARIANT(owner)
{
	bool slot;
};

FIXTURE_VARIANT_ADD(owner, remove) {};
FIXTURE_VARIANT_ADD(owner, slot_power) { .slot = true };

/* The file in sysfs that is the power of the GPU's slot. */
static bool find_slot(char *path, size_t len)
{
	size_t same = strlen(getenv("BDF")) - 2;
	char address[PATH_MAX], line[32];
	struct dirent *e;
	bool found = false;
	DIR *dir = opendir("/sys/bus/pci/slots");

	while (!found && dir && (e = readdir(dir))) {
		snprintf(address, sizeof(address), "/sys/bus/pci/slots/%s/address", e->d_name);
		read_line(address, line, sizeof(line));
		found = strlen(line) == same && !strncmp(line, getenv("BDF"), same);
		snprintf(path, len, "/sys/bus/pci/slots/%s/power", e->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

static bool is_on_the_bus(void)
{
	char path[PATH_MAX];

	return !access(device_path(path, sizeof(path), ""), F_OK);
}

/* In a process of its own, which waits for the VFIO user, and so must not have the GPU open. */
static int take_away(void *arg)
{
	FIXTURE_DATA(owner) * self = arg;
	char go;

	if (read(self->go[0], &go, 1) != 1)
		return -EIO;
	return write_file(self->off, strcmp(self->off, self->on) ? "1" : "0");
}

FIXTURE_SETUP(owner)
{
	device_path(self->off, sizeof(self->off), "remove");
	snprintf(self->on, sizeof(self->on), "/sys/bus/pci/rescan");
	if (variant->slot) {
		ASSERT_TRUE(find_slot(self->off, sizeof(self->off)));
		snprintf(self->on, sizeof(self->on), "%s", self->off);
	}
	ASSERT_EQ(0, pipe(self->go));
	self->taker = start_child(take_away, self);
	ASSERT_TRUE(set_knob("gone", 0));
	ASSERT_TRUE(set_knob("ready_ms", READY_MS));
	open_and_fill(_metadata, &self->user);
}

FIXTURE_TEARDOWN(owner)
{
	set_knob("ready_ms", 0);
	munmap(self->user.map, MAPPED);
	vfio_close(&self->user.v);
}

/* The user works until it lets go; only then the GPU goes. The next user finds the memory. */
TEST_F_TIMEOUT(owner, comes_back, 120)
{
	int asked = log_says("No device request channel registered");
	struct user *user = &self->user;
	struct work work;
	long start;

	ASSERT_EQ(0, start_work(&work, user->fd, user->usemem + WORKED_AT, user->map + WORKED_AT));
	ASSERT_EQ(1, write(self->go[1], "", 1));
	EXPECT_TRUE(wait_until(log_says("No device request channel registered") > asked,
			       LIMIT_MS));
	work_mark(&work);
	EXPECT_TRUE(wait_until(work_goes_on(&work), LIMIT_MS));
	EXPECT_TRUE(child_runs(self->taker));
	EXPECT_EQ(0, work_refused(&work));
	end_work(&work);
	expect_right(_metadata, &work);
	munmap(user->map, MAPPED);
	vfio_close(&user->v);
	EXPECT_EQ(0, end_of_child(self->taker));
	EXPECT_FALSE(is_on_the_bus());
	EXPECT_EQ(!variant->slot, knob("slot_power"));

	start = now_ms();
	ASSERT_EQ(0, write_file(self->on, "1"));
	ASSERT_TRUE(is_on_the_bus());
	EXPECT_EQ(1, knob("slot_power"));
	ASSERT_EQ(0, write_below("driver_override", "nvgrace_gpu"));
	ASSERT_EQ(0, write_file("/sys/bus/pci/drivers/nvgrace_gpu/bind", getenv("BDF")));
	TH_LOG("way: back and bound after %ld ms", now_ms() - start);
	EXPECT_EQ(0, driver_counts("resets"));
	reopen_device(_metadata, &user->v, &user->fd);
	ASSERT_EQ(0, enable_memory(user->fd));
	user->map = map_region(&user->v, USEMEM, NULL, 0, MAPPED);
	ASSERT_NE(MAP_FAILED, user->map);
	EXPECT_EQ(0, touch(user->map));
	TH_LOG("way: usable after %ld ms", now_ms() - start);
	expect_filled(_metadata, user);
}

static int reset_once(void *unused)
{
	return by_sysfs(NULL);
}

static ssize_t read_at(const char *path, off_t at, void *buf, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = pread(fd, buf, len, at);

	close(fd);
	return n;
}

/* A user does something before a reset is over, or just after. */
FIXTURE(meanwhile)
{
	struct user user;
};

FIXTURE_SETUP(meanwhile)
{
	ASSERT_TRUE(set_knob("ready_ms", 0));
	open_and_fill(_metadata, &self->user);
}

FIXTURE_TEARDOWN(meanwhile)
{
	set_knob("gone", 0);
	set_knob("rst_ms", 0);
	set_knob("ready_ms", 0);
	munmap(self->user.map, MAPPED);
	vfio_close(&self->user.v);
}

/* No thread ends an access in half a second. It may have to count one from before. */
static void expect_held(struct __test_metadata *_metadata, struct work *work)
{
	struct worker *w;

	work_mark(work);
	usleep(500000);
	for_each_worker(w, work)
		EXPECT_GE(w->mark + 1, atomic_load(&w->done));
}

/* Threads wait while the GPU is in reset. */
TEST_F(meanwhile, threads_wait)
{
	struct user *user = &self->user;
	long seen = knob("resets_rst");
	struct work work;
	pid_t resets;

	ASSERT_TRUE(set_knob("rst_ms", 2000));
	ASSERT_EQ(0, start_work(&work, user->fd, user->usemem + WORKED_AT,
				user->map + WORKED_AT));
	ASSERT_TRUE(wait_until(work_goes_on(&work), LIMIT_MS));
	resets = start_child(reset_once, NULL);
	ASSERT_TRUE(wait_until(knob("resets_rst") != seen, LIMIT_MS));
	expect_held(_metadata, &work);
	EXPECT_TRUE(child_runs(resets));
	EXPECT_EQ(0, knob("ready"));
	EXPECT_EQ(0, end_of_child(resets));
	work_mark(&work);
	EXPECT_TRUE(wait_until(work_goes_on(&work), LIMIT_MS));
	EXPECT_EQ(0, work_refused(&work));
	end_work(&work);
	expect_right(_metadata, &work);
}

/* The same while the root port contains an error. The GPU answers again after half a second. */
TEST_F(meanwhile, threads_wait_for_edr)
{
	struct user *user = &self->user;
	struct work work;

	if (!env_is("EDR", "1"))
		SKIP(return, "the kernel has no EDR");
	ASSERT_EQ(0, start_work(&work, user->fd, user->usemem + WORKED_AT,
				user->map + WORKED_AT));
	ASSERT_TRUE(wait_until(work_goes_on(&work), LIMIT_MS));
	ASSERT_TRUE(set_knob("edr_status", 0));
	ASSERT_TRUE(set_knob("gone", 1));
	ASSERT_TRUE(set_knob("edr", 1));
	EXPECT_TRUE(wait_until(state_is("resetting"), LIMIT_MS)) TH_LOG("%s", driver_says("state"));
	expect_held(_metadata, &work);
	EXPECT_EQ(0, knob("edr_status"));
	ASSERT_TRUE(set_knob("gone", 0));
	EXPECT_TRUE(wait_until((knob("edr_status") & 0xffff) == 0x80, LIMIT_MS));
	ASSERT_EQ(0, enable_memory(user->fd));
	work_mark(&work);
	EXPECT_TRUE(wait_until(work_goes_on(&work), LIMIT_MS));
	end_work(&work);
	expect_right(_metadata, &work);
}

/* Config space may read all ones after the end of a reset, too: the GPU is not ready yet. */
TEST_F(meanwhile, silent_gpu_is_waited_for)
{
	struct user *user = &self->user;
	struct access load = { .how = ACCESS_LOAD, .p = user->map };

	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, by_sysfs(&user->v));
	ASSERT_TRUE(set_knob("gone", 1));
	ASSERT_EQ(0, start_access_thread(&load));
	usleep(500000);
	EXPECT_EQ(EBUSY, pthread_tryjoin_np(load.thread, NULL));
	ASSERT_TRUE(set_knob("gone", 0));
	ASSERT_TRUE(set_knob("ready", 1));
	EXPECT_EQ(0, pthread_join(load.thread, NULL));
	EXPECT_EQ(0, load.result);
	EXPECT_EQ(pattern(SEED, 0), load.value);
}

/*
 * _RST returns too early when the last user closes, and the GPU is unbound before it answers. The
 * next driver finds its BARs.
 */
TEST_F(meanwhile, unbound_before_it_answers)
{
	char config[PATH_MAX];
	uint64_t before, after;

	device_path(config, sizeof(config), "config");
	ASSERT_TRUE(stay_awake(true));
	ASSERT_EQ(8, read_at(config, PCI_BASE_ADDRESS_0, &before, 8));
	ASSERT_TRUE(set_knob("rst_limit_ms", 300));
	ASSERT_TRUE(set_knob("rst_ms", 1500));
	munmap(self->user.map, MAPPED);
	vfio_close(&self->user.v);
	ASSERT_EQ(0, write_below("driver/unbind", getenv("BDF")));
	ASSERT_EQ(8, read_at(config, PCI_BASE_ADDRESS_0, &after, 8));
	EXPECT_EQ(before, after);

	ASSERT_TRUE(set_knob("rst_ms", 0));
	ASSERT_TRUE(set_knob("rst_limit_ms", LIMIT_MS));
	ASSERT_EQ(0, write_file("/sys/bus/pci/drivers/nvgrace_gpu/bind", getenv("BDF")));
	ASSERT_TRUE(stay_awake(false));
	open_and_fill(_metadata, &self->user);
}

/*
 * VFIO does not wait for another task's reset: open again afterwards. Newer kernels refuse to
 * attach a GPU with ATS to an IOMMU domain meanwhile. A group attaches first: -EBUSY. The cdev
 * opens first: -EAGAIN.
 */
TEST(open_during_a_reset)
{
	long seen = knob("resets_rst");
	bool attach_fails = env_is("ATTACH_FAILS", "1") && vfio_best_mode() != IOMMUFD;
	struct vfio v;
	pid_t resets;

	ASSERT_TRUE(set_knob("rst_ms", 2000));
	resets = start_child(reset_once, NULL);
	ASSERT_TRUE(wait_until(knob("resets_rst") != seen, LIMIT_MS));
	EXPECT_EQ(attach_fails ? -EBUSY : -EAGAIN, vfio_open(&v, BEST_MODE));
	EXPECT_TRUE(child_runs(resets));
	vfio_close(&v);
	EXPECT_EQ(0, end_of_child(resets));
	ASSERT_TRUE(set_knob("rst_ms", 0));
	EXPECT_EQ(0, vfio_open(&v, BEST_MODE));
	vfio_close(&v);
}

TEST_PROGRAM_MAIN(program)
