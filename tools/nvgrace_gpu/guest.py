# SPDX-License-Identifier: GPL-2.0-only
"""The command qemu-args: a guest for GPUs, as QEMU's command line or libvirt's XML."""

import re
import sys

from .checks.gpu import check_group
from .cures import configure
from .gpu import COHERENT_DRIVERS, choose_gpus, refuse_if_in_use
from .host import KVM_CAP_ARM_VM_IPA_SIZE, Refused, Unknown
from .sizes import GIB, human, power_of_two, qemu_size, round_up

FIRMWARE = ("/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "/usr/share/AAVMF/AAVMF_CODE.fd",
            "/usr/share/edk2/aarch64/QEMU_EFI-silent-pflash.raw",
            "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw")
MAX_NODES = 128
# CONFIG_NODES_SHIFT=4 allows so many; arm64's defconfig and Debian have it. Beyond it the guest's
# kernel says "ACPI: SRAT: Too many proximity domains" and leaves the last nodes out.
USUAL_NODES = 16


def mmio_window(gpus_bars):
    """The power of two that the BARs fit in, each GPU behind a root port of its own.

    Firmware and Linux align the window of a port to its largest BAR, so that ports of 130 GiB
    can be 256 GiB apart.
    """
    at = 0
    for bars in sorted(gpus_bars, key=max, reverse=True):
        at = round_up(at, power_of_two(max(bars))) + round_up(sum(bars), 1 << 20)
    return max(512 * GIB, power_of_two(at))


