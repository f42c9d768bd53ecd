# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The kernel's own KVM selftests that are about memory. scripts/check runs them on
# the patched and the unpatched kernel and compares what each ends with: under
# emulation one or the other fails on both. Every access of their guests is emulated
# twice over, so they do less than by default: one guest mode; 64 KiB pages in the
# guest whose writes are logged, a sixteenth of the faults for the same GiB; small
# regions; 50 changes of memslots.
#
#| part | make check | make check-all adds | scripts/rig run
#| kvm-old | | 6.12-debug | --kvm-selftests
#| kvm-new | | 6.12-patched | --kvm-selftests
# shellcheck disable=SC1091
. /lib.sh

# Where ok does not catch it.
exec 3>&1

# selftest NAME ARGUMENTS: how it ended, as "# result NAME pass|skip|fail"; and where,
# if the test says what it is at.
selftest() {
	selftest=/tests/$1
	shift
	timeout 400 "$selftest" "$@" > /tmp/selftest.log 2>&1
	rc=$?
	case $rc in 0) how=pass ;; 4) how=skip ;; *) how=fail ;; esac
	[ $how != fail ] || how=$how$(sed -n 's/^Test: /_in_/p' /tmp/selftest.log |
		tail -n 1 | tr -cd '[:alnum:]_')
	echo "# result ${selftest##*/} $how" >&3
	echo "ended with $rc"
	tail -n 5 /tmp/selftest.log
	# Not found, or had to be stopped: no result. A failure is one.
	case $rc in 127 | 124 | 143) false ;; esac
}

ok page_fault_test selftest page_fault_test -m 3
ok kvm_page_table_test selftest kvm_page_table_test -m 3 -b 16m
ok dirty_log_test selftest dirty_log_test -M dirty-log -m 5 -i 3 -I 10
ok set_memory_region_test selftest set_memory_region_test
ok memslot_modification_stress_test selftest memslot_modification_stress_test -i 50 -v 2 -b 4m
ok access_tracking_perf_test selftest access_tracking_perf_test -m 3 -v 1 -b 4m
ok log log_is_clean
finish
