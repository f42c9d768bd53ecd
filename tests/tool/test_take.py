# SPDX-License-Identifier: GPL-2.0-only
"""GPUs that others have: who uses them, what NVIDIA's driver does, several at once, signals."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

from machine import TOOL, Case
from nvgrace_gpu import binding, users, writes
from nvgrace_gpu.gpu import Gpu

GPUS = A, B, C, D = "0008:01:00.0", "0009:01:00.0", "0018:01:00.0", "0019:01:00.0"


class Take(Case):
    def add(self, *bdfs, driver="nvidia"):
        for bdf in bdfs:
            self.machine.add_gpu(bdf, driver=driver)
            self.machine.drop("/etc/udev/rules.d/60-nvgrace-gpu-%s.rules" % bdf)

    def drivers(self):
        return {g: Gpu(self.machine, g).driver for g in GPUS
                if self.machine.exists("/sys/bus/pci/devices/" + g)}

    def state(self, bdf=A):
        return self.machine.read_or("/run/nvgrace-gpu/" + bdf)

    def written(self, bdf):
        return [line for line in self.machine.writes() if bdf in line]


class UsersOfNvidia(Take):
    """Each is named with the command that ends it, and nothing is written."""

    def setUp(self):
        super().setUp()
        self.add(*GPUS)
        for bdf in GPUS:
            self.machine.put("/sys/bus/pci/devices/%s/config" % bdf, self.config())

    @staticmethod
    def config(capability=0x05):
        config = bytearray(4096)
        config[6], config[0x34], config[0x60] = 0x10, 0x60, capability
        return bytes(config)

    def in_use(self, bdf, who, cure):
        self.machine.writes()
        err = self.refused("bind", bdf)
        self.assertIn("%s is in use by %s: end that first\n      %s\n" % (bdf, who, cure), err)
        self.assertEqual(self.machine.writes(), [])
        self.assertIsNone(self.state(bdf))
        checks = {(c["name"], c["gpu"]): c for c in
                  json.loads(self.tool("check", "--json")[1])["checks"]}
        result = checks["gpu.users", bdf]
        self.assertEqual(result["status"], "fix")
        self.assertIn("in use by " + who, result["text"])
        self.assertEqual(result["cure"], [cure])

    def started(self, bdf):
        self.machine.put("/sys/bus/pci/devices/%s/msi_irqs/40" % bdf, "msi")

    def test_idle(self):
        self.output("bind")
        self.assertEqual(set(self.drivers().values()), {"nvgrace_gpu"})

    def test_job_on_another_gpu(self):
        """Only the node of its own minor, 2 for the third GPU, is about a GPU."""
        for pid, node in enumerate(("nvidia0", "nvidia20", "nvidiactl", "nvidia-uvm"), 500):
            self.machine.opened(pid, "python3", "/dev/" + node)
        self.output("bind", C)
        self.assertEqual(self.drivers(), {A: "nvidia", B: "nvidia", C: "nvgrace_gpu", D: "nvidia"})
        self.in_use(A, "500 (python3)", "kill 500    # python3")

    def test_minors_are_not_in_the_order_of_addresses(self):
        self.machine.put("/proc/driver/nvidia/gpus/%s/information" % A, "Device Minor: \t 3")
        self.machine.put("/proc/driver/nvidia/gpus/%s/information" % D, "Device Minor: \t 0")
        self.machine.opened(500, "python3", "/dev/nvidia3")
        self.output("bind", D)
        self.in_use(A, "500 (python3)", "kill 500    # python3")

    def test_minor_is_not_known(self):
        self.machine.drop("/proc/driver/nvidia/gpus")
        self.machine.opened(500, "python3", "/dev/nvidia3")
        self.in_use(A, "500 (python3)", "kill 500    # python3")

    def test_node_of_a_driver_container(self):
        self.machine.opened(500, "python3", "/run/nvidia/driver/dev/nvidia0 (deleted)")
        self.in_use(A, "500 (python3)", "kill 500    # python3")

    def test_service(self):
        self.machine.opened(500, "nv-hostengine", "/dev/nvidia0")
        self.machine.put("/proc/500/cgroup", "0::/system.slice/nvidia-dcgm.service")
        self.in_use(A, "500 (nv-hostengine)", "systemctl stop nvidia-dcgm.service")

    def test_persistenced(self):
        """nvidia-smi has it let go of one GPU."""
        self.machine.opened(500, "nvidia-persiste", "/dev/nvidia0")
        self.machine.put("/proc/500/cgroup", "0::/system.slice/nvidia-persistenced.service")
        self.in_use(A, "500 (nvidia-persiste)", "systemctl stop nvidia-persistenced.service")
        self.machine.persistence_mode("Disabled")
        self.in_use(A, "500 (nvidia-persiste)", "nvidia-smi -i %s -pm 0" % A)

    def test_persistence_mode(self):
        self.machine.persistence_mode("Enabled")
        self.started(A)
        self.in_use(A, "persistence mode", "nvidia-smi -i %s -pm 0" % A)
        self.assertEqual(self.machine.read("/nvidia-smi.log").splitlines()[0],
                         "-i %s --query-gpu=persistence_mode --format=csv,noheader" % A)
        self.machine.persistence_mode("Disabled")
        self.machine.drop("/sys/bus/pci/devices/%s/msi_irqs" % A)
        self.output("bind", A)

    def test_modules(self):
        """A GPU that has interrupts and no process is used by a module."""
        self.machine.module("nvidia_uvm", ["nvidia"])
        self.started(A)
        self.in_use(A, "module nvidia_uvm", "rmmod nvidia_uvm")
        self.output("bind", B)

    def test_modules_of_modules(self):
        self.machine.module("nvidia_modeset", ["nvidia"], 1)
        self.machine.module("nvidia_drm", ["nvidia_modeset"], 2)
        self.started(A)
        self.in_use(A, "module nvidia_modeset", "rmmod nvidia_drm nvidia_modeset")

    def test_modules_if_interrupts_do_not_tell(self):
        """No MSI, or none wanted: a module blocks, unless processes have it."""
        for case in ("MSI-X", "none", "NVreg_EnableMSI=0"):
            with self.subTest(case):
                self.machine.put("/sys/bus/pci/devices/%s/config" % A,
                                 self.config({"MSI-X": 0x11, "none": 0x10}.get(case, 5)))
                self.machine.put("/proc/driver/nvidia/params",
                                 "EnableMSI: %d" % (case != "NVreg_EnableMSI=0"))
                self.machine.module("nvidia_peermem", ["nvidia"])
                users_now = Gpu(self.machine, A).users(deep=True)
                self.assertEqual([u.cure for u in users_now],
                                 [] if case == "MSI-X" else ["rmmod nvidia_peermem"])
                self.machine.module("nvidia_peermem", ["nvidia"], 3)
                self.assertEqual(Gpu(self.machine, A).users(deep=True), [])

    def test_neither_process_nor_module(self):
        self.started(A)
        self.in_use(A, "something that has no process and no module",
                    "nvidia-smi -i %s -pm 0" % A)

    def test_idle_gpus_are_not_started(self):
        """nvidia-smi would; check asks it only of a GPU that has interrupts."""
        self.machine.persistence_mode("Disabled")
        self.tool("check")
        self.output("bind", A)
        self.assertFalse(self.machine.exists("/nvidia-smi.log"))

    def test_nvidia_smi_hangs(self):
        self.machine.executable("nvidia-smi", "exec sleep 1000")
        self.started(A)
        real = self.machine.run
        with mock.patch.object(self.machine, "run",
                               lambda *c, timeout=60: real(*c, timeout=min(timeout, 0.2))):
            self.assertIn("no process and no module", self.refused("bind", A))

    def test_wait(self):
        self.machine.opened(500, "python3", "/dev/nvidia0")
        timer = threading.Timer(0.5, self.machine.drop, ["/proc/500"])
        timer.start()
        self.addCleanup(timer.join)
        status, _, err = self.tool_quietly("bind", "--wait", A, B)
        self.assertEqual((status, err), (0, "waiting: %s is in use by 500 (python3)\n" % A))
        self.assertEqual(self.drivers(), {A: "nvgrace_gpu", B: "nvgrace_gpu", C: "nvidia",
                                          D: "nvidia"})

    def test_dry_run_warns(self):
        self.machine.opened(500, "python3", "/dev/nvidia0")
        status, out, err = self.tool("bind", "-n", "--wait", A)
        self.assertEqual(status, 0)
        self.assertIn("warning: %s is in use by 500 (python3)" % A, err)
        self.assertIn("/driver/unbind\n", out)

    def test_only_root_sees_all(self):
        self.machine.become("me")
        self.assertIn("only root sees the processes of other users", self.output("list"))
        _, out, _ = self.tool("check")
        self.assertIn("cannot tell  gpu.users: only root sees", out)


class Stuck(Take):
    """NVIDIA's driver counts a user that the tool did not see."""

    def setUp(self):
        super().setUp()
        self.add(*GPUS)
        # Time flies for what waits.
        real = writes.Child.seconds

        def seconds(child):
            bdf = child.step.name.split("/")[-3]
            waits = "remove device %s with" % bdf in self.machine.read_or("/dev/kmsg", "")
            return 99 if waits and self.machine.exists("/held/" + bdf) else real(child)
        patch = mock.patch.object(writes.Child, "seconds", seconds)
        patch.start()
        self.addCleanup(patch.stop)
        # SIGKILL does not end a task that sleeps in the kernel: here, until nothing is held.
        self.children = []

        def kill(child):
            if child.step.name.endswith("unbind"):
                self.children.append(child.pid)
            else:
                os.kill(child.pid, 9)
        patch = mock.patch.object(writes.Child, "kill", kill)
        patch.start()
        self.addCleanup(self.end_children)
        self.addCleanup(patch.stop)

    def end_children(self):
        for pid in self.children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)

    def test_given_up(self):
        """The others are bound; nothing more is written to the one that is stuck."""
        self.machine.hold(C)
        self.machine.opened(500, "python3", "/dev/nvidia2000")
        err = self.refused("bind")
        self.assertIn("%s: nvidia does not give it up\n  NVRM: Attempting to remove device %s with "
                      "non-zero usage count!\n" % (C, C), err)
        self.assertIn("nvgrace-gpu bind --wait " + C, err)
        self.assertIn("bound to nvgrace_gpu: %s, %s, %s\n" % (A, B, D), err)
        self.assertEqual(self.written(C), ["%s/driver/unbind <- %s" % (C, C)])
        self.assertEqual(self.drivers(), {A: "nvgrace_gpu", B: "nvgrace_gpu", C: None,
                                          D: "nvgrace_gpu"})

    def test_then_it_can_be_bound(self):
        """While it is stuck no command waits for it. Later all goes on from where it was."""
        self.machine.hold(C)
        self.refused("bind", C)
        self.assertIn("nvidia does not give it up", self.refused("bind", C))
        self.assertIn("nvidia does not give it up", self.refused("unbind", C))
        self.output("list")
        _, out, _ = self.tool("check", C)
        self.assertIn("fix          gpu.users: NVIDIA's driver gives it up, and waits", out)
        self.assertIn("cannot tell  gpu.override", out)
        status, out, _ = self.tool("status", C)
        self.assertEqual(status, 1)
        self.assertIn("health bad: NVIDIA's driver gives it up", out)
        self.machine.drop("/held")
        # It says that it waits, if the driver has not let go yet.
        self.assertEqual(self.tool("bind", "--wait", C)[0], 0)
        self.assertEqual(self.drivers()[C], "nvgrace_gpu")
        self.output("unbind", C)
        self.assertEqual(self.drivers()[C], "nvidia")

    def test_all_or_none(self):
        self.machine.hold(C)
        err = self.refused("bind", "--all-or-none", "--persist")
        self.assertIn("bound to nvgrace_gpu: no GPU\n", err)
        self.assertEqual(self.drivers(), {A: "nvidia", B: "nvidia", C: None, D: "nvidia"})
        self.assertEqual([self.state(g) for g in (A, B, D)], [None] * 3)
        self.assertFalse(any("nvgrace" in n for n in self.machine.list("/etc/udev/rules.d")))

    def test_counter(self):
        """A user that ends in time."""
        self.machine.hold(C)
        with mock.patch.object(binding, "GIVE_UP", 100):
            timer = threading.Timer(1.5, self.machine.drop, ["/held"])
            timer.start()
            self.addCleanup(timer.join)
            status, _, err = self.tool("bind", C)
        self.assertEqual(status, 0, err)
        self.assertIn("%s: nvidia gives it up: 99 s of 100\n" % C, err)


