# SPDX-License-Identifier: GPL-2.0-only
"""The command report: one file for a bug report, without secrets."""

import argparse
import contextlib
import io
import os
import re
import subprocess
import tempfile

from . import signing
from .checks import cmd_check
from .distribution import Distribution
from .egm import find_egms
from .gpu import COHERENT_DRIVERS, DRIVER, INTREE, NVIDIA, find_gpus
from .host import Refused, Unknown, printable
from .module import module_file, our_driver
from .redact import redact, redact_log, redact_users
from .status import cmd_list
from .version import version

# Of the kernel's command line, what has to do with it; the rest may be secret.
SAFE_ARGUMENTS = re.compile(
    r"(iommu|iommu\.[a-z_]+|arm-smmu-v3\.[a-z_]+|(nvgrace_gpu|vfio|kvm)[a-z0-9_]*\.[a-z0-9_]+|"
    r"kvm-arm\.[a-z_]+|pci|pcie_[a-z_]+|(default_)?hugepagesz|hugepages|transparent_hugepage|"
    r"numa|numa_balancing|mem|efi|init_on_(alloc|free)|module\.sig_enforce|lockdown|acpi|"
    r"earlycon|nohz_full|isolcpus|modprobe\.blacklist|module_blacklist|ghes\.disable|hest_disable)"
    r"(=|$)")
LOG_LINES = (r"nvgrace|\begm|EGM|vfio|iommu|smmu|kvm|NVRM|nvidia|Xid|Memory failure|"
             r"CPU features|GHES|AER|"
             r"HEST|EDAC|DPC|EDR|SRAT|Hardware [Ee]rror|Modules with|module verification|"
             r"loading out-of-tree|Loading of |Lockdown|ACPI: _OSC|secure boot")
OPTIONS = (r"(VFIO|IOMMUFD|ARM_SMMU|KVM$|NUMA|NODES_SHIFT|MEMORY_FAILURE|TRANSPARENT_HUGEPAGE|"
           r"ARCH_SUPPORTS_(HUGE|P[MU]D)_PFNMAP|ARM64_\d+K_PAGES|ACPI_APEI|PCIE_(DPC|EDR)|"
           r"MODULE_SIG|SECURITY_LOCKDOWN|NVGRACE)")
NODES = "/sys/devices/system/node"


