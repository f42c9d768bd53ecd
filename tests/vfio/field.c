// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cases reported by people who pass such GPUs through: a GPU that is gone after a reset, a VMM
 * without privileges, direct I/O, and settings that change how mm faults.
 */
#include <grp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <linux/magic.h>

#include "fault.h"
#include "fixture.h"
#include "knobs.h"
#include "pattern.h"
#include "task.h"

static const struct program program = {
	.what = "a GPU gone after a reset, an unprivileged VMM, file I/O, THP and mlock",
	.vars = {
		VAR_BDF, VAR_REGIONS,
		{ "FILE", "a file on a disk, for direct I/O", "/usr/bin/bash", true },
	},
	.args = "-r touch.usemem.with_mlockall",
};

#define VALUE		0x600df00d600df00dUL
#define IN_VAIN		"not ready after"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* ------------------------------------------------------------------------ */

FIXTURE(gone)
{
	struct vfio v;
	int fd;
	void *map;
	char driver[PATH_MAX];	/* its directory in sysfs */
};

FIXTURE_SETUP(gone)
{
	char path[PATH_MAX];

	if (!has_knobs())
		SKIP(return, "this GPU is not a stand-in of gpu_standin.ko");
	ASSERT_NE(NULL, realpath(device_path(path, sizeof(path), "driver"), self->driver));
	ASSERT_TRUE(set_knob("ready_ms", 0));
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	ASSERT_EQ(0, enable_memory(self->fd));
	self->map = map_region(&self->v, USEMEM, NULL, 0, MIB(4));
	ASSERT_NE(MAP_FAILED, self->map);
}

FIXTURE_TEARDOWN(gone)
{
	set_knob("gone", 0);
	set_knob("ready_ms", 0);
	set_knob("ready", 1);
	vfio_close(&self->v);
}

static int write_driver(const FIXTURE_DATA(gone) * self, const char *file)
{
	char path[PATH_MAX + 8];

	snprintf(path, sizeof(path), "%s/%s", self->driver, file);
	return write_file(path, self->v.bdf);
}

static bool is_bound(void)
{
	char path[PATH_MAX];

	return !access(device_path(path, sizeof(path), "driver"), F_OK);
}

/* The VMM resets the GPU, which answers with all ones from then on. */
TEST_F_TIMEOUT(gone, after_device_reset_close_and_bind_again, 300)
{
	struct access a = { .fd = self->fd, .off = self->v.regions[USEMEM].off, .p = self->map };
	const int wants[] = { EIO, EIO, SIGBUS, SIGBUS };
	int in_vain = log_says(IN_VAIN);
	uint64_t value = VALUE;
	uint32_t id;
	long start;

	ASSERT_EQ(8, pwrite(self->fd, &value, 8, a.off));
	ASSERT_EQ(0, fault_of((void)*(volatile uint64_t *)self->map).sig);
	ASSERT_TRUE(set_knob("ready_ms", -1));
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
	ASSERT_TRUE(set_knob("gone", 1));

	for (a.how = 0; a.how < NR_ACCESSES; a.how++) {
		a.value = 0;
		EXPECT_EQ(wants[a.how], do_access(&a)) TH_LOG("access %d", a.how);
	}
	ASSERT_EQ(4, pread(self->fd, &id, 4, CONFIG + PCI_COMMAND + 4));
	EXPECT_EQ(~0U, id);
	EXPECT_EQ(0, munmap(self->map, MIB(4)));
	/* The PCI core waits a minute for a GPU that it has reset, and it resets it on close. */
	start = now_ms();
	vfio_close(&self->v);
	TH_LOG("closing took %ld ms", now_ms() - start);

	EXPECT_EQ(0, write_driver(self, "unbind"));
	EXPECT_FALSE(is_bound());
	EXPECT_GT(0, write_driver(self, "bind"));
	EXPECT_FALSE(is_bound());
	EXPECT_EQ(in_vain, log_says(IN_VAIN)) TH_LOG("something waited for the GPU");

	ASSERT_TRUE(set_knob("gone", 0));
	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_TRUE(set_knob("ready", 1));
	ASSERT_EQ(0, write_driver(self, "bind"));
	reopen_device(_metadata, &self->v, &self->fd);
	value = 0;
	EXPECT_EQ(8, pread(self->fd, &value, 8, a.off));
	EXPECT_EQ(VALUE, value);
}

/* ------------------------------------------------------------------------ */

#define NOBODY		65534
#define GUEST_RAM	MIB(64)
#define ALLOWANCE	MIB(64)
/* Of usemem: more than the allowance. Linux 6.12 pins it page by page, which takes long. */
#define BAR_PART	MIB(128)

FIXTURE(unprivileged)
{
	char node[PATH_MAX];
	struct {
		int opened, ram, bar, beyond;	/* 0 or -errno */
	} *was;
};

