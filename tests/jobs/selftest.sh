# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# grace_selftest, by which people check a Grace machine: its verdict on hosts of each kind, and
# what it says where it cannot run. VERDICT is wb, device or refused; LACKS, for refused, is
# what the CPU does not have.
#
#| part | make check | make check-all adds | scripts/rig run
#| selftest | newest | 6.12-patched newest-debug 6.12-64k-patched | --env=VERDICT=wb
#| | | | --gpu=hopper:0x70000000000:4608M --gpu=blackwell:0x71000000000:4G
#| selftest-device | 6.12 | 6.12-debug 6.12-16k | --env=VERDICT=device
#| | | | --gpu=hopper:0x70000000000:4608M --gpu=blackwell:0x71000000000:4G
#| selftest-no-fwb | newest | 6.12-patched | --cpu=neoverse-n1 --env=VERDICT=refused
#| | | | --gpu=hopper:0x70000000000:4608M --gpu=blackwell:0x71000000000:4G
#| | | | --env=LACKS='FEAT_S2FWB.and.CTR_EL0\.DIC'
# shellcheck disable=SC1091
. /lib.sh

# says STATUS LINE...: the program ends with this status, and prints lines that match these
# extended regular expressions.
says() {
	status=$1 rc=0
	shift
	$PROGRAM "$BDF" > /tmp/selftest 2>&1 || rc=$?
	cat /tmp/selftest
	[ $rc = "$status" ] || { echo "exit status $rc, not $status"; return 1; }
	for line; do
		grep -qxE -e "$line" /tmp/selftest || { echo "no line '$line'"; return 1; }
	done
}

# says_not LINE: what it printed last has no such line.
says_not() { ! grep -E -e "$1" /tmp/selftest; }

probes='aligned access|unaligned access|dc zva|LSE atomics|exclusives|data shared with host'
# all_work NUMBER: so many probes of both regions work, and none fails.
all_work() {
	[ "$(grep -cE "^  ($probes|unaligned LSE atomics|execution) +works\$" /tmp/selftest)" = \
		"$1" ] && says_not FAILS
}

# cannot WORDS: it tests nothing, and says why.
cannot() { says 2 "grace_selftest: .*$1.*" 'not tested'; }

in_use() {
	hold_open
	holder=$!
	cannot 'is in use: another process'
	rc=$?
	kill $holder
	wait $holder
	return $rc
}

# start-stop-daemon takes only users that have a name.
without_root() {
	mkdir -p /etc
	echo 'nobody:x:65534:65534::/:/bin/sh' > /etc/passwd
	PROGRAM="start-stop-daemon -S -c nobody -x $(which grace_selftest) --" cannot "$1"
}

without_kvm() {
	mv /dev/kvm /dev/kvm.away
	cannot 'there is no /dev/kvm'
	rc=$?
	mv /dev/kvm.away /dev/kvm
	return $rc
}

fwb='FEAT_S2FWB yes, CTR_EL0.DIC yes'
works=' +works' fails=' +FAILS: .*'
hopper="usemem: BAR2, 0xe0000000 bytes"
blackwell="usemem: BAR4, 0x100000000 bytes"
export BDF REGIONS PROGRAM=grace_selftest
REGIONS="2:$((3 * GIB + GIB / 2)):$((4 * GIB)) 4:$GIB:$GIB"
BDF=$(bdf_of GP00)
take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko

BDF=0000:77:00.0 ok no_device cannot 'there is no PCI device 0000:77:00.0'
ok not_bound cannot 'is bound to no driver'
ok bind bind_gpu "$BDF" vfio-pci
ok no_coherent_memory cannot 'shows no coherent memory'
bind_gpus
ok in_use in_use
chmod 600 /dev/kvm
ok kvm_of_another_user without_root '/dev/kvm: Permission denied; run this as root'
chmod 666 /dev/kvm
ok gpu_of_another_user without_root '/dev/vfio/.*: Permission denied; run this as root'
ok no_kvm without_kvm

case $VERDICT in
wb)
	ok verdict says 0 "CPU: $fwb" 'KVM: capability 243, cacheable PFNMAP: 1' "$hopper" \
		'resmem is Normal memory in a guest' 'usemem is Normal Write-Back in a guest'
	ok probes all_work 12
	BDF=$(bdf_of GP01)
	ok verdict.no_resmem says 0 "$blackwell" 'usemem is Normal Write-Back in a guest'
	ok probes.no_resmem all_work 8
	ok no_resmem says_not resmem
	rmmod nvgrace_gpu
	insmod /modules/nvgrace_gpu.ko usemem_bar=4
	bind_gpus usemem_bar_4
	BDF=$(bdf_of GP00)
	ok verdict.usemem_bar_4 says 0 "${hopper%BAR*}BAR4${hopper#*BAR2}" \
		"resmem: BAR2, .*" 'usemem is Normal Write-Back in a guest'
	;;
device)
	# Of what Device memory refuses, QEMU's TCG lets dc zva and atomics through.
	ok verdict says 1 "CPU: $fwb" 'KVM: capability 243, cacheable PFNMAP: 0' "$hopper" \
		"  aligned access$works" "  unaligned access$fails" "  execution$fails" \
		'resmem is Normal memory in a guest' 'usemem is Device memory in a guest: .*' \
		'Run Linux 6.17 or newer, or 6.12 with patches/linux-6.12.'
	BDF=$(bdf_of GP01)
	ok verdict.no_resmem says 1 "$blackwell" 'usemem is Device memory in a guest: .*'
	;;
refused)
	ok verdict says 1 'KVM: capability 243, cacheable PFNMAP: 0' \
		'  memslot +FAILS: Invalid argument' 'resmem is Normal memory in a guest' \
		"KVM refuses usemem as a guest's memory: Invalid argument." \
		"This CPU lacks $LACKS, which KVM needs. Grace's CPU has both."
	;;
esac
ok unload rmmod nvgrace_gpu
ok log log_is_clean
finish
