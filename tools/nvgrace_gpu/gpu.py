# SPDX-License-Identifier: GPL-2.0-only
"""GPUs, as sysfs shows them: identity, driver, users, BARs, coherent memory."""

import collections
import contextlib
import pkgutil
import re
import struct
import sys

from .firmware import aml_properties
from .host import Refused, Unknown
from .users import PROC, cures_of, sees_all, users_of

# The name of the module and of the driver; and that of the kernel's own for the same GPUs, which
# a build with DROPIN=1 has, too: see our_driver().
DRIVER, INTREE = "nvgrace_gpu", "nvgrace_gpu_vfio_pci"
COHERENT_DRIVERS = (DRIVER, INTREE)

NVIDIA = 0x10DE
# In the tree the driver's list of ids is here as a link; scripts/tool packs what it leads to.
IDS = {int(device, 16): product for device, product in re.findall(
    r'ID\((0x\w+), "(.*)"\)', pkgutil.get_data(__package__, "ids.h").decode())}

DEVICES = "/sys/bus/pci/devices"
NOIOMMU = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"

# Training of link and memory ends within this many seconds, or the driver gives up; and the most
# that the DVSEC of a CXL device can ask for.
TRAINING, CXL_TRAINING = 30, 256

# Extended capabilities, and the DVSEC for CXL Devices: (vendor, id).
DVSEC, CXL_DEVICE = 0x23, (0x1E98, 0)

Region = collections.namedtuple("Region", "name bar base backed bar_size")


