# SPDX-License-Identifier: GPL-2.0-only
"""Checks of the host: kernel, CPU, KVM, SMMU, options, limits of accounts, QEMU."""

import contextlib
import os
import re

from ..cures import GRACE_CPU, REBOOT, SMMU_ON, Advice, configure
from ..distribution import Distribution
from ..firmware import srat_domains
from ..gpu import NOIOMMU
from ..host import Account, Unknown
from ..sizes import GIB, human
from .base import fix, ok, registry, risk

CHECKS, listed = registry()


@listed("kernel.version")
def check_version(host, _):
    arch = host.read_or("/proc/sys/kernel/arch")
    if arch and arch != "aarch64":
        return fix("this is not a Grace machine, but %s" % arch,
                   Advice("run nvgrace-gpu on the Grace machine"))
    if host.version < (6, 12):
        return fix("Linux %s: the driver needs 6.12 or newer" % host.release,
                   Distribution(host).newer_kernel())
    return ok("Linux " + host.release)


@listed("kernel.page_size")
def check_page_size(host, _):
    size = host.page_size >> 10
    if size == 64:
        return ok("pages of 64 KiB")
    return ok("pages of %d KiB; NVIDIA recommends 64 KiB" % size,
              configure("ARM64_64K_PAGES"))


def cpu_feature(host, name, words):
    """A feature that the kernel logs at boot; Grace's CPU has it."""
    with contextlib.suppress(Unknown, OSError):
        if host.cacheable():
            return ok("the CPU has %s, as KVM says" % name)
    try:
        log = host.boot_log()
    except OSError as e:
        log, reason = [], "the kernel's log cannot be read (%s)" % e.strerror
    else:
        reason = "the kernel's log does not reach back to its boot"
        if any("detected: " + words in line for line in log):
            return ok("the CPU has %s" % name)
        if any("CPU features: detected: " in line for line in log):
            return fix("the CPU has no %s: KVM refuses usemem to guests" % name,
                       GRACE_CPU)
    if re.search(r"^CPU part\s*: 0xd4f$", host.read_or("/proc/cpuinfo", ""), re.M):
        return ok("the CPU is a Neoverse-V2, which has %s" % name)
    raise Unknown(reason)


@listed("cpu.fwb")
def check_fwb(host, _):
    return cpu_feature(host, "FEAT_S2FWB", "Stage-2 Force Write-Back")


@listed("cpu.dic")
def check_dic(host, _):
    return cpu_feature(host, "CTR_EL0.DIC",
                       "Instruction cache invalidation not required for I/D coherence")


@listed("kvm.device")
def check_kvm(host, options):
    if not host.exists("/dev/kvm"):
        with contextlib.suppress(Unknown, OSError):
            if any("HYP mode not available" in line for line in host.boot_log()):
                return fix("firmware started Linux at EL1: KVM has no hypervisor mode", Advice(
                    "have firmware start Linux at EL2, or leave the VM that this is"))
        with contextlib.suppress(Unknown):
            if "KVM" not in host.config():
                return fix("the kernel has no KVM", configure("VIRTUALIZATION", "KVM"))
        return fix("there is no /dev/kvm", Advice("dmesg | grep -i kvm prints the reason"))
    who = Account(host, options.user)
    if not who.may_use("/dev/kvm"):
        return fix("%s may not open /dev/kvm" % who, "usermod -aG kvm %s" % who.name)
    return ok("/dev/kvm can be opened by %s" % who)


@listed("kvm.cacheable_pfnmap")
def check_cacheable(host, _):
    if host.cacheable():
        return ok("capability 243 is 1: guests get usemem as Normal Write-Back")
    if host.version >= (6, 17):
        return fix("capability 243 is 0: KVM refuses usemem to guests, because the CPU has no "
                   "FEAT_S2FWB or no CTR_EL0.DIC", GRACE_CPU)
    return fix("capability 243 is 0: guests get usemem as Device memory; unaligned access, dc zva "
               "and atomics fault there", Distribution(host).newer_kernel())


@listed("kernel.mbind")
def check_mbind(host, _):
    """Only a crash would show the fault, so the version and the name of the kernel have to do."""
    if host.version >= (7, 3):
        return ok("mbind() of huge mappings is safe on this kernel")
    if host.version < (6, 12):
        return ok("this kernel maps no BAR in huge blocks, with which mbind() of 6.12 crashes")
    if host.version == (6, 12) and "-nvgrace" in host.release:
        return ok("make deb-kernel built this 6.12, with the patch that fixes mbind()")
    text = "a process that holds a VFIO fd can crash the host with mbind() of a huge mapping: "
    text += ("seen on 6.12" if host.version == (6, 12) else
             "%d.%d has the same code as 6.12, where it was seen" % host.version)
    return risk(text + " with pages of 4 and 16 KiB", Distribution(host).newer_kernel())


@listed("iommu.smmu")
def check_smmu(host, _):
    if host.list("/sys/class/iommu"):
        number = len(host.list("/sys/class/iommu"))
        return ok("the kernel uses %d SMMU%s" % (number, "s" * (number > 1)))
    with contextlib.suppress(Unknown):
        if "ARM_SMMU_V3" not in host.config():
            return fix("the kernel has no driver for the SMMU", configure("ARM_SMMU_V3"))
    off = [word for word in host.read_or("/proc/cmdline", "").split()
           if re.match(r"iommu=off$|arm-smmu-v3\.disable", word)]
    if off:
        return fix("the kernel's command line switches the SMMU off",
                   *(Distribution(host).command_line(remove=word) for word in off), REBOOT)
    return fix("no SMMU: VFIO has no IOMMU group for the GPU", SMMU_ON)


