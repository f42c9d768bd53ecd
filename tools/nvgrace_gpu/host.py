# SPDX-License-Identifier: GPL-2.0-only
"""The machine: files, programs, kernel log, KVM and VFIO, and the account that runs QEMU."""

import contextlib
import errno
import fcntl
import os
import re
import struct
import subprocess

KVM_CREATE_VM, KVM_CHECK_EXTENSION = 0xAE01, 0xAE03
KVM_CAP_ARM_VM_IPA_SIZE, KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED = 165, 243

VFIO_SET_IOMMU, VFIO_GROUP_SET_CONTAINER, VFIO_GROUP_GET_DEVICE_FD = 0x3B66, 0x3B68, 0x3B6A
VFIO_DEVICE_GET_REGION_INFO, VFIO_DEVICE_BIND_IOMMUFD = 0x3B6C, 0x3B76
VFIO_TYPE1V2_IOMMU = 3
IOMMU_GET_HW_INFO, IOMMU_HW_INFO_TYPE_ARM_SMMUV3 = 0x3B8A, 2

# sysfs has the NUMA nodes below it.
NODES = "/sys/devices/system/node/"


class Unknown(Exception):
    """The host does not tell; the text says why."""


class Refused(Exception):
    """The tool cannot do it; the text says why, and what to do."""


