/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VFIO PCI driver for the GPU of NVIDIA Grace Hopper and Grace Blackwell
 *
 * The one internal header. A file calls only files below it:
 *
 *	main.c    reset.c		front door | resets, PCI errors and power
 *	config.c  dmabuf.c		config space | dma-bufs
 *	scrub.c   egm.c			zeroes for the next owner | EGM, the RAM of guests
 *	mem.c				the regions
 *	ready.c   zero.c		may the memory be used now? | threads that write zeroes
 *	status.c  acpi.c    sysfs.c	what the device says | firmware | what is known
 */
/*
 * Lock order, outermost first:
 *
 *	device lock		The PCI core holds it in resets and AER's callbacks. VFIO takes
 *				it within memory_lock, and this driver takes it in open and
 *				close, both by trylock only.
 *	egm_lock		The list of EGM regions. Held over the probe's and remove's part in
 *				it, in open and close of a node, and at the end of a GPU's close.
 *	mmap_lock, VMA lock	mm's; held in faults. Below this line reads and writes of a
 *				region touch the user's memory with page faults off only.
 *	  own_lock		Of an EGM region: its owner's mmap, which waits for zeroes.
 *	  core.memory_lock	vfio_pci_core's. For write: the resets, moves to D3 and
 *				changes of PCI_COMMAND that VFIO initiates. For read: an
 *				access that finds the gate not ready, from its poll of
 *				the registers to its exit.
 *	    gate.ready_lock	Over a revoke, and over a poll of the registers. Resets
 *				that VFIO did not initiate do not take memory_lock;
 *				ready_lock covers those.
 *	      gate.users	SRCU. For read: the gate, from enter to exit, whether or
 *				not memory_lock is held. A revoke waits for the readers.
 *	      i_mmap_rwsem	mm's; taken by zaps, which may follow a revoke with or
 *				without memory_lock held, never within ready_lock. mm
 *				takes the lock of poison.pages within it.
 *	bar_lock		Innermost: a few loads and stores, no user copy.
 */
#ifndef NVGRACE_GPU_H
#define NVGRACE_GPU_H

#include <linux/atomic.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/pm.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/types.h>
#include <linux/vfio_pci_core.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "nvgrace_gpu_compat.h"

#define NVGRACE_GPU_PROP_BASE	"nvidia,gpu-mem-base-pa"
#define NVGRACE_GPU_PROP_SIZE	"nvidia,gpu-mem-size"

#define NVGRACE_GPU_PROP_EGM_BASE	"nvidia,egm-base-pa"
#define NVGRACE_GPU_PROP_EGM_SIZE	"nvidia,egm-size"
#define NVGRACE_GPU_PROP_EGM_PXM	"nvidia,egm-pxm"
#define NVGRACE_GPU_PROP_EGM_RETIRED	"nvidia,egm-retired-pages-data-base"

/* usemem is a multiple of this: an ABI between GPU firmware and guest driver. */
#define NVGRACE_GPU_USEMEM_ALIGN	SZ_512M
/* The least that is carved off the end as resmem where the GPU needs it. */
#define NVGRACE_GPU_RESMEM_MIN		SZ_1G

#define NVGRACE_GPU_MAX_REGIONS	2

/*
 * So much is mapped into the kernel at a time. One block entry can map a GiB (with 4 KiB pages),
 * so the cost does not depend on the size. KASAN though allocates shadow memory for it, page by
 * page: 128 MiB for a GiB.
 */
#define NVGRACE_GPU_WINDOW	((phys_addr_t)(IS_ENABLED(CONFIG_KASAN_VMALLOC) ? SZ_16M : SZ_1G))

/*
 * The C2C link moves 450 GB/s each way, and a socket's own memory about as much. A CPU writes a
 * fraction of that.
 */
#define NVGRACE_GPU_ZEROING_THREADS	16U

/**
 * struct nvgrace_gpu_range - the GPU's coherent memory as firmware names it
 * @base: host physical address of the first byte; page-aligned
 * @size: length in bytes; page-aligned, not 0
 */
struct nvgrace_gpu_range {
	phys_addr_t base;
	size_t size;
};

