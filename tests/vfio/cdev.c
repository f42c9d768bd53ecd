// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device's own node and an iommufd: bind, attach, detach and close, in every order, and errors
 * of each. iommufd-pci-device-open.c of awilliam/tests opens, binds, maps and attaches once; the
 * errors and the orders are ours. The memory can be used whenever the device is bound.
 */
#include <sys/eventfd.h>

#include "fault.h"
#include "fixture.h"

static const struct program program = {
	.what = "bind, attach, detach and close of the device's own node",
	.vars = {
		VAR_BDF, VAR_REGIONS,
		{ "OTHER_BDF", "PCI address of another GPU, with the same regions",
		  "0002:01:00.0" },
	},
	.args = "-r cdev.bind_errors",
};

#define VALUE	0x600df00d600df00dUL

FIXTURE(cdev)
{
	struct region regions[NR_REGIONS];
	char bdf[32], node[PATH_MAX];
	int iommufd, fd;
};

FIXTURE_SETUP(cdev)
{
	const char *missing = vfio_mode_missing(IOMMUFD);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, expected_regions(self->regions));
	snprintf(self->bdf, sizeof(self->bdf), "%s", getenv("BDF"));
	ASSERT_EQ(0, vfio_node(IOMMUFD, self->node, sizeof(self->node)));
	self->iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->iommufd);
	self->fd = open(self->node, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(cdev)
{
	close(self->fd);
	close(self->iommufd);
}

/* 0 or -errno; the id that the iommufd has for the device goes to ID, if there is one. */
static int bind_to(int fd, int iommufd, uint32_t *id)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind), .iommufd = iommufd };

	if (ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return -errno;
	if (id)
		*id = bind.out_devid;
	return 0;
}

static uint32_t new_ioas(int iommufd)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };

	return ioctl(iommufd, IOMMU_IOAS_ALLOC, &ioas) ? 0 : ioas.out_ioas_id;
}

static int attach(int fd, uint32_t id)
{
	struct vfio_device_attach_iommufd_pt pt = { .argsz = sizeof(pt), .pt_id = id };

	return ioctl(fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &pt) ? -errno : 0;
}

static int detach(int fd)
{
	struct vfio_device_detach_iommufd_pt pt = { .argsz = sizeof(pt) };

	return ioctl(fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &pt) ? -errno : 0;
}

static int destroy(int iommufd, uint32_t id)
{
	struct iommu_destroy d = { .size = sizeof(d), .id = id };

	return ioctl(iommufd, IOMMU_DESTROY, &d) ? -errno : 0;
}

static void *map_usemem(const FIXTURE_DATA(cdev) * self, int fd)
{
	return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, self->regions[USEMEM].off);
}

/* Both regions of a device that is bound can be used, as files and mapped. */
static void expect_usable(struct __test_metadata *_metadata, const FIXTURE_DATA(cdev) * self,
			  int fd)
{
	uint64_t value;
	unsigned int r;

	for (r = 0; r < NR_REGIONS; r++) {
		volatile uint64_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
					    self->regions[r].off);

		ASSERT_NE(MAP_FAILED, (void *)p);
		value = VALUE + r;
		EXPECT_EQ(8, pwrite(fd, &value, 8, self->regions[r].off));
		EXPECT_EQ(VALUE + r, *p);
		*p = value = ~value;
		EXPECT_EQ(8, pread(fd, &value, 8, self->regions[r].off));
		EXPECT_EQ(~(VALUE + r), value);
		munmap((void *)p, PAGE);
	}
}

/* Of a device that is not bound nothing can be used. */
TEST_F(cdev, nothing_before_bind)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct vfio_region_info region = { .argsz = sizeof(region) };
	uint64_t value = 0;

	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_GET_INFO, &info));
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_GET_REGION_INFO, &region));
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_RESET));
	EXPECT_EQ(-EINVAL, attach(self->fd, new_ioas(self->iommufd)));
	EXPECT_EQ(-EINVAL, detach(self->fd));
	EXPECT_ERRNO(EINVAL, pread(self->fd, &value, 8, self->regions[USEMEM].off));
	EXPECT_ERRNO(EINVAL, pwrite(self->fd, &value, 8, self->regions[USEMEM].off));
	EXPECT_ERRNO(EINVAL, pread(self->fd, &value, 4, CONFIG));
	EXPECT_ERRNO(EINVAL, (long)map_usemem(self, self->fd));

	ASSERT_EQ(0, bind_to(self->fd, self->iommufd, NULL));
	EXPECT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_INFO, &info));
	expect_usable(_metadata, self, self->fd);
}

