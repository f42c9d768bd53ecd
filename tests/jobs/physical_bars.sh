# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# A physical BAR2 of 4 GiB and a BAR4 of 32 MiB under the emulated ones, as a GH200 has them
# larger still, in both BAR layouts: what VFIO shows, and a guest.
#
#| part | make check | make check-all adds | scripts/rig run
#| physical-bars | newest | 6.12 6.12-patched | --kernel-args=iomem=relaxed
#| | | | --gpu=hopper,bar2=4G,bar4=32M:0x70000000000:1536M
#| | | | --gpu=blackwell,bar2=4G,bar4=32M:0x71000000000:1536M
# shellcheck disable=SC1091
. /lib.sh

export BDF REGIONS RESET DVSEC PHYSICAL=0x100000000:0x2000000
take_log > /dev/null
for bar in 2 4; do
	ok "load.usemem_bar_$bar" insmod /modules/nvgrace_gpu.ko usemem_bar=$bar
	bind_gpus usemem_bar_$bar
	BDF=$(bdf_of GP00) RESET=flr DVSEC=0
	REGIONS="$bar:$((GIB / 2)):$((GIB / 2)) $((6 - bar)):$GIB:$GIB"
	nested "hopper.usemem_bar_$bar" standin
	# shellcheck disable=SC2046
	nested "guest.usemem_bar_$bar" guest /guest.cpio $(vfio_args "$BDF") \
		-append "$(guest_append TEST=bars)"
	BDF=$(bdf_of GP01) RESET=bus DVSEC=1
	REGIONS="4:$((GIB + GIB / 2)):$((2 * GIB)) 2:$((4 * GIB)):$((4 * GIB))"
	nested "blackwell.usemem_bar_$bar" standin
	ok "unload.usemem_bar_$bar" rmmod nvgrace_gpu
done
ok log log_is_clean
finish
