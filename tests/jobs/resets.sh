# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Each way that a GPU is reset, with a mapping held and four threads at work. The stand-in is a
# Blackwell with an ACPI method _RST, as firmware of Grace has one: all ways work on it. Debian's
# kernels have no EDR, by which such firmware reports errors: EDR_ONLY=1 runs the tests of it.
# SLOW=1 says that _RST takes 10 s, then 20 s, which is firmware's limit.
#
#| part | make check | make check-all adds | scripts/rig run
#| resets | newest | 6.12 6.12-patched | --gpu=blackwell,ats,rst,d3cold,edr:0x71000000000:1536M
#| resets-edr | 6.12-patched | newest-debug |
#| | | | --gpu=blackwell,ats,rst,d3cold,edr:0x71000000000:1536M --env=EDR_ONLY=1
#| resets-slow | | newest | --gpu=blackwell,rst:0x71000000000:1536M --env=SLOW=1
# shellcheck disable=SC1091
. /lib.sh

export BDF REGIONS RST_MS EDR ATTACH_FAILS
! has EDR || EDR=1
! has RESET_BLOCKS_DMA || ATTACH_FAILS=1
BDF=$(bdf_of GP00) REGIONS="4:$((GIB + GIB / 2)):$((2 * GIB)) 2:$GIB:$GIB"
take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko
bind_gpus
if [ -z "${SLOW:-}" ]; then
	# shellcheck disable=SC2086
	nested resets resets ${EDR_ONLY:+-r way.edr.comes_back -r meanwhile.threads_wait_for_edr}
else
	for RST_MS in 10000 20000; do
		nested "takes_${RST_MS}_ms" resets -r way.acpi_takes_long.comes_back
	done
fi
ok unload rmmod nvgrace_gpu
ok log log_is_clean 'config space read all ones for [0-9]* ms after a reset, and is restored now' \
	'a reset cost its config space, which the driver restores' \
	'ACPI _RST failed' 'All device reset methods disabled by user' \
	'Unable to change power state from D3cold to D0, device inaccessible' \
	'No device request channel registered, blocked until released by user' \
	'vfio_bar_restore: reset recovery - restoring BARs' \
	'(AER: )?PCIe Bus Error: .*' '  device \[10de:.*\] error status/mask=.*' \
	' *\[[ 0-9]*\] .*'
finish