VFIO_MODE_VARIANTS(unprivileged);

FIXTURE_SETUP(unprivileged)
{
	if (vfio_mode_missing(variant->mode))
		SKIP(return, "%s", vfio_mode_missing(variant->mode));
	ASSERT_EQ(0, vfio_node(variant->mode, self->node, sizeof(self->node)));
	self->was = mmap(NULL, sizeof(*self->was), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->was);

	/* An administrator does this, by hand or with udev. */
	ASSERT_EQ(0, chown(self->node, NOBODY, NOBODY)) TH_LOG("%s", self->node);
	if (variant->mode != TYPE1)
		ASSERT_EQ(0, chown("/dev/iommu", NOBODY, NOBODY));
}

FIXTURE_TEARDOWN(unprivileged)
{
	EXPECT_EQ(0, chown(self->node, 0, 0));
	if (variant->mode != TYPE1)
		EXPECT_EQ(0, chown("/dev/iommu", 0, 0));
}

static void *anonymous(uint64_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

struct vmm {
	FIXTURE_DATA(unprivileged) * self;
	enum vfio_mode mode;
};

/* Returns 0 if it could begin to DMA-map; ->was has the rest. */
static int unprivileged_vmm(void *arg)
{
	const struct rlimit limit = { GUEST_RAM + ALLOWANCE, GUEST_RAM + ALLOWANCE };
	struct vmm *vmm = arg;
	typeof(vmm->self->was) was = vmm->self->was;
	struct vfio v;
	void *bar;

	if (setrlimit(RLIMIT_MEMLOCK, &limit) || setgroups(0, NULL) ||
	    setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY))
		return 1;
	was->opened = vfio_open(&v, vmm->mode);
	if (was->opened)
		return 2;
	bar = map_region(&v, USEMEM, NULL, 0, BAR_PART);
	if (bar == MAP_FAILED)
		return 3;
	was->ram = dma_map(&v, anonymous(GUEST_RAM), GUEST_RAM, GIB(1));
	was->bar = dma_map(&v, bar, BAR_PART, GIB(4));
	was->beyond = dma_map(&v, anonymous(2 * ALLOWANCE), 2 * ALLOWANCE, GIB(2));
	return 0;
}

/*
 * Device memory does not count as locked memory, so a limit a little above the guest's RAM is
 * enough, and the second VMM may lock as much as the first.
 */
TEST_F_TIMEOUT(unprivileged, memlock_of_guest_ram_is_enough_twice, 120)
{
	struct vmm vmm = { .self = self, .mode = variant->mode };
	int i;

	for (i = 0; i < 2; i++) {
		memset(self->was, 0xff, sizeof(*self->was));
		ASSERT_EQ(0, end_of_child(start_child(unprivileged_vmm, &vmm))) {
			TH_LOG("VMM %d: open: %s", i, strerror(-self->was->opened));
		}
		EXPECT_EQ(0, self->was->ram) TH_LOG("VMM %d", i);
		/* iommufd maps device memory as dma-bufs only. */
		EXPECT_EQ(variant->mode == TYPE1 ? 0 : -EFAULT, self->was->bar)
			TH_LOG("VMM %d", i);
		EXPECT_EQ(-ENOMEM, self->was->beyond) TH_LOG("VMM %d: no limit", i);
	}
}

/* ------------------------------------------------------------------------ */

FIXTURE(upgrade)
{
	struct vfio v;
};

FIXTURE_SETUP(upgrade)
{
	ASSERT_EQ(0, vfio_open(&self->v, TYPE1));
}

FIXTURE_TEARDOWN(upgrade)
{
	vfio_close(&self->v);
}

static int type1_map(const struct vfio *v, unsigned int flags, void *p, uint64_t iova)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = flags,
		.vaddr = (uintptr_t)p,
		.iova = iova,
		.size = BAR_PART,
	};

	return ioctl(v->container, VFIO_IOMMU_MAP_DMA, &map);
}

static int type1_unmap(const struct vfio *v, unsigned int flags, uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap), .flags = flags, .iova = iova, .size = size,
	};

	return ioctl(v->container, VFIO_IOMMU_UNMAP_DMA, &unmap);
}

/*
 * QEMU's live upgrade (cpr-exec) keeps the file descriptors and the DMA mappings. The new VMM maps
 * usemem at another address, and tells the container so.
 */
