// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test-only, for the guest: finds and onlines a GPU's coherent memory as NVIDIA's driver does
 *
 * What it copies, from nv_init_coherent_link_info() and the function that it calls in
 * kernel-open/nvidia/nv-pci.c of NVIDIA/open-gpu-kernel-modules on GitHub:
 *	- The GPU's NUMA nodes are those of the generic initiators in the SRAT whose handle is the
 *	  GPU. Without one the driver has no coherent memory.
 *	- A guest has no nvidia,gpu-mem-base-pa. The coherent memory begins where BAR4 begins, and
 *	  that of a Hopper which is reserved where BAR2 begins. Nothing else tells the two apart.
 *	- The size is what the GPU says; usemem= stands in for that. NVIDIA's driver does not
 *	  compare it with BAR4, and would add addresses beyond. This module refuses.
 *	- The memory becomes "System RAM (NVIDIA)" of the GPU's nodes. There the first node has all
 *	  of it, unless MIG shares it out. Here each node gets the same part.
 *
 * Nothing unloads it. The memory stays until the guest ends.
 */
#include <linux/acpi.h>
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/module.h>
#include <linux/pci.h>

static unsigned long usemem;
module_param(usemem, ulong, 0444);
MODULE_PARM_DESC(usemem, "bytes of coherent memory that each GPU says it has");

static unsigned long part;
module_param(part, ulong, 0444);
MODULE_PARM_DESC(part, "bytes of it for each of the GPU's nodes (default: a block)");

static bool is_initiator(struct pci_dev *gpu, const struct acpi_subtable_header *entry)
{
	const struct acpi_srat_generic_affinity *gi = (const void *)entry;
	const u8 *handle = gi->device_handle;

	return entry->type == ACPI_SRAT_TYPE_GENERIC_AFFINITY && gi->device_handle_type == 1 &&
	       (gi->flags & ACPI_SRAT_GENERIC_AFFINITY_ENABLED) &&
	       (handle[0] | handle[1] << 8) == pci_domain_nr(gpu->bus) &&
	       handle[2] == gpu->bus->number && handle[3] == gpu->devfn;
}

static int find_nodes(struct pci_dev *gpu, nodemask_t *nodes)
{
	const struct acpi_subtable_header *entry;
	struct acpi_table_header *srat;
	int node, missing = 0;
	void *end;

	if (ACPI_FAILURE(acpi_get_table(ACPI_SIG_SRAT, 0, &srat)))
		return -ENOENT;
	end = (void *)srat + srat->length;
	for (entry = (void *)srat + sizeof(struct acpi_table_srat);
	     (void *)entry < end && entry->length; entry = (void *)entry + entry->length) {
		if (!is_initiator(gpu, entry))
			continue;
		node = pxm_to_node(((struct acpi_srat_generic_affinity *)entry)->proximity_domain);
		if (node == NUMA_NO_NODE)
			missing++;
		else
			node_set(node, *nodes);
	}
	acpi_put_table(srat);
	if (missing)
		pci_warn(gpu, "this kernel has no node for %d of its initiators\n", missing);
	return nodes_empty(*nodes) ? -ENOENT : 0;
}

static int probe(struct pci_dev *gpu, const struct pci_device_id *id)
{
	u64 base = pci_resource_start(gpu, 4), size = pci_resource_len(gpu, 4);
	nodemask_t nodes = NODE_MASK_NONE;
	int ret, node;

	ret = find_nodes(gpu, &nodes);
	if (ret) {
		pci_err(gpu, "no node has it as an initiator: no coherent memory\n");
		return ret;
	}
	if (!size || !(pci_resource_flags(gpu, 4) & IORESOURCE_MEM)) {
		pci_err(gpu, "no BAR4: no coherent memory\n");
		return -ENXIO;
	}
	pci_info(gpu, "coherent memory at BAR4 [mem %#llx-%#llx], nodes %*pbl\n", base,
		 base + size - 1, nodemask_pr_args(&nodes));
	if (size < usemem || usemem < part * nodes_weight(nodes)) {
		pci_err(gpu, "%#llx bytes there, and the GPU has %#lx\n", size, usemem);
		return -ENXIO;
	}

	ret = pci_enable_device(gpu);
	for_each_node_mask(node, nodes) {
		ret = ret ?: add_memory_driver_managed(node, base, part, "System RAM (NVIDIA)",
						       MHP_NONE);
		base += part;
	}
	if (ret)
		pci_err(gpu, "its memory cannot be added: %d\n", ret);
	return ret;
}

static const struct pci_device_id ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_NVIDIA, PCI_ANY_ID), .class = PCI_CLASS_DISPLAY_3D << 8,
	  .class_mask = ~0 },
	{ }
};

static struct pci_driver nvidia_guest_driver = {
	.name = KBUILD_MODNAME,
	.id_table = ids,
	.probe = probe,
};

static int __init nvidia_guest_init(void)
{
	part = part ?: memory_block_size_bytes();
	return pci_register_driver(&nvidia_guest_driver);
}
module_init(nvidia_guest_init);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test-only: onlines a GPU's coherent memory as NVIDIA's driver does");
