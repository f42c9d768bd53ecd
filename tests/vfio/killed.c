// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO users that are killed, GPUs that are pulled and modules that are removed, at random
 * moments, ROUNDS times each. After each round all is as it was, and the next user works.
 */
#include <sys/syscall.h>

#include "fault.h"
#include "fixture.h"
#include "knobs.h"
#include "task.h"

static const struct program program = {
	.what = "VFIO users are killed, GPUs pulled and modules removed, over and over",
	.vars = {
		VAR_STANDIN, VAR_REGIONS,
		{ "ROUNDS", "of each test (5)", "200", true },
		{ "SEED", "of the random moments (the time)", "1234", true },
		{ "MODULE", "the driver's file, to load again", "/modules/nvgrace_gpu.ko", true },
	},
	.standin = true,
};

#define SYSFS		"/sys/bus/pci/drivers/nvgrace_gpu/"
/* A killed task that waits on ends when the GPU's time to get ready does. */
#define DIES_MS		20000

static struct {
	char iomem[MAX_IOMEM];
	int refs, windows;
	long available_kib;
} start;

static struct region regions[NR_REGIONS];
static bool no_resets;

static unsigned int rounds(void)
{
	return atoi(getenv("ROUNDS") ?: "5");
}

static unsigned int draw(unsigned int n)
{
	return random() % n;
}

/* References to the module: of the open device, among others. */
static int module_refs(void)
{
	char line[16];

	read_line("/sys/module/nvgrace_gpu/refcnt", line, sizeof(line));
	return *line ? atoi(line) : -1;
}

/* Count the places where the kernel has the memory mapped for reads and writes. */
static int windows(void)
{
	FILE *f = fopen("/proc/vmallocinfo", "re");
	char line[512];
	int n = 0;

	while (f && fgets(line, sizeof(line), f))
		n += !!strstr(line, "phys=0x0000070") || strstr(line, "phys=0x0000071");
	if (f)
		fclose(f);
	return n;
}

