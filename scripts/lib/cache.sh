# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# The cache: what is fetched and built, each in a directory that is named after what went in.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/nvgrace_gpu

# A change in how something is fetched or built makes a new entry of it.
# shellcheck disable=SC2034
RECIPE=2

# Bytes of free space that an entry may need, in MiB.
CACHE_FREE_MIB=6144

# key: sixteen digits for what standard input holds.
key() { sha256sum | cut -c1-16; }

# log_file NAME: the path of a log; the directory exists then.
log_file() {
	mkdir -p "$CACHE/log" || die "cannot make the cache, $CACHE"
	printf '%s\n' "$CACHE/log/$1"
}

# lock FILE: take the lock of that name, and hold it until this shell or subshell ends.
lock() {
	local fd
	exec {fd}> "$1" || die "cannot write to $CACHE"
	flock -n "$fd" && return
	# Steps at once show how far the holder is.
	[ -n "${AT_ONCE:-}" ] || say "another run holds $1, waiting"
	flock -w 3600 "$fd" || die "another run has held $1 for an hour"
}

# cached NAME MESSAGE PROGRESS COMMAND...: print the path of directory NAME of the cache.
# If it does not exist, COMMAND fills it: it gets the path as one more argument. An entry
# that is half filled never has the name, and a second caller waits for the first.
# PROGRESS is as for step, and finds the path in FILLING.
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
