# SPDX-License-Identifier: GPL-2.0-only
"""The guest: its NUMA nodes, its PCI buses with SMMUs and GPUs, its memory and firmware."""

import collections
import os
import re

from ..checks.gpu import check_group
from ..cures import configure
from ..gpu import COHERENT_DRIVERS, refuse_if_in_use
from ..host import KVM_CAP_ARM_VM_IPA_SIZE, Refused, Unknown
from ..sizes import GIB, human, power_of_two, qemu_size, round_up
from . import egm, uefi
from .note import note

MAX_NODES = 128
# CONFIG_NODES_SHIFT=4 allows so many; arm64's defconfig and Debian have it. Beyond it the guest's
# kernel says "ACPI: SRAT: Too many proximity domains" and leaves the last nodes out.
USUAL_NODES = 16

# NUMA distances: of two sockets if the host does not say, of a GPU's nodes from each other, from
# the socket of the GPU, and from all else. KubeVirt's VEP 199 has these for Grace. The guest's
# kernel takes memory of a GPU last.
FAR_SOCKET, SAME_GPU, OWN_SOCKET, FAR = 40, 11, 80, 120

# The first bus number of a host bridge with an SMMU, and how many buses each has.
FIRST_BUS, BUSES = 32, 16

# The output address size in bits by IDR5.OAS, as the SMMU's specification has it.
OAS_BITS = (32, 36, 40, 42, 44, 48, 52, 56)

# Without --memory and --egm.
MEMORY = 64 * GIB

# A NUMA node of the guest; host_nodes is None or QEMU's and libvirt's list, such as 0-1. egm is
# the node in /dev of the EGM region that is its memory, or None.
Cell = collections.namedtuple("Cell", "cpus memory host_nodes egm")
# A host bridge with an SMMU. features is what QEMU does not choose by itself: {"ats": "on"}.
Smmu = collections.namedtuple("Smmu", "name bus_number cell features")
# A root port and its GPU: which SMMU, its number on that bus and whether others are there, the
# GPU's NUMA nodes, and properties of the link.
Port = collections.namedtuple("Port", "index gpu smmu function shared cells link")


def mmio_window(gpus_bars):
    """The power of two that the BARs fit in, each GPU behind a root port of its own.

    Firmware and Linux align the window of a port to its largest BAR, so that ports of 130 GiB
    can be 256 GiB apart.
    """
    at = 0
    for bars in sorted(gpus_bars, key=max, reverse=True):
        at = round_up(at, power_of_two(max(bars))) + round_up(sum(bars), 1 << 20)
    return max(512 * GIB, power_of_two(at))


def node_range(nodes):
    """Nodes as QEMU and libvirt write them; None for None."""
    if nodes is None:
        return None
    if len(nodes) > 1 and nodes == list(range(nodes[0], nodes[-1] + 1)):
        return "%d-%d" % (nodes[0], nodes[-1])
    return str(nodes[0])


