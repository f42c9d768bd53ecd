# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# Four GPUs that module nvidia has, which behaves like NVIDIA's driver for the host: what keeps a
# GPU in use, what an unbind does then, and the memory that goes with the driver. Then how the tool
# takes a GPU from it.
#
#| part | make check | make check-all adds | scripts/rig run
#| nvidia | newest | 6.12 newest-debug | --programs=hold
#| | | | --gpu=hopper:0x70000000000:1536M
#| | | | --gpu=hopper:0x71000000000:1536M
#| | | | --gpu=blackwell:0x72000000000:1536M
#| | | | --gpu=blackwell:0x73000000000:1536M
# shellcheck disable=SC1091
. /lib.sh

dev=/sys/bus/pci/devices
proc=/proc/driver/nvidia

# ---- what there is to see

driver_of() { basename "$(readlink "$dev/$1/driver")"; }
bound_to() {
	ls -l "$dev/$1/driver"
	[ "$(driver_of "$1")" = "$2" ]
}
minor_of() { sed -n 's/^Device Minor:[ \t]*//p' "$proc/gpus/$1/information"; }
node_of() { echo "/dev/nvidia$(minor_of "$1")"; }

# base_of GPU: the first address of its memory, in hex.
base_of() {
	case $1 in
	"$A") echo 70000000000 ;;
	"$B") echo 71000000000 ;;
	"$C") echo 72000000000 ;;
	"$D") echo 73000000000 ;;
	esac
}
has_ram() { grep "^ *$(base_of "$1")-.*: System RAM (NVIDIA)" /proc/iomem; }

