// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interrupts of a GPU: INTx, MSI, errors and requests, as eventfds. The kernel itself triggers
 * them, by VFIO's loopback, because a stand-in never interrupts. Meanwhile the GPU is reset, and
 * its config space written. vfio-pci-intx-race.c of awilliam/tests enables and disables INTx
 * against its unmask eventfd; the resets and MSI are ours.
 */
#include <poll.h>
#include <stdatomic.h>
#include <sys/eventfd.h>

#include "fault.h"
#include "fixture.h"
#include "knobs.h"
#include "task.h"

static const struct program program = {
	.what = "interrupts of a GPU that is reset meanwhile",
	.vars = { VAR_STANDIN, VAR_REGIONS, VAR_RESET },
	.args = "-r irqs.msi.loopback",
	.standin = true,
};

/* gpu_standin.c shows so many, and no index has more. */
#define NR_MSIS		4U
#define NR_EVENTS	NR_MSIS
#define STORM_MS	2000
#define VALUE		0x600df00d600df00dUL

#define TRIGGER		VFIO_IRQ_SET_ACTION_TRIGGER
#define MASK		VFIO_IRQ_SET_ACTION_MASK
#define UNMASK		VFIO_IRQ_SET_ACTION_UNMASK
#define NONE		VFIO_IRQ_SET_DATA_NONE
#define BOOL		VFIO_IRQ_SET_DATA_BOOL
#define EVENTFD		VFIO_IRQ_SET_DATA_EVENTFD

FIXTURE(irqs)
{
	struct vfio v;
	int fd;
	unsigned int index, count;
	int events[NR_EVENTS];
	volatile uint64_t *map;
};

FIXTURE_VARIANT(irqs)
{
	unsigned int index, count, flags;
};

FIXTURE_VARIANT_ADD(irqs, intx) {
	.index = VFIO_PCI_INTX_IRQ_INDEX,
	.count = 1,
	.flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED,
};

FIXTURE_VARIANT_ADD(irqs, msi) {
	.index = VFIO_PCI_MSI_IRQ_INDEX,
	.count = NR_MSIS,
	.flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
};

FIXTURE_VARIANT_ADD(irqs, err) {
	.index = VFIO_PCI_ERR_IRQ_INDEX,
	.count = 1,
	.flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
};

FIXTURE_VARIANT_ADD(irqs, req) {
	.index = VFIO_PCI_REQ_IRQ_INDEX,
	.count = 1,
	.flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
};

/* With LEN bytes of DATA, and SHORTER bytes less said in argsz. */
static int set_irqs_short(int fd, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
			  const void *data, size_t len, size_t shorter)
{
	uint64_t buf[8] = {};
	struct vfio_irq_set *set = (void *)buf;

	set->argsz = sizeof(*set) + len - shorter;
	set->flags = flags;
	set->index = index;
	set->start = start;
	set->count = count;
	if (len)
		memcpy(set->data, data, len);
	return ioctl(fd, VFIO_DEVICE_SET_IRQS, set);
}

static int set_irqs(int fd, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
		    const void *data, size_t len)
{
	return set_irqs_short(fd, flags, index, start, count, data, len, 0);
}

static int enable(int fd, unsigned int index, unsigned int count, const int *events)
{
	return set_irqs(fd, EVENTFD | TRIGGER, index, 0, count, events, count * sizeof(*events));
}

static int disable(int fd, unsigned int index)
{
	return set_irqs(fd, NONE | TRIGGER, index, 0, 0, NULL, 0);
}

static int trigger(int fd, unsigned int index, unsigned int start, unsigned int count)
{
	return set_irqs(fd, NONE | TRIGGER, index, start, count, NULL, 0);
}

