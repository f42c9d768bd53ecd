/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For programs on the kernel's selftest harness: the set-up of their fixtures, and
 * their main().
 */
#ifndef TESTS_FIXTURE_H
#define TESTS_FIXTURE_H

#include "kselftest_harness.h"
#include "program.h"

/* A fixture that is run in each mode; the name of the variant is the mode's. */
#define VFIO_MODE_VARIANTS(fixture)						\
	FIXTURE_VARIANT(fixture) { enum vfio_mode mode; };			\
	FIXTURE_VARIANT_ADD(fixture, type1) { .mode = TYPE1 };			\
	FIXTURE_VARIANT_ADD(fixture, iommufd_compat) { .mode = IOMMUFD_COMPAT };	\
	FIXTURE_VARIANT_ADD(fixture, iommufd) { .mode = IOMMUFD }

/*
 * Open the device in a fixture's set-up, and its fd to FD. False, with the reason for
 * the test to be skipped, if this kernel does not have the mode: return then.
 */
static inline bool open_device(struct __test_metadata *_metadata, struct vfio *v, int *fd,
			       enum vfio_mode mode)
{
	const char *missing = vfio_mode_missing(mode);
	int ret;

	if (missing)
		SKIP(return false, "%s", missing);
	ret = vfio_open(v, mode);
	ASSERT_EQ(0, ret) {
		TH_LOG("%s by %s: %s", v->bdf, vfio_mode_name(v->mode), strerror(-ret));
	}
	*fd = v->device;
	return true;
}

/* Close it, if it is open still, and open it in the same mode. */
static inline void reopen_device(struct __test_metadata *_metadata, struct vfio *v, int *fd)
{
	enum vfio_mode mode = v->mode;
	int ret;

	vfio_close(v);
	ret = vfio_open(v, mode);
	ASSERT_EQ(0, ret) {
		TH_LOG("%s by %s, again: %s", v->bdf, vfio_mode_name(mode), strerror(-ret));
	}
	*fd = v->device;
}

#define EXPECT_ERRNO(err, call)						\
	do {								\
		errno = 0;						\
		EXPECT_EQ(-1L, (long)(call)) TH_LOG("%s", #call);	\
		EXPECT_EQ(err, errno) TH_LOG("%s", #call);		\
	} while (0)

/* Skip a test that this region is too small for: blocks are 512 MiB with 64 KiB pages. */
#define SKIP_UNLESS_BLOCKS(region, nr)						\
	do {									\
		if ((region)->backed < (nr) * BLOCK)				\
			SKIP(return, "%lu MiB of memory, %lu blocks of %lu MiB are needed",	\
			     (region)->backed >> 20, (unsigned long)(nr), BLOCK >> 20);	\
	} while (0)

/* A misspelt filter of the harness must not pass as a run without failures. */
static inline void check_filters(int argc, char **argv)
{
	struct __fixture_variant_metadata none = { .name = "" }, *v;
	struct __fixture_metadata *f;
	struct __test_metadata *t;

	for (f = __fixture_list; f; f = f->next)
		for (v = f->variant ?: &none; v; v = v->next)
			for (t = f->tests; t; t = t->next)
				if (test_enabled(argc, argv, f, v, t))
					return;
	program_fail("no test has that name; -l lists them");
}

static inline int run_program(const struct program *p, int argc, char **argv)
{
	/* -l lists the tests, on any machine. */
	if (argc != 2 || strcmp(argv[1], "-l")) {
		program_check(p, argc, argv);
		check_filters(argc, argv);
		optind = 1;
	}
	return test_harness_run(argc, argv);
}

#define TEST_PROGRAM_MAIN(program)					\
	int main(int argc, char **argv)					\
	{								\
		return run_program(&(program), argc, argv);		\
	}

#endif /* TESTS_FIXTURE_H */
