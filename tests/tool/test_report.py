# SPDX-License-Identifier: GPL-2.0-only
"""nvgrace-gpu report: what a bug report needs is in it, and what identifies a machine is not."""

import os
import re

from machine import Case
from nvgrace_gpu.host import Host
from nvgrace_gpu.redact import redact, redact_log

GPU = "0009:01:00.0"
HOST = "grace-host-17"

# Each kind in at least three spellings, as logs and tools have them.
KINDS = {
    "serial number": ("Serial Number: 1323223012345", "S/N 1652723000123", "SN:1652723000124",
                      "serial=MT2242X00765", "Board Serial Number: 1652723000125",
                      "Device Serial Number 48-b0-2d-ff-ff-9a-bc-de", "serial no. '0123456789'"),
    "UUID": ("11111111-2222-3333-4444-55555555555f", "GPU-DEADBEEF-1111-2222-3333-444455556666",
             "{0a0b0c0d-1111-2222-3333-444455556666}", "0123456789abcdef0123456789abcdef"),
    "MAC": ("a0:36:9f:11:22:33", "A0-36-9F-11-22-34", "a036.9f11.2235",
            "00:11:22:ff:fe:33:44:55",
            "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0a:bb:cc"),
    "IPv4": ("10.1.2.3", "10.0.0.5:4711", "192.168.17.4/24", "ip=172.16.0.9,"),
    "IPv6": ("fe80::aa00:4cff:fe12:3456", "[2001:db8:1:2::1]:443", "FE80::1%eth0",
             "2001:0db8:0000:0000:0000:0000:0000:0001", "::ffff:10.9.8.7"),
    "host": (HOST, HOST.upper(), HOST + ".example.org", "<%s>" % HOST,
             "nfs://%s/share" % HOST),
    "secret": ("password=hunter2", "token: s3cr3t", "api_key = foo"),
}
# This is left in place of a value.
LEFT = re.compile(r"<(serial|uuid|address|ip|host|removed)>")


