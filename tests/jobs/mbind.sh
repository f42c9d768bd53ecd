# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# mbind() with MPOL_MF_STRICT on regions mapped in huge blocks. The walk of Linux 6.12 takes
# the folio of each entry, and these have none: the host oopses. patches/linux-6.12 mends it,
# and 7.3 has it right. It is the only test of its host, which does not survive the oops well.
#
#| part | make check | make check-all adds | scripts/rig run
#| mbind | 6.12-patched newest | newest-debug | --gpu=port:0x70000000000:4608M
#| mbind-oops | 6.12 | | --gpu=port:0x70000000000:4608M --env=OOPS=1
# shellcheck disable=SC1091
. /lib.sh

export BDF REGIONS
BDF=$(bdf_of "$GPUS")
REGIONS="2:$((3 * GIB + GIB / 2)):$((4 * GIB)) 4:$GIB:$GIB"

# The host survives the oops, so that the job can report it.
oopses() {
	allow_report $((TAINT_DIE | TAINT_WARN)) 'Unable to handle kernel'
	echo 0 > /proc/sys/kernel/panic_on_oops
	mbind &
	mbind=$!
	for _ in $(seq 60); do
		! dmesg | grep -A 40 'Unable to handle kernel' | grep queue_folios || return 0
		kill -0 $mbind || break
		sleep 1
	done
	echo 'no oops: if this kernel has the fix, Documentation/kernels.rst has to say so'
	return 1
}

take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko
ok bind bind_gpu "$BDF" nvgrace_gpu
if [ -n "${OOPS:-}" ]; then
	ok mbind_strict_oopses_unpatched_6.12 oopses
	finish
	exit
fi
nested mbind mbind
ok unload rmmod nvgrace_gpu
ok log log_is_clean
finish
