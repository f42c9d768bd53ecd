# SPDX-License-Identifier: GPL-2.0-only
"""nvgrace-gpu list, bind and unbind: which files they write, in which order, and what is there
afterwards."""

import errno
import json
import os
import re
import subprocess
import time

from machine import DROPIN, Case
from nvgrace_gpu.gpu import Gpu

GPU, OTHER = "0009:01:00.0", "0019:01:00.0"
BIND = ["%s/driver_override <- nvgrace_gpu" % GPU, "drivers/nvgrace_gpu/bind <- " + GPU]


class Bind(Case):
    def driver(self, bdf=GPU):
        gpu = Gpu(self.machine, bdf)
        return gpu.driver, gpu.override

    def state(self, bdf=GPU):
        return self.machine.read_or("/run/nvgrace-gpu/" + bdf)

    def test_unbound_gpu(self):
        self.machine.add_gpu(GPU, driver=None)
        out = self.output("bind", GPU)
        self.assertEqual(self.machine.writes(), BIND)
        self.assertEqual(self.driver(), ("nvgrace_gpu", "nvgrace_gpu"))
        self.assertIn("%s: bound to nvgrace_gpu\n" % GPU, out)

    def test_regions_are_printed(self):
        self.machine.add_gpu(GPU, driver=None)
        self.assertIn("usemem is BAR4: 93.5 GiB backed of 128 GiB", self.output("bind", GPU))

    def test_module_is_loaded(self):
        self.machine.add_gpu(GPU, driver=None)
        self.machine.drop("/sys/bus/pci/drivers/nvgrace_gpu")
        self.output("bind")
        self.assertEqual(self.machine.writes(), ["modprobe nvgrace_gpu", *BIND])

    def test_module_is_missing(self):
        self.machine.add_gpu(GPU, driver="vfio-pci")
        self.machine.drop("/sys/bus/pci/drivers/nvgrace_gpu")
        self.machine.missing.add("nvgrace_gpu")
        self.assertIn("Module nvgrace_gpu not found", self.refused("bind"))
        self.assertEqual(self.driver(), ("vfio-pci", None))

    def test_saves_and_restores(self):
        self.machine.add_gpu(GPU, driver="nvidia")
        self.output("bind", GPU)
        self.assertEqual(self.state(), "driver=nvidia\ndriver_override=")
        self.assertEqual(self.machine.writes(), [
            BIND[0], "%s/driver/unbind <- %s" % (GPU, GPU), BIND[1]])
        self.assertIn("nvidia has it, as before", self.output("unbind", GPU))
        self.assertEqual(self.machine.writes(), [
            "%s/driver_override <- " % GPU, "%s/driver/unbind <- %s" % (GPU, GPU),
            "drivers/nvidia/bind <- " + GPU])
        self.assertEqual(self.driver(), ("nvidia", None))
        self.assertIsNone(self.state())

    def test_restores_the_override(self):
        self.machine.add_gpu(GPU, driver="vfio-pci")
        self.machine.put("/sys/bus/pci/devices/%s/driver_override" % GPU, "vfio-pci")
        self.output("bind", GPU)
        self.output("unbind", GPU)
        self.assertEqual(self.driver(), ("vfio-pci", "vfio-pci"))

    def test_restores_nothing(self):
        self.machine.add_gpu(GPU, driver=None)
        self.output("bind", GPU)
        self.assertIn("no driver has it", self.output("unbind", GPU))
        self.assertEqual(self.driver(), (None, None))

    def test_driver_from_before_is_gone(self):
        self.machine.add_gpu(GPU, driver="nvidia")
        self.output("bind", GPU)
        self.machine.drop("/sys/bus/pci/drivers/nvidia")
        status, _, err = self.tool("unbind", GPU)
        self.assertEqual(status, 0)
        self.assertIn("nvidia had it before, and is not loaded", err)
        self.assertEqual(self.driver(), (None, None))

    def test_twice(self):
        self.machine.add_gpu(GPU, driver="nvidia")
        self.output("bind", GPU)
        self.assertIn("already", self.output("bind", GPU))
        self.output("unbind", GPU)
        self.assertEqual(self.driver(), ("nvidia", None))
        self.machine.writes()
        self.assertIn("nothing to do", self.output("unbind", GPU))
        self.assertEqual(self.machine.writes(), [])

    def test_all_by_default(self):
        self.machine.add_gpu(GPU, driver=None)
        self.machine.add_gpu(OTHER, driver="vfio-pci")
        self.machine.put("/sys/bus/pci/devices/0001:00:00.0/vendor", "0x8086")
        self.machine.put("/sys/bus/pci/devices/0001:00:00.0/device", "0x2342")
        self.output("bind")
        self.assertEqual([self.driver(b)[0] for b in (GPU, OTHER)], ["nvgrace_gpu"] * 2)
        self.output("unbind")
        self.assertEqual([self.driver(b)[0] for b in (GPU, OTHER)], [None, "vfio-pci"])

    def test_dry_run_writes_nothing(self):
        self.machine.add_gpu(GPU, driver="vfio-pci")
        before = self.tree()
        out = self.output("bind", "--dry-run", "--persist", GPU)
        self.assertEqual(self.tree(), before)
        writes = [line.replace("/sys/bus/pci/devices/", "") for line in out.splitlines()
                  if line.startswith("echo ")]
        self.assertEqual(writes, [
            "echo nvgrace_gpu > %s/driver_override" % GPU,
            "echo %s > %s/driver/unbind" % (GPU, GPU),
            "echo %s > /sys/bus/pci/drivers/nvgrace_gpu/bind" % GPU])
        self.assertIn(" && cat > /etc/udev/rules.d/60-nvgrace-gpu.rules << 'END'\n", out)

    def test_dry_run_needs_no_root(self):
        self.machine.add_gpu(GPU, driver=None)
        self.machine.become("me")
        self.assertIn("bind", self.output("bind", "-n", GPU))
        self.assertIn("only root", self.refused("bind", GPU))
        self.assertIn("only root", self.refused("unbind", GPU))

    def tree(self):
        return sorted((top, name, os.path.getmtime(os.path.join(top, name)))
                      for top, dirs, files in os.walk(self.machine.root)
                      for name in files if name != "writes")

    def test_in_use(self):
        self.machine.add_gpu(GPU, driver="vfio-pci")
        self.machine.add_gpu(OTHER, driver=None)
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/20")
        self.assertIn("in use by 4711 (qemu-system-aar)", self.refused("bind"))
        self.assertEqual(self.machine.writes(), [])

    def test_unbind_in_use(self):
        self.machine.add_gpu(GPU)
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/devices/vfio0")
        self.assertIn("in use by 4711", self.refused("unbind"))
        self.assertEqual(self.machine.writes(), [])

    def test_nvidias_driver_in_use(self):
        self.machine.add_gpu(GPU, driver="nvidia")
        self.machine.opened(99, "nvidia-persiste", "/dev/nvidia0")
        self.assertIn("in use by 99 (nvidia-persiste)", self.refused("bind"))

    def test_failure_restores(self):
        """The driver refuses it: what was there before is there again, with the reason."""
        self.machine.add_gpu(GPU, driver="vfio-pci")
        self.machine.refuse[GPU, "nvgrace_gpu"] = (
            errno.ENOLINK, "error -ENOLINK: BAR0+0x1498 (C2C link) reads 0x5, a failure code: "
            "the link did not come up")
        err = self.refused("bind", GPU)
        self.assertIn("does not bind: Link has been severed", err)
        self.assertIn("reads 0x5, a failure code", err)
        self.assertIn("shut the host down", err)
        self.assertEqual(self.driver(), ("vfio-pci", None))
        self.assertIsNone(self.state())

    def test_one_fails_the_other_binds(self):
        self.machine.add_gpu(GPU, driver=None)
        self.machine.add_gpu(OTHER, driver=None)
        self.machine.refuse[GPU, "nvgrace_gpu"] = (errno.EBUSY, None)
        self.assertIn("Device or resource busy", self.refused("bind"))
        self.assertEqual(self.driver(GPU), (None, None))
        self.assertEqual(self.driver(OTHER)[0], "nvgrace_gpu")

    def test_link_is_read_back(self):
        """A write that succeeds and binds nothing is a failure."""
        self.machine.add_gpu(GPU, driver=None)
        self.machine.bind = lambda bdf, driver: None
        self.assertIn("the driver link is not there", self.refused("bind", GPU))
        self.assertEqual(self.driver(), (None, None))

    def test_no_iommu_group(self):
        self.machine.add_gpu(GPU, driver=None)
        self.machine.remove("/sys/bus/pci/devices/%s/iommu_group" % GPU)
        self.assertIn("switch the SMMU on", self.refused("bind"))
        self.assertEqual(self.machine.writes(), [])

    def test_counter_while_training(self):
        self.machine.add_gpu(GPU, driver=None)
        self.machine.delay = 1.3
        status, _, err = self.tool("bind", GPU)
        self.assertEqual(status, 0)
        # On a busy machine there are more lines than this one.
        self.assertIn("%s: nvgrace_gpu: 1 s of 30, the GPU trains its memory\n" % GPU, err)

    def test_interrupted(self):
        self.machine.add_gpu(GPU, driver="vfio-pci")
        self.machine.delay = 60
        real, start = time.sleep, time.monotonic()

        def interrupt(seconds):
            if time.monotonic() - start > 0.3 and seconds < 1:
                time.sleep = real
                self.machine.delay = 0
                raise KeyboardInterrupt
            real(seconds)

        time.sleep = interrupt
        self.addCleanup(setattr, time, "sleep", real)
        self.assertIn("interrupted", self.refused("bind", GPU))
        self.assertLess(time.monotonic() - start, 10)
        self.assertEqual(self.driver(), ("vfio-pci", None))

    def test_wrong_names(self):
        self.machine.add_gpu(GPU)
        self.machine.put("/sys/bus/pci/devices/0000:00:01.0/vendor", "0x1234")
        self.machine.put("/sys/bus/pci/devices/0000:00:01.0/device", "0x1111")
        for name, text in (("gpu0", "is not a PCI address"), ("0009:02:00.0", "there is no PCI"),
                           ("00:01.0", "1234:1111, which is not a GPU")):
            self.assertIn(text, self.refused("bind", name))
        self.assertIn("named twice", self.refused("bind", GPU, GPU))

    def test_any_id(self):
        self.machine.add_gpu(GPU, driver=None)
        self.machine.put("/sys/bus/pci/devices/%s/device" % GPU, "0x9999")
        self.assertIn("--any-id", self.refused("bind", GPU))
        self.output("bind", "--any-id", GPU)
        self.assertEqual(self.driver()[0], "nvgrace_gpu")

    def test_no_gpu(self):
        self.assertIn("lspci -D -d 10de:", self.refused("bind"))

    def test_other_driver(self):
        self.machine.add_gpu(GPU, driver=None)
        self.output("bind", "--driver", "nvgrace_gpu_vfio_pci", GPU)
        self.assertEqual(self.driver()[0], "nvgrace_gpu_vfio_pci")


    def test_dropin(self):
        """A build with DROPIN=1 is the driver where it alone is installed."""
        self.machine.add_gpu(GPU, driver=None)
        self.machine.dropin()
        self.machine.drop("/sys/bus/pci/drivers/" + DROPIN)
        self.machine.drop("/sys/module/" + DROPIN)
        self.output("bind")
        self.assertEqual(self.machine.writes(),
                         ["modprobe " + DROPIN, *(w.replace("nvgrace_gpu", DROPIN) for w in BIND)])
        self.assertIn(DROPIN, self.output("bind", "--persist"))
        self.assertIn("kmod load " + DROPIN,
                      self.machine.read("/etc/udev/rules.d/60-nvgrace-gpu.rules"))
        self.output("unbind")
        self.assertEqual(self.driver(), (None, None))


