# SPDX-License-Identifier: GPL-2.0-only
"""EGM in nvgrace-gpu: what list and status show, what check finds, and the guests of --egm."""

import json
import os
import re
import xml.etree.ElementTree as ElementTree

from machine import CONFIG, GIB, TOP, Case
from nvgrace_gpu.cures import SETUP
from test_check import Check
from test_qemu_args import A, B, C, D, Line, Printed

EGM = 480 * GIB
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
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

    def test_report(self):
        self.machine.say("nvgrace_gpu %s: /dev/egm4 is there" % A)
        out = self.output("report", "-o", "-")
        for text in ("%s nvidia,egm-base-pa: 0x80000000\n" % A, "%s nvidia,egm-pxm: 0x4\n" % B,
                     "\negm4 gpu_devices: %s %s\n" % (A, B), "\negm4 state: zeroed\n",
                     "/dev/egm4 is there\n"):
            self.assertIn(text, out)


class Checked(Check):
    """The firmware of the GPU that Check has names a region."""

    def setUp(self):
        super().setUp()
        self.machine.add_egm([self.gpu.bdf])

    def firmware(self, **egm):
        """Have firmware say so, and the driver make no node."""
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
        self.told("gpu.egm", "firmware has set no memory apart as EGM")

    def test_property_is_wrong(self):
        for egm, text in (
                ({"size": "480G"}, "nvidia,egm-size is a string"),
                ({"size": 0}, "nvidia,egm-size is 0"),
                ({"pxm": 1 << 32}, "nvidia,egm-pxm, 0x100000000, has more than 32 bits"),
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
        for retired in (0x7fff0000, 0x80000000 + EGM):
            self.firmware(retired=retired)
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
        self.machine.put("/proc/iomem", "100000000-13fffffff : System RAM (kmem)")
        self.fault("gpu.egm", SETUP, text="0x100000000-0x13fffffff")

    def test_ram_beside_the_region(self):
        self.firmware()
        self.machine.put("/proc/iomem", "00000000-7fffffff : System RAM\n7880000000-78ffffffff : "
                         "System RAM\n80000000-8fffffff : Reserved\n")
        _, checks = self.checks()
        self.assertNotIn("own RAM", checks["gpu.egm"]["text"])

    def test_user_cannot_tell(self):
        self.firmware()
        self.machine.become("alice")
        self.machine.put("/proc/iomem", "00000000-00000000 : System RAM\n")
        self.cannot_tell("gpu.egm", "only root sees the addresses in /proc/iomem")

    def test_driver_refused_it(self):
        """It says so of what the tool does not see, such as the list of retired blocks."""
        self.firmware()
        said = "error -EBUSY: nvidia,egm-retired-pages-data-base: 0x80000 lies in System RAM"
        self.machine.say("nvgrace_gpu %s: %s" % (self.gpu, said),
                         "nvgrace_gpu %s: egm5 [mem 0x0-0xffff] is /dev/egm5" % self.gpu)
        self.fault("gpu.egm", "- update", text="the driver refused it: " + said)

    def test_refused_region_is_not_a_refused_gpu(self):
        """The driver bound the GPU, which was given back since."""
        self.machine.say(
            "nvgrace_gpu %s: usemem [mem 0x1-0x2] is BAR4" % self.gpu,
            "nvgrace_gpu %s: error -EBUSY: nvidia,egm-base-pa: 0x1 + nvidia,egm-size: 0x1 overlaps "
            "System RAM: firmware has EGM on, but not its hypervisor mode" % self.gpu)
        self.unbound()
        self.told("gpu.log", "the driver did not refuse the GPU")

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

    def test_rule(self):
        """udev gives the node to group kvm, as it gives VFIO's nodes."""
        with open(os.path.join(TOP, "tools", "nvgrace-gpu.rules"), encoding="utf-8") as f:
            rules = [line for line in f.read().splitlines() if 'SUBSYSTEM=="egm"' in line]
        self.assertEqual(len(rules), 1)
        for part in ('KERNEL=="egm[0-9]*"', 'GROUP="kvm"', 'MODE="0660"'):
            self.assertIn(part, rules[0].split(", "))


class Guests(Line):
    """qemu-args --egm."""

    def memory(self, *argv):
        line = self.line("--egm", "--container", *argv)
        self.assertEqual(self.values(line, "-object", "memory-backend-ram"), [])
        return [v.split(",", 1)[1] for v in self.values(line, "-object", "memory-backend-file")]

    def pages(self, size):
        self.machine.put("/proc/self/smaps", "KernelPageSize:       %d kB\n" % size)

    def nvl4_with_egm(self, size=EGM):
        self.nvl4()
        self.machine.add_egm([B, A], 4, size)
        self.machine.add_egm([D, C], 5, size, base=0x100000000000)

    def test_gh200(self):
        self.machine.add_gpu(A)
        self.machine.add_egm([A])
        self.golden("gh200_egm.qemu", "--firmware=none", "--initiators=2", "--egm", "--container")
        self.consistent(self.line("--egm", "--container"), [A], 9)

    def test_page_sizes(self):
        """Memory is aligned so that blocks fit, whatever the pages are."""
        self.machine.add_gpu(A)
        self.machine.add_egm([A])
        for pages in (4, 16, 64):
            self.pages(pages)
            self.assertEqual(self.memory(), [
                "id=ram0,mem-path=/dev/egm4,share=on,prealloc=off,size=480G,align=1G"])

    def test_base_is_not_at_a_block(self):
        self.machine.add_gpu(A)
        argv = "qemu-args", "--egm", "--container", "--firmware=none"
        text = "/dev/egm4 begins at 0x90000000, which is not a multiple of %s: the host and KVM map"
        for pages, said in ((64, "512 MiB"), (4, None)):
            self.pages(pages)
            for base in (0x80000000, 0x90000000):
                self.machine.add_egm([A], base=base)
                status, _, err = self.tool(*argv)
                self.assertEqual(status, 0)
                if said and base == 0x90000000:
                    self.assertIn(text % said, err)
                else:
                    self.assertEqual(err, "")
        self.pages(64)
        self.machine.drop("/sys/firmware/acpi/tables")
        self.assertEqual(self.tool(*argv)[::2], (0, ""))

    def test_part(self):
        self.machine.add_gpu(A)
        self.machine.add_egm([A])
        line = self.line("--egm", "--container", "--memory=16G")
        self.assertIn("-m", dict(line))
        self.assertEqual(dict(line)["-m"], "16G")
        self.assertIn("size=16G,", self.memory("--memory=16G")[0] + ",")
        self.assertEqual(self.memory("--memory=480G"), self.memory())
        self.assertIn("/dev/egm4 has 480 GiB, and the guest is to have 481G of it",
                      self.refused("qemu-args", "--egm", "--container", "--memory=481G"))

    def test_two_sockets(self):
        self.nvl4_with_egm()
        line = self.line("--egm", "--container", "--smp=16", "--initiators=1")
        self.consistent(line, [B, A, D, C], 2 + 4)
        self.assertEqual(dict(line)["-m"], "960G")
        self.assertEqual([re.search("mem-path=([^,]+)", v).group(1) for v in self.values(
            line, "-object", "memory-backend-file")], ["/dev/egm4", "/dev/egm5"])
        self.assertEqual(self.values(line, "-numa", "dist,src=0,dst=1"),
                         ["dist,src=0,dst=1,val=40"])
        self.assertEqual([m.split("size=")[1].split(",")[0] for m in self.memory("--memory=64G")],
                         ["32G", "32G"])

    def test_sizes_that_are_not_whole_blocks(self):
        """The second socket's memory begins at a block; the last one has all its MiB."""
        self.nvl4_with_egm(EGM + (3 << 20) + 0x10000)
        sizes = [m.split("size=")[1].split(",")[0] for m in self.memory()]
        self.assertEqual(sizes, ["480G", "%dM" % (480 * 1024 + 3)])
        self.assertEqual(dict(self.line("--egm", "--container"))["-m"], "%dM" % (960 * 1024 + 3))
        _, _, err = self.tool("qemu-args", "--egm", "--container", "--memory=65G")
        self.assertNotIn("is not a multiple", err)
        _, _, err = self.tool("qemu-args", "--egm", "--container", "--memory=%dM" % (2 * 33000))
        self.assertIn("33000M for each socket is not a multiple of 512 MiB", err)

    def test_socket_of_the_guest(self):
        """One GPU of a socket has all of the socket's region."""
        self.nvl4_with_egm()
        line = self.line("--egm", "--container", D)
        self.assertIn("mem-path=/dev/egm5", self.value(line, "memory-backend-file"))

    def test_gpus_without_a_node(self):
        self.machine.numa("0", "0", {0: [10]})
        self.machine.add_gpu(A, node=-1)
        self.machine.add_egm([A])
        self.assertEqual(len(self.memory()), 1)

    def test_host_nodes_are_left_out(self):
        """mbind() of this memory can crash 6.12."""
        self.machine.add_gpu(A)
        self.machine.add_egm([A])
        self.assertNotRegex(self.printed("--egm", "--container", "--firmware=none"),
                            "host-nodes|policy")

    def test_container_where_iommufd_is_not(self):
        self.machine.add_gpu(A)
        self.machine.add_egm([A])
        self.machine.drop("/dev/iommu")
        self.assertIn("/dev/egm4", self.printed("--egm", "--firmware=none"))

    def test_iommufd_is_refused(self):
        self.machine.add_gpu(A)
        self.machine.add_egm([A])
        for argv, text in (([], "--egm needs --container: with iommufd QEMU maps memory of a file"),
                           (["--smmu"], "--egm and --smmu exclude each other"),
                           (["--smmu", "--container"], "--egm and --smmu exclude each other")):
            err = self.refused("qemu-args", "--egm", *argv)
            self.assertIn(text, err)
            self.assertIn("IOMMU_IOAS_MAP_FILE", err)

    def test_device_memory(self):
        self.machine.add_gpu(A)
        self.machine.add_egm([A])
        self.machine.caps[243] = 0
        self.assertIn("no guest boots from Device memory: nvgrace-gpu check, kvm.cacheable_pfnmap",
                      self.refused("qemu-args", "--egm", "--container"))
        self.assertEqual(self.tool("qemu-args")[0], 0)
        self.machine.drop("/dev/kvm")
        status, _, err = self.tool("qemu-args", "--egm", "--container")
        self.assertEqual(status, 0)
        self.assertIn("# cannot tell whether KVM maps EGM cacheable: /dev/kvm: No such file", err)

    def test_no_group(self):
        self.machine.add_gpu(A)
        self.machine.add_egm([A])
        self.machine.drop("/dev/vfio/20")
        self.assertIn("has no VFIO group, which --egm needs",
                      self.refused("qemu-args", "--egm", "--container"))

    def test_no_region(self):
        self.machine.add_gpu(A)
        self.assertIn("%s has no EGM region: nvgrace-gpu check %s says why" % (A, A),
                      self.refused("qemu-args", "--egm", "--container"))

    def test_region_is_unknown(self):
        self.machine.add_gpu(A)
        self.machine.add_egm([A])
        self.machine.drop("/sys/class/egm/egm4/gpu_devices")
        self.assertIn("the EGM of %s is unknown: /sys/class/egm/egm4/gpu_devices: No such" % A,
                      self.refused("qemu-args", "--egm", "--container"))

    def test_two_regions_of_a_node(self):
        for bdf in (A, B):
            self.machine.add_gpu(bdf)
        self.machine.add_egm([A], 5)
        self.machine.add_egm([B], 4)
        self.assertIn("have EGM of their own, /dev/egm4 and /dev/egm5",
                      self.refused("qemu-args", "--egm", "--container"))

    def test_one_region_of_two_nodes(self):
        self.machine.add_gpu(A)
        self.machine.add_gpu(C, node=1)
        self.machine.add_egm([A, C])
        self.assertIn("GPUs of two NUMA nodes name one EGM region, /dev/egm4",
                      self.refused("qemu-args", "--egm", "--container"))

    def test_in_use(self):
        self.machine.add_gpu(A)
        self.machine.add_egm([A], state="in use")
        argv = "qemu-args", "--egm", "--container"
        self.assertIn("/dev/egm4 is in use by a process that only root sees", self.refused(*argv))
        self.machine.opened(4711, "qemu-system-aar", "/dev/egm4")
        err = self.refused(*argv)
        self.assertIn("/dev/egm4 is in use by 4711 (qemu-system-aar): end that first", err)
        self.assertIn("kill 4711", err)
        self.assertEqual(self.tool("qemu-args")[0], 0)

    def test_wait_is_said(self):
        self.machine.add_gpu(A)
        for state, text in (("zeroing 1 of 2", "/dev/egm4 is zeroing 1 of 2: QEMU waits at its"),
                            ("failed -12", "/dev/egm4 is failed -12: QEMU waits at its start"),
                            ("odd", "cannot tell whether /dev/egm4 is free")):
            self.machine.add_egm([A], state=state)
            status, _, err = self.tool("qemu-args", "--egm", "--container")
            self.assertEqual(status, 0)
            self.assertIn("# " + text, err)

    def test_window_counts_the_memory(self):
        """480 GiB of memory end beyond 39 bits of address."""
        self.machine.add_gpu(A)
        self.machine.add_egm([A])
        self.machine.caps[165] = 40
        self.assertEqual(self.tool("qemu-args", "--memory=64G")[0], 0)
        self.assertEqual(self.tool("qemu-args", "--egm", "--container")[0], 0)
        self.machine.add_egm([A], size=2 * EGM)
        self.assertIn("this CPU gives guests 40 bits",
                      self.refused("qemu-args", "--egm", "--container"))


class LibvirtGuests(Printed):
    """qemu-args --egm --libvirt. No libvirt has an element for the memory."""

    ARGV = ("--egm", "--container", "--initiators=0")

    def setUp(self):
        super().setUp()
        self.machine.add_gpu(A)
        self.machine.add_egm([A])

    def printed(self, *argv):
        status, out, err = self.tool("qemu-args", *argv)
        self.assertEqual(status, 0, err)
        self.assertIn("has no element for memory out of /dev/egm4: qemu:commandline has it", err)
        return out

    def test_golden_file(self):
        for version in ("11.3", "12.9"):
            self.machine.libvirt(version + ".0")
            with self.subTest(version):
                self.golden("gh200_egm-%s.xml" % version, "--libvirt", *self.ARGV)

    def test_domain(self):
        self.machine.put("/proc/self/smaps", "KernelPageSize:       4 kB\n")
        domain = ElementTree.fromstring(self.printed("--libvirt", *self.ARGV))
        words = [arg.get("value") for arg in domain.iter(QEMU + "arg")]
        self.assertEqual(words[:3], [
            "-object", "memory-backend-file,id=egm,mem-path=/dev/egm4,share=on,prealloc=off,"
            "size=480G,align=1G", "-machine"])
        self.assertIn("memory-backend=egm", words[3].split(","))
        self.assertEqual(domain.find("memory").text, str(480 * 1024))
        self.assertIsNone(domain.find("cpu/numa"))
        self.assertIsNone(domain.find("numatune"))
        self.assertEqual(domain.find("memoryBacking/source").get("type"), "memfd")
        self.assertNotIn("iommufd", domain.find("devices/hostdev/driver").attrib)

    def test_numa_nodes_are_refused(self):
        err = self.refused("qemu-args", "--libvirt", "--egm", "--container")
        self.assertIn("what it has for NUMA nodes excludes that", err)
        self.assertIn("--initiators=0", err)
        self.machine.add_gpu(C, node=1)
        self.machine.add_egm([C], 5, base=0x100000000000)
        self.assertIn("what it has for NUMA nodes excludes that",
                      self.refused("qemu-args", "--libvirt", *self.ARGV))
