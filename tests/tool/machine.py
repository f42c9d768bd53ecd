# SPDX-License-Identifier: GPL-2.0-only
"""Machines that are made of files: what nvgrace-gpu reads of a Grace host, and a kernel that
binds drivers when something is written to these files."""

import atexit
import errno
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from contextlib import redirect_stderr, redirect_stdout

sys.dont_write_bytecode = True
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGE = os.path.join(TOP, "tools", "nvgrace_gpu")
sys.path.insert(0, os.path.dirname(PACKAGE))

from nvgrace_gpu.cli import main
from nvgrace_gpu.gpu import IDS, Gpu
from nvgrace_gpu.host import Host, Unknown

GIB = 1 << 30
RELEASE = "7.3.4-grace"
DROPIN = "nvgrace_gpu_vfio_pci"
CONFIG = ("VFIO VFIO_PCI_CORE VFIO_GROUP VFIO_CONTAINER VFIO_DEVICE_CDEV IOMMUFD KVM ARM_SMMU_V3 "
          "NUMA MEMORY_FAILURE TRANSPARENT_HUGEPAGE ARCH_SUPPORTS_HUGE_PFNMAP "
          "ARCH_SUPPORTS_PMD_PFNMAP VFIO_PCI_DMABUF").split()
BOOT = ("Linux version " + RELEASE, "CPU features: detected: Stage-2 Force Write-Back",
        "CPU features: detected: Instruction cache invalidation not required for I/D coherence")

# Memory, usemem's and resmem's backed bytes and BAR sizes, and physical BARs under them.
SHAPES = {
    "GH200": (0x2342, 0x17E0000000, (0x1760000000, 0x2000000000), (0x80000000, 0x80000000),
              {0: 16 << 20, 2: 128 * GIB, 4: 32 << 20}),
    "GB200": (0x2941, 186 * GIB, (186 * GIB, 256 * GIB), None, {0: 16 << 20, 2: 256 * GIB}),
    "GB300": (0x31C2, 278 * GIB, (278 * GIB, 512 * GIB), None, {0: 16 << 20, 2: 512 * GIB}),
}


# The tool reads these parts of what versions of QEMU print. Those of 10.0 and 11.1 are as Debian's
# packages print them, and the defaults of 11.0 are from QEMU's qemu-options.hx.
QEMU_OBJECTS = {"8.2.2": "", "9.2.1": "acpi-generic-initiator iommufd"}
QEMU_SMMU = {
    "8.2.2": "", "9.2.1": "", "10.0.13": "  primary-bus=<link<PCI>>",
    "11.0.1": """\
  accel=<bool>           - Enable SMMUv3 accelerator support. (default: off)
  ats=<OnOffAuto>        - Enable/disable ATS support (default: off)
  oas=<OasMode>          - Set Output Address Size in bits (default: 44)
  ril=<OnOffAuto>        - Disable range invalidation support (default: on)
  ssidsize=<SsidSizeMode> - Set number of bits of SubstreamIDs (default: 0)""",
    "11.1.3": """\
  accel=<bool>           - Enable SMMUv3 accelerator support. (default: off)
  ats=<OnOffAuto>        - Enable/disable ATS support (default: auto)
  oas=<OasMode>          - Set Output Address Size in bits (default: auto)
  ril=<OnOffAuto>        - Enable/disable range invalidation support (default: auto)
  ssidsize=<SsidSizeMode> - Set number of bits of SubstreamIDs (default: auto)""",
}
# Grace's SMMU: ATS, SIDs of 16 and SSIDs of 20 bits, no range invalidation, addresses of 48 bits.
GRACE_IDR = [1 << 10, 20 << 6 | 16, 0, 0, 0, 5]


def packed():
    """The tool as people get it: one file, see scripts/tool."""
    directory = tempfile.mkdtemp(prefix="nvgrace-gpu-")
    atexit.register(shutil.rmtree, directory)
    path = os.path.join(directory, "nvgrace-gpu")
    subprocess.run([os.path.join(TOP, "scripts", "tool"), path], check=True)
    return path


