// SPDX-License-Identifier: GPL-2.0-only
/*
 * The VFIO ABI of the emulated BARs: every row of the access table at its boundaries, for both
 * regions, in each IOMMU mode.
 */
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include <linux/userfaultfd.h>

#include "fault.h"
#include "fixture.h"
#include "pattern.h"
#include "task.h"

static const struct program program = {
	.what = "the VFIO ABI of the emulated BARs",
	.vars = { VAR_BDF, VAR_REGIONS, VAR_RESET },
	.args = "-r region.type1_usemem.info",
};

/* The signal that a one-byte access takes, or 0. */
static int signal_of(volatile uint8_t *p, bool write)
{
	return write ? fault_of(*p = 0x5a).sig : fault_of((void)*p).sig;
}

/* ------------------------------------------------------------------------ */

FIXTURE(device)
{
	struct vfio v;
	int fd;
};

VFIO_MODE_VARIANTS(device);

FIXTURE_SETUP(device)
{
	open_device(_metadata, &self->v, &self->fd, variant->mode);
}

FIXTURE_TEARDOWN(device)
{
	vfio_close(&self->v);
}

/* A byte-wise model of config space with the emulated BARs. */
#define MODEL_LEN	128
struct model {
	uint8_t bytes[MODEL_LEN];
	uint8_t writable[MODEL_LEN];	/* bits; of emulated registers only */
	bool emulated[MODEL_LEN];
};

static void model_reset(struct model *m, const struct region *regions)
{
	int r, i;

	for (r = 0; r < NR_REGIONS; r++) {
		unsigned int reg = PCI_BASE_ADDRESS_0 + 4 * regions[r].bar;
		uint64_t mask = ~(regions[r].size - 1);

		for (i = 0; i < 8; i++) {
			m->emulated[reg + i] = true;
			m->writable[reg + i] = mask >> (8 * i);
			m->bytes[reg + i] = i ? 0 : PCI_BASE_ADDRESS_MEM_TYPE_64 |
						    PCI_BASE_ADDRESS_MEM_PREFETCH;
		}
	}
}

/* The device's own bytes are read one by one, so no span touches a BAR's. */
static bool model_init(struct model *m, int fd, const struct region *regions)
{
	int i;

	memset(m, 0, sizeof(*m));
	model_reset(m, regions);
	for (i = 0; i < MODEL_LEN; i++)
		if (!m->emulated[i] && pread(fd, &m->bytes[i], 1, CONFIG + i) != 1)
			return false;
	return true;
}

static void model_write(struct model *m, unsigned int pos, size_t len,
			const uint8_t *buf)
{
	for (; len--; pos++, buf++)
		if (m->emulated[pos])
			m->bytes[pos] = (m->bytes[pos] & ~m->writable[pos]) |
					(*buf & m->writable[pos]);
}

/*
 * Every length up to 24, which is more than both registers and a dword on each side, and a few up
 * to 64, at every offset from which it touches a register. This takes a while, because each dword
 * of config space is an exit of the emulated host.
 */
#define for_each_bar_access(pos, len)					\
	for ((len) = 1; (len) <= 64; (len) += (len) < 24 ? 1 : 8)	\
		for ((pos) = (len) > PCI_BASE_ADDRESS_2 ?		\
			     0 : PCI_BASE_ADDRESS_2 - (len) + 1;	\
		     (pos) < PCI_BASE_ADDRESS_5 + 4; (pos)++)

TEST_F(device, bar_read_every_width_and_offset)
{
	uint8_t buf[64], value[16];
	struct model m;
	unsigned int pos, len;

	ASSERT_TRUE(model_init(&m, self->fd, self->v.regions));
	fill_random(value, sizeof(value), 1);
	ASSERT_EQ(16, pwrite(self->fd, value, 16, CONFIG + PCI_BASE_ADDRESS_2));
	model_write(&m, PCI_BASE_ADDRESS_2, 16, value);

	for_each_bar_access(pos, len) {
		ASSERT_EQ(len, pread(self->fd, buf, len, CONFIG + pos));
		ASSERT_EQ(0, memcmp(buf, m.bytes + pos, len)) {
			TH_LOG("%u bytes at 0x%x", len, pos);
		}
	}
}

TEST_F(device, bar_write_every_width_and_offset)
{
	uint8_t buf[64], now[MODEL_LEN];
	struct model m;
	unsigned int pos, len, i, nr = 0;

	ASSERT_TRUE(model_init(&m, self->fd, self->v.regions));

	for_each_bar_access(pos, len) {
		/* Random for the emulated registers; the device keeps its own. */
		fill_random(buf, len, ++nr);
		for (i = 0; i < len; i++)
			if (!m.emulated[pos + i])
				buf[i] = m.bytes[pos + i];

		ASSERT_EQ(len, pwrite(self->fd, buf, len, CONFIG + pos));
		model_write(&m, pos, len, buf);
		ASSERT_EQ(16, pread(self->fd, now, 16, CONFIG + PCI_BASE_ADDRESS_2));
		ASSERT_EQ(0, memcmp(now, m.bytes + PCI_BASE_ADDRESS_2, 16)) {
			TH_LOG("after %u bytes at 0x%x", len, pos);
		}

		/* Once for each length, compare the registers around them, too. */
		if (pos < PCI_BASE_ADDRESS_5 + 3)
			continue;
		ASSERT_EQ(MODEL_LEN, pread(self->fd, now, MODEL_LEN, CONFIG));
		ASSERT_EQ(0, memcmp(now, m.bytes, MODEL_LEN)) {
			TH_LOG("after all of %u bytes", len);
		}
	}
}

/* A write over the BARs must reach the registers around them too, on both sides. */
TEST_F(device, bar_write_reaches_the_device_around)
{
	uint8_t all[PCI_STD_HEADER_SIZEOF], line, irq;

	ASSERT_EQ(sizeof(all), pread(self->fd, all, sizeof(all), CONFIG));
	line = all[PCI_CACHE_LINE_SIZE] ^= 0x10;
	irq = all[PCI_INTERRUPT_LINE] ^= 0x10;
	memset(all + PCI_BASE_ADDRESS_2, 0xff, 16);
	ASSERT_EQ(sizeof(all), pwrite(self->fd, all, sizeof(all), CONFIG));

	ASSERT_EQ(sizeof(all), pread(self->fd, all, sizeof(all), CONFIG));
	EXPECT_EQ(line, all[PCI_CACHE_LINE_SIZE]);
	EXPECT_EQ(irq, all[PCI_INTERRUPT_LINE]);
	EXPECT_EQ(0xff, all[PCI_BASE_ADDRESS_2 + 7]);
	EXPECT_EQ(0xff, all[PCI_BASE_ADDRESS_4 + 7]);
}

TEST_F(device, bar_sizing)
{
	int r;

	for (r = 0; r < NR_REGIONS; r++) {
		uint64_t reg = CONFIG + PCI_BASE_ADDRESS_0 + 4 * self->v.regions[r].bar;
		uint32_t ones = ~0U, low, high;
		uint64_t value;

		ASSERT_EQ(4, pwrite(self->fd, &ones, 4, reg));
		ASSERT_EQ(4, pread(self->fd, &low, 4, reg));
		ASSERT_EQ(4, pread(self->fd, &high, 4, reg + 4));
		EXPECT_EQ((uint32_t)~(self->v.regions[r].size - 1) | 0xc, low);
		EXPECT_EQ(0, high);

		ASSERT_EQ(4, pwrite(self->fd, &ones, 4, reg + 4));
		ASSERT_EQ(8, pread(self->fd, &value, 8, reg));
		EXPECT_EQ(~(self->v.regions[r].size - 1) | 0xc, value);
	}
}

