# SPDX-License-Identifier: GPL-2.0-only
"""Cures by distribution, and what check says of a module that is missing, blacklisted or signed."""

import os
import subprocess

from machine import CONFIG, RELEASE, TOP, Case
from nvgrace_gpu.cures import Advice
from nvgrace_gpu.distribution import Distribution
from nvgrace_gpu.signing import serial
from test_check import GPU, Check, complaint

DISTRIBUTIONS = {"debian": ("debian", "", "trixie"), "ubuntu": ("ubuntu", "debian", "noble"),
                 "mint": ("linuxmint", "ubuntu debian", "wilma"), "fedora": ("fedora", "", ""),
                 "rocky": ("rocky", "rhel centos fedora", ""), "rhel": ("rhel", "fedora", ""),
                 "sles": ("sles", "suse", "")}


class Distributions(Case):
    def each(self):
        for name, identity in DISTRIBUTIONS.items():
            self.machine.runs(*identity)
            with self.subTest(name):
                yield name, Distribution(self.machine)

    def expect(self, wanted, function):
        """wanted has the command for some distributions; the others get advice."""
        for name, distribution in self.each():
            cure = function(distribution)
            if name in wanted:
                self.assertEqual(cure, wanted[name])
                self.assertEqual(complaint(cure), "")
                self.assertNotIsInstance(cure, Advice)
            else:
                self.assertIsInstance(cure, Advice)

    def test_qemu(self):
        apt = "apt-get install qemu-system-arm qemu-efi-aarch64"
        dnf = "dnf install qemu-kvm edk2-aarch64"
        self.expect({"debian": apt, "ubuntu": apt, "mint": apt, "rhel": dnf, "rocky": dnf,
                     "fedora": "dnf install qemu-system-aarch64 edk2-aarch64"},
                    lambda d: d.install("qemu"))

    def test_headers(self):
        apt = "apt-get install linux-headers-" + RELEASE
        dnf = "dnf install kernel-devel-" + RELEASE
        self.expect({"debian": apt, "ubuntu": apt, "mint": apt, "rhel": dnf, "rocky": dnf,
                     "fedora": dnf}, lambda d: d.headers())

    def test_headers_of_64_kib_pages(self):
        self.machine.kernel("6.12.0-124.8.1.el10_1.aarch64+64k", CONFIG)
        self.machine.runs("rhel")
        self.assertEqual(Distribution(self.machine).headers(),
                         "dnf install kernel-64k-devel-6.12.0-124.8.1.el10_1.aarch64")

    def test_headers_of_a_kernel_of_this_project(self):
        self.machine.kernel("6.12.117-nvgrace-64k", CONFIG)
        self.assertIsInstance(Distribution(self.machine).headers(), Advice)

    def test_newer_kernel(self):
        """Only Debian's backports have one that is known to be good, if apt knows them."""
        self.expect({}, lambda d: d.newer_kernel())
        self.machine.put("/etc/apt/sources.list.d/b.list", "# deb x trixie-backports main")
        self.expect({}, lambda d: d.newer_kernel())
        self.machine.put("/etc/apt/sources.list.d/b.sources", "Suites: trixie trixie-backports")
        self.expect({"debian": "apt-get install -t trixie-backports linux-image-arm64"},
                    lambda d: d.newer_kernel())

    def test_command_line(self):
        dnf = "grubby --update-kernel=ALL --args='pci=realloc'"
        apt = r"""sed -i -E 's/^GRUB_CMDLINE_LINUX=["\x27]/&pci=realloc /' /etc/default/grub"""
        apt += " && update-grub"
        self.expect({"debian": apt, "ubuntu": apt, "mint": apt, "rhel": dnf, "rocky": dnf,
                     "fedora": dnf}, lambda d: d.command_line(add="pci=realloc"))
        self.machine.drop("/etc/default/grub")
        self.assertIsInstance(Distribution(self.machine).command_line(add="x=y"), Advice)

    def edited(self, text, **what):
        self.machine.put("/etc/default/grub", text)
        command = Distribution(self.machine).command_line(**what)
        command = command.replace("/etc/default/grub", self.machine.path("/etc/default/grub"))
        subprocess.run(command.replace("update-grub", "true"), shell=True, check=True)
        return self.machine.read("/etc/default/grub")

    def test_command_line_is_edited(self):
        """The command for GRUB, run on its file."""
        for quote in "'\"":
            text = "GRUB_CMDLINE_LINUX=%s%s%s\nGRUB_TIMEOUT=5"
            self.assertEqual(self.edited(text % (quote, "quiet", quote), add="pci=realloc"),
                             text % (quote, "pci=realloc quiet", quote))
            for words, left in (("iommu=off", ""), ("quiet iommu=off a=b", "quiet  a=b"),
                                ("x.iommu=off iommu=offline", "x.iommu=off iommu=offline")):
                self.assertEqual(self.edited(text % (quote, words, quote), remove="iommu=off"),
                                 text % (quote, left, quote))


