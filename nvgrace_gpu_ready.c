// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the GPU says of itself
 */
#include <linux/pci.h>

#include "nvgrace_gpu.h"

/* NVIDIA's DVSEC that describes the coherent memory, and the word in it. */
#define DVSEC_ID_MEMORY		3
#define DVSEC_MEMORY_FLAGS	0xA
#define DVSEC_MEMORY_NO_DEFECT	BIT(0)

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

	dvsec = pci_find_dvsec_capability(pdev, PCI_VENDOR_ID_NVIDIA,
					  DVSEC_ID_MEMORY);
	if (!dvsec)
		return 1;

	/* A guess would give the guest another layout: fail instead. */
	if (pci_read_config_word(pdev, dvsec + DVSEC_MEMORY_FLAGS, &flags) ||
	    PCI_POSSIBLE_ERROR(flags))
		return dev_err_probe(&pdev->dev, -EIO,
				     "DVSEC at config offset 0x%x: cannot be read\n",
				     dvsec);

	return !(flags & DVSEC_MEMORY_NO_DEFECT);
}
