// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hold the device open, with both regions mapped and touched, until a signal ends it. An
 * administrator meanwhile works with the GPU, which is in use.
 */
#include "fault.h"
#include "program.h"

static const struct program program = {
	.what = "hold the device open, with both regions mapped and touched, until killed",
	.vars = { VAR_BDF, VAR_REGIONS },
	.args = "&",
};

int main(int argc, char **argv)
{
	volatile uint64_t *p, *last;
	struct vfio v;
	int ret, sig, i;

	program_check(&program, argc, argv);
	ret = vfio_open(&v, BEST_MODE);
	if (ret)
		program_fail("%s: %s", v.bdf, strerror(-ret));
	for (i = 0; i < NR_REGIONS; i++) {
		p = map_region(&v, i, NULL, 0, v.regions[i].backed);
		if (p == MAP_FAILED)
			program_fail("%s: region %d cannot be mapped: %s", v.bdf, i,
				     strerror(errno));
		last = p + v.regions[i].backed / 8 - 1;
		sig = fault_of(*p = 0x600df00d).sig ?: fault_of(*last = 0x600df00d).sig;
		if (sig)
			program_fail("%s: region %d cannot be touched", v.bdf, i);
	}

	printf("# holding %s by %s\n", v.bdf, vfio_mode_name(v.mode));
	fflush(stdout);
	for (;;)
		pause();
}