def printable(text):
    """A text whose control characters do nothing to a terminal: ESC is \\x1b."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda m: "\\x%02x" % ord(m.group()), text)


class Host:
    """A machine, below a root. Tests replace all that is not a file."""

    def __init__(self, root="/"):
        self.root = root.rstrip("/")
        self.cache = {}

    def path(self, name):
        return self.root + name

    def name(self, path):
        """The name of a path as it is on that machine."""
        return path[len(self.root):] if self.root and path.startswith(self.root) else path

    def read(self, name):
        with open(self.path(name), encoding="utf-8", errors="replace") as f:
            return printable(f.read().strip())

    def read_or(self, name, default=None):
        try:
            return self.read(name)
        except OSError:
            return default

    def number(self, name, base=10):
        """The number that a file holds."""
        text = self.read(name)
        try:
            return int(text, base)
        except ValueError:
            raise Unknown("%s holds '%s', which is not a number" % (name, text)) from None

    def read_bytes(self, name, size=-1):
        with open(self.path(name), "rb") as f:
            return f.read(size)

    def exists(self, name):
        return os.path.lexists(self.path(name))

    def list(self, name):
        try:
            return sorted(os.listdir(self.path(name)))
        except FileNotFoundError:
            return []

    def target(self, name):
        """Where a link leads, or None."""
        try:
            return os.readlink(self.path(name))
        except OSError:
            return None

    def link(self, name):
        """The last part of where a link leads, or None."""
        target = self.target(name)
        return target and os.path.basename(target)

    def write(self, name, text):
        fd = os.open(self.path(name), os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def save(self, name, text):
        """Make a file that all may read, or replace it; nobody sees half of it."""
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name) + ".new", "w", encoding="utf-8") as f:
            os.fchmod(f.fileno(), 0o644)
            f.write(text)
        os.replace(self.path(name) + ".new", self.path(name))

    def remove(self, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(name))

    def program(self, name):
        """The path of a program, or None; a name with a slash is a path already."""
        if "/" in name:
            return self.path(name)
        for directory in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin",
                          "/bin", "/usr/libexec"):
            path = self.path(directory + "/" + name)
            if os.access(path, os.X_OK):
                return path
        return None

    def run(self, *command, timeout=60):
        """Run a program of that machine; returns what it printed."""
        status, output = self.ask(*command, timeout=timeout)
        if status:
            raise Unknown("%s: %s" % (command[0], output.strip() or "failed"))
        return output

    def ask(self, *command, timeout=60):
        """The same for a program whose exit status is an answer: (status, what it printed)."""
        path = self.program(command[0])
        if not path:
            raise Unknown("%s is not installed" % command[0])
        process = subprocess.Popen([path, *command[1:]], stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   universal_newlines=True)
        try:
            printed = process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            # Do not wait: one that hangs in the kernel does not end.
            process.kill()
            raise Unknown("%s did not end within %d s" % (command[0], timeout)) from None
        return process.returncode, printed

    def once(self, key, function):
        """Return or raise again what the function did the first time."""
        if key not in self.cache:
            try:
                self.cache[key] = (function(), None)
            except (Unknown, OSError) as e:
                self.cache[key] = (None, e)
        value, error = self.cache[key]
        if error:
            raise error
        return value

    @property
    def release(self):
        return self.read("/proc/sys/kernel/osrelease")

    @property
    def version(self):
        """The kernel's version, as far as its APIs differ: (7, 3)."""
        match = re.match(r"(\d+)\.(\d+)", self.release)
        if not match:
            raise Unknown("the kernel's release is '%s', which has no version" % self.release)
        return int(match.group(1)), int(match.group(2))

    def config(self):
        """The running kernel's options: {"VFIO": "m"}; what is not set is not in it."""
        return self.once("config", self._config)

    def _config(self):
        release = self.release
        names = ("/proc/config.gz", "/boot/config-" + release,
                 "/lib/modules/%s/config" % release, "/lib/modules/%s/build/.config" % release)
        for name in names:
            try:
                data = self.read_bytes(name)
            except OSError:
                continue
            if data[:2] == b"\x1f\x8b":
                import zlib
                try:
                    data = zlib.decompress(data, 31)
                except zlib.error as e:
                    raise Unknown("%s cannot be unpacked: %s" % (name, e)) from None
            text = data.decode(errors="replace")
            return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text, re.M))
        raise Unknown("there is no " + " and no ".join(names[:2]))

    def log(self):
        """The kernel's own messages, as dmesg prints them; programs write there, too."""
        return [line for number, line in self.once("log", self._log) if int(number) < 8]

    def log_of_programs(self):
        """The messages that programs wrote to /dev/kmsg."""
        return [line for number, line in self.once("log", self._log) if int(number) >= 8]

    def _log(self):
        """All messages, as (8 * facility + level, text); facility 0 is the kernel's."""
        lines = []
        fd = os.open(self.path("/dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK)
        try:
            # Skip what dmesg --clear hides: a message that dmesg does not print confuses.
            with contextlib.suppress(OSError):
                os.lseek(fd, 0, os.SEEK_DATA)
            while True:
                try:
                    data = os.read(fd, 65536)
                except BlockingIOError:
                    break
                except BrokenPipeError:    # messages were overwritten while we read
                    continue
                if not data:
                    break
                lines.append(data)
        finally:
            os.close(fd)
        text = printable(b"".join(lines).decode(errors="replace"))
        return re.findall(r"^(\d+),\d+,\d+,[^;\n]*;(.*)$", text, re.M)

    def boot_log(self):
        """The kernel's messages, with what was written to disk after boot."""
        saved = self.read_or("/var/log/dmesg", "")
        return [re.sub(r"^\[[^]]*\] ", "", line) for line in saved.splitlines()] + self.log()

    def kvm_cap(self, cap, vm=True):
        """KVM_CHECK_EXTENSION, of a new VM or of KVM."""
        kvm = os.open(self.path("/dev/kvm"), os.O_RDWR | os.O_CLOEXEC)
        try:
            if not vm:
                return fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, cap)
            fd = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
            try:
                return fcntl.ioctl(fd, KVM_CHECK_EXTENSION, cap)
            finally:
                os.close(fd)
        finally:
            os.close(kvm)

    def cacheable(self):
        """Does KVM map usemem cacheable? Capability 243 of a VM."""
        return self.once("cacheable",
                         lambda: self.kvm_cap(KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED) == 1)

    def vfio_bars(self, gpu):
        """The size of each BAR, as VFIO reports it. This opens the device, which resets it."""
        nodes = gpu.nodes()
        with contextlib.ExitStack() as stack:
            if "cdev" in nodes and self.exists("/dev/iommu"):
                device = self.bind_iommufd(gpu, stack)[0]
            elif "group" in nodes:
                container = self.open_device("/dev/vfio/vfio", stack)
                group = self.open_device(nodes["group"], stack)
                fcntl.ioctl(group, VFIO_GROUP_SET_CONTAINER,
                            bytearray(struct.pack("i", container)), True)
                fcntl.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1V2_IOMMU)
                device = fcntl.ioctl(group, VFIO_GROUP_GET_DEVICE_FD,
                                     bytearray(gpu.bdf.encode() + b"\0"), True)
                stack.callback(os.close, device)
            else:
                raise Unknown("%s has no VFIO node" % gpu.bdf)
            bars = {}
            for bar in range(6):
                info = bytearray(struct.pack("<IIIIQQ", 32, 0, bar, 0, 0, 0))
                fcntl.ioctl(device, VFIO_DEVICE_GET_REGION_INFO, info, True)
                size = struct.unpack("<IIIIQQ", info)[4]
                if size:
                    bars[bar] = size
            return bars

    def open_device(self, name, stack):
        """Open a file until the stack ends."""
        fd = os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return fd

    def bind_iommufd(self, gpu, stack):
        """Open a device over an iommufd: its file, that of the iommufd, and its id there."""
        device = self.open_device(gpu.nodes()["cdev"], stack)
        iommufd = self.open_device("/dev/iommu", stack)
        bind = bytearray(struct.pack("<IIiI", 16, 0, iommufd, 0))
        fcntl.ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, bind, True)
        return device, iommufd, struct.unpack("<IIiI", bind)[3]

    def smmu_registers(self, gpu):
        """IDR0 to IDR5 of the GPU's SMMU. This opens the device, which resets it."""
        import ctypes
        with contextlib.ExitStack() as stack:
            _, iommufd, device_id = self.bind_iommufd(gpu, stack)
            # struct iommu_hw_info_arm_smmuv3: flags, a hole, IDR0 to IDR5, IIDR, AIDR.
            data = (ctypes.c_uint32 * 10)()
            info = bytearray(struct.pack("<IIIIQIIQ", 40, 0, device_id, ctypes.sizeof(data),
                                         ctypes.addressof(data), 0, 0, 0))
            fcntl.ioctl(iommufd, IOMMU_GET_HW_INFO, info, True)
            kind = struct.unpack("<IIIIQIIQ", info)[5]
            if kind != IOMMU_HW_INFO_TYPE_ARM_SMMUV3:
                raise Unknown("the IOMMU of %s is of type %d, which is not an SMMUv3" %
                              (gpu.bdf, kind))
            return list(data)[2:8]

    def node_list(self, name):
        """A list of nodes in sysfs, such as has_cpu; [] if there is none."""
        nodes = []
        for part in self.read_or(NODES + name, "").split(","):
            first, _, last = part.partition("-")
            if first.isdigit():
                nodes += range(int(first), int(last or first) + 1)
        return nodes

    def node_distances(self, node):
        """{node: its distance from this one}; {} if the kernel does not say."""
        text = self.read_or(NODES + "node%d/distance" % node, "")
        return dict(zip(self.node_list("online"), map(int, text.split())))

    def status(self, key):
        """The words of a line of /proc/self/status: of Uid they are 0 0 0 0."""
        match = re.search(r"^%s:[ \t]*(.*)$" % key, self.read("/proc/self/status"), re.M)
        if not match:
            raise Unknown("/proc/self/status has no " + key)
        return match.group(1).split()

    @property
    def page_size(self):
        """In bytes."""
        match = re.search(r"^KernelPageSize:\s*(\d+) kB", self.read("/proc/self/smaps"), re.M)
        if not match:
            raise Unknown("/proc/self/smaps has no KernelPageSize")
        return int(match.group(1)) << 10

    @property
    def block_size(self):
        """Bytes that an entry of the last but one level of page tables maps: 2, 32 or 512 MiB."""
        return self.page_size // 8 * self.page_size

    def is_root(self):
        return self.status("Uid")[1] == "0"

    def has_iommufd(self):
        return self.exists("/dev/iommu") and self.exists("/dev/vfio/devices")

    def iomem(self):
        """/proc/iomem as (start, end, name), outer ranges before those in them."""
        found = re.findall(r"^ *([0-9a-f]+)-([0-9a-f]+) : (.*)$", self.read("/proc/iomem"), re.M)
        ranges = [(int(a, 16), int(b, 16), name) for a, b, name in found]
        if not any(end for _, end, _ in ranges):
            raise Unknown("only root sees the addresses in /proc/iomem")
        return ranges

    def error_text(self, error):
        """An exception as the words after "cannot tell"."""
        if isinstance(error, OSError):
            name = self.name(error.filename) if isinstance(error.filename, str) else None
            hint = ""
            if error.errno in (errno.EACCES, errno.EPERM):
                root = self.read_or("/proc/self/status") and self.is_root()
                hint = "; the kernel's lockdown may forbid it" if root else "; try as root"
            return (name + ": " if name else "") + (error.strerror or str(error)) + hint
        return str(error) or type(error).__name__


