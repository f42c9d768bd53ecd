# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# A guest whose driver finds the coherent memory as NVIDIA's does, and onlines it on the NUMA nodes
# of each GPU: with both layouts of BARs, and without nodes.
#
#| part | make check | make check-all adds | scripts/rig run
#| nvidia-guest | | newest newest-debug | --host=gh200:3G
#| nvidia-guest-nvl4 | | newest | --host=gb200-nvl4:3G
# shellcheck disable=SC1091
. /lib.sh

tool() { python3 /bin/nvgrace-gpu "$@"; }

# in_guest INITIATORS SETTINGS OPTIONS...: a guest that qemu-args prints, with all GPUs.
in_guest() {
	initiators=$1 append=$(guest_append "TEST=nvidia GPUS=$(echo "$GPUS" | wc -w)" "$2")
	shift 2
	# shellcheck disable=SC2046
	tool qemu-args --smp 2 --memory 1G --initiators "$initiators" "$@" -- -kernel /Image \
		-initrd /guest.cpio -append "$append" $(guest_ports) > /tmp/guest.sh || return 1
	sed -i 's/^qemu-system/exec &/' /tmp/guest.sh
	sed 's/^/# /' /tmp/guest.sh
	run_guest sh /tmp/guest.sh
}

# usemem_of GPU: its bytes, as the driver says.
usemem_of() {
	bytes=$(dmesg |
		sed -n "s/.*nvgrace_gpu $(bdf_of "$1"): usemem .* backed \(0x[0-9a-f]*\) .*/\1/p" |
		tail -n 1)
	echo $((bytes))
}

unpack_tool
take_log > /dev/null
ok load.usemem_bar_4 insmod /modules/nvgrace_gpu.ko usemem_bar=4
bind_gpus usemem_bar_4
usemem=$(usemem_of GP00)
# Debian's kernels take 16 nodes, and the guest's memory is on one or two.
case $HOST in gh200) nodes=8 ;; *) nodes=3 ;; esac
nested guest.usemem_bar_4 in_guest $nodes "USEMEM=$usemem"
if [ "$HOST" = gh200 ]; then
	nested guest.no_initiators in_guest 0 "USEMEM=$usemem REFUSED=no.node.has.it"
	ok unload rmmod nvgrace_gpu
	ok load.usemem_bar_2 insmod /modules/nvgrace_gpu.ko
	bind_gpus usemem_bar_2
	# There resmem is at BAR4.
	nested guest.usemem_bar_2 in_guest $nodes \
		"USEMEM=$usemem REFUSED=0x40000000.bytes.there" --layout=2
fi
ok unload_at_the_end rmmod nvgrace_gpu
ok log log_is_clean
finish
