# SPDX-License-Identifier: GPL-2.0-only
"""The memory properties of GPUs in ACPI tables (DSDT, SSDT), as firmware wrote them."""

import re
import struct

PROPERTY = re.compile(rb"\x0dnvidia,(gpu-mem-(?:base-pa|size)|"
                      rb"egm-(?:base-pa|size|pxm|retired-pages-data-base))\x00")


# Kinds of entries in an SRAT: {type: offset of the domain, and of the flags, whose bit 0 is on}.
SRAT_ENTRIES = {1: (2, 28), 3: (2, 10), 5: (4, 24)}


def srat_domains(table):
    """The proximity domains of memory, CPUs and initiators that an SRAT enables."""
    domains, at = set(), 48
    while at + 2 <= len(table):
        kind, length = table[at], table[at + 1]
        if length < 2 or at + length > len(table):
            break
        domain, flags = SRAT_ENTRIES.get(kind, (0, length))
        if flags + 4 <= length and table[at + flags] & 1:
            domains.add(int.from_bytes(table[at + domain:at + domain + 4], "little"))
        at += length
    return domains


def aml_length(data, at):
    """A PkgLength: its value, and where it ends."""
    lead = data[at]
    more = lead >> 6
    if not more:
        return lead, at + 1
    length = lead & 0xF
    for i in range(more):
        length |= data[at + 1 + i] << (4 + 8 * i)
    return length, at + 1 + more


def aml_name(data, at):
    """A NameString as a list of its segments, or None if there is none."""
    while data[at:at + 1] in (b"\\", b"^"):
        at += 1
    count = 1
    if data[at:at + 1] == b"\x2e":
        count, at = 2, at + 1
    elif data[at:at + 1] == b"\x2f":
        count, at = data[at + 1], at + 2
    segments = re.findall(rb"[A-Z_][A-Z0-9_]{3}", data[at:at + 4 * count])
    if not 0 < len(segments) == count:
        return None
    return [s.decode() for s in segments]


def aml_blocks(data):
    """Find what looks like a Device or Scope: (start, end, segments)."""
    blocks = []
    for match in re.finditer(rb"\x5b\x82|\x10", data):
        try:
            length, at = aml_length(data, match.end())
        except IndexError:
            continue
        end = match.end() + length
        name = aml_name(data, at) if end <= len(data) and length > 4 else None
        if name:
            blocks.append((match.start(), end, name))
    return blocks


def aml_value(data, at):
    """An integer; a str says what is there in its place."""
    sizes = {0x0A: "<B", 0x0B: "<H", 0x0C: "<I", 0x0E: "<Q"}
    if data[at] in (0, 1):
        return data[at]
    if data[at] in sizes:
        return struct.unpack_from(sizes[data[at]], data, at + 1)[0]
    return "a string" if data[at] == 0x0D else "no integer"


def aml_properties(data, path):
    """A table's properties of the device at this path: {"gpu-mem-size": 1, "egm-pxm": 4}."""
    wanted = [part.ljust(4, "_") for part in path.strip("\\").split(".")]
    blocks = None
    best = {}
    for match in PROPERTY.finditer(data):
        blocks = blocks if blocks is not None else aml_blocks(data)
        around = [name for start, end, name in blocks if start < match.start() < end]
        segments = [segment for name in around for segment in name]
        same = 0
        while (same < min(len(segments), len(wanted)) and
               segments[-1 - same] == wanted[-1 - same]):
            same += 1
        key = match.group(1).decode()
        if same and same > best.get(key, (0,))[0]:
            best[key] = (same, aml_value(data, match.end()))
    return {key: value for key, (_, value) in best.items()}
