// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the device says: is its memory ready? And does the GPU need a carve-out?
 *
 * After boot and after each reset the GPU trains the C2C link and its memory, which
 * takes seconds. A GPU with a CXL Device DVSEC says there when that is over, and how long
 * it may take: in config space, so neither BAR0 nor PCI_COMMAND matters. On the others
 * two registers in BAR0 say it.
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/bitfield.h>
#include <linux/hrtimer.h>
#include <linux/jiffies.h>
#include <linux/pci.h>
#include <linux/sched/signal.h>

#include "nvgrace_gpu.h"

/* NVIDIA's DVSEC that describes the coherent memory, and the word in it. */
#define DVSEC_ID_MEMORY		3
#define DVSEC_MEMORY_FLAGS	0xA
#define DVSEC_MEMORY_NO_DEFECT	BIT(0)

/* The DVSEC for CXL Devices: its capability, and the low half of the size of each range. */
#define DVSEC_VENDOR_CXL	0x1E98
#define DVSEC_ID_CXL_DEVICE	0
#define CXL_CAPABILITY		0xA
#define CXL_CAPABILITY_RANGES	GENMASK(5, 4)
#define CXL_SIZE_LOW(range)	(0x1C + 0x10 * (range))
#define CXL_INFO_VALID		BIT(0)
#define CXL_ACTIVE		BIT(1)
#define CXL_TIMEOUT		GENMASK(15, 13)

/* The header of a DVSEC with the word after it, which has its id. */
#define DVSEC_MIN_SIZE		0xC

/* An extended capability is a header and something in it: 8 bytes at least. */
#define MAX_EXT_CAPS		((PCI_CFG_SPACE_EXP_SIZE - PCI_CFG_SPACE_SIZE) / 8)

/*
 * Registers in BAR0, 32 bits each, and what both read when the GPU is ready. The link
 * reads 0 before it has started to train; any other value is a failure code.
 */
#define BAR0_C2C_LINK		0x1498
#define BAR0_HBM_TRAINING	0x200BC
#define BAR0_READY		0xFF
#define BAR0_NOT_STARTED	0

/* In seconds: to train, without a DVSEC that says it; and, by CXL, to a valid register. */
#define TRAINING_LIMIT_S	30
#define CXL_INFO_VALID_LIMIT_S	1
/* Between two polls. */
#define POLL_MAX_MS		128

/* describe() writes no more bytes than this. */
#define STATUS_TEXT		96

/**
 * nvgrace_gpu_is_present() - does config space answer?
 * @pdev: the GPU
 *
 * Context: Process context.
 * Return: false if the GPU is off the bus.
 */
bool nvgrace_gpu_is_present(struct pci_dev *pdev)
{
	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_is_present, pdev);

	return pci_device_is_present(pdev);
}

static int unreadable_dvsec(struct pci_dev *pdev, u16 pos)
{
	return dev_err_probe(&pdev->dev, -EIO, "DVSEC at config offset 0x%x: cannot be read\n",
			     pos);
}

/*
 * Find the DVSEC with this vendor and id, which must be long enough to hold SIZE bytes at FIELD.
 * Returns where it is, 0 if there is none; -ELOOP, -EIO or -EINVAL if config space cannot be
 * right, which is logged.
 */
