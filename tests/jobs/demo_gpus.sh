# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# All GPUs of a host in one guest, on one screen: a driver like NVIDIA's onlines their memory there,
# on NUMA nodes of each GPU. It is the demo of hosts with several GPUs.
# shellcheck disable=SC1091
. /lib.sh

now() { cut -d' ' -f1 /proc/uptime; }
took() { printf '%-8s %-84s %5.1f s\n' "$1" "$2" "$(echo "$(now) - $start" | bc)"; }
more() { while IFS= read -r line; do printf '         %s\n' "$line"; done; }
fail() {
	echo "$*"
	dmesg | tail -n 20
	exit 1
}

start=0 count=$(echo "$GPUS" | wc -w)
took host "$HOST, Linux $(uname -r): $count GPUs, each behind a host bridge of its own"

start=$(now)
take_log > /dev/null
insmod /modules/nvgrace_gpu.ko usemem_bar=4 || fail "the module does not load"
for gpu in $GPUS; do
	bind_gpu "$(bdf_of "$gpu")" nvgrace_gpu || fail "$gpu does not bind"
done
took driver "nvgrace_gpu has all of them"
dmesg | sed -n 's/.*nvgrace_gpu \([0-9a-f:.]*: [a-z]*mem \[.*\)/\1/p' | more
usemem=$(dmesg | sed -n 's/.*usemem .* backed \(0x[0-9a-f]*\) .*/\1/p' | tail -n 1)

# A Linux with CONFIG_NODES_SHIFT=4 has 16 nodes, and the guest's own memory is on one.
per_gpu=$(((16 - 1) / count))
[ $per_gpu -le 8 ] || per_gpu=8
start=$(now)
# shellcheck disable=SC2046
python3 /bin/nvgrace-gpu qemu-args --smp 2 --memory 1G --initiators $per_gpu -- -kernel /Image \
	-initrd /guest.cpio $(guest_ports) \
	-append "$(guest_append "TEST=nvidia GPUS=$count USEMEM=$((usemem))")" \
	> /tmp/guest.sh 2> /tmp/notes || fail "$(cat /tmp/notes)"
more << END
nvgrace-gpu qemu-args prints QEMU's command line: $(wc -l < /tmp/guest.sh) lines,
$per_gpu NUMA nodes for each GPU. NVIDIA's driver uses 8 with MIG, and this guest's kernel has 16.
Starting it takes minutes under emulation ...
END
sed -i 's/^qemu-system/exec &/' /tmp/guest.sh
GUEST_TIMEOUT=1800 run_guest sh /tmp/guest.sh > /tmp/guest.ktap ||
	{ cat /tmp/guest.ktap; fail "the guest failed"; }
took guest "a driver like NVIDIA's found the memory of $count GPUs, and added a block for each node"
sed -n 's/^# \([0-9a-f:.]*: coherent memory.*\)/\1/p' /tmp/guest.ktap | more
grep -c '^ok .* workload' /tmp/guest.ktap |
	sed 's/$/ workloads, each bound to a node: data and code in its memory alone/' | more

rmmod nvgrace_gpu || fail "the module does not unload"
log_is_clean > /tmp/log || { cat /tmp/log; exit 1; }
echo "the module is unloaded; the kernel log has no warning" | more
