# SPDX-License-Identifier: GPL-2.0-only
"""The command list: the GPUs, their drivers, memory and users."""

import json

from .gpu import COHERENT_DRIVERS, choose_gpus
from .host import Unknown
from .sizes import human


def describe_gpu(host, gpu):
    """The row of list for a GPU; a value that cannot be told is a str with the reason."""
    row = {"bdf": gpu.bdf, "id": "%04x:%04x" % (gpu.vendor, gpu.device), "model": gpu.model,
           "socket": gpu.socket, "numa_node": gpu.numa_node, "iommu_group": gpu.group,
           "driver": gpu.driver, "driver_override": gpu.override, "regions": [],
           "in_use_by": gpu.users()}
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
    return 0
