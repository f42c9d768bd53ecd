# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Data races in the driver: many tasks use the GPU, reset it and scrub it, while KCSAN watches one
# access in 100 of the module. Its first report ends the host, as a warning does.
#
#| part | make check | make check-all adds | scripts/rig run
#| races | | newest-kcsan | --gpu=hopper,egm=0x60000000000/0x48000000/4/-:0x70000000000:4608M
#| | | | --egm=0x60000000000:1152M
# shellcheck disable=SC1091
. /lib.sh

# watched: KCSAN has watched accesses since it was turned on; none but the driver's are
# instrumented.
watched() {
	cat /sys/kernel/debug/kcsan
	awk '$1 == "setup_watchpoints:" && $2 > 0 { on = 1 } END { exit !on }' \
		/sys/kernel/debug/kcsan
}

echo on > /sys/kernel/debug/kcsan
BDF=$(bdf_of GP00)
export BDF RESET=flr SCRUB=1 MBIND=1 BASE=0x70000000000 FUZZ_SECONDS=90 EGM=egm4
export REGIONS="2:$((3 * GIB + GIB / 2)):$((4 * GIB)) 4:$GIB:$GIB"
take_log > /dev/null
ok load.scrub_1 load_with_scrub 1
nested scrub scrub
ok unload.scrub_1 rmmod nvgrace_gpu
# The model of the fuzzer knows of no scrub.
ok load.scrub_0 load_with_scrub 0
nested storm life -r gpu.ioctl.storm
nested fuzz fuzz
ok unload.scrub_0 rmmod nvgrace_gpu
ok watched watched
ok log scrub_log_is_clean
finish