class Persist(Case):
    RULES = "/etc/udev/rules.d/60-nvgrace-gpu.rules"

    def setUp(self):
        super().setUp()
        self.machine.add_gpu(GPU, driver=None)
        self.machine.add_gpu(OTHER, driver=None)
        self.machine.put(self.RULES, "# an operator's own line")

    def rules(self):
        return self.machine.read_or(self.RULES, "")

    def test_written_and_removed(self):
        self.output("bind", "--persist")
        self.assertEqual(self.rules().count("ACTION=="), 2)
        self.assertIn("udevadm control --reload", self.machine.writes())
        self.output("unbind", "--persist", GPU)
        self.assertNotIn(GPU, self.rules())
        self.assertIn(OTHER, self.rules())
        self.assertIn("operator's own", self.rules())

    def test_without_udev(self):
        self.machine.missing.add("udevadm")
        self.machine.drop("/usr/bin/udevadm")
        status, _, err = self.tool("bind", "--persist", GPU)
        self.assertEqual(status, 0)
        self.assertIn("udev does not run now (udevadm is not installed)", err)

    def test_udev_does_not_run(self):
        self.machine.missing.add("udevadm")
        self.machine.executable("udevadm", "echo Failed to send reload request; exit 1")
        status, _, err = self.tool("bind", "--persist", GPU)
        self.assertEqual(status, 0)
        self.assertIn("Failed to send reload request", err)

    def test_again_is_the_same(self):
        self.output("bind", "--persist", GPU)
        once = self.rules()
        self.output("bind", "--persist", GPU)
        self.assertEqual(self.rules(), once)

    def test_file_goes_with_the_last_rule(self):
        self.machine.drop(self.RULES)
        self.output("bind", "--persist")
        self.output("unbind", "--persist")
        self.assertFalse(self.machine.exists(self.RULES))

    def test_unbind_alone_keeps_it(self):
        self.output("bind", "--persist")
        rules = self.rules()
        self.output("unbind")
        self.assertEqual(self.rules(), rules)

    def test_rule_sets_loads_and_probes(self):
        """All three, and in this order: udev assigns ATTR before it runs RUN, in turn."""
        self.output("bind", "--persist", GPU)
        rule = self.rules().splitlines()[-1]
        self.assertRegex(rule, r'^ACTION=="add", SUBSYSTEM=="pci", KERNEL=="%s", '
                         r'ATTR\{driver_override\}="nvgrace_gpu", '
                         r'RUN\{builtin\}\+="kmod load nvgrace_gpu", RUN\+="/bin/sh -c ' % GPU)
        # udev takes $ and % for its own.
        self.assertNotRegex(rule, "[$%]")

    def run_command(self, driver):
        """Run the command of the rule with a real shell, in a tree; return what it wrote."""
        self.output("bind", "--persist", GPU)
        command = re.search(r"sh -c '(.*)'", self.rules()).group(1)
        root = self.machine.path("/boot2")
        device = root + "/sys/bus/pci/devices/" + GPU
        os.makedirs(device)
        if driver:
            target = root + "/sys/bus/pci/drivers/" + driver
            os.makedirs("%s/module/drivers/pci:%s" % (target, driver))
            os.symlink(target, device + "/driver")
        subprocess.run(["sh", "-ec", command.replace("/sys/", root + "/sys/")], check=True)
        written = []
        for name in ("devices/%s/driver/unbind" % GPU, "drivers_probe"):
            path = root + "/sys/bus/pci/" + name
            if os.path.exists(path):
                with open(path, encoding="utf-8") as f:
                    written.append((name.split("/")[-1], f.read().strip()))
        return written

    def test_command_of_a_free_gpu(self):
        self.assertEqual(self.run_command(None), [("drivers_probe", GPU)])

    def test_command_of_a_gpu_that_another_driver_has(self):
        self.assertEqual(self.run_command("nouveau"),
                         [("unbind", GPU), ("drivers_probe", GPU)])

    def test_command_of_a_bound_gpu(self):
        self.assertEqual(self.run_command("nvgrace_gpu"), [("drivers_probe", GPU)])


