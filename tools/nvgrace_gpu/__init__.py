# SPDX-License-Identifier: GPL-2.0-only
"""The tool nvgrace-gpu: pass the GPU of a Grace machine to a virtual machine.

Each command is in a module of its own: checks, status (list, status), binding (bind, unbind),
guest (qemu-args) and report. They use host (a machine below a root), gpu (its GPUs), egm (memory
that firmware has set apart for them), users (of a GPU), writes (to sysfs, at once), persist (udev
rules), firmware (ACPI tables), module (the driver's file), cures (commands to paste) and sizes.

All that the tool reads and writes is below a root, so that its tests can show it machines that are
made of files. Where the host does not tell something, the tool says so and why: it does not guess.
"""
