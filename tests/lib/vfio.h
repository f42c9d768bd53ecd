/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The device BDF through VFIO, in each IOMMU mode: open it, map its regions, and use its config
 * space.
 */
#ifndef TESTS_VFIO_H
#define TESTS_VFIO_H

#include <dirent.h>
#include <libgen.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/iommufd.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "base.h"

#define VFIO_OFFSET(index)	((uint64_t)(index) << 40)
#define CONFIG			VFIO_OFFSET(VFIO_PCI_CONFIG_REGION_INDEX)

#ifndef VFIO_DEVICE_FEATURE_DMA_BUF
#define VFIO_DEVICE_FEATURE_DMA_BUF 11
#endif

enum vfio_mode {
	TYPE1,		/* the group, and a container */
	IOMMUFD_COMPAT,	/* the group, and an iommufd as its container */
	IOMMUFD,	/* the device's own node, and an iommufd */
	BEST_MODE,	/* as vfio_best_mode() chooses */
};

enum { USEMEM, RESMEM, NR_REGIONS };

/* The driver has to show this. The job says so, and not the driver. */
struct region {
	unsigned int bar;
	uint64_t backed;
	uint64_t size;
	uint64_t off;	/* where VFIO has it */
};

struct vfio {
	enum vfio_mode mode;
	char bdf[32];
	int container;	/* or the iommufd */
	int group;	/* -1 with IOMMUFD */
	int device;
	uint32_t ioas;	/* with IOMMUFD */
	struct region regions[NR_REGIONS];
};

/* REGIONS is "bar:backed:size bar:backed:size", usemem first; a comma may stand for the space. */
static inline int expected_regions(struct region *regions)
{
	struct region *u = &regions[USEMEM], *r = &regions[RESMEM];
	const char *s = getenv("REGIONS");

	if (!s || sscanf(s, "%u:%li:%li%*[ ,]%u:%li:%li", &u->bar, (long *)&u->backed,
			 (long *)&u->size, &r->bar, (long *)&r->backed,
			 (long *)&r->size) != 6)
		return -EINVAL;
	u->off = VFIO_OFFSET(u->bar);
	r->off = VFIO_OFFSET(r->bar);
	return 0;
}

static inline const char *vfio_mode_name(enum vfio_mode mode)
{
	static const char * const names[] = { "type1", "iommufd_compat", "iommufd" };

	return names[mode];
}

/*
 * NULL if this kernel has the mode, or what it lacks: HAS says so if it is set. A kernel that
 * has VFIO_DEVICE_CDEV makes the directory when the first device is bound, so a device that has
 * no node in it is a failure, and not a reason to skip.
 */
static inline const char *vfio_mode_missing(enum vfio_mode mode)
{
	if (mode == BEST_MODE)
		return NULL;
	if (mode != TYPE1 && !kernel_has("IOMMUFD"))
		return "the kernel has no IOMMUFD";
	if (getenv("HAS"))
		return NULL;
	if (mode == TYPE1 && access("/dev/vfio/vfio", F_OK))
		return "no /dev/vfio/vfio: the kernel has no VFIO_CONTAINER";
	if (mode != TYPE1 && access("/dev/iommu", F_OK))
		return "no /dev/iommu: the kernel has no IOMMUFD";
	if (mode == IOMMUFD && access("/dev/vfio/devices", F_OK))
		return "no /dev/vfio/devices: the kernel has no VFIO_DEVICE_CDEV";
	return NULL;
}

/* The mode for new programs if the kernel has it, else the one that every kernel has. */
static inline enum vfio_mode vfio_best_mode(void)
{
	return !vfio_mode_missing(IOMMUFD) ? IOMMUFD : TYPE1;
}

/* /dev/vfio/GROUP, or /dev/vfio/devices/vfioN */
static inline int vfio_node(enum vfio_mode mode, char *path, size_t len)
{
	char link[PATH_MAX], target[PATH_MAX] = "";
	struct dirent *e;
	DIR *dir;

	if (mode != IOMMUFD) {
		device_path(link, sizeof(link), "iommu_group");
		if (readlink(link, target, sizeof(target) - 1) < 0)
			return -errno;
		snprintf(path, len, "/dev/vfio/%.64s", basename(target));
		return 0;
	}

	dir = opendir(device_path(link, sizeof(link), "vfio-dev"));
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
	const char *container = v->mode == TYPE1 ? "/dev/vfio/vfio" : "/dev/iommu";

	v->container = open(container, O_RDWR | O_CLOEXEC);
	if (v->container < 0)
		return -errno;
	v->group = open(node, O_RDWR | O_CLOEXEC);
	if (v->group < 0 ||
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

	v->container = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (v->container < 0)
		return -errno;
	v->device = open(node, O_RDWR | O_CLOEXEC);
	if (v->device < 0)
		return -errno;

	bind.iommufd = v->container;
	if (ioctl(v->device, VFIO_DEVICE_BIND_IOMMUFD, &bind) ||
	    ioctl(v->container, IOMMU_IOAS_ALLOC, &ioas))
		return -errno;

	v->ioas = ioas.out_ioas_id;
	attach.pt_id = v->ioas;
	return ioctl(v->device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) ? -errno : 0;
}

/* Opens the device BDF, and reads REGIONS if there are any. 0 or -errno. */
static inline int vfio_open(struct vfio *v, enum vfio_mode mode)
{
	char node[PATH_MAX];
	int ret;

	memset(v, 0, sizeof(*v));
	v->mode = mode == BEST_MODE ? vfio_best_mode() : mode;
	v->container = v->group = v->device = -1;
	snprintf(v->bdf, sizeof(v->bdf), "%s", getenv("BDF") ?: "");
	expected_regions(v->regions);
	ret = vfio_node(v->mode, node, sizeof(node));
	if (ret)
		return ret;

	return v->mode == IOMMUFD ? vfio_open_cdev(v, node) : vfio_open_group(v, node);
}

static inline void vfio_close(struct vfio *v)
{
	if (v->device >= 0)
		close(v->device);
	if (v->group >= 0)
		close(v->group);
	if (v->container >= 0)
		close(v->container);
	v->container = v->group = v->device = -1;
}

/* Map LEN bytes at POS of a region, at the address AT or, if that is NULL, anywhere. */
static inline void *map_region(const struct vfio *v, unsigned int region, void *at,
			       uint64_t pos, size_t len)
{
	return mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0),
		    v->device, v->regions[region].off + pos);
}

