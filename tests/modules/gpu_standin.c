// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test-only, for the emulated host: makes a GPU of plain QEMU functions
 *
 * QEMU has no GPU like it, so two functions share a slot behind a root port, of
 * any host bridge, or behind the port of a switch.
 * Function 0 is a bochs-display: PCI Express with extended config space, a bus
 * reset that is real, and a BAR0 that is 16 MiB of plain RAM. No function of
 * QEMU's has two BARs of RAM, so function 1 adds a second: an ivshmem-plain,
 * whose BAR2 is 64-bit, prefetchable, and as large as one likes. If there is a
 * function 2, another ivshmem-plain, its BAR2 is the GPU's BAR4.
 *
 * This module puts itself between the kernel and their config space, with
 * pci_bus_set_ops() as the kernel's AER injector does, and has the bus scanned
 * again. The kernel then finds one function: a GPU's ids and class, power
 * management, MSI, FLR, AER and NVIDIA's DVSEC come from an image kept here, BAR2
 * from function 1, all else from function 0. All decode memory exactly while the
 * GPU would, which is in D0, out of reset, on the bus and with memory enabled; when
 * not, QEMU answers with all ones. It has an INTx pin and MSI, which a kernel can
 * set up, and never interrupts. It has no MSI-X, whose table would be in BAR0.
 *
 * This module cannot see accesses to BAR0. Its two readiness registers are memory
 * that this module writes: not ready on each reset, ready again when a timer ends.
 * A driver, a VFIO user or a guest reads them as on a GPU. A stand-in with ranges of
 * CXL has a CXL Device DVSEC instead, which says when they are active, and the
 * registers in BAR0 never read ready then.
 *
 * debugfs, gpu_standin/ADDRESS/, all of it decimal but where 0x stands:
 *	ready_ms	how long a reset leaves the GPU not ready; 0 (default) is
 *			not at all, -1 without end
 *	ready		do both registers say ready? Writing 0 or 1 sets both, and
 *			a reset's timer is off
 *	c2c_link	0x..., the register at BAR0 + 0x1498; ready is 0xff
 *	hbm_training	0x..., the register at BAR0 + 0x200bc; ready is 0xff
 *	valid_ms	of CXL's ranges: how long a reset leaves their Memory_Info_Valid
 *			clear; 0 (default), or -1 without end. They are active when the
 *			GPU is ready
 *	cxl_timeout	0 to 7, Memory_Active_Timeout of the ranges; 3 (default) is 64 s
 *	cxl_range2	0x..., bits that the second range does not set, such as 2 for
 *			Memory_Active
 *	gone		1 takes the GPU off the bus: config space and BARs are all
 *			ones, writes are lost; 0 brings it back as it was
 *	power_state	0 for D0, 3 for D3hot, 4 for D3cold; read-only
 *	resets_flr	function level resets so far; can be set
 *	resets_bus	resets by a port above it so far; can be set
 *	resets_rst	resets by ACPI's _RST so far; can be set
 *	rst_ms		how long a reset by _RST takes. Meanwhile config space and BARs read all
 *			ones, and writes are lost
 *	rst_limit_ms	how long _RST polls for its end (10000, as firmware does); then _RST
 *			returns as if the reset had worked
 *	rst_fails	1 ends _RST with an error of ACPI, before it resets anything
 *	slot_power	does the slot have power? 0 is as if gone; read-only
 *	edr		1 triggers DPC at the root port, which takes the GPU off the bus. Firmware
 *			then notifies the kernel (EDR), as on Grace. Reads 1 until the kernel
 *			clears the trigger. EOPNOTSUPP without CONFIG_PCIE_EDR
 *	edr_status	0x..., the status that the kernel passed to _OST; can be set
 *	d3colds		how often ACPI has taken the GPU's power so far
 *	resets_dpc	resets by such errors so far; can be set
 *	aer_correctable		0x..., the AER status registers. What is written
 *	aer_uncorrectable	happens: it is latched there, and the root port
 *			gets the message and interrupts; fatal or not as the
 *			severity register has it. EOPNOTSUPP if the kernel does not
 *			listen (pcie_ports=native makes it)
 *	companion	the path of the ACPI device whose properties the GPU has, in place of
 *			its own; write-only, and an empty line gives it its own back
 *	config		OFFSET VALUE in hex: 32 bits of extended config space, from 0x100 on;
 *			write-only, and an empty line gives back what was there
 *
 * The options rst, d3cold and edr of scripts/rig give a GPU or its port ACPI methods, which work
 * registers in the port's config space: on a Grace host they are in the SoC. The slot's power is
 * the port's register as QEMU has it, but kept from QEMU, which would unplug the functions. QEMU's
 * ports have no DPC capability: this module emulates its registers, and sets dpc_cap in the root
 * port's struct pci_dev, so that the kernel uses them.
 *
 * gpu_standin/ssdt loads the table that is written to it, in one write, as another table of
 * ACPI: its devices can then be companions. Nothing unloads it.
 *
 * The kernel's AER injector does the error registers, too, but takes a spinlock within
 * pci_lock, which lockdep reports on newer kernels. If it is to be used all the
 * same: it replaces config space ops as well, so load it after this module, and
 * don't unload this module then.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/acpi.h>
#include <linux/debugfs.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/timer.h>

#define MAX_GPUS	8

static char *gpus[MAX_GPUS];
static int nr_gpus;
module_param_array(gpus, charp, &nr_gpus, 0444);
MODULE_PARM_DESC(gpus,
		 "ADDRESS/DEVICE/DVSEC/RANGES/ATS,...: PCI address of function 0, device id in hex, the DVSEC's carve-out bit (1: needs none), or -1 for no DVSEC, the ranges in the CXL Device DVSEC, or 0 for no such DVSEC, and 1 for an ATS capability");

/* Readiness: two 32-bit registers in BAR0, and their values. */
#define BAR0_C2C_LINK		0x1498
#define BAR0_HBM_TRAINING	0x200bc
#define BAR0_MAPPED		0x201000
#define READY			0xff
#define NOT_READY		0

/* The capabilities in the image. QEMU puts the Express one at 0x80. */
#define PM_CAP		0x40
#define MSI_CAP		0x50
#define EXP_CAP		0x80
#define AER_CAP		0x100
#define DVSEC_CAP	0x150
#define CXL_CAP		0x160
#define CXL_LENGTH	0x38
#define ATS_CAP		0x1a0
#define IMAGE_END	0x1a8
#define IMAGE_SIZE	PCI_CFG_SPACE_EXP_SIZE

