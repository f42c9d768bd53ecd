# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# For jobs on the emulated host: find and bind the stand-ins, KTAP, the guest.
# shellcheck disable=SC1091
. /rig.env
# kernel_facts in scripts/lib/kernel.sh says what the kernel has. Programs ask, too.
export HAS
has() { case " $HAS " in *" $1 "*) ;; *) return 1 ;; esac; }

# shellcheck disable=SC2034
GIB=1073741824

# claims: how many ranges of memory the driver has claimed.
claims() { grep -c ': nvgrace_gpu$' /proc/iomem; }

# in_background NAME COMMAND...: run it beside others; replay NAME prints what it printed, and
# returns what it returned.
in_background() {
	in_background_name=$1
	shift
	{
		"$@"
		echo $? > "/tmp/$in_background_name.rc"
	} > "/tmp/$in_background_name.ktap" 2>&1 &
}

replay() {
	cat "/tmp/$1.ktap"
	return "$(cat "/tmp/$1.rc")"
}

# The PCI address of the function that has this name in ACPI.
bdf_of() {
	for d in /sys/bus/pci/devices/*; do
		case $(cat "$d/firmware_node/path" 2> /dev/null) in
		*."$1") basename "$d"; return ;;
		esac
	done
	echo "no PCI function is called $1 in ACPI" >&2
	return 1
}

# bars_of GPU: the registers of its BARs.
bars_of() { hexdump -s 16 -n 24 -e '6/4 "%08x " "\n"' "/sys/bus/pci/devices/$1/config"; }

# logged N REGEX: it is in the log, after the first N lines of the log.
logged() { dmesg | sed "1,$1d" | grep -E "$2"; }

# The stand-ins of kind hopper and blackwell become GPUs.
load_standins() {
	gpus=
	for s in $STANDINS; do gpus=$gpus,$(bdf_of "${s%%/*}")/${s#*/}; done
	[ -z "$gpus" ] || insmod /modules/gpu_standin.ko "gpus=${gpus#,}"
}

# add_second_socket: its memory, to its node if this kernel has room for all of firmware's nodes.
add_second_socket() {
	[ -n "$SECOND_SOCKET" ] || return 0
	node=0
	[ ! -e /sys/devices/system/node/node1 ] || node=1
	policy=$(cat /sys/devices/system/memory/auto_online_blocks)
	echo online > /sys/devices/system/memory/auto_online_blocks
	insmod /modules/guest_probe.ko op=online base="${SECOND_SOCKET%:*}" \
		size="${SECOND_SOCKET#*:}" node="$node"
	echo "$policy" > /sys/devices/system/memory/auto_online_blocks
}

