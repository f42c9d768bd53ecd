# SPDX-License-Identifier: GPL-2.0-only
"""The commands bind and unbind: drivers, and what was there before."""

import collections
import contextlib
import errno
import re
import sys
import time

from .cures import REBOOT_ONLY, SETUP, explain
from .egm import egm_of
from .gpu import (COHERENT_DRIVERS, DEVICES, NOIOMMU, choose_gpus, pci_address,
                  refuse_if_in_use)
from .host import Refused, Unknown
from .module import our_driver
from .persist import forget, other_owners, persist, persisted, warn_of_other_owners
from .sizes import human
from .users import cures_of
from .writes import Interrupted, Signals, Step, Stuck, Writer

DRIVERS = "/sys/bus/pci/drivers"
STATE = "/run/nvgrace-gpu"
# NVIDIA's driver needs seconds to take a GPU out of use. Give up on it after that many.
GIVE_UP = 30

# The driver and driver_override of a GPU, and the text of its file in STATE, or None for each.
Now = collections.namedtuple("Now", "driver override saved")


def now(gpu):
    return Now(gpu.driver, gpu.override, gpu.host.read_or("%s/%s" % (STATE, gpu)))


def need_root(host, options):
    if not options.dry_run and not host.is_root():
        raise Refused("only root can do that; --dry-run prints what would be done")


def saved_state(host, gpu):
    """(driver, override) from before the first bind, or None."""
    text = host.read_or("%s/%s" % (STATE, gpu))
    if text is None:
        return None
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return fields.get("driver") or None, fields.get("driver_override") or None


def give(gpu, driver, override, undo=False):
    """The writes that give the GPU to a driver, or take it from all.

    The override comes first, so that no other driver gets the GPU once it is free: udev may load
    one then. Of NVIDIA's driver the GPU comes first. It is loaded, and if it does not give the GPU
    up, a write of driver_override waits for that, too.
    """
    had = gpu.driver
    steps = [Step(gpu.dir + "/driver_override", (override or "") + "\n",
                  "driver_override is written: %d s", GIVE_UP, undo)]
    if had and had != driver:
        steps.insert(0 if had == "nvidia" else 1, Step(
            gpu.dir + "/driver/unbind", gpu.bdf,
            "%s gives it up: %%d s of %d" % (had, GIVE_UP), GIVE_UP, undo))
    if driver and had != driver:
        what = "%s: %%d s of %d, the GPU trains its memory" % (driver, gpu.training)
        if driver not in COHERENT_DRIVERS:
            what = driver + ": %d s"
        # An undo takes no signal, so it has to end.
        steps.append(Step("%s/%s/bind" % (DRIVERS, driver), gpu.bdf, what,
                          2 * gpu.training if undo else None, undo))
    yield from steps


def put_back(writer, gpu, was):
    """The writes that restore what the GPU had before this command."""
    if (gpu.driver, gpu.override) != (was.driver, was.override):
        yield from give(gpu, was.driver, was.override, undo=True)
    name = "%s/%s" % (STATE, gpu)
    if was.saved is None:
        writer.remove(name)
    elif writer.host.read_or(name) != was.saved:
        writer.save(name, was.saved + "\n")
    if gpu.driver != was.driver:
        raise OSError(errno.ENODEV, "the driver link is %s" % (gpu.driver or "not there"))


def stuck(gpu, had):
    """Why a write to the GPU does not end, and what to do."""
    text = "%s: %s does not give it up" % (gpu, had)
    with contextlib.suppress(OSError):
        gpu.host.cache.pop("log", None)
        said = [line for line in gpu.host.log() if gpu.bdf in line and "usage count" in line]
        text += "".join("\n  " + line for line in said[-1:])
    gpu.host.cache.pop("processes", None)
    cures = cures_of(gpu.users())
    text += ("\n  The kernel waits until the GPU has no users, and no signal ends that. End them, "
             "and bind again.\n  If it still waits then, only a reboot helps "
             "(NVIDIA/open-gpu-kernel-modules#1374):")
    return text + "".join("\n      " + c for c in cures + ["nvgrace-gpu bind --wait %s" % gpu])