/**
 * struct nvgrace_gpu_egm_info - what firmware says of a socket's extended GPU memory (EGM)
 * @range: the memory, which is a part of the socket's DRAM
 * @pxm: its proximity domain in ACPI, by which user space knows it
 * @retired: host physical address of the list of retired blocks; 0 if there is none
 */
struct nvgrace_gpu_egm_info {
	struct nvgrace_gpu_range range;
	u32 pxm;
	u64 retired;
};

/**
 * struct nvgrace_gpu_region - a part of the coherent memory, shown as a BAR; or an EGM region
 * @name: "usemem" or "resmem"; for EGM that of the node
 * @index: the BAR, and thus the VFIO region index; the 64-bit BAR also takes
 *	the register of the BAR after it
 * @cacheable: mapped Normal Write-Back if true, else write-combining
 * @base: host physical address of the first byte; page-aligned
 * @backed: bytes of real memory behind the BAR; page-aligned
 * @bar_size: bytes that the BAR reports: @backed rounded up to a power of two
 * @windows: where the kernel has the memory mapped for reads and writes, by block. Each is
 *	added when first needed, by cmpxchg, and stays until close
 * @bar_value: the address bits that the guest wrote to the 64-bit BAR; guarded
 *	by &struct nvgrace_gpu_device.bar_lock. The rest is fixed after probe.
 */
struct nvgrace_gpu_region {
	const char *name;
	unsigned int index;
	bool cacheable;
	phys_addr_t base;
	size_t backed;
	u64 bar_size;
	void **windows;
	u64 bar_value;
};

/**
 * enum nvgrace_gpu_ready_state - the states of the gate
 * @NVGRACE_GPU_TRAINING: not seen ready since the last reset, open, close or D3
 * @NVGRACE_GPU_RECOVERING: the PCI core recovers the device from an error, and may reset it
 * @NVGRACE_GPU_RESETTING: a reset is going on
 * @NVGRACE_GPU_READY: the memory can be used
 */
enum nvgrace_gpu_ready_state {
	NVGRACE_GPU_TRAINING,
	NVGRACE_GPU_RECOVERING,
	NVGRACE_GPU_RESETTING,
	NVGRACE_GPU_READY,
};

/* Registers of readiness: two in BAR0, or one for each range of a CXL device. */
#define NVGRACE_GPU_STATUS_REGS		2

/**
 * struct nvgrace_gpu_status - where the device says whether it is ready, and what it said last
 * @cxl: where in config space the CXL Device DVSEC is; 0 if there is none, and BAR0 says it
 * @nr: entries in @regs that are read; fixed after probe, like @cxl
 * @regs: what the registers read: those of C2C link and HBM training in BAR0, or the low half of
 *	the size of each CXL range
 * @limit_s: how long the device may take to get ready, from the reset on, in seconds
 * @warned: a reserved time-out was logged
 */
struct nvgrace_gpu_status {
	u16 cxl;
	unsigned int nr;
	u32 regs[NVGRACE_GPU_STATUS_REGS];
	unsigned int limit_s;
	bool warned;
};

/**
 * struct nvgrace_gpu_gate - may the memory be used now?
 * @users: an SRCU domain. Whatever accesses or maps the memory is its reader from enter to
 *	exit, which costs a per-CPU counter. A revoke waits for the readers
 * @ready_lock: guards the rest; held over a whole revoke, and over a poll of the registers
 * @ready: the state; a reader of @users that finds READY has entered
 * @entered: true if somebody has entered since the last revoke: the next one waits for @users
 * @held: number of tasks that may be changing the power state; @ready does not become READY
 *	while there is one
 * @since: start of the time to get ready, in jiffies: the last revoke, or a later poll to which
 *	config space did not answer
 * @deadline: when a reset has to end, or after it config space to answer, in jiffies
 * @revokes: how often @ready was revoked; does not change while @users has readers
 * @status: what the registers read last, for sysfs
 * @verdict: of the last poll since @ready was revoked, for sysfs: 0; -EAGAIN if not ready yet,
 *	or not polled; -ETIME if not ready in time; or as nvgrace_gpu_read_status() returns
 */
struct nvgrace_gpu_gate {
	struct srcu_struct users;
	struct mutex ready_lock;	/* guards the rest */
	enum nvgrace_gpu_ready_state ready;
	bool entered;
	unsigned int held;
	unsigned long since;
	unsigned long deadline;
	unsigned long revokes;
	struct nvgrace_gpu_status status;
	int verdict;
};

