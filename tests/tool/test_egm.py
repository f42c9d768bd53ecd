# SPDX-License-Identifier: GPL-2.0-only
"""EGM in nvgrace-gpu: what list and status show, and what check finds."""

import json
import os

from machine import CONFIG, GIB, Case
from nvgrace_gpu.cures import SETUP
from test_check import Check
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


class Checked(Check):
    """The firmware of the GPU that Check has names a region."""

    def setUp(self):
        super().setUp()
        self.machine.add_egm([self.gpu.bdf])

    def firmware(self, **egm):
        """What firmware says, where the driver has made no node."""
        self.machine.names_egm([self.gpu.bdf], **egm)
        if self.machine.exists("/sys/class/egm/egm4"):
            self.machine.drop("/sys/class/egm/egm4")

    def test_all_is_well(self):
        status, checks = self.checks()
        self.assertEqual([n for n, c in checks.items() if c["status"] != "ok"], [])
        self.assertEqual(status, 0)
        for name, text in (("gpu.egm", "/dev/egm4: 480 GiB"),
                           ("gpu.egm.state", "/dev/egm4 is zeroed"),
                           ("gpu.egm.nodes", "root may open /dev/egm4 and /dev/vfio/20 and "),
                           ("gpu.egm.container", "CONFIG_VFIO_CONTAINER")):
            self.assertIn(text, checks[name]["text"])

    def test_no_egm(self):
        self.machine.drop("/sys/class/egm")
        self.machine.firmware(0, *self.gpu.memory())
        self.told("gpu.egm", "firmware has set no memory apart as EGM")
        _, checks = self.checks()
        self.assertEqual({c["status"] for n, c in checks.items() if "egm" in n}, {"ok"})

    def test_property_is_missing(self):
        for missing, there, name in (("base", "pxm", "base-pa"), ("size", "base-pa", "size"),
                                     ("pxm", "base-pa", "pxm")):
            self.firmware(**{missing: None})
            self.fault("gpu.egm", "- update the machine's firmware",
                       text="nvidia,egm-%s is there without nvidia,egm-%s, so" % (there, name))

    def test_only_the_list(self):
        self.firmware(base=None, size=None, pxm=None, retired=0x1000)
        self.fault("gpu.egm", "- update", text="nvidia,egm-retired-pages-data-base is there "
                   "without nvidia,egm-base-pa and nvidia,egm-size and nvidia,egm-pxm")

    def test_property_is_wrong(self):
        for egm, text in (
                ({"size": "480G"}, "nvidia,egm-size is a string"),
                ({"size": 0}, "nvidia,egm-size is 0"),
                ({"size": EGM + 0x1000}, "nvidia,egm-size, 0x7800001000, is not a multiple of the "
                                         "page size, 0x10000"),
                ({"base": 0x80000800}, "nvidia,egm-base-pa, 0x80000800, is not a multiple"),
                ({"base": 1 << 52}, "are beyond 52 bits"),
                ({"size": (1 << 64) - 0x10000}, "are beyond 52 bits"),
                ({"base": 0x420000000000}, "overlap the GPU's own memory"),
                ({"retired": 0x80010000},
                 "nvidia,egm-retired-pages-data-base, 0x80010000, is within the region")):
            with self.subTest(text):
                self.firmware(**egm)
                self.fault("gpu.egm", "- update the machine's firmware", text=text)

    def test_list_beside_the_region(self):
        self.firmware(retired=0x70000000)
        _, checks = self.checks()
        self.assertNotIn("_DSD", checks["gpu.egm"]["text"])

    def test_gpus_of_a_domain_differ(self):
        other = "0008:01:00.0"
        self.machine.add_gpu(other)
        self.firmware()
        self.machine.names_egm([other], size=EGM // 2)
        _, checks = self.checks(self.gpu.bdf)
        self.assertIn("nvidia,egm-size is not that of %s, which names nvidia,egm-pxm 4, too" %
                      other, checks["gpu.egm"]["text"])
        self.machine.names_egm([other], pxm=5, size=EGM // 2)
        _, checks = self.checks(self.gpu.bdf)
        self.assertNotIn(other, checks["gpu.egm"]["text"])

    def test_host_uses_it_as_ram(self):
        """Firmware has EGM on without a hypervisor: only the part that is RAM is named."""
        self.firmware(pxm=0)
        self.machine.put("/proc/iomem", "00000000-13fffffff : System RAM\n  00100000-001fffff : "
                         "Kernel code\n")
        self.fault("gpu.egm", SETUP, "- reboot", "'EGM Hypervisor reserved memory per socket'",
                   text="EGM that is the host's own RAM, 0x80000000-0x13fffffff")

    def test_user_cannot_tell(self):
        self.firmware()
        self.machine.become("alice")
        self.machine.put("/proc/iomem", "00000000-00000000 : System RAM\n")
        self.cannot_tell("gpu.egm", "only root sees the addresses in /proc/iomem")

    def test_driver_refused_it(self):
        self.firmware()
        self.machine.say("nvgrace_gpu %s: EGM: the list of retired pages is odd" % self.gpu)
        self.fault("gpu.egm", "- update", text="the driver refused it: EGM: the list of retired")

    def test_driver_says_nothing(self):
        self.firmware()
        self.fault("gpu.egm", "- read what the driver said", text="the driver made no node for it")

    def test_driver_is_older(self):
        self.firmware()
        self.machine.drop("/sys/class/egm")
        self.fault("gpu.egm", "- install the version of the driver",
                   text="this version of the driver")

    def test_kernels_own_driver(self):
        self.firmware()
        self.machine.intree(self.gpu.bdf)
        _, checks = self.checks()
        self.cured(checks["gpu.egm"], ["nvgrace-gpu bind %s" % self.gpu], "kernel's own driver")

    def test_not_bound(self):
        """gpu.driver has that fault already."""
        self.firmware()
        self.unbound()
        self.told("gpu.egm", "480 GiB of EGM at 0x80000000: there is a node /dev/egm4 while")

    def test_zeroes_failed(self):
        self.machine.put(STATE, "failed -12")
        self.fault("gpu.egm.state", "- the next guest's start writes them again",
                   text="/dev/egm4 is failed -12")

    def test_states(self):
        self.machine.put(STATE, "zeroing 4096 of 8192")
        self.told("gpu.egm.state", "zeroing 4096 of 8192 bytes; a guest that starts now waits")
        self.machine.put(STATE, "in use")
        self.told("gpu.egm.state", "in use by a process that only root sees")
        self.machine.opened(4711, "qemu", "/dev/egm4")
        self.told("gpu.egm.state", "in use by 4711 (qemu)")
        self.machine.put(STATE, "odd")
        self.cannot_tell("gpu.egm.state", "holds 'odd'")

    def test_no_node(self):
        self.machine.drop("/dev/egm4")
        self.fault("gpu.egm.nodes", "udevadm trigger -s egm")

    def test_node_is_closed(self):
        os.chmod(self.machine.path("/dev/egm4"), 0o600)
        self.fault("gpu.egm.nodes", "chgrp kvm /dev/egm4 && chmod g+rw /dev/egm4",
                   "usermod -aG kvm qemu", argv=["--user", "qemu"], text="may not open /dev/egm4")
        self.machine.put("/etc/udev/rules.d/61-nvgrace-gpu-vfio.rules")
        self.fault("gpu.egm.nodes", "udevadm control --reload; udevadm trigger -s egm",
                   argv=["--user", "qemu"])

    def test_group_is_closed(self):
        """gpu.nodes is content with iommufd, with which a guest cannot have EGM."""
        os.chmod(self.machine.path("/dev/vfio/20"), 0o600)
        self.fault("gpu.egm.nodes", argv=["--user", "qemu"], text="may not open /dev/vfio/20",
                   *["usermod -aG kvm qemu"])

    def test_no_group(self):
        self.machine.drop("/dev/vfio/20")
        self.fault("gpu.egm.nodes", "CONFIG_VFIO_GROUP", text="iommufd cannot map EGM")

    def test_no_container(self):
        self.machine.config_is([o for o in CONFIG if o != "VFIO_CONTAINER"] +
                               ["IOMMUFD_VFIO_CONTAINER"])
        self.fault("gpu.egm.container", "CONFIG_VFIO_CONTAINER", text="iommufd maps no memory of a "
                   "character device")

    def test_options_are_unknown(self):
        for name in self.machine.list("/boot"):
            self.machine.drop("/boot/" + name)
        self.cannot_tell("gpu.egm.container", "a guest on EGM needs CONFIG_VFIO_CONTAINER")
