// SPDX-License-Identifier: GPL-2.0-only
/*
 * Through VFIO, the stand-in that gpu_standin.ko makes looks and behaves like the GPU, so tests
 * that rely on it are meaningful.
 *
 * The second region of REGIONS is resmem or, on a GPU that needs no carve-out, the
 * physical BAR2.
 */
#include "fixture.h"
#include "knobs.h"
#include "pattern.h"

static const struct program program = {
	.what = "a stand-in of gpu_standin.ko looks and behaves like the GPU",
	.vars = {
		VAR_STANDIN, VAR_REGIONS, VAR_RESET,
		{ "DVSEC", "the carve-out bit (1: needs none), or -1 for no DVSEC", "0" },
		{ "PHYSICAL", "SIZE:SIZE of the physical BAR2 and BAR4", "0x100000000:0x2000000",
		  true },
	},
	.standin = true,
};

#define C2C_LINK	0x1498
#define HBM_TRAINING	0x200bc

/* The first byte of a physical BAR, and how many it has. */
static uint64_t physical_bar(unsigned int bar, uint64_t *size)
{
	unsigned long start = 0, end = 0;
	char path[PATH_MAX], line[128];
	unsigned int i;
	FILE *f;

	f = fopen(device_path(path, sizeof(path), "resource"), "r");
	for (i = 0; f && fgets(line, sizeof(line), f); i++)
		if (i == bar && sscanf(line, "%lx %lx", &start, &end) != 2)
			end = 0;
	if (f)
		fclose(f);
	if (size)
		*size = end ? end - start + 1 : 0;
	return start;
}

/* Map a BAR past VFIO, where the CPU has it. NULL and an errno if that fails. */
static volatile uint32_t *map_physical(unsigned int bar, uint64_t off)
{
	uint64_t start = physical_bar(bar, NULL), at = start + off;
	int fd = open("/dev/mem", O_RDWR | O_SYNC);
	void *p;

	errno = ENODEV;
	p = !start ? MAP_FAILED :
	    mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at & -PAGE);
	close(fd);
	return p == MAP_FAILED ? NULL : p + (at & (PAGE - 1));
}

/* A kernel with IO_STRICT_DEVMEM keeps /dev/mem away from what a driver has claimed. */
#define ASSERT_PHYSICAL(p)							\
	ASSERT_NE(NULL, (void *)(p))						\
		TH_LOG("%s: was the kernel booted with iomem=relaxed?", strerror(errno))

/* Read config space past VFIO's own view of it. */
static uint32_t sysfs_config(unsigned int reg)
{
	uint32_t value = 0;
	char path[PATH_MAX];
	int fd;

	fd = open(device_path(path, sizeof(path), "config"), O_RDONLY);
	if (pread(fd, &value, 4, reg) != 4)
		value = 0;
	close(fd);
	return value;
}

FIXTURE(standin)
{
	struct vfio v;
	int fd;
	int dvsec;
	bool bus_reset;
};

FIXTURE_SETUP(standin)
{
	self->dvsec = atoi(getenv("DVSEC"));
	self->bus_reset = reset_is("bus");
	ASSERT_TRUE(set_knob("ready_ms", 0));
	ASSERT_TRUE(set_knob("gone", 0));
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	ASSERT_EQ(0, enable_memory(self->fd));
}

FIXTURE_TEARDOWN(standin)
{
	vfio_close(&self->v);
	set_knob("gone", 0);
	set_knob("ready_ms", 0);
	set_knob("ready", 1);
}

/* Both registers, with the read() that a VMM traps to. */
static bool readiness_is(const FIXTURE_DATA(standin) * self, uint32_t want)
{
	uint32_t link = ~want, training = ~want;

	return pread(self->fd, &link, 4, C2C_LINK) == 4 && link == want &&
	       pread(self->fd, &training, 4, HBM_TRAINING) == 4 && training == want;
}

TEST_F(standin, ids)
{
	uint32_t class;
	uint16_t vendor;

	ASSERT_EQ(2, pread(self->fd, &vendor, 2, CONFIG + PCI_VENDOR_ID));
	ASSERT_EQ(4, pread(self->fd, &class, 4, CONFIG + PCI_CLASS_REVISION));
	EXPECT_EQ(0x10de, vendor);
	EXPECT_EQ(0x0302, class >> 16);
}

