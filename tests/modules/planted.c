// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test-only, for the host: a fault of the kernel on demand, for the part rig, which checks that
 * the rig reports each one.
 */
#include <linux/cleanup.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

static char *fault;
module_param(fault, charp, 0444);
MODULE_PARM_DESC(fault, "leak, sleep, inversion, warning, overflow or panic");

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static DEFINE_SPINLOCK(atomic);

static void leak(void)
{
	int i;

	/* kmemleak takes what is left of a pointer on a stack for a reference, but not of each. */
	for (i = 0; i < 32; i++) {
		void *lost = kmalloc(512, GFP_KERNEL);

		/* GCC may not leave it out. */
		OPTIMIZER_HIDE_VAR(lost);
	}
}

static void sleep_in_atomic_context(void)
{
	guard(spinlock)(&atomic);
	might_sleep();
}

static void invert_locks(void)
{
	scoped_guard(mutex, &first) {
		guard(mutex)(&second);
	}
	scoped_guard(mutex, &second) {
		guard(mutex)(&first);
	}
}

static void overflow(void)
{
	char *object = kmalloc(16, GFP_KERNEL);

	if (!object)
		return;
	OPTIMIZER_HIDE_VAR(object);
	object[16] = 1;
	kfree(object);
}

static int __init planted_init(void)
{
	if (sysfs_streq(fault, "leak"))
		leak();
	else if (sysfs_streq(fault, "sleep"))
		sleep_in_atomic_context();
	else if (sysfs_streq(fault, "inversion"))
		invert_locks();
	else if (sysfs_streq(fault, "warning"))
		WARN(1, "planted");
	else if (sysfs_streq(fault, "overflow"))
		overflow();
	else if (sysfs_streq(fault, "panic"))
		panic("planted");
	else
		return -EINVAL;
	return 0;
}

static void __exit planted_exit(void)
{
}

module_init(planted_init);
module_exit(planted_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test-only faults of the kernel");
