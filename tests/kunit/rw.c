// SPDX-License-Identifier: GPL-2.0-only
/*
 * read() and write() of a region, from and to a user's buffer
 *
 * A piece of ordinary memory plays the GPU's memory here.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <kunit/test-bug.h>
#include <linux/completion.h>
#include <linux/io.h>
#include <linux/mman.h>
#include <linux/pm_runtime.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include "../../nvgrace_gpu.h"
#include "gate.h"

/* The driver maps a GiB at a time: one ends 96 KiB into the region. */
#define BASE	((60ULL << 40) + SZ_1G - 96 * SZ_1K)
#define BACKED	(320 * SZ_1K)
#define BAR	SZ_512K

/* A reset fills the memory with this. */
#define AFTER_RESET	0xa5

struct fixture {
	struct nvgrace_gpu_device nvdev;
	struct pci_dev pdev;
	struct nvgrace_gpu_region *region;
	void *window[2];
	bool no_window;		/* nothing can be mapped */
	unsigned int windows;	/* how many were */
	unsigned int reset_at;	/* the GPU is reset while this one is made */
	unsigned int reads;	/* of the registers */
	u8 *memory;		/* of BAR bytes, more than is backed */
	u8 *bytes;		/* of BAR + 1 bytes: what goes to the user, or came */
	u8 __user *user;	/* of BAR + 1 bytes and more */
};

static void *fake_map_window(phys_addr_t phys, size_t len, bool cacheable)
{
	struct kunit *test = kunit_get_current_test();
	struct fixture *f = test->priv;

	f->windows++;
	/* All that the region has of a GiB. */
	KUNIT_EXPECT_EQ(test, len, phys == BASE ? 96 * SZ_1K : BACKED - 96 * SZ_1K);
	KUNIT_EXPECT_TRUE(test, phys == BASE || phys == BASE + 96 * SZ_1K);
	KUNIT_EXPECT_EQ(test, cacheable, f->region->cacheable);

	if (f->windows == f->reset_at) {
		nvgrace_gpu_gate_revoke(&f->nvdev, NVGRACE_GPU_RESETTING);
		memset(f->memory, AFTER_RESET, BACKED);
		f->nvdev.gate.ready = NVGRACE_GPU_READY;
	}

	return f->no_window ? NULL : f->memory + (phys - BASE);
}

static u8 memory_at(size_t pos)
{
	return 3 * pos + (pos >> 8);
}

static u8 written_at(size_t pos)
{
	return ~memory_at(pos);
}

static void fill_memory(struct fixture *f)
{
	size_t i;

	for (i = 0; i < BAR; i++)
		f->memory[i] = memory_at(i);
}

static int fixture_init(struct kunit *test)
{
	struct fixture *f;

	f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f);
	test->priv = f;
	f->memory = kunit_kzalloc(test, BAR, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f->memory);
	f->bytes = kunit_kzalloc(test, BAR + 1, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, f->bytes);
	f->user = (u8 __user *)kunit_vm_mmap(test, NULL, 0, SZ_1M,
					     PROT_READ | PROT_WRITE,
					     MAP_ANONYMOUS | MAP_PRIVATE, 0);
	KUNIT_ASSERT_NE(test, 0, (unsigned long)f->user);
	fill_memory(f);

	f->nvdev.nr_regions = 1;
	f->region = f->nvdev.regions;
	*f->region = (struct nvgrace_gpu_region) {
		.index = VFIO_PCI_BAR2_REGION_INDEX,
		.cacheable = true,
		.base = BASE,
		.backed = BACKED,
		.bar_size = BAR,
		.windows = f->window,
	};

	make_gate(test, &f->nvdev);
	xa_init(&f->nvdev.poison.pages);
	f->nvdev.core.pdev = &f->pdev;
	f->nvdev.gate.ready = NVGRACE_GPU_READY;

	/* Awake, for runtime PM; no more of a device is needed. */
	device_initialize(&f->pdev.dev);
	pm_runtime_set_active(&f->pdev.dev);
	pm_runtime_enable(&f->pdev.dev);

	kunit_activate_static_stub(test, nvgrace_gpu_map_window, fake_map_window);
	return 0;
}