TEST_F(standin, bar0)
{
	struct vfio_region_info info = { .argsz = sizeof(info) };
	uint32_t ones[2] = { ~0U, ~0U }, bar[2];

	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	EXPECT_EQ(MIB(16), info.size);
	EXPECT_TRUE(info.flags & VFIO_REGION_INFO_FLAG_MMAP);
	ASSERT_EQ(8, pwrite(self->fd, ones, 8, CONFIG + PCI_BASE_ADDRESS_0));
	ASSERT_EQ(8, pread(self->fd, bar, 8, CONFIG + PCI_BASE_ADDRESS_0));
	EXPECT_EQ(0xff000004, bar[0]);
	EXPECT_EQ(~0U, bar[1]);
}

/* Walk them as a guest's kernel does. */
TEST_F(standin, capabilities)
{
	unsigned int exp = config_find_cap(self->fd, PCI_CAP_ID_EXP), pos;
	uint32_t devcap, header, dvsec[2];
	bool has_dvsec = false, has_aer = false;

	ASSERT_NE(0, exp);
	ASSERT_NE(0, config_find_cap(self->fd, PCI_CAP_ID_PM));
	ASSERT_NE(0, config_find_cap(self->fd, PCI_CAP_ID_MSI));
	ASSERT_EQ(4, pread(self->fd, &devcap, 4, CONFIG + exp + PCI_EXP_DEVCAP));
	EXPECT_TRUE(devcap & PCI_EXP_DEVCAP_FLR);

	for (pos = 0x100; pos; pos = PCI_EXT_CAP_NEXT(header)) {
		ASSERT_EQ(4, pread(self->fd, &header, 4, CONFIG + pos));
		has_aer |= PCI_EXT_CAP_ID(header) == PCI_EXT_CAP_ID_ERR;
		if (PCI_EXT_CAP_ID(header) != PCI_EXT_CAP_ID_DVSEC)
			continue;
		has_dvsec = true;
		ASSERT_EQ(8, pread(self->fd, dvsec, 8, CONFIG + pos + PCI_DVSEC_HEADER1));
		EXPECT_EQ(0x10de, dvsec[0] & 0xffff);
		EXPECT_EQ(3, dvsec[1] & 0xffff);
		EXPECT_EQ(self->dvsec, dvsec[1] >> 16);
	}
	EXPECT_TRUE(has_aer);
	EXPECT_EQ(self->dvsec >= 0, has_dvsec);
}

/* The stand-in sees each kind of reset, which leaves it not ready. */
TEST_F(standin, resets)
{
	long flr = knob("resets_flr"), bus = knob("resets_bus");

	ASSERT_TRUE(readiness_is(self, 0xff));
	ASSERT_TRUE(set_knob("ready_ms", -1));

	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
	EXPECT_EQ(++flr, knob("resets_flr"));
	EXPECT_TRUE(readiness_is(self, 0));
	EXPECT_EQ(0, knob("ready"));

	ASSERT_TRUE(set_knob("ready", 1));
	EXPECT_TRUE(readiness_is(self, 0xff));
	ASSERT_EQ(0, guest_flr(self->fd));
	EXPECT_EQ(++flr, knob("resets_flr"));
	EXPECT_TRUE(readiness_is(self, 0));

	ASSERT_TRUE(set_knob("ready", 1));
	if (self->bus_reset) {
		ASSERT_EQ(0, hot_reset(&self->v));
		EXPECT_EQ(++bus, knob("resets_bus"));
		EXPECT_TRUE(readiness_is(self, 0));
	} else {
		EXPECT_EQ(-1, hot_reset(&self->v));
		EXPECT_EQ(ENODEV, errno);
		EXPECT_TRUE(readiness_is(self, 0xff));
	}

	/* The core resets it on close, and on the next open. */
	ASSERT_TRUE(set_knob("ready", 1));
	vfio_close(&self->v);
	EXPECT_LT(flr, knob("resets_flr"));
	EXPECT_EQ(0, knob("ready"));
	flr = knob("resets_flr");
	reopen_device(_metadata, &self->v, &self->fd);
	ASSERT_EQ(0, enable_memory(self->fd));
	EXPECT_EQ(flr + 1, knob("resets_flr"));
	EXPECT_EQ(bus, knob("resets_bus"));
	EXPECT_TRUE(readiness_is(self, 0));
}

