# SPDX-License-Identifier: GPL-2.0-only
"""EGM regions, as sysfs shows them: the DRAM that firmware has set apart for a socket's GPUs.

Documentation/egm.rst says what they are, Documentation/ABI/testing/sysfs-class-egm what the files
of class egm hold.
"""

import re

from .host import Unknown
from .users import cures_of, users_of_nodes

CLASS = "/sys/class/egm"
# What state begins with. The number after "failed" is an errno.
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
