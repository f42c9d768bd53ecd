# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Two GPUs in two guests at once, a Hopper and a Blackwell: each guest has its own
# memory and no other's.
#
#| part | make check | make check-all adds | scripts/rig run
#| guests | newest | 6.12-patched newest-debug | --gpu=hopper:0x70000000000:2560M
#| | | | --gpu=blackwell:0x71000000000:3G
# shellcheck disable=SC1091
. /lib.sh

gib=1073741824
export BDF REGIONS SEED OTHER
uptime_ms() { sed 's/ .*//; s/\.//; s/$/0/' /proc/uptime; }

# pick GPU: what guest and host have to know of it.
pick() {
	BDF=$(bdf_of "$1")
	case $1 in
	GP00) SEED=1 OTHER=resmem REGIONS="4:$((gib + gib / 2)):$((2 * gib)) 2:$gib:$gib" ;;
	GP01) SEED=2 OTHER=BAR2 REGIONS="4:$((3 * gib)):$((4 * gib)) 2:$gib:$gib" ;;
	esac
}

# start GPU: its guest, in the background.
start() {
	pick "$1"
	GUEST_DIR=/tmp/$1
	mkdir "$GUEST_DIR"
	{
		uptime_ms > "$GUEST_DIR/start"
		test="TEST=bars SEED=$SEED OTHER=$OTHER REGIONS=$(echo "$REGIONS" | tr ' ' ,)"
		# shellcheck disable=SC2046
		guest /guest.cpio $(vfio_args "$BDF") \
			-append "console=ttyAMA0 panic=-1 kpti=off quiet $test"
		echo $? > "$GUEST_DIR/rc"
		uptime_ms > "$GUEST_DIR/end"
	} > "$GUEST_DIR/ktap" 2>&1 &
}

replay() {
	cat "/tmp/$1/ktap"
	return "$(cat "/tmp/$1/rc")"
}

at_once() {
	grep -H . /tmp/GP0?/start /tmp/GP0?/end
	[ "$(cat /tmp/GP00/start)" -lt "$(cat /tmp/GP01/end)" ] &&
		[ "$(cat /tmp/GP01/start)" -lt "$(cat /tmp/GP00/end)" ]
}

take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko usemem_bar=4
bind_gpus
for gpu in $GPUS; do start "$gpu"; done
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