/* How often an eventfd was signalled since the last call. */
static uint64_t signals(int event)
{
	uint64_t n = 0;

	return read(event, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void expect_signals(struct __test_metadata *_metadata, const FIXTURE_DATA(irqs) * self,
			   uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	const uint64_t wants[NR_EVENTS] = { a, b, c, d };
	unsigned int i;

	for (i = 0; i < self->count; i++) {
		EXPECT_EQ(wants[i], signals(self->events[i])) {
			TH_LOG("vector %u", i);
		}
	}
}

FIXTURE_SETUP(irqs)
{
	unsigned int i;

	ASSERT_TRUE(set_knob("ready_ms", 0));
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	self->index = variant->index;
	self->count = variant->count;
	for (i = 0; i < NR_EVENTS; i++) {
		self->events[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		ASSERT_LE(0, self->events[i]);
	}
	ASSERT_EQ(0, enable_memory(self->fd));
	self->map = map_region(&self->v, USEMEM, reserve(BLOCK, 0), 0, BLOCK);
	ASSERT_NE(MAP_FAILED, (void *)self->map);
	*self->map = VALUE;
}

FIXTURE_TEARDOWN(irqs)
{
	vfio_close(&self->v);
}

TEST_F(irqs, info)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = variant->index };
	struct vfio_device_info dev = { .argsz = sizeof(dev) };

	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_INFO, &dev));
	EXPECT_EQ(VFIO_PCI_NUM_IRQS, dev.num_irqs);
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_IRQ_INFO, &info));
	EXPECT_EQ(variant->count, info.count);
	EXPECT_EQ(variant->flags, info.flags);

	info.index = VFIO_PCI_NUM_IRQS;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_GET_IRQ_INFO, &info));
	info.argsz = sizeof(info) - 1;
	info.index = variant->index;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, VFIO_DEVICE_GET_IRQ_INFO, &info));
	EXPECT_ERRNO(EFAULT, ioctl(self->fd, VFIO_DEVICE_GET_IRQ_INFO, NULL));
	EXPECT_ERRNO(EFAULT, ioctl(self->fd, VFIO_DEVICE_SET_IRQS, NULL));

	/* An index that has no interrupts: MSI-X here. */
	info.argsz = sizeof(info);
	info.index = VFIO_PCI_MSIX_IRQ_INDEX;
	ASSERT_EQ(0, ioctl(self->fd, VFIO_DEVICE_GET_IRQ_INFO, &info));
	EXPECT_EQ(0, info.count);
	EXPECT_ERRNO(EINVAL, enable(self->fd, VFIO_PCI_MSIX_IRQ_INDEX, 1, self->events));
	EXPECT_ERRNO(EINVAL, disable(self->fd, VFIO_PCI_MSIX_IRQ_INDEX));
}

/* Each trigger is a signal of each eventfd that it names, and of no other. */
TEST_F(irqs, loopback)
{
	const uint8_t some[NR_EVENTS] = { 1, 0, 0, 1 };
	const bool msi = variant->index == VFIO_PCI_MSI_IRQ_INDEX;
	const int none = -1;

	EXPECT_ERRNO(EINVAL, trigger(self->fd, self->index, 0, 1));
	ASSERT_EQ(0, enable(self->fd, self->index, self->count, self->events));
	expect_signals(_metadata, self, 0, 0, 0, 0);
	EXPECT_EQ(0, trigger(self->fd, self->index, 0, self->count));
	expect_signals(_metadata, self, 1, 1, 1, 1);
	EXPECT_EQ(0, trigger(self->fd, self->index, 0, 1));
	EXPECT_EQ(0, trigger(self->fd, self->index, 0, 1));
	expect_signals(_metadata, self, 2, 0, 0, 0);
	EXPECT_EQ(0, set_irqs(self->fd, BOOL | TRIGGER, self->index, 0, self->count, some,
			      self->count));
	expect_signals(_metadata, self, 1, 0, 0, 1);
	EXPECT_EQ(0, set_irqs(self->fd, BOOL | TRIGGER, self->index, 0, 1, some + 1, 1));
	expect_signals(_metadata, self, 0, 0, 0, 0);
	if (msi) {
		EXPECT_EQ(0, trigger(self->fd, self->index, 1, 2));
		expect_signals(_metadata, self, 0, 1, 1, 0);
		/* One vector has no eventfd any more, and then has it again. */
		EXPECT_EQ(0, set_irqs(self->fd, EVENTFD | TRIGGER, self->index, 2, 1, &none,
				      sizeof(none)));
		EXPECT_EQ(0, trigger(self->fd, self->index, 0, 4));
		expect_signals(_metadata, self, 1, 1, 0, 1);
		EXPECT_EQ(0, set_irqs(self->fd, EVENTFD | TRIGGER, self->index, 2, 1,
				      &self->events[2], sizeof(none)));
		EXPECT_EQ(0, trigger(self->fd, self->index, 0, 4));
		expect_signals(_metadata, self, 1, 1, 1, 1);
	}

	EXPECT_EQ(0, disable(self->fd, self->index));
	EXPECT_ERRNO(EINVAL, trigger(self->fd, self->index, 0, 1));
	expect_signals(_metadata, self, 0, 0, 0, 0);
	/* And again, because another disable must not have left anything. */
	ASSERT_EQ(0, enable(self->fd, self->index, self->count, self->events));
	EXPECT_EQ(0, trigger(self->fd, self->index, 0, self->count));
	expect_signals(_metadata, self, 1, 1, 1, 1);
}

