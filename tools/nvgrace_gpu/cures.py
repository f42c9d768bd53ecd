# SPDX-License-Identifier: GPL-2.0-only
"""Cures: commands to paste; and the meaning of the driver's messages."""

import re

INSTALL = "make KDIR=/lib/modules/$(uname -r)/build && make install && depmod"
POWER_CYCLE = "ipmitool chassis power cycle"
SETUP = "systemctl reboot --firmware-setup"
# format() puts a GPU's address in.
RESCAN = "echo 1 > /sys/bus/pci/devices/{bdf}/remove; echo 1 > /sys/bus/pci/rescan"
SERIES = ("cd linux-6.12.y && git am "
          "$(ls ../nvgrace_gpu/patches/linux-6.12/0*.patch | grep -v /0000-)")


def newer_kernel(host):
    if re.search(r"^ID=[\"']?debian", host.read_or("/etc/os-release", ""), re.M):
        return ('apt-get install -t "$(. /etc/os-release; echo $VERSION_CODENAME)-backports" '
                "linux-image-arm64")
    return "uname -r    # install Linux 6.17 or newer, or 6.12 with patches/linux-6.12"


def edit_command_line(expression):
    """How to change the kernel's command line with an expression of sed -E."""
    return "sed -i -E '%s' /etc/default/grub && update-grub && reboot" % expression


REALLOC = edit_command_line('s/^GRUB_CMDLINE_LINUX="/&pci=realloc /')


def configure(*options):
    """How to build a kernel with these options."""
    return "scripts/config %s && make olddefconfig    # in the kernel's source; then build" % (
        " ".join("-e " + o for o in options))


# A message with which the driver refuses a GPU, its meaning, and the cure; see trouble.rst.
TROUBLE = (
    (r"without nvidia,gpu-mem-size|gpu-mem-size: 0x0 means|C2C link\) reads (?!0x0,).*, a failure",
     "the C2C link did not come up", POWER_CYCLE),
    (r"without nvidia,gpu-mem-base-pa|not an unsigned 64-bit|is not a multiple of|is beyond |"
     r"wraps around|ends beyond what", "firmware names no usable memory: update the firmware",
     "fwupdmgr update"),
    (r"overlaps System RAM", "the kernel uses the memory already", "grep 'System RAM' /proc/iomem"),
    (r"BAR0: .* is in use|usemem .* is in use|resmem .* is in use", "another driver has claimed it",
     "cat /proc/iomem"),
    (r"not ready after \d+ s", "link or memory training did not end",
     "nvgrace-gpu bind {bdf}    # again; if it does not help: " + POWER_CYCLE),
    (r"the GPU is gone", "the GPU is off the bus", RESCAN),
    (r"no IOMMU", "the SMMU is off", SETUP),
    (r"cannot be enabled", "a BAR has no address: have the kernel assign them again",
     REALLOC),
    (r"is too small to split|is too large", "firmware names memory of a wrong size: update it",
     "fwupdmgr update"),
    (r"DVSEC at config offset", "the GPU stopped answering config reads",
     "echo 1 > /sys/bus/pci/devices/{bdf}/reset"),
)


def explain(gpu, message):
    """The meaning of a line of the driver, and the cure, or None."""
    for pattern, meaning, cure in TROUBLE:
        if re.search(pattern, message):
            return meaning, cure.format(bdf=gpu.bdf)
    return None