static int find_dvsec(struct pci_dev *pdev, u16 vendor, u16 id, unsigned int field,
		      unsigned int size)
{
	unsigned int left = MAX_EXT_CAPS, len;
	u32 header1, header2;
	u16 pos = 0;

	do {
		pos = pci_find_next_ext_capability(pdev, pos, PCI_EXT_CAP_ID_DVSEC);
		if (!pos && !nvgrace_gpu_is_present(pdev))
			return dev_err_probe(&pdev->dev, -EIO,
					     "extended capabilities: cannot be read\n");
		if (!pos)
			return 0;
		if (!left--)
			return dev_err_probe(&pdev->dev, -ELOOP,
					     "extended capabilities: their list in config space has no end\n");
		if (pos + DVSEC_MIN_SIZE > pdev->cfg_size)
			return dev_err_probe(&pdev->dev, -EINVAL,
					     "DVSEC at config offset 0x%x: ends beyond config space\n",
					     pos);
		pci_read_config_dword(pdev, pos + PCI_DVSEC_HEADER1, &header1);
		pci_read_config_dword(pdev, pos + PCI_DVSEC_HEADER2, &header2);
		if (PCI_POSSIBLE_ERROR(header1) || PCI_POSSIBLE_ERROR(header2))
			return unreadable_dvsec(pdev, pos);
	} while (PCI_DVSEC_HEADER1_VID(header1) != vendor ||
		 PCI_DVSEC_HEADER2_ID(header2) != id);

	len = PCI_DVSEC_HEADER1_LEN(header1);
	if (len < field + size || pos + len > pdev->cfg_size)
		return dev_err_probe(&pdev->dev, -EINVAL,
				     "DVSEC at config offset 0x%x: is 0x%x bytes long, which the register at 0x%x or config space does not fit\n",
				     pos, len, field);
	return pos;
}

/**
 * nvgrace_gpu_needs_carve_out() - must a part of the memory be mapped uncached?
 * @pdev: the GPU
 *
 * Multi-Instance GPU on Grace Hopper has a defect that asks for a piece of
 * uncached memory, resmem. A GPU without the defect says so in a DVSEC; one
 * without the DVSEC is taken to have it.
 *
 * Context: Process context.
 * Return: 0 if the DVSEC says that no carve-out is needed, else 1; an error if it cannot be
 * read or config space cannot be right, which is logged.
 */
int nvgrace_gpu_needs_carve_out(struct pci_dev *pdev)
{
	int dvsec;
	u16 flags;

	dvsec = find_dvsec(pdev, PCI_VENDOR_ID_NVIDIA, DVSEC_ID_MEMORY, DVSEC_MEMORY_FLAGS,
			   sizeof(flags));
	if (dvsec < 0)
		return dvsec;
	if (!dvsec)
		return 1;

	pci_read_config_word(pdev, dvsec + DVSEC_MEMORY_FLAGS, &flags);
	/* A guess would give the guest another layout: fail instead. */
	if (PCI_POSSIBLE_ERROR(flags))
		return unreadable_dvsec(pdev, dvsec);

	return !(flags & DVSEC_MEMORY_NO_DEFECT);
}

/* Choose where the device says whether it is ready. Returns 0, or an error that is logged. */
static int find_status(struct pci_dev *pdev, struct nvgrace_gpu_status *status)
{
	const unsigned int last = NVGRACE_GPU_STATUS_REGS - 1;
	u16 capability;
	int dvsec;

	dvsec = find_dvsec(pdev, DVSEC_VENDOR_CXL, DVSEC_ID_CXL_DEVICE, CXL_SIZE_LOW(last),
			   sizeof(u32));
	if (dvsec < 0)
		return dvsec;
	status->cxl = dvsec;
	status->nr = NVGRACE_GPU_STATUS_REGS;
	if (!dvsec)
		return 0;

	pci_read_config_word(pdev, dvsec + CXL_CAPABILITY, &capability);
	if (PCI_POSSIBLE_ERROR(capability))
		return unreadable_dvsec(pdev, dvsec);
	/* 0 and 3 are not counts of ranges that CXL knows; the first range is there anyway. */
	if (FIELD_GET(CXL_CAPABILITY_RANGES, capability) != NVGRACE_GPU_STATUS_REGS)
		status->nr = 1;
	return 0;
}

/* In seconds: how long the device may take from the reset on until this range is active. */
static unsigned int range_limit_s(struct pci_dev *pdev, struct nvgrace_gpu_status *status,
				  u32 size_low)
{
	static const u16 limits_s[] = { 1, 4, 16, 64, 256 };
	unsigned int code = FIELD_GET(CXL_TIMEOUT, size_low);

	if (!(size_low & CXL_INFO_VALID))
		return CXL_INFO_VALID_LIMIT_S;
	if (code < ARRAY_SIZE(limits_s))
		return limits_s[code];
	if (!status->warned)
		pci_warn(pdev, "CXL DVSEC at config offset 0x%x: 0x%x has the reserved time-out %u, taken for 256 s\n",
			 status->cxl, size_low, code);
	status->warned = true;
	return 256;
}

