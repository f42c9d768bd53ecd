// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test-only: the Nth call that nvgrace_gpu makes of a function fails, without being made
 *
 * A kprobe is at the first instruction of each function, where the link register says who
 * calls. Calls that others make of the function are left alone. Load this module first.
 *
 * debugfs, fail_calls/FUNCTION/, all of it decimal:
 *	calls	how often nvgrace_gpu has called it; can be set
 *	fail	which of those calls fails, 0 for none
 *	last	the last one that fails, if several do; 0 if it is one
 *	struck	how many have failed; can be set
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/slab.h>
#include <linux/string.h>

#define MAX_FUNCTIONS	64

static char *functions[MAX_FUNCTIONS];
static int nr_functions;
module_param_array(functions, charp, &nr_functions, 0444);
MODULE_PARM_DESC(functions,
		 "NAME/VALUE,...: functions, and what a failed call returns; VALUE is a number, 'left' for what is not copied of the third argument, or 'ones' for all ones at the third argument");

enum how { VALUE, LEFT, ONES_16, ONES_32 };

/**
 * struct function - a function that can fail
 * @probe: at its beginning
 * @how: what a failed call does and returns
 * @value: the return value, for %VALUE
 * @calls: of nvgrace_gpu
 * @fail: which one fails
 * @last: and which is the last one that does
 * @struck: how many failed
 * @registered: @probe is
 */
struct function {
	struct kprobe probe;
	enum how how;
	s64 value;
	atomic_t calls;
	u32 fail, last;
	atomic_t struck;
	bool registered;
};

static struct function *table;
static struct dentry *debugfs;

static struct module *driver;

/* Also before it has parsed its parameters. */
static int driver_comes_or_goes(struct notifier_block *nb, unsigned long state, void *data)
{
	struct module *mod = data;

	if (strcmp(mod->name, "nvgrace_gpu"))
		return NOTIFY_DONE;
	if (state == MODULE_STATE_COMING)
		WRITE_ONCE(driver, mod);
	else if (state == MODULE_STATE_GOING)
		WRITE_ONCE(driver, NULL);
	return NOTIFY_OK;
}

static struct notifier_block driver_nb = { .notifier_call = driver_comes_or_goes };

static bool is_called_by_driver(const struct pt_regs *regs)
{
	const struct module *mod = READ_ONCE(driver);

	return mod && within_module(procedure_link_pointer(regs), mod);
}

static int before(struct kprobe *probe, struct pt_regs *regs)
{
	struct function *f = container_of(probe, struct function, probe);
	u32 call;

	if (!is_called_by_driver(regs))
		return 0;
	call = atomic_inc_return(&f->calls);
	if (!f->fail || call < f->fail || call > max(f->fail, f->last))
		return 0;

	atomic_inc(&f->struck);
	switch (f->how) {
	case LEFT:
		regs->regs[0] = regs->regs[2];
		break;
	case ONES_16:
		*(u16 *)regs->regs[2] = ~0;
		regs->regs[0] = 0x86;
		break;
	case ONES_32:
		*(u32 *)regs->regs[2] = ~0;
		regs->regs[0] = 0x86;
		break;
	default:
		regs->regs[0] = f->value;
	}
	instruction_pointer_set(regs, procedure_link_pointer(regs));
	return 1;
}

NOKPROBE_SYMBOL(before);

static int add(struct function *f, char *spec)
{
	char *value = strchr(spec, '/');
	struct dentry *dir;
	int ret;

	if (!value)
		return -EINVAL;
	*value++ = 0;
	if (!strcmp(value, "left"))
		f->how = LEFT;
	else if (!strcmp(value, "ones"))
		f->how = strstr(spec, "dword") ? ONES_32 : ONES_16;
	else if (kstrtos64(value, 0, &f->value))
		return -EINVAL;

	f->probe.symbol_name = spec;
	f->probe.pre_handler = before;
	ret = register_kprobe(&f->probe);
	if (ret == -ENOENT)
		return 0;
	if (ret) {
		pr_err("%s: %d\n", spec, ret);
		return ret;
	}
	f->registered = true;

	dir = debugfs_create_dir(spec, debugfs);
	debugfs_create_atomic_t("calls", 0600, dir, &f->calls);
	debugfs_create_u32("fail", 0600, dir, &f->fail);
	debugfs_create_u32("last", 0600, dir, &f->last);
	debugfs_create_atomic_t("struck", 0600, dir, &f->struck);
	return 0;
}

static void leave(void)
{
	int i;

	unregister_module_notifier(&driver_nb);
	debugfs_remove_recursive(debugfs);
	for (i = 0; i < nr_functions; i++)
		if (table[i].registered)
			unregister_kprobe(&table[i].probe);
	kfree(table);
}

static int __init fail_calls_init(void)
{
	int i, ret = 0;

	table = kcalloc(MAX_FUNCTIONS, sizeof(*table), GFP_KERNEL);
	if (!table)
		return -ENOMEM;
	register_module_notifier(&driver_nb);
	debugfs = debugfs_create_dir(KBUILD_MODNAME, NULL);
	for (i = 0; i < nr_functions && !ret; i++)
		ret = add(&table[i], functions[i]);
	if (ret)
		leave();
	return ret;
}
module_init(fail_calls_init);

static void __exit fail_calls_exit(void)
{
	leave();
}
module_exit(fail_calls_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test-only: calls that nvgrace_gpu makes fail");
