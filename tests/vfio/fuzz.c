// SPDX-License-Identifier: GPL-2.0-only
/*
 * A fuzzer with a model. Threads and processes use the device in every way that user space
 * has, and a model says what each operation may return.
 *
 * A run is a number of rounds. A round has a seed, which decides all but the order in
 * which the kernel runs the workers. It opens the device, and consists of phases:
 *
 *	solo	one worker alone, which resets the GPU, puts it to sleep and turns its
 *		memory off in between: the model knows the state of the GPU, and says of each
 *		operation whether it succeeds or fails
 *	quiet	all workers at once, and nothing disturbs them: all has to succeed
 *	storm	all workers at once, and one more task that disturbs them in a few of those
 *		ways: an operation may fail as Documentation/access.rst allows, and what it
 *		returns is right
 *
 * Each worker has slices of both regions, of BAR0 and of EGM to itself, so that the model knows
 * each byte. All workers share the one file that owns EGM. Resets and power states of the GPU do
 * not change EGM, and each round begins with zeroes there. One worker owns the BAR registers. Some
 * workers are processes, which get SIGKILL in the midst of an operation. A worker draws each
 * operation from the seed and the operation's number, whatever the results of those before.
 */
#include <malloc.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>

#include "fault.h"
#include "fixture.h"
#include "knobs.h"
#include "pattern.h"
#include "slice.h"
#include "task.h"
#include "trouble.h"
#include "../../nvgrace_gpu_egm.h"

static const struct program program = {
	.what = "every operation of a VFIO user at random, from many tasks, against a model",
	.vars = {
		VAR_STANDIN, VAR_REGIONS, VAR_RESET,
		{ "EGM", "name of the EGM node, without retired blocks", "egm4" },
		{ "SEED", "of the one round to run", "1234", true },
		{ "SEED_BASE", "the rounds' seeds follow from it; else they are random", "1234",
		  true },
		{ "FUZZ_SECONDS", "how long to begin rounds (SEED: one round; else 60)", "600",
		  true },
		{ "MBIND", "1 if mbind() with MPOL_MF_STRICT does not oops here", "1", true },
	},
	.standin = true,
};

/* The areas that workers have slices of: both regions, EGM and BAR0. All but BAR0 can be mapped. */
enum { EGM = NR_REGIONS, NR_MAPPED, BAR0 = NR_MAPPED, NR_AREAS };

enum {
	UFFD_WORKER,		/* a thread; userfaultfd brings some of its buffers */
	BAR_OWNER = 4,		/* a thread; it alone writes the BAR registers */
	NR_CROWD,
	SOLO = NR_CROWD,	/* the main task, while the others wait */
	NR_WORKERS,
};

#define IS_PROCESS(nr)	((nr) == 1 || (nr) == 3)
#define IS_LARGE(nr)	((nr) <= 1)

/* The driver moves a MiB at a time. */
#define LARGE		(MIB(2) + KIB(192))
#define SMALL		KIB(192)
#define BAR0_SLICE	256
/* BAR0's own registers are below this. */
#define BAR0_FREE	MIB(8)

#define SOLO_OPS	60
#define QUIET_OPS	60
#define STORM_OPS	40

/* No wait is longer than for a GPU that never gets ready, 30 s; and this GPU gets ready. */
#define TOO_LONG_MS	20000
#define HANGS_MS	60000

/* Disturbances of the workers in a storm. */
#define STORM_RESET	1
#define STORM_D3	2
#define STORM_MEMORY	4	/* off, also while the GPU is not known to be ready */
#define STORM_LOW_POWER	8
#define STORM_SIGNAL	16

enum want { MUST, MAY, MUST_NOT };

/* What maps a page of a worker's arena? */
struct mapped {
	uint32_t page;		/* of the region */
	uint8_t area;
	uint8_t prot;
	bool is;		/* anything */
	bool not_in_child;	/* by MADV_DONTFORK */
};

#define MAX_OPS	48

struct worker {
	unsigned int nr;
	pid_t pid;		/* of a process */
	pid_t child;		/* that it has forked for an operation */
	pthread_t thread;
	struct slice slices[NR_AREAS];
	uint8_t *data;		/* the bytes of a write that goes on */
	uint8_t *got;
	uint8_t *bad;		/* a page, one that can be read, and one that is not there */
	uint8_t *fresh;		/* FRESH bytes of private memory, none of them there yet */
	uint8_t *late;		/* the same, and userfaultfd brings the pages */
	uint8_t *arena;
	struct mapped *table;
	int pipe[2];
	int file;
	/* Its phase. */
	unsigned int phase;
	enum want rw, touch, bar0;
	/* Its operation. */
	unsigned long op;
	unsigned int what;
	long since;
	uint64_t rng;
	bool passed;		/* it has used the memory */
	unsigned long done[MAX_OPS], refused[MAX_OPS];
};

#define FRESH		KIB(64)
#define MAX_CANDIDATES	16

/* The values that a BAR register can hold. */
struct bar {
	unsigned int nr;
	uint64_t values[MAX_CANDIDATES];
};

/* Shared by all tasks. */
static struct fuzz {
	struct vfio v;
	int egm;
	uint64_t egm_size;
	uint64_t seed;
	unsigned int storm;
	unsigned int phase;
	unsigned long target;	/* operations that each worker has done at the phase's end */
	bool phase_over, round_over, failed;
	long beat;		/* when the main task last went on */
	bool group_fds;		/* a second fd can be had */
	bool may_exec;
	bool process_vm;	/* the kernel has process_vm_readv() */
	char message[512];
	struct bar bars[NR_REGIONS];
	uint8_t config[64];
	unsigned int pmcsr;
	unsigned long rounds, resets, sleeps, kills;
	struct worker workers[NR_WORKERS];
} *f;

static const char *op_name(const struct worker *w);

/* The first violation ends the run. */
static void __printf(2, 3) broken(struct worker *w, const char *fmt, ...)
{
	char text[320];
	int saved = errno;
	va_list args;

	if (__atomic_exchange_n(&f->failed, true, __ATOMIC_SEQ_CST))
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (w)
		snprintf(f->message, sizeof(f->message), "%s %u, operation %lu, %s, %s 0x%x: %s",
			 IS_PROCESS(w->nr) ? "process" : "thread", w->nr, w->op, op_name(w),
			 w->nr == SOLO ? "solo" : f->storm ? "storm" : "quiet",
			 f->storm, text);
	else
		snprintf(f->message, sizeof(f->message), "%s", text);
	errno = saved;
}

static bool is_over(void)
{
	return __atomic_load_n(&f->failed, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&f->round_over, __ATOMIC_RELAXED);
}

static int open_egm(struct worker *w)
{
	char node[64];
	int fd;

	snprintf(node, sizeof(node), "/dev/%s", getenv("EGM"));
	fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		broken(w, "open of %s: %s", node, strerror(errno));
	return fd;
}

static void beat(void)
{
	__atomic_store_n(&f->beat, now_ms(), __ATOMIC_RELAXED);
}

/* ---- what is drawn */

static uint64_t draw(struct worker *w)
{
	return pattern(0, w->rng += 0x632be59bd9b4e019);
}

static uint64_t below(struct worker *w, uint64_t n)
{
	return draw(w) % n;
}

static bool one_in(struct worker *w, unsigned int n)
{
	return !below(w, n);
}

/* Short ones mostly. */
static size_t draw_length(struct worker *w, size_t max)
{
	static const unsigned int typical[] = { 8, 64, 300, 300, 9000, 70000 };
	unsigned int i = below(w, ARRAY_SIZE(typical) + 1);
	size_t len = 1 + below(w, i < ARRAY_SIZE(typical) ? typical[i] : max);

	return len < max ? len : 1 + len % max;
}

static void fill(struct worker *w, uint8_t *p, size_t len)
{
	uint64_t word;
	size_t i;

	for (i = 0; i < len; i += sizeof(word)) {
		word = draw(w);
		memcpy(p + i, &word, len - i < sizeof(word) ? len - i : sizeof(word));
	}
}

/* A place in a slice; returns its length. */
static size_t draw_place(struct worker *w, unsigned int area, size_t max, size_t *at)
{
	size_t left;

	*at = one_in(w, 4) ? 0 : below(w, w->slices[area].len);
	left = w->slices[area].len - *at;
	return draw_length(w, left < max ? left : max);
}

/* ---- what the model says */

static int area_fd(unsigned int area)
{
	return area == EGM ? f->egm : f->v.device;
}

static uint64_t area_backed(unsigned int area)
{
	return area == EGM ? f->egm_size : f->v.regions[area].backed;
}

static uint64_t area_offset(unsigned int area)
{
	if (area == EGM)
		return 0;
	return area == BAR0 ? VFIO_OFFSET(VFIO_PCI_BAR0_REGION_INDEX) : f->v.regions[area].off;
}

static uint64_t offset_of(struct worker *w, unsigned int area, size_t at)
{
	return area_offset(area) + w->slices[area].pos + at;
}

static enum want rw_want(const struct worker *w, unsigned int area)
{
	return area == BAR0 ? w->bar0 : w->rw;
}

/* Loads from the area, and stores to it. */
static enum want touch_want(const struct worker *w, unsigned int area)
{
	return area == EGM ? MUST : w->touch;
}

static void used(struct worker *w, unsigned int area)
{
	w->passed |= area != EGM && area != BAR0;
}

static void done(struct worker *w)
{
	w->done[w->what]++;
}

static void refused(struct worker *w)
{
	w->refused[w->what]++;
}

/* A system call on an area returned RET. True if the model allows that. */
static bool rw_succeeded(struct worker *w, unsigned int area, ssize_t ret, size_t len)
{
	enum want want = rw_want(w, area);

	if (ret == (ssize_t)len && want != MUST_NOT) {
		used(w, area);
		done(w);
		return true;
	}
	if (ret == -1 && errno == EIO && want != MUST) {
		refused(w);
		return false;
	}
	broken(w, "%zu bytes of area %u returned %zd (%s), and has to %s", len, area, ret,
	       ret < 0 ? strerror(errno) : "no error",
	       want == MUST ? "succeed" : want == MAY ? "succeed or be EIO" : "be EIO");
	return false;
}

/* The same for loads and stores, which took the signal SIG, or none. */
static bool touch_succeeded(struct worker *w, unsigned int area, int sig)
{
	enum want want = touch_want(w, area);

	if (!sig && want != MUST_NOT) {
		used(w, area);
		done(w);
		return true;
	}
	if (sig == SIGBUS && want != MUST) {
		refused(w);
		return false;
	}
	broken(w, "signal %d in area %u, should be %s", sig, area,
	       want == MUST ? "none" : want == MAY ? "none or SIGBUS" : "SIGBUS");
	return false;
}

/* And for system calls in which the kernel loads from a mapping, or stores to it. */
static bool copy_succeeded(struct worker *w, unsigned int area, ssize_t ret, size_t len)
{
	enum want want = touch_want(w, area);

	if (ret == (ssize_t)len && want != MUST_NOT) {
		used(w, area);
		done(w);
		return true;
	}
	if (want != MUST && ((ret == -1 && errno == EFAULT) ||
			     (ret >= 0 && ret < (ssize_t)len))) {
		refused(w);
		return false;
	}
	broken(w, "a copy of %zu bytes returned %zd (%s)", len, ret,
	       ret < 0 ? strerror(errno) : "no error");
	return false;
}

static void must_fail(struct worker *w, ssize_t ret, int err, const char *what)
{
	if (ret >= 0 || (err && errno != err))
		broken(w, "%s returned %zd (%s)", what, ret,
		       ret < 0 ? strerror(errno) : "no error");
	else
		done(w);
}

