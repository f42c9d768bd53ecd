# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# The kernels that the emulated host and its guests run. Each is a directory of the cache:
#
#	image		the kernel that boots
#	release		as uname -r prints it
#	about		its origin, for people
#	ko/		modules; ko/boot and ko/guest list those that the host and a guest load at
#			boot, in order
#	build/		for building modules
#	src/		its source, or its headers if there is no more
#	config		its .config

JOBS=$(nproc)
KARCH=(ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-)
# The kernels, one a line: NAME HOW VERSION WORDS. Debian packages some: the word is the flavour of
# its image, with /SUITE for a backport. The others are built from Debian's source of VERSION, with
# tests/rig/kernel.config, kernel-VERSION.config and kernel-WORD.config for each word. The word
# patches stands for patches/linux-6.12.
KERNEL_TABLE='
6.12            packaged  6.12    arm64
6.12-16k        packaged  6.12    arm64-16k
newest          packaged  newest  arm64/trixie-backports
6.12-debug      built     6.12    4k kasan
6.12-patched    built     6.12    4k kasan patches
newest-debug    built     newest  4k kasan
newest-kcsan    built     newest  4k kcsan
6.12-64k-patched built    6.12    64k kasan patches'

# A build makes about so many objects.
OBJECTS=1310

# With ccache, a rebuild takes seconds.
export CCACHE_DIR=$CACHE/ccache CCACHE_MAXSIZE=4G CCACHE_NOHASHDIR=1
KCC="ccache aarch64-linux-gnu-gcc"

# kernel_names: print those of the table.
kernel_names() { awk 'NF { print $1 }' <<< "$KERNEL_TABLE"; }

# kernel_row NAME: print HOW VERSION WORDS.
kernel_row() { awk -v name="$1" '$1 == name { $1 = ""; print }' <<< "$KERNEL_TABLE"; }

check_kernel_name() {
	[ -z "${KSRC:-}" ] || [ "$1" != ksrc ] || return 0
	[[ $1 != *linux-image-*.deb ]] || [ ! -f "$1" ] || return 0
	[ -n "$(kernel_row "$1")" ] ||
		die "unknown kernel '$1', choose from: $(kernel_names | paste -sd ' ')"
}

# ---- facts about a kernel

# A kernel can have these; after the colon is the option of its .config that tells.
OPTIONS=(DMABUF:VFIO_PCI_DMABUF EDR:PCIE_EDR FAULT_INJECTION:FAILSLAB GCOV:GCOV_KERNEL
	IOMMUFD:VFIO_DEVICE_CDEV KASAN:KASAN KCSAN:KCSAN KMEMLEAK:DEBUG_KMEMLEAK KUNIT:KUNIT
	LOCKDEP:PROVE_LOCKING MEMORY_FAILURE:MEMORY_FAILURE NUMA:NUMA SUSPEND:SUSPEND
	USERCOPY_FAULTS:FAULT_INJECTION_USERCOPY)

# header_has KERNEL FILE REGEX: does a file of the kernel's include/, as one line, match?
header_has() { grep -qszP "$3" "$1"/src/{,*-common/}include/"$2"; }

# mbind_is_fixed KERNEL PFNMAP: does mbind() check that a huge entry has a folio? The source tells.
# Packages have no source: one that maps PFNMAP memory cacheable also has this fix.
mbind_is_fixed() {
	local source=$1/src/mm/mempolicy.c
	if [ -f "$source" ]; then grep -q vm_normal_folio_pmd "$source"; else [ "$2" = map ]; fi
}

