# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The package's module where the kernel loads signed modules only, as under secure boot; then by
# alias, with the kernel's own driver beside it, which DROPIN=1 plays. The key is in firmware's
# variable db, since a machine owner's key takes shim; firmware checks no signature here. Debian's
# kernels trust both kinds of keys for modules.
#
#| part | make check | make check-all adds | scripts/rig run
#| secure-boot | newest | 6.12 6.12-16k | --kernel-args=module.sig_enforce=1
#| | | | --dkms --dropin --gpu=hopper:0x70000000000:2560M
#| lockdown | | newest 6.12 | --kernel-args=lockdown=integrity
#| | | | --dkms --dropin --gpu=hopper:0x70000000000:2560M
# shellcheck disable=SC1091
. /lib.sh

dev=/sys/bus/pci/devices
modules=/lib/modules/$(uname -r)
tool() { python3 /bin/nvgrace-gpu "$@"; }
modprobe_kmod() { /usr/sbin/modprobe "$@"; }

# install_dkms FILE: the module of /dkms where DKMS puts it.
install_dkms() {
	mkdir -p "$modules/updates/dkms"
	cp "/dkms/$1.ko" "$modules/updates/dkms/nvgrace_gpu.ko"
	/usr/sbin/depmod
}

install_kernels_own() {
	mkdir -p "$modules/kernel/drivers/vfio/pci/nvgrace-gpu"
	cp /modules/vfio*.ko "$modules/kernel/drivers/vfio/pci/"
	cp /modules/nvgrace_gpu_vfio_pci.ko \
		"$modules/kernel/drivers/vfio/pci/nvgrace-gpu/nvgrace-gpu-vfio-pci.ko"
	(cd "$modules" && find kernel -name '*.ko') > "$modules/modules.order"
	/usr/sbin/depmod
}

# refused FILE WORDS LINE: modprobe's words, and the kernel's line.
refused() {
	install_dkms "$1"
	take_log > /dev/null
	! modprobe_kmod nvgrace_gpu > /tmp/out 2>&1 || return 1
	take_log > /tmp/refused
	cat /tmp/out /tmp/refused
	[ ! -e /sys/module/nvgrace_gpu ] && grep -qF "$2" /tmp/out && grep -qF "$3" /tmp/refused
}

# tool_says STATUS TEXT
tool_says() {
	tool check > /tmp/check
	grep -A 3 'module.signature' /tmp/check
	grep -q "^$1  *module.signature: .*$2" /tmp/check
}

signer_is_documented() {
	/usr/sbin/modinfo /dkms/enrolled.ko
	[ "$(/usr/sbin/modinfo -F signer /dkms/enrolled.ko)" = nvgrace_gpu ] &&
		[ -z "$(/usr/sbin/modinfo -F signer /dkms/unsigned.ko)" ]
}

# As libvirt and driverctl find it. All that have the alias are loaded, and none takes the GPU.
loads_by_alias() {
	modprobe_kmod "vfio_pci:$(cut -d : -f 2 "$dev/$BDF/modalias")" || return 1
	lsmod
	[ -e /sys/module/nvgrace_gpu ] && [ -e "/sys/module/$1" ] && [ ! -e "$dev/$BDF/driver" ]
}

# override_chooses DRIVER
override_chooses() {
	unbind_gpu "$BDF"
	echo "$1" > "$dev/$BDF/driver_override"
	echo "$BDF" > /sys/bus/pci/drivers_probe
	ls -l "$dev/$BDF/driver"
	[ "$(basename "$(readlink "$dev/$BDF/driver")")" = "$1" ]
}

removal_leaves_nothing() {
	unbind_gpu "$BDF"
	modprobe_kmod -r nvgrace_gpu && rm -r "$modules/updates/dkms" && /usr/sbin/depmod &&
		! grep nvgrace_gpu$ "$modules/modules.alias" &&
		! modprobe_kmod nvgrace_gpu && [ ! -e /sys/module/nvgrace_gpu ]
}

BDF=$(bdf_of GP00)
take_log > /tmp/boot
mount -t tmpfs tmpfs /usr/lib/modules
mount -t securityfs securityfs /sys/kernel/security
cat /sys/kernel/security/lockdown /sys/module/module/parameters/sig_enforce 2> /dev/null |
	sed 's/^/# /'
grep -e X.509 -e integrity: /tmp/boot | sed 's/^/# /'

# trouble.rst quotes these messages.
case $(cat /proc/cmdline) in
*sig_enforce*)
	words='Key was rejected by service'
	unsigned='Loading of unsigned module is rejected'
	unknown='Loading of module with unavailable key is rejected'
	;;
*)
	words='Operation not permitted'
	unsigned='unsigned module loading is restricted; see man kernel_lockdown.7'
	unknown=$unsigned
	;;
esac
ok signer_is_documented signer_is_documented
ok unsigned.is_refused refused unsigned "$words" "$unsigned"
ok unsigned.tool_says_so tool_says fix 'is not signed'
ok unknown_key.is_refused refused unknown "$words" "$unknown"
ok enrolled_key.install install_dkms enrolled
# mokutil knows no key of db, so the tool names the signer and cannot tell more.
ok enrolled_key.tool_says_so tool_says 'cannot tell' "is signed by 'nvgrace_gpu'"
ok enrolled_key.loads modprobe_kmod nvgrace_gpu
ok enrolled_key.unload modprobe_kmod -r nvgrace_gpu
ok kernels_own.install install_kernels_own
ok alias.loads_both loads_by_alias nvgrace_gpu_vfio_pci
ok override.chooses_ours override_chooses nvgrace_gpu
ok override.chooses_kernels_own override_chooses nvgrace_gpu_vfio_pci
ok override.chooses_ours_again override_chooses nvgrace_gpu
ok removal_leaves_nothing removal_leaves_nothing
ok log log_is_clean
finish