/* A request that does not lie in config space as a whole writes nothing. */
TEST_F(device, config_beyond_the_end)
{
	uint8_t buf[8192];
	uint64_t before, after;

	memset(buf, 0xff, sizeof(buf));
	ASSERT_EQ(8, pread(self->fd, &before, 8, CONFIG + PCI_BASE_ADDRESS_2));
	EXPECT_ERRNO(EFAULT, pwrite(self->fd, buf, 4096, CONFIG + PCI_BASE_ADDRESS_2));
	EXPECT_ERRNO(EFAULT, pwrite(self->fd, buf, sizeof(buf), CONFIG + PCI_BASE_ADDRESS_4));
	EXPECT_ERRNO(EFAULT, pread(self->fd, buf, sizeof(buf), CONFIG + PCI_BASE_ADDRESS_2));
	EXPECT_ERRNO(EFAULT, pwrite(self->fd, buf, 1, CONFIG + 4096));
	EXPECT_ERRNO(EFAULT, pwrite(self->fd, buf, 1, CONFIG + (1ULL << 40) - 1));
	ASSERT_EQ(8, pread(self->fd, &after, 8, CONFIG + PCI_BASE_ADDRESS_2));
	EXPECT_EQ(before, after);
	EXPECT_EQ(0, pwrite(self->fd, buf, 0, CONFIG + PCI_BASE_ADDRESS_2));
	EXPECT_EQ(0, pwrite(self->fd, buf, 0, CONFIG + 8192));
	EXPECT_EQ(0, pread(self->fd, buf, 0, CONFIG + PCI_BASE_ADDRESS_2));
}

TEST_F(device, config_bad_buffer)
{
	uint8_t *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t value;

	ASSERT_NE(MAP_FAILED, page);
	ASSERT_EQ(0, munmap(page + PAGE, PAGE));
	memset(page, 0xff, PAGE);

	EXPECT_ERRNO(EFAULT, pread(self->fd, NULL, 8, CONFIG + PCI_BASE_ADDRESS_2));
	EXPECT_ERRNO(EFAULT, pwrite(self->fd, NULL, 8, CONFIG + PCI_BASE_ADDRESS_2));
	/* Half of a register is readable and half is not. */
	EXPECT_ERRNO(EFAULT, pwrite(self->fd, page + PAGE - 4, 8, CONFIG + PCI_BASE_ADDRESS_2));
	EXPECT_ERRNO(EFAULT, pread(self->fd, page + PAGE - 4, 8, CONFIG + PCI_BASE_ADDRESS_2));
	ASSERT_EQ(8, pread(self->fd, &value, 8, CONFIG + PCI_BASE_ADDRESS_2));
	EXPECT_EQ(0xc, value);
}

static void set_bars(struct __test_metadata *_metadata, int fd)
{
	uint8_t ones[16];
	uint64_t value;

	memset(ones, 0xff, sizeof(ones));
	ASSERT_EQ(16, pwrite(fd, ones, 16, CONFIG + PCI_BASE_ADDRESS_2));
	ASSERT_EQ(8, pread(fd, &value, 8, CONFIG + PCI_BASE_ADDRESS_2));
	ASSERT_NE(0xc, value);
}

static void expect_bars(struct __test_metadata *_metadata, int fd, bool zero)
{
	uint64_t value[2];

	ASSERT_EQ(16, pread(fd, value, 16, CONFIG + PCI_BASE_ADDRESS_2));
	if (zero) {
		EXPECT_EQ(0xc, value[0]);
		EXPECT_EQ(0xc, value[1]);
	} else {
		EXPECT_NE(0xc, value[0]);
		EXPECT_NE(0xc, value[1]);
	}
}

TEST_F(device, bars_are_zero_after_reopen)
{
	expect_bars(_metadata, self->fd, true);
	set_bars(_metadata, self->fd);
	reopen_device(_metadata, &self->v, &self->fd);
	expect_bars(_metadata, self->fd, true);
}

TEST_F(device, bars_are_zero_after_device_reset)
{
	set_bars(_metadata, self->fd);
	if (reset_is("none")) {
		/* Without a reset the registers keep their values. */
		EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_RESET));
		expect_bars(_metadata, self->fd, false);
	} else {
		ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
		expect_bars(_metadata, self->fd, true);
	}
}

TEST_F(device, bars_are_zero_after_hot_reset)
{
	set_bars(_metadata, self->fd);
	if (reset_is("none")) {
		EXPECT_ERRNO(ENODEV, hot_reset(&self->v));
		expect_bars(_metadata, self->fd, false);
	} else {
		ASSERT_EQ(0, hot_reset(&self->v));
		expect_bars(_metadata, self->fd, true);
	}
}

TEST_F(device, bars_are_zero_after_guest_flr)
{
	set_bars(_metadata, self->fd);
	if (!reset_is("flr"))
		SKIP(return, "this stand-in has no function level reset");
	ASSERT_EQ(0, guest_flr(self->fd));
	expect_bars(_metadata, self->fd, true);
}

TEST_F(device, bars_are_zero_after_reset_from_sysfs)
{
	char path[128];

	if (reset_is("none"))
		SKIP(return, "this stand-in has no reset");
	set_bars(_metadata, self->fd);
	ASSERT_EQ(0, write_file(device_path(path, sizeof(path), "reset"), "1"));
	expect_bars(_metadata, self->fd, true);
}

/* All other regions are the device's own, as under vfio-pci. */
TEST_F(device, other_regions_are_the_cores)
{
	struct vfio_region_info info = { .argsz = sizeof(info) };
	struct vfio_device_info dev = { .argsz = sizeof(dev) };
	uint8_t byte;

	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_INFO, &dev));
	EXPECT_EQ(VFIO_PCI_NUM_REGIONS, dev.num_regions);
	EXPECT_EQ(!reset_is("none"), !!(dev.flags & VFIO_DEVICE_FLAGS_RESET));

	info.index = VFIO_PCI_CONFIG_REGION_INDEX;
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	EXPECT_EQ(VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE, info.flags);

	info.index = VFIO_PCI_NUM_REGIONS;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	EXPECT_ERRNO(EFAULT, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, NULL));
	EXPECT_ERRNO(ENOTTY, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO + 100, &info));

	info.index = VFIO_PCI_BAR0_REGION_INDEX;
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	EXPECT_EQ(0, info.flags & VFIO_REGION_INFO_FLAG_CAPS);
	ASSERT_NE(0, info.size);
	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY));
	EXPECT_EQ(1, pread(self->fd, &byte, 1, 0));
	EXPECT_ERRNO(EINVAL, pread(self->fd, &byte, 1, info.size));
}

