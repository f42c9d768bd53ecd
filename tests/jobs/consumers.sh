# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# How tools of others tell that a GPU is ready for a guest, as their sources read in 2026: each
# reads sysfs and modules.alias in its own way, and so do the functions here. Both builds of the
# driver, ours and DROPIN=1. Where the kernel's own is to be there too, DROPIN=1 plays it: of that
# one only the module's name, its alias and its place count.
#
#| part | make check | make check-all adds | scripts/rig run
#| consumers | newest | 6.12 newest-debug | --dropin
#| | | | --gpu=hopper,bar2=4G:0x70000000000:94.5G
# shellcheck disable=SC1091
. /lib.sh

dev=/sys/bus/pci/devices
modules=/lib/modules/$(uname -r)

# The table of Documentation/trouble.rst, which scripts/check-docs compares with this one: the
# tool, the function below, and what it answers for nvgrace_gpu and for DROPIN=1.
cat > /tmp/tools << 'TABLE'
gpu-operator's validator|gpu_operator|no|yes
kubevirt-gpu-device-plugin|kubevirt_gpu_plugin|no|yes
Kata with OpenVMM|kata_openvmm|no|yes
tp-libvirt|tp_libvirt|no|yes
sandbox-device-plugin|sandbox_plugin|no|no
KubeVirt's PCI handler|kubevirt|no|no
DPDK|dpdk|no|no
SPDK|spdk|no|no
kata-device-provisioner|kata_provisioner|no|yes
libvirt (managed), go-nvlib|fewest_wildcards|yes|yes
pcilibs-rs, driverctl|first_alias|yes|yes
libvirt and the like, beside the kernel's own|fewest_wildcards_of_both|no|yes
Kata with OpenVMM, for the BAR|kata_bar|the physical BAR|the physical BAR
TABLE

driver_of() { basename "$(readlink "$dev/$1/driver")"; }
is_one_of() { for name; do [ "$driver" != "$name" ] || return 0; done; return 1; }

# ---- by the driver's name

# All functions of NVIDIA's that are displays or 3D controllers.
gpu_operator() {
	for d in "$dev"/*; do
		case $(cat "$d/vendor")$(cat "$d/class") in
		0x10de0x030[02]*) ;;
		*) continue ;;
		esac
		driver=$(driver_of "${d##*/}")
		is_one_of vfio-pci nvgrace_gpu_vfio_pci || return 1
		seen=1
	done
	[ -n "$seen" ]
}

# It hands out the group, so there has to be one.
kubevirt_gpu_plugin() {
	driver=$(driver_of "$BDF")
	[ "$(cat "$dev/$BDF/vendor")" = 0x10de ] && is_one_of vfio-pci nvgrace_gpu_vfio_pci &&
		[ -c "/dev/vfio/$(basename "$(readlink "$dev/$BDF/iommu_group")")" ]
}

# Each function of the group, except bridges.
kata_openvmm() {
	for d in "$dev/$BDF"/iommu_group/devices/*; do
		case $(cat "$d/class") in 0x0604*) continue ;; esac
		driver=$(basename "$(readlink -f "$d/driver")")
		is_one_of vfio-pci nvgrace_gpu_vfio_pci || return 1
	done
}

tp_libvirt() {
	driver=$(readlink -f "$dev/$BDF/driver")
	driver=${driver##*/}
	is_one_of vfio-pci nvgrace_gpu_vfio_pci
}

sandbox_plugin() { [ "$(driver_of "$BDF")" = vfio-pci ]; }
dpdk() { [ "$(driver_of "$BDF")" = vfio-pci ]; }
spdk() { [ -e "/sys/bus/pci/drivers/vfio-pci/$BDF" ]; }
kubevirt() {
	grep -q '^PCI_ID=10DE:' "$dev/$BDF/uevent" && [ "$(driver_of "$BDF")" = vfio-pci ]
}

kata_provisioner() { case $(driver_of "$BDF") in *vfio*) ;; *) return 1 ;; esac; }

# ---- by modules.alias: the module that the tool loads for the GPU, and then binds

# aliases: the modules whose vfio_pci: line is the GPU's, as "WILDCARDS MODULE", in file order.
aliases() {
	modalias=vfio_pci:$(cut -d : -f 2 "$dev/$BDF/modalias")
	grep '^alias vfio_pci:' "$modules/modules.alias" > /tmp/aliases
	while read -r _ pattern module; do
		# shellcheck disable=SC2254
		case $modalias in
		$pattern) echo "$(echo "$pattern" | tr -dc '*' | wc -c) $module" ;;
		esac
	done < /tmp/aliases
}

fewest_wildcards() { takes "$(aliases | sort -s -n -k 1,1 | sed -n '1s/.* //p')"; }
# vfio-pci's line matches every device, so it cannot be the first that counts.
first_alias() { takes "$(aliases | grep -v ' vfio_pci$' | sed -n '1s/.* //p')"; }
fewest_wildcards_of_both() {
	kernels_own=kernel/drivers/vfio/pci/nvgrace-gpu/nvgrace-gpu-vfio-pci.ko
	install_module nvgrace_gpu_vfio_pci $kernels_own
	fewest_wildcards
	both_rc=$?
	rm "$modules/$kernels_own"
	/usr/sbin/depmod
	return $both_rc
}