TEST_F(standin, ready_after_a_while)
{
	volatile uint32_t *page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->fd,
				       C2C_LINK & -PAGE);
	long start, ms;

	ASSERT_NE(MAP_FAILED, (void *)page);
	ASSERT_TRUE(set_knob("ready_ms", 1500));
	start = now_ms();
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
	wait_until(page[C2C_LINK % PAGE / 4] == 0xff, 20000);
	ms = now_ms() - start;
	EXPECT_LE(1500, ms);
	EXPECT_GT(10000, ms);
	EXPECT_TRUE(readiness_is(self, 0xff));
}

TEST_F(standin, each_register)
{
	uint32_t value;

	ASSERT_TRUE(set_knob("c2c_link", 0x3f));
	ASSERT_EQ(4, pread(self->fd, &value, 4, C2C_LINK));
	EXPECT_EQ(0x3f, value);
	ASSERT_EQ(4, pread(self->fd, &value, 4, HBM_TRAINING));
	EXPECT_EQ(0xff, value);
	EXPECT_EQ(0, knob("ready"));
	ASSERT_TRUE(set_knob("hbm_training", 0x7f));
	ASSERT_EQ(4, pread(self->fd, &value, 4, HBM_TRAINING));
	EXPECT_EQ(0x7f, value);
	ASSERT_TRUE(set_knob("ready", 1));
	EXPECT_TRUE(readiness_is(self, 0xff));
}

/* In D3hot it has config space, and no memory. */
TEST_F(standin, d3hot)
{
	unsigned int pm = config_find_cap(self->fd, PCI_CAP_ID_PM);
	volatile uint32_t *link = map_physical(0, C2C_LINK);
	uint32_t id = sysfs_config(PCI_VENDOR_ID);

	ASSERT_PHYSICAL(link);
	EXPECT_EQ(0xff, *link);
	EXPECT_EQ(0, knob("power_state"));
	ASSERT_EQ(0, config_modify(self->fd, pm + PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK, 3));
	EXPECT_EQ(3, knob("power_state"));
	EXPECT_EQ(~0U, *link);
	EXPECT_EQ(id, sysfs_config(PCI_VENDOR_ID));
	EXPECT_EQ(0x10de, id & 0xffff);
	ASSERT_EQ(0, config_modify(self->fd, pm + PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK, 0));
	EXPECT_EQ(0, knob("power_state"));
	EXPECT_EQ(0xff, *link);
}

TEST_F(standin, runtime_suspend)
{
	ASSERT_EQ(0, allow_low_power(self->fd, true));
	/* The kernel suspends it some time later. */
	EXPECT_TRUE(wait_until(knob("power_state") == 3, 20000));
	ASSERT_EQ(0, allow_low_power(self->fd, false));
	EXPECT_EQ(0, knob("power_state"));
	EXPECT_TRUE(readiness_is(self, 0xff));
}

TEST_F(standin, memory_enable)
{
	volatile uint32_t *link = map_physical(0, C2C_LINK);

	ASSERT_PHYSICAL(link);
	EXPECT_EQ(0xff, *link);
	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, PCI_COMMAND_MEMORY, 0));
	EXPECT_EQ(~0U, *link);
	ASSERT_TRUE(set_knob("c2c_link", 0x3f));
	ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY));
	EXPECT_EQ(0x3f, *link);
}

TEST_F(standin, gone)
{
	volatile uint32_t *link = map_physical(0, C2C_LINK);
	volatile uint32_t *bar2 = map_physical(2, 0);
	uint32_t id = sysfs_config(PCI_VENDOR_ID);

	ASSERT_PHYSICAL(link);
	ASSERT_PHYSICAL(bar2);
	*bar2 = 0x12345678;
	ASSERT_TRUE(set_knob("gone", 1));
	EXPECT_EQ(~0U, sysfs_config(PCI_VENDOR_ID));
	EXPECT_EQ(~0U, sysfs_config(0x100));
	EXPECT_EQ(~0U, *link);
	EXPECT_EQ(~0U, *bar2);
	*bar2 = 0;
	ASSERT_TRUE(set_knob("gone", 0));
	EXPECT_EQ(id, sysfs_config(PCI_VENDOR_ID));
	EXPECT_EQ(0xff, *link);
	EXPECT_EQ(0x12345678, *bar2);
}

