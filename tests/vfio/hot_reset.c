// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO's hot reset of a GPU, beside another GPU that is open, too: whom the kernel lists, who may
 * reset, and what the mappings of both show afterwards. vfio-pci-hot-reset.c and
 * iommufd-pci-device-open.c of awilliam/tests do the good case, with a group and with a cdev. A GPU
 * of Grace is alone below its root port, so the set that is reset together is one GPU.
 */
#include <sys/eventfd.h>

#include "fault.h"
#include "fixture.h"
#include "knobs.h"
#include "pattern.h"

static const struct program program = {
	.what = "hot reset of a GPU beside another one",
	.vars = {
		VAR_STANDIN, VAR_REGIONS, VAR_RESET,
		{ "OTHER_BDF", "PCI address of another such stand-in, with the same regions",
		  "0002:01:00.0" },
	},
	.args = "-r set.type1.info",
	.standin = true,
};

FIXTURE(set)
{
	struct vfio v, other;
	int fd;
	volatile uint64_t *maps[NR_REGIONS], *other_map;
};

VFIO_MODE_VARIANTS(set);

/* Until the next call, BDF names this GPU. */
static void point_at(const char *bdf)
{
	setenv("BDF", bdf, 1);
}

static long other_knob(const FIXTURE_DATA(set) * self, const char *name)
{
	long value;

	point_at(self->other.bdf);
	value = knob(name);
	point_at(self->v.bdf);
	return value;
}

static uint64_t value_at(unsigned int region, size_t i)
{
	return pattern(200 + region, i);
}

FIXTURE_SETUP(set)
{
	unsigned int r;
	size_t i;

	ASSERT_TRUE(set_knob("ready_ms", 0));
	if (!open_device(_metadata, &self->v, &self->fd, variant->mode))
		return;
	point_at(getenv("OTHER_BDF"));
	ASSERT_EQ(0, vfio_open(&self->other, variant->mode));
	point_at(self->v.bdf);

	ASSERT_EQ(0, enable_memory(self->fd));
	ASSERT_EQ(0, enable_memory(self->other.device));
	for (r = 0; r < NR_REGIONS; r++) {
		self->maps[r] = map_region(&self->v, r, reserve(2 * BLOCK, 0), 0, 2 * BLOCK);
		ASSERT_NE(MAP_FAILED, (void *)self->maps[r]);
		for (i = 0; i < 2 * BLOCK / 8; i += PAGE / 8)
			self->maps[r][i] = value_at(r, i);
	}
	self->other_map = map_region(&self->other, USEMEM, reserve(BLOCK, 0), 0, BLOCK);
	ASSERT_NE(MAP_FAILED, (void *)self->other_map);
	for (i = 0; i < BLOCK / 8; i += PAGE / 8)
		self->other_map[i] = value_at(NR_REGIONS, i);
}

FIXTURE_TEARDOWN(set)
{
	vfio_close(&self->v);
	vfio_close(&self->other);
}

static bool can_reset_bus(void)
{
	return !reset_is("flr");
}

/* With these fds, COUNT of them. */
static int reset_with(const struct vfio *v, uint32_t count, int a, int b)
{
	struct {
		struct vfio_pci_hot_reset hdr;
		int32_t fds[2];
	} reset = {
		.hdr.argsz = sizeof(reset),
		.hdr.count = count,
		.fds = { a, b },
	};

	return ioctl(v->device, VFIO_DEVICE_PCI_HOT_RESET, &reset);
}

static unsigned int iommu_group_of(const struct vfio *v)
{
	char path[PATH_MAX], target[PATH_MAX] = "";

	point_at(v->bdf);
	if (readlink(device_path(path, sizeof(path), "iommu_group"), target,
		     sizeof(target) - 1) < 0)
		return ~0U;
	return atoi(basename(target));
}

/* The kernel lists the GPU, and no other; it says before how much room that takes. */
TEST_F(set, info)
{
	struct {
		struct vfio_pci_hot_reset_info hdr;
		struct vfio_pci_dependent_device devices[4];
	} info = { .hdr.argsz = sizeof(info.hdr) };
	const uint32_t owned = VFIO_PCI_HOT_RESET_FLAG_DEV_ID |
			       VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
	char listed[32];

	if (!can_reset_bus()) {
		EXPECT_ERRNO(ENODEV, ioctl(self->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info));
		return;
	}
	EXPECT_ERRNO(ENOSPC, ioctl(self->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info));
	EXPECT_EQ(1, info.hdr.count);
	info.hdr.argsz = sizeof(info.hdr) - 1;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info));
	EXPECT_ERRNO(EFAULT, ioctl(self->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, NULL));

	memset(&info, 0, sizeof(info));
	info.hdr.argsz = sizeof(info);
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info));
	ASSERT_EQ(1, info.hdr.count);
	snprintf(listed, sizeof(listed), "%04x:%02x:%02x.%x", info.devices[0].segment,
		 info.devices[0].bus, info.devices[0].devfn >> 3, info.devices[0].devfn & 7);
	EXPECT_STREQ(self->v.bdf, listed);
	EXPECT_EQ(variant->mode == IOMMUFD ? owned : 0, info.hdr.flags);
	/* The iommufd's id of the device, which says that it owns it, or the group's number. */
	EXPECT_TRUE(variant->mode == IOMMUFD ?
		    (int)info.devices[0].devid > VFIO_PCI_DEVID_OWNED :
		    info.devices[0].group_id == iommu_group_of(&self->v));
}

