# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The tool nvgrace-gpu, each subcommand as root and as a user: faults that check has to name,
# binding by hand and by udev, and guests that are started by the lines that qemu-args prints.
#
#| part | make check | make check-all adds | scripts/rig run
#| tool-host | newest | 6.12 6.12-patched newest-debug |
#| | | | --gpu=hopper:0x70000000000:2560M
#| | | | --gpu=hopper:0x71000000000:2560M
#| | | | --gpu=blackwell:0x72000000000:3G
# shellcheck disable=SC1091
. /lib.sh

dev=/sys/bus/pci/devices
release=$(uname -r)
mkdir -p /etc/udev/rules.d /run/nvgrace-gpu
cp /nvgrace-gpu.rules /etc/udev/rules.d/61-nvgrace-gpu-vfio.rules
echo 'kvm:x:104:' > /etc/group
printf 'root:x:0:0::/:/bin/sh\nqemu:x:1000:1000::/:/bin/sh\n' > /etc/passwd

tool() { python3 /bin/nvgrace-gpu "$@"; }

# as_user COMMAND...: with neither root's rights nor its groups.
as_user() {
	python3 -c 'import os, sys
os.setgroups([])
os.setgid(1000)
os.setuid(1000)
os.execvp(sys.argv[1], sys.argv[1:])' "$@"
}
user_tool() { as_user python3 /bin/nvgrace-gpu "$@"; }

bound_to() {
	ls -l "$dev/$1/driver"
	[ "$(basename "$(readlink "$dev/$1/driver")")" = "$2" ]
}
unbound() { ! ls -l "$dev/$1/driver"; }

# refused TEXT COMMAND...: it ends with 1 and says why.
refused() {
	refused_text=$1
	shift
	"$@" > /tmp/out 2>&1
	refused_rc=$?
	cat /tmp/out
	[ $refused_rc = 1 ] && grep -qF -e "$refused_text" /tmp/out
}

# ---- check

# names FILE: what is to fix or a risk, with the GPU, a line each.
names() {
	awk '/^[0-9a-f]+:/ { gpu = $1 } /^(fix|risk) / { sub(":$", "", $2); print gpu, $2 }' "$1" |
		sort
}

# fault NAME CURE: check names this fault and none but those from before, with this cure.
fault() {
	tool check -q > /tmp/now
	names /tmp/now > /tmp/names.now
	cat /tmp/now
	grep -vxFf /tmp/names.before /tmp/names.now > /tmp/names.new
	[ "$(sed 's/.* //' /tmp/names.new | sort -u)" = "$1" ] && grep -qF -e "$2" /tmp/now
}

all_is_as_before() {
	tool check -q > /tmp/now
	names /tmp/now > /tmp/names.now
	diff /tmp/names.before /tmp/names.now
}

# seeded NAME CURE FAULT UNDO: the fault is there, then is not.
seeded() {
	sh -c "$3" || { echo "the fault cannot be seeded: $3"; return 1; }
	fault "$1" "$2"
	seeded_rc=$?
	sh -c "$4"
	return $seeded_rc
}

# check names what it cannot read, and does not take that for a fault.
check_as_user() {
	user_tool check > /tmp/out 2>&1
	cat /tmp/out
	grep -q '^cannot tell' /tmp/out && ! grep -q 'Traceback' /tmp/out &&
		grep -q 'gpu.memory: /sys/firmware/acpi/tables/DSDT: Permission denied' /tmp/out
}

user_list() {
	user_tool list > /tmp/out 2>&1
	list_rc=$?
	cat /tmp/out
	[ $list_rc = 0 ] &&
		grep -q 'usemem BAR4  address for root only  3 GiB backed of 4 GiB' /tmp/out
}

user_status() {
	user_tool status > /tmp/out 2>&1
	status_rc=$?
	cat /tmp/out
	[ $status_rc = 0 ] && [ "$(wc -l < /tmp/out)" = 3 ] &&
		grep "^$A  driver nvgrace_gpu  used by nobody in sight  health ok  state " /tmp/out
}

check_json() {
	tool check --json | python3 -c 'import json, sys
report = json.load(sys.stdin)
statuses = ("ok", "fix", "risk", "cannot tell")
counts = [sum(c["status"] == s for c in report["checks"]) for s in statuses]
assert counts == [report[s.replace(" ", "_")] for s in statuses], counts
assert all(c["cure"] or c["advice"] for c in report["checks"] if c["status"] in ("fix", "risk"))'
}