class Guest:
    """The parts of a command line, checked."""

    def __init__(self, host, gpus, options):
        self.host, self.gpus, self.options = host, gpus, options
        self.bars, self.emulated = {}, {}
        self.check_gpus()
        self.iommufd = host.has_iommufd() and all("cdev" in g.nodes() for g in gpus)
        if options.container:
            self.iommufd = False
        self.window = mmio_window([list(b.values()) for b in self.bars.values()])
        self.nodes = self.host_nodes()
        self.check_numbers()
        self.check_smmu()

    def check_gpus(self):
        families = {}
        for gpu in self.gpus:
            if gpu.driver not in COHERENT_DRIVERS:
                raise Refused("%s is bound to %s, so VFIO shows no usemem: nvgrace-gpu bind %s" %
                              (gpu, gpu.driver or "no driver", gpu))
            result = check_group(self.host, gpu, self.options)
            if result.status != "ok":
                raise Refused("%s: %s" % (gpu, result.text))
            try:
                self.bars[gpu], self.emulated[gpu] = gpu.bars()
            except (Unknown, OSError) as e:
                raise Refused("%s: the sizes of its BARs cannot be told: %s" %
                              (gpu, self.host.error_text(e))) from None
            if not self.bars[gpu]:
                raise Refused("%s has no BARs" % gpu)
            families.setdefault("Hopper" if gpu.hopper else "Blackwell", gpu)
            refuse_if_in_use(gpu)
        if len(families) > 1:
            raise Refused("%s is a Hopper and %s a Blackwell: no machine has both, and NVIDIA's "
                          "guest driver does not expect them" %
                          (families["Hopper"], families["Blackwell"]))
        coherent = [gpu for gpu in self.gpus if self.emulated[gpu]]
        if coherent and len(coherent) != len(self.gpus):
            plain = [gpu for gpu in self.gpus if not self.emulated[gpu]]
            raise Refused("%s serves coherent memory and %s does not: give them to guests of "
                          "their own" % (coherent[0], plain[0]))
        drivers = {gpu.driver for gpu in self.gpus}
        if len(drivers) > 1:
            raise Refused("the GPUs are bound to %s: their layouts may differ; nvgrace-gpu bind" %
                          " and ".join(sorted(drivers)))

    def host_nodes(self):
        """The host's NUMA nodes of the GPUs, one guest node for each; [None] for one."""
        nodes = sorted({gpu.numa_node for gpu in self.gpus} - {-1})
        if len({gpu.socket for gpu in self.gpus}) > 1 and len(nodes) < 2:
            raise Refused("the GPUs are at sockets %s, and the kernel does not say which NUMA "
                          "node each has: CONFIG_NUMA, and firmware's _PXM" % ", ".join(
                              str(s) for s in sorted({gpu.socket for gpu in self.gpus})))
        online = self.host.read_or("/sys/devices/system/node/has_cpu", "0")
        if len(nodes) < 2 and online.isdigit():
            return [None]    # a host with one node: nothing to bind to
        return nodes or [None]

    def check_numbers(self):
        options, sockets = self.options, len(self.nodes)
        if options.smp % sockets:
            raise Refused("--smp %d cannot be shared by %d sockets" % (options.smp, sockets))
        if options.memory % (sockets << 20):
            raise Refused("--memory %s cannot be shared by %d sockets" %
                          (qemu_size(options.memory), sockets))
        count = sockets + sum(self.initiators(gpu) for gpu in self.gpus)
        if count > MAX_NODES:
            raise Refused("%d NUMA nodes, and QEMU has %d: choose fewer by --initiators" %
                          (count, MAX_NODES))
        if count > USUAL_NODES:
            self.note("the guest has %d NUMA nodes, and a kernel with CONFIG_NODES_SHIFT=4 uses %d "
                      "of them: have a guest kernel with more, or choose fewer by --initiators" %
                      (count, USUAL_NODES))
        end = round_up(2 * GIB + round_up(options.memory, GIB), self.window) + self.window
        try:
            bits = self.host.kvm_cap(KVM_CAP_ARM_VM_IPA_SIZE, vm=False)
        except OSError as e:
            bits = None
            self.note("cannot tell how much address space a guest may have: " +
                      self.host.error_text(e))
        if bits and end > 1 << bits:
            raise Refused("a window of %s for the BARs ends at 0x%x, and this CPU gives guests %d "
                          "bits of address: pass fewer GPUs" % (human(self.window), end, bits))

    def check_smmu(self):
        if not self.options.smmu:
            return
        if not self.iommufd:
            raise Refused("--smmu needs iommufd, which %s" % (
                "--container rules out" if self.options.container else
                "this kernel does not have: " + configure("IOMMUFD", "VFIO_DEVICE_CDEV")))
        try:
            known = self.host.run("qemu-system-aarch64", "-device", "arm-smmuv3,help")
        except Unknown as e:
            if not self.host.program("qemu-system-aarch64"):
                self.note("cannot tell whether QEMU has an accelerated SMMU: %s" % e)
                return
            raise Refused("this QEMU has no arm-smmuv3 device: %s" % e) from None
        if not re.search(r"^\s*accel=", known, re.M):
            raise Refused("this QEMU has no arm-smmuv3 with accel=, which VFIO needs: use a "
                          "newer one (11.0)")

    @staticmethod
    def note(text):
        print("# " + text, file=sys.stderr)

    def initiators(self, gpu):
        return self.options.initiators if self.emulated[gpu] else 0

    def guest_node(self, gpu):
        return self.nodes.index(gpu.numa_node) if gpu.numa_node in self.nodes else 0

    def cpus(self, node):
        each_has = self.options.smp // len(self.nodes)
        first, last = node * each_has, (node + 1) * each_has - 1
        return "%d-%d" % (first, last) if first != last else str(first)

    def initiator_nodes(self):
        """{GPU: its nodes}, after those of the sockets."""
        node, nodes = len(self.nodes), {}
        for gpu in self.gpus:
            nodes[gpu] = range(node, node + self.initiators(gpu))
            node += self.initiators(gpu)
        return nodes

    def firmware(self):
        """UEFI for the guest: without ACPI it sees no generic initiators."""
        if self.options.firmware == "none":
            return None
        if self.options.firmware:
            return self.options.firmware
        for name in FIRMWARE:
            if self.host.exists(name):
                return name
        self.note("no UEFI firmware for guests is installed, and without ACPI NVIDIA's driver "
                  "finds no NUMA nodes for the GPU: apt-get install qemu-efi-aarch64")
        return None

    def warn_of_layout(self):
        for gpu in self.gpus:
            usemem = [r for r in self.regions(gpu) if r.name == "usemem"]
            if usemem and usemem[0].bar != self.options.layout:
                self.note("%s shows usemem at BAR%d; %s" % (
                    gpu, usemem[0].bar,
                    "NVIDIA's guest driver needs it at BAR4: nvgrace-gpu check has the commands"
                    if self.options.layout == 4 else "--layout=2 asks for BAR2"))

    def regions(self, gpu):
        try:
            return gpu.regions()
        except (Unknown, OSError):
            return []

    def command(self, more):
        """The command line, as groups of words, a line each."""
        options = self.options
        lines = [["qemu-system-aarch64", "-M",
                  "virt,gic-version=3,accel=kvm,highmem-mmio-size=" + qemu_size(self.window)]]
        smp = str(options.smp)
        if len(self.nodes) > 1:
            smp += ",sockets=%d,cores=%d,threads=1" % (len(self.nodes),
                                                       options.smp // len(self.nodes))
        lines.append(["-cpu", "host", "-smp", smp, "-m", qemu_size(options.memory)])
        for i, node in enumerate(self.nodes):
            ram = "memory-backend-ram,id=ram%d,size=%s" % (
                i, qemu_size(options.memory // len(self.nodes)))
            if node is not None:
                ram += ",host-nodes=%d,policy=bind" % node
            lines.append(["-object", ram, "-numa",
                          "node,nodeid=%d,cpus=%s,memdev=ram%d" % (i, self.cpus(i), i)])
        if self.iommufd:
            lines.append(["-object", "iommufd,id=iommufd0"])
        nodes = self.initiator_nodes()
        for i, gpu in enumerate(self.gpus):
            bus = "pcie.0"
            if options.smmu:
                bus = "pcie.%d" % (i + 1)
                lines.append(["-device", "pxb-pcie,id=%s,bus=pcie.0,bus_nr=%d,numa_node=%d" %
                              (bus, 8 * (i + 1), self.guest_node(gpu)), "-device",
                              "arm-smmuv3,id=smmu%d,primary-bus=%s,accel=on" % (i, bus)])
            lines.append(["-device", "pcie-root-port,id=port%d,bus=%s,chassis=%d" %
                          (i, bus, i + 1)])
            device = "vfio-pci-nohotplug,id=gpu%d,bus=port%d,host=%s,rombar=0" % (i, i, gpu)
            lines.append(["-device", device + (",iommufd=iommufd0" if self.iommufd else "")])
            for k, node in enumerate(nodes[gpu]):
                lines.append(["-numa", "node,nodeid=%d" % node, "-object",
                              "acpi-generic-initiator,id=gi%d.%d,pci-dev=gpu%d,node=%d" %
                              (i, k, i, node)])
        firmware = self.firmware()
        if firmware:
            lines.append(["-drive", "if=pflash,format=raw,readonly=on,file=" + firmware])
        if options.disk:
            kind = "qcow2" if options.disk.endswith(".qcow2") else "raw"
            lines.append(["-drive", "if=virtio,format=%s,file=%s" % (kind, options.disk)])
        if more:
            lines.append(more)
        else:
            lines.append(["-nographic"])
        return lines

    def libvirt(self):
        """The domain as XML. What libvirt has no element for goes to QEMU as it is."""
        options, iommufd = self.options, False
        if self.iommufd:
            schema = self.host.read_or("/usr/share/libvirt/schemas/domaincommon.rng", "")
            iommufd = 'name="iommufd"' in schema
            if not iommufd:
                self.note("this libvirt has no iommufd: the guest uses the container")
        out = ["<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>",
               "  <name>%s</name>" % options.name,
               "  <memory unit='MiB'>%d</memory>" % (options.memory >> 20),
               "  <vcpu>%d</vcpu>" % options.smp]
        if self.nodes != [None]:
            out.append("  <numatune>")
            out += ["    <memnode cellid='%d' mode='strict' nodeset='%d'/>" % (i, node)
                    for i, node in enumerate(self.nodes)]
            out.append("  </numatune>")
        out += ["  <os%s>" % ("" if options.firmware else " firmware='efi'"),
                "    <type arch='aarch64' machine='virt'>hvm</type>"]
        if options.firmware and options.firmware != "none":
            out.append("    <loader readonly='yes' type='pflash'>%s</loader>" % options.firmware)
        out += ["  </os>", "  <features><acpi/><gic version='3'/></features>",
                "  <cpu mode='host-passthrough'>"]
        if len(self.nodes) > 1:
            out.append("    <topology sockets='%d' cores='%d' threads='1'/>" %
                       (len(self.nodes), options.smp // len(self.nodes)))
        out.append("    <numa>")
        out += ["      <cell id='%d' cpus='%s' memory='%d' unit='MiB'/>" %
                (i, self.cpus(i), (options.memory >> 20) // len(self.nodes))
                for i in range(len(self.nodes))]
        out += ["    </numa>", "  </cpu>", "  <devices>",
                "    <emulator>/usr/bin/qemu-system-aarch64</emulator>",
                "    <controller type='pci' index='0' model='pcie-root'/>"]
        raw = ["-machine", "highmem-mmio-size=" + qemu_size(self.window)]
        nodes = self.initiator_nodes()
        for i, gpu in enumerate(self.gpus):
            domain, bus, slot, function = re.split("[:.]", gpu.bdf)
            out += ["    <controller type='pci' index='%d' model='pcie-root-port'/>" % (i + 1),
                    "    <hostdev mode='subsystem' type='pci' managed='no'>",
                    "      <driver name='vfio' model='%s'%s/>" %
                    (gpu.driver, " iommufd='yes'" if iommufd else ""),
                    "      <source><address domain='0x%s' bus='0x%s' slot='0x%s' "
                    "function='0x%s'/></source>" % (domain, bus, slot, function),
                    "      <alias name='ua-gpu%d'/>" % i,
                    "      <rom bar='off'/>",
                    "      <address type='pci' domain='0x0000' bus='0x%02x' slot='0x00' "
                    "function='0x0'/>" % (i + 1),
                    "    </hostdev>"]
            for k, node in enumerate(nodes[gpu]):
                raw += ["-numa", "node,nodeid=%d" % node, "-object",
                        "acpi-generic-initiator,id=gi%d.%d,pci-dev=ua-gpu%d,node=%d" %
                        (i, k, i, node)]
        if options.disk:
            kind = "qcow2" if options.disk.endswith(".qcow2") else "raw"
            out += ["    <disk type='file' device='disk'>",
                    "      <driver name='qemu' type='%s'/><source file='%s'/>" %
                    (kind, options.disk),
                    "      <target dev='vda' bus='virtio'/>", "    </disk>"]
        out += ["    <console type='pty'/>", "  </devices>", "  <qemu:commandline>"]
        out += ["    <qemu:arg value='%s'/>" % word for word in raw]
        out += ["  </qemu:commandline>", "</domain>"]
        return "\n".join(out)


def quote(word):
    """A word for the shell; where nothing asks for quotes, without."""
    if re.fullmatch(r"[\w@%+=:,./-]+", word, re.A):
        return word
    return "'" + word.replace("'", "'\\''") + "'"


def cmd_qemu_args(host, options):
    guest = Guest(host, choose_gpus(host, options.gpus, options.any_id), options)
    guest.warn_of_layout()
    if options.libvirt:
        if options.more or options.smmu:
            raise Refused("--libvirt takes neither --smmu nor arguments for QEMU")
        print(guest.libvirt())
        return 0
    lines = guest.command(options.more)
    print(" \\\n  ".join(" ".join(map(quote, words)) for words in lines))
    return 0