static bool is_ready(const struct nvgrace_gpu_status *status, u32 reg)
{
	const u32 active = CXL_INFO_VALID | CXL_ACTIVE;

	return status->cxl ? (reg & active) == active : reg == BAR0_READY;
}

/**
 * nvgrace_gpu_judge() - what the registers say of readiness
 * @pdev: the GPU
 * @status: what they read; @limit_s is set unless the memory is ready
 *
 * Context: Process context.
 * Return: 0 if the memory is ready; -EAGAIN if not yet; -ENOLINK if the link failed, where
 * waiting does not help; -ENODEV if the device does not answer.
 */
VISIBLE_IF_KUNIT int nvgrace_gpu_judge(struct pci_dev *pdev, struct nvgrace_gpu_status *status)
{
	unsigned int i, limit_s = UINT_MAX;

	for (i = 0; i < status->nr; i++) {
		if (!PCI_POSSIBLE_ERROR(status->regs[i]))
			continue;
		status->limit_s = max(status->limit_s, TRAINING_LIMIT_S);
		return nvgrace_gpu_is_present(pdev) ? -EAGAIN : -ENODEV;
	}

	for (i = 0; i < status->nr; i++) {
		if (is_ready(status, status->regs[i]))
			continue;
		if (!status->cxl && i == 0 && status->regs[i] != BAR0_NOT_STARTED)
			return -ENOLINK;
		limit_s = min(limit_s, status->cxl ?
			      range_limit_s(pdev, status, status->regs[i]) : TRAINING_LIMIT_S);
	}
	if (limit_s == UINT_MAX)
		return 0;

	status->limit_s = limit_s;
	return -EAGAIN;
}

static int read_registers(struct pci_dev *pdev, void __iomem *bar0,
			  struct nvgrace_gpu_status *status)
{
	static const u32 offsets[NVGRACE_GPU_STATUS_REGS] = { BAR0_C2C_LINK, BAR0_HBM_TRAINING };
	unsigned int i;
	u32 reg;

	for (i = 0; i < status->nr; i++) {
		if (status->cxl)
			pci_read_config_dword(pdev, status->cxl + CXL_SIZE_LOW(i), &reg);
		else
			reg = ioread32(bar0 + offsets[i]);
		/* sysfs shows the values. */
		WRITE_ONCE(status->regs[i], reg);
	}
	return nvgrace_gpu_judge(pdev, status);
}

/* Write to TEXT which registers were read, and their values. Returns TEXT. */
static const char *describe(const struct nvgrace_gpu_status *status, char text[STATUS_TEXT])
{
	int len;

	if (!status->cxl) {
		scnprintf(text, STATUS_TEXT,
			  "BAR0+0x%x (C2C link) reads 0x%x, BAR0+0x%x (HBM training) reads 0x%x",
			  BAR0_C2C_LINK, status->regs[0], BAR0_HBM_TRAINING, status->regs[1]);
		return text;
	}

	len = scnprintf(text, STATUS_TEXT, "CXL DVSEC+0x%x (range 1) reads 0x%x",
			CXL_SIZE_LOW(0), status->regs[0]);
	if (status->nr > 1)
		scnprintf(text + len, STATUS_TEXT - len, ", CXL DVSEC+0x%x (range 2) reads 0x%x",
			  CXL_SIZE_LOW(1), status->regs[1]);
	return text;
}

/**
 * nvgrace_gpu_log_status() - log why the memory cannot be used, ratelimited
 * @pdev: the GPU
 * @status: what the registers read
 * @err: -ETIME or -ENOLINK; others are not logged
 *
 * Context: Process context.
 */
void nvgrace_gpu_log_status(struct pci_dev *pdev, const struct nvgrace_gpu_status *status, int err)
{
	char text[STATUS_TEXT];

	if (err == -ENOLINK)
		dev_err_ratelimited(&pdev->dev,
				    "BAR0+0x%x (C2C link) reads 0x%x, a failure code: only a reset can mend that\n",
				    BAR0_C2C_LINK, status->regs[0]);
	else if (err == -ETIME)
		dev_err_ratelimited(&pdev->dev, "not ready after %u s: %s\n", status->limit_s,
				    describe(status, text));
}

