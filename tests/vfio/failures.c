// SPDX-License-Identifier: GPL-2.0-only
/*
 * Each allocation, each user copy, and each of the driver's calls into the kernel fails once, in
 * probe, open and use. The driver has to undo what it began, and the next attempt has to work.
 *
 * The kernel's fault injection lets the Nth allocation or copy in this task fail, and
 * tests/modules/fail_calls.c the Nth call of a function. The device is the only one that
 * nvgrace_gpu may bind.
 */
#include <fnmatch.h>
#include <sys/syscall.h>

#include "fault.h"
#include "fixture.h"
#include "../../nvgrace_gpu_egm.h"

static const struct program program = {
	.what = "each allocation and each call of probe, open and use fails once",
	.vars = {
		{ "BDF", "PCI address of the device, with driver_override set", "0000:01:00.0" },
		VAR_REGIONS,
		{ "MODULE", "the driver's file, to load it (for the fixture calls)",
		  "/modules/nvgrace_gpu.ko", true },
		{ "EGM", "the node of its EGM region", "/dev/egm4", true },
		{ "UNDEFINED", "the symbols that it needs, a line each", "/undefined", true },
	},
	.unbound = true,
};

#define SYSFS		"/sys/bus/pci/drivers/nvgrace_gpu/"
#define FAIL_NTH	"/proc/thread-self/fail-nth"

/* No attempt takes so many: an attempt that needs more never succeeds. */
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

/* Was a fault injected? This read is itself a user copy, and may be the one that fails. */
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

/* The number of entries in a directory, without EXCEPT. */
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

static bool has_egm(void)
{
	return getenv("EGM") && !access(getenv("EGM"), F_OK);
}

/* The GPU binds without its EGM region, too. */
static bool is_bound(void)
{
	return device_has("driver") && device_has("vfio-dev") && claims() == 2 + has_egm();
}

/* Does it have its nodes: of the group, and of the device in a directory? */
static bool has_nodes(void)
{
	bool cdev = !vfio_mode_missing(IOMMUFD);

	return entries("/dev/vfio", "vfio") == 1 + cdev &&
	       entries("/dev/vfio/devices", "") == cdev;
}

static bool nothing_is_bound(void)
{
	return !device_has("driver") && !device_has("vfio-dev") && claims() == 0 && !has_egm() &&
	       entries("/sys/class/egm", "") == 0 &&
	       entries("/dev/vfio", "vfio") == !access("/dev/vfio/devices", F_OK) &&
	       entries("/dev/vfio/devices", "") == 0;
}

static bool is_suspended(void)
{
	return wait_until(runtime_status_is("suspended"), 20000);
}

/* ------------------------------------------------------------------------ */

FIXTURE(probe) {
};

FIXTURE_SETUP(probe)
{
	if (!kernel_has("FAULT_INJECTION"))
		SKIP(return, "the kernel has no FAULT_INJECTION");
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
		ASSERT_TRUE(has_egm() || !getenv("EGM") || (struck && !ret))
			TH_LOG("attempt %d", n);
		ASSERT_EQ(0, unbind_gpu());
		ASSERT_TRUE(nothing_is_bound()) TH_LOG("attempt %d", n);
	}
	EXPECT_FALSE(struck);
	/* The probe allocates more often than that, and most of it is not optional. */
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
	if (!kernel_has("FAULT_INJECTION"))
		SKIP(return, "the kernel has no FAULT_INJECTION");
	ASSERT_EQ(0, expected_regions(regions));
	nth_fd = open(FAIL_NTH, O_RDWR | O_CLOEXEC);
	ASSERT_GE(nth_fd, 0);
	/* The directory of the devices' own nodes is there while one is bound. */
	ASSERT_EQ(0, bind_gpu());
	if (vfio_mode_missing(variant->mode)) {
		const char *missing = vfio_mode_missing(variant->mode);

		unbind_gpu();
		SKIP(return, "%s", missing);
	}
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
 * The uses of an open device. Each returns 0 or -errno, and undoes what it did; 1 if something
 * is wrong beside the failure.
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

