# SPDX-License-Identifier: GPL-2.0-only
"""nvgrace-gpu check: each fault, alone on a machine on which all else is well, is named with
its cure; what the tool does not know is named with the reason."""

import glob
import json
import os
import re
import struct
import subprocess
from unittest import mock

from machine import BOOT, CONFIG, DROPIN, TOP, Case, aml_package
from nvgrace_gpu.cures import explain
from nvgrace_gpu.gpu import Gpu

GPU = "0009:01:00.0"
RULE = "/etc/udev/rules.d/60-nvgrace-gpu-%s.rules" % GPU


def without(*options):
    return [o for o in CONFIG if o not in options]


# The programs with which a command of a cure may begin.
PROGRAMS = ("apt-get chgrp chmod daxctl depmod dkms dnf do done driverctl echo for grubby mokutil "
            "modprobe nvgrace-gpu openssl /lib/modules/*/build/scripts/sign-file sed sleep sysctl "
            "udevadm update-grub update-secureboot-policy usermod xz zstd lspci").split()


def complaint(cure):
    """Why a cure is not a command that can be pasted, or ''."""
    if re.search(r"#(?!&)|\.\.\.|\b[A-Z]{4,}\b(?![=_])", re.sub(r"'[^']*'|\$\w+", "", cure)):
        return "a comment or a placeholder"
    if re.search(r"\breboot\b|poweroff|shutdown|halt|power (cycle|off|reset)", cure):
        return "it ends the host"
    for command in re.split(r"&&|\|\||;|\|", re.sub(r"'[^']*'|\$\([^)]*\)", "x", cure)):
        program = re.sub(r"/\d[^/]*/build", "/*/build", command.split()[0])
        if program not in PROGRAMS:
            return program + " is not a program"
    done = subprocess.run(["bash", "-n"], input=cure, stderr=subprocess.PIPE, check=False,
                          universal_newlines=True)
    return done.stderr


class Check(Case):
    """fault(NAME, CURE) is for one fault; told(NAME, TEXT) for a line that is not a fault."""

    def setUp(self):
        super().setUp()
        self.gpu = self.machine.add_gpu(GPU)

    def checks(self, *argv):
        status, out, err = self.tool("check", "--json", *argv)
        self.assertEqual(err, "")
        checks = {c["name"]: c for c in json.loads(out)["checks"]}
        for check in checks.values():
            for cure in check["cure"]:
                self.assertEqual((cure, complaint(cure)), (cure, ""))
        return status, checks

    def fault(self, name, *cures, argv=(), also=(), text=""):
        """Only this is to fix, and these are commands of its cure."""
        status, checks = self.checks(*argv)
        self.assertEqual(status, 1)
        self.assertEqual({n for n, c in checks.items() if c["status"] == "fix"}, {name, *also},
                         {n: c["text"] for n, c in checks.items() if c["status"] == "fix"})
        self.cured(checks[name], cures, text)

    def cured(self, check, cures, text):
        """A cure is a command; one that begins with "- " is advice."""
        lines = check["cure"] + ["- " + line for line in check["advice"]]
        for cure in cures:
            self.assertIn(cure, "\n".join(lines))
        self.assertTrue(cures)
        self.assertIn(text, check["text"])

    def risk(self, name, *cures, text=""):
        """Nothing is to fix, and this is the only risk."""
        status, checks = self.checks()
        self.assertEqual({n: c["status"] for n, c in checks.items() if c["status"] != "ok"},
                         {name: "risk"})
        self.assertEqual(status, 0)
        self.cured(checks[name], cures, text)

    def cannot_tell(self, name, reason, argv=()):
        _, checks = self.checks(*argv)
        self.assertEqual(checks[name]["status"], "cannot tell", checks[name])
        self.assertIn(reason, checks[name]["text"])

    def told(self, name, text, better=""):
        _, checks = self.checks()
        self.assertEqual(checks[name]["status"], "ok", checks[name])
        self.assertIn(text, checks[name]["text"])
        self.assertIn(better, "\n".join(checks[name]["better"]))

    def attr(self, name, value):
        self.machine.put("/sys/bus/pci/devices/%s/%s" % (GPU, name), value)

    def unbound(self):
        self.machine.unbound(GPU)

    def says(self, name, text):
        """A file of the driver has this text."""
        self.attr("nvgrace_gpu/" + name, text)