# knob BDF FILE [VALUE]: read or write what debugfs has of such a stand-in.
knob() {
	if [ $# = 2 ]; then
		cat "/sys/kernel/debug/gpu_standin/$1/$2"
	else
		echo "$3" > "/sys/kernel/debug/gpu_standin/$1/$2"
	fi
}

unbind_gpu() {
	[ ! -e "/sys/bus/pci/devices/$1/driver" ] ||
		echo "$1" > "/sys/bus/pci/devices/$1/driver/unbind"
}

# A bochs-display by itself has RAM for a BAR0; say there that it is a ready GPU.
say_ready() {
	[ "$(cat "/sys/bus/pci/devices/$1/vendor")" = 0x1234 ] || return 0
	echo 1 > "/sys/bus/pci/devices/$1/enable"
	bar0=$(sed -n '1s/ .*//p' "/sys/bus/pci/devices/$1/resource")
	for reg in 0x1498 0x200bc; do devmem $((bar0 + reg)) 32 0xff; done
	echo 0 > "/sys/bus/pci/devices/$1/enable"
}

# bind_gpus [LABEL]: every stand-in to the driver, a test each.
# shellcheck disable=SC2153
bind_gpus() {
	for gpu in $GPUS; do
		ok "bind.${1:+$1.}$gpu" bind_gpu "$(bdf_of "$gpu")" nvgrace_gpu
	done
}

# bind_gpu BDF DRIVER
bind_gpu() {
	unbind_gpu "$1"
	say_ready "$1"
	echo "$2" > "/sys/bus/pci/devices/$1/driver_override"
	echo "$1" > "/sys/bus/pci/drivers/$2/bind"
}

# unpack_tool: the tool's one file becomes a directory, which Python compiles once.
unpack_tool() {
	mv /bin/nvgrace-gpu /tmp/tool.zip
	python3 -m zipfile -e /tmp/tool.zip /bin/nvgrace-gpu
	rm /tmp/tool.zip
}

# soon COMMAND...: try until it succeeds, for two minutes.
soon() {
	for _ in $(seq 600); do
		if "$@" > /tmp/soon 2>&1; then
			cat /tmp/soon
			return
		fi
		sleep 0.2
	done
	cat /tmp/soon
	echo "not within two minutes: $*"
	return 1
}

# hold_open: a process, $!, has the GPU BDF open, and both regions mapped.
hold_open() {
	rm -f /tmp/hold
	hold > /tmp/hold &
	soon [ -s /tmp/hold ]
}

# KTAP: ok NAME COMMAND... for each test, skip NAME REASON for one that cannot run here; then
# finish, which tests the kernel itself, prints the plan and returns the verdict. A job that does
# not reach its end has no plan.
TEST_NR=0 TEST_FAILED=0 TEST_SKIPPED=0 TEST_HEADER='KTAP version 1'

header() {
	[ -z "$TEST_HEADER" ] || echo "$TEST_HEADER"
	TEST_HEADER=
}

result() {
	header
	TEST_NR=$((TEST_NR + 1))
	[ "$1" = ok ] || TEST_FAILED=$((TEST_FAILED + 1))
	echo "$1 $TEST_NR $2"
}

ok() {
	ok_name=$1
	shift
	if "$@" > /tmp/ok.log 2>&1; then
		result ok "$ok_name"
	else
		echo "# $*"
		sed 's/^/# /' /tmp/ok.log
		result 'not ok' "$ok_name"
	fi
}

skip() {
	TEST_SKIPPED=$((TEST_SKIPPED + 1))
	result ok "$1 # SKIP $2"
}

# nested NAME COMMAND...: a command that prints KTAP itself, as one test. It gets the
# arguments that scripts/rig was given for it.
nested() {
	nested_name=$1
	shift
	header
	printf '    KTAP version 1\n    # Subtest: %s\n' "$nested_name"
	# shellcheck disable=SC2086
	{ "$@" $TEST_ARGS; echo "$?" > /tmp/nested.rc; } 2>&1 |
		while IFS= read -r line; do # not sed, which holds back what a hung test printed
			case $line in
			*'TAP version '*) ;;
			*) printf '    %s\n' "$line" ;;
			esac
		done
	if [ "$(cat /tmp/nested.rc)" = 0 ]; then
		result ok "$nested_name"
	else
		result 'not ok' "$nested_name"
	fi
}

finish() {
	# A job that is skipped whole has tested nothing.
	[ $TEST_NR -gt $TEST_SKIPPED ] || result 'not ok' tests_ran
	ok kernel kernel_is_well
	echo "1..$TEST_NR"
	[ "$TEST_FAILED" = 0 ]
}

# The kernel log since the last call has no trouble, and of the driver it has
# only lines that it writes when all is well, or that match one of the extended
# regular expressions given.
hex='0x[0-9a-f]*'
hint='; NVIDIA.s guest driver needs usemem_bar=4'
GOOD_LINES="(usemem|resmem) \\[mem $hex-$hex\\] is BAR[24], backed $hex bar_size $hex($hint)?
ready: .* reads $hex
egm[0-9]* \\[mem $hex-$hex\\] is /dev/egm[0-9]*, firmware has retired $hex bytes of it
"'not an id that the driver knows: .*
loading out-of-tree module taints kernel\.
module verification failed: signature and/or required key missing - tainting kernel
(Adding to|Removing from) iommu group [0-9]*
resetting
reset done
enabling device \(0[0-9a-f]{3} -> 0[0-9a-f]{3}\)
[a-z_]*quirk[a-z_]*\+0x0/0x[0-9a-f]* took [0-9]* usecs'
log_is_clean() {
	take_log > /tmp/dmesg
	cat /tmp/dmesg > /dev/console
	! trouble || return 1
	{ echo "$GOOD_LINES"; for re; do echo "$re"; done; } > /tmp/good
	sed -nE 's/^\[[^]]*\] //; s/^nvgrace_gpu(_vfio_pci)?( [0-9a-f:.]*)?: //p' /tmp/dmesg |
		grep -vxE -f /tmp/good > /tmp/unexpected || return 0
	echo "unexpected lines in the kernel log:"
	cat /tmp/unexpected
	return 1
}

# take_log: print what the kernel has logged since the last call. All of it is kept, because a
# report that a test drains has to fail the job all the same.
take_log() { dmesg -c | tee -a /tmp/all.log; }

