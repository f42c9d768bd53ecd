# SPDX-License-Identifier: GPL-2.0-only
"""UEFI for guests: what is installed, and the formats of images."""

import collections
import fnmatch
import json
import os

# A pflash image and the template of its variables, with the format of each; the template may be
# None. Formats are QEMU's: raw or qcow2.
Uefi = collections.namedtuple("Uefi", "code format template template_format")

# Distributions describe their firmware in these directories: QEMU's docs/interop/firmware.json.
# A file in the first replaces one of the same name in the second.
DESCRIPTORS = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
# The same without descriptors: Debian and Ubuntu, Fedora and RHEL, openSUSE, Arch.
PAIRS = (
    ("/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    ("/usr/share/edk2/aarch64/QEMU_EFI-silent-pflash.raw",
     "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
    ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw",
     "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
    ("/usr/share/edk2/aarch64/QEMU_EFI-silent-pflash.qcow2",
     "/usr/share/edk2/aarch64/vars-template-pflash.qcow2"),
    ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.qcow2",
     "/usr/share/edk2/aarch64/vars-template-pflash.qcow2"),
    ("/usr/share/qemu/aavmf-aarch64-code.bin", "/usr/share/qemu/aavmf-aarch64-vars.bin"),
    ("/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"),
)


def image_format(host, name):
    """The format of an image: by its first bytes if it can be read, else by its name."""
    try:
        return "qcow2" if host.read_bytes(name, 4) == b"QFI\xfb" else "raw"
    except OSError:
        return "qcow2" if name.endswith(".qcow2") else "raw"


def described(host, name):
    """The Uefi that a descriptor is about; None if it is not plain UEFI for such a guest.

    Secure boot would refuse a driver that the guest builds for itself.
    """
    try:
        data = json.loads(host.read(name))
        mapping = data["mapping"]
        code, template = mapping["executable"], mapping.get("nvram-template", {})
        fits = ("uefi" in data["interface-types"] and mapping["device"] == "flash" and
                mapping.get("mode", "split") == "split" and
                not {"secure-boot", "enrolled-keys"} & set(data["features"]) and
                any(t["architecture"] == "aarch64" and
                    any(fnmatch.fnmatch("virt-10.0", m) for m in t["machines"])
                    for t in data["targets"]))
        return Uefi(code["filename"], code["format"], template.get("filename"),
                    template.get("format")) if fits else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None    # another's file, in a form that this tool does not know


def installed(host):
    """All Uefi of this machine, in the order of preference of its distribution."""
    files = {}
    for directory in reversed(DESCRIPTORS):
        files.update((f, directory + "/" + f) for f in host.list(directory)
                     if f.endswith(".json"))
    found = [described(host, files[name]) for name in sorted(files)]
    found += [Uefi(code, image_format(host, code), template, image_format(host, template))
              for code, template in PAIRS]
    return [u._replace(template=u.template if host.exists(u.template or "") else None)
            for u in found if u and host.exists(u.code)]


def choose(host, name):
    """The Uefi for a guest: by the name of its image, or the first that is installed."""
    found = installed(host)
    if not name:
        return found[0] if found else None
    name = os.path.abspath(name)
    for uefi in found:
        if uefi.code == name:
            return uefi
    return Uefi(name, image_format(host, name), None, None)