class AllIsWell(Check):
    def test_all_ok(self):
        status, checks = self.checks()
        self.assertEqual([(n, c["text"]) for n, c in checks.items() if c["status"] != "ok"], [])
        self.assertEqual(status, 0)
        self.assertGreater(len(checks), 30)

    def test_every_kind_of_gpu(self):
        self.machine.add_gpu("0019:01:00.0", "GB200")
        self.machine.add_gpu("0029:01:00.0", "GB300")
        status, out, _ = self.tool("check")
        self.assertEqual(status, 0, out)
        self.assertIn("\n0029:01:00.0\n", out)
        self.assertRegex(out, r"\d+ ok, 0 to fix, 0 risks, 0 unknown\n$")

    def test_quiet_leaves_out_what_is_ok(self):
        """The exit status is 3 if the tool does not know all, so -q says what that is."""
        self.machine.put("/proc/sys/vm/memory_failure_recovery", "0")
        self.machine.drop("/proc/self/smaps")
        self.unbound()
        status, out, _ = self.tool("check", "-q")
        self.assertEqual([line.split(":")[0] for line in out.splitlines() if line[0] != " "],
                         ["cannot tell  kernel.page_size", "risk         mm.memory_failure",
                          "0009", "fix          gpu.driver", "cannot tell  gpu.ready",
                          "cannot tell  gpu.nodes", out.splitlines()[-1]])
        self.assertRegex(out, r"\n\d+ ok, 1 to fix, 1 risk, 3 unknown\n$")
        self.machine.bound(GPU, "nvgrace_gpu")
        self.assertEqual(self.tool("check", "-q")[0], 3)

    def test_advice_is_not_a_command(self):
        self.machine.put("/proc/cmdline", "iommu=off")
        self.machine.drop("/sys/class/iommu")
        out = self.tool("check")[1]
        self.assertIn("\n                 sed -i", out)
        self.assertIn("\n                 - then reboot\n", out)

    def test_better_on_request(self):
        self.machine.remove(RULE)
        self.assertNotIn("better:", self.output("check"))
        self.assertIn("nvgrace-gpu bind --persist", self.output("check", "--better"))

    def test_refusals_have_a_meaning(self):
        """Each refusal in Documentation/trouble.rst."""
        refusals = ("nvidia,gpu-mem-base-pa: 0x1 without nvidia,gpu-mem-size means that the C2C",
                    "nvidia,gpu-mem-size: 0x0 means that the C2C link to the GPU did not come up",
                    "BAR0+0x1498 (C2C link) reads 0x5, a failure code: the link did not come up",
                    "nvidia,gpu-mem-size: 0x1 without nvidia,gpu-mem-base-pa",
                    "nvidia,gpu-mem-size: not an unsigned 64-bit integer",
                    "nvidia,gpu-mem-size: 0x1 is not a multiple of the page size, 0x1000",
                    "nvidia,gpu-mem-base-pa: 0x1 is beyond phys_addr_t",
                    "nvidia,gpu-mem-base-pa: 0x1 + 0x1 wraps around",
                    "nvidia,gpu-mem-base-pa: 0x1 + 0x1 overlaps System RAM",
                    "nvidia,gpu-mem-base-pa: usemem [mem 0x1-0x2] is in use, see /proc/iomem",
                    "nvidia,gpu-mem-size: 0x1 is too small to split, the least is 0x60000000",
                    "nvidia,gpu-mem-size: 0x1 is too large, a VFIO region has 0x1 at most",
                    "not ready after 30 s: BAR0+0x1498 (C2C link) reads 0x0, BAR0+0x200bc",
                    "BAR0 and config space read all ones: the GPU is gone",
                    "BAR0: [mem 0x1-0x2 64bit pref] is in use, see /proc/iomem",
                    "cannot be enabled",
                    "DVSEC at config offset 0x150: cannot be read",
                    "no IOMMU: switch the SMMU on in the firmware's setup")
        for line in refusals:
            self.assertTrue(explain(self.gpu, "error -EIO: " + line), line)


