# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# What memory the guest gets: memory types, block sizes, and what KVM refuses.
# PFNMAP says what this host's KVM does with cacheable device memory: map,
# refuse, or device (unpatched 6.12, the control: what fails there has to fail); mte
# is map for a VM with MTE. BASE is where the GPU's 4.5 GiB begin; FWB, for refuse, is
# yes or no: does the CPU have it? MODE is Hyp where the host's kernel is to run at EL1, nVHE.
#
#| part | make check | make check-all adds | scripts/rig run
#| patched | 6.12-patched | 6.12-64k-patched | --env=PFNMAP=map
#| | | | --gpu=port:0x70000000000:4608M --env=BASE=0x70000000000
#| patched-guest-64k | | 6.12-64k-patched | --env=PFNMAP=map --guest=6.12-64k-patched
#| | | | --env=GUEST_MEMORY=1536
#| | | | --gpu=port:0x70000000000:4608M --env=BASE=0x70000000000
#| stage2 | newest | newest-debug | --env=PFNMAP=map
#| | | | --gpu=port:0x70000000000:4608M --env=BASE=0x70000000000
#| unpatched | | 6.12 6.12-debug | --env=PFNMAP=device
#| | | | --gpu=port:0x70000000000:4608M --env=BASE=0x70000000000
#| nvhe | | 6.12-patched newest | --kernel-args=kvm-arm.mode=nvhe --env=MODE=Hyp
#| | | | --gpu=port:0x70000000000:4608M --env=BASE=0x70000000000 --env=PFNMAP=map
#| no-fwb | 6.12-patched | | --cpu=neoverse-n1 --env=PFNMAP=refuse --env=FWB=no
#| | | | --gpu=port:0x70000000000:4608M --env=BASE=0x70000000000
#| no-dic | | 6.12-patched | --cpu=cortex-a710 --env=PFNMAP=refuse --env=FWB=yes
#| | | | --gpu=port:0x2000000000:4608M --env=BASE=0x2000000000
#| mte | | 6.12-patched | --cpu=max --machine=mte=on --env=PFNMAP=mte
#| | | | --gpu=port:0:0:0x70000000000:0x120000000 --env=BASE=0x70000000000
# shellcheck disable=SC1091
. /lib.sh

usemem='2:wb:plain 2:wc:plain'
# An unpatched kernel breaks these. QEMU's TCG refuses unaligned loads and stores of Device
# memory, but neither DC ZVA nor atomics: those run on the patched kernel, and are not a control
# on the other.
breaks='2:wb:unaligned 2:wc:unaligned'
others='2:wb:zva 2:wc:zva 2:wb:lse 2:wc:lse 2:wb:exclusive 2:wc:exclusive'
resmem='4:wc:plain 4:wc:unaligned 4:wc:zva'

# in_guest PROBES
in_guest() {
	test="oops=panic TEST=memory_types PROBES=$(echo "$*" | tr ' ' ,)"
	# QEMU copies what a device reads or writes in usemem through a buffer of this size.
	truncate -s 16M /tmp/disk
	disk=virtio-blk-pci,drive=disk,romfile=,disable-legacy=on
	disk=$disk,iommu_platform=on,x-max-bounce-buffer-size=16777216
	# shellcheck disable=SC2046
	guest /guest.cpio $(vfio_args "$BDF") \
		-drive file=/tmp/disk,format=raw,if=none,id=disk -device "$disk" \
		-append "$(guest_append "$test")"
}

# must_break PROBE: the guest takes an abort, or its vCPU stops. A kernel that onlines such
# memory may also go round in aborts of its own, silent or not, and is stopped after a while.
must_break() {
	if [ "$1" = online ]; then
		export GUEST_TIMEOUT=120 GUEST_AT_MOST=300
	else
		export GUEST_TIMEOUT=600 GUEST_AT_MOST=1200
	fi
	! in_guest "$1" > /tmp/broken || { cat /tmp/broken; return 1; }
	broken='alignment fault|Unhandled fault|external abort|Bad address|Bus error'
	[ "$1" != online ] || broken="$broken|the guest hung"
	grep -E "$broken" /tmp/broken /tmp/guest.log
}

# stage2_is FIRST LAST TYPE LEAST: every mapping of this memory is of this type, by
# the bits of enum kvm_pgtable_prot, and has this many bytes at least.
stage2_is() {
	seen=0
	while read -r size phys prot; do
		[ $((phys)) -ge $(($1)) ] && [ $((phys)) -le $(($2)) ] || continue
		seen=$((seen + 1))
		case $((prot >> STAGE2_DEVICE_BIT & 3)) in
		0) type=normal ;;
		1) type=device ;;
		2) type=nc ;;
		*) type=both ;;
		esac
		if [ $type != "$3" ] || [ $((size)) -lt "$4" ]; then
			echo "phys $phys size $size prot $prot: $type"
			return 1
		fi
	done < /tmp/stage2
	echo "$seen mappings"
	[ $seen -gt 0 ]
}

# stage2_has_none FIRST LAST: KVM has mapped something, and nothing of this memory.
stage2_has_none() {
	[ -s /tmp/stage2 ] || return 1
	while read -r size phys prot; do
		[ $((phys)) -lt $(($1)) ] || [ $((phys)) -gt $(($2)) ] || {
			echo "phys $phys size $size prot $prot"
			return 1
		}
	done < /tmp/stage2
}