/**
 * nvgrace_gpu_sleep_before_poll() - sleep, with back-off
 * @state: %TASK_INTERRUPTIBLE or %TASK_KILLABLE, with what the freezer may do
 * @ms: how long to sleep; doubled, up to 128
 *
 * Context: Process context, sleeps.
 * Return: 0; or, with a signal that @state allows, -ERESTARTSYS if it is any, -EINTR if only
 * a fatal one.
 */
int nvgrace_gpu_sleep_before_poll(unsigned int state, unsigned int *ms)
{
	ktime_t timeout = ms_to_ktime(*ms);

	if (!signal_pending_state(state, current)) {
		set_current_state(state);
		schedule_hrtimeout_range(&timeout, NSEC_PER_MSEC, HRTIMER_MODE_REL);
		*ms = min(2 * *ms, POLL_MAX_MS);
	}
	if (!signal_pending_state(state, current))
		return 0;
	return state & TASK_INTERRUPTIBLE ? -ERESTARTSYS : -EINTR;
}

/*
 * The freezer does not freeze this task here: it holds the device lock, and the host's suspend
 * waits for all probes once user tasks are frozen.
 */
static int poll_at_probe(struct pci_dev *pdev, void __iomem *bar0,
			 struct nvgrace_gpu_status *status)
{
	unsigned long now, start = jiffies;
	char text[STATUS_TEXT];
	unsigned int ms = 1;
	int ret;

	do {
		now = jiffies;
		ret = read_registers(pdev, bar0, status);
		if (ret == -ENODEV)
			return dev_err_probe(&pdev->dev, ret,
					     "%s and config space read all ones: the GPU is gone\n",
					     bar0 ? "BAR0" : "CXL DVSEC");
		if (ret == -ENOLINK)
			return dev_err_probe(&pdev->dev, ret,
					     "BAR0+0x%x (C2C link) reads 0x%x, a failure code: the link did not come up\n",
					     BAR0_C2C_LINK, status->regs[0]);
		if (!ret) {
			pci_info(pdev, "ready: %s\n", describe(status, text));
			return 0;
		}
		ret = nvgrace_gpu_sleep_before_poll(TASK_KILLABLE, &ms);
		if (ret)
			return ret;
	} while (time_before(now, start + status->limit_s * HZ));

	return dev_err_probe(&pdev->dev, -ETIME, "not ready after %u s: %s\n", status->limit_s,
			     describe(status, text));
}

/**
 * nvgrace_gpu_wait_at_probe() - wait until the GPU's memory can be used
 * @nvdev: the device, in D0 and not yet enabled
 *
 * If the GPU is ready, this reads each register once.
 *
 * Context: Process context, sleeps for 30 s at most, or 256 s with a CXL DVSEC; ends early if
 * the task is killed. The PCI core may probe in a worker, and does for a device of a NUMA node
 * with CPUs: then killing the task that binds the device does not end the wait.
 * Return: 0; -ETIME if it does not get ready; -ENOLINK if its link failed; -ENODEV if
 * it does not answer, or has no BAR0 with the registers; -ELOOP, -EIO or -EINVAL if config space
 * cannot be right; -EINTR if the task was killed; or what the PCI core says when it enables the
 * device. All but -EINTR are logged.
 */