class Several(Take):
    def test_at_once(self):
        """Four GPUs that train take about as long as one."""
        self.add(*GPUS, driver=None)
        self.machine.delay = 3
        status, _, err = self.tool("bind")
        self.assertEqual(status, 0, err)
        self.assertEqual(set(self.drivers().values()), {"nvgrace_gpu"})
        self.assertIn("%s: nvgrace_gpu: 2 s of 30, the GPU trains its memory\n" % ", ".join(GPUS),
                      err)

    def test_all_or_none(self):
        """One that fails: the others get back what they had, state and all."""
        self.add(A, B)
        self.add(C, driver="vfio-pci")
        self.machine.refuse[B, "nvgrace_gpu"] = (
            errno.EBUSY, "error -EBUSY: BAR0: [mem 0x1-0x2] is in use, see /proc/iomem")
        self.machine.put("/run/nvgrace-gpu/" + C, "driver=nouveau\ndriver_override=")
        err = self.refused("bind", "--all-or-none")
        self.assertIn("error -EBUSY: BAR0", err)
        self.assertIn("bound to nvgrace_gpu: no GPU\n", err)
        self.assertEqual(self.drivers(), {A: "nvidia", B: "nvidia", C: "vfio-pci"})
        self.assertEqual([Gpu(self.machine, g).override for g in (A, B, C)], [None] * 3)
        self.assertEqual([self.state(g) for g in (A, B, C)],
                         [None, None, "driver=nouveau\ndriver_override="])

    def test_all_or_none_before_the_first_write(self):
        self.add(A, B)
        self.machine.opened(500, "python3", "/dev/nvidia1")
        self.assertIn("no GPU was bound, because of --all-or-none",
                      self.refused("bind", "--all-or-none"))
        self.assertEqual(self.machine.writes(), [])

    def test_all_and_not_none(self):
        self.add(A, B)
        self.output("bind", "--all-or-none")
        self.assertEqual(self.drivers(), {A: "nvgrace_gpu", B: "nvgrace_gpu"})

    def test_read_only(self):
        """An error of the tool's own files is about one GPU, and the next is tried."""
        self.add(A, B)
        save = self.machine.save

        def refuse(name, text):
            if name == "/run/nvgrace-gpu/" + A:
                raise OSError(errno.EROFS, "Read-only file system", self.machine.path(name))
            save(name, text)
        self.machine.save = refuse
        err = self.refused("bind")
        self.assertIn("%s: /run/nvgrace-gpu/%s: Read-only file system" % (A, A), err)
        self.assertIn("bound to nvgrace_gpu: " + B, err)
        self.assertEqual(self.drivers(), {A: "nvidia", B: "nvgrace_gpu"})

    def test_read_only_sysfs(self):
        """Nothing was changed, so nothing is said of what could not be restored."""
        self.add(A, B)

        def refuse(name, _):
            raise OSError(errno.EROFS, "Read-only file system", self.machine.path(name))
        self.machine.write = refuse
        err = self.refused("bind")
        for bdf in (A, B):
            self.assertIn("%s: nvgrace_gpu does not bind: Read-only file system\n" % bdf, err)
        self.assertEqual((self.state(A), self.state(B)), (None, None))


