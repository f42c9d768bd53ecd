# SPDX-License-Identifier: GPL-2.0-only
"""The command report: one file for a bug report, without secrets."""

import argparse
import contextlib
import io
import re

from .checks import cmd_check
from .gpu import DRIVER, INTREE, find_gpus
from .host import Refused, Unknown
from .status import cmd_list

# Of the kernel's command line, what has to do with it; the rest may be secret.
SAFE_ARGUMENTS = (r"(iommu|arm-smmu|vfio|nvgrace|kvm|pci=|pcie|hugepage|default_hugepagesz|"
                  r"transparent_hugepage|numa|mem=|efi=|module\.sig|lockdown|acpi|earlycon|"
                  r"nohz|isolcpus|modprobe\.blacklist|pasid)")
LOG_LINES = (r"nvgrace|vfio|iommu|smmu|kvm|Memory failure|CPU features|GHES|AER|HEST|"
             r"Modules with|module verification|loading out-of-tree|ACPI: _OSC")
SECRETS = ((r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b", "<uuid>"),
           (r"\b(?:[0-9a-fA-F]{2}:){5,7}[0-9a-fA-F]{2}\b(?!\.)", "<address>"),
           (r"\b(?:\d{1,3}\.){3}\d{1,3}\b", "<ip>"),
           (r"(?i)(serial|password|token|secret|key)([ =:]+)\S+", r"\1\2<removed>"))


def scrub(text):
    for pattern, instead in SECRETS:
        text = re.sub(pattern, instead, text)
    return text


def report_sections(host, options):
    """(title, text) of all that a bug report needs."""
    def guarded(function):
        try:
            return function()
        except (Unknown, Refused, OSError) as e:
            return "cannot tell: " + host.error_text(e)

    def captured(command, **more):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            command(host, argparse.Namespace(**{**vars(options), "json": False, "quiet": False,
                                                "better": True, **more}))
        return out.getvalue().rstrip()

    def distribution():
        match = re.search(r'^PRETTY_NAME="?([^"\n]*)', host.read("/etc/os-release"), re.M)
        return match.group(1) if match else "/etc/os-release has no PRETTY_NAME"

    def parameters():
        lines = []
        for module in (DRIVER, INTREE, "vfio_pci", "vfio_pci_core", "vfio", "vfio_iommu_type1"):
            directory = "/sys/module/%s/parameters" % module
            lines += ["%s.%s=%s" % (module, n, host.read_or(directory + "/" + n, "?"))
                      for n in host.list(directory)]
        return "\n".join(lines)

    def log():
        bdfs = [gpu.bdf for gpu in find_gpus(host)] + list(options.gpus)
        pattern = re.compile("|".join([LOG_LINES, *map(re.escape, bdfs)]))
        return "\n".join(line for line in host.log() if pattern.search(line))

    def files():
        return "\n".join("%s %s: %s" % (gpu, name, text) for gpu in find_gpus(host)
                         for name, text in gpu.files().items())

    def memory():
        # Only what is near the GPUs' memory, above all of the host's own at socket 0.
        wanted = []
        for gpu in find_gpus(host):
            base, size = gpu.memory()
            if isinstance(base, int) and isinstance(size, int):
                wanted.append((base, base + size))
        return "\n".join("%x-%x : %s" % r for r in host.iomem()
                         if any(r[0] < end and r[1] >= base for base, end in wanted))

    def command_line():
        return " ".join(w for w in host.read("/proc/cmdline").split()
                        if re.match(SAFE_ARGUMENTS, w))

    def config():
        return "\n".join("CONFIG_%s=%s" % o for o in sorted(host.config().items()) if re.match(
            r"(VFIO|IOMMUFD|ARM_SMMU|KVM$|NUMA|MEMORY_FAILURE|TRANSPARENT_HUGEPAGE|ARCH_SUPPORTS_"
            r"(HUGE|P[MU]D)_PFNMAP|ARM64_\d+K_PAGES|ACPI_APEI|MODULE_SIG|NVGRACE)", o[0]))

    return [("kernel", guarded(lambda: host.release)),
            ("distribution", guarded(distribution)),
            ("check", guarded(lambda: captured(cmd_check))),
            ("list", guarded(lambda: captured(cmd_list))),
            ("command line, in part", guarded(command_line)),
            ("parameters of modules", guarded(parameters)),
            ("options of the kernel", guarded(config)),
            ("/proc/iomem, the GPUs' memory", guarded(memory)),
            ("files of the driver", guarded(files)),
            ("QEMU", guarded(lambda: host.run("qemu-system-aarch64", "--version").strip())),
            ("log of the kernel, in part", guarded(log))]


def cmd_report(host, options):
    text = "".join("== %s\n%s\n\n" % (title, scrub(body))
                   for title, body in report_sections(host, options))
    if options.output == "-":
        print(text, end="")
        return 0
    with open(options.output, "w", encoding="utf-8") as f:
        f.write(text)
    print("%s: read it before you send it; host names, UUIDs, addresses of networks and the "
          "kernel's command line are left out" % options.output)
    return 0
