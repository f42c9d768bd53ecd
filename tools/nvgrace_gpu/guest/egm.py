# SPDX-License-Identifier: GPL-2.0-only
"""EGM as a guest's memory: a region for each socket of the guest."""

from ..egm import egm_of
from ..host import Refused, Unknown
from ..sizes import MIB, human, qemu_size
from .note import note

WHY_NOT_IOMMUFD = ("with iommufd QEMU maps memory of a file by IOMMU_IOAS_MAP_FILE, which takes no "
                   "character device such as that of EGM")


def refuse_iommufd(guest):
    """EGM is mapped for DMA by VFIO's container only."""
    if guest.options.smmu:
        raise Refused("--egm and --smmu exclude each other: --smmu needs iommufd, and " +
                      WHY_NOT_IOMMUFD)
    if guest.iommufd:
        raise Refused("--egm needs --container: " + WHY_NOT_IOMMUFD)
    for gpu in guest.gpus:
        if "group" not in gpu.nodes():
            raise Refused("%s has no VFIO group, which --egm needs (CONFIG_VFIO_GROUP, "
                          "CONFIG_VFIO_CONTAINER): %s" % (gpu, WHY_NOT_IOMMUFD))


def refuse_device_memory(host):
    """A guest lives with usemem as Device memory, and does not boot from such RAM."""
    try:
        cacheable = host.cacheable()
    except (Unknown, OSError) as e:
        note("cannot tell whether KVM maps EGM cacheable: " + host.error_text(e))
        return
    if not cacheable:
        raise Refused("this host's KVM does not map EGM cacheable, and no guest boots from Device "
                      "memory: nvgrace-gpu check, kvm.cacheable_pfnmap, has the remedy")


def region_of(host, gpu):
    try:
        region = egm_of(gpu)
    except (Unknown, OSError) as e:
        raise Refused("the EGM of %s is unknown: %s" % (gpu, host.error_text(e))) from None
    if not region:
        raise Refused("%s has no EGM region: nvgrace-gpu check %s says why" % (gpu, gpu))
    return region


def check_free(host, region):
    """A region has one owner; the wait for its zeroes is not an error."""
    users = region.users()
    if users:
        raise Refused("%s is in use by %s: end that first\n      %s" % (
            region, ", ".join(user.who for user in users), "\n      ".join(region.cures())))
    try:
        state = region.state
    except (Unknown, OSError) as e:
        note("cannot tell whether %s is free: %s" % (region, host.error_text(e)))
        return
    if state == "in use":
        raise Refused("%s is in use by a process that only root sees: end that first" % region)
    if state != "zeroed":
        note("%s is %s: QEMU waits at its start until all of it is zeroes" % (region, state))


def warn_of_base(host, gpu, region):
    """Blocks fit where the addresses in the guest, in QEMU and on the host are congruent. The first
    two are multiples of a block."""
    try:
        base, block = gpu.firmware_egm().get("base-pa"), host.block_size
    except (Unknown, OSError):
        return    # only root reads ACPI tables
    if isinstance(base, int) and base % block:
        note("%s begins at 0x%x, which is not a multiple of %s: the host and KVM map it page by "
             "page" % (region, base, human(block)))


def regions(host, guest, host_nodes):
    """The region of each socket of the guest."""
    found = []
    for nodes in host_nodes:
        gpus = [gpu for gpu in guest.gpus if len(host_nodes) == 1 or guest.home[gpu] in nodes]
        of_gpus = {region_of(host, gpu).node: gpu for gpu in gpus}
        if len(of_gpus) > 1:
            raise Refused("%s are of one NUMA node and have EGM of their own, %s: pass GPUs of one "
                          "socket" % (" and ".join(map(str, of_gpus.values())),
                                      " and ".join(of_gpus)))
        region = region_of(host, gpus[0])
        if region.node in map(str, found):
            raise Refused("GPUs of two NUMA nodes name one EGM region, %s: pass GPUs of one node" %
                          region)
        check_free(host, region)
        warn_of_base(host, gpus[0], region)
        found.append(region)
    return found


def whole_sizes(of_sockets, block):
    """How much of each region a guest gets that has all of it.

    The memory of the next socket begins where this one ends. It has to begin at a block, or KVM
    maps it page by page.
    """
    units = [block] * (len(of_sockets) - 1) + [MIB]
    return [region.size // unit * unit for region, unit in zip(of_sockets, units)]


def check_parts(of_sockets, share, block):
    for region in of_sockets:
        if share > region.size:
            raise Refused("%s has %s, and the guest is to have %s of it: leave --memory out to "
                          "have all" % (region, human(region.size), qemu_size(share)))
    if len(of_sockets) > 1 and share % block:
        note("%s for each socket is not a multiple of %s: KVM maps the second socket's memory page "
             "by page" % (qemu_size(share), human(block)))
