// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VMM maps /dev/egm<pxm>: the owner alone may, the memory holds zeroes at first, and it outlives
 * processes, GPUs and the driver as it has to.
 */
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "fault.h"
#include "fixture.h"
#include "pattern.h"
#include "poison.h"
#include "task.h"
#include "../../nvgrace_gpu_egm.h"

static const struct program program = {
	.what = "/dev/egm<pxm>, whose first 128 KiB firmware has retired",
	.vars = {
		VAR_BDF,
		{ "EGM", "name of the node", "egm4" },
		{ "BASE", "physical address of its memory, aligned to 1 GiB", "0x60000000000" },
	},
};

#define RETIRED	KIB(128)

static char node[64];

/* A file of the node's device in sysfs. */
static void egm_says(const char *file, char *line, int len)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/class/egm/%s/%s", getenv("EGM"), file);
	read_line(path, line, len);
}

static bool egm_is(const char *state)
{
	char line[64];

	egm_says("state", line, sizeof(line));
	return !strncmp(line, state, strlen(state));
}

static bool node_exists(void)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/class/egm/%s", getenv("EGM"));
	return !access(path, F_OK) || !access(node, F_OK);
}

static int open_node(int flags)
{
	return open(node, flags | O_CLOEXEC);
}

static uint8_t *map(int fd, uint64_t at, uint64_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
}

/* At an address that is aligned as the memory is, so that blocks fit. */
static uint8_t *map_aligned(int fd, uint64_t at, uint64_t len)
{
	const uint64_t align = GIB(1);
	uint8_t *p = mmap(NULL, len + 2 * align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p = (uint8_t *)(((uintptr_t)p + align) & -align) + at % align;
	return mmap(p, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, at);
}

FIXTURE(egm)
{
	uint64_t size;
	int fd;
};

FIXTURE_SETUP(egm)
{
	char line[64];

	snprintf(node, sizeof(node), "/dev/%s", getenv("EGM"));
	egm_says("egm_size", line, sizeof(line));
	ASSERT_EQ(0, strncmp(line, "0x", 2));
	self->size = strtoul(line, NULL, 16);
	self->fd = open_node(O_RDWR);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(egm)
{
	close(self->fd);
}

static void write_pattern(uint64_t size, uint8_t *p, unsigned int seed)
{
	volatile uint64_t *word;
	uint64_t off;

	for_each_stride(off, size, MIB(1) + 8) {
		word = (void *)(p + off);
		*word = pattern(seed, off);
	}
}

static int wrong_words(uint64_t size, uint8_t *p, int seed)
{
	volatile uint64_t *word;
	uint64_t off;
	int wrong = 0;

	for_each_stride(off, size, MIB(1) + 8) {
		word = (void *)(p + off);
		wrong += *word != (seed < 0 ? 0 : pattern(seed, off));
	}
	return wrong;
}

/* Opening has no effect, not even for who may only read. */
TEST_F(egm, open)
{
	char line[64];
	struct stat st;
	int other;

	ASSERT_TRUE(wait_until(egm_is("zeroed"), 60000));
	other = open_node(O_RDONLY);
	ASSERT_LE(0, other);
	EXPECT_TRUE(egm_is("zeroed"));
	EXPECT_EQ(self->size, lseek(other, 0, SEEK_END));
	EXPECT_EQ(4096, lseek(other, 4096, SEEK_SET));
	EXPECT_ERRNO(EINVAL, lseek(other, self->size + 1, SEEK_SET));
	EXPECT_ERRNO(EINVAL, read(other, line, 8));
	EXPECT_ERRNO(EINVAL, write(self->fd, line, 8));
	ASSERT_EQ(0, fstat(other, &st));
	EXPECT_TRUE(S_ISCHR(st.st_mode));
	EXPECT_EQ(0600, st.st_mode & 0777);
	close(other);

	egm_says("gpu_devices", line, sizeof(line));
	EXPECT_STREQ(getenv("BDF"), line);
}

/* None of these makes a file the owner. */
TEST_F(egm, mmap_is_refused)
{
	int other = open_node(O_RDWR);
	uint8_t *p;

	EXPECT_ERRNO(EINVAL, mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, self->fd, 0));
	EXPECT_ERRNO(EINVAL, mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0));
	EXPECT_ERRNO(EINVAL, map(self->fd, self->size, PAGE));
	EXPECT_ERRNO(EINVAL, map(self->fd, self->size - PAGE, 2 * PAGE));
	EXPECT_ERRNO(EINVAL, map(self->fd, 0, self->size + PAGE));
	EXPECT_ERRNO(EINVAL, map(self->fd, 1UL << 62, PAGE));
	EXPECT_ERRNO(EOVERFLOW, map(self->fd, -2 * PAGE, 4 * PAGE));

	p = map(other, self->size - PAGE, PAGE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, fault_of(*(volatile uint64_t *)(p + PAGE - 8) = 1).sig);
	munmap(p, PAGE);
	close(other);
}

