// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test-only, for the emulated host: a module that uses NVIDIA's, as nvidia_uvm and nvidia_modeset
 * do. It holds a reference on module nvidia; and it uses the GPUs of these minors until it is
 * unloaded, without a file descriptor.
 */
#include <linux/module.h>

#include "nvidia.h"

static unsigned int gpus[8];
static int nr_gpus;
module_param_array(gpus, uint, &nr_gpus, 0444);
MODULE_PARM_DESC(gpus, "minors of the GPUs to use");

static void put(int count)
{
	while (count--)
		nvidia_dev_put(gpus[count]);
}

static int __init nvidia_uvm_init(void)
{
	int ret, i;

	for (i = 0; i < nr_gpus; i++) {
		ret = nvidia_dev_get(gpus[i]);
		if (ret) {
			put(i);
			return ret;
		}
	}
	return 0;
}
module_init(nvidia_uvm_init);

static void __exit nvidia_uvm_exit(void)
{
	put(nr_gpus);
}
module_exit(nvidia_uvm_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test-only: uses GPUs as nvidia_uvm does");
