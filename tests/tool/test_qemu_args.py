# SPDX-License-Identifier: GPL-2.0-only
"""nvgrace-gpu qemu-args: the line for each kind of machine, and mixes that are refused."""

import re
import shlex
import xml.etree.ElementTree as ElementTree

from machine import GIB, Case
from nvgrace_gpu.guest import mmio_window

A, B, C, D = "0009:01:00.0", "0008:06:00.0", "0019:01:00.0", "0018:06:00.0"


class Printed(Case):
    def printed(self, *argv):
        """Return the output; at most it remarks on the number of nodes."""
        status, out, err = self.tool("qemu-args", *argv)
        self.assertEqual(status, 0, err)
        for line in err.splitlines():
            self.assertIn("CONFIG_NODES_SHIFT=4", line)
        return out


class QemuArgs(Printed):
    def line(self, *argv):
        """The command line as [(option, value)], as a shell takes it."""
        words = shlex.split(self.printed("--firmware=none", *argv).replace(
            "\\\n", " "))
        self.assertEqual(words[0], "qemu-system-aarch64")
        pairs = []
        for word in words[1:]:
            if word.startswith("-"):
                pairs.append([word, ""])
            else:
                pairs[-1][1] = word
        return [tuple(p) for p in pairs]

    def values(self, line, option, beginning=""):
        return [v for o, v in line if o == option and v.startswith(beginning)]

    def window(self, line):
        return re.search(r"highmem-mmio-size=(\w+)", dict(line)["-M"]).group(1)

    def consistent(self, line, gpus, nodes):
        """Each line has one port for each GPU, and every reference has its target."""
        devices = self.values(line, "-device", "vfio-pci-nohotplug")
        self.assertEqual([re.search("host=([^,]+)", d).group(1) for d in devices], gpus)
        ports = self.values(line, "-device", "pcie-root-port")
        self.assertEqual(len(set(re.search(r"chassis=(\d+)", p).group(1) for p in ports)),
                         len(gpus))
        ids = {m for o, v in line for m in re.findall(r"(?:^|,)(?:nodeid|id)=([^,]+)", v)}
        for option, value in line:
            for key, target in re.findall(r"(bus|memdev|iommufd|pci-dev|node|primary-bus)=([^,]+)",
                                          value):
                self.assertIn(target, ids | {"pcie.0"}, value)
        numbers = [int(re.search(r"nodeid=(\d+)", n).group(1)) for n in self.values(line, "-numa")]
        self.assertEqual(numbers, list(range(nodes)))
        initiators = self.values(line, "-object", "acpi-generic-initiator")
        self.assertEqual(len({re.search(r",node=(\d+)", i).group(1) for i in initiators}),
                         len(initiators))
        for device in devices:
            self.assertIn(",rombar=0", device)

    def test_gh200(self):
        self.machine.add_gpu(A)
        out = self.output("qemu-args", "--firmware=none", "--initiators=2")
        self.assertEqual(out, """\
qemu-system-aarch64 -M virt,gic-version=3,accel=kvm,highmem-mmio-size=512G \\
  -cpu host -smp 8 -m 64G \\
  -object memory-backend-ram,id=ram0,size=64G,host-nodes=0,policy=bind \
-numa node,nodeid=0,cpus=0-7,memdev=ram0 \\
  -object iommufd,id=iommufd0 \\
  -device pcie-root-port,id=port0,bus=pcie.0,chassis=1 \\
  -device vfio-pci-nohotplug,id=gpu0,bus=port0,host=0009:01:00.0,rombar=0,iommufd=iommufd0 \\
  -numa node,nodeid=1 -object acpi-generic-initiator,id=gi0.0,pci-dev=gpu0,node=1 \\
  -numa node,nodeid=2 -object acpi-generic-initiator,id=gi0.1,pci-dev=gpu0,node=2 \\
  -nographic
""")
        self.consistent(self.line(), [A], 9)

    def test_gh200_two_sockets(self):
        self.machine.add_gpu(A, node=0)
        self.machine.add_gpu(C, node=1)
        line = self.line("--smp=16", "--memory=128G")
        self.consistent(line, [A, C], 2 + 16)
        self.assertEqual(self.window(line), "512G")
        self.assertIn("16,sockets=2,cores=8,threads=1", self.values(line, "-smp"))
        self.assertEqual(self.values(line, "-object", "memory-backend-ram"),
                         ["memory-backend-ram,id=ram0,size=64G,host-nodes=0,policy=bind",
                          "memory-backend-ram,id=ram1,size=64G,host-nodes=1,policy=bind"])
        self.assertEqual(self.values(line, "-numa")[:2], ["node,nodeid=0,cpus=0-7,memdev=ram0",
                                                         "node,nodeid=1,cpus=8-15,memdev=ram1"])

    def test_gb200_one_grace_two_gpus(self):
        for bdf in (B, A):
            self.machine.add_gpu(bdf, "GB200")
        line = self.line()
        self.consistent(line, [B, A], 1 + 16)
        # Each has usemem, 256 GiB, and its physical BAR2 of 256 GiB: the second begins at 768.
        self.assertEqual(self.window(line), "2T")

    def test_nvl4(self):
        for bdf, node in ((B, 0), (A, 0), (D, 1), (C, 1)):
            self.machine.add_gpu(bdf, "GB200", node=node)
        line = self.line("--memory=256G")
        self.consistent(line, [B, A, D, C], 2 + 32)
        self.assertEqual(self.window(line), "4T")

    def test_gb300(self):
        self.machine.add_gpu(A, "GB300")
        line = self.line()
        self.consistent(line, [A], 9)
        self.assertEqual(self.window(line), "2T")

    def test_host_with_one_node(self):
        self.machine.put("/sys/devices/system/node/has_cpu", "0")
        self.machine.add_gpu(A, node=-1)
        self.assertEqual(self.values(self.line(), "-object", "memory-backend"),
                         ["memory-backend-ram,id=ram0,size=64G"])

    def test_window(self):
        """Ports are as far apart as the largest BAR asks for, and 512 GiB is the least."""
        gh200 = [16 << 20, 128 * GIB, 2 * GIB]
        for number, size in ((1, 512), (2, 512), (3, 1024), (4, 1024), (5, 2048)):
            self.assertEqual(mmio_window([gh200] * number), size * GIB, number)
        self.assertEqual(mmio_window([[16 << 20, 512 * GIB, GIB]]), 1024 * GIB)

    def test_no_initiators(self):
        self.machine.add_gpu(A)
        line = self.line("--initiators=0")
        self.consistent(line, [A], 1)

    def test_container(self):
        self.machine.add_gpu(A)
        self.assertTrue(self.values(self.line(), "-object", "iommufd"))
        self.by_container(self.line("--container"))
        self.machine.drop("/dev/iommu")
        self.by_container(self.line())

    def by_container(self, line):
        self.assertEqual(self.values(line, "-object", "iommufd"), [])
        self.assertNotIn("iommufd", self.values(line, "-device", "vfio-pci")[0])

    def test_smmu(self):
        self.machine.add_gpu(A, node=0)
        self.machine.add_gpu(C, node=1)
        line = self.line("--smmu")
        self.consistent(line, [A, C], 18)
        self.assertEqual(self.values(line, "-device", "pxb-pcie"),
                         ["pxb-pcie,id=pcie.1,bus=pcie.0,bus_nr=8,numa_node=0",
                          "pxb-pcie,id=pcie.2,bus=pcie.0,bus_nr=16,numa_node=1"])
        self.assertEqual(self.values(line, "-device", "arm-smmuv3"),
                         ["arm-smmuv3,id=smmu0,primary-bus=pcie.1,accel=on",
                          "arm-smmuv3,id=smmu1,primary-bus=pcie.2,accel=on"])

    def test_firmware_disk_and_more(self):
        self.machine.add_gpu(A)
        self.machine.put("/usr/share/AAVMF/AAVMF_CODE.fd")
        out = self.output("qemu-args", "--disk=/srv/my guest.qcow2", "--", "-append", "a b 'c'")
        words = shlex.split(out.replace("\\\n", " "))
        self.assertEqual(words[-6:], [
            "-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/AAVMF/AAVMF_CODE.fd",
            "-drive", "if=virtio,format=qcow2,file=/srv/my guest.qcow2", "-append", "a b 'c'"])

    def test_no_firmware_is_said(self):
        self.machine.add_gpu(A)
        status, out, err = self.tool("qemu-args")
        self.assertEqual(status, 0)
        self.assertIn("apt-get install qemu-efi-aarch64", err)
        self.assertNotIn("pflash", out)

    def test_layout_is_said(self):
        self.machine.add_gpu(A, layout=2)
        _, _, err = self.tool("qemu-args", "--firmware=none")
        self.assertIn("shows usemem at BAR2; NVIDIA's guest driver needs it at BAR4", err)
        self.line("--layout=2")

    def test_intree_driver(self):
        """It has no files in sysfs, so VFIO tells the sizes."""
        self.machine.add_gpu(A)
        self.machine.intree(A)
        self.consistent(self.line(), [A], 9)


