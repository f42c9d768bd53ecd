# SPDX-License-Identifier: GPL-2.0-only
"""The file of the driver's module, and which module other tools would take for a GPU."""

import fnmatch
import os
import re

from .gpu import DRIVER, INTREE


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