/* mremap() would show what lies after the region. */
TEST_F(egm, mapping_does_not_grow)
{
	uint8_t *p = map(self->fd, 0, PAGE);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(MAP_FAILED, mremap(p, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
	EXPECT_EQ(EFAULT, errno);
}

static int map_once(void *arg)
{
	return map(*(int *)arg, 0, PAGE) == MAP_FAILED ? errno : 0;
}

static int open_and_map(void *arg)
{
	int fd = open_node(O_RDWR);

	return map_once(&fd);
}

/* The file is the owner, also in a VMM that execs itself, and in its child. */
TEST_F(egm, first_mmap_owns)
{
	int other = open_node(O_RDWR), copy = dup(self->fd);
	uint8_t *p = map(self->fd, 0, PAGE);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_TRUE(egm_is("in use"));
	EXPECT_ERRNO(EBUSY, map(other, 0, PAGE));
	EXPECT_EQ(EBUSY, end_of_child(start_child(open_and_map, NULL)));
	EXPECT_EQ(0, end_of_child(start_child(map_once, &copy)));
	EXPECT_NE(MAP_FAILED, map(copy, self->size - PAGE, PAGE));

	/* A mapping keeps it, and so does a descriptor. */
	close(copy);
	close(self->fd);
	EXPECT_ERRNO(EBUSY, map(other, 0, PAGE));
	munmap(p, PAGE);
	self->fd = open_node(O_RDWR);
	/* The mapping of the last page is there still. */
	EXPECT_ERRNO(EBUSY, map(other, 0, PAGE));
}

/* Without a mapping the owner's descriptor keeps contents, too. */
TEST_F(egm, owner_keeps_contents)
{
	uint8_t *p = map(self->fd, 0, self->size);

	ASSERT_NE(MAP_FAILED, p);
	write_pattern(self->size, p, 1);
	munmap(p, self->size);
	p = map(self->fd, 0, self->size);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, wrong_words(self->size, p, 1));
}

static int own_and_die(void *arg)
{
	const uint64_t size = *(uint64_t *)arg;
	int fd = open_node(O_RDWR);
	uint8_t *p = map(fd, 0, size);

	if (p == MAP_FAILED)
		return errno;
	write_pattern(size, p, 2);
	raise(SIGKILL);
	return 0;
}

/* The next owner finds zeroes, at once and later. */
TEST_F_TIMEOUT(egm, next_owner_finds_zeroes, 300)
{
	int round;

	for (round = 0; round < 4; round++) {
		uint8_t *p;

		ASSERT_EQ(-SIGKILL, end_of_child(start_child(own_and_die, &self->size)));
		if (round % 2)
			ASSERT_TRUE(wait_until(egm_is("zeroed"), 60000));
		p = map(self->fd, 0, self->size);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_EQ(0, wrong_words(self->size, p, -1));
		munmap(p, self->size);
		close(self->fd);
		self->fd = open_node(O_RDWR);
	}
}

/* A GPU that is open may still write to the memory, so the driver waits for its close. */
TEST_F_TIMEOUT(egm, zeroes_wait_for_the_gpu, 300)
{
	struct vfio v;
	uint8_t *p;

	ASSERT_EQ(0, vfio_open(&v, BEST_MODE));
	ASSERT_EQ(-SIGKILL, end_of_child(start_child(own_and_die, &self->size)));
	EXPECT_FALSE(wait_until(!egm_is("zeroing 0 of "), 3000));
	vfio_close(&v);
	EXPECT_TRUE(wait_until(egm_is("zeroed"), 60000));

	/* The next owner does not wait for the GPU, which may be another VM's. */
	ASSERT_EQ(0, vfio_open(&v, BEST_MODE));
	ASSERT_EQ(-SIGKILL, end_of_child(start_child(own_and_die, &self->size)));
	p = map(self->fd, 0, self->size);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, wrong_words(self->size, p, -1));
	vfio_close(&v);
}