class ComesBack(Take):
    def test_ram_that_nvidias_driver_left(self):
        self.add(A)
        self.machine.refuse[A, "nvgrace_gpu"] = (
            errno.EBUSY, "error -EBUSY: nvidia,gpu-mem-base-pa: 0x1 + nvidia,gpu-mem-size 0x1 "
            "overlaps System RAM")
        self.assertIn("NVIDIA's driver left its RAM behind", self.refused("bind"))

    def test_ram_that_another_driver_left(self):
        self.add(A, driver="vfio-pci")
        self.machine.refuse[A, "nvgrace_gpu"] = (
            errno.EBUSY, "error -EBUSY: nvidia,gpu-mem-base-pa: 0x1 + nvidia,gpu-mem-size 0x1 "
            "overlaps System RAM")
        err = self.refused("bind")
        self.assertIn("nvgrace-gpu check " + A, err)
        self.assertNotIn("left its RAM behind", err)

    def test_first_state_is_kept(self):
        self.add(A)
        self.machine.driver("vfio-pci")
        self.output("bind")
        self.output("bind", "--driver", "vfio-pci")
        self.assertEqual(self.drivers()[A], "vfio-pci")
        self.output("unbind")
        self.assertEqual((self.drivers()[A], Gpu(self.machine, A).override), ("nvidia", None))
        self.assertIn("nothing to do", self.output("unbind", A))
        self.assertEqual(self.drivers()[A], "nvidia")

    def test_second_bind_fails(self):
        """It gives back the first one's driver, and keeps its state."""
        self.add(A)
        self.machine.driver("vfio-pci")
        self.output("bind")
        self.machine.refuse[A, "vfio-pci"] = (errno.EBUSY, None)
        self.refused("bind", "--driver", "vfio-pci")
        self.assertEqual(self.drivers()[A], "nvgrace_gpu")
        self.assertEqual(self.state(), "driver=nvidia\ndriver_override=")

    def test_given_back_by_hand(self):
        """Then what was saved is old: the next bind saves again, unbind only forgets."""
        self.add(A, driver="vfio-pci")
        self.output("bind")
        self.by_hand(A)
        self.output("bind")
        self.assertEqual(self.state(), "driver=nvidia\ndriver_override=nvgrace_gpu")
        self.by_hand(A)
        self.machine.opened(500, "python3", "/dev/nvidia0")
        self.output("unbind")
        self.assertEqual((self.drivers()[A], self.state()), ("nvidia", None))

    def by_hand(self, bdf):
        self.machine.bound(bdf, "nvidia")
        self.machine.add_to_nvidia(bdf)

    def test_after_a_reboot(self):
        """The rule bound it, so nothing is saved: the kernel looks for a driver."""
        for loaded in (True, False):
            with self.subTest(loaded):
                self.add(A, driver="nvgrace_gpu")
                if self.machine.exists("/proc/driver/nvidia"):
                    self.machine.drop("/proc/driver/nvidia")
                self.machine.put("/sys/bus/pci/devices/%s/driver_override" % A, "nvgrace_gpu")
                if loaded:
                    self.machine.driver("nvidia")
                else:
                    self.machine.drop("/sys/bus/pci/drivers/nvidia")
                self.machine.writes()
                out = self.output("unbind", A)
                self.assertIn("unbound; nvidia has it\n" if loaded else "no driver has it", out)
                self.assertIn("drivers_probe <- " + A, self.machine.writes())
                self.assertEqual(self.drivers()[A], "nvidia" if loaded else None)

    def test_driver_that_does_not_take_it_back(self):
        self.add(A)
        self.output("bind")
        self.machine.refuse[A, "nvidia"] = (errno.EIO, None)
        self.assertIn("%s: nvidia does not get it back: Input/output error" % A,
                      self.refused("unbind"))

    def test_nor_after_a_failure(self):
        self.add(A)
        self.machine.refuse[A, "nvgrace_gpu"] = (errno.EBUSY, None)
        self.machine.refuse[A, "nvidia"] = (errno.EIO, None)
        self.assertIn("and what was there before could not be restored: /sys/bus/pci/drivers/nvidia"
                      "/bind: Input/output error", self.refused("bind"))


