# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Two GPUs in two guests at once, a Hopper and a Blackwell: each guest has its own
# memory and no other's.
#
#| part | make check | make check-all adds | scripts/rig run
#| guests | newest | 6.12-patched newest-debug 6.12-64k-patched | --gpu=hopper:0x70000000000:2560M
#| | | | --gpu=blackwell:0x71000000000:3G
# shellcheck disable=SC1091
. /lib.sh

export BDF REGIONS SEED OTHER
uptime_ms() { sed 's/ .*//; s/\.//; s/$/0/' /proc/uptime; }

# pick GPU: what guest and host have to know of it.
pick() {
	BDF=$(bdf_of "$1")
	case $1 in
	GP00) SEED=1 OTHER=resmem REGIONS="4:$((GIB + GIB / 2)):$((2 * GIB)) 2:$GIB:$GIB" ;;
	GP01) SEED=2 OTHER=BAR2 REGIONS="4:$((3 * GIB)):$((4 * GIB)) 2:$GIB:$GIB" ;;
	esac
}

# run_guest_of GPU: its guest, and when it began and ended.
run_guest_of() {
	GUEST_DIR=/tmp/$1
	mkdir "$GUEST_DIR"
	uptime_ms > "$GUEST_DIR/start"
	# shellcheck disable=SC2046
	guest /guest.cpio $(vfio_args "$BDF") \
		-append "$(guest_append "TEST=bars SEED=$SEED OTHER=$OTHER")"
	run_guest_rc=$?
	uptime_ms > "$GUEST_DIR/end"
	return $run_guest_rc
}

at_once() {
	grep -H . /tmp/GP0?/start /tmp/GP0?/end
	[ "$(cat /tmp/GP00/start)" -lt "$(cat /tmp/GP01/end)" ] &&
		[ "$(cat /tmp/GP01/start)" -lt "$(cat /tmp/GP00/end)" ]
}

take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko usemem_bar=4
bind_gpus
for gpu in $GPUS; do
	pick "$gpu"
	in_background "$gpu" run_guest_of "$gpu"
done
wait
for gpu in $GPUS; do nested "guest.$gpu" replay "$gpu"; done
ok at_once at_once
for gpu in $GPUS; do
	pick "$gpu"
	for region in usemem $OTHER; do ok "host_sees.$gpu.$region" verify "$region" 67108864; done
done
ok unload rmmod nvgrace_gpu
ok log log_is_clean
finish
