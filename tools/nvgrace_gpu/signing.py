# SPDX-License-Identifier: GPL-2.0-only
"""Secure boot: must modules be signed, who signed one, and is that key enrolled?"""

import re

from .host import Unknown

# Where DKMS keeps the certificate of its key: DKMS itself, and Ubuntu's.
CERTIFICATES = ("/var/lib/dkms/mok.pub", "/var/lib/shim-signed/mok/MOK.der")
# The kernel logs one of these when it refuses a module, and does not say which module.
REFUSALS = ("Loading of unsigned module is rejected",
            "Loading of module with unavailable key is rejected",
            "unsigned module loading is restricted")


def is_wanted(host):
    """Does the kernel load signed modules only?"""
    if host.read_or("/sys/module/module/parameters/sig_enforce") == "Y":
        return True
    name = "/sys/kernel/security/lockdown"
    if host.exists(name):
        return "[none]" not in host.read(name)
    if "SECURITY_LOCKDOWN_LSM" in host.config():
        raise Unknown("%s is missing, so lockdown may be on: is securityfs mounted?" % name)
    return False


def signature(host, path):
    """(signer, serial number of their certificate) of a module, '' if it is not signed."""
    return tuple(host.run("modinfo", "-F", field, host.path(path)).strip()
                 for field in ("signer", "sig_key"))


def digits(text):
    """A serial number as modinfo and mokutil print it, without what they do differently."""
    return re.sub("[^0-9A-F]", "", text.upper()).lstrip("0")


def element(der, at):
    """An element of DER: its tag, where its content begins, and where that ends."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[at + 2:start], "big")
    return der[at], start, start + length


def serial(der):
    """The serial number of an X.509 certificate, in hexadecimal, or None if it is not one."""
    try:
        at = element(der, element(der, 0)[1])[1]
        tag, start, end = element(der, at)
        if tag == 0xA0:    # the version
            tag, start, end = element(der, end)
    except IndexError:
        return None
    return der[start:end].hex() if tag == 2 else None


def certificate(host, key):
    """The file with the certificate that has this serial number, or None."""
    for name in CERTIFICATES:
        try:
            found = serial(host.read_bytes(name))
        except OSError:
            continue
        if found and digits(found) == digits(key):
            return name
    return None


def enrollment(host, name):
    """Of a certificate: "enrolled", "requested" for the next boot, or "missing"."""
    _, said = host.ask("mokutil", "--test-key", host.path(name))
    for words, state in (("is not enrolled", "missing"), ("enrollment request", "requested"),
                         ("is already", "enrolled")):
        if words in said:
            return state
    raise Unknown("mokutil --test-key says: " + said.strip())


def refusals(host):
    """Lines in which the kernel refused a module since it booted."""
    return [line for line in host.log() if any(words in line for words in REFUSALS)]