static void must_read(struct worker *w, unsigned int area, size_t at, const uint8_t *got,
		      size_t len)
{
	struct slice *s = &w->slices[area];
	ssize_t wrong = slice_read(s, at, got, len);

	if (wrong >= 0)
		broken(w, "area %u at 0x%lx reads 0x%02x, not 0x%02x%s (%zu bytes from 0x%lx)",
		       area, s->pos + wrong, got[wrong - at], s->value[wrong],
		       s->state[wrong] == BYTE_EITHER ? " or one other value" : "", len,
		       s->pos + at);
}

static void must_be_ones(struct worker *w, const uint8_t *got, size_t len)
{
	if (!all_ones(got, len))
		broken(w, "%zu bytes of the hole are not all ones", len);
}

/* Put a write on record, with data for it. */
static const uint8_t *begin_write(struct worker *w, unsigned int area, size_t at, size_t len)
{
	uint8_t *data = w->data + below(w, 64);

	fill(w, data, len);
	slice_begin(&w->slices[area], at, data, len);
	return data;
}

static void end_write(struct worker *w, unsigned int area, bool succeeded, enum want want)
{
	if (succeeded)
		slice_written(&w->slices[area]);
	else if (want == MUST_NOT)
		slice_not_written(&w->slices[area]);
	else
		slice_perhaps_written(&w->slices[area]);
}

/* Stores wrote what is on record, and took the signal SIG, or none. */
static void end_stores(struct worker *w, unsigned int area, int sig)
{
	end_write(w, area, touch_succeeded(w, area, sig), touch_want(w, area));
}

/* A system call stored what is on record, and returned RET. */
static void end_copy(struct worker *w, unsigned int area, ssize_t ret, size_t len)
{
	end_write(w, area, copy_succeeded(w, area, ret, len), touch_want(w, area));
}

/* ---- read and write */

static unsigned int draw_region(struct worker *w)
{
	return below(w, NR_REGIONS);
}

/* One that can be mapped. */
static unsigned int draw_area(struct worker *w)
{
	return below(w, NR_MAPPED);
}

static void read_slice(struct worker *w, unsigned int area, size_t at, size_t len, uint8_t *buf)
{
	uint8_t guard = draw(w);

	buf[len] = guard;
	if (rw_succeeded(w, area, pread(f->v.device, buf, len, offset_of(w, area, at)), len))
		must_read(w, area, at, buf, len);
	if (buf[len] != guard)
		broken(w, "a read of %zu bytes stored after its buffer", len);
}

static void write_slice(struct worker *w, unsigned int area, size_t at, const uint8_t *buf,
			size_t len)
{
	ssize_t ret = pwrite(f->v.device, buf, len, offset_of(w, area, at));

	end_write(w, area, rw_succeeded(w, area, ret, len), rw_want(w, area));
}

static void op_read(struct worker *w)
{
	unsigned int area = draw_region(w);
	size_t at, len = draw_place(w, area, -1, &at);

	read_slice(w, area, at, len, w->got + below(w, 64));
}

static void op_write(struct worker *w)
{
	unsigned int area = draw_region(w);
	size_t at, len = draw_place(w, area, -1, &at);

	write_slice(w, area, at, begin_write(w, area, at, len), len);
}

/* One access of a register's size, aligned to it. */
static void op_word(struct worker *w)
{
	unsigned int area = draw_region(w);
	size_t len = 1 << below(w, 4), at = below(w, w->slices[area].len - 16);

	at += -(w->slices[area].pos + at) & (len - 1);
	if (one_in(w, 2))
		read_slice(w, area, at, len, w->got);
	else
		write_slice(w, area, at, begin_write(w, area, at, len), len);
}

/* BAR0 is vfio_pci_core's: the driver must leave it alone. */
static void op_bar0(struct worker *w)
{
	size_t at, len = draw_place(w, BAR0, -1, &at);

	if (one_in(w, 2))
		read_slice(w, BAR0, at, len, w->got);
	else
		write_slice(w, BAR0, at, begin_write(w, BAR0, at, len), len);
	/* Bytes that a reset may take away, or drop. */
	if (w->bar0 == MAY)
		slice_forget(&w->slices[BAR0]);
}

static void op_vector(struct worker *w)
{
	unsigned int area = draw_region(w);
	size_t at, len = draw_place(w, area, -1, &at), cut[2];
	bool write = one_in(w, 2);
	struct iovec iov[3];
	uint8_t *buf;
	ssize_t ret;

	buf = write ? (uint8_t *)begin_write(w, area, at, len) : w->got;
	cut[0] = below(w, len + 1);
	cut[1] = cut[0] + below(w, len - cut[0] + 1);
	iov[0] = (struct iovec) { buf, cut[0] };
	iov[1] = (struct iovec) { buf + cut[0], cut[1] - cut[0] };
	iov[2] = (struct iovec) { buf + cut[1], len - cut[1] };
	if (write)
		ret = pwritev(f->v.device, iov, 3, offset_of(w, area, at));
	else
		ret = preadv(f->v.device, iov, 3, offset_of(w, area, at));

	/* Each piece is a call of its own, and a disturbance can come in between. */
	if (w->rw == MAY && (ret == (ssize_t)cut[0] || ret == (ssize_t)cut[1])) {
		if (write)
			slice_perhaps_written(&w->slices[area]);
		else
			must_read(w, area, at, buf, ret);
		return;
	}
	if (!rw_succeeded(w, area, ret, len)) {
		if (write)
			end_write(w, area, false, w->rw);
	} else if (write) {
		slice_written(&w->slices[area]);
	} else {
		must_read(w, area, at, buf, len);
	}
}

/* The hole and the offsets beyond it are not memory, so the state of the GPU has no effect. */
static void op_hole(struct worker *w)
{
	const struct region *r = &f->v.regions[draw_region(w)];
	uint64_t hole = r->size - r->backed, pos;
	size_t len = draw_length(w, SMALL), count;
	bool write = one_in(w, 3);
	ssize_t ret;

	switch (below(w, 4)) {
	case 0:
		pos = r->backed;
		break;
	case 1:
		pos = r->size - 1 - below(w, 5000);
		break;
	case 2:
		pos = r->size + (one_in(w, 2) ? 0 : below(w, GIB(1)));
		break;
	default:
		pos = r->backed + (hole ? below(w, hole) : 0);
		break;
	}
	if (pos < r->backed)
		return;

	memset(w->got, 0, len);
	if (write)
		ret = pwrite(f->v.device, w->got, len, r->off + pos);
	else
		ret = pread(f->v.device, w->got, len, r->off + pos);
	if (pos >= r->size) {
		must_fail(w, ret, EINVAL, "an access beyond the BAR");
		return;
	}
	count = len < r->size - pos ? len : r->size - pos;
	if (ret != (ssize_t)count) {
		broken(w, "%zu bytes at 0x%lx of the hole returned %zd", len, pos, ret);
		return;
	}
	done(w);
	if (!write)
		must_be_ones(w, w->got, count);
}

/* Across the end of real memory. */
static void op_edge(struct worker *w)
{
	unsigned int area = draw_region(w);
	const struct region *r = &f->v.regions[area];
	struct slice *s = &w->slices[area];
	size_t before = 1 + below(w, 9000), after = 1 + below(w, 9000), len, count;
	bool mine = s->pos + s->len == r->backed;
	size_t at = s->len - before;
	ssize_t ret;

	/* A request beyond the BAR has no effect. */
	len = before + after;
	if (after > r->size - r->backed)
		after = r->size - r->backed;
	count = before + after;

	if (mine && one_in(w, 2)) {
		const uint8_t *data = begin_write(w, area, at, len);

		s->count = before;
		ret = pwrite(f->v.device, data, len, r->off + r->backed - before);
		end_write(w, area, rw_succeeded(w, area, ret, count), w->rw);
		return;
	}
	memset(w->got, 0, len);
	ret = pread(f->v.device, w->got, len, r->off + r->backed - before);
	if (!rw_succeeded(w, area, ret, count))
		return;
	if (mine)
		must_read(w, area, at, w->got, before);
	must_be_ones(w, w->got + before, after);
}

/*
 * The first bytes of the buffer are good, and the rest is not. The driver may poll the GPU first.
 */
static void op_bad_buffer(struct worker *w)
{
	unsigned int area = draw_region(w);
	bool write = one_in(w, 2);
	size_t max = write ? 2 * PAGE : PAGE;
	size_t at, len = draw_place(w, area, 2 * max, &at), good = below(w, len);
	uint8_t *buf = NULL;
	ssize_t ret;

	if (good > max || one_in(w, 4))
		good = 0;
	else
		buf = w->bad + max - good;

	if (write) {
		/* The good bytes hold zeroes. A process may have died after a read into them. */
		memset(w->bad, 0, PAGE);
		memset(w->data, 0, len);
		slice_begin(&w->slices[area], at, w->data, good);
		ret = pwrite(f->v.device, buf, len, offset_of(w, area, at));
		end_write(w, area, false, w->rw);
	} else {
		ret = pread(f->v.device, buf, len, offset_of(w, area, at));
	}
	if (ret == -1 && (errno == EFAULT || (errno == EIO && w->rw != MUST)))
		done(w);
	else
		broken(w, "%s of %zu bytes with %zu good ones returned %zd (%s)",
		       write ? "a write" : "a read", len, good, ret,
		       ret < 0 ? strerror(errno) : "no error");
}

/* The buffer's pages are not there yet: zeroes. */
static void use_fresh(struct worker *w, uint8_t *buf)
{
	unsigned int area = draw_region(w);
	size_t at, len = draw_place(w, area, FRESH - 1, &at);

	if (madvise(buf, FRESH, MADV_DONTNEED))
		broken(w, "MADV_DONTNEED of a buffer: %s", strerror(errno));
	if (one_in(w, 2)) {
		/* Some are. */
		if (one_in(w, 2) && buf == w->fresh)
			buf[below(w, len)] = 1;
		if (rw_succeeded(w, area, pread(f->v.device, buf, len, offset_of(w, area, at)),
				 len))
			must_read(w, area, at, buf, len);
		return;
	}
	memset(w->data, 0, len);
	slice_begin(&w->slices[area], at, w->data, len);
	write_slice(w, area, at, buf, len);
}

static void op_fresh(struct worker *w)
{
	use_fresh(w, w->fresh);
}

static void op_userfaultfd(struct worker *w)
{
	if (w->late)
		use_fresh(w, w->late);
}

/* ---- mappings */

static size_t arena_pages(void)
{
	return 4 * BLOCK / PAGE;
}

/* Nothing else maps at an address of its own choice, so holes stay free. */
static void reserve_again(struct worker *w, size_t page, size_t nr)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;

	if (nr && mmap(w->arena + page * PAGE, nr * PAGE, PROT_NONE, flags, -1, 0) == MAP_FAILED)
		broken(w, "the arena: %s", strerror(errno));
	memset(w->table + page, 0, nr * sizeof(*w->table));
}

static unsigned int draw_prot(struct worker *w)
{
	static const unsigned int prots[] = {
		PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
		PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE, PROT_READ | PROT_EXEC,
		PROT_READ | PROT_WRITE | PROT_EXEC,
	};
	unsigned int prot = prots[below(w, ARRAY_SIZE(prots))];

	return f->may_exec ? prot : prot & ~PROT_EXEC;
}

/*
 * Map a part of the slice, or the slice and its surroundings; where blocks fit, or where they do
 * not.
 */
