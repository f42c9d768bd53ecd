/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A program takes its parameters from the environment. Without a variable that it needs it explains
 * itself and is skipped. If the device BDF cannot be used, one clear line says why before any test
 * runs.
 */
#ifndef TESTS_PROGRAM_H
#define TESTS_PROGRAM_H

#include "knobs.h"
#include "ktap.h"
#include "vfio.h"

struct program_var {
	const char *name;
	const char *means;
	const char *example;
	bool optional;
};

struct program {
	const char *what;	/* the program does, or is about */
	struct program_var vars[8];
	const char *args;	/* of an example */
	bool unbound;		/* the program itself binds BDF, which has no driver */
	bool standin;		/* BDF has to be a stand-in of gpu_standin.ko */
};

#define VAR_BDF								\
	{ "BDF", "PCI address of the device, bound to a VFIO driver", "0000:01:00.0" }
#define VAR_STANDIN							\
	{ "BDF", "PCI address of a stand-in of gpu_standin.ko", "0001:01:00.0" }
#define VAR_REGIONS							\
	{ "REGIONS", "BAR:BACKED:SIZE, in bytes, of usemem and then of resmem",	\
	  "'2:0x20000000:0x20000000 4:0x40000000:0x40000000'" }
#define VAR_RESET							\
	{ "RESET", "how it can be reset: none, bus (hot reset), or flr (and hot reset)", "bus" }

static inline void program_usage(const struct program *p)
{
	const struct program_var *var;

	fprintf(stderr, "%s: %s\n\n", program_invocation_short_name, p->what);
	if (p->vars->name)
		fprintf(stderr, "Environment:\n");
	for (var = p->vars; var->name; var++)
		fprintf(stderr, "  %-9s %s%s\n", var->name, var->means,
			var->optional ? " (optional)" : "");
	fprintf(stderr, "Example:\n ");
	for (var = p->vars; var->name; var++)
		if (!var->optional)
			fprintf(stderr, " %s=%s", var->name, var->example);
	fprintf(stderr, " %s %s\n\n", program_invocation_short_name, p->args ?: "");
	fflush(stderr);
}

static inline void __noreturn __printf(2, 3)
program_skip(const struct program *p, const char *fmt, ...)
{
	va_list args;

	program_usage(p);
	printf("TAP version 13\n1..0 # SKIP ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	exit(KTAP_SKIP);
}

static inline void __noreturn __printf(1, 2) program_fail(const char *fmt, ...)
{
	va_list args;

	printf("TAP version 13\nBail out! ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	exit(KTAP_FAIL);
}

/* A group can be opened once, and not while its device is open through the device's node. */
static inline void program_check_free(const char *bdf)
{
	char node[PATH_MAX];
	int fd;

	if (vfio_node(TYPE1, node, sizeof(node)))
		program_fail("%s has no IOMMU group: is there an IOMMU that is on?", bdf);
	/* A kernel without VFIO_GROUP has no such node. */
	if (access(node, F_OK))
		return;
	fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		program_fail("%s: %s: %s%s", bdf, node, strerror(errno),
			     errno == EBUSY ? ", another process has it open" : "");
	close(fd);
}

static inline void program_check_device(const struct program *p)
{
	char path[PATH_MAX], driver[PATH_MAX] = "";
	const char *bdf = getenv("BDF");

	if (access(device_path(path, sizeof(path), ""), F_OK) || !*bdf)
		program_fail("BDF=%s: there is no such PCI device in /sys/bus/pci/devices", bdf);
	readlink(device_path(path, sizeof(path), "driver"), driver, sizeof(driver) - 1);
	if (p->unbound) {
		if (*driver)
			program_fail("BDF=%s is bound to %s, and should be bound to no driver", bdf,
				     basename(driver));
		return;
	}
	if (!*driver)
		program_fail("BDF=%s is bound to no driver; set driver_override and bind it",
			     bdf);
	if (access(device_path(path, sizeof(path), "vfio-dev"), F_OK))
		program_fail("BDF=%s is bound to %s, which is not a VFIO driver", bdf,
			     basename(driver));
	if (p->standin && !has_knobs())
		program_fail("BDF=%s is not a stand-in of gpu_standin.ko", bdf);
	program_check_free(bdf);
}

/* Returns only if the program can run. */
static inline void program_check(const struct program *p, int argc, char **argv)
{
	const struct program_var *var;
	struct region regions[NR_REGIONS];
	int i;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help"))
			program_skip(p, "this is the help");
	}
	for (var = p->vars; var->name; var++) {
		if (!var->optional && !getenv(var->name))
			program_skip(p, "%s is not set", var->name);
		if (!strcmp(var->name, "REGIONS") && expected_regions(regions))
			program_fail("REGIONS='%s' is not BAR:BACKED:SIZE BAR:BACKED:SIZE",
				     getenv("REGIONS"));
		if (!strcmp(var->name, "BDF") && getenv("BDF"))
			program_check_device(p);
	}
}

#endif /* TESTS_PROGRAM_H */