# takes MODULE: the tool loads it by name and binds the GPU, and ours has it then.
takes() {
	aliases
	/usr/sbin/modinfo -n "$1"
	case $(/usr/sbin/modinfo -n "$1") in */updates/*) ;; *) return 1 ;; esac
	unbind_gpu "$BDF"
	/usr/sbin/modprobe "$1" && echo "$1" > "$dev/$BDF/driver_override" &&
		echo "$BDF" > /sys/bus/pci/drivers_probe &&
		[ "$(driver_of "$BDF")" = "$1" ] && [ -e "$dev/$BDF/nvgrace_gpu/usemem_bar" ]
}

# ---- by the BARs: the largest line above 1 GiB

kata_bar() {
	largest=$GIB at=
	while read -r start end _; do
		[ $((end - start + 1)) -gt "$largest" ] || continue
		largest=$((end - start + 1)) at=$start
	done < "$dev/$BDF/resource"
	cat "$dev/$BDF/resource"
	[ $((at)) != $(($(cat "$dev/$BDF/nvgrace_gpu/usemem_base"))) ]
}

# ---- the builds

# install_module MODULE FILE: as an installed kernel has it; the kernel's own come first.
install_module() {
	mkdir -p "$modules/${2%/*}"
	cp "/modules/$1.ko" "$modules/$2"
	(cd "$modules" && find kernel -name '*.ko' | sort) > "$modules/modules.order"
	/usr/sbin/depmod
}

# answers FUNCTION ANSWER: it says yes, no, or where the BAR is.
answers() {
	seen=
	if "$1"; then answer=yes; else answer=no; fi
	echo "it says $answer"
	case $2 in
	'the physical BAR') [ $answer = yes ] ;;
	*) [ $answer = "$2" ] ;;
	esac
}

# build MODULE COLUMN: the column of the table.
build() {
	mkdir -p "$modules/kernel/drivers/vfio/pci"
	cp /modules/vfio*.ko "$modules/kernel/drivers/vfio/pci/"
	ok "$1.install" install_module "$1" "updates/$1.ko"
	ok "$1.load" /usr/sbin/modprobe "$1"
	ok "$1.bind" bind_gpu "$BDF" "$1"
	while IFS='|' read -r tool function answer dropin; do
		[ "$2" = 3 ] || answer=$dropin
		name=$(echo "$tool" | tr -d "',()" | tr ' ' _)
		ok "$1.$name" answers "$function" "$answer"
	done < /tmp/tools
}

# The nodes of a GPU that this build has, for group kvm, by the rule of the package.
group_kvm_opens_it() {
	mkdir -p /etc/udev/rules.d
	cp /nvgrace-gpu.rules /etc/udev/rules.d/61-nvgrace-gpu-vfio.rules
	echo 'kvm:x:104:' > /etc/group
	/usr/lib/systemd/systemd-udevd --daemon && udevadm trigger --action=add -s vfio &&
		udevadm settle -t 120
	ls -ln /dev/vfio
	[ "$(stat -c '%g %a' "/dev/vfio/$(basename "$(readlink "$dev/$BDF/iommu_group")")")" = \
		'104 660' ]
}

# The tool takes this build for ours: it binds by no --driver, and wants no other module.
tool_knows_it() {
	unbind_gpu "$BDF"
	python3 /bin/nvgrace-gpu bind "$BDF" && [ "$(driver_of "$BDF")" = "$1" ] || return 1
	python3 /bin/nvgrace-gpu check > /tmp/check
	grep -e module -e gpu.driver /tmp/check
	grep -q '^ok  *module\.loaded' /tmp/check && grep -q '^ok  *gpu.driver' /tmp/check &&
		! grep -e ' module\.' -e ' gpu.driver' /tmp/check | grep -v '^ok '
}

BDF=$(bdf_of GP00) RESET=flr
export BDF RESET REGIONS
few=
take_log > /dev/null
mount -t tmpfs tmpfs /usr/lib/modules

build nvgrace_gpu 3
ok nvgrace_gpu.usemem_bar [ "$(cat "$dev/$BDF/nvgrace_gpu/usemem_bar")" = 2 ]
ok nvgrace_gpu.unload rmmod nvgrace_gpu
rm -r "$modules"

build nvgrace_gpu_vfio_pci 4
ok dropin.usemem_bar [ "$(cat "$dev/$BDF/nvgrace_gpu/usemem_bar")" = 4 ]
REGIONS="4:$((93 * GIB + GIB / 2)):$((128 * GIB)) 2:$GIB:$GIB"
for region in usemem resmem; do
	for test in info one_byte_at_every_edge across_the_end_of_the_bar \
		mappings_and_files_agree; do
		few="$few -r region.type1_$region.$test"
	done
done
# shellcheck disable=SC2086
nested dropin.abi abi $few
ok dropin.tool_knows_it tool_knows_it nvgrace_gpu_vfio_pci
ok dropin.group_kvm_opens_it group_kvm_opens_it
ok dropin.unload rmmod nvgrace_gpu_vfio_pci
ok log log_is_clean
finish