static void map_slice(struct worker *w, unsigned int area, unsigned int prot)
{
	const struct slice *s = &w->slices[area];
	const uint64_t pages = area_backed(area) / PAGE, block = BLOCK / PAGE;
	uint64_t first = s->pos / PAGE, last = (s->pos + s->len - 1) / PAGE;
	size_t at, nr, i;
	void *p;

	if (one_in(w, 4)) {
		first += below(w, last - first + 1);
		last = first + below(w, last - first + 1);
	} else if (!one_in(w, 3)) {
		i = below(w, block + block / 2);
		first -= i < first ? i : first;
		last += below(w, block + block / 2);
		if (last >= pages)
			last = pages - 1;
		if (one_in(w, 2))
			first = first / block * block;
	}
	at = below(w, 3) * block + (one_in(w, 3) ? below(w, block) : first % block);
	nr = last - first + 1;
	if (nr > arena_pages() - at)
		nr = arena_pages() - at;
	p = mmap(w->arena + at * PAGE, nr * PAGE, prot, MAP_SHARED | MAP_FIXED, area_fd(area),
		 area_offset(area) + first * PAGE);
	if (area == RESMEM && (prot & PROT_EXEC)) {
		must_fail(w, p == MAP_FAILED ? -1 : 0, EPERM, "an executable mapping of resmem");
		reserve_again(w, at, nr);
		return;
	}
	if (p == MAP_FAILED) {
		broken(w, "mmap of area %u, %zu pages from %lu on: %s", area, nr, first,
		       strerror(errno));
		return;
	}
	for (i = 0; i < nr; i++)
		w->table[at + i] = (struct mapped) {
			.page = first + i, .area = area, .prot = prot, .is = true,
		};
}

static void op_mmap(struct worker *w)
{
	unsigned int area = draw_area(w);

	map_slice(w, area, draw_prot(w));
	done(w);
}

static void op_mmap_refused(struct worker *w)
{
	unsigned int prot = PROT_READ | (one_in(w, 2) ? PROT_WRITE : 0);
	unsigned int area = draw_area(w), flags = MAP_SHARED;
	const uint64_t off = area_offset(area), backed = area_backed(area);
	uint64_t len = PAGE * (1 + below(w, 1000)), pos = PAGE * below(w, 1000);
	int err = EINVAL;
	void *p;

	pos += off;
	switch (below(w, 5)) {
	case 0:
		flags = MAP_PRIVATE;
		break;
	case 1:		/* the end is past real memory */
		pos = off + backed - len + PAGE * (1 + below(w, len / PAGE + 1));
		break;
	case 2:		/* all of it is */
		pos = off + backed + PAGE * below(w, GIB(1) / PAGE);
		break;
	case 3:
		pos += 1 + below(w, PAGE - 1);
		break;
	default:
		pos = -PAGE * (1 + below(w, len / PAGE));
		len += PAGE;
		err = EOVERFLOW;
		break;
	}
	p = mmap(NULL, len, prot, flags, area_fd(area), pos);
	must_fail(w, p == MAP_FAILED ? -1 : 0, err, "an mmap that has to be refused");
}

/* A run of pages of the arena that are mapped; 0 if there are none. */
static size_t draw_run(struct worker *w, size_t max, size_t *at)
{
	const size_t pages = arena_pages();
	size_t start = below(w, pages), nr = 1 + below(w, max), i;

	if (one_in(w, 2))
		nr = 1 + nr % 8;
	for (i = 0; i < pages && !w->table[(start + i) % pages].is; i++)
		;
	if (i == pages)
		return 0;
	*at = (start + i) % pages;
	for (i = 0; i < nr && *at + i < pages && w->table[*at + i].is; i++)
		;
	return i;
}

static void op_munmap(struct worker *w)
{
	size_t at = below(w, arena_pages()), nr = 1 + below(w, arena_pages() - at);

	if (!one_in(w, 4)) {
		nr = draw_run(w, BLOCK / PAGE, &at);
		if (!nr)
			return;
	}
	if (munmap(w->arena + at * PAGE, nr * PAGE))
		broken(w, "munmap: %s", strerror(errno));
	else
		done(w);
	reserve_again(w, at, nr);
}

static void op_mprotect(struct worker *w)
{
	size_t at, nr = draw_run(w, BLOCK / PAGE, &at), i;
	unsigned int prot = draw_prot(w);

	if (!nr)
		return;
	/* mm protects one mapping after the other, up to one of resmem. */
	for (i = 0; prot & PROT_EXEC && i < nr; i++) {
		if (w->table[at + i].area != RESMEM)
			continue;
		if (!i) {
			must_fail(w, mprotect(w->arena + at * PAGE, nr * PAGE, prot), EACCES,
				  "an mprotect that makes resmem executable");
			return;
		}
		nr = i;
	}
	if (mprotect(w->arena + at * PAGE, nr * PAGE, prot)) {
		broken(w, "mprotect of %zu pages: %s", nr, strerror(errno));
		return;
	}
	for (i = 0; i < nr; i++)
		w->table[at + i].prot = prot;
	done(w);
}

/* Moved, or moved and cut; it never grows. */
static void op_mremap(struct worker *w)
{
	const size_t pages = arena_pages();
	size_t at, nr = draw_run(w, BLOCK / PAGE, &at), keep, to, i;
	const struct mapped *first = &w->table[at];
	void *p;

	if (!nr)
		return;
	for (i = 1; i < nr; i++)
		if (first[i].area != first->area || first[i].page != first->page + i ||
		    first[i].prot != first->prot || first[i].not_in_child != first->not_in_child)
			break;
	nr = i;
	if (one_in(w, 5)) {
		p = mremap(w->arena + at * PAGE, nr * PAGE, (nr + 1) * PAGE, MREMAP_MAYMOVE);
		must_fail(w, p == MAP_FAILED ? -1 : 0, EFAULT, "an mremap that grows");
		return;
	}
	keep = one_in(w, 4) ? 1 + below(w, nr) : nr;
	to = below(w, pages - keep + 1);
	if (one_in(w, 2))
		to = (to & -(BLOCK / PAGE)) + at % (BLOCK / PAGE);
	if (to + keep > pages || (to < at + nr && at < to + keep))
		return;

	p = mremap(w->arena + at * PAGE, nr * PAGE, keep * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		   w->arena + to * PAGE);
	if (p == MAP_FAILED) {
		/* mm may have split the mapping, and has removed the one at TO. */
		if (errno != EFAULT || nr == 1)
			broken(w, "mremap of %zu pages: %s", nr, strerror(errno));
		/* It may have moved some, and may have cut the rest. */
		reserve_again(w, at, nr);
		reserve_again(w, to, keep);
		return;
	}
	memmove(w->table + to, w->table + at, keep * sizeof(*w->table));
	reserve_again(w, at, nr);
	done(w);
}

/* Whatever the kernel returns, it changes neither the mappings nor their contents. */
static void op_madvise(struct worker *w)
{
	static const int advice[] = {
		0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
		25, 100, 101, 102, 103, 77,
	};
	int kind = advice[below(w, ARRAY_SIZE(advice))], ret;
	size_t at, nr = draw_run(w, BLOCK / PAGE, &at), i;

	if (!nr)
		return;
	ret = madvise(w->arena + at * PAGE, nr * PAGE, kind);
	/* One that fails can have been done to the first of several mappings. */
	for (i = 0; i < nr; i++) {
		if (kind == MADV_DONTFORK)
			w->table[at + i].not_in_child = true;
		else if (kind == MADV_DOFORK && !ret)
			w->table[at + i].not_in_child = false;
	}
	if (!ret)
		done(w);
	else
		refused(w);
}

static void op_mlock(struct worker *w)
{
	size_t at, nr = draw_run(w, BLOCK / PAGE, &at);
	unsigned char there[64];
	uint8_t *p;
	int ret;

	if (!nr)
		return;
	p = w->arena + at * PAGE;
	switch (below(w, 5)) {
	case 0:
		ret = mlock(p, nr * PAGE);
		break;
	case 1:
		ret = mlock2(p, nr * PAGE, MLOCK_ONFAULT);
		break;
	case 2:
		/* Whatever it returns. */
		ret = 0;
		msync(p, nr * PAGE, below(w, 8));
		break;
	case 3:
		ret = 0;
		mincore(p, (nr < sizeof(there) ? nr : sizeof(there)) * PAGE, there);
		break;
	default:
		ret = munlock(p, nr * PAGE);
		break;
	}
	if (ret)
		broken(w, "(un)locking %zu pages: %s", nr, strerror(errno));
	else
		done(w);
}

static void op_mbind(struct worker *w)
{
	static const int modes[] = { MPOL_DEFAULT, MPOL_BIND, MPOL_INTERLEAVE, MPOL_PREFERRED };
	size_t at, nr = draw_run(w, BLOCK / PAGE, &at);
	int mode = modes[below(w, ARRAY_SIZE(modes))];
	unsigned long nodes = 1;

	if (!env_is("MBIND", "1") || !nr)
		return;
	if (syscall(SYS_mbind, w->arena + at * PAGE, nr * PAGE, mode,
		    mode == MPOL_DEFAULT ? NULL : &nodes, mode == MPOL_DEFAULT ? 0 : 2,
		    below(w, 2) * MPOL_MF_STRICT + below(w, 2) * MPOL_MF_MOVE))
		refused(w);
	else
		done(w);
}

static bool shows(const struct worker *w, size_t page, unsigned int area, uint64_t of_region,
		  unsigned int prot, bool in_child)
{
	const struct mapped *m = &w->table[page];

	return page < arena_pages() && m->is && m->area == area && m->page == of_region &&
	       (m->prot & prot) == prot && !(in_child && m->not_in_child);
}

/* Where the arena maps AT of a slice with PROT, and how much of LEN; NULL if nowhere. */
static uint8_t *find_mapped(struct worker *w, unsigned int area, size_t at, size_t *len,
			    unsigned int prot, bool in_child)
{
	const size_t pages = arena_pages();
	uint64_t pos = w->slices[area].pos + at, page = pos / PAGE;
	size_t start = below(w, pages), i, nr;

	for (i = 0; i < pages && !shows(w, (start + i) % pages, area, page, prot, in_child); i++)
		;
	if (i == pages)
		return NULL;
	start = (start + i) % pages;
	for (nr = 1; shows(w, start + nr, area, page + nr, prot, in_child); nr++)
		if (nr * PAGE > *len)
			break;
	if (*len > nr * PAGE - pos % PAGE)
		*len = nr * PAGE - pos % PAGE;
	return w->arena + start * PAGE + pos % PAGE;
}

/* The same for a place that is drawn, which is mapped if it is not. */
static uint8_t *draw_mapped(struct worker *w, unsigned int area, size_t *at, size_t *len,
			    unsigned int prot, size_t max)
{
	uint8_t *p;

	*len = draw_place(w, area, max, at);
	p = find_mapped(w, area, *at, len, prot, false);
	if (p)
		return p;
	map_slice(w, area, PROT_READ | PROT_WRITE | (prot & PROT_EXEC));
	return find_mapped(w, area, *at, len, prot, false);
}

static void copy(uint8_t *to, const uint8_t *from, size_t len, unsigned int width)
{
	size_t i;

	if (len % width || ((uintptr_t)to | (uintptr_t)from) % width)
		width = 0;
	switch (width) {
	case 1:
		for (i = 0; i < len; i++)
			((volatile uint8_t *)to)[i] = ((const volatile uint8_t *)from)[i];
		break;
	case 2:
		for (i = 0; i < len / 2; i++)
			((volatile uint16_t *)to)[i] = ((const volatile uint16_t *)from)[i];
		break;
	case 4:
		for (i = 0; i < len / 4; i++)
			((volatile uint32_t *)to)[i] = ((const volatile uint32_t *)from)[i];
		break;
	case 8:
		for (i = 0; i < len / 8; i++)
			((volatile uint64_t *)to)[i] = ((const volatile uint64_t *)from)[i];
		break;
	default:
		memcpy(to, from, len);
		break;
	}
}

/* Returns the signal that it took, or 0. */
static int try_copy(uint8_t *to, const uint8_t *from, size_t len, unsigned int width)
{
	return fault_of(copy(to, from, len, width)).sig;
}

static void load(struct worker *w, unsigned int area, size_t at, const uint8_t *p, size_t len)
{
	if (touch_succeeded(w, area, try_copy(w->got, p, len, 1 << below(w, 5))))
		must_read(w, area, at, w->got, len);
}