TEST_F(device, ioeventfd)
{
	struct vfio_device_ioeventfd io = {
		.argsz = sizeof(io),
		.flags = VFIO_DEVICE_IOEVENTFD_32,
	};
	int r;

	io.fd = eventfd(0, EFD_CLOEXEC);
	for (r = 0; r < NR_REGIONS; r++) {
		io.offset = self->v.regions[r].off;
		EXPECT_ERRNO(ENOTTY, ioctl(self->fd, VFIO_DEVICE_IOEVENTFD, &io));
		io.offset += self->v.regions[r].size;
		EXPECT_ERRNO(ENOTTY, ioctl(self->fd, VFIO_DEVICE_IOEVENTFD, &io));
	}
	/* On other BARs it is refused too, and so are offsets of no BAR. */
	io.offset = 0x100;
	EXPECT_ERRNO(ENOTTY, ioctl(self->fd, VFIO_DEVICE_IOEVENTFD, &io));
	io.offset = 0xffffff0000000000;
	EXPECT_ERRNO(ENOTTY, ioctl(self->fd, VFIO_DEVICE_IOEVENTFD, &io));
}

TEST_F(device, second_opener)
{
	char node[PATH_MAX];
	struct vfio other;
	int fd;

	ASSERT_EQ(0, vfio_node(variant->mode, node, sizeof(node)));
	if (variant->mode == IOMMUFD) {
		EXPECT_EQ(-EINVAL, vfio_open(&other, IOMMUFD));
		EXPECT_EQ(-EBUSY, vfio_open(&other, TYPE1));
		return;
	}
	EXPECT_ERRNO(EBUSY, open(node, O_RDWR));
	if (!vfio_mode_missing(IOMMUFD))
		EXPECT_EQ(-EBUSY, vfio_open(&other, IOMMUFD));

	/* The owner of the group may have a second fd, with the same BARs. */
	set_bars(_metadata, self->fd);
	fd = ioctl(self->v.group, VFIO_GROUP_GET_DEVICE_FD, self->v.bdf);
	ASSERT_LE(0, fd);
	expect_bars(_metadata, fd, false);
	close(fd);
	expect_bars(_metadata, self->fd, false);
}

/*
 * Threads do everything at once. Each owns a slice of the regions, so its bytes must still be there
 * at the end, whatever was reset meanwhile.
 */
#define STRESS_ROUNDS	60

struct stress {
	struct vfio *v;
	const struct region *region;
	uint64_t slice;
	unsigned int seed;
	bool failed;
};

static void *stress_rw(void *arg)
{
	struct stress *s = arg;
	uint8_t *in = malloc(KIB(128)), *out = malloc(KIB(128));
	uint64_t off = s->region->off + s->slice;
	unsigned int i;

	for (i = 0; i < STRESS_ROUNDS; i++) {
		fill_random(in, KIB(128), s->seed + i);
		if (pwrite(s->v->device, in, KIB(128), off) != (ssize_t)KIB(128) ||
		    pread(s->v->device, out, KIB(128), off) != (ssize_t)KIB(128) ||
		    memcmp(in, out, KIB(128)))
			s->failed = true;
	}
	free(in);
	free(out);
	return NULL;
}

static void *stress_map(void *arg)
{
	struct stress *s = arg;
	uint64_t off = s->region->off + s->slice;
	unsigned int i, j;

	for (i = 0; i < STRESS_ROUNDS; i++) {
		volatile uint64_t *p = mmap(NULL, KIB(64), PROT_READ | PROT_WRITE,
					    MAP_SHARED, s->v->device, off);

		if (p == MAP_FAILED) {
			s->failed = true;
			continue;
		}
		for (j = 0; j < KIB(64) / 8; j += 256)
			p[j] = pattern(i, j);
		for (j = 0; j < KIB(64) / 8; j += 256)
			if (p[j] != pattern(i, j))
				s->failed = true;
		munmap((void *)p, KIB(64));
	}
	return NULL;
}

static void *stress_config(void *arg)
{
	struct stress *s = arg;
	uint64_t value, reg = CONFIG + PCI_BASE_ADDRESS_0 + 4 * s->region->bar;
	unsigned int i;

	for (i = 0; i < STRESS_ROUNDS * 20; i++) {
		uint64_t want = (i & 1) ? ~0ULL : s->region->size;

		/* Another thread resets: the value is the one written, or none. */
		if (pwrite(s->v->device, &want, 8, reg) != 8 ||
		    pread(s->v->device, &value, 8, reg) != 8 ||
		    (value != 0xc &&
		     value != ((want & ~(s->region->size - 1)) | 0xc)))
			s->failed = true;
	}
	return NULL;
}

static void *stress_reset(void *arg)
{
	struct stress *s = arg;
	uint64_t value;
	unsigned int i;

	/* A reset may fail with EAGAIN or EBUSY, because another task holds a lock. */
	for (i = 0; i < STRESS_ROUNDS / 4; i++) {
		if (ioctl(s->v->device, VFIO_DEVICE_RESET) && errno != EAGAIN &&
		    !(errno == EINVAL && reset_is("none")))
			s->failed = true;
		if (hot_reset(s->v) && errno != EBUSY && errno != EAGAIN &&
		    !(errno == ENODEV && reset_is("none")))
			s->failed = true;
		/*
		 * With memory off the driver cannot ask whether the GPU is ready, and
		 * the other threads would fault. So the read waits until it is.
		 */
		if (pread(s->v->device, &value, 8, s->region->off) != 8)
			s->failed = true;
		config_modify(s->v->device, PCI_COMMAND, PCI_COMMAND_MEMORY, 0);
		config_modify(s->v->device, PCI_COMMAND, 0, PCI_COMMAND_MEMORY);
	}
	return NULL;
}

static void *stress_open(void *arg)
{
	struct stress *s = arg;
	unsigned int i;
	uint64_t value;

	for (i = 0; i < STRESS_ROUNDS && s->v->mode != IOMMUFD; i++) {
		int fd = ioctl(s->v->group, VFIO_GROUP_GET_DEVICE_FD, s->v->bdf);

		if (fd < 0 || pread(fd, &value, 8, s->region->off) != 8)
			s->failed = true;
		close(fd);
	}
	return NULL;
}

TEST_F_TIMEOUT(device, everything_at_once, 120)
{
	static void *(*const threads[])(void *) = {
		stress_rw, stress_map, stress_config, stress_reset, stress_open,
		stress_rw, stress_map,
	};
	pthread_t tid[ARRAY_SIZE(threads)];
	struct stress s[ARRAY_SIZE(threads)];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(threads); i++) {
		s[i] = (struct stress) {
			.v = &self->v,
			.region = &self->v.regions[i >= 3],
			.slice = MIB(4) + i * KIB(192),
			.seed = i * 1000,
		};
		ASSERT_EQ(0, pthread_create(&tid[i], NULL, threads[i], &s[i]));
	}
	for (i = 0; i < ARRAY_SIZE(threads); i++) {
		pthread_join(tid[i], NULL);
		EXPECT_FALSE(s[i].failed) TH_LOG("thread %u", i);
	}
}

/* ------------------------------------------------------------------------ */

FIXTURE(region)
{
	struct vfio v;
	int fd;
	struct region r;
	uint64_t off;
};

FIXTURE_VARIANT(region)
{
	enum vfio_mode mode;
	unsigned int nr;
};