# count GPU FILE [VALUE]: read or write what debugfs has of a GPU.
count() {
	if [ $# = 2 ]; then
		cat "/sys/kernel/debug/nvidia/$1/$2"
	else
		echo "$3" > "/sys/kernel/debug/nvidia/$1/$2"
	fi
}
users() { [ "$(count "$1" users)" = "$2" ]; }
started() { [ -n "$(ls "$dev/$1/msi_irqs" 2> /dev/null)" ]; }

# shellcheck disable=SC2010 # busybox has no better way
no_process_has_a_node() { ! ls -l /proc/[0-9]*/fd | grep '/dev/nvidia'; }

# ---- users, and unbinding in a child

load_nvidia() {
	echo online_movable > /sys/devices/system/memory/auto_online_blocks &&
		insmod /modules/nvidia.ko || return 1
	for bdf in $A $B $C $D; do bound_to "$bdf" nvidia || return 1; done
}

# The driver does not make the nodes. nvidia-modprobe does, and they stay.
make_nodes() {
	for minor in 0 1 2 3; do mknod -m 666 /dev/nvidia$minor c 195 $minor || return 1; done
	mknod -m 666 /dev/nvidiactl c 195 255
}

# use GPU: a process, $user, has its node open, as one that runs CUDA.
use() {
	tail -f /dev/null < "$(node_of "$1")" &
	user=$!
	soon users "$1" 1
}
stop_user() {
	kill "$user"
	wait "$user" || :
	user=
}

bind_nvidia() { echo "$1" > /sys/bus/pci/drivers/nvidia/bind && bound_to "$1" nvidia; }

# unbind_in_child GPU: the child is $child.
unbind_in_child() {
	lines=$(dmesg | wc -l)
	sh -c "echo $1 > /sys/bus/pci/drivers/nvidia/unbind" &
	child=$!
}

# hangs GPU: the child is in remove, which waits. SIGKILL does not end it, and the GPU is still
# NVIDIA's, though the link to the driver is gone.
hangs() {
	soon logged "$lines" "NVRM: Attempting to remove device $1 with non-zero usage count!" ||
		return 1
	kill -KILL "$child"
	sleep 2
	soon grep "^State:.*D" "/proc/$child/status" && [ -e "$proc/gpus/$1" ] &&
		[ ! -e "$dev/$1/driver" ] && has_ram "$1"
}

# ends GPU: the child comes back, and nothing of the driver is left.
ends() {
	wait "$child" || :
	[ ! -e "$dev/$1/driver" ] && [ ! -e "$proc/gpus/$1" ] && ! has_ram "$1"
}

# ---- facts

looks_like_nvidias() {
	grep '^nvidia ' /proc/modules && grep '^195 nvidia$' /proc/devices &&
		grep '^NVRM version: .*Kernel Module.* [0-9]' $proc/version || return 1
	for bdf in $A $B $C $D; do
		cat "$proc/gpus/$bdf/information"
		grep "^Bus Location:.*$bdf$" "$proc/gpus/$bdf/information" || return 1
	done
}

# minors GPU...: they are 0, 1 and so on, in this order.
minors() {
	minor=0
	for bdf; do
		[ "$(minor_of "$bdf")" = $minor ] || return 1
		minor=$((minor + 1))
	done
}

# The lowest minor is for the GPU that comes first, and not for the lowest address.
minors_by_bind() {
	minors "$A" "$B" "$C" "$D" && unbind_gpu "$A" && unbind_gpu "$B" && bind_nvidia "$B" &&
		bind_nvidia "$A" && minors "$B" "$A" "$C" "$D"
}

memory_of_each() {
	for bdf in $A $B $C $D; do has_ram "$bdf" || return 1; done
}

# A memory block that is offline stays in the driver's range of System RAM. Only the driver takes
# the range away.
offline_leaves_the_range() {
	block=$((0x$(base_of "$A") / 0x$(cat /sys/devices/system/memory/block_size_bytes)))
	state=/sys/devices/system/memory/memory$block/state
	echo offline > $state && grep offline $state && has_ram "$A" && unbind_gpu "$A" &&
		! has_ram "$A" && bind_nvidia "$A" && has_ram "$A"
}

idle() {
	unbind_in_child "$A"
	ends "$A" && ! logged "$lines" NVRM && bind_nvidia "$A"
}

open_blocks_its_gpu_only() {
	use "$A" || return 1
	unbind_in_child "$B"
	ends "$B" && bind_nvidia "$B" || return 1
	started "$A" && ! started "$B" || return 1
	unbind_in_child "$A"
	hangs "$A" && started "$A" && stop_user && ends "$A" && bind_nvidia "$A"
}

# The last user stops the GPU.
open_starts_it() {
	! started "$A" && use "$A" && started "$A" && stop_user && users "$A" 0 && ! started "$A"
}

# nvidiactl keeps the module, and no GPU.
nvidiactl_uses_no_gpu() {
	tail -f /dev/null < /dev/nvidiactl &
	user=$!
	soon sh -c "readlink /proc/$user/fd/0 | grep nvidiactl" && ! rmmod nvidia || return 1
	unbind_in_child "$A"
	ends "$A" && stop_user && bind_nvidia "$A"
}

persistence_blocks() {
	count "$A" persistence 1
	started "$A" && no_process_has_a_node || return 1
	unbind_in_child "$A"
	hangs "$A" && count "$A" persistence 0 && ends "$A" && bind_nvidia "$A"
}

# A module keeps the module it uses, and only those GPUs that it asked for.
uvm_uses() {
	insmod /modules/nvidia_uvm.ko "gpus=$(minor_of "$A")" && users "$A" 1 &&
		started "$A" && [ -e /sys/module/nvidia/holders/nvidia_uvm ] && ! rmmod nvidia &&
		no_process_has_a_node || return 1
	unbind_in_child "$B"
	ends "$B" && bind_nvidia "$B" && rmmod nvidia_uvm && users "$A" 0
}

# The module gives back a GPU that is in removal. It comes too late, and remove waits on.
uvm_too_late() {
	insmod /modules/nvidia_uvm.ko "gpus=$(minor_of "$A")" || return 1
	unbind_in_child "$A"
	hangs "$A" && rmmod nvidia_uvm && hangs "$A" && users "$A" 0 && count "$A" lost 0 &&
		ends "$A" && bind_nvidia "$A"
}

# While a GPU is in removal no process can open it, and its next driver waits for the device lock.
stuck() {
	count "$A" lost 1
	! started "$A" || return 1
	node=$(node_of "$A")
	echo nvgrace_gpu > "$dev/$A/driver_override"
	unbind_in_child "$A"
	hangs "$A" && ! cat "$node" || return 1
	sh -c "echo $A > /sys/bus/pci/drivers/nvgrace_gpu/bind" &
	binder=$!
	sleep 2
	soon grep "^State:.*D" "/proc/$binder/status" && [ ! -e "$dev/$A/driver" ] || return 1
	count "$A" lost 0
	wait "$child" || :
	wait "$binder" && bound_to "$A" nvgrace_gpu && unbind_gpu "$A" &&
		echo > "$dev/$A/driver_override" && bind_nvidia "$A"
}

# 6.12 takes the device lock to read the override, so that a read of this file hangs, too.
stuck_override() {
	count "$A" lost 1
	unbind_in_child "$A"
	hangs "$A" || return 1
	cat "$dev/$A/driver_override" > /tmp/override &
	reader=$!
	sleep 2
	waits=
	! grep '^State:.*D' "/proc/$reader/status" || waits=1
	count "$A" lost 0
	wait "$reader" && ends "$A" && bind_nvidia "$A" || return 1
	case $(uname -r) in
	6.12.*) [ -n "$waits" ] ;;
	*) [ -z "$waits" ] ;;
	esac
}