/* A call that is refused changes nothing: what was set is still signalled, once for a trigger. */
TEST_F(irqs, refused)
{
	const unsigned int index = variant->index, count = variant->count;
	const uint8_t ones[NR_EVENTS] = { 1, 1, 1, 1 };
	const struct {
		uint32_t flags, index, start, count;
		const void *data;
		size_t len, shorter;
		int err;
	} calls[] = {
		{ NONE | TRIGGER, VFIO_PCI_NUM_IRQS, 0, 1, NULL, 0, 0, EINVAL },
		{ NONE | TRIGGER, ~0U, 0, 1, NULL, 0, 0, EINVAL },
		{ NONE | TRIGGER, index, 0, count + 1, NULL, 0, 0, EINVAL },
		{ NONE | TRIGGER, index, count, 1, NULL, 0, 0, EINVAL },
		{ NONE | TRIGGER, index, count, 0, NULL, 0, 0, EINVAL },
		{ NONE | TRIGGER, index, 1, ~0U, NULL, 0, 0, EINVAL },
		{ NONE | TRIGGER, index, ~0U, 1, NULL, 0, 0, EINVAL },
		{ NONE | TRIGGER, index, 0x80000000, 0x80000000, NULL, 0, 0, EINVAL },
		/* argsz that is less than the struct, or than the data. */
		{ NONE | TRIGGER, index, 0, 1, NULL, 0, 1, EINVAL },
		{ BOOL | TRIGGER, index, 0, count, ones, count, 1, EINVAL },
		{ EVENTFD | TRIGGER, index, 0, count, self->events, count * sizeof(int), 1,
		  EINVAL },
		/* No kind of data, two, and an unknown one. */
		{ TRIGGER, index, 0, 1, NULL, 0, 0, EINVAL },
		{ NONE | BOOL | TRIGGER, index, 0, 1, ones, 1, 0, EINVAL },
		{ NONE | TRIGGER | 1U << 31, index, 0, 1, NULL, 0, 0, EINVAL },
		/* No action, and two. */
		{ NONE, index, 0, 1, NULL, 0, 0, ENOTTY },
		{ NONE | MASK | TRIGGER, index, 0, 1, NULL, 0, 0, ENOTTY },
	};
	unsigned int i;

	ASSERT_EQ(0, enable(self->fd, index, count, self->events));
	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		errno = 0;
		EXPECT_EQ(-1, set_irqs_short(self->fd, calls[i].flags, calls[i].index,
					     calls[i].start, calls[i].count, calls[i].data,
					     calls[i].len, calls[i].shorter));
		EXPECT_EQ(calls[i].err, errno) {
			TH_LOG("call %u", i);
		}
		expect_signals(_metadata, self, 0, 0, 0, 0);
		EXPECT_EQ(0, trigger(self->fd, index, 0, count));
		expect_signals(_metadata, self, 1, 1, 1, 1);
	}
	if (index != VFIO_PCI_INTX_IRQ_INDEX) {
		EXPECT_ERRNO(ENOTTY, set_irqs(self->fd, NONE | MASK, index, 0, 1, NULL, 0));
		EXPECT_ERRNO(ENOTTY, set_irqs(self->fd, NONE | UNMASK, index, 0, 1, NULL, 0));
	}
	/* INTx and MSI exclude each other. */
	if (index == VFIO_PCI_MSI_IRQ_INDEX)
		EXPECT_ERRNO(EINVAL, enable(self->fd, VFIO_PCI_INTX_IRQ_INDEX, 1, self->events));
	if (index == VFIO_PCI_INTX_IRQ_INDEX)
		EXPECT_ERRNO(EINVAL, enable(self->fd, VFIO_PCI_MSI_IRQ_INDEX, 1, self->events));
	EXPECT_EQ(0, trigger(self->fd, index, 0, count));
	expect_signals(_metadata, self, 1, 1, 1, 1);
}