FIXTURE_VARIANT_ADD(region, type1_usemem) { .mode = TYPE1, .nr = USEMEM };
FIXTURE_VARIANT_ADD(region, type1_resmem) { .mode = TYPE1, .nr = RESMEM };
FIXTURE_VARIANT_ADD(region, iommufd_compat_usemem) { .mode = IOMMUFD_COMPAT, .nr = USEMEM };
FIXTURE_VARIANT_ADD(region, iommufd_compat_resmem) { .mode = IOMMUFD_COMPAT, .nr = RESMEM };
FIXTURE_VARIANT_ADD(region, iommufd_usemem) { .mode = IOMMUFD, .nr = USEMEM };
FIXTURE_VARIANT_ADD(region, iommufd_resmem) { .mode = IOMMUFD, .nr = RESMEM };

FIXTURE_SETUP(region)
{
	if (!open_device(_metadata, &self->v, &self->fd, variant->mode))
		return;
	self->r = self->v.regions[variant->nr];
	self->off = self->r.off;
}

FIXTURE_TEARDOWN(region)
{
	vfio_close(&self->v);
}

/* The harness's own name of FIXTURE(region). */
#define region_fixture	_test_data_region

static ssize_t rd(struct region_fixture *self, uint64_t pos, void *buf, size_t len)
{
	return pread(self->fd, buf, len, self->off + pos);
}

static ssize_t wr(struct region_fixture *self, uint64_t pos, const void *buf, size_t len)
{
	return pwrite(self->fd, buf, len, self->off + pos);
}

static void *map(struct region_fixture *self, void *at, uint64_t pos, size_t len)
{
	return mmap(at, len, PROT_READ | PROT_WRITE,
		    MAP_SHARED | (at ? MAP_FIXED : 0), self->fd, self->off + pos);
}

TEST_F(region, info)
{
	struct {
		struct vfio_region_info info;
		struct vfio_region_info_cap_sparse_mmap sparse;
		struct vfio_region_sparse_mmap_area area;
	} x = { .info.argsz = sizeof(x), .info.index = self->r.bar };

	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &x));
	EXPECT_EQ(sizeof(x), x.info.argsz);
	EXPECT_EQ(self->r.size, x.info.size);
	EXPECT_EQ(self->off, x.info.offset);
	EXPECT_EQ(VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
		  VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS, x.info.flags);
	ASSERT_EQ(sizeof(x.info), x.info.cap_offset);
	EXPECT_EQ(VFIO_REGION_INFO_CAP_SPARSE_MMAP, x.sparse.header.id);
	EXPECT_EQ(1, x.sparse.header.version);
	EXPECT_EQ(0, x.sparse.header.next);
	EXPECT_EQ(1, x.sparse.nr_areas);
	EXPECT_EQ(0, x.area.offset);
	EXPECT_EQ(self->r.backed, x.area.size);
}

TEST_F(region, info_of_short_buffers)
{
	struct vfio_region_info info = { .index = self->r.bar };
	const uint32_t need = sizeof(info) +
		sizeof(struct vfio_region_info_cap_sparse_mmap) +
		sizeof(struct vfio_region_sparse_mmap_area);
	uint8_t buf[256];

	info.argsz = sizeof(info) - 1;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));

	info.argsz = sizeof(info);
	info.cap_offset = 77;
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	EXPECT_EQ(need, info.argsz);
	EXPECT_EQ(0, info.cap_offset);

	/* One byte too few for the capability: it must not be touched. */
	memset(buf, 0xaa, sizeof(buf));
	info.argsz = need - 1;
	memcpy(buf, &info, sizeof(info));
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, buf));
	memcpy(&info, buf, sizeof(info));
	EXPECT_EQ(need, info.argsz);
	EXPECT_EQ(0, info.cap_offset);
	EXPECT_EQ(0xaa, buf[sizeof(info)]);
}

/* An edge of a block inside the region, however large a block is. */
static uint64_t edge(const struct region_fixture *self)
{
	return self->r.backed > BLOCK ? BLOCK : self->r.backed / 2;
}

TEST_F(region, one_byte_at_every_edge)
{
	const uint64_t pos[] = {
		0, 1, PAGE - 1, PAGE, KIB(64) - 1, KIB(64), edge(self) - 1, edge(self),
		self->r.backed / 2 - 1, self->r.backed / 2,
		self->r.backed - edge(self), self->r.backed - PAGE,
		self->r.backed - 2, self->r.backed - 1,
	};
	unsigned int i;
	uint8_t byte;

	/*
	 * The bytes depend on the position, since some of these are the same where pages are large.
	 */
	for (i = 0; i < ARRAY_SIZE(pos); i++) {
		byte = pattern(3, pos[i]);
		ASSERT_EQ(1, wr(self, pos[i], &byte, 1));
	}
	for (i = 0; i < ARRAY_SIZE(pos); i++) {
		ASSERT_EQ(1, rd(self, pos[i], &byte, 1));
		EXPECT_EQ((uint8_t)pattern(3, pos[i]), byte) TH_LOG("at 0x%lx", pos[i]);
	}
}

TEST_F(region, hole_reads_ones_and_drops_writes)
{
	uint8_t buf[KIB(64) + 3], last;
	uint64_t hole = self->r.size - self->r.backed;
	const uint64_t pos[] = {
		self->r.backed, self->r.backed + 1, self->r.backed + PAGE - 1,
		self->r.size - sizeof(buf), self->r.size - 1,
	};
	unsigned int i;

	if (!hole)
		SKIP(return, "the size is a power of two: no hole");

	last = 0x42;
	ASSERT_EQ(1, wr(self, self->r.backed - 1, &last, 1));
	for (i = 0; i < ARRAY_SIZE(pos); i++) {
		size_t len = sizeof(buf);

		if (len > self->r.size - pos[i])
			len = self->r.size - pos[i];
		memset(buf, 0x11, sizeof(buf));
		EXPECT_EQ(len, wr(self, pos[i], buf, len));
		ASSERT_EQ(len, rd(self, pos[i], buf, len));
		EXPECT_TRUE(all_ones(buf, len)) TH_LOG("at 0x%lx", pos[i]);
	}
	ASSERT_EQ(1, rd(self, self->r.backed - 1, &last, 1));
	EXPECT_EQ(0x42, last);
}

TEST_F(region, across_the_end_of_memory)
{
	uint8_t in[32], out[32];
	unsigned int below, above;

	if (self->r.size == self->r.backed)
		SKIP(return, "the size is a power of two: no hole");

	for (below = 1; below <= 16; below++) {
		for (above = 1; above <= 16; above++) {
			uint64_t pos = self->r.backed - below;

			fill_random(in, sizeof(in), below * 16 + above);
			ASSERT_EQ(below + above, wr(self, pos, in, below + above));
			memset(out, 0, sizeof(out));
			ASSERT_EQ(below + above, rd(self, pos, out, below + above));
			ASSERT_EQ(0, memcmp(in, out, below));
			ASSERT_TRUE(all_ones(out + below, above));
		}
	}
}

TEST_F(region, across_the_end_of_the_bar)
{
	uint8_t buf[64];
	unsigned int below;

	for (below = 1; below <= 16; below++) {
		memset(buf, 0x33, sizeof(buf));
		EXPECT_EQ(below, wr(self, self->r.size - below, buf, 32));
		EXPECT_EQ(below, rd(self, self->r.size - below, buf, 32));
		EXPECT_EQ(0x33, buf[below]);
	}
	EXPECT_ERRNO(EINVAL, rd(self, self->r.size, buf, 1));
	EXPECT_ERRNO(EINVAL, wr(self, self->r.size, buf, 1));
	EXPECT_ERRNO(EINVAL, rd(self, self->r.size + 1, buf, 1));
	EXPECT_ERRNO(EINVAL, rd(self, (1ULL << 40) - 1, buf, 1));
	EXPECT_ERRNO(EINVAL, wr(self, (1ULL << 40) - 1, buf, 1));
}

