# SPDX-License-Identifier: GPL-2.0-only
"""nvgrace-gpu qemu-args: the guest for each kind of machine and for each version of QEMU and
libvirt, and what is refused."""

import ctypes
import glob
import json
import os
import re
import shlex
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
from unittest import mock

from machine import GIB, TOP, Case
from nvgrace_gpu.guest.model import mmio_window
from nvgrace_gpu.host import Host, Unknown

A, B, C, D = "0009:01:00.0", "0008:06:00.0", "0019:01:00.0", "0018:06:00.0"
GOLDEN = os.path.join(TOP, "tests", "tool", "golden")
UEFI = "/usr/share/AAVMF/AAVMF_"


class Printed(Case):
    def setUp(self):
        super().setUp()
        # The tool prints absolute paths.
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir("/")

    def printed(self, *argv):
        """Return the output; at most the tool remarks on the number of nodes."""
        status, out, err = self.tool("qemu-args", *argv)
        self.assertEqual(status, 0, err)
        for line in err.splitlines():
            self.assertIn("CONFIG_NODES_SHIFT=4", line)
        return out

    def golden(self, name, *argv):
        """Compare the output with a file; GOLDEN=write writes it."""
        out, path = self.printed(*argv), os.path.join(GOLDEN, name)
        if os.environ.get("GOLDEN") == "write":
            with open(path, "w", encoding="utf-8") as f:
                f.write(out)
        with open(path, encoding="utf-8") as f:
            self.assertEqual(out, f.read())

    def uefi(self):
        """UEFI for guests, as Debian installs it."""
        for part in ("CODE.no-secboot.fd", "CODE.fd", "VARS.fd"):
            self.machine.put(UEFI + part)

    def nvl4(self):
        """Two Graces with two GPUs each, whose ports are of PCIe 5; one SMMU for each pair."""
        for bdf, node in ((B, 0), (A, 0), (D, 1), (C, 1)):
            self.machine.add_gpu(bdf, "GB200", node=node, smmu="smmu3.0x1%d000000" % (node + 1))
            self.link(bdf, "32.0 GT/s PCIe", "16")

    def link(self, bdf, speed, width):
        self.machine.put("/sys/bus/pci/devices/%s/max_link_speed" % bdf, speed)
        self.machine.put("/sys/bus/pci/devices/%s/max_link_width" % bdf, width)


class Line(Printed):
    """Tests that read a command line."""

    def line(self, *argv):
        """The command line as [(option, value)], without firmware."""
        return self.parsed(self.printed("--firmware=none", *argv))

    def parsed(self, text):
        """The same of a text, as a shell takes it."""
        words = shlex.split(text.replace("\\\n", " "))
        pairs = []
        for word in words[words.index("qemu-system-aarch64") + 1:]:
            if word.startswith("-"):
                pairs.append([word, ""])
            else:
                pairs[-1][1] = word
        return [tuple(p) for p in pairs]

    def values(self, line, option, beginning=""):
        return [v for o, v in line if o == option and v.startswith(beginning)]

    def value(self, line, beginning):
        """The one -device, -object, -drive or -numa that begins so."""
        found = [v for _, v in line if v.startswith(beginning)]
        self.assertEqual(len(found), 1, found)
        return found[0]

    def window(self, line):
        match = re.search(r"highmem-mmio-size=(\w+)", dict(line)["-M"])
        return match.group(1) if match else None

    def consistent(self, line, gpus, nodes):
        """Each line has one port for each GPU, and every reference has its target."""
        devices = self.values(line, "-device", "vfio-pci-nohotplug")
        self.assertEqual([re.search("host=([^,]+)", d).group(1) for d in devices], gpus)
        ports = self.values(line, "-device", "pcie-root-port")
        self.assertEqual(len(set(re.search(r"chassis=(\d+)", p).group(1) for p in ports)),
                         len(gpus))
        ids = {m for o, v in line for m in re.findall(r"(?:^|,)(?:nodeid|id)=([^,]+)", v)}
        for option, value in line:
            for key, target in re.findall(
                    r"(bus|memdev|iommufd|pci-dev|node|primary-bus|src|dst)=([^,]+)", value):
                self.assertIn(target, ids | {"pcie.0"}, value)
        numbers = [int(re.search(r"nodeid=(\d+)", n).group(1))
                   for n in self.values(line, "-numa", "node,")]
        self.assertEqual(numbers, list(range(nodes)))
        initiators = self.values(line, "-object", "acpi-generic-initiator")
        self.assertEqual(len({re.search(r",node=(\d+)", i).group(1) for i in initiators}),
                         len(initiators))
        pairs = {tuple(map(int, re.findall(r"(?:src|dst)=(\d+)", d)))
                 for d in self.values(line, "-numa", "dist,")}
        self.assertEqual(pairs, {(a, b) for b in range(nodes) for a in range(b)})
        for device in devices:
            self.assertIn(",rombar=0", device)
        self.assertIn(",ras=on", dict(line)["-M"])