class NotInstalled(Check):
    """Nothing of the module is below /lib/modules of the running kernel."""

    def setUp(self):
        super().setUp()
        self.machine.drop("/sys/module/nvgrace_gpu")
        self.machine.put("/lib/modules/%s/modules.dep" % RELEASE, "")
        self.machine.drop("/lib/modules/%s/updates" % RELEASE)

    def with_dkms(self):
        self.machine.put("/usr/src/nvgrace-gpu-1.0/dkms.conf", "")
        self.machine.symlink("/var/lib/dkms/nvgrace-gpu/1.0/source", "/usr/src/nvgrace-gpu-1.0")

    def missing(self, *cures, text):
        self.fault("module.loaded", *cures, also=["gpu.after_reboot"], text=text)

    def test_dkms_did_not_build_it(self):
        self.with_dkms()
        self.missing("dkms install nvgrace-gpu/1.0 -k " + RELEASE, text="was not installed")

    def test_only_the_source_is_there(self):
        self.machine.put("/usr/src/nvgrace-gpu-1.1/dkms.conf", "")
        self.missing("dkms install nvgrace-gpu/1.1 -k " + RELEASE, text="was not installed")

    def test_no_headers(self):
        self.with_dkms()
        self.machine.drop("/lib/modules/%s/build" % RELEASE)
        self.missing("apt-get install linux-headers-" + RELEASE, "dkms install",
                     text="its headers are missing")

    def test_headers_are_a_link_to_nowhere(self):
        """RHEL's package of the kernel has the link, and another one has the headers."""
        self.machine.runs("rhel")
        self.machine.drop("/lib/modules/%s/build" % RELEASE)
        for target in ("/usr/src/kernels/" + RELEASE, "../../../usr/src/kernels/" + RELEASE):
            self.machine.symlink("/lib/modules/%s/build" % RELEASE, target)
            self.missing("dnf install kernel-devel-" + RELEASE, text="its headers are missing")
        self.machine.put("/usr/src/kernels/%s/Makefile" % RELEASE, "")
        self.missing("- in the source of this driver", text="was not installed")

    def test_dkms_failed(self):
        self.with_dkms()
        log = "/var/lib/dkms/nvgrace-gpu/1.0/build/make.log"
        self.machine.put(log, "DKMS make.log for nvgrace-gpu-1.0 for kernel %s (aarch64)\n"
                         "make -C x\nnvgrace_gpu_mem.c:7: error: too bad\nmake: *** [all] Error 2" %
                         RELEASE)
        self.missing("dkms install", text=log + ": nvgrace_gpu_mem.c:7: error: too bad")

    def test_dkms_failed_for_another_kernel(self):
        self.with_dkms()
        self.machine.put("/var/lib/dkms/nvgrace-gpu/1.0/build/make.log",
                         "DKMS make.log for nvgrace-gpu-1.0 for kernel 6.1 (aarch64)\nerror: x")
        self.missing("dkms install", text="was not installed")


class Make(Case):
    DKMS = """echo "$*" >> {0}/calls
case $1 in
status) cat {0}/added 2> /dev/null; exit 0 ;;
add) [ ! -e {0}/added ] || exit 3; echo "$2: added" > {0}/added ;;
remove) rm {0}/added ;;
install) [ -e {0}/usr/src/nvgrace-gpu-1.0/dkms.conf ] ;;
esac"""

    def test_dkms_install_twice(self):
        """dkms add fails if DKMS has this version already."""
        self.machine.executable("dkms", self.DKMS.format(self.machine.root))
        for _ in range(2):
            subprocess.run(["make", "-C", TOP, "dkms-install", "KRELEASE=" + RELEASE,
                            "DESTDIR=" + self.machine.root], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           env={**os.environ, "PATH": "%s:%s" % (self.machine.path("/usr/bin"),
                                                                 os.environ["PATH"])})
        calls = [line.split()[0] for line in self.machine.read("/calls").splitlines()]
        self.assertEqual(calls, ["status", "add", "install", "status", "remove", "add", "install"])


