/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Open a device through VFIO, by group and container or by cdev and iommufd,
 * take the expected regions from the environment, and use config space.
 */
#ifndef TESTS_VFIO_H
#define TESTS_VFIO_H

#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#define CONFIG	((uint64_t)VFIO_PCI_CONFIG_REGION_INDEX << 40)

enum { USEMEM, RESMEM, NR_REGIONS };

/* What the driver has to show, said by the job and not by the driver. */
struct region {
	unsigned int bar;
	uint64_t backed;
	uint64_t size;
};

struct vfio {
	bool use_iommufd;
	char bdf[32];
	int container;	/* or the iommufd */
	int group;	/* -1 with iommufd */
	int device;
};

/* REGIONS is "bar:backed:size bar:backed:size", usemem first. */
static inline int expected_regions(struct region *regions)
{
	const char *s = getenv("REGIONS");

	return s && sscanf(s, "%u:%li:%li %u:%li:%li",
			   &regions[USEMEM].bar, (long *)&regions[USEMEM].backed,
			   (long *)&regions[USEMEM].size, &regions[RESMEM].bar,
			   (long *)&regions[RESMEM].backed,
			   (long *)&regions[RESMEM].size) == 6 ? 0 : -EINVAL;
}

/* /dev/vfio/GROUP, or /dev/vfio/devices/vfioN */
static inline int vfio_node(const struct vfio *v, char *path, size_t len)
{
	char link[PATH_MAX], target[PATH_MAX] = "";
	struct dirent *e;
	DIR *dir;

	snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s/%s", v->bdf,
		 v->use_iommufd ? "vfio-dev" : "iommu_group");
	if (!v->use_iommufd) {
		if (readlink(link, target, sizeof(target) - 1) < 0)
			return -errno;
		snprintf(path, len, "/dev/vfio/%.64s", basename(target));
		return 0;
	}

	dir = opendir(link);
	if (!dir)
		return -errno;
	while ((e = readdir(dir)) && strncmp(e->d_name, "vfio", 4))
		;
	if (e)
		snprintf(path, len, "/dev/vfio/devices/%.64s", e->d_name);
	closedir(dir);
	return e ? 0 : -ENOENT;
}

static inline int vfio_open_group(struct vfio *v, const char *node)
{
	v->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	v->group = open(node, O_RDWR | O_CLOEXEC);
	if (v->container < 0 || v->group < 0 ||
	    ioctl(v->group, VFIO_GROUP_SET_CONTAINER, &v->container) ||
	    ioctl(v->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return -errno;

	v->device = ioctl(v->group, VFIO_GROUP_GET_DEVICE_FD, v->bdf);
	return v->device < 0 ? -errno : 0;
}

static inline int vfio_open_cdev(struct vfio *v, const char *node)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };

	v->group = -1;
	v->container = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	v->device = open(node, O_RDWR | O_CLOEXEC);
	if (v->container < 0 || v->device < 0)
		return -errno;

	bind.iommufd = v->container;
	if (ioctl(v->device, VFIO_DEVICE_BIND_IOMMUFD, &bind) ||
	    ioctl(v->container, IOMMU_IOAS_ALLOC, &ioas))
		return -errno;

	attach.pt_id = ioas.out_ioas_id;
	return ioctl(v->device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) ? -errno : 0;
}

/* Takes the device from BDF in the environment. 0 or -errno. */
static inline int vfio_open(struct vfio *v, bool use_iommufd)
{
	const char *bdf = getenv("BDF");
	char node[PATH_MAX];
	int ret;

	if (!bdf)
		return -EINVAL;

	v->use_iommufd = use_iommufd;
	v->container = v->group = v->device = -1;
	snprintf(v->bdf, sizeof(v->bdf), "%s", bdf);
	ret = vfio_node(v, node, sizeof(node));
	if (ret)
		return ret;

	return use_iommufd ? vfio_open_cdev(v, node) : vfio_open_group(v, node);
}

static inline void vfio_close(struct vfio *v)
{
	close(v->device);
	if (v->group >= 0)
		close(v->group);
	close(v->container);
}

static inline unsigned int config_find_cap(int fd, uint8_t id)
{
	uint8_t cap[2];
	uint8_t pos = 0;

	if (pread(fd, &pos, 1, CONFIG + PCI_CAPABILITY_LIST) != 1)
		return 0;
	while (pos && pread(fd, cap, 2, CONFIG + pos) == 2) {
		if (cap[0] == id)
			return pos;
		pos = cap[1];
	}
	return 0;
}

static inline int config_modify(int fd, unsigned int reg, uint16_t clear,
				uint16_t set)
{
	uint16_t value;

	if (pread(fd, &value, 2, CONFIG + reg) != 2)
		return -1;
	value = (value & ~clear) | set;
	return pwrite(fd, &value, 2, CONFIG + reg) == 2 ? 0 : -1;
}

static inline int hot_reset(const struct vfio *v)
{
	struct {
		struct vfio_pci_hot_reset hdr;
		int32_t group;
	} reset = {
		.hdr.argsz = sizeof(reset),
		.hdr.count = v->use_iommufd ? 0 : 1,
		.group = v->group,
	};

	return ioctl(v->device, VFIO_DEVICE_PCI_HOT_RESET, &reset);
}

static inline int guest_flr(int fd)
{
	unsigned int cap = config_find_cap(fd, PCI_CAP_ID_EXP);

	return cap ? config_modify(fd, cap + PCI_EXP_DEVCTL, 0,
				   PCI_EXP_DEVCTL_BCR_FLR) : -1;
}

#endif /* TESTS_VFIO_H */