class QemuArgs(Line):
    def test_gh200(self):
        self.machine.add_gpu(A)
        self.golden("gh200.qemu", "--firmware=none", "--initiators=2")
        self.consistent(self.line(), [A], 9)

    def test_gh200_two_sockets(self):
        self.machine.add_gpu(A, node=0)
        self.machine.add_gpu(C, node=1)
        line = self.line("--smp=16", "--memory=128G")
        self.consistent(line, [A, C], 2 + 16)
        self.assertIsNone(self.window(line))
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
        self.nvl4()
        line = self.line("--memory=256G")
        self.consistent(line, [B, A, D, C], 2 + 32)
        self.assertEqual(self.window(line), "4T")

    def test_nvl4_with_smmus(self):
        self.nvl4()
        self.machine.qemu("11.0.1")
        self.golden("nvl4_smmu.qemu", "--firmware=none", "--initiators=2", "--smmu")
        self.consistent(self.line("--smmu"), [B, A, D, C], 2 + 32)

    def test_gb300(self):
        self.machine.add_gpu(A, "GB300")
        self.uefi()
        self.golden("gb300_disk.qemu", "--initiators=1", "--disk=/srv/my guest, new.qcow2",
                    "--name=it's", "--", "-nodefaults", "-serial", "file:a b")
        self.assertEqual(self.window(self.line()), "2T")

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
        self.with_container(self.line("--container"))
        self.machine.drop("/dev/iommu")
        self.with_container(self.line())

    def with_container(self, line):
        self.assertEqual(self.values(line, "-object", "iommufd"), [])
        self.assertNotIn("iommufd", self.values(line, "-device", "vfio-pci")[0])

    def test_link_of_the_port(self):
        """QEMU's ports have 16 GT/s and 32 lanes by themselves."""
        self.machine.add_gpu(A)
        for speed, width, text in (
                ("32.0 GT/s PCIe", "16", ",x-speed=32,x-width=16"),
                ("2.5 GT/s PCIe", "1", ",x-speed=2_5,x-width=1"),
                ("16.0 GT/s PCIe", "32", ""), ("Unknown", "255", ""), ("", "0", "")):
            self.link(A, speed, width)
            with self.subTest(speed):
                port = self.value(self.line(), "pcie-root-port")
                self.assertEqual(port.split("chassis=1")[1], text)
        self.machine.qemu("9.2.1")
        self.link(A, "32.0 GT/s PCIe", "16")
        self.assertNotIn("x-speed", self.value(self.line(), "pcie-root-port"))

    def test_more_arguments_keep_nographic(self):
        self.machine.add_gpu(A)
        out = self.printed("--firmware=none", "--", "-append", "a b 'c'", "-S")
        words = shlex.split(out.replace("\\\n", " "))
        self.assertEqual(words[-4:], ["-nographic", "-append", "a b 'c'", "-S"])

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


