# SPDX-License-Identifier: GPL-2.0-only
"""The commands list and status: the GPUs, their drivers, memory, EGM, users and health."""

import json
import re

from .egm import egm_of, find_egms
from .gpu import COHERENT_DRIVERS, DRIVER, choose_gpus
from .host import Unknown
from .sizes import human
from .users import sees_all


def describe_egm(host, region):
    """The row of a region; what cannot be told is None, and the reason is in "because"."""
    row = {"node": region.node, "because": []}
    for name in ("size", "gpus", "state"):
        try:
            row[name] = getattr(region, name)
        except (Unknown, OSError) as e:
            row[name] = None
            row["because"].append(host.error_text(e))
    row["health"] = "cannot tell" if row["because"] else "ok"
    if (row["state"] or "").startswith("failed"):
        row["health"] = "bad"
        row["because"].append("its zeroes could not be written: state is " + row["state"])
    row["in_use_by"] = [user.who for user in region.users()]
    return row


def egm_rows(host, gpus, names):
    """The regions of these GPUs; without names all, as one can outlive its GPUs' drivers."""
    rows = [describe_egm(host, region) for region in find_egms(host)]
    wanted = {gpu.bdf for gpu in gpus}
    return [row for row in rows if not names or row["gpus"] is None or wanted & set(row["gpus"])]


def egm_words(row):
    """The words of a region that list and status both print."""
    return [row["node"], "size not known" if row["size"] is None else human(row["size"]),
            "state " + (row["state"] or "not known"),
            "GPUs not known" if row["gpus"] is None else
            "of " + (" and ".join(row["gpus"]) or "no GPU that is bound")]


def print_egm(row):
    print("  ".join(egm_words(row)))
    for text in row["because"]:
        print("  " + text)
    if row["in_use_by"]:
        print("  in use by " + ", ".join(row["in_use_by"]))


def egm_node(host, gpu):
    """The node of the region that a GPU names, None without one, and what prevents it as text."""
    try:
        region = egm_of(gpu)
        if region:
            return region.node, None
        named = gpu.firmware_egm()
    except (Unknown, OSError) as e:
        return None, "cannot tell: " + host.error_text(e)
    if not named:
        return None, None
    if not gpu.files():
        return None, "named by firmware; it has a node while %s has the GPU" % DRIVER
    return None, "named by firmware, and there is no node: nvgrace-gpu check %s says why" % gpu


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
    row["egm"], row["egm_because"] = egm_node(host, gpu)
    return row


def cmd_list(host, options):
    gpus = choose_gpus(host, options.gpus, True)
    rows = [describe_gpu(host, gpu) for gpu in gpus]
    egms = egm_rows(host, gpus, options.gpus)
    if options.json:
        of_node = {egm["node"]: egm for egm in egms}
        for row in rows:
            row["egm"] = of_node.get(row["egm"])
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
        if row["egm"] or row["egm_because"]:
            print("  EGM " + (row["egm"] or row["egm_because"]))
        if row["in_use_by"]:
            print("  in use by " + ", ".join(row["in_use_by"]))
    for egm in egms:
        print_egm(egm)
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
    """Print a line for each GPU and each EGM region.

    Nothing here opens a GPU or a node, wakes a GPU, or needs root.
    """
    rows = []
    gpus = choose_gpus(host, options.gpus, True)
    egms = egm_rows(host, gpus, options.gpus)
    for gpu in gpus:
        values, bad, unknown = health_of(gpu)
        verdict = "bad" if bad else "cannot tell" if unknown else "ok" if values else "not known"
        rows.append({"bdf": gpu.bdf, "driver": gpu.driver, "health": verdict,
                     "because": bad + unknown, "users": [user.who for user in gpu.users()],
                     "all_users": sees_all(host), **values})
        rows[-1]["egm"] = next((e for e in egms if gpu.bdf in (e["gpus"] or [])), None)
    healths = [row["health"] for row in rows + egms]
    status = 1 if "bad" in healths else 3 if "cannot tell" in healths else 0
    if options.json:
        print(json.dumps(rows, indent=2))
        return status
    everybody = sees_all(host)

    def used_by(users):
        return "used by " + (", ".join(users) or ("nobody" if everybody else "nobody in sight"))

    def health(row):
        return "health " + ": ".join([row["health"], *filter(None, [", ".join(row["because"])])])

    for row in rows:
        words = [row["bdf"], "driver %s" % (row["driver"] or "none"), used_by(row["users"]),
                 health(row)]
        words += ["%s %s" % (name, re.sub(" (c2c_link|cxl_range).*", "", row[name])) for name in
                  ("state", "resets", "poisoned_pages", "handover") if name in row]
        print("  ".join(words))
    for row in egms:
        print("  ".join([*egm_words(row), used_by(row["in_use_by"]), health(row)]))
    return status
