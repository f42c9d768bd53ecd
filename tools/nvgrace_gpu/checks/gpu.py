# SPDX-License-Identifier: GPL-2.0-only
"""Checks of each GPU: memory, driver, state, reset, IOMMU group, VFIO nodes."""

import os
import re

from ..cures import NEW_FIRMWARE, POWER_CYCLE, REBOOT, REBOOT_ONLY, RESCAN, SMMU_ON, Advice, explain
from ..distribution import Distribution
from ..gpu import COHERENT_DRIVERS, DEVICES, Gpu
from ..host import Account, Unknown
from ..module import install_cures, module_file, our_driver
from ..persist import TOO_LATE, other_owners, rule_file
from ..sizes import human
from ..users import cures_of, sees_all
from .base import fix, ok, registry

CHECKS, listed = registry()


@listed("present")
def check_present(host, gpu, _):
    if gpu.config_space()[:4] == b"\xff\xff\xff\xff":
        return fix("config space reads all ones: the GPU is off the bus",
                   RESCAN.format(bdf=gpu))
    return ok("%s, %04x:%04x, socket %d" % (gpu.model, gpu.vendor, gpu.device, gpu.socket))


@listed("group")
def check_group(host, gpu, _):
    if gpu.group is None:
        return fix("no IOMMU group, so VFIO refuses it with -22: the SMMU is off", SMMU_ON)
    blocking = [name for name in gpu.group_members() if name != gpu.bdf and
                blocks_group(Gpu(host, name))]
    if blocking:
        return fix("IOMMU group %s has %s too, with a driver of the host's: VFIO refuses the "
                   "group" % (gpu.group, ", ".join(blocking)),
                   *("echo %s > %s/%s/driver/unbind" % (n, DEVICES, n) for n in blocking))
    return ok("IOMMU group " + gpu.group)


def blocks_group(other):
    """VFIO lets a group in which each function has a VFIO driver, none, or is a bridge."""
    bridge = other.host.read_or(other.dir + "/class", "").startswith("0x0604")
    return not (bridge or other.driver is None or "vfio" in other.driver or
                other.driver in (*COHERENT_DRIVERS, "pci-stub"))


@listed("bar0")
def check_bar0(host, gpu, _):
    if 0 not in gpu.physical_bars():
        return fix("BAR0 has no address; with pci=realloc the kernel assigns them again",
                   Distribution(host).command_line(add="pci=realloc"), REBOOT)
    return ok("BAR0 has " + human(gpu.physical_bars()[0]))


@listed("memory")
def check_memory(_, gpu, options):
    base, size = gpu.memory()
    if size and gpu.files() and not gpu.regions():
        return fix("firmware's _DSD names memory, and the kernel takes none of it: the package "
                   "is malformed", NEW_FIRMWARE)
    if base is None and size is None:
        return ok("firmware names no coherent memory: the driver serves a plain GPU")
    for value in (base, size):
        if isinstance(value, str):
            return fix("firmware's _DSD names %s as memory" % value, NEW_FIRMWARE)
    if base is None:
        return fix("firmware names a size and no base", NEW_FIRMWARE)
    if not size:
        return fix("firmware names memory at 0x%x without a size: the C2C link did not come up" %
                   base, POWER_CYCLE)
    return ok("%s of coherent memory at 0x%x-0x%x" % (human(size), base, base + size - 1))


def onlined(host, gpu, start, name):
    """Say which driver made RAM of the GPU's memory, and the command that has it take it back.

    Memory that is offline stays in /proc/iomem, and is RAM for the driver, until then.
    """
    if "kmem" in name:
        for device in host.list("/sys/bus/dax/devices"):
            resource = host.read_or("/sys/bus/dax/devices/%s/resource" % device, "")
            if resource and int(resource, 16) == start:
                return ("it goes with the driver kmem of %s" % device,
                        "daxctl reconfigure-device --mode=devdax --force {0} && "
                        "daxctl disable-device {0}".format(device))
        return "it goes with the driver kmem", "daxctl list --devices"
    if gpu.driver == "nvidia":
        return ("it goes with NVIDIA's driver, once the GPU has no users",
                "nvgrace-gpu bind %s" % gpu)
    if "NVIDIA" in name:
        return "NVIDIA's driver left it behind", REBOOT_ONLY
    return "firmware's memory map has it as RAM", NEW_FIRMWARE