# kernel_facts KERNEL: print what tests ask about the kernel in this directory, as assignments for
# a shell. PAGES is the size of a page, 4k and the like. DEBUG is 1 if the kernel has lockdep,
# KASAN or KCSAN. GUEST names the kernel of its guests if that is another one: a debug kernel,
# emulated twice over, takes minutes to boot. PFNMAP is map if KVM maps cacheable PFNMAP memory
# Normal Write-Back, and device if KVM takes it for registers. HAS lists what its options, headers
# and symbols show, and LACKS the rest of that: a test may be skipped for what a kernel lacks.
kernel_facts() {
	local kernel=$1 pair option pages debug='' guest='' pfnmap=device has=() lacks=()
	pages=$(sed -n 's/^CONFIG_ARM64_\([0-9]*\)K_PAGES=y/\1k/p' "$kernel/config")
	for pair in "${OPTIONS[@]}"; do
		if grep -q "^CONFIG_${pair#*:}=[ym]" "$kernel/config"; then
			has+=("${pair%:*}")
		else
			lacks+=("${pair%:*}")
		fi
	done
	for option in LOCKDEP KASAN KCSAN; do
		[[ " ${has[*]} " != *" $option "* ]] || debug=1
	done
	if [ -n "$debug" ]; then
		guest=newest
		[[ $(cat "$kernel/release") != 6.12.* ]] || guest=6.12
	fi
	! header_has "$kernel" uapi/linux/kvm.h KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED || pfnmap=map
	# found NAME COMMAND...
	found() {
		local name=$1
		shift
		if "$@"; then has+=("$name"); else lacks+=("$name"); fi
	}
	found MBIND_FIXED mbind_is_fixed "$kernel" $pfnmap
	found DMA_BY_BLOCK header_has "$kernel" linux/mm.h \
		'struct follow_pfnmap_args \{[^}]*\b(size|addr_mask);'
	found RESET_BLOCKS_DMA header_has "$kernel" linux/iommu.h pci_dev_reset_iommu_prepare
	found PFN_ADDRESS_SPACE grep -q '\sregister_pfn_address_space\s' \
		"$kernel/build/Module.symvers"
	printf "PAGES=%s\nDEBUG=%s\nGUEST=%s\nPFNMAP=%s\nHAS='%s'\nLACKS='%s'\n" \
		"$pages" "$debug" "$guest" $pfnmap "${has[*]}" "${lacks[*]}"
}

# ---- Debian's own, unpacked

# Modules that the emulated host and a guest load at boot.
HOST_MODULES=(virtio_blk virtio_console ext4 vfio_iommu_type1 vfio-pci)
GUEST_MODULES=(virtio_console)
# Jobs load these.
MORE_MODULES=(hwpoison-inject aer_inject)