/* In the CXL Device DVSEC; both kinds of CXL's traffic that such a GPU has. */
#define CXL_CAPABILITY		0xa
#define CXL_CACHE_AND_MEM	(BIT(0) | BIT(2))
#define CXL_RANGES		4
#define CXL_SIZE_LOW(range)	(CXL_CAP + 0x1c + 0x10 * (range))
#define CXL_SIZE		0xf0000000
#define CXL_INFO_VALID		BIT(0)
#define CXL_ACTIVE		BIT(1)
#define CXL_TIMEOUT		13

#define FUNCTION(fn)	PCI_DEVFN(0, fn)

/*
 * Registers for ACPI in the port's config space, where QEMU has nothing, 32 bits each. For _OST:
 * edr_status. For _RST: 1 begins a reset, and reads back until its end; rst_limit_ms; rst_fails.
 * For _OFF and _ON: the GPU is in D3cold. scripts/rig has the methods.
 */
#define EDR_STATUS	0xec
#define RST_BUSY	0xf0
#define RST_LIMIT	0xf4
#define RST_FAILS	0xf8
#define POWER_OFF	0xfc

/* The root port's DPC capability, as far as the kernel reads it. */
#define DPC_CAP		0xf00

/**
 * struct image - config space, as far as it is answered from here
 * @owned: bits that are, and not by a function
 * @writable: those of them that a write changes
 * @value: and what they are
 */
struct image {
	u8 owned[IMAGE_SIZE];
	u8 writable[IMAGE_SIZE];
	u8 value[IMAGE_SIZE];
};

struct standin;

/**
 * struct readiness - a readiness register
 * @gpu: whose it is
 * @value: what it reads
 */
struct readiness {
	struct standin *gpu;
	u32 value;
};

/**
 * struct standin - a stand-in for a GPU
 * @port: the port above it
 * @root: the root port, which is @port where there is no switch
 * @root_aer: the root port's AER capability, if it has one
 * @bus: the bus below the port
 * @device: PCI device id
 * @dvsec: the DVSEC's bit 0, or -1 if there is no DVSEC
 * @ranges: of CXL, or 0
 * @ats: it has an ATS capability
 * @image: config space
 * @functions: that it is made of: 2, or 3 if it has a BAR4
 * @bar0: BAR0, mapped
 * @bar0_address: the bus address of that mapping
 * @timer: ends the time in which the GPU is not ready
 * @training: @timer is to make it ready
 * @rst_timer: ends a reset by _RST
 * @in_reset: a port keeps the bus in reset
 * @in_rst: a reset by _RST is going on
 * @in_d3cold: ACPI has taken its power
 * @contained: the root port has contained an error
 * @slot_control: the bits of SLOT_POWER, as the kernel wrote them
 * @gone: off the bus
 * @decodes: BAR0 can be accessed
 * @ready_ms: from the end of a reset until ready; negative: without end
 * @reset_end: of the last reset, in jiffies
 * @valid_ms: from then until CXL's ranges are valid; negative: without end
 * @cxl_timeout: of the ranges
 * @cxl_range2: bits that the second range does not set
 * @c2c_link: a readiness register
 * @hbm_training: the other one
 * @companion: its own in ACPI, while it has another
 * @root_status: error messages that @root has got from here; its AER root status
 * @root_source: who sent them; its AER error source
 * @resets_flr: function level resets seen
 * @resets_bus: bus resets seen
 * @resets_rst: resets by _RST seen
 * @d3colds: how often ACPI has taken its power
 * @resets_dpc: errors that the root port contained
 * @edr_status: what the kernel told firmware of the last one
 * @rst_ms: how long such a reset takes
 * @rst_limit_ms: how long _RST polls for its end
 * @rst_fails: _RST ends with an error
 */
struct standin {
	struct pci_dev *port, *root;
	u16 root_aer;
	struct pci_bus *bus;
	u16 device;
	int dvsec, ranges, ats;
	struct image image;
	int functions;
	void __iomem *bar0;
	u32 bar0_address;
	struct timer_list timer, rst_timer;
	bool training, in_reset, in_rst, in_d3cold, contained, gone, decodes;
	u16 slot_control;
	int ready_ms, valid_ms;
	unsigned long reset_end;
	u32 cxl_timeout, cxl_range2;
	struct readiness c2c_link, hbm_training;
	struct acpi_device *companion;
	u32 root_status, root_source;
	u32 resets_flr, resets_bus, resets_rst, resets_dpc, edr_status, d3colds;
	u32 rst_ms, rst_limit_ms, rst_fails;
};

static struct standin standins[MAX_GPUS];
static struct dentry *debugfs;

/* Guards all that changes in the stand-ins. Innermost, below pci_lock. */
static DEFINE_RAW_SPINLOCK(standin_lock);

static struct pci_ops *real_ops;
static struct pci_ops standin_ops;

static struct standin *below(const struct pci_bus *bus)
{
	int i;

	for (i = 0; i < nr_gpus; i++)
		if (standins[i].bus == bus)
			return &standins[i];
	return NULL;
}

/* No two have a port in common. */
static struct standin *below_port(const struct pci_bus *bus, unsigned int devfn)
{
	struct pci_dev *port;
	int i;

	for (i = 0; i < nr_gpus; i++)
		for (port = standins[i].port; port; port = pci_upstream_bridge(port))
			if (port->bus == bus && port->devfn == devfn)
				return &standins[i];
	return NULL;
}

static bool is_port(const struct standin *gpu, const struct pci_bus *bus)
{
	return gpu && gpu->port->bus == bus;
}

static bool is_root(const struct standin *gpu, const struct pci_bus *bus)
{
	return gpu && gpu->root_aer && gpu->root->bus == bus;
}

/* The image */

static void own(struct image *image, int where, int size, u32 value,
		u32 writable)
{
	for (; size--; where++, value >>= 8, writable >>= 8) {
		image->owned[where] = 0xff;
		image->value[where] = value;
		image->writable[where] = writable;
	}
}

static void own_bits(struct image *image, int where, u8 bits, u8 value)
{
	image->owned[where] = bits;
	image->value[where] = value;
}

static u16 image_word(const struct image *image, int where)
{
	return image->value[where] | image->value[where + 1] << 8;
}

static u32 image_long(const struct image *image, int where)
{
	return image_word(image, where) | (u32)image_word(image, where + 2) << 16;
}