TEST_F(region, zero_length)
{
	EXPECT_EQ(0, rd(self, 0, NULL, 0));
	EXPECT_EQ(0, wr(self, 0, NULL, 0));
	EXPECT_EQ(0, rd(self, self->r.backed, NULL, 0));
	EXPECT_EQ(0, rd(self, self->r.size, NULL, 0));
}

TEST_F(region, any_alignment_and_length)
{
	const uint64_t pos = MIB(1) - 40;
	uint8_t model[192], in[64], out[192];
	volatile uint8_t *p = map(self, NULL, MIB(1) - PAGE, 2 * PAGE);
	unsigned int at, len, i;

	ASSERT_NE(MAP_FAILED, (void *)p);
	fill_random(model, sizeof(model), 5);
	ASSERT_EQ(sizeof(model), wr(self, pos, model, sizeof(model)));

	for (len = 1; len <= 64; len++) {
		for (at = 0; at < 72; at += 3) {
			fill_random(in, len, len * 100 + at);
			memcpy(model + at, in, len);
			ASSERT_EQ(len, wr(self, pos + at, in, len));
		}
		/* A copy starts and ends anywhere, and a mapping shows the same bytes. */
		ASSERT_EQ(len, rd(self, pos + len, out, len));
		ASSERT_EQ(0, memcmp(out, model + len, len)) TH_LOG("length %u", len);
		for (i = 0; i < sizeof(model); i++)
			ASSERT_EQ(model[i], p[PAGE - 40 + i]) TH_LOG("length %u, byte %u", len, i);
	}
	munmap((void *)p, 2 * PAGE);
}

/* It is longer than the driver maps and copies at a time, and off every boundary. */
TEST_F(region, long_and_skewed)
{
	const size_t len = MIB(3) + 7;
	/* The driver maps a GiB at a time. */
	const uint64_t gib = self->r.backed > GIB(1) ? GIB(1) : self->r.backed / 2;
	const uint64_t pos[] = { edge(self) - 3, gib - len / 2, self->r.backed - len, 1 };
	uint8_t *in = malloc(len), *out = malloc(len), edge[2];
	unsigned int i;

	ASSERT_TRUE(in && out);
	for (i = 0; i < ARRAY_SIZE(pos); i++) {
		bool at_end = pos[i] + len == self->r.backed;

		edge[0] = edge[1] = 0xa5;
		ASSERT_EQ(1, wr(self, pos[i] - 1, &edge[0], 1));
		if (!at_end)
			ASSERT_EQ(1, wr(self, pos[i] + len, &edge[1], 1));
		fill_random(in, len, 7 + i);
		ASSERT_EQ(len, wr(self, pos[i], in, len));
		ASSERT_EQ(len, rd(self, pos[i], out, len));
		ASSERT_EQ(0, memcmp(in, out, len));
		ASSERT_EQ(1, rd(self, pos[i] - 1, &edge[0], 1));
		if (!at_end)
			ASSERT_EQ(1, rd(self, pos[i] + len, &edge[1], 1));
		EXPECT_EQ(0xa5, edge[0]);
		EXPECT_EQ(0xa5, edge[1]);
	}
	free(in);
	free(out);
}

TEST_F(region, bad_buffer)
{
	uint8_t *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, page);
	ASSERT_EQ(0, munmap(page + PAGE, PAGE));
	EXPECT_ERRNO(EFAULT, rd(self, 0, NULL, 1));
	EXPECT_ERRNO(EFAULT, wr(self, 0, NULL, 1));
	EXPECT_ERRNO(EFAULT, rd(self, 0, page + PAGE - 1, 2));
	EXPECT_ERRNO(EFAULT, wr(self, 0, page + PAGE - 1, 2));
	if (self->r.size > self->r.backed)
		EXPECT_ERRNO(EFAULT, rd(self, self->r.backed, page + PAGE - 1, 2));
	/* More than a few bytes, of a page that is mapped and one that is not. */
	EXPECT_ERRNO(EFAULT, rd(self, 0, page, PAGE + 1));
	EXPECT_ERRNO(EFAULT, wr(self, 0, page, PAGE + 1));
	EXPECT_EQ(PAGE, rd(self, 0, page, PAGE));
	/* The page can only be read. */
	ASSERT_EQ(0, mprotect(page, PAGE, PROT_READ));
	EXPECT_EQ(PAGE, wr(self, 0, page, PAGE));
	EXPECT_ERRNO(EFAULT, rd(self, 0, page, PAGE));
	munmap(page, PAGE);
}

