# SPDX-License-Identifier: GPL-2.0-only
"""The commands bind and unbind: drivers, what was there before, the udev rule."""

import contextlib
import errno
import os
import re
import sys
import time

from .cures import SETUP, explain
from .gpu import COHERENT_DRIVERS, NOIOMMU, TRAINING, choose_gpus, refuse_if_in_use
from .host import Refused, Unknown
from .module import our_driver
from .sizes import human

DRIVERS = "/sys/bus/pci/drivers"
STATE = "/run/nvgrace-gpu"
RULES = "/etc/udev/rules.d/60-nvgrace-gpu.rules"


class Writer:
    """Writes to sysfs, or prints what it would write."""

    def __init__(self, host, dry_run):
        self.host, self.dry_run = host, dry_run

    def write(self, name, text):
        if self.dry_run:
            # An empty line takes an override away; plain echo writes that.
            print("echo %s> %s" % (text.strip() and text.strip() + " ", name))
        else:
            self.host.write(name, text)

    def write_slowly(self, name, text, what):
        """A write that may last as long as the GPU trains: a counter, and Ctrl-C ends it."""
        if self.dry_run:
            self.write(name, text)
            return
        pid = os.fork()
        if not pid:
            try:
                self.host.write(name, text)
            except OSError as e:
                os._exit(e.errno or errno.EIO)
            finally:
                os._exit(0)
        start = shown = time.monotonic()
        try:
            while True:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    break
                time.sleep(0.05)
                if time.monotonic() - shown >= 1:
                    shown = time.monotonic()
                    print("%s: %d s of %d, the GPU trains its memory" %
                          (what, shown - start, TRAINING), file=sys.stderr,
                          end="\r" if sys.stderr.isatty() else "\n", flush=True)
        except BaseException:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            raise
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else errno.EINTR
        if code:
            raise OSError(code, os.strerror(code), name)

    def run(self, *command):
        if self.dry_run:
            print(" ".join(command))
        else:
            self.host.run(*command)

    def save(self, name, text):
        if self.dry_run:
            print("mkdir -p %s && cat > %s << 'END'\n%sEND" %
                  (os.path.dirname(name), name, text))
        else:
            self.host.save(name, text)

    def remove(self, name):
        if self.dry_run:
            if self.host.exists(name):
                print("rm " + name)
        else:
            self.host.remove(name)


def need_root(host, options):
    if not options.dry_run and not host.is_root():
        raise Refused("only root can do that; --dry-run prints what would be done")


def saved_state(host, gpu):
    """(driver, override) from before bind, or None."""
    text = host.read_or("%s/%s" % (STATE, gpu))
    if text is None:
        return None
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return fields.get("driver") or None, fields.get("driver_override") or None


def rebind(writer, gpu, driver, override):
    """Give the GPU to a driver, and wait; nobody else gets it in between."""
    writer.write(gpu.dir + "/driver_override", (override or "") + "\n")
    if gpu.driver == driver:
        return
    if gpu.driver:
        writer.write("%s/driver/unbind" % gpu.dir, gpu.bdf)
    if driver:
        writer.write_slowly("%s/%s/bind" % (DRIVERS, driver), gpu.bdf, "%s: %s" % (gpu, driver))


def bind(writer, gpu, driver):
    host = gpu.host
    if gpu.driver == driver:
        print("%s: bound to %s already" % (gpu, driver))
        return
    refuse_if_in_use(gpu)
    if gpu.group is None and host.read_or(NOIOMMU) != "Y":
        raise Refused("%s has no IOMMU group: switch the SMMU on in the firmware's setup (%s)" %
                      (gpu, SETUP))
    before = gpu.driver, gpu.override
    writer.save("%s/%s" % (STATE, gpu), "driver=%s\ndriver_override=%s\n" %
                (before[0] or "", before[1] or ""))
    host.cache.pop("log", None)
    logged = 0
    with contextlib.suppress(OSError):
        logged = len(host.log())
    try:
        rebind(writer, gpu, driver, driver)
        if writer.dry_run:
            return
        if gpu.driver != driver:
            raise OSError(errno.ENODEV, "the driver link is %s" % (gpu.driver or "not there"))
    except (OSError, KeyboardInterrupt) as e:
        host.cache.pop("log", None)
        reason = "interrupted" if isinstance(e, KeyboardInterrupt) else e.strerror
        said, cure = [], None
        with contextlib.suppress(OSError):
            pattern = re.compile(r"^[\w-]+ %s: (error .*|.*)" % re.escape(gpu.bdf))
            said = [m.group(1) for m in map(pattern.match, host.log()[logged:]) if m]
        for line in said:
            cure = explain(gpu, line) or cure
        lost = ""
        try:
            rebind(writer, gpu, *before)
            writer.remove("%s/%s" % (STATE, gpu))
        except OSError as e2:
            lost = "; and what was there before could not be restored: " + host.error_text(e2)
        text = "%s: %s does not bind: %s%s" % (gpu, driver, reason, lost)
        text += "".join("\n  " + line for line in said)
        if cure:
            text += "\n  %s:\n      %s" % cure
        raise Refused(text) from None
    print("%s: bound to %s" % (gpu, driver))
    with contextlib.suppress(Unknown, OSError):
        host.cache.pop("log", None)
        for r in gpu.regions():
            print("  %s is BAR%d: %s backed of %s" %
                  (r.name, r.bar, human(r.backed), human(r.bar_size)))


