// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hold the device open, with usemem mapped and touched, until a signal ends it: for
 * what an administrator does to a GPU that a VMM uses.
 */
#include "fault.h"
#include "program.h"

static const struct program program = {
	.what = "hold the device open, with usemem mapped and touched, until killed",
	.vars = { VAR_BDF, VAR_REGIONS },
	.args = "&",
};

int main(int argc, char **argv)
{
	volatile uint64_t *p, *last;
	struct vfio v;
	int ret, sig;

	program_check(&program, argc, argv);
	ret = vfio_open(&v, BEST_MODE);
	if (ret)
		program_fail("%s: %s", v.bdf, strerror(-ret));
	p = map_region(&v, USEMEM, NULL, 0, v.regions[USEMEM].backed);
	if (p == MAP_FAILED)
		program_fail("%s: usemem cannot be mapped: %s", v.bdf, strerror(errno));
	last = p + v.regions[USEMEM].backed / 8 - 1;
	sig = fault_of(*p = 0x600df00d).sig ?: fault_of(*last = 0x600df00d).sig;
	if (sig)
		program_fail("%s: usemem cannot be touched", v.bdf);

	printf("# holding %s by %s\n", v.bdf, vfio_mode_name(v.mode));
	fflush(stdout);
	for (;;)
		pause();
}
