// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hostile firmware, variant by variant of tests/rig/hostile: the errno of the bind, each line of
 * the driver in the log, and the driver's claims. Beside the GPU that firmware lies about, a VFIO
 * user works with another one.
 */
#include "fixture.h"
#include "knobs.h"
#include "trouble.h"

static const struct program program = {
	.what = "binding a GPU fails as it should, whatever firmware says of it",
	.vars = {
		{ "BDF", "PCI address of another GPU, bound", "0001:01:00.0" },
		VAR_REGIONS,
		{ "GPU_H", "PCI address of a stand-in of a Hopper, with driver_override set",
		  "0002:01:00.0" },
		{ "GPU_B", "the same of a Blackwell", "0003:01:00.0" },
		{ "GPU_S", "a function whose BAR0 is too small", "0000:00:04.0" },
		{ "GPU_I", "one whose BAR0 is of I/O ports", "0000:00:05.0" },
		{ "GPU_N", "one that has no BAR0", "0000:00:06.0" },
		{ "VARIANTS", "the table that tests/rig/hostile prints", "/hostile" },
	},
};

#define MAX_LOG		16384
#define SHOWN		20	/* failures that are printed */

struct variant {
	char *group, *gpu, *companion, *config, *error, *claims, *lines;
};

static char good_bdf[32];
static int kmsg = -1;
static bool host_is_ill;

/* The lines that the driver has written about BDF since the last call, with tabs between. */
static void read_log(const char *bdf, char *said)
{
	static const char * const others[] = {
		"Adding to iommu group", "Removing from iommu group", "probe with driver",
		"enabling device", "resetting", "reset done", "ready: ", "not an id ",
		/* The PCI core's, of an NVIDIA GPU that it resumes. */
		"Enabling HDA controller", "quirk_", "nv_msi_ht_cap_quirk",
	};
	char record[8192], mark[64];
	ssize_t n;

	said[0] = 0;
	snprintf(mark, sizeof(mark), "nvgrace_gpu %s: ", bdf);
	while ((n = read(kmsg, record, sizeof(record) - 1)) > 0 || errno == EPIPE) {
		char *text, *end;
		unsigned int i;

		if (n < 0)
			continue;
		record[n] = 0;
		text = strchr(record, ';') ?: record;
		text++;
		end = strchr(text, '\n');
		if (end)
			*end = 0;
		host_is_ill |= is_trouble(text);
		if (strncmp(text, mark, strlen(mark)))
			continue;
		text += strlen(mark);
		if (!strncmp(text, "error -", 7) && strstr(text, ": "))
			text = strstr(text, ": ") + 2;
		for (i = 0; i < ARRAY_SIZE(others); i++)
			if (!strncmp(text, others[i], strlen(others[i])))
				break;
		if (i < ARRAY_SIZE(others))
			continue;
		snprintf(said + strlen(said), MAX_LOG - strlen(said), "%s%s",
			 *said ? "\t" : "", text);
	}
}

/* Does iomem have these claims, START-END with commas between, besides those of BEFORE? */
static bool has_claims(const char *before, const char *claims)
{
	static char now[MAX_IOMEM];
	char line[128];
	const char *p;
	size_t len = strlen(before), more = 0;

	read_iomem(now);
	if (!*claims)
		return !strcmp(before, now);
	for (p = claims; *p; p += *p == ',') {
		size_t n = strcspn(p, ",");

		snprintf(line, sizeof(line), "%.*s : nvgrace_gpu\n", (int)n, p);
		if (!strstr(now, line))
			return false;
		more += strlen(line);
		p += n;
	}
	/* In a window a line is indented. */
	return strlen(now) >= len + more && strlen(now) <= len + more + 16;
}

/* LINES of the oracle may have a * in place of an address or of a kernel's words. */
static bool log_matches(const char *lines, const char *said)
{
	for (; *lines && *lines != '*'; lines++, said++)
		if (*lines != *said)
			return false;
	return *lines ? strlen(said) >= strlen(lines + 1) &&
			!strcmp(lines + 1, said + strlen(said) - strlen(lines + 1)) : !*said;
}

static bool write_knob(const char *name, const char *s)
{
	FILE *f = open_knob(name, "w");

	return f && fprintf(f, "%s\n", s) > 0 && !fclose(f);
}

/* "100=1,104=2": these words of config space. */
static bool set_config(const char *config)
{
	bool ok = write_knob("config", "");
	char word[32];

	while (ok && *config && *config != '-') {
		size_t n = strcspn(config, ",");

		snprintf(word, sizeof(word), "%.*s", (int)n, config);
		*strchr(word, '=') = ' ';
		ok = write_knob("config", word);
		config += n + (config[n] == ',');
	}
	return ok;
}

static bool is_bound(void)
{
	char path[PATH_MAX];

	return !access(device_path(path, sizeof(path), "driver"), F_OK);
}

#define SYSFS	"/sys/bus/pci/drivers/nvgrace_gpu/"

