// SPDX-License-Identifier: GPL-2.0-only
/*
 * The driver serves a device as vfio-pci does if firmware names no memory for it: the device's own
 * BAR2 (bochs-display's registers, 4 KiB) shows, and no BAR4.
 */
#include <sys/eventfd.h>

#include "fixture.h"

static const struct program program = {
	.what = "the driver serves a device without memory in ACPI as vfio-pci does",
	.vars = { VAR_BDF },
};

#define BAR2		VFIO_OFFSET(VFIO_PCI_BAR2_REGION_INDEX)
#define BAR4		VFIO_OFFSET(VFIO_PCI_BAR4_REGION_INDEX)
#define BAR2_SIZE	4096

FIXTURE(plain)
{
	struct vfio v;
	int fd;
};

VFIO_MODE_VARIANTS(plain);

FIXTURE_SETUP(plain)
{
	uint16_t command = PCI_COMMAND_MEMORY;

	if (!open_device(_metadata, &self->v, &self->fd, variant->mode))
		return;
	ASSERT_EQ(2, pwrite(self->fd, &command, 2, CONFIG + PCI_COMMAND));
}

FIXTURE_TEARDOWN(plain)
{
	vfio_close(&self->v);
}

TEST_F(plain, region_info)
{
	struct vfio_region_info info = { .argsz = sizeof(info) };

	info.index = VFIO_PCI_BAR2_REGION_INDEX;
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	EXPECT_EQ(BAR2_SIZE, info.size);
	EXPECT_EQ(BAR2, info.offset);
	EXPECT_EQ(0, info.flags & VFIO_REGION_INFO_FLAG_CAPS);

	info.index = VFIO_PCI_BAR4_REGION_INDEX;
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	EXPECT_EQ(0, info.size);
	EXPECT_EQ(0, info.flags);
}

TEST_F(plain, bar_registers)
{
	uint32_t ones[4] = { ~0U, ~0U, ~0U, ~0U }, bar[4];

	ASSERT_EQ(16, pwrite(self->fd, ones, 16, CONFIG + PCI_BASE_ADDRESS_2));
	ASSERT_EQ(16, pread(self->fd, bar, 16, CONFIG + PCI_BASE_ADDRESS_2));
	EXPECT_EQ(-BAR2_SIZE, (int)bar[0]);
	EXPECT_EQ(0, bar[1] | bar[2] | bar[3]);
}

TEST_F(plain, access)
{
	struct vfio_device_ioeventfd io = {
		.argsz = sizeof(io),
		.flags = VFIO_DEVICE_IOEVENTFD_32,
		.offset = BAR2,
	};
	struct vfio_region_info info = {
		.argsz = sizeof(info),
		.index = VFIO_PCI_BAR2_REGION_INDEX,
	};
	uint32_t value;
	void *p;

	EXPECT_EQ(4, pread(self->fd, &value, 4, BAR2));
	EXPECT_EQ(-1, pread(self->fd, &value, 4, BAR2 + BAR2_SIZE));
	EXPECT_EQ(-1, pread(self->fd, &value, 4, BAR4));
	/* A BAR of less than a page can be mapped if it has its page for itself. */
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &info));
	if (PAGE <= BAR2_SIZE)
		EXPECT_TRUE(info.flags & VFIO_REGION_INFO_FLAG_MMAP);
	p = mmap(NULL, BAR2_SIZE, PROT_READ, MAP_SHARED, self->fd, BAR2);
	EXPECT_EQ(!!(info.flags & VFIO_REGION_INFO_FLAG_MMAP), p != MAP_FAILED);
	p = mmap(NULL, BAR2_SIZE, PROT_READ, MAP_SHARED, self->fd, BAR4);
	EXPECT_EQ(MAP_FAILED, p);
	io.fd = eventfd(0, EFD_CLOEXEC);
	EXPECT_EQ(0, ioctl(self->fd, VFIO_DEVICE_IOEVENTFD, &io));
}

TEST_PROGRAM_MAIN(program)