TEST_F(upgrade, mapping_moves_to_another_address)
{
	const unsigned int rw = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
	volatile uint64_t *old, *new;

	if (ioctl(self->v.container, VFIO_CHECK_EXTENSION, VFIO_UPDATE_VADDR) != 1)
		SKIP(return, "the container has no VFIO_UPDATE_VADDR");
	old = map_region(&self->v, USEMEM, NULL, 0, BAR_PART);
	ASSERT_NE(MAP_FAILED, (void *)old);
	*old = 0x600df00d;
	ASSERT_EQ(0, type1_map(&self->v, rw, (void *)old, GIB(4)));
	ASSERT_EQ(0, type1_unmap(&self->v, VFIO_DMA_UNMAP_FLAG_VADDR | VFIO_DMA_UNMAP_FLAG_ALL,
				 0, 0));
	new = map_region(&self->v, USEMEM, NULL, 0, BAR_PART);
	ASSERT_NE(MAP_FAILED, (void *)new);
	munmap((void *)old, BAR_PART);

	/* A reset in between zaps the new mapping, and not the container's. */
	if (ioctl(self->v.device, VFIO_DEVICE_RESET))
		ASSERT_EQ(0, hot_reset(&self->v));
	ASSERT_EQ(0, type1_map(&self->v, VFIO_DMA_MAP_FLAG_VADDR, (void *)new, GIB(4)));
	EXPECT_ERRNO(EEXIST, type1_map(&self->v, rw, (void *)new, GIB(4)));
	EXPECT_EQ(0x600df00d, *new);
	EXPECT_EQ(0, type1_unmap(&self->v, 0, GIB(4), BAR_PART));
	EXPECT_EQ(0, type1_map(&self->v, rw, (void *)new, GIB(4)));
	munmap((void *)new, BAR_PART);
}

/* ------------------------------------------------------------------------ */

#define IO_LEN	KIB(256)

FIXTURE(file_io)
{
	struct vfio v;
	int fd;
	uint8_t *map;		/* IO_LEN of the region, after as much of other memory */
	uint8_t *want;
	char tmpfs[64];
};

FIXTURE_VARIANT(file_io)
{
	unsigned int nr;
};

FIXTURE_VARIANT_ADD(file_io, usemem) { .nr = USEMEM };
FIXTURE_VARIANT_ADD(file_io, resmem) { .nr = RESMEM };

FIXTURE_SETUP(file_io)
{
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	self->map = mmap(NULL, 2 * IO_LEN, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->map);
	self->map += IO_LEN;
	ASSERT_EQ(self->map, map_region(&self->v, variant->nr, self->map, MIB(1), IO_LEN));
	memset(self->map, 0x11, IO_LEN);
	self->want = mmap(NULL, IO_LEN, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->want);
	snprintf(self->tmpfs, sizeof(self->tmpfs), "/tmp/file_io.%d", getpid());
}

FIXTURE_TEARDOWN(file_io)
{
	unlink(self->tmpfs);
	vfio_close(&self->v);
}

/* An open file of at least IO_LEN whose reads go from the disk to the buffer; or -1. */
static int open_on_disk(void)
{
	const char * const names[] = {
		getenv("FILE"), "/usr/bin/qemu-system-aarch64", "/dev/vda",
	};
	struct statfs fs;
	unsigned int i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(names); i++) {
		fd = names[i] ? open(names[i], O_RDONLY | O_DIRECT | O_CLOEXEC) : -1;
		if (fd < 0)
			continue;
		if (!fstatfs(fd, &fs) && fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC)
			return fd;
		close(fd);
	}
	return -1;
}

/* The memory has no struct pages for a disk to write to: EFAULT, and nothing else. */
TEST_F(file_io, direct_read_from_disk)
{
	uint8_t before[16];
	int fd = open_on_disk();
	ssize_t n;

	if (fd < 0)
		SKIP(return, "no file on a disk; FILE can name one");
	ASSERT_EQ(IO_LEN, pread(fd, self->want, IO_LEN, 0));
	EXPECT_ERRNO(EFAULT, pread(fd, self->map, IO_LEN, 0));
	EXPECT_ERRNO(EFAULT, pread(fd, self->map + PAGE, IO_LEN - PAGE, 0));
	memset(before, 0x11, sizeof(before));
	EXPECT_EQ(0, memcmp(before, self->map, sizeof(before)));

	/* If the buffer begins in ordinary memory, the read ends where that does. */
	n = pread(fd, self->map - IO_LEN / 2, IO_LEN, 0);
	EXPECT_TRUE(n == IO_LEN / 2 || (n == -1 && errno == EFAULT)) TH_LOG("%ld", n);
	if (n > 0)
		EXPECT_EQ(0, memcmp(self->map - IO_LEN / 2, self->want, n));
	EXPECT_EQ(0, memcmp(before, self->map, sizeof(before)));
	close(fd);
}