class Signals(Take):
    """A real process, of which each write to a pipe in place of bind waits."""

    def setUp(self):
        super().setUp()
        self.add(A, B, driver="vfio-pci")
        self.pipe("/sys/bus/pci/drivers/nvgrace_gpu/bind")

    def pipe(self, name):
        self.machine.remove(name)
        os.mkfifo(self.machine.path(name))

    def run_it(self, number, *argv, lines=1):
        """Send a signal to the process and its children once it counts; twice."""
        done = subprocess.Popen([sys.executable, TOOL, "--root", self.machine.root, *argv],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                universal_newlines=True, start_new_session=True)
        said = "".join(done.stderr.readline() for _ in range(lines))
        os.killpg(done.pid, number)
        os.killpg(done.pid, number)
        out, err = done.communicate(timeout=60)
        with self.assertRaises(ProcessLookupError):
            os.killpg(done.pid, 0)    # no child is left
        return done.returncode, out, said + err

    def as_before(self):
        for bdf in (A, B):
            # A plain file has what was written before behind the empty line.
            self.assertEqual(self.machine.read_bytes(
                "/sys/bus/pci/devices/%s/driver_override" % bdf, 1), b"\n")
            self.assertIsNone(self.state(bdf))
        self.assertFalse(any("nvgrace" in n for n in self.machine.list("/etc/udev/rules.d")))

    def test_bind(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number):
                for bdf in (A, B):
                    self.machine.put("/sys/bus/pci/devices/%s/driver_override" % bdf, "(null)")
                    self.machine.remove("/sys/bus/pci/devices/%s/driver" % bdf)
                status, _, err = self.run_it(number, "bind", "--persist")
                self.assertEqual(status, 128 + number, err)
                self.assertIn("%s: interrupted, and is as before\n" % A, err)
                self.assertIn("%s: interrupted, and is as before\n" % B, err)
                self.as_before()

    def test_wait(self):
        self.machine.opened(500, "qemu", "/dev/vfio/20")
        status, _, err = self.run_it(signal.SIGINT, "bind", "--wait")
        self.assertEqual((status, err), (130, "waiting: %s is in use by 500 (qemu)\n" % A))
        self.assertFalse(self.machine.exists("/run/nvgrace-gpu"))

    def test_those_that_are_bound_come_back(self):
        """In this process, where one GPU is bound when the signal comes."""
        self.machine.remove("/sys/bus/pci/drivers/nvgrace_gpu/bind")
        self.machine.put("/sys/bus/pci/drivers/nvgrace_gpu/bind")
        real = self.machine.bind

        def bind(bdf, driver):
            if (bdf, driver) == (B, "nvgrace_gpu"):
                while not Gpu(self.machine, A).files():
                    time.sleep(0.01)
                os.kill(os.getppid(), signal.SIGINT)
                time.sleep(60)
            real(bdf, driver)
        self.machine.bind = bind
        with self.assertRaises(KeyboardInterrupt) as caught:
            self.tool("bind", "--persist")
        self.assertEqual(caught.exception.args, (signal.SIGINT,))
        self.assertEqual(self.drivers(), {A: "vfio-pci", B: "vfio-pci"})
        self.assertEqual([Gpu(self.machine, g).override for g in (A, B)], [None, None])
        self.as_before_in_run()

    def as_before_in_run(self):
        self.assertEqual((self.state(A), self.state(B)), (None, None))
        self.assertFalse(any("nvgrace" in n for n in self.machine.list("/etc/udev/rules.d")))

    def test_unbind(self):
        """The GPU stays with the driver that had it."""
        self.machine.remove("/sys/bus/pci/drivers/nvgrace_gpu/bind")
        self.machine.put("/sys/bus/pci/drivers/nvgrace_gpu/bind")
        self.output("bind", A)
        real = self.machine.bind

        def bind(bdf, driver):
            if driver == "vfio-pci":
                os.kill(os.getppid(), signal.SIGTERM)
                time.sleep(60)
            real(bdf, driver)
        self.machine.bind = bind
        with self.assertRaises(KeyboardInterrupt) as caught:
            self.tool("unbind", A)
        self.assertEqual(caught.exception.args, (signal.SIGTERM,))
        self.assertEqual(self.drivers()[A], "nvgrace_gpu")
        self.assertEqual(self.state(), "driver=vfio-pci\ndriver_override=")

    def test_handlers_are_as_before(self):
        before = signal.getsignal(signal.SIGTERM)
        self.output("bind", "--driver", "pci-stub")
        self.assertEqual(signal.getsignal(signal.SIGTERM), before)