/* mm takes a page fault again that failed because there was no memory. */
static int map_and_touch(int fd)
{
	volatile uint8_t *p;
	int sig;

	p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		 regions[RESMEM].off);
	if (p == MAP_FAILED)
		return -errno;
	sig = fault_of(p[0] = 0x5a).sig ?: fault_of(p[PAGE] = 0xa5).sig;
	return munmap((void *)p, 2 * PAGE) ? -errno : sig ? -EFAULT : 0;
}

/* The kernel copies from the mapping: a fault in kernel mode. */
static int write_file_from_map(int fd)
{
	int file = open("/tmp/from-map", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ssize_t n = -1;
	int err = errno;
	void *p;

	if (file < 0)
		return -err;
	p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, regions[RESMEM].off);
	err = errno;
	if (p != MAP_FAILED) {
		n = pwrite(file, p, 8, 0);
		err = errno;
		munmap(p, PAGE);
	}
	close(file);
	return n == 8 ? 0 : -err;
}

/* A block, where the kernel has them. */
static int map_block_and_touch(int fd)
{
	uint8_t *at = reserve(BLOCK, 0);
	volatile uint8_t *p;
	int sig;

	if (at == MAP_FAILED)
		return -errno;
	p = mmap(at, BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
		 regions[USEMEM].off);
	if (p == MAP_FAILED)
		return -errno;
	sig = fault_of(p[BLOCK / 2] = 1).sig;
	munmap((void *)p, BLOCK);
	return sig ? -EFAULT : 0;
}

static bool egm_is_named(void)
{
	return getenv("EGM");
}

/* EGM needs no open GPU. */
static int map_egm_and_touch(int fd)
{
	int egm = open(getenv("EGM"), O_RDWR | O_CLOEXEC), ret = 0;
	uint64_t value = 0;
	volatile uint64_t *p;

	if (egm < 0)
		return -errno;
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, egm, 0);
	if (p == MAP_FAILED)
		ret = -errno;
	close(egm);
	if (ret)
		return ret;
	ret = fault_of(value = *p).sig ?: fault_of(*p = 1).sig;
	munmap((void *)p, PAGE);
	return ret ? -EFAULT : value != 0;
}

static int list_egm(int fd)
{
	struct egm_bad_pages_list head = { .argsz = sizeof(head) };
	int egm = open(getenv("EGM"), O_RDWR | O_CLOEXEC), ret = 0;

	if (egm < 0)
		return -errno;
	if (ioctl(egm, EGM_BAD_PAGES_LIST, &head))
		ret = -errno;
	close(egm);
	return ret ?: head.count != 0 || head.argsz <= sizeof(head);
}

static int map_bar0(int fd)
{
	void *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? -errno : munmap(p, PAGE);
}

static int read_bar0(int fd)
{
	uint32_t value;

	return pread(fd, &value, sizeof(value), 0x1498) == sizeof(value) ? 0 : -errno;
}

static int write_bar0(int fd)
{
	uint32_t value = 1;

	return pwrite(fd, &value, sizeof(value), 0x4000) == sizeof(value) ? 0 : -errno;
}

static int region_info_of_bar0(int fd)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = 0 };

	return ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &info) ? -errno : !info.size;
}

static int device_info(int fd)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };

	return ioctl(fd, VFIO_DEVICE_GET_INFO, &info) ? -errno : 0;
}

/* The power state that is written is the current one, D0. */
static int write_power_state(int fd)
{
	unsigned int cap = config_find_cap(fd, PCI_CAP_ID_PM);
	uint16_t value = 0;

	if (!cap)
		return -EIO;
	return pwrite(fd, &value, 2, CONFIG + cap + PCI_PM_CTRL) == 2 ? 0 : -errno;
}

/* After the reset the driver has to find out whether the memory is ready. */
static int reset_and_read(int fd)
{
	uint64_t value;

	if (ioctl(fd, VFIO_DEVICE_RESET))
		return -errno;
	if (enable_memory(fd))
		return -errno;
	return pread(fd, &value, 8, regions[USEMEM].off) == 8 ? 0 : -errno;
}

static int reset_and_touch(int fd)
{
	volatile uint8_t *p;
	int sig;

	p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, regions[RESMEM].off);
	if (p == MAP_FAILED)
		return -errno;
	(void)fault_of((void)*p);
	if (ioctl(fd, VFIO_DEVICE_RESET) || enable_memory(fd)) {
		int err = errno;

		munmap((void *)p, PAGE);
		return -err;
	}
	sig = fault_of((void)*p).sig;
	munmap((void *)p, PAGE);
	return sig ? -EFAULT : 0;
}

