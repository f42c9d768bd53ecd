# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# DMA maps of usemem by VFIO's type1. BASE is where usemem begins, and USEMEM its size in GiB.
# DMA says how this kernel finds the pfns, by block or by page.
#
#| part | make check | make check-all adds | scripts/rig run
#| pfnmap | 6.12-patched newest | newest-debug | --env=DMA=block --env=USEMEM=3
#| | | | --gpu=port:0x70000000000:4G --env=BASE=0x70000000000
#| pfnmap-old | 6.12 | 6.12-debug | --env=DMA=page --env=USEMEM=3
#| | | | --gpu=port:0x70000000000:4G --env=BASE=0x70000000000
#| pfnmap-large | | 6.12-patched newest | --env=DMA=block --env=USEMEM=93
#| | | | --gpu=port:0x70000000000:94G --env=BASE=0x70000000000
# shellcheck disable=SC1091
. /lib.sh

BDF=$(bdf_of GP00)
# With a GiB for resmem; the size of usemem's BAR has no part in this.
REGIONS="2:$((USEMEM * GIB)):$((128 * GIB)) 4:$GIB:$GIB"
export BDF BASE DMA REGIONS RESET=bus
take_log > /dev/null
insmod /modules/nvgrace_gpu.ko && bind_gpu "$BDF" nvgrace_gpu
# The GPU's memory ends with a whole GiB, and so does the DIMM: none is left for mixedmap.ko,
# which needs an address without struct pages, not memory.
insmod /modules/mixedmap.ko "base=$((BASE + (USEMEM + 1) * GIB))"
nested pfnmap pfnmap
ok unload rmmod nvgrace_gpu
ok log log_is_clean
finish
