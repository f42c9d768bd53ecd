# SPDX-License-Identifier: GPL-2.0-only
"""Remove from a report what identifies a machine, its network or its guests, by kind."""

import ipaddress
import re

HEX2 = "[0-9a-fA-F]{2}"
UUID = r"(?<![0-9a-zA-Z])[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}(?![0-9a-zA-Z])"
# Pairs of digits, of MAC-48, EUI-64 or InfiniBand; or aabb.ccdd.eeff. A PCI address has fewer.
MAC = (r"(?<![\w:.-])(?:{0}(?:([:-]){0})(?:\1{0}){{4}}(?:(?:\1{0}){{2}}|(?:\1{0}){{14}})?|"
       r"(?:[0-9a-fA-F]{{4}}\.){{2}}[0-9a-fA-F]{{4}})(?![\w:-]|\.\d)").format(HEX2)
IPV4 = r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"
IPV6 = (r"(?<![\w:.])[0-9a-fA-F:]*:[0-9a-fA-F:]*:(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9a-fA-F:]*)"
        r"(?:%\w+)?")
# At least four digits, so that "serial console" stays.
SERIAL = (r"(?i)\b(serial(?:[ _-]?(?:numbers?|no|num)\b\.?)?|s/n|sn)((?:\s*[:=#]\s*|\s+)['\"]?)"
          r"(?=(?:[a-z-]*\d){4})[\w-]+")
SECRET = r"(?i)(\w*(?:password|passwd|secret|token|key))(\s*[=:]\s*)(?!<)\S+"
# Processes can have the name of a customer. A name in a log has one of these words before it.
NAME = r"(?i)\b(name=|comm[:= ] ?|process(?::| name:?)? ?|task |VM[:= ])([^\s,;:]+)"
QUOTED = r"(?<!\w)(['\"])(?!<)[^'\"]*\1(?!\w)"
# A host of a domain: letters at the end, and no .auto, which the kernel gives to platform devices.
FQDN = (r"(?<![\w./-])(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?\.){2,}(?!auto\b)[a-zA-Z]{2,}"
        r"(?![\w/-])")
HOSTNAME = r"(?i)\b(host(?:name)?(?: set to|[:=]))(\s*)<?[\w.-]+>?"
# The processes that have to do with a guest.
KNOWN = re.compile(r"qemu|CPU \d+/KVM|libvirt|virt|nvidia|dcgm|nv-|cloud-hyperviso|crosvm|"
                   r"firecracker|vfio|kworker")
USER = r"\b(\d+) \(([^()]*)\)"


def is_ipv6(text):
    try:
        ipaddress.IPv6Address(text.partition("%")[0])
    except ValueError:
        return False
    return len(text) > 2    # "::" is an address, but tells nothing


def redact(text, hosts=()):
    """Remove what no report may have; hosts are names of this machine."""
    for name in sorted({part for host in hosts for part in (host, host.partition(".")[0])},
                       key=len, reverse=True):
        if name and name != "localhost":
            text = re.sub(r"(?i)(?<![\w-])%s(?:\.[a-z0-9-]+)*(?![\w-])" % re.escape(name),
                          "<host>", text)
    text = re.sub(SERIAL, r"\1\2<serial>", text)
    text = re.sub(UUID, "<uuid>", text)
    text = re.sub(MAC, "<address>", text)
    text = re.sub(IPV6, lambda m: "<ip>" if is_ipv6(m.group()) else m.group(), text)
    text = re.sub(IPV4, "<ip>", text)
    return re.sub(SECRET, r"\1\2<removed>", text)


def redact_log(text, hosts=()):
    """A log also has names of guests, processes and other hosts."""
    text = re.sub(QUOTED, "<removed>", redact(text, hosts))
    text = re.sub(HOSTNAME, r"\1\2<host>", text)
    text = re.sub(FQDN, "<host>", text)
    return re.sub(NAME, lambda m: m.group(1) + ("<removed>" if not KNOWN.match(m.group(2))
                                                else m.group(2)), text)


def redact_users(text):
    """Processes as list names them: 4711 (qemu-system-aar)."""
    return re.sub(USER, lambda m: m.group() if KNOWN.match(m.group(2)) else
                  m.group(1) + " (<process>)", text)
