// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test-only, for the emulated host: behaves like NVIDIA's driver for the host, module and driver
 * "nvidia", when a GPU is taken from it.
 *
 * What it copies, from kernel-open/nvidia in NVIDIA/open-gpu-kernel-modules on GitHub:
 *	- remove waits without a time limit while the GPU is in use. No signal ends its sleeps of
 *	  500 ms, and the PCI core holds the device lock meanwhile (nv-pci.c). A GPU in removal
 *	  cannot be opened.
 *	- Users of a GPU are processes that have /dev/nvidiaN open, where N is the GPU's minor, and
 *	  modules. /dev/nvidiactl uses no GPU. nvidia-modprobe makes the nodes, not the driver.
 *	  Their major is 195, nvidiactl has minor 255, and a GPU gets the lowest that is free.
 *	- The first user starts the GPU, which gets interrupts then; the last one stops it (nv.c).
 *	- remove takes the GPU off the list in which a module looks for the GPU that it gives back.
 *	  A module that comes too late leaves the GPU in use without end (595 and newer, issues
 *	  1119 and 1374 there).
 *	- The files in /proc/driver/nvidia that tools parse (nv-procfs.c).
 *	- The GPU's memory is "System RAM (NVIDIA)", which remove takes away (os-interface.c). There
 *	  the first user adds it; here probe does, so that an idle GPU has it, too. Before, write
 *	  online_movable to /sys/devices/system/memory/auto_online_blocks.
 *
 * Persistence mode keeps a GPU in use here, as OpenNebula/one-deploy#251 describes it. In NVIDIA's
 * source it is a flag that remove does not wait for.
 *
 * This module has no device table, so that udev loads it for no other test.
 *
 * debugfs, nvidia/ADDRESS/:
 *	users		open files, and uses by modules; read-only
 *	persistence	1 keeps the GPU in use, without a file descriptor; 0 ends that
 *	lost		uses that nobody gives back, of modules that came too late. Writing 1 makes
 *			the GPU stuck, which no other file shows; 0 lets it go
 */
#define pr_fmt(fmt) "NVRM: " fmt

#include <linux/cleanup.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/nodemask.h>
#include <linux/pci.h>
#include <linux/proc_fs.h>
#include <linux/property.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "nvidia.h"

#define VERSION		"595.58.03"
#define MAJOR_NR	195
#define CONTROL_MINOR	255

static unsigned int memory = 512;
module_param(memory, uint, 0444);
MODULE_PARM_DESC(memory, "MiB of each GPU's memory that become RAM of the host, in whole blocks");

/**
 * struct gpu - a GPU that is bound to this driver
 * @pdev: its PCI function
 * @minor: of /dev/nvidiaN
 * @users: open files, and uses by modules
 * @persistence: persistence mode is on
 * @lost: uses that nobody gives back
 * @started: it has interrupts
 * @removing: remove has begun
 * @base: where its memory begins
 * @size: bytes of it that are RAM
 * @remove_ram: the work that takes them away
 * @proc: its directory in /proc
 * @debugfs: its directory in debugfs
 */
struct gpu {
	struct pci_dev *pdev;
	unsigned int minor;
	u32 users, persistence, lost;
	bool started, removing;
	u64 base, size;
	struct work_struct remove_ram;
	struct proc_dir_entry *proc;
	struct dentry *debugfs;
};

static struct gpu *gpus[CONTROL_MINOR];
static struct proc_dir_entry *proc, *proc_gpus;
static struct dentry *debugfs;

/* Guards gpus[], and what changes in each. */
static DEFINE_MUTEX(gpus_lock);

static bool in_use(const struct gpu *gpu)
{
	return gpu->users || gpu->persistence || gpu->lost;
}

/* Start or stop the GPU after a change of its users. */
static void update(struct gpu *gpu)
{
	if (!gpu->started && (gpu->users || gpu->persistence)) {
		gpu->started = true;
		if (pci_alloc_irq_vectors(gpu->pdev, 1, 1, PCI_IRQ_MSI) < 0)
			pci_err(gpu->pdev, "no interrupts\n");
	} else if (gpu->started && !in_use(gpu)) {
		pci_free_irq_vectors(gpu->pdev);
		gpu->started = false;
	}
}

/* Users */

static struct gpu *get_gpu(unsigned int minor)
{
	struct gpu *gpu;