class Refused(Case):
    def no(self, text, *argv):
        self.assertIn(text, self.refused("qemu-args", *argv))

    def test_no_gpu(self):
        self.no("no NVIDIA GPU with coherent memory")

    def test_not_bound(self):
        self.machine.add_gpu(A)
        self.machine.add_gpu(C, driver="vfio-pci")
        self.no("%s is bound to vfio-pci, so VFIO shows no usemem: nvgrace-gpu bind %s" % (C, C))

    def test_twice(self):
        self.machine.add_gpu(A)
        self.no("named twice", A, A)

    def test_hopper_and_blackwell(self):
        self.machine.add_gpu(A)
        self.machine.add_gpu(C, "GB200")
        self.no("no machine has both")

    def test_coherent_and_plain(self):
        self.machine.add_gpu(A, "GB300")
        self.machine.add_gpu(C, "GB300", node=1)
        self.machine.regions[C] = []
        self.machine.bound(C, "nvgrace_gpu")
        self.no("guests of their own")

    def test_two_drivers(self):
        self.machine.add_gpu(A)
        self.machine.add_gpu(C)
        self.machine.intree(C)
        self.no("their layouts may differ")

    def test_group_of_the_host(self):
        self.machine.add_gpu(A)
        self.machine.put("/sys/kernel/iommu_groups/20/devices/0009:01:00.1", "")
        self.machine.symlink("/sys/bus/pci/devices/0009:01:00.1/driver",
                             "../../../bus/pci/drivers/nvme")
        self.no("VFIO refuses the group")

    def test_in_use(self):
        self.machine.add_gpu(A)
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/devices/vfio0")
        self.no("in use by 4711")

    def test_window_beyond_the_cpu(self):
        self.machine.add_gpu(A, "GB300")
        self.machine.caps[165] = 40
        self.no("this CPU gives guests 40 bits of address")
        # The window has 2 TiB and begins at 2 TiB, so that it ends with 42 bits.
        self.machine.caps[165] = 41
        self.no("ends at 0x40000000000, and this CPU gives guests 41 bits")
        self.machine.caps[165] = 42
        self.assertEqual(self.tool("qemu-args")[0], 0)

    def test_too_many_nodes(self):
        for i in range(5):
            self.machine.add_gpu("%04x:01:00.0" % (8 + i))
        self.no("NUMA nodes, and QEMU has 128", "--initiators=32")

    def test_more_nodes_than_usual(self):
        self.machine.add_gpu(A)
        self.assertNotIn("CONFIG_NODES_SHIFT", self.tool("qemu-args")[2])
        self.machine.add_gpu(B)
        status, _, err = self.tool("qemu-args")
        self.assertEqual(status, 0)
        self.assertIn("the guest has 17 NUMA nodes, and a kernel with CONFIG_NODES_SHIFT=4", err)

    def test_sockets_do_not_divide(self):
        self.machine.add_gpu(A, node=0)
        self.machine.add_gpu(C, node=1)
        self.no("--smp 7 cannot be shared", "--smp=7")
        self.no("cannot be shared by 2 sockets", "--memory=1025M")

    def test_sockets_without_nodes(self):
        self.machine.add_gpu(A, node=-1)
        self.machine.add_gpu(C, node=-1)
        self.no("sockets 0, 1, and the kernel does not say")

    def test_smmu_without_iommufd(self):
        self.machine.add_gpu(A)
        self.no("--container rules out", "--smmu", "--container")
        self.machine.drop("/dev/iommu")
        self.no("built with CONFIG_IOMMUFD", "--smmu")

    def test_smmu_of_an_old_qemu(self):
        self.machine.add_gpu(A)
        self.machine.executable("qemu-system-aarch64", "echo '  bus_type=<bus>'")
        self.no("no arm-smmuv3 with accel=", "--smmu")

    def test_sizes_cannot_be_told(self):
        self.machine.add_gpu(A)
        self.machine.intree(A)
        self.machine.drop("/dev/vfio")
        self.no("the sizes of its BARs cannot be told")

    def test_wrong_numbers(self):
        self.machine.add_gpu(A)
        for argv in (["--smp=0"], ["--memory=0"], ["--memory=12X"], ["--initiators=-1"],
                     ["--initiators=99"]):
            self.assertEqual(self.tool("qemu-args", *argv)[0], 2, argv)


