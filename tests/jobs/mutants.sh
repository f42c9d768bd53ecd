# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# For scripts/mutants: drivers with a fault each are in /disk/files, and the list there names for
# each the KUnit test that has to fail. KUnit runs no other, first in the driver without a fault.
# shellcheck disable=SC1091
. /lib.sh

# run_test MODULE SUITE.CASE: the last line of its results in KUnit's debugfs is of the suite.
run_test() {
	printf %s "$2" > /sys/module/kunit/parameters/filter_glob
	insmod "$1" || return 1
	cat "/sys/kernel/debug/kunit/${2%.*}/results" > /tmp/results
	rmmod nvgrace_gpu
}

# is_caught NAME SUITE.CASE
is_caught() {
	run_test /modules/nvgrace_gpu.ko "$2" || return 1
	if [ "$(tail -n 1 /tmp/results)" != "ok 1 ${2%.*}" ]; then
		cat /tmp/results
		echo "without a fault in the driver, $2 does not pass"
		return 1
	fi
	run_test "/disk/files/$1.ko" "$2" || return 1
	if [ "$(tail -n 1 /tmp/results)" != "not ok 1 ${2%.*}" ]; then
		cat /tmp/results
		echo "the fault survives: $2 does not fail"
		return 1
	fi
}

take_log > /dev/null
while read -r name test; do ok "$name" is_caught "$name" "$test"; done < /disk/files/list
finish