/* The kernel refuses an fd that is not an eventfd, and an eventfd can be set afterwards. */
TEST_F(irqs, not_an_eventfd)
{
	int closed = dup(self->events[0]), file = self->fd;

	close(closed);
	EXPECT_ERRNO(EBADF, enable(self->fd, self->index, 1, &closed));
	EXPECT_ERRNO(EINVAL, enable(self->fd, self->index, 1, &file));
	ASSERT_EQ(0, enable(self->fd, self->index, self->count, self->events));
	EXPECT_EQ(0, trigger(self->fd, self->index, 0, self->count));
	expect_signals(_metadata, self, 1, 1, 1, 1);
}

/* An eventfd that is set is held, also when the VMM has closed its own. Close undoes all. */
TEST_F(irqs, device_is_closed_while_enabled)
{
	struct pollfd p = { .fd = self->events[0], .events = POLLIN };

	ASSERT_EQ(0, enable(self->fd, self->index, self->count, self->events));
	EXPECT_EQ(0, trigger(self->fd, self->index, 0, self->count));
	munmap((void *)self->map, BLOCK);
	reopen_device(_metadata, &self->v, &self->fd);
	EXPECT_EQ(1, poll(&p, 1, 0));
	expect_signals(_metadata, self, 1, 1, 1, 1);
	EXPECT_ERRNO(EINVAL, trigger(self->fd, self->index, 0, 1));
	ASSERT_EQ(0, enable(self->fd, self->index, self->count, self->events));
	close(self->events[0]);
	EXPECT_EQ(0, trigger(self->fd, self->index, 0, self->count));
	EXPECT_EQ(0, disable(self->fd, self->index));
}

/* ------------------------------------------------------------------------ */

/* Threads that go on until the test stops them. */
struct worker {
	const FIXTURE_DATA(irqs) * self;
	int unmask;			/* eventfd */
	atomic_bool *stop;
	uint64_t done, failed;
	uint64_t memory_off;		/* loads that found it so */
	int err;
};

static void count(struct worker *w, int ret)
{
	w->done++;
	if (!ret)
		return;
	w->failed++;
	w->err = errno;
}

static void *trigger_over_and_over(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(w->stop))
		count(w, trigger(w->self->fd, w->self->index, 0, w->self->count));
	return NULL;
}

/* A reset may find a lock taken, and be tried again. */
static int reset_once(const struct vfio *v, unsigned int round)
{
	int ret = round % 2 && !reset_is("flr") ? hot_reset(v) :
						  ioctl(v->device, VFIO_DEVICE_RESET);

	return ret && (errno == EAGAIN || errno == EBUSY) ? 0 : ret;
}

/* Bytes that the function itself has in config space, and not those that VFIO shows of it. */
static bool raw_config(unsigned int pos, void *bytes, size_t len)
{
	char path[PATH_MAX];
	int fd = open(device_path(path, sizeof(path), "config"), O_RDONLY | O_CLOEXEC);
	bool got = pread(fd, bytes, len, pos) == (ssize_t)len;

	close(fd);
	return got;
}

/*
 * Load from the memory. To enable or disable INTx the core reads PCI_COMMAND and writes it back
 * with another bit. If the VMM turns memory on in between, it is off again afterwards, and the
 * driver cannot find out whether the GPU is ready: SIGBUS. Then the VMM has to turn it on again.
 */
static int load(struct worker *w)
{
	volatile uint64_t value = 0;
	uint16_t command;
	int i;

	for (i = 0; i < 10; i++) {
		struct fault fault = fault_of(value = *w->self->map);

		if (!fault.sig)
			return value != VALUE;
		if (w->self->index != VFIO_PCI_INTX_IRQ_INDEX ||
		    !raw_config(PCI_COMMAND, &command, 2) || command & PCI_COMMAND_MEMORY)
			break;
		w->memory_off++;
		config_modify(w->self->fd, PCI_COMMAND, 0, PCI_COMMAND_MEMORY);
	}
	errno = EFAULT;
	return -1;
}

/* Resets, writes of config space, and a load from the memory after each. */
static void *reset_over_and_over(void *arg)
{
	struct worker *w = arg;
	int fd = w->self->fd;
	unsigned int msi = config_find_cap(fd, PCI_CAP_ID_MSI);

	while (!atomic_load(w->stop)) {
		count(w, reset_once(&w->self->v, w->done));
		count(w, config_modify(fd, PCI_COMMAND, PCI_COMMAND_MEMORY, PCI_COMMAND_MASTER));
		count(w, config_modify(fd, PCI_COMMAND, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY));
		count(w, config_modify(fd, msi + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE, 0));
		count(w, config_modify(fd, msi + PCI_MSI_FLAGS, 0, PCI_MSI_FLAGS_ENABLE));
		count(w, config_modify(fd, PCI_BASE_ADDRESS_2, 0, 0xffff));
		count(w, load(w));
	}
	return NULL;
}