class Memory(Line):
    """Where the guest's memory is on the host."""

    def ram(self, *argv):
        return self.value(self.line(*argv), "memory-backend-ram").replace(
            "memory-backend-ram,id=ram0,size=64G", "")

    def test_host_with_one_node(self):
        self.machine.numa("0", "0", {0: [10]})
        for node in (0, -1):
            self.machine.add_gpu(A, node=node)
            self.assertEqual(self.ram(), "")

    def test_memory_of_another_gpu_is_left_alone(self):
        """Node 1 is the memory of a GPU that the host uses: it has no CPUs."""
        self.machine.numa("0", "0-1", {0: (10, 80), 1: (80, 10)})
        self.machine.add_gpu(A, node=0)
        self.assertEqual(self.ram(), ",host-nodes=0,policy=bind")

    def test_gpu_without_a_node(self):
        self.machine.numa("0-1", "0-2", {0: (10, 40, 80), 1: (40, 10, 80), 2: (80, 80, 10)})
        self.machine.add_gpu(A, node=-1)
        self.assertEqual(self.ram(), ",host-nodes=0-1,policy=bind")

    def test_node_without_cpus(self):
        """The nearest node with CPUs has the guest's memory."""
        self.machine.numa("0-1", "0-1", {0: (10, 40, 120), 1: (40, 10, 80), 2: (120, 80, 10)})
        self.machine.add_gpu(A, node=2)
        self.assertEqual(self.ram(), ",host-nodes=1,policy=bind")

    def test_node_without_cpus_or_distance(self):
        self.machine.add_gpu(A, node=2)
        self.assertIn("at NUMA node 2, which has no CPUs, and the kernel does not say how far",
                      self.refused("qemu-args"))
        self.machine.numa("0", "0,2", {0: [10]})
        self.assertEqual(self.ram(), ",host-nodes=0,policy=bind")

    def test_distances(self):
        self.machine.numa("0-1", "0-1", {0: (10, 44), 1: (44, 10)})
        self.machine.add_gpu(A, node=0)
        self.machine.add_gpu(C, node=1)
        line = self.line("--initiators=2")
        self.assertEqual(
            {tuple(map(int, re.findall(r"\d+", d))) for d in self.values(line, "-numa", "dist")},
            {(0, 1, 44), (0, 2, 80), (0, 3, 80), (0, 4, 120), (0, 5, 120), (1, 2, 120),
             (1, 3, 120), (1, 4, 80), (1, 5, 80), (2, 3, 11), (2, 4, 120), (2, 5, 120),
             (3, 4, 120), (3, 5, 120), (4, 5, 11)})


