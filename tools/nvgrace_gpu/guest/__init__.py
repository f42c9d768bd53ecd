# SPDX-License-Identifier: GPL-2.0-only
"""The command qemu-args: a guest for GPUs, as QEMU's command line or libvirt's XML.

model has the guest, and both print nothing that it does not have. qemu and libvirt know the
versions that are installed, and uefi the firmware.
"""

from ..gpu import choose_gpus
from ..host import Refused
from . import libvirt, qemu
from .model import Guest


def cmd_qemu_args(host, options):
    if options.libvirt and options.more:
        raise Refused("--libvirt takes no arguments for QEMU: they follow --")
    gpus = choose_gpus(host, options.gpus, options.any_id)
    guest = Guest(host, gpus, options, qemu.Qemu(host))
    guest.warn_of_layout()
    if options.libvirt:
        print(libvirt.xml(guest, libvirt.Libvirt(host)))
    else:
        print(qemu.command_line(guest, options.more))
    return 0