/* The physical BAR2 is memory, and shown if usemem and resmem leave it free. */
TEST_F(standin, bar2)
{
	const uint64_t bar2 = VFIO_OFFSET(2), bar4 = VFIO_OFFSET(4);
	struct vfio_region_info info = { .argsz = sizeof(info), .index = 2 };
	uint32_t ones[2] = { ~0U, ~0U };
	volatile uint64_t *p;
	const uint64_t backed = self->v.regions[USEMEM].backed - 8;
	uint64_t value, off, size;

	physical_bar(2, &size);
	ASSERT_LE(GIB(1), size);
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	if (self->dvsec != 1) {
		/* The driver's region hides it. */
		EXPECT_TRUE(info.flags & VFIO_REGION_INFO_FLAG_CAPS);
		return;
	}

	EXPECT_EQ(size, info.size);
	EXPECT_EQ(VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
		  VFIO_REGION_INFO_FLAG_MMAP, info.flags);
	ASSERT_EQ(8, pwrite(self->fd, ones, 8, CONFIG + PCI_BASE_ADDRESS_2));
	ASSERT_EQ(8, pread(self->fd, &value, 8, CONFIG + PCI_BASE_ADDRESS_2));
	EXPECT_EQ(~(size - 1) | 0xc, value);

	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, bar2);
	ASSERT_NE(MAP_FAILED, (void *)p);
	/* Write usemem next to it, as far as it goes: they must not be one memory. */
	for_each_stride(off, size, MIB(4) + 8) {
		p[off / 8] = pattern(2, off);
		value = pattern(4, off);
		if (off < backed)
			ASSERT_EQ(8, pwrite(self->fd, &value, 8, bar4 + off));
	}
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
	for_each_stride(off, size, MIB(4) + 8) {
		ASSERT_EQ(8, pread(self->fd, &value, 8, bar2 + off));
		ASSERT_EQ(pattern(2, off), value);
		ASSERT_EQ(value, p[off / 8]);
		if (off >= backed)
			continue;
		ASSERT_EQ(8, pread(self->fd, &value, 8, bar4 + off));
		ASSERT_EQ(pattern(4, off), value);
	}
	munmap((void *)p, size);
}

/* usemem, then resmem or the physical BAR2, at the BARs that the job names. */
TEST_F(standin, layout)
{
	int r;

	for (r = 0; r < NR_REGIONS; r++) {
		struct vfio_region_info info = {
			.argsz = sizeof(info),
			.index = self->v.regions[r].bar,
		};

		ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
		EXPECT_EQ(self->v.regions[r].size, info.size);
	}
}

/*
 * The physical BARs under the emulated ones, of whatever size: they have their place
 * in the host's address space, and neither shows nor is reached through VFIO.
 */
TEST_F(standin, physical_bars_underneath)
{
	const struct region *usemem = &self->v.regions[USEMEM];
	const char *s = getenv("PHYSICAL");
	uint64_t want[2], size;
	uint32_t value, *there;
	unsigned int i;

	if (!s)
		SKIP(return, "PHYSICAL is not set");
	if (sscanf(s, "%li:%li", (long *)&want[0], (long *)&want[1]) != 2)
		ASSERT_TRUE(false) TH_LOG("PHYSICAL='%s' is not SIZE:SIZE", s);
	for (i = 0; i < 2; i++) {
		ASSERT_NE(0, physical_bar(2 + 2 * i, &size)) TH_LOG("BAR%u", 2 + 2 * i);
		EXPECT_EQ(want[i], size) TH_LOG("BAR%u", 2 + 2 * i);
	}

	there = (uint32_t *)map_physical(usemem->bar, 0);
	ASSERT_PHYSICAL(there);
	*(volatile uint32_t *)there = 0x600dbabe;
	value = 0x5ca1ab1e;
	ASSERT_EQ(4, pwrite(self->fd, &value, 4, usemem->off));
	EXPECT_EQ(0x600dbabe, *(volatile uint32_t *)there);
	ASSERT_EQ(4, pread(self->fd, &value, 4, usemem->off));
	EXPECT_EQ(0x5ca1ab1e, value);
}

TEST_PROGRAM_MAIN(program)