static void fixture_exit(struct kunit *test)
{
	struct fixture *f = test->priv;

	if (f && f->nvdev.core.pdev) {
		nvgrace_gpu_unmap_windows(&f->nvdev);
		/* Nothing may leak a runtime PM reference. */
		KUNIT_EXPECT_EQ(test, atomic_read(&f->pdev.dev.power.usage_count), 0);
		pm_runtime_disable(&f->pdev.dev);
	}
}

/* Errors leave the position alone; else it moves by what is returned. */
static ssize_t rw(struct kunit *test, u64 pos, size_t count, bool iswrite)
{
	struct fixture *f = test->priv;
	const loff_t start = VFIO_PCI_INDEX_TO_OFFSET(f->region->index) + pos;
	loff_t ppos = start;
	ssize_t ret;

	ret = nvgrace_gpu_region_rw(&f->nvdev, f->region, f->user, count, &ppos,
				    iswrite);
	KUNIT_EXPECT_EQ(test, ppos, start + max(ret, 0));
	return ret;
}

static void check_read(struct kunit *test, u64 pos, size_t count, ssize_t ret)
{
	struct fixture *f = test->priv;
	size_t i, wrong = 0;

	memset(f->bytes, 0x42, BAR + 1);
	KUNIT_ASSERT_EQ(test, 0, copy_to_user(f->user, f->bytes, BAR + 1));
	KUNIT_EXPECT_EQ(test, rw(test, pos, count, false), ret);
	KUNIT_ASSERT_EQ(test, 0, copy_from_user(f->bytes, f->user, BAR + 1));

	for (i = 0; i <= BAR; i++) {
		u8 expected = (ssize_t)i >= ret ? 0x42 :
			      pos + i < BACKED ? memory_at(pos + i) : 0xff;

		wrong += f->bytes[i] != expected;
	}
	KUNIT_EXPECT_EQ_MSG(test, wrong, 0, "bytes read wrong");
}

static void check_write(struct kunit *test, u64 pos, size_t count, ssize_t ret)
{
	struct fixture *f = test->priv;
	size_t i, wrong = 0;

	for (i = 0; i <= BAR; i++)
		f->bytes[i] = written_at(pos + i);
	KUNIT_ASSERT_EQ(test, 0, copy_to_user(f->user, f->bytes, BAR + 1));
	KUNIT_EXPECT_EQ(test, rw(test, pos, count, true), ret);

	for (i = 0; i < BAR; i++) {
		bool written = i >= pos && i < BACKED &&
			       (ssize_t)(i - pos) < ret;

		wrong += f->memory[i] != (written ? written_at(i) : memory_at(i));
	}
	KUNIT_EXPECT_EQ_MSG(test, wrong, 0, "bytes written wrong");
	fill_memory(f);
}

struct rw_case {
	const char *name;
	u64 pos;
	size_t count;
	ssize_t ret;
	unsigned int windows;
};

static const struct rw_case rw_cases[] = {
	{ "nothing", 0, 0, 0 },
	{ "first byte", 0, 1, 1, 1 },
	{ "an odd byte", 7, 1, 1, 1 },
	{ "8 bytes", 8, 8, 8, 1 },
	{ "8 bytes, unaligned", 9, 8, 8, 1 },
	{ "4 bytes", 4, 4, 4, 1 },
	{ "2 bytes", 2, 2, 2, 1 },
	{ "3 bytes", 2, 3, 3, 1 },
	{ "64 bytes, the most that is copied through the stack", 5, 64, 64, 1 },
	{ "65 bytes", 5, 65, 65, 1 },
	{ "all of a window, unaligned", 1, 96 * SZ_1K - 1, 96 * SZ_1K - 1, 1 },
	{ "last byte of a window", 96 * SZ_1K - 1, 1, 1, 1 },
	{ "across the end of a window", 96 * SZ_1K - 1, 2, 2, 2 },
	{ "first byte of the next window", 96 * SZ_1K, 1, 1, 1 },
	{ "all of the memory", 0, BACKED, BACKED, 2 },
	{ "last byte of memory", BACKED - 1, 1, 1, 1 },
	{ "across the end of memory", BACKED - 3, 8, 8, 1 },
	{ "first byte of the hole", BACKED, 1, 1, 0 },
	{ "all of the hole", BACKED, BAR - BACKED, BAR - BACKED, 0 },
	{ "more than 64 KiB of the hole", BACKED + 1, SZ_64K + 1, SZ_64K + 1, 0 },
	{ "last byte of the BAR", BAR - 1, 1, 1, 0 },
	{ "across the end of the BAR", BAR - 1, 2, 1, 0 },
	{ "the BAR", 0, BAR, BAR, 2 },
	{ "more than the BAR", 0, BAR + 1, BAR, 2 },
	{ "all that can be asked for", 0, SIZE_MAX, BAR, 2 },
	{ "all of that from the second byte", 1, SIZE_MAX, BAR - 1, 2 },
	{ "at the end of the BAR", BAR, 1, -EINVAL },
	{ "nothing, at the end of the BAR", BAR, 0, 0 },
	{ "beyond the BAR", BAR + 1, 1, -EINVAL },
	{ "the last offset of the region", VFIO_PCI_OFFSET_MASK, 1, -EINVAL },
};