RULE = """\
# {bdf}: written by nvgrace-gpu bind --persist; nvgrace-gpu unbind --persist takes it away.
ACTION=="add", SUBSYSTEM=="pci", KERNEL=="{bdf}", ATTR{{driver_override}}="{driver}", \
RUN{{builtin}}+="kmod load {driver}", RUN+="/bin/sh -c '{command}'"
"""
# Any other driver gives the device up; then the kernel matches again.
RULE_COMMAND = (
    "cd /sys/bus/pci/devices/{bdf} && "
    "if [ -e driver ] && [ ! -e driver/module/drivers/pci:{driver} ]; then "
    "echo {bdf} > driver/unbind; fi; echo {bdf} > /sys/bus/pci/drivers_probe")


def rules_without(host, gpus):
    """The file of rules, as (BDF, lines), without some GPUs."""
    gone = {gpu.bdf for gpu in gpus}
    lines = host.read_or(RULES, "").splitlines()
    kept, skipping = [], False
    for line in lines:
        match = re.match(r"# (\S+): written by nvgrace-gpu", line)
        if match:
            skipping = match.group(1) in gone
        if not skipping:
            kept.append(line + "\n")
    return "".join(kept)


def persist(writer, host, gpus, driver, on):
    text = rules_without(host, gpus)
    for gpu in gpus if on else ():
        command = RULE_COMMAND.format(bdf=gpu.bdf, driver=driver)
        text += RULE.format(bdf=gpu.bdf, driver=driver, command=command)
    if text:
        writer.save(RULES, text)
    else:
        writer.remove(RULES)
    try:
        writer.run("udevadm", "control", "--reload")
    except Unknown as e:
        if on:
            print("udev does not run now (%s): it reads %s when it starts" % (e, RULES),
                  file=sys.stderr)


def cmd_bind(host, options):
    need_root(host, options)
    writer = Writer(host, options.dry_run)
    gpus = choose_gpus(host, options.gpus, options.any_id)
    options.driver = options.driver or our_driver(host)
    for gpu in gpus:
        if gpu.driver != options.driver:
            refuse_if_in_use(gpu)
    if not host.exists("%s/%s" % (DRIVERS, options.driver)):
        try:
            writer.run("modprobe", options.driver)
        except Unknown as e:
            raise Refused("%s does not load: %s\n  nvgrace-gpu check says what is missing" %
                          (options.driver, e)) from None
        if not writer.dry_run and not host.exists("%s/%s" % (DRIVERS, options.driver)):
            raise Refused("module %s is there, and no driver of that name" % options.driver)
    each(gpus, lambda gpu: bind(writer, gpu, options.driver))
    if options.persist:
        persist(writer, host, gpus, options.driver, True)
        if not writer.dry_run:
            print("after a reboot %s binds again: %s" % (", ".join(map(str, gpus)), RULES))
    return 0


def each(gpus, function):
    """Do it for each GPU, also after one failed; then say what failed."""
    refused = []
    for gpu in gpus:
        try:
            function(gpu)
        except Refused as e:
            refused.append(str(e))
    if refused:
        raise Refused("\n".join(refused))


def unbind(writer, gpu):
    host = gpu.host
    before = saved_state(host, gpu)
    if gpu.driver not in COHERENT_DRIVERS and before is None:
        print("%s: bound to %s, not by this tool: nothing to do" % (gpu, gpu.driver or "nothing"))
        return
    refuse_if_in_use(gpu)
    driver, override = before or (None, None)
    if driver and not host.exists("%s/%s" % (DRIVERS, driver)):
        print("%s: %s had it before, and is not loaded any more" % (gpu, driver),
              file=sys.stderr)
        driver = None
    try:
        rebind(writer, gpu, driver, override)
        if writer.dry_run:
            writer.remove("%s/%s" % (STATE, gpu))
            return
        if gpu.driver != driver:
            raise OSError(errno.ENODEV, "the driver link is %s" % (gpu.driver or "not there"))
    except OSError as e:
        raise Refused("%s: %s does not get it back: %s" % (gpu, driver, e.strerror)) from None
    writer.remove("%s/%s" % (STATE, gpu))
    print("%s: unbound; %s has it, as before" % (gpu, driver) if driver else
          "%s: unbound; no driver has it" % gpu)


def cmd_unbind(host, options):
    need_root(host, options)
    writer = Writer(host, options.dry_run)
    gpus = choose_gpus(host, options.gpus, True)
    if not options.gpus:
        gpus = [g for g in gpus if g.driver in COHERENT_DRIVERS or saved_state(host, g)]
    for gpu in gpus:
        refuse_if_in_use(gpu)
    each(gpus, lambda gpu: unbind(writer, gpu))
    if options.persist:
        persist(writer, host, gpus, options.driver, False)
    return 0