class Report(Case):
    def setUp(self):
        super().setUp()
        self.machine.add_gpu(GPU)
        self.machine.put("/proc/sys/kernel/hostname", HOST)

    def report(self, *argv):
        out = self.output("report", "-o", "-", *argv)
        return out, dict(re.findall(r"^== (.*)\n((?:(?!== ).*\n)*)", out, re.M))

    def test_contents(self):
        self.machine.put("/sys/module/nvgrace_gpu/srcversion", "ABCDEF0123456789ABCDEF0")
        self.machine.put("/proc/driver/nvidia/version", "NVRM version: 580.95.05")
        self.machine.put("/sys/devices/system/node/has_generic_initiator", "2-9")
        self.machine.put("/sys/kernel/security/lockdown", "none [integrity] confidentiality")
        self.machine.say("nvgrace_gpu %s: reset done" % GPU)
        out, sections = self.report()
        self.assertEqual(list(sections), [
            "versions", "secure boot", "check", "list", "grace_selftest", "command line, in part",
            "parameters of modules", "options of the kernel", "NUMA nodes",
            "PCI functions of NVIDIA", "GPUs of NVIDIA's driver",
            "/proc/iomem, the GPUs' memory and EGM", "EGM", "files of the driver",
            "log of the kernel, in part"])
        for section, text in (
                ("versions", "nvgrace-gpu: 1."), ("versions", "kernel: 7.3.4-grace"),
                ("versions", "nvgrace_gpu on disk: of srcversion"),
                ("versions", "nvgrace_gpu loaded: ABCDEF"), ("versions", "QEMU: QEMU emulator"),
                ("versions", "libvirt: unknown: libvirtd is not installed"),
                ("versions", "NVIDIA's driver: NVRM version: 580.95.05"),
                ("secure boot", "lockdown: none [integrity]"),
                ("secure boot", "signer: DKMS module signing key"),
                ("secure boot", "sig_enforce: unknown: "), ("check", "gpu.memory: 95.5 GiB"),
                ("list", "usemem BAR4"), ("options of the kernel", "CONFIG_VFIO=y"),
                ("command line, in part", "iommu.strict=1"),
                ("parameters of modules", "nvgrace_gpu.usemem_bar=4"),
                ("NUMA nodes", "has_generic_initiator: 2-9"),
                ("files of the driver", "%s state: ready c2c_link=0xff" % GPU),
                ("log of the kernel, in part", "%s: reset done" % GPU)):
            self.assertIn(text, sections[section])

    def test_lines_of_the_log_that_help(self):
        lines = ("Loading of unsigned module is rejected",
                 "Loading of module with unavailable key is rejected",
                 "Lockdown: modprobe: unsigned module loading is restricted; see man "
                 "kernel_lockdown.7",
                 "nvgrace_gpu: module verification failed: signature and/or required key missing - "
                 "tainting kernel",
                 "NVRM: Xid (PCI:0009:01:00): 79, pid='<unknown>', GPU has fallen off the bus.",
                 "pcieport 0009:00:00.0: DPC: containment event, status:0x1f01",
                 "pcieport 0009:00:00.0: EDR: EDR event received",
                 "pcieport 0009:00:00.0: AER: Uncorrectable (Fatal) error message received",
                 "{1}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 1",
                 "ACPI: SRAT: Node 2 PXM 2 [mem 0x0-0x0] hotplug", "EDAC MC0: 1 CE",
                 "arm-smmu-v3 arm-smmu-v3.10.auto: ias 48-bit, oas 48-bit (features 0x000e1fbf)",
                 "Memory failure: 0x42000001: recovery action for reserved kernel page: Ignored",
                 "nvgrace_gpu %s: usemem [mem 0x420000000000-0x42175fffffff] is BAR2, backed "
                 "0x1760000000 bar_size 0x2000000000; NVIDIA's guest driver needs usemem_bar=4" %
                 GPU,
                 "kvm [4711]: Unexpected vfio PFNMAP")
        self.machine.say(*lines)
        log = self.report()[1]["log of the kernel, in part"].splitlines()
        for line in lines:
            self.assertIn(line, log)

    def test_each_kind_in_each_spelling(self):
        for kind, spellings in KINDS.items():
            for spelling in spellings:
                with self.subTest(spelling):
                    self.machine.say("vfio: %s of a guest" % spelling)
                    out, sections = self.report()
                    self.assertNotIn(spelling, out, kind)
                    line = sections["log of the kernel, in part"].rstrip().split("\n")[-1]
                    self.assertRegex(line, r"^vfio: .*of a guest$")
                    # No part of the value is left either, but a port or a prefix.
                    left = LEFT.sub("", re.sub(r"<ip>\]?[:/]\d+", "<ip>", line))
                    self.assertNotRegex(left, r"\d|[:.-][0-9a-fA-F]{2}|hunter|foo|" + HOST, line)
                    self.assertRegex(line, LEFT)

    def test_names_in_the_log(self):
        self.machine.say("NVRM: Xid (PCI:0009:01:00): 31, pid=4, name=acme_job, Ch 00000008",
                         "kvm: guest 'acme-customer-42' stopped", "vfio: Comm: acme_job Tainted",
                         "nvgrace_gpu %s: VM acme-customer-42" % GPU,
                         "iommu: peer storage.acme.example")
        out = self.report()[0]
        self.assertNotIn("acme", out)
        self.assertIn("Xid (PCI:0009:01:00): 31, pid=4, name=<removed>, Ch 00000008", out)

    def test_lines_of_programs(self):
        """They write to the kernel's log, too, and tell more than the kernel does."""
        with open(self.machine.path("/dev/kmsg"), "a", encoding="utf-8") as f:
            f.write("30,99,99,-;systemd[1]: Started vfio of acme\n")
        self.assertNotIn("acme", self.report()[0])

    def test_processes(self):
        self.machine.opened(4711, "acme-cust-42", "/dev/vfio/20")
        self.machine.opened(4712, "qemu-system-aar", "/dev/vfio/20")
        out = self.report()[0]
        self.assertNotIn("acme", out)
        self.assertIn("4711 (<process>)", out)
        self.assertIn("4712 (qemu-system-aar)", out)

    def test_command_line(self):
        safe = ("iommu.passthrough=1 kvm-arm.mode=nvhe numa_balancing=disable init_on_alloc=0 "
                "default_hugepagesz=512M vfio_iommu_type1.allow_unsafe_interrupts=1 pci=realloc")
        self.machine.put("/proc/cmdline", "root=UUID=x ip=10.0.0.5 acpi_osi=acme vfio_token=s3 "
                         "kvmfoo=acme " + safe)
        self.assertEqual(self.report()[1]["command line, in part"].strip(), safe)

    def test_what_is_not_a_secret(self):
        for text in (GPU, "0009:01:00.0 [10de:2342]", "12:34:56", "serial console ttyS0",
                     "serial8250: ttyS0", "6.12.117-1~deb12u1", "1:11.0.1+ds-1", "std::vector",
                     "::",
                     "0x420000000000-0x42175fffffff", "smmu3.0x11000000", "required key missing",
                     "ABCDEF0123456789ABCDEF0", "nvgrace_gpu.ko.zst", "7.3.4-grace",
                     "gpu.memory.free", "linux-image-6.12.117-nvgrace-64k"):
            self.assertEqual(redact(text, ("grace",)), text)
        self.assertEqual(redact("on grace.example.org", ("grace",)), "on <host>")
        self.assertEqual(redact("localhost", ("localhost",)), "localhost")
        self.assertEqual(redact_log("hostname=foo.bar"), "hostname=<host>")

    def test_selftest(self):
        self.machine.add_gpu("0019:01:00.0", driver=None)
        self.assertIn("not run, because it resets", self.report()[1]["grace_selftest"])
        self.machine.executable("grace_selftest", "echo $1 usemem is Device memory; exit 1")
        program = self.machine.path("/usr/bin/grace_selftest")
        said = self.report("--selftest", program)[1]["grace_selftest"]
        self.assertIn("%s: exit status 1\n%s usemem is Device memory" % (GPU, GPU), said)
        self.assertIn("0019:01:00.0: not run, because the GPU is in use or not bound", said)
        self.assertIn("/nowhere: No such file",
                      self.report("--selftest", "/nowhere")[1]["grace_selftest"])
        self.machine.opened(4712, "qemu-system-aar", "/dev/vfio/20")
        self.assertNotIn("exit status", self.report("--selftest", program)[1]["grace_selftest"])

    def test_file(self):
        name = self.machine.path("/report.txt")
        for _ in range(2):
            self.output("report", "--output", name)
            self.assertIn("== check\n", self.machine.read("/report.txt"))
            self.assertEqual(os.stat(name).st_mode & 0o777, 0o600)
            os.chmod(name, 0o644)
        self.assertEqual([n for n in self.machine.list("/") if n.startswith(".")], [])

    def test_file_that_is_a_link(self):
        self.machine.put("/victim", "precious")
        self.machine.symlink("/link.txt", self.machine.path("/victim"))
        os.mkfifo(self.machine.path("/fifo"))
        for name in ("/link.txt", "/fifo", "/proc"):
            self.assertIn("is not a regular file",
                          self.refused("report", "-o", self.machine.path(name)))
        self.assertEqual(self.machine.read("/victim"), "precious")
        self.assertIn("No such file", self.refused("report", "-o", "/nowhere/report.txt"))

    def test_empty_host(self):
        machine = Host(self.machine.path("/empty"))
        self.machine = machine
        machine.close = None
        out = self.output("report", "-o", "-")
        self.assertNotIn("Traceback", out)
