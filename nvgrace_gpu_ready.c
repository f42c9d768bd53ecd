// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the GPU says of itself
 */
#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <linux/pci.h>

#include "nvgrace_gpu.h"

/* NVIDIA's DVSEC that describes the coherent memory, and the word in it. */
#define DVSEC_ID_MEMORY		3
#define DVSEC_MEMORY_FLAGS	0xA
#define DVSEC_MEMORY_NO_DEFECT	BIT(0)

/**
 * nvgrace_gpu_read_dvsec() - read the flags in the DVSEC of the coherent memory
 * @pdev: the GPU
 * @flags: the flags, all ones if they cannot be read; untouched without a DVSEC
 *
 * Context: Process context.
 * Return: where in config space the DVSEC is, 0 if there is none.
 */
VISIBLE_IF_KUNIT u16 nvgrace_gpu_read_dvsec(struct pci_dev *pdev, u16 *flags)
{
	u16 dvsec;

	KUNIT_STATIC_STUB_REDIRECT(nvgrace_gpu_read_dvsec, pdev, flags);

	dvsec = pci_find_dvsec_capability(pdev, PCI_VENDOR_ID_NVIDIA,
					  DVSEC_ID_MEMORY);
	if (dvsec)
		pci_read_config_word(pdev, dvsec + DVSEC_MEMORY_FLAGS, flags);
	return dvsec;
}
EXPORT_SYMBOL_IF_KUNIT(nvgrace_gpu_read_dvsec);

/**
 * nvgrace_gpu_needs_carve_out() - must a part of the memory be mapped uncached?
 * @pdev: the GPU
 *
 * Multi-Instance GPU on Grace Hopper has a defect that asks for a piece of
 * uncached memory, resmem. A GPU without the defect says so in a DVSEC; one
 * without the DVSEC is taken to have it.
 *
 * Context: Process context.
 * Return: 0 if the DVSEC says that no carve-out is needed, else 1; -EIO if it is
 * there and cannot be read, which is logged.
 */
int nvgrace_gpu_needs_carve_out(struct pci_dev *pdev)
{
	u16 dvsec, flags;

	dvsec = nvgrace_gpu_read_dvsec(pdev, &flags);
	if (!dvsec)
		return 1;

	/* A guess would give the guest another layout: fail instead. */
	if (PCI_POSSIBLE_ERROR(flags))
		return dev_err_probe(&pdev->dev, -EIO,
				     "DVSEC at config offset 0x%x: cannot be read\n",
				     dvsec);

	return !(flags & DVSEC_MEMORY_NO_DEFECT);
}
EXPORT_SYMBOL_IF_KUNIT(nvgrace_gpu_needs_carve_out);