static void store(struct worker *w, unsigned int area, size_t at, uint8_t *p, size_t len)
{
	const uint8_t *data = begin_write(w, area, at, len);

	end_stores(w, area, try_copy(p, data, len, 1 << below(w, 5)));
}

static void op_load(struct worker *w)
{
	unsigned int area = draw_area(w);
	size_t at, len;
	uint8_t *p = draw_mapped(w, area, &at, &len, PROT_READ, -1);

	if (p)
		load(w, area, at, p, len);
}

static void op_store(struct worker *w)
{
	unsigned int area = draw_area(w);
	size_t at, len;
	uint8_t *p = draw_mapped(w, area, &at, &len, PROT_WRITE, -1);

	if (p)
		store(w, area, at, p, len);
}

/* An access takes SIGSEGV, whatever the state of the GPU, where no mapping allows it. */
static void op_denied(struct worker *w)
{
	size_t page = below(w, arena_pages());
	unsigned int prot;
	uint8_t byte = 0;
	uint8_t *p;
	int sig;

	if (!one_in(w, 3))
		draw_run(w, 1, &page);
	prot = w->table[page].is ? w->table[page].prot : PROT_NONE;
	p = w->arena + page * PAGE + below(w, PAGE);
	if (!(prot & PROT_READ))
		sig = try_copy(&byte, p, 1, 1);
	else if (!(prot & PROT_WRITE))
		sig = try_copy(p, &byte, 1, 1);
	else
		return;
	if (sig == SIGSEGV)
		done(w);
	else
		broken(w, "signal %d of a page with protection %u", sig, prot);
}

/* Write an instruction, and call it. */
static void call(uint32_t *p)
{
	__builtin___clear_cache((char *)p, (char *)(p + 1));
	((void (*)(void))p)();
}

/* This is for usemem only: arm64 does not map Normal-NC memory, such as resmem, executable. */
static void op_exec(struct worker *w)
{
	static const uint32_t ret_instruction = 0xd65f03c0;
	const unsigned int area = USEMEM;
	size_t at, len;
	uint8_t *p;

	if (!f->may_exec)
		return;
	p = draw_mapped(w, area, &at, &len, PROT_READ | PROT_EXEC, 4000);
	if (!p || len < 8)
		return;
	at += -(uintptr_t)p & 3;
	p += -(uintptr_t)p & 3;
	memcpy(w->data, &ret_instruction, 4);
	slice_begin(&w->slices[area], at, w->data, 4);
	write_slice(w, area, at, w->data, 4);
	if (w->slices[area].state[at] == BYTE_KNOWN &&
	    !memcmp(w->slices[area].value + at, &ret_instruction, 4))
		touch_succeeded(w, area, fault_of(call((uint32_t *)p)).sig);
}

/* ---- mappings as the buffers of system calls */

/* Known bytes of another place, as the data of a write on record. */
static bool begin_copy(struct worker *w, unsigned int to, size_t to_at, unsigned int from,
		       size_t from_at, size_t len)
{
	const struct slice *s = &w->slices[from];
	size_t i;

	if (to == from && to_at < from_at + len && from_at < to_at + len)
		return false;
	for (i = 0; i < len; i++)
		if (s->state[from_at + i] != BYTE_KNOWN)
			return false;
	memcpy(w->data, s->value + from_at, len);
	slice_begin(&w->slices[to], to_at, w->data, len);
	return true;
}

/* From one place of the regions to another, through a mapping of one of them. */
static void op_mapped_buffer(struct worker *w)
{
	unsigned int area = draw_area(w), other = draw_region(w);
	bool write = one_in(w, 2);
	size_t at, len, other_at;
	ssize_t ret;
	uint8_t *p;

	p = draw_mapped(w, area, &at, &len, write ? PROT_READ : PROT_WRITE, SMALL / 2);
	if (!p || len > w->slices[other].len)
		return;
	other_at = below(w, w->slices[other].len - len + 1);
	if (write) {
		if (!begin_copy(w, other, other_at, area, at, len))
			return;
		ret = pwrite(f->v.device, p, len, offset_of(w, other, other_at));
	} else {
		if (!begin_copy(w, area, at, other, other_at, len))
			return;
		ret = pread(f->v.device, p, len, offset_of(w, other, other_at));
	}
	if (ret == (ssize_t)len && w->rw != MUST_NOT && touch_want(w, area) != MUST_NOT) {
		w->passed = true;
		done(w);
		slice_written(&w->slices[write ? other : area]);
		return;
	}
	slice_perhaps_written(&w->slices[write ? other : area]);
	if (ret == -1 && ((errno == EIO && w->rw != MUST) ||
			  (errno == EFAULT && touch_want(w, area) != MUST)))
		refused(w);
	else
		broken(w, "%zu bytes between region and mapping returned %zd (%s)", len, ret,
		       ret < 0 ? strerror(errno) : "no error");
}

static void drain(struct worker *w)
{
	char buf[4096];

	while (read(w->pipe[0], buf, sizeof(buf)) > 0)
		;
}

static void op_pipe(struct worker *w)
{
	unsigned int area = draw_area(w);
	bool from_map = one_in(w, 2);
	const uint8_t *data;
	size_t at, len;
	ssize_t ret;
	uint8_t *p;

	p = draw_mapped(w, area, &at, &len, from_map ? PROT_READ : PROT_WRITE, 8192);
	if (!p)
		return;
	drain(w);
	if (from_map) {
		if (copy_succeeded(w, area, write(w->pipe[1], p, len), len) &&
		    read(w->pipe[0], w->got, len) == (ssize_t)len)
			must_read(w, area, at, w->got, len);
		return;
	}
	data = begin_write(w, area, at, len);
	ret = write(w->pipe[1], data, len);
	if (ret == (ssize_t)len)
		ret = read(w->pipe[0], p, len);
	end_copy(w, area, ret, len);
}

/* tmpfs copies also with O_DIRECT. */
static void op_file(struct worker *w)
{
	unsigned int area = draw_area(w);
	bool from_map = one_in(w, 2);
	const uint8_t *data;
	size_t at, len;
	uint8_t *p;

	p = draw_mapped(w, area, &at, &len, from_map ? PROT_READ : PROT_WRITE, 30000);
	if (!p)
		return;
	fcntl(w->file, F_SETFL, one_in(w, 2) ? O_DIRECT : 0);
	if (from_map) {
		if (copy_succeeded(w, area, pwrite(w->file, p, len, 0), len) &&
		    pread(w->file, w->got, len, 0) == (ssize_t)len)
			must_read(w, area, at, w->got, len);
		return;
	}
	data = begin_write(w, area, at, len);
	if (pwrite(w->file, data, len, 0) != (ssize_t)len)
		broken(w, "tmpfs: %s", strerror(errno));
	end_copy(w, area, pread(w->file, p, len, 0), len);
}

/* Read another process's memory into the mapping. */
static void op_process_vm(struct worker *w)
{
	unsigned int area = draw_area(w);
	struct iovec local, remote;
	const uint8_t *data;
	size_t at, len;
	uint8_t *p;

	if (!f->process_vm)
		return;
	p = draw_mapped(w, area, &at, &len, PROT_WRITE, 30000);
	if (!p)
		return;
	if (one_in(w, 2)) {
		data = begin_write(w, area, at, len);
		local = (struct iovec) { p, len };
		remote = (struct iovec) { (void *)data, len };
		end_copy(w, area, process_vm_readv(getpid(), &local, 1, &remote, 1, 0), len);
		return;
	}
	local = (struct iovec) { w->got, len };
	remote = (struct iovec) { p, len };
	if (copy_succeeded(w, area, process_vm_writev(getpid(), &remote, 1, &local, 1, 0), len))
		must_read(w, area, at, w->got, len);
}

/* A system call that needs a struct page of the mapping has to fail, in each state of the GPU. */
static void op_no_page(struct worker *w)
{
	unsigned int area = draw_area(w);
	struct iovec local = { w->got, 64 }, remote = { NULL, 64 };
	size_t at, len;
	loff_t pos = area_offset(area);
	int fd;

	remote.iov_base = draw_mapped(w, area, &at, &len, PROT_WRITE, 64);
	if (!remote.iov_base)
		return;
	remote.iov_len = len;
	local.iov_len = len;
	switch (f->process_vm ? below(w, 8) : 2 + below(w, 6)) {
	case 0:
		must_fail(w, process_vm_readv(getpid(), &local, 1, &remote, 1, 0), EFAULT,
			  "process_vm_readv");
		break;
	case 1:
		must_fail(w, process_vm_writev(getpid(), &local, 1, &remote, 1, 0), EFAULT,
			  "process_vm_writev");
		break;
	case 2:
		drain(w);
		must_fail(w, vmsplice(w->pipe[1], &remote, 1, below(w, 16)), EFAULT, "vmsplice");
		break;
	case 3:
		must_fail(w, splice(area_fd(area), &pos, w->pipe[1], NULL, 4096, SPLICE_F_NONBLOCK),
			  0, "splice from the device");
		break;
	case 4:
		drain(w);
		if (write(w->pipe[1], w->got, 64) == 64)
			must_fail(w, splice(w->pipe[0], NULL, area_fd(area), &pos, 64,
					    SPLICE_F_NONBLOCK), 0, "splice to the device");
		drain(w);
		break;
	case 5:
		must_fail(w, sendfile(w->pipe[1], area_fd(area), &pos, 4096), 0, "sendfile");
		break;
	case 6:
		fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
		must_fail(w, one_in(w, 2) ?
			  pread(fd, w->got, len, (uintptr_t)remote.iov_base) :
			  pwrite(fd, w->got, len, (uintptr_t)remote.iov_base), 0, "/proc/self/mem");
		close(fd);
		break;
	default:
		fd = open("/dev/vda", O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (fd >= 0)
			must_fail(w, pread(fd, (void *)((uintptr_t)remote.iov_base & -PAGE), PAGE,
					   0), EFAULT, "a direct read from a disk");
		close(fd);
		break;
	}
}

/* ---- other tasks */

struct child {
	struct worker *w;
	pid_t parent;
	unsigned int area;
	size_t at, len;
	uint8_t *p;
};

enum { CHILD_DONE, CHILD_REFUSED, CHILD_WRONG, CHILD_SIGNAL };

/* The child of a fork() sees the same memory. */
static int child_task(void *arg)
{
	const struct child *c = arg;
	struct worker *w = c->w;
	int sig;

	/* If the parent was killed, the main task waits for the child noted here. */
	__atomic_store_n(&w->child, getpid(), __ATOMIC_SEQ_CST);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != c->parent)
		return CHILD_REFUSED;
	sig = try_copy(w->got, c->p, c->len, 8);
	if (!sig && slice_read(&w->slices[c->area], c->at, w->got, c->len) >= 0)
		return CHILD_WRONG;
	if (!sig)
		sig = try_copy(c->p, w->slices[c->area].data, c->len, 8);
	return !sig ? CHILD_DONE : sig == SIGBUS ? CHILD_REFUSED : CHILD_SIGNAL;
}

static void fork_child(struct worker *w, bool killed)
{
	struct child c = { .w = w, .parent = getpid(), .area = draw_area(w) };
	pid_t pid;
	int end;

	c.p = draw_mapped(w, c.area, &c.at, &c.len, PROT_READ | PROT_WRITE, 9000);
	if (c.p)
		c.p = find_mapped(w, c.area, c.at, &c.len, PROT_READ | PROT_WRITE, true);
	if (!c.p)
		return;
	begin_write(w, c.area, c.at, c.len);
	pid = start_child(child_task, &c);
	if (killed) {
		usleep(below(w, 4000));
		end = kill_child(pid);
	} else {
		end = end_of_child(pid);
	}
	__atomic_store_n(&w->child, 0, __ATOMIC_SEQ_CST);
	switch (end) {
	case CHILD_DONE:
		end_stores(w, c.area, 0);
		break;
	case CHILD_REFUSED:
		end_stores(w, c.area, SIGBUS);
		break;
	case CHILD_WRONG:
		slice_perhaps_written(&w->slices[c.area]);
		broken(w, "the child read something else in area %u at 0x%lx, %zu bytes", c.area,
		       w->slices[c.area].pos + c.at, c.len);
		break;
	default:
		slice_perhaps_written(&w->slices[c.area]);
		if (end != -SIGKILL || !killed)
			broken(w, "the child ended with %d", end);
		else
			done(w);
		break;
	}
}