class Blacklist(Check):
    def test_lines(self):
        for line in ("blacklist nvgrace_gpu", "install nvgrace-gpu /bin/false",
                     "  install nvgrace_gpu /usr/bin/true"):
            self.machine.put("/etc/modprobe.d/x.conf", line)
            self.fault("module.blacklist", "sed -i -E", "/etc/modprobe.d/x.conf", text=line.strip())
            cure = self.checks()[1]["module.blacklist"]["cure"][0]
            path = self.machine.path("/etc/modprobe.d/x.conf")
            subprocess.run(cure.replace("/etc/modprobe.d/x.conf", path), shell=True, check=True)
            self.told("module.blacklist", "neither")

    def test_lines_that_do_not_matter(self):
        for line in ("# blacklist nvgrace_gpu", "blacklist nvgrace_gpu_vfio_pci",
                     "install nvgrace_gpu modprobe vfio; modprobe -i nvgrace_gpu"):
            self.machine.put("/etc/modprobe.d/x.conf", line)
            self.told("module.blacklist", "neither")

    def test_file_that_another_one_replaces(self):
        self.machine.put("/usr/lib/modprobe.d/x.conf", "blacklist nvgrace_gpu")
        self.machine.put("/etc/modprobe.d/x.conf", "")
        self.told("module.blacklist", "neither")

    def test_command_line(self):
        for word in ("modprobe.blacklist=nvgrace-gpu", "module_blacklist=nvgrace_gpu"):
            self.machine.put("/proc/cmdline", "quiet " + word)
            self.fault("module.blacklist", "update-grub", "- then reboot", text=word)
        self.machine.put("/proc/cmdline", "modprobe.blacklist=nouveau,nvgrace_gpu")
        self.fault("module.blacklist", "- take nvgrace_gpu out of modprobe.blacklist=nouveau")
        self.machine.put("/proc/cmdline", "modprobe.blacklist=nouveau")
        self.told("module.blacklist", "neither")