@listed("memory.free")
def check_memory_free(host, gpu, _):
    base, size = gpu.memory()
    if not isinstance(base, int) or not isinstance(size, int) or not size:
        return ok("firmware names no memory that another driver could claim")
    within = [r for r in host.iomem() if r[0] < base + size and r[1] >= base]
    ram = [r for r in within if r[2].startswith("System RAM")]
    if ram:
        start, end, name = max(base, ram[0][0]), min(base + size, ram[0][1] + 1), ram[0][2]
        why, cure = onlined(host, gpu, start, name)
        return fix("the kernel uses 0x%x-0x%x as %s: %s" % (start, end - 1, name, why), cure)
    others = sorted({name for _, _, name in within
                     if name not in COHERENT_DRIVERS and not name.startswith(("PCI", "Reserved",
                                                                              "reserved"))})
    if others:
        return fix("%s claims the memory, see /proc/iomem" % " and ".join(others),
                   *(release_cure(host, gpu, name) for name in others))
    if within and any(name in COHERENT_DRIVERS for _, _, name in within):
        return ok("a VFIO driver claims the memory")
    return ok("no driver claims the memory")


def release_cure(host, gpu, name):
    """How to take the memory from what has this name in /proc/iomem."""
    if name.startswith("nvidia"):
        return "nvgrace-gpu bind %s" % gpu
    if host.exists("/sys/module/" + name.replace("-", "_")):
        return "modprobe -r " + name
    if re.fullmatch(r"dax\d+\.\d+", name):
        return "echo {0} > /sys/bus/dax/devices/{0}/driver/unbind".format(name)
    return Advice("the kernel or firmware has reserved it as %s: update the machine's firmware" %
                  name)


@listed("driver")
def check_driver(host, gpu, _):
    driver = gpu.driver
    if driver == our_driver(host):
        return ok("bound to " + driver)
    if driver in COHERENT_DRIVERS:
        return ok("bound to %s, which shows usemem too" % driver, "nvgrace-gpu bind %s" % gpu)
    if driver is None:
        return fix("bound to no driver", "nvgrace-gpu bind %s" % gpu)
    what = {"vfio-pci": ", which shows no usemem", "nvidia": ", NVIDIA's, for the host itself"}
    return fix("bound to %s%s" % (driver, what.get(driver, "")), "nvgrace-gpu bind %s" % gpu)


@listed("users")
def check_users(host, gpu, _):
    users = gpu.users(deep=True)
    who = ", ".join(user.who for user in users)
    if gpu.leaving:
        return fix("NVIDIA's driver gives it up, and waits for its users: %s" %
                   (who or "none is known, so only a reboot ends that"),
                   *(cures_of(users) or [REBOOT_ONLY]))
    if users and gpu.driver == "nvidia":
        return fix("in use by %s: nvgrace-gpu bind does not take it from them" % who,
                   *cures_of(users))
    if users:
        return ok("in use by " + who)
    if not sees_all(host):
        raise Unknown("only root sees the processes of other users")
    return ok("nobody uses it")


@listed("override")
def check_override(host, gpu, _):
    if gpu.override in (None, *COHERENT_DRIVERS):
        return ok("driver_override is %s" % (gpu.override or "not set"))
    driver = our_driver(host)
    return fix("driver_override is %s: %s gets 'No such device' when it binds" %
               (gpu.override, driver), "echo %s > %s/driver_override" % (driver, gpu.dir))