# let_go: end what a test that failed has left in use, or the host could not power off.
let_go() {
	[ -z "$user" ] || kill "$user"
	rmmod nvidia_uvm
	for file in persistence lost; do
		for bdf in $A $B $C $D; do count "$bdf" $file 0; done
	done
	sleep 2
} > /dev/null 2>&1

nothing_is_left() {
	rmmod nvidia && [ ! -e $proc ] && ! grep NVIDIA /proc/iomem && ! grep nvidia /proc/devices
}

# ---- the tool takes GPUs

tool() { python3 /bin/nvgrace-gpu "$@"; }

# make_nvidia_smi: a command that shows and sets persistence mode. Like NVIDIA's, it opens the GPU.
make_nvidia_smi() {
	cat > /bin/nvidia-smi << 'EOF'
#!/bin/sh
gpus=$(ls /proc/driver/nvidia/gpus) mode='' query=''
while [ $# != 0 ]; do
	case $1 in
	-i) gpus=$2; shift ;;
	--id=*) gpus=${1#*=} ;;
	-pm) mode=$2; shift ;;
	--persistence-mode=*) mode=${1#*=} ;;
	--query-gpu=*) query=${1#*=} ;;
	--format=csv,noheader*) ;;
	*) echo "Invalid combination of input arguments: $1"; exit 2 ;;
	esac
	shift
done
for gpu in $gpus; do
	minor=$(sed -n 's/^Device Minor:[ \t]*//p' "/proc/driver/nvidia/gpus/$gpu/information")
	exec 3< "/dev/nvidia${minor:-none}" || { echo 'No devices were found'; exit 6; }
	file=/sys/kernel/debug/nvidia/$gpu/persistence
	[ -z "$mode" ] || echo "$mode" > "$file"
	row=
	for field in $(echo "$query" | tr , ' '); do
		case $field in
		persistence_mode) [ "$(cat "$file")" = 1 ] && value=Enabled || value=Disabled ;;
		pci.bus_id | gpu_bus_id) value=0000$(echo "$gpu" | tr a-f A-F) ;;
		index) value=$minor ;;
		*) echo "Field \"$field\" is not a valid field to query."; exit 2 ;;
		esac
		row=$row${row:+, }$value
	done
	[ -z "$row" ] || echo "$row"
done
EOF
	chmod +x /bin/nvidia-smi && [ "$(nvidia-smi -i "$B" --query-gpu=persistence_mode \
		--format=csv,noheader)" = Disabled ]
}

# says TEXT...: the output of the last command has each.
says() {
	cat /tmp/out
	for text; do grep -qF -e "$text" /tmp/out || return 1; done
}