/* A buffer whose pages come one by one, while the copy goes on. */
TEST_F(region, buffer_that_is_not_there_yet)
{
	const size_t len = 64 * PAGE + 1000;
	uint8_t *in = malloc(len), *buf = reserve(len + PAGE, 0);
	unsigned int i;

	ASSERT_NE(NULL, in);
	fill_random(in, len, 21);
	ASSERT_EQ(len, wr(self, 77, in, len));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(buf, mmap(buf, len + PAGE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		/* No page, the first one, and one in the middle. */
		if (i)
			buf[i == 1 ? 0 : len / 2] = 1;
		ASSERT_EQ(len, rd(self, 77, buf + 123, len));
		EXPECT_EQ(0, memcmp(in, buf + 123, len));
		EXPECT_EQ(0, buf[123 + len]);
	}
	munmap(buf, len + PAGE);
	free(in);
}

/* How another thread treats one page of a buffer that is missing; it brings all others. */
enum late_page { LATE_COME, LATE_UNREGISTER, LATE_CLOSE, LATE_UNMAP, LATE_RESET };

#define LATE_PAGES	6
/* The page that is not just brought. */
#define LATE_NR		3

/* A buffer on userfaultfd. */
struct late {
	struct region_fixture *self;
	enum late_page how;
	uint8_t *buf;
	const uint8_t *data;	/* the bytes of a page that is brought */
	int uffd;
	unsigned int faults;
	bool failed;
	pthread_t thread;
};

static bool is_done(struct late *t, unsigned int nr)
{
	struct uffdio_range all = { (uintptr_t)t->buf, LATE_PAGES * PAGE };

	switch (nr == LATE_NR ? t->how : LATE_COME) {
	case LATE_UNREGISTER:
		t->failed |= !!ioctl(t->uffd, UFFDIO_UNREGISTER, &all);
		return true;
	case LATE_CLOSE:
		close(t->uffd);
		return true;
	case LATE_UNMAP:
		/* munmap() by itself does not wake a task that waits for the page. */
		t->failed |= !!munmap(t->buf + nr * PAGE, PAGE);
		t->failed |= !!ioctl(t->uffd, UFFDIO_WAKE, &all);
		return true;
	case LATE_RESET:
		/* It would wait for the copy, if that held anything while its page is missing. */
		t->failed |= !!ioctl(t->self->fd, VFIO_DEVICE_RESET);
		return false;
	default:
		return false;
	}
}

static void *bring_pages(void *arg)
{
	struct late *t = arg;
	struct pollfd p = { .fd = t->uffd, .events = POLLIN };
	struct uffd_msg msg;

	while (t->faults < LATE_PAGES && poll(&p, 1, 10000) == 1 &&
	       read(t->uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		unsigned int nr = (msg.arg.pagefault.address - (uintptr_t)t->buf) / PAGE;
		struct uffdio_copy copy = {
			.dst = (uintptr_t)t->buf + nr * PAGE,
			.src = (uintptr_t)t->data + nr * PAGE,
			.len = PAGE,
		};

		t->faults++;
		if (is_done(t, nr))
			return NULL;
		t->failed |= !!ioctl(t->uffd, UFFDIO_COPY, &copy);
	}
	return NULL;
}

static void start_late(struct __test_metadata *_metadata, struct late *t)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.len = LATE_PAGES * PAGE,
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	t->faults = 0;
	t->failed = false;
	t->buf = mmap(NULL, reg.range.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	ASSERT_NE(MAP_FAILED, t->buf);
	reg.range.start = (uintptr_t)t->buf;
	t->uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	ASSERT_LE(0, t->uffd);
	ASSERT_EQ(0, ioctl(t->uffd, UFFDIO_API, &api));
	ASSERT_EQ(0, ioctl(t->uffd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, pthread_create(&t->thread, NULL, bring_pages, t));
}

static void end_late(struct __test_metadata *_metadata, struct late *t, unsigned int faults)
{
	pthread_join(t->thread, NULL);
	EXPECT_EQ(faults, t->faults);
	EXPECT_FALSE(t->failed);
	if (t->how != LATE_CLOSE)
		close(t->uffd);
	munmap(t->buf, LATE_PAGES * PAGE);
}

/* A buffer whose pages another thread has to bring, or does not bring. */
TEST_F(region, buffer_on_userfaultfd)
{
	const size_t len = LATE_PAGES * PAGE;
	uint8_t *data = malloc(len), *memory = malloc(len), *zeroes = calloc(1, len);
	struct late t = { .self = self };
	bool ends;

	ASSERT_TRUE(data && memory && zeroes);
	for (t.how = LATE_COME; t.how <= LATE_RESET; t.how++) {
		if (t.how == LATE_RESET && reset_is("none"))
			continue;
		/* Without a userfaultfd mm fills the later pages with zeroes. */
		ends = t.how == LATE_UNREGISTER || t.how == LATE_CLOSE;
		fill_random(data, len, 40 + t.how);
		fill_random(memory, len, 50 + t.how);
		ASSERT_EQ(len, wr(self, PAGE, memory, len));

		t.data = zeroes;
		start_late(_metadata, &t);
		if (t.how == LATE_UNMAP) {
			EXPECT_ERRNO(EFAULT, rd(self, PAGE, t.buf, len));
			EXPECT_EQ(0, memcmp(t.buf, memory, LATE_NR * PAGE));
		} else {
			EXPECT_EQ(len, rd(self, PAGE, t.buf, len)) TH_LOG("how %d", t.how);
			EXPECT_EQ(0, memcmp(t.buf, memory, len)) TH_LOG("how %d", t.how);
		}
		end_late(_metadata, &t, ends || t.how == LATE_UNMAP ? LATE_NR + 1 : LATE_PAGES);

		t.data = data;
		start_late(_metadata, &t);
		if (t.how == LATE_UNMAP)
			EXPECT_ERRNO(EFAULT, wr(self, PAGE, t.buf, len));
		else
			EXPECT_EQ(len, wr(self, PAGE, t.buf, len)) TH_LOG("how %d", t.how);
		end_late(_metadata, &t, ends || t.how == LATE_UNMAP ? LATE_NR + 1 : LATE_PAGES);
		ASSERT_EQ(len, rd(self, PAGE, memory, len));
		EXPECT_EQ(0, memcmp(memory, data, LATE_NR * PAGE)) TH_LOG("how %d", t.how);
		if (t.how != LATE_UNMAP)
			EXPECT_EQ(0, memcmp(memory + LATE_NR * PAGE,
					    ends ? zeroes : data + LATE_NR * PAGE,
					    len - LATE_NR * PAGE)) TH_LOG("how %d", t.how);
	}
	free(data);
	free(memory);
	free(zeroes);
}

struct tearing {
	struct region_fixture *self;
	size_t len;
	bool over;
};

static void *write_two_values(void *arg)
{
	struct tearing *t = arg;
	uint64_t value = 0;

	while (!__atomic_load_n(&t->over, __ATOMIC_RELAXED)) {
		(void)!wr(t->self, MIB(2), &value, t->len);
		value = ~value;
	}
	return NULL;
}

/* An access of a register's size is one load or store. */
TEST_F(region, small_accesses_are_not_torn)
{
	volatile uint64_t *p = map(self, NULL, MIB(2), PAGE);
	struct tearing t = { .self = self };
	uint64_t value, mask;
	pthread_t thread;
	unsigned int i;

	ASSERT_NE(MAP_FAILED, (void *)p);
	for (t.len = 2; t.len <= 8; t.len *= 2) {
		mask = ~0ULL >> (64 - 8 * t.len);
		*p = 0;
		t.over = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, write_two_values, &t));
		for (i = 0; i < 300; i++) {
			value = *p & mask;
			EXPECT_TRUE(value == 0 || value == mask) TH_LOG("stored 0x%lx", value);
			value = 0;
			EXPECT_EQ(t.len, rd(self, MIB(2), &value, t.len));
			EXPECT_TRUE(value == 0 || value == mask) TH_LOG("read 0x%lx", value);
		}
		__atomic_store_n(&t.over, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
	}
	munmap((void *)p, PAGE);
}

TEST_F(region, read_into_its_own_mapping)
{
	uint8_t in[PAGE], *p;

	fill_random(in, sizeof(in), 9);
	ASSERT_EQ(sizeof(in), wr(self, MIB(3), in, sizeof(in)));
	p = map(self, NULL, MIB(8), PAGE);
	ASSERT_NE(MAP_FAILED, p);
	/* The destination is not mapped yet: the copy takes the fault. */
	ASSERT_EQ(PAGE, rd(self, MIB(3), p, PAGE));
	EXPECT_EQ(0, memcmp(in, p, PAGE));
	ASSERT_EQ(PAGE, wr(self, MIB(12), p, PAGE));
	munmap(p, PAGE);
}

/* Code in usemem runs. Uncached memory cannot be made executable, touched or not. */
TEST_F(region, execute)
{
	const uint32_t ret = 0xd65f03c0;
	void *p = map(self, NULL, MIB(4), PAGE);
	int status;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(sizeof(ret), wr(self, MIB(4), &ret, sizeof(ret)));
	if (variant->nr == RESMEM) {
		EXPECT_ERRNO(EACCES, mprotect(p, PAGE, PROT_READ | PROT_EXEC));
		EXPECT_EQ(ret, *(volatile uint32_t *)p);
		EXPECT_ERRNO(EACCES, mprotect(p, PAGE, PROT_READ | PROT_EXEC));
		munmap(p, PAGE);
		EXPECT_ERRNO(EPERM, mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED,
					 self->fd, self->r.off + MIB(4)));
		return;
	}
	if (mprotect(p, PAGE, PROT_READ | PROT_EXEC)) {
		ASSERT_EQ(EACCES, errno);
		/* Then the core's mapping of BAR0 must not be executable either. */
		p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->fd, 0);
		ASSERT_NE(MAP_FAILED, p);
		ASSERT_EQ(-1, mprotect(p, PAGE, PROT_READ | PROT_EXEC));
		SKIP(return, "this kernel makes no mapping of such an fd executable");
	}
	pid = fork();
	ASSERT_NE(-1, pid);
	if (!pid) {
		alarm(30);
		((void (*)(void))p)();
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, WTERMSIG(status));
	munmap(p, PAGE);
}