class Report:
    """Each method writes a section, or raises Unknown or OSError."""

    def __init__(self, host, options):
        self.host, self.options = host, options
        self.gpus = find_gpus(host)

    def lines(self, *pairs):
        """A line for each (name, function), with what the function returns or why it does not."""
        text = ""
        for name, function in pairs:
            try:
                value = function().strip()
            except (Unknown, OSError) as e:
                value = "unknown: " + self.host.error_text(e)
            text += "%s: %s\n" % (name, value)
        return text

    def first_line(self, *command):
        return (self.host.run(*command).strip() or "it printed nothing").splitlines()[0]

    def versions(self):
        host, driver = self.host, our_driver(self.host)

        def module(field):
            path = module_file(host, driver)
            if not path:
                raise Unknown("%s is not installed for this kernel" % driver)
            return host.run("modinfo", "-F", field, host.path(path)) or "none"

        return self.lines(
            ("nvgrace-gpu", version), ("kernel", lambda: host.release),
            ("distribution", lambda: Distribution(host).name or "no PRETTY_NAME"),
            (driver + " on disk", lambda: module("srcversion")),
            (driver + " loaded", lambda: host.read("/sys/module/%s/srcversion" % driver)),
            ("QEMU", lambda: self.first_line("qemu-system-aarch64", "--version")),
            ("libvirt", lambda: self.first_line("libvirtd", "--version")),
            ("NVIDIA's driver", lambda: host.read("/proc/driver/nvidia/version").split("\n")[0]))

    def secure_boot(self):
        host = self.host
        path = module_file(host, our_driver(host))
        return self.lines(
            ("lockdown", lambda: host.read("/sys/kernel/security/lockdown")),
            ("sig_enforce", lambda: host.read("/sys/module/module/parameters/sig_enforce")),
            ("mokutil", lambda: " ".join(host.ask("mokutil", "--sb-state")[1].split())),
            ("signer", lambda: signing.signature(host, path)[0] or "none" if path else "no module"))

    def captured(self, command, **more):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            command(self.host, argparse.Namespace(**{**vars(self.options), "json": False,
                                                     "quiet": False, "better": True, **more}))
        return redact_users(out.getvalue())

    def selftest(self):
        """Run grace_selftest on each GPU that a VFIO driver has and that no process uses."""
        if not self.options.selftest:
            return ("not run, because it resets each GPU and writes to its memory: end the guests, "
                    "then report --selftest ./grace_selftest")
        text = ""
        for gpu in self.gpus:
            if gpu.driver not in COHERENT_DRIVERS or gpu.users():
                text += "%s: not run, because the GPU is in use or not bound\n" % gpu
                continue
            done = subprocess.run([self.options.selftest, gpu.bdf], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                  universal_newlines=True, errors="replace", timeout=900,
                                  check=False)
            text += "%s: exit status %d\n%s\n" % (gpu, done.returncode, printable(done.stdout))
        return text

    def parameters(self):
        return "\n".join("%s.%s=%s" % (module, n, self.host.read_or("%s/%s" % (directory, n), "?"))
                         for module in (DRIVER, INTREE, "vfio_pci", "vfio_pci_core", "vfio",
                                        "vfio_iommu_type1")
                         for directory in ["/sys/module/%s/parameters" % module]
                         for n in self.host.list(directory))

    def nodes(self):
        return self.lines(*((name, lambda name=name: self.host.read(NODES + "/" + name))
                            for name in ("possible", "online", "has_cpu", "has_memory",
                                         "has_generic_initiator")))

    def nvidia_gpus(self):
        base = "/proc/driver/nvidia/gpus"
        return "\n".join(self.host.read("%s/%s/information" % (base, name))
                         for name in self.host.list(base)) or "NVIDIA's driver has no GPU"

    def log(self):
        bdfs = [gpu.bdf for gpu in self.gpus] + list(self.options.gpus)
        # Xid names a GPU without its function.
        pattern = re.compile("|".join([LOG_LINES, *(re.escape(b[:-2]) for b in bdfs)]))
        return "\n".join(line for line in self.host.boot_log() if pattern.search(line))

    def memory(self):
        """Only what is near the GPUs' memory and EGM, not all of the host's own."""
        wanted = []
        for gpu in self.gpus:
            named = gpu.firmware_egm()
            for base, size in (gpu.memory(), (named.get("base-pa"), named.get("size"))):
                if isinstance(base, int) and isinstance(size, int):
                    wanted.append((base, base + size))
        return "\n".join("%x-%x : %s" % r for r in self.host.iomem()
                         if any(r[0] < end and r[1] >= base for base, end in wanted))

    def egm(self):
        """Firmware's properties, in hex as its tables have them, and the files of class egm."""
        def text(value):
            return value if isinstance(value, str) else "0x%x" % value

        lines = ["%s nvidia,egm-%s: %s" % (gpu, name, text(value)) for gpu in self.gpus
                 for name, value in gpu.firmware_egm().items()]
        for region in find_egms(self.host):
            for name in ("egm_size", "gpu_devices", "state"):
                said = self.host.read_or("%s/%s" % (region.dir, name), "?")
                lines.append("%s %s: %s" % (region.name, name, said.replace("\n", " ")))
        return "\n".join(lines) or "firmware has set none apart"

    def sections(self):
        host = self.host
        return [
            ("versions", self.versions),
            ("secure boot", self.secure_boot),
            ("check", lambda: self.captured(cmd_check)),
            ("list", lambda: self.captured(cmd_list)),
            ("grace_selftest", self.selftest),
            ("command line, in part", lambda: " ".join(
                w for w in host.read("/proc/cmdline").split() if SAFE_ARGUMENTS.match(w))),
            ("parameters of modules", self.parameters),
            ("options of the kernel", lambda: "\n".join(
                "CONFIG_%s=%s" % o for o in sorted(host.config().items())
                if re.match(OPTIONS, o[0]))),
            ("NUMA nodes", self.nodes),
            ("PCI functions of NVIDIA", lambda: host.run("lspci", "-Dnn", "-d", "%04x:" % NVIDIA)),
            ("GPUs of NVIDIA's driver", self.nvidia_gpus),
            ("/proc/iomem, the GPUs' memory and EGM", self.memory),
            ("EGM", self.egm),
            ("files of the driver", lambda: "\n".join(
                "%s %s: %s" % (gpu, name, text) for gpu in self.gpus
                for name, text in gpu.files().items())),
            ("log of the kernel, in part", self.log)]

    def text(self):
        host, out = self.host, ""
        hosts = [host.read_or(name, "") for name in ("/proc/sys/kernel/hostname", "/etc/hostname")]
        for title, function in self.sections():
            try:
                body = function()
            except (Unknown, Refused, OSError, subprocess.TimeoutExpired) as e:
                body = "unknown: " + host.error_text(e)
            scrub = redact_log if title.startswith("log") else redact
            out += "== %s\n%s\n\n" % (title, scrub(body, hosts).rstrip())
        return out


def save(name, text):
    """Write a file that only its owner reads, in place of what has its name; follow no link."""
    if os.path.lexists(name) and (os.path.islink(name) or not os.path.isfile(name)):
        raise Refused("%s is not a regular file: choose another name" % name)
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(name) or ".", prefix=".nvgrace-gpu-")
    try:
        with open(fd, "w", encoding="utf-8") as f:
            f.write(text)
        os.replace(temporary, name)
    except BaseException:
        os.unlink(temporary)
        raise


def cmd_report(host, options):
    text = Report(host, options).text()
    if options.output == "-":
        print(text, end="")
        return 0
    save(options.output, text)
    print("%s: read it before you send it; serial numbers, UUIDs, addresses of networks, names of "
          "hosts and most of the kernel's command line are left out" % options.output)
    return 0
