# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The project's main job, on one screen: it takes a GPU's memory from ACPI into a guest.
# shellcheck disable=SC1091
. /lib.sh

now() { cut -d' ' -f1 /proc/uptime; }
took() { printf '%-8s %-84s %5.1f s\n' "$1" "$2" "$(echo "$(now) - $start" | bc)"; }
more() { printf '         %s\n' "$*"; }
gib() { echo "scale=3; $(($1 / 1048576)) / 1024" | bc | sed 's/^\./0./; s/\.*0*$//'; }
fail() {
	echo "$*"
	dmesg | tail -n 20
	exit 1
}

start=0
took host "Linux $(uname -r) on an emulated Grace host, $(nproc) CPUs, UEFI, ACPI, SMMUv3, EL2"

# Under emulation this takes seconds.
qemu-system-aarch64 --version > /tmp/version &
start=$(now)
take_log > /dev/null
# shellcheck disable=SC2086
insmod /modules/nvgrace_gpu.ko $MODULE_ARGS || fail "the module does not load"
BDF=$(bdf_of "${GPUS%% *}")
bind_gpu "$BDF" nvgrace_gpu || fail "the GPU does not bind"
dev=/sys/bus/pci/devices/$BDF
took driver "nvgrace_gpu loaded; $BDF ($(cat "$dev/vendor"):$(cat "$dev/device")) bound to it"

# Take from the driver's messages: name, first and last byte, BAR, backed, BAR size.
dmesg | sed -n 's/.*: \([a-z]*mem\) \[mem \(0x[0-9a-f]*\)-\(0x[0-9a-f]*\)\] is BAR/\1 \2 \3 /p' |
	awk -F '[ ,;]+' '{ print $1, $2, $3, $4, $6, $8 }' > /tmp/regions
[ -s /tmp/regions ] || fail "the driver shows no usemem"
first=$(awk 'NR == 1 { print $2 }' /tmp/regions) last=$(awk 'END { print $3 }' /tmp/regions)
more "ACPI names coherent memory at $first-$last: $(gib $((last - first + 1))) GiB"
while read -r name first last bar backed size; do
	more "$name = BAR$bar  $first-$last  $(gib "$backed") GiB backed of $(gib "$size") GiB"
	REGIONS="${REGIONS:+$REGIONS }$bar:$((backed)):$((size))"
done < /tmp/regions
OTHER=resmem
if [ "$(wc -l < /tmp/regions)" = 1 ]; then
	# No carve-out: the GPU's own BAR2 is next to usemem.
	OTHER=BAR2
	read -r first last _ << END
$(sed -n 3p "$dev/resource")
END
	size=$((last - first + 1))
	more "no carve-out, as its DVSEC says: no resmem, and its physical BAR2 shows"
	more "BAR2 = $(printf '0x%x-0x%x' "$first" "$last")  $(gib "$size") GiB"
	REGIONS="$REGIONS 2:$size:$size"
fi
export BDF REGIONS OTHER
if [ -n "${EGM:-}" ]; then
	[ -c "/dev/$EGM" ] || fail "there is no /dev/$EGM"
	size=$(gib $(($(cat "/sys/class/egm/$EGM/egm_size"))))
	state=$(cat "/sys/class/egm/$EGM/state")
	more "/dev/$EGM = $size GiB of the socket's DRAM, set apart: $state"
fi

# QEMU has 512 GiB of address space for large BARs by default.
total=0 window=512
for r in $REGIONS; do total=$((total + ${r##*:})); done
while [ $((window << 30)) -lt $total ]; do window=$((window * 2)); done
export GUEST_MACHINE=",highmem-mmio-size=${window}G"

over=iommufd wait='' ram=''
[ -z "${EGM:-}" ] || {
	GUEST_MACHINE=$GUEST_MACHINE,memory-backend=egm
	ram="-object memory-backend-file,id=egm,mem-path=/dev/$EGM,share=on,size=512M,align=1G"
}
if [ -n "$ram" ] || ! has_iommufd; then
	over=container
	has DMA_BY_BLOCK ||
		wait="this kernel's container pins usemem page by page, which takes a minute"
fi
tests=bars usemem=${REGIONS%%:*}
if [ "$PFNMAP" = map ]; then
	tests=memory_types,bars
else
	device="usemem is Device memory in its guests, see Documentation/kernels.rst"
fi

wait
version=$(sed -n 's/ emulator version//p' /tmp/version | cut -d' ' -f1,2)
start=$(now)
more "starting $version -device vfio-pci,host=$BDF, over $over ...${wait:+ $wait}"
probes=$usemem:wb:unaligned,$usemem:wb:zva,$usemem:wb:lse
append=$(guest_append "TEST=$tests OTHER=$OTHER PROBES=$probes")
# The guest's verdict comes before QEMU's end. There the container unmaps usemem page by page, and
# has to look up each page twice: that is the larger part of the time for 94.5 GiB.
{
	until grep -qs '^# job exit' /tmp/guest.verdict; do sleep 0.2; done
	now > /tmp/verdict.at
} &
# iommufd does not take a guest's RAM in EGM.
device_args=$(vfio_args "$BDF")
[ -z "$ram" ] || device_args="-device vfio-pci,host=$BDF"
# shellcheck disable=SC2086
guest /guest.cpio -append "$append" $device_args $ram > /tmp/guest.ktap ||
	{ cat /tmp/guest.ktap; fail "the guest failed"; }
took guest "$version: the guest sees"
more "$(awk -v start="$start" -v verdict="$(cat /tmp/verdict.at)" -v end="$(now)" '
	/^# took:/ { took[$3] += $4 / 1000 }
	END {
		mapping = took["mapping"]; verify = took["verify"]
		printf "boot %.1f s, mapping %.1f s, verify %.1f s, unmapping %.1f s",
			verdict - start - mapping - verify, mapping, verify, end - verdict
	}' /tmp/guest.ktap)"
sed -n 's/^# //p' /tmp/guest.ktap | grep -E '^[0-9]|^ ' |
	while IFS= read -r line; do more "$line"; done
sed -n 's/^# \([a-zA-Z0-9]*\): \(.*places.*\)/\1: pattern written and verified at \2/p' \
	/tmp/guest.ktap | while IFS= read -r line; do more "$line"; done
grep '^ok.*all ones' /tmp/guest.ktap | sed 's/^ok [0-9]* //' |
	while IFS= read -r line; do more "$line"; done
[ -z "$ram" ] || more "its RAM: 512 MiB of /dev/$EGM, which is $(cat "/sys/class/egm/$EGM/state")"
more "${device:-usemem: Normal Write-Back: unaligned access, dc zva and atomics work}"

start=$(now)
for region in usemem $OTHER; do
	verify "$region" 67108864 > "/tmp/$region" || fail "the host sees something else in $region"
done
took host "through VFIO, with the guest gone, the same bytes:"
for region in usemem $OTHER; do more "$(cat "/tmp/$region")"; done

rmmod nvgrace_gpu || fail "the module does not unload"
log_is_clean > /tmp/log || { cat /tmp/log; exit 1; }
more "the module is unloaded; the kernel log has no warning"
