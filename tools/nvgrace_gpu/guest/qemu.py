# SPDX-License-Identifier: GPL-2.0-only
"""The QEMU that is installed, and its command line for a guest."""

import re

from ..host import Unknown
from ..sizes import qemu_size

DEFAULT_WINDOW = 512 << 30

# QEMU aligns the memory of a file by the page size, so that no block fits. This is a multiple of
# each kernel's block, and with pages of 4 KiB one entry can map so much.
EGM_ALIGN = 1 << 30
# RHEL has QEMU by the second name only, in a directory that no PATH has.
PROGRAMS = ("qemu-system-aarch64", "qemu-kvm")


class Qemu:
    """The installed QEMU, asked for each thing: distributions add new ones to old versions."""

    def __init__(self, host):
        self.host = host
        self.program = next((p for p in PROGRAMS if host.program(p)), None)

    def __str__(self):
        try:
            version = re.search(r"version (\d\S*)", self.host.run(self.program, "--version"))
            return "QEMU " + version.group(1) if version else "this QEMU"
        except Unknown:
            return "this QEMU"

    @property
    def command(self):
        """The word that starts it."""
        if self.program in (None, PROGRAMS[0]):
            return PROGRAMS[0]
        return self.host.name(self.host.program(self.program))

    def help(self, option, argument):
        """Return QEMU's help about an option; "" if it does not know that."""
        def run():
            try:
                return self.host.run(self.program, option, argument)
            except Unknown:
                return ""
        return self.host.once("qemu %s %s" % (option, argument), run)

    def lacks_object(self, name):
        return bool(self.program) and not re.search(
            r"^\s*%s\s*$" % re.escape(name), self.help("-object", "help"), re.M)

    def properties(self, option, name):
        """{property: what the help says of it}; None if there is no QEMU to ask."""
        if not self.program:
            return None
        return dict(re.findall(r"^\s*([\w-]+)=(.*)$", self.help(option, name + ",help"), re.M))


def escaped(value):
    """A value for one of QEMU's options: a comma ends it, two are one."""
    return str(value).replace(",", ",,")


def option(first, properties):
    """An argument such as node,nodeid=0 of QEMU; a property that is None is left out."""
    return ",".join(([str(first)] if first else []) + [
        "%s=%s" % (name, escaped(value))
        for name, value in properties.items() if value is not None])


def quote(word):
    """A word for the shell; where nothing asks for quotes, without."""
    if re.fullmatch(r"[\w@%+=:,./-]+", word, re.A):
        return word
    return "'" + word.replace("'", "'\\''") + "'"


def window(guest):
    """The size of the window for BARs, None for what QEMU has without asking."""
    return qemu_size(guest.window) if guest.window > DEFAULT_WINDOW else None


def machine(guest):
    """-M, -cpu, -smp, -m, and the NUMA nodes with CPUs and memory."""
    lines = [["-M", option("virt", {"gic-version": 3, "ras": "on", "accel": "kvm",
                                    "highmem-mmio-size": window(guest)})]]
    sockets, smp = len(guest.sockets), {}
    if sockets > 1:
        smp = {"sockets": sockets, "cores": guest.smp // sockets, "threads": 1}
    lines.append(["-cpu", "host", "-smp", option(guest.smp, smp),
                  "-m", qemu_size(guest.memory)])
    for i, cell in enumerate(guest.sockets):
        ram = "ram%d" % i
        lines.append([
            "-object", backend(guest, cell, ram),
            "-numa", option("node", {"nodeid": i, "cpus": cell.cpus, "memdev": ram})])
    return lines


def backend(guest, cell, name):
    """The memory of a NUMA node of the guest, as an object of QEMU."""
    size = qemu_size(cell.memory)
    if not cell.egm:
        return option("memory-backend-ram", {
            "id": name, "size": size, "host-nodes": cell.host_nodes,
            "policy": cell.host_nodes and "bind"})
    return option("memory-backend-file", {
        "id": name, "mem-path": cell.egm, "share": "on", "prealloc": "off", "size": size,
        "align": qemu_size(EGM_ALIGN)})


def initiators(port, device):
    """A NUMA node and a generic initiator for each cell of a GPU, as groups of words."""
    return [["-numa", option("node", {"nodeid": node}), "-object",
             option("acpi-generic-initiator", {"id": "gi%d.%d" % (port.index, k),
                                               "pci-dev": device, "node": node})]
            for k, node in enumerate(port.cells)]


def distances(guest):
    """-numa dist for each pair of nodes, as groups of words."""
    count = len(guest.cells)
    pairs = [["-numa", option("dist", {"src": a, "dst": b, "val": guest.distance(a, b)})]
             for a in range(count) for b in range(a + 1, count)]
    return [sum(pairs[i:i + 3], []) for i in range(0, len(pairs), 3)]


def devices(guest):
    """Host bridges with their SMMUs, and the GPUs behind ports of their own."""
    lines = [["-object", option("iommufd", {"id": "iommufd0"})]] if guest.iommufd else []
    for i, smmu in enumerate(guest.smmus):
        bus = "pcie.%d" % (i + 1)
        lines.append(["-device", option("pxb-pcie", {
            "id": bus, "bus": "pcie.0", "bus_nr": smmu.bus_number, "numa_node": smmu.cell})])
        lines.append(["-device", option("arm-smmuv3", {
            "id": "smmu%d" % i, "primary-bus": bus, "accel": "on", **smmu.features})])
    for port in guest.ports:
        i, behind_smmu = port.index, port.smmu is not None
        lines.append(["-device", option("pcie-root-port", {
            "id": "port%d" % i, "bus": "pcie.%d" % (port.smmu + 1 if behind_smmu else 0),
            "chassis": i + 1, "io-reserve": 0 if behind_smmu else None, **port.link})])
        lines.append(["-device", option("vfio-pci-nohotplug", {
            "id": "gpu%d" % i, "bus": "port%d" % i, "host": port.gpu, "rombar": 0,
            "iommufd": "iommufd0" if guest.iommufd else None})])
        lines += initiators(port, "gpu%d" % i)
    return lines


def drive(interface, image, image_format, readonly=None):
    return ["-drive", option(None, {"if": interface, "format": image_format,
                                    "readonly": readonly, "file": image})]


def drives(guest):
    lines = []
    if guest.uefi:
        lines.append(drive("pflash", guest.uefi.code, guest.uefi.format, "on"))
    if guest.variables:
        lines.append(drive("pflash", guest.variables, guest.uefi.template_format))
    if guest.disk:
        lines.append(drive("virtio", guest.disk, guest.disk_format))
    return lines


def command_line(guest, more):
    """The commands of a shell that start the guest."""
    lines = machine(guest) + devices(guest) + distances(guest) + drives(guest)
    lines.append(["-nographic"])
    lines += [more] if more else []
    lines[0].insert(0, guest.qemu.command)
    text = " \\\n  ".join(" ".join(map(quote, words)) for words in lines)
    if guest.variables:
        text = "[ -e %s ] || cp %s %s\n" % tuple(map(quote, (
            guest.variables, guest.uefi.template, guest.variables))) + text
    return text