class Guest:
    """A guest, checked against this host and its QEMU."""

    def __init__(self, host, gpus, options, qemu):
        self.host, self.gpus, self.options, self.qemu = host, gpus, options, qemu
        self.smp = options.smp
        if not options.name.strip() or re.search("[/\n]", options.name):
            raise Refused("a guest cannot have the name %a" % options.name)
        self.bars, self.emulated = {}, {}
        self.check_gpus()
        self.iommufd = not options.container and self.can_iommufd()
        if options.egm:
            egm.refuse_iommufd(self)
            egm.refuse_device_memory(host)
        self.window = mmio_window([list(b.values()) for b in self.bars.values()])
        self.home = {gpu: self.home_node(gpu) for gpu in gpus}
        host_nodes = self.nodes_of_sockets = self.host_nodes()
        self.egms = egm.regions(host, self, host_nodes) if options.egm else []
        self.memory = self.memory_size(len(host_nodes))
        self.sockets = self.make_sockets(host_nodes)
        self.socket_of = {gpu: next((i for i, nodes in enumerate(host_nodes)
                                     if nodes and self.home[gpu] in nodes), 0) for gpu in gpus}
        self.check_room()
        self.check_qemu()
        self.smmus = self.make_smmus() if options.smmu else []
        self.ports = self.make_ports()
        self.cells = self.sockets + [Cell(None, 0, None, None)
                                     for port in self.ports for _ in port.cells]
        self.owner = {node: port for port in self.ports for node in port.cells}
        self.uefi = self.firmware()
        self.disk = self.disk_format = self.variables = None
        if options.disk:
            self.disk = os.path.abspath(options.disk)
            self.disk_format = uefi.image_format(host, self.disk)
            self.variables = self.variables_file()

    def check_gpus(self):
        families = {}
        for gpu in self.gpus:
            if gpu.driver not in COHERENT_DRIVERS:
                raise Refused("%s is bound to %s, so VFIO shows no usemem: nvgrace-gpu bind %s" %
                              (gpu, gpu.driver or "no driver", gpu))
            result = check_group(self.host, gpu, self.options)
            if result.status != "ok":
                raise Refused("%s: %s" % (gpu, result.text))
            refuse_if_in_use(gpu)    # before VFIO opens it for the sizes, and thus resets it
            try:
                self.bars[gpu], self.emulated[gpu] = gpu.bars()
            except (Unknown, OSError) as e:
                raise Refused("%s: the sizes of its BARs are unknown: %s" %
                              (gpu, self.host.error_text(e))) from None
            if not self.bars[gpu]:
                raise Refused("%s has no BARs" % gpu)
            families.setdefault("Hopper" if gpu.hopper else "Blackwell", gpu)
        if len(families) > 1:
            raise Refused("%s is a Hopper and %s a Blackwell: no machine has both, and NVIDIA's "
                          "guest driver does not expect them" %
                          (families["Hopper"], families["Blackwell"]))
        coherent = [gpu for gpu in self.gpus if self.emulated[gpu]]
        if coherent and len(coherent) != len(self.gpus):
            plain = [gpu for gpu in self.gpus if not self.emulated[gpu]]
            raise Refused("%s serves coherent memory and %s does not: a guest can have one kind "
                          "only" % (coherent[0], plain[0]))
        drivers = {gpu.driver for gpu in self.gpus}
        if len(drivers) > 1:
            raise Refused("the GPUs are bound to %s: their layouts may differ; nvgrace-gpu bind" %
                          " and ".join(sorted(drivers)))

    def can_iommufd(self):
        return (self.host.has_iommufd() and all("cdev" in g.nodes() for g in self.gpus) and
                not self.qemu.lacks_object("iommufd"))

    def home_node(self, gpu):
        """The NUMA node with CPUs that is nearest to the GPU, -1 if the kernel does not say."""
        node, cpus = gpu.numa_node, self.host.node_list("has_cpu")
        if node == -1 or node in cpus or not cpus:
            return node
        distances = self.host.node_distances(node)
        near = [n for n in cpus if n in distances]
        if near:
            return min(near, key=distances.get)
        if len(cpus) == 1:
            return cpus[0]
        raise Refused("%s is at NUMA node %d, which has no CPUs, and the kernel does not say how "
                      "far it is from the nodes that have" % (gpu, node))

    def host_nodes(self):
        """The host's NUMA nodes for the memory of each node of the guest that has CPUs.

        None is any node. Where the host has memory in nodes without CPUs, which can be that of
        another GPU, the guest gets none of it.
        """
        nodes = sorted(set(self.home.values()) - {-1})
        if len({gpu.socket for gpu in self.gpus}) > 1 and len(nodes) < 2:
            raise Refused("the GPUs are at sockets %s, and the kernel does not say which NUMA "
                          "node each has: CONFIG_NUMA, and firmware's _PXM" % ", ".join(
                              str(s) for s in sorted({gpu.socket for gpu in self.gpus})))
        cpus, memory = self.host.node_list("has_cpu"), self.host.node_list("has_memory")
        if len(nodes) < 2 and len(cpus) < 2 and not set(memory) - set(cpus):
            return [None]    # a host with one node: nothing to bind to
        if nodes:
            return [[n] for n in nodes]
        return [cpus] if set(memory) - set(cpus) and cpus else [None]

    def cpus(self, socket, sockets):
        each_has = self.smp // sockets
        first, last = socket * each_has, (socket + 1) * each_has - 1
        return "%d-%d" % (first, last) if first != last else str(first)

    def memory_size(self, sockets):
        """All of the guest's memory, that each socket can have its share of."""
        if self.smp % sockets:
            raise Refused("--smp %d cannot be shared by %d sockets" % (self.smp, sockets))
        size = self.options.memory
        if self.egms and not size:
            return sum(egm.whole_sizes(self.egms, self.host.block_size))
        size = size or MEMORY
        if size % (sockets << 20):
            raise Refused("--memory %s cannot be shared by %d sockets" %
                          (qemu_size(size), sockets))
        if self.egms:
            egm.check_parts(self.egms, size // sockets, self.host.block_size)
        return size

    def make_sockets(self, host_nodes):
        """The guest's NUMA nodes with CPUs and memory. EGM is at its socket anyhow, and mbind() of
        it can crash old kernels, so it is bound to no node."""
        count = len(host_nodes)
        cpus = [self.cpus(i, count) for i in range(count)]
        if not self.egms:
            return [Cell(cpus[i], self.memory // count, node_range(nodes), None)
                    for i, nodes in enumerate(host_nodes)]
        sizes = [self.memory // count] * count if self.options.memory else \
            egm.whole_sizes(self.egms, self.host.block_size)
        return [Cell(cpus[i], sizes[i], None, region.node)
                for i, region in enumerate(self.egms)]

    def check_room(self):
        count = len(self.sockets) + sum(self.initiators(gpu) for gpu in self.gpus)
        if count > MAX_NODES:
            raise Refused("%d NUMA nodes, and QEMU has %d: choose fewer by --initiators" %
                          (count, MAX_NODES))
        if count > USUAL_NODES:
            note("the guest has %d NUMA nodes, and a kernel with CONFIG_NODES_SHIFT=4 uses %d "
                 "of them: have a guest kernel with more, or choose fewer by --initiators" %
                 (count, USUAL_NODES))
        end = round_up(2 * GIB + round_up(self.memory, GIB), self.window) + self.window
        try:
            bits = self.host.kvm_cap(KVM_CAP_ARM_VM_IPA_SIZE, vm=False)
        except OSError as e:
            bits = None
            note("cannot tell how much address space a guest may have: " +
                 self.host.error_text(e))
        if bits and end > 1 << bits:
            raise Refused("a window of %s for the BARs ends at 0x%x, and this CPU gives guests %d "
                          "bits of address: pass fewer GPUs" % (human(self.window), end, bits))

    def check_qemu(self):
        qemu = self.qemu
        if not qemu.program:
            note("no QEMU is installed: this is for QEMU 11")
        machine = qemu.properties("-machine", "virt")
        if self.window > 512 * GIB and machine is not None and "highmem-mmio-size" not in machine:
            raise Refused("the BARs need a window of %s, and %s has 512 GiB: QEMU 10.0 has "
                          "highmem-mmio-size" % (human(self.window), qemu))
        if any(map(self.initiators, self.gpus)) and qemu.lacks_object("acpi-generic-initiator"):
            raise Refused("%s has no acpi-generic-initiator, which makes the GPU's NUMA nodes: "
                          "QEMU 9.0 has it; --initiators=0 leaves them out" % qemu)

    def make_smmus(self):
        """One for each physical SMMU that the GPUs are behind."""
        if not self.iommufd:
            raise Refused("--smmu needs iommufd, which %s" % (
                "--container rules out" if self.options.container else
                "%s does not have: QEMU 9.0 has it" % self.qemu
                if self.qemu.lacks_object("iommufd") else
                "this kernel does not have: " + configure("IOMMUFD", "VFIO_DEVICE_CDEV")))
        known = self.qemu.properties("-device", "arm-smmuv3")
        if known is not None and "accel" not in known:
            raise Refused("%s has no arm-smmuv3 with accel=, which VFIO needs: QEMU 11.0 has it" %
                          self.qemu)
        self.warn_of_dmabuf()
        smmus = {}
        for gpu in self.gpus:
            if not gpu.smmu:
                raise Refused("the kernel does not say which SMMU %s is behind: there is no %s/"
                              "iommu" % (gpu, gpu.dir))
            if gpu.smmu not in smmus:
                smmus[gpu.smmu] = Smmu(gpu.smmu, FIRST_BUS + BUSES * len(smmus),
                                       self.socket_of[gpu], self.smmu_features(gpu, known))
        return list(smmus.values())

    def smmu_features(self, gpu, known):
        """Properties of QEMU's SMMU that follow the host's, and that QEMU does not choose."""
        def default(name):
            match = re.search(r"\(default: (\w+)\)", known.get(name, "") if known else "")
            return match.group(1) if match else None

        names = ("ril", "ats", "oas", "ssidsize")
        if all(default(name) == "auto" for name in names):
            return {}    # QEMU 11.1 asks the host's SMMU
        try:
            idr = self.host.smmu_registers(gpu)
        except (Unknown, OSError) as e:
            raise Refused("the features of %s are unknown: %s; QEMU 11.1 finds them by itself" %
                          (gpu.smmu, self.host.error_text(e))) from None
        bits = OAS_BITS[idr[5] & 7]
        if bits < 44:
            raise Refused("%s has addresses of %d bits, and QEMU's SMMU of 44 at least" %
                          (gpu.smmu, bits))
        values = {"ril": "on" if idr[3] >> 10 & 1 else "off",
                  "ats": "on" if idr[0] >> 10 & 1 else "off",
                  "oas": "48" if bits >= 48 else "44",
                  "ssidsize": str(min(idr[1] >> 6 & 31, 20))}
        return {name: values[name] for name in names
                if known is None or name in known and default(name) != values[name]}

    def warn_of_dmabuf(self):
        """Read in NVIDIA/QEMU issues 24 and 26, and not tried."""
        try:
            if "VFIO_PCI_DMABUF" in self.host.config() and self.host.version >= (7, 3):
                return
            text = "this kernel has no dma-buf of usemem (Linux 7.3, CONFIG_VFIO_PCI_DMABUF)"
        except Unknown as e:
            text = "cannot tell whether this kernel has dma-bufs of usemem: %s" % e
        note(text + "; without it, as NVIDIA/QEMU's issues 24 and 26 say, ATS of a GPU behind "
             "--smmu fails, and CUDA's unified memory with it. This project has not tried it")

    def initiators(self, gpu):
        return self.options.initiators if self.emulated[gpu] else 0

    def make_ports(self):
        node, ports = len(self.sockets), []
        behind = [gpu.smmu for gpu in self.gpus]
        names = [smmu.name for smmu in self.smmus]
        known = self.qemu.properties("-device", "pcie-root-port")
        for i, gpu in enumerate(self.gpus):
            count = self.initiators(gpu)
            ports.append(Port(i, gpu, names.index(gpu.smmu) if names else None,
                              behind[:i].count(gpu.smmu), behind.count(gpu.smmu) > 1,
                              range(node, node + count), self.link(gpu, known)))
            node += count
        return ports

    @staticmethod
    def link(gpu, known):
        """The port's link as the GPU has it; QEMU has 16 GT/s and 32 lanes by itself."""
        speed, width = gpu.max_link()
        values = {"x-speed": speed.replace(".0", "").replace(".", "_"), "x-width": width}
        usual = {"x-speed": "16", "x-width": "32"}
        return {name: value for name, value in values.items()
                if value not in ("", usual[name]) and
                (known is None or value in re.findall(r"\w+", known.get(name, "")))}

    def distance(self, a, b):
        """The distance of two NUMA nodes of the guest, for its SLIT."""
        if a == b:
            return 10
        a, b = sorted((a, b))
        if b < len(self.sockets):
            nodes = [self.nodes_of_sockets[n][0] for n in (a, b)]
            return self.host.node_distances(nodes[0]).get(nodes[1], FAR_SOCKET)
        port = self.owner[b]
        if a < len(self.sockets):
            return OWN_SOCKET if self.socket_of[port.gpu] == a else FAR
        return SAME_GPU if self.owner[a] is port else FAR

    def firmware(self):
        """UEFI for the guest: without ACPI it sees no generic initiators."""
        if self.options.firmware == "none":
            return None
        found = uefi.choose(self.host, self.options.firmware)
        if not found and not self.options.libvirt:
            note("no UEFI firmware for guests is installed, and without ACPI NVIDIA's driver "
                 "finds no NUMA nodes for the GPU: apt-get install qemu-efi-aarch64")
        return found

    def variables_file(self):
        """UEFI's variables, such as the order of boot, for a guest with a disk."""
        if not self.uefi or self.options.libvirt:
            return None
        if not self.uefi.template:
            note("%s has no template of variables, so the guest forgets its order of boot" %
                 self.uefi.code)
            return None
        return os.path.abspath("%s_VARS.%s" % (
            self.options.name, "qcow2" if self.uefi.template_format == "qcow2" else "fd"))

    def warn_of_layout(self):
        for gpu in self.gpus:
            usemem = [r for r in self.regions(gpu) if r.name == "usemem"]
            if usemem and usemem[0].bar != self.options.layout:
                note("%s shows usemem at BAR%d; %s" % (
                    gpu, usemem[0].bar,
                    "NVIDIA's guest driver needs it at BAR4: nvgrace-gpu check has the commands"
                    if self.options.layout == 4 else "--layout=2 asks for BAR2"))

    @staticmethod
    def regions(gpu):
        try:
            return gpu.regions()
        except (Unknown, OSError):
            return []
