# SPDX-License-Identifier: GPL-2.0-only
"""The commands list and status: the GPUs, their drivers, memory, users and health."""

import json
import re

from .gpu import COHERENT_DRIVERS, choose_gpus
from .host import Unknown
from .sizes import human
from .users import sees_all


def describe_gpu(host, gpu):
    """The row of list for a GPU; a value that cannot be told is a str with the reason."""
    row = {"bdf": gpu.bdf, "id": "%04x:%04x" % (gpu.vendor, gpu.device), "model": gpu.model,
           "socket": gpu.socket, "numa_node": gpu.numa_node, "iommu_group": gpu.group,
           "driver": gpu.driver, "driver_override": None if gpu.leaving else gpu.override,
           "regions": [], "in_use_by": [user.who for user in gpu.users()]}
    files = gpu.files()
    row["health"] = {name: files[name] for name in
                     ("state", "poisoned_pages", "resets", "handover") if name in files}
    try:
        if gpu.driver in COHERENT_DRIVERS:
            row["regions"] = [r._asdict() for r in gpu.regions()]
            row["state"] = "serves its memory" if row["regions"] else "serves no memory"
        else:
            base, size = gpu.firmware_memory()
            row["state"] = "not bound; firmware names %s" % (
                "%s at 0x%x" % (human(size), base)
                if isinstance(base, int) and isinstance(size, int) and size else
                "a base without a size: no C2C link" if isinstance(base, int) else "no memory")
    except (Unknown, OSError) as e:
        row["state"] = "cannot tell the memory: " + host.error_text(e)
    return row


def cmd_list(host, options):
    rows = [describe_gpu(host, gpu) for gpu in choose_gpus(host, options.gpus, True)]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print("%s  %s (%s)  socket %d  group %s  driver %s" %
              (row["bdf"], row["model"], row["id"], row["socket"], row["iommu_group"] or "none",
               row["driver"] or "none"))
        for r in row["regions"]:
            where = "address for root only"
            if r["base"] is not None:
                where = "0x%x-0x%x" % (r["base"], r["base"] + r["backed"] - 1)
            print("  %s BAR%d  %s  %s backed of %s" %
                  (r["name"], r["bar"], where, human(r["backed"]), human(r["bar_size"])))
        if not row["regions"]:
            print("  " + row["state"])
        if row["health"]:
            print("  " + "  ".join("%s: %s" % (name, text.split("\n")[0])
                                   for name, text in row["health"].items()))
        if row["in_use_by"]:
            print("  in use by " + ", ".join(row["in_use_by"]))
    if not sees_all(host):
        print("only root sees the processes of other users")
    return 0


def health_of(gpu):
    """(values, what is wrong, what cannot be told), from the driver's files alone.

    Their meaning is in Documentation/ABI/testing/sysfs-bus-pci-devices-nvgrace_gpu.
    """
    values = {name: text.splitlines()[0] for name, text in gpu.files().items()
              if text and name in ("state", "resets", "poisoned_pages", "handover")}
    bad, unknown = [], []
    if gpu.leaving:
        bad.append("NVIDIA's driver gives it up, and waits for its users")
    if gpu.driver not in COHERENT_DRIVERS:
        return values, bad, unknown
    state = values.get("state", "").split(" ")[0]
    if state in ("failed", "gone"):
        bad.append("state is " + state)
    elif state not in ("", "ready", "training", "resetting", "asleep"):
        unknown.append("state '%s' is not known" % state)
    pages = values.get("poisoned_pages", "0")
    if not re.fullmatch(r"\d+", pages):
        unknown.append("poisoned_pages holds '%s'" % pages)
    elif int(pages):
        bad.append("%s poisoned pages" % pages)
    if values.get("handover") == "not reset":
        bad.append("its latest user got it without a reset")
    # Without coherent memory the driver has no other files than these two.
    if not {"resets", "handover"} <= set(values):
        unknown.append("its driver has no files in %s/nvgrace_gpu" % gpu.dir)
    return values, bad, unknown


def cmd_status(host, options):
    """Print a line for each GPU. Nothing here opens a GPU, wakes it, or needs root."""
    rows, status = [], 0
    for gpu in choose_gpus(host, options.gpus, True):
        values, bad, unknown = health_of(gpu)
        health = "bad" if bad else "cannot tell" if unknown else "ok" if values else "not known"
        rows.append({"bdf": gpu.bdf, "driver": gpu.driver, "health": health,
                     "because": bad + unknown, "users": [user.who for user in gpu.users()],
                     "all_users": sees_all(host), **values})
        status = 1 if bad or status == 1 else 3 if unknown or status == 3 else 0
    if options.json:
        print(json.dumps(rows, indent=2))
        return status
    for row in rows:
        users = ", ".join(row["users"]) or ("nobody" if row["all_users"] else "nobody in sight")
        words = [row["bdf"], "driver %s" % (row["driver"] or "none"), "used by " + users,
                 "health " + row["health"] + ": " * bool(row["because"]) +
                 ", ".join(row["because"])]
        words += ["%s %s" % (name, re.sub(" (c2c_link|cxl_range).*", "", row[name])) for name in
                  ("state", "resets", "poisoned_pages", "handover") if name in row]
        print("  ".join(words))
    return status
