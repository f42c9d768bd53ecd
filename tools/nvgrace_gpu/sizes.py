# SPDX-License-Identifier: GPL-2.0-only
"""Sizes in bytes: arithmetic, and as people and QEMU write them."""

import argparse
import re

MIB, GIB = 1 << 20, 1 << 30


def human(size):
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return "%s %s" % (("%.2f" % size).rstrip("0").rstrip("."), unit)


def round_up(value, unit):
    return (value + unit - 1) // unit * unit


def power_of_two(value):
    return 1 << (max(value, 1) - 1).bit_length()


def parse_size(text):
    match = re.fullmatch(r"(\d+)([KMGT]?)(i?B)?", text, re.I)
    if not match or not int(match.group(1)):
        raise argparse.ArgumentTypeError("'%s' is not a size such as 64G" % text)
    return int(match.group(1)) << " KMGT".index(match.group(2).upper() or " ") * 10


def qemu_size(size):
    for shift, unit in ((40, "T"), (30, "G"), (20, "M")):
        if not size & ((1 << shift) - 1):
            return "%d%s" % (size >> shift, unit)
    return str(size)