def explain_failure(gpu, had, driver, reason, logged):
    """The text for a driver that did not bind, with what the kernel said since."""
    host = gpu.host
    said, cure = [], None
    host.cache.pop("log", None)
    with contextlib.suppress(OSError):
        pattern = re.compile(r"^[\w-]+ %s: (error .*|.*)" % re.escape(gpu.bdf))
        said = [m.group(1) for m in map(pattern.match, host.log()[logged:]) if m]
    for line in said:
        cure = explain(gpu, line) or cure
        if had == "nvidia" and "overlaps System RAM" in line:
            cure = ("NVIDIA's driver left its RAM behind: end the tasks that have memory on the "
                    "GPU's NUMA nodes, or reboot", REBOOT_ONLY)
    text = "%s: %s does not bind: %s" % (gpu, driver, reason)
    text += "".join("\n  " + line for line in said)
    if cure:
        text += "\n  %s:\n      %s" % cure
    return text


def restore(writer, gpu, was):
    """put_back() for a job that failed; returns what to say if that failed, too."""
    try:
        yield from put_back(writer, gpu, was)
    except (OSError, Unknown) as e:
        return "; and what was there before could not be restored: " + writer.host.error_text(e)
    return ""


def bind(writer, gpu, driver, was):
    """A job for Writer.together(): give the GPU to the driver, or leave all as it was."""
    host = gpu.host
    # Keep what was there first: another bind or libvirt put there a driver for guests.
    if was.saved is None or was.driver and not (
            "vfio" in was.driver or was.driver in COHERENT_DRIVERS):
        writer.save("%s/%s" % (STATE, gpu), "driver=%s\ndriver_override=%s\n" %
                    (was.driver or "", was.override or ""))
    host.cache.pop("log", None)
    logged = 0
    with contextlib.suppress(OSError):
        logged = len(host.log())
    try:
        yield from give(gpu, driver, driver)
        if writer.dry_run:
            return
        if gpu.driver != driver:
            raise OSError(errno.ENODEV, "the driver link is %s" % (gpu.driver or "not there"))
    except Stuck:
        raise Refused(stuck(gpu, was.driver)) from None
    except Interrupted:
        lost = yield from restore(writer, gpu, was)
        raise Refused("%s: interrupted%s" % (gpu, lost or ", and is as before")) from None
    except OSError as e:
        text = explain_failure(gpu, was.driver, driver, e.strerror, logged)
        lost = yield from restore(writer, gpu, was)
        raise Refused(text + lost) from None
    print("%s: bound to %s" % (gpu, driver))
    with contextlib.suppress(Unknown, OSError):
        host.cache.pop("log", None)
        for r in gpu.regions():
            print("  %s is BAR%d: %s backed of %s" %
                  (r.name, r.bar, human(r.backed), human(r.bar_size)))
        region = egm_of(gpu)
        if region:
            print("  EGM is %s: %s, %s" % (region, human(region.size), region.state))


def give_back(writer, gpu, was):
    """A job: a GPU that this command bound or unbound gets what it had."""
    yield from put_back(writer, gpu, was)
    print("%s: given back" % gpu)


def undo(writer, gpus, was, signals):
    return writer.together({gpu: give_back(writer, gpu, was[gpu]) for gpu in gpus}, signals)


def refuse(gpu, options, driver=None):
    """Refuse a GPU before the first write. With --dry-run its users are only a warning."""
    if gpu.leaving:
        raise Refused(stuck(gpu, "nvidia"))
    try:
        refuse_if_in_use(gpu)
    except Refused as e:
        if not options.dry_run:
            raise
        print("warning: %s" % e, file=sys.stderr)
    if driver and gpu.group is None and gpu.host.read_or(NOIOMMU) != "Y":
        raise Refused("%s has no IOMMU group: switch the SMMU on in the firmware's setup (%s)" %
                      (gpu, SETUP))


