# SPDX-License-Identifier: GPL-2.0-only
"""EGM regions, as sysfs shows them: the DRAM that firmware has set apart for a socket's GPUs.

Documentation/egm.rst says what they are, Documentation/ABI/testing/sysfs-class-egm what the files
of class egm hold.
"""

import re

from .host import Unknown
from .users import cures_of, users_of_nodes

CLASS = "/sys/class/egm"
# The properties without which a region is none.
NEEDED = ("base-pa", "size", "pxm")
# state begins with one of these. The number after "failed" is an errno.
STATES = r"zeroing \d+ of \d+|zeroed|in use|failed -\d+"


class Egm:
    """A region that the driver has made a node for."""

    def __init__(self, host, name):
        self.host, self.name = host, name
        self.dir, self.node = CLASS + "/" + name, "/dev/" + name

    def __str__(self):
        return self.node

    @property
    def size(self):
        return self.host.number(self.dir + "/egm_size", 16)

    @property
    def gpus(self):
        """The PCI addresses of the bound GPUs whose firmware names it."""
        return self.host.read(self.dir + "/gpu_devices").split()

    @property
    def state(self):
        """One line, such as "zeroing 4096 of 8192"."""
        text = self.host.read(self.dir + "/state").split("\n")[0]
        if not re.match("(?:%s)(?: |$)" % STATES, text):
            raise Unknown("%s/state holds '%s'" % (self.dir, text))
        return text

    def users(self):
        return users_of_nodes(self.host, re.compile(re.escape(self.node)))

    def cures(self):
        return cures_of(self.users())


def find_egms(host):
    """All regions that have a node."""
    return [Egm(host, name) for name in host.list(CLASS) if re.fullmatch(r"egm\d+", name)]


def egm_of(gpu):
    """The region of a GPU, or None."""
    for region in find_egms(gpu.host):
        if gpu.bdf in region.gpus:
            return region
    return None


def all_three(named):
    """Why these properties do not say where a region is, or None."""
    texts = [name for name, value in named.items() if isinstance(value, str)]
    if texts:
        return "nvidia,egm-%s is %s" % (texts[0], named[texts[0]])
    missing = [name for name in NEEDED if name not in named]
    if missing:
        return "nvidia,egm-%s is there without nvidia,egm-%s" % (
            min(named), " and nvidia,egm-".join(missing))
    if not named["size"]:
        return "nvidia,egm-size is 0"
    if named["pxm"] >> 32:
        return "nvidia,egm-pxm, 0x%x, has more than 32 bits" % named["pxm"]
    return None


def wrong_range(gpu, named, page_size):
    """Why the range cannot be a region, or None."""
    base, size = named["base-pa"], named["size"]
    for name in ("base-pa", "size"):
        if named[name] % page_size:
            return "nvidia,egm-%s, 0x%x, is not a multiple of the page size, 0x%x" % (
                name, named[name], page_size)
    if base + size > 1 << 52:
        return "nvidia,egm-base-pa and nvidia,egm-size, 0x%x + 0x%x, are beyond 52 bits" % (
            base, size)
    memory, memory_size = gpu.firmware_memory()
    if (isinstance(memory, int) and isinstance(memory_size, int) and
            memory < base + size and base < memory + memory_size):
        return "nvidia,egm-base-pa and nvidia,egm-size overlap the GPU's own memory"
    retired = named.get("retired-pages-data-base")
    if retired and base <= retired < base + size:
        return "nvidia,egm-retired-pages-data-base, 0x%x, is within the region" % retired
    return None


def differs(gpu, gpus, named):
    """Another GPU that names this proximity domain with another range, as text, or None."""
    for other in gpus:
        theirs = other.firmware_egm() if other.bdf != gpu.bdf else {}
        if theirs.get("pxm") == named["pxm"]:
            for name in ("base-pa", "size"):
                if theirs.get(name) != named[name]:
                    return "nvidia,egm-%s is not that of %s, which names nvidia,egm-pxm %d, too" % (
                        name, other, named["pxm"])
    return None


def system_ram(gpu, named):
    """The System RAM that a range overlaps, as text, or None. Only root sees it."""
    start, end = named["base-pa"], named["base-pa"] + named["size"]
    for first, last, name in gpu.host.iomem():
        if name.startswith("System RAM") and first < end and last >= start:
            return "0x%x-0x%x" % (max(first, start), min(last + 1, end) - 1)
    return None
