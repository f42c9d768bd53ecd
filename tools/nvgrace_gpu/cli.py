# SPDX-License-Identifier: GPL-2.0-only
"""The command line: options of each command, and the exit status."""

import argparse
import os
import re
import signal
import sys

from .binding import cmd_bind, cmd_unbind
from .checks import cmd_check
from .guest import cmd_qemu_args
from .host import Host, Refused, Unknown
from .report import cmd_report
from .sizes import parse_size
from .status import cmd_list, cmd_status
from .version import version


def positive(text):
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("'%s' is not a number above 0" % text)
    return int(text)


def driver_name(text):
    """The name becomes a part of paths in sysfs."""
    if not re.fullmatch(r"[\w-]+", text, re.A):
        raise argparse.ArgumentTypeError("'%s' is not the name of a driver such as vfio-pci" % text)
    return text


def parser():
    def formatter(prog):
        return argparse.HelpFormatter(prog, max_help_position=24)

    top = argparse.ArgumentParser(
        prog="nvgrace-gpu", formatter_class=formatter,
        description="Pass the GPU of a Grace machine to a virtual machine.",
        epilog="Exit status: 0; 1 if there is something to fix, or what was asked for cannot be "
        "done; 2 for a wrong command line; 3 if check or status finds nothing to fix, but does not "
        "know all. See nvgrace-gpu(8).")
    top.add_argument("--root", default=os.environ.get("NVGRACE_GPU_ROOT", "/"), metavar="DIR",
                     help="/sys, /proc, /dev and /etc are in DIR (default: NVGRACE_GPU_ROOT or /)")
    top.add_argument("--version", action="version", version="nvgrace-gpu " + version())
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, function, text):
        p = commands.add_parser(name, help=text, description=text, formatter_class=formatter)
        p.set_defaults(function=function)
        p.add_argument("gpus", nargs="*", metavar="BDF",
                       help="PCI address such as 0009:01:00.0 (default: all such GPUs)")
        return p

    def check_arguments(p):
        p.add_argument("--layout", type=int, choices=(2, 4), default=4,
                       help="the BAR of usemem that guests want (default 4, NVIDIA's driver)")
        p.add_argument("--user", metavar="NAME",
                       help="the user who runs QEMU (default: the user of this command)")

    p = command("check", cmd_check, "list what prevents a guest or endangers the host")
    p.add_argument("--json", action="store_true", help="for programs")
    p.add_argument("-q", "--quiet", action="store_true", help="leave out what is ok")
    p.add_argument("--better", action="store_true", help="also what could be better")
    check_arguments(p)

    p = command("list", cmd_list, "the GPUs, their drivers and their memory")
    p.add_argument("--json", action="store_true", help="for programs")

    p = command("status", cmd_status, "a line for each GPU: driver, users, health")
    p.add_argument("--json", action="store_true", help="for programs")

    for name, function, text in (
            ("bind", cmd_bind, "give GPUs to the driver; what had them before is written down"),
            ("unbind", cmd_unbind, "give GPUs back to what had them before")):
        p = command(name, function, text)
        p.add_argument("-n", "--dry-run", action="store_true", help="print the writes only")
        p.add_argument("--persist", action="store_true",
                       help="%s the udev rule that binds them at boot" %
                       ("write" if name == "bind" else "remove"))
        p.add_argument("--driver", type=driver_name, metavar="NAME",
                       help="another driver (default: this project's, whatever its name)")
        if name == "bind":
            p.add_argument("--wait", action="store_true", help="wait until nobody uses the GPUs")
            p.add_argument("--all-or-none", action="store_true",
                           help="if a GPU is refused, give the others back")
            p.add_argument("--any-id", action="store_true", help="also if it is not a known GPU")

    p = command("qemu-args", cmd_qemu_args, "the command line of QEMU for these GPUs")
    p.add_argument("--libvirt", action="store_true", help="libvirt's XML instead")
    p.add_argument("--name", default="grace", help="the name of the domain (default grace)")
    p.add_argument("--smp", type=positive, default=8, metavar="N", help="CPUs (default 8)")
    p.add_argument("--memory", type=parse_size, metavar="SIZE",
                   help="memory (default 64G, with --egm all of it)")
    p.add_argument("--egm", action="store_true",
                   help="the guest's memory is the GPUs' EGM; needs --container")
    p.add_argument("--initiators", type=int, choices=range(33), default=8, metavar="N",
                   help="NUMA nodes for each GPU (default 8)")
    p.add_argument("--smmu", action="store_true", help="an accelerated SMMU for each of the host's")
    p.add_argument("--container", action="store_true", help="VFIO's container, not iommufd")
    p.add_argument("--firmware", metavar="FILE", help="UEFI for the guest, or none")
    p.add_argument("--disk", metavar="FILE", help="the guest's disk")
    p.add_argument("--layout", type=int, choices=(2, 4), default=4,
                   help="the BAR of usemem that the guest wants (default 4)")
    p.add_argument("--any-id", action="store_true", help="also if it is not a known GPU")
    p.usage = "nvgrace-gpu qemu-args [OPTIONS] [BDF ...] [-- ARGUMENTS FOR QEMU ...]"

    p = command("report", cmd_report, "one file for a bug report, without secrets")
    p.add_argument("-o", "--output", default="nvgrace-gpu-report.txt", metavar="FILE",
                   help="where to write it, - for the screen (default %(default)s)")
    p.add_argument("--selftest", metavar="PROGRAM",
                   help="run grace_selftest, which resets each GPU, and add what it prints")
    check_arguments(p)
    return top


def main(argv=None, host=None):
    argv = sys.argv[1:] if argv is None else argv
    more = []
    if "--" in argv:
        at = argv.index("--")
        argv, more = argv[:at], argv[at + 1:]
    options = parser().parse_args(argv)
    options.more = more
    if more and options.command != "qemu-args":
        parser().error("only qemu-args takes arguments after --")
    host = host or Host(options.root)
    try:
        return options.function(host, options)
    except Refused as e:
        print("error: %s" % e, file=sys.stderr)
        return 1
    except Unknown as e:
        print("error: cannot tell: %s" % e, file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except OSError as e:
        print("error: %s" % host.error_text(e), file=sys.stderr)
        return 1


def run():
    """Run the tool as a program."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:    # the shell closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, open(number, "w", encoding="utf-8"))
        # A locale may lack a character of a process's name, for example.
        getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
        sys.exit(status)
    except KeyboardInterrupt as e:
        # When Python ends it gives signals their default action, by which a second Ctrl-C kills.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(128 + (e.args[0] if e.args else signal.SIGINT))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