TOOL = packed()


def aml_package(body):
    """A PkgLength, of two bytes, and what it counts."""
    length = len(body) + 2
    assert length < 1 << 12
    return bytes((0x40 | length & 0xF, length >> 4)) + body


def aml_integer(value):
    if isinstance(value, str):
        return b"\x0d" + value.encode() + b"\0"
    return b"\x0e" + struct.pack("<Q", value) if value > 1 else bytes((value,))


def aml_device(name, properties):
    """Compile Device (NAME) { Name (_ADR, 0) Name (_DSD, ...) } as iasl does."""
    pairs = b""
    for key, value in properties.items():
        if value is not None:
            text = b"\x0dnvidia," + key.encode() + b"\0"
            pairs += b"\x12" + aml_package(b"\x02" + text + aml_integer(value))
    dsd = b"\x08_DSD\x12" + aml_package(b"\x02\x11\x13\x0a\x10" + bytes(16) +
                                        b"\x12" + aml_package(b"\x02" + pairs))
    return b"\x5b\x82" + aml_package(name.encode() + b"\x08_ADR\x00" + dsd)


class Machine(Host):
    """A host on which all is well: Linux 7.3 with iommufd, and what add_gpu() adds."""

    def __init__(self, user="root"):
        super().__init__(tempfile.mkdtemp(prefix="nvgrace-gpu-"))
        self.caps = {243: 1, 165: 48}
        self.idr = GRACE_IDR
        self.refuse = {}       # {(BDF, driver): (errno, line of the log)}
        self.missing = set()   # modules that modprobe does not find
        self.delay = 0         # seconds that binding takes
        self.nr_gpus = 0
        self.tables = {}
        self.regions = {}      # {BDF: (name, BAR, base, backed, bar_size) of each}
        self.boot = list(BOOT)
        self.kernel(RELEASE, CONFIG)
        self.become(user)
        self.put("/proc/sys/kernel/arch", "aarch64")
        self.put("/proc/self/smaps", "00400000-00401000 r-xp\nSize: 64 kB\n"
                                     "KernelPageSize:       64 kB\n")
        self.put("/proc/cmdline", "root=/dev/sda2 iommu.strict=1 ds=nocloud;password=hunter2")
        self.put("/proc/cpuinfo", "processor\t: 0\nCPU part\t: 0xd4f\n")
        self.put("/proc/sys/vm/memory_failure_recovery", "1")
        self.put("/proc/iomem", "80000000-fffffff : System RAM\n")
        self.put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
        self.put("/sys/class/iommu/smmu3.0x11000000", "")
        self.put("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N")
        self.put("/sys/devices/system/memory/block_size_bytes", "8000000")
        self.numa("0-1", "0-1", {0: (10, 40), 1: (40, 10)})
        self.put("/etc/passwd", "root:x:0:0::/root:/bin/sh\nqemu:x:64055:64055::/:/bin/false\n")
        self.put("/etc/group", "root:x:0:\nkvm:x:104:qemu\n")
        self.put("/etc/security/limits.conf", "# nothing\nqemu - memlock unlimited\n")
        self.runs("debian", codename="trixie")
        self.put("/etc/default/grub", 'GRUB_CMDLINE_LINUX="quiet"')
        self.signed("DKMS module signing key", "/var/lib/dkms/mok.pub")
        self.executable("modinfo", """case $2 in
signer) cat "%s/modinfo/signer" ;;
sig_key) cat "%s/modinfo/sig_key" ;;
*) echo "of $2" ;;
esac""" % (self.root, self.root))
        self.enrolled("is already enrolled")
        for name, mode in (("kvm", 0o666), ("iommu", 0o666), ("vfio/vfio", 0o666)):
            self.put("/dev/" + name, "", mode)
        self.qemu("11.1.3")
        self.libvirt("12.9.0")
        self.executable("udevadm", "exit 0")
        self.driver("nvgrace_gpu")
        self.parameter("usemem_bar", "4")
        self.parameter("disable_idle_d3", "Y")
        self.number_of = {}    # {BDF: number of its ACPI device}
        self.write_log()

    def close(self):
        shutil.rmtree(self.root)

    # ---- making it

    def put(self, name, content="", mode=0o644):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(content if isinstance(content, bytes) else (content + "\n").encode())
        os.chmod(path, mode)

    def symlink(self, name, target):
        self.remove(name)
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        os.symlink(target, self.path(name))

    def drop(self, name):
        path = self.path(name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def executable(self, name, script):
        self.put("/usr/bin/" + name, "#!/bin/sh\n" + script, 0o755)

    def qemu(self, version, program="/usr/bin/qemu-system-aarch64"):
        """Install a version of QEMU that prints what the tool asks for."""
        old = version in QEMU_OBJECTS
        text = {"--version ": "QEMU emulator version %s (Debian 1:%s+ds-1)" % (version, version),
                "-object help": QEMU_OBJECTS.get(version, QEMU_OBJECTS["9.2.1"]).replace(
                    " ", "\n  "),
                "-machine virt,help": "  ras=<bool>" + (
                    "" if old else "\n  highmem-mmio-size=<size>"),
                "-device arm-smmuv3,help": QEMU_SMMU[version],
                "-device pcie-root-port,help": "  x-speed=<PCIELinkSpeed> - 2_5/5/8/16%s "
                "(default: 16)\n  x-width=<PCIELinkWidth> - 1/2/4/8/12/16/32 (default: 32)" % (
                    "" if old else "/32/64")}
        cases = "".join("'%s') cat << 'END'\n%s\nEND\n;;\n" % pair for pair in text.items())
        self.put(program, "#!/bin/sh\ncase \"$1 $2\" in\n%s*) exit 1 ;;\nesac" % cases, 0o755)

    def libvirt(self, version):
        self.executable("virsh", "echo " + version)

    def numa(self, cpus, memory, distances):
        """The host's NUMA nodes: which have CPUs and memory, and {node: its distances}."""
        nodes = "/sys/devices/system/node/"
        self.put(nodes + "has_cpu", cpus)
        self.put(nodes + "has_memory", memory)
        self.put(nodes + "online", ",".join(map(str, distances)))
        self.put(nodes + "possible", ",".join(map(str, distances)))
        for node, values in distances.items():
            self.put(nodes + "node%d/distance" % node, " ".join(map(str, values)))

    def srat(self, domains):
        """Firmware's NUMA domains: two sockets with CPUs and memory, and else initiators."""
        entries = [struct.pack("<BBIIII", 3, 18, n, 0, 1, 0) for n in range(2)]
        entries += [struct.pack("<BBIHQQIIQ", 1, 40, n, 0, 0, 0, 0, 1, 0) for n in range(2)]
        entries += [struct.pack("<BBHIQQII", 5, 32, 0, n, 0, 0, 1, 0) for n in range(2, domains)]
        # One that is not enabled.
        entries.append(struct.pack("<BBIHQQIIQ", 1, 40, domains, 0, 0, 0, 0, 2, 0))
        self.put("/sys/firmware/acpi/tables/SRAT", b"SRAT" + bytes(44) + b"".join(entries))

    def kernel(self, release, config):
        self.put("/proc/sys/kernel/osrelease", release)
        self.config_is(config, release)
        base = "/lib/modules/" + release
        self.put(base + "/modules.dep", "updates/nvgrace_gpu.ko: kernel/drivers/vfio/vfio.ko")
        self.put(base + "/updates/nvgrace_gpu.ko", "ELF")
        self.put(base + "/build/Makefile", "")
        self.alias(["nvgrace_gpu"], release)

    def config_is(self, options, release=None):
        text = "".join("CONFIG_%s=%s\n" % (o, "m" if "VFIO_PCI" in o else "y") for o in options)
        self.put("/boot/config-" + (release or self.release), text)

    def runs(self, ident, like="", codename=""):
        """The distribution."""
        self.put("/etc/os-release", 'PRETTY_NAME="%s 1"\nID="%s"\nID_LIKE="%s"\n'
                 "VERSION_CODENAME=%s" % (ident.title(), ident, like, codename))

    def signed(self, signer, certificate=None, number=0x1234567890ABCDEF):
        """Sign the module, and write the certificate of its signer to a file."""
        digits = "%X" % number
        pairs = [digits[i:i + 2] for i in range(0, len(digits), 2)]
        self.put("/modinfo/signer", signer)
        self.put("/modinfo/sig_key", ":".join(pairs) if signer else "")
        if certificate:
            der = b"\xa0\x03\x02\x01\x02\x02" + bytes((len(pairs),)) + bytes.fromhex(digits)
            der += bytes(200)    # the rest, with which lengths need a byte more
            der = b"\x30\x81" + bytes((len(der),)) + der
            self.put(certificate, b"\x30\x81" + bytes((len(der),)) + der)

    def enrolled(self, words, status=0):
        """Have mokutil --test-key say so of a certificate."""
        self.executable("mokutil", 'echo "$2 %s"; exit %d' % (words, status))

    def dropin(self):
        """The driver as make DROPIN=1 builds it, and the kernel's own below kernel/."""
        self.drop("/sys/module/nvgrace_gpu")
        self.drop("/sys/bus/pci/drivers/nvgrace_gpu")
        self.driver(DROPIN)
        for name, value in (("usemem_bar", "4"), ("disable_idle_d3", "Y")):
            self.parameter(name, value, DROPIN)
        base = "/lib/modules/" + RELEASE
        self.drop(base + "/updates/nvgrace_gpu.ko")
        self.put(base + "/updates/%s.ko" % DROPIN, "ELF")
        self.put(base + "/modules.dep", "updates/%s.ko: kernel/drivers/vfio/vfio.ko" % DROPIN)
        self.alias([DROPIN])

    def alias(self, modules, release=RELEASE, wildcards="sv*sd*bc*sc*i*"):
        lines = ["alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci"]
        lines += ["alias vfio_pci:v000010DEd0000%04X%s %s" % (i, wildcards, module)
                  for module in modules for i in IDS]
        self.put("/lib/modules/%s/modules.alias" % release, "\n".join(lines))

    def become(self, user, uid=1000, groups="1000"):
        root = user == "root"
        self.put("/proc/self/status", "Name:\tpython3\nUid:\t{0}\t{0}\t{0}\t{0}\n"
                 "Gid:\t{0}\t{0}\t{0}\t{0}\nGroups:\t{1} \nNStgid:\t7\nCapEff:\t{2}".format(
                     0 if root else uid, "" if root else groups,
                     "000001ffffffffff" if root else "0000000000000000"))
        self.put("/proc/self/limits", "Limit  Soft Limit  Hard Limit  Units\n"
                 "Max locked memory         8388608              8388608              bytes")

    def driver(self, name, module=None):
        self.put("/sys/bus/pci/drivers/%s/bind" % name)
        self.put("/sys/module/%s/refcnt" % (module or name.replace("-", "_")), "0")

    def parameter(self, name, value, module="nvgrace_gpu"):
        self.put("/sys/module/%s/parameters/%s" % (module, name), value)

    def say(self, *lines):
        self.boot += lines
        self.write_log()

    def write_log(self):
        self.put("/dev/kmsg", "".join("6,%d,%d,-;%s\n SUBSYSTEM=pci\n" % (i, i, line)
                                      for i, line in enumerate(self.boot)))
        self.cache.pop("log", None)

    def add_gpu(self, bdf, shape="GH200", driver="nvgrace_gpu", node=0, layout=4,
                firmware="all", methods="acpi flr", smmu=None):
        """A GPU, its ACPI device and its VFIO nodes. firmware: all, base, size, none."""
        device, memory, usemem, resmem, bars = SHAPES[shape]
        number = self.number_of[bdf] = self.nr_gpus
        self.nr_gpus += 1
        base = 0x420000000000 + (number << 40)
        real = "/sys/devices/pci%s/%s" % (bdf[:7], bdf)
        self.symlink("/sys/bus/pci/devices/" + bdf, "../../../devices/pci%s/%s" % (bdf[:7], bdf))
        for name, value in (("vendor", "0x10de"), ("device", "0x%04x" % device),
                            ("class", "0x030200"), ("driver_override", "(null)"),
                            ("numa_node", str(node)), ("power_state", "D0"),
                            ("reset_method", methods),
                            ("modalias", "pci:v000010DEd0000%04Xsv000010DEsd000016EBbc03sc02i00" %
                             device)):
            self.put(real + "/" + name, value)
        lines, at = [], 0x661000000000 + (number << 40)
        for bar in range(6):
            size = bars.get(bar, 0)
            lines.append("0x%016x 0x%016x 0x%016x" %
                         ((at, at + size - 1, 0x14220C) if size else (0, 0, 0)))
            at += size
        self.put(real + "/resource", "\n".join(lines))
        self.put(real + "/config", self.config_space_of(device))
        smmu = smmu or "smmu3.0x%x000000" % (0x11 + number)
        self.put("/sys/class/iommu/" + smmu, "")
        self.put("/sys/devices/virtual/iommu/%s/uevent" % smmu, "")
        self.symlink(real + "/iommu", "../../virtual/iommu/" + smmu)
        group = str(20 + number)
        self.symlink(real + "/iommu_group", "../../../kernel/iommu_groups/" + group)
        self.symlink("/sys/kernel/iommu_groups/%s/devices/%s" % (group, bdf),
                     "../../../../bus/pci/devices/" + bdf)
        name = "GP%02X" % number
        self.put(real + "/firmware_node/path", "\\_SB_.PC%02X.%s" % (number, name))
        self.firmware(number, None if firmware in ("size", "none") else base,
                      None if firmware in ("base", "none") else memory)
        regions = [("usemem", layout if resmem else 4, base, *usemem)]
        if resmem:
            regions.append(("resmem", 6 - layout, base + usemem[0], *resmem))
        self.regions[bdf] = regions
        if driver:
            self.bound(bdf, driver)
        self.put("/dev/vfio/devices/vfio%d" % number, "", 0o666)
        self.put("/sys/bus/pci/devices/%s/vfio-dev/vfio%d/dev" % (bdf, number), "511:0")
        self.put("/dev/vfio/" + group, "", 0o666)
        if driver == "nvidia":
            self.add_to_nvidia(bdf)
        self.put("/etc/udev/rules.d/60-nvgrace-gpu-%s.rules" % bdf)
        return Gpu(self, bdf)

    @staticmethod
    def config_space_of(device, command=2):
        config = bytearray(4096)
        struct.pack_into("<HHH", config, 0, 0x10DE, device, command)
        return bytes(config)

    def firmware(self, number, base, size, egm=None):
        """The _DSD of a GPU; egm has base-pa, size and so on, as in nvidia,egm-base-pa."""
        self.tables[number] = aml_device("GP%02X" % number, {
            "gpu-mem-base-pa": base, "gpu-mem-size": size,
            **{"egm-" + key: value for key, value in (egm or {}).items()}})
        body = b"".join(b"\x10" + aml_package(b"\\._SB_PC%02X" % n + device)
                        for n, device in sorted(self.tables.items()))
        self.put("/sys/firmware/acpi/tables/SSDT1", b"SSDT" + bytes(32) + body)
        self.cache.clear()

    def names_egm(self, bdfs, pxm=4, base=0x80000000, size=480 * GIB, retired=None):
        """Firmware has set memory apart for these GPUs; the host's own RAM is elsewhere."""
        for bdf in bdfs:
            start = self.regions[bdf][0][2]
            total = sum(region[3] for region in self.regions[bdf])
            self.firmware(self.number_of[bdf], start, total, {
                "base-pa": base, "size": size, "pxm": pxm, "retired-pages-data-base": retired})
        self.put("/proc/iomem", "00000000-7fffffff : System RAM\n")

    def add_egm(self, bdfs, pxm=4, size=480 * GIB, state="zeroed", base=0x80000000):
        """A region, with the node that the driver and udev's rule make of it."""
        self.names_egm(bdfs, pxm, base, size)
        directory = "/sys/class/egm/egm%d" % pxm
        self.put(directory + "/egm_size", "0x%x" % size)
        self.put(directory + "/gpu_devices", "\n".join(bdfs))
        self.put(directory + "/state", state)
        for bdf in bdfs:
            self.symlink(directory + "/" + bdf, "../../../bus/pci/devices/" + bdf)
        self.put("/dev/egm%d" % pxm, "", 0o666)

    def bound(self, bdf, driver):
        self.driver(driver)
        self.symlink("/sys/bus/pci/devices/%s/driver" % bdf, "../../../bus/pci/drivers/" + driver)
        self.put("/sys/bus/pci/drivers/%s/unbind" % driver)
        self.drop_files(bdf)
        if driver not in ("nvgrace_gpu", DROPIN):
            return
        files = {"resets": "1", "handover": "none"}
        if self.regions[bdf]:
            files.update(state="ready c2c_link=0xff hbm_training=0xff", poisoned_pages="0")
        for name, bar, base, backed, bar_size in self.regions[bdf]:
            files.update({name + "_bar": bar, name + "_base": hex(base), name + "_backed": backed,
                          name + "_bar_size": bar_size})
        for name, value in files.items():
            self.put("/sys/bus/pci/devices/%s/nvgrace_gpu/%s" % (bdf, name), str(value))

    def intree(self, bdf):
        """The kernel's own driver has the GPU; it has no files in sysfs."""
        self.bound(bdf, DROPIN)
        self.drop_files(bdf)

    def add_to_nvidia(self, bdf):
        """NVIDIA's driver gives a GPU the lowest minor that is free."""
        taken = {self.read("/proc/driver/nvidia/gpus/%s/information" % b)[-1]
                 for b in self.list("/proc/driver/nvidia/gpus")}
        minor = min(set("0123456789") - taken)
        self.put("/proc/driver/nvidia/gpus/%s/information" % bdf,
                 "Bus Location: \t %s\nDevice Minor: \t %s" % (bdf, minor))

    def module(self, name, uses=(), refcnt=0):
        """A module that is loaded, and uses others."""
        self.put("/sys/module/%s/refcnt" % name, str(refcnt))
        for other in uses:
            self.put("/sys/module/%s/holders/%s" % (other, name))

    def persistence_mode(self, mode):
        """nvidia-smi is installed, and says that of each GPU."""
        self.executable("nvidia-smi", 'echo "$@" >> %s\necho %s' % (
            self.path("/nvidia-smi.log"), mode))

    def hold(self, bdf):
        """NVIDIA's driver counts a user of the GPU, until /held/BDF goes."""
        self.put("/held/" + bdf)

    def unbound(self, bdf):
        self.remove("/sys/bus/pci/devices/%s/driver" % bdf)
        self.drop_files(bdf)

    def drop_files(self, bdf):
        if self.exists("/sys/bus/pci/devices/%s/nvgrace_gpu" % bdf):
            self.drop("/sys/bus/pci/devices/%s/nvgrace_gpu" % bdf)

    def opened(self, pid, name, node):
        self.put("/proc/%d/comm" % pid, name)
        self.symlink("/proc/%d/fd/3" % pid, node)

    # ---- the kernel

    def kvm_cap(self, cap, vm=True):
        if not self.exists("/dev/kvm"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory",
                                    self.path("/dev/kvm"))
        return self.caps.get(cap, 0)

    def vfio_bars(self, gpu):
        if not gpu.nodes():
            return super().vfio_bars(gpu)
        emulated = {bar: size for _, bar, _, _, size in self.regions[gpu.bdf]}
        return {**gpu.physical_bars(), **emulated}

    def smmu_registers(self, gpu):
        if isinstance(self.idr, OSError):
            raise self.idr
        return self.idr

    def run(self, *command, **more):
        if command[0] == "modprobe":
            self.record(" ".join(command))
            if command[1] in self.missing:
                raise Unknown("modprobe: FATAL: Module %s not found" % command[1])
            self.driver(command[1])
            return ""
        if command[0] == "udevadm" and "udevadm" not in self.missing:
            self.record(" ".join(command))
            return ""
        return super().run(*command, **more)

    def record(self, line):
        with open(self.path("/writes"), "a", encoding="utf-8") as f:
            f.write(line + "\n")

    def writes(self):
        """The writes so far, in short: files below the device have no directory."""
        lines = self.read_or("/writes", "").splitlines()
        self.remove("/writes")
        return [line.replace("/sys/bus/pci/devices/", "").replace("/sys/bus/pci/", "")
                for line in lines]

    def write(self, name, text):
        """sysfs: driver_override, unbind, bind and drivers_probe do what the kernel does."""
        self.record("%s <- %s" % (name, text.strip()))
        parts = name.split("/")
        if parts[-1] == "driver_override":
            self.wait_for_lock(parts[-2])
            self.put(name, text.strip() or "(null)")
        elif parts[-1] == "unbind":
            self.unbind(text)
        elif parts[-1] == "drivers_probe":
            if not Gpu(self, text).driver:
                self.probe(text)
        elif parts[-1] == "bind":
            self.bind(text, parts[-2])
        else:
            super().write(name, text)

    def wait_for_lock(self, bdf):
        """The PCI core holds the device's lock while NVIDIA's remove waits."""
        while Gpu(self, bdf).leaving:
            time.sleep(0.01)

    def unbind(self, bdf):
        """The link goes first. NVIDIA's driver waits for users, then RAM and files go."""
        driver = Gpu(self, bdf).driver
        self.unbound(bdf)
        if driver != "nvidia":
            return
        if self.exists("/held/" + bdf):
            self.say("NVRM: Attempting to remove device %s with non-zero usage count!" % bdf)
        while self.exists("/held/" + bdf):
            time.sleep(0.01)
        self.drop("/proc/driver/nvidia/gpus/" + bdf)

    def probe(self, bdf):
        """The kernel looks for a driver, of which only NVIDIA's takes any GPU."""
        driver = Gpu(self, bdf).override or "nvidia"
        if self.exists("/sys/bus/pci/drivers/" + driver):
            self.bind(bdf, driver)

    def bind(self, bdf, driver):
        self.wait_for_lock(bdf)
        time.sleep(self.delay)
        gpu = Gpu(self, bdf)
        number, line = self.refuse.get((bdf, driver), (0, None))
        if gpu.override not in (None, driver) or gpu.driver or (
                not gpu.override and driver in ("nvgrace_gpu", DROPIN)):
            number = errno.ENODEV
        if number:
            if line:
                self.say("%s %s: %s" % (driver, bdf, line))
            raise OSError(number, os.strerror(number))
        self.bound(bdf, driver)
        if driver == "nvidia":
            self.add_to_nvidia(bdf)


class Case(unittest.TestCase):
    """A test on a machine."""

    maxDiff = None

    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.close)

    def tool(self, *argv):
        """(exit status, standard output, standard error) of the tool there."""
        out, err = io.StringIO(), io.StringIO()
        self.machine.cache.clear()
        try:
            with redirect_stdout(out), redirect_stderr(err):
                status = main(list(argv), self.machine)
        except SystemExit as e:
            status = e.code
        return status, out.getvalue(), err.getvalue()

    def tool_quietly(self, *argv):
        """Without the lines that count seconds, which are there on a busy machine."""
        status, out, err = self.tool(*argv)
        return status, out, re.sub(r"^[\da-f:., ]+: .*: \d+ s\b.*\n", "", err, flags=re.M)

    def output(self, *argv):
        status, out, err = self.tool_quietly(*argv)
        self.assertEqual((status, err), (0, ""), out + err)
        return out

    def refused(self, *argv):
        status, out, err = self.tool_quietly(*argv)
        self.assertEqual(status, 1, out + err)
        self.assertTrue(err.startswith("error: "), err)
        return err