TEST_F(region, mmap_bounds)
{
	uint64_t backed = self->r.backed;
	void *p;

	p = map(self, NULL, 0, backed);
	ASSERT_NE(MAP_FAILED, p);
	munmap(p, backed);
	p = map(self, NULL, backed - PAGE, PAGE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, signal_of(p, true));
	EXPECT_EQ(0, signal_of(p + PAGE - 1, true));
	munmap(p, PAGE);

	EXPECT_ERRNO(EINVAL, map(self, NULL, 0, backed + PAGE));
	EXPECT_ERRNO(EINVAL, map(self, NULL, backed - PAGE, 2 * PAGE));
	EXPECT_ERRNO(EINVAL, map(self, NULL, backed, PAGE));
	EXPECT_ERRNO(EINVAL, map(self, NULL, self->r.size, PAGE));
	EXPECT_ERRNO(EINVAL, map(self, NULL, (1ULL << 40) - PAGE, PAGE));
	EXPECT_ERRNO(EOVERFLOW, mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, self->fd, -PAGE));
	EXPECT_ERRNO(EINVAL, mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, self->fd, self->off));
	EXPECT_ERRNO(EINVAL, mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd,
				  self->off));
}

TEST_F(region, mmap_maps_nothing_up_front)
{
	long before = vm_pte_kib();
	uint8_t *p = map(self, NULL, 0, self->r.backed);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_LE(0, before);
	/* A page table is a page, and one of them maps a block. */
	EXPECT_GE(before + 16 * (long)(PAGE >> 10), vm_pte_kib());
	EXPECT_EQ(1, faults_to_touch(p + (self->r.backed / 2 & -PAGE), PAGE));
	EXPECT_EQ(0, signal_of(p + self->r.backed / 2, true));
	EXPECT_GE(before + 32 * (long)(PAGE >> 10), vm_pte_kib());
	munmap(p, self->r.backed);
}

TEST_F(region, faults_in_the_largest_blocks)
{
	const uint64_t second = self->r.backed >= 3 * BLOCK ? BLOCK : 0;
	uint8_t *p;

	SKIP_UNLESS_BLOCKS(&self->r, 2);

	/* Where the address is aligned as the memory is, faults map blocks. */
	p = map(self, reserve(2 * BLOCK, 0), 0, 2 * BLOCK);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(1, faults_to_touch(p, BLOCK));
	EXPECT_EQ(0, tables_to_touch(p + BLOCK, BLOCK));
	munmap(p, 2 * BLOCK);

	/* A fault maps the pages of a table where the mapping ends within a block. */
	p = map(self, reserve(BLOCK + BLOCK / 2, 0), second, BLOCK + BLOCK / 2);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(1, faults_to_touch(p, BLOCK));
	EXPECT_EQ(1, tables_to_touch(p + BLOCK, BLOCK / 2));
	munmap(p, BLOCK + BLOCK / 2);

	/* Where address and memory are skewed against each other, a fault maps a table. */
	p = map(self, reserve(2 * BLOCK, PAGE), 0, 2 * BLOCK);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(1, faults_to_touch(p, PAGE));
	EXPECT_EQ(1, tables_to_touch(p + BLOCK, PAGE));
	EXPECT_EQ(1, faults_to_touch(p, 2 * BLOCK));
	munmap(p, 2 * BLOCK);

	/* Where both are skewed alike, faults map pages up to the boundary, and then blocks. */
	p = map(self, reserve(2 * BLOCK, PAGE), PAGE, 2 * BLOCK - PAGE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(1, faults_to_touch(p, BLOCK - PAGE));
	EXPECT_EQ(0, tables_to_touch(p + BLOCK - PAGE, BLOCK));
	munmap(p, 2 * BLOCK - PAGE);
}

/* An offset leads to the same memory, whatever maps it. */
TEST_F(region, mappings_and_files_agree)
{
	const struct { size_t skew; uint64_t pos; } at[] = {
		{ 0, 0 }, { PAGE, 0 }, { 0, PAGE }, { 0, BLOCK }, { PAGE, PAGE },
		{ 0, (self->r.backed - 3 * BLOCK) & ~(BLOCK - 1) },
		{ PAGE, (self->r.backed - 3 * BLOCK) & ~(BLOCK - 1) },
	};
	const size_t len = 3 * BLOCK - 2 * PAGE;
	unsigned int i;
	uint64_t j, value;

	SKIP_UNLESS_BLOCKS(&self->r, 4);
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		volatile uint64_t *p = map(self, reserve(len, at[i].skew), at[i].pos, len);

		ASSERT_NE(MAP_FAILED, (void *)p);
		for (j = 0; j < len; j += 13 * PAGE + 8)
			p[j / 8] = pattern(i, j);
		for (j = 0; j < len; j += 13 * PAGE + 8) {
			ASSERT_EQ(8, rd(self, at[i].pos + j, &value, 8));
			ASSERT_EQ(pattern(i, j), value);
			value = ~value;
			ASSERT_EQ(8, wr(self, at[i].pos + j, &value, 8));
			ASSERT_EQ(value, p[j / 8]);
		}
		munmap((void *)p, len);
	}
}

TEST_F(region, munmap_in_a_block)
{
	volatile uint8_t *p;

	SKIP_UNLESS_BLOCKS(&self->r, 2);
	p = map(self, reserve(2 * BLOCK, 0), 0, 2 * BLOCK);
	ASSERT_NE(MAP_FAILED, (void *)p);
	p[0] = 1;
	p[BLOCK / 2 - 1] = 2;
	p[BLOCK / 2 + PAGE] = 3;
	p[2 * BLOCK - 1] = 4;
	ASSERT_EQ(0, munmap((void *)p + BLOCK / 2, PAGE));
	EXPECT_EQ(1, p[0]);
	EXPECT_EQ(2, p[BLOCK / 2 - 1]);
	EXPECT_EQ(3, p[BLOCK / 2 + PAGE]);
	EXPECT_EQ(4, p[2 * BLOCK - 1]);
	EXPECT_EQ(SIGSEGV, signal_of(p + BLOCK / 2, false));
	munmap((void *)p, 2 * BLOCK);
}

TEST_F(region, mprotect_and_read_only)
{
	volatile uint8_t *p = map(self, reserve(BLOCK, 0), 0, BLOCK);

	ASSERT_NE(MAP_FAILED, (void *)p);
	p[5] = 55;
	ASSERT_EQ(0, mprotect((void *)p, BLOCK, PROT_READ));
	EXPECT_EQ(55, p[5]);
	EXPECT_EQ(SIGSEGV, signal_of(p + 5, true));
	ASSERT_EQ(0, mprotect((void *)p, BLOCK, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, signal_of(p + 5, true));
	munmap((void *)p, BLOCK);

	p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->fd, self->off);
	ASSERT_NE(MAP_FAILED, (void *)p);
	EXPECT_EQ(0, signal_of(p, false));
	EXPECT_EQ(SIGSEGV, signal_of(p, true));
	munmap((void *)p, PAGE);
}

