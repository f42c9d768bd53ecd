# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# VFIO users are killed under load, in the middle of all memory and while they wait; the GPU is
# pulled; the module is removed. ROUNDS says how often each.
#
#| part | make check | make check-all adds | scripts/rig run
#| killed | newest | 6.12 6.12-debug newest-debug | --timeout=1200 --env=ROUNDS=5
#| | | | --gpu=hopper:0x70000000000:94.5G --kernel-args=kmemleak=on
#| killed-200 | | 6.12 newest | --timeout=7200 --env=ROUNDS=200
#| | | | --gpu=hopper:0x70000000000:94.5G
# shellcheck disable=SC1091
. /lib.sh

gib=1073741824
BDF=$(bdf_of GP00)
export BDF ROUNDS SEED
ok load insmod /modules/nvgrace_gpu.ko
ok bind bind_gpu "$BDF" nvgrace_gpu
forget_leaks
dmesg -c > /dev/null
REGIONS="2:$((93 * gib)):$((128 * gib)) 4:$((gib + gib / 2)):$((2 * gib))" nested killed killed
ok_no_leaks
ok log log_is_clean '.*BAR0.*' 'vfio_bar_restore: reset recovery - restoring BARs' \
	'No device request channel registered, blocked until released by user'
ok unload rmmod nvgrace_gpu
ok nothing_is_claimed_any_more test "$(grep -c ': nvgrace_gpu$' /proc/iomem)" = 0
finish
