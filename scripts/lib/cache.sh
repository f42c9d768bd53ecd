# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# The cache holds what the scripts fetch and build. The name of each directory has a digest of its
# inputs.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/nvgrace_gpu

# Raise this number to have all of it fetched and built again.
# shellcheck disable=SC2034
RECIPE=2

# An entry may need so much free space, in MiB.
CACHE_FREE_MIB=6144

# key: print a digest of standard input, sixteen digits.
key() { sha256sum | cut -c1-16; }

# log_file NAME: print the path of a log, and make its directory.
log_file() {
	mkdir -p "$CACHE/log" || die "cannot make the cache, $CACHE"
	printf '%s\n' "$CACHE/log/$1"
}

# lock FILE: take the lock of that name, and hold it until this shell or subshell ends.
lock() {
	local fd
	exec {fd}> "$1" || die "cannot write to $CACHE"
	flock -n "$fd" && return
	# Where steps run at once, the holder prints its progress.
	[ -n "${AT_ONCE:-}" ] || say "another run holds $1, waiting"
	flock -w 3600 "$fd" || die "another run has held $1 for an hour"
}

# cached NAME MESSAGE PROGRESS COMMAND...: print the path of directory NAME of the cache.
# If it does not exist, COMMAND fills it: it gets the path as its last argument. A half-filled
# entry has another name, and a second caller waits for the first. PROGRESS is as for step, and
# finds the path in FILLING.
cached() {
	local message=$2 progress=$3 dir=$CACHE/$1 free
	shift 3
	if [ ! -d "$dir" ]; then
		mkdir -p "${dir%/*}" || die "cannot make the cache, $CACHE"
		(
			lock "$dir.lock"
			[ ! -d "$dir" ] || exit 0
			free=$(df -Pm "$CACHE" | awk 'NR == 2 { print $4 }')
			[ "$free" -ge $CACHE_FREE_MIB ] ||
				die "the disk of $CACHE has $free MiB left, $CACHE_FREE_MIB are" \
					"needed; set XDG_CACHE_HOME to use another"
			rm -rf "$dir.new"
			mkdir "$dir.new" || die "cannot write to $CACHE"
			# shellcheck disable=SC2034
			FILLING=$dir.new
			step "$message" "$progress" "$@" "$dir.new"
			mv "$dir.new" "$dir"
			rm -f "$dir.lock"
		)
	fi
	printf '%s\n' "$dir"
}