/* A bind that fails leaves the device unbound. */
TEST_F(cdev, bind_errors)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind), .iommufd = self->iommufd };
	int closed = dup(self->iommufd);

	close(closed);
	bind.flags = 1U << 31;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind));
	bind.flags = 0;
	bind.argsz = 4;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind));
	EXPECT_ERRNO(EFAULT, ioctl(self->fd, VFIO_DEVICE_BIND_IOMMUFD, NULL));
	EXPECT_EQ(-EINVAL, bind_to(self->fd, -1, NULL));
	EXPECT_EQ(-EBADF, bind_to(self->fd, closed, NULL));
	EXPECT_EQ(-EBADFD, bind_to(self->fd, eventfd(0, EFD_CLOEXEC), NULL));
	EXPECT_EQ(-EBADFD, bind_to(self->fd, self->fd, NULL));
	EXPECT_ERRNO(EINVAL, (long)map_usemem(self, self->fd));
	ASSERT_EQ(0, bind_to(self->fd, self->iommufd, NULL));
	expect_usable(_metadata, self, self->fd);
}

/* A device is bound once, to one iommufd, by one fd. */
TEST_F(cdev, double_bind)
{
	int iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	int fd = open(self->node, O_RDWR | O_CLOEXEC);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, bind_to(self->fd, self->iommufd, NULL));
	EXPECT_EQ(-EINVAL, bind_to(self->fd, self->iommufd, NULL));
	EXPECT_EQ(-EINVAL, bind_to(self->fd, iommufd, NULL));
	EXPECT_EQ(-EINVAL, bind_to(fd, self->iommufd, NULL));
	EXPECT_EQ(-EINVAL, bind_to(fd, iommufd, NULL));
	EXPECT_ERRNO(EINVAL, (long)map_usemem(self, fd));
	expect_usable(_metadata, self, self->fd);

	/* The fd that failed gets it when the first one is closed. */
	close(self->fd);
	EXPECT_EQ(0, bind_to(fd, iommufd, NULL));
	expect_usable(_metadata, self, fd);
	self->fd = fd;
	close(iommufd);
}

TEST_F(cdev, attach_and_detach)
{
	uint32_t device = 0, a, b;

	ASSERT_EQ(0, bind_to(self->fd, self->iommufd, &device));
	EXPECT_LT(0, device);
	a = new_ioas(self->iommufd);
	b = new_ioas(self->iommufd);
	ASSERT_NE(0, a);
	ASSERT_NE(0, b);

	EXPECT_EQ(-ENOENT, attach(self->fd, b + 1000));
	EXPECT_EQ(-EINVAL, attach(self->fd, device));
	EXPECT_EQ(0, attach(self->fd, a));
	expect_usable(_metadata, self, self->fd);
	EXPECT_EQ(-EBUSY, destroy(self->iommufd, a));
	EXPECT_EQ(-EBUSY, destroy(self->iommufd, device));

	/* Another address space replaces the first one. */
	EXPECT_EQ(0, attach(self->fd, b));
	EXPECT_EQ(0, destroy(self->iommufd, a));
	EXPECT_EQ(-EBUSY, destroy(self->iommufd, b));
	expect_usable(_metadata, self, self->fd);

	/* Without one, the GPU cannot reach the VMM's memory, and the VMM still reaches its. */
	EXPECT_EQ(0, detach(self->fd));
	EXPECT_EQ(0, detach(self->fd));
	expect_usable(_metadata, self, self->fd);
	EXPECT_EQ(0, attach(self->fd, b));
	EXPECT_EQ(0, detach(self->fd));
	EXPECT_EQ(0, destroy(self->iommufd, b));
	EXPECT_EQ(-ENOENT, attach(self->fd, b));
}

/* A reset leaves the attachment as it is. */
TEST_F(cdev, reset_while_attached)
{
	struct vfio v = { .mode = IOMMUFD, .device = self->fd, .container = self->iommufd };
	void *ram = mmap(NULL, MIB(1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_EQ(0, bind_to(self->fd, self->iommufd, NULL));
	v.ioas = new_ioas(self->iommufd);
	ASSERT_EQ(0, attach(self->fd, v.ioas));
	ASSERT_EQ(0, dma_map(&v, ram, MIB(1), MIB(16)));
	ASSERT_EQ(0, enable_memory(self->fd));
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_RESET));
	expect_usable(_metadata, self, self->fd);
	EXPECT_EQ(-EEXIST, dma_map(&v, ram, MIB(1), MIB(16)));
	EXPECT_EQ(-EBUSY, destroy(self->iommufd, v.ioas));
	EXPECT_EQ(0, detach(self->fd));
	EXPECT_EQ(0, destroy(self->iommufd, v.ioas));
}

/*
 * A VMM may close iommufd, device and mapping in any order, with a DMA map or without, detached or
 * not. What is left works, and the next user gets the device once the last one is closed.
 */
enum { CLOSE_IOMMUFD, CLOSE_DEVICE, UNMAP, NR_CLOSES };