# unpack_modules TREE RELEASE KO: take the modules above, and those that they depend on, from TREE.
unpack_modules() {
	local tree=$1 release=$2 ko=$3 path checksum=()
	# The ext4 of 6.12 looks for it by its algorithm; newer kernels have it built in.
	[ -z "$(find "$tree/usr" -name 'crc32c_generic.ko*')" ] || checksum=(crc32c_generic)
	mkdir "$ko"
	depmod -b "$tree/usr" "$release"
	# order LIST MODULE...: write the files to load, in order.
	order() {
		local list=$1 m
		shift
		for m; do
			modprobe -d "$tree/usr" -S "$release" --show-depends "$m" ||
				die "Linux $release has no module $m"
		done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' > "$list"
	}
	order "$ko/boot.paths" "${checksum[@]}" "${HOST_MODULES[@]}"
	order "$ko/guest.paths" "${GUEST_MODULES[@]}"
	order "$ko/more.paths" "${MORE_MODULES[@]}"
	while read -r path; do
		case $path in
		*.xz) xz -dc "$path" > "$ko/$(basename "$path" .xz)" ;;
		*) cp "$path" "$ko/" ;;
		esac
	done < <(sort -u "$ko"/*.paths)
	sed 's|.*/||; s|\.xz$||' "$ko/boot.paths" > "$ko/boot"
	sed 's|.*/||; s|\.xz$||' "$ko/guest.paths" > "$ko/guest"
	rm "$ko"/*.paths
}

# unpack_headers TREE HOST RELEASE FINAL DIR: make Debian's headers a tree to build against on this
# machine. Its makefiles find each other wherever the tree is, and kbuild's programs are this
# machine's. Options that its compiler and pahole may lack are off: they are not part of the ABI of
# modules.
unpack_headers() {
	local tree=$1 host=$2 release=$3 final=$4 dir=$5 loader programs
	mkdir "$dir/lib" "$dir/lib/host"
	cp -a "$tree/usr/src" "$dir/src"
	cp -a "$host"/usr/lib/linux-kbuild-* "$dir/lib/"
	cp -L "$host"/usr/lib/*-linux-gnu/*.so* "$dir/lib/host/"
	mapfile -t programs < <(find "$dir"/lib/linux-kbuild-* -type f -perm -u+x)
	loader=$(basename "$dir"/lib/host/ld-linux-*.so.*)
	run_unpacked "$final/lib/host/$loader" "${programs[@]}"
	sed -i "s|/usr/src/|$final/src/|" "$dir/src/linux-headers-$release/Makefile"
	sed -i '/^CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=/d; /^CONFIG_DEBUG_INFO_BTF/d' \
		"$dir/src/linux-headers-$release/include/config/auto.conf"
	rm -f "$dir/src/linux-headers-$release/vmlinux"
	ln -s "src/linux-headers-$release" "$dir/build"
}

# fill_packaged FLAVOUR[/SUITE] FINAL DIR
fill_packaged() {
	local flavour=${1%%/*} suite=${1#"${1%%/*}"} final=$2 dir=$3 release kbuild
	trixie arm64 "linux-image-$flavour$suite,linux-headers-$flavour$suite" "$dir/tree"
	release=$(basename "$dir"/tree/usr/lib/modules/*)
	kbuild=$(basename "$dir"/tree/usr/lib/linux-kbuild-*)
	trixie "$(native)" "$kbuild$suite" "$dir/host"
	unpack_headers "$dir/tree" "$dir/host" "$release" "$final" "$dir"
	unpack_modules "$dir/tree" "$release" "$dir/ko"
	cp "$dir/tree/boot/vmlinuz-$release" "$dir/image" 2> /dev/null ||
		cp "$dir/tree/usr/lib/modules/$release/vmlinuz" "$dir/image"
	cp "$dir/build/.config" "$dir/config"
	echo "$release" > "$dir/release"
	echo "Debian's linux-image-$release" > "$dir/about"
	rm -rf "$dir/tree" "$dir/host"
}

packaged() {
	local name flavour
	read -r _ _ flavour <<< "$(kernel_row "$1")"
	# Programs have the path of their libraries in them, so an entry of the cache cannot move.
	name=kernel-$1-$(key <<< "$CACHE $RECIPE")
	cached "$name" "fetching Debian's kernel, $1" megabytes \
		fill_packaged "$flavour" "$CACHE/$name"
}

# fill_deb IMAGE DIR: unpack packages of make deb-kernel. Their programs of kbuild are for arm64; on
# other machines those of Debian's own package replace them.
fill_deb() {
	local image=$1 headers=${1/linux-image-/linux-headers-} dir=$2 release kbuild
	dpkg-deb -x "$image" "$dir/tree"
	dpkg-deb -x "$headers" "$dir/tree"
	mkdir -p "$dir/tree/usr/lib"
	mv "$dir/tree/lib/modules" "$dir/tree/usr/lib/"
	release=$(basename "$dir"/tree/usr/lib/modules/*)
	unpack_modules "$dir/tree" "$release" "$dir/ko"
	mv "$dir/tree/usr/src/linux-headers-$release" "$dir/build"
	ln -s build "$dir/src"
	if [ "$(native)" != arm64 ]; then
		kbuild=$(echo "$(kernel 6.12)"/lib/linux-kbuild-*/scripts)
		cp "$kbuild/basic/fixdep" "$dir/build/scripts/basic/"
		cp "$kbuild/genksyms/genksyms" "$dir/build/scripts/genksyms/"
		# modpost itself is a script that chooses one of these.
		cp "$kbuild/mod/modpost.real-lsb-64" "$dir/build/scripts/mod/modpost"
	fi
	mv "$dir/tree/boot/vmlinuz-$release" "$dir/image"
	mv "$dir/tree/boot/config-$release" "$dir/config"
	echo "$release" > "$dir/release"
	echo "${image##*/}" > "$dir/about"
	rm -rf "$dir/tree"
}

deb() {
	local headers=${1/linux-image-/linux-headers-}
	[ -f "$headers" ] || die "$1 has no $(basename "$headers") beside it"
	cached "kernel-deb-$(cat "$1" "$headers" | key)" "unpacking ${1##*/}" - fill_deb "$1"
}

# ---- sources