@listed("log")
def check_log(host, gpu, _):
    """The last time that the driver refused the GPU, unless it took it since."""
    if gpu.driver in COHERENT_DRIVERS:
        return ok("the driver took the GPU")
    refusal = None
    for driver, line in gpu.log():
        if driver in COHERENT_DRIVERS and explain(gpu, line):
            refusal = line
        elif re.match(r"usemem \[mem .* is BAR|no nvidia,gpu-mem-base-pa", line):
            refusal = None
    if not refusal:
        return ok("the driver did not refuse the GPU, as far as the log reaches back")
    meaning, cure = explain(gpu, refusal)
    return fix("the driver refused the GPU, %s: %s" % (meaning, refusal), cure)


def registers(gpu):
    """The C2C link's and the HBM training's register, from BAR0 of an awake GPU."""
    host = gpu.host
    state = host.read_or(gpu.dir + "/power_state", "D0")
    if state not in ("D0", "unknown"):
        raise Unknown("the GPU is in %s, where BAR0 cannot be read" % state)
    if not gpu.config_space()[4] & 2:
        raise Unknown("memory of the GPU is off until a driver enables it")
    import mmap
    fd = os.open(host.path(gpu.dir + "/resource0"), os.O_RDONLY | os.O_SYNC)
    try:
        with mmap.mmap(fd, 0x201000, mmap.MAP_SHARED, mmap.PROT_READ) as bar0:
            # Native words: one aligned load each.
            with memoryview(bar0) as view, view.cast("I") as words:
                return words[0x1498 // 4], words[0x200BC // 4]
    finally:
        os.close(fd)


@listed("ready")
def check_ready(_, gpu, options):
    off_the_bus = RESCAN.format(bdf=gpu)
    said = gpu.files().get("state")
    if said:
        state = said.split()[0]
        if state == "failed":
            return fix(said, "echo 1 > %s/reset" % gpu.dir, Advice(
                "if the next guest finds it so, too: " + POWER_CYCLE))
        if state == "gone":
            return fix(said + ": the GPU is off the bus", off_the_bus)
        return ok(said if state != "training" else
                  "%s: the next access polls the GPU, for up to %d s" % (said, gpu.training))
    if gpu.driver in COHERENT_DRIVERS:
        return ok("the driver found it ready when it was bound")
    ranges = gpu.cxl_ranges()
    if ranges:
        text = "CXL DVSEC: " + ", ".join("range %d reads 0x%x" % pair
                                         for pair in enumerate(ranges, 1))
        if all(value & 3 == 3 for value in ranges):
            return ok("ready: " + text)
    else:
        link, training = registers(gpu)
        if link == training == 0xFFFFFFFF:
            return fix("BAR0 reads all ones: the GPU is off the bus", off_the_bus)
        if link == training == 0xFF:
            return ok("ready: C2C link and HBM training read 0xff")
        text = "C2C link (BAR0+0x1498) reads 0x%x, HBM training (BAR0+0x200bc) 0x%x" % (
            link, training)
        if link not in (0, 0xFF):
            return fix(text + ": the link failed", POWER_CYCLE)
    limit = gpu.training
    return fix(text + ": not ready, which takes up to %d s after a reset" % limit,
               "sleep %d; nvgrace-gpu check -q %s" % (limit, gpu),
               Advice("if it stays so: " + POWER_CYCLE))


@listed("reset")
def check_reset(host, gpu, _):
    try:
        methods = gpu.attr("reset_method").split()
    except FileNotFoundError:
        return fix("the GPU has no way to be reset: a guest gets what the last one left",
                   NEW_FIRMWARE)
    if not methods:
        return fix("all ways to reset the GPU are switched off",
                   "echo default > %s/reset_method" % gpu.dir)
    if "acpi" not in methods:
        return ok("reset by %s; firmware has no _RST (acpi) for it" % ", ".join(methods))
    if methods[0] != "acpi":
        return fix("%s comes before acpi, firmware's own way to reset the GPU" % methods[0],
                   "echo default > %s/reset_method" % gpu.dir)
    return ok("reset by " + ", ".join(methods))


@listed("handover")
def check_handover(_, gpu, options):
    said = gpu.files().get("handover")
    if said == "not reset":
        return fix("VFIO could not reset the GPU for the guest that has it or had it last",
                   Advice("end the guest first; the next command prints why a reset fails"),
                   "echo 1 > %s/reset" % gpu.dir)
    return ok("the latest guest got it: " + said if said else "no guest got it from this driver")


@listed("poison")
def check_poison(_, gpu, options):
    said = gpu.files().get("poisoned_pages", "0")
    match = re.match(r"\d+\b", said)
    if not match:
        raise Unknown("%s/nvgrace_gpu/poisoned_pages holds '%s'" % (gpu.dir, said))
    count = int(match.group())
    if count:
        return fix("%d poisoned pages: reading them fails" % count,
                   "nvgrace-gpu unbind {0} && echo 1 > {1}/reset && nvgrace-gpu bind {0}".format(
                       gpu, gpu.dir))
    return ok("no poisoned page is known")


def open_cures(host, who, closed, *subsystems):
    """How to let an account open nodes of these subsystems of udev."""
    # The rule gives group kvm the nodes of these GPUs only; the tool and its package have it.
    if any(host.exists(d + "/udev/rules.d/61-nvgrace-gpu-vfio.rules")
           for d in ("/etc", "/usr/lib", "/lib")):
        return ["udevadm control --reload; udevadm trigger " +
                " ".join("-s " + name for name in subsystems), "usermod -aG kvm " + who.name]
    return ["chgrp kvm {0} && chmod g+rw {0}".format(" ".join(closed)),
            "usermod -aG kvm " + who.name,
            Advice("make install-tool has the udev rule that does it at each boot")]


@listed("nodes")
def check_nodes(host, gpu, options):
    if gpu.driver not in COHERENT_DRIVERS:
        raise Unknown("only a GPU that is bound to a VFIO driver has VFIO nodes")
    nodes = gpu.nodes()
    if not nodes:
        return fix("VFIO's nodes for the GPU are not in /dev/vfio", "udevadm trigger -s vfio")
    wanted = [nodes["cdev"], "/dev/iommu"] if "cdev" in nodes and host.has_iommufd() else \
        [nodes.get("group"), "/dev/vfio/vfio"]
    who = Account(host, options.user)
    closed = [n for n in wanted if n and not who.may_use(n)]
    if closed:
        return fix("%s may not open %s" % (who, " and ".join(closed)),
                   *open_cures(host, who, closed, "vfio", "vfio-dev", "misc"))
    return ok("%s may open %s%s" % (who, " and ".join(filter(None, wanted)), who.not_qemu))


@listed("after_reboot")
def check_after_reboot(host, gpu, _):
    ours = host.exists(rule_file(gpu))
    others = other_owners(host, gpu, gpu.driver if not ours else None)
    if ours and not module_file(host, our_driver(host)):
        return fix("a udev rule binds the GPU at boot, but the module is not installed for this "
                   "kernel", *install_cures(host))
    if ours and any("%s: %s" % (gpu, TOO_LATE) in line for line in host.log_of_programs()):
        return fix("the udev rule came too late at boot: " + TOO_LATE, "nvgrace-gpu bind %s" % gpu)
    if ours and others and others[0][1].startswith("driverctl"):
        return fix("a udev rule binds the GPU at boot, and " + others[0][0], others[0][1])
    said = "".join("; " + sentence for sentence, _ in others)
    if ours:
        return ok("a udev rule binds the GPU at boot" + said)
    return ok("after a reboot the GPU is not bound" + said, "nvgrace-gpu bind --persist %s" % gpu)