/* NULL if the variant ends as the table says, or what is wrong. */
static const char *try_variant(const struct variant *v, const char *before, char *said)
{
	bool standin = strchr("HB", v->gpu[0]);
	const char *wrong = NULL;
	char name[8];
	int ret;

	snprintf(name, sizeof(name), "GPU_%s", v->gpu);
	setenv("BDF", getenv(name), 1);
	if (standin && (!write_knob("companion", v->companion) || !set_config(v->config)))
		return "the stand-in refuses it";

	ret = write_file(SYSFS "bind", getenv("BDF"));
	read_log(getenv("BDF"), said);
	if (-ret != atoi(v->error))
		wrong = ret ? strerror(-ret) : "it is bound";
	else if (!log_matches(v->lines, said))
		wrong = "the log";
	else if (!has_claims(before, v->claims))
		wrong = "/proc/iomem";
	else if (!ret != is_bound())
		wrong = "whether it is bound";

	if (!ret && write_file(SYSFS "unbind", getenv("BDF")))
		wrong = "it is not unbound";
	if (!wrong && !has_claims(before, ""))
		wrong = "/proc/iomem afterwards";
	if (!wrong && host_is_ill)
		wrong = "the host warns";
	return wrong;
}

FIXTURE(firmware)
{
	struct vfio v;
	int fd;
	volatile uint64_t *map;
	FILE *table;
};

FIXTURE_VARIANT(firmware) { const char *group; };
FIXTURE_VARIANT_ADD(firmware, types) { .group = "types" };
FIXTURE_VARIANT_ADD(firmware, structure) { .group = "structure" };
FIXTURE_VARIANT_ADD(firmware, values) { .group = "values" };
FIXTURE_VARIANT_ADD(firmware, ranges) { .group = "ranges" };
FIXTURE_VARIANT_ADD(firmware, egm) { .group = "egm" };
FIXTURE_VARIANT_ADD(firmware, dvsec) { .group = "dvsec" };
FIXTURE_VARIANT_ADD(firmware, bar0) { .group = "bar0" };

FIXTURE_SETUP(firmware)
{
	snprintf(good_bdf, sizeof(good_bdf), "%s", getenv("BDF"));
	if (!open_device(_metadata, &self->v, &self->fd, BEST_MODE))
		return;
	self->map = map_region(&self->v, USEMEM, NULL, 0, PAGE);
	ASSERT_NE(MAP_FAILED, (void *)self->map);
	self->table = fopen(getenv("VARIANTS"), "re");
	ASSERT_NE(NULL, self->table);
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	ASSERT_LE(0, kmsg);
	lseek(kmsg, 0, SEEK_END);
}

/* However the test ended, the stand-ins are as they were. */
FIXTURE_TEARDOWN(firmware)
{
	static const char * const standins[] = { "GPU_H", "GPU_B" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(standins); i++) {
		setenv("BDF", getenv(standins[i]), 1);
		EXPECT_TRUE(write_knob("companion", "") && write_knob("config", ""));
	}
	setenv("BDF", good_bdf, 1);
	vfio_close(&self->v);
}

/* The VFIO user of the other GPU goes on. */
static bool other_works(const FIXTURE_DATA(firmware) * self, uint64_t value)
{
	uint64_t got;

	*self->map = value;
	return pread(self->fd, &got, 8, self->v.regions[USEMEM].off) == 8 && got == value &&
	       pwrite(self->fd, &value, 8, self->v.regions[RESMEM].off) == 8 &&
	       pread(self->fd, &got, 8, self->v.regions[RESMEM].off) == 8 && got == value;
}

TEST_F_TIMEOUT(firmware, as_the_table_says, 1800)
{
	static char before[MAX_IOMEM], said[MAX_LOG];
	unsigned long nr = 0, bound = 0, failed = 0, by_errno[134] = {};
	char *line = NULL, summary[512] = "";
	const char *wrong;
	size_t size = 0;
	int i;

	read_iomem(before);
	while (getline(&line, &size, self->table) > 0) {
		char *rest = line;
		struct variant v;

		line[strcspn(line, "\n")] = 0;
		v.group = strsep(&rest, "|");
		v.gpu = strsep(&rest, "|");
		v.companion = strsep(&rest, "|");
		v.config = strsep(&rest, "|");
		v.error = strsep(&rest, "|");
		v.claims = strsep(&rest, "|");
		v.lines = rest;
		ASSERT_NE(NULL, v.lines);
		if (strcmp(v.group, variant->group))
			continue;
		nr++;
		wrong = try_variant(&v, before, said);
		if (!wrong && !other_works(self, nr))
			wrong = "the other GPU does not work";
		if (wrong && failed++ < SHOWN)
			TH_LOG("%s %s %s: %s; errno should be %s, claims '%s', log '%s', is '%s'",
			       v.gpu, v.companion, v.config, wrong, v.error, v.claims,
			       v.lines, said);
		bound += !atoi(v.error);
		by_errno[atoi(v.error) % ARRAY_SIZE(by_errno)]++;
	}
	for (i = 1; i < (int)ARRAY_SIZE(by_errno); i++)
		if (by_errno[i])
			snprintf(summary + strlen(summary), sizeof(summary) - strlen(summary),
				 ", %s %lu", strerrorname_np(i), by_errno[i]);
	TH_LOG("# firmware %s: %lu variants, %lu wrong; bound %lu%s", variant->group, nr, failed,
	       bound, summary);
	EXPECT_LT(0, nr);
	EXPECT_EQ(0, failed);
}

TEST_PROGRAM_MAIN(program)
