# SPDX-License-Identifier: GPL-2.0-only
"""nvgrace-gpu as a program: help, exit status, report, man page, completion, old Pythons."""

import ast
import glob
import graphlib
import os
import re
import shutil
import subprocess
import sys

from machine import PACKAGE, TOOL, TOP, Case
from nvgrace_gpu.gpu import IDS

GPU = "0009:01:00.0"
COMMANDS = ("check", "list", "status", "bind", "unbind", "qemu-args", "report")


def read(*parts):
    with open(os.path.join(TOP, *parts), encoding="utf-8") as f:
        return f.read()


def modules():
    """The source of each module, parsed: {"nvgrace_gpu.checks.gpu": tree}."""
    found = {}
    for path in glob.glob(PACKAGE + "/**/*.py", recursive=True):
        name = os.path.relpath(path, os.path.dirname(PACKAGE))[:-3].replace("/", ".")
        found[name.replace(".__init__", "")] = ast.parse(read(path), feature_version=(3, 9))
    return found


def options_of(command):
    """The long options of a command, from its help."""
    text = subprocess.run([sys.executable, TOOL, command, "--help"], stdout=subprocess.PIPE,
                          universal_newlines=True, check=True).stdout
    return set(re.findall(r"^ +(?:-\w, |-\w \w+, )?(--[\w-]+)", text, re.M)) - {"--help"}


