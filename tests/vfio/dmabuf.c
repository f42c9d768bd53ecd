// SPDX-License-Identifier: GPL-2.0-only
/*
 * The emulated BARs as dma-bufs, which peer devices and iommufd can map: which parts of a BAR can
 * be one, and that iommufd maps it.
 */
#include "fixture.h"

static const struct program program = {
	.what = "the emulated BARs as dma-bufs",
	.vars = { VAR_BDF, VAR_REGIONS },
};

FIXTURE(dmabuf)
{
	struct vfio v;
	int fd;
};

FIXTURE_SETUP(dmabuf)
{
	if (!core_has_dma_bufs())
		SKIP(return, "the kernel has no DMABUF");
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	ASSERT_EQ(0, enable_memory(self->fd));
}

FIXTURE_TEARDOWN(dmabuf)
{
	vfio_close(&self->v);
}

TEST_F(dmabuf, ranges)
{
	int i;

	for (i = 0; i < NR_REGIONS; i++) {
		unsigned int bar = self->v.regions[i].bar;
		uint64_t backed = self->v.regions[i].backed;
		const struct {
			uint64_t offset, length;
			int error;
		} cases[] = {
			{ 0, PAGE, 0 },
			{ 0, backed, 0 },
			{ backed - PAGE, PAGE, 0 },
			{ MIB(2), MIB(4), 0 },
			{ backed - PAGE, 2 * PAGE, -EINVAL },
			{ backed, PAGE, -EINVAL },
			{ 0, backed + PAGE, -EINVAL },
			{ 0, 0, -EINVAL },
			{ 1, PAGE, -EINVAL },
			{ 0, PAGE - 1, -EINVAL },
			{ -PAGE, 2 * PAGE, -EOVERFLOW },
		};
		unsigned int j;

		for (j = 0; j < ARRAY_SIZE(cases); j++) {
			int fd = export_dmabuf(self->fd, bar, cases[j].offset, cases[j].length);
			int error = fd < 0 ? fd : 0;

			EXPECT_EQ(cases[j].error, error) {
				TH_LOG("BAR%u 0x%lx + 0x%lx", bar, cases[j].offset,
				       cases[j].length);
			}
			if (fd >= 0) {
				EXPECT_EQ(cases[j].length, lseek(fd, 0, SEEK_END));
				close(fd);
			}
		}
	}
}

/* A BAR that the GPU does not have cannot be a dma-buf either. */
TEST_F(dmabuf, other_bars)
{
	int fd = export_dmabuf(self->fd, 0, 0, PAGE);

	EXPECT_LE(0, fd);
	close(fd);
	EXPECT_EQ(-ENODEV, export_dmabuf(self->fd, 1, 0, PAGE));
	EXPECT_EQ(-ENODEV, export_dmabuf(self->fd, 3, 0, PAGE));
	EXPECT_EQ(-ENODEV, export_dmabuf(self->fd, 5, 0, PAGE));
	EXPECT_EQ(-ENODEV, export_dmabuf(self->fd, 6, 0, PAGE));
}

/* VFIO makes it any number of times, and it outlives the device's fd. */
TEST_F(dmabuf, outlives_the_device)
{
	int i, fd;

	for (i = 0; i < 3; i++) {
		fd = export_dmabuf(self->fd, self->v.regions[USEMEM].bar, 0, MIB(2));
		ASSERT_LE(0, fd);
		reopen_device(_metadata, &self->v, &self->fd);
		close(fd);
	}
}

/* Attach the device to an address space of its own; 0 or an error. */
static int attach(const struct vfio *v, uint32_t *ioas_id)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };

	if (ioctl(v->container, IOMMU_IOAS_ALLOC, &ioas))
		return -errno;
	*ioas_id = ioas.out_ioas_id;
	attach.pt_id = ioas.out_ioas_id;
	return ioctl(v->device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) ? -errno : 0;
}

#define IOVA	0x100000000

/* Map 2 MiB of the dma-buf, from 1 MiB on; 0 or an error. */
static int map_file(const struct vfio *v, uint32_t ioas_id, int fd)
{
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
			 IOMMU_IOAS_MAP_READABLE,
		.ioas_id = ioas_id,
		.fd = fd,
		.start = MIB(1),
		.length = MIB(2),
		.iova = IOVA,
	};

	return ioctl(v->container, IOMMU_IOAS_MAP_FILE, &map) ? -errno : 0;
}

/* Unmap it; returns the bytes that were mapped. */
static uint64_t unmap_file(const struct vfio *v, uint32_t ioas_id)
{
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap), .ioas_id = ioas_id, .iova = IOVA, .length = MIB(2),
	};

	return ioctl(v->container, IOMMU_IOAS_UNMAP, &unmap) ? 0 : unmap.length;
}

TEST_F(dmabuf, iommufd_maps)
{
	uint32_t ioas_id;
	int i, fd;

	if (self->v.mode != IOMMUFD)
		SKIP(return, "%s", vfio_mode_missing(IOMMUFD));

	for (i = 0; i < NR_REGIONS; i++) {
		ASSERT_EQ(0, attach(&self->v, &ioas_id));
		fd = export_dmabuf(self->fd, self->v.regions[i].bar, 0, MIB(4));
		ASSERT_LE(0, fd);
		EXPECT_EQ(0, map_file(&self->v, ioas_id, fd));
		close(fd);
		EXPECT_EQ(MIB(2), unmap_file(&self->v, ioas_id));
	}
}

/*
 * The core revokes every dma-buf of the device while memory is off, and iommufd does not
 * map it again by itself. The VMM can: unmap it, and map it.
 */
TEST_F(dmabuf, iommufd_maps_again)
{
	uint32_t ioas_id;
	int i, fd;

	if (self->v.mode != IOMMUFD)
		SKIP(return, "%s", vfio_mode_missing(IOMMUFD));

	ASSERT_EQ(0, attach(&self->v, &ioas_id));
	for (i = 0; i < NR_REGIONS; i++) {
		fd = export_dmabuf(self->fd, self->v.regions[i].bar, 0, MIB(4));
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, map_file(&self->v, ioas_id, fd));

		ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, PCI_COMMAND_MEMORY, 0));
		ASSERT_EQ(0, enable_memory(self->fd));
		EXPECT_EQ(MIB(2), unmap_file(&self->v, ioas_id));
		EXPECT_EQ(0, map_file(&self->v, ioas_id, fd));
		EXPECT_EQ(MIB(2), unmap_file(&self->v, ioas_id));

		/* Nor can it be mapped while memory is off. */
		ASSERT_EQ(0, config_modify(self->fd, PCI_COMMAND, PCI_COMMAND_MEMORY, 0));
		EXPECT_NE(0, map_file(&self->v, ioas_id, fd));
		ASSERT_EQ(0, enable_memory(self->fd));
		EXPECT_EQ(0, map_file(&self->v, ioas_id, fd));
		EXPECT_EQ(MIB(2), unmap_file(&self->v, ioas_id));
		close(fd);
	}
}

TEST_PROGRAM_MAIN(program)