KUNIT_ARRAY_PARAM_DESC(rw, rw_cases, name);

static void read_table(struct kunit *test)
{
	const struct rw_case *c = test->param_value;
	struct fixture *f = test->priv;

	check_read(test, c->pos, c->count, c->ret);
	KUNIT_EXPECT_EQ(test, f->windows, c->windows);
	/* They stay, and all is the same without new ones. */
	check_read(test, c->pos, c->count, c->ret);
	KUNIT_EXPECT_EQ(test, f->windows, c->windows);

	nvgrace_gpu_unmap_windows(&f->nvdev);
	f->region->cacheable = false;
	check_read(test, c->pos, c->count, c->ret);
}

static void write_table(struct kunit *test)
{
	const struct rw_case *c = test->param_value;
	struct fixture *f = test->priv;

	check_write(test, c->pos, c->count, c->ret);
	KUNIT_EXPECT_EQ(test, f->windows, c->windows);

	nvgrace_gpu_unmap_windows(&f->nvdev);
	f->region->cacheable = false;
	check_write(test, c->pos, c->count, c->ret);
}

/* The user has one page mapped, and not the one after it. */
static void bad_buffer(struct kunit *test)
{
	struct fixture *f = test->priv;

	vm_munmap((unsigned long)f->user + PAGE_SIZE, SZ_1M - PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, rw(test, 0, PAGE_SIZE, false), PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, rw(test, 0, PAGE_SIZE, true), PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, rw(test, BACKED, PAGE_SIZE, false), PAGE_SIZE);

	KUNIT_EXPECT_EQ(test, rw(test, 0, PAGE_SIZE + 1, false), -EFAULT);
	KUNIT_EXPECT_EQ(test, rw(test, 0, PAGE_SIZE + 1, true), -EFAULT);
	KUNIT_EXPECT_EQ(test, rw(test, BACKED, PAGE_SIZE + 1, false), -EFAULT);
	/* Memory up to the end of the page, the hole beyond. */
	KUNIT_EXPECT_EQ(test, rw(test, BACKED - PAGE_SIZE, PAGE_SIZE + 1, false),
			-EFAULT);

	/* A write to the hole does not read the buffer. */
	KUNIT_EXPECT_EQ(test, rw(test, BACKED, PAGE_SIZE + 1, true), PAGE_SIZE + 1);
}

static void nothing_can_be_mapped(struct kunit *test)
{
	struct fixture *f = test->priv;

	f->no_window = true;
	KUNIT_EXPECT_EQ(test, rw(test, 0, 1, false), -ENOMEM);
	KUNIT_EXPECT_EQ(test, rw(test, 0, 1, true), -ENOMEM);
	KUNIT_EXPECT_EQ(test, rw(test, BACKED, 1, false), 1);
}

/* The reset is over before the driver gets to the second piece, so nothing waits. */
static void reset_between_two_pieces(struct kunit *test)
{
	struct fixture *f = test->priv;
	size_t i, wrong = 0;

	f->reset_at = 2;
	KUNIT_EXPECT_EQ(test, rw(test, 0, BACKED, false), BACKED);
	KUNIT_ASSERT_EQ(test, 0, copy_from_user(f->bytes, f->user, BACKED));
	for (i = 0; i < BACKED; i++)
		wrong += f->bytes[i] != AFTER_RESET;
	KUNIT_EXPECT_EQ_MSG(test, wrong, 0, "bytes from before the reset");

	/* The reset costs the bytes that were written before, and the driver writes them again. */
	nvgrace_gpu_unmap_windows(&f->nvdev);
	f->windows = 0;
	check_write(test, 0, BACKED, BACKED);
}