class Libvirt(Printed):
    QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"

    def domain(self, *argv):
        return ElementTree.fromstring(self.printed("--libvirt", *argv))

    def arguments(self, domain):
        return [a.get("value") for a in domain.iter(self.QEMU + "arg")]

    def test_gh200_two_sockets(self):
        self.machine.add_gpu(A, node=0)
        self.machine.add_gpu(C, node=1)
        self.machine.put("/usr/share/libvirt/schemas/domaincommon.rng",
                         '<attribute name="iommufd">')
        domain = self.domain("--smp=16")
        hostdevs = domain.findall("devices/hostdev")
        self.assertEqual([h.find("source/address").get("domain") for h in hostdevs],
                         ["0x0009", "0x0019"])
        for i, hostdev in enumerate(hostdevs):
            self.assertEqual(hostdev.find("driver").attrib, {
                "name": "vfio", "model": "nvgrace_gpu", "iommufd": "yes"})
            self.assertEqual(hostdev.find("rom").get("bar"), "off")
            self.assertEqual(hostdev.find("alias").get("name"), "ua-gpu%d" % i)
            self.assertEqual(hostdev.find("address").get("bus"), "0x%02x" % (i + 1))
        arguments = self.arguments(domain)
        self.assertEqual(arguments[:2], ["-machine", "highmem-mmio-size=512G"])
        self.assertEqual(sum("pci-dev=ua-gpu1," in a for a in arguments), 8)
        self.assertEqual(arguments.count("-numa"), 16)
        self.assertEqual([c.get("cpus") for c in domain.findall("cpu/numa/cell")],
                         ["0-7", "8-15"])
        self.assertEqual([(n.get("nodeset"), n.get("mode"))
                          for n in domain.findall("numatune/memnode")],
                         [("0", "strict"), ("1", "strict")])

    def test_libvirt_without_iommufd(self):
        self.machine.add_gpu(A)
        status, out, err = self.tool("qemu-args", "--libvirt")
        self.assertEqual(status, 0)
        self.assertIn("this libvirt has no iommufd", err)
        driver = ElementTree.fromstring(out).find("devices/hostdev/driver")
        self.assertNotIn("iommufd", driver.attrib)

    def test_refuses_qemu_arguments(self):
        self.machine.add_gpu(A)
        self.assertIn("--libvirt takes neither",
                      self.refused("qemu-args", "--libvirt", "--container", "--", "-S"))