/* The read resumes a GPU that is asleep, or may be. */
static int low_power_and_read(int fd)
{
	uint64_t value;
	int ret = 0;

	if (allow_low_power(fd, true))
		return -errno;
	if (pread(fd, &value, 8, regions[USEMEM].off) != 8)
		ret = -errno;
	while (allow_low_power(fd, false))
		if (errno != EFAULT && errno != ENOMEM && errno != EIO)
			return -errno;
	return ret;
}

static int export_usemem(int fd)
{
	int buf = export_dmabuf(fd, regions[USEMEM].bar, 0, PAGE);

	return buf < 0 ? buf : close(buf);
}

static int export_bar0(int fd)
{
	int buf = export_dmabuf(fd, 0, 0, PAGE);

	return buf < 0 ? buf : close(buf);
}

static bool always(void)
{
	return true;
}

static const struct use {
	const char *name;
	int (*use)(int fd);
	bool (*possible)(void);
	bool can_fail;		/* without memory, or with a bad buffer */
} uses[] = {
	{ "read", read_region, always, true },
	{ "write", write_region, always, true },
	{ "config read", read_config, always, true },
	{ "config write", write_config, always, true },
	{ "region info", region_info, always, true },
	{ "mmap and touch", map_and_touch, always, true },
	{ "mmap a block and touch", map_block_and_touch, always },
	{ "write to a file from mmap", write_file_from_map, always },
	{ "EGM", map_egm_and_touch, egm_is_named, true },
	{ "list of bad pages", list_egm, egm_is_named, true },
	{ "mmap BAR0", map_bar0, always },
	{ "read BAR0", read_bar0, always },
	{ "write BAR0", write_bar0, always },
	{ "region info of BAR0", region_info_of_bar0, always },
	{ "device info", device_info, always },
	{ "power state", write_power_state, always },
	{ "reset and read", reset_and_read, always },
	{ "reset and touch", reset_and_touch, always },
	{ "low power and read", low_power_and_read, always },
	{ "dma-buf", export_usemem, core_has_dma_bufs },
	{ "dma-buf of BAR0", export_bar0, core_has_dma_bufs },
};

TEST_F_TIMEOUT(device, retry_after_failure, 600)
{
	unsigned int i;

	ASSERT_EQ(0, vfio_open(&self->v, variant->mode));
	for (i = 0; i < ARRAY_SIZE(uses); i++) {
		int n, ret, failed = 0;
		bool struck = true;

		if (!uses[i].possible())
			continue;
		for (n = 1; struck && n < MOST; n++) {
			arm(n);
			ret = uses[i].use(self->v.device);
			struck = disarm();

			ASSERT_LE(ret, 0) TH_LOG("%s, attempt %d", uses[i].name, n);
			if (ret) {
				ASSERT_TRUE(struck) TH_LOG("%s, attempt %d: %s",
							   uses[i].name, n, strerror(-ret));
				ASSERT_TRUE(ret == -ENOMEM || ret == -EFAULT ||
					    !uses[i].can_fail)
					TH_LOG("%s, attempt %d: %s", uses[i].name, n,
					       strerror(-ret));
				failed++;
			}
			ASSERT_EQ(0, uses[i].use(self->v.device))
				TH_LOG("%s, after attempt %d", uses[i].name, n);
		}
		EXPECT_FALSE(struck);
		if (uses[i].can_fail)
			EXPECT_GT(failed, 0) TH_LOG("%s", uses[i].name);
		TH_LOG("%s: %d points, %d of them fail it", uses[i].name, n - 2, failed);
	}
	vfio_close(&self->v);
	EXPECT_TRUE(is_suspended());
}

/* ---- calls that the driver makes ---- */

#define CALLS		"/sys/kernel/debug/fail_calls/"
#define MAX_ERRORS	4

/* ERESTARTSYS, which no signal turns into EINTR here: none came. */
#define RESTART		512

/*
 * The functions that the driver calls and that may fail: what a failed call returns, for
 * fail_calls.c, and the errors that the driver may return then. GOES_ON: the driver may do
 * without. USE_GOES_ON: so it may, but not in probe or open.
 */