class KernelFaults(Check):
    def test_kernel_too_old(self):
        self.machine.kernel("6.8.0-64k", CONFIG)
        self.fault("kernel.version", "linux-image-arm64")

    def test_kernel_too_old_elsewhere(self):
        self.machine.runs("ubuntu", "debian", "noble")
        self.machine.kernel("6.8.0-64k", CONFIG)
        self.fault("kernel.version", "- run Linux 7.3 or newer")

    def test_not_arm(self):
        self.machine.put("/proc/sys/kernel/arch", "x86_64")
        self.fault("kernel.version", "- run nvgrace-gpu on the Grace", text="x86_64")

    def test_device_memory_before_6_17(self):
        for release in ("6.12.117", "6.14.0-1018-nvidia"):
            self.machine.kernel(release, CONFIG)
            self.machine.caps[243] = 0
            self.fault("kvm.cacheable_pfnmap", "trixie-backports", text="Device memory")

    def test_refused_memory_from_6_17_on(self):
        for release in ("6.17.0-1014-nvidia-64k", "7.3.4"):
            self.machine.kernel(release, CONFIG)
            self.machine.caps[243] = 0
            self.fault("kvm.cacheable_pfnmap", "- use a machine with Grace's CPU",
                       text="KVM refuses usemem to guests")

    def test_mbind_by_version(self):
        """7.3 has the fix; all before it from 6.12 on have the same code."""
        for release in ("6.12.117", "6.12.0-124.8.1.el10_1.aarch64+64k"):
            self.machine.kernel(release, CONFIG)
            self.risk("kernel.mbind", "trixie-backports", text="seen on 6.12")
        for release in ("6.13.0", "6.17.0-1014-nvidia-64k", "6.19.2", "7.2.9"):
            self.machine.kernel(release, CONFIG)
            self.risk("kernel.mbind", "trixie-backports", text=release[:4].rstrip("."))
        for release in ("7.3.0", "7.3.4+deb13-arm64", "8.0.1"):
            self.machine.kernel(release, CONFIG)
            self.told("kernel.mbind", "is safe")

    def test_mbind_on_the_kernel_of_deb_kernel(self):
        """Only the name of the release says that the patch is in: KVM's part may be a vendor's."""
        self.machine.kernel("6.12.117-nvgrace-64k", CONFIG)
        self.told("kernel.mbind", "make deb-kernel")

    def test_cpu_without_fwb(self):
        self.machine.caps[243] = 0
        self.machine.boot = [b for b in BOOT if "Write-Back" not in b]
        self.machine.write_log()
        self.fault("cpu.fwb", "- use a machine with Grace's CPU", also=["kvm.cacheable_pfnmap"])

    def test_cpu_without_dic(self):
        self.machine.caps[243] = 0
        self.machine.boot = list(BOOT[:2])
        self.machine.write_log()
        self.fault("cpu.dic", "- use a machine with Grace's CPU", also=["kvm.cacheable_pfnmap"])

    def test_no_kvm_device(self):
        self.machine.drop("/dev/kvm")
        self.fault("kvm.device", "- dmesg | grep -i kvm")

    def test_started_at_el1(self):
        self.machine.drop("/dev/kvm")
        self.machine.say("kvm [1]: HYP mode not available")
        self.fault("kvm.device", "- have firmware start Linux at EL2", text="EL1")

    def test_smmu_off(self):
        self.machine.drop("/sys/class/iommu")
        self.machine.remove("/sys/bus/pci/devices/%s/iommu_group" % GPU)
        self.fault("iommu.smmu", "- reboot into the firmware's setup", also=["gpu.group"])

    def test_smmu_off_by_command_line(self):
        self.machine.drop("/sys/class/iommu")
        self.machine.put("/proc/cmdline", "root=/dev/sda1 iommu=off quiet")
        self.fault("iommu.smmu", "update-grub", text="command line")

    def test_no_iommu_mode(self):
        self.machine.put("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y")
        self.risk("iommu.noiommu", "echo N > /sys/module/vfio")

    def test_config_without_vfio(self):
        self.machine.config_is(without("VFIO_PCI_CORE"))
        self.fault("config.vfio", "- run a kernel that is built with CONFIG_VFIO_PCI_CORE")

    def test_config_without_smmu(self):
        self.machine.config_is(without("ARM_SMMU_V3"))
        self.fault("config.smmu", "CONFIG_ARM_SMMU_V3")

    def test_config_without_huge_pfnmap(self):
        self.machine.config_is(without("ARCH_SUPPORTS_PMD_PFNMAP", "TRANSPARENT_HUGEPAGE"))
        self.fault("config.huge_pfnmap", "CONFIG_TRANSPARENT_HUGEPAGE and CONFIG_ARCH_")

    def test_config_without_memory_failure(self):
        self.machine.config_is(without("MEMORY_FAILURE"))
        self.risk("config.memory_failure", "CONFIG_MEMORY_FAILURE")

    def test_config_without_container_and_iommufd(self):
        self.machine.config_is(without("IOMMUFD", "VFIO_CONTAINER"))
        self.fault("config.container_or_iommufd", "CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV")

    def test_debians_config_is_no_fault(self):
        self.machine.config_is(without("IOMMUFD", "VFIO_DEVICE_CDEV", "VFIO_PCI_DMABUF"))
        self.told("config.container_or_iommufd", "QEMU uses the container", "CONFIG_IOMMUFD")
        self.told("config.dmabuf", "peer devices cannot", "CONFIG_VFIO_PCI_DMABUF")
        self.machine.kernel("6.19.0", CONFIG)
        self.told("config.dmabuf", "no dma-bufs before Linux 7.3")
        self.machine.kernel("7.3.4-grace", without("IOMMUFD", "VFIO_DEVICE_CDEV"))
        self.assertEqual(self.checks()[0], 0)

    def test_config_in_proc(self):
        import gzip
        self.machine.put("/proc/config.gz", gzip.compress(b"CONFIG_VFIO=y\n"))
        status, checks = self.checks()
        self.assertEqual(checks["config.numa"]["status"], "fix")

    def test_huge_pages_off(self):
        self.machine.put("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]")
        self.fault("mm.huge_pages", "echo madvise >")

    def test_panics_at_memory_failure(self):
        self.machine.put("/proc/sys/vm/memory_failure_recovery", "0")
        self.risk("mm.memory_failure", "sysctl -w vm.memory_failure_recovery=1")

    def test_kernel_without_room_for_the_nodes(self):
        self.machine.srat(20)
        self.machine.put("/sys/devices/system/node/possible", "0")
        self.risk("mm.numa_nodes", "- run a kernel that is built with CONFIG_NODES_SHIFT=6, "
                  "without numa=off", text="NUMA nodes: 1; domains of firmware's SRAT: 20")

    def test_kernel_with_room_for_some_nodes(self):
        self.machine.srat(20)
        self.machine.put("/sys/devices/system/node/possible", "0-15")
        self.risk("mm.numa_nodes", "- run a kernel that is built with CONFIG_NODES_SHIFT=6, "
                  "without numa=off", text="NUMA nodes: 16")

    def test_kernel_with_room_for_the_nodes(self):
        self.machine.srat(20)
        self.machine.put("/sys/devices/system/node/possible", "0-19")
        self.told("mm.numa_nodes", "NUMA nodes: 20; domains of firmware's SRAT: 20")

    def test_srat_that_is_cut_short(self):
        """Its entries of CPUs have 18 bytes each, and two of them are two domains."""
        self.machine.srat(2)
        self.machine.put("/sys/devices/system/node/possible", "0")
        table = self.machine.read_bytes("/sys/firmware/acpi/tables/SRAT")
        for length, status in (47, "ok"), (49, "ok"), (66, "ok"), (83, "ok"), \
                (84, "risk"), (85, "risk"), (len(table) - 1, "risk"):
            self.machine.put("/sys/firmware/acpi/tables/SRAT", table[:length])
            self.assertEqual(self.checks()[1]["mm.numa_nodes"]["status"], status, length)
        self.machine.put("/sys/firmware/acpi/tables/SRAT", table[:66] + bytes(64))
        self.told("mm.numa_nodes", "NUMA nodes: 1; domains of firmware's SRAT: 1")

    def test_old_qemu(self):
        self.machine.executable("qemu-system-aarch64", "echo QEMU emulator version 9.2.1")
        self.fault("qemu.version", "- install QEMU 10 or newer", text="highmem-mmio-size")

    def test_no_qemu(self):
        self.machine.drop("/usr/bin/qemu-system-aarch64")
        self.fault("qemu.version", "apt-get install qemu-system-arm")


