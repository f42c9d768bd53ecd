# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Data races of the driver, which KCSAN samples, and undefined behaviour: many tasks use the GPU,
# reset it and scrub it.
#
#| part | make check | make check-all adds | scripts/rig run
#| races | | newest-kcsan | --timeout=2400 --gpu=hopper:0x70000000000:4608M
#| | | | --kernel-args=log_buf_len=16M
# shellcheck disable=SC1091
. /lib.sh

load() { insmod /modules/nvgrace_gpu.ko scrub="$1" && bind_gpu "$BDF" nvgrace_gpu; }

# kcsan_is_on: the module's accesses are instrumented, and some accesses have been sampled.
kcsan_is_on() {
	cat /sys/kernel/debug/kcsan
	grep -q __tsan_ /modules/nvgrace_gpu.ko &&
		awk '$1 == "setup_watchpoints:" && $2 > 0 { on = 1 } END { exit !on }' \
			/sys/kernel/debug/kcsan
}

# no_race: the kernel log has no data race of the driver. The title names the function that
# raced. The driver may have called it: those reports are shown, too.
no_race() {
	sed -n '/BUG: KCSAN:/,/======/p' /tmp/kcsan | grep -B 30 -A 30 '\[nvgrace_gpu\]'
	! grep 'BUG: KCSAN: .*\[nvgrace_gpu\]' /tmp/kcsan
}

echo on > /sys/kernel/debug/kcsan
gib=1073741824
BDF=$(bdf_of GP00)
export BDF RESET=flr SCRUB=1 BASE=0x70000000000 FUZZ_SECONDS=90
export REGIONS="2:$((3 * gib + gib / 2)):$((4 * gib)) 4:$gib:$gib"
dmesg -c > /dev/null
ok load.scrub_1 load 1
nested scrub scrub
ok unload.scrub_1 rmmod nvgrace_gpu
# The model of the fuzzer knows of no scrub.
ok load.scrub_0 load 0
nested storm life -r gpu.ioctl.storm
nested fuzz fuzz
ok unload.scrub_0 rmmod nvgrace_gpu
ok kcsan_is_on kcsan_is_on
dmesg > /tmp/kcsan
echo "# data races of other code: $(grep 'BUG: KCSAN' /tmp/kcsan | grep -cv nvgrace_gpu)"
ok no_race no_race
ok log log_is_clean '(usemem|resmem): scrub stopped at offset (0x[0-9a-f]*|0): -(5|11|19)' \
	'BAR0\+0x1498 \(C2C link\) reads 0x13, a failure code: .*' \
	'Unable to change power state .*' \
	'usemem: page at offset 0x[0-9a-f]* is poisoned'
finish
