# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The host as Grace firmware makes it, compared with the list tests/rig/topology.txt, item by item;
# the driver binds each GPU of it.
#
#| part | make check | make check-all adds | scripts/rig run
#| topology | newest | | --host=gh200
#| topology-gh200x2 | | newest | --host=gh200x2
#| topology-gb200 | | newest | --host=gb200
#| topology-nvl4 | | newest | --host=gb200-nvl4
#| topology-egm | | newest | --host=gb200-nvl4-egm
#| topology-vera | | newest | --host=vera
#| topology-no-c2c | | newest | --host=gh200-no-c2c
# shellcheck disable=SC1091
. /lib.sh

# A GPU without a C2C link is refused.
bind_all() {
	for gpu in $GPUS; do
		if [ "$HOST" = gh200-no-c2c ]; then
			! bind_gpu "$(bdf_of "$gpu")" nvgrace_gpu || return 1
		else
			bind_gpu "$(bdf_of "$gpu")" nvgrace_gpu || return 1
		fi
	done
	take_log > /tmp/bound
	cat /tmp/bound
}

# Each way that the kernel resets the GPU gets there, also behind a switch.
resets() {
	read -r methods < "$dev/$1/reset_method"
	for method in $methods; do
		case $method in acpi) counter=resets_rst ;; *) counter=resets_$method ;; esac
		before=$(knob "$1" "$counter")
		echo "$method" > "$dev/$1/reset_method"
		echo 1 > "$dev/$1/reset" && [ "$(knob "$1" "$counter")" = $((before + 1)) ] ||
			return 1
	done
}

# An error message goes up to the root port.
errors() {
	lines=$(dmesg | wc -l)
	knob "$1" aer_correctable 0x1 &&
		soon logged "$lines" "$1: PCIe Bus Error: severity=Correctable"
}

dev=/sys/bus/pci/devices
take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko usemem_bar=4
ok bind bind_all
nested "$HOST" python3 /topology "$HOST" /topology.txt /tmp/bound
ok unload rmmod nvgrace_gpu
ok nothing_is_claimed_any_more test "$(claims)" = 0
for gpu in $GPUS; do
	ok "resets.$gpu" resets "$(bdf_of "$gpu")"
	ok "errors.$gpu" errors "$(bdf_of "$gpu")"
done
ok log log_is_clean
finish