# trouble: print the kernel's reports in all of the log, without those that the job expects.
trouble() {
	sed -E "${EXPECTED:+/$EXPECTED/,/end trace/d}" /tmp/all.log > /tmp/unexpected.log
	grep -E -f /trouble /tmp/unexpected.log
}

# allow_report TAINT REGEX: the kernel will make a report that begins with REGEX, and set this bit
# of /proc/sys/kernel/tainted.
allow_report() {
	MAY_TAINT=$1 EXPECTED=$2
}

# allow_warning FUNCTION: the kernel's own warning. Neither it nor others end the host then: finish
# looks for those in the kernel log.
allow_warning() {
	allow_report $TAINT_WARN "WARNING: .* $1\+"
	echo 0 > /proc/sys/kernel/panic_on_warn
}

# kernel_is_well: no report in all of the log, no taint, and lockdep has not turned itself off. A
# report can be lost from the log, but not from these.
TAINT_BAD_PAGE=32 TAINT_DIE=128 TAINT_WARN=512 TAINT_SOFT_LOCKUP=16384
MAY_TAINT=0 EXPECTED=
kernel_is_well() {
	take_log > /tmp/dmesg
	well=0
	! trouble || well=1
	tainted=$(cat /proc/sys/kernel/tainted)
	bits=$((TAINT_BAD_PAGE | TAINT_DIE | TAINT_WARN | TAINT_SOFT_LOCKUP))
	if [ $((tainted & bits & ~MAY_TAINT)) != 0 ]; then
		echo "the kernel is tainted: $tainted has a bit of warning (512), oops (128)," \
			"bad page (32) or soft lockup (16384)"
		well=1
	fi
	[ ! -e /proc/lockdep_stats ] || grep -q 'debug_locks: *1' /proc/lockdep_stats || {
		echo 'lockdep has turned itself off: it made a report'
		well=1
	}
	return $well
}

# load_with_scrub N: the driver with scrub=N, and the GPU BDF bound to it.
load_with_scrub() { insmod /modules/nvgrace_gpu.ko scrub="$1" && bind_gpu "$BDF" nvgrace_gpu; }

# scrub_log_is_clean: the same after the program scrub, with what that makes the driver say.
scrub_log_is_clean() {
	log_is_clean 'scrub=1: (VFIO cannot reset the GPU|writing zeroes failed twice).*' \
		'BAR0\+0x1498 \(C2C link\) reads 0x13, a failure code: .*' \
		'(Unable to change power state|Device config space inaccessible).*' \
		'All device reset methods disabled by user' 'not ready [0-9]*ms after FLR; .*' \
		'timed out waiting for pending transaction.*' \
		'usemem: page at offset 0x[0-9a-f]* is poisoned' \
		'a reset cost its config space, which the driver restores'
}

# forget_leaks, ok_no_leaks: kmemleak finds nothing that leaked in between, if the kernel has it.
kmemleak=/sys/kernel/debug/kmemleak
forget_leaks() { ! has KMEMLEAK || echo clear > $kmemleak; }

ok_no_leaks() {
	if has KMEMLEAK; then
		ok no_leaks no_leaks
	else
		skip no_leaks 'the kernel has no KMEMLEAK'
	fi
}

# An object has to be five seconds old, and to be found twice.
no_leaks() {
	sleep 6
	echo scan > $kmemleak
	echo scan > $kmemleak
	cat $kmemleak
	[ -z "$(cat $kmemleak)" ]
}

# has_iommufd: can a device be opened by its own node and attached to an iommufd?
has_iommufd() { [ -e /dev/iommu ] && [ -e /dev/vfio/devices ]; }

# vfio_args BDF: print QEMU's options for the GPU, over iommufd or, without it, a container.
vfio_args() {
	if has_iommufd; then
		echo "-object iommufd,id=iommufd0 -device vfio-pci,host=$1,iommufd=iommufd0"
	else
		echo "-device vfio-pci,host=$1"
	fi
}

# guest_append SETTINGS: the kernel command line of a guest, with settings for its init: TEST=NAME
# and what that test needs. It gets REGIONS.
guest_append() {
	echo "console=ttyAMA0 panic=-1 kpti=off quiet $*" \
		"${REGIONS:+REGIONS=$(echo "$REGIONS" | tr ' ' ,)}"
}

