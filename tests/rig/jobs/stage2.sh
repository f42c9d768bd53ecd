# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# What memory the guest gets: memory types, block sizes, and what KVM refuses.
# PFNMAP says what this host's KVM does with cacheable device memory: map,
# refuse, or device (unpatched, the control: what fails there has to fail).
# shellcheck disable=SC1091
. /lib.sh

gib=1073741824
usemem='2:wb:plain 2:wc:plain'
# What an unpatched kernel breaks. Of what Device memory refuses, QEMU's TCG refuses
# unaligned loads and stores, but neither DC ZVA nor atomics: those are tried on
# the patched kernel, and are no control on the other.
breaks='2:wb:unaligned 2:wc:unaligned'
others='2:wb:zva 2:wc:zva 2:wb:lse 2:wc:lse 2:wb:exclusive 2:wc:exclusive'
resmem='4:wc:plain 4:wc:unaligned 4:wc:zva'
trace=/sys/kernel/tracing

# in_guest PROBES
in_guest() {
	guest /guest.cpio -object iommufd,id=iommufd0 -device "vfio-pci,host=$BDF,iommufd=iommufd0" \
		-append "console=ttyAMA0 panic=-1 oops=panic quiet TEST=memory_types PROBES=$(echo "$*" | tr ' ' ,) REGIONS=$(echo "$REGIONS" | tr ' ' ,)"
}

# must_break PROBE: the guest takes an abort, or its vCPU stops.
must_break() {
	! in_guest "$1" > /tmp/broken || { cat /tmp/broken; return 1; }
	grep -E 'alignment fault|Unhandled fault|external abort|Bad address|Bus error' /tmp/broken /tmp/guest.log
}

trace_stage2() {
	echo 32768 > $trace/buffer_size_kb
	echo 'p:stage2 kvm_pgtable_stage2_map addr=%x1:x64 size=%x2:x64 phys=%x3:x64 prot=%x4:x64' > $trace/kprobe_events
	echo 1 > $trace/events/kprobes/stage2/enable
}

stop_tracing() {
	echo 0 > $trace/events/kprobes/stage2/enable
	sed -n 's/.* size=\(0x[0-9a-f]*\) phys=\(0x[0-9a-f]*\) prot=\(0x[0-9a-f]*\)$/\1 \2 \3/p' $trace/trace > /tmp/stage2
	echo > $trace/trace
	echo > $trace/kprobe_events
}

# stage2_is FIRST LAST TYPE: every mapping of the region is of this type, by the
# bits of enum kvm_pgtable_prot, and of 2 MiB at least.
stage2_is() {
	seen=0
	while read -r size phys prot; do
		[ $((phys)) -ge $(($1)) ] && [ $((phys)) -le $(($2)) ] || continue
		seen=$((seen + 1))
		case $((prot >> 3 & 3)) in 0) type=normal ;; 1) type=device ;; 2) type=nc ;; *) type=both ;; esac
		if [ $type != "$3" ] || [ $((size)) -lt 2097152 ]; then
			echo "phys $phys size $size prot $prot: $type"
			return 1
		fi
	done < /tmp/stage2
	echo "$seen mappings"
	[ $seen -gt 0 ]
}

qemu_is_refused() {
	! in_guest 2:wb:plain > /tmp/refused || return 1
	grep -i 'KVM_SET_USER_MEMORY_REGION.*Invalid argument' /tmp/guest.log
}

export BDF REGIONS PFNMAP RESET=bus
BDF=$(bdf_of GP00)
REGIONS="2:$((3 * gib + gib / 2)):$((4 * gib)) 4:$gib:$gib"
dmesg -c > /dev/null
first=0x70000000000 last=0x700dfffffff end=0x7011fffffff

case $PFNMAP in
map)
	plan 7
	insmod /modules/nvgrace_gpu.ko && bind_gpu "$BDF" nvgrace_gpu
	nested kvm_vma kvm_vma
	trace_stage2
	# shellcheck disable=SC2086
	nested guest in_guest $usemem $breaks $others $resmem online
	stop_tracing
	ok stage2.usemem_is_normal_wb stage2_is $first $last normal
	ok stage2.resmem_is_normal_nc stage2_is $((last + 1)) $end nc
	;;
device)
	# shellcheck disable=SC2086
	set -- $breaks
	plan $((8 + $#))
	insmod /modules/nvgrace_gpu.ko && bind_gpu "$BDF" nvgrace_gpu
	nested kvm_vma kvm_vma
	trace_stage2
	# shellcheck disable=SC2086
	nested guest in_guest $usemem $resmem
	stop_tracing
	ok stage2.usemem_is_device stage2_is $first $last device
	ok stage2.resmem_is_normal_nc stage2_is $((last + 1)) $end nc
	for probe; do ok "breaks.$probe" must_break "$probe"; done
	ok breaks.online must_break online
	;;
refuse)
	plan 5
	insmod /modules/nvgrace_gpu.ko && bind_gpu "$BDF" nvgrace_gpu
	nested kvm_vma kvm_vma
	ok qemu_is_refused qemu_is_refused
	;;
mte)
	plan 5
	insmod /modules/nvgrace_gpu.ko && bind_gpu "$BDF" nvgrace_gpu
	nested kvm_vma kvm_vma -t mte_vm
	export GUEST_MACHINE=,mte=on
	ok qemu_is_refused qemu_is_refused
	;;
esac
# The host is well: the GPU can be used, and nothing is in its log.
ok gpu_is_free abi -t bar_sizing
ok unload rmmod nvgrace_gpu
ok log log_is_clean
finish