/* An owner that is killed while it waits leaves the zeroes to the next one. */
TEST_F_TIMEOUT(egm, killed_while_waiting, 300)
{
	uint8_t *p;
	int i;

	ASSERT_EQ(-SIGKILL, end_of_child(start_child(own_and_die, &self->size)));
	for (i = 0; i < 3; i++) {
		pid_t pid = start_child(open_and_map, NULL);

		usleep(10000);
		kill_child(pid);
	}
	p = map(self->fd, 0, self->size);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, wrong_words(self->size, p, -1));
}

/* Exactly one of many that map at once gets the memory. */
TEST_F_TIMEOUT(egm, race_for_the_first_mmap, 300)
{
	pid_t pids[8];
	unsigned int i, round;

	for (round = 0; round < 20; round++) {
		int hold[2], done[2], owners = 0;
		char c;

		ASSERT_EQ(0, pipe(hold));
		ASSERT_EQ(0, pipe(done));
		for (i = 0; i < ARRAY_SIZE(pids); i++) {
			pids[i] = fork();
			if (!pids[i]) {
				int result = open_and_map(NULL);

				close(hold[1]);
				write(done[1], "", 1);
				read(hold[0], &c, 1);
				_exit(result);
			}
		}
		for (i = 0; i < ARRAY_SIZE(pids); i++)
			ASSERT_EQ(1, read(done[0], &c, 1));
		close(hold[1]);
		for (i = 0; i < ARRAY_SIZE(pids); i++) {
			int result = end_of_child(pids[i]);

			owners += !result;
			EXPECT_TRUE(!result || result == EBUSY) TH_LOG("errno %d", result);
		}
		EXPECT_EQ(1, owners);
		close(hold[0]);
		close(done[0]);
		close(done[1]);
	}
}

/* Beside an errno, what an owner may find. */
enum { NOT_ZERO = 200, NOT_ALONE };

/*
 * An owner at random: it finds zeroes, has the memory for itself for a while, and goes by exit, by
 * a signal, or by unmapping and closing.
 */
static int be_owner_at_random(void *arg)
{
	const uint64_t size = *(uint64_t *)arg;
	unsigned int seed = getpid(), round;

	for (round = 0; round < 30; round++) {
		uint64_t at = rand_r(&seed) % (size / PAGE) * PAGE;
		uint64_t value = ((uint64_t)getpid() << 32) + round;
		volatile uint64_t *first, *word;
		int fd = open_node(O_RDWR);
		uint8_t *p = map(fd, 0, size);

		if (p == MAP_FAILED) {
			if (errno != EBUSY)
				return errno;
			close(fd);
			usleep(rand_r(&seed) % 5000);
			continue;
		}
		first = (void *)p;
		word = (void *)(p + at);
		if (*first || *word)
			return NOT_ZERO;
		*first = value;
		*word = value;
		usleep(rand_r(&seed) % 2000);
		if (*first != value || *word != value)
			return NOT_ALONE;
		switch (rand_r(&seed) % 4) {
		case 0:
			raise(SIGKILL);
			break;
		case 1:
			return 0;
		case 2:
			close(fd);
			munmap(p, size);
			break;
		default:
			munmap(p, size);
			close(fd);
		}
	}
	return 0;
}