static void *unmask_over_and_over(void *arg)
{
	struct worker *w = arg;
	uint64_t one = 1;

	while (!atomic_load(w->stop))
		count(w, write(w->unmask, &one, 8) != 8);
	return NULL;
}

static void expect_all_done(struct __test_metadata *_metadata, const struct worker *w)
{
	EXPECT_LT(0, w->done);
	EXPECT_EQ(0, w->failed) TH_LOG("%lu of %lu: %s", w->failed, w->done, strerror(w->err));
}

/* Not one signal is lost, and none too many, while the GPU is reset. */
TEST_F_TIMEOUT(irqs, triggered_while_reset, 120)
{
	atomic_bool stop = false;
	struct worker triggers = { .self = self, .stop = &stop }, resets = triggers;
	uint64_t sums[NR_EVENTS] = {};
	pthread_t threads[2];
	unsigned int i;
	long end;

	ASSERT_EQ(0, enable(self->fd, self->index, self->count, self->events));
	ASSERT_EQ(0, pthread_create(&threads[0], NULL, trigger_over_and_over, &triggers));
	ASSERT_EQ(0, pthread_create(&threads[1], NULL, reset_over_and_over, &resets));
	for (end = now_ms() + STORM_MS; now_ms() < end; usleep(1000))
		for (i = 0; i < self->count; i++)
			sums[i] += signals(self->events[i]);
	atomic_store(&stop, true);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));

	expect_all_done(_metadata, &triggers);
	expect_all_done(_metadata, &resets);
	for (i = 0; i < self->count; i++)
		EXPECT_EQ(triggers.done, sums[i] + signals(self->events[i]));
	TH_LOG("%lu triggers, %lu resets", triggers.done, resets.done / 7);
	EXPECT_EQ(0, disable(self->fd, self->index));
}

/*
 * Enabled, triggered once and disabled, over and over, while the GPU is reset. INTx may be
 * signalled more often: config space of a GPU in reset reads all ones, and the kernel, asked to
 * unmask, finds an interrupt pending there.
 */
TEST_F_TIMEOUT(irqs, enabled_while_reset, 120)
{
	const bool intx = variant->index == VFIO_PCI_INTX_IRQ_INDEX;
	atomic_bool stop = false;
	struct worker resets = {
		.self = self,
		.stop = &stop,
		.unmask = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
	}, unmasks = resets, mine = {};
	pthread_t threads[2];
	unsigned int i;
	long end;

	ASSERT_EQ(0, pthread_create(&threads[0], NULL, reset_over_and_over, &resets));
	ASSERT_EQ(0, pthread_create(&threads[1], NULL, unmask_over_and_over, &unmasks));
	for (end = now_ms() + STORM_MS; now_ms() < end;) {
		count(&mine, enable(self->fd, self->index, self->count, self->events));
		if (intx) {
			count(&mine, set_irqs(self->fd, EVENTFD | UNMASK, self->index, 0, 1,
					      &resets.unmask, sizeof(int)));
			count(&mine, set_irqs(self->fd, NONE | MASK, self->index, 0, 1, NULL, 0));
			count(&mine, set_irqs(self->fd, NONE | UNMASK, self->index, 0, 1, NULL,
					      0));
		}
		count(&mine, trigger(self->fd, self->index, 0, self->count));
		for (i = 0; i < self->count; i++) {
			uint64_t n = signals(self->events[i]);

			EXPECT_TRUE(n == 1 || (n && intx));
		}
		count(&mine, disable(self->fd, self->index));
	}
	atomic_store(&stop, true);
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	expect_all_done(_metadata, &mine);
	expect_all_done(_metadata, &resets);
	EXPECT_LT(0, unmasks.done);
	TH_LOG("%lu calls, %lu resets, memory was off %lu times", mine.done, resets.done / 7,
	       resets.memory_off);
}

/* ------------------------------------------------------------------------ */

FIXTURE(events)
{
	struct vfio v;
	int fd;
	int event;
	volatile uint64_t *map;
};

FIXTURE_SETUP(events)
{
	ASSERT_TRUE(set_knob("ready_ms", 0));
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	self->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_LE(0, self->event);
	ASSERT_EQ(0, enable_memory(self->fd));
	self->map = map_region(&self->v, USEMEM, reserve(BLOCK, 0), 0, BLOCK);
	ASSERT_NE(MAP_FAILED, (void *)self->map);
	*self->map = VALUE;
}

