# SPDX-License-Identifier: GPL-2.0-only
"""The command check: run all checks, and print what they found."""

import collections
import json

from ..gpu import choose_gpus, find_gpus
from ..host import Unknown
from . import gpu as of_gpu, host as of_host, module as of_module
from .base import cannot_tell, fix


def run_checks(host, options):
    """All results: (name, BDF or None, Result)."""
    results = []

    def one(name, bdf, function, *args):
        try:
            result = function(*args)
        except (Unknown, OSError) as e:
            result = cannot_tell(host.error_text(e))
        results.append((name, bdf, result))

    gpus = choose_gpus(host, options.gpus, True) if options.gpus else find_gpus(host)
    for name, function in of_host.CHECKS + of_module.CHECKS:
        one(name, None, function, host, options)
    if not gpus:
        results.append(("gpus", None, fix(
            "no NVIDIA GPU with coherent memory on the PCI buses: it is off, or a kernel with "
            "another firmware table booted", "echo 1 > /sys/bus/pci/rescan; lspci -D -d 10de:")))
    for gpu in gpus:
        for name, function in of_gpu.CHECKS:
            one("gpu." + name, gpu.bdf, function, host, gpu, options)
    return results


def cmd_check(host, options):
    results = run_checks(host, options)
    count = collections.Counter(r.status for _, _, r in results)
    if options.json:
        print(json.dumps({
            "version": 1, "kernel": host.read_or("/proc/sys/kernel/osrelease"),
            "ok": count["ok"], "fix": count["fix"], "cannot_tell": count["cannot tell"],
            "checks": [{"name": name, "gpu": bdf, "status": r.status, "text": r.text,
                        "cure": list(r.cure), "better": list(r.better)}
                       for name, bdf, r in results]}, indent=2))
    else:
        print_checks(results, options)
        print("%d ok, %d to fix, %d cannot be told" %
              (count["ok"], count["fix"], count["cannot tell"]))
    return 1 if count["fix"] else 3 if count["cannot tell"] else 0


def print_checks(results, options):
    last = None
    for name, bdf, result in results:
        if options.quiet and result.status != "fix":
            continue
        if bdf != last:
            print(bdf)
            last = bdf
        print("%-12s %s: %s" % (result.status, name, result.text))
        for command in result.cure:
            print("                 " + command)
        if result.better and options.better:
            print("                 better:")
            for command in result.better:
                print("                 " + command)