class List(Case):
    def test_bound(self):
        self.machine.add_gpu(GPU)
        out = self.output("list")
        self.assertEqual(out.splitlines(), [
            GPU + "  GH200 (10de:2342)  socket 0  group 20  driver nvgrace_gpu",
            "  usemem BAR4  0x420000000000-0x42175fffffff  93.5 GiB backed of 128 GiB",
            "  resmem BAR2  0x421760000000-0x4217dfffffff  2 GiB backed of 2 GiB",
            "  state: ready c2c_link=0xff hbm_training=0xff  poisoned_pages: 0  resets: 1  "
            "handover: none"])

    def test_base_in_sysfs_is_for_root(self):
        self.machine.add_gpu(GPU)
        read = self.machine.read

        def refuse(name):
            if name.endswith("_base"):
                raise PermissionError(errno.EACCES, "Permission denied", name)
            return read(name)
        self.machine.read = refuse
        self.assertIn("  usemem BAR4  address for root only  93.5 GiB backed of 128 GiB",
                      self.output("list"))

    def test_unbound(self):
        self.machine.add_gpu("0019:01:00.0", "GB200", driver=None)
        self.assertIn("socket 1  group 20  driver none\n  not bound; firmware names 186 GiB at 0x",
                      self.output("list"))

    def test_cannot_tell(self):
        self.machine.add_gpu(GPU)
        self.machine.intree(GPU)
        self.assertIn("cannot tell the memory: its driver has no files in /sys/bus/pci/devices/",
                      self.output("list"))

    def test_users(self):
        self.machine.add_gpu(GPU)
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/20")
        self.assertIn("in use by 4711 (qemu-system-aar)", self.output("list"))

    def test_json(self):
        self.machine.add_gpu(GPU)
        row = json.loads(self.output("list", "--json"))[0]
        self.assertEqual((row["bdf"], row["regions"][0]["bar_size"]), (GPU, 128 << 30))
        self.assertEqual(row["health"]["handover"], "none")

    def test_virtual_functions_are_no_gpus(self):
        self.machine.add_gpu(GPU)
        self.machine.add_gpu(OTHER)
        self.machine.put("/sys/bus/pci/devices/%s/physfn" % OTHER)
        self.assertNotIn(OTHER, self.output("list"))