# guest INITRD [QEMU ARGUMENTS]: run a guest with Debian's QEMU; its verdict is
# printed, and its console and QEMU's own words are in guest.log in GUEST_DIR, /tmp.
guest() {
	initrd=$1
	shift
	# shellcheck disable=SC2046
	run_guest qemu-system-aarch64 \
		-M "virt,gic-version=3,accel=kvm${GUEST_MACHINE:-}" -cpu host \
		-smp 2 -m "${GUEST_MEMORY:-512}" \
		-kernel /Image -initrd "$initrd" -append "$(guest_append)" \
		$(guest_ports) "$@"
}

# trace_stage2: record what KVM maps for guests; stop_tracing leaves "SIZE PHYS PROT" of each
# mapping in /tmp/stage2.
trace=/sys/kernel/tracing
trace_stage2() {
	echo 32768 > $trace/buffer_size_kb
	echo 'p:stage2 kvm_pgtable_stage2_map addr=%x1:x64 size=%x2:x64 phys=%x3:x64 prot=%x4:x64' \
		> $trace/kprobe_events
	echo 1 > $trace/events/kprobes/stage2/enable
}

stop_tracing() {
	echo 0 > $trace/events/kprobes/stage2/enable
	sed -n 's/.* size=\(0x[0-9a-f]*\) phys=\(0x[0-9a-f]*\) prot=\(0x[0-9a-f]*\)$/\1 \2 \3/p' \
		$trace/trace > /tmp/stage2
	echo > $trace/trace
	echo > $trace/kprobe_events
}

# guest_crashes: a guest writes a pattern to both regions of the GPU BDF, and its kernel panics.
guest_crashes() {
	# shellcheck disable=SC2046
	guest /guest.cpio $(vfio_args "$BDF") -append "$(guest_append TEST=bars,crash)" \
		> /tmp/crash.log
	cat /tmp/crash.log
	grep 'the guest crashes' /tmp/crash.log &&
		! grep -e 'not ok' -e 'the guest hung' /tmp/crash.log
}

# guest_ports: QEMU's options for a guest that tells run_guest its verdict.
guest_ports() {
	guest_dir=${GUEST_DIR:-/tmp}
	echo "-nodefaults -display none -no-reboot -serial file:$guest_dir/guest.log"
	echo "-chardev file,id=verdict,path=$guest_dir/guest.verdict"
	# Without event indices, as in scripts/rig.
	echo "-device virtio-serial-pci,romfile=,event_idx=off"
	echo "-device virtserialport,chardev=verdict"
}

# run_guest COMMAND...: the same for another command that starts QEMU and becomes it.
run_guest() {
	guest_dir=${GUEST_DIR:-/tmp}
	rm -f "$guest_dir/guest.log" "$guest_dir/guest.verdict"
	"$@" > "$guest_dir/qemu.log" 2>&1 &
	since=$(date +%s)
	end=$((since + ${GUEST_AT_MOST:-3600}))
	qemu=$! hung='' last='' limit=${GUEST_TIMEOUT:-600}
	alive=$since
	# QEMU keeps a guest whose vCPU cannot go on, for a debugger to look at.
	while kill -0 $qemu 2> /dev/null; do
		now=$(stat -c %s "$guest_dir/guest.log" "$guest_dir/guest.verdict" 2> /dev/null)
		[ "$now" = "$last" ] || since=$(date +%s)
		last=$now
		# A guest that goes on is progress, which the rig waits for.
		if [ "$since" -ge $((alive + 60)) ]; then
			alive=$since
			echo 'the guest goes on' > /dev/console
		fi
		if [ $(($(date +%s) - since)) -ge "$limit" ]; then
			hung="it printed nothing for $limit s"
		elif [ "$(date +%s)" -ge $end ]; then
			hung="it did not end in ${GUEST_AT_MOST:-3600} s"
		fi
		[ -z "$hung" ] || kill $qemu
		! grep -q 'kvm run failed' "$guest_dir/qemu.log" || kill $qemu
		sleep 0.5
	done
	wait $qemu
	cat "$guest_dir/qemu.log" >> "$guest_dir/guest.log"
	grep -v '^# job exit' "$guest_dir/guest.verdict"
	if [ -n "$hung" ]; then
		echo "# the guest hung and was stopped: $hung"
		return 1
	fi
	grep -q '^# job exit 0$' "$guest_dir/guest.verdict" && return
	echo "# the guest ended without a good verdict; the end of its log:"
	tail -n 20 "$guest_dir/guest.log" | sed 's/^/# /'
	return 1
}
