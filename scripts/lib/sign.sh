# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# The module is built as the package's DKMS builds it, and signed with a key that is in the variable
# db of the emulated host's firmware.

# dkms_conf KERNEL ARRAY: print the first element of an array of dkms.conf, as DKMS reads it.
dkms_conf() {
	(
		# shellcheck disable=SC2034
		kernel_source_dir=$1/build
		# shellcheck disable=SC1091
		. "$TOP/dkms.conf"
		local -n array=$2
		printf '%s\n' "${array[0]}"
	)
}

# fill_dkms KERNEL DIR: build the package's source with the command of dkms.conf.
fill_dkms() {
	local kernel=$1 dir=$2 log=$2/log command
	command=$(dkms_conf "$kernel" MAKE)
	make -s -C "$TOP" dkms-source DESTDIR="$dir/root"
	(cd "$dir"/root/usr/src/nvgrace-gpu-* &&
		$command "${KARCH[@]}" CC="$KCC" CC_FLAGS_FTRACE=) > "$log" 2>&1 ||
		die_log "$log" "the package's source did not build by: $command"
	mv "$dir"/root/usr/src/nvgrace-gpu-*/"$(dkms_conf "$kernel" BUILT_MODULE_NAME)".ko "$dir/"
	rm -r "$dir/root"
}

dkms_module() {
	local inputs
	inputs=$(cat "$TOP"/{dkms.conf,Makefile,Kbuild,Kconfig} "$TOP"/nvgrace_gpu*.[ch]
		cat "$1/config"; echo "$1 $RECIPE")
	cached "dkms-$(key <<< "$inputs")" "building the package's module for $(cat "$1/release")" \
		- fill_dkms "$1"
}

# sign_as_documented KERNEL MODULE: make a key and sign with the commands of install.rst.
sign_as_documented() {
	local kernel=$1 module=$2 commands
	commands=$(sed -n '/^  openssl req/,/^  mokutil/{/mokutil/d; p}' \
		"$TOP/Documentation/install.rst")
	[[ $commands = *sign-file* ]] || die "install.rst has no commands that sign a module"
	# Here the module is for another kernel than the running one.
	commands=${commands//'/lib/modules/$(uname -r)'/$kernel}
	sh -ec "${commands//MODULE/$module}"
}

# write_db CERTIFICATE TEMPLATE FILE: copy TEMPLATE, an empty variable store of AAVMF, and add the
# variable db: a list of one certificate. The kernel reads db even if secure boot is off, but then
# not shim's list of machine owner's keys.
write_db() {
	python3 - "$@" << 'END_OF_PYTHON'
import struct, sys, uuid
certificate, template, out = sys.argv[1:]
X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
DB = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f").bytes_le
STORE, FIRST = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le, 0x64
key = open(certificate, "rb").read()
data = X509 + struct.pack("<III", 28 + 16 + len(key), 0, 16 + len(key)) + bytes(16) + key
name = "db\0".encode("utf-16-le")
# Complete, as firmware marks a db; then count, time, key and lengths.
header = struct.pack("<HBBIQ16xIII", 0x55AA, 0x3F, 0, 0x27, 0, 0, len(name), len(data)) + DB
store = bytearray(open(template, "rb").read())
assert store[0x48:0x58] == STORE and store[FIRST] == 0xFF, "no empty store of variables"
record = header + name + data
store[FIRST:FIRST + len(record)] = record
open(out, "wb").write(store)
END_OF_PYTHON
}

# sign_modules KERNEL DIR MODULE...: sign those that are not signed yet with the key in DIR.
sign_modules() {
	local kernel=$1 dir=$2 ko
	shift 2
	for ko; do
		tail -c 28 "$ko" | grep -q 'Module signature appended' ||
			"$kernel/build/scripts/sign-file" sha512 "$dir/mok.key" "$dir/mok.der" "$ko"
	done
}

# add_signed KERNEL DKMS TEMPLATE ROOT RUN: /dkms of the host gets the package's module: unsigned,
# signed with an unknown key, and signed with a key that firmware has, which signs the test modules
# too. Print the path of that firmware's variables.
add_signed() {
	local kernel=$1 module=$2/nvgrace_gpu.ko template=$3 root=$4 run=$5 which log
	log=$run/sign.log
	mkdir -p "$root/dkms"
	cp "$module" "$root/dkms/unsigned.ko"
	for which in unknown enrolled; do
		mkdir "$run/$which"
		cp "$module" "$root/dkms/$which.ko"
		(cd "$run/$which" && sign_as_documented "$kernel" "$root/dkms/$which.ko") \
			> "$log" 2>&1 || die_log "$log" "the module could not be signed"
	done
	sign_modules "$kernel" "$run/enrolled" "$root"/modules/*.ko
	write_db "$run/enrolled/mok.der" "$template" "$run/vars.fd"
	printf '%s\n' "$run/vars.fd"
}