@listed("iommu.noiommu")
def check_noiommu(host, _):
    if host.read_or(NOIOMMU) == "Y":
        return risk("VFIO's no-IOMMU mode is on: a guest's DMA reaches all of the host",
                    "echo N > " + NOIOMMU)
    return ok("VFIO's no-IOMMU mode is off")


def check_options(required, text, verdict=fix):
    def function(host, _):
        config = host.config()
        missing = [o for o in required if o not in config]
        if missing:
            return verdict("CONFIG_%s is not set: %s" % (", CONFIG_".join(missing), text),
                           configure(*missing))
        return ok(", ".join("CONFIG_" + o for o in required))
    return function


listed("config.vfio")(check_options(("VFIO", "VFIO_PCI_CORE"), "the driver is built on them"))
listed("config.kvm")(check_options(("KVM",), "no guests"))
listed("config.smmu")(check_options(("ARM_SMMU_V3",), "no IOMMU groups"))
listed("config.numa")(check_options(("NUMA",), "the host's memory is in one heap"))
listed("config.memory_failure")(check_options(
    ("MEMORY_FAILURE",), "an uncorrectable memory error takes the host down", risk))
listed("config.huge_pfnmap")(check_options(
    ("TRANSPARENT_HUGEPAGE", "ARCH_SUPPORTS_HUGE_PFNMAP", "ARCH_SUPPORTS_PMD_PFNMAP"),
    "the driver maps usemem page by page"))


@listed("config.container_or_iommufd")
def check_iommufd(host, _):
    config = host.config()
    if "IOMMUFD" in config and "VFIO_DEVICE_CDEV" in config:
        return ok("CONFIG_IOMMUFD, CONFIG_VFIO_DEVICE_CDEV")
    if "VFIO_GROUP" not in config or not ("VFIO_CONTAINER" in config or
                                          "IOMMUFD_VFIO_CONTAINER" in config):
        return fix("neither iommufd nor VFIO's container is there for QEMU",
                   configure("IOMMUFD", "VFIO_DEVICE_CDEV"))
    slow = ", which pins usemem page by page: a minute for 94.5 GiB"
    return ok("no iommufd: QEMU uses the container" + (slow if host.version == (6, 12) else ""),
              configure("IOMMUFD", "VFIO_DEVICE_CDEV"))


@listed("config.dmabuf")
def check_dmabuf(host, _):
    if host.version < (7, 3):
        return ok("no dma-bufs before Linux 7.3: peer devices cannot reach usemem, nor can "
                  "ATS behind qemu-args --smmu")
    if "VFIO_PCI_DMABUF" in host.config():
        return ok("CONFIG_VFIO_PCI_DMABUF")
    return ok("no dma-bufs: peer devices cannot reach usemem, nor can ATS behind qemu-args --smmu",
              configure("VFIO_PCI_DMABUF"))


@listed("mm.huge_pages")
def check_huge_pages(host, _):
    name = "/sys/kernel/mm/transparent_hugepage/enabled"
    if "[never]" in host.read(name):
        return fix("transparent huge pages are off: some 6.12.y kernels map usemem page by page "
                   "then", "echo madvise > " + name)
    return ok("transparent huge pages are " + re.sub(r".*\[(.*)\].*", r"\1", host.read(name)))


@listed("mm.memory_failure")
def check_recovery(host, _):
    if host.read("/proc/sys/vm/memory_failure_recovery") == "0":
        return risk("the host panics at an uncorrectable memory error",
                    "sysctl -w vm.memory_failure_recovery=1")
    return ok("the host survives poisoned pages that it can contain")


@listed("mm.numa_nodes")
def check_numa_nodes(host, _):
    table = "/sys/firmware/acpi/tables/SRAT"
    domains = len(srat_domains(host.read_bytes(table))) if host.exists(table) else 0
    nodes = len(host.node_list("possible"))
    if nodes < domains:
        return risk("NUMA nodes: %d; domains of firmware's SRAT: %d. The kernel drops those for "
                    "which it has no room, or all" % (nodes, domains),
                    Advice("run a kernel that is built with CONFIG_NODES_SHIFT=6, "
                           "without numa=off"))
    if not domains:
        return ok("firmware has no SRAT, which names NUMA domains")
    return ok("NUMA nodes: %d; domains of firmware's SRAT: %d" % (nodes, domains))


@listed("user.memlock")
def check_memlock(host, options):
    who = Account(host, options.user)
    limit = who.memlock()
    if limit is None:
        return ok("%s may lock memory without a limit%s" % (who, who.not_qemu))
    if limit >= 64 * GIB:
        return ok("%s may lock %s%s" % (who, human(limit), who.not_qemu))
    return fix("%s may lock %s only: VFIO locks all of a guest's memory, and libvirt alone "
               "raises the limit by itself" % (who, human(limit)),
               "echo %s - memlock unlimited > /etc/security/limits.d/nvgrace-gpu.conf" % who.name)


@listed("qemu.version")
def check_qemu(host, _):
    # RHEL's QEMU has another name, and is in no PATH.
    rhel = "/usr/libexec/qemu-kvm"
    path = host.program("qemu-system-aarch64") or (host.exists(rhel) and host.path(rhel))
    if not path:
        return fix("qemu-system-aarch64 is not installed", Distribution(host).install("qemu"))
    name = os.path.basename(path)
    text = host.run(host.name(path), "--version")
    match = re.search(r"version (\d+)\.(\S+)", text)
    if not match:
        raise Unknown("%s --version says %s" % (name, text.strip()))
    if int(match.group(1)) < 10:
        return fix("QEMU %s.%s has no highmem-mmio-size: the guest's window for BARs has 512 "
                   "GiB, whatever it needs" % match.groups(), Distribution(host).newer_qemu())
    return ok("QEMU %s.%s" % match.groups())