fill_source() {
	local version=$1 dir=$2 log
	log=$(log_file source.log)
	(cd "$dir" && timeout 1200 apt-get -o Acquire::Retries=3 download \
		"linux-source-6.12=$version" &&
		dpkg-deb -x ./*.deb deb && tar -xf deb/usr/src/*.tar.xz --strip-components=1 &&
		rm -rf deb ./*.deb) > "$log" 2>&1 ||
		die_log "$log" "could not fetch linux-source-6.12 $version; is there a network?"
	echo "Debian's linux-source-6.12 $version" > "$dir/.about"
}

# source_versions: print the releases of 6.12 that apt offers, newest first. apt takes a second for
# that, so the answer is kept until apt has new lists.
source_versions() {
	local known=$CACHE/source-versions new=$CACHE/source-versions.$BASHPID
	if [ ! -s "$known" ] || [ /var/lib/apt/lists -nt "$known" ]; then
		mkdir -p "$CACHE" || die "cannot make the cache, $CACHE"
		need_package_lists
		apt-cache madison linux-source-6.12 | awk '{ print $3 }' | sort -ruV > "$new"
		mv "$new" "$known"
	fi
	cat "$known"
}

# source_of VERSION: fetch the source of one of these releases.
source_of() {
	cached "linux-$1" "fetching the source of Linux $1" megabytes fill_source "$1"
}

# source_612: fetch the source of the newest one.
source_612() { source_of "$(source_versions | sed -n 1p)"; }

# fill_source_newest DIR: the newest kernel of Debian 13 is a backport. linux-source only depends on
# the package of the version, and its changelog names that.
fill_source_newest() {
	local dir=$1 doc version
	trixie "$(native)" linux-source/trixie-backports "$dir/deb"
	doc=$dir/deb/usr/share/doc/linux-source/changelog.Debian.gz
	version=$(zcat "$doc" | sed -n '1s/^linux (\(.*\)) .*/\1/p')
	[ -n "$version" ] || die "$doc does not begin with a version of linux"
	tar -xf "$dir"/deb/usr/src/linux-source-*.tar.xz -C "$dir" --strip-components=1 ||
		die "the source of Linux $version could not be unpacked"
	echo "Debian's linux-source $version" > "$dir/.about"
	rm -rf "$dir/deb"
}

source_newest() {
	cached "linux-newest-$RECIPE" "fetching the source of the newest Linux" megabytes \
		fill_source_newest
}

# kernel_source NAME: fetch the source of a kernel that is built, or the nearest to a packaged one.
kernel_source() {
	local version
	read -r _ version _ <<< "$(kernel_row "$1")"
	case $1:$version in
	ksrc:) (cd "$KSRC" && pwd) ;;
	*:newest) source_newest ;;
	*) source_612 ;;
	esac
}

# fetch_kernel NAME: fetch what Debian has of a kernel: the package, or the source.
fetch_kernel() {
	case $(kernel_row "$1") in
	*packaged*) kernel "$1" ;;
	*built*) kernel_source "$1" ;;
	esac
}

# ---- kernels that are built here

# fragment NAME SOURCE: print the configuration, on top of allnoconfig.
fragment() {
	local version words word
	read -r _ version words <<< "$(kernel_row "$1")"
	if [ "$1" = ksrc ]; then
		version=newest words='4k kasan'
		[[ $(make -s -C "$2" kernelversion) != 6.12.* ]] || version=6.12
	fi
	cat "$TOP/tests/rig/kernel.config"
	for word in $version ${words%patches}; do cat "$TOP/tests/rig/kernel-$word.config"; done
}

objects() {
	printf '%d of about %d objects' \
		"$(grep -c '^  \(CC\|AS\) ' "$FILLING/build.log" 2> /dev/null)" $OBJECTS
}

# make_kernel SOURCE OUT LOG TARGET...: build a kernel. The tests that wait for it take longest, so
# it has the same priority as those that run meanwhile.
make_kernel() {
	local source=$1 out=$2 log=$3
	shift 3
	make -C "$source" O="$out" "${KARCH[@]}" CC="$KCC" -j"$((JOBS + 1))" "$@" \
		>> "$log" 2>&1 || die_log "$log" "the kernel did not build"
}

# configure NAME SOURCE OUT LOG: an option of the fragment that the kernel changes is an error.
configure() {
	local out=$3 log=$4 lost
	fragment "$1" "$2" > "$out/fragment"
	make -C "$2" O="$out" "${KARCH[@]}" CC="$KCC" KCONFIG_ALLCONFIG="$out/fragment" \
		allnoconfig >> "$log" 2>&1 || die_log "$log" "the kernel could not be configured"
	lost=$(grep -o '^CONFIG_[A-Z0-9_]*=.*' "$out/fragment" | grep -vxF -f "$out/.config" || :)
	[ -z "$lost" ] || die "$1 does not take from tests/rig/kernel*.config: ${lost//$'\n'/ }"
}

