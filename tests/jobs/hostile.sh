# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Hostile firmware, generated: what tests/rig/hostile makes up is refused or served as its table
# says, while a VFIO user works with another GPU.
#
#| part | make check | make check-all adds | scripts/rig run
#| hostile | newest | 6.12 6.12-patched newest-debug 6.12-16k | --hostile
#| | | | --gpu=hopper:0x70000000000:1536M --gpu=hopper:0:0:-:-
#| | | | --gpu=blackwell:0:0:-:- --gpu=small-bar0:0:0:0x30000000000:0x60000000
#| | | | --gpu=io-bar0:0:0:0x30000000000:0x60000000
#| | | | --gpu=no-bar0:0:0:0x30000000000:0x60000000 --egm=0x60000000000:1G
#| | | | --kernel-args=kmemleak=on
# shellcheck disable=SC1091
. /lib.sh

DEBUG=/sys/kernel/debug

# alone GPU: no driver has it, and ours may.
alone() {
	unbind_gpu "$1"
	say_ready "$1"
	echo nvgrace_gpu > "/sys/bus/pci/devices/$1/driver_override"
}

# The table of ACPI is too large for the kernel to take from the initrd. It is there when its
# last device is.
load_table() {
	dd if=/hostile.aml of=$DEBUG/gpu_standin/ssdt bs=4M || return 1
	last=$(cut -d '|' -f 3 /hostile | sort | tail -n 1)
	soon knob "$GPU_H" companion "$last" && knob "$GPU_H" companion ''
}

BDF=$(bdf_of GP00) GPU_H=$(bdf_of GP01) GPU_B=$(bdf_of GP02)
GPU_S=$(bdf_of GP03) GPU_I=$(bdf_of GP04) GPU_N=$(bdf_of GP05)
export BDF GPU_H GPU_B GPU_S GPU_I GPU_N VARIANTS=/hostile
ok load_table load_table
ok load insmod /modules/nvgrace_gpu.ko
ok bind bind_gpu "$BDF" nvgrace_gpu
for gpu in "$GPU_H" "$GPU_B" "$GPU_S" "$GPU_I" "$GPU_N"; do alone "$gpu"; done
forget_leaks
take_log > /dev/null
REGIONS="2:$((GIB / 2)):$((GIB / 2)) 4:$GIB:$GIB" nested hostile hostile
ok_no_leaks
# The program has read each line of the driver.
ok log log_is_clean '.*'
ok unload rmmod nvgrace_gpu
ok nothing_is_claimed_any_more test "$(claims)" = 0
finish