static void op_fork(struct worker *w)
{
	fork_child(w, false);
}

static void op_kill(struct worker *w)
{
	fork_child(w, true);
}

/* ---- the rest of the device */

/* Bytes of config space that nothing changes while the device is open. */
static bool is_fixed(unsigned int pos)
{
	return pos < 4 || (pos >= 8 && pos < 12) || pos == 14 || (pos >= 0x2c && pos < 0x30) ||
	       pos == 0x34;
}

/* Compare bytes that were read from POS on with those that the register can hold. */
static bool bar_matches(uint64_t value, unsigned int reg, unsigned int pos, const uint8_t *got,
			size_t len)
{
	unsigned int i;

	for (i = 0; i < 8; i++)
		if (reg + i >= pos && reg + i < pos + len &&
		    got[reg + i - pos] != (uint8_t)(value >> (8 * i)))
			return false;
	return true;
}

static void add_candidate(struct bar *bar, uint64_t value)
{
	unsigned int i;

	for (i = 0; i < bar->nr; i++)
		if (bar->values[i] == value)
			return;
	if (bar->nr < MAX_CANDIDATES)
		bar->values[bar->nr++] = value;
}

/* STORM_D3 resets the GPU in D3. Each reset zeroes the BAR registers, at any time. */
static bool storm_resets(void)
{
	return f->storm & (STORM_RESET | STORM_MEMORY | STORM_D3);
}

#define BAR_FLAGS	(PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH)

static unsigned int bar_register(unsigned int region)
{
	return PCI_BASE_ADDRESS_0 + 4 * f->v.regions[region].bar;
}

static void bars_are_zero(void)
{
	unsigned int r;

	for (r = 0; r < NR_REGIONS; r++)
		f->bars[r] = (struct bar) { .nr = 1, .values = { BAR_FLAGS } };
}

static void check_bar(struct worker *w, unsigned int region, unsigned int pos, const uint8_t *got,
		      size_t len)
{
	struct bar *bar = &f->bars[region], before = *bar;
	unsigned int reg = bar_register(region), i;

	if (pos >= reg + 8 || pos + len <= reg)
		return;
	bar->nr = 0;
	for (i = 0; i < before.nr; i++)
		if (bar_matches(before.values[i], reg, pos, got, len))
			bar->values[bar->nr++] = before.values[i];
	if (!bar->nr)
		broken(w, "the BAR register at 0x%x is none of %u values, such as 0x%lx", reg,
		       before.nr, before.values[0]);
	if (storm_resets())
		add_candidate(bar, BAR_FLAGS);
}

static void op_config_read(struct worker *w)
{
	unsigned int pos = one_in(w, 2) ? below(w, 64) : below(w, 4096), r, i;
	size_t len = 1 + below(w, 256);
	ssize_t ret;

	ret = pread(f->v.device, w->got, len, CONFIG + pos);
	if (pos + len > 4096) {
		must_fail(w, ret, EFAULT, "a read beyond config space");
		return;
	}
	if (ret != (ssize_t)len) {
		broken(w, "%zu bytes at 0x%x returned %zd", len, pos, ret);
		return;
	}
	done(w);
	for (r = 0; r < NR_REGIONS; r++) {
		unsigned int reg = bar_register(r);

		if (w->nr == BAR_OWNER || w->nr == SOLO)
			check_bar(w, r, pos, w->got, len);
		else if (reg >= pos && reg < pos + len && (w->got[reg - pos] != BAR_FLAGS))
			broken(w, "the flags of the BAR register 0x%x are 0x%02x", reg,
			       w->got[reg - pos]);
	}
	for (i = pos; i < pos + len && !f->storm; i++)
		if (i < sizeof(f->config) && is_fixed(i) && f->config[i] != w->got[i - pos])
			broken(w, "config 0x%x is 0x%02x, was 0x%02x", i, w->got[i - pos],
			       f->config[i]);
}

static void op_config_write(struct worker *w)
{
	unsigned int pos = PCI_BASE_ADDRESS_0 + below(w, 24), r, i, c;
	size_t len = 1 + below(w, PCI_BASE_ADDRESS_5 + 8 - pos);
	ssize_t ret;

	if (w->nr != BAR_OWNER && w->nr != SOLO)
		return;
	/* Before there are too many to keep. */
	for (r = 0; r < NR_REGIONS; r++)
		if (f->bars[r].nr > MAX_CANDIDATES / 2 &&
		    pread(f->v.device, w->got, 8, CONFIG + bar_register(r)) == 8)
			check_bar(w, r, bar_register(r), w->got, 8);
	fill(w, w->data, len);
	if (one_in(w, 8)) {
		must_fail(w, pwrite(f->v.device, w->data, 4097 - pos, CONFIG + pos), EFAULT,
			  "a write beyond config space");
		return;
	}
	ret = pwrite(f->v.device, w->data, len, CONFIG + pos);
	if (ret != (ssize_t)len) {
		broken(w, "%zu bytes at 0x%x returned %zd", len, pos, ret);
		return;
	}
	done(w);
	for (r = 0; r < NR_REGIONS; r++) {
		unsigned int reg = bar_register(r);
		struct bar before = f->bars[r];

		f->bars[r].nr = 0;
		for (c = 0; c < before.nr; c++) {
			uint64_t value = before.values[c];

			for (i = 0; i < 8; i++) {
				if (reg + i < pos || reg + i >= pos + len)
					continue;
				value &= ~(0xffUL << (8 * i));
				value |= (uint64_t)w->data[reg + i - pos] << (8 * i);
			}
			value &= ~(f->v.regions[r].size - 1);
			add_candidate(&f->bars[r], value | BAR_FLAGS);
		}
		if (storm_resets())
			add_candidate(&f->bars[r], BAR_FLAGS);
	}
}

static void op_region_info(struct worker *w)
{
	const struct region *r = &f->v.regions[draw_region(w)];
	struct {
		struct vfio_region_info info;
		struct vfio_region_info_cap_sparse_mmap sparse;
		struct vfio_region_sparse_mmap_area area;
	} x = { .info.index = r->bar };
	const unsigned int sizes[] = { 0, 8, sizeof(x.info), sizeof(x) - 1, sizeof(x) };
	unsigned int argsz = sizes[below(w, ARRAY_SIZE(sizes))];
	int ret;

	x.info.argsz = argsz;
	ret = ioctl(f->v.device, VFIO_DEVICE_GET_REGION_INFO, &x);
	if (argsz < sizeof(x.info)) {
		must_fail(w, ret, EINVAL, "a short region info");
		return;
	}
	if (ret || x.info.size != r->size || x.info.offset != r->off ||
	    x.info.argsz != sizeof(x) || !(x.info.flags & VFIO_REGION_INFO_FLAG_CAPS) ||
	    (argsz < sizeof(x) ? x.info.cap_offset || x.sparse.nr_areas :
	     x.sparse.header.id != VFIO_REGION_INFO_CAP_SPARSE_MMAP || x.sparse.nr_areas != 1 ||
	     x.area.offset || x.area.size != r->backed))
		broken(w, "region info of BAR%u with argsz %u: %d, size 0x%llx, area 0x%llx",
		       r->bar, argsz, ret, (unsigned long long)x.info.size,
		       (unsigned long long)x.area.size);
	else
		done(w);
}

static void op_ioctl(struct worker *w)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct vfio_region_info region = { .argsz = sizeof(region) };
	struct vfio_device_ioeventfd io = {
		.argsz = sizeof(io), .flags = VFIO_DEVICE_IOEVENTFD_32, .fd = w->pipe[0],
	};

	switch (below(w, 5)) {
	case 0:
		if (ioctl(f->v.device, VFIO_DEVICE_GET_INFO, &info) ||
		    info.num_regions != VFIO_PCI_NUM_REGIONS)
			broken(w, "device info: %s, %u regions", strerror(errno), info.num_regions);
		else
			done(w);
		break;
	case 1:
		io.offset = one_in(w, 2) ? f->v.regions[draw_region(w)].off : draw(w);
		must_fail(w, ioctl(f->v.device, VFIO_DEVICE_IOEVENTFD, &io), ENOTTY, "ioeventfd");
		break;
	case 2:
		region.index = VFIO_PCI_NUM_REGIONS + below(w, 1000);
		must_fail(w, ioctl(f->v.device, VFIO_DEVICE_GET_REGION_INFO, &region), EINVAL,
			  "region info of no region");
		break;
	case 3:
		must_fail(w, ioctl(f->v.device, VFIO_DEVICE_GET_REGION_INFO, NULL), EFAULT,
			  "region info to NULL");
		break;
	default:
		must_fail(w, ioctl(f->v.device, VFIO_DEVICE_GET_REGION_INFO + 100, &region), ENOTTY,
			  "an unknown ioctl");
		break;
	}
}

static uint64_t iova_of(const struct worker *w)
{
	return GIB(4) + w->nr * MIB(64);
}

static int unmap_dma(const struct worker *w, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap), .iova = iova_of(w), .size = size,
	};
	struct iommu_ioas_unmap ioas = {
		.size = sizeof(ioas), .ioas_id = f->v.ioas, .iova = iova_of(w), .length = size,
	};

	if (f->v.mode != IOMMUFD)
		return ioctl(f->v.container, VFIO_IOMMU_UNMAP_DMA, &unmap) ||
		       unmap.size != size ? -errno : 0;
	return ioctl(f->v.container, IOMMU_IOAS_UNMAP, &ioas) || ioas.length != size ? -errno : 0;
}

static void op_dma(struct worker *w)
{
	bool ram = one_in(w, 3);
	size_t at = 0, nr = draw_run(w, 16, &at), i;
	unsigned int area;
	int ret;

	if (!ram && !nr)
		return;
	area = w->table[at].area;
	for (i = 0; i < nr && w->table[at + i].area == area; i++)
		if ((w->table[at + i].prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE))
			break;
	if (!ram && !i)
		return;
	if (ram) {
		ret = dma_map(&f->v, w->fresh, FRESH, iova_of(w));
		if (ret || unmap_dma(w, FRESH))
			broken(w, "DMA of ordinary memory: %s", strerror(-ret));
		else
			done(w);
		return;
	}
	ret = dma_map(&f->v, w->arena + at * PAGE, i * PAGE, iova_of(w));
	/* iommufd does not map device memory that is named by its address. */
	if (f->v.mode != TYPE1) {
		if (ret != -EFAULT && ret != -EINVAL)
			broken(w, "DMA of the region over iommufd: %s", strerror(-ret));
		else
			done(w);
		return;
	}
	if (!ret) {
		if (touch_want(w, area) == MUST_NOT)
			broken(w, "DMA of the region succeeded");
		ret = unmap_dma(w, i * PAGE);
		if (ret)
			broken(w, "DMA unmap of %zu pages: %s", i, strerror(-ret));
		used(w, area);
		done(w);
		return;
	}
	/* A reset may zap a page of the GPU's memory between type1's fault and its look-up. */
	if (touch_want(w, area) == MUST && (area == EGM || !f->storm))
		broken(w, "DMA of %zu pages of the region: %s", i, strerror(-ret));
	else
		refused(w);
}