# fill_debian_config DIR: one file for each flavour.
fill_debian_config() {
	local flavour
	trixie arm64 linux-config-6.12 "$1/tree"
	for flavour in arm64 arm64-16k; do
		xz -dc "$1/tree/usr/src/linux-config-6.12/config.arm64_none_$flavour.xz" \
			> "$1/$flavour"
	done
	rm -rf "$1/tree"
}

# debian_config REVISION: print the directory of Debian's configurations of 6.12. They are fetched
# once for each revision of the source.
debian_config() {
	cached "config-$1-$RECIPE" "fetching Debian's configuration of Linux 6.12" - \
		fill_debian_config
}

# Guests with a GPU need these modules, whatever the machine has loaded.
FOR_GUESTS=(vfio_pci vfio_iommu_type1 vhost_net vhost_vsock tun)

# configure_debian PAGES LSMOD CONFIG SOURCE OUT LOG: configure as Debian's 6.12, with pages of 4k,
# 16k or 64k, and only the modules in the file LSMOD if that is not empty. CONFIG is what
# debian_config printed. It names no key, so kbuild makes one to sign modules. Debugging
# information, and with it BTF, is off: it takes much time and disk.
configure_debian() {
	local pages=$1 lsmod=$2 config=$3 source=$4 out=$5 log=$6 flavour=arm64 options=() kbuild
	kbuild=(make -C "$source" O="$out" "${KARCH[@]}" CC="$KCC")
	[ "$pages" != 16k ] || flavour=arm64-16k
	# Debian has no flavour with pages of this size.
	[ "$pages" != 64k ] || options=(-d ARM64_4K_PAGES -e ARM64_64K_PAGES)
	cp "$config/$flavour" "$out/.config"
	"$source/scripts/config" --file "$out/.config" "${options[@]}" \
		--set-str LOCALVERSION "-nvgrace-$pages" \
		-d DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT -e DEBUG_INFO_NONE
	"${kbuild[@]}" olddefconfig >> "$log" 2>&1 ||
		die_log "$log" "the kernel could not be configured"
	grep -qx "CONFIG_ARM64_${pages^^}_PAGES=y" "$out/.config" ||
		die_log "$log" "Debian's configuration does not take pages of $pages"
	[ -n "$lsmod" ] || return 0
	{ cat "$lsmod"; printf '%s 0 0\n' "${FOR_GUESTS[@]}"; } > "$out/lsmod"
	"${kbuild[@]}" LSMOD="$out/lsmod" localmodconfig < <(yes '') >> "$log" 2>&1 ||
		die_log "$log" "kbuild's localmodconfig failed"
}

# describe SOURCE OUT ABOUT DIR: fill a kernel's directory from its build.
describe() {
	local source=$1 out=$2 about=$3 dir=$4
	# Newer kernels write the paths of build and source into this makefile.
	local here='$(dir $(abspath $(lastword $(MAKEFILE_LIST))))'
	sed -i -e "s|^export KBUILD_OUTPUT = .*|export KBUILD_OUTPUT := $here|" \
		-e "s|^include $(dirname "$out")/Makefile|include ../Makefile|" "$out/Makefile"
	rm -rf "$dir/ko"
	mkdir "$dir/ko"
	: > "$dir/ko/boot"
	: > "$dir/ko/guest"
	find "$out/drivers" "$out/mm" "$out/lib" -name '*.ko' -exec cp -t "$dir/ko" {} +
	ln -sfn "$(realpath --relative-to="$dir" "$out")" "$dir/build"
	cp "$out/arch/arm64/boot/Image" "$dir/image"
	cp "$out/.config" "$dir/config"
	cp "$out/include/config/kernel.release" "$dir/release"
	echo "$about" > "$dir/about"
}

# series VERSION: print the paths of the patches for it, without the cover letter.
series() { find "$TOP/patches/linux-$1" -name '0*.patch' ! -name '0000-*' | sort; }

mapfile -t SERIES < <(series 6.12)

# own_git: hide the user's configuration from git, which may have hooks or sign commits, and the
# variables of another git, which may run this script. For subshells.
own_git() {
	# shellcheck disable=SC2046
	unset $(git rev-parse --local-env-vars)
	export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
	export GIT_{AUTHOR,COMMITTER}_NAME=nvgrace_gpu
	export GIT_{AUTHOR,COMMITTER}_EMAIL=nvgrace_gpu@localhost
}