qemu_is_refused() {
	! in_guest 2:wb:plain > /tmp/refused || return 1
	grep 'KVM_SET_USER_MEMORY_REGION failed.*: Invalid argument' /tmp/guest.log ||
		{ cat /tmp/guest.log; return 1; }
}

# cpu_has yes|no FEATURE, in the words of the kernel's log.
cpu_has() {
	has=no
	! grep -F "CPU features: detected: $2" /tmp/boot || has=yes
	[ $has = "$1" ]
}

KVM=series
! has PFN_ADDRESS_SPACE || KVM=newest
[ "$PFNMAP" != device ] || KVM=6.12
export BDF REGIONS PFNMAP KVM RESET=bus
BDF=$(bdf_of GP00)
REGIONS="2:$((3 * GIB + GIB / 2)):$((4 * GIB)) 4:$GIB:$GIB"
take_log > /tmp/boot
# The size of a block: a table has as many entries of 8 bytes as fit a page.
block=$((PAGE_SIZE * PAGE_SIZE / 8))
# The GPU's memory begins at BASE: usemem, resmem, and what is left of the DIMM.
# shellcheck disable=SC2153
first=$((BASE)) last=$((BASE + 0xdfffffff)) end=$((BASE + 0x11fffffff))
# There mixedmap.ko has 2 MiB each: cacheable, write-combining, and then mappings whose entries
# are not what the VMA says.
mixed=$((end + 1)) mixed_wb_end=$((end + 0x200000)) mixed_wc_end=$((end + 0x400000))
mixed_end=$((end + 0xc00000))
[ -z "${MODE:-}" ] ||
	ok kvm.mode grep "kvm .*: $MODE nVHE mode initialized successfully" /tmp/boot
fwb='Stage-2 Force Write-Back'
dic='Instruction cache invalidation not required for I/D coherence'
insmod /modules/mixedmap.ko "base=$mixed"

case $PFNMAP in
map)
	insmod /modules/nvgrace_gpu.ko && bind_gpu "$BDF" nvgrace_gpu
	# The program maps pieces that are smaller than a block of large pages; QEMU maps all of it.
	trace_stage2
	# shellcheck disable=SC2086
	nested guest in_guest $usemem $breaks $others $resmem online disk
	stop_tracing
	ok stage2.usemem_is_normal_wb stage2_is $first $last normal $block
	ok stage2.resmem_is_normal_nc stage2_is $((last + 1)) $end nc $block
	trace_stage2
	nested kvm_vma kvm_vma
	stop_tracing
	ok stage2.usemem_of_a_program_is_normal_wb stage2_is $first $last normal "$PAGE_SIZE"
	ok stage2.cacheable_mixedmap_is_normal_wb stage2_is $mixed $mixed_wb_end normal "$PAGE_SIZE"
	ok stage2.write_combining_mixedmap_is_device \
		stage2_is $((mixed_wb_end + 1)) $mixed_wc_end device "$PAGE_SIZE"
	# The newest goes by the VMA.
	[ "$KVM" != series ] ||
		ok stage2.entries_unlike_the_vma_are_device \
			stage2_is $((mixed_wc_end + 1)) $mixed_end device "$PAGE_SIZE"
	;;
device)
	# shellcheck disable=SC2086
	set -- $breaks
	insmod /modules/nvgrace_gpu.ko && bind_gpu "$BDF" nvgrace_gpu
	trace_stage2
	nested kvm_vma kvm_vma
	# shellcheck disable=SC2086
	nested guest in_guest $usemem $resmem
	stop_tracing
	ok stage2.usemem_is_device stage2_is $first $last device $block
	ok stage2.resmem_is_normal_nc stage2_is $((last + 1)) $end nc $block
	ok stage2.mixedmap_is_device stage2_is $mixed $mixed_end device "$PAGE_SIZE"
	for probe; do ok "breaks.$probe" must_break "$probe"; done
	ok breaks.online must_break online
	;;
refuse)
	ok "cpu.fwb_$FWB" cpu_has "$FWB" "$fwb"
	ok cpu.dic_no cpu_has no "$dic"
	insmod /modules/nvgrace_gpu.ko && bind_gpu "$BDF" nvgrace_gpu
	trace_stage2
	nested kvm_vma kvm_vma
	ok qemu_is_refused qemu_is_refused
	stop_tracing
	ok stage2.usemem_is_never_mapped stage2_has_none $first $last
	ok stage2.cacheable_mixedmap_is_never_mapped stage2_has_none $mixed $mixed_wb_end
	ok stage2.other_mixedmap_is_device \
		stage2_is $((mixed_wb_end + 1)) $mixed_end device "$PAGE_SIZE"
	;;
mte)
	insmod /modules/nvgrace_gpu.ko && bind_gpu "$BDF" nvgrace_gpu
	trace_stage2
	nested kvm_vma kvm_vma -t mte_vm -t mte_mprotect
	export GUEST_MACHINE=,mte=on
	ok qemu_is_refused qemu_is_refused
	stop_tracing
	ok stage2.usemem_is_never_mapped stage2_has_none $first $last
	;;
esac
# The host is well: the GPU can be used, and nothing is in its log.
ok gpu_is_free abi -t bar_sizing
ok unload rmmod nvgrace_gpu
ok log log_is_clean
finish
