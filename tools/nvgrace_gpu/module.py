# SPDX-License-Identifier: GPL-2.0-only
"""The file of the driver's module, how to install it, and which module other tools would take."""

import fnmatch
import os
import re

from .cures import Advice
from .distribution import Distribution, has_headers
from .gpu import DRIVER, INTREE

DKMS = "nvgrace-gpu"
# The first file of a name counts, as modprobe.d(5) says.
MODPROBE_D = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d",
              "/usr/lib/modprobe.d", "/lib/modprobe.d")


def module_file(host, name):
    """Where the module is for the running kernel, or None; modules.dep knows."""
    base = "/lib/modules/" + host.release
    for line in host.read_or(base + "/modules.dep", "").splitlines():
        path = line.split(":")[0]
        if re.fullmatch(name.replace("_", "[_-]") + r"\.ko(\.\w+)?", os.path.basename(path)):
            return base + "/" + path
    return None


def our_driver(host):
    """The name that this project's driver has here: it was built with DROPIN=1, or was not.

    The kernel's own module is not in updates/ or extra/, and has no parameter usemem_bar.
    """
    def find():
        if host.exists("/sys/module/%s/parameters/usemem_bar" % INTREE):
            return INTREE
        if host.exists("/sys/module/" + DRIVER) or module_file(host, DRIVER):
            return DRIVER
        dropin = re.search(r"/(updates|extra)/", module_file(host, INTREE) or "")
        return INTREE if dropin else DRIVER
    return host.once("driver", find)


def stray_module(host):
    """(release, path) of a module that modules.dep of the running kernel has not."""
    for release in [host.release, *host.list("/lib/modules")]:
        for directory in ("updates", "updates/dkms", "extra"):
            path = "/lib/modules/%s/%s" % (release, directory)
            for name in host.list(path):
                if name.startswith((DRIVER + ".ko", INTREE + ".ko")):
                    return release, path + "/" + name
    return None


def dkms_version(host):
    """The version of this driver that DKMS has, or None."""
    known = "/var/lib/dkms/" + DKMS
    versions = [n for n in host.list(known) if host.exists("%s/%s/source" % (known, n))]
    versions += [n[len(DKMS) + 1:] for n in host.list("/usr/src") if n.startswith(DKMS + "-")]
    return versions[0] if versions else None


def dkms_failure(host):
    """The name of DKMS's log and its first line with an error, of a build for this kernel."""
    name = "/var/lib/dkms/%s/%s/build/make.log" % (DKMS, dkms_version(host))
    lines = host.read_or(name, "").splitlines()
    if not lines or "for kernel %s " % host.release not in lines[0] + " ":
        return None
    errors = [line for line in lines if re.search(r"\berror\b|\*\*\*", line, re.I)]
    return name, errors[0] if errors else lines[-1]


def install_cures(host):
    """How to install the module for the running kernel."""
    version = dkms_version(host)
    headers = () if has_headers(host) else (Distribution(host).headers(),)
    if version:
        return (*headers, "dkms install %s/%s -k %s" % (DKMS, version, host.release))
    return (*headers, Advice("in the source of this driver: make dkms-install, or make install"))


def blacklisted(host, driver):
    """(file, line) of modprobe's configuration that keep the module from being loaded."""
    name = driver.replace("_", "[_-]")
    pattern = re.compile(r"\s*(blacklist\s+%s|install\s+%s\s+(/usr)?/bin/(false|true))\s*$" %
                         (name, name))
    seen, found = set(), []
    for directory in MODPROBE_D:
        for file_name in host.list(directory):
            if file_name.endswith(".conf") and file_name not in seen:
                seen.add(file_name)
                path = directory + "/" + file_name
                found += [(path, line.strip()) for line in host.read_or(path, "").splitlines()
                          if pattern.match(line)]
    return found


def choice_of_tools(host, gpu):
    """Modules that tools find for a GPU with its alias; the first is the one that they take."""
    modalias = "vfio_pci:" + gpu.attr("modalias").partition(":")[2]
    found = []
    for line in host.read("/lib/modules/%s/modules.alias" % host.release).splitlines():
        words = line.split()
        if len(words) == 3 and fnmatch.fnmatchcase(modalias, words[1]):
            found.append((words[1].count("*"), words[2]))
    # Fewest wildcards win; of equals, the first line. sorted() keeps their order.
    return [name for _, name in sorted(found, key=lambda f: f[0])]