class Status(Case):
    def setUp(self):
        super().setUp()
        self.gpu = self.machine.add_gpu(A)
        # Neither root nor a read that may wake a GPU.
        self.machine.become("me")
        for name in ("run", "read_bytes", "vfio_bars", "log"):
            setattr(self.machine, name, None)

    def attr(self, name, value):
        self.machine.put("/sys/bus/pci/devices/%s/nvgrace_gpu/%s" % (A, name), value)

    def status(self, *argv):
        status, out, err = self.tool("status", *argv)
        self.assertEqual(err, "")
        return status, out

    def test_well(self):
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/20")
        self.assertEqual(self.status(), (0, (
            "%s  driver nvgrace_gpu  used by 4711 (qemu-system-aar)  health ok  state ready  "
            "resets 1  poisoned_pages 0  handover none\n" % A)))

    def test_faults(self):
        for name, value, text in (
                ("state", "failed c2c_link=0x5 hbm_training=0xff", "state is failed"),
                ("state", "gone c2c_link=0xff hbm_training=0xff", "state is gone"),
                ("poisoned_pages", "2\nusemem 0x1000\nusemem 0x9000", "2 poisoned pages"),
                ("handover", "not reset", "its latest user got it without a reset")):
            with self.subTest(text):
                before = self.gpu.files()[name]
                self.attr(name, value)
                status, out = self.status()
                self.assertEqual(status, 1)
                self.assertIn("health bad: %s  " % text, out)
                self.assertEqual(out.count("\n"), 1)
                self.attr(name, before)

    def test_not_known(self):
        for name, value, text in (
                ("state", "dreaming", "state 'dreaming' is not known"),
                ("poisoned_pages", "many", "poisoned_pages holds 'many'")):
            with self.subTest(text):
                before = self.gpu.files()[name]
                self.attr(name, value)
                status, out = self.status()
                self.assertEqual(status, 3)
                self.assertIn("health cannot tell: %s  " % text, out)
                self.attr(name, before)
        self.machine.drop("/sys/bus/pci/devices/%s/nvgrace_gpu" % A)
        self.assertEqual(self.status()[0], 3)

    def test_words_that_are_no_fault(self):
        for state in ("ready", "training", "resetting", "asleep"):
            self.attr("state", state + " c2c_link=0xff hbm_training=0xff")
            self.assertEqual(self.status()[0], 0, state)

    def test_other_drivers(self):
        """A GPU that this driver does not have is not a fault, and its health is not known."""
        self.machine.add_gpu(B, driver="nvidia")
        self.machine.add_gpu(C, driver=None)
        status, out = self.status(B, C)
        self.assertEqual((status, out), (0, (
            "%s  driver nvidia  used by nobody in sight  health not known\n"
            "%s  driver none  used by nobody in sight  health not known\n" % (B, C))))

    def test_a_fault_counts_more(self):
        self.machine.add_gpu(B)
        for states in (("dreaming", "gone"), ("gone", "dreaming")):
            for bdf, state in zip((A, B), states):
                self.machine.put("/sys/bus/pci/devices/%s/nvgrace_gpu/state" % bdf, state)
            self.assertEqual(self.status()[0], 1)

    def test_json(self):
        self.machine.become("root")
        self.machine.opened(4711, "qemu-system-aar", "/dev/vfio/20")
        status, out = self.status("--json")
        self.assertEqual((status, json.loads(out)), (0, [{
            "bdf": A, "driver": "nvgrace_gpu", "health": "ok", "because": [],
            "users": ["4711 (qemu-system-aar)"], "all_users": True,
            "state": "ready c2c_link=0xff hbm_training=0xff", "resets": "1",
            "poisoned_pages": "0", "handover": "none", "egm": None}]))

    def test_no_gpu(self):
        self.machine.remove("/sys/bus/pci/devices/" + A)
        self.assertIn("no NVIDIA GPU", self.refused("status"))


class Holders(Case):
    def test_chain(self):
        self.machine.module("nvidia_modeset", ["nvidia"], 1)
        self.machine.module("nvidia_drm", ["nvidia_modeset", "nvidia"])
        self.assertEqual(users.holders(self.machine, "nvidia"), ["nvidia_drm", "nvidia_modeset"])
        self.assertTrue(users.idle(self.machine, "nvidia_modeset"))
