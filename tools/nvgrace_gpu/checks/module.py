# SPDX-License-Identifier: GPL-2.0-only
"""Checks of the driver's module: installed, signed, loaded, its parameters and alias."""

import contextlib
import os

from .. import signing
from ..cures import REBOOT, Advice
from ..distribution import Distribution
from ..gpu import find_gpus
from ..host import Unknown
from ..module import (DKMS, blacklisted, choice_of_tools, dkms_failure, dkms_version, has_headers,
                      install_cures, module_file, our_driver, stray_module)
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
    why = "it was not installed for this kernel"
    if stray:
        why = "it is installed for Linux %s, and this is %s" % (stray[0], host.release)
    failure = dkms_version(host) and dkms_failure(host)
    if failure:
        return fix("DKMS did not build the module, see %s: %s" % failure, *install_cures(host))
    if not has_headers(host):
        why += "; its headers are missing, with which the module is built"
    return fix("there is no module for the running kernel: " + why, *install_cures(host))


@listed("module.blacklist")
def check_blacklist(host, _):
    driver = our_driver(host)
    lines = blacklisted(host, driver)
    if lines:
        return fix("; ".join("%s has '%s'" % line for line in lines) + ": so udev does not load "
                   "the module at boot, and after install nothing does", *(
                       r"sed -i -E 's/^\s*(blacklist|install)\s+%s\b/#&/' %s" %
                       (driver.replace("_", "[_-]"), name) for name in
                       sorted({name for name, _ in lines})))
    for word in host.read_or("/proc/cmdline", "").split():
        key, _, value = word.partition("=")
        names = value.replace("-", "_").split(",")
        if key in ("modprobe.blacklist", "module_blacklist") and driver in names:
            return fix("the kernel's command line has " + word, Distribution(host).command_line(
                remove=word) if len(names) == 1 else Advice(
                    "take %s out of %s there" % (driver, word)), REBOOT)
    return ok("neither modprobe's configuration nor the command line forbids the module")


@listed("module.signature")
def check_signature(host, _):
    driver = our_driver(host)
    if host.exists("/sys/module/" + driver):
        return ok("the kernel accepted the module")
    if not signing.is_wanted(host):
        return ok("the kernel loads modules without a signature")
    path = module_file(host, driver)
    if not path:
        raise Unknown("the kernel wants signed modules, and this one is not installed")
    signer, key = signing.signature(host, path)
    if not signer:
        return fix("the kernel loads signed modules only (secure boot), and %s is not signed" %
                   path, *sign_cures(host, path))
    refused = ""
    with contextlib.suppress(OSError):
        refused = "".join("; the log has: " + line for line in signing.refusals(host)[-1:])
    text = "the module is signed by '%s'" % signer
    certificate = signing.certificate(host, key)
    if not certificate:
        text += ", whose certificate is in neither " + " nor ".join(signing.CERTIFICATES)
        if not refused:
            raise Unknown(text)
        return fix(text + refused, Advice("find the certificate of this key, and enroll it with "
                                          "mokutil --import"))
    enroll = "mokutil --import " + certificate
    confirm = Advice("then reboot; before Linux starts, shim asks to enroll the key, and for the "
                     "password that mokutil asked for")
    if not host.program("mokutil"):
        text += "; mokutil, which knows whether that key is enrolled, is not installed"
        if not refused:
            raise Unknown(text)
        return fix(text + refused, Distribution(host).install("mokutil"), enroll, confirm)
    state = signing.enrollment(host, certificate)
    if state == "missing":
        return fix("%s; that key (%s) is not enrolled%s" % (text, certificate, refused), enroll,
                   confirm)
    if state == "requested":
        return fix(text + "; that key is to be enrolled at the next boot" + refused, confirm)
    if refused:
        return fix(text + "; that key is enrolled, but the kernel refused a module" + refused,
                   Advice("reboot: the kernel reads enrolled keys when it boots, and only if "
                          "mokutil --sb-state says that secure boot is enabled"))
    return ok(text + "; that key is enrolled")


def sign_cures(host, path):
    """How to sign a module: DKMS does it for each new kernel, too."""
    version, release = dkms_version(host), host.release
    if version and "/dkms/" in path:
        command = "dkms {} --force %s/%s -k %s" % (DKMS, version, release)
        # DKMS makes a key by itself; Ubuntu's takes that of shim-signed.
        ubuntu = Distribution(host).family == "ubuntu"
        new_key = ("update-secureboot-policy --new-key",) if (
            ubuntu and not host.exists(signing.CERTIFICATES[1])) else ()
        return (*new_key, command.format("build") + " && " + command.format("install"),
                "mokutil --import " + signing.CERTIFICATES[1 if ubuntu else 0], REBOOT)
    unpack = {".xz": ("xz -d " + path,), ".zst": ("zstd -d --rm " + path,)}.get(
        os.path.splitext(path)[1], ())
    plain = path[:path.index(".ko") + 3]
    return (*unpack, "openssl req -new -x509 -newkey rsa:2048 -nodes -days 3650 "
            "-subj /CN=nvgrace_gpu/ -outform DER -keyout mok.key -out mok.der",
            "/lib/modules/%s/build/scripts/sign-file sha512 mok.key mok.der %s" % (release, plain),
            *(("depmod",) if unpack else ()), "mokutil --import mok.der", REBOOT)


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
                       "nvgrace-gpu bind %s" % gpu,
                       Advice("give libvirt the XML of nvgrace-gpu qemu-args --libvirt, which "
                              "names the driver"))
    return ok("tools that go by modules.alias take " + driver)