static void fill_extended(struct standin *gpu)
{
	u32 ats = gpu->ats ? ATS_CAP : 0;
	u32 cxl = gpu->ranges ? CXL_CAP : ats;
	struct image *image = &gpu->image;

	/*
	 * All registers that are not set here are 0. The functions underneath would let all be
	 * written.
	 */
	own(image, AER_CAP, IMAGE_END - AER_CAP, 0, 0);
	memset(image->owned + IMAGE_END, 0, IMAGE_SIZE - IMAGE_END);
	memset(image->writable + IMAGE_END, 0, IMAGE_SIZE - IMAGE_END);
	memset(image->value + IMAGE_END, 0, IMAGE_SIZE - IMAGE_END);
	own(image, AER_CAP, 4, PCI_EXT_CAP_ID_ERR | 2 << 16 |
	    (gpu->dvsec < 0 ? cxl : DVSEC_CAP) << 20, 0);
	own(image, AER_CAP + PCI_ERR_UNCOR_MASK, 4, 0, ~0);
	own(image, AER_CAP + PCI_ERR_UNCOR_SEVER, 4, PCI_ERR_UNC_DLP |
	    PCI_ERR_UNC_SURPDN | PCI_ERR_UNC_FCP | PCI_ERR_UNC_RX_OVER |
	    PCI_ERR_UNC_MALF_TLP | PCI_ERR_UNC_INTN, ~0);
	own(image, AER_CAP + PCI_ERR_COR_MASK, 4, PCI_ERR_COR_ADV_NFAT, ~0);

	if (ats)
		own(image, ATS_CAP, 4, PCI_EXT_CAP_ID_ATS | 1 << 16, 0);
	if (gpu->ranges) {
		own(image, CXL_CAP, 4, PCI_EXT_CAP_ID_DVSEC | 1 << 16 | ats << 20, 0);
		own(image, CXL_CAP + PCI_DVSEC_HEADER1, 4, 0x1e98 | 2 << 16 | CXL_LENGTH << 20, 0);
		own(image, CXL_CAP + CXL_CAPABILITY, 2,
		    CXL_CACHE_AND_MEM | gpu->ranges << CXL_RANGES, 0);
	}
	if (gpu->dvsec < 0)
		return;
	own(image, DVSEC_CAP, 4, PCI_EXT_CAP_ID_DVSEC | 1 << 16 | cxl << 20, 0);
	own(image, DVSEC_CAP + PCI_DVSEC_HEADER1, 4,
	    PCI_VENDOR_ID_NVIDIA | 0xc << 20, 0);
	own(image, DVSEC_CAP + PCI_DVSEC_HEADER2, 4, 3 | gpu->dvsec << 16, 0);
}

