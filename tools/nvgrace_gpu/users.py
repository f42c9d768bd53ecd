# SPDX-License-Identifier: GPL-2.0-only
"""Who uses a GPU: processes, and what else keeps NVIDIA's driver from giving it up.

What is said here of NVIDIA's driver was read in kernel-open/nvidia of
NVIDIA/open-gpu-kernel-modules on GitHub, and not tried on hardware. Its remove waits, without a
time limit, until no process has /dev/nvidiaN open, where N is the GPU's minor, and no module uses
the GPU. /dev/nvidiactl uses no GPU.
"""

import collections
import re

from .host import Unknown

PROC = "/proc/driver/nvidia"

# who is the words after "in use by", cure the command that ends it.
User = collections.namedtuple("User", "who cure")


def sees_all(host):
    """Only root sees what the processes of other users have open."""
    try:
        return host.is_root()
    except (Unknown, OSError):
        return False


def processes(host):
    """Those that have a node of a GPU or of EGM open or mapped: {PID: nodes}."""
    return host.once("processes", lambda: _processes(host))


def _processes(host):
    node = re.compile(r"(?:^|/)dev/(nvidia\d+|vfio/\S+|dri/\w+|egm\d+)(?: \(deleted\))?$", re.M)
    found = {}
    for pid in filter(str.isdigit, host.list("/proc")):
        paths = []
        try:
            paths = [host.target("/proc/%s/fd/%s" % (pid, fd)) or ""
                     for fd in host.list("/proc/%s/fd" % pid)]
        except OSError:
            pass    # another user's, or it ended
        paths.append(host.read_or("/proc/%s/maps" % pid, ""))
        nodes = {"/dev/" + name for path in paths for name in node.findall(path)}
        if nodes:
            found[pid] = nodes
    return found


def how_to_end(host, gpu, pid, name):
    if name.startswith("nvidia-persiste") and host.program("nvidia-smi"):
        return "nvidia-smi -i %s -pm 0" % gpu
    unit = re.search(r"^0::/system\.slice/(?:\S+\.slice/)?([^/\s]+\.service)$",
                     host.read_or("/proc/%s/cgroup" % pid, ""), re.M)
    return "systemctl stop " + unit.group(1) if unit else "kill %s    # %s" % (pid, name)


def nodes_of(gpu):
    """Matches the nodes in /dev with which a process uses the GPU."""
    names = [re.escape(node) for node in gpu.nodes().values()]
    names += ["/dev/dri/" + name for name in gpu.host.list(gpu.dir + "/drm")]
    if gpu.driver == "nvidia" or gpu.leaving:
        information = gpu.host.read_or("%s/gpus/%s/information" % (PROC, gpu), "")
        minor = re.search(r"^Device Minor:\s*(\d+)", information, re.M)
        # Without the file each node may be the GPU's.
        names.append("/dev/nvidia" + (minor.group(1) if minor else r"\d+"))
    return re.compile("|".join(names) or "(?!)")


def holders(host, module):
    """The modules that use a module, each after those that use it."""
    names = []
    for name in host.list("/sys/module/%s/holders" % module):
        names += [n for n in holders(host, name) + [name] if n not in names]
    return names


def idle(host, module):
    """rmmod would take it away, and those that use it."""
    top = (holders(host, module) or [module])[0]
    return host.read_or("/sys/module/%s/refcnt" % top) == "0"


def has_interrupts(gpu):
    """Has NVIDIA's driver started the GPU? The first user gets it interrupts, the last frees them.

    None stands for a GPU that shows it by no MSI.
    """
    if gpu.host.list(gpu.dir + "/msi_irqs"):
        return True
    if re.search(r"^EnableMSI: 0", gpu.host.read_or(PROC + "/params", ""), re.M):
        return None
    return False if gpu.capabilities() & {0x05, 0x11} else None


def users_of_nvidia(gpu, found):
    """List what uses a GPU of NVIDIA's driver without a file descriptor; found are the processes.

    Persistence mode is a flag in NVIDIA's source, for which remove does not wait. Operators report
    that it hangs all the same (OpenNebula/one-deploy#251).
    """
    host, users = gpu.host, []
    started = has_interrupts(gpu)
    if started is False:
        return []
    try:
        mode = host.run("nvidia-smi", "-i", gpu.bdf, "--query-gpu=persistence_mode",
                        "--format=csv,noheader", timeout=20)
        if mode.strip() == "Enabled":
            users.append(User("persistence mode", "nvidia-smi -i %s -pm 0" % gpu))
    except Unknown:
        pass    # it is not installed, or it does not know
    if found or users:
        return users
    for module in host.list("/sys/module/nvidia/holders"):
        if started or idle(host, module):
            users.append(User("module " + module,
                              "rmmod " + " ".join(holders(host, module) + [module])))
    if started and not users:
        users.append(User("something that has no process and no module",
                          "nvidia-smi -i %s -pm 0" % gpu))
    return users


def users_of_nodes(host, nodes, gpu=None):
    """The processes that have a node open or mapped whose path matches."""
    users = []
    for pid, opened in processes(host).items():
        if any(map(nodes.fullmatch, opened)):
            name = host.read_or("/proc/%s/comm" % pid, "?")
            users.append(User("%s (%s)" % (pid, name), how_to_end(host, gpu, pid, name)))
    return users


def users_of(gpu, deep):
    """All users. deep also asks nvidia-smi, which may start an idle GPU."""
    users = users_of_nodes(gpu.host, nodes_of(gpu), gpu)
    if deep and gpu.driver == "nvidia":
        users += users_of_nvidia(gpu, users)
    return users


def cures_of(users):
    """The commands that end them, each once."""
    return list(dict.fromkeys(user.cure for user in users))
