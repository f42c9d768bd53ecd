# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The KUnit suites in a module: as the kernel ran them when it was loaded, and once
# more through each one's run file.
#
#| part | make check | make check-all adds | scripts/rig run
#| kunit-module | 6.12-patched | 6.12-debug newest-debug | --kernel-args=kunit.enable=1
#| | | | --gpu=port:0x70000000000:1536M
# shellcheck disable=SC1091
. /lib.sh

KUNIT=/sys/kernel/debug/kunit
ALL='nvgrace_gpu_acpi nvgrace_gpu_block nvgrace_gpu_clip nvgrace_gpu_config nvgrace_gpu_ids'
ALL="$ALL nvgrace_gpu_mmap nvgrace_gpu_ready nvgrace_gpu_reset nvgrace_gpu_rw nvgrace_gpu_scrub"
ALL="$ALL nvgrace_gpu_split nvgrace_gpu_status"

# suite NAME SUITE: its results as one test of ours. They come as KTAP of one test.
suite() {
	sed -n "3,\$p" "$KUNIT/$2/results" | sed "\$d; s/# Subtest: $2/# Subtest: $1.$2/"
	case $(tail -n 1 "$KUNIT/$2/results") in
	"ok 1 $2") result ok "$1.$2" ;;
	*) result 'not ok' "$1.$2" ;;
	esac
}

take_log > /dev/null
insmod /modules/nvgrace_gpu.ko
SUITES=$(cd $KUNIT && echo nvgrace_gpu_*)
# shellcheck disable=SC2086
ok every_suite_is_there test "$SUITES" = "$ALL"
for s in $SUITES; do suite load "$s"; done
for s in $SUITES; do
	echo 1 > $KUNIT/"$s"/run
	suite run "$s"
done
ok unload rmmod nvgrace_gpu
ok log log_is_clean
finish