FIXTURE_TEARDOWN(events)
{
	vfio_close(&self->v);
}

/* Each non-fatal error of the GPU is a signal, and its memory is there afterwards. */
TEST_F_TIMEOUT(events, error, 120)
{
	unsigned int i;

	ASSERT_EQ(0, enable(self->fd, VFIO_PCI_ERR_IRQ_INDEX, 1, &self->event));
	ASSERT_TRUE(set_knob("aer_correctable", PCI_ERR_COR_RCVR));
	for (i = 0; i < 3; i++) {
		ASSERT_TRUE(set_knob("aer_uncorrectable", PCI_ERR_UNC_COMP_TIME));
		EXPECT_TRUE(wait_until(signals(self->event) == 1, 20000));
		/* The driver ends the recovery a moment later; a load waits for that. */
		EXPECT_EQ(0, fault_of((void)*self->map).sig);
		EXPECT_EQ(VALUE, *self->map);
		ASSERT_TRUE(wait_until(!knob("aer_uncorrectable"), 20000));
	}
	EXPECT_EQ(0, signals(self->event));
}

struct unbinding {
	char driver[PATH_MAX];		/* its directory in sysfs */
	char bdf[32];
	int result;
};

static int write_driver(const struct unbinding *u, const char *file)
{
	char path[PATH_MAX + 8];

	snprintf(path, sizeof(path), "%s/%s", u->driver, file);
	return write_file(path, u->bdf);
}

static void *unbind(void *arg)
{
	struct unbinding *u = arg;

	u->result = write_driver(u, "unbind");
	return NULL;
}

/* A driver that is unbound asks the VMM for the GPU, and gets it when the VMM has closed it. */
TEST_F_TIMEOUT(events, request, 120)
{
	struct unbinding u = {};
	char path[PATH_MAX];
	pthread_t thread;

	memcpy(u.bdf, self->v.bdf, sizeof(u.bdf));
	ASSERT_NE(NULL, realpath(device_path(path, sizeof(path), "driver"), u.driver));
	ASSERT_EQ(0, enable(self->fd, VFIO_PCI_REQ_IRQ_INDEX, 1, &self->event));
	ASSERT_EQ(0, pthread_create(&thread, NULL, unbind, &u));

	EXPECT_TRUE(wait_until(signals(self->event), 60000));
	EXPECT_EQ(EBUSY, pthread_tryjoin_np(thread, NULL));
	/* The VMM has the memory until then. The task that unbinds holds the device's lock. */
	EXPECT_EQ(VALUE, *self->map);
	EXPECT_ERRNO(EAGAIN, ioctl(self->fd, VFIO_DEVICE_RESET));
	EXPECT_EQ(VALUE, *self->map);

	munmap((void *)self->map, BLOCK);
	vfio_close(&self->v);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, u.result);
	ASSERT_EQ(0, write_driver(&u, "bind"));
	EXPECT_EQ(0, vfio_open(&self->v, BEST_MODE));
}

/* A reset leaves MSI as the VMM had it: the function gets back vectors, address and data. */
TEST_F(events, msi_after_reset)
{
	int events[NR_MSIS] = { self->event };
	uint8_t before[PCI_MSI_MASK_64], after[PCI_MSI_MASK_64];
	unsigned int cap = config_find_cap(self->fd, PCI_CAP_ID_MSI), i, vector;

	ASSERT_NE(0, cap);
	for (i = 1; i < NR_MSIS; i++)
		events[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_EQ(0, enable(self->fd, VFIO_PCI_MSI_IRQ_INDEX, NR_MSIS, events));
	ASSERT_TRUE(raw_config(cap, before, sizeof(before)));
	EXPECT_TRUE(before[PCI_MSI_FLAGS] & PCI_MSI_FLAGS_ENABLE);
	for (i = 0; i < 4; i++) {
		ASSERT_EQ(0, reset_once(&self->v, i));
		ASSERT_TRUE(raw_config(cap, after, sizeof(after)));
		EXPECT_EQ(0, memcmp(before, after, sizeof(before)));
		EXPECT_EQ(0, trigger(self->fd, VFIO_PCI_MSI_IRQ_INDEX, 0, NR_MSIS));
		for (vector = 0; vector < NR_MSIS; vector++)
			EXPECT_EQ(1, signals(events[vector]));
	}
}

TEST_PROGRAM_MAIN(program)