/* How to enter the gate, see nvgrace_gpu_gate_enter(). */
#define NVGRACE_GPU_GATE_AWAKE		BIT(0)
#define NVGRACE_GPU_GATE_NOWAIT		BIT(1)
#define NVGRACE_GPU_GATE_INTERRUPTIBLE	BIT(2)

/**
 * struct nvgrace_gpu_poison - poisoned pages of the regions
 * @pages: those that mm notified the driver of, by pfn; has its own lock
 * @spaces: the regions as mm's memory failure code knows them, while open
 * @nr_spaces: entries in @spaces that are registered; changed by open and close only,
 *	which VFIO serializes
 */
struct nvgrace_gpu_poison {
	struct xarray pages;
	struct pfn_address_space spaces[NVGRACE_GPU_MAX_REGIONS];
	unsigned int nr_spaces;
};

/**
 * enum nvgrace_gpu_handover - in what condition the latest VFIO user got the device
 * @NVGRACE_GPU_NO_OWNER: nobody has opened it since it was bound, or the latest open failed
 * @NVGRACE_GPU_NOT_RESET: vfio_pci_core could not reset it
 * @NVGRACE_GPU_RESET: vfio_pci_core has reset it
 * @NVGRACE_GPU_ZEROING: reset; an open with scrub=1 is writing zeroes
 * @NVGRACE_GPU_ZEROED: reset, and all of the regions read as zeroes
 */
enum nvgrace_gpu_handover {
	NVGRACE_GPU_NO_OWNER,
	NVGRACE_GPU_NOT_RESET,
	NVGRACE_GPU_RESET,
	NVGRACE_GPU_ZEROING,
	NVGRACE_GPU_ZEROED,
};

/**
 * struct nvgrace_gpu_zeroing_thread - one of the threads that write zeroes
 * @work: runs it
 * @zeroing: what it is a part of
 */
struct nvgrace_gpu_zeroing_thread {
	struct work_struct work;
	struct nvgrace_gpu_zeroing *zeroing;
};

/**
 * struct nvgrace_gpu_zeroing - zeroes for the next owner of some memory
 * @zero_piece: writes zeroes to piece NR, in blocks, and ends between two of them when @error
 *	is set. Returns 0; -ENODATA if there is no such piece; or another error
 * @wq: runs @threads
 * @wait: for @running to become 0
 * @running: threads that have not ended
 * @next: number of the piece that no thread has taken yet
 * @error: first error of a thread, or -EINTR if the threads are to end
 * @result: -EINPROGRESS while threads run; then @error, which is 0 if all is written
 * @threads: the threads
 */
struct nvgrace_gpu_zeroing {
	int (*zero_piece)(struct nvgrace_gpu_zeroing *zeroing, unsigned long nr);
	struct workqueue_struct *wq;
	wait_queue_head_t wait;
	atomic_t running;
	atomic_long_t next;
	int error;
	int result;
	struct nvgrace_gpu_zeroing_thread threads[NVGRACE_GPU_ZEROING_THREADS];
};

struct nvgrace_gpu_egm;

/**
 * struct nvgrace_gpu_device - a bound GPU
 * @core: what vfio_pci_core keeps of the device
 * @regions: the emulated BARs, fixed after probe but for @regions[].bar_value and what
 *	@regions[].windows points to
 * @nr_regions: entries in @regions; 0 where firmware names no memory, and then
 *	the device behaves as it does under vfio-pci
 * @bar_lock: guards @regions[].bar_value
 * @gate: may the memory be used now?
 * @poison: pages that are poisoned
 * @pm_domain: calls the PCI bus's PM operations, and this driver's before them
 * @saved_config: config space to restore if a reset costs it while the device is closed; NULL if
 *	it was never saved. The device lock guards it
 * @was_present: did config space answer before the reset that is going on? The device lock
 *	guards it
 * @is_open: does a VFIO user own config space? Resets read it without a lock
 * @resets: resets of the device since it was bound
 * @handover: enum nvgrace_gpu_handover, for sysfs; changed by open, which VFIO serializes
 * @zeroed: bytes that the last scrub has written, for sysfs
 * @notify: notifies those who poll the files in sysfs
 * @egm: the EGM region that firmware names for the GPU, or NULL
 * @egm_gpu: entry in the region's list of GPUs
 */