	guard(mutex)(&gpus_lock);
	gpu = minor < CONTROL_MINOR ? gpus[minor] : NULL;
	if (!gpu || gpu->removing)
		return NULL;
	gpu->users++;
	update(gpu);
	return gpu;
}

int nvidia_dev_get(unsigned int minor)
{
	return get_gpu(minor) ? 0 : -ENODEV;
}
EXPORT_SYMBOL_GPL(nvidia_dev_get);

void nvidia_dev_put(unsigned int minor)
{
	struct gpu *gpu;

	guard(mutex)(&gpus_lock);
	/* remove waits for this user, so the GPU is still there. */
	gpu = gpus[minor];
	gpu->users--;
	gpu->lost += gpu->removing;
	update(gpu);
}
EXPORT_SYMBOL_GPL(nvidia_dev_put);

static int nvidia_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL;
	if (iminor(inode) == CONTROL_MINOR)
		return 0;
	file->private_data = get_gpu(iminor(inode));
	return file->private_data ? 0 : -ENODEV;
}

static int nvidia_release(struct inode *inode, struct file *file)
{
	struct gpu *gpu = file->private_data;

	guard(mutex)(&gpus_lock);
	if (gpu) {
		gpu->users--;
		update(gpu);
	}
	return 0;
}

static const struct file_operations nvidia_fops = {
	.owner = THIS_MODULE,
	.open = nvidia_open,
	.release = nvidia_release,
};

/* /proc/driver/nvidia */

static int show_version(struct seq_file *file, void *data)
{
	seq_puts(file, "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  " VERSION
		 "  Test module of nvgrace_gpu\n");
	return 0;
}

static int show_information(struct seq_file *file, void *data)
{
	struct gpu *gpu = file->private;

	seq_puts(file, "Model: \t\t NVIDIA stand-in\n");
	seq_printf(file, "IRQ:   \t\t %u\n", gpu->pdev->irq);
	seq_printf(file, "GPU UUID: \t GPU-00000000-0000-0000-0000-%012x\n", pci_dev_id(gpu->pdev));
	seq_puts(file, "Video BIOS: \t ??.??.??.??.??\n");
	seq_puts(file, "Bus Type: \t PCIe\n");
	seq_printf(file, "DMA Size: \t %d bits\n", fls64(gpu->pdev->dma_mask));
	seq_printf(file, "DMA Mask: \t 0x%llx\n", gpu->pdev->dma_mask);
	seq_printf(file, "Bus Location: \t %s\n", pci_name(gpu->pdev));
	seq_printf(file, "Device Minor: \t %u\n", gpu->minor);
	seq_puts(file, "GPU Firmware: \t " VERSION "\n");
	seq_puts(file, "GPU Excluded:\t No\n");
	return 0;
}

/* debugfs */

static void set_count(struct gpu *gpu, u32 *count, u64 val)
{
	guard(mutex)(&gpus_lock);
	*count = val;
	update(gpu);
}

static int persistence_get(void *data, u64 *val)
{
	*val = ((struct gpu *)data)->persistence;
	return 0;
}

