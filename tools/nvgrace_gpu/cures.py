# SPDX-License-Identifier: GPL-2.0-only
"""Cures: commands to paste as root, or advice; and the meaning of the driver's messages."""

import re


class Advice(str):
    """A cure that is not a command, but a sentence to read."""

    def format(self, **values):
        return Advice(super().format(**values))


SETUP = "systemctl reboot --firmware-setup"
SMMU_ON = Advice("reboot into the firmware's setup (%s), and switch the SMMU on" % SETUP)
# The names are those of NVIDIA's open firmware for Grace, edk2-nvidia.
EGM_FOR_GUESTS = Advice("reboot into the firmware's setup (%s); in 'SoC Configuration' set 'EGM "
                        "Hypervisor reserved memory per socket' to what the host needs, in MB, or "
                        "switch 'EGM' off" % SETUP)
POWER_CYCLE = Advice("shut the host down, switch its power off and on again, and read the BMC's "
                     "log")
NEW_FIRMWARE = Advice("update the machine's firmware, as its vendor says")
GRACE_CPU = Advice("use a machine with Grace's CPU, Neoverse-V2")
REBOOT = Advice("then reboot")
REBOOT_ONLY = Advice("reboot the host")
# format() puts a GPU's address in.
RESCAN = "echo 1 > /sys/bus/pci/devices/{bdf}/remove; echo 1 > /sys/bus/pci/rescan"
RESET = "echo 1 > /sys/bus/pci/devices/{bdf}/reset"


def configure(*options):
    """Which options a kernel has to be built with."""
    return Advice("run a kernel that is built with " +
                  " and ".join("CONFIG_" + option for option in options))


# A message with which the driver refuses a GPU, its meaning, and the cure; see trouble.rst.
TROUBLE = (
    (r"without nvidia,gpu-mem-size|gpu-mem-size: 0x0 means|C2C link\) reads (?!0x0,).*, a failure",
     "the C2C link did not come up", POWER_CYCLE),
    (r"without nvidia,gpu-mem-base-pa|not an unsigned 64-bit|is not a multiple of|is beyond |"
     r"wraps around|ends beyond what|EFI or ACPI uses", "firmware names no usable memory",
     NEW_FIRMWARE),
    (r"overlaps System RAM", "the kernel uses the memory as RAM, until the driver that added it "
     "takes it back", "nvgrace-gpu check {bdf}"),
    (r"BAR0: .* is in use|usemem .* is in use|resmem .* is in use", "another driver has claimed it",
     Advice("unbind the driver that /proc/iomem names")),
    (r"not ready after \d+ s", "link or memory training did not end; if it does not end the second "
     "time either, power-cycle the host", "nvgrace-gpu bind {bdf}"),
    (r"the GPU is gone", "the GPU is off the bus", RESCAN),
    (r"no IOMMU", "the SMMU is off", SMMU_ON),
    (r"cannot be enabled", "a BAR has no address",
     Advice("boot with pci=realloc, with which the kernel assigns them again")),
    (r"is too small to split|is too large", "firmware names memory of a wrong size", NEW_FIRMWARE),
    (r"DVSEC at config offset", "the GPU stopped answering config reads", RESET),
)


def explain(gpu, message):
    """The meaning of a line of the driver, and the cure, or None.

    What it says of EGM refuses the region, and not the GPU: see checks/egm.py.
    """
    if "nvidia,egm-" in message:
        return None
    for pattern, meaning, cure in TROUBLE:
        if re.search(pattern, message):
            return meaning, cure.format(bdf=gpu.bdf)
    return None
