# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# Debian's packages: some are installed on this machine, the others only unpacked.

# Every verb needs these on the machine itself: the first to fetch, the others to build. The rest
# is fetched without installing.
FETCH_PACKAGES=(e2fsprogs kmod mmdebstrap patchelf perl xz-utils)
HOST_PACKAGES=("${FETCH_PACKAGES[@]}" acpica-tools bc bison ccache cpio flex gcc
	gcc-aarch64-linux-gnu git libc6-dev libc6-dev-arm64-cross libelf-dev libssl-dev make
	patch python3)

apt_install() {
	DEBIAN_FRONTEND=noninteractive timeout 1800 \
		apt-get install -o DPkg::Lock::Timeout=900 -y --no-install-recommends "$@"
}

# install_packages PACKAGE...: wait minutes for another apt-get. A new machine has no lists of
# packages, and old lists name packages that are gone: then update them and try again.
install_packages() {
	local log
	log=$(log_file apt.log)
	{ apt_install "$@" || { apt-get update && apt_install "$@"; }; } > "$log" 2>&1 ||
		die_log "$log" "apt-get could not install: $*"
}

# missing_packages PACKAGE...: print those that are not installed.
missing_packages() {
	printf '%s\n' "$@" | grep -vxF -f <(
		dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2> /dev/null |
			sed -n 's/^installed //p') | tr '\n' ' ' || :
}