def refuse_other_owner(gpu, driver):
    """driverctl and the udev rule would both bind the GPU at boot, in an order that varies."""
    for sentence, cure in other_owners(gpu.host, gpu, driver):
        if cure.startswith("driverctl"):
            raise Refused("%s: --persist needs it to itself\n      %s" % (sentence, cure))


def wait_for_users(host, gpus):
    """Wait until no GPU has users; nothing is written meanwhile, and Ctrl-C ends it."""
    told = None
    while True:
        host.cache.pop("processes", None)
        busy = []
        for gpu in gpus:
            users = [u.who for u in gpu.users(deep=True)] or ["NVIDIA's driver"] * gpu.leaving
            if users:
                busy.append("%s is in use by %s" % (gpu, ", ".join(users)))
        if not busy:
            return
        if busy != told:
            told = busy
            print("waiting: " + "; ".join(busy), file=sys.stderr, flush=True)
        time.sleep(1)


def refusals(host, gpus, function):
    """{gpu: reason} of those that the function refuses."""
    refused = {}
    for gpu in gpus:
        try:
            function(gpu)
        except (Refused, Unknown, OSError) as e:
            refused[gpu] = "%s" % e if isinstance(e, Refused) else "%s: %s" % (
                gpu, host.error_text(e))
    return refused


def texts(host, failed):
    """{gpu: reason} of what Writer.together() returns."""
    return {gpu: str(e) if isinstance(e, Refused) else "%s: %s" % (
        gpu, "interrupted" if isinstance(e, Interrupted) else host.error_text(e))
            for gpu, e in failed.items()}


def load(writer, driver):
    host = writer.host
    if host.exists("%s/%s" % (DRIVERS, driver)):
        return
    try:
        writer.run("modprobe", driver)
    except Unknown as e:
        raise Refused("%s does not load: %s\n  nvgrace-gpu check says what is missing" %
                      (driver, e)) from None
    if not writer.dry_run and not host.exists("%s/%s" % (DRIVERS, driver)):
        raise Refused("module %s is there, and no driver of that name" % driver)


def cmd_bind(host, options):
    need_root(host, options)
    writer = Writer(host, options.dry_run)
    gpus = choose_gpus(host, options.gpus, options.any_id)
    driver = options.driver or our_driver(host)
    todo = [gpu for gpu in gpus if gpu.driver != driver]
    if options.wait and not writer.dry_run:
        wait_for_users(host, todo)

    def refuse_one(gpu):
        if gpu in todo:
            refuse(gpu, options, driver)
        if options.persist:
            refuse_other_owner(gpu, driver)

    refused = refusals(host, gpus, refuse_one)
    if refused and options.all_or_none:
        raise Refused("\n".join([*refused.values(), "no GPU was bound, because of --all-or-none"]))
    todo = [gpu for gpu in todo if gpu not in refused]
    was = {gpu: now(gpu) for gpu in todo}
    bound = [gpu for gpu in gpus if gpu not in refused and gpu not in todo]
    for gpu in bound:
        print("%s: bound to %s already" % (gpu, driver))
    if todo:
        load(writer, driver)
    with Signals() as signals:
        failed = writer.together({gpu: bind(writer, gpu, driver, was[gpu]) for gpu in todo},
                                 signals)
        refused.update(texts(host, failed))
        done = [gpu for gpu in todo if gpu not in failed]
        stopped = signals.number
        if stopped or failed and options.all_or_none:
            refused.update(texts(host, undo(writer, done, was, signals)))
            done = [gpu for gpu in done if gpu.driver == driver]
            options.persist = False
        bound = [gpu for gpu in gpus if gpu in bound + done]
        if options.persist and bound:
            try:
                persist(writer, bound, driver)
            except OSError as e:
                refused["persist"] = "--persist: " + host.error_text(e)
    lines = [*refused.values()]
    if refused:
        if len(gpus) > 1 or "persist" in refused:
            lines.append("bound to %s: %s" % (driver, ", ".join(map(str, bound)) or "no GPU"))
    return end(lines, stopped)


