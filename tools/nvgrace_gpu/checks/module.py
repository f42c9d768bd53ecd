# SPDX-License-Identifier: GPL-2.0-only
"""Checks of the driver's module: installed, signed, loaded, its parameters and alias."""

import os

from ..cures import INSTALL
from ..gpu import find_gpus
from ..host import Unknown
from ..module import choice_of_tools, module_file, our_driver, stray_module
from .base import fix, ok, registry

CHECKS, listed = registry()


@listed("module.loaded")
def check_module(host, _):
    driver = our_driver(host)
    if host.exists("/sys/module/" + driver):
        return ok("the module is loaded")
    if module_file(host, driver):
        return fix("the module is not loaded", "modprobe " + driver)
    stray = stray_module(host)
    if stray and stray[0] == host.release:
        return fix("the module is in %s, which modules.dep does not list" % stray[1],
                   "depmod && modprobe " + os.path.basename(stray[1]).split(".")[0])
    if stray:
        return fix("the module is installed for Linux %s; this is %s" % (stray[0], host.release),
                   INSTALL)
    return fix("the module is not installed for this kernel", INSTALL)


@listed("module.signature")
def check_signature(host, _):
    if host.exists("/sys/module/" + our_driver(host)):
        return ok("the kernel accepted the module")
    lockdown = host.read_or("/sys/kernel/security/lockdown", "[none]")
    if (host.read_or("/sys/module/module/parameters/sig_enforce") != "Y" and
            "[none]" in lockdown):
        return ok("the kernel loads modules without a signature")
    path = module_file(host, our_driver(host))
    if not path:
        raise Unknown("the kernel wants signed modules, and this one is not installed")
    data = host.read_bytes(path)
    if path.endswith(".xz"):
        import lzma
        try:
            data = lzma.decompress(data)
        except (lzma.LZMAError, EOFError) as e:
            raise Unknown("%s cannot be unpacked: %s" % (path, e)) from None
    elif not path.endswith(".ko"):
        raise Unknown("the kernel wants signed modules, and %s is compressed" % path)
    if data.endswith(b"~Module signature appended~\n"):
        return ok("the module is signed, as the kernel wants it")
    return fix("the kernel loads signed modules only (secure boot), and %s is not signed" % path,
               "openssl req -new -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=nvgrace_gpu/ "
               "-outform DER -keyout mok.key -out mok.der",
               "/lib/modules/$(uname -r)/build/scripts/sign-file sha512 mok.key mok.der " + path,
               "mokutil --import mok.der    # then reboot, and enroll the key")


@listed("module.layout")
def check_layout(host, options):
    driver = our_driver(host)
    if not host.exists("/sys/module/" + driver):
        raise Unknown("the module is not loaded")
    bar = host.number("/sys/module/%s/parameters/usemem_bar" % driver)
    carved = [gpu for gpu in find_gpus(host) if gpu.hopper]
    if bar == options.layout or not carved:
        return ok("usemem is at BAR%d" % (bar if carved else 4))
    reasons = {4: "NVIDIA's guest driver looks for it at BAR4", 2: "--layout=2 asks for BAR2"}
    return fix("usemem is at BAR%d; %s" % (bar, reasons[options.layout]),
               "echo 'options %s usemem_bar=%d' > /etc/modprobe.d/nvgrace_gpu.conf" %
               (driver, options.layout),
               "nvgrace-gpu unbind && modprobe -r {0} && modprobe {0} && nvgrace-gpu bind".format(
                   driver))


@listed("module.idle_d3")
def check_idle_d3(host, _):
    driver = our_driver(host)
    if not host.exists("/sys/module/" + driver):
        raise Unknown("the module is not loaded")
    if host.read("/sys/module/%s/parameters/disable_idle_d3" % driver) == "Y":
        return ok("GPUs that nobody uses stay in D0")
    return ok("GPUs that nobody uses go to D3, and train again for each new guest",
              "echo 'options %s disable_idle_d3=1' >> /etc/modprobe.d/nvgrace_gpu.conf" % driver)


@listed("module.alias")
def check_alias(host, _):
    gpus = [gpu for gpu in find_gpus(host) if gpu.known]
    if not gpus:
        raise Unknown("there is no GPU to look up in modules.alias")
    driver = our_driver(host)
    for gpu in gpus:
        modules = choice_of_tools(host, gpu)
        if driver not in modules:
            if not module_file(host, driver):
                raise Unknown("the module is not installed for this kernel")
            return fix("modules.alias does not name %s for %s: libvirt and driverctl take %s" %
                       (driver, gpu, modules[0] if modules else "vfio-pci"), "depmod")
        if modules[0] != driver:
            return fix("libvirt (managed='yes') and driverctl would take %s for %s: its line in "
                       "modules.alias comes first" % (modules[0], gpu),
                       "nvgrace-gpu bind %s && nvgrace-gpu qemu-args --libvirt %s    "
                       "# both name the driver" % (gpu, gpu))
    return ok("tools that go by modules.alias take " + driver)