class ModuleFaults(Check):
    def unloaded(self):
        self.machine.drop("/sys/module/nvgrace_gpu")

    def test_not_loaded(self):
        self.unloaded()
        self.fault("module.loaded", "modprobe nvgrace_gpu")

    def test_depmod_forgotten(self):
        self.unloaded()
        self.machine.put("/lib/modules/7.3.4-grace/modules.dep", "")
        self.fault("module.loaded", "depmod && modprobe", also=["gpu.after_reboot"])

    def test_installed_for_another_kernel(self):
        self.unloaded()
        self.machine.put("/lib/modules/7.3.4-grace/modules.dep", "")
        self.machine.drop("/lib/modules/7.3.4-grace/updates")
        self.machine.put("/lib/modules/7.1.0-old/updates/dkms/nvgrace_gpu.ko.xz", "")
        self.fault("module.loaded", "- in the source of this driver: make dkms-install",
                   also=["gpu.after_reboot"], text="7.1.0-old")

    def test_not_installed(self):
        self.unloaded()
        self.machine.put("/lib/modules/7.3.4-grace/modules.dep", "")
        self.machine.drop("/lib/modules/7.3.4-grace/updates")
        self.fault("module.loaded", "- in the source of this driver", also=["gpu.after_reboot"])

    def test_layout_of_the_default(self):
        self.machine.parameter("usemem_bar", "2")
        self.fault("module.layout", "options nvgrace_gpu usemem_bar=4", "modprobe -r",
                   text="BAR4")
        self.assertEqual(self.checks("--layout=2")[0], 0)

    def test_layout_does_not_matter_to_blackwell(self):
        self.machine.parameter("usemem_bar", "2")
        self.machine.drop("/sys/bus/pci/devices/" + GPU)
        self.machine.add_gpu("0019:01:00.0", "GB200")
        self.told("module.layout", "BAR4")

    def test_idle_d3(self):
        self.machine.parameter("disable_idle_d3", "N")
        self.told("module.idle_d3", "train again", "disable_idle_d3=1")

    def test_alias_tie(self):
        self.machine.alias(["nvgrace_gpu_vfio_pci", "nvgrace_gpu"])
        self.fault("module.alias", "nvgrace-gpu bind " + GPU, "--libvirt",
                   text="nvgrace_gpu_vfio_pci")

    def test_alias_tie_won(self):
        self.machine.alias(["nvgrace_gpu", "nvgrace_gpu_vfio_pci"])
        self.told("module.alias", "take nvgrace_gpu")

    def test_alias_missing(self):
        self.machine.alias([])
        self.fault("module.alias", "depmod", text="take vfio_pci")


class DropIn(Check):
    """The same driver, built with DROPIN=1."""

    def setUp(self):
        super().setUp()
        self.machine.dropin()
        self.machine.bound(GPU, DROPIN)

    def test_all_is_well(self):
        self.assertEqual(self.checks()[0], 0)
        self.told("module.layout", "usemem is at BAR4")
        self.told("gpu.driver", "bound to " + DROPIN)
        self.assertEqual(self.checks()[1]["gpu.driver"]["better"], [])

    def test_not_loaded(self):
        self.machine.drop("/sys/module/" + DROPIN)
        self.fault("module.loaded", "modprobe " + DROPIN)

    def test_kernels_own_is_not_ours(self):
        """The module of the same name below kernel/ does not make it installed."""
        self.machine.drop("/sys/module/" + DROPIN)
        self.machine.drop("/lib/modules/7.3.4-grace/updates")
        self.machine.put("/lib/modules/7.3.4-grace/modules.dep",
                         "kernel/drivers/vfio/pci/nvgrace-gpu/nvgrace-gpu-vfio-pci.ko:")
        self.fault("module.loaded", "- in the source of this driver", also=["gpu.after_reboot"])

    def test_loaded_counts_before_installed(self):
        self.machine.put("/lib/modules/7.3.4-grace/modules.dep", "updates/nvgrace_gpu.ko:")
        self.told("gpu.driver", "bound to " + DROPIN)
        self.told("module.layout", "usemem is at BAR4")

    def test_depmod_forgotten(self):
        self.machine.drop("/sys/module/" + DROPIN)
        self.machine.put("/lib/modules/7.3.4-grace/modules.dep", "")
        self.fault("module.loaded", "depmod && modprobe " + DROPIN, also=["gpu.after_reboot"])

    def test_layout(self):
        self.machine.parameter("usemem_bar", "2", DROPIN)
        self.fault("module.layout", "options %s usemem_bar=4" % DROPIN, "modprobe -r " + DROPIN)

    def test_idle_d3(self):
        self.machine.parameter("disable_idle_d3", "N", DROPIN)
        self.told("module.idle_d3", "train again", "options %s disable_idle_d3=1" % DROPIN)

    def test_alias(self):
        self.told("module.alias", "take " + DROPIN)

    def test_foreign_override(self):
        self.unbound()
        self.attr("driver_override", "vfio-pci")
        self.fault("gpu.override", "echo %s >" % DROPIN, also=["gpu.driver"])

    def test_poisoned(self):
        self.says("poisoned_pages", "1\nusemem 0x1000")
        self.fault("gpu.poison", "echo 1 >")