def end(lines, stopped):
    """Say what failed; a signal ends the command with a status of its own."""
    if not stopped and not lines:
        return 0
    if not stopped:
        raise Refused("\n".join(lines))
    if lines:
        print("error: " + "\n".join(lines), file=sys.stderr)
    raise KeyboardInterrupt(stopped)


def unbind(writer, gpu, was):
    """A job: give the GPU back to the driver that had it before the first bind."""
    host = gpu.host
    before = saved_state(host, gpu)
    driver, override = before or (None, None)
    if driver and not host.exists("%s/%s" % (DRIVERS, driver)):
        print("%s: %s had it before, and is not loaded any more" % (gpu, driver),
              file=sys.stderr)
        driver = None
    try:
        yield from give(gpu, driver, override)
        if before is None:
            # Bound at boot, so that no driver had it before: the kernel looks for one.
            yield Step("/sys/bus/pci/drivers_probe", gpu.bdf, "the kernel looks for a driver: %d s",
                       2 * gpu.training, False)
            driver = gpu.driver
        if not writer.dry_run and gpu.driver != driver:
            raise OSError(errno.ENODEV, "the driver link is %s" % (gpu.driver or "not there"))
    except Stuck:
        raise Refused(stuck(gpu, was.driver)) from None
    except Interrupted:
        lost = yield from restore(writer, gpu, was)
        raise Refused("%s: interrupted%s" % (gpu, lost or ", and is as before")) from None
    except OSError as e:
        raise Refused("%s: %s does not get it back: %s" % (gpu, driver or "the kernel",
                                                           e.strerror)) from None
    writer.remove("%s/%s" % (STATE, gpu))
    if writer.dry_run:
        return
    if not driver:
        print("%s: unbound; no driver has it" % gpu)
    else:
        print("%s: unbound; %s has it%s" % (gpu, driver, ", as before" if before else ""))


def cmd_unbind(host, options):
    need_root(host, options)
    writer = Writer(host, options.dry_run)
    names = options.gpus
    if options.persist:
        # Also of GPUs that are gone, in use, or not bound.
        bdfs = [pci_address(name) for name in names] or persisted(host)
        forgotten = forget(writer, bdfs)
        warn_of_other_owners(host, bdfs)
        names = [bdf for bdf in bdfs if bdf not in forgotten or host.exists(DEVICES + "/" + bdf)]
        if forgotten and not names:
            return 0
    gpus = choose_gpus(host, names if options.gpus else [], True)
    todo = [gpu for gpu in gpus if gpu.driver in COHERENT_DRIVERS or saved_state(host, gpu)]
    for gpu in gpus:
        if gpu not in todo and options.gpus:
            print("%s: bound to %s, not by this tool: nothing to do" %
                  (gpu, gpu.driver or "nothing"))

    def refuse_one(gpu):
        # A GPU that has its driver again loses only what was saved.
        if gpu.driver is None or gpu.driver != (saved_state(host, gpu) or [None])[0]:
            refuse(gpu, options)

    refused = refusals(host, todo, refuse_one)
    todo = [gpu for gpu in todo if gpu not in refused]
    was = {gpu: now(gpu) for gpu in todo}
    with Signals() as signals:
        failed = writer.together({gpu: unbind(writer, gpu, was[gpu]) for gpu in todo}, signals)
        refused.update(texts(host, failed))
        stopped = signals.number
        if stopped:
            done = [gpu for gpu in todo if gpu not in failed]
            refused.update(texts(host, undo(writer, done, was, signals)))
    return end([*refused.values()], stopped)