class Smmu(Line):
    """--smmu, by what QEMU and the host's SMMU have."""

    def smmu(self, *argv):
        line = self.line("--smmu", *argv)
        return self.value(line, "arm-smmuv3").split("accel=on")[1]

    def test_features_of_grace(self):
        self.machine.add_gpu(A)
        self.machine.qemu("11.0.1")
        self.assertEqual(self.smmu(), ",ril=off,ats=on,oas=48,ssidsize=20")

    def test_registers_of_iommufd(self):
        """The two ioctls, as <linux/vfio.h> and <linux/iommufd.h> have them."""
        gpu = self.machine.add_gpu(A)
        kind = 2

        def ioctl(_, number, buffer, *__):
            if number == 0x3B76:    # VFIO_DEVICE_BIND_IOMMUFD
                self.assertEqual((len(buffer), buffer[:8]), (16, struct.pack("<II", 16, 0)))
                struct.pack_into("<I", buffer, 12, 77)
                return
            self.assertEqual(number, ord(";") << 8 | 0x8A)    # IOMMU_GET_HW_INFO
            size, flags, device, length, where = struct.unpack_from("<IIIIQ", buffer)
            self.assertEqual((len(buffer), size, flags, device, length), (40, 40, 0, 77, 40))
            ctypes.memmove(where, struct.pack("<10I", 9, 9, 1, 2, 3, 4, 5, 6, 9, 9), 40)
            struct.pack_into("<I", buffer, 24, kind)

        with mock.patch("fcntl.ioctl", ioctl):
            self.assertEqual(Host.smmu_registers(self.machine, gpu), [1, 2, 3, 4, 5, 6])
            kind = 1
            with self.assertRaisesRegex(Unknown, "type 1, which is not an SMMUv3"):
                Host.smmu_registers(self.machine, gpu)

    def test_features_that_are_defaults(self):
        self.machine.add_gpu(A)
        self.machine.qemu("11.0.1")
        self.machine.idr = [0, 16, 0, 1 << 10, 0, 4]
        self.assertEqual(self.smmu(), "")

    def test_qemu_asks_the_smmu(self):
        self.machine.add_gpu(A)
        self.machine.idr = OSError(19, "No such device")
        self.assertEqual(self.smmu(), "")

    def test_features_are_unknown(self):
        self.machine.add_gpu(A)
        self.machine.qemu("11.0.1")
        self.machine.idr = OSError(19, "No such device")
        self.assertIn("the features of smmu3.0x11000000 are unknown: No such device; QEMU 11.1",
                      self.refused("qemu-args", "--smmu"))

    def test_addresses_are_too_short(self):
        self.machine.add_gpu(A)
        self.machine.qemu("11.0.1")
        self.machine.idr = [0, 0, 0, 0, 0, 3]
        self.assertIn("has addresses of 42 bits, and QEMU's SMMU of 44",
                      self.refused("qemu-args", "--smmu"))

    def test_one_for_each_smmu_of_the_host(self):
        self.nvl4()
        line = self.line("--smmu")
        self.assertEqual(self.values(line, "-device", "pxb-pcie"),
                         ["pxb-pcie,id=pcie.1,bus=pcie.0,bus_nr=32,numa_node=0",
                          "pxb-pcie,id=pcie.2,bus=pcie.0,bus_nr=48,numa_node=1"])
        self.assertEqual(self.values(line, "-device", "arm-smmuv3"),
                         ["arm-smmuv3,id=smmu0,primary-bus=pcie.1,accel=on",
                          "arm-smmuv3,id=smmu1,primary-bus=pcie.2,accel=on"])
        self.assertEqual([re.search("bus=([^,]*)", p).group(1)
                          for p in self.values(line, "-device", "pcie-root-port")],
                         ["pcie.1", "pcie.1", "pcie.2", "pcie.2"])

    def test_unknown_smmu(self):
        self.machine.add_gpu(A)
        self.machine.drop("/sys/bus/pci/devices/%s/iommu" % A)
        self.assertIn("does not say which SMMU %s is behind" % A,
                      self.refused("qemu-args", "--smmu"))

    def test_old_qemu(self):
        self.machine.add_gpu(A)
        self.machine.qemu("10.0.13")
        self.assertIn("QEMU 10.0.13 has no arm-smmuv3 with accel=, which VFIO needs: QEMU 11.0",
                      self.refused("qemu-args", "--smmu"))

    def test_needs_iommufd(self):
        self.machine.add_gpu(A)
        self.assertIn("--container rules out", self.refused("qemu-args", "--smmu", "--container"))
        self.machine.drop("/dev/iommu")
        self.assertIn("built with CONFIG_IOMMUFD", self.refused("qemu-args", "--smmu"))

    def test_no_dmabuf_is_said(self):
        self.machine.add_gpu(A)
        told = "ATS of a GPU behind --smmu fails"
        self.assertNotIn(told, self.tool("qemu-args", "--smmu")[2])
        self.assertNotIn(told, self.tool("qemu-args")[2])
        self.machine.kernel("7.2.0", ["VFIO_PCI_DMABUF"])    # the kernel has it, the driver not
        self.assertIn("no dma-buf of usemem", self.tool("qemu-args", "--smmu")[2])
        self.machine.kernel("7.3.4-grace", ["VFIO"])
        self.assertIn("no dma-buf of usemem", self.tool("qemu-args", "--smmu")[2])
        self.assertIn(told, self.tool("qemu-args", "--smmu")[2])
        self.machine.drop("/boot/config-7.3.4-grace")
        self.assertIn("cannot tell whether this kernel has dma-bufs",
                      self.tool("qemu-args", "--smmu")[2])


class Versions(Line):
    """A line has only what the installed QEMU knows."""

    def test_window_of_an_old_qemu(self):
        """512G is the default, also of QEMUs that have no such property."""
        self.machine.add_gpu(A)
        self.machine.qemu("9.2.1")
        self.assertIsNone(self.window(self.line()))
        for bdf in (B, "0008:01:00.0"):
            self.machine.add_gpu(bdf)
        self.assertIn("need a window of 1 TiB, and QEMU 9.2.1 has 512 GiB: QEMU 10.0",
                      self.refused("qemu-args", "--initiators=1"))

    def test_initiators_need_9(self):
        self.machine.add_gpu(A)
        self.machine.qemu("8.2.2")
        self.assertIn("QEMU 8.2.2 has no acpi-generic-initiator, which makes the GPU's NUMA nodes: "
                      "QEMU 9.0 has it; --initiators=0", self.refused("qemu-args"))
        line = self.line("--initiators=0")
        self.assertEqual(self.values(line, "-object", "iommufd"), [])
        self.assertIn("QEMU 8.2.2 does not have: QEMU 9.0",
                      self.refused("qemu-args", "--smmu", "--initiators=0"))

    def test_no_qemu(self):
        self.machine.add_gpu(A)
        self.machine.drop("/usr/bin/qemu-system-aarch64")
        status, out, err = self.tool("qemu-args", "--firmware=none", "--smmu")
        self.assertEqual(status, 0, err)
        self.assertIn("no QEMU is installed: this is for QEMU 11", err)
        self.assertIn("accel=on,ril=off,ats=on,oas=48,ssidsize=20", out)

    def test_qemu_of_rhel(self):
        self.machine.add_gpu(A)
        self.machine.drop("/usr/bin/qemu-system-aarch64")
        self.machine.qemu("10.0.13", "/usr/libexec/qemu-kvm")
        out = self.printed("--firmware=none")
        self.assertTrue(out.startswith("/usr/libexec/qemu-kvm -M "), out)


