# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# A VFIO user that does everything at random, against a model of what each operation may
# return. FUZZ_SECONDS says how long, SEED=n replays one round. The seeds follow from the commit, so
# that a run that failed fails again; make soak asks for time, and gets new ones.
#
#| part | make check | make check-all adds | scripts/rig run
#| fuzz | newest 6.12-patched | 6.12 newest-debug |
#| | | | --gpu=hopper,egm=0x60000000000/0x48000000/4/-:0x70000000000:4608M
#| | | | --egm=0x60000000000:1152M
#| | | | --kernel-args=kmemleak=on --env=FUZZ_SECONDS=30
# shellcheck disable=SC1091
. /lib.sh

BDF=$(bdf_of GP00)
RESET=flr
export BDF RESET FUZZ_SECONDS SEED_BASE EGM=egm4
ok load insmod /modules/nvgrace_gpu.ko
ok bind bind_gpu "$BDF" nvgrace_gpu
forget_leaks
take_log > /dev/null
# An unpatched 6.12 oopses in mbind().
! has MBIND_FIXED || export MBIND=1
# The arguments that scripts/rig was given are settings: SEED=1234, FUZZ_SECONDS=600.
for arg in $TEST_ARGS; do
	case $arg in
	SEED=*) export "${arg?}" ;;
	FUZZ_SECONDS=*) export "${arg?}"; unset SEED_BASE ;;
	esac
done
TEST_ARGS=
REGIONS="2:$((3 * GIB + GIB / 2)):$((4 * GIB)) 4:$GIB:$GIB" nested fuzz fuzz
ok_no_leaks
ok log log_is_clean
ok unload rmmod nvgrace_gpu
finish