/* A second fd is the same device, and closing it changes nothing. */
static void op_second_fd(struct worker *w)
{
	unsigned int area = draw_region(w);
	size_t at, len = draw_place(w, area, 9000, &at);
	int fd;

	if (!f->group_fds)
		return;
	fd = ioctl(f->v.group, VFIO_GROUP_GET_DEVICE_FD, f->v.bdf);
	if (fd < 0) {
		broken(w, "a second fd: %s", strerror(errno));
		return;
	}
	if (rw_succeeded(w, area, pread(fd, w->got, len, offset_of(w, area, at)), len))
		must_read(w, area, at, w->got, len);
	close(fd);
}

/*
 * All workers share the file that owns EGM. A second file can read the size and the bad pages, but
 * cannot map EGM.
 */
static void op_egm(struct worker *w)
{
	struct egm_bad_pages_list list = { .argsz = below(w, 20), .count = 7 };
	unsigned int prot = PROT_READ | PROT_WRITE;
	int fd = open_egm(w);
	void *p;

	if (fd < 0)
		return;
	switch (below(w, 4)) {
	case 0:
		p = mmap(NULL, PAGE, prot, MAP_SHARED, fd, PAGE * below(w, f->egm_size / PAGE));
		must_fail(w, p == MAP_FAILED ? -1 : 0, EBUSY, "an mmap of somebody else's EGM");
		break;
	case 1:
		if (list.argsz < sizeof(list))
			must_fail(w, ioctl(fd, EGM_BAD_PAGES_LIST, &list), EINVAL, "a short list");
		else if (ioctl(fd, EGM_BAD_PAGES_LIST, &list) || list.count)
			broken(w, "the list of bad pages: %s, %u pages", strerror(errno),
			       list.count);
		else
			done(w);
		break;
	case 2:
		if (lseek(fd, 0, SEEK_END) != (off_t)f->egm_size)
			broken(w, "EGM has another size now");
		else
			done(w);
		break;
	default:
		must_fail(w, one_in(w, 2) ? pread(fd, w->got, 64, 0) : pwrite(fd, w->got, 64, 0),
			  EINVAL, "an access to EGM without a mapping");
		break;
	}
	close(fd);
}

static const struct op {
	const char *name;
	void (*run)(struct worker *w);
	unsigned int weight;
	bool optional;		/* not every kernel and IOMMU mode has it */
} ops[] = {
	{ "read", op_read, 12 },
	{ "write", op_write, 12 },
	{ "word", op_word, 6 },
	{ "vector", op_vector, 3 },
	{ "hole", op_hole, 6 },
	{ "edge", op_edge, 6 },
	{ "bad_buffer", op_bad_buffer, 3 },
	{ "fresh_buffer", op_fresh, 3 },
	{ "userfaultfd", op_userfaultfd, 6, true },
	{ "mmap", op_mmap, 8 },
	{ "mmap_refused", op_mmap_refused, 3 },
	{ "munmap", op_munmap, 3 },
	{ "mprotect", op_mprotect, 4 },
	{ "mremap", op_mremap, 4 },
	{ "madvise", op_madvise, 6 },
	{ "mlock", op_mlock, 2 },
	{ "mbind", op_mbind, 3, true },
	{ "load", op_load, 12 },
	{ "store", op_store, 12 },
	{ "denied", op_denied, 3 },
	{ "exec", op_exec, 3, true },
	{ "mapped_buffer", op_mapped_buffer, 5 },
	{ "pipe", op_pipe, 3 },
	{ "file", op_file, 3 },
	{ "process_vm", op_process_vm, 3, true },
	{ "no_page", op_no_page, 4 },
	{ "fork", op_fork, 2 },
	{ "kill", op_kill, 2 },
	{ "bar0", op_bar0, 4 },
	{ "config_read", op_config_read, 6 },
	{ "config_write", op_config_write, 12 },
	{ "region_info", op_region_info, 3 },
	{ "ioctl", op_ioctl, 2 },
	{ "dma", op_dma, 3 },
	{ "second_fd", op_second_fd, 2, true },
	{ "egm", op_egm, 3 },
};

static const char *op_name(const struct worker *w)
{
	return w->what < ARRAY_SIZE(ops) ? ops[w->what].name : "change of the GPU's state";
}

static unsigned int draw_op(struct worker *w)
{
	unsigned int sum = 0, i, at;

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		sum += ops[i].weight;
	at = below(w, sum);
	for (i = 0; at >= ops[i].weight; i++)
		at -= ops[i].weight;
	return i;
}

static void run_op(struct worker *w)
{
	w->rng = pattern(w->nr, f->seed) ^ pattern(100 + w->nr, w->op);
	w->what = draw_op(w);
	w->since = now_ms();
	ops[w->what].run(w);
	__atomic_store_n(&w->since, 0, __ATOMIC_RELAXED);
	w->op++;
}

/* ---- disturbances */

enum { RESET_IOCTL, RESET_GUEST, RESET_SYSFS, RESET_BUS, NR_RESETS };

/* 0 or an errno. */
static int reset_gpu(unsigned int how)
{
	char path[PATH_MAX];

	f->resets++;
	switch (how) {
	case RESET_IOCTL:
		return ioctl(f->v.device, VFIO_DEVICE_RESET) ? errno : 0;
	case RESET_GUEST:
		return guest_flr(f->v.device) ? EIO : 0;
	case RESET_SYSFS:
		return -write_file(device_path(path, sizeof(path), "reset"), "1");
	default:
		if (reset_is("flr")) {
			/* The kernel has a quirk: the bus of this GPU is not reset. */
			f->resets--;
			return hot_reset(&f->v) && errno == ENODEV ? 0 : EIO;
		}
		return hot_reset(&f->v) ? errno : 0;
	}
}

static int set_power(unsigned int state)
{
	return config_modify(f->v.device, f->pmcsr, PCI_PM_CTRL_STATE_MASK, state) ? errno : 0;
}

static int set_memory(bool on)
{
	return config_modify(f->v.device, PCI_COMMAND, on ? 0 : PCI_COMMAND_MEMORY,
			     on ? PCI_COMMAND_MEMORY : 0) ? errno : 0;
}

static void disturbed(const char *how, int err)
{
	/* vfio_pci_core does not wait for its locks in each reset. */
	if (err && err != EAGAIN && err != EBUSY)
		broken(NULL, "storm 0x%x, %s: %s", f->storm, how, strerror(err));
}

static void a_while(struct worker *w, unsigned int ms)
{
	usleep(below(w, 1000 * ms));
}

static void disturb_once(struct worker *w)
{
	unsigned int kind;

	do
		kind = 1 << below(w, 5);
	while (!(kind & f->storm));

	switch (kind) {
	case STORM_RESET:
		set_knob("ready_ms", one_in(w, 2) ? 0 : below(w, 40));
		disturbed("reset", reset_gpu(below(w, NR_RESETS)));
		break;
	case STORM_D3:
		f->sleeps++;
		disturbed("to D3", set_power(3));
		a_while(w, 20);
		if (one_in(w, 4))
			disturbed("reset in D3", reset_gpu(below(w, NR_RESETS)));
		disturbed("to D0", set_power(0));
		break;
	case STORM_MEMORY:
		disturbed("memory off", set_memory(false));
		a_while(w, 5);
		if (one_in(w, 2))
			disturbed("reset, memory off", reset_gpu(below(w, NR_RESETS)));
		a_while(w, 10);
		disturbed("memory on", set_memory(true));
		break;
	case STORM_LOW_POWER:
		f->sleeps++;
		disturbed("low power entry", allow_low_power(f->v.device, true) ? errno : 0);
		a_while(w, 30);
		disturbed("low power exit", allow_low_power(f->v.device, false) ? errno : 0);
		break;
	default:
		if (one_in(w, 2))
			pthread_kill(f->workers[one_in(w, 2) ? 0 : 2].thread, SIGUSR1);
		else
			pthread_kill(f->workers[BAR_OWNER].thread, SIGUSR1);
		break;
	}
	a_while(w, 30);
}

static void *disturb(void *unused)
{
	/* It only draws. */
	struct worker w = { .nr = NR_WORKERS };

	while (!is_over() && !__atomic_load_n(&f->phase_over, __ATOMIC_RELAXED)) {
		w.rng = pattern(200 + f->phase, f->seed) + w.op++;
		disturb_once(&w);
	}
	set_knob("ready_ms", 0);
	return NULL;
}

/* ---- the crowd */

static void expect_of_storm(struct worker *w)
{
	w->rw = f->storm & (STORM_D3 | STORM_MEMORY) ? MAY : MUST;
	w->touch = f->storm & (STORM_D3 | STORM_MEMORY | STORM_LOW_POWER) ? MAY : MUST;
	w->bar0 = f->storm & ~STORM_SIGNAL ? MAY : MUST;
}

static void work(struct worker *w)
{
	unsigned int phase;

	while (!is_over()) {
		phase = __atomic_load_n(&f->phase, __ATOMIC_SEQ_CST);
		if (w->phase == phase) {
			usleep(500);
			continue;
		}
		expect_of_storm(w);
		while (w->op < f->target && !is_over())
			run_op(w);
		__atomic_store_n(&w->phase, phase, __ATOMIC_SEQ_CST);
	}
}

static void *worker_thread(void *w)
{
	work(w);
	return NULL;
}

static int worker_process(void *w)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	work(w);
	return 0;
}

static void start_worker(struct worker *w)
{
	drain(w);
	unmap_dma(w, MIB(64));
	w->since = 0;
	if (!IS_PROCESS(w->nr))
		pthread_create(&w->thread, NULL, worker_thread, w);
	else
		w->pid = start_child(worker_process, w);
}

/* A process died in the middle of an operation. Another one takes its place. */
static void replace(struct worker *w, int end)
{
	unsigned int area;
	pid_t child;

	if (end != -SIGKILL) {
		broken(w, "the process ended with %d", end);
		return;
	}
	/* Its child, now this task's, was killed with it, and may not be dead yet. */
	child = __atomic_exchange_n(&w->child, 0, __ATOMIC_SEQ_CST);
	if (child)
		waitpid(child, NULL, 0);
	for (area = 0; area < NR_AREAS; area++)
		slice_settle(&w->slices[area]);
	/* The arena was the process's own. */
	memset(w->table, 0, arena_pages() * sizeof(*w->table));
	w->op++;
	f->kills++;
	start_worker(w);
}

static void check_on(struct worker *w, unsigned long kill_at)
{
	long since = __atomic_load_n(&w->since, __ATOMIC_RELAXED);
	int status;

	if (since && now_ms() - since > HANGS_MS) {
		write_file("/proc/sysrq-trigger", "w");
		broken(w, "hangs for %ld ms; blocked tasks are in the kernel log",
		       now_ms() - since);
	}
	if (!IS_PROCESS(w->nr) || !w->pid)
		return;
	if (kill_at && w->op >= kill_at && w->phase != f->phase) {
		replace(w, kill_child(w->pid));
	} else if (waitpid(w->pid, &status, WNOHANG) == w->pid) {
		w->pid = 0;
		broken(w, "the process ended with status 0x%x", status);
	}
}

static bool all_are_done(void)
{
	unsigned int i;

	for (i = 0; i < NR_CROWD; i++)
		if (__atomic_load_n(&f->workers[i].phase, __ATOMIC_SEQ_CST) != f->phase)
			return false;
	return true;
}