/* Four vectors, with 64-bit addresses and a mask. */
static void fill_msi(struct image *image)
{
	own(image, MSI_CAP, 2, PCI_CAP_ID_MSI | EXP_CAP << 8, 0);
	own(image, MSI_CAP + PCI_MSI_FLAGS, 2,
	    PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 2 << 1,
	    PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
	own(image, MSI_CAP + PCI_MSI_ADDRESS_LO, 4, 0, ~3);
	own(image, MSI_CAP + PCI_MSI_ADDRESS_HI, 4, 0, ~0);
	own(image, MSI_CAP + PCI_MSI_DATA_64, 4, 0, 0xffff);
	own(image, MSI_CAP + PCI_MSI_MASK_64, 4, 0, 0xf);
	own(image, MSI_CAP + PCI_MSI_PENDING_64, 4, 0, 0);
}

static void fill_image(struct standin *gpu)
{
	struct image *image = &gpu->image;

	own(image, PCI_VENDOR_ID, 2, PCI_VENDOR_ID_NVIDIA, 0);
	own(image, PCI_DEVICE_ID, 2, gpu->device, 0);
	own(image, PCI_COMMAND, 2, 0, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
	    PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	own(image, PCI_CLASS_REVISION, 4, PCI_CLASS_DISPLAY_3D << 16 | 0xa1, 0);
	own(image, PCI_HEADER_TYPE, 1, PCI_HEADER_TYPE_NORMAL, 0);
	own(image, PCI_SUBSYSTEM_VENDOR_ID, 2, PCI_VENDOR_ID_NVIDIA, 0);
	own(image, PCI_CAPABILITY_LIST, 1, PM_CAP, 0);
	own(image, PCI_INTERRUPT_PIN, 1, 1, 0);

	/*
	 * BAR0 is a 64-bit one and not prefetchable, so that it gets an address
	 * which the 32-bit BAR underneath can have.
	 */
	own_bits(image, PCI_BASE_ADDRESS_0, 0xf, PCI_BASE_ADDRESS_MEM_TYPE_64);
	own(image, PCI_BASE_ADDRESS_1, 4, 0, ~0);
	if (gpu->functions == 2) {
		own(image, PCI_BASE_ADDRESS_4, 4, 0, 0);
		own(image, PCI_BASE_ADDRESS_5, 4, 0, 0);
	}

	own(image, PM_CAP, 2, PCI_CAP_ID_PM | MSI_CAP << 8, 0);
	own(image, PM_CAP + PCI_PM_PMC, 2, 3, 0);
	own(image, PM_CAP + PCI_PM_CTRL, 4, PCI_PM_CTRL_NO_SOFT_RESET,
	    PCI_PM_CTRL_STATE_MASK);
	fill_msi(image);

	own_bits(image, EXP_CAP + PCI_EXP_DEVCAP + 3, PCI_EXP_DEVCAP_FLR >> 24,
		 PCI_EXP_DEVCAP_FLR >> 24);
	own(image, EXP_CAP + PCI_EXP_DEVCTL, 2, 0, ~PCI_EXP_DEVCTL_BCR_FLR);

	fill_extended(gpu);
}

static u32 image_read(const struct image *image, int where, int size, u32 value)
{
	int i, shift;

	for (i = 0; i < size && where + i < IMAGE_SIZE; i++) {
		shift = 8 * i;
		value &= ~((u32)image->owned[where + i] << shift);
		value |= (u32)image->value[where + i] << shift;
	}
	return value;
}

static void image_write(struct image *image, int where, int size, u32 value)
{
	for (; size-- && where < IMAGE_SIZE; where++, value >>= 8) {
		image->value[where] &= ~image->writable[where];
		image->value[where] |= value & image->writable[where];
	}
}

/*
 * The functions underneath. bus->ops would be the AER injector's if it is loaded, which does not
 * expect one bus to be used within the ops of another.
 */

static u32 real_read(struct standin *gpu, int fn, int where, int size)
{
	void __iomem *addr = real_ops->map_bus(gpu->bus, FUNCTION(fn), where);

	return size == 1 ? readb(addr) : size == 2 ? readw(addr) : readl(addr);
}

static void real_write(struct standin *gpu, int fn, int where, int size,
		       u32 value)
{
	void __iomem *addr = real_ops->map_bus(gpu->bus, FUNCTION(fn), where);

	if (size == 1)
		writeb(value, addr);
	else if (size == 2)
		writew(value, addr);
	else
		writel(value, addr);
}

/* Function 1 has the GPU's BAR2; BAR4 is BAR2 of function 2, if there is one. */
static int function_of(const struct standin *gpu, int *where)
{
	if (*where >= PCI_BASE_ADDRESS_2 && *where < PCI_BASE_ADDRESS_4)
		return 1;
	if (gpu->functions < 3 || *where < PCI_BASE_ADDRESS_4 ||
	    *where >= PCI_BASE_ADDRESS_5 + 4)
		return 0;
	*where -= PCI_BASE_ADDRESS_4 - PCI_BASE_ADDRESS_2;
	return 2;
}

static bool is_ready(const struct standin *gpu)
{
	return READ_ONCE(gpu->c2c_link.value) == READY &&
	       READ_ONCE(gpu->hbm_training.value) == READY;
}

/* Before config space is read: time makes the ranges of CXL valid. */
static void show_ranges(struct standin *gpu)
{
	u32 value = CXL_SIZE | gpu->cxl_timeout << CXL_TIMEOUT;
	int i;

	if (gpu->valid_ms >= 0 &&
	    time_after_eq(jiffies, gpu->reset_end + msecs_to_jiffies(gpu->valid_ms)))
		value |= CXL_INFO_VALID | (is_ready(gpu) ? CXL_ACTIVE : 0);
	for (i = 0; i < gpu->ranges; i++)
		own(&gpu->image, CXL_SIZE_LOW(i), 4, i ? value & ~gpu->cxl_range2 : value, 0);
}

static void show_readiness(struct standin *gpu)
{
	if (!gpu->decodes || gpu->ranges)
		return;
	writel(gpu->c2c_link.value, gpu->bar0 + BAR0_C2C_LINK);
	writel(gpu->hbm_training.value, gpu->bar0 + BAR0_HBM_TRAINING);
}

/* The slot's power, in the port's slot control: power controller and indicator. */
#define SLOT_POWER	(PCI_EXP_SLTCTL_PCC | PCI_EXP_SLTCTL_PIC)

static bool is_silent(const struct standin *gpu)
{
	return gpu->gone || gpu->in_reset || gpu->in_rst || gpu->in_d3cold || gpu->contained ||
	       (gpu->slot_control & PCI_EXP_SLTCTL_PCC);
}

/* Let all functions decode memory if the GPU does. */
static void apply(struct standin *gpu)
{
	u16 command = image_word(&gpu->image, PCI_COMMAND);
	u16 pmcsr = image_word(&gpu->image, PM_CAP + PCI_PM_CTRL);
	int fn;

	if (is_silent(gpu) || (pmcsr & PCI_PM_CTRL_STATE_MASK))
		command = 0;
	real_write(gpu, 0, PCI_COMMAND, 2, command);
	for (fn = 1; fn < gpu->functions; fn++)
		real_write(gpu, fn, PCI_COMMAND, 2,
			   command & PCI_COMMAND_MEMORY);

	gpu->decodes = gpu->bar0 && (command & PCI_COMMAND_MEMORY) &&
		       (real_read(gpu, 0, PCI_BASE_ADDRESS_0, 4) &
			PCI_BASE_ADDRESS_MEM_MASK) == gpu->bar0_address;
	show_readiness(gpu);
}

/* Readiness */

static void set_ready(struct standin *gpu, u32 value)
{
	gpu->training = false;
	gpu->c2c_link.value = value;
	gpu->hbm_training.value = value;
	show_readiness(gpu);
}

static void trained(struct timer_list *timer)
{
	struct standin *gpu = container_of(timer, struct standin, timer);
	unsigned long flags;

	raw_spin_lock_irqsave(&standin_lock, flags);
	/* Another reset may have set the timer again while this waited. */
	if (gpu->training && !timer_pending(timer))
		set_ready(gpu, READY);
	raw_spin_unlock_irqrestore(&standin_lock, flags);
}

static void start_training(struct standin *gpu)
{
	gpu->reset_end = jiffies;
	set_ready(gpu, gpu->ready_ms ? NOT_READY : READY);
	if (gpu->ready_ms > 0) {
		gpu->training = true;
		mod_timer(&gpu->timer,
			  jiffies + msecs_to_jiffies(gpu->ready_ms) + 1);
	}
}

static void reset(struct standin *gpu)
{
	static const int bars[] = {
		PCI_BASE_ADDRESS_0, PCI_BASE_ADDRESS_1, PCI_BASE_ADDRESS_2,
		PCI_BASE_ADDRESS_3,
	};
	int fn, i;

	set_ready(gpu, NOT_READY);
	fill_image(gpu);
	apply(gpu);
	for (fn = 0; fn < gpu->functions; fn++)
		for (i = 0; i < ARRAY_SIZE(bars); i++)
			real_write(gpu, fn, bars[i], 4, 0);
}

/* The GPU was reset, and answers again. */
static void come_back(struct standin *gpu)
{
	apply(gpu);
	start_training(gpu);
}

static void end_rst(struct standin *gpu)
{
	gpu->in_rst = false;
	come_back(gpu);
}

static void rst_ended(struct timer_list *timer)
{
	struct standin *gpu = container_of(timer, struct standin, rst_timer);
	unsigned long flags;

	raw_spin_lock_irqsave(&standin_lock, flags);
	/* Another reset may have set the timer again while this waited. */
	if (gpu->in_rst && !timer_pending(timer))
		end_rst(gpu);
	raw_spin_unlock_irqrestore(&standin_lock, flags);
}

static void begin_rst(struct standin *gpu)
{
	gpu->in_rst = true;
	gpu->resets_rst++;
	reset(gpu);
	if (gpu->rst_ms)
		mod_timer(&gpu->rst_timer, jiffies + msecs_to_jiffies(gpu->rst_ms) + 1);
	else
		end_rst(gpu);
}

/* Errors */

static bool is_error_status(int where)
{
	return where == AER_CAP + PCI_ERR_COR_STATUS ||
	       where == AER_CAP + PCI_ERR_UNCOR_STATUS;
}

/* An error status register: writing ones clears bits, and new errors set them. */
static void change_status(struct standin *gpu, int where, u32 clear, u32 set)
{
	u32 status = image_long(&gpu->image, where);

	own(&gpu->image, where, 4, (status & ~clear) | set, 0);
}

/* The root port takes the message, and the kernel reads there who sent it. */
static void send_message(struct standin *gpu, int where, u32 errors)
{
	u32 severity = image_long(&gpu->image, AER_CAP + PCI_ERR_UNCOR_SEVER);
	u16 id = PCI_DEVID(gpu->bus->number, FUNCTION(0));

	change_status(gpu, where, 0, errors);
	if (where == AER_CAP + PCI_ERR_COR_STATUS) {
		gpu->root_status |= PCI_ERR_ROOT_COR_RCV;
		gpu->root_source = (gpu->root_source & 0xffff0000) | id;
		return;
	}
	gpu->root_status |= PCI_ERR_ROOT_UNCOR_RCV;
	gpu->root_status |= errors & severity ?
			    PCI_ERR_ROOT_FATAL_RCV | PCI_ERR_ROOT_FIRST_FATAL :
			    PCI_ERR_ROOT_NONFATAL_RCV;
	gpu->root_source = (gpu->root_source & 0xffff) | (u32)id << 16;
}

static int raise_error(struct standin *gpu, int where, u32 errors)
{
	struct pci_dev *root = gpu->root;
	u32 command, status;
	unsigned long flags;

	if (!gpu->root_aer)
		return -EOPNOTSUPP;
	pci_read_config_dword(root, gpu->root_aer + PCI_ERR_ROOT_COMMAND, &command);
	pci_read_config_dword(root, gpu->root_aer + PCI_ERR_ROOT_STATUS, &status);
	if (!(command & PCI_ERR_ROOT_CMD_FATAL_EN))
		return -EOPNOTSUPP;

	raw_spin_lock_irqsave(&standin_lock, flags);
	send_message(gpu, where, errors);
	raw_spin_unlock_irqrestore(&standin_lock, flags);

	/* The top bits say which of the port's vectors that is. */
	return irq_set_irqchip_state(pci_irq_vector(root, status >> 27),
				     IRQCHIP_STATE_PENDING, true);
}

/* The kernel calls these with pci_lock held */

/* While the root port contains an error, the link is down. */
static void read_port(struct standin *gpu, int where, u32 *val)
{
	const int express = pci_pcie_cap(gpu->port);

	if (where == RST_BUSY)
		*val = gpu->in_rst;
	else if (where == RST_LIMIT)
		*val = gpu->rst_limit_ms;
	else if (where == RST_FAILS)
		*val = gpu->rst_fails;
	else if (where == POWER_OFF)
		*val = gpu->in_d3cold;
	else if (where == express + PCI_EXP_SLTCTL)
		*val = (*val & ~SLOT_POWER) | gpu->slot_control;
	else if (!gpu->contained)
		return;
	else if (where == DPC_CAP + PCI_EXP_DPC_STATUS)
		*val = PCI_EXP_DPC_STATUS_TRIGGER | PCI_EXP_DPC_STATUS_TRIGGER_RSN_FE;
	else if (where == DPC_CAP + PCI_EXP_DPC_SOURCE_ID)
		*val = PCI_DEVID(gpu->bus->number, FUNCTION(0));
	else if (where == express + PCI_EXP_LNKSTA)
		*val &= ~PCI_EXP_LNKSTA_DLLLA;
}

static int read_above(struct pci_bus *bus, unsigned int devfn, int where,
		      int size, u32 *val)
{
	int ret = real_ops->read(bus, devfn, where, size, val);
	struct standin *gpu = below_port(bus, devfn);
	unsigned long flags;

	if (!gpu)
		return ret;

	raw_spin_lock_irqsave(&standin_lock, flags);
	if (is_port(gpu, bus))
		read_port(gpu, where, val);
	if (is_root(gpu, bus)) {
		if (where == gpu->root_aer + PCI_ERR_ROOT_STATUS)
			*val |= gpu->root_status;
		else if (where == gpu->root_aer + PCI_ERR_ROOT_ERR_SRC && gpu->root_source)
			*val = gpu->root_source;
	}
	raw_spin_unlock_irqrestore(&standin_lock, flags);
	return ret;
}

static int standin_read(struct pci_bus *bus, unsigned int devfn, int where,
			int size, u32 *val)
{
	struct standin *gpu = below(bus);
	unsigned long flags;
	int at = where, fn;

	if (!gpu)
		return read_above(bus, devfn, where, size, val);

	PCI_SET_ERROR_RESPONSE(val);
	if (devfn != FUNCTION(0))
		return PCIBIOS_DEVICE_NOT_FOUND;

	raw_spin_lock_irqsave(&standin_lock, flags);
	fn = function_of(gpu, &at);
	show_ranges(gpu);
	if (!is_silent(gpu))
		*val = image_read(&gpu->image, where, size,
				  real_read(gpu, fn, at, size));
	raw_spin_unlock_irqrestore(&standin_lock, flags);
	return PCIBIOS_SUCCESSFUL;
}

static void write_gpu(struct standin *gpu, int where, int size, u32 val)
{
	const int devctl = EXP_CAP + PCI_EXP_DEVCTL;
	int at = where, fn = function_of(gpu, &at);

	if (is_silent(gpu))
		return;

	if (where == devctl && (val & PCI_EXP_DEVCTL_BCR_FLR)) {
		gpu->resets_flr++;
		reset(gpu);
		start_training(gpu);
		return;
	}

	if (is_error_status(where))
		change_status(gpu, where, val, 0);
	image_write(&gpu->image, where, size, val);
	if (where != PCI_COMMAND)
		real_write(gpu, fn, at, size, val);
	apply(gpu);
}

static void write_bridge_control(struct standin *gpu, bool in_reset)
{
	if (in_reset && !gpu->in_reset) {
		gpu->in_reset = true;
		gpu->resets_bus++;
		reset(gpu);
	} else if (!in_reset && gpu->in_reset) {
		gpu->in_reset = false;
		start_training(gpu);
	}
}

/* Returns what QEMU is to get: power stays on there. */
static u32 write_slot_control(struct standin *gpu, u32 value)
{
	u16 was = gpu->slot_control;

	gpu->slot_control = value & SLOT_POWER;
	if ((was ^ value) & PCI_EXP_SLTCTL_PCC) {
		reset(gpu);
		start_training(gpu);
	}
	return (value & ~SLOT_POWER) | PCI_EXP_SLTCTL_PWR_IND_ON;
}

static void set_d3cold(struct standin *gpu, bool in_d3cold)
{
	if (gpu->in_d3cold == in_d3cold)
		return;
	gpu->in_d3cold = in_d3cold;
	if (in_d3cold) {
		gpu->d3colds++;
		reset(gpu);
	} else {
		come_back(gpu);
	}
}

static void end_containment(struct standin *gpu)
{
	if (!gpu->contained)
		return;
	gpu->contained = false;
	come_back(gpu);
}

/* Returns what QEMU is to get. */
static u32 write_port(struct standin *gpu, int where, u32 val)
{
	if (where == RST_BUSY && val)
		begin_rst(gpu);
	else if (where == POWER_OFF)
		set_d3cold(gpu, val);
	else if (where == EDR_STATUS)
		gpu->edr_status = val;
	else if (where == DPC_CAP + PCI_EXP_DPC_STATUS && (val & PCI_EXP_DPC_STATUS_TRIGGER))
		end_containment(gpu);
	else if (where == pci_pcie_cap(gpu->port) + PCI_EXP_SLTCTL)
		return write_slot_control(gpu, val);
	return val;
}

static int standin_write(struct pci_bus *bus, unsigned int devfn, int where,
			 int size, u32 val)
{
	int control = PCI_BRIDGE_CONTROL - where, ret = PCIBIOS_SUCCESSFUL;
	struct standin *gpu = below(bus);
	unsigned long flags;

	if (gpu && devfn != FUNCTION(0))
		return PCIBIOS_DEVICE_NOT_FOUND;

	raw_spin_lock_irqsave(&standin_lock, flags);
	if (gpu) {
		write_gpu(gpu, where, size, val);
	} else {
		gpu = below_port(bus, devfn);
		if (gpu && control >= 0 && control < size)
			write_bridge_control(gpu, (val >> 8 * control) &
					     PCI_BRIDGE_CTL_BUS_RESET);
		if (is_root(gpu, bus) &&
		    where == gpu->root_aer + PCI_ERR_ROOT_STATUS)
			gpu->root_status &= ~val;
		if (is_port(gpu, bus))
			val = write_port(gpu, where, val);
		ret = real_ops->write(bus, devfn, where, size, val);
	}
	raw_spin_unlock_irqrestore(&standin_lock, flags);
	return ret;
}

/* debugfs */

static int ready_get(void *data, u64 *val)
{
	*val = is_ready(data);
	return 0;
}

static int ready_set(void *data, u64 val)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&standin_lock, flags);
	set_ready(data, val ? READY : NOT_READY);
	raw_spin_unlock_irqrestore(&standin_lock, flags);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(ready_fops, ready_get, ready_set, "%llu\n");

static int ms_get(void *data, u64 *val)
{
	*val = *(int *)data;
	return 0;
}

static int ms_set(void *data, u64 val)
{
	*(int *)data = val;
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE_SIGNED(ms_fops, ms_get, ms_set, "%lld\n");

static int register_get(void *data, u64 *val)
{
	*val = READ_ONCE(((struct readiness *)data)->value);
	return 0;
}

static int register_set(void *data, u64 val)
{
	struct readiness *reg = data;
	unsigned long flags;

	raw_spin_lock_irqsave(&standin_lock, flags);
	reg->value = val;
	show_readiness(reg->gpu);
	raw_spin_unlock_irqrestore(&standin_lock, flags);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(register_fops, register_get, register_set, "0x%llx\n");

static int gone_get(void *data, u64 *val)
{
	*val = ((struct standin *)data)->gone;
	return 0;
}

static int gone_set(void *data, u64 val)
{
	struct standin *gpu = data;
	unsigned long flags;

	raw_spin_lock_irqsave(&standin_lock, flags);
	gpu->gone = val;
	apply(gpu);
	raw_spin_unlock_irqrestore(&standin_lock, flags);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(gone_fops, gone_get, gone_set, "%llu\n");

static int power_state_get(void *data, u64 *val)
{
	struct standin *gpu = data;

	*val = gpu->in_d3cold ? PCI_D3cold : image_word(&gpu->image, PM_CAP + PCI_PM_CTRL) &
					     PCI_PM_CTRL_STATE_MASK;
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(power_state_fops, power_state_get, NULL, "%llu\n");

static int slot_power_get(void *data, u64 *val)
{
	*val = !(((struct standin *)data)->slot_control & PCI_EXP_SLTCTL_PCC);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(slot_power_fops, slot_power_get, NULL, "%llu\n");

static int edr_get(void *data, u64 *val)
{
	*val = ((struct standin *)data)->contained;
	return 0;
}

#ifdef CONFIG_PCIE_EDR
/* The method that notifies the port; scripts/rig has it. */
#define NOTIFY_METHOD	"EDRN"

static void set_dpc(struct standin *gpu, u16 cap)
{
	acpi_handle port = ACPI_HANDLE(&gpu->root->dev);

	if (gpu->root == gpu->port && port && acpi_has_method(port, NOTIFY_METHOD))
		gpu->root->dpc_cap = cap;
}

static int edr_set(void *data, u64 val)
{
	struct standin *gpu = data;
	unsigned long flags;
	acpi_status status;

	if (val != 1)
		return -EINVAL;
	if (gpu->root->dpc_cap != DPC_CAP)
		return -EOPNOTSUPP;
	raw_spin_lock_irqsave(&standin_lock, flags);
	gpu->contained = true;
	gpu->resets_dpc++;
	reset(gpu);
	raw_spin_unlock_irqrestore(&standin_lock, flags);
	status = acpi_evaluate_object(ACPI_HANDLE(&gpu->root->dev), NOTIFY_METHOD, NULL, NULL);
	return ACPI_FAILURE(status) ? -EIO : 0;
}
#else
static void set_dpc(struct standin *gpu, u16 cap)
{
}

static int edr_set(void *data, u64 val)
{
	return -EOPNOTSUPP;
}
#endif
DEFINE_DEBUGFS_ATTRIBUTE(edr_fops, edr_get, edr_set, "%llu\n");

/* A register of AER's: it reads as it is, and a write raises errors. */
#define DEFINE_AER_STATUS(name, reg)						\
static int name##_get(void *data, u64 *val)					\
{										\
	*val = image_long(&((struct standin *)data)->image, AER_CAP + (reg));	\
	return 0;								\
}										\
static int name##_set(void *data, u64 val)					\
{										\
	return raise_error(data, AER_CAP + (reg), val);				\
}										\
DEFINE_DEBUGFS_ATTRIBUTE(name##_fops, name##_get, name##_set, "0x%llx\n")

DEFINE_AER_STATUS(aer_correctable, PCI_ERR_COR_STATUS);
DEFINE_AER_STATUS(aer_uncorrectable, PCI_ERR_UNCOR_STATUS);

/* The words of a line that is written; returns its length or an error. */
static ssize_t get_line(char *line, size_t size, const char __user *buf, size_t count)
{
	if (count >= size)
		return -EINVAL;
	if (copy_from_user(line, buf, count))
		return -EFAULT;
	line[count] = 0;
	strim(line);
	return count;
}

static ssize_t config_write(struct file *file, const char __user *buf, size_t count, loff_t *ppos)
{
	struct standin *gpu = file->private_data;
	ssize_t ret;
	unsigned long flags;
	u32 where, value;
	char line[32];

	ret = get_line(line, sizeof(line), buf, count);
	if (ret < 0)
		return ret;
	if (*line && (sscanf(line, "%x %x", &where, &value) != 2 ||
		      where < PCI_CFG_SPACE_SIZE || where > IMAGE_SIZE - 4))
		return -EINVAL;

	raw_spin_lock_irqsave(&standin_lock, flags);
	if (*line)
		own(&gpu->image, where, 4, value, 0);
	else
		fill_extended(gpu);
	raw_spin_unlock_irqrestore(&standin_lock, flags);
	return ret;
}

static const struct file_operations config_fops = {
	.open = simple_open,
	.write = config_write,
};

/* The kernel binds and unbinds the GPU to its own companion only. */
static int set_companion(struct standin *gpu, const char *path)
{
	struct acpi_device *companion = NULL;
	struct pci_dev *pdev;
	acpi_handle handle;

	if (*path) {
		if (ACPI_FAILURE(acpi_get_handle(NULL, (char *)path, &handle)))
			return -ENOENT;
		companion = acpi_fetch_acpi_dev(handle);
		if (!companion)
			return -ENODEV;
	}

	pdev = pci_get_slot(gpu->bus, FUNCTION(0));
	if (!pdev)
		return -ENODEV;
	if (!gpu->companion)
		gpu->companion = ACPI_COMPANION(&pdev->dev);
	ACPI_COMPANION_SET(&pdev->dev, companion ?: gpu->companion);
	if (!companion)
		gpu->companion = NULL;
	pci_dev_put(pdev);
	return 0;
}

static ssize_t companion_write(struct file *file, const char __user *buf, size_t count,
			       loff_t *ppos)
{
	char path[32];
	ssize_t ret;
	int err;

	ret = get_line(path, sizeof(path), buf, count);
	if (ret < 0)
		return ret;
	err = set_companion(file->private_data, path);
	return err ?: ret;
}

static const struct file_operations companion_fops = {
	.open = simple_open,
	.write = companion_write,
};

/* From here on the table is ACPI's, which scans it for devices a little later. */
static ssize_t ssdt_write(struct file *file, const char __user *buf, size_t count, loff_t *ppos)
{
	struct acpi_table_header *table;

	if (count < sizeof(*table) || count > SZ_4M)
		return -EINVAL;
	table = vmemdup_user(buf, count);
	if (IS_ERR(table))
		return PTR_ERR(table);
	if (table->length != count || ACPI_FAILURE(acpi_load_table(table, NULL))) {
		kvfree(table);
		return -EINVAL;
	}
	return count;
}

static const struct file_operations ssdt_fops = {
	.open = simple_open,
	.write = ssdt_write,
};

static void add_debugfs(struct standin *gpu, const char *name)
{
	struct dentry *dir = debugfs_create_dir(name, debugfs);

	debugfs_create_file("ready_ms", 0600, dir, &gpu->ready_ms, &ms_fops);
	debugfs_create_file("ready", 0600, dir, gpu, &ready_fops);
	debugfs_create_file("c2c_link", 0600, dir, &gpu->c2c_link,
			    &register_fops);
	debugfs_create_file("hbm_training", 0600, dir, &gpu->hbm_training,
			    &register_fops);
	if (gpu->ranges) {
		debugfs_create_file("valid_ms", 0600, dir, &gpu->valid_ms, &ms_fops);
		debugfs_create_u32("cxl_timeout", 0600, dir, &gpu->cxl_timeout);
		debugfs_create_x32("cxl_range2", 0600, dir, &gpu->cxl_range2);
	}
	debugfs_create_file("gone", 0600, dir, gpu, &gone_fops);
	debugfs_create_file("power_state", 0400, dir, gpu, &power_state_fops);
	debugfs_create_u32("resets_flr", 0600, dir, &gpu->resets_flr);
	debugfs_create_u32("resets_bus", 0600, dir, &gpu->resets_bus);
	debugfs_create_u32("resets_rst", 0600, dir, &gpu->resets_rst);
	debugfs_create_u32("resets_dpc", 0600, dir, &gpu->resets_dpc);
	debugfs_create_u32("d3colds", 0400, dir, &gpu->d3colds);
	debugfs_create_x32("edr_status", 0600, dir, &gpu->edr_status);
	debugfs_create_file("edr", 0600, dir, gpu, &edr_fops);
	debugfs_create_u32("rst_ms", 0600, dir, &gpu->rst_ms);
	debugfs_create_u32("rst_limit_ms", 0600, dir, &gpu->rst_limit_ms);
	debugfs_create_u32("rst_fails", 0600, dir, &gpu->rst_fails);
	debugfs_create_file("slot_power", 0400, dir, gpu, &slot_power_fops);
	debugfs_create_file("aer_correctable", 0600, dir, gpu,
			    &aer_correctable_fops);
	debugfs_create_file("aer_uncorrectable", 0600, dir, gpu,
			    &aer_uncorrectable_fops);
	debugfs_create_file("companion", 0200, dir, gpu, &companion_fops);
	debugfs_create_file("config", 0200, dir, gpu, &config_fops);
}

/* Coming and going */

static void remove_functions(struct pci_bus *bus)
{
	struct pci_dev *pdev, *next;

	list_for_each_entry_safe_reverse(pdev, next, &bus->devices, bus_list)
		pci_stop_and_remove_bus_device(pdev);
}

static void scan(struct standin *gpu)
{
	pci_scan_slot(gpu->bus, FUNCTION(0));
	pci_assign_unassigned_bridge_resources(gpu->port);
	pcie_bus_configure_settings(gpu->bus);
}

static void set_ops_above(const struct standin *gpu, struct pci_ops *ops)
{
	struct pci_dev *port;

	for (port = gpu->port; port; port = pci_upstream_bridge(port))
		pci_bus_set_ops(port->bus, ops);
}

static int take_over(struct standin *gpu)
{
	struct pci_dev *pdev;

	remove_functions(gpu->bus);
	gpu->functions = 2 + (real_read(gpu, 2, PCI_VENDOR_ID, 2) != 0xffff);
	fill_image(gpu);
	if (pci_bus_set_ops(gpu->bus, &standin_ops) != real_ops)
		pr_warn("%s: other config space ops are replaced\n",
			pci_name(gpu->port));
	pci_bus_write_config_word(gpu->bus, FUNCTION(0),
				  EXP_CAP + PCI_EXP_DEVCTL,
				  PCI_EXP_DEVCTL_BCR_FLR);
	gpu->resets_flr = 0;
	scan(gpu);

	pdev = pci_get_slot(gpu->bus, FUNCTION(0));
	if (!pdev)
		return -ENODEV;
	if (pci_resource_len(pdev, 0) >= BAR0_MAPPED &&
	    pci_resource_start(pdev, 0) && pci_resource_len(pdev, 2))
		gpu->bar0 = ioremap(pci_resource_start(pdev, 0), BAR0_MAPPED);
	if (!gpu->bar0) {
		pci_err(pdev, "not made of functions that can stand in\n");
		pci_dev_put(pdev);
		return -ENODEV;
	}
	gpu->bar0_address = pci_bus_address(pdev, 0);
	add_debugfs(gpu, pci_name(pdev));
	pci_dev_put(pdev);
	pci_bus_add_devices(gpu->bus);
	return 0;
}

static void give_back(struct standin *gpu)
{
	if (gpu->companion)
		set_companion(gpu, "");
	remove_functions(gpu->bus);
	pci_bus_write_config_word(gpu->bus, FUNCTION(0),
				  EXP_CAP + PCI_EXP_DEVCTL,
				  PCI_EXP_DEVCTL_BCR_FLR);
	pci_bus_set_ops(gpu->bus, real_ops);
	timer_delete_sync(&gpu->rst_timer);
	timer_delete_sync(&gpu->timer);
	if (gpu->bar0)
		iounmap(gpu->bar0);
	gpu->bar0 = NULL;
	scan(gpu);
	pci_bus_add_devices(gpu->bus);
}

static int __init find(struct standin *gpu, const char *spec)
{
	unsigned int domain, bus, slot, fn;
	struct pci_dev *pdev;

	if (sscanf(spec, "%x:%x:%x.%x/%hx/%d/%d/%d", &domain, &bus, &slot, &fn,
		   &gpu->device, &gpu->dvsec, &gpu->ranges, &gpu->ats) != 8) {
		pr_err("gpus: '%s' is not ADDRESS/DEVICE/DVSEC/RANGES/ATS\n", spec);
		return -EINVAL;
	}

	pdev = pci_get_domain_bus_and_slot(domain, bus, PCI_DEVFN(slot, fn));
	if (pdev && pci_upstream_bridge(pdev) && !pdev->devfn)
		gpu->port = pci_dev_get(pci_upstream_bridge(pdev));
	pci_dev_put(pdev);
	if (!gpu->port || !pcie_find_root_port(gpu->port) ||
	    gpu->port->bus->ops != standins[0].port->bus->ops ||
	    !gpu->port->bus->ops->map_bus) {
		pr_err("gpus: '%s' is not function 0 below a port\n", spec);
		return -ENODEV;
	}

	real_ops = gpu->port->bus->ops;
	gpu->bus = gpu->port->subordinate;
	gpu->root = pcie_find_root_port(gpu->port);
	gpu->root_aer = pci_find_ext_capability(gpu->root, PCI_EXT_CAP_ID_ERR);
	set_dpc(gpu, DPC_CAP);
	gpu->c2c_link.gpu = gpu;
	gpu->hbm_training.gpu = gpu;
	gpu->cxl_timeout = 3;
	gpu->rst_limit_ms = 10000;
	pcie_capability_read_word(gpu->port, PCI_EXP_SLTCTL, &gpu->slot_control);
	gpu->slot_control &= SLOT_POWER;
	timer_setup(&gpu->timer, trained, 0);
	timer_setup(&gpu->rst_timer, rst_ended, 0);
	return 0;
}

static void leave(int taken)
{
	int i;

	debugfs_remove_recursive(debugfs);

	pci_lock_rescan_remove();
	for (i = 0; i < taken; i++)
		give_back(&standins[i]);
	for (i = 0; taken && i < nr_gpus; i++)
		set_ops_above(&standins[i], real_ops);
	pci_unlock_rescan_remove();

	for (i = 0; i < nr_gpus; i++) {
		if (standins[i].root)
			set_dpc(&standins[i], 0);
		pci_dev_put(standins[i].port);
	}
}

static int __init gpu_standin_init(void)
{
	int taken = 0, ret = nr_gpus ? 0 : -EINVAL, i;

	for (i = 0; i < nr_gpus && !ret; i++)
		ret = find(&standins[i], gpus[i]);

	if (!ret) {
		debugfs = debugfs_create_dir(KBUILD_MODNAME, NULL);
		debugfs_create_file("ssdt", 0200, debugfs, NULL, &ssdt_fops);
		standin_ops = *real_ops;
		standin_ops.read = standin_read;
		standin_ops.write = standin_write;

		pci_lock_rescan_remove();
		for (i = 0; i < nr_gpus; i++)
			set_ops_above(&standins[i], &standin_ops);
		while (taken < nr_gpus && !ret)
			ret = take_over(&standins[taken++]);
		pci_unlock_rescan_remove();
	}

	if (ret)
		leave(taken);
	return ret;
}
module_init(gpu_standin_init);

static void __exit gpu_standin_exit(void)
{
	leave(nr_gpus);
}
module_exit(gpu_standin_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test-only: makes a GPU of plain QEMU functions");
