// SPDX-License-Identifier: GPL-2.0-only
/*
 * Each allocation and each user copy of probe, open and use fails once: what was
 * begun has to be undone, and the next attempt has to work.
 *
 * The kernel's fault injection lets the Nth of them in this task fail. The device is
 * the only one that nvgrace_gpu may bind.
 */
#include "fixture.h"

static const struct program program = {
	.what = "each allocation of probe, open and use fails once",
	.vars = {
		{ "BDF", "PCI address of the device, with driver_override set", "0000:01:00.0" },
		VAR_REGIONS,
	},
	.unbound = true,
};

#define SYSFS		"/sys/bus/pci/drivers/nvgrace_gpu/"
#define FAIL_NTH	"/proc/thread-self/fail-nth"

/* More than any attempt can take: to end if it never succeeds. */
#define MOST	2000

static struct region regions[NR_REGIONS];
static int nth_fd = -1;

static void arm(int n)
{
	char s[16];

	snprintf(s, sizeof(s), "%d", n);
	if (pwrite(nth_fd, s, strlen(s), 0) < 0)
		exit(KSFT_FAIL);
}

/* Did it strike? Reading it is a user copy, too, and may be what is struck. */
static bool disarm(void)
{
	char s[16] = "";
	bool struck = pread(nth_fd, s, sizeof(s) - 1, 0) > 0 && atoi(s) == 0;

	pwrite(nth_fd, "0", 1, 0);
	return struck;
}

static bool device_has(const char *what)
{
	char path[PATH_MAX];

	return !access(device_path(path, sizeof(path), what), F_OK);
}

static int claims(void)
{
	FILE *f = fopen("/proc/iomem", "r");
	char line[256];
	int n = 0;

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, " : nvgrace_gpu\n"))
			n++;
	if (f)
		fclose(f);
	return n;
}

/* Entries of a directory, without those whose name begins as EXCEPT. */
static int entries(const char *path, const char *except)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	int n = 0;

	while (dir && (e = readdir(dir)))
		n += e->d_name[0] != '.' && strcmp(e->d_name, except);
	if (dir)
		closedir(dir);
	return n;
}

static int bind_gpu(void)
{
	return write_file(SYSFS "bind", getenv("BDF"));
}

static int unbind_gpu(void)
{
	return write_file(SYSFS "unbind", getenv("BDF"));
}

static bool is_bound(void)
{
	return device_has("driver") && device_has("vfio-dev") && claims() == 2;
}

/* Its nodes: of the group, and of the device in a directory. */
static bool has_nodes(void)
{
	bool cdev = !vfio_mode_missing(IOMMUFD);

	return entries("/dev/vfio", "vfio") == 1 + cdev &&
	       entries("/dev/vfio/devices", "") == cdev;
}

static bool nothing_is_bound(void)
{
	return !device_has("driver") && !device_has("vfio-dev") && claims() == 0 &&
	       entries("/dev/vfio", "vfio") == !access("/dev/vfio/devices", F_OK) &&
	       entries("/dev/vfio/devices", "") == 0;
}

/* The last reference to the powered device is gone when it is suspended. */
static bool is_suspended(void)
{
	char path[PATH_MAX], status[16];

	device_path(path, sizeof(path), "power/runtime_status");
	return wait_until((read_line(path, status, sizeof(status)),
			   !strcmp(status, "suspended")), 5000);
}

/* NULL if the kernel can let the Nth allocation fail, or why not. */
static const char *no_fault_injection(void)
{
	return access(FAIL_NTH, F_OK) ?
	       "no " FAIL_NTH ": the kernel has no FAULT_INJECTION" : NULL;
}

/* ------------------------------------------------------------------------ */

FIXTURE(probe) {
};

FIXTURE_SETUP(probe)
{
	if (no_fault_injection())
		SKIP(return, "%s", no_fault_injection());
	nth_fd = open(FAIL_NTH, O_RDWR | O_CLOEXEC);
	ASSERT_GE(nth_fd, 0);
	ASSERT_TRUE(nothing_is_bound());
}

FIXTURE_TEARDOWN(probe)
{
	disarm();
	if (device_has("driver"))
		unbind_gpu();
}

TEST_F_TIMEOUT(probe, is_undone, 600)
{
	int n, ret, failed = 0;
	bool struck = true;

	for (n = 1; struck && n < MOST; n++) {
		arm(n);
		ret = bind_gpu();
		struck = disarm();

		if (ret) {
			ASSERT_TRUE(struck) TH_LOG("attempt %d: %s", n, strerror(-ret));
			ASSERT_TRUE(nothing_is_bound()) TH_LOG("attempt %d", n);
			failed++;

			ASSERT_EQ(0, bind_gpu()) TH_LOG("after attempt %d", n);
		}
		ASSERT_TRUE(is_bound()) TH_LOG("attempt %d", n);
		/* The kernel goes on if it is devtmpfs that fails. */
		ASSERT_TRUE(has_nodes() || (struck && !ret)) TH_LOG("attempt %d", n);
		ASSERT_EQ(0, unbind_gpu());
		ASSERT_TRUE(nothing_is_bound()) TH_LOG("attempt %d", n);
	}
	EXPECT_FALSE(struck);
	/* As many as there are allocations in probe, not by accident. */
	EXPECT_GT(failed, 10);
	TH_LOG("%d points, %d of them fail the probe", n - 2, failed);
}

/* ------------------------------------------------------------------------ */