int nvgrace_gpu_wait_at_probe(struct nvgrace_gpu_device *nvdev)
{
	struct nvgrace_gpu_status *status = &nvdev->gate.status;
	struct pci_dev *pdev = nvdev->core.pdev;
	void __iomem *bar0;
	int ret;

	if (!nvgrace_gpu_is_present(pdev))
		return dev_err_probe(&pdev->dev, -ENODEV,
				     "config space reads all ones: the GPU is gone\n");
	ret = find_status(pdev, status);
	if (ret)
		return ret;
	if (status->cxl)
		return poll_at_probe(pdev, NULL, status);

	if (!(pci_resource_flags(pdev, 0) & IORESOURCE_MEM) ||
	    pci_resource_len(pdev, 0) < BAR0_HBM_TRAINING + sizeof(u32))
		return dev_err_probe(&pdev->dev, -ENODEV,
				     "BAR0: %pr does not hold the register at 0x%x that says when the GPU is ready\n",
				     pci_resource_n(pdev, 0), BAR0_HBM_TRAINING);

	ret = pci_enable_device_mem(pdev);
	if (ret)
		return dev_err_probe(&pdev->dev, ret, "cannot be enabled\n");

	ret = pci_request_selected_regions(pdev, BIT(0), KBUILD_MODNAME);
	if (ret) {
		dev_err_probe(&pdev->dev, ret, "BAR0: %pr is in use, see /proc/iomem\n",
			      pci_resource_n(pdev, 0));
		goto out_disable;
	}

	bar0 = pci_iomap(pdev, 0, BAR0_HBM_TRAINING + sizeof(u32));
	if (bar0) {
		ret = poll_at_probe(pdev, bar0, status);
		pci_iounmap(pdev, bar0);
	} else {
		ret = dev_err_probe(&pdev->dev, -ENOMEM, "BAR0: cannot be mapped\n");
	}
	pci_release_selected_regions(pdev, BIT(0));
out_disable:
	pci_disable_device(pdev);
	return ret;
}

/**
 * nvgrace_gpu_has_bar0() - is BAR0 at the address that the PCI core gave it?
 * @pdev: the GPU, in D0
 *
 * A reset clears the address. AER leaves it so.
 *
 * Context: Process context.
 * Return: true if it is, or if the device has no memory in BAR0.
 */
bool nvgrace_gpu_has_bar0(struct pci_dev *pdev)
{
	u32 low, high;
	u64 address;

	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_has_bar0, pdev);

	/* The BARs of a virtual function always read 0. */
	if (!(pci_resource_flags(pdev, 0) & IORESOURCE_MEM) || pdev->is_virtfn)
		return true;

	address = pci_bus_address(pdev, 0);
	high = upper_32_bits(address);
	pci_read_config_dword(pdev, PCI_BASE_ADDRESS_0, &low);
	if (pci_resource_flags(pdev, 0) & IORESOURCE_MEM_64)
		pci_read_config_dword(pdev, PCI_BASE_ADDRESS_1, &high);
	return (low & PCI_BASE_ADDRESS_MEM_MASK) == lower_32_bits(address) &&
	       high == upper_32_bits(address);
}

/**
 * nvgrace_gpu_read_status() - do the registers say that the GPU is ready?
 * @nvdev: the device, in D0
 * @status: what the registers read, untouched if BAR0 cannot be read
 *
 * BAR0 answers with memory enabled, and at the address that vfio_pci_core set. A CXL DVSEC
 * answers in any case.
 *
 * Context: Process context; memory_lock keeps PCI_COMMAND and the power state from
 * being changed, ready_lock keeps resets out.
 * Return: 0 if they do; -EAGAIN if not yet; -EIO if BAR0 cannot be read now, because
 * of PCI_COMMAND or a reset after which only the VMM can restore the BARs; -ENOLINK if
 * the C2C link holds a failure code; -ENODEV if config space does not answer.
 */
int nvgrace_gpu_read_status(struct nvgrace_gpu_device *nvdev, struct nvgrace_gpu_status *status)
{
	struct pci_dev *pdev = nvdev->core.pdev;
	u16 command;

	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_read_status, nvdev, status);

	if (status->cxl)
		return read_registers(pdev, NULL, status);

	pci_read_config_word(pdev, PCI_COMMAND, &command);
	if (PCI_POSSIBLE_ERROR(command))
		return -ENODEV;

	/* PCI_COMMAND is the guest's: memory is not turned on to find this out. */
	if (!(command & PCI_COMMAND_MEMORY))
		return -EIO;

	/*
	 * AER leaves config space as the reset left it, and only the VMM can
	 * restore it. Until then BAR0 may decode addresses of another device.
	 */
	if (!nvgrace_gpu_has_bar0(pdev))
		return -EIO;

	return read_registers(pdev, nvdev->core.barmap[0], status);
}