TEST_F_TIMEOUT(egm, owners_at_random, 600)
{
	pid_t pids[6];
	unsigned int i, started = 0;

	for (i = 0; i < ARRAY_SIZE(pids); i++)
		pids[i] = start_child(be_owner_at_random, &self->size);
	for (i = 0; started < 24; i = (i + 1) % ARRAY_SIZE(pids)) {
		int result = end_of_child(pids[i]);

		EXPECT_TRUE(!result || result == -SIGKILL) TH_LOG("result %d", result);
		pids[i] = start_child(be_owner_at_random, &self->size);
		started++;
	}
	for (i = 0; i < ARRAY_SIZE(pids); i++)
		EXPECT_NE(-ECHILD, end_of_child(pids[i]));
}

/* One entry maps a block, and a fault where none fits maps a page table. */
TEST_F(egm, blocks)
{
	const uint64_t block = BLOCK;
	long tables = vm_pte_kib();
	uint8_t *p = map_aligned(self->fd, 0, self->size);

	ASSERT_LT(3 * block + PAGE, self->size);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(tables, vm_pte_kib()) TH_LOG("mmap() itself makes page tables");
	*(volatile uint8_t *)(p + 3 * block) = 1;
	EXPECT_EQ(0, tables_to_touch(p + block, block));
	munmap(p, self->size);

	/* Each bad page takes a fault of its own. */
	p = map(self->fd, block + PAGE, 2 * block);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_GE(3, faults_to_touch(p, 2 * block));
}

/* A guest's kernel runs from it. */
TEST_F(egm, execution)
{
	const uint32_t ret = 0xd65f03c0;	/* ret */
	uint8_t *p = map(self->fd, 0, PAGE);

	ASSERT_NE(MAP_FAILED, p);
	memcpy(p, &ret, sizeof(ret));
	__builtin___clear_cache((char *)p, (char *)p + sizeof(ret));
	ASSERT_EQ(0, mprotect(p, PAGE, PROT_READ | PROT_EXEC));
	EXPECT_EQ(0, fault_of(((void (*)(void))p)()).sig);
}

static struct egm_bad_pages_list *list_of(int fd, struct __test_metadata *_metadata)
{
	struct egm_bad_pages_list head = { .argsz = sizeof(head) }, *list;

	EXPECT_EQ(0, ioctl(fd, EGM_BAD_PAGES_LIST, &head));
	list = calloc(1, head.argsz);
	list->argsz = head.argsz;
	EXPECT_EQ(0, ioctl(fd, EGM_BAD_PAGES_LIST, list));
	return list;
}

TEST_F(egm, bad_pages)
{
	const unsigned int nr = RETIRED / PAGE;
	struct egm_bad_pages_list head = {}, *list;
	const size_t size = sizeof(head) + nr * sizeof(head.entries[0]);
	unsigned int i;

	/* The pointer comes first, then command and argsz. */
	EXPECT_ERRNO(EFAULT, ioctl(self->fd, EGM_BAD_PAGES_LIST, NULL));
	EXPECT_ERRNO(EFAULT, ioctl(self->fd, _IO('E', 101), NULL));
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, _IO('E', 101), &head));
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, EGM_BAD_PAGES_LIST, &head));
	head.argsz = sizeof(head) - 1;
	EXPECT_ERRNO(EINVAL, ioctl(self->fd, EGM_BAD_PAGES_LIST, &head));

	for (i = sizeof(head); i < size; i += size / 3) {
		head = (struct egm_bad_pages_list) { .argsz = i, .count = 77 };
		EXPECT_EQ(0, ioctl(self->fd, EGM_BAD_PAGES_LIST, &head));
		EXPECT_EQ(size, head.argsz);
		EXPECT_EQ(0, head.count);
	}

	list = list_of(self->fd, _metadata);
	ASSERT_EQ(nr, list->count);
	for (i = 0; i < nr; i++) {
		EXPECT_EQ(i * PAGE, list->entries[i].offset);
		EXPECT_EQ(PAGE, list->entries[i].size);
	}
	free(list);

	/* The struct ends with the last page that the caller can write. */
	list = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap((void *)list + PAGE, PAGE);
	list = (void *)list + PAGE - sizeof(head);
	list->argsz = size;
	EXPECT_ERRNO(EFAULT, ioctl(self->fd, EGM_BAD_PAGES_LIST, list));
}