struct power_state {
	const char *name;
	pci_power_t state;
	ssize_t ret;
};

static const struct power_state power_states[] = {
	{ "D0", PCI_D0, 1 },
	{ "D1", PCI_D1, 1 },
	{ "D2", PCI_D2, 1 },
	{ "D3hot", PCI_D3hot, -EIO },
	{ "D3cold", PCI_D3cold, -EIO },
	{ "unknown", PCI_UNKNOWN, 1 },
};

KUNIT_ARRAY_PARAM_DESC(power, power_states, name);

static void by_power_state(struct kunit *test)
{
	const struct power_state *s = test->param_value;
	struct fixture *f = test->priv;

	f->pdev.current_state = s->state;
	check_read(test, 0, 1, s->ret);
	check_write(test, 0, 1, s->ret);
	/* The hole does not need the device. */
	check_read(test, BACKED, 1, 1);
	check_write(test, BACKED, 1, 1);
}

/* ---- The gate ---- */

struct ready_case {
	const char *name;
	enum nvgrace_gpu_ready_state ready;
	int result;		/* of reading the registers the fourth time */
	ssize_t ret;
	unsigned int reads;
};

static const struct ready_case ready_cases[] = {
	{ "ready", NVGRACE_GPU_READY, -EIO, 1, 0 },
	{ "gets ready", NVGRACE_GPU_TRAINING, 0, 1, 4 },
	/* The driver tries once more with a runtime PM reference, which could wake the GPU. */
	{ "registers cannot be read", NVGRACE_GPU_TRAINING, -EIO, -EIO, 5 },
	/* So it does if the PCI core knows that the GPU has gone. */
	{ "goes", NVGRACE_GPU_TRAINING, -ENODEV, -EIO, 5 },
};

KUNIT_ARRAY_PARAM_DESC(ready, ready_cases, name);

static int fake_read_status(struct nvgrace_gpu_device *nvdev,
			    struct nvgrace_gpu_status *status)
{
	struct kunit *test = kunit_get_current_test();
	const struct ready_case *c = test->param_value;
	struct fixture *f = test->priv;

	return ++f->reads < 4 ? -EAGAIN : c->result;
}

/* Nothing is touched before the GPU is ready. */
static void access_waits_until_ready(struct kunit *test)
{
	const struct ready_case *c = test->param_value;
	struct fixture *f = test->priv;

	kunit_activate_static_stub(test, nvgrace_gpu_read_status, fake_read_status);
	if (c->result == -ENODEV)
		f->pdev.error_state = pci_channel_io_perm_failure;
	nvgrace_gpu_gate_revoke(&f->nvdev, c->ready);
	check_read(test, 0, 1, c->ret);
	KUNIT_EXPECT_EQ(test, f->reads, c->reads);

	f->reads = 0;
	nvgrace_gpu_gate_revoke(&f->nvdev, c->ready);
	check_write(test, 0, 1, c->ret);
	KUNIT_EXPECT_EQ(test, f->reads, c->reads);

	/* The hole does not need the device. */
	nvgrace_gpu_gate_revoke(&f->nvdev, NVGRACE_GPU_RESETTING);
	check_read(test, BACKED, 1, 1);
	check_write(test, BACKED, 1, 1);
}

struct poison_case {
	const char *name;
	u64 pos;
	size_t count;
	ssize_t ret;
};

/* Page 3 is poisoned. */
static const struct poison_case poison_cases[] = {
	{ "first byte", 3 * PAGE_SIZE, 1, -EHWPOISON },
	{ "last byte", 4 * PAGE_SIZE - 1, 1, -EHWPOISON },
	{ "over its beginning", 3 * PAGE_SIZE - 1, 2, -EHWPOISON },
	{ "over its end", 4 * PAGE_SIZE - 1, 2, -EHWPOISON },
	{ "all around", 2 * PAGE_SIZE, 3 * PAGE_SIZE, -EHWPOISON },
	{ "before", 2 * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE },
	{ "after", 4 * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE },
};

