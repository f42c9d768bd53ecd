# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Our driver and the kernel's own in turn, on one boot. ROUNDS says how often; every other round
# begins with the other driver. GP00 has 94.5 GiB and gets every row, GP01 to GP03 show what grows
# with the memory, and GP04 has EGM. COUNT=instructions counts those, and where they are spent.
# shellcheck disable=SC1091
. /lib.sh

# regions GPU: usemem at BAR4 and resmem at BAR2, as the kernel's driver has them.
regions() {
	case $1 in
	GP00) echo "4:$((93 * GIB + GIB / 2)):$((128 * GIB)) 2:$GIB:$GIB" ;;
	GP01 | GP04) echo "4:$GIB:$GIB 2:$GIB:$GIB" ;;
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
	[ "${COUNT:-} $3" != 'instructions all' ] || bench profile || return 1
	unbind_gpu "$BDF"
}

# rows_of TEST GPU DRIVER COMMAND...: the rows that the command prints, of this GPU and driver.
rows_of() {
	row_test=$1 label="s/^row /# row $2 $3 /p; s/^profile /# profile $3 /p"
	shift 3
	ok "$row_test" "$@"
	sed -n "$label" /tmp/ok.log
}

# start MACHINE [QEMU ARGUMENTS]: print how long a guest with the GPU takes to boot and power off.
start() {
	GUEST_MACHINE=$1
	shift
	began=$(cut -d ' ' -f 1 /proc/uptime)
	guest /guest.cpio -device "vfio-pci,host=$BDF" "$@" \
		-append "$(guest_append TEST=true)" || return 1
	ended=$(cut -d ' ' -f 1 /proc/uptime)
	echo "row vm_start $(awk "BEGIN { printf \"%.0f\", ($ended - $began) * 1e9 }")"
}

export COUNT
insmod /modules/nvgrace_gpu.ko usemem_bar=4
insmod /modules/nvgrace-gpu-vfio-pci.ko
round=0
while [ "$round" -lt "${ROUNDS:-3}" ]; do
	drivers='nvgrace_gpu nvgrace_gpu_vfio_pci'
	[ $((round % 2)) = 0 ] || drivers='nvgrace_gpu_vfio_pci nvgrace_gpu'
	for gpu in $GPUS; do
		[ "$gpu" != GP04 ] || continue
		rows=growth
		[ "$gpu" != GP00 ] || rows=all
		for driver in $drivers; do
			rows_of "round_$round.$gpu.$driver" "$gpu" "$driver" \
				measure "$driver" "$gpu" $rows
		done
	done
	round=$((round + 1))
done

# Zeroes for the owner: with scrub=1, and without. GP02 has as much memory as the machine can spare.
if [ "${COUNT:-}" != instructions ]; then
	rmmod nvgrace_gpu
	insmod /modules/nvgrace_gpu.ko usemem_bar=4 scrub=1
	# The emulated machine gets its memory from this one when it writes to it first.
	ok zeroes.first measure nvgrace_gpu GP02 zeroes
	for round in $(seq "${ROUNDS:-3}"); do
		for driver in nvgrace_gpu nvgrace_gpu_vfio_pci; do
			rows_of "zeroes_$round.$driver" GP02 $driver \
				measure $driver GP02 zeroes
		done
	done
	# GP04 has EGM, which would keep the CPUs busy while the others are measured: zeroes by the
	# driver, and by the owner, in place of the kernel's driver.
	BDF=$(bdf_of GP04) REGIONS=$(regions GP04)
	export BDF REGIONS
	ok egm.bind bind_gpu "$BDF" nvgrace_gpu
	for round in $(seq "${ROUNDS:-3}"); do
		rows_of "egm_$round.driver" GP04 nvgrace_gpu bench egm
		rows_of "egm_$round.owner" GP04 nvgrace_gpu_vfio_pci bench egm-memset
	done
	# A guest with its RAM in EGM, then one with the host's RAM, in place of the kernel's
	# driver. Older containers map the GPU's memory page by page, which takes minutes.
	egm=memory-backend-file,id=egm,mem-path=/dev/egm4,share=on,size=512M,align=1G
	for round in $(! has DMA_BY_BLOCK || seq "${ROUNDS:-3}"); do
		rows_of "start_$round.egm" GP04 nvgrace_gpu \
			start ,memory-backend=egm -object $egm
		rows_of "start_$round.ram" GP04 nvgrace_gpu_vfio_pci start ''
	done
	unbind_gpu "$BDF"
fi
finish
