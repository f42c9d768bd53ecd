# SPDX-License-Identifier: GPL-2.0-only
"""The libvirt that is installed, and its XML for a guest."""

import re
import xml.etree.ElementTree as ElementTree

from ..host import Refused, Unknown
from ..sizes import GIB, MIB
from . import qemu
from .model import node_range
from .note import note

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"

# The version that has it, as libvirt's formatdomain and NEWS say. pcihole64 sets the window of
# machine virt in 12.9, as domxml-to-native shows, and does not in 11.3; neither page names it.
SINCE = {
    "<driver model=…>": (10, 0),
    "ras": (10, 4),
    "acpi nodeset": (11, 8),
    "iommufd": (12, 1),
    "smmuv3 accel": (12, 7),
    "pcihole64": (12, 9),
}
# XML cannot hold these, not even escaped.
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class Libvirt:
    """A version of libvirt: its daemon and virsh come from the same source."""

    def __init__(self, host):
        try:
            self.text = host.run("virsh", "--version").strip()
            match = re.match(r"(\d+)\.(\d+)", self.text)
        except Unknown:
            match = None
        if match:
            self.version = int(match.group(1)), int(match.group(2))
        else:
            self.text, self.version = "10.0", (10, 0)
            note("virsh --version does not say which libvirt this is: the XML is for 10.0, and "
                 "newer ones take it too")
        if not self.has("<driver model=…>"):
            raise Refused("libvirt %s has no <driver model=…>, which names the driver of a GPU: "
                          "libvirt 10.0 has it" % self.text)

    def has(self, name):
        return self.version >= SINCE[name]


def element(parent, tag, text=None, **attributes):
    """Add an element. ElementTree escapes its text and its attributes."""
    attributes = {k.rstrip("_"): str(v) for k, v in attributes.items() if v is not None}
    for value in [text or "", *attributes.values()]:
        if NOT_IN_XML.search(value):
            raise Refused("XML cannot hold %a" % value)
    new = ElementTree.SubElement(parent, tag, attributes)
    new.text = text
    return new


def operating_system(domain, guest):
    if guest.options.firmware:
        system = element(domain, "os")
    else:
        # libvirt chooses by the same descriptors, and copies the variables.
        system = element(domain, "os", firmware="efi")
    element(system, "type", "hvm", arch="aarch64", machine="virt")
    if not guest.options.firmware:
        features = element(system, "firmware")
        for name in ("enrolled-keys", "secure-boot"):
            element(features, "feature", enabled="no", name=name)
    elif guest.uefi:
        uefi = guest.uefi
        element(system, "loader", uefi.code, readonly="yes", type="pflash", format=uefi.format)
        if uefi.template:
            element(system, "nvram", template=uefi.template, format=uefi.template_format)