class Program(Case):
    def run_it(self, *argv, **env):
        return subprocess.run([sys.executable, TOOL, *argv], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, universal_newlines=True, check=False,
                              env={**os.environ, "COLUMNS": "80", **env})

    def test_help_is_one_screen(self):
        for argv in ([], *([c] for c in COMMANDS)):
            done = self.run_it(*argv, "--help")
            self.assertEqual(done.returncode, 0)
            self.assertLessEqual(done.stdout.count("\n"), 25, argv)
            self.assertLessEqual(max(map(len, done.stdout.splitlines())), 80)

    def test_version(self):
        """The driver, the packages and the tool have one version."""
        version = re.search(r'^PACKAGE_VERSION="(.+)"', read("dkms.conf"), re.M).group(1)
        self.assertEqual(self.run_it("--version").stdout, "nvgrace-gpu %s\n" % version)
        self.assertEqual(self.tool("--version"), (0, "nvgrace-gpu %s\n" % version, ""))

    def test_wrong_command_line(self):
        for argv in ([], ["frobnicate"], ["check", "--frob"], ["list", "--", "-x"]):
            self.assertEqual(self.run_it(*argv).returncode, 2, argv)

    def test_names_that_are_not_drivers(self):
        for name in ("../pci", "", "vfio pci", "vfio-pci/bind", "a.b"):
            done = self.run_it("bind", "-n", "--driver", name)
            self.assertEqual(done.returncode, 2, name)
            self.assertIn("'%s' is not the name of a driver" % name, done.stdout)

    def test_root_by_option_and_environment(self):
        self.machine.add_gpu(GPU)
        for done in (self.run_it("--root", self.machine.root, "list"),
                     self.run_it("list", NVGRACE_GPU_ROOT=self.machine.root)):
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertIn(GPU, done.stdout)

    def test_empty_root(self):
        """A machine that tells nothing: no traceback, and a reason for each."""
        os.makedirs(self.machine.root + "/empty")
        done = self.run_it("--root", self.machine.root + "/empty", "check")
        self.assertEqual(done.returncode, 1)
        self.assertNotIn("Traceback", done.stdout)
        self.assertGreater(done.stdout.count("cannot tell"), 5)
        for command in ("list", "bind", "unbind", "qemu-args"):
            done = self.run_it("--root", self.machine.root + "/empty", command)
            self.assertEqual(done.returncode, 1, command)
            self.assertNotIn("Traceback", done.stdout)

    def test_files_that_cannot_be_read(self):
        """A user's view of root's files, without being one."""
        self.machine.add_gpu(GPU, driver=None)
        self.machine.become("me")
        real, secret = self.machine.read_bytes, ("config", "SSDT1")

        def read_bytes(name, size=-1):
            if name.endswith(secret):
                raise PermissionError(13, "Permission denied", self.machine.path(name))
            return real(name, size)

        self.machine.read_bytes = read_bytes
        _, out, _ = self.tool("check")
        self.assertIn("cannot tell  gpu.memory: /sys/firmware/acpi/tables/SSDT1: Permission "
                      "denied; try as root", out)

    def test_pipe_that_closes(self):
        self.machine.add_gpu(GPU)
        with subprocess.Popen([sys.executable, TOOL, "--root", self.machine.root, "check"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
            done.stdout.close()
            self.assertEqual(done.stderr.read(), b"")

    def test_locale_without_the_characters(self):
        """The name of a process is not ASCII, and its ESC does nothing to the terminal."""
        self.machine.add_gpu(GPU)
        self.machine.opened(4711, "caf\u00e9\x1b[2J", "/dev/vfio/20")
        done = self.run_it("--root", self.machine.root, "list", LC_ALL="C", PYTHONUTF8="0",
                           PYTHONCOERCECLOCALE="0")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(r"4711 (caf\xe9\x1b[2J)", done.stdout)

    def test_closed_output(self):
        self.machine.add_gpu(GPU)
        for redirection in (">&-", ">&- 2>&-"):
            done = subprocess.run(["sh", "-c", '"$@" ' + redirection, "sh", sys.executable, TOOL,
                                   "--root", self.machine.root, "list"], stderr=subprocess.PIPE,
                                  check=False)
            self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_rules_can_be_read_whatever_the_umask(self):
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        self.machine.add_gpu(GPU)
        self.output("bind", "--persist")
        path = self.machine.path("/etc/udev/rules.d/60-nvgrace-gpu-%s.rules" % GPU)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o644)

    def test_python_3_9(self):
        self.assertGreater(len(modules()), 10)

    def test_standard_library_only(self):
        if not hasattr(sys, "stdlib_module_names"):
            self.skipTest("this Python does not list its library")
        for node in (node for tree in modules().values() for node in ast.walk(tree)):
            names = []
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                self.assertIn(name.split(".")[0], sys.stdlib_module_names)

    def test_no_circular_imports(self):
        """Also not those within functions, with which a module hides a circle."""
        graph = {}
        for module, tree in modules().items():
            package = os.path.isdir(os.path.join(os.path.dirname(PACKAGE), *module.split(".")))
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.level:
                    parts = module.split(".") + [""] * package
                    base = parts[:-node.level] + [node.module] * bool(node.module)
                    graph.setdefault(module, set()).update(
                        [".".join(base)] if node.module else
                        [".".join(base + [name.name]) for name in node.names])
        self.assertIn("nvgrace_gpu.host", graph["nvgrace_gpu.checks.gpu"])
        list(graphlib.TopologicalSorter(graph).static_order())

    def test_each_module_says_what_is_in_it(self):
        for module, tree in modules().items():
            self.assertTrue(ast.get_docstring(tree), module)

    def test_the_same_source_makes_the_same_file(self):
        """Times, permissions and bytecode do not change the file that scripts/tool packs."""
        copy = self.machine.path("/copy")
        for directory in ("scripts", "tools"):
            shutil.copytree(os.path.join(TOP, directory), os.path.join(copy, directory))
        for path in glob.glob(copy + "/tools/**/*.py", recursive=True):
            os.chmod(path, 0o700)
            os.utime(path, (1, 1))
        self.machine.put("/copy/tools/nvgrace_gpu/__pycache__/cli.cpython-39.pyc", b"old")
        subprocess.run([copy + "/scripts/tool"], check=True)
        with open(TOOL, "rb") as ours:
            self.assertEqual(self.machine.read_bytes("/copy/build/nvgrace-gpu"), ours.read())

    def test_ids_are_the_drivers(self):
        lines = re.findall(r"ID\((0x\w+),", read("nvgrace_gpu_ids.h"))
        self.assertEqual([int(device, 16) for device in lines], sorted(IDS))
        self.assertEqual("GH200", IDS[0x2342])


class Words(Case):
    def test_man_page_has_all_options(self):
        page = read("tools", "nvgrace-gpu.8").replace("\\-", "-")
        for command in COMMANDS:
            for option in options_of(command):
                self.assertIn(option, page, command)

    def test_completion_has_all_options(self):
        script = read("tools", "nvgrace-gpu.completion")
        for command in COMMANDS:
            match = re.search(r"^\t%s\) options='([^']*)'" % command, script, re.M)
            self.assertEqual(set(match.group(1).split()), options_of(command), command)

    def complete(self, *words):
        script = ("source %s/tools/nvgrace-gpu.completion; COMP_WORDS=(%s); COMP_CWORD=%d; "
                  "_nvgrace_gpu; printf '%%s\\n' \"${COMPREPLY[@]}\"" %
                  (TOP, " ".join("'%s'" % w for w in words), len(words) - 1))
        return subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, check=True,
                              universal_newlines=True, env={
                                  **os.environ, "NVGRACE_GPU_ROOT": self.machine.root}
                              ).stdout.split()

    def test_completion(self):
        self.machine.add_gpu(GPU)
        self.machine.add_gpu("0019:01:00.0")
        self.assertEqual(self.complete("nvgrace-gpu", ""), list(COMMANDS))
        self.assertEqual(self.complete("nvgrace-gpu", "bi"), ["bind"])
        self.assertEqual(self.complete("nvgrace-gpu", "--v"), ["--version"])
        self.assertEqual(self.complete("nvgrace-gpu", "bind", "001"), ["0019:01:00.0"])
        self.assertEqual(self.complete("nvgrace-gpu", "bind", "--p"), ["--persist"])
        self.assertEqual(self.complete("nvgrace-gpu", "bind", "--driver", "nv"),
                         ["nvgrace_gpu", "nvgrace_gpu_vfio_pci"])
        self.assertEqual(self.complete("nvgrace-gpu", "--root", "/x", "che"), ["check"])