#define GOES_ON		(-1)
#define USE_GOES_ON	(-2)

static const struct call {
	const char *name;
	const char *value;
	int errors[MAX_ERRORS];
	const char *with;	/* the driver calls it only if this one fails, twice */
	const char *untested;	/* why not here */
} calls[] = {
	{ "__pci_register_driver", "-12", { ENOMEM } },
	{ "kstrtouint", "-22", { EINVAL } },
	{ "_vfio_alloc_device", "-12", { ENOMEM } },
	{ "vfio_pci_core_init_dev", "-12", { ENOMEM } },
	/* The name depends on the kernel: 6.12, 6.12 with lockdep, 7.3. */
	{ "init_srcu_struct", "-12", { ENOMEM } },
	{ "__init_srcu_struct", "-12", { ENOMEM } },
	{ "init_srcu_struct_generic", "-12", { ENOMEM } },
	{ "device_property_present", "0", { EINVAL, ENOLINK, GOES_ON } },
	{ "device_property_read_u64_array", "-71", { EPROTO, GOES_ON } },
	{ "region_intersects", "0", { EBUSY, GOES_ON } },
	{ "pci_enable_device_mem", "-5", { EIO } },
	{ "pci_request_selected_regions", "-16", { EBUSY } },
	{ "pci_iomap", "0", { ENOMEM } },
	/* A read or write that finds the GPU asleep or gone wakes it, and tries again. */
	{ "pci_read_config_dword", "ones", { EIO, EFAULT, GOES_ON } },
	{ "pci_read_config_word", "ones", { EIO, EFAULT, USE_GOES_ON } },
	{ "devm_kmalloc", "0", { ENOMEM } },
	{ "__request_region", "0", { GOES_ON } },
	{ "__devm_request_region", "0", { EBUSY } },
	{ "alloc_chrdev_region", "-16", { GOES_ON } },
	{ "class_register", "-12", { GOES_ON } },
	{ "bitmap_alloc", "0", { GOES_ON } },
	{ "kasprintf", "0", { GOES_ON } },
	{ "dev_set_name", "-12", { GOES_ON } },
	{ "alloc_workqueue_noprof", "0", { GOES_ON } },
	{ "alloc_workqueue", "0", { GOES_ON } },
	{ "ida_alloc_range", "-28", { GOES_ON } },
	{ "cdev_device_add", "-12", { GOES_ON } },
	{ "sysfs_create_link", "-12", { GOES_ON } },
	{ "xa_store", "-46", { GOES_ON } },	/* XA_ERROR(-ENOMEM) */
	{ "mutex_lock_killable", "-4", { EINTR } },
	/* Without a copy of config space the driver cannot restore it. */
	{ "pci_save_state", "-12", { GOES_ON } },
	{ "pci_store_saved_state", "0", { GOES_ON } },
	{ "pci_load_saved_state", "-22", { GOES_ON } },
	{ "vfio_pci_core_register_device", "-12", { ENOMEM } },
	{ "vfio_pci_core_enable", "-5", { EIO } },
	{ "vfio_pci_core_setup_barmap", "-12", { ENOMEM } },
	{ "register_pfn_address_space", "-16", { EBUSY } },
	{ "__kmalloc_cache_noprof", "0", { ENOMEM, GOES_ON } },
	{ "vfio_info_add_capability", "-12", { ENOMEM } },
	{ "vfio_pci_ioctl_get_region_info", "-22", { EINVAL } },
	{ "vfio_pci_core_ioctl", "-5", { EIO } },
	{ "vfio_pci_core_read", "-5", { EIO } },
	{ "vfio_pci_core_write", "-5", { EIO } },
	{ "vfio_pci_core_mmap", "-22", { EINVAL } },
	{ "vfio_pci_core_get_dmabuf_phys", "-22", { EINVAL } },
	{ "vfio_pci_core_fill_phys_vec", "-22", { EINVAL } },
	{ "pcim_p2pdma_provider", "0", { EINVAL } },
	/* A direct copy that ends early goes on through a buffer on the stack. */
	{ "__arch_copy_from_user", "left", { EFAULT, GOES_ON } },
	{ "__arch_copy_to_user", "left", { EFAULT, GOES_ON } },
	{ "memremap", "0", { ENOMEM, GOES_ON } },
	{ "__pm_runtime_resume", "-5", { EIO }, },
	{ "down_read_trylock", "0", { GOES_ON } },
	{ "down_read_interruptible", "-4", { RESTART, GOES_ON }, .with = "down_read_trylock" },
	{ "down_read_killable", "-4",
	  .untested = "only a fault right after a reset that cannot be tried again" },
	/* VM_FAULT_SIGBUS. Neighbours of the page that faulted fault by themselves. */
	{ "vmf_insert_pfn", "2", { EFAULT, GOES_ON } },
	{ "vmf_insert_pfn_pmd", "2", { EFAULT } },
	{ "vfio_pci_core_aer_err_detected", "0", .untested = "AER ignores it: life.sh" },
	{ "vfio_pci_core_sriov_configure", "-5",
	  .untested = "the driver hands on what it returns; no stand-in has SR-IOV" },
};

