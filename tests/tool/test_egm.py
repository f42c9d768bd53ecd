# SPDX-License-Identifier: GPL-2.0-only
"""EGM in nvgrace-gpu: what list and status show."""

import json

from machine import GIB, Case
from test_qemu_args import A, B, C

EGM = 480 * GIB
STATE = "/sys/class/egm/egm4/state"


class Shown(Case):
    """list, status, bind and report."""

    def setUp(self):
        super().setUp()
        for bdf in (A, B):
            self.machine.add_gpu(bdf)
        self.machine.add_gpu(C, node=1)
        self.machine.add_egm([A, B])

    def lines(self, *argv):
        """(exit status, the lines that begin with a node)."""
        status, out, _ = self.tool(*argv)
        return status, [line for line in out.splitlines() if line.startswith("/dev/egm")]

    def test_list(self):
        self.assertEqual(self.lines("list"), (0, [
            "/dev/egm4  480 GiB  state zeroed  of %s and %s" % (A, B)]))
        self.assertEqual(self.output("list").count("\n  EGM /dev/egm4\n"), 2)

    def test_only_of_the_named_gpus(self):
        self.assertEqual(self.lines("list", C), (0, []))
        self.assertEqual(self.lines("status", C), (0, []))
        self.assertEqual(len(self.lines("list", B)[1]), 1)

    def test_json(self):
        self.machine.opened(4711, "qemu-system-aar", "/dev/egm4")
        row = {"node": "/dev/egm4", "size": EGM, "gpus": [A, B], "state": "zeroed",
               "health": "ok", "because": [], "in_use_by": ["4711 (qemu-system-aar)"]}
        for command in "list", "status":
            rows = {r["bdf"]: r["egm"] for r in json.loads(self.output(command, "--json"))}
            self.assertEqual(rows, {A: row, B: row, C: None})

    def test_owner_is_not_a_user_of_the_gpu(self):
        self.machine.opened(4711, "qemu-system-aar", "/dev/egm4")
        out = self.output("list")
        self.assertEqual(out.count("in use by"), 1)
        self.assertTrue(out.endswith("  in use by 4711 (qemu-system-aar)\n"))

    def test_not_bound(self):
        """Firmware names the region, and only the driver makes its node."""
        self.machine.drop("/sys/class/egm")
        self.machine.unbound(A)
        out = self.output("list", A)
        self.assertIn("  EGM named by firmware; it has a node while nvgrace_gpu has the GPU\n",
                      out)
        self.assertIn("EGM named by firmware, and there is no node: nvgrace-gpu check %s says" % B,
                      self.output("list", B))
        self.assertNotIn("EGM", self.output("list", C))

    def test_region_outlives_its_gpus(self):
        """A process has the node open, and all GPUs are unbound."""
        self.machine.put("/sys/class/egm/egm4/gpu_devices", "")
        self.assertIn("of no GPU that is bound", self.lines("list")[1][0])

    def test_status(self):
        self.machine.put(STATE, "zeroing 4096 of 8192")
        self.assertEqual(self.lines("status"), (0, [
            "/dev/egm4  480 GiB  state zeroing 4096 of 8192  of %s and %s  used by nobody  "
            "health ok" % (A, B)]))

    def test_zeroes_failed(self):
        self.machine.put(STATE, "failed -12")
        status, (line,) = self.lines("status")
        self.assertEqual(status, 1)
        self.assertIn("health bad: its zeroes could not be written: state is failed -12", line)
        self.assertEqual(self.tool("status", C)[0], 0)

    def test_state_is_unknown(self):
        for text in ("sleeping", "zeroing", "zeroedx", ""):
            self.machine.put(STATE, text)
            status, (line,) = self.lines("status")
            self.assertEqual(status, 3, text)
            self.assertIn("state not known", line)
            self.assertIn("health cannot tell: /sys/class/egm/egm4/state holds '%s'" % text, line)

    def test_more_after_the_state(self):
        for text in ("in use by a VM", "zeroed\nmore", "failed -4 at 0x1000"):
            self.machine.put(STATE, text)
            self.assertNotEqual(self.lines("status")[0], 3, text)

    def test_files_are_missing(self):
        for name in ("egm_size", "gpu_devices", "state"):
            path = "/sys/class/egm/egm4/" + name
            text = self.machine.read(path)
            self.machine.drop(path)
            status, (line,) = self.lines("status")
            self.assertEqual(status, 3, name)
            self.assertIn("%s: No such file" % path, line)
            self.machine.put(path, text)

    def test_user_sees_it_too(self):
        self.machine.become("alice")
        self.assertIn("used by nobody in sight", self.lines("status")[1][0])

    def test_bind_names_the_region(self):
        self.machine.unbound(A)
        self.assertIn("  EGM is /dev/egm4: 480 GiB, zeroed\n", self.output("bind", A))