TEST_F(region, mremap_moves_and_never_grows)
{
	volatile uint8_t *p = map(self, reserve(BLOCK, 0), 0, BLOCK);
	void *to = reserve(BLOCK, PAGE);

	ASSERT_NE(MAP_FAILED, (void *)p);
	p[PAGE] = 66;
	EXPECT_ERRNO(EFAULT, mremap((void *)p, BLOCK, 2 * BLOCK, MREMAP_MAYMOVE));
	ASSERT_EQ(to, mremap((void *)p, BLOCK, BLOCK, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	p = to;
	EXPECT_EQ(66, p[PAGE]);
	p[PAGE + 1] = 67;
	EXPECT_EQ(67, p[PAGE + 1]);
	munmap(to, BLOCK);
}

static int see_and_change(void *arg)
{
	volatile uint8_t *p = arg;

	if (p[0] != 70)
		return 1;
	p[0] = 71;
	p[BLOCK - 1] = 72;
	return 0;
}

TEST_F(region, fork_shares)
{
	volatile uint8_t *p = map(self, reserve(BLOCK, 0), 0, BLOCK);

	ASSERT_NE(MAP_FAILED, (void *)p);
	p[0] = 70;
	EXPECT_EQ(0, end_of_child(start_child(see_and_change, (void *)p)));
	EXPECT_EQ(71, p[0]);
	EXPECT_EQ(72, p[BLOCK - 1]);
	munmap((void *)p, BLOCK);
}

/* A mapping keeps the device open after its fd is closed. */
TEST_F(region, mapping_outlives_the_fd)
{
	volatile uint8_t *p = map(self, NULL, 0, PAGE);
	struct vfio other;

	ASSERT_NE(MAP_FAILED, (void *)p);
	vfio_close(&self->v);
	p[0] = 80;
	EXPECT_EQ(80, p[0]);
	/* The core lets the owner of a group have more fds, with an iommufd here too. */
	EXPECT_EQ(variant->mode != IOMMUFD_COMPAT, vfio_open(&other, variant->mode) != 0);
	vfio_close(&other);
	munmap((void *)p, PAGE);
	reopen_device(_metadata, &self->v, &self->fd);
}

TEST_F(region, memory_enable_has_no_effect)
{
	volatile uint8_t *p = map(self, NULL, 0, PAGE);
	uint8_t byte = 90;

	ASSERT_NE(MAP_FAILED, (void *)p);
	p[0] = 89;
	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, PCI_COMMAND_MEMORY, 0));
	EXPECT_EQ(0, signal_of(p, false));
	EXPECT_EQ(89, p[0]);
	EXPECT_EQ(1, wr(self, 0, &byte, 1));
	EXPECT_EQ(90, p[0]);
	EXPECT_EQ(1, rd(self, 0, &byte, 1));
	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY));
	EXPECT_EQ(90, p[0]);
	munmap((void *)p, PAGE);
}

/* The core zapped the mapping, and a fault maps it again with its contents. */
static void expect_zapped(struct __test_metadata *_metadata, volatile uint8_t *p)
{
	EXPECT_EQ(1, faults_to_touch(p, PAGE));
	EXPECT_EQ(0xab, p[0]);
	EXPECT_EQ(0xcd, p[BLOCK - 1]);
}

TEST_F(region, mapping_comes_back_after_every_reset)
{
	volatile uint8_t *p = map(self, reserve(BLOCK, 0), 0, BLOCK);

	if (reset_is("none"))
		SKIP(return, "this stand-in has no reset");

	ASSERT_NE(MAP_FAILED, (void *)p);
	p[0] = 0xab;
	p[BLOCK - 1] = 0xcd;
	EXPECT_EQ(0, faults_to_touch(p, PAGE));

	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
	expect_zapped(_metadata, p);
	ASSERT_EQ(0, hot_reset(&self->v));
	expect_zapped(_metadata, p);
	if (reset_is("flr")) {
		ASSERT_EQ(0, guest_flr(self->fd));
		expect_zapped(_metadata, p);
	}
	munmap((void *)p, BLOCK);
}

/* The guest moved the device to D3hot itself. */
TEST_F(region, d3hot)
{
	unsigned int cap = config_find_cap(self->fd, PCI_CAP_ID_PM);
	volatile uint8_t *p = map(self, reserve(BLOCK, 0), 0, BLOCK);
	uint8_t byte = 0xab;

	if (!reset_is("flr"))
		SKIP(return, "this stand-in has no power management");
	ASSERT_NE(0, cap);
	ASSERT_NE(MAP_FAILED, (void *)p);
	p[0] = 0xab;
	p[BLOCK - 1] = 0xcd;
	ASSERT_EQ(0, config_modify(self->fd, cap + PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK, 3));
	EXPECT_EQ(SIGBUS, signal_of(p, false));
	EXPECT_EQ(SIGBUS, signal_of(p, true));
	EXPECT_ERRNO(EIO, rd(self, 0, &byte, 1));
	EXPECT_ERRNO(EIO, wr(self, 0, &byte, 1));
	ASSERT_EQ(0, config_modify(self->fd, cap + PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK, 0));
	expect_zapped(_metadata, p);
	EXPECT_EQ(1, rd(self, 0, &byte, 1));
	EXPECT_EQ(0xab, byte);
	munmap((void *)p, BLOCK);
}

/* The VMM allowed runtime suspend: read and write resume, a fault does not. */
TEST_F(region, runtime_suspend)
{
	volatile uint8_t *p = map(self, reserve(BLOCK, 0), 0, BLOCK);
	uint8_t byte;

	ASSERT_NE(MAP_FAILED, (void *)p);
	p[0] = 0xab;
	p[BLOCK - 1] = 0xcd;
	ASSERT_EQ(0, allow_low_power(self->fd, true));
	EXPECT_EQ(SIGBUS, signal_of(p, false));
	EXPECT_EQ(1, rd(self, 0, &byte, 1));
	EXPECT_EQ(0xab, byte);
	EXPECT_EQ(1, wr(self, 0, &byte, 1));
	EXPECT_EQ(SIGBUS, signal_of(p, true));

	ASSERT_EQ(0, allow_low_power(self->fd, false));
	expect_zapped(_metadata, p);
	munmap((void *)p, BLOCK);
}

struct long_reads {
	struct region_fixture *self;
	void *buf;
	size_t len;
	int started;
};

static int read_for_ever(void *arg)
{
	struct long_reads *reads = arg;

	while (write(reads->started, "", 1) == 1)
		(void)!rd(reads->self, 0, reads->buf, reads->len);
	return 1;
}

/* A long read dies with its process, and the device can be opened again. */
TEST_F(region, killed_while_reading)
{
	struct long_reads reads = { .self = self, .len = MIB(512) };
	int fds[2];
	pid_t pid;
	char c;

	reads.buf = mmap(NULL, reads.len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, reads.buf);
	ASSERT_EQ(0, pipe(fds));
	reads.started = fds[1];
	pid = start_child(read_for_ever, &reads);
	ASSERT_EQ(1, read(fds[0], &c, 1));
	usleep(100000);
	ASSERT_TRUE(child_runs(pid));
	EXPECT_EQ(-SIGKILL, kill_child(pid));
	munmap(reads.buf, reads.len);

	reopen_device(_metadata, &self->v, &self->fd);
}

TEST_PROGRAM_MAIN(program)