# ---- bind

saves_and_restores() {
	echo vfio-pci > "$dev/$A/driver_override"
	echo "$A" > /sys/bus/pci/drivers/vfio-pci/bind
	tool bind "$A" && bound_to "$A" nvgrace_gpu && tool unbind "$A" &&
		bound_to "$A" vfio-pci && [ "$(cat "$dev/$A/driver_override")" = vfio-pci ] ||
		return 1
	echo "$A" > /sys/bus/pci/drivers/vfio-pci/unbind
	echo > "$dev/$A/driver_override"
}

# The lines that a dry run prints do the same when a shell runs them.
dry_run() {
	tool bind --dry-run "$A" > /tmp/dry.sh && cat /tmp/dry.sh && unbound "$A" &&
		sh -e /tmp/dry.sh && bound_to "$A" nvgrace_gpu || return 1
	tool unbind --dry-run "$A" > /tmp/dry.sh && cat /tmp/dry.sh &&
		bound_to "$A" nvgrace_gpu && sh -e /tmp/dry.sh && unbound "$A"
}

all_of_them() {
	tool bind && for bdf in $A $B $C; do bound_to "$bdf" nvgrace_gpu || return 1; done
}

# A process has the VFIO group open: neither bind nor unbind takes the GPU away from it.
in_use() {
	tail -f /dev/null < "/dev/vfio/$(group_of "$A")" &
	holder=$!
	refused "in use by $holder (tail)" tool unbind "$A" && bound_to "$A" nvgrace_gpu
	in_use_rc=$?
	kill $holder
	wait $holder
	return $in_use_rc
}

# A GPU that trains for some seconds shows a counter meanwhile.
counts() {
	knob "$A" ready 0
	tool bind "$A" > /tmp/out 2>&1 &
	binding=$!
	soon grep 'the GPU trains its memory' /tmp/out
	counts_rc=$?
	knob "$A" ready 1
	wait $binding
	bind_rc=$?
	cat /tmp/out
	[ $bind_rc = 0 ] && [ $counts_rc = 0 ] &&
		bound_to "$A" nvgrace_gpu
}

# A failed C2C link: the driver's line, its meaning and the cure; nothing is left changed.
link_down() {
	knob "$A" c2c_link 0x5
	refused 'a failure code' tool bind "$A"
	link_rc=$?
	knob "$A" c2c_link 0xff
	[ $link_rc = 0 ] && grep -q 'switch its power off' /tmp/out && unbound "$A" &&
		[ "$(cat "$dev/$A/driver_override")" = '(null)' ]
}

# ---- the driver's files in sysfs

# value FILE VALUE
value() { [ "$(cat "$dev/$A/nvgrace_gpu/$1")" = "$2" ]; }

