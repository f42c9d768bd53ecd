# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# How the driver reads what firmware says of EGM: a stand-in for each line of egm.txt. Each GPU
# binds, whatever is wrong with its EGM region.
#
#| part | make check | make check-all adds | scripts/rig run
#| egm-firmware | newest | 6.12 6.12-patched newest-debug |
#| | | | --egm-firmware=tests/rig/egm.txt --egm=0x60000000000:2G --kernel-args=kmemleak=on
# shellcheck disable=SC1091
. /lib.sh

# said BDF: what the driver said of EGM when the GPU was bound.
said() {
	take_log > /tmp/dmesg
	cat /tmp/dmesg
	sed -n "s/^\[[^]]*\] nvgrace_gpu $1: //p" /tmp/dmesg |
		sed 's/^error -[0-9A-Z]*: //; s/ 0000:..:..\.. / BDF /' | grep -i 'egm' > /tmp/said
}

# firmware GPU TEXT: the GPU binds, and TEXT is the one line about EGM; no line if it is empty.
firmware() {
	bdf=$(bdf_of "$1")
	bdfs="$bdfs $bdf"
	before=$(claims)
	bind_gpu "$bdf" nvgrace_gpu || return 1
	said "$bdf"
	if [ -z "$2" ]; then
		[ ! -s /tmp/said ]
	else
		[ "$(wc -l < /tmp/said)" = 1 ] && grep -qxF "$2" /tmp/said
	fi || return 1
	case $2 in
	*' is /dev/'*)
		node=${2%% *}
		[ -c "/dev/$node" ] && [ "$(stat -c %a "/dev/$node")" = 600 ] &&
			[ -e "/sys/class/egm/$node/$bdf/vendor" ] &&
			[ "$(claims)" = $((before + 1)) ]
		;;
	*) [ "$(claims)" = "$before" ] ;;
	esac
}

# A region lives while one of its GPUs is bound, in any order.
shared_region() {
	first=$(bdf_of "$1")
	second=$(bdf_of "$2")
	egm=/sys/class/egm/egm4
	[ "$(cat $egm/gpu_devices)" = "$first
$second" ] && [ -e "$egm/$first" ] && [ -e "$egm/$second" ] || return 1
	unbind_gpu "$first"
	[ "$(cat $egm/gpu_devices)" = "$second" ] && [ ! -L "$egm/$first" ] && [ -c /dev/egm4 ] ||
		return 1
	unbind_gpu "$second"
	[ ! -e $egm ] && [ ! -e /dev/egm4 ] || return 1
	! grep 60000000000-60003ffffff /proc/iomem || return 1
	bind_gpu "$second" nvgrace_gpu && bind_gpu "$first" nvgrace_gpu &&
		[ "$(cat $egm/gpu_devices)" = "$second
$first" ]
}

# If two GPUs contradict each other, neither gets the region, whichever is bound first. A GPU that
# is alone on the bus gets it, and keeps it after a rescan. While a file of the old node is open,
# the driver refuses another base.
gpus_contradict() {
	dev=/sys/bus/pci/devices
	unbind_gpu "$1"
	unbind_gpu "$2"
	bind_gpu "$2" nvgrace_gpu && [ ! -e /dev/egm11 ] || return 1
	unbind_gpu "$2"
	echo 1 > "$dev/$2/remove"
	bind_gpu "$1" nvgrace_gpu && [ -c /dev/egm11 ] || return 1
	exec 9< /dev/egm11
	echo 1 > /sys/bus/pci/rescan
	bind_gpu "$2" nvgrace_gpu && [ "$(cat /sys/class/egm/egm11/gpu_devices)" = "$1" ] ||
		return 1
	unbind_gpu "$1"
	unbind_gpu "$2"
	echo 1 > "$dev/$1/remove"
	take_log > /dev/null
	bind_gpu "$2" nvgrace_gpu || return 1
	take_log | grep -F 'nvidia,egm-pxm: /dev/egm11 is still in use' || return 1
	unbind_gpu "$2"
	exec 9<&-
	bind_gpu "$2" nvgrace_gpu && [ "$(cat /sys/class/egm/egm11/gpu_devices)" = "$2" ] &&
		grep 60048000000-6004bffffff /proc/iomem || return 1
	echo 1 > /sys/bus/pci/rescan
	bind_gpu "$1" nvgrace_gpu
}

# All of them at once, and again.
bind_at_once() {
	for _ in 1 2 3; do
		for bdf in $bdfs; do unbind_gpu "$bdf" & done
		wait
		[ "$(claims)" = 0 ] && [ -z "$(ls /sys/class/egm)" ] || return 1
		for bdf in $bdfs; do echo "$bdf" > /sys/bus/pci/drivers/nvgrace_gpu/bind & done
		wait
		for bdf in $bdfs; do
			[ -e "/sys/bus/pci/devices/$bdf/vfio-dev" ] || return 1
		done
	done
}

while IFS='|' read -r name _ _ _ list words _; do
	case $name in '#'*) continue ;; esac
	# shellcheck disable=SC2086
	[ -z "$words" ] || ok "write.$name" python3 /egm-lists "$list" $words
done < /firmware
ok load insmod /modules/nvgrace_gpu.ko
forget_leaks
take_log > /dev/null

bdfs=
# shellcheck disable=SC2086
set -- $GPUS
while IFS='|' read -r name _ _ _ _ _ text; do
	case $name in '#'*) continue ;; esac
	ok "$name" firmware "$1" "$text"
	eval "$name=$1"
	shift
done < /firmware

# shellcheck disable=SC2154
ok shared_region shared_region "$list_is_absent" "$list_at_0_of_a_second_gpu"
# shellcheck disable=SC2154
ok gpus_contradict gpus_contradict "$(bdf_of "$first_of_11")" "$(bdf_of "$other_base")"
ok bind_at_once bind_at_once
ok unload rmmod nvgrace_gpu
ok nothing_is_claimed_any_more test "$(claims)" = 0
ok_no_leaks
ok log log_is_clean '(error -[A-Z]*: )?nvidia,egm-.*' \
	'(no|_DSD: the kernel finds neither) nvidia,gpu-mem-base-pa .*'
finish
