# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# VFIO users are killed under load, in the middle of all memory and while they wait; the GPU is
# pulled; the module is removed. ROUNDS says how often each, and CRASHES how often a guest panics.
#
#| part | make check | make check-all adds | scripts/rig run
#| killed | newest | 6.12 | --env=ROUNDS=5 --env=CRASHES=1
#| | | | --gpu=hopper:0x70000000000:94.5G
#| killed-debug | | 6.12-patched newest-debug | --env=ROUNDS=5 --env=CRASHES=1
#| | | | --env=SMALL=1 --gpu=hopper:0x70000000000:4608M --kernel-args=kmemleak=on
#| killed-200 | | 6.12 newest | --timeout=28800 --env=ROUNDS=200 --env=CRASHES=200
#| | | | --gpu=hopper:0x70000000000:94.5G
# shellcheck disable=SC1091
. /lib.sh

panics=0

# guests_crash: one after the other, and the GPU is closed after each.
guests_crash() {
	for _ in $(seq "$CRASHES"); do
		guest_crashes && soon grep -x 0 /sys/module/nvgrace_gpu/refcnt || return 1
		panics=$((panics + 1))
	done
	for r in usemem resmem; do verify $r 67108864 || return 1; done
}

BDF=$(bdf_of GP00)
export BDF ROUNDS SEED REGIONS="2:$((93 * GIB + GIB / 2)):$((128 * GIB)) 4:$GIB:$GIB"
# KASAN has a byte of shadow for eight that read() maps: no host of 4 GiB has that for 94.5 GiB.
[ -z "${SMALL:-}" ] || REGIONS="2:$((3 * GIB + GIB / 2)):$((4 * GIB)) 4:$GIB:$GIB"
ok load insmod /modules/nvgrace_gpu.ko
ok bind bind_gpu "$BDF" nvgrace_gpu
forget_leaks
take_log > /dev/null
ok guests_crash guests_crash
echo "# kills: guests $panics"
nested killed killed
ok_no_leaks
ok log log_is_clean 'vfio_bar_restore: reset recovery - restoring BARs' \
	'No device request channel registered, blocked until released by user'
ok unload rmmod nvgrace_gpu
ok nothing_is_claimed_any_more test "$(claims)" = 0
finish