class GpuFaults(Check):
    def test_no_gpu(self):
        self.machine.drop("/sys/bus/pci/devices/" + GPU)
        self.fault("gpus", "/sys/bus/pci/rescan")

    def test_off_the_bus(self):
        self.attr("config", b"\xff" * 4096)
        self.fault("gpu.present", "echo 1 > /sys/bus/pci/devices/%s/remove" % GPU)

    def test_id_of_a_later_gpu(self):
        self.attr("device", "0x297e")
        self.told("gpu.present", "Grace Blackwell, 10de:297e")

    def test_group_shared(self):
        self.machine.put("/sys/kernel/iommu_groups/20/devices/0009:01:00.1", "")
        other = "/sys/bus/pci/devices/0009:01:00.1"
        self.machine.put(other + "/class", "0x010802")
        self.machine.symlink(other + "/driver", "../../../bus/pci/drivers/nvme")
        self.fault("gpu.group", "echo 0009:01:00.1 > %s/driver/unbind" % other)

    def test_group_shared_with_bridge(self):
        self.machine.put("/sys/kernel/iommu_groups/20/devices/0009:00:00.0", "")
        other = "/sys/bus/pci/devices/0009:00:00.0"
        self.machine.put(other + "/class", "0x060400")
        self.machine.symlink(other + "/driver", "../../../bus/pci/drivers/pcieport")
        self.told("gpu.group", "IOMMU group 20")

    def test_bar0_without_address(self):
        self.attr("resource", "0x0 0x0 0x0\n" * 6)
        self.fault("gpu.bar0", "pci=realloc")

    def test_c2c_link_down(self):
        """Firmware that knows of no link names a base, and no size."""
        self.unbound()
        self.machine.firmware(0, 0x420000000000, None)
        self.fault("gpu.memory", "- shut the host down", also=["gpu.driver"],
                   text="C2C link did not come up")

    def test_size_zero(self):
        self.unbound()
        self.machine.firmware(0, 0x420000000000, 0)
        self.fault("gpu.memory", "- shut the host down", also=["gpu.driver"])

    def test_size_without_base(self):
        self.unbound()
        self.machine.firmware(0, None, 1 << 36)
        self.fault("gpu.memory", "- update the machine's firmware", also=["gpu.driver"])

    def test_size_is_a_string(self):
        self.unbound()
        self.machine.firmware(0, 0x420000000000, "96G")
        self.fault("gpu.memory", "- update the machine's firmware", also=["gpu.driver"])

    def test_plain_firmware(self):
        self.unbound()
        self.machine.firmware(0, None, None)
        self.told("gpu.memory", "no coherent memory")

    def test_malformed_dsd(self):
        """The driver found no property, and serves a plain GPU."""
        self.machine.regions[GPU] = []
        self.machine.bound(GPU, "nvgrace_gpu")
        self.fault("gpu.memory", "- update the machine's firmware", text="malformed")

    def test_each_gpu_has_its_own_memory(self):
        self.unbound()
        self.machine.add_gpu("0019:01:00.0", driver=None)
        gpus = [Gpu(self.machine, b).firmware_memory() for b in (GPU, "0019:01:00.0")]
        self.assertEqual(gpus, [(0x420000000000, 0x17E0000000), (0x430000000000, 0x17E0000000)])

    def test_memory_is_system_ram(self):
        self.unbound()
        self.machine.put("/proc/iomem", "420000000000-42175fffffff : System RAM (kmem)")
        self.fault("gpu.memory.free", "daxctl list --devices", also=["gpu.driver"])
        self.machine.put("/sys/bus/dax/devices/dax1.0/resource", "0x430000000000")
        self.machine.put("/sys/bus/dax/devices/dax2.0/resource", "0x420000000000")
        self.fault("gpu.memory.free", "daxctl reconfigure-device --mode=devdax --force dax2.0 && "
                   "daxctl disable-device dax2.0", also=["gpu.driver"])

    def test_memory_of_nvidias_driver(self):
        """It goes with that driver; memory blocks that are offline stay RAM."""
        self.machine.put("/proc/iomem", "420000000000-42175fffffff : System RAM (NVIDIA)")
        self.machine.bound(GPU, "nvidia")
        self.fault("gpu.memory.free", "nvgrace-gpu bind " + GPU, also=["gpu.driver"],
                   text="it goes with NVIDIA's driver")
        self.unbound()
        self.fault("gpu.memory.free", "- reboot the host", also=["gpu.driver"],
                   text="NVIDIA's driver left it behind")

    def test_memory_in_the_memory_map(self):
        self.unbound()
        self.machine.put("/proc/iomem", "420000000000-42175fffffff : System RAM")
        self.fault("gpu.memory.free", "- update the machine's firmware", also=["gpu.driver"])

    def test_nobody_writes_offline(self):
        """No file of this project tells people to."""
        for name in glob.glob(TOP + "/**", recursive=True):
            if os.path.isfile(name) and "/tests/" not in name and "/build/" not in name:
                with open(name, "rb") as f:
                    self.assertNotRegex(f.read(), rb"echo offline|take the memory offline", name)

    def test_memory_is_claimed(self):
        self.unbound()
        self.machine.put("/sys/module/dax_hmem/refcnt", "0")
        for name, cure in (("dax_hmem", "modprobe -r dax_hmem"),
                           ("nvidia", "nvgrace-gpu bind " + GPU),
                           ("dax0.0", "echo dax0.0 > /sys/bus/dax/devices/dax0.0/driver/unbind"),
                           ("Soft Reserved", "- the kernel or firmware has reserved it as Soft"),
                           (GPU, "- the kernel or firmware has reserved it as " + GPU)):
            self.machine.put("/proc/iomem", "420000000000-42175fffffff : " + name)
            self.fault("gpu.memory.free", cure, also=["gpu.driver"], text=name)

    def test_memory_is_ours(self):
        self.machine.put("/proc/iomem", "420000000000-42175fffffff : nvgrace_gpu")
        self.told("gpu.memory.free", "VFIO driver claims")

    def test_no_driver(self):
        self.unbound()
        self.fault("gpu.driver", "nvgrace-gpu bind " + GPU)

    def test_vfio_pci(self):
        self.machine.bound(GPU, "vfio-pci")
        self.fault("gpu.driver", "nvgrace-gpu bind " + GPU, text="shows no usemem")

    def test_nvidias_driver(self):
        self.machine.bound(GPU, "nvidia")
        self.fault("gpu.driver", "nvgrace-gpu bind " + GPU, text="for the host itself")

    def test_intree_driver_is_no_fault(self):
        self.machine.intree(GPU)
        self.told("gpu.driver", "shows usemem too")

    def test_foreign_override(self):
        self.attr("driver_override", "vfio-pci")
        self.fault("gpu.override", "echo nvgrace_gpu > ", text="No such device")

    def test_refused_by_the_driver(self):
        self.unbound()
        self.machine.say("nvgrace_gpu %s: error -ENOLINK: BAR0+0x1498 (C2C link) reads 0x5, a "
                         "failure code: the link did not come up" % GPU)
        self.fault("gpu.log", "- shut the host down", also=["gpu.driver"], text="reads 0x5")

    def test_refused_and_taken_since(self):
        self.unbound()
        self.machine.say("nvgrace_gpu %s: error -ENOLINK: BAR0+0x1498 (C2C link) reads 0x5, a "
                         "failure code: the link did not come up" % GPU)
        self.machine.say("nvgrace_gpu %s: usemem [mem 0x420000000000-0x42175fffffff] is BAR4, "
                         "backed 0x1760000000 bar_size 0x2000000000" % GPU)
        self.fault("gpu.driver", "nvgrace-gpu bind")

    def registers(self, link, training):
        self.unbound()
        bar0 = bytearray(0x201000)
        struct.pack_into("<I", bar0, 0x1498, link)
        struct.pack_into("<I", bar0, 0x200BC, training)
        self.attr("resource0", bytes(bar0))

    def test_ready(self):
        self.registers(0xFF, 0xFF)
        self.told("gpu.ready", "read 0xff")

    def test_link_failed(self):
        self.registers(0x5, 0)
        self.fault("gpu.ready", "- shut the host down", also=["gpu.driver"], text="0x5")

    def test_not_ready(self):
        self.registers(0xFF, 0)
        self.fault("gpu.ready", "sleep 30", also=["gpu.driver"])

    def test_reads_all_ones(self):
        self.registers(0xFFFFFFFF, 0xFFFFFFFF)
        self.fault("gpu.ready", "/remove", also=["gpu.driver"])

    def cxl(self, ranges, *values):
        """A CXL Device DVSEC with so many ranges, and what they read; after a DVSEC of NVIDIA's."""
        config = bytearray(self.machine.config_space_of(0x3341))
        struct.pack_into("<III", config, 0x100, 0x12010023, 0x00C010DE, 0x10003)
        struct.pack_into("<III", config, 0x120, 0x00010023, 0x03821E98, ranges << 20 | 5 << 16)
        for i, value in enumerate(values):
            struct.pack_into("<I", config, 0x13C + 0x10 * i, value)
        self.attr("config", bytes(config))

    def test_cxl_ready(self):
        self.registers(0, 0)
        self.cxl(2, 0xF0006003, 0xF0006003)
        self.told("gpu.ready", "ready: CXL DVSEC: range 1 reads 0xf0006003, range 2 reads 0xf0006")

    def test_cxl_not_active(self):
        self.registers(0xFF, 0xFF)
        for values in ((0xF0006001, 0xF0006003), (0xF0006003, 0xF0006002)):
            self.cxl(2, *values)
            self.fault("gpu.ready", "sleep 256", also=["gpu.driver"], text="up to 256 s")

    def test_cxl_one_range(self):
        self.registers(0, 0)
        self.cxl(1, 0x00000003, 0x00000000)
        self.told("gpu.ready", "ready: CXL DVSEC: range 1 reads 0x3")

    def test_training(self):
        self.says("state", "training c2c_link=0xff hbm_training=0x0")
        self.told("gpu.ready", "hbm_training=0x0: the next access polls")

    def test_failed(self):
        self.says("state", "failed c2c_link=0x5 hbm_training=0x0")
        self.fault("gpu.ready", "echo 1 > /sys/bus/pci/devices/%s/reset" % GPU,
                   "- if the next guest finds it so, too: shut the host down",
                   text="c2c_link=0x5")

    def test_gone(self):
        self.says("state", "gone c2c_link=0xffffffff hbm_training=0xffffffff")
        self.fault("gpu.ready", "/remove; echo 1 > /sys/bus/pci/rescan", text="off the bus")

    def test_handed_over(self):
        self.says("handover", "zeroed 102542344192")
        self.told("gpu.handover", "zeroed 102542344192")

    def test_handed_over_without_a_reset(self):
        self.says("handover", "not reset")
        self.fault("gpu.handover", "echo 1 > /sys/bus/pci/devices/%s/reset" % GPU)

    def test_no_reset(self):
        self.machine.drop("/sys/bus/pci/devices/%s/reset_method" % GPU)
        self.fault("gpu.reset", "- update the machine's firmware")

    def test_reset_switched_off(self):
        self.attr("reset_method", "")
        self.fault("gpu.reset", "echo default >")

    def test_flr_before_acpi(self):
        self.attr("reset_method", "flr acpi")
        self.fault("gpu.reset", "echo default >", text="flr comes before acpi")

    def test_no_acpi_reset(self):
        self.attr("reset_method", "flr")
        self.told("gpu.reset", "no _RST")

    def test_poisoned(self):
        self.says("poisoned_pages", "2\nusemem 0x10000\nresmem 0x20000")
        self.fault("gpu.poison", "nvgrace-gpu unbind " + GPU, text="2 poisoned")

    def test_after_reboot(self):
        self.told("gpu.after_reboot", "a udev rule binds the GPU at boot")
        self.machine.remove(RULE)
        self.told("gpu.after_reboot", "not bound", "nvgrace-gpu bind --persist")

    def test_after_reboot_with_driverctl(self):
        self.machine.put("/etc/driverctl.d/" + GPU, "vfio-pci")
        self.fault("gpu.after_reboot", "driverctl unset-override " + GPU,
                   text="driverctl gives %s to vfio-pci at boot" % GPU)
        self.machine.remove(RULE)
        self.told("gpu.after_reboot", "not bound; driverctl gives %s to vfio-pci" % GPU)

    def test_after_reboot_with_ids_of_vfio_pci(self):
        self.machine.put("/proc/cmdline", "root=/dev/sda2 vfio-pci.ids=10de:2342")
        self.told("gpu.after_reboot", "a udev rule binds the GPU at boot; vfio-pci takes 10de:2342")

    def test_users(self):
        self.told("gpu.users", "nobody uses it")
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/20")
        self.told("gpu.users", "in use by 4711 (qemu-system-aar)")