static void expect_values(struct __test_metadata *_metadata, const FIXTURE_DATA(set) * self)
{
	unsigned int r;
	size_t i;

	for (r = 0; r < NR_REGIONS; r++)
		for (i = 0; i < 2 * BLOCK / 8; i += PAGE / 8)
			ASSERT_EQ(value_at(r, i), self->maps[r][i]) TH_LOG("region %u", r);
	for (i = 0; i < BLOCK / 8; i += PAGE / 8)
		ASSERT_EQ(value_at(NR_REGIONS, i), self->other_map[i]);
}

/* A caller that does not prove that the GPU is theirs resets nothing, and unmaps nothing. */
TEST_F(set, refused)
{
	long resets = knob("resets_bus"), others = other_knob(self, "resets_bus");
	const int none = can_reset_bus() ? EINVAL : ENODEV;
	struct vfio_pci_hot_reset hdr = { .argsz = sizeof(hdr) };
	long faults = minor_faults();

	if (variant->mode == IOMMUFD) {
		int iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);

		/* The owner of a cdev names no fd, not even the right ones. */
		EXPECT_ERRNO(EINVAL, reset_with(&self->v, 1, self->v.container, -1));
		EXPECT_ERRNO(EINVAL, reset_with(&self->v, 1, self->v.device, -1));
		EXPECT_ERRNO(EINVAL, reset_with(&self->v, 1, iommufd, -1));
		close(iommufd);
	} else {
		EXPECT_ERRNO(EINVAL, reset_with(&self->v, 0, -1, -1));
		EXPECT_ERRNO(none, reset_with(&self->v, 1, self->other.group, -1));
		EXPECT_ERRNO(none, reset_with(&self->v, 2, self->v.group, self->other.group));
		EXPECT_ERRNO(none, reset_with(&self->v, 1, eventfd(0, EFD_CLOEXEC), -1));
		EXPECT_ERRNO(none, reset_with(&self->v, 1, self->v.device, -1));
		EXPECT_ERRNO(can_reset_bus() ? EBADF : ENODEV, reset_with(&self->v, 1, -1, -1));
	}
	hdr.flags = 1;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_PCI_HOT_RESET, &hdr));
	hdr.flags = 0;
	hdr.argsz--;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_PCI_HOT_RESET, &hdr));
	EXPECT_ERRNO(EFAULT, ioctl(self->fd, VFIO_DEVICE_PCI_HOT_RESET, NULL));

	EXPECT_EQ(resets, knob("resets_bus"));
	EXPECT_EQ(others, other_knob(self, "resets_bus"));
	expect_values(_metadata, self);
	/* Some are of the calls themselves. */
	EXPECT_GE(faults + 32, minor_faults());
}

static void expect_hot_reset(struct __test_metadata *_metadata, const struct vfio *v)
{
	errno = 0;
	EXPECT_EQ(can_reset_bus() ? 0 : -1, hot_reset(v));
	EXPECT_EQ(can_reset_bus() ? 0 : ENODEV, errno);
}

/*
 * The mappings of the GPU are zapped and come back with what they showed; those of the other GPU
 * stay. Where the kernel does not reset the bus, all of it stays.
 */
TEST_F(set, with_mappings)
{
	long resets = knob("resets_bus"), others = other_knob(self, "resets_bus");
	uint64_t bar = ~0UL, wants;
	unsigned int r, i;

	for (i = 1; i <= 3; i++) {
		expect_values(_metadata, self);
		for (r = 0; r < NR_REGIONS; r++)
			ASSERT_EQ(8, pwrite(self->fd, &bar, 8, CONFIG + PCI_BASE_ADDRESS_0 +
					    4 * self->v.regions[r].bar));
		expect_hot_reset(_metadata, &self->v);
		EXPECT_EQ(can_reset_bus() ? resets + i : resets, knob("resets_bus"));
		EXPECT_EQ(others, other_knob(self, "resets_bus"));

		/* Two blocks, or none. */
		for (r = 0; r < NR_REGIONS; r++) {
			EXPECT_EQ(can_reset_bus() ? 2 : 0,
				  faults_to_touch((void *)self->maps[r], 2 * BLOCK));
			wants = can_reset_bus() ? 0 : -self->v.regions[r].size;
			ASSERT_EQ(8, pread(self->fd, &bar, 8, CONFIG + PCI_BASE_ADDRESS_0 +
					   4 * self->v.regions[r].bar));
			EXPECT_EQ(wants | PCI_BASE_ADDRESS_MEM_TYPE_64 |
				  PCI_BASE_ADDRESS_MEM_PREFETCH, bar);
		}
		EXPECT_EQ(0, faults_to_touch((void *)self->other_map, BLOCK));
		expect_values(_metadata, self);
		bar = ~0UL;
	}
}

/* The other GPU need not be open. */
TEST_F(set, other_is_closed)
{
	munmap((void *)self->other_map, BLOCK);
	vfio_close(&self->other);
	expect_hot_reset(_metadata, &self->v);
	EXPECT_EQ(value_at(USEMEM, 0), *self->maps[USEMEM]);
	EXPECT_EQ(value_at(RESMEM, 0), *self->maps[RESMEM]);
}

TEST_PROGRAM_MAIN(program)