static void close_in_order(struct __test_metadata *_metadata, FIXTURE_DATA(cdev) * self,
			   const int *order, bool detached)
{
	struct vfio v = { .mode = IOMMUFD, .container = self->iommufd };
	void *ram = mmap(NULL, MIB(1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool mapped = true, bound = true;
	volatile uint64_t *p;
	int i, fd;

	ASSERT_EQ(0, bind_to(self->fd, self->iommufd, NULL));
	v.ioas = new_ioas(self->iommufd);
	ASSERT_EQ(0, attach(self->fd, v.ioas));
	ASSERT_EQ(0, dma_map(&v, ram, MIB(1), MIB(16)));
	p = map_usemem(self, self->fd);
	ASSERT_NE(MAP_FAILED, (void *)p);
	if (detached)
		ASSERT_EQ(0, detach(self->fd));

	for (i = 0; i < NR_CLOSES; i++) {
		if (order[i] == CLOSE_IOMMUFD)
			close(self->iommufd);
		if (order[i] == CLOSE_DEVICE)
			close(self->fd);
		if (order[i] == UNMAP)
			munmap((void *)p, PAGE);
		mapped = mapped && order[i] != UNMAP;
		bound = bound && order[i] != CLOSE_DEVICE;
		if (mapped) {
			EXPECT_EQ(0, fault_of(*p = VALUE + i).sig);
			EXPECT_EQ(VALUE + i, *p);
		}
		if (bound)
			expect_usable(_metadata, self, self->fd);
	}

	fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, fd);
	self->iommufd = fd;
	self->fd = open(self->node, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->fd);
	munmap(ram, MIB(1));
}

TEST_F(cdev, close_in_every_order)
{
	const int orders[][NR_CLOSES] = {
		{ CLOSE_IOMMUFD, CLOSE_DEVICE, UNMAP }, { CLOSE_IOMMUFD, UNMAP, CLOSE_DEVICE },
		{ CLOSE_DEVICE, CLOSE_IOMMUFD, UNMAP }, { CLOSE_DEVICE, UNMAP, CLOSE_IOMMUFD },
		{ UNMAP, CLOSE_IOMMUFD, CLOSE_DEVICE }, { UNMAP, CLOSE_DEVICE, CLOSE_IOMMUFD },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(orders); i++) {
		TH_LOG("order %u", i);
		close_in_order(_metadata, self, orders[i], false);
		close_in_order(_metadata, self, orders[i], true);
	}
	ASSERT_EQ(0, bind_to(self->fd, self->iommufd, NULL));
	expect_usable(_metadata, self, self->fd);
}

/* One way excludes the other until it is closed; the fd that was refused can be used then. */
TEST_F(cdev, group_and_cdev)
{
	struct vfio v;

	ASSERT_EQ(0, vfio_open(&v, TYPE1));
	EXPECT_EQ(-EBUSY, bind_to(self->fd, self->iommufd, NULL));
	EXPECT_ERRNO(EINVAL, (long)map_usemem(self, self->fd));
	expect_usable(_metadata, self, v.device);

	/* The open group is enough, also without a device. */
	close(v.device);
	EXPECT_EQ(-EBUSY, bind_to(self->fd, self->iommufd, NULL));
	v.device = -1;
	vfio_close(&v);
	EXPECT_EQ(0, bind_to(self->fd, self->iommufd, NULL));
	expect_usable(_metadata, self, self->fd);

	EXPECT_EQ(-EBUSY, vfio_open(&v, TYPE1));
	vfio_close(&v);
	EXPECT_EQ(-EBUSY, vfio_open(&v, IOMMUFD_COMPAT));
	vfio_close(&v);
	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(0, vfio_open(&v, IOMMUFD_COMPAT));
	vfio_close(&v);
}

/* Two GPUs in one iommufd and one address space: each keeps its memory when the other goes. */
TEST_F(cdev, two_in_one_iommufd)
{
	char node[PATH_MAX];
	volatile uint64_t *p, *q;
	uint32_t ioas, ids[2] = {};
	int other;

	setenv("BDF", getenv("OTHER_BDF"), 1);
	ASSERT_EQ(0, vfio_node(IOMMUFD, node, sizeof(node)));
	setenv("BDF", self->bdf, 1);
	other = open(node, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, other);
	ASSERT_EQ(0, bind_to(self->fd, self->iommufd, &ids[0]));
	ASSERT_EQ(0, bind_to(other, self->iommufd, &ids[1]));
	EXPECT_NE(ids[0], ids[1]);
	ioas = new_ioas(self->iommufd);
	ASSERT_EQ(0, attach(self->fd, ioas));
	ASSERT_EQ(0, attach(other, ioas));

	p = map_usemem(self, self->fd);
	q = map_usemem(self, other);
	ASSERT_NE(MAP_FAILED, (void *)p);
	ASSERT_NE(MAP_FAILED, (void *)q);
	*p = VALUE;
	*q = ~VALUE;
	EXPECT_EQ(VALUE, *p);
	EXPECT_EQ(0, detach(self->fd));
	EXPECT_EQ(-EBUSY, destroy(self->iommufd, ioas));
	munmap((void *)q, PAGE);
	close(other);
	EXPECT_EQ(0, destroy(self->iommufd, ioas));
	EXPECT_EQ(VALUE, *p);
	munmap((void *)p, PAGE);
	expect_usable(_metadata, self, self->fd);
}

TEST_PROGRAM_MAIN(program)
