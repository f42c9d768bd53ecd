# SPDX-License-Identifier: GPL-2.0-only
"""The command check: run all checks, and print what they found."""

import collections
import json

from ..cures import Advice
from ..gpu import choose_gpus, find_gpus
from ..host import Unknown
from . import egm as of_egm, gpu as of_gpu, host as of_host, module as of_module
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
            "no NVIDIA GPU with coherent memory is on the PCI buses", "echo 1 > "
            "/sys/bus/pci/rescan; lspci -D -d 10de:", Advice(
                "if the second command prints no GPU, see whether the GPU has power"))))
    for gpu in gpus:
        for name, function in of_gpu.CHECKS + of_egm.CHECKS:
            one("gpu." + name, gpu.bdf, function, host, gpu, options)
    return results


def cmd_check(host, options):
    results = run_checks(host, options)
    count = collections.Counter(r.status for _, _, r in results)
    if options.json:
        print(json.dumps({
            "version": 1, "kernel": host.read_or("/proc/sys/kernel/osrelease"),
            "ok": count["ok"], "fix": count["fix"], "risk": count["risk"],
            "cannot_tell": count["cannot tell"],
            "checks": [{"name": name, "gpu": bdf, "status": r.status, "text": r.text,
                        "cure": [c for c in r.cure if not isinstance(c, Advice)],
                        "advice": [c for c in r.cure if isinstance(c, Advice)],
                        "better": list(r.better)}
                       for name, bdf, r in results]}, indent=2))
    else:
        print_checks(results, options)
        print("%d ok, %d to fix, %d %s, %d unknown" % (
            count["ok"], count["fix"], count["risk"],
            "risk" if count["risk"] == 1 else "risks", count["cannot tell"]))
    return 1 if count["fix"] else 3 if count["cannot tell"] else 0


def print_checks(results, options):
    last = None
    for name, bdf, result in results:
        if options.quiet and result.status == "ok":
            continue
        if bdf != last:
            print(bdf)
            last = bdf
        print("%-12s %s: %s" % (result.status, name, result.text))
        print_cure(result.cure)
        if result.better and options.better:
            print("                 better:")
            print_cure(result.better)


def print_cure(cure):
    for line in cure:
        print("                 " + ("- " if isinstance(line, Advice) else "") + line)
