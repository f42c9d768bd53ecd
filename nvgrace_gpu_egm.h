/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * ioctl of /dev/egm<pxm>
 */
#ifndef NVGRACE_GPU_EGM_H
#define NVGRACE_GPU_EGM_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct egm_bad_pages_entry - some memory that must not be used
 * @offset: offset in the region, in bytes
 * @size: bytes; the size of a page
 */
struct egm_bad_pages_entry {
	__u64 offset;
	__u64 size;
};

/**
 * struct egm_bad_pages_list - pages that firmware has retired, and pages that were poisoned since
 * @argsz: bytes that the caller has room for, this struct included
 * @count: on return, the number of entries
 * @entries: in the order of their offsets
 *
 * Without room for all entries @argsz is set to the room that they need, and @count to 0.
 */
struct egm_bad_pages_list {
	__u32 argsz;
	__u32 count;
	struct egm_bad_pages_entry entries[];
};

#define EGM_BAD_PAGES_LIST	_IO('E', 100)

#endif /* NVGRACE_GPU_EGM_H */