static long available_kib(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	long kib = -1;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %ld", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

static bool is_suspended(void)
{
	return wait_until(runtime_status_is("suspended"), 20000);
}

/* NULL, or what is not as it was before the GPU was opened first. */
static const char *what_is_left(void)
{
	static char now[MAX_IOMEM];

	if (!wait_until(module_refs() == start.refs, 5000))
		return "a reference to the module";
	if (!is_suspended())
		return "a runtime PM reference";
	read_iomem(now);
	if (strcmp(now, start.iomem))
		return "a line in /proc/iomem";
	if (windows() != start.windows)
		return "a mapping in the kernel";
	if (driver_counts("poisoned_pages"))
		return "a poisoned page";
	return NULL;
}

static bool can_open(struct vfio *v)
{
	bool can = !vfio_open(v, BEST_MODE);

	if (!can)
		vfio_close(v);
	return can;
}

/* NULL if the next user can open the GPU and use both regions, or what fails. */
static const char *next_user(uint64_t value)
{
	const char *wrong = NULL;
	struct vfio v;
	uint64_t got;
	void *map;
	int i;

	if (!wait_until(can_open(&v), 5000))
		return "open";
	if (enable_memory(v.device))
		wrong = "config space";
	for (i = 0; i < NR_REGIONS && !wrong; i++) {
		if (pwrite(v.device, &value, 8, regions[i].off) != 8 ||
		    pread(v.device, &got, 8, regions[i].off) != 8 || got != value)
			wrong = "read or write";
		map = map_region(&v, i, NULL, 0, PAGE);
		if (map == MAP_FAILED)
			wrong = "mmap";
		if (wrong)
			break;
		got = 0;
		fault_of(got = *(volatile uint64_t *)map);
		if (got != value && !wrong)
			wrong = "a load";
		munmap(map, PAGE);
	}
	vfio_close(&v);
	return wrong;
}

#define ASSERT_AS_BEFORE(round)							\
	do {									\
		const char *__left = what_is_left(), *__wrong;			\
										\
		ASSERT_EQ(NULL, __left) TH_LOG("round %u: %s is left", round, __left);	\
		__wrong = next_user((uint64_t)(round) << 32 | 0x5a5a);		\
		ASSERT_EQ(NULL, __wrong)					\
			TH_LOG("round %u: the next user fails at %s", round, __wrong);	\
		__left = what_is_left();					\
		ASSERT_EQ(NULL, __left)						\
			TH_LOG("round %u: of the next user %s is left", round, __left);	\
	} while (0)

/* ---- users ---- */

static void *reads_and_writes(void *arg)
{
	const struct vfio *v = arg;
	size_t size = MIB(2);
	char *buf = malloc(size);

	for (unsigned int i = 0;; i++) {
		const struct region *r = &regions[i & 1];
		uint64_t at = (uint64_t)i * 0x31234567 % (r->backed - size);

		if (i & 2)
			pwrite(v->device, buf, size, r->off + at);
		else
			pread(v->device, buf, size, r->off + at);
	}
	return NULL;
}

static void *maps_and_touches(void *arg)
{
	const struct vfio *v = arg;

	for (unsigned int i = 0;; i++) {
		size_t len = i & 2 ? BLOCK : 16 * PAGE;
		uint8_t *p = map_region(v, i & 1, NULL, 0, len);

		for (size_t at = 0; p != MAP_FAILED && at < len; at += len / 4)
			(void)fault_of(p[at] = i);
		if (p != MAP_FAILED)
			munmap(p, len);
	}
	return NULL;
}

static void *does_the_rest(void *arg)
{
	const struct vfio *v = arg;
	void *p = mmap(NULL, MIB(2), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t config[256];

	for (unsigned int i = 0;; i++) {
		dma_map(v, p, MIB(2), (uint64_t)i * MIB(2));
		pread(v->device, config, sizeof(config), CONFIG);
		pwrite(v->device, config + 0x18, 8, CONFIG + 0x18);
		if (i % 8 == 7 && !no_resets)
			ioctl(v->device, VFIO_DEVICE_RESET);
		enable_memory(v->device);
		close(export_dmabuf(v->device, regions[i & 1].bar, 0, PAGE));
	}
	return NULL;
}

/* Exits only if the GPU cannot be opened. It writes to READY when it has it open. */
static int user_under_load(void *ready)
{
	pthread_t thread;
	struct vfio v;

	if (vfio_open(&v, BEST_MODE))
		return 1;
	enable_memory(v.device);
	write(*(int *)ready, "", 1);
	pthread_create(&thread, NULL, maps_and_touches, &v);
	pthread_create(&thread, NULL, does_the_rest, &v);
	reads_and_writes(&v);
	return 0;
}

/*
 * One read or write of all of usemem, which takes minutes. Its buffer is a mapping of the same
 * memory, because nothing else has that size.
 */
static int user_of_everything(void *ready)
{
	const struct region *r = &regions[USEMEM];
	struct vfio v;
	void *map;

	if (vfio_open(&v, BEST_MODE))
		return 1;
	enable_memory(v.device);
	map = map_region(&v, USEMEM, NULL, 0, r->backed);
	if (map == MAP_FAILED)
		return 2;
	write(*(int *)ready, "", 1);
	if (draw(2))
		return pread(v.device, map, r->backed, r->off) == (ssize_t)r->backed ? 3 : 4;
	return pwrite(v.device, map, r->backed, r->off) == (ssize_t)r->backed ? 5 : 6;
}

static int user_who_waits(void *ready)
{
	struct access a = { .how = draw(NR_ACCESSES), .off = regions[USEMEM].off };
	struct vfio v;

	if (vfio_open(&v, BEST_MODE))
		return 1;
	a.fd = v.device;
	a.p = map_region(&v, USEMEM, NULL, 0, PAGE);
	set_knob("ready_ms", -1);
	if (ioctl(v.device, VFIO_DEVICE_RESET) || enable_memory(v.device))
		return 2;
	write(*(int *)ready, "", 1);
	return do_access(&a) ? 3 : 4;
}

/* Start a user, and wait until it has the GPU. Its pid, or -1. */
static pid_t start_user(int (*user)(void *ready))
{
	int ready[2];
	char byte;
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC))
		return -1;
	srandom(random());
	pid = start_child(user, &ready[1]);
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1) {
		kill_child(pid);
		pid = -1;
	}
	close(ready[0]);
	return pid;
}