class Gpu:
    """A PCI function, whatever it is: see find_gpus()."""

    def __init__(self, host, bdf):
        self.host, self.bdf = host, bdf
        self.dir = DEVICES + "/" + bdf

    def __str__(self):
        return self.bdf

    def attr(self, name):
        return self.host.read(self.dir + "/" + name)

    @property
    def vendor(self):
        return self.host.number(self.dir + "/vendor", 16)

    @property
    def device(self):
        return self.host.number(self.dir + "/device", 16)

    @property
    def known(self):
        return self.vendor == NVIDIA and self.device in IDS

    @property
    def model(self):
        return IDS.get(self.device, "unknown") if self.vendor == NVIDIA else "unknown"

    @property
    def hopper(self):
        return self.vendor == NVIDIA and 0x2340 <= self.device <= 0x237F

    @property
    def socket(self):
        """Firmware numbers segments so: 8 and 9 at socket 0, 18h and 19h at socket 1."""
        return int(self.bdf.split(":")[0], 16) >> 4 & 0xF

    @property
    def numa_node(self):
        try:
            return self.host.number(self.dir + "/numa_node")
        except OSError:
            return -1

    @property
    def driver(self):
        return self.host.link(self.dir + "/driver")

    @property
    def override(self):
        if self.leaving:
            raise Unknown("NVIDIA's driver gives it up, and driver_override is locked meanwhile")
        text = self.host.read_or(self.dir + "/driver_override", "")
        return None if text in ("", "(null)") else text

    @property
    def group(self):
        return self.host.link(self.dir + "/iommu_group")

    @property
    def smmu(self):
        """The name of its SMMU in /sys/class/iommu, or None."""
        return self.host.link(self.dir + "/iommu")

    def max_link(self):
        """The fastest and widest link of its PCIe port, ("32.0", "16"); "" is not known."""
        speed = re.match(r"([\d.]+) GT/s", self.host.read_or(self.dir + "/max_link_speed", ""))
        width = self.host.read_or(self.dir + "/max_link_width", "")
        return speed.group(1) if speed else "", width if width not in ("0", "255") else ""

    def group_members(self):
        return self.host.list(self.dir + "/iommu_group/devices")

    def nodes(self):
        """The VFIO nodes of the device: {"group": path, "cdev": path}."""
        nodes = {}
        if self.group and self.host.exists("/dev/vfio/" + self.group):
            nodes["group"] = "/dev/vfio/" + self.group
        for name in self.host.list(self.dir + "/vfio-dev"):
            if self.host.exists("/dev/vfio/devices/" + name):
                nodes["cdev"] = "/dev/vfio/devices/" + name
        return nodes

    @property
    def leaving(self):
        """NVIDIA's driver gives it up, and waits for its users.

        The PCI core takes the link to a driver away before it calls the driver's remove, and
        holds the device lock then: a task that reads or writes driver_override waits for that.
        """
        return not self.driver and self.host.exists("%s/gpus/%s" % (PROC, self))

    def users(self, deep=False):
        """The processes that have the device open, and with deep whatever else uses it."""
        return users_of(self, deep)

    def physical_bars(self):
        """BARs 0 to 5 as sysfs has them, without the emulated ones: {0: size}."""
        bars = {}
        for bar, line in enumerate(self.attr("resource").splitlines()[:6]):
            match = re.fullmatch("0x([0-9a-f]+) 0x([0-9a-f]+) 0x([0-9a-f]+)", line)
            if not match:
                raise Unknown("%s/resource has for BAR%d '%s'" % (self.dir, bar, line))
            start, end, flags = (int(n, 16) for n in match.groups())
            if flags and end:
                bars[bar] = end - start + 1
        return bars

    def config_space(self):
        data = self.host.read_bytes(self.dir + "/config", 64)
        if len(data) < 64:
            raise Unknown("%s/config has %d bytes, not 64" % (self.dir, len(data)))
        return data

    def cxl_ranges(self):
        """The low half of the size of each range in its CXL Device DVSEC, which has what the
        driver polls; [] if there is none, or if config space cannot be read so far."""
        data, at = b"", 0x100
        with contextlib.suppress(OSError):
            data = self.host.read_bytes(self.dir + "/config", 4096)
        for _ in range(480):
            if at < 0x100 or at + 0x30 > len(data):
                break
            header, first, second = struct.unpack_from("<III", data, at)
            if header & 0xFFFF == DVSEC and (first & 0xFFFF, second & 0xFFFF) == CXL_DEVICE:
                ranges = 2 if second >> 20 & 3 == 2 else 1
                return [struct.unpack_from("<I", data, at + 0x1C + 0x10 * i)[0]
                        for i in range(ranges)]
            at = header >> 20
        return []

    @property
    def training(self):
        """How many seconds the driver waits for it at most."""
        return CXL_TRAINING if self.cxl_ranges() else TRAINING

    def capabilities(self):
        """The ids in its list of capabilities; only root sees that list."""
        data, ids = self.host.read_bytes(self.dir + "/config", 256), set()
        if len(data) < 256 or not data[6] & 0x10:
            return ids
        at = data[0x34] & 0xFC
        while at and at < 255 and len(ids) < 48:
            ids.add(data[at])
            at = data[at + 1] & 0xFC
        return ids

    def files(self):
        """The driver's files in sysfs about a GPU that it has: {"handover": "reset"}.

        A user other than root gets no addresses.
        """
        directory = self.dir + "/nvgrace_gpu"
        texts = {name: self.host.read_or(directory + "/" + name)
                 for name in self.host.list(directory)}
        return {name: text for name, text in texts.items() if text is not None}

    def log(self):
        """The messages of drivers about it, without the address."""
        pattern = re.compile(r"^([\w-]+) %s: (.*)" % re.escape(self.bdf))
        return [m.groups() for m in map(pattern.match, self.host.log()) if m]

    def regions(self):
        """The emulated BARs; only root gets a base that is not None."""
        files = self.files()
        if not files:
            raise Unknown("its driver has no files in %s/nvgrace_gpu" % self.dir)

        def number(name, base=10):
            return self.host.number(self.dir + "/nvgrace_gpu/" + name, base)

        return [Region(name, number(name + "_bar"),
                       number(name + "_base", 16) if name + "_base" in files else None,
                       number(name + "_backed"), number(name + "_bar_size"))
                for name in ("usemem", "resmem") if name + "_bar" in files]

    def bars(self):
        """The size of each BAR that a VMM sees, and which of them are emulated."""
        physical = self.physical_bars()
        try:
            emulated = {r.bar: r.bar_size for r in self.regions()}
        except (Unknown, OSError):
            bars = self.host.vfio_bars(self)
            emulated = {b: size for b, size in bars.items() if physical.get(b) != size}
            return bars, emulated
        return {**physical, **emulated}, emulated

    def firmware_memory(self):
        """(base, size) of the coherent memory from ACPI, None for what is not there."""
        found = self.firmware_properties()
        return found.get("gpu-mem-base-pa"), found.get("gpu-mem-size")

    def firmware_egm(self):
        """Its EGM properties in ACPI: {"base-pa": 1}; {} if firmware has set none apart.

        A list of retired pages alone names no region, for the driver neither.
        """
        named = {name[len("egm-"):]: value for name, value in self.firmware_properties().items()
                 if name.startswith("egm-")}
        return named if set(named) - {"retired-pages-data-base"} else {}

    def firmware_properties(self):
        return self.host.once("acpi " + self.bdf, self._firmware_properties)

    def _firmware_properties(self):
        path = self.host.read_or(self.dir + "/firmware_node/path")
        if not path:
            raise Unknown("firmware has no ACPI device for it")
        directory = "/sys/firmware/acpi/tables"
        tables = [directory + "/" + name for name in self.host.list(directory)
                  if name.startswith(("DSDT", "SSDT"))]
        tables += [directory + "/dynamic/" + name
                   for name in self.host.list(directory + "/dynamic")]
        if not tables:
            raise Unknown("there are no ACPI tables in " + directory)
        found = {}
        for table in tables:
            try:
                properties = aml_properties(self.host.read_bytes(table), path)
            except (IndexError, struct.error):
                raise Unknown("the ACPI table %s is cut short" % table) from None
            for name, value in properties.items():
                found.setdefault(name, value)
        return found

    def memory(self):
        """(base, size) of the coherent memory: as the driver has it, or as firmware says."""
        with contextlib.suppress(Unknown, OSError):
            regions = self.regions()
            if regions and regions[0].base is not None:
                return regions[0].base, sum(r.backed for r in regions)
        return self.firmware_memory()