KUNIT_ARRAY_PARAM_DESC(poison, poison_cases, name);

static void poisoned_page(struct kunit *test)
{
	const struct poison_case *c = test->param_value;
	struct fixture *f = test->priv;

	KUNIT_ASSERT_FALSE(test, xa_is_err(xa_store(&f->nvdev.poison.pages,
						    PHYS_PFN(BASE) + 3,
						    xa_mk_value(1), GFP_KERNEL)));
	KUNIT_EXPECT_EQ(test, rw(test, c->pos, c->count, false), c->ret);
	KUNIT_EXPECT_EQ(test, rw(test, c->pos, c->count, true), c->ret);
	xa_destroy(&f->nvdev.poison.pages);
}

static ssize_t rw_when_killed(struct kunit *test, u64 pos, bool iswrite)
{
	ssize_t ret;

	sigaddset(&current->pending.signal, SIGKILL);
	set_tsk_thread_flag(current, TIF_SIGPENDING);
	ret = rw(test, pos, SZ_64K + 1, iswrite);
	flush_signals(current);
	return ret;
}

static void caller_is_killed(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, rw_when_killed(test, 0, false), -EINTR);
	KUNIT_EXPECT_EQ(test, rw_when_killed(test, 0, true), -EINTR);
	KUNIT_EXPECT_EQ(test, rw_when_killed(test, BACKED, false), -EINTR);
}

/* A reset of the device holds the lock meanwhile. */
struct holder {
	struct work_struct work;
	struct rw_semaphore *lock;
	struct completion taken, enough;
};

static void hold_lock(struct work_struct *work)
{
	struct holder *holder = container_of(work, struct holder, work);

	down_write(holder->lock);
	complete(&holder->taken);
	wait_for_completion(&holder->enough);
	up_write(holder->lock);
}

static void caller_is_killed_while_it_waits(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct holder holder = { .lock = &f->nvdev.core.memory_lock };

	nvgrace_gpu_gate_revoke(&f->nvdev, NVGRACE_GPU_TRAINING);
	init_completion(&holder.taken);
	init_completion(&holder.enough);
	INIT_WORK_ONSTACK(&holder.work, hold_lock);
	schedule_work(&holder.work);
	wait_for_completion(&holder.taken);

	KUNIT_EXPECT_EQ(test, rw_when_killed(test, 0, false), -ERESTARTSYS);
	KUNIT_EXPECT_EQ(test, rw_when_killed(test, 0, true), -ERESTARTSYS);
	/* The hole needs no lock, so only the signal ends this. */
	KUNIT_EXPECT_EQ(test, rw_when_killed(test, BACKED, false), -EINTR);

	complete(&holder.enough);
	flush_work(&holder.work);
	destroy_work_on_stack(&holder.work);
}

/* The kernel has a page of RAM mapped already, so the page is its own window. */
static void page_of_ram(struct kunit *test)
{
	struct fixture *f = test->priv;

	kunit_deactivate_static_stub(test, nvgrace_gpu_map_window);
	f->region->base = virt_to_phys(f->memory);
	check_read(test, 0, 3, 3);
	check_write(test, 1, 3, 3);
	KUNIT_EXPECT_EQ(test, f->windows, 0);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(read_table, rw_gen_params),
	KUNIT_CASE_PARAM(write_table, rw_gen_params),
	KUNIT_CASE(bad_buffer),
	KUNIT_CASE(nothing_can_be_mapped),
	KUNIT_CASE(reset_between_two_pieces),
	KUNIT_CASE_PARAM(by_power_state, power_gen_params),
	KUNIT_CASE_PARAM(access_waits_until_ready, ready_gen_params),
	KUNIT_CASE_PARAM(poisoned_page, poison_gen_params),
	KUNIT_CASE(caller_is_killed),
	KUNIT_CASE(caller_is_killed_while_it_waits),
	KUNIT_CASE(page_of_ram),
	{}
};

static struct kunit_suite suite = {
	.name = "nvgrace_gpu_rw",
	.init = fixture_init,
	.exit = fixture_exit,
	.test_cases = cases,
};

kunit_test_suite(suite);