/* The other symbols that the driver needs cannot fail, each for a reason. */
static const struct {
	const char *names, *reason;
} harmless[] = {
	{ "_printk dev_err_probe _dev_err _dev_warn _dev_info __warn_printk ___ratelimit",
	  "log" },
	{ "kfree put_device pci_dev_put fput memunmap pci_iounmap pci_disable_device xa_destroy",
	  "returns nothing, or a value that the driver does not need" },
	{ "pci_release_selected_regions pci_unregister_driver cleanup_srcu_struct",
	  "returns nothing, or a value that the driver does not need" },
	{ "unregister_pfn_address_space unmap_mapping_range dev_pm_domain_set sysfs_notify",
	  "returns nothing, or a value that the driver does not need" },
	{ "vfio_pci_core_close_device vfio_pci_core_disable",
	  "returns nothing, or a value that the driver does not need" },
	{ "vfio_pci_core_finish_enable vfio_pci_core_release_dev",
	  "returns nothing, or a value that the driver does not need" },
	{ "vfio_pci_core_unregister_device vfio_info_cap_shift __pm_runtime_idle pci_restore_state",
	  "returns nothing, or a value that the driver does not need" },
	{ "__release_region cdev_device_del class_unregister ida_free",
	  "returns nothing, or a value that the driver does not need" },
	{ "kobject_uevent sysfs_remove_link unregister_chrdev_region",
	  "returns nothing, or a value that the driver does not need" },
	{ "bitmap_free __bitmap_set", "returns nothing, or a value that the driver does not need" },
	{ "cdev_init device_initialize __list_*_valid_or_report fixed_size_llseek",
	  "computes" },
	{ "compat_ptr_ioctl", "an op that the kernel calls" },
	{ "up_read up_write down_read down_write mutex_lock mutex_lock_nested mutex_unlock",
	  "locks, and sleeps" },
	{ "__srcu_read_* synchronize_srcu_expedited mutex_trylock",
	  "locks, and sleeps" },
	{ "mutex_init_generic __mutex_init queued_spin_lock_slowpath",
	  "locks, and sleeps" },
	{ "__init_waitqueue_head __wake_up init_wait_entry prepare_to_wait_event finish_wait",
	  "locks, and sleeps" },
	{ "destroy_workqueue __flush_workqueue disable_work_sync queue_work_node queue_work_on",
	  "locks, and sleeps" },
	{ "_raw_spin_* __raw_spin_* schedule_hrtimeout_range __cond_resched preempt_schedule*",
	  "locks, and sleeps" },
	{ "__init_rwsem __vma_start_write __vma_* schedule rcuwait_wake_up msleep",
	  "locks, and sleeps" },
	{ "xa_find xa_find_after pci_device_is_present __num_online_cpus acpi_has_method",
	  "says what there is" },
	{ "pcibios_resource_to_bus pci_find_next_ext_capability pci_match_id pci_get_device",
	  "says what there is" },
	{ "is_acpi_device_node strncmp memcmp", "computes" },
	{ "debug_locks fs_reclaim_* should_fail_usercopy", "instrumentation" },
	{ "memcpy memset memmove strcmp strlen scnprintf sysfs_emit sysfs_emit_at",
	  "computes" },
	{ "param_get_uint param_ops_bool jiffies_to_msecs",
	  "computes" },
	{ "vfio_pci_core_ioctl_feature vfio_pci_core_match* vfio_pci_core_request",
	  "an op that VFIO calls" },
	{ "vfio_iommufd_physical_*",
	  "an op that VFIO calls" },
	{ "__this_module iomem_resource jiffies efi kmalloc_caches *_caches system_*wq",
	  "data" },
	{ "__tracepoint_* __SCK__* __SCT__*",
	  "data" },
	{ "__stack_chk_fail __fortify_panic __copy_overflow __check_object_size",
	  "instrumentation" },
	{ "validate_usercopy_range refcount_warn_saturate __ubsan_* __asan_*",
	  "instrumentation" },
	{ "__kasan_* kasan_* lock_* lockdep_* debug_lockdep_* __might_* might_* rcu_* srcu_check_*",
	  "instrumentation" },
	{ "__rcu_* __mmap_lock_do_trace_* __trace_set_current_state alt_cb_patch_nops",
	  "instrumentation" },
	{ "__gcov_* __llvm_* __sanitizer_* kunit_* __kunit_* mem_dump_obj dump_page",
	  "instrumentation" },
	{ "dump_vma dump_mm",
	  "instrumentation" },
};