class Firmware(Line):
    def descriptor(self, name, code, image_format="raw", template=None, features=(),
                   machines="virt-*", directory="/usr/share/qemu/firmware"):
        self.machine.put(code)
        mapping = {"device": "flash", "executable": {"filename": code, "format": image_format}}
        if template:
            self.machine.put(template)
            mapping["nvram-template"] = {"filename": template, "format": image_format}
        self.machine.put("%s/%s.json" % (directory, name), json.dumps({
            "interface-types": ["uefi"], "mapping": mapping, "features": list(features),
            "targets": [{"architecture": "aarch64", "machines": [machines]}]}))

    def drives(self, *argv):
        return [v.replace("if=pflash,", "")
                for v in self.values(self.parsed(self.printed(*argv)), "-drive", "if=pflash")]

    def test_descriptors(self):
        """The first that is for machine virt and without secure boot."""
        self.machine.add_gpu(A)
        self.descriptor("40-secure", "/f/secure.fd", features=["secure-boot", "enrolled-keys"])
        self.descriptor("45-other", "/f/sbsa.fd", machines="sbsa-ref")
        self.machine.put("/usr/share/qemu/firmware/47-new.json", '{"mapping": [1]}')
        self.machine.put("/usr/share/qemu/firmware/48-broken.json", "{")
        self.descriptor("50-plain", "/f/plain.qcow2", "qcow2", "/f/vars.qcow2")
        self.descriptor("60-verbose", "/f/verbose.fd")
        self.assertEqual(self.drives("--disk=/d"),
                         ["format=qcow2,readonly=on,file=/f/plain.qcow2",
                          "format=qcow2,file=/grace_VARS.qcow2"])
        self.descriptor("50-plain", "/f/mine.fd", directory="/etc/qemu/firmware")
        self.assertEqual(self.drives("--firmware=/f/mine.fd"),
                         ["format=raw,readonly=on,file=/f/mine.fd"])
        self.assertIn("/f/mine.fd", self.printed())

    def test_distributions_without_descriptors(self):
        self.machine.add_gpu(A)
        for code in ("/usr/share/AAVMF/AAVMF_CODE.fd",
                     "/usr/share/edk2/aarch64/QEMU_EFI-silent-pflash.raw",
                     "/usr/share/edk2/aarch64/QEMU_EFI-silent-pflash.qcow2",
                     "/usr/share/qemu/aavmf-aarch64-code.bin",
                     "/usr/share/edk2/aarch64/QEMU_CODE.fd"):
            self.machine.put(code, b"QFI\xfb" if code.endswith("qcow2") else "")
            with self.subTest(code):
                self.assertIn("format=%s,readonly=on,file=%s\n" % (
                    "qcow2" if code.endswith("qcow2") else "raw", code),
                    self.printed().replace(" \\\n", "\n"))
            self.machine.drop(code)

    def test_format_of_named_images(self):
        """Their first bytes tell, and the name of what cannot be read."""
        self.machine.add_gpu(A)
        self.machine.put("/f/disk.img", b"QFI\xfb\0\0\0\3")
        self.machine.put("/f/raw.qcow2", b"\x55\xaa")
        for name, image_format in (("/f/disk.img", "qcow2"), ("/f/raw.qcow2", "raw"),
                                   ("/g/new.qcow2", "qcow2"), ("/g/new.img", "raw")):
            with self.subTest(name):
                line = self.line("--disk=" + name)
                self.assertEqual(self.values(line, "-drive"),
                                 ["if=virtio,format=%s,file=%s" % (image_format, name)])
                status, out, _ = self.tool("qemu-args", "--firmware=" + name)
                self.assertEqual(status, 0)
                self.assertIn("format=%s,readonly=on,file=%s " % (image_format, name), out)

    def test_variables_are_a_copy(self):
        self.machine.add_gpu(A)
        self.uefi()
        self.assertNotIn("VARS", self.printed())
        out = self.printed("--disk=guest.qcow2")
        self.assertEqual(out.splitlines()[0],
                         "[ -e /grace_VARS.fd ] || cp %sVARS.fd /grace_VARS.fd" % UEFI)
        self.assertIn("if=virtio,format=qcow2,file=/guest.qcow2", out)
        self.machine.drop(UEFI + "VARS.fd")
        status, out, err = self.tool("qemu-args", "--disk=guest.qcow2")
        self.assertEqual(status, 0)
        self.assertIn("has no template of variables", err)
        self.assertNotIn("VARS", out)

    def test_no_firmware_is_said(self):
        self.machine.add_gpu(A)
        status, out, err = self.tool("qemu-args")
        self.assertEqual(status, 0)
        self.assertIn("apt-get install qemu-efi-aarch64", err)
        self.assertNotIn("pflash", out)


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
        self.no("a guest can have one kind only")

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

    def test_in_use_is_not_opened(self):
        """To open a GPU resets it."""
        self.machine.add_gpu(A)
        self.machine.intree(A)
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/devices/vfio0")
        self.machine.vfio_bars = lambda gpu: self.fail("%s was opened" % gpu)
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

    def test_window_counts_for_the_cpu(self):
        """The guest's memory fits in 41 bits of address, and the window above it does not."""
        self.machine.add_gpu(A, "GB300")
        self.machine.caps[165] = 41
        self.no("ends at 0x40000000000")

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

    def test_sizes_are_unknown(self):
        self.machine.add_gpu(A)
        self.machine.intree(A)
        self.machine.drop("/dev/vfio")
        self.no("the sizes of its BARs are unknown")

    def test_wrong_numbers(self):
        self.machine.add_gpu(A)
        for argv in (["--smp=0"], ["--memory=0"], ["--memory=12X"], ["--initiators=-1"],
                     ["--initiators=99"]):
            self.assertEqual(self.tool("qemu-args", *argv)[0], 2, argv)

    def test_names(self):
        self.machine.add_gpu(A)
        for name in ("", " ", "a/b", "a\nb"):
            self.no("a guest cannot have the name", "--name=" + name)


