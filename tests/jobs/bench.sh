# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Our driver and the kernel's own in turn, on one boot. ROUNDS says how often; every other round
# begins with the other driver. GP00 has 94.5 GiB and gets every row, the others show what
# grows with the memory. COUNT=instructions counts those, and where they are spent.
# shellcheck disable=SC1091
. /lib.sh


# regions GPU: usemem at BAR4 and resmem at BAR2, as the kernel's driver has them.
regions() {
	case $1 in
	GP00) echo "4:$((93 * GIB + GIB / 2)):$((128 * GIB)) 2:$GIB:$GIB" ;;
	GP01) echo "4:$GIB:$GIB 2:$GIB:$GIB" ;;
	GP02) echo "4:$((8 * GIB)):$((8 * GIB)) 2:$GIB:$GIB" ;;
	GP03) echo "4:$((480 * GIB)):$((512 * GIB)) 2:$GIB:$GIB" ;;
	esac
}

# measure DRIVER GPU ROWS
measure() {
	BDF=$(bdf_of "$2") REGIONS=$(regions "$2")
	export BDF REGIONS
	bind_gpu "$BDF" "$1" || return 1
	bench "$3" || return 1
	[ "${COUNT:-}" != instructions ] || bench profile || return 1
	unbind_gpu "$BDF"
}

export COUNT
insmod /modules/nvgrace_gpu.ko usemem_bar=4
insmod /modules/nvgrace-gpu-vfio-pci.ko
round=0
while [ "$round" -lt "${ROUNDS:-3}" ]; do
	drivers='nvgrace_gpu nvgrace_gpu_vfio_pci'
	[ $((round % 2)) = 0 ] || drivers='nvgrace_gpu_vfio_pci nvgrace_gpu'
	for gpu in $GPUS; do
		rows=growth
		[ "$gpu" != GP00 ] || rows=all
		for driver in $drivers; do
			ok "round_$round.$gpu.$driver" measure "$driver" "$gpu" $rows
			sed -n "s/^row /# row $gpu $driver /p; s/^profile /# profile $driver /p" \
				/tmp/ok.log
		done
	done
	round=$((round + 1))
done
finish