class Account:
    """The user who will run QEMU: that of this process, or one by name.

    not_qemu is what to add to an answer about root, since QEMU often runs as another user.
    """

    def __init__(self, host, name=None):
        self.host, self.not_qemu = host, ""
        if name is None:
            self.uid = int(host.status("Uid")[1])
            self.gids = {int(host.status("Gid")[1]), *map(int, host.status("Groups"))}
            self.capabilities = int(host.status("CapEff")[0], 16)
            self.name = self.uid and '"$USER"' or "root"
            if not self.uid:
                self.not_qemu = "; for QEMU of another user: check --user NAME"
            return
        self.name, self.capabilities = name, 0
        for line in host.read("/etc/passwd").splitlines():
            fields = line.split(":")
            if fields[0] == name:
                if len(fields) < 4 or not (fields[2] + fields[3]).isdigit():
                    raise Unknown("/etc/passwd has no user and group id for '%s'" % name)
                self.uid, self.gids = int(fields[2]), {int(fields[3])}
                break
        else:
            self.ask_id(name)
            return
        for line in host.read_or("/etc/group", "").splitlines():
            fields = line.split(":")
            if len(fields) > 3 and fields[2].isdigit() and name in fields[3].split(","):
                self.gids.add(int(fields[2]))
        if not self.uid:
            self.capabilities = ~0

    def ask_id(self, name):
        """A user who is not in /etc/passwd but in LDAP, for example: id knows them."""
        try:
            self.uid = int(self.host.run("id", "-u", name))
            self.gids = set(map(int, self.host.run("id", "-G", name).split()))
        except (Unknown, ValueError):
            raise Refused("/etc/passwd has no user '%s', and id knows none" % name) from None

    def __str__(self):
        return "this user" if self.name.startswith('"') else self.name

    def may_use(self, name):
        if not self.uid:
            return True
        st = os.stat(self.host.path(name))
        if st.st_uid == self.uid:
            return st.st_mode & 0o600 == 0o600
        if st.st_gid in self.gids:
            return st.st_mode & 0o060 == 0o060
        return st.st_mode & 0o006 == 0o006

    def memlock(self):
        """The limit in bytes, None for no limit."""
        if self.capabilities >> 14 & 1:    # CAP_IPC_LOCK
            return None
        if '"' in self.name:
            match = re.search(r"^Max locked memory\s+(unlimited|\d+)",
                              self.host.read("/proc/self/limits"), re.M)
            if not match:
                raise Unknown("/proc/self/limits has no limit of locked memory")
            return None if match.group(1) == "unlimited" else int(match.group(1))
        names = ["/etc/security/limits.conf"]
        names += ["/etc/security/limits.d/" + n for n in self.host.list("/etc/security/limits.d")]
        limit = 8 << 20    # the kernel's
        for file_name in names:
            for line in self.host.read_or(file_name, "").splitlines():
                fields = line.split("#")[0].split()
                if len(fields) == 4 and fields[0] in (self.name, "*") and fields[2] == "memlock":
                    if fields[3] in ("unlimited", "infinity", "-1"):
                        limit = None
                    elif fields[3].isdigit():
                        limit = int(fields[3]) << 10
        return limit