# tree_git TREE COMMAND...: run git in a kernel tree.
tree_git() (
	own_git
	git -C "$@" < /dev/null
)

# begin_series TREE VERSION: make a kernel tree a git repository of the files that the series
# touches. git am needs no others, and these take a second.
begin_series() {
	local f files=()
	while read -r f; do
		# A patch of the series may be the one that adds this file.
		[ ! -e "$1/$f" ] || files+=("$f")
	done < <(series "$2" | xargs sed -n 's|^--- a/||p' | sort -u)
	tree_git "$1" init -q &&
		tree_git "$1" add -f "${files[@]}" &&
		tree_git "$1" commit -q -m base
}

# apply_series TREE: patch a tree of 6.12 as the documents say, with git am, which accepts no fuzz.
# It replaces files, so other hard links to them keep what they have.
apply_series() {
	local p log
	log=$(log_file series.log)
	begin_series "$1" 6.12 > "$log" 2>&1 ||
		die_log "$log" "git could not make a repository of $1"
	for p in "${SERIES[@]}"; do
		tree_git "$1" am "$p" >> "$log" 2>&1 ||
			die_log "$log" "${p#"$TOP/"} does not apply:" \
				"$(sed -n '/^error: /{s///p;q}' "$log")"
	done
	# kbuild would add a "+" to the release of a tree that has a repository.
	rm -rf "$1/.git"
}

# has_series NAME: is this kernel built with the series?
has_series() { [[ $(kernel_row "$1") = *patches ]]; }

# fill_built NAME SOURCE DIR: the source is hard links, and git replaces a file. The build is a
# directory in it, so that kbuild's paths are relative, and both can be moved and copied.
fill_built() {
	local name=$1 source=$2 dir=$3 log=$3/build.log about
	about="$name, built from $(cat "$source/.about")"
	mkdir "$dir/src"
	cp -al "$source/." "$dir/src/"
	if has_series "$name"; then
		apply_series "$dir/src"
		about+=", with patches/linux-6.12"
	fi
	mkdir "$dir/src/build"
	configure "$name" "$dir/src" "$dir/src/build" "$log"
	# KCSAN samples accesses. It instruments the driver alone, because the driver's accesses
	# would be lost among those of the whole kernel.
	make_kernel "$dir/src" "$dir/src/build" "$log" KCSAN_SANITIZE=n Image modules
	describe "$dir/src" "$dir/src/build" "$about" "$dir"
}

built() {
	local name=$1 source inputs
	source=$(kernel_source "$name")
	inputs=$(fragment "$name" "$source"; basename "$source"; aarch64-linux-gnu-gcc --version
		! has_series "$name" || cat "${SERIES[@]}"
		echo "$RECIPE")
	cached "kernel-$name-$(key <<< "$inputs")" "building $name (the long step)" objects \
		fill_built "$name" "$source"
}

# copy_build KERNEL DIR: copy a kernel's source and build. Changes there do not reach the original,
# and only what changes is built again.
copy_build() {
	mkdir "$2/src"
	find "$1/src" -mindepth 1 -maxdepth 1 ! -name build -exec cp -al -t "$2/src" {} +
	cp -a "$1/src/build" "$2/src/build"
}

# own_tree: build KSRC each time; make knows what changed.
own_tree() {
	local source dir log
	source=$(kernel_source ksrc)
	[ -f "$source/Kbuild" ] || die "KSRC=$KSRC is not a kernel source tree"
	dir=$CACHE/ksrc-$(key <<< "$source")
	mkdir -p "$dir/build"
	lock "$dir/lock"
	log=$dir/build.log
	: > "$log"
	FILLING=$dir
	configure ksrc "$source" "$dir/build" "$log"
	step "building the kernel in $KSRC" objects \
		make_kernel "$source" "$dir/build" "$log" Image modules
	ln -sfn "$source" "$dir/src"
	describe "$source" "$dir/build" "$KSRC" "$dir"
	printf '%s\n' "$dir"
}

# kernel NAME: print the directory of a kernel, fetched or built if it is not there.
kernel() {
	local how
	check_kernel_name "$1"
	read -r how _ <<< "$(kernel_row "$1")"
	case $1 in
	ksrc) own_tree ;;
	*.deb) deb "$1" ;;
	*) "$how" "$1" ;;
	esac
}