def numa(domain, guest, libvirt):
    """The CPU with its NUMA cells. Old libvirt has no cell without memory."""
    cpu = element(domain, "cpu", mode="host-passthrough")
    if guest.egms:
        return
    sockets = len(guest.sockets)
    if sockets > 1:
        element(cpu, "topology", sockets=sockets, cores=guest.smp // sockets, threads=1)
    cells = element(cpu, "numa")
    all_cells = libvirt.has("acpi nodeset")
    for i, cell in enumerate(guest.cells if all_cells else guest.sockets):
        new = element(cells, "cell", id=i, cpus=cell.cpus, memory=cell.memory // MIB, unit="MiB")
        if all_cells and len(guest.cells) > 1:
            apart = element(new, "distances")
            for k in range(len(guest.cells)):
                element(apart, "sibling", id=k, value=guest.distance(i, k))


def address(parent, bus, function=0, multifunction=None):
    element(parent, "address", type="pci", domain="0x0000", bus="0x%02x" % bus, slot="0x00",
            function="0x%x" % function, multifunction=multifunction)


def controllers(devices, guest, libvirt):
    """PCI buses. Return the index of the host bridge of each SMMU, and of the port of each GPU."""
    root = element(devices, "controller", type="pci", index=0, model="pcie-root")
    if libvirt.has("pcihole64") and guest.window > qemu.DEFAULT_WINDOW:
        element(root, "pcihole64", str(guest.window // GIB), unit="GiB")
    bridges, ports = [], []
    for smmu in guest.smmus:
        bridges.append(len(bridges) + 1)
        bridge = element(devices, "controller", type="pci", index=bridges[-1],
                         model="pcie-expander-bus")
        element(element(bridge, "target", busNr=smmu.bus_number), "node", str(smmu.cell))
    for port in guest.ports:
        ports.append(len(bridges) + len(ports) + 1)
        new = element(devices, "controller", type="pci", index=ports[-1], model="pcie-root-port")
        element(new, "alias", name="ua-port%d" % port.index)
        if port.smmu is not None:
            # libvirt knows one slot of such a bus, which has eight functions.
            address(new, bridges[port.smmu], port.function,
                    "on" if not port.function and port.shared else None)
    return bridges, ports


def host_devices(devices, guest, libvirt, ports):
    for port, bus in zip(guest.ports, ports):
        domain, number, slot, function = re.split("[:.]", port.gpu.bdf)
        device = element(devices, "hostdev", mode="subsystem", type="pci", managed="no")
        element(device, "driver", name="vfio", model=port.gpu.driver,
                iommufd="yes" if guest.iommufd and libvirt.has("iommufd") else None)
        element(element(device, "source"), "address", domain="0x" + domain, bus="0x" + number,
                slot="0x" + slot, function="0x" + function)
        element(device, "alias", name="ua-gpu%d" % port.index)
        element(device, "rom", bar="off")
        if port.cells and libvirt.has("acpi nodeset"):
            element(device, "acpi", nodeset=node_range(list(port.cells)))
        address(device, bus)


def raw_arguments(guest, libvirt):
    """Arguments for QEMU in place of elements that this libvirt does not have."""
    egm = [["-object", qemu.backend(guest, cell, "egm")] for cell in guest.sockets if cell.egm]
    more = {"ras": None if libvirt.has("ras") else "on",
            "highmem-mmio-size": None if libvirt.has("pcihole64") else qemu.window(guest),
            "memory-backend": "egm" if egm else None}
    text = qemu.option(None, more)
    words = sum(egm, []) + (["-machine", text] if text else [])
    if not libvirt.has("acpi nodeset"):
        groups = [g for port in guest.ports
                  for g in qemu.initiators(port, "ua-gpu%d" % port.index)]
        groups += qemu.distances(guest)
        words += [word for group in groups for word in group]
    return words


def overrides(domain, guest):
    """Properties of ports that no version of libvirt has an element for."""
    ports = [port for port in guest.ports if port.link]
    if not ports:
        return
    top = element(domain, "{%s}override" % QEMU)
    for port in ports:
        device = element(top, "{%s}device" % QEMU, alias="ua-port%d" % port.index)
        frontend = element(device, "{%s}frontend" % QEMU)
        for name, value in port.link.items():
            element(frontend, "{%s}property" % QEMU, name=name, type="string", value=value)


def check_egm(guest, libvirt):
    """RAM that is a file of its own has no element; and QEMU takes -numa only with memory that is
    libvirt's, as its -machine memory-backend and a node's memdev exclude each other."""
    if not guest.egms:
        return
    if len(guest.sockets) > 1 or any(port.cells for port in guest.ports):
        raise Refused("libvirt %s has no element for memory out of %s, and what it has for NUMA "
                      "nodes excludes that: pass GPUs of one socket with --initiators=0, or leave "
                      "--libvirt out" % (libvirt.text, guest.egms[0]))
    note("libvirt %s has no element for memory out of %s: qemu:commandline has it, so allow it in "
         "qemu.conf and AppArmor or SELinux, as Documentation/egm.rst says" %
         (libvirt.text, guest.egms[0]))


def check(guest, libvirt):
    check_egm(guest, libvirt)
    if guest.smmus and not libvirt.has("smmuv3 accel"):
        raise Refused("libvirt %s has no accelerated SMMU: libvirt 12.7 has it" % libvirt.text)
    if guest.iommufd and not libvirt.has("iommufd"):
        note("libvirt %s has no iommufd, which 12.1 has: the guest uses the container" %
             libvirt.text)
    if any(port.function > 7 for port in guest.ports):
        raise Refused("libvirt has room for 8 GPUs behind an SMMU: pass fewer")


def xml(guest, libvirt):
    """The domain. What this libvirt has no element for goes to QEMU as it is."""
    check(guest, libvirt)
    ElementTree.register_namespace("qemu", QEMU)
    domain = ElementTree.Element("domain", type="kvm")
    element(domain, "name", guest.options.name)
    element(domain, "memory", str(guest.memory // MIB), unit="MiB")
    element(domain, "vcpu", str(guest.smp))
    if guest.egms:
        # libvirt has QEMU make memory of this size all the same, which no guest uses. That of a
        # memfd costs nothing until it is touched, also where the kernel does not overcommit.
        backing = element(domain, "memoryBacking")
        element(backing, "source", type="memfd")
        element(backing, "access", mode="shared")
    if any(cell.host_nodes for cell in guest.sockets):
        tune = element(domain, "numatune")
        for i, cell in enumerate(guest.sockets):
            element(tune, "memnode", cellid=i, mode="strict", nodeset=cell.host_nodes)
    operating_system(domain, guest)
    features = element(domain, "features")
    if guest.options.firmware != "none":
        element(features, "acpi")
    element(features, "gic", version=3)
    if libvirt.has("ras"):
        element(features, "ras", state="on")
    numa(domain, guest, libvirt)
    devices = element(domain, "devices")
    bridges, ports = controllers(devices, guest, libvirt)
    host_devices(devices, guest, libvirt, ports)
    if guest.disk:
        disk = element(devices, "disk", type="file", device="disk")
        element(disk, "driver", name="qemu", type=guest.disk_format)
        element(disk, "source", file=guest.disk)
        element(disk, "target", dev="vda", bus="virtio")
    for bridge, smmu in zip(bridges, guest.smmus):
        element(element(devices, "iommu", model="smmuv3"), "driver", pciBus=bridge, accel="on",
                **smmu.features)
    element(devices, "console", type="pty")
    words = raw_arguments(guest, libvirt)
    if words:
        arguments = element(domain, "{%s}commandline" % QEMU)
        for word in words:
            element(arguments, "{%s}arg" % QEMU, value=word)
    overrides(domain, guest)
    ElementTree.indent(domain)
    return ElementTree.tostring(domain, encoding="unicode")
