# SPDX-License-Identifier: GPL-2.0-only
"""The distribution of the host, by /etc/os-release, and its commands."""

import os
import re

from .cures import Advice

# The packages of each family; Debian's names are Ubuntu's, too.
PACKAGES = {
    "qemu": {"debian": "qemu-system-arm qemu-efi-aarch64",
             "fedora": "qemu-system-aarch64 edk2-aarch64", "rhel": "qemu-kvm edk2-aarch64"},
    "mokutil": {"debian": "mokutil", "fedora": "mokutil", "rhel": "mokutil"},
}
FAMILIES = {"debian": "debian", "ubuntu": "ubuntu", "fedora": "fedora", "rhel": "rhel"}
WORD_END = "[^[:alnum:]._-]"


class Distribution:
    """family is debian, ubuntu, fedora, rhel or None; unknown ones get plain text."""

    def __init__(self, host):
        self.host = host
        fields = dict(re.findall(r"^(\w+)=[\"']?([^\"'\n]*)", host.read_or("/etc/os-release", ""),
                                 re.M))
        self.name = fields.get("PRETTY_NAME")
        self.codename = fields.get("VERSION_CODENAME")
        ids = [fields.get("ID"), *fields.get("ID_LIKE", "").split()]
        self.family = next((FAMILIES[i] for i in ids if i in FAMILIES), None)
        self.apt = self.family in ("debian", "ubuntu")
        self.dnf = self.family in ("fedora", "rhel")

    def install(self, what):
        packages = PACKAGES[what].get("debian" if self.apt else self.family)
        if self.apt:
            return "apt-get install " + packages
        if self.dnf:
            return "dnf install " + packages
        return Advice("install the package that has %s" % what)

    def headers(self):
        """How to install the headers of the running kernel."""
        release = self.host.release
        if self.apt and "-nvgrace" not in release:
            return "apt-get install linux-headers-" + release
        if self.dnf:
            # kernel-64k-devel is of the kernel whose release ends with +64k.
            version, _, variant = release.partition("+")
            return "dnf install kernel-%sdevel-%s" % (variant and variant + "-", version)
        return Advice("install the headers of Linux %s, from where the kernel came" % release)

    def backports(self):
        """Does apt know Debian's backports?"""
        directory = "/etc/apt/sources.list.d"
        names = ["/etc/apt/sources.list"] + [directory + "/" + name
                                             for name in self.host.list(directory)]
        return any(re.search(r"^[^#\n]*\b%s-backports\b" % self.codename,
                             self.host.read_or(name, ""), re.M) for name in names)

    def command_line(self, add=None, remove=None):
        """How to change a word of the kernel's command line."""
        if self.dnf:
            return "grubby --update-kernel=ALL --%s='%s'" % (
                ("args", add) if add else ("remove-args", remove))
        if self.apt and self.host.exists("/etc/default/grub"):
            edit = r's/^GRUB_CMDLINE_LINUX=["\x27]/&%s /' % add if add else (
                r"s/(^|{0}){1}($|{0})/\1\2/g".format(WORD_END, re.escape(remove)))
            return "sed -i -E '%s' /etc/default/grub && update-grub" % edit
        return Advice("%s the kernel's command line, in the boot loader's configuration" %
                      ("add %s to" % add if add else "take %s out of" % remove))

    def newer_kernel(self):
        if self.family == "debian" and self.codename == "trixie":
            if self.backports():
                return "apt-get install -t trixie-backports linux-image-arm64"
            return Advice("install linux-image-arm64 of trixie-backports, which is 7.3; "
                          "https://backports.debian.org/Instructions/ says how")
        return Advice("run Linux 7.3 or newer, or 6.12 with the series: make deb-kernel in this "
                      "driver's source")

    def newer_qemu(self):
        if self.family == "debian" and self.codename == "bookworm" and self.backports():
            return "apt-get install -t bookworm-backports qemu-system-arm qemu-efi-aarch64"
        return Advice("install QEMU 10 or newer: from a newer release of the distribution, or "
                      "built from source")


def has_headers(host):
    """Are the headers of the running kernel there? The link to them may lead nowhere."""
    build = "/lib/modules/%s/build" % host.release
    try:
        target = os.readlink(host.path(build))
    except OSError:
        return host.exists(build)
    return host.exists(os.path.join(os.path.dirname(build), target))
