# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# How the driver reads its parameter and the properties of firmware: a stand-in for each
# line of firmware.txt.
#
#| part | make check | make check-all adds | scripts/rig run
#| firmware | 6.12 newest | 6.12-patched newest-debug 6.12-64k-patched |
#| | | | --firmware=tests/rig/firmware.txt
# shellcheck disable=SC1091
. /lib.sh

# refused PARAMETER: the module does not load, and says what is wrong.
refused() {
	take_log > /dev/null
	! insmod /modules/nvgrace_gpu.ko "usemem_bar=$1" || return 1
	take_log | grep -F "nvgrace_gpu: usemem_bar: '$1' is neither 2 nor 4"
}

# one_line BDF TEXT: TEXT and nothing else is what the driver said of the device.
one_line() {
	take_log > /tmp/dmesg
	cat /tmp/dmesg
	grep "nvgrace_gpu $1: " /tmp/dmesg |
		sed 's/^\[[^]]*\] nvgrace_gpu [^ ]*: //; s/^error -[0-9A-Z]*: //' |
		grep -v -e '^Adding to iommu group' -e '^Removing from iommu group' \
			-e '^ready: ' -e '^not an id' -e '^probe with driver' \
			-e '^resetting' -e '^reset done' > /tmp/said
	case $2 in
	*' backed '*) [ "$(wc -l < /tmp/said)" = 2 ] ;;
	*) [ "$(wc -l < /tmp/said)" = 1 ] ;;
	esac && grep -qxF "$2" /tmp/said
}

# firmware GPU ERROR TEXT: how binding it must end.
firmware() {
	bdf=$(bdf_of "$1") before=$(claims)
	if bind_gpu "$bdf" nvgrace_gpu 2> /tmp/error; then
		[ -z "$2" ] && one_line "$bdf" "$3" || return 1
		case $3 in
		*' backed '*) [ "$(claims)" = $((before + 2)) ] ;;
		*) [ "$(claims)" = "$before" ] ;;
		esac
	else
		cat /tmp/error
		[ -n "$2" ] && grep -q ": $2\$" /tmp/error && one_line "$bdf" "$3" &&
			[ "$(claims)" = "$before" ]
	fi
}

rebind() {
	bdf=$(bdf_of "$1")
	for _ in 1 2 3; do
		unbind_gpu "$bdf"
		[ "$(claims)" = "$2" ] || return 1
		bind_gpu "$bdf" nvgrace_gpu
		[ "$(claims)" = $(($2 + 2)) ] || return 1
	done
}

for bad in 3 0 1 5 -2 x '' 4294967298; do ok "usemem_bar_is_'$bad'" refused "$bad"; done
ok load insmod /modules/nvgrace_gpu.ko
take_log > /dev/null

# shellcheck disable=SC2086
set -- $GPUS
while IFS='|' read -r name _ _ error text; do
	case $name in '#'*) continue ;; esac
	ok "$name" firmware "$1" "$error" "$text"
	[ -n "$error" ] || eval "$name=$1"
	shift
done < /firmware

# shellcheck disable=SC2154
ok bind_again_and_again rebind "$smallest" "$(($(claims) - 2))"
# shellcheck disable=SC2154
BDF=$(bdf_of "$neither") nested plain plain
ok unload rmmod nvgrace_gpu
ok nothing_is_claimed_any_more test "$(claims)" = 0
ok log log_is_clean
finish