TEST_F(file_io, buffered_read_from_disk)
{
	int fd = open_on_disk();

	if (fd < 0)
		SKIP(return, "no file on a disk; FILE can name one");
	ASSERT_EQ(IO_LEN, pread(fd, self->want, IO_LEN, 0));
	ASSERT_EQ(0, fcntl(fd, F_SETFL, 0));
	EXPECT_EQ(IO_LEN, pread(fd, self->map, IO_LEN, 0));
	EXPECT_EQ(0, memcmp(self->map, self->want, IO_LEN));
	EXPECT_EQ(IO_LEN - 3, pread(fd, self->map + 1, IO_LEN - 3, 2));
	EXPECT_EQ(0, memcmp(self->map + 1, self->want + 2, IO_LEN - 3));
	close(fd);
}

/* tmpfs takes O_DIRECT and copies. */
TEST_F(file_io, direct_io_on_tmpfs)
{
	struct statfs fs;
	int fd;

	if (statfs("/tmp", &fs) || fs.f_type != TMPFS_MAGIC)
		SKIP(return, "/tmp is not a tmpfs");
	fd = open(self->tmpfs, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	ASSERT_LE(0, fd);
	fill_random(self->map, IO_LEN, 3);
	fill_random(self->want, IO_LEN, 3);
	EXPECT_EQ(IO_LEN, pwrite(fd, self->map, IO_LEN, 0));
	memset(self->map, 0, IO_LEN);
	EXPECT_EQ(IO_LEN, pread(fd, self->map, IO_LEN, 0));
	EXPECT_EQ(0, memcmp(self->map, self->want, IO_LEN));
	close(fd);
}

/* ------------------------------------------------------------------------ */

FIXTURE(touch)
{
	struct vfio v;
	int fd;
	size_t len;
	uint64_t off;
	void *at;	/* where to map it, aligned as blocks are */
};

FIXTURE_VARIANT(touch)
{
	unsigned int nr;
};

FIXTURE_VARIANT_ADD(touch, usemem) { .nr = USEMEM };
FIXTURE_VARIANT_ADD(touch, resmem) { .nr = RESMEM };

FIXTURE_SETUP(touch)
{
	const struct region *r = &self->v.regions[variant->nr];

	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	self->len = r->backed < 2 * BLOCK ? r->backed & -PAGE : 2 * BLOCK;
	self->off = r->off;
	self->at = reserve(self->len, 0);
}

FIXTURE_TEARDOWN(touch)
{
	vfio_close(&self->v);
}

static void *map(const FIXTURE_DATA(touch) * self, int flags)
{
	return mmap(self->at, self->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | flags,
		    self->fd, self->off);
}

/* Store to each page, and see through the fd what was stored. */
static void touch_all(struct __test_metadata *_metadata, const FIXTURE_DATA(touch) * self,
		      void *p, unsigned int seed)
{
	const size_t page = PAGE;
	uint64_t value;
	size_t off;
	long before = minor_faults();

	for (off = 0; off < self->len; off += page)
		ASSERT_EQ(0, fault_of(*(volatile uint64_t *)(p + off) = pattern(seed, off)).sig);
	TH_LOG("%ld faults for %lu pages", minor_faults() - before, self->len / page);
	for (off = 0; off < self->len; off += page) {
		ASSERT_EQ(8, pread(self->fd, &value, 8, self->off + off));
		ASSERT_EQ(pattern(seed, off), value) TH_LOG("at 0x%lx", off);
	}
	EXPECT_EQ(0, munmap(p, self->len));
}

TEST_F(touch, with_thp_disabled)
{
	void *p;

	ASSERT_EQ(0, prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	p = map(self, 0);
	ASSERT_NE(MAP_FAILED, p);
	touch_all(_metadata, self, p, 11);
}

TEST_F(touch, with_nohugepage)
{
	void *p = map(self, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, madvise(p, self->len, MADV_NOHUGEPAGE));
	touch_all(_metadata, self, p, 12);
}

/* mm does not populate device memory, which is not an error. */
TEST_F(touch, with_map_populate)
{
	void *p = map(self, MAP_POPULATE);

	ASSERT_NE(MAP_FAILED, p);
	touch_all(_metadata, self, p, 13);
}

/* mm refuses to populate it when a process asks for it by name. */
TEST_F(touch, with_madvise_populate)
{
	void *p = map(self, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_ERRNO(EINVAL, madvise(p, self->len, MADV_POPULATE_WRITE));
	EXPECT_ERRNO(EINVAL, madvise(p, self->len, MADV_POPULATE_WRITE - 1 /* READ */));
	touch_all(_metadata, self, p, 14);
}

TEST_F(touch, with_mlockall)
{
	void *p = map(self, 0);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE));
	touch_all(_metadata, self, p, 15);
	/* mm locks a mapping that is made later from its beginning. */
	p = map(self, 0);
	ASSERT_NE(MAP_FAILED, p);
	touch_all(_metadata, self, p, 16);
	EXPECT_EQ(0, munlockall());
}

TEST_PROGRAM_MAIN(program)
