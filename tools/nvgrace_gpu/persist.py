# SPDX-License-Identifier: GPL-2.0-only
"""What binds a GPU at boot: this tool's udev rules, a file for each GPU, and other tools."""

import re
import sys

from .gpu import Gpu
from .host import Unknown

RULES = "/etc/udev/rules.d"
DRIVERCTL = "/etc/driverctl.d"

# NVIDIA's driver may be loaded for any NVIDIA function, and then takes all GPUs that have no
# override. So the first function that udev sees sets the override, whichever it is.
RULE = """\
# {bdf}: written by nvgrace-gpu bind --persist; nvgrace-gpu unbind --persist removes this file.
ACTION=="add", SUBSYSTEM=="pci", ATTR{{vendor}}=="0x10de", TEST=="[pci/{bdf}]driver_override", \
ATTR{{[pci/{bdf}]driver_override}}="{driver}"
ACTION=="add", SUBSYSTEM=="pci", KERNEL=="{bdf}", ATTR{{driver_override}}="{driver}", \
RUN{{builtin}}+="kmod load {driver}", RUN+="/bin/sh -c '{command}'"
"""
# No character of this means something to a shell or to udev.
TOO_LATE = "the driver nvidia was loaded before udev ran, and nothing takes the GPU away at boot"
# NVIDIA's driver may wait for its users forever, and udev would kill a worker that waits. Any
# other driver gives the device up; then the kernel matches again.
COMMAND = (
    "if [ -e /sys/bus/pci/drivers/nvidia/{bdf} ]; then "
    "echo nvgrace-gpu {bdf}: " + TOO_LATE + " > /dev/kmsg; exit 0; fi; "
    "cd /sys/bus/pci/devices/{bdf} && "
    "if [ -e driver ] && [ ! -e driver/module/drivers/pci:{driver} ]; then "
    "echo {bdf} > driver/unbind; fi; echo {bdf} > /sys/bus/pci/drivers_probe")


def rule_file(bdf):
    return "%s/60-nvgrace-gpu-%s.rules" % (RULES, bdf)


def persisted(host):
    """The addresses of GPUs, also of those that are gone, that have a rule."""
    names = (re.fullmatch(r"60-nvgrace-gpu-([\da-f]+:[\da-f:.]+)\.rules", name)
             for name in host.list(RULES))
    return [match.group(1) for match in names if match]


def other_owners(host, gpu, driver=None):
    """List what gives the GPU to another driver at boot: (a sentence, the command that ends it)."""
    found = []
    chosen = host.read_or("%s/%s" % (DRIVERCTL, gpu))
    if chosen and chosen != driver:
        found.append(("driverctl gives %s to %s at boot, see %s/%s" % (
            gpu, chosen, DRIVERCTL, gpu), "driverctl unset-override %s" % gpu))
    if driver == "vfio-pci":
        return found
    name = "%04x:%04x" % (gpu.vendor, gpu.device)
    places = [("/proc/cmdline", r"\bvfio[-_]pci\.ids=(\S*)")]
    places += [("/etc/modprobe.d/" + f, r"^\s*options\s+vfio[-_]pci\s.*\bids=(\S*)")
               for f in host.list("/etc/modprobe.d") if f.endswith(".conf")]
    for place, pattern in places:
        for ids in re.findall(pattern, host.read_or(place, ""), re.M):
            if name in ids.lower():
                found.append(("vfio-pci takes %s when it loads, by ids= in %s" % (name, place),
                              "grep -rn '%s' /etc/default/grub* /etc/modprobe.d" % name))
    return found


def reload_rules(writer):
    try:
        writer.run("udevadm", "control", "--reload")
    except Unknown as e:
        print("udev does not run now (%s): it reads %s when it starts" % (e, RULES),
              file=sys.stderr)


def persist(writer, gpus, driver):
    for gpu in gpus:
        writer.save(rule_file(gpu), RULE.format(
            bdf=gpu, driver=driver, command=COMMAND.format(bdf=gpu, driver=driver)))
        for sentence, _ in other_owners(gpu.host, gpu, driver):
            print("%s; the udev rule gives it to %s" % (sentence, driver), file=sys.stderr)
    reload_rules(writer)
    if not writer.dry_run:
        for gpu in gpus:
            print("after a reboot %s binds again: %s" % (gpu, rule_file(gpu)))


def forget(writer, bdfs):
    """Remove the rules of GPUs, which may be gone or in use; returns those that had one."""
    host = writer.host
    bdfs = [bdf for bdf in bdfs if host.exists(rule_file(bdf))]
    for bdf in bdfs:
        writer.remove(rule_file(bdf))
    if bdfs:
        reload_rules(writer)
    if not writer.dry_run:
        for bdf in bdfs:
            print("%s: the udev rule is removed" % bdf)
    return bdfs


def warn_of_other_owners(host, bdfs):
    for bdf in bdfs:
        gpu = Gpu(host, bdf)
        if host.exists(gpu.dir):
            for sentence, cure in other_owners(host, gpu):
                print("%s\n      %s" % (sentence, cure), file=sys.stderr)
