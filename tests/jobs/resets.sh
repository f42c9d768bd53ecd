# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Each way that a GPU is reset, with a mapping held and four threads at work. The stand-in is a
# Blackwell with an ACPI method _RST, as firmware of Grace has one: all ways work on it. SLOW=1 says
# that _RST takes 10 s, then 20 s, which is firmware's limit.
#
#| part | make check | make check-all adds | scripts/rig run
#| resets | newest | 6.12 | --gpu=blackwell,rst:0x71000000000:1536M
#| resets-slow | | newest | --gpu=blackwell,rst:0x71000000000:1536M --env=SLOW=1
# shellcheck disable=SC1091
. /lib.sh

export BDF REGIONS RST_MS
BDF=$(bdf_of GP00) REGIONS="4:$((GIB + GIB / 2)):$((2 * GIB)) 2:$GIB:$GIB"
take_log > /dev/null
ok load insmod /modules/nvgrace_gpu.ko
bind_gpus
if [ -z "${SLOW:-}" ]; then
	nested resets resets
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