/* Counted in all tests, each of which is a process. */
static struct tally {
	unsigned long reached, failed, went_on;
	int seen[MAX_ERRORS];
} *tallies;
static unsigned long *operations;

static void __attribute__((constructor)) share_tallies(void)
{
	tallies = mmap(NULL, sizeof(*tallies) * ARRAY_SIZE(calls) + sizeof(*operations),
		       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	operations = (void *)(tallies + ARRAY_SIZE(calls));
}

static long get_call(const char *name, const char *file)
{
	char path[128], line[32];

	snprintf(path, sizeof(path), CALLS "%s/%s", name, file);
	read_line(path, line, sizeof(line));
	return *line ? atol(line) : -1;
}

static void set_call(const char *name, const char *file, unsigned int value)
{
	char path[128], line[16];

	snprintf(path, sizeof(path), CALLS "%s/%s", name, file);
	snprintf(line, sizeof(line), "%u", value);
	if (write_file(path, line))
		exit(KSFT_FAIL);
}

/* Can the driver's calls of the function fail here? */
static bool has_call(const struct call *call)
{
	return !call->untested && get_call(call->name, "calls") >= 0;
}

/* An operation that a test repeats: 0 or -errno, or 1 if it succeeds and its result is wrong. */
struct operation {
	const char *name;
	int (*run)(void *arg);
	void *arg;
	bool (*undone)(void);	/* what holds after an operation that failed */
};

/* Each call of CALL in the operation fails once. WRONG says what is wrong, or is empty. */
static void sweep_call(const struct operation *op, const struct call *call, char *wrong)
{
	struct tally *tally = &tallies[call - calls];
	int ret, with_ret = 0, i;
	unsigned int n;

	*wrong = 0;
	if (!has_call(call))
		return;
	for (n = 1; !*wrong; n++) {
		if (n == MOST) {
			sprintf(wrong, "call %u fails, and there are more of them", n - 1);
			break;
		}
		if (call->with) {
			set_call(call->with, "last", 2);
			set_call(call->with, "calls", 0);
			set_call(call->with, "fail", 1);
			if (n == 1)
				with_ret = op->run(op->arg);
			set_call(call->with, "calls", 0);
		}
		set_call(call->name, "calls", 0);
		set_call(call->name, "struck", 0);
		set_call(call->name, "fail", n);
		ret = op->run(op->arg);
		set_call(call->name, "fail", 0);
		if (call->with) {
			set_call(call->with, "fail", 0);
			set_call(call->with, "last", 0);
		}
		if (!get_call(call->name, "struck")) {
			if (ret != with_ret)
				sprintf(wrong, "%d without a failure", ret);
			break;
		}

		tally->reached++;
		tally->failed += ret != 0;
		tally->went_on += !ret;
		for (i = 0; i < MAX_ERRORS; i++) {
			if (call->errors[i] == (ret ? -ret : GOES_ON))
				break;
			if (call->errors[i] == USE_GOES_ON && !ret && !op->undone)
				break;
			if (ret == with_ret && call->with)
				break;
		}
		if (i == MAX_ERRORS)
			sprintf(wrong, "call %u fails, and it returns %d (%s)", n, ret,
				ret < 0 ? strerror(-ret) : "no error");
		else
			tally->seen[i] = -ret;
		if (ret && op->undone && !op->undone())
			sprintf(wrong, "call %u fails, and not all is undone", n);
		else if (op->run(op->arg))
			sprintf(wrong, "after call %u failed, it fails again", n);
	}
}

static int sweep(struct __test_metadata *_metadata, const struct operation *op)
{
	char wrong[160];
	unsigned int i;
	int bad = 0;

	(*operations)++;
	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		sweep_call(op, &calls[i], wrong);
		if (*wrong) {
			TH_LOG("%s, %s: %s", op->name, calls[i].name, wrong);
			bad++;
		}
	}
	return bad;
}

