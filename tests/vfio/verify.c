// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify through VFIO, on the host, the pattern that a guest left in a region.
 *
 *	BDF=... REGIONS=... verify usemem|resmem|BAR2 STRIDE
 *
 * The second region is resmem or, on a GPU that has none, the physical BAR2.
 */
#include "pattern.h"
#include "vfio.h"

int main(int argc, char **argv)
{
	unsigned int nr = argc > 1 && strcmp(argv[1], "usemem") ? RESMEM : USEMEM;
	uint64_t stride = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
	struct region regions[NR_REGIONS];
	uint64_t off, value, count = 0;
	struct vfio v;
	int ret;

	if (!stride || expected_regions(regions)) {
		fprintf(stderr, "usage: BDF=... REGIONS=... %s usemem|resmem|BAR2 STRIDE\n",
			argv[0]);
		return 2;
	}

	ret = vfio_open(&v, true) ?:
	      config_modify(v.device, PCI_COMMAND, 0, PCI_COMMAND_MEMORY);
	if (ret) {
		fprintf(stderr, "%s: %s\n", getenv("BDF"), strerror(-ret));
		return 1;
	}

	for_each_stride(off, regions[nr].backed, stride) {
		if (pread(v.device, &value, sizeof(value),
			  ((uint64_t)regions[nr].bar << 40) + off) != sizeof(value)) {
			perror("read");
			return 1;
		}
		if (value != pattern(pattern_seed(regions[nr].bar), off)) {
			fprintf(stderr, "%s+0x%lx: 0x%016lx, not 0x%016lx\n", argv[1],
				off, value, pattern(pattern_seed(regions[nr].bar), off));
			return 1;
		}
		count++;
	}

	printf("%s: %lu places of %lu bytes hold what was written, the last byte included\n",
	       argv[1], count, regions[nr].backed);
	vfio_close(&v);
	return 0;
}