# refused COMMAND...: it ends with 1, and no write was made to the GPU that it names last.
refused() {
	"$@" > /tmp/out 2>&1
	refused_rc=$?
	cat /tmp/out
	for bdf; do :; done
	[ $refused_rc = 1 ] && bound_to "$bdf" nvidia && no_override "$bdf" && has_ram "$bdf"
}
no_override() { [ "$(cat "$dev/$1/driver_override")" = '(null)' ]; }

# take GPU, give_back GPU: with all that comes and goes with it.
take() {
	tool bind "$1" && bound_to "$1" nvgrace_gpu && ! has_ram "$1" && [ ! -e "$proc/gpus/$1" ]
}
give_back() { tool unbind "$1" && bound_to "$1" nvidia && no_override "$1" && has_ram "$1"; }
take_and_give_back() { take "$1" && give_back "$1"; }

# checked GPU TEXT...: check names each text as a user of the GPU.
checked() {
	bdf=$1
	shift
	tool check --json > /tmp/check.json
	python3 - "$bdf" "$@" << 'EOF'
import json, sys
rows = [c for c in json.load(open("/tmp/check.json"))["checks"]
        if c["name"] == "gpu.users" and c["gpu"] == sys.argv[1]]
print(rows)
text = "\n".join(c["text"] + "\n" + "\n".join(c["cure"]) for c in rows)
sys.exit(not rows or any(t not in text for t in sys.argv[2:]))
EOF
}

tool_cuda_on_another() {
	use "$B" || return 1
	take_and_give_back "$A" && refused tool bind "$B" && says "$user" tail &&
		checked "$B" "$user" && stop_user && take_and_give_back "$B"
}

# A dry run warns, prints the writes and makes none.
tool_dry_run() {
	use "$B" || return 1
	tool bind -n "$B" > /tmp/out 2>&1 && says "$user" driver_override && bound_to "$B" nvidia &&
		no_override "$B"
	dry_rc=$?
	stop_user
	return $dry_rc
}

tool_waits() {
	use "$B" || return 1
	tool bind --wait "$B" > /tmp/out 2>&1 &
	tool=$!
	soon grep "$user" /tmp/out && bound_to "$B" nvidia || return 1
	stop_user
	wait $tool && bound_to "$B" nvgrace_gpu && give_back "$B"
}

# interruptible COMMAND...: Ctrl-C reaches it. A shell ignores that for what is in the background,
# so this replaces a shell that is there.
interruptible() {
	exec python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execvp(sys.argv[1], sys.argv[1:])' "$@"
}

tool_wait_is_interrupted() {
	use "$B" || return 1
	interruptible python3 /bin/nvgrace-gpu bind --wait "$B" > /tmp/out 2>&1 &
	tool=$!
	soon grep "$user" /tmp/out && kill -INT $tool || return 1
	wait $tool
	[ $? = 130 ] && bound_to "$B" nvidia && no_override "$B" && stop_user
}

tool_persistence_mode() {
	nvidia-smi -i "$A" -pm 1 && refused tool bind "$A" && says "nvidia-smi -i $A -pm 0" &&
		checked "$A" "nvidia-smi -i $A -pm 0" && nvidia-smi -i "$A" -pm 0 &&
		take_and_give_back "$A"
}

tool_persistenced() {
	printf '#!/usr/bin/python3\nimport signal\nsignal.pause()\n' > /tmp/nvidia-persistenced
	chmod +x /tmp/nvidia-persistenced
	/tmp/nvidia-persistenced < "$(node_of "$A")" &
	user=$!
	soon users "$A" 1 && refused tool bind "$A" && says "$user" nvidia-persiste &&
		checked "$A" "$user" nvidia-persiste && stop_user && take_and_give_back "$A"
}

tool_uvm() {
	insmod /modules/nvidia_uvm.ko "gpus=$(minor_of "$A")" || return 1
	take_and_give_back "$B" && refused tool bind "$A" && says nvidia_uvm &&
		checked "$A" nvidia_uvm && rmmod nvidia_uvm && take_and_give_back "$A"
}

# No file shows what keeps the GPU in use. The tool gives up and says what the kernel said. Asked
# again, it refuses.
tool_stuck() {
	count "$C" lost 1
	tool bind "$C" > /tmp/out 2>&1
	[ $? = 1 ] && says 'non-zero usage count' || return 1
	tool bind "$C" > /tmp/out 2>&1
	[ $? = 1 ] && says "$C" && released
}