/* A phase in which all workers do OPS operations, and STORM disturbs them. */
static void crowd(unsigned int storm, unsigned int nr_ops)
{
	struct worker *solo = &f->workers[SOLO];
	unsigned long kill_at[NR_CROWD] = {};
	pthread_t disturber;
	unsigned int i, r;

	f->storm = storm;
	for (r = 0; r < NR_REGIONS && storm_resets(); r++)
		add_candidate(&f->bars[r], BAR_FLAGS);
	for (i = 0; i < NR_CROWD && storm; i++)
		slice_forget(&f->workers[i].slices[BAR0]);
	for (i = 0; i < NR_CROWD; i++)
		if (IS_PROCESS(i))
			kill_at[i] = f->workers[i].op + below(solo, nr_ops);
	f->target += nr_ops;
	f->phase_over = false;
	if (storm)
		pthread_create(&disturber, NULL, disturb, NULL);
	__atomic_add_fetch(&f->phase, 1, __ATOMIC_SEQ_CST);
	while (!is_over() && !all_are_done()) {
		usleep(300);
		beat();
		for (i = 0; i < NR_CROWD; i++) {
			unsigned long at = kill_at[i];

			if (at && f->workers[i].op >= at)
				kill_at[i] = 0;
			check_on(&f->workers[i], at);
		}
	}
	__atomic_store_n(&f->phase_over, true, __ATOMIC_RELAXED);
	if (storm)
		pthread_join(disturber, NULL);
	f->storm = 0;
}

/* ---- solo: the GPU's state is known, and so is each outcome */

static struct {
	unsigned int power;	/* 0 or 3 */
	bool memory;		/* enabled */
	bool low;		/* low power is allowed */
	enum { READY_YES, READY_NO, READY_PERHAPS } ready;	/* as the driver knows it */
} gpu;

static void expect_of_gpu(struct worker *w)
{
	if (gpu.power) {
		w->rw = MUST_NOT;
		w->touch = MUST_NOT;
		w->bar0 = MUST_NOT;
	} else if (gpu.low) {
		w->rw = gpu.memory ? MUST : MAY;
		w->touch = MUST_NOT;
		w->bar0 = gpu.memory ? MUST : MUST_NOT;
	} else if (gpu.memory) {
		w->rw = MUST;
		w->touch = MUST;
		w->bar0 = MUST;
	} else {
		w->rw = gpu.ready == READY_YES ? MUST : gpu.ready == READY_NO ? MUST_NOT : MAY;
		w->touch = w->rw;
		w->bar0 = MUST_NOT;
	}
}

static void gpu_was_reset(void)
{
	gpu.power = 0;
	gpu.ready = READY_NO;
	bars_are_zero();
	slice_forget(&f->workers[SOLO].slices[BAR0]);
}

/* Change the state of the GPU. Returns the name of a change that zaps the mappings, or NULL. */
static const char *change_gpu(struct worker *w)
{
	static const char * const resets[] = {
		"VFIO_DEVICE_RESET", "the guest's FLR", "a reset from sysfs", "a hot reset",
	};
	unsigned int how;
	int err;

	if (gpu.low) {
		gpu.low = false;
		err = allow_low_power(f->v.device, false) ? errno : 0;
		if (err)
			broken(w, "low power exit: %s", strerror(err));
		return NULL;
	}
	switch (below(w, 8)) {
	case 0:
		gpu.power = gpu.power ? 0 : 3;
		gpu.ready = READY_NO;
		f->sleeps++;
		err = set_power(gpu.power);
		if (err)
			broken(w, "to D%u: %s", gpu.power, strerror(err));
		return gpu.power ? "D3" : NULL;
	case 1:
	case 2:
		gpu.memory = !gpu.memory;
		err = set_memory(gpu.memory);
		if (err)
			broken(w, "memory enable: %s", strerror(err));
		return gpu.memory ? NULL : "memory off";
	case 3:
		if (gpu.power)
			return NULL;
		gpu.low = true;
		gpu.ready = READY_PERHAPS;
		f->sleeps++;
		if (allow_low_power(f->v.device, true))
			broken(w, "low power entry: %s", strerror(errno));
		return "low power";
	default:
		set_knob("ready_ms", one_in(w, 2) ? 0 : 20 + below(w, 200));
		how = below(w, NR_RESETS);
		err = reset_gpu(how);
		if (err)
			broken(w, "%s: %s", resets[how], strerror(err));
		if (how == RESET_BUS && reset_is("flr"))
			return NULL;
		gpu_was_reset();
		return resets[how];
	}
}

/* Learn the driver's state from the last operation. */
static void learn(struct worker *w)
{
	if (w->passed) {
		if (!gpu.low)
			gpu.ready = READY_YES;
		if (knob("ready") != 1)
			broken(w, "the memory was used while the GPU was not ready");
	} else if (gpu.ready == READY_NO && gpu.memory && !gpu.power) {
		gpu.ready = READY_PERHAPS;
	}
}

static long my_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	/* One that is tried again counts as major. */
	return usage.ru_minflt + usage.ru_majflt;
}

/* A page that was mapped before is gone, and a fault maps it again if the GPU's state allows. */
static void change_gpu_under_mapping(struct worker *w)
{
	unsigned int area = draw_region(w);
	const char *zapped;
	size_t at, len;
	uint8_t *p;
	long faults;

	p = draw_mapped(w, area, &at, &len, PROT_READ, 4000);
	expect_of_gpu(w);
	w->passed = false;
	if (p)
		load(w, area, at, p, len);
	learn(w);

	zapped = change_gpu(w);
	expect_of_gpu(w);
	if (!p)
		return;
	w->passed = false;
	faults = my_faults();
	load(w, area, at, p, len);
	if (zapped && w->passed && my_faults() == faults)
		broken(w, "the page stayed mapped after %s", zapped);
	learn(w);
}

static void solo(unsigned int nr_ops)
{
	struct worker *w = &f->workers[SOLO];
	unsigned int i;

	f->storm = 0;
	for (i = 0; i < nr_ops && !is_over(); i++) {
		long start = now_ms();

		beat();
		w->rng = pattern(300, f->seed) ^ pattern(301, w->op);
		if (one_in(w, 4)) {
			w->what = ARRAY_SIZE(ops);
			change_gpu_under_mapping(w);
			w->op++;
		} else {
			expect_of_gpu(w);
			w->passed = false;
			run_op(w);
			learn(w);
		}
		if (now_ms() - start > TOO_LONG_MS) {
			w->op--;
			broken(w, "took %ld ms", now_ms() - start);
		}
	}
	/* Leave the GPU as the workers need it. */
	set_knob("ready_ms", 0);
	if (gpu.low)
		allow_low_power(f->v.device, false);
	if (gpu.power)
		set_power(0);
	gpu.low = false;
	gpu.power = 0;
	set_memory(true);
	gpu.memory = true;
	gpu.ready = READY_PERHAPS;
}

/* ---- a round */

/* Place a slice of LEN bytes: at an edge that the driver treats in its own way, or anywhere. */
static uint64_t draw_pos(struct worker *w, unsigned int area, size_t len, bool at_end)
{
	const uint64_t backed = area_backed(area);
	uint64_t pos;

	if (at_end)
		return backed - len;
	switch (below(w, 6)) {
	case 0:
		pos = 0;
		break;
	case 1:		/* across two mappings of the driver's in the kernel */
		pos = GIB(1) * (1 + below(w, backed / GIB(1) + 1)) - len / 2 - below(w, 5000);
		break;
	case 2:
		pos = MIB(512) * (1 + below(w, backed / MIB(512) + 1)) - len / 2 - below(w, 5000);
		break;
	case 3:		/* across blocks */
	case 4:
		pos = BLOCK * (1 + below(w, backed / BLOCK + 1)) - len / 2 - below(w, 5000);
		break;
	default:
		pos = below(w, backed);
		break;
	}
	return pos < backed - len ? pos : backed - len - 1 - below(w, 5000);
}

static bool overlaps(unsigned int nr, unsigned int area, uint64_t pos, size_t len)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		const struct slice *s = &f->workers[i].slices[area];

		if (pos < s->pos + s->len && s->pos < pos + len)
			return true;
	}
	return false;
}

/* One of them has the end of the memory. */
static void lay_out(void)
{
	struct worker draws = { .rng = pattern(400, f->seed) };
	unsigned int last = below(&draws, NR_WORKERS), nr, area;

	for (area = 0; area < NR_MAPPED; area++) {
		struct slice *end = &f->workers[last].slices[area];

		end->len = (IS_LARGE(last) ? LARGE : SMALL) - below(&draws, 5000);
		end->pos = draw_pos(&draws, area, end->len, true);
		for (nr = 0; nr < NR_WORKERS; nr++) {
			struct slice *s = &f->workers[nr].slices[area];

			if (nr == last)
				continue;
			s->len = (IS_LARGE(nr) ? LARGE : SMALL) - below(&draws, 5000);
			do
				s->pos = draw_pos(&draws, area, s->len, false);
			while (overlaps(nr, area, s->pos, s->len) ||
			       s->pos + s->len > end->pos);
		}
	}
	for (nr = 0; nr < NR_WORKERS; nr++) {
		struct slice *s = &f->workers[nr].slices[BAR0];

		s->len = BAR0_SLICE;
		s->pos = BAR0_FREE + nr * KIB(4) + below(&draws, 64);
	}
}

/* The driver writes zeroes to EGM before a new owner maps it. */
static void expect_egm_zeroes(void)
{
	unsigned int nr;

	for (nr = 0; nr < NR_WORKERS; nr++) {
		struct slice *s = &f->workers[nr].slices[EGM];

		memset(s->value, 0, s->len);
		memset(s->state, BYTE_KNOWN, s->len);
		slice_not_written(s);
	}
}

/* All other slices get random bytes. */
static void fill_slices(void)
{
	unsigned int nr, area;

	for (nr = 0; nr < NR_WORKERS; nr++) {
		struct worker *w = &f->workers[nr];

		w->rng = pattern(500 + nr, f->seed);
		w->what = 1;
		for (area = 0; area < NR_AREAS; area++) {
			if (area == EGM)
				continue;
			slice_forget(&w->slices[area]);
			write_slice(w, area, 0, begin_write(w, area, 0, w->slices[area].len),
				    w->slices[area].len);
		}
	}
}

static void read_egm_slice(struct worker *w)
{
	const struct slice *s = &w->slices[EGM];
	const uint64_t first = s->pos & -PAGE, len = s->pos + s->len - first;
	uint8_t *p = mmap(NULL, len, PROT_READ, MAP_SHARED, f->egm, first);

	if (p == MAP_FAILED) {
		broken(w, "mmap of EGM: %s", strerror(errno));
		return;
	}
	must_read(w, EGM, 0, p + s->pos - first, s->len);
	munmap(p, len);
}

static void verify_slices(const char *when)
{
	unsigned int nr, area;

	for (nr = 0; nr < NR_WORKERS; nr++) {
		struct worker *w = &f->workers[nr];

		expect_of_storm(w);
		for (area = 0; area < NR_MAPPED; area++) {
			w->what = 0;
			if (area == EGM)
				read_egm_slice(w);
			else
				read_slice(w, area, 0, w->slices[area].len, w->got);
			if (f->failed) {
				strncat(f->message, when,
					sizeof(f->message) - strlen(f->message) - 1);
				return;
			}
		}
	}
}

static void check_bars(const char *when)
{
	uint64_t value = 0;
	unsigned int r;

	for (r = 0; r < NR_REGIONS; r++)
		if (pread(f->v.device, &value, 8, CONFIG + bar_register(r)) != 8 ||
		    value != BAR_FLAGS)
			broken(NULL, "the BAR register at 0x%x is 0x%lx %s", bar_register(r), value,
			       when);
	bars_are_zero();
}

/* The modes that the kernel has, in turn. */
static enum vfio_mode mode_of(uint64_t seed)
{
	unsigned int mode = seed % (IOMMUFD + 1);

	while (vfio_mode_missing(mode))
		mode = (mode + 1) % (IOMMUFD + 1);
	return mode;
}

