# SPDX-License-Identifier: GPL-2.0-only
"""nvgrace-gpu list, bind and unbind: which files they write, in which order, and what is there
afterwards."""

import errno
import json
import os
import re
import shutil
import subprocess

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
            "%s/driver/unbind <- %s" % (GPU, GPU), *BIND])
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
        self.assertEqual(status, 0, err)
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
        self.assertIn(" && cat > /etc/udev/rules.d/60-nvgrace-gpu-%s.rules << 'END'\n" % GPU, out)

    def test_dry_run_needs_no_root(self):
        self.machine.add_gpu(GPU, driver=None)
        self.machine.become("me")
        status, out, err = self.tool("bind", "-n", GPU)
        self.assertEqual((status, err), (
            0, GPU + ": only root sees whether the process of another user has it open\n"))
        self.assertIn("/bind\n", out)
        self.assertIn("only root", self.refused("bind", GPU))
        self.assertIn("only root", self.refused("unbind", GPU))

    def tree(self):
        return sorted((top, name, os.path.getmtime(os.path.join(top, name)))
                      for top, dirs, files in os.walk(self.machine.root)
                      for name in files if name != "writes")

    def test_in_use(self):
        """A GPU that is refused is not touched, and the others are bound."""
        self.machine.add_gpu(GPU, driver="vfio-pci")
        self.machine.add_gpu(OTHER, driver=None)
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/20")
        err = self.refused("bind")
        self.assertIn("in use by 4711 (qemu-system-aar)", err)
        self.assertIn("bound to nvgrace_gpu: %s\n" % OTHER, err)
        self.assertEqual(self.machine.writes(), [w.replace(GPU, OTHER) for w in BIND])

    def test_in_use_with_dry_run(self):
        """It warns, and prints the writes all the same."""
        self.machine.add_gpu(GPU, driver="vfio-pci")
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/20")
        status, out, err = self.tool("bind", "-n")
        self.assertEqual(status, 0)
        self.assertIn("warning: %s is in use by 4711 (qemu-system-aar)" % GPU, err)
        self.assertIn("echo %s > /sys/bus/pci/drivers/nvgrace_gpu/bind" % GPU, out)

    def test_mapped(self):
        """A process that closed the node after it had mapped it holds the GPU, too."""
        self.machine.add_gpu(GPU, driver="vfio-pci")
        self.machine.put("/proc/4711/comm", "dpdk")
        self.machine.put("/proc/4711/maps", "ffff00000000-ffff00001000 rw-s 0 00:05 9    "
                         "/dev/vfio/devices/vfio0")
        self.assertIn("in use by 4711 (dpdk)", self.refused("bind"))

    def test_unbind_in_use(self):
        self.machine.add_gpu(GPU)
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/devices/vfio0")
        self.assertIn("in use by 4711", self.refused("unbind"))
        self.assertEqual(self.machine.writes(), [])

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
                      self.machine.read("/etc/udev/rules.d/60-nvgrace-gpu-%s.rules" % GPU))
        self.output("unbind")
        self.assertEqual(self.driver(), (None, None))