class Libvirt(Printed):
    QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"

    def domain(self, *argv):
        return ElementTree.fromstring(self.printed("--libvirt", *argv))

    def arguments(self, domain):
        return [a.get("value") for a in domain.iter(self.QEMU + "arg")]

    def test_gh200(self):
        self.machine.add_gpu(A)
        for version in ("10.0", "11.3", "12.9"):
            self.machine.libvirt(version + ".0")
            with self.subTest(version):
                argv = ("--container",) if version < "12" else ()
                self.golden("gh200-%s.xml" % version, "--libvirt", "--initiators=2", *argv)

    def test_gb300_two_sockets(self):
        self.machine.add_gpu(A, "GB300", node=0)
        self.machine.add_gpu(C, "GB300", node=1)
        for version in ("12.1", "12.9"):
            self.machine.libvirt(version + ".0")
            with self.subTest(version):
                self.golden("gb300_two_sockets-%s.xml" % version, "--libvirt", "--initiators=1",
                            "--smp=16", "--disk=/srv/a & <b>'\"c.qcow2")

    def test_nvl4_with_smmus(self):
        self.nvl4()
        self.machine.qemu("11.0.1")
        self.golden("nvl4_smmu-12.9.xml", "--libvirt", "--initiators=1", "--smmu")

    def test_named_firmware(self):
        self.machine.add_gpu(A)
        self.uefi()
        self.golden("firmware-12.9.xml", "--libvirt", "--initiators=0",
                    "--firmware=%sCODE.fd" % UEFI)
        self.golden("no_firmware-12.9.xml", "--libvirt", "--initiators=0", "--firmware=none")

    def test_same_guest_as_the_command_line(self):
        """Both have the same nodes, distances and window."""
        self.nvl4()
        line = self.printed("--firmware=none", "--initiators=2")
        domain = self.domain("--initiators=2")
        self.assertEqual(
            {(s.get("id"), c.get("id"), s.get("value"))
             for c in domain.iter("cell") for s in c.iter("sibling")
             if int(s.get("id")) < int(c.get("id"))},
            set(re.findall(r"dist,src=(\d+),dst=(\d+),val=(\d+)", line)))
        self.assertEqual(domain.find("devices/controller/pcihole64").text, "4096")
        self.assertIn("highmem-mmio-size=4T", line)
        nodes = [h.find("acpi").get("nodeset") for h in domain.findall("devices/hostdev")]
        self.assertEqual(nodes, ["2-3", "4-5", "6-7", "8-9"])
        self.assertEqual([c.get("cpus") for c in domain.iter("cell")][:3], ["0-3", "4-7", None])
        self.assertEqual([n.get("mode") for n in domain.iter("memnode")], ["strict", "strict"])
        self.assertEqual(self.arguments(domain), [])

    def test_text_is_escaped(self):
        self.machine.add_gpu(A)
        domain = self.domain("--name=a'><b &amp;", "--disk=/srv/a & <b>'\"c.qcow2")
        self.assertEqual(domain.find("name").text, "a'><b &amp;")
        self.assertEqual(domain.find("devices/disk/source").get("file"),
                         "/srv/a & <b>'\"c.qcow2")
        self.assertIn("XML cannot hold", self.refused("qemu-args", "--libvirt", "--name=a\x01"))

    def test_driver_is_named(self):
        self.machine.add_gpu(A)
        domain = self.domain()
        self.assertEqual(domain.find("devices/hostdev/driver").attrib, {
            "name": "vfio", "model": "nvgrace_gpu", "iommufd": "yes"})
        self.assertIsNone(domain.find("devices/emulator"))

    def test_libvirt_without_iommufd(self):
        self.machine.add_gpu(A)
        self.machine.libvirt("11.3.0")
        status, out, err = self.tool("qemu-args", "--libvirt")
        self.assertEqual(status, 0)
        self.assertIn("libvirt 11.3.0 has no iommufd, which 12.1 has", err)
        driver = ElementTree.fromstring(out).find("devices/hostdev/driver")
        self.assertNotIn("iommufd", driver.attrib)

    def test_old_libvirt(self):
        self.machine.add_gpu(A)
        self.machine.libvirt("9.0.0")
        self.assertIn("libvirt 9.0.0 has no <driver model=…>",
                      self.refused("qemu-args", "--libvirt"))
        self.machine.libvirt("12.6.0")
        self.assertIn("libvirt 12.6.0 has no accelerated SMMU: libvirt 12.7 has it",
                      self.refused("qemu-args", "--libvirt", "--smmu"))

    def test_no_libvirt(self):
        self.machine.add_gpu(A)
        self.machine.drop("/usr/bin/virsh")
        status, out, err = self.tool("qemu-args", "--libvirt", "--container")
        self.assertEqual(status, 0)
        self.assertIn("does not say which libvirt this is: the XML is for 10.0", err)
        self.machine.libvirt("10.0.0")
        self.assertEqual(out, self.printed("--libvirt", "--container"))

    def test_too_many_gpus_behind_an_smmu(self):
        self.machine.numa("0", "0", {0: [10]})
        for i in range(9):
            self.machine.add_gpu("%04x:01:00.0" % i, smmu="smmu3.0x11000000")
        self.assertIn("libvirt has room for 8 GPUs behind an SMMU",
                      self.refused("qemu-args", "--libvirt", "--smmu", "--initiators=1"))

    def test_refuses_qemu_arguments(self):
        self.machine.add_gpu(A)
        self.assertIn("--libvirt takes no arguments for QEMU",
                      self.refused("qemu-args", "--libvirt", "--", "-S"))


class Schemas(Case):
    """libvirt's own schemas know each element of the files in golden/."""

    @classmethod
    def setUpClass(cls):
        done = subprocess.run(["bash", "-c", ". scripts/lib.sh; libvirt_schemas"], cwd=TOP,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              universal_newlines=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        cls.schemas = done.stdout.strip()

    def test_golden_files(self):
        """A file is for the version in its name and for those after it."""
        def number(version):
            return tuple(map(int, version.split(".")))

        seen = set()
        for name in sorted(glob.glob(GOLDEN + "/*.xml")):
            of = number(re.search(r"-([\d.]+)\.xml$", name).group(1))
            for version in sorted(os.listdir(self.schemas)):
                if number(version) < of:
                    continue
                seen.add(version)
                with self.subTest("%s, schema of %s" % (os.path.basename(name), version)):
                    done = subprocess.run(
                        ["xmllint", "--noout", "--relaxng",
                         "%s/%s/domain.rng" % (self.schemas, version), name],
                        stderr=subprocess.PIPE, universal_newlines=True, check=False)
                    self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(seen, set(os.listdir(self.schemas)))