/* mm notifies the owner at its own address; the page stays mapped, and is on the list then. */
TEST_F(egm, poisoned_page)
{
	const uint64_t at = MIB(64) + 5 * PAGE;
	struct egm_bad_pages_list *list;
	uint8_t *part, *other;

	if (no_poison())
		SKIP(return, "%s", no_poison());
	part = map(self->fd, at - 2 * PAGE, 4 * PAGE);
	other = map(self->fd, at + 2 * PAGE, PAGE);
	ASSERT_NE(MAP_FAILED, part);
	ASSERT_NE(MAP_FAILED, other);
	fault_watch();
	ASSERT_EQ(0, fault_of(*(volatile uint64_t *)(part + 2 * PAGE) = 7).sig);
	ASSERT_EQ(0, fault_of(*(volatile uint64_t *)other = 7).sig);
	fault_notices.times = 0;
	ASSERT_EQ(0, inject_poison(strtoul(getenv("BASE"), NULL, 0) + at));
	EXPECT_LE(1, fault_notices.times);
	EXPECT_EQ(part + 2 * PAGE, fault_notices.addr);
	EXPECT_EQ(0, fault_of((void)*(volatile uint64_t *)(part + 2 * PAGE)).sig);

	list = list_of(self->fd, _metadata);
	ASSERT_EQ(RETIRED / PAGE + 1, list->count);
	EXPECT_EQ(at, list->entries[list->count - 1].offset);
	free(list);
}

/* Memory, owner and node outlive the GPU; all of it ends with the file. */
TEST_F(egm, unbind_while_mapped)
{
	const int before = claims();
	uint8_t *p = map(self->fd, 0, self->size);
	char path[PATH_MAX], line[64];
	int other;

	ASSERT_NE(MAP_FAILED, p);
	write_pattern(self->size, p, 3);
	device_path(path, sizeof(path), "driver/unbind");
	ASSERT_EQ(0, write_file(path, getenv("BDF")));
	EXPECT_EQ(0, wrong_words(self->size, p, 3));
	egm_says("gpu_devices", line, sizeof(line));
	EXPECT_STREQ("", line);
	EXPECT_TRUE(egm_is("in use"));
	EXPECT_LE(1, claims());
	other = open_node(O_RDWR);
	EXPECT_LE(0, other);
	EXPECT_ERRNO(EBUSY, map(other, 0, PAGE));
	close(other);
	EXPECT_NE(0, syscall(SYS_delete_module, "nvgrace_gpu", O_NONBLOCK));

	/* The GPU comes back to the same region. */
	ASSERT_EQ(0, write_file("/sys/bus/pci/drivers/nvgrace_gpu/bind", getenv("BDF")));
	egm_says("gpu_devices", line, sizeof(line));
	EXPECT_STREQ(getenv("BDF"), line);
	EXPECT_EQ(before, claims());
	EXPECT_EQ(0, wrong_words(self->size, p, 3));

	ASSERT_EQ(0, write_file(path, getenv("BDF")));
	munmap(p, self->size);
	EXPECT_TRUE(node_exists());
	close(self->fd);
	EXPECT_FALSE(node_exists());
	EXPECT_EQ(0, claims());
	ASSERT_EQ(0, write_file("/sys/bus/pci/drivers/nvgrace_gpu/bind", getenv("BDF")));
	self->fd = open_node(O_RDWR);
	p = map(self->fd, 0, self->size);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, wrong_words(self->size, p, -1));
}

TEST_PROGRAM_MAIN(program)