FIXTURE(device)
{
	struct vfio v;
};

VFIO_MODE_VARIANTS(device);

FIXTURE_SETUP(device)
{
	if (no_fault_injection())
		SKIP(return, "%s", no_fault_injection());
	if (vfio_mode_missing(variant->mode))
		SKIP(return, "%s", vfio_mode_missing(variant->mode));
	ASSERT_EQ(0, expected_regions(regions));
	nth_fd = open(FAIL_NTH, O_RDWR | O_CLOEXEC);
	ASSERT_GE(nth_fd, 0);
	ASSERT_EQ(0, bind_gpu());
}

FIXTURE_TEARDOWN(device)
{
	disarm();
	EXPECT_EQ(0, unbind_gpu());
	EXPECT_TRUE(nothing_is_bound());
}

TEST_F_TIMEOUT(device, open_is_undone, 600)
{
	int n, ret, failed = 0;
	bool struck = true;

	for (n = 1; struck && n < MOST; n++) {
		arm(n);
		ret = vfio_open(&self->v, variant->mode);
		struck = disarm();
		vfio_close(&self->v);

		if (ret) {
			ASSERT_TRUE(struck) TH_LOG("attempt %d: %s", n, strerror(-ret));
			failed++;
		}
		ASSERT_TRUE(is_suspended()) TH_LOG("attempt %d", n);

		ASSERT_EQ(0, vfio_open(&self->v, variant->mode))
			TH_LOG("after attempt %d", n);
		vfio_close(&self->v);
	}
	EXPECT_FALSE(struck);
	EXPECT_GT(failed, 10);
	TH_LOG("%d points, %d of them fail the open", n - 2, failed);
}

/*
 * What a user does of an open device. Each returns 0 or -errno, and undoes what
 * it did; 1 if something is wrong beside the failure.
 */
static int read_region(int fd)
{
	static uint8_t buf[KIB(12)];
	off_t pos = regions[RESMEM].off + 1;
	ssize_t n = pread(fd, buf, sizeof(buf), pos);

	return n < 0 ? -errno : n != sizeof(buf);
}

static int write_region(int fd)
{
	static uint8_t buf[KIB(12)] = { 1, 2, 3 }, back[KIB(12)];
	off_t pos = regions[USEMEM].off + 1;
	ssize_t n = pwrite(fd, buf, sizeof(buf), pos);

	if (n < 0)
		return -errno;
	return n != sizeof(buf) ||
	       (pread(fd, back, sizeof(back), pos) == sizeof(back) &&
		memcmp(buf, back, sizeof(buf)));
}

static int read_config(int fd)
{
	uint8_t buf[64];
	ssize_t n = pread(fd, buf, sizeof(buf), CONFIG);

	return n < 0 ? -errno : n != sizeof(buf);
}

static int write_config(int fd)
{
	uint8_t buf[24] = {};
	ssize_t n = pwrite(fd, buf, sizeof(buf), CONFIG + 0x10);

	return n < 0 ? -errno : n != sizeof(buf);
}

static int region_info(int fd)
{
	uint8_t buf[256] = {};
	struct vfio_region_info *info = (void *)buf;

	info->argsz = sizeof(buf);
	info->index = regions[USEMEM].bar;
	if (ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, info))
		return -errno;
	return info->size != regions[USEMEM].size || !info->cap_offset;
}

/* A page fault that fails for want of memory is taken again by itself. */
static int map_and_touch(int fd)
{
	volatile uint8_t *p;

	p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		 regions[RESMEM].off);
	if (p == MAP_FAILED)
		return -errno;
	p[0] = 0x5a;
	p[PAGE] = 0xa5;
	return munmap((void *)p, 2 * PAGE) ? -errno : 0;
}

static const struct {
	const char *name;
	int (*use)(int fd);
} uses[] = {
	{ "read", read_region },
	{ "write", write_region },
	{ "config read", read_config },
	{ "config write", write_config },
	{ "region info", region_info },
	{ "mmap and touch", map_and_touch },
};

TEST_F_TIMEOUT(device, use_works_afterwards, 600)
{
	unsigned int i;

	ASSERT_EQ(0, vfio_open(&self->v, variant->mode));
	for (i = 0; i < ARRAY_SIZE(uses); i++) {
		int n, ret, failed = 0;
		bool struck = true;

		for (n = 1; struck && n < MOST; n++) {
			arm(n);
			ret = uses[i].use(self->v.device);
			struck = disarm();

			ASSERT_LE(ret, 0) TH_LOG("%s, attempt %d", uses[i].name, n);
			if (ret) {
				ASSERT_TRUE(struck) TH_LOG("%s, attempt %d: %s",
							   uses[i].name, n, strerror(-ret));
				ASSERT_TRUE(ret == -ENOMEM || ret == -EFAULT)
					TH_LOG("%s, attempt %d: %s", uses[i].name, n,
					       strerror(-ret));
				failed++;
			}
			ASSERT_EQ(0, uses[i].use(self->v.device))
				TH_LOG("%s, after attempt %d", uses[i].name, n);
		}
		EXPECT_FALSE(struck);
		EXPECT_GT(failed, 0) TH_LOG("%s", uses[i].name);
		TH_LOG("%s: %d points, %d of them fail it", uses[i].name, n - 2, failed);
	}
	vfio_close(&self->v);
	EXPECT_TRUE(is_suspended());
}

TEST_PROGRAM_MAIN(program)