/*
 * An address range of LEN bytes, SKEW bytes off a block boundary, to map over. Its first two
 * blocks have the same page table above them.
 */
static inline void *reserve(size_t len, size_t skew)
{
	uintptr_t blocks = 2 * BLOCK;
	uintptr_t p = (uintptr_t)mmap(NULL, len + 2 * blocks, PROT_NONE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
				      -1, 0);

	/* MAP_FAILED as it is: aligned, it would be address 0. */
	if (p == (uintptr_t)MAP_FAILED)
		return MAP_FAILED;
	return (void *)(((p + blocks - 1) & ~(blocks - 1)) + skew);
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

static inline int enable_memory(int fd)
{
	return config_modify(fd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY);
}

/* The owner of a group proves that with the group; the owner of a cdev needs no proof. */
static inline int hot_reset(const struct vfio *v)
{
	struct {
		struct vfio_pci_hot_reset hdr;
		int32_t group;
	} reset = {
		.hdr.argsz = sizeof(reset),
		.hdr.count = v->mode == IOMMUFD ? 0 : 1,
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

/* Allow the kernel to suspend the device, or take that back; 0 or -1 and errno. */
static inline int allow_low_power(int fd, bool allow)
{
	struct vfio_device_feature feature = {
		.argsz = sizeof(feature),
		.flags = VFIO_DEVICE_FEATURE_SET |
			 (allow ? VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY :
				  VFIO_DEVICE_FEATURE_LOW_POWER_EXIT),
	};

	return ioctl(fd, VFIO_DEVICE_FEATURE, &feature);
}

/* Keep the host from suspending the device, or let it. */
static inline bool stay_awake(bool awake)
{
	char path[PATH_MAX];

	return !write_file(device_path(path, sizeof(path), "power/control"),
			   awake ? "on" : "auto");
}

/* 0 or -1. V is not used: it makes this a reset as the others are. */
static inline int reset_by_sysfs(const struct vfio *v)
{
	char path[PATH_MAX];

	return write_file(device_path(path, sizeof(path), "reset"), "1") ? -1 : 0;
}

/* For a child, which is killed at the end. */
static inline int reset_for_ever(void *unused)
{
	while (!reset_by_sysfs(NULL))
		;
	return 1;
}

/* The last reference to the powered device is gone when its status is "suspended". */
static inline bool runtime_status_is(const char *status)
{
	char path[PATH_MAX], line[16];

	read_line(device_path(path, sizeof(path), "power/runtime_status"), line, sizeof(line));
	return !strcmp(line, status);
}

static inline bool reset_is(const char *how)
{
	return env_is("RESET", how);
}

/* Map IOVA to SIZE bytes at P, with the call of the mode; 0 or -errno. */
static inline int dma_map(const struct vfio *v, void *p, uint64_t size, uint64_t iova)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)p,
		.iova = iova,
		.size = size,
	};
	struct iommu_ioas_map ioas = {
		.size = sizeof(ioas),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
			 IOMMU_IOAS_MAP_READABLE,
		.ioas_id = v->ioas,
		.user_va = (uintptr_t)p,
		.length = size,
		.iova = iova,
	};

	if (v->mode != IOMMUFD)
		return ioctl(v->container, VFIO_IOMMU_MAP_DMA, &map) ? -errno : 0;
	return ioctl(v->container, IOMMU_IOAS_MAP, &ioas) ? -errno : 0;
}

/*
 * Does VFIO's core have dma-bufs? Its symbols say so where HAS does not, and not the driver under
 * test, which would pass without them.
 */
static inline bool core_has_dma_bufs(void)
{
	bool found = false;
	char line[256];
	FILE *f;

	if (getenv("HAS"))
		return kernel_has("DMABUF");
	f = fopen("/proc/kallsyms", "r");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, " vfio_pci_dma_buf_");
	if (f)
		fclose(f);
	return found;
}

/* Export a part of a BAR as a dma-buf. Returns its fd, or -errno. */
static inline int export_dmabuf(int device, unsigned int bar, uint64_t offset, uint64_t length)
{
	struct {
		struct vfio_device_feature hdr;
		uint32_t region_index;
		uint32_t open_flags;
		uint32_t flags;
		uint32_t nr_ranges;
		uint64_t offset;
		uint64_t length;
	} feature = {
		.hdr.argsz = sizeof(feature),
		.hdr.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		.region_index = bar,
		.open_flags = O_RDWR | O_CLOEXEC,
		.nr_ranges = 1,
		.offset = offset,
		.length = length,
	};
	int fd = ioctl(device, VFIO_DEVICE_FEATURE, &feature);

	return fd < 0 ? -errno : fd;
}

#endif /* TESTS_VFIO_H */
