# SPDX-License-Identifier: GPL-2.0-only
"""Checks of each GPU's EGM region: firmware's properties, state, nodes, VFIO's container."""

import re

from ..cures import EGM_FOR_GUESTS, NEW_FIRMWARE, Advice, configure
from ..egm import all_three, differs, egm_of, system_ram, wrong_range
from ..gpu import COHERENT_DRIVERS, find_gpus
from ..host import Account, Unknown
from ..sizes import human
from .base import fix, ok, registry
from .gpu import open_cures

CHECKS, listed = registry()

# The driver's message when it refuses a region.
REFUSAL = re.compile(r"nvidia,egm-|\begm\d+: cannot")


@listed("egm")
def check_egm(host, gpu, _):
    """Compare what firmware says with the nodes that the driver has made."""
    region = egm_of(gpu)
    if region:
        return ok("%s: %s" % (region, human(region.size)))
    named = gpu.firmware_egm()
    if not named:
        return ok("firmware has set no memory apart as EGM")
    wrong = (all_three(named) or wrong_range(gpu, named, host.page_size) or
             differs(gpu, find_gpus(host), named))
    if wrong:
        return fix("firmware's _DSD: %s, so the driver makes no node for the EGM" % wrong,
                   NEW_FIRMWARE)
    ram = system_ram(gpu, named)
    if ram:
        return fix("firmware names EGM that is the host's own RAM, 0x%s: it has EGM on in the mode "
                   "without a hypervisor" % ram[2:], EGM_FOR_GUESTS)
    text = "firmware names %s of EGM at 0x%x" % (human(named["size"]), named["base-pa"])
    if gpu.driver not in COHERENT_DRIVERS:
        return ok("%s: there is a node /dev/egm%d while this driver has the GPU" % (
            text, named["pxm"]))
    if not gpu.files():
        return fix(text + ", and the kernel's own driver makes no node for it",
                   "nvgrace-gpu bind %s" % gpu)
    said = [line for driver, line in gpu.log() if driver in COHERENT_DRIVERS and
            REFUSAL.search(line)]
    if said:
        return fix("%s, and the driver refused it: %s" % (text, said[-1]), NEW_FIRMWARE)
    if not host.exists("/sys/class/egm"):
        return fix(text + ", and this version of the driver makes no node for it",
                   Advice("install the version of the driver that came with this tool"))
    return fix(text + ", and the driver made no node for it",
               Advice("read what the driver said when it was bound: dmesg | grep -i egm"))


@listed("egm.state")
def check_state(_, gpu, options):
    region = egm_of(gpu)
    if not region:
        return ok("no EGM to hand over")
    state = region.state
    if state.startswith("failed"):
        return fix("%s is %s: the driver could not write the zeroes for the next guest" % (
            region, state), Advice("the next guest's start writes them again; the kernel's log "
                                   "says what failed"))
    if state.startswith("zeroing"):
        return ok("%s: %s bytes; a guest that starts now waits for the rest" % (region, state))
    if state == "in use":
        return ok("%s is in use by %s" % (region, ", ".join(
            user.who for user in region.users()) or "a process that only root sees"))
    return ok("%s is %s" % (region, state))


@listed("egm.nodes")
def check_nodes(host, gpu, options):
    """A guest on EGM needs its node, and the container, as iommufd does not map its memory."""
    region = egm_of(gpu)
    if not region:
        return ok("no EGM that a guest could open")
    if not host.exists(region.node):
        return fix("udev made no %s" % region, "udevadm trigger -s egm")
    group = gpu.nodes().get("group")
    if not group:
        return fix("there is no VFIO group, and iommufd cannot map EGM",
                   configure("VFIO_GROUP", "VFIO_CONTAINER"))
    wanted = [region.node, group, "/dev/vfio/vfio"]
    missing = [node for node in wanted if not host.exists(node)]
    if missing:
        return fix("there is no %s, and iommufd cannot map EGM" % missing[0], "modprobe vfio")
    who = Account(host, options.user)
    closed = [node for node in wanted if not who.may_use(node)]
    if closed:
        return fix("%s may not open %s" % (who, " and ".join(closed)),
                   *open_cures(host, who, closed, "egm"))
    return ok("%s may open %s%s" % (who, " and ".join(wanted), who.not_qemu))


@listed("egm.container")
def check_container(host, gpu, _):
    if not egm_of(gpu):
        return ok("no EGM that a device could reach by DMA")
    try:
        config = host.config()
    except Unknown as e:
        raise Unknown("%s; a guest on EGM needs CONFIG_VFIO_CONTAINER" % e) from None
    if "VFIO_CONTAINER" in config:
        return ok("CONFIG_VFIO_CONTAINER, for qemu-args --egm --container")
    return fix("CONFIG_VFIO_CONTAINER is not set: iommufd maps no memory of a character device, "
               "so a guest cannot have EGM as RAM", configure("VFIO_GROUP", "VFIO_CONTAINER"))