class Persist(Case):
    OPERATORS = "/etc/udev/rules.d/60-nvgrace-gpu.rules"

    def setUp(self):
        super().setUp()
        for bdf in (GPU, OTHER):
            self.machine.add_gpu(bdf, driver=None)
            self.machine.drop(self.file(bdf))
        self.machine.put(self.OPERATORS, "# an operator's own line")

    @staticmethod
    def file(bdf):
        return "/etc/udev/rules.d/60-nvgrace-gpu-%s.rules" % bdf

    def rules(self, bdf=GPU):
        return self.machine.read_or(self.file(bdf))

    def test_written_and_removed(self):
        self.assertIn("after a reboot %s binds again: %s\n" % (GPU, self.file(GPU)),
                      self.output("bind", "--persist"))
        self.assertEqual([self.rules(bdf).count("ACTION==") for bdf in (GPU, OTHER)], [2, 2])
        self.assertIn("udevadm control --reload", self.machine.writes())
        self.output("unbind", "--persist", GPU)
        self.assertIsNone(self.rules(GPU))
        self.assertIn("ACTION", self.rules(OTHER))
        self.assertEqual(self.machine.read(self.OPERATORS), "# an operator's own line")

    def test_everybody_may_read_it(self):
        self.addCleanup(os.umask, os.umask(0o077))
        self.output("bind", "--persist", GPU)
        self.assertEqual(os.stat(self.machine.path(self.file(GPU))).st_mode & 0o777, 0o644)

    def test_unbind_of_a_gpu_in_use(self):
        """The rule goes, the GPU stays with the guest that has it."""
        self.output("bind", "--persist")
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/20")
        self.assertIn("in use by 4711", self.refused("unbind", "--persist"))
        self.assertEqual((self.rules(GPU), self.rules(OTHER)), (None, None))
        self.assertEqual(Gpu(self.machine, GPU).driver, "nvgrace_gpu")

    def test_unbind_of_a_gpu_that_is_gone(self):
        for argv in ([GPU], []):
            self.output("bind", "--persist", GPU)
            self.machine.remove("/sys/bus/pci/devices/" + GPU)
            self.assertIn("%s: the udev rule is removed" % GPU,
                          self.output("unbind", "--persist", *argv))
            self.assertIsNone(self.rules())
            self.machine.add_gpu(GPU, driver=None)
        self.machine.remove("/sys/bus/pci/devices/" + GPU)
        self.machine.remove(self.file(GPU))
        self.assertIn("there is no PCI function", self.refused("unbind", "--persist", GPU))

    def test_those_that_are_bound_are_persisted(self):
        self.machine.refuse[GPU, "nvgrace_gpu"] = (errno.EBUSY, None)
        self.assertIn("bound to nvgrace_gpu: %s\n" % OTHER, self.refused("bind", "--persist"))
        self.assertIsNone(self.rules(GPU))
        self.assertIn(OTHER, self.rules(OTHER))

    def test_read_only_etc(self):
        real = self.machine.save

        def save(name, text):
            if name.startswith("/etc"):
                raise OSError(errno.EROFS, "Read-only file system", self.machine.path(name))
            real(name, text)
        self.machine.save = save
        err = self.refused("bind", "--persist", GPU)
        self.assertIn("--persist: %s: Read-only file system" % self.file(GPU), err)
        self.assertIn("bound to nvgrace_gpu: " + GPU, err)
        self.assertEqual(Gpu(self.machine, GPU).driver, "nvgrace_gpu")

    def test_driverctl(self):
        self.machine.put("/etc/driverctl.d/" + GPU, "vfio-pci")
        err = self.refused("bind", "--persist", GPU)
        self.assertIn("driverctl gives %s to vfio-pci at boot, see /etc/driverctl.d/%s" %
                      (GPU, GPU), err)
        self.assertIn("driverctl unset-override " + GPU, err)
        self.assertEqual(self.machine.writes(), [])
        self.machine.driver("vfio-pci")
        self.output("bind", "--persist", "--driver", "vfio-pci", GPU)
        status, _, err = self.tool("unbind", "--persist", GPU)
        self.assertEqual(status, 0)
        self.assertIn("driverctl gives %s to vfio-pci" % GPU, err)

    def test_ids_of_vfio_pci(self):
        """On the kernel's command line and in modprobe.d; those of others do not matter."""
        for name, text, there in (
                ("/proc/cmdline", "root=/dev/sda vfio-pci.ids=8086:1,10DE:2342 quiet", True),
                ("/etc/modprobe.d/vfio.conf", "options vfio_pci disable_vga=1 ids=10de:2342", True),
                ("/proc/cmdline", "vfio-pci.ids=10de:2941", False)):
            before = self.machine.read_or(name)
            self.machine.put(name, text)
            status, _, err = self.tool("bind", "--persist", GPU)
            self.assertEqual(status, 0)
            self.assertEqual("vfio-pci takes 10de:2342 when it loads, by ids= in %s; the udev rule "
                             "gives it to nvgrace_gpu" % name in err, there)
            self.tool("unbind", "--persist", GPU)
            self.machine.put(name, before or "")

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

    def test_unbind_alone_keeps_it(self):
        self.output("bind", "--persist")
        rules = self.rules()
        self.output("unbind")
        self.assertEqual(self.rules(), rules)

    def test_each_nvidia_function_sets_the_override(self):
        """The one that udev sees first may load NVIDIA's driver, which then looks at all GPUs."""
        self.output("bind", "--persist", GPU)
        rule = self.rules().splitlines()[-2]
        self.assertEqual(rule, 'ACTION=="add", SUBSYSTEM=="pci", ATTR{vendor}=="0x10de", '
                         'TEST=="[pci/%s]driver_override", '
                         'ATTR{[pci/%s]driver_override}="nvgrace_gpu"' % (GPU, GPU))

    def test_rule_sets_loads_and_probes(self):
        """All three, and in this order: udev assigns ATTR before it runs RUN, in turn."""
        self.output("bind", "--persist", GPU)
        rule = self.rules().splitlines()[-1]
        self.assertRegex(rule, r'^ACTION=="add", SUBSYSTEM=="pci", KERNEL=="%s", '
                         r'ATTR\{driver_override\}="nvgrace_gpu", '
                         r'RUN\{builtin\}\+="kmod load nvgrace_gpu", RUN\+="/bin/sh -c ' % GPU)
        # udev takes $ and % for its own.
        self.assertNotRegex(rule, "[$%]")

    def test_udev_reads_the_rule(self):
        if not shutil.which("udevadm"):
            self.skipTest("udevadm is not installed")
        self.output("bind", "--persist", GPU)
        done = subprocess.run(["udevadm", "verify", self.machine.path(self.file(GPU))],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              universal_newlines=True)
        if "Unknown operation" in done.stdout or "Unknown command" in done.stdout:
            self.skipTest("this udevadm has no verify")
        self.assertEqual(done.returncode, 0, done.stdout)

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
            os.symlink(device, "%s/%s" % (target, GPU))
        os.makedirs(root + "/dev")
        command = re.sub("/(sys|dev)/", root + r"/\1/", command)
        subprocess.run(["sh", "-ec", command], check=True)
        written = []
        for name in ("sys/bus/pci/devices/%s/driver/unbind" % GPU, "sys/bus/pci/drivers_probe",
                     "dev/kmsg"):
            path = root + "/" + name
            if os.path.exists(path):
                with open(path, encoding="utf-8") as f:
                    written.append((name.split("/")[-1], f.read().strip()))
        return written

    def test_command_of_a_free_gpu(self):
        self.assertEqual(self.run_command(None), [("drivers_probe", GPU)])

    def test_command_of_a_gpu_that_another_driver_has(self):
        self.assertEqual(self.run_command("nouveau"),
                         [("unbind", GPU), ("drivers_probe", GPU)])

    def test_command_of_a_gpu_that_nvidias_driver_has(self):
        """No unbind in a worker of udev: the log says why, and check finds that."""
        (name, said), = self.run_command("nvidia")
        self.assertEqual(name, "kmsg")
        # The kernel marks what a program writes: 12 is facility 1, level 4.
        with open(self.machine.path("/dev/kmsg"), "a", encoding="utf-8") as f:
            f.write("12,99,99,-;%s\n" % said)
        _, out, _ = self.tool("check", GPU)
        self.assertIn("fix          gpu.after_reboot: the udev rule came too late at boot", out)

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