struct nvgrace_gpu_device {
	struct vfio_pci_core_device core;
	struct nvgrace_gpu_region regions[NVGRACE_GPU_MAX_REGIONS];
	unsigned int nr_regions;
	spinlock_t bar_lock;	/* guards regions[].bar_value */
	struct nvgrace_gpu_gate gate;
	struct nvgrace_gpu_poison poison;
	struct dev_pm_domain pm_domain;
	struct pci_saved_state *saved_config;
	bool was_present;
	bool is_open;
	atomic_long_t resets;
	enum nvgrace_gpu_handover handover;
	atomic64_t zeroed;
	struct work_struct notify;
	struct nvgrace_gpu_egm *egm;
	struct list_head egm_gpu;
};

static inline struct nvgrace_gpu_device *to_nvdev(struct vfio_pci_core_device *core)
{
	return container_of(core, struct nvgrace_gpu_device, core);
}

/* nvgrace_gpu_acpi.c */
int nvgrace_gpu_acpi_range(struct device *dev, struct nvgrace_gpu_range *range);
int nvgrace_gpu_acpi_egm(struct device *dev, struct nvgrace_gpu_egm_info *info);

/* nvgrace_gpu_zero.c */
int nvgrace_gpu_zeroing_init(struct nvgrace_gpu_zeroing *zeroing);
void nvgrace_gpu_zeroing_destroy(struct nvgrace_gpu_zeroing *zeroing);
void nvgrace_gpu_zeroing_start(struct nvgrace_gpu_zeroing *zeroing, int node);
int nvgrace_gpu_zeroing_wait(struct nvgrace_gpu_zeroing *zeroing, unsigned int state);
void nvgrace_gpu_zeroing_stop(struct nvgrace_gpu_zeroing *zeroing);

/* nvgrace_gpu_status.c */
bool nvgrace_gpu_is_present(struct pci_dev *pdev);
int nvgrace_gpu_needs_carve_out(struct pci_dev *pdev);
void nvgrace_gpu_log_status(struct pci_dev *pdev, const struct nvgrace_gpu_status *status, int err);
int nvgrace_gpu_sleep_before_poll(unsigned int state, unsigned int *ms);
int nvgrace_gpu_wait_at_probe(struct nvgrace_gpu_device *nvdev);
bool nvgrace_gpu_has_bar0(struct pci_dev *pdev);
int nvgrace_gpu_read_status(struct nvgrace_gpu_device *nvdev, struct nvgrace_gpu_status *status);