# need_packages PACKAGE...: install those that are missing. Nothing else needs root. Of two runs the
# second waits, and finds the packages of the first.
need_packages() {
	local missing
	command -v dpkg-query > /dev/null ||
		die "this needs Debian or a system made from it: no dpkg-query found"
	missing=$(missing_packages "$@")
	[ -n "$missing" ] || return 0
	[ "$(id -u)" = 0 ] || die "packages are missing; as root, run:
  apt-get update && apt-get install -y --no-install-recommends $missing"
	mkdir -p "$CACHE" || die "cannot make the cache, $CACHE"
	(
		lock "$CACHE/apt.lock"
		read -ra missing <<< "$(missing_packages "$@")"
		[ ${#missing[@]} = 0 ] ||
			step "installing ${#missing[@]} packages" - install_packages "${missing[@]}"
	)
}

update_lists() {
	local log
	log=$(log_file apt.log)
	timeout 600 apt-get update > "$log" 2>&1 || die_log "$log" "apt-get update failed"
}

# need_host: install what the machine itself has to have.
need_host() { need_packages "${HOST_PACKAGES[@]}"; }

# need_package_lists: update apt's lists if they lack linux-source-6.12, as on a new machine.
need_package_lists() {
	! apt-cache show linux-source-6.12 > /dev/null 2>&1 || return 0
	[ "$(id -u)" = 0 ] ||
		die "apt has no lists of packages, or none with linux-source-6.12;" \
			"as root, run: apt-get update"
	(
		lock "$CACHE/apt.lock"
		step "updating apt's lists of packages" - update_lists
	)
	apt-cache show linux-source-6.12 > /dev/null 2>&1 ||
		die "apt knows no linux-source-6.12:" \
			"is this Debian 12 or newer, with its security updates?"
}

# security_lists_date: print when Debian made its newest list of security updates that apt has here,
# in seconds since 1970, or nothing if apt has none.
security_lists_date() {
	local lists
	eval "$(apt-config shell lists Dir::State::Lists/d)"
	find "$lists" -maxdepth 1 -name '*_dists_*-security_*Release' \
		-exec sed -n 's/^Date: //p' {} + | date -f - +%s | sort -n | tail -n 1
}

# mirror: print the first Debian mirror of the machine's own apt configuration.
mirror() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2> /dev/null |
		awk '/\/debian\/?$/ && !n++; END { exit !n }'
}

native() { dpkg --print-architecture; }

# unpack SUITE ARCH PACKAGES DIR: unpack packages of a Debian release into DIR, without installing
# them. NAME/trixie-backports takes a backport.
unpack() {
	local suite=$1 arch=$2 packages=$3 dir=$4 name=${3%%,*} log sources uri
	log=$(log_file "fetch-${name//\//-}-$arch.log")
	uri=$(mirror) || die "apt's configuration names no Debian mirror"
	sources=("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main")
	[[ $packages != */trixie-backports* ]] ||
		sources+=("${sources[0]/ trixie / trixie-backports }")
	[ ! -d "$dir" ] || rmdir "$dir"
	timeout 1200 mmdebstrap --mode=chrootless --variant=extract --architectures="$arch" \
		--include="$packages" --aptopt='Acquire::Retries "3"' \
		"$suite" "$dir" "${sources[@]}" > "$log" 2>&1 ||
		die_log "$log" "could not fetch $packages ($arch) from Debian's $suite;" \
			"is there a network?"
}

# trixie ARCH PACKAGES DIR: unpack packages of Debian 13.
trixie() { unpack trixie "$@"; }

# megabytes: print the size of the entry that is being filled.
megabytes() { printf '%d MB' "$(du -sm "$FILLING" 2> /dev/null | cut -f1)"; }

# tools: fetch QEMU and firmware of Debian 13. Older QEMUs do not refuse unaligned access to Device
# memory.
tools() {
	cached "tools-$RECIPE" "fetching QEMU and firmware (Debian 13)" megabytes \
		trixie "$(native)" qemu-system-arm,qemu-efi-aarch64,ipxe-qemu
}

tools_x86() {
	cached "tools-x86-$RECIPE" "fetching QEMU for x86-64 (Debian 13)" megabytes \
		trixie "$(native)" qemu-system-x86
}

# unpacked_qemu TOOLS ARCH: print the command that runs an unpacked QEMU, a word a line.
unpacked_qemu() {
	printf '%s\n' "$1"/usr/lib64/ld-linux-*.so.* --library-path "$1"/usr/lib/*-linux-gnu \
		"$1/usr/bin/qemu-system-$2" -L "$1/usr/share/qemu"
}

# run_unpacked LOADER FILE...: make unpacked programs use the loader and the libraries of their own
# Debian, which is newer than this machine's. All of these are in LOADER's directory.
run_unpacked() {
	local loader=$1 f
	shift
	for f; do
		[ "$(head -c 4 "$f" | tail -c 3)" != ELF ] ||
			patchelf --set-interpreter "$loader" --set-rpath "${loader%/*}" "$f"
	done
}

# fill_usr DIR: make the emulated host's user space: busybox, and an ext4 image of /usr. That has
# QEMU for arm64, UEFI for guests and a template of its variables; and Python, udev and kmod for the
# tool nvgrace-gpu.
fill_usr() {
	local log
	log=$(log_file mke2fs.log)
	trixie arm64 qemu-system-arm,busybox-static,kmod,python3,qemu-efi-aarch64,udev \
		"$1/root"
	rm -rf "$1"/root/usr/share/{doc,man,locale,info}
	find "$1/root/usr/share/AAVMF" -type f ! -name AAVMF_CODE.no-secboot.fd \
		! -name AAVMF_VARS.fd -delete
	mkdir -p "$1/root/usr/lib/modules"
	mke2fs -q -t ext4 -d "$1/root/usr" "$1/usr.img" 512M > "$log" 2>&1 ||
		die_log "$log" "could not make the emulated host's disk"
	mv "$1/root/usr/bin/busybox" "$1/busybox"
	rm -rf "$1/root"
}

host_usr() {
	cached "usr-uefi-$RECIPE" "fetching the emulated host's user space (arm64)" megabytes \
		fill_usr
}

# uapi: fetch the newest kernel's interface to user space, which test programs are built with.
uapi() {
	cached "uapi-$RECIPE" "fetching the newest kernel's UAPI headers" megabytes \
		trixie arm64 linux-libc-dev/trixie-backports
}

# fill_schemas DIR: for each version of libvirt that Debian 13 has, make a directory of that name
# with the schemas of its XML.
fill_schemas() {
	local from version
	for from in '' /trixie-backports; do
		trixie "$(native)" "libvirt-common$from" "$1/unpacked"
		version=$(zcat "$1/unpacked/usr/share/doc/libvirt-common/changelog.Debian.gz" |
			sed -n '1s/^libvirt (\([0-9]*\.[0-9]*\).*/\1/p')
		mv "$1/unpacked/usr/share/libvirt/schemas" "$1/$version"
		rm -rf "$1/unpacked"
	done
}

# libvirt_schemas: install xmllint, and print a directory that fill_schemas has filled.
libvirt_schemas() {
	need_packages "${FETCH_PACKAGES[@]}" libxml2-utils
	cached "libvirt-schemas-$RECIPE" "fetching libvirt's schemas (Debian 13)" megabytes \
		fill_schemas
}