static int persistence_set(void *data, u64 val)
{
	set_count(data, &((struct gpu *)data)->persistence, val);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(persistence_fops, persistence_get, persistence_set, "%llu\n");

static int lost_get(void *data, u64 *val)
{
	*val = ((struct gpu *)data)->lost;
	return 0;
}

static int lost_set(void *data, u64 val)
{
	set_count(data, &((struct gpu *)data)->lost, val);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(lost_fops, lost_get, lost_set, "%llu\n");

static void add_files(struct gpu *gpu)
{
	const char *name = pci_name(gpu->pdev);

	gpu->proc = proc_mkdir(name, proc_gpus);
	proc_create_single_data("information", 0444, gpu->proc, show_information, gpu);
	gpu->debugfs = debugfs_create_dir(name, debugfs);
	debugfs_create_u32("users", 0400, gpu->debugfs, &gpu->users);
	debugfs_create_file("persistence", 0600, gpu->debugfs, gpu, &persistence_fops);
	debugfs_create_file("lost", 0600, gpu->debugfs, gpu, &lost_fops);
}

/* Memory */

static void add_ram(struct gpu *gpu)
{
	struct device *dev = &gpu->pdev->dev;
	u64 size;
	int err;

	if (device_property_read_u64(dev, "nvidia,gpu-mem-base-pa", &gpu->base) ||
	    device_property_read_u64(dev, "nvidia,gpu-mem-size", &size))
		return;
	size = ALIGN_DOWN(min(size, (u64)memory << 20), memory_block_size_bytes());
	if (!size)
		return;
	err = add_memory_driver_managed(first_online_node, gpu->base, size, "System RAM (NVIDIA)",
					MHP_NONE);
	if (err)
		pci_err(gpu->pdev, "adding memory at 0x%llx failed: %d\n", gpu->base, err);
	else
		gpu->size = size;
}

/* In a kernel thread: a signal for who unbinds would end this with -EINTR. */
static void remove_ram(struct work_struct *work)
{
	struct gpu *gpu = container_of(work, struct gpu, remove_ram);
	int err = gpu->size ? offline_and_remove_memory(gpu->base, gpu->size) : 0;

	if (err)
		pci_err(gpu->pdev, "removing memory at 0x%llx failed: %d\n", gpu->base, err);
}

/* Coming and going */

static int nvidia_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct gpu *gpu;
	int err;

	gpu = kzalloc(sizeof(*gpu), GFP_KERNEL);
	if (!gpu)
		return -ENOMEM;
	gpu->pdev = pdev;
	err = pci_enable_device(pdev);
	if (err) {
		kfree(gpu);
		return err;
	}
	pci_set_drvdata(pdev, gpu);
	INIT_WORK(&gpu->remove_ram, remove_ram);
	add_ram(gpu);

	guard(mutex)(&gpus_lock);
	while (gpus[gpu->minor])
		gpu->minor++;
	gpus[gpu->minor] = gpu;
	add_files(gpu);
	return 0;
}

static void wait_for_users(struct gpu *gpu)
{
	mutex_lock(&gpus_lock);
	gpu->removing = true;
	if (in_use(gpu)) {
		pr_err("Attempting to remove device %s with non-zero usage count!\n",
		       pci_name(gpu->pdev));
		while (in_use(gpu)) {
			mutex_unlock(&gpus_lock);
			msleep(500);
			mutex_lock(&gpus_lock);
		}
		pr_err("Continuing with GPU removal for device %s\n", pci_name(gpu->pdev));
	}
	gpus[gpu->minor] = NULL;
	mutex_unlock(&gpus_lock);
}

static void nvidia_remove(struct pci_dev *pdev)
{
	struct gpu *gpu = pci_get_drvdata(pdev);

	wait_for_users(gpu);
	debugfs_remove_recursive(gpu->debugfs);
	proc_remove(gpu->proc);
	schedule_work(&gpu->remove_ram);
	flush_work(&gpu->remove_ram);
	pci_disable_device(pdev);
	kfree(gpu);
}

static const struct pci_device_id nvidia_ids[] = {
	{
		.vendor = PCI_VENDOR_ID_NVIDIA,
		.device = PCI_ANY_ID,
		.subvendor = PCI_ANY_ID,
		.subdevice = PCI_ANY_ID,
		.class = PCI_CLASS_DISPLAY_3D << 8,
		.class_mask = ~0xff,
	},
	{}
};

static struct pci_driver nvidia_driver = {
	.name = "nvidia",
	.id_table = nvidia_ids,
	.probe = nvidia_probe,
	.remove = nvidia_remove,
};

static int __init nvidia_init(void)
{
	int err;

	err = register_chrdev(MAJOR_NR, "nvidia", &nvidia_fops);
	if (err)
		return err;
	proc = proc_mkdir("driver/nvidia", NULL);
	proc_gpus = proc_mkdir("gpus", proc);
	proc_create_single_data("version", 0444, proc, show_version, NULL);
	debugfs = debugfs_create_dir("nvidia", NULL);
	err = pci_register_driver(&nvidia_driver);
	if (err) {
		debugfs_remove_recursive(debugfs);
		proc_remove(proc);
		unregister_chrdev(MAJOR_NR, "nvidia");
	}
	return err;
}
module_init(nvidia_init);

static void __exit nvidia_exit(void)
{
	pci_unregister_driver(&nvidia_driver);
	debugfs_remove_recursive(debugfs);
	proc_remove(proc);
	unregister_chrdev(MAJOR_NR, "nvidia");
}
module_exit(nvidia_exit);

MODULE_LICENSE("GPL");
MODULE_VERSION(VERSION);
MODULE_DESCRIPTION("Test-only: NVIDIA's driver, as far as a GPU is taken from it");