/* nvgrace_gpu_ready.c */
int nvgrace_gpu_gate_init(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_gate_destroy(struct nvgrace_gpu_device *nvdev);
int nvgrace_gpu_gate_enter(struct nvgrace_gpu_device *nvdev, unsigned int flags);
void nvgrace_gpu_gate_exit(struct nvgrace_gpu_device *nvdev, int entry);
int nvgrace_gpu_gate_wait(struct nvgrace_gpu_device *nvdev, unsigned int flags);
void nvgrace_gpu_gate_revoke(struct nvgrace_gpu_device *nvdev,
			     enum nvgrace_gpu_ready_state state);
void nvgrace_gpu_gate_retrain(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_gate_hold(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_gate_release(struct nvgrace_gpu_device *nvdev);

/* nvgrace_gpu_sysfs.c */
extern const struct attribute_group *nvgrace_gpu_dev_groups[];
void nvgrace_gpu_notify(struct work_struct *work);

/* nvgrace_gpu_mem.c */
int nvgrace_gpu_split(const struct nvgrace_gpu_range *range, bool carve_out,
		      unsigned int usemem_bar,
		      struct nvgrace_gpu_region *regions);
int nvgrace_gpu_check_claim(struct device *dev, const char *property,
			    const struct nvgrace_gpu_region *region,
			    const struct resource *claim, bool is_dram);
int nvgrace_gpu_claim_regions(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_log_regions(const struct nvgrace_gpu_device *nvdev);
struct nvgrace_gpu_region *
nvgrace_gpu_find_region(struct nvgrace_gpu_device *nvdev, unsigned int index);
bool nvgrace_gpu_clip(const struct nvgrace_gpu_region *region, u64 pos,
		      size_t *count, size_t *backed);
bool nvgrace_gpu_block_fits(const struct vm_area_struct *vma, unsigned long addr,
			    unsigned long pfn, unsigned int order);
vm_fault_t nvgrace_gpu_insert(struct xarray *poisoned, struct vm_fault *vmf,
			      unsigned long pfn, unsigned int order);
int nvgrace_gpu_prepare_vma(const struct nvgrace_gpu_region *region, u64 pos,
			    struct vm_area_struct *vma);
int nvgrace_gpu_mmap_check(const struct nvgrace_gpu_region *region, u64 pos,
			   u64 len);
ssize_t nvgrace_gpu_region_rw(struct nvgrace_gpu_device *nvdev,
			      const struct nvgrace_gpu_region *region,
			      char __user *buf, size_t count, loff_t *ppos,
			      bool iswrite);
void *nvgrace_gpu_map_window(phys_addr_t phys, size_t len, bool cacheable);
void *nvgrace_gpu_find_window(const struct nvgrace_gpu_region *region, phys_addr_t phys,
			      size_t *len);
void nvgrace_gpu_unmap_windows(struct nvgrace_gpu_device *nvdev);
int nvgrace_gpu_region_mmap(struct nvgrace_gpu_device *nvdev,
			    const struct nvgrace_gpu_region *region,
			    struct vm_area_struct *vma);
void nvgrace_gpu_zap_regions(struct nvgrace_gpu_device *nvdev);
int nvgrace_gpu_watch_poison(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_unwatch_poison(struct nvgrace_gpu_device *nvdev);
int nvgrace_gpu_region_info(const struct nvgrace_gpu_region *region,
			    struct vfio_region_info *info,
			    struct vfio_info_cap *caps);

/* nvgrace_gpu_config.c */
void nvgrace_gpu_config_reset(struct nvgrace_gpu_device *nvdev);
ssize_t nvgrace_gpu_config_read(struct nvgrace_gpu_device *nvdev,
				char __user *buf, size_t count, loff_t *ppos);
ssize_t nvgrace_gpu_config_write(struct nvgrace_gpu_device *nvdev,
				 const char __user *buf, size_t count,
				 loff_t *ppos);

/* nvgrace_gpu_dmabuf.c */
#ifdef NVGRACE_GPU_HAVE_DMABUF
void nvgrace_gpu_dmabuf_init(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_dmabuf_open(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_dmabuf_close(struct nvgrace_gpu_device *nvdev);
#else
static inline void nvgrace_gpu_dmabuf_init(struct nvgrace_gpu_device *nvdev) {}
static inline void nvgrace_gpu_dmabuf_open(struct nvgrace_gpu_device *nvdev) {}
static inline void nvgrace_gpu_dmabuf_close(struct nvgrace_gpu_device *nvdev) {}
#endif

/* nvgrace_gpu_scrub.c */
int nvgrace_gpu_scrub(struct nvgrace_gpu_device *nvdev);

/* nvgrace_gpu_egm.c */
void nvgrace_gpu_egm_attach(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_egm_detach(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_egm_gpu_closed(struct nvgrace_gpu_device *nvdev);

/* nvgrace_gpu_reset.c */
extern const struct pci_error_handlers nvgrace_gpu_err_handlers;
void nvgrace_gpu_save_config(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_restore_config(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_pm_init(struct nvgrace_gpu_device *nvdev);
void nvgrace_gpu_pm_exit(struct nvgrace_gpu_device *nvdev);

#if IS_ENABLED(CONFIG_KUNIT)
extern const struct pci_device_id nvgrace_gpu_ids[];
ssize_t nvgrace_gpu_core_read(struct nvgrace_gpu_device *nvdev,
			      char __user *buf, size_t count, loff_t *ppos);
ssize_t nvgrace_gpu_core_write(struct nvgrace_gpu_device *nvdev,
			       const char __user *buf, size_t count,
			       loff_t *ppos);
int nvgrace_gpu_judge(struct pci_dev *pdev, struct nvgrace_gpu_status *status);
int nvgrace_gpu_poison_to_pgoff(struct vm_area_struct *vma, unsigned long pfn,
				pgoff_t *pgoff);
#endif

#endif /* NVGRACE_GPU_H */