# 2560 MiB: what a multiple of 512 MiB leaves for resmem, which has 1 GiB at least.
sysfs_tells() {
	grep . "$dev/$A"/nvgrace_gpu/*
	value usemem_base 0x70000000000 && value usemem_bar 2 &&
		value usemem_backed 1610612736 && value usemem_bar_size 2147483648 &&
		value resmem_base 0x70060000000 && value resmem_bar 4 &&
		value resmem_backed 1073741824 && value resmem_bar_size 1073741824
}

# A Blackwell without a carve-out.
sysfs_has_no_resmem() {
	grep . "$dev/$C"/nvgrace_gpu/* > /tmp/sysfs
	cat /tmp/sysfs
	[ "$(grep -c /usemem_ /tmp/sysfs)" = 4 ] && ! grep -q /resmem_ /tmp/sysfs &&
		[ "$(cat "$dev/$C/nvgrace_gpu/usemem_bar")" = 4 ]
}

# A user learns the sizes, and not the address.
sysfs_as_user() {
	as_user /bin/busybox cat "$dev/$A/nvgrace_gpu/usemem_bar_size" &&
		! as_user /bin/busybox cat "$dev/$A/nvgrace_gpu/usemem_base"
}

# ---- binding at boot, and the rule that gives group kvm the VFIO nodes

group_of() { basename "$(readlink "$dev/$1/iommu_group")"; }

# as_at_boot FIRST: the module and the drivers are gone; then the module or the override is
# first, and udev sees the devices come.
as_at_boot() {
	udevadm control --exit
	for bdf in $A $B $C; do
		unbind_gpu "$bdf"
		echo > "$dev/$bdf/driver_override"
	done
	rmmod nvgrace_gpu
	[ "$1" != module ] || modprobe_kmod nvgrace_gpu || return 1
	/usr/lib/systemd/systemd-udevd --daemon && udevadm trigger --action=add -s pci &&
		udevadm settle -t 120 || return 1
	ls -ln /dev/vfio
	bound_to "$A" nvgrace_gpu && bound_to "$B" nvgrace_gpu && unbound "$C" &&
		[ "$(stat -c '%g %a' "/dev/vfio/$(group_of "$A")")" = '104 660' ]
}
modprobe_kmod() { /usr/sbin/modprobe "$@"; }

rule_of() { echo "/etc/udev/rules.d/60-nvgrace-gpu-$1.rules"; }

persists() {
	tool bind --persist "$A" "$B" && cat "$(rule_of "$A")" "$(rule_of "$B")"
}

rule_goes() {
	tool unbind --persist "$A" "$B" && [ ! -e "$(rule_of "$A")" ] &&
		[ ! -e "$(rule_of "$B")" ] && unbound "$A" && unbound "$B"
}

# ---- qemu-args

# started GPUS INITIATORS OPTIONS...: the line that qemu-args prints, with what this host has
# room for, boots a guest that finds what was promised.
started() {
	gpus=$1 initiators=$2
	shift 2
	append=$(guest_append "TEST=machine GPUS=$gpus INITIATORS=$initiators")
	# shellcheck disable=SC2046
	tool qemu-args --layout=2 --smp 2 --memory 512M "$@" -- -kernel /Image \
		-initrd /guest.cpio -append "$append" $(guest_ports) > /tmp/guest.sh ||
		return 1
	sed -i 's/^qemu-system/exec &/' /tmp/guest.sh
	sed 's/^/# /' /tmp/guest.sh
	GUEST_TIMEOUT=600 run_guest sh /tmp/guest.sh
}

# A user gets the sizes from sysfs, and no line depends on what only root may read.
user_qemu_args() {
	user_tool qemu-args "$A" > /tmp/user.sh && tool qemu-args "$A" > /tmp/root.sh &&
		diff /tmp/user.sh /tmp/root.sh && grep 'ras=on' /tmp/root.sh
}

# UEFI writes its variables to a copy of the template, which the printed line makes.
started_with_disk() {
	truncate -s 1M /tmp/disk.raw
	(cd /tmp && started 1 1-2 --initiators 2 --disk disk.raw --name copied "$C") &&
		[ -s /tmp/copied_VARS.fd ] && ! cmp -s /tmp/copied_VARS.fd "$vars"
	disk_rc=$?
	rm -f /tmp/copied_VARS.fd
	return $disk_rc
}
vars=/usr/share/AAVMF/AAVMF_VARS.fd

# An accelerated SMMU needs an iommufd, which Debian's kernels do not have, and QEMU 11.
smmu_is_refused() {
	if has_iommufd; then
		refused 'has no arm-smmuv3 with accel=' tool qemu-args --smmu "$A"
	else
		refused '--smmu needs iommufd' tool qemu-args --smmu "$A"
	fi
}

libvirt() {
	tool qemu-args --libvirt --layout=2 --smp 2 --memory 512M "$A" "$B" > /tmp/domain.xml &&
		python3 - << 'END'
import xml.etree.ElementTree as tree
domain = tree.parse("/tmp/domain.xml").getroot()
hostdevs = domain.findall("./devices/hostdev")
assert len(hostdevs) == 2, hostdevs
assert all(h.find("driver").get("model") == "nvgrace_gpu" for h in hostdevs)
# There is no virsh here, and so the XML is for an old version, without elements for initiators.
values = [a.get("value") for a in domain.iter("{http://libvirt.org/schemas/domain/qemu/1.0}arg")]
assert sum("acpi-generic-initiator" in v for v in values) == 16, values
END
}

report() {
	rm -f /tmp/report && tool report -o /tmp/report && grep -q '^== check' /tmp/report &&
		grep -q "$A" /tmp/report && ! grep -q Traceback /tmp/report
}

A=$(bdf_of GP00) B=$(bdf_of GP01) C=$(bdf_of GP02)
take_log > /dev/null

# The kernel's modules, as an installed kernel has them.
mount -t tmpfs tmpfs /usr/lib/modules
mkdir -p "/lib/modules/$release/updates"
cp /modules/*.ko "/lib/modules/$release/updates/"
ok depmod /usr/sbin/depmod

ok one_file tool --help
unpack_tool
ok check.as_user check_as_user
ok module_is_loaded_by_bind tool bind "$A"
ok list.bound sh -c "python3 /bin/nvgrace-gpu list | grep -A1 '^$A.*driver nvgrace_gpu'"
ok list.json sh -c 'python3 /bin/nvgrace-gpu list --json | python3 -m json.tool'
ok unbind tool unbind "$A"
ok unbind.twice tool unbind "$A"
ok bind.saves_and_restores saves_and_restores
ok bind.dry_run dry_run
ok bind.counts_while_training counts
ok bind.in_use in_use
ok unbind.after_use tool unbind "$A"
ok bind.link_down link_down
ok bind.as_user refused 'only root' user_tool bind "$A"
ok bind.not_a_gpu refused 'is not a GPU with coherent memory' tool bind 0000:00:00.0
ok bind.all all_of_them
ok sysfs.tells sysfs_tells
ok sysfs.has_no_resmem sysfs_has_no_resmem
ok sysfs.as_user sysfs_as_user
ok list.as_user user_list
ok status.as_user user_status

start=$(date +%s)
tool check > /tmp/check.before 2>&1
echo "# check took $(($(date +%s) - start)) s on this emulated CPU"
tool check -q > /tmp/before
names /tmp/before > /tmp/names.before
sed 's/^/# /' /tmp/before
ok check.json check_json
ok check.no_gpu_is_unbound sh -c '! grep gpu.driver /tmp/names.before'
param=/sys/module/vfio/parameters/enable_unsafe_noiommu_mode
[ ! -e $param ] ||
	ok check.noiommu seeded iommu.noiommu 'echo N >' "echo Y > $param" "echo N > $param"
vm=/proc/sys/vm/memory_failure_recovery
ok check.memory_failure seeded mm.memory_failure 'sysctl -w' "echo 0 > $vm" "echo 1 > $vm"
thp=/sys/kernel/mm/transparent_hugepage/enabled
ok check.huge_pages seeded mm.huge_pages 'echo madvise' "echo never > $thp" "echo madvise > $thp"
ok check.reset_off seeded gpu.reset 'echo default' \
	"echo > $dev/$A/reset_method" "echo default > $dev/$A/reset_method"
ok check.override seeded gpu.override 'echo nvgrace_gpu >' \
	"echo vfio-pci > $dev/$A/driver_override" "echo nvgrace_gpu > $dev/$A/driver_override"
ok check.unbound seeded gpu.driver "nvgrace-gpu bind $A" \
	"echo $A > /sys/bus/pci/drivers/nvgrace_gpu/unbind" \
	"echo $A > /sys/bus/pci/drivers/nvgrace_gpu/bind"
ok check.alias seeded module.alias depmod \
	"sed -i /nvgrace_gpu/d /lib/modules/$release/modules.alias" /usr/sbin/depmod
kvm='mv /dev/kvm /dev/kvm.gone'
ok check.no_kvm seeded kvm.device 'dmesg | grep -i kvm' "$kvm" 'mv /dev/kvm.gone /dev/kvm'
ok check.gone seeded gpu.present 'echo 1 >' \
	"echo 1 > /sys/kernel/debug/gpu_standin/$B/gone" \
	"echo 0 > /sys/kernel/debug/gpu_standin/$B/gone"
ok check.all_is_as_before all_is_as_before

ok qemu_args.hopper_and_blackwell refused 'no machine has both' tool qemu-args "$A" "$C"
ok qemu_args.smmu smmu_is_refused
ok qemu_args.as_user user_qemu_args
nested qemu_args.one_gpu started 1 1-8 "$A"
# Debian's kernels take 16 nodes.
nested qemu_args.two_gpus started 2 1-14 --initiators 7 "$A" "$B"
nested qemu_args.container started 1 1-2 --container --initiators 2 "$C"
nested qemu_args.disk started_with_disk
ok qemu_args.libvirt libvirt
ok report.as_root report
ok unbind.all tool unbind

ok persist.written persists
ok persist.module_first as_at_boot module
ok persist.override_first as_at_boot override
ok persist.removed rule_goes
udevadm control --exit
ok unload rmmod nvgrace_gpu
ok log log_is_clean 'error -ENOLINK: BAR0\+0x1498 \(C2C link\) reads 0x5, a failure code: .*' \
	'probe with driver nvgrace_gpu failed with error -67' \
	'All device reset methods disabled by user'
finish