class SecureBoot(Check):
    """The kernel loads signed modules only, and has not loaded ours."""

    REFUSED = "Loading of module with unavailable key is rejected"
    IMPORT = "mokutil --import /var/lib/dkms/mok.pub"

    def setUp(self):
        super().setUp()
        self.machine.drop("/sys/module/nvgrace_gpu")
        self.machine.put("/sys/kernel/security/lockdown", "none [integrity] confidentiality")

    def wrong(self, *cures, text):
        self.fault("module.signature", *cures, also=["module.loaded"], text=text)

    def packed(self, name):
        """The module is where DKMS puts it, compressed."""
        base = "/lib/modules/" + RELEASE
        self.machine.put(base + "/" + name, "")
        self.machine.put(base + "/modules.dep", name + ":")

    def test_enrolled(self):
        self.told("module.signature", "signed by 'DKMS module signing key'; that key is enrolled")

    def test_enrolled_as_mokutil_says_it(self):
        """mokutil ends with 1 if the key is enrolled."""
        self.machine.enrolled("is already enrolled", 1)
        self.told("module.signature", "that key is enrolled")

    def test_not_enrolled(self):
        self.machine.enrolled("is not enrolled")
        self.wrong(self.IMPORT, "- then reboot", text="is not enrolled")

    def test_not_enrolled_on_ubuntu(self):
        """There the module is compressed, and DKMS signs with the key of shim-signed."""
        self.machine.runs("ubuntu", "debian", "noble")
        self.packed("updates/dkms/nvgrace_gpu.ko.zst")
        self.machine.signed("host Secure Boot Module Signature key",
                            "/var/lib/shim-signed/mok/MOK.der", number=0x8F00112233445566778899AA)
        self.machine.enrolled("is not enrolled")
        self.wrong("mokutil --import /var/lib/shim-signed/mok/MOK.der", text="(/var/lib/shim-")

    def test_to_be_enrolled(self):
        self.machine.enrolled("is already in the enrollment request", 1)
        self.wrong("- then reboot", text="at the next boot")

    def test_what_the_log_said(self):
        self.machine.say(self.REFUSED)
        self.machine.enrolled("is not enrolled")
        self.wrong(self.IMPORT, text=self.REFUSED)
        self.machine.enrolled("is already enrolled")
        self.wrong("- reboot: the kernel reads enrolled keys", text=self.REFUSED)

    def test_signed_with_another_key(self):
        self.machine.signed("somebody", number=0x4711)
        self.cannot_tell("module.signature",
                         "signed by 'somebody', whose certificate is in neither")
        self.machine.say(self.REFUSED)
        self.wrong("- find the certificate", text="'somebody'")

    def test_no_mokutil(self):
        self.machine.drop("/usr/bin/mokutil")
        self.cannot_tell("module.signature", "mokutil, which knows")
        self.machine.say("Lockdown: modprobe: unsigned module loading is restricted; see man")
        self.wrong("apt-get install mokutil", self.IMPORT, text="Lockdown")

    def test_mokutil_without_efi(self):
        self.machine.executable("mokutil", "echo EFI variables are not supported; exit 255")
        self.cannot_tell("module.signature", "EFI variables are not supported")

    def test_unsigned(self):
        self.machine.signed("")
        name = "/lib/modules/%s/updates/nvgrace_gpu.ko" % RELEASE
        self.wrong("openssl req", "sign-file sha512 mok.key mok.der " + name,
                   "mokutil --import mok.der", text="is not signed")

    def test_unsigned_and_compressed(self):
        self.machine.signed("")
        self.packed("updates/nvgrace_gpu.ko.xz")
        self.wrong("xz -d /lib/modules/%s/updates/nvgrace_gpu.ko.xz" % RELEASE,
                   "mok.der /lib/modules/%s/updates/nvgrace_gpu.ko\ndepmod" % RELEASE,
                   text="is not signed")

    def test_unsigned_by_dkms(self):
        self.machine.signed("")
        self.machine.put("/usr/src/nvgrace-gpu-1.0/dkms.conf", "")
        self.packed("updates/dkms/nvgrace_gpu.ko.xz")
        self.wrong("dkms build --force nvgrace-gpu/1.0", self.IMPORT, text="is not signed")
        self.machine.runs("ubuntu", "debian", "noble")
        self.wrong("update-secureboot-policy --new-key",
                   "mokutil --import /var/lib/shim-signed/mok/MOK.der", text="is not signed")

    def test_enforced_without_lockdown(self):
        self.machine.put("/sys/kernel/security/lockdown", "[none] integrity confidentiality")
        self.told("module.signature", "without a signature")
        self.machine.put("/sys/module/module/parameters/sig_enforce", "Y")
        self.told("module.signature", "that key is enrolled")

    def test_lockdown_is_not_known(self):
        self.machine.drop("/sys/kernel/security/lockdown")
        self.told("module.signature", "without a signature")
        self.machine.config_is(CONFIG + ["SECURITY_LOCKDOWN_LSM"])
        self.cannot_tell("module.signature", "is securityfs mounted?")

    def test_dropin(self):
        self.machine.put("/sys/kernel/security/lockdown", "[none] integrity confidentiality")
        self.machine.driver("nvgrace_gpu")
        self.machine.dropin()
        self.machine.drop("/sys/module/nvgrace_gpu_vfio_pci")
        self.machine.put("/sys/module/module/parameters/sig_enforce", "Y")
        self.machine.signed("")
        self.assertIn("nvgrace_gpu_vfio_pci.ko is not signed",
                      self.checks()[1]["module.signature"]["text"])

    def test_files_that_are_not_certificates(self):
        for data in (b"", b"\x30", b"\x30\x82\x01", b"\x30\x02\x30\x00",
                     b"-----BEGIN CERTIFICATE-----"):
            self.assertIsNone(serial(data), data)
            self.machine.put("/var/lib/dkms/mok.pub", data)
            self.cannot_tell("module.signature", "whose certificate is in neither")


class Lockdown(Check):
    def test_root_is_not_told_to_be_root(self):
        self.unbound()
        real = self.machine.read_bytes

        def read_bytes(name, size=-1):
            if name.endswith("/config"):
                raise PermissionError(1, "Operation not permitted", self.machine.path(name))
            return real(name, size)

        self.machine.read_bytes = read_bytes
        self.cannot_tell("gpu.present", "Operation not permitted; the kernel's lockdown may")
        self.machine.become("me")
        self.cannot_tell("gpu.present", "Operation not permitted; try as root")


class Groups(Check):
    def test_drivers_of_vfio_do_not_block_a_group(self):
        other = "/sys/bus/pci/devices/0009:01:00.1"
        self.machine.put("/sys/kernel/iommu_groups/20/devices/0009:01:00.1", "")
        self.machine.put(other + "/class", "0x010802")
        for driver in ("vfio-pci", "mlx5_vfio_pci", "pci-stub", "nvgrace_gpu"):
            self.machine.symlink(other + "/driver", "../../../bus/pci/drivers/" + driver)
            self.told("gpu.group", "IOMMU group 20")

    def test_no_iommu_mode_binds_without_a_group(self):
        self.machine.unbound(GPU)
        self.machine.remove("/sys/bus/pci/devices/%s/iommu_group" % GPU)
        self.assertIn("no IOMMU group", self.refused("bind", GPU))
        self.machine.put("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y")
        self.assertIn("bound to nvgrace_gpu", self.output("bind", GPU))