class Users(Check):
    def test_memlock(self):
        self.machine.become("me")
        self.fault("user.memlock", '"$USER" - memlock unlimited', text="8 MiB")

    def test_memlock_of_a_named_user(self):
        self.machine.put("/etc/security/limits.conf", "")
        self.fault("user.memlock", "echo qemu - memlock", argv=["--user=qemu"])

    def test_node_of_another_group(self):
        self.machine.put("/dev/vfio/devices/vfio0", "", 0o600)
        self.fault("gpu.nodes", "chgrp kvm /dev/vfio/devices/vfio0", "usermod -aG kvm qemu",
                   argv=["--user=qemu"])
        self.machine.put("/usr/lib/udev/rules.d/61-nvgrace-gpu-vfio.rules", "")
        self.fault("gpu.nodes", "udevadm trigger -s vfio", argv=["--user=qemu"])

    def test_no_cure_gives_away_the_nodes_of_other_devices(self):
        self.machine.put("/dev/vfio/devices/vfio0", "", 0o600)
        check = self.checks("--user=qemu")[1]["gpu.nodes"]
        self.assertNotIn("rules.d", "\n".join(check["cure"]))
        self.assertNotIn("SUBSYSTEM", "\n".join(check["cure"]))

    def test_node_of_the_container(self):
        self.machine.drop("/dev/iommu")
        self.machine.put("/dev/vfio/20", "", 0o600)
        self.fault("gpu.nodes", "chgrp kvm /dev/vfio/20", argv=["--user=qemu"])

    def test_node_missing(self):
        self.machine.drop("/dev/vfio/devices")
        self.machine.drop("/dev/vfio/20")
        self.fault("gpu.nodes", "udevadm trigger")

    def test_kvm_device(self):
        self.machine.put("/dev/kvm", "", 0o600)
        self.fault("kvm.device", "usermod -aG kvm qemu", argv=["--user=qemu"])

    def test_unknown_user(self):
        status, _, err = self.tool("check", "--user=nobody-here")
        self.assertEqual((status, err), (1, "error: /etc/passwd has no user 'nobody-here', and id "
                                         "knows none\n"))

    def test_user_of_a_directory_service(self):
        self.machine.executable("id", 'case $1 in -u) echo 70000 ;; *) echo "70000 104" ;; esac')
        self.machine.put("/dev/kvm", "", 0o600)
        self.fault("kvm.device", "usermod -aG kvm from-ldap", argv=["--user=from-ldap"],
                   also=["user.memlock"])

    def test_root_is_not_who_runs_qemu(self):
        self.told("user.memlock", "for QEMU of another user: check --user NAME")
        self.told("gpu.nodes", "for QEMU of another user: check --user NAME")


