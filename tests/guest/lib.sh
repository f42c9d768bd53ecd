# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# For scripts in the guest: results of tests, and the GPU.
nr=0 failed=0

# result STATUS NAME: a test has ended with this exit status.
result() {
	nr=$((nr + 1))
	if [ "$1" = 0 ]; then echo "ok $nr $2"; else echo "not ok $nr $2"; failed=1; fi
}

# verdict: 0 if no test has failed.
verdict() { return $failed; }

# gpu: the directory in sysfs of the function that has a BAR2 and a BAR4.
gpu() {
	for d in /sys/bus/pci/devices/*; do
		[ "$(sed -n '3p; 5p' "$d/resource" | grep -cv ^0x0000000000000000)" != 2 ] ||
			echo "$d"
	done
}