def find_gpus(host):
    """All functions with the id of a GPU that has coherent memory."""
    gpus = []
    for bdf in host.list(DEVICES):
        gpu = Gpu(host, bdf)
        try:
            ids = gpu.vendor, gpu.device
        except (OSError, Unknown):
            continue
        if ids[0] == NVIDIA and ids[1] in IDS:
            if not host.exists(gpu.dir + "/physfn"):
                gpus.append(gpu)
    return gpus


def pci_address(name):
    bdf = name.lower()
    if re.fullmatch(r"[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", bdf):
        bdf = "0000:" + bdf
    if not re.fullmatch(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", bdf):
        raise Refused("'%s' is not a PCI address such as 0009:01:00.0" % name)
    return bdf


def choose_gpus(host, names, any_id=False):
    """The GPUs that have these names, or all of them."""
    if not names:
        gpus = find_gpus(host)
        if not gpus:
            raise Refused("no NVIDIA GPU with coherent memory is on this machine's PCI buses; "
                          "lspci -D -d 10de: lists what is there")
        return gpus
    gpus = []
    for name in names:
        bdf = pci_address(name)
        gpu = Gpu(host, bdf)
        if not host.exists(gpu.dir):
            raise Refused("there is no PCI function %s; these are GPUs: %s" %
                          (bdf, ", ".join(map(str, find_gpus(host))) or "none"))
        if gpu.bdf in map(str, gpus):
            raise Refused("%s is named twice" % bdf)
        if not gpu.known and not any_id:
            raise Refused("%s is %04x:%04x, which is not a GPU with coherent memory; --any-id "
                          "takes it all the same" % (bdf, gpu.vendor, gpu.device))
        gpus.append(gpu)
    return gpus


def refuse_if_in_use(gpu):
    users = gpu.users(deep=True)
    if users:
        raise Refused("%s is in use by %s: end that first\n      %s" %
                      (gpu, ", ".join(u.who for u in users), "\n      ".join(cures_of(users))))
    if not sees_all(gpu.host):
        print("%s: only root sees whether the process of another user has it open" % gpu,
              file=sys.stderr)