class CannotTell(Check):
    def test_exit_status_is_3(self):
        self.machine.drop("/boot/config-7.3.4-grace")
        self.cannot_tell("config.vfio", "there is no /proc/config.gz and no /boot/config-7.3.4")
        self.assertEqual(self.checks()[0], 3)

    def test_addresses_are_hidden(self):
        self.machine.put("/proc/iomem", "00000000-00000000 : System RAM")
        self.cannot_tell("gpu.memory.free", "only root sees")

    def test_log_does_not_reach_back(self):
        self.machine.caps[243] = 0
        self.machine.put("/proc/cpuinfo", "CPU part : 0xd0c")
        self.machine.boot = ["something else"]
        self.machine.write_log()
        self.cannot_tell("cpu.fwb", "does not reach back")

    def test_log_saved_at_boot(self):
        self.machine.caps[243] = 0
        self.machine.boot = []
        self.machine.write_log()
        self.machine.put("/var/log/dmesg", "\n".join("[    0.1] " + b for b in BOOT))
        self.told("cpu.fwb", "has FEAT_S2FWB")

    def test_file_is_missing(self):
        self.machine.drop("/proc/sys/vm/memory_failure_recovery")
        self.cannot_tell("mm.memory_failure",
                         "/proc/sys/vm/memory_failure_recovery: No such file or directory")

    def test_kvm_does_not_answer(self):
        self.machine.drop("/dev/kvm")
        self.cannot_tell("kvm.cacheable_pfnmap", "/dev/kvm: No such file")

    def test_asleep(self):
        self.unbound()
        self.attr("power_state", "D3hot")
        self.cannot_tell("gpu.ready", "in D3hot")

    def test_memory_off(self):
        self.unbound()
        self.attr("config", self.machine.config_space_of(0x2342, command=0))
        self.cannot_tell("gpu.ready", "is off until a driver")

    def test_no_acpi_tables(self):
        self.unbound()
        self.machine.drop("/sys/firmware/acpi/tables")
        self.cannot_tell("gpu.memory", "no ACPI tables")

    def test_files_with_nonsense(self):
        """Each is named with what it holds, and the other checks still run."""
        sysfs = "/sys/bus/pci/devices/%s/" % GPU
        for name, content, check, reason in (
                (sysfs + "resource", "nonsense", "gpu.bar0", "resource has for BAR0 'nonsense'"),
                (sysfs + "config", b"\xde\x10", "gpu.present", "config has 2 bytes, not 64"),
                (sysfs + "modalias", "x", "module.alias", None),
                (sysfs + "nvgrace_gpu/poisoned_pages", "many", "gpu.poison", "holds 'many'"),
                (sysfs + "nvgrace_gpu/usemem_backed", "-", "gpu.memory", "'-', which is not a"),
                ("/sys/module/nvgrace_gpu/parameters/usemem_bar", "", "module.layout", "holds ''"),
                ("/proc/sys/kernel/osrelease", "x", "kernel.version", "'x', which has no version"),
                ("/proc/self/status", "", "user.memlock", "status has no Uid"),
                ("/proc/config.gz", b"\x1f\x8bbroken", "config.vfio", "cannot be unpacked")):
            with self.subTest(name):
                before = self.machine.read_bytes(name) if self.machine.exists(name) else None
                self.machine.put(name, content)
                if reason:
                    self.cannot_tell(check, reason)
                else:
                    self.fault(check, "depmod")
                self.machine.drop(name)
                if before is not None:
                    self.machine.put(name, before)

    def test_limits_and_accounts_with_nonsense(self):
        self.machine.become("user")
        self.machine.put("/proc/self/limits", "nonsense")
        self.cannot_tell("user.memlock", "no limit of locked memory")
        for line in ("qemu:x", "qemu:x:a:1::/:/"):
            self.machine.put("/etc/passwd", line)
            self.cannot_tell("user.memlock", "no user and group id for 'qemu'",
                             argv=("--user", "qemu"))

    def test_tables_that_are_cut_short(self):
        self.unbound()
        for tail in (b"", b"\x0e", b"\x0e\x01\x02"):
            device = aml_package(b"GP00\x0dnvidia,gpu-mem-size\0" + tail)
            with open(self.machine.path("/sys/firmware/acpi/tables/SSDT1"), "wb") as f:
                f.write(b"SSDT" + bytes(32) + b"\x5b\x82" + device)
            self.cannot_tell("gpu.memory", "SSDT1 is cut short")

    def test_faults_of_the_tool_itself_are_not_hidden(self):
        for error in (AttributeError, KeyError, ValueError):
            with mock.patch("nvgrace_gpu.checks.of_host.CHECKS", [("x", mock.Mock(
                    side_effect=error("of this tool")))]):
                self.assertRaises(error, self.tool, "check")