static int bind_and_unbind(void *arg)
{
	int ret = bind_gpu();

	if (ret)
		return ret;
	if (!is_bound())
		return 1;
	return unbind_gpu() || !nothing_is_bound();
}

static int load_and_unload(void *arg)
{
	int fd = open(getenv("MODULE") ?: "/modules/nvgrace_gpu.ko", O_RDONLY | O_CLOEXEC);
	int ret = syscall(SYS_finit_module, fd, "usemem_bar=2", 0) ? -errno : 0;

	close(fd);
	if (ret)
		return ret;
	return syscall(SYS_delete_module, "nvgrace_gpu", O_NONBLOCK) ? -errno : 0;
}

static bool is_not_loaded(void)
{
	return access("/sys/module/nvgrace_gpu", F_OK) != 0;
}

static int open_and_close(void *arg)
{
	struct vfio v;
	int ret = vfio_open(&v, BEST_MODE);

	vfio_close(&v);
	if (ret)
		return ret;
	return !is_suspended();
}

struct use_of {
	const struct use *use;
	int fd;
};

static int use(void *arg)
{
	struct use_of *u = arg;

	return u->use->use(u->fd);
}

/* The kernel maps memory for reads when the device is open first, so it is open each time. */
static int use_fresh(void *arg)
{
	struct use_of *u = arg;
	struct vfio v;
	int ret = vfio_open(&v, BEST_MODE);

	if (!ret)
		ret = u->use->use(v.device);
	vfio_close(&v);
	return ret;
}

FIXTURE(calls) {
};

FIXTURE_SETUP(calls)
{
	if (access(CALLS, F_OK))
		SKIP(return, "no " CALLS ": fail_calls.ko is not loaded");
	ASSERT_EQ(0, expected_regions(regions));
	ASSERT_TRUE(nothing_is_bound());
}

FIXTURE_TEARDOWN(calls)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(calls); i++)
		if (has_call(&calls[i])) {
			set_call(calls[i].name, "fail", 0);
			set_call(calls[i].name, "last", 0);
		}
	if (device_has("driver"))
		unbind_gpu();
}

/* The symbols are those of this build. Each one must be in one of the tables above. */
TEST_F(calls, undefined_symbols_are_known)
{
	const char *name = getenv("UNDEFINED");
	unsigned int i, fallible = 0, total = 0;
	char symbol[128];
	FILE *f;

	if (!name)
		SKIP(return, "UNDEFINED is not set");
	f = fopen(name, "re");
	ASSERT_NE(NULL, f) TH_LOG("%s: %s", name, strerror(errno));
	while (fscanf(f, "%127s", symbol) == 1) {
		bool known = false;

		for (i = 0; i < ARRAY_SIZE(calls) && !known; i++) {
			known = !strcmp(symbol, calls[i].name);
			fallible += known;
		}
		for (i = 0; i < ARRAY_SIZE(harmless) && !known; i++) {
			char names[1024], *rest = names, *pattern;

			snprintf(names, sizeof(names), "%s", harmless[i].names);
			while (!known && (pattern = strsep(&rest, " ")))
				known = !fnmatch(pattern, symbol, 0);
		}
		EXPECT_TRUE(known) TH_LOG("%s: can it fail? Add it to calls[] or harmless[]",
					  symbol);
		total++;
	}
	fclose(f);
	EXPECT_LT(20, fallible);
	TH_LOG("# symbols: the driver needs %u, %u of them can fail", total, fallible);
}