static bool open_round(void)
{
	int ret = vfio_open(&f->v, mode_of(f->seed));
	void *p;

	if (ret) {
		broken(NULL, "open by %s: %s", vfio_mode_name(f->v.mode), strerror(-ret));
		return false;
	}
	set_knob("ready_ms", 0);
	f->egm = open_egm(NULL);
	f->egm_size = lseek(f->egm, 0, SEEK_END);
	p = mmap(f->workers[SOLO].arena, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, f->egm, 0);
	if (p == MAP_FAILED) {
		broken(NULL, "EGM: %s", strerror(errno));
		return false;
	}
	expect_egm_zeroes();
	if (enable_memory(f->v.device) ||
	    pread(f->v.device, f->config, sizeof(f->config), CONFIG) != sizeof(f->config)) {
		broken(NULL, "config space: %s", strerror(errno));
		return false;
	}
	f->pmcsr = config_find_cap(f->v.device, PCI_CAP_ID_PM) + PCI_PM_CTRL;
	f->group_fds = f->v.mode != IOMMUFD;
	/* An fd of a group is on a file system without executables. */
	p = mmap(f->workers[SOLO].arena, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED,
		 f->v.device, f->v.regions[USEMEM].off);
	f->may_exec = p != MAP_FAILED;
	reserve_again(&f->workers[SOLO], 0, arena_pages());
	gpu.memory = true;
	gpu.ready = READY_PERHAPS;
	return true;
}

/* A mapping outlives the fd. */
static void close_round(void)
{
	struct worker *w = &f->workers[SOLO];
	unsigned int nr, area;
	size_t at, len;
	uint8_t *p;

	for (area = 0; area < NR_REGIONS && !f->failed; area++) {
		w->what = 0;
		w->rng = pattern(600, f->seed);
		expect_of_storm(w);
		p = draw_mapped(w, area, &at, &len, PROT_READ, 4000);
		if (area == RESMEM)
			vfio_close(&f->v);
		if (p)
			load(w, area, at, p, len);
	}
	vfio_close(&f->v);
	for (nr = 0; nr < NR_WORKERS; nr++)
		reserve_again(&f->workers[nr], 0, arena_pages());
	close(f->egm);
}

static void start_workers(void)
{
	unsigned int i;

	f->phase = 0;
	f->target = 0;
	f->round_over = false;
	for (i = 0; i < NR_WORKERS; i++) {
		f->workers[i].phase = 0;
		f->workers[i].op = 0;
		if (i < NR_CROWD)
			start_worker(&f->workers[i]);
	}
}

static void end_workers(void)
{
	unsigned int i;

	__atomic_store_n(&f->round_over, true, __ATOMIC_SEQ_CST);
	for (i = 0; i < NR_CROWD; i++) {
		struct worker *w = &f->workers[i];

		/* If one worker hangs, others may wait for it. */
		if (!IS_PROCESS(i) && !f->failed)
			pthread_join(w->thread, NULL);
		else if (IS_PROCESS(i) && w->pid)
			f->failed ? kill_child(w->pid) : end_of_child(w->pid);
		w->pid = 0;
	}
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

static void run_round(uint64_t seed)
{
	static const unsigned int storms[] = {
		STORM_D3, STORM_MEMORY, STORM_LOW_POWER, STORM_LOW_POWER | STORM_RESET,
		STORM_D3 | STORM_LOW_POWER | STORM_SIGNAL,
		STORM_RESET | STORM_D3 | STORM_MEMORY | STORM_LOW_POWER | STORM_SIGNAL,
	};
	struct worker draws = { .rng = pattern(700, seed) };
	static bool again;

	f->seed = seed;
	beat();
	if (!open_round())
		return;
	/*
	 * The last VFIO user's bytes are in the GPU's memory still, and neither in EGM nor in the
	 * registers.
	 */
	if (again)
		verify_slices(", after close and open");
	again = true;
	check_bars("after open");
	lay_out();
	fill_slices();
	start_workers();
	solo(SOLO_OPS);
	crowd(0, QUIET_OPS);
	solo(SOLO_OPS);
	crowd(STORM_RESET | STORM_SIGNAL, STORM_OPS);
	crowd(0, QUIET_OPS);
	crowd(storms[below(&draws, ARRAY_SIZE(storms))], STORM_OPS);
	end_workers();
	if (f->failed)
		return;
	verify_slices(", at the end");
	close_round();
	f->rounds++;
}

/* ---- the program */

static void *alloc_shared(size_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
}

static bool set_up_worker(struct worker *w, unsigned int nr)
{
	const size_t max = IS_LARGE(nr) ? LARGE : SMALL;
	unsigned int area;
	uint8_t *p;

	w->nr = nr;
	for (area = 0; area < NR_AREAS; area++) {
		size_t len = area == BAR0 ? BAR0_SLICE : max;

		p = alloc_shared(3 * len);
		if (p == MAP_FAILED)
			return false;
		w->slices[area].value = p;
		w->slices[area].other = p + len;
		w->slices[area].state = p + 2 * len;
	}
	w->data = alloc_shared(max + KIB(32));
	w->got = alloc_shared(max + KIB(32));
	w->table = alloc_shared(arena_pages() * sizeof(*w->table));
	w->bad = alloc_shared(3 * PAGE);
	w->fresh = mmap(NULL, FRESH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	w->arena = reserve(arena_pages() * PAGE, 0);
	w->file = open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	return w->data != MAP_FAILED && w->got != MAP_FAILED && w->table != MAP_FAILED &&
	       w->bad != MAP_FAILED && w->fresh != MAP_FAILED && w->file >= 0 &&
	       !mprotect(w->bad + PAGE, PAGE, PROT_READ) &&
	       !mprotect(w->bad + 2 * PAGE, PAGE, PROT_NONE) &&
	       !pipe2(w->pipe, O_NONBLOCK | O_CLOEXEC);
}

/* Brings each page of the buffer a while after it is asked for. */
static void *bring_pages(void *arg)
{
	int fd = (intptr_t)arg;
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	struct uffdio_zeropage zero = { .range.len = PAGE };
	struct uffd_msg msg;

	while (poll(&poll_fd, 1, -1) == 1 && read(fd, &msg, sizeof(msg)) == sizeof(msg)) {
		if (msg.event != UFFD_EVENT_PAGEFAULT)
			continue;
		usleep(pattern(0, msg.arg.pagefault.address) % 3000);
		zero.range.start = msg.arg.pagefault.address & -PAGE;
		while (ioctl(fd, UFFDIO_ZEROPAGE, &zero) && errno == EAGAIN)
			;
		/* Wake it also if the page had come before. */
		ioctl(fd, UFFDIO_WAKE, &zero.range);
	}
	return NULL;
}

/* ->late stays NULL if this kernel has no userfaultfd. */
static void set_up_userfaultfd(struct worker *w)
{
	struct uffdio_register reg = { .range.len = FRESH, .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_api api = { .api = UFFD_API };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	pthread_t thread;
	void *p;

	p = mmap(NULL, FRESH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range.start = (uintptr_t)p;
	if (fd < 0 || p == MAP_FAILED || ioctl(fd, UFFDIO_API, &api) ||
	    ioctl(fd, UFFDIO_REGISTER, &reg) ||
	    pthread_create(&thread, NULL, bring_pages, (void *)(intptr_t)fd))
		return;
	w->late = p;
}

/* Ends a run in which the main task hangs, or one that has failed and does not end. */
static void *watch(void *unused)
{
	const struct worker *w;

	for (;;) {
		sleep(1);
		if (now_ms() - __atomic_load_n(&f->beat, __ATOMIC_RELAXED) < HANGS_MS)
			continue;
		printf("# failed: SEED=%lu hangs: %s\n", f->seed, f->message);
		for (w = f->workers; w < f->workers + NR_WORKERS; w++)
			printf("# worker %u: phase %u, operation %lu, %s, for %ld ms\n", w->nr,
			       w->phase, w->op, op_name(w), w->since ? now_ms() - w->since : 0);
		fflush(stdout);
		write_file("/proc/sysrq-trigger", "w");
		_exit(1);
	}
	return NULL;
}

static void ignore(int sig)
{
}

static bool set_up(void)
{
	struct sigaction sa = { .sa_handler = ignore, .sa_flags = SA_RESTART };
	pthread_t thread;
	unsigned int nr;

	/* malloc() maps nothing while workers have holes in their arenas. */
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, MIB(32));
	f = alloc_shared(sizeof(*f));
	if (f == MAP_FAILED)
		return false;
	for (nr = 0; nr < NR_WORKERS; nr++)
		if (!set_up_worker(&f->workers[nr], nr))
			return false;
	set_up_userfaultfd(&f->workers[UFFD_WORKER]);
	f->process_vm = !process_vm_readv(getpid(), NULL, 0, NULL, 0, 0);
	beat();
	return !pthread_create(&thread, NULL, watch, NULL) &&
	       !sigaction(SIGUSR1, &sa, NULL) && !prctl(PR_SET_CHILD_SUBREAPER, 1);
}

/* The first new report in the kernel log, or NULL. */
static const char *complaint(int kmsg)
{
	static char record[1024];
	ssize_t len;

	while ((len = read(kmsg, record, sizeof(record) - 1)) > 0 || errno == EPIPE) {
		record[len < 0 ? 0 : len] = 0;
		record[strcspn(record, "\n")] = 0;
		if (is_trouble(record))
			return record;
	}
	return NULL;
}

static void print_counts(long seconds)
{
	unsigned long total = 0, done, refused;
	unsigned int i, nr;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		done = 0;
		refused = 0;
		for (nr = 0; nr < NR_WORKERS; nr++) {
			done += f->workers[nr].done[i];
			refused += f->workers[nr].refused[i];
		}
		total += done + refused;
		printf("# %-14s %7lu done %6lu refused\n", ops[i].name, done, refused);
		/* An operation that is never done tests nothing. */
		if (!done && !ops[i].optional && f->rounds > 2)
			broken(NULL, "%s was never done", ops[i].name);
	}
	printf("# total: %lu rounds, %lu operations, %lu resets, %lu sleeps, %lu kills, %ld s\n",
	       f->rounds, total, f->resets, f->sleeps, f->kills, seconds);
}

FIXTURE(fuzz)
{
	int kmsg;
};

FIXTURE_SETUP(fuzz)
{
	ASSERT_TRUE(set_up());
	self->kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ASSERT_LE(0, self->kmsg);
	lseek(self->kmsg, 0, SEEK_END);
}

FIXTURE_TEARDOWN(fuzz)
{
	set_knob("ready_ms", 0);
	set_knob("ready", 1);
}

/* The seed of round NR: the same in each run with SEED or SEED_BASE. */
static uint32_t seed_of(unsigned int nr)
{
	const char *fixed = getenv("SEED"), *base = getenv("SEED_BASE");
	uint32_t seed;

	if (fixed)
		return strtoul(fixed, NULL, 0);
	if (base)
		return pattern(0, (strtoull(base, NULL, 0) << 32) + nr);
	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		exit(KSFT_FAIL);
	return seed;
}

/* The limit is a day. */
TEST_F_TIMEOUT(fuzz, rounds, 90000)
{
	const char *seconds = getenv("FUZZ_SECONDS"), *said;
	long start = now_ms(), limit = 1000 * atol(seconds ?: getenv("SEED") ? "0" : "60");
	unsigned int nr = 0;
	uint32_t seed;

	do {
		seed = seed_of(nr++);
		printf("# %ld s: SEED=%u, %s\n", (now_ms() - start) / 1000, seed,
		       vfio_mode_name(mode_of(seed)));
		fflush(stdout);
		run_round(seed);
		said = complaint(self->kmsg);
		if (said)
			broken(NULL, "the kernel says: %s", said);
	} while (!f->failed && now_ms() - start < limit);

	print_counts((now_ms() - start) / 1000);
	if (f->failed)
		printf("# failed: SEED=%u after %ld s: %s\n", seed, (now_ms() - start) / 1000,
		       f->message);
	fflush(stdout);
	/* Threads of a round that failed may still run. */
	ASSERT_FALSE(f->failed);
}

TEST_PROGRAM_MAIN(program)
