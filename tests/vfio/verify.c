// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify through VFIO, on the host, the pattern that a guest left in a region.
 *
 * The second region is resmem or, on a GPU that has none, the physical BAR2.
 */
#include "pattern.h"
#include "program.h"

static const struct program program = {
	.what = "verify what a guest left in usemem, resmem or BAR2, at places STRIDE bytes apart",
	.vars = {
		VAR_BDF, VAR_REGIONS,
		{ "SEED", "seed of the pattern, the one that the guest had", "1", true },
	},
	.args = "usemem 67108864",
};

int main(int argc, char **argv)
{
	unsigned int nr = argc > 1 && strcmp(argv[1], "usemem") ? RESMEM : USEMEM;
	uint64_t stride = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
	const struct region *r;
	uint64_t off, value, count = 0;
	struct vfio v;
	int ret;

	program_check(&program, argc, argv);
	if (!stride)
		program_skip(&program, "it takes a region and a stride");

	ret = vfio_open(&v, BEST_MODE) ?: enable_memory(v.device);
	if (ret) {
		fprintf(stderr, "%s: %s\n", v.bdf, strerror(-ret));
		return 1;
	}

	r = &v.regions[nr];
	for_each_stride(off, r->backed, stride) {
		if (pread(v.device, &value, sizeof(value), r->off + off) != sizeof(value)) {
			perror("read");
			return 1;
		}
		if (value != pattern(pattern_seed(r->bar), off)) {
			fprintf(stderr, "%s+0x%lx: 0x%016lx, not 0x%016lx\n", argv[1],
				off, value, pattern(pattern_seed(r->bar), off));
			return 1;
		}
		count++;
	}

	printf("%s: %lu places of %lu bytes hold what was written, the last byte included\n",
	       argv[1], count, r->backed);
	vfio_close(&v);
	return 0;
}