TEST_F_TIMEOUT(calls, load_is_undone, 600)
{
	const struct operation op = { "load", load_and_unload, NULL, is_not_loaded };

	const char *module = getenv("MODULE") ?: "/modules/nvgrace_gpu.ko";
	char path[PATH_MAX];

	/* A load would bind the GPU with this override, and a failed probe fails no load. */
	device_path(path, sizeof(path), "driver_override");
	ASSERT_EQ(0, write_file(path, "\n"));
	ASSERT_EQ(0, syscall(SYS_delete_module, "nvgrace_gpu", O_NONBLOCK));
	EXPECT_EQ(0, sweep(_metadata, &op));
	ASSERT_EQ(0, syscall(SYS_finit_module, open(module, O_RDONLY), "", 0));
	ASSERT_EQ(0, write_file(path, "nvgrace_gpu"));
}

TEST_F_TIMEOUT(calls, probe_is_undone, 900)
{
	const struct operation op = { "probe", bind_and_unbind, NULL, nothing_is_bound };

	EXPECT_EQ(0, sweep(_metadata, &op));
}

TEST_F_TIMEOUT(calls, open_is_undone, 900)
{
	const struct operation op = { "open", open_and_close, NULL, is_suspended };

	ASSERT_EQ(0, bind_gpu());
	EXPECT_EQ(0, sweep(_metadata, &op));
}

TEST_F_TIMEOUT(calls, retry_after_failure, 1800)
{
	struct vfio v;
	unsigned int i;

	ASSERT_EQ(0, bind_gpu());
	for (i = 0; i < ARRAY_SIZE(uses); i++) {
		struct use_of u = { .use = &uses[i] };
		struct operation op = { uses[i].name, i < 2 ? use_fresh : use, &u };

		if (!uses[i].possible())
			continue;
		if (op.run == use) {
			ASSERT_EQ(0, vfio_open(&v, BEST_MODE));
			u.fd = v.device;
			enable_memory(u.fd);
		}
		EXPECT_EQ(0, sweep(_metadata, &op));
		if (op.run == use)
			vfio_close(&v);
	}
	EXPECT_TRUE(is_suspended());
}

/* The last one: it prints what the others have counted. */
TEST_F(calls, each_is_reached)
{
	unsigned int i, j, places = 0, failed = 0, possible = 0;

	for (i = 0; i < ARRAY_SIZE(uses); i++)
		possible += uses[i].possible();
	if (*operations != possible + 3)
		SKIP(return, "not all of the other tests have run");

	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		const struct tally *tally = &tallies[i];
		char outcomes[128] = "";

		if (calls[i].untested) {
			TH_LOG("# call %-32s untested: %s", calls[i].name, calls[i].untested);
			continue;
		}
		if (!has_call(&calls[i])) {
			TH_LOG("# call %-32s not in this kernel", calls[i].name);
			continue;
		}
		for (j = 0; j < MAX_ERRORS; j++)
			if (tally->seen[j] > 0)
				snprintf(outcomes + strlen(outcomes),
					 sizeof(outcomes) - strlen(outcomes), " %s",
					 tally->seen[j] == RESTART ? "ERESTARTSYS" :
					 strerrorname_np(tally->seen[j]));
		TH_LOG("# call %-32s reached %3lu, failed %3lu, went on %3lu:%s", calls[i].name,
		       tally->reached, tally->failed, tally->went_on, outcomes);
		EXPECT_LT(0, tally->reached) TH_LOG("%s is never called", calls[i].name);
		places += tally->reached;
		failed += tally->failed;
	}
	TH_LOG("# faults: %u injected by call in %lu operations, %u of them failed one", places,
	       *operations, failed);
}

/* failures --calls: the parameter of fail_calls.ko. */
int main(int argc, char **argv)
{
	unsigned int i;

	if (argc != 2 || strcmp(argv[1], "--calls"))
		return run_program(&program, argc, argv);
	for (i = 0; i < ARRAY_SIZE(calls); i++)
		if (!calls[i].untested)
			printf("%s%s/%s", i ? "," : "", calls[i].name, calls[i].value);
	printf("\n");
	return 0;
}