/* Kill it: -SIGKILL, or another end, or -ETIME if that takes too long. */
static int kill_user(pid_t pid)
{
	int status = 0;

	kill(pid, SIGKILL);
	if (!wait_until(waitpid(pid, &status, WNOHANG) == pid, DIES_MS))
		return -ETIME;
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

FIXTURE(killed) {
};

static bool set_up_done;

/* windows() counts more while the device is open. */
static bool windows_are_seen(void)
{
	int before = windows();
	struct vfio v;
	uint64_t got;
	bool seen;

	seen = !vfio_open(&v, BEST_MODE) && !enable_memory(v.device) &&
	       pread(v.device, &got, 8, regions[USEMEM].off) == 8 && windows() > before;
	vfio_close(&v);
	return seen;
}

FIXTURE_SETUP(killed)
{
	unsigned int seed = getenv("SEED") ? atoi(getenv("SEED")) : now_ms();

	TH_LOG("SEED=%u, %u rounds", seed, rounds());
	srandom(seed);
	ASSERT_EQ(0, expected_regions(regions));
	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_TRUE(set_knob("gone", 0));
	/* The first user leaves caches behind for good: it comes before the rounds. */
	ASSERT_EQ(NULL, next_user(1));
	ASSERT_TRUE(windows_are_seen());
	ASSERT_TRUE(is_suspended());
	start.refs = module_refs();
	start.windows = windows();
	read_iomem(start.iomem);
	start.available_kib = available_kib();
	set_up_done = true;
}

/* Allow for 64 MiB of caches, and of the children's pages, which do not all come back at once. */
FIXTURE_TEARDOWN(killed)
{
	set_knob("gone", 0);
	set_knob("ready_ms", 0);
	set_knob("ready", 1);
	if (set_up_done)
		EXPECT_TRUE(wait_until(available_kib() > start.available_kib - 65536, 10000))
			TH_LOG("%ld KiB available, of %ld", available_kib(),
			       start.available_kib);
}

/* Each user is killed up to MAX_US after it began; returns how many were. */
static unsigned int kill_in_rounds(struct __test_metadata *_metadata,
				   int (*user)(void *ready), unsigned int max_us)
{
	unsigned int round;

	for (round = 0; round < rounds(); round++) {
		pid_t pid = start_user(user);

		ASSERT_LT(0, pid);
		usleep(draw(max_us));
		ASSERT_EQ(-SIGKILL, kill_user(pid));
		ASSERT_AS_BEFORE(round);
	}
	return round;
}

TEST_F_TIMEOUT(killed, under_load, 3600)
{
	unsigned int kills = kill_in_rounds(_metadata, user_under_load, 200000);

	TH_LOG("# kills: under load %u", kills);
}

TEST_F_TIMEOUT(killed, in_the_middle_of_all_memory, 3600)
{
	unsigned int kills = kill_in_rounds(_metadata, user_of_everything, 300000);

	TH_LOG("# kills: in the middle of %lu GiB %u", regions[USEMEM].backed >> 30, kills);
}

TEST_F_TIMEOUT(killed, while_waiting, 3600)
{
	unsigned int round;

	for (round = 0; round < rounds(); round++) {
		pid_t user = start_user(user_who_waits);

		ASSERT_LT(0, user);
		usleep(draw(200000));
		ASSERT_TRUE(child_runs(user));
		ASSERT_EQ(-SIGKILL, kill_user(user));
		ASSERT_TRUE(set_knob("ready_ms", 0));
		ASSERT_TRUE(set_knob("ready", 1));
		ASSERT_AS_BEFORE(round);
	}
	TH_LOG("# kills: waiters %u", round);
}

/* The next one opens the GPU as soon as the last one is dead, and finds what it wrote. */
static int user_who_writes(void *ready)
{
	uint64_t value = 0x1234abcd5678;
	struct vfio v;

	if (vfio_open(&v, BEST_MODE))
		return 1;
	if (pwrite(v.device, &value, 8, regions[USEMEM].off + KIB(64)) != 8)
		return 2;
	write(*(int *)ready, "", 1);
	reads_and_writes(&v);
	return 0;
}

TEST_F_TIMEOUT(killed, two_users_in_turn, 3600)
{
	unsigned int round;

	for (round = 0; round < rounds(); round++) {
		pid_t users[2];
		struct vfio v;
		int i;

		for (i = 0; i < 2; i++) {
			ASSERT_TRUE(wait_until((users[i] = start_user(i ? user_under_load :
								      user_who_writes)) > 0,
					       20000));
			/* No other task can open it meanwhile. */
			ASSERT_NE(0, vfio_open(&v, BEST_MODE));
			vfio_close(&v);
			usleep(draw(50000));
			ASSERT_EQ(-SIGKILL, kill_user(users[i]));
		}
		ASSERT_AS_BEFORE(round);
	}
	TH_LOG("# kills: users in turn %u", 2 * round);
}

/* sysfs removes the device; that waits for the VFIO user. */
static int remove_device(void *arg)
{
	char path[PATH_MAX];

	return write_file(device_path(path, sizeof(path), "remove"), "1") ? 1 : 0;
}

static int bind_again(void)
{
	char path[PATH_MAX];

	if (write_file(device_path(path, sizeof(path), "driver_override"), "nvgrace_gpu"))
		return -EIO;
	return access(device_path(path, sizeof(path), "driver"), F_OK) ?
	       write_file(SYSFS "bind", getenv("BDF")) : 0;
}

/*
 * The GPU reads all ones for a while, and is removed. It answers again before VFIO resets it for
 * the last time, because the PCI core would wait a minute for it, which no signal ends.
 */
TEST_F_TIMEOUT(killed, pulled_under_load, 3600)
{
	char path[PATH_MAX];
	unsigned int round;

	no_resets = true;
	for (round = 0; round < rounds(); round++) {
		pid_t user = start_user(user_under_load), remover;

		ASSERT_LT(0, user);
		usleep(draw(200000));
		ASSERT_TRUE(set_knob("gone", 1));
		usleep(draw(100000));
		ASSERT_TRUE(child_runs(user));
		remover = start_child(remove_device, NULL);
		usleep(draw(100000));
		ASSERT_TRUE(set_knob("gone", 0));
		ASSERT_EQ(-SIGKILL, kill_user(user));
		ASSERT_EQ(0, end_of_child(remover));
		ASSERT_NE(0, access(device_path(path, sizeof(path), ""), F_OK));

		ASSERT_EQ(0, write_file("/sys/bus/pci/rescan", "1"));
		ASSERT_EQ(0, access(device_path(path, sizeof(path), ""), F_OK));
		ASSERT_EQ(0, bind_again());
		ASSERT_AS_BEFORE(round);
	}
	TH_LOG("# kills: pulled %u", round);
}

/* The module cannot be removed under a user. Afterwards it can, and leaves nothing. */
TEST_F_TIMEOUT(killed, module_is_removed, 3600)
{
	unsigned int round, i;

	for (round = 0; round < rounds(); round++) {
		pid_t user = start_user(user_under_load);
		int fd;

		ASSERT_LT(0, user);
		for (i = 0; i < 5; i++) {
			ASSERT_NE(0, syscall(SYS_delete_module, "nvgrace_gpu", O_NONBLOCK));
			ASSERT_EQ(EAGAIN, errno);
			usleep(draw(10000));
		}
		ASSERT_EQ(-SIGKILL, kill_user(user));
		ASSERT_TRUE(wait_until(module_refs() == start.refs, 5000));
		ASSERT_EQ(0, syscall(SYS_delete_module, "nvgrace_gpu", O_NONBLOCK));
		ASSERT_EQ(0, claims());
		ASSERT_EQ(start.windows, windows());

		fd = open(getenv("MODULE") ?: "/modules/nvgrace_gpu.ko", O_RDONLY | O_CLOEXEC);
		ASSERT_EQ(0, syscall(SYS_finit_module, fd, "", 0));
		close(fd);
		ASSERT_EQ(0, bind_again());
		ASSERT_AS_BEFORE(round);
	}
	TH_LOG("# kills: module removals %u, refused %u", round, 5 * round);
}

TEST_PROGRAM_MAIN(program)