# released: remove of C ends, nothing has changed the override, and the driver gets C back.
released() {
	count "$C" lost 0 && soon [ ! -e "$proc/gpus/$C" ] && no_override "$C" &&
		bind_nvidia "$C" && has_ram "$C"
}

# killed SIGNAL STATUS: the tool, while the unbind hangs.
killed() {
	count "$C" lost 1
	lines=$(dmesg | wc -l)
	interruptible python3 /bin/nvgrace-gpu bind "$C" > /tmp/out 2>&1 &
	tool=$!
	soon logged "$lines" 'non-zero usage count' || return 1
	kill "-$1" $tool
	wait $tool
	[ $? = "$2" ] && released && take_and_give_back "$C"
}

# Three of the four are bound, and the end says which.
tool_third_is_stuck() {
	count "$C" lost 1
	tool bind "$A" "$B" "$C" "$D" > /tmp/out 2>&1
	[ $? = 1 ] && says 'non-zero usage count' "$A" "$B" "$C" "$D" || return 1
	for bdf in $A $B $D; do bound_to "$bdf" nvgrace_gpu || return 1; done
	released && for bdf in $A $B $D; do give_back "$bdf" || return 1; done
}

tool_all_or_none() {
	count "$C" lost 1
	tool bind --all-or-none "$A" "$B" "$C" "$D" > /tmp/out 2>&1
	[ $? = 1 ] && says 'non-zero usage count' "$C" || return 1
	for bdf in $A $B $D; do
		bound_to "$bdf" nvidia && no_override "$bdf" && has_ram "$bdf" || return 1
	done
	released
}

# The tool sees that C is in use, and refuses before it takes any GPU.
tool_all_or_none_refuses_first() {
	use "$C" || return 1
	lines=$(dmesg | wc -l)
	refused tool bind --all-or-none "$A" "$B" "$D" "$C" && says "$user" &&
		! logged "$lines" NVRM && stop_user || return 1
	for bdf in $A $B $D; do bound_to "$bdf" nvidia && no_override "$bdf" || return 1; done
}

user=
A=$(bdf_of GP00) B=$(bdf_of GP01) C=$(bdf_of GP02) D=$(bdf_of GP03)
unpack_tool
take_log > /dev/null
ok load load_nvidia
ok make_nodes make_nodes
ok load.nvgrace_gpu insmod /modules/nvgrace_gpu.ko
ok looks_like_nvidias looks_like_nvidias
ok memory.of_each memory_of_each
ok memory.offline_leaves_the_range offline_leaves_the_range
ok idle idle
ok minors_by_bind minors_by_bind
ok open.starts_it open_starts_it
ok open.blocks_its_gpu_only open_blocks_its_gpu_only
ok open.nvidiactl_uses_no_gpu nvidiactl_uses_no_gpu
ok persistence_blocks persistence_blocks
ok uvm.uses uvm_uses
ok uvm.too_late uvm_too_late
ok stuck stuck
ok stuck.override stuck_override
ok tool.nvidia_smi make_nvidia_smi
ok tool.idle take_and_give_back "$A"
ok tool.cuda_on_another tool_cuda_on_another
ok tool.dry_run tool_dry_run
ok tool.waits tool_waits
ok tool.wait_is_interrupted tool_wait_is_interrupted
ok tool.persistence_mode tool_persistence_mode
ok tool.persistenced tool_persistenced
ok tool.uvm tool_uvm
ok tool.stuck tool_stuck
ok tool.interrupted killed INT 130
ok tool.terminated killed TERM 143
ok tool.killed killed KILL 137
ok tool.third_is_stuck tool_third_is_stuck
ok tool.all_or_none tool_all_or_none
ok tool.all_or_none_refuses_first tool_all_or_none_refuses_first
let_go
ok unload.nothing_is_left nothing_is_left
ok unload.nvgrace_gpu rmmod nvgrace_gpu
ok log log_is_clean
finish
